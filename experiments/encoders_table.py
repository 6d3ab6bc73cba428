"""The encoders' table: LSTTM with each user encoder among its features, in each way to train it, and without.

Rows differ in the encoder alone: LSTTM's own options are those that its table's search chose without any, on
plain batches, but nothing in most rows counts what a user did before (see ``id_features``). The rate of the
encoder's weights is chosen for each row on the validation day. Everything is made of parts
(``experiments.parts``), so a run goes on where an earlier one stopped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from experiments.config import DATA_SETTINGS, LSTTMConfig
from experiments.encoders_report import CLICKS, GROUPED, HOURLY, PAST_EVENTS, update_encoders_page
from experiments.encoders_report import TABLE as NAME
from experiments.paired_tests import figures_of_seed
from experiments.parts import FinishedPart, PartSpec, pooled_days
from experiments.results_table import RunPredictions
from experiments.run_parts import DataSource, PartRunner, missing_parts, run_parts
from experiments.search import GAUC, SEARCH_FILE, chosen
from experiments.stored_tables import folder_to_show, marked, put_tables
from experiments.table_rows import ROWS as LSTTM_ROWS
from experiments.task_figures import (
    MEAN,
    MethodScores,
    TaskScores,
    compare_methods,
    figure_rows,
)
from experiments.user_encoders import (
    DUPNFeatures,
    HeatmapFeatures,
    JoinedFeatures,
    Learning,
    SingleFeatures,
    SMENFeatures,
    UserBERTFeatures,
    UserEncoderFeatures,
    UserFeatures,
)
from graph_builders.option_checks import check_choices, check_seeds, check_whole_numbers
from graph_builders.splits import day_bounds
from graphrec.evaluation import auc, group_codes, grouped_auc
from graphrec.evaluation.evaluate import PERIODS_OF_DAY
from graphrec.evaluation.history import past_events
from graphrec.training.long_term import LongTermConfig
from graphrec.training.online import OnlineConfig

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "encoders_table.md"
WITHOUT = "ID features alone"
COUNTED = "counts and preference vectors"
BASE = "LSTTM without meta"  # of LSTTM's table: its chosen options are every row's
RATES = (2e-4, 1e-3)  # of the encoder's weights, among which validation chooses
BUDGET_HOURS = 15.0
HOUR, DAY = 3_600, 86_400
BUCKETS: Mapping[str, tuple[int, float]] = {"0": (0, 0), "1-5": (1, 5), "6 or more": (6, np.inf)}
KINDS: Mapping[str, SingleFeatures] = {
    "heatmap CNN": HeatmapFeatures(),
    "UserBERT": UserBERTFeatures(),
    "SMEN": SMENFeatures(),
    "DUPN": DUPNFeatures(),
}
WAYS: tuple[Learning, ...] = ("frozen", "fine-tuned", "end to end")


@dataclass(frozen=True, kw_only=True)
class EncoderRow:
    """A row of the table.

    Attributes:
        name: in the table.
        features: the encoder; None for the row without.
        counted: LSTTM reads what its own table's row reads: past counts, preference vectors, degrees.

    """

    name: str
    features: UserEncoderFeatures | None = None
    counted: bool = False

    @property
    def rates(self) -> tuple[float, ...]:
        """Rates of the encoder's weights that are tried; one where nothing of it learns."""
        learns = isinstance(self.features, JoinedFeatures) or (
            self.features is not None and self.features.learning != "frozen"
        )
        return RATES if learns else RATES[:1]


def _all_four(learning: Learning) -> JoinedFeatures:
    return JoinedFeatures(encoders=tuple(replace(one, learning=learning) for one in KINDS.values()))


ROWS: tuple[EncoderRow, ...] = (
    EncoderRow(name=WITHOUT),
    *(
        EncoderRow(name=f"{kind}, {way}", features=replace(features, learning=way))
        for kind, features in KINDS.items()
        for way in WAYS
    ),
    *(EncoderRow(name=f"all four, {way}", features=_all_four(way)) for way in WAYS),
    EncoderRow(name=COUNTED, counted=True),
    EncoderRow(name=f"{COUNTED}, all four, fine-tuned", features=_all_four("fine-tuned"), counted=True),
)


