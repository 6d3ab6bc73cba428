"""Figures of methods on users' tasks: each seed's values, and differences under a bootstrap over users.

A family is tasks of one kind that share a table; its figure is the mean over its tasks. Lines are plain
dictionaries: they go into a result file, and ``experiments.task_report`` makes tables of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from graphrec.evaluation import auc, holm
from graphrec.evaluation.significance import (
    bootstrap_auc,
    bootstrap_average_precision,
    bootstrap_sums,
    interval_of,
    p_value_of,
)

MEAN = "mean"  # figure of a family: over its tasks
NUM_RESAMPLES = 1000
RANKINGS: Mapping[str, tuple[Callable[..., Any], Callable[..., Any]]] = {  # a figure, and how it is resampled
    "auc": (auc, bootstrap_auc),
    "aupr": (average_precision_score, bootstrap_average_precision),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskScores:
    """What a method gave the test queries of a task.

    Attributes:
        user_id: of each query; integers.
        time: of each query, in the data's unit.
        label: 0 or 1; None where ``values`` are figures already.
        values: an array a seed, one value a query: a probability of a 1, or, without labels, a figure of the
            query such as AP@10, or whether its class was found.

    """

    user_id: np.ndarray
    time: np.ndarray
    label: np.ndarray | None
    values: tuple[np.ndarray, ...]

    def __post_init__(self) -> None:
        sizes = {len(one) for one in (self.user_id, self.time, *self.values)}
        if len(sizes) != 1 or not self.values or (self.label is not None and len(self.label) not in sizes):
            raise ValueError(f"one user, time, label and value of each seed a query; got lengths {sizes}")


@dataclass(frozen=True, kw_only=True, eq=False)
class MethodScores:
    """A method's test scores of a family of tasks.

    Attributes:
        name: of the method.
        seeds: of the values of every task.
        tasks: by name; all with labels, or none.

    """

    name: str
    seeds: tuple[int, ...]
    tasks: Mapping[str, TaskScores]


def figure_of(metric: str, label: np.ndarray | None, value: np.ndarray) -> float:
    """Return "auc", "aupr" or "accuracy" (of a half and more for 1), or without labels the values' mean.

    NaN where a ranking has one class alone.

    Raises:
        ValueError: labels with a metric that is none of these.

    """
    if label is None:
        return float(value.mean())
    if metric == "accuracy":
        return float(((value >= 0.5) == (label > 0)).mean())
    if metric not in RANKINGS:
        raise ValueError(f"no metric {metric!r} of labels; there are {['accuracy', *RANKINGS]}")
    return float("nan") if label.min() == label.max() else float(RANKINGS[metric][0](label, value))


def figure_rows(method: MethodScores, family: str, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Return a line for each task and metric, and for their mean over the tasks, with all seeds' values.

    Args:
        method: its scores.
        family: name of the tasks together.
        metrics: as :func:`figure_of` has them; without labels what the mean of the values is called.

    """
    lines, of_tasks = list[dict[str, Any]](), dict[str, list[list[float]]]()
    for name, task in method.tasks.items():
        for metric in metrics:
            values = [figure_of(metric, task.label, value) for value in task.values]
            of_tasks.setdefault(metric, []).append(values)
            lines.append(_line(method, family, name, metric, values, [task]))
    if len(method.tasks) > 1:
        tasks = list(method.tasks.values())
        for metric, found in of_tasks.items():
            lines.append(_line(method, family, MEAN, metric, np.mean(found, axis=0).tolist(), tasks))
    return lines


