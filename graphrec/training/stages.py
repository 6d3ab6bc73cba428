"""Training in two stages: Adam under a cyclic learning rate, then SGD with warm restarts.

The schedule of Meta-Profile Network (Gong et al., CIKM 2020). It names neither rates nor lengths: the cycle
is a triangle (Smith, WACV 2017), the restarts are cosines (Loshchilov & Hutter, ICLR 2017), both torch's own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from graph_builders.option_checks import check_numbers, check_whole_numbers
from graphrec.training.checkpoint import load_checkpoint, random_state, restore_random_state, save_checkpoint


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


def train_in_stages(
    model: nn.Module,
    loss_of_step: Callable[[int], Tensor],
    config: StagesConfig,
    *,
    checkpoint: Path | None = None,
    checkpoint_every: int = 200,
    on_step: Callable[[int, float, float], None] | None = None,
) -> list[float]:
    """Fit a model in place, leave it in evaluation mode, and return the loss of each step.

    Where ``checkpoint`` exists, training goes on from it and ends with the same weights as without a break,
    if ``loss_of_step`` depends on the step's number alone.

    Args:
        model: all parameters that require a gradient are fitted.
        loss_of_step: of the step's number.
        config: lengths and rates.
        checkpoint: file to write and to resume from.
        checkpoint_every: steps between checkpoints.
        on_step: called with (steps done, loss, learning rate of the step).

    Raises:
        ValueError: a loss is no finite number, or the checkpoint is damaged.

    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device = parameters[0].device
    losses, state = list[float](), None
    if checkpoint is not None and checkpoint.exists():
        state = load_checkpoint(checkpoint, device=device)
        model.load_state_dict(state["model"])
        losses = state["losses"].tolist()
    is_second = len(losses) >= config.adam_steps
    optimizer, schedule = make_stage(parameters, config, is_second=is_second)
    model.train()
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
                }
                save_checkpoint(checkpoint, saved)
    model.eval()
    return losses
