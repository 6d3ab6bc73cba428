"""KuaiRand's tasks against a slow reference on a hand-made log, and what the real log gives."""

from bisect import bisect_right
from dataclasses import replace

import polars as pl
import pytest
import torch

from graph_builders import EventSchema, read_events
from graph_builders.datasets import DatasetTables, load_kuairand_pure
from graph_builders.datasets.entity_tasks import EntityTask, make_rows
from graph_builders.datasets.kuairand_tasks import (
    DAY,
    author_task,
    click_task,
    duration_task,
    kuairand_tasks,
    long_view_task,
    ranking_task,
    shown_videos,
)

START = 1_650_000_000_000
# user, item, time, tab, clicked, play time, long, liked; tab 10 has constant clicks
SHOWN = [
    (1, 100, 0, 1, 1, 9_000, 1, 0),
    (2, 100, 5_000, 1, 0, 100, 0, 0),
    (1, 101, 8_000, 2, 1, 40_000, 1, 1),
    (2, 102, 20_000, 10, 1, 30_000, 1, 0),
    (2, 101, 30_000, 1, 1, 1_000, 0, 0),
    (3, 100, 30_000, 1, 0, 12_000, 1, 1),
    (3, 102, 50_000, 4, 1, 2_000, 0, 1),
    (1, 102, DAY + 20_000, 1, 1, 5_000, 1, 0),
    (2, 100, DAY + 70_000, 1, 1, 500, 0, 0),
    (3, 103, DAY + 90_000, 1, 1, 500, 0, 0),
]
ITEMS = {100: ("p", 9_000.0), 101: ("p", 20_000.0), 102: ("q", 60_000.0), 103: (None, None)}
NAMES = ("user_id", "item_id", "time", "tab", "click", "play", "long", "like")


def toy_tables(shown=SHOWN, *, early=True):
    """The log as the loader makes it."""
    events = []
    for user, item, time, tab, click, play, long, like in shown:
        row = (user, item, START + time, tab)
        events.append((*row, "impression", START + time))
        if tab != 10:
            events.append((*row, "click" if click else "skip", START + time))
        events += [(*row, "long_view", START + time + play)] * long + [
            (*row, "like", START + time + play)
        ] * like
    domains = ["internal" if event[3] == 1 else "external" for event in events]
    if early:
        events.append((1, 103, START - 5, None, "long_watch", START - 5))
        domains.append("early")
    frame = pl.DataFrame(
        events,
        schema=["user_id", "item_id", "time", "tab", "behavior", "available_time"],
        orient="row",
    ).with_columns(domain=pl.Series(domains))
    schema = EventSchema(
        time_unit="ms",
        resolution="ms",
        behavior="behavior",
        domain="domain",
        available_time="available_time",
        attributes=("tab",),
    )
    return DatasetTables(
        name="toy",
        events=read_events(frame, schema),
        impressions=pl.DataFrame(),
        all_impressions=pl.DataFrame(),
        contexts=("tab",),
        item_table=pl.DataFrame(
            {
                "item_id": list(ITEMS),
                "author_id": [author for author, _ in ITEMS.values()],
                "video_duration": [duration for _, duration in ITEMS.values()],
            },
            schema_overrides={"video_duration": pl.Float32},
        ),
    )


@pytest.fixture(scope="module")
def shown():
    return shown_videos(toy_tables())


def log_rows():
    return [dict(zip(NAMES, row, strict=True)) for row in SHOWN]


def outcome_time(row):
    """When it is known what came of the play; a play of nothing has ended when the video has."""
    if row["long"] or row["like"]:
        return START + row["time"] + row["play"]
    return START + row["time"] + int(ITEMS[row["item_id"]][1] or 0)


def test_clicks_and_long_views(shown):
    rows = log_rows()
    clicks = [
        (
            row["user_id"],
            START + row["time"],
            row["tab"],
            row["item_id"],
            float(row["click"]),
            1.0,
            START + row["time"],
        )
        for row in rows
        if row["tab"] != 10
    ]
    assert click_task(shown).rows.rows() == clicks
    long_views = [
        (
            row["user_id"],
            START + row["time"],
            row["tab"],
            row["item_id"],
            float(row["long"]),
            1.0,
            outcome_time(row),
        )
        for row in rows
    ]
    assert long_view_task(shown).rows.rows() == long_views


