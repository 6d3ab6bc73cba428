"""``python -m experiments meta_profile_tables``: the Meta-Profile Network's three experiments.

Unseen targets with all labels ("ood", Table 3 of the paper), with masked labels, with imbalanced classes.
Everything is made of parts (``experiments.meta_profile_parts``), so a run goes on where an earlier one
stopped. It goes seed by seed, and after each experiment of a seed the tables are made anew.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch

from experiments.kept_parts import KeptPart, versions
from experiments.meta_profile_data import LOADERS, ProfileData, ProfileDataSettings
from experiments.meta_profile_methods import (
    CANDIDATE,
    METHODS,
    ZERO_STEPS,
    Method,
    NetworkSettings,
    Setting,
    candidates,
    new_network,
    steps_of,
)
from experiments.meta_profile_parts import EXPERIMENTS, LEVELS_OF, Experiment, Part, ProfileParts
from experiments.meta_profile_report import draw_curves, draw_heatmap, update_meta_profile_page
from experiments.named_rows import row_named
from experiments.resumable import run_resumable
from experiments.stored_tables import folder_to_show, marked, put_tables
from experiments.task_figures import MethodScores, TaskScores, compare_methods, figure_rows
from graph_builders.option_checks import check_seeds
from graphrec.models.meta_profile import MultiTaskProfile

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"
PAGE = "meta_profile.md"
NAME = "meta_profile_tables"
BUDGET_HOURS = 12.0
METRICS = ("auc", "aupr")
NUM_TUNED, NUM_CURVES = 4, 2  # targets
SIMPLE_SECONDS = 0.5  # of a target and level without a network's training, before one has been measured
PROBE_STEPS = 6
EMBEDDING_SHARE = 0.5  # of an embedded row over a trained one


@dataclass(frozen=True, kw_only=True)
class MetaProfileTableConfig:
    """What ``python -m experiments meta_profile_tables`` runs.

    Attributes:
        data: data set.
        path: folder of the data; none for Complete Journey's package.
        experiment: which ones; none for all.
        rows: names of rows; none for all.
        seeds: random seeds; with all labels a row that no seed changes has the first alone.
        folds: of the customers; none for all.
        only_tables: run nothing, make the tables and plots of what is finished; an error where nothing is.
        replace_stored: put these tables in the place of the stored ones and of the page's, though they were
            made with other options of ``network`` or ``tasks`` than the defaults, or lack rows, seeds or
            folds that are stored. Without it such tables go to the folder ``results`` beside the parts.
        forecast: run nothing, print what the experiments would cost.
        picture: run nothing, draw a customer's heatmap.
        network: sizes and lengths.
        tasks: what is asked of the data.

    """

    data: Literal["complete_journey", "online_retail"] = "complete_journey"
    path: str | None = None
    experiment: tuple[Experiment, ...] = ()
    rows: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    folds: tuple[int, ...] = ()
    only_tables: bool = False
    replace_stored: bool = False
    forecast: bool = False
    picture: bool = False
    network: NetworkSettings = field(default_factory=NetworkSettings)
    tasks: ProfileDataSettings = field(default_factory=ProfileDataSettings)

    def __post_init__(self) -> None:
        for name in self.rows:
            row_named(name, METHODS)
        check_seeds(self, "seeds")
        wrong = [fold for fold in self.folds if not 0 <= fold < self.tasks.num_folds]
        if wrong:
            raise ValueError(f"folds must lie in 0 to {self.tasks.num_folds - 1}, got {wrong}")
        if len({*self.folds}) < len(self.folds):  # a customer would count as often as the fold
            raise ValueError(f"name each of the folds once, got {[*self.folds]}")

    def seeds_of(self, method: Method, experiment: Experiment) -> tuple[int, ...]:
        """Return the seeds of a row; where labels are drawn, a seed changes every row."""
        return self.seeds if method.is_random or experiment != "ood" else self.seeds[:1]


class MetaProfileTables:
    """One run: forecast, parts, tables, plots.

    Args:
        config: what to run.
        results: folder of the result files.
        docs: folder of the figures.
        work: folder of parts; default ``runs/meta_profile_tables/<data>``.
        data: loaded already; for tests.

    """

    def __init__(
        self,
        config: MetaProfileTableConfig,
        *,
        results: Path = RESULTS,
        docs: Path = DOCS,
        work: Path | None = None,
        data: ProfileData | None = None,
    ) -> None:
        self.config, self.stored, self.docs = config, results, docs
        self.data = LOADERS[config.data](config.path, config.tasks) if data is None else data
        folder = Path("runs") / "meta_profile_tables" / self.data.name if work is None else work
        self.own_results = folder / "results"
        rows = self.data.targets(0)
        positives = {name: int(one.of_part("train").label.sum()) for name, one in rows.items()}
        curves = sorted(positives, key=lambda name: (-positives[name], name))[:NUM_CURVES]
        tuned = self.data.target_names[:: max(len(positives) // NUM_TUNED, 1)][:NUM_TUNED]
        self.parts = ProfileParts(
            self.data,
            config.network,
            folder / "parts",
            curve_targets=tuple(curves),
            tuned_targets=tuple(tuned),
        )
        self.methods = [m for m in METHODS if not config.rows or m.name in config.rows]
        self.experiments = config.experiment or EXPERIMENTS
        self.folds = config.folds or tuple(range(config.tasks.num_folds))

    def run(self) -> None:
        """Do what the configuration says, printing a line for each finished part.

        Raises:
            ValueError: nothing is finished to make tables of; nothing has been written then.

        """
        config = self.config
        if config.picture:
            path = self.docs / f"meta_profile_heatmap_{self.data.name}.svg"
            draw_heatmap(self.data, path)
            print(f"drawn: {path}")
            return
        if not config.only_tables:
            self.print_forecast()
        if not config.only_tables and not config.forecast:
            self.run_parts()
        if not config.forecast:
            self._show(self.write_tables())

    # ---- running ---------------------------------------------------------------------------------

    def run_parts(self) -> None:
        """Compute what is missing, and make the tables anew after each experiment of a seed."""
        for method in self._in_tuning_order():
            for part in self.tuning_parts(method) or []:
                self._run(part)
        last = None
        for part in self.test_parts():
            now = part.seed, part.experiment
            if last not in (None, now):
                self.write_tables()
            last = now
            self._run(part)

    def tuning_parts(self, method: Method) -> list[Part] | None:
        """Return the parts that choose a row's setting; None where g's own is not chosen yet."""
        if method.kind in ("adapted", "frozen"):
            meta = self.chosen(row_named(ZERO_STEPS, METHODS))
            return None if meta is None else self.parts.tuning_parts(method, meta)
        return self.parts.tuning_parts(method, {})

    def chosen(self, method: Method) -> dict[str, float] | None:
        """Return the setting that validation chose for a row, or None where a part is missing."""
        parts = self.tuning_parts(method)
        found = None if parts is None else self.parts.choose(parts)
        return None if found is None else found[0]

    def plan(self) -> Iterator[tuple[int, Experiment, int, Method]]:
        """Yield seed, experiment, fold and row of each test in their order."""
        for seed in self.config.seeds:
            for experiment in self.experiments:
                for fold in self.folds:
                    for method in self.methods:
                        is_asked = experiment == "ood" or method.in_curves
                        if is_asked and seed in self.config.seeds_of(method, experiment):
                            yield seed, experiment, fold, method

    def test_parts(self) -> list[Part]:
        """Return the tests of all rows whose settings are chosen, in their order."""
        found = []
        for seed, experiment, fold, method in self.plan():
            part = self.test_part(method, experiment, seed, fold)
            if part is not None:
                found.append(part)
        return found

    def test_part(self, method: Method, experiment: Experiment, seed: int, fold: int) -> Part | None:
        """Return one test, or None where its setting is not chosen yet."""
        if method.name not in self._settings:
            setting = self.chosen(method)
            meta = self.chosen(row_named(ZERO_STEPS, METHODS)) if method.kind in ("adapted", "frozen") else {}
            if setting is None or meta is None:
                return None
            self._settings[method.name] = setting, meta
        own, of_g = self._settings[method.name]
        return self.parts.test_part(method, experiment, own, of_g, seed=seed, fold=fold)

    @cached_property
    def _settings(self) -> dict[str, tuple[Setting, Setting]]:
        return {}

    def _in_tuning_order(self) -> list[Method]:
        """Return the rows whose settings are needed, the one first that chooses g's meta-training."""
        reads_g = any(method.kind in ("adapted", "frozen") for method in self.methods)
        first = [row_named(ZERO_STEPS, METHODS)] if reads_g else []
        return list(dict.fromkeys([*first, *self.methods]))

    def _run(self, part: Part) -> None:
        """Compute a part and what it needs, where missing, and say so."""
        if self.parts.find(part) is not None:
            return
        for needed in self.parts.needed(part):
            self._run(needed)
        began = time.perf_counter()
        seconds = self.parts.run(part).facts["cpu_seconds"]
        now = datetime.now(UTC).astimezone().strftime("%H:%M:%S")
        elapsed = time.perf_counter() - began
        print(f"{now} {part.name}: {seconds:.0f} CPU s, {elapsed:.0f} s", flush=True)

    # ---- forecast --------------------------------------------------------------------------------

    def print_forecast(self) -> None:
        """Print what each experiment costs, before anything runs: measured where it was, else by a probe."""
        groups: dict[str, list[tuple[Part, float]]] = {}
        for part in self._all_parts():
            group = {"start": "starts", "meta": "meta-trainings", "tuning": "tuning"}.get(
                part.stage, part.experiment
            )
            groups.setdefault(group, []).append((part, self.cost(part)))
        print(f"{self.data.title}\n\n{'':20} {'parts':>6} {'minutes':>8} {'left':>8}", flush=True)
        total = missing = 0.0
        for group, found in groups.items():
            minutes = sum(cost for _, cost in found) / 60
            left = sum(cost for part, cost in found if self.parts.find(part) is None) / 60
            print(f"{group:20} {len(found):6} {minutes:8.1f} {left:8.1f}", flush=True)
            total, missing = total + minutes, missing + left
        over = "" if total / 60 <= BUDGET_HOURS else ": more than the budget, choose fewer seeds or folds"
        print(f"In all {total:.0f} CPU minutes, {missing:.0f} of them left{over}.", flush=True)

    def _all_parts(self) -> list[Part]:
        """Return all parts; tests stand for the first setting where none is chosen yet."""
        own = list[Part]()
        first: Setting = candidates("meta", self.config.network)[0]
        for method in self._in_tuning_order():
            own += self.tuning_parts(method) or self.parts.tuning_parts(method, first)
        for seed, experiment, fold, method in self.plan():
            part = self.test_part(method, experiment, seed, fold)
            if part is None:
                setting = candidates(method.kind, self.config.network)[-1]
                part = self.parts.test_part(method, experiment, setting, first, seed=seed, fold=fold)
            own.append(part)
        needed = [before for part in own for before in self.parts.needed(part)]
        return list(dict.fromkeys([*needed, *own]))

    def cost(self, part: Part) -> float:
        """Return a part's processor seconds: its own, else those of such parts, else by a probe."""
        kept = self.parts.find(part)
        if kept is not None:
            seconds = float(kept.facts["cpu_seconds"])
            self._measured.setdefault(_kind_of(part), []).append(seconds)
            return seconds
        alike = self._measured.get(_kind_of(part))
        return float(np.mean(alike)) if alike else self._estimate(part)

    @cached_property
    def _measured(self) -> dict[tuple[str, ...], list[float]]:
        return {}

    def _estimate(self, part: Part) -> float:
        network, setting = self.config.network, dict(part.setting)
        a_row = self._seconds_a_row
        if part.stage == "start":
            return network.source_steps * network.batch_size * a_row
        if part.stage == "meta":
            rows = network.batch_size + 2 * network.num_ways * setting["shots"]
            embedded = self.data.num_target_rows * EMBEDDING_SHARE
            return (network.meta_steps * rows + embedded) * a_row
        method = row_named(part.method, METHODS)
        seconds = 0.0
        of_test = self.parts.curve_targets if part.experiment != "ood" else self.data.target_names
        names = self.parts.tuned_targets if part.stage == "tuning" else of_test
        for name in names:
            of_target = self.parts.rows(part.fold)[name]
            train = of_target.of_part("train")
            scored = len(of_target.row) - len(train.row)
            for labelled in self._labelled_counts(part, len(train.row), int(train.label.sum())):
                if method.kind in ("scratch", "fine-tuned"):
                    steps = steps_of(int(setting["steps"]), labelled, len(train.row), network)
                    seconds += (steps * network.batch_size + scored * EMBEDDING_SHARE) * a_row
                else:
                    seconds += SIMPLE_SECONDS
        return seconds

    def _labelled_counts(self, part: Part, rows: int, positives: int) -> list[int]:
        """Return how many labels each level of a part leaves, about."""
        if part.experiment == "masking":
            return [round(share * rows) for share in LEVELS_OF["masking"]]
        if part.experiment == "imbalance":
            kept = [(min(positives, ratio * rows), ratio) for ratio in LEVELS_OF["imbalance"]]
            return [min(rows, round(count * (1 + 1 / ratio))) for count, ratio in kept]
        return [rows]

    @cached_property
    def _seconds_a_row(self) -> float:
        """Time some steps of a training, once."""
        network = new_network(self.data, self.config.network, 0)
        model = MultiTaskProfile(network, torch.zeros(1)).train()
        size, times = self.config.network.batch_size, list[float]()
        for step in range(PROBE_STEPS):
            began = time.process_time()
            row = (torch.arange(size) * 97 + step * 31) % self.data.num_target_rows
            model(self.data.inputs.take(row)).square().mean().backward()
            times.append((time.process_time() - began) / size)
        return float(np.median(times))

    # ---- tables ----------------------------------------------------------------------------------

    def write_tables(self) -> Path | None:
        """Write figures, tests and what each row was, and return where they went.

        Without a finished row nothing is written and None is returned.
        """
        figures, tests, levels = (list[dict[str, Any]]() for _ in range(3))
        for experiment in EXPERIMENTS:
            found = [one for method in METHODS if (one := self._finished(method, experiment))]
            for level in LEVELS_OF[experiment]:
                scores = [one.scores(level) for one in found]
                mark = {"experiment": experiment, "level": level}
                for score in scores:
                    figures += [{**mark, **line} for line in figure_rows(score, experiment, METRICS)]
                lead = [score for score in scores if score.name == CANDIDATE]
                others = [score for score in scores if score.name != CANDIDATE]
                names = [method.name for method in METHODS if method.kind not in ("adapted", "meta")]
                for metric in METRICS if lead and others else ():
                    lines = compare_methods(lead[0], others, experiment, metric, baselines=names)
                    tests += [{**mark, **line} for line in lines]
            levels += self._label_counts(experiment, found)
        tables = {"": figures, ".tests": tests, ".levels": levels, ".rows": self._rows()}
        config = self.config
        return put_tables(
            NAME,
            marked(self.data.name, tables),
            stored=self.stored,
            own=self.own_results,
            has_default_options=(config.network, config.tasks) == (NetworkSettings(), ProfileDataSettings()),
            replace_stored=config.replace_stored,
        )

    def _show(self, results: Path | None) -> None:
        """Draw the curves of a folder of tables, and put those that are stored on the page.

        Raises:
            ValueError: there is no folder, since nothing is finished.

        """
        results = folder_to_show(results, self.own_results)
        is_stored = results == self.stored
        draw_curves(results, self.data.name, self.docs if is_stored else results)
        if is_stored and (self.docs / PAGE).exists():
            update_meta_profile_page(results, self.docs / PAGE)

    def _finished(self, method: Method, experiment: Experiment) -> "_Finished | None":
        """Return a row's tests of those seeds of which all folds are finished."""
        if experiment != "ood" and not method.in_curves:
            return None
        found: dict[int, list[KeptPart]] = {}
        for seed in self.config.seeds_of(method, experiment):
            tests = [self.test_part(method, experiment, seed, fold) for fold in self.folds]
            parts = [None if part is None else self.parts.find(part) for part in tests]
            complete = [part for part in parts if part is not None]
            if len(complete) == len(self.folds):
                found[seed] = complete
        return _Finished(method, found) if found else None

    def _label_counts(self, experiment: Experiment, found: Sequence["_Finished"]) -> Iterable[dict[str, Any]]:
        """Return how many labels each level left, a mean over the folds of the first finished seed."""
        if not found:
            return []
        parts = next(iter(found[0].parts.values()))
        counts = pl.DataFrame([line for part in parts for line in part.facts["counts"]])
        means = counts.group_by("target", "level", maintain_order=True).mean()
        return [{"experiment": experiment, **line} for line in means.iter_rows(named=True)]

    def _rows(self) -> list[dict[str, Any]]:
        """Say what each row was, what it cost, and how well the start does on the source tasks."""
        lines = list[dict[str, Any]]()
        common = {
            "title": self.data.title,
            "folds": list(self.folds),
            "num_folds": self.config.tasks.num_folds,
            "tuned": list(self.parts.tuned_targets),
            "curves": list(self.parts.curve_targets),
            "network": asdict(self.config.network),
            "fingerprint": self.data.fingerprint,
            "versions": versions(),
        }
        parts = {part: self.parts.find(part) for part in self._all_parts()}
        seconds = {part: one.facts["cpu_seconds"] for part, one in parts.items() if one is not None}
        for method in METHODS:
            tuning = self.tuning_parts(method)
            chosen = None if tuning is None else self.parts.choose(tuning)
            if chosen is None:
                continue
            own = [part for part in seconds if part.method == method.name]
            lines.append(
                {
                    "method": method.name,
                    "setting": chosen[0],
                    "figure": round(chosen[1], 5),
                    "num_settings": len(tuning or []),
                    "seconds": {
                        stage: round(sum(seconds[part] for part in own if part.stage == stage), 1)
                        for stage in ("tuning", "test")
                    },
                    **common,
                }
            )
        sources: dict[str, list[float]] = {}
        for part, one in parts.items():
            if part.stage == "start" and one is not None:
                for name, value in one.facts["source_auc"].items():
                    sources.setdefault(name, []).append(value)
        if sources:
            shared = {
                stage: round(sum(cost for part, cost in seconds.items() if part.stage == stage), 1)
                for stage in ("start", "meta")
            }
            auc = {name: round(float(np.mean(values)), 4) for name, values in sources.items()}
            lines.append({"method": "", "source_auc": auc, "seconds": shared, **common})
        return lines


