"""Is one model better than another on the same rows: DeLong, a bootstrap over users, Holm's correction."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike

from graphrec.evaluation.ctr import (
    GroupWeight,
    assign_bins,
    bin_edges,
    check_column,
    check_label_and_score,
    check_probability,
    grouped_auc,
    row_log_loss,
    weight_of_groups,
)

BootstrapMetric = Literal[
    "auc", "gauc", "log_loss", "brier_score", "calibration_ratio", "expected_calibration_error"
]

_WeightedMetric = Callable[
    [Int64[np.ndarray, "num_resamples num_clusters"]], Float64[np.ndarray, " num_resamples"]
]
_ELEMENTS_AT_ONCE = 4_000_000  # of a (resamples, rows) array of float64: about 32 MB


class DeLongTest(NamedTuple):
    """Two correlated AUCs and the test that they are equal."""

    auc_a: float
    auc_b: float
    difference: float
    """``auc_a - auc_b``."""
    variance: float
    """Estimated variance of ``difference``."""
    z: float
    p_value: float
    """Two-sided, normal. 1 where the scores order the rows alike, NaN where the variance degenerates to 0."""
    lower: float
    upper: float
    """95% interval of ``difference``."""


@dataclass(frozen=True)
class BootstrapResult:
    """A metric, or the difference of two models in it, under resampling of whole clusters."""

    metric: BootstrapMetric
    value: float
    """On all rows; ``metric(score) - metric(score_b)`` where ``score_b`` was given."""
    resampled: Float64[np.ndarray, " num_resamples"]
    """Resamples in which the metric is undefined (one class only) are NaN, and left out below."""
    confidence: float

    @property
    def standard_error(self) -> float:
        """Standard deviation over the resamples."""
        return float(np.std(self._defined, ddof=1)) if len(self._defined) > 1 else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Percentile interval at ``confidence``."""
        if not len(self._defined):
            return math.nan, math.nan
        tail = (1.0 - self.confidence) / 2.0
        lower, upper = np.quantile(self._defined, [tail, 1.0 - tail])
        return float(lower), float(upper)

    @property
    def p_value(self) -> float:
        """Two-sided p-value that ``value`` is 0, by a normal distribution with the resamples' deviation.

        Unlike a count of resamples beyond 0 it has no floor at 2 / (resamples + 1), which a correction for
        several tests would multiply.
        """
        if len(self._defined) < 2:
            return math.nan
        deviation = float(self._defined.std(ddof=1))
        if deviation == 0.0:
            return 1.0 if self.value == 0.0 else 0.0
        return math.erfc(abs(self.value) / deviation / math.sqrt(2.0))

    @property
    def _defined(self) -> np.ndarray:
        return self.resampled[~np.isnan(self.resampled)]


def delong(label: ArrayLike, score_a: ArrayLike, score_b: ArrayLike) -> DeLongTest:
    """Test two models' AUCs on the same rows (DeLong et al., Biometrics 1988).

    Midranks give the structural components in O(n log n) (Sun and Xu, IEEE SPL 2014, algorithm 2); ties
    count half. Rows are taken as independent: where a user has many rows, `clustered_bootstrap` over users
    is the safer test. Needs two rows of each class, else ``ValueError``.
    """
    label_array, first = check_label_and_score(label, score_a)
    _, second = check_label_and_score(label, score_b)
    is_click = label_array == 1
    num_clicks = int(is_click.sum())
    if min(num_clicks, len(label_array) - num_clicks) < 2:
        raise ValueError(
            f"DeLong's variance needs two rows of each class, got {num_clicks} clicks among "
            f"{len(label_array)} rows; test a larger slice"
        )
    components_a, components_b = (
        _structural_components(is_click, first),
        _structural_components(is_click, second),
    )
    auc_a, auc_b = float(components_a[0].mean()), float(components_b[0].mean())
    click_part = np.var(components_a[0] - components_b[0], ddof=1) / num_clicks
    other_part = np.var(components_a[1] - components_b[1], ddof=1) / (len(label_array) - num_clicks)
    variance = float(click_part + other_part)
    difference = auc_a - auc_b
    if variance > 0.0:
        z = difference / math.sqrt(variance)
        p_value = math.erfc(abs(z) / math.sqrt(2.0))
    else:
        z, p_value = (0.0, 1.0) if difference == 0.0 else (float("nan"), float("nan"))
    half_width = 1.959963984540054 * math.sqrt(variance)  # 0.975 quantile of the normal distribution
    return DeLongTest(
        auc_a, auc_b, difference, variance, z, p_value, difference - half_width, difference + half_width
    )


