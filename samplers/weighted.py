"""Neighbours drawn by importance: edge weight, degree of the neighbour, or recency."""

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from samplers.csr import TemporalCSR
from samplers.one_hop import Loop, OneHopSampler
from samplers.queries import (
    Bound,
    Engine,
    VisibleEdges,
    bisect_rows,
    expand_ranges,
    pieces,
    visible_edges,
)
from samplers.random_numbers import FixedKey, Key, fixed_point_exp2, keyed_uniform, log2, word_of

Weight = Literal["edge_weight", "degree", "recency"]


class WeightedNeighborSampler(OneHopSampler):
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
        engine: as in ``OneHopSampler``.

    Slots, masks, keys and delays are as in ``UniformNeighborSampler``; an edge of weight 0 is never drawn.
    With replacement weights are rounded down to multiples of 2^-31 of the query's largest (degrees are not).
    Work is proportional to the number of visible edges.

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
        engine: Engine = "auto",
    ) -> None:
        super().__init__(csr, num_neighbors, bound=bound, window=window, engine=engine)
        if replace and num_neighbors == -1:
            raise ValueError("num_neighbors=-1 (all) has no meaning with replacement: give a number")
        _check_weight(csr, weight, half_life, reverse_csr)
        self.weight, self.half_life, self.reverse_csr = weight, half_life, reverse_csr
        self.replace, self.random_seed = replace, random_seed

    def _random_seed(self) -> int:
        return self.random_seed

    def _axes(self) -> dict[str, object]:
        options = {"half_life": self.half_life, "reverse_csr": self.reverse_csr}
        given = {name: value for name, value in options.items() if value is not None}
        return {"weight": self.weight, **given, "replace": self.replace, "random_seed": self.random_seed}

    def _choose(
        self, edges: VisibleEdges, seed_time: Tensor, width: int, keys: tuple[Key, ...]
    ) -> tuple[Tensor, Tensor]:
        number = torch.full((len(seed_time), width), -1, dtype=torch.int64, device=seed_time.device)
        for piece in pieces(edges.count):
            row, visible = expand_ranges(torch.zeros_like(edges.count[piece]), edges.count[piece])
            query = row + piece.start
            raw = self._raw_weight(edges, query, visible, seed_time)
            if self.replace:
                row_keys = tuple(key[piece] if isinstance(key, Tensor) else key for key in keys)
                number[piece] = self._draw_with_replacement(
                    raw, row, visible, edges.count[piece], width, row_keys
                )
                continue
            if self.weight != "recency":
                keep = raw > 0
                row, visible, query, raw = row[keep], visible[keep], query[keep], raw[keep]
            edge_keys = tuple(key[query] if isinstance(key, Tensor) else key for key in keys)
            clock = (-log2(keyed_uniform(*edge_keys, visible) + 2.0**-54)).clamp(min=2.0**-54)
            handicap = raw / self.half_life if self.half_life is not None else -log2(raw)
            chosen, slot = _smallest_of_row(log2(clock) + handicap, row, width)
            number[query[chosen], slot] = visible[chosen]
        number = number.sort(dim=1, descending=True).values
        return number, number >= 0

    def _draw_with_replacement(
        self, raw: Tensor, row: Tensor, visible: Tensor, count: Tensor, width: int, keys: tuple[Key, ...]
    ) -> Tensor:
        """Invert each row's running sum of whole weights; -1 where all are 0."""
        best = torch.zeros(len(count), dtype=raw.dtype, device=raw.device)
        how = "amin" if self.half_life is not None else "amax"
        best = best.scatter_reduce(0, row, raw, how, include_self=False)[row]
        if self.half_life is not None:
            whole = fixed_point_exp2((raw - best) / self.half_life)
        elif self.weight == "degree":
            whole = raw.long()
        else:
            whole = (raw / best * 2.0**31).nan_to_num(0.0).long()
        ahead = whole.cumsum(0)
        total = torch.zeros_like(count).scatter_add(0, row, whole)
        stop = count.cumsum(0)
        first = stop - count
        before = total.cumsum(0) - total
        keys = tuple(key[:, None] if isinstance(key, Tensor) else key for key in keys)
        uniform = keyed_uniform(*keys, torch.arange(width, device=raw.device))
        target = torch.minimum((uniform * total[:, None].double()).long(), total[:, None] - 1)
        low, high = first[:, None].expand_as(target), stop[:, None].expand_as(target)
        place = bisect_rows(ahead, low, high, target + before[:, None], side="right")
        return (place - first[:, None]).where(total[:, None] > 0, -1)

    def _loop(
        self, queries: tuple[Any, ...], prefix: tuple[FixedKey, ...], by_place: bool, out: tuple[Any, ...]
    ) -> Loop:
        from samplers.compiled import one_hop

        reverse = self.csr if self.reverse_csr is None else self.reverse_csr
        kind = {"edge_weight": one_hop.EDGE_WEIGHT, "degree": one_hop.DEGREE, "recency": one_hop.RECENCY}
        half_life = 1.0 if self.half_life is None else float(self.half_life)
        weight = (reverse.arrays, kind[self.weight], half_life)
        draws = (self.replace, np.uint64(word_of(*prefix)), by_place)
        return Loop(one_hop.draw_weighted, (self.csr.arrays, *weight, *queries, *draws, out), least=16)

    def _raw_weight(self, edges: VisibleEdges, query: Tensor, number: Tensor, seed_time: Tensor) -> Tensor:
        """Return what weights are made of, as float64: edge weights, degrees of neighbours, or ages."""
        position = edges.position(query, number)
        if self.weight == "recency":
            return (seed_time[query] - self.csr.look_up("edge_time", position)).double()
        if self.weight == "edge_weight":
            return self.csr.look_up("edge_weight", position).double()
        assert self.reverse_csr is not None
        neighbor = self.csr.look_up("col", position).long()
        reverse = visible_edges(self.reverse_csr, neighbor, seed_time[query], bound=self.bound)
        return reverse.count.double()


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
        if half_life is None or not 0 < half_life < math.inf:
            raise ValueError(f'weight="recency" needs half_life > 0 (unit of the times), got {half_life}')
    elif weight == "degree":
        if reverse_csr is None or reverse_csr.num_rows < csr.num_cols:
            raise ValueError(
                f'weight="degree" needs reverse_csr, a CSR whose rows are the {csr.num_cols} columns'
            )
    else:
        raise ValueError(f'weight must be "edge_weight", "degree" or "recency", got {weight!r}')
