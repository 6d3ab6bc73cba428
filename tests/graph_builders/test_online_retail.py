"""Online Retail: two hand-made files that overlap, and the real ones where they are."""

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graph_builders import EventLogError, build_behavior_graph
from graph_builders.datasets.online_retail import (
    FIRST_FILE,
    SECOND_FILE,
    load_online_retail,
    local_time,
)
from graph_builders.datasets.online_retail_keywords import KEYWORDS, keywords_of

FOLDER = Path(__file__).parents[3] / "shared/data/online-retail-uci"
LONDON = ZoneInfo("Europe/London")
FIRST = ("Invoice", "StockCode", "Description", "Quantity", "InvoiceDate", "Price", "Customer ID", "Country")
SECOND = ("Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country")


def first_file():
    rows = [
        ("489434", "85048", "RED  MUG ", 12, "2009-12-01 07:45:00", 6.95, 13085.0, "France"),
        ("489434", "22041", None, 2, "2009-12-01 07:45:00", 2.0, 13085.0, "France"),
        ("489434", "22041", None, 2, "2009-12-01 07:45:00", 2.0, 13085.0, "France"),  # twice
        ("C49000", "85048", "RED MUG", -3, "2010-07-01 10:00:00", 6.95, 13085.0, "Spain"),
        ("490001", "85048", "MUG, RED", 1, "2010-07-02 10:00:00", 6.5, None, "Spain"),  # nobody's
        ("490002", "85048", "MUG, RED", 1, "2010-07-02 10:00:00", 6.5, 13090.0, "Spain"),
        ("490002", "99999", "BLUE MUG", 1, "2010-07-02 10:00:00", 1.5, 13090.0, "Spain"),
        ("490003", "11111", "BLUE MUG", 1, "2010-07-03 10:00:00", 1.5, 13090.0, "Spain"),
        ("490004", "POST", "POSTAGE", 1, "2010-07-03 10:00:00", 18.0, 13090.0, "Spain"),
        ("490005", "99999", "BLUE MUG", 1, "2010-12-09 20:01:00", 0.0, 13090.0, "Spain"),  # a gift
        ("490006", "99999", "BLUE MUG", 1, "2010-12-09 20:01:00", 1.5, 13090.0, "Spain"),
    ]
    return pl.DataFrame(rows, schema=list(FIRST), orient="row")


def second_file():
    rows = [
        ("BLUE MUG", 1, datetime(2010, 12, 9, 20, 1), 1.5, 13090.0, "Spain"),  # in both files
        ("blue mug", 5, datetime(2010, 12, 10, 9, 33), 1.25, 13090.0, "Spain"),
        ("PAPER LANTERN", 2, datetime(2011, 6, 1, 12, 0), 3.0, 14000.0, "Norway"),
        ("Manual", 1, datetime(2011, 6, 1, 12, 0), 30.0, 14000.0, "Norway"),
        (None, -9, datetime(2011, 6, 1, 12, 5), 0.0, None, "Norway"),  # stock that was lost
        ("MUG, RED", -1, datetime(2011, 6, 2, 12, 0), 6.5, 14000.0, "Norway"),
    ]
    return pl.DataFrame(rows, schema=list(SECOND), orient="row")


def write(folder, first=None, second=None):
    folder.mkdir(parents=True, exist_ok=True)
    (first_file() if first is None else first).write_parquet(folder / FIRST_FILE)
    (second_file() if second is None else second).write_parquet(folder / SECOND_FILE)
    return folder


def london(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=LONDON).timestamp())


def test_two_files_are_one_log(tmp_path):
    frame = load_online_retail(write(tmp_path)).events.frame
    named = frame.with_columns(pl.col("behavior", "domain").cast(pl.String))
    found = named.select("user_id", "item_id", "time", "behavior", "quantity", "price", "amount").rows()
    assert found == [
        (13085, "85048", london("2009-12-01 07:45"), "purchase", 12.0, 6.95, 12 * 6.95),
        (13085, "22041", london("2009-12-01 07:45"), "purchase", 2.0, 2.0, 4.0),
        (13085, "85048", london("2010-07-01 10:00"), "return", 3.0, 6.95, 3 * 6.95),
        (13090, "85048", london("2010-07-02 10:00"), "purchase", 1.0, 6.5, 6.5),
        (13090, "99999", london("2010-07-02 10:00"), "purchase", 1.0, 1.5, 1.5),
        (13090, "11111", london("2010-07-03 10:00"), "purchase", 1.0, 1.5, 1.5),
        (13090, "99999", london("2010-12-09 20:01"), "purchase", 1.0, 1.5, 1.5),
        # of the two codes of BLUE MUG, 99999 has more lines
        (13090, "99999", london("2010-12-10 09:33"), "purchase", 5.0, 1.25, 6.25),
        (14000, "PAPER LANTERN", london("2011-06-01 12:00"), "purchase", 2.0, 3.0, 6.0),
        (14000, "85048", london("2011-06-02 12:00"), "return", 1.0, 6.5, 6.5),
    ]
    assert set(named["domain"]) == {"internal"}
    second_line = f"13090@{london('2010-12-10 09:33')}"
    assert frame["basket_id"].to_list()[6:8] == ["490006", second_line]
    # 10 o'clock of a summer's day is 9 o'clock of UTC
    assert frame["time"][2] % 86_400 == 9 * 3600


