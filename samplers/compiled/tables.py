"""Number the (node, time) rows of a subgraph, each once, group of equal times by group."""

from typing import Any, NamedTuple

import numpy as np

from samplers.compiled.jit import compiled
from samplers.compiled.rows import keep_alive, pointer_like, pointer_to, prefetch

_FACTOR = np.uint64(0x9E3779B97F4A7C15)


class Table(NamedTuple):
    """Addresses of a hash table: ``slot`` holds 1 + the row of what hashes there, 0 for nothing."""

    slot: Any
    node: Any
    time: Any


@compiled
def group_equal(value, group):
    """Give equal values a number, in order of first appearance: fill ``group``, return how many there are."""
    size = 16
    while size < 2 * len(value):
        size *= 2
    first = np.full(size, -1, np.int64)
    num_groups = 0
    for i in range(len(value)):
        if i > 0 and value[i] == value[i - 1]:
            group[i] = group[i - 1]
            continue
        slot = np.int64((np.uint64(value[i]) * _FACTOR) >> np.uint64(32)) & (size - 1)
        while first[slot] >= 0 and value[first[slot]] != value[i]:
            slot = (slot + 1) & (size - 1)
        if first[slot] < 0:
            first[slot] = i
            group[i] = num_groups
            num_groups += 1
        else:
            group[i] = group[first[slot]]
    return num_groups


@compiled
def count_groups(group, ptr):
    """Write where each group begins once its rows lie side by side; return whether they lie so."""
    in_order = True
    ptr[:] = 0
    for i in range(len(group)):
        ptr[group[i] + 1] += 1
        in_order &= i == 0 or group[i - 1] <= group[i]
    for i in range(1, len(ptr)):
        ptr[i] += ptr[i - 1]
    return in_order


