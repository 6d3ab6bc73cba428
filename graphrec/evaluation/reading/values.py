"""Checks and compact forms of labels, scores and history lengths, chunk by chunk."""

from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Float, Float64, Int16, UInt8

from graphrec.evaluation.history import bucket_of
from graphrec.evaluation.reading.errors import Locates, Problems

ScoreKind = Literal["probability", "logit", "ranking"]


def read_labels(
    values: pl.Series, threshold: float | None, source: Locates, problems: Problems, offset: int
) -> UInt8[np.ndarray, " num_rows"]:
    """Return 0 or 1 a row, with ``threshold`` whether the value exceeds it; wrong rows become 0."""
    name = values.name
    numbers, unread = _numbers(values, "label", source, problems, offset)
    missing = np.isnan(numbers) & ~unread
    problems.add_where(
        source,
        name,
        missing,
        values,
        offset,
        text="a label is missing",
        remedy="drop these rows knowingly or fill them",
    )
    if threshold is not None:
        return (numbers > threshold).astype(np.uint8)
    label = numbers == 1
    wrong = ~label & (numbers != 0) & ~missing & ~unread
    problems.add_where(
        source, name, wrong, values, offset,
        text="labels must be 0 or 1",
        remedy="for ratings, --positive-threshold T makes a click of what exceeds T",
    )  # fmt: skip
    return label.astype(np.uint8)


def read_scores(
    values: pl.Series, kind: ScoreKind, source: Locates, problems: Problems, offset: int
) -> Float[np.ndarray, " num_rows"]:
    """Return finite scores, float32 where they are so (or shorter), else float64; wrong rows become 0.

    Logits go through the logistic function.
    """
    name = values.name
    numbers, unread = _numbers(values, "score", source, problems, offset)
    finite = np.isfinite(numbers)
    if not finite.all():
        mend = "mend the model, or drop these rows knowingly"
        for wrong, text in (
            (np.isnan(numbers) & ~unread, "a score is missing or NaN"),
            (np.isinf(numbers), "a score is infinite"),
        ):
            problems.add_where(source, name, wrong, values, offset, text=text, remedy=mend)
        numbers = np.where(finite, numbers, numbers.dtype.type(0))
    if kind == "logit":
        return _logistic(numbers)
    if kind == "probability" and len(numbers) and not (numbers.min() >= 0 and numbers.max() <= 1):
        wrong = (numbers < 0) | (numbers > 1)
        problems.add_where(
            source, name, wrong, values, offset,
            text="scores must be probabilities in [0, 1]",
            remedy="--score-kind logit passes scores through the logistic function, --score-kind ranking "
            "takes any number and leaves figures of probabilities out",
        )  # fmt: skip
        numbers = np.where(wrong, numbers.dtype.type(0), numbers)
    return numbers


def read_history(
    values: pl.Series, source: Locates, problems: Problems, offset: int
) -> Int16[np.ndarray, " num_rows"]:
    """Return the bucket (see `graphrec.evaluation.history`) of each history length, -1 where missing."""
    numbers, unread = _numbers(values, "history length", source, problems, offset)
    missing = np.isnan(numbers)
    wrong = ~missing & ((numbers < 0) | (numbers != np.floor(numbers)) | (numbers > 2**62))
    problems.add_where(
        source, values.name, wrong, values, offset,
        text="history lengths must be whole numbers from 0", remedy="--history names a column of counts",
    )  # fmt: skip
    count = np.where(missing | wrong, 0, numbers).astype(np.int64)
    return np.where(missing | unread, np.int16(-1), bucket_of(count))


def _numbers(
    values: pl.Series, role: str, source: Locates, problems: Problems, offset: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return floats, NaN where there is none, and which rows hold something that is no number."""
    dtype = values.dtype
    unread = np.zeros(len(values), bool)
    if dtype == pl.Float32:
        return values.fill_null(float("nan")).to_numpy(), unread
    if dtype.is_float() and dtype != pl.Float64:
        return values.cast(pl.Float32).fill_null(float("nan")).to_numpy(), unread
    if dtype.is_numeric() or dtype in (pl.Boolean, pl.Null):
        return values.cast(pl.Float64).fill_null(float("nan")).to_numpy(), unread
    if isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
        text = values.cast(pl.String).str.strip_chars()
        if role == "label":
            text = text.replace(
                {"true": "1", "True": "1", "TRUE": "1", "false": "0", "False": "0", "FALSE": "0"}
            )
        numbers = text.cast(pl.Float64, strict=False)
        unread = (numbers.is_null() & text.is_not_null()).to_numpy()
        result: Float64[np.ndarray, " num_rows"] = numbers.fill_null(float("nan")).to_numpy()
    else:
        unread = values.is_not_null().to_numpy()
        result = np.full(len(values), np.nan)
    problems.add_where(
        source, values.name, unread, values, offset,
        text=f"a {role} must be a number", remedy=f"--{role.split()[0]} names another column",
    )  # fmt: skip
    return result, unread


def _logistic(logit: Float[np.ndarray, " num_rows"]) -> Float[np.ndarray, " num_rows"]:
    """1 / (1 + exp(-x)) without overflow, in the width of ``logit``."""
    small = np.exp(-np.abs(logit))
    return np.where(logit >= 0, 1 / (1 + small), small / (1 + small)).astype(logit.dtype, copy=False)
