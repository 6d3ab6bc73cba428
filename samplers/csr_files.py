"""A TemporalCSR on disk: a folder of .npy columns and a JSON header, memory-mapped when opened."""

import json
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from samplers.csr import TemporalCSR
from samplers.saved_folder import new_folder, write_array, write_json

FORMAT_VERSION = 3
_HEADER = "header.json"


class CorruptedCSRError(ValueError):
    """A folder that is not a whole TemporalCSR of a known version."""


def save_csr(csr: TemporalCSR, path: str | os.PathLike[str]) -> None:
    """Write the folder ``path``, the delta folded in.

    It appears whole or not at all: written under another name, then renamed.

    Raises:
        FileExistsError: there is something at ``path`` already.

    """
    csr = csr.compact()
    with new_folder(Path(path)) as folder:
        sizes = {}
        columns = {"rowptr": csr.rowptr, **csr.edge_columns()}
        for name in ("sampled_time", "time_guide", "max_delay"):
            if (column := getattr(csr, name)) is not None:
                columns[name] = column
        for name, column in columns.items():
            write_array(folder / f"{name}.npy", column.cpu().numpy())
            sizes[name] = (folder / f"{name}.npy").stat().st_size
        header = {
            "format": "TemporalCSR",
            "version": FORMAT_VERSION,
            "num_rows": csr.num_rows,
            "num_cols": csr.num_cols,
            "num_edges": csr.num_edges,
            "num_late_edges": csr.num_late_edges,
            "bytes": sizes,
        }
        write_json(folder / _HEADER, header)


def open_csr(path: str | os.PathLike[str]) -> TemporalCSR:
    """Memory-map what ``save_csr`` wrote: nothing is read until it is looked at.

    Raises:
        CorruptedCSRError: no header, an unknown version, or a column that is missing or cut off.

    """
    path = Path(path)
    header = _read_header(path)
    try:
        return _open_columns(path, header)
    except CorruptedCSRError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CorruptedCSRError(f"{path} does not hold what its {_HEADER} says: save it again") from error


def _open_columns(path: Path, header: dict[str, Any]) -> TemporalCSR:
    columns: dict[str, Any] = {}
    for name, size in header["bytes"].items():
        file = path / f"{name}.npy"
        found = file.stat().st_size if file.exists() else 0
        if found != size:
            raise CorruptedCSRError(f"{file} should have {size} bytes, it has {found}: copy or save it again")
        columns[name] = _map_column(file)
    num_cols, num_late_edges = header["num_cols"], header["num_late_edges"]
    if not isinstance(num_cols, int) or not isinstance(num_late_edges, int):
        raise CorruptedCSRError(f"{path}: num_cols and num_late_edges of {_HEADER} must be whole numbers")
    csr = TemporalCSR(num_cols=num_cols, num_late_edges=num_late_edges, **columns)
    if (csr.num_rows, csr.num_edges) != (header["num_rows"], header["num_edges"]):
        raise CorruptedCSRError(f"{path}: the columns have other lengths than {_HEADER} says: save it again")
    return csr


def _read_header(path: Path) -> dict[str, Any]:
    try:
        header = json.loads((path / _HEADER).read_text())
    except (OSError, ValueError) as error:
        raise CorruptedCSRError(f"{path} holds no readable {_HEADER}: it is not a saved CSR") from error
    if not isinstance(header, dict):
        raise CorruptedCSRError(f"{path / _HEADER} is not a saved CSR's: save it again")
    if header.get("format") != "TemporalCSR" or header.get("version") != FORMAT_VERSION:
        raise CorruptedCSRError(
            f"{path} has format {header.get('format')!r} version {header.get('version')!r}, "
            f"this release reads 'TemporalCSR' version {FORMAT_VERSION}: build it again from its events"
        )
    return header


def _map_column(file: Path) -> Tensor:
    # Copy-on-write rather than read-only: torch has no read-only tensors, and warns of arrays that are.
    # Nothing reaches the file, and pages stay shared until written to.
    array = np.load(file, mmap_mode="c", allow_pickle=False)
    pages = getattr(array, "_mmap", None)  # None where the column is empty
    if pages is not None and hasattr(mmap, "MADV_RANDOM"):
        pages.madvise(mmap.MADV_RANDOM)  # samplers read here and there: reading ahead would fill the memory
    return torch.from_numpy(array)
