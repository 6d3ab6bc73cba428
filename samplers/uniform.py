"""Neighbours drawn uniformly from the visible edges of each seed."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from samplers.csr import TemporalCSR
from samplers.one_hop import Loop, OneHopSampler
from samplers.queries import Bound, Engine, VisibleEdges
from samplers.random_numbers import FixedKey, Key, keyed_uniform, scale_to_integers, word_of


class UniformNeighborSampler(OneHopSampler):
    """Sample ``num_neighbors`` visible edges of each seed, all equally likely, most recent first.

    Args:
        csr: rows are seeds, columns neighbours.
        num_neighbors: K; -1 for all (without replacement only).
        replace: False draws each edge at most once and returns all edges where there are at most K; True
            draws K times independently wherever there is an edge.
        bound: "strict" sees ``edge_time < seed_time``, "inclusive" also ``edge_time == seed_time``.
        window: see only ``edge_time >= seed_time - window``; None for no limit.
        random_seed: part of the key of every draw.
        engine: as in ``OneHopSampler``.

    Draws are keyed by (random_seed, epoch, edge type, hop, node, time, slot), so they depend on no other
    seed; a ``generator`` given to ``sample`` replaces them. Edges not known by ``seed_time`` (same bound)
    are never seen, and edges that cannot be seen do not change the draws.

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
        engine: Engine = "auto",
    ) -> None:
        super().__init__(csr, num_neighbors, bound=bound, window=window, engine=engine)
        if replace and num_neighbors == -1:
            raise ValueError("num_neighbors=-1 (all) has no meaning with replacement: give a number")
        self.replace, self.random_seed = replace, random_seed

    def _random_seed(self) -> int:
        return self.random_seed

    def _axes(self) -> dict[str, object]:
        return {"replace": self.replace, "random_seed": self.random_seed}

    def _choose(
        self, edges: VisibleEdges, seed_time: Tensor, width: int, keys: tuple[Key, ...]
    ) -> tuple[Tensor, Tensor]:
        slot = torch.arange(width, device=seed_time.device)
        keys = tuple(key[:, None] if isinstance(key, Tensor) else key for key in keys)
        uniform = keyed_uniform(*keys, slot)
        if self.replace:
            number = scale_to_integers(uniform, edges.count[:, None])
            mask = (edges.count > 0)[:, None].expand(-1, width)
        else:
            number = _distinct_numbers(uniform, edges.count)
            mask = slot < edges.count[:, None]
        return number.where(mask, -1).sort(dim=1, descending=True).values, mask

    def _loop(
        self, queries: tuple[Any, ...], prefix: tuple[FixedKey, ...], by_place: bool, out: tuple[Any, ...]
    ) -> Loop:
        from samplers.compiled import one_hop

        draws = (self.replace, np.uint64(word_of(*prefix)), by_place)
        return Loop(one_hop.draw_uniform, (self.csr.arrays, *queries, *draws, out), least=1024)


def _distinct_numbers(uniform: Tensor, count: Tensor) -> Tensor:
    """Choose ``width`` distinct numbers below each count; where it is smaller, the first ``count`` are all.

    Floyd's algorithm (Bentley, Floyd: Programming Pearls, CACM 30(9), 1987), all rows at once: slot s draws
    from [0, count - width + s] and takes that bound itself where the draw is taken.
    """
    width = uniform.shape[1]
    first = (count - width).clamp(min=0)
    chosen = torch.zeros_like(uniform, dtype=torch.int64)
    longest = int(count.max()) if len(count) else 0
    for slot in range(min(width, longest)):  # behind it no row has a slot
        last = first + slot
        drawn = scale_to_integers(uniform[:, slot], last + 1)
        taken = (chosen[:, :slot] == drawn[:, None]).any(1)
        chosen[:, slot] = torch.where(taken, last, drawn)
    return chosen
