"""The two stages: learning rates by their formulas, breaks, losses that are no numbers."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from graphrec.training.checkpoint import save_checkpoint
from graphrec.training.stages import StagesConfig, train_in_stages

CONFIG = StagesConfig(
    adam_steps=10, adam_rates=(0.01, 0.05), cycle_steps=4, sgd_steps=7, sgd_rate=0.2, restart_steps=3
)


class Noisy(nn.Module):
    """A linear layer behind dropout: training draws numbers."""

    def __init__(self):
        super().__init__()
        self.linear, self.dropout = nn.Linear(3, 1), nn.Dropout(0.5)

    def forward(self, x):
        return self.linear(self.dropout(x))


def make():
    torch.manual_seed(0)
    model = Noisy()
    data = torch.randn(20, 8, 3, generator=torch.Generator().manual_seed(1))
    return model, lambda step: (model(data[step]) - data[step].sum(1, keepdim=True)).square().mean()


def test_adam_goes_up_and_down_then_sgd_falls_and_restarts():
    model, loss_of_step = make()
    rates, done = [], []
    losses = train_in_stages(
        model, loss_of_step, CONFIG, on_step=lambda step, loss, rate: (done.append(step), rates.append(rate))
    )
    triangle = [0.01, 0.03, 0.05, 0.03]
    cosine = [0.2 * (1 + math.cos(math.pi * step / 3)) / 2 for step in range(3)]
    assert rates == pytest.approx([*triangle, *triangle, *triangle[:2], *cosine, *cosine, cosine[0]])
    assert done == list(range(1, 18))
    assert len(losses) == CONFIG.num_steps == 17
    assert not model.training


@pytest.mark.parametrize("broken_at", [3, 10, 14])
def test_after_a_break_training_ends_with_the_same_weights(tmp_path, broken_at):
    model, loss_of_step = make()
    losses = train_in_stages(model, loss_of_step, CONFIG)
    other, other_loss = make()
    file = tmp_path / "run.pt"

    def break_at(step):
        if step == broken_at:
            raise KeyboardInterrupt
        return other_loss(step)

    with pytest.raises(KeyboardInterrupt):
        train_in_stages(other, break_at, CONFIG, checkpoint=file, checkpoint_every=1)
    again, again_loss = make()
    assert train_in_stages(again, again_loss, CONFIG, checkpoint=file) == losses
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    # what is done is not done again
    called = []
    assert train_in_stages(again, called.append, CONFIG, checkpoint=file) == losses
    assert not called


def test_the_checkpoint_of_another_run_is_refused(tmp_path):
    file = tmp_path / "run.pt"
    made_from = {"data": "abc"}

    def run(config=CONFIG, made_from=made_from, model=None):
        fresh, loss_of_step = make()
        return train_in_stages(model or fresh, loss_of_step, config, checkpoint=file, made_from=made_from)

    losses = run()
    assert run() == losses
    with pytest.raises(ValueError, match=r"another run: data is \"abd\", the checkpoint has \"abc\". Give"):
        run(made_from={"data": "abd"})
    with pytest.raises(ValueError, match=r"config\.sgd_rate is 0\.1, the checkpoint has 0\.2\. Give"):
        run(replace(CONFIG, sgd_rate=0.1))
    with pytest.raises(
        ValueError, match=r'model.class is "Linear", the checkpoint has "Noisy"; model.shapes'
    ):
        run(model=nn.Linear(2, 2))
    save_checkpoint(file, {"weights": torch.ones(1)})
    with pytest.raises(
        ValueError, match=r"not a checkpoint of a training in two stages: it holds \['weights'\]"
    ):
        run()


def test_frozen_parts_stay_in_evaluation_mode_and_something_must_learn():
    torch.manual_seed(0)
    frozen = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    model = nn.ModuleDict({"frozen": frozen, "free": nn.Sequential(nn.Linear(4, 1), nn.BatchNorm1d(1))})
    frozen.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = torch.randn(8, 3)

    def loss_of_step(step):
        assert not any(part.training for part in frozen.modules())
        assert all(part.training for part in model["free"].modules())
        return (model["free"](frozen(data)) - data.sum(1, keepdim=True)).square().mean()

    train_in_stages(model, loss_of_step, CONFIG)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("frozen"), name
    with pytest.raises(ValueError, match="nothing learns: Sequential has no parameter that requires a gradi"):
        train_in_stages(frozen, loss_of_step, CONFIG)


def test_the_callers_generator_stays_as_it_was():
    model, loss_of_step = make()
    state = torch.get_rng_state()
    train_in_stages(model, loss_of_step, CONFIG)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loss_that_is_no_number_ends_training_and_options_are_checked():
    model, _ = make()
    with pytest.raises(ValueError, match="the loss is nan at step 0: look for NaN"):
        train_in_stages(model, lambda step: model.linear.weight.sum() * math.nan, CONFIG)
    for options, message in (
        ({"adam_rates": (0.1, 0.01)}, r"adam_rates must be a least and a greatest rate, got \(0.1, 0.01\)"),
        ({"cycle_steps": 1}, "StagesConfig.cycle_steps must be a whole number of at least 2, got 1"),
        ({"momentum": 1.0}, "StagesConfig.momentum must be finite and at least 0 and below 1, got 1.0"),
        ({"adam_steps": -1}, "StagesConfig.adam_steps must be a whole number of at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(CONFIG, **options)
