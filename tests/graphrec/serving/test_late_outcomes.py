"""Impressions whose outcome becomes known later: nothing is learned from them before, and all of it then."""

import numpy as np
import polars as pl
import pytest
import torch

from graphrec.serving import OnlineRanker, write_day_folder
from tests.graphrec.serving.toy_day import NUM_USERS, PERIOD, START, toy_day, toy_events

ITEMS = [f"v{i}" for i in range(12)]
KNOWN_AT = START + 2 * PERIOD + 700  # in the third period


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("late")
    for form in ("union", "chained"):
        write_day_folder(root / form, toy_day(form=form, num_layers=1))
    return root


def impressions(known_at, seed=0, start=START):
    """Fifty impressions of a period; those at once are known when they happen."""
    rng = np.random.default_rng(seed)
    time = np.sort(rng.integers(start, start + PERIOD, 50))
    return pl.DataFrame(
        {
            "user_id": 100 + rng.integers(NUM_USERS, size=50),
            "item_id": [f"v{i}" for i in rng.integers(12, size=50)],
            "time": time,
            "behavior": rng.choice(["click", "skip"], 50),
            "domain": ["internal"] * 50,
            "available_time": time if known_at is None else np.full(50, known_at),
            "tab": rng.integers(3, size=50),
        }
    )


def flipped(events):
    return events.with_columns(
        behavior=pl.when(pl.col("behavior") == "click").then(pl.lit("skip")).otherwise(pl.lit("click"))
    )


def scores(ranker):
    return np.array([ranker.rank(100 + u, ITEMS, {"tab": 1}, ranker.period_start).score for u in range(5)])


def weights(ranker):
    return [p.detach().clone() for p in ranker._updater.parameters]


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("form", ["union", "chained"])
def test_an_outcome_does_not_show_before_it_is_known(folder, tmp_path, form):
    found = {}
    for name, events in (("given", impressions(KNOWN_AT)), ("flipped", flipped(impressions(KNOWN_AT)))):
        with OnlineRanker.open(folder / form, state=tmp_path / name) as ranker:
            before = weights(ranker)
            ranker.append(events)
            found[name] = []
            for period in (1, 2, 3, 4):
                ranker.end_period(START + period * PERIOD)
                found[name].append(scores(ranker))
                assert same(before, weights(ranker)) == (period != 3)  # it is learned from then, and once
                before = weights(ranker)
    for period, (given, other) in enumerate(zip(found["given"], found["flipped"], strict=True), 1):
        assert np.array_equal(given, other) == (period < 3)


def test_it_is_learned_from_with_the_inputs_of_its_own_period(folder, tmp_path):
    """The union's gradient is taken at the day's weights, so it is that of the impression known at once."""
    found = {}
    between = toy_events(60, START + PERIOD, START + 2 * PERIOD, 3).filter(pl.col("domain") == "external")
    assert len(between)  # the graph and the counts have moved on when the outcome becomes known
    for name, known_at in (("at once", None), ("late", KNOWN_AT)):
        with OnlineRanker.open(folder / "union", state=tmp_path / name) as ranker:
            ranker.append(impressions(known_at))
            ranker.append(between)
            ranker.end_period(START + 3 * PERIOD)
            found[name] = [g.clone() for g in ranker._updater.gradient_sum]
            assert ranker._updater.num_rows == 50
    moved = 0.0
    for wanted, given in zip(found["at once"], found["late"], strict=True):
        torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-6)
        moved = max(moved, float(given.abs().max()))
    assert moved > 1


@pytest.mark.parametrize("form", ["union", "chained"])
@pytest.mark.parametrize("checkpoint", [True, False])
def test_what_waits_is_there_after_a_restart(folder, tmp_path, form, checkpoint):
    def parts():
        for period in range(5):
            start = START + period * PERIOD
            late = impressions(start + 2 * PERIOD + 5, seed=period, start=start)
            yield pl.concat([late.head(20), impressions(None, seed=9 + period, start=start).head(20)])

    with OnlineRanker.open(folder / form, state=tmp_path / "one") as ranker:
        for part in parts():
            ranker.append(part)
        ranker.end_period(START + 7 * PERIOD)
        wanted = weights(ranker), scores(ranker)
    for part in parts():
        with OnlineRanker.open(folder / form, state=tmp_path / "many") as ranker:
            ranker.append(part)
        if not checkpoint:
            (tmp_path / "many" / "checkpoint.pt").unlink(missing_ok=True)
    with OnlineRanker.open(folder / form, state=tmp_path / "many") as ranker:
        ranker.end_period(START + 7 * PERIOD)
        assert same(wanted[0], weights(ranker))
        np.testing.assert_array_equal(scores(ranker), wanted[1])
