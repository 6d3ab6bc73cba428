"""Random walks in compiled code: a block of walks steps together, so that their cache misses overlap."""

from typing import Any, NamedTuple

import numpy as np

from samplers.compiled.jit import compiled
from samplers.compiled.numbers import mix, uniform
from samplers.compiled.rows import (
    BLOCK_COLUMNS,
    MIN_TIME,
    CSRArrays,
    CSRPointers,
    Edges,
    bisect_left,
    col_at,
    earlier_by,
    first_unseen_time,
    keep_alive,
    known_at,
    open_block,
    pointer_like,
    pointer_to,
    pointers,
    position_of,
    prefetch,
    rank_block,
    time_at,
)
from samplers.csr import TemporalCSR
from samplers.pairs import pair_columns

FORWARD, BACKWARD = 1, 2
NUM_WALKS = 128  # walks in a block
NUM_SINGLE = 20  # columns of Work with one value for each walk
NUM_FIELDS = 27
SOURCE_CODE, RANGES, PAIRS = 19, 20, 21  # fields of the table


class WalkTable(NamedTuple):
    """Several CSRs as numbers: compiled code cannot choose among arrays of several types by an index.

    ``table`` has a row for each CSR: addresses of its columns, flags, and the code of the type its columns
    name. ``columns`` keeps alive what the addresses point to, and all CSRs have columns of the dtypes of
    ``like``.
    """

    like: CSRArrays
    table: np.ndarray
    columns: list[np.ndarray]


def walk_table(
    csrs: list[TemporalCSR], source_code: list[int], *, with_ranges: bool, with_pairs: bool
) -> WalkTable:
    """Describe CSRs to ``walk``.

    Args:
        csrs: on the CPU.
        source_code: the code of each one's source type.
        with_ranges: all walks of the call ask each row for the same edges, so what a row shows is kept.
        with_pairs: for the second order, which asks whether two nodes share an edge.

    """
    arrays = _of_equal_dtypes([csr.arrays for csr in csrs])
    columns: list[np.ndarray] = []

    def address(column: np.ndarray | None) -> int:
        if column is None or len(column) == 0:
            return 0
        columns.append(column)
        return int(column.ctypes.data)

    table = np.zeros((len(csrs), NUM_FIELDS), np.int64)
    for i, (csr, a) in enumerate(zip(csrs, arrays, strict=True)):
        table[i, :14] = [
            address(column)
            for column in (
                a.rowptr, a.words, a.times, a.sampled_time, a.time_guide, a.delay, a.max_delay,
                a.delta_rowptr, a.delta_words, a.delta_times, a.delta_sampled_time, a.delta_time_guide,
                a.delta_delay, a.delta_rank,
            )
        ]  # fmt: skip
        table[i, 14:20] = (
            a.num_base, len(a.delay) > 0, len(a.delta_delay) > 0, a.has_delay, a.has_delta, source_code[i],
        )  # fmt: skip
        if with_ranges and not a.has_delay and csr.num_edges < 2**31:
            table[i, RANGES] = address(np.zeros(csr.num_rows, np.int64))
        if with_pairs:
            for k, part in enumerate(pair_columns(csr)):  # the base, then the delta
                at = PAIRS + 3 * k
                col = part.col.numpy().astype((a.words, a.delta_words)[k].dtype, copy=False)
                known = None if part.known_time is None else part.known_time.numpy()
                table[i, at : at + 3] = address(col), address(part.edge_time.numpy()), address(known)
    return WalkTable(arrays[0], table, columns)


