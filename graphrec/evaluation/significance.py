"""Is one model better than another on the same rows: DeLong, a bootstrap over users, Holm's correction.

Rows of one user resemble each other, so what is known of a figure depends on the number of users as well as
of rows. Every test here takes the user as ``cluster``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Float64, Int64, Integer, Shaped, UInt8, UInt32
from numpy.typing import ArrayLike

from graphrec.evaluation import compiled_significance as loops
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
from graphrec.evaluation.threads import num_threads, run_tasks

BootstrapMetric = Literal[
    "auc",
    "average_precision",
    "gauc",
    "log_loss",
    "normalized_entropy",
    "relative_information_gain",
    "brier_score",
    "calibration_ratio",
    "expected_calibration_error",
]
# from resampled sums of clusters to the metric
_OfSums = Callable[[Float64[np.ndarray, "num_resamples _"]], Float64[np.ndarray, " num_resamples"]]

_COUNT_BYTES = 64_000_000  # of one block's counts, in each thread
_MOST_RESAMPLES_AT_ONCE = 64
_ROWS_OF_A_BUCKET = 32_768  # few enough to be sorted within the processor's cache
_MOST_BUCKET_BITS = 8  # more buckets cost more to deal rows to than they save in sorting; a byte holds these
_CLUSTERS_AT_ONCE = 1_000_000


class DeLongCovariance(NamedTuple):
    """AUCs of several scores on the same rows, and how they vary together from sample to sample."""

    auc: Float64[np.ndarray, " num_scores"]
    """NaN where only one class is present."""
    covariance: Float64[np.ndarray, "num_scores num_scores"]
    """NaN where there is too little to estimate it from, see `delong_covariance`."""
    num_clusters: int
    """Clusters that have rows; the rows where they are taken as independent."""


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
        return _deviation_of(self.resampled)

    @property
    def interval(self) -> tuple[float, float]:
        """`interval_of` the resamples at ``confidence``."""
        return interval_of(self.resampled, self.confidence)

    @property
    def p_value(self) -> float:
        """`p_value_of` ``value``."""
        return p_value_of(self.value, self.resampled)


def delong_covariance(
    label: UInt8[np.ndarray, " num_rows"],
    scores: list[Float[np.ndarray, " num_rows"]] | tuple[Float[np.ndarray, " num_rows"], ...],
    cluster: Integer[np.ndarray, " num_rows"] | None = None,
) -> DeLongCovariance:
    """AUCs of scores on the same rows and their covariance; ties count half.

    With ``cluster`` (codes from 0, the users) this is Obuchowski's estimate for clustered data (Biometrics
    53, 1997): with V(c), W(c) the sums of the clicks' and the other rows' structural components in cluster c
    less the AUC for each, and I10, I01, I the clusters that have clicks, others and rows,

        I10/(I10 - 1) sum V V' / M^2 + I01/(I01 - 1) sum W W' / N^2 + I/(I - 1) sum (V W' + W V') / (M N)

    for M clicks and N others. Without it each row is its own cluster: the last sum is 0, I10 = M and I01 = N,
    which is DeLong's estimate (Biometrics 44, 1988). Components come from one walk over the rows in order of
    score, as midranks give them (Sun and Xu, IEEE SPL 2014).

    ``label`` and ``scores`` are taken as checked: 0 or 1, and finite. Beside its inputs this needs 13 bytes a
    row at most (score of float64), and 8 bytes a row and score more without clusters. The covariance is NaN
    where fewer than two clusters have clicks, or fewer than two have others.
    """
    num_rows = len(label)
    if num_rows >= 2**31:
        raise ValueError(f"at most 2**31 - 1 rows can be ranked, got {num_rows}; evaluate fewer days at once")
    num_clicks = int(np.count_nonzero(label))
    num_others = num_rows - num_clicks
    count = _count_entries(label, cluster) if cluster is not None else None
    total, auc = [], np.full(len(scores), np.nan)
    for position, score in enumerate(scores):
        sorted_score, entry = _sort_rows(label, score, cluster)
        sums = np.zeros(num_rows if count is None else len(count), np.int64)
        twice_won = loops.add_components(sorted_score, entry, num_clicks, sums, int(count is None))
        del sorted_score, entry
        total.append(sums)
        if num_clicks and num_others:
            auc[position] = twice_won / (2 * num_clicks * num_others)

    with_clicks, with_others, with_rows = num_clicks, num_others, num_rows
    if count is not None:
        of_class = count.reshape(-1, 2)
        with_others, with_clicks = np.count_nonzero(of_class, axis=0).tolist()
        with_rows = int(np.count_nonzero(of_class.any(axis=1)))
    if min(with_clicks, with_others) < 2:
        return DeLongCovariance(auc, np.full((len(scores), len(scores)), np.nan), with_rows)

    by_click, by_other, by_both = (np.zeros((len(scores), len(scores))) for _ in range(3))
    stop = num_rows if count is None else len(count) // 2
    for first in range(0, stop, _CLUSTERS_AT_ONCE):
        last = min(first + _CLUSTERS_AT_ONCE, stop)
        if count is None:
            of_rows, is_click = np.stack([one[first:last] for one in total]), label[first:last] == 1
            click_part = of_rows[:, is_click] / (2.0 * num_others) - auc[:, None]
            other_part = of_rows[:, ~is_click] / (2.0 * num_clicks) - auc[:, None]
        else:
            sums = np.stack([one[2 * first : 2 * last] for one in total])
            rows = count[2 * first : 2 * last]
            click_part = sums[:, 1::2] / (2.0 * num_others) - auc[:, None] * rows[1::2]
            other_part = sums[:, 0::2] / (2.0 * num_clicks) - auc[:, None] * rows[0::2]
            by_both += click_part @ other_part.T
        by_click += click_part @ click_part.T
        by_other += other_part @ other_part.T
    covariance = (
        by_click * (with_clicks / (with_clicks - 1) / num_clicks**2)
        + by_other * (with_others / (with_others - 1) / num_others**2)
        + (by_both + by_both.T) * (with_rows / (with_rows - 1) / (num_clicks * num_others))
    )
    return DeLongCovariance(auc, covariance, with_rows)


def delong_test(estimate: DeLongCovariance, a: int = 0, b: int = 1) -> DeLongTest:
    """Test that the AUCs of the scores ``a`` and ``b`` of an estimate are equal; NaN where it is."""
    auc_a, auc_b = float(estimate.auc[a]), float(estimate.auc[b])
    parts = estimate.covariance[a, a] + estimate.covariance[b, b]
    variance = float(parts - 2.0 * estimate.covariance[a, b])
    if variance <= 1e-14 * parts:  # what rounding leaves of two equal scores
        variance = 0.0
    difference = auc_a - auc_b
    if variance > 0.0:
        z = difference / math.sqrt(variance)
        p_value = math.erfc(abs(z) / math.sqrt(2.0))
    else:
        undefined = math.isnan(variance) or difference != 0.0
        z, p_value = (math.nan, math.nan) if undefined else (0.0, 1.0)
    half_width = _normal_quantile(0.95) * math.sqrt(variance)
    return DeLongTest(
        auc_a, auc_b, difference, variance, z, p_value, difference - half_width, difference + half_width
    )


def auc_interval(auc: float, variance: float, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of one AUC from its variance, symmetric in the logit and so within (0, 1).

    By the delta method the logit's deviation is ``sqrt(variance) / (auc (1 - auc))`` (Pepe, The Statistical
    Evaluation of Medical Tests for Classification and Prediction, 2003, chapter 5). NaN where the AUC is 0, 1
    or NaN, and where the variance is 0 or NaN: such a sample says nothing about the width.
    """
    if not (0.0 < auc < 1.0 and variance > 0.0):
        return math.nan, math.nan
    centre = math.log(auc / (1.0 - auc))
    half_width = _normal_quantile(confidence) * math.sqrt(variance) / (auc * (1.0 - auc))
    return _sigmoid(centre - half_width), _sigmoid(centre + half_width)


