"""LSTTM with each user encoder trained end to end: peak memory and seconds of a step, by batch and fan-out.

``python -m experiments.benchmarks.encoders`` writes ``experiments/results/encoders_benchmark.jsonl``, case by
case, and measures none again that is there. The data is KuaiRand-Pure, the day and the sizes those of
``python -m experiments encoders_table``. Memory is what the process has at most during some steps, less what
it had before the first, when free memory has been given back; so the data, the model and what a former case
took do not count. Batches are prepared ahead by a thread, and count. Time is the median over the steps of the
processor's seconds. On a GPU, where there is one, memory is the GPU's and time the wall's. Linux alone.
"""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch

from experiments.benchmarks.measured_rows import devices, is_measured, machine_facts
from experiments.config import TEST_DAYS, lsttm_with_preference
from experiments.encoders_report import BENCHMARK, encoders_benchmark_section
from experiments.encoders_table import KINDS
from experiments.inputs import load_inputs
from experiments.peak_memory import PeakMemory
from experiments.protocol import NeuralOnDay, prepare_day
from experiments.results_table import read_lines, write_lines
from experiments.tested_day import TestedDay
from experiments.user_encoders import JoinedFeatures, SMENFeatures
from graphrec.encoders.userbert import UserBERT
from graphrec.nn.precision import precision_region
from graphrec.training.batches import click_loader, rows_between
from graphrec.training.loop import click_loss, make_optimizer

OUTPUT = Path(__file__).parents[1] / "results" / BENCHMARK
NONE, ALL = "none", "all four"
NAMES = (NONE, *KINDS, ALL)
WARM_UP = 2  # steps that are not timed


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is measured at once.

    Attributes:
        group: of cases that are compared.
        encoder: out of ``NAMES``.
        batch_size: impressions of a batch.
        num_neighbors: fan-out: neighbours of a node, for each edge type.
        nodes: which users are encoded.
        accumulate: batches of a step.
        checkpoint_activations: UserBERT computes its insides again in the backward pass.
        mixed_precision: products in bfloat16.
        device: "cpu" or "cuda".
        num_steps: that are timed.

    """

    group: str
    encoder: str
    batch_size: int = 512
    num_neighbors: int = 5
    nodes: Literal["seeds", "all"] = "seeds"
    accumulate: int = 1
    checkpoint_activations: bool = False
    mixed_precision: bool = False
    device: str = "cpu"
    num_steps: int = 5


def cases(device: str) -> list[Case]:
    """Return all cases of a device."""
    by_batch = [
        Case(group="batch", encoder=name, batch_size=size, device=device)
        for name in NAMES
        for size in (128, 512, 2048)
    ]
    by_fan_out = [
        Case(group="fan-out", encoder=name, num_neighbors=count, nodes="all", device=device)
        for name in NAMES
        for count in (5, 10, 30)
    ]
    bert = Case(group="in less memory", encoder="UserBERT", nodes="all", device=device)
    less = [
        bert,
        replace(bert, batch_size=128, accumulate=4),
        replace(bert, checkpoint_activations=True),
        replace(bert, mixed_precision=True),
        replace(bert, batch_size=128, accumulate=4, checkpoint_activations=True),
        replace(bert, batch_size=128, accumulate=4, checkpoint_activations=True, mixed_precision=True),
    ]
    return [*by_batch, *by_fan_out, *less]


def measure(day: TestedDay, case: Case) -> dict[str, Any]:
    """Train for some steps and return milliseconds and peak MiB of a step."""
    torch.set_num_threads(1)
    model, batches = _model_and_batches(day, case)
    optimizer = make_optimizer(model.model, model.config.optimizer)
    device, on_gpu = torch.device(case.device), case.device == "cuda"
    clock, times = time.perf_counter if on_gpu else time.process_time, list[float]()
    gc.collect()
    memory = PeakMemory(device)
    for _ in range(WARM_UP + case.num_steps):
        began = clock()
        optimizer.zero_grad(set_to_none=True)
        for batch in islice(batches, case.accumulate):
            moved = batch.to(case.device)
            with precision_region(device, mixed=case.mixed_precision):
                loss = click_loss(model.model, moved)
            (loss / case.accumulate).backward()
        optimizer.step()
        if on_gpu:
            torch.cuda.synchronize()
        times.append(clock() - began)
    return {
        **asdict(case),
        "milliseconds_a_step": round(1000 * statistics.median(times[WARM_UP:]), 1),
        "peak_mib": None if (peak := memory.mib()) is None else round(peak, 1),
    }


def _model_and_batches(day: TestedDay, case: Case) -> tuple[NeuralOnDay, Iterator[Any]]:
    few = {name: replace(one, learning="end to end", nodes=case.nodes) for name, one in KINDS.items()}
    smen = few["SMEN"]
    assert isinstance(smen, SMENFeatures)
    few["SMEN"] = replace(smen, item_epochs=1)  # interests cost the same, whatever they mean
    base = lsttm_with_preference()
    num_layers = 2 if case.nodes == "all" else 1
    config = replace(
        base,
        long_term=False,
        preference=None,
        short_term=replace(base.short_term, num_neighbors=case.num_neighbors, num_layers=num_layers),
        user_encoder={NONE: None, ALL: JoinedFeatures(encoders=tuple(few.values())), **few}[case.encoder],
        optimizer=replace(base.optimizer, batch_size=case.batch_size),
    )
    device = torch.device(case.device)
    made = NeuralOnDay(day, config, 0, updates={}, snapshots=None, device=device)
    for module in made.model.modules():
        if isinstance(module, UserBERT):
            module.checkpoint_activations = case.checkpoint_activations
    made.model.train()
    assert made.graphs is not None
    data = made.data.with_graph(made.graphs.before_day())
    rows = rows_between(data, int(data.impressions.time.min()), day.start)
    loader = click_loader(data, rows, batch_size=case.batch_size, shuffle=True, random_seed=0)
    return made, iter(loader.batches(0))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUTPUT, help="result file")
    parser.add_argument(
        "--group", choices=("batch", "fan-out", "in less memory"), help="of these cases alone"
    )
    parser.add_argument("--path", help="folder of KuaiRand-Pure; default: the embedded copy")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    day = prepare_day(load_inputs(path=options.path), TEST_DAYS[-1])
    out: Path = options.out
    rows, facts = read_lines(out), machine_facts()
    out.parent.mkdir(parents=True, exist_ok=True)
    for device in devices():
        for case in cases(device):
            if options.group not in (None, case.group) or is_measured(case, rows):
                continue
            rows.append({**measure(day, case), **facts})
            write_lines(out, rows)  # after each case: what was measured stays
            print(encoders_benchmark_section(rows[-1:]).splitlines()[-1], flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
