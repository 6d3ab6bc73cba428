"""``python -m experiments userbert_tables``: UserBERT beside its baselines on three families of tasks.

Everything is made of parts (``experiments.userbert_parts``), so a run goes on where an earlier one stopped.
It goes seed by seed, and after each the tables are made anew from whatever is finished. The stored tables,
the page and its figures are for runs with the default options that have all that is stored; other runs write
into the folder ``results`` beside their parts.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from experiments.kept_parts import versions
from experiments.named_rows import row_named
from experiments.resumable import run_resumable
from experiments.step_clock import ProbeDoneError, StepClock
from experiments.stored_tables import folder_to_show, marked, put_tables, stored_lines
from experiments.userbert_data import DataSettings, TaskFamily, UserBERTData, complete_journey_data
from experiments.userbert_figures import RowScores, compare_rows, curves_of, rows_of_figures
from experiments.userbert_kuairand import kuairand_data
from experiments.userbert_methods import CANDIDATE, METHODS, Method, TrainingSettings
from experiments.userbert_parts import Chosen, Part, UserBERTParts
from experiments.userbert_report import TABLES, draw_ablations, draw_sentence, update_userbert_page
from experiments.userbert_stored import add_to_tables, stored_choice
from graph_builders.option_checks import check_seeds

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"
PAGE = "userbert.md"
NAME = TABLES.removesuffix(".jsonl")
ROWS = f"{NAME}.rows.jsonl"
BUDGET_HOURS = 15.0
SIMPLE_SECONDS = 3.0  # of a part without a network, before one has been measured
SCORING_SHARE = 0.35  # of a scored query over a trained one
PROBE_STEPS = (1, 13)  # between which a probe measures: sentences of all lengths
LOADERS: Mapping[str, Callable[[str | None, DataSettings], UserBERTData]] = {
    "complete_journey": complete_journey_data,
    "kuairand": kuairand_data,
}


@dataclass(frozen=True, kw_only=True)
class UserBERTTableConfig:
    """What ``python -m experiments userbert_tables`` runs.

    Attributes:
        data: data set.
        path: folder of the data; none for Complete Journey's package or KuaiRand-Pure's embedded copy.
        rows: names of rows; none for all.
        seeds: random seeds; a row that no seed changes has the first alone.
        ablation_seeds: of the ablations, which take over what was chosen for the row that they change.
        only_tables: run nothing, make the tables of what is finished; an error where nothing is.
        forecast: run nothing, print what the rows would cost.
        picture: run nothing, draw a user's words and their attention from UserBERT's last test.
        replace_stored: put these tables in the place of the stored ones and of the page's, though they were
            made with other options of ``training`` or ``tasks`` than the defaults, or lack rows or seeds
            that are stored. Without it such tables go to the folder ``results`` beside the parts.
        add_to_stored: take over what validation chose for the stored rows of the same data, and put this
            run's rows and seeds beside the stored ones: so a row or seed can be added where the parts of the
            others are not at hand. Differences from UserBERT are new only where all seeds of both are here.
        training: how networks are trained.
        tasks: what is asked of the data.

    """

    data: Literal["complete_journey", "kuairand"] = "complete_journey"
    path: str | None = None
    rows: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    ablation_seeds: tuple[int, ...] = (0,)
    only_tables: bool = False
    forecast: bool = False
    picture: bool = False
    replace_stored: bool = False
    add_to_stored: bool = False
    training: TrainingSettings = field(default_factory=TrainingSettings)
    tasks: DataSettings = field(default_factory=DataSettings)

    def __post_init__(self) -> None:
        for name in self.rows:
            row_named(name, METHODS)
        check_seeds(self, "seeds", "ablation_seeds")
        if self.add_to_stored and (self.replace_stored or not self.has_default_options):
            raise ValueError(
                "--add-to-stored adds to tables made with the default options: leave --replace-stored and "
                "options of --training and --tasks out"
            )

    @property
    def has_default_options(self) -> bool:
        """Whether networks are trained, and the data asked, as in the stored tables."""
        return (self.training, self.tasks) == (TrainingSettings(), DataSettings())

    def seeds_of(self, method: Method) -> tuple[int, ...]:
        """Return the seeds of a row."""
        if not method.is_random:
            return self.seeds[:1]
        return self.ablation_seeds if method.of is not None else self.seeds


class UserBERTTables:
    """One run: forecast, parts, tables.

    Args:
        config: what to run.
        results: folder of the stored result files.
        docs: folder of the page and the figures.
        work: folder of parts; default ``runs/userbert_tables/<data>``.
        data: loaded already; for tests.
        methods: other rows than ``METHODS``; for tests.

    """

    def __init__(
        self,
        config: UserBERTTableConfig,
        *,
        results: Path = RESULTS,
        docs: Path = DOCS,
        work: Path | None = None,
        data: UserBERTData | None = None,
        methods: Sequence[Method] = METHODS,
    ) -> None:
        self.config, self.stored, self.docs = config, results, docs
        self.data = LOADERS[config.data](config.path, config.tasks) if data is None else data
        folder = Path("runs") / "userbert_tables" / self.data.name if work is None else work
        self.own_results = folder / "results"
        self.parts = UserBERTParts(self.data, config.training, folder / "parts")
        names = {family.name for family in self.data.families}
        self.all_methods = [method for method in methods if names & set(method.families)]
        self.methods = [m for m in self.all_methods if not config.rows or m.name in config.rows]
        self._probes: dict[tuple[str, str, str], StepClock] = {}

    def run(self) -> None:
        """Do what the configuration says, printing a line for each finished part.

        Raises:
            ValueError: nothing is finished to make tables of, or to draw; nothing has been written then.

        """
        if self.config.picture:
            self._picture()
            return
        if not self.config.only_tables:
            self.print_forecast()
        if not self.config.only_tables and not self.config.forecast:
            self.run_parts()
        if not self.config.forecast:
            self._show(self.write_tables())

    def _show(self, results: Path | None) -> None:
        """Draw the ablations of a folder of tables, and put those that are stored on the page.

        Raises:
            ValueError: there is no folder, since nothing is finished.

        """
        results = folder_to_show(results, self.own_results)
        name = f"userbert_ablations_{self.data.name}.svg"
        if results != self.stored:
            draw_ablations(results, self.data.name, results / name)
            return
        draw_ablations(results, self.data.name, self.docs / name)
        if (self.docs / PAGE).exists():
            update_userbert_page(results, self.docs / PAGE)

    def families_of(self, method: Method) -> list[TaskFamily]:
        """Return the families of tasks that a row has figures of."""
        return [family for family in self.data.families if family.name in method.families]

    # ---- running ---------------------------------------------------------------------------------

    def plan(self) -> Iterator[tuple[int, Method]]:
        """Yield seeds and rows in their order: all rows of a seed, then the next; ablations last."""
        for ablation in (False, True):
            methods = [method for method in self.methods if (method.of is not None) is ablation]
            for seed in dict.fromkeys(seed for method in methods for seed in self.config.seeds_of(method)):
                for method in methods:
                    if seed in self.config.seeds_of(method):
                        yield seed, method

    def run_parts(self) -> None:
        """Compute what is missing, and make the tables anew after each seed but the last."""
        last = None
        for seed, method in self.plan():
            if last not in (None, seed):
                self.write_tables()
            last = seed
            for part in self.parts_before_choice(method, seed):
                self._run(part)
            for part in self.test_parts(method, seed):
                self._run(part)

    def parts_before_choice(self, method: Method, seed: int) -> list[Part]:
        """Return the pre-trainings and tunings that a row's tests of a seed need, in their order."""
        found = list[Part]()
        tuned = self._tuned(method)
        for family in self.families_of(method):
            if self._stored_choice(tuned, family) is not None:
                continue
            for part in self.parts.tuning_parts(tuned, family):
                found += [start for start in (self.parts.start_of(part),) if start is not None] + [part]
        start = self.parts.start_of(Part(stage="test", method=method, seed=seed))
        return list(dict.fromkeys(found if start is None else [*found, start]))

    def test_parts(self, method: Method, seed: int) -> list[Part]:
        """Return a row's tests of a seed; those of a family whose setting is not chosen are left out."""
        found = []
        for family in self.families_of(method):
            chosen = self._choose(method, family)
            if chosen is not None:
                found += [
                    Part(
                        stage="test",
                        method=method,
                        seed=seed,
                        family=family.name,
                        task=task.name,
                        setting=tuple(chosen.setting.items()),
                    )
                    for task in family.tasks
                ]
        return found

    def _choose(self, method: Method, family: TaskFamily) -> Chosen | None:
        """Return what validation chose for a row, or for the row that it changes; None: nothing yet."""
        tuned = self._tuned(method)
        stored = self._stored_choice(tuned, family)
        return self.parts.choose(tuned, family) if stored is None else stored

    def _stored_choice(self, tuned: Method, family: TaskFamily) -> Chosen | None:
        """Return the choice of a stored row where this run adds to the stored tables."""
        if not self.config.add_to_stored:
            return None
        rows = self._stored_lines(".rows")
        return stored_choice(rows, family.name, tuned.name, self.parts.fingerprint, self.config.training)

    def _stored_lines(self, suffix: str) -> list[dict[str, Any]]:
        """Return the stored lines of this data set."""
        return stored_lines(self.stored, NAME, suffix, self.data.name)

    def _tuned(self, method: Method) -> Method:
        """Return the row whose settings are chosen: the row itself, or the one that an ablation changes."""
        return method if method.of is None else row_named(method.of, self.all_methods)

    def _run(self, part: Part) -> None:
        """Compute a part that is missing and say so."""
        if self.parts.find(part) is not None:
            return
        began = time.perf_counter()
        seconds = self.parts.run(part)
        now = datetime.now(UTC).astimezone().strftime("%H:%M:%S")
        elapsed = time.perf_counter() - began
        print(f"{now} {part.stage}: {part.name}: {seconds:.0f} CPU s, {elapsed:.0f} s", flush=True)

    # ---- forecast --------------------------------------------------------------------------------

    def print_forecast(self) -> None:
        """Print what each row costs, before anything runs."""
        print(f"{self.data.title}\n\n{'row':36} {'parts':>6} {'hours':>7} {'left':>7}", flush=True)
        total = left = 0.0
        for method in self.methods:
            found = [(part, self.cost(part)) for part in self._all_parts(method)]
            hours = sum(cost for _, cost in found) / 3600
            missing = sum(cost for part, cost in found if self.parts.find(part) is None) / 3600
            print(f"{method.name:36} {len(found):6} {hours:7.2f} {missing:7.2f}", flush=True)
            total, left = total + hours, left + missing
        over = "" if total <= BUDGET_HOURS else ": more than the budget, choose fewer rows or seeds"
        print(f"In all {total:.1f} CPU hours of {BUDGET_HOURS:g}, {left:.1f} of them left{over}.", flush=True)

    def _all_parts(self, method: Method) -> list[Part]:
        """Return a row's own parts; tests stand for the first setting where none is chosen yet."""
        found = dict.fromkeys(
            part for seed in self.config.seeds_of(method) for part in self.parts_before_choice(method, seed)
        )
        own = [part for part in found if part.method.name == method.name]
        for seed in self.config.seeds_of(method):
            tests = self.test_parts(method, seed)
            chosen = {part.task for part in tests}
            tests += [
                Part(stage="test", method=method, seed=seed, family=family.name, task=task.name)
                for family in self.families_of(method)
                for task in family.tasks
                if task.name not in chosen
            ]
            own += tests
        return own

    def cost(self, part: Part) -> float:
        """Return a part's processor seconds: its own where it is finished, else by a probe of its network."""
        facts = self.parts.find(part)
        if facts is not None:
            return float(facts["cpu_seconds"])
        if part.method.kind != "network":
            return SIMPLE_SECONDS
        training, method = self.config.training, part.method
        if part.stage == "start":
            clock = self._probed(part)
            return clock.seconds_a_step * clock.num_steps * method.user_share
        family = self.families_of(method)[0]
        probed = Part(
            stage="tuning",
            method=Method(name=method.name, kind="network", encoder=method.encoder, form=method.form),
            seed=0,
            family=family.name,
            task=family.tasks[0].name,
            setting=(("rate", training.rates[0]),),
        )
        a_query = self._probed(probed).seconds_a_step / training.batch_size
        task = self.parts.tasks[part.task]
        scored = task.part("test" if part.stage == "test" else "validation").height
        return training.epochs * (task.part("train").height + SCORING_SHARE * scored) * a_query

    def _probed(self, part: Part) -> StepClock:
        """Time some steps of a training; kept for parts of the same network and stage."""
        key = (part.method.encoder, part.method.form, part.stage)
        if key not in self._probes:
            self._probes[key] = StepClock(*PROBE_STEPS)
            with suppress(ProbeDoneError):
                if part.stage == "start":
                    whole = replace(part, method=replace(part.method, user_share=1.0))
                    self.parts.pretrain(whole, on_step=self._probes[key])
                else:
                    self.parts.score(part, on_step=self._probes[key])
        return self._probes[key]

    # ---- tables ----------------------------------------------------------------------------------

    def write_tables(self) -> Path | None:
        """Write figures, tests, curves and what each row was, in the place of those of this data set.

        Returns:
            The folder that they went to; None where no row is finished, and nothing was written.

        """
        figures, tests, curves, described = (list[dict[str, Any]]() for _ in range(4))
        for family in self.data.families:
            rows = [row for method in self.all_methods if (row := self._tested(method, family))]
            for row in rows:
                figures += rows_of_figures(row, family)
                described.append(self._describe(row, family))
                if row_named(row.name, self.all_methods).is_random:
                    curves.append(curves_of(row, family))
            candidate = [row for row in rows if row.name == CANDIDATE]
            others = [row for row in rows if row.name != CANDIDATE]
            if candidate and others:
                tests += compare_rows(candidate[0], others, family, self._baselines())
        tables = marked(self.data.name, {"": figures, ".tests": tests, ".curves": curves, ".rows": described})
        if self.config.add_to_stored and figures:
            stored = {suffix: self._stored_lines(suffix) for suffix in tables}
            names = [method.name for method in self.all_methods]
            tables = add_to_tables(stored, tables, names, self._baselines())
        return put_tables(
            NAME,
            tables,
            stored=self.stored,
            own=self.own_results,
            has_default_options=self.config.has_default_options,
            replace_stored=self.config.replace_stored,
        )

    def _baselines(self) -> list[str]:
        """Return the rows that UserBERT is to beat: all but itself, its variants and the ablations."""
        return [
            method.name
            for method in self.all_methods
            if method.of is None and not (method.kind == "network" and method.encoder == "userbert")
        ]

    def _tested(self, method: Method, family: TaskFamily) -> RowScores | None:
        """Return a row's finished tests of a family; seeds that lack a task are left out."""
        if family.name not in method.families:
            return None
        chosen = self._choose(method, family)
        if chosen is None:
            return None
        finished = []
        for seed in self.config.seeds_of(method):
            parts = [part for part in self.test_parts(method, seed) if part.family == family.name]
            if all(self.parts.find(part) is not None for part in parts):
                finished.append((seed, parts))
        if not finished:
            return None
        return RowScores(
            name=method.name,
            epoch=chosen.epoch,
            seeds=tuple(seed for seed, _ in finished),
            frames={
                task.name: [self.parts.scores(parts[number]) for _, parts in finished]
                for number, task in enumerate(family.tasks)
            },
        )

    def _describe(self, row: RowScores, family: TaskFamily) -> dict[str, Any]:
        """Return what validation chose, what it cost, and what the figures were made from."""
        method = row_named(row.name, self.all_methods)
        chosen = self._choose(method, family)
        assert chosen is not None  # the row has been tested
        tuning = [] if method.of else self.parts.tuning_parts(method, family)
        tests = [
            part for seed in row.seeds for part in self.test_parts(method, seed) if part.family == family.name
        ]
        starts = [start for part in tests if (start := self.parts.start_of(part)) is not None]
        return {
            "title": self.data.title,
            "family": family.name,
            "method": row.name,
            **asdict(chosen),
            "seeds": list(row.seeds),
            "tuned_on": [task.name for task in family.tasks[: family.num_tuned]],
            "training_queries": [task.part("train").height for task in family.tasks],
            "notes": sorted({note for task in family.tasks for note in task.notes}),
            "cpu_seconds": {
                "pre-training a seed": self._seconds(dict.fromkeys(starts)) / len(row.seeds),
                "tuning": self._seconds(tuning),
                "tests a seed": self._seconds(tests) / len(row.seeds),
            },
            "training": asdict(self.config.training) if method.is_random else None,
            "fingerprint": self.parts.fingerprint,
            "versions": versions(),
        }

    def _seconds(self, parts: Iterable[Part]) -> float:
        return round(sum(facts["cpu_seconds"] for part in parts if (facts := self.parts.find(part))), 1)

    # ---- picture ---------------------------------------------------------------------------------

    def _picture(self) -> None:
        """Draw one user of the last family's test with UserBERT as its first seed left it."""
        family, method = self.data.families[-1], row_named(CANDIDATE, self.all_methods)
        seed = self.config.seeds[0]
        tests = [part for part in self.test_parts(method, seed) if part.family == family.name]
        if not tests:
            raise ValueError(
                f"no setting of {CANDIDATE!r} has been chosen in {self.parts.folder} with these options: run "
                "its row first, or give the --training and --tasks that it was run with"
            )
        shown = self.config.has_default_options or self.config.replace_stored
        path = (self.docs if shown else self.own_results) / f"userbert_words_{self.data.name}.svg"
        draw_sentence(self.data, self.parts.tasks[tests[0].task], self.parts.encoder_of(tests[0]), path)
        print(f"drawn: {path}")


def main(arguments: list[str]) -> int:
    """Run the command and return the exit status."""
    import torch
    import tyro

    torch.set_num_threads(1)
    return run_resumable(lambda: UserBERTTables(tyro.cli(UserBERTTableConfig, args=arguments)).run())
