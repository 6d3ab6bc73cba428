"""Rows of the benchmark: on disk as JSON lines, on a terminal and as a Markdown table."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

from experiments.benchmarks.samplers.settings import NUM_THREADS, Settings
from experiments.benchmarks.samplers.timing import Timings
from experiments.results_table import read_lines, write_lines

OURS = "graphrec"
RATIO = "ratio"
_PACKAGES = ("torch", "numpy", "numba", "dgl", "torch-geometric", "torch-sparse")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of one system in one case.

    A ratio is a row of its own with unit "ratio" and the peer as its system; it says how many times our
    figure is the peer's, or how many times as long we take, as ``case`` says.
    """

    case: str
    system: str
    unit: str
    value: float
    seeds: int
    """Queries in a batch."""
    target: float | None = None
    target_is: Literal["at least", "at most"] = "at least"

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        return self.value >= self.target if self.target_is == "at least" else self.value <= self.target


def speed_rows(
    case: str,
    timings: Timings,
    *,
    amount: float,
    unit: str,
    seeds: int,
    targets: Mapping[str, float] | None = None,
    ours: str = OURS,
) -> list[Row]:
    """Make rows of speeds, and of our speed over each peer's.

    Args:
        case: name of the case.
        timings: of our system and its peers.
        amount: units that a batch brings.
        unit: such as "seeds/s".
        seeds: queries in a batch.
        targets: the least ratio for each peer that has one.
        ours: name of our system.

    """
    rows = [
        Row(case=case, system=system, unit=unit, value=amount / timings.median(system), seeds=seeds)
        for system in timings.seconds
    ]
    for peer in timings.seconds:
        if peer != ours:
            ratio, target = timings.ratio(peer, ours), (targets or {}).get(peer)
            rows.append(Row(case=case, system=peer, unit=RATIO, value=ratio, seeds=seeds, target=target))
    return rows


def environment(settings: Settings) -> dict[str, Any]:
    """Describe what the figures were taken on: versions, processor, threads, sizes, commit and date."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "versions": versions,
        "cpu": f"{_processor()}, {os.cpu_count()} cores, {NUM_THREADS} threads used",
        "cuda": device,
        "edges": settings.edges,
        "large_edges": settings.large_edges,
        "users": settings.users,
        "items": settings.items,
        "random_seed": settings.random_seed,
        "commit": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def write_rows(path: Path, rows: Sequence[Row], described: Mapping[str, Any]) -> None:
    """Put rows in the place of earlier ones of the same cases; the file is replaced at once.

    Args:
        path: the JSON-lines file.
        rows: one line each.
        described: what `environment` returned; written into every line.

    """
    cases = {row.case for row in rows}
    kept = [line for line in read_lines(path) if line["case"] not in cases]
    write_lines(path, [*kept, *({**asdict(row), **described} for row in rows)])


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a file that `write_rows` wrote."""
    names = Row.__dataclass_fields__
    return [Row(**{name: line[name] for name in names}) for line in read_lines(path)]


def table(rows: Iterable[Row]) -> list[tuple[str, str, str, str, str, str]]:
    """Make the lines of a table: case, ours, peer, ratio, target, met; every peer of a case has its line."""
    by_case: dict[str, list[Row]] = {}
    for row in rows:
        by_case.setdefault(row.case, []).append(row)
    lines = []
    for case, found in by_case.items():
        values = {row.system: row for row in found if row.unit != RATIO}
        ratios = {row.system: row for row in found if row.unit == RATIO}
        ours = _quantity(values.get(OURS))
        for peer in [system for system in values if system != OURS]:
            ratio = ratios.get(peer)
            shown = f"{peer}: {_quantity(values[peer])}"
            lines.append((case, ours, shown, _number(ratio.value) if ratio else "", *_verdict(ratio)))
        if OURS in values and (len(values) == 1 or values[OURS].target is not None):
            lines.append((case, ours, "", "", *_verdict(values[OURS])))
    return lines


COLUMNS = ("case", "ours", "peer", "ratio", "target", "met")


def markdown_table(rows: Iterable[Row]) -> str:
    """Make a Markdown table of rows."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *table(rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def print_table(rows: Iterable[Row]) -> None:
    """Print rows as a table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title="Samplers beside their peers")
    for name in COLUMNS:
        shown.add_column(name, justify="left" if name in ("case", "met") else "right")
    for line in table(rows):
        shown.add_row(*line)
    Console(width=None if os.isatty(1) else 150).print(shown)


def _quantity(row: Row | None) -> str:
    return "" if row is None else f"{_number(row.value)} {row.unit}"


def _verdict(row: Row | None) -> tuple[str, str]:
    if row is None or row.target is None:
        return "", ""
    return f"{row.target_is} {row.target:g}", "yes" if row.met else "no"


def _number(value: float) -> str:
    for limit, suffix in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if value >= limit:
            return f"{value / (1e3 if suffix == ' k' else limit):.3g}{suffix}"
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"
