"""What an evaluation consists of: figures of slices, and comparisons of two models on the same rows."""

import math
from typing import NamedTuple


class Figure(NamedTuple):
    """One figure of one model: of which slice of the rows, which metric, its value, over how many."""

    model: str
    slice: str
    """``all``, or ``column=value``: ``hour=08`` ([8:00, 9:00) of all days), ``tab=1``."""
    metric: str
    """A name with its choices in brackets: ``auc``, ``gauc[user; impressions]``, ``ndcg@10[request]``."""
    value: float
    """NaN where the figure is undefined: an AUC of one class, a ratio over zero clicks."""
    n: int
    """Rows of the slice, or what the metric's definition counts instead."""
    lower: float = math.nan
    """Lower end of the 95% interval; NaN where none was computed."""
    upper: float = math.nan
    seed: int = 0
    """Random seed of the run behind the predictions."""


class Comparison(NamedTuple):
    """One paired test of a model against a baseline on the same rows."""

    model: str
    baseline: str
    slice: str
    metric: str
    method: str
    """``DeLong, by user`` (clustered), ``DeLong`` (rows independent) or ``bootstrap by user``."""
    model_value: float
    baseline_value: float
    difference: float
    """``model_value - baseline_value``."""
    lower: float
    upper: float
    """95% interval of ``difference``, not corrected."""
    p_value: float
    p_value_corrected: float
    """Holm's correction over ``num_tests`` tests."""
    num_tests: int
    n: int
    """Rows tested."""
    verdict: str = ""
