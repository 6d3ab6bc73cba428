"""A large graph: bytes an edge, the cost of a seed, memory map, appended edges."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.samplers.graph import Events, Queries, make_events, make_queries
from experiments.benchmarks.samplers.results import OURS, RATIO, Row, speed_rows
from experiments.benchmarks.samplers.settings import Settings
from experiments.benchmarks.samplers.timing import take_turns
from samplers import (
    EdgeType,
    MultiHopSampler,
    NeighborSampler,
    RecentNeighborSampler,
    TemporalCSR,
    UniformNeighborSampler,
)

MAX_RESIDENT_SHARE = 0.25  # what "far below the file's size" is taken to mean
CSRS = dict[EdgeType, TemporalCSR]


def measure(settings: Settings) -> list[Row]:
    """Measure all that changes with size, on as many users and items as the other graph has.

    Nothing here has a peer: figures are set against ours on the smaller graph, or against a rebuild.
    """
    queries = make_queries(settings)
    events = make_events(settings, settings.large_edges)
    csrs = events.csrs()
    small = make_events(settings, settings.edges).csrs()
    rows = _cost_of_a_seed(settings, queries, small, csrs)
    del small
    rows += _appended(settings, queries, events, csrs)
    del events
    rows += _on_disk(settings, csrs)
    return rows


def _cost_of_a_seed(settings: Settings, queries: Queries, small: CSRS, large: CSRS) -> list[Row]:
    """Set the time of a seed on the large graph against the small one's; a ratio of times."""
    rows = []
    smaller = f"{OURS}, {settings.edges:,} edges"
    for case, make in _samplers(settings).items():
        systems = {smaller: make(small, queries), OURS: make(large, queries)}
        timings = take_turns(systems, settings.seconds)
        case = f"a seed at {settings.large_edges:,} edges, {case} (ratio of times)"
        rows += [
            Row(
                case=case,
                system=name,
                unit="us a seed",
                value=timings.median(name) / settings.batch_size * 1e6,
                seeds=settings.batch_size,
            )
            for name in systems
        ]
        ratio = timings.ratio(OURS, smaller)
        rows.append(_limit(case, smaller, RATIO, ratio, 2.5, settings))
    return rows


def _samplers(settings: Settings) -> dict[str, Callable[[CSRS, Queries], Callable[[int], Any]]]:
    k = settings.num_neighbors

    def last_k(csrs: CSRS, queries: Queries) -> Callable[[int], Any]:
        return partial(_sample, RecentNeighborSampler(_users(csrs), k), queries)

    def uniform(csrs: CSRS, queries: Queries) -> Callable[[int], Any]:
        sampler = UniformNeighborSampler(_users(csrs), k, random_seed=settings.random_seed)
        return partial(_sample, sampler, queries)

    def two_hops(csrs: CSRS, queries: Queries) -> Callable[[int], Any]:
        sampler = MultiHopSampler(csrs, [k, k])
        return lambda number: sampler.sample({"user": queries.batch(number)})

    return {"last-K": last_k, "uniform": uniform, "two hops, last-K": two_hops}


def _appended(settings: Settings, queries: Queries, events: Events, csrs: CSRS) -> list[Row]:
    """Append events that come later than all others, sample, compact; one direction, rows are users."""
    base, generator = _users(csrs), torch.Generator().manual_seed(settings.random_seed + 3)
    chosen = torch.randint(events.edge_index.shape[1], (settings.append_edges,), generator=generator)
    new = Events(
        events.edge_index[:, chosen],  # users and items as popular as they are in the log
        events.edge_time[-1] + 1 + torch.arange(settings.append_edges) // 100,
        events.num_users,
        events.num_items,
    )
    rows = _append_or_rebuild(settings, base, events, new)
    grown = base.append(new.edge_index, new.edge_time, row="source")
    begin = time.perf_counter()
    compacted = grown.compact()
    seconds = time.perf_counter() - begin
    rows.append(Row(case="compaction after it", system=OURS, unit="s", value=seconds, seeds=0))
    later = Queries(queries.user, torch.full_like(queries.time, int(new.edge_time[-1]) + 1))
    strategies: dict[str, Any] = {"last-K": RecentNeighborSampler, "uniform": UniformNeighborSampler}
    for name, strategy in strategies.items():
        one, other = (strategy(csr, settings.num_neighbors) for csr in (grown, compacted))
        _check_same_edges(one.sample(*later.batch(0)), other.sample(*later.batch(0)))
        systems = {OURS: partial(_sample, one, later), f"{OURS}, compacted": partial(_sample, other, later)}
        rows += speed_rows(
            f"sampling after it, {name}",
            take_turns(systems, settings.seconds),
            amount=settings.batch_size,
            unit="seeds/s",
            seeds=settings.batch_size,
        )
    return rows


