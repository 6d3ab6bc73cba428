"""The training loop: it learns, resumes to the same bits after a break, and tells of a cut checkpoint."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from graphrec.models import DeepFMRanker
from graphrec.training.batches import click_batches, click_loader, rows_between
from graphrec.training.checkpoint import load_checkpoint, save_checkpoint
from graphrec.training.loop import OptimizerConfig, click_loss, make_optimizer, predict, train
from graphrec.training.pair_loss import pair_loss
from graphrec.training.parameters import embedding_tables
from tests.graphrec.toy_data import TEST_DAY, click_data, full_lsttm, sizes, toy_log

CPU = torch.device("cpu")
# 4 does not divide the 13 batches of an epoch, nor the 26 steps
CONFIG = OptimizerConfig(epochs=2, batch_size=32, learning_rate=0.01, embedding_learning_rate=0.02)
NUM_BATCHES, CHECKPOINT_EVERY, LOG_EVERY = 13, 4, 3


class BreakError(Exception):
    """What stands for a Ctrl-C."""


def break_at(step):
    def on_step(done, total):
        assert total == CONFIG.epochs * NUM_BATCHES
        if done == step:
            raise BreakError

    return on_step


def fit(checkpoint=None, on_step=None, name="adamw"):
    """Train LSTTM with dropout on the days before the test day; return weights, curve, predictions."""
    data = click_data(toy_log())
    rows = rows_between(data, 0, TEST_DAY)[:400]
    model = full_lsttm(data, long_channels=0)
    loader = click_loader(data, rows, batch_size=CONFIG.batch_size, shuffle=True, random_seed=3)
    assert len(loader) == NUM_BATCHES
    curve = train(
        model,
        lambda epoch, start: loader.batches(epoch, start_batch=start),
        num_batches=len(loader),
        config=OptimizerConfig(**{**vars(CONFIG), "name": name}),
        device=CPU,
        checkpoint=checkpoint,
        checkpoint_every=CHECKPOINT_EVERY,
        log_every=LOG_EVERY,
        on_step=on_step,
    )
    test = click_batches(data, rows_between(data, TEST_DAY, 2 * TEST_DAY), batch_size=50)
    return model.state_dict(), curve, predict(model, test, device=CPU)


@pytest.fixture(scope="module")
def undisturbed():
    return fit()


def assert_same_end(result, expected):
    for name, value in expected[0].items():
        assert torch.equal(result[0][name], value), name
    assert result[1] == expected[1]
    assert torch.equal(result[2], expected[2])


def test_the_curve_averages_its_steps(undisturbed):
    curve = undisturbed[1]
    assert [point.step for point in curve] == list(range(LOG_EVERY, 27, LOG_EVERY))
    assert curve[0].epoch == pytest.approx(3 / 13)
    assert curve[-1].loss < curve[0].loss - 0.02


@pytest.mark.parametrize("name", ["adamw", "adagrad"])
def test_resumes_to_the_same_bits_after_breaks(tmp_path, undisturbed, name):
    expected = undisturbed if name == "adamw" else fit(name=name)
    checkpoint = tmp_path / "model.pt"
    for step in (2, 11, 15):  # before the first checkpoint, in the first epoch, in the second
        with pytest.raises(BreakError):
            fit(checkpoint, break_at(step), name)
    assert load_checkpoint(checkpoint)["step"] == 12
    seen = []
    result = fit(checkpoint, lambda done, total: seen.append(done), name)
    assert seen == list(range(12, 27))  # nothing is trained twice, nothing is left out
    assert_same_end(result, expected)
    assert_same_end(fit(checkpoint, name=name), expected)  # a finished run stays as it is


@pytest.mark.slow
def test_resumes_after_sigkill(tmp_path, undisturbed):
    checkpoint = tmp_path / "model.pt"
    code = (
        "import os, signal, sys, pathlib\n"
        "from tests.graphrec.test_training import fit\n"
        "kill = lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done == 14 else None\n"
        "fit(pathlib.Path(sys.argv[1]), kill)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(checkpoint)], cwd=Path(__file__).parents[2], capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert load_checkpoint(checkpoint)["step"] == 12
    assert_same_end(fit(checkpoint), undisturbed)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_cut_checkpoint_is_told(tmp_path, share):
    path = tmp_path / "model.pt"
    save_checkpoint(path, {"weights": torch.randn(100), "step": 3})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"model\.pt is not a whole checkpoint .* delete it"):
        load_checkpoint(path)
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        fit(path)


def test_a_file_of_other_objects_is_refused_without_the_advice_to_unpickle_it(tmp_path):
    path = tmp_path / "model.pt"
    for write in (lambda: torch.save({"path": path}, path), lambda: path.write_bytes(b"no checkpoint" * 9)):
        write()
        with pytest.raises(ValueError, match=r"model\.pt is not a whole checkpoint .* delete it") as found:
            load_checkpoint(path)
        assert "weights_only" not in str(found.value)
        assert "weights_only" not in str(found.value.__cause__)


def test_a_write_that_breaks_off_leaves_the_former_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "model.pt"
    save_checkpoint(path, {"step": 1})

    def cut(state, file):
        file.write(b"half")
        raise BreakError

    monkeypatch.setattr(torch, "save", cut)
    with pytest.raises(BreakError):
        save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path) == {"step": 1}
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize("name", ["adamw", "adagrad"])
def test_accumulated_batches_are_one_step_and_resume_at_whole_ones(tmp_path, name):
    rows = torch.randn(28, 5, generator=torch.Generator().manual_seed(0))
    label = (rows.sum(dim=1) > 0).float()

    class Rows:
        def __init__(self, which):
            self.value, self.label, self.user_id = rows[which], label[which], None

        def to(self, device):
            return self

    class Linear(nn.Linear):
        def forward(self, batch):
            return super().forward(batch.value)[:, 0]

    def fit_linear(size, accumulate, on_step=None, checkpoint=None):
        parts = torch.arange(28).split(size)
        model = Linear(5, 1)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        # the schedule counts batches: without decay both have the same rates
        config = OptimizerConfig(
            name=name, learning_rate=0.1, decay=False, epochs=2, batch_size=size, accumulate=accumulate
        )
        train(
            model,
            lambda epoch, start: (Rows(part) for part in parts[start:]),
            num_batches=len(parts),
            config=config,
            device=CPU,
            checkpoint=checkpoint,
            checkpoint_every=1,
            on_step=on_step,
        )
        return model.state_dict()

    whole, parts = fit_linear(12, 1), fit_linear(4, 3)  # 12, 12 and 4 rows a step either way
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value)
    assert not torch.allclose(fit_linear(4, 1)["weight"], whole["weight"])

    def stop(done, total):
        assert total == 14
        if done == 5:  # within the second step: the checkpoint is of the first
            raise BreakError

    path = tmp_path / "linear.pt"
    with pytest.raises(BreakError):
        fit_linear(4, 3, stop, path)
    assert load_checkpoint(path)["step"] == 3
    for key, value in fit_linear(4, 3, checkpoint=path).items():
        assert torch.equal(value, parts[key])


def test_optimizer_has_a_rate_for_tables_and_one_for_the_rest():
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 2))
    config = OptimizerConfig(
        learning_rate=0.1, embedding_learning_rate=0.2, weight_decay=0.3, embedding_weight_decay=0.4
    )
    dense, tables = make_optimizer(model, config).param_groups
    assert (dense["lr"], dense["weight_decay"], len(dense["params"])) == (0.1, 0.3, 2)
    assert (tables["lr"], tables["weight_decay"], len(tables["params"])) == (0.2, 0.4, 1)
    assert tables["params"][0] is model[0].weight
    assert isinstance(make_optimizer(model, OptimizerConfig(name="adagrad")), torch.optim.Adagrad)


def test_first_order_weights_have_a_rate_of_their_own_where_there_is_one():
    model = DeepFMRanker(sizes(2))
    tables = embedding_tables(model)
    linear = {id(table) for name, table in tables.items() if name.endswith("linear.weight")}
    assert linear
    config = OptimizerConfig(embedding_learning_rate=0.2, embedding_weight_decay=0.4)
    assert len(make_optimizer(model, config).param_groups) == 2
    _, others, first = make_optimizer(model, replace(config, linear_learning_rate=0.7)).param_groups
    assert {id(p) for p in first["params"]} == linear
    assert {id(p) for p in others["params"]} == {id(table) for table in tables.values()} - linear
    assert (others["lr"], first["lr"], first["weight_decay"]) == (0.2, 0.7, 0.4)


@pytest.mark.parametrize("decay", [True, False])
def test_learning_rate_falls_linearly(monkeypatch, decay):
    """Plain descent on a loss of slope one: the weight moves by the sum of the rates."""
    loop = "graphrec.training.loop"
    monkeypatch.setattr(f"{loop}.make_optimizer", lambda m, c: torch.optim.SGD(m.parameters(), lr=1.0))
    monkeypatch.setattr(f"{loop}.click_loss", lambda m, b, pair_weight: m.weight.sum())
    model = nn.Linear(1, 1, bias=False)
    before = model.weight.item()
    batch = type("Batch", (), {"to": lambda self, device: self})()
    config = OptimizerConfig(epochs=2, decay=decay)
    train(model, lambda epoch, start: [batch] * (2 - start), num_batches=2, config=config, device=CPU)
    moved = 1 + 0.75 + 0.5 + 0.25 if decay else 4
    assert before - model.weight.item() == pytest.approx(moved, abs=1e-5)


def test_predictions_are_probabilities_in_the_order_of_the_rows():
    data = click_data(toy_log())
    torch.manual_seed(0)
    model = DeepFMRanker(sizes(data.dense.shape[1]), dropout=0.5).train()
    rows = torch.tensor([5, 400, 17, 3, 222])
    together = predict(model, click_batches(data, rows, batch_size=2), device=CPU)
    assert together.dtype == torch.float64
    one_by_one = [predict(model, click_batches(data, row[None], batch_size=1), device=CPU) for row in rows]
    torch.testing.assert_close(together, torch.cat(one_by_one), rtol=1e-5, atol=1e-7)
    assert len(together.unique()) == 5
    assert predict(model, [], device=CPU).shape == (0,)


def test_loss_is_binary_cross_entropy():
    data = click_data(toy_log())
    batch = next(click_batches(data, torch.arange(30), batch_size=30))
    model = DeepFMRanker(sizes(data.dense.shape[1]))
    p = torch.sigmoid(model(batch)).clamp(1e-6, 1 - 1e-6)
    expected = -(batch.label * p.log() + (1 - batch.label) * (1 - p).log()).mean()
    torch.testing.assert_close(click_loss(model, batch), expected)


def test_training_descends_the_order_of_a_users_rows_where_it_is_asked_to():
    data = click_data(toy_log())
    batch = next(click_batches(data, torch.arange(60), batch_size=60))
    model = DeepFMRanker(sizes(data.dense.shape[1]), dropout=0.0)
    logit = model(batch)
    plain, order = click_loss(model, batch), pair_loss(logit, batch.label, batch.user_id)
    assert order > 0
    torch.testing.assert_close(click_loss(model, batch, pair_weight=0.3), plain + 0.3 * order)
    with pytest.raises(ValueError, match="give batches their user_id"):
        click_loss(model, replace(batch, user_id=None), pair_weight=0.3)
    fitted = []
    for weight in (0.0, 3.0):
        torch.manual_seed(0)
        model = DeepFMRanker(sizes(data.dense.shape[1]), dropout=0.0)
        config = OptimizerConfig(epochs=30, pair_weight=weight, learning_rate=1e-2)
        train(model, lambda epoch, start: [batch][start:], num_batches=1, config=config, device=CPU)
        with torch.no_grad():
            fitted.append(pair_loss(model(batch), batch.label, batch.user_id).item())
    assert fitted[1] < 0.9 * fitted[0]


def test_a_loss_that_is_no_number_ends_the_training():
    data = click_data(toy_log())
    batch = next(click_batches(data, torch.arange(60), batch_size=60))
    batch = replace(batch, label=torch.full_like(batch.label, torch.nan))
    model = DeepFMRanker(sizes(data.dense.shape[1]))
    with pytest.raises(ValueError, match="the loss is nan after 2 steps: look for NaN among labels"):
        train(
            model,
            lambda epoch, start: [batch] * (3 - start),
            num_batches=3,
            config=CONFIG,
            device=CPU,
            log_every=2,
        )
