"""The one-hop strategies, a query at a time."""

from typing import Any, NamedTuple

import numpy as np

from samplers.compiled.jit import compiled
from samplers.compiled.numbers import fixed_point_exp2, log2, lowest_bit, mix, num_bits, query_state, uniform
from samplers.compiled.rows import (
    BLOCK,
    BLOCK_COLUMNS,
    col_at,
    count_visible,
    edge_col,
    edge_id,
    edge_time,
    first_unseen_time,
    id_at,
    is_known,
    keep_alive,
    known_at,
    open_block,
    pointer_plus,
    pointer_to,
    pointers,
    position_beside,
    position_of,
    prefetch,
    prefetch_back,
    row_has_delta,
    time_at,
    visible_block,
    weight_at,
)

EDGE_WEIGHT, DEGREE, RECENCY = 0, 1, 2
FEW_BITS = 4  # of a word of bins; most have no more
LAST_BIT = np.uint64(1 << 63)


class Slots(NamedTuple):
    """Addresses of the result's columns; slot j of query i is at ``i * width + j``."""

    node: Any
    edge_time: Any
    edge_id: Any
    mask: Any
    width: int


@compiled
def open_slots(out):
    """Addresses of the arrays of a result."""
    node, edge_time, edge_id, mask = out
    return Slots(
        pointer_to(node), pointer_to(edge_time), pointer_to(edge_id), pointer_to(mask), node.shape[1]
    )


@compiled
def count_edges(first, stop, arrays, seed, seed_time, inclusive, window, count):
    """How many edges each query may see."""
    csr = pointers(arrays)
    row, times = pointer_to(seed), pointer_to(seed_time)
    scratch = np.empty((BLOCK_COLUMNS, BLOCK), np.int64)
    block = open_block(scratch)
    for begin in range(first, stop, BLOCK):
        size = min(BLOCK, stop - begin)
        visible_block(csr, block, row, times, begin, size, inclusive, window)
        for k in range(size):
            count[begin + k] = num_visible(csr, block, k, row[begin + k], times[begin + k], inclusive)
    keep_alive(scratch)


@compiled
def num_visible(csr, block, k, row, time, inclusive):
    """How many edges query k of a block sees."""
    count = block.sure[k] - block.start[k]
    for rank in range(block.sure[k], block.stop[k]):
        count += is_known(csr, row, rank, time, inclusive)
    return count


@compiled
def write_slot(csr, position, slots, at):
    """Copy an edge to a slot of the result."""
    slots.node[at] = col_at(csr, position)
    slots.edge_time[at] = time_at(csr, position)
    slots.edge_id[at] = id_at(csr, position)
    slots.mask[at] = 1


@compiled
def pad(slots, at, stop):
    """Fill slots with padding. One loop, as four would become calls that cost more than the few writes."""
    for j in range(at, stop):
        slots.node[j] = 0
        slots.edge_time[j] = 0
        slots.edge_id[j] = 0
        slots.mask[j] = 0


@compiled
def write_back(csr, last, count, slots, at):
    """Copy base edges to slots from position ``last`` back; return how many."""
    if csr.edges.num_words == 4:  # steps that are known when this is compiled: it becomes vector loads
        for j in range(count):
            word = csr.edges.times[2 * (last - j)]  # column, then id, 4 bytes each
            slots.node[at + j] = word & 0xFFFFFFFF
            slots.edge_id[at + j] = word >> 32
            slots.edge_time[at + j] = csr.edges.times[2 * (last - j) + 1]
    else:
        for j in range(count):
            slots.node[at + j] = edge_col(csr.edges, last - j)
            slots.edge_time[at + j] = edge_time(csr.edges, last - j)
            slots.edge_id[at + j] = edge_id(csr.edges, last - j)
    for j in range(count):
        slots.mask[at + j] = 1
    return count


