"""First purchases as tasks: folds of users, monthly times, labels beside loops, and two real data sets."""

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_builders import EventSchema, read_events
from graph_builders.datasets import DatasetTables, load_complete_journey
from graph_builders.datasets.complete_journey_first_purchases import (
    TARGET_CATEGORIES,
    complete_journey_fold,
    complete_journey_target_tasks,
)
from graph_builders.datasets.complete_journey_usage import usage_tasks
from graph_builders.datasets.first_purchases import (
    DAY,
    FoldSplit,
    first_purchase_tasks,
    monthly_times,
)
from graph_builders.datasets.online_retail_keywords import KEYWORDS
from graph_builders.datasets.online_retail_tasks import (
    TARGET_KINDS,
    USAGE_KINDS,
    online_retail_fold,
    online_retail_target_tasks,
    online_retail_usage_tasks,
)

JOURNEY = Path(__file__).parents[3] / "shared/data/complete-journey"
LONDON = ZoneInfo("Europe/London")
USERS = list(range(12))
TIMES = [10, 12, 14, 20, 22]


def split_of(**options):
    return FoldSplit(start=10, test_start=18, end=26, num_folds=3, validation_share=0.2, **options)


def parts_of(split, users=USERS):
    return dict(split.user_parts(pl.Series(users)).cast({"part": pl.String}).iter_rows())


def test_every_user_is_a_test_user_of_one_fold():
    users = list(range(3000))
    parts = [parts_of(split_of(fold=fold), users) for fold in range(3)]
    for user in users:
        assert [part[user] for part in parts].count("test") == 1
    for part in parts:
        shares = {name: list(part.values()).count(name) / 3000 for name in ("train", "validation", "test")}
        assert shares == pytest.approx({"train": 1 - 1 / 3 - 0.2, "validation": 0.2, "test": 1 / 3}, abs=0.04)
    assert parts_of(split_of(fold=1, random_seed=1), users) != parts[1]
    assert parts_of(split_of(fold=1), users[:50]) == {user: parts[1][user] for user in users[:50]}


def test_times_are_shared_where_asked_for():
    frames = [
        split_of(shared_times=shared).query_frame(pl.Series(USERS), pl.Series(TIMES), 4)
        for shared in (False, True)
    ]
    times = [
        {
            part: sorted(frame.filter(pl.col("part") == part)["time"].unique())
            for part in ("train", "validation", "test")
        }
        for frame in frames
    ]
    assert times[0] == {"train": [10, 12, 14], "validation": [10, 12, 14], "test": [20, 22]}
    assert times[1] == dict.fromkeys(times[0], TIMES)


purchases_lists = st.lists(
    st.tuples(st.sampled_from(USERS), st.integers(5, 27), st.sampled_from(["a", "b", None])),
    min_size=1,
    max_size=40,
)


@settings(max_examples=50)
@given(purchases=purchases_lists, horizon=st.integers(1, 6), shared=st.booleans())
def test_labels_are_those_of_the_definition(purchases, horizon, shared):
    purchases = [*purchases, (0, 30, "a"), (0, 30, "b")]  # both are bought in every log
    frame = pl.DataFrame(purchases, schema=["user_id", "time", "category"], orient="row")
    split = split_of(shared_times=shared)
    tasks = first_purchase_tasks(
        frame, split, pl.Series(TIMES), categories=["b", "a"], horizon=horizon, notes=("so",)
    )
    assert [task.name for task in tasks] == ["first purchase: b", "first purchase: a"]
    part = parts_of(split)
    for task, category in zip(tasks, ("b", "a"), strict=True):
        wanted = []
        for time in TIMES:
            for user in USERS:
                start, end = (10, 26) if shared else ((18, 26) if part[user] == "test" else (10, 18))
                own = [when for who, when, what in purchases if who == user and what == category]
                knows = any(who == user and when < time for who, when, _ in purchases)
                if not (start <= time and time + horizon <= end and knows) or any(w < time for w in own):
                    continue
                within = [when for when in own if when < time + horizon]
                wanted.append((user, time, part[user], float(bool(within)), min(within, default=None)))
        found = task.queries.with_columns(pl.col("part").cast(pl.String))
        assert found.select("user_id", "time", "part", "label", "label_time").rows() == wanted
        positives = [row for row in wanted if row[3]]
        assert task.notes == (
            "so",
            f"{len(positives)} of {len(wanted)} queries are positive, of "
            f"{len({row[0] for row in positives})} users.",
        )
        assert (task.kind, task.horizon) == ("binary", horizon)


