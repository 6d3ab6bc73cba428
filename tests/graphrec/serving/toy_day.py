"""A small day to serve: random behaviour, an untrained LSTTM with lively weights, past counts."""

from dataclasses import replace

import numpy as np
import polars as pl
import torch

from graph_builders.behavior_graph import build_behavior_graph
from graph_builders.events import EventSchema, read_events
from graph_builders.past_counts import CountedEvents, CountFeatures, past_counts
from graphrec.models import LSTTM
from graphrec.models.inputs import InputSizes, NodeFields
from graphrec.serving import DayConfig, DayFolder
from graphrec.serving.counts import CountedFeatures
from graphrec.serving.day_folder import make_counts
from graphrec.serving.event_frame import check_events, counted_events
from graphrec.serving.scaling import FittedScaler
from graphrec.training.batches import ShortTermConfig
from graphrec.training.online import OnlineConfig
from graphrec.training.scaling import QuantileScaler

NUM_USERS, NUM_ITEMS, PERIOD = 12, 300, 3600  # more items than a block holds
START = 1_650_000_000 // 86_400 * 86_400
RELATIONS = tuple((d, b) for d in ("external", "internal") for b in ("click", "skip"))
KNOWN = (*RELATIONS, ("internal", "like"))
AUTHOR = np.append(np.arange(NUM_ITEMS) % 7, -1)
PAIRS = {
    "shown": [list(pair) for pair in RELATIONS],
    "click": [["external", "click"], ["internal", "click"]],
    "like": [["internal", "like"]],
}
WINDOW = 4 * PERIOD


def toy_features():
    """What is counted, as ``past_counts`` takes it."""
    rates = (("click", "shown"), ("like", "click"))
    windows = (None, WINDOW)
    keys = [("user",), ("item",), ("author",), ("tab",), ("user", "tab"), ("item", "tab"), ("user", "author")]
    return [
        *(
            CountFeatures(key=key, behaviors=("shown",), windows=windows, rates=rates, recency=("click",))
            for key in keys
        ),
        CountFeatures(key=("user", "item"), behaviors=("shown", "like"), recency=("shown",)),
    ]


def toy_events(num_events, start, end, seed):
    """Random events in ``[start, end)`` in the order of time; likes become known later."""
    rng = np.random.default_rng(seed)
    pair = rng.integers(len(KNOWN), size=num_events)
    time = np.sort(rng.integers(start, end, num_events))
    behavior = np.array([b for _, b in KNOWN])[pair]
    return pl.DataFrame(
        {
            "user_id": 100 + rng.integers(NUM_USERS, size=num_events),
            "item_id": [f"v{i}" for i in rng.integers(60, size=num_events)],
            "time": time,
            "behavior": behavior,
            "domain": np.array([d for d, _ in KNOWN])[pair],
            "available_time": time + np.where(behavior == "like", rng.integers(0, 5000, num_events), 0),
            "tab": rng.integers(3, size=num_events),
        }
    )


def wanted_counts(events, user, item, tab, as_of):
    """The same features by ``past_counts``, from the definition's side."""
    user_row, item_row = (
        (events["user_id"] - 100).to_numpy(),
        np.array([int(i[1:]) for i in events["item_id"]]),
    )

    def columns(users, items, tabs):
        table = {"user": users, "item": items, "author": AUTHOR[items], "tab": tabs}
        return {name: torch.from_numpy(np.asarray(column).astype(np.int64)) for name, column in table.items()}

    def counted(pairs):
        pair = list(zip(events["domain"], events["behavior"], strict=True))
        chosen = np.array([list(p) in pairs for p in pair], bool)
        return CountedEvents(
            columns=columns(user_row[chosen], item_row[chosen], events["tab"].to_numpy()[chosen]),
            known_time=torch.from_numpy(events["available_time"].to_numpy()[chosen].copy()),
        )

    names, values = past_counts(
        {name: counted(pairs) for name, pairs in PAIRS.items()},
        columns(user, item, tab),
        torch.from_numpy(np.asarray(as_of)),
        toy_features(),
    )
    # a stored number of the user, known with the first event that was shown to them, and a share of it
    length = np.where(
        np.isnan(values[:, names.index("user:since[click]")].numpy()), np.nan, 5.0 + np.asarray(user)
    )
    share = values[:, names.index("user:count[shown]")].numpy() / length.astype(np.float32)
    return (
        (*names, "user:length", "user:share"),
        np.column_stack([values.numpy(), length, share]).astype(np.float32),
    )


