"""Times of any form as milliseconds since 1970 (UTC), and the shift of a time zone at each of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Int64

from graphrec.evaluation.reading.errors import Locates, PredictionsError, Problems

TimeUnit = Literal["auto", "s", "ms", "us", "ns"]
MILLISECONDS_PER_HOUR = 3_600_000
_DAY = 86_400_000
_EARLIEST, _LATEST = 631_152_000_000, 4_102_444_800_000  # 1990-01-01 and 2100-01-01 UTC
_UNITS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_UNIT_IN_WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_FIXED_OFFSET = re.compile(r"(?:UTC|GMT)?([+-])(\d{1,2})(?::?(\d{2}))?")
_WITH_ZONE = r"(?i)(z|[+-]\d{2}:?\d{2})$"


class Zone:
    """A time zone as the instants where its shift from UTC changes, from 1990 to 2100.

    Args:
        name: an IANA name such as ``Asia/Shanghai``, or a fixed shift such as ``+08:00``.

    Raises:
        PredictionsError: an unknown name.

    """

    def __init__(self, name: str) -> None:
        self.name = name
        fixed = _FIXED_OFFSET.fullmatch(name)
        if not name:  # an empty name would be no zone rather than an unknown one
            raise _unknown_zone(name)
        if fixed:
            sign, hours, minutes = fixed.groups()
            shift = (int(hours) * 60 + int(minutes or 0)) * 60_000 * (-1 if sign == "-" else 1)
            if int(hours) > 15 or int(minutes or 0) > 59:
                raise PredictionsError(f"--time-zone {name}: a fixed shift lies between -15:59 and +15:59")
            self.changes, self.shifts = np.empty(0, np.int64), np.array([shift])
        else:
            self.changes, self.shifts = self._find_changes()

    def shift(self, time: Int64[np.ndarray, " num_rows"]) -> np.ndarray | np.int64:
        """Return milliseconds to add to UTC for local time, one for all rows where it is the same."""
        if not len(time):
            return np.int64(0)
        first = np.searchsorted(self.changes, time.min(), side="right")
        if first == np.searchsorted(self.changes, time.max(), side="right"):
            return self.shifts[first]
        return self.shifts[np.searchsorted(self.changes, time, side="right")]

    def _find_changes(self) -> tuple[np.ndarray, np.ndarray]:
        # No zone changes its shift twice within a day after 1990, so days are enough to see each change,
        # and halving the day finds its second.
        days = np.arange(_EARLIEST, _LATEST + _DAY, _DAY)
        shift = self._ask(days)
        changed = np.flatnonzero(np.diff(shift))
        before, after = days[changed], days[changed + 1]
        while len(before) and (after - before).max() > 1:
            middle = (before + after) // 2
            still = self._ask(middle) == shift[changed]
            before, after = np.where(still, middle, before), np.where(still, after, middle)
        return after, np.concatenate([shift[:1], shift[changed + 1]])

    def _ask(self, time: np.ndarray) -> np.ndarray:
        instants = pl.Series(time).cast(pl.Datetime("ms", "UTC"))
        try:
            local = instants.dt.convert_time_zone(self.name).dt.replace_time_zone(None)
        except pl.exceptions.PolarsError as error:
            raise _unknown_zone(self.name) from error
        return local.cast(pl.Int64).to_numpy() - time


def _unknown_zone(name: str) -> PredictionsError:
    return PredictionsError(
        f"--time-zone {name!r} is not a time zone: take an IANA name such as Asia/Shanghai, or a shift such "
        "as +08:00"
    )


@dataclass
class TimeColumn:
    """Turns the chunks of one column of times into milliseconds since 1970 (UTC).

    Attributes:
        column: its name.
        unit: of numbers; ``auto`` is settled by the first value and holds for all.
        form: how times are written, in words; empty before the first chunk.

    """

    column: str
    unit: TimeUnit
    form: str = ""
    _num_zoned: int = 0
    _num_plain: int = 0
    _num_timed: int = 0

    def in_words(self) -> str:
        """Say how times are written, after the last chunk."""
        if not self._num_zoned + self._num_plain:
            return self.form
        if not self._num_timed:
            return "dates written as text, without a time of day: all rows of a day fall into hour 00"
        zones = "with their shift from UTC" if self._num_zoned else "without a zone, read as UTC"
        if self._num_zoned and self._num_plain:
            zones = f"some with their shift from UTC, {self._num_plain:,} without a zone, read as UTC"
        return f"{self.form}, {zones}"

    def milliseconds(
        self, values: pl.Series, source: Locates, problems: Problems, offset: int
    ) -> Int64[np.ndarray, " num_rows"]:
        """Return the times of a chunk, rounded down; a wrong one goes to ``problems`` and becomes 1990."""
        dtype = values.dtype
        missing = values.is_null().to_numpy()
        if dtype.is_float():
            missing |= values.is_nan().fill_null(True).to_numpy()
        if missing.any():
            problems.add_where(
                source,
                self.column,
                missing,
                values,
                offset,
                text="a time is missing",
                remedy="drop these rows knowingly or fill them",
            )
        if dtype == pl.String or isinstance(dtype, pl.Categorical | pl.Enum):
            time, missing = self._of_text(values.cast(pl.String), source, problems, offset)
        elif dtype == pl.Date:
            self._say("dates without a time of day: all rows of a day fall into hour 00")
            time = values.cast(pl.Datetime("ms")).cast(pl.Int64).fill_null(_EARLIEST).to_numpy()
        elif isinstance(dtype, pl.Datetime):
            zone = dtype.time_zone
            self._say(f"date-times of {zone}" if zone else "date-times without a zone, read as UTC")
            # first as wide as it is, so that times before 1970 are rounded down
            per_ms = {"ms": 1, "us": 1_000, "ns": 1_000_000}[dtype.time_unit]
            time = values.cast(pl.Int64).fill_null(_EARLIEST * per_ms).to_numpy() // per_ms
        elif dtype.is_numeric():
            time = self._of_numbers(values, missing, source, problems, offset)
        else:
            raise PredictionsError(
                f"column {self.column!r} holds {dtype}, not times: numbers, date-times, dates or ISO 8601 "
                f'text are read; --time names another column and --time "" none'
            )
        outside = ((time < _EARLIEST) | (time >= _LATEST)) & ~missing
        if outside.any():
            problems.add_where(
                source, self.column, outside, values, offset,
                text="a time lies outside 1990 to 2100", remedy=self._unit_remedy(values, outside),
            )  # fmt: skip
        wrong = outside | missing
        return np.where(wrong, _EARLIEST, time) if wrong.any() else time

    def _say(self, form: str) -> None:
        self.form = self.form or form

    def _of_numbers(
        self, values: pl.Series, missing: np.ndarray, source: Locates, problems: Problems, offset: int
    ) -> np.ndarray:
        present = np.flatnonzero(~missing)
        if not self.form and len(present):
            first = float(values[int(present[0])])
            if self.unit == "auto":
                fitting = _fitting_units([first])
                if not fitting:
                    raise PredictionsError(
                        f"{source.locate(offset + int(present[0]))}, column {self.column!r}: {_shown(first)} "
                        f"is no time from 1990 to 2100 in s, ms, us or ns{_as_calendar_date(first)}; --time "
                        'names another column, --time "" none'
                    )
                self.unit = fitting[0]
                self._say(
                    f"in {_UNIT_IN_WORDS[self.unit]} (values near {first:.3g}; --time-unit says otherwise)"
                )
            else:
                self._say(f"in {_UNIT_IN_WORDS[self.unit]}")
        if self.unit == "auto":  # nothing but missing values so far
            return np.full(len(values), _EARLIEST)
        per_second = _UNITS_PER_SECOND[self.unit]
        if values.dtype.is_integer():
            numbers = values.cast(pl.Int64, strict=False).fill_null(0).to_numpy()
            if per_second >= 1000:
                return numbers // (per_second // 1000)
            return np.clip(numbers, -(10**12), 10**12) * 1000
        scaled = values.cast(pl.Float64).fill_null(0.0).fill_nan(0.0).to_numpy() * (1000 / per_second)
        return np.floor(np.clip(scaled, -1e15, 1e15)).astype(np.int64)

    def _of_text(
        self, values: pl.Series, source: Locates, problems: Problems, offset: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read ISO 8601, or numbers where the first value is one; also return which rows have no time."""
        values = values.str.strip_chars()
        if not self.form:
            first = values.drop_nulls().head(1)
            numbers = bool(len(first)) and first.cast(pl.Float64, strict=False).null_count() == 0
        else:
            numbers = self.form.startswith("in ")
        if numbers:
            parsed = values.cast(pl.Int64, strict=False)
            if parsed.null_count() > values.null_count():
                parsed = values.cast(pl.Float64, strict=False)
            self._report_text(values, parsed, source, problems, offset)
            unread = ~parsed.cast(pl.Float64).is_finite().fill_null(False).to_numpy()
            return self._of_numbers(parsed, unread, source, problems, offset), unread
        with_zone = values.str.contains(_WITH_ZONE) & values.str.contains(":")
        plain = values.str.replace("T", " ", literal=True)
        frame = pl.DataFrame({"v": plain, "zone": with_zone})
        zoned = pl.col("v").str.replace(r"(?i)z$", "+00:00")
        parsed = frame.select(
            pl.when("zone")
            .then(
                pl.coalesce(
                    *(
                        zoned.str.to_datetime(form, time_unit="us", time_zone="UTC", strict=False)
                        for form in ("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M%#z")
                    )
                )
            )
            .otherwise(
                pl.coalesce(
                    *(
                        pl.col("v").str.to_datetime(form, time_unit="us", strict=False)
                        for form in ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M")
                    ),
                    pl.col("v").str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")),
                ).dt.replace_time_zone("UTC")
            )
            .alias("t")
        )["t"]
        self._say("date-times written as text")
        zoned_rows = int(with_zone.sum())
        self._num_zoned += zoned_rows
        self._num_plain += len(values) - values.null_count() - zoned_rows
        self._num_timed += int(values.str.contains(":").sum())
        self._report_text(values, parsed, source, problems, offset)
        unread = parsed.is_null().to_numpy()
        return parsed.cast(pl.Int64).fill_null(_EARLIEST * 1000).to_numpy() // 1000, unread

    def _report_text(
        self, values: pl.Series, parsed: pl.Series, source: Locates, problems: Problems, offset: int
    ) -> None:
        unread = parsed.is_null() if parsed.dtype != pl.Float64 else parsed.is_null() | ~parsed.is_finite()
        wrong = (unread & values.is_not_null()).fill_null(True).to_numpy()
        problems.add_where(
            source, self.column, wrong, values, offset,
            text="a time cannot be read",
            remedy="write times as ISO 8601 (2022-05-04 08:30:00) or as numbers since 1970",
        )  # fmt: skip

    def _unit_remedy(self, values: pl.Series, outside: np.ndarray) -> str:
        if not values.dtype.is_numeric() and self.form[:3] != "in ":
            return 'mend these times, or drop the column by --time ""'
        value = values.cast(pl.Float64, strict=False)[int(np.flatnonzero(outside)[0])]
        fitting = _fitting_units([value])
        if fitting:
            return (
                f"it would make sense in {_UNIT_IN_WORDS[fitting[0]]}, while --time-unit or the first row "
                f"says {_UNIT_IN_WORDS.get(self.unit, self.unit)}: --time-unit {fitting[0]} if all rows "
                "are in it, else mend the rows: units must not be mixed"
            )
        return f"no unit makes sense of it{_as_calendar_date(value)}; mend or drop these rows"


def _fitting_units(values: Sequence[float]) -> list[TimeUnit]:
    """Return the units in which all values lie from 1990 to 2100: one at most, the ranges being disjoint."""
    units: list[TimeUnit] = ["s", "ms", "us", "ns"]
    return [
        unit
        for unit in units
        if all(_EARLIEST <= value / _UNITS_PER_SECOND[unit] * 1000 < _LATEST for value in values)
    ]


def _as_calendar_date(value: float) -> str:
    if 19900101 <= value < 21000000 and 1 <= value // 100 % 100 <= 12 and 1 <= value % 100 <= 31:
        return " (a calendar date written as a number? turn it into a date first)"
    return ""


def _shown(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)
