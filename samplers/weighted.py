"""Neighbours drawn by importance: edge weight, degree of the neighbour, or recency."""

import math
from typing import Literal

import torch
from jaxtyping import Int64
from torch import Generator, Tensor

from samplers.csr import TemporalCSR
from samplers.neighbors import EdgeType, SampledNeighbors
from samplers.queries import (
    Bound,
    VisibleEdges,
    check_num_neighbors,
    check_options,
    count_edges,
    expand_ranges,
    pieces,
    visible_edges,
)
from samplers.random_numbers import Key, draw_uniform

Weight = Literal["edge_weight", "degree", "recency"]


class WeightedNeighborSampler:
    """Sample visible edges with probability proportional to their weight as of the seed's time.

    Args:
        csr: rows are seeds, columns neighbours.
        num_neighbors: K; -1 for all edges of positive weight (without replacement only).
        weight: "edge_weight" is the CSR's column. "degree" is the number of the neighbour's edges in
            ``reverse_csr`` that are visible at the seed's time (same bound, no window). "recency" is
            0.5 ** ((seed_time - edge_time) / half_life).
        half_life: for "recency", in the unit of the edge times.
        reverse_csr: for "degree": rows are this CSR's columns.
        replace: True makes K independent draws. False draws one edge after the other, each with probability
            proportional to its weight among those not drawn yet (Efraimidis, Spirakis: Weighted random
            sampling with a reservoir, IPL 97(5), 2006).
        bound: "strict" sees ``edge_time < seed_time``, "inclusive" also ``edge_time == seed_time``.
        window: see only ``edge_time >= seed_time - window``; None for no limit.
        random_seed: part of the key of every draw.

    Slots, masks, keys and ``available_time`` are as in ``UniformNeighborSampler``; an edge of weight 0 is
    never drawn. Work is proportional to the number of visible edges (times K with replacement).

    """

    def __init__(
        self,
        csr: TemporalCSR,
        num_neighbors: int,
        *,
        weight: Weight = "edge_weight",
        half_life: float | None = None,
        reverse_csr: TemporalCSR | None = None,
        replace: bool = False,
        bound: Bound = "strict",
        window: int | None = None,
        random_seed: int = 0,
    ) -> None:
        check_options(bound, window)
        check_num_neighbors(num_neighbors)
        if replace and num_neighbors == -1:
            raise ValueError("num_neighbors=-1 (all) has no meaning with replacement: give a number")
        _check_weight(csr, weight, half_life, reverse_csr)
        self.csr, self.num_neighbors, self.replace = csr, num_neighbors, replace
        self.weight, self.half_life, self.reverse_csr = weight, half_life, reverse_csr
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
        rank = torch.full((len(seed), width), -1, dtype=torch.int64, device=self.csr.device)
        for piece in pieces(edges.count):
            row, edge_rank = expand_ranges(torch.zeros_like(edges.count[piece]), edges.count[piece])
            query = row + piece.start
            log_weight = self._log_weight(edges, query, edge_rank, seed_time)
            keep = log_weight > -math.inf
            row, edge_rank, query, log_weight = row[keep], edge_rank[keep], query[keep], log_weight[keep]
            key = (self.random_seed, epoch, edge_type, hop, seed[query], seed_time[query], edge_rank)
            if self.replace:
                for slot in range(width):
                    waiting = _waiting_time(log_weight, generator, *key, slot)
                    winner = _first_of_row(waiting, row, piece.stop - piece.start)
                    rank[piece.start + row[winner], slot] = edge_rank[winner]
            else:
                chosen, slot_of_edge = _smallest_of_row(
                    _waiting_time(log_weight, generator, *key), row, width
                )
                rank[query[chosen], slot_of_edge] = edge_rank[chosen]
        rank = rank.sort(dim=1, descending=True).values
        query = torch.arange(len(seed), device=self.csr.device)[:, None]
        return SampledNeighbors.from_positions(self.csr, edges.position(query, rank), rank >= 0)

    def _log_weight(self, edges: VisibleEdges, query: Tensor, rank: Tensor, seed_time: Tensor) -> Tensor:
        position = edges.position(query, rank)
        if self.weight == "recency":
            assert self.half_life is not None
            age = (seed_time[query] - self.csr.edge_time[position]).double()
            return age * (-math.log(2) / self.half_life)
        if self.weight == "edge_weight":
            assert self.csr.edge_weight is not None
            return self.csr.edge_weight[position].double().log()
        assert self.reverse_csr is not None
        neighbor = self.csr.col[position].long()
        return count_edges(self.reverse_csr, neighbor, seed_time[query], bound=self.bound).double().log()


def _waiting_time(log_weight: Tensor, generator: Generator | None, *key: Key) -> Tensor:
    """Log of an exponential time whose rate is the weight: the first to ring is drawn first."""
    uniform = draw_uniform(tuple(log_weight.shape), log_weight.device, generator, *key)
    return (-torch.log1p(-uniform)).log() - log_weight


def _first_of_row(waiting: Tensor, row: Tensor, num_rows: int) -> Tensor:
    """Index of the least value of each row that has any; the first one of equals."""
    least = torch.full((num_rows,), math.inf, dtype=waiting.dtype, device=waiting.device)
    least = least.scatter_reduce(0, row, waiting, "amin")
    best = (waiting == least[row]).nonzero().flatten()
    first = torch.ones_like(best, dtype=torch.bool)
    first[1:] = row[best[1:]] != row[best[:-1]]
    return best[first]


def _smallest_of_row(waiting: Tensor, row: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Find the ``width`` least values of each row, and their places from 0; ``row`` is sorted."""
    order = torch.argsort(waiting, stable=True)
    order = order[torch.argsort(row[order], stable=True)]
    first = torch.searchsorted(row, row[order])
    place = torch.arange(len(order), device=row.device) - first
    return order[place < width], place[place < width]


def _check_weight(
    csr: TemporalCSR, weight: str, half_life: float | None, reverse_csr: TemporalCSR | None
) -> None:
    if weight == "edge_weight":
        if csr.edge_weight is None:
            raise ValueError('weight="edge_weight" needs a CSR built with edge_weight')
    elif weight == "recency":
        if half_life is None or half_life <= 0:
            raise ValueError(f'weight="recency" needs half_life > 0 (unit of the times), got {half_life}')
    elif weight == "degree":
        if reverse_csr is None or reverse_csr.num_rows < csr.num_cols:
            raise ValueError(
                f'weight="degree" needs reverse_csr, a CSR whose rows are the {csr.num_cols} columns'
            )
    else:
        raise ValueError(f'weight must be "edge_weight", "degree" or "recency", got {weight!r}')
