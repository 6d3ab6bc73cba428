"""Complete Journey's target tasks for few-shot profiling: first purchases in eight categories.

The year allows windows of 182 days and query times from July to October. The eight were chosen by size and
season alone, before any model was run: 190 to 440 households buy of them for the first time from July to
November, and no month has over 1.15 times its share of a year's purchases. None of them is a department, a
task of ``complete_journey_usage``. The data is simulated from real patterns by its package's own word.
"""

from collections.abc import Sequence
from datetime import date

import polars as pl

from graph_builders.datasets.complete_journey import SIMULATED, TIME_ZONE, local_midnight
from graph_builders.datasets.downstream_tasks import DownstreamTask
from graph_builders.datasets.first_purchases import DAY, FoldSplit, first_purchase_tasks, monthly_times
from graph_builders.datasets.tables import DatasetTables

TARGET_CATEGORIES = (
    "ANALGESICS", "BABY HBC", "BLEACH", "DEODORANTS", "FEMININE HYGIENE", "HAIR CARE PRODUCTS", "MAGAZINE",
    "PREPARED FOOD",
)  # fmt: skip


def complete_journey_fold(
    fold: int = 0,
    *,
    num_folds: int = 5,
    validation_share: float = 0.1,
    shared_times: bool = False,
    random_seed: int = 0,
) -> FoldSplit:
    """Return a fold of the households: queries from July 2017, test queries from October, to November's end.

    With a horizon of 60 days and monthly queries, training households are asked in July and August, test
    households in October; with ``shared_times`` both from July to October.

    Args:
        fold: whose households are the test's.
        num_folds: of the households.
        validation_share: of the households, expected.
        shared_times: see ``UserTimeSplit``.
        random_seed: of the draw of households.

    """
    days = pl.DataFrame({"day": [date(2017, 7, 1), date(2017, 10, 1), date(2017, 12, 1)]})
    start, test_start, end = days.select(local_midnight(pl.col("day"))).to_series().to_list()
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


def complete_journey_target_tasks(
    tables: DatasetTables,
    split: FoldSplit,
    *,
    categories: Sequence[str] = TARGET_CATEGORIES,
    horizon_days: int = 60,
) -> tuple[DownstreamTask, ...]:
    """Ask monthly, at 4 AM local time, who buys of a product category for the first time in the log.

    Args:
        tables: of ``load_complete_journey``.
        split: of ``complete_journey_fold``.
        categories: product categories.
        horizon_days: length of a label window.

    Raises:
        ValueError: the tables lack categories, or as ``first_purchase_tasks``.

    """
    if tables.item_table is None or "product_category" not in tables.item_table.columns:
        raise ValueError(f"{tables.name}: items have no product_category: load it with load_complete_journey")
    category = tables.item_table.select("item_id", category="product_category")
    purchases = (
        tables.events.frame.filter(pl.col("behavior") == "purchase")
        .select("user_id", "item_id", "time")
        .join(category, on="item_id", how="left")
    )
    return first_purchase_tasks(
        purchases,
        split,
        monthly_times(split, TIME_ZONE),
        categories=categories,
        horizon=horizon_days * DAY,
        notes=(SIMULATED,),
    )
