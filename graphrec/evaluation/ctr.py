"""Figures for click predictions: AUC, grouped AUC, log loss and calibration, exact under ties.

Everything is float64 and rests on sorts; no function loops over rows or groups. A label is 0 or 1, a
score is any finite number (a probability where the text says so), and row i of every argument is the
same impression. An undefined figure is NaN: an AUC where only one class is present, a ratio over zero
clicks. A wrong input is a ``ValueError``.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped
from numpy.typing import ArrayLike

GroupWeight = Literal["impressions", "clicks", "groups"]
BinStrategy = Literal["quantile", "width"]


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


def auc(label: ArrayLike, score: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a click scores above a non-click, ties counting half.

    Equal to the Mann-Whitney statistic over all pairs (Hanley and McNeil, 1982). NaN where only one
    class is present. Raises ``ValueError`` for labels other than 0 and 1, scores that are not finite,
    no row at all, or lengths that differ.
    """
    label_array, score_array = check_label_and_score(label, score)
    order = np.argsort(score_array)
    return float(_sorted_auc(label_array[order], _starts_of_runs(score_array[order])))


def grouped_auc(label: ArrayLike, score: ArrayLike, group: ArrayLike) -> GroupedAUC:
    """AUC inside each group, from one sort over all rows; ties count half.

    ``group`` holds one key per row, integers or strings; `group_codes` joins several columns into one.
    A group whose scores are all tied has an AUC of one half, and is kept.
    """
    label_array, score_array = check_label_and_score(label, score)
    group_array = check_column(group, "group", len(label_array))
    key, code = np.unique(group_array, return_inverse=True)
    order = np.lexsort((score_array, code))
    positive, score_sorted, code_sorted = label_array[order], score_array[order], code[order]

    new_group = _starts_of_runs(code_sorted)
    group_start = np.flatnonzero(new_group)
    tie_start = np.flatnonzero(new_group | _starts_of_runs(score_sorted))
    tie_positives = np.add.reduceat(positive, tie_start)
    tie_negatives = np.diff(tie_start, append=len(positive)) - tie_positives
    negatives_below = np.cumsum(tie_negatives) - tie_negatives
    first_tie = np.searchsorted(tie_start, group_start)
    ties_of_group = np.diff(first_tie, append=len(tie_start))
    negatives_below -= np.repeat(negatives_below[first_tie], ties_of_group)
    # twice the number of won pairs, so that a half stays an integer
    twice_won = np.add.reduceat(tie_positives * (2 * negatives_below + tie_negatives), first_tie)

    count = np.diff(group_start, append=len(positive))
    positives = np.add.reduceat(positive, group_start)
    pairs = positives * (count - positives)
    value = np.divide(twice_won, 2 * pairs, out=np.full(len(key), np.nan), where=pairs > 0)
    return GroupedAUC(key, value, count, positives)


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
        values, inverse = np.unique(check_column(column, f"column {position}", num_rows), return_inverse=True)
        # made dense after each column, so that the product cannot overflow
        code = np.unique(code * len(values) + inverse, return_inverse=True)[1].astype(np.int64)
    return code


def log_loss(
    label: ArrayLike, score: ArrayLike, *, epsilon: float = float(np.finfo(np.float64).eps)
) -> float:
    """Mean negative log likelihood in nats; scores are clipped to ``[epsilon, 1 - epsilon]``.

    Raises ``ValueError`` for scores outside [0, 1] as well as for what `auc` refuses.
    """
    return float(row_log_loss(*check_probability(label, score), epsilon=epsilon).mean())


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
    label_array, score_array = check_probability(label, score)
    rate = label_array.mean()
    if rate in (0.0, 1.0):
        return float("nan")
    return log_loss(label_array, score_array) / float(-rate * np.log(rate) - (1 - rate) * np.log(1 - rate))


def brier_score(label: ArrayLike, score: ArrayLike) -> float:
    """Mean squared difference of probability and label (Brier, 1950)."""
    label_array, score_array = check_probability(label, score)
    return float(np.mean((score_array - label_array) ** 2))


def calibration_ratio(label: ArrayLike, score: ArrayLike) -> float:
    """Predicted over observed clicks; 1 is calibrated, above 1 promises too many. NaN without clicks."""
    label_array, score_array = check_probability(label, score)
    clicks = label_array.sum()
    return float(score_array.sum() / clicks) if clicks else float("nan")


def reliability_curve(
    label: ArrayLike, score: ArrayLike, num_bins: int = 20, strategy: BinStrategy = "quantile"
) -> ReliabilityCurve:
    """Mean score and click rate inside bins of the score; a bin without a row does not appear.

    ``quantile`` cuts at the quantiles of the scores, so that bins hold about the same number of rows;
    ``width`` cuts [0, 1] into equal parts. Bins are ``[lower, upper)``, the last one closed. Equal scores
    always share a bin, so heavy ties make fewer, larger bins, and the order of rows has no effect.
    """
    label_array, score_array = check_probability(label, score)
    edges = bin_edges(score_array, num_bins, strategy)
    position = assign_bins(score_array, edges)
    count = np.bincount(position, minlength=len(edges) - 1)
    kept = count > 0
    clicks = np.bincount(position, weights=label_array, minlength=len(edges) - 1)[kept]
    total_score = np.bincount(position, weights=score_array, minlength=len(edges) - 1)[kept]
    return ReliabilityCurve(
        lower=edges[:-1][kept],
        upper=edges[1:][kept],
        mean_score=total_score / count[kept],
        click_rate=clicks / count[kept],
        num_rows=count[kept],
    )