def test_tables_notes_and_graph(tmp_path):
    tables = load_online_retail(write(tmp_path))
    assert tables.user_table.rows() == [(13085, "France"), (13090, "Spain"), (14000, "Norway")]
    assert tables.item_table.rows() == [
        ("11111", "code", ["mugs and tea"]),
        ("22041", "code", []),
        ("85048", "code", ["mugs and tea"]),
        ("99999", "code", ["mugs and tea"]),
        ("PAPER LANTERN", "description", ["lamps and lights"]),
    ]
    assert tables.text_tables["item"].rows() == [
        ("11111", "BLUE MUG"),
        ("22041", "22041"),  # has no description
        ("85048", "RED MUG"),  # the first of two, blanks cut
        ("99999", "BLUE MUG"),
        ("PAPER LANTERN", "PAPER LANTERN"),
    ]
    assert tables.notes[:7] == (
        "1 of 17 lines are of the time that both files hold: cut from the second.",
        "2 lines have no customer: left out.",
        "2 lines with a customer are no product (postage, discounts, ...): dropped.",
        "1 lines have a price of 0: dropped.",
        "1 lines repeat an earlier one: dropped.",
        "2 of 10 events are returns; what they return is not known.",
        "1 of 5 items are named by their description, for the second file has no stock codes and the first "
        "does not know them.",
    )
    assert tables.time_resolution == "s"
    graph = build_behavior_graph(tables.events, user_table=tables.user_table, item_table=tables.item_table)
    assert graph.num_events == 10
    kept = graph.edge_attributes(("user", "internal:return", "item")).names
    assert kept == ("quantity", "price", "amount", "basket_id")


def test_lines_are_kept_where_asked_for(tmp_path):
    folder = write(tmp_path)
    for option, count in (("service_lines", 12), ("unpaid_lines", 11), ("duplicates", 11)):
        assert len(load_online_retail(folder, **{option: "keep"}).events) == count
        with pytest.raises(ValueError, match=f"{option} must be 'drop' or 'keep', got 'mend'"):
            load_online_retail.__wrapped__(folder, **{option: "mend"})


def test_impressions_are_sampled_when_asked_for(tmp_path):
    folder = write(tmp_path)
    empty = load_online_retail(folder)
    assert empty.impressions.columns == ["user_id", "item_id", "time", "label", "hour"]
    assert empty.impressions.is_empty()
    tables = load_online_retail(folder, num_negatives=1)
    time = london("2010-07-02 10:00")
    assert tables.impressions.filter(pl.col("time") == time).rows() == [
        (13090, "22041", time, 0.0, 10),  # the only other item that had been bought
        (13090, "85048", time, 1.0, 10),
    ]
    assert tables.all_impressions.columns == [*tables.impressions.columns, "domain"]
    with pytest.raises(ValueError, match="num_negatives must be 0 or more, got -1"):
        load_online_retail(folder, num_negatives=-1)


@given(st.integers(london("2009-11-01 00:00"), london("2011-12-31 00:00")))
def test_local_times_are_those_of_london(time):
    found = pl.DataFrame({"time": [time]}).select(local_time().dt.replace_time_zone(None)).item()
    assert found == datetime.fromtimestamp(time, LONDON).replace(tzinfo=None)


