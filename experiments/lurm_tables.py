"""``python -m experiments lurm_tables``: LURM beside its baselines, its ablations, on users' tasks.

Everything is made of parts (``experiments.kept_parts``): item embeddings, representations, scores of the
tasks. So a run goes on where an earlier one stopped. It goes seed by seed and data set by data set,
ablations last, and after each the tables are made anew from whatever is finished.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from experiments.kept_parts import KeptPart, find_part, kept_part, versions
from experiments.lurm_data import LOADERS, LifeData, LifeTasks
from experiments.lurm_methods import (
    CANDIDATE,
    ROWS,
    SPARSE,
    SUPERVISED,
    LurmSettings,
    Representations,
    Row,
    as_frame,
    from_frame,
)
from experiments.lurm_report import draw_anchors, update_lurm_page
from experiments.named_rows import row_named
from experiments.resumable import run_resumable
from experiments.stored_tables import Tables, folder_to_show, marked, put_tables
from experiments.task_figures import MethodScores, TaskScores, compare_methods, figure_of, figure_rows
from graph_builders.datasets.downstream_tasks import DownstreamTask
from graph_builders.option_checks import check_seeds
from graphrec.evaluation.probes import ProbeConfig, probe, probe_by_epoch

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"
PAGE = "lurm.md"
NAME = "lurm_tables"
FOLDERS = {
    "online_retail": "online-retail-uci",
    "complete_journey": "complete-journey",
    "amazon_5core": "amazon-5core-small",
}  # the simulated data set has none
DataName = Literal["online_retail", "complete_journey", "amazon_5core", "simulated"]
PROTOCOL_VERSION = 2  # raised where the same configuration would get other figures
PROBE_STEPS = (2, 5)  # between which the forecast times a training
# processor seconds of what the forecast does not time, measured on one thread of an AMD EPYC
PROBE_SECONDS = 30e-6  # of a row of 1,280 numbers read by the MLP for an epoch
CLASSIFIER_SECONDS = 1.4e-3  # of a query read by TextCNN or HAN for an epoch, training included
SIMPLE_SECONDS = {"walks": 60.0, "doc2vec": 90.0, "trees": 120.0}


@dataclass(frozen=True, kw_only=True)
class LurmConfig:
    """What ``python -m experiments lurm_tables`` runs.

    Attributes:
        data: data sets, in their order.
        folder: holds the data sets' folders: online-retail-uci, complete-journey, amazon-5core-small.
            Simulated data need none.
        rows: names of rows; none for all.
        seeds: random seeds.
        ablation_seeds: of the ablations.
        ablation_data: the data sets that they are run on: for the cost, one by default.
        only_tables: run nothing, make the tables of what is finished; an error where nothing is.
        replace_stored: put these tables in the place of the stored ones and of the page's, though they were
            made with other ``settings`` than the defaults, or lack rows or seeds that are stored. Without it
            such tables go to the folder ``results`` beside the parts.
        forecast: run nothing, print what the rows would cost.
        picture: run nothing, draw the anchors' outputs before and after training.
        settings: how everything is fitted.

    """

    data: tuple[DataName, ...] = ("online_retail", "complete_journey")
    folder: str = "data"
    rows: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    ablation_seeds: tuple[int, ...] = (0,)
    ablation_data: tuple[DataName, ...] = ("online_retail",)
    only_tables: bool = False
    replace_stored: bool = False
    forecast: bool = False
    picture: bool = False
    settings: LurmSettings = field(default_factory=LurmSettings)

    def __post_init__(self) -> None:
        for name in self.rows:
            row_named(name, ROWS)
        if not self.data:
            raise ValueError("name at least one data set")
        check_seeds(self, "seeds", "ablation_seeds")


class LurmTable:
    """Rows of one data set.

    Args:
        data: the data set.
        config: what to run.
        work: folder of the parts.

    """

    def __init__(self, data: LifeData, config: LurmConfig, work: Path) -> None:
        self.data, self.config, self.work = data, config, work
        self.made = Representations(data, config.settings)
        self.fingerprint = data.fingerprint
        self.rows = [
            row
            for row in ROWS
            if (not config.rows or row.name in config.rows)
            and (row.of is None or data.name in config.ablation_data)
        ]
        self._timings: dict[tuple[Any, ...], float] = {}

    def seeds_of(self, row: Row) -> tuple[int, ...]:
        """Return the seeds of a row."""
        return self.config.seeds if row.of is None else self.config.ablation_seeds

    # ---- parts -----------------------------------------------------------------------------------

    def content(self, row: Row, stage: str, seed: int) -> dict[str, Any]:
        """Return what decides a part: of "items", of a "representation", of "scores"."""
        settings = asdict(self.config.settings)
        used = ["channels"]
        of_row: dict[str, Any] = {}
        if stage == "items" or row.kind in ("smen", "bag"):
            used += ["item_epochs", "item_rate"]
        if stage != "items":
            of_row = {name: value for name, value in asdict(row).items() if name not in ("name", "of")}
            if stage == "representation":
                del of_row["probe"]
            used += {
                "smen": ["num_anchors", "num_interests", "smen_epochs", "smen_rate", "mixed_precision"],
                "bag": ["num_interests"],
                "doc2vec": ["doc2vec_epochs"],
                "walks": ["walks_per_node", "walk_length"],
                "ptum": ["text_epochs", "mixed_precision"],
                "sumn": ["text_epochs", "mixed_precision"],
                "textcnn": ["classifier_epochs", "mixed_precision"],
                "han": ["classifier_epochs", "mixed_precision"],
            }.get(row.kind, [])
        if stage == "scores":
            used.append("probe_epochs")
        return {
            "version": PROTOCOL_VERSION,
            "data": self.fingerprint,
            "stage": stage,
            "row": of_row,
            "seed": seed,
            "settings": {name: settings[name] for name in used},
        }

    def items(self, row: Row, seed: int) -> KeptPart:
        """Return the item embeddings of a seed."""

        def compute() -> tuple[dict[str, Any], pl.DataFrame]:
            vectors, losses = self.made.fit_items(seed)
            return {"losses": losses}, as_frame(vectors)

        return self._part("item embeddings", self.content(row, "items", seed), compute)

    def representation(self, row: Row, seed: int) -> KeptPart:
        """Return a dense row's vectors of all queries."""
        items = self._vectors(row, seed)  # a part of its own: its seconds are not counted twice

        def compute() -> tuple[dict[str, Any], pl.DataFrame]:
            vectors, facts = self.made.dense(row, items, seed)
            return facts, as_frame(vectors)

        return self._part(_base_name(row), self.content(row, "representation", seed), compute)

    def scores(self, row: Row, seed: int) -> KeptPart:
        """Return a row's scores of all tasks: family, task, user_id, time, label and value."""
        if (part := self.find(row, "scores", seed)) is not None:
            return part
        # parts of their own first: their seconds are not counted twice
        if row.kind not in (*SPARSE, *SUPERVISED):
            self.representation(row, seed)
        else:
            self._vectors(row, seed)

        def compute() -> tuple[dict[str, Any], pl.DataFrame]:
            read = self._reader(row, seed)
            frames, chosen = list[pl.DataFrame](), dict[str, Any]()
            for family in self.data.families:
                epochs, figure = self._choose(read, family)
                chosen[family.name] = {"epochs": epochs, "validation_auc": figure}
                frames += [
                    read.score(task, epochs, "test").with_columns(
                        family=pl.lit(family.name), task=pl.lit(task.name)
                    )
                    for fold in family.folds
                    for task in fold
                ]
            return {"chosen": chosen}, pl.concat(frames)

        return self._part(row.name, self.content(row, "scores", seed), compute)

    def _part(
        self,
        name: str,
        content: Mapping[str, Any],
        compute: Callable[[], tuple[dict[str, Any], pl.DataFrame]],
    ) -> KeptPart:
        began = time.perf_counter()
        part = kept_part(self.work, f"{content['stage']}, {name}, seed {content['seed']}", content, compute)
        if part.is_new:
            now = datetime.now(UTC).astimezone().strftime("%H:%M:%S")
            seconds, elapsed = part.facts["cpu_seconds"], time.perf_counter() - began
            print(
                f"{now} {self.data.name}: {content['stage']}: {name}, seed {content['seed']}: {seconds:.0f} "
                f"CPU s, {elapsed:.0f} s",
                flush=True,
            )
        return part

    def find(self, row: Row, stage: str, seed: int) -> KeptPart | None:
        """Return a finished part, or None."""
        name = {"items": "item embeddings", "representation": _base_name(row)}.get(stage, row.name)
        return find_part(self.work, f"{stage}, {name}, seed {seed}", self.content(row, stage, seed))

    def _vectors(self, row: Row, seed: int) -> Tensor | None:
        if row.kind not in ("smen", "bag"):
            return None
        frame = self.items(row, seed).frame
        assert frame is not None
        return from_frame(frame)

    def _reader(self, row: Row, seed: int) -> "_Reader":
        if row.kind in SUPERVISED:
            return _Reader(self, row, seed, None)
        if row.kind in SPARSE:
            return _Reader(self, row, seed, self.made.sparse(row, self._vectors(row, seed), seed))
        frame = self.representation(row, seed).frame
        assert frame is not None
        return _Reader(self, row, seed, from_frame(frame))

    def _choose(self, read: "_Reader", family: LifeTasks) -> tuple[int, float | None]:
        """Return the number of epochs with the best mean AUC over the first fold's validation queries."""
        tasks = family.folds[0]
        if read.row.kind in SUPERVISED:
            tasks = tasks[:1]
        if not read.options:
            return 0, None
        every = [read.validation(task) for task in tasks]
        known = [values for values in every if not np.isnan(values).any()]
        if not known:  # few validation users, all of one class: nothing to choose by
            return read.options[-1], None
        found = np.mean(known, axis=0)
        best = int(found.argmax())
        return read.options[best], float(found[best])

    # ---- tables ----------------------------------------------------------------------------------

    def finished(self, row: Row, family: LifeTasks, seeds: tuple[int, ...]) -> MethodScores | None:
        """Return a row's scores of those of the seeds that are finished; None where none is."""
        found = {seed: part for seed in seeds if (part := self.find(row, "scores", seed)) is not None}
        if not found:
            return None
        tasks = {}
        for name in family.names:
            frames = []
            for part in found.values():
                assert part.frame is not None
                own = part.frame.filter((pl.col("family") == family.name) & (pl.col("task") == name))
                frames.append(own.sort("user_id", "time"))
            tasks[name.removeprefix("preference: ").lower()] = TaskScores(
                user_id=frames[0]["user_id"].to_numpy(),
                time=frames[0]["time"].to_numpy(),
                label=frames[0]["label"].to_numpy(),
                values=tuple(frame["value"].to_numpy() for frame in frames),
            )
        return MethodScores(name=row.name, seeds=tuple(found), tasks=tasks)

    def lines(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
        """Return figures, tests and what each row was, of all that is finished."""
        figures, tests, described = (list[dict[str, Any]]() for _ in range(3))
        every = {row.name: row for row in ROWS}
        for family in self.data.families:
            for part in ("main", "ablations"):
                rows = [row for row in ROWS if (row.of is None) is (part == "main")]
                found = {row.name: self.finished(row, family, self.seeds_of(row)) for row in rows}
                scored = [one for one in found.values() if one is not None]
                for one in scored:
                    kept = figure_rows(one, f"{family.name}, {part}", ("auc", "accuracy"))
                    figures += kept
                    described.append(self._describe(every[one.name], one.seeds, family))
                others = [one for one in scored if one.name != CANDIDATE]
                if not others:
                    continue
                seeds = tuple(seed for seed in others[0].seeds if all(seed in one.seeds for one in others))
                candidate = self.finished(every[CANDIDATE], family, seeds)
                if candidate is None:
                    continue
                if part == "ablations":
                    figures += figure_rows(candidate, f"{family.name}, {part}", ("auc", "accuracy"))
                same = [_of_seeds(one, candidate.seeds) for one in others]
                baselines = [
                    row.name for row in ROWS if row.of is None and row.name not in (CANDIDATE, "BoI")
                ]
                tests += compare_methods(
                    candidate,
                    [one for one in same if one is not None],
                    f"{family.name}, {part}",
                    "auc",
                    baselines=baselines,
                )
        return figures, tests, described

    def _describe(self, row: Row, seeds: tuple[int, ...], family: LifeTasks) -> dict[str, Any]:
        costs = dict[str, float]()
        chosen = []
        for seed in seeds:
            for stage in ("items", "representation", "scores"):
                part = self.find(row, stage, seed)
                used = stage != "items" or row.kind in ("smen", "bag")
                if part is not None and used:
                    costs[stage] = costs.get(stage, 0.0) + part.facts["cpu_seconds"] / len(seeds)
                if part is not None and stage == "scores":
                    chosen.append(part.facts["chosen"][family.name])
        return {
            "title": self.data.title,
            "notes": list(self.data.notes),
            "family": family.name,
            "method": row.name,
            "seeds": list(seeds),
            "chosen": chosen,
            "num_interests": self.made.num_interests,
            "num_words": len(self.made.vocabulary),
            "positives": {
                task.name: round(float(np.mean(task.part("test")["label"].to_numpy())), 4)
                for task in family.folds[0]
            },
            "cpu_seconds": {stage: round(seconds, 1) for stage, seconds in costs.items()},
            "settings": asdict(self.config.settings),
            "fingerprint": self.fingerprint,
            "versions": versions(),
        }

    # ---- forecast --------------------------------------------------------------------------------

    def print_forecast(self) -> float:
        """Print what each row costs in processor minutes; return the sum of what is left."""
        print(f"{self.data.title}\n\n{'row':36} {'seeds':>6} {'minutes':>8} {'left':>7}", flush=True)
        total = left = 0.0
        seen = set[str]()
        for row in self.rows:
            minutes = missing = 0.0
            for seed in self.seeds_of(row):
                for stage in ("items", "representation", "scores"):
                    if stage == "items" and row.kind not in ("smen", "bag"):
                        continue
                    if stage == "representation" and row.kind in (*SPARSE, *SUPERVISED):
                        continue
                    key = json.dumps([self.content(row, stage, seed)], sort_keys=True)
                    if key in seen:
                        continue
                    seen.add(key)
                    part = self.find(row, stage, seed)
                    cost = (self.guess(row, stage) if part is None else part.facts["cpu_seconds"]) / 60
                    minutes, missing = minutes + cost, missing + (cost if part is None else 0.0)
            print(f"{row.name:36} {len(self.seeds_of(row)):6} {minutes:8.1f} {missing:7.1f}", flush=True)
            total, left = total + minutes, left + missing
        print(f"{self.data.name}: {total:.1f} CPU minutes, {left:.1f} of them left.\n", flush=True)
        return left

    def guess(self, row: Row, stage: str) -> float:
        """Return the processor seconds of a part that is not there: its other seed's, else by a few steps."""
        for seed in self.config.seeds:
            part = self.find(row, stage, seed)
            if part is not None:
                return float(part.facts["cpu_seconds"])
        if stage == "scores":
            return SIMPLE_SECONDS["trees"] if row.probe == "trees" else self._reading(row)
        if row.kind in SIMPLE_SECONDS:
            return SIMPLE_SECONDS[row.kind]
        if not row.is_trained:
            return 10.0
        return self._timed(row, stage)

    def _reading(self, row: Row) -> float:
        """Return the processor seconds of the choice of epochs and of all tests, of the middle number."""
        settings, seconds = self.config.settings, 0.0
        for family in self.data.families:
            rows = [task.part("train").height for task in family.folds[0]]
            tested = len(family.folds) * sum(rows)
            if row.kind in SUPERVISED:
                epochs = settings.classifier_epochs
                chosen = epochs[len(epochs) // 2]
                seconds += CLASSIFIER_SECONDS * (sum(epochs) * rows[0] + chosen * tested)
            else:
                epochs = settings.probe_epochs
                chosen = epochs[len(epochs) // 2]
                seconds += PROBE_SECONDS * (epochs[-1] * sum(rows) + chosen * tested)
        return seconds

    def _timed(self, row: Row, stage: str) -> float:
        """Time a few steps of a training."""
        key = (stage, row.kind, row.scale, row.num_anchors, row.channels) if stage != "items" else (stage,)
        if key not in self._timings:
            clock = _StepClock()
            with suppress(_TimedError):
                if stage == "items":
                    self.made.fit_items(0, on_step=clock)
                else:
                    vectors = None
                    if row.kind == "smen":
                        size = (len(self.made.words), self.config.settings.channels)
                        vectors = torch.randn(size, generator=torch.Generator().manual_seed(0))
                    self.made.dense(row, vectors, 0, on_step=clock)
            self._timings[key] = clock.seconds
        return self._timings[key]


@dataclass(frozen=True, eq=False)
class _Reader:
    """Reads tasks from one row's representation of one seed."""

    table: LurmTable
    row: Row
    seed: int
    features: Any

    @property
    def options(self) -> tuple[int, ...]:
        """Numbers of epochs that validation chooses among; none of a model that has no epochs."""
        settings = self.table.config.settings
        if self.row.kind in SUPERVISED:
            return settings.classifier_epochs
        return settings.probe_epochs if self.row.probe == "mlp" else ()

    def validation(self, task: DownstreamTask) -> list[float]:
        """Return the AUC of the validation queries after each number of epochs."""
        if self.row.kind in SUPERVISED:
            frames = [self.score(task, epochs, "validation") for epochs in self.options]
            return [figure_of("auc", one["label"].to_numpy(), one["value"].to_numpy()) for one in frames]
        rows, label, is_scored = self._labelled(task, "validation")
        features = self.features[rows.numpy() if self.row.kind in SPARSE else rows]
        found = probe_by_epoch(features, label, is_scored, self.options, config=self._config(1))
        return [one.auc for one in found]

    def score(self, task: DownstreamTask, epochs: int, part: Literal["validation", "test"]) -> pl.DataFrame:
        """Return ``user_id``, ``time``, ``label`` and ``value`` of a part's queries."""
        rows, label, is_scored = self._labelled(task, part)
        if self.row.kind in SUPERVISED:
            made = self.table.made
            of_all = torch.full((self.table.data.queries.height,), -1)
            of_all[rows] = label
            scored = torch.zeros(len(of_all), dtype=torch.bool)
            scored[rows[is_scored]] = True
            found = made.classify(self.row, of_all, scored, epochs, self.seed)
            # the answer is in the order of all queries
            order = rows[is_scored].argsort().argsort()
            value = found[order.numpy()]
        else:
            features = self.features[rows.numpy() if self.row.kind in SPARSE else rows]
            result = probe(features, label, is_scored, config=self._config(epochs))
            value = result.probability[:, 1].numpy()
        used = task.queries.filter(pl.col("part").is_in(["train", part]))
        asked = used.filter(_mask(is_scored))
        return asked.select("user_id", "time", "label").with_columns(value=pl.Series(value, dtype=pl.Float64))

    def _labelled(
        self, task: DownstreamTask, part: Literal["validation", "test"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return place, label and whether it is scored of the training queries and those of a part."""
        used = task.queries["part"].is_in(["train", part])
        rows = self.table.data.rows_of(task)[torch.from_numpy(used.to_numpy().copy())]
        queries = task.queries.filter(used)
        label = torch.from_numpy(queries["label"].cast(pl.Int64).to_numpy().copy())
        return rows, label, torch.from_numpy((queries["part"] == part).to_numpy().copy())

    def _config(self, epochs: int) -> ProbeConfig:
        if self.row.probe == "mlp":
            return ProbeConfig(epochs=epochs, random_seed=self.seed)
        return ProbeConfig(kind=self.row.probe, random_seed=self.seed)


class LurmTables:
    """One run over the data sets: forecast, parts, tables.

    Args:
        config: what to run.
        results: folder of the result files.
        docs: folder of the page and the figures.
        work: folder of parts.
        data: loaded already; for tests.

    """

    def __init__(
        self,
        config: LurmConfig,
        *,
        results: Path = RESULTS,
        docs: Path = DOCS,
        work: Path = Path("runs") / "lurm_tables",
        data: tuple[LifeData, ...] | None = None,
    ) -> None:
        self.config, self.stored, self.docs = config, results, docs
        self.own_results = work / "results"
        if data is None:
            folder = Path(config.folder)
            paths = {name: str(folder / own) for name, own in FOLDERS.items()}
            data = tuple(LOADERS[name](paths.get(name)) for name in config.data)
        self.tables = [LurmTable(one, config, work / one.name) for one in data]

    def run(self) -> None:
        """Do what the configuration says, printing a line for each finished part.

        Raises:
            ValueError: nothing is finished to make tables of, or to draw; nothing has been written then.

        """
        if self.config.picture:
            self._pictures()
            return
        if self.config.forecast:
            left = sum(table.print_forecast() for table in self.tables)
            print(f"In all {left:.0f} CPU minutes are left.", flush=True)
            return
        if not self.config.only_tables:
            for last, table, row, seed in self.plan():
                table.scores(row, seed)
                if last:
                    self.write_tables()
        self._show(self.write_tables())

    def plan(self) -> Iterator[tuple[bool, LurmTable, Row, int]]:
        """Yield all rows of a seed and a data set, then of the next data set and seed; ablations last."""
        for is_main in (True, False):
            for seed in self.config.seeds if is_main else self.config.ablation_seeds:
                for table in self.tables:
                    rows = [row for row in table.rows if (row.of is None) is is_main]
                    for row in rows:
                        yield row is rows[-1], table, row, seed

    def write_tables(self) -> Path | None:
        """Write figures, tests and what each row was, and return where they went.

        Without a finished row nothing is written and None is returned.
        """
        tables: Tables = {suffix: [] for suffix in ("", ".tests", ".rows")}
        for table in self.tables:
            lines = dict(zip(tables, table.lines(), strict=True))
            for suffix, new in marked(table.data.name, lines).items():
                tables[suffix] += new
        return put_tables(
            NAME,
            tables,
            stored=self.stored,
            own=self.own_results,
            has_default_options=self.config.settings == LurmSettings(),
            replace_stored=self.config.replace_stored,
        )

    def _show(self, results: Path | None) -> None:
        """Put tables that are stored on the page.

        Raises:
            ValueError: there are none, since nothing is finished.

        """
        results = folder_to_show(results, self.own_results)
        if results == self.stored and (self.docs / PAGE).exists():
            update_lurm_page(results, self.docs / PAGE)

    def _pictures(self) -> None:
        for table in self.tables:
            if table.data.name not in self.config.ablation_data:
                print(f"no picture of {table.data.name}: LURM before training is a row of --ablation-data")
                continue
            seed = self.config.seeds[0]
            before, after = (
                table.find(row_named(name, ROWS), "representation", seed)
                for name in ("LURM, not trained", CANDIDATE)
            )
            if before is None or after is None or before.frame is None or after.frame is None:
                raise ValueError(
                    f"{table.data.name}: there are no vectors of {CANDIDATE!r} and 'LURM, not trained', seed "
                    f"{seed}: run these rows first"
                )
            path = self.docs / f"lurm_anchors_{table.data.name}.svg"
            asked = table.data.time == table.data.fit_until
            draw_anchors(
                from_frame(before.frame)[asked],
                from_frame(after.frame)[asked],
                self.config.settings.num_anchors,
                table.data.title.partition(". ")[0],
                path,
            )
            print(f"drawn: {path}")


def _mask(mask: Tensor) -> pl.Series:
    """Return a mask as polars filters by it."""
    return pl.Series(mask.numpy())


def _of_seeds(scores: MethodScores, seeds: tuple[int, ...]) -> MethodScores | None:
    """Return the scores of some seeds; None where one is missing."""
    if not set(seeds) <= set(scores.seeds):
        return None
    kept = [scores.seeds.index(seed) for seed in seeds]
    tasks = {
        name: TaskScores(
            user_id=task.user_id, time=task.time, label=task.label, values=tuple(task.values[i] for i in kept)
        )
        for name, task in scores.tasks.items()
    }
    return MethodScores(name=scores.name, seeds=seeds, tasks=tasks)


def _base_name(row: Row) -> str:
    """Return the name of what a row reads, which rows share that differ in their probe alone."""
    changes = (row.scale, row.num_interests, row.num_anchors, row.channels, row.days)
    is_main = row.is_trained and all(change is None for change in changes)
    return row.kind if is_main else f"{row.kind} of an ablation"


class _TimedError(Exception):
    """Enough steps have been timed."""


class _StepClock:
    """Times some steps of a training, then ends it."""

    def __init__(self) -> None:
        self.start, self.seconds = time.process_time(), 0.0

    def __call__(self, done: int, total: int) -> None:
        if done <= PROBE_STEPS[0]:
            self.start = time.process_time()
        if done >= min(PROBE_STEPS[1], total):
            self.seconds = (time.process_time() - self.start) / (PROBE_STEPS[1] - PROBE_STEPS[0]) * total
            raise _TimedError


def main(arguments: list[str]) -> int:
    """Run the command and return the exit status."""
    import tyro

    torch.set_num_threads(1)
    return run_resumable(lambda: LurmTables(tyro.cli(LurmConfig, args=arguments)).run())
