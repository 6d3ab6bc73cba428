"""One pass over all sources: chunks are checked, compacted and, for further sources, put to their rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from graphrec.evaluation.history import bucket_names
from graphrec.evaluation.predictions import Predictions, Slicing
from graphrec.evaluation.reading.align import Alignment, score_names
from graphrec.evaluation.reading.column_store import ColumnStore, default_limit
from graphrec.evaluation.reading.csv_blocks import Kind
from graphrec.evaluation.reading.errors import PredictionsError, Problems, missing_column
from graphrec.evaluation.reading.identifiers import Identifiers
from graphrec.evaluation.reading.keys import RowKeys
from graphrec.evaluation.reading.local_time import MILLISECONDS_PER_HOUR, TimeColumn, Zone
from graphrec.evaluation.reading.options import ReadOptions, Slicer
from graphrec.evaluation.reading.roles import find_roles, find_scores
from graphrec.evaluation.reading.sources import Table, read_ahead, rechunked
from graphrec.evaluation.reading.values import read_history, read_labels, read_scores
from graphrec.evaluation.reading.whole_columns import fingerprint, slicing_in_order, slicing_with_missing


class ReadAsText(Exception):
    """A column of IDs that looked like integers holds other text further down."""

    def __init__(self, column: str) -> None:
        self.column = column


class Chunk(NamedTuple):
    """What further sources are verified against."""

    frame: pl.DataFrame
    label: np.ndarray
    time: np.ndarray | None


class Reader:
    """Reads the first source, and the further ones beside it or after it, row by key.

    Args:
        tables: the sources.
        options: see `ReadOptions`.
        slicers: further slices.
        progress: called after each chunk.
        chunk_rows: rows read at a time.

    """

    def __init__(
        self,
        tables: Sequence[Table],
        options: ReadOptions,
        slicers: Sequence[Slicer],
        progress: Callable[[int, int | None], None] | None,
        chunk_rows: int,
    ) -> None:
        self.tables, self.options, self.slicers = tables, options, slicers
        self.progress, self.chunk_rows = progress, chunk_rows
        self.zone = Zone(options.time_zone)
        self.problems = Problems()
        first = tables[0]
        for name in options.score:
            if not any(name in table.columns for table in tables):
                raise missing_column(first.name, name, first.columns, "--score")
        by_history = options.history is None and "history" in options.by and "history" in first.columns
        history = "history" if by_history else options.history
        self.roles = find_roles(
            first,
            label=options.label,
            score=[name for name in options.score if name in first.columns],
            user=options.user,
            time=options.time,
            request=options.request,
            item=options.item,
            history=history,
            key=options.key,
            by=options.by,
            known_slices=[*(slicer.name for slicer in slicers), *(["history"] if history else [])],
        )
        self._check_slicers()
        self.notes = [note for table in tables for note in table.notes] + self.roles.notes
        self.scores = [self.roles.scores, *(self._scores_of(table) for table in tables[1:])]
        self.names = score_names(tables, self.scores)
        limit = options.memory_limit_gib
        self.store = ColumnStore(first.num_rows, default_limit() if limit is None else int(limit * 2**30))
        self.ids = {
            role: (column, Identifiers())
            for role, column in (("user", self.roles.user), ("request", self.roles.request))
            if column is not None
        }
        self.by = {name: Identifiers() for name in self.roles.by}
        self.keys = RowKeys(options.key) if options.key else None
        self.times = TimeColumn(self.roles.time or "", options.time_unit)
        self.last_time: int | None = None
        self.is_ascending = True

    def run(self) -> Predictions:
        """Read everything; `PredictionsError` for what is wrong."""
        first, others = self.tables[0], self.tables[1:]
        alignments = [
            Alignment(first, table, self.roles, self.options, self.problems, self._kinds_of_other(number))
            for number, table in enumerate(others, 1)
        ]
        side_by_side = bool(others) and self.keys is None
        num_rows = self._read_side_by_side(alignments) if side_by_side else self._read_first()
        if not num_rows:
            raise PredictionsError(f"{first.name} holds no row; at least one is needed")
        if self.store.num_rows is not None and num_rows != self.store.num_rows:
            raise PredictionsError(
                f"{first.name}: {num_rows} rows were read and {self.store.num_rows} announced; "
                "did it change meanwhile?"
            )
        label = self.store.finish("label")
        matched: dict[str, np.ndarray] = {}
        if self.keys is not None and others:
            # rows that are wrong here would be told again by each source that is matched to them
            self.problems.raise_if_any()
            for number, alignment in enumerate(alignments, 1):
                matched |= self._read_matched(number, alignment, label)
        self.problems.raise_if_any()
        self.notes += [alignment.note() for alignment in alignments]
        return self._predictions(label, matched)

    def _read_first(self) -> int:
        num_rows = 0
        for frame in self._frames(0, self._kinds_of_first()):
            self._take(frame, num_rows)
            num_rows += frame.height
            self._report(num_rows)
        return num_rows

    def _read_side_by_side(self, alignments: Sequence[Alignment]) -> int:
        """Walk all sources together, rows being in the same order; returns their number."""
        self._check_counts([table.num_rows for table in self.tables])
        kinds = [self._kinds_of_first(), *(alignment.kinds for alignment in alignments)]
        walks = [
            rechunked(self._frames(number, columns), self.chunk_rows) for number, columns in enumerate(kinds)
        ]
        total = 0
        while True:
            frames = [next(walk, None) for walk in walks]
            present = [frame for frame in frames if frame is not None]
            if not present:
                return total
            if len(present) < len(frames) or len({frame.height for frame in present}) > 1:
                counts = [total + (frame.height if frame is not None else 0) for frame in frames]
                for number, walk in enumerate(walks):
                    counts[number] += sum(frame.height for frame in walk)
                self._check_counts(counts)
            chunk = self._take(present[0], total)
            for number, (frame, alignment) in enumerate(zip(present[1:], alignments, strict=True), 1):
                alignment.verify(chunk.frame, chunk.label, chunk.time, frame, total)
                for column in self.scores[number]:
                    scores = read_scores(
                        frame[column], self.options.score_kind, self.tables[number], self.problems, total
                    )
                    self.store.append(f"score {self.names[number][column]}", scores)
            total += present[0].height
            self._report(total)

    def _read_matched(self, number: int, alignment: Alignment, label: np.ndarray) -> dict[str, np.ndarray]:
        """Read a further source in any order, and put each score to the row with its key."""
        assert self.keys is not None
        columns: dict[str, np.ndarray] = {}
        seen = np.zeros(len(label), bool)
        offset = 0
        for frame in self._frames(number, alignment.kinds):
            row, known = alignment.match(frame, self.keys, label, seen, offset)
            for column in self.scores[number]:
                scores = read_scores(
                    frame[column], self.options.score_kind, self.tables[number], self.problems, offset
                )
                name = f"score {self.names[number][column]}"
                if name not in columns:
                    columns[name] = self.store.allocate(scores.dtype, len(label))
                columns[name][row] = scores[known]
            offset += frame.height
        alignment.check_all_seen(self.keys, seen)
        return columns

    def _frames(self, number: int, kinds: Mapping[str, Kind]) -> Iterator[pl.DataFrame]:
        types: dict[str, Any] = {}
        for frame in read_ahead(self.tables[number].frames(kinds, self.chunk_rows)):
            for column, kind in kinds.items():
                dtype = frame.schema[column]
                if kind in ("id", "text") and dtype.is_nested():
                    raise PredictionsError(
                        f"{self.tables[number].name}: column {column!r} holds {dtype}; "
                        f"{self._use_of(column)} needs one number or text a row: name another column"
                    )
                if kind == "id" and (types.setdefault(column, dtype) == pl.String) != (dtype == pl.String):
                    raise ReadAsText(column)
            yield frame

    def _kinds_of_first(self) -> dict[str, Kind]:
        roles = self.roles
        kinds: dict[str, Kind] = {roles.label: "number"}
        kinds |= dict.fromkeys(roles.scores, "number")
        kinds |= {roles.history: "number"} if roles.history is not None else {}
        kinds |= {roles.time: "time"} if roles.time is not None else {}
        ids = (roles.user, roles.request, roles.item if self.slicers else None, *roles.key)
        kinds |= {name: "id" for name in ids if name is not None}
        return kinds | dict.fromkeys(roles.by, "text")

    def _kinds_of_other(self, number: int) -> dict[str, Kind]:
        """Return what to read of a further source: its scores, and what can verify its rows."""
        roles, columns = self.roles, self.tables[number].columns
        kinds: dict[str, Kind] = dict.fromkeys(self.scores[number], "number")
        kinds |= {roles.label: "number"} if roles.label in columns else {}
        if self.keys is None and roles.time is not None and roles.time in columns:
            kinds[roles.time] = "time"
        ids = (roles.user if self.keys is None else None, *roles.key)
        return kinds | {name: "id" for name in ids if name is not None and name in columns}

    def _take(self, frame: pl.DataFrame, offset: int) -> Chunk:
        """Check a chunk of the first source and keep its compact columns."""
        roles, table, problems, options = self.roles, self.tables[0], self.problems, self.options
        label = read_labels(frame[roles.label], options.positive_threshold, table, problems, offset)
        self.store.append("label", label)
        for column in roles.scores:
            scores = read_scores(frame[column], options.score_kind, table, problems, offset)
            self.store.append(f"score {self.names[0][column]}", scores)
        for role, (column, identifiers) in self.ids.items():
            codes = identifiers.codes(frame[column])
            problems.add_where(
                table,
                column,
                codes < 0,
                frame[column],
                offset,
                text=f"a {role} is missing",
                remedy="drop these rows knowingly, or give them an ID of their own",
            )
            self.store.append(role, codes)
        time = None if roles.time is None else self._take_time(frame[roles.time], offset)
        if roles.history is not None:
            self.store.append("by history", read_history(frame[roles.history], table, problems, offset))
        for column, identifiers in self.by.items():
            self._take_slices(frame[column], column, identifiers)
        for slicer in self.slicers:
            self._take_slicer(slicer, frame, time)
        if self.keys is not None:
            self._take_keys(self.keys, frame, offset)
        return Chunk(frame, label, time)

    def _take_time(self, values: pl.Series, offset: int) -> np.ndarray:
        time = self.times.milliseconds(values, self.tables[0], self.problems, offset)
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
        most = self.options.max_values
        if len(identifiers) > most:
            raise PredictionsError(
                f"{self.tables[0].name}: the slicing column {column!r} has more than {most} values; cut it "
                "into fewer (buckets, or the most frequent values and the rest), or raise --max-values"
            )
        self.store.append(f"by {column}", codes.astype(np.int16) if most < 2**15 - 1 else codes)

    def _take_slicer(self, slicer: Slicer, frame: pl.DataFrame, time: np.ndarray | None) -> None:
        assert self.roles.user is not None
        raw = {"user": frame[self.roles.user], "time_ms": pl.Series(time, dtype=pl.Int64)}
        if self.roles.item is not None:
            raw["item"] = frame[self.roles.item]
        codes = np.asarray(slicer.slice(pl.DataFrame(raw)))
        if codes.shape != (frame.height,) or not 0 <= codes.min() <= codes.max() < len(slicer.values):
            raise PredictionsError(
                f"the slicer {slicer.name!r} must give each row an index below {len(slicer.values)}"
            )
        self.store.append(f"slicer {slicer.name}", codes)

    def _take_keys(self, keys: RowKeys, frame: pl.DataFrame, offset: int) -> None:
        repeats = keys.add(frame)
        missing = np.zeros(frame.height, bool)
        for column in keys.columns:
            missing |= frame[column].is_null().to_numpy()
        for wrong, text, remedy in (
            (missing, "has no value", "a key needs a value in each of its columns"),
            (
                repeats & ~missing,
                "is that of an earlier row",
                "--key needs columns that together tell all rows apart",
            ),
        ):
            if wrong.any():
                row = int(np.argmax(wrong))
                text = f"the key {keys.in_words(frame, row)} {text}"
                self.problems.add(self.tables[0], remedy, offset + row, int(wrong.sum()), text, remedy)

    def _scores_of(self, table: Table) -> tuple[str, ...]:
        wanted = [name for name in self.options.score if name in table.columns]
        roles = {"label": self.roles.label, "user": self.roles.user, "time": self.roles.time}
        taken = {name: f"--{role}" for role, name in roles.items() if name is not None}
        scores, notes = find_scores(table, wanted, taken)
        self.notes += notes
        for column in self.options.key:
            if column not in table.columns:
                raise missing_column(table.name, column, table.columns, "--key")
        return scores

    def _use_of(self, column: str) -> str:
        """Return the option that a column of identifiers or slices is read for."""
        roles = {"--user": self.roles.user, "--request": self.roles.request, "--item": self.roles.item}
        of_one = next((option for option, name in roles.items() if name == column), None)
        return of_one or ("--key" if column in self.roles.key else "--by")

    def _check_slicers(self) -> None:
        for role, column in (("user", self.roles.user), ("time", self.roles.time)):
            if self.slicers and column is None:
                raise PredictionsError(
                    f"{self.tables[0].name}: slices by history need a column of {role}s; --{role} names it"
                )

    def _check_counts(self, counts: Sequence[int | None]) -> None:
        for table, count in zip(self.tables, counts, strict=True):
            if count is not None and counts[0] is not None and count != counts[0]:
                raise PredictionsError(
                    f"{self.tables[0].name} has {counts[0]:,} rows and {table.name} {count:,}; both must "
                    "hold the same rows: score the missing ones, or drop them in both knowingly"
                )

    def _report(self, num_rows: int) -> None:
        if self.progress is not None:
            self.progress(num_rows, self.tables[0].num_rows)

    def _predictions(self, label: np.ndarray, matched: Mapping[str, np.ndarray]) -> Predictions:
        store = self.store
        score: dict[str, np.ndarray] = {}
        for names in self.names:
            for name in names.values():
                stored = f"score {name}"
                score[name] = matched[stored] if stored in matched else store.finish(stored)
        ids = {role: store.finish(role) for role in self.ids}
        hour = store.finish("hour") if self.roles.time is not None else None
        period = hour if hour is None or self.options.period_seconds == 3600 else store.finish("period")
        slicings = self._slicings()
        columns = {"label": label} | {f"score {name}": values for name, values in score.items()} | ids
        columns |= {f"slice {one.name} {one.values}": one.code for one in slicings}
        if hour is not None and period is not None:
            columns |= {"hour": hour, "period": period}
        self._note_the_rest(label)
        return Predictions(
            label=label,
            score=score,
            user=ids.get("user"),
            request=ids.get("request"),
            hour=hour,
            period=period,
            slicings=tuple(slicings),
            is_probability=self.options.score_kind != "ranking",
            sources=tuple(table.name for table in self.tables),
            notes=tuple(self.notes),
            fingerprint=fingerprint(columns),
        )

    def _slicings(self) -> list[Slicing]:
        slicings = []
        if self.roles.history is not None:
            slicings.append(slicing_with_missing("history", self.store.finish("by history"), bucket_names()))
        for column, identifiers in self.by.items():
            slicings.append(slicing_in_order(column, self.store.finish(f"by {column}"), identifiers.values()))
        return slicings + [
            Slicing(slicer.name, self.store.finish(f"slicer {slicer.name}"), tuple(slicer.values))
            for slicer in self.slicers
        ]

    def _note_the_rest(self, label: np.ndarray) -> None:
        options, notes = self.options, self.notes
        if self.roles.time is not None:
            notes.append(
                f"time: column {self.roles.time}, {self.times.in_words()}, cut into hours of "
                f"{options.time_zone}; --time-zone changes it"
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
            which = "the only label is" if len(label) == 1 else f"all {len(label):,} labels are"
            notes.append(f"{which} {int(clicks > 0)}: AUC and all else that needs both classes is undefined")
        if self.store.num_in_files:
            notes.append(
                f"{self.store.num_in_files} columns lie in temporary files, beyond the memory limit "
                "(--memory-limit-gib)"
            )
