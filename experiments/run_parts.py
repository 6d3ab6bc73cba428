"""Computes the parts that a table lacks, in one process or several, and forecasts what they cost."""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from experiments.config import DATA_SETTINGS, LSTTMConfig
from experiments.inputs import load_inputs
from experiments.main_inputs import AsOf
from experiments.parts import PartSpec, PartStore
from experiments.peak_memory import PeakMemory
from experiments.preferences import kept_preferences, preference_config
from experiments.protocol import run_model
from experiments.simple_models import TreesOnDay
from experiments.snapshots import kept_snapshots
from experiments.tested_day import TestedDay, prepare_day, replay_day
from graphrec.models.trees import TreesConfig
from graphrec.training.long_term import LongTermConfig, LongTermSnapshots
from graphrec.training.preference import PreferenceConfig

PROBE_STEPS = (2, 8)  # steps after which a probe begins and ends its measurement
PROBE_TREES = 20
SECONDS_BETWEEN_NOTES = 2.0  # of what a training has cost so far


@dataclass(frozen=True)
class DataSource:
    """Where the inputs come from: the arguments of ``load_inputs``, with the folder of what is kept."""

    data: str
    folder: Path
    path: str | None = None
    period_hours: int = 1
    as_of: AsOf = "period"


class PartRunner:
    """Inputs of one data set in memory, and the parts that are computed from them."""

    def __init__(self, source: DataSource) -> None:
        self.source = source
        self.inputs = load_inputs(
            source.data, period_hours=source.period_hours, path=source.path, as_of=source.as_of
        )
        self.store = PartStore(source.folder / "parts", self.inputs.fingerprint)
        self.device = torch.device("cpu")
        # one matrix of counts is large, and parts come day by day
        self.day: Callable[[str], TestedDay] = lru_cache(maxsize=1)(self._prepare_day)
        self._snapshots = lru_cache(maxsize=4)(self._find_snapshots)
        self._preferences = lru_cache(maxsize=4)(self._find_preferences)

    def run(self, spec: PartSpec) -> float:
        """Compute a part, write it and return its processor seconds, those of the long-term module too."""
        began = time.process_time()
        snapshots, day = self.snapshots(spec), self.day(spec.day)
        ready = time.process_time()
        costs = TrainingCosts(self.store.spent(spec), self.device)
        scores = run_model(
            day,
            spec.model,
            spec.seed,
            updates=spec.updates,
            snapshots=snapshots,
            preferences=self.preferences(spec),
            device=self.device,
            checkpoint=self.store.checkpoint(spec),
            on_step=costs,
        )
        end = time.process_time()
        seconds = end - ready + costs.earlier
        self.store.write(spec, day, scores, cpu_seconds=seconds, peak_mib=costs.memory.mib())
        return end - began

    def snapshots(self, spec: PartSpec) -> LongTermSnapshots | None:
        """Return the long-term vectors that the part reads, or None."""
        if not isinstance(spec.model, LSTTMConfig) or not spec.model.long_term or spec.long_term is None:
            return None
        # those of all test days are one file, which serves them all
        at_once = spec.model.long_term_trained_on == "all training days"
        last = spec.day if at_once else max(DATA_SETTINGS[spec.data].test_days)
        return self._snapshots(spec.long_term, self.inputs.bounds(last)[0], spec.model.long_term_trained_on)

    def preferences(self, spec: PartSpec) -> LongTermSnapshots | None:
        """Return the preference vectors that the part reads, or None; those of all test days are one file."""
        config = preference_config(spec.model, spec.seed)
        if config is None:
            return None
        last, _ = self.inputs.bounds(max(DATA_SETTINGS[spec.data].test_days))
        return self._preferences(config, last)

    def probe(self, spec: PartSpec) -> float:
        """Estimate a part's processor seconds from some steps of its training.

        The day's scores and updates are taken as a step a batch for each form, half a step for its score.
        """
        day = self.day(spec.day)
        if isinstance(spec.model, TreesConfig):
            few = replace(spec.model, num_trees=PROBE_TREES)
            model = TreesOnDay(day, few, spec.seed)
            replay_day(day, model, day.end - day.start)
            share = spec.model.num_trees / PROBE_TREES
            return share * (model.timings.training + model.timings.scoring)
        steps = _StepTimes()
        try:
            run_model(
                day,
                spec.model,
                spec.seed,
                updates=spec.updates,
                snapshots=self.snapshots(spec),
                preferences=self.preferences(spec),
                device=self.device,
                on_step=steps,
            )
        except _ProbeDoneError:
            shown = day.data.impressions.time
            scored = int((shown >= day.start).sum()) / max(int((shown < day.start).sum()), 1)
            epochs = max(getattr(getattr(spec.model, "optimizer", None), "epochs", 1), 1)
            return steps.seconds * (1 + scored / epochs * (1.5 * max(len(spec.updates), 1)))
        return steps.whole()

    def _prepare_day(self, name: str) -> TestedDay:
        return prepare_day(self.inputs, name)

    def _find_snapshots(self, config: LongTermConfig, until: int, trained_on: Any) -> LongTermSnapshots:
        return kept_snapshots(
            self.inputs,
            config,
            until=until,
            folder=self.source.folder / "long_term",
            trained_on=trained_on,
            device=self.device,
        )

    def _find_preferences(self, config: PreferenceConfig, until: int) -> LongTermSnapshots:
        return kept_preferences(
            self.inputs, config, until=until, folder=self.source.folder / "preference", device=self.device
        )


