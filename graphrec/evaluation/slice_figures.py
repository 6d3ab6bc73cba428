"""All figures of one slice of the rows, their intervals, and the first model's tests against the others."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, Integer

from graphrec.evaluation.compiled import order_by_code, take
from graphrec.evaluation.ctr import (
    SUM_COLUMNS,
    BinStrategy,
    ReliabilityCurve,
    bin_sums,
    probability_sums,
    ranked_figures,
)
from graphrec.evaluation.figures import Comparison, Figure
from graphrec.evaluation.ranking import GROUP_SUM_COLUMNS, group_sums
from graphrec.evaluation.significance import (
    DeLongCovariance,
    auc_interval,
    bootstrap_average_precision,
    bootstrap_sums,
    delong_covariance,
    delong_test,
    interval_of,
    p_value_of,
)

WEIGHTS = ("impressions", "clicks", "groups")
_MOST_WALKED_ROWS = 20_000_000_000  # rows x resamples x models of a bootstrap that walks rows: minutes
_MOST_INDEPENDENT = (
    20_000_000  # rows of DeLong's test with independent rows: it holds 8 bytes a row and model
)
_MOST_ELEMENTS = 50_000_000  # of one matrix of the clusters' sums: 400 MB

_RESAMPLED_BY_SLICE = ("auc_impressions", "weight_impressions")  # all columns would take most of the time

_Sums = dict[str, np.ndarray]


@dataclass(frozen=True)
class FigureOptions:
    """What to compute.

    Attributes:
        k: length of the ranked list of NDCG@k and of the hit rate.
        num_bins: bins of the calibration error and the reliability curve.
        bin_strategy: ``quantile`` (equal numbers of rows) or ``width`` (equal widths of the score).
        num_resamples: resamples of the bootstrap; 0 leaves its intervals and tests out.
        random_seed: of the bootstrap.
        cluster: what the bootstrap draws whole: ``user``, ``request`` or ``row``.
        is_probability: whether the figures of probabilities are wanted.

    """

    k: int = 10
    num_bins: int = 20
    bin_strategy: BinStrategy = "quantile"
    num_resamples: int = 1000
    random_seed: int = 0
    cluster: str = "user"
    is_probability: bool = True

    def __post_init__(self) -> None:
        for name, least in (("k", 1), ("num_bins", 1), ("num_resamples", 0), ("random_seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.num_resamples == 1:
            raise ValueError("num_resamples must be 0 (no bootstrap) or at least 2, got 1")
        if self.bin_strategy not in ("quantile", "width"):
            raise ValueError(f"bin_strategy must be quantile or width, got {self.bin_strategy!r}")


class Rows(NamedTuple):
    """The rows of a slice, contiguous by cluster; all columns of one length."""

    label: np.ndarray
    score: dict[str, np.ndarray]
    cluster: np.ndarray | None
    """Ascending codes of users (requests where there are no users); None: each row stands for itself."""
    request: np.ndarray | None
    hour: np.ndarray | None
    period: np.ndarray | None

    def take(self, index: Integer[np.ndarray, " num_taken"]) -> "Rows":
        """Return some of the rows; ``index`` ascends."""
        cluster, request, hour, period = (None if one is None else take(one, index) for one in self[2:])
        score = {name: take(one, index) for name, one in self.score.items()}
        return Rows(take(self.label, index), score, cluster, request, hour, period)


class SliceFigures(NamedTuple):
    """What `figures_of_slice` found; comparisons are not corrected yet."""

    figures: list[Figure]
    comparisons: list[Comparison]
    curves: dict[str, ReliabilityCurve]
    notes: list[str]


class _Grouping(NamedTuple):
    """Groups are the distinct (cluster, part)."""

    name: str
    part: np.ndarray | None


def figures_of_slice(name: str, rows: Rows, options: FigureOptions) -> SliceFigures:
    """Compute all figures of one slice; reliability curves only for the slice ``all``."""
    ptr, local = _clusters(rows)
    notes: list[str] = []
    groupings = _groupings(rows, options)
    ranked = {
        model: ranked_figures(rows.label, score, options.num_bins, options.bin_strategy)
        for model, score in rows.score.items()
    }
    sums: dict[str, list[_Sums]] = {}
    for model, score in rows.score.items():
        curve = ranked[model].curve if options.is_probability else None
        sums[model] = _sums(rows.label, score, ptr, groupings, curve, options)
    values = {
        model: {
            "auc": ranked[model].auc,
            "average_precision": ranked[model].average_precision,
            **{metric: value.item() for metric, value in _metrics(_totals(parts), options).items()},
        }
        for model, parts in sums.items()
    }
    resampled = _resample(name, rows, local, sums, options, notes)
    covariance = delong_covariance(rows.label, list(rows.score.values()), cluster=local)
    figures = []
    for position, (model, found) in enumerate(values.items()):
        intervals = {metric: interval_of(drawn) for metric, drawn in resampled[model].items()}
        if "ece" in intervals:
            intervals["ece"] = _interval_of_error(found["ece"], resampled[model]["ece"])
        intervals["auc"] = auc_interval(
            float(covariance.auc[position]), float(covariance.covariance[position, position])
        )
        for metric, value in found.items():
            lower, upper = intervals.get(metric, (math.nan, math.nan))
            figures.append(Figure(model, name, metric, value, len(rows.label), lower, upper))
        if rows.hour is not None and not name.startswith("hour="):
            mean, num_hours = _mean_hourly_auc(rows.label, rows.score[model], rows.hour)
            figures.append(Figure(model, name, "mean_hourly_auc", mean, num_hours))
    curves = {}
    if name == "all" and options.is_probability:
        curves = {model: one.curve for model, one in ranked.items() if one.curve is not None}
    for model, curve in curves.items():
        figures += _reliability_figures(model, curve)
    method = "DeLong" if local is None else f"DeLong, by {options.cluster}"
    comparisons = _auc_comparisons(name, rows, covariance, method)
    if local is not None and len(rows.score) > 1 and name == "all" and len(rows.label) <= _MOST_INDEPENDENT:
        independent = delong_covariance(rows.label, list(rows.score.values()))
        comparisons += _auc_comparisons(name, rows, independent, "DeLong")
    comparisons += _bootstrap_comparisons(name, len(rows.label), values, resampled, options)
    return SliceFigures(figures, comparisons, curves, notes)


def _clusters(rows: Rows) -> tuple[Int64[np.ndarray, " num_bounds"], np.ndarray | None]:
    """Where each cluster's rows begin and end, and the clusters counted from 0."""
    num_rows = len(rows.label)
    if rows.cluster is None:
        return np.arange(num_rows + 1), None
    starts = np.flatnonzero(rows.cluster[1:] != rows.cluster[:-1]) + 1
    ptr = np.concatenate([[0], starts, [num_rows]])
    local = np.repeat(np.arange(len(ptr) - 1, dtype=np.int32), np.diff(ptr))
    return ptr, local


