"""Vectors computed once: those of the encoder itself, bit for bit, and of no other node or time."""

import inspect

import pytest
import torch

from graphrec.encoders.input_reader import InputReader
from graphrec.encoders.joined import JoinedEncoders
from graphrec.encoders.precomputed import PrecomputedVectors, precompute
from tests.graphrec.encoders.test_contract import (
    CASES,
    NOW,
    NUM_USERS,
    events_of,
    prepared,
    queries,
    vectors,
)
from tests.graphrec.encoders.toy_heatmaps import graph_of


def made(name="DUPN", batch_size=4):
    graph = graph_of(events_of(), num_users=NUM_USERS)
    torch.manual_seed(0)
    encoder = CASES[name](graph, "user")
    reader = InputReader(graph, "user", encoder.requests, fields=encoder.fields)
    node, time = queries(graph, "user")
    return graph, encoder, node, time, precompute(encoder, reader, node, time, batch_size=batch_size)


@pytest.mark.parametrize("name", ["UserBERT", "DUPN", "SMEN", "heatmap"])
def test_the_vectors_are_the_encoders_own(name):
    graph, encoder, node, time, table = made(name)
    found = vectors(table, graph, "user", node, time)
    torch.testing.assert_close(found, vectors(encoder.eval(), graph, "user", node, time))
    order = torch.randperm(len(node), generator=torch.Generator().manual_seed(0))
    assert torch.equal(vectors(table, graph, "user", node[order], time[order]), found[order])
    assert len(table) == len({*zip(node.tolist(), time.tolist(), strict=True)})


def test_a_query_of_another_time_or_node_has_none():
    graph, _, node, time, table = made()
    for other_node, other_time in (
        (node, time + 1),
        (node, time - 1),
        (node, torch.full_like(time, 2**60)),
        ((node + 1) % NUM_USERS, time),
    ):
        with pytest.raises(ValueError, match="no vector was computed of node"):
            prepared(table, graph, "user", other_node, other_time)


def test_it_learns_nothing_and_joins_others():
    graph, encoder, node, time, table = made()
    assert list(table.parameters()) == []
    joined = JoinedEncoders({"frozen": table, "learning": CASES["SMEN"](graph, "user")}, out_channels=3)
    assert set(joined.requests) == {"learning/life"}
    found = joined(prepared(joined, graph, "user", node, time))
    found.sum().backward()
    assert joined.projection.weight.grad is not None
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_the_last_of_equal_queries_counts_and_without_any_there_is_no_table():
    node, time = torch.tensor([2, 2, 1]), torch.tensor([5, 5, 5])
    graph = graph_of(events_of(), num_users=NUM_USERS)
    table = PrecomputedVectors(node, time, torch.tensor([[1.0], [2.0], [3.0]]))
    found = vectors(table, graph, "user", torch.tensor([1, 2]), torch.tensor([5, 5]))
    assert found.flatten().tolist() == [3.0, 2.0]
    with pytest.raises(ValueError, match="no query"):
        PrecomputedVectors(node[:0], time[:0], torch.zeros(0, 1))
    reader = InputReader(graph, "user", {})
    with pytest.raises(ValueError, match="no query"):
        precompute(table, reader, node[:0], time[:0])
    with pytest.raises(ValueError, match="batch_size"):
        precompute(table, reader, node, time, batch_size=0)


def test_there_is_one_time_and_one_vector_a_query():
    graph, encoder, node, time, _ = made()
    reader = InputReader(graph, "user", encoder.requests, fields=encoder.fields)
    # shapes are checked under pytest alone: a caller's are not
    with pytest.raises(ValueError, match="one time, got 11 nodes and 10 times"):
        inspect.unwrap(precompute)(encoder, reader, node, time[1:])
    for vectors_given, times in ((12, 11), (10, 11), (11, 10)):
        with pytest.raises(ValueError, match=f"11 nodes, {times} times and {vectors_given} vectors"):
            PrecomputedVectors.__init__.__wrapped__(
                object.__new__(PrecomputedVectors), node, time[:times], torch.zeros(vectors_given, 2)
            )


def saved(table, path):
    torch.save(table.state_dict(), path)
    return torch.load(path, weights_only=True)


def test_a_file_holds_queries_and_vectors(tmp_path):
    graph, _, node, time, table = made()
    wanted = vectors(table, graph, "user", node, time)
    state = saved(table, tmp_path / "table.pt")
    again = PrecomputedVectors.from_state(state)
    assert torch.equal(vectors(again, graph, "user", node, time), wanted)
    assert (len(again), again.fit_until) == (len(table), NOW)
    # other queries, as many or fewer, and vectors that would be taken for these
    for num_others in (len(table), 2):
        users = torch.arange(num_others)
        others = torch.full((num_others, table.out_channels), 7.0)
        other = PrecomputedVectors(users, torch.full_like(users, 5), others)
        joined = JoinedEncoders({"known": other}, out_channels=3)
        joined.load_state_dict({f"encoders.known.{name}": one for name, one in state.items()}, strict=False)
        assert torch.equal(vectors(other, graph, "user", node, time), wanted)
        assert other.fit_until == NOW
        with pytest.raises(ValueError, match="no vector was computed of node 0 as of 5"):
            prepared(other, graph, "user", users[:1], torch.tensor([5]))
    with pytest.raises(RuntimeError, match="size mismatch for vector"):
        PrecomputedVectors(node, time, torch.zeros(len(node), 1)).load_state_dict(state)


def test_half_a_state_and_one_of_another_fit_change_nothing(tmp_path):
    graph, _, node, time, table = made()
    wanted = vectors(table, graph, "user", node, time)
    state = saved(PrecomputedVectors(node, time, wanted + 1, fit_until=NOW - 1), tmp_path / "table.pt")
    for part in state:
        with pytest.raises(ValueError, match="vectors without their queries, or queries without vectors"):
            table.load_state_dict({part: state[part]}, strict=False)
    with pytest.raises(ValueError, match=f"fitted on data until {NOW - 1}, this encoder of the computed"):
        table.load_state_dict(state)
    assert torch.equal(vectors(table, graph, "user", node, time), wanted)


@pytest.mark.parametrize("name", ["UserBERT", "DUPN", "SMEN", "example", "all, gated"])
def test_labels_before_the_fit_are_refused_as_by_the_encoder(name):
    _, encoder, _, _, table = made(name)
    until = table.fit_until
    for one in (encoder, table, JoinedEncoders({"known": table}, out_channels=2)):
        one.check_before(until)
        with pytest.raises(ValueError, match=f"on data until {until}, labels begin at {until - 1}"):
            one.check_before(until - 1)
