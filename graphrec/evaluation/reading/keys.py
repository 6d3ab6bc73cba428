"""Row keys: one or several columns that tell all rows of a source apart, and find them again in another."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Bool, Int32

from graphrec.evaluation.reading.identifiers import Identifiers


class RowKeys:
    """Numbers the keys of a first source in the order of its rows, so that a key's number is its row.

    Columns are numbered one by one, and each two joined numbers become one number again.

    Args:
        columns: names of the key's columns.

    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.columns = columns
        self._parts = [Identifiers() for _ in columns]
        self._joined = [Identifiers() for _ in columns[1:]]

    def __len__(self) -> int:
        return len((self._joined or self._parts)[-1])

    def add(self, frame: pl.DataFrame) -> Bool[np.ndarray, " num_rows"]:
        """Take further rows of the first source; returns which of them repeat the key of an earlier row."""
        before = len(self)
        code = self.find(frame, grow=True)
        repeats = code < before
        # a new key has a greater number than all before it
        repeats[1:] |= code[1:] <= np.maximum.accumulate(code)[:-1]
        return repeats

    def find(self, frame: pl.DataFrame, *, grow: bool = False) -> Int32[np.ndarray, " num_rows"]:
        """Return the row of the first source that has each row's key; -1 where none has it."""
        code = self._parts[0].codes(frame[self.columns[0]], grow=grow)
        for column, part, joined in zip(self.columns[1:], self._parts[1:], self._joined, strict=True):
            more = part.codes(frame[column], grow=grow)
            known = (code >= 0) & (more >= 0)
            both = (code[known].astype(np.int64) << 32) | more[known]
            code = np.full(frame.height, -1, np.int32)
            code[known] = joined.codes(pl.Series(both, dtype=pl.Int64), grow=grow)
        return code

    def in_words(self, frame: pl.DataFrame, row: int) -> str:
        """Return the key of a row of a chunk."""
        return ", ".join(f"{column}={frame[column][row]}" for column in self.columns)

    def of_row(self, row: int) -> str:
        """Return the key of a row of the first source."""
        code, values = row, []
        for part, joined in zip(reversed(self._parts[1:]), reversed(self._joined), strict=True):
            both = joined.values(np.array([code]))[0]
            code = both >> 32
            values.append(part.values(np.array([both & 0xFFFFFFFF]))[0])
        values.append(self._parts[0].values(np.array([code]))[0])
        return ", ".join(
            f"{column}={value}" for column, value in zip(self.columns, reversed(values), strict=True)
        )
