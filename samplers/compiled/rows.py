"""Reading the rows of a TemporalCSR in compiled code: which edges a query sees, and where they lie.

A rank is an edge's place in its row, base and delta together, from 0. A position is its place in memory: the
delta's positions follow those of the base.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from samplers.compiled.jit import compiled
from samplers.csr import TemporalCSR
from samplers.edge_sort import CACHE_LINE, SAMPLING_STEP

RECORDS_PER_LINE = CACHE_LINE // 16  # narrow ones, of four words
MIN_TIME, MAX_TIME = np.iinfo(np.int64).min, np.iinfo(np.int64).max


class CSRArrays(NamedTuple):
    """The columns of a TemporalCSR as numpy arrays that share its memory; what it lacks is empty.

    ``words`` and ``times`` are both the records, as words of their size and as words of 8 bytes.
    """

    rowptr: np.ndarray
    words: np.ndarray
    times: np.ndarray
    sampled_time: np.ndarray
    time_guide: np.ndarray
    edge_weight: np.ndarray
    delay: np.ndarray
    max_delay: np.ndarray
    delta_rowptr: np.ndarray
    delta_words: np.ndarray
    delta_times: np.ndarray
    delta_sampled_time: np.ndarray
    delta_time_guide: np.ndarray
    delta_weight: np.ndarray
    delta_delay: np.ndarray
    delta_rank: np.ndarray
    num_base: int
    has_delay: bool
    has_delta: bool


def csr_arrays(csr: TemporalCSR) -> CSRArrays:
    """Return the arrays of a CSR on the CPU."""
    delta = csr.delta
    return CSRArrays(
        rowptr=csr.rowptr.contiguous().numpy(),
        words=_array(csr.records, np.int32),
        times=_array(csr.records.view(torch.int64), np.int64),
        sampled_time=_array(csr.sampled_time, np.int64),
        time_guide=_array(csr.time_guide, np.int32),
        edge_weight=_array(csr.edge_weight, np.float32),
        delay=_array(csr.delay, np.int32),
        max_delay=_array(csr.max_delay, np.int64),
        delta_rowptr=_array(None if delta is None else delta.rowptr, np.int64),
        delta_words=_array(None if delta is None else delta.records, np.int32),
        delta_times=_array(None if delta is None else delta.records.view(torch.int64), np.int64),
        delta_sampled_time=_array(None if delta is None else delta.sampled_time, np.int64),
        delta_time_guide=_array(None if delta is None else delta.time_guide, np.int32),
        delta_weight=_array(None if delta is None else delta.edge_weight, np.float32),
        delta_delay=_array(None if delta is None else delta.delay, np.int32),
        delta_rank=_array(csr.delta_rank, np.int64),
        num_base=len(csr.records),
        has_delay=csr.max_delay is not None,
        has_delta=delta is not None,
    )


def _array(column: Tensor | None, dtype: type) -> np.ndarray:
    return np.empty(0, dtype) if column is None else column.contiguous().flatten().numpy()


class Edges(NamedTuple):
    """Addresses of records. Of each edge, ``words`` has ``num_words`` and ``times`` has ``num_times``."""

    words: Any
    times: Any
    sampled_time: Any
    time_guide: Any
    num_words: int
    num_times: int


class CSRPointers(NamedTuple):
    """Addresses of a CSR's arrays. Arrays are counted references, which cost more than the reads."""

    rowptr: Any
    edges: Edges
    edge_weight: Any
    delay: Any
    max_delay: Any
    delta_rowptr: Any
    delta_edges: Edges
    delta_weight: Any
    delta_delay: Any
    delta_rank: Any
    num_base: int
    has_base_delay: bool
    has_delta_delay: bool
    has_delay: bool
    has_delta: bool


@intrinsic
def pointer_to(typing_context, array):
    """Address of a contiguous array's first value. It does not keep the array alive: see ``keep_alive``."""

    def generate(context, builder, signature, arguments):
        return context.make_array(array)(context, builder, value=arguments[0]).data

    return types.CPointer(array.dtype)(array), generate


