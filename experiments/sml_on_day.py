"""SML on a test day: sequential training over the days before it, then a fit and a transfer each hour."""

import copy
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from experiments.config import SMLModelConfig
from experiments.tested_day import TestedDay, row_numbers
from experiments.update_forms import Timings
from graphrec.evaluation.replay_stream import Past
from graphrec.models import DeepFMRanker, MFRanker, SMLTransfer
from graphrec.models.inputs import ClickBatch
from graphrec.training.batches import click_batches, click_loader
from graphrec.training.loop import predict
from graphrec.training.sml import SMLPoint, SMLUpdater, train_sml
from samplers import SeedLoader


class SMLOnDay:
    """A model whose tables the transfer networks carry from period to period.

    Training periods are the data's windows (days); on the test day they are its periods (hours), since that
    is when the protocol hands labels over. Its scores are "none", the model as the last day before left it,
    and "updated", after the hours before.
    """

    def __init__(
        self,
        day: TestedDay,
        config: SMLModelConfig,
        seed: int,
        *,
        device: torch.device,
        checkpoint: Path | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> None:
        self.config, self.seed, self.device = config, seed, device
        self.checkpoint, self.on_step = checkpoint, on_step
        self.window, self.start = day.inputs.window, day.start
        self.data = replace(day.data, dense=day.data.dense[:, :0])
        torch.manual_seed(seed)
        if config.base == "MF":
            self.model: nn.Module = MFRanker(day.inputs.sizes, channels=config.channels)
        else:
            self.model = DeepFMRanker(
                day.inputs.sizes,
                channels=config.channels,
                hidden_channels=config.hidden_channels,
                dropout=config.dropout,
            )
        self.model.to(device)
        self.transfer = SMLTransfer(config.channels).to(device)
        self.updater: SMLUpdater | None = None
        self.batches: list[ClickBatch] = []
        self.curve: list[SMLPoint] = []
        self.timings = Timings()

    def fit(self, past: Past) -> None:
        """Go through the windows before the day, in the order of time."""
        with self.timings.measure("training"):
            rows = row_numbers(past.rows)
            # counted back from the day's start, so that every window but the first is whole
            window = (self.data.as_of[rows] - self.start) // self.window
            periods = [rows[window == number] for number in range(int(window.min()), 0)]
            loaders = [self._loader(period) for period in periods if len(period)]

            def batches(period: int, epoch: int, start: int) -> Iterable[ClickBatch]:
                return loaders[period].batches(epoch, start_batch=start)

            self.curve = train_sml(
                self.model,
                self.transfer,
                batches,
                num_batches=list(map(len, loaders)),
                config=self.config.sml,
                device=self.device,
                checkpoint=self.checkpoint,
                on_period=self.on_step,
            )
            self.updater = SMLUpdater(
                copy.deepcopy(self.model), self.transfer, self.config.sml.fit, device=self.device
            )

    def predict(self, rows: pl.DataFrame) -> dict[str, np.ndarray]:
        """Score a period's impressions, as of the day's start and as updated."""
        assert self.updater is not None, "fitted before it predicts"
        began = time.perf_counter()
        size = 4 * self.config.sml.fit.batch_size
        self.batches = list(click_batches(self.data, row_numbers(rows), batch_size=size))
        scores = {"none": predict(self.model, self.batches, device=self.device).numpy()}
        self.timings.scoring += time.perf_counter() - began
        return scores | {"updated": predict(self.updater.model, self.batches, device=self.device).numpy()}

    def update(self, past: Past) -> None:
        """Fit on the period that has been scored, then transfer."""
        assert self.updater is not None, "fitted before it is updated"
        with self.timings.measure("updating"):
            self.updater.update(self.batches)
        self.batches = []

    def num_parameters(self) -> int:
        """Count the weights of the model and of the transfer networks."""
        modules = (self.model, self.transfer)
        return sum(p.numel() for module in modules for p in module.parameters())

    def _loader(self, rows: Tensor) -> SeedLoader[ClickBatch]:
        return click_loader(
            self.data,
            rows,
            batch_size=self.config.sml.fit.batch_size,
            shuffle=True,
            random_seed=self.seed,
        )
