"""The leak check: models that cheat are caught, those that do not pass."""

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression, SGDClassifier

from graph_builders.events import EventSchema, read_events
from graphrec.evaluation.replay_leak import ReplayLeakError, check_replay_leak
from graphrec.evaluation.replay_models import SklearnModel
from graphrec.evaluation.replay_tables import ReplayError

HOUR = 3600
START = 24 * HOUR


def make_rows(num_rows=600, seed=0):
    generator = np.random.default_rng(seed)
    user = generator.integers(0, 20, num_rows)
    label = (generator.random(num_rows) < 0.1 + 0.04 * user).astype(np.int64)
    return pl.DataFrame(
        {
            "time": generator.integers(0, 30 * HOUR, num_rows),
            "label": label,
            "user": user,
            "row": np.arange(num_rows),
            "watched": generator.random(num_rows) + label,
            "a": generator.normal(size=num_rows) + label,
        }
    )


ROWS = make_rows()
EVENTS = make_rows(300, seed=1).select("time", "user", available_time=pl.col("time") + HOUR // 2)


class UserRates:
    """Honest: smoothed click rates of users from what was handed over."""

    def __init__(self, column="label"):
        self.column = column
        self.sums = np.ones((2, 20))

    def fit(self, past):
        self.update(past)

    def update(self, past):
        np.add.at(self.sums[0], past.rows["user"].to_numpy(), past.rows[self.column].to_numpy())
        np.add.at(self.sums[1], past.rows["user"].to_numpy(), 1)

    def predict(self, rows):
        user = rows["user"].to_numpy()
        return self.sums[0, user] / self.sums[1, user]


class EventCounts:
    """Honest: counts of a user's events that became known."""

    def __init__(self):
        self.count = np.zeros(20)

    def fit(self, past):
        self.update(past)

    def update(self, past):
        frame = past.events if isinstance(past.events, pl.DataFrame) else past.events.frame
        np.add.at(self.count, frame["user"].to_numpy(), 1)

    def predict(self, rows):
        return self.count[rows["user"].to_numpy()]


def check(make_model, rows=ROWS, **options):
    return check_replay_leak(make_model, rows, test_from=START, outcomes=["watched"], **options)


# ---- honest models --------------------------------------------------------------------------------


@pytest.mark.parametrize("update", ["chained", "union"])
@pytest.mark.parametrize("column", ["label", "watched"])
def test_honest_rates_pass(update, column):
    found = check(lambda rows: UserRates(column), update=update, num_periods=3)
    assert len(found.periods) == 3
    assert found.periods[0].start == START
    assert found.num_worlds == 9
    assert found.num_compared > 0
    assert found.num_changed_later > 0


@pytest.mark.parametrize("form", ["frame", "log"])
def test_honest_event_counts_pass(form):
    events = EVENTS
    if form == "log":
        schema = EventSchema(
            user="user", item="user", time_bounds=None, available_time="available_time", attributes=("user",)
        )
        events = read_events(EVENTS, schema)
    assert check(lambda rows, events: EventCounts(), events=events).num_changed_later > 0


def test_estimators_pass():
    def sgd(rows):
        return SklearnModel(SGDClassifier(loss="log_loss", random_state=0), ["a"])

    assert check(sgd).num_changed_later > 0
    fixed = check(lambda rows: SklearnModel(LogisticRegression(), ["a"]))
    assert fixed.num_changed_later == 0  # no update: nothing needs to change


def test_daily_refit_is_learning():
    rows = pl.concat([ROWS, ROWS.with_columns(pl.col("time") + 24 * HOUR)])
    assert check(lambda rows: UserRates(), rows, update="none", refit="daily").num_changed_later > 0


# ---- cheats ---------------------------------------------------------------------------------------


class ReadsLabels(UserRates):
    """Keeps the labels of the whole log and looks its rows up."""

    def __init__(self, rows, column="label"):
        super().__init__()
        self.labels = dict(rows.select("row", column).iter_rows())

    def predict(self, rows):
        return np.array([float(self.labels[row]) for row in rows["row"]])


class WholeLogRates(UserRates):
    """Target statistics of the whole log, computed before the replay."""

    def __init__(self, rows):
        super().__init__()
        table = rows.group_by("user").agg(pl.col("label").mean())
        self.rates = dict(table.iter_rows())

    def predict(self, rows):
        return np.array([self.rates[user] for user in rows["user"]])


class WholeLogScale(UserRates):
    """Scales a feature by the mean of the whole log: no label is in it, but the future is."""

    def __init__(self, rows):
        super().__init__()
        self.mean = rows["a"].mean()

    def predict(self, rows):
        return super().predict(rows) + rows["a"].to_numpy() - self.mean


class EventsOfTheFuture(EventCounts):
    """Counts events up to and with the period's start: one bound that is off by one."""

    def __init__(self, events, column):
        super().__init__()
        self.events, self.column = events, column

    def predict(self, rows):
        known = self.events.filter(pl.col(self.column) <= rows["period_start"][0])
        count = np.bincount(known["user"], minlength=20)
        return super().predict(rows) + count[rows["user"].to_numpy()]


def test_labels_that_a_model_keeps_are_found():
    message = (
        r"ReadsLabels sees what it may not know: predictions for the period \[86400, 90000\) changed after "
    )
    with pytest.raises(ReplayLeakError, match=message):
        check(ReadsLabels)
    with pytest.raises(ReplayLeakError, match="predictions for the period"):
        check(lambda rows: ReadsLabels(rows, "watched"))


def test_the_rows_named_are_those_of_the_period():
    with pytest.raises(ReplayLeakError) as caught:
        check(ReadsLabels)
    first = ROWS.filter(pl.col("time").is_between(START, START + HOUR, closed="left"))["row"].sort()
    assert f"{len(first)} rows, such as {', '.join(map(str, first[:5]))} (from 0)" in str(caught.value)


@pytest.mark.parametrize("make", [WholeLogRates, WholeLogScale])
def test_statistics_of_the_whole_log_are_found(make):
    with pytest.raises(ReplayLeakError, match=make.__name__):
        check(make)


@pytest.mark.parametrize("column", ["time", "available_time"])
def test_events_one_moment_too_early_are_found(column):
    with pytest.raises(ReplayLeakError, match="EventsOfTheFuture"):
        check(lambda rows, events: EventsOfTheFuture(events, column), events=EVENTS)


def test_events_bounded_strictly_pass():
    class Strict(EventsOfTheFuture):
        def predict(self, rows):
            known = self.events.filter(pl.col(self.column) < rows["period_start"][0])
            return np.bincount(known["user"], minlength=20)[rows["user"].to_numpy()]

    assert check(lambda rows, events: Strict(events, "available_time"), events=EVENTS).num_changed_later
    with pytest.raises(ReplayLeakError):
        check(lambda rows, events: Strict(events, "time"), events=EVENTS)


def test_a_leak_that_only_a_later_period_has():
    class Late(ReadsLabels):
        def predict(self, rows):
            late = rows["period_start"][0] >= START + 2 * HOUR
            return super().predict(rows) if late else UserRates.predict(self, rows)

    with pytest.raises(ReplayLeakError, match=r"period \[9\d+, "):
        check(Late, num_periods=9)


def test_labels_from_elsewhere_show_as_a_model_that_never_learns():
    with pytest.raises(ReplayError, match="ReadsLabels never learns from what follows"):
        check(lambda rows: ReadsLabels(ROWS))


def test_a_random_model_is_told_apart():
    class Random(UserRates):
        def predict(self, rows):
            return np.random.default_rng().random(len(rows))

    with pytest.raises(ReplayError, match="two replays of one log differ: fix the model's random seeds"):
        check(lambda rows: Random())


# ---- features -------------------------------------------------------------------------------------


def rates_before(before, rows):
    """A user's smoothed click rate over the rows before."""
    rate = before.group_by("user").agg(rate=(pl.col("label").sum() + 1) / (pl.len() + 2))
    return rows.join(rate, on="user", how="left", maintain_order="left").select(pl.col("rate").fill_null(0.5))


def with_rates(rows, honest):
    if not honest:
        return rows.with_columns(rate=(pl.col("label").sum().over("user") + 1) / (pl.len().over("user") + 2))
    rates = []
    for user, time in rows.select("user", "time").iter_rows():
        start = time // HOUR * HOUR
        before = rows.filter((pl.col("time") < start) & (pl.col("user") == user))["label"]
        rates.append((before.sum() + 1) / (len(before) + 2))
    return rows.with_columns(rate=pl.Series(rates))


def sgd_on_rates(rows):
    return SklearnModel(SGDClassifier(loss="log_loss", random_state=0), ["rate"])


def test_features_of_the_whole_frame_are_found_by_computing_them_anew():
    rows = with_rates(ROWS, honest=False)
    check(sgd_on_rates, rows)  # hiding labels cannot guard a column: this is why there is ``features``
    with pytest.raises(ReplayLeakError, match=r"column 'rate' of the period \[82800, 86400\) is not what"):
        check(sgd_on_rates, rows, features=rates_before)
    check(sgd_on_rates, with_rates(ROWS, honest=True), features=rates_before)


def test_a_feature_that_leaks_in_the_test_range_alone():
    honest = with_rates(ROWS, honest=True)
    test = pl.col("time") >= START
    rows = honest.with_columns(rate=pl.when(test).then("label").otherwise("rate"))
    with pytest.raises(ReplayLeakError, match=r"column 'rate' of the period \[86400, 90000\)"):
        check(sgd_on_rates, rows, features=rates_before)


def test_features_are_handed_only_what_precedes():
    def spying(before, rows):
        assert before["time"].max() < rows["period_start"][0] <= rows["time"].min()
        assert {"label", "watched"} <= {*before.columns}
        assert not {"label", "watched"} & {*rows.columns}
        seen.append("a" in rows.columns)
        return {"a": before["user"].sum() + rows["user"]}

    seen = []
    with pytest.raises(ReplayLeakError, match="column 'a'"):
        check(lambda rows: UserRates(), features=spying)
    assert seen == [True, False]  # the second time it has nothing to hand back


def test_features_of_other_types_and_shapes():
    rows = ROWS.with_columns(tab=pl.Series(["x", None, "y"]).sample(len(ROWS), with_replacement=True, seed=1))

    def tabs(before, rows):
        return {"tab": table["tab"].gather(rows["row"].to_list())}

    table = rows
    check(lambda rows: UserRates(), rows, features=tabs)
    with pytest.raises(ReplayLeakError, match="column 'tab'"):
        check(lambda rows: UserRates(), rows, features=lambda before, rows: {"tab": ["z"] * len(rows)})
    with pytest.raises(ReplayError, match="give one a row"):
        check(lambda rows: UserRates(), rows, features=lambda before, rows: {"a": [1.0]})
    with pytest.raises(ReplayError, match=r"lack the columns \['b'\]"):
        check(lambda rows: UserRates(), rows, features=lambda before, rows: {"b": rows["a"]})


def test_wrong_options():
    with pytest.raises(ReplayError, match="num_periods"):
        check(lambda rows: UserRates(), num_periods=0)
    with pytest.raises(ReplayError, match="all labels are equal"):
        check(lambda rows: UserRates(), ROWS.with_columns(label=pl.lit(1)))


def test_a_single_period():
    rows = ROWS.filter(pl.col("time") < START + HOUR)
    found = check(lambda rows: UserRates(), rows)
    assert len(found.periods) == 1
    assert found.num_changed_later == 0
    with pytest.raises(ReplayLeakError):
        check(ReadsLabels, rows)


def test_datetimes_and_graded_labels():
    rows = ROWS.with_columns(pl.from_epoch("time"), label=pl.col("user") % 5 + 0.5)
    events = EVENTS.with_columns(pl.from_epoch("time"), pl.from_epoch("available_time"))
    options = {"test_from": "1970-01-02", "outcomes": ["watched"]}
    assert check_replay_leak(lambda rows: UserRates(), rows, **options).num_changed_later
    assert check_replay_leak(lambda rows, events: EventCounts(), rows, events=events, **options)
    with pytest.raises(ReplayLeakError, match=r"period \[1970-01-02 00:00:00, 1970-01-02 01:00:00\)"):
        check_replay_leak(ReadsLabels, rows, **options)
    with pytest.raises(ReplayLeakError):
        check_replay_leak(
            lambda rows, events: EventsOfTheFuture(events, "available_time"), rows, events=events, **options
        )
