"""Training of a click model by mini-batches: loss, optimiser, learning-rate schedule, checkpoints."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import nn
from torch.nn import functional

from graph_builders.option_checks import check_choices, check_numbers, check_whole_numbers
from graphrec.encoders.base import NodeEncoder
from graphrec.encoders.fit_until import move_trained_encoders
from graphrec.models.inputs import ClickBatch
from graphrec.nn.precision import at_least_float32, precision_region
from graphrec.training.checkpoint import (
    check_made_from,
    check_parts,
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from graphrec.training.pair_loss import pair_loss
from graphrec.training.parameters import embedding_tables

Batch = TypeVar("Batch")
_PARTS = ("model", "optimizer", "random", "step", "loss_sum", "curve")  # of a checkpoint


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How a click model is fitted.

    Attributes:
        name: "adagrad" (the paper's) or "adamw".
        learning_rate: of the dense layers; falls linearly to zero over the run where ``decay`` is set.
        embedding_learning_rate: of the embedding tables.
        linear_learning_rate: of the tables of one channel, which are first-order weights: each row is one
            number and learns as a weight of a linear model does. None: ``embedding_learning_rate``.
        encoder_learning_rate: of all parameters of node-feature encoders, tables included, with
            ``weight_decay``. None: as if they were the model's own.
        weight_decay: of the dense layers; embedding tables have ``embedding_weight_decay``.
        pair_weight: weight of :func:`~graphrec.training.pair_loss.pair_loss` over the pairs of a batch that
            share the user, beside the loss of each row. Shuffled batches hold whole periods, so these are
            mostly pairs of a user and period.
        epochs: passes over the training rows.
        batch_size: rows a step; of a part of it with ``accumulate``.
        accumulate: batches whose mean gradient makes a step, so that a step has so many times the rows in the
            memory of one batch. Each batch counts alike; the last step of an epoch may have fewer.
        mixed_precision: the model's products in bfloat16, by autocast. Parameters, the optimiser's state,
            sums over neighbours and bags, and the loss stay float32. It pays on a GPU, and on a CPU that has
            such products. Scores (:func:`predict`) and online updates are computed in float32.

    """

    name: Literal["adagrad", "adamw"] = "adamw"
    learning_rate: float = 1e-3
    embedding_learning_rate: float = 2e-4
    linear_learning_rate: float | None = None
    encoder_learning_rate: float | None = None
    weight_decay: float = 1e-2
    embedding_weight_decay: float = 0.0
    pair_weight: float = 0.0
    decay: bool = True
    epochs: int = 3
    batch_size: int = 512
    accumulate: int = 1
    mixed_precision: bool = False

    def __post_init__(self) -> None:
        check_choices(self)
        check_whole_numbers(self, epochs=0, batch_size=1, accumulate=1)
        rates = ("learning_rate", "embedding_learning_rate", "linear_learning_rate", "encoder_learning_rate")
        check_numbers(self, rates, least=0)
        check_numbers(self, ("weight_decay", "embedding_weight_decay", "pair_weight"), least=0)


