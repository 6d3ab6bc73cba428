"""What a request says, checked once a call: IDs of the folder's type, whole numbers, known context values.

An ID that is not known is no mistake: it has the unseen row. One of another type is: 1.0, True and "1" are
not the user 1.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Int64
from torch import Tensor

from graph_builders.ids import IdMap
from graphrec.serving.day_folder import DayConfig

_UNIT_NAMES = {1: "hours", 60: "minutes", 3_600: "seconds", 3_600_000: "milliseconds"}
_UNIT_NAMES |= {3_600_000_000: "microseconds", 3_600_000_000_000: "nanoseconds"}


class NodeRows:
    """Rows of IDs by a dictionary, which is faster for a request's few than the map's own way.

    Args:
        node_type: whose IDs they are, for messages.
        ids: the map.

    """

    def __init__(self, node_type: str, ids: IdMap) -> None:
        known = ids.id_series
        self._row = {node: row for row, node in enumerate(known)}
        self._unseen = ids.unseen_row
        self._types: tuple[type, ...] = (int, np.integer) if known.dtype.is_integer() else (str,)
        kind = "whole numbers" if known.dtype.is_integer() else "strings"
        if len(known) and not isinstance(known[0], self._types):  # dates, say
            self._types, kind = (type(known[0]),), str(known.dtype)
        self._message = f"{node_type} IDs of the day's folder are {kind}"

    def row(self, node_id: Any) -> int:
        """Return the row of an ID, also of one in a tensor or array without dimensions.

        Raises:
            ValueError: it is of a wrong type.

        """
        node_id = _plain(node_id)
        if self._is_wrong(type(node_id)):
            raise ValueError(f"{self._message}, got {node_id!r}")
        return self._row.get(node_id, self._unseen)

    def rows(self, node_ids: Any) -> Int64[Tensor, " num_given"]:
        """Return the rows of IDs from a sequence, series, array or tensor.

        Raises:
            ValueError: they are no such thing, or one is of a wrong type.

        """
        if isinstance(node_ids, Tensor | np.ndarray):
            if node_ids.ndim != 1:
                raise ValueError(f"{self._message}, got {node_ids.ndim} dimensions: give one")
            values = node_ids.tolist()
        elif isinstance(node_ids, pl.Series):
            values = node_ids.to_list()
        elif isinstance(node_ids, str | bytes) or not isinstance(node_ids, Iterable):
            raise ValueError(f"{self._message}, got {node_ids!r}: give a list of them")
        else:
            values = list(node_ids)
        wrong = [kind for kind in set(map(type, values)) if self._is_wrong(kind)]
        if wrong:
            place = next(place for place, value in enumerate(values) if type(value) in wrong)
            raise ValueError(f"{self._message}, got {values[place]!r} at place {place} (from 0)")
        row, unseen = self._row, self._unseen
        return torch.tensor([row.get(value, unseen) for value in values], dtype=torch.int64)

    def _is_wrong(self, kind: type) -> bool:
        return kind is bool or not issubclass(kind, self._types)


class RequestContext:
    """Reads a request's values of the events' columns.

    Args:
        config: of the day; a value lies below the size of the column's groups and of its embedding.

    """

    def __init__(self, config: DayConfig) -> None:
        counted = () if config.counts is None else config.counts.event_columns
        bounds: dict[str, int] = dict(zip(counted, config.event_sizes, strict=True))
        for name, size in zip(config.contexts, config.sizes.context_fields, strict=True):
            if name != "hour":
                bounds[name] = min(size, bounds.get(name, size))
        self._bounds = {name: bounds[name] for name in config.event_columns}

    def columns(self, context: Any) -> Int64[np.ndarray, " num_columns"]:
        """Return the values in the order of ``event_columns``.

        Raises:
            ValueError: no mapping of just these names, or a value that the day's folder does not know.

        """
        if not isinstance(context, Mapping) or context.keys() != self._bounds.keys():
            given = list(context) if isinstance(context, Mapping) else repr(context)
            raise ValueError(f"context must name {list(self._bounds)}, got {given}")
        values = []
        for name, bound in self._bounds.items():
            value = whole_number(context[name], f"the context's {name!r}")
            if not 0 <= value < bound:
                raise ValueError(
                    f"the context's {name!r} is {value}, the day's folder knows values from 0 to {bound - 1}"
                )
            values.append(value)
        return np.array(values, np.int64)


def whole_number(value: Any, name: str) -> int:
    """Return a whole number as Python's own.

    Raises:
        ValueError: it is none; 1.0 and True are none.

    """
    plain = _plain(value)
    if isinstance(plain, bool) or not isinstance(plain, int | np.integer):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    return int(plain)


def unit_name(config: DayConfig) -> str:
    """Return what the day's times are counted in, for messages."""
    return _UNIT_NAMES.get(config.units_per_hour, f"units of which an hour has {config.units_per_hour}")


def _plain(value: Any) -> Any:
    """Take a value out of a tensor or array without dimensions."""
    return value.item() if isinstance(value, Tensor | np.ndarray) and value.ndim == 0 else value
