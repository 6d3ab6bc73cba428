"""FeatureTable: named columns of nodes or edges as tensors; categories, numbers and ragged lists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32, Int32, Int64
from torch import Tensor

from graph_builders.ids import IdMap

MISSING_CODE = 0


def _no_words() -> pl.Series:
    return pl.Series("value", [], dtype=pl.String)


@dataclass(frozen=True, eq=False)
class CategoricalColumn:
    """Code 0 is a missing value; code c is ``vocabulary[c - 1]``, in order of first appearance."""

    code: Int32[Tensor, " num_rows"]
    vocabulary: pl.Series

    @property
    def num_codes(self) -> int:
        """Number of categories, the missing one included."""
        return len(self.vocabulary) + 1


@dataclass(frozen=True, eq=False)
class NumericColumn:
    """Numbers; NaN is a missing value."""

    value: Float32[Tensor, " num_rows"]


@dataclass(frozen=True, eq=False)
class RaggedColumn:
    """Several categories a row: row i holds ``code[ptr[i]:ptr[i + 1]]``; codes as in CategoricalColumn."""

    code: Int32[Tensor, " num_values"]
    ptr: Int64[Tensor, " num_boundaries"]
    vocabulary: pl.Series

    @property
    def num_codes(self) -> int:
        """Number of categories, the missing one included."""
        return len(self.vocabulary) + 1


Column = CategoricalColumn | NumericColumn | RaggedColumn


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Columns of equal height, by name. Immutable: methods return a new table that shares what it can."""

    num_rows: int
    columns: Mapping[str, Column] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self.columns)

    def __getitem__(self, name: str) -> Column:
        if name not in self.columns:
            raise KeyError(f"no column {name!r}, there are {list(self.columns)}")
        return self.columns[name]

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __len__(self) -> int:
        return self.num_rows

    def to(self, device: torch.device | str) -> "FeatureTable":
        """Copy to another device; vocabularies stay where they are."""
        return replace(self, columns={name: _to(column, device) for name, column in self.columns.items()})

    def head(self, num_rows: int) -> "FeatureTable":
        """Return the first rows."""
        return FeatureTable(num_rows, {name: _head(c, num_rows) for name, c in self.columns.items()})

    def concat(self, other: "FeatureTable") -> "FeatureTable":
        """Put the rows of ``other`` below; codes of this table stay, new categories are added at the end.

        A column that one of the tables lacks is missing in its rows.

        Raises:
            ValueError: a column is of one kind here and of another there.

        """
        columns = {}
        for name in dict.fromkeys([*self.columns, *other.columns]):
            above, below = self.columns.get(name), other.columns.get(name)
            if above is not None and below is not None and type(above) is not type(below):
                raise ValueError(
                    f"column {name!r} is a {type(above).__name__} and a {type(below).__name__}: "
                    "give it one type in all tables"
                )
            above = _missing(below, self.num_rows) if above is None else above
            below = _missing(above, other.num_rows) if below is None else below
            columns[name] = _concat(above, below)
        return FeatureTable(self.num_rows + other.num_rows, columns)

    def __repr__(self) -> str:
        kinds = ", ".join(f"{name}: {_describe(column)}" for name, column in self.columns.items())
        return f"FeatureTable({self.num_rows} rows; {kinds})"


def build_feature_table(
    frame: pl.DataFrame,
    *,
    rows: Int64[Tensor, " num_given"] | None = None,
    num_rows: int | None = None,
) -> FeatureTable:
    """Turn the columns of a frame into tensors.

    Text, categories and booleans become codes, numbers and dates float32 (dates as days since 1970),
    lists become ragged codes.

    Args:
        frame: one row for each node or edge.
        rows: where each row of the frame goes, unique; default: in order.
        num_rows: height of the table; rows that the frame does not name are missing values.

    Raises:
        ValueError: a column cannot be a tensor, or holds integers that float32 cannot; cast these to strings.

    """
    height = frame.height if num_rows is None else num_rows
    if rows is not None or height != frame.height:
        place = np.full(height, -1, dtype=np.int64)
        place[np.arange(frame.height) if rows is None else rows.numpy()] = np.arange(frame.height)
        # position -1 becomes null, and a null is a missing value
        index = pl.Series(place).set(pl.Series(place < 0), None)
        frame = (
            frame.select(pl.all().gather(index))
            if frame.height
            else pl.DataFrame(
                {
                    name: pl.repeat(None, height, dtype=dtype, eager=True)
                    for name, dtype in frame.schema.items()
                }
            )
        )
    return FeatureTable(height, {name: _column(frame[name]) for name in frame.columns})


def encode_words(values: pl.Series, vocabulary: pl.Series) -> Int32[Tensor, " num_values"]:
    """Return each value's code in a vocabulary; 0 for a null or an unknown value."""
    known = IdMap(vocabulary)
    rows = known.rows(values.cast(pl.String))
    return torch.where(rows == known.unseen_row, -1, rows).add(1).int()


def _column(values: pl.Series) -> Column:
    dtype = values.dtype
    if isinstance(dtype, pl.List):
        return _ragged(values)
    if dtype in (pl.String, pl.Categorical, pl.Enum, pl.Boolean):
        code, vocabulary = _encode(values)
        return CategoricalColumn(code, vocabulary)
    if dtype == pl.Date:
        values = values.cast(pl.Int32)
    if dtype.is_integer():
        too_large = ~values.is_between(-(2**24), 2**24)
        if too_large.any():
            raise ValueError(
                f"column {values.name!r} holds {values.filter(too_large)[0]}, float32 is exact to {2**24}: "
                "cast it to strings if it is a category, or scale it"
            )
    if not (values.dtype.is_numeric() or values.dtype == pl.Null):
        raise ValueError(f"column {values.name!r} has type {dtype}: cast it to numbers, strings or lists")
    return NumericColumn(torch.from_numpy(values.cast(pl.Float32).fill_null(np.nan).to_numpy().copy()))


