"""The four encoders as frozen representations of users on the same tasks of Complete Journey.

Each is pre-trained by its own paper's objective on training users before the test, then frozen; a small model
learns each task from its vectors: an MLP or a logistic regression, which validation chooses. Tasks, users,
times and events are those of UserBERT's tables, with category preference beside them. Everything is made of
parts, so a run goes on where it stopped.

The data is called simulated by the Python package that carries it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from scipy.sparse import csr_array
from torch import Tensor

from experiments.encoders_report import FROZEN_USERS as NAME
from experiments.encoders_report import update_encoders_page
from experiments.kept_parts import KeptPart, find_part, kept_part
from experiments.lurm_data import common_categories
from experiments.parts import changed_fields
from experiments.stored_tables import folder_to_show, marked, put_tables
from experiments.task_figures import MethodScores, TaskScores, compare_methods, figure_of, figure_rows
from experiments.user_encoder_models import (
    EncoderSource,
    KeptTensors,
    SupervisedTask,
    make_encoder,
    pretrain_encoder,
)
from experiments.user_encoders import (
    DUPNFeatures,
    HeatmapFeatures,
    SingleFeatures,
    SMENFeatures,
    UserBERTFeatures,
)
from experiments.userbert_data import (
    DataSettings,
    TaskFamily,
    UserBERTData,
    complete_journey_data,
    task_digest,
    thin_queries,
    thin_training,
    times_of,
)
from graph_builders.behavior_graph import Relation
from graph_builders.datasets.complete_journey import TIME_ZONE
from graph_builders.datasets.complete_journey_tasks import NO_GENRE, query_times
from graph_builders.datasets.downstream_tasks import DownstreamTask
from graph_builders.datasets.first_purchases import DAY
from graph_builders.datasets.preference_tasks import category_preference_tasks
from graph_builders.option_checks import check_seeds, check_whole_numbers
from graphrec.encoders.base import HistoryRequest
from graphrec.encoders.input_reader import InputReader
from graphrec.encoders.item_text import fit_word_vocabulary, item_words, known_items
from graphrec.encoders.precomputed import PrecomputedVectors, precompute
from graphrec.evaluation.genre_ranking import average_precision_at_k
from graphrec.evaluation.probes import ProbeConfig, probe, probe_by_epoch, probe_sets_by_epoch
from graphrec.models.dupn_heads import ClassHead, TaskRows
from graphrec.models.user_documents import UserTfidf, word_counts
from graphrec.training.loop import OptimizerConfig
from graphrec.training.pretraining import PretrainingConfig
from graphrec.training.task_labels import SetLabels, labels_of

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "encoders_table.md"
PREFERENCE = "category preference"
NUM_CATEGORIES, HORIZON_DAYS = 4, 60
K = 10  # of mAP@k
HEAD_CHANNELS = 32
BASELINE, TOGETHER = "TF-IDF", "all four, side by side"
PURCHASE, COUPONS = ("internal", "purchase"), ("external", "redemption")
DEPARTMENTS = ("GROCERY", "DRUG GM", "PRODUCE", "MEAT", "MEAT-PCKGD", "DELI", "PASTRY", "NUTRITION")
TASKS_AT_ONCE = OptimizerConfig(epochs=2, batch_size=256, embedding_learning_rate=1e-3)

ENCODERS: Mapping[str, SingleFeatures] = {
    "UserBERT": UserBERTFeatures(
        pretraining=PretrainingConfig(epochs=3, batch_size=32, learning_rate=1e-3, decay=True),
        attributes=("store_id", "sales_value"),
        fields=("department", "product_category", "product_type", "brand"),
        days=365,
        recent_days=7,
        max_words=128,
        channels=64,
    ),
    "SMEN": SMENFeatures(
        fields=("product_category", "product_type"),
        item_epochs=40,
        epochs=12,
        num_anchors=8,
        days=(7, 28),
    ),
    "DUPN": DUPNFeatures(
        pretraining=TASKS_AT_ONCE,
        attributes=("store_id", "sales_value"),
        fields=("department", "product_category", "product_type", "brand"),
        num_behaviors=100,
        channels=128,
    ),
    "heatmap CNN": HeatmapFeatures(
        pretraining=TASKS_AT_ONCE,
        days=182,
        narrower=4,
        sums=("sales_value",),
        field="department",
        values=DEPARTMENTS,
    ),
}
"""What each is; all have vectors of 128 channels but UserBERT, of 64."""


@dataclass(frozen=True, kw_only=True)
class FrozenRow:
    """A row of the table.

    Attributes:
        name: in the table.
        encoder: out of ``ENCODERS``; "all" for their vectors side by side; None for the baseline.
        is_trained: False: with its first weights.

    """

    name: str
    encoder: str | None
    is_trained: bool = True


ROWS = (
    FrozenRow(name=BASELINE, encoder=None),
    *(FrozenRow(name=name, encoder=name) for name in ENCODERS),
    FrozenRow(name=TOGETHER, encoder="all"),
    *(FrozenRow(name=f"{name}, not trained", encoder=name, is_trained=False) for name in ENCODERS),
)


@dataclass(frozen=True, kw_only=True)
class FrozenUsersConfig:
    """What ``python -m experiments frozen_users`` runs.

    Attributes:
        path: folder of Complete Journey; none for the installed package.
        rows: names of rows; none for all.
        seeds: random seeds of encoders and MLPs, each once.
        max_queries: of each pre-training, drawn from training users before the test.
        probe_epochs: of the MLP that reads vectors.
        probe_strengths: of the logistic regression that reads them in tasks of two classes: the inverse of
            its penalty. Validation chooses among both, for each row, seed and kind of tasks.
        tasks: how tasks are made.
        only_tables: run nothing, make the tables of what is finished.
        forecast: run nothing, say what is finished.
        replace_stored: put these tables in the place of stored ones whatever those have.

    """

    path: str | None = None
    rows: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    max_queries: int = 16_000
    probe_epochs: tuple[int, ...] = (3, 10, 30)
    probe_strengths: tuple[float, ...] = (1e-4, 1e-2, 1.0)
    tasks: DataSettings = DataSettings()
    only_tables: bool = False
    forecast: bool = False
    replace_stored: bool = False

    def __post_init__(self) -> None:
        names = [row.name for row in ROWS]
        unknown = sorted(set(self.rows) - set(names))
        if unknown:
            raise ValueError(f"no rows {unknown}; there are {names}")
        check_whole_numbers(self, max_queries=1)
        check_seeds(self, "seeds")
        epochs = list(self.probe_epochs)
        if not epochs or epochs != sorted({*epochs}) or epochs[0] < 1:
            raise ValueError(f"probe_epochs must be rising numbers above 0, got {epochs}")
        for strength in self.probe_strengths:
            ProbeConfig(kind="logistic", strength=strength)  # which refuses a wrong one


class FrozenUsers:
    """One run: pre-training, vectors, MLPs, tables.

    Args:
        config: what to run.
        results: folder of the stored result files.
        work: folder of parts.
        page: that has the stored tables; None writes none.
        data: loaded already; for tests.
        encoders: of the rows; for tests.

    """

    def __init__(
        self,
        config: FrozenUsersConfig,
        *,
        results: Path = RESULTS,
        work: Path = Path("runs") / NAME,
        page: Path | None = PAGE,
        data: UserBERTData | None = None,
        encoders: Mapping[str, SingleFeatures] = ENCODERS,
    ) -> None:
        self.config, self.stored, self.work, self.page = config, results, work, page
        self.data = complete_journey_data(config.path, config.tasks) if data is None else data
        self.encoders = encoders
        self.rows = [row for row in ROWS if not config.rows or row.name in config.rows]
        self._vectors: tuple[int, dict[tuple[str, bool], PrecomputedVectors]] = (-1, {})

    # ---- tasks -----------------------------------------------------------------------------------

    @cached_property
    def families(self) -> tuple[TaskFamily, ...]:
        """Those of UserBERT's tables, and category preference."""
        tables, split = self.data.tables, self.data.split
        assert tables.item_table is not None
        events = (
            tables.events.frame.filter(pl.col("behavior").cast(pl.String) == "purchase")
            .select("user_id", "item_id", "time")
        )  # fmt: skip
        category = tables.item_table.select("item_id", category=pl.col("product_category").cast(pl.String))
        category = category.filter(~pl.col("category").is_in(NO_GENRE))
        chosen = common_categories(
            events, category, split.test_start - HORIZON_DAYS * DAY, split.test_start, NUM_CATEGORIES
        )
        preferences = category_preference_tasks(
            events,
            category,
            chosen,
            split=split,
            times=query_times(split, 28),
            horizon=HORIZON_DAYS * DAY,
        )
        thin = tuple(thin_training(task, self.config.tasks.max_targeting) for task in preferences)
        return (*self.data.families, TaskFamily(name=PREFERENCE, tasks=thin, num_tuned=len(thin)))

    @cached_property
    def queries(self) -> pl.DataFrame:
        """``user_id`` and ``time`` of the queries of all tasks, each once, by time and user."""
        frames = [task.queries.select("user_id", "time") for one in self.families for task in one.tasks]
        return pl.concat(frames).unique().sort("time", "user_id")

    @cached_property
    def asked(self) -> tuple[Tensor, Tensor]:
        """User and time of ``queries``."""
        return self._user(self.queries), times_of(self.queries)

    @cached_property
    def digests(self) -> dict[str, list[str]]:
        """Of each family's tasks."""
        return {one.name: [task_digest(task) for task in one.tasks] for one in self.families}

    @cached_property
    def fingerprint(self) -> str:
        """Of the data's events."""
        return self.data.fingerprint

    # ---- running ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Do what the configuration says, printing a line for each finished part."""
        if self.config.forecast:
            self._print_left()
            return
        if not self.config.only_tables:
            for seed in self.config.seeds:
                for row in self.rows:
                    for family in self.families:
                        part = self._part(row, family, seed)
                        if part.is_new:
                            now = datetime.now(UTC).astimezone().strftime("%H:%M:%S")
                            seconds = part.facts["cpu_seconds"]
                            print(
                                f"{now} {row.name}, {family.name}, seed {seed}: {seconds:.0f} CPU s",
                                flush=True,
                            )
        self.write_tables()

    def _print_left(self) -> None:
        finished = [part.facts["cpu_seconds"] for _, _, _, part in self._finished()]
        num_parts = len(self.rows) * len(self.families) * len(self.config.seeds)
        left = num_parts - len(finished)
        words = f"{len(finished)} of {num_parts} parts are finished"
        if finished:
            words += f"; {left * float(np.mean(finished)) / 60:.0f} CPU minutes left by their mean"
        print(f"{words}.", flush=True)

    def _finished(self) -> Iterator[tuple[FrozenRow, TaskFamily, int, KeptPart]]:
        for row in self.rows:
            for family in self.families:
                for seed in self.config.seeds:
                    part = find_part(
                        self.work / "parts", self._name(row, family, seed), self._content(row, family, seed)
                    )
                    if part is not None:
                        yield row, family, seed, part

    def _name(self, row: FrozenRow, family: TaskFamily, seed: int) -> str:
        return f"{row.name} {family.name} {seed}"

    def _content(self, row: FrozenRow, family: TaskFamily, seed: int) -> dict[str, Any]:
        """Return everything that decides a part's scores, as JSON values."""
        used = self.encoders if row.encoder == "all" else {row.encoder: self.encoders.get(str(row.encoder))}
        content = {
            "protocol": 2,
            "data": self.fingerprint,
            "tasks": self.digests[family.name],
            "encoders": {
                str(name): None if one is None else changed_fields(one) for name, one in used.items()
            },
            "is_trained": row.is_trained,
            "max_queries": self.config.max_queries,
            "probe_epochs": list(self.config.probe_epochs),
            "probe_strengths": list(self.config.probe_strengths),
            "seed": seed,
        }
        return content

    def _part(self, row: FrozenRow, family: TaskFamily, seed: int) -> KeptPart:
        return kept_part(
            self.work / "parts",
            self._name(row, family, seed),
            self._content(row, family, seed),
            lambda: self._score(row, family, seed),
        )

    def _score(self, row: FrozenRow, family: TaskFamily, seed: int) -> tuple[dict[str, Any], pl.DataFrame]:
        """Choose the probe on validation users, and score the test's queries of each task."""
        means: dict[str, float] = {}
        tested: list[tuple[DownstreamTask, dict[str, np.ndarray]]] = []
        for task in family.tasks:
            features = self._features(row, task, seed)
            for part in ("validation", "test"):
                found = self._probe_part(task, features, part, seed)
                if part == "test":
                    tested.append((task, found))
                    continue
                label = _label(task.part("validation"), task)
                for name, value in found.items():
                    means[name] = means.get(name, 0.0) + figure_of("auc", label, value) / len(family.tasks)
        best = max(means, key=lambda name: np.nan_to_num(means[name]))
        frames = [
            task.part("test").select("user_id", "time").with_columns(
                task=pl.lit(task.name),
                label=pl.Series(_label(task.part("test"), task), dtype=pl.Float32)
                if task.kind == "binary"
                else pl.lit(None, pl.Float32),
                value=pl.Series(values[best], dtype=pl.Float64),
            )
            for task, values in tested
        ]  # fmt: skip
        return {
            "probe": best,
            "validation": {name: round(value, 5) for name, value in means.items()},
        }, pl.concat(frames)

    def _probe_part(
        self, task: DownstreamTask, features: Any, part: Literal["validation", "test"], seed: int
    ) -> dict[str, np.ndarray]:
        """Return by probe the part's probabilities of a 1, or its queries' AP@10."""
        config, epochs = ProbeConfig(random_seed=seed), self.config.probe_epochs
        names = [f"MLP, {number} epochs" for number in epochs]
        used = task.queries["part"].is_in(["train", part]).to_numpy()
        queries = task.queries.filter(pl.Series(used))
        row = torch.from_numpy(used.copy()).nonzero()[:, 0]
        own = features[row] if isinstance(features, Tensor) else features[row.numpy()]
        is_scored = torch.from_numpy((queries["part"] == part).to_numpy().copy())
        if task.kind != "binary":
            labels = labels_of(task)
            assert isinstance(labels, SetLabels)
            labels = labels.take(row)
            scored = labels.take(is_scored.nonzero()[:, 0])
            scores = probe_sets_by_epoch(own, labels, is_scored, epochs, config=config)
            values = [average_precision_at_k(one, scored.ptr, scored.code, k=K) for one in scores]
            return dict(zip(names, values, strict=True))
        label = torch.from_numpy(queries["label"].cast(pl.Int64).to_numpy().copy())
        by_epoch = probe_by_epoch(own, label, is_scored, epochs, config=config)
        found = dict(zip(names, by_epoch, strict=True))
        for strength in self.config.probe_strengths:
            regression = ProbeConfig(kind="logistic", strength=strength)
            found[f"regression, {strength:g}"] = probe(own, label, is_scored, config=regression)
        return {name: one.probability[:, 1].numpy() for name, one in found.items()}

    # ---- representations -------------------------------------------------------------------------

    def _features(self, row: FrozenRow, task: DownstreamTask, seed: int) -> Any:
        """Return the representation of each query of a task."""
        if row.encoder is None:
            return self._tfidf(task)
        names = list(self.encoders) if row.encoder == "all" else [row.encoder]
        node, time = self._user(task.queries), times_of(task.queries)
        found = [self._table(name, row.is_trained, seed).look_up(node, time) for name in names]
        return torch.cat(found, dim=1)

    def _table(self, name: str, is_trained: bool, seed: int) -> PrecomputedVectors:
        """Return an encoder's vectors of all tasks' queries; those of one seed are kept."""
        if self._vectors[0] != seed:
            self._vectors = seed, {}
        made = self._vectors[1]
        if (name, is_trained) not in made:
            made[name, is_trained] = self._encode(self.encoders[name], is_trained, seed)
        return made[name, is_trained]

    def _encode(self, config: SingleFeatures, is_trained: bool, seed: int) -> PrecomputedVectors:
        graph, until = self.data.graph, self.data.split.test_start
        relations = [PURCHASE] if isinstance(config, SMENFeatures) else [PURCHASE, COUPONS]
        source = EncoderSource(
            graph=graph,
            edge_types=tuple(Relation(*one).reverse_edge_type for one in relations),
            time_zone=TIME_ZONE,
            fit_until=until,
            random_seed=seed,
            device=torch.device("cpu"),
        )
        content = [self.fingerprint, until, seed, self.config.max_queries, changed_fields(config)]
        kept = KeptTensors(self.work / "encoders", content)
        encoder = make_encoder(source, config, kept)
        if is_trained:

            def pretrained() -> Mapping[str, Any]:
                tasks: Callable[[], Mapping[str, SupervisedTask]] = dict
                queries = self.data.pretraining_queries
                if isinstance(config, DUPNFeatures | HeatmapFeatures):
                    queries, tasks = self._usage(seed)
                else:
                    queries = thin_queries(queries, self.config.max_queries)
                pretrain_encoder(source, config, encoder, self._user(queries), times_of(queries), tasks)
                return encoder.state_dict()

            encoder.load_state_dict(kept.read_or_make("weights", pretrained))
        encoder.check_before(until)
        return precompute(encoder, source.reader(encoder), *self.asked, batch_size=256)

    def _usage(self, seed: int) -> tuple[pl.DataFrame, Callable[[], Mapping[str, SupervisedTask]]]:
        """Return queries of training users, and what their next 28 days answer: the usage tasks."""
        usage = self.data.usage
        every = pl.concat([task.part("train").select("user_id", "time") for task in usage]).unique()
        most = max(self.config.max_queries // len(usage), 1)
        queries = thin_queries(every.sort("time", "user_id"), most)
        number = queries.with_row_index("query")

        def tasks() -> Mapping[str, SupervisedTask]:
            found = {}
            for task in usage:
                own = task.part("train").join(number, on=["user_id", "time"], maintain_order="left")
                num_rows = own.height
                label = torch.from_numpy(own["label"].cast(pl.Float32).to_numpy().copy())
                time = times_of(own)
                found[task.name.replace(".", " ")] = SupervisedTask(
                    head=lambda channels: ClassHead(channels, 2, hidden_channels=HEAD_CHANNELS),
                    rows=TaskRows(
                        query=torch.from_numpy(own["query"].cast(pl.Int64).to_numpy().copy()),
                        label=label,
                        weight=torch.ones(num_rows),
                        entity=torch.zeros(num_rows, 0, dtype=torch.int64),
                        features=torch.zeros(num_rows, 0),
                    ),
                    known_time=time + task.horizon - 1,
                )
            return found

        return queries, tasks

    def _tfidf(self, task: DownstreamTask) -> csr_array:
        """Return weights of the words of what was bought before each query, fitted before the test."""
        found: csr_array = self._tfidf_of_all[self._place(task).numpy()]
        return found

    @cached_property
    def _tfidf_of_all(self) -> csr_array:
        graph, until = self.data.graph, self.data.split.test_start
        edge_types = (Relation(*PURCHASE).reverse_edge_type,)
        words = item_words(graph, fields=("product_category", "product_type"))
        known = known_items(graph, until, edge_types)
        vocabulary = fit_word_vocabulary(words, known, fit_until=until)
        reader = InputReader(graph, "user", {"life": HistoryRequest(edge_types=edge_types)})
        encoded = vocabulary.encode(words)

        def counts(node: Tensor, time: Tensor) -> csr_array:
            events = reader.read(node, time).histories["life"].events
            return word_counts(events, encoded, len(vocabulary))

        fitted = thin_queries(self.data.pretraining_queries, self.config.max_queries)
        tfidf = UserTfidf().fit(counts(self._user(fitted), times_of(fitted)), fit_until=until)
        return tfidf.transform(counts(*self.asked))

    def _place(self, task: DownstreamTask) -> Tensor:
        """Return where each query of a task stands in ``queries``."""
        place = self.queries.with_row_index("place")
        found = task.queries.join(place, on=["user_id", "time"], how="left", maintain_order="left")
        return torch.from_numpy(found["place"].cast(pl.Int64).to_numpy().copy())

    def _user(self, queries: pl.DataFrame) -> Tensor:
        return self.data.graph.ids["user"].rows(queries["user_id"])

    # ---- tables ----------------------------------------------------------------------------------

    def write_tables(self) -> None:
        """Write the tables of finished rows, and the page where they are the stored ones."""
        found: dict[tuple[str, str], dict[int, KeptPart]] = {}
        for row, family, seed, part in self._finished():
            found.setdefault((row.name, family.name), {})[seed] = part
        figures, tests, described = list[dict[str, Any]](), list[dict[str, Any]](), list[dict[str, Any]]()
        for family in self.families:
            methods = {}
            for row in self.rows:
                parts = found.get((row.name, family.name), {})
                if set(parts) == set(self.config.seeds):
                    methods[row.name] = _scores(row.name, family, parts)
                    described.append(_described(row, family, parts))
            metric = "auc" if family.is_binary else f"map@{K}"
            for scores in methods.values():
                figures += figure_rows(scores, family.name, [metric])
            for base in (BASELINE, TOGETHER):
                others = [one for name, one in methods.items() if name != base]
                if base in methods and others:
                    tests += compare_methods(methods[base], others, family.name, metric)
        title = {"title": self.data.title, "options": changed_fields(self.config.tasks)}
        rows = [
            {**one, **title, "encoder": self._configuration(one["method"])}
            for one in described
        ]  # fmt: skip
        tables = marked(self.data.name, {"": figures, ".tests": tests, ".rows": rows})
        own = self.work / "results"
        defaults = FrozenUsersConfig()
        same = replace(
            self.config, path=None, only_tables=False, replace_stored=False, rows=(), seeds=defaults.seeds
        )
        folder = put_tables(
            NAME,
            tables,
            stored=self.stored,
            own=own,
            has_default_options=same == defaults,
            replace_stored=self.config.replace_stored,
        )
        shown = folder_to_show(folder, own)
        print(f"{NAME}: {len({line['method'] for line in figures})} of {len(self.rows)} rows, in {shown}")
        if shown == self.stored and self.page is not None:
            update_encoders_page(self.stored, self.page)

    def _configuration(self, name: str) -> dict[str, Any] | None:
        row = next(row for row in ROWS if row.name == name)
        return None if row.encoder not in self.encoders else asdict(self.encoders[str(row.encoder)])


def _label(queries: pl.DataFrame, task: DownstreamTask) -> np.ndarray | None:
    return queries["label"].cast(pl.Float32).to_numpy() if task.kind == "binary" else None


def _scores(name: str, family: TaskFamily, parts: Mapping[int, KeptPart]) -> MethodScores:
    tasks = {}
    for task in family.tasks:
        frames = []
        for part in parts.values():
            assert part.frame is not None
            frames.append(part.frame.filter(pl.col("task") == task.name))
        first = frames[0]
        tasks[task.name] = TaskScores(
            user_id=first["user_id"].cast(pl.Int64).to_numpy(),
            time=first["time"].to_numpy(),
            label=first["label"].to_numpy() if family.is_binary else None,
            values=tuple(frame["value"].to_numpy() for frame in frames),
        )
    return MethodScores(name=name, seeds=tuple(parts), tasks=tasks)


def _described(row: FrozenRow, family: TaskFamily, parts: Mapping[int, KeptPart]) -> dict[str, Any]:
    facts = [part.facts for part in parts.values()]
    return {
        "method": row.name,
        "family": family.name,
        "seeds": list(parts),
        "probe": [one["probe"] for one in facts],
        "validation": [one["validation"] for one in facts],
        "cpu_seconds": [round(one["cpu_seconds"], 1) for one in facts],
        "versions": facts[0]["versions"],
    }


def main(arguments: list[str]) -> int:
    """Run the command and return its exit status."""
    import tyro

    from experiments.resumable import run_resumable

    torch.set_num_threads(1)
    return run_resumable(lambda: FrozenUsers(tyro.cli(FrozenUsersConfig, args=arguments)).run())
