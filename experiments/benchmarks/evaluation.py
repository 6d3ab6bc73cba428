"""How long AUC, GAUC and rankings take beside scikit-learn, and a file of any size to evaluate.

Run ``python -m experiments.benchmarks.evaluation --rows 10000000``, and with ``--large 100000000`` also for a
Parquet file of that many rows, evaluated by a process of its own whose peak memory is told. Rows are
synthetic: users follow a Zipf law, scores are probabilities and clicks are drawn from them. A loop of
scikit-learn over users is measured on a sample of users and scaled by their number, which the printed line
says. Figures of both sides are compared.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from experiments.results_table import read_lines, write_lines
from graphrec.evaluation import auc, average_precision, gauc, hit_rate, mean_reciprocal_rank, ndcg

OURS = "graphrec"
_START_MS = 1_651_363_200_000  # 2022-05-01 00:00 UTC
_DAY_MS = 86_400_000
_NUM_DAYS = 5
_NUM_TABS = 5
_ROW_GROUP = 1_000_000
_PACKAGES = ("numpy", "numba", "scikit-learn", "polars", "scipy", "pyarrow")


@dataclass(frozen=True, kw_only=True)
class Row:
    """Seconds of one system in one case, and for a peer how many times as long as ours it takes."""

    case: str
    system: str
    rows: int
    seconds: float
    ratio: float | None = None
    target: float | None = None
    """The least ratio that was wished for."""
    measured_rows: int | None = None
    """Rows of the sample whose seconds were scaled to all rows; None where all were measured."""
    peak_gib: float | None = None
    """Peak resident set of the process, where it had one of its own."""


def make_rows(
    num_rows: int, *, random_seed: int, num_users: int = 1_000_000
) -> Iterator[dict[str, np.ndarray]]:
    """Draw impressions in the order of time, in blocks of one row group.

    A block has ``label`` (uint8), ``score`` (float64 in (0, 1), of which labels are drawn), ``user_id``
    (int64, Zipf with exponent 1, numbers without order), ``time_ms`` (int64, ascending over five days) and
    ``tab`` (int8).
    """
    generator = np.random.default_rng(random_seed)
    activity = np.cumsum(1.0 / np.arange(1, num_users + 1))
    number_of_rank = generator.permutation(num_users).astype(np.int64)
    span = _NUM_DAYS * _DAY_MS
    for first in range(0, num_rows, _ROW_GROUP):
        stop = min(first + _ROW_GROUP, num_rows)
        size = stop - first
        rank = np.searchsorted(activity, generator.random(size) * activity[-1], side="right")
        score = 1.0 / (1.0 + np.exp(1.0 - generator.standard_normal(size)))
        begin, end = _START_MS + span * first // num_rows, _START_MS + span * stop // num_rows
        yield {
            "label": (generator.random(size) < score).astype(np.uint8),
            "score": score,
            "user_id": number_of_rank[np.minimum(rank, num_users - 1)],
            "time_ms": np.sort(generator.integers(begin, end, size)),
            "tab": generator.integers(0, _NUM_TABS, size).astype(np.int8),
        }


def write_large_file(path: Path, rows: int, seed: int) -> None:
    """Write `make_rows` as Parquet, one row group a block: memory holds one block, whatever ``rows``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    try:
        for block in make_rows(rows, random_seed=seed):
            table = pa.table(block)
            if writer is None:
                writer = pq.ParquetWriter(path, table.schema)
            writer.write_table(table, row_group_size=_ROW_GROUP)
    finally:
        if writer is not None:
            writer.close()


def measure_auc(columns: Mapping[str, np.ndarray], repeats: int) -> list[Row]:
    """AUC and average precision of all rows, in the order of time, beside scikit-learn's."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    label, score = columns["label"], columns["score"]
    rows = _compare(
        "AUC",
        lambda: auc(label, score),
        {"scikit-learn": lambda: float(roc_auc_score(label, score))},
        len(label),
        repeats,
        target=3.0,
    )
    return rows + _compare(
        "average precision",
        lambda: average_precision(label, score),
        {"scikit-learn": lambda: float(average_precision_score(label, score))},
        len(label),
        repeats,
    )


def measure_gauc(columns: Mapping[str, np.ndarray], repeats: int, sampled_users: int = 2000) -> list[Row]:
    """GAUC by user beside a loop of scikit-learn over users, and beside polars' ranks within users."""
    from sklearn.metrics import roc_auc_score

    label, score, user = columns["label"], columns["score"], columns["user_id"]
    rows = _compare(
        "GAUC",
        lambda: gauc(label, score, user).value,
        {"polars, ranks within users": lambda: _gauc_of_polars(label, score, user)},
        len(label),
        repeats,
    )

    def loop(groups: list[np.ndarray]) -> float:
        total = weight = 0.0
        for group in groups:
            clicks = label[group]
            if 0 < clicks.sum() < len(clicks):
                total += len(group) * float(roc_auc_score(clicks, score[group]))
                weight += len(group)
        return total / weight

    def ours(chosen: np.ndarray) -> float:
        return gauc(label[chosen], score[chosen], user[chosen]).value

    return [*rows, _scaled_loop("GAUC", rows[0], loop, ours, user, sampled_users, target=50.0)]


