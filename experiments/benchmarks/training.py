"""Rows a second of LSTTM's training and scoring against DeepFM's, in turns, and where LSTTM's time goes.

``python -m experiments.benchmarks.training`` writes ``experiments/results/training_benchmark.jsonl``.
The last test day of KuaiRand-Pure: batches of training rows before it, then its rows are scored: in batches
in order of time, as all rows of a day are by a model that is not updated, and hour by hour. Both
models read the same fields and past counts. Rows a second are those of the library's loader, which samples
and looks up ahead in a thread of its own; the profile, and the rows a second beside it, are of one thread
that does everything in turn. The long-term and preference vectors are random numbers here: their values
cost nothing.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from experiments.benchmarks.measured_rows import machine_facts
from experiments.config import BaselineConfig, LSTTMConfig, lsttm, lsttm_with_preference
from experiments.inputs import load_inputs
from experiments.protocol import ShortTermGraphs, make_model, prepare_day
from experiments.results_table import write_lines
from experiments.tested_day import TestedDay
from graphrec.models.inputs import ClickBatch
from graphrec.training.batches import ClickData, collate, rows_between
from graphrec.training.long_term import LongTermSnapshots
from graphrec.training.loop import click_loss, make_optimizer
from samplers import SeedLoader

OUTPUT = Path(__file__).parents[1] / "results" / "training_benchmark.jsonl"
DAY_NAME = "2022-05-08"
NUM_BATCHES = 40
NUM_ROUNDS = 5
TRAINING_ROWS, SCORING_ROWS = 512, 2048  # of a batch
PEER = "DeepFM + counts"


@dataclass(frozen=True, eq=False)
class Contestant:
    """A model with its data and its rows."""

    name: str
    model: nn.Module
    data: ClickData
    config: LSTTMConfig | BaselineConfig


def contestants(day: TestedDay) -> list[Contestant]:
    """LSTTM as its table has it and with two hops, and DeepFM with past counts."""
    torch.manual_seed(0)

    def vectors(channels: int) -> LongTermSnapshots:
        counts = day.inputs.graph.num_nodes
        return LongTermSnapshots(
            torch.zeros(1, dtype=torch.int64),
            {name: torch.randn(1, counts[name] + 1, channels) for name in ("user", "item")},
        )

    found = []
    for name, config in {
        "LSTTM": lsttm_with_preference(),
        "LSTTM, two hops": replace(lsttm(), preference=lsttm_with_preference().preference),
    }.items():
        assert config.preference is not None
        members = config.preference.num_members * config.preference.channels
        data = replace(
            day.data,
            short_term=config.short_term,
            snapshots=vectors(16),
            preferences=vectors(members + 1),
            csrs=ShortTermGraphs(day, config).before_day(),
        )
        found.append(Contestant(name, make_model(config, data, day.inputs, 16), data, config))
    deepfm = BaselineConfig(past_counts=True)
    found.append(Contestant(PEER, make_model(deepfm, day.data, day.inputs, 0), day.data, deepfm))
    return found


def train_rows(contestant: Contestant, batches: list[torch.Tensor]) -> dict[str, float]:
    """Take a step on each batch; seconds by part."""
    model, optimizer = contestant.model.train(), make_optimizer(contestant.model, contestant.config.optimizer)
    pair_weight = contestant.config.optimizer.pair_weight
    seconds = {"sampling and look-ups": 0.0, "forward": 0.0, "backward": 0.0, "optimiser": 0.0}
    for rows in batches:
        batch = timed(seconds, "sampling and look-ups", collate, contestant.data, rows)
        optimizer.zero_grad(set_to_none=True)
        loss = timed(seconds, "forward", partial(click_loss, model, batch, pair_weight=pair_weight))
        timed(seconds, "backward", loss.backward)
        timed(seconds, "optimiser", optimizer.step)
    return seconds


@torch.no_grad()
def score_rows(contestant: Contestant, batches: list[torch.Tensor]) -> dict[str, float]:
    """Score each batch; seconds by part."""
    model = contestant.model.eval()
    seconds = {"sampling and look-ups": 0.0, "forward": 0.0}
    for rows in batches:
        batch = timed(seconds, "sampling and look-ups", collate, contestant.data, rows)
        timed(seconds, "forward", model, batch)
    return seconds


def train_ahead(contestant: Contestant, batches: list[torch.Tensor]) -> float:
    """Take a step on each batch while the loader prepares the next; seconds in all."""
    model, optimizer = contestant.model.train(), make_optimizer(contestant.model, contestant.config.optimizer)
    pair_weight = contestant.config.optimizer.pair_weight
    began = time.perf_counter()
    for batch in loaded(contestant, batches):
        optimizer.zero_grad(set_to_none=True)
        click_loss(model, batch, pair_weight=pair_weight).backward()
        optimizer.step()
    return time.perf_counter() - began


@torch.no_grad()
def score_ahead(contestant: Contestant, batches: list[torch.Tensor]) -> float:
    """Score each batch while the loader prepares the next; seconds in all."""
    model = contestant.model.eval()
    began = time.perf_counter()
    for batch in loaded(contestant, batches):
        model(batch)
    return time.perf_counter() - began


def loaded(contestant: Contestant, batches: list[torch.Tensor]) -> Iterator[ClickBatch]:
    """Prepare the given batches ahead, in the thread of the library's loader."""
    loader = SeedLoader(
        len(batches), batch_size=1, collate=lambda index: collate(contestant.data, batches[int(index)])
    )
    return loader.batches(0)


