"""The replay protocol: what a model is handed and when, on data small enough to do by hand."""

import copy
import subprocess
import sys
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_builders.events import EventSchema, read_events
from graphrec.evaluation.replay import ReplayStep, replay
from graphrec.evaluation.replay_models import SklearnModel
from graphrec.evaluation.replay_tables import Period, ReplayError

HOUR = 3600
START = 24 * HOUR


class Spy:
    """Records what it is handed; its score says how many updates it has had."""

    def __init__(self):
        self.calls = []
        self.count = 0

    def fit(self, past):
        self.calls.append(("fit", past))
        self.count = 0

    def predict(self, rows):
        self.calls.append(("predict", rows))
        return np.full(len(rows), float(self.count))

    def update(self, past):
        self.calls.append(("update", past))
        self.count += 1

    def handed(self, kind):
        return [what for name, what in self.calls if name == kind]


class Rate:
    """Predicts the click rate of all labels handed over; what has gone in is in its state."""

    def __init__(self):
        self.sums = np.zeros(2)
        self.handed = []

    def fit(self, past):
        self.update(past)

    def predict(self, rows):
        return np.full(len(rows), self.sums[0] / self.sums[1])

    def update(self, past):
        self.sums = self.sums + np.array([past.labels.sum(), len(past.labels)])


def log(times, seed=0, **columns):
    generator = np.random.default_rng(seed)
    times = np.asarray(times, dtype=np.int64)
    labels = generator.integers(0, 2, len(times))
    return {"time": times, "label": labels, "row": np.arange(len(times)), **columns}


def random_log(num_rows=400, hours=30, seed=1):
    return log(np.random.default_rng(seed).integers(0, hours * HOUR, num_rows), seed)


# ---- what is handed over --------------------------------------------------------------------------


def test_labels_and_outcomes_are_hidden_from_predictions_alone():
    rows = log([0, START, START + 5, START + HOUR], watched=np.array([3.0, 4.0, 5.0, 6.0]), tab=[1, 2, 3, 4])
    spy = Spy()
    replay(spy, rows, test_from=START, outcomes=["watched"])
    assert [frame.columns for frame in spy.handed("predict")] == [["time", "row", "tab", "period_start"]] * 2
    for past in spy.handed("fit") + spy.handed("update"):
        assert {"label", "watched"} <= {*past.rows.columns}
        assert past.inputs.columns == ["time", "row", "tab", "period_start"]
    assert [past.rows["watched"].to_list() for past in spy.handed("update")] == [[4.0, 5.0], [6.0]]
    assert spy.handed("fit")[0].rows["row"].to_list() == [0]
    assert spy.handed("update")[0].labels.tolist() == rows["label"][1:3].tolist()


def test_frames_share_no_memory_with_the_rows():
    rows = pl.DataFrame(log([0, START, START + 5, START + HOUR]))
    spy = Spy()
    replay(spy, rows, test_from=START)
    given = {name: rows[name].to_numpy() for name in rows.columns}
    handed = [*spy.handed("predict"), *(past.rows for past in spy.handed("fit") + spy.handed("update"))]
    for frame in handed:
        for name in set(frame.columns) & set(given):
            assert not np.shares_memory(frame[name].to_numpy(), given[name])
    arrays = log([0, START])
    frame = replay(Spy(), arrays, test_from=START)
    arrays["label"][:] = 7
    assert frame["label"][0] != 7


@settings(max_examples=60)
@given(
    times=st.lists(st.integers(0, 60), min_size=2, max_size=30),
    event_times=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=10),
    start=st.integers(1, 40),
    length=st.integers(1, 20),
    update=st.sampled_from(["none", "chained", "union"]),
)
def test_nothing_from_a_period_or_later_comes_before_its_predictions(
    times, event_times, start, length, update
):
    events = pl.DataFrame(
        {"time": [t for t, _ in event_times], "available_time": [t + d for t, d in event_times]},
        schema={"time": pl.Int64, "available_time": pl.Int64},
    )
    rows = log([*times, start])
    greatest, calls = -1, []

    class Watcher(Spy):
        def fit(self, past):
            self.see(past)

        def see(self, past):
            nonlocal greatest
            known = [*past.rows["time"], *past.events["available_time"]]
            greatest = max([greatest, *known])
            calls.append(len(known))

        update = see

        def __deepcopy__(self, memo):
            return self

        def predict(self, rows):
            first = rows["period_start"][0]
            assert greatest < first <= rows["time"].min()
            assert rows["time"].max() < first + length
            assert rows["period_start"].n_unique() == 1
            assert (first - start) % length == 0
            return np.arange(len(rows))

    frame = replay(Watcher(), rows, test_from=start, period=length, events=events, update=update)
    expected = [number for number, time in enumerate(rows["time"]) if time >= start]
    assert frame["row"].to_list() == expected
    if update == "chained":  # everything has been handed over once in the end, but events known after it
        end = max(start, int(rows["time"].max())) + 1
        known = sum(time + delay < end for time, delay in event_times)
        assert sum(calls) == len(rows["time"]) + known


