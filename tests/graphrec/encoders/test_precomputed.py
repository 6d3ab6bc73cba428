"""Vectors computed once: those of the encoder itself, bit for bit, and of no other node or time."""

import pytest
import torch

from graphrec.encoders.input_reader import InputReader
from graphrec.encoders.joined import JoinedEncoders
from graphrec.encoders.precomputed import PrecomputedVectors, precompute
from tests.graphrec.encoders.test_contract import (
    CASES,
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
