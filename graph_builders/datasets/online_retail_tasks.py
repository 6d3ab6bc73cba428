"""Online Retail's tasks: first purchases of a kind of products (targets), usage of the shop (sources).

Two years allow windows of 365 days and query times from December 2010 to October 2011. The eight targets were
chosen by size and season alone, before any model was run: 190 to 440 customers buy of them for the first time
in that time, and no month has over 1.71 times its share of a year's purchases.
"""

from collections.abc import Sequence
from datetime import date

import polars as pl

from graph_builders.datasets.downstream_tasks import DownstreamTask, UserTimeSplit
from graph_builders.datasets.first_purchases import DAY, FoldSplit, first_purchase_tasks, monthly_times
from graph_builders.datasets.online_retail import TIME_ZONE
from graph_builders.datasets.tables import DatasetTables

TARGET_KINDS = (
    "bathroom", "doormats", "hooks and hangers", "lunch boxes", "mirrors", "napkins and tablecloths",
    "retrospot", "signs",
)  # fmt: skip
USAGE_KINDS = ("bags", "baking", "boxes and baskets", "candles", "cards and wrap", "mugs and tea")
"""The kinds that most customers buy: what source tasks ask for. None is a target."""


def online_retail_fold(
    fold: int = 0,
    *,
    num_folds: int = 5,
    validation_share: float = 0.1,
    shared_times: bool = False,
    random_seed: int = 0,
) -> FoldSplit:
    """Return a fold of the customers: queries from December 2010, test queries from August 2011, to the end.

    With a horizon of 60 days and monthly queries, training customers are asked from December to June, test
    customers from August to October.

    Args:
        fold: whose customers are the test's.
        num_folds: of the customers.
        validation_share: of the customers, expected.
        shared_times: see ``UserTimeSplit``.
        random_seed: of the draw of customers.

    """
    days = pl.Series([date(2010, 12, 1), date(2011, 8, 1), date(2011, 12, 9)])
    start, test_start, end = (
        days.cast(pl.Datetime("us")).dt.replace_time_zone(TIME_ZONE).dt.epoch("s").to_list()
    )
    return FoldSplit(
        start=start,
        test_start=test_start,
        end=end,
        validation_share=validation_share,
        random_seed=random_seed,
        num_folds=num_folds,
        fold=fold,
        shared_times=shared_times,
    )


def online_retail_target_tasks(
    tables: DatasetTables,
    split: UserTimeSplit,
    *,
    kinds: Sequence[str] = TARGET_KINDS,
    horizon_days: int = 60,
) -> tuple[DownstreamTask, ...]:
    """Ask monthly, at 4 AM local time, who buys a kind of products for the first time in the log.

    Args:
        tables: of ``load_online_retail``.
        split: of ``online_retail_fold``.
        kinds: of ``online_retail_keywords.KEYWORDS``.
        horizon_days: length of a label window.

    Raises:
        ValueError: the tables lack keywords, or as ``first_purchase_tasks``.

    """
    return first_purchase_tasks(
        _lines(tables),
        split,
        monthly_times(split, TIME_ZONE),
        categories=kinds,
        horizon=horizon_days * DAY,
        notes=("Kinds are words of item descriptions: the data has no categories.",),
    )


def online_retail_usage_tasks(
    tables: DatasetTables,
    split: UserTimeSplit,
    *,
    kinds: Sequence[str] = USAGE_KINDS,
    horizon_days: int = 60,
) -> tuple[DownstreamTask, ...]:
    """Ask monthly what a customer who has bought before does within the horizon: nine source tasks.

    Args:
        tables: of ``load_online_retail``.
        split: of users and times.
        kinds: of products, a task each.
        horizon_days: length of a label window.

    Returns:
        Binary tasks "usage: comes back" (any purchase), "usage: spend" (more than the median of the training
        queries that spend anything), "usage: returns" (any), and "usage: X" for each kind (any purchase).

    Raises:
        ValueError: the tables lack keywords, ``horizon_days`` is below 1, nobody buys a kind, or no training
            query is followed by a purchase.

    """
    lines = _lines(tables)
    unknown = sorted(set(kinds) - set(lines["category"].drop_nulls().unique()))
    if unknown or horizon_days < 1:
        raise ValueError(
            f"kinds must be bought in the log, {unknown} are not; horizon_days must be at least 1, got "
            f"{horizon_days}"
        )
    horizon = horizon_days * DAY
    first = lines.group_by("user_id").agg(first=pl.col("time").min())
    asked = (
        split.query_frame(first["user_id"], monthly_times(split, TIME_ZONE), horizon)
        .join(first, on="user_id")
        .filter(pl.col("first") < pl.col("time"))
        .select("user_id", "time", "part")
        .sort("time", "user_id")
    )
    events = tables.events.frame.select("user_id", "behavior", "amount", event_time="time")
    bought = lines.select("user_id", "category", event_time="time").drop_nulls().unique()
    amounts = _sums(
        asked,
        events,
        horizon,
        spend=pl.col("amount").filter(pl.col("behavior") == "purchase").sum().round(2),
        returns=(pl.col("behavior") == "return").sum(),
        purchases=(pl.col("behavior") == "purchase").sum(),
    )
    spent = amounts.filter((pl.col("part") == "train") & (pl.col("spend") > 0))
    if spent.is_empty():
        raise ValueError("no training query is followed by a purchase: give the split more users or time")
    median = spent.select(pl.col("spend").median()).item()
    note = f"Of the {horizon_days} days from the query time on."
    found = [
        ("usage: comes back", amounts, pl.col("purchases") > 0, "Positives buy anything."),
        ("usage: spend", amounts, pl.col("spend") > median, f"Positives spend over {median:g} pounds."),
        ("usage: returns", amounts, pl.col("returns") > 0, "Positives return anything."),
    ]
    for kind in kinds:
        counts = _sums(asked, bought.filter(pl.col("category") == kind), horizon, lines=pl.len())
        found.append((f"usage: {kind}", counts, pl.col("lines") > 0, f"Positives buy {kind!r}."))
    return tuple(
        DownstreamTask(
            name=name,
            kind="binary",
            queries=frame.select(
                "user_id", "time", "part", label=label.cast(pl.Float32), label_time=pl.lit(None, pl.Int64)
            ),
            horizon=horizon,
            notes=(note, what),
            shared_times=split.shared_times,
        )
        for name, frame, label, what in found
    )


def _lines(tables: DatasetTables) -> pl.DataFrame:
    """Return ``user_id``, ``time`` and ``category`` of the purchases, a row for each kind of an item."""
    if tables.item_table is None or "keywords" not in tables.item_table.columns:
        raise ValueError(f"{tables.name}: items have no keywords: load it with load_online_retail")
    kinds = tables.item_table.select("item_id", category="keywords").explode("category", empty_as_null=True)
    purchases = tables.events.frame.filter(pl.col("behavior") == "purchase")
    return (
        purchases.select("user_id", "item_id", "time").join(kinds, on="item_id", how="left").drop("item_id")
    )


def _sums(asked: pl.DataFrame, events: pl.DataFrame, horizon: int, **sums: pl.Expr) -> pl.DataFrame:
    """Put aggregates of the events of each query's label window beside it; 0 where there are none."""
    inside = pl.col("event_time").is_between(pl.col("time"), pl.col("time") + horizon, closed="left")
    pairs = asked.select("user_id", "time").join(events, on="user_id").filter(inside)
    found = pairs.group_by("user_id", "time").agg(**sums)
    joined = asked.join(found, on=["user_id", "time"], how="left", maintain_order="left")
    return joined.with_columns(pl.col(name).fill_null(0) for name in sums)
