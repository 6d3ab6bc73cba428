"""LSTTM's table: the search on the validation day, then all rows on the test days, then the ablations.

Everything is made of parts (`experiments.parts`), so a run goes on where an earlier one stopped, and another
row, seed or form of update costs its own parts alone. The tables are made anew from whatever is finished.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.config import DATA_SETTINGS, ItemRateConfig, NeuralConfig, SMLModelConfig
from experiments.inputs import AMAZON
from experiments.lsttm_report import draw_hours
from experiments.main_inputs import AsOf
from experiments.paired_tests import figures_of_seed, pairwise_tests
from experiments.parts import FinishedPart, PartSpec, pooled_days
from experiments.results_table import RunPredictions, read_lines, write_lines
from experiments.run_parts import DataSource, PartRunner, missing_parts, run_parts
from experiments.search import (
    GAUC,
    NUM_TRIALS,
    SEARCH_FILE,
    chosen,
    missing_trials,
    search_cost,
    trial_specs,
    write_trial,
)
from experiments.table_rows import ROWS, Group, TableRow, rows_of_data
from graph_builders.option_checks import check_seeds, check_whole_numbers
from graph_builders.splits import day_bounds
from graphrec.evaluation import Comparison
from graphrec.training.online import OnlineConfig

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"
BUDGET_HOURS = 15.0
CANDIDATE = "LSTTM"
Form = Literal["none", "updated"]
OF_ALL = ("auc", GAUC, "gauc[user; impressions]", "log_loss", "calibration_ratio", "ece", "mean_hourly_auc")
OF_PERIODS = ("mean_hourly_auc", "auc", GAUC)
HOURLY = ("LSTTM", "LSTTM without meta", "DeepFM (+external)", "boosted trees")  # drawn hour by hour
NUM_RESAMPLES = 1000
BY_PERIOD = (ItemRateConfig, SMLModelConfig)


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """What ``python -m experiments lsttm_table`` runs.

    Attributes:
        data: data set, out of ``DATA_SETTINGS``.
        rows: names of rows; none for all of them.
        search: search the rows first, ``trials`` trials each, where that is not finished.
        trials: of the search of each row, today's defaults among them.
        days: test days; none for those of the data set, and of its ablations.
        seeds: random seeds; a row that no seed changes has the first alone.
        ablation_seeds: random seeds of the ablations.
        update: the form of online update that is shown beside none.
        jobs: processes, of one thread each.
        only_tables: run nothing, make the tables of what is finished.
        forecast: run nothing, print what the rows would cost.
        path: folder of the data; none for the embedded copy.
        as_of: what queries know: all events before the start of their "period", or before the "query"
            itself.
        period_hours: length of a period; none for that of the data set. Another one, and the "query",
            have a table of their own, without ablations, of rows as the search found them at the data set's
            period.
        replace_stored: put this table in the place of a stored one that has more rows, days or seeds.
            Without it such a table goes to the folder ``results`` beside its parts.

    """

    data: str = "kuairand"
    rows: tuple[str, ...] = ()
    search: bool = True
    trials: int = NUM_TRIALS
    days: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    ablation_seeds: tuple[int, ...] = (0,)
    update: Literal["union", "chained"] = "union"
    jobs: int = 1
    only_tables: bool = False
    forecast: bool = False
    path: str | None = None
    as_of: AsOf = "period"
    period_hours: int | None = None
    replace_stored: bool = False

    def __post_init__(self) -> None:
        unknown = set(self.rows) - set(ROWS)
        if unknown:
            raise ValueError(f"no rows {sorted(unknown)}; there are {[*ROWS]}")
        if self.data not in DATA_SETTINGS:
            raise ValueError(f"no data set {self.data!r}; there are {[*DATA_SETTINGS]}")
        for day in self.days:
            day_bounds(day)
        check_whole_numbers(self, jobs=1, trials=1)
        check_seeds(self, "seeds", "ablation_seeds")
        impossible = set(self.rows) - {row.name for row in self._all_rows()}
        if impossible:
            raise ValueError(
                f"{self.data} does not say what users were shown: it has no {sorted(impossible)}"
            )
        by_period = [name for name in self.rows if isinstance(ROWS[name].config, BY_PERIOD)]
        if by_period and self.as_of == "query":
            raise ValueError(f"{by_period} go by whole periods: leave them out as of queries' own times")
        if self.period_hours is not None:
            check_whole_numbers(self, period_hours=1)
            if 24 % self.period_hours or self.data in AMAZON or self.as_of == "query":
                raise ValueError(
                    f"period_hours must divide a day of 24 hours, got {self.period_hours}; Amazon's periods "
                    "are 30 days, and queries as of their own times have none"
                )

    @property
    def hours(self) -> int:
        """Length of a period in hours."""
        return self.period_hours or DATA_SETTINGS[self.data].period_hours

    @property
    def is_searched_form(self) -> bool:
        """Whether queries know what they knew when the rows were searched."""
        return self.as_of == "period" and self.hours == DATA_SETTINGS[self.data].period_hours

    @property
    def groups(self) -> tuple[Group, ...]:
        """Return the tables to make: ablations are of the searched form alone."""
        return ("main", "ablations") if self.is_searched_form else ("main",)

    def table_rows(self) -> list[TableRow]:
        """Return the chosen rows in the order of the table."""
        rows = [row for row in self._all_rows() if not self.rows or row.name in self.rows]
        rows = [row for row in rows if row.group in self.groups]
        return [row for row in rows if self.as_of == "period" or not isinstance(row.config, BY_PERIOD)]

    @property
    def data_name(self) -> str:
        """Return what the result files call the data."""
        if self.is_searched_form:
            return self.data
        form = "as of the query" if self.as_of == "query" else f"periods of {self.hours} hours"
        return f"{self.data}, {form}"

    def searched_rows(self) -> list[TableRow]:
        """Return the rows whose search the chosen ones need, in the order of the table."""
        needed = {row.of or row.name for row in self.table_rows()}
        return [row for row in self._all_rows() if row.name in needed]

    def _all_rows(self) -> list[TableRow]:
        return rows_of_data(DATA_SETTINGS[self.data])

    def days_of(self, group: Group) -> tuple[str, ...]:
        """Return the test days of the main table or of the ablations."""
        setting = DATA_SETTINGS[self.data]
        return self.days or (setting.test_days if group == "main" else setting.ablation_days)

    def seeds_of(self, row: TableRow, group: Group) -> tuple[int, ...]:
        """Return the seeds of a row in the main table or among the ablations."""
        seeds = self.seeds if group == "main" else self.ablation_seeds
        return seeds if row.is_random else seeds[:1]


class LSTTMTable:
    """One run: plan, forecast, search, parts, tables.

    Args:
        config: what to run.
        results: folder of the result files.
        work: folder of parts and checkpoints; default ``runs/lsttm_table/<data>``.
        rows: other rows than the chosen ones of ``ROWS``, by name; for tests.
        figure: where AUC by hour is drawn; default ``docs/lsttm_hours_<data>.svg``.

    """

    def __init__(
        self,
        config: TableConfig,
        *,
        results: Path = RESULTS,
        work: Path | None = None,
        rows: Sequence[TableRow] | None = None,
        figure: Path | None = None,
    ) -> None:
        self.config, self.stored = config, results
        folder = Path("runs") / "lsttm_table" / config.data if work is None else work
        self.own_results = folder / "results"
        self.figure = DOCS / f"lsttm_hours_{config.data}.svg" if figure is None else figure
        self.rows = list(config.table_rows() if rows is None else rows)
        self.searched = config.searched_rows() if rows is None else [row for row in rows if row.of is None]
        self.by_name = {row.name: row for row in (*self.searched, *self.rows)}
        self.source = DataSource(config.data, folder, config.path, config.hours, config.as_of)
        self.runner = PartRunner(self.source)
        for day in config.days:
            self.runner.inputs.check_window(day)
        self.search_path = results / SEARCH_FILE
        self.searches = config.search and config.is_searched_form

    def run(self) -> None:
        """Forecast, then do what the configuration says, printing a line for each finished part."""
        if not self.config.only_tables:
            self._print_forecast()
        if not self.config.only_tables and not self.config.forecast:
            if self.searches:
                self._search()
            wanted = [
                (row.name, spec)
                for row in self.rows
                for group in self._groups(row)
                for spec in self.specs(row, group)
            ]
            names = {self._key(spec): name for name, spec in reversed(wanted)}
            self._run([spec for _, spec in wanted], "parts", names.__getitem__)
        if not self.config.forecast:
            self.write_tables()

    def specs(self, row: TableRow, group: Group) -> list[PartSpec]:
        """Return the parts of a row in the main table or among the ablations."""
        model, online = self._chosen(row)
        updates = {}
        if isinstance(model, NeuralConfig):
            updates = {"none": OnlineConfig(form="none"), "updated": replace(online, form=self.config.update)}
        return [
            PartSpec(
                data=self.config.data,
                day=day,
                seed=seed,
                model=model,
                updates=updates,
                long_term=replace(row.long_term, random_seed=seed),
                period_hours=self.config.hours,
                as_of=self.config.as_of,
            )
            for day in self.config.days_of(group)
            for seed in self.config.seeds_of(row, group)
        ]

    def _chosen(self, row: TableRow) -> tuple[Any, OnlineConfig]:
        found = chosen(
            self.search_path,
            self.by_name[row.of or row.name],
            self.config.data,
            self.runner.inputs.fingerprint,
            self.config.trials,
        )
        return row.changed(found.model), found.online

    # ---- running ---------------------------------------------------------------------------------

    def _search(self) -> None:
        trials: dict[str, tuple[PartSpec, TableRow, int]] = {}
        for row in self.searched:
            missing = missing_trials(
                self.search_path,
                row,
                self.config.data,
                self.runner.inputs.fingerprint,
                self.config.trials,
            )
            specs = trial_specs(row, self.config.data, self.config.trials)
            trials |= {self._key(specs[number]): (specs[number], row, number) for number in missing}

        def write(key: str) -> None:
            spec, row, number = trials[key]
            write_trial(self.search_path, self.runner, row, number, spec)

        run = self._run(
            [spec for spec, _, _ in trials.values()], "trials", lambda key: trials[key][1].name, write
        )
        for key in trials.keys() - run:  # finished by an earlier run that was stopped before its line
            write(key)

    def _run(
        self,
        specs: Sequence[PartSpec],
        what: str,
        name_of: Callable[[str], str],
        then: Callable[[str], None] = lambda _: None,
    ) -> set[str]:
        """Compute what is missing, say so part by part, and return its keys."""
        left = missing_parts(self.runner.store, specs)
        done = set[str]()

        def say(spec: PartSpec, seconds: float) -> None:
            key = self._key(spec)
            done.add(key)
            then(key)
            now = datetime.now(UTC).astimezone().strftime("%H:%M:%S")
            print(
                f"{now} {what}: {len(done)} of {len(left)}, {name_of(key)}, {spec.day}, seed {spec.seed}: "
                f"{seconds:.0f} s",
                flush=True,
            )

        run_parts(self.runner, left, jobs=self.config.jobs, on_part=say)
        return done

    def _key(self, spec: PartSpec) -> str:
        return spec.key(self.runner.inputs.fingerprint)

    # ---- forecast --------------------------------------------------------------------------------

    def _print_forecast(self) -> None:
        print(f"{'row':48} {'trials':>7} {'parts':>7} {'s each':>7} {'hours':>7} {'done':>7}")
        lines = []
        for line in self.forecast():
            lines.append(line)
            print(
                f"{line['row']:48} {line['trials']:7} {line['parts']:7} {line['seconds']:7.0f} "
                f"{line['hours']:7.2f} {line['done']:7.2f}   ({line['from']})",
                flush=True,
            )
        total, done = (sum(line[name] for line in lines) for name in ("hours", "done"))
        over = "" if total <= BUDGET_HOURS else ": more than the budget, choose fewer rows, days or seeds"
        print(
            f"In all {total:.1f} CPU hours of {BUDGET_HOURS:g}, of which {done:.1f} are done{over}.",
            flush=True,
        )

    def forecast(self) -> Iterator[dict[str, Any]]:
        """Yield for each row what its search and its parts cost in processor hours, and what is done of it.

        Seconds of a part are the mean of the row's finished ones, else of its trials, else estimated by a
        probe. A part that two rows share counts for the first.
        """
        fingerprint, counted = self.runner.inputs.fingerprint, set[str]()
        lines = [line for line in read_lines(self.search_path) if line["data"] == self.config.data]
        for row in self.rows:
            specs = [spec for group in self._groups(row) for spec in self.specs(row, group)]
            specs = [spec for spec in specs if spec.key(fingerprint) not in counted]
            counted |= {spec.key(fingerprint) for spec in specs}
            finished = [part.cpu_seconds for spec in specs if (part := self.runner.store.find(spec))]
            num_trials, trials_left = 0, 0
            if row.of is None and self.searches:
                num_trials = len(trial_specs(row, self.config.data, self.config.trials))
                trials_left = len(
                    missing_trials(self.search_path, row, self.config.data, fingerprint, self.config.trials)
                )
            of_trials = search_cost(lines, row.name)
            if finished:
                seconds, source = float(np.mean(finished)), "parts"
            elif of_trials is not None:
                seconds, source = of_trials, "trials"
            elif specs:
                seconds, source = self.runner.probe(specs[0]), "probe"
            else:
                seconds, source = 0.0, "shared with other rows"
            of_search = of_trials if of_trials is not None else seconds
            yield {
                "row": row.name,
                "trials": num_trials,
                "parts": len(specs),
                "seconds": seconds,
                "hours": (num_trials * of_search + len(specs) * seconds) / 3600,
                "done": ((num_trials - trials_left) * of_search + len(finished) * seconds) / 3600,
                "from": source,
            }

    def _groups(self, row: TableRow) -> list[Group]:
        """Return the tables that a row stands in. LSTTM itself stands first among its ablations."""
        groups = self.config.groups
        return [group for group in groups if group == row.group or row.name == CANDIDATE]

    # ---- tables ----------------------------------------------------------------------------------

    def write_tables(self) -> None:
        """Write the main table and the ablations from finished parts; say which rows are left out."""
        for group in self.config.groups:
            results = self._write_table(group)
            if results is None or group != "main" or not self.config.is_searched_form:
                continue
            figure = self.figure if results == self.stored else results / self.figure.name
            if draw_hours(results, self.config.data, figure):
                print(f"figure: {figure}")

    def _write_table(self, group: Group) -> Path | None:
        """Write a table and return the folder it went to; None where no row is finished."""
        rows = [row for row in self.rows if group in self._groups(row)]
        found = {}
        for row in rows:
            parts = [(spec, self.runner.store.find(spec)) for spec in self.specs(row, group)]
            finished = [(spec, part) for spec, part in parts if part is not None]
            if len(finished) == len(parts):
                found[row.name] = finished
            else:
                print(f"left out: {row.name}, {len(finished)} of {len(parts)} parts are finished ({group})")
        name = "lsttm_table" if group == "main" else "lsttm_ablations"
        if not found or (group == "ablations" and list(found) == [CANDIDATE]):  # nothing to compare it with
            return None
        described = [self._describe(self.by_name[model], group) for model in found]
        results = self._folder_of(name, described)
        predictions = {model: self._predictions(model, parts) for model, parts in found.items()}
        lines = [line for model in found for line in self._figures(model, found[model], predictions[model])]
        tests = self._tests(predictions) if CANDIDATE in found and len(found) > 1 else []
        self._replace(results / f"{name}.jsonl", lines)
        self._replace(results / f"{name}.tests.jsonl", tests)
        self._replace(results / f"{name}.rows.jsonl", described)
        print(f"{name}: {len(found)} of {len(rows)} rows", flush=True)
        return results

    def _folder_of(self, name: str, described: Sequence[Mapping[str, Any]]) -> Path:
        """Return where a table goes: a stored one with more in it, which took hours, stays as it is."""
        new = {row["model"]: row for row in described}
        lost = [
            row["model"]
            for row in read_lines(self.stored / f"{name}.rows.jsonl")
            if row["data"] == self.config.data_name
            and (
                row["model"] not in new
                or any(set(row[of]) - set(new[row["model"]][of]) for of in ("days", "seeds"))
            )
        ]
        if not lost or self.config.replace_stored:
            return self.stored
        print(
            f"{self.stored / name}.jsonl has rows, days or seeds that this table lacks ({', '.join(lost)}): "
            f"it stays, and this one goes to {self.own_results}. --replace-stored puts it there.",
            flush=True,
        )
        return self.own_results

    def _predictions(
        self, model: str, parts: Sequence[tuple[PartSpec, FinishedPart]]
    ) -> dict[Form, list[RunPredictions]]:
        """Pool the days of each seed, by form of update."""
        forms: list[Form] = ["none"]
        if "updated" in parts[0][1].forms:
            forms.append("updated")
        pooled: dict[Form, list[RunPredictions]] = {form: [] for form in forms}
        for form in forms:
            for seed in dict.fromkeys(spec.seed for spec, _ in parts):
                days = [part for spec, part in parts if spec.seed == seed]
                pooled[form].append(
                    pooled_days(days, form, run="table", model=model, data=self.config.data_name, seed=seed)
                )
        return pooled

    def _figures(
        self,
        model: str,
        parts: Sequence[tuple[PartSpec, FinishedPart]],
        predictions: Mapping[Form, Sequence[RunPredictions]],
    ) -> Iterator[dict[str, Any]]:
        """Yield one line a (form, slice, metric), with the values of all seeds."""
        slices = ("hour", "period") if model in HOURLY else ("period",)
        num_rows = 0
        for form, seeds in predictions.items():
            values: dict[tuple[str, str], list[float]] = {}
            sizes: dict[tuple[str, str], int] = {}
            num_rows = len(seeds[0].label)
            for one in seeds:
                for figure in figures_of_seed([one], **self._clock(), by=slices):
                    if figure.metric in _metrics_of(figure.slice):
                        key = (figure.slice, figure.metric)
                        values.setdefault(key, []).append(figure.value)
                        sizes[key] = figure.n
            for (name, metric), of_seeds in values.items():
                yield self._line(model, form, name, metric, of_seeds, sizes[name, metric])
        seeds_of = dict.fromkeys(spec.seed for spec, _ in parts)
        of_seed = [[part for spec, part in parts if spec.seed == seed] for seed in seeds_of]
        training = [float(np.mean([part.training_seconds for part in days])) for days in of_seed]
        scoring = [
            sum(part.num_rows for part in days) / max(sum(part.scoring_seconds for part in days), 1e-9)
            for days in of_seed
        ]
        yield self._line(model, "none", "all", "training_seconds_a_day", training, num_rows)
        yield self._line(model, "none", "all", "scored_rows_a_second", scoring, num_rows)
        if parts[0][1].num_parameters:
            count = [float(days[-1].num_parameters) for days in of_seed]
            yield self._line(model, "none", "all", "num_parameters", count, num_rows)

    def _line(
        self, model: str, form: str, name: str, metric: str, values: Sequence[float], n: int
    ) -> dict[str, Any]:
        rounded = [None if np.isnan(value) else float(f"{value:.6g}") for value in values]
        return {
            "data": self.config.data_name,
            "model": model,
            "form": form,
            "slice": name,
            "metric": metric,
            "values": rounded,
            "n": n,
        }

    def _tests(
        self, predictions: Mapping[str, Mapping[Form, Sequence[RunPredictions]]]
    ) -> list[dict[str, Any]]:
        """Test LSTTM against every other row, without updates and with them, each a family of its own.

        With updates a row that has none keeps its scores.
        """
        lines = []
        forms: tuple[Form, ...] = ("none", "updated")
        for form in forms:
            chosen_form = {
                model: forms_of.get(form, forms_of["none"]) for model, forms_of in predictions.items()
            }
            tests = pairwise_tests(
                chosen_form,
                candidate=CANDIDATE,
                **self._clock(),
                num_resamples=NUM_RESAMPLES,
                by=("period",),
            )
            lines += [
                {"data": self.config.data_name, "form": form, **_plain(test)}
                for test in tests
                if test.slice == "all" and test.metric in ("auc", GAUC)
            ]
        return lines

    def _describe(self, row: TableRow, group: Group) -> dict[str, Any]:
        """Return what a row was: its configuration, what the search chose, days and seeds."""
        found = chosen(
            self.search_path,
            self.by_name[row.of or row.name],
            self.config.data,
            self.runner.inputs.fingerprint,
            self.config.trials,
        )
        return {
            "data": self.config.data_name,
            "model": row.name,
            "trials": found.num_trials,
            "settings": dict(found.settings),
            "online": {
                "form": self.config.update,
                "dense": found.online.learning_rate,
                "tables": found.online.embedding_learning_rate,
            },
            "days": list(self.config.days_of(group)),
            "seeds": list(self.config.seeds_of(row, group)),
            "fingerprint": self.runner.inputs.fingerprint,
            "configuration": self.specs(row, group)[0].configuration(),
        }

    def _clock(self) -> dict[str, Any]:
        inputs = self.runner.inputs
        return {
            "period_seconds": inputs.period // inputs.units_per_second,
            "utc_offset_seconds": inputs.utc_offset // inputs.units_per_second,
        }

    def _replace(self, path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
        """Put the lines in the place of those of this data set."""
        kept = [line for line in read_lines(path) if line["data"] != self.config.data_name]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_lines(path, json.loads(json.dumps([*kept, *lines])))


def _metrics_of(name: str) -> tuple[str, ...]:
    if name == "all":
        return OF_ALL
    return OF_PERIODS if name.startswith("period=") else ("auc",) if name.startswith("hour=") else ()


def _plain(test: Comparison) -> dict[str, Any]:
    """Return a test as JSON values of six digits, without its words and what is undefined."""
    found: dict[str, Any] = {}
    for name, value in test._asdict().items():
        if isinstance(value, float):
            if not np.isnan(value):
                found[name] = float(f"{value:.6g}")
        elif name != "verdict":
            found[name] = value
    return found
