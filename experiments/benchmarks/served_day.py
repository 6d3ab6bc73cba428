"""A served day beside the protocol: the same weights, scored by the ranker and by the replay of a test day.

Both score the day's impressions as of the start of each impression's hour, without updates and in the
folder's own form. The AUCs should agree, and so should the probabilities but for rounding.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from experiments.config import LSTTMConfig
from experiments.inputs import MainInputs
from experiments.protocol import NeuralOnDay
from experiments.tested_day import TestedDay, prepare_day, replay_day
from experiments.update_forms import UpdatedModels
from graphrec.evaluation.ctr import auc
from graphrec.evaluation.replay_stream import Past
from graphrec.serving import DayFolder, OnlineRanker, open_day_folder
from graphrec.training.batches import rows_between
from graphrec.training.long_term import LongTermSnapshots
from graphrec.training.online import OnlineConfig


class _TrainedOnDay(NeuralOnDay):
    """A model that has been trained already, on a test day."""

    def fit(self, past: Past) -> None:
        self.updated = UpdatedModels(self.model, self.updates, device=self.device)


def compare_served_day(inputs: MainInputs, folder: Path, config: LSTTMConfig) -> list[dict[str, Any]]:
    """Return AUCs of a folder's day as served and by the protocol, and how far the probabilities are apart.

    Args:
        inputs: the data that the folder was made from.
        folder: from the daily job.
        config: that the job was given.

    Returns:
        Rows (measure, setting, value, unit).

    Raises:
        ValueError: the folder is of other data or of another configuration.

    """
    served = open_day_folder(folder)
    if served.config.fingerprint != inputs.fingerprint:
        raise ValueError(f"{folder} was made from other data: give those, or run its daily job again")
    day = prepare_day(inputs, served.config.day)
    rows = rows_between(day.data, day.start, day.end)
    label = day.data.impressions.label[rows].numpy()
    forms: dict[str, OnlineConfig] = {
        form: replace(config.online, form=form) for form in ("none", config.online.form)
    }
    offline = _replayed(day, served, config, forms)
    out = []
    for form, update in forms.items():
        found = _served(day, served, rows, update)
        gap = float(np.abs(found - offline[form]).max())
        for name, value in (
            (f"served, {form}", auc(label, found)),
            (f"replay, {form}", auc(label, offline[form])),
        ):
            out.append({"measure": "AUC of the day", "setting": name, "value": round(value, 6), "unit": ""})
        out.append(
            {"measure": "largest difference of probabilities", "setting": form, "value": gap, "unit": ""}
        )
    return out


def _replayed(
    day: TestedDay, served: DayFolder, config: LSTTMConfig, forms: dict[str, OnlineConfig]
) -> dict[str, np.ndarray]:
    """Score the day by the protocol, from the folder's weights and vectors."""

    def of_the_day(table: Mapping[str, torch.Tensor]) -> LongTermSnapshots | None:
        if not table:
            return None
        return LongTermSnapshots(torch.tensor([day.start]), {name: v[None] for name, v in table.items()})

    model = _TrainedOnDay(
        day,
        config,
        0,
        updates=forms,
        snapshots=of_the_day(served.long_term),
        preferences=of_the_day(served.preference),
        device=torch.device("cpu"),
    )
    try:
        model.model.load_state_dict(served.model.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"the folder of {day.name} was made with another configuration than this one: {error}"
        ) from error
    return replay_day(day, model, day.inputs.period)


def _served(day: TestedDay, served: DayFolder, rows: torch.Tensor, update: OnlineConfig) -> np.ndarray:
    """Score the day by a ranker that is fed its events hour by hour: a request for each user and hour."""
    shown, period = day.data.impressions, day.inputs.period
    names = served.config.event_columns
    requests = pl.DataFrame(
        {
            "row": np.arange(len(rows)),
            "hour": day.data.as_of[rows].numpy(),
            "user": served.ids["user"].id_series.gather(shown.user[rows].numpy()),
            "item": served.ids["item"].id_series.gather(shown.item[rows].numpy()),
            **{name: shown.context[name][rows].numpy() for name in names},
        }
    )
    score = np.zeros(len(rows), np.float32)
    with tempfile.TemporaryDirectory() as state:
        changed = replace(served, config=replace(served.config, online=update))
        with OnlineRanker(changed, Path(state)) as ranker:
            events = day.events.frame.select(ranker.events().columns)
            for hour in range(day.start, day.end, period):
                if hour > day.start:
                    ranker.end_period(hour)
                asked = requests.filter(pl.col("hour") == hour).group_by("user", *names, maintain_order=True)
                for (user, *context), part in asked:
                    values = {name: int(str(value)) for name, value in zip(names, context, strict=True)}
                    score[part["row"].to_numpy()] = ranker.rank(user, part["item"], values, hour).score
                within = events.filter((pl.col("time") >= hour) & (pl.col("time") < hour + period))
                ranker.append(within.sort("time", maintain_order=True))
    return score
