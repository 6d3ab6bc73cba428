"""Figures of each run, and paired tests on predictions averaged over its seeds, by `graphrec.evaluation`."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.results_table import RunPredictions, check_same_rows, read_lines, write_lines
from graphrec.evaluation import Comparison, Evaluation, Figure, Predictions, ReadOptions, evaluate


def figures_of_seed(
    predictions: Sequence[RunPredictions],
    *,
    period_seconds: int = 3600,
    utc_offset_seconds: int = 0,
    by: Sequence[str] = (),
) -> list[Figure]:
    """Compute all figures of several models with one seed, which have scored the same rows.

    They are of all rows and of slices by hour, period of the day and day, or by those in ``by`` alone.
    Intervals are left out: what a seed changes shows in the deviation over the seeds.
    """
    score = {one.model: one.score for one in predictions}
    found = _evaluate(predictions, score, period_seconds, utc_offset_seconds, by=by, num_resamples=0)
    seed_of = {one.model: one.seed for one in predictions}
    return [
        figure._replace(seed=seed_of[figure.model], lower=math.nan, upper=math.nan)
        for figure in found.figures
    ]


def pairwise_tests(
    predictions: Mapping[str, Sequence[RunPredictions]],
    *,
    candidate: str | None = None,
    period_seconds: int = 3600,
    utc_offset_seconds: int = 0,
    num_resamples: int = 2000,
    random_seed: int = 0,
    by: Sequence[str] = (),
) -> list[Comparison]:
    """Test ``candidate`` (by default the first model) against every other model, the baselines.

    ``predictions`` holds each model's predictions, one entry a seed; they are averaged over the seeds. The
    tests are those of `evaluate`, over all rows and by hour, period of the day and day (or ``by``). Raises
    ``ValueError`` unless all predictions are of the same rows in the same order, and unless there is a
    baseline.
    """
    candidate = candidate if candidate is not None else next(iter(predictions), "")
    if candidate not in predictions or len(predictions) < 2 or not all(predictions.values()):
        raise ValueError(
            "wanted the predictions of the candidate and of one baseline or more, at least one seed each; "
            f"got the candidate {candidate!r} and { ({m: len(p) for m, p in predictions.items()}) }"
        )
    everything = [one for seeds in predictions.values() for one in seeds]
    order = [candidate, *(model for model in predictions if model != candidate)]
    score = {
        model: np.asarray(np.mean([one.score for one in predictions[model]], axis=0, dtype=np.float64))
        for model in order
    }
    return _evaluate(
        everything,
        score,
        period_seconds,
        utc_offset_seconds,
        by=by,
        num_resamples=num_resamples,
        random_seed=random_seed,
    ).comparisons


def write_tests(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Write tests as JSON lines, in the place of an earlier file; an undefined figure becomes null."""
    write_lines(path, [_nan_to_none(one._asdict()) for one in comparisons])


def read_tests(path: Path) -> list[Comparison]:
    """Read the tests of a file that `write_tests` wrote; none where it is missing."""
    tests = []
    for line in read_lines(path):
        known: dict[str, Any] = {name: math.nan if value is None else value for name, value in line.items()}
        tests.append(Comparison(**known))
    return tests


def _evaluate(
    predictions: Sequence[RunPredictions],
    score: Mapping[str, np.ndarray],
    period_seconds: int,
    utc_offset_seconds: int,
    *,
    by: Sequence[str],
    num_resamples: int,
    random_seed: int = 0,
) -> Evaluation:
    check_same_rows(predictions)
    first = predictions[0]
    local_time = first.time.astype(np.int64) + utc_offset_seconds
    rows = Predictions(
        label=first.label.astype(np.uint8),
        score=score,
        user=np.unique(first.user, return_inverse=True)[1].astype(np.int32),
        hour=(local_time // 3600).astype(np.int32),
        period=(local_time // period_seconds).astype(np.int32),
    )
    return evaluate(
        rows, columns=ReadOptions(by=tuple(by)), num_resamples=num_resamples, random_seed=random_seed
    )


def _nan_to_none(line: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in line.items()
    }