def delong(
    label: ArrayLike, score_a: ArrayLike, score_b: ArrayLike, cluster: ArrayLike | None = None
) -> DeLongTest:
    """Test two models' AUCs on the same rows (`delong_covariance`).

    ``cluster`` is the user's column, integers or strings. Without it rows are taken as independent, and where
    a user has many rows the p-value is too small. Raises ``ValueError`` without two rows of each class, in
    two clusters each.
    """
    label_array, first = check_label_and_score(label, score_a)
    _, second = check_label_and_score(label, score_b)
    num_clicks = int(label_array.sum())
    if min(num_clicks, len(label_array) - num_clicks) < 2:
        raise ValueError(
            f"DeLong's variance needs two rows of each class, got {num_clicks} clicks among "
            f"{len(label_array)} rows; test a larger slice"
        )
    code = None if cluster is None else _cluster_codes(cluster, len(label_array))
    estimate = delong_covariance(label_array.astype(np.uint8), (first, second), code)
    if np.isnan(estimate.covariance).any():
        raise ValueError(
            "DeLong's variance over clusters needs clicks in two clusters and other rows in two; "
            "is cluster the user column? If so, test a larger slice"
        )
    return delong_test(estimate)


def draw_clusters(
    num_clusters: int, num_resamples: int, random_seed: int, first: int = 0
) -> UInt8[np.ndarray, "num_resamples num_clusters"]:
    """How often each cluster is drawn in the resamples from ``first`` on: as many draws as clusters.

    Resample r of a seed and a number of clusters is always the same, whatever is asked for beside it; this is
    what makes differences of models and of metrics paired.
    """
    counts = np.zeros((num_resamples, num_clusters), np.uint8)
    loops.draw_counts(first, first + num_resamples, _seed(random_seed), counts)
    return counts