def _append_or_rebuild(settings: Settings, base: TemporalCSR, old: Events, new: Events) -> list[Row]:
    whole = Events(
        torch.cat([old.edge_index, new.edge_index], 1),
        torch.cat([old.edge_time, new.edge_time]),
        old.num_users,
        old.num_items,
    )
    rebuilt = f"{OURS}, rebuilt"
    systems: dict[str, Callable[[int], Any]] = {
        OURS: lambda _: base.append(new.edge_index, new.edge_time, row="source"),
        rebuilt: lambda _: whole.csr_of_users(),
    }
    timings = take_turns(systems, settings.seconds, warm_up=1)
    case = f"appending {settings.append_edges:,} edges to {settings.large_edges:,}"
    rows = [Row(case=case, system=name, unit="s", value=timings.median(name), seeds=0) for name in systems]
    return [
        *rows,
        Row(case=case, system=rebuilt, unit=RATIO, value=timings.ratio(rebuilt, OURS), seeds=0),
    ]


def _on_disk(settings: Settings, csrs: CSRS) -> list[Row]:
    """Save both directions, and open and sample them in a fresh process."""
    with tempfile.TemporaryDirectory(dir=settings.cache) as folder:
        begin = time.perf_counter()
        for name, csr in zip(("users", "items"), csrs.values(), strict=True):
            csr.save(Path(folder) / name)
        seconds = time.perf_counter() - begin
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        command = [
            sys.executable,
            "-m",
            "experiments.benchmarks.samplers.mapped",
            folder,
            *(str(number) for number in (settings.batch_size, settings.num_neighbors, settings.random_seed)),
        ]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    case = f"memory map of {settings.large_edges:,} edges"
    edges = settings.large_edges
    return [
        _limit("bytes an edge, both directions", OURS, "bytes", size / edges, 40.0, settings),
        Row(case="saving both directions", system=OURS, unit="s", value=seconds, seeds=0),
        _limit(f"{case}, opened", OURS, "s", found["open_seconds"], 1.0, settings),
        Row(
            case=f"{case}, last-K from it, nothing in memory before",
            system=OURS,
            unit="seeds/s",
            value=found["seeds_per_second"],
            seeds=settings.batch_size,
        ),
        Row(case=f"{case}, size of the files", system=OURS, unit="MB", value=size / 1e6, seeds=0),
        Row(
            case=f"{case}, resident set when opened",
            system=OURS,
            unit="MB",
            value=found["resident_opened"] / 1e6,
            seeds=0,
        ),
        _limit(
            f"{case}, peak resident set after {found['batches']} batches, share of the files",
            OURS,
            "of the size",
            found["resident_peak"] / size,
            MAX_RESIDENT_SHARE,
            settings,
        ),
    ]


def _users(csrs: CSRS) -> TemporalCSR:
    """Return the direction whose rows are users."""
    return next(iter(csrs.values()))


def _sample(sampler: NeighborSampler, queries: Queries, number: int) -> Any:
    return sampler.sample(*queries.batch(number))


def _check_same_edges(one: Any, other: Any) -> None:
    if not torch.equal(one.mask, other.mask) or not torch.equal(one.edge_id, other.edge_id):
        raise AssertionError("compaction changed the sampled edges")


def _limit(case: str, system: str, unit: str, value: float, target: float, settings: Settings) -> Row:
    return Row(
        case=case,
        system=system,
        unit=unit,
        value=value,
        seeds=settings.batch_size,
        target=target,
        target_is="at most",
    )
