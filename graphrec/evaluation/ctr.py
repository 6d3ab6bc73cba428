"""Figures for click predictions: AUC, grouped AUC, log loss and calibration, exact under ties.

Figures are float64 and rest on sorts and on the loops of `compiled`. A label is 0 or 1, a score is any
finite number (a probability where the text says so), and row i of every argument is the same impression. An
undefined figure is NaN: an AUC where only one class is present, a ratio over zero clicks. A wrong input is a
``ValueError``.

The public functions take whatever numpy turns into an array. Below them lie functions over checked columns
of many million rows, which copy no column of scores but once and never widen one: `ranked_figures` for what
needs all rows in order, `probability_sums`, `bin_sums` and `group_sums` for what is a function of sums over
clusters of rows, such as users. Sums of clusters add up, so that any set of clusters has its figures from
them: all, a slice, or a resample of a bootstrap.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Float64, Int32, Int64, Shaped, UInt8
from numpy.typing import ArrayLike

from graphrec.evaluation import compiled

GroupWeight = Literal["impressions", "clicks", "groups"]
BinStrategy = Literal["quantile", "width"]

EPSILON = float(np.finfo(np.float64).eps)
"""Probabilities are clipped to ``[EPSILON, 1 - EPSILON]`` in a log loss, whatever their width."""

_ROWS_AT_ONCE = 65_536  # of a column that is summed as a whole

SUM_COLUMNS = ("num_rows", "num_clicks", "score", "log_loss", "squared_error")
"""Columns of `probability_sums`; the last two are sums of the rows' log loss in nats and squared error."""

GROUP_SUM_COLUMNS = (
    "num_groups",
    "num_rows",
    "num_clicks",
    "groups_left_out",
    "rows_left_out",
    "auc_impressions",
    "weight_impressions",
    "auc_clicks",
    "weight_clicks",
    "auc_groups",
    "weight_groups",
    "num_ranked_groups",
    "rows_not_ranked",
    "ndcg",
    "reciprocal_rank",
    "hit",
)
"""Columns of `group_sums`.

``groups_left_out`` and ``rows_left_out`` count groups of one class, which have no AUC, and their rows;
``auc_...`` sums weight times AUC of the other groups, and ``weight_...`` their weights, so that GAUC is
the one over the other. ``num_ranked_groups`` counts groups with a click, ``rows_not_ranked`` the rows of the
rest; ``ndcg``, ``reciprocal_rank`` and ``hit`` are sums over the ranked groups.
"""


class GroupedAUC(NamedTuple):
    """AUC inside each group; groups are in ascending order of their key."""

    group: Shaped[np.ndarray, " num_groups"]
    auc: Float64[np.ndarray, " num_groups"]
    """NaN for a group that holds one class only."""
    num_rows: Int64[np.ndarray, " num_groups"]
    num_positives: Int64[np.ndarray, " num_groups"]


@dataclass(frozen=True)
class GAUC:
    """A weighted mean of the AUCs of groups, and what it leaves out."""

    value: float
    """NaN where every group holds one class only."""
    weight: GroupWeight
    """``impressions`` weights a group by its rows, ``clicks`` by its positives, ``groups`` equally."""
    num_rows: int
    num_groups: int
    num_rows_left_out: int
    num_groups_left_out: int
    """Groups of one class have no AUC and are left out, whatever their weight."""

    @property
    def share_of_rows_left_out(self) -> float:
        """Rows in groups of one class over all rows, between 0 and 1."""
        return self.num_rows_left_out / self.num_rows

    @property
    def share_of_groups_left_out(self) -> float:
        """Groups of one class over all groups, between 0 and 1."""
        return self.num_groups_left_out / self.num_groups


class ReliabilityCurve(NamedTuple):
    """Predicted against observed click rates, one entry per bin that holds a row."""

    lower: Float64[np.ndarray, " num_bins"]
    upper: Float64[np.ndarray, " num_bins"]
    mean_score: Float64[np.ndarray, " num_bins"]
    click_rate: Float64[np.ndarray, " num_bins"]
    num_rows: Int64[np.ndarray, " num_bins"]