def expected_calibration_error(
    label: ArrayLike, score: ArrayLike, num_bins: int = 20, strategy: BinStrategy = "quantile"
) -> float:
    """Mean over rows of |mean score - click rate| of the row's bin (Naeini et al., AAAI 2015).

    The bins are those of `reliability_curve`; the figure depends on their number and strategy.
    """
    curve = reliability_curve(label, score, num_bins, strategy)
    return float(np.average(np.abs(curve.mean_score - curve.click_rate), weights=curve.num_rows))


def bin_edges(
    score: Float64[np.ndarray, " num_rows"], num_bins: int, strategy: BinStrategy
) -> Float64[np.ndarray, " num_edges"]:
    """Ascending edges of at most ``num_bins`` bins, see `reliability_curve`."""
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}")
    if strategy == "width":
        return np.linspace(0.0, 1.0, num_bins + 1)
    if strategy != "quantile":
        raise ValueError(f"strategy must be quantile or width, got {strategy!r}")
    # lower edges are scores, never between two: interpolation could round ties apart
    lower = np.unique(np.quantile(score, np.arange(num_bins) / num_bins, method="inverted_cdf"))
    return np.append(lower, score.max())  # where many rows share the greatest score, its bin has no width


def assign_bins(
    score: Float64[np.ndarray, " num_rows"], edges: Float64[np.ndarray, " num_edges"]
) -> Int64[np.ndarray, " num_rows"]:
    """Index of each score's bin, ``[edge, next edge)``, the last one closed."""
    return np.searchsorted(edges[:-1], score, side="right") - 1


def check_label_and_score(
    label: ArrayLike, score: ArrayLike
) -> tuple[Int64[np.ndarray, " num_rows"], Float64[np.ndarray, " num_rows"]]:
    """Labels as int64 and scores as float64, or a ``ValueError`` that says what is wrong with them."""
    label_array = np.asarray(label)
    if label_array.ndim != 1:
        raise ValueError(f"label must have one axis, got the shape {label_array.shape}")
    if len(label_array) == 0:
        raise ValueError("label must hold at least one row, got none; is the slice empty?")
    score_array = check_column(score, "score", len(label_array))
    if label_array.dtype.kind not in "biuf" or score_array.dtype.kind not in "biuf":
        raise ValueError(f"label and score must be numbers, got {label_array.dtype} and {score_array.dtype}")
    wrong = np.flatnonzero((label_array != 0) & (label_array != 1))
    if len(wrong):
        raise ValueError(
            f"labels must be 0 or 1, got {label_array[wrong[0]]} in row {wrong[0]} ({len(wrong)} such rows); "
            "turn ratings into clicks by a threshold first"
        )
    score_array = score_array.astype(np.float64, copy=False)
    wrong = np.flatnonzero(~np.isfinite(score_array))
    if len(wrong):
        raise ValueError(
            f"scores must be finite, got {score_array[wrong[0]]} in row {wrong[0]} ({len(wrong)} such rows); "
            "drop these rows knowingly or mend the model"
        )
    return label_array.astype(np.int64, copy=False), score_array


def check_probability(
    label: ArrayLike, score: ArrayLike
) -> tuple[Int64[np.ndarray, " num_rows"], Float64[np.ndarray, " num_rows"]]:
    """As `check_label_and_score`, and scores must lie in [0, 1]."""
    label_array, score_array = check_label_and_score(label, score)
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


def _starts_of_runs(values: Shaped[np.ndarray, " num_rows"]) -> Bool[np.ndarray, " num_rows"]:
    """Mark where a sorted column differs from the row above, and at the first row."""
    return np.concatenate([[True], values[1:] != values[:-1]])


def _sorted_auc(positive: Int64[np.ndarray, " num_rows"], new_score: Bool[np.ndarray, " num_rows"]) -> float:
    """AUC of labels in ascending order of score, given where a new score begins."""
    start = np.flatnonzero(new_score)
    tie_positives = np.add.reduceat(positive, start)
    tie_negatives = np.diff(start, append=len(positive)) - tie_positives
    num_positives, num_negatives = int(tie_positives.sum()), int(tie_negatives.sum())
    if num_positives == 0 or num_negatives == 0:
        return float("nan")
    negatives_below = np.cumsum(tie_negatives) - tie_negatives
    twice_won = int((tie_positives * (2 * negatives_below + tie_negatives)).sum())
    return twice_won / (2 * num_positives * num_negatives)
