"""How compiled loops are spread over processors, by plain threads: the loops hold no lock of Python's.

`samplers.compiled` has its own form of this, by torch's number of threads: evaluation does not load torch.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def num_threads() -> int:
    """Threads that loops are spread over: one a processor."""
    return os.cpu_count() or 1


def run_tasks(tasks: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
    """Call functions with their arguments, on all processors; results must not depend on the order."""
    workers = min(num_threads(), len(tasks))
    if workers <= 1:
        return [function(*arguments) for function, arguments in tasks]
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(function, *arguments) for function, arguments in tasks]
        return [future.result() for future in futures]
