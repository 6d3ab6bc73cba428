"""A pair of Amazon domains as the experiments read it: months as periods, half a year as a test window.

Users and items have no profile here, so their IDs are their fields. Negatives are sampled by popularity:
against uniform ones an item's number of reviews alone has an AUC of 0.8. Users were chosen by their whole
history and a month holds few rows: compare models on it, and claim no significance by period.
"""

from dataclasses import replace
from typing import get_args

import polars as pl
import torch
from torch import Tensor

from experiments.main_inputs import MainInputs, fingerprint
from graph_builders.behavior_graph import BehaviorGraph, Relation, build_behavior_graph
from graph_builders.datasets import load_amazon_pair
from graph_builders.datasets.amazon import Pair
from graph_builders.past_counts import CountedEvents, CountFeatures, past_counts
from graph_builders.splits import Impressions, build_impressions, period_start
from graphrec.training.click_inputs import click_inputs

DAY = 86_400  # the data's times are seconds
PERIOD_DAYS = 30
WINDOW_PERIODS = 6
FIRST_IMPRESSION = 1_262_304_000  # 2010-01-01: what lies before is history, and no training row
PAIRS = get_args(Pair)
ROLES = {(domain, "click"): Relation(domain, "review") for domain in ("internal", "external")}
SEQUENCES = {domain: (Relation(domain, "review"),) for domain in ("internal", "external")}


def amazon_inputs(pair: Pair, path: str | None = None, num_negatives: int = 4) -> MainInputs:
    """Load a pair and compute everything that is the same for all models, seeds and test windows.

    Periods of 30 days are counted from 1970, so calendar months and these differ by some days; a test window
    of six periods begins on one of :func:`last_windows`.

    Args:
        pair: "afk" or "abe".
        path: a folder with the pair's files; default: fetched from the authors' repository.
        num_negatives: sampled for each positive.

    """
    tables = load_amazon_pair(pair, path, num_negatives=num_negatives, distribution="popularity")
    assert tables.item_table is not None
    users = tables.events.frame["user_id"].unique().sort()
    # every ID is in the tables, so that a graph of a part of the events has the rows of the whole graph
    tables = replace(
        tables,
        impressions=tables.impressions.filter(pl.col("time") >= FIRST_IMPRESSION),
        user_table=pl.DataFrame({"user_id": users, "user": users.cast(pl.String)}),
        item_table=tables.item_table.select("item_id", "asin"),
    )
    graph = build_behavior_graph(tables.events, user_table=tables.user_table, item_table=tables.item_table)
    impressions = build_impressions(
        tables.impressions,
        user_ids=graph.ids["user"],
        item_ids=graph.ids["item"],
        context=tables.contexts,
    )
    period = PERIOD_DAYS * DAY
    as_of = period_start(impressions.time, period)
    month = _month(as_of)
    names, counts = _past_counts(tables.events.frame, impressions, as_of, graph)
    data, sizes = click_inputs(
        graph, impressions, period=period, context=month[:, None], context_sizes=(12,), dense=counts
    )
    return MainInputs(
        tables=tables,
        data=data,
        feature_names=names,
        static=month[:, None].float(),
        static_names=["month"],
        sizes=replace(sizes, dense=0),
        graph=graph,
        fingerprint=fingerprint(tables.events.frame, impressions),
        period=period,
        window=WINDOW_PERIODS * period,
        snapshot_every=period,
        roles=ROLES,
        sequences=SEQUENCES,
        long_term_behaviors=("review",),
    )


def last_windows(inputs: MainInputs, number: int = 1) -> tuple[str, ...]:
    """Return the names of the last ``number`` test windows, which end with the last whole period."""
    end = int(inputs.data.impressions.time.max() + DAY) // inputs.period * inputs.period
    starts = [end - inputs.window * back for back in range(number, 0, -1)]
    return tuple(pl.from_epoch(pl.Series(starts), time_unit="s").dt.strftime("%Y-%m-%d").to_list())


def _month(time: Tensor) -> Tensor:
    """Return the month of the year, 0 to 11, UTC."""
    month = pl.from_epoch(pl.Series(time.numpy()), time_unit="s").dt.month().cast(pl.Int64) - 1
    return torch.from_numpy(month.to_numpy().copy())


def _past_counts(
    events: pl.DataFrame, impressions: Impressions, as_of: Tensor, graph: BehaviorGraph
) -> tuple[list[str], Tensor]:
    """Count the past reviews of users (in both domains) and of items, and how recent the last one is.

    Nobody reviews an item twice, so there are no counts of pairs: they would be the same for all rows.
    """

    def counted(domain: str) -> CountedEvents:
        chosen = events.filter(pl.col("domain") == domain)
        return CountedEvents(
            columns={
                "user": graph.ids["user"].rows(chosen["user_id"]),
                "item": graph.ids["item"].rows(chosen["item_id"]),
            },
            known_time=torch.from_numpy(chosen["available_time"].to_numpy().copy()),
        )

    counts = {domain: counted(domain) for domain in ("internal", "external")}
    windows = (None, 360 * DAY, 90 * DAY)
    features = [
        CountFeatures(
            key=("user",), behaviors=tuple(counts), windows=windows, recency=("internal", "external")
        ),
        CountFeatures(key=("item",), behaviors=("internal",), windows=windows, recency=("internal",)),
    ]
    query = {"user": impressions.user, "item": impressions.item}
    return past_counts(counts, query, as_of, features)
