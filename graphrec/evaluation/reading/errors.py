"""What is wrong with a source of predictions: collected while it is read, told at once at the end."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Protocol, runtime_checkable

import numpy as np


class PredictionsError(ValueError):
    """Predictions that cannot be evaluated as they are; the message says where, how often and what to do."""


@runtime_checkable
@runtime_checkable
class Locates(Protocol):
    """A source that can say where one of its rows stands."""

    def locate(self, row: int) -> str:
        """Return the file, the 1-based row in it and, for text files, the line."""


@dataclass
class _Problem:
    source: Locates
    row: int
    text: str
    remedy: str
    count: int
    follows: bool


class Problems:
    """Rows that are wrong: the first of each kind, and how many there are in all."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, str, str], _Problem] = {}

    def add(
        self,
        source: Locates,
        what: str,
        row: int,
        count: int,
        text: str,
        remedy: str,
        *,
        follows: bool = False,
    ) -> None:
        """Count ``count`` rows of the kind ``what``; only the first call's row, text and remedy are kept.

        What ``follows`` from other mistakes, as wrong labels do from wrong keys, is told after those.
        """
        key = (id(source), what, remedy)
        if key in self._found:
            self._found[key].count += count
        else:
            self._found[key] = _Problem(source, row, text, remedy, count, follows)

    def add_where(
        self,
        source: Locates,
        column: str,
        wrong: np.ndarray,
        values: Any,
        offset: int,
        *,
        text: str,
        remedy: str,
    ) -> None:
        """Count the rows where ``wrong`` holds and show the first one's value; rows start at ``offset``."""
        rows = np.flatnonzero(wrong)
        if len(rows):
            value = values[int(rows[0])]
            shown = "nothing" if value is None else repr(value.item() if hasattr(value, "item") else value)
            self.add(
                source,
                f"{column}: {text}",
                offset + int(rows[0]),
                len(rows),
                f"column {column!r}: {text}, got {shown}",
                remedy,
            )

    def raise_if_any(self) -> None:
        """Raise `PredictionsError` about the earliest row that is no consequence, and the other kinds."""
        if not self._found:
            return
        first, *others = sorted(self._found.values(), key=lambda problem: (problem.follows, problem.row))
        message = (
            f"{first.source.locate(first.row)}, {first.text} ({rows_in_words(first.count)}); {first.remedy}"
        )
        for other in others[:3]:
            message += f"\nalso {other.source.locate(other.row)}, {other.text} ({rows_in_words(other.count)})"
        if len(others) > 3:
            message += f"\nand {len(others) - 3} more kinds of mistakes"
        raise PredictionsError(message)


def rows_in_words(count: int) -> str:
    """Say how many rows share a mistake."""
    return "1 such row" if count == 1 else f"{count:,} such rows"


def missing_column(source: str, name: str, columns: Sequence[str], option: str) -> PredictionsError:
    """Return the error for a column that is not there: lists what is, and the nearest name."""
    by_lower_case = {column.lower(): column for column in columns}
    near = get_close_matches(name.lower(), list(by_lower_case), n=1, cutoff=0.6)
    hint = f"; did you mean {by_lower_case[near[0]]!r}?" if near else ""
    remedy = hint or f"; {option} names one of them"
    return PredictionsError(f"{source} has no column {name!r} ({option}); it has {listed(columns)}{remedy}")


def listed(names: Sequence[str], most: int = 30) -> str:
    """Join names for a message; long lists are cut."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
