import json
from itertools import pairwise

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_builders import (
    BehaviorGraph,
    CorruptedGraphError,
    EventLogError,
    EventSchema,
    Relation,
    build_behavior_graph,
    read_events,
)
from samplers import MultiHopSampler, RecentNeighborSampler, UniformNeighborSampler
from tests.reference.graph_builders import adjacency, rows_of_ids

SCHEMA = EventSchema(
    time_bounds=None,
    behavior="behavior",
    domain="domain",
    available_time="known",
    attributes=("price", "device", "tags"),
)
COLUMNS = ("user_id", "item_id", "time", "behavior", "domain", "known", "price", "device", "tags")
event = st.tuples(
    st.sampled_from(["ann", "bob", "cy", "dot", "eve"]),
    st.integers(20, 23),
    st.integers(0, 9),
    st.sampled_from(["click", "like"]),
    st.sampled_from(["in", "out"]),
    st.integers(0, 3),  # how much later the event is known
    st.none() | st.integers(0, 4).map(float),
    st.none() | st.sampled_from(["tv", "phone", "car"]),
    st.none() | st.lists(st.sampled_from(["x", "y", "z"]), max_size=3),
)
events_strategy = st.lists(event, min_size=1, max_size=14)


def log_of(events):
    rows = [(*e[:5], e[2] + e[5], *e[6:]) for e in events]
    types = [
        pl.String,
        pl.Int64,
        pl.Int64,
        pl.String,
        pl.String,
        pl.Int64,
        pl.Float64,
        pl.String,
        pl.List(pl.String),
    ]
    frame = pl.DataFrame(rows, schema=dict(zip(COLUMNS, types, strict=True)), orient="row")
    return read_events(frame, SCHEMA)


def plain(table):
    """A feature table as rows of words and numbers, whatever its codes."""
    columns = {}
    for name, column in table.columns.items():
        words = [None, *getattr(column, "vocabulary", [])]
        if hasattr(column, "ptr"):
            bounds = column.ptr.tolist()
            values = [words[code] for code in column.code.tolist()]
            columns[name] = [values[a:b] for a, b in pairwise(bounds)]
        elif hasattr(column, "code"):
            columns[name] = [words[code] for code in column.code.tolist()]
        else:
            columns[name] = [None if value != value else value for value in column.value.tolist()]
    return columns


def same_graph(a, b):
    assert a.edge_types == b.edge_types
    assert a.num_nodes == b.num_nodes
    for node_type in a.node_types:
        assert a.ids[node_type].id_series.to_list() == b.ids[node_type].id_series.to_list()
        assert plain(a.features[node_type]) == plain(b.features[node_type])
    for edge_type, csr in a.csrs().items():
        csr.validate()
        csr, other = csr.compact(), b.csrs()[edge_type].compact()
        assert csr.edge_columns().keys() == other.edge_columns().keys()
        assert torch.equal(csr.rowptr, other.rowptr)
        for name, column in csr.edge_columns().items():
            assert torch.equal(column, other.edge_columns()[name]), name
        assert plain(a.edge_attributes(edge_type)) == plain(b.edge_attributes(edge_type))


USERS = pl.DataFrame({"user_id": ["zoe", "bob"], "age": [31, None], "city": ["Rome", "Oslo"]})
ITEMS = pl.DataFrame({"item_id": [22, 77, 21], "tag": [["a", "b"], None, ["b"]], "new": [True, None, False]})


def small_graph():
    events = [
        ("ann", 20, 5, "click", "in", 0, 1.0, "tv", ["x"]),
        ("bob", 21, 3, "click", "in", 0, 2.0, None, None),
        ("ann", 20, 3, "click", "in", 0, None, "tv", ["z", "x"]),
        ("cy", 22, 4, "like", "out", 3, 4.0, "car", []),
        ("ann", 21, 4, "click", "out", 0, None, None, None),
    ]
    return build_behavior_graph(log_of(events), user_table=USERS, item_table=ITEMS)


