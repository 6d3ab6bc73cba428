"""Probes: what representations tell is read off, what they do not is not; classes, parts, sparse rows."""

import math

import polars as pl
import pytest
import torch
from scipy.sparse import csr_array

from graph_builders.datasets.downstream_tasks import PART_TYPE, DownstreamTask
from graphrec.evaluation.ctr import auc
from graphrec.evaluation.probes import (
    ProbeConfig,
    held_out,
    probe,
    probe_by_epoch,
    probe_sets_by_epoch,
    probe_task,
)
from graphrec.models.trees import TreesConfig
from graphrec.training.task_labels import SetLabels

KINDS = {
    "mlp": ProbeConfig(kind="mlp", epochs=40, batch_size=32),
    "logistic": ProbeConfig(kind="logistic"),
    "trees": ProbeConfig(
        kind="trees", trees=TreesConfig(num_trees=20, learning_rate=0.2, min_samples_leaf=10)
    ),
}


def rows(num_rows=400, num_classes=2):
    """Features whose first column tells the class but for some noise, on a scale of its own."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(num_classes, (num_rows,), generator=generator)
    x = torch.randn(num_rows, 4, generator=generator)
    x[:, 0] = 100 + 0.01 * (3 * label + torch.randn(num_rows, generator=generator))
    return x, label, held_out(torch.arange(num_rows), test_share=0.3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_class_is_read_off(kind, num_classes):
    x, label, is_test = rows(num_classes=num_classes)
    found = probe(x, label, is_test, config=KINDS[kind])
    assert found.row.tolist() == is_test.nonzero()[:, 0].tolist()
    assert torch.equal(found.label, label[is_test])
    assert found.probability.shape == (int(is_test.sum()), num_classes)
    torch.testing.assert_close(found.probability.sum(dim=1), torch.ones(len(found.row), dtype=torch.float64))
    assert found.auc > 0.93
    assert 0.82 < found.accuracy < 1
    right = (found.probability.argmax(dim=1) == found.label).tolist()
    assert found.accuracy == pytest.approx(sum(right) / len(right))
    columns = [1] if num_classes == 2 else range(num_classes)
    areas = [auc((found.label == c).long().numpy(), found.probability[:, c].numpy()) for c in columns]
    assert found.auc == pytest.approx(sum(areas) / len(areas))
    # labels of scored rows have no effect
    other = probe(x, torch.where(is_test, 1 - label.clamp(max=1), label), is_test, config=KINDS[kind])
    assert torch.equal(other.probability, found.probability)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_one_training_gives_what_trainings_of_each_length_do(num_classes):
    x, label, is_test = rows(200, num_classes=num_classes)
    found = probe_by_epoch(x, label, is_test, (1, 4, 6))
    assert len(found) == 3
    for epochs, one in zip((1, 4, 6), found, strict=True):
        alone = probe(x, label, is_test, config=ProbeConfig(epochs=epochs))
        assert torch.equal(one.probability, alone.probability)
        assert (one.auc, one.accuracy) == (alone.auc, alone.accuracy)
    wrong = [((), {}), ((2, 1), {}), ((0, 1), {}), ((1,), {"kind": "trees"}), ((1,), {"decay": True})]
    for epochs, options in wrong:
        with pytest.raises(ValueError, match="an MLP without decay and rising numbers"):
            probe_by_epoch(x, label, is_test, epochs, config=ProbeConfig(**options))


def test_noise_tells_nothing_and_runs_repeat():
    x, label, is_test = rows(1000)
    noise = x[:, 1:]
    state = torch.get_rng_state()
    found = probe(noise, label, is_test, config=ProbeConfig(epochs=3))
    assert torch.equal(torch.get_rng_state(), state)
    assert 0.4 < found.auc < 0.6
    again = probe(noise, label, is_test, config=ProbeConfig(epochs=3))
    assert torch.equal(again.probability, found.probability)
    third = probe(noise, label, is_test, config=ProbeConfig(epochs=3, random_seed=1))
    assert not torch.equal(third.probability, found.probability)


def test_sparse_rows_give_what_dense_ones_do():
    generator = torch.Generator().manual_seed(1)
    x = (torch.rand(300, 6, generator=generator) < 0.4).float()
    label, is_test = (x[:, 0] + x[:, 1] > 0).long(), held_out(torch.arange(300))
    for kind, config in KINDS.items():
        sparse = probe(csr_array(x.numpy()), label, is_test, config=config)
        assert sparse.auc > 0.95, kind
        if kind == "trees":
            assert torch.equal(sparse.probability, probe(x, label, is_test, config=config).probability)


def test_rows_without_a_label_and_classes_without_a_row():
    x, label, is_test = rows()
    some = torch.where(torch.arange(400) < 40, -1, label)
    found = probe(x, some, is_test, config=KINDS["logistic"])
    kept = torch.arange(400) >= 40
    expected = probe(x[kept], label[kept], is_test[kept], config=KINDS["logistic"])
    assert int(found.row.min()) >= 40
    torch.testing.assert_close(found.probability, expected.probability)
    third = torch.where(is_test & (torch.arange(400) % 9 == 0), 2, label)  # no row to fit on is of it
    for config in KINDS.values():
        assert float(probe(x, third, is_test, config=config).probability[:, 2].max()) < 0.2
    one_class = torch.where(is_test, 0, label)
    assert math.isnan(probe(x, one_class, is_test, config=KINDS["logistic"]).auc)


def test_users_are_held_out_whole():
    user = torch.arange(1000).repeat(2)
    drawn = held_out(user)
    assert torch.equal(drawn[:1000], drawn[1000:])
    assert 0.15 < float(drawn.float().mean()) < 0.25
    assert not torch.equal(held_out(user, random_seed=1), drawn)


def test_tasks_are_scored_by_their_parts():
    x, label, is_test = rows()
    part = ["test" if test else "train" for test in is_test.tolist()]
    part[0], part[1] = "validation", "validation"
    value = [None if number == 5 else float(one) for number, one in enumerate(label.tolist())]
    queries = pl.DataFrame(
        {
            "user_id": range(400),
            "time": [0] * 400,
            "part": pl.Series(part, dtype=PART_TYPE),
            "label": pl.Series(value, dtype=pl.Float32),
        }
    )
    task = DownstreamTask(name="toy", kind="binary", queries=queries, horizon=0)
    found = probe_task(task, x, config=KINDS["logistic"])
    some = label.clone()
    some[[0, 1, 5]] = -1
    expected = probe(x, some, is_test, config=KINDS["logistic"])
    assert torch.equal(found.row, expected.row)
    assert torch.equal(found.probability, expected.probability)
    validation = probe_task(task, x, config=KINDS["logistic"], score_part="validation")
    assert validation.row.tolist() == [0, 1]
    sets = queries.with_columns(label=pl.concat_list(pl.lit("a")))
    with pytest.raises(ValueError, match="a probe reads binary ones"):
        probe_task(DownstreamTask(name="s", kind="set", queries=sets, horizon=0), x)
    with pytest.raises(ValueError, match="has 400 queries, there are 9 rows"):
        probe_task(task, x[:9])


def test_what_cannot_be_probed_is_refused():
    x, label, is_test = rows()
    with pytest.raises(ValueError, match="got 399, 400, 400"):
        probe(x[1:], label, is_test)
    with pytest.raises(ValueError, match="rows of two classes"):
        probe(x, torch.zeros_like(label), is_test)
    with pytest.raises(ValueError, match="and 0: take more users"):
        probe(x, label, torch.zeros_like(is_test))
    with pytest.raises(ValueError, match="-1 where there is none, got -2"):
        probe(x, torch.where(label == 0, -2, label), is_test)
    with pytest.raises(ValueError, match="a probe needs features, there are none"):
        probe(x[:, :0], label, is_test)
    x[3, 1] = torch.nan
    with pytest.raises(ValueError, match="some features are NaN"):
        probe(x, label, is_test)
    with pytest.raises(ValueError, match="test_share must lie between 0 and 1"):
        held_out(label, test_share=1.0)
    with pytest.raises(ValueError, match=r"ProbeConfig.strength must be finite and above 0"):
        ProbeConfig(strength=0.0)


def test_sets_are_read_off_and_rows_without_one_are_scored_alike():
    x, label, is_test = rows(300, num_classes=3)
    size = torch.where(torch.arange(300) % 10 == 0, 0, 2)  # every tenth row has no label
    code = torch.stack([label, (label + 1) % 3], dim=1)[size > 0].flatten()
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), size.cumsum(0)])
    labels = SetLabels(name="sets", classes=("a", "b", "c"), ptr=ptr, code=code)
    config = ProbeConfig(batch_size=16)
    few, many = probe_sets_by_epoch(x, labels, is_test, (1, 30), config=config)
    assert few.shape == many.shape == (int(is_test.sum()), 3)
    # the class that is not in the set is the last one
    assert float((many.argmin(dim=1) == (label[is_test] + 2) % 3).double().mean()) > 0.85
    # what is scored is fitted on neither by its labels nor by its features
    fitted = is_test | (size == 0)
    other = SetLabels(
        name="sets",
        classes=labels.classes,
        ptr=ptr,
        code=torch.where(fitted.repeat_interleave(size), 0, code),
    )
    assert torch.equal(probe_sets_by_epoch(x, other, is_test, (1, 30), config=config)[1], many)
    with pytest.raises(ValueError, match="rows with labels to fit on"):
        probe_sets_by_epoch(x, labels, torch.ones(300, dtype=torch.bool), (1,))
    with pytest.raises(ValueError, match="each row needs features"):
        probe_sets_by_epoch(x[:5], labels, is_test, (1,))
    with pytest.raises(ValueError, match="rising numbers"):
        probe_sets_by_epoch(x, labels, is_test, (3, 1))
