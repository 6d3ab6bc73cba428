"""Fields that a model can embed: vocabularies and bins, fitted on a FeatureTable and carrying until when.

Code 0 of every field is "missing, unknown or rare". What is fitted says from which data (``fit_until``):
using it for labels of an earlier time is a leak, and ``FittedFields.check_before`` raises.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from graph_builders.feature_table import (
    CategoricalColumn,
    FeatureTable,
    NumericColumn,
    RaggedColumn,
    encode_words,
)

UNKNOWN_CODE = 0


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Code c is ``words[c - 1]``, the most frequent first; 0 is any other word, or none."""

    words: pl.Series
    is_list: bool = False

    @property
    def num_codes(self) -> int:
        """Number of codes, 0 included."""
        return len(self.words) + 1


@dataclass(frozen=True, eq=False)
class Bins:
    """Code 1 + i is the bin ``(edges[i - 1], edges[i]]``, the outer ones open to infinity; 0 is missing."""

    edges: Float32[Tensor, " num_edges"]

    @property
    def num_codes(self) -> int:
        """Number of codes, 0 included."""
        return len(self.edges) + 2


Field = Vocabulary | Bins


@dataclass(frozen=True, eq=False)
class FittedFields:
    """Fields by name, and the time before which all that they were fitted on was known.

    Attributes:
        fields: a vocabulary or bins for each column.
        fit_until: every value was known before this time; ``None`` for tables that never change.

    """

    fields: Mapping[str, Field]
    fit_until: int | None = None

    @property
    def num_codes(self) -> dict[str, int]:
        """Sizes of the embedding tables."""
        return {name: fitted.num_codes for name, fitted in self.fields.items()}

    def codes(
        self, table: FeatureTable, names: Sequence[str] | None = None
    ) -> Int64[Tensor, "num_rows num_fields"]:
        """Return the codes of the fields that have one value a row.

        Args:
            table: the fitted table, or another version of it: unknown words get code 0.
            names: which fields, in this order; default: all that are no lists.

        Raises:
            ValueError: a field was not fitted, holds lists, or is of another kind in the table.

        """
        single = [n for n, fitted in self.fields.items() if isinstance(fitted, Bins) or not fitted.is_list]
        columns = [self._code(table, name) for name in (single if names is None else names)]
        return torch.stack(columns, dim=1) if columns else torch.zeros(table.num_rows, 0, dtype=torch.int64)

    def bag(
        self, table: FeatureTable, name: str, *, max_values: int | None = None
    ) -> Int64[Tensor, "num_rows num_values"]:
        """Return the codes of a list field, padded on the right with 0; an unknown word is 0 in its place.

        Args:
            table: the fitted table, or another version of it.
            name: the field.
            max_values: keep the first values of longer lists; default: the longest list.

        Raises:
            ValueError: the field was not fitted or holds no lists.

        """
        fitted, column = self._field(name), table[name]
        if not (isinstance(fitted, Vocabulary) and isinstance(column, RaggedColumn)):
            raise ValueError(f"field {name!r} holds no lists: use codes()")
        length = column.ptr.diff()
        width = int(length.max()) if len(length) else 0
        width = width if max_values is None else min(width, max_values)
        slot = torch.arange(width, device=length.device)
        mask = slot < length[:, None]
        place = torch.where(mask, column.ptr[:-1, None] + slot, 0)
        if not len(column.code):
            return torch.zeros_like(place)
        return torch.where(mask, _translate(column, fitted)[place], UNKNOWN_CODE)

    def check_before(self, label_start: int) -> None:
        """Raise if the fit saw anything at or after the first label.

        Raises:
            ValueError: ``fit_until`` is later than ``label_start``.

        """
        if self.fit_until is not None and self.fit_until > label_start:
            raise ValueError(
                f"the fields were fitted on data until {self.fit_until}, labels begin at {label_start}: "
                "fit them on what was known before"
            )

    def _field(self, name: str) -> Field:
        if name not in self.fields:
            raise ValueError(f"field {name!r} was not fitted, there are {list(self.fields)}")
        return self.fields[name]

    def _code(self, table: FeatureTable, name: str) -> Tensor:
        fitted, column = self._field(name), table[name]
        if isinstance(fitted, Bins) and isinstance(column, NumericColumn):
            code = torch.bucketize(column.value, fitted.edges.to(column.value.device)) + 1
            return torch.where(column.value.isnan(), UNKNOWN_CODE, code)
        if isinstance(fitted, Vocabulary) and isinstance(column, CategoricalColumn):
            return _translate(column, fitted)
        raise ValueError(
            f"field {name!r} was fitted as {type(fitted).__name__}, not {type(column).__name__}: "
            "use bag() for lists"
        )


