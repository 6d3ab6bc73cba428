"""What encoders are given: against a slow reading of the log, in chunks, and when more events come."""

from typing import ClassVar

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_builders import (
    EventSchema,
    FeatureTable,
    Relation,
    build_behavior_graph,
    build_feature_table,
    read_events,
)
from graphrec.encoders.base import EncoderInput, HistoryRequest, NodeEncoder
from graphrec.encoders.input_reader import InputReader
from tests.graphrec.encoders.toy_histories import (
    ITEM_FIELDS,
    LAST,
    MAX_TIME,
    RELATIONS,
    SCHEMA,
    USER_FIELDS,
    frame_of,
    graph_of,
    logs,
    queries,
    slow_history,
    tensors,
    values_of,
)

TO_USERS = tuple(relation.reverse_edge_type for relation in RELATIONS)
TO_ITEMS = tuple(relation.edge_type for relation in RELATIONS)


@st.composite
def options(draw):
    """Which relations in which order, and how far back."""
    relations = draw(st.permutations(range(3)))[: draw(st.integers(1, 3))]
    offset = draw(st.integers(0, 4))
    return {
        "relations": relations,
        "offset": offset,
        "window": draw(st.one_of(st.none(), st.integers(offset + 1, 9))),
        "max_events": draw(st.one_of(st.none(), st.integers(0, 4))),
    }


def request_of(chosen, edge_types, *, fields):
    attributes = {0: ("shop", "price", "words"), 1: ("shop", "words"), 2: ()}
    names = dict.fromkeys(name for r in chosen["relations"] for name in attributes[r])
    return HistoryRequest(
        edge_types=tuple(edge_types[r] for r in chosen["relations"]),
        window=chosen["window"],
        offset=chosen["offset"],
        max_events=chosen["max_events"],
        attributes=tuple(names),
        fields=fields,
    )


def rows_of(history, query):
    """The events of one query as (time, edge type, neighbour, values...)."""
    events = history.events
    part = slice(*events.ptr[query : query + 2].tolist())
    columns = [values_of(column)[part] for column in history.columns.columns.values()]
    plain = (events.time, events.edge_type, events.neighbor)
    return list(zip(*(column.tolist()[part] for column in plain), *columns, strict=True))


@given(log=logs(), pairs=queries, chosen=options())
def test_histories_of_users_match_the_log(log, pairs, chosen):
    events = [*log, *LAST]
    request = request_of(chosen, TO_USERS, fields=("genre", "size", "tags"))
    inputs = InputReader(graph_of(events), "user", {"some": request}, fields=("age",)).read(*tensors(pairs))
    assert values_of(inputs.fields["age"]) == [USER_FIELDS["age"][user] for user, _ in pairs]
    for query, (user, time) in enumerate(pairs):
        wanted = []
        for event in slow_history(events, chosen["relations"], user, time, request):
            attributes = [
                (getattr(event, name) or []) if name == "words" else getattr(event, name)
                for name in request.attributes
            ]
            tags = ITEM_FIELDS["tags"][event.item] or []
            fields = [ITEM_FIELDS["genre"][event.item], ITEM_FIELDS["size"][event.item], tags]
            number = chosen["relations"].index(event.relation)
            wanted.append((event.time, number, event.item, *attributes, *fields))
        assert rows_of(inputs.histories["some"], query) == wanted


@given(log=logs(), pairs=queries, chosen=options())
def test_histories_of_items_match_the_log(log, pairs, chosen):
    events = [*log, *LAST]
    request = request_of(chosen, TO_ITEMS, fields=("age",))
    inputs = InputReader(graph_of(events), "item", {"some": request}).read(*tensors(pairs))
    for query, (item, time) in enumerate(pairs):
        found = rows_of(inputs.histories["some"], query)
        seen = slow_history(events, chosen["relations"], item, time, request, of_user=False)
        assert [(row[0], row[2], row[-1]) for row in found] == [
            (event.time, event.user, USER_FIELDS["age"][event.user]) for event in seen
        ]