@pytest.mark.parametrize("as_log", [True, False])
def test_events_come_when_they_become_known(as_log):
    late = [0, 10, START, START + 5, START + HOUR]
    known = [1, START + 2 * HOUR, START, START + HOUR + 1, None]
    events = pl.DataFrame({"user_id": [1] * 5, "item_id": range(5), "time": late, "available_time": known})
    if as_log:
        schema = EventSchema(time_bounds=None, available_time="available_time")
        events = read_events(events, schema)
    spy = Spy()
    rows = log([0, START, START + 4 * HOUR])
    replay(spy, rows, test_from=START, events=events)

    def items(past):
        return (past.events.frame if as_log else past.events)["item_id"].to_list()

    assert type(spy.handed("fit")[0].events) is type(events)
    assert items(spy.handed("fit")[0]) == [0]
    updates = spy.handed("update")
    assert [items(past) for past in updates] == [[2], [4, 3], [1], []]
    assert [(past.start - START, past.end - START) for past in updates] == [
        (0, HOUR),
        (HOUR, 2 * HOUR),
        (2 * HOUR, 3 * HOUR),
        (4 * HOUR, 4 * HOUR + 1),
    ]
    assert [len(past.rows) for past in updates] == [1, 0, 0, 1]
    spy = Spy()
    replay(spy, rows, test_from=START, events=events, update="none")
    assert spy.handed("update") == []


def test_coarse_event_times_count_as_known_at_the_end_of_their_tick():
    events = pl.DataFrame({"user_id": [1, 1], "item_id": [0, 1], "time": [1, 2]})
    schema = EventSchema(time_bounds=None)
    spy = Spy()
    rows = log([0, 2_500, 3_500])  # milliseconds; the second event may be as late as 2,999
    replay(
        spy,
        rows,
        test_from=2_500,
        period=1,
        time_unit="ms",
        test_until=3_501,
        events=read_events(events, schema),
    )
    assert spy.handed("fit")[0].events.frame["item_id"].to_list() == [0]
    assert spy.handed("update")[0].events.frame["item_id"].to_list() == [1]


def test_fine_event_times_against_rows_in_seconds():
    events = pl.DataFrame({"user_id": [1, 1], "item_id": [0, 1], "time": [9_999, 10_000]})
    schema = EventSchema(time_bounds=None, time_unit="ms", resolution="ms")
    spy = Spy()
    replay(spy, log([0, 10]), test_from=10, period=5, events=read_events(events, schema))
    assert spy.handed("fit")[0].events.frame["item_id"].to_list() == [0]


# ---- forms of update ------------------------------------------------------------------------------


def slow_rates(rows, update, refit="never"):
    """The click rate that is known before each row's hour, by a loop over rows."""
    rates = []
    for time in rows["time"]:
        if time < START:
            continue
        hour = (time - START) // HOUR * HOUR + START
        day = (time - START) // (24 * HOUR) * 24 * HOUR + START
        until = {"none": START if refit == "never" else day}.get(update, hour)
        known = [label for label, t in zip(rows["label"], rows["time"], strict=True) if t < until]
        rates.append(sum(known) / len(known))
    return rates


@pytest.mark.parametrize("refit", ["never", "daily"])
@pytest.mark.parametrize("update", ["none", "chained", "union"])
def test_forms_of_update_against_a_loop_over_rows(update, refit):
    rows = random_log(num_rows=500, hours=80)
    frame = replay(Rate(), rows, test_from=START, update=update, refit=refit)
    np.testing.assert_allclose(frame["score"], slow_rates(rows, update, refit), rtol=1e-12)


