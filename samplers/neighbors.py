"""The values that samplers return: padded neighbours, ragged histories, subgraphs of several hops."""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from samplers.csr import TemporalCSR
from samplers.edge_sort import row_of_place

NodeType = str
EdgeType = tuple[str, str, str]


@dataclass(frozen=True, eq=False)
class SampledNeighbors:
    """One hop of neighbours, the most recent first, padded on the right.

    Padding has ``mask == False`` and holds 0, an index that exists but means nothing.
    """

    node: Int64[Tensor, "num_seeds num_neighbors"]
    edge_time: Int64[Tensor, "num_seeds num_neighbors"]
    edge_id: Int64[Tensor, "num_seeds num_neighbors"]
    mask: Bool[Tensor, "num_seeds num_neighbors"]

    @classmethod
    def from_positions(cls, csr: TemporalCSR, position: Tensor, mask: Tensor) -> "SampledNeighbors":
        """Look up edges by their position in a CSR; (num_seeds, num_neighbors)."""
        node, edge_time, edge_id = (
            csr.look_up(name, position).long().where(mask, 0) for name in ("col", "edge_time", "edge_id")
        )
        return cls(node, edge_time, edge_id, mask)

    @classmethod
    def empty(cls, num_seeds: int, num_neighbors: int) -> "SampledNeighbors":
        """Return memory on the CPU for compiled code to fill."""
        shape = (num_seeds, num_neighbors)
        node, edge_time, edge_id = torch.empty((3, *shape), dtype=torch.int64).unbind()
        return cls(node, edge_time, edge_id, torch.empty(shape, dtype=torch.bool))

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return numpy arrays of the same memory."""
        return (
            self.node.numpy(),
            self.edge_time.numpy(),
            self.edge_id.numpy(),
            self.mask.numpy().view(np.uint8),
        )

    def to(self, device: torch.device | str) -> "SampledNeighbors":
        """Copy to another device."""
        return SampledNeighbors(*(t.to(device) for t in (self.node, self.edge_time, self.edge_id, self.mask)))


@runtime_checkable
class NeighborSampler(Protocol):
    """What every one-hop sampler offers."""

    def sample(
        self,
        seed: Int64[Tensor, " num_seeds"],
        seed_time: Int64[Tensor, " num_seeds"],
        *,
        epoch: int = 0,
        hop: int = 0,
        edge_type: EdgeType | None = None,
        generator: torch.Generator | None = None,
    ) -> SampledNeighbors:
        """Sample neighbours of each (seed, seed_time)."""
        ...


@dataclass(frozen=True, eq=False)
class EventHistory:
    """Past events of each query, ragged, in time order: those of query i are ``ptr[i]:ptr[i + 1]``.

    ``edge_type`` numbers the sampler's edge types in their given order; None if there is one alone.
    """

    ptr: Int64[Tensor, " num_boundaries"]
    neighbor: Int64[Tensor, " num_events"]
    time: Int64[Tensor, " num_events"]
    edge_id: Int64[Tensor, " num_events"]
    edge_type: Int64[Tensor, " num_events"] | None = None

    def query_of_event(self) -> Int64[Tensor, " num_events"]:
        """Return the query that each event belongs to."""
        return row_of_place(self.ptr, len(self.neighbor))

    def to(self, device: torch.device | str) -> "EventHistory":
        """Copy to another device."""
        return EventHistory(
            self.ptr.to(device),
            self.neighbor.to(device),
            self.time.to(device),
            self.edge_id.to(device),
            None if self.edge_type is None else self.edge_type.to(device),
        )


@dataclass(frozen=True, eq=False)
class HopEdges:
    """Sampled edges of one edge type at one hop.

    Destination i is row ``first_row + i`` of the destination type's table; ``neighbor`` are rows of the
    source type's table (0 where ``mask`` is False).
    """

    first_row: int
    neighbor: Int64[Tensor, "num_rows num_neighbors"]
    edge_id: Int64[Tensor, "num_rows num_neighbors"]
    edge_time: Int64[Tensor, "num_rows num_neighbors"]
    mask: Bool[Tensor, "num_rows num_neighbors"]

    @property
    def num_rows(self) -> int:
        """Number of destinations."""
        return len(self.mask)

    def to(self, device: torch.device | str) -> "HopEdges":
        """Copy to another device."""
        return replace(
            self,
            neighbor=self.neighbor.to(device),
            edge_id=self.edge_id.to(device),
            edge_time=self.edge_time.to(device),
            mask=self.mask.to(device),
        )


@dataclass(frozen=True, eq=False)
class SampledSubgraph:
    """Several hops around the seeds, one table of (node, time) rows for each node type.

    Attributes:
        node: global node ids of each type's rows: seeds first, then by the hop that first reached them.
        time: the time as of which each row is seen.
        num_nodes_after_hop: rows of each type up to each hop; entry 0 counts the distinct seeds.
        seed_index: for each given seed, its row.
        hops: for each hop, the edges into the rows that the hop before reached first.

    """

    node: dict[NodeType, Int64[Tensor, " _"]]
    time: dict[NodeType, Int64[Tensor, " _"]]
    num_nodes_after_hop: dict[NodeType, list[int]]
    seed_index: dict[NodeType, Int64[Tensor, " _"]]
    hops: list[dict[EdgeType, HopEdges]]

    def to(self, device: torch.device | str) -> "SampledSubgraph":
        """Copy to another device."""
        return SampledSubgraph(
            node={name: t.to(device) for name, t in self.node.items()},
            time={name: t.to(device) for name, t in self.time.items()},
            num_nodes_after_hop=self.num_nodes_after_hop,
            seed_index={name: t.to(device) for name, t in self.seed_index.items()},
            hops=[{name: edges.to(device) for name, edges in hop.items()} for hop in self.hops],
        )
