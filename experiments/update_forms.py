"""One trained model in several forms of online update at once, each scored on the same batches."""

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from graphrec.models.inputs import ClickBatch
from graphrec.training.loop import predict
from graphrec.training.online import OnlineConfig, OnlineUpdater
from graphrec.training.parameters import descent_rates


@dataclass
class Timings:
    """Wall seconds of a model on a test day; ``scoring`` is of one form of update, whatever their number.

    ``earlier`` are processor seconds of pre-training that was done once for several models.
    """

    training: float = 0.0
    scoring: float = 0.0
    updating: float = 0.0
    earlier: float = 0.0

    @contextmanager
    def measure(self, what: str) -> Iterator[None]:
        """Add the seconds of a block to ``what``, a name of a field."""
        began = time.perf_counter()
        yield
        setattr(self, what, getattr(self, what) + time.perf_counter() - began)


class UpdatedModels:
    """Copies of a trained model, each updated in a form of its own through the periods of a day.

    All union forms take their step from the day's checkpoint along the same gradient, so they share one
    updater and differ in their rates alone: a search over rates costs a score for each, and no gradient.

    Args:
        model: as trained; not changed.
        updates: forms and rates, by name.
        device: where the model and the batches lie.

    """

    def __init__(
        self, model: nn.Module, updates: Mapping[str, OnlineConfig], *, device: torch.device
    ) -> None:
        self.updates, self.device = dict(updates), device
        union = [config for config in self.updates.values() if config.form == "union"]
        self.union = OnlineUpdater(copy.deepcopy(model), union[0], device=device) if union else None
        self.others = {
            name: OnlineUpdater(copy.deepcopy(model), config, device=device)
            for name, config in self.updates.items()
            if config.form != "union"
        }

    def predict(self, batches: Sequence[ClickBatch], timings: Timings) -> dict[str, np.ndarray]:
        """Return the click probabilities of each form; ``timings`` gets the seconds of the first."""
        scores = {}
        for number, (name, config) in enumerate(self.updates.items()):
            began = time.perf_counter()
            model = self.others[name].model if name in self.others else self._at_rates(config)
            scores[name] = predict(model, batches, device=self.device).numpy()
            if not number:
                timings.scoring += time.perf_counter() - began
        return scores

    def update(self, batches: Sequence[ClickBatch]) -> None:
        """Take in the rows of a period that has ended."""
        for updater in [*self.others.values(), *([self.union] if self.union is not None else [])]:
            updater.update(batches)

    @torch.no_grad()
    def _at_rates(self, config: OnlineConfig) -> nn.Module:
        """Set the union's model to the step of these rates, along the gradient so far."""
        updater = self.union
        assert updater is not None
        rates = descent_rates(
            updater.model,
            learning_rate=config.learning_rate,
            embedding_learning_rate=config.embedding_learning_rate,
        )
        size = max(updater.num_rows, 1)
        for parameter, origin, gradient, rate in zip(
            updater.parameters, updater.checkpoint, updater.gradient_sum, rates.values(), strict=True
        ):
            parameter.copy_(origin - rate / size * gradient)
        return updater.model
