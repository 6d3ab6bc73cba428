import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samplers import MultiHopSampler, RecentNeighborSampler, WeightedNeighborSampler
from samplers.adapters.networkx import from_networkx, to_networkx
from tests.reference import samplers as reference
from tests.reference.samplers import Edge

NODES = {"u0": "user", "u1": "user", "u2": "user", 0: "item", 1: "item", "tag": "tag", (1, 2): "tag"}
EDGE = st.tuples(
    st.sampled_from(list(NODES)), st.sampled_from(list(NODES)), st.sampled_from(["x", "y"]), st.integers(0, 9)
)
KINDS = [nx.Graph, nx.DiGraph, nx.MultiGraph, nx.MultiDiGraph]


def graph_of(kind, rows):
    graph = kind()
    for label, name in NODES.items():
        graph.add_node(label, kind=name)
    for u, v, relation, time in rows:
        graph.add_edge(u, v, relation=relation, when=time)
    return graph


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(
    rows=st.lists(EDGE, min_size=8, max_size=14),
    typed=st.booleans(),
    reverse=st.booleans(),
    time=st.integers(0, 11),
    num_neighbors=st.integers(1, 3),
)
def test_every_node_sees_what_the_reference_sees(kind, rows, typed, reverse, time, num_neighbors):
    graph = graph_of(kind, rows)
    reverse = reverse and graph.is_directed()
    names = {"node_type": "kind", "edge_type": "relation"} if typed else {}
    ours = from_networkx(graph, time="when", reverse=reverse, **names)
    expected = {}  # by edge type: who points at whom, in networkx' own order
    for u, v, data in graph.edges(data=True):
        relation = data["relation"] if typed else "edge"
        ways = [(u, relation, v)]
        if reverse:
            ways.append((v, "rev_" + relation, u))
        elif not graph.is_directed() and u != v:
            ways.append((v, relation, u))
        for start, name, end in ways:
            key = (NODES[start], name, NODES[end]) if typed else ("node", name, "node")
            edges = expected.setdefault(key, [])
            edges.append(Edge(start, end, data["when"], len(edges), data["when"]))
    assert ours.csrs.keys() == expected.keys() == ours.edge.keys()
    for name, edges in expected.items():
        labels, sources = ours.node[name[2]], ours.node[name[0]]
        seed = torch.arange(len(labels))
        sampled = RecentNeighborSampler(ours.csrs[name], num_neighbors).sample(
            seed, torch.full_like(seed, time)
        )
        for row, label in enumerate(labels):
            wanted = reference.recent(edges, label, time, num_neighbors)
            mask = sampled.mask[row]
            assert [sources[i] for i in sampled.node[row][mask]] == [e.source for e in wanted]
            assert sampled.edge_id[row][mask].tolist() == [e.edge_id for e in wanted]
        for edge, record in zip(ours.edge[name], edges, strict=True):
            assert graph.edges[edge]["when"] == record.time
            assert set(edge[:2]) == {record.source, record.destination}


def test_ids_follow_the_order_of_nodes_and_come_back():
    ours = from_networkx(graph_of(nx.DiGraph, [("u1", 0, "x", 3)]), time="when", node_type="kind")
    assert ours.node == {"user": ["u0", "u1", "u2"], "item": [0, 1], "tag": ["tag", (1, 2)]}
    assert ours.node_id["u2"] == ("user", 2)
    assert ours.node_id[(1, 2)] == ("tag", 1)
    assert ours.edge == {("user", "edge", "item"): [("u1", 0)]}


def test_weights_arrive():
    graph = nx.DiGraph()
    graph.add_weighted_edges_from([("a", "z", 0.0), ("b", "z", 3.0), ("c", "z", 0.0)])
    nx.set_edge_attributes(graph, 5, "time")
    ours = from_networkx(graph, weight="weight")
    (csr,) = ours.csrs.values()
    seed = torch.tensor([ours.node_id["z"][1]])
    sampled = WeightedNeighborSampler(csr, 2, weight="edge_weight").sample(seed, torch.tensor([6]))
    assert [ours.node["node"][i] for i in sampled.node[sampled.mask]] == ["b"]