@compiled
def cut_pieces(group_ptr, width, group, cut):
    """Cut querying rows into pieces of equal candidates: see ``samplers.tables``."""
    num_types, num_groups, num_pieces = group_ptr.shape[0], group_ptr.shape[1] - 1, len(group) - 1
    total = np.int64(0)
    for kind in range(num_types):
        total += (group_ptr[kind, num_groups] - group_ptr[kind, 0]) * width[kind]
        cut[0, kind], cut[num_pieces, kind] = group_ptr[kind, 0], group_ptr[kind, num_groups]
    group[0], group[num_pieces] = 0, num_groups - 1
    piece, passed = 1, np.int64(0)
    for number in range(num_groups):
        for kind in range(num_types):
            amount = (group_ptr[kind, number + 1] - group_ptr[kind, number]) * width[kind]
            while piece < num_pieces and passed + amount > total * piece // num_pieces:
                group[piece] = number
                for other in range(num_types):
                    cut[piece, other] = group_ptr[other, number + (other < kind)]
                cut[piece, kind] += (total * piece // num_pieces - passed) // width[kind]
                piece += 1
            passed += amount


@compiled
def hash_size(amount):
    """Size of a hash table for so many rows: a power of two, at least twice as many."""
    size = np.int64(16)
    while size < 2 * amount:
        size *= 2
    return size


@compiled
def insert_row(table, size, node, time, next_row):
    """Row of (node, time); ``next_row`` if it is new."""
    word = (np.uint64(node) ^ (np.uint64(time) * _FACTOR)) * _FACTOR
    place = np.int64(word >> np.uint64(32)) & (size - 1)
    while table.slot[place]:
        row = table.slot[place] - 1
        if table.node[row] == node and table.time[row] == time:
            return row
        place = (place + 1) & (size - 1)
    table.slot[place] = next_row + 1
    table.node[next_row] = node
    table.time[next_row] = time
    return next_row


class State(NamedTuple):
    """Places in the array that hands on, from one piece to the next, how far the numbering is."""

    num_rows: int = 0
    group: int = 1  # that was begun last
    first_mark: int = 2  # of this group
    first_new_mark: int = 3  # of this group: those before it are of its known rows
    next_mark: int = 4


STATE = State()


@compiled
def number_rows(
    last_group,
    first,
    stop,
    candidate,
    candidate_time,
    mask,
    neighbor,
    width,
    by_edge_time,
    group_ptr,
    known_ptr,
    node,
    time,
    slot,
    is_direct,
    new_ptr,
    state,
):
    """Give each candidate of a piece its row, and new (node, time) pairs new rows, group by group.

    Pieces come in order; each ends in the group in which the next one begins.

    Args:
        last_group: in which the piece ends.
        first: first querying row of the piece, for each edge type.
        stop: the row behind its last one, likewise.
        candidate: addresses of each edge type's candidates, ``width`` for each querying row.
        candidate_time: addresses of their times: of their edges, where ``by_edge_time``, else of the querying
            rows.
        mask: addresses of the bytes that say which of them are real; padding is on the right.
        neighbor: addresses at which to write the row of each candidate, 0 where it is not real; may be the
            same as ``candidate``.
        width: candidates of a querying row, for each edge type.
        by_edge_time: whether ``candidate_time`` has one for each candidate, else one for each querying row.
        group_ptr: first querying row of each group and its end, for each edge type.
        known_ptr: first and last row of each group among the rows there are, hop by hop.
        node: node of each row, with room for the new ones.
        time: time of each row, likewise.
        slot: int32, zeros: for each node, or a hash table with room for the largest group.
        is_direct: which of the two. The first needs groups of one time each.
        new_ptr: first new row of each group, and their end, written as the groups are begun.
        state: see ``State``.

    """
    table = Table(pointer_to(slot), pointer_to(node), pointer_to(time))
    bytes_like = np.empty(0, np.uint8)
    mask_like = pointer_to(bytes_like)
    num_types, num_groups = group_ptr.shape[0], group_ptr.shape[1] - 1
    num_rows = state[STATE.num_rows]
    for group in range(max(state[STATE.group], 0), last_group + 1):
        amount = np.int64(0)  # rows and candidates of the group
        for kind in range(num_types):
            amount += (group_ptr[kind, group + 1] - group_ptr[kind, group]) * width[kind]
        for hop in range(known_ptr.shape[0]):
            amount += known_ptr[hop, group + 1] - known_ptr[hop, group]
        size = hash_size(amount)
        if group > state[STATE.group]:
            state[STATE.group] = group
            new_ptr[group] = num_rows
            if is_direct:
                mark_known(table, known_ptr, group, state)
            else:
                for place in range(size if group > 0 else 0):
                    table.slot[place] = 0
                for hop in range(known_ptr.shape[0]):
                    for known in range(known_ptr[hop, group], known_ptr[hop, group + 1]):
                        insert_row(table, size, table.node[known], table.time[known], known)
        for kind in range(num_types):
            begin = max(group_ptr[kind, group], first[kind])
            end = min(group_ptr[kind, group + 1], stop[kind])
            if begin >= end:
                continue
            per_row = width[kind]
            node_at, neighbor_at = (
                pointer_like(table.node, candidate[kind]),
                pointer_like(table.node, neighbor[kind]),
            )
            time_at, mask_at = (
                pointer_like(table.time, candidate_time[kind]),
                pointer_like(mask_like, mask[kind]),
            )
            group_time, first_row = np.int64(0) if by_edge_time else time_at[begin], num_rows
            first_mark, first_new_mark = state[STATE.first_mark], state[STATE.first_new_mark]
            shift = state[STATE.next_mark] - num_rows
            for query in range(begin, end):
                place, behind = query * per_row, (query + 1) * per_row
                real = end_of_real(mask_at, place, behind)
                if is_direct and query + 1 < end:  # the next query's slots come while this one is numbered
                    for at in range(behind, behind + per_row):
                        prefetch(table.slot, node_at[at])
                if not is_direct:
                    for at in range(place, real):
                        when = time_at[at] if by_edge_time else group_time
                        found = insert_row(table, size, node_at[at], when, num_rows)
                        neighbor_at[at] = found
                        num_rows += found == num_rows
                elif first_mark == first_new_mark:  # rows follow from marks
                    for at in range(place, real):
                        mark, is_new = mark_node(table, node_at[at], first_mark, num_rows, shift)
                        neighbor_at[at] = mark - shift
                        num_rows += is_new
                else:
                    for at in range(place, real):
                        mark, is_new = mark_node(table, node_at[at], first_mark, num_rows, shift)
                        if mark >= first_new_mark:
                            neighbor_at[at] = mark - shift
                        else:
                            neighbor_at[at] = known_row(known_ptr, group, mark - first_mark)
                        num_rows += is_new
                for at in range(real, behind):
                    neighbor_at[at] = 0
            if is_direct:
                for row in range(first_row, num_rows):
                    table.time[row] = group_time
                state[STATE.next_mark] += num_rows - first_row
    state[STATE.num_rows] = num_rows
    if state[STATE.group] == num_groups - 1:
        new_ptr[num_groups] = num_rows
    keep_alive(bytes_like)


@compiled
def end_of_real(mask, place, stop):
    """End of the slots that are no padding, which is on the right."""
    if place < stop and mask[stop - 1]:  # most rows are full
        return stop
    while place < stop and mask[place]:
        place += 1
    return place


@compiled
def mark_known(table, known_ptr, group, state):
    """Begin a group where each node has a slot: mark the nodes of its known rows.

    A slot holds a mark: marks rise from row to row, and from group to group, so that those of former groups
    are below all of this one and need not be taken away.
    """
    first_mark = max(state[STATE.next_mark], np.int64(1))
    mark = first_mark
    for hop in range(known_ptr.shape[0]):
        for known in range(known_ptr[hop, group], known_ptr[hop, group + 1]):
            if table.slot[table.node[known]] < first_mark:  # of repeated seeds the first is found
                table.slot[table.node[known]] = mark
            mark += 1
    state[STATE.first_mark] = first_mark
    # of one group alone, known and new rows lie side by side, and so do their marks
    state[STATE.first_new_mark] = first_mark if known_ptr.shape[1] == 2 else mark
    state[STATE.next_mark] = mark


@compiled
def mark_node(table, node, first_mark, num_rows, shift):
    """Mark of a node in its group, and whether it is new: then it is that of the next row."""
    mark = np.int64(table.slot[node])
    is_new = mark < first_mark  # as often as not: no branch
    mark += is_new * (num_rows + shift - mark)
    table.slot[node] = mark
    table.node[num_rows] = node
    return mark, is_new


@compiled
def known_row(known_ptr, group, number):
    """Row of the known row of a group that has this number."""
    for hop in range(known_ptr.shape[0]):
        count = known_ptr[hop, group + 1] - known_ptr[hop, group]
        if number < count:
            return known_ptr[hop, group] + number
        number -= count
    return number


@compiled
def compact_edges(neighbor, edge_id, edge_time, mask, width, ptr, first_row, source, ids, times):
    """Append the real slots of a hop to flat columns, behind ``ptr[first_row]``; set ``ptr`` of its rows.

    Padding is on the right of each row of ``width`` slots.
    """
    neighbor_at, id_at, time_at, mask_at = (
        pointer_to(neighbor),
        pointer_to(edge_id),
        pointer_to(edge_time),
        pointer_to(mask),
    )
    source_at, ids_at, times_at = pointer_to(source), pointer_to(ids), pointer_to(times)
    end = ptr[first_row]
    num_rows = len(mask) // max(width, 1)
    for row in range(num_rows):
        slot = row * width
        stop = slot + width
        while slot < stop and mask_at[slot]:
            source_at[end] = neighbor_at[slot]
            ids_at[end] = id_at[slot]
            times_at[end] = time_at[slot]
            slot += 1
            end += 1
        ptr[first_row + row + 1] = end
    keep_alive(neighbor)
    keep_alive(edge_id)
    keep_alive(edge_time)
    keep_alive(mask)
    keep_alive(source)
    keep_alive(ids)
    keep_alive(times)
