"""The benchmark of whole lives on tiny sizes: every case, scaled and extrapolated parts, the table."""

import json

import pytest
import torch

from experiments.benchmarks.user_lives import (
    DAY_SECONDS,
    DAYS,
    START,
    LivesConfig,
    extrapolate,
    lives_section,
    make_lives,
    measure_lurm,
    measure_transformer,
    run,
)

TINY = LivesConfig(
    users=(8, 4, 1),
    events=(10, 20, 80),
    measured_users=(4, 4, 1),
    transformer_users=(2, 2, 1),
    transformer_events=20,
    num_interests=50,
    channels=8,
    num_anchors=2,
)


def test_lives_are_sorted_and_before_the_query():
    history, now = make_lives(3, 40)
    assert history.ptr.tolist() == [0, 40, 80, 120]
    assert bool((history.time.view(3, 40).diff(dim=1) >= 0).all())
    assert START <= int(history.time.min()) < int(history.time.max()) < int(now[0])
    assert int(now[0]) == START + DAYS * DAY_SECONDS


def test_extrapolation_is_that_of_a_parabola():
    fits = [(10, 3.0 * 10 + 0.5 * 10**2), (20, 3.0 * 20 + 0.5 * 20**2)]
    assert extrapolate(fits, 100) == pytest.approx(3.0 * 100 + 0.5 * 100**2)
    assert extrapolate([(10, 10.0), (20, 19.0)], 100) == pytest.approx(95.0)  # never less than a line
    with pytest.raises(ValueError, match="needs two measured lengths"):
        extrapolate(fits[:1], 100)


def test_lines_are_scaled_and_the_table_says_so(tmp_path, monkeypatch):
    made = {measure_lurm: {"counting": 1.0, "encoding": 2.0, "peak_mib": 5.0, "bag_mib": 3.0}}

    def alone(measure, config, num_users, num_events):
        seconds = 0.5 * num_users * num_events
        return made.get(measure, {"encoding": seconds, "peak_mib": 7.0})

    monkeypatch.setattr("experiments.benchmarks.user_lives.measure_alone", alone)
    config = LivesConfig(**{**vars(TINY), "out": tmp_path / "lives.jsonl"})
    lines = run(config)
    assert [json.loads(line) for line in config.out.read_text().splitlines()] == json.loads(json.dumps(lines))
    assert [line["lurm_seconds"] for line in lines] == [6.0, 3.0, 3.0]
    assert [line["transformer_seconds"] for line in lines] == [40.0, 40.0, 40.0]
    assert lines[2]["transformer_peak_mib"] is None
    table = lives_section(lines)
    assert "| 8 | 10 | 2 + 4 * | 5 | 6 | 40 * | 7 |" in table
    assert "| 1 | 80 | 1 + 2 | 5 | 3 | 40 (extrapolated) |  |" in table


def test_both_are_measured():
    num_threads = torch.get_num_threads()
    found = measure_lurm(TINY, 4, 10)
    assert set(found) == {"counting", "encoding", "peak_mib", "bag_mib"}
    assert found["bag_mib"] > 0
    assert found["encoding"] > 0
    assert measure_transformer(TINY, 2, 20)["encoding"] > 0
    assert torch.get_num_threads() == num_threads


def test_as_many_values_of_each():
    with pytest.raises(ValueError, match="as many values"):
        LivesConfig(users=(1,))
