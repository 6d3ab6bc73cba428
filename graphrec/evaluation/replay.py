"""The replay protocol: any model goes through a test range period by period and sees only what precedes it.

Fit on all rows before the range; then, for each period: score its rows without labels, hand the labels over,
move on (LSTTM, section 5.4). The result is a frame of predictions as an evaluation reads it.
"""

import copy
import time as wall
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike

from graphrec.evaluation.replay_stream import PERIOD_START, Past, Stream
from graphrec.evaluation.replay_tables import Moment, Period, ReplayError, TimeUnit

UpdateForm = Literal["none", "chained", "union"]
Refit = Literal["never", "daily"]


@runtime_checkable
class ReplayModel(Protocol):
    """What :func:`replay` asks of a model. A method ``update(past: Past) -> None`` is optional.

    ``update`` is handed a period that has ended. For ``update="union"`` a model may also have
    ``state() -> Any`` and ``load_state(state) -> None`` (restorable any number of times); without them it is
    copied with :func:`copy.deepcopy`.
    """

    def fit(self, past: Past) -> None:
        """Learn from all that precedes the test range (or, with ``refit="daily"``, the day)."""

    def predict(self, rows: pl.DataFrame) -> ArrayLike | Mapping[str, ArrayLike]:
        """Score the rows of one period, which lack the label and all outcomes: one finite number a row.

        A mapping gives several scores a row, each under a name of its own, the same in every period.
        """


@dataclass(frozen=True)
class ReplayStep:
    """How far a replay has come, for progress: one step for each period, also one that was skipped."""

    period: Period
    number: int
    """From 0."""
    num_periods: int
    num_rows: int
    """Rows scored; 0: the period was skipped."""
    num_events: int
    """Events that became known in the period."""
    seconds: float
    """Wall time of the period's predictions and update."""


