"""The main job: every model, seed and test day through the protocol, then the tables and the report.

A part is one (model, seed, day). Finished parts and the checkpoint of the part that is being trained lie in
``runs/<table>``, so a killed run loses the work since its last checkpoint at most, and ``--resume`` ends with
the same figures as a run without a break.
"""

import hashlib
import json
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from experiments.config import ALL_MODELS, LSTTMConfig, MainConfig, ModelConfig, NeuralConfig
from experiments.inputs import MainInputs, load_inputs
from experiments.paired_tests import figures_of_seed, pairwise_tests, write_tests
from experiments.preferences import preferences_of
from experiments.protocol import run_model, update_forms
from experiments.report import ReportPaths, build_report
from experiments.results_table import (
    ResultRow,
    RunPredictions,
    RunRecord,
    replace_run,
    rows_of_figures,
    write_predictions,
    write_run_record,
)
from experiments.tested_day import Scores, TestedDay, prepare_day
from graphrec.evaluation import Comparison
from graphrec.training.batches import rows_between
from graphrec.training.long_term import LongTermSnapshots, train_long_term

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "numpy", "polars", "scikit-learn", "graphrec")

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Part:
    """One model, seed and test day."""

    model: str
    seed: int
    day: str

    @property
    def name(self) -> str:
        """A file name of its own."""
        tag = hashlib.sha256(self.model.encode()).hexdigest()[:6]
        return f"{re.sub('[^A-Za-z0-9]+', '-', self.model)}-{tag}-seed{self.seed}-{self.day}"


def run_main(
    config: MainConfig,
    *,
    resume: bool = False,
    results: Path = RESULTS,
    work: Path | None = None,
    progress: bool = True,
) -> ReportPaths:
    """Run every part, write the tables and return the report's files.

    Args:
        config: what to run.
        resume: keep the parts and checkpoints of an earlier run of the same configuration.
        results: folder of the tables.
        work: folder of parts, checkpoints and the report; default ``runs/<table>``.
        progress: show bars.

    Raises:
        ValueError: a test day without rows on it or before it, or ``resume`` with another configuration.

    """
    work = Path("runs") / config.table if work is None else work
    _open_work(work, config, resume)
    with _bars(progress) as bar:
        with bar("loading the data and counting the past") as on_step:
            inputs = load_inputs(period_hours=config.period_hours, path=config.data)
        device = torch.device(config.device)

        @cache
        def day_of(name: str) -> TestedDay:
            return prepare_day(inputs, name)

        for day in config.test_days:
            day_of.cache_clear()  # one day's matrix at a time
            for seed in config.seeds:
                for model in config.models:
                    part = Part(model, seed, day)
                    if (work / "parts" / f"{part.name}.json").exists():
                        continue
                    model_config = _model_config(model)
                    snapshots = None
                    if isinstance(model_config, LSTTMConfig) and model_config.long_term:
                        with bar(f"long-term graph, seed {seed}") as on_step:
                            snapshots = long_term_snapshots(inputs, config, seed, device, work, on_step)
                    with bar(f"{model}, seed {seed}, {day}") as on_step:
                        began = time.perf_counter()
                        scores = _run_part(
                            day_of(day), part, model_config, config, snapshots, device, work, on_step
                        )
                        _write_part(work, part, day_of(day), scores, time.perf_counter() - began)
        with bar("figures, tests and report"):
            _write_tables(work, results, config, inputs)
            return build_report(results, config.table, work / "report")


def long_term_snapshots(
    inputs: MainInputs, config: MainConfig, seed: int, device: torch.device, work: Path, on_step: OnStep
) -> LongTermSnapshots:
    """Return the long-term vectors of a seed up to the last test day: trained once, then read."""
    last = max(inputs.bounds(day)[0] for day in config.test_days)
    graph = inputs.long_term_graph().to(device)
    snapshots, losses = train_long_term(
        graph.csrs(),
        graph.num_nodes,
        inputs.snapshot_times(last),
        replace(config.long_term, random_seed=seed),
        device=device,
        checkpoint=work / "long_term" / f"seed{seed}.pt",
        on_step=on_step,
    )
    (work / "long_term" / f"seed{seed}.json").write_text(json.dumps(losses))
    return snapshots


def _run_part(
    day: TestedDay,
    part: Part,
    model: ModelConfig,
    config: MainConfig,
    snapshots: LongTermSnapshots | None,
    device: torch.device,
    work: Path,
    on_step: OnStep,
) -> Scores:
    checkpoint = work / "checkpoints" / f"{part.name}.pt"
    last = max(day.inputs.bounds(name)[0] for name in config.test_days)
    preferences = preferences_of(
        day.inputs, model, part.seed, until=last, folder=work / "preference", device=device
    )
    scores = run_model(
        day,
        model,
        part.seed,
        updates=update_forms(model, config.update_forms) if isinstance(model, NeuralConfig) else {},
        snapshots=snapshots,
        preferences=preferences,
        device=device,
        checkpoint=checkpoint,
        on_step=on_step,
    )
    checkpoint.unlink(missing_ok=True)
    return scores


