"""Simple scorers on the simulated log: each planted effect has something to gain, and nothing at zero."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.benchmarks.simulator import SOURCES, _Rows, scores
from graph_builders.datasets import SimulatorConfig, config_of_size, simulate

DEFAULT = SimulatorConfig()


@pytest.fixture(scope="module")
def found():
    return scores(simulate(DEFAULT))


def shares(found):
    """What each source closes of the gap, alone and on top of the others."""
    gap = found["oracle"] - found["fields"]
    return {
        name: (
            (found[f"fields + {name}"] - found["fields"]) / gap,
            (found["all"] - found[f"all but {name}"]) / gap,
        )
        for name in SOURCES
    }


def test_the_gap_is_wide_and_each_effect_closes_a_part(found):
    assert found["fields"] < 0.62
    assert found["oracle"] > 0.8
    assert found["item CTR so far"] > 0.53
    assert 0.52 < found["user CTR so far"] < 0.6
    closed = shares(found)
    assert min(closed["external events"]) > 0.15
    assert min(closed["hot topics"]) > 0.12
    assert closed["user's clicks"][0] > 0.2
    assert found["all"] < found["oracle"] - 0.05


def test_an_effect_at_zero_closes_nothing():
    without = shares(scores(simulate(replace(DEFAULT, trend=0.0))))
    assert max(without["hot topics"]) < 0.012
    assert min(without["external events"]) > 0.2
    without = shares(scores(simulate(replace(DEFAULT, external_interest=0.0))))
    assert max(without["external events"]) < 0.005
    assert min(without["hot topics"]) > 0.12


def test_sums_over_the_past_leave_out_the_hour_itself():
    data = simulate(config_of_size(5_000, num_days=2))
    rows = _Rows(data)
    value = np.arange(len(rows.user), dtype=float)
    hour = data.impressions["time"].to_numpy() // 3600
    total, decayed = rows.past(rows.topic, value), rows.past(rows.topic, value, decay_hours=2.0)
    assert total.any()
    for row in range(0, len(value), 97):
        earlier = (hour < hour[row]) & (rows.topic == rows.topic[row])
        assert total[row] == value[earlier].sum()
        weight = np.exp((hour[earlier] - hour[row]) / 2.0)
        np.testing.assert_allclose(decayed[row], (value[earlier] * weight).sum(), rtol=1e-9)