@settings(max_examples=60, deadline=None)
@given(events=events_strategy)
def test_edges_and_attributes_match_the_reference(events):
    graph = build_behavior_graph(log_of(events))
    users, items = [e[0] for e in events], [e[1] for e in events]
    assert graph.num_nodes == {"user": len(set(users)) + 1, "item": len(set(items)) + 1}
    assert graph.num_events == len(events)
    user_row, item_row = rows_of_ids(users, users), rows_of_ids(items, items)
    assert {tuple(relation) for relation in graph.relations} == {(e[4], e[3]) for e in events}
    for relation in graph.relations:
        where = [n for n, e in enumerate(events) if (e[4], e[3]) == tuple(relation)]
        forward = [(item_row[n], user_row[n], events[n][2]) for n in where]
        backward = [(user_row[n], item_row[n], events[n][2]) for n in where]
        for edge_type, wanted in ((relation.edge_type, forward), (relation.reverse_edge_type, backward)):
            csr = graph.csr(edge_type)
            csr.validate()
            assert (csr.num_rows, csr.num_cols) == (
                graph.num_nodes[edge_type[2]],
                graph.num_nodes[edge_type[0]],
            )
            for row in range(csr.num_rows):
                a, b = csr.rowptr[row : row + 2].tolist()
                found = zip(*(c[a:b].tolist() for c in (csr.col, csr.edge_time, csr.edge_id)), strict=True)
                assert list(found) == adjacency(wanted, row)
            if csr.available_time is not None:
                later = [events[where[e]][5] for e in csr.edge_id.tolist()]
                assert (csr.available_time - csr.edge_time).tolist() == later
            else:
                assert all(events[n][5] == 0 for n in where)
        edges = graph.edges(relation.edge_type)
        assert edges.user.tolist() == [user_row[n] for n in where]
        assert edges.item.tolist() == [item_row[n] for n in where]
        assert edges.time.tolist() == [events[n][2] for n in where]
        assert edges.available_time.tolist() == [events[n][2] + events[n][5] for n in where]
        attributes = plain(graph.edge_attributes(relation.edge_type))
        for place, name in ((6, "price"), (7, "device"), (8, "tags")):
            values = [events[n][place] for n in where]
            if all(value is None for value in values):
                assert name not in attributes
            else:
                assert attributes[name] == [value or [] for value in values] if place == 8 else values


@settings(max_examples=60, deadline=None)
@given(first=events_strategy, second=events_strategy, third=events_strategy)
def test_append_equals_building_from_the_union(first, second, third):
    base = build_behavior_graph(log_of(first), user_table=USERS, item_table=ITEMS)
    before = {edge_type: csr.edge_time.clone() for edge_type, csr in base.csrs().items()}
    grown = base.append(log_of(second)).append(log_of(third))
    union = build_behavior_graph(log_of(first + second + third), user_table=USERS, item_table=ITEMS)
    same_graph(grown, union)
    assert all(torch.equal(base.csr(edge_type).edge_time, time) for edge_type, time in before.items())


@settings(max_examples=20, deadline=None)
@given(first=events_strategy, second=events_strategy, time=st.integers(0, 12))
def test_append_samples_the_same_edges_as_the_union(first, second, time):
    grown = build_behavior_graph(log_of(first)).append(log_of(second))
    union = build_behavior_graph(log_of(first + second))
    edge_type = grown.edge_types[-1]
    seed = torch.arange(grown.num_nodes[edge_type[2]])
    for sampler in (RecentNeighborSampler, UniformNeighborSampler):
        a, b = (
            sampler(graph.csr(edge_type), num_neighbors=3).sample(seed, torch.full_like(seed, time))
            for graph in (grown, union)
        )
        assert torch.equal(a.mask, b.mask)
        assert torch.equal(a.node[a.mask], b.node[b.mask])
        assert torch.equal(a.edge_id[a.mask], b.edge_id[b.mask])


def test_append_shares_what_did_not_change():
    graph = small_graph()
    grown = graph.append(log_of([("ann", 20, 9, "click", "in", 0, None, None, None)]))
    assert any(csr.delta is not None for csr in grown.csrs().values())
    assert all(csr.delta is None for csr in grown.compact().csrs().values())
    same_graph(grown.compact(), grown)
    like = Relation("out", "like")
    assert grown.relations[like] is graph.relations[like]
    assert grown.num_events == graph.num_events + 1
    with_node = graph.append(log_of([("new", 20, 9, "click", "in", 0, None, None, None)]))
    old, new = graph.csr(like.edge_type), with_node.csr(like.edge_type)
    assert new.col.data_ptr() == old.col.data_ptr()
    assert new.num_cols == old.num_cols + 1


