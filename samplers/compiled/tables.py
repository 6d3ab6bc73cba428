"""Number the (node, time) rows of a subgraph, each once: one hash table, group of equal times by group."""

from typing import Any, NamedTuple

import numpy as np

from samplers.compiled.jit import compiled
from samplers.compiled.rows import keep_alive, pointer_to

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


@compiled
def insert_row_direct(table, node, next_row):
    """Do the same where all times are equal and each node has a slot. The time is left to the caller."""
    row = table.slot[node] - 1
    is_new = row < 0  # as often as not: no branch
    row += is_new * (next_row + 1)
    table.slot[node] = row + 1
    table.node[next_row] = node
    return row


@compiled
def insert_rows(
    candidate,
    candidate_time,
    mask,
    width,
    by_edge_time,
    group_ptr,
    known_ptr,
    num_nodes,
    num_rows,
    node,
    time,
    neighbor,
):
    """Give each candidate its row, and new (node, time) pairs new rows behind ``num_rows``, group by group.

    Args:
        candidate: flat lists of candidates of each edge type, one behind the other.
        candidate_time: their times: of their edges, where ``by_edge_time``, else of the querying rows.
        mask: which of them are real.
        width: candidates of a querying row, for each edge type.
        by_edge_time: whether ``candidate_time`` has one for each candidate, else one for each querying row.
        group_ptr: first querying row of each group and its end, for each edge type; counted through all
            types.
        known_ptr: first and last row of each group among the rows there are, hop by hop.
        num_nodes: how many nodes there are.
        num_rows: how many rows there are.
        node: node of each row, with room for the new ones.
        time: time of each row, likewise.
        neighbor: row of each candidate, 0 where it is not real.

    Returns:
        First new row of each group, and their end.

    """
    num_types, num_groups = group_ptr.shape[0], group_ptr.shape[1] - 1
    amount = np.zeros(num_groups, np.int64)  # rows and candidates of each group
    largest = np.int64(1)
    for group in range(num_groups):
        for kind in range(num_types):
            amount[group] += (group_ptr[kind, group + 1] - group_ptr[kind, group]) * width[kind]
        for hop in range(known_ptr.shape[0]):
            amount[group] += known_ptr[hop, group + 1] - known_ptr[hop, group]
        largest = max(largest, amount[group])
    # one time for all and few nodes: a slot for each node
    is_direct = num_groups == 1 and not by_edge_time and num_nodes <= 4 * largest
    capacity = np.int64(16)
    while capacity < 2 * largest:
        capacity *= 2
    if is_direct:
        capacity = max(num_nodes, np.int64(1))
    slot = np.zeros(capacity, np.int32)
    table = Table(pointer_to(slot), pointer_to(node), pointer_to(time))
    node_at, time_at, mask_at, neighbor_at = (
        pointer_to(candidate),
        pointer_to(candidate_time),
        pointer_to(mask),
        pointer_to(neighbor),
    )
    new_ptr = np.empty(num_groups + 1, np.int64)
    for group in range(num_groups):
        new_ptr[group] = num_rows
        size = np.int64(16)
        while size < 2 * amount[group]:
            size *= 2
        if not is_direct and group > 0:
            for place in range(size):
                table.slot[place] = 0
        for hop in range(known_ptr.shape[0]):
            for known in range(known_ptr[hop, group], known_ptr[hop, group + 1]):
                if is_direct:
                    if table.slot[table.node[known]] == 0:  # of repeated seeds the first is found
                        table.slot[table.node[known]] = known + 1
                else:
                    insert_row(table, size, table.node[known], table.time[known], known)
        first = np.int64(0)  # candidate of the edge type
        for kind in range(num_types):
            per_row = width[kind]
            for query in range(group_ptr[kind, group], group_ptr[kind, group + 1]):
                place = first + (query - group_ptr[kind, 0]) * per_row
                stop = place + per_row
                while place < stop and mask_at[place]:  # padding is on the right
                    if is_direct:
                        found = insert_row_direct(table, node_at[place], num_rows)
                    else:
                        when = time_at[place] if by_edge_time else time_at[query]
                        found = insert_row(table, size, node_at[place], when, num_rows)
                    neighbor_at[place] = found
                    num_rows += found == num_rows
                    place += 1
                for padding in range(place, stop):
                    neighbor_at[padding] = 0
            first += (group_ptr[kind, num_groups] - group_ptr[kind, 0]) * per_row
    new_ptr[num_groups] = num_rows
    if is_direct and num_rows > new_ptr[0]:
        table_time = time_at[group_ptr[0, 0]]  # one for all; an edge type without querying rows has none
        for row in range(new_ptr[0], num_rows):
            table.time[row] = table_time
    keep_alive(slot)
    keep_alive(node)
    keep_alive(time)
    keep_alive(candidate)
    keep_alive(candidate_time)
    keep_alive(mask)
    keep_alive(neighbor)
    return new_ptr


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