def _of_equal_dtypes(arrays: list[CSRArrays]) -> list[CSRArrays]:
    """Widen what is narrow in one CSR and wide in another, which has ids of 2^31 or more."""
    wide = {
        name: np.result_type(*(getattr(a, name).dtype for a in arrays))
        for name in ("words", "delay", "delta_words", "delta_delay")
    }
    widened = []
    for a in arrays:
        changed = {name: getattr(a, name).astype(wide[name], copy=False) for name in ("delay", "delta_delay")}
        for words, times in (("words", "times"), ("delta_words", "delta_times")):
            if getattr(a, words).dtype != wide[words]:
                records = np.empty((len(getattr(a, words)) // 4, 3), np.int64)
                records[:, :2] = getattr(a, words).reshape(-1, 4)[:, :2]
                records[:, 2] = getattr(a, times).reshape(-1, 2)[:, 1]
                changed[words] = changed[times] = records.ravel()
        widened.append(a._replace(**changed))
    return widened


@compiled
def edges_like(edges, table, at):
    """Point to records of the same dtype as others."""
    return Edges(
        pointer_like(edges.words, table[at]),
        pointer_like(edges.times, table[at + 1]),
        pointer_like(edges.sampled_time, table[at + 2]),
        pointer_like(edges.time_guide, table[at + 3]),
        edges.num_words,
        edges.num_times,
    )


@compiled
def csr_of(like, table, e):
    """Open the CSR of a row of the table."""
    at = e * NUM_FIELDS
    return CSRPointers(
        pointer_like(like.rowptr, table[at]),
        edges_like(like.edges, table, at + 1),
        like.edge_weight,  # not looked at
        pointer_like(like.delay, table[at + 5]),
        pointer_like(like.max_delay, table[at + 6]),
        pointer_like(like.delta_rowptr, table[at + 7]),
        edges_like(like.delta_edges, table, at + 8),
        like.delta_weight,
        pointer_like(like.delta_delay, table[at + 12]),
        pointer_like(like.delta_rank, table[at + 13]),
        table[at + 14],
        table[at + 15] != 0,
        table[at + 16] != 0,
        table[at + 17] != 0,
        table[at + 18] != 0,
    )


class Work(NamedTuple):
    """Addresses of what is known of each walk of a block; the last four fields: of each of its slots.

    A slot is one of the edge types that a walk may leave its node by.
    """

    node: Any
    code: Any
    last_node: Any
    last_code: Any
    last_time: Any
    state: Any
    before: Any
    low: Any
    total: Any
    slot: Any
    number: Any
    next_node: Any
    next_code: Any
    next_time: Any
    member: Any
    open: Any
    alive: Any
    moved: Any
    pending: Any
    row: Any
    start: Any
    sure: Any
    stop: Any
    count: Any


@compiled
def open_work(scratch, num_slots):
    """Divide scratch space of (NUM_SINGLE + 4 * num_slots, NUM_WALKS) numbers."""
    return Work(
        pointer_to(scratch[0]),
        pointer_to(scratch[1]),
        pointer_to(scratch[2]),
        pointer_to(scratch[3]),
        pointer_to(scratch[4]),
        pointer_to(scratch[5]),
        pointer_to(scratch[6]),
        pointer_to(scratch[7]),
        pointer_to(scratch[8]),
        pointer_to(scratch[9]),
        pointer_to(scratch[10]),
        pointer_to(scratch[11]),
        pointer_to(scratch[12]),
        pointer_to(scratch[13]),
        pointer_to(scratch[14]),
        pointer_to(scratch[15]),
        pointer_to(scratch[16]),
        pointer_to(scratch[17]),
        pointer_to(scratch[18]),
        pointer_to(scratch[19]),
        pointer_to(scratch[NUM_SINGLE]),
        pointer_to(scratch[NUM_SINGLE + num_slots]),
        pointer_to(scratch[NUM_SINGLE + 2 * num_slots]),
        pointer_to(scratch[NUM_SINGLE + 3 * num_slots]),
    )


@compiled
def find_ranges(csr, cache, has_cache, block, work, slot, num_members, low_kind, direction):
    """Find the ranks that each member may take and count them, by the rules of ``visible_edges``."""
    at = slot * NUM_WALKS
    for j in range(num_members):
        prefetch(csr.rowptr, work.node[work.member[j]])
        if has_cache:
            prefetch(cache, work.node[work.member[j]])
    num_pending = 0
    for j in range(num_members):
        k = work.member[j]
        packed = cache[work.node[k]] if has_cache else np.int64(0)
        if packed:
            work.start[at + k] = packed >> 32
            work.stop[at + k] = (packed & 0xFFFFFFFF) - 1
            work.sure[at + k] = work.stop[at + k]
            work.count[at + k] = work.stop[at + k] - work.start[at + k]
        else:
            work.pending[num_pending] = k
            work.row[num_pending] = work.node[k]
            num_pending += 1
    if num_pending == 0:
        return
    for j in range(num_pending):
        k = work.pending[j]
        block.target[j] = min(work.before[k], work.last_time[k]) if direction == BACKWARD else work.before[k]
    rank_block(csr, block, work.row, 0, num_pending, block.stop)
    for j in range(num_pending):
        k = work.pending[j]
        block.start[j] = 0
        block.target[j] = work.low[k]
        if direction == FORWARD:
            block.target[j] = max(work.low[k], work.last_time[k] + 1)
    if low_kind:
        rank_block(csr, block, work.row, 0, num_pending, block.start)
    if csr.has_delay:
        for j in range(num_pending):
            block.target[j] = earlier_by(work.before[work.pending[j]], csr.max_delay[work.row[j]])
        rank_block(csr, block, work.row, 0, num_pending, block.sure)
    for j in range(num_pending):
        k, node, end = work.pending[j], work.row[j], block.stop[j]
        start = min(block.start[j], end)
        sure = max(min(block.sure[j], end), start) if csr.has_delay else end
        count = sure - start
        for rank in range(sure, end):
            count += known_at(csr, position_of(csr, node, rank)) < work.before[k]
        work.start[at + k], work.sure[at + k], work.stop[at + k] = start, sure, end
        work.count[at + k] = count
        if has_cache:  # one store, so that another thread sees all of it or nothing
            cache[node] = (start << 32) | (end + 1)


@compiled
def rank_of_number(csr, work, at, k, number):
    """Rank of the edge with this number among those that a walk sees."""
    start, sure = work.start[at + k], work.sure[at + k]
    if number < sure - start:
        return start + number
    passed, rank = sure - start, sure
    while True:  # walk up the edges that may be unknown, counting the known
        if known_at(csr, position_of(csr, work.node[k], rank)) < work.before[k]:
            if passed == number:
                return rank
            passed += 1
        rank += 1


@compiled
def has_pair(csr, table, e, row, col, low, before):
    """Whether a visible edge joins row and column: ``samplers.pairs.shares_visible_edge`` for one pair."""
    at = e * NUM_FIELDS + PAIRS
    columns = (
        pointer_like(csr.edges.words, table[at]),
        pointer_like(csr.rowptr, table[at + 1]),
        pointer_like(csr.rowptr, table[at + 2]),
    )
    if part_has_pair(columns, table[at + 2] != 0, csr.rowptr[row], csr.rowptr[row + 1], col, low, before):
        return True
    if not csr.has_delta:
        return False
    delta_columns = (
        pointer_like(csr.delta_edges.words, table[at + 3]),
        pointer_like(csr.rowptr, table[at + 4]),
        pointer_like(csr.rowptr, table[at + 5]),
    )
    first, stop = csr.delta_rowptr[row], csr.delta_rowptr[row + 1]
    return part_has_pair(delta_columns, table[at + 5] != 0, first, stop, col, low, before)


@compiled
def part_has_pair(columns, has_known, first, stop, col, low, before):
    """``has_pair`` for the base or the delta alone, between two positions."""
    cols, times, known = columns
    first = bisect_left(cols, first, stop, col)
    while first < stop and cols[first] == col and times[first] < low:
        first += 1
    while first < stop and cols[first] == col and times[first] < before:
        if not has_known or known[first] < before:
            return True
        first += 1
    return False


@compiled
def accepts(like, table, close_ptr, close, num_codes, work, k, step_state, weights):
    """Whether a walk takes the step that it drew, by the weights of node2vec."""
    back, far, most = weights
    threshold = uniform(mix(step_state, np.int64(1))) * most
    if work.next_node[k] == work.last_node[k] and work.next_code[k] == work.last_code[k]:
        return threshold < back
    if threshold < min(1.0, far):
        return True
    if threshold >= max(1.0, far):
        return False
    types = work.last_code[k] * num_codes + work.next_code[k]
    for i in range(close_ptr[types], close_ptr[types + 1]):
        csr = csr_of(like, table, close[i])
        if has_pair(csr, table, close[i], work.last_node[k], work.next_node[k], work.low[k], work.before[k]):
            return threshold < 1.0
    return threshold < far


@compiled
def draw_steps(like, table, leaving, first, num_slots, work, num_open, step, attempt):
    """Draw one of the edges that each open walk may take, and read where it leads."""
    for j in range(num_open):
        k = work.open[j]
        step_state = mix(np.uint64(work.state[k]), np.int64(step))
        if attempt >= 0:
            step_state = mix(step_state, np.int64(attempt))
        number = np.int64(uniform(step_state) * work.total[k])
        slot = 0
        while number >= work.count[slot * NUM_WALKS + k]:
            number -= work.count[slot * NUM_WALKS + k]
            slot += 1
        work.slot[k], work.number[k] = slot, number
    for slot in range(num_slots):
        csr = csr_of(like, table, leaving[first + slot])
        for j in range(num_open):
            k = work.open[j]
            if work.slot[k] == slot:
                rank = rank_of_number(csr, work, slot * NUM_WALKS, k, work.number[k])
                position = position_of(csr, work.node[k], rank)
                work.number[k] = position
                prefetch(csr.edges.words, position * csr.edges.num_words)
    for slot in range(num_slots):
        csr = csr_of(like, table, leaving[first + slot])
        for j in range(num_open):
            k = work.open[j]
            if work.slot[k] == slot:
                work.next_node[k] = col_at(csr, work.number[k])
                work.next_time[k] = time_at(csr, work.number[k])
                work.next_code[k] = table[leaving[first + slot] * NUM_FIELDS + SOURCE_CODE]


@compiled
def walk(
    first,
    stop,
    like_arrays,
    table_array,
    num_codes,
    num_patterns,
    num_slots,
    leaving_array,
    close_array,
    start_array,
    as_of_array,
    start_code,
    walks_per_node,
    inclusive,
    window,
    direction,
    second_order,
    weights,
    state,
    by_place,
    out,
):
    """Make the walks first, ..., stop - 1; ``samplers.random_walk`` has the rules and the arguments."""
    like, table = pointers(like_arrays), pointer_to(table_array)
    leaving_ptr, leaving = pointer_to(leaving_array[0]), pointer_to(leaving_array[1])
    close_ptr, close = pointer_to(close_array[0]), pointer_to(close_array[1])
    starts, as_of = pointer_to(start_array), pointer_to(as_of_array)
    out_node, out_type, out_mask = pointer_to(out[0]), pointer_to(out[1]), pointer_to(out[2])
    length = out[0].shape[1]
    block_scratch = np.empty((BLOCK_COLUMNS, NUM_WALKS), np.int64)
    scratch = np.empty((NUM_SINGLE + 4 * num_slots, NUM_WALKS), np.int64)
    block, work = open_block(block_scratch), open_work(scratch, num_slots)
    for begin in range(first, stop, NUM_WALKS):
        num_alive = min(NUM_WALKS, stop - begin)
        for k in range(num_alive):
            i = begin + k
            node, time = starts[i // walks_per_node], as_of[i // walks_per_node]
            key = mix(state, np.int64(i))
            if not by_place:
                key = mix(mix(mix(state, node), time), np.int64(i % walks_per_node))
            work.state[k] = np.int64(key)
            work.node[k], work.code[k] = node, start_code
            work.last_node[k], work.last_code[k] = -1, -1
            work.before[k] = first_unseen_time(time, inclusive)
            work.low[k] = earlier_by(time, window) if window > 0 else MIN_TIME
            work.last_time[k] = 0
            work.alive[k] = k
            out_node[i * length], out_type[i * length], out_mask[i * length] = node, start_code, 1
        for j in range(num_alive):
            for at in range((begin + j) * length + 1, (begin + j + 1) * length):
                out_node[at], out_type[at], out_mask[at] = 0, 0, 0
        for step in range(1, length):
            pattern = (step - 1) % num_patterns
            towards = direction if step > 1 else 0
            num_left = 0  # walks that are still alive after this step: ``open`` holds those of one type
            for code in range(num_codes):
                first_slot = leaving_ptr[pattern * num_codes + code]
                slots = leaving_ptr[pattern * num_codes + code + 1] - first_slot
                num_members = 0
                for j in range(num_alive):
                    k = work.alive[j]
                    if work.code[k] == code:
                        work.member[num_members] = k
                        num_members += 1
                if num_members == 0 or slots == 0:
                    continue
                for slot in range(slots):
                    e = leaving[first_slot + slot]
                    cache = pointer_like(like.rowptr, table[e * NUM_FIELDS + RANGES])
                    has_cache = table[e * NUM_FIELDS + RANGES] != 0
                    has_low = window > 0 or towards == FORWARD
                    csr = csr_of(like, table, e)
                    find_ranges(csr, cache, has_cache, block, work, slot, num_members, has_low, towards)
                num_open = 0
                for j in range(num_members):
                    k = work.member[j]
                    total = np.int64(0)
                    for slot in range(slots):
                        total += work.count[slot * NUM_WALKS + k]
                    work.total[k] = total
                    if total:
                        work.open[num_open] = k
                        num_open += 1
                num_members = num_open
                for j in range(num_open):
                    work.member[j] = work.open[j]
                if not second_order or step == 1:
                    draw_steps(like, table, leaving, first_slot, slots, work, num_open, step, -1)
                else:
                    attempt = 0
                    while num_open:
                        draw_steps(like, table, leaving, first_slot, slots, work, num_open, step, attempt)
                        still_open = 0
                        for j in range(num_open):
                            k = work.open[j]
                            drawn = mix(mix(np.uint64(work.state[k]), np.int64(step)), np.int64(attempt))
                            if not accepts(like, table, close_ptr, close, num_codes, work, k, drawn, weights):
                                work.open[still_open] = k
                                still_open += 1
                        num_open = still_open
                        attempt += 1
                for j in range(num_members):
                    work.moved[num_left] = work.member[j]
                    num_left += 1
            num_alive = num_left
            for j in range(num_alive):
                k = work.moved[j]
                work.alive[j] = k
                work.last_node[k], work.last_code[k] = work.node[k], work.code[k]
                work.node[k], work.code[k] = work.next_node[k], work.next_code[k]
                work.last_time[k] = work.next_time[k]
                at = (begin + k) * length + step
                out_node[at], out_type[at], out_mask[at] = work.node[k], work.code[k], 1
    keep_alive(block_scratch)
    keep_alive(scratch)
