"""IDs of any type and the rows of a graph's nodes, both ways."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

# A table over the range of integer IDs is used where it has at most this many slots an ID.
_DENSE_SLOTS = 8


class IdMap:
    """A one-to-one map from IDs to rows ``0 .. num_ids - 1``, and one more row for all unseen IDs.

    Rows follow the order in which IDs were first given, so that ``extend`` never moves one. The unseen
    row is the last, ``num_ids``: a row that no ID of the map has. A map is immutable.
    An integer and a string are never the same ID: 7 is not "7".
    """

    def __init__(self, ids: pl.Series) -> None:
        """Take IDs that are unique already; ``build`` takes any."""
        self._ids = ids

    @classmethod
    def build(cls, ids: pl.Series | np.ndarray | Sequence[Any]) -> "IdMap":
        """Map the distinct values of ``ids`` to rows, in the order of their first appearance.

        Raises:
            ValueError: an ID is null, or integers and strings are mixed.

        """
        return cls.build_with_rows(ids)[0]

    @classmethod
    def build_with_rows(
        cls, ids: pl.Series | np.ndarray | Sequence[Any]
    ) -> tuple["IdMap", Int64[Tensor, " num_given"]]:
        """Build the map and return the row of each given ID with it, at the cost of the map alone."""
        series = as_id_series(ids)
        if series.null_count():
            raise ValueError(f"IDs must not be null, got {series.null_count()} nulls: drop or fill them")
        unique, rows = _factorize(series)
        return cls(unique), torch.from_numpy(rows)

    @property
    def num_ids(self) -> int:
        """Number of known IDs."""
        return len(self._ids)

    @property
    def num_rows(self) -> int:
        """Number of rows, the unseen row included."""
        return self.num_ids + 1

    @property
    def unseen_row(self) -> int:
        """The row of every ID that the map does not know."""
        return self.num_ids

    @property
    def id_series(self) -> pl.Series:
        """The known IDs, in the order of their rows."""
        return self._ids

    def __len__(self) -> int:
        return self.num_ids

    def __repr__(self) -> str:
        return f"IdMap({self.num_ids} IDs of type {self._ids.dtype})"

    def rows(self, ids: pl.Series | np.ndarray | Sequence[Any]) -> Int64[Tensor, " num_given"]:
        """Return the row of each ID; an unknown ID or a null gets ``unseen_row``.

        Raises:
            ValueError: the IDs are strings where the map holds integers, or the reverse.

        """
        series = as_id_series(ids)
        if series.dtype == pl.Null or not len(series):
            return torch.full((len(series),), self.unseen_row, dtype=torch.int64)
        if self.num_ids and series.dtype != self._ids.dtype:
            raise ValueError(
                f"the map holds IDs of type {self._ids.dtype}, got {series.dtype}: cast one to the other"
            )
        if self._dense is not None:
            return torch.from_numpy(_look_up(series, *self._dense, self.unseen_row))
        found = series.to_frame("id").join(self._lookup, on="id", how="left", maintain_order="left")
        return torch.from_numpy(found["row"].fill_null(self.unseen_row).to_numpy().copy())

    def ids(self, rows: Int64[Tensor, " num_rows"]) -> pl.Series:
        """Return the ID of each row; null for the unseen row.

        Raises:
            ValueError: a row lies outside [0, num_rows).

        """
        index = rows.cpu().numpy()
        if len(index) and (index.min() < 0 or index.max() > self.unseen_row):
            raise ValueError(f"rows must lie in [0, {self.num_rows}), got [{index.min()}, {index.max()}]")
        with_unseen = pl.concat([self._ids, pl.Series([None], dtype=self._ids.dtype)])
        return with_unseen.gather(pl.Series(index)).alias("id")

    def contains(self, ids: pl.Series | np.ndarray | Sequence[Any]) -> Bool[Tensor, " num_given"]:
        """Say for each ID whether the map knows it."""
        return self.rows(ids) != self.unseen_row

    def extend(self, new_ids: pl.Series | np.ndarray | Sequence[Any]) -> "IdMap":
        """Return a map that knows ``new_ids`` too; known IDs keep their rows.

        Raises:
            ValueError: as ``build`` and ``rows``.

        """
        series = as_id_series(new_ids)
        unknown = series.filter(pl.Series(~self.contains(series).numpy()))
        if not len(unknown):
            if series.null_count():
                raise ValueError("IDs must not be null: drop or fill them")
            return self
        added = IdMap.build(unknown).id_series
        return IdMap(pl.concat([self._ids.cast(added.dtype), added]) if self.num_ids else added)

    def save(self, path: str | Path) -> None:
        """Write the IDs as one Arrow IPC file, without pickle."""
        self._ids.to_frame("id").write_ipc(Path(path))

    @classmethod
    def open(cls, path: str | Path) -> "IdMap":
        """Read what ``save`` wrote.

        Raises:
            ValueError: the file is damaged or holds no IDs.

        """
        try:
            frame = pl.read_ipc(Path(path))
            return cls(frame["id"])
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            raise ValueError(f"{path} is no whole ID map ({error}): save it again") from error

    @cached_property
    def _dense(self) -> tuple[np.ndarray, int] | None:
        """Return a table from ``id - lowest`` to row, where the IDs are integers in a small range."""
        if not self.num_ids or not self._ids.dtype.is_integer():
            return None
        values = self._ids.to_numpy()
        low, high = int(values.min()), int(values.max())
        if high - low >= _DENSE_SLOTS * self.num_ids + 1024:
            return None
        table = np.full(high - low + 1, self.unseen_row, dtype=np.int64)
        table[values - low] = np.arange(self.num_ids)
        return table, low

    @cached_property
    def _lookup(self) -> pl.DataFrame:
        return pl.DataFrame({"id": self._ids, "row": np.arange(self.num_ids, dtype=np.int64)})


def as_id_series(ids: pl.Series | np.ndarray | Sequence[Any]) -> pl.Series:
    """Return IDs as one polars column: whole numbers as Int64, text as String, other types as they are.

    Raises:
        ValueError: integers and strings are mixed, or a number is not whole.

    """
    try:
        series = ids if isinstance(ids, pl.Series) else pl.Series("id", ids, strict=True)
    except (TypeError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"IDs must be of one type ({error}): cast all of them to strings") from error
    if series.dtype == pl.Object:
        raise ValueError("IDs must be of one type, integers or strings: cast all of them to strings")
    if series.dtype.is_integer() and series.dtype != pl.Int64:
        return series.cast(pl.Int64)
    if series.dtype.is_float():
        if not (series.drop_nulls() == series.drop_nulls().floor()).all():
            raise ValueError("IDs must be whole numbers, strings or dates, got fractions: cast them first")
        return series.cast(pl.Int64)
    if series.dtype in (pl.Categorical, pl.Enum):
        return series.cast(pl.String)
    return series


def _factorize(series: pl.Series) -> tuple[pl.Series, np.ndarray]:
    """Return the distinct values in order of first appearance, and the place of each value among them."""
    codes = series
    if series.dtype == pl.String:
        codes = series.cast(pl.Categorical).to_physical().cast(pl.Int64)
    if codes.dtype.is_integer() and len(codes):
        values = codes.to_numpy()
        low, high = int(values.min()), int(values.max())
        if high - low < _DENSE_SLOTS * len(values) + 1024:
            return _factorize_dense(series, values, low, high - low + 1)
    unique = series.unique(maintain_order=True)
    lookup = pl.DataFrame({"id": unique, "row": np.arange(len(unique), dtype=np.int64)})
    joined = series.to_frame("id").join(lookup, on="id", how="left", maintain_order="left")
    return unique.alias("id"), joined["row"].to_numpy().copy()


def _factorize_dense(
    series: pl.Series, values: np.ndarray, low: int, num_slots: int
) -> tuple[pl.Series, np.ndarray]:
    slots = values - low
    first = np.full(num_slots, -1, dtype=np.int64)
    # the last write wins: written backwards, each slot ends with its first position
    first[slots[::-1]] = np.arange(len(slots) - 1, -1, -1)
    present = np.flatnonzero(first >= 0)
    present = present[np.argsort(first[present])]
    unique = series.gather(pl.Series(first[present])).alias("id")
    row_of_slot = first
    row_of_slot[present] = np.arange(len(present))
    return unique, row_of_slot[slots]


def _look_up(series: pl.Series, table: np.ndarray, low: int, unseen_row: int) -> np.ndarray:
    values = series.fill_null(low - 1).to_numpy()
    inside = (values >= low) & (values <= low + (len(table) - 1))
    if inside.all():
        return table[values - low]
    return np.where(inside, table[np.where(inside, values - low, 0)], unseen_row)
