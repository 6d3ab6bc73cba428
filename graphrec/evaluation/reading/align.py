"""Further sources on the rows of the first: verified in the same order, or matched by a key."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from graphrec.evaluation.reading.csv_blocks import Kind
from graphrec.evaluation.reading.errors import Problems
from graphrec.evaluation.reading.keys import RowKeys
from graphrec.evaluation.reading.local_time import TimeColumn
from graphrec.evaluation.reading.options import ReadOptions
from graphrec.evaluation.reading.roles import Roles
from graphrec.evaluation.reading.sources import Table
from graphrec.evaluation.reading.values import read_labels

_ONE_KEY = "each row needs one key, the same in all sources; --key names its columns"


class Alignment:
    """What one further source has in common with the first.

    Args:
        first: the first source.
        table: the further one.
        roles: columns of the first.
        options: see `ReadOptions`.
        problems: where rows that do not fit are added.
        kinds: what is read of ``table``; label, user and time among it are verified.

    """

    def __init__(
        self,
        first: Table,
        table: Table,
        roles: Roles,
        options: ReadOptions,
        problems: Problems,
        kinds: Mapping[str, Kind],
    ) -> None:
        self.first, self.table, self.roles, self.options = first, table, roles, options
        self.problems, self.kinds = problems, kinds
        self.times = TimeColumn(roles.time or "", options.time_unit)

    def verify(
        self,
        frame: pl.DataFrame,
        label: np.ndarray,
        time: np.ndarray | None,
        other: pl.DataFrame,
        offset: int,
    ) -> None:
        """Compare label, user and time of two chunks of the same rows."""
        roles = self.roles
        differs: dict[str, np.ndarray] = {}
        if roles.label in self.kinds:
            differs[roles.label] = label != self._labels(other, offset)
        if roles.user is not None and roles.user in self.kinds:
            own, theirs = frame[roles.user], other[roles.user]
            if own.dtype != theirs.dtype and not (own.dtype.is_numeric() and theirs.dtype.is_numeric()):
                own, theirs = own.cast(pl.String), theirs.cast(pl.String)
            differs[roles.user] = own.ne_missing(theirs).to_numpy()
        if roles.time is not None and roles.time in self.kinds and time is not None:
            theirs_ms = self.times.milliseconds(other[roles.time], self.table, self.problems, offset)
            differs[roles.time] = time != theirs_ms
        for column, rows in reversed(differs.items()):
            if rows.any():
                row = int(np.argmax(rows))
                self.problems.add(
                    self.table,
                    f"differs {column}",
                    offset + row,
                    int(rows.sum()),
                    f"column {column!r} holds {other[column][row]!r} and in {self.first.name} "
                    f"{frame[column][row]!r}",
                    "rows stand in another order or are others; --key names columns that identify a row",
                    follows=column == roles.label,
                )

    def match(
        self, frame: pl.DataFrame, keys: RowKeys, label: np.ndarray, seen: np.ndarray, offset: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the rows of a chunk in the first source by their keys.

        Args:
            frame: the chunk.
            keys: keys of the first source.
            label: its labels.
            seen: which of its rows have been found; rows of this chunk are added.
            offset: rows of the further source before this chunk.

        Returns:
            the row in the first source of each known key, and which rows of the chunk have a known key.

        """
        row = keys.find(frame)
        known = row >= 0
        target = row[known]
        position = np.flatnonzero(known)
        repeated = np.zeros(frame.height, bool)
        repeated[position] = seen[target]
        is_first = np.zeros(len(position), bool)
        is_first[np.unique(target, return_index=True)[1]] = True
        repeated[position[~is_first]] = True
        seen[target] = True
        differs = np.zeros(frame.height, bool)
        if self.roles.label in self.kinds:
            differs[known] = self._labels(frame, offset)[known] != label[target]
        for wrong, text in (
            (~known, f"is not in {self.first.name}"),
            (repeated, "is that of an earlier row"),
            (differs, f"has another label in {self.first.name}"),
        ):
            if wrong.any():
                where = int(np.argmax(wrong))
                self.problems.add(
                    self.table,
                    text,
                    offset + where,
                    int(wrong.sum()),
                    f"the key {keys.in_words(frame, where)} {text}",
                    _ONE_KEY,
                    follows=wrong is differs,
                )
        return target, known

    def check_all_seen(self, keys: RowKeys, seen: np.ndarray) -> None:
        """Add a problem where rows of the first source have no row here."""
        if not seen.all():
            row = int(np.argmin(seen))
            self.problems.add(
                self.first,
                f"not in {self.table.name}",
                row,
                int((~seen).sum()),
                f"the key {keys.of_row(row)} is not in {self.table.name}",
                "score these rows, or drop them in both sources knowingly",
            )

    def note(self) -> str:
        """Say how rows were brought together."""
        if self.options.key:
            return f"{self.table.name}: rows matched by {', '.join(self.options.key)}"
        shared = [
            name
            for name in (self.roles.label, self.roles.user, self.roles.time)
            if name in self.kinds and name
        ]
        if shared:
            return f"{self.table.name}: rows are in the same order, verified by {', '.join(shared)}"
        return (
            f"unverified: {self.table.name} shares no column of labels, users or times with "
            f"{self.first.name}; the order alone matches its rows, --key matches them by columns"
        )

    def _labels(self, frame: pl.DataFrame, offset: int) -> np.ndarray:
        threshold = self.options.positive_threshold
        return read_labels(frame[self.roles.label], threshold, self.table, self.problems, offset)


def score_names(tables: Sequence[Table], columns: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """Name each source's scores by their column, or by the source where two sources share it."""
    every = [name for names in columns for name in names]
    result: list[dict[str, str]] = []
    used: set[str] = set()
    for table, names in zip(tables, columns, strict=True):
        given = {}
        for column in names:
            plain = column
            if every.count(column) > 1:
                plain = table.stem if len(names) == 1 else f"{table.stem}: {column}"
            name, number = plain, 2
            while name in used:
                name, number = f"{plain} ({number})", number + 1
            used.add(name)
            given[column] = name
        result.append(given)
    return result
