"""Columns that grow chunk by chunk: in memory, or in unnamed temporary files beyond a limit."""

import os
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def default_limit() -> int:
    """Three quarters of the memory that this process may use, in bytes."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in _CGROUP_LIMITS:
        try:
            total = min(total, int(Path(path).read_text()))
        except (OSError, ValueError):  # no such file, or the word max
            continue
    return total * 3 // 4


class ColumnStore:
    """Named columns, each appended to and finished once.

    Where the number of rows is known, a column is allocated at once, so that it never exists twice. A column
    that would exceed the limit in sum with those before it lies in a temporary file without a name (in the
    folder of the environment variable TMPDIR), which the operating system removes with the last reference.

    Args:
        num_rows: rows of every column; None where only the end will tell.
        limit: bytes of columns to keep in memory.

    """

    def __init__(self, num_rows: int | None, limit: int) -> None:
        self.num_rows = num_rows
        self._left = limit
        self._columns: dict[str, _Column] = {}
        self.num_in_files = 0

    def append(self, name: str, values: np.ndarray) -> None:
        """Add the values of the next rows to the column ``name``, which the first call creates."""
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = self._new(values.dtype)
        if column.whole is not None:
            column.whole[column.filled : column.filled + len(values)] = values
        elif column.file is not None:
            _write(column.file, values.astype(column.dtype, copy=False))
        else:
            column.chunks.append(values.astype(column.dtype, copy=False))
            self._left -= column.chunks[-1].nbytes
            if self._left < 0:
                self._move_to_file(column)
        column.filled += len(values)

    def allocate(self, dtype: np.dtype[Any], num_rows: int) -> np.ndarray:
        """Return a new column of ``num_rows`` values to be written in any order."""
        size = num_rows * np.dtype(dtype).itemsize
        if size > self._left:
            self.num_in_files += 1
            return _mapped(tempfile.TemporaryFile(), np.dtype(dtype), num_rows)
        self._left -= size
        return np.empty(num_rows, dtype)

    def finish(self, name: str) -> np.ndarray:
        """Return the whole column and let go of its chunks."""
        column = self._columns.pop(name)
        if column.whole is not None:
            return column.whole
        if column.file is not None:
            return _mapped(column.file, column.dtype, column.filled)
        whole = np.empty(column.filled, column.dtype)
        start = 0
        for position, chunk in enumerate(column.chunks):
            whole[start : start + len(chunk)] = chunk
            start += len(chunk)
            column.chunks[position] = chunk[:0].copy()
        return whole

    def _new(self, dtype: np.dtype[Any]) -> "_Column":
        column = _Column(dtype)
        if self.num_rows is not None:
            column.whole = self.allocate(dtype, self.num_rows)
        return column

    def _move_to_file(self, column: "_Column") -> None:
        column.file = tempfile.TemporaryFile()  # noqa: SIM115 (closed once it is mapped)
        self.num_in_files += 1
        for chunk in column.chunks:
            _write(column.file, chunk)
            self._left += chunk.nbytes
        column.chunks = []


class _Column:
    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.filled = 0
        self.whole: np.ndarray | None = None
        self.chunks: list[np.ndarray] = []
        self.file: IO[bytes] | None = None


def _write(file: IO[bytes], values: np.ndarray) -> None:
    file.write(np.ascontiguousarray(values).data)


def _mapped(file: IO[bytes], dtype: np.dtype[Any], num_rows: int) -> np.ndarray:
    """Return ``file`` as an array; the mapping keeps the storage after the file is closed."""
    with file:
        file.flush()
        file.truncate(max(1, num_rows * dtype.itemsize))
        return np.asarray(np.memmap(file, dtype, mode="r+", shape=(num_rows,)))
