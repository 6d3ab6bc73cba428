"""One and two hops on a CUDA device, beside the same on its CPU and beside the device's copy bandwidth."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.samplers.graph import ITEMS_OF_USERS, Queries, make_events, make_queries
from experiments.benchmarks.samplers.results import OURS, Row, speed_rows
from experiments.benchmarks.samplers.settings import Settings
from experiments.benchmarks.samplers.timing import take_turns
from samplers import (
    EdgeType,
    MultiHopSampler,
    RecentNeighborSampler,
    TemporalCSR,
    UniformNeighborSampler,
)

CSRS = dict[EdgeType, TemporalCSR]
Hops = list[tuple[Tensor, Tensor]]  # edge id and mask of each hop

# read: column and edge id of 4 bytes and a time of 8; written: three int64 and a byte of the mask
BYTES_PER_SAMPLED_EDGE = 16 + 25
TARGET_BATCH_SIZE, TARGET = 8192, 5e8  # one-hop last-K, sampled edges a second, at this size and more


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
            for hops, make in (("one hop", _one_hop), ("two hops", _two_hops)):
                here, there = make(csrs, strategy, k, queries), make(moved, strategy, k, queries_there)
                num_edges = check_same_edges(here(0), there(0))
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


def check_same_edges(here: Hops, there: Hops) -> int:
    """Compare (edge id, mask) of each hop; return how many edges there are.

    Raises:
        AssertionError: they differ.

    """
    num_edges = 0
    for hop, ((edge_id, mask), (other_id, other_mask)) in enumerate(zip(here, there, strict=True)):
        same = torch.equal(mask, other_mask.cpu())
        if not same or not torch.equal(edge_id[mask], other_id.cpu()[mask]):
            raise AssertionError(f"the device samples other edges than the CPU at hop {hop + 1}")
        num_edges += int(mask.sum())
    return num_edges


def _one_hop(csrs: CSRS, strategy: Any, k: int, queries: Queries) -> Callable[[int], Hops]:
    sampler = strategy(csrs[ITEMS_OF_USERS], k)

    def run(number: int) -> Hops:
        found = sampler.sample(*queries.batch(number))
        return [(found.edge_id, found.mask)]

    return run


def _two_hops(csrs: CSRS, strategy: Any, k: int, queries: Queries) -> Callable[[int], Hops]:
    sampler = MultiHopSampler(csrs, [k, k], strategy=strategy)

    def run(number: int) -> Hops:
        hops = sampler.sample({"user": queries.batch(number)}).hops
        return [(edges.edge_id, edges.mask) for hop in hops for edges in hop.values()]

    return run


def _share(case: str, speed: float, bandwidth: float, size: int) -> Row:
    share = speed * BYTES_PER_SAMPLED_EDGE / bandwidth
    return Row(
        case=f"{case}, share of copying", system=OURS, unit="of the bandwidth", value=share, seeds=size
    )


def _synchronize(device: torch.device) -> Callable[[], object]:
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None
