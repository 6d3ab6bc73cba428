"""Reads predictions of any form and size into compact, checked columns; every guess becomes a note.

Files are read in chunks, of which only labels, scores and small codes are kept: a row with a label, one
float64 score, a user, an hour and one slicing column takes 19 bytes.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import polars as pl

from graphrec.evaluation.history import bucket_names
from graphrec.evaluation.predictions import Predictions, Slicing
from graphrec.evaluation.reading.column_store import ColumnStore, default_limit
from graphrec.evaluation.reading.csv_blocks import Kind
from graphrec.evaluation.reading.errors import PredictionsError, Problems, missing_column
from graphrec.evaluation.reading.identifiers import Identifiers
from graphrec.evaluation.reading.local_time import MILLISECONDS_PER_HOUR, TimeColumn, TimeUnit, Zone
from graphrec.evaluation.reading.roles import Roles, find_roles, find_scores
from graphrec.evaluation.reading.sources import Table, open_source, read_ahead, rechunked
from graphrec.evaluation.reading.values import ScoreKind, read_history, read_labels, read_scores

__all__ = ["PredictionsError", "ReadOptions", "Slicer", "read_predictions"]

_BLOCK = 1 << 20  # rows that are worked on at once where a whole column is walked
_MISSING = "missing"


@dataclass(frozen=True)
class ReadOptions:
    """What the columns are and how they are read; what is not given is guessed, and the guess noted.

    Attributes:
        label: column of clicks, 0 or 1 (booleans too).
        score: one or several columns of scores.
        user: column of user IDs of any type; the empty string means that there is none.
        time: column of times: numbers since 1970, date-times, dates or ISO 8601 text; empty for none.
        request: column of the request (page view, search) that shows several rows; empty for none.
        item: column of items, for slices by the history of items.
        history: column of the number of past events of a row's user, cut into buckets as slices.
        key: columns that together identify a row, to match the rows of several sources; without it rows must
            stand in the same order, which is verified.
        by: columns that cut the rows into slices; the words hour, day and period mean the time's.
        time_unit: of numbers; ``auto`` goes by their size.
        time_zone: whose hours and days rows are cut into: an IANA name, or a shift such as +08:00.
        period_seconds: length of a period; periods are counted from 1970-01-01 00:00 in local time.
        score_kind: ``probability`` in [0, 1]; ``logit``, passed through the logistic function; ``ranking``, any
            finite number, without figures that need probabilities.
        positive_threshold: makes a click of every label above it.
        max_values: most values of a slicing column.
        memory_limit_gib: GiB of columns to hold in memory, the rest in temporary files; three quarters of the
            memory by default.

    """

    label: str | None = None
    score: tuple[str, ...] = ()
    user: str | None = None
    time: str | None = None
    request: str | None = None
    item: str | None = None
    history: str | None = None
    key: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    time_unit: TimeUnit = "auto"
    time_zone: str = "UTC"
    period_seconds: int = 3600
    score_kind: ScoreKind = "probability"
    positive_threshold: float | None = None
    max_values: int = 1000
    memory_limit_gib: float | None = None


class Slicer(Protocol):
    """Cuts rows by something that is not in the source, such as a behaviour graph."""

    name: str
    values: tuple[str, ...]

    def slice(self, frame: pl.DataFrame) -> np.ndarray:
        """Return each row's index into ``values``; the frame holds the raw user and item and ``time_ms`` (UTC)."""


def read_predictions(
    source: Any,
    options: ReadOptions | None = None,
    *,
    against: Sequence[Any] = (),
    progress: Callable[[int, int | None], None] | None = None,
    slicers: Sequence[Slicer] = (),
    chunk_rows: int = 1_000_000,
) -> Predictions:
    """Read predictions into checked columns, in the order of ``source``.

    Args:
        source: a path to Parquet (``.parquet``) or text (``.csv``, ``.csv.gz``, ``.tsv``), a pattern, a folder or a
            list of paths (parts of one table), a polars frame (lazy too), a pandas frame, or a mapping of
            names to arrays (numpy, lists, tensors).
        options: names of columns, units and zone.
        against: further sources with scores of the same rows. A score is called by its column; where two
            sources use one name, by the file's name.
        progress: called after each chunk with the rows done and, where it is known, the total.
        slicers: further slices; each is handed chunks with the columns ``user``, ``time_ms`` and, where there is
            one, ``item``.
        chunk_rows: rows read at a time; has no effect on the result.

    Raises:
        PredictionsError: rows or columns that cannot be evaluated as they are.

    """
    options = options if options is not None else ReadOptions()
    _check_options(options, chunk_rows)
    tables = [
        open_source(source, "predictions"),
        *(open_source(one, f"against {number}") for number, one in enumerate(against, 1)),
    ]
    while True:
        try:
            return _Reading(tables, options, slicers, progress, chunk_rows).run()
        except _ReadAsText as retry:
            # IDs that looked like integers and are not: text from the first row on
            for table in tables:
                if retry.column in table.columns:
                    table.read_as_text(retry.column)


