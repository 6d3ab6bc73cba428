"""Training in two stages: Adam under a cyclic learning rate, then SGD with warm restarts.

The schedule of Meta-Profile Network (Gong et al., CIKM 2020). It names neither rates nor lengths: the cycle
is a triangle (Smith, WACV 2017), the restarts are cosines (Loshchilov & Hutter, ICLR 2017), both torch's own.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from graph_builders.option_checks import check_numbers, check_whole_numbers
from graphrec.training.checkpoint import (
    check_made_from,
    check_parts,
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
    shape_of_model,
)

_PARTS = ("model", "optimizer", "schedule", "is_second", "random", "losses")  # of a checkpoint


@dataclass(frozen=True, kw_only=True)
class StagesConfig:
    """How long each stage is, and its learning rates.

    Attributes:
        adam_steps: of the first stage.
        adam_rates: the least and the greatest learning rate of Adam.
        cycle_steps: from one least rate to the next.
        sgd_steps: of the second stage.
        sgd_rate: the learning rate of SGD at its start and at each restart; it falls to 0 between.
        momentum: of SGD.
        restart_steps: from one restart to the next.
        weight_decay: of both, AdamW's in the first.
        random_seed: of whatever the model draws, such as dropout.

    """

    adam_steps: int = 1000
    adam_rates: tuple[float, float] = (1e-4, 1e-3)
    cycle_steps: int = 200
    sgd_steps: int = 500
    sgd_rate: float = 1e-3
    momentum: float = 0.9
    restart_steps: int = 250
    weight_decay: float = 1e-4
    random_seed: int = 0

    def __post_init__(self) -> None:
        check_whole_numbers(self, adam_steps=0, cycle_steps=2, sgd_steps=0, restart_steps=1)
        check_numbers(self, ("sgd_rate", "weight_decay"), least=0)
        check_numbers(self, ("momentum",), least=0, below=1)
        low, high = self.adam_rates
        if not 0 <= low <= high:
            raise ValueError(f"adam_rates must be a least and a greatest rate, got {self.adam_rates}")

    @property
    def num_steps(self) -> int:
        """Steps of both stages."""
        return self.adam_steps + self.sgd_steps


def make_stage(
    parameters: list[nn.Parameter], config: StagesConfig, *, is_second: bool
) -> tuple[torch.optim.Optimizer, lr_scheduler.LRScheduler]:
    """Return the optimiser of a stage and its learning rate's schedule, as of the stage's first step."""
    if is_second:
        sgd = torch.optim.SGD(
            parameters, lr=config.sgd_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
        return sgd, lr_scheduler.CosineAnnealingWarmRestarts(sgd, config.restart_steps)
    low, high = config.adam_rates
    adam = torch.optim.AdamW(parameters, lr=low, weight_decay=config.weight_decay)
    up = config.cycle_steps // 2
    return adam, lr_scheduler.CyclicLR(
        adam, low, high, step_size_up=up, step_size_down=config.cycle_steps - up, cycle_momentum=False
    )


def learning_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that require a gradient.

    Raises:
        ValueError: there is none.

    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError(
            f"nothing learns: {type(model).__name__} has no parameter that requires a gradient: unfreeze a "
            "part, or leave the training out"
        )
    return parameters


def train_what_learns(model: nn.Module) -> None:
    """Put a model in training mode but for its frozen parts, which stay in evaluation mode.

    A frozen part has parameters, none of which requires a gradient: in training mode its batch norms would
    still take over statistics, and its dropout draw numbers.
    """
    model.train()
    for part in model.modules():
        parameters = list(part.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            part.eval()


def train_in_stages(
    model: nn.Module,
    loss_of_step: Callable[[int], Tensor],
    config: StagesConfig,
    *,
    checkpoint: Path | None = None,
    checkpoint_every: int = 200,
    on_step: Callable[[int, float, float], None] | None = None,
    made_from: Mapping[str, Any] | None = None,
) -> list[float]:
    """Fit a model in place, leave it in evaluation mode, and return the loss of each step.

    Where ``checkpoint`` exists, training goes on from it and ends with the same weights as without a break,
    if ``loss_of_step`` depends on the step's number alone. One of other options, of a model of other shapes
    or ``made_from`` something else is refused; what the weights were at the start is not compared: give each
    start a path.

    Args:
        model: all parameters that require a gradient are fitted; parts without one stay in evaluation mode.
        loss_of_step: of the step's number.
        config: lengths and rates.
        checkpoint: file to write and to resume from.
        checkpoint_every: steps between checkpoints.
        on_step: called with (steps done, loss, learning rate of the step).
        made_from: what ``loss_of_step`` reads, as plain values and digests (see
            :func:`~graphrec.training.checkpoint.check_made_from`).

    Raises:
        ValueError: nothing learns, a loss is no finite number, or the checkpoint is damaged, no such
            training's, or another run's.

    """
    parameters = learning_parameters(model)
    device = parameters[0].device
    losses, state = list[float](), None
    made = {**(made_from or {}), "config": asdict(config), "model": shape_of_model(model)}
    if checkpoint is not None and checkpoint.exists():
        state = load_checkpoint(checkpoint, device=device)
        check_parts(checkpoint, state, _PARTS, "a checkpoint of a training in two stages")
        check_made_from(checkpoint, state.get("made_from"), made)
        model.load_state_dict(state["model"])
        losses = state["losses"].tolist()
    is_second = len(losses) >= config.adam_steps
    optimizer, schedule = make_stage(parameters, config, is_second=is_second)
    train_what_learns(model)
    # what is drawn is the run's own, and leaves the caller's generator as it was
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.random_seed)
        if state is not None:
            restore_random_state(state["random"], device)
            if state["is_second"] == is_second:
                optimizer.load_state_dict(state["optimizer"])
                schedule.load_state_dict(state["schedule"])
        while len(losses) < config.num_steps:
            step = len(losses)
            if step >= config.adam_steps and not is_second:
                is_second = True
                optimizer, schedule = make_stage(parameters, config, is_second=True)
            rate = float(optimizer.param_groups[0]["lr"])
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of_step(step)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise ValueError(
                    f"the loss is {losses[-1]} at step {step}: look for NaN among the inputs, or take "
                    "smaller learning rates; a checkpoint may be from before"
                )
            if on_step is not None:
                on_step(step + 1, losses[-1], rate)
            if checkpoint is not None and (
                (step + 1) % checkpoint_every == 0 or step + 1 == config.num_steps
            ):
                saved = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "is_second": is_second,
                    "random": random_state(device),
                    "losses": torch.tensor(losses, dtype=torch.float64),
                    "made_from": made,
                }
                save_checkpoint(checkpoint, saved)
    model.eval()
    return losses
