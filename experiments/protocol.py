"""The protocol of LSTTM, section 5.4: train on all days before a test day, then score it hour by hour.

Hour t is scored by the model as the hours before it have updated it, on a graph that holds no event of t.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from experiments.config import (
    BaselineConfig,
    ItemRateConfig,
    LogisticConfig,
    LSTTMConfig,
    ModelConfig,
    NeuralConfig,
    SMLModelConfig,
    TGATConfig,
)
from experiments.inputs import MainInputs
from experiments.simple_models import ItemRateOnDay, LogisticOnDay, OnDay, TreesOnDay
from experiments.sml_on_day import SMLOnDay
from experiments.tested_day import Scores, TestedDay, replay_day, row_numbers
from experiments.tested_day import prepare_day as prepare_day
from experiments.update_forms import Timings, UpdatedModels
from experiments.user_encoder_training import encoded_users, stored_users, trained_encoder
from graph_builders.behavior_graph import build_behavior_graph
from graph_builders.events import EventLog
from graphrec.encoders.base import NodeEncoder
from graphrec.encoders.fit_until import move_trained_encoders
from graphrec.encoders.vector_table import VectorTable
from graphrec.evaluation.replay_stream import PERIOD_START, Past
from graphrec.models import LSTTM, AutoIntRanker, DeepFMRanker, DINRanker, FMRanker, NFMRanker
from graphrec.models.inputs import ClickBatch
from graphrec.models.sasrec import SASRecRanker
from graphrec.models.tgat import TGATRanker
from graphrec.models.trees import TreesConfig
from graphrec.training.batches import ClickData, ItemSequences, click_batches, click_loader
from graphrec.training.long_term import LongTermSnapshots
from graphrec.training.loop import OptimizerConfig, TrainingPoint, train
from graphrec.training.meta import train_meta
from graphrec.training.meta_tasks import MetaTasks
from graphrec.training.online import OnlineConfig, UpdateForm
from samplers import EdgeType, NodeType, TemporalCSR


def run_simple(day: TestedDay, model: OnDay, period: int) -> Scores:
    """Fit a model without a neural network on the days before, then score the day."""
    return Scores(replay_day(day, model, period), [], 0, model.timings)


def run_trees(day: TestedDay, config: TreesConfig, seed: int) -> Scores:
    """Fit boosted trees on the days before, then score the day."""
    # the counts are as of the hour in any case, and trees without an update may score the day as one period
    return run_simple(day, TreesOnDay(day, config, seed), day.end - day.start)


BASELINE_MODELS: dict[str, Callable[..., nn.Module]] = {
    "FM": FMRanker,
    "NFM": NFMRanker,
    "AutoInt": AutoIntRanker,
    "DeepFM": DeepFMRanker,
    "DIN": DINRanker,
    "SASRec": SASRecRanker,
}


def item_sequences(inputs: MainInputs, config: BaselineConfig) -> dict[str, ItemSequences]:
    """Past events that a baseline reads. The graph holds later ones too; queries as of a period hide them."""
    csrs = inputs.graph.csrs()
    unknown = sorted(set(config.sequences) - set(inputs.sequences))
    if unknown:
        raise ValueError(f"{inputs.tables.name} has the sequences {[*inputs.sequences]}, asked for {unknown}")
    return {
        name: ItemSequences(
            csrs={
                relation.reverse_edge_type: csrs[relation.reverse_edge_type]
                for relation in inputs.sequences[name]
                if relation.reverse_edge_type in csrs
            },
            length=config.sequence_length,
        )
        for name in config.sequences
    }


def make_model(
    config: NeuralConfig,
    data: ClickData,
    inputs: MainInputs,
    channels: int,
    encoders: Mapping[NodeType, NodeEncoder[Any]] | None = None,
) -> nn.Module:
    """Build an untrained model for the batches of ``data``; LSTTM alone has encoders."""
    preference_channels = 0 if data.preferences is None else data.preferences.vectors["user"].shape[-1]
    sizes = replace(inputs.sizes, dense=data.dense.shape[1] if config.past_counts else 0)
    if isinstance(config, BaselineConfig):
        options: dict[str, Any] = {"channels": config.channels, "dropout": config.dropout}
        if config.model != "FM":
            options["hidden_channels"] = config.hidden_channels
        if config.model in ("DIN", "DeepFM", "SASRec"):
            options["sequences"] = config.sequences
        if config.model == "SASRec":
            options["length"] = config.sequence_length
        if config.model == "DeepFM":
            options["preference_channels"] = preference_channels
        return BASELINE_MODELS[config.model](sizes, **options)
    num_types = len(inputs.short_term_relations(config.short_term_domains, config.short_term_behaviors))
    if isinstance(config, TGATConfig):
        return TGATRanker(
            sizes,
            edge_channels=config.short_term.edge_channels(num_types),
            channels=config.channels,
            time_channels=config.time_channels,
            num_layers=config.short_term.num_layers,
            num_heads=config.num_heads,
            hidden_channels=config.hidden_channels,
            dropout=config.dropout,
        )
    tables = dict[NodeType, VectorTable]()
    if config.user_encoder is not None and encoders:
        table = stored_users(inputs, encoders["user"], config.user_encoder)
        tables = {} if table is None else {"user": table}
    return LSTTM(
        sizes,
        long_channels=channels if config.long_term else 0,
        channels=config.channels,
        num_layers=config.short_term.num_layers,
        edge_channels=config.short_term.edge_channels(num_types),
        node_channels=config.short_term.degree_channels(num_types),
        self_term=config.self_term,
        field_pooling=config.field_pooling,
        fusion=config.fusion,
        item_vectors=config.item_vectors,
        raw_fields=config.raw_fields,
        preference_channels=preference_channels,
        encoders=encoders,
        encoded_nodes="all" if config.user_encoder is None else config.user_encoder.nodes,
        vector_tables=tables,
        hidden_channels=config.hidden_channels,
        dropout=config.dropout,
    )


class NeuralOnDay:
    """A neural model on a test day: each form of online update is a model of its own after the fit.

    All forms score the same batches, which are sampled once from the graph as of the period's start.
    """

    def __init__(
        self,
        day: TestedDay,
        config: NeuralConfig,
        seed: int,
        *,
        updates: Mapping[str, OnlineConfig],
        snapshots: LongTermSnapshots | None,
        preferences: LongTermSnapshots | None = None,
        device: torch.device,
        checkpoint: Path | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> None:
        reads_preference = not isinstance(config, TGATConfig) and config.preference is not None
        if reads_preference and preferences is None:
            raise ValueError(
                "the model reads preference vectors and was given none: pass those of `preferences_of`"
            )
        self.config, self.seed, self.updates, self.device = config, seed, updates, device
        self.checkpoint, self.on_step = checkpoint, on_step
        self.inputs = day.inputs
        self.graphs = None if isinstance(config, BaselineConfig) else ShortTermGraphs(day, config)
        data = day.data if config.past_counts else replace(day.data, dense=day.data.dense[:, :0])
        if isinstance(config, LSTTMConfig):
            data = replace(
                data, short_term=config.short_term, snapshots=snapshots if config.long_term else None
            )
        elif isinstance(config, TGATConfig):
            data = replace(data, short_term=config.short_term)
        elif config.sequences:
            data = replace(data, sequences=item_sequences(day.inputs, config))
        if reads_preference:
            data = replace(data, preferences=preferences)
        self.timings = Timings()
        encoders: dict[NodeType, NodeEncoder[Any]] = {}
        if isinstance(config, LSTTMConfig) and config.user_encoder is not None:
            trained = trained_encoder(
                day.inputs,
                config.user_encoder,
                until=day.start,
                scored_until=day.end,
                random_seed=seed,
                device=device,
                folder=None if checkpoint is None else checkpoint.parent.parent / "user_encoders",
            )
            self.timings.earlier = trained.earlier_seconds
            encoders["user"] = trained.encoder
            read = encoded_users(day.inputs, trained.encoder, config.user_encoder)
            data = replace(data, encoders={"user": read})
        self.data = data
        channels = snapshots.vectors["user"].shape[-1] if snapshots is not None else 0
        torch.manual_seed(seed)
        self.model = make_model(config, data, day.inputs, channels, encoders).to(device)
        self.curve: list[TrainingPoint] = []
        self.updated: UpdatedModels | None = None
        self.batches: list[ClickBatch] = []

    def fit(self, past: Past) -> None:
        """Train on the impressions before the day, and give each form of update its copy."""
        began = time.perf_counter()
        data = self.data.with_graph(self.graphs.before_day() if self.graphs else None)
        rows = row_numbers(past.rows)
        if self.config.meta is None:
            self.curve = self.train_plain(data, rows, self.config.optimizer, self.checkpoint)
        else:
            first = self.config.plain_first
            kept = None if self.checkpoint is None else self.checkpoint.with_suffix(".first.pt")
            if first is not None:
                self.train_plain(data, rows, first, kept)
            tasks = MetaTasks(
                data,
                rows,
                self.config.meta,
                utc_offset=self.inputs.utc_offset,
                period=self.inputs.period,
                random_seed=self.seed,
            )
            self.curve = train_meta(
                self.model,
                tasks.batches,
                num_batches=len(tasks),
                meta=self.config.meta,
                config=self.config.optimizer,
                device=self.device,
                checkpoint=self.checkpoint,
                on_step=self.on_step,
            )
            if kept is not None:
                kept.unlink(missing_ok=True)
        if len(rows):  # encoders inside have learned from these labels
            move_trained_encoders(self.model, int(data.impressions.time[rows].max()) + 1)
        self.updated = UpdatedModels(self.model, self.updates, device=self.device)
        self.timings.training += time.perf_counter() - began

    def train_plain(
        self, data: ClickData, rows: Tensor, config: OptimizerConfig, checkpoint: Path | None
    ) -> list[TrainingPoint]:
        """Train on plain batches; a finished checkpoint is read and nothing is trained."""
        loader = click_loader(data, rows, batch_size=config.batch_size, shuffle=True, random_seed=self.seed)
        return train(
            self.model,
            lambda epoch, start: loader.batches(epoch, start_batch=start),
            num_batches=len(loader),
            config=config,
            device=self.device,
            checkpoint=checkpoint,
            on_step=self.on_step,
        )

    def predict(self, rows: pl.DataFrame) -> dict[str, np.ndarray]:
        """Score a period's impressions in each form, on the graph before the period."""
        start = int(rows[PERIOD_START][0])
        # as of their own times queries know the period's former events: the samplers' bound hides the rest
        until = start if self.inputs.as_of == "period" else start + self.inputs.period
        graph = self.graphs.before(until) if self.graphs else None
        size = 4 * self.config.optimizer.batch_size
        data = self.data.with_graph(graph)
        assert self.updated is not None, "fitted before it predicts"
        with self.timings.measure("scoring"):
            self.batches = list(click_batches(data, row_numbers(rows), batch_size=size))
        return self.updated.predict(self.batches, self.timings)

    def update(self, past: Past) -> None:
        """Update each form with the batches that have just been scored."""
        assert self.updated is not None, "fitted before it is updated"
        with self.timings.measure("updating"):
            self.updated.update(self.batches)
        self.batches = []


