"""Number the (node, time) rows of a subgraph, each once: one hash table, group of equal times by group."""

from typing import Any, NamedTuple

import numpy as np

from samplers.compiled.jit import compiled
from samplers.compiled.rows import keep_alive, pointer_to, prefetch

_FACTOR = np.uint64(0x9E3779B97F4A7C15)


class Table(NamedTuple):
    """Addresses of a hash table. A slot is of the current group if ``stamp`` says so: nothing is cleared."""

    stamp: Any
    row: Any
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
def insert_row(table, is_direct, size, group, node, time, next_row):
    """Row of (node, time) in the group; ``next_row`` if it is new there."""
    slot = node
    if not is_direct:
        word = (np.uint64(node) ^ (np.uint64(time) * _FACTOR)) * _FACTOR
        slot = np.int64(word >> np.uint64(32)) & (size - 1)
        while table.stamp[slot] == group:
            row = table.row[slot]
            if table.node[row] == node and table.time[row] == time:
                return row
            slot = (slot + 1) & (size - 1)
    elif table.stamp[slot] == group:
        return table.row[slot]
    table.stamp[slot] = group
    table.row[slot] = next_row
    table.node[next_row] = node
    table.time[next_row] = time
    return next_row


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
    largest = 1
    for group in range(num_groups):
        amount = 0
        for kind in range(num_types):
            amount += (group_ptr[kind, group + 1] - group_ptr[kind, group]) * width[kind]
        for hop in range(known_ptr.shape[0]):
            amount += known_ptr[hop, group + 1] - known_ptr[hop, group]
        largest = max(largest, amount)
    # one time for all and few nodes: a slot for each node
    is_direct = num_groups == 1 and not by_edge_time and num_nodes <= 4 * largest
    capacity = np.int64(16)
    while capacity < 2 * largest:
        capacity *= 2
    if is_direct:
        capacity = max(num_nodes, np.int64(1))
    stamp, row = np.full(capacity, -1, np.int32), np.empty(capacity, np.int64)
    table = Table(pointer_to(stamp), pointer_to(row), pointer_to(node), pointer_to(time))
    node_at, time_at, mask_at, neighbor_at = (
        pointer_to(candidate),
        pointer_to(candidate_time),
        pointer_to(mask),
        pointer_to(neighbor),
    )
    new_ptr = np.empty(num_groups + 1, np.int64)
    for group in range(num_groups):
        new_ptr[group] = num_rows
        amount = 0
        for kind in range(num_types):
            amount += (group_ptr[kind, group + 1] - group_ptr[kind, group]) * width[kind]
        for hop in range(known_ptr.shape[0]):
            amount += known_ptr[hop, group + 1] - known_ptr[hop, group]
        size = np.int64(16)
        while size < 2 * amount:
            size *= 2
        for hop in range(known_ptr.shape[0]):
            for known in range(known_ptr[hop, group], known_ptr[hop, group + 1]):
                insert_row(table, is_direct, size, group, table.node[known], table.time[known], known)
        first = np.int64(0)  # candidate of the edge type
        for kind in range(num_types):
            per_row = width[kind]
            for query in range(group_ptr[kind, group], group_ptr[kind, group + 1]):
                place = first + (query - group_ptr[kind, 0]) * per_row
                if is_direct:
                    for j in range(place, place + per_row):
                        prefetch(table.stamp, node_at[j])
                        prefetch(table.row, node_at[j])
                for j in range(place, place + per_row):
                    if mask_at[j]:
                        when = time_at[j] if by_edge_time else time_at[query]
                        found = insert_row(table, is_direct, size, group, node_at[j], when, num_rows)
                        neighbor_at[j] = found
                        num_rows += found == num_rows
                    else:
                        neighbor_at[j] = 0
            first += (group_ptr[kind, num_groups] - group_ptr[kind, 0]) * per_row
    new_ptr[num_groups] = num_rows
    keep_alive(stamp)
    keep_alive(row)
    keep_alive(node)
    keep_alive(time)
    keep_alive(candidate)
    keep_alive(candidate_time)
    keep_alive(mask)
    keep_alive(neighbor)
    return new_ptr