def id_features(config: LSTTMConfig) -> LSTTMConfig:
    """Return LSTTM on IDs, static fields, its two graphs and nothing that counts what nodes did before.

    Counts and preference vectors are made by hand from the very histories that encoders read.
    """
    short_term = replace(config.short_term, degree_features=False)
    return replace(config, past_counts=False, preference=None, short_term=short_term)


@dataclass(frozen=True, kw_only=True)
class EncodersConfig:
    """What ``python -m experiments encoders_table`` runs.

    Attributes:
        data: data set; the encoders' fields and attributes are KuaiRand-Pure's.
        rows: names of rows; none for all of them. The row without an encoder is always among them.
        days: test days, later than the validation day; none for those of the ablations of LSTTM's table.
        seeds: random seeds.
        jobs: processes, of one thread each.
        only_tables: run nothing, make the tables of what is finished.
        forecast: run nothing, print what is finished and what is left.
        path: folder of the data; none for the embedded copy.
        replace_stored: put these tables in the place of stored ones whatever those have.

    """

    data: Literal["kuairand"] = "kuairand"
    rows: tuple[str, ...] = ()
    days: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    jobs: int = 1
    only_tables: bool = False
    forecast: bool = False
    path: str | None = None
    replace_stored: bool = False

    def __post_init__(self) -> None:
        names = [row.name for row in ROWS]
        unknown = sorted(set(self.rows) - set(names))
        if unknown:
            raise ValueError(f"no rows {unknown}; there are {names}")
        check_choices(self)
        check_whole_numbers(self, jobs=1)
        validation = DATA_SETTINGS[self.data].validation_day
        for day in self.days:
            day_bounds(day)
            if day <= validation:
                raise ValueError(f"rates are chosen on {validation}: test days are later, got {day}")
        check_seeds(self, "seeds")
        if len({*self.days}) < len(self.days):
            raise ValueError(f"each test day once: got {list(self.days)}")


