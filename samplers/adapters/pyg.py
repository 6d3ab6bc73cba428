"""Our samplers behind PyTorch Geometric's loaders; neither pyg-lib nor torch-sparse is needed.

``TemporalNeighborSampler`` is a ``torch_geometric.sampler.BaseSampler``: PyG's own ``NodeLoader`` and
``LinkLoader`` take it. What a batch holds::

    x, y, ...        node attributes of the data, one row for each (node, query time); the seeds come first
    n_id             global node id of each row
    edge_index       (2, E) source row, destination row; ordered by hop, so that trim_to_layer works
    e_id, ...        place of each edge in the data's edge_index, and the data's edge attributes there
    seed_time        the seeds' times (LinkLoader: edge_label_time, for triplets seed_time)
    batch            for each row a seed of the same time: seed_time[batch] is the row's query time
    input_id, batch_size, num_sampled_nodes, num_sampled_edges: as from PyG's own samplers

With ``next_hop_bound="edge"`` a row's time need not be a seed's, and there is no ``batch``.
``TemporalNodeLoader`` and ``TemporalLinkLoader`` are PyG's loaders and add ``query_time`` to every row.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data, HeteroData
from torch_geometric.loader import LinkLoader, NodeLoader
from torch_geometric.sampler import (
    BaseSampler,
    EdgeSamplerInput,
    HeteroSamplerOutput,
    NegativeSampling,
    NodeSamplerInput,
    SamplerOutput,
)

from samplers.csr import TemporalCSR
from samplers.multi_hop import FanOut, MultiHopSampler
from samplers.negative import NegativeSampler
from samplers.neighbors import EdgeType, HopEdges, NodeType, SampledSubgraph

HOMOGENEOUS: EdgeType = ("node", "edge", "node")  # the one edge type of a ``Data``


class TemporalNeighborSampler(BaseSampler):
    """Sample temporal neighbourhoods for PyG's ``NodeLoader`` and ``LinkLoader``.

    Args:
        csrs: for edge type (source, relation, destination), rows are destinations. Edge ids are places in
            the data's ``edge_index`` of that type. For a ``Data``: ``{HOMOGENEOUS: csr}``.
        num_neighbors: one number a hop, or one a hop for each edge type; -1 for all.
        default_time: the time of seeds for which the loader was given none. None: that is an error.
        negative_sampler: draws the destinations of negative links; its rows are the links' sources. With
            ``bound="inclusive"`` it knows the links of the seeds' own time, and so never draws the positive.
            None: PyG draws them (binary: both ends), from torch's global generator; they may be positives, or
            not exist yet.
        options: ``strategy``, ``bound``, ``window``, ``next_hop_bound`` and what else ``MultiHopSampler``
            takes. The strategy has the random seed: ``partial(UniformNeighborSampler, random_seed=1)``.

    Every seed needs a time: ``NodeLoader(..., input_time=)``, ``LinkLoader(..., edge_label_time=)``. Both
    ends of a link, and its negatives, are seen at the link's time; under the strict bound the link itself
    is not seen.

    Set ``sampler.epoch = epoch`` before each pass over a loader: draws are keyed by it, and a loader does
    not know it. Its value is shared with worker processes, those of ``persistent_workers`` too.

    Rows: equal (node, time) pairs share one row, with this exception: from ``NodeLoader`` each seed has a
    row of its own, in the order given, also where two seeds are equal. Equal seeds have the same incoming
    edges; where the seed is itself a neighbour, the edge comes from the first of its rows.

    """

    def __init__(
        self,
        csrs: Mapping[EdgeType, TemporalCSR],
        num_neighbors: FanOut,
        *,
        default_time: int | None = None,
        negative_sampler: NegativeSampler | None = None,
        **options: Any,
    ) -> None:
        self.sampler = MultiHopSampler(csrs, num_neighbors, **options)
        self.edge_types = list(csrs)
        self.device = next(iter(csrs.values())).device
        self.num_nodes = _count_nodes(csrs)
        self.default_time, self.negative_sampler = default_time, negative_sampler
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # persistent workers see it change

    @classmethod
    def from_data(
        cls,
        data: Data | HeteroData,
        num_neighbors: FanOut,
        *,
        time_attr: str = "time",
        weight_attr: str | None = None,
        available_time_attr: str | None = None,
        **options: Any,
    ) -> "TemporalNeighborSampler":
        """Build the CSRs from a graph; ``options`` are those of the class, the rest as ``csrs_from_data``."""
        csrs = csrs_from_data(
            data, time_attr=time_attr, weight_attr=weight_attr, available_time_attr=available_time_attr
        )
        return cls(csrs, num_neighbors, **options)

    @property
    def epoch(self) -> int:
        """The number of the pass over the data, part of the key of every draw."""
        return int(self._epoch)

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def sample_from_nodes(self, index: NodeSamplerInput, **_: Any) -> HeteroSamplerOutput | SamplerOutput:
        """Sample around the nodes of ``index`` at its times.

        Raises:
            ValueError: no time for the seeds, an unknown node type, or a node out of range.

        """
        time = self._time(index.time, index.node, "input_time= to NodeLoader")
        node_type = self._types_of(index.input_type)[0]
        subgraph = self._sample({node_type: (index.node, time)})
        subgraph = _give_each_seed_a_row(subgraph, node_type)
        seed_of_row = self._seed_of_row(subgraph, time)
        if seed_of_row is not None:
            seed_of_row[node_type][: len(time)] = torch.arange(len(time), device=self.device)
        return self._output(subgraph, seed_of_row, index.input_type is None, (index.input_id, time))

    def sample_from_edges(
        self, index: EdgeSamplerInput, neg_sampling: NegativeSampling | None = None
    ) -> HeteroSamplerOutput | SamplerOutput:
        """Sample around both ends of the links of ``index``, and around negatives, at the links' times.

        Raises:
            ValueError: as ``sample_from_nodes``; or a triplet has no allowed negative.

        """
        time = self._time(index.time, index.row, "edge_label_time= to LinkLoader")
        source_type, destination_type = self._types_of(index.input_type)
        links = self._add_negatives(index, time, neg_sampling, source_type, destination_type)
        source = links.row, links.row_time
        destination = links.col, links.col_time
        if source_type == destination_type:
            subgraph = self._sample({source_type: _join(source, destination)})
            row, col = subgraph.seed_index[source_type].split([len(links.row), len(links.col)])
        else:
            subgraph = self._sample({source_type: source, destination_type: destination})
            row, col = subgraph.seed_index[source_type], subgraph.seed_index[destination_type]
        if neg_sampling is not None and neg_sampling.is_triplet():
            positive, negative = col[: len(time)], col[len(time) :]
            negative = negative.view(neg_sampling.amount, -1).T.squeeze(1)  # PyG: (num_links,) if one each
            metadata: tuple[Any, ...] = (index.input_id, row, positive, negative, time)
        else:
            metadata = (index.input_id, torch.stack([row, col]), links.label, links.row_time)
        return self._output(subgraph, self._seed_of_row(subgraph, time), index.input_type is None, metadata)

    def _time(self, time: Tensor | None, seed: Tensor, remedy: str) -> Tensor:
        if time is not None:
            return _integer_times("the seeds' times", time)
        if self.default_time is None:
            raise ValueError(
                f"every seed needs a query time, got none: give {remedy}, or default_time= to the sampler"
            )
        return torch.full_like(seed, self.default_time, dtype=torch.int64)

    def _types_of(self, input_type: NodeType | EdgeType | None) -> tuple[NodeType, NodeType]:
        """Node types at the ends of the seeds; both are the same for seed nodes."""
        if input_type is None:
            if len(self.edge_types) != 1 or len(self.num_nodes) != 1:
                raise ValueError(
                    f"a Data has one node type and one edge type, the sampler has {self.edge_types}: "
                    "give the loader a HeteroData, or the sampler {HOMOGENEOUS: csr}"
                )
            return self.edge_types[0][0], self.edge_types[0][2]
        return (input_type, input_type) if isinstance(input_type, str) else (input_type[0], input_type[2])

    def _sample(self, seeds: dict[NodeType, tuple[Tensor, Tensor]]) -> SampledSubgraph:
        moved = {name: (node.to(self.device), time.to(self.device)) for name, (node, time) in seeds.items()}
        return self.sampler.sample(moved, epoch=self.epoch)

    def _add_negatives(
        self,
        index: EdgeSamplerInput,
        time: Tensor,
        neg_sampling: NegativeSampling | None,
        source_type: NodeType,
        destination_type: NodeType,
    ) -> "_Links":
        if neg_sampling is None:
            return _Links(index.row, time, index.col, time, index.label)
        num_positives = len(time)
        num_negatives = math.ceil(num_positives * neg_sampling.amount)
        link = torch.arange(num_negatives) % max(num_positives, 1)  # the link that each negative belongs to
        row = index.row[link]
        if self.negative_sampler is not None:
            col, found = self._draw(index.row, time, num_negatives, neg_sampling)
            if neg_sampling.is_triplet() and not bool(found.all()):
                missing = int((~found).nonzero()[0]) % num_positives
                raise ValueError(
                    f"no negative is allowed for node {int(index.row[missing])} at {int(time[missing])}, and "
                    "a triplet needs one: use binary negatives, which leave out such links"
                )
            link, row, col = link[found], row[found], col[found]
        else:
            col = neg_sampling.sample(num_negatives, "dst", self.num_nodes[destination_type])
            if neg_sampling.is_binary():
                row = neg_sampling.sample(num_negatives, "src", self.num_nodes[source_type])
        destination, destination_time = torch.cat([index.col, col]), torch.cat([time, time[link]])
        if neg_sampling.is_triplet():
            return _Links(index.row, time, destination, destination_time, None)
        label = index.label if index.label is not None else torch.ones(num_positives)
        return _Links(
            torch.cat([index.row, row]),
            destination_time,
            destination,
            destination_time,
            torch.cat([label, label.new_zeros(len(link), *label.shape[1:])]),
        )

    def _draw(
        self, seed: Tensor, time: Tensor, num_negatives: int, neg_sampling: NegativeSampling
    ) -> tuple[Tensor, Tensor]:
        """Negatives by our sampler: first one for each link, then a second one, and so on."""
        if neg_sampling.src_weight is not None or neg_sampling.dst_weight is not None:
            raise ValueError("a negative_sampler has weights of its own: leave out src_weight and dst_weight")
        assert self.negative_sampler is not None
        device = self.negative_sampler.csr.device
        node, mask = self.negative_sampler.sample(
            seed.to(device), time.to(device), math.ceil(neg_sampling.amount), epoch=self.epoch
        )
        return node.T.flatten()[:num_negatives].cpu(), mask.T.flatten()[:num_negatives].cpu()

    def _seed_of_row(self, subgraph: SampledSubgraph, time: Tensor) -> dict[NodeType, Tensor] | None:
        """Find, for each row, the first seed with the row's time."""
        if self.sampler.next_hop_bound == "edge":
            return None
        time = time.to(self.device)
        if bool((time == time[:1]).all()):
            return {name: torch.zeros_like(node) for name, node in subgraph.node.items()}
        sorted_time, order = time.sort(stable=True)
        return {
            name: order[torch.searchsorted(sorted_time, row_time)] for name, row_time in subgraph.time.items()
        }

    def _output(
        self,
        subgraph: SampledSubgraph,
        seed_of_row: dict[NodeType, Tensor] | None,
        is_homogeneous: bool,
        metadata: tuple[Any, ...],
    ) -> HeteroSamplerOutput | SamplerOutput:
        out = HeteroSamplerOutput(
            node=dict(subgraph.node),
            row={},
            col={},
            edge={},
            batch=seed_of_row,
            num_sampled_nodes={
                name: [after - before for before, after in zip([0, *counts], counts, strict=False)]
                for name, counts in subgraph.num_nodes_after_hop.items()
            },
            num_sampled_edges={},
            metadata=(*metadata, subgraph.time),  # PyG reads what it knows from the front
        )
        for edge_type in self.edge_types:
            none = torch.empty(0, dtype=torch.int64, device=self.device)
            hops = [
                _list_edges(hop[edge_type]) if edge_type in hop else (none, none, none)
                for hop in subgraph.hops
            ]
            out.num_sampled_edges[edge_type] = [len(edge_id) for _, _, edge_id in hops]
            out.row[edge_type], out.col[edge_type], out.edge[edge_type] = (
                _concatenate(columns) for columns in zip(*hops, strict=True)
            )
        return _homogeneous(out) if is_homogeneous else out

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.sampler!r}, epoch={self.epoch}, default_time={self.default_time}, "
            f"negative_sampler={self.negative_sampler!r})"
        )


