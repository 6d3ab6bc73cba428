"""What is done once whole columns have been read: slices in the order of their values, a fingerprint."""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from graphrec.evaluation.predictions import Slicing

_BLOCK = 1 << 20  # rows that are worked on at once, so that no column is copied
_MISSING = "missing"


def slicing_with_missing(name: str, code: np.ndarray, values: Sequence[str]) -> Slicing:
    """Give rows of code -1 a slice of their own, the last one; ``code`` is changed in place."""
    absent = False
    for start in range(0, len(code), _BLOCK):
        block = code[start : start + _BLOCK]
        without = block < 0
        if without.any():
            absent = True
            block[without] = len(values)
    if not absent:
        return Slicing(name, code, tuple(values))
    return Slicing(name, code, (*values, _MISSING if _MISSING not in values else f"{_MISSING} (no value)"))


def slicing_in_order(name: str, code: np.ndarray, values: Sequence[Any]) -> Slicing:
    """Order slices by size where all values are numbers, else by text; ``code`` is changed in place."""
    texts = [str(value) for value in values]
    try:
        order = sorted(range(len(texts)), key=lambda index: (float(texts[index]), texts[index]))
    except ValueError:
        order = sorted(range(len(texts)), key=lambda index: texts[index])
    rank = np.empty(len(texts) + 1, code.dtype)
    rank[np.array(order, np.int64)] = np.arange(len(texts))
    rank[-1] = -1  # what code -1 picks
    for start in range(0, len(code), _BLOCK):
        code[start : start + _BLOCK] = rank[code[start : start + _BLOCK]]
    return slicing_with_missing(name, code, [texts[index] for index in order])


def fingerprint(columns: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the names, types and values of columns, as a hexadecimal text."""
    with ThreadPoolExecutor(2) as pool:
        digests = list(pool.map(_digest, columns.values()))
    total = hashlib.sha256()
    for (name, values), digest in zip(columns.items(), digests, strict=True):
        total.update(f"{name}\0{values.dtype.str}\0{len(values)}\0".encode())
        total.update(digest)
    return total.hexdigest()


def _digest(values: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(values).data).digest()
