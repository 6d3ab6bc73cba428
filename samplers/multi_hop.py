"""Several hops over several edge types, each (node, time) kept once."""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Generator, Tensor

from samplers.csr import TemporalCSR
from samplers.neighbors import (
    EdgeType,
    HopEdges,
    NeighborSampler,
    NodeType,
    SampledNeighbors,
    SampledSubgraph,
)
from samplers.queries import Bound, check_options
from samplers.recent import RecentNeighborSampler

NextHopBound = Literal["seed", "edge"]
FanOut = Sequence[int] | Mapping[EdgeType, Sequence[int]]


@runtime_checkable
class Strategy(Protocol):
    """How to sample one hop: a sampler class, or ``functools.partial`` of one with more options."""

    def __call__(
        self, csr: TemporalCSR, num_neighbors: int, /, *, bound: Bound, window: int | None
    ) -> NeighborSampler:
        """Make the sampler of one edge type and hop."""
        ...


class MultiHopSampler:
    """Sample the neighbourhood of seeds, hop by hop.

    Args:
        csrs: for edge type (source, relation, destination), the CSR whose rows are destinations and whose
            columns are sources: a hop goes from a node to the sources that point into it.
        num_neighbors: one number a hop, or one a hop for each edge type; -1 for all, 0 to skip a type.
        strategy: the one-hop sampler, for all edge types or for each.
        bound: given to the strategy: "strict" (``edge_time < time``) or "inclusive".
        window: given to the strategy, at each hop relative to the time that the hop queries.
        next_hop_bound: the time of a reached node: its seed's time ("seed"), or that of the edge that reached
            it ("edge"), so that times fall along each path.

    What is sampled for a seed depends on no other seed of the batch. Where each edge type has the same
    fan-out at every hop, a (node, time) has one row, sampled once with one key (``hop=0``), whichever hop
    reaches it first. Where fan-outs differ between hops, rows are unique within a hop only: a node met at two
    hops has one row for each, since it has a different number of neighbours there.

    """

    def __init__(
        self,
        csrs: Mapping[EdgeType, TemporalCSR],
        num_neighbors: FanOut,
        *,
        strategy: Strategy | Mapping[EdgeType, Strategy] = RecentNeighborSampler,
        bound: Bound = "strict",
        window: int | None = None,
        next_hop_bound: NextHopBound = "seed",
    ) -> None:
        check_options(bound, window)
        if next_hop_bound not in ("seed", "edge"):
            raise ValueError(f'next_hop_bound must be "seed" or "edge", got {next_hop_bound!r}')
        fan_outs = _fan_outs(csrs, num_neighbors)
        self.num_hops = len(next(iter(fan_outs.values())))
        self.next_hop_bound = next_hop_bound
        self.unique_across_hops = all(len(set(fan_out)) <= 1 for fan_out in fan_outs.values())
        self.node_types = sorted({end for source, _, destination in csrs for end in (source, destination)})
        self.samplers: dict[EdgeType, list[NeighborSampler | None]] = {}
        for edge_type, csr in csrs.items():
            make = strategy[edge_type] if isinstance(strategy, Mapping) else strategy
            self.samplers[edge_type] = [
                make(csr, k, bound=bound, window=window) if k else None for k in fan_outs[edge_type]
            ]

    def sample(
        self,
        seeds: Mapping[NodeType, tuple[Int64[Tensor, " _"], Int64[Tensor, " _"]]],
        *,
        epoch: int = 0,
        generator: Generator | None = None,
    ) -> SampledSubgraph:
        """Sample around ``{node_type: (seed, seed_time)}``; equal (seed, time) pairs share a row.

        Raises:
            ValueError: an unknown node type, a seed out of range, or no seeds at all.

        """
        unknown = set(seeds) - set(self.node_types)
        if unknown or not seeds:
            raise ValueError(f"seeds must be of the node types {self.node_types}, got {sorted(seeds)}")
        device = next(iter(seeds.values()))[0].device
        tables = {name: _Table(device) for name in self.node_types}
        seed_index = {name: tables[name].insert(*seed) for name, seed in seeds.items()}
        for table in tables.values():
            table.close_hop(keep_open=self.unique_across_hops)
        hops = []
        for hop in range(self.num_hops):
            hops.append(self._sample_hop(tables, hop, epoch, generator))
            for table in tables.values():
                table.close_hop(keep_open=self.unique_across_hops)
        return SampledSubgraph(
            node={name: table.node for name, table in tables.items()},
            time={name: table.time for name, table in tables.items()},
            num_nodes_after_hop={name: table.num_rows_after_hop for name, table in tables.items()},
            seed_index=seed_index,
            hops=hops,
        )

    def _sample_hop(
        self, tables: dict[NodeType, "_Table"], hop: int, epoch: int, generator: Generator | None
    ) -> dict[EdgeType, HopEdges]:
        sampled: dict[EdgeType, SampledNeighbors] = {}
        for edge_type, samplers in self.samplers.items():
            sampler, table = samplers[hop], tables[edge_type[2]]
            if sampler is not None and table.frontier < len(table.node):
                sampled[edge_type] = sampler.sample(
                    table.node[table.frontier :],
                    table.time[table.frontier :],
                    epoch=epoch,
                    hop=0 if self.unique_across_hops else hop,
                    edge_type=edge_type,
                    generator=generator,
                )
        edges: dict[EdgeType, HopEdges] = {}
        first_rows = {name: (table.frontier, table.time[table.frontier :]) for name, table in tables.items()}
        for edge_type, found in sampled.items():
            first_row, query_time = first_rows[edge_type[2]]
            time = (
                found.edge_time
                if self.next_hop_bound == "edge"
                else query_time[:, None].expand_as(found.node)
            )
            neighbor = torch.zeros_like(found.node)
            neighbor[found.mask] = tables[edge_type[0]].insert(found.node[found.mask], time[found.mask])
            edges[edge_type] = HopEdges(first_row, neighbor, found.edge_id, found.edge_time, found.mask)
        return edges