class RankedFigures(NamedTuple):
    """What needs all rows in the order of their scores."""

    auc: float
    average_precision: float
    curve: ReliabilityCurve | None
    """None where a score lies outside [0, 1]."""


def auc(label: ArrayLike, score: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a click scores above a non-click, ties counting half.

    Equal to the Mann-Whitney statistic over all pairs (Hanley and McNeil, 1982). NaN where only one
    class is present. Raises ``ValueError`` for labels other than 0 and 1, scores that are not finite,
    no row at all, or lengths that differ.
    """
    return _rank_figures(*compiled.split_and_sort(*check_rows(label, score)))[0]


def average_precision(label: ArrayLike, score: ArrayLike) -> float:
    """Mean over clicks of the precision among the rows that score at least as high: area under PR steps.

    The sum of precision times the increase in recall from one distinct score to the next, without
    interpolation (Davis and Goadrich, ICML 2006, say why); tied rows are retrieved together. NaN without
    clicks. Raises as `auc` does.
    """
    return _rank_figures(*compiled.split_and_sort(*check_rows(label, score)))[1]


def ranked_figures(
    label: UInt8[np.ndarray, " num_rows"],
    score: Float[np.ndarray, " num_rows"],
    num_bins: int = 20,
    strategy: BinStrategy = "quantile",
) -> RankedFigures:
    """`auc`, `average_precision` and `reliability_curve` from one sort of a copy of ``score``.

    Columns are taken as checked: labels 0 or 1, scores finite. Float32 is ranked as float32. One row or more.
    """
    clicks, others, cut = compiled.split_and_sort(label, score)
    area, precision = _rank_figures(clicks, others, cut)
    ends = [column[[0, -1]] for column in (clicks, others) if len(column)]
    is_probability = min(end[0] for end in ends) >= 0.0 and max(end[1] for end in ends) <= 1.0
    curve = _curve_of_sorted(clicks, others, num_bins, strategy) if is_probability else None
    return RankedFigures(area, precision, curve)


def grouped_auc(label: ArrayLike, score: ArrayLike, group: ArrayLike) -> GroupedAUC:
    """AUC inside each group; ties count half.

    ``group`` holds one key per row, integers or strings; `group_codes` joins several columns into one.
    A group whose scores are all tied has an AUC of one half, and is kept.
    """
    key, sums = sums_by_group(label, score, group)
    column = dict(zip(GROUP_SUM_COLUMNS, sums.T, strict=True))
    return GroupedAUC(
        group=key,
        auc=np.where(column["groups_left_out"] > 0, np.nan, column["auc_groups"]),
        num_rows=column["num_rows"].astype(np.int64),
        num_positives=column["num_clicks"].astype(np.int64),
    )


def sums_by_group(
    label: ArrayLike, score: ArrayLike, group: ArrayLike, k: int = 10
) -> tuple[Shaped[np.ndarray, " num_groups"], Float64[np.ndarray, "num_groups num_columns"]]:
    """Keys of the groups, ascending, and `group_sums` of each group by itself; rows in any order."""
    label_array, score_array = check_rows(label, score)
    key, code = _dense_codes(check_column(group, "group", len(label_array)))
    order, ptr = compiled.order_by_code(code, len(key))
    return key, group_sums(compiled.take(label_array, order), compiled.take(score_array, order), ptr, k=k)


def gauc(label: ArrayLike, score: ArrayLike, group: ArrayLike, weight: GroupWeight = "impressions") -> GAUC:
    """Mean of the groups' AUCs, weighted by ``weight``; groups of one class are left out and counted.

    With ``group`` the user and ``weight="impressions"`` this is the GAUC of DIN (Zhou et al., KDD 2018,
    equation (7)). Libraries differ in the weight, so the result names it.
    """
    return gauc_of_groups(grouped_auc(label, score, group), weight)


def gauc_of_groups(groups: GroupedAUC, weight: GroupWeight = "impressions") -> GAUC:
    """`gauc` from AUCs that `grouped_auc` has found already."""
    kept = ~np.isnan(groups.auc)
    group_weight = weight_of_groups(groups, weight)[kept]
    value = float(np.average(groups.auc[kept], weights=group_weight)) if kept.any() else float("nan")
    return GAUC(
        value=value,
        weight=weight,
        num_rows=int(groups.num_rows.sum()),
        num_groups=len(groups.num_rows),
        num_rows_left_out=int(groups.num_rows[~kept].sum()),
        num_groups_left_out=int((~kept).sum()),
    )


def weight_of_groups(groups: GroupedAUC, weight: GroupWeight) -> Float64[np.ndarray, " num_groups"]:
    """Return the weight of each group in `gauc`; ``ValueError`` for an unknown name."""
    if weight not in get_args(GroupWeight):
        raise ValueError(f"weight must be one of {', '.join(get_args(GroupWeight))}, got {weight!r}")
    if weight == "impressions":
        return groups.num_rows.astype(np.float64)
    if weight == "clicks":
        return groups.num_positives.astype(np.float64)
    return np.ones(len(groups.num_rows))


def group_codes(*columns: ArrayLike) -> Int64[np.ndarray, " num_rows"]:
    """One integer per row, equal for two rows where all ``columns`` are equal: (user, period) as a group.

    Codes count from 0 in the order of the columns, the first one deciding first.
    """
    if not columns:
        raise ValueError("group_codes needs at least one column, got none")
    num_rows = len(np.asarray(columns[0]))
    code = np.zeros(num_rows, np.int64)
    for position, column in enumerate(columns):
        values, inverse = _dense_codes(check_column(column, f"column {position}", num_rows))
        # made dense after each column, so that the product cannot overflow
        code = _dense_codes(code * len(values) + inverse)[1]
    return code


def probability_sums(
    label: UInt8[np.ndarray, " num_rows"],
    score: Float[np.ndarray, " num_rows"],
    ptr: Int64[np.ndarray, " num_clusters_and_one"],
    *,
    epsilon: float = EPSILON,
) -> Float64[np.ndarray, "num_clusters num_columns"]:
    """Sum up each cluster, in the columns of `SUM_COLUMNS`.

    Rows ``ptr[c]`` to ``ptr[c + 1]`` are cluster c, so rows lie contiguously by cluster
    (`compiled.order_by_code`). Columns are taken as checked: labels 0 or 1, scores in [0, 1].
    """
    _check_clusters(ptr, label, score)
    sums = np.zeros((len(ptr) - 1, len(SUM_COLUMNS)))
    label, score = np.ascontiguousarray(label), np.ascontiguousarray(score)
    pieces = compiled.cluster_pieces(ptr)
    compiled.run(compiled.sum_probabilities, pieces, label, score, ptr, epsilon, sums, num_rows=len(label))
    return sums


def bin_sums(
    label: UInt8[np.ndarray, " num_rows"],
    score: Float[np.ndarray, " num_rows"],
    ptr: Int64[np.ndarray, " num_clusters_and_one"],
    edges: Float64[np.ndarray, " num_edges"],
) -> Float64[np.ndarray, "num_clusters num_columns"]:
    """Sum up scores in each bin, then clicks in each bin, of each cluster: 2 * (num_edges - 1) columns.

    Bins are those of `assign_bins`; the curve of `ranked_figures` gives them as its ``lower`` and the last
    ``upper``. Their calibration error is the sum over bins of |score - clicks|, over the rows. Rows as in
    `probability_sums`.
    """
    _check_clusters(ptr, label, score)
    sums = np.zeros((len(ptr) - 1, 2 * (len(edges) - 1)))
    label, score = np.ascontiguousarray(label), np.ascontiguousarray(score)
    pieces = compiled.cluster_pieces(ptr)
    compiled.run(compiled.sum_bins, pieces, label, score, ptr, edges[:-1].copy(), sums, num_rows=len(label))
    return sums


def group_sums(
    label: UInt8[np.ndarray, " num_rows"],
    score: Float[np.ndarray, " num_rows"],
    ptr: Int64[np.ndarray, " num_clusters_and_one"],
    part: Int32[np.ndarray, " num_rows"] | Int64[np.ndarray, " num_rows"] | None = None,
    k: int = 10,
) -> Float64[np.ndarray, "num_clusters num_columns"]:
    """Sum up the groups of each cluster, in the columns of `GROUP_SUM_COLUMNS`.

    Rows ``ptr[c]`` to ``ptr[c + 1]`` are cluster c, in any order; the rows of a cluster with one value of
    ``part`` (a period, a request) are a group, and without ``part`` the cluster is. Columns are taken as
    checked: labels 0 or 1, scores finite.

    In a ranking, tied rows stand in random order, and a figure is its mean over the orders: NDCG at ``k``
    (Jarvelin and Kekalainen, TOIS 2002; gain 1 a click, discount 1 / log2(rank + 1)) shares a tie's gains out
    evenly (McSherry and Najork, ECIR 2008), the reciprocal rank of the first click and the chance that one is
    among the first ``k`` follow the hypergeometric distribution.
    """
    _check_clusters(ptr, label, score)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    label, score = np.ascontiguousarray(label), np.ascontiguousarray(score)
    lowest = 0
    if part is None:
        part = np.empty(0, np.int32)
    elif len(part):
        part = np.ascontiguousarray(check_column(part, "part", len(label)))
        lowest, highest = int(part.min()), int(part.max())
        if highest - lowest >= 2**32:
            part, lowest = _dense_codes(part)[1], 0
    discount = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))])
    sums = np.zeros((len(ptr) - 1, len(GROUP_SUM_COLUMNS)))
    pieces = compiled.cluster_pieces(ptr)
    arguments = (label, score, ptr, part, lowest, discount, sums)
    compiled.run(compiled.sum_groups, pieces, *arguments, num_rows=len(label))
    return sums


def log_loss(label: ArrayLike, score: ArrayLike, *, epsilon: float = EPSILON) -> float:
    """Mean negative log likelihood in nats; scores are clipped to ``[epsilon, 1 - epsilon]``.

    Raises ``ValueError`` for scores outside [0, 1] as well as for what `auc` refuses.
    """
    total = _total_sums(label, score, epsilon)
    return total["log_loss"] / total["num_rows"]


def row_log_loss(
    label: Int64[np.ndarray, " num_rows"], score: Float64[np.ndarray, " num_rows"], *, epsilon: float
) -> Float64[np.ndarray, " num_rows"]:
    """Negative log likelihood of each row, in nats."""
    clipped = np.clip(score, epsilon, 1.0 - epsilon)
    return -np.log(np.where(label == 1, clipped, 1.0 - clipped))


def normalized_entropy(label: ArrayLike, score: ArrayLike) -> float:
    """Log loss over that of the constant click rate (He et al., ADKDD 2014, equation (1)); below 1 is good.

    NaN where only one class is present, since the constant is then perfect.
    """
    total = _total_sums(label, score)
    rate = total["num_clicks"] / total["num_rows"]
    if rate in (0.0, 1.0):
        return math.nan
    entropy = -rate * math.log(rate) - (1.0 - rate) * math.log1p(-rate)
    return total["log_loss"] / total["num_rows"] / entropy


def relative_information_gain(label: ArrayLike, score: ArrayLike) -> float:
    """Share of the click rate's entropy that scores explain: 1 - `normalized_entropy`; above 0 is good."""
    return 1.0 - normalized_entropy(label, score)


def brier_score(label: ArrayLike, score: ArrayLike) -> float:
    """Mean squared difference of probability and label (Brier, 1950)."""
    total = _total_sums(label, score)
    return total["squared_error"] / total["num_rows"]


def calibration_ratio(label: ArrayLike, score: ArrayLike) -> float:
    """Predicted over observed clicks; 1 is calibrated, above 1 promises too many. NaN without clicks."""
    total = _total_sums(label, score)
    return total["score"] / total["num_clicks"] if total["num_clicks"] else math.nan


def reliability_curve(
    label: ArrayLike, score: ArrayLike, num_bins: int = 20, strategy: BinStrategy = "quantile"
) -> ReliabilityCurve:
    """Mean score and click rate inside bins of the score; a bin without a row does not appear.

    ``quantile`` cuts at the quantiles of the scores, so that bins hold about the same number of rows;
    ``width`` cuts [0, 1] into equal parts. Bins are ``[lower, upper)``, the last one closed. Equal scores
    always share a bin, so heavy ties make fewer, larger bins, and the order of rows has no effect.
    """
    clicks, others, _ = compiled.split_and_sort(*_check_probability_rows(label, score))
    return _curve_of_sorted(clicks, others, num_bins, strategy)


def expected_calibration_error(
    label: ArrayLike, score: ArrayLike, num_bins: int = 20, strategy: BinStrategy = "quantile"
) -> float:
    """Mean over rows of |mean score - click rate| of the row's bin (Naeini et al., AAAI 2015).

    The bins are those of `reliability_curve`; the figure depends on their number and strategy.
    """
    return calibration_error_of_curve(reliability_curve(label, score, num_bins, strategy))


def calibration_error_of_curve(curve: ReliabilityCurve) -> float:
    """`expected_calibration_error` from a curve that `reliability_curve` has found already."""
    return float(np.average(np.abs(curve.mean_score - curve.click_rate), weights=curve.num_rows))


def bin_edges(
    score: Float64[np.ndarray, " num_rows"], num_bins: int, strategy: BinStrategy
) -> Float64[np.ndarray, " num_edges"]:
    """Ascending edges of at most ``num_bins`` bins, see `reliability_curve`."""
    if strategy == "quantile":
        position = _quantile_positions(len(score), num_bins)
        lower = np.partition(score, position)[position]
        # where many rows share the greatest score, its bin has no width
        return np.append(np.unique(lower), score.max())
    return _width_edges(num_bins, strategy)


def assign_bins(
    score: Float64[np.ndarray, " num_rows"], edges: Float64[np.ndarray, " num_edges"]
) -> Int64[np.ndarray, " num_rows"]:
    """Index of each score's bin, ``[edge, next edge)``, the last one closed."""
    return np.searchsorted(edges[:-1], score, side="right") - 1


def check_rows(
    label: ArrayLike, score: ArrayLike
) -> tuple[UInt8[np.ndarray, " num_rows"], Float[np.ndarray, " num_rows"]]:
    """Labels as uint8, scores float32 or float64 as they come, or a ``ValueError`` that says what is wrong.

    Scores of another type become float64. Nothing is copied that has its type already.
    """
    label_array = np.asarray(label)
    if label_array.ndim != 1:
        raise ValueError(f"label must have one axis, got the shape {label_array.shape}")
    if len(label_array) == 0:
        raise ValueError("label must hold at least one row, got none; is the slice empty?")
    score_array = check_column(score, "score", len(label_array))
    if label_array.dtype.kind not in "biuf" or score_array.dtype.kind not in "biuf":
        raise ValueError(f"label and score must be numbers, got {label_array.dtype} and {score_array.dtype}")
    # for whole numbers the ends tell; else every row must be looked at
    if label_array.dtype.kind == "f" or label_array.min() < 0 or label_array.max() > 1:
        wrong = np.flatnonzero((label_array != 0) & (label_array != 1))
        if len(wrong):
            raise ValueError(
                f"labels must be 0 or 1, got {label_array[wrong[0]]} in row {wrong[0]} "
                f"({len(wrong)} such rows); turn ratings into clicks by a threshold first"
            )
    if score_array.dtype not in (np.float32, np.float64):
        score_array = score_array.astype(np.float64)
    if not (
        np.isfinite(score_array.min()) and np.isfinite(score_array.max())
    ):  # NaN is the least and greatest
        wrong = np.flatnonzero(~np.isfinite(score_array))
        raise ValueError(
            f"scores must be finite, got {score_array[wrong[0]]} in row {wrong[0]} ({len(wrong)} such rows); "
            "drop these rows knowingly or mend the model"
        )
    return label_array.astype(np.uint8, copy=False), score_array


def check_label_and_score(
    label: ArrayLike, score: ArrayLike
) -> tuple[Int64[np.ndarray, " num_rows"], Float64[np.ndarray, " num_rows"]]:
    """As `check_rows`, in the widest types: for arithmetic on columns of moderate length."""
    label_array, score_array = check_rows(label, score)
    return label_array.astype(np.int64), score_array.astype(np.float64, copy=False)


def check_probability(
    label: ArrayLike, score: ArrayLike
) -> tuple[Int64[np.ndarray, " num_rows"], Float64[np.ndarray, " num_rows"]]:
    """As `check_label_and_score`, and scores must lie in [0, 1]."""
    label_array, score_array = _check_probability_rows(label, score)
    return label_array.astype(np.int64), score_array.astype(np.float64, copy=False)


def _check_probability_rows(
    label: ArrayLike, score: ArrayLike
) -> tuple[UInt8[np.ndarray, " num_rows"], Float[np.ndarray, " num_rows"]]:
    label_array, score_array = check_rows(label, score)
    if score_array.min() < 0.0 or score_array.max() > 1.0:
        raise ValueError(
            f"scores must be probabilities in [0, 1], got [{score_array.min()}, {score_array.max()}]; "
            "pass logits through a sigmoid first"
        )
    return label_array, score_array


def check_column(column: ArrayLike, name: str, num_rows: int) -> Shaped[np.ndarray, " num_rows"]:
    """``column`` as an array of one axis with ``num_rows`` entries, or a ``ValueError``."""
    array = np.asarray(column)
    if array.ndim != 1 or len(array) != num_rows:
        raise ValueError(f"{name} must have the shape ({num_rows},) of label, got {array.shape}")
    return array


def _check_clusters(
    ptr: Int64[np.ndarray, " num_clusters_and_one"], label: np.ndarray, score: np.ndarray
) -> None:
    """Refuse what would make a loop leave its arrays."""
    check_column(score, "score", len(label))
    if len(ptr) == 0 or ptr[0] != 0 or ptr[-1] != len(label) or (np.diff(ptr) < 0).any():
        raise ValueError(f"ptr must ascend from 0 to the number of rows, {len(label)}, got {ptr}")
    if len(label) and label.max() > 1:
        raise ValueError(f"labels must be 0 or 1, got {label.max()}")


def _dense_codes(
    column: Shaped[np.ndarray, " num_rows"],
) -> tuple[Shaped[np.ndarray, " num_values"], Int64[np.ndarray, " num_rows"]]:
    """Distinct values, ascending, and the place of each row's value among them."""
    if column.dtype.kind in "biu" and len(column):
        lowest, highest = int(column.min()), int(column.max())
        # whole numbers that lie closely are found by their distance from the lowest, without a sort
        if highest - lowest < 2 * len(column) + 1024 and highest < 2**63:
            distance = column.astype(np.int64) - lowest
            present = np.zeros(highest - lowest + 1, np.bool_)
            present[distance] = True
            code_of_distance = np.cumsum(present) - 1
            return (np.flatnonzero(present) + lowest).astype(column.dtype), code_of_distance[distance]
    try:
        values, code = np.unique(column, return_inverse=True)
    except TypeError as error:
        raise ValueError(f"groups must be of one type, without None ({error}); fill or drop them") from error
    return values, code.astype(np.int64, copy=False)


def _total_sums(label: ArrayLike, score: ArrayLike, epsilon: float = EPSILON) -> dict[str, float]:
    """`probability_sums` over all rows, by name."""
    label_array, score_array = _check_probability_rows(label, score)
    # blocks are the clusters here: shared out to threads, and added pairwise
    ptr = np.append(np.arange(0, len(label_array), _ROWS_AT_ONCE), len(label_array))
    total = probability_sums(label_array, score_array, ptr, epsilon=epsilon).sum(axis=0)
    return dict(zip(SUM_COLUMNS, total.tolist(), strict=True))


def _rank_figures(
    clicks: Float[np.ndarray, " num_clicks"], others: Float[np.ndarray, " num_others"], cut: tuple[int, int]
) -> tuple[float, float]:
    """AUC and average precision from `compiled.split_and_sort`."""
    halves = [(0, cut[0], 0, cut[1]), (cut[0], len(clicks), cut[1], len(others))]
    tasks = [(compiled.walk_ranks, (*half, clicks, others)) for half in halves]
    below, above = compiled.run_tasks(tasks, len(clicks) + len(others))
    pairs = len(clicks) * len(others)
    # in whole numbers up to here, of which 2 * pairs passes int64 beyond 4 billion rows
    area = (below[0] + above[0]) / (2 * pairs) if pairs else math.nan
    return area, (below[1] + above[1]) / len(clicks) if len(clicks) else math.nan


def _curve_of_sorted(
    clicks: Float[np.ndarray, " num_clicks"],
    others: Float[np.ndarray, " num_others"],
    num_bins: int,
    strategy: BinStrategy,
) -> ReliabilityCurve:
    """`reliability_curve` of ascending scores."""
    if strategy == "quantile":
        position = _quantile_positions(len(clicks) + len(others), num_bins)
        greatest = max(column[-1] for column in (clicks, others) if len(column))
        lower = np.array(
            [_smallest_of_two(clicks, others, number) for number in position.tolist()], np.float64
        )
        edges = np.append(np.unique(lower), np.float64(greatest))
    else:
        edges = _width_edges(num_bins, strategy)
    starts = [np.append(_places(column, edges[:-1]), len(column)) for column in (clicks, others)]
    for start in starts:
        start[0] = 0
    num_clicks = np.diff(starts[0])
    num_rows = num_clicks + np.diff(starts[1])
    total_score = np.array(
        [
            sum(
                column[start[number] : start[number + 1]].sum(dtype=np.float64)
                for column, start in zip((clicks, others), starts, strict=True)
            )
            for number in range(len(edges) - 1)
        ]
    )
    kept = num_rows > 0
    return ReliabilityCurve(
        lower=edges[:-1][kept],
        upper=edges[1:][kept],
        mean_score=total_score[kept] / num_rows[kept],
        click_rate=num_clicks[kept] / num_rows[kept],
        num_rows=num_rows[kept],
    )


def _quantile_positions(num_rows: int, num_bins: int) -> Int64[np.ndarray, " num_bins"]:
    """Places among the ascending scores of the bins' lower edges: that of b / num_bins for each bin b.

    The quantile is the smallest score with at least that share of rows at or below it (Hyndman and Fan,
    1996, definition 1), so an edge is a score: one between two could round ties apart.
    """
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}")
    return np.maximum(-(-np.arange(num_bins) * num_rows // num_bins) - 1, 0)


def _width_edges(num_bins: int, strategy: BinStrategy) -> Float64[np.ndarray, " num_edges"]:
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}")
    if strategy != "width":
        raise ValueError(f"strategy must be quantile or width, got {strategy!r}")
    return np.linspace(0.0, 1.0, num_bins + 1)


def _smallest_of_two(first: np.ndarray, second: np.ndarray, position: int) -> float:
    """Entry ``position`` of two ascending columns merged, found by halving."""
    low, high = max(0, position - len(second)), min(len(first), position)
    # how many of the entries before it are of the first column: the fewest such that the next is not smaller
    while low < high:
        middle = (low + high) // 2
        if first[middle] < second[position - middle - 1]:
            low = middle + 1
        else:
            high = middle
    rest = [column[at] for column, at in ((first, low), (second, position - low)) if at < len(column)]
    return float(min(rest))


def _places(column: np.ndarray, edges: Float64[np.ndarray, " num_bins"]) -> Int64[np.ndarray, " num_bins"]:
    """Where the rows at or above each edge begin in an ascending column, which is not widened for it."""
    if column.dtype != np.float64:
        # an edge between two narrow numbers goes up to the next one: what is at or above it stays so
        narrow = edges.astype(column.dtype)
        edges = np.where(narrow < edges, np.nextafter(narrow, column.dtype.type(np.inf)), narrow)
    return np.searchsorted(column, edges, side="left")
