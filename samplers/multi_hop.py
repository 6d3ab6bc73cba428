"""Several hops over several edge types, each (node, time) kept once."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypeGuard, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Generator, Tensor

from samplers.csr import TemporalCSR, check_column, check_ids
from samplers.neighbors import (
    EdgeType,
    HopEdges,
    NeighborSampler,
    NodeType,
    SampledNeighbors,
    SampledSubgraph,
)
from samplers.one_hop import OneHopSampler
from samplers.queries import Bound, Engine, check_options, use_compiled
from samplers.recent import RecentNeighborSampler
from samplers.tables import Candidates, NodeTable, group_times, ptr_of_groups

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
        engine: as in ``OneHopSampler``.

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
        engine: Engine = "auto",
    ) -> None:
        check_options(bound, window)
        if next_hop_bound not in ("seed", "edge"):
            raise ValueError(f'next_hop_bound must be "seed" or "edge", got {next_hop_bound!r}')
        fan_outs = _fan_outs(csrs, num_neighbors)
        if isinstance(strategy, Mapping) and not strategy.keys() >= csrs.keys():
            raise ValueError(f"strategy must name the edge types {sorted(csrs)}, got {sorted(strategy)}")
        self.num_hops = len(next(iter(fan_outs.values())))
        self.next_hop_bound = next_hop_bound
        self.unique_across_hops = all(len(set(fan_out)) <= 1 for fan_out in fan_outs.values())
        self.node_types = sorted({end for source, _, destination in csrs for end in (source, destination)})
        self.num_nodes = count_nodes(csrs)
        self.is_compiled = use_compiled(engine, next(iter(csrs.values())).device)
        self.bound, self.window = bound, window
        self.samplers: dict[EdgeType, list[NeighborSampler | None]] = {}
        engines = {} if engine == "auto" else {"engine": engine}  # a strategy of somebody else may have none
        for edge_type, csr in csrs.items():
            make = strategy[edge_type] if isinstance(strategy, Mapping) else strategy
            self.samplers[edge_type] = [
                make(csr, k, bound=bound, window=window, **engines) if k else None
                for k in fan_outs[edge_type]
            ]

    def sample(
        self,
        seeds: Mapping[NodeType, tuple[Int64[Tensor, " _"], Int64[Tensor, " _"]]],
        *,
        epoch: int = 0,
        generator: Generator | None = None,
        repeat_seeds: bool = False,
    ) -> SampledSubgraph:
        """Sample around ``{node_type: (seed, seed_time)}``.

        Equal (seed, time) pairs share a row, or, with ``repeat_seeds``, have one each, with the same
        neighbours; where such a pair is met as a neighbour it is the first of them.

        Raises:
            ValueError: an unknown node type, a seed out of range, or no seeds at all.

        """
        unknown = set(seeds) - set(self.node_types)
        if unknown or not seeds:
            raise ValueError(f"seeds must be of the node types {self.node_types}, got {sorted(seeds)}")
        device = next(iter(seeds.values()))[0].device
        compiled = self.is_compiled and device.type == "cpu"
        tables = {name: NodeTable.empty(self.num_nodes[name], device) for name in self.node_types}
        num_groups, seed_index = self._add_seeds(tables, seeds, compiled, repeat_seeds)
        hops = [
            self._add_hop(tables, hop, num_groups, compiled, epoch, generator) for hop in range(self.num_hops)
        ]
        return SampledSubgraph(
            node={name: table.node for name, table in tables.items()},
            time={name: table.time for name, table in tables.items()},
            num_nodes_after_hop={name: table.num_rows_after_hop for name, table in tables.items()},
            seed_index=seed_index,
            hops=hops,
        )

    def __repr__(self) -> str:
        hops = ", ".join(f"{edge_type}: {samplers!r}" for edge_type, samplers in self.samplers.items())
        return (
            f"MultiHopSampler({{{hops}}}, bound={self.bound!r}, window={self.window}, "
            f"next_hop_bound={self.next_hop_bound!r}, engine={'numba' if self.is_compiled else 'torch'!r})"
        )

    def _add_seeds(
        self,
        tables: dict[NodeType, NodeTable],
        seeds: Mapping[NodeType, tuple[Tensor, Tensor]],
        compiled: bool,
        repeat_seeds: bool,
    ) -> tuple[int, dict[NodeType, Tensor]]:
        """Make rows of the seeds, by time in order of first appearance; return the number of times too."""
        for name, (node, time) in seeds.items():
            check_column("seeds", node)
            check_column("times", time)
            if node.shape != time.shape:
                raise ValueError(f"each seed needs one time: got {len(node)} seeds, {len(time)} times")
            check_ids(f"{name} seed", node, self.num_nodes[name])
        by_edge_time = self.next_hop_bound == "edge"
        sizes = [len(time) for _, time in seeds.values()]
        group, num_groups = group_times(torch.cat([time for _, time in seeds.values()]), compiled=compiled)
        if by_edge_time:
            group, num_groups = torch.zeros_like(group), 1
        seed_index = {}
        for (name, (node, time)), groups in zip(seeds.items(), group.split(sizes), strict=True):
            group_ptr, in_order = ptr_of_groups(groups, num_groups, compiled=compiled)
            order = None if in_order else torch.argsort(groups, stable=True)
            if order is not None:
                node, time = node[order], time[order]
            if repeat_seeds:
                tables[name].add_rows(node, time, group_ptr)
                row = torch.arange(len(node), device=node.device)
            else:
                candidates = Candidates(
                    node[:, None],
                    torch.ones_like(node, dtype=torch.bool)[:, None],
                    time[:, None] if by_edge_time else time,
                    group_ptr,
                )
                (rows,) = tables[name].add_hop([candidates], num_groups, keep_open=False, compiled=compiled)
                row = rows[:, 0]
            seed_index[name] = row if order is None else torch.empty_like(row).index_copy_(0, order, row)
        for name, table in tables.items():
            if name not in seeds:
                table.add_hop([], num_groups, keep_open=False, compiled=compiled)
        return num_groups, seed_index

    def _add_hop(
        self,
        tables: dict[NodeType, NodeTable],
        hop: int,
        num_groups: int,
        compiled: bool,
        epoch: int,
        generator: Generator | None,
    ) -> dict[EdgeType, HopEdges]:
        sampled: dict[EdgeType, SampledNeighbors] = {}
        candidates: dict[EdgeType, Candidates] = {}
        first_rows = {name: table.first_row for name, table in tables.items()}
        for edge_type, samplers in self.samplers.items():
            sampler, table = samplers[hop], tables[edge_type[2]]
            if sampler is None or table.first_row == len(table.node):
                continue
            time = table.time[table.first_row :]
            keys: dict[str, Any] = {
                "epoch": epoch,
                "hop": 0 if self.unique_across_hops else hop,
                "edge_type": edge_type,
                "generator": generator,
            }
            loop = None
            if compiled and _is_ours(sampler):
                found, loop = sampler.prepare(table.node[table.first_row :], time, **keys)
            else:
                found = sampler.sample(table.node[table.first_row :], time, **keys)
            sampled[edge_type] = found
            reached_time = found.edge_time if self.next_hop_bound == "edge" else time
            group_ptr = table.group_ptr[-1] - table.first_row
            candidates[edge_type] = Candidates(found.node, found.mask, reached_time, group_ptr, loop)
        edges: dict[EdgeType, HopEdges] = {}
        for name, table in tables.items():
            into = [edge_type for edge_type in sampled if edge_type[0] == name]
            rows = table.add_hop(
                [candidates[edge_type] for edge_type in into],
                num_groups,
                keep_open=self.unique_across_hops,
                compiled=compiled,
            )
            for edge_type, neighbor in zip(into, rows, strict=True):
                found = sampled[edge_type]
                first_row = first_rows[edge_type[2]]
                edges[edge_type] = HopEdges(first_row, neighbor, found.edge_id, found.edge_time, found.mask)
        return {edge_type: edges[edge_type] for edge_type in sampled}


def _is_ours(sampler: NeighborSampler) -> TypeGuard[OneHopSampler]:
    """Whether its compiled loop does all that its ``sample`` does."""
    return (
        isinstance(sampler, OneHopSampler)
        and sampler.is_compiled
        and type(sampler).sample is OneHopSampler.sample
    )


def _fan_outs(csrs: Mapping[EdgeType, TemporalCSR], num_neighbors: FanOut) -> dict[EdgeType, list[int]]:
    if not csrs:
        raise ValueError("a multi-hop sampler needs at least one edge type, got none")
    if isinstance(num_neighbors, int):
        raise ValueError(f"num_neighbors needs one number a hop, such as [{num_neighbors}] for one hop")
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


def count_nodes(csrs: Mapping[EdgeType, TemporalCSR]) -> dict[NodeType, int]:
    """Return how many nodes of each type the CSRs can name.

    Raises:
        ValueError: two CSRs disagree.

    """
    num_nodes: dict[NodeType, int] = {}
    for (source, relation, destination), csr in csrs.items():
        for name, size in ((source, csr.num_cols), (destination, csr.num_rows)):
            if num_nodes.setdefault(name, size) != size:
                raise ValueError(
                    f"edge type {(source, relation, destination)} has {size} nodes of type {name!r}, another "
                    f"has {num_nodes[name]}: build the CSRs with the same num_rows and num_cols"
                )
    return num_nodes
