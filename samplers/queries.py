"""Which edges a (node, time) query may see: binary search inside the rows of a TemporalCSR."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int32, Int64
from torch import Tensor

from samplers.csr import TemporalCSR, check_ids

Bound = Literal["strict", "inclusive"]
MAX_EXPANDED = 1 << 22  # edges looked at in one piece: bounds the memory of a batch whose rows are long


def row_range(
    csr: TemporalCSR,
    node: Int64[Tensor, " num_queries"],
    time: Int64[Tensor, " num_queries"],
    *,
    bound: Bound = "strict",
    window: int | None = None,
) -> tuple[Int64[Tensor, " num_queries"], Int64[Tensor, " num_queries"]]:
    """Positions [start, end) of each node's edges by their own time (``available_time`` is not looked at).

    Strict: ``edge_time < time``; inclusive: ``edge_time <= time``. A window leaves ``edge_time >= time -
    window``, so the range of times is [time - window, time), or [time - window, time] if inclusive.

    Raises:
        ValueError: a node is not a row of ``csr``, or an option is not one of those above.

    """
    check_options(bound, window)
    check_queries(csr, node, time)
    low, high = csr.rowptr[node], csr.rowptr[node + 1]
    end = bisect_rows(csr.edge_time, low, high, time, side=_side(bound))
    if window is None:
        return low, end
    return bisect_rows(csr.edge_time, low, end, time - window, side="left"), end


def count_edges(
    csr: TemporalCSR,
    node: Int64[Tensor, " num_queries"],
    time: Int64[Tensor, " num_queries"],
    *,
    bound: Bound = "strict",
    window: int | None = None,
) -> Int64[Tensor, " num_queries"]:
    """Count the edges visible to each query: the degree as of the query's time.

    An edge counts if it lies in the bound and the window and, where the CSR has an ``available_time``, is
    known by then in the same bound.

    Raises:
        ValueError: as ``row_range``.

    """
    if csr.available_time is None or window is None:
        return visible_edges(csr, node, time, bound=bound, window=window).count
    count = torch.zeros_like(node)
    start, end = row_range(csr, node, time, bound=bound, window=window)
    for piece in pieces(end - start):
        row, position = expand_ranges(start[piece], (end - start)[piece])
        known = in_bound(csr.available_time[position], time[piece][row], bound)
        count[piece] = torch.bincount(row[known], minlength=piece.stop - piece.start)
    return count


@dataclass(frozen=True, eq=False)
class VisibleEdges:
    """What each query may see: edges ``order[start : start + count]``, or positions themselves without order.

    Numbering a query's visible edges from 0 does not depend on other queries or on edges it cannot see, so
    random draws are made on these numbers (ranks).
    """

    start: Int64[Tensor, " num_queries"]
    count: Int64[Tensor, " num_queries"]
    order: Int32[Tensor, " num_ordered"] | Int64[Tensor, " num_ordered"] | None = None

    def position(self, query: Tensor, rank: Tensor) -> Tensor:
        """Position in the CSR of the edge with this rank among those that a query sees; any shape.

        A rank outside [0, count) gives a meaningless position: the caller masks it.
        """
        place = self.start[query] + rank
        if self.order is None:
            return place
        if len(self.order) == 0:
            return torch.zeros_like(place)
        return self.order[place.clamp(0, len(self.order) - 1)].long()


def visible_edges(
    csr: TemporalCSR,
    node: Int64[Tensor, " num_queries"],
    time: Int64[Tensor, " num_queries"],
    *,
    bound: Bound = "strict",
    window: int | None = None,
    later_than: Int64[Tensor, " num_queries"] | None = None,
    earlier_than: Int64[Tensor, " num_queries"] | None = None,
    time_order: bool = False,
) -> VisibleEdges:
    """Find the edges that each query may see: in the bound, in the window and known by its time.

    Args:
        csr: whose rows are queried.
        node: row of each query.
        time: time of each query.
        bound: whether an edge at the query's own time is seen.
        window: how long back, None for ever.
        later_than: see only edges with a later ``edge_time`` than this, strictly (a walk's last step).
        earlier_than: see only edges with an earlier one, strictly.
        time_order: number the edges by (time, edge id). Otherwise the order is one of (time, edge id) and
            (available_time, edge id), whichever is faster to find.

    Raises:
        ValueError: as ``row_range``.

    """
    start, end = row_range(csr, node, time, bound=bound, window=window)
    if later_than is not None:
        start = torch.maximum(start, bisect_rows(csr.edge_time, start, end, later_than, side="right"))
    if earlier_than is not None:
        end = bisect_rows(csr.edge_time, start, end, earlier_than, side="left")
    if csr.available_time is None:
        return VisibleEdges(start, end - start)
    if window is None and later_than is None and earlier_than is None and not time_order:
        order, low, high = csr.available_order, csr.rowptr[node], csr.rowptr[node + 1]
        known_end = bisect_rows(csr.available_time, low, high, time, side=_side(bound), order=order)
        return VisibleEdges(low, known_end - low, order)
    return _known_edges(csr, start, end, time, bound)


def _known_edges(csr: TemporalCSR, start: Tensor, end: Tensor, time: Tensor, bound: Bound) -> VisibleEdges:
    """List the known edges of each range: neither order of a row holds them in one piece."""
    assert csr.available_time is not None
    count = torch.zeros_like(start)
    known_positions = [start.new_empty(0)]
    for piece in pieces(end - start):
        row, position = expand_ranges(start[piece], (end - start)[piece])
        known = in_bound(csr.available_time[position], time[piece][row], bound)
        count[piece] = torch.bincount(row[known], minlength=piece.stop - piece.start)
        known_positions.append(position[known])
    return VisibleEdges(count.cumsum(0) - count, count, torch.cat(known_positions))


def in_bound(edge_time: Tensor, time: Tensor, bound: Bound) -> Tensor:
    """Tell where an edge's time lies before a query's, or at it if the bound is inclusive."""
    return edge_time < time if bound == "strict" else edge_time <= time


def check_options(bound: str, window: int | None) -> None:
    """Raise ``ValueError`` unless the bound is known and the window positive."""
    if bound not in ("strict", "inclusive"):
        raise ValueError(f'bound must be "strict" or "inclusive", got {bound!r}')
    if window is not None and window <= 0:
        raise ValueError(f"window must be a positive length of time or None for no window, got {window}")


def check_num_neighbors(num_neighbors: int) -> None:
    """Raise ``ValueError`` unless it is a count or -1 for all."""
    if num_neighbors < -1:
        raise ValueError(f"num_neighbors must be at least 0, or -1 for all, got {num_neighbors}")


def check_queries(csr: TemporalCSR, node: Tensor, time: Tensor) -> None:
    """Raise ``ValueError`` unless each query has one time and a row of its own in the CSR."""
    if node.shape != time.shape:
        raise ValueError(
            f"each seed needs one time: got {tuple(node.shape)} seeds, {tuple(time.shape)} times"
        )
    check_ids("seed", node, csr.num_rows)


def bisect_rows(
    values: Tensor,
    low: Tensor,
    high: Tensor,
    target: Tensor,
    *,
    side: Literal["left", "right"],
    order: Tensor | None = None,
) -> Tensor:
    """First place in [low, high) whose value is >= target (left) or > target (right), else ``high``.

    All queries step together, as often as the longest range needs. ``values`` (seen through ``order``, if
    given) must be sorted inside each range only.
    """
    if low.numel() == 0:
        return low.clone()
    longest = int((high - low).max())
    for _ in range(max(longest, 0).bit_length()):
        middle = (low + high) >> 1
        place = middle.clamp(max=len(values) - 1)  # a finished query may point behind the last edge
        value = values[place if order is None else order[place].long()]
        right = ((value < target) if side == "left" else (value <= target)) & (low < high)
        low, high = torch.where(right, middle + 1, low), torch.where(right, high, middle)
    return low


def expand_ranges(start: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """List all positions of the ranges [start, start + count), and the range that each is of."""
    row = torch.arange(len(start), device=start.device).repeat_interleave(count)
    first = count.cumsum(0) - count
    return row, torch.arange(len(row), device=start.device) - first[row] + start[row]


def pieces(count: Tensor) -> Iterator[slice]:
    """Cut rows into slices of at most ``MAX_EXPANDED`` elements (a longer row is a slice of its own)."""
    total = count.cumsum(0)
    first, done = 0, 0
    while first < len(count):
        stop = max(int(torch.searchsorted(total, done + MAX_EXPANDED, right=True)), first + 1)
        yield slice(first, stop)
        first, done = stop, int(total[stop - 1])


def _side(bound: Bound) -> Literal["left", "right"]:
    return "left" if bound == "strict" else "right"
