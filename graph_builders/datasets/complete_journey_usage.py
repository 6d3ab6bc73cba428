"""Complete Journey's usage tasks: on what the multi-task baselines of UserBERT are pre-trained.

The paper's twelve "classify the categories of user activities such as the usage frequency of certain
services", and it does not reveal more. Ours ask about a household's next days as a whole: how often it comes,
what it spends, whether it uses coupons, and from which departments it buys. The data is simulated from real
patterns by its Python package's own word.
"""

import polars as pl

from graph_builders.datasets.complete_journey import SIMULATED
from graph_builders.datasets.complete_journey_tasks import DAY, query_times
from graph_builders.datasets.downstream_tasks import DownstreamTask, UserTimeSplit
from graph_builders.datasets.tables import DatasetTables


def usage_tasks(
    tables: DatasetTables,
    split: UserTimeSplit,
    *,
    every_days: int = 28,
    horizon_days: int = 28,
    num_departments: int = 6,
) -> tuple[DownstreamTask, ...]:
    """Ask what a household that has bought before does in the days after the query time.

    Medians and departments are those of the training queries: neither test users nor test times are looked
    at. None of these is one of the three downstream tasks' labels (a first purchase in a category, a
    demographic field, the categories of the next basket).

    Args:
        tables: of ``load_complete_journey``.
        split: see ``UserTimeSplit``.
        every_days: days from one query time to the next.
        horizon_days: length of a label window.
        num_departments: those which nearest to half of the training queries buy from; ties by name.

    Returns:
        Binary tasks "usage: baskets" and "usage: spend" (above the median), "usage: coupons" (any redeemed),
        and "usage: department X" (any purchase), without a ``label_time``.

    Raises:
        ValueError: an option is out of its range, the tables lack departments, or there are fewer of them.

    """
    if horizon_days < 1 or num_departments < 0:
        raise ValueError(
            f"horizon_days must be at least 1 and num_departments 0, got {horizon_days}, {num_departments}"
        )
    if tables.item_table is None or "department" not in tables.item_table.columns:
        raise ValueError(f"{tables.name}: items have no department: load it with load_complete_journey")
    horizon = horizon_days * DAY
    lines = (
        tables.events.frame.filter(pl.col("behavior") == "purchase")
        .select("user_id", "item_id", "time", "sales_value", "coupon_disc")
        .join(tables.item_table.select("item_id", "department"), on="item_id", how="left")
    )
    first = lines.group_by("user_id").agg(first=pl.col("time").min())
    asked = (
        split.query_frame(first["user_id"], query_times(split, every_days), horizon)
        .join(first, on="user_id")
        .filter(pl.col("first") < pl.col("time"))
        .select("user_id", "time", "part")
        .sort("time", "user_id")
    )
    baskets = lines.group_by("user_id", "time").agg(pl.col("sales_value", "coupon_disc").sum())
    # sums in an order of their own differ in the last digit, which would decide at the median: to the cent
    sums = _in_window(asked, baskets, horizon).agg(
        baskets=pl.len(),
        spend=pl.col("sales_value").sum().round(2),
        coupons=pl.col("coupon_disc").sum().round(2),
    )
    amounts = asked.join(sums, on=["user_id", "time"], how="left", maintain_order="left").fill_null(0)
    training = amounts.filter(pl.col("part") == "train")
    notes = (SIMULATED, f"Of the {horizon_days} days from the query time on.")
    if training.is_empty():
        raise ValueError("there is no training query: give the split more users, or a longer time")
    tasks = []
    for name in ("baskets", "spend", "coupons"):
        above = training.select(pl.col(name).median()).item() if name != "coupons" else 0.0
        label = amounts.with_columns(label=pl.col(name) > above)
        note = f"Positives have more than {above:g}."
        tasks.append(_task(f"usage: {name}", label, horizon, (*notes, note), split))
    bought = lines.select("user_id", "time", "department").drop_nulls().unique()
    found = (
        _in_window(asked, bought, horizon, "department")
        .agg()
        .with_columns(pl.col("department").cast(pl.String), bought=pl.lit(True))
    )
    for department in _departments(found, training, num_departments):
        of_one = found.filter(pl.col("department") == department).select("user_id", "time", label="bought")
        label = asked.join(of_one, on=["user_id", "time"], how="left", maintain_order="left")
        tasks.append(
            _task(
                f"usage: department {department}",
                label.with_columns(pl.col("label").fill_null(False)),
                horizon,
                (*notes, f"Positives buy from {department!r}."),
                split,
            )
        )
    return tuple(tasks)


def _in_window(
    asked: pl.DataFrame, events: pl.DataFrame, horizon: int, *keys: str
) -> "pl.dataframe.group_by.GroupBy":
    """Group the events of each query's label window by the query and the keys."""
    pairs = asked.select("user_id", "time").join(
        events.rename({"time": "event_time"}), on="user_id", how="inner"
    )
    inside = (pl.col("event_time") >= pl.col("time")) & (pl.col("event_time") < pl.col("time") + horizon)
    return pairs.filter(inside).group_by("user_id", "time", *keys)


def _departments(found: pl.DataFrame, training: pl.DataFrame, num_departments: int) -> list[str]:
    counts = (
        found.join(training.select("user_id", "time"), on=["user_id", "time"])
        .group_by("department")
        .len()
        .with_columns(from_half=(pl.col("len") / training.height - 0.5).abs())
        .sort("from_half", "department")
    )
    if counts.height < num_departments:
        raise ValueError(
            f"num_departments is {num_departments}, but training households buy from {counts.height}"
        )
    return counts["department"].head(num_departments).to_list()


def _task(
    name: str, labelled: pl.DataFrame, horizon: int, notes: tuple[str, ...], split: UserTimeSplit
) -> DownstreamTask:
    queries = labelled.select(
        "user_id",
        "time",
        "part",
        pl.col("label").cast(pl.Float32),
        pl.lit(None, pl.Int64).alias("label_time"),
    )
    return DownstreamTask(
        name=name,
        kind="binary",
        queries=queries,
        horizon=horizon,
        notes=notes,
        shared_times=split.shared_times,
    )