def toy_day(*, form="union", past_counts=True, seed=0, strategy="recent", **options):
    """A day's folder that has not been written; ``options`` are LSTTM's."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    events = toy_events(400, START - 86_400, START, seed)
    log = read_events(
        events,
        EventSchema(
            behavior="behavior", domain="domain", available_time="available_time", attributes=("tab",)
        ),
    )
    users = pl.DataFrame({"user_id": np.arange(NUM_USERS) + 100})
    items = pl.DataFrame({"item_id": [f"v{i}" for i in range(NUM_ITEMS)]})
    graph = build_behavior_graph(log, user_table=users, item_table=items)
    shown = [list(pair) for pair in RELATIONS]
    query = rng.integers(NUM_USERS, size=200), rng.integers(60, size=200), rng.integers(3, size=200)
    as_of = np.full(200, START)
    names, raw = wanted_counts(events, *query, as_of)
    scaler = FittedScaler.of(
        QuantileScaler.fit(torch.from_numpy(raw), torch.zeros(200, dtype=torch.int64), fit_until=1)
    )
    spec = CountedFeatures(
        behaviors=PAIRS,
        features=names,
        item_columns=("author",),
        event_columns=("tab",),
        user_values={"user:length": "user:since[click]"},
        shares={"user:share": ("user:count[shown]", "user:length")},
    )
    options = {"long_channels": 4, "item_vectors": True, "raw_fields": True, **options}
    options = {"preference_channels": 7, "num_layers": 2, **options}
    num_types = len(shown)
    options = {"edge_channels": num_types + 1, "node_channels": 2 * num_types, "self_term": True, **options}
    options |= {"channels": 8, "hidden_channels": (16, 8)}
    sizes = InputSizes(
        num_items=NUM_ITEMS,
        user_fields=(4, 5),
        item_fields=(7, 3),
        item_bag=6,
        context_fields=(24, 3),
        dense=scaler.num_scaled if past_counts else 0,
    )
    model = LSTTM(sizes, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    config = DayConfig(
        day="toy",
        start=START,
        period=PERIOD,
        utc_offset=8 * 3600,
        units_per_hour=3600,
        model_options=options,
        sizes=sizes,
        short_term=ShortTermConfig(
            num_neighbors=3,
            num_layers=options["num_layers"],
            edge_features=options["edge_channels"] > 0,
            degree_features=options["node_channels"] > 0,
            strategy=strategy,
        ),
        online=OnlineConfig(form=form, learning_rate=0.5, embedding_learning_rate=5.0),
        batch_size=16,
        contexts=("hour", "tab"),
        relations=RELATIONS,
        known_relations=KNOWN,
        label_domains=("internal",),
        clicked="click",
        skipped="skip",
        counts=spec if past_counts else None,
        event_sizes=(3,) if past_counts else (),
        fingerprint=f"toy {seed}",
    )

    def fields(count, sizes, bag):
        codes = np.column_stack([rng.integers(size, size=count) for size in sizes])
        return NodeFields(
            codes=torch.from_numpy(codes), bag=torch.from_numpy(rng.integers(6, size=(count, bag)))
        )

    day = DayFolder(
        config=config,
        graph=graph,
        model=model.eval(),
        long_term={"user": torch.randn(NUM_USERS + 1, 4), "item": torch.randn(NUM_ITEMS + 1, 4)}
        if options["long_channels"]
        else {},
        preference={
            name: torch.randn(count + 1, options["preference_channels"])
            for name, count in (("user", NUM_USERS), ("item", NUM_ITEMS))
        }
        if options["preference_channels"]
        else {},
        user_fields=fields(NUM_USERS + 1, (4, 5), 0),
        item_fields=fields(NUM_ITEMS + 1, (7, 3), 2),
        counts=None,
        scaler=None,
    )
    if not past_counts:
        return day
    length = np.append(5.0 + np.arange(NUM_USERS), np.nan).astype(np.float32)[:, None]
    counts = make_counts(config, NUM_USERS, AUTHOR[:, None].astype(np.int64), length, None)
    known = counted_events(check_events(events, config, day.ids), config, day.ids, counts.plan)
    counts = make_counts(config, NUM_USERS, AUTHOR[:, None].astype(np.int64), length, known)
    return replace(day, counts=counts, scaler=scaler)
