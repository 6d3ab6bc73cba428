"""The simulated log: its form, its rules, and that the tables are what the rest of the library reads."""

from dataclasses import fields, replace

import numpy as np
import polars as pl
import pytest

from graph_builders import EventSchema, build_behavior_graph, build_impressions, read_events
from graph_builders.datasets import DatasetTables, SimulatorConfig, config_of_size, simulate
from graph_builders.datasets.simulated_world import PEAK_HOUR, ItemDraw, TopicDraw, VisitorDraw, kind_rhythm
from graph_builders.datasets.simulator_config import CONCENTRATIONS

SMALL = config_of_size(20_000, num_days=3, random_seed=5)
BY_POPULARITY = {"policy_interest": 0.0, "policy_mood": 0.0, "initial_items": 1.0}
START = 1_704_067_200  # 2024-01-01 UTC


@pytest.fixture(scope="module")
def small():
    return simulate(SMALL)


@pytest.fixture(scope="module")
def default():
    return simulate(SimulatorConfig())


def frames(data):
    return [data.events.frame, data.impressions, data.all_impressions, data.user_table, data.item_table]


def test_same_configuration_same_bytes(small):
    again, other = simulate(SMALL), simulate(replace(SMALL, random_seed=6))
    for one, two, three in zip(frames(small), frames(again), frames(other), strict=True):
        assert one.equals(two)
        assert not one.equals(three)
    assert small.click_probability.tobytes() == again.click_probability.tobytes()
    for field in fields(small.world):
        one, two = getattr(small.world, field.name), getattr(again.world, field.name)
        assert one.tobytes() == two.tobytes(), field.name


def test_the_log_is_one_that_reading_would_accept(small):
    schema = EventSchema(
        behavior="behavior",
        behaviors=("click", "skip", "view"),
        domain="domain",
        domains=("internal", "external"),
    )
    read = read_events(small.events.frame, schema)
    assert read.frame.equals(small.events.frame)
    assert read.frame.schema == small.events.frame.schema
    assert small.time_resolution == read.time_resolution == "s"
    assert small.events.report.num_rows_read == SMALL.num_events == len(small.events) == 20_000
    assert small.events.report.num_duplicates == read.report.num_duplicates == 0


def test_events_are_sorted_and_inside_the_days(small):
    for time in (small.events.frame["time"], small.impressions["time"]):
        assert time.is_sorted()
        assert START <= time.min() < START + 3600
        assert START + 71 * 3600 <= time.max() < START + 72 * 3600


def test_ids_are_those_of_the_tables(small):
    internal = pl.col("domain") == "internal"
    items = small.events.frame.group_by(internal.alias("internal")).agg(
        pl.col("item_id").min().alias("low"), pl.col("item_id").max().alias("high")
    )
    bounds = {row["internal"]: (row["low"], row["high"]) for row in items.to_dicts()}
    num_items = SMALL.num_items
    assert 0 <= bounds[True][0] <= bounds[True][1] < num_items <= bounds[False][0]
    assert bounds[False][1] < num_items + SMALL.num_external_items
    assert small.item_table["item_id"].to_list() == list(range(num_items + SMALL.num_external_items))
    assert small.user_table["user_id"].to_list() == list(range(SMALL.num_users))
    assert small.events.frame["user_id"].is_between(0, SMALL.num_users - 1).all()


def test_no_event_lies_before_its_items_birth():
    config = replace(SMALL, initial_items=0.3, item_half_life_hours=5.0)
    data = simulate(config)
    shown = data.impressions.join(data.item_table, on="item_id")
    assert shown.height == config.num_impressions
    assert (shown["time"] >= START + 3600 * shown["birth_hour"]).all()
    born = data.item_table.filter(pl.col("birth_hour") > 0)
    assert born.height == config.num_items - int(0.3 * config.num_items)
    assert born["birth_hour"].max() < config.num_hours
    assert data.item_table["birth_hour"].min() > -config.num_hours
    assert data.item_table["birth_hour"].head(config.num_items).to_list() == data.world.birth_hour.tolist()
    # and those that are born are shown
    assert shown.filter(pl.col("birth_hour") > 0)["item_id"].n_unique() > born.height / 2