@dataclass(frozen=True, kw_only=True)
class TrainingPoint:
    """Mean training loss over the steps since the last point."""

    step: int
    epoch: float
    loss: float


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Make the optimiser of the paper or AdamW, with groups for dense weights and embedding tables.

    First-order weights, and node-feature encoders, are groups of their own where the configuration has a rate
    for them.
    """
    encoder = dict[int, nn.Parameter]()
    if config.encoder_learning_rate is not None:
        encoder = {
            id(p): p
            for module in model.modules()
            if isinstance(module, NodeEncoder)
            for p in module.parameters()
        }
    tables = embedding_tables(model)
    dense = [p for name, p in model.named_parameters() if name not in tables and id(p) not in encoder]
    sparse = [table for table in tables.values() if id(table) not in encoder]
    linear = list[nn.Parameter]()
    if config.linear_learning_rate is not None:
        linear = [table for table in sparse if table.shape[1] == 1]
        sparse = [table for table in sparse if table.shape[1] > 1]
    decay = config.embedding_weight_decay
    groups: list[dict[str, Any]] = [
        {"params": dense, "lr": config.learning_rate, "weight_decay": config.weight_decay},
        {"params": sparse, "lr": config.embedding_learning_rate, "weight_decay": decay},
        {"params": linear, "lr": config.linear_learning_rate, "weight_decay": decay},
        {
            "params": list(encoder.values()),
            "lr": config.encoder_learning_rate,
            "weight_decay": config.weight_decay,
        },
    ]
    groups = [group for group in groups if group["params"]]
    if config.name == "adagrad":
        return torch.optim.Adagrad(groups)
    return torch.optim.AdamW(groups)


def click_loss(model: Callable[[Any], torch.Tensor], batch: Any, *, pair_weight: float = 0.0) -> torch.Tensor:
    """Binary cross entropy of clicked and unclicked impressions: LSTTM equation (7).

    With ``pair_weight``, plus that times the loss of the order of each user's rows in the batch, which needs
    the batch's ``user_id``. The batch is a ``ClickBatch``, or another with a ``label`` for each row. Under
    autocast logits of 16 bits become float32 before the loss.
    """
    logit = at_least_float32(model(batch))
    loss = functional.binary_cross_entropy_with_logits(logit, batch.label)
    if not pair_weight:
        return loss
    if batch.user_id is None:
        raise ValueError("pair_weight compares rows of one user: give batches their user_id")
    return loss + pair_weight * pair_loss(logit, batch.label, batch.user_id)


def train(
    model: nn.Module,
    batches: Callable[[int, int], Iterable[ClickBatch]],
    *,
    num_batches: int,
    config: OptimizerConfig,
    device: torch.device,
    checkpoint: Path | None = None,
    checkpoint_every: int = 100,
    log_every: int = 25,
    on_step: Callable[[int, int], None] | None = None,
    fit_until: int | None = None,
) -> list[TrainingPoint]:
    """Fit ``model`` in place and return the training curve.

    Where ``checkpoint`` exists, training goes on from it, and ends with the same weights as a run without a
    break: batches are keyed by (epoch, number), and the generators' states are stored.

    Args:
        model: returns a logit for each row of a batch.
        batches: ``batches(epoch, start)`` yields the epoch's batches from number ``start`` on.
        num_batches: batches an epoch.
        config: optimiser and schedule.
        device: where the model and the batches lie.
        checkpoint: file to write and to resume from.
        checkpoint_every: batches between checkpoints.
        log_every: batches that a point of the curve averages.
        on_step: called with (batches done, batches in all), for progress.
        fit_until: all rows' labels were known before this time. Give it where a node-feature encoder that
            knows until when it was fitted, such as ``UserBERT``, learns inside the model: its ``fit_until``
            moves there, so that it is refused for earlier labels. Frozen encoders stay.

    """
    if fit_until is not None:
        move_trained_encoders(model, fit_until)

    def backward(batch: Any) -> torch.Tensor:  # anything that can be moved and that click_loss takes
        batch = batch.to(device)
        with precision_region(device, mixed=config.mixed_precision):
            loss = click_loss(model, batch, pair_weight=config.pair_weight)
        loss.backward()
        return loss.detach()

    return train_steps(
        model,
        batches,
        backward,
        num_batches=num_batches,
        config=config,
        device=device,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        log_every=log_every,
        on_step=on_step,
    )


def train_steps(
    model: nn.Module,
    batches: Callable[[int, int], Iterable[Batch]],
    backward: Callable[[Batch], torch.Tensor],
    *,
    num_batches: int,
    config: OptimizerConfig,
    device: torch.device,
    checkpoint: Path | None,
    checkpoint_every: int,
    log_every: int,
    on_step: Callable[[int, int], None] | None,
    made_from: Mapping[str, Any] | None = None,
) -> list[TrainingPoint]:
    """Take the optimiser, schedule and checkpoints of :func:`train` through batches of any kind.

    A step of the curve, of the schedule and of the checkpoints is a batch; the optimiser steps after each
    ``config.accumulate`` of them, and at an epoch's end.

    Args:
        model: fitted in place, left in evaluation mode.
        batches: as in :func:`train`.
        backward: sets the parameters' ``grad`` for a batch and returns its loss without a graph.
        num_batches: batches an epoch.
        config: optimiser and schedule.
        device: where the model lies.
        checkpoint: file to write and to resume from.
        checkpoint_every: steps between checkpoints.
        log_every: steps that a point of the curve averages.
        on_step: called with (steps done, steps in all).
        made_from: what the run is made from, as plain values (see
            :func:`~graphrec.training.checkpoint.check_made_from`): it is stored in the checkpoint, and one of
            another run is refused. None: any checkpoint that fits the model is taken.

    Raises:
        ValueError: ``checkpoint_every`` or ``log_every`` is below 1; the checkpoint is cut, no training's, or
            another run's; a loss or a weight is not finite; or an epoch gives fewer batches than promised.

    """
    if checkpoint_every < 1 or log_every < 1:
        raise ValueError(
            f"checkpoint_every and log_every are numbers of steps, at least 1: got {checkpoint_every} and "
            f"{log_every}"
        )
    optimizer = make_optimizer(model, config)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    total = config.epochs * num_batches
    step, curve, loss_sum = 0, list[TrainingPoint](), torch.zeros((), device=device)
    if checkpoint is not None and checkpoint.exists():
        state = load_checkpoint(checkpoint, device=device)
        check_parts(checkpoint, state, _PARTS, "a checkpoint of a training")
        if made_from is not None:
            check_made_from(checkpoint, state.get("made_from"), made_from)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        restore_random_state(state["random"], device)
        step, loss_sum = state["step"], state["loss_sum"]
        curve = [TrainingPoint(**point) for point in state["curve"]]

    saved = step
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def save() -> None:
        if checkpoint is not None:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "random": random_state(device),
                "step": step,
                "loss_sum": loss_sum,
                "curve": [vars(point) for point in curve],
                "made_from": None if made_from is None else dict(made_from),
            }
            save_checkpoint(checkpoint, state)

    if on_step is not None:
        on_step(step, total)
    model.train()
    while step < total:
        epoch, start = divmod(step, num_batches)
        step_before = step
        for batch in batches(epoch, start):
            for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                group["lr"] = rate * (1 - step / total) if config.decay else rate
            place = step % num_batches % config.accumulate  # of the batch in its step of the optimiser
            if place == 0:
                optimizer.zero_grad(set_to_none=True)
            loss_sum = loss_sum + backward(batch)
            step += 1
            is_whole = place + 1 == config.accumulate or step % num_batches == 0
            if is_whole:
                _divide_gradients(parameters, place + 1)
                optimizer.step()
            if step % log_every == 0:
                mean = loss_sum.item() / log_every
                _check_finite(mean, step)
                curve.append(TrainingPoint(step=step, epoch=step / num_batches, loss=mean))
                loss_sum = torch.zeros_like(loss_sum)
            if is_whole and (step // checkpoint_every > saved // checkpoint_every or step == total):
                saved = step
                _check_finite(loss_sum.item(), step)  # what diverged is never saved
                if step == total:
                    _check_weights(model)
                save()
            if on_step is not None:
                on_step(step, total)
        if step == step_before:
            raise ValueError(f"epoch {epoch} gave no batch from number {start} on, of {num_batches} promised")
    model.eval()
    return curve


def _divide_gradients(parameters: Iterable[nn.Parameter], num_batches: int) -> None:
    if num_batches > 1:
        torch._foreach_div_([p.grad for p in parameters if p.grad is not None], float(num_batches))


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise ValueError(
            f"the loss is {loss} after {step} steps: look for NaN among labels and inputs, or take smaller "
            "learning rates; a checkpoint may be from before"
        )


def _check_weights(model: nn.Module) -> None:
    """Raise if the last step left a weight that is not finite: the losses before it do not show that."""
    for name, weight in model.named_parameters():
        if not bool(weight.isfinite().all()):
            raise ValueError(
                f"{name} is not finite after the last step: look for NaN among labels and inputs, or take "
                "smaller learning rates; a checkpoint may be from before"
            )


@torch.no_grad()
def predict(model: nn.Module, batches: Iterable[ClickBatch], *, device: torch.device) -> torch.Tensor:
    """Click probabilities of the batches' rows in order, (num_rows,) float64 on the CPU."""
    model.eval()
    parts = [torch.sigmoid(model(batch.to(device)).double()).cpu() for batch in batches]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)