class TrainingCosts:
    """Keeps a training's processor seconds on disk, for a run after a kill, and measures its peak memory.

    Both begin with the first step: what was pre-trained before is kept with seconds of its own, and is done
    for several parts at once.

    Args:
        path: file of the seconds.
        device: where the model lies.

    """

    def __init__(self, path: Path, device: torch.device) -> None:
        self.path, self.memory = path, PeakMemory(device)
        self.earlier = float(path.read_text()) if path.exists() else 0.0
        self._began: float | None = None
        self._written = -math.inf

    def __call__(self, done: int, total: int) -> None:
        """Take note of a step; ``done`` and ``total`` are what any training tells after each one."""
        now = time.process_time()
        if self._began is None:
            self._began = now
            self.memory.forget()
        if now - self._written >= SECONDS_BETWEEN_NOTES:
            self._written = now
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text(f"{self.earlier + now - self._began:.2f}")
            temporary.replace(self.path)


class _ProbeDoneError(Exception):
    """Enough steps have been timed."""


class _StepTimes:
    """Times the first steps of a training, then ends it."""

    def __init__(self) -> None:
        self.began = self.start = time.process_time()
        self.first = 0
        self.seconds = 0.0

    def __call__(self, done: int, total: int) -> None:
        if done <= PROBE_STEPS[0]:
            self.start, self.first = time.process_time(), done
        if done >= min(PROBE_STEPS[1], total):
            self.seconds = (time.process_time() - self.start) / max(done - self.first, 1) * total
            raise _ProbeDoneError

    def whole(self) -> float:
        """Return the seconds since the start: of a model that has no steps."""
        return time.process_time() - self.began


def missing_parts(store: PartStore, specs: Sequence[PartSpec]) -> list[PartSpec]:
    """Return the parts that are not finished, each once, in their order."""
    wanted = {spec.key(store.fingerprint): spec for spec in specs}
    return [spec for spec in wanted.values() if store.find(spec) is None]


def run_parts(
    runner: PartRunner,
    specs: Sequence[PartSpec],
    *,
    jobs: int,
    on_part: Callable[[PartSpec, float], None],
) -> None:
    """Compute the parts that are missing; a kill loses the ones under way since their last checkpoint.

    Args:
        runner: computes them in this process where ``jobs`` is 1; others load inputs of their own.
        specs: what is wanted; finished ones are passed over.
        jobs: processes, each of one thread.
        on_part: called with each part that has been finished and its processor seconds.

    """
    left = missing_parts(runner.store, specs)
    if jobs == 1 or len(left) < 2:
        for spec in left:
            on_part(spec, runner.run(spec))
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_load, initargs=(runner.source,)) as pool:
        running = {pool.submit(_run, spec): spec for spec in left}
        try:
            for done in as_completed(running):
                on_part(running[done], done.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_loaded: list[PartRunner] = []  # of a worker process: its own inputs


def _load(source: DataSource) -> None:
    torch.set_num_threads(1)
    _loaded.append(PartRunner(source))


def _run(spec: PartSpec) -> float:
    return _loaded[0].run(spec)