def test_impressions_are_the_internal_events(small):
    internal = small.events.frame.filter(pl.col("domain") == "internal")
    assert internal.select("user_id", "item_id", "time").equals(
        small.impressions.select("user_id", "item_id", "time")
    )
    assert ((internal["behavior"] == "click") == (small.impressions["label"] == 1)).all()
    assert set(internal["behavior"].unique()) == {"click", "skip"}
    external = small.events.frame.filter(pl.col("domain") == "external")
    assert external["behavior"].unique().to_list() == ["view"]
    assert external.height == SMALL.num_external_events > 0
    assert small.all_impressions["domain"].unique().to_list() == ["internal"]
    assert small.all_impressions.drop("domain").equals(small.impressions)


def test_pages_of_positions(small):
    hour = (small.impressions["time"] - START) // 3600 % 24
    assert hour.to_list() == small.impressions["hour"].to_list()
    counts = small.impressions["position"].value_counts().sort("position")["count"].to_list()
    assert len(counts) == SMALL.page_size
    assert counts == sorted(counts, reverse=True)  # the last page of an hour may be cut
    assert counts[0] - counts[-1] <= SMALL.num_hours
    starts = small.impressions.filter(pl.col("position") == 0).select("user_id", start=pl.col("time"))
    later = small.impressions.with_columns(start=pl.col("time") - 10 * pl.col("position").cast(pl.Int64))
    assert later.join(starts.unique(), on=["user_id", "start"], how="anti").is_empty()


def test_the_day_has_the_rhythm_of_the_kinds(default):
    config, world = default.config, default.world
    expected = kind_rhythm(config) @ np.bincount(world.user_kind, world.user_activity, len(PEAK_HOUR))
    count = np.bincount(default.impressions["hour"].to_numpy(), minlength=24)
    chi_square(count, expected / expected.sum() * count.sum(), 23)
    assert count.max() > 2 * count.min()
    assert 12 <= count.argmax() <= 22
    flat = simulate(replace(config, rhythm=0.0))
    count = np.bincount(flat.impressions["hour"].to_numpy(), minlength=24)
    chi_square(count, np.full(24, count.mean()), 23)
    # each kind keeps to its hours
    views = default.events.frame.filter(pl.col("domain") == "external")
    of_hour = (views["time"].to_numpy() - START) // 3600 % 24
    kind = world.user_kind[views["user_id"].to_numpy()]
    for code, peak in enumerate(PEAK_HOUR):
        angle = np.exp((of_hour[kind == code] + 0.5) * 2j * np.pi / 24).mean()
        found = np.angle(angle) * 24 / (2 * np.pi) % 24
        assert abs((found - peak + 12) % 24 - 12) < 0.5


def test_sizes_and_rates(default):
    config = default.config
    assert default.impressions.height == config.num_impressions == len(default.click_probability)
    assert config_of_size(config.num_events) == config
    assert 0.25 < default.impressions["label"].mean() < 0.4
    assert default.events.frame["user_id"].n_unique() == config.num_users
    per_item = np.sort(default.impressions["item_id"].value_counts()["count"].to_numpy())[::-1]
    assert per_item[:200].sum() > 0.25 * per_item.sum()  # a tenth of the items, by popularity
    zeros = {
        "policy_interest": 0.0,
        "policy_mood": 0.0,
        "policy_exploration": 1.0,
        "item_half_life_hours": 1e9,
    }
    even = simulate(replace(config, **zeros, initial_items=1.0))
    per_item = np.bincount(even.impressions["item_id"].to_numpy(), minlength=config.num_items)
    chi_square(per_item, np.full(config.num_items, per_item.mean()), config.num_items - 1)


def test_popularity_follows_zipfs_law():
    popular = replace(SMALL, **BY_POPULARITY, policy_exploration=0.0, num_impressions=50_000)
    data = simulate(replace(popular, item_half_life_hours=1e12))
    weight = data.world.item_popularity
    np.testing.assert_allclose(np.sort(weight)[::-1], np.arange(1, len(weight) + 1.0) ** -0.8)
    count = np.bincount(data.impressions["item_id"].to_numpy(), minlength=len(weight))
    chi_square(count, weight / weight.sum() * count.sum(), len(weight) - 1)