def test_union_starts_over_from_the_start_with_all_periods_since():
    rows = log([0, START, START + HOUR, START + HOUR, START + 3 * HOUR])
    frame = replay(Spy(), rows, test_from=START, update="union")
    assert frame["score"].to_list() == [0, 1, 1, 1]  # one update from the start, however many periods
    frame = replay(Spy(), rows, test_from=START, update="chained")
    assert frame["score"].to_list() == [0, 1, 1, 2]
    kept = []

    class WithState(Spy):
        def state(self):
            return copy.copy(self.count)

        def load_state(self, state):
            self.count = state

        def update(self, past):
            super().update(past)
            kept.append((past.start, past.end, past.rows["row"].to_list()))

    model = WithState()
    frame = replay(model, rows, test_from=START, update="union")
    assert frame["score"].to_list() == [0, 1, 1, 1]
    assert model.count == 1  # never copied
    assert kept == [
        (START, START + HOUR, [1]),
        (START, START + 2 * HOUR, [1, 2, 3]),
        (START, START + 3 * HOUR + 1, [1, 2, 3, 4]),
    ]


def test_daily_refit_hands_over_the_days_before():
    rows = random_log(num_rows=300, hours=24 * 4)
    fits = []

    class Refitted(Rate):
        def fit(self, past):
            assert self.sums[1] == 0  # unfitted
            super().fit(past)
            fits.append((past.start, past.end, len(past.rows)))

    replay(Refitted(), rows, test_from=START, refit="daily")
    ends = [START, 2 * START, 3 * START]
    assert fits == [(None, end, int((rows["time"] < end).sum())) for end in ends]


def test_default_form_depends_on_the_model():
    class Fixed:
        def fit(self, past):
            pass

        def predict(self, rows):
            return np.zeros(len(rows))

    rows = log([0, START])
    assert replay(Fixed(), rows, test_from=START)["score"].to_list() == [0.0]
    for update in ("chained", "union"):
        with pytest.raises(ReplayError, match="Fixed has no method update"):
            replay(Fixed(), rows, test_from=START, update=update)


# ---- rows in, frame out ---------------------------------------------------------------------------