def clustered_bootstrap(
    label: ArrayLike,
    score: ArrayLike,
    cluster: ArrayLike,
    *,
    metric: BootstrapMetric,
    score_b: ArrayLike | None = None,
    group: ArrayLike | None = None,
    weight: GroupWeight = "impressions",
    num_resamples: int = 2000,
    random_seed: int = 0,
    confidence: float = 0.95,
) -> BootstrapResult:
    """Resample clusters (users) with replacement, each with all its rows (Field and Welsh, 2007).

    Both models see the same resamples, so that the difference is paired. A user drawn twice counts twice:
    its rows weigh 2, and its groups are two groups. ``group`` and ``weight`` are those of `gauc`; a group
    must lie inside one cluster. The bins of the calibration error stay those of all rows. Raises
    ``ValueError`` for what the metric refuses, for fewer than two clusters and for a group that spans two.
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    if num_resamples < 2:
        raise ValueError(f"num_resamples must be at least 2, got {num_resamples}")
    label_array, _ = check_label_and_score(label, score)
    _, code = np.unique(check_column(cluster, "cluster", len(label_array)), return_inverse=True)
    num_clusters = int(code.max()) + 1
    if num_clusters < 2:
        raise ValueError("a bootstrap needs at least two clusters, got one; is cluster the user column?")
    code = code.astype(np.int64)
    metrics = [_weighted_metric(label_array, score, code, num_clusters, metric, group, weight)]
    if score_b is not None:
        metrics.append(_weighted_metric(label_array, score_b, code, num_clusters, metric, group, weight))

    everything = np.ones((1, num_clusters), np.int64)
    value = metrics[0](everything) - (metrics[1](everything) if score_b is not None else 0.0)
    generator = np.random.default_rng(random_seed)
    chunk = max(1, _ELEMENTS_AT_ONCE // len(label_array))
    resampled = []
    for start in range(0, num_resamples, chunk):
        times_drawn = _draw_clusters(generator, min(chunk, num_resamples - start), num_clusters)
        drawn = metrics[0](times_drawn)
        resampled.append(drawn - metrics[1](times_drawn) if score_b is not None else drawn)
    return BootstrapResult(metric, float(value[0]), np.concatenate(resampled), confidence)


def holm(p_values: ArrayLike) -> Float64[np.ndarray, " num_tests"]:
    """P-values after Holm's step-down correction (Holm, 1979): compare each with the level as it is.

    NaN (a test that could not be made) stays NaN, and still counts as a test for the others.
    """
    raw = np.asarray(p_values, dtype=np.float64)
    if raw.ndim != 1:
        raise ValueError(f"p_values must have one axis, got the shape {raw.shape}")
    if ((raw < 0.0) | (raw > 1.0)).any():
        raise ValueError(f"p-values must lie in [0, 1], got {raw.tolist()}")
    order = np.argsort(raw)  # NaN last
    stepped = np.minimum(1.0, np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1)))
    adjusted = np.empty_like(raw)
    adjusted[order] = stepped
    return adjusted


def _structural_components(
    is_click: np.ndarray, score: Float64[np.ndarray, " num_rows"]
) -> tuple[Float64[np.ndarray, " num_clicks"], Float64[np.ndarray, " num_others"]]:
    """For each click the share of others that it beats, for each other the share of clicks that beat it."""
    click_score, other_score = score[is_click], score[~is_click]
    rank = _midranks(score)
    beaten = (rank[is_click] - _midranks(click_score)) / len(other_score)
    beaten_by = 1.0 - (rank[~is_click] - _midranks(other_score)) / len(click_score)
    return beaten, beaten_by


def _midranks(score: Float64[np.ndarray, " num_rows"]) -> Float64[np.ndarray, " num_rows"]:
    """Ranks from 1; tied scores share the mean of their ranks."""
    _, code, count = np.unique(score, return_inverse=True, return_counts=True)
    last_rank = np.cumsum(count)
    return (last_rank - 0.5 * (count - 1))[code]


def _draw_clusters(
    generator: np.random.Generator, num_resamples: int, num_clusters: int
) -> Int64[np.ndarray, "num_resamples num_clusters"]:
    """How often each cluster is drawn in each resample: a multinomial, by counting uniform draws."""
    drawn = generator.integers(num_clusters, size=(num_resamples, num_clusters))
    drawn += np.arange(num_resamples)[:, None] * num_clusters
    counts = np.bincount(drawn.ravel(), minlength=num_resamples * num_clusters)
    return counts.reshape(num_resamples, num_clusters)


def _weighted_metric(
    label: Int64[np.ndarray, " num_rows"],
    score: ArrayLike,
    code: Int64[np.ndarray, " num_rows"],
    num_clusters: int,
    metric: BootstrapMetric,
    group: ArrayLike | None,
    weight: GroupWeight,
) -> _WeightedMetric:
    """Return a function from clusters' draw counts to the metric, with all sorting done beforehand."""
    if metric == "auc":
        return _weighted_auc(*check_label_and_score(label, score), code)
    if metric == "gauc":
        if group is None:
            raise ValueError("metric gauc needs group, got None; pass the user column for GAUC by user")
        return _weighted_gauc(label, score, code, num_clusters, group, weight)
    _, probability = check_probability(label, score)
    if metric == "log_loss":
        loss = row_log_loss(label, probability, epsilon=float(np.finfo(np.float64).eps))
        return _weighted_ratio(loss, np.ones(len(label)), code, num_clusters)
    if metric == "brier_score":
        return _weighted_ratio((probability - label) ** 2, np.ones(len(label)), code, num_clusters)
    if metric == "calibration_ratio":
        return _weighted_ratio(probability, label.astype(np.float64), code, num_clusters)
    if metric == "expected_calibration_error":
        return _weighted_calibration_error(label, probability, code)
    raise ValueError(f"metric must be one of {', '.join(get_args(BootstrapMetric))}, got {metric!r}")