def _groupings(rows: Rows, options: FigureOptions) -> list[_Grouping]:
    if options.cluster == "row":
        return []
    if options.cluster == "request":
        return [_Grouping("request", None)]
    found = [_Grouping("user", None)]
    if rows.period is not None:
        found.append(_Grouping("user,period", rows.period))
    if rows.request is not None:
        found.append(_Grouping("request", rows.request))
    return found


def _sums(
    label: np.ndarray,
    score: np.ndarray,
    ptr: np.ndarray,
    groupings: Sequence[_Grouping],
    curve: ReliabilityCurve | None,
    options: FigureOptions,
) -> list[_Sums]:
    """Sum each cluster's rows: all figures but AUC and average precision are functions of these sums."""
    base = probability_sums(label, score, ptr)
    wanted = SUM_COLUMNS if options.is_probability else SUM_COLUMNS[:2]
    parts = [{column: base[:, i] for i, column in enumerate(SUM_COLUMNS) if column in wanted}]
    for grouping in groupings:
        found = group_sums(label, score, ptr, grouping.part, options.k)
        parts.append(
            {f"{column}[{grouping.name}]": found[:, i] for i, column in enumerate(GROUP_SUM_COLUMNS)}
        )
    if curve is not None:
        edges = np.append(curve.lower, curve.upper[-1])
        bins = bin_sums(label, score, ptr, edges)
        num_bins = bins.shape[1] // 2
        parts.append(
            {f"bin_score[{i}]": bins[:, i] for i in range(num_bins)}
            | {f"bin_clicks[{i}]": bins[:, num_bins + i] for i in range(num_bins)}
        )
    return parts


