"""Whether two nodes share a visible edge: edges sorted by (row, column, time), and binary search."""

from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from samplers.csr import TemporalCSR
from samplers.edge_sort import sort_edges, take
from samplers.queries import bisect_rows, expand_ranges, pieces


class PairColumns(NamedTuple):
    """The edges of a CSR's base or delta, each row sorted by (column, time)."""

    rowptr: Tensor
    col: Tensor
    edge_time: Tensor
    known_time: Tensor | None
    """When each edge became known; None: at its own time."""


_indices: "WeakKeyDictionary[TemporalCSR, tuple[PairColumns, ...]]" = WeakKeyDictionary()


def pair_columns(csr: TemporalCSR) -> tuple[PairColumns, ...]:
    """Sort the edges of base and delta by column inside each row. Made once for each CSR and kept with it."""
    if csr not in _indices:
        _indices[csr] = tuple(_sort_part(part) for part in (csr, csr.delta) if part is not None)
    return _indices[csr]


def shares_visible_edge(
    csr: TemporalCSR,
    row: Int64[Tensor, " num_pairs"],
    col: Int64[Tensor, " num_pairs"],
    first_time: Int64[Tensor, " num_pairs"],
    before: Int64[Tensor, " num_pairs"],
) -> Bool[Tensor, " num_pairs"]:
    """Tell for each pair if an edge of ``first_time <= edge_time < before`` was known before that too."""
    found = torch.zeros_like(row, dtype=torch.bool)
    for part in pair_columns(csr):
        low, high = part.rowptr[row], part.rowptr[row + 1]
        low = bisect_rows(part.col, low, high, col, side="left")
        high = bisect_rows(part.col, low, high, col, side="right")
        low = bisect_rows(part.edge_time, low, high, first_time, side="left")
        high = bisect_rows(part.edge_time, low, high, before, side="left")
        if part.known_time is None:
            found |= low < high
            continue
        for piece in pieces(high - low):
            pair, position = expand_ranges(low[piece], (high - low)[piece])
            pair += piece.start
            found[pair[part.known_time[position] < before[pair]]] = True
    return found


def _sort_part(csr: TemporalCSR) -> PairColumns:
    order = sort_edges(csr.row_of_edge(), csr.col.long(), None)  # stable: a pair's edges stay sorted by time
    known = csr.available_time
    return PairColumns(
        csr.rowptr,
        take(csr.col, order),
        take(csr.edge_time, order),
        None if known is None else take(known, order),
    )
