"""The K most recent neighbours of each seed: the end of a row at a time, one binary search away."""

from typing import Any

import torch
from torch import Tensor

from samplers.one_hop import Loop, OneHopSampler
from samplers.queries import VisibleEdges
from samplers.random_numbers import FixedKey, Key


class RecentNeighborSampler(OneHopSampler):
    """Sample the ``num_neighbors`` most recent visible edges of each seed, most recent first.

    Arguments are those of ``OneHopSampler``. Ties in time are broken by edge id, the larger being the more
    recent. Where the CSR has delays, edges not known by ``seed_time`` (same bound) are passed over. Fewer
    than K visible edges leave slots with ``mask == False``. Nothing is random.
    """

    def _choose(
        self, edges: VisibleEdges, seed_time: Tensor, width: int, keys: tuple[Key, ...]
    ) -> tuple[Tensor, Tensor]:
        number = edges.count[:, None] - 1 - torch.arange(width, device=seed_time.device)
        return number, number >= 0

    def _loop(
        self, queries: tuple[Any, ...], prefix: tuple[FixedKey, ...], by_place: bool, out: tuple[Any, ...]
    ) -> Loop:
        from samplers.compiled import one_hop

        return Loop(one_hop.recent, (self.csr.arrays, *queries, out), least=2048)