class _QueryTimes:
    """Adds ``query_time`` to the nodes of each batch, before the user's ``transform`` sees it."""

    def __init__(self, data: Data | HeteroData, sampler: TemporalNeighborSampler, **options: Any) -> None:
        transform = options.pop("transform", None)
        super().__init__(data, sampler, **options)  # type: ignore[call-arg]  # PyG's loader is the other base
        self._after = transform

    def filter_fn(self, out: SamplerOutput | HeteroSamplerOutput) -> Any:
        """Make the batch out of what was sampled; called by PyG, in a worker or in the main process."""
        batch = super().filter_fn(out)  # type: ignore[misc]
        if isinstance(out, HeteroSamplerOutput):
            batch.set_value_dict("query_time", out.metadata[-1])
        else:
            batch.query_time = out.metadata[-1]
        return batch if self._after is None else self._after(batch)


class TemporalNodeLoader(_QueryTimes, NodeLoader):
    """PyG's ``NodeLoader`` with the time of every row: ``batch[node_type].query_time``, (num_rows,)."""


class TemporalLinkLoader(_QueryTimes, LinkLoader):
    """PyG's ``LinkLoader`` with the time of every row: ``batch[node_type].query_time``, (num_rows,)."""


def csrs_from_data(
    data: Data | HeteroData,
    *,
    time_attr: str = "time",
    weight_attr: str | None = None,
    available_time_attr: str | None = None,
) -> dict[EdgeType, TemporalCSR]:
    """Build a CSR for each edge type of a graph, its rows the destinations; a ``Data`` has ``HOMOGENEOUS``.

    Args:
        data: its edge types all have an ``edge_index``.
        time_attr: edge attribute with the edges' times, integers, (num_edges,).
        weight_attr: edge attribute with their weights, (num_edges,).
        available_time_attr: edge attribute with the times at which they became known, (num_edges,).

    Raises:
        ValueError: an edge type lacks one of the attributes, times are not integers, or PyG would take an
            attribute for one of nodes.

    """
    if isinstance(data, HeteroData):
        stores = {edge_type: data[edge_type] for edge_type in data.edge_types}
        num_nodes = {name: data[name].num_nodes for name in data.node_types}
    else:
        stores, num_nodes = {HOMOGENEOUS: data}, {HOMOGENEOUS[0]: data.num_nodes}
    csrs = {}
    for edge_type, store in stores.items():
        edge_index = _attribute(store, edge_type, "edge_index", None)
        num_edges = edge_index.shape[1]
        columns: dict[str, Tensor] = {}
        if weight_attr is not None:
            columns["edge_weight"] = _attribute(store, edge_type, weight_attr, num_edges).float()
        if available_time_attr is not None:
            available_time = _attribute(store, edge_type, available_time_attr, num_edges)
            columns["available_time"] = _integer_times(available_time_attr, available_time)
        csrs[edge_type] = TemporalCSR.from_edge_index(
            edge_index,
            _integer_times(time_attr, _attribute(store, edge_type, time_attr, num_edges)),
            num_rows=num_nodes[edge_type[2]],
            num_cols=num_nodes[edge_type[0]],
            row="destination",
            **columns,
        )
    return csrs


