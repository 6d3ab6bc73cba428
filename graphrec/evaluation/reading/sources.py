"""Whatever holds predictions, as tables that yield chunks: files, several files, frames and arrays."""

import glob
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import polars as pl

from graphrec.evaluation.reading.csv_blocks import Kind, TextTable
from graphrec.evaluation.reading.errors import PredictionsError, listed

_TEXT_ENDINGS = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".txt", ".txt.gz")
_PARQUET_ENDINGS = (".parquet", ".pq", ".parq")
_STANDARD_INPUT = Path("-")


@runtime_checkable
class Table(Protocol):
    """One table of predictions."""

    name: str
    stem: str
    columns: list[str]
    num_rows: int | None
    """None where only reading it all would tell."""
    notes: list[str]

    def frames(self, kinds: Mapping[str, Kind], chunk_rows: int) -> Iterator[pl.DataFrame]:
        """Yield the columns of ``kinds``, about ``chunk_rows`` rows at a time."""

    def locate(self, row: int) -> str:
        """Say where the row (from 0) stands."""

    def read_as_text(self, column: str) -> None:
        """Read a column as text, whatever its first rows look like."""


class ParquetTable:
    """A Parquet file, read slice by slice; messages call it by ``name``, by default its path."""

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path = path
        self.name = str(path) if name is None else name
        self.stem = Path(self.name).stem
        self.notes: list[str] = []
        try:
            self._scan = pl.scan_parquet(path, glob=False, hive_partitioning=False)
            self.schema = dict(self._scan.collect_schema())
            self.num_rows: int | None = int(self._scan.select(pl.len()).collect().item())
        except (pl.exceptions.PolarsError, OSError) as error:
            raise _not_parquet(self.name, error) from error
        self.columns = list(self.schema)

    def frames(self, kinds: Mapping[str, Kind], chunk_rows: int) -> Iterator[pl.DataFrame]:
        """Yield slices of the columns."""
        wanted = self._scan.select(list(kinds))
        assert self.num_rows is not None
        for start in range(0, self.num_rows, chunk_rows):
            try:
                yield wanted.slice(start, chunk_rows).collect()
            except (pl.exceptions.PolarsError, OSError) as error:
                raise _not_parquet(self.name, error) from error

    def locate(self, row: int) -> str:
        """Return the file and the 1-based row."""
        return f"{self.name}, row {row + 1}"

    def read_as_text(self, column: str) -> None:
        """Do nothing: a Parquet file says its types."""


class FileTable(TextTable):
    """A text file as a `Table`."""

    def read_as_text(self, column: str) -> None:
        """Read a column as text, whatever its first rows look like."""
        self.as_text.add(column)


class PartsTable:
    """Several files that are one table."""

    def __init__(self, parts: Sequence[Table]) -> None:
        self.parts = parts
        first = parts[0]
        self.name = first.name if len(parts) == 1 else f"{first.name} and {len(parts) - 1} more"
        self.stem = first.stem
        self.columns = first.columns
        self.notes = [note for part in parts for note in part.notes]
        counts = [part.num_rows for part in parts]
        self.num_rows = None if None in counts else sum(count for count in counts if count is not None)
        self._starts = [0]

    def frames(self, kinds: Mapping[str, Kind], chunk_rows: int) -> Iterator[pl.DataFrame]:
        """Yield one part after the other; types must agree."""
        self._starts = [0]
        expected: dict[str, str] = {}
        for part in self.parts:
            for column in kinds:
                if column not in part.columns:
                    raise PredictionsError(
                        f"{part.name} has no column {column!r}, which {self.parts[0].name} has; it has "
                        f"{listed(part.columns)}; parts of one table need the same columns"
                    )
            total = 0
            for frame in part.frames(kinds, chunk_rows):
                for column, dtype in frame.schema.items():
                    if isinstance(part, FileTable) or dtype == pl.Null:
                        continue  # text has no type of its own
                    family = _family(dtype)
                    before = expected.setdefault(column, family)
                    if family != before:
                        raise PredictionsError(
                            f"{part.name}: column {column!r} holds {dtype}, in {self.parts[0].name} it holds "
                            f"{before}; write all parts with the same types"
                        )
                total += frame.height
                yield frame
            self._starts.append(self._starts[-1] + total)

    def locate(self, row: int) -> str:
        """Return the part, and where the row stands in it."""
        number = max(0, int(np.searchsorted(self._starts, row, side="right")) - 1)
        number = min(number, len(self.parts) - 1)
        return self.parts[number].locate(row - self._starts[number])

    def read_as_text(self, column: str) -> None:
        """Read a column as text in all parts."""
        for part in self.parts:
            part.read_as_text(column)


