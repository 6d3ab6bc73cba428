"""From impressions to mini-batches: fields, past counts, long-term vectors, short-term graph, sequences.

All inputs of an impression are as of the start of its period, so all impressions of a period share one query
time and a node is sampled and encoded once for it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from graph_builders.option_checks import check_choices, check_numbers, check_whole_numbers
from graph_builders.splits import Impressions
from graphrec.encoders.base import EncoderInput
from graphrec.encoders.input_reader import InputReader
from graphrec.models.inputs import ClickBatch, GraphInput, NodeFields, SequenceInput
from graphrec.nn.bipartite_gat import merge_neighbors
from graphrec.training.long_term import LongTermSnapshots
from samplers import (
    EdgeType,
    MultiHopSampler,
    NodeType,
    RecentNeighborSampler,
    SeedLoader,
    TemporalCSR,
    UniformNeighborSampler,
    count_edges,
    keyed_uniform,
)
from samplers.multi_hop import Strategy


@dataclass(frozen=True, kw_only=True)
class ShortTermConfig:
    """What is sampled around the impressions of a batch.

    Attributes:
        num_neighbors: neighbours of a node, for each edge type and hop (paper: 30).
        num_layers: hops (paper: 2).
        edge_features: give the edges attributes: their type, and the logarithm of their age.
        degree_features: give the nodes features: how many edges of each type they have at the query time,
            and the smoothed share of each type among them.
        strategy: "recent" for the most recent neighbours, as in the paper; "uniform" for random ones of all
            before the query time, drawn anew for each query time.

    """

    num_neighbors: int = 30
    num_layers: int = 2
    edge_features: bool = False
    degree_features: bool = False
    strategy: Literal["recent", "uniform"] = "recent"

    def __post_init__(self) -> None:
        check_choices(self)
        check_whole_numbers(self, num_neighbors=1, num_layers=1)

    def edge_channels(self, num_edge_types: int) -> int:
        """Return the number of attributes of an edge; ``num_edge_types`` lead into each node type."""
        return num_edge_types + 1 if self.edge_features else 0

    def degree_channels(self, num_edge_types: int) -> int:
        """Return the number of degree features of a node."""
        return 2 * num_edge_types if self.degree_features else 0


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemSequences:
    """Which past events a named sequence of a user's items holds.

    Attributes:
        csrs: the edge types that it is made of, items to users: rows are users, columns items. An event that
            is an edge of two types stands in the sequence twice. They may hold later edges.
        length: the most recent events of all types together that are kept.

    """

    csrs: Mapping[EdgeType, TemporalCSR]
    length: int

    def __post_init__(self) -> None:
        if self.length < 1 or not self.csrs:
            raise ValueError(
                f"a sequence needs a length of at least 1 and an edge type, got length={self.length} and "
                f"edge types {list(self.csrs)}"
            )
        wrong = [edge_type for edge_type in self.csrs if edge_type[2] != "user"]
        if wrong:
            raise ValueError(f"a sequence is of edge types into users; these lead elsewhere: {wrong}")


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedNodes:
    """How the inputs of a node type's encoder are read for the nodes of a batch's short-term graph.

    Attributes:
        reader: of the encoder's requests and fields, on a graph with the rows of the short-term graph. It may
            hold later events: a history ends before its query's time.
        prepare: the encoder's own. It has no parameters, so it runs ahead in the batches' thread.
        nodes: "all" of the batch's graph, or the "seeds" alone, the impressions' own users or items, which
            are far fewer. The model must say the same.
        share: with "seeds", the share of the other nodes that are encoded as well, drawn by node and time;
            the rest have vectors of the model's table (``graphrec.encoders.vector_table``). 1 is all.
        random_seed: keys that draw.

    """

    reader: InputReader
    prepare: Callable[[EncoderInput], Any]
    nodes: Literal["all", "seeds"] = "all"
    share: float = 0.0
    random_seed: int = 0

    def __post_init__(self) -> None:
        check_choices(self)
        check_numbers(self, ("share",), least=0, most=1)
        if self.share and self.nodes == "all":
            raise ValueError(f'share={self.share:g} is of the nodes beside the seeds: take nodes="seeds"')

    def rows(
        self, node: Int64[Tensor, " num_rows"], time: Int64[Tensor, " num_rows"], num_seeds: int
    ) -> Int64[Tensor, " num_encoded"]:
        """Return which rows of a node type's table are encoded: the seeds, which stand first, then others."""
        if self.nodes == "all":
            return torch.arange(len(node), device=node.device)
        draw = keyed_uniform("encoded nodes", self.random_seed, node, time)
        chosen = draw < self.share
        chosen[:num_seeds] = True
        return chosen.nonzero()[:, 0]