@intrinsic
def pointer_like(typing_context, pointer, address):
    """Turn an address into a pointer of the same type as another."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[1], context.get_value_type(pointer))

    return pointer(pointer, types.int64), generate


@intrinsic
def pointer_plus(typing_context, pointer, index):
    """Address of ``pointer[index]``."""

    def generate(context, builder, signature, arguments):
        return builder.gep(arguments[0], [arguments[1]])

    return pointer(pointer, index), generate


@intrinsic
def keep_alive(typing_context, array):
    """Use an array made in compiled code once more, after its address: numba frees it behind this."""

    def generate(context, builder, signature, arguments):
        return context.get_dummy_value()

    return types.void(array), generate


@compiled
def pointers(csr):
    """Addresses of a CSR's arrays."""
    return CSRPointers(
        pointer_to(csr.rowptr),
        record_pointers(csr.words, csr.times, csr.sampled_time, csr.time_guide),
        pointer_to(csr.edge_weight),
        pointer_to(csr.delay),
        pointer_to(csr.max_delay),
        pointer_to(csr.delta_rowptr),
        record_pointers(csr.delta_words, csr.delta_times, csr.delta_sampled_time, csr.delta_time_guide),
        pointer_to(csr.delta_weight),
        pointer_to(csr.delta_delay),
        pointer_to(csr.delta_rank),
        csr.num_base,
        len(csr.delay) > 0,
        len(csr.delta_delay) > 0,
        csr.has_delay,
        csr.has_delta,
    )


@compiled
def record_pointers(words, times, sampled_time, time_guide):
    """Addresses of records."""
    narrow = words.itemsize == 4
    return Edges(
        pointer_to(words),
        pointer_to(times),
        pointer_to(sampled_time),
        pointer_to(time_guide),
        4 if narrow else 3,
        2 if narrow else 3,
    )


@compiled
def edge_col(edges, place):
    """Column of an edge."""
    return np.int64(edges.words[place * edges.num_words])


@compiled
def edge_id(edges, place):
    """Id of an edge."""
    return np.int64(edges.words[place * edges.num_words + 1])


@compiled
def edge_time(edges, place):
    """Time of an edge."""
    return edges.times[place * edges.num_times + edges.num_times - 1]


