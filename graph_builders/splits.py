"""Impressions to score, and splits by global time: one set of cut-off times for all users."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timezone
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from graph_builders.events import UNITS_PER_SECOND, EventLogError, Resolution

if TYPE_CHECKING:
    from graph_builders.ids import IdMap


@dataclass(frozen=True, eq=False)
class Impressions:
    """Labelled (user, item, time) rows to score, in the order given.

    Attributes:
        user: user rows of the graph.
        item: item rows of the graph.
        time: when the item was shown, unix time in ``time_resolution``.
        label: 1 for a positive, else 0.
        context: further columns, one value for each row.
        time_resolution: unit of the times, "s" or "ms".

    """

    user: Int64[Tensor, " num_impressions"]
    item: Int64[Tensor, " num_impressions"]
    time: Int64[Tensor, " num_impressions"]
    label: Float32[Tensor, " num_impressions"]
    context: dict[str, Tensor] = field(default_factory=dict)
    time_resolution: Resolution = "s"

    def __post_init__(self) -> None:
        columns = {"item": self.item, "time": self.time, "label": self.label, **self.context}
        for name, column in columns.items():
            if len(column) != len(self.user):
                raise ValueError(f"{name} has {len(column)} values for {len(self.user)} users: give one each")

    def __len__(self) -> int:
        return len(self.user)

    @property
    def device(self) -> torch.device:
        """Where the columns lie."""
        return self.user.device

    def select(self, rows: Bool[Tensor, " num_impressions"] | Int64[Tensor, " num_rows"]) -> "Impressions":
        """Return the rows of a mask or an index, in that order."""
        return self._map(lambda column: column[rows])

    def between(self, start: int, end: int) -> "Impressions":
        """Return the rows with ``start <= time < end``."""
        return self.select((self.time >= start) & (self.time < end))

    def to(self, device: torch.device | str) -> "Impressions":
        """Copy to another device."""
        return self._map(lambda column: column.to(device))

    def _map(self, function: "ColumnFunction") -> "Impressions":
        return replace(
            self,
            user=function(self.user),
            item=function(self.item),
            time=function(self.time),
            label=function(self.label),
            context={name: function(column) for name, column in self.context.items()},
        )

    def __repr__(self) -> str:
        return f"Impressions({len(self)} rows, context={sorted(self.context)}, device={self.device})"


if TYPE_CHECKING:
    from collections.abc import Callable

    ColumnFunction = Callable[[Tensor], Tensor]


def build_impressions(
    frame: pl.DataFrame,
    *,
    user_ids: "IdMap",
    item_ids: "IdMap",
    label: str = "label",
    context: Sequence[str] = (),
    time_resolution: Resolution = "s",
) -> Impressions:
    """Map a frame with ``user_id``, ``item_id``, ``time``, a label and contexts to rows of a graph.

    An ID that the graph does not know maps to the unseen row. Integer and boolean contexts become
    int64, floats float32; text must be made a number first.

    Raises:
        EventLogError: a column is missing or holds a null, or a label is neither 0 nor 1.

    """
    wanted = ["user_id", "item_id", "time", label, *context]
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise EventLogError(f"impressions lack the columns {missing}, there are {frame.columns}")
    for name in wanted:
        if frame[name].null_count():
            first = int(frame[name].is_null().arg_true()[0]) + 1
            count = frame[name].null_count()
            raise EventLogError(
                f"impressions: column {name!r} is null in {count} rows, first in row {first}: fill it"
            )
    labels = frame[label].cast(pl.Float32).to_numpy()
    if not np.isin(labels, (0, 1)).all():
        raise EventLogError(f"impressions: labels must be 0 or 1, got {np.unique(labels)[:5].tolist()}")
    return Impressions(
        user=user_ids.rows(frame["user_id"]),
        item=item_ids.rows(frame["item_id"]),
        time=torch.from_numpy(frame["time"].cast(pl.Int64).to_numpy().copy()),
        label=torch.from_numpy(labels.copy()),
        context={name: _context_tensor(frame[name]) for name in context},
        time_resolution=time_resolution,
    )


def period_start(time: Int64[Tensor, "..."], length: int, *, utc_offset: int = 0) -> Int64[Tensor, "..."]:
    """Floor times to the start of their period; period p is ``[start, start + length)``.

    Args:
        time: unix times.
        length: length of a period in the unit of the times, e.g. 3,600 for hours in seconds.
        utc_offset: local time minus UTC, in the same unit: days then begin at the local midnight.

    """
    if length <= 0:
        raise ValueError(f"a period must be longer than 0, got {length}")
    return torch.div(time + utc_offset, length, rounding_mode="floor") * length - utc_offset


def day_bounds(
    day: str | date, *, utc_offset_hours: int | float = 0, time_resolution: Resolution = "s"
) -> tuple[int, int]:
    """Return the first time of a local day and the first time of the next one.

    >>> day_bounds("2022-05-08", utc_offset_hours=8)
    (1651939200, 1652025600)

    Raises:
        ValueError: the text is no day.

    """
    try:
        parsed = date.fromisoformat(day) if isinstance(day, str) else day
    except ValueError as error:
        raise ValueError(f"{day!r} is no day: write one such as '2022-05-08'") from error
    midnight = datetime(parsed.year, parsed.month, parsed.day, tzinfo=timezone.utc)  # noqa: UP017
    start = int(midnight.timestamp()) - round(utc_offset_hours * 3600)
    units = UNITS_PER_SECOND[time_resolution]
    return start * units, (start + 86_400) * units


def periods(start: int, end: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield the bounds of the periods of ``[start, end)``, half-open; the last may be short.

    Raises:
        ValueError: ``length`` is not positive, or ``end`` lies before ``start``.

    """
    if length <= 0:
        raise ValueError(f"a period must be longer than 0, got {length}")
    if end < start:
        raise ValueError(f"the end {end} lies before the start {start}: swap them")
    return ((first, min(first + length, end)) for first in range(start, end, length))


