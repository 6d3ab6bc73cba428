"""A test day as every model meets it: what was known at its start, and its replay hour by hour."""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from torch import Tensor

from experiments.inputs import MainInputs
from experiments.update_forms import Timings
from graph_builders.events import EventLog
from graphrec.evaluation.replay import ReplayModel, replay
from graphrec.evaluation.replay_stream import PERIOD_START
from graphrec.training.batches import ClickData
from graphrec.training.loop import TrainingPoint
from graphrec.training.scaling import QuantileScaler


@dataclass(frozen=True, eq=False)
class TestedDay:
    """One test day: what was known at its start, and what it brings hour by hour."""

    name: str
    start: int
    end: int
    data: ClickData
    """Impressions until the day's end, past counts scaled by the rows before the day."""
    raw_dense: Tensor
    static: Tensor
    events: EventLog
    """All events until the day's end."""
    inputs: MainInputs


def prepare_day(inputs: MainInputs, name: str) -> TestedDay:
    """Cut the inputs at the end of a test day and fit the scaler on what came before it."""
    inputs.check_window(name)
    start, end = inputs.bounds(name)
    data = inputs.data
    # impressions come in the order of time: what lies before the day's end is a slice, and nothing is copied
    keep = slice(0, int((data.impressions.time < end).sum()))
    time = data.impressions.time[keep]
    if len(time) and bool((time.diff() < 0).any()):
        raise ValueError("impressions must be in the order of time: sort them before the inputs are made")
    raw = data.dense[keep]
    scaler = QuantileScaler.fit(raw, time, fit_until=start)
    events = inputs.tables.events.filter(pl.col("time") < end)
    return TestedDay(
        name=name,
        start=start,
        end=end,
        data=replace(
            data,
            impressions=data.impressions.select(torch.arange(keep.stop)),
            as_of=data.as_of[keep],
            context=data.context[keep],
            dense=scaler.transform(raw),
        ),
        raw_dense=raw,
        static=inputs.static[keep],
        events=events,
        inputs=inputs,
    )


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of a day's impressions by form of online update, and how the training went."""

    score: dict[str, np.ndarray]
    curve: list[TrainingPoint]
    num_parameters: int
    timings: Timings


def replay_day(day: TestedDay, model: ReplayModel, period: int) -> dict[str, np.ndarray]:
    """Take a model through a test day; its rows are numbers into ``day.data``. Returns scores by name."""
    shown = day.data.impressions
    rows = {"row": torch.arange(len(shown)), "time": shown.time, "label": shown.label}
    frame = replay(
        model,
        rows,
        test_from=day.start,
        test_until=day.end,
        period=period / day.inputs.units_per_second,
        time_unit=day.inputs.tables.time_resolution,
        score="none",
    )
    names = [name for name in frame.columns if name not in (*rows, PERIOD_START)]
    return {name: frame[name].to_numpy(writable=True) for name in names}


def row_numbers(rows: pl.DataFrame) -> Tensor:
    """Return the impressions that a frame of the replay is about."""
    return torch.from_numpy(rows["row"].to_numpy(writable=True))
