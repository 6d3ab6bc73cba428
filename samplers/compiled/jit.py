"""How loops are compiled, kept on disk, and spread over threads."""

import hashlib
import inspect
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import torch

_SOURCE = hashlib.blake2b(digest_size=8)
for _file in sorted(Path(__file__).parent.glob("*.py")):
    _SOURCE.update(_file.read_bytes())


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call without Python's lock held, and keep the machine code on disk.

    numba drops what it kept when the file of a function changes; ours call functions of other files too, so
    here any change in this package drops it.
    """
    function = inspect.unwrap(function)  # of the run-time type checks that tests put around every function
    dispatcher = numba.njit(nogil=True, error_model="numpy")(function)
    try:
        dispatcher.enable_caching()
        dispatcher._cache._cache_file._source_stamp = (_SOURCE.hexdigest(), numba.__version__)
    except (AttributeError, RuntimeError):  # no folder that can be written to: compiled anew in each process
        return numba.njit(nogil=True, error_model="numpy")(function)
    return dispatcher


_pools: dict[int, ThreadPoolExecutor] = {}
_pools_lock = threading.Lock()


def run(kernel: Any, size: int, *arguments: Any, least: int = 256) -> None:
    """Call ``kernel(first, stop, *arguments)`` on pieces of ``range(size)``, in torch's number of threads.

    Plain threads rather than numba's parallel loops: those fail in forked workers, and when two threads call
    them.

    Args:
        kernel: a compiled function that writes its part of the results.
        size: how many queries there are.
        arguments: the rest of its arguments.
        least: a piece has at least so many queries: a thread costs some ten microseconds to wake.

    """
    num_threads = min(torch.get_num_threads(), size // least)
    if num_threads <= 1:
        if size:
            kernel(0, size, *arguments)
        return
    # several pieces a thread, since queries differ in their work
    num_pieces = min(num_threads * 8, size // least)
    bounds = [size * i // num_pieces for i in range(num_pieces + 1)]
    next_piece = iter(range(num_pieces))  # CPython's range iterator hands out each number once

    def work() -> None:
        for i in next_piece:
            kernel(bounds[i], bounds[i + 1], *arguments)

    _work_together(work, num_threads)


def run_in_order(num_pieces: int, first: Callable[[int], object], then: Callable[[int], object]) -> None:
    """Call ``first(i)`` for each piece in torch's number of threads, and ``then(i)`` after it, in order.

    Calls of ``first`` overlap with all others; those of ``then`` come one at a time, piece 0 before piece 1,
    so that each goes on where the last one ended. Who has made a piece ready finishes it if its turn has
    come, while it is in that core's cache.
    """
    next_piece = iter(range(num_pieces))
    is_ready = [False] * num_pieces
    turn, done = threading.Lock(), 0

    def finish() -> None:
        nonlocal done
        # asked again after the release: a piece may have become ready when this thread still had the turn
        while done < num_pieces and is_ready[done] and turn.acquire(blocking=False):
            try:
                while done < num_pieces and is_ready[done]:
                    then(done)
                    done += 1
            finally:
                turn.release()

    def work() -> None:
        for i in next_piece:
            first(i)
            is_ready[i] = True
            finish()

    _work_together(work, min(torch.get_num_threads(), num_pieces))


def _work_together(work: Callable[[], None], num_threads: int) -> None:
    """Call ``work`` in so many threads, one of them this one."""
    others = [_pool(num_threads - 1).submit(work) for _ in range(num_threads - 1)]
    try:
        work()
    finally:
        _wait(others)


def _pool(num_workers: int) -> ThreadPoolExecutor:
    with _pools_lock:
        if num_workers not in _pools:
            _pools[num_workers] = ThreadPoolExecutor(num_workers, thread_name_prefix="samplers")
        return _pools[num_workers]


def _forget_pools() -> None:
    """Leave the parent's threads to the parent, and its lock, which another thread may hold."""
    global _pools_lock
    _pools.clear()
    _pools_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pools)


def _wait(futures: list[Future[None]]) -> None:
    for future in futures:
        if not future.cancel():  # not begun yet: its pieces are done already
            future.result()