def test_the_result_keeps_the_order_and_columns_of_the_rows():
    generator = np.random.default_rng(3)
    rows = random_log()
    shuffled = {name: column[generator.permutation(len(column))] for name, column in rows.items()}
    tested = shuffled["time"] >= START

    class Echo(Spy):
        def predict(self, rows):
            return rows["row"].to_numpy() / 7

    frame = replay(Echo(), shuffled, test_from=START)
    assert frame.columns == ["time", "label", "row", "period_start", "score"]
    for name in rows:
        assert frame[name].to_list() == shuffled[name][tested].tolist()
    np.testing.assert_array_equal(frame["score"], shuffled["row"][tested] / 7)
    np.testing.assert_array_equal(frame["period_start"], shuffled["time"][tested] // HOUR * HOUR)


@pytest.mark.parametrize(
    "form", ["polars", "lazy", "pandas", "lists", "datetime", "pandas datetime", "torch"]
)
def test_forms_of_rows_give_the_same_scores(form):
    rows = random_log()
    expected = replay(Rate(), rows, test_from=START)
    frame = pl.DataFrame(rows)
    dated = frame.with_columns(pl.from_epoch("time", time_unit="s"))
    start = START
    if form == "pandas":
        frame = frame.to_pandas()
    elif form == "lazy":
        frame = frame.lazy()
    elif form == "lists":
        frame = {name: column.tolist() for name, column in rows.items()}
    elif form == "torch":
        torch = pytest.importorskip("torch")
        frame = {name: torch.from_numpy(column) for name, column in rows.items()}
    elif form == "datetime":
        frame, start = dated, "1970-01-02"
    elif form == "pandas datetime":
        frame, start = dated.to_pandas(), datetime(1970, 1, 2)
    found = replay(Rate(), frame, test_from=start, period=timedelta(hours=1))
    assert found["score"].to_list() == expected["score"].to_list()
    assert found["row"].to_list() == expected["row"].to_list()
    if form == "datetime":
        assert found.schema["period_start"] == dated.schema["time"]
        assert found["period_start"].dt.epoch("s").to_list() == expected["period_start"].to_list()


def test_local_times_of_a_zoned_column():
    times = pl.Series("time", [0, 15 * HOUR, 16 * HOUR, 17 * HOUR]).cast(pl.Datetime("us"))
    frame = pl.DataFrame(
        {
            "time": (times.cast(pl.Int64) * 10**6).cast(pl.Datetime("us", "Asia/Shanghai")),
            "label": [0, 1, 0, 1],
        }
    )
    found = replay(Rate(), frame, test_from="1970-01-02", period="1d")  # midnight in Shanghai: 16:00 UTC
    assert found["label"].to_list() == [0, 1]
    assert str(found["period_start"][0]) == "1970-01-02 00:00:00+08:00"


def test_empty_periods_are_skipped_and_counted():
    rows = log([0, START, START + 5 * HOUR])
    steps, spy = [], Spy()
    replay(spy, rows, test_from=START, test_until=START + 8 * HOUR, on_period=steps.append)
    assert [step.num_rows for step in steps] == [1, 0, 0, 0, 0, 1, 0, 0]
    assert [step.number for step in steps] == [*range(8)]
    assert {step.num_periods for step in steps} == {8}
    assert isinstance(steps[0], ReplayStep)
    assert steps[5].period == Period(START + 5 * HOUR, START + 6 * HOUR)
    assert len(spy.handed("predict")) == len(spy.handed("update")) == 2


def test_rows_after_the_range_are_handed_to_nobody():
    rows = log([0, START, START + HOUR, START + 2 * HOUR])
    spy = Spy()
    frame = replay(spy, rows, test_from=START, test_until=START + HOUR + 1)
    assert frame["row"].to_list() == [1, 2]
    assert max(past.rows["row"].max() for past in spy.handed("update")) == 2


def test_several_scores():
    class Two(Spy):
        def predict(self, rows):
            return {"left": np.zeros(len(rows)), "right": pl.Series(np.ones(len(rows)))}

    frame = replay(Two(), random_log(), test_from=START)
    assert frame.columns[-3:] == ["period_start", "left", "right"]
    assert frame["right"].unique().to_list() == [1.0]


# ---- errors ---------------------------------------------------------------------------------------


def predicting(function):
    class Model(Spy):
        name = "model A"

        def predict(self, rows):
            super().predict(rows)
            return function(self, rows)

    return Model()


def nan_for_row_2(model, rows):
    return np.where(rows["row"].to_numpy() == 2, np.nan, 0.5)


def other_names(model, rows):
    return {f"score{model.count}": np.zeros(len(rows))}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            nan_for_row_2,
            r"model A, period \[90000, 90001\), 'score': 1 scores are not finite, first nan of row 2 ",
        ),
        (lambda model, rows: np.full(len(rows), np.inf), r"first inf of row 3 \(from 0\)"),
        (
            lambda model, rows: np.zeros(len(rows) + 1),
            r"model A, period \[86400, 90000\).*3 scores for 2 rows",
        ),
        (lambda model, rows: np.zeros(1), "1 scores for 2 rows"),
        (lambda model, rows: np.zeros((len(rows), 2)), r"shape \(2, 2\).*predict_proba"),
        (lambda model, rows: 0.5, r"shape \(\)"),
        (lambda model, rows: None, r"shape \(\)"),
        (lambda model, rows: ["a"] * len(rows), "no numbers"),
        (other_names, r"gave the scores \['score1'\], periods before it \['score0'\]"),
        (lambda model, rows: {"label": np.zeros(len(rows))}, r"\['label'\] clash"),
        (lambda model, rows: {}, "gave no scores"),
    ],
)
def test_scores_that_are_not_one_finite_number_a_row(function, message):
    rows = log([0, START + 1, START + HOUR, START])
    with pytest.raises(ReplayError, match=message):
        replay(predicting(function), rows, test_from=START)


def with_column(rows, name, values):
    return {**rows, name: values}