class _ReadAsText(Exception):
    def __init__(self, column: str) -> None:
        self.column = column


class _Reading:
    """One pass over all sources."""

    def __init__(
        self,
        tables: Sequence[Table],
        options: ReadOptions,
        slicers: Sequence[Slicer],
        progress: Callable[[int, int | None], None] | None,
        chunk_rows: int,
    ) -> None:
        self.tables, self.options, self.slicers = tables, options, slicers
        self.progress = progress
        self.chunk_rows = chunk_rows
        self.zone = Zone(options.time_zone)
        self.problems = Problems()
        first = tables[0]
        if options.score:
            for name in options.score:
                if not any(name in table.columns for table in tables):
                    raise missing_column(first.name, name, first.columns, "--score")
        by_history = "history" in options.by and "history" in first.columns and options.history is None
        self.roles = find_roles(
            first,
            label=options.label,
            score=[name for name in options.score if name in first.columns],
            user=options.user,
            time=options.time,
            request=options.request,
            item=options.item,
            history="history" if by_history else options.history,
            key=options.key,
            by=options.by,
            known_slices=[
                *(slicer.name for slicer in slicers),
                *(["history"] if by_history or options.history is not None else []),
            ],
        )
        self._check_slicers()
        self.notes = [note for table in tables for note in table.notes] + self.roles.notes
        self.other_scores = [self._scores_of(table) for table in tables[1:]]
        self.names = _score_names(tables, [self.roles.scores, *self.other_scores])
        limit = default_limit() if options.memory_limit_gib is None else int(options.memory_limit_gib * 2**30)
        self.store = ColumnStore(first.num_rows, limit)
        self.user, self.request = Identifiers(), Identifiers()
        self.keys = [Identifiers() for _ in options.key]
        self.joint_key = Identifiers()
        self.by = {name: Identifiers() for name in self.roles.by}
        self.times = [TimeColumn(self.roles.time or "", options.time_unit) for _ in tables]
        self.last_time: int | None = None
        self.is_ascending = True

    def run(self) -> Predictions:
        """Read everything."""
        lockstep = len(self.tables) > 1 and not self.options.key
        if lockstep:
            self._check_counts()
            num_rows = self._read_side_by_side()
        else:
            num_rows = 0
            for frame in self._frames(0, self._kinds_of_first()):
                self._take(frame, num_rows)
                num_rows += frame.height
                self._report(num_rows)
        if not num_rows:
            raise PredictionsError(f"{self.tables[0].name} holds no row; at least one is needed")
        if self.store.num_rows is not None and num_rows != self.store.num_rows:
            raise PredictionsError(
                f"{self.tables[0].name}: {num_rows} rows were read and {self.store.num_rows} announced; it changed meanwhile"
            )
        label = self.store.finish("label")
        matched: dict[str, np.ndarray] = {}
        if not lockstep and len(self.tables) > 1:
            # a row that is wrong in the first source would be told again by each that is matched to it
            self.problems.raise_if_any()
            matched = self._read_matched(label, num_rows)
        self.problems.raise_if_any()
        return self._predictions(label, matched)

    def _kinds_of_first(self) -> dict[str, Kind]:
        roles = self.roles
        kinds: dict[str, Kind] = {roles.label: "number"}
        kinds |= dict.fromkeys(roles.scores, "number")
        kinds |= {roles.history: "number"} if roles.history is not None else {}
        kinds |= {roles.time: "time"} if roles.time is not None else {}
        ids = (roles.user, roles.request, roles.item if self.slicers else None, *roles.key)
        kinds |= {name: "id" for name in ids if name is not None}
        return kinds | dict.fromkeys(roles.by, "text")

    def _frames(self, number: int, kinds: Mapping[str, Kind]) -> Iterator[pl.DataFrame]:
        """Yield chunks of a source; a CSV's column of IDs that stops being integers starts again as text."""
        types: dict[str, pl.DataType] = {}
        for frame in read_ahead(self.tables[number].frames(kinds, self.chunk_rows)):
            for column, kind in kinds.items():
                dtype = types.setdefault(column, frame.schema[column])
                if kind == "id" and frame.schema[column] == pl.String and dtype.is_integer():
                    raise _ReadAsText(column)
                if kind == "id" and dtype == pl.String and frame.schema[column].is_integer():
                    raise _ReadAsText(column)
            yield frame

    def _take(self, frame: pl.DataFrame, offset: int) -> None:
        """Check a chunk of the first source and keep its compact columns."""
        roles, table, problems, options = self.roles, self.tables[0], self.problems, self.options
        store = self.store
        store.append(
            "label",
            read_labels(frame[roles.label], options.positive_threshold, table, problems, offset),
        )
        for column in roles.scores:
            scores = read_scores(frame[column], options.score_kind, table, problems, offset)
            store.append(f"score {self.names[0][column]}", scores)
        for role, column, identifiers in (
            ("user", roles.user, self.user),
            ("request", roles.request, self.request),
        ):
            if column is not None:
                store.append(role, self._codes(identifiers, frame[column], role, offset))
        time = None
        if roles.time is not None:
            time = self._take_time(frame[roles.time], offset)
        if roles.history is not None:
            store.append("by history", read_history(frame[roles.history], table, problems, offset))
        for column, identifiers in self.by.items():
            self._take_slices(frame[column], column, identifiers)
        for slicer in self.slicers:
            self._take_slicer(slicer, frame, time)
        if options.key:
            self._take_keys(frame, offset)

    def _codes(self, identifiers: Identifiers, values: pl.Series, role: str, offset: int) -> np.ndarray:
        codes = identifiers.codes(values)
        self.problems.add_where(
            self.tables[0], values.name, codes < 0, values, offset,
            text=f"a {role} is missing", remedy="drop these rows knowingly, or fill them with an ID of their own",
        )  # fmt: skip
        return codes

    def _take_time(self, values: pl.Series, offset: int) -> np.ndarray:
        time = self.times[0].milliseconds(values, self.tables[0], self.problems, offset)
        if len(time):
            self.is_ascending &= bool((time[1:] >= time[:-1]).all())
            self.is_ascending &= self.last_time is None or int(time[0]) >= self.last_time
            self.last_time = int(time[-1])
        local = time + self.zone.shift(time)
        self.store.append("hour", (local // MILLISECONDS_PER_HOUR).astype(np.int32))
        if self.options.period_seconds != 3600:
            self.store.append("period", (local // (1000 * self.options.period_seconds)).astype(np.int32))
        return time

    def _take_slices(self, values: pl.Series, column: str, identifiers: Identifiers) -> None:
        codes = identifiers.codes(values)
        if len(identifiers) > self.options.max_values:
            raise PredictionsError(
                f"{self.tables[0].name}: the slicing column {column!r} has more than {self.options.max_values} values; "
                "cut it into fewer (buckets, or the most frequent values and the rest), or raise --max-values"
            )
        small = self.options.max_values < np.iinfo(np.int16).max
        self.store.append(f"by {column}", codes.astype(np.int16) if small else codes)

    def _take_slicer(self, slicer: Slicer, frame: pl.DataFrame, time: np.ndarray | None) -> None:
        roles = self.roles
        assert roles.user is not None and time is not None
        raw = {"user": frame[roles.user], "time_ms": pl.Series(time, dtype=pl.Int64)}
        if roles.item is not None:
            raw["item"] = frame[roles.item]
        codes = np.asarray(slicer.slice(pl.DataFrame(raw)))
        if codes.shape != (frame.height,) or not 0 <= codes.min() <= codes.max() < len(slicer.values):
            raise PredictionsError(
                f"the slicer {slicer.name!r} must give each row an index below {len(slicer.values)}"
            )
        self.store.append(f"slicer {slicer.name}", codes)

    def _take_keys(self, frame: pl.DataFrame, offset: int) -> None:
        """Number the keys; each new row must get the next number, its own row's."""
        codes = self._key_codes(frame, grow=True)
        table = self.tables[0]
        for column in self.options.key:
            missing = frame[column].is_null().to_numpy()
            self.problems.add_where(
                table,
                column,
                missing,
                frame[column],
                offset,
                text="a key is missing",
                remedy="a key needs a value in all of its columns",
            )
        repeated = np.zeros(frame.height, bool)
        # rows whose number is not the next one are repetitions; those after them lag behind by as many
        highest = np.maximum.accumulate(codes)
        repeated[1:] = codes[1:] <= highest[:-1]
        repeated |= codes < self._num_keys
        self._num_keys = len(self._joint)
        first = int(np.argmax(repeated))
        if repeated.any():
            key = _key_in_words(frame, self.options.key, first)
            self.problems.add(
                table, "key repeated", offset + first, int(repeated.sum()),
                f"the key {key} is that of an earlier row", "--key needs columns that together tell all rows apart",
            )  # fmt: skip

    _num_keys = 0

    @property
    def _joint(self) -> Identifiers:
        return self.keys[0] if len(self.keys) == 1 else self.joint_key

    def _key_codes(self, frame: pl.DataFrame, *, grow: bool) -> np.ndarray:
        """Return the number of each row's key, -1 where a part of it is unknown."""
        codes = self.keys[0].codes(frame[self.options.key[0]], grow=grow)
        for position in range(1, len(self.keys)):
            more = self.keys[position].codes(frame[self.options.key[position]], grow=grow)
            known = (codes >= 0) & (more >= 0)
            joint = np.where(known, (codes.astype(np.int64) << 32) | more, -1)
            if position < len(self.keys) - 1:
                identifiers = self._between.setdefault(position, Identifiers())
            else:
                identifiers = self.joint_key
            codes = np.full(frame.height, -1, np.int32)
            codes[known] = identifiers.codes(pl.Series(joint[known], dtype=pl.Int64), grow=grow)
        return codes

    @property
    def _between(self) -> dict[int, Identifiers]:
        return self.__dict__.setdefault("_between_keys", {})

    def _scores_of(self, table: Table) -> tuple[str, ...]:
        wanted = [name for name in self.options.score if name in table.columns]
        taken = {self.roles.label, self.roles.user or "", self.roles.time or ""}
        scores, notes = find_scores(table, wanted, taken)
        self.notes += notes
        for column in self.options.key:
            if column not in table.columns:
                raise missing_column(table.name, column, table.columns, "--key")
        return scores

    def _check_slicers(self) -> None:
        for role, column in (("user", self.roles.user), ("time", self.roles.time)):
            if self.slicers and column is None:
                raise PredictionsError(
                    f"{self.tables[0].name}: slices by history need a column of {role}s; --{role} names it"
                )

    def _check_counts(self) -> None:
        counts = [table.num_rows for table in self.tables]
        for table, count in zip(self.tables, counts, strict=True):
            if count is not None and counts[0] is not None and count != counts[0]:
                raise self._wrong_count(table, counts[0], count)

    def _wrong_count(self, table: Table, first: int, other: int) -> PredictionsError:
        return PredictionsError(
            f"{self.tables[0].name} has {first:,} rows and {table.name} {other:,}; both must hold the same rows: "
            "score the missing ones, or drop them in both knowingly"
        )

    def _kinds_of_other(self, number: int) -> dict[str, Kind]:
        """Return what to read of a further source: its scores, and what can verify its rows."""
        columns = self.tables[number].columns
        kinds: dict[str, Kind] = dict.fromkeys(self.other_scores[number - 1], "number")
        kinds |= {self.roles.label: "number"} if self.roles.label in columns else {}
        if not self.options.key and self.roles.time in columns and self.roles.time is not None:
            kinds[self.roles.time] = "time"
        ids = (self.roles.user, *self.options.key)
        kinds |= {name: "id" for name in ids if name is not None and name in columns}
        return kinds

    def _read_side_by_side(self) -> int:
        """Walk all sources together; rows must stand in the same order. Returns their number."""
        kinds = [
            self._kinds_of_first(),
            *(self._kinds_of_other(number) for number in range(1, len(self.tables))),
        ]
        for number in range(1, len(self.tables)):
            shared = [
                column
                for column in (self.roles.label, self.roles.user, self.roles.time)
                if column in kinds[number] and column is not None
            ]
            name = self.tables[number].name
            self.notes.append(
                f"{name}: rows are in the same order, verified by {', '.join(shared)}"
                if shared
                else f"{name}: rows are taken to be in the same order, which no shared column verifies; --key matches rows"
            )
        walks = [
            rechunked(self._frames(number, kinds[number]), self.chunk_rows) for number in range(len(kinds))
        ]
        heights = [0] * len(walks)
        while True:
            frames = [next(walk, None) for walk in walks]
            if frames[0] is None and all(frame is None for frame in frames):
                return heights[0]
            sizes = [0 if frame is None else frame.height for frame in frames]
            offset = heights[0]
            heights = [height + size for height, size in zip(heights, sizes, strict=True)]
            if len(set(sizes)) > 1:
                for number, walk in enumerate(walks):
                    heights[number] += sum(frame.height for frame in walk)
                number = next(number for number, height in enumerate(heights) if height != heights[0])
                raise self._wrong_count(self.tables[number], heights[0], heights[number])
            assert frames[0] is not None
            self._take(frames[0], offset)
            for number in range(1, len(frames)):
                other = frames[number]
                assert other is not None
                self._verify(frames[0], other, number, kinds[number], offset)
                self._take_scores(other, number, offset)
            self._report(heights[0])

    def _take_scores(self, frame: pl.DataFrame, number: int, offset: int) -> None:
        for column in self.other_scores[number - 1]:
            scores = read_scores(
                frame[column], self.options.score_kind, self.tables[number], self.problems, offset
            )
            self.store.append(f"score {self.names[number][column]}", scores)

    def _verify(
        self, frame: pl.DataFrame, other: pl.DataFrame, number: int, kinds: Mapping[str, Kind], offset: int
    ) -> None:
        """Compare label, user and time of two chunks, row by row."""
        table, roles = self.tables[number], self.roles
        for column in (roles.label, roles.user, roles.time):
            if column is None or column not in kinds:
                continue
            if column == roles.label:
                threshold = self.options.positive_threshold
                unchecked = Problems()
                differs = read_labels(
                    frame[column], threshold, self.tables[0], unchecked, offset
                ) != read_labels(other[column], threshold, table, self.problems, offset)
            elif column == roles.time:
                own = TimeColumn(column, self.times[0].unit, self.times[0].form)
                differs = own.milliseconds(frame[column], self.tables[0], Problems(), offset) != self.times[
                    number
                ].milliseconds(other[column], table, self.problems, offset)
            else:
                left, right = frame[column], other[column]
                if left.dtype != right.dtype and not (left.dtype.is_numeric() and right.dtype.is_numeric()):
                    left, right = left.cast(pl.String), right.cast(pl.String)
                differs = left.ne_missing(right).to_numpy()
            if differs.any():
                row = int(np.argmax(differs))
                self.problems.add(
                    table, f"differs {column}", offset + row, int(differs.sum()),
                    f"column {column!r} holds {other[column][row]!r} and in {self.tables[0].name} {frame[column][row]!r}",
                    "rows stand in another order or are others; --key names the columns that identify a row",
                )  # fmt: skip

    def _read_matched(self, label: np.ndarray, num_rows: int) -> dict[str, np.ndarray]:
        """Read the further sources in any order, and put each score to the row with its key."""
        columns: dict[str, np.ndarray] = {}
        for number in range(1, len(self.tables)):
            table = self.tables[number]
            seen = np.zeros(num_rows, bool)
            offset = 0
            kinds = self._kinds_of_other(number)
            for frame in self._frames(number, kinds):
                row = self._key_codes(frame, grow=False)
                known = row >= 0
                target = row[known]
                self._report_keys(
                    frame, table, ~known, offset, "key unknown", f"is not in {self.tables[0].name}"
                )
                repeated = known & seen[np.where(known, row, 0)]
                position = np.flatnonzero(known)
                first_of_chunk = np.zeros(len(position), bool)
                first_of_chunk[np.unique(target, return_index=True)[1]] = True
                repeated[position[~first_of_chunk]] = True
                self._report_keys(frame, table, repeated, offset, "key repeated", "is that of an earlier row")
                seen[target] = True
                if self.roles.label in kinds:
                    values = read_labels(
                        frame[self.roles.label], self.options.positive_threshold, table, self.problems, offset
                    )
                    differs = np.zeros(frame.height, bool)
                    differs[known] = values[known] != label[target]
                    self._report_keys(
                        frame,
                        table,
                        differs,
                        offset,
                        "label differs",
                        f"has another label in {self.tables[0].name}",
                    )
                for column in self.other_scores[number - 1]:
                    scores = read_scores(frame[column], self.options.score_kind, table, self.problems, offset)
                    name = f"score {self.names[number][column]}"
                    if name not in columns:
                        columns[name] = self.store.allocate(name, scores.dtype, num_rows)
                    columns[name][target] = scores[known]
                offset += frame.height
            if not seen.all():
                row_without = int(np.argmin(seen))
                self.problems.add(
                    self.tables[0], f"key missing {number}", row_without, int((~seen).sum()),
                    f"the key {self._key_of_row(row_without)} is not in {table.name}",
                    "score these rows, or drop them in both sources knowingly",
                )  # fmt: skip
            self.notes.append(f"{table.name}: rows matched by {', '.join(self.options.key)}")
        return columns

    def _report_keys(
        self, frame: pl.DataFrame, table: Table, wrong: np.ndarray, offset: int, what: str, text: str
    ) -> None:
        if wrong.any():
            row = int(np.argmax(wrong))
            key = _key_in_words(frame, self.options.key, row)
            self.problems.add(
                table, what, offset + row, int(wrong.sum()), f"the key {key} {text}",
                "each row needs one key, the same in all sources; --key names its columns",
            )  # fmt: skip

    def _key_of_row(self, row: int) -> str:
        """Return the key of a row of the first source, whose number is the row's."""
        code = row
        parts = []
        for position in range(len(self.keys) - 1, 0, -1):
            identifiers = self.joint_key if position == len(self.keys) - 1 else self._between[position]
            joint = identifiers.values(np.array([code]))[0]
            parts.append(self.keys[position].values(np.array([joint & 0xFFFFFFFF]))[0])
            code = joint >> 32
        parts.append(self.keys[0].values(np.array([code]))[0])
        return ", ".join(
            f"{name}={value}" for name, value in zip(self.options.key, reversed(parts), strict=True)
        )

    def _report(self, num_rows: int) -> None:
        if self.progress is not None:
            self.progress(num_rows, self.tables[0].num_rows)

    def _predictions(self, label: np.ndarray, matched: Mapping[str, np.ndarray]) -> Predictions:
        roles, store = self.roles, self.store
        score: dict[str, np.ndarray] = {}
        for names in self.names:
            for name in names.values():
                stored = f"score {name}"
                score[name] = matched[stored] if stored in matched else store.finish(stored)
        hour = store.finish("hour") if roles.time is not None else None
        period = hour if self.options.period_seconds == 3600 or hour is None else store.finish("period")
        slicings = []
        if roles.history is not None:
            code = store.finish("by history")
            slicings.append(_with_missing("history", code, bucket_names()))
        for column, identifiers in self.by.items():
            code = store.finish(f"by {column}")
            slicings.append(_in_order_of_values(column, code, identifiers.values()))
        for slicer in self.slicers:
            slicings.append(Slicing(slicer.name, store.finish(f"slicer {slicer.name}"), tuple(slicer.values)))
        self._note_the_rest(label)
        columns: dict[str, np.ndarray] = {"label": label}
        columns |= {f"score {name}": values for name, values in score.items()}
        user = store.finish("user") if roles.user is not None else None
        request = store.finish("request") if roles.request is not None else None
        for name, values in (("user", user), ("request", request), ("hour", hour), ("period", period)):
            if values is not None:
                columns[name] = values
        columns |= {f"by {one.name} {one.values}": one.code for one in slicings}
        return Predictions(
            label=label,
            score=score,
            user=user,
            request=request,
            hour=hour,
            period=period,
            slicings=tuple(slicings),
            is_probability=self.options.score_kind != "ranking",
            sources=tuple(table.name for table in self.tables),
            notes=tuple(self.notes),
            fingerprint=fingerprint(columns),
        )

    def _note_the_rest(self, label: np.ndarray) -> None:
        options, notes = self.options, self.notes
        if self.roles.time is not None:
            notes.append(
                f"time: column {self.roles.time}, {self.times[0].form}, cut into hours of {options.time_zone}; "
                "--time-zone changes it"
            )
            if not self.is_ascending:
                notes.append("times are not ascending; nothing depends on the order of rows")
        if options.score_kind == "logit":
            notes.append("scores are logits and were passed through the logistic function")
        elif options.score_kind == "ranking":
            notes.append("scores only rank; figures that need probabilities are left out")
        if options.positive_threshold is not None:
            notes.append(f"a label above {options.positive_threshold:g} counts as a click")
        clicks = int(label.sum(dtype=np.int64))
        if clicks in (0, len(label)):
            notes.append(
                f"all {len(label):,} labels are {int(clicks > 0)}: AUC and what needs both classes is undefined"
            )
        if self.store.num_in_files:
            notes.append(
                f"{self.store.num_in_files} columns lie in temporary files, beyond the memory limit (--memory-limit-gib)"
            )


def fingerprint(columns: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the names, types and values of columns, as a hexadecimal text."""
    with ThreadPoolExecutor(2) as pool:
        digests = list(pool.map(_digest, columns.values()))
    total = hashlib.sha256()
    for (name, values), digest in zip(columns.items(), digests, strict=True):
        total.update(f"{name}\0{values.dtype.str}\0{len(values)}\0".encode())
        total.update(digest)
    return total.hexdigest()


def _digest(values: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(values).data).digest()


def _check_options(options: ReadOptions, chunk_rows: int) -> None:
    for name, allowed in (
        ("time_unit", ("auto", "s", "ms", "us", "ns")),
        ("score_kind", ("probability", "logit", "ranking")),
    ):
        value = getattr(options, name)
        if value not in allowed:
            raise PredictionsError(
                f"--{name.replace('_', '-')} must be one of {', '.join(allowed)}, got {value!r}"
            )
    for name, number in (
        ("period_seconds", options.period_seconds),
        ("max_values", options.max_values),
        ("chunk_rows", chunk_rows),
    ):
        if number < 1:
            raise PredictionsError(f"{name} must be at least 1, got {number}")


def _score_names(tables: Sequence[Table], columns: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """Name each source's scores by their column, by the source where two sources share it."""
    times: dict[str, int] = {}
    for names in columns:
        for name in names:
            times[name] = times.get(name, 0) + 1
    result: list[dict[str, str]] = []
    used: set[str] = set()
    for table, names in zip(tables, columns, strict=True):
        given = {}
        for column in names:
            name = column
            if times[column] > 1:
                name = table.stem if len(names) == 1 else f"{table.stem}: {column}"
            number = 2
            while name in used:
                name, number = f"{name.removesuffix(f' ({number - 1})')} ({number})", number + 1
            used.add(name)
            given[column] = name
        result.append(given)
    return result


def _key_in_words(frame: pl.DataFrame, key: Sequence[str], row: int) -> str:
    return ", ".join(f"{column}={frame[column][row]}" for column in key)


def _with_missing(name: str, code: np.ndarray, values: Sequence[str]) -> Slicing:
    """Give rows of code -1 a slice of their own, the last."""
    missing = False
    for start in range(0, len(code), _BLOCK):
        block = code[start : start + _BLOCK]
        absent = block < 0
        if absent.any():
            missing = True
            block[absent] = len(values)
    if not missing:
        return Slicing(name, code, tuple(values))
    return Slicing(name, code, (*values, _MISSING if _MISSING not in values else f"{_MISSING} (no value)"))


def _in_order_of_values(name: str, code: np.ndarray, values: Sequence[Any]) -> Slicing:
    """Number slices by value, ascending: by size where all are numbers, else by text."""
    texts = [str(value) for value in values]
    try:
        order = sorted(range(len(texts)), key=lambda index: (float(texts[index]), texts[index]))
    except ValueError:
        order = sorted(range(len(texts)), key=lambda index: texts[index])
    rank = np.empty(len(texts) + 1, code.dtype)
    rank[np.array(order, np.int64)] = np.arange(len(texts))
    rank[-1] = -1  # what code -1 picks
    for start in range(0, len(code), _BLOCK):
        code[start : start + _BLOCK] = rank[code[start : start + _BLOCK]]
    return _with_missing(name, code, [texts[index] for index in order])
