"""A check that a model's predictions for a period do not depend on what the period and later ones bring."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64

from graphrec.evaluation.replay import Refit, ReplayModel, UpdateForm, name_of, replay, update_form
from graphrec.evaluation.replay_stream import PERIOD_START, Stream
from graphrec.evaluation.replay_tables import (
    Moment,
    Period,
    ReplayError,
    TimeUnit,
    as_table,
    check_columns,
)

FeatureFunction = Callable[[pl.DataFrame, pl.DataFrame], Any]
_NUM_PLANTED = 100  # events that a changed log has more, all at the first moment that must not be seen


class ReplayLeakError(ReplayError):
    """A prediction or feature depends on what was not known yet: names the period and the rows."""


@dataclass(frozen=True)
class LeakCheck:
    """What a check without a leak found."""

    periods: tuple[Period, ...]
    """The periods from which on the world was changed."""
    num_worlds: int
    """Changed worlds that were compared with the true one."""
    num_compared: int
    """Predictions that had to be the same, and were, over all worlds."""
    num_changed_later: int
    """Later predictions that changed with labels, outcomes and events; 0 only for a model without update."""


def check_replay_leak(
    make_model: Callable[..., ReplayModel],
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
    features: FeatureFunction | None = None,
    num_periods: int = 2,
    random_seed: int = 0,
) -> LeakCheck:
    """Change what a period and later ones bring, and raise if predictions up to that period change.

    For each of ``num_periods`` periods of the test range (the first, then evenly on) the replay runs in three
    changed worlds: every label from the period on is another one, outcomes and events are dealt out anew and
    further events planted at the period's start; labels and outcomes are drawn at random and the events are
    gone; the log ends with the period. Predictions for periods up to and including it must be the same to
    the bit, in all worlds. In the first two a later prediction must change, else the model never learns from
    what follows (or reads it from where no world reaches: labels from a file, say), and that is an error too,
    unless it has no update and no refit.

    A model that takes statistics from the whole log beforehand is caught if it does so in ``make_model``,
    from the rows and events that this is handed. Columns of ``rows`` that the caller has computed beforehand
    stay as they are in all worlds: whether they hold the future, only ``features`` can tell.

    Args:
        make_model: called with the rows of a world, a polars frame with labels and outcomes, and, where
            ``events`` is given, its events; returns an unfitted model, the same for the same input.
        rows: as for :func:`graphrec.evaluation.replay.replay`, and so are all options down to ``refit``.
        test_from: first time of the test range.
        test_until: end of the test range, excluded; None: after the last row.
        period: length of a period.
        label: column of labels; they must have at least two values.
        time: column of times.
        time_unit: unit of whole numbers.
        outcomes: further columns that are known only afterwards.
        events: an ``EventLog`` or a frame.
        event_time: the time column of a frame of events.
        update: form of update.
        refit: "never" or "daily".
        features: ``features(rows_before, rows)`` computes columns of ``rows`` anew, from the rows before the
            period's start with labels and outcomes, and the period's own rows without. What it returns (a
            frame or mapping, one value a row) must equal the columns of the same names, up to rounding. It is
            asked for the periods above and for the last one before the test range that has rows; each time
            once more without these columns, so that it cannot hand them back.
        num_periods: more find leaks that only some periods have; each costs three replays.
        random_seed: of the changes.

    Raises:
        ReplayLeakError: a prediction or a feature depends on what was not known yet.
        ReplayError: the model is not deterministic, never learns, or the inputs do not fit.

    """
    if num_periods < 1:
        raise ReplayError(f"num_periods must be at least 1, got {num_periods}")

    reading: dict[str, Any] = {
        "period": period,
        "label": label,
        "time": time,
        "time_unit": time_unit,
        "outcomes": outcomes,
        "event_time": event_time,
    }
    stream = Stream.of(rows, test_from=test_from, test_until=test_until, events=events, **reading)
    start, until = stream.periods[0].start, stream.periods[-1].end
    test_ticks = stream.ticks[stream.test_rows()]
    chosen = _chosen_periods(stream, test_ticks, num_periods)
    if features is not None:
        before = stream.rows_in(None, start)
        last = [_period_of(stream, int(stream.ticks[before[-1]]))] if len(before) else []
        for one in [*last, *chosen]:
            _check_features(features, stream, one)

    name, form = "", update or "none"

    def scores(world: _World, until: int) -> Float64[np.ndarray, "num_test_rows num_scores"]:
        nonlocal name, form
        log = stream.events
        given = None if log is None or world.events is None else log.with_frame(world.events)
        model = make_model(world.rows) if given is None else make_model(world.rows, given)
        name, form = name_of(model), update_form(model, update)
        options = {**reading, "update": update, "refit": refit, "score": "score of the leak check"}
        found = replay(model, world.rows, test_from=start, test_until=until, events=given, **options)
        return found.drop(*world.rows.columns, PERIOD_START).to_numpy()

    truth = _World(stream.table, None if stream.events is None else stream.events.frame)
    expected = scores(truth, until)
    if not _same(scores(truth, until), expected).all():
        raise ReplayError(
            f"{name}: two replays of one log differ: fix the model's random seeds in make_model"
        )
    generator = np.random.default_rng(random_seed)
    num_compared = num_later = num_changed = 0
    for one in chosen:
        early = test_ticks < one.end
        later = _may_learn(stream, test_ticks, one, form, refit)
        for how, world, end in (
            ("labels, outcomes and events from it on were changed", _changed(stream, one, generator), until),
            ("labels and outcomes from it on were drawn anew", _redrawn(stream, one, generator), until),
            ("the log ended with it", _ended(stream, one), one.end),
        ):
            found = scores(world, end)
            leaked = ~_same(found[early] if end == until else found, expected[early])
            if leaked.any():
                raise ReplayLeakError(_leak_message(stream, name, how, one, early, leaked))
            num_compared += len(leaked)
            if end == until:
                num_later += int(later.sum())
                num_changed += int((~_same(found[later], expected[later])).sum())
    if num_later and not num_changed:
        raise ReplayError(
            f"{name} never learns from what follows the test start: no prediction changed with the labels, "
            "outcomes and events. Either its update does nothing (then say update='none'), or it reads "
            "labels that it is not handed"
        )
    return LeakCheck(tuple(chosen), 3 * len(chosen), num_compared, num_changed)


@dataclass(frozen=True, eq=False)
class _World:
    """What a model is told has happened."""

    rows: pl.DataFrame
    events: pl.DataFrame | None


def _changed(stream: Stream, one: Period, generator: np.random.Generator) -> _World:
    """Give every label from ``one`` on another value, deal outcomes and events out anew, plant events."""
    affected = stream.ticks >= one.start
    return _World(_with_outcomes(stream, affected, generator, other=True), _planted(stream, one, generator))


def _redrawn(stream: Stream, one: Period, generator: np.random.Generator) -> _World:
    """Draw labels and outcomes from ``one`` on at random; the events are gone."""
    affected = stream.ticks >= one.start
    events = stream.events
    left = None if events is None else events.frame.filter(pl.Series(events.known < one.start))
    return _World(_with_outcomes(stream, affected, generator, other=False), left)


def _ended(stream: Stream, one: Period) -> _World:
    """Cut the log at the end of ``one``."""
    events = stream.events
    left = None if events is None else events.frame.filter(pl.Series(events.known < one.end))
    return _World(stream.table.filter(pl.Series(stream.ticks < one.end)), left)


def _with_outcomes(
    stream: Stream, affected: Bool[np.ndarray, " num_rows"], generator: np.random.Generator, *, other: bool
) -> pl.DataFrame:
    """Replace labels and outcomes of the affected rows: by other labels and dealt outcomes, or by any."""
    table = stream.table
    _, first, code = np.unique(table[stream.label].to_numpy(), return_index=True, return_inverse=True)
    if len(first) < 2:
        raise ReplayError(f"rows, column {stream.label!r}: all labels are equal, so none can be changed")
    count = int(affected.sum())
    drawn = generator.integers(1, len(first), count) if other else generator.integers(0, len(first), count)
    source = np.arange(len(table))
    source[affected] = first[(code[affected] + drawn) % len(first)]
    columns = [table[stream.label][source]]
    source = np.arange(len(table))
    dealt = generator.permutation(source[affected]) if other else generator.integers(0, len(table), count)
    source[affected] = dealt
    return table.with_columns(*columns, *(table[name][source] for name in stream.outcomes))


def _planted(stream: Stream, one: Period, generator: np.random.Generator) -> pl.DataFrame | None:
    """Deal the events known from ``one`` on out anew, and plant some at the first moment of it.

    Where events may become known late, half of the planted ones have happened before the period.
    """
    events = stream.events
    if events is None or events.frame.is_empty():
        return None if events is None else events.frame
    frame = events.frame
    affected = events.known >= one.start
    order = np.arange(len(frame))
    order[affected] = generator.permutation(order[affected])
    late = "available_time" in frame.columns
    times = [events.time, "available_time"] if late else [events.time]
    dealt = frame[order].with_columns(frame[name] for name in times)
    planted = frame[generator.integers(0, len(frame), min(_NUM_PLANTED, len(frame)))]
    known = np.full(len(planted), events.first_tick_known_from(one.start, stream.clock))
    happened = known - (np.arange(len(planted)) % 2 if late else 0)
    columns = [events.clock.column(events.time, happened)]
    if late:
        columns.append(events.clock.column("available_time", known))
    return pl.concat(
        [dealt, planted.with_columns(column.cast(frame.schema[column.name]) for column in columns)]
    )


def _period_of(stream: Stream, tick: int) -> Period:
    """Return the period of a time before the test range: its periods continue backwards."""
    first = stream.periods[0].start
    start = (tick - first) // stream.length * stream.length + first
    return Period(start, start + stream.length)


def _chosen_periods(
    stream: Stream, test_ticks: Int64[np.ndarray, " num_test_rows"], num_periods: int
) -> list[Period]:
    """Return the first of the periods that have rows, then others evenly on; one with rows follows each."""
    number = np.unique((test_ticks - stream.periods[0].start) // stream.length)
    places = np.linspace(0, max(len(number) - 2, 0), min(num_periods, max(len(number) - 1, 1)))
    return [stream.periods[number[place]] for place in np.unique(places.round().astype(np.int64))]


def _may_learn(
    stream: Stream,
    test_ticks: Int64[np.ndarray, " num_test_rows"],
    one: Period,
    form: UpdateForm,
    refit: Refit,
) -> Bool[np.ndarray, " num_test_rows"]:
    """Return the test rows whose scores what happens in ``one`` should change."""
    if form != "none":
        return test_ticks >= one.end
    if refit == "never":
        return np.zeros(len(test_ticks), dtype=bool)
    first, day = stream.periods[0].start, stream.clock.length("1d", "a day")
    return (test_ticks - first) // day > (one.start - first) // day


def _same(
    left: Float64[np.ndarray, "num_rows num_scores"], right: Float64[np.ndarray, "num_rows num_scores"]
) -> Bool[np.ndarray, " num_rows"]:
    """Return which rows have the same scores, to the bit."""
    if left.shape != right.shape:
        raise ReplayError(f"scores have the shape {left.shape} in one world and {right.shape} in another")
    return (left.view(np.int64) == right.view(np.int64)).all(axis=1)


def _leak_message(
    stream: Stream,
    name: str,
    how: str,
    one: Period,
    early: Bool[np.ndarray, " num_test_rows"],
    leaked: Bool[np.ndarray, " num_early"],
) -> str:
    rows = stream.test_rows()[early][leaked]
    first = _period_of(stream, int(stream.ticks[rows].min()))
    of_first = rows[(stream.ticks[rows] >= first.start) & (stream.ticks[rows] < first.end)]
    return (
        f"{name} sees what it may not know: predictions for the period {stream.clock.shown(first)} changed "
        f"after {how}, 'it' being the period {stream.clock.shown(one)}: {_shown_rows(of_first)}. Look for "
        "statistics of the whole log, or for a table of labels that the model keeps"
    )


def _check_features(features: FeatureFunction, stream: Stream, one: Period) -> None:
    """Compare the rows' own columns with what can be computed from the rows before."""
    index = stream.rows_in(one.start, one.end)
    before, hidden = stream.past(None, one.start).rows, stream.hidden(index)
    names = as_table(features(before, hidden), "what features returned").columns
    # once more without these columns: a join that hands back the rows' own would prove nothing
    without = (table.drop(names, strict=False) for table in (before, hidden))
    found = as_table(features(*without), "what features returned")
    if len(found) != len(index) or not found.columns:
        raise ReplayError(f"features returned {found.shape} values for {len(index)} rows: give one a row")
    check_columns(hidden, found.columns, "rows without label and outcomes")
    for name in found.columns:
        there, fresh = hidden[name], found[name]
        if there.dtype.is_numeric() and fresh.dtype.is_numeric():
            left, right = (c.cast(pl.Float64).fill_null(np.nan).to_numpy() for c in (there, fresh))
            differs = ~np.isclose(left, right, rtol=1e-6, atol=1e-9, equal_nan=True)
        else:
            differs = there.ne_missing(fresh).to_numpy()
        if differs.any():
            raise ReplayLeakError(
                f"column {name!r} of the period {stream.clock.shown(one)} is not what the rows before it "
                f"give: {_shown_rows(index[differs])}. Compute it for each period from the rows before"
            )


def _shown_rows(rows: Int64[np.ndarray, " num_rows"]) -> str:
    listed = ", ".join(str(row) for row in np.sort(rows)[:5])
    return f"{len(rows)} rows, such as {listed} (from 0)"
