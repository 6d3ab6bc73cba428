"""Results on disk: tidy rows in JSON lines, what a run was, and its predictions in Parquet.

A table ``main`` is these files of one folder:

- ``main.jsonl``: tidy rows (run, model, data, seed, slice, metric, value, n);
- ``main.curves.jsonl``: tidy rows of training curves, slice ``epoch=3`` or ``step=200``;
- ``main.tests.jsonl``: one `graphrec.evaluation.Comparison` a line;
- ``main.runs.jsonl``: one `RunRecord` a line: configuration, data fingerprint, versions.

A killed writer leaves whole lines and at most one cut last line, which readers report and writers remove.
"""

import fcntl
import hashlib
import json
import math
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from graphrec.evaluation import Figure


class ResultRow(NamedTuple):
    """One figure of one run; ``value`` is NaN where it is undefined, ``n`` the rows (or hours) behind it."""

    run: str
    model: str
    data: str
    seed: int
    slice: str
    metric: str
    value: float
    n: int


@dataclass(frozen=True)
class RunRecord:
    """What a reader needs to trust or repeat a run."""

    run: str
    data: str
    data_fingerprint: str
    days: tuple[str, ...]
    """Test days, as 2022-05-04."""
    configuration: Mapping[str, Any]
    versions: Mapping[str, str]


class CutLineWarning(UserWarning):
    """The last line of a file was cut short, by a kill while it was written, and is left out."""


@dataclass(frozen=True, eq=False)
class RunPredictions:
    """Scores of one (run, model, seed) for the same impressions in the same order as its rivals'."""

    run: str
    model: str
    data: str
    seed: int
    label: np.ndarray
    score: np.ndarray
    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    """int64 unix seconds."""

    def __post_init__(self) -> None:
        shapes = {name: getattr(self, name).shape for name in _COLUMNS}
        if len(set(shapes.values())) != 1 or len(self.label.shape) != 1:
            raise ValueError(f"the columns of predictions need one axis of one length, got {shapes}")


_COLUMNS = ("label", "score", "user", "item", "time")
_ROW_KEY = ("label", "user", "item", "time")


def rows_of_figures(run: str, data: str, figures: Iterable[Figure]) -> list[ResultRow]:
    """Turn figures of models into tidy rows of one run; their intervals are left out."""
    return [
        ResultRow(run, one.model, data, one.seed, one.slice, one.metric, one.value, one.n) for one in figures
    ]


def append_rows(path: Path, rows: Iterable[ResultRow]) -> None:
    """Add rows at the end, on disk when this returns; a cut last line of an earlier kill is removed first."""
    append_lines(path, map(_row_to_json, rows))


def replace_rows(path: Path, rows: Sequence[ResultRow]) -> None:
    """Put ``rows`` in the place of all rows of their (run, model, seed), so that a repeated run counts once.

    The file is written anew beside the old one and renamed over it: a kill leaves the old or the new one.
    """
    replaced = {(row.run, row.model, row.seed) for row in rows}
    _replace_where(path, lambda row: (row.run, row.model, row.seed) in replaced, rows)


def replace_run(path: Path, run: str, rows: Sequence[ResultRow]) -> None:
    """Put ``rows`` in the place of all rows of ``run``: models and seeds that it no longer has go."""
    _replace_where(path, lambda row: row.run == run, rows)


def read_rows(path: Path) -> list[ResultRow]:
    """All rows, in file order; none where the file is missing.

    A cut last line is left out with a `CutLineWarning`; any other line that is no row is a ``ValueError``
    that names file and line.
    """
    rows = []
    for number, line in _read_numbered(path):
        try:
            value = math.nan if line["value"] is None else float(line["value"])
            rows.append(ResultRow(**{**line, "value": value}))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}, line {number}: wanted the fields {', '.join(ResultRow._fields)}, got {line}; "
                "is this another table's file?"
            ) from error
    return rows


def write_run_record(path: Path, record: RunRecord) -> None:
    """Write a run's record, in the place of an earlier one of the same name."""
    with _locked(path):
        kept = [line for line in read_lines(path) if line["run"] != record.run]
        _rewrite(path, [*kept, asdict(record)])


def read_run_records(path: Path) -> list[RunRecord]:
    """All records, in file order; none where the file is missing."""
    names = [field.name for field in fields(RunRecord)]
    return [
        RunRecord(**{**{name: line[name] for name in names}, "days": tuple(line["days"])})
        for line in read_lines(path)
    ]


