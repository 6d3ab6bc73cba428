"""Figures of UserBERT's tables from the test's parts: a mean over tasks, tests against each row, curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from experiments.userbert_data import TaskFamily
from experiments.userbert_methods import figures_of
from graphrec.evaluation import holm
from graphrec.evaluation.significance import bootstrap_auc, bootstrap_sums, interval_of, p_value_of

MEAN = "mean"  # figure of a family: over its tasks
NUM_RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class RowScores:
    """A method's test scores of a family.

    Attributes:
        name: of the method.
        epoch: the one that counts.
        seeds: that are finished for all tasks.
        frames: of each task, one of each seed, as ``UserBERTParts.scores`` returns them.

    """

    name: str
    epoch: int
    seeds: tuple[int, ...]
    frames: Mapping[str, Sequence[pl.DataFrame]]

    def values(self, task: str) -> list[np.ndarray]:
        """Return each seed's values of a task at the epoch that counts."""
        return [frame[f"value_{self.epoch}"].to_numpy() for frame in self.frames[task]]


def metric_of(family: TaskFamily) -> str:
    """Return "auc" of binary tasks, "map@10" of sets."""
    return "auc" if family.is_binary else "map@10"


def rows_of_figures(row: RowScores, family: TaskFamily) -> list[dict[str, Any]]:
    """Return a line for each task and metric, and for their mean, with the values of all seeds."""
    by_figure: dict[tuple[str, str], list[list[float]]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for task in family.tasks:
        first = row.frames[task.name][0]
        sizes[task.name] = (first.height, first["user_id"].n_unique())
        of_seeds = [figures_of(_label(first), value[:, None])[0] for value in row.values(task.name)]
        by_figure[task.name, metric_of(family)] = [of_seeds]
        if family.is_binary:
            label = first["label"].to_numpy() > 0
            right = [float(((value >= 0.5) == label).mean()) for value in row.values(task.name)]
            by_figure[task.name, "accuracy"] = [right]
    if len(family.tasks) > 1:
        for name, metric in list(by_figure):
            by_figure.setdefault((MEAN, metric), []).extend(by_figure[name, metric])
        sizes[MEAN] = (sum(n for n, _ in sizes.values()), _num_users(row))
    return [
        {
            "family": family.name,
            "method": row.name,
            "figure": name,
            "metric": metric,
            "values": [round(value, 5) for value in np.mean(values, axis=0).tolist()],
            "seeds": list(row.seeds),
            "num_queries": sizes[name][0],
            "num_users": sizes[name][1],
        }
        for (name, metric), values in by_figure.items()
    ]


def curves_of(row: RowScores, family: TaskFamily) -> dict[str, Any]:
    """Return the family's figure, a mean over its tasks, after each epoch, for each seed."""
    curves = []
    for number in range(len(row.seeds)):
        of_tasks = []
        for task in family.tasks:
            frame = row.frames[task.name][number]
            names = [name for name in frame.columns if name.startswith("value_")]
            of_tasks.append(figures_of(_label(frame), frame.select(names).to_numpy()))
        curves.append([round(value, 5) for value in np.mean(of_tasks, axis=0).tolist()])
    return {
        "family": family.name,
        "method": row.name,
        "metric": metric_of(family),
        "values": curves,
        "seeds": list(row.seeds),
    }


def compare_rows(
    candidate: RowScores, others: Sequence[RowScores], family: TaskFamily, baselines: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the candidate's figures minus those of each other row, under a bootstrap over users.

    A figure is the mean over a row's finished seeds. Resamples of users are the same for all rows and tasks.
    p-values are corrected by Holm's method over the other rows.

    Args:
        candidate: the first row.
        others: what it is compared with; tested on the same queries.
        family: of the tasks.
        baselines: names of the rows among which the best is marked, by the figure itself on the test.

    Raises:
        ValueError: a row has scored other queries than the candidate.

    """
    figures = [task.name for task in family.tasks] + [MEAN] * (len(family.tasks) > 1)
    resampled = {row.name: _resample(row, family) for row in (candidate, *others)}
    for row in others:
        for task in family.tasks:
            keys = [one.frames[task.name][0].select("user_id", "time") for one in (candidate, row)]
            if not keys[0].equals(keys[1]):
                raise ValueError(
                    f"{row.name!r} scored other queries of {task.name!r} than {candidate.name!r}"
                )
    lines = []
    for figure in figures:
        value, drawn = resampled[candidate.name][figure]
        found = list[dict[str, Any]]()
        for row in others:
            value_b, drawn_b = resampled[row.name][figure]
            lower, upper = interval_of(drawn - drawn_b)
            found.append(
                {
                    "family": family.name,
                    "figure": figure,
                    "metric": metric_of(family),
                    "method": candidate.name,
                    "other": row.name,
                    "difference": round(value - value_b, 5),
                    "lower": round(lower, 5),
                    "upper": round(upper, 5),
                    "p_value": p_value_of(value - value_b, drawn - drawn_b),
                    "best_baseline": False,
                }
            )
        if found:
            for line, p_value in zip(found, holm([one["p_value"] for one in found]), strict=True):
                line["p_value"] = float(f"{line['p_value']:.3g}")
                line["p_value_corrected"] = float(f"{p_value:.3g}")
        rivals = [line for line in found if line["other"] in baselines]
        if rivals:
            min(rivals, key=lambda line: line["difference"])["best_baseline"] = True
        lines += found
    return lines


def _resample(row: RowScores, family: TaskFamily) -> dict[str, tuple[float, np.ndarray]]:
    """Return each figure and its resamples, means over the seeds."""
    users = np.unique(
        np.concatenate([row.frames[task.name][0]["user_id"].to_numpy() for task in family.tasks])
    )
    found: dict[str, tuple[float, np.ndarray]] = {}
    for task in family.tasks:
        frame, values = row.frames[task.name][0], row.values(task.name)
        cluster = np.searchsorted(users, frame["user_id"].to_numpy())
        figure = float(np.mean([figures_of(_label(frame), value[:, None])[0] for value in values]))
        if family.is_binary:
            drawn = bootstrap_auc(
                frame["label"].to_numpy().astype(np.uint8),
                [np.ascontiguousarray(value) for value in values],
                cluster,
                NUM_RESAMPLES,
                0,
                num_clusters=len(users),
            ).mean(axis=1)
        else:
            sums = np.zeros((len(users), 2))
            np.add.at(sums, cluster, np.column_stack([np.mean(values, axis=0), np.ones(len(cluster))]))
            both = bootstrap_sums(sums, NUM_RESAMPLES, 0)
            drawn = both[:, 0] / both[:, 1]
        found[task.name] = figure, drawn
    if len(family.tasks) > 1:
        of_tasks = list(found.values())
        found[MEAN] = (
            float(np.mean([figure for figure, _ in of_tasks])),
            np.mean([drawn for _, drawn in of_tasks], axis=0),
        )
    return found


def _label(frame: pl.DataFrame) -> np.ndarray | None:
    return frame["label"].to_numpy() if "label" in frame.columns else None


def _num_users(row: RowScores) -> int:
    return int(
        pl.concat([frames[0].select("user_id") for frames in row.frames.values()])["user_id"].n_unique()
    )