def fit_fields(
    table: FeatureTable,
    *,
    names: Sequence[str] | None = None,
    fit_rows: Bool[Tensor, " num_rows"] | None = None,
    min_count: int = 1,
    num_bins: int = 20,
    fit_until: int | None = None,
) -> FittedFields:
    """Fit a vocabulary for each categorical or list column and quantile bins for each numeric one.

    Args:
        table: the columns.
        names: which columns; default: all.
        fit_rows: rows that may be looked at; default: all.
        min_count: a word that occurs less often is rare, and has code 0.
        num_bins: at most so many bins of about equal height; equal quantiles fall together.
        fit_until: every row looked at was known before this time; ``None``: the table never changes.

    Raises:
        ValueError: ``min_count`` or ``num_bins`` is below 1, or a column does not exist.

    """
    if min_count < 1 or num_bins < 1:
        raise ValueError(f"min_count and num_bins must be at least 1, got {min_count} and {num_bins}")
    missing = [name for name in names or () if name not in table]
    if missing:
        raise ValueError(f"no columns {missing}, there are {list(table.names)}")
    fields: dict[str, Field] = {}
    for name in table.names if names is None else names:
        column = table[name]
        if isinstance(column, NumericColumn):
            value = column.value if fit_rows is None else column.value[fit_rows]
            fields[name] = Bins(_quantile_edges(value, num_bins))
        else:
            code = _fit_codes(column, fit_rows)
            fields[name] = Vocabulary(_frequent(code, column, min_count), isinstance(column, RaggedColumn))
    return FittedFields(fields, fit_until)


def _fit_codes(column: CategoricalColumn | RaggedColumn, fit_rows: Tensor | None) -> Tensor:
    if fit_rows is None:
        return column.code
    if isinstance(column, RaggedColumn):
        return column.code[fit_rows.repeat_interleave(column.ptr.diff())]
    return column.code[fit_rows]


def _frequent(code: Tensor, column: CategoricalColumn | RaggedColumn, min_count: int) -> pl.Series:
    count = torch.bincount(code.long(), minlength=column.num_codes)[1:].cpu().numpy()
    order = np.argsort(-count, kind="stable")  # equal counts: in order of first appearance
    return column.vocabulary.gather(pl.Series(order[count[order] >= min_count], dtype=pl.Int64))


def _quantile_edges(value: Tensor, num_bins: int) -> Tensor:
    present = value[~value.isnan()].cpu().numpy()
    if not len(present):
        return torch.zeros(0)
    levels = np.arange(1, num_bins) / num_bins
    # method "lower" takes edges from the data: equal values never straddle an edge made by interpolation
    edges = np.unique(np.quantile(present, levels, method="lower"))
    return torch.from_numpy(edges[edges < present.max()].astype(np.float32))


def _translate(column: CategoricalColumn | RaggedColumn, fitted: Vocabulary) -> Tensor:
    """Return the fitted code of each of the column's codes, by word."""
    new_code = encode_words(column.vocabulary, fitted.words).long()
    table = torch.cat([torch.zeros(1, dtype=torch.int64), new_code]).to(column.code.device)
    return table[column.code.long()]
