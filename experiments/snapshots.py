"""Long-term vectors of a data set by day, trained once for each seed and configuration, and kept on disk."""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.config import TrainedOn
from experiments.main_inputs import MainInputs
from experiments.parts import PROTOCOL_VERSION, changed_fields
from graphrec.training.long_term import LongTermConfig, LongTermSnapshots, train_long_term


@contextmanager
def locked_checkpoint(folder: Path, content: Sequence[Any]) -> Iterator[Path]:
    """Give the file that is kept of what is trained from ``content``; other processes wait at the block.

    Args:
        folder: where checkpoints are kept.
        content: plain JSON values that decide what is trained; the file is named by their hash.

    """
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder / f"{key}.pt"


def kept_snapshots(
    inputs: MainInputs,
    config: LongTermConfig,
    *,
    until: int,
    folder: Path,
    trained_on: TrainedOn = "days before",
    device: torch.device,
    on_step: Callable[[int, int], None] | None = None,
) -> LongTermSnapshots:
    """Return the vectors of every day up to ``until``, from the folder where they are there already.

    Several processes may ask for the same ones: one trains them, the others wait.

    Args:
        inputs: the data.
        config: of the long-term module, its random seed included.
        until: the last day's start.
        folder: where checkpoints are kept.
        trained_on: "days before": a day's vectors come from edges before it. "all training days" is the
            ablation: one set of vectors from all edges before ``until``, read by every training row, with as
            many gradient steps.
        device: where the module is trained.
        on_step: called with (steps done, steps in all).

    """
    graph = inputs.long_term_graph().to(device)
    days = list(inputs.snapshot_times(until))
    if trained_on == "all training days":
        config = replace(config, first_steps=config.first_steps + (len(days) - 1) * config.steps)
    content = [PROTOCOL_VERSION, inputs.fingerprint, until, trained_on, changed_fields(config)]
    with locked_checkpoint(folder, content) as checkpoint:
        snapshots, _ = train_long_term(
            graph.csrs(),
            graph.num_nodes,
            days[-1:] if trained_on == "all training days" else days,
            config,
            device=device,
            checkpoint=checkpoint,
            on_step=on_step,
        )
    if trained_on == "all training days":
        return LongTermSnapshots(torch.tensor(days[:1]), snapshots.vectors)
    return snapshots