class FrameTable:
    """A polars frame, lazy or not."""

    def __init__(self, frame: pl.DataFrame | pl.LazyFrame, name: str) -> None:
        self.name = self.stem = name
        self.notes: list[str] = []
        self._frame = frame
        try:
            self.columns = list(frame.collect_schema())
        except (pl.exceptions.PolarsError, OSError) as error:
            raise PredictionsError(f"{name}: the lazy frame cannot be read: {error}") from error
        self.num_rows = frame.height if isinstance(frame, pl.DataFrame) else None

    def frames(self, kinds: Mapping[str, Kind], chunk_rows: int) -> Iterator[pl.DataFrame]:
        """Yield slices; a lazy frame is run once, in its streaming engine."""
        wanted = self._frame.select(list(kinds))
        if isinstance(wanted, pl.DataFrame):
            yield from wanted.iter_slices(chunk_rows)
            return
        try:
            yield from wanted.collect_batches(chunk_size=chunk_rows, maintain_order=True, lazy=True)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise PredictionsError(f"{self.name}: the lazy frame cannot be read: {error}") from error

    def locate(self, row: int) -> str:
        """Return the name and the 1-based row."""
        return f"{self.name}, row {row + 1}"

    def read_as_text(self, column: str) -> None:
        """Do nothing: a frame says its types."""


class ArrayTable:
    """Named arrays, lists, tensors or the columns of a pandas frame, converted slice by slice."""

    def __init__(self, arrays: Mapping[Any, Any], name: str) -> None:
        self.name = self.stem = name
        self.notes: list[str] = []
        names = [str(column) for column in arrays]
        if len(set(names)) != len(names):
            raise PredictionsError(f"{name} has two columns of one name; rename one")
        self._arrays = {str(column): _sliceable(arrays[column], f"{name}, {column!r}") for column in arrays}
        self.columns = names
        lengths = {column: len(array) for column, array in self._arrays.items()}
        if len(set(lengths.values())) > 1:
            shortest = min(lengths, key=lambda column: lengths[column])
            longest = max(lengths, key=lambda column: lengths[column])
            raise PredictionsError(
                f"{name}: column {shortest!r} has {lengths[shortest]} rows and {longest!r} "
                f"{lengths[longest]}; all columns need one value a row"
            )
        self.num_rows: int | None = next(iter(lengths.values()), 0)

    def frames(self, kinds: Mapping[str, Kind], chunk_rows: int) -> Iterator[pl.DataFrame]:
        """Yield slices of the columns."""
        assert self.num_rows is not None
        for start in range(0, self.num_rows, chunk_rows):
            yield pl.DataFrame(
                {
                    column: _series(
                        self._arrays[column][start : start + chunk_rows], f"{self.name}, {column!r}"
                    )
                    for column in kinds
                }
            )

    def locate(self, row: int) -> str:
        """Return the name and the 1-based row."""
        return f"{self.name}, row {row + 1}"

    def read_as_text(self, column: str) -> None:
        """Do nothing: arrays have types."""


def open_source(source: Any, name: str) -> Table:
    """Return ``source`` as a table; ``name`` is what messages call a frame or arrays.

    Raises:
        PredictionsError: no such file, one that is there twice, an unknown kind of file, or a source of an
            unknown kind.

    """
    if isinstance(source, str | os.PathLike):
        return _one_or_more([_open_file(path) for path in _distinct(input_files(source))])
    if isinstance(source, pl.DataFrame | pl.LazyFrame):
        return FrameTable(source, name)
    if isinstance(source, Mapping):
        return ArrayTable(source, name)
    if type(source).__module__.split(".")[0] == "pandas":
        if not source.columns.is_unique:
            raise PredictionsError(f"{name} has two columns of one name; rename one")
        return ArrayTable({column: source[column] for column in source.columns}, name)
    if isinstance(source, Sequence) and source:
        if all(isinstance(part, str | os.PathLike) for part in source):
            return _one_or_more([_open_file(path) for path in _distinct(input_files(source))])
        _distinct(input_files(source))
        return _one_or_more(
            [open_source(part, f"{name} part {number}") for number, part in enumerate(source, 1)]
        )
    raise PredictionsError(
        f"{name}: a path, several paths, a polars or pandas frame or a mapping of arrays is read, got "
        f"{'nothing' if isinstance(source, Sequence) else type(source).__name__}"
    )


