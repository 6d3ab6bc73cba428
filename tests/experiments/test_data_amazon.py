"""An Amazon pair as the experiments read it: periods, candidates of a user and day, counts."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from experiments.data_amazon import DAY, FIRST_IMPRESSION, amazon_inputs, last_windows
from graph_builders.behavior_graph import Relation

SHARED = Path(__file__).parents[3] / "shared/data/amazon-abxi-cross-domain/abe"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the files in {SHARED}")


@pytest.fixture(scope="module")
def inputs():
    return amazon_inputs("abe", str(SHARED))


def test_periods_and_windows(inputs):
    data = inputs.data
    assert (data.as_of % (30 * DAY) == 0).all()
    delay = data.impressions.time - data.as_of
    assert 0 <= int(delay.min()) <= int(delay.max()) < 30 * DAY
    assert int(data.impressions.time.min()) >= FIRST_IMPRESSION
    first, last = last_windows(inputs, 2)
    assert inputs.bounds(first)[1] == inputs.bounds(last)[0]
    start, end = inputs.bounds(last)
    assert end - start == 180 * DAY
    assert end <= int(data.impressions.time.max()) + DAY < end + 30 * DAY
    with pytest.raises(ValueError, match="2014-01-12 lies 2 days behind the start of a period"):
        inputs.bounds("2014-01-12")


def test_nothing_about_the_user_tells_their_rows_apart(inputs):
    """Candidates of a user and day share everything but the item, so nothing tells who reviews."""
    data = inputs.data
    key = data.impressions.user * 100_000 + data.impressions.time // DAY
    group, inverse = key.unique(return_inverse=True)
    for name in inputs.feature_names:
        if not name.startswith("user:"):
            continue
        value = data.dense[:, inputs.feature_names.index(name)].nan_to_num(-1)
        low, high = (
            torch.zeros(len(group)).scatter_reduce(0, inverse, value, how, include_self=False)
            for how in ("amin", "amax")
        )
        assert torch.equal(low, high), name
    assert data.impressions.label.mean().item() == pytest.approx(0.2, abs=1e-3)


def test_past_counts_equal_a_plain_count(inputs):
    data, names, ids = inputs.data, inputs.feature_names, inputs.graph.ids
    events = inputs.tables.events.frame
    rows = np.random.default_rng(0).choice(len(data.impressions), 12, replace=False)
    users = ids["user"].ids(data.impressions.user[rows]).to_list()
    items = ids["item"].ids(data.impressions.item[rows]).to_list()
    counted = 0
    for row, user, item in zip(rows.tolist(), users, items, strict=True):
        as_of, value = int(data.as_of[row]), dict(zip(names, data.dense[row].tolist(), strict=True))
        past = events.filter(pl.col("time") + DAY - 1 < as_of)
        own, reviews = past.filter(pl.col("user_id") == user), past.filter(pl.col("item_id") == item)
        for domain in ("internal", "external"):
            assert value[f"user:count[{domain}]"] == own.filter(pl.col("domain") == domain).height
        assert value["item:count[internal]"] == reviews.height
        recent = reviews.filter(pl.col("time") + DAY - 1 >= as_of - 90 * DAY)
        assert value[f"item:count[internal]/{90 * DAY}"] == recent.height
        counted += reviews.height
    assert counted > 10


def test_every_count_tells_rows_apart(inputs):
    """A column that is the same for all rows, or missing for all, says nothing and breaks the trees' bins."""
    for number, name in enumerate(inputs.feature_names):
        value = inputs.data.dense[:, number]
        assert len(value[~value.isnan()].unique()) > 2, name


def test_reviews_play_the_part_of_clicks(inputs):
    assert inputs.short_term_relations(("internal", "external"), ("click", "skip")) == [
        Relation("internal", "review"),
        Relation("external", "review"),
    ]
    assert {*inputs.long_term_graph().relations} == {*inputs.graph.relations}
    times = inputs.snapshot_times(inputs.bounds(last_windows(inputs)[0])[0])
    assert times[0] <= int(inputs.data.as_of.min())
    assert times.step == 30 * DAY
