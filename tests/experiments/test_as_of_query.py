"""Queries as of their own times: they know the hour that they lie in, up to themselves and no further."""

from dataclasses import replace

import polars as pl
import pytest
import torch

from experiments.config import LSTTMConfig
from experiments.inputs import HOUR, load_inputs
from experiments.protocol import prepare_day, run_neural
from graph_builders.splits import day_bounds
from graphrec.training.batches import ShortTermConfig, rows_between
from graphrec.training.loop import OptimizerConfig
from graphrec.training.meta_tasks import MetaConfig, MetaTasks
from graphrec.training.online import OnlineConfig
from tests.experiments.kuairand_slice import add_row, sliced_log, write_slice

DAY = "2022-05-04"
START, END = day_bounds(DAY, utc_offset_hours=8, time_resolution="ms")
MODEL = LSTTMConfig(
    long_term=False,
    optimizer=OptimizerConfig(epochs=1, batch_size=256),
    channels=4,
    short_term=ShortTermConfig(num_neighbors=3, num_layers=1, edge_features=True, degree_features=True),
)


def inputs_of(folder, log):
    return load_inputs(path=write_slice(folder, log), as_of="query")


def scores_of(inputs):
    day = prepare_day(inputs, DAY)
    found = run_neural(
        day,
        MODEL,
        0,
        updates={"none": OnlineConfig(form="none"), "union": OnlineConfig(form="union")},
        snapshots=None,
        preferences=None,
        period=inputs.period,
        device=torch.device("cpu"),
    )
    return {name: torch.from_numpy(score) for name, score in found.score.items()}


@pytest.fixture(scope="module")
def log():
    return sliced_log()


@pytest.fixture(scope="module")
def inputs(log, tmp_path_factory):
    return inputs_of(tmp_path_factory.mktemp("query") / "data", log)


def test_inputs_are_as_of_the_impressions_times(inputs):
    assert torch.equal(inputs.data.as_of, inputs.data.impressions.time)
    assert inputs.period == HOUR


def test_tasks_are_of_whole_hours(inputs):
    data, rows = inputs.data, torch.arange(2000)
    config = MetaConfig(num_tasks=2, support=16, query=16, least_rows=8)
    by_hour = replace(data, as_of=(data.as_of + inputs.utc_offset) // HOUR * HOUR - inputs.utc_offset)
    found = MetaTasks(data, rows, config, utc_offset=inputs.utc_offset, period=HOUR).plan(0)
    expected = MetaTasks(by_hour, rows, config, utc_offset=inputs.utc_offset).plan(0)
    assert len(found) == len(expected) > 10
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.support, other.support)
        assert torch.equal(one.query, other.query)


@pytest.mark.slow
def test_an_event_changes_what_is_asked_later_in_its_hour_and_nothing_before(log, inputs, tmp_path):
    """Clicks in another tab in the middle of an hour: they change no impression, but counts and the graph."""
    data = inputs.data
    test = data.impressions.time[rows_between(data, START, END)]
    begin = START + 12 * HOUR
    in_hour = test[(test >= begin) & (test < begin + HOUR)]
    time = int(in_hour.median())
    assert (in_hour < time).sum() > 3
    later = log.filter(pl.col("time_ms").is_between(time + 1, begin + HOUR - 1) & (pl.col("tab") == 1))
    new = log
    for user, item in later.select("user_id", "video_id").rows():
        values = {"user_id": user, "video_id": item, "time_ms": time, "tab": 0}
        new = add_row(new, **values, is_click=1, long_view=1, is_like=1, play_time_ms=9_000)
    changed = inputs_of(tmp_path / "data", new)
    assert torch.equal(changed.data.impressions.time, data.impressions.time)
    until = data.as_of <= time
    assert torch.equal(changed.data.dense[until].nan_to_num(-1.0), data.dense[until].nan_to_num(-1.0))
    old, found = scores_of(inputs), scores_of(changed)
    rest = (test > time) & (test < begin + HOUR)
    for form in old:
        assert torch.equal(found[form][test <= time], old[form][test <= time])
        assert (found[form][rest] != old[form][rest]).float().mean() > 0.5