def input_files(source: Any) -> list[Path]:
    """Return the files of a source, or of a list of sources; frames and arrays have none.

    Folders and patterns are expanded. Raises `PredictionsError` where there is no such file.
    """
    if isinstance(source, str | os.PathLike):
        return _files(source)
    if isinstance(source, list | tuple):
        return [path for part in source for path in input_files(part)]
    return []


def _distinct(paths: list[Path]) -> list[Path]:
    """Return the same files, or say which one is there twice: its rows would count twice."""
    seen: dict[str, Path] = {}
    for path in paths:
        before = seen.setdefault(os.path.realpath("/dev/stdin" if path == _STANDARD_INPUT else path), path)
        if before is not path:
            also = "" if str(before) == str(path) else f" (also as {before})"
            raise PredictionsError(
                f"the file {path} is there twice in one source{also}, so its rows would count twice; "
                "name it once"
            )
    return paths


def rechunked(frames: Iterable[pl.DataFrame], num_rows: int) -> Iterator[pl.DataFrame]:
    """Yield the same rows, ``num_rows`` at a time, so that two tables can be walked side by side."""
    waiting: list[pl.DataFrame] = []
    height = 0
    for frame in frames:
        waiting.append(frame)
        height += frame.height
        if height < num_rows:
            continue
        whole = pl.concat(waiting, how="vertical_relaxed") if len(waiting) > 1 else frame
        while whole.height >= num_rows:
            yield whole.head(num_rows)
            whole = whole.slice(num_rows)
        waiting, height = ([whole], whole.height) if whole.height else ([], 0)
    if height:
        yield pl.concat(waiting, how="vertical_relaxed")