@dataclass(frozen=True, eq=False)
class _Links:
    """Seeds of a link batch, the positives first; in triplets only the destinations have negatives."""

    row: Tensor
    row_time: Tensor
    col: Tensor
    col_time: Tensor
    label: Tensor | None


def _give_each_seed_a_row(subgraph: SampledSubgraph, node_type: NodeType) -> SampledSubgraph:
    """Make row i the i-th seed, for all seeds: rows change places, and equal seeds get copies.

    A copy has the incoming edges of the row and no outgoing ones.
    """
    row_of_seed = subgraph.seed_index[node_type]
    num_seeds, num_distinct = len(row_of_seed), subgraph.num_nodes_after_hop[node_type][0]
    seed = torch.arange(num_seeds, device=row_of_seed.device)
    if num_seeds == num_distinct and torch.equal(row_of_seed, seed):
        return subgraph
    num_copies = num_seeds - num_distinct
    rows = torch.arange(len(subgraph.node[node_type]), device=row_of_seed.device)
    old_row = torch.cat([row_of_seed, rows[num_distinct:]])
    new_row = rows + num_copies
    new_row[:num_distinct] = num_seeds
    new_row.scatter_reduce_(0, row_of_seed, seed, "amin")

    def renumber(edge_type: EdgeType, edges: HopEdges, hop: int) -> HopEdges:
        if edge_type[2] == node_type and hop == 0:
            edges = HopEdges(
                0,
                edges.neighbor[row_of_seed],
                edges.edge_id[row_of_seed],
                edges.edge_time[row_of_seed],
                edges.mask[row_of_seed],
            )
        elif edge_type[2] == node_type:
            edges = replace(edges, first_row=edges.first_row + num_copies)
        return replace(edges, neighbor=new_row[edges.neighbor]) if edge_type[0] == node_type else edges

    counts = subgraph.num_nodes_after_hop
    return SampledSubgraph(
        node=subgraph.node | {node_type: subgraph.node[node_type][old_row]},
        time=subgraph.time | {node_type: subgraph.time[node_type][old_row]},
        num_nodes_after_hop=counts | {node_type: [count + num_copies for count in counts[node_type]]},
        seed_index={node_type: seed},
        hops=[
            {edge_type: renumber(edge_type, edges, number) for edge_type, edges in hop.items()}
            for number, hop in enumerate(subgraph.hops)
        ],
    )


