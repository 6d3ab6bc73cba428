"""Comparisons of models put into words, after Holm's correction over all that were made of one kind."""

import math
from collections.abc import Hashable

from graphrec.evaluation.figures import Comparison
from graphrec.evaluation.significance import holm

METRIC_IN_WORDS = {
    "auc": "AUC",
    "average_precision": "average precision",
    "brier_score": "Brier score",
    "calibration_ratio": "calibration ratio",
    "click_rate": "click rate",
    "ece": "calibration error",
    "expected_calibration_error": "calibration error",
    "gauc": "GAUC",
    "gauc_groups_left_out": "share of groups that GAUC leaves out",
    "gauc_rows_left_out": "share of rows that GAUC leaves out",
    "hit_rate": "hit rate",
    "log_loss": "log loss",
    "mean_hourly_auc": "mean hourly AUC",
    "mean_score": "mean score",
    "mrr": "MRR",
    "ndcg": "NDCG",
    "normalized_entropy": "normalised entropy",
    "num_clicks": "clicks",
    "ranking_rows_left_out": "share of rows that ranking leaves out",
    "relative_information_gain": "relative information gain",
}
"""Metrics by what stands before a bracket or an @; `metric_in_words` adds these."""
LOWER_IS_BETTER = frozenset(
    {"log_loss", "normalized_entropy", "brier_score", "ece", "expected_calibration_error"}
)
WITHOUT_DIRECTION = frozenset(
    {
        "click_rate",
        "gauc_groups_left_out",
        "gauc_rows_left_out",
        "mean_score",
        "num_clicks",
        "ranking_rows_left_out",
    }
)
"""Neither more nor less of these is better."""
_NEARER_TO_ONE = "calibration_ratio"
_WEIGHT_IN_WORDS = {"impressions": "", "clicks": " weighted by clicks", "groups": " with equal groups"}
_SLICES_IN_WORDS = {"hour": "hours", "day": "days", "period": "periods"}


def corrected(comparisons: list[Comparison]) -> list[Comparison]:
    """Fill ``p_value_corrected``, ``num_tests`` and ``verdict``, in the order given (Holm, 1979).

    All comparisons by one metric and method over the slice ``all`` are one family, whatever the baseline; so
    are those over all slices by one column: 24 hours and 2 baselines are 48 tests. A test that could not be
    made (NaN) counts among them.
    """
    families: dict[Hashable, list[int]] = {}
    for position, one in enumerate(comparisons):
        families.setdefault((one.metric, one.method, _column_of(one.slice)), []).append(position)
    found = list(comparisons)
    for members in families.values():
        p_values = holm([comparisons[position].p_value for position in members]).tolist()
        for position, p_value in zip(members, p_values, strict=True):
            one = comparisons[position]._replace(p_value_corrected=p_value, num_tests=len(members))
            found[position] = one._replace(verdict=verdict_in_words(one))
    return found


def verdict_in_words(comparison: Comparison, significance_level: float = 0.05) -> str:
    """Say who leads, by how much and how surely: LSTTM leads DeepFM by 0.0040 AUC in hour 08 (...)."""
    model, baseline, difference = comparison.model, comparison.baseline, comparison.difference
    name = metric_in_words(comparison.metric) + slice_in_words(comparison.slice)
    if math.isnan(comparison.p_value_corrected) or math.isnan(difference):
        return f"{model} and {baseline} cannot be compared in {name}: the test is undefined here."
    proof = f"{comparison.method}, {_p_in_words(comparison.p_value_corrected)}{_correction(comparison)}"
    signed = f"95% interval {comparison.lower:+.4f} to {comparison.upper:+.4f}; {proof}"
    if not _is_significant(comparison, significance_level):
        return (
            f"{model} and {baseline} cannot be told apart in {name}: the difference is "
            f"{difference:+.4f} ({signed})."
        )
    base = _base_of(comparison.metric)
    if base == _NEARER_TO_ONE:
        return _calibration_in_words(comparison, name, signed)
    if base in WITHOUT_DIRECTION:
        return f"{model} and {baseline} differ by {difference:+.4f} in {name} ({signed})."
    leader = _leader(comparison)
    other = baseline if leader == model else model
    lower, upper = sorted([abs(comparison.lower), abs(comparison.upper)])
    remark = " (lower is better)" if base in LOWER_IS_BETTER else ""
    # a corrected p below the level implies an interval on one side of 0, but for the rounding of a bootstrap
    one_side = comparison.lower * comparison.upper > 0
    interval = f"95% interval {lower:.4f} to {upper:.4f}; " if one_side else ""
    what = metric_in_words(comparison.metric) + remark + slice_in_words(comparison.slice)
    return f"{leader} leads {other} by {abs(difference):.4f} {what} ({interval}{proof})."


def summary_in_words(comparisons: list[Comparison], significance_level: float = 0.05) -> str:
    """Count the slices in which each leads: A leads B in 20 of 24 hours, significantly in 7 after correction.

    One sentence for each pair of models and slicing column; where several metrics or methods are given, each
    sentence names its own. The slice ``all`` is passed over, so the text is empty where there is no other.
    """
    groups: dict[tuple[str, ...], list[Comparison]] = {}
    for one in comparisons:
        if one.slice != "all":
            key = (one.metric, one.method, one.model, one.baseline, _column_of(one.slice))
            groups.setdefault(key, []).append(one)
    several = len({key[:2] for key in groups}) > 1
    sentences = []
    for (metric, method, *_), group in groups.items():
        prefix = f"{metric_in_words(metric)} ({method}): " if several else ""
        sentences.append(prefix + _count_in_words(group, significance_level))
    return " ".join(sentences)


