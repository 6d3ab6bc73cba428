import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samplers import MultiHopSampler, RecentNeighborSampler, WeightedNeighborSampler
from samplers.adapters.edge_list import from_columns, from_edge_list
from tests.reference import samplers as reference
from tests.reference.samplers import Edge

users, items = st.sampled_from(["ann", "bob", "cat", "dan"]), st.integers(-2, 4)
tuples = st.lists(st.tuples(users, items, st.integers(0, 9)), min_size=8, max_size=15)


def neighbors(csr, row, column_label, time, num_neighbors):
    """(label, time, edge id) of the sampled neighbours of one row."""
    sampled = RecentNeighborSampler(csr, num_neighbors).sample(torch.tensor([row]), torch.tensor([time]))
    columns = (sampled.node[0], sampled.edge_time[0], sampled.edge_id[0], sampled.mask[0])
    return [
        (column_label[node].item(), time, i)
        for node, time, i, real in zip(*(c.tolist() for c in columns), strict=True)
        if real
    ]


def as_array(edges):
    source, destination, time = zip(*edges, strict=True)
    return from_columns(np.array(source), np.array(destination, dtype=np.int32), np.array(time))


def as_pandas(edges):
    frame = pytest.importorskip("pandas").DataFrame(edges, columns=["user", "item", "when"])
    return from_columns(frame["user"], frame["item"], frame["when"])


def as_polars(edges):
    frame = pytest.importorskip("polars").DataFrame(edges, schema=["user", "item", "when"], orient="row")
    return from_columns(frame["user"], frame["item"], frame["when"])


def as_dates(edges):
    source, destination, time = zip(*edges, strict=True)
    return from_columns(source, destination, np.array(time, dtype="datetime64[s]").astype("datetime64[ns]"))


@pytest.mark.parametrize("build", [from_edge_list, as_array, as_pandas, as_polars, as_dates])
@settings(max_examples=25)
@given(edges=tuples, user=users, item=items, time=st.integers(0, 11), num_neighbors=st.integers(1, 3))
def test_both_directions_match_reference(build, edges, user, item, time, num_neighbors):
    graph = build(edges)
    ways = (
        ([Edge(i, u, t, place, t) for place, (u, i, t) in enumerate(edges)], user, "source"),
        ([Edge(u, i, t, place, t) for place, (u, i, t) in enumerate(edges)], item, "destination"),
    )
    for records, label, end in ways:
        if label not in [record.destination for record in records]:
            continue
        csr, other = graph.by_source, graph.destination_label
        if end == "destination":
            csr, other = graph.by_destination, graph.source_label
        row = int(getattr(graph, f"{end}_id")([label]))
        expected = [
            (e.source, e.time, e.edge_id) for e in reference.recent(records, label, time, num_neighbors)
        ]
        assert neighbors(csr, row, other, time, num_neighbors) == expected


@settings(max_examples=40)
@given(edges=tuples)
def test_labels_and_ids_are_inverse(edges):
    graph = from_edge_list(edges)
    assert graph.source_label.tolist() == sorted({edge[0] for edge in edges})
    assert graph.destination_label.tolist() == sorted({edge[1] for edge in edges})
    source = [edge[0] for edge in edges]
    assert graph.source_label[graph.source_id(source).numpy()].tolist() == source
    destination = np.array([edge[1] for edge in edges])
    assert graph.destination_id(destination).dtype == torch.int64
    assert (graph.destination_label[graph.destination_id(destination).numpy()] == destination).all()


def test_one_node_type_shares_ids():
    edges = [("a", "b", 1), ("c", "a", 2)]
    graph = from_edge_list(edges, one_node_type=True)
    assert graph.source_label.tolist() == ["a", "b", "c"]
    assert graph.destination_label is graph.source_label
    assert (graph.by_source.num_rows, graph.by_source.num_cols) == (3, 3)
    assert neighbors(graph.by_destination, 0, graph.source_label, 9, 2) == [("c", 2, 1)]
    assert from_edge_list(edges).source_label.tolist() == ["a", "c"]


def test_weights_arrive():
    graph = from_edge_list([("a", 1, 0, 0.0), ("a", 2, 0, 2.0), ("a", 3, 0, 0)])
    for csr in (
        graph.by_source,
        from_columns(["a"] * 3, [1, 2, 3], [0, 0, 0], weight=np.array([0, 2, 0])).by_source,
    ):
        sampler = WeightedNeighborSampler(csr, 3, weight="edge_weight")
        sampled = sampler.sample(torch.tensor([0]), torch.tensor([1]))
        assert graph.destination_label[sampled.node[sampled.mask].numpy()].tolist() == [2]