def compare_methods(
    candidate: MethodScores,
    others: Sequence[MethodScores],
    family: str,
    metric: str,
    *,
    baselines: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Return the candidate's figures minus those of each other method, under a bootstrap over users.

    A figure is the mean over a method's seeds. Resamples of users are the same for all methods and tasks.
    p-values are corrected by Holm's method over the other methods, for each task and their mean.

    Args:
        candidate: whose lead is looked for.
        others: what it is compared with, on the same queries in the same order.
        family: name of the tasks together.
        metric: as :func:`figure_rows` has it.
        baselines: names of the methods among which the best one of the test is marked.

    Raises:
        ValueError: a method has scored other queries than the candidate.

    """
    _check_same_queries(candidate, others)
    resampled = {method.name: _resample(method, metric) for method in (candidate, *others)}
    lines = list[dict[str, Any]]()
    for figure, (value, drawn) in resampled[candidate.name].items():
        found = list[dict[str, Any]]()
        for other in others:
            other_value, other_drawn = resampled[other.name][figure]
            lower, upper = interval_of(drawn - other_drawn)
            found.append(
                {
                    "family": family,
                    "figure": figure,
                    "metric": metric,
                    "method": candidate.name,
                    "other": other.name,
                    "difference": round(value - other_value, 5),
                    "lower": round(lower, 5),
                    "upper": round(upper, 5),
                    "p_value": p_value_of(value - other_value, drawn - other_drawn),
                }
            )
        lines += correct_tests(found, baselines)
    return lines


def correct_tests(tests: Sequence[Mapping[str, Any]], baselines: Sequence[str]) -> list[dict[str, Any]]:
    """Correct p-values by Holm's method over the other methods of a figure, and mark its best baseline.

    Args:
        tests: lines of :func:`compare_methods`, corrected before or not; ``p_value`` is read.
        baselines: as there.

    """
    found = [{**test, "best_baseline": False} for test in tests]
    groups = dict[tuple[str, str], list[dict[str, Any]]]()
    for line in found:
        groups.setdefault((line["family"], line["figure"]), []).append(line)
    for group in groups.values():
        for line, p_value in zip(group, holm([one["p_value"] for one in group]), strict=True):
            line["p_value"] = float(f"{line['p_value']:.3g}")
            line["p_value_corrected"] = float(f"{p_value:.3g}")
        rivals = [line for line in group if line["other"] in baselines]
        if rivals:
            min(rivals, key=lambda line: line["difference"])["best_baseline"] = True
    return found


def _line(
    method: MethodScores,
    family: str,
    figure: str,
    metric: str,
    values: Sequence[float],
    tasks: Sequence[TaskScores],
) -> dict[str, Any]:
    return {
        "family": family,
        "method": method.name,
        "figure": figure,
        "metric": metric,
        "values": [round(value, 5) for value in values],
        "seeds": list(method.seeds),
        "num_queries": sum(len(task.user_id) for task in tasks),
        "num_users": len(np.unique(np.concatenate([task.user_id for task in tasks]))),
    }


def _check_same_queries(candidate: MethodScores, others: Sequence[MethodScores]) -> None:
    for other in others:
        for name, task in candidate.tasks.items():
            theirs = other.tasks.get(name)
            if (
                theirs is None
                or not np.array_equal(task.user_id, theirs.user_id)
                or not np.array_equal(task.time, theirs.time)
            ):
                raise ValueError(f"{other.name!r} scored other queries of {name!r} than {candidate.name!r}")


def _resample(method: MethodScores, metric: str) -> dict[str, tuple[float, np.ndarray]]:
    """Return each figure and its resamples, means over the seeds."""
    users = np.unique(np.concatenate([task.user_id for task in method.tasks.values()]))
    found = dict[str, tuple[float, np.ndarray]]()
    for name, task in method.tasks.items():
        cluster = np.searchsorted(users, task.user_id)
        figure = float(np.mean([figure_of(metric, task.label, value) for value in task.values]))
        if task.label is not None and metric in RANKINGS:
            drawn = RANKINGS[metric][1](
                task.label.astype(np.uint8),
                [np.ascontiguousarray(value) for value in task.values],
                cluster,
                NUM_RESAMPLES,
                0,
                num_clusters=len(users),
            ).mean(axis=1)
        else:
            right = task.values
            if task.label is not None:
                right = tuple((value >= 0.5) == (task.label > 0) for value in task.values)
            sums = np.zeros((len(users), 2))
            np.add.at(sums, cluster, np.column_stack([np.mean(right, axis=0), np.ones(len(cluster))]))
            both = bootstrap_sums(sums, NUM_RESAMPLES, 0)
            drawn = both[:, 0] / both[:, 1]
        found[name] = figure, drawn
    if len(found) > 1:
        of_tasks = list(found.values())
        found[MEAN] = (
            float(np.mean([figure for figure, _ in of_tasks])),
            np.mean([drawn for _, drawn in of_tasks], axis=0),
        )
    return found
