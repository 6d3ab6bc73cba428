"""Past counts and scaling for serving: the same numbers as the functions that made the training data."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphrec.serving.counts import CountedFeatures
from graphrec.serving.event_frame import check_events, counted_events
from graphrec.serving.scaling import FittedScaler
from graphrec.training.scaling import QuantileScaler
from tests.graphrec.serving.toy_day import AUTHOR, NUM_USERS, START, toy_day, toy_events, wanted_counts


@pytest.fixture(scope="module")
def day():
    return toy_day()


def queries(seed, num_rows, late):
    rng = np.random.default_rng(seed)
    columns = (
        rng.integers(NUM_USERS, size=num_rows),
        rng.integers(70, size=num_rows),
        rng.integers(3, size=num_rows),
    )
    # a request's queries share one time; rows to compare may have many
    times = rng.integers(START - 86_400, late, rng.choice([1, 3, 100]))
    return columns, rng.choice(times, num_rows)


@given(seed=st.integers(0, 100), num_rows=st.integers(0, 40))
def test_equal_past_counts(day, seed, num_rows):
    today = toy_events(80, START, START + 20_000, seed)
    before = toy_events(400, START - 86_400, START, 0)
    plan = day.counts.plan
    counts = day.counts.with_delta(
        counted_events(check_events(today, day.config, day.ids), day.config, day.ids, plan)
    )
    (user, item, tab), as_of = queries(seed, num_rows, START + 20_000)
    names, wanted = wanted_counts(before.vstack(today), user, item, tab, as_of)
    program = plan.program(np.arange(len(names)))
    np.testing.assert_array_equal(counts.compute(program, user, item, tab[:, None], as_of), wanted)
    # some of the features, in another order, are the same
    some = np.random.default_rng(seed).permutation(len(names) - 2)[:5]
    found = counts.compute(plan.program(some), user, item, tab[:, None], as_of)
    np.testing.assert_array_equal(found, wanted[:, some])


def test_an_event_counts_when_it_is_known_and_not_at_its_own_time(day):
    event = toy_events(1, START, START + 1, 0).with_columns(
        behavior=pl.lit("like"), domain=pl.lit("internal")
    )
    event = event.with_columns(available_time=event["time"] + 100)
    plan = day.counts.plan
    counts = day.counts.with_delta(
        counted_events(check_events(event, day.config, day.ids), day.config, day.ids, plan)
    )
    place = plan.spec.features.index("user+item:count[like]")
    row = np.array([int(event["user_id"][0]) - 100]), np.array([int(event["item_id"][0][1:])])
    seen = [
        counts.compute(plan.program(np.array([place])), *row, np.zeros((1, 1), np.int64), np.array([time]))[
            0, 0
        ]
        for time in (START, START + 100, START + 101)
    ]
    assert seen[0] == seen[1] == seen[2] - 1


def test_unknown_users_and_items_have_no_events_of_their_own(day):
    plan, names = day.counts.plan, day.counts.plan.spec.features
    today = toy_events(50, START, START + 100, 3)
    strange = today.with_columns(user_id=today["user_id"] + 1000, item_id=today["item_id"] + "!")
    counts = day.counts.with_delta(
        counted_events(check_events(strange, day.config, day.ids), day.config, day.ids, plan)
    )
    row = (
        np.array([NUM_USERS]),
        np.array([len(AUTHOR) - 1]),
        np.zeros((1, 1), np.int64),
        np.array([START + 9999]),
    )
    found = dict(zip(names, counts.compute(plan.program(np.arange(len(names))), *row)[0], strict=True))
    assert found["user:count[shown]"] == found["item:count[shown]"] == 0
    assert found["author:count[shown]"] > 0  # items without a known author are a group, as in training
    assert found["tab:count[shown]"] > 0
    assert np.isnan(found["user:length"])


def test_mistakes_are_named(day):
    spec = day.counts.plan.spec

    def plan(**changed):
        return type(day.counts.plan)(replace(spec, **changed), AUTHOR[:, None], NUM_USERS, (3,))

    with pytest.raises(ValueError, match="'user=count' is no name of a past count"):
        plan(features=("user=count",))
    with pytest.raises(ValueError, match="other columns than"):
        plan(features=("user+shop:count[shown]",))
    with pytest.raises(ValueError, match="counts 'buy', which is none of"):
        plan(features=("user:count[buy]",))
    with pytest.raises(ValueError, match="too many groups"):
        type(day.counts.plan)(
            replace(spec, features=("user+item+tab:count[shown]",)), AUTHOR[:, None], 2**40, (2**20,)
        )
    assert CountedFeatures.from_json(spec.to_json()).to_json() == spec.to_json()


@given(seed=st.integers(0, 50))
def test_scaler_equals_the_fitted_one(seed):
    rng = np.random.default_rng(seed)
    values = np.column_stack(
        [
            rng.normal(size=300),
            rng.integers(0, 4, 300),  # repeated quantiles
            rng.exponential(1e6, 300).round(),
            np.where(rng.random(300) < 0.3, np.nan, rng.random(300)),
            np.zeros(300),
            np.full(300, np.nan),
        ]
    ).astype(np.float32)
    scaler = QuantileScaler.fit(
        torch.from_numpy(values[:200]), torch.zeros(200, dtype=torch.int64), fit_until=1
    )
    fitted = FittedScaler.of(scaler)
    values[200:210] *= 3  # beyond what was seen
    features = np.arange(6)
    wanted = scaler.transform(torch.from_numpy(values)).numpy()
    np.testing.assert_array_equal(fitted.transform(values, features), wanted)
    some = np.array([3, 0])
    np.testing.assert_array_equal(fitted.columns(some), [3, 0, 6])
    np.testing.assert_array_equal(fitted.transform(values[:, some], some), wanted[:, fitted.columns(some)])
    assert fitted.num_scaled == wanted.shape[1]
