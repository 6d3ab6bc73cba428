"""The daily job: train on everything before a day and write the folder that an OnlineRanker opens.

The folder holds weights, the long-term table, the short-term graph, field codes and past counts as of the
day's start. The job compares the counts with those that the model was trained on, and the scores of the
folder with those of the model, before it says that it is done. It serves KuaiRand-Pure.
"""

import shutil
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from experiments.config import LSTTMConfig, lsttm_with_preference
from experiments.data_kuairand import DURATION_EDGES, EARLY
from experiments.inputs import MainInputs, load_inputs
from experiments.preferences import find_exposures
from experiments.protocol import NeuralOnDay, ShortTermGraphs
from experiments.tested_day import TestedDay
from graph_builders.splits import day_bounds
from graphrec.evaluation.replay_stream import Past
from graphrec.models import LSTTM
from graphrec.serving.counts import CountedFeatures
from graphrec.serving.day_folder import (
    DayConfig,
    DayFolder,
    make_counts,
    open_day_folder,
    write_day_folder,
)
from graphrec.serving.event_frame import check_events, counted_events
from graphrec.serving.scaling import FittedScaler
from graphrec.serving.sections import Sections
from graphrec.serving.snapshot import Snapshot
from graphrec.training.batches import collate
from graphrec.training.long_term import LongTermConfig, LongTermSnapshots, train_long_term
from graphrec.training.preference import train_preference
from graphrec.training.scaling import QuantileScaler

_CHECKED_ROWS = 2000  # impressions whose counts are compared before the folder is written
_TABS = 15  # tabs are numbered from 0


@dataclass(frozen=True, kw_only=True)
class DailyJobConfig:
    """One run of the daily job.

    Attributes:
        day: local day to serve; nothing at or after its start is read.
        output: folder that holds the days' folders.
        epochs: passes over the training data, instead of the model's own number.
        seed: random seed.
        model: LSTTM's configuration, default that of its table; ``online`` says how it is updated during the
            day. The random seed of ``preference`` is that of the run.
        long_term: the long-term module's; its random seed is that of the run.
        data: folder of KuaiRand-Pure, default the embedded copy.

    """

    day: str
    output: Path = Path("runs/daily")
    epochs: int | None = None
    seed: int = 0
    model: LSTTMConfig = field(default_factory=lsttm_with_preference)
    long_term: LongTermConfig = field(default_factory=LongTermConfig)
    data: str | None = None


def run_daily_job(config: DailyJobConfig, *, inputs: MainInputs | None = None) -> Path:
    """Train, write the day's folder and return its path.

    Args:
        config: what to train.
        inputs: the data, where it has been loaded already.

    Raises:
        ValueError: no impressions before the day, or a data set or model that cannot be served.
        FileExistsError: the day's folder is there already.

    """
    path = config.output / config.day
    if path.exists():
        raise FileExistsError(f"{path} exists: remove it first, or choose another --output")
    if config.model.shuffle_times or config.model.long_term_trained_on != "days before":
        raise ValueError(
            "shuffle_times is a negative control and long_term_trained_on an ablation; neither can be "
            "served: leave them at their defaults"
        )
    if config.model.user_encoder is not None:
        raise ValueError("a model with a user_encoder cannot be served yet: leave it out")
    day_bounds(config.day)
    inputs = load_inputs(path=config.data) if inputs is None else inputs
    start, _ = inputs.bounds(config.day)
    last = int(inputs.data.impressions.time.max())
    if start > last + inputs.window:
        raise ValueError(
            f"{config.day} is too late: the last impressions are of {inputs.local_day(last)}, and a model "
            "serves the day after what it was trained on"
        )
    if inputs.as_of != "period":
        raise ValueError("a day is served as of the start of each period: load the inputs so")
    model = config.model
    if config.epochs is not None:
        model = replace(model, optimizer=replace(model.optimizer, epochs=config.epochs))
    day, scaler = before_day(inputs, config.day)
    snapshots = _long_term(inputs, day, config) if model.long_term else None
    preferences = _preferences(inputs, day, config)
    trained = NeuralOnDay(
        day,
        model,
        config.seed,
        updates={},
        snapshots=snapshots,
        preferences=preferences,
        device=torch.device("cpu"),
    )
    rows = pl.DataFrame({"row": np.arange(len(day.data.impressions))})
    trained.fit(Past(rows=rows, events=None, start=None, end=day.start, label="label"))
    folder = day_folder(day, model, trained.model, snapshots, preferences, scaler)
    write_day_folder(path, folder)
    try:
        _check_scores(open_day_folder(path, verify=True), trained.model)
    except BaseException:
        shutil.rmtree(path)
        raise
    return path


