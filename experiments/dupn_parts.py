"""Parts of DUPN's tables: variants a task at a time, tasks together, transfer, incremental updating.

Each is found on disk by what it was computed from (``experiments.kept_parts``). What trains all tasks
together keeps its network beside the part: transfer and incremental updating begin with it.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from experiments.dupn_data import DUPNData, Part
from experiments.dupn_methods import (
    Interleaving,
    Method,
    NetworkSettings,
    OnStep,
    fit_and_score,
    make_model,
    training_config,
    values_of,
)
from experiments.kept_parts import KeptPart, find_part, kept_part, part_path
from experiments.task_figures import TaskScores, figure_of
from graph_builders.option_checks import check_whole_number, check_whole_numbers
from graphrec.encoders.dupn import DUPN
from graphrec.training.checkpoint import load_checkpoint
from graphrec.training.multi_task import (
    MultiTaskConfig,
    MultiTaskModel,
    TaskData,
    Transfer,
    fit_tasks,
    load_weights,
    score_task,
    transfer,
)
from samplers.random_numbers import keyed_uniform

PROTOCOL_VERSION = 1  # raised where the same configuration would get other figures: no older part is taken
TUNING_SEED = 0
WAYS: tuple[Transfer, ...] = ("representation", "fine-tune", "single", "all")
Stage = Literal["validation", "test"]


@dataclass(frozen=True, kw_only=True)
class Together:
    """A way to learn all tasks at once.

    Attributes:
        name: as the table has it.
        interleaving: as in ``MultiTaskConfig``.
        uncertainty: whether losses are weighted by learned variances.

    """

    name: str
    interleaving: Interleaving
    uncertainty: bool = False


SOURCE = "multi-task, in turn"
TOGETHER = (
    Together(name=SOURCE, interleaving="in turn"),
    Together(name="multi-task, proportional", interleaving="proportional"),
    Together(name="multi-task, together", interleaving="together"),
    Together(name="multi-task, together, uncertainty", interleaving="together", uncertainty=True),
)


@dataclass(frozen=True, kw_only=True)
class TransferSettings:
    """How much of the held-out task is learned from.

    Attributes:
        labels: numbers of training rows, nested; more than there are count as all, once.
        least_steps: that a training takes at least: few labels are passed over more often.

    """

    labels: tuple[int, ...] = (1_000, 8_000, 40_000)
    least_steps: int = 100

    def __post_init__(self) -> None:
        check_whole_numbers(self, least_steps=1)
        if not self.labels:
            raise ValueError("TransferSettings.labels is empty: name a number of training rows")
        for number in self.labels:
            check_whole_number("a number of TransferSettings.labels", number, 1)


class DUPNParts:
    """Computes parts and finds them.

    Args:
        data: the tasks.
        networks: widths and training.
        transfer: of the held-out task.
        folder: of the parts.

    """

    def __init__(
        self, data: DUPNData, networks: NetworkSettings, transfer: TransferSettings, folder: Path
    ) -> None:
        self.data, self.networks, self.transfer, self.folder = data, networks, transfer, folder
        self.first_test = data.settings.num_train_days
        self.last_test = self.first_test + data.settings.num_test_days
        self._parts: dict[tuple[str, int, int], Part] = {}

    # ---- variants, a task at a time ------------------------------------------------------------------

    def rates_of(self, method: Method) -> tuple[float, ...]:
        """Return the rates among which validation chooses."""
        return self.networks.tree_rates if method.is_trees else self.networks.rates

    def seeds_of(self, method: Method, seeds: tuple[int, ...]) -> tuple[int, ...]:
        """Return the seeds that change anything."""
        return seeds[:1] if method.is_trees else seeds

    def variant(
        self, method: Method, task: str, rate: float, seed: int, stage: Stage, *, only_find: bool = False
    ) -> KeptPart | None:
        """Return a method's figure on a task's validation day, or its scores of the test days.

        Args:
            method: which one.
            task: by name.
            rate: of the optimiser or the trees.
            seed: of the training.
            stage: "validation": trained on all days of the first window but the last, which is scored.
            only_find: return None where the part is not finished.

        """
        content = {**self._content(method.is_trees), **asdict(method)}
        content |= {"task": task, "rate": rate, "seed": seed, "stage": stage}
        name = f"{stage} {method.name} {task} {seed}"
        if only_find:
            return find_part(self.folder, name, content)

        def compute() -> tuple[dict[str, Any], pl.DataFrame | None]:
            value = self.run_variant(method, task, rate, seed, stage)
            figure = self.figure(task, self.part(task, stage), value)
            frame = pl.DataFrame({"value": value}) if stage == "test" else None
            return {"figure": figure, "num_training_rows": len(self._training(task, stage).rows)}, frame

        return kept_part(self.folder, name, content, compute)

    def run_variant(
        self, method: Method, task: str, rate: float, seed: int, stage: Stage, on_step: OnStep | None = None
    ) -> np.ndarray:
        """Fit a method to one task and score its part."""
        return fit_and_score(
            self.data,
            method,
            task,
            rate,
            self.networks,
            seed=seed,
            days=self.days(stage),
            part=self.part(task, stage),
            on_step=on_step,
        )

    def chosen_rate(self, method: Method, task: str) -> tuple[float, float] | None:
        """Return the best rate of validation and its figure, or None before all are known."""
        found = dict[float, float]()
        for rate in self.rates_of(method):
            part = self.variant(method, task, rate, TUNING_SEED, "validation", only_find=True)
            if part is None:
                return None
            found[rate] = part.facts["figure"]
        best = max(found, key=lambda rate: found[rate])
        return best, found[best]

    # ---- all tasks together --------------------------------------------------------------------------

    def together(
        self, way: Together, rate: float, seed: int, stage: Stage, *, only_find: bool = False
    ) -> KeptPart | None:
        """Return figures, and scores of all tasks' test days, of one network for all learned tasks.

        With ``stage`` "test" and the way of the source, where the attention looked is kept too.
        """
        content = {**self._content(), **asdict(way), "rate": rate, "seed": seed, "stage": stage}
        name = f"{stage} {way.name} {seed}"
        if only_find:
            return find_part(self.folder, name, content)
        self.folder.mkdir(parents=True, exist_ok=True)
        keeps = way.name == SOURCE and stage == "test"
        weights = part_path(self.folder, name, content).with_suffix(".pt") if keeps else None

        def compute() -> tuple[dict[str, Any], pl.DataFrame | None]:
            model = self.model(self.data.learned, seed, uncertainty=way.uncertainty)
            config = training_config(self.networks, rate, seed, interleaving=way.interleaving)
            first, stop = self.days(stage)
            train = {task: self.data.train(task, first, stop) for task in self.data.learned}
            fit_tasks(model, train, fit_until=self.data.bounds[stop], config=config, checkpoint=weights)
            frames, figures = list[pl.DataFrame](), dict[str, float]()
            for task in self.data.learned:
                value = self.scores(model, task, self.part(task, stage))
                figures[task] = self.figure(task, self.part(task, stage), value)
                frames.append(pl.DataFrame({"value": value}).select(task=pl.lit(task), value="value"))
            facts: dict[str, Any] = {"figures": figures}
            if keeps:
                facts["attention"] = self.attention(model)
            return facts, pl.concat(frames) if stage == "test" else None

        return kept_part(self.folder, name, content, compute)

    def together_rate(self) -> tuple[float, float] | None:
        """Return the rate at which the source's mean figure on validation is best, and that figure."""
        found = dict[float, float]()
        for rate in self.networks.rates:
            part = self.together(TOGETHER[0], rate, TUNING_SEED, "validation", only_find=True)
            if part is None:
                return None
            found[rate] = float(np.mean(list(part.facts["figures"].values())))
        best = max(found, key=lambda rate: found[rate])
        return best, found[best]

    def source(self, rate: float, seed: int) -> tuple[MultiTaskModel, Path]:
        """Return the network that learned all tasks in the first window, and its file."""
        part = self.together(TOGETHER[0], rate, seed, "test")
        assert part is not None  # it is computed where it is missing
        path = part.path.with_suffix(".pt")
        if not path.exists():
            raise ValueError(f"{path} is missing: delete {part.path}, and the network is trained again")
        model = self.model(self.data.learned, seed)
        load_weights(model, path, load_checkpoint(path)["model"])
        return model, path

    def attention(self, model: MultiTaskModel) -> dict[str, list[list[float]]]:
        """Sum each behaviour's weight times their number in its sequence, by type and by gap to the query.

        1 on average would be a mean over the behaviours. The queries are those of the first task's test.
        """
        name = self.data.learned[0]
        task = self.part(name, "test").task
        inputs = task.inputs.take(task.rows.query.unique())
        encoder = model.encoder
        assert isinstance(encoder, DUPN)
        encoder.eval()
        num_types, num_gaps = self.data.tokenizer.sizes.properties[0], self.data.tokenizer.sizes.properties[2]
        share, count = torch.zeros(num_types * num_gaps).double(), torch.zeros(num_types * num_gaps).double()
        for query in torch.arange(len(inputs)).split(1024):
            some = inputs.take(query)
            length = some.ptr.diff()
            relative = encoder.attention(some).double() * length.repeat_interleave(length)
            cell = some.properties[:, 0] * num_gaps + some.properties[:, 2]
            share.index_add_(0, cell, relative)
            count += torch.bincount(cell, minlength=len(count))
        shape = (num_types, num_gaps)
        return {"sum": share.reshape(shape).tolist(), "count": count.reshape(shape).tolist()}

    # ---- transfer ------------------------------------------------------------------------------------

    def transferred(self, rate: float, seed: int, *, only_find: bool = False) -> KeptPart | None:
        """Return the scores of the held-out task's test days, for each way and number of labels."""
        content = {**self._content(), **asdict(self.transfer), "rate": rate, "seed": seed}
        content["source"] = asdict(TOGETHER[0])
        name = f"transfer {seed}"
        if only_find:
            return find_part(self.folder, name, content)

        def compute() -> tuple[dict[str, Any], pl.DataFrame | None]:
            source, _ = self.source(rate, seed)
            held_out, stop = self.data.held_out, self.first_test
            train = {task: self.data.train(task, 0, stop) for task in self.data.learned}
            whole = self.data.train(held_out, 0, stop)
            order = keyed_uniform(seed, "labels", torch.arange(len(whole.rows))).argsort(stable=True)
            part, facts, columns = self.part(held_out, "test"), list[dict[str, Any]](), dict[str, Any]()
            for most in dict.fromkeys(min(size, len(whole.rows)) for size in self.transfer.labels):
                few = whole.take(order[:most])
                for way in WAYS:
                    began = time.process_time()
                    model = transfer(
                        way,
                        held_out,
                        {**train, held_out: few},
                        source=source,
                        make=lambda names: self.model(names, seed),
                        fit_until=self.data.bounds[stop],
                        config=self._transfer_config(way, few, rate, seed),
                    )
                    seconds = time.process_time() - began
                    value = self.scores(model, held_out, part)
                    columns[f"{way} {len(few.rows)}"] = value
                    facts.append(
                        {
                            "way": way,
                            "num_labels": len(few.rows),
                            "figure": self.figure(held_out, part, value),
                            "training_seconds": round(seconds, 2),
                        }
                    )
            return {"points": facts}, pl.DataFrame(columns)

        return kept_part(self.folder, name, content, compute)

    def _transfer_config(self, way: Transfer, few: TaskData, rate: float, seed: int) -> MultiTaskConfig:
        """Return as many passes as ``least_steps`` needs; with all tasks, steps in turn do that already."""
        epochs, size = self.networks.epochs, self.networks.batch_size
        if way != "all":
            steps = -(-len(few.rows) // size)
            epochs = max(epochs, -(-self.transfer.least_steps // steps))
        return training_config(self.networks, rate, seed, interleaving="in turn", epochs=epochs)

    # ---- incremental updating ------------------------------------------------------------------------

    def incremental(self, rate: float, seed: int, *, only_find: bool = False) -> KeptPart | None:
        """Return figures of each test day and processor seconds, of four ways to keep a network up to date.

        "not updated": fitted to the first window once. "retrained": anew on the window that ends before the
        day. "fine-tuned": each new day alone, from the network of the day before; with Adagrad's sums, which
        make the steps ever smaller, or from new ones.
        """
        content = {**self._content(), "rate": rate, "seed": seed, "source": asdict(TOGETHER[0])}
        name = f"incremental {seed}"
        if only_find:
            return find_part(self.folder, name, content)

        def compute() -> tuple[dict[str, Any], pl.DataFrame | None]:
            points = list[dict[str, Any]]()
            with TemporaryDirectory() as folder:
                for way in ("not updated", "retrained", "fine-tuned", "fine-tuned, sums anew"):
                    model, path = self.source(rate, seed)
                    for day in range(self.first_test, self.last_test):
                        began = time.process_time()
                        if day > self.first_test and way != "not updated":
                            model, path = self._updated(way, day, rate, seed, path, Path(folder))
                        seconds = time.process_time() - began
                        figures = {}
                        for task in self.data.learned:
                            part = self.data.test(task, day, day + 1)
                            figures[task] = self.figure(task, part, self.scores(model, task, part))
                        points.append(
                            {
                                "way": way,
                                "day": day,
                                "figures": figures,
                                "training_seconds": round(seconds, 2),
                            }
                        )
            return {"points": points}, None

        return kept_part(self.folder, name, content, compute)

    def _updated(
        self, way: str, day: int, rate: float, seed: int, path: Path, folder: Path
    ) -> tuple[MultiTaskModel, Path]:
        """Return the network that knows all before a day, and its file."""
        model = self.model(self.data.learned, seed)
        config = training_config(self.networks, rate, seed, interleaving="in turn")
        first = day - (self.first_test if way == "retrained" else 1)
        train = {task: self.data.train(task, first, day) for task in self.data.learned}
        new_path = folder / f"{way} {day}.pt"
        fit_tasks(
            model,
            train,
            fit_until=self.data.bounds[day],
            config=config,
            start=None if way == "retrained" else path,
            keep_optimizer=way == "fine-tuned",
            checkpoint=new_path,
        )
        return model, new_path

    # ---- what parts share ----------------------------------------------------------------------------

    def days(self, stage: Stage) -> tuple[int, int]:
        """Return the training days of a stage."""
        return 0, self.first_test - (stage == "validation")

    def part(self, task: str, stage: Stage) -> Part:
        """Return the rows that a stage scores, kept for the next call."""
        first = self.first_test - (stage == "validation")
        stop = self.first_test if stage == "validation" else self.last_test
        key = (task, first, stop)
        if key not in self._parts:
            self._parts[key] = self.data.test(*key)
        return self._parts[key]

    def model(
        self, names: tuple[str, ...] | list[str], seed: int, *, uncertainty: bool = False
    ) -> MultiTaskModel:
        """Return a new DUPN for tasks."""
        return make_model(self.data, list(names), self.networks, seed=seed, uncertainty=uncertainty)

    def scores(self, model: MultiTaskModel, task: str, part: Part) -> np.ndarray:
        """Return scores of a part's rows, or of classes whether they were right."""
        score: Tensor = score_task(model, task, part.task)
        return values_of(self.data.tasks[task], score, part.task.rows.label)

    def metric(self, task: str) -> str:
        """Return "auc", or "mean" of classes found: precision."""
        return "mean" if self.data.tasks[task].kind == "class" else "auc"

    def figure(self, task: str, part: Part, value: np.ndarray) -> float:
        """Return the figure of values."""
        return figure_of(self.metric(task), self._label(task, part), value)

    def task_scores(self, task: str, values: tuple[np.ndarray, ...]) -> TaskScores:
        """Return test scores of all seeds as figures and tests read them."""
        part = self.part(task, "test")
        return TaskScores(user_id=part.user_id, time=part.time, label=self._label(task, part), values=values)

    def _label(self, task: str, part: Part) -> np.ndarray | None:
        if self.metric(task) == "mean":
            return None
        label: np.ndarray = (part.task.rows.label > 0).numpy().astype(np.int64)
        return label

    def _training(self, task: str, stage: Stage) -> TaskData:
        return self.data.train(task, *self.days(stage))

    def _content(self, is_trees: bool = False) -> Mapping[str, Any]:
        """Return what every part depends on; the rates to choose from are none of it."""
        networks = {**asdict(self.networks), "rates": (0.0,), "tree_rates": (0.0,)}
        if is_trees:
            networks = {"num_trees": self.networks.num_trees}
        else:
            networks.pop("num_trees")
        return {"data": self.data.fingerprint, "protocol": PROTOCOL_VERSION, "networks": networks}
