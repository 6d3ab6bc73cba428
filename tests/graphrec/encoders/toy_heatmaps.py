"""A small shop in London over the turn of the clocks, and its heatmaps: for tests of what reads them."""

from datetime import datetime
from zoneinfo import ZoneInfo

import polars as pl

from graph_builders import EventSchema, build_behavior_graph, read_events
from graph_builders.behavior_graph import Relation
from graphrec.encoders.heatmap import HeatmapChannel, HeatmapEncoding

ZONE = "Europe/London"
LONDON = ZoneInfo(ZONE)
BUY, RETURN = (Relation("shop", name).reverse_edge_type for name in ("buy", "return"))
GENRES = ("food", "toys", "food")  # of items 0, 1, 2
TAGS = (["new"], [], ["new", "cheap"])
CHANNELS = (
    HeatmapChannel(name="events"),
    HeatmapChannel(name="bought", edge_types=(BUY,)),
    HeatmapChannel(name="food spent", edge_types=(BUY,), aggregate="sum", attribute="amount",
                   fields={"genre": ("food",)}),
    HeatmapChannel(name="returned", edge_types=(RETURN,), aggregate="sum", attribute="amount"),
    HeatmapChannel(name="mean amount", aggregate="mean", attribute="amount"),
    HeatmapChannel(name="last amount", aggregate="last", attribute="amount", fields={"tags": ("new",)}),
    HeatmapChannel(name="in shop x", attributes={"shop": ("x", "z")}),
)  # fmt: skip


def encoding_of(num_days, channels=CHANNELS):
    return HeatmapEncoding(edge_types=(BUY, RETURN), channels=channels, num_days=num_days, time_zone=ZONE)


def at(text):
    """Unix seconds of a time in London."""
    return int(datetime.fromisoformat(text).replace(tzinfo=LONDON).timestamp())


def graph_of(events, *, num_users=3):
    """The graph of (user, item, time, is a return, amount or None, shop or None); IDs are rows.

    Each relation has one event at the end of time, so that all attributes and the shops x and z exist in
    every graph.
    """
    rows = [
        *events,
        *((0, 0, at("2030-01-01"), returned, 1.0, shop) for returned, shop in ((False, "x"), (True, "z"))),
    ]
    frame = pl.DataFrame(
        {
            "user_id": [row[0] for row in rows],
            "item_id": [row[1] for row in rows],
            "time": [row[2] for row in rows],
            "behavior": ["return" if row[3] else "buy" for row in rows],
            "amount": pl.Series([row[4] for row in rows], dtype=pl.Float64),
            "shop": pl.Series([row[5] for row in rows], dtype=pl.String),
        }
    )
    schema = EventSchema(behavior="behavior", default_domain="shop", attributes=("amount", "shop"))
    return build_behavior_graph(
        read_events(frame, schema),
        user_table=pl.DataFrame(
            {
                "user_id": range(num_users),
                "city": (["a", None, "b"] * num_users)[:num_users],
                "age": pl.Series(([30.0, 50.0, None] * num_users)[:num_users], dtype=pl.Float64),
            }
        ),
        item_table=pl.DataFrame({"item_id": range(3), "genre": GENRES, "tags": TAGS}),
    )