def append_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Add JSON objects at the end of a JSON-lines file, on disk when this returns."""
    text = "".join(_to_json_line(line) for line in lines).encode()
    with _locked(path), path.open("ab") as file:
        _remove_cut_line(path)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON-lines file whole, in the place of an earlier one; a kill leaves one or the other."""
    with _locked(path):
        _rewrite(path, lines)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the objects of a JSON-lines file, none where it is missing; as `read_rows` about cut lines."""
    return [line for _, line in _read_numbered(path)]


def predictions_path(directory: Path, run: str, model: str, seed: int) -> Path:
    """Name of the Parquet file of one (run, model, seed)."""
    run_part, model_part = (re.sub(r"[^A-Za-z0-9.+_-]+", "_", part) for part in (run, model))
    # two names may become one once their odd characters are gone
    short_hash = hashlib.sha256(f"{run}\0{model}".encode()).hexdigest()[:8]
    return directory / f"{run_part}--{model_part}--seed{seed}--{short_hash}.parquet"


def write_predictions(directory: Path, predictions: RunPredictions) -> Path:
    """Store predictions, in the place of earlier ones of the same (run, model, seed); atomic under a kill."""
    import polars

    directory.mkdir(parents=True, exist_ok=True)
    path = predictions_path(directory, predictions.run, predictions.model, predictions.seed)
    frame = polars.DataFrame({name: getattr(predictions, name) for name in _COLUMNS})
    metadata = {
        "run": predictions.run,
        "model": predictions.model,
        "data": predictions.data,
        "seed": str(predictions.seed),
        "row_order": row_order_fingerprint(predictions),
    }
    with _replacing(path) as temporary:
        frame.write_parquet(temporary, metadata=metadata)
    return path


def read_predictions(path: Path) -> RunPredictions:
    """Predictions of one file; ``ValueError`` where its rows are not those, or not in the order, written."""
    import polars

    try:
        metadata = polars.read_parquet_metadata(path)
        frame = polars.read_parquet(path, columns=list(_COLUMNS))
        written_order = metadata["row_order"]
        found = RunPredictions(
            run=metadata["run"],
            model=metadata["model"],
            data=metadata["data"],
            seed=int(metadata["seed"]),
            **{name: frame[name].to_numpy() for name in _COLUMNS},
        )
    except (polars.exceptions.PolarsError, KeyError) as error:
        raise ValueError(f"{path} is no whole file of predictions ({error}); write it anew") from error
    if row_order_fingerprint(found) != written_order:
        raise ValueError(f"{path}: the rows are not in the order in which they were written; write it anew")
    return found


def read_all_predictions(directory: Path, run: str | None = None) -> dict[str, list[RunPredictions]]:
    """Predictions of a folder by model, ascending by seed; of ``run`` alone where it is given."""
    found = [read_predictions(path) for path in sorted(directory.glob("*.parquet"))]
    by_model: dict[str, list[RunPredictions]] = {}
    for predictions in sorted(found, key=lambda one: (one.model, one.run, one.seed)):
        if run is None or predictions.run == run:
            by_model.setdefault(predictions.model, []).append(predictions)
    return by_model


def row_order_fingerprint(predictions: RunPredictions) -> str:
    """SHA-256 over label, user, item and time in row order: equal for predictions that may be compared."""
    digest = hashlib.sha256()
    for name in _ROW_KEY:
        column = getattr(predictions, name)
        if column.dtype.kind in "biu":
            digest.update(np.ascontiguousarray(column, dtype=np.int64).tobytes())
        else:
            digest.update("\0".join(map(str, column.tolist())).encode())
    return digest.hexdigest()


def check_same_rows(predictions: Sequence[RunPredictions]) -> None:
    """Raise ``ValueError`` unless all predictions are of the same impressions in the same order."""
    first = predictions[0]
    for other in predictions[1:]:
        names = f"{first.model} (seed {first.seed}) and {other.model} (seed {other.seed})"
        if len(first.label) != len(other.label):
            raise ValueError(
                f"{names} must score the same rows, got {len(first.label)} and {len(other.label)} of them; "
                "score both with the same impressions"
            )
        for name in _ROW_KEY:
            differing = np.flatnonzero(getattr(first, name) != getattr(other, name))
            if len(differing):
                raise ValueError(
                    f"{names} must score the same rows in the same order, but {name} differs in "
                    f"{len(differing)} rows, first in row {differing[0]}; sort both by (time, user, item)"
                )


def _replace_where(path: Path, replaced: Callable[[ResultRow], bool], rows: Sequence[ResultRow]) -> None:
    with _locked(path):
        kept = [row for row in read_rows(path) if not replaced(row)]
        _rewrite(path, map(_row_to_json, [*kept, *rows]))


def _row_to_json(row: ResultRow) -> dict[str, Any]:
    value = float(row.value)
    if math.isinf(value):
        raise ValueError(f"a value must be finite, or NaN where undefined, got {row}")
    # JSON has no NaN
    return {
        **row._asdict(),
        "seed": int(row.seed),
        "value": None if math.isnan(value) else value,
        "n": int(row.n),
    }


def _to_json_line(line: Mapping[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"


def _read_numbered(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Whole lines with their numbers from 1. A line is whole once its newline is there."""
    if not path.exists():
        return
    *whole, rest = path.read_bytes().split(b"\n")
    for number, line in enumerate(whole, start=1):
        try:
            parsed = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number} is not JSON ({error}); mend or remove the line"
            ) from error
        if not isinstance(parsed, dict):
            raise ValueError(f"{path}, line {number} must be a JSON object, got {parsed!r}; remove the line")
        yield number, parsed
    if rest:
        message = f"{path}: line {len(whole) + 1} is cut short and left out"
        warnings.warn(message, CutLineWarning, stacklevel=3)


def _remove_cut_line(path: Path) -> None:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return
        file.seek(size - 1)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        whole_bytes = file.read().rfind(b"\n") + 1
    os.truncate(path, whole_bytes)


def _rewrite(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    text = "".join(map(_to_json_line, lines))
    with _replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name; what was written there is on disk under ``path`` afterwards, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp leaves it to its owner alone
        temporary.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other writers out. The lock is the folder's: ``path`` itself may be renamed over meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)
