"""Slow, obvious versions of what graph_builders computes."""

from collections.abc import Hashable, Sequence
from typing import Any


def rows_of_ids(ids: Sequence[Hashable], queries: Sequence[Hashable]) -> list[int]:
    """The place of each query among the distinct ids, in order of appearance; their number if unseen."""
    known = list(dict.fromkeys(ids))
    return [known.index(query) if query in known else len(known) for query in queries]


def adjacency(events: Sequence[tuple[int, int, int]], row: int) -> list[tuple[int, int, int]]:
    """(column, time, edge id) of one row, by (time, edge id), from (row, column, time) in log order."""
    found = [(col, time, number) for number, (r, col, time) in enumerate(events) if r == row]
    return sorted(found, key=lambda edge: (edge[1], edge[2]))


def count_duplicates(rows: Sequence[Any]) -> int:
    """How many rows came earlier."""
    return sum(row in rows[:number] for number, row in enumerate(rows))


def period_start(time: int, length: int, utc_offset: int) -> int:
    """Walk back from a time to the start of its period, one tick at a time."""
    while (time + utc_offset) % length != 0:
        time -= 1
    return time


def part_of_time(time: int, cutoffs: Sequence[int]) -> int:
    """The number of cut-offs that have passed."""
    return sum(time >= cutoff for cutoff in cutoffs)
