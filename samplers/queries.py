"""Which edges a (node, time) query may see: binary search inside the rows of a TemporalCSR."""

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

import torch
from jaxtyping import Int64
from torch import Tensor

from samplers.csr import TemporalCSR, check_column, check_ids

Bound = Literal["strict", "inclusive"]
Engine = Literal["auto", "numba", "torch"]
_MIN_TIME, _MAX_TIME = torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max
MAX_EXPANDED = 1 << 22  # edges looked at in one piece: bounds the memory of a batch whose rows are long


def rank_at(
    csr: TemporalCSR, node: Int64[Tensor, " num_queries"], time: Int64[Tensor, " num_queries"]
) -> Int64[Tensor, " num_queries"]:
    """Count the edges of each node's row with ``edge_time < time``, known or not."""
    rank = torch.zeros_like(node)
    for part in (csr, csr.delta):
        if part is not None:
            low, high = part.rowptr[node], part.rowptr[node + 1]
            rank += bisect_rows(part.edge_time, low, high, time, side="left") - low
    return rank


def position_of(csr: TemporalCSR, node: Int64[Tensor, "*shape"], rank: Int64[Tensor, "*shape"]) -> Tensor:
    """Position of the edge with this rank in a node's row.

    A rank outside the row gives a meaningless position: the caller masks it.
    """
    base = csr.rowptr[node] + rank
    if csr.delta is None or csr.delta_rank is None:
        return base
    first, stop = csr.delta.rowptr[node], csr.delta.rowptr[node + 1]
    place = bisect_rows(csr.delta_rank, first, stop, rank, side="left")
    found = (place < stop) & (csr.delta_rank[place.clamp(max=len(csr.delta_rank) - 1)] == rank)
    return torch.where(found, len(csr.records) + place, base - (place - first))


def count_edges(
    csr: TemporalCSR,
    node: Int64[Tensor, " num_queries"],
    time: Int64[Tensor, " num_queries"],
    *,
    bound: Bound = "strict",
    window: int | None = None,
    engine: Engine = "auto",
) -> Int64[Tensor, " num_queries"]:
    """Count the edges visible to each query: the degree as of the query's time.

    Strict: ``edge_time < time``; inclusive: ``edge_time <= time``. A window leaves ``edge_time >= time -
    window``. Where the CSR has delays, an edge counts if it is known by then in the same bound.

    Raises:
        ValueError: a node is not a row of ``csr``, or an option is not one of those above.

    """
    check_options(bound, window)
    check_queries(csr, node, time)
    if use_compiled(engine, csr.device):
        from samplers.compiled import one_hop, run

        count = torch.empty_like(node)
        run(
            one_hop.count_edges,
            len(node),
            csr.arrays,
            *compiled_queries(node, time, bound, window),
            count.numpy(),
        )
        return count
    return visible_edges(csr, node, time, bound=bound, window=window).count


@dataclass(frozen=True, eq=False)
class VisibleEdges:
    """What each query may see, numbered from 0 in the order of (time, edge id).

    The first ``num_sure`` are ranks from ``start`` on. Those that follow lie within the row's largest delay
    of the query: the known ones among them are listed in ``recent_rank``. The numbers do not depend on other
    queries or on edges that the query cannot see, so random draws are made on them.
    """

    csr: TemporalCSR
    node: Int64[Tensor, " num_queries"]
    start: Int64[Tensor, " num_queries"]
    num_sure: Int64[Tensor, " num_queries"]
    count: Int64[Tensor, " num_queries"]
    first_recent: Int64[Tensor, " num_queries"]
    recent_rank: Int64[Tensor, " num_recent"]

    def position(self, query: Tensor, number: Tensor) -> Tensor:
        """Position in the CSR of the edge with this number among those that a query sees.

        A number outside [0, count) gives a meaningless position: the caller masks it.
        """
        query, number = torch.broadcast_tensors(query, number)
        rank = self.start[query] + number
        if len(self.recent_rank):
            behind = number - self.num_sure[query]
            place = (self.first_recent[query] + behind).clamp(0, len(self.recent_rank) - 1)
            rank = torch.where(behind < 0, rank, self.recent_rank[place])
        return position_of(self.csr, self.node[query], rank)


