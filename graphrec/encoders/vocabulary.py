"""Codes of what events and nodes carry, fitted on what was known before ``fit_until`` and stored with it."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import torch
from jaxtyping import Int64
from torch import Tensor

from graph_builders import (
    BehaviorGraph,
    Bins,
    CategoricalColumn,
    FeatureTable,
    FittedFields,
    NumericColumn,
    RaggedColumn,
    Vocabulary,
    fit_fields,
)
from graph_builders.behavior_graph import USER
from graph_builders.feature_table import Column, encode_words
from graph_builders.features import Field
from graphrec.encoders.base import HistoryRequest
from graphrec.encoders.input_reader import take_rows
from graphrec.encoders.sentences import FIRST, MISSING, RARE
from samplers import EdgeType, NodeType
from samplers.tables import with_zero

FORMAT = "AttributeVocabularies"
FORMAT_VERSION = 1
_MAX_TRANSLATIONS = 64  # of so many columns at a time


@dataclass(frozen=True, eq=False)
class AttributeVocabularies:
    """A vocabulary, or bins, for each attribute.

    Code ``MISSING`` is no value; ``RARE`` a value that the vocabulary does not hold; ``FIRST + i`` its i-th
    value, the most frequent first, or bin i of a number. Of a list the first value counts.

    Attributes:
        fitted: the values and the edges of bins, and ``fit_until`` in the graph's time resolution.

    """

    fitted: FittedFields
    # the graph's own codes to these, of the columns last seen: a pure function's results, kept
    _translations: dict[tuple[str, int, str], tuple[pl.Series, Tensor]] = field(
        default_factory=dict, init=False, repr=False
    )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the attributes."""
        return tuple(self.fitted.fields)

    @property
    def fit_until(self) -> int | None:
        """Everything was known before this time; None for tables that never change."""
        return self.fitted.fit_until

    @property
    def num_codes(self) -> dict[str, int]:
        """Sizes of embedding tables, ``MISSING`` and ``RARE`` included."""
        # a fitted field counts one code for missing and rare together
        return {name: FIRST - 1 + size for name, size in self.fitted.num_codes.items()}

    def check_before(self, label_start: int) -> None:
        """Raise if the fit saw anything at or after the first label window begins.

        Raises:
            ValueError: ``fit_until`` is later than ``label_start``.

        """
        self.fitted.check_before(label_start)

    def codes(self, table: FeatureTable, names: Sequence[str]) -> Int64[Tensor, "num_rows num_names"]:
        """Return the codes of the named columns, in this order, on the table's device.

        Raises:
            ValueError: no name, a column that was not fitted, or that is a number here and none there.
            KeyError: the table has no such column.

        """
        if not names:
            raise ValueError(f"codes are of one attribute at least, there are {list(self.names)}")
        return torch.stack([self.code(name, table[name]) for name in names], dim=1)

    def code(self, name: str, column: Column) -> Int64[Tensor, " num_rows"]:
        """Return the codes of one column, on its device.

        Raises:
            ValueError: the column was not fitted, or is a number here and none there.

        """
        fitted = self.fitted.fields.get(name)
        if fitted is None:
            raise ValueError(f"attribute {name!r} was not fitted, there are {list(self.names)}")
        if isinstance(fitted, Bins) != isinstance(column, NumericColumn):
            raise ValueError(
                f"attribute {name!r} was fitted as {type(fitted).__name__}, it came as "
                f"{type(column).__name__}: give it the type that it had"
            )
        if isinstance(column, NumericColumn):
            assert isinstance(fitted, Bins)
            code = torch.bucketize(column.value, fitted.edges.to(column.value.device)) + FIRST
            return torch.where(column.value.isnan(), MISSING, code)
        assert isinstance(fitted, Vocabulary)
        own = _single_code(column)
        return self._translation(name, fitted, column.vocabulary, own.device)[own.long()]

    def save(self, path: str | Path) -> None:
        """Write a JSON file, in the place of an earlier one; a kill leaves one or the other whole."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("w") as stream:
                json.dump({"format": FORMAT, "version": FORMAT_VERSION, **self.state()}, stream)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> "AttributeVocabularies":
        """Read what ``save`` wrote.

        Raises:
            ValueError: the file is cut off or damaged, is something else, or of another version.

        """
        try:
            state = json.loads(Path(path).read_text())
            if (state["format"], state["version"]) == (FORMAT, FORMAT_VERSION):
                return cls.from_state(state)
        except FileNotFoundError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no whole vocabularies ({error!r}): save them again") from error
        raise ValueError(
            f"{path} has format {state['format']!r} version {state['version']!r}, this release reads "
            f"{FORMAT!r} version {FORMAT_VERSION}: fit the vocabularies again"
        )

    def state(self) -> dict[str, Any]:
        """Return plain values, for JSON or a checkpoint, that ``from_state`` takes."""
        return {
            "fit_until": self.fit_until,
            "fields": {name: _field_state(value) for name, value in self.fitted.fields.items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "AttributeVocabularies":
        """Rebuild what ``state`` returned.

        Raises:
            KeyError: a part is missing.

        """
        fields = {name: _field_from_state(value) for name, value in state["fields"].items()}
        return cls(FittedFields(fields, state["fit_until"]))

    def _translation(self, name: str, fitted: Vocabulary, words: pl.Series, device: torch.device) -> Tensor:
        key = (name, id(words), str(device))
        kept = self._translations.get(key)
        if kept is None:
            code = encode_words(words, fitted.words).long()
            code = torch.where(code > 0, code + FIRST - 1, RARE)
            if len(self._translations) >= _MAX_TRANSLATIONS:
                self._translations.clear()
            # the series is kept too: while it lives, no other has its id
            kept = self._translations[key] = (words, with_zero(code).to(device))
        return kept[1]


def fit_vocabularies(
    graph: BehaviorGraph,
    requests: Sequence[HistoryRequest],
    *,
    fit_until: int,
    min_count: int = 2,
    max_size: int | None = None,
    num_bins: int = 20,
) -> AttributeVocabularies:
    """Fit the attributes and neighbours' fields of histories on the events known before ``fit_until``.

    An attribute that several requests or edge types name has one vocabulary, and an edge type counts once.

    Args:
        graph: the events.
        requests: the histories whose columns are fitted, over all events, whatever their windows.
        fit_until: only events with a time and an available time before this one are looked at; in the graph's
            time resolution. Take the start of the earliest label window.
        min_count: a value of fewer events is rare. Above 1, or training never meets ``RARE``.
        max_size: keep the most frequent values of each attribute; None for all.
        num_bins: at most so many quantile bins of each number.

    Raises:
        ValueError: an option is below 1, nothing was known before ``fit_until``, an edge type or column does
            not exist, or one name means an attribute here and a field there.

    """
    _check_sizes(min_count, max_size, num_bins)
    tables = [
        _known_events(graph, edge_type, attributes, fields, fit_until)
        for edge_type, (attributes, fields) in _wanted(requests).items()
    ]
    events = FeatureTable(0)
    for table in tables:
        events = events.concat(table)
    if not len(events):
        raise ValueError(
            f"no event of these histories was known before fit_until={fit_until}: take a later one"
        )
    missing = [name for request in requests for name in request.names if name not in events]
    if missing:
        wanted = _wanted(requests)
        there = {name for edge_type in wanted for name in graph.edge_attributes(edge_type).names}
        theirs = {name for edge_type in wanted for name in graph.features[edge_type[0]].names}
        raise ValueError(
            f"no edge type of the histories has {missing}: their attributes are {sorted(there)}, their "
            f"neighbours' fields {sorted(theirs)}"
        )
    fields = _fit(events, min_count, max_size, num_bins)
    return AttributeVocabularies(FittedFields(fields, fit_until))


def fit_profile(
    graph: BehaviorGraph,
    node_type: NodeType,
    names: Sequence[str],
    *,
    min_count: int = 2,
    max_size: int | None = None,
    num_bins: int = 20,
) -> AttributeVocabularies:
    """Fit static fields over the nodes of a type, which have no time: ``fit_until`` is None.

    Args:
        graph: whose nodes are looked at, each once.
        node_type: of the nodes.
        names: of the fields. Leave out what a task predicts.
        min_count: a value of fewer nodes is rare.
        max_size: keep the most frequent values of each field; None for all.
        num_bins: at most so many quantile bins of each number.

    Raises:
        ValueError: an option is below 1, or a field does not exist.

    """
    _check_sizes(min_count, max_size, num_bins)
    table = graph.features[node_type]
    missing = [name for name in names if name not in table]
    if missing:
        raise ValueError(
            f"nodes of type {node_type!r} have no fields {missing}, they have {list(table.names)}"
        )
    known = FeatureTable(len(table), {name: table[name] for name in names})
    return AttributeVocabularies(FittedFields(_fit(known, min_count, max_size, num_bins)))


def _check_sizes(min_count: int, max_size: int | None, num_bins: int) -> None:
    if min(min_count, num_bins, 1 if max_size is None else max_size) < 1:
        raise ValueError(
            f"min_count, max_size and num_bins must be at least 1, got {min_count}, {max_size}, {num_bins}"
        )


def _wanted(requests: Sequence[HistoryRequest]) -> dict[EdgeType, tuple[list[str], list[str]]]:
    """Return the attributes and the fields that are wanted of each edge type, each once."""
    both = {a for r in requests for a in r.attributes} & {f for r in requests for f in r.fields}
    if both:
        raise ValueError(f"{sorted(both)} are attributes in one history and fields in another: rename one")
    wanted: dict[EdgeType, tuple[list[str], list[str]]] = {}
    for request in requests:
        for edge_type in request.edge_types:
            attributes, fields = wanted.setdefault(edge_type, ([], []))
            attributes += [name for name in request.attributes if name not in attributes]
            fields += [name for name in request.fields if name not in fields]
    return wanted


def _known_events(
    graph: BehaviorGraph, edge_type: EdgeType, attributes: list[str], fields: list[str], fit_until: int
) -> FeatureTable:
    edges = graph.edges(edge_type)
    known = (edges.available_time < fit_until).nonzero().flatten()  # it never lies before the edge's time
    table = graph.edge_attributes(edge_type)
    own = FeatureTable(len(table), {name: table[name] for name in attributes if name in table})
    source = edge_type[0]
    neighbor = (edges.user if source == USER else edges.item)[known]
    there = graph.features[source]
    theirs = FeatureTable(len(there), {name: there[name] for name in fields if name in there})
    columns = {**take_rows(own, known).columns, **take_rows(theirs, neighbor).columns}
    return FeatureTable(len(known), columns)


def _fit(table: FeatureTable, min_count: int, max_size: int | None, num_bins: int) -> dict[str, Field]:
    numbers = [name for name, column in table.columns.items() if isinstance(column, NumericColumn)]
    bins = fit_fields(table, names=numbers, num_bins=num_bins).fields
    return {
        name: bins[name] if isinstance(column, NumericColumn) else _frequent(column, min_count, max_size)
        for name, column in table.columns.items()
    }


def _frequent(column: CategoricalColumn | RaggedColumn, min_count: int, max_size: int | None) -> Vocabulary:
    count = torch.bincount(_single_code(column).long(), minlength=column.num_codes)[1:]
    # equal counts in the order of words: the order of first appearance would depend on later events
    words = (
        pl.DataFrame({"value": column.vocabulary, "count": count.cpu().numpy()})
        .filter(pl.col("count") >= min_count)
        .sort("count", "value", descending=[True, False])
    )
    return Vocabulary(words["value"] if max_size is None else words["value"].head(max_size))


def _single_code(column: CategoricalColumn | RaggedColumn) -> Tensor:
    """Return one code a row: of a list the first, 0 where there is none."""
    if isinstance(column, CategoricalColumn):
        return column.code
    filled = (column.ptr.diff() > 0).nonzero().flatten()
    first = torch.zeros(len(column.ptr) - 1, dtype=column.code.dtype, device=column.code.device)
    first[filled] = column.code[column.ptr[filled]]
    return first


def _field_state(value: Field) -> dict[str, Any]:
    if isinstance(value, Bins):
        return {"edges": value.edges.tolist()}
    return {"words": value.words.to_list()}


def _field_from_state(state: Mapping[str, Any]) -> Field:
    if "edges" in state:
        return Bins(torch.tensor(state["edges"], dtype=torch.float32))
    return Vocabulary(pl.Series("value", state["words"], dtype=pl.String))