@settings(max_examples=30)
@given(
    rows=st.lists(EDGE, min_size=8, max_size=14),
    asked=st.lists(st.tuples(st.sampled_from(list(NODES)), st.integers(0, 11)), min_size=1, max_size=4),
)
def test_a_subgraph_as_networkx_is_the_graph_that_a_seed_sees(rows, asked):
    graph = graph_of(nx.MultiDiGraph, rows)
    ours = from_networkx(graph, time="when")
    seed = torch.tensor([ours.node_id[label][1] for label, _ in asked])
    seed_time = torch.tensor([time for _, time in asked])
    subgraph = MultiHopSampler(ours.csrs, [-1] * len(NODES)).sample({"node": (seed, seed_time)})
    picture = to_networkx(subgraph, node=ours.node)
    assert isinstance(picture, nx.MultiDiGraph)
    for (label, time), row in zip(asked, subgraph.seed_index["node"].tolist(), strict=True):
        assert picture.nodes["node", row] == {"node": label, "time": time, "hop": 0}
        past = graph.edge_subgraph(
            [(u, v, k) for u, v, k, t in graph.edges(keys=True, data="when") if t < time]
        )
        seen = {label} | (nx.ancestors(past, label) if label in past else set())
        rows_seen = {("node", row)} | nx.ancestors(picture, ("node", row))
        assert {picture.nodes[r]["node"] for r in rows_seen} == seen
        met = sorted(
            (data["edge_id"], data["time"]) for _, end, data in picture.edges(data=True) if end in rows_seen
        )
        ids = {edge: i for i, edge in enumerate(ours.edge["node", "edge", "node"])}
        assert met == sorted(
            (ids[u, v, k], past.edges[u, v, k]["when"]) for u, v, k in past.edges if v in seen
        )
    for start, end, data in picture.edges(data=True):
        assert data["relation"] == "edge"
        assert (
            data["hop"] == picture.nodes[end]["hop"]
        )  # a row's edges are sampled at the hop after it is reached
        assert picture.nodes[start]["hop"] <= data["hop"] + 1


def test_pictures_without_labels_show_ids():
    ours = from_networkx(graph_of(nx.DiGraph, [("u1", 0, "x", 3)]), time="when", node_type="kind")
    subgraph = MultiHopSampler(ours.csrs, [2]).sample({"item": (torch.tensor([0]), torch.tensor([4]))})
    picture = to_networkx(subgraph)
    assert dict(picture.nodes(data=True)) == {
        ("item", 0): {"node": 0, "time": 4, "hop": 0},
        ("user", 0): {"node": 1, "time": 4, "hop": 1},
    }
    assert list(picture.edges(data=True)) == [
        (("user", 0), ("item", 0), {"relation": "edge", "edge_id": 0, "time": 3, "hop": 0})
    ]


@pytest.mark.parametrize(
    ("attributes", "options", "message"),
    [
        ({}, {}, r"edge \('a', 'b'\) has no time: set its attribute 'time' to an integer, or name .* time="),
        ({"time": None}, {}, "has no time"),
        ({"time": 2.0}, {}, r"has time 2.0: times must be integers; use a finer unit"),
        ({"time": True}, {}, "has time True"),
        ({"time": 1}, {"weight": "w"}, r"edge \('a', 'b'\) has no weight 'w'"),
        ({"time": 1}, {"node_type": "kind"}, "node 'a' must have its type in the attribute 'kind'"),
        ({"time": 1}, {"edge_type": "relation"}, r"edge \('a', 'b'\) must have its type in .* 'relation'"),
    ],
)
def test_what_is_missing_is_named(attributes, options, message):
    graph = nx.DiGraph()
    graph.add_edge("a", "b", **attributes)
    with pytest.raises(ValueError, match=message):
        from_networkx(graph, **options)


def test_graphs_that_cannot_be_sampled_are_refused():
    with pytest.raises(ValueError, match="leave out reverse"):
        from_networkx(nx.Graph([("a", "b", {"time": 1})]), reverse=True)
    with pytest.raises(ValueError, match="no edges"):
        from_networkx(nx.empty_graph(3))