def test_items_fade_with_age():
    popular = replace(SMALL, **BY_POPULARITY, policy_exploration=0.0, num_impressions=50_000)
    data = simulate(replace(popular, item_half_life_hours=6.0))
    world, hours = data.world, 36  # the middle of the log
    weight = world.item_popularity * np.exp2((world.birth_hour - hours) / 6.0)
    some = data.impressions.filter((pl.col("time") - START) // 3600 == hours)["item_id"].to_numpy()
    share = np.bincount(some, minlength=len(weight)) / len(some)
    expected = weight / weight.sum()
    assert np.abs(share - expected).sum() / 2 < 0.2
    unfaded = world.item_popularity / world.item_popularity.sum()
    assert np.abs(share - unfaded).sum() / 2 > 0.3


def test_visitors_come_by_kind_and_weight(default):
    config, world = default.config, default.world
    draw = VisitorDraw(config, world, world.user_activity)
    uniform = (np.arange(1_000_000) + 0.5) / 1_000_000
    for hour in (3, 20):
        user = draw.draw(uniform, 24 + hour)
        rate = kind_rhythm(config)[hour][world.user_kind] * world.user_activity
        share = np.bincount(user, minlength=config.num_users) / len(user)
        np.testing.assert_allclose(share, rate / rate.sum(), atol=2.5e-6)


def test_items_are_drawn_from_their_topic_by_weight():
    topic, weight = np.array([1, 0, 2, 1, 1, 0], dtype=np.int16), np.array([1.0, 5.0, 2.0, 3.0, 4.0, 1.0])
    draw = ItemDraw(topic, weight, 3)
    uniform = (np.arange(800) + 0.5) / 800
    assert np.bincount(draw.draw(uniform, np.ones(800, np.int64)), minlength=6).tolist() == [
        *[100, 0, 0, 300, 400, 0]
    ]
    assert np.bincount(draw.draw(uniform, np.full(800, -1))).tolist() == [50, 250, 100, 150, 200, 50]
    # item 4 is not there, and item 3 has faded to a third
    draw.refresh(np.array([1, 1, 1, 1, 0, 1], bool), np.array([1, 1, 1, 1 / 3, 1, 1]))
    assert np.bincount(draw.draw(uniform, np.ones(800, np.int64)), minlength=6).tolist() == [
        *[400, 0, 0, 400, 0, 0]
    ]
    assert np.bincount(draw.draw_uniform(uniform), minlength=6).tolist() == [160, 160, 160, 160, 0, 160]
    assert draw.draw(np.array([0.0, np.nextafter(1, 0)]), np.array([2, 2])).tolist() == [2, 2]


def test_topics_are_drawn_from_interests(small):
    user = np.repeat([3, 7], 100_000)
    uniform = np.tile((np.arange(100_000) + 0.5) / 100_000, 2)
    topic = TopicDraw(small.world).draw(uniform, user)
    for one in (3, 7):
        share = np.bincount(topic[user == one], minlength=SMALL.num_topics) / 100_000
        np.testing.assert_allclose(share, small.world.interest[one], atol=2e-5)


def test_interests_and_fields(default):
    config, world = default.config, default.world
    np.testing.assert_allclose(world.interest.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(world.interest.mean(axis=0), 1 / config.num_topics, atol=0.01)
    main = world.interest.argmax(axis=1)
    told = default.user_table["segment"].str.strip_prefix("segment_").cast(pl.Int64).to_numpy() == main
    assert abs(told.mean() - (0.2 + 0.8 / config.num_topics)) < 0.02
    internal = default.item_table.head(config.num_items)
    category = internal["category"].str.strip_prefix("category_").cast(pl.Int64).to_numpy()
    assert abs((category == world.item_topic).mean() - (0.9 + 0.1 / config.num_topics)) < 0.03
    assert default.item_table.tail(config.num_external_items)["category"].null_count() == (
        config.num_external_items
    )
    without = simulate(replace(SMALL, category_accuracy=None))
    assert without.item_table.columns == ["item_id", "format", "birth_hour"]
    for topics in (world.item_topic, world.external_topic):
        assert len(np.unique(topics)) == config.num_topics


def test_the_graph_and_the_impressions_build(small):
    assert isinstance(small, DatasetTables)
    graph = build_behavior_graph(small.events, user_table=small.user_table, item_table=small.item_table)
    assert graph.num_events == SMALL.num_events
    assert {(r.domain, r.behavior) for r in graph.relations} == {
        ("internal", "click"),
        ("internal", "skip"),
        ("external", "view"),
    }
    rows = build_impressions(
        small.impressions,
        user_ids=graph.ids["user"],
        item_ids=graph.ids["item"],
        context=small.contexts,
        time_resolution=small.time_resolution,
    )
    assert rows.item.max() < graph.ids["item"].num_ids
    assert rows.context["position"].unique().tolist() == list(range(SMALL.page_size))
    assert rows.label.sum() == small.impressions["label"].sum() > 0
    assert any("SIMULATED" in note for note in small.notes)
    assert small.name.startswith("simulated")


@pytest.mark.parametrize("num_events", [10, 1_000, 1_000_000])
def test_any_size(num_events):
    data = simulate(config_of_size(num_events, num_days=2))
    assert len(data.events) == num_events
    assert data.impressions.height == num_events * 2 // 5
    assert data.events.frame["time"].is_sorted()


@pytest.mark.parametrize("concentration", CONCENTRATIONS)
def test_probabilities_are_numbers_at_the_bounds(concentration):
    size = {"num_users": 500, "num_items": 200, "num_external_items": 100}
    data = simulate(
        SimulatorConfig(
            **size, num_impressions=3000, num_external_events=2000, interest_concentration=concentration
        )
    )
    assert np.isfinite(data.click_probability).all()
    assert 0.01 < data.click_probability.mean() < 0.9


def test_the_smallest_world():
    least = {
        "num_users": 1,
        "num_items": 4,
        "num_external_items": 2,
        "num_topics": 2,
        "num_days": 1,
        "trends_per_day": 1,
    }
    data = simulate(SimulatorConfig(**least, num_impressions=3, num_external_events=0))
    assert data.impressions["user_id"].to_list() == [0, 0, 0]
    assert data.events.frame["domain"].unique().to_list() == ["internal"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_users": 0}, "SimulatorConfig.num_users must be a whole number of at least 1, got 0"),
        ({"trend": -1.0}, "trend must be finite and at least 0"),
        (
            {"external_interest": 1.5},
            "external_interest must be finite and at least 0 and at most 1",
        ),
        ({"policy_interest": 0.5, "policy_mood": 0.5}, "sum to at most 1"),
        ({"num_items": 10}, "at least one item for each of 20 topics"),
        ({"mood_hours": 0.0}, "mood_hours must be finite and above 0"),
        ({"page_size": 101}, "page_size at most 100, got 20 and 101"),
        ({"trends_per_day": 21}, "only 20 topics"),
        ({"trend_start_hours": (9.0, 3.0)}, "trend_start_hours must rise"),
        ({"start": "2024-13-01"}, "start must be a day such as '2024-01-31', got '2024-13-01'"),
        ({"bias": float("nan")}, "bias must be finite, got nan"),
        ({"bias": float("inf")}, "bias must be finite"),
        ({"mood_hours": float("inf")}, "mood_hours must be finite"),
        ({"interest_concentration": 1e-12}, "interest_concentration must be finite and at least 0.01"),
        ({"num_topics": 50_000, "num_items": 10**6}, "num_topics must be at most 1000"),
    ],
)
def test_what_cannot_be_simulated_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SimulatorConfig(**options)
    with pytest.raises(ValueError, match="at least 10 events"):
        config_of_size(9)


def chi_square(count, expected, freedom):
    """Counts agree with what is expected: five standard deviations of the statistic."""
    statistic = ((count - expected) ** 2 / expected).sum()
    assert statistic < freedom + 5 * np.sqrt(2 * freedom)
