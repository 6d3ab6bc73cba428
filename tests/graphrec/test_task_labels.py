"""Labels as numbers: classes, unknown ones, rows without a label; losses by hand."""

import math

import polars as pl
import pytest
import torch

from graph_builders.datasets.downstream_tasks import PART_TYPE, DownstreamTask
from graphrec.training.task_labels import UNKNOWN_CLASS, BinaryLabels, labels_of


def task_of(label, kind):
    num_rows = len(label)
    queries = pl.DataFrame(
        {
            "user_id": range(num_rows),
            "time": range(num_rows),
            "part": ["train"] * (num_rows - 1) + ["test"],
            "label": label,
        },
        schema_overrides={"part": PART_TYPE},
    )
    return DownstreamTask(name="toy", kind=kind, queries=queries, horizon=1)


def sets():
    return labels_of(task_of([["c", "a"], ["c"], [], ["a", "z"]], "set"))


def test_classes_are_those_of_training_labels():
    labels = sets()
    assert labels.classes == ("a", "c")
    assert labels.ptr.tolist() == [0, 2, 3, 3, 5]
    assert labels.code.tolist() == [1, 0, 1, 0, UNKNOWN_CLASS]
    assert labels.has_label.tolist() == [True, True, False, True]
    taken = labels.take(torch.tensor([3, -1, 1]))
    assert (taken.ptr.tolist(), taken.code.tolist()) == ([0, 2, 2, 3], [0, UNKNOWN_CLASS, 1])
    torch.testing.assert_close(labels.start().exp(), torch.tensor([2.5 / 5, 2.5 / 5]))
    assert labels_of(task_of([["c"], ["a"]], "set"), ["c"]).code.tolist() == [0, UNKNOWN_CLASS]


def test_loss_of_sets_by_hand():
    logit = torch.tensor([[1.0, 2.0], [0.0, 0.0], [5.0, 1.0], [3.0, 0.0]], requires_grad=True)
    both = math.log(math.exp(1) + math.exp(2))
    # one class of two is half the label; the third row has none; an unknown class takes no share
    expected = ((both - 1) / 2 + (both - 2) / 2 + math.log(2) + math.log(1 + math.exp(-3))) / 3
    loss = sets().loss(logit)
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert not logit.grad[2].any()


def test_loss_of_binary_labels_by_hand():
    labels = labels_of(task_of(pl.Series([1.0, 0.0, 1.0, None], dtype=pl.Float32), "binary"))
    assert labels.has_label.tolist() == [True, True, True, False]
    assert labels.take(torch.tensor([1, -1, 0])).value.nan_to_num(9.0).tolist() == [0.0, 9.0, 1.0]
    logit = torch.tensor([[2.0], [1.0], [0.0], [7.0]], requires_grad=True)
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1)) + math.log(2)) / 3
    loss = labels.loss(logit)
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert logit.grad[3].item() == 0.0
    assert labels.start().item() == pytest.approx(math.log(2.5 / 1.5))


def test_no_label_no_loss():
    nothing = BinaryLabels(name="toy", value=torch.tensor([torch.nan]))
    assert nothing.loss(torch.ones(1, 1)).item() == 0.0
    assert sets().take(torch.tensor([2])).loss(torch.ones(1, 2)).item() == 0.0


def test_a_category_counts_once_in_its_set():
    labels = labels_of(task_of([["a", "b", "a"], ["b"], ["a", "a"]], "set"))
    assert labels.ptr.tolist() == [0, 2, 3, 4]
    assert labels.code.tolist() == [0, 1, 1, 0]