def replaced(frame, row, column, value):
    values = frame[column].to_list()
    values[row] = value
    return frame.with_columns(pl.Series(column, values, dtype=frame.schema[column]))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("first", lambda f: f.drop("StockCode"), r"2009_2010.parquet: columns \['StockCode'\] are missing"),
        ("second", lambda f: f.cast({"UnitPrice": pl.String}), r"'UnitPrice' has type String, wanted num"),
        ("first", lambda f: f.with_columns(Country=pl.lit(1)), r"'Country' has type Int32, wanted text"),
        ("second", lambda f: f.with_columns(InvoiceDate=pl.lit(3)), r"'InvoiceDate' has type Int32"),
        (
            "first",
            lambda f: replaced(f, 3, "InvoiceDate", "1.7.2010"),
            r"column 'InvoiceDate' is no time .* in 1 rows: 4 \(values \['1.7.2010'\]\)",
        ),
        (
            "second",
            # the clocks go forward from 1 to 2
            lambda f: replaced(f, 2, "InvoiceDate", datetime(2011, 3, 27, 1, 30)),
            r"no_invoice.parquet: column 'InvoiceDate' is no time .* of Europe/London in 1 rows: 3",
        ),
        ("first", lambda f: replaced(f, 5, "Quantity", 0), r"column 'Quantity' is 0 in 1 rows: 6"),
        ("second", lambda f: replaced(f, 2, "Description", " "), r"'Description' is null in 1 rows: 3"),
        ("first", lambda f: replaced(f, 0, "StockCode", None), r"column 'StockCode' is null in 1 rows: 1"),
        ("first", lambda f: replaced(f, 0, "Country", ""), r"column 'Country' is null in 1 rows: 1"),
        ("second", lambda f: replaced(f, 5, "UnitPrice", -1.0), r"'UnitPrice' is negative or no .*: 6"),
        (
            "second",
            lambda f: replaced(f, 5, "UnitPrice", float("nan")),
            r"'UnitPrice' is negative or no finite number in 1 rows: 6",
        ),
        ("first", lambda f: replaced(f, 1, "Customer ID", 7.5), r"'Customer ID' is no whole number .*: 2"),
        ("first", lambda f: f.head(0), r"holds no rows"),
    ],
)  # fmt: skip
def test_bad_files_are_named(tmp_path, name, change, message):
    file = change(first_file() if name == "first" else second_file())
    with pytest.raises(EventLogError, match=message):
        load_online_retail(write(tmp_path, **{name: file}))


def test_missing_files_and_empty_results_are_named(tmp_path):
    with pytest.raises(EventLogError, match=r"absent: no such folder: pass a folder with online_retail_II"):
        load_online_retail(tmp_path / "absent")
    folder = write(tmp_path)
    (folder / SECOND_FILE).unlink()
    with pytest.raises(EventLogError, match=r"no_invoice.parquet: no such file: pass a folder"):
        load_online_retail(folder)
    free = first_file().with_columns(Price=0.0), second_file().with_columns(UnitPrice=0.0)
    with pytest.raises(EventLogError, match="no line has a customer, a product and a price"):
        load_online_retail(write(tmp_path, *free))


def test_keywords_are_whole_words():
    found = pl.DataFrame({"text": ["PINK T-LIGHT", "DAYLIGHT", "tea  towel", "Sign,LIGHT", None]})
    assert found.select(keywords_of(pl.col("text")))["keywords"].to_list() == [
        ["candles"],
        [],
        ["bathroom", "mugs and tea"],
        ["lamps and lights", "signs"],
        [],
    ]
    assert list(KEYWORDS) == sorted(KEYWORDS)


# ---- the files themselves ------------------------------------------------------------------------

needs_files = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"needs {FOLDER}")


@pytest.fixture(scope="module")
def real():
    # the repeats are found by a slow comparison of all columns: the hand-made files test it
    return load_online_retail(FOLDER, duplicates="keep")


@needs_files
def test_counts_of_the_real_files(real):
    frame = real.events.frame
    assert real.notes[0].startswith("22523 of 1067370 lines")  # 1 to 9 December
    assert real.notes[1].startswith("235287 lines have no customer")
    assert frame["time"].is_sorted()
    span = frame.select(first=pl.col("time").first(), last=pl.col("time").last())
    local = span.select(local_time(name).dt.strftime("%Y-%m-%d %H:%M") for name in span.columns)
    assert local.row(0) == ("2009-12-01 07:45", "2011-12-09 12:50")
    assert frame["user_id"].n_unique() == real.user_table.height == 5875
    assert real.item_table.height == frame["item_id"].n_unique() == 4847
    assert (frame["quantity"] > 0).all()
    hours = frame.select(local_time().dt.hour()).to_series()
    assert hours.is_between(6, 21).all()  # as in the files: no hour is moved in summer


@needs_files
def test_every_kind_has_several_hundred_customers(real):
    kinds = real.item_table.explode("keywords", empty_as_null=True).rename({"keywords": "kind"})
    buyers = real.events.frame.join(kinds, on="item_id").group_by("kind").agg(pl.col("user_id").n_unique())
    count = dict(buyers.iter_rows())
    assert min(count[kind] for kind in KEYWORDS) > 1000