class EncodersTable:
    """One run: choice of rates, parts, tables.

    Args:
        config: what to run.
        results: folder of the stored result files.
        work: folder of parts and checkpoints; default ``runs/encoders_table/<data>``.
        rows: other rows than the chosen ones; for tests.
        page: that has the stored tables; None writes none.

    """

    def __init__(
        self,
        config: EncodersConfig,
        *,
        results: Path = RESULTS,
        work: Path | None = None,
        rows: Sequence[EncoderRow] | None = None,
        page: Path | None = PAGE,
    ) -> None:
        self.config, self.stored, self.page = config, results, page
        self.work = Path("runs") / NAME / config.data if work is None else work
        wanted = {WITHOUT, *(config.rows or (row.name for row in ROWS))}
        self.rows = [row for row in ROWS if row.name in wanted] if rows is None else list(rows)
        hours = DATA_SETTINGS[config.data].period_hours
        self.runner = PartRunner(DataSource(config.data, self.work, config.path, hours))
        for day in config.days:
            self.runner.inputs.check_window(day)

    def run(self) -> None:
        """Say what is left, do it, and write the tables."""
        self._print_left()
        if self.config.forecast:
            return
        if not self.config.only_tables:
            trials = {
                self._key(spec): row.name
                for row in self.rows
                if len(row.rates) > 1
                for spec in self._trials(row)
            }
            self._run([s for row in self.rows if len(row.rates) > 1 for s in self._trials(row)], trials)
            for row in self.rows:
                specs = self.specs(row)
                self._run(specs, {self._key(spec): row.name for spec in specs})
        self.write_tables()

    # ---- parts -----------------------------------------------------------------------------------

    def model_of(self, row: EncoderRow, rate: float) -> LSTTMConfig:
        """Return a row's configuration with a rate of the encoder's weights."""
        base = LSTTM_ROWS[BASE]
        found = chosen(RESULTS / SEARCH_FILE, base, self.config.data, self.runner.inputs.fingerprint).model
        assert isinstance(found, LSTTMConfig)
        if not row.counted:
            found = id_features(found)
        if row.features is None:
            return found
        optimizer = replace(found.optimizer, encoder_learning_rate=rate)
        return replace(found, user_encoder=row.features, optimizer=optimizer)

    def specs(self, row: EncoderRow) -> list[PartSpec]:
        """Return the parts of a row, with the rate that its finished trials say."""
        rate = self.rate_of(row)
        days = self.config.days or DATA_SETTINGS[self.config.data].ablation_days
        return [self._spec(row, rate, day, seed) for seed in self.config.seeds for day in days]

    def rate_of(self, row: EncoderRow) -> float:
        """Return the best rate on the validation day; the first where not all trials are finished."""
        if len(row.rates) == 1:
            return row.rates[0]
        found = [value for spec in self._trials(row) if (value := self._validation(spec)) is not None]
        return row.rates[int(np.argmax(found))] if len(found) == len(row.rates) else row.rates[0]

    def _trials(self, row: EncoderRow) -> list[PartSpec]:
        day = DATA_SETTINGS[self.config.data].validation_day
        return [self._spec(row, rate, day, 0) for rate in row.rates]

    def _spec(self, row: EncoderRow, rate: float, day: str, seed: int) -> PartSpec:
        return PartSpec(
            data=self.config.data,
            day=day,
            seed=seed,
            model=self.model_of(row, rate),
            updates={"none": OnlineConfig(form="none")},
            long_term=LongTermConfig(random_seed=seed),
            period_hours=DATA_SETTINGS[self.config.data].period_hours,
        )

    def _validation(self, spec: PartSpec) -> float | None:
        part = self.runner.store.find(spec)
        if part is None:
            return None
        found = part.predictions("none", run=NAME, model="trial", data=spec.data, seed=spec.seed)
        return float(auc(found.label, found.score))

    def _key(self, spec: PartSpec) -> str:
        return spec.key(self.runner.inputs.fingerprint)

    def _run(self, specs: Sequence[PartSpec], names: Mapping[str, str]) -> None:
        left = missing_parts(self.runner.store, specs)
        done = 0

        def say(spec: PartSpec, seconds: float) -> None:
            nonlocal done
            done += 1
            now = datetime.now(UTC).astimezone().strftime("%H:%M:%S")
            print(
                f"{now} {done} of {len(left)}: {names[self._key(spec)]}, {spec.day}, seed {spec.seed}: "
                f"{seconds:.0f} CPU s",
                flush=True,
            )

        run_parts(self.runner, left, jobs=self.config.jobs, on_part=say)

    def _print_left(self) -> None:
        """Say what is finished of each row, and what the rest may cost by the mean of finished parts."""
        costs, left_in_all = list[float](), 0
        print(f"{'row':32} {'parts':>6} {'done':>6} {'CPU s each':>11}")
        for row in self.rows:
            specs = [*(self._trials(row) if len(row.rates) > 1 else ()), *self.specs(row)]
            finished = [part.cpu_seconds for s in specs if (part := self.runner.store.find(s)) is not None]
            costs += finished
            left_in_all += len(specs) - len(finished)
            each = f"{np.mean(finished):.0f}" if finished else ""
            print(f"{row.name:32} {len(specs):6} {len(finished):6} {each:>11}")
        if costs:
            hours = left_in_all * float(np.mean(costs)) / 3600
            whole = hours + sum(costs) / 3600
            print(
                f"{hours:.1f} CPU hours left of some {whole:.1f}, by the mean; {BUDGET_HOURS:g} are planned."
            )
        else:
            print("No part is finished: one takes some two CPU minutes on KuaiRand-Pure.", flush=True)

    # ---- tables ----------------------------------------------------------------------------------

    def write_tables(self) -> None:
        """Write the tables of rows that are finished, and the page where they are stored ones."""
        found = {}
        for row in self.rows:
            specs = self.specs(row)
            parts = [part for spec in specs if (part := self.runner.store.find(spec)) is not None]
            if len(parts) == len(specs):
                found[row.name] = (row, specs, parts)
            else:
                print(f"left out: {row.name}, {len(parts)} of {len(specs)} parts are finished")
        own = self.work / "results"
        tables = marked(self.config.data, self._tables(found))
        folder = put_tables(
            NAME,
            tables,
            stored=self.stored,
            own=own,
            has_default_options=not self.config.days and set(self.config.seeds) >= {0, 1, 2},
            replace_stored=self.config.replace_stored,
        )
        shown = folder_to_show(folder, own)
        print(f"{NAME}: {len(found)} of {len(self.rows)} rows, in {shown}", flush=True)
        if shown == self.stored and self.page is not None:
            update_encoders_page(self.stored, self.page)

    def _tables(
        self, found: Mapping[str, tuple[EncoderRow, Sequence[PartSpec], Sequence[FinishedPart]]]
    ) -> dict[str, list[dict[str, Any]]]:
        pooled = {name: self._pooled(name, specs, parts) for name, (_, specs, parts) in found.items()}
        figures, families = list[dict[str, Any]](), dict[str, dict[str, MethodScores]]()
        shown = [next(iter(seeds.values())) for seeds in pooled.values()]
        past = self._past_events(shown[0]) if shown else np.zeros(0)  # all rows are of the same impressions
        for name, seeds in pooled.items():
            for family, scores in self._scores(name, seeds, past).items():
                families.setdefault(family, {})[name] = scores
                metric = GAUC if family == GROUPED else "auc"
                figures += [line for line in figure_rows(scores, family, [metric]) if line["figure"] != MEAN]
            figures += self._click_figures(name, seeds)
        tests = list[dict[str, Any]]()
        for family, methods in families.items():
            metric = GAUC if family == GROUPED else "auc"
            for base in (WITHOUT, COUNTED):
                others = [
                    one for name, one in methods.items() if name != base and _base_of(found[name][0]) == base
                ]
                if base in methods and others:
                    tests += compare_methods(methods[base], others, family, metric)
        rows = [self._described(*one) for one in found.values()]
        return {"": figures, ".tests": [t for t in tests if t["figure"] != MEAN], ".rows": rows}

    def _pooled(
        self, name: str, specs: Sequence[PartSpec], parts: Sequence[FinishedPart]
    ) -> dict[int, RunPredictions]:
        """Put the days of each seed together."""
        return {
            seed: pooled_days(
                [part for spec, part in zip(specs, parts, strict=True) if spec.seed == seed],
                "none",
                run=NAME,
                model=name,
                data=self.config.data,
                seed=seed,
            )
            for seed in dict.fromkeys(spec.seed for spec in specs)
        }

    def _scores(
        self, name: str, seeds: Mapping[int, RunPredictions], past: np.ndarray
    ) -> dict[str, MethodScores]:
        """Return scores of all clicks, of those of users by their past events, and AUCs within groups."""
        first = next(iter(seeds.values()))
        user = first.user.astype(np.int64)
        period = self._local_time(first) // self.runner.inputs.period
        clock = self._local_time(first) // self.runner.inputs.units_per_second % DAY // HOUR
        whole = np.ones(len(user), bool)
        buckets = {
            bucket: (past >= least) & (past <= most) for bucket, (least, most) in BUCKETS.items()
        }  # fmt: skip
        group = group_codes(user, period)
        inside = [auc_of_groups(first.label, one.score, group) for one in seeds.values()]
        has_both = ~np.isnan(inside[0])  # groups of one class have no AUC, whatever the scores
        of_day = {f"{least}-{most}": (clock >= least) & (clock < most) for least, most in PERIODS_OF_DAY}

        def task(rows: np.ndarray, label: np.ndarray | None, values: Sequence[np.ndarray]) -> TaskScores:
            return TaskScores(
                user_id=user[rows],
                time=first.time[rows],
                label=None if label is None else label[rows],
                values=tuple(one[rows].astype(np.float64) for one in values),
            )

        scores = [one.score for one in seeds.values()]
        tasks = {
            CLICKS: {"all": task(whole, first.label, scores)},
            GROUPED: {
                part: task(rows & has_both, None, inside) for part, rows in {"all": whole, **of_day}.items()
            },
            PAST_EVENTS: {bucket: task(rows, first.label, scores) for bucket, rows in buckets.items()},
        }
        return {
            family: MethodScores(
                name=name,
                seeds=tuple(seeds),
                tasks={one: found for one, found in of_family.items() if len(found.user_id)},
            )
            for family, of_family in tasks.items()
        }

    def _local_time(self, shown: RunPredictions) -> np.ndarray:
        """Return local time of each row, in the inputs' unit."""
        inputs = self.runner.inputs
        local: np.ndarray = shown.time.astype(np.int64) * inputs.units_per_second + inputs.utc_offset
        return local

    def _past_events(self, shown: RunPredictions) -> np.ndarray:
        """Return how many plays each row's user had before the row's period, of those that encoders read."""
        inputs, read = self.runner.inputs, UserFeatures()
        as_of = self._local_time(shown) // inputs.period * inputs.period - inputs.utc_offset
        graph = inputs.graph.view(domains=read.domains, behaviors=read.behaviors)
        user = torch.from_numpy(shown.user.astype(np.int64))
        count: np.ndarray = past_events(graph, "user", user, torch.from_numpy(as_of)).numpy()
        return count

    def _click_figures(self, name: str, seeds: Mapping[int, RunPredictions]) -> list[dict[str, Any]]:
        """Return the mean AUC of the hours, of all hours and of the parts of a day."""
        inputs = self.runner.inputs
        values: dict[str, list[float]] = {}
        for one in seeds.values():
            for found in figures_of_seed(
                [one],
                period_seconds=inputs.period // inputs.units_per_second,
                utc_offset_seconds=inputs.utc_offset // inputs.units_per_second,
                by=("period",),
            ):
                if found.metric == HOURLY:
                    values.setdefault(found.slice.removeprefix("period="), []).append(round(found.value, 5))
        first = next(iter(seeds.values()))
        return [
            {
                "family": CLICKS,
                "method": name,
                "figure": figure,
                "metric": HOURLY,
                "values": found,
                "seeds": list(seeds),
                "num_queries": len(first.label),
                "num_users": len(np.unique(first.user)),
            }
            for figure, found in values.items()
        ]

    def _described(
        self, row: EncoderRow, specs: Sequence[PartSpec], parts: Sequence[FinishedPart]
    ) -> dict[str, Any]:
        """Return what a row was and what it cost."""
        trials = {}
        if len(row.rates) > 1:
            figures = [self._validation(spec) for spec in self._trials(row)]
            trials = {
                f"{rate:g}": round(value, 5)
                for rate, value in zip(row.rates, figures, strict=True)
                if value is not None
            }
        seconds = [part.cpu_seconds + part.earlier_seconds for part in parts]
        peaks = [part.peak_mib for part in parts if part.peak_mib is not None]
        return {
            "method": row.name,
            "rate": None if row.features is None else self.rate_of(row),
            "validation": trials,
            "cpu_seconds": round(float(np.mean(seconds)), 1),
            "peak_mib": round(float(np.median(peaks))) if peaks else None,
            "num_parameters": parts[-1].num_parameters,
            "days": list(dict.fromkeys(spec.day for spec in specs)),
            "seeds": list(dict.fromkeys(spec.seed for spec in specs)),
            "fingerprint": self.runner.inputs.fingerprint,
            "configuration": specs[0].configuration(),
        }


def _base_of(row: EncoderRow) -> str:
    """Return the row without an encoder that a row is compared with."""
    return COUNTED if row.counted else WITHOUT


def auc_of_groups(label: np.ndarray, score: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return for each row the AUC of its group; NaN where that has one class.

    Their mean over the rows is GAUC weighted by impressions, and so can be resampled by user.

    Args:
        label: 0 or 1, (num_rows,).
        score: of each row.
        group: of each row; codes from 0 on, each of which occurs.

    """
    found: np.ndarray = grouped_auc(label, score, group).auc[group]
    return found


def main(arguments: list[str]) -> int:
    """Run the command and return its exit status."""
    import tyro

    from experiments.resumable import run_resumable

    torch.set_num_threads(1)
    return run_resumable(lambda: EncodersTable(tyro.cli(EncodersConfig, args=arguments)).run())
