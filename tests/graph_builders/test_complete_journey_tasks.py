"""Complete Journey's three tasks beside loops written from their definitions."""

from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graph_builders import EventSchema, read_events
from graph_builders.datasets import DatasetTables, UserTimeSplit, load_complete_journey
from graph_builders.datasets.complete_journey import SIMULATED
from graph_builders.datasets.complete_journey_tasks import (
    attribute_tasks,
    complete_journey_split,
    next_genre_task,
    query_times,
    targeting_tasks,
)
from samplers.random_numbers import keyed_uniform

FOLDER = Path(__file__).parents[3] / "shared/data/complete-journey"
NEW_YORK = ZoneInfo("America/New_York")
DAY = 86_400
CATEGORY = {1: "SOUP", 2: "SOUP", 3: "BREAD", 4: "EGGS", 5: "COUPON", 6: None}  # 7 has no row
# clocks go forward on 12 March, between training and test
DAYS = [datetime(2017, 3, 2, 4, tzinfo=NEW_YORK) + timedelta(days=day) for day in range(20)]


def at(day):
    return int(datetime(2017, 3, day, tzinfo=NEW_YORK).timestamp())


SPLIT = UserTimeSplit(start=at(6), test_start=at(13), end=at(22), validation_share=0.2, test_share=0.4)
USERS = list(range(1, 13))


def make_tables(purchases, users=None):
    """Tables of (user, item, time) purchases, and a redemption that is none."""
    rows = [*purchases, (USERS[0], 1, at(2))]
    frame = pl.DataFrame(
        {
            "user_id": [user for user, _, _ in rows],
            "item_id": [item for _, item, _ in rows],
            "time": [time for _, _, time in rows],
            "behavior": ["purchase"] * len(purchases) + ["redemption"],
        }
    )
    items = pl.DataFrame({"item_id": list(CATEGORY), "product_category": list(CATEGORY.values())})
    return DatasetTables(
        name="toy",
        events=read_events(frame, EventSchema(behavior="behavior")),
        impressions=pl.DataFrame(),
        all_impressions=pl.DataFrame(),
        contexts=(),
        item_table=items,
        user_table=users,
    )


# times that often fall on a query time, on the end of a label window, or one second off
query_time = st.sampled_from([int(day.timestamp()) for day in DAYS])
moment = st.builds(lambda time, off: time + off, query_time, st.sampled_from([-1, 0, 1, 9 * 3600]))
purchase = st.tuples(st.sampled_from(USERS), st.integers(1, 7), moment)
purchases_lists = st.lists(purchase, min_size=1, max_size=60)


def grid(split, every_days):
    """4 AM of every so many days, from the calendar."""
    day = datetime.fromtimestamp(split.start, NEW_YORK).replace(hour=4)
    times = [int((day + timedelta(days=every_days * step)).timestamp()) for step in range(60)]
    return [time for time in times if split.start <= time < split.end]


def asked(split, purchases, every_days, horizon):
    """(part, user, time) where the user has bought before and the label window fits."""
    part_of = dict(split.user_parts(pl.Series(USERS)).cast({"part": pl.String}).iter_rows())
    for time in grid(split, every_days):
        for user in USERS:
            part = part_of[user]
            start, end = (split.test_start, split.end) if part == "test" else (split.start, split.test_start)
            fits = start <= time and time + horizon <= end
            if fits and any(who == user and when < time for who, _, when in purchases):
                yield part, user, time


def rows_of(task):
    queries = task.queries.with_columns(pl.col("part").cast(pl.String))
    return queries.select("part", "user_id", "time", "label", "label_time").rows()


def slow_targeting(split, purchases, category, every_days, horizon, num_negatives, random_seed):
    positives, negatives = [], []
    for part, user, time in asked(split, purchases, every_days, horizon):
        own = [when for who, item, when in purchases if who == user and CATEGORY.get(item) == category]
        if any(when < time for when in own):
            continue
        within = [when for when in own if time <= when < time + horizon]
        if within:
            positives.append((part, user, time, 1.0, min(within)))
        else:
            negatives.append((part, user, time, 0.0, None))
    kept = []
    for part, time in {(row[0], row[2]) for row in negatives}:
        candidates = [row for row in negatives if (row[0], row[2]) == (part, time)]

        def draw(row):
            return float(keyed_uniform(random_seed, "targeting", category, row[1], row[2]))

        wanted = num_negatives * sum((row[0], row[2]) == (part, time) for row in positives)
        kept += sorted(candidates, key=draw)[:wanted]
    return sorted(positives + kept, key=lambda row: (row[2], row[1]))


