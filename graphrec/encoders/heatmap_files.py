"""Sparse heatmaps on disk: a folder of .npy columns and a JSON header, memory-mapped when opened."""

import json
from pathlib import Path

import numpy as np
import torch

from graphrec.encoders.heatmap import Heatmaps
from samplers.saved_folder import check_files, describe_files, new_folder, write_array, write_json

FORMAT_VERSION = 1
_HEADER = "header.json"
_REMEDY = "write the heatmaps again"


class CorruptedHeatmapsError(ValueError):
    """A folder that holds no whole heatmaps of a known version."""


def save_heatmaps(heatmaps: Heatmaps, path: str | Path) -> None:
    """Write the folder ``path``, which appears whole or not at all.

    Raises:
        FileExistsError: there is something at ``path`` already.

    """
    with new_folder(Path(path)) as folder:
        for name, column in heatmaps.columns().items():
            write_array(folder / f"{name}.npy", column.cpu().numpy())
        header = {
            "format": "Heatmaps",
            "version": FORMAT_VERSION,
            "num_days": heatmaps.num_days,
            "num_channels": heatmaps.num_channels,
            "files": describe_files(folder),
        }
        write_json(folder / _HEADER, header)


def open_heatmaps(path: str | Path, *, verify: bool = False) -> Heatmaps:
    """Memory-map what :func:`save_heatmaps` wrote: cells are read when a mini-batch takes them.

    Args:
        path: the folder.
        verify: compare checksums, which reads every file.

    Raises:
        CorruptedHeatmapsError: there is no header, it is of another format or version, or a file is missing,
            cut off or (where verified) changed.

    """
    folder = Path(path)
    try:
        header = json.loads((folder / _HEADER).read_text())
        kind = header["format"], header["version"]
        num_days, num_channels, files = header["num_days"], header["num_channels"], header["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptedHeatmapsError(f"{folder} holds no readable {_HEADER}: {_REMEDY}") from error
    if kind != ("Heatmaps", FORMAT_VERSION):
        raise CorruptedHeatmapsError(
            f"{folder} has format {kind}, this release reads ('Heatmaps', {FORMAT_VERSION}): {_REMEDY}"
        )
    check_files(folder, files, verify=verify, error=CorruptedHeatmapsError, remedy=_REMEDY)
    names = ("ptr", "day", "hour", "channel", "value")
    # copy-on-write: torch has no read-only tensors, and nothing reaches the file
    columns = {
        name: torch.from_numpy(np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False))
        for name in names
    }
    return Heatmaps(num_days, num_channels, *(columns[name] for name in names))
