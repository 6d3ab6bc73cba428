"""The events that a ranker takes: checked frames, lines of the log, and rows of the graph."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from graph_builders.events import EventLogError
from graph_builders.ids import IdMap, as_id_series
from graphrec.serving.counts import CountedEvents, CountPlan
from graphrec.serving.day_folder import DayConfig

_LOG_COLUMNS = ("user_id", "item_id", "time", "behavior", "domain")


def check_events(events: pl.DataFrame | Any, config: DayConfig, ids: Mapping[str, IdMap]) -> pl.DataFrame:
    """Return the events with the log's own types, ``available_time`` filled; rows keep their order.

    Args:
        events: columns ``user_id``, ``item_id``, ``time``, ``behavior``, ``domain``, those of
            ``config.event_columns`` (whole numbers; a null stays unknown), and, optionally,
            ``available_time``.
        config: of the day.
        ids: ID maps by node type; an unknown ID is no error.

    Raises:
        EventLogError: no frame, a column is missing, superfluous or of another type, a null, a number beyond
            64 bits, a pair of domain and behaviour that the day's folder does not know, an event that is
            known before it happens, an impression whose context the model has no field for. Rows are counted
            from 1.

    """
    if not isinstance(events, pl.DataFrame):
        kind = type(events).__name__
        remedy = "collect it" if isinstance(events, pl.LazyFrame) else "make one of it"
        raise EventLogError(f"events must be a polars DataFrame, got {kind}: {remedy}")
    wanted = (*_LOG_COLUMNS, *config.event_columns)
    missing = [name for name in wanted if name not in events.columns]
    if missing:
        raise EventLogError(f"events lack the columns {missing}; there are {events.columns}")
    unknown = [name for name in events.columns if name not in (*wanted, "available_time")]
    if unknown:
        raise EventLogError(f"events have columns {unknown} that nothing reads: leave them out")
    for name in ("time", "available_time", *config.event_columns):
        if name in events.columns and not (
            events.schema[name].is_integer() or events.schema[name] == pl.Null
        ):
            raise EventLogError(f"events: {name!r} must hold whole numbers, got {events.schema[name]}")
    for name in ("behavior", "domain"):
        if events.schema[name] not in (pl.String, pl.Categorical, pl.Enum, pl.Null):
            raise EventLogError(f"events: {name!r} must hold text, got {events.schema[name]}")
    for name in _LOG_COLUMNS:
        if events[name].null_count():
            row = int(events[name].is_null().arg_true()[0]) + 1
            raise EventLogError(f"events: {name!r} is null in row {row}: fill it or leave the row out")
    time = _whole_numbers(events, "time")
    known = _whole_numbers(events, "available_time") if "available_time" in events.columns else time
    frame = events.select(
        _ids(events, "user_id"),
        _ids(events, "item_id"),
        time,
        pl.col("behavior", "domain").cast(pl.String),
        known.zip_with(known.is_not_null(), time).alias("available_time"),
        *(_whole_numbers(events, name) for name in config.event_columns),
    )
    for name, id_map in (("user_id", ids["user"]), ("item_id", ids["item"])):
        if len(frame) and frame.schema[name] != id_map.id_series.dtype:
            raise EventLogError(
                f"events: {name!r} has type {frame.schema[name]}, the day's folder knows IDs of type "
                f"{id_map.id_series.dtype}: cast them"
            )
    pairs = frame.select("domain", "behavior").unique()
    strange = [pair for pair in pairs.rows() if pair not in config.known_relations]
    if strange:
        first = (frame["domain"] == strange[0][0]) & (frame["behavior"] == strange[0][1])
        raise EventLogError(
            f"events: (domain, behaviour) {sorted(strange)} are not known to the day's folder, which has "
            f"{list(config.known_relations)}; {strange[0]} is in row {int(first.arg_true()[0]) + 1}"
        )
    early = frame["available_time"] < frame["time"]
    if early.any():
        raise EventLogError(f"events: row {int(early.arg_true()[0]) + 1} is known before it happens")
    _check_contexts(frame, config)
    return frame


def is_impression(config: DayConfig) -> pl.Expr:
    """Return which events are impressions to learn from."""
    return pl.col("domain").is_in(config.label_domains) & pl.col("behavior").is_in(
        [config.clicked, config.skipped]
    )


def _check_contexts(frame: pl.DataFrame, config: DayConfig) -> None:
    """Raise for an impression with a value that the model has no embedding of, as nothing can be learned."""
    for name, size in zip(config.contexts, config.sizes.context_fields, strict=True):
        if name == "hour":
            continue
        strange = frame.select(is_impression(config) & ~pl.col(name).is_between(0, size - 1).fill_null(False))
        if strange.to_series().any():
            row = int(strange.to_series().arg_true()[0])
            raise EventLogError(
                f"events: {name!r} is {frame[name][row]} in row {row + 1}, an impression; the model knows "
                f"values from 0 to {size - 1}"
            )


def _whole_numbers(events: pl.DataFrame, name: str) -> pl.Series:
    """Return a column of whole numbers as Int64."""
    column = events[name].cast(pl.Int64, strict=False)
    beyond = column.is_null() & events[name].is_not_null()
    if beyond.any():
        row = int(beyond.arg_true()[0])
        raise EventLogError(
            f"events: {name!r} is {events[name][row]} in row {row + 1}, more than 64 bits with a sign hold"
        )
    return column


def _ids(events: pl.DataFrame, name: str) -> pl.Series:
    """Return a column of IDs as ID maps have them."""
    column = events[name]
    if column.dtype.is_integer():
        return _whole_numbers(events, name)
    if column.dtype.is_float():
        strange = ~(column.is_finite() & (column == column.floor()) & (column.abs() < 2**53))
        if strange.any():
            row = int(strange.arg_true()[0])
            raise EventLogError(
                f"events: {name!r} is {column[row]} in row {row + 1}, no whole number that is held exactly: "
                "give IDs as integers or strings"
            )
    try:
        return as_id_series(column)
    except ValueError as error:
        raise EventLogError(f"events: {name!r}: {error}") from error


def event_schema(config: DayConfig, ids: Mapping[str, IdMap]) -> Mapping[str, Any]:
    """Return the columns of a checked frame and their types."""
    return {
        "user_id": ids["user"].id_series.dtype,
        "item_id": ids["item"].id_series.dtype,
        "time": pl.Int64(),
        "behavior": pl.String(),
        "domain": pl.String(),
        "available_time": pl.Int64(),
        **{name: pl.Int64() for name in config.event_columns},
    }


def encode_lines(frame: pl.DataFrame) -> bytes:
    """Return checked events as JSON lines."""
    buffer = io.BytesIO()
    frame.write_ndjson(buffer)
    return buffer.getvalue()


def decode_lines(lines: bytes, schema: Mapping[str, Any]) -> pl.DataFrame:
    """Read what :func:`encode_lines` returned, of any number of frames after each other."""
    if not lines:
        return pl.DataFrame(schema=dict(schema))
    return pl.read_ndjson(io.BytesIO(lines), schema=dict(schema))


def counted_events(
    frame: pl.DataFrame, config: DayConfig, ids: Mapping[str, IdMap], plan: CountPlan
) -> CountedEvents:
    """Return checked events as past counts take them."""
    assert config.counts is not None
    user = ids["user"].rows(frame["user_id"]).numpy()
    pairs = pl.DataFrame(
        {"domain": [p[0] for p in plan.pairs], "behavior": [p[1] for p in plan.pairs]},
        schema={"domain": pl.String, "behavior": pl.String},
    ).with_row_index("kind")
    kind = frame.select("domain", "behavior").join(
        pairs, on=["domain", "behavior"], how="left", maintain_order="left"
    )["kind"]
    return CountedEvents(
        user=np.where(user == ids["user"].unseen_row, -1, user),
        item=ids["item"].rows(frame["item_id"]).numpy(),
        known_time=frame["available_time"].to_numpy().copy(),
        kind=kind.cast(pl.Int64).fill_null(-1).to_numpy().copy(),
        columns=column_values(frame, config.counts.event_columns),
    )


def column_values(frame: pl.DataFrame, names: tuple[str, ...]) -> np.ndarray:
    """Return whole-number columns side by side, (rows, columns); -1 where null."""
    columns = [frame[name].fill_null(-1).to_numpy().astype(np.int64) for name in names]
    return np.stack(columns, axis=1) if columns else np.zeros((len(frame), 0), np.int64)
