"""Amazon's small 5-core sets: reviews of several categories, titles, texts known before a time."""

import gzip
import json
from pathlib import Path

import polars as pl
import pytest

from graph_builders import EventLogError, build_behavior_graph
from graph_builders.datasets.amazon_5core import CATEGORIES, load_amazon_5core, review_texts

SHARED = Path(__file__).parents[3] / "shared/data/amazon-5core-small"
DAY = 86_400
START = 1_400_025_600  # midnight
TWO = ("Gift Cards", "Appliances")


def review(user, item, day, rating=5.0, **more):
    return {
        "reviewerID": user,
        "asin": item,
        "unixReviewTime": START + day * DAY,
        "overall": rating,
        "reviewerName": "a name",
        "summary": f"summary {day}",
        "reviewText": f"text of {user}",
        **more,
    }


CARDS = [review("B", "card", 3), review("A", "card", 1, 2.0), review("A", "card", 1), review("A", "other", 2)]
APPLIANCES = [review("C", "hose", 0), review("A", "hose", 5, reviewText=None), review("C", "vent", 9)]
META = [
    {"asin": "card", "title": "A Fine Card"},
    {"asin": "other", "title": '<span class="a-size-medium"'},
    {"asin": "nobody's", "title": "Unseen"},
]


def write(folder, **changes):
    files = {
        "Gift_Cards_5.json": CARDS,
        "meta_Gift_Cards.json": META,
        "Appliances_5.json": APPLIANCES,
        **changes,
    }
    for name, rows in files.items():
        text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
        (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def test_reviews_become_events_known_at_the_end_of_their_day(tmp_path):
    tables = load_amazon_5core(write(tmp_path), categories=TWO)
    frame = tables.events.frame
    kept = frame.select("user_id", "item_id", pl.col("time") - START, "rating").rows()
    assert kept == [
        (2, "hose", 0, 5.0),
        (0, "card", DAY, 2.0),  # the first of two reviews of that day
        (0, "other", 2 * DAY, 5.0),
        (1, "card", 3 * DAY, 5.0),
        (0, "hose", 5 * DAY, 5.0),
        (2, "vent", 9 * DAY, 5.0),
    ]
    assert (frame["available_time"] == frame["time"] + DAY - 1).all()
    assert tables.item_table.rows() == [
        ("card", "Gift Cards"),
        ("hose", "Appliances"),
        ("other", "Gift Cards"),
        ("vent", "Appliances"),
    ]
    assert "1 of 7 reviews repeat" in tables.notes[0]
    assert "name" not in str(frame.columns)
    graph = build_behavior_graph(tables.events, item_table=tables.item_table, texts=tables.text_tables)
    assert graph.texts["item"].to_list()[:4] == ["A Fine Card", None, None, None]


def test_a_text_holds_nothing_from_the_time_on(tmp_path):
    tables = load_amazon_5core(write(tmp_path), categories=TWO)
    early = dict(review_texts(tables, before=START + 5 * DAY).iter_rows())
    assert early == {
        "card": "A Fine Card",
        "hose": "summary 0 text of C",
        "other": "summary 2 text of A",
        "vent": None,
    }
    # the review of day 5 is known at its last second
    assert dict(review_texts(tables, before=START + 6 * DAY - 1).iter_rows()) == early
    later = dict(review_texts(tables, before=START + 6 * DAY).iter_rows())
    assert later == {**early, "hose": "summary 0 text of C summary 5"}


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match="categories must be some of"):
        load_amazon_5core(write(tmp_path), categories=("Books",))
    with pytest.raises(EventLogError, match="no such file: Magazine"):
        load_amazon_5core(tmp_path, categories=("Magazine Subscriptions",))
    broken = [
        (["{"], r"line 1: no JSON"),
        (["3"], r"line 1: a int, not an object"),
        ([review("C", "hose", 0), {"asin": "hose"}], r"review 2 has no 'reviewerID'"),
        (
            [{**review("C", "hose", 0), "unixReviewTime": "now"}],
            r"'unixReviewTime' holds values of the wrong",
        ),
    ]
    for rows, message in broken:
        with pytest.raises(EventLogError, match=message):
            load_amazon_5core(write(tmp_path, **{"Appliances_5.json": rows}), categories=TWO)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the Amazon 5-core files, which may not be passed on")
def test_the_real_files():
    tables = load_amazon_5core(SHARED, categories=("Gift Cards", "All Beauty"))
    assert tables.events.frame["user_id"].n_unique() == 458 + 991 - 1  # one is in both
    assert tables.item_table.height == 148 + 85
    titles = tables.text_tables["item"].join(tables.item_table, on="item_id")
    assert titles.filter(pl.col("category") == "Gift Cards")["text"].null_count() == 0
    assert len(CATEGORIES) == 6
