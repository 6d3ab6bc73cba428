"""The K most recent neighbours of each seed: the end of a row at a time, one binary search away."""

import torch
from jaxtyping import Int64
from torch import Generator, Tensor

from samplers.csr import TemporalCSR
from samplers.neighbors import EdgeType, SampledNeighbors
from samplers.queries import (
    MAX_EXPANDED,
    Bound,
    check_num_neighbors,
    check_options,
    count_edges,
    in_bound,
    row_range,
)


class RecentNeighborSampler:
    """Sample the ``num_neighbors`` most recent visible edges of each seed, most recent first.

    Args:
        csr: rows are seeds, columns neighbours.
        num_neighbors: K; -1 for all (as wide as the batch's longest history).
        bound: "strict" sees ``edge_time < seed_time``, "inclusive" also ``edge_time == seed_time``.
        window: see only ``edge_time >= seed_time - window``; None for no limit.

    Ties in time are broken by edge id, the larger being the more recent. Where the CSR has an
    ``available_time``, edges not known by ``seed_time`` (same bound) are passed over. Fewer than K visible
    edges leave slots with ``mask == False``.

    """

    def __init__(
        self,
        csr: TemporalCSR,
        num_neighbors: int,
        *,
        bound: Bound = "strict",
        window: int | None = None,
    ) -> None:
        check_options(bound, window)
        check_num_neighbors(num_neighbors)
        self.csr, self.num_neighbors, self.bound, self.window = csr, num_neighbors, bound, window

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
        """Sample as of each seed's time. Nothing is random: the keywords after the seeds change nothing.

        Raises:
            ValueError: a seed is not a row of the CSR.

        """
        csr, width = self.csr, self.num_neighbors
        start, end = row_range(csr, seed, seed_time, bound=self.bound, window=self.window)
        if csr.available_time is not None:
            if width == -1:
                count = count_edges(csr, seed, seed_time, bound=self.bound, window=self.window)
                width = int(count.max()) if len(count) else 0
            position, mask = _last_known(csr, start, end, seed_time, width, self.bound)
            return SampledNeighbors.from_positions(csr, position, mask)
        if width == -1:
            width = int((end - start).max()) if len(seed) else 0
        position = end[:, None] - 1 - torch.arange(width, device=csr.device)
        return SampledNeighbors.from_positions(csr, position, position >= start[:, None])


def _last_known(
    csr: TemporalCSR, start: Tensor, end: Tensor, time: Tensor, width: int, bound: Bound
) -> tuple[Tensor, Tensor]:
    """Look back from ``end``, in steps that double, until each row has ``width`` known edges or no more."""
    assert csr.available_time is not None
    position = torch.zeros(len(start), width, dtype=torch.int64, device=csr.device)
    found, cursor, step = torch.zeros_like(start), end.clone(), max(width, 8)
    active = ((cursor > start) & (found < width)).nonzero().flatten()
    while len(active):
        step = max(1, min(step, MAX_EXPANDED // len(active)))
        candidate = cursor[active, None] - 1 - torch.arange(step, device=csr.device)
        known = in_bound(csr.available_time[candidate.clamp(min=0)], time[active, None], bound)
        known &= candidate >= start[active, None]
        slot = found[active, None] + known.cumsum(1) - 1
        keep = known & (slot < width)
        position[active[:, None].expand_as(keep)[keep], slot[keep]] = candidate[keep]
        found[active] += keep.sum(1)
        cursor[active] -= step
        active = active[(cursor[active] > start[active]) & (found[active] < width)]
        step *= 2
    return position, torch.arange(width, device=csr.device) < found[:, None]
