"""Sorting edges into the rows of a CSR, and the narrow columns that hold them."""

import numpy as np
import torch
from torch import Tensor

SAMPLING_STEP = 16  # records of one sampled time: 256 bytes
CACHE_LINE = 64  # bytes
_HUGE_PAGES = 1 << 22  # from this many bytes on, numpy asks the kernel for huge pages


def empty_column(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return memory for a column. Long ones on the CPU begin a cache line and lie in huge pages.

    Random reads are faster in such: a row's records between two sampled times are four lines, not five.
    """
    num_bytes = size * dtype.itemsize
    if device.type != "cpu" or num_bytes < _HUGE_PAGES:
        return torch.empty(size, dtype=dtype, device=device)
    memory = torch.from_numpy(np.empty(num_bytes + CACHE_LINE, np.uint8))
    start = -memory.data_ptr() % CACHE_LINE
    return memory[start : start + num_bytes].view(dtype)


def take(column: Tensor, order: Tensor | None, dtype: torch.dtype | None = None) -> Tensor:
    """Copy a column in the given order, or in its own; of another dtype if one is given."""
    size = len(column) if order is None else len(order)
    if dtype is not None and dtype != column.dtype:
        column = column.to(dtype)
    taken = empty_column(size, column.dtype, column.device)
    if order is None:
        return taken.copy_(column)
    return torch.index_select(column.contiguous(), 0, order, out=taken)


def narrow(column: Tensor) -> Tensor:
    """Store numbers that are not negative in 4 bytes where they fit, else in 8."""
    bound = int(column.max()) if column.numel() else 0
    dtype = torch.int32 if bound < 2**31 else torch.int64
    return column if column.dtype == dtype else take(column, None, dtype)


def pack_records(
    col: Tensor, edge_time: Tensor, edge_id: Tensor | None, order: Tensor | None, *, num_cols: int
) -> Tensor:
    """Lay column, edge id (default: the place) and time of each edge side by side, in the given order."""
    num_edges = len(edge_time)
    num_ids = num_edges if edge_id is None else int(edge_id.max()) + 1 if num_edges else 0
    records = empty_records(num_edges, narrow=max(num_cols, num_ids) <= 2**31, device=edge_time.device)
    if edge_id is None:
        edge_id = torch.arange(num_edges, device=edge_time.device) if order is None else order
    elif order is not None:
        edge_id = edge_id[order]
    records[:, 0] = col if order is None else col[order]
    records[:, 1] = edge_id
    records.view(torch.int64)[:, -1] = edge_time if order is None else edge_time[order]
    return records


def empty_records(num_edges: int, *, narrow: bool, device: torch.device) -> Tensor:
    """Return memory for records of 4-byte or 8-byte words."""
    if narrow:
        return empty_column(num_edges * 4, torch.int32, device).view(num_edges, 4)
    return empty_column(num_edges * 3, torch.int64, device).view(num_edges, 3)


def widen_records(records: Tensor) -> Tensor:
    """Return the same records in 8-byte words."""
    if records.dtype == torch.int64:
        return records
    wide = empty_records(len(records), narrow=False, device=records.device)
    wide[:, :2] = records[:, :2]
    wide[:, 2] = records.view(torch.int64)[:, 1]
    return wide


def sample_times(edge_time: Tensor) -> Tensor:
    """Copy the time of every 16th edge."""
    return take(edge_time[::SAMPLING_STEP], None)


def guide_times(rowptr: Tensor, sampled_time: Tensor) -> Tensor:
    """Divide each row's span of sampled times into as many equal parts as it has samples.

    Returns:
        For each part, how many of its row's samples lie before it; int32, those of a row where its samples
        lie. Whoever knows the part of a time needs to search that part alone, a sample on average. The part
        of a time is ``trunc((time - first) * (size / (last - first + 1)))`` in double precision, at most
        ``size - 1``: the same steps as in ``samplers.compiled.rows``, so that both round alike.

    """
    ptr = (rowptr + SAMPLING_STEP - 1) // SAMPLING_STEP
    size = ptr.diff()
    row = row_of_place(ptr, len(sampled_time))
    start, size = ptr[row], size[row]
    first, last = sampled_time[start].double(), sampled_time[start + size - 1].double()
    part = ((sampled_time.double() - first) * (size / (last - first + 1))).long().minimum(size - 1)
    count = torch.bincount(start + part, minlength=len(sampled_time))
    return take(count.cumsum(0) - count - start, None, torch.int32)


def build_rowptr(row_node: Tensor, num_rows: int) -> Tensor:
    """Count the edges of each row, summed up: the first edge of each row, (num_rows + 1,)."""
    rowptr = torch.zeros(num_rows + 1, dtype=torch.int64, device=row_node.device)
    torch.cumsum(torch.bincount(row_node, minlength=num_rows), 0, out=rowptr[1:])
    return rowptr


def row_maximum(rowptr: Tensor, values: Tensor) -> Tensor:
    """Return the largest of each row's values, which are not negative; 0 for an empty row."""
    row = row_of_place(rowptr, len(values))
    return torch.zeros_like(rowptr[1:]).scatter_reduce(0, row, values.long(), "amax")


def row_of_place(ptr: Tensor, num_places: int | None = None) -> Tensor:
    """Return the row of each place, of rows that begin where ``ptr`` says.

    ``num_places`` is how many there are, where the caller knows: a GPU need not be asked.
    """
    rows = torch.arange(len(ptr) - 1, device=ptr.device)
    return rows.repeat_interleave(ptr.diff(), output_size=num_places)


def sort_edges(row_node: Tensor, time: Tensor, edge_id: Tensor | None) -> Tensor | None:
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