@given(purchases=purchases_lists, horizon_days=st.integers(1, 4), num_negatives=st.integers(1, 2))
def test_targeting_is_that_of_the_definition(purchases, horizon_days, num_negatives):
    bought = {CATEGORY.get(item) for _, item, _ in purchases} - {None}
    categories = sorted(bought)
    if not categories:
        return
    tasks = targeting_tasks(
        make_tables(purchases),
        SPLIT,
        categories=categories,
        every_days=1,
        horizon_days=horizon_days,
        num_negatives=num_negatives,
        random_seed=3,
    )
    assert [task.name for task in tasks] == [f"targeting: {category}" for category in categories]
    for task, category in zip(tasks, categories, strict=True):
        horizon = horizon_days * DAY
        assert rows_of(task) == slow_targeting(
            SPLIT, purchases, category, 1, horizon, num_negatives, random_seed=3
        )
        assert task.horizon == horizon


@given(purchases=purchases_lists, every_days=st.integers(1, 3), horizon_days=st.integers(1, 3))
def test_the_next_genre_is_that_of_the_definition(purchases, every_days, horizon_days):
    task = next_genre_task(make_tables(purchases), SPLIT, every_days=every_days, horizon_days=horizon_days)
    wanted = []
    for part, user, time in asked(SPLIT, purchases, every_days, horizon_days * DAY):
        baskets = {}
        for who, item, when in purchases:
            genre = CATEGORY.get(item)
            if who == user and time <= when < time + horizon_days * DAY and genre not in (None, "COUPON"):
                baskets.setdefault(when, set()).add(genre)
        if baskets:
            wanted.append((part, user, time, sorted(baskets[min(baskets)]), min(baskets)))
    assert rows_of(task) == wanted
    if horizon_days <= every_days:
        baskets = task.queries.select("user_id", "label_time")
        assert baskets.n_unique() == baskets.height


def test_baskets_of_one_second_are_one_and_the_first_with_a_category_counts():
    eight, nine = at(8) + 9 * 3600, at(9) + 9 * 3600
    bought = [(6, at(3)), (5, eight), (6, eight), (3, nine), (1, nine), (2, nine), (4, nine + 1)]
    tables = make_tables([(user, item, time) for user in USERS for item, time in bought])
    queries = next_genre_task(tables, SPLIT, every_days=1, horizon_days=2).queries
    assert queries["label"].to_list() == [["BREAD", "SOUP"]] * queries.height
    assert set(queries["time"]) == {int(DAYS[6].timestamp()), int(DAYS[7].timestamp())}  # the 8th and 9th
    assert set(queries["label_time"]) == {nine}


def people(**fields):
    columns = {
        "kids_count": ["0", "1", "3+", None] * 3,
        "income": ["Under 15K", "35-49K", "50-74K", "250K+"] * 3,
        "home_ownership": ["Homeowner", None, "Renter", "Probable Renter"] * 3,
    }
    return pl.DataFrame({"user_id": USERS, **columns, **fields})


@given(purchases=purchases_lists, every_days=st.integers(1, 3))
def test_attributes_are_asked_whenever_the_household_has_a_past(purchases, every_days):
    labels = {
        "kids": [0.0, 1.0, 1.0, None] * 3,
        "income": [0.0, 0.0, 1.0, 1.0] * 3,
        "home owner": [1.0, None, 0.0, 0.0] * 3,
    }
    tasks = attribute_tasks(make_tables(purchases, people()), SPLIT, every_days=every_days)
    assert [task.name for task in tasks] == list(labels)
    queries = list(asked(SPLIT, purchases, every_days, 0))
    for task in tasks:
        label = dict(zip(USERS, labels[task.name], strict=True))
        assert rows_of(task) == [
            (part, user, time, label[user], None) for part, user, time in queries if label[user] is not None
        ]
        assert task.forbidden_fields == ("kids_count", "income", "home_ownership")
        assert task.horizon == 0