def _totals(parts: Sequence[_Sums]) -> _Sums:
    return {column: values.sum(keepdims=True) for part in parts for column, values in part.items()}


def _metrics(sums: Mapping[str, np.ndarray], options: FigureOptions) -> dict[str, np.ndarray]:
    """Figures from sums over rows; the arrays may be totals or one total a resample."""
    n, clicks = sums["num_rows"], sums["num_clicks"]
    rate = _ratio(clicks, n)
    found = {"click_rate": rate, "num_clicks": clicks}
    if options.is_probability:
        loss = _ratio(sums["log_loss"], n)
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate)
        normalized = _ratio(loss, np.where((rate > 0) & (rate < 1), entropy, 0.0))
        found |= {
            "log_loss": loss,
            "normalized_entropy": normalized,
            "relative_information_gain": 1.0 - normalized,
            "brier_score": _ratio(sums["squared_error"], n),
            "calibration_ratio": _ratio(sums["score"], clicks),
            "mean_score": _ratio(sums["score"], n),
        }
        bins = [column[len("bin_score") :] for column in sums if column.startswith("bin_score")]
        errors = [np.abs(sums[f"bin_score{one}"] - sums[f"bin_clicks{one}"]) for one in bins]
        if errors:
            found["ece"] = _ratio(np.sum(errors, axis=0), n)
    for column in list(sums):
        if column.startswith("weight_impressions["):
            found |= _group_metrics(sums, column[len("weight_impressions") :], options.k)
    return found


def _group_metrics(sums: Mapping[str, np.ndarray], grouping: str, k: int) -> dict[str, np.ndarray]:
    inside = grouping[1:-1]
    found = {
        f"gauc[{inside}; {weight}]": _ratio(
            sums[f"auc_{weight}{grouping}"], sums[f"weight_{weight}{grouping}"]
        )
        for weight in WEIGHTS
        if f"weight_{weight}{grouping}" in sums
    }
    if f"num_groups{grouping}" not in sums:
        return found
    for what in ("rows", "groups"):
        total = sums[f"num_{what}{grouping}"]
        found[f"gauc_{what}_left_out{grouping}"] = _ratio(sums[f"{what}_left_out{grouping}"], total)
    ranked = sums[f"num_ranked_groups{grouping}"]
    found[f"ndcg@{k}{grouping}"] = _ratio(sums[f"ndcg{grouping}"], ranked)
    found[f"mrr{grouping}"] = _ratio(sums[f"reciprocal_rank{grouping}"], ranked)
    found[f"hit_rate@{k}{grouping}"] = _ratio(sums[f"hit{grouping}"], ranked)
    found[f"ranking_rows_left_out{grouping}"] = _ratio(
        sums[f"rows_not_ranked{grouping}"], sums[f"num_rows{grouping}"]
    )
    return found


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """NaN where the denominator is 0."""
    out = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    return np.divide(numerator, denominator, out=out, where=denominator != 0)


