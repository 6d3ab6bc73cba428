"""The protocol of LSTTM, section 5.4: train on all days before a test day, then score it hour by hour.

Hour t is scored by the model as the hours before it have updated it, on a graph that holds no event of t.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from experiments.config import DeepFMConfig, LSTTMConfig
from experiments.inputs import MainInputs
from graph_builders.behavior_graph import Relation, build_behavior_graph
from graph_builders.events import EventLog
from graph_builders.splits import day_bounds, periods
from graphrec.models import LSTTM, DeepFMRanker
from graphrec.models.trees import BoostedTrees, TreesConfig
from graphrec.training.batches import ClickData, click_batches, click_loader, rows_between
from graphrec.training.long_term import LongTermSnapshots
from graphrec.training.loop import TrainingPoint, predict, train
from graphrec.training.online import OnlineUpdater, UpdateForm
from graphrec.training.scaling import QuantileScaler
from samplers import EdgeType, TemporalCSR


@dataclass(frozen=True, eq=False)
class TestedDay:
    """One test day: what was known at its start, and what it brings hour by hour."""

    name: str
    start: int
    end: int
    data: ClickData
    """Impressions until the day's end, past counts scaled by the rows before the day."""
    raw_dense: Tensor
    static: Tensor
    events: EventLog
    """All events until the day's end."""
    inputs: MainInputs

    def train_rows(self) -> Tensor:
        """Impressions before the day."""
        return rows_between(self.data, 0, self.start)

    def hours(self, period: int) -> Iterator[tuple[int, int]]:
        """Bounds of the day's periods."""
        return periods(self.start, self.end, period)


def prepare_day(inputs: MainInputs, name: str) -> TestedDay:
    """Cut the inputs at the end of a test day and fit the scaler on what came before it."""
    start, end = day_bounds(name, utc_offset_hours=inputs.tables.utc_offset_hours, time_resolution="ms")
    data = inputs.data
    # impressions come in the order of time: what lies before the day's end is a slice, and nothing is copied
    keep = slice(0, int((data.impressions.time < end).sum()))
    time = data.impressions.time[keep]
    if len(time) and bool((time.diff() < 0).any()):
        raise ValueError("impressions must be in the order of time: sort them before the inputs are made")
    if not bool((time < start).any()) or not bool((time >= start).any()):
        raise ValueError(
            f"{name} needs impressions on the day and before it: choose a later or an earlier day"
        )
    raw = data.dense[keep]
    scaler = QuantileScaler.fit(raw, time, fit_until=start)
    events = inputs.tables.events.filter(pl.col("time") < end)
    return TestedDay(
        name=name,
        start=start,
        end=end,
        data=replace(
            data,
            impressions=data.impressions.select(torch.arange(keep.stop)),
            as_of=data.as_of[keep],
            context=data.context[keep],
            dense=scaler.transform(raw),
        ),
        raw_dense=raw,
        static=inputs.static[keep],
        events=events,
        inputs=inputs,
    )


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of a day's impressions by form of online update, and how the training went."""

    score: dict[str, np.ndarray]
    curve: list[TrainingPoint]
    num_parameters: int


def run_trees(day: TestedDay, config: TreesConfig, seed: int) -> Scores:
    """Boosted trees on raw past counts; during the day the counts are fresh and the trees stay."""
    features = torch.cat([day.raw_dense, day.static], dim=1)
    rows = day.train_rows()
    model = BoostedTrees(replace(config, random_seed=seed)).fit(
        features[rows], day.data.impressions.label[rows]
    )
    test = rows_between(day.data, day.start, day.end)
    return Scores({"none": model.predict(features[test])}, [], 0)


def make_model(
    config: LSTTMConfig | DeepFMConfig, data: ClickData, inputs: MainInputs, channels: int
) -> nn.Module:
    """Build an untrained model for the batches of ``data``."""
    sizes = replace(inputs.sizes, dense=data.dense.shape[1] if config.past_counts else 0)
    if isinstance(config, DeepFMConfig):
        return DeepFMRanker(
            sizes, channels=config.channels, hidden_channels=config.hidden_channels, dropout=config.dropout
        )
    num_types = len(config.short_term_behaviors) * len(config.short_term_domains)
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
        hidden_channels=config.hidden_channels,
        dropout=config.dropout,
    )


def run_neural(
    day: TestedDay,
    config: LSTTMConfig | DeepFMConfig,
    seed: int,
    *,
    forms: tuple[UpdateForm, ...],
    snapshots: LongTermSnapshots | None,
    period: int,
    device: torch.device,
    checkpoint: Path | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Scores:
    """Train on the days before, then score each hour and update with it, in each form of update."""
    graphs = ShortTermGraphs(day, config) if isinstance(config, LSTTMConfig) else None
    data = day.data if config.past_counts else replace(day.data, dense=day.data.dense[:, :0])
    if isinstance(config, LSTTMConfig):
        data = replace(data, short_term=config.short_term, snapshots=snapshots if config.long_term else None)
    data = data.with_graph(graphs.before_day() if graphs else None)
    rows = day.train_rows()
    torch.manual_seed(seed)
    channels = snapshots.vectors["user"].shape[-1] if snapshots is not None else 0
    model = make_model(config, data, day.inputs, channels).to(device)
    size = config.optimizer.batch_size
    loader = click_loader(data, rows, batch_size=size, shuffle=True, random_seed=seed)
    curve = train(
        model,
        lambda epoch, start: loader.batches(epoch, start_batch=start),
        num_batches=len(loader),
        config=config.optimizer,
        device=device,
        checkpoint=checkpoint,
        on_step=on_step,
    )
    models = {form: copy.deepcopy(model) for form in forms}
    updaters = {
        form: OnlineUpdater(models[form], replace(config.online, form=form), device=device) for form in forms
    }
    scores: dict[str, list[np.ndarray]] = {form: [] for form in forms}
    for start, end in day.hours(period):
        if graphs is not None:
            data = data.with_graph(graphs.before(start))
        hour = rows_between(data, start, end)
        batches = list(click_batches(data, hour, batch_size=4 * size))
        for form in forms:
            scores[form].append(predict(models[form], batches, device=device).numpy())
            updaters[form].update(batches)
    count = sum(p.numel() for p in model.parameters())
    return Scores({form: np.concatenate(parts) for form, parts in scores.items()}, curve, count)


class ShortTermGraphs:
    """Versions of the short-term graph: as of the day's start, and with the hours that have ended.

    A version holds no edge of the hour that is scored, so there the sampler's bound has nothing to hide.
    """

    def __init__(self, day: TestedDay, config: LSTTMConfig) -> None:
        self.events = day.events.filter(
            pl.col("domain").cast(pl.String).is_in(config.short_term_domains)
            & pl.col("behavior").cast(pl.String).is_in(config.short_term_behaviors)
        )
        self.relations = [
            Relation(domain, behavior)
            for domain in config.short_term_domains
            for behavior in config.short_term_behaviors
        ]
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
    times = events.frame.select("time", "available_time")[order]
    return replace(events, frame=events.frame.with_columns(times["time"], times["available_time"]))