def test_csrs_feed_a_multi_hop_sampler():
    graph = from_edge_list([("a", 7, 1), ("b", 7, 2), ("b", 8, 3)])
    csrs = graph.csrs(("user", "clicks", "item"))
    assert list(csrs) == [("user", "clicks", "item"), ("item", "rev_clicks", "user")]
    subgraph = MultiHopSampler(csrs, [-1, -1]).sample({"user": (graph.source_id(["a"]), torch.tensor([9]))})
    assert graph.destination_label[subgraph.node["item"].numpy()].tolist() == [7]
    assert graph.source_label[subgraph.node["user"].numpy()].tolist() == ["a", "b"]


def test_an_empty_list_has_no_edges():
    graph = from_edge_list([])
    assert graph.by_source.num_edges == graph.by_destination.num_rows == 0
    with pytest.raises(ValueError, match="no edge has the source 'a'"):
        graph.source_id(["a"])
    assert graph.source_id([]).tolist() == []


NAT = np.array(["2020-01-01", "NaT"], dtype="datetime64[s]")
HALF = np.array(["2020-01-01T00:00:00.5", "2020-01-01"], dtype="datetime64[ms]")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ((["a", "b"], [1, 2], [3, None]), "edge 1, 'b' -> 2, has no time: leave it out"),
        ((["a", "b"], [1, 2], np.array([np.nan, 3])), "edge 0, 'a' -> 1, has no time"),
        ((["a", "b"], [1, 2], NAT), "edge 1, 'b' -> 2, has no time"),
        ((["a", "b"], [1, 2], HALF), "edge 0, 'a' -> 1, has a time of 2020-01-01T00:00:00.500 that is no"),
        (
            (["a", "b"], [1, 2], [1, 2.5]),
            "edge 1, 'b' -> 2, has a time of 2.5 that is no integer: use a finer",
        ),
        ((["a", "b"], [1, 2], np.array([1, 2.5])), "edge 1, 'b' -> 2, has a time of 2.5"),
        ((["a", "b"], [1, 2], np.array(["1", "2"])), "times must be integers or datetime64, got <U1: parse"),
        (
            (["a", 1], [1, 2], [1, 2]),
            "source labels must be all strings or all integers, got 'a' for edge 0 and 1",
        ),
        (
            (["a", "b"], [1, None], [1, 2]),
            "destination labels must be .* got 1 for edge 0 and None for edge 1",
        ),
        (
            (["a", "b"], np.array([1.0, np.nan]), [1, 2]),
            "destination labels must be .* got float64: a column",
        ),
        (
            (["a", "b"], [1], [1, 2]),
            r"one value for each edge, got \{'source': 2, 'destination': 1, 'time': 2\}",
        ),
        ((["a"], np.ones((1, 1)), [1]), r"columns must have one axis, got shape \(1, 1\)"),
    ],
)
def test_wrong_columns_name_the_edge_and_the_remedy(columns, message):
    with pytest.raises(ValueError, match=message):
        from_columns(*columns)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([("a", 1, 3), ("b", 2)], "edge 1, ('b', 2), has no time: give (source, destination, time)"),
        ([("a", 1, 3), ("b", 2, 4, 0.5)], "edge 1, ('b', 2, 4, 0.5), has 4 values: give every edge as"),
        ([("a", 1, 3, 4, 5)], "edge 0, ('a', 1, 3, 4, 5), has 5 values"),
        ([("a", 1, 3, 1.0), ("b", 2, 4, None)], "edge 1 has no weight: give every edge one, or none"),
        ([("a", 1, 3, -1.0)], "edge_weight must be finite and not negative"),
    ],
)
def test_wrong_tuples_name_the_edge_and_the_remedy(edges, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        from_edge_list(edges)


def test_unknown_labels_and_mixed_ends_are_errors():
    graph = from_edge_list([("a", 1, 3)])
    with pytest.raises(ValueError, match="no edge has the destination 2"):
        graph.destination_id([1, 2])
    with pytest.raises(ValueError, match="no edge has the source 1: labels are <U1"):
        graph.source_id([1])
    with pytest.raises(ValueError, match="labels of one kind"):
        from_edge_list([("a", 1, 3)], one_node_type=True)