@compiled
def recent(first, stop, arrays, seed, seed_time, inclusive, window, out):
    """Walk back from the end of what each query sees."""
    csr, slots = pointers(arrays), open_slots(out)
    row, times = pointer_to(seed), pointer_to(seed_time)
    scratch = np.empty((BLOCK_COLUMNS, BLOCK), np.int64)
    block = open_block(scratch)
    width = slots.width
    for begin in range(first, stop, BLOCK):
        size = min(BLOCK, stop - begin)
        visible_block(csr, block, row, times, begin, size, inclusive, window)
        for k in range(size):
            num_delta = block.num_delta[k]
            last = csr.rowptr[row[begin + k]] + block.stop[k] - num_delta - 1
            prefetch_back(csr.edges, last, min(width, block.stop[k] - block.start[k]))
            if num_delta:
                last = csr.delta_rowptr[row[begin + k]] + num_delta - 1
                prefetch(csr.delta_rank, last)
                prefetch_back(csr.delta_edges, last, min(width, num_delta))
        for k in range(size):
            node, time = row[begin + k], times[begin + k]
            start, sure, end = block.start[k], block.sure[k], block.stop[k]
            at, after = (begin + k) * width, (begin + k + 1) * width
            if block.num_delta[k] > 0 or sure < end:
                rank = end - 1
                place = block.num_delta[k] - 1
                if csr.has_delta:
                    place += csr.delta_rowptr[node]
                before = first_unseen_time(time, inclusive)
                while at < after and rank >= start:
                    position = position_beside(csr, node, rank, place)
                    if rank < sure or known_at(csr, position) < before:
                        write_slot(csr, position, slots, at)
                        at += 1
                    place -= position >= csr.num_base
                    rank -= 1
            else:
                at += write_back(csr, csr.rowptr[node] + end - 1, min(width, end - start), slots, at)
            pad(slots, at, after)
    keep_alive(scratch)


@compiled
def ranks_of_numbers(csr, block, k, row, time, inclusive, number, count):
    """Turn ascending numbers among the edges that query k of a block sees into ranks, in place."""
    start, sure = block.start[k], block.sure[k]
    num_sure = sure - start
    if sure == block.stop[k]:
        for j in range(count):
            number[j] += start
        return
    j = 0
    while j < count and number[j] < num_sure:
        number[j] += start
        j += 1
    rank, passed = sure, num_sure  # walk up the edges that may be unknown, counting the known
    while j < count:
        if is_known(csr, row, rank, time, inclusive):
            while j < count and number[j] == passed:
                number[j] = rank
                j += 1
            passed += 1
        rank += 1


@compiled
def prefetch_ranks(csr, row, rank, count):
    """Ask for the edges of these ranks, while other queries are worked on."""
    base = csr.rowptr[row]
    for j in range(count):
        prefetch(csr.edges.times, (base + rank[j]) * csr.edges.num_times)


@compiled
def write_ranks(csr, row, rank, count, slots, at):
    """Copy the edges of ascending ranks to a query's slots, the last first."""
    last = count - 1
    if row_has_delta(csr, row):
        for j in range(count):
            write_slot(csr, position_of(csr, row, rank[last - j]), slots, at + j)
    else:
        base = csr.rowptr[row]
        for j in range(count):
            place = base + rank[last - j]
            slots.node[at + j] = edge_col(csr.edges, place)
            slots.edge_time[at + j] = edge_time(csr.edges, place)
            slots.edge_id[at + j] = edge_id(csr.edges, place)
            slots.mask[at + j] = 1
    pad(slots, at + count, at + slots.width)


@compiled
def insert(values, size, value):
    """Put a value into the ascending ``values[:size]``."""
    while size > 0 and values[size - 1] > value:
        values[size] = values[size - 1]
        size -= 1
    values[size] = value


class Bins(NamedTuple):
    """Addresses of scratch space that sorts drawn numbers as they come.

    ``held[b]`` is the one number of bin b, where bit b of ``bits`` is set. There are 32 bins a slot or more,
    so few numbers find theirs taken; those go to ``spilled``.
    """

    bits: Any
    held: Any
    spilled: Any
    num_bins: int


@compiled
def count_bins(width):
    """How many bins to have for so many slots: a power of two."""
    num_bins = 64
    while num_bins < 32 * width:
        num_bins *= 2
    return num_bins