def measure_ranking(columns: Mapping[str, np.ndarray], repeats: int, sampled_users: int = 1000) -> list[Row]:
    """NDCG@10 by user beside a loop of scikit-learn; reciprocal rank and hit rate, which it lacks, alone."""
    from sklearn.metrics import ndcg_score

    label, score, user = columns["label"], columns["score"], columns["user_id"]
    rows = _compare("NDCG@10", lambda: ndcg(label, score, user, 10).value, {}, len(label), repeats)

    def loop(groups: list[np.ndarray]) -> float:
        ranked = [group for group in groups if label[group].any()]
        # scikit-learn refuses a single row, whose click is at the top
        found = [ndcg_score([label[g]], [score[g]], k=10) if len(g) > 1 else 1.0 for g in ranked]
        return float(np.mean(found))

    def ours(chosen: np.ndarray) -> float:
        return ndcg(label[chosen], score[chosen], user[chosen], 10).value

    rows.append(_scaled_loop("NDCG@10", rows[0], loop, ours, user, sampled_users))
    rows += _compare("MRR", lambda: mean_reciprocal_rank(label, score, user).value, {}, len(label), repeats)
    rows += _compare("hit rate@10", lambda: hit_rate(label, score, user, 10).value, {}, len(label), repeats)
    return rows


_EVALUATE = """
import json, resource, sys, time
from graphrec.evaluation import ReadOptions, evaluate
begin = time.perf_counter()
found = evaluate(sys.argv[1], columns=ReadOptions(by=("hour",)), num_resamples=int(sys.argv[2]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps([time.perf_counter() - begin, peak, found.facts["rows"], len(found.figures)]))
"""


def measure_large(
    path: Path, num_rows: int, seed: int, num_resamples: Sequence[int] = (0, 1000)
) -> list[Row]:
    """All figures over all rows and by hour of a Parquet file, which is written first where it is missing."""
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        write_large_file(temporary, num_rows, seed)
        temporary.replace(path)
    rows = []
    for resamples in num_resamples:
        command = [sys.executable, "-c", _EVALUATE, str(path), str(resamples)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds, peak, found_rows, _ = json.loads(done.stdout)
        if found_rows != num_rows:
            raise ValueError(f"{path} holds {found_rows} rows, not {num_rows}: remove it, it is made anew")
        case = f"file, all figures, by hour, {resamples} resamples"
        rows.append(Row(case=case, system=OURS, rows=num_rows, seconds=seconds, peak_gib=peak))
    return rows


CASES = {"auc": measure_auc, "gauc": measure_gauc, "ranking": measure_ranking}


def main(arguments: list[str] | None = None) -> None:
    """Measure the cases, print each system's seconds and ratio, and write them as JSON lines where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--cases", nargs="*", choices=CASES, default=None, help="default: all")
    parser.add_argument("--large", type=int, default=0, help="rows of the file to evaluate; 0: none")
    parser.add_argument("--cache", type=Path, default=Path("runs"), help="folder of that file")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON-lines file in which rows replace those of their cases")
    options = parser.parse_args(arguments)

    cases = list(CASES) if options.cases is None else options.cases
    rows: list[Row] = []
    described = environment() | {"users": options.users, "random_seed": options.seed}
    print(f"{options.rows:,} rows, {options.users:,} users; {described['cpu']}; {described['versions']}")
    if options.large:  # first, while this process holds nothing
        options.cache.mkdir(parents=True, exist_ok=True)
        path = options.cache / f"predictions-{options.large}-{options.seed}.parquet"
        rows += measure_large(path, options.large, options.seed)
        _print(rows)
    columns: dict[str, np.ndarray] = {}
    if cases:
        blocks = list(make_rows(options.rows, random_seed=options.seed, num_users=options.users))
        columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        del blocks
    for case in cases:
        measured = CASES[case](columns, options.repeats)
        _print(measured)
        rows += measured
    if options.out is not None:
        measured_cases = {row.case for row in rows}
        kept = [line for line in read_lines(options.out) if line["case"] not in measured_cases]
        write_lines(options.out, [*kept, *({**asdict(row), **described} for row in rows)])
        print(f"rows: {options.out}")


def _print(rows: Sequence[Row]) -> None:
    for row in rows:
        print(in_words(row), flush=True)


def environment() -> dict[str, Any]:
    """Describe what the figures were taken on."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "cpu": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": datetime.now(UTC).date().isoformat(),
    }


