"""Neighbours drawn uniformly from the visible edges of each seed."""

import torch
from jaxtyping import Int64
from torch import Generator, Tensor

from samplers.csr import TemporalCSR
from samplers.neighbors import EdgeType, SampledNeighbors
from samplers.queries import Bound, check_num_neighbors, check_options, visible_edges
from samplers.random_numbers import draw_uniform, scale_to_integers


class UniformNeighborSampler:
    """Sample ``num_neighbors`` visible edges of each seed, all equally likely, most recent first.

    Args:
        csr: rows are seeds, columns neighbours.
        num_neighbors: K; -1 for all (without replacement only).
        replace: False draws each edge at most once and returns all edges where there are at most K; True
            draws K times independently wherever there is an edge.
        bound: "strict" sees ``edge_time < seed_time``, "inclusive" also ``edge_time == seed_time``.
        window: see only ``edge_time >= seed_time - window``; None for no limit.
        random_seed: part of the key of every draw.

    Draws are keyed by (random_seed, epoch, edge type, hop, node, time, slot), so they depend on no other
    seed; a ``generator`` given to ``sample`` replaces them. Edges not known by ``seed_time`` (same bound)
    are never seen, and edges that cannot be seen do not change the draws. "Most recent first" orders by the
    time at which edges became known where the CSR has an ``available_time``.

    """

    def __init__(
        self,
        csr: TemporalCSR,
        num_neighbors: int,
        *,
        replace: bool = False,
        bound: Bound = "strict",
        window: int | None = None,
        random_seed: int = 0,
    ) -> None:
        check_options(bound, window)
        check_num_neighbors(num_neighbors)
        if replace and num_neighbors == -1:
            raise ValueError("num_neighbors=-1 (all) has no meaning with replacement: give a number")
        self.csr, self.num_neighbors, self.replace = csr, num_neighbors, replace
        self.bound, self.window, self.random_seed = bound, window, random_seed

    def sample(
        self,
        seed: Int64[Tensor, " num_seeds"],
        seed_time: Int64[Tensor, " num_seeds"],
        *,
        epoch: int = 0,
        hop: int = 0,
        edge_type: EdgeType | None = None,
        generator: Generator | None = None,
    ) -> SampledNeighbors:
        """Sample as of each seed's time.

        Raises:
            ValueError: a seed is not a row of the CSR.

        """
        edges = visible_edges(self.csr, seed, seed_time, bound=self.bound, window=self.window)
        width = self.num_neighbors
        if width == -1:
            width = int(edges.count.max()) if len(seed) else 0
        slot = torch.arange(width, device=self.csr.device)
        keys = (self.random_seed, epoch, edge_type, hop, seed[:, None], seed_time[:, None], slot)
        uniform = draw_uniform((len(seed), width), self.csr.device, generator, *keys)
        if self.replace:
            rank = scale_to_integers(uniform, edges.count[:, None])
            mask = (edges.count > 0)[:, None].expand(-1, width)
        else:
            rank = _distinct_ranks(uniform, edges.count)
            mask = slot < edges.count[:, None]
        rank = rank.where(mask, -1).sort(dim=1, descending=True).values
        query = torch.arange(len(seed), device=self.csr.device)[:, None]
        return SampledNeighbors.from_positions(self.csr, edges.position(query, rank), mask)


def _distinct_ranks(uniform: Tensor, count: Tensor) -> Tensor:
    """Choose ``width`` distinct numbers below each count; where it is smaller, the first ``count`` are all.

    Floyd's algorithm (Bentley, Floyd: Programming Pearls, CACM 30(9), 1987), all rows at once: slot s draws
    from [0, count - width + s] and takes that bound itself where the draw is taken.
    """
    width = uniform.shape[1]
    first = (count - width).clamp(min=0)
    chosen = torch.empty_like(uniform, dtype=torch.int64)
    for slot in range(width):
        last = first + slot
        drawn = scale_to_integers(uniform[:, slot], last + 1)
        taken = (chosen[:, :slot] == drawn[:, None]).any(1)
        chosen[:, slot] = torch.where(taken, last, drawn)
    return chosen
