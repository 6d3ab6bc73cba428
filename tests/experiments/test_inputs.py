"""What the main job feeds its models with on the embedded KuaiRand-Pure, against plain polars."""

import importlib.resources
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
import torch

from experiments.data_kuairand import ITEM_FIELDS, USER_FIELDS
from experiments.inputs import HOUR, load_inputs
from graph_builders.datasets.kuairand import EARLY_FILE, ITEM_FILE, LOG_FILE
from tests.experiments.kuairand_slice import sliced_log, write_slice

FOLDER = importlib.resources.files("graph_builders.datasets") / "kuairand_pure"
NO_LABEL = [10, 11, 14]


@pytest.fixture(scope="module")
def raw():
    """The log as it came, with each video's author and first tag."""
    log = pl.read_parquet(FOLDER / LOG_FILE)
    log = log.unique(["user_id", "video_id", "time_ms", "tab"], keep="first", maintain_order=True)
    videos = pl.read_csv(FOLDER / ITEM_FILE).select(
        "video_id", "author_id", first_tag=pl.col("tag").cast(pl.String).str.split(",").list.first()
    )
    return log.join(videos, on="video_id", how="left")


@pytest.fixture(scope="module")
def early():
    return pl.read_parquet(FOLDER / EARLY_FILE)


def ids(inputs, rows):
    impressions = inputs.data.impressions.select(rows)
    users = inputs.graph.ids["user"].ids(impressions.user).to_list()
    return users, inputs.graph.ids["item"].ids(impressions.item).to_list(), impressions.time.tolist()


def test_impressions_are_the_internal_rows_of_the_log(kuairand_inputs, raw):
    rows = torch.arange(len(kuairand_inputs.data.impressions))
    users, items, times = ids(kuairand_inputs, rows)
    labels = kuairand_inputs.data.impressions.label.long().tolist()
    found = pl.DataFrame({"user_id": users, "video_id": items, "time_ms": times, "is_click": labels})
    wanted = raw.filter(pl.col("tab") == 1).select(found.columns)
    assert found.height == wanted.height > 100_000
    assert found.sort(found.columns).equals(wanted.cast(found.schema).sort(found.columns))


def test_as_of_is_the_start_of_the_local_hour(kuairand_inputs):
    data = kuairand_inputs.data
    rows = torch.arange(0, len(data.impressions), 4999)
    for row in rows.tolist():
        local = datetime.fromtimestamp(int(data.impressions.time[row]) / 1000, UTC) + timedelta(hours=8)
        start = local.replace(minute=0, second=0, microsecond=0)
        assert int(data.as_of[row]) == int((start - timedelta(hours=8)).timestamp()) * 1000
        assert data.context[row].tolist() == [start.hour]
    delay = data.impressions.time - data.as_of
    assert 0 <= int(delay.min()) < int(delay.max()) < HOUR


def test_a_longer_period_has_its_own_start(tmp_path):
    inputs = load_inputs(period_hours=24, path=write_slice(tmp_path / "data", sliced_log()))
    assert inputs.data.context.eq(0).all()  # the local day starts at midnight
    assert ((inputs.data.as_of + 8 * HOUR) % (24 * HOUR)).eq(0).all()


def test_leaky_columns_are_absent(kuairand_inputs):
    tables = kuairand_inputs.tables
    assert {*tables.user_table.columns} == {"user_id", *USER_FIELDS, "early_history_len"}
    names = " ".join([*tables.item_table.columns, *kuairand_inputs.static_names, *USER_FIELDS, *ITEM_FIELDS])
    for leaky in ("active", "fans", "friend", "follow", "range", "visible", "show_cnt", "play_cnt", "_rate"):
        assert leaky not in names, leaky
    assert kuairand_inputs.static.shape[1] == len(kuairand_inputs.static_names)
    assert not any("follow" in name or "comment" in name for name in kuairand_inputs.feature_names)


def test_early_sequences_are_never_clicks(kuairand_inputs, early):
    frame = kuairand_inputs.tables.events.frame
    found = frame.filter(pl.col("domain") == "early")
    assert set(found["behavior"].cast(pl.String).unique()) == {"impression", "long_watch", "like"}
    assert {name for domain, name in kuairand_inputs.graph.relations if domain == "early"} == {
        "impression",
        "long_watch",
        "like",
    }
    # every early event is at its user's last_time_ms
    time = early.select("user_id", "last_time_ms")
    assert (found.join(time, on="user_id")["time"] == found.join(time, on="user_id")["last_time_ms"]).all()
    assert (
        found.height
        == early.select(
            sum(pl.col(name).list.len().sum() for name in ("watch_seq", "long_watch_seq", "like_seq"))
        ).item()
    )