def _encode(values: pl.Series) -> tuple[Tensor, pl.Series]:
    text = values.cast(pl.String)
    present = text.is_not_null().to_numpy()
    known, rows = IdMap.build_with_rows(text.drop_nulls())
    code = torch.zeros(len(values), dtype=torch.int32)
    code[torch.from_numpy(present.copy())] = rows.add(1).int()
    vocabulary = known.id_series if known.num_ids else _no_words()
    return code, vocabulary.alias("value")


def _ragged(values: pl.Series) -> RaggedColumn:
    lengths = values.list.len().fill_null(0).cast(pl.Int64).to_numpy()
    ptr = torch.zeros(len(values) + 1, dtype=torch.int64)
    torch.cumsum(torch.from_numpy(lengths.copy()), 0, out=ptr[1:])
    flat = values.filter(values.list.len().fill_null(0) > 0).explode()
    code, vocabulary = _encode(flat)
    return RaggedColumn(code, ptr, vocabulary)


def _to(column: Column, device: torch.device | str) -> Column:
    tensors = {name: tensor.to(device) for name, tensor in column_arrays(column).items()}
    return column_from_arrays(tensors, getattr(column, "vocabulary", None))


def _head(column: Column, num_rows: int) -> Column:
    if isinstance(column, CategoricalColumn):
        return replace(column, code=column.code[:num_rows])
    if isinstance(column, NumericColumn):
        return replace(column, value=column.value[:num_rows])
    return replace(column, code=column.code[: int(column.ptr[num_rows])], ptr=column.ptr[: num_rows + 1])


def _missing(like: Column | None, num_rows: int) -> Column:
    """Return a column of missing values of the same kind."""
    if isinstance(like, CategoricalColumn):
        code = torch.zeros(num_rows, dtype=torch.int32, device=like.code.device)
        return CategoricalColumn(code, _no_words())
    if isinstance(like, RaggedColumn):
        empty = torch.zeros(0, dtype=torch.int32, device=like.code.device)
        return RaggedColumn(
            empty, torch.zeros(num_rows + 1, dtype=torch.int64, device=like.ptr.device), _no_words()
        )
    assert isinstance(like, NumericColumn)
    return NumericColumn(torch.full((num_rows,), torch.nan, device=like.value.device))


def _concat(above: Column, below: Column) -> Column:
    if isinstance(above, NumericColumn):
        assert isinstance(below, NumericColumn)
        return NumericColumn(torch.cat([above.value, below.value.to(above.value.device)]))
    assert not isinstance(below, NumericColumn)
    vocabulary = _join_vocabularies(above.vocabulary, below.vocabulary)
    new_code = encode_words(below.vocabulary, vocabulary)
    translate = torch.cat([torch.zeros(1, dtype=torch.int32), new_code]).to(above.code.device)
    code = torch.cat([above.code, translate[below.code.to(above.code.device).long()]])
    if isinstance(above, CategoricalColumn):
        return CategoricalColumn(code, vocabulary)
    assert isinstance(below, RaggedColumn)
    ptr = torch.cat([above.ptr, above.ptr[-1] + below.ptr[1:].to(above.ptr.device)])
    return RaggedColumn(code, ptr, vocabulary)


def _join_vocabularies(first: pl.Series, second: pl.Series) -> pl.Series:
    return IdMap(first).extend(second).id_series if len(second) else first


def _describe(column: Column) -> str:
    if isinstance(column, NumericColumn):
        return "number"
    kind = "category" if isinstance(column, CategoricalColumn) else "list"
    return f"{kind} of {column.num_codes}"


def column_arrays(column: Column) -> dict[str, Tensor]:
    """Return a column's tensors by field name, as ``column_from_arrays`` takes them."""
    return {key: value for key, value in vars(column).items() if isinstance(value, Tensor)}


def column_from_arrays(tensors: Mapping[str, Tensor], vocabulary: pl.Series | None) -> Column:
    """Rebuild a column from its tensors and its vocabulary."""
    if vocabulary is None:
        return NumericColumn(tensors["value"])
    if "ptr" in tensors:
        return RaggedColumn(tensors["code"], tensors["ptr"], vocabulary)
    return CategoricalColumn(tensors["code"], vocabulary)


def table_ids(table: pl.DataFrame | None, key: str) -> Sequence[Any] | pl.Series | None:
    """Return the ID column of a node table, checked to be there, whole and unique.

    Raises:
        ValueError: the column is missing, or an ID is null or given twice.

    """
    if table is None:
        return None
    if key not in table.columns:
        raise ValueError(f"the table has no column {key!r}, there are {table.columns}: rename its ID column")
    ids = table[key]
    if ids.null_count():
        raise ValueError(f"column {key!r} of the table has {ids.null_count()} nulls: drop these rows")
    if ids.is_duplicated().any():
        twice = ids.filter(ids.is_duplicated()).unique(maintain_order=True).head(5).to_list()
        raise ValueError(f"column {key!r} of the table repeats {twice}: keep one row for each ID")
    return ids
