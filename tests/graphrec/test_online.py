"""One-step online updates against the step computed directly."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from graphrec.training.batches import click_batches, rows_between
from graphrec.training.online import OnlineConfig, OnlineUpdater
from tests.graphrec.toy_data import HOUR, TEST_DAY, click_data, full_lsttm, toy_log

CPU = torch.device("cpu")
RATE, EMBEDDING_RATE = 0.3, 2.0


@pytest.fixture(scope="module")
def hours():
    data = click_data(toy_log())
    rows = [rows_between(data, TEST_DAY + i * 3 * HOUR, TEST_DAY + (i + 1) * 3 * HOUR) for i in range(3)]
    assert min(len(part) for part in rows) > 5
    # batches smaller than a period: the sum over batches must be the period's own gradient
    return data, [[as_double(batch) for batch in click_batches(data, part, batch_size=4)] for part in rows]


def as_double(batch):
    """In 64 bits sums in another order agree closely, so the tolerance below can stay narrow."""
    columns = {name: getattr(batch, name).double() for name in ("dense", "label", "long_user", "long_item")}
    graph = replace(
        batch.graph,
        node_dense={name: value.double() for name, value in batch.graph.node_dense.items()},
        edge_attr={name: value.double() for name, value in batch.graph.edge_attr.items()},
    )
    return replace(batch, graph=graph, **columns)


def one_step(model, hours):
    """Gradient descent on the mean loss over all rows of the hours, with the rates by parameter group."""
    model = copy.deepcopy(model).eval()
    batches = [batch for hour in hours for batch in hour]
    logit = torch.cat([model(batch) for batch in batches])
    functional.binary_cross_entropy_with_logits(
        logit, torch.cat([batch.label for batch in batches])
    ).backward()
    tables = {name for name, m in model.named_modules() if isinstance(m, torch.nn.Embedding)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            rate = EMBEDDING_RATE if name.rpartition(".")[0] in tables else RATE
            if parameter.grad is not None:
                parameter -= rate * parameter.grad
    return model


def updater(form, data):
    model = full_lsttm(data, long_channels=0, dropout=0.5).double()
    config = OnlineConfig(form=form, learning_rate=RATE, embedding_learning_rate=EMBEDDING_RATE)
    return model, copy.deepcopy(model), OnlineUpdater(model, config, device=CPU)


def assert_same_weights(left, right):
    for (name, a), b in zip(left.named_parameters(), right.parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda m, name=name: f"{name}: {m}", rtol=1e-9, atol=1e-12)


def distance(left, right):
    return sum((a - b).abs().sum().item() for a, b in zip(left.parameters(), right.parameters(), strict=True))


def test_union_is_one_step_from_the_checkpoint_over_all_former_hours(hours):
    data, batches = hours
    model, origin, online = updater("union", data)
    for number, hour in enumerate(batches, start=1):
        online.update(hour)
        expected = one_step(origin, batches[:number])
        assert_same_weights(model, expected)
        assert distance(model, origin) > 1e-3
    assert distance(expected, one_step(one_step(origin, batches[:2]), batches[2:])) > 1e-3  # forms differ


def test_chained_is_step_after_step(hours):
    data, batches = hours
    model, expected, online = updater("chained", data)
    for hour in batches:
        online.update(hour)
        expected = one_step(expected, [hour])
        assert_same_weights(model, expected)


def test_none_changes_nothing(hours):
    data, batches = hours
    model, origin, online = updater("none", data)
    for hour in batches:
        online.update(hour)
    assert distance(model, origin) == 0


@pytest.mark.parametrize("form", ["union", "chained"])
def test_a_period_without_rows_changes_nothing(hours, form):
    data, batches = hours
    model, _, online = updater(form, data)
    online.update(batches[0])
    before = copy.deepcopy(model)
    online.update([])
    assert distance(model, before) == 0
    online.update(batches[1])
    assert distance(model, before) > 1e-3


def test_scoring_after_an_update_has_no_dropout(hours):
    data, batches = hours
    model, _, online = updater("union", data)
    model.train()
    online.update(batches[0])
    assert torch.equal(model(batches[1][0]), model(batches[1][0]))
