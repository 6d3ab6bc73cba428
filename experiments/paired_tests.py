"""Paired tests of one model against its baselines, on predictions averaged over the seeds."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.results_table import Predictions, check_same_rows, read_lines, write_lines
from graphrec.evaluation import clustered_bootstrap, delong, group_codes, holm

DELONG = "DeLong"
BOOTSTRAP = "bootstrap by user"
_METRIC_IN_WORDS = {
    "auc": "AUC",
    "gauc[user,period; impressions]": "GAUC by user and period",
    "gauc[user; impressions]": "GAUC by user",
    "log_loss": "log loss",
}
_LOWER_IS_BETTER = frozenset({"log_loss"})


class PairedTest(NamedTuple):
    """One paired test; figures are those of the predictions averaged over the seeds."""

    run: str
    data: str
    model: str
    baseline: str
    metric: str
    method: str
    model_value: float
    baseline_value: float
    difference: float
    """``model_value - baseline_value``."""
    lower: float
    upper: float
    """95% interval of ``difference``, not corrected."""
    p_value: float
    p_value_holm: float
    """Corrected over the baselines, within one metric and method."""
    num_baselines: int
    n: int
    """Rows tested."""
    model_seeds: int
    baseline_seeds: int
    verdict: str


class _Comparison(NamedTuple):
    model_value: float
    baseline_value: float
    difference: float
    lower: float
    upper: float
    p_value: float


def pairwise_tests(
    predictions: Mapping[str, Sequence[Predictions]],
    *,
    candidate: str | None = None,
    period_seconds: int = 3600,
    utc_offset_seconds: int = 0,
    num_resamples: int = 2000,
    random_seed: int = 0,
) -> list[PairedTest]:
    """Test ``candidate`` (by default the first model) against every other model, the baselines.

    ``predictions`` holds each model's predictions, one entry per seed. AUC is tested by DeLong's test on the
    rows and by a bootstrap over users, who have many rows each; GAUC and log loss by the bootstrap. Holm's
    correction is over the baselines. Raises ``ValueError`` unless all predictions are of the same rows in
    the same order, and unless there is a baseline.
    """
    candidate = candidate if candidate is not None else next(iter(predictions), "")
    if candidate not in predictions or len(predictions) < 2 or not all(predictions.values()):
        raise ValueError(
            "wanted the predictions of the candidate and of one baseline or more, at least one seed each; "
            f"got the candidate {candidate!r} and { ({m: len(p) for m, p in predictions.items()}) }"
        )
    check_same_rows([one for seeds in predictions.values() for one in seeds])
    first = predictions[candidate][0]
    score = {
        model: np.asarray(np.mean([one.score for one in seeds], axis=0, dtype=np.float64))
        for model, seeds in predictions.items()
    }
    period = (first.time.astype(np.int64) + utc_offset_seconds) // period_seconds
    group_of_metric = {
        "gauc[user,period; impressions]": group_codes(first.user, period),
        "gauc[user; impressions]": group_codes(first.user),
    }

    def compare(metric: str, method: str, baseline: str) -> _Comparison:
        if method == DELONG:
            test = delong(first.label, score[candidate], score[baseline])
            return _Comparison(test.auc_a, test.auc_b, test.difference, test.lower, test.upper, test.p_value)
        return _compare_by_bootstrap(
            first,
            score[candidate],
            score[baseline],
            metric,
            group_of_metric.get(metric),
            num_resamples,
            random_seed,
        )

    baselines = [model for model in predictions if model != candidate]
    tests = [("auc", DELONG), *((metric, BOOTSTRAP) for metric in _METRIC_IN_WORDS)]
    rows: list[PairedTest] = []
    for metric, method in tests:
        compared = [compare(metric, method, baseline) for baseline in baselines]
        corrected = holm([one.p_value for one in compared]).tolist()
        for baseline, one, p_value_holm in zip(baselines, compared, corrected, strict=True):
            row = PairedTest(
                run=first.run,
                data=first.data,
                model=candidate,
                baseline=baseline,
                metric=metric,
                method=method,
                **one._asdict(),
                p_value_holm=p_value_holm,
                num_baselines=len(baselines),
                n=len(first.label),
                model_seeds=len(predictions[candidate]),
                baseline_seeds=len(predictions[baseline]),
                verdict="",
            )
            rows.append(row._replace(verdict=verdict_in_words(row)))
    return rows


def verdict_in_words(row: PairedTest, *, significance_level: float = 0.05) -> str:
    """Say who leads, by how much and how surely: LSTTM leads DeepFM by 0.0040 AUC (... p = 0.003 ...)."""
    name = _METRIC_IN_WORDS[row.metric]
    if math.isnan(row.p_value_holm) or math.isnan(row.difference):
        return f"{row.model} and {row.baseline} cannot be compared in {name}: the test is undefined here."
    correction = (
        f" after Holm's correction over {row.num_baselines} baselines" if row.num_baselines > 1 else ""
    )
    proof = f"{row.method}, {_p_in_words(row.p_value_holm)}{correction}"
    if row.p_value_holm >= significance_level:
        return (
            f"{row.model} and {row.baseline} cannot be told apart in {name}: the difference is "
            f"{row.difference:+.4f} (95% interval {row.lower:+.4f} to {row.upper:+.4f}; {proof})."
        )
    model_leads = (row.difference > 0) != (row.metric in _LOWER_IS_BETTER)
    leader, other = (row.model, row.baseline) if model_leads else (row.baseline, row.model)
    ends = sorted([abs(row.lower), abs(row.upper)])
    remark = " (lower is better)" if row.metric in _LOWER_IS_BETTER else ""
    # a corrected p below the level implies an interval on one side of 0, but for the rounding of a bootstrap
    interval = f"95% interval {ends[0]:.4f} to {ends[1]:.4f}; " if row.lower * row.upper > 0 else ""
    return f"{leader} leads {other} by {abs(row.difference):.4f} {name}{remark} ({interval}{proof})."


def write_tests(path: Path, rows: Sequence[PairedTest]) -> None:
    """Write tests as JSON lines, in the place of an earlier file; an undefined figure becomes null."""
    write_lines(path, [_nan_to_none(row._asdict()) for row in rows])


def read_tests(path: Path) -> list[PairedTest]:
    """Read the tests of a file that `write_tests` wrote; none where it is missing."""
    tests = []
    for line in read_lines(path):
        known: dict[str, Any] = {name: math.nan if value is None else value for name, value in line.items()}
        tests.append(PairedTest(**known))
    return tests


def _compare_by_bootstrap(
    rows: Predictions,
    score: np.ndarray,
    baseline_score: np.ndarray,
    metric: str,
    group: np.ndarray | None,
    num_resamples: int,
    random_seed: int,
) -> _Comparison:
    """Compare under resampling of users; the metric's name without its weighting is the bootstrap's."""
    name: Any = metric.partition("[")[0]
    difference = clustered_bootstrap(
        rows.label,
        score,
        rows.user,
        metric=name,
        score_b=baseline_score,
        group=group,
        num_resamples=num_resamples,
        random_seed=random_seed,
    )
    # two resamples: this call is for the value on all rows alone
    model_value = clustered_bootstrap(
        rows.label, score, rows.user, metric=name, group=group, num_resamples=2
    ).value
    lower, upper = difference.interval
    return _Comparison(
        model_value, model_value - difference.value, difference.value, lower, upper, difference.p_value
    )


def _p_in_words(p_value: float) -> str:
    if p_value < 0.0001:
        return "p < 0.0001"
    return f"p = {p_value:.4f}" if p_value < 0.001 else f"p = {p_value:.3f}"


def _nan_to_none(line: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in line.items()
    }
