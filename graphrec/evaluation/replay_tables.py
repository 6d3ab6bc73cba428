"""What the replay protocol reads: rows and events as polars frames, their times as whole ticks, periods."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta, timezone
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from jaxtyping import Bool, Int64

TimeUnit = Literal["s", "ms", "us", "ns"]
Moment = Any  # an int in the unit of the times, a date or datetime, or an ISO 8601 text

TICKS_PER_SECOND: Mapping[str, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400}
_FAR_FUTURE = 10**11  # unix seconds of the year 5138; milliseconds of 1973
_YEAR_2000 = 946_684_800  # seconds


class ReplayError(ValueError):
    """What is wrong with rows, events or a model's scores: the column, period, row and remedy."""


@dataclass(frozen=True, order=True)
class Period:
    """The times ``start <= time < end``, in the unit of the rows' times."""

    start: int
    end: int


@dataclass(frozen=True)
class Clock:
    """How a column tells the time: whole ticks since 1970-01-01 UTC, and the type that shows them."""

    ticks_per_second: int
    dtype: Any = None
    """None: whole numbers; else the ``pl.Datetime`` whose ticks these are."""

    @classmethod
    def of(cls, column: pl.Series, time_unit: TimeUnit, name: str) -> "Clock":
        """Find out how ``column`` tells the time; ``time_unit`` is the unit of whole numbers."""
        dtype = column.dtype
        if isinstance(dtype, pl.Date):
            return cls(TICKS_PER_SECOND["ms"], pl.Datetime("ms"))
        if isinstance(dtype, pl.Datetime):
            return cls(TICKS_PER_SECOND[dtype.time_unit], dtype)
        if not dtype.is_integer():
            raise ReplayError(
                f"{name}: times are whole numbers or dates and times, got {dtype}: cast or parse the column"
            )
        if time_unit not in TICKS_PER_SECOND:
            raise ReplayError(f"time_unit must be one of {get_args(TimeUnit)}, got {time_unit!r}")
        largest = column.max()
        if time_unit == "s" and isinstance(largest, int) and largest > _FAR_FUTURE:
            raise ReplayError(
                f"{name}: the time {largest} is no unix time in seconds: say time_unit='ms', 'us' or 'ns'"
            )
        smallest = column.min()
        if time_unit != "s" and isinstance(smallest, int) and isinstance(largest, int):
            seconds = smallest > _YEAR_2000 and largest < _FAR_FUTURE
            if seconds:  # in milliseconds all rows would lie within some weeks of 1970
                raise ReplayError(
                    f"{name}: times from {smallest} to {largest} are unix times in seconds, not in "
                    f"{time_unit}: say time_unit='s'"
                )
        return cls(TICKS_PER_SECOND[time_unit])

    def ticks(self, column: pl.Series, name: str) -> Int64[np.ndarray, " num_rows"]:
        """Return the column's times as whole ticks.

        Raises:
            ReplayError: a time is missing.

        """
        if column.null_count():
            row = int(column.is_null().arg_true()[0])
            raise ReplayError(
                f"{name}: {column.null_count()} times are missing, first in row {row} (from 0): fill them"
            )
        return (column if self.dtype is None else column.cast(self.dtype)).cast(pl.Int64).to_numpy()

    def tick(self, moment: Moment, name: str) -> int:
        """Return a moment as ticks: a whole number is one, a date or text without a zone is the column's."""
        if isinstance(moment, int | np.integer) and not isinstance(moment, bool):
            return int(moment)
        if isinstance(moment, str):
            try:
                moment = datetime.fromisoformat(moment)
            except ValueError as error:
                raise ReplayError(
                    f"{name}={moment!r} is no ISO date and time such as 2022-05-08T00:00"
                ) from error
        if isinstance(moment, date) and not isinstance(moment, datetime):
            moment = datetime.combine(moment, time())
        if not isinstance(moment, datetime):
            raise ReplayError(
                f"{name} must be a whole number, a date and time or an ISO text, got {moment!r}"
            )
        if moment.tzinfo is None:
            zone = self.dtype.time_zone if self.dtype is not None else None
            moment = moment.replace(tzinfo=timezone.utc if zone is None else ZoneInfo(zone))  # noqa: UP017
        since = moment - datetime(1970, 1, 1, tzinfo=timezone.utc)  # noqa: UP017
        microseconds = (since.days * 86_400 + since.seconds) * 10**6 + since.microseconds
        return microseconds * self.ticks_per_second // 10**6

    def length(self, period: str | int | float | timedelta, name: str) -> int:
        """Return a length ("1h", "15min", "1d", a timedelta, or a number of seconds) in ticks, at least 1."""
        if isinstance(period, str):
            parts = re.fullmatch(r"\s*(\d+)\s*([a-z]+)\s*", period)
            if parts is None or parts[2] not in _SECONDS:
                raise ReplayError(
                    f"{name}={period!r} must be a number and one of {[*_SECONDS]}, such as '1h'"
                )
            seconds: float = int(parts[1]) * _SECONDS[parts[2]]
        else:
            seconds = period.total_seconds() if isinstance(period, timedelta) else period
        ticks = seconds * self.ticks_per_second
        if not ticks >= 1 or ticks != round(ticks):
            raise ReplayError(
                f"{name}={period!r} is no whole number of the times' unit above 0: make it longer"
            )
        return round(ticks)

    def column(self, name: str, ticks: Int64[np.ndarray, " num_rows"]) -> pl.Series:
        """Return ticks as a column of the times' own type."""
        series = pl.Series(name, ticks, dtype=pl.Int64)
        return series if self.dtype is None else series.cast(self.dtype)

    def shown(self, period: Period) -> str:
        """Name a period for a message."""
        start, end = self.column("", np.array([period.start, period.end])).to_list()
        return f"[{start}, {end})"


