"""Complete Journey's tasks for DUPN: a product, the price level, a brand, and the held-out store.

They stand for the tasks of the paper (Ni et al., KDD 2018, table 1): CTR, the preferred level of price, the
fashion icon that is followed next, the preferred shop. The data is simulated from real patterns by its Python
package's own word. It has no impressions, so pairs are asked with sampled negatives.
"""

import numpy as np
import polars as pl
import torch

from graph_builders.datasets.complete_journey import SIMULATED
from graph_builders.datasets.entity_tasks import EntityTask, make_rows
from graph_builders.datasets.negatives import sample_impressions
from graph_builders.datasets.tables import DatasetTables


def complete_journey_entity_tasks(
    tables: DatasetTables,
    *,
    fit_until: int,
    num_negatives: int = 1,
    num_classes: int = 7,
    random_seed: int = 0,
) -> dict[str, EntityTask]:
    """Return "product", "price", "brand", and "store", which is to be held out.

    Args:
        tables: of ``load_complete_journey``.
        fit_until: as in :func:`price_task`.
        num_negatives: as in :func:`first_purchase_task`.
        num_classes: as in :func:`price_task`.
        random_seed: of the negatives.

    """
    purchases = purchase_lines(tables)
    options = {"num_negatives": num_negatives, "random_seed": random_seed}
    tasks = [
        first_purchase_task(purchases, "product", "item_id", **options),
        price_task(purchases, fit_until=fit_until, num_classes=num_classes),
        first_purchase_task(purchases, "brand", "manufacturer", **options),
        first_purchase_task(purchases, "store", "store_id", **options),
    ]
    return {task.name: task for task in tasks}


def purchase_lines(tables: DatasetTables) -> pl.DataFrame:
    """Return ``user_id``, ``item_id``, ``manufacturer``, ``store_id``, ``sales_value``, ``time``, by time.

    Raises:
        ValueError: the tables are not Complete Journey's.

    """
    items, events = tables.item_table, tables.events.frame
    if items is None or "manufacturer" not in items.columns or "store_id" not in events.columns:
        raise ValueError(f"{tables.name}: there are no manufacturers and stores: use load_complete_journey")
    maker = items.select("item_id", pl.col("manufacturer").cast(pl.String))
    lines = events.filter(pl.col("behavior").cast(pl.String) == "purchase")
    return (
        lines.select("user_id", "item_id", pl.col("store_id").cast(pl.String), "sales_value", "time")
        .join(maker, on="item_id", how="left", maintain_order="left")
        .sort("time", "user_id", "item_id")
    )


def first_purchase_task(
    purchases: pl.DataFrame, name: str, entity: str, *, num_negatives: int = 1, random_seed: int = 0
) -> EntityTask:
    """Ask which product, manufacturer or store a household takes for the first time in the log.

    A household's first purchase of an entity is a positive. Negatives exist then, and were bought by others
    before and by this household not yet, drawn by popularity (``sample_impressions``, which also leaves out
    and counts positives that nobody bought before). So the history holds no purchase of any candidate.

    Args:
        purchases: of :func:`purchase_lines`.
        name: of the task.
        entity: its column; "manufacturer" stands for the brand, whose own column tells national from private
            alone.
        num_negatives: for each positive.
        random_seed: of the negatives.

    Raises:
        ValueError: ``num_negatives`` is below 1.

    """
    first = purchases.drop_nulls(entity).group_by("user_id", entity).agg(pl.col("time").min())
    events = first.select("user_id", "time", item_id=entity)
    sampled = sample_impressions(
        events, num_negatives=num_negatives, distribution="popularity", random_seed=random_seed
    )
    labelled = sampled.frame.rename({"item_id": entity}).with_columns(known_time="time")
    note = (
        f"{name}: {sampled.num_left_out} of {sampled.num_events} first purchases are left out: nobody had "
        f"bought there or that before. {sampled.num_missing} negatives could not be drawn."
    )
    return EntityTask(
        name=name,
        kind="pair",
        rows=make_rows(labelled, entity=entity),
        entity=entity,
        notes=(SIMULATED, note),
    )


def price_task(purchases: pl.DataFrame, *, fit_until: int, num_classes: int = 7) -> EntityTask:
    """Ask what the lines of the next basket cost on average: a level of price.

    A basket is what a household buys in one second. Levels are quantiles of earlier baskets.

    Args:
        purchases: of :func:`purchase_lines`.
        fit_until: quantiles are of the baskets before this time.
        num_classes: at most so many, and fewer where quantiles coincide (paper: 7 levels of price).

    Raises:
        ValueError: ``num_classes`` is below 2, or there are no two prices before ``fit_until``.

    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    baskets = purchases.group_by("user_id", "time").agg(price=pl.col("sales_value").cast(pl.Float64).mean())
    known = baskets.filter(pl.col("time") < fit_until)["price"].to_numpy()
    edges = list[float]()
    if len(known):
        quantiles = np.quantile(known, np.arange(1, num_classes) / num_classes)
        # a bound at the least price would leave its first class empty
        edges = np.unique(quantiles[quantiles > known.min()]).tolist()
    if not edges:
        raise ValueError(f"no two prices are known before fit_until={fit_until}: there are no levels")
    level = torch.bucketize(
        torch.from_numpy(baskets["price"].to_numpy().copy()),
        torch.tensor(edges, dtype=torch.float64),
        right=True,
    )
    labelled = baskets.select("user_id", "time", known_time="time", label=pl.Series(level.numpy()))
    bounds = [round(edge, 2) for edge in edges]
    return EntityTask(
        name="price",
        kind="class",
        rows=make_rows(labelled),
        num_classes=len(edges) + 1,
        notes=(SIMULATED, f"Levels of price begin at 0 and {bounds} dollars a line."),
    )
