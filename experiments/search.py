"""The search on the validation day: the same number of trials for every model, then the online rates.

A trial is a part of the table on the validation day with seed 0. Trial 0 has today's defaults, the others
values drawn from the row's space by a key of (row, trial), so that they are the same on every machine. All
models are chosen by one criterion, AUC. GAUC by (user, period), the other figure that the table compares, is
written down and not read: on one day its standard error is some 0.015, more than trials differ by.

The rates of the online step are chosen with it: every trial is also scored under each pair of rates, which
share the trial's training and the gradients of its updates.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config import DATA_SETTINGS, ModelConfig, NeuralConfig
from experiments.paired_tests import figures_of_seed
from experiments.parts import FinishedPart, PartSpec, agrees
from experiments.results_table import append_lines, read_lines
from experiments.run_parts import PartRunner
from experiments.table_rows import TableRow, with_settings
from graphrec.training.online import OnlineConfig

NUM_TRIALS = 8
SEARCH_FILE = "lsttm_search.jsonl"  # of the result files: a line a trial
DENSE_RATES = (0.01, 0.1, 1.0)
TABLE_RATES = (0.01, 1.0, 100.0)
GAUC = "gauc[user,period; impressions]"
TRIAL_METRICS = ("auc", GAUC, "log_loss")


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What the search found for a row.

    Attributes:
        model: the configuration.
        online: form "union" at the rates that were chosen; the literal ones where no trial has any.
        num_trials: finished trials behind the choice; 0 for today's defaults, unsearched.
        settings: what differs from the row's defaults.

    """

    model: ModelConfig
    online: OnlineConfig
    num_trials: int
    settings: Mapping[str, Any]


def trials(row: TableRow, num_trials: int = NUM_TRIALS) -> list[dict[str, Any]]:
    """Return the settings of each trial, distinct; fewer where the space has fewer combinations."""
    found: list[dict[str, Any]] = [{}]
    size = int(np.prod([len(values) for values in row.space.values()])) if row.space else 1
    attempt = 0
    while len(found) < min(num_trials, size):
        drawn = {
            name: values[_number(row.name, attempt, name) % len(values)] for name, values in row.space.items()
        }
        attempt += 1
        whole = with_settings(row.config, drawn)
        if all(whole != with_settings(row.config, other) for other in found):
            found.append(drawn)
    return found


def trial_specs(row: TableRow, data: str, num_trials: int = NUM_TRIALS) -> list[PartSpec]:
    """Return the parts of a row's trials."""
    setting = DATA_SETTINGS[data]
    return [
        PartSpec(
            data=data,
            day=setting.validation_day,
            seed=0,
            model=(model := with_settings(row.config, settings)),
            updates=trial_updates(model),
            long_term=replace(row.long_term, random_seed=0),
            period_hours=setting.period_hours,
        )
        for settings in trials(row, num_trials)
    ]


def trial_updates(model: ModelConfig) -> dict[str, OnlineConfig]:
    """Return the updates that a trial is scored with: none, and the union form at each pair of rates."""
    if not isinstance(model, NeuralConfig):
        return {}
    rates = {
        _form_name(dense, tables): OnlineConfig(learning_rate=dense, embedding_learning_rate=tables)
        for dense in DENSE_RATES
        for tables in TABLE_RATES
    }
    return {"none": OnlineConfig(form="none"), **rates}


def write_trial(path: Path, runner: PartRunner, row: TableRow, number: int, spec: PartSpec) -> None:
    """Add a finished trial's figures to the file, unless they are there."""
    part = runner.store.find(spec)
    assert part is not None, "the trial has been run"
    if _line_of(path, spec, runner.inputs.fingerprint) is not None:
        return
    line = {
        "data": spec.data,
        "model": row.name,
        "trial": number,
        "settings": trials(row, number + 1)[number],
        "key": spec.key(runner.inputs.fingerprint),
        "cpu_seconds": round(part.cpu_seconds, 1),
        "n": part.num_rows,
        **_figures(runner, part, "none"),
        "updated": [
            {"dense": update.learning_rate, "tables": update.embedding_learning_rate}
            | _figures(runner, part, form)
            for form, update in spec.updates.items()
            if update.form == "union"
        ],
        "configuration": spec.configuration()["model"],
    }
    append_lines(path, [line])


def missing_trials(path: Path, row: TableRow, data: str, fingerprint: str, num_trials: int) -> list[int]:
    """Return the numbers of the trials that the file lacks."""
    specs = trial_specs(row, data, num_trials)
    return [number for number, spec in enumerate(specs) if _line_of(path, spec, fingerprint) is None]


def chosen(path: Path, row: TableRow, data: str, fingerprint: str, num_trials: int = NUM_TRIALS) -> Chosen:
    """Return what the file's trials say: the best by the criterion, and its best rates by the same.

    A row without any finished trial has its defaults.
    """
    settings = trials(row, num_trials)
    specs = trial_specs(row, data, num_trials)
    lines = [_line_of(path, spec, fingerprint) for spec in specs]
    finished = [(number, line) for number, line in enumerate(lines) if line is not None]
    online = OnlineConfig()
    if not finished:
        return Chosen(model=row.config, online=online, num_trials=0, settings={})
    number, best = max(finished, key=lambda pair: criterion(pair[1]))
    if best["updated"]:
        rates = max(best["updated"], key=criterion)
        online = OnlineConfig(learning_rate=rates["dense"], embedding_learning_rate=rates["tables"])
    return Chosen(
        model=specs[number].model, online=online, num_trials=len(finished), settings=settings[number]
    )


def criterion(figures: Mapping[str, Any]) -> float:
    """Return the figure that the best trial has the most of."""
    return float(figures["auc"])


def _figures(runner: PartRunner, part: FinishedPart, form: str) -> dict[str, float]:
    inputs = runner.inputs
    predictions = part.predictions(form, run="search", model="trial", data=inputs.tables.name, seed=0)
    figures = figures_of_seed(
        [predictions],
        period_seconds=inputs.period // inputs.units_per_second,
        utc_offset_seconds=inputs.utc_offset // inputs.units_per_second,
        by=("period",),
    )
    return {
        one.metric: round(one.value, 6)
        for one in figures
        if one.slice == "all" and one.metric in TRIAL_METRICS
    }


def _line_of(path: Path, spec: PartSpec, fingerprint: str) -> dict[str, Any] | None:
    """Return the line of a trial of this very configuration."""
    key = spec.key(fingerprint)
    for line in read_lines(path):
        if line["key"] == key and agrees(line["configuration"], spec.configuration()["model"]):
            return dict(line)
    return None


def _form_name(dense: float, tables: float) -> str:
    return f"union {dense:g} {tables:g}"


def _number(row: str, attempt: int, name: str) -> int:
    digest = hashlib.sha256(f"{row}\0{attempt}\0{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def search_cost(lines: Sequence[Mapping[str, Any]], row: str) -> float | None:
    """Return the mean processor seconds of a row's trials, or None."""
    seconds = [line["cpu_seconds"] for line in lines if line["model"] == row]
    return float(np.mean(seconds)) if seconds else None