def test_append_takes_fields_of_new_nodes_only():
    event = [("new", 99, 9, "click", "in", 0, None, None, None)]
    table = pl.DataFrame({"user_id": ["new"], "city": ["Lima"], "age": [5.0]})
    grown = small_graph().append(log_of(event), user_table=table)
    city = plain(grown.features["user"])["city"]
    assert city[int(grown.ids["user"].rows(["new"]))] == "Lima"
    assert city[int(grown.ids["user"].rows(["zoe"]))] == "Rome"
    assert city[grown.ids["user"].unseen_row] is None
    with pytest.raises(ValueError, match="user table names nodes that the graph has"):
        grown.append(log_of(event), user_table=table)


def test_tables_are_aligned_with_rows_and_the_unseen_row_is_missing():
    graph = small_graph()
    assert graph.ids["user"].id_series.to_list() == ["zoe", "bob", "ann", "cy"]
    assert plain(graph.features["user"]) == {
        "age": [31.0, None, None, None, None],
        "city": ["Rome", "Oslo", None, None, None],
    }
    assert plain(graph.features["item"]) == {
        "tag": [["a", "b"], [], ["b"], [], []],
        "new": ["true", None, "false", None, None],
    }


def test_the_unseen_row_can_be_sampled_and_has_no_neighbors():
    graph = small_graph()
    user = graph.ids["user"].rows(["nobody", "ann"])
    time = torch.tensor([10, 10])
    sampler = MultiHopSampler(graph.csrs(), num_neighbors=[2, 3], strategy=RecentNeighborSampler)
    batch = sampler.sample({"user": (user, time)})
    hop = batch.hops[0]["item", "rev_in:click", "user"]
    assert hop.mask.sum(dim=1).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("domains", "behaviors", "wanted"),
    [
        (["in"], None, {("in", "click")}),
        (None, ["click"], {("in", "click"), ("out", "click")}),
        (["out"], ["like"], {("out", "like")}),
        (None, None, {("in", "click"), ("out", "click"), ("out", "like")}),
    ],
)
def test_view_copies_no_column(domains, behaviors, wanted):
    graph = small_graph()
    view = graph.view(domains=domains, behaviors=behaviors)
    assert {tuple(relation) for relation in view.relations} == wanted
    assert view.num_nodes == graph.num_nodes
    assert len(view.edge_types) == 2 * len(wanted)
    for edge_type, csr in view.csrs().items():
        for name, column in csr.edge_columns().items():
            assert column.data_ptr() == graph.csr(edge_type).edge_columns()[name].data_ptr()
    for node_type, table in view.features.items():
        assert table is graph.features[node_type]


def test_view_of_nothing():
    graph = small_graph()
    with pytest.raises(ValueError, match=r"domains \['radio'\] have no events, there are \['in', 'out'\]"):
        graph.view(domains=["radio"])
    with pytest.raises(ValueError, match="no edge type"):
        graph.view(domains=["in"], behaviors=["like"])
    with pytest.raises(ValueError, match="a list of names"):
        graph.view(domains="in")


@settings(max_examples=10, deadline=None)
@given(first=events_strategy, second=events_strategy)
def test_save_and_open_give_the_same_graph(tmp_path_factory, first, second):
    path = tmp_path_factory.mktemp("graphs") / "graph"
    graph = build_behavior_graph(log_of(first), user_table=USERS, item_table=ITEMS)
    graph.save(path)
    opened = BehaviorGraph.open(path, verify=True)
    same_graph(opened, graph)
    same_graph(opened.append(log_of(second)), graph.append(log_of(second)))
    same_graph(BehaviorGraph.open(path, verify=True), graph)  # nothing above wrote to the files
    assert [p.name for p in path.parent.iterdir()] == ["graph"]


def test_texts_are_kept(tmp_path):
    texts = {"item": pl.DataFrame({"item_id": [21, 5, 20], "text": ["salt", "not in the graph", "tea"]})}
    graph = build_behavior_graph(
        log_of([("ann", 20, 5, "click", "in", 0, None, None, None)] * 2), texts=texts
    )
    assert graph.texts["item"].to_list() == ["tea", None]
    grown = graph.append(log_of([("ann", 21, 5, "click", "in", 0, None, None, None)]))
    assert grown.texts["item"].to_list() == ["tea", None, None]
    grown.save(tmp_path / "graph")
    assert BehaviorGraph.open(tmp_path / "graph").texts["item"].to_list() == ["tea", None, None]


