"""Tasks for encoders that many tasks share: rows asked at a (user, time), perhaps about an entity.

Users and times are not held out by the task: its rows carry the time of the query and when the label became
known, and whoever trains cuts by these.
"""

from dataclasses import dataclass
from typing import Literal

import polars as pl

TaskKind = Literal["pair", "ranking", "class"]


@dataclass(frozen=True, kw_only=True, eq=False)
class EntityTask:
    """Labelled rows of one task.

    Attributes:
        name: what reports call the task.
        kind: "pair": the label is 0 or 1, of a user and an entity; "ranking": -1 or +1, of an item with
            ranking features; "class": a class's number, of the user alone.
        rows: ``user_id``, ``time`` of the query, ``contexts``, the entity, ``label`` (Float32), ``weight`` in
            the loss (Float32), ``known_time`` of the label, and ``features`` (Float32); by time, then user,
            then entity. An input may read what was known strictly before ``time``.
        entity: the column that names the entity; None where the task asks about the user alone.
        contexts: columns that describe the query, such as the tab.
        features: columns of ranking features.
        num_classes: of a task of kind "class", 0 otherwise.
        notes: what was left out, counted or chosen: print it beside results.

    """

    name: str
    kind: TaskKind
    rows: pl.DataFrame
    entity: str | None = None
    contexts: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    num_classes: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ("pair", "ranking", "class"):
            raise ValueError(f'kind must be "pair", "ranking" or "class", got {self.kind!r}')
        named = ("user_id", "time", *self.contexts, *([self.entity] if self.entity else []))
        wanted = (*named, "label", "weight", "known_time", *self.features)
        if tuple(self.rows.columns) != wanted:
            raise ValueError(
                f"the rows of task {self.name!r} have the columns {self.rows.columns}, wanted {list(wanted)}"
            )
        early = self.rows.filter(pl.col("known_time") < pl.col("time")).height
        if early:
            raise ValueError(
                f"task {self.name!r}: {early} labels are known before their query: its history may tell them"
            )


def make_rows(
    frame: pl.DataFrame,
    *,
    entity: str | None = None,
    contexts: tuple[str, ...] = (),
    features: tuple[str, ...] = (),
) -> pl.DataFrame:
    """Return the columns of :class:`EntityTask`'s rows in their order; a missing ``weight`` is 1."""
    if "weight" not in frame.columns:
        frame = frame.with_columns(weight=pl.lit(1.0))
    order = ["time", "user_id", *([entity] if entity else []), *contexts]
    return frame.sort(order, maintain_order=True).select(
        "user_id",
        "time",
        *contexts,
        *([entity] if entity else []),
        pl.col("label").cast(pl.Float32),
        pl.col("weight").cast(pl.Float32),
        "known_time",
        *features,
    )
