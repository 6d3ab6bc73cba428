"""Loops compiled by numba, kept on disk. Needs no torch: the evaluation, which loads none, has loops too."""

import inspect
from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call and keep the machine code, where a folder for it can be written to.

    What is kept goes stale only with the function's own file: a compiled function calls none of another file.
    """
    function = inspect.unwrap(function)  # of the run-time type checks that tests put around every function
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:
        return numba.njit(nogil=True, error_model="numpy")(function)