def read_ahead(frames: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Yield the same frames, the next one being read while the caller works on this one."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, frames, None)
        while (frame := waiting.result()) is not None:
            waiting = pool.submit(next, frames, None)
            yield frame


def _one_or_more(tables: Sequence[Table]) -> Table:
    return tables[0] if len(tables) == 1 else PartsTable(tables)


def _files(source: str | os.PathLike[str]) -> list[Path]:
    """Expand a folder or a pattern into its files, in the order of their names."""
    path = Path(source).expanduser()
    if path == _STANDARD_INPUT:
        return [path]
    if path.is_dir():
        found = sorted(
            file
            for file in path.rglob("*")
            if file.name.lower().endswith(_PARQUET_ENDINGS + _TEXT_ENDINGS)
            and not any(part.startswith(("_", ".")) for part in file.relative_to(path).parts)
        )
        if not found:
            raise PredictionsError(f"the folder {path} holds no Parquet or CSV file")
        return found
    if path.exists():
        return [path]
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
    if found:
        # a pattern with ** finds a folder and what is in it
        return list(dict.fromkeys(file for one in found for file in _files(one)))
    if glob.has_magic(str(path)):
        raise PredictionsError(f"no file matches {path}")
    there = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
    near = f"; {path.parent} holds {listed(there, 10)}" if there else ""
    raise PredictionsError(f"there is no file {path}{near}")


def _open_file(path: Path) -> Table:
    if path == _STANDARD_INPUT or path.parts[:2] in (("/", "dev"), ("/", "proc")) or not path.is_file():
        return _open_stream(path)
    name = path.name.lower()
    if path.stat().st_size == 0:
        raise PredictionsError(f"{path} is empty (0 bytes); write it again")
    if name.endswith(_PARQUET_ENDINGS):
        return ParquetTable(path)
    if name.endswith(_TEXT_ENDINGS):
        return FileTable(path)
    with path.open("rb") as file:
        if file.read(4) == b"PAR1":
            return ParquetTable(path)
    raise PredictionsError(
        f"{path}: the kind of file is told by its name, which should end in .parquet, .csv, .csv.gz or .tsv"
    )


def _open_stream(path: Path) -> Table:
    """Copy a pipe, which can be read but once, to a temporary file that vanishes with the table."""
    name = "standard input" if path == _STANDARD_INPUT else str(path)
    if path == _STANDARD_INPUT and os.isatty(0):
        raise PredictionsError(
            "- reads standard input, which is a terminal here; send a file or a pipe to it"
        )
    folder = Path(tempfile.mkdtemp())
    try:
        copy = folder / "copy"
        is_open = path == _STANDARD_INPUT
        with open(0 if is_open else path, "rb", closefd=not is_open) as stream, copy.open("wb") as file:
            shutil.copyfileobj(stream, file, 1 << 20)
        with copy.open("rb") as file:
            start = file.read(4)
        if not start:
            raise PredictionsError(f"{name} is empty (0 bytes): a pipe can be read but once")
        is_parquet, is_gzip = start == b"PAR1", start[:2] == b"\x1f\x8b"
        copy = copy.rename(folder / ("copy.parquet" if is_parquet else f"copy.csv{'.gz' * is_gzip}"))
        table = ParquetTable(copy, name) if is_parquet else FileTable(copy, name)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise PredictionsError(f"{name} cannot be read: {error.strerror or error}") from error
        raise
    weakref.finalize(table, shutil.rmtree, folder, ignore_errors=True)
    return table


def _not_parquet(name: str, error: Exception) -> PredictionsError:
    return PredictionsError(
        f"{name} cannot be read as Parquet: it is cut short, damaged or another kind of file; write or copy "
        f"it again ({str(error).splitlines()[0]})"
    )


def _family(dtype: Any) -> str:
    """Return what must be the same in all parts: integers of all widths are one type."""
    return "integers" if dtype.is_integer() else str(dtype)


def _sliceable(array: Any, name: str) -> Any:
    """Return something with a length and slices: an array, a list or a pandas column."""
    if hasattr(array, "detach"):  # a torch tensor, without importing torch
        array = array.detach().cpu()
        array = (array.float() if str(array.dtype) == "torch.bfloat16" else array).numpy()
    if type(array).__module__.split(".")[0] == "pandas":
        array = array.array if hasattr(array, "array") else array
        if type(array).__name__ == "NumpyExtensionArray":
            array = np.asarray(array)
    if isinstance(array, str | bytes) or not hasattr(array, "__len__"):
        raise PredictionsError(f"{name}: one value a row is needed, got {type(array).__name__}")
    if getattr(array, "ndim", 1) != 1:
        raise PredictionsError(f"{name} must have one axis, got the shape {tuple(array.shape)}")
    if isinstance(array, list | tuple) or getattr(getattr(array, "dtype", None), "kind", "") == "O":
        return _series(array, name)  # all at once: one type for all rows
    return array


def _series(values: Any, name: str) -> pl.Series:
    """Return a slice as a polars column; what is missing becomes null, NaN stays."""
    if isinstance(values, pl.Series):
        return values
    if type(values).__module__.split(".")[0] == "pandas":
        values = _of_pandas(values)
    if isinstance(values, np.ndarray):
        if values.dtype.kind == "O":
            values = values.tolist()
        elif values.dtype.kind == "M" and np.datetime_data(values.dtype)[0] not in ("D", "ms", "us", "ns"):
            values = values.astype("datetime64[ms]")
        elif values.dtype.kind in "US":
            values = values.astype("U").tolist()
        elif values.dtype == np.float16 or not values.dtype.isnative:
            values = values.astype(
                np.float32 if values.dtype == np.float16 else values.dtype.newbyteorder("=")
            )
    if isinstance(values, list | tuple):
        values = [
            None if value is None or (value != value and not isinstance(value, float)) else value
            for value in values
        ]
    try:
        return pl.Series(values, strict=True)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise PredictionsError(
            f"{name} holds values of several types or of one that is not read: {error}"
        ) from error


def _of_pandas(values: Any) -> Any:
    """Return a slice of a pandas column as numpy; missing values of its own types become None."""
    dtype = values.dtype
    if isinstance(dtype, np.dtype):
        return np.asarray(values)
    if getattr(dtype, "tz", None) is not None:
        return pl.Series(np.asarray(values.tz_convert("UTC").tz_localize(None))).dt.replace_time_zone("UTC")
    missing = np.asarray(values.isna())
    if not missing.any() and getattr(dtype, "numpy_dtype", None) is not None and dtype.kind in "biuf":
        return values.to_numpy(dtype=dtype.numpy_dtype)
    return [None if gone else value for value, gone in zip(values.tolist(), missing.tolist(), strict=True)]