@dataclass(frozen=True, eq=False)
class TimeSplit:
    """Impressions cut at global times: part i holds ``cutoffs[i - 1] <= time < cutoffs[i]``."""

    parts: tuple[Impressions, ...]
    cutoffs: tuple[int, ...]

    def named(self, *names: str) -> Mapping[str, Impressions]:
        """Name the parts, e.g. ``split.named("train", "validation", "test")``."""
        if len(names) != len(self.parts):
            raise ValueError(f"there are {len(self.parts)} parts, got {len(names)} names: {names}")
        return dict(zip(names, self.parts, strict=True))


def split_by_time(impressions: Impressions, cutoffs: Sequence[int]) -> TimeSplit:
    """Cut impressions at global cut-off times, the same for every user.

    A row at a cut-off time belongs to the later part. Rows keep their order inside a part.

    Raises:
        ValueError: no cut-off was given, they do not rise, or their unit cannot be that of the times.

    """
    cutoffs = tuple(int(cutoff) for cutoff in cutoffs)
    if not cutoffs or any(late <= early for early, late in pairwise(cutoffs)):
        raise ValueError(f"cut-off times must be given and rise strictly, got {cutoffs}")
    if len(impressions):
        low, high = int(impressions.time.min()), int(impressions.time.max())
        if cutoffs[0] > 100 * max(high, 1) or (low > 0 and cutoffs[-1] < low // 100):
            raise ValueError(
                f"cut-offs {cutoffs} and times [{low}, {high}] have different units: "
                f"the times are in {impressions.time_resolution!r}"
            )
    part = torch.bucketize(impressions.time, torch.tensor(cutoffs, device=impressions.device), right=True)
    parts = tuple(impressions.select(part == index) for index in range(len(cutoffs) + 1))
    return TimeSplit(parts, cutoffs)


def _context_tensor(column: pl.Series) -> Tensor:
    if column.dtype.is_integer() or column.dtype == pl.Boolean:
        return torch.from_numpy(column.cast(pl.Int64).to_numpy().copy())
    if column.dtype.is_float():
        return torch.from_numpy(column.cast(pl.Float32).to_numpy().copy())
    raise EventLogError(f"context {column.name!r} has type {column.dtype}: encode it as a number first")
