"""How long building a graph takes beside polars' sort of the same columns, and how many bytes an edge has.

Run ``python -m experiments.benchmarks.build_graph --events 10000000``. The log is synthetic: users and
items follow a Zipf law, times are uniform over a year and in the log's order, as a log is written.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from graph_builders import BehaviorGraph, EventSchema, build_behavior_graph, read_events

MAX_TIME_RATIO = 3.0
MAX_BYTES_PER_EDGE = 40.0


def zipf_log(
    num_events: int, *, num_users: int, num_items: int, random_seed: int = 0, exponent: float = 1.0
) -> pl.DataFrame:
    """Return a log with ``user_id``, ``item_id`` and ``time``, sorted by time; IDs are shuffled ranks."""
    generator = np.random.default_rng(random_seed)

    def draw(num_ids: int) -> np.ndarray:
        weight = 1.0 / np.arange(1, num_ids + 1) ** exponent
        cumulative = np.cumsum(weight) / weight.sum()
        rank = np.minimum(np.searchsorted(cumulative, generator.random(num_events)), num_ids - 1)
        return generator.permutation(num_ids)[rank]

    start, year = 1_640_995_200, 31_536_000
    times = np.sort(generator.integers(start, start + year, num_events))
    return pl.DataFrame({"user_id": draw(num_users), "item_id": draw(num_items), "time": times})


def bytes_per_edge(graph: BehaviorGraph) -> float:
    """Return the bytes of both directions, row pointers and attributes over the number of events."""
    total = 0
    for csr in graph.csrs().values():
        tensors = [csr.rowptr, *csr.edge_columns().values()]
        total += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return total / graph.num_events


def main() -> None:
    """Measure, print both ratios, and exit with 1 if one is beyond its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shuffled", action="store_true", help="a log whose rows are in no order of time")
    arguments = parser.parse_args()

    frame = zipf_log(arguments.events, num_users=arguments.users, num_items=arguments.items)
    if arguments.shuffled:
        frame = frame.sample(fraction=1.0, shuffle=True, seed=1)
    sort_seconds, _ = _best(lambda: frame.sort("user_id", "time"), arguments.repeats)
    read_seconds, log = _best(lambda: read_events(frame, EventSchema()), 1)
    build_seconds, graph = _best(lambda: build_behavior_graph(log), arguments.repeats)
    time_ratio, size = build_seconds / sort_seconds, bytes_per_edge(graph)

    order = "shuffled" if arguments.shuffled else "by time"
    print(f"{arguments.events:,} events {order}, {arguments.users:,} users, {arguments.items:,} items")
    print(f"{platform.machine()}, {os.cpu_count()} cores, polars {pl.__version__}, numpy {np.__version__}")
    print(f"polars sort by (user, time)  {sort_seconds:8.2f} s")
    print(f"reading and checking the log {read_seconds:8.2f} s")
    print(f"building the graph           {build_seconds:8.2f} s")
    print(f"build / sort                 {time_ratio:8.2f}   (limit {MAX_TIME_RATIO})")
    print(f"bytes an edge                {size:8.2f}   (limit {MAX_BYTES_PER_EDGE}, both directions)")
    if time_ratio > MAX_TIME_RATIO or size > MAX_BYTES_PER_EDGE:
        raise SystemExit(1)


def _best(function: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Return the shortest of several times, which other processes disturb least, and the last result."""
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - begin)
    return min(seconds), result


if __name__ == "__main__":
    main()
