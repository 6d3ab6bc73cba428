"""Past counts against a slow count over the events, and no count of the future."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_builders.past_counts import CountedEvents, CountFeatures, past_counts

event = st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 9), st.integers(0, 4), st.booleans())
query = st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 12))
FEATURES = [
    CountFeatures(key=("user",), behaviors=("shown",), windows=(None, 3), rates=(("click", "shown"),)),
    CountFeatures(key=("user", "item"), behaviors=("click", "shown"), recency=("click", "shown")),
]


def as_events(events):
    def counted(rows, delayed):
        table = np.array([row[:4] for row in rows], dtype=np.int64).reshape(-1, 4)
        columns = {"user": torch.from_numpy(table[:, 0].copy()), "item": torch.from_numpy(table[:, 1].copy())}
        time = torch.from_numpy(table[:, 2].copy())
        delay = torch.from_numpy(table[:, 3].copy())
        return CountedEvents(columns=columns, known_time=time + delay if delayed else time)

    return {"shown": counted(events, False), "click": counted([e for e in events if e[4]], True)}


def slow(events, user, item, time):
    """The same features from their definition."""
    shown = [e for e in events if e[2] < time]
    click = [e for e in events if e[4] and e[2] + e[3] < time]
    prior = len(click) / len(shown) if shown else 0.5
    values = []
    for window in (math.inf, 3):
        n = sum(e[0] == user and e[2] >= time - window for e in shown)
        c = sum(e[0] == user and e[2] + e[3] >= time - window for e in click)
        values += [n, (c + 5 * prior) / (n + 5)]
    for rows in (click, shown):
        values.append(sum(e[:2] == (user, item) for e in rows))
    for rows, delayed in ((click, 1), (shown, 0)):
        known = [e[2] + delayed * e[3] for e in rows if e[:2] == (user, item)]
        values.append(time - max(known, default=math.nan))
    return values


@given(events=st.lists(event, max_size=25), queries=st.lists(query, min_size=1, max_size=5))
@settings(deadline=None)
def test_matches_slow_count(events, queries):
    columns = {"user": torch.tensor([q[0] for q in queries]), "item": torch.tensor([q[1] for q in queries])}
    time = torch.tensor([q[2] for q in queries])
    names, values = past_counts(as_events(events), columns, time, FEATURES)
    assert names == [
        "user:count[shown]",
        "user:rate[click/shown]",
        "user:count[shown]/3",
        "user:rate[click/shown]/3",
        "user+item:count[click]",
        "user+item:count[shown]",
        "user+item:since[click]",
        "user+item:since[shown]",
    ]
    expected = torch.tensor([slow(events, *q) for q in queries])
    torch.testing.assert_close(values, expected, equal_nan=True)


def test_unknown_names_are_told():
    events, columns = as_events([(0, 0, 1, 0, True)]), {"user": torch.tensor([0])}
    with pytest.raises(ValueError, match="no events of behaviour 'like'"):
        past_counts(events, columns, torch.tensor([2]), [CountFeatures(key=("user",), behaviors=("like",))])
    with pytest.raises(ValueError, match="queries have no column 'item'"):
        past_counts(events, columns, torch.tensor([2]), [CountFeatures(key=("item",), behaviors=("click",))])