@dataclass(frozen=True, kw_only=True, eq=False)
class ClickData:
    """Everything that batches are cut from; one row for each impression where not said otherwise.

    Attributes:
        impressions: users and items as rows of the graph, labels.
        as_of: start of each impression's period: the time of all its queries.
        context: codes of the context fields.
        dense: past counts as of ``as_of``, scaled; no column for a model without them.
        user_fields, item_fields: field codes of all nodes, the unseen row included.
        snapshots: long-term vectors by day, or None for a model without them.
        csrs: the short-term graph, or None for a model without it. It may hold later edges: the sampler's
            strict bound hides them.
        short_term: how it is sampled.
        units_per_hour: units of time in an hour, for the scale of ages.
        sequences: past events of the users, by name, or None for a model that reads none.
        preferences: preference vectors by day, or None for a model without them.
        encoders: by node type of the short-term graph, what its node-feature encoder reads.

    Raises:
        ValueError: the reader of an encoder is of another node type.

    """

    impressions: Impressions
    as_of: Int64[Tensor, " num_rows"]
    context: Int64[Tensor, "num_rows num_contexts"]
    dense: Float32[Tensor, "num_rows num_dense"]
    user_fields: NodeFields
    item_fields: NodeFields
    snapshots: LongTermSnapshots | None = None
    csrs: Mapping[EdgeType, TemporalCSR] | None = None
    short_term: ShortTermConfig = ShortTermConfig()
    units_per_hour: int = 3600
    sequences: Mapping[str, ItemSequences] | None = None
    preferences: LongTermSnapshots | None = None
    encoders: Mapping[NodeType, EncodedNodes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, encoded in self.encoders.items():
            encoded.reader.check_node_type(name)

    def with_graph(self, csrs: Mapping[EdgeType, TemporalCSR] | None) -> "ClickData":
        """Return the same impressions on another version of the short-term graph."""
        return replace(self, csrs=csrs)


def click_batches(
    data: ClickData,
    rows: Int64[Tensor, " num_chosen"],
    *,
    batch_size: int,
    epoch: int = 0,
    start_batch: int = 0,
    shuffle: bool = False,
    random_seed: int = 0,
) -> Iterator[ClickBatch]:
    """Yield batches of the chosen impressions, those of a period together, prepared ahead by one thread."""
    yield from click_loader(
        data, rows, batch_size=batch_size, shuffle=shuffle, random_seed=random_seed
    ).batches(epoch, start_batch=start_batch)


def click_loader(
    data: ClickData,
    rows: Int64[Tensor, " num_chosen"],
    *,
    batch_size: int,
    shuffle: bool,
    random_seed: int = 0,
) -> SeedLoader[ClickBatch]:
    """Return the loader behind :func:`click_batches`.

    Shuffled, periods come in random order and so do the rows inside a period; otherwise rows keep the order
    of ``rows``.
    """
    return SeedLoader(
        len(rows),
        batch_size=batch_size,
        collate=lambda index: collate(data, rows[index]),
        shuffle=shuffle,
        group=data.as_of[rows] if shuffle else None,
        random_seed=random_seed,
    )


def collate(data: ClickData, rows: Int64[Tensor, " num_rows"]) -> ClickBatch:
    """Look up and sample all inputs of the given impressions."""
    user, item = data.impressions.user[rows], data.impressions.item[rows]
    as_of = data.as_of[rows]
    if data.snapshots is None:
        long_user = long_item = torch.zeros(len(rows), 0)
    else:
        long_user = data.snapshots.look_up("user", user, as_of)
        long_item = data.snapshots.look_up("item", item, as_of)
    return ClickBatch(
        user=data.user_fields[user],
        item=data.item_fields[item],
        item_id=item,
        context=data.context[rows],
        dense=data.dense[rows],
        label=data.impressions.label[rows],
        long_user=long_user,
        long_item=long_item,
        graph=None if data.csrs is None else _sample_graph(data, data.csrs, user, item, as_of),
        user_id=user,
        sequences=None
        if data.sequences is None
        else {name: _sample_sequence(data, part, user, as_of) for name, part in data.sequences.items()},
        preference_user=None if data.preferences is None else data.preferences.look_up("user", user, as_of),
        preference_item=None if data.preferences is None else data.preferences.look_up("item", item, as_of),
    )


STRATEGIES: dict[str, Strategy] = {"recent": RecentNeighborSampler, "uniform": UniformNeighborSampler}


def _sample_graph(
    data: ClickData, csrs: Mapping[EdgeType, TemporalCSR], user: Tensor, item: Tensor, as_of: Tensor
) -> GraphInput:
    config = data.short_term
    sampler = MultiHopSampler(
        csrs, [config.num_neighbors] * config.num_layers, strategy=STRATEGIES[config.strategy]
    )
    device = next(iter(csrs.values())).device
    seeds = {"user": (user.to(device), as_of.to(device)), "item": (item.to(device), as_of.to(device))}
    subgraph = sampler.sample(seeds)
    edge_types = list(csrs)
    neighbors = {name: merge_neighbors(subgraph, name, edge_types) for name in ("user", "item")}
    fields = {"user": data.user_fields, "item": data.item_fields}
    encoder_rows = {
        name: encoded.rows(subgraph.node[name], subgraph.time[name], subgraph.num_nodes_after_hop[name][0])
        for name, encoded in data.encoders.items()
    }
    return GraphInput(
        fields={name: fields[name][subgraph.node[name].cpu()] for name in fields},
        node_dense={
            name: degree_features(csrs, name, subgraph.node[name], subgraph.time[name], config)
            for name in fields
        },
        neighbors=neighbors,
        edge_attr={
            name: edge_features(
                subgraph.time[name][: len(table.mask), None] - table.edge_time,
                table.relation,
                table.mask,
                config,
                units_per_hour=data.units_per_hour,
            )
            for name, table in neighbors.items()
        },
        num_nodes_after_hop=subgraph.num_nodes_after_hop,
        user_row=subgraph.seed_index["user"],
        item_row=subgraph.seed_index["item"],
        encoder_inputs={
            name: encoded.prepare(
                encoded.reader.read(
                    subgraph.node[name][encoder_rows[name]], subgraph.time[name][encoder_rows[name]]
                )
            )
            for name, encoded in data.encoders.items()
        },
        encoder_rows=encoder_rows,
        node={name: subgraph.node[name] for name in data.encoders},
        node_time={name: subgraph.time[name] for name in data.encoders},
    )


def _sample_sequence(data: ClickData, sequence: ItemSequences, user: Tensor, as_of: Tensor) -> SequenceInput:
    """Merge the most recent events of each edge type before ``as_of`` and keep the most recent of all.

    Events of one time keep the order of the edge types; inside a type the larger edge id comes first.
    """
    device = next(iter(sequence.csrs.values())).device
    sampled = [
        RecentNeighborSampler(csr, sequence.length).sample(user.to(device), as_of.to(device))
        for csr in sequence.csrs.values()
    ]
    item, time, mask = (
        torch.cat([getattr(part, name) for part in sampled], dim=1).cpu()
        for name in ("node", "edge_time", "mask")
    )
    # padding goes behind all events
    key = time.where(mask, torch.iinfo(torch.int64).min)
    order = key.argsort(dim=1, descending=True, stable=True)[:, : sequence.length]
    item, time, mask = (column.gather(1, order) for column in (item, time, mask))
    item_id, item_row = item.unique(return_inverse=True)
    hours = (as_of[:, None] - time).clamp(min=0) / data.units_per_hour
    return SequenceInput(
        item_row=item_row,
        mask=mask,
        age=(hours.log1p() / 5).where(mask, 0.0),
        item_id=item_id,
        item=data.item_fields[item_id],
    )


def edge_features(
    age: Int64[Tensor, "num_rows num_neighbors"],
    relation: Int64[Tensor, " num_neighbors"],
    mask: Bool[Tensor, "num_rows num_neighbors"],
    config: ShortTermConfig,
    *,
    units_per_hour: int,
) -> Float32[Tensor, "num_rows num_neighbors edge_channels"]:
    """Return the type of each edge (one-hot) and log(1 + age in hours), scaled to about one; 0 where masked.

    No channel where the configuration has no edge features. ``relation`` numbers the slots by edge type.
    """
    if not config.edge_features:
        return torch.zeros(*mask.shape, 0, device=mask.device)
    num_types = int(relation.max()) + 1 if len(relation) else 0
    one_hot = torch.nn.functional.one_hot(relation, num_types).float().expand(len(mask), -1, -1)
    hours = age.clamp(min=0) / units_per_hour
    return torch.cat([one_hot, hours.log1p()[..., None] / 5], dim=-1) * mask[..., None]


def degree_features(
    csrs: Mapping[EdgeType, TemporalCSR],
    name: NodeType,
    node: Int64[Tensor, " num_nodes"],
    time: Int64[Tensor, " num_nodes"],
    config: ShortTermConfig,
) -> Float32[Tensor, "num_nodes degree_channels"]:
    """Return, for each edge type into the nodes, log(1 + count) and the share of all, as of their times.

    No channel where the configuration has no degree features.
    """
    if not config.degree_features:
        return torch.zeros(len(node), 0, device=node.device)
    into = [csr for edge_type, csr in csrs.items() if edge_type[2] == name]
    count = torch.stack([count_edges(csr, node, time) for csr in into], dim=1).float()
    share = (count + 1) / (count.sum(dim=1, keepdim=True) + len(into))
    return torch.cat([count.log1p() / 3, 2 * share - 1], dim=1)


def rows_between(data: ClickData, start: int, end: int) -> Int64[Tensor, " num_chosen"]:
    """Impressions with ``start <= time < end``, in their order."""
    time = data.impressions.time
    return ((time >= start) & (time < end)).nonzero()[:, 0]
