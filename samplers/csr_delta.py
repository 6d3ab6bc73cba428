"""Appending edges to a TemporalCSR: merged into a small delta now, into the base when it is compacted."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from samplers.csr import TemporalCSR
from samplers.edge_sort import empty_column, empty_records, widen_records
from samplers.queries import bisect_rows


def append_csr(csr: TemporalCSR, new: TemporalCSR) -> TemporalCSR:
    """Merge a CSR of new edges, of the same rows and without a delta, into the delta.

    Raises:
        ValueError: edges have weights on one side only.

    """
    if new.num_edges == 0:
        return csr
    if csr.num_edges and (csr.edge_weight is None) != (new.edge_weight is None):
        raise ValueError(
            "edge_weight must be given for all edges or for none: the CSR has "
            f"{'none' if csr.edge_weight is None else 'weights'}, the appended edges have "
            f"{'none' if new.edge_weight is None else 'weights'}"
        )
    if csr.num_edges == 0:
        return new
    late = _count_late(csr, new)
    delta = new if csr.delta is None else _merge(csr.delta, new)
    row = delta.row_of_edge()
    rank = _base_edges_before(csr, delta, row) - csr.rowptr[row]
    rank += torch.arange(delta.num_edges, device=csr.device) - delta.rowptr[row]
    return replace(
        csr,
        delta=delta,
        delta_rank=rank,
        max_delay=_larger_delays(csr, new),
        num_late_edges=csr.num_late_edges + late,
    )


def compact_csr(csr: TemporalCSR) -> TemporalCSR:
    """Merge base and delta into one base."""
    return csr if csr.delta is None else _merge(csr, csr.delta)


def _larger_delays(csr: TemporalCSR, other: TemporalCSR) -> Tensor | None:
    """Return the largest delay of each row in either; None if neither has any."""
    delays = [part.max_delay for part in (csr, other) if part.max_delay is not None]
    return torch.stack(delays).amax(0) if delays else None


def _count_late(csr: TemporalCSR, new: TemporalCSR) -> int:
    row = new.row_of_edge()
    latest = torch.full((csr.num_rows,), torch.iinfo(torch.int64).min, device=csr.device)
    for part in (csr, csr.delta):
        if part is not None and len(part.records):
            last = part.edge_time[(part.rowptr[1:] - 1).clamp(min=0)]
            latest = torch.where(part.rowptr.diff() > 0, torch.maximum(latest, last), latest)
    return int((new.edge_time < latest[row]).sum())


def _base_edges_before(base: TemporalCSR, delta: TemporalCSR, row: Tensor) -> Tensor:
    """Return the position in the base behind the edges that precede each edge of the delta."""
    low, high = base.rowptr[row], base.rowptr[row + 1]
    first_tie = bisect_rows(base.edge_time, low, high, delta.edge_time, side="left")
    after_tie = bisect_rows(base.edge_time, first_tie, high, delta.edge_time, side="right")
    return bisect_rows(base.edge_id, first_tie, after_tie, delta.edge_id.long(), side="left")


def _merge(base: TemporalCSR, delta: TemporalCSR) -> TemporalCSR:
    """Insert the sorted edges of ``delta`` into ``base`` without sorting ``base`` again."""
    place = _base_edges_before(base, delta, delta.row_of_edge())
    num_edges = len(base.records) + len(delta.records)
    from_delta = torch.zeros(num_edges, dtype=torch.bool, device=base.device)
    from_delta[place + torch.arange(len(delta.records), device=base.device)] = True
    from_base = ~from_delta
    narrow = base.records.dtype == delta.records.dtype == torch.int32
    records = empty_records(num_edges, narrow=narrow, device=base.device)
    records[from_base] = base.records if narrow else widen_records(base.records)
    records[from_delta] = delta.records if narrow else widen_records(delta.records)
    columns: dict[str, Any] = {"records": records}
    for name in dict.fromkeys([*base.edge_columns(), *delta.edge_columns()]):
        if name == "records":
            continue
        old, new = getattr(base, name), getattr(delta, name)
        dtype = torch.promote_types((new if old is None else old).dtype, (old if new is None else new).dtype)
        columns[name] = empty_column(num_edges, dtype, base.device)
        # a delay that one side lacks is 0
        columns[name][from_base] = 0 if old is None else old.to(dtype)
        columns[name][from_delta] = 0 if new is None else new.to(dtype)
    return TemporalCSR(
        rowptr=base.rowptr + delta.rowptr,
        num_cols=delta.num_cols,
        max_delay=_larger_delays(base, delta),
        num_late_edges=base.num_late_edges,
        **columns,
    )
