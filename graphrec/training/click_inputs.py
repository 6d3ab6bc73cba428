"""From a behaviour graph and impressions to what every click model trains on."""

from collections.abc import Sequence

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from graph_builders.behavior_graph import BehaviorGraph
from graph_builders.feature_table import FeatureTable, RaggedColumn
from graph_builders.features import fit_fields
from graph_builders.splits import Impressions, period_start
from graphrec.models.inputs import InputSizes, NodeFields
from graphrec.training.batches import ClickData

UNITS_PER_HOUR = {"s": 3_600, "ms": 3_600_000}


def click_inputs(
    graph: BehaviorGraph,
    impressions: Impressions,
    *,
    period: int,
    utc_offset: int = 0,
    as_of: Int64[Tensor, " num_rows"] | None = None,
    user_fields: Sequence[str] | None = None,
    item_fields: Sequence[str] | None = None,
    item_bag: str | None = None,
    context: Int64[Tensor, "num_rows num_contexts"] | None = None,
    context_sizes: Sequence[int] = (24,),
    dense: Float32[Tensor, "num_rows num_dense"] | None = None,
) -> tuple[ClickData, InputSizes]:
    """Encode the fields of users and items, and say how many codes each has.

    The graph's tables are taken not to change, so vocabularies and bins see all of their rows. Of the events
    nothing is read here; a model that samples gets them by ``ClickData.with_graph``, and past counts, as of
    ``as_of`` and scaled, come as ``dense``.

    Args:
        graph: nodes and their static fields.
        impressions: rows to train on and to score, from ``build_impressions`` with the graph's ``ids``.
        period: length of a period in the unit of the times; all queries of a period are as of its start.
        utc_offset: local time minus UTC in the same unit, for the bounds of periods and the hour of the day.
        as_of: times of the queries, none after its impression; default: the starts of the periods.
        user_fields: columns of the users' table; default: all but lists; the ID itself where there is none.
        item_fields: columns of the items' table, by the same default; models know the item's ID besides.
        item_bag: a list column of the items' table, such as tags.
        context: codes of the moment; default: the local hour of the day of ``as_of``.
        context_sizes: how many codes each column of ``context`` has.
        dense: numeric features.

    Returns:
        What batches are cut from, and the sizes that models are built with. ``InputSizes.dense`` is the
        number of columns of ``dense``.

    Raises:
        ValueError: a column is missing, a query is after its impression, or a context code is out of range.

    """
    if as_of is None:
        as_of = period_start(impressions.time, period, utc_offset=utc_offset)
    if len(as_of) != len(impressions) or bool((as_of > impressions.time).any()):
        raise ValueError("as_of needs a time for each impression, none later than the impression's own")
    units_per_hour = UNITS_PER_HOUR[graph.time_resolution]
    if context is None:
        context, context_sizes = ((as_of + utc_offset) // units_per_hour % 24)[:, None], (24,)
    _check_codes(context, context_sizes)
    user_codes, user_sizes, _ = _encode(graph, "user", user_fields, None)
    item_codes, item_sizes, bag_size = _encode(graph, "item", item_fields, item_bag)
    if dense is None:
        dense = torch.zeros(len(impressions), 0)
    data = ClickData(
        impressions=impressions,
        as_of=as_of,
        context=context,
        dense=dense,
        user_fields=user_codes,
        item_fields=item_codes,
        units_per_hour=units_per_hour,
    )
    sizes = InputSizes(
        num_items=graph.ids["item"].num_ids,
        num_users=graph.ids["user"].num_ids,
        user_fields=user_sizes,
        item_fields=item_sizes,
        item_bag=bag_size,
        context_fields=tuple(context_sizes),
        dense=dense.shape[1],
    )
    return data, sizes


def encode_fields(
    table: FeatureTable, names: Sequence[str], *, bag: str | None = None
) -> tuple[NodeFields, tuple[int, ...], int]:
    """Encode all nodes; the table never changes, so vocabularies and bins may see all of it.

    Returns:
        Codes, the number of codes of each field, and that of the bag (0: there is none).

    """
    fitted = fit_fields(table, names=[*names, *([bag] if bag else [])])
    empty = torch.zeros(len(table), 0, dtype=torch.int64)
    fields = NodeFields(codes=fitted.codes(table, names), bag=fitted.bag(table, bag) if bag else empty)
    sizes = tuple(fitted.num_codes[name] for name in names)
    return fields, sizes, fitted.num_codes[bag] if bag else 0


def _encode(
    graph: BehaviorGraph, node_type: str, names: Sequence[str] | None, bag: str | None
) -> tuple[NodeFields, tuple[int, ...], int]:
    table = graph.features[node_type]
    if names is None:
        names = [name for name in table.names if not isinstance(table[name], RaggedColumn)]
    if names:
        return encode_fields(table, names, bag=bag)
    # without a profile the ID is the field: code 0 is that of unseen IDs, which have the last row
    code = (torch.arange(len(table)) + 1) % len(table)
    empty = torch.zeros(len(table), 0, dtype=torch.int64)
    return NodeFields(codes=code[:, None], bag=empty), (len(table),), 0


def _check_codes(context: Tensor, sizes: Sequence[int]) -> None:
    if context.shape[1] != len(sizes):
        raise ValueError(
            f"context has {context.shape[1]} columns and context_sizes {len(sizes)} values: give one each"
        )
    for column, (codes, size) in enumerate(zip(context.T, sizes, strict=True)):
        wrong = (codes < 0) | (codes >= size)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0, 0])
            raise ValueError(
                f"context column {column} has the code {int(codes[row])} in row {row}: codes lie in 0 to "
                f"{size - 1}"
            )