@compiled
def draw_distinct(number, width, count, query, bins):
    """Draw ``width`` of the numbers below ``count`` by Floyd's algorithm, ascending; all if no more.

    ``number`` has room for FEW_BITS more, which are overwritten.
    """
    if count <= width:
        for j in range(count):
            number[j] = j
        return count
    for slot in range(width):  # a loop of its own, which becomes vector code
        number[slot] = np.int64(uniform(mix(query, np.int64(slot))) * (count - width + slot + 1))
    if count <= 64:  # a bit of one word for each number, which stays in a register
        bits = np.uint64(0)
        for slot in range(width):
            before = bits
            bits |= np.uint64(1) << np.uint64(number[slot])
            bits |= np.uint64(bits == before) << np.uint64(count - width + slot)  # taken: the last
        for size in range(width):
            number[size] = lowest_bit(bits)
            bits &= bits - np.uint64(1)
        return width
    # 2^shift numbers that follow each other share a bin
    shift = max(num_bits(np.uint64(count - 1)) - num_bits(np.uint64(bins.num_bins - 1)), 0)
    num_words = ((count - 1) >> (shift + 6)) + 1
    for word in range(num_words):
        bins.bits[word] = np.uint64(0)
    num_spilled = 0
    for slot in range(width):
        last, drawn = count - width + slot, number[slot]
        place = drawn >> shift
        if bins.bits[place >> 6] >> np.uint64(place & 63) & np.uint64(1):
            is_taken = bins.held[place] == drawn
            for j in range(num_spilled):
                is_taken |= bins.spilled[j] == drawn
            if is_taken:
                drawn = last  # above all that were drawn
                place = drawn >> shift
        if bins.bits[place >> 6] >> np.uint64(place & 63) & np.uint64(1):
            bins.spilled[num_spilled] = drawn
            num_spilled += 1
        else:
            bins.bits[place >> 6] |= np.uint64(1) << np.uint64(place & 63)
            bins.held[place] = drawn
    size = 0
    for word in range(num_words):
        bits, end = bins.bits[word], size
        for j in range(FEW_BITS):  # without asking whether there are so many: the answer is not foreseen
            number[size + j] = bins.held[(word << 6) + lowest_bit(bits | LAST_BIT)]
            end += bits != 0
            bits &= bits - np.uint64(1)
        while bits:
            number[end] = bins.held[(word << 6) + lowest_bit(bits)]
            end += 1
            bits &= bits - np.uint64(1)
        size = end
    for j in range(num_spilled):
        insert(number, size + j, bins.spilled[j])
    return width


@compiled
def draw_any(number, width, count, query):
    """Draw ``width`` numbers below ``count`` independently, ascending; none if it is 0."""
    if count == 0:
        return 0
    for slot in range(width):
        insert(number, slot, np.int64(uniform(mix(query, np.int64(slot))) * count))
    return width


@compiled
def draw_uniform(first, stop, arrays, seed, seed_time, inclusive, window, replace, state, by_place, out):
    """Draw from what each query sees, all edges equally likely."""
    csr, slots = pointers(arrays), open_slots(out)
    row, times = pointer_to(seed), pointer_to(seed_time)
    scratch = np.empty((BLOCK_COLUMNS, BLOCK), np.int64)
    block = open_block(scratch)
    width = slots.width
    rank_array, count_array = np.empty(BLOCK * width + FEW_BITS, np.int64), np.empty(BLOCK, np.int64)
    ranks, num_drawn = pointer_to(rank_array), pointer_to(count_array)
    num_bins = count_bins(width)
    bit_array, held_array = np.empty(num_bins >> 6, np.uint64), np.empty(num_bins, np.int64)
    spilled_array = np.empty(width, np.int64)
    bins = Bins(pointer_to(bit_array), pointer_to(held_array), pointer_to(spilled_array), num_bins)
    for begin in range(first, stop, BLOCK):
        size = min(BLOCK, stop - begin)
        visible_block(csr, block, row, times, begin, size, inclusive, window)
        for k in range(size):
            node, time = row[begin + k], times[begin + k]
            rank = pointer_plus(ranks, k * width)
            count = num_visible(csr, block, k, node, time, inclusive)
            if not replace and count <= width and block.num_delta[k] == 0 and block.sure[k] == block.stop[k]:
                num_drawn[k] = -1  # all of them, which lie side by side
                prefetch_back(csr.edges, csr.rowptr[node] + block.stop[k] - 1, count)
                continue
            query = query_state(state, begin + k, node, time, by_place)
            if replace:
                num_drawn[k] = draw_any(rank, width, count, query)
            else:
                num_drawn[k] = draw_distinct(rank, width, count, query, bins)
            ranks_of_numbers(csr, block, k, node, time, inclusive, rank, num_drawn[k])
            prefetch_ranks(csr, node, rank, num_drawn[k])
        for k in range(size):
            node, at = row[begin + k], (begin + k) * width
            if num_drawn[k] < 0:
                last = csr.rowptr[node] + block.stop[k] - 1
                count = write_back(csr, last, block.stop[k] - block.start[k], slots, at)
                pad(slots, at + count, at + width)
            else:
                write_ranks(csr, node, pointer_plus(ranks, k * width), num_drawn[k], slots, at)
    keep_alive(scratch)
    keep_alive(rank_array)
    keep_alive(count_array)
    keep_alive(bit_array)
    keep_alive(held_array)
    keep_alive(spilled_array)


