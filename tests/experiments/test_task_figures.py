"""Figures of methods on users' tasks, beside scikit-learn's and a slow bootstrap; their table; kept parts."""

import json

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, roc_auc_score

from experiments.kept_parts import find_part, kept_part
from experiments.task_figures import MEAN, MethodScores, TaskScores, compare_methods, figure_rows
from experiments.task_report import task_table

NUM_QUERIES = 300


def scores_of(name, strength, *, tasks=("a", "b"), seeds=(0, 1), time_shift=0):
    """Scores that follow the labels as strongly as asked."""
    found = {}
    for number, task in enumerate(tasks):
        rng = np.random.default_rng(number)
        user = rng.integers(0, 40, NUM_QUERIES)
        label = (rng.random(NUM_QUERIES) < 0.3).astype(np.int64)
        noise = [np.random.default_rng(100 * number + seed).random(NUM_QUERIES) for seed in seeds]
        values = tuple(strength * label + (1 - strength) * one for one in noise)
        time = np.arange(NUM_QUERIES) + time_shift
        found[task] = TaskScores(user_id=user, time=time, label=label, values=values)
    return MethodScores(name=name, seeds=tuple(seeds), tasks=found)


def test_figures_are_those_of_scikit_learn():
    method = scores_of("ours", 0.2)
    rows = {
        (row["figure"], row["metric"]): row for row in figure_rows(method, "f", ["auc", "aupr", "accuracy"])
    }
    for metric, reference in (("auc", roc_auc_score), ("aupr", average_precision_score)):
        of_tasks = []
        for name, task in method.tasks.items():
            wanted = [reference(task.label, value) for value in task.values]
            assert rows[name, metric]["values"] == pytest.approx(wanted, abs=1e-5)
            of_tasks.append(wanted)
        assert rows[MEAN, metric]["values"] == pytest.approx(np.mean(of_tasks, axis=0), abs=1e-5)
    task = method.tasks["a"]
    wanted = [accuracy_score(task.label, value >= 0.5) for value in task.values]
    assert rows["a", "accuracy"]["values"] == pytest.approx(wanted, abs=1e-5)
    assert rows[MEAN, "auc"]["num_queries"] == 2 * NUM_QUERIES
    assert rows[MEAN, "auc"]["num_users"] == 40


@pytest.mark.parametrize("metric", ["auc", "aupr", "accuracy"])
def test_differences_and_intervals_are_those_of_a_slow_bootstrap(metric):
    ours, theirs = (
        scores_of(name, by, tasks=("a",), seeds=(0,)) for name, by in (("ours", 0.3), ("theirs", 0.1))
    )
    (line,) = compare_methods(ours, [theirs], "f", metric, baselines=["theirs"])
    assert line["best_baseline"]
    figures = {"auc": roc_auc_score, "aupr": average_precision_score}
    task, other = ours.tasks["a"], theirs.tasks["a"]

    def figure(value, rows):
        if metric == "accuracy":
            return accuracy_score(task.label[rows], value[rows] >= 0.5)
        return figures[metric](task.label[rows], value[rows])

    everything = np.arange(NUM_QUERIES)
    wanted = figure(task.values[0], everything) - figure(other.values[0], everything)
    assert line["difference"] == pytest.approx(wanted, abs=1e-5)
    rng, drawn = np.random.default_rng(5), []
    rows_of = [np.flatnonzero(task.user_id == user) for user in np.unique(task.user_id)]
    for _ in range(400):
        rows = np.concatenate([rows_of[user] for user in rng.integers(0, len(rows_of), len(rows_of))])
        drawn.append(figure(task.values[0], rows) - figure(other.values[0], rows))
    spread = np.std(drawn)
    assert line["lower"] == pytest.approx(np.quantile(drawn, 0.025), abs=0.4 * spread)
    assert line["upper"] == pytest.approx(np.quantile(drawn, 0.975), abs=0.4 * spread)


def test_without_labels_the_figure_is_the_mean_over_queries():
    rng = np.random.default_rng(0)
    task = TaskScores(user_id=np.arange(5) % 2, time=np.arange(5), label=None, values=(rng.random(5),))
    one = MethodScores(name="ours", seeds=(0,), tasks={"a": task})
    zero = TaskScores(user_id=task.user_id, time=task.time, label=None, values=(np.zeros(5),))
    (row,) = figure_rows(one, "f", ["map@10"])
    assert row["values"] == pytest.approx([task.values[0].mean()], abs=1e-5)
    (line,) = compare_methods(one, [MethodScores(name="zero", seeds=(0,), tasks={"a": zero})], "f", "map@10")
    assert line["difference"] == pytest.approx(task.values[0].mean(), abs=1e-5)


def test_other_queries_and_lengths_are_refused():
    ours = scores_of("ours", 0.3)
    with pytest.raises(ValueError, match="'theirs' scored other queries of 'a' than 'ours'"):
        compare_methods(ours, [scores_of("theirs", 0.3, time_shift=1)], "f", "auc")
    with pytest.raises(ValueError, match="lengths"):
        TaskScores(user_id=np.arange(3), time=np.arange(2), label=None, values=(np.zeros(3),))
    with pytest.raises(ValueError, match="no metric 'f1'"):
        figure_rows(ours, "f", ["f1"])


def test_the_table_has_a_row_a_method_and_the_lead_over_it():
    methods = [scores_of("ours", 0.5), scores_of("theirs", 0.0)]
    figures = [line for method in methods for line in figure_rows(method, "f", ["auc"])]
    lines = task_table(figures, compare_methods(methods[0], methods[1:], "f", "auc", baselines=["theirs"]))
    assert lines[2] == "| | seeds | mean, AUC | a, AUC | b, AUC | ours minus the row |"
    assert lines[4].startswith("| ours | 2 | ")
    assert lines[4].endswith("|  |")
    assert lines[5].startswith("| theirs | 2 | ")
    assert lines[5].endswith("p < 0.001 * |")
    assert "ours's AUC (mean) minus the row's" in lines[0]
    alone = task_table(figures[:3], [])
    assert alone[2] == "| | seeds | mean, AUC | a, AUC | b, AUC |"


def test_a_part_is_computed_once_and_anew_for_another_content(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"figure": len(calls)}, pl.DataFrame({"value": [1.0, 2.0]})

    content = {"seed": 0, "setting": {"rate": 0.1}}
    first = kept_part(tmp_path / "parts", "Some row, seed 0", content, compute)
    again = kept_part(tmp_path / "parts", "Some row, seed 0", dict(reversed(content.items())), compute)
    assert first.is_new
    assert not again.is_new
    assert len(calls) == 1
    assert again.facts == first.facts
    assert again.frame.equals(first.frame)
    assert again.facts["content"] == content
    assert again.facts["cpu_seconds"] >= 0
    assert kept_part(tmp_path / "parts", "Some row, seed 0", {"seed": 1}, compute).facts["figure"] == 2
    assert find_part(tmp_path / "parts", "Some row, seed 0", {"seed": 2}) is None
    assert json.loads(first.path.read_text())["figure"] == 1


def test_a_part_that_fails_leaves_nothing_behind(tmp_path):
    def compute():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        kept_part(tmp_path, "row", {}, compute)
    assert not list(tmp_path.iterdir())
