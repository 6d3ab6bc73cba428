"""Simulated behaviour as the experiments read it, against plain polars."""

import numpy as np
import polars as pl
import pytest
import torch

from experiments.config import DATA_SETTINGS
from experiments.data_simulated import HOUR, simulated_inputs
from experiments.inputs import load_inputs
from experiments.preferences import find_exposures
from experiments.protocol import shuffle_times
from graph_builders.behavior_graph import Relation
from graph_builders.datasets import SimulatorConfig

CONFIG = SimulatorConfig(
    num_days=3,
    num_users=150,
    num_items=80,
    num_external_items=60,
    num_impressions=6_000,
    num_external_events=4_000,
)


@pytest.fixture(scope="module")
def inputs():
    return simulated_inputs(CONFIG)


def test_rows_are_those_of_the_true_probabilities(inputs):
    """Else an oracle would score other rows than the models."""
    shown, table = inputs.data.impressions, inputs.tables.impressions
    assert len(shown) == len(inputs.tables.click_probability) == CONFIG.num_impressions
    assert inputs.graph.ids["user"].ids(shown.user).to_list() == table["user_id"].to_list()
    assert shown.time.tolist() == table["time"].to_list()
    assert "simulated" in inputs.tables.name


def test_the_tables_settings_know_that_it_says_what_users_were_shown(inputs):
    assert DATA_SETTINGS["simulator"].has_exposures
    assert len(find_exposures(inputs)) > 1000


def test_queries_are_as_of_the_hour(inputs):
    data = inputs.data
    assert (data.as_of % HOUR == 0).all()
    assert ((data.impressions.time - data.as_of) < HOUR).all()
    assert data.context[:, 0].tolist() == inputs.tables.impressions["hour"].to_list()
    assert inputs.period == HOUR
    assert inputs.bounds("2024-01-02") == (1_704_153_600, 1_704_240_000)
    assert [*inputs.snapshot_times(inputs.bounds("2024-01-03")[0])] == [
        1_704_067_200 + day * 86_400 for day in range(3)
    ]
    six_hours = simulated_inputs(CONFIG, period_hours=6)
    assert set((six_hours.data.as_of % 86_400).tolist()) == {0, 6 * HOUR, 12 * HOUR, 18 * HOUR}


def test_past_counts_equal_a_plain_count(inputs):
    data, names, table = inputs.data, inputs.feature_names, inputs.tables.impressions
    table = table.join(inputs.tables.item_table.select("item_id", "category"), on="item_id", how="left")
    views = inputs.tables.events.frame.filter(pl.col("domain") == "external")
    counted = 0
    for row in np.random.default_rng(0).choice(len(table), 12, replace=False).tolist():
        as_of, here = int(data.as_of[row]), table.row(row, named=True)
        value = dict(zip(names, data.dense[row].tolist(), strict=True))
        past = table.filter(pl.col("time") < as_of)
        prior = past["label"].mean() if past.height else 0.5
        for label, columns in (
            ("user", ("user_id",)),
            ("item", ("item_id",)),
            ("category", ("category",)),
            ("user+category", ("user_id", "category")),
        ):
            mine = past.filter(pl.all_horizontal(pl.col(name) == here[name] for name in columns))
            recent = mine.filter(pl.col("time") >= as_of - 2 * HOUR)
            assert value[f"{label}:count[shown]"] == mine.height
            assert value[f"{label}:count[shown]/{2 * HOUR}"] == recent.height
            expected = (recent["label"].sum() + 5 * prior) / (recent.height + 5)
            assert value[f"{label}:rate[click/shown]/{2 * HOUR}"] == pytest.approx(expected, rel=1e-5)
            counted += recent.height
        seen = views.filter((pl.col("time") < as_of) & (pl.col("user_id") == here["user_id"]))
        assert value["user:count[view]"] == seen.height
    assert counted > 100


def test_codes_fit_the_sizes(inputs):
    data, sizes = inputs.data, inputs.sizes
    for codes, counts in (
        (data.user_fields.codes, sizes.user_fields),
        (data.item_fields.codes, sizes.item_fields),
        (data.context, sizes.context_fields),
    ):
        assert codes.min() >= 0
        assert (codes.amax(dim=0) < torch.tensor(counts)).all()
    assert inputs.static.shape == (CONFIG.num_impressions, len(inputs.static_names))
    assert int(data.impressions.item.max()) < sizes.num_items


def test_relations_play_their_parts(inputs):
    asked = inputs.short_term_relations(("internal", "external"), ("click", "skip"))
    assert asked == [
        Relation("internal", "click"),
        Relation("internal", "skip"),
        Relation("external", "view"),
    ]
    assert inputs.short_term_relations(("internal",), ("click",)) == asked[:1]
    assert {*inputs.graph.relations} == {*asked}
    assert {*inputs.long_term_graph().relations} == {asked[0], asked[2]}
    assert {*inputs.long_term_graph(["internal"]).relations} == {asked[0]}


def test_every_node_of_the_log_is_in_the_tables(inputs):
    assert inputs.graph.num_nodes == {"user": 151, "item": 141}


def test_without_a_category_the_counts_go_on():
    found = simulated_inputs(SimulatorConfig(**{**vars(CONFIG), "category_accuracy": None}))
    assert len(found.sizes.item_fields) == 2
    assert found.feature_names.count("category:count[shown]") == 1


def test_an_unknown_data_set_is_refused():
    with pytest.raises(ValueError, match="no data set 'kuairan'; there are"):
        load_inputs("kuairan")


def test_dealing_out_times_anew_keeps_everything_else(inputs):
    """Such a log has no column of the times at which its events were known."""
    events = inputs.tables.events
    shuffled = shuffle_times(events)
    assert shuffled.frame.drop("time").equals(events.frame.drop("time"))
    assert not shuffled.frame["time"].equals(events.frame["time"])
    assert shuffled.frame["time"].sort().equals(events.frame["time"].sort())