@given(purchases=purchases_lists, later=st.lists(purchase, min_size=1, max_size=8))
def test_a_later_event_changes_no_earlier_query(purchases, later):
    """Where all that is new lies behind a label window, queries, labels and sampled negatives stay."""
    purchases = [*purchases, (1, 1, at(2)), (2, 3, at(3))]
    new = min(time for _, _, time in later)
    before, after = make_tables(purchases, people()), make_tables([*purchases, *later], people())

    def tasks_of(tables):
        return (
            *targeting_tasks(tables, SPLIT, categories=["SOUP", "BREAD"], every_days=1, horizon_days=2),
            *attribute_tasks(tables, SPLIT, every_days=1),
            next_genre_task(tables, SPLIT, every_days=1, horizon_days=2),
        )

    for old, grown in zip(tasks_of(before), tasks_of(after), strict=True):
        settled = pl.col("time") + old.horizon <= new  # a query at the event's own second does not see it
        assert old.queries.filter(settled).equals(grown.queries.filter(settled))
        for queries in (old.queries, grown.queries):
            label_time, time = queries["label_time"], queries["time"]
            happened = label_time.is_not_null()
            assert (label_time >= time).filter(happened).all()
            assert (label_time < time + old.horizon).filter(happened).all()


def test_a_later_event_does_change_what_comes_after_it():
    purchases = [(user, 3, at(2)) for user in USERS]
    tables = [make_tables(purchases), make_tables([*purchases, *((user, 1, at(9)) for user in USERS)])]
    with pytest.raises(ValueError, match=r"got \['SOUP'\], of which \['SOUP'\] are not bought"):
        targeting_tasks(tables[0], SPLIT, categories=["SOUP"], every_days=1, horizon_days=2)
    (task,) = targeting_tasks(tables[1], SPLIT, categories=["SOUP"], every_days=1, horizon_days=2)
    # who buys on the 9th is asked for the last time on the 8th, and is a positive from the 7th on
    assert task.queries["time"].max() == int(DAYS[6].timestamp())
    assert task.queries["time"].min() == int(DAYS[5].timestamp())
    assert task.queries["label"].to_list() == [1.0] * task.queries.height
    assert next_genre_task(tables[0], SPLIT, every_days=1, horizon_days=2).queries.is_empty()
    assert next_genre_task(tables[1], SPLIT, every_days=1, horizon_days=2).queries.height > 0


def test_categories_are_chosen_by_training_users_in_the_training_time():
    part_of = dict(SPLIT.user_parts(pl.Series(USERS)).cast({"part": pl.String}).iter_rows())
    train = [user for user, part in part_of.items() if part == "train"]
    others = [user for user, part in part_of.items() if part != "train"]
    assert len(train) > 3
    assert others
    history = [(user, 6, at(3)) for user in [*train[:3], *others]]
    bread = [(user, 3, at(8)) for user in train[:3]]
    soup = [(user, 1, at(9)) for user in train[:2]]  # one less than bread, the newcomers not counted
    eggs = [
        *((user, 4, at(9)) for user in others),  # of other users
        *((user, 4, SPLIT.test_start) for user in train[:3]),  # after the training time
    ]
    coupons = [(user, 5, at(9)) for user in train]  # no genre
    newcomers = [(user, item, at(7)) for user in train[3:] for item in (1, 2)]  # nothing before: never asked
    again = [(train[2], 1, at(4)), (train[2], 1, at(9))]  # not for the first time in the training time
    tables = make_tables([*history, *bread, *soup, *eggs, *coupons, *newcomers, *again])
    tasks = targeting_tasks(tables, SPLIT, num_categories=2, every_days=1, horizon_days=2)
    assert [task.name for task in tasks] == ["targeting: BREAD", "targeting: SOUP"]
    with pytest.raises(ValueError, match=r"num_categories is 3, but training users buy from 2 categories"):
        targeting_tasks(tables, SPLIT, num_categories=3)


def test_negatives_depend_on_the_seed_and_on_no_other_category():
    purchases = [(user, item, at(3)) for user in USERS for item in (6, 4)]
    # one soup on each day and part of some users: negatives are a choice
    purchases += [(user, 1, at(8 + user % 4)) for user in USERS[::2]]
    tables = make_tables(purchases)

    def soup(**options):
        tasks = targeting_tasks(tables, SPLIT, every_days=1, horizon_days=1, num_negatives=1, **options)
        return next(task for task in tasks if task.name == "targeting: SOUP").queries

    alone = soup(categories=["SOUP"])
    assert alone["label"].sum() > 0
    assert soup(categories=["EGGS", "SOUP"]).equals(alone)
    assert any(not soup(categories=["SOUP"], random_seed=seed).equals(alone) for seed in range(1, 6))


