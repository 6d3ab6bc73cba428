"""One and two hops on a CUDA device, beside the same on its CPU and beside the device's copy bandwidth."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from experiments.benchmarks.samplers.graph import ITEMS_OF_USERS, Queries, make_events, make_queries
from experiments.benchmarks.samplers.results import OURS, Row, speed_rows
from experiments.benchmarks.samplers.settings import Settings
from experiments.benchmarks.samplers.timing import take_turns
from samplers import (
    EdgeType,
    MultiHopSampler,
    RecentNeighborSampler,
    SampledNeighbors,
    SampledSubgraph,
    TemporalCSR,
    UniformNeighborSampler,
)

CSRS = dict[EdgeType, TemporalCSR]

# read: column and edge id of 4 bytes and a time of 8; written: three int64 and a byte of the mask
BYTES_PER_SAMPLED_EDGE = 16 + 25
TARGET_BATCH_SIZE, TARGET = 8192, 5e8  # one-hop last-K, sampled edges a second, at this size and more


class Edges(NamedTuple):
    """Edges sampled at a hop, one row for each (node, time) that was queried."""

    node: Int64[Tensor, " num_rows"]
    time: Int64[Tensor, " num_rows"]
    edge_id: Int64[Tensor, "num_rows num_neighbors"]
    mask: Bool[Tensor, "num_rows num_neighbors"]


def measure(settings: Settings) -> list[Row]:
    """Measure sampled edges a second; nothing where there is no CUDA device."""
    if not torch.cuda.is_available():
        print("gpu: no CUDA device here: skipped")
        return []
    return measure_on(settings, torch.device("cuda"))


def measure_on(settings: Settings, device: torch.device) -> list[Row]:
    """Measure one and two hops, last-K and uniform, for each batch size, after the edges were compared.

    A sampled edge is a slot that holds one (``mask``); the graph and the queries lie on the device before.
    The share of the copy bandwidth counts the bytes that cannot be avoided, 41 for each sampled edge: what is
    read of it and what is returned. Two hops return fewer bytes an edge, and read and write those of their
    tables besides: the share counts them as one hop's.

    Raises:
        AssertionError: the device sampled other edges than the CPU.

    """
    synchronize = _synchronize(device)
    bandwidth = copy_bandwidth(device, settings.seconds)
    rows = [Row(case=f"copying on {device.type}", system=OURS, unit="bytes/s", value=bandwidth, seeds=0)]
    events = make_events(settings, settings.edges)
    csrs = events.csrs()
    moved = {name: csr.to(device) for name, csr in csrs.items()}
    k = settings.num_neighbors
    strategies = {
        "last-K": RecentNeighborSampler,
        "uniform": partial(UniformNeighborSampler, random_seed=settings.random_seed),
    }
    for size in settings.gpu_batch_sizes:
        queries = make_queries(settings, batch_size=size)
        queries_there = Queries(queries.user.to(device), queries.time.to(device))
        for name, strategy in strategies.items():
            for hops, make in (("one hop", OneHop), ("two hops", TwoHops)):
                here, there = make(csrs, strategy, k, queries), make(moved, strategy, k, queries_there)
                num_edges = check_same_edges(here.edges(0), there.edges(0))
                cpu = f"{OURS} on its CPU"
                timings = take_turns({OURS: there, cpu: here}, settings.seconds, synchronize=synchronize)
                case = f"{device.type}, {hops}, {name}, {size} queries"
                speeds = speed_rows(case, timings, amount=num_edges, unit="edges/s", seeds=size)
                if (hops, name) == ("one hop", "last-K") and size >= TARGET_BATCH_SIZE:
                    speeds[0] = replace(speeds[0], target=TARGET)
                rows += [*speeds, _share(case, speeds[0].value, bandwidth, size)]
    return rows


def copy_bandwidth(device: torch.device, seconds: float) -> float:
    """Return bytes a second, read and written, of copying a large tensor on the device."""
    num_bytes = 1 << 30 if device.type == "cuda" else 1 << 24
    source = torch.ones(num_bytes // 8, dtype=torch.int64, device=device)
    target = torch.empty_like(source)
    timings = take_turns({OURS: lambda _: target.copy_(source)}, seconds, synchronize=_synchronize(device))
    return 2 * num_bytes / timings.median(OURS)


def check_same_edges(here: list[Edges], there: list[Edges]) -> int:
    """Compare the edges of each hop, in whatever order the rows are; return how many edges there are.

    Raises:
        AssertionError: they differ.

    """
    num_edges = 0
    for hop, (one, other) in enumerate(zip(here, there, strict=True)):
        if not all(map(torch.equal, _in_order(one), _in_order(other))):
            raise AssertionError(f"the device samples other edges than the CPU at hop {hop + 1}")
        num_edges += int(one.mask.sum())
    return num_edges


def _in_order(edges: Edges) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    node, time, edge_id, mask = (column.cpu() for column in edges)
    by_time = time.argsort(stable=True)
    order = by_time[node[by_time].argsort(stable=True)]
    return node[order], time[order], edge_id.where(mask, -1)[order], mask[order]


class OneHop:
    """Last-K or uniform neighbours of users."""

    def __init__(self, csrs: CSRS, strategy: Any, k: int, queries: Queries) -> None:
        self.sampler, self.queries = strategy(csrs[ITEMS_OF_USERS], k), queries

    def __call__(self, number: int) -> SampledNeighbors:
        """Sample a batch."""
        found: SampledNeighbors = self.sampler.sample(*self.queries.batch(number))
        return found

    def edges(self, number: int) -> list[Edges]:
        """Sample a batch, and return what it holds in a form to compare."""
        found = self(number)
        return [Edges(*self.queries.batch(number), found.edge_id, found.mask)]


class TwoHops:
    """Users' items, and those items' users."""

    def __init__(self, csrs: CSRS, strategy: Any, k: int, queries: Queries) -> None:
        self.sampler, self.queries = MultiHopSampler(csrs, [k, k], strategy=strategy), queries

    def __call__(self, number: int) -> SampledSubgraph:
        """Sample a batch."""
        return self.sampler.sample({"user": self.queries.batch(number)})

    def edges(self, number: int) -> list[Edges]:
        """Sample a batch, and return what it holds in a form to compare."""
        found = self(number)
        rows = []
        for hop in found.hops:
            for (_, _, destination), edges in hop.items():
                these = slice(edges.first_row, edges.first_row + edges.num_rows)
                node, time = found.node[destination][these], found.time[destination][these]
                rows.append(Edges(node, time, edges.edge_id, edges.mask))
        return rows


def _share(case: str, speed: float, bandwidth: float, size: int) -> Row:
    share = speed * BYTES_PER_SAMPLED_EDGE / bandwidth
    return Row(
        case=f"{case}, share of copying", system=OURS, unit="of the bandwidth", value=share, seeds=size
    )


def _synchronize(device: torch.device) -> Callable[[], object]:
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None
