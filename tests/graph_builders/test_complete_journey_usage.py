"""Complete Journey's usage tasks beside loops written from their definitions."""

from datetime import datetime
from statistics import median
from zoneinfo import ZoneInfo

import polars as pl
import pytest
import torch

from graph_builders import EventSchema, read_events
from graph_builders.datasets import DatasetTables, UserTimeSplit
from graph_builders.datasets.complete_journey import SIMULATED
from graph_builders.datasets.complete_journey_tasks import query_times
from graph_builders.datasets.complete_journey_usage import usage_tasks

NEW_YORK = ZoneInfo("America/New_York")
DAY = 86_400
DEPARTMENT = {1: "GROCERY", 2: "DRUG", 3: "MEAT", 4: None}


def at(month, day):
    return int(datetime(2017, month, day, tzinfo=NEW_YORK).timestamp())


SPLIT = UserTimeSplit(start=at(3, 6), test_start=at(4, 20), end=at(6, 1), test_share=0.3)


def purchases(*, seed=0, num_events=500, last=None):
    """Rows of (user, item, time, dollars, off by coupons); two lines of a basket share their time."""
    generator = torch.Generator().manual_seed(seed)

    def draw(high):
        return torch.randint(high, (num_events,), generator=generator).tolist()

    start, days = at(3, 1), 92
    times = [start + slot * DAY // 2 for slot in draw(2 * days)]
    coupon = [0.0 if number else 1.0 for number in draw(12)]
    rows = list(zip(draw(20), [1 + i for i in draw(4)], times, map(float, draw(9)), coupon, strict=True))
    return [row for row in rows if last is None or row[2] < last]


def make_tables(rows):
    names = ("user_id", "item_id", "time", "sales_value", "coupon_disc")
    frame = pl.DataFrame(rows, schema=list(names), orient="row").with_columns(behavior=pl.lit("purchase"))
    items = pl.DataFrame({"item_id": list(DEPARTMENT), "department": list(DEPARTMENT.values())})
    return DatasetTables(
        name="toy",
        events=read_events(
            frame, EventSchema(behavior="behavior", attributes=("sales_value", "coupon_disc"))
        ),
        impressions=pl.DataFrame(),
        all_impressions=pl.DataFrame(),
        contexts=(),
        item_table=items,
    )


def tasks_of(rows, **options):
    options = {"every_days": 7, "horizon_days": 14, "num_departments": 2} | options
    return {task.name: task for task in usage_tasks(make_tables(rows), SPLIT, **options)}


def test_labels_beside_loops():
    rows = sorted(set(purchases()))
    tasks = tasks_of(rows)
    part = dict(SPLIT.user_parts(pl.Series(range(20))).cast({"part": pl.String}).iter_rows())
    inside = {}
    for user in range(20):
        low, high = SPLIT.window(part[user])
        for time in query_times(SPLIT, 7).to_list():
            known = any(who == user and when < time for who, _, when, _, _ in rows)
            if known and low <= time and time + 14 * DAY <= high:
                inside[user, time] = [r for r in rows if r[0] == user and time <= r[2] < time + 14 * DAY]
    values = {
        "usage: baskets": {key: len({r[2] for r in lines}) for key, lines in inside.items()},
        "usage: spend": {key: sum(r[3] for r in lines) for key, lines in inside.items()},
        "usage: coupons": {key: sum(r[4] for r in lines) for key, lines in inside.items()},
    }
    train = [key for key in inside if part[key[0]] == "train"]
    expected = {}
    for name, value in values.items():
        above = 0 if name == "usage: coupons" else median(value[key] for key in train)
        expected[name] = {key: float(value[key] > above) for key in inside}
    from_half = {}
    for department in ("GROCERY", "DRUG", "MEAT"):
        buys = {key: any(DEPARTMENT[r[1]] == department for r in lines) for key, lines in inside.items()}
        from_half[department] = abs(sum(buys[key] for key in train) / len(train) - 0.5)
        expected[f"usage: department {department}"] = {key: float(buy) for key, buy in buys.items()}
    nearest = sorted(from_half, key=lambda name: (from_half[name], name))[:2]
    assert list(tasks) == [*values, *(f"usage: department {name}" for name in nearest)]
    assert {name for key, name in part.items()} == {"train", "validation", "test"}
    for name, task in tasks.items():
        rows_of_task = task.queries.select("user_id", "time", "label").iter_rows()
        assert {(user, time): label for user, time, label in rows_of_task} == expected[name]
        assert task.queries.select("time", "user_id").rows() == sorted((t, u) for u, t in inside)
        assert task.notes[0] == SIMULATED
        assert 0.05 < task.queries["label"].mean() < 0.95
        assert (task.kind, task.horizon) == ("binary", 14 * DAY)


def test_the_test_time_decides_nothing_about_training_labels():
    whole, cut = tasks_of(purchases()), tasks_of(purchases(last=SPLIT.test_start))
    assert list(whole) == list(cut)
    for name, task in whole.items():
        assert cut[name].part("train").equals(task.part("train"))
        assert cut[name].notes == task.notes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon_days": 0}, "horizon_days must be at least 1"),
        ({"num_departments": 4}, "num_departments is 4, but training households buy from 3"),
        ({"every_days": 0}, "every_days must be at least 1"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        tasks_of(purchases(), **options)
