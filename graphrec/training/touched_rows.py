"""Run a model on copies of the few rows of its embedding tables that a batch reads.

A first forward pass records every look-up in a table. Later passes read given rows in the table's place, at
local indices, so memory and time follow the batch and not the table. The model needs no change for it: calls
of torch's ``embedding`` and ``embedding_bag`` are what is recorded and replaced.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from graphrec.nn.embedding_bag import weighted_bags, weighted_ragged_bags
from graphrec.training.parameters import embedding_tables

_EMBEDDING = ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")
_EMBEDDING_BAG = (
    *("input", "weight", "offsets", "max_norm", "norm_type", "scale_grad_by_freq", "mode", "sparse"),
    *("per_sample_weights", "include_last_offset", "padding_idx"),
)


@dataclass(frozen=True, eq=False)
class TouchedRows:
    """The rows of each table that some batches read, and where each look-up finds them.

    Attributes:
        row: for each table by parameter name, its distinct rows in rising order.
        lookups: for each batch, its look-ups in the order they are made: table, index into the table, and
            index into ``row``.
        tables: names by identity of the parameter.

    """

    row: dict[str, Int64[Tensor, " _"]]
    lookups: list[list[tuple[str, Tensor, Tensor]]]
    tables: dict[int, str]

    def gather(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the fast weights: the touched rows of the tables and all other trainable parameters.

        Rows are copies; dense weights are the model's own, detached. A table that is read in another way than
        row by row counts as dense.
        """
        return {
            name: parameter.detach()[self.row[name]] if name in self.row else parameter.detach()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }

    def logits(self, model: nn.Module, weights: Mapping[str, Tensor], batch: object, number: int) -> Tensor:
        """Return the model's output for the batch of that number at other weights, as from :meth:`gather`.

        Raises:
            ValueError: the model reads other rows than it did at first.

        """
        rows = {name: weights[name] for name in self.row}
        dense = {name: value for name, value in weights.items() if name not in self.row}
        with self._reading(rows, number):
            result: Tensor = torch.func.functional_call(model, dense, (batch,))
        return result

    @contextmanager
    def _reading(self, rows: Mapping[str, Tensor], number: int) -> Iterator[None]:
        mode = _ReadRows(self.tables, rows, self.lookups[number])
        with mode:
            yield
        mode.check_finished()


def touched_rows(model: nn.Module, batches: Sequence[object]) -> TouchedRows:
    """Run the model once on each batch, without gradients, and return the table rows that it read.

    Tables that take no gradient stay as they are. Look-ups must depend on the batch alone.
    """
    tables = {id(table): name for name, table in embedding_tables(model).items() if table.requires_grad}
    recorded, whole = [], set[str]()
    for batch in batches:
        with torch.no_grad(), _RecordLookups(tables) as mode:
            model(batch)
        recorded.append(mode.lookups)
        whole |= mode.whole
    row, local = {}, dict[str, Iterator[Tensor]]()
    for name in set(tables.values()) - whole:
        indices = [index for lookups in recorded for table, index in lookups if table == name]
        device = model.get_parameter(name).device
        together = torch.cat([torch.zeros(0, dtype=torch.int64, device=device), *map(torch.ravel, indices)])
        row[name], inverse = together.unique(return_inverse=True)
        parts = inverse.split([index.numel() for index in indices]) if indices else ()
        local[name] = iter([part.view(i.shape) for part, i in zip(parts, indices, strict=True)])
    lookups = [[(name, index, next(local[name])) for name, index in made if name in row] for made in recorded]
    return TouchedRows(row, lookups, {key: name for key, name in tables.items() if name in row})


