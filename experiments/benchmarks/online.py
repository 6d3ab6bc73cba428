"""The online ranker: requests a second and their latency, events a second, seconds to reopen.

``python -m experiments.benchmarks.online FOLDER`` takes a day's folder of ``daily_job``, with its default
configuration, and the day's own events. It ranks 200 candidates for users drawn at random, at 1 and at 8
client threads, and compares the scores of the day's impressions with the protocol's; the results go into
``experiments/results/online_benchmark.jsonl`` and onto the terminal.
"""

import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from experiments.benchmarks.served_day import compare_served_day
from experiments.config import lsttm_with_preference
from experiments.inputs import load_inputs
from experiments.results_table import write_lines
from experiments.serving_report import SERVING_BENCHMARK
from graphrec.serving import OnlineRanker
from graphrec.serving.snapshot import Snapshot

RESULTS = Path(__file__).parents[1] / "results" / SERVING_BENCHMARK
PARTS = {  # methods of a snapshot, by what the table calls them
    "sampling": ("sample_user",),
    "counts": ("count_both", "_count_user"),
    "GAT": ("_encode_short",),
    "fusion and head": ("fuse", "_look_up_items"),
}


@dataclass(frozen=True, kw_only=True)
class OnlineBenchmark:
    """What is measured.

    Attributes:
        num_candidates: items of a request.
        num_requests: requests of all threads together.
        threads: numbers of client threads.
        batch_sizes: events of a call of ``append``.
        num_events: events appended in calls of each size.

    """

    num_candidates: int = 200
    num_requests: int = 2000
    threads: tuple[int, ...] = (1, 8)
    batch_sizes: tuple[int, ...] = (1, 10, 100, 1000)
    num_events: int = 2000