def test_monthly_times_are_of_the_local_clock():
    split = online_retail_fold()
    times = monthly_times(split, "Europe/London").to_list()
    local = [datetime.fromtimestamp(time, LONDON).replace(tzinfo=None) for time in times]
    assert local == [
        *(datetime(2010, 12, 1, 4),),
        *(datetime(2011, month, 1, 4) for month in range(1, 13)),
    ]
    # the split begins at midnight of the first day, and half a day later that day's time has passed
    late = FoldSplit(start=split.start + DAY // 2, test_start=split.test_start, end=split.end)
    assert monthly_times(late, "Europe/London").to_list() == times[1:]
    assert monthly_times(late, "Europe/London", hour=13).to_list() == [time + 9 * 3600 for time in times]
    with pytest.raises(ValueError, match="hour must lie in 0 to 23, got 24"):
        monthly_times(split, "Europe/London", hour=24)


def test_what_cannot_be_is_refused():
    frame = pl.DataFrame({"user_id": [1], "time": [9], "category": ["a"]})
    for categories, message in (
        ([], "one or more"),
        (["a", "a"], "distinct"),
        (["z"], r"got \['z'\], of which \['z'\] are not bought"),
    ):
        with pytest.raises(ValueError, match=message):
            first_purchase_tasks(frame, split_of(), pl.Series(TIMES), categories=categories, horizon=1)
    with pytest.raises(ValueError, match="horizon must be at least 1, got 0"):
        first_purchase_tasks(frame, split_of(), pl.Series(TIMES), categories=["a"], horizon=0)
    with pytest.raises(ValueError, match="fold must be below num_folds=3, got 3"):
        split_of(fold=3)
    with pytest.raises(ValueError, match=r"FoldSplit.num_folds must be a whole number of at least 2, got 1"):
        FoldSplit(start=1, test_start=2, end=3, num_folds=1)
    bare = shop([])
    for tasks in (online_retail_target_tasks, online_retail_usage_tasks):
        with pytest.raises(ValueError, match="toy: items have no keywords: load it with load_online_retail"):
            tasks(DatasetTables(**{**vars(bare), "item_table": None}), online_retail_fold())
    with pytest.raises(ValueError, match="toy: items have no product_category"):
        complete_journey_target_tasks(bare, complete_journey_fold())
    with pytest.raises(ValueError, match=r"\['signs'\] are not; horizon_days must be at least 1, got 60"):
        online_retail_usage_tasks(bare, online_retail_fold(), kinds=("signs",))
    with pytest.raises(ValueError, match="no training query is followed by a purchase"):
        online_retail_usage_tasks(bare, online_retail_fold(), kinds=())


# ---- Online Retail's usage -----------------------------------------------------------------------


def at(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=LONDON).timestamp())


def shop(rows):
    """Tables of (user, item, time, amount, is a return)."""
    rows = [(1, "cup", "2010-06-01", 1.0, False), *rows]
    frame = pl.DataFrame(
        {
            "user_id": [row[0] for row in rows],
            "item_id": [row[1] for row in rows],
            "time": [at(row[2]) for row in rows],
            "amount": [row[3] for row in rows],
            "behavior": ["return" if row[4] else "purchase" for row in rows],
        }
    )
    items = {"cup": ["mugs and tea", "retrospot"], "sign": ["signs"], "thing": []}
    return DatasetTables(
        name="toy",
        events=read_events(frame, EventSchema(behavior="behavior", attributes=("amount",))),
        impressions=pl.DataFrame(),
        all_impressions=pl.DataFrame(),
        contexts=(),
        item_table=pl.DataFrame({"item_id": list(items), "keywords": list(items.values())}),
    )


def test_usage_is_what_the_customer_does_in_the_window():
    users = list(range(1, 30))
    part = parts_of(online_retail_fold(), users)
    first, second, third = [user for user in users if part[user] == "train"][:3]
    tables = shop(
        [
            *((user, "thing", "2010-11-01", 5.0, False) for user in (first, second, third)),
            (first, "cup", "2011-03-01 04:00:00", 10.0, False),  # the query's own time belongs to the window
            (first, "sign", "2011-04-29 05:00:00", 7.0, False),
            (first, "cup", "2011-04-30 05:00:00", 100.0, False),  # 60 days and an hour of summer time later
            (second, "sign", "2011-03-09", 2.0, False),
            (second, "sign", "2011-03-10", 2.0, True),
        ]
    )
    tasks = online_retail_usage_tasks(tables, online_retail_fold(), kinds=("mugs and tea", "signs"))
    time = at("2011-03-01 04:00:00")
    label = {
        task.name: dict(task.queries.filter(pl.col("time") == time).select("user_id", "label").iter_rows())
        for task in tasks
    }
    assert {name: [of[user] for user in (first, second, third)] for name, of in label.items()} == {
        "usage: comes back": [1, 1, 0],
        "usage: spend": [1, 0, 0],
        "usage: returns": [0, 1, 0],
        "usage: mugs and tea": [1, 0, 0],
        "usage: signs": [1, 1, 0],
    }
    assert len({task.queries.height for task in tasks}) == 1
    targets = online_retail_target_tasks(tables, online_retail_fold(), kinds=("signs", "retrospot"))
    asked = targets[0].queries.filter(pl.col("time") == time)
    assert dict(asked.select("user_id", "label_time").iter_rows())[first] == at("2011-04-29 05:00:00")
    with pytest.raises(ValueError, match=r"\[\] are not; horizon_days must be at least 1, got 0"):
        online_retail_usage_tasks(tables, online_retail_fold(), kinds=(), horizon_days=0)


def test_targets_and_sources_are_kinds_and_share_none():
    assert set(TARGET_KINDS) | set(USAGE_KINDS) <= set(KEYWORDS)
    assert not set(TARGET_KINDS) & set(USAGE_KINDS)
    assert (len(TARGET_KINDS), len(USAGE_KINDS), len(TARGET_CATEGORIES)) == (8, 6, 8)


@pytest.mark.skipif(not JOURNEY.is_dir(), reason=f"needs {JOURNEY}")
def test_complete_journeys_targets_are_of_middling_size():
    tables = load_complete_journey(JOURNEY)
    split = complete_journey_fold(shared_times=True)
    tasks = complete_journey_target_tasks(tables, split)
    for task in tasks:
        positives = task.queries.filter(pl.col("label") == 1)
        assert 190 <= positives["user_id"].n_unique() <= 440
        assert task.queries["time"].n_unique() == 4
        assert "simulated" in task.notes[0]
    strict = complete_journey_target_tasks(tables, complete_journey_fold())
    for task in strict:
        last_training = max(task.part("train")["time"][-1], task.part("validation")["time"][-1])
        assert last_training + task.horizon <= task.part("test")["time"][0]
    sources = usage_tasks(tables, complete_journey_fold())
    assert len(sources) == 9
    assert not {task.name.removeprefix("usage: department ") for task in sources} & set(TARGET_CATEGORIES)