def timed(seconds: dict[str, float], name: str, work: Callable[..., Any], *arguments: Any) -> Any:
    """Call and add the time that it took."""
    began = time.perf_counter()
    result = work(*arguments)
    seconds[name] += time.perf_counter() - began
    return result


def main() -> int:
    """Measure, print and write."""
    torch.set_num_threads(1)
    day = prepare_day(load_inputs(), DAY_NAME)
    # as the loader has them: the rows of a period together
    before, generator = rows_between(day.data, 0, day.start), torch.Generator().manual_seed(0)
    order = before[day.data.as_of[before].argsort(stable=True)].split(TRAINING_ROWS)
    chosen = [order[i] for i in torch.randperm(len(order), generator=generator)[:NUM_BATCHES].tolist()]
    shown = rows_between(day.data, day.start, day.end)
    shown = shown[day.data.as_of[shown].argsort(stable=True)]
    hours = [shown[day.data.as_of[shown] == as_of] for as_of in day.data.as_of[shown].unique()]
    lines = []
    models = contestants(day)
    for task, in_turn, ahead, batches in (
        ("training", train_rows, train_ahead, chosen),
        ("scoring", score_rows, score_ahead, list(shown.split(SCORING_ROWS))),
        ("scoring, hour by hour", score_rows, score_ahead, hours),
    ):
        rounds: dict[str, list[dict[str, float]]] = {one.name: [] for one in models}
        loader_seconds: dict[str, list[float]] = {one.name: [] for one in models}
        for _ in range(NUM_ROUNDS + 1):  # the first compiles and warms up
            for one in models:
                rounds[one.name].append(in_turn(one, batches))
                loader_seconds[one.name].append(ahead(one, batches))
        best = {
            name: min(found[1:], key=lambda seconds: sum(seconds.values())) for name, found in rounds.items()
        }
        fastest = {name: min(found[1:]) for name, found in loader_seconds.items()}
        count = sum(map(len, batches))
        for name, seconds in best.items():
            total = sum(seconds.values())
            line = {
                "task": task,
                "model": name,
                "rows_per_second": count / fastest[name],
                "times_slower": fastest[name] / fastest[PEER],
                "rows_per_second_one_thread": count / total,
                "times_slower_one_thread": total / sum(best[PEER].values()),
                "share": {part: value / total for part, value in seconds.items()},
                **machine_facts(),
            }
            lines.append(line)
            shares = ", ".join(f"{part} {value / total:.0%}" for part, value in seconds.items())
            print(
                f"{task:21} {name:17} {line['rows_per_second']:9,.0f} rows/s  {line['times_slower']:5.2f} x  "
                f"one thread {count / total:9,.0f} rows/s  {line['times_slower_one_thread']:5.2f} x  {shares}"
            )
    write_lines(OUTPUT, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