def update_forms(config: NeuralConfig, forms: tuple[UpdateForm, ...]) -> dict[str, OnlineConfig]:
    """Return the configured update in each of the forms, by the form's name."""
    return {form: replace(config.online, form=form) for form in forms}


def run_neural(
    day: TestedDay,
    config: NeuralConfig,
    seed: int,
    *,
    updates: Mapping[str, OnlineConfig],
    snapshots: LongTermSnapshots | None,
    preferences: LongTermSnapshots | None,
    period: int,
    device: torch.device,
    checkpoint: Path | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Scores:
    """Train on the days before, then score each hour and update with it, in each form of update."""
    model = NeuralOnDay(
        day,
        config,
        seed,
        updates=updates,
        snapshots=snapshots,
        preferences=preferences,
        device=device,
        checkpoint=checkpoint,
        on_step=on_step,
    )
    score = replay_day(day, model, period)
    num_parameters = sum(p.numel() for p in model.model.parameters())
    return Scores(score, model.curve, num_parameters, model.timings)


def run_model(
    day: TestedDay,
    config: ModelConfig,
    seed: int,
    *,
    updates: Mapping[str, OnlineConfig],
    snapshots: LongTermSnapshots | None,
    preferences: LongTermSnapshots | None = None,
    device: torch.device,
    checkpoint: Path | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Scores:
    """Take any model through a test day; one without a network has the score "none" alone.

    SML has forms of its own, "none" and "updated"; ``updates`` is for the other networks.
    """
    if isinstance(config, TreesConfig):
        return run_trees(day, config, seed)
    if isinstance(config, LogisticConfig):
        return run_simple(day, LogisticOnDay(day, config), day.end - day.start)
    if isinstance(config, ItemRateConfig | SMLModelConfig) and day.inputs.as_of != "period":
        raise ValueError("item CTR and SML go by whole periods: leave them out as of queries' own times")
    if isinstance(config, ItemRateConfig):
        return run_simple(day, ItemRateOnDay(day, config), day.inputs.period)
    if isinstance(config, SMLModelConfig):
        sml = SMLOnDay(day, config, seed, device=device, checkpoint=checkpoint, on_step=on_step)
        score = replay_day(day, sml, day.inputs.period)
        return Scores(score, [], sml.num_parameters(), sml.timings)
    return run_neural(
        day,
        config,
        seed,
        updates=updates,
        snapshots=snapshots,
        preferences=preferences,
        period=day.inputs.period,
        device=device,
        checkpoint=checkpoint,
        on_step=on_step,
    )


class ShortTermGraphs:
    """Versions of the short-term graph: as of the day's start, and with the hours that have ended.

    Where queries are as of the period's start, a version holds no edge of the hour that is scored, so there
    the sampler's bound has nothing to hide.
    """

    def __init__(self, day: TestedDay, config: LSTTMConfig | TGATConfig) -> None:
        self.relations = day.inputs.short_term_relations(
            config.short_term_domains, config.short_term_behaviors
        )
        columns = [pl.col(name).cast(pl.String) for name in ("domain", "behavior")]
        self.events = day.events.filter(
            pl.concat_str(columns, separator="\n").is_in(["\n".join(part) for part in self.relations])
        )
        tables = day.inputs.tables
        self.until = day.start
        before = self.events.filter(pl.col("time") < day.start)
        self.graph = build_behavior_graph(
            shuffle_times(before) if config.shuffle_times else before,
            user_table=tables.user_table,
            item_table=tables.item_table,
        )

    def before_day(self) -> dict[EdgeType, TemporalCSR]:
        """Return the graph as of the day's start."""
        return self._csrs()

    def before(self, time: int) -> dict[EdgeType, TemporalCSR]:
        """Return the graph with all events before ``time``; times must not go back."""
        if time > self.until:
            new = self.events.filter((pl.col("time") >= self.until) & (pl.col("time") < time))
            if len(new):
                self.graph = self.graph.append(new)
            self.until = time
        return self._csrs()

    def _csrs(self) -> dict[EdgeType, TemporalCSR]:
        """Every edge type of the configuration, in its order: one without an edge so far is empty."""
        there = self.graph.csrs()
        return {
            edge_type: there[edge_type] if edge_type in there else self._empty(edge_type)
            for relation in self.relations
            for edge_type in (relation.edge_type, relation.reverse_edge_type)
        }

    def _empty(self, edge_type: EdgeType) -> TemporalCSR:
        num_nodes = self.graph.num_nodes
        return TemporalCSR.from_edge_index(
            torch.zeros(2, 0, dtype=torch.int64),
            torch.zeros(0, dtype=torch.int64),
            num_rows=num_nodes[edge_type[2]],
            num_cols=num_nodes[edge_type[0]],
            row="destination",
        )


def shuffle_times(events: EventLog, random_seed: int = 0) -> EventLog:
    """Give every event the time of another one: the negative control, in which a graph's times say nothing.

    A row's own click may then lie "before" it, so a model that learns from such a graph trusts it too much.
    """
    order = np.random.default_rng(random_seed).permutation(len(events))
    names = [name for name in ("time", "available_time") if name in events.frame.columns]
    return replace(events, frame=events.frame.with_columns(events.frame.select(names)[order]))