def _weighted_auc(
    label: Int64[np.ndarray, " num_rows"],
    score: Float64[np.ndarray, " num_rows"],
    code: Int64[np.ndarray, " num_rows"],
) -> _WeightedMetric:
    order = np.argsort(score)
    positive, code_sorted, score_sorted = label[order], code[order], score[order]
    tie_start = np.flatnonzero(np.concatenate([[True], score_sorted[1:] != score_sorted[:-1]]))

    def metric(times_drawn: np.ndarray) -> Float64[np.ndarray, " num_resamples"]:
        row_weight = times_drawn[:, code_sorted].astype(np.float64)
        clicks = np.add.reduceat(row_weight * positive, tie_start, axis=1)
        others = np.add.reduceat(row_weight, tie_start, axis=1) - clicks
        others_below = np.cumsum(others, axis=1) - others
        won = (clicks * (others_below + 0.5 * others)).sum(axis=1)
        return _divide(won, clicks.sum(axis=1) * others.sum(axis=1))

    return metric


def _weighted_gauc(
    label: Int64[np.ndarray, " num_rows"],
    score: ArrayLike,
    code: Int64[np.ndarray, " num_rows"],
    num_clusters: int,
    group: ArrayLike,
    weight: GroupWeight,
) -> _WeightedMetric:
    groups = grouped_auc(label, score, group)
    _, first_row, group_code = np.unique(np.asarray(group), return_index=True, return_inverse=True)
    cluster_of_group = code[first_row]
    spanning = np.flatnonzero(cluster_of_group[group_code] != code)
    if len(spanning):
        raise ValueError(
            f"each group must lie inside one cluster, but the group of row {spanning[0]} spans two; "
            "group by (user, ...) with group_codes, or resample by group"
        )
    kept = ~np.isnan(groups.auc)
    group_weight = np.where(kept, weight_of_groups(groups, weight), 0.0)
    numerator = group_weight * np.where(kept, groups.auc, 0.0)
    return _weighted_ratio(numerator, group_weight, cluster_of_group, num_clusters)


def _weighted_ratio(
    numerator: Float64[np.ndarray, " num_entries"],
    denominator: Float64[np.ndarray, " num_entries"],
    code: Int64[np.ndarray, " num_entries"],
    num_clusters: int,
) -> _WeightedMetric:
    """Return a function for a ratio of sums over entries, each of which belongs to a cluster."""
    numerator_of_cluster = np.bincount(code, weights=numerator, minlength=num_clusters)
    denominator_of_cluster = np.bincount(code, weights=denominator, minlength=num_clusters)

    def metric(times_drawn: np.ndarray) -> Float64[np.ndarray, " num_resamples"]:
        return _divide(times_drawn @ numerator_of_cluster, times_drawn @ denominator_of_cluster)

    return metric


def _weighted_calibration_error(
    label: Int64[np.ndarray, " num_rows"],
    probability: Float64[np.ndarray, " num_rows"],
    code: Int64[np.ndarray, " num_rows"],
) -> _WeightedMetric:
    position = assign_bins(probability, bin_edges(probability, 20, "quantile"))
    order = np.argsort(position, kind="stable")
    code_sorted, excess = code[order], (probability - label)[order]
    start = np.flatnonzero(np.diff(position[order], prepend=-1))

    def metric(times_drawn: np.ndarray) -> Float64[np.ndarray, " num_resamples"]:
        row_weight = times_drawn[:, code_sorted].astype(np.float64)
        error = np.abs(np.add.reduceat(row_weight * excess, start, axis=1)).sum(axis=1)
        return _divide(error, row_weight.sum(axis=1))

    return metric


def _divide(
    numerator: Float64[np.ndarray, " num_resamples"], denominator: Float64[np.ndarray, " num_resamples"]
) -> Float64[np.ndarray, " num_resamples"]:
    """NaN where the denominator is 0."""
    return np.divide(
        numerator, denominator, out=np.full(len(numerator), np.nan), where=np.asarray(denominator) > 0
    )