def metric_in_words(metric: str) -> str:
    """``gauc[user,period; impressions]`` as GAUC by user and period, ``ndcg@10[user]`` as NDCG@10 by user.

    Raises ``ValueError`` for a metric that `METRIC_IN_WORDS` lacks.
    """
    before, _, inside = metric.partition("[")
    base, at, cutoff = before.partition("@")
    if base not in METRIC_IN_WORDS:
        raise ValueError(f"no words for the metric {metric!r}; known: {', '.join(METRIC_IN_WORDS)}")
    groups, _, weight = inside.rstrip("]").partition(";")
    by = f" by {groups.strip().replace(',', ' and ')}" if groups else ""
    weight = weight.strip()
    return (
        METRIC_IN_WORDS[base]
        + at
        + cutoff
        + by
        + _WEIGHT_IN_WORDS.get(weight, f" weighted by {weight}" if weight else "")
    )


def slice_in_words(slice_name: str) -> str:
    """`` in hour 08`` for ``hour=08``, nothing for ``all``; made to follow a metric."""
    if slice_name == "all":
        return ""
    column, _, value = slice_name.partition("=")
    return f" {'on' if column == 'day' else 'in'} {column} {value}"


def _count_in_words(group: list[Comparison], significance_level: float) -> str:
    first = group[0]
    column = _column_of(first.slice)
    slices = f"{len(group)} {_SLICES_IN_WORDS.get(column, f'values of {column}')}"
    undefined = sum(math.isnan(one.p_value_corrected) for one in group)
    remark = f" ({undefined} cannot be compared)" if undefined else ""
    if _base_of(first.metric) in WITHOUT_DIRECTION:
        differ = sum(_is_significant(one, significance_level) for one in group)
        return (
            f"{first.model} and {first.baseline} differ significantly in {differ or 'none'} "
            f"of {slices}{remark} after correction."
        )
    leads = [one for one in group if _leader(one) == first.model]
    proven = [one for one in group if _is_significant(one, significance_level) and _shows_leader(one)]
    by_model = sum(_leader(one) == first.model for one in proven)
    by_baseline = sum(_leader(one) == first.baseline for one in proven)
    return (
        f"{first.model} leads {first.baseline} in {len(leads) or 'none'} of {slices}{remark}, "
        f"significantly in {by_model or 'none'} after correction; "
        f"{first.baseline} leads significantly in {by_baseline or 'none'}."
    )


def _calibration_in_words(comparison: Comparison, name: str, signed: str) -> str:
    """Say whose ratio is nearer to 1, and whether the test of the difference shows it."""
    values = f"{comparison.model_value:.4f} against {comparison.baseline_value:.4f}"
    if not _shows_leader(comparison):
        return (
            f"{comparison.model} and {comparison.baseline} differ in {name}, {values}, on either side of 1; "
            f"which is nearer was not tested ({signed})."
        )
    leader = _leader(comparison)
    other = comparison.baseline if leader == comparison.model else comparison.model
    return (
        f"{leader} leads {other} in {name}: {comparison.model}'s is {comparison.model_value:.4f}, "
        f"{comparison.baseline}'s {comparison.baseline_value:.4f}, nearer to 1 is better ({signed})."
    )


def _leader(comparison: Comparison) -> str | None:
    """Who has the better value, significantly or not; None for equal or undefined values."""
    base = _base_of(comparison.metric)
    if base == _NEARER_TO_ONE:
        lead = abs(comparison.baseline_value - 1.0) - abs(comparison.model_value - 1.0)
    else:
        lead = -comparison.difference if base in LOWER_IS_BETTER else comparison.difference
    if base in WITHOUT_DIRECTION or math.isnan(lead) or lead == 0.0:
        return None
    return comparison.model if lead > 0.0 else comparison.baseline


def _shows_leader(comparison: Comparison) -> bool:
    """Whether a difference that is not 0 tells who leads: not for calibration ratios on either side of 1."""
    if _base_of(comparison.metric) != _NEARER_TO_ONE:
        return True
    return (comparison.model_value - 1.0) * (comparison.baseline_value - 1.0) >= 0.0


def _is_significant(comparison: Comparison, significance_level: float) -> bool:
    return comparison.p_value_corrected < significance_level  # NaN is not


def _correction(comparison: Comparison) -> str:
    if comparison.num_tests < 2:
        return ""
    if comparison.slice == "all":
        return f" after Holm's correction over {comparison.num_tests} baselines"
    return f" after Holm's correction over {comparison.num_tests} tests by {_column_of(comparison.slice)}"


def _column_of(slice_name: str) -> str:
    return slice_name.partition("=")[0]


def _base_of(metric: str) -> str:
    return metric.partition("[")[0].partition("@")[0]


def _p_in_words(p_value: float) -> str:
    if p_value < 0.0001:
        return "p < 0.0001"
    return f"p = {p_value:.4f}" if p_value < 0.001 else f"p = {p_value:.3f}"
