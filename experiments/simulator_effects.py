"""What each part of LSTTM is worth where the truth is known: SIMULATED worlds with an effect on, and at zero.

Worlds of several random seeds; in each, models are trained on all days but the last, and score the last one
hour by hour as the protocol has it. A part's worth is the difference of two models in the mean of the hourly
AUCs, and its share of the gap from DeepFM (+external) to the oracle, which scores by the true probabilities.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from sklearn.metrics import roc_auc_score

from experiments.config import BaselineConfig, LSTTMConfig
from experiments.data_simulated import simulated_inputs
from experiments.main_inputs import MainInputs
from experiments.parts import PROTOCOL_VERSION, agrees, all_fields, changed_fields
from experiments.protocol import run_model
from experiments.results_table import ResultRow, read_rows, replace_run
from experiments.tested_day import TestedDay, prepare_day
from graph_builders.behavior_graph import build_behavior_graph
from graph_builders.datasets import SimulatedData, SimulatorConfig
from graph_builders.option_checks import check_seeds
from graphrec.training.batches import ShortTermConfig, rows_between
from graphrec.training.long_term import LongTermConfig, LongTermSnapshots, train_long_term
from graphrec.training.loop import OptimizerConfig
from graphrec.training.meta_tasks import MetaConfig
from graphrec.training.online import OnlineConfig

RUN = "simulator_effects"
DATA = "simulated"
DAY = 86_400  # seconds, the unit of simulated times; local time is UTC
RESULTS = Path(__file__).parent / "results"
ORACLE = "oracle (true probabilities)"
DEEPFM = "DeepFM (+external)"
PLAIN = "LSTTM without meta"
NO_LONG_TERM = "LSTTM without meta, without the long-term graph"
INTERNAL = "LSTTM without meta, long-term graph of internal clicks"
SHUFFLED = "LSTTM without meta, long-term graph with external events of random users"
FULL = "LSTTM"

# Stated strengths; what is not said here is the simulator's default.
WORLD = SimulatorConfig(
    num_days=12,
    num_users=7_000,
    num_items=600,
    num_external_items=400,
    num_impressions=180_000,
    num_external_events=210_000,
    num_topics=6,
    trends_per_day=5,
    trend_start_hours=(7.0, 19.0),
    trend_decay_hours=5.0,
    trend=4.0,
    external_interest=0.8,
    lasting_interest=1.3,
    short_interest=1.0,
    page_size=10,
    policy_interest=0.1,
    policy_mood=0.2,
    policy_exploration=0.4,
    initial_items=1.0,  # no item is born during the log: updates would teach new items, trends or not
    category_accuracy=1.0,
)
WARM_UP_DAYS = 3  # their impressions are in the graphs of the first training day, and not trained on
WORLDS: dict[str, SimulatorConfig] = {
    "default strengths": WORLD,
    "trend 0": replace(WORLD, trend=0.0),
    "external interest 0": replace(WORLD, external_interest=0.0),
}

LONG_TERM = LongTermConfig(
    num_walks=512,
    num_layers=1,
    num_neighbors=30,
    learning_rate=0.01,
    context_size=2,
    first_steps=250,
    steps=20,
)
# Temporal MAML goes on from plain training; a model without meta learns from the same tasks, without the
# inner step, so that both see the same rows as often.
FIRST = OptimizerConfig(epochs=6, learning_rate=4e-3, embedding_learning_rate=4e-3)
META = MetaConfig(
    order=1, learning_rate=0.1, embedding_learning_rate=0.7, support=1024, query=1024, num_tasks=1
)
LSTTM_META = LSTTMConfig(
    past_counts=False,
    short_term_domains=("internal",),
    short_term=ShortTermConfig(num_neighbors=5, num_layers=1, edge_features=True, degree_features=True),
    dropout=0.3,
    meta=META,
    plain_first=FIRST,
    optimizer=OptimizerConfig(epochs=1, learning_rate=1e-3, embedding_learning_rate=1e-3),
)
LSTTM_PLAIN = replace(LSTTM_META, meta=replace(META, inner_steps=0))


def _chained(learning_rate: float, embedding_learning_rate: float) -> OnlineConfig:
    return OnlineConfig(
        form="chained", learning_rate=learning_rate, embedding_learning_rate=embedding_learning_rate
    )


NONE = OnlineConfig(form="none")


@dataclass(frozen=True, kw_only=True)
class EffectModel:
    """One model: its configuration, the domains of its long-term graph, and how it is updated.

    Attributes:
        config: of the model and its training.
        domains: of the long-term graph; None for all.
        shuffled: whether the external events of the long-term graph are dealt to users at random.
        online: the updates during the day that are shown beside none at all.

    """

    config: BaselineConfig | LSTTMConfig
    domains: tuple[str, ...] | None = None
    shuffled: bool = False
    online: OnlineConfig = _chained(0.1, 0.7)


MODELS: dict[str, EffectModel] = {
    DEEPFM: EffectModel(
        config=BaselineConfig(sequences=("external",), dropout=0.3, optimizer=replace(FIRST, epochs=7)),
    ),
    NO_LONG_TERM: EffectModel(config=replace(LSTTM_PLAIN, long_term=False)),
    INTERNAL: EffectModel(config=LSTTM_PLAIN, domains=("internal",)),
    SHUFFLED: EffectModel(config=LSTTM_PLAIN, shuffled=True),
    PLAIN: EffectModel(config=LSTTM_PLAIN, online=_chained(0.3, 0.7)),
    FULL: EffectModel(config=LSTTM_META, online=_chained(0.3, 0.7)),
}
UPDATED = "{}, updated hourly"
# What a world is asked about; a world that is not here trains all models.
MODELS_OF_WORLD: dict[str, tuple[str, ...]] = {
    "default strengths": (DEEPFM, NO_LONG_TERM, INTERNAL, PLAIN, FULL),
    "trend 0": (DEEPFM, PLAIN, FULL),
    "external interest 0": (DEEPFM, NO_LONG_TERM, INTERNAL, SHUFFLED, PLAIN),
}

# A part and the two rows of the table whose difference it is.
EFFECTS: dict[str, tuple[str, str]] = {
    "long-term graph": (PLAIN, NO_LONG_TERM),
    "external behaviours in the long-term graph": (PLAIN, INTERNAL),
    "external behaviours in it, and not those of random users": (PLAIN, SHUFFLED),
    "temporal MAML with hourly updates": (UPDATED.format(FULL), PLAIN),
    "hourly updates without temporal MAML": (UPDATED.format(PLAIN), PLAIN),
    "temporal MAML, both updated hourly": (UPDATED.format(FULL), UPDATED.format(PLAIN)),
}
MAIN_EFFECT = "temporal MAML with hourly updates"


@dataclass(frozen=True, kw_only=True)
class EffectsConfig:
    """A run of the effects.

    Attributes:
        seeds: each is the seed of a world and of the models trained in it.
        worlds: names out of ``WORLDS``.
        models: names out of ``MODELS``; a world trains those of them that it is asked about.
        only_tables: train nothing; make the tables and the figure of the parts that are finished.

    """

    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    worlds: tuple[str, ...] = tuple(WORLDS)
    models: tuple[str, ...] = tuple(MODELS)
    only_tables: bool = False

    def __post_init__(self) -> None:
        check_seeds(self, "seeds")
        for name, wanted, there in (("worlds", self.worlds, WORLDS), ("models", self.models, MODELS)):
            unknown = sorted(set(wanted) - set(there))
            if unknown:
                raise ValueError(f"no {name} {unknown}; there are {[*there]}")


def run_effects(
    config: EffectsConfig,
    *,
    work: Path = Path("runs") / RUN,
    results: Path = RESULTS,
    worlds: Mapping[str, SimulatorConfig] = WORLDS,
    models: Mapping[str, EffectModel] = MODELS,
    long_term: LongTermConfig = LONG_TERM,
    warm_up_days: int = WARM_UP_DAYS,
    on_part: Callable[[str], None] = lambda _: None,
) -> list[ResultRow]:
    """Train what is missing, and write the figures of all finished parts of these configurations.

    A part is one model in one world of one seed; a finished one is kept under a name that its
    configuration is hashed into, so a killed run goes on, and a changed model alone is trained again.

    Returns:
        The rows of ``{results}/simulator_effects.jsonl``.

    """
    rows: list[ResultRow] = []
    for seed in config.seeds:
        for world in config.worlds:
            here = _World(replace(worlds[world], random_seed=seed), seed, long_term, work, warm_up_days)
            scores: dict[str, pl.DataFrame] = {}
            for name in config.models:
                if name not in MODELS_OF_WORLD.get(world, config.models):
                    continue
                if here.finished(models[name]) is None and not config.only_tables:
                    here.train(models[name])
                    on_part(f"{world}, seed {seed}: {name}")
                path = here.finished(models[name])
                if path is not None:
                    scores[name] = pl.read_parquet(path)
            rows += _rows(f"{DATA}, {world}", seed, scores)
    replace_run(results / f"{RUN}.jsonl", RUN, rows)
    return read_rows(results / f"{RUN}.jsonl")


class _World:
    """A simulated world, made when the first of its parts is missing, and its finished parts."""

    def __init__(
        self,
        config: SimulatorConfig,
        seed: int,
        long_term: LongTermConfig,
        work: Path,
        warm_up_days: int,
    ) -> None:
        self.config, self.seed, self.work, self.warm_up_days = config, seed, work, warm_up_days
        self.long_term = replace(long_term, random_seed=seed)
        self._day: TestedDay | None = None
        self._snapshots: dict[tuple[tuple[str, ...] | None, bool], LongTermSnapshots] = {}

    def finished(self, model: EffectModel) -> Path | None:
        """Return where the scores of a part lie, or None where it is to be trained."""
        path = self._path(model)
        facts = path.with_suffix(".json")
        if not facts.exists() or not agrees(json.loads(facts.read_text()), all_fields(self._content(model))):
            return None
        return path

    def _content(self, model: EffectModel) -> list[Any]:
        """Return all that a part is computed from."""
        reads_long_term = isinstance(model.config, LSTTMConfig) and model.config.long_term
        return [self.config, self.warm_up_days, model, self.long_term if reads_long_term else None]

    def _path(self, model: EffectModel) -> Path:
        # options that are added later, and left at their defaults, change no name
        changed = [PROTOCOL_VERSION, changed_fields(self._content(model))]
        key = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:16]
        return self.work / "parts" / f"{key}.parquet"

    def train(self, model: EffectModel) -> None:
        """Train a model on the days before the last one, take it through that day and keep its scores."""
        day = self.day()
        reads_long_term = isinstance(model.config, LSTTMConfig) and model.config.long_term
        scores = run_model(
            day,
            model.config,
            self.seed,
            updates={"none": NONE, "updated": model.online},
            snapshots=self.snapshots(model.domains, model.shuffled) if reads_long_term else None,
            device=torch.device("cpu"),
        )
        rows = rows_between(day.data, day.start, day.end)
        frame = pl.DataFrame(
            {
                "hour": ((day.data.as_of[rows] - day.start) // day.inputs.period).numpy(),
                "label": day.data.impressions.label[rows].numpy(),
                "probability": self.click_probability()[rows.numpy()],
                **scores.score,
            }
        )
        path = self._path(model)
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
        # the file that marks the part as finished comes last
        path.with_suffix(".tmp").write_text(json.dumps(all_fields(self._content(model))))
        path.with_suffix(".tmp").replace(path.with_suffix(".json"))

    def day(self) -> TestedDay:
        """Return the last day."""
        if self._day is None:
            last = date.fromisoformat(self.config.start) + timedelta(days=self.config.num_days - 1)
            inputs = simulated_inputs(self.config)
            self._day = prepare_day(_from_day(inputs, self.warm_up_days), last.isoformat())
        return self._day

    def click_probability(self) -> np.ndarray:
        """Return the truth about each impression of ``day().data``."""
        simulated = self.day().inputs.tables
        assert isinstance(simulated, SimulatedData)
        return simulated.click_probability[-len(self.day().data.impressions) :]  # the first ones are left out

    def snapshots(self, domains: tuple[str, ...] | None, shuffled: bool = False) -> LongTermSnapshots:
        """Return the long-term vectors of each day from the behaviours of some domains, or all."""
        if (domains, shuffled) not in self._snapshots:
            inputs = self.day().inputs
            if shuffled:
                inputs = _external_events_shuffled(inputs, self.seed)
            graph = inputs.long_term_graph(domains)
            self._snapshots[domains, shuffled], _ = train_long_term(
                graph.csrs(),
                graph.num_nodes,
                inputs.snapshot_times(self.day().start),
                self.long_term,
                device=torch.device("cpu"),
            )
        return self._snapshots[domains, shuffled]


def _external_events_shuffled(inputs: MainInputs, seed: int) -> MainInputs:
    """Deal the users of the external events out anew: users and items keep their numbers of events."""
    tables = inputs.tables
    frame = tables.events.frame
    user = frame["user_id"].to_numpy(writable=True)
    external = (frame["domain"].cast(pl.String) == "external").to_numpy()
    user[external] = np.random.default_rng(seed).permutation(user[external])
    events = replace(tables.events, frame=frame.with_columns(pl.Series("user_id", user)))
    graph = build_behavior_graph(events, user_table=tables.user_table, item_table=tables.item_table)
    return replace(inputs, graph=graph)


def _from_day(inputs: MainInputs, day: int) -> MainInputs:
    """Leave the impressions of the first days out; all events stay in the graphs."""
    data = inputs.data
    time = data.impressions.time
    # impressions come in the order of time
    first = int(torch.searchsorted(time, int(time[0]) // DAY * DAY + day * DAY))
    return replace(
        inputs,
        data=replace(
            data,
            impressions=data.impressions.select(torch.arange(first, len(time))),
            as_of=data.as_of[first:],
            context=data.context[first:],
            dense=data.dense[first:],
        ),
        static=inputs.static[first:],
    )


def hourly_auc(hour: np.ndarray, label: np.ndarray, score: np.ndarray) -> dict[int, float]:
    """Return the AUC of each hour that has clicks and skips."""
    found = {}
    for one in np.unique(hour):
        rows = hour == one
        if 0 < label[rows].mean() < 1:
            found[int(one)] = float(roc_auc_score(label[rows], score[rows]))
    return found


def _rows(data: str, seed: int, scores: Mapping[str, pl.DataFrame]) -> list[ResultRow]:
    """Turn the scores of a world into figures of the models, the oracle and the effects."""
    if not scores:
        return []
    columns: dict[str, np.ndarray] = {}
    first = next(iter(scores.values()))
    hour, label = first["hour"].to_numpy(), first["label"].to_numpy()
    for name, frame in scores.items():
        columns[name] = frame["none"].to_numpy()
        columns[UPDATED.format(name)] = frame["updated"].to_numpy()
    columns[ORACLE] = first["probability"].to_numpy()
    by_hour = {name: hourly_auc(hour, label, score) for name, score in columns.items()}
    mean = {name: float(np.mean([*found.values()])) for name, found in by_hour.items()}
    rows = []
    for name, score in columns.items():
        for part, metric, value in (
            ("all", "auc", float(roc_auc_score(label, score))),
            ("mean of hours", "auc", mean[name]),
        ):
            rows.append(ResultRow(RUN, name, data, seed, part, metric, value, len(label)))
    for effect, (better, reference) in EFFECTS.items():
        if better not in mean or reference not in mean:
            continue
        gain = mean[better] - mean[reference]
        values = [("all", "auc gain", gain)]
        if DEEPFM in mean:
            values.append(("all", "share of the gap", gain / (mean[ORACLE] - mean[DEEPFM])))
        values += [
            (f"hour={one:02d}", "auc gain", by_hour[better][one] - by_hour[reference][one])
            for one in by_hour[better]
        ]
        rows += [
            ResultRow(RUN, effect, data, seed, part, name, value, len(label)) for part, name, value in values
        ]
    return rows