def as_table(source: Any, name: str) -> pl.DataFrame:
    """Return a polars or pandas frame, or a mapping of names to arrays, as a polars frame.

    Raises:
        ReplayError: the source is something else, or its columns differ in length.

    """
    if isinstance(source, pl.LazyFrame):
        source = source.collect()
    if isinstance(source, pl.DataFrame):
        return source
    if type(source).__module__.split(".")[0] == "pandas":
        return pl.from_pandas(source)
    if not isinstance(source, Mapping):
        raise ReplayError(
            f"{name} must be a polars or pandas frame or a mapping of names to arrays, "
            f"got {type(source).__name__}"
        )
    columns = {
        key: values if isinstance(values, pl.Series) else np.asarray(values) for key, values in source.items()
    }
    for key, values in columns.items():
        if len(values.shape) != 1:
            raise ReplayError(f"{name}: column {key!r} has shape {values.shape}: give one value a row")
    lengths = {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ReplayError(f"{name}: columns differ in length: {lengths}")
    return pl.DataFrame({key: _series(key, values) for key, values in columns.items()})


def _series(name: str, values: Any) -> pl.Series:
    if isinstance(values, pl.Series):
        return values
    return pl.Series(name, values.tolist() if values.dtype == object else values.copy())


def check_columns(table: pl.DataFrame, wanted: list[str], name: str) -> None:
    """Raise where a column is missing."""
    missing = [column for column in wanted if column not in table.columns]
    if missing:
        raise ReplayError(f"{name} lack the columns {missing}, there are {table.columns}")


@dataclass(frozen=True)
class EventTable:
    """An event log as a frame, and when each event became known.

    Attributes:
        frame: the events as given.
        known: when each became known, in ticks of the rows' clock: ``available_time``, or the time itself.
        log: the ``EventLog`` that the frame belongs to, or None.
        clock: how the events themselves tell the time.
        time: name of the time column.

    """

    frame: pl.DataFrame
    known: Int64[np.ndarray, " num_events"]
    log: Any
    clock: Clock
    time: str

    @classmethod
    def of(cls, events: Any, rows_clock: Clock, time: str, time_unit: TimeUnit) -> "EventTable":
        """Read an ``EventLog``, or a frame with ``time`` and, optionally, ``available_time``."""
        log = events if hasattr(events, "time_resolution") and hasattr(events, "frame") else None
        frame = as_table(events if log is None else log.frame, "events")
        name, unit = ("time", log.time_resolution) if log is not None else (time, time_unit)
        check_columns(frame, [name], "events")
        clock = Clock.of(frame[name], unit, f"events, column {name!r}")
        happened = clock.ticks(frame[name], f"events, column {name!r}")
        known = happened
        if "available_time" in frame.columns:
            column = frame["available_time"]
            there = Clock.of(column, unit, "events, column 'available_time'")
            if there.ticks_per_second != clock.ticks_per_second:
                raise ReplayError(
                    f"events: {name!r} and 'available_time' differ in their unit: cast one of them"
                )
            missing: Bool[np.ndarray, " num_events"] = column.is_null().to_numpy()
            filled = column.fill_null(strategy="min") if missing.any() and not missing.all() else column
            if not missing.all():
                known = np.where(missing, happened, there.ticks(filled, "events, column 'available_time'"))
        if (known < happened).any():
            row = int(np.argmax(known < happened))
            raise ReplayError(f"events: row {row} (from 0) is known before it happens: mend 'available_time'")
        return cls(frame, _in_ticks_of(rows_clock, clock, known), log, clock, name)

    def chosen(self, index: Int64[np.ndarray, " num_chosen"]) -> Any:
        """Return a copy of the chosen events, as an ``EventLog`` where one was given."""
        return self.with_frame(self.frame[index])

    def with_frame(self, frame: pl.DataFrame) -> Any:
        """Return ``frame`` in the form in which the events were given."""
        return frame if self.log is None else replace(self.log, frame=frame)

    def first_tick_known_from(self, start: int, rows_clock: Clock) -> int:
        """Return the events' first tick that lies at or after ``start``, a tick of the rows."""
        return math.ceil(start * self.clock.ticks_per_second / rows_clock.ticks_per_second)


def _in_ticks_of(
    rows_clock: Clock, clock: Clock, known: Int64[np.ndarray, " num_events"]
) -> Int64[np.ndarray, " num_events"]:
    """Turn times of one clock into ticks of another; a coarse time counts as known at its last moment."""
    ours, theirs = rows_clock.ticks_per_second, clock.ticks_per_second
    if ours >= theirs:
        factor = ours // theirs
        return known * factor + (factor - 1)
    return known // (theirs // ours)