def statistics(row, rows):
    """One row's features by loops, by name."""
    query, found = START + row["time"], {}
    known = {
        "impression": lambda one: START + one["time"],
        "click": lambda one: START + one["time"] if one["click"] else None,
        "long_view": lambda one: outcome_time(one) if one["long"] else None,
        "like": lambda one: outcome_time(one) if one["like"] else None,
    }
    same = {
        "item": lambda one: one["item_id"] == row["item_id"],
        "author": lambda one: ITEMS[one["item_id"]][0] == ITEMS[row["item_id"]][0],
    }

    def count(name, belongs, since):
        times = [known[name](one) for one in rows if belongs(one)]
        return sum(time is not None and since <= time < query for time in times)

    for key, belongs in same.items():
        for window in (None, DAY):
            suffix = "" if window is None else f"/{DAY}"
            since = -(10**18) if window is None else query - window
            for name in known:
                found[f"{key}:count[{name}]{suffix}"] = count(name, belongs, since)
            for name in ("click", "long_view", "like"):
                shown_before = count("impression", lambda _: True, -(10**18))
                prior = count(name, lambda _: True, -(10**18)) / shown_before if shown_before else 0.5
                rate = (count(name, belongs, since) + 5 * prior) / (count("impression", belongs, since) + 5)
                found[f"{key}:rate[{name}/impression]{suffix}"] = rate
    return found


def test_ranking_features_labels_and_weights(shown):
    task = ranking_task(shown)
    rows = [row for row in log_rows() if row["tab"] != 10]
    assert len(task.features) == 28
    for found, row in zip(task.rows.iter_rows(named=True), rows, strict=True):
        wanted = statistics(row, rows)
        assert {name: found[name] for name in task.features} == pytest.approx(wanted, rel=1e-6), row
        assert found["label"] == (1.0 if row["click"] else -1.0)
        weight = 1.0 if not row["click"] else 4.0 if row["like"] else 2.0 if row["long"] else 1.0
        assert (found["weight"], found["known_time"]) == (weight, outcome_time(row))
    heavier = ranking_task(shown, behavior_weights={"skip": 0.5, "click": 1.0, "long_view": 2.0, "like": 9.0})
    assert heavier.rows["weight"].to_list() == [2.0, 0.5, 9.0, 1.0, 0.5, 9.0, 2.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="behavior_weights must be of"):
        ranking_task(shown, behavior_weights={"click": 1.0})


def test_classes_of_duration(shown):
    catalogue = toy_tables().item_table
    task = duration_task(shown, catalogue, num_classes=3)
    # the terciles of 9, 20 and 60 s, by linear interpolation, lie at 16.33 and 33.33 s
    edges = [9_000 + 11_000 * 2 / 3, 20_000 + 40_000 / 3]
    wanted = [
        (
            row["user_id"],
            START + row["time"],
            row["tab"],
            float(bisect_right(edges, ITEMS[row["item_id"]][1])),
        )
        for row in log_rows()
        if row["click"] and row["tab"] != 10 and row["item_id"] != 103
    ]
    assert task.rows.select("user_id", "time", "tab", "label").rows() == wanted
    assert {row[3] for row in wanted} == {0.0, 1.0, 2.0}
    assert (task.num_classes, task.rows["known_time"].to_list()) == (3, task.rows["time"].to_list())
    equal = catalogue.with_columns(video_duration=pl.lit(5.0))
    with pytest.raises(ValueError, match="all missing or all equal"):
        duration_task(shown, equal)
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        duration_task(shown, catalogue, num_classes=1)


def many_clicks(num_users=30, num_items=24):
    """Clicks of many users on many authors, three items each."""
    generator = torch.Generator().manual_seed(1)
    return [
        (
            user,
            100 + int(torch.randint(num_items, (), generator=generator)),
            1_000 * step + 7 * user,
            1,
            1,
            5,
            0,
            0,
        )
        for step in range(12)
        for user in range(num_users)
    ]