@compiled
def raw_weight(csr, reverse, kind, row, rank, time, inclusive):
    """Return what the weight of an edge is made of: its weight, its neighbour's degree, or its age."""
    position = position_of(csr, row, rank)
    if kind == EDGE_WEIGHT:
        return weight_at(csr, position)
    if kind == DEGREE:
        return np.float64(count_visible(reverse, col_at(csr, position), time, inclusive, np.int64(0)))
    return np.float64(time - time_at(csr, position))


@compiled
def keep_distinct(csr, reverse, kind, half_life, block, k, row, time, inclusive, query, number, rings, width):
    """Keep the edges whose exponential clocks ring first; ``samplers.weighted`` names the source."""
    visible, kept = np.int64(-1), 0
    for rank in range(block.start[k], block.stop[k] if width else block.start[k]):
        if rank >= block.sure[k] and not is_known(csr, row, rank, time, inclusive):
            continue
        visible += 1
        weight = raw_weight(csr, reverse, kind, row, rank, time, inclusive)
        if kind == RECENCY:
            ring = weight / half_life
        elif weight == 0.0:
            continue
        else:
            ring = -log2(weight)
        ring = log2(max(-log2(uniform(mix(query, visible)) + 2.0**-54), 2.0**-54)) + ring
        if kept == width and ring >= rings[width - 1]:
            continue
        size = min(kept, width - 1)
        while size > 0 and rings[size - 1] > ring:
            rings[size], number[size] = rings[size - 1], number[size - 1]
            size -= 1
        rings[size], number[size] = ring, visible
        kept = min(kept + 1, width)
    for slot in range(1, kept):
        insert(number, slot, number[slot])
    return kept


@compiled
def whole_weight(weight, best, kind, half_life):
    """Weight as a whole number, at most 2^31 but for degrees; ``best`` is the raw weight that gives it."""
    if kind == DEGREE:
        return np.int64(weight)
    if kind == EDGE_WEIGHT:
        return np.int64(weight / best * 2.0**31)
    return fixed_point_exp2((weight - best) / half_life)


@compiled
def draw_weighted_any(
    csr, reverse, kind, half_life, block, k, row, time, inclusive, query, number, target, width
):
    """Draw each slot independently: targets below the total weight, met in one sweep over running sums."""
    start, sure, stop = block.start[k], block.sure[k], block.stop[k]
    seen, best = 0, 0.0
    for rank in range(start, stop):
        if rank < sure or is_known(csr, row, rank, time, inclusive):
            weight = raw_weight(csr, reverse, kind, row, rank, time, inclusive)
            if kind == RECENCY:
                best = weight if seen == 0 else min(best, weight)
            else:
                best = max(best, weight)
            seen += 1
    if seen == 0 or (kind != RECENCY and best == 0.0):
        return 0
    total = np.int64(0)
    for rank in range(start, stop):
        if rank < sure or is_known(csr, row, rank, time, inclusive):
            weight = raw_weight(csr, reverse, kind, row, rank, time, inclusive)
            total += whole_weight(weight, best, kind, half_life)
    for slot in range(width):
        drawn = np.int64(uniform(mix(query, np.int64(slot))) * np.float64(total))
        insert(target, slot, min(drawn, total - 1))
    met, visible, total = 0, np.int64(0), np.int64(0)
    for rank in range(start, stop):
        if met == width:
            break
        if rank < sure or is_known(csr, row, rank, time, inclusive):
            weight = raw_weight(csr, reverse, kind, row, rank, time, inclusive)
            total += whole_weight(weight, best, kind, half_life)
            while met < width and target[met] < total:
                number[met] = visible
                met += 1
            visible += 1
    return width


