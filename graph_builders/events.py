"""The event log: who did what to which item, and when; read and checked before anything is built on it."""

import csv
import difflib
import gzip
import io
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

TimeUnit = Literal["s", "ms", "us", "ns"]
Resolution = Literal["s", "ms"]
Source = Any  # a path, a polars DataFrame or LazyFrame, or a pandas DataFrame

UNITS_PER_SECOND: Mapping[str, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_REQUIRED = ("user_id", "item_id", "time", "behavior", "domain")
_SHOWN_ROWS = 5  # an error names this many rows and counts the rest
# Unix seconds from 1980 to 2100. In another unit the range moves by 1,000: the ranges do not overlap.
_UNIX_SECONDS = (315_532_800, 4_102_444_800)


class EventLogError(ValueError):
    """What is wrong with an event log: the source, the column, the rows, and what to do about it."""


@dataclass(frozen=True, kw_only=True)
class EventSchema:
    """Which columns of a source hold what.

    Args:
        user: column of user IDs, of any type, never null.
        item: column of item IDs, of any type, never null.
        time: column of event times: numbers in ``time_unit``, or a date or datetime column
            (without a time zone it is read as UTC).
        time_unit: unit of the numbers in ``time`` and ``available_time``.
        resolution: unit of the stored int64 times, seconds or milliseconds. Finer parts are cut off.
        time_bounds: ISO dates between which every time must lie, the second excluded. It finds a
            wrong ``time_unit``. ``None`` for a clock that is not unix time (synthetic data).
        behavior: column of behaviour types; ``None``: every event is a ``default_behavior``.
        default_behavior: the behaviour of a source that has no such column.
        behaviors: the known behaviours; another one is an error. ``None``: any name is known.
        domain: column of domains; ``None``: every event lies in ``default_domain``.
        default_domain: the domain of a source that has no such column.
        domains: the known domains, as ``behaviors``.
        available_time: column that says when an event became known, in ``time_unit`` and never before
            its time. A null there means: at its own time.
        attributes: further columns to keep, by their own names.

    """

    user: str = "user_id"
    item: str = "item_id"
    time: str = "time"
    time_unit: TimeUnit = "s"
    resolution: Resolution = "s"
    time_bounds: tuple[str, str] | None = ("1980-01-01", "2100-01-01")
    behavior: str | None = None
    default_behavior: str = "interaction"
    behaviors: tuple[str, ...] | None = None
    domain: str | None = None
    default_domain: str = "internal"
    domains: tuple[str, ...] | None = None
    available_time: str | None = None
    attributes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.time_unit not in UNITS_PER_SECOND:
            raise ValueError(f"time_unit must be one of {tuple(UNITS_PER_SECOND)}, got {self.time_unit!r}")
        if self.resolution not in ("s", "ms"):
            raise ValueError(f"resolution must be 's' or 'ms', got {self.resolution!r}")
        for kind, known, default in (
            ("behavior", self.behaviors if self.behavior is None else None, self.default_behavior),
            ("domain", self.domains if self.domain is None else None, self.default_domain),
        ):
            if known is not None and default not in known:
                raise ValueError(
                    f"default_{kind}={default!r} is not one of the known {kind}s {known}: add it"
                )
        reserved = sorted({*_REQUIRED, "available_time"} & set(self.attributes))
        if reserved:
            raise ValueError(f"attributes may not be named {reserved}: these names are the log's own")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that a source must have, each once."""
        named = (self.user, self.item, self.time, self.behavior, self.domain, self.available_time)
        return tuple(dict.fromkeys([*(name for name in named if name is not None), *self.attributes]))


@dataclass(frozen=True, kw_only=True)
class SourceReport:
    """How many rows one source held."""

    name: str
    num_rows: int


@dataclass(frozen=True, kw_only=True)
class EventLogReport:
    """What reading found: rows of each source, and duplicate rows, kept or dropped."""

    sources: tuple[SourceReport, ...]
    num_duplicates: int
    num_dropped: int

    @property
    def num_rows_read(self) -> int:
        """Rows over all sources, before duplicates were dropped."""
        return sum(source.num_rows for source in self.sources)


@dataclass(frozen=True)
class EventLog:
    """A checked event log.

    Attributes:
        frame: columns ``user_id`` and ``item_id`` (the source's types), ``time`` (Int64, unix time in
            ``time_resolution``), ``behavior`` and ``domain`` (Categorical), ``available_time`` (Int64,
            only where the schema has it), then the attributes. Rows keep the order of the sources:
            it decides between events of one time.
        time_resolution: unit of the times, "s" or "ms".
        report: what reading found.

    """

    frame: pl.DataFrame
    time_resolution: Resolution
    report: EventLogReport

    def __len__(self) -> int:
        return self.frame.height

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the columns beyond the log's own."""
        return tuple(name for name in self.frame.columns if name not in {*_REQUIRED, "available_time"})

    def filter(self, predicate: pl.Expr) -> "EventLog":
        """Return the log of the rows where ``predicate`` holds; the report stays that of reading."""
        return EventLog(self.frame.filter(predicate), self.time_resolution, self.report)


def read_events(
    source: Source | Sequence[Source],
    schema: EventSchema,
    *,
    duplicates: Literal["keep", "drop"] = "keep",
    duplicate_key: Sequence[str] | None = None,
    name: str | None = None,
) -> EventLog:
    """Read one or many sources with one schema, check every row, and return them as one log.

    Args:
        source: a path (.csv, .csv.gz, .parquet), a polars DataFrame or LazyFrame, a pandas DataFrame,
            or a list of these.
        schema: which columns hold what.
        duplicates: a row whose key came earlier is kept or dropped; it is counted either way.
        duplicate_key: the log's columns (or attributes) that make two rows duplicates. Default: all.
        name: what errors call a data frame; a path is called by its own name.

    Raises:
        EventLogError: a source is missing, empty, cut short or damaged; a column is missing; an ID,
            behaviour or domain is null or unknown; a time cannot be parsed, is negative, lies outside
            ``schema.time_bounds`` or mixes units; an event is known before it happens. Rows are
            counted from 1 without the header.

    """
    if duplicates not in ("keep", "drop"):
        raise ValueError(f"duplicates must be 'keep' or 'drop', got {duplicates!r}")
    sources = list(source) if isinstance(source, list | tuple) else [source]
    if not sources:
        raise EventLogError("no source was given: pass at least one path or data frame")
    frames, reports = [], []
    for position, one in enumerate(sources):
        label = _source_name(one, name, position, len(sources))
        raw = _read_source(one, schema.columns, label)
        frames.append(_canonical(raw, schema, label))
        reports.append(SourceReport(name=label, num_rows=raw.height))
    frame = concat_frames(frames, [report.name for report in reports])
    frame, num_duplicates = _mark_duplicates(frame, duplicate_key, drop=duplicates == "drop")
    num_dropped = num_duplicates if duplicates == "drop" else 0
    report = EventLogReport(sources=tuple(reports), num_duplicates=num_duplicates, num_dropped=num_dropped)
    return EventLog(frame, schema.resolution, report)


def concat_event_logs(logs: Sequence[EventLog]) -> EventLog:
    """Put logs of one time resolution after each other; an attribute that a log lacks is null there."""
    if not logs:
        raise ValueError("at least one event log is needed, got none")
    resolutions = {log.time_resolution for log in logs}
    if len(resolutions) > 1:
        raise EventLogError(
            f"logs must share one time resolution, got {sorted(resolutions)}: read them alike"
        )
    report = EventLogReport(
        sources=tuple(source for log in logs for source in log.report.sources),
        num_duplicates=sum(log.report.num_duplicates for log in logs),
        num_dropped=sum(log.report.num_dropped for log in logs),
    )
    names = ["+".join(source.name for source in log.report.sources) for log in logs]
    return EventLog(concat_frames([log.frame for log in logs], names), logs[0].time_resolution, report)


def concat_frames(frames: Sequence[pl.DataFrame], names: Sequence[str]) -> pl.DataFrame:
    """Concatenate canonical frames; columns that a frame lacks become null, integer types widen."""
    for column in ("user_id", "item_id"):
        types = {str(frame.schema[column]): name for frame, name in zip(frames, names, strict=True)}
        if len(types) > 1:
            listed = ", ".join(f"{dtype} in {name}" for dtype, name in types.items())
            raise EventLogError(f"{column} must have one type in all logs, got {listed}: cast one of them")
    if any("available_time" in frame.columns for frame in frames):
        frames = [
            frame if "available_time" in frame.columns else frame.with_columns(available_time=pl.col("time"))
            for frame in frames
        ]
    try:
        joined = pl.concat(frames, how="diagonal_relaxed") if len(frames) > 1 else frames[0]
    except pl.exceptions.PolarsError as error:
        raise EventLogError(
            f"attributes of {', '.join(names)} have types that do not fit: {error}"
        ) from error
    first = [name for name in (*_REQUIRED, "available_time") if name in joined.columns]
    return joined.select(*first, *(name for name in joined.columns if name not in first))


def read_table(
    source: Source, columns: Sequence[str] | None = None, *, name: str | None = None
) -> pl.DataFrame:
    """Read a table that is no event log (users, items, texts) with the same checks of the file.

    Raises:
        EventLogError: the file is missing, empty, cut short or damaged, or lacks one of ``columns``.

    """
    return _read_source(source, columns, _source_name(source, name, 0, 1))


# ---- sources -------------------------------------------------------------------------------------


def _source_name(source: Source, name: str | None, position: int, num_sources: int) -> str:
    if isinstance(source, str | Path):
        return str(source)
    label = name or "data frame"
    return label if num_sources == 1 else f"{label} {position + 1}"


def _read_source(source: Source, columns: Sequence[str] | None, label: str) -> pl.DataFrame:
    """Return the wanted columns of a source, which has at least one row."""
    if isinstance(source, str | Path):
        frame = _read_path(Path(source), columns, label)
    elif isinstance(source, pl.LazyFrame):
        _check_columns(source.collect_schema().names(), columns, label)
        frame = (source if columns is None else source.select(columns)).collect()
    elif isinstance(source, pl.DataFrame):
        frame = source
    elif type(source).__module__.split(".")[0] == "pandas":
        try:
            frame = pl.from_pandas(source)
        except (
            TypeError,
            ValueError,
            pl.exceptions.PolarsError,
        ) as error:  # pyarrow's errors are ValueErrors
            mixed = [name for name in source.columns if source[name].map(type).nunique() > 1]
            raise EventLogError(
                f"{label}: columns {mixed} mix types ({error}): cast each to one type, such as str"
            ) from error
    else:
        raise EventLogError(
            f"{label}: a source is a path, a polars or a pandas data frame, got {type(source).__name__}"
        )
    _check_columns(frame.columns, columns, label)
    if frame.is_empty():
        raise EventLogError(f"{label}: holds no rows: check the export that wrote it, or leave it out")
    return frame if columns is None else frame.select(columns)


def _read_path(path: Path, columns: Sequence[str] | None, label: str) -> pl.DataFrame:
    if not path.is_file():
        raise EventLogError(f"{label}: no such file: check the path")
    if path.stat().st_size == 0:
        raise EventLogError(f"{label}: the file is empty (0 bytes): check the export that wrote it")
    if path.suffix == ".parquet":
        return _read_parquet(path, columns, label)
    if path.name.endswith((".csv", ".csv.gz")):
        return _read_csv(path, label)
    raise EventLogError(f"{label}: file names must end with .csv, .csv.gz or .parquet")


def _read_parquet(path: Path, columns: Sequence[str] | None, label: str) -> pl.DataFrame:
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(max(path.stat().st_size - 4, 0))
        tail = file.read(4)
    if head != b"PAR1":
        raise EventLogError(f"{label}: not a Parquet file (it does not begin with PAR1): check the path")
    if tail != b"PAR1":
        raise EventLogError(f"{label}: the Parquet file is cut short (no footer): copy or download it again")
    try:
        _check_columns(list(pl.read_parquet_schema(path)), columns, label)
        return pl.read_parquet(path, columns=None if columns is None else list(columns))
    except EventLogError:
        raise
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise EventLogError(f"{label}: the Parquet file is damaged ({error}): download it again") from error


def _read_csv(path: Path, label: str) -> pl.DataFrame:
    data: bytes | Path = path
    if path.suffix == ".gz":
        try:
            with gzip.open(path) as file:
                data = file.read()
        except EOFError as error:
            raise EventLogError(f"{label}: the gzip file is cut short: copy or download it again") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise EventLogError(f"{label}: the gzip file is damaged ({error}): download it again") from error
    _check_last_line(data, label)
    try:
        # All rows decide a column's type: a stray word in row 1,000,000 is then found by our own checks.
        return _keep_leading_zeros(pl.read_csv(data, infer_schema_length=None), data)
    except pl.exceptions.NoDataError as error:
        raise EventLogError(f"{label}: holds no rows: check the export that wrote it") from error
    except pl.exceptions.PolarsError as error:
        raise EventLogError(
            f"{label}: cannot be read as CSV ({error}): mend the quotes or columns"
        ) from error


def _keep_leading_zeros(frame: pl.DataFrame, data: bytes | Path) -> pl.DataFrame:
    """Take integer columns in which a number begins with a zero as text: 007 and 7 are two IDs."""
    integers = [name for name, dtype in frame.schema.items() if dtype.is_integer()]
    if not integers:
        return frame
    text = pl.read_csv(data, columns=integers, infer_schema=False)
    padded = [name for name in integers if text[name].str.contains(r"^[+-]?0[0-9]").any()]
    return frame.with_columns(text.select(padded)) if padded else frame


def _check_last_line(data: bytes | Path, label: str) -> None:
    """Recognise a CSV that was cut off inside a row: its last line has fewer fields than the header."""
    with data.open("rb") if isinstance(data, Path) else io.BytesIO(data) as file:
        header = file.readline().decode("utf-8", errors="replace")
        size = file.seek(0, io.SEEK_END)
        file.seek(max(size - (1 << 16), 0))
        tail = file.read()
    if tail.endswith(b"\n"):
        return
    last = tail.rsplit(b"\n", 1)[-1].decode("utf-8", errors="replace")
    wanted, came = len(next(csv.reader([header]))), len(next(csv.reader([last]), []))
    if came < wanted:
        raise EventLogError(
            f"{label}: cut short: the last row has {came} of {wanted} fields and no line end: copy it again"
        )


def _check_columns(present: Iterable[str], wanted: Sequence[str] | None, label: str) -> None:
    present = list(present)
    for column in wanted or ():
        if column not in present:
            close = difflib.get_close_matches(column, present, n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise EventLogError(
                f"{label}: column {column!r} is missing, the columns are {present}{hint} "
                "Name the right column in the schema."
            )


# ---- rows ----------------------------------------------------------------------------------------


def _canonical(raw: pl.DataFrame, schema: EventSchema, label: str) -> pl.DataFrame:
    """Rename, convert and check the columns of one source."""
    time = _checked_times(raw[schema.time], schema, label)
    columns = {
        "user_id": _checked_ids(raw[schema.user], label),
        "item_id": _checked_ids(raw[schema.item], label),
        "time": time,
        "behavior": _checked_names(raw, schema.behavior, schema.default_behavior, schema.behaviors, label),
        "domain": _checked_names(raw, schema.domain, schema.default_domain, schema.domains, label),
    }
    if schema.available_time is not None:
        given = raw[schema.available_time]
        # A null means "at its own time"; what is not null must parse like any time.
        present = given.is_not_null()
        known = pl.Series(time)
        if present.any():
            parsed = _checked_times(given.filter(present), schema, label, rows=present.arg_true())
            known = known.scatter(present.arg_true(), parsed)
        _raise_rows(
            known < time, label, schema.available_time, "is before the event's own time", given, "mend it"
        )
        columns["available_time"] = known
    frame = pl.DataFrame([series.alias(name) for name, series in columns.items()])
    return frame.hstack([raw[name] for name in schema.attributes])


def _checked_ids(ids: pl.Series, label: str) -> pl.Series:
    _raise_rows(ids.is_null(), label, ids.name, "is null", None, "drop these rows or give them an ID")
    if ids.dtype.is_float():
        # pandas turns an integer column into floats as soon as one value is missing
        wrong = ids.is_nan() | (ids != ids.floor()) | (ids.abs() >= 2.0**53)
        _raise_rows(wrong, label, ids.name, "is no whole number", ids, "give IDs as integers or strings")
        return ids.cast(pl.Int64)
    if ids.dtype.is_integer():
        _raise_rows(
            ids.cast(pl.Int64, strict=False).is_null(),
            label,
            ids.name,
            "exceeds int64",
            ids,
            "cast it to a string",
        )
        return ids.cast(pl.Int64)
    if ids.dtype in (pl.Categorical, pl.Enum, pl.String):
        ids = ids.cast(pl.String)
        _raise_rows(ids == "", label, ids.name, "is empty", None, "drop these rows or give them an ID")
        return ids
    if ids.dtype in (pl.Object, pl.Null) or ids.dtype.is_nested():
        raise EventLogError(
            f"{label}: column {ids.name!r} has type {ids.dtype}: cast IDs to integers or strings first"
        )
    return ids


def _checked_names(
    raw: pl.DataFrame, column: str | None, default: str, known: tuple[str, ...] | None, label: str
) -> pl.Series:
    """Return behaviours or domains as a categorical column."""
    if column is None:
        return pl.repeat(default, raw.height, dtype=pl.String, eager=True).cast(pl.Categorical)
    names = raw[column]
    _raise_rows(names.is_null(), label, column, "is null", None, "drop these rows or name them")
    names = names.cast(pl.String) if names.dtype != pl.Categorical else names
    categories = names.cast(pl.Categorical)
    if known is not None:
        wrong = ~categories.is_in(pl.Series(known, dtype=pl.String).cast(pl.Categorical).implode())
        remedy = f"known are {list(known)}: add it to the schema or filter these rows"
        _raise_rows(wrong, label, column, "is unknown", names, remedy)
    return categories


def _checked_times(
    values: pl.Series, schema: EventSchema, label: str, rows: pl.Series | None = None
) -> pl.Series:
    """Return times as Int64 in the schema's resolution; ``rows``: the rows that ``values`` came from."""
    per_second = UNITS_PER_SECOND[schema.resolution]

    def check(wrong: pl.Series, problem: str, remedy: str, shown: pl.Series | None = values) -> None:
        _raise_rows(wrong, label, values.name, problem, shown, remedy, rows)

    check(values.is_null(), "is null", "drop these rows or give them a time", None)
    if values.dtype.is_temporal() and values.dtype != pl.Duration and values.dtype != pl.Time:
        times = values.cast(pl.Datetime("us")).dt.epoch("us")  # cast converts an aware time to UTC
        unit = "us"
    else:
        unit = schema.time_unit
        remedy = f"a time is a number in {unit!r}, or the column a datetime"
        if values.dtype.is_integer():
            numbers = values
        else:
            if not (values.dtype.is_float() or values.dtype in (pl.String, pl.Categorical, pl.Enum)):
                raise EventLogError(f"{label}: column {values.name!r} has type {values.dtype}: {remedy}")
            numbers = values if values.dtype.is_float() else _parse_numbers(values.cast(pl.String))
            check(~numbers.is_finite().fill_null(False), "cannot be parsed", remedy)
        check(numbers < 0, "is negative", "mend these rows; times count from 1970-01-01 UTC")
        _check_units(numbers, schema, check)
        if numbers.dtype.is_float():
            scale = per_second / UNITS_PER_SECOND[unit]
            return _in_bounds((numbers * scale).floor().cast(pl.Int64), schema, check)
        times = numbers.cast(pl.Int64)
    check(times < 0, "is negative (before 1970)", "mend these rows; times count from 1970-01-01 UTC")
    have = UNITS_PER_SECOND[unit]
    times = times * (per_second // have) if per_second >= have else times // (have // per_second)
    return _in_bounds(times.cast(pl.Int64), schema, check)


def _parse_numbers(text: pl.Series) -> pl.Series:
    """Parse as whole numbers where all are, since a float loses digits of nanoseconds."""
    whole = text.str.strip_chars().cast(pl.Int64, strict=False)
    return whole if whole.null_count() == 0 else text.str.strip_chars().cast(pl.Float64, strict=False)


def _check_units(numbers: pl.Series, schema: EventSchema, check: Any) -> None:
    """Find values that look like unix times in two units, or in another unit than the schema says.

    Unix times from 1980 to 2100 in s, ms, us and ns fill ranges that do not overlap. Two filled ranges
    with nothing between them are a mixture; one filled range that is not the declared one is a wrong
    unit (only with ``time_bounds``: a synthetic clock may count anything).
    """
    inside = {
        unit: numbers.is_between(_UNIX_SECONDS[0] * scale, _UNIX_SECONDS[1] * scale)
        for unit, scale in UNITS_PER_SECOND.items()
    }
    counts = {unit: int(flags.sum()) for unit, flags in inside.items() if flags.any()}
    between = sum(counts.values()) < int((numbers >= _UNIX_SECONDS[0]).sum())
    if len(counts) > 1 and not between:
        # the declared unit is right if it occurs at all; else the most frequent one
        main = schema.time_unit if schema.time_unit in counts else max(counts, key=lambda unit: counts[unit])
        found = ", ".join(f"{count} values look like {unit!r}" for unit, count in counts.items())
        strays = pl.repeat(False, len(numbers), eager=True)
        for unit, flags in inside.items():
            if unit in counts and unit != main:
                strays = strays | flags
        check(strays, f"mixes time units: {found}; not {main!r}", "convert these rows to one unit")
    if schema.time_bounds is not None and counts and schema.time_unit not in counts:
        unit = max(counts, key=lambda name: counts[name])
        check(
            inside[unit],
            f"looks like {unit!r}, but the schema says time_unit={schema.time_unit!r}",
            f"set time_unit={unit!r}, or time_bounds=None where the clock is not unix time",
        )


def _in_bounds(times: pl.Series, schema: EventSchema, check: Any) -> pl.Series:
    if schema.time_bounds is not None:
        low, high = (
            int(pl.Series([date]).str.to_datetime(time_zone="UTC").dt.epoch("s")[0])
            * UNITS_PER_SECOND[schema.resolution]
            for date in schema.time_bounds
        )
        check(
            (times < low) | (times >= high),
            f"lies outside time_bounds={schema.time_bounds} as time_unit={schema.time_unit!r}",
            "set the right time_unit, or time_bounds=None where the clock is not unix time",
        )
    return times


def _mark_duplicates(
    frame: pl.DataFrame, key: Sequence[str] | None, *, drop: bool
) -> tuple[pl.DataFrame, int]:
    """Count the rows whose key came earlier, and drop them if asked."""
    _check_columns(frame.columns, key, "duplicate_key")
    columns = list(key) if key is not None else frame.columns
    hashes = frame.select(columns).hash_rows()
    if hashes.n_unique() == frame.height:  # no equal hashes, so no equal rows
        return frame, 0
    suspects = frame.select(columns).filter(hashes.is_duplicated())
    num_duplicates = suspects.height - int(suspects.select(pl.struct(columns).n_unique()).item())
    if drop and num_duplicates:
        frame = frame.unique(subset=columns, keep="first", maintain_order=True)
    return frame, num_duplicates


def _raise_rows(
    wrong: pl.Series,
    label: str,
    column: str,
    problem: str,
    values: pl.Series | None,
    remedy: str,
    rows: pl.Series | None = None,
) -> None:
    """Raise for the rows where ``wrong`` is True, naming the first few (from 1) and counting them."""
    if not wrong.any():
        return
    positions = wrong.arg_true()
    shown = positions.head(_SHOWN_ROWS)
    numbers = [int(row) + 1 for row in (shown if rows is None else rows.gather(shown))]
    came = "" if values is None else f" (values {values.gather(shown).to_list()})"
    more = ", ..." if len(positions) > _SHOWN_ROWS else ""
    raise EventLogError(
        f"{label}: column {column!r} {problem} in {len(positions)} rows: "
        f"{', '.join(map(str, numbers))}{more}{came}. Remedy: {remedy}."
    )
