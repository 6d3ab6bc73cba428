import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graph_builders import EventSchema, build_behavior_graph, read_events
from graphrec.evaluation import ReadOptions, evaluate
from graphrec.evaluation.history import HistorySlicer, bucket_names, bucket_of


def log(num_events, seed, start=1_650_000_000):
    generator = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "user_id": generator.integers(0, 6, num_events),
            "item_id": generator.integers(0, 9, num_events),
            "time": start + generator.integers(0, 50, num_events),
            "action": generator.choice(["click", "like"], num_events),
        }
    )


def graph_of(events):
    return build_behavior_graph(read_events(events, EventSchema(behavior="action")))


def test_buckets():
    assert bucket_names() == ("0", "1-5", "6-20", "21-100", "101+")
    assert bucket_of(np.array([0, 1, 5, 6, 20, 21, 100, 101, 10**9])).tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert bucket_names((0, 1, 2)) == ("0", "1", "2+")


@given(st.integers(0, 2**32 - 1))
def test_buckets_count_what_happened_strictly_before(seed):
    events = log(60, seed)
    generator = np.random.default_rng(seed + 1)
    rows = pl.DataFrame(
        {
            "user": generator.integers(0, 8, 40),
            "item": generator.integers(0, 12, 40),
            "time_ms": 1_650_000_000_000 + generator.integers(0, 60_000, 40) // 250 * 250,
        }
    )
    graph = graph_of(events)
    for node_type in ("user", "item"):
        slicer = HistorySlicer(graph, node_type)
        of_node = {
            node: times["time"].to_numpy() * 1000 for (node,), times in events.group_by(f"{node_type}_id")
        }
        counts = [
            int((of_node.get(node, np.zeros(0)) < time).sum())
            for node, time in zip(rows[node_type], rows["time_ms"], strict=True)
        ]
        assert slicer.slice(rows).tolist() == bucket_of(np.array(counts)).tolist()


def test_evaluation_slices_by_the_graph(tmp_path):
    events = log(200, 0)
    graph_of(events).save(tmp_path / "graph")
    generator = np.random.default_rng(1)
    table = {
        "label": generator.integers(0, 2, 300),
        "score": generator.random(300),
        "user": generator.integers(0, 9, 300),
        "item": generator.integers(0, 12, 300),
        "time": 1_650_000_000 + generator.integers(0, 60, 300),
    }
    columns = ReadOptions(time_unit="s", item="item")
    found = evaluate(table, columns=columns, graph=tmp_path / "graph", num_resamples=0)
    slices = {one.slice: one.n for one in found.figures if one.metric == "auc"}
    for name in ("user_history", "item_history"):
        assert sum(n for slice_name, n in slices.items() if slice_name.startswith(name)) == 300
    assert slices["user_history=0"] >= np.isin(table["user"], [6, 7, 8]).sum()
    without_items = evaluate(
        table, columns=ReadOptions(time_unit="s"), graph=graph_of(events), num_resamples=0
    )
    assert not any(one.slice.startswith("item_history") for one in without_items.figures)


def test_ids_of_another_type_are_told():
    slicer = HistorySlicer(graph_of(log(5, 0)), "user")
    rows = pl.DataFrame({"user": ["a"], "item": ["b"], "time_ms": [0]})
    with pytest.raises(ValueError, match="user column does not fit the graph"):
        slicer.slice(rows)
    with pytest.raises(ValueError, match="user or item"):
        HistorySlicer(graph_of(log(5, 0)), "author")