def run_online(folder: Path, events: pl.DataFrame, config: OnlineBenchmark) -> list[dict[str, Any]]:
    """Measure a ranker of a day's folder on the day's own events, in the order of time.

    Args:
        folder: of the day.
        events: as the ranker takes them.
        config: what to measure.

    Returns:
        Rows (measure, setting, value, unit).

    """
    rows: list[dict[str, Any]] = []

    def add(measure: str, setting: str, value: float, unit: str) -> None:
        rows.append({"measure": measure, "setting": setting, "value": round(value, 4), "unit": unit})

    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".online.") as state:
        ranker, seconds = _timed(lambda: OnlineRanker.open(folder, state=state))
        add("open", "an empty log", seconds, "s")
        start = ranker.period_start
        middle = start + 12 * ranker.day.config.period
        early = events.filter(pl.col("time") < middle)
        _, seconds = _timed(lambda: ranker.append(early))
        add("append", f"{len(early)} events of 12 periods with their updates, one call", seconds, "s")
        _warm(ranker, config)
        for number in config.threads:
            latency, seconds = _rank_in_threads(ranker, config, number)
            setting = f"{config.num_candidates} candidates, {number} client threads"
            add("requests", setting, len(latency) / seconds, "1/s")
            for level in (50, 95, 99):
                add(f"latency p{level}", setting, 1000 * float(np.percentile(latency, level)), "ms")
        for name, share in _shares(ranker, config).items():
            add("share of a request", name, 100 * share, "%")
        late = events.filter(pl.col("time") >= middle)
        _, seconds = _timed(lambda: ranker.end_period(middle + ranker.day.config.period))
        add("end of a period", "update, graph, counts and items encoded anew", seconds, "s")
        now = ranker.period_start
        moved = late.with_columns(time=pl.lit(now), available_time=pl.lit(now))
        for size in config.batch_sizes:
            calls = max(min(config.num_events // size, 300), 5)
            parts = [moved.sample(size, with_replacement=True, seed=i) for i in range(calls)]
            _, seconds = _timed(partial(_append_all, ranker, parts))
            add("events appended, on disk", f"calls of {size}", calls * size / seconds, "1/s")
        num_events = ranker.num_events
        ranker.close()
        ranker, seconds = _timed(lambda: OnlineRanker.open(folder, state=state))
        add("reopen", f"checkpoint and a log of {num_events} events", seconds, "s")
        ranker.close()
        (Path(state) / "checkpoint.pt").unlink()
        ranker, seconds = _timed(lambda: OnlineRanker.open(folder, state=state))
        add("reopen", f"without the checkpoint: every update of {num_events} events again", seconds, "s")
        ranker.close()
    return rows


def _append_all(ranker: OnlineRanker, parts: Iterable[pl.DataFrame]) -> None:
    for part in parts:
        ranker.append(part)


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    result = function()
    return result, time.perf_counter() - began


def _requests(ranker: OnlineRanker, config: OnlineBenchmark, seed: int) -> Iterator[tuple[Any, pl.Series]]:
    """Yield users and candidates without end: a user as likely as any other, so hardly one comes twice."""
    users, items = (ranker.day.ids[name].id_series for name in ("user", "item"))
    rng = np.random.default_rng(seed)
    while True:
        yield (
            users[int(rng.integers(len(users)))],
            items.gather(rng.choice(len(items), config.num_candidates, False)),
        )


def _context(ranker: OnlineRanker) -> dict[str, int]:
    return dict.fromkeys(ranker.day.config.event_columns, 1)


def _warm(ranker: OnlineRanker, config: OnlineBenchmark) -> None:
    """Encode all items, as a period's end does for those that the former period asked for."""
    requests = _requests(ranker, config, -1 % 2**32)
    for _ in range(100):
        user, items = next(requests)
        ranker.rank(user, items, _context(ranker), ranker.period_start)


def _rank_in_threads(ranker: OnlineRanker, config: OnlineBenchmark, number: int) -> tuple[np.ndarray, float]:
    """Return the latency of every request in seconds, and the seconds that all took together."""
    latency: list[list[float]] = [[] for _ in range(number)]

    def client(index: int) -> None:
        requests = _requests(ranker, config, index)
        for _ in range(config.num_requests // number):
            user, items = next(requests)
            began = time.perf_counter()
            ranker.rank(user, items, _context(ranker), ranker.period_start)
            latency[index].append(time.perf_counter() - began)

    threads = [threading.Thread(target=client, args=(index,)) for index in range(number)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return np.concatenate(latency), time.perf_counter() - began


def _shares(ranker: OnlineRanker, config: OnlineBenchmark) -> dict[str, float]:
    """Return the share of each part in the time of requests by one thread."""
    spent = dict.fromkeys(PARTS, 0.0)
    requests = _requests(ranker, config, 99)
    with _watched(spent):
        began = time.perf_counter()
        for _ in range(config.num_requests // 4):
            user, items = next(requests)
            ranker.rank(user, items, _context(ranker), ranker.period_start)
        total = time.perf_counter() - began
    shares = {name: seconds / total for name, seconds in spent.items()}
    return {**shares, "all else": 1 - sum(shares.values())}


@contextmanager
def _watched(spent: dict[str, float]) -> Iterator[None]:
    """Add up the seconds that are spent in the parts of a request."""
    real = {name: getattr(Snapshot, name) for names in PARTS.values() for name in names}

    def watch(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            result, seconds = _timed(lambda: function(*arguments))
            spent[part] += seconds
            return result

        return call

    try:
        for part, names in PARTS.items():
            for name in names:
                setattr(Snapshot, name, watch(part, real[name]))
        yield
    finally:
        for name, function in real.items():
            setattr(Snapshot, name, function)


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print the rows as a Markdown table."""
    print("| measure | setting | value |\n|---|---|---|")
    for row in rows:
        value = f"{row['value']:.4g} {row['unit']}".strip()
        print(f"| {row['measure']} | {row['setting']} | {value} |")


def main(arguments: list[str]) -> int:
    """Measure the folder that is named, write the results and print them."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m experiments.benchmarks.online FOLDER (of daily_job)", file=sys.stderr)
        return 2
    torch.set_num_threads(1)  # client threads share the cores
    folder, config = Path(arguments[0]), OnlineBenchmark()
    try:
        with OnlineRanker.open(folder, state=(scratch := Path(tempfile.mkdtemp()))) as ranker:
            start, columns = ranker.period_start, ranker.events().columns
            day = ranker.day
        shutil.rmtree(scratch)
        inputs = load_inputs()
        compared = compare_served_day(inputs, folder, lsttm_with_preference())
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    end = start + 24 * 3_600_000
    frame = inputs.tables.events.frame
    events = frame.filter((pl.col("time") >= start) & (pl.col("time") < end)).select(columns)
    rows = run_online(folder, events.sort("time", maintain_order=True), config) + compared
    facts = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} torch thread",
        "load_average": os.getloadavg()[1],  # over five minutes, this run included
        "torch": torch.__version__,
        "users": day.ids["user"].num_ids,
        "items": day.ids["item"].num_ids,
        "past_counts": 0 if day.config.counts is None else len(day.config.counts.features),
        "configuration": asdict(config),
    }
    write_lines(RESULTS, [{**row, **facts} for row in rows])
    print_table(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
