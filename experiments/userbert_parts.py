"""Parts of UserBERT's tables: pre-trainings, tunings, tests; found on disk by what they were computed from.

A part's key is a hash of the data's fingerprint, the words, the task's queries, the method, its setting, the
seed and those training settings that it depends on. So another row, seed or task costs its own parts alone. A
part is written to a temporary name and renamed, its JSON file last: what is there is whole.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import nn

from experiments.kept_parts import versions
from experiments.userbert_data import TaskFamily, UserBERTData, task_digest, times_of
from experiments.userbert_methods import (
    Method,
    Scored,
    Setting,
    TrainingSettings,
    candidates,
    load_start,
    make_encoder,
    score_task,
)
from graphrec.encoders.userbert import UserBERT
from graphrec.training.checkpoint import save_checkpoint
from graphrec.training.finetuning import FinetuningConfig, pretrain_on_tasks, training_queries
from graphrec.training.masked_words import MaskedWordModel
from graphrec.training.pretraining import PretrainingConfig, pretrain

PROTOCOL_VERSION = 1  # raised where the same configuration would get other figures: no older part is taken
TUNING_SEED = 0
SHAPE = ("channels", "num_blocks", "num_heads", "attribute_channels")
Stage = Literal["start", "tuning", "test"]
OnStep = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one part is computed from.

    Attributes:
        stage: pre-training, the validation figures of one setting, or the scores of the test.
        method: row of the table.
        seed: of networks.
        family: of the task; none of a pre-training.
        task: name of the task; none of a pre-training.
        setting: name and value of what validation chooses.

    """

    stage: Stage
    method: Method
    seed: int
    family: str = ""
    task: str = ""
    setting: tuple[tuple[str, float], ...] = ()

    @property
    def name(self) -> str:
        """What is printed and begins the file's name."""
        values = [f"{name} {value:g}" for name, value in self.setting]
        return ", ".join([self.method.name, self.task or "pre-training", *values, f"seed {self.seed}"])


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What validation chose for a method and a family of tasks.

    Attributes:
        setting: out of ``candidates``.
        epoch: 1 is the first; of a method without epochs the only one.
        figure: of the validation queries, a mean over the tasks that were asked; None: nothing to choose.
        num_settings: among how many it was chosen, epochs counted.

    """

    setting: Setting
    epoch: int
    figure: float | None
    num_settings: int


class UserBERTParts:
    """A folder of parts of one data set, and what computes them.

    Args:
        data: words and tasks.
        settings: how networks are trained.
        folder: of the files.

    """

    def __init__(self, data: UserBERTData, settings: TrainingSettings, folder: Path) -> None:
        self.data, self.settings, self.folder = data, settings, folder
        self.tasks = {task.name: task for family in data.families for task in family.tasks}
        self._digests = {name: task_digest(task) for name, task in self.tasks.items()}

    @cached_property
    def fingerprint(self) -> str:
        """The data's, computed once."""
        return self.data.fingerprint

    def path(self, part: Part) -> Path:
        """Return the part's JSON file, there or not."""
        name = "".join(c if c.isalnum() else "-" for c in f"{part.stage}-{part.name}".lower())
        return self.folder / f"{name}-{self._key(part)}.json"

    def find(self, part: Part) -> dict[str, Any] | None:
        """Return what was written about a finished part, or None."""
        path = self.path(part)
        return json.loads(path.read_text()) if path.exists() else None

    def scores(self, part: Part) -> pl.DataFrame:
        """Read a test's ``user_id``, ``time``, ``label`` of binary tasks, and ``value_1`` on, by epoch."""
        return pl.read_parquet(self.path(part).with_suffix(".parquet"))

    def run(self, part: Part, *, on_step: OnStep | None = None) -> float:
        """Compute and write a part and return its processor seconds.

        Raises:
            ValueError: a test's pre-training is not there.

        """
        self.folder.mkdir(parents=True, exist_ok=True)
        began, path = time.process_time(), self.path(part)
        facts: dict[str, Any]
        if part.stage == "start":
            facts = self.pretrain(part, on_step=on_step)
        else:
            scored = self.score(part, on_step=on_step)
            facts = {"figures": scored.figures}
            if part.stage == "test":
                self._write_scores(path, scored)
                if isinstance(scored.encoder, UserBERT):
                    save_checkpoint(path.with_suffix(".pt"), {"state": scored.encoder.state_dict()})
        seconds = time.process_time() - began
        facts |= {
            "part": {name: value for name, value in asdict(part).items() if name != "method"},
            "method": asdict(part.method),
            "settings": asdict(self.settings),
            "data": self.data.name,
            "fingerprint": self.fingerprint,
            "versions": versions(),
            "cpu_seconds": seconds,
        }
        temporary = path.with_suffix(".json.tmp")
        temporary.write_text(json.dumps(facts))
        temporary.replace(path)
        return seconds

    def pretrain(self, part: Part, *, on_step: OnStep | None = None) -> dict[str, Any]:
        """Pre-train a network, write its weights, and return the number of sentences and the losses.

        A run that is stopped goes on from the last 500th step.
        """
        method, data, settings = part.method, self.data, self.settings
        path = self.path(part)
        encoder, checkpoint = self._new_encoder(part), path.with_suffix(".training.pt")
        if method.start == "masked words":
            assert isinstance(encoder, UserBERT)
            queries = data.pretraining_queries
            epochs = settings.pretraining_epochs
            if method.form == "actions":
                epochs = settings.pretraining_epochs_of_actions
            with torch.random.fork_rng(devices=[]):  # output layers and dropout
                torch.manual_seed(part.seed)
                curve = pretrain(
                    MaskedWordModel(encoder),
                    data.kept_sentences("masked words", queries, method.form),
                    times_of(queries),
                    fit_until=data.split.test_start,
                    config=PretrainingConfig(
                        epochs=epochs,
                        learning_rate=settings.pretraining_rate,
                        decay=True,
                        mixed_precision=settings.precision_of(method.encoder),
                        random_seed=part.seed,
                    ),
                    checkpoint=checkpoint,
                    on_step=on_step,
                )
            losses = [point.loss for point in curve]
        else:
            queries = training_queries(data.usage)
            pretrain_on_tasks(
                encoder,
                data.usage,
                data.kept_sentences("usage", queries, method.form),
                fit_until=data.split.test_start,
                config=FinetuningConfig(
                    epochs=settings.task_epochs,
                    batch_size=16,
                    learning_rate=settings.task_rate,
                    decay=True,
                    mixed_precision=settings.precision_of(method.encoder),
                    user_share=method.user_share,
                    random_seed=part.seed,
                ),
                checkpoint=checkpoint,
                on_step=on_step,
            )
            losses = []
        save_checkpoint(path.with_suffix(".pt"), {"state": encoder.state_dict()})
        checkpoint.unlink(missing_ok=True)
        return {"num_queries": queries.height, "losses": losses[:: max(1, len(losses) // 50)]}

    def score(self, part: Part, *, on_step: OnStep | None = None) -> Scored:
        """Fit and score a tuning's or a test's task."""
        return score_task(
            self.data,
            part.method,
            self.tasks[part.task],
            dict(part.setting),
            self.settings,
            seed=part.seed,
            part="test" if part.stage == "test" else "validation",
            start=lambda encoder: self._started(part, encoder),
            on_step=on_step,
        )

    def start_of(self, part: Part) -> Part | None:
        """Return the pre-training that a part begins with, or None."""
        if part.method.start is None:
            return None
        return Part(stage="start", method=part.method, seed=part.seed)

    def encoder_of(self, part: Part) -> UserBERT:
        """Return UserBERT as a test part left it, or as pre-training did.

        Raises:
            ValueError: the part is not finished, or is of another encoder.

        """
        path = self.path(part).with_suffix(".pt")
        encoder = self._new_encoder(part)
        if not isinstance(encoder, UserBERT) or not path.exists():
            raise ValueError(f"{path} is not there: run the row {part.method.name!r} first")
        load_start(path, encoder)
        return encoder.eval()

    # ---- what validation chooses -------------------------------------------------------------------

    def tuning_parts(self, method: Method, family: TaskFamily) -> list[Part]:
        """Return the parts that choose a method's setting; none where there is nothing to choose."""
        options = candidates(method, self.settings, self.data.half_lives)
        if method.of is not None or (len(options) == 1 and method.kind != "network"):
            return []
        return [
            Part(
                stage="tuning",
                method=method,
                seed=TUNING_SEED,
                family=family.name,
                task=task.name,
                setting=tuple(setting.items()),
            )
            for setting in options
            for task in family.tasks[: family.num_tuned]
        ]

    def choose(self, method: Method, family: TaskFamily) -> Chosen | None:
        """Return the setting and epoch with the best validation figure, or None where parts are missing."""
        parts = self.tuning_parts(method, family)
        if not parts:
            return Chosen(setting={}, epoch=1, figure=None, num_settings=1)
        found: dict[tuple[tuple[str, float], ...], list[list[float]]] = {}
        for part in parts:
            facts = self.find(part)
            if facts is None:
                return None
            found.setdefault(part.setting, []).append(facts["figures"])
        means = {setting: np.mean(figures, axis=0) for setting, figures in found.items()}
        setting = max(means, key=lambda one: float(np.nanmax(means[one])))
        epoch = int(np.nanargmax(means[setting]))
        return Chosen(
            setting=dict(setting),
            epoch=epoch + 1,
            figure=float(means[setting][epoch]),
            num_settings=sum(len(mean) for mean in means.values()),
        )

    # ---- parts -------------------------------------------------------------------------------------

    def _new_encoder(self, part: Part) -> nn.Module:
        method = part.method
        return make_encoder(method.encoder, self.data.sizes(method.form), self.settings, part.seed)

    def _started(self, part: Part, encoder: nn.Module) -> nn.Module:
        start = self.start_of(part)
        if start is None:
            return encoder
        path = self.path(start).with_suffix(".pt")
        if self.find(start) is None:
            raise ValueError(f"{path} is not there: run the pre-training of {part.method.name!r} first")
        return load_start(path, encoder)

    def _write_scores(self, path: Path, scored: Scored) -> None:
        columns = {f"value_{epoch + 1}": value for epoch, value in enumerate(scored.value.T)}
        frame = scored.queries.select("user_id", "time").with_columns(
            **({} if scored.label is None else {"label": pl.Series(scored.label)}),
            **{name: pl.Series(np.ascontiguousarray(value)) for name, value in columns.items()},
        )
        temporary = path.with_suffix(".parquet.tmp")
        frame.write_parquet(temporary)
        temporary.replace(path.with_suffix(".parquet"))

    def _key(self, part: Part) -> str:
        method = part.method
        named = {name: getattr(method, name) for name in ("kind", "encoder", "form", "start", "user_share")}
        content = {
            "version": PROTOCOL_VERSION,
            "data": self.fingerprint,
            "words": self._words(method),
            "stage": part.stage,
            "method": named,
            "seed": part.seed if method.is_random else None,
            "setting": part.setting,
            "task": self._digests.get(part.task),
            "training": self._training(part),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def _start_inputs(self) -> dict[str, list[str]]:
        """Digests of what pre-training reads, by its kind."""
        return {
            "masked words": [_digest_of_queries(self.data.pretraining_queries)],
            "tasks": [task_digest(task) for task in self.data.usage],
        }

    def _words(self, method: Method) -> str:
        tokenizer = self.data.tokenizers[method.form]
        return f"{dict(tokenizer.kinds)} {tokenizer.sizes} {tokenizer.vocabularies.fit_until}"

    def _training(self, part: Part) -> dict[str, Any]:
        """Return the settings that a part depends on."""
        method = part.method
        if method.kind != "network":
            return {}
        names = list[str](SHAPE)
        inputs = list[str]()
        if method.start == "masked words":
            suffix = "_of_actions" if method.form == "actions" else ""
            names += [f"pretraining_epochs{suffix}", "pretraining_rate"]
            inputs = self._start_inputs["masked words"]
        elif method.start == "tasks":
            names += ["task_epochs", "task_rate"]
            inputs = self._start_inputs["tasks"]
        if part.stage != "start":
            names += ["epochs", "batch_size"]
        if self.settings.precision_of(method.encoder):
            names += ["mixed_precision"]
        return {"inputs": inputs, **{name: getattr(self.settings, name) for name in names}}


def _digest_of_queries(queries: pl.DataFrame) -> str:
    values = queries.select("user_id", "time").to_numpy()
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]