def _list_edges(edges: HopEdges) -> tuple[Tensor, Tensor, Tensor]:
    """Source row, destination row and edge id of each sampled edge."""
    width = edges.mask.shape[1]
    if bool(edges.mask.all()):  # most batches of a dense graph: nothing to pick out
        rows = torch.arange(edges.first_row, edges.first_row + edges.num_rows, device=edges.mask.device)
        return edges.neighbor.flatten(), rows.repeat_interleave(width), edges.edge_id.flatten()
    slot = edges.mask.flatten().nonzero().squeeze(1)
    destination = slot.div(width, rounding_mode="floor").add_(edges.first_row)
    return edges.neighbor.flatten()[slot], destination, edges.edge_id.flatten()[slot]


def _homogeneous(out: HeteroSamplerOutput) -> SamplerOutput:
    """Drop the names of the only node type and the only edge type."""
    (node_type,), (edge_type,) = out.node, out.row
    *metadata, query_time = out.metadata
    return SamplerOutput(
        node=out.node[node_type],
        row=out.row[edge_type],
        col=out.col[edge_type],
        edge=out.edge[edge_type],
        batch=None if out.batch is None else out.batch[node_type],
        num_sampled_nodes=out.num_sampled_nodes[node_type],
        num_sampled_edges=out.num_sampled_edges[edge_type],
        metadata=(*metadata, query_time[node_type]),
    )