def _write_part(work: Path, part: Part, day: TestedDay, scores: Scores, seconds: float) -> None:
    """Write the scores, then the file that marks the part as finished."""
    folder = work / "parts"
    folder.mkdir(parents=True, exist_ok=True)
    rows = rows_between(day.data, day.start, day.end)
    shown = day.data.impressions.select(rows)
    frame = pl.DataFrame(
        {
            "label": shown.label.numpy().astype(np.int64),
            "user": shown.user.numpy(),
            "item": shown.item.numpy(),
            "time": shown.time.numpy() // day.inputs.units_per_second,
            **{f"score_{form}": score for form, score in scores.score.items()},
        }
    )
    temporary = folder / f"{part.name}.parquet.tmp"
    frame.write_parquet(temporary)
    temporary.replace(folder / f"{part.name}.parquet")
    facts = {
        **asdict(part),
        "seconds": seconds,
        "num_parameters": scores.num_parameters,
        "curve": [vars(point) for point in scores.curve],
    }
    temporary = folder / f"{part.name}.json.tmp"
    temporary.write_text(json.dumps(facts))
    temporary.replace(folder / f"{part.name}.json")


def _write_tables(work: Path, results: Path, config: MainConfig, inputs: MainInputs) -> None:
    """Pool the days of each model and seed, and write figures, curves, tests and the run's record."""
    table, data = config.table, inputs.tables.name
    offset = int(inputs.tables.utc_offset_hours * 3600)
    predictions: dict[str, list[RunPredictions]] = {}
    rows: list[ResultRow] = []
    curves: list[ResultRow] = []
    for seed in config.seeds:
        of_seed: list[RunPredictions] = []
        for model in config.models:
            parts = [Part(model, seed, day) for day in config.test_days]
            frame = pl.concat([pl.read_parquet(work / "parts" / f"{part.name}.parquet") for part in parts])
            facts = [json.loads((work / "parts" / f"{part.name}.json").read_text()) for part in parts]
            columns = {name: frame[name].to_numpy() for name in ("label", "user", "item", "time")}
            for form in [name.removeprefix("score_") for name in frame.columns if name.startswith("score_")]:
                shown = _shown_name(model, form)
                found = RunPredictions(
                    table, shown, data, seed, score=frame[f"score_{form}"].to_numpy(), **columns
                )
                write_predictions(work / "predictions", found)
                of_seed.append(found)
                predictions.setdefault(shown, []).append(found)
                rows += _facts_as_rows(table, shown, data, seed, facts, len(frame))
            curves += [
                ResultRow(table, model, data, seed, f"step={point['step']}", "train_loss", point["loss"], 1)
                for point in facts[-1]["curve"]
            ]
        rows += rows_of_figures(
            table,
            data,
            figures_of_seed(of_seed, period_seconds=config.period_hours * 3600, utc_offset_seconds=offset),
        )
    replace_run(results / f"{table}.jsonl", table, rows)
    replace_run(results / f"{table}.curves.jsonl", table, curves)
    # a model's own forms of update are not its rivals, and would only make Holm's correction harsher
    first = config.models[0]
    rivals = {name: found for name, found in predictions.items() if not name.startswith(f"{first}, updated")}
    tests: list[Comparison] = []
    if len(rivals) > 1:
        tests = pairwise_tests(
            rivals, period_seconds=config.period_hours * 3600, utc_offset_seconds=offset, num_resamples=1000
        )
    write_tests(results / f"{table}.tests.jsonl", tests)
    record = RunRecord(
        run=table,
        data=data,
        data_fingerprint=inputs.fingerprint,
        days=config.test_days,
        configuration=json.loads(json.dumps(_full_configuration(config))),
        versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    )
    write_run_record(results / f"{table}.runs.jsonl", record)


def _facts_as_rows(
    run: str, model: str, data: str, seed: int, facts: list[dict[str, Any]], n: int
) -> list[ResultRow]:
    """Training and scoring time in seconds a day, and the number of parameters."""
    seconds = float(np.mean([fact["seconds"] for fact in facts]))
    rows = [ResultRow(run, model, data, seed, "all", "seconds_a_day", seconds, n)]
    if facts[-1]["num_parameters"]:
        count = float(facts[-1]["num_parameters"])
        rows.append(ResultRow(run, model, data, seed, "all", "num_parameters", count, n))
    return rows


def _shown_name(model: str, form: str) -> str:
    """Name a model in one form of online update, for tables."""
    return model if form == "none" else f"{model}, updated ({form})"


def _model_config(name: str) -> ModelConfig:
    return ALL_MODELS[name]


def _full_configuration(config: MainConfig) -> dict[str, Any]:
    return {
        **asdict(config),
        "model_configurations": {name: asdict(_model_config(name)) for name in config.models},
    }


def _open_work(work: Path, config: MainConfig, resume: bool) -> None:
    """Start with an empty folder, or check that the one that is there is of the same configuration."""
    written = work / "config.json"
    wanted = json.dumps(_full_configuration(config), indent=1, sort_keys=True)
    if resume and written.exists() and written.read_text() != wanted:
        raise ValueError(
            f"{written} is of another configuration: resume with the same one, or start without --resume"
        )
    if not resume and work.exists():
        for name in ("parts", "checkpoints", "long_term", "predictions", "report"):
            shutil.rmtree(work / name, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    written.write_text(wanted)


@contextmanager
def _bars(show: bool) -> Iterator[Callable[[str], Any]]:
    """Progress bars, one for each piece of work."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, disable=not show, refresh_per_second=2) as bars:

        @contextmanager
        def bar(name: str) -> Iterator[OnStep]:
            task = bars.add_task(name, total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)
            bars.update(task, completed=1, total=1)

        yield bar