def test_query_times_are_4_am_on_both_sides_of_the_turn_of_the_clocks():
    times = query_times(SPLIT, 3).to_list()
    assert times == grid(SPLIT, 3)
    local = [datetime.fromtimestamp(time, NEW_YORK) for time in times]
    assert [time.isoformat()[:16] for time in local[:3]] == [
        "2017-03-06T04:00", "2017-03-09T04:00", "2017-03-12T04:00",
    ]  # fmt: skip
    assert times[2] - times[1] == 3 * DAY - 3600
    assert query_times(SPLIT, 1).to_list() == grid(SPLIT, 1)


def test_wrong_options_and_tables_are_named():
    tables = make_tables([(1, 1, at(3))], people())
    with pytest.raises(ValueError, match=r"num_negatives and num_categories must be at least 1, got 0 and 4"):
        targeting_tasks(tables, SPLIT, num_negatives=0)
    with pytest.raises(ValueError, match=r"categories must be one or more, distinct .* got \[\]"):
        targeting_tasks(tables, SPLIT, categories=[])
    with pytest.raises(ValueError, match=r"horizon_days must be at least 1, got 0"):
        next_genre_task(tables, SPLIT, horizon_days=0)
    with pytest.raises(ValueError, match=r"every_days must be at least 1, got 0"):
        attribute_tasks(tables, SPLIT, every_days=0)
    with pytest.raises(ValueError, match=r"'income' holds the classes \['much'\], known are \['Under 15K'"):
        attribute_tasks(make_tables([(1, 1, at(3))], people(income=["much"] * 12)), SPLIT)
    with pytest.raises(ValueError, match=r"toy: there is no user table"):
        attribute_tasks(make_tables([(1, 1, at(3))]), SPLIT)
    bare = DatasetTables(
        name="bare",
        events=tables.events,
        impressions=pl.DataFrame(),
        all_impressions=pl.DataFrame(),
        contexts=(),
    )
    with pytest.raises(ValueError, match=r"bare: items have no product_category"):
        next_genre_task(bare, SPLIT)


# ---- the data itself -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    if not FOLDER.is_dir():
        pytest.skip(f"needs {FOLDER}")
    return load_complete_journey(FOLDER)


def counts(task):
    """Queries, users and the sum of labels by part."""
    measure = pl.col("label").sum() if task.kind == "binary" else pl.col("label").list.len().mean().round(1)
    by_part = task.queries.group_by(pl.col("part").cast(pl.String)).agg(
        pl.len(), pl.col("user_id").n_unique(), measure
    )
    return {part: tuple(rest) for part, *rest in by_part.iter_rows()}


def test_the_tasks_of_the_whole_year(real):
    split = complete_journey_split()
    targeting, attributes = targeting_tasks(real, split), attribute_tasks(real, split)
    genre = next_genre_task(real, split)
    for task in (*targeting, *attributes, genre):
        assert SIMULATED in task.notes
        early = task.queries.filter(pl.col("part").cast(pl.String) != "test")
        assert early["time"].max() + task.horizon <= split.test_start <= task.label_start["test"]
        assert task.queries.select("user_id", "part").unique().select("user_id").is_duplicated().sum() == 0
        task.check_before(split.test_start)
        assert task.queries["time"].max() + task.horizon <= split.end
    assert [task.name for task in attributes] == ["kids", "income", "home owner"]
    positive = [task.notes[1].split(",")[1].split()[0] for task in attributes]
    labelled = [task.notes[1].split()[0] for task in attributes]
    assert (labelled, positive) == (["801", "801", "568"], ["288", "417", "515"])
    assert [task.name.removeprefix("targeting: ") for task in targeting] == [
        "SALD DRSNG/SNDWCH SPRD", "CONDIMENTS/SAUCES", "ICE CREAM/MILK/SHERBTS", "FRZN NOVELTIES/WTR ICE",
    ]  # fmt: skip
    # queries, households, positives; where negatives run out, they are fewer than three for each
    assert counts(targeting[0]) == {
        "train": (8718, 868, 2244), "validation": (1477, 140, 391), "test": (1284, 265, 321),
    }  # fmt: skip
    assert [counts(task)["test"] for task in targeting[1:]] == [
        (1900, 270, 475), (1680, 272, 420), (1180, 369, 295),
    ]  # fmt: skip
    assert [counts(task)["test"] for task in attributes] == [
        (1260, 252, 450), (1260, 252, 660), (915, 183, 835),
    ]  # fmt: skip
    assert counts(genre) == {  # with the mean number of categories in a basket
        "train": (15_255, 1325, 8.7), "validation": (3053, 249, 8.8), "test": (9014, 765, 8.8),
    }  # fmt: skip