def visible_edges(
    csr: TemporalCSR,
    node: Int64[Tensor, " num_queries"],
    time: Int64[Tensor, " num_queries"],
    *,
    bound: Bound = "strict",
    window: int | None = None,
    later_than: Int64[Tensor, " num_queries"] | None = None,
    earlier_than: Int64[Tensor, " num_queries"] | None = None,
) -> VisibleEdges:
    """Find the edges that each query may see: in the bound, in the window and known by its time.

    Args:
        csr: whose rows are queried.
        node: row of each query, in range.
        time: time of each query.
        bound: whether an edge at the query's own time is seen.
        window: how long back, None for ever.
        later_than: see only edges with a later ``edge_time`` than this, strictly (a walk's last step).
        earlier_than: see only edges with an earlier one, strictly.

    """
    before = first_unseen_time(time, bound)
    start, stop = torch.zeros_like(node), rank_at(csr, node, before)
    if window is not None:
        start = torch.minimum(rank_at(csr, node, earlier_by(time, window)), stop)
    if later_than is not None:
        start = torch.maximum(start, rank_at(csr, node, later_than + 1)).clamp(max=stop)
    if earlier_than is not None:
        stop = torch.maximum(torch.minimum(stop, rank_at(csr, node, earlier_than)), start)
    if csr.max_delay is None:
        count = stop - start
        return VisibleEdges(csr, node, start, count, count, torch.zeros_like(start), start.new_empty(0))
    sure = rank_at(csr, node, earlier_by(before, csr.max_delay[node])).clamp(start, stop)
    num_recent, recent_rank = torch.zeros_like(start), [start.new_empty(0)]
    for piece in pieces(stop - sure):
        query, rank = expand_ranges(sure[piece], (stop - sure)[piece])
        query = query + piece.start
        position = position_of(csr, node[query], rank)
        known_time = csr.look_up("edge_time", position) + csr.look_up("delay", position)
        known = known_time < before[query]
        num_recent[piece] = torch.bincount(query[known] - piece.start, minlength=piece.stop - piece.start)
        recent_rank.append(rank[known])
    num_sure = sure - start
    first_recent = num_recent.cumsum(0) - num_recent
    return VisibleEdges(
        csr, node, start, num_sure, num_sure + num_recent, first_recent, torch.cat(recent_rank)
    )


def use_compiled(engine: Engine, device: torch.device) -> bool:
    """Tell whether to run compiled loops: on the CPU, unless the torch engine is asked for.

    Raises:
        ValueError: an unknown engine, or compiled loops for a graph on a GPU.

    """
    if engine not in ("auto", "numba", "torch"):
        raise ValueError(f'engine must be "auto", "numba" or "torch", got {engine!r}')
    if engine == "numba" and device.type != "cpu":
        raise ValueError(f'engine="numba" runs on the CPU, the graph lies on {device}: use "auto" or "torch"')
    return engine != "torch" and device.type == "cpu"


def compiled_queries(node: Tensor, time: Tensor, bound: Bound, window: int | None) -> tuple[Any, ...]:
    """Return the arguments that compiled code takes for its queries: nodes, times, inclusive, window."""
    return node.contiguous().numpy(), time.contiguous().numpy(), bound == "inclusive", window or 0


def first_unseen_time(time: Tensor, bound: Bound) -> Tensor:
    """First time that is not seen; times are whole numbers, so ``<= time`` is ``< time + 1``."""
    return time if bound == "strict" else time + (time < _MAX_TIME)


def earlier_by(time: Tensor, length: Tensor | int) -> Tensor:
    """Time minus a length, without wrapping around."""
    return torch.where(time >= _MIN_TIME + length, time - length, _MIN_TIME)


def in_bound(edge_time: Tensor, time: Tensor, bound: Bound) -> Tensor:
    """Tell where an edge's time lies before a query's, or at it if the bound is inclusive."""
    return edge_time < time if bound == "strict" else edge_time <= time


def check_options(bound: str, window: int | None) -> None:
    """Raise ``ValueError`` unless the bound is known and the window positive."""
    if bound not in ("strict", "inclusive"):
        raise ValueError(f'bound must be "strict" or "inclusive", got {bound!r}')
    if window is not None and not (is_whole(window) and 0 < window <= _MAX_TIME):
        raise ValueError(
            f"window must be a positive whole length of time or None for no window, got {window!r}"
        )


def check_num_neighbors(num_neighbors: int) -> None:
    """Raise ``ValueError`` unless it is a count or -1 for all."""
    if not is_whole(num_neighbors) or num_neighbors < -1:
        raise ValueError(f"num_neighbors must be at least 0, or -1 for all, got {num_neighbors!r}")


def is_whole(value: object) -> bool:
    """Tell whether it is a whole number, of Python's or numpy's."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_queries(csr: TemporalCSR, node: Tensor, time: Tensor) -> None:
    """Raise ``ValueError`` unless each query has one time and a row of its own in the CSR."""
    check_column("seeds", node)
    check_column("times", time)
    if node.shape != time.shape:
        raise ValueError(f"each seed needs one time: got {len(node)} seeds, {len(time)} times")
    if node.device != csr.device or time.device != csr.device:
        raise ValueError(
            f"seeds and times must lie where the graph does, on {csr.device}, "
            f"got {node.device} and {time.device}"
        )
    check_ids("seed", node, csr.num_rows)


def bisect_rows(
    values: Tensor,
    low: Tensor,
    high: Tensor,
    target: Tensor,
    *,
    side: Literal["left", "right"],
) -> Tensor:
    """First place in [low, high) whose value is >= target (left) or > target (right), else ``high``.

    All queries step together, as often as the longest range needs. ``values`` must be sorted inside each
    range only.
    """
    if low.numel() == 0:
        return low.clone()
    longest = int((high - low).max())
    for _ in range(max(longest, 0).bit_length()):
        middle = (low + high) >> 1
        place = middle.clamp(max=len(values) - 1)  # a finished query may point behind the last edge
        value = values[place]
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
