"""Simulated behaviour as the experiments read it. Its data are SIMULATED: results say so."""

from collections.abc import Mapping
from dataclasses import replace

import polars as pl
import torch
from torch import Tensor

from experiments.main_inputs import ExposureRole, MainInputs, fingerprint
from graph_builders.behavior_graph import Relation, build_behavior_graph
from graph_builders.datasets import SimulatorConfig, simulate
from graph_builders.ids import IdMap
from graph_builders.past_counts import CountedEvents, CountFeatures, past_counts
from graph_builders.splits import Impressions, build_impressions, period_start
from graphrec.models.inputs import NodeFields
from graphrec.training.click_inputs import click_inputs
from samplers import NodeType

HOUR = 3600  # the data's times are seconds
USER_FIELDS = ("segment", "age_group", "region")
ITEM_FIELDS = ("category", "format", "birth_hour")
ROLES = {
    ("internal", "click"): Relation("internal", "click"),
    ("internal", "skip"): Relation("internal", "skip"),
    ("external", "click"): Relation("external", "view"),
}
SEQUENCES = {"internal": (Relation("internal", "click"),), "external": (Relation("external", "view"),)}
LONG_TERM_BEHAVIORS = ("click", "view")
EXPOSURES = (ExposureRole("internal", ("click", "skip"), "click"),)


def simulated_inputs(config: SimulatorConfig | None = None, period_hours: int = 1) -> MainInputs:
    """Simulate a log and compute everything that is the same for all models, seeds and test days.

    ``tables`` of the result is the ``SimulatedData`` with the true click probabilities, for the oracle.

    Args:
        config: the world; default: the simulator's own.
        period_hours: length of a period; queries are as of its start.

    """
    simulated = simulate(SimulatorConfig() if config is None else config)
    period = period_hours * HOUR
    item_fields = tuple(name for name in ITEM_FIELDS if name in simulated.item_table.columns)  # type: ignore[union-attr]
    graph = build_behavior_graph(
        simulated.events, user_table=simulated.user_table, item_table=simulated.item_table
    )
    impressions = build_impressions(
        simulated.impressions,
        user_ids=graph.ids["user"],
        item_ids=graph.ids["item"],
        context=simulated.contexts,
    )
    as_of = period_start(impressions.time, period)
    context = torch.stack([as_of // HOUR % 24, impressions.context["position"]], dim=1)
    data, sizes = click_inputs(
        graph,
        impressions,
        period=period,
        user_fields=USER_FIELDS,
        item_fields=item_fields,
        context=context,
        context_sizes=(24, simulated.config.page_size),
    )
    names, counts = _past_counts(simulated.events.frame, impressions, as_of, graph.ids, data.item_fields)
    static = [context, data.user_fields.codes[impressions.user], data.item_fields.codes[impressions.item]]
    return MainInputs(
        tables=simulated,
        data=replace(data, dense=counts),
        feature_names=names,
        static=torch.cat(static, dim=1).float(),
        static_names=["hour", "position", *USER_FIELDS, *item_fields],
        sizes=sizes,
        graph=graph,
        fingerprint=fingerprint(simulated.events.frame, impressions),
        period=period,
        window=24 * HOUR,
        snapshot_every=24 * HOUR,
        roles=ROLES,
        sequences=SEQUENCES,
        long_term_behaviors=LONG_TERM_BEHAVIORS,
        exposures=EXPOSURES,
    )


def _past_counts(
    events: pl.DataFrame,
    impressions: Impressions,
    as_of: Tensor,
    ids: Mapping[NodeType, IdMap],
    item_fields: NodeFields,
) -> tuple[list[str], Tensor]:
    """Count the past of users, items, categories and pairs of them."""

    def columns(user: Tensor, item: Tensor) -> dict[str, Tensor]:
        # the first field is the category where there is one, and the format otherwise
        return {"user": user, "item": item, "category": item_fields.codes[item, 0]}

    def counted(behavior: pl.Expr) -> CountedEvents:
        chosen = events.filter(behavior)
        return CountedEvents(
            columns=columns(ids["user"].rows(chosen["user_id"]), ids["item"].rows(chosen["item_id"])),
            known_time=torch.from_numpy(chosen["time"].to_numpy().copy()),
        )

    behavior = pl.col("behavior").cast(pl.String)
    counts = {
        "shown": counted(behavior.is_in(["click", "skip"])),
        "click": counted(behavior == "click"),
        "view": counted(behavior == "view"),
    }
    rates, windows = (("click", "shown"),), (None, 24 * HOUR, 6 * HOUR, 2 * HOUR)
    both = ("shown", "click")

    def recent(*key: str, recency: tuple[str, ...] = ()) -> CountFeatures:
        return CountFeatures(key=key, behaviors=("shown",), windows=windows, rates=rates, recency=recency)

    features = [
        recent("user", recency=both),
        recent("item", recency=both),
        recent("category"),
        recent("user", "category", recency=both),
        CountFeatures(key=("user", "item"), behaviors=both, recency=("shown",)),
        CountFeatures(key=("user",), behaviors=("view",), recency=("view",)),
    ]
    return past_counts(counts, columns(impressions.user, impressions.item), as_of, features)