def many_shown(rows):
    tables = toy_tables(rows, early=False)
    items = pl.DataFrame(
        {
            "item_id": list(range(100, 124)),
            "author_id": [f"author {number // 3}" for number in range(24)],
            "video_duration": [1.0] * 24,
        }
    )
    return shown_videos(replace(tables, item_table=items))


def test_authors_are_new_to_the_user_and_exist():
    rows = many_clicks()
    task = author_task(many_shown(rows), num_negatives=2, random_seed=3)
    clicked = {}
    for user, item, time, *_ in rows:
        author = f"author {(item - 100) // 3}"
        clicked.setdefault((user, author), START + time)
        clicked.setdefault(author, START + time)
    # every first click of a user on an author is there, but those of whoever came first to the author
    first = {(key[0], time, key[1]) for key, time in clicked.items() if isinstance(key, tuple)}
    wanted = {row for row in first if clicked[row[2]] < row[1]}
    positives = task.rows.filter(pl.col("label") == 1).select("user_id", "time", "author_id").rows()
    assert set(positives) == wanted
    assert len(positives) == len(wanted) > 100
    negatives = task.rows.filter(pl.col("label") == 0)
    for user, time, author in negatives.select("user_id", "time", "author_id").iter_rows():
        assert clicked[author] < time  # somebody clicked before
        assert clicked.get((user, author), time + 1) > time  # and this user has not, nor does now
    assert negatives.height > 1.5 * len(positives)
    assert f"{len(first) - len(wanted)} of {len(first)} first clicks" in task.notes[0]


def test_what_happens_later_changes_no_earlier_row():
    end = START + 6_000
    whole, part = (
        author_task(many_shown(rows)) for rows in (many_clicks(), [r for r in many_clicks() if r[2] < 6_000])
    )
    before = whole.rows.filter(pl.col("time") < end)
    assert before.equals(part.rows)
    assert before.height > 50
    cut = START + 30_001
    early = shown_videos(toy_tables([row for row in SHOWN if START + row[2] < cut]))
    tasks = [(click_task, {}), (ranking_task, {}), (long_view_task, {})]
    for make, options in tasks:
        all_rows = make(shown_videos(toy_tables()), **options).rows
        assert all_rows.filter(pl.col("time") < cut).equals(make(early, **options).rows)


def test_a_task_checks_its_rows():
    frame = pl.DataFrame({"user_id": [1], "time": [5], "label": [1.0], "known_time": [4]})
    with pytest.raises(ValueError, match="1 labels are known before their query"):
        EntityTask(name="x", kind="class", rows=make_rows(frame), num_classes=2)
    with pytest.raises(ValueError, match="have the columns"):
        EntityTask(name="x", kind="class", rows=frame, num_classes=2)


def test_the_real_log():
    tables = load_kuairand_pure()
    shown = shown_videos(tables)
    assert shown.height == 222_444
    order = ["time", "user_id", "item_id", "tab"]
    wanted = tables.all_impressions.with_columns(pl.col("tab").cast(shown["tab"].dtype))
    clicks = click_task(shown).rows
    assert clicks.select(*order, "label").sort(order).equals(wanted.select(*order, "label").sort(order))
    # a play that was no long view ended before the video did
    assert (
        shown.filter(~pl.col("long_view") & ~pl.col("like"))
        .select(
            (pl.col("outcome_time") == pl.col("time") + pl.col("duration").fill_null(0).cast(pl.Int64)).all()
        )
        .item()
    )
    task = duration_task(shown, tables.item_table)
    shares = task.rows["label"].value_counts(normalize=True)["proportion"]
    assert task.num_classes == 7 == len(shares)
    assert shares.is_between(0.1, 0.2).all()


def test_all_tasks_of_a_log():
    tasks = kuairand_tasks(toy_tables(), num_negatives=1, num_classes=2)
    assert {name: task.rows.height for name, task in tasks.items()} == {
        "click": 9,
        "ranking": 9,
        "duration": 6,
        "author": 2,
        "long_view": 10,
    }
    assert [task.kind for task in tasks.values()] == ["pair", "ranking", "class", "pair", "pair"]
    # the only authors that exist then are those that the two users have clicked
    assert tasks["author"].notes[0].endswith("2 negatives could not be drawn.")