def _concatenate(columns: tuple[Tensor, ...]) -> Tensor:
    filled = [column for column in columns if len(column)]  # one hop alone needs no copy
    return filled[0] if len(filled) == 1 else torch.cat(columns)


def _join(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])


def _count_nodes(csrs: Mapping[EdgeType, TemporalCSR]) -> dict[NodeType, int]:
    counts: dict[NodeType, int] = {}
    for (source, _, destination), csr in csrs.items():
        counts[source] = max(counts.get(source, 0), csr.num_cols)
        counts[destination] = max(counts.get(destination, 0), csr.num_rows)
    return counts


def _attribute(store: Any, edge_type: EdgeType, name: str, num_edges: int | None) -> Tensor:
    value = getattr(store, name, None)
    if not isinstance(value, Tensor):
        raise ValueError(
            f"edge type {edge_type} needs a tensor {name!r}: it has {sorted(store.keys())}. Edges known from "
            "the start may have a time before all queries"
        )
    if num_edges is not None and tuple(value.shape) != (num_edges,):
        raise ValueError(
            f"{name!r} of edge type {edge_type} needs one value for each of {num_edges} edges, got shape "
            f"{tuple(value.shape)}"
        )
    if isinstance(store, Data) and not store.is_edge_attr(name):
        raise ValueError(
            f"PyG takes {name!r} for an attribute of nodes, since there are {num_edges} of both: "
            f"give it a name that holds 'edge', such as 'edge_{name}'"
        )
    return value


def _integer_times(name: str, time: Tensor) -> Tensor:
    if time.is_floating_point() or time.is_complex() or time.dtype == torch.bool:
        raise ValueError(f"{name} must be integers, such as seconds since 1970, got {time.dtype}")
    return time.long()