class _Table:
    """The growing (node, time) rows of one node type."""

    def __init__(self, device: torch.device) -> None:
        self.node = torch.empty(0, dtype=torch.int64, device=device)
        self.time = torch.empty(0, dtype=torch.int64, device=device)
        self.frontier = 0  # first row of those reached last
        self.first_open = 0  # rows before it take no more hits
        self.num_rows_after_hop: list[int] = []

    def insert(self, node: Tensor, time: Tensor) -> Tensor:
        """Row of each (node, time); those not met yet become rows at the end, in order of appearance."""
        nodes = torch.cat([self.node[self.first_open :], node])
        times = torch.cat([self.time[self.first_open :], time])
        place, first = _number_in_order(_pair_keys(nodes, times))
        self.node = torch.cat([self.node[: self.first_open], nodes[first]])
        self.time = torch.cat([self.time[: self.first_open], times[first]])
        return self.first_open + place[len(place) - len(node) :]

    def close_hop(self, *, keep_open: bool) -> None:
        """Make what was inserted since the last call the next frontier."""
        self.frontier = self.num_rows_after_hop[-1] if self.num_rows_after_hop else 0
        self.num_rows_after_hop.append(len(self.node))
        if not keep_open:
            self.first_open = len(self.node)


def _pair_keys(node: Tensor, time: Tensor) -> Tensor:
    """Give each (node, time) a number, equal for equal pairs alone."""
    if len(time) == 0 or bool((time == time[0]).all()):
        return node
    distinct, code = torch.unique(time, return_inverse=True)
    if int(node.max()) >= (2**63 - 1) // len(distinct):
        node = torch.unique(node, return_inverse=True)[1]
    return node * len(distinct) + code


def _number_in_order(key: Tensor) -> tuple[Tensor, Tensor]:
    """Count distinct keys by first appearance; also the index where each appears first."""
    distinct, code = torch.unique(key, return_inverse=True)
    index = torch.arange(len(key), device=key.device)
    first = torch.full_like(distinct, len(key)).scatter_reduce(0, code, index, "amin")
    first, order = first.sort()
    number = torch.empty_like(order)
    number[order] = torch.arange(len(order), device=key.device)
    return number[code], first


def _fan_outs(csrs: Mapping[EdgeType, TemporalCSR], num_neighbors: FanOut) -> dict[EdgeType, list[int]]:
    if not csrs:
        raise ValueError("a multi-hop sampler needs at least one edge type, got none")
    if isinstance(num_neighbors, Mapping):
        if num_neighbors.keys() != csrs.keys():
            raise ValueError(
                f"num_neighbors must name the edge types {sorted(csrs)}, got {sorted(num_neighbors)}"
            )
        fan_outs = {edge_type: list(num_neighbors[edge_type]) for edge_type in csrs}
    else:
        fan_outs = {edge_type: list(num_neighbors) for edge_type in csrs}
    if len({len(fan_out) for fan_out in fan_outs.values()}) != 1:
        raise ValueError("every edge type needs a fan-out for the same number of hops (0 skips one)")
    return fan_outs