def replay(
    model: ReplayModel,
    rows: Any,
    *,
    test_from: Moment,
    test_until: Moment | None = None,
    period: str | int | float | timedelta = "1h",
    label: str = "label",
    time: str = "time",
    time_unit: TimeUnit = "s",
    outcomes: Sequence[str] = (),
    events: Any = None,
    event_time: str = "time",
    update: UpdateForm | None = None,
    refit: Refit = "never",
    score: str = "score",
    on_period: Callable[[ReplayStep], None] | None = None,
) -> pl.DataFrame:
    """Take a model through the periods of a test range and return its predictions.

    What the model is handed, and when: ``fit`` gets everything before ``test_from``; ``predict`` gets the
    rows of one period without ``label`` and ``outcomes``; ``update`` gets the same rows with them once all
    are scored. Every frame handed over is a copy that holds these rows alone, so no later value lies in its
    memory. Rows at or after ``test_until`` are handed to nobody. Periods are counted from ``test_from``; the
    last may be short; one without rows is skipped, and ``update`` still gets what became known in it.

    What no hiding of labels can guard: a column of ``rows`` that the caller computed over the whole frame (a
    user's click rate, a scaler's mean) carries later labels into earlier rows, and a model that holds the
    labels from elsewhere (a file, a global) needs none handed over. ``check_replay_leak`` (``replay_leak``)
    finds the former through its ``features``, which is handed only what precedes. Of the latter it finds
    models that never change with what they are handed; one that learns honestly and also reads labels from
    elsewhere no changed world can tell.

    Args:
        model: has ``fit``, ``predict`` and, optionally, ``update``; trained in place, but for the copies
            that "union" and "daily" make of it.
        rows: polars or pandas frame, or mapping of names to arrays; in any order. A frame may be as thin as
            label, time and a row number by which the model finds its own tensors.
        test_from: first time of the test range: a number in the unit of the times, a datetime, or ISO text
            (without a zone: in that of the time column, else UTC).
        test_until: end of the test range, excluded; None: after the last row.
        period: length as "1h", "15min", "1d", a timedelta or a number of seconds.
        label: column of labels, without gaps.
        time: column of times: whole numbers in ``time_unit``, dates, or dates and times.
        time_unit: unit of whole numbers in ``rows`` and in a frame of events ("s", "ms", "us", "ns").
        outcomes: further columns that are known only afterwards, such as watch time or likes.
        events: an ``EventLog``, or a frame with ``event_time`` and, optionally, ``available_time`` (a null
            there means: known at its own time). An event is handed over when it has become known: to ``fit``
            where that is before the start, else to the ``update`` after the period in which it was. Where
            the events' clock is coarser than the rows', an event counts as known at the end of its tick.
        event_time: the time column of a frame of events; an ``EventLog`` has its own.
        update: "chained": each period on top of the last; "union": from the state as of the start (of the
            day, if refitted daily), on all periods since; "none": ``update`` is never called. Default:
            "chained" where the model has ``update``, else "none".
        refit: "daily": an unfitted copy of the model is fitted anew every 24 hours from ``test_from``.
        score: name of the score column where ``predict`` gives no names.
        on_period: called after each period.

    Returns:
        The rows of the test range in the order given, all their columns, then ``period_start`` (of the
        time's type) and the scores (Float64): what an evaluation of predictions reads.

    Raises:
        ReplayError: a column is missing, a time or label is missing, the test range holds no row, an option
            does not fit, or a model's scores are not one finite number a row (names period, model and row).

    """
    stream = Stream.of(
        rows,
        test_from=test_from,
        test_until=test_until,
        period=period,
        label=label,
        time=time,
        time_unit=time_unit,
        outcomes=outcomes,
        events=events,
        event_time=event_time,
    )
    form = update_form(model, update)
    scores = _Scores(stream, score)
    for fitted, day in _days(model, stream, refit):
        current: Any = fitted
        start = day[0][1].start
        _call(current.fit, stream.past(None, start), f"fitted on all before {stream.clock.shown(day[0][1])}")
        saved = _state(current) if form == "union" else None
        for number, one in day:
            began = wall.perf_counter()
            index = stream.rows_in(one.start, one.end)
            num_events = stream.num_events(one.start, one.end)
            shown = stream.clock.shown(one)
            if len(index):
                found = _call(current.predict, stream.hidden(index), f"scored the period {shown}")
                scores.put(found, index, model, shown)
            if form != "none" and (len(index) or num_events):
                if form == "union":
                    current = _restored(current, saved)
                past = stream.past(start if form == "union" else one.start, one.end)
                _call(current.update, past, f"was updated with the period {shown}")
            if on_period is not None:
                seconds = wall.perf_counter() - began
                on_period(ReplayStep(one, number, len(stream.periods), len(index), num_events, seconds))
    return scores.frame()


def update_form(model: ReplayModel, update: UpdateForm | None) -> UpdateForm:
    """Return the form of update that is meant.

    Raises:
        ReplayError: there is no such form, or the model has no ``update``.

    """
    there = hasattr(model, "update")
    if update is None:
        return "chained" if there else "none"
    if update not in get_args(UpdateForm):
        raise ReplayError(f"update must be one of {get_args(UpdateForm)}, got {update!r}")
    if update != "none" and not there:
        raise ReplayError(f"{name_of(model)} has no method update: give it one, or say update='none'")
    return update


def name_of(model: ReplayModel) -> str:
    """Return what errors call a model: its ``name``, else that of its class."""
    return str(getattr(model, "name", type(model).__name__))


