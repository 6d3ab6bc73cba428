"""TemporalCSR: the adjacency of one edge type, each row sorted by (time, edge id).

Edges that are appended lie in a small second CSR, the delta, until ``compact`` folds them in. An edge has a
rank, its place among all edges of its row, base and delta together; and a position, its place in memory:
those of the delta's edges follow those of the base's.
"""

import os
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from jaxtyping import Float32, Int32, Int64, Shaped
from torch import Tensor, nn

from samplers.edge_sort import (
    build_rowptr,
    guide_times,
    narrow,
    pack_records,
    row_maximum,
    row_of_place,
    sample_times,
    sort_edges,
    take,
)

if TYPE_CHECKING:
    from samplers.compiled.rows import CSRArrays

RowEnd = Literal["source", "destination"]
EdgeColumnName = Literal["col", "edge_time", "edge_id", "edge_weight", "delay"]
EdgeColumn = Int32[Tensor, " num_base_edges"] | Int64[Tensor, " num_base_edges"]
Records = Int32[Tensor, "num_base_edges 4"] | Int64[Tensor, "num_base_edges 3"]


@dataclass(frozen=True, eq=False)
class TemporalCSR:
    """The edges of one type, grouped by row and sorted by (time, edge id) inside each row.

    An immutable value: ``append``, ``compact`` and ``to`` return a new one, so a reader keeps the version it
    has. Sixteen bytes an edge where columns and edge ids fit in 32 bits, plus four for a weight and four for
    a delay.

    Attributes:
        rowptr: first edge of each row, and the number of edges at the end; (num_rows + 1,).
        records: column, edge id and time of each edge side by side, so that a random read costs one cache
            miss rather than three: four words of 4 bytes, the last two of which are the time; or three of
            8 bytes where columns or ids do not fit in 31 bits. Read them as ``col``, ``edge_id`` and
            ``edge_time``.
        num_cols: how many nodes the columns can name.
        sampled_time: time of every 16th record, wherever rows begin: a search reads these first, since all of
            them may lie in a cache. Made from the records where it is not given.
        time_guide: where among its row's samples each part of the row's span of time begins, so that a search
            begins next to its end (``edge_sort.guide_times``). Made where it is not given.
        edge_weight: importance of each edge, if there is one.
        delay: how long after its own time each edge became known: ``available_time - edge_time``, not
            negative. An edge is visible to a query only if it is known by then. None: known as soon as it
            happens.
        max_delay: the largest delay of each row, delta included; (num_rows,). There if any edge has a delay.
        delta: appended edges, a CSR of the same rows; the other columns do not hold them.
        delta_rank: rank of each of the delta's edges in its row.
        num_late_edges: how many appended edges were older than their row's last edge when they came.

    """

    rowptr: Int64[Tensor, " num_boundaries"]
    records: Records
    num_cols: int
    edge_weight: Float32[Tensor, " num_base_edges"] | None = None
    delay: EdgeColumn | None = None
    max_delay: Int64[Tensor, " num_rows"] | None = None
    delta: "TemporalCSR | None" = None
    delta_rank: Int64[Tensor, " num_delta_edges"] | None = None
    num_late_edges: int = 0
    sampled_time: Int64[Tensor, " num_samples"] | None = None
    time_guide: Int32[Tensor, " num_samples"] | None = None

    def __post_init__(self) -> None:
        sampled_time = sample_times(self.edge_time) if self.sampled_time is None else self.sampled_time
        object.__setattr__(self, "sampled_time", sampled_time)
        if self.time_guide is None:
            _check_rowptr(self.rowptr, len(self.records))
            object.__setattr__(self, "time_guide", guide_times(self.rowptr, sampled_time))
        for name, column in self.edge_columns().items():
            if len(column) != len(self.records):
                raise ValueError(
                    f"{name} has {len(column)} values for {len(self.records)} edges: give one each"
                )

    @classmethod
    def from_edge_index(
        cls,
        edge_index: Int32[Tensor, "2 num_edges"] | Int64[Tensor, "2 num_edges"],
        edge_time: Int64[Tensor, " num_edges"],
        *,
        num_rows: int,
        num_cols: int,
        row: RowEnd,
        edge_id: Int32[Tensor, " num_edges"] | Int64[Tensor, " num_edges"] | None = None,
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
            edge_id: a unique, non-negative number for each edge; by default its place in the input. Only
                ``validate`` checks that they are unique.
            edge_weight: non-negative importance of each edge.
            available_time: when each edge became known, at or after ``edge_time``.

        Raises:
            ValueError: a tensor of another dtype or length, an id out of range, a weight that is negative or
                not finite, or an edge that is known before it happens.

        """
        if row not in ("source", "destination"):
            raise ValueError(f'row must be "source" or "destination", got {row!r}')
        check_column("edge_time", edge_time)
        num_edges = len(edge_time)
        if not isinstance(edge_index, Tensor) or edge_index.shape != (2, num_edges):
            found = tuple(edge_index.shape) if isinstance(edge_index, Tensor) else type(edge_index).__name__
            raise ValueError(
                f"edge_index must be a tensor of shape (2, {num_edges}): the sources and the destinations of "
                f"as many edges as there are times, got {found}"
            )
        row_node, col = (edge_index[0], edge_index[1]) if row == "source" else (edge_index[1], edge_index[0])
        check_column("edge_index", row_node, or_int32=True)
        if edge_id is not None:
            check_column("edge_id", edge_id, or_int32=True, size=num_edges)
        if edge_weight is not None:
            check_column("edge_weight", edge_weight, dtype=torch.float32, size=num_edges)
        if available_time is not None:
            check_column("available_time", available_time, size=num_edges)
        check_ids("row", row_node, num_rows)
        check_ids("column", col, num_cols)
        _check_edges(edge_time, edge_id, edge_weight, available_time)
        order = sort_edges(row_node, edge_time, edge_id)
        delay = None if available_time is None else narrow(take(_delay(edge_time, available_time), order))
        rowptr = build_rowptr(row_node, num_rows)
        return cls(
            rowptr=rowptr,
            records=pack_records(col, edge_time, edge_id, order, num_cols=num_cols),
            num_cols=num_cols,
            edge_weight=None if edge_weight is None else take(edge_weight, order),
            delay=delay,
            max_delay=None if delay is None else row_maximum(rowptr, delay),
        )

    @property
    def num_rows(self) -> int:
        """Number of nodes that have a row."""
        return len(self.rowptr) - 1

    @property
    def num_edges(self) -> int:
        """Number of edges, appended ones included."""
        return len(self.records) + (0 if self.delta is None else len(self.delta.records))

    @property
    def device(self) -> torch.device:
        """Where the columns lie, and where samples will lie."""
        return self.records.device

    @property
    def col(self) -> EdgeColumn:
        """The other end of each edge, in [0, num_cols), without the delta's edges."""
        return self.records[:, 0]

    @property
    def edge_id(self) -> EdgeColumn:
        """Return the edge's number in the event log, which breaks ties in time; without the delta's edges."""
        return self.records[:, 1]

    @property
    def edge_time(self) -> Int64[Tensor, " num_base_edges"]:
        """When each edge happened, in the data set's unit (seconds by default); without the delta's."""
        return self.records.view(torch.int64)[:, -1]

    @property
    def available_time(self) -> Int64[Tensor, " num_base_edges"] | None:
        """When each edge became known, computed at each call; None: at its own time."""
        return None if self.delay is None else self.edge_time + self.delay

    def edge_columns(self) -> dict[str, Tensor]:
        """Return the columns with one value for each edge, by name, without the delta's edges."""
        names = ("records", "edge_weight", "delay")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def row_of_edge(self) -> Int64[Tensor, " num_base_edges"]:
        """Return the row of each edge, without the delta's edges."""
        return row_of_place(self.rowptr, len(self.records))

    def look_up(self, column: EdgeColumnName, position: Int64[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """Read a column at positions; those of the delta's edges follow those of the base's.

        A position outside both gives a meaningless value: the caller masks it. A missing delay is 0.
        """
        base = getattr(self, column)
        delta = None if self.delta is None else getattr(self.delta, column)
        here = _gather(base, position)
        if self.delta is None:
            return here
        there = _gather(delta, position - len(self.records))
        dtype = torch.promote_types(here.dtype, there.dtype)
        return torch.where(position < len(self.records), here.to(dtype), there.to(dtype))

    def grow(self, *, num_rows: int, num_cols: int) -> "TemporalCSR":
        """Return a CSR of more nodes, which have no edge; the edges are shared.

        Raises:
            ValueError: the number of nodes would shrink.

        """
        if (num_rows, num_cols) == (self.num_rows, self.num_cols):
            return self
        if num_rows < self.num_rows or num_cols < self.num_cols:
            raise ValueError(
                f"a CSR cannot shrink: it has {self.num_rows} rows and {self.num_cols} columns, "
                f"got num_rows={num_rows}, num_cols={num_cols}"
            )
        added = num_rows - self.num_rows
        return replace(
            self,
            rowptr=torch.cat([self.rowptr, self.rowptr[-1:].expand(added)]),
            num_cols=num_cols,
            max_delay=None if self.max_delay is None else nn.functional.pad(self.max_delay, (0, added)),
            delta=None if self.delta is None else self.delta.grow(num_rows=num_rows, num_cols=num_cols),
        )

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
        """Return a CSR that holds these edges too; samplers see it as if built from all edges at once.

        The edges go into the delta: the work is proportional to the delta and the number of rows, not to the
        base, whose columns are shared. Call ``compact`` when the delta has grown to a fair part of the base.
        Times may lie before what is there: such late edges are counted in ``num_late_edges``. Arguments are
        those of ``from_edge_index``; ``edge_id`` continues after the largest id by default (which reads all
        ids once), ``num_rows`` and ``num_cols`` may grow.

        Raises:
            ValueError: as ``from_edge_index``; also where edges have weights on one side only, or the number
                of nodes would shrink.

        """
        grown = self.grow(
            num_rows=self.num_rows if num_rows is None else num_rows,
            num_cols=self.num_cols if num_cols is None else num_cols,
        )
        if edge_id is None:
            first = self.next_edge_id
            edge_id = torch.arange(first, first + len(edge_time), device=edge_time.device)
        new = TemporalCSR.from_edge_index(
            edge_index,
            edge_time,
            num_rows=grown.num_rows,
            num_cols=grown.num_cols,
            row=row,
            edge_id=edge_id,
            edge_weight=edge_weight,
            available_time=available_time,
        )
        from samplers.csr_delta import append_csr  # reads TemporalCSR, so it is imported late

        return append_csr(grown, new.to(self.device))

    def compact(self) -> "TemporalCSR":
        """Fold the delta into the base: equal to a CSR built from all edges at once, all in memory.

        No sampled edge changes, and no edge id. Returns itself where there is no delta.
        """
        from samplers.csr_delta import compact_csr

        return compact_csr(self)

    @cached_property
    def next_edge_id(self) -> int:
        """One more than the largest edge id."""
        largest = [
            int(part.edge_id.max()) for part in (self, self.delta) if part is not None and len(part.records)
        ]
        return max(largest, default=-1) + 1

    def to(self, device: torch.device | str) -> "TemporalCSR":
        """Copy to another device; returns itself where it lies there already."""
        if self.device == torch.device(device):
            return self
        tensors = {**self.edge_columns(), "rowptr": self.rowptr}
        tensors |= {
            name: getattr(self, name)
            for name in ("max_delay", "delta_rank", "sampled_time", "time_guide")
            if getattr(self, name) is not None
        }
        moved: dict[str, Any] = {name: column.to(device) for name, column in tensors.items()}
        return replace(self, delta=None if self.delta is None else self.delta.to(device), **moved)

    def validate(self) -> None:
        """Check every promise of the class: ranges, order inside rows, unique edge ids.

        Raises:
            ValueError: the first promise that does not hold.

        """
        if self.delta is not None:
            self.delta.validate()
            replace(self, delta=None, delta_rank=None).validate()
            merged = self.compact()
            merged.validate()
            of_delta = torch.isin(merged.edge_id, self.delta.edge_id).nonzero().flatten()
            rank = of_delta - merged.rowptr[self.delta.row_of_edge()]
            if self.delta_rank is None or not torch.equal(rank, self.delta_rank):
                raise ValueError("delta_rank must be the ranks of the delta's edges: append them again")
            return
        _check_rowptr(self.rowptr, self.num_edges)
        check_ids("column", self.col, self.num_cols)
        _check_edges(self.edge_time, self.edge_id, self.edge_weight, self.available_time)
        if len(torch.unique(self.edge_id)) != self.num_edges:
            raise ValueError("edge ids must be unique")
        if self.delay is not None and (
            self.max_delay is None or bool((row_maximum(self.rowptr, self.delay) > self.max_delay).any())
        ):
            raise ValueError("max_delay must not lie below a delay of its row")
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
        sampled_time = sample_times(self.edge_time)
        if not torch.equal(sampled_time, cast(Tensor, self.sampled_time)):
            raise ValueError("sampled_time must be the time of every 16th record: build the CSR again")
        if not torch.equal(guide_times(self.rowptr, sampled_time), cast(Tensor, self.time_guide)):
            raise ValueError("time_guide must be that of sampled_time: build the CSR again")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a folder of .npy columns and a JSON header, whole or not at all. See ``csr_files``."""
        from samplers.csr_files import save_csr

        save_csr(self, path)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "TemporalCSR":
        """Memory-map a folder written by ``save``. See ``csr_files`` for the errors."""
        from samplers.csr_files import open_csr

        return open_csr(path)

    @cached_property
    def arrays(self) -> "CSRArrays":
        """The columns as compiled code reads them: numpy arrays of the same memory, on the CPU."""
        from samplers.compiled.rows import csr_arrays

        return csr_arrays(self)

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # without what is cached

    def __repr__(self) -> str:
        extra = "".join(f", {name}" for name in ("edge_weight", "delay") if getattr(self, name) is not None)
        if self.delta is not None:
            extra += f", delta of {self.delta.num_edges} edges, {self.num_late_edges} late"
        return (
            f"TemporalCSR(num_rows={self.num_rows}, num_cols={self.num_cols}, "
            f"num_edges={self.num_edges}{extra}, device={self.device})"
        )


def check_column(
    name: str,
    values: Tensor,
    *,
    dtype: torch.dtype = torch.int64,
    or_int32: bool = False,
    size: int | None = None,
) -> None:
    """Raise ``ValueError`` unless it is a tensor of one axis, of the dtype and of the size."""
    if not isinstance(values, Tensor) or values.dim() != 1:
        found = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"{name} must be a tensor of one axis, got {found}")
    if values.dtype != dtype and not (or_int32 and values.dtype == torch.int32):
        wanted = str(dtype).removeprefix("torch.") + (" or int32" if or_int32 else "")
        raise ValueError(f"{name} must be of dtype {wanted}, got {values.dtype}: convert it first")
    if size is not None and len(values) != size:
        raise ValueError(f"{name} has {len(values)} values for {size} edges: give one each")


def check_ids(name: str, ids: Tensor, num_ids: int) -> None:
    """Raise ``ValueError`` unless all ids lie in [0, num_ids)."""
    if ids.numel() == 0:
        return
    low, high = torch.aminmax(ids)
    if int(low) < 0 or int(high) >= num_ids:
        raise ValueError(f"{name} ids must lie in [0, {num_ids}), got [{int(low)}, {int(high)}]")


def _check_rowptr(rowptr: Tensor, num_edges: int) -> None:
    if len(rowptr) == 0 or int(rowptr[0]) != 0 or int(rowptr[-1]) != num_edges:
        raise ValueError(f"rowptr must begin with 0 and end with num_edges = {num_edges}")
    if bool((rowptr.diff() < 0).any()):
        raise ValueError("rowptr must not decrease")


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


def _delay(edge_time: Tensor, available_time: Tensor) -> Tensor:
    """Subtract without wrapping around: an edge before time 0 that is never known has the longest delay."""
    delay = available_time - edge_time
    return delay.where(delay >= 0, torch.iinfo(torch.int64).max)


def _gather(column: Tensor | None, position: Tensor) -> Tensor:
    if column is None or len(column) == 0:
        return torch.zeros_like(position)
    return column[position.clamp(0, len(column) - 1)]
