"""A table of which only the rows that are asked for are made, in fixed blocks."""

import threading
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

BLOCK_SIZE = 256  # rows that are made together: always the same ones, so that a row has no history


class BlockTable:
    """Rows by number, made when they are first asked for, by one thread at a time.

    What makes them, always the same function from row numbers to (rows, width), comes with each call: kept
    here, a method of the table's owner would be a cycle, and an owner that is not needed any more would wait
    for the garbage collector with all that it holds.

    Args:
        num_rows: rows of the whole table.

    """

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._filled = np.zeros(-(-num_rows // BLOCK_SIZE), bool)
        self._lock = threading.Lock()
        self._rows: Tensor | None = None

    @property
    def blocks(self) -> Int64[np.ndarray, " num_blocks"]:
        """Blocks that have been made."""
        return self._filled.nonzero()[0]

    def look_up(
        self, row: Int64[Tensor, " num_chosen"], make: Callable[[Tensor], Tensor]
    ) -> Float32[Tensor, "num_chosen width"]:
        """Return rows by number, of which there is at least one."""
        filled = self._filled[row.numpy() // BLOCK_SIZE]
        if not filled.all():
            self.fill(np.unique(row.numpy()[~filled] // BLOCK_SIZE), make)
        assert self._rows is not None
        return self._rows[row]

    @torch.inference_mode()
    def fill(self, blocks: Int64[np.ndarray, " num_blocks"], make: Callable[[Tensor], Tensor]) -> None:
        """Make blocks that have not been made yet."""
        for block in blocks.tolist():
            with self._lock:
                if self._filled[block]:
                    continue
                first, stop = block * BLOCK_SIZE, min((block + 1) * BLOCK_SIZE, self._num_rows)
                rows = make(torch.arange(first, stop))
                if self._rows is None:
                    self._rows = torch.empty(self._num_rows, rows.shape[1])
                self._rows[first:stop] = rows
                self._filled[block] = True  # after its rows: readers look at this first
