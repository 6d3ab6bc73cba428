"""Plain edge lists with labels of any kind: tuples, numpy arrays or a data frame's columns, to CSRs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from samplers.csr import TemporalCSR
from samplers.neighbors import EdgeType


@dataclass(frozen=True, eq=False)
class LabelledEdges:
    """Edges between labelled nodes, as CSRs in both directions; edge ids are places in the list.

    Attributes:
        by_source: rows are sources, columns destinations.
        by_destination: rows are destinations, columns sources.
        source_label: the label of each source id, sorted; strings or integers.
        destination_label: the same of destinations; the same array where both ends are of one node type.

    """

    by_source: TemporalCSR
    by_destination: TemporalCSR
    source_label: np.ndarray
    destination_label: np.ndarray

    def source_id(self, labels: Iterable[Any]) -> Int64[Tensor, " num_labels"]:
        """Return the ids of source labels. Raises ``ValueError`` for a label that no edge has."""
        return _ids_of("source", self.source_label, labels)

    def destination_id(self, labels: Iterable[Any]) -> Int64[Tensor, " num_labels"]:
        """Return the ids of destination labels. Raises ``ValueError`` for a label that no edge has."""
        return _ids_of("destination", self.destination_label, labels)

    def csrs(self, edge_type: EdgeType) -> dict[EdgeType, TemporalCSR]:
        """Name the edges and their reverse, ``rev_<relation>``, as a ``MultiHopSampler`` takes them."""
        source, relation, destination = edge_type
        return {
            edge_type: self.by_destination,
            (destination, f"rev_{relation}", source): self.by_source,
        }


def from_edge_list(edges: Sequence[Sequence[Any]], *, one_node_type: bool = False) -> LabelledEdges:
    """Build CSRs from tuples (source, destination, time) or (source, destination, time, weight).

    Args:
        edges: all with a weight or none.
        one_node_type: sources and destinations share their labels and ids, as in a social network; else
            they are two types, and the source "7" is not the destination "7".

    Raises:
        ValueError: an edge has no time, or has not as many values as the first; see ``from_columns``.

    """
    width = max(len(edges[0]), 3) if len(edges) else 3
    for place, edge in enumerate(edges):
        if len(edge) == 2:
            raise ValueError(
                f"edge {place}, {tuple(edge)}, has no time: give (source, destination, time); where all "
                "edges are as old, any one number will do"
            )
        if len(edge) != width or width > 4:
            raise ValueError(
                f"edge {place}, {tuple(edge)}, has {len(edge)} values: give every edge as (source, "
                "destination, time) or every edge as (source, destination, time, weight)"
            )
    columns = [[edge[i] for edge in edges] for i in range(width)]
    return from_columns(*columns[:3], weight=columns[3] if width == 4 else None, one_node_type=one_node_type)


def from_columns(
    source: Iterable[Any],
    destination: Iterable[Any],
    time: Iterable[Any],
    *,
    weight: Iterable[Any] | None = None,
    one_node_type: bool = False,
) -> LabelledEdges:
    """Build CSRs from columns: lists, numpy arrays, tensors, or a data frame's series.

    Args:
        source: labels, all strings or all integers.
        destination: labels.
        time: integers in any one unit, or ``datetime64``, which becomes seconds since 1970.
        weight: importance of each edge, not negative.
        one_node_type: see ``from_edge_list``.

    Raises:
        ValueError: columns differ in length; a label or a time is missing, or of another kind.

    """
    ends = {"source": _array(source), "destination": _array(destination)}
    times = _array(time)
    lengths = {name: len(column) for name, column in (ends | {"time": times}).items()}
    weights = None if weight is None else _array(weight)
    if weights is not None:
        lengths["weight"] = len(weights)
    if len(set(lengths.values())) != 1:
        raise ValueError(f"columns must have one value for each edge, got {lengths}")
    labels = {name: _checked_labels(name, column) for name, column in ends.items()}
    edge_time = torch.from_numpy(_checked_times(times, labels["source"], labels["destination"]))
    if one_node_type:
        if len({column.dtype.kind for column in labels.values() if len(column)}) > 1:
            raise ValueError("ends of one node type must have labels of one kind, got strings and integers")
        label, place = np.unique(np.concatenate(list(labels.values())), return_inverse=True)
        source_label = destination_label = label
        edge_index = torch.from_numpy(place.reshape(2, -1).astype(np.int64))
    else:
        source_label, source_place = np.unique(labels["source"], return_inverse=True)
        destination_label, destination_place = np.unique(labels["destination"], return_inverse=True)
        edge_index = torch.from_numpy(np.stack([source_place, destination_place]).astype(np.int64))
    edge_weight = None if weights is None else torch.from_numpy(_checked_weights(weights))
    num_sources, num_destinations = len(source_label), len(destination_label)
    return LabelledEdges(
        by_source=TemporalCSR.from_edge_index(
            edge_index,
            edge_time,
            num_rows=num_sources,
            num_cols=num_destinations,
            row="source",
            edge_weight=edge_weight,
        ),
        by_destination=TemporalCSR.from_edge_index(
            edge_index,
            edge_time,
            num_rows=num_destinations,
            num_cols=num_sources,
            row="destination",
            edge_weight=edge_weight,
        ),
        source_label=source_label,
        destination_label=destination_label,
    )


def _array(column: Iterable[Any]) -> np.ndarray:
    """Take a column as it is; numpy would turn the list [1, "a"] into strings."""
    if hasattr(column, "__array__"):
        array = np.asarray(column)
        if array.ndim != 1:
            raise ValueError(f"columns must have one axis, got shape {array.shape}")
        return array
    return np.fromiter(column, dtype=object)


def _checked_labels(name: str, column: np.ndarray) -> np.ndarray:
    if column.dtype.kind == "O":
        if all(isinstance(label, str) for label in column):
            return column.astype(str)
        kinds = [_kind(label) for label in column]
        place = next((i for i, kind in enumerate(kinds) if kind is None or kind != kinds[0]), None)
        if place is not None:
            raise ValueError(
                f"{name} labels must be all strings or all integers, got {column[0]!r} for edge 0 and "
                f"{column[place]!r} for edge {place}: convert them, and leave out edges without a label"
            )
        return column.astype(np.int64)
    if column.dtype.kind in "iu":
        return _as_int64(f"{name} labels", column)
    if column.dtype.kind in "UT":
        return column.astype(str)
    raise ValueError(
        f"{name} labels must be strings or integers, got {column.dtype}: a column of integers with missing "
        "values turns into floats; drop those edges, then convert it"
    )


def _as_int64(name: str, column: np.ndarray) -> np.ndarray:
    if column.dtype == np.uint64 and len(column) and column.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name} must be below 2^63, got {column.max()}: take strings for larger numbers")
    return column.astype(np.int64)


def _kind(label: Any) -> type | None:
    if isinstance(label, str):
        return str
    return int if isinstance(label, int | np.integer) and not isinstance(label, bool) else None


def _checked_times(column: np.ndarray, source: np.ndarray, destination: np.ndarray) -> np.ndarray:
    missing = np.zeros(len(column), dtype=bool)
    fraction = missing
    if column.dtype.kind == "M":
        missing = np.isnat(column)
        seconds = column.astype("datetime64[s]")
        fraction = ~missing & (seconds != column)
        times = seconds.astype(np.int64)
    elif column.dtype.kind == "f":
        missing = np.isnan(column)
        fraction = ~missing & (np.mod(column, 1) != 0)
        times = np.where(missing | fraction, 0, column).astype(np.int64)
    elif column.dtype.kind == "O":
        missing = np.fromiter((value is None or value != value for value in column), dtype=bool)
        fraction = ~missing & np.fromiter((_kind(value) is not int for value in column), dtype=bool)
        times = np.where(missing | fraction, 0, column).astype(np.int64)
    elif column.dtype.kind in "iu":
        times = _as_int64("times", column)
    else:
        raise ValueError(f"times must be integers or datetime64, got {column.dtype}: parse them first")
    for wrong, problem in (
        (missing, "has no time: leave it out, or give it the time at which it was known"),
        (fraction, "has a time of {} that is no integer: use a finer unit, such as milliseconds"),
    ):
        if wrong.any():
            place = int(wrong.argmax())
            edge = f"edge {place}, {source[place].item()!r} -> {destination[place].item()!r}, "
            raise ValueError(edge + problem.format(column[place]))
    return times


def _checked_weights(column: np.ndarray) -> np.ndarray:
    if column.dtype.kind == "O" and any(value is None for value in column):
        place = next(i for i, value in enumerate(column) if value is None)
        raise ValueError(f"edge {place} has no weight: give every edge one, or none")
    return column.astype(np.float32)  # not finite or negative: TemporalCSR says so


def _ids_of(name: str, known: np.ndarray, labels: Iterable[Any]) -> Tensor:
    given = _checked_labels(name, _array(labels))
    if len(given) == 0:
        return torch.zeros(0, dtype=torch.int64)
    if len(known) == 0 or given.dtype.kind != known.dtype.kind:
        found = np.zeros(len(given), dtype=bool)
    else:
        place = np.searchsorted(known, given).clip(max=len(known) - 1)
        found = known[place] == given
    if not found.all():
        label = given[int(found.argmin())].item()
        raise ValueError(f"no edge has the {name} {label!r}: labels are {known.dtype}, {len(known)} of them")
    return torch.from_numpy(place.astype(np.int64))
