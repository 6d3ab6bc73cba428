"""``python -m experiments dupn_tables``: DUPN, its variants and baselines; many tasks, transfer, new days.

Everything is made of parts (``experiments.dupn_parts``), so a run goes on where an earlier one stopped. It
goes seed by seed, and after each the tables are made anew from whatever is finished.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.dupn_data import DUPNData, DUPNDataSettings, complete_journey_data, kuairand_data
from experiments.dupn_methods import BASELINES, CANDIDATE, METHODS, Method, NetworkSettings
from experiments.dupn_parts import (
    SOURCE,
    TOGETHER,
    TUNING_SEED,
    WAYS,
    DUPNParts,
    Stage,
    Together,
    TransferSettings,
)
from experiments.dupn_report import draw_pictures, update_dupn_page
from experiments.kept_parts import KeptPart, versions
from experiments.named_rows import row_named
from experiments.resumable import run_resumable
from experiments.step_clock import ProbeDoneError, StepClock
from experiments.stored_tables import folder_to_show, marked, put_tables
from experiments.task_figures import MethodScores, TaskScores, compare_methods, figure_rows
from graph_builders.option_checks import check_seeds

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"
PAGE = "dupn.md"
NAME = "dupn_tables"
SCORING_SHARE = 0.35  # of a scored query over a trained one
TREE_SECONDS = 0.08  # of each of the trees of a fit, before one has been measured
PROBE_STEPS = (1, 9)  # between which a probe measures
UPDATES = ("not updated", "retrained", "fine-tuned", "fine-tuned, sums anew")
Experiment = Literal["variants", "multi_task", "transfer", "incremental"]
EXPERIMENTS: tuple[Experiment, ...] = ("variants", "multi_task", "transfer", "incremental")
LOADERS: Mapping[str, Callable[[str | None, DUPNDataSettings], DUPNData]] = {
    "kuairand": kuairand_data,
    "complete_journey": complete_journey_data,
}


@dataclass(frozen=True, kw_only=True)
class DUPNTableConfig:
    """What ``python -m experiments dupn_tables`` runs.

    Attributes:
        data: data set.
        path: folder of the data; none for KuaiRand-Pure's embedded copy, or Complete Journey's
            package.
        part: experiments to run: variants a task at a time, tasks together, transfer to the held-out task,
            incremental updating. The last two begin with networks of the second.
        rows: names of variants; none for all.
        seeds: random seeds; a row that no seed changes has the first alone.
        only_tables: run nothing, make the tables of what is finished; an error where nothing is.
        replace_stored: put these tables in the place of the stored ones and of the page's, though they were
            made with other options of ``networks``, ``tasks`` or ``transfer`` than the defaults, or lack rows
            or seeds that are stored. Without it such tables go to the folder ``results`` beside the parts.
        forecast: run nothing, print what the rows would cost.
        networks: how networks are made and trained.
        tasks: what is asked of the data.
        transfer: how much of the held-out task is learned from.

    """

    data: Literal["kuairand", "complete_journey"] = "kuairand"
    path: str | None = None
    part: tuple[Experiment, ...] = EXPERIMENTS
    rows: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    only_tables: bool = False
    replace_stored: bool = False
    forecast: bool = False
    networks: NetworkSettings = field(default_factory=NetworkSettings)
    tasks: DUPNDataSettings = field(default_factory=DUPNDataSettings)
    transfer: TransferSettings = field(default_factory=TransferSettings)

    def __post_init__(self) -> None:
        for name in self.rows:
            row_named(name, METHODS)
        if not self.part:
            raise ValueError("name at least one part")
        check_seeds(self, "seeds")
        if self.rows and "variants" not in self.part:
            raise ValueError(
                f"rows are variants, got {list(self.rows)} with the parts {list(self.part)}: leave rows out, "
                "or name the part variants too"
            )


class DUPNTables:
    """One run: forecast, parts, tables.

    Args:
        config: what to run.
        results: folder of the result files.
        docs: folder of the page and the figures.
        work: folder of parts; default ``runs/dupn_tables/<data>``.
        data: loaded already; for tests.

    """

    def __init__(
        self,
        config: DUPNTableConfig,
        *,
        results: Path = RESULTS,
        docs: Path = DOCS,
        work: Path | None = None,
        data: DUPNData | None = None,
    ) -> None:
        self.config, self.stored, self.docs = config, results, docs
        self.data = LOADERS[config.data](config.path, config.tasks) if data is None else data
        folder = Path("runs") / "dupn_tables" / self.data.name if work is None else work
        self.own_results = folder / "results"
        self.parts = DUPNParts(self.data, config.networks, config.transfer, folder / "parts")
        self.methods = [method for method in METHODS if not config.rows or method.name in config.rows]
        self._seconds_a_query = dict[tuple[str, bool], float]()

    def run(self) -> None:
        """Do what the configuration says, printing a line for each finished part.

        Raises:
            ValueError: nothing is finished to make tables of; nothing has been written then.

        """
        if not self.config.only_tables:
            self.print_forecast()
        if not self.config.only_tables and not self.config.forecast:
            self.run_parts()
        if not self.config.forecast:
            results = folder_to_show(self.write_tables(), self.own_results)
            is_stored = results == self.stored
            draw_pictures(results, self.data.name, self.docs if is_stored else results)
            if is_stored and (self.docs / PAGE).exists():
                update_dupn_page(results, self.docs / PAGE)

    # ---- running ---------------------------------------------------------------------------------

    def run_parts(self) -> None:
        """Compute what is missing seed by seed, and make the tables anew after each seed but the last."""
        for seed in self.config.seeds:
            if seed != self.config.seeds[0]:
                self.write_tables()
            if "variants" in self.config.part:
                for method in self.methods:
                    self._run_variant(method, seed)
            if set(self.config.part) - {"variants"}:
                self._run_together(seed)

    def _run_variant(self, method: Method, seed: int) -> None:
        for task in self.tasks_of(method):
            for rate in self.parts.rates_of(method):
                self._say(method.name, self.parts.variant(method, task, rate, TUNING_SEED, "validation"))
            chosen = self.parts.chosen_rate(method, task)
            assert chosen is not None  # all its parts are there
            if seed in self.parts.seeds_of(method, self.config.seeds):
                self._say(method.name, self.parts.variant(method, task, chosen[0], seed, "test"))

    def _run_together(self, seed: int) -> None:
        for rate in self.config.networks.rates:
            self._say(SOURCE, self.parts.together(TOGETHER[0], rate, TUNING_SEED, "validation"))
        chosen = self.parts.together_rate()
        assert chosen is not None  # all its parts are there
        rate = chosen[0]
        for way in TOGETHER if "multi_task" in self.config.part else TOGETHER[:1]:
            self._say(way.name, self.parts.together(way, rate, seed, "test"))
        if "transfer" in self.config.part:
            self._say("transfer", self.parts.transferred(rate, seed))
        if "incremental" in self.config.part:
            self._say("incremental", self.parts.incremental(rate, seed))

    def tasks_of(self, method: Method) -> list[str]:
        """Return the learned tasks that a method is made for."""
        return [name for name in self.data.learned if method.can_do(self.data.tasks[name])]

    def _say(self, name: str, part: KeptPart | None) -> None:
        if part is not None and part.is_new:
            now = datetime.now(UTC).astimezone().strftime("%H:%M:%S")
            print(f"{now} {name}: {part.path.stem}: {part.facts['cpu_seconds']:.0f} CPU s", flush=True)

    # ---- forecast --------------------------------------------------------------------------------

    def print_forecast(self) -> None:
        """Print what each row costs, before anything runs; finished parts cost what they have cost."""
        print(f"{self.data.title}\n\n{'row':36} {'parts':>6} {'minutes':>8} {'left':>7}", flush=True)
        costs = dict[str, list[tuple[float, bool]]]()
        if "variants" in self.config.part:
            for method in self.methods:
                costs[method.name] = self._variant_costs(method)
        costs |= self._together_costs()
        total = left = 0.0
        for name, found in costs.items():
            minutes = sum(cost for cost, _ in found) / 60
            missing = sum(cost for cost, is_done in found if not is_done) / 60
            print(f"{name:36} {len(found):6} {minutes:8.1f} {missing:7.1f}", flush=True)
            total, left = total + minutes, left + missing
        print(f"In all {total:.0f} CPU minutes, {left:.0f} of them left.", flush=True)

    def _variant_costs(self, method: Method) -> list[tuple[float, bool]]:
        found = []
        for task in self.tasks_of(method):
            rates = self.parts.rates_of(method)
            chosen = self.parts.chosen_rate(method, task)
            runs: list[tuple[float, int, Stage]] = [(rate, TUNING_SEED, "validation") for rate in rates]
            seeds = self.parts.seeds_of(method, self.config.seeds)
            runs += [(rates[0] if chosen is None else chosen[0], seed, "test") for seed in seeds]
            for rate, seed, stage in runs:
                part = self.parts.variant(method, task, rate, seed, stage, only_find=True)
                found.append((self._cost(part, self._training(method, [task], stage)), part is not None))
        return found

    def _together_costs(self) -> dict[str, list[tuple[float, bool]]]:
        """Return the costs of networks for all tasks, transfer and updating."""
        experiments = set(self.config.part) - {"variants"}
        if not experiments:
            return {}
        chosen = self.parts.together_rate()
        rate = self.config.networks.rates[0] if chosen is None else chosen[0]
        dupn, learned = METHODS[0], list(self.data.learned)
        whole = self._training(dupn, learned, "test")
        costs = dict[str, list[tuple[float, bool]]]()
        for way in TOGETHER if "multi_task" in experiments else TOGETHER[:1]:
            parts = [
                self.parts.together(way, rate, seed, "test", only_find=True) for seed in self.config.seeds
            ]
            costs[way.name] = [(self._cost(part, whole), part is not None) for part in parts]
        tuning = self._training(dupn, learned, "validation")
        for one in self.config.networks.rates:
            part = self.parts.together(TOGETHER[0], one, TUNING_SEED, "validation", only_find=True)
            costs[SOURCE].append((self._cost(part, tuning), part is not None))
        if "transfer" in experiments:
            single, sizes = (
                self._training(dupn, [self.data.held_out], "test"),
                len(self.config.transfer.labels),
            )
            expected = sizes * (whole + 3 * single)  # few labels are passed over more often
            parts = [self.parts.transferred(rate, seed, only_find=True) for seed in self.config.seeds]
            costs["transfer"] = [(self._cost(part, expected), part is not None) for part in parts]
        if "incremental" in experiments:
            parts = [self.parts.incremental(rate, seed, only_find=True) for seed in self.config.seeds]
            expected = (self.config.tasks.num_test_days - 1) * whole * 1.2 + whole * SCORING_SHARE
            costs["incremental"] = [(self._cost(part, expected), part is not None) for part in parts]
        return costs

    def _cost(self, part: KeptPart | None, expected: float) -> float:
        return expected if part is None else float(part.facts["cpu_seconds"])

    def _training(self, method: Method, tasks: Sequence[str], stage: Stage) -> float:
        """Return the expected processor seconds of one training with its scoring."""
        if method.is_trees:
            return TREE_SECONDS * self.config.networks.num_trees * len(tasks)
        a_query = self._probed(method)
        total = 0.0
        for task in tasks:
            trained = self.data.train(task, *self.parts.days(stage)).rows.query
            scored = self.parts.part(task, stage).task.rows.query.unique()
            total += self.config.networks.epochs * len(trained.unique()) + SCORING_SHARE * len(scored)
        return total * a_query

    def _probed(self, method: Method) -> float:
        """Time some steps on the first task; kept for rows of the same parts."""
        key = (method.encoder, method.has_wide)
        if key not in self._seconds_a_query:
            clock, task = StepClock(*PROBE_STEPS), self.data.learned[0]
            with suppress(ProbeDoneError):
                rate = self.config.networks.rates[0]
                self.parts.run_variant(method, task, rate, TUNING_SEED, "validation", on_step=clock)
            self._seconds_a_query[key] = clock.seconds_a_step / self.config.networks.batch_size
        return self._seconds_a_query[key]

    # ---- tables ----------------------------------------------------------------------------------

    def write_tables(self) -> Path | None:
        """Write figures, tests, points of curves and what each row was, and return where they went.

        Without a finished row nothing is written and None is returned.
        """
        figures, tests, rows = self._variant_lines()
        more_figures, more_tests, more_rows = self._together_lines()
        tables = {
            "": figures + more_figures,
            ".tests": tests + more_tests,
            ".rows": rows + more_rows,
            ".curves": self._points(),
            ".attention": self._attention(),
        }
        config = self.config
        options = (config.networks, self.data.settings, config.transfer)
        return put_tables(
            NAME,
            marked(self.data.name, tables),
            stored=self.stored,
            own=self.own_results,
            has_default_options=options == (NetworkSettings(), DUPNDataSettings(), TransferSettings()),
            replace_stored=config.replace_stored,
        )

    def _variant_lines(self) -> tuple[list[dict[str, Any]], ...]:
        figures, tests, rows = (list[dict[str, Any]]() for _ in range(3))
        for task in self.data.learned:
            found = dict[str, MethodScores]()
            for method in METHODS:
                scores, row = self._tested(method, task)
                if scores is not None and row is not None:
                    found[method.name] = scores
                    rows.append(row)
            figures += self._figures("variants", found.values(), task)
            if CANDIDATE in found:
                others = [one for name, one in found.items() if name != CANDIDATE]
                tests += self._tests("variants", found[CANDIDATE], others, task)
        return figures, tests, rows

    def _tested(self, method: Method, task: str) -> tuple[MethodScores | None, dict[str, Any] | None]:
        """Return a variant's finished tests of a task, and what it was."""
        chosen = self.parts.chosen_rate(method, task) if task in self.tasks_of(method) else None
        if chosen is None:
            return None, None
        rate, figure = chosen
        parts = {
            seed: part
            for seed in self.parts.seeds_of(method, self.config.seeds)
            if (part := self.parts.variant(method, task, rate, seed, "test", only_find=True)) is not None
        }
        if not parts:
            return None, None
        tuning = [
            self.parts.variant(method, task, one, TUNING_SEED, "validation", only_find=True)
            for one in self.parts.rates_of(method)
        ]
        row = self._row("variants", method.name, task, rate, figure, list(parts.values()), tuning)
        return self._scores(method.name, {s: {task: _values(p)} for s, p in parts.items()}, [task]), row

    def _together_lines(self) -> tuple[list[dict[str, Any]], ...]:
        """Return lines of tasks learned together, each beside the same network learned a task at a time."""
        figures, tests, rows = (list[dict[str, Any]]() for _ in range(3))
        chosen = self.parts.together_rate()
        if chosen is None:
            return figures, tests, rows
        rate, figure = chosen
        found = dict[str, dict[str, MethodScores]]()
        for way in TOGETHER:
            parts = self._finished(way, rate)
            if not parts:
                continue
            tuning = [
                self.parts.together(way, one, TUNING_SEED, "validation", only_find=True)
                for one in self.config.networks.rates
            ]
            # the first way chose the rate for them all
            own = figure if way == TOGETHER[0] else None
            rows.append(self._row("multi-task", way.name, "all", rate, own, list(parts.values()), tuning))
            values = {seed: _values_by_task(part) for seed, part in parts.items()}
            for task in self.data.learned:
                found.setdefault(task, {})[way.name] = self._scores(way.name, values, [task])
        for task, methods in found.items():
            single, _ = self._tested(METHODS[0], task)
            if single is not None:
                one = MethodScores(name="a task at a time", seeds=single.seeds, tasks=single.tasks)
                methods = {one.name: one, **methods}
            figures += self._figures("multi-task", methods.values(), task)
            if SOURCE in methods:
                others = [method for name, method in methods.items() if name != SOURCE]
                tests += self._tests("multi-task", methods[SOURCE], others, task)
        return figures, tests, rows

    def _finished(self, way: Together, rate: float) -> dict[int, KeptPart]:
        return {
            seed: part
            for seed in self.config.seeds
            if (part := self.parts.together(way, rate, seed, "test", only_find=True)) is not None
        }

    def _points(self) -> list[dict[str, Any]]:
        """Return the points of transfer and of updating with the values of all finished seeds, and tests."""
        chosen = self.parts.together_rate()
        if chosen is None:
            return []
        lines = list[dict[str, Any]]()
        parts = self._of_seeds(lambda seed: self.parts.transferred(chosen[0], seed, only_find=True))
        held_out = self.data.held_out
        if parts:
            for (way, num_labels), of_seeds in points_of_seeds(parts.values(), ("way", "num_labels")).items():
                lines.append(
                    {
                        "part": "transfer",
                        "way": way,
                        "num_labels": num_labels,
                        "task": held_out,
                        "metric": self.parts.metric(held_out),
                        "values": [round(one["figure"], 5) for one in of_seeds],
                        "training_seconds": _mean(one["training_seconds"] for one in of_seeds),
                        "seeds": list(parts),
                        "tests": self._transfer_tests(parts, of_seeds[0]),
                    }
                )
        parts = self._of_seeds(lambda seed: self.parts.incremental(chosen[0], seed, only_find=True))
        if parts:
            for (way, day), of_seeds in points_of_seeds(parts.values(), ("way", "day")).items():
                lines += [
                    {
                        "part": "incremental",
                        "way": way,
                        "day": day,
                        "task": task,
                        "metric": self.parts.metric(task),
                        "values": [round(one["figures"][task], 5) for one in of_seeds],
                        "training_seconds": _mean(one["training_seconds"] for one in of_seeds),
                        "seeds": list(parts),
                    }
                    for task in self.data.learned
                ]
        return lines

    def _transfer_tests(
        self, parts: Mapping[int, KeptPart], point: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Return fine-tuning minus each other way at one number of labels, once for them all."""
        if point["way"] != "fine-tune":
            return []
        scores = {}
        for way in WAYS:
            values = {
                seed: {self.data.held_out: _column(part, f"{way} {point['num_labels']}")}
                for seed, part in parts.items()
            }
            scores[way] = self._scores(way, values, [self.data.held_out])
        others = [one for way, one in scores.items() if way != "fine-tune"]
        return self._tests("transfer", scores["fine-tune"], others, self.data.held_out)

    def _attention(self) -> list[dict[str, Any]]:
        """Return the relative attention of each behaviour type and gap, summed over finished seeds."""
        chosen = self.parts.together_rate()
        parts = self._finished(TOGETHER[0], chosen[0]) if chosen else {}
        found = [part.facts["attention"] for part in parts.values()]
        if not found:
            return []
        return [
            {
                "behaviors": list(self.data.behaviors),
                "seeds": list(parts),
                "sum": np.sum([one["sum"] for one in found], axis=0).round(3).tolist(),
                "count": np.sum([one["count"] for one in found], axis=0).tolist(),
            }
        ]

    def _of_seeds(self, find: Callable[[int], KeptPart | None]) -> dict[int, KeptPart]:
        return {seed: part for seed in self.config.seeds if (part := find(seed)) is not None}

    def _scores(
        self, name: str, values: Mapping[int, Mapping[str, np.ndarray]], tasks: Sequence[str]
    ) -> MethodScores:
        """Return test scores of finished seeds."""
        of_tasks: dict[str, TaskScores] = {
            task: self.parts.task_scores(task, tuple(one[task] for one in values.values())) for task in tasks
        }
        return MethodScores(name=name, seeds=tuple(values), tasks=of_tasks)

    def _figures(self, part: str, found: Any, task: str) -> list[dict[str, Any]]:
        metric = self.parts.metric(task)
        return [{"part": part, **line} for method in found for line in figure_rows(method, task, [metric])]

    def _tests(
        self, part: str, candidate: MethodScores, others: Sequence[MethodScores], task: str
    ) -> list[dict[str, Any]]:
        lines = compare_methods(candidate, others, task, self.parts.metric(task), baselines=BASELINES)
        return [{"part": part, **line} for line in lines]

    def _row(
        self,
        part: str,
        name: str,
        task: str,
        rate: float,
        figure: float | None,
        tests: Sequence[KeptPart],
        tuning: Sequence[KeptPart | None],
    ) -> dict[str, Any]:
        """Return what validation chose, what it cost, and what the figures were made from."""
        tuned = [one.facts["cpu_seconds"] for one in tuning if one is not None]
        return {
            "part": part,
            "title": self.data.title,
            "method": name,
            "task": task,
            "rate": rate,
            "figure": None if figure is None else round(figure, 5),
            "tuning_seconds": round(sum(tuned), 1),
            "seconds_a_seed": _mean(one.facts["cpu_seconds"] for one in tests),
            "training_rows": {
                one: len(self.data.train(one, *self.parts.days("test")).rows) for one in self.data.tasks
            },
            "notes": sorted({note for one in self.data.tasks.values() for note in one.notes}),
            "networks": asdict(self.config.networks),
            "tasks": asdict(self.data.settings),
            "fingerprint": self.data.fingerprint,
            "versions": versions(),
        }


def _values(part: KeptPart) -> np.ndarray:
    return _column(part, "value")


def _column(part: KeptPart, name: str) -> np.ndarray:
    assert part.frame is not None  # a test keeps its scores
    return part.frame[name].to_numpy()


def _values_by_task(part: KeptPart) -> dict[str, np.ndarray]:
    assert part.frame is not None  # a test keeps its scores
    return {
        str(task): frame["value"].to_numpy()
        for (task,), frame in part.frame.group_by("task", maintain_order=True)
    }


def points_of_seeds(
    parts: Iterable[KeptPart], key: tuple[str, str]
) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Return the points of all seeds by two of their values; those that some seed lacks are left out."""
    of_seeds = [{tuple(one[name] for name in key): one for one in part.facts["points"]} for part in parts]
    return {
        which: [points[which] for points in of_seeds]
        for which in of_seeds[0]
        if all(which in points for points in of_seeds)
    }


def _mean(values: Any) -> float:
    return round(float(np.mean(list(values))), 1)


def main(arguments: list[str]) -> int:
    """Run the command and return the exit status."""
    import torch
    import tyro

    torch.set_num_threads(1)
    return run_resumable(lambda: DUPNTables(tyro.cli(DUPNTableConfig, args=arguments)).run())