@settings(max_examples=50)
@given(log=logs(), pairs=queries, chosen=options(), max_events=st.integers(1, 8))
def test_chunks_and_single_queries_say_the_same(log, pairs, chosen, max_events):
    graph = graph_of([*log, *LAST])
    requests = {
        "some": request_of(chosen, TO_USERS, fields=("genre",)),
        "all": HistoryRequest(edge_types=TO_USERS),
    }
    reader = InputReader(graph, "user", requests, fields=("age",))
    node, time = tensors(pairs)
    scene = build_feature_table(pl.DataFrame({"scene": [str(number) for number in range(len(pairs))]}))
    whole = reader.read(node, time, query_fields=scene)

    def described(inputs):
        return [
            (
                int(inputs.node[q]),
                int(inputs.time[q]),
                values_of(inputs.fields["age"])[q],
                values_of(inputs.query_fields["scene"])[q],
                *(rows_of(inputs.histories[name], q) for name in requests),
            )
            for q in range(len(inputs))
        ]

    chunks = list(reader.read_in_chunks(node, time, max_events=max_events, query_fields=scene))
    assert [row for chunk in chunks for row in described(chunk)] == described(whole)
    for chunk in chunks:
        size = sum(len(history.events.time) for history in chunk.histories.values())
        assert len(chunk) == 1 or size <= max_events
    order = torch.arange(len(pairs)).flip(0)
    scene = build_feature_table(pl.DataFrame({"scene": [str(number) for number in order.tolist()]}))
    assert described(reader.read(node[order], time[order], query_fields=scene)) == described(whole)[::-1]


@settings(max_examples=50)
@given(log=logs(min_size=1), late=logs(min_size=1), time=st.integers(0, MAX_TIME))
def test_later_events_change_no_earlier_query(log, late, time):
    graph = graph_of([*log, *LAST])
    added = [event._replace(time=time + event.time, available_time=time + event.time) for event in late]
    grown = graph.append(read_events(frame_of(added), schema=SCHEMA))
    request = HistoryRequest(edge_types=TO_USERS, attributes=("shop", "price"), fields=("genre",))
    pairs = [(user, time) for user in range(3)]
    before = InputReader(graph, "user", {"life": request}).read(*tensors(pairs)).histories["life"]
    after = InputReader(grown, "user", {"life": request}).read(*tensors(pairs)).histories["life"]
    assert [rows_of(before, q) for q in range(3)] == [rows_of(after, q) for q in range(3)]
    pairs = [(user, 10**6) for user in range(3)]  # and later ones see them
    after = InputReader(grown, "user", {"life": request}).read(*tensors(pairs)).histories["life"]
    assert len(after.events.time) == len(log) + len(added)


def test_an_event_known_late_is_older_than_the_offset_and_read_once():
    """It happened long before the offset and became known after it: it is no recent event, and not lost."""
    event = LAST[0]._replace(time=10, available_time=95)
    reader = InputReader(
        graph_of([event, *LAST]),
        "user",
        {
            "older": HistoryRequest(edge_types=TO_USERS, window=100, offset=20),
            "recent": HistoryRequest(edge_types=TO_USERS, window=20),
        },
    )
    inputs = reader.read(torch.tensor([0, 0]), torch.tensor([95, 96]))
    assert inputs.histories["older"].events.ptr.tolist() == [0, 0, 1]
    assert inputs.histories["recent"].events.ptr.tolist() == [0, 0, 0]


def test_what_the_offset_leaves_out_does_not_count_as_an_event():
    events = [LAST[2]._replace(time=time, available_time=time) for time in (1, 2, 3, 8, 9)]
    request = HistoryRequest(edge_types=TO_USERS, max_events=2, offset=5)
    reader = InputReader(graph_of([*events, *LAST]), "user", {"older": request})
    assert reader.read(torch.tensor([0]), torch.tensor([10])).histories["older"].events.time.tolist() == [
        2,
        3,
    ]


def test_requests_are_in_seconds_where_times_are_in_milliseconds():
    frame = frame_of([LAST[2]._replace(time=t, available_time=t) for t in (2_998, 2_999, 4_998, 4_999)])
    log = read_events(frame, schema=EventSchema(time_bounds=None, time_unit="ms", resolution="ms"))
    edge_types = (Relation("internal", "interaction").reverse_edge_type,)
    requests = {"some": HistoryRequest(edge_types=edge_types, window=3, offset=1)}
    reader = InputReader(build_behavior_graph(log), "user", requests)
    inputs = reader.read(torch.tensor([0]), torch.tensor([5_999]))
    assert inputs.histories["some"].events.time.tolist() == [2_999, 4_998]
    assert inputs.units_per_second == 1000