@compiled
def draw_weighted(
    first,
    stop,
    arrays,
    reverse_arrays,
    kind,
    half_life,
    seed,
    seed_time,
    inclusive,
    window,
    replace,
    state,
    by_place,
    out,
):
    """Draw from what each query sees by weight."""
    csr, reverse, slots = pointers(arrays), pointers(reverse_arrays), open_slots(out)
    row, times = pointer_to(seed), pointer_to(seed_time)
    scratch = np.empty((BLOCK_COLUMNS, BLOCK), np.int64)
    block = open_block(scratch)
    width = slots.width
    number_array, target_array = np.empty(width, np.int64), np.empty(width, np.int64)
    ring_array = np.empty(width, np.float64)
    number, target, rings = pointer_to(number_array), pointer_to(target_array), pointer_to(ring_array)
    for begin in range(first, stop, BLOCK):
        size = min(BLOCK, stop - begin)
        visible_block(csr, block, row, times, begin, size, inclusive, window)
        for k in range(size):
            node, time = row[begin + k], times[begin + k]
            query = query_state(state, begin + k, node, time, by_place)
            if replace:
                count = draw_weighted_any(
                    csr,
                    reverse,
                    kind,
                    half_life,
                    block,
                    k,
                    node,
                    time,
                    inclusive,
                    query,
                    number,
                    target,
                    width,
                )
            else:
                count = keep_distinct(
                    csr,
                    reverse,
                    kind,
                    half_life,
                    block,
                    k,
                    node,
                    time,
                    inclusive,
                    query,
                    number,
                    rings,
                    width,
                )
            ranks_of_numbers(csr, block, k, node, time, inclusive, number, count)
            write_ranks(csr, node, number, count, slots, (begin + k) * width)
    keep_alive(scratch)
    keep_alive(number_array)
    keep_alive(target_array)
    keep_alive(ring_array)


@compiled
def history(first, stop, arrays, seed, seed_time, inclusive, window, ptr, neighbor, time, event_id):
    """Fill ``ptr[i]:ptr[i + 1]`` with the last so many edges that query i sees, oldest first."""
    csr = pointers(arrays)
    row, times = pointer_to(seed), pointer_to(seed_time)
    scratch = np.empty((BLOCK_COLUMNS, BLOCK), np.int64)
    block = open_block(scratch)
    for begin in range(first, stop, BLOCK):
        size = min(BLOCK, stop - begin)
        visible_block(csr, block, row, times, begin, size, inclusive, window)
        for k in range(size):
            i = begin + k
            node, at = row[i], times[i]
            place, rank = ptr[i + 1] - 1, block.stop[k] - 1
            if block.num_delta[k] > 0 or block.sure[k] < block.stop[k]:
                delta_place = block.num_delta[k] - 1
                if csr.has_delta:
                    delta_place += csr.delta_rowptr[node]
                before = first_unseen_time(at, inclusive)
                while place >= ptr[i]:
                    position = position_beside(csr, node, rank, delta_place)
                    if rank < block.sure[k] or known_at(csr, position) < before:
                        neighbor[place] = col_at(csr, position)
                        time[place] = time_at(csr, position)
                        event_id[place] = id_at(csr, position)
                        place -= 1
                    delta_place -= position >= csr.num_base
                    rank -= 1
            else:
                offset = csr.rowptr[node] + block.stop[k] - ptr[i + 1]
                for j in range(ptr[i], ptr[i + 1]):
                    neighbor[j] = edge_col(csr.edges, offset + j)
                    time[j] = edge_time(csr.edges, offset + j)
                    event_id[j] = edge_id(csr.edges, offset + j)
    keep_alive(scratch)