def _days(
    model: ReplayModel, stream: Stream, refit: Refit
) -> Iterator[tuple[ReplayModel, list[tuple[int, Period]]]]:
    """Yield a model to fit and the numbered periods for which it serves."""
    if refit not in get_args(Refit):
        raise ReplayError(f"refit must be one of {get_args(Refit)}, got {refit!r}")
    numbered = list(enumerate(stream.periods))
    if refit == "never":
        yield model, numbered
        return
    day = stream.clock.length("1d", "a day")
    if day % stream.length:
        raise ReplayError("refit='daily' needs a period that divides a day: choose one such as '1h'")
    unfitted = copy.deepcopy(model)
    first = stream.periods[0].start
    starts = sorted({(one.start - first) // day for one in stream.periods})
    for position, start in enumerate(starts):
        of_day = [(number, one) for number, one in numbered if (one.start - first) // day == start]
        yield (copy.deepcopy(unfitted) if position else model), of_day


def _call(method: Callable[[Any], Any], argument: Any, doing: str) -> Any:
    """Call a method of a model; an exception of the model's own says what it was called for."""
    try:
        return method(argument)
    except Exception as error:
        owner = getattr(method, "__self__", None)
        error.add_note(f"raised while {type(owner).__name__} {doing}")
        raise


def _state(model: Any) -> Any:
    """Return what :func:`_restored` needs to bring a model back to now."""
    return model.state() if hasattr(model, "state") else copy.deepcopy(model)


def _restored(model: Any, saved: Any) -> Any:
    if hasattr(model, "state"):
        model.load_state(saved)
        return model
    return copy.deepcopy(saved)


class _Scores:
    """Scores of the test rows, filled period by period."""

    def __init__(self, stream: Stream, name: str) -> None:
        self.stream, self.name = stream, name
        self.rows = stream.test_rows()
        self.columns: dict[str, Float64[np.ndarray, " num_test_rows"]] = {}

    def put(
        self, found: Any, index: Int64[np.ndarray, " num_chosen"], model: ReplayModel, period: str
    ) -> None:
        """Check one period's scores and keep them.

        Raises:
            ReplayError: they are not one finite number a row, or not the columns of the periods before.

        """
        scores = dict(found) if isinstance(found, Mapping) else {self.name: found}
        of = f"{name_of(model)}, period {period}"
        if not self.columns:
            clash = sorted({*scores} & {*self.stream.table.columns, PERIOD_START})
            if not scores:
                raise ReplayError(f"{of}: gave no scores: a mapping needs at least one name")
            if clash:
                raise ReplayError(f"{of}: scores named {clash} clash with columns of the rows: rename them")
            self.columns = {name: np.full(len(self.rows), np.nan) for name in scores}
        if {*scores} != {*self.columns}:
            raise ReplayError(f"{of}: gave the scores {[*scores]}, periods before it {[*self.columns]}")
        slots = np.searchsorted(self.rows, index)
        for name, values in scores.items():
            self.columns[name][slots] = _checked(values, index, f"{of}, {name!r}")

    def frame(self) -> pl.DataFrame:
        """Return the test rows with their scores."""
        starts = self.stream.period_starts(self.rows)
        columns = [pl.Series(name, values) for name, values in self.columns.items()]
        return self.stream.table[self.rows].with_columns(starts, *columns)


def _checked(
    values: Any, index: Int64[np.ndarray, " num_chosen"], of: str
) -> Float64[np.ndarray, " num_chosen"]:
    """Return scores of the rows ``index`` as float64, after checking that each has one finite number."""
    if hasattr(values, "detach"):  # a tensor, which numpy takes only without its gradient and from the CPU
        values = values.detach().cpu()
    found = np.asarray(values)
    if found.ndim != 1:
        raise ReplayError(
            f"{of}: scores have shape {found.shape}: give one number a row, such as predict_proba(...)[:, 1]"
        )
    if len(found) != len(index):
        raise ReplayError(f"{of}: {len(found)} scores for {len(index)} rows: give each row exactly one")
    try:
        scores = found.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ReplayError(f"{of}: scores are no numbers but {found.dtype}") from error
    bad = ~np.isfinite(scores)
    if bad.any():
        first = int(np.argmax(bad))
        raise ReplayError(
            f"{of}: {bad.sum()} scores are not finite, first {scores[first]} of row {index[first]} (from 0): "
            "see what the model makes of that row"
        )
    return scores
