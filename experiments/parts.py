"""Finished parts of a table: one (model, seed, test day) each, found again by what it was computed from.

A part's key is a hash of the data's fingerprint, the day, the seed, the forms of online update and every
field of the model's configuration that differs from its default. So a model's new option, added with a
default that changes nothing, keeps all parts; a changed default is noticed too: a part stores its whole
configuration, and is taken up only where that agrees with today's.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from experiments.config import ModelConfig, NeuralConfig
from experiments.kept_parts import read_facts, read_part_file
from experiments.main_inputs import AsOf
from experiments.results_table import RunPredictions
from experiments.tested_day import Scores, TestedDay
from graphrec.training.batches import rows_between
from graphrec.training.long_term import LongTermConfig
from graphrec.training.online import OnlineConfig

PROTOCOL_VERSION = 1  # raised where the same configuration would get other figures: no older part is taken


@dataclass(frozen=True, kw_only=True)
class PartSpec:
    """What one part is computed from.

    Attributes:
        data: name of the data set, as ``load_inputs`` knows it.
        day: test window.
        seed: random seed of the model and of the long-term module.
        model: configuration; its own ``online`` is not read.
        updates: forms of online update by the name that their scores get; only of neural models.
        long_term: of a model that reads the long-term graph, else None.
        period_hours: length of a period.
        as_of: what queries know, as ``load_inputs`` has it.

    """

    data: str
    day: str
    seed: int
    model: ModelConfig
    updates: Mapping[str, OnlineConfig] = field(default_factory=dict)
    long_term: LongTermConfig | None = None
    period_hours: int = 1
    as_of: AsOf = "period"

    def key(self, fingerprint: str) -> str:
        """Return 20 hexadecimal digits of the hash over everything that decides the part's scores."""
        content = {
            "version": PROTOCOL_VERSION,
            "fingerprint": fingerprint,
            "day": self.day,
            "seed": self.seed,
            "model": changed_fields(_without_online(self.model)),
            "updates": {name: changed_fields(update) for name, update in self.updates.items()},
            "long_term": None if self.long_term is None else changed_fields(self.long_term),
            "period_hours": self.period_hours,
        }
        if self.as_of != "period":
            content["as_of"] = self.as_of
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]

    def configuration(self) -> dict[str, Any]:
        """Return every field of every configuration, defaults included."""
        return {
            "model": all_fields(_without_online(self.model)),
            "updates": {name: all_fields(update) for name, update in self.updates.items()},
            "long_term": None if self.long_term is None else all_fields(self.long_term),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class FinishedPart:
    """A part on disk.

    Attributes:
        path: its scores, a Parquet file.
        cpu_seconds: processor time of everything in the part, the long-term module left out; of a part that
            was killed and went on, all its training.
        training_seconds, scoring_seconds, updating_seconds: wall time; scoring is of one form of update.
        earlier_seconds: processor time of pre-training that was done for an earlier part.
        num_rows: impressions scored.
        num_parameters: 0 for a model without a network.
        peak_mib: most memory of training and scoring above what the inputs take; None where it was not
            measured.

    """

    path: Path
    cpu_seconds: float
    training_seconds: float
    scoring_seconds: float
    updating_seconds: float
    earlier_seconds: float
    num_rows: int
    num_parameters: int
    peak_mib: float | None = None

    @property
    def forms(self) -> list[str]:
        """Names of the forms of update that the part has scores of, "none" first.

        Raises:
            ValueError: the file of the scores is missing, cut or damaged.

        """
        names = read_part_file(self.path, lambda: pl.read_parquet_schema(self.path))
        return [name.removeprefix("score_") for name in names if name.startswith("score_")]

    def predictions(self, form: str, *, run: str, model: str, data: str, seed: int) -> RunPredictions:
        """Read the scores of one form of update.

        Raises:
            ValueError: the file of the scores is missing, cut or damaged.

        """
        frame = read_part_file(self.path, lambda: pl.read_parquet(self.path))
        names = ("label", "user", "item", "time")
        return RunPredictions(
            run,
            model,
            data,
            seed,
            score=frame[f"score_{form}"].to_numpy(),
            **{name: frame[name].to_numpy() for name in names},
        )


def pooled_days(
    parts: Sequence[FinishedPart], form: str, *, run: str, model: str, data: str, seed: int
) -> RunPredictions:
    """Return the scores of one form of update of several test days of a seed, one day behind the other."""
    days = [part.predictions(form, run=run, model=model, data=data, seed=seed) for part in parts]
    columns = {
        column: np.concatenate([getattr(day, column) for day in days])
        for column in ("label", "score", "user", "item", "time")
    }
    return RunPredictions(run, model, data, seed, **columns)


class PartStore:
    """A folder of finished parts of one data set."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint

    def find(self, spec: PartSpec) -> FinishedPart | None:
        """Return the finished part, or None where there is none of this very configuration.

        Raises:
            ValueError: the part's JSON file is cut or damaged, or the one of its scores is missing.

        """
        path = self.folder / f"{spec.key(self.fingerprint)}.json"
        if not path.exists():
            return None
        facts = read_facts(path)
        if not agrees(facts.get("configuration"), spec.configuration()):
            return None
        missing = {f.name for f in fields(FinishedPart) if f.default is MISSING} - {"path", *facts}
        if missing:
            raise ValueError(
                f"{path} lacks {sorted(missing)} of a part: delete it and run again, and the part is "
                "computed again"
            )
        table = path.with_suffix(".parquet")
        read_part_file(table, table.stat)
        names = {f.name for f in fields(FinishedPart)} & set(facts)
        return FinishedPart(path=table, **{name: facts[name] for name in names})

    def checkpoint(self, spec: PartSpec) -> Path:
        """Return where the training of an unfinished part keeps its checkpoint."""
        return self.folder / "checkpoints" / f"{spec.key(self.fingerprint)}.pt"

    def spent(self, spec: PartSpec) -> Path:
        """Return where the training of an unfinished part keeps its processor seconds so far."""
        return self.checkpoint(spec).with_suffix(".seconds")

    def write(
        self,
        spec: PartSpec,
        day: TestedDay,
        scores: Scores,
        *,
        cpu_seconds: float,
        peak_mib: float | None = None,
    ) -> None:
        """Write the scores, then the file that marks the part as finished."""
        self.folder.mkdir(parents=True, exist_ok=True)
        shown = day.data.impressions.select(rows_between(day.data, day.start, day.end))
        frame = pl.DataFrame(
            {
                "label": shown.label.numpy().astype(np.int64),
                "user": shown.user.numpy(),
                "item": shown.item.numpy(),
                "time": shown.time.numpy() // day.inputs.units_per_second,
                **{f"score_{form}": score for form, score in scores.score.items()},
            }
        )
        path = self.folder / f"{spec.key(self.fingerprint)}.json"
        table = path.with_suffix(".parquet")
        temporary = path.with_suffix(".parquet.tmp")
        frame.write_parquet(temporary)
        temporary.replace(table)
        facts = {
            "data": spec.data,
            "day": spec.day,
            "seed": spec.seed,
            "configuration": spec.configuration(),
            "cpu_seconds": cpu_seconds,
            **{f"{name}_seconds": seconds for name, seconds in asdict(scores.timings).items()},
            "num_rows": len(frame),
            "num_parameters": scores.num_parameters,
            "peak_mib": peak_mib,
            "curve": [vars(point) for point in scores.curve],
        }
        temporary = path.with_suffix(".json.tmp")
        temporary.write_text(json.dumps(facts))
        temporary.replace(path)
        self.checkpoint(spec).unlink(missing_ok=True)
        self.spent(spec).unlink(missing_ok=True)


def all_fields(config: Any) -> Any:
    """Return a configuration as plain JSON values, with the names of its classes."""
    if is_dataclass(config):
        named = {f.name: all_fields(getattr(config, f.name)) for f in fields(config)}
        return {"class": type(config).__name__, **named}
    return list(map(all_fields, config)) if isinstance(config, tuple | list) else config


def changed_fields(config: Any) -> Any:
    """Return the fields that differ from their class's defaults, as plain JSON values."""
    if not is_dataclass(config):
        return all_fields(config)
    found = {"class": type(config).__name__}
    for f in fields(config):
        value = changed_fields(getattr(config, f.name))
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        if default is MISSING or value != changed_fields(default):
            found[f.name] = value
    return found


def agrees(stored: Any, current: Any) -> bool:
    """Whether every stored field has its value still; fields that were added since may be there."""
    if isinstance(stored, dict) and isinstance(current, dict):
        return all(name in current and agrees(value, current[name]) for name, value in stored.items())
    return bool(stored == current)


def _without_online(model: ModelConfig) -> ModelConfig:
    """Leave out the form of update: a part has its own."""
    if isinstance(model, NeuralConfig):
        return replace(model, online=OnlineConfig())
    return model
