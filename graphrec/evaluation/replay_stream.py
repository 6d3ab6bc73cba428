"""Rows and events of a replay in the order of time, and what of them a model may be handed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int64, Shaped

from graphrec.evaluation.replay_tables import (
    Clock,
    EventTable,
    Moment,
    Period,
    ReplayError,
    TimeUnit,
    as_table,
    check_columns,
)

PERIOD_START = "period_start"
_MAX_PERIODS = 1_000_000


@dataclass(frozen=True, eq=False)
class Past:
    """What a model is handed when it has become the past, labels and outcomes included.

    Attributes:
        rows: a copy of the rows with ``start <= time < end`` in the order of time (rows of one time as they
            were given), with all columns and ``period_start``; empty where only events became known.
        events: the events that became known in these times, in that order: an ``EventLog`` or a frame, as
            was given; None without an event log.
        start: first time of the rows and events; None for all that precedes ``end``.
        end: the time before which all of it lies.
        label: name of the label column.
        outcomes: names of the other columns that ``predict`` is not shown.

    """

    rows: pl.DataFrame
    events: Any
    start: int | None
    end: int
    label: str
    outcomes: tuple[str, ...] = ()

    @property
    def inputs(self) -> pl.DataFrame:
        """The rows as ``predict`` is shown them: without the label and the outcomes."""
        return self.rows.drop(self.label, *self.outcomes)

    @property
    def labels(self) -> Shaped[np.ndarray, " num_rows"]:
        """The label column."""
        return self.rows[self.label].to_numpy()


@dataclass(frozen=True, eq=False)
class Stream:
    """Rows and events of a replay, and what lies in which times. Whatever it returns is a copy.

    Attributes:
        table: the rows as given.
        clock: how they tell the time.
        order: row numbers in the order of time, ties as given.
        ticks: times of the rows as given, in ticks.
        time: times of ``order``.
        label: name of the label column.
        outcomes: names of the other columns that are known only afterwards.
        events: the events, their numbers in the order of becoming known, and these times; or None.
        periods: of the test range, all of them.
        length: of a period, in ticks.

    """

    table: pl.DataFrame
    clock: Clock
    order: Int64[np.ndarray, " num_rows"]
    ticks: Int64[np.ndarray, " num_rows"]
    time: Int64[np.ndarray, " num_rows"]
    label: str
    outcomes: tuple[str, ...]
    events: EventTable | None
    events_order: Int64[np.ndarray, " num_events"]
    events_known: Int64[np.ndarray, " num_events"]
    periods: list[Period]
    length: int

    @classmethod
    def of(
        cls,
        rows: Any,
        *,
        test_from: Moment,
        test_until: Moment | None,
        period: str | int | float | timedelta,
        label: str,
        time: str,
        time_unit: TimeUnit,
        outcomes: Sequence[str],
        events: Any,
        event_time: str,
    ) -> "Stream":
        """Read and check what :func:`replay` is given."""
        table = as_table(rows, "rows")
        if isinstance(outcomes, str):
            raise ReplayError(f"outcomes={outcomes!r} must be a sequence of names: write [{outcomes!r}]")
        check_columns(table, [label, time, *outcomes], "rows")
        if time in (label, *outcomes):
            raise ReplayError(
                f"the time column {time!r} cannot be hidden: a model must know when it is asked"
            )
        if PERIOD_START in table.columns:
            raise ReplayError(f"rows have a column {PERIOD_START!r} already: rename it")
        _check_label(table[label])
        clock = Clock.of(table[time], time_unit, f"rows, column {time!r}")
        ticks = clock.ticks(table[time], f"rows, column {time!r}")
        order = np.argsort(ticks, kind="stable")
        start = clock.tick(test_from, "test_from")
        last = int(ticks[order[-1]]) if len(ticks) else start - 1
        until = last + 1 if test_until is None else clock.tick(test_until, "test_until")
        if not ((ticks >= start) & (ticks < until)).any():
            first = clock.shown(Period(int(ticks.min()), last)) if len(ticks) else "nowhere: there are none"
            raise ReplayError(
                f"no row lies in the test range {clock.shown(Period(start, until))}; "
                f"the rows lie in {first}: check test_from, test_until and time_unit"
            )
        length = clock.length(period, "period")
        if (until - start) / length > _MAX_PERIODS:
            raise ReplayError(
                f"the test range {clock.shown(Period(start, until))} has more than "
                f"{_MAX_PERIODS:,} periods of {period!r}: check time_unit, or choose longer ones"
            )
        known = None if events is None else EventTable.of(events, clock, event_time, time_unit)
        events_known = np.zeros(0, dtype=np.int64) if known is None else known.known
        events_order = np.argsort(events_known, kind="stable")
        return cls(
            table=table,
            clock=clock,
            order=order,
            ticks=ticks,
            time=ticks[order],
            label=label,
            outcomes=tuple(dict.fromkeys(name for name in outcomes if name != label)),
            events=known,
            events_order=events_order,
            events_known=events_known[events_order],
            periods=[Period(at, min(at + length, until)) for at in range(start, until, length)],
            length=length,
        )

    def rows_in(self, start: int | None, end: int) -> Int64[np.ndarray, " num_chosen"]:
        """Return the numbers of the rows with ``start <= time < end``, in the order of time."""
        return self.order[_between(self.time, start, end)]

    def num_events(self, start: int, end: int) -> int:
        """Return how many events became known in these times."""
        chosen = _between(self.events_known, start, end)
        return chosen.stop - chosen.start

    def past(self, start: int | None, end: int) -> Past:
        """Return all that happened, and all events that became known, in these times."""
        chosen = self.events_order[_between(self.events_known, start, end)]
        events = None if self.events is None else self.events.chosen(chosen)
        return Past(self._copy(self.rows_in(start, end), []), events, start, end, self.label, self.outcomes)

    def hidden(self, index: Int64[np.ndarray, " num_chosen"]) -> pl.DataFrame:
        """Return rows as they are before anything about their outcome is known."""
        return self._copy(index, [self.label, *self.outcomes])

    def test_rows(self) -> Int64[np.ndarray, " num_test_rows"]:
        """Return the numbers of the rows of the test range, in the order given."""
        return np.sort(self.rows_in(self.periods[0].start, self.periods[-1].end))

    def period_starts(self, index: Int64[np.ndarray, " num_chosen"]) -> pl.Series:
        """Return the start of each row's period; periods before the test range continue it backwards."""
        first = self.periods[0].start
        start = (self.ticks[index] - first) // self.length * self.length + first
        return self.clock.column(PERIOD_START, start)

    def _copy(self, index: Int64[np.ndarray, " num_chosen"], without: list[str]) -> pl.DataFrame:
        """Gather rows into memory of their own: a slice would share it with the rows that follow."""
        return self.table.drop(without)[index].with_columns(self.period_starts(index))


def _between(times: Int64[np.ndarray, " num_times"], start: int | None, end: int) -> slice:
    """Return where ascending times lie in ``start <= time < end``."""
    first = 0 if start is None else int(np.searchsorted(times, start))
    return slice(first, max(first, int(np.searchsorted(times, end))))


def _check_label(column: pl.Series) -> None:
    """Raise where a label is missing."""
    missing = column.is_null() | column.is_nan() if column.dtype.is_float() else column.is_null()
    if missing.any():
        raise ReplayError(
            f"rows, column {column.name!r}: {missing.sum()} labels are missing, first in row "
            f"{missing.arg_true()[0]} (from 0): leave out rows whose label is not known"
        )