def in_words(row: Row) -> str:
    """Return the line that is printed of a row."""
    words = f"{row.case:<44}{row.system:<36}{row.seconds:10.3f} s"
    if row.peak_gib is not None:
        words += f", {row.rows:,} rows, peak {row.peak_gib:.2f} GiB"
    if row.ratio is not None:
        words += f"  {row.ratio:8.1f} times ours"
    if row.target is not None:
        words += f" (target {row.target:g})"
    if row.measured_rows is not None:
        words += f", scaled from the {row.measured_rows:,} rows of a sample of users"
    return words


def _compare(
    case: str,
    ours: Callable[[], float],
    peers: Mapping[str, Callable[[], float]],
    num_rows: int,
    repeats: int,
    target: float | None = None,
) -> list[Row]:
    """Take turns, and the shortest of several times, which other processes disturb least."""
    ours()  # loops are compiled, or their machine code read, at the first call
    systems = {OURS: ours, **peers}
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    values = {}
    for _ in range(repeats):
        for name, function in systems.items():
            begin = time.perf_counter()
            values[name] = function()
            seconds[name].append(time.perf_counter() - begin)
    best = {name: min(times) for name, times in seconds.items()}
    for name in peers:
        _check_same(case, name, values[OURS], values[name])
    return [Row(case=case, system=OURS, rows=num_rows, seconds=best[OURS])] + [
        Row(
            case=case,
            system=name,
            rows=num_rows,
            seconds=best[name],
            ratio=best[name] / best[OURS],
            target=target,
        )
        for name in peers
    ]


def _scaled_loop(
    case: str,
    ours: Row,
    loop: Callable[[list[np.ndarray]], float],
    ours_of_rows: Callable[[np.ndarray], float],
    user: np.ndarray,
    sampled_users: int,
    target: float | None = None,
) -> Row:
    """Time a loop over a sample of users, scaled by users: its calls cost most, whatever their rows.

    Finding the rows of each user is left out of the loop's time, which favours the loop.
    """
    everyone = np.unique(user)
    generator = np.random.default_rng(0)
    sample = generator.choice(everyone, min(sampled_users, len(everyone)), replace=False)
    chosen = np.flatnonzero(np.isin(user, sample))
    ordered = chosen[np.argsort(user[chosen], kind="stable")]
    groups = np.split(ordered, np.flatnonzero(np.diff(user[ordered])) + 1)
    begin = time.perf_counter()
    value = loop(groups)
    seconds = (time.perf_counter() - begin) * len(everyone) / len(sample)
    _check_same(case, "scikit-learn, loop over users", ours_of_rows(chosen), value)
    return Row(
        case=case,
        system="scikit-learn, loop over users",
        rows=len(user),
        seconds=seconds,
        ratio=seconds / ours.seconds,
        target=target,
        measured_rows=len(chosen),
    )


def _gauc_of_polars(label: np.ndarray, score: np.ndarray, user: np.ndarray) -> float:
    """GAUC weighted by impressions, from the mean ranks of clicks within users."""
    clicks, count, ranks = pl.col("clicks"), pl.col("count"), pl.col("ranks")
    others = count - clicks
    area = (ranks - clicks * (clicks + 1) / 2) / (clicks * others)
    frame = pl.DataFrame({"label": label.astype(np.int64), "score": score, "user": user})
    kept = (
        frame.with_columns(rank=pl.col("score").rank("average").over("user"))
        .group_by("user")
        .agg(
            clicks=pl.col("label").sum(),
            count=pl.len().cast(pl.Int64),
            ranks=(pl.col("rank") * pl.col("label")).sum(),
        )
        .filter((clicks > 0) & (others > 0))
        .select((area * count).sum() / count.sum())
    )
    return float(kept.item())


def _check_same(case: str, system: str, ours: float, theirs: float) -> None:
    if not abs(ours - theirs) < 1e-9:
        raise RuntimeError(f"{case}: ours is {ours!r}, but {system} finds {theirs!r}; times say nothing then")


if __name__ == "__main__":
    main()
