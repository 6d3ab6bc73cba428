"""A resumable run's parts on disk, each found again by what it was computed from.

The key of a part is a hash over its content: the data's fingerprint, the method, its setting, the seed and
whatever else decides it. So another row or seed costs its own parts alone. A part is written to temporary
names and renamed, its JSON file last: what is there is whole.
"""

import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import torch

Read = TypeVar("Read")


@dataclass(frozen=True, kw_only=True, eq=False)
class KeptPart:
    """A finished part.

    Attributes:
        path: of its JSON file.
        facts: what was computed, with ``content``, ``cpu_seconds`` and ``versions``.
        frame: its table, or None.
        is_new: whether it was computed just now.

    """

    path: Path
    facts: dict[str, Any]
    frame: pl.DataFrame | None
    is_new: bool


def kept_part(
    folder: Path,
    name: str,
    content: Mapping[str, Any],
    compute: Callable[[], tuple[dict[str, Any], pl.DataFrame | None]],
) -> KeptPart:
    """Return a part: the finished one of this very content, or a new one.

    Args:
        folder: of the parts; made where it is missing.
        name: for people; stands at the beginning of the file's name and in the key.
        content: everything that decides what is computed, as JSON values.
        compute: returns facts as JSON values, and a table or None.

    """
    found = find_part(folder, name, content)
    if found is not None:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    facts, frame = compute()
    facts = {
        **facts,
        "content": dict(content),
        "cpu_seconds": time.process_time() - began,
        "versions": versions(),
    }
    path = part_path(folder, name, content)
    if frame is not None:
        temporary = path.with_suffix(".parquet.tmp")
        frame.write_parquet(temporary)
        temporary.replace(path.with_suffix(".parquet"))
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(facts), encoding="utf-8")
    temporary.replace(path)
    return KeptPart(path=path, facts=json.loads(json.dumps(facts)), frame=frame, is_new=True)


def find_part(folder: Path, name: str, content: Mapping[str, Any]) -> KeptPart | None:
    """Return the finished part of this content, or None.

    Raises:
        ValueError: one of its files is cut or damaged.

    """
    path = part_path(folder, name, content)
    if not path.exists():
        return None
    table = path.with_suffix(".parquet")
    facts = read_facts(path)
    frame = read_part_file(table, lambda: pl.read_parquet(table)) if table.exists() else None
    return KeptPart(path=path, facts=facts, frame=frame, is_new=False)


def read_facts(path: Path) -> dict[str, Any]:
    """Read a part's JSON file.

    Raises:
        ValueError: it is cut or damaged, or holds something else.

    """
    facts: Any = read_part_file(path, lambda: json.loads(path.read_text(encoding="utf-8")))
    if not isinstance(facts, dict):
        raise ValueError(f"{path} holds no facts of a part: delete it, and the part is computed again")
    return facts


def read_part_file(path: Path, read: Callable[[], Read]) -> Read:
    """Return what ``read`` reads from a part's file.

    Raises:
        ValueError: the file is missing, cut or damaged: it is named, with the remedy.

    """
    try:
        return read()
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} is missing: delete the part's JSON file and run again, and the part is computed again"
        ) from error
    # ValueError: neither JSON nor text; ComputeError and its like: no Parquet
    except (ValueError, pl.exceptions.PolarsError) as error:
        raise ValueError(
            f"{path} is cut or damaged ({error}): delete it and the part's JSON file and run again, and the "
            "part is computed again"
        ) from error


def part_path(folder: Path, name: str, content: Mapping[str, Any]) -> Path:
    """Return where a part's JSON file is or will be: the name in plain letters, then the content's hash.

    Raises:
        TypeError: a value of ``content`` is none of JSON's.

    """
    key = hashlib.sha256(json.dumps([name, content], sort_keys=True).encode()).hexdigest()[:16]
    words = "".join(c if c.isalnum() else "-" for c in name.lower())
    return folder / f"{words}-{key}.json"


def versions() -> dict[str, str]:
    """Return versions of what figures may depend on."""
    import sklearn

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "polars": pl.__version__,
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
    }
