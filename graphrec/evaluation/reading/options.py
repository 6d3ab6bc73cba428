"""How predictions are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import polars as pl

from graphrec.evaluation.reading.errors import PredictionsError
from graphrec.evaluation.reading.local_time import TimeUnit
from graphrec.evaluation.reading.values import ScoreKind


@dataclass(frozen=True)
class ReadOptions:
    """What the columns are and how they are read; what is not given is guessed, and the guess noted.

    ``score``, ``key`` and ``by`` take one name or several, and hold a tuple.

    Attributes:
        label: column of clicks, 0 or 1 (booleans too).
        score: one or several columns of scores.
        user: column of user IDs of any type; the empty string means that there is none.
        time: column of times: numbers since 1970, date-times, dates or ISO 8601 text; empty for none.
        request: column of the request (page view, search) that shows several rows; empty for none.
        item: column of items, for slices by the history of items.
        history: column of the number of past events of a row's user, cut into buckets as slices.
        key: columns that together identify a row, to match the rows of several sources; without it rows
            must stand in the same order, which is verified.
        by: columns that cut the rows into slices; the words hour, day and period mean the time's.
        time_unit: of numbers; ``auto`` goes by their size.
        time_zone: whose hours and days rows are cut into: an IANA name, or a shift such as +08:00.
        period_seconds: length of a period; periods count from 1970-01-01 00:00 in local time.
        score_kind: ``probability`` in [0, 1]; ``logit``, passed through the logistic function; ``ranking``,
            any finite number, without figures that need probabilities.
        positive_threshold: makes a click of every label above it.
        max_values: most values of a slicing column.
        memory_limit_gib: GiB of columns to hold in memory, the rest in temporary files; three quarters of
            the memory by default.

    """

    label: str | None = None
    score: Sequence[str] = ()
    user: str | None = None
    time: str | None = None
    request: str | None = None
    item: str | None = None
    history: str | None = None
    key: Sequence[str] = ()
    by: Sequence[str] = ()
    time_unit: TimeUnit = "auto"
    time_zone: str = "UTC"
    period_seconds: int = 3600
    score_kind: ScoreKind = "probability"
    positive_threshold: float | None = None
    max_values: int = 1000
    memory_limit_gib: float | None = None

    def __post_init__(self) -> None:
        # one string is one name, not its letters
        for name in ("score", "key", "by"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))


@runtime_checkable
class Slicer(Protocol):
    """Cuts rows by something that is not in the source, such as a behaviour graph."""

    name: str
    values: tuple[str, ...]

    def slice(self, frame: pl.DataFrame) -> np.ndarray:
        """Return each row's index into ``values``; see `read_predictions` for the frame's columns."""


def check_options(options: ReadOptions, chunk_rows: int) -> None:
    """Raise `PredictionsError` for a value that no option takes."""
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
        ("--period-seconds", options.period_seconds),
        ("--max-values", options.max_values),
        ("chunk_rows", chunk_rows),
    ):
        if number < 1:
            raise PredictionsError(f"{name} must be at least 1, got {number}")
    if options.memory_limit_gib is not None and not options.memory_limit_gib >= 0:
        raise PredictionsError(f"--memory-limit-gib must be 0 or more, got {options.memory_limit_gib}")