def test_tabs_with_constant_labels_have_no_click_and_no_skip(kuairand_inputs, raw):
    frame = kuairand_inputs.tables.events.frame
    tabs = frame.filter(pl.col("tab").is_in(NO_LABEL))
    assert set(tabs["behavior"].cast(pl.String).unique()) == {"impression", "long_view", "like"}
    for behavior, value in (("click", 1), ("skip", 0)):
        found = frame.filter(pl.col("behavior") == behavior)
        wanted = raw.filter(~pl.col("tab").is_in(NO_LABEL) & (pl.col("is_click") == value))
        assert found.height == wanted.height
        edges = sum(
            e.by_user.num_edges for r, e in kuairand_inputs.graph.relations.items() if r.behavior == behavior
        )
        assert edges == wanted.height


def test_every_node_of_the_log_is_in_the_tables(kuairand_inputs):
    """So the rows of a graph that is built from a part of the events are those of the whole graph."""
    tables = kuairand_inputs.tables
    assert kuairand_inputs.graph.num_nodes == {
        "user": tables.user_table.height + 1,
        "item": tables.item_table.height + 1,
    }


def test_codes_fit_the_sizes(kuairand_inputs):
    data, sizes = kuairand_inputs.data, kuairand_inputs.sizes
    for fields, counts in ((data.user_fields, sizes.user_fields), (data.item_fields, sizes.item_fields)):
        assert fields.codes.min() >= 0
        assert (fields.codes.max(dim=0).values < torch.tensor(counts)).all()
        assert fields.codes[-1].eq(0).all()  # the unseen row
    assert data.item_fields.bag.max() == sizes.item_bag - 1
    assert len(sizes.user_fields) == len(USER_FIELDS)
    assert int(data.impressions.item.max()) < sizes.num_items


def test_past_counts_equal_a_plain_count(kuairand_inputs, raw, early):
    """A dozen impressions, counted in the raw files: events before the start of the hour alone."""
    data, names = kuairand_inputs.data, kuairand_inputs.feature_names
    draw = np.random.default_rng(5)
    rows = torch.from_numpy(draw.choice(len(data.impressions), 12, replace=False))
    values = data.dense[rows]

    def value(i, name):
        return float(values[i, names.index(name)])

    shown = raw.filter(~pl.col("tab").is_in(NO_LABEL))
    videos = raw.unique("video_id").select("video_id", "author_id", "first_tag")
    counted = 0
    for i, (user, item, as_of) in enumerate(
        zip(*ids(kuairand_inputs, rows)[:2], data.as_of[rows].tolist(), strict=True)
    ):
        author, tag = videos.filter(pl.col("video_id") == item).select("author_id", "first_tag").row(0)
        past = shown.filter(pl.col("time_ms") < as_of)
        played = raw.filter(pl.col("time_ms") < as_of)  # long views come from every tab
        finished = raw.filter(pl.col("time_ms") + pl.col("play_time_ms") < as_of, pl.col("long_view") == 1)
        groups = {
            "user": pl.col("user_id") == user,
            "item": pl.col("video_id") == item,
            "author": pl.col("author_id") == author,
            "tag": pl.col("first_tag") == tag,
            "user+author": (pl.col("user_id") == user) & (pl.col("author_id") == author),
            "user+tag": (pl.col("user_id") == user) & (pl.col("first_tag") == tag),
            "user+tab": (pl.col("user_id") == user) & (pl.col("tab") == 1),
        }
        prior = {"click": past["is_click"].sum() / past.height, "long_view": finished.height / played.height}
        for label, group in groups.items():
            mine = past.filter(group)
            assert value(i, f"{label}:count[shown]") == mine.height
            clicks = mine["is_click"].sum()
            expected = (clicks + 5 * prior["click"]) / (mine.height + 5)
            assert value(i, f"{label}:rate[click/shown]") == pytest.approx(expected, rel=1e-5)
            views = finished.filter(group).height
            expected = (views + 5 * prior["long_view"]) / (played.filter(group).height + 5)
            assert value(i, f"{label}:rate[long_view/impression]") == pytest.approx(expected, rel=1e-5)
            counted += mine.height
        for hours in (24, 6):
            recent = past.filter(groups["user"], pl.col("time_ms") >= as_of - hours * HOUR)
            assert value(i, f"user:count[shown]/{hours * HOUR}") == recent.height
        last = past.filter(groups["user"], pl.col("is_click") == 1)["time_ms"].max()
        since = value(i, "user:since[click]")
        assert np.isnan(since) if last is None else since == pytest.approx(as_of - last, rel=1e-6)
        own = early.filter(pl.col("user_id") == user, pl.col("last_time_ms") < as_of)
        watched = own["long_watch_seq"].list.len().sum() if own.height else 0
        assert value(i, "user:count[early_long_watch]") == watched
        length = value(i, "user:early_history_len")
        assert length == own["history_len"].item() if own.height else np.isnan(length)
    assert counted > 1000