@intrinsic
def prefetch(typing_context, pointer, index):
    """Ask for the cache line of ``pointer[index]`` without waiting for it. Any address is harmless."""

    def generate(context, builder, signature, arguments):
        address, place = arguments
        line = builder.bitcast(builder.gep(address, [place]), ir.IntType(8).as_pointer())
        word = ir.IntType(32)
        declared = ir.FunctionType(ir.VoidType(), [line.type, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, declared, "llvm.prefetch.p0i8")
        # for reading, into L2, data: L2 waits for more lines at once than L1 does
        builder.call(function, [line, word(0), word(2), word(1)])
        return context.get_dummy_value()

    return types.void(pointer, index), generate


@compiled
def prefetch_back(edges, last, count):
    """Ask for the records of so many edges from place ``last`` back."""
    for j in range(0, count, RECORDS_PER_LINE):
        prefetch(edges.times, (last - j) * edges.num_times)
    if count > 0:  # which may lie on a line of its own
        prefetch(edges.times, (last - count + 1) * edges.num_times)


@compiled
def bisect_left(values, low, high, target):
    """First place in [low, high) whose value is >= target, else high. No branches: they would mispredict."""
    length = high - low
    while length > 1:
        half = length >> 1
        low += half * (values[low + half - 1] < target)
        length -= half
    return low + (length == 1 and values[low] < target)


@compiled
def bisect_time(edges, low, high, time):
    """First edge in [low, high) whose time is >= ``time``, else high."""
    length = high - low
    while length > 1:
        half = length >> 1
        low += half * (edge_time(edges, low + half - 1) < time)
        length -= half
    return low + (length == 1 and edge_time(edges, low) < time)


@compiled
def rank_at(csr, row, time):
    """Rank behind the edges of a row whose time lies before ``time``."""
    first = csr.rowptr[row]
    rank = bisect_time(csr.edges, first, csr.rowptr[row + 1], time) - first
    if csr.has_delta:
        first = csr.delta_rowptr[row]
        rank += bisect_time(csr.delta_edges, first, csr.delta_rowptr[row + 1], time) - first
    return rank


@compiled
def row_has_delta(csr, row):
    """Whether any of the row's edges lies in the delta."""
    return csr.has_delta and csr.delta_rowptr[row + 1] > csr.delta_rowptr[row]


@compiled
def position_of(csr, row, rank):
    """Position of the edge of this rank."""
    if not csr.has_delta:
        return csr.rowptr[row] + rank
    first, stop = csr.delta_rowptr[row], csr.delta_rowptr[row + 1]
    place = bisect_left(csr.delta_rank, first, stop, rank)
    if place < stop and csr.delta_rank[place] == rank:
        return csr.num_base + place
    return csr.rowptr[row] + rank - (place - first)


@compiled
def position_beside(csr, row, rank, place):
    """Do ``position_of`` without a search, for who walks through a row.

    ``place`` is that of the row's last delta edge up to this rank, or the one before the row's first.
    """
    first = csr.delta_rowptr[row] if csr.has_delta else np.int64(0)
    if place >= first and csr.delta_rank[place] == rank:
        return csr.num_base + place
    return csr.rowptr[row] + rank - (place + 1 - first)


@compiled
def col_at(csr, position):
    """Column of the edge at a position."""
    if csr.has_delta and position >= csr.num_base:
        return edge_col(csr.delta_edges, position - csr.num_base)
    return edge_col(csr.edges, position)


@compiled
def time_at(csr, position):
    """Time of the edge at a position."""
    if csr.has_delta and position >= csr.num_base:
        return edge_time(csr.delta_edges, position - csr.num_base)
    return edge_time(csr.edges, position)


@compiled
def id_at(csr, position):
    """Id of the edge at a position."""
    if csr.has_delta and position >= csr.num_base:
        return edge_id(csr.delta_edges, position - csr.num_base)
    return edge_id(csr.edges, position)


@compiled
def weight_at(csr, position):
    """Weight of the edge at a position."""
    if csr.has_delta and position >= csr.num_base:
        return np.float64(csr.delta_weight[position - csr.num_base])
    return np.float64(csr.edge_weight[position])


@compiled
def known_at(csr, position):
    """When the edge at a position became known."""
    time = time_at(csr, position)
    if csr.has_delta and position >= csr.num_base:
        place = position - csr.num_base
        return time + csr.delta_delay[place] if csr.has_delta_delay else time
    return time + csr.delay[position] if csr.has_base_delay else time


@compiled
def visible_ranks(csr, row, time, inclusive, window):
    """Ranks of the edges that a query may see: (start, sure, stop).

    [start, sure) are all seen; of those in [sure, stop) some may not be known yet (see ``is_known``).
    ``window`` is 0 for none.
    """
    before = first_unseen_time(time, inclusive)
    start = np.int64(0)
    stop = rank_at(csr, row, before)
    if window > 0:
        start = min(rank_at(csr, row, earlier_by(time, window)), stop)
    return start, sure_ranks(csr, row, start, stop, before), stop


@compiled
def sure_ranks(csr, row, start, stop, before):
    """Rank up to which all of [start, stop) are known before a time: older than the row's largest delay."""
    if not csr.has_delay or csr.max_delay[row] == 0:
        return stop
    return max(min(rank_at(csr, row, earlier_by(before, csr.max_delay[row])), stop), start)


@compiled
def first_unseen_time(time, inclusive):
    """First time that is not seen; times are whole numbers, so ``<= time`` is ``< time + 1``."""
    return time + 1 if inclusive and time < MAX_TIME else time


@compiled
def earlier_by(time, length):
    """Time minus a length, without wrapping around."""
    return time - length if time >= MIN_TIME + length else MIN_TIME


@compiled
def is_known(csr, row, rank, time, inclusive):
    """Whether the edge of this rank is known at ``time``."""
    return known_at(csr, position_of(csr, row, rank)) < first_unseen_time(time, inclusive)


@compiled
def count_visible(csr, row, time, inclusive, window):
    """How many edges a query may see."""
    start, sure, stop = visible_ranks(csr, row, time, inclusive, window)
    count = sure - start
    for rank in range(sure, stop):
        count += is_known(csr, row, rank, time, inclusive)
    return count


# Queries are looked up in blocks: a step of the search is made for the whole block before the next one, so
# that the cache misses of different queries overlap.
BLOCK = 32
FEW_SAMPLES = 8  # of a row, which are searched without its guide
BLOCK_COLUMNS = 8


class Block(NamedTuple):
    """Addresses of the ranks that each query of a block may see, as ``visible_ranks``; and of scratch."""

    start: Any
    sure: Any
    stop: Any
    num_delta: Any  # edges of the delta before ``stop``
    low: Any
    length: Any
    target: Any
    part: Any


@compiled
def open_block(scratch):
    """Divide scratch space of BLOCK_COLUMNS times BLOCK numbers."""
    return Block(
        pointer_to(scratch[0]),
        pointer_to(scratch[1]),
        pointer_to(scratch[2]),
        pointer_to(scratch[3]),
        pointer_to(scratch[4]),
        pointer_to(scratch[5]),
        pointer_to(scratch[6]),
        pointer_to(scratch[7]),
    )


@compiled
def narrow_by_guide(edges, block, num_queries):
    """Narrow each range of a row's sampled times to the part of the row's span that holds the target.

    See ``edge_sort.guide_times``: all samples before the part lie before the target, those behind it do not.
    """
    low, length, part = block.low, block.length, block.part
    for k in range(num_queries):
        prefetch(edges.sampled_time, low[k])
        if length[k] > FEW_SAMPLES:
            prefetch(edges.sampled_time, low[k] + length[k] - 1)
    for k in range(num_queries):
        if length[k] > FEW_SAMPLES:
            first = np.float64(edges.sampled_time[low[k]])
            last = np.float64(edges.sampled_time[low[k] + length[k] - 1])
            reached = (np.float64(block.target[k]) - first) * (length[k] / (last - first + 1))
            part[k] = np.int64(max(min(reached, np.float64(length[k] - 1)), 0.0))
            prefetch(edges.time_guide, low[k] + part[k])
    for k in range(num_queries):
        if length[k] > FEW_SAMPLES:
            place = low[k] + part[k]
            start = np.int64(edges.time_guide[place])
            stop = np.int64(edges.time_guide[place + 1]) if part[k] + 1 < length[k] else length[k]
            low[k] += start
            length[k] = stop - start
            prefetch(edges.sampled_time, low[k])


@compiled
def bisect_block(rowptr, edges, block, row, first, num_queries, rank):
    """Add to each ``rank`` the number of edges in the query's row whose time is below its target."""
    low, length, target = block.low, block.length, block.target
    for k in range(num_queries):
        prefetch(rowptr, row[first + k])
    for k in range(num_queries):
        begin, end = rowptr[row[first + k]], rowptr[row[first + k] + 1]
        rank[k] -= begin
        # sampled times of the row: of records begin <= 16 j < end
        low[k] = (begin + SAMPLING_STEP - 1) // SAMPLING_STEP
        length[k] = (end + SAMPLING_STEP - 1) // SAMPLING_STEP - low[k]
    narrow_by_guide(edges, block, num_queries)
    longest = np.int64(0)
    for k in range(num_queries):
        longest = max(longest, length[k])
    while longest > 1:
        for k in range(num_queries):
            half = length[k] >> 1
            if half:  # branches, as without them the loop becomes vector gathers, which are slower
                low[k] += half * (edges.sampled_time[low[k] + half - 1] < target[k])
                length[k] -= half
        longest -= longest >> 1
    for k in range(num_queries):
        begin, end = rowptr[row[first + k]], rowptr[row[first + k] + 1]
        if length[k] and edges.sampled_time[low[k]] < target[k]:
            low[k] += 1
        # the sample before low[k] is below the target, the one at it is not: go on between them
        stop = min(low[k] * SAMPLING_STEP, end)
        low[k] = max((low[k] - 1) * SAMPLING_STEP + 1, begin)
        length[k] = stop - low[k]
        prefetch_back(edges, stop - 1, length[k])
    longest = np.int64(SAMPLING_STEP)
    while longest > 1:
        for k in range(num_queries):
            half = length[k] >> 1
            if half:
                low[k] += half * (edge_time(edges, low[k] + half - 1) < target[k])
                length[k] -= half
        longest -= longest >> 1
    for k in range(num_queries):
        if length[k] > 0 and edge_time(edges, low[k]) < target[k]:
            low[k] += 1
        rank[k] += low[k]


@compiled
def rank_block(csr, block, row, first, num_queries, rank):
    """Set each ``rank`` to that behind the edges of the query's row whose time lies before its target."""
    for k in range(num_queries):
        rank[k] = 0
    bisect_block(csr.rowptr, csr.edges, block, row, first, num_queries, rank)
    if csr.has_delta:
        bisect_block(csr.delta_rowptr, csr.delta_edges, block, row, first, num_queries, rank)


@compiled
def visible_block(csr, block, row, time, first, num_queries, inclusive, window):
    """Do ``visible_ranks`` for the queries first, ..., first + num_queries - 1."""
    for k in range(num_queries):
        block.target[k] = first_unseen_time(time[first + k], inclusive)
        block.stop[k] = 0
        block.num_delta[k] = 0
    bisect_block(csr.rowptr, csr.edges, block, row, first, num_queries, block.stop)
    if csr.has_delta:
        bisect_block(csr.delta_rowptr, csr.delta_edges, block, row, first, num_queries, block.num_delta)
        for k in range(num_queries):
            block.stop[k] += block.num_delta[k]
    if window > 0:
        for k in range(num_queries):
            block.target[k] = earlier_by(time[first + k], window)
        rank_block(csr, block, row, first, num_queries, block.start)
    else:
        for k in range(num_queries):
            block.start[k] = 0
    if csr.has_delay:
        for k in range(num_queries):
            before = first_unseen_time(time[first + k], inclusive)
            block.target[k] = earlier_by(before, csr.max_delay[row[first + k]])
        rank_block(csr, block, row, first, num_queries, block.sure)
    for k in range(num_queries):
        block.start[k] = min(block.start[k], block.stop[k])
        block.sure[k] = (
            max(min(block.sure[k], block.stop[k]), block.start[k]) if csr.has_delay else block.stop[k]
        )
