"""One-step updates during a day: from the day's checkpoint (``union``), or hour on hour (``chained``)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from graph_builders.option_checks import check_choices, check_numbers
from graphrec.models.inputs import ClickBatch
from graphrec.training.parameters import descent_rates

UpdateForm = Literal["none", "union", "chained"]


@dataclass(frozen=True, kw_only=True)
class OnlineConfig:
    """How a model is updated between the periods of a test day.

    Attributes:
        form: "none"; "union": one gradient step from the day's checkpoint over all former periods of the day
            (LSTTM, sections 4 and 5.4.1); "chained": one step a period, each on top of the last.
        learning_rate: of plain gradient descent for the dense layers.
        embedding_learning_rate: for the embedding tables, which take a far larger rate to move at all.

    """

    form: UpdateForm = "union"
    learning_rate: float = 0.01
    embedding_learning_rate: float = 0.01

    def __post_init__(self) -> None:
        check_choices(self)
        check_numbers(self, ("learning_rate", "embedding_learning_rate"), least=0)


class OnlineUpdater:
    """Keeps a model up to date with the periods of one day.

    In the union form the gradient over all former periods is taken at the day's checkpoint, so it is the sum
    of the periods' own gradients there: each period is differentiated once, when it has ended.
    """

    def __init__(self, model: nn.Module, config: OnlineConfig, *, device: torch.device) -> None:
        self.model, self.config, self.device = model, config, device
        self.parameters = list(model.parameters())
        rates = descent_rates(
            model,
            learning_rate=config.learning_rate,
            embedding_learning_rate=config.embedding_learning_rate,
        )
        self.rates = list(rates.values())
        self.checkpoint = [p.detach().clone() for p in self.parameters]
        self.gradient_sum = [torch.zeros_like(p) for p in self.parameters]
        self.num_rows = 0

    def update(self, batches: Iterable[ClickBatch]) -> None:
        """Take in the rows of a period that has ended."""
        if self.config.form == "none":
            return
        if self.config.form == "chained":
            gradient, num_rows = self._gradient(batches)
            if num_rows:
                self._step([p.detach() for p in self.parameters], gradient, num_rows)
            return
        self._set(self.checkpoint)
        gradient, num_rows = self._gradient(batches)
        self.num_rows += num_rows
        for total, part in zip(self.gradient_sum, gradient, strict=True):
            total += part
        if self.num_rows:  # also after a period without rows, which must not undo the former ones
            self._step(self.checkpoint, self.gradient_sum, self.num_rows)

    def _gradient(self, batches: Iterable[ClickBatch]) -> tuple[list[torch.Tensor], int]:
        """Gradient of the summed loss, and the number of rows; dropout is off, as when scoring."""
        self.model.eval()
        self.model.zero_grad(set_to_none=True)
        num_rows = 0
        for batch in batches:
            batch = batch.to(self.device)
            logit = self.model(batch)
            functional.binary_cross_entropy_with_logits(logit, batch.label, reduction="sum").backward()
            num_rows += len(batch)
        gradient = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        self.model.zero_grad(set_to_none=True)
        return gradient, num_rows

    @torch.no_grad()
    def _step(self, origin: list[torch.Tensor], gradient: list[torch.Tensor], num_rows: int) -> None:
        self._set([o - rate / num_rows * g for o, rate, g in zip(origin, self.rates, gradient, strict=True)])

    @torch.no_grad()
    def _set(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
