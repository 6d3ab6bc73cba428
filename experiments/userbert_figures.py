"""Figures of UserBERT's tables from the test's parts: tests against each row, and curves by epoch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from experiments.task_figures import MethodScores, TaskScores, compare_methods, figure_rows
from experiments.userbert_data import TaskFamily
from experiments.userbert_methods import figures_of


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

    @property
    def at_its_epoch(self) -> MethodScores:
        """The scores at the epoch that counts."""
        tasks = dict[str, TaskScores]()
        for name, frames in self.frames.items():
            first = frames[0]
            tasks[name] = TaskScores(
                user_id=first["user_id"].to_numpy(),
                time=first["time"].to_numpy(),
                label=_label(first),
                values=tuple(frame[f"value_{self.epoch}"].to_numpy() for frame in frames),
            )
        return MethodScores(name=self.name, seeds=self.seeds, tasks=tasks)


def metric_of(family: TaskFamily) -> str:
    """Return "auc" of binary tasks, "map@10" of sets."""
    return "auc" if family.is_binary else "map@10"


def rows_of_figures(row: RowScores, family: TaskFamily) -> list[dict[str, Any]]:
    """Return a line for each task and metric, and for their mean, with the values of all seeds."""
    metrics = [metric_of(family), "accuracy"] if family.is_binary else [metric_of(family)]
    return figure_rows(row.at_its_epoch, family.name, metrics)


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
    """Return the candidate's figures minus those of each other row, as ``compare_methods`` does."""
    return compare_methods(
        candidate.at_its_epoch,
        [row.at_its_epoch for row in others],
        family.name,
        metric_of(family),
        baselines=baselines,
    )


def _label(frame: pl.DataFrame) -> np.ndarray | None:
    return frame["label"].to_numpy() if "label" in frame.columns else None
