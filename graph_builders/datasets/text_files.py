"""Files of public data sets that are no CSV: found in a folder or archive, unpacked, cut into fields."""

import gzip
import json
import zipfile
import zlib
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import polars as pl

from graph_builders.events import EventLogError

_SHOWN_ROWS = 5  # an error names this many rows and counts the rest


def open_folder(path: str | Path, remedy: str) -> Traversable:
    """Return a folder, or a .zip as if it were one.

    Args:
        path: the folder or archive.
        remedy: where the files can be had, for the error.

    Raises:
        EventLogError: there is no such folder, or the archive is damaged.

    """
    path = Path(path)
    if path.is_dir():
        return path
    if not path.is_file():
        raise EventLogError(f"{path}: no such folder or archive: {remedy}")
    try:
        return zipfile.Path(path)
    except zipfile.BadZipFile as error:
        raise EventLogError(f"{path}: neither a folder nor a zip archive ({error}): {remedy}") from error


def find_file(folder: Traversable, names: tuple[str, ...], remedy: str) -> Traversable:
    """Return the first of ``names`` that the folder has, as it is or with ``.gz`` behind it.

    Raises:
        EventLogError: the folder has none of them.

    """
    for name in names:
        for wanted in (name, f"{name}.gz"):
            if (folder / wanted).is_file():
                return folder / wanted
    raise EventLogError(f"{folder}: no such file: {' or '.join(names)} (or with .gz): {remedy}")


def read_text(file: Traversable, encoding: str = "utf-8") -> str:
    """Return a file's text, unpacked where its name ends with ``.gz``.

    Raises:
        EventLogError: the file is empty, cut short or damaged, or not in the encoding.

    """
    try:
        data = file.read_bytes()
        if file.name.endswith(".gz") and data:
            data = gzip.decompress(data)
    except EOFError as error:
        raise EventLogError(f"{file}: the gzip file is cut short: copy or download it again") from error
    except (gzip.BadGzipFile, zipfile.BadZipFile, zlib.error) as error:
        raise EventLogError(f"{file}: the file is damaged ({error}): download it again") from error
    if not data.strip():
        raise EventLogError(f"{file}: the file is empty: download it again")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise EventLogError(
            f"{file}: row {row} is no {encoding} text ({error}): download it again"
        ) from error


def read_fields(
    file: Traversable, separator: str, columns: tuple[str, ...], *, encoding: str = "utf-8"
) -> pl.DataFrame:
    """Cut the lines of a file without header into text columns.

    ``separator`` may have several characters, and nothing quotes it: as in MovieLens' ``::``.

    Raises:
        EventLogError: as :func:`read_text`, or a row does not have a field for each column.

    """
    fields = _cut(_lines(file, encoding), separator)
    return _named_fields(fields, columns, file, first_row=1)


def read_atomic_file(file: Traversable, columns: dict[str, str]) -> pl.DataFrame:
    """Read a RecBole atomic file: tab separated, with a header of ``name:type``.

    Args:
        file: what to read.
        columns: the wanted columns by their names in the file, without the type, and what to call them.

    Returns:
        The wanted columns as text.

    Raises:
        EventLogError: as :func:`read_fields`, or a column is missing.

    """
    lines = _lines(file, "utf-8")
    header = [name.split(":")[0] for name in lines[0].split("\t")]
    missing = [name for name in columns if name not in header]
    if missing:
        raise EventLogError(f"{file}: columns {missing} are missing, there are {header}: download it again")
    fields = _named_fields(_cut(lines[1:], "\t"), tuple(header), file, first_row=2)
    return fields.select(pl.col(name).alias(called) for name, called in columns.items())


def read_json_object(file: Traversable) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        EventLogError: as :func:`read_text`, or the text is no JSON object.

    """
    try:
        content = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise EventLogError(f"{file}: no valid JSON ({error}): download it again") from error
    if not isinstance(content, dict):
        raise EventLogError(f"{file}: holds a {type(content).__name__}, not a JSON object: check the path")
    return content


def parse_numbers(
    frame: pl.DataFrame,
    columns: tuple[str, ...],
    file: Traversable,
    *,
    whole: bool = True,
    row: pl.Series | None = None,
    first_row: int = 1,
) -> pl.DataFrame:
    """Turn text columns into numbers.

    Args:
        frame: the fields.
        columns: which of them are numbers.
        file: where they come from, for errors.
        whole: they are whole numbers (Int64), else Float64.
        row: the row of the file that each row of the frame comes from; default: they are the same rows.
        first_row: the number of the first row of the file that holds data.

    Raises:
        EventLogError: a field is no number; its file, column and rows are named.

    """
    for column in columns:
        numbers = frame[column].str.strip_chars().cast(pl.Int64 if whole else pl.Float64, strict=False)
        raise_rows(
            numbers.is_null(), file, column, frame[column], "give numbers", row=row, first_row=first_row
        )
        frame = frame.with_columns(numbers.alias(column))
    return frame


def raise_rows(
    wrong: pl.Series,
    file: Traversable,
    column: str,
    values: pl.Series,
    remedy: str,
    *,
    problem: str = "is no number",
    row: pl.Series | None = None,
    first_row: int = 1,
) -> None:
    """Raise an :class:`EventLogError` if ``wrong`` holds anywhere: it names the first rows and values."""
    if not wrong.any():
        return
    places = wrong.arg_true()
    shown = places.head(_SHOWN_ROWS)
    numbers = (shown + first_row if row is None else row.gather(shown)).to_list()
    more = ", ..." if len(places) > _SHOWN_ROWS else ""
    raise EventLogError(
        f"{file}: column {column!r} {problem} in {len(places)} rows: {', '.join(map(str, numbers))}{more} "
        f"(values {values.gather(shown).to_list()}). Remedy: {remedy}, or download the file again."
    )


def _lines(file: Traversable, encoding: str) -> list[str]:
    text = read_text(file, encoding).replace("\r\n", "\n")
    return text.removesuffix("\n").split("\n")


def _cut(lines: list[str], separator: str) -> pl.Series:
    return pl.Series("line", lines, dtype=pl.String).str.split(separator)


def _named_fields(
    fields: pl.Series, columns: tuple[str, ...], file: Traversable, *, first_row: int
) -> pl.DataFrame:
    if fields.is_empty():
        raise EventLogError(f"{file}: holds no rows: download it again")
    count = fields.list.len()
    wrong = (count != len(columns)).arg_true()
    if len(wrong):
        place = int(wrong[0])
        raise EventLogError(
            f"{file}: row {place + first_row} has {count[place]} of {len(columns)} fields {list(columns)}, "
            f"and so have {len(wrong) - 1} other rows: the file was cut short or changed, download it again"
        )
    return pl.DataFrame([fields.list.get(i).alias(name) for i, name in enumerate(columns)])
