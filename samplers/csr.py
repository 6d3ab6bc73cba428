"""TemporalCSR: the adjacency of one edge type, each row sorted by (time, edge id)."""

import os
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64
from torch import Tensor

RowEnd = Literal["source", "destination"]
EdgeColumn = Int32[Tensor, " num_edges"] | Int64[Tensor, " num_edges"]


@dataclass(frozen=True, eq=False)
class TemporalCSR:
    """The edges of one type, grouped by row and sorted by (time, edge id) inside each row.

    An immutable value: ``append`` and ``to`` return a new one. Sixteen bytes an edge where columns and edge
    ids fit in 32 bits, plus four for a weight and eight for an ``available_time``.

    Attributes:
        rowptr: first edge of each row, and the number of edges at the end; (num_rows + 1,).
        col: the other end of each edge, in [0, num_cols).
        edge_time: when the edge happened; int64, the data set's unit (seconds if it does not say).
        edge_id: the edge's number in the event log; breaks ties in time.
        num_cols: how many nodes the columns can name.
        edge_weight: importance of each edge, if there is one.
        available_time: when the edge became known, never before its own time. An edge is visible to a query
            only if it is known by then. None: known as soon as it happens.

    """

    rowptr: Int64[Tensor, " num_boundaries"]
    col: EdgeColumn
    edge_time: Int64[Tensor, " num_edges"]
    edge_id: EdgeColumn
    num_cols: int
    edge_weight: Float32[Tensor, " num_edges"] | None = None
    available_time: Int64[Tensor, " num_edges"] | None = None

    def __post_init__(self) -> None:
        for name, column in self.edge_columns().items():
            if len(column) != len(self.col):
                raise ValueError(f"{name} has {len(column)} values for {len(self.col)} edges: give one each")

    @classmethod
    def from_edge_index(
        cls,
        edge_index: Int32[Tensor, "2 num_edges"] | Int64[Tensor, "2 num_edges"],
        edge_time: Int64[Tensor, " num_edges"],
        *,
        num_rows: int,
        num_cols: int,
        row: RowEnd,
        edge_id: EdgeColumn | None = None,
        edge_weight: Float32[Tensor, " num_edges"] | None = None,
        available_time: Int64[Tensor, " num_edges"] | None = None,
    ) -> "TemporalCSR":
        """Group edges by one of their ends. Fastest where they come sorted by time.

        Args:
            edge_index: source ids, then destination ids.
            edge_time: time of each edge.
            num_rows: how many nodes the ``row`` end can name.
            num_cols: how many nodes the other end can name.
            row: the end that becomes the row. For edge type (source, relation, destination), sampling "who
                points here" needs ``row="destination"``.
            edge_id: a unique, non-negative number for each edge; by default its place in the input.
            edge_weight: non-negative importance of each edge.
            available_time: when each edge became known, at or after ``edge_time``.

        Raises:
            ValueError: an id is out of range, a weight is negative or not finite, or an edge is known before
                it happens.

        """
        if row not in ("source", "destination"):
            raise ValueError(f'row must be "source" or "destination", got {row!r}')
        row_node, col = (edge_index[0], edge_index[1]) if row == "source" else (edge_index[1], edge_index[0])
        check_ids("row", row_node, num_rows)
        check_ids("column", col, num_cols)
        _check_edges(edge_time, edge_id, edge_weight, available_time)
        order = _sort_edges(row_node, edge_time, edge_id)
        if edge_id is None:
            edge_id = torch.arange(len(edge_time), device=edge_time.device) if order is None else order
        return cls(
            rowptr=_rowptr(row_node, num_rows),
            col=_narrow(_take(col, order), num_cols),
            edge_time=_take(edge_time, order),
            edge_id=_narrow_ids(edge_id if edge_id is order else _take(edge_id, order)),
            num_cols=num_cols,
            edge_weight=None if edge_weight is None else _take(edge_weight, order),
            available_time=None if available_time is None else _take(available_time, order),
        )

    @property
    def num_rows(self) -> int:
        """Number of nodes that have a row."""
        return len(self.rowptr) - 1

    @property
    def num_edges(self) -> int:
        """Number of edges."""
        return len(self.col)

    @property
    def device(self) -> torch.device:
        """Where the columns lie, and where samples will lie."""
        return self.col.device

    def edge_columns(self) -> dict[str, Tensor]:
        """Return the columns with one value for each edge, by name."""
        names = ("col", "edge_time", "edge_id", "edge_weight", "available_time")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def row_of_edge(self) -> Int64[Tensor, " num_edges"]:
        """Return the row of each edge."""
        rows = torch.arange(self.num_rows, device=self.device)
        return rows.repeat_interleave(self.rowptr.diff(), output_size=self.num_edges)

    @cached_property
    def available_order(self) -> Tensor:
        """Edge positions, each row's sorted by (available_time, edge id): what is known is a prefix.

        Computed at the first call and kept, 4 or 8 bytes an edge.
        """
        if self.available_time is None:
            raise ValueError("this CSR has no available_time: its own order is the order of becoming known")
        row = self.row_of_edge()
        order = _sort_edges(row, self.available_time, self.edge_id)
        if order is None:
            order = torch.arange(self.num_edges, device=self.device)
        return _narrow(order, max(self.num_edges, 1))

    def append(
        self,
        edge_index: Int32[Tensor, "2 num_new"] | Int64[Tensor, "2 num_new"],
        edge_time: Int64[Tensor, " num_new"],
        *,
        row: RowEnd,
        num_rows: int | None = None,
        num_cols: int | None = None,
        edge_id: Int32[Tensor, " num_new"] | Int64[Tensor, " num_new"] | None = None,
        edge_weight: Float32[Tensor, " num_new"] | None = None,
        available_time: Int64[Tensor, " num_new"] | None = None,
    ) -> "TemporalCSR":
        """Merge edges into a new CSR, equal to one built from all edges at once.

        Times may lie before what is there (late events). Arguments are those of ``from_edge_index``;
        ``edge_id`` continues after the largest id by default, ``num_rows`` and ``num_cols`` may grow.

        Raises:
            ValueError: as ``from_edge_index``; also where the edge columns are not those of this CSR, or the
                number of nodes would shrink.

        """
        num_rows = self.num_rows if num_rows is None else num_rows
        num_cols = self.num_cols if num_cols is None else num_cols
        if num_rows < self.num_rows or num_cols < self.num_cols:
            raise ValueError(
                f"a CSR cannot shrink: it has {self.num_rows} rows and {self.num_cols} columns, "
                f"got num_rows={num_rows}, num_cols={num_cols}"
            )
        if edge_id is None:
            first = 0 if self.num_edges == 0 else int(self.edge_id.max()) + 1
            edge_id = torch.arange(first, first + len(edge_time), device=edge_time.device)
        delta = TemporalCSR.from_edge_index(
            edge_index,
            edge_time,
            num_rows=num_rows,
            num_cols=num_cols,
            row=row,
            edge_id=edge_id,
            edge_weight=edge_weight,
            available_time=available_time,
        )
        return _merge(self, delta.to(self.device))

    def to(self, device: torch.device | str) -> "TemporalCSR":
        """Copy to another device."""
        moved: dict[str, Any] = {name: column.to(device) for name, column in self.edge_columns().items()}
        return replace(self, rowptr=self.rowptr.to(device), **moved)

    def validate(self) -> None:
        """Check every promise of the class: ranges, order inside rows, unique edge ids.

        Raises:
            ValueError: the first promise that does not hold.

        """
        if len(self.rowptr) == 0 or int(self.rowptr[0]) != 0 or int(self.rowptr[-1]) != self.num_edges:
            raise ValueError(f"rowptr must begin with 0 and end with num_edges = {self.num_edges}")
        if bool((self.rowptr.diff() < 0).any()):
            raise ValueError("rowptr must not decrease")
        check_ids("column", self.col, self.num_cols)
        _check_edges(self.edge_time, self.edge_id, self.edge_weight, self.available_time)
        if len(torch.unique(self.edge_id)) != self.num_edges:
            raise ValueError("edge ids must be unique")
        row = self.row_of_edge()
        same_row = row[1:] == row[:-1]
        later = self.edge_time[1:] > self.edge_time[:-1]
        tie = (self.edge_time[1:] == self.edge_time[:-1]) & (self.edge_id[1:] > self.edge_id[:-1])
        wrong = (same_row & ~later & ~tie).nonzero()
        if len(wrong):
            where = int(wrong[0]) + 1
            raise ValueError(
                f"row {int(row[where])} is not sorted by (time, edge id) at position {where}: "
                "build it with TemporalCSR.from_edge_index"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a folder of .npy columns and a JSON header, whole or not at all. See ``csr_files``."""
        from samplers.csr_files import save_csr

        save_csr(self, path)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "TemporalCSR":
        """Memory-map a folder written by ``save``. See ``csr_files`` for the errors."""
        from samplers.csr_files import open_csr

        return open_csr(path)

    def __repr__(self) -> str:
        extra = "".join(
            f", {f.name}" for f in fields(self)[-2:] if getattr(self, f.name) is not None
        )  # the optional columns
        return (
            f"TemporalCSR(num_rows={self.num_rows}, num_cols={self.num_cols}, "
            f"num_edges={self.num_edges}{extra}, device={self.device})"
        )


def check_ids(name: str, ids: Tensor, num_ids: int) -> None:
    """Raise ``ValueError`` unless all ids lie in [0, num_ids)."""
    if ids.numel() == 0:
        return
    low, high = torch.aminmax(ids)
    if int(low) < 0 or int(high) >= num_ids:
        raise ValueError(f"{name} ids must lie in [0, {num_ids}), got [{int(low)}, {int(high)}]")


def _check_edges(
    edge_time: Tensor, edge_id: Tensor | None, edge_weight: Tensor | None, available_time: Tensor | None
) -> None:
    if edge_id is not None and edge_id.numel() and int(edge_id.min()) < 0:
        raise ValueError(f"edge ids must not be negative, got {int(edge_id.min())}")
    if edge_weight is not None and not bool(((edge_weight >= 0) & edge_weight.isfinite()).all()):
        raise ValueError("edge_weight must be finite and not negative")
    if available_time is not None:
        early = (available_time < edge_time).nonzero()
        if len(early):
            where = int(early[0])
            raise ValueError(
                f"available_time must not lie before edge_time: edge {where} happens at "
                f"{int(edge_time[where])} and is known at {int(available_time[where])}"
            )


def _take(column: Tensor, order: Tensor | None) -> Tensor:
    return column.clone() if order is None else column[order]


def _narrow(column: Tensor, bound: int) -> Tensor:
    return column.to(torch.int32 if bound <= 2**31 else torch.int64)


def _narrow_ids(edge_id: Tensor) -> Tensor:
    return _narrow(edge_id, int(edge_id.max()) + 1 if edge_id.numel() else 0)


def _rowptr(row_node: Tensor, num_rows: int) -> Tensor:
    rowptr = torch.zeros(num_rows + 1, dtype=torch.int64, device=row_node.device)
    torch.cumsum(torch.bincount(row_node, minlength=num_rows), 0, out=rowptr[1:])
    return rowptr


def _sort_edges(row_node: Tensor, time: Tensor, edge_id: Tensor | None) -> Tensor | None:
    """Order of the edges by (row, time, edge id); None if they are in it already.

    Three stable sorts from the least key to the greatest; a key that is in order already is skipped, so a
    log sorted by time costs a single sort.
    """
    order: Tensor | None = None
    for key in (edge_id, time, row_node):
        if key is None:
            continue
        key = key if order is None else key[order]
        if bool((key[1:] >= key[:-1]).all()):
            continue
        step = _stable_argsort(key)
        order = step if order is None else order[step]
    return order


def _stable_argsort(key: Tensor) -> Tensor:
    """Stable argsort; on the CPU by one vectorised sort of (key, position) packed into an int64."""
    if key.device.type != "cpu":
        return torch.argsort(key, stable=True)
    values = key.numpy().astype(np.int64)
    position_bits = max(len(values) - 1, 1).bit_length()
    low, high = int(values.min()), int(values.max())
    if (high - low).bit_length() + position_bits > 63:
        return torch.from_numpy(np.argsort(values, kind="stable"))
    values -= low
    values <<= position_bits
    values |= np.arange(len(values))
    values.sort()
    values &= (1 << position_bits) - 1
    return torch.from_numpy(values)


def _merge(base: TemporalCSR, delta: TemporalCSR) -> TemporalCSR:
    """Insert the sorted edges of ``delta`` into ``base`` without sorting ``base`` again."""
    from samplers.queries import bisect_rows  # queries.py reads TemporalCSR, so it is imported late

    grown = delta.num_rows - base.num_rows
    base_rowptr = torch.cat([base.rowptr, base.rowptr[-1:].expand(grown)])
    if base.num_edges == 0:
        return delta
    if delta.num_edges == 0:
        return replace(base, rowptr=base_rowptr, num_cols=delta.num_cols)
    base_columns, delta_columns = base.edge_columns(), delta.edge_columns()
    if base_columns.keys() != delta_columns.keys():
        raise ValueError(
            f"appended edges must have the columns {sorted(base_columns)}, got {sorted(delta_columns)}"
        )
    row = delta.row_of_edge()
    low, high = base_rowptr[row], base_rowptr[row + 1]
    first_tie = bisect_rows(base.edge_time, low, high, delta.edge_time, side="left")
    after_tie = bisect_rows(base.edge_time, first_tie, high, delta.edge_time, side="right")
    place = bisect_rows(base.edge_id, first_tie, after_tie, delta.edge_id.long(), side="left")
    from_delta = torch.zeros(base.num_edges + delta.num_edges, dtype=torch.bool, device=base.device)
    from_delta[place + torch.arange(delta.num_edges, device=base.device)] = True
    merged: dict[str, Any] = {}
    for name, new_values in delta_columns.items():
        old_values = base_columns[name]
        dtype = torch.promote_types(old_values.dtype, new_values.dtype)
        merged[name] = torch.empty(len(from_delta), dtype=dtype, device=base.device)
        merged[name][~from_delta] = old_values.to(dtype)
        merged[name][from_delta] = new_values.to(dtype)
    return TemporalCSR(rowptr=base_rowptr + delta.rowptr, num_cols=delta.num_cols, **merged)
