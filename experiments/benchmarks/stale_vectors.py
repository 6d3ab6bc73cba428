"""LSTTM with encoded users and a table of their last vectors: cost, AUC, and how stale the table is.

``python -m experiments.benchmarks.stale_vectors`` trains on two days of KuaiRand-Pure and scores the next,
the validation day, with one seed: with all users of a batch's graph encoded, with the impressions' own users
alone, and between them with a table and several shares. After each epoch the vectors that a batch would read
from the table are compared with those that the present weights give. Rows are stored in
``experiments/results/stale_vectors.jsonl`` one by one, and finished ones are not measured again.
"""

import argparse
import gc
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from experiments.benchmarks.measured_rows import is_measured, machine_facts
from experiments.config import LSTTMConfig, lsttm_with_preference
from experiments.encoders_report import STALE, stale_vectors_section
from experiments.encoders_table import KINDS, id_features
from experiments.inputs import load_inputs
from experiments.peak_memory import PeakMemory
from experiments.protocol import NeuralOnDay, prepare_day
from experiments.results_table import read_lines, write_lines
from experiments.tested_day import TestedDay
from experiments.user_encoders import StoredUsers
from graphrec.encoders.vector_table import StaleError, VectorTable
from graphrec.evaluation import auc
from graphrec.models import LSTTM
from graphrec.training.batches import ClickData, click_batches, rows_between
from graphrec.training.loop import predict

OUTPUT = Path(__file__).parents[1] / "results" / STALE
DAY, NUM_DAYS = "2022-05-03", 2  # scored, and trained on before it
HOURS = 24
ENCODERS = ("DUPN", "heatmap CNN")
SHARES = (0.0, 0.1, 0.3)
PROBED_BATCHES = 4  # of the scored day, whose neighbours' stored vectors are compared
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained once.

    Attributes:
        encoder: out of ``experiments.encoders_table.KINDS``.
        nodes: which users are encoded.
        stored: what the others have.
        epochs: of training.
        num_neighbors: fan-out.
        random_seed: of weights and batches.

    """

    encoder: str
    nodes: Literal["seeds", "all"] = "seeds"
    stored: StoredUsers | None = None
    epochs: int = 3
    num_neighbors: int = 5
    random_seed: int = 0


def cases() -> list[Case]:
    """Return all cases."""
    found = []
    for name in ENCODERS:
        slots = NUM_DAYS * HOURS
        found += [Case(encoder=name, nodes="all"), Case(encoder=name)]
        found += [Case(encoder=name, stored=StoredUsers(share=share, num_periods=slots)) for share in SHARES]
        found += [
            Case(encoder=name, stored=StoredUsers(num_periods=slots, max_age_hours=6)),
            Case(encoder=name, stored=StoredUsers(num_periods=1)),
        ]
    return found


def measure(day: TestedDay, case: Case) -> dict[str, Any]:
    """Train, score the day, and return costs, AUC and the error of stored vectors after each epoch."""
    errors = list[StaleError | None]()

    def at_epochs_end(done: int, total: int) -> None:
        if done and done % (total // case.epochs) == 0:
            errors.append(stale_error(made, data, scored, size))

    config = _config(case)
    size = config.optimizer.batch_size
    made = NeuralOnDay(
        day, config, case.random_seed, updates={}, snapshots=None, device=CPU, on_step=at_epochs_end
    )
    assert made.graphs is not None
    data = made.data.with_graph(made.graphs.before_day())
    length = day.end - day.start
    rows = rows_between(data, day.start - NUM_DAYS * length, day.start)
    scored = rows_between(data, day.start, day.end)
    gc.collect()
    memory, began = PeakMemory(CPU), time.process_time()
    made.train_plain(data, rows, config.optimizer, None)
    seconds, peak = time.process_time() - began, memory.mib()
    score = predict(made.model, click_batches(data, scored, batch_size=4 * size), device=CPU)
    label = data.impressions.label[scored].numpy()
    known = [one for one in errors if one is not None]
    hour = 3600 * day.inputs.units_per_second
    return {
        **asdict(case),
        "num_rows": len(rows),
        "num_scored": len(scored),
        "cpu_seconds": round(seconds, 1),
        "peak_mib": None if peak is None else round(peak),
        "auc": round(float(auc(label, np.asarray(score))), 5),
        "known_share": [round(one.known_share, 3) for one in known],
        "relative_error": [_rounded(one.relative_error, 3) for one in known],
        "mean_age_hours": [_rounded(one.mean_age / hour, 1) for one in known],
    }


def stale_error(made: NeuralOnDay, data: ClickData, rows: Tensor, size: int) -> StaleError | None:
    """Compare stored vectors of the users in some batches, the seeds left out, with new ones; None: no table.

    Batches are from the whole of the rows, evenly. The table is read as scoring reads it, and not written.
    """
    assert isinstance(made.model, LSTTM)
    short_term = made.model.short_term
    if "user" not in short_term.vector_tables:
        return None
    table, encoder = short_term.vector_tables["user"], short_term.encoders["user"]
    assert isinstance(table, VectorTable)
    everybody = replace(data.encoders["user"], nodes="all", share=0.0)
    data = replace(data, encoders={"user": everybody})
    was_training = made.model.training
    made.model.eval()
    node, asked, fresh = list[Tensor](), list[Tensor](), list[Tensor]()
    starts = torch.linspace(0, max(len(rows) - size, 0), PROBED_BATCHES).long().tolist()
    for start in dict.fromkeys(starts):
        graph = next(iter(click_batches(data, rows[start : start + size], batch_size=size))).graph
        assert graph is not None
        others = slice(graph.num_nodes_after_hop["user"][0], None)
        with torch.no_grad():
            fresh.append(encoder(graph.encoder_inputs["user"])[others])
        node.append(graph.node["user"][others])
        asked.append(graph.node_time["user"][others])
    made.model.train(was_training)
    return table.error(torch.cat(node), torch.cat(asked), torch.cat(fresh))


def _rounded(value: float, digits: int) -> float | None:
    return None if math.isnan(value) else round(value, digits)


def _config(case: Case) -> LSTTMConfig:
    base = id_features(lsttm_with_preference())
    encoder = replace(KINDS[case.encoder], learning="end to end", nodes=case.nodes, stored=case.stored)
    return replace(
        base,
        long_term=False,
        short_term=replace(base.short_term, num_neighbors=case.num_neighbors),
        user_encoder=encoder,
        optimizer=replace(base.optimizer, epochs=case.epochs, encoder_learning_rate=1e-3),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is not stored yet, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUTPUT, help="result file")
    parser.add_argument("--path", help="folder of KuaiRand-Pure; default: the embedded copy")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    out: Path = options.out
    rows = read_lines(out)
    day = prepare_day(load_inputs(path=options.path), DAY)
    out.parent.mkdir(parents=True, exist_ok=True)
    for case in cases():
        if is_measured(case, rows):
            continue
        rows.append({**measure(day, case), **machine_facts(), "fingerprint": day.inputs.fingerprint})
        write_lines(out, rows)
        print(stale_vectors_section(rows[-1:]).splitlines()[-1], flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