ROWS = log([0, START, START + HOUR])


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (ROWS, {"test_from": START + 2 * HOUR}, r"no row lies in the test range.*rows lie in \[0, 90000\)"),
        (ROWS, {"test_until": START}, "no row lies in the test range"),
        (log([]), {}, "no row lies in the test range"),
        (ROWS, {"label": "click"}, r"rows lack the columns \['click'\]"),
        (ROWS, {"outcomes": ["like"]}, r"rows lack the columns \['like'\]"),
        (ROWS, {"outcomes": "label"}, "must be a sequence"),
        (ROWS, {"outcomes": ["time"]}, "cannot be hidden"),
        (ROWS, {"period": "1 week"}, "period='1 week'"),
        (ROWS, {"period": 0}, "period=0 is no whole number"),
        (ROWS, {"period": 1.5}, "no whole number"),
        (ROWS, {"period": float("nan")}, "no whole number"),
        (ROWS, {"refit": "daily", "period": "7h"}, "divides a day"),
        (ROWS, {"test_from": "yesterday"}, "no ISO date"),
        (ROWS, {"test_from": None}, "test_from must be"),
        (ROWS, {"score": "row"}, r"\['row'\] clash"),
        ([1, 2], {}, "rows must be a polars or pandas frame"),
        (with_column(ROWS, "period_start", [1, 2, 3]), {}, "'period_start' already"),
        (with_column(ROWS, "time", [0.0, 1.0, 2.0]), {}, "whole numbers or dates"),
        (with_column(ROWS, "time", pl.Series([0, None, START])), {}, r"1 times are missing, first in row 1"),
        (with_column(ROWS, "label", [0.0, 1.0, float("nan")]), {}, r"1 labels are missing, first in row 2"),
        (with_column(ROWS, "label", pl.Series([0, None, None])), {}, r"2 labels are missing, first in row 1"),
        (with_column(ROWS, "time", ROWS["time"] + 1_650_000_000_000), {}, "time_unit='ms'"),
        (with_column(ROWS, "tab", [1]), {}, "columns differ in length"),
        (with_column(ROWS, "tab", np.zeros((3, 2))), {}, r"shape \(3, 2\)"),
        (ROWS, {"period": 1, "test_until": 10**9}, "more than 1,000,000 periods"),
        (ROWS, {"events": {"at": [1]}}, r"events lack the columns \['time'\]"),
        (ROWS, {"events": {"time": [1, 5], "available_time": [1, 4]}}, "row 1 .* known before it happens"),
    ],
)
def test_wrong_rows_and_options(rows, options, message):
    with pytest.raises(ReplayError, match=message):
        replay(Spy(), rows, **{"test_from": START, **options})


def test_an_error_of_the_model_says_what_it_was_called_for():
    def fail(model, rows):
        raise KeyError("tab")

    with pytest.raises(KeyError) as caught:
        replay(predicting(fail), ROWS, test_from=START)
    assert caught.value.__notes__ == ["raised while Model scored the period [86400, 90000)"]


def test_importing_takes_no_heavy_library():
    code = (
        "import sys, graphrec.evaluation.replay_leak, graphrec.evaluation.replay_models;"
        "found = {'torch', 'sklearn', 'pandas', 'matplotlib', 'torch_geometric'} & set(sys.modules);"
        "sys.exit(str(found) if found else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("option", "value"), [("time_unit", "min"), ("update", "often"), ("refit", "hourly")]
)
def test_unknown_options_without_run_time_type_checks(option, value):
    code = (
        "from graphrec.evaluation.replay import replay\n"
        "from graphrec.evaluation.replay_tables import ReplayError\n"
        "class Model:\n"
        "    fit = update = lambda self, past: None\n"
        "    predict = lambda self, rows: [0.0] * len(rows)\n"
        f"try: replay(Model(), {{'time': [0, 1], 'label': [0, 1]}}, test_from=1, {option}={value!r})\n"
        "except ReplayError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.startswith(f"{option} must be one of (")
    assert said.endswith(f"got {value!r}\n")


def test_seconds_taken_for_milliseconds_are_told():
    rows = pl.DataFrame({"time": [1_650_000_000, 1_650_003_600], "label": [0, 1]})
    with pytest.raises(ReplayError, match="say time_unit='s'"):
        replay(SklearnModel(None, ["time"]), rows, test_from=1_650_003_600, time_unit="ms")


def test_tensors_with_a_gradient_are_scores():
    class Constant:
        def fit(self, past):
            self.weight = torch.ones(1, requires_grad=True)

        def predict(self, rows):
            return self.weight.expand(len(rows)) / 2

    rows = pl.DataFrame({"time": [10, 20, 30], "label": [0, 1, 1]})
    assert replay(Constant(), rows, test_from=20)["score"].to_list() == [0.5, 0.5]