@dataclass(frozen=True, eq=False)
class _Finished:
    """A row's finished tests of an experiment: for each seed a part a fold."""

    method: Method
    parts: Mapping[int, Sequence[KeptPart]]

    def scores(self, level: float) -> MethodScores:
        """Return the scores of all folds together: each customer is a test customer of one of them.

        Networks of two folds have scales of their own, so a score is its rank within its fold.
        """
        values: dict[str, list[np.ndarray]] = {}
        tasks: dict[str, pl.DataFrame] = {}
        for parts in self.parts.values():
            frames = []
            for part in parts:
                assert part.frame is not None
                rank = pl.col("value").rank().over("target") / pl.len().over("target")
                frames.append(part.frame.filter(pl.col("level") == level).with_columns(value=rank))
            joined = pl.concat(frames).sort("target", "user_id", "time", maintain_order=True)
            for (name,), frame in joined.partition_by("target", as_dict=True).items():
                values.setdefault(name, []).append(frame["value"].to_numpy())
                tasks[name] = frame
        found = {
            name: TaskScores(
                user_id=frame["user_id"].to_numpy(),
                time=frame["time"].to_numpy(),
                label=frame["label"].to_numpy(),
                values=tuple(values[name]),
            )
            for name, frame in tasks.items()
        }
        return MethodScores(name=self.method.name, seeds=tuple(self.parts), tasks=found)


def _kind_of(part: Part) -> tuple[str, ...]:
    """Return what parts of about one cost share."""
    setting = dict(part.setting)
    size = str(setting.get("steps", setting.get("shots", ""))) if part.stage != "test" else ""
    return part.stage, part.experiment, part.method, part.similarity, size


def main(arguments: list[str], run: Callable[[Callable[[], object]], int] = run_resumable) -> int:
    """Run the command and return the exit status."""
    import tyro

    torch.set_num_threads(1)
    return run(lambda: MetaProfileTables(tyro.cli(MetaProfileTableConfig, args=arguments)).run())
