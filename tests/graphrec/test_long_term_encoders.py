"""Node-feature encoders in the long-term graph: what they read, learn and cost, and resumed training."""

from copy import deepcopy

import pytest
import torch

from graphrec.encoders.input_reader import InputReader
from graphrec.training.long_term import LongTermConfig, LongTermEncoder, train_long_term
from tests.graphrec.encoders.test_contract import CASES, NOW, NUM_USERS, events_of
from tests.graphrec.encoders.toy_heatmaps import graph_of

CPU, DAY = torch.device("cpu"), 86_400
DAYS = [NOW - 6 * DAY, NOW - 4 * DAY, NOW - 2 * DAY]
CONFIG = LongTermConfig(
    channels=6, num_neighbors=3, walk_length=4, num_walks=16, first_steps=3, steps=2, learning_rate=0.05
)


def in_graph(graph, name="DUPN", node_type="user"):
    torch.manual_seed(0)
    encoder = CASES[name](graph, node_type)
    return LongTermEncoder(encoder, InputReader(graph, node_type, encoder.requests, fields=encoder.fields))


def fit(graph, encoders, **options):
    return train_long_term(
        graph.csrs(), graph.num_nodes, DAYS, CONFIG, device=CPU, encoders=encoders, **options
    )


@pytest.fixture(scope="module")
def graph():
    return graph_of(events_of(), num_users=NUM_USERS)


@pytest.mark.parametrize(("name", "node_type"), [("DUPN", "user"), ("SMEN", "user"), ("heatmap", "item")])
def test_an_encoder_learns_by_walks_and_moves_the_snapshots(graph, name, node_type):
    one = in_graph(graph, name, node_type)
    before = deepcopy(one.encoder.state_dict())
    found, losses = fit(graph, {node_type: one})
    moved = [key for key, value in one.encoder.named_parameters() if not value.equal(before[key])]
    assert moved
    assert all(torch.isfinite(torch.tensor(losses)))
    plain, _ = fit(graph, {})
    for kind, vectors in found.vectors.items():
        assert vectors.shape == plain.vectors[kind].shape
        assert not torch.equal(vectors, plain.vectors[kind])


def test_without_encoders_nothing_changes(graph):
    left, right = fit(graph, {}), fit(graph, None)
    assert left[1] == right[1]
    assert all(torch.equal(left[0].vectors[name], right[0].vectors[name]) for name in left[0].vectors)


def test_a_frozen_encoder_keeps_its_weights_and_encodes_all_nodes_once_a_day(graph, monkeypatch):
    one = in_graph(graph)
    one.encoder.requires_grad_(False)
    before = deepcopy(one.encoder.state_dict())
    asked = []
    read = InputReader.read
    monkeypatch.setattr(
        InputReader,
        "read",
        lambda self, node, time: asked.append(time.unique().tolist()) or read(self, node, time),
    )
    frozen, _ = fit(graph, {"user": one})
    assert asked == [[day] for day in DAYS]
    assert all(
        torch.equal(value, before[key])
        for key, value in one.encoder.state_dict().items()
        if torch.is_tensor(value)
    )
    assert not one.encoder.training
    plain, _ = fit(graph, {})
    assert not torch.equal(frozen.vectors["user"], plain.vectors["user"])


def test_a_day_is_unchanged_by_events_at_or_after_it(graph):
    log = events_of()
    late = [(1, 0, DAYS[1], False, 1.0, "x"), (2, 1, DAYS[1] + 5, False, 2.5, "y")]
    more = graph_of([*log, *late], num_users=NUM_USERS)
    for learns in (True, False):
        found = []
        for version in (graph, more):
            one = in_graph(graph)  # vocabularies of the first version
            one = LongTermEncoder(one.encoder, in_graph(version).reader)
            one.encoder.requires_grad_(learns)
            found.append(fit(version, {"user": one}))
        first, second = (vectors.vectors["user"] for vectors, _ in found)
        assert torch.equal(first[:2], second[:2])
        assert not torch.equal(first[2], second[2])


def test_training_resumes_to_the_same_bits(graph, tmp_path):
    whole = fit(graph, {"user": in_graph(graph)})

    class Stop(Exception):
        pass

    def stop(done, total):
        if done == 5:
            raise Stop

    path = tmp_path / "long.pt"
    with pytest.raises(Stop):
        fit(graph, {"user": in_graph(graph)}, checkpoint=path, on_step=stop)
    again = fit(graph, {"user": in_graph(graph)}, checkpoint=path)
    assert again[1] == whole[1]
    for name, vectors in whole[0].vectors.items():
        assert torch.equal(again[0].vectors[name], vectors)


def test_an_encoder_of_no_node_type_or_a_reader_of_another_is_refused(graph):
    with pytest.raises(ValueError, match="encoders are of node types"):
        fit(graph, {"shop": in_graph(graph)})
    with pytest.raises(ValueError, match="type 'item' was given a reader of type 'user'"):
        fit(graph, {"item": in_graph(graph)})