def saved(tmp_path):
    small_graph().save(tmp_path / "graph")
    return tmp_path / "graph"


def test_a_file_cut_off_is_recognised(tmp_path):
    path = saved(tmp_path)
    files = [file for file in path.rglob("*") if file.is_file() and file.name != "header.json"]
    assert len(files) > 20
    for file in [f for f in files if f.parent == path or "edges_000" in str(f)]:
        data = file.read_bytes()
        file.write_bytes(data[:-1])
        with pytest.raises(CorruptedGraphError, match=f"{file.name} should have {len(data)} bytes"):
            BehaviorGraph.open(path)
        file.unlink()
        with pytest.raises(CorruptedGraphError, match="it has 0"):
            BehaviorGraph.open(path)
        file.write_bytes(data)
    BehaviorGraph.open(path)


def test_a_changed_file_is_recognised_when_verified(tmp_path):
    path = saved(tmp_path)
    file = path / "edges_000" / "by_user" / "records.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    BehaviorGraph.open(path)
    with pytest.raises(CorruptedGraphError, match=r"records.npy has changed"):
        BehaviorGraph.open(path, verify=True)


def test_other_versions_and_folders_are_refused(tmp_path):
    path = saved(tmp_path)
    header = json.loads((path / "header.json").read_text())
    (path / "header.json").write_text(json.dumps({**header, "version": 99}))
    with pytest.raises(CorruptedGraphError, match=r"version 99, this release reads .* version 1"):
        BehaviorGraph.open(path)
    (path / "header.json").write_text("{")
    with pytest.raises(CorruptedGraphError, match=r"no readable header.json"):
        BehaviorGraph.open(path)
    with pytest.raises(CorruptedGraphError, match="not a saved graph"):
        BehaviorGraph.open(tmp_path / "nothing")
    with pytest.raises(FileExistsError, match="exists"):
        small_graph().save(path)


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("graph_builders.graph_files.write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        small_graph().save(tmp_path / "graph")
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_told():
    log = log_of([("ann", 20, 5, "click", "in", 0, None, None, None)])
    with pytest.raises(EventLogError, match="holds no events"):
        build_behavior_graph(log.filter(pl.col("time") > 99))
    with pytest.raises(EventLogError, match="hold a colon"):
        build_behavior_graph(log_of([("ann", 20, 5, "click", "a:b", 0, None, None, None)]))
    with pytest.raises(ValueError, match="no column 'user_id'"):
        build_behavior_graph(log, user_table=pl.DataFrame({"id": ["ann"]}))
    with pytest.raises(ValueError, match=r"repeats \['ann'\]"):
        build_behavior_graph(log, user_table=pl.DataFrame({"user_id": ["ann", "ann"]}))
    with pytest.raises(ValueError, match="Int64 in the table and String in the log"):
        build_behavior_graph(log, user_table=pl.DataFrame({"user_id": [1]}))
    with pytest.raises(ValueError, match="cast it to strings if it is a category"):
        build_behavior_graph(log, item_table=pl.DataFrame({"item_id": [20], "author": [2**25]}))
    milliseconds = read_events(
        pl.DataFrame({"user_id": ["a"], "item_id": [1], "time": [5]}),
        EventSchema(resolution="ms", time_bounds=None),
    )
    with pytest.raises(EventLogError, match=r"times in 's', the log in 'ms'"):
        small_graph().append(milliseconds)
    with pytest.raises(ValueError, match="no edge type"):
        small_graph().csr(("user", "in:buy", "item"))


def test_repr_says_what_is_there():
    text = repr(small_graph())
    assert "5 events, times in s, cpu" in text
    assert "user: 4 IDs and the unseen row; fields: age, city" in text
    assert "out:like: 1 edges, known late, price, device" in text


def test_to_moves_everything():
    moved = small_graph().to("meta")
    assert {csr.device.type for csr in moved.csrs().values()} == {"meta"}
    assert moved.features["user"]["city"].code.device.type == "meta"
    assert moved.edge_attributes(moved.edge_types[0])["price"].value.device.type == "meta"
