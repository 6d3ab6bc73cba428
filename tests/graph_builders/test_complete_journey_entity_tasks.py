"""Complete Journey's tasks for DUPN beside loops on hand-made purchases."""

import polars as pl
import pytest

from graph_builders.datasets.complete_journey import SIMULATED
from graph_builders.datasets.complete_journey_entity_tasks import (
    complete_journey_entity_tasks,
    first_purchase_task,
    price_task,
    purchase_lines,
)
from tests.graph_builders.test_complete_journey_tasks import make_tables as tables_without_stores

# household, product, manufacturer, store, dollars, time
LINES = [
    (1, 10, "m", "s", 1.0, 100),
    (1, 11, "n", "s", 3.0, 100),
    (2, 10, "m", "t", 5.0, 200),
    (2, 12, None, "t", 7.0, 200),
    (3, 11, "n", "t", 2.0, 300),
    (1, 12, None, "t", 8.0, 400),
    (1, 10, "m", "s", 9.0, 500),
    (3, 10, "m", "s", 4.0, 500),
]
NAMES = ("user_id", "item_id", "manufacturer", "store_id", "sales_value", "time")


@pytest.fixture
def purchases():
    return pl.DataFrame(LINES, schema=NAMES, orient="row")


def positives_by_loop(place):
    """First times of a household and an entity, of entities that somebody bought before."""
    found, bought, known = [], set(), {}
    for line in sorted(LINES, key=lambda line: (line[5], line[0], line[1])):
        user, entity, time = line[0], line[place], line[5]
        if entity is None:
            continue
        if (user, entity) not in bought and known.get(entity, time) < time:
            found.append((user, time, entity))
        bought.add((user, entity))
        known.setdefault(entity, time)
    return sorted(found)


@pytest.mark.parametrize(("entity", "place"), [("item_id", 1), ("manufacturer", 2), ("store_id", 3)])
def test_positives_are_first_times_and_negatives_are_new_to_the_household(purchases, entity, place):
    task = first_purchase_task(purchases, "some", entity, num_negatives=1)
    rows = task.rows
    positives = rows.filter(pl.col("label") == 1).select("user_id", "time", entity).rows()
    assert sorted(positives) == positives_by_loop(place)
    for user, time, one in rows.filter(pl.col("label") == 0).select("user_id", "time", entity).rows():
        assert not any(line[0] == user and line[place] == one and line[5] <= time for line in LINES)
        assert any(line[0] != user and line[place] == one and line[5] < time for line in LINES)
    assert rows["known_time"].equals(rows["time"].rename("known_time"))
    assert (task.kind, task.entity, task.notes[0]) == ("pair", entity, SIMULATED)


def test_price_levels_are_quantiles_of_earlier_baskets(purchases):
    task = price_task(purchases, fit_until=400, num_classes=3)
    # before: 2, 6 and 2 dollars a line; a bound at 2, the least, is left out; the other is 3.33
    assert task.num_classes == 2
    assert task.rows.select("user_id", "time", "label").rows() == [
        (1, 100, 0.0), (2, 200, 1.0), (3, 300, 0.0), (1, 400, 1.0), (1, 500, 1.0), (3, 500, 1.0)
    ]  # fmt: skip
    # what comes later moves no bound
    later = purchases.with_columns(
        pl.when(pl.col("time") >= 400).then(99.0).otherwise("sales_value").alias("sales_value")
    )
    assert price_task(later, fit_until=400, num_classes=3).notes == task.notes


def test_errors(purchases):
    with pytest.raises(ValueError, match="at least 2"):
        price_task(purchases, fit_until=400, num_classes=1)
    with pytest.raises(ValueError, match="no two prices"):
        price_task(purchases, fit_until=100)
    with pytest.raises(ValueError, match="load_complete_journey"):
        purchase_lines(tables_without_stores([(1, 1, 1_490_000_000)]))


def test_all_tasks_of_a_loaded_shop(tmp_path):
    from graph_builders.datasets import load_complete_journey
    from tests.experiments.toy_shop import NUM_HOUSEHOLDS, write_shop

    tables = load_complete_journey(write_shop(tmp_path / "shop"))
    middle = int(tables.events.frame["time"].quantile(0.5))
    tasks = complete_journey_entity_tasks(tables, fit_until=middle, num_classes=4)
    assert list(tasks) == ["product", "price", "brand", "store"]
    assert tasks["price"].num_classes == 4
    share = tasks["price"].rows.filter(pl.col("time") < middle)["label"].value_counts()["count"]
    assert share.max() < 1.2 * share.min()  # quarters
    product = tasks["product"].rows
    assert product["user_id"].n_unique() <= NUM_HOUSEHOLDS
    assert 0.4 < product["label"].mean() < 0.6
