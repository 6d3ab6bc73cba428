"""Command line: ``python -m experiments.benchmarks.samplers [--only one_hop walks] [--edges 1000000]``."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from experiments.benchmarks.samplers.settings import DEFAULT_OUT, NUM_THREADS, Settings

if TYPE_CHECKING:
    from experiments.benchmarks.samplers.results import Row

# OpenMP and numba read these when they are loaded, so they are set before any of them is
if __name__ == "__main__":
    for _name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[_name] = str(NUM_THREADS)
    # threads that wait by spinning would take the cores from the system whose turn comes next
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

Part = Literal["one_hop", "two_hops", "adapters", "walks", "build", "epoch", "large", "gpu"]
PARTS: tuple[Part, ...] = ("one_hop", "two_hops", "adapters", "walks", "build", "epoch", "large", "gpu")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure the samplers beside DGL and PyG, in one run and with the same seeds.

    Attributes:
        settings: sizes, seeds and time limits.
        only: the parts to measure, in this order.
        out: JSON-lines file in which the rows replace those of the same cases.

    """

    settings: Settings = field(default_factory=Settings)
    only: tuple[Part, ...] = PARTS
    out: Path = DEFAULT_OUT


def main(options: Options) -> None:
    """Measure part by part, write the rows of each as it ends, and print the table of all."""
    import torch

    from experiments.benchmarks.samplers.results import environment, print_table, write_rows

    torch.set_num_threads(NUM_THREADS)
    described, rows = environment(options.settings), []
    for part in options.only:
        begin = time.perf_counter()
        measured = load(part)(options.settings)
        if measured:
            write_rows(options.out, measured, described)
        rows += measured
        print(f"{part}: {len(measured)} rows in {time.perf_counter() - begin:.0f} s", flush=True)
    print_table(rows)
    print(f"rows: {options.out}")


def load(part: Part) -> "Callable[[Settings], list[Row]]":
    """Import a part and return its function."""
    measure: Callable[[Settings], list[Row]] = import_module(
        f"experiments.benchmarks.samplers.{part}"
    ).measure
    return measure


if __name__ == "__main__":
    import tyro

    main(tyro.cli(tyro.conf.OmitArgPrefixes[Options]))
