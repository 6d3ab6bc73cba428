"""Folders that are written whole or not at all, with the size and the checksum of every file."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a folder of another name to write into, which becomes ``path`` at the end of the block.

    If the block raises, nothing is left of it.

    Raises:
        FileExistsError: there is something at ``path`` already.

    """
    if path.exists():
        raise FileExistsError(f"{path} exists: remove it first or save under another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp's own mode shuts out other users
        folder.rename(path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the size and the checksum of every file below a folder, by its path from there."""
    return {
        str(file.relative_to(folder)): {"bytes": file.stat().st_size, "blake2b": checksum(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def check_files(
    folder: Path,
    described: Mapping[str, Mapping[str, Any]],
    *,
    verify: bool,
    error: type[Exception],
    remedy: str,
) -> None:
    """Compare the files below a folder with what :func:`describe_files` returned of them.

    Args:
        folder: where they are.
        described: their sizes and checksums.
        verify: compare checksums too, which reads every file.
        error: what is raised for a file that is missing, cut off or changed.
        remedy: what its message tells to do.

    """
    for name, wanted in described.items():
        file = folder / name
        found = file.stat().st_size if file.is_file() else 0
        if found != wanted["bytes"]:
            raise error(f"{file} should have {wanted['bytes']} bytes, it has {found}: {remedy}")
        if verify and checksum(file) != wanted["blake2b"]:
            raise error(f"{file} has changed since it was saved: {remedy}")


def checksum(file: Path) -> str:
    """Return 32 hexadecimal digits of a file's BLAKE2b."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def write_array(file: Path, array: np.ndarray) -> None:
    """Write a ``.npy`` file and wait until it is on the disk."""
    with file.open("wb") as stream:
        np.save(stream, array)
        stream.flush()
        os.fsync(stream.fileno())


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write a value and wait until it is on the disk."""
    with file.open("w") as stream:
        json.dump(value, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
