"""Negatives in compiled code: the items that each query knows are listed, and drawn from or around."""

import numpy as np

from samplers.compiled.jit import compiled
from samplers.compiled.numbers import mix, uniform
from samplers.compiled.rows import (
    BLOCK,
    BLOCK_COLUMNS,
    bisect_left,
    col_at,
    first_unseen_time,
    keep_alive,
    known_at,
    open_block,
    pointer_to,
    pointers,
    position_of,
    prefetch,
    visible_block,
)


@compiled
def list_known(
    first,
    stop,
    arrays,
    seed,
    seed_time,
    inclusive,
    rank_of_item,
    extra,
    is_removed,
    num_existing,
    ptr,
    listed,
    size,
):
    """List the ranks of the items that each query sees in its row, distinct and ascending, at ``ptr[i]``.

    Those of ``extra`` (num_queries, any) are added, or removed; ranks that do not exist yet are left out.
    ``size`` gets how many are left.
    """
    csr = pointers(arrays)
    row, times = pointer_to(seed), pointer_to(seed_time)
    ranks, items, values = pointer_to(rank_of_item), pointer_to(extra), pointer_to(listed)
    width = extra.shape[1]
    scratch = np.empty((BLOCK_COLUMNS, BLOCK), np.int64)
    block = open_block(scratch)
    for begin in range(first, stop, BLOCK):
        num_queries = min(BLOCK, stop - begin)
        visible_block(csr, block, row, times, begin, num_queries, inclusive, 0)
        for k in range(num_queries):
            prefetch(csr.edges.words, (csr.rowptr[row[begin + k]] + block.start[k]) * csr.edges.num_words)
        for k in range(num_queries):
            i = begin + k
            before = first_unseen_time(times[i], inclusive)
            at = ptr[i]
            for rank in range(block.start[k], block.stop[k]):
                position = position_of(csr, row[i], rank)
                if rank < block.sure[k] or known_at(csr, position) < before:
                    values[at] = ranks[col_at(csr, position)]
                    at += 1
            if not is_removed:
                for j in range(i * width, (i + 1) * width):
                    values[at] = ranks[items[j]]
                    at += 1
            listed[ptr[i] : at].sort()
            end = at
            at = ptr[i]
            for j in range(ptr[i], end):  # keep the first of equal ones, and those that exist
                if values[j] < num_existing[i] and (at == ptr[i] or values[j] != values[at - 1]):
                    values[at] = values[j]
                    at += 1
            if is_removed:
                end = at
                at = ptr[i]
                for j in range(ptr[i], end):
                    is_extra = False
                    for other in range(i * width, (i + 1) * width):
                        is_extra |= ranks[items[other]] == values[j]
                    if not is_extra:
                        values[at] = values[j]
                        at += 1
            size[i] = at - ptr[i]
    keep_alive(scratch)


@compiled
def draw(first, stop, state, ptr, listed, size, num_existing, from_list, item_of_rank, node, mask):
    """Draw a rank for each slot: one of the listed ones, or one below ``num_existing`` that is not listed."""
    ranks, items = pointer_to(listed), pointer_to(item_of_rank)
    nodes, masks = pointer_to(node), pointer_to(mask)
    width = node.shape[1]
    for i in range(first, stop):
        free = size[i] if from_list else num_existing[i] - size[i]
        for slot in range(width):
            at = i * width + slot
            masks[at] = free > 0
            nodes[at] = 0
            if free > 0:
                number = np.int64(uniform(mix(np.uint64(state[i]), np.int64(slot))) * free)
                if from_list:
                    number = ranks[ptr[i] + number]
                else:
                    number += num_listed_before(ranks, ptr[i], size[i], number)
                nodes[at] = items[number]


@compiled
def num_listed_before(ranks, first, size, number):
    """How many listed ranks come before the rank that is not listed and has this number among such."""
    low, length = np.int64(0), size
    while length > 0:
        half = length >> 1
        if ranks[first + low + half] - (low + half) <= number:
            low += half + 1
            length -= half + 1
        else:
            length = half
    return low


@compiled
def contains(first, stop, query, rank, ptr, listed, size, found):
    """Whether each rank is listed for its query."""
    ranks = pointer_to(listed)
    for i in range(first, stop):
        low = ptr[query[i]]
        high = low + size[query[i]]
        at = bisect_left(ranks, low, high, rank[i])
        found[i] = at < high and ranks[at] == rank[i]