def bootstrap_sums(
    sums: Float64[np.ndarray, "num_clusters num_columns"], num_resamples: int, random_seed: int
) -> Float64[np.ndarray, "num_resamples num_columns"]:
    """Add up the clusters of each resample, drawn with replacement (Field and Welsh, JRSS B 2007).

    Any metric that is a function of sums over users is bootstrapped from this. The result depends on the seed
    alone; each thread needs about 64 MB, or a byte a cluster where that is more.
    """
    num_clusters, num_columns = sums.shape
    if num_clusters < 1:
        raise ValueError("a bootstrap needs clusters, got none; is the slice empty?")
    sums = np.ascontiguousarray(sums)
    out = np.zeros((num_resamples, num_columns))
    block = min(_MOST_RESAMPLES_AT_ONCE, max(1, _COUNT_BYTES // num_clusters))

    def work(part: int) -> None:
        of_block = out[part * block : (part + 1) * block]
        counts = draw_clusters(num_clusters, len(of_block), random_seed, part * block)
        loops.add_drawn_sums(counts, sums, of_block)

    _in_threads(work, -(-num_resamples // block))
    return out


def bootstrap_average_precision(
    label: UInt8[np.ndarray, " num_rows"],
    scores: list[Float[np.ndarray, " num_rows"]] | tuple[Float[np.ndarray, " num_rows"], ...],
    cluster: Integer[np.ndarray, " num_rows"],
    num_resamples: int,
    random_seed: int,
    num_clusters: int | None = None,
) -> Float64[np.ndarray, "num_resamples num_scores"]:
    """Average precision of each score in each resample of clusters; NaN in a resample without clicks.

    The resamples are those of `bootstrap_sums` with the same seed and number of clusters (by default the
    greatest code and one). ``label`` and ``scores`` are taken as checked: 0 or 1, and finite.
    """
    return _bootstrap_ranking(label, scores, cluster, num_resamples, random_seed, num_clusters)[1]


def bootstrap_auc(
    label: UInt8[np.ndarray, " num_rows"],
    scores: list[Float[np.ndarray, " num_rows"]] | tuple[Float[np.ndarray, " num_rows"], ...],
    cluster: Integer[np.ndarray, " num_rows"],
    num_resamples: int,
    random_seed: int,
    num_clusters: int | None = None,
) -> Float64[np.ndarray, "num_resamples num_scores"]:
    """AUC of each score in each resample, as `bootstrap_average_precision`; NaN where a class is missing."""
    return _bootstrap_ranking(label, scores, cluster, num_resamples, random_seed, num_clusters)[0]


def interval_of(
    resampled: Float64[np.ndarray, " num_resamples"], confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile interval; undefined resamples (NaN) are left out, and NaN where none is defined."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    defined = resampled[~np.isnan(resampled)]
    if not len(defined):
        return math.nan, math.nan
    tail = (1.0 - confidence) / 2.0
    lower, upper = np.quantile(defined, [tail, 1.0 - tail])
    return float(lower), float(upper)


def p_value_of(value: float, resampled: Float64[np.ndarray, " num_resamples"]) -> float:
    """Two-sided p-value that ``value`` is 0, by a normal distribution with the resamples' deviation.

    Unlike a count of resamples beyond 0 it has no floor at 2 / (resamples + 1), which a correction for
    several tests would multiply. NaN where fewer than two resamples are defined.
    """
    deviation = _deviation_of(resampled)
    if math.isnan(deviation) or math.isnan(value):
        return math.nan
    if deviation == 0.0:
        return 1.0 if value == 0.0 else 0.0
    return math.erfc(abs(value) / deviation / math.sqrt(2.0))


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
    label_array, first = check_label_and_score(label, score)
    code = _cluster_codes(cluster, len(label_array))
    if code.max() == 0:
        raise ValueError("a bootstrap needs at least two clusters, got one; is cluster the user column?")
    scores = [first] if score_b is None else [first, check_label_and_score(label, score_b)[1]]
    if metric in ("auc", "average_precision"):
        label_byte = label_array.astype(np.uint8)
        bootstrap, which = (bootstrap_auc, 0) if metric == "auc" else (bootstrap_average_precision, 1)
        drawn = bootstrap(label_byte, scores, code, num_resamples, random_seed)
        on_all_rows = _ranking_on_all_rows(label_byte, scores, code)[which]
    else:
        tables = [_sums_of_metric(label_array, one, code, metric, group, weight) for one in scores]
        widths = np.cumsum([sums.shape[1] for sums, _ in tables])[:-1]
        together = np.concatenate([sums for sums, _ in tables], axis=1)
        resampled = np.split(bootstrap_sums(together, num_resamples, random_seed), widths, axis=1)
        drawn = np.stack(
            [of_sums(part) for part, (_, of_sums) in zip(resampled, tables, strict=True)], axis=1
        )
        on_all_rows = np.concatenate([of_sums(sums.sum(axis=0)[None]) for sums, of_sums in tables])
    if score_b is not None:
        drawn, on_all_rows = drawn[:, :1] - drawn[:, 1:], on_all_rows[:1] - on_all_rows[1:]
    return BootstrapResult(metric, float(on_all_rows[0]), np.ascontiguousarray(drawn[:, 0]), confidence)


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


def _in_threads(work: Callable[[int], None], num_parts: int) -> None:
    """Call ``work`` on the number of each part."""
    run_tasks([(work, (part,)) for part in range(num_parts)])


def _count_entries(
    label: UInt8[np.ndarray, " num_rows"], cluster: Integer[np.ndarray, " num_rows"]
) -> Int64[np.ndarray, " num_entries"]:
    """Rows of each cluster and class, others before clicks: ``count[2 * cluster + label]``."""
    if len(cluster) and cluster.min() < 0:
        raise ValueError(f"cluster must hold codes from 0, got {cluster.min()}; see group_codes")
    count = np.zeros(2 * (int(cluster.max()) + 1) if len(cluster) else 0, np.int64)
    loops.count_entries(label, cluster, count)
    return count


def _sort_rows(
    label: UInt8[np.ndarray, " num_rows"],
    score: Float[np.ndarray, " num_rows"],
    cluster: Integer[np.ndarray, " num_rows"] | None,
) -> tuple[Float[np.ndarray, " num_rows"], UInt32[np.ndarray, " num_rows"]]:
    """Scores in ascending order, and each row's entry ``2 * cluster + label`` beside it (cluster: the row).

    Rows are dealt to buckets of about equal size by the quantiles of a sample, and each bucket is sorted by
    itself: that stays in the processor's cache, runs in threads and needs no order over all rows.
    """
    start, sorted_score, entry = _deal_rows(label, score, cluster)

    def sort_bucket(part: int) -> None:
        scores, entries = sorted_score[start[part] : start[part + 1]], entry[start[part] : start[part + 1]]
        if len(scores) > 1 and scores.min() < scores.max():
            order = np.argsort(scores)
            scores[:], entries[:] = scores[order], entries[order]

    _in_threads(sort_bucket, len(start) - 1)
    return sorted_score, entry


def _deal_rows(
    label: UInt8[np.ndarray, " num_rows"],
    score: Float[np.ndarray, " num_rows"],
    cluster: Integer[np.ndarray, " num_rows"] | None,
) -> tuple[Int64[np.ndarray, " num_starts"], Float[np.ndarray, " num_rows"], UInt32[np.ndarray, " num_rows"]]:
    """Where each bucket starts (and the last ends), and scores and entries in the order of buckets."""
    num_rows = len(score)
    num_buckets = 1 << min(_MOST_BUCKET_BITS, (num_rows // _ROWS_OF_A_BUCKET).bit_length())
    splitter = _splitters(score, num_buckets)
    num_parts = min(num_threads(), 16) if num_buckets > 1 else 1
    bounds = [num_rows * part // num_parts for part in range(num_parts + 1)]
    bucket = np.empty(num_rows, np.uint8)
    count = np.zeros((num_parts, num_buckets), np.int64)
    _in_threads(
        lambda part: loops.find_buckets(bounds[part], bounds[part + 1], score, splitter, bucket, count[part]),
        num_parts,
    )
    # a bucket's rows of the first part come before those of the second
    place = (np.cumsum(count.T.ravel()) - count.T.ravel()).reshape(num_buckets, num_parts).T.copy()
    start = np.append(place[0], num_rows)
    sorted_score, entry = np.empty(num_rows, score.dtype), np.empty(num_rows, np.uint32)
    codes = np.empty(0, np.int32) if cluster is None else cluster
    _in_threads(
        lambda part: loops.fill_buckets(
            bounds[part], bounds[part + 1], label, score, codes, bucket, place[part], sorted_score, entry
        ),
        num_parts,
    )
    return start, sorted_score, entry


def _splitters(
    score: Float[np.ndarray, " num_rows"], num_buckets: int
) -> Float[np.ndarray, " num_splitters"]:
    """Ascending lower ends of all buckets but the first; a score that many rows share gets its own."""
    infinite = score.dtype.type(np.inf)
    splitter = np.full(num_buckets - 1, infinite, score.dtype)
    if num_buckets > 1:
        generator = np.random.default_rng(0)  # decides the work, never the result
        sample = np.sort(score[generator.integers(len(score), size=32 * num_buckets)])
        quantile, times = np.unique(sample[:: 2 * 32], return_counts=True)
        found = np.unique(np.append(quantile, np.nextafter(quantile[times > 1], infinite)))
        splitter[: len(found)] = found[: len(splitter)]
    return splitter


def _bootstrap_ranking(
    label: UInt8[np.ndarray, " num_rows"],
    scores: list[Float[np.ndarray, " num_rows"]] | tuple[Float[np.ndarray, " num_rows"], ...],
    cluster: Integer[np.ndarray, " num_rows"],
    num_resamples: int,
    random_seed: int,
    num_clusters: int | None,
) -> tuple[Float64[np.ndarray, "num_resamples num_scores"], Float64[np.ndarray, "num_resamples num_scores"]]:
    """AUC and average precision: rows are sorted once a score, then walked once for `LANES` resamples."""
    known = len(_count_entries(label, cluster)) // 2
    num_clusters = known if num_clusters is None else num_clusters
    if num_clusters < max(1, known):
        raise ValueError(f"cluster holds codes up to {known - 1}, got num_clusters={num_clusters}")
    auc = np.empty((len(scores), num_resamples))
    precision = np.empty((len(scores), num_resamples))
    for position, score in enumerate(scores):
        sorted_score, entry = _sort_rows(label, score, cluster)

        def work(part: int, position: int = position, rows: tuple[Any, Any] = (sorted_score, entry)) -> None:
            first = part * loops.LANES
            counts = draw_clusters(num_clusters, loops.LANES, random_seed, first)
            block = slice(first, first + loops.LANES)
            loops.rank_resamples(
                *rows, np.ascontiguousarray(counts.T), auc[position, block], precision[position, block]
            )

        _in_threads(work, -(-num_resamples // loops.LANES))
    return auc.T, precision.T


def _ranking_on_all_rows(
    label: UInt8[np.ndarray, " num_rows"],
    scores: list[Float64[np.ndarray, " num_rows"]],
    cluster: Integer[np.ndarray, " num_rows"],
) -> tuple[Float64[np.ndarray, " num_scores"], Float64[np.ndarray, " num_scores"]]:
    """AUC and average precision of each score, by the walk that its resamples take."""
    once = np.ones((len(_count_entries(label, cluster)) // 2, loops.LANES), np.uint8)
    auc, precision = np.empty((len(scores), 1)), np.empty((len(scores), 1))
    for position, score in enumerate(scores):
        loops.rank_resamples(*_sort_rows(label, score, cluster), once, auc[position], precision[position])
    return auc[:, 0], precision[:, 0]


def _sums_of_metric(
    label: Int64[np.ndarray, " num_rows"],
    score: Float64[np.ndarray, " num_rows"],
    code: Int64[np.ndarray, " num_rows"],
    metric: BootstrapMetric,
    group: ArrayLike | None,
    weight: GroupWeight,
) -> tuple[Float64[np.ndarray, "num_clusters num_columns"], _OfSums]:
    """Return what a metric adds up over clusters, and the metric as a function of it."""
    if metric == "gauc":
        if group is None:
            raise ValueError("metric gauc needs group, got None; pass the user column for GAUC by user")
        return _sums_of_groups(label, score, code, group, weight), _first_over_second
    check_probability(label, score)
    rows = np.ones(len(label))
    if metric in ("log_loss", "normalized_entropy", "relative_information_gain"):
        loss = row_log_loss(label, score, epsilon=float(np.finfo(np.float64).eps))
        if metric == "log_loss":
            return _by_cluster(code, loss, rows), _first_over_second
        entropy = _normalized_entropy if metric == "normalized_entropy" else _relative_information_gain
        return _by_cluster(code, loss, rows, label), entropy
    if metric == "brier_score":
        return _by_cluster(code, (score - label) ** 2, rows), _first_over_second
    if metric == "calibration_ratio":
        return _by_cluster(code, score, label), _first_over_second
    if metric == "expected_calibration_error":
        edges = bin_edges(score, 20, "quantile")
        num_bins, position = len(edges) - 1, assign_bins(score, edges)
        excess = np.bincount(
            code * num_bins + position, weights=score - label, minlength=(int(code.max()) + 1) * num_bins
        ).reshape(-1, num_bins)
        return np.concatenate([excess, _by_cluster(code, rows)], axis=1), _calibration_error
    raise ValueError(f"metric must be one of {', '.join(get_args(BootstrapMetric))}, got {metric!r}")


def _sums_of_groups(
    label: Int64[np.ndarray, " num_rows"],
    score: Float64[np.ndarray, " num_rows"],
    code: Int64[np.ndarray, " num_rows"],
    group: ArrayLike,
    weight: GroupWeight,
) -> Float64[np.ndarray, "num_clusters 2"]:
    """Weighted AUCs of each cluster's groups, and their weights."""
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
    return _by_cluster(cluster_of_group, group_weight * np.where(kept, groups.auc, 0.0), group_weight)


def _by_cluster(
    code: Int64[np.ndarray, " num_entries"], *columns: Shaped[np.ndarray, " num_entries"]
) -> Float64[np.ndarray, "num_clusters num_columns"]:
    """Sum columns within clusters; every cluster has an entry."""
    return np.stack([np.bincount(code, weights=column) for column in columns], axis=1)


def _first_over_second(
    sums: Float64[np.ndarray, "num_resamples 2"],
) -> Float64[np.ndarray, " num_resamples"]:
    """NaN where the second is 0."""
    return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)


def _normalized_entropy(
    sums: Float64[np.ndarray, "num_resamples 3"],
) -> Float64[np.ndarray, " num_resamples"]:
    """From log loss, rows and clicks; NaN where one class is missing."""
    defined = (sums[:, 2] > 0) & (sums[:, 2] < sums[:, 1])
    rate = np.where(defined, sums[:, 2] / sums[:, 1], 0.5)
    entropy = -rate * np.log(rate) - (1.0 - rate) * np.log1p(-rate)
    return np.where(defined, sums[:, 0] / sums[:, 1] / entropy, np.nan)


def _relative_information_gain(
    sums: Float64[np.ndarray, "num_resamples 3"],
) -> Float64[np.ndarray, " num_resamples"]:
    """One less the normalised entropy."""
    return 1.0 - _normalized_entropy(sums)


def _calibration_error(
    sums: Float64[np.ndarray, "num_resamples num_columns"],
) -> Float64[np.ndarray, " num_resamples"]:
    """From each bin's sum of scores less clicks, and rows last."""
    return np.abs(sums[:, :-1]).sum(axis=1) / sums[:, -1]


def _cluster_codes(cluster: ArrayLike, num_rows: int) -> Int64[np.ndarray, " num_rows"]:
    """Codes from 0 of a user column of any kind."""
    _, code = np.unique(check_column(cluster, "cluster", num_rows), return_inverse=True)
    return code.astype(np.int64, copy=False)


def _deviation_of(resampled: Float64[np.ndarray, " num_resamples"]) -> float:
    """Deviation of the resamples that are defined; NaN for fewer than two."""
    defined = resampled[~np.isnan(resampled)]
    return float(np.std(defined, ddof=1)) if len(defined) > 1 else math.nan


def _normal_quantile(confidence: float) -> float:
    """How many deviations a two-sided interval reaches."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    return NormalDist().inv_cdf((1.0 + confidence) / 2.0)


def _sigmoid(logit: float) -> float:
    """Stable for logits of any size."""
    return 1.0 / (1.0 + math.exp(-logit)) if logit > 0.0 else math.exp(logit) / (1.0 + math.exp(logit))


def _seed(random_seed: int) -> int:
    """Fit a seed of any size into the compiled loops' integers."""
    return random_seed % 2**63
