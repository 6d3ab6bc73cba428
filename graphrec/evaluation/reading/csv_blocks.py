"""Text tables of any size in blocks of whole rows, each row's fields counted before they are parsed."""

import csv
import gzip
import inspect
import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numba
import numpy as np
import polars as pl

from graphrec.evaluation.reading.errors import PredictionsError, rows_in_words

Kind = Literal["number", "id", "time", "text"]
_LONGEST_ROW = 64 << 20  # bytes; a longer one is an unclosed quote
_NEWLINE = 10


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile at the first call and keep the machine code, where a folder for it can be written to."""
    function = inspect.unwrap(function)  # of run-time type checks
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:
        return numba.njit(nogil=True, error_model="numpy")(function)


@_compiled
def scan_rows(block, separator, num_fields, stop_row):  # type: ignore[no-untyped-def]
    """Count rows and their fields in bytes that start with a row.

    A quote opens a quoted field where a field starts, as the parser has it. Returns the bytes up to the end
    of the last whole row (or of ``stop_row`` rows), their number, the first row without ``num_fields`` fields
    (-1: none), its number of fields (0: a blank line), the number of such rows, and whether the bytes end
    inside a quote.
    """
    end = 0
    rows = 0
    bad_row = -1
    bad_fields = 0
    num_bad = 0
    fields = 1
    field_start = True
    quoted = False
    row_start = 0
    position = 0
    while position < len(block):
        byte = block[position]
        if quoted:
            if byte == 34:
                if position + 1 < len(block) and block[position + 1] == 34:
                    position += 1
                else:
                    quoted = False
        elif byte == 34 and field_start:
            quoted = True
            field_start = False
        elif byte == separator:
            fields += 1
            field_start = True
        elif byte == 10:
            length = position - row_start
            if length == 0 or (length == 1 and block[row_start] == 13):
                fields = 0
            if fields != num_fields:
                if bad_row < 0:
                    bad_row = rows
                    bad_fields = fields
                num_bad += 1
            rows += 1
            end = position + 1
            row_start = end
            fields = 1
            field_start = True
            if rows == stop_row:
                return end, rows, bad_row, bad_fields, num_bad, False
        else:
            field_start = False
        position += 1
    return end, rows, bad_row, bad_fields, num_bad, quoted


class _Block(NamedTuple):
    data: bytes
    num_rows: int
    bad_row: int
    bad_fields: int
    num_bad: int


class TextTable:
    """A CSV or TSV file, plain or gzip; messages call it by ``name``, by default its path.

    Attributes:
        columns: names of the header row.
        notes: what was guessed of its format.

    Raises:
        PredictionsError: from any method, for a file that is empty, cut short or not such a table.

    """

    num_rows: int | None = None

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path = path
        self.name = str(path) if name is None else name
        self.stem = Path(self.name).name.split(".")[0]
        self.notes: list[str] = []
        self.as_text: set[str] = set()
        header = self._read_header()
        if path.suffix.lower() != ".gz" and self._last_byte() != b"\n":
            self.notes.append(
                f"{self.name}: the last line does not end in a newline; if the file was cut short there, its "
                "last value may be too"
            )
        self.columns = [column.strip() for column in header]
        twice = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if twice:
            raise PredictionsError(f"{self.name}: the header names the column {twice[0]!r} twice; rename one")

    def kind_of(self, column: str, kind: Kind) -> Any:
        """Return the type that a column is read as; IDs and times are judged by the first rows."""
        if column in self.as_text or kind == "text":
            return pl.String()
        if kind == "number":
            return pl.Float64()
        position = self.columns.index(column)
        values = self._head.to_series(position).drop_nulls()
        if not len(values):
            return pl.String()
        if values.str.contains(r"^(0|-?[1-9][0-9]{0,17})$").all():
            return pl.Int64()
        if kind == "time" and values.cast(pl.Float64, strict=False).null_count() == 0:
            return pl.Float64()
        return pl.String()

    def frames(self, kinds: Mapping[str, Kind], chunk_rows: int) -> Iterator[pl.DataFrame]:
        """Yield the columns of ``kinds`` by blocks; a block that does not fit its types comes as text."""
        wanted = {column: self.kind_of(column, kind) for column, kind in kinds.items()}
        for block in self._checked_blocks(32 * chunk_rows):
            yield self._parse(block, wanted)

    def locate(self, row: int) -> str:
        """Return the file, the 1-based row and its line."""
        start, newlines = 0, self._header_lines
        for block in self._blocks(1 << 24):
            if row < start + block.num_rows:
                inside = row - start
                data = np.frombuffer(block.data, np.uint8)
                end = scan_rows(data, ord(self._separator), len(self.columns), inside)[0] if inside else 0
                line = newlines + block.data.count(b"\n", 0, end) + 1
                return f"{self.name}, row {row + 1} (line {line})"
            start += block.num_rows
            newlines += block.data.count(b"\n")
        return f"{self.name}, row {row + 1}"

    def _read_header(self) -> list[str]:
        with self._open() as file:
            line = self._read(file, 1 << 20)
        line = line.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")
        if not line:
            raise PredictionsError(f"{self.name} is empty: a header row and at least one row are needed")
        self._skip = line.split(b"\n")[0] + b"\n"
        text = _decoded(self._skip, self.name).strip("\r\n")
        usual = "\t" if ".tsv" in self.path.name.lower() else ","
        self._separator = max(
            (usual, ",", "\t", ";", "|"),
            key=lambda mark: (text.count(mark) > 0, mark == usual, text.count(mark)),
        )
        if self._separator != usual and text.count(self._separator):
            self.notes.append(
                f"{self.name}: fields are separated by {self._separator!r}, as the header has it"
            )
        else:
            self._separator = usual
        self._header_lines = 1
        header = next(csv.reader([text], delimiter=self._separator))
        rows = line[len(self._skip) :]
        end, _, _, _, num_bad, _ = scan_rows(
            np.frombuffer(rows, np.uint8), ord(self._separator), len(header), 1000
        )
        # rows that do not fit the header are told where all rows are read
        whole = b"" if num_bad else rows[:end]
        self._head = self._parse_as(whole, [str(position) for position in range(len(header))], None)
        return header

    def _last_byte(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(-1, io.SEEK_END)
            return file.read()

    def _open(self) -> io.BufferedIOBase:
        try:
            return gzip.open(self.path) if self.path.suffix.lower() == ".gz" else self.path.open("rb")
        except OSError as error:
            raise PredictionsError(f"{self.name} cannot be opened: {error.strerror or error}") from error

    def _read(self, file: io.BufferedIOBase, size: int) -> bytes:
        try:
            return file.read(size)
        except EOFError as error:
            raise PredictionsError(
                f"{self.name} is cut short: the compressed file ends before its end mark; write it again"
            ) from error
        except (zlib.error, gzip.BadGzipFile) as error:
            raise PredictionsError(
                f"{self.name} is not a sound gzip file: {error}; write or copy it again"
            ) from error

    def _blocks(self, size: int) -> Iterator[_Block]:
        """Yield whole rows; blank lines at the end of the file belong to none."""
        separator, num_fields = ord(self._separator), len(self.columns)
        with self._open() as file:
            carry = self._read(file, 3)
            carry = carry.removeprefix(b"\xef\xbb\xbf")
            in_header, at_end, row, tail = True, False, 0, b""
            while not at_end:
                more = self._read(file, size)
                at_end = not more
                data = carry + more
                if in_header:
                    data = data.lstrip(b"\r\n")
                    if len(data) < len(self._skip) and not at_end:
                        carry = data
                        continue
                    data, in_header = data[len(self._skip) :], False
                if at_end:
                    data = data.rstrip(b"\r\n")
                    if data:
                        data += b"\n"
                else:
                    # blank lines wait until it is known whether rows follow
                    solid = len(data.rstrip(b"\r\n"))
                    data, carry = (
                        data[: data.find(b"\n", solid) + 1 or solid],
                        data[data.find(b"\n", solid) + 1 or solid :],
                    )
                    tail = carry
                end, rows, bad_row, bad_fields, num_bad, quoted = scan_rows(
                    np.frombuffer(data, np.uint8), separator, num_fields, -1
                )
                if (at_end and quoted) or len(data) - end > _LONGEST_ROW:
                    raise PredictionsError(
                        f"{self.name}: a quote that opens after row {row} is never closed; the file is cut "
                        "short, or a field starts with a single quotation mark"
                    )
                if not at_end:
                    carry = data[end:] + tail
                row += rows
                if rows:
                    yield _Block(data[:end], rows, bad_row, bad_fields, num_bad)

    def _checked_blocks(self, size: int) -> Iterator[_Block]:
        """Yield whole rows, or say which row has too few or too many fields and how many there are."""
        row = 0
        blocks = self._blocks(size)
        for block in blocks:
            if block.num_bad:
                first, fields = row + block.bad_row, block.bad_fields
                count, last_row = block.num_bad, row + block.num_rows
                for following in blocks:
                    count += following.num_bad
                    last_row += following.num_rows
                if not fields:
                    without = "1 row is" if count == 1 else f"{count:,} rows are"
                    raise PredictionsError(
                        f"{self.locate(first)} is blank ({without} without the header's {len(self.columns)} "
                        "fields); drop blank lines, or the file has lost rows there"
                    )
                cut = first == last_row - 1 and fields < len(self.columns)
                remedy = (
                    "the file seems to be cut short: write or copy it again"
                    if cut
                    else "quote fields that hold the separator, and mend or drop such rows"
                )
                raise PredictionsError(
                    f"{self.locate(first)} has {fields} field{'s' if fields > 1 else ''}, the header "
                    f"{len(self.columns)} ({rows_in_words(count)}); {remedy}"
                )
            yield block
            row += block.num_rows

    def _parse(self, block: _Block, wanted: Mapping[str, Any]) -> pl.DataFrame:
        try:
            frame = self._parse_as(block.data, self.columns, wanted)
        except pl.exceptions.ComputeError:
            frame = self._parse_as(block.data, self.columns, dict.fromkeys(wanted, pl.String()))
            for column, dtype in wanted.items():
                if dtype == pl.String:
                    continue
                stripped = frame[column].str.strip_chars()
                typed = stripped.cast(dtype, strict=False)
                if typed.null_count() == stripped.null_count():
                    frame = frame.with_columns(typed.alias(column))
        if frame.height != block.num_rows:
            raise PredictionsError(
                f"{self.name}: {block.num_rows} rows were counted and {frame.height} parsed; check its "
                "quotation marks"
            )
        return frame

    def _parse_as(self, data: bytes, columns: list[str], wanted: Mapping[str, Any] | None) -> pl.DataFrame:
        """Parse rows without a header; columns that are not wanted are left out."""
        if not data:
            return pl.DataFrame(schema=dict.fromkeys(columns, pl.String))
        schema = {column: (wanted or {}).get(column, pl.String()) for column in columns}
        rows = pl.scan_csv(io.BytesIO(data), has_header=False, schema=schema, separator=self._separator)
        try:
            return rows.select(list(wanted) if wanted is not None else columns).collect()
        except pl.exceptions.PolarsError as error:
            _decoded(data, self.name)
            raise error


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise PredictionsError(f"{name} is not UTF-8 text ({error}); write it again in UTF-8") from error
