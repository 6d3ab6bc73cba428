"""Small random behaviour graphs with late events and missing attributes, and the slow way to read them."""

import math
from itertools import pairwise
from typing import Any, NamedTuple

import polars as pl
import torch
from hypothesis import strategies as st

from graph_builders import EventSchema, build_behavior_graph, read_events
from graph_builders.behavior_graph import Relation

NUM_USERS, NUM_ITEMS, MAX_TIME = 3, 3, 12
RELATIONS = (Relation("a", "buy"), Relation("a", "click"), Relation("b", "click"))
SCHEMA = EventSchema(
    time_bounds=None,
    behavior="behavior",
    domain="domain",
    available_time="available_time",
    attributes=("shop", "price", "words"),
)


class Event(NamedTuple):
    """A row of the log."""

    relation: int
    user: int
    item: int
    time: int
    available_time: int
    shop: str | None
    price: float | None
    words: list[str] | None


@st.composite
def logs(draw, *, min_size=0, max_size=20, max_time=MAX_TIME):
    """Events of three relations; the last has no attribute at all, the first alone has a price."""
    rows = draw(
        st.lists(
            st.tuples(
                st.integers(0, 2),
                st.integers(0, NUM_USERS - 1),
                st.integers(0, NUM_ITEMS - 1),
                st.integers(0, max_time),
                st.integers(0, 3),
                st.sampled_from([None, "x", "y", "z"]),
                st.sampled_from([None, 1.0, 2.5, 4.0]),
                st.sampled_from([None, [], ["u"], ["v", "u"]]),
            ),
            min_size=min_size,
            max_size=max_size,
        )
    )
    delayed = draw(st.booleans())
    return [_event(*row[:4], row[4] * delayed, *row[5:]) for row in rows]


def _event(relation, user, item, time, delay, shop, price, words):
    if relation > 0:
        price = None
    if relation > 1:
        shop = words = None
    return Event(relation, user, item, time, time + delay, shop, price, words)


# one event of each relation and each attribute, at times that no query sees, so that all exist in every graph
LAST = [_event(relation, 0, 0, 10**6, 0, "x", 1.0, ["u"]) for relation in range(3)]
USER_FIELDS = {"age": ["old", None, "young"]}
ITEM_FIELDS = {"genre": ["g", "h", None], "size": [1.5, None, 3.0], "tags": [["s"], None, ["t", "s"]]}


def frame_of(events):
    """The log as a table."""
    return pl.DataFrame(
        {
            "user_id": [e.user for e in events],
            "item_id": [e.item for e in events],
            "time": [e.time for e in events],
            "available_time": [e.available_time for e in events],
            "domain": [RELATIONS[e.relation].domain for e in events],
            "behavior": [RELATIONS[e.relation].behavior for e in events],
            "shop": pl.Series([e.shop for e in events], dtype=pl.String),
            "price": pl.Series([e.price for e in events], dtype=pl.Float64),
            "words": pl.Series([e.words for e in events], dtype=pl.List(pl.String)),
        }
    )


def graph_of(events):
    """The graph of these events; IDs are rows."""
    return build_behavior_graph(
        read_events(frame_of(events), schema=SCHEMA),
        user_table=pl.DataFrame({"user_id": range(NUM_USERS), **USER_FIELDS}),
        item_table=pl.DataFrame({"item_id": range(NUM_ITEMS), **ITEM_FIELDS}),
    )


def slow_history(events, relations, row, time, request, *, of_user=True) -> list[Event]:
    """The events of a request for one query, from its definition."""
    start = -(10**9) if request.window is None else time - request.window
    seen = []
    for number, relation in enumerate(relations):
        own = [e for e in events if e.relation == relation]
        for edge_id, event in enumerate(own):
            is_own = (event.user if of_user else event.item) == row
            if is_own and start <= event.time < time - request.offset and event.available_time < time:
                seen.append((event.time, edge_id, number, event))
    seen.sort(key=lambda entry: entry[:3])
    kept = [entry[3] for entry in seen]
    return kept if request.max_events is None else kept[max(len(kept) - request.max_events, 0) :]


def values_of(column) -> list[Any]:
    """A column's values as Python has them: words, numbers, lists of words, None."""
    if hasattr(column, "value"):
        return [None if math.isnan(value) else value for value in column.value.tolist()]
    words = [None, *column.vocabulary.to_list()]
    if not hasattr(column, "ptr"):
        return [words[code] for code in column.code.tolist()]
    flat, ptr = [words[code] for code in column.code.tolist()], column.ptr.tolist()
    return [flat[first:last] for first, last in pairwise(ptr)]


queries = st.lists(
    st.tuples(st.integers(0, NUM_USERS - 1), st.integers(0, MAX_TIME + 6)), min_size=1, max_size=6
)


def tensors(pairs):
    """Nodes and times of queries."""
    return tuple(torch.tensor(column, dtype=torch.int64) for column in zip(*pairs, strict=True))