def main(arguments: list[str]) -> int:
    """Run the command line ``daily_job`` and return the exit status."""
    import tyro

    config = tyro.cli(DailyJobConfig, args=arguments, description="Make the folder of one day to serve.")
    began = time.perf_counter()
    try:
        path = run_daily_job(config)
    except (ValueError, FileExistsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{path.resolve()}: ready after {time.perf_counter() - began:.0f} s")
    return 0


def before_day(inputs: MainInputs, name: str) -> tuple[TestedDay, QuantileScaler]:
    """Return what was known at a day's start, without a row of the day itself, and the scaler fitted on it.

    Raises:
        ValueError: there is no impression before the day.

    """
    start, _ = inputs.bounds(name)
    data = inputs.data
    keep = torch.arange(int((data.impressions.time < start).sum()))
    raw = data.dense[keep]
    scaler = QuantileScaler.fit(raw, data.impressions.time[keep], fit_until=start)
    known = replace(
        data,
        impressions=data.impressions.select(keep),
        as_of=data.as_of[keep],
        context=data.context[keep],
        dense=scaler.transform(raw),
    )
    day = TestedDay(
        name=name,
        start=start,
        end=start,
        data=known,
        raw_dense=raw,
        static=inputs.static[keep],
        events=inputs.tables.events.filter(pl.col("time") < start),
        inputs=inputs,
    )
    return day, scaler


def day_folder(
    day: TestedDay,
    config: LSTTMConfig,
    model: torch.nn.Module,
    snapshots: LongTermSnapshots | None,
    preferences: LongTermSnapshots | None,
    scaler: QuantileScaler,
) -> DayFolder:
    """Return a day's folder, to be written.

    Raises:
        ValueError: the data set or the configuration cannot be served, or the counts are not those of the
            training data.

    """
    assert isinstance(model, LSTTM)
    inputs = day.inputs
    clicked, skipped = (inputs.roles["internal", behavior] for behavior in ("click", "skip"))
    graph = ShortTermGraphs(day, config).graph
    for name, ids in graph.ids.items():
        if not ids.id_series.equals(inputs.graph.ids[name].id_series):
            raise ValueError(f"some {name}s are in no table: serving needs the IDs of all known ones there")
    counted = kuairand_counts(inputs) if config.past_counts else None
    relations = inputs.short_term_relations(config.short_term_domains, config.short_term_behaviors)
    pairs = inputs.tables.events.frame.select(pl.col("domain", "behavior").cast(pl.String)).unique().sort("*")
    day_config = DayConfig(
        day=day.name,
        start=day.start,
        period=inputs.period,
        utc_offset=inputs.utc_offset,
        units_per_hour=day.data.units_per_hour,
        model_options=_model_options(config, len(relations), model),
        sizes=replace(inputs.sizes, dense=model.dense),
        short_term=config.short_term,
        online=config.online,
        batch_size=4 * config.optimizer.batch_size,  # as in the replay of a test day
        contexts=("hour",),
        relations=tuple((r.domain, r.behavior) for r in relations),
        known_relations=tuple(pairs.rows()),
        label_domains=(clicked.domain,),
        clicked=clicked.behavior,
        skipped=skipped.behavior,
        counts=counted,
        event_sizes=(_TABS,) if counted else (),
        fingerprint=inputs.fingerprint,
    )
    folder = DayFolder(
        config=day_config,
        graph=graph,
        model=model,
        long_term=_of_last_day(snapshots),
        preference=_of_last_day(preferences),
        user_fields=day.data.user_fields,
        item_fields=day.data.item_fields,
        counts=None,
        scaler=None,
    )
    return _with_counts(folder, day, scaler) if counted else folder


def kuairand_counts(inputs: MainInputs) -> CountedFeatures:
    """Return what KuaiRand's past counts are made of.

    Raises:
        ValueError: the inputs are of another data set.

    """
    if "user:early_history_len" not in inputs.feature_names:
        raise ValueError(
            f"the past counts of {inputs.tables.name} cannot be served: choose a model with past_counts=False"
        )
    log = ("internal", "external")
    return CountedFeatures(
        behaviors={
            "shown": [(domain, behavior) for domain in log for behavior in ("click", "skip")],
            "impression": [(domain, "impression") for domain in log],
            "click": [(domain, "click") for domain in log],
            "long_view": [(domain, "long_view") for domain in log],
            **{name: [("early", behavior)] for name, behavior in EARLY.items()},
        },
        features=tuple(inputs.feature_names),
        item_columns=("author", "tag", "duration"),
        event_columns=("tab",),
        user_values={"user:early_history_len": "user:since[early_shown]"},
        shares={"user:early_long_watch_share": ("user:count[early_long_watch]", "user:early_history_len")},
    )


def _with_counts(folder: DayFolder, day: TestedDay, scaler: QuantileScaler) -> DayFolder:
    """Add past counts, and check them on impressions of the training data."""
    inputs, config = day.inputs, folder.config
    users, items = inputs.tables.user_table, inputs.tables.item_table
    assert users is not None
    assert items is not None
    user_ids, item_ids = folder.ids["user"], folder.ids["item"]
    attributes = np.full((item_ids.num_rows, 3), -1)
    duration = np.searchsorted(DURATION_EDGES, items["video_duration"].fill_null(0).to_numpy())
    codes = items.select(
        pl.col("author_id").cast(pl.Int64).fill_null(-1),
        pl.col("tag").list.first().cast(pl.Int64).fill_null(-1),
    )
    attributes[item_ids.rows(items["item_id"]).numpy()] = np.column_stack([codes.to_numpy(), duration])
    length = np.full((user_ids.num_rows, 1), np.nan, np.float32)
    known = users["early_history_len"].cast(pl.Float32).fill_null(float("nan"))
    length[user_ids.rows(users["user_id"]).numpy(), 0] = known.to_numpy()
    counts = make_counts(config, user_ids.num_ids, attributes, length, None)
    events = check_events(day.events.frame, config, folder.ids)
    counts = make_counts(
        config, user_ids.num_ids, attributes, length, counted_events(events, config, folder.ids, counts.plan)
    )
    shown = day.data.impressions
    chosen = np.random.default_rng(0).permutation(len(shown))[:_CHECKED_ROWS]
    found = counts.compute(
        counts.plan.program(np.arange(len(inputs.feature_names))),
        shown.user.numpy()[chosen],
        shown.item.numpy()[chosen],
        shown.context["tab"].numpy()[chosen, None],
        day.data.as_of.numpy()[chosen],
    )
    wrong = (np.nan_to_num(found, nan=-1) != np.nan_to_num(day.raw_dense.numpy()[chosen], nan=-1)).any(axis=0)
    if wrong.any():
        names = [inputs.feature_names[place] for place in wrong.nonzero()[0]]
        raise ValueError(
            f"past counts {names[:5]} differ from those of the training data: what they count has changed, "
            "say so in kuairand_counts"
        )
    return replace(folder, counts=counts, scaler=FittedScaler.of(scaler))


def _long_term(inputs: MainInputs, day: TestedDay, config: DailyJobConfig) -> LongTermSnapshots:
    graph = inputs.long_term_graph()
    snapshots, _ = train_long_term(
        graph.csrs(),
        graph.num_nodes,
        list(inputs.snapshot_times(day.start)),
        replace(config.long_term, random_seed=config.seed),
        device=torch.device("cpu"),
    )
    return snapshots


def _preferences(inputs: MainInputs, day: TestedDay, config: DailyJobConfig) -> LongTermSnapshots | None:
    if config.model.preference is None:
        return None
    snapshots, _ = train_preference(
        find_exposures(inputs),
        {"user": inputs.data.user_fields, "item": inputs.data.item_fields},
        inputs.sizes,
        list(inputs.snapshot_times(day.start)),
        replace(config.model.preference, random_seed=config.seed),
        device=torch.device("cpu"),
    )
    return snapshots


def _of_last_day(snapshots: LongTermSnapshots | None) -> dict[str, torch.Tensor]:
    return {} if snapshots is None else {name: rows[-1].clone() for name, rows in snapshots.vectors.items()}


def _model_options(config: LSTTMConfig, num_types: int, model: LSTTM) -> dict[str, Any]:
    """Arguments of LSTTM beside its sizes; loading the weights fails where they are not the model's own."""
    return {
        "long_channels": model.long_channels,
        "channels": config.channels,
        "num_layers": config.short_term.num_layers,
        "edge_channels": config.short_term.edge_channels(num_types),
        "node_channels": config.short_term.degree_channels(num_types),
        "self_term": config.self_term,
        "field_pooling": config.field_pooling,
        "fusion": config.fusion,
        "item_vectors": config.item_vectors,
        "raw_fields": config.raw_fields,
        "preference_channels": 0 if model.preference is None else model.preference.preference_channels,
        "hidden_channels": config.hidden_channels,
        "dropout": config.dropout,
    }


@torch.inference_mode()
def _check_scores(folder: DayFolder, trained: torch.nn.Module) -> None:
    """Compare scores of the opened folder with those of the trained model on the same inputs."""
    sections = None if folder.counts is None else Sections(folder)
    snapshot = Snapshot(
        start=folder.config.start,
        day=folder,
        model=folder.model,
        csrs=folder.short_term_graph(),
        counts=folder.counts,
        sections=sections,
    )
    items = torch.arange(0, folder.ids["item"].num_ids, max(folder.ids["item"].num_ids // 50, 1))
    columns = np.ones((len(items), len(folder.config.event_columns)), np.int64)
    for user in range(0, folder.ids["user"].num_ids, max(folder.ids["user"].num_ids // 5, 1)):
        rows = torch.full_like(items, user)
        data = snapshot.click_data(rows, items, torch.zeros(len(items)), columns)
        wanted = trained.eval()(collate(data, torch.arange(len(items))))
        torch.testing.assert_close(snapshot.score(user, items, columns[0]), wanted, atol=1e-4, rtol=1e-4)
