"""Times several systems in turns, so that a noisy machine disturbs all of them alike."""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

TURNS = 12  # aimed at for each system
MIN_TURNS = 3


@dataclass(frozen=True, eq=False)
class Timings:
    """Seconds a batch of each system, one value for each turn; turn i of all systems lay side by side."""

    seconds: dict[str, np.ndarray]

    def median(self, system: str) -> float:
        """Return the median seconds a batch."""
        return float(np.median(self.seconds[system]))

    def ratio(self, system: str, other: str) -> float:
        """Return how many times as long ``system`` takes as ``other``: the median over the turns."""
        return float(np.median(self.seconds[system] / self.seconds[other]))


def take_turns(
    systems: Mapping[str, Callable[[int], Any]],
    seconds: float,
    *,
    warm_up: int = 3,
    synchronize: Callable[[], object] = lambda: None,
) -> Timings:
    """Run each system for a while, then the next, and so on, in an order that is reversed each time.

    Args:
        systems: by name, a function of the batch number. In a turn, a system runs as many batches as fill its
            share of ``seconds``, from batch 0 on.
        seconds: time for all turns together; each system has at least three turns.
        warm_up: batches run by each system before: compiled kernels compile at their first call.
        synchronize: waits for what a system has started (on a CUDA device).

    """
    batches = {}
    for name, run in systems.items():
        for number in range(warm_up):
            run(number)
        synchronize()
        begin = time.perf_counter()
        run(warm_up)
        synchronize()
        share = seconds / (TURNS * len(systems))
        batches[name] = max(1, int(share / max(time.perf_counter() - begin, 1e-9)))
    taken: dict[str, list[float]] = {name: [] for name in systems}
    order, end = list(systems), time.perf_counter() + seconds
    gc.collect()
    gc.disable()
    try:
        while time.perf_counter() < end or len(taken[order[0]]) < MIN_TURNS:
            for name in order:
                run = systems[name]
                begin = time.perf_counter()
                for number in range(batches[name]):
                    run(number)
                synchronize()
                taken[name].append((time.perf_counter() - begin) / batches[name])
            order.reverse()
    finally:
        gc.enable()
    return Timings({name: np.array(times) for name, times in taken.items()})