def _resample(
    name: str,
    rows: Rows,
    local: np.ndarray | None,
    sums: Mapping[str, list[_Sums]],
    options: FigureOptions,
    notes: list[str],
) -> dict[str, dict[str, np.ndarray]]:
    """Compute figures on resamples of whole clusters, the same ones for all models: differences pair."""
    num_clusters = len(next(iter(sums.values()))[0]["num_rows"])
    if not options.num_resamples or num_clusters < 2:
        return {model: {} for model in sums}
    columns = [
        (model, column, values)
        for model, parts in sums.items()
        for part in parts
        for column, values in part.items()
        if name == "all" or column in SUM_COLUMNS or column.partition("[")[0] in _RESAMPLED_BY_SLICE
    ]
    drawn: dict[str, _Sums] = {model: {} for model in sums}
    width = max(1, _MOST_ELEMENTS // num_clusters)
    for start in range(0, len(columns), width):
        block = columns[start : start + width]
        matrix = np.stack([values for *_, values in block], axis=1)
        found = bootstrap_sums(matrix, options.num_resamples, options.random_seed)
        for position, (model, column, _) in enumerate(block):
            drawn[model][column] = found[:, position]
    resampled = {model: _metrics(one, options) for model, one in drawn.items()}
    if name != "all":
        return resampled
    walked = len(rows.label) * options.num_resamples * len(rows.score)
    if walked > _MOST_WALKED_ROWS:
        notes.append(
            f"average precision has no interval: {options.num_resamples} resamples of {len(rows.label):,} "
            "rows would take too long; ask for fewer resamples"
        )
        return resampled
    cluster = local if local is not None else np.arange(len(rows.label), dtype=np.int32)
    precision = bootstrap_average_precision(
        rows.label, list(rows.score.values()), cluster, options.num_resamples, options.random_seed
    )
    for position, model in enumerate(rows.score):
        resampled[model]["average_precision"] = precision[:, position]
    return resampled


def _interval_of_error(value: float, resampled: np.ndarray) -> tuple[float, float]:
    """Interval of a calibration error, moved by the resamples' bias.

    Noise adds to an absolute error and never takes from it, so resamples have larger errors than the rows;
    their plain percentiles may miss the figure itself.
    """
    lower, upper = interval_of(resampled - (np.nanmean(resampled) - value))
    return max(lower, 0.0), upper


def _mean_hourly_auc(label: np.ndarray, score: np.ndarray, hour: np.ndarray) -> tuple[float, int]:
    """Unweighted mean of the AUCs of single hours of single days, and how many of them have both classes."""
    order, ptr = order_by_code(hour - hour.min(), int(hour.max() - hour.min()) + 1)
    found = group_sums(take(label, order), take(score, order), ptr)
    sums = dict(zip(GROUP_SUM_COLUMNS, found.sum(axis=0), strict=True))
    num_hours = int(sums["weight_groups"])
    return (float(sums["auc_groups"]) / num_hours if num_hours else math.nan), num_hours


def _reliability_figures(model: str, curve: ReliabilityCurve) -> list[Figure]:
    figures = []
    for position, count in enumerate(curve.num_rows.tolist()):
        name = f"reliability_bin={position:02d}"
        figures.append(Figure(model, name, "mean_score", float(curve.mean_score[position]), count))
        figures.append(Figure(model, name, "click_rate", float(curve.click_rate[position]), count))
    return figures


def _auc_comparisons(name: str, rows: Rows, found: DeLongCovariance, method: str) -> list[Comparison]:
    """DeLong's test of the first model against each other one."""
    models = list(rows.score)
    comparisons = []
    for position in range(1, len(models)):
        test = delong_test(found, 0, position)
        comparisons.append(
            Comparison(
                model=models[0],
                baseline=models[position],
                slice=name,
                metric="auc",
                method=method,
                model_value=test.auc_a,
                baseline_value=test.auc_b,
                difference=test.difference,
                lower=test.lower,
                upper=test.upper,
                p_value=test.p_value,
                p_value_corrected=math.nan,
                num_tests=0,
                n=len(rows.label),
            )
        )
    return comparisons


def _bootstrap_comparisons(
    name: str,
    num_rows: int,
    values: Mapping[str, Mapping[str, float]],
    resampled: Mapping[str, Mapping[str, np.ndarray]],
    options: FigureOptions,
) -> list[Comparison]:
    """Compare the first model with each other one in the figures that the bootstrap has."""
    first, *others = values
    metrics = [metric for metric in resampled[first] if _is_compared(metric, name, options.k)]
    comparisons = []
    for metric in metrics:
        for baseline in others:
            difference = values[first][metric] - values[baseline][metric]
            drawn = resampled[first][metric] - resampled[baseline][metric]
            lower, upper = interval_of(drawn)
            comparisons.append(
                Comparison(
                    model=first,
                    baseline=baseline,
                    slice=name,
                    metric=metric,
                    method=f"bootstrap by {options.cluster}",
                    model_value=values[first][metric],
                    baseline_value=values[baseline][metric],
                    difference=difference,
                    lower=lower,
                    upper=upper,
                    p_value=p_value_of(difference, drawn),
                    p_value_corrected=math.nan,
                    num_tests=0,
                    n=num_rows,
                )
            )
    return comparisons


def _is_compared(metric: str, slice_name: str, k: int) -> bool:
    """Whether a figure is tested: those that rank models; by slice only the two that most are about."""
    grouped = metric.startswith("gauc[") and metric.endswith("; impressions]")
    if slice_name != "all":
        return metric == "log_loss" or metric == "gauc[user; impressions]"
    return grouped or metric in ("average_precision", "log_loss") or metric.startswith(f"ndcg@{k}")
