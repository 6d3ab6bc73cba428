"""What benchmarks share: the machine in words, cases in processes of their own, peak memory."""

import json
import platform
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from datetime import date
from multiprocessing import get_context
from typing import Any, TypeVar

import torch

from experiments.peak_memory import MIB

Case = TypeVar("Case")


def machine_facts() -> dict[str, str]:
    """Return the date, torch's version and the processor."""
    return {
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "cpu": platform.processor() or platform.machine(),
    }


def devices() -> tuple[str, ...]:
    """Return "cpu", and "cuda" where there is one."""
    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def measured_rows(
    measure: Callable[[Case], dict[str, Any]], cases: Callable[[str], Sequence[Case]]
) -> Iterator[dict[str, Any]]:
    """Yield the row of each case of each device, with the machine's facts, as soon as it is measured."""
    facts = machine_facts()
    for device in devices():
        for case in cases(device):
            yield {**measure_alone(measure, case), **facts}


def measure_alone(measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Measure in a new process, on one thread: peak memory is a process's own."""
    context = get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return pool.submit(measure, *arguments).result()


def is_measured(case: Any, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether rows, each with its case's fields, have one of a case: a dataclass."""
    wanted = json.loads(json.dumps(asdict(case)))  # as files have it: tuples are lists
    return any(all(row.get(name) == value for name, value in wanted.items()) for row in rows)


def peak_mib(device: str) -> float:
    """Return the most memory that this process has had so far: the GPU's, or its own on the CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB
