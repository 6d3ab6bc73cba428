"""Dense codes for identifiers of any type, chunk by chunk, in the order of first appearance."""

from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int32, Int64

from graphrec.evaluation.reading.compiled_identifiers import insert_keys
from graphrec.evaluation.reading.errors import PredictionsError

_LARGEST_TABLE = 1 << 26  # integers a direct table may span: 256 MiB


class Identifiers:
    """Codes from 0 for distinct values, numbered as they first appear, whatever the size of the chunks.

    Integers keep 4 bytes for each number of their range where that is small, else a hash table; floats are
    told apart by their bits; all else by its text. The first chunk decides how values are compared: later
    ones are cast, and what cannot be cast is unknown.
    """

    def __init__(self) -> None:
        self.kind = ""
        self._integers = _Integers()
        self._text_type: pl.Categorical | None = None
        self._anchor: pl.Series | None = None

    def __len__(self) -> int:
        return self._integers.size

    def codes(self, values: pl.Series, *, grow: bool = True) -> Int32[np.ndarray, " num_rows"]:
        """Return each value's code; -1 for a null, a NaN and, without ``grow``, a value not seen before."""
        if values.dtype == pl.Null:
            return np.full(len(values), -1, np.int32)
        if not self.kind:
            self.kind = _kind(values.dtype)
            if self.kind == "text":
                self._text_type = pl.Categorical(pl.Categories.random())
                # the categories live as long as a column of their type does
                self._anchor = pl.Series([], dtype=self._text_type)
        given, values = values, self._comparable(values)
        if grow and values.null_count() > given.null_count() + (
            given.is_nan().sum() if given.dtype.is_float() else 0
        ):
            raise PredictionsError(f"column {given.name!r} holds values of several types; write one type")
        if not values.null_count():
            return self._integers.codes(self._as_integers(values), grow)
        present = values.is_not_null().to_numpy()
        result = np.full(len(values), -1, np.int32)
        result[present] = self._integers.codes(self._as_integers(values.drop_nulls()), grow)
        return result

    def values(self, codes: Int64[np.ndarray, " num_codes"] | None = None) -> list[Any]:
        """Return the values of codes, of all where none are given."""
        keys = self._integers.values[: len(self)]
        if codes is not None:
            keys = keys[codes]
        if self.kind == "text":
            assert self._text_type is not None
            texts = pl.Series(keys.astype(np.uint32)).cat.to(self._text_type).cast(pl.String)
            return texts.to_list()
        if self.kind == "float":
            return keys.view(np.float64).tolist()
        if self.kind == "unsigned":
            return keys.view(np.uint64).tolist()
        return keys.tolist()

    def _comparable(self, values: pl.Series) -> pl.Series:
        """Cast to the type that this column is compared in; what does not fit becomes null."""
        if values.dtype == pl.Binary:
            values = values.bin.encode("hex")
        if values.dtype.is_float():
            values = values.fill_nan(None)
        if self.kind == "text":
            return values if values.dtype == pl.String else values.cast(pl.String)
        if self.kind == "float":
            return values.cast(pl.Float64, strict=False) + 0.0  # negative zero is zero
        if values.dtype.is_float():  # whole numbers alone may equal an integer
            values = values.to_frame("v").select(pl.when(pl.col("v") == pl.col("v").floor()).then("v"))["v"]
        return values.cast(pl.UInt64 if self.kind == "unsigned" else pl.Int64, strict=False)

    def _as_integers(self, values: pl.Series) -> np.ndarray:
        if self.kind == "text":
            assert self._text_type is not None
            return values.cast(self._text_type).to_physical().cast(pl.Int64).to_numpy()
        return np.ascontiguousarray(values.to_numpy()).view(np.int64)


class _Integers:
    """Codes of int64 values: a direct table over a small range, else a hash table."""

    def __init__(self) -> None:
        self.size = 0
        self.values = np.empty(1024, np.int64)
        self._direct: np.ndarray | None = np.empty(0, np.int32)
        self._first = 0
        self._slots = np.empty(0, np.int32)

    def codes(self, keys: np.ndarray, grow: bool) -> np.ndarray:
        if not len(keys):
            return np.empty(0, np.int32)
        if self._direct is not None:
            low, high = int(keys.min()), int(keys.max())
            if self._covers(low, high) or (grow and self._extend(low, high)):
                return self._codes_direct(keys, grow)
            if not grow:
                inside = (keys >= self._first) & (keys < self._first + len(self._direct))
                found = np.full(len(keys), -1, np.int32)
                found[inside] = self._direct[keys[inside] - self._first]
                return found
            self._direct = None
        self._reserve(len(keys))
        if 2 * (self.size + len(keys)) > len(self._slots):
            self._slots = np.full(1 << (4 * (self.size + len(keys)) - 1).bit_length(), -1, np.int32)
            known = self.values[: self.size].copy()
            insert_keys(known, self._slots, self.values, 0, np.empty(len(known), np.int32), True)
        result = np.empty(len(keys), np.int32)
        self.size = int(insert_keys(keys, self._slots, self.values, self.size, result, grow))
        return result

    def _covers(self, low: int, high: int) -> bool:
        assert self._direct is not None
        return low >= self._first and high < self._first + len(self._direct)

    def _extend(self, low: int, high: int) -> bool:
        """Widen the direct table to hold ``low`` and ``high``; False where the range is too large."""
        assert self._direct is not None
        if len(self._direct):
            low, high = min(low, self._first), max(high, self._first + len(self._direct) - 1)
        span = high - low + 1
        if span > _LARGEST_TABLE:
            return False
        # half as much again above, so that growing IDs copy the table few times
        span = min(_LARGEST_TABLE, span + span // 2)
        if low + span > np.iinfo(np.int64).max:
            span = high - low + 1
        table = np.full(span, -1, np.int32)
        if len(self._direct):
            table[self._first - low : self._first - low + len(self._direct)] = self._direct[
                : span - (self._first - low)
            ]
        self._direct, self._first = table, low
        return True

    def _codes_direct(self, keys: np.ndarray, grow: bool) -> np.ndarray:
        assert self._direct is not None
        position = keys - self._first
        result = self._direct[position]
        new = np.flatnonzero(result < 0) if grow else ()
        if len(new):
            fresh = pl.Series(keys[new]).unique(maintain_order=True).to_numpy()
            self._reserve(len(fresh))
            self.values[self.size : self.size + len(fresh)] = fresh
            self._direct[fresh - self._first] = np.arange(self.size, self.size + len(fresh), dtype=np.int32)
            self.size += len(fresh)
            result[new] = self._direct[position[new]]
        return result

    def _reserve(self, more: int) -> None:
        if self.size + more > len(self.values):
            larger = np.empty(max(2 * len(self.values), self.size + more), np.int64)
            larger[: self.size] = self.values[: self.size]
            self.values = larger


def _kind(dtype: Any) -> str:
    if dtype in (pl.UInt64, pl.UInt128):
        return "unsigned" if dtype == pl.UInt64 else "text"
    if dtype.is_integer() and dtype != pl.Int128:
        return "int"
    return "float" if dtype.is_float() else "text"