@dataclass(frozen=True, eq=False)
class _Lookup:
    """A call of ``embedding`` (``mode`` is None), or of ``embedding_bag``.

    Bags of one size are rows of ``index``; others lie side by side, and ``ptr`` says where each ends.
    """

    index: Tensor
    table: Tensor
    mode: str | None = None
    weight: Tensor | None = None
    padding_index: int | None = None
    ptr: Tensor | None = None

    def on(self, index: Tensor, table: Tensor) -> Tensor:
        """Make the same look-up elsewhere; the row of the padding gets no gradient there either."""
        if self.mode is None:
            found = functional.embedding(index, table)
            if self.padding_index is None:
                return found
            return torch.where((self.index == self.padding_index)[..., None], found.detach(), found)
        if self.ptr is not None and self.weight is not None:
            return weighted_ragged_bags(index, self.ptr, table, self.weight)
        if self.ptr is not None:
            size = self.ptr.diff()
            bag = torch.repeat_interleave(torch.arange(len(size), device=index.device), size)
            rows = functional.embedding(index, table)
            total = torch.zeros(len(size), table.shape[1], dtype=table.dtype, device=table.device)
            total = total.index_add(0, bag, rows)
            return total if self.mode == "sum" else total / size.clamp(min=1)[:, None]
        weight = self.weight
        if weight is None:
            share = 1.0 if self.mode == "sum" else 1.0 / index.shape[1]
            weight = torch.full(index.shape, share, dtype=table.dtype, device=table.device)
        return weighted_bags(index, table, weight)


def _lookup(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> _Lookup | None:
    """Read a call; None for any other function, and for options that change more than the rows read."""
    if func is functional.embedding:
        given = dict(zip(_EMBEDDING, args, strict=False)) | dict(kwargs)
        mode = None
    elif func is functional.embedding_bag:
        given = dict(zip(_EMBEDDING_BAG, args, strict=False)) | dict(kwargs)
        mode = given.get("mode", "mean")
        if mode not in ("sum", "mean"):
            return None
    else:
        return None
    padding = given.get("padding_idx")
    if given.get("max_norm") is not None or given.get("scale_grad_by_freq"):
        return None
    if padding is not None:
        if mode is not None:
            return None
        padding %= len(given["weight"])  # negative ones count from the end
    weight, ptr = given.get("per_sample_weights"), given.get("offsets")
    if ptr is not None and not given.get("include_last_offset"):
        ptr = functional.pad(ptr, (0, 1), value=len(given["input"]))
    return _Lookup(given["input"], given["weight"], mode, weight, padding, ptr)


class _RecordLookups(TorchFunctionMode):
    """Notes which rows of the tables are read, and which tables are used in another way."""

    def __init__(self, tables: Mapping[int, str]) -> None:
        super().__init__()
        self.tables = tables
        self.lookups: list[tuple[str, Tensor]] = []
        self.whole: set[str] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        lookup = _lookup(func, args, kwargs)
        if lookup is not None and id(lookup.table) in self.tables:
            self.lookups.append((self.tables[id(lookup.table)], lookup.index))
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        if _holds_tensor(result):  # its shape or dtype may be read without the values
            for value in (*args, *kwargs.values()):
                for part in value if isinstance(value, (list, tuple)) else (value,):
                    if id(part) in self.tables:
                        self.whole.add(self.tables[id(part)])
        return result


class _ReadRows(TorchFunctionMode):
    """Answers recorded look-ups from given rows, and any look-up in a form that has second derivatives."""

    def __init__(
        self, tables: Mapping[int, str], rows: Mapping[str, Tensor], lookups: list[tuple[str, Tensor, Tensor]]
    ) -> None:
        super().__init__()
        self.tables, self.rows, self.lookups = tables, rows, lookups
        self.num_read = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        lookup = _lookup(func, args, kwargs or {})
        if lookup is None:
            return func(*args, **(kwargs or {}))
        name = self.tables.get(id(lookup.table))
        if name is None:
            return lookup.on(lookup.index, lookup.table)
        if self.num_read == len(self.lookups):
            raise ValueError(_CHANGED.format(name))
        table, index, local = self.lookups[self.num_read]
        if table != name or not torch.equal(index, lookup.index):
            raise ValueError(_CHANGED.format(name))
        self.num_read += 1
        return lookup.on(local, self.rows[name])

    def check_finished(self) -> None:
        """Raise if a recorded look-up was not made again."""
        if self.num_read < len(self.lookups):
            raise ValueError(_CHANGED.format(self.lookups[self.num_read][0]))


_CHANGED = (
    "the model read other rows of {} than when its look-ups were recorded on the same batch: look-ups must "
    "depend on the batch alone, not on weights or random numbers"
)


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(isinstance(part, Tensor) for part in value)
    return isinstance(value, Tensor)