class CountingEncoder(NodeEncoder[torch.Tensor]):
    """The smallest encoder: how many events a life has."""

    out_channels = 1
    requests: ClassVar = {"life": HistoryRequest(edge_types=TO_USERS)}

    def prepare(self, inputs: EncoderInput) -> torch.Tensor:
        return inputs.histories["life"].events.ptr.diff()

    def forward(self, prepared: torch.Tensor) -> torch.Tensor:
        return prepared[:, None].float()


def test_an_encoder_fulfils_the_contract():
    encoder = CountingEncoder()
    reader = InputReader(graph_of(LAST), "user", encoder.requests, fields=encoder.fields)
    inputs = reader.read(torch.tensor([0, 1, 0]), torch.tensor([10**6 + 1, 10**6 + 1, 10**6]))
    assert encoder(encoder.prepare(inputs.to("cpu"))).tolist() == [[3.0], [0.0], [0.0]]
    with pytest.raises(TypeError, match="abstract"):
        NodeEncoder()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"edge_types": ()}, "needs edge types"),
        ({"edge_types": (TO_USERS[0], TO_USERS[0])}, "each once"),
        ({"edge_types": (TO_USERS[0], TO_ITEMS[0])}, "share both ends"),
        ({"edge_types": TO_USERS, "attributes": ("shop",), "fields": ("shop",)}, "names of their own"),
        ({"edge_types": TO_USERS, "max_events": -1}, "max_events"),
        ({"edge_types": TO_USERS, "offset": -1}, "offset"),
        ({"edge_types": TO_USERS, "offset": 5, "window": 5}, "within the window"),
    ],
)
def test_impossible_requests_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        HistoryRequest(**arguments)


@pytest.mark.parametrize(
    ("node_type", "arguments", "fields", "message"),
    [
        ("shop", {"edge_types": TO_USERS}, (), "no node type 'shop'"),
        ("item", {"edge_types": TO_USERS}, (), "'some' has edge type .* take edge types that end there"),
        ("user", {"edge_types": (("item", "rev_c:buy", "user"),)}, (), "no edge type"),
        ("user", {"edge_types": TO_USERS, "attributes": ("color",)}, (), "'color', they have .*'shop'"),
        ("user", {"edge_types": TO_USERS, "fields": ("color",)}, (), r"\['color'\], they have \['genre'"),
        ("user", {"edge_types": TO_USERS}, ("color",), r"'user' have no fields \['color'\]"),
    ],
)  # fmt: skip
def test_a_reader_names_what_the_graph_lacks(node_type, arguments, fields, message):
    with pytest.raises(ValueError, match=message):
        InputReader(graph_of(LAST), node_type, {"some": HistoryRequest(**arguments)}, fields=fields)


def test_attributes_of_two_kinds_are_refused():
    graph = graph_of(LAST)
    relations = dict(graph.relations)
    number = build_feature_table(pl.DataFrame({"shop": [1.0]}))
    click = relations[RELATIONS[1]]
    relations[RELATIONS[1]] = type(click)(click.by_item, click.by_user, number)
    graph = type(graph)(graph.ids, relations, graph.features)
    request = HistoryRequest(edge_types=TO_USERS, attributes=("shop",))
    with pytest.raises(ValueError, match="'shop' is a CategoricalColumn and a NumericColumn"):
        InputReader(graph, "user", {"some": request})


def test_queries_need_one_time_and_one_row_each():
    reader = InputReader(graph_of(LAST), "user", {})
    with pytest.raises(ValueError, match="2 nodes, 2 times, 1 rows"):
        reader.read(torch.tensor([0, 1]), torch.tensor([5, 5]), query_fields=FeatureTable(1))
    for node, time in (([0], torch.tensor([5])), (torch.tensor([0]), np.array([5]))):
        with pytest.raises(ValueError, match=r"must be a tensor of whole numbers .* torch.as_tensor turns"):
            InputReader.read.__wrapped__(reader, node, time)
        with pytest.raises(ValueError, match="must be a tensor of whole numbers"):
            next(InputReader.read_in_chunks.__wrapped__(reader, node, time))
    with pytest.raises(ValueError, match=r"got torch.float32"):
        InputReader.read.__wrapped__(reader, torch.tensor([0.0]), torch.tensor([5]))
    with pytest.raises(ValueError, match="max_events must be at least 1"):
        next(reader.read_in_chunks(torch.tensor([0]), torch.tensor([5]), max_events=0))
