"""The table of vectors computed before: beside a slow one, no later vector read; in LSTTM beside "all"."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphrec.encoders.vector_table import VectorTable
from graphrec.training.batches import EncodedNodes, collate
from graphrec.training.loop import click_loss
from tests.graphrec.test_lsttm_encoders import LOG, PERIOD, TO_USER, CountEncoder, toy_inputs, toy_model

NUM_NODES = 4
WRITES = st.lists(st.tuples(st.integers(0, NUM_NODES - 1), st.integers(0, 60)), max_size=25)


@settings(max_examples=40)
@given(WRITES, WRITES, st.integers(1, 3), st.sampled_from([None, 0, 7, 30]))
def test_it_is_the_slow_table(first, second, num_slots, max_age):
    table = VectorTable(NUM_NODES, 2, period=10, num_slots=num_slots, max_age=max_age)
    slow, number = {}, 0
    for pairs in (first, second):
        vectors = torch.arange(number, number + len(pairs)).float()[:, None] + torch.tensor([1.0, 0.5])
        node, time = (torch.tensor([pair[place] for pair in pairs], dtype=torch.int64) for place in (0, 1))
        table.write(node, time, vectors)
        newest = {}
        for (row, at), vector in zip(pairs, vectors, strict=True):
            place = row, at // 10 % num_slots
            if place not in newest or at >= newest[place]:
                newest[place], slow[place] = at, (at, vector)
        number += len(pairs)
    queries = [(row, at) for row in range(NUM_NODES) for at in range(0, 65, 4)]
    stored = table.read(*(torch.tensor(column) for column in zip(*queries, strict=True)))
    for (row, at), vector, known, age in zip(queries, *stored, strict=True):
        seen = [
            slow[place]
            for place in slow
            if place[0] == row
            and slow[place][0] <= at
            and (max_age is None or at - slow[place][0] <= max_age)
        ]
        assert bool(known) == bool(seen)
        if seen:
            as_of, wanted = max(seen, key=lambda entry: entry[0])
            assert torch.equal(vector, wanted)
            assert int(age) == at - as_of
        else:
            assert not vector.any()


def test_error_is_of_what_would_be_read():
    table = VectorTable(3, 2, period=10)
    table.write(torch.tensor([0, 1]), torch.tensor([10, 20]), torch.tensor([[3.0, 4.0], [1.0, 0.0]]))
    fresh = torch.tensor([[3.0, 4.0], [0.0, 0.0], [9.0, 9.0]])
    found = table.error(torch.arange(3), torch.tensor([15, 40, 40]), fresh)
    assert found.known_share == pytest.approx(2 / 3)
    assert found.relative_error == pytest.approx(1 / 5)
    assert found.mean_age == pytest.approx(12.5)


def test_wrong_numbers():
    make = VectorTable.__init__.__wrapped__  # types are checked under pytest alone: a caller's are not
    right = {"num_nodes": 3, "channels": 2, "period": 10}
    for name, least, values in (
        ("num_nodes", 1, (0, True, "3")),
        ("channels", 1, (0, 2.0)),
        ("period", 1, (0, 1.5, "10")),
        ("num_slots", 1, (0, False, None)),
        ("max_age", 0, (-1, float("nan"), 1.5, True, "7")),
    ):
        for value in values:
            with pytest.raises(ValueError, match=f"{name} must be a whole number of at least {least}, got"):
                make(object.__new__(VectorTable), **{**right, name: value})


@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_node_without_a_row_is_refused(wrong):
    table = VectorTable(3, 2, period=10)
    node, time = torch.tensor([0, wrong]), torch.tensor([5, 5])
    for call in (lambda: table.write(node, time, torch.ones(2, 2)), lambda: table.read(node, time)):
        with pytest.raises(ValueError, match=rf"rows for the nodes 0 to 2, got {wrong}: .*graph\.num_nodes"):
            call()
    assert not table.vector.any()


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_vector_that_is_not_finite_is_refused(wrong):
    table = VectorTable(3, 2, period=10)
    vector = torch.tensor([[1.0, 1.0], [1.0, wrong]])
    with pytest.raises(ValueError, match="1 of 2 vectors are not finite, the first of node 2"):
        table.write(torch.tensor([0, 2]), torch.tensor([5, 5]), vector)
    assert not table.read(torch.arange(3), torch.full((3,), 9)).known.any()
    largest = torch.full((2, 2), torch.finfo(torch.float32).max)  # their sum overflows, they do not
    table.write(torch.tensor([0, 2]), torch.tensor([5, 5]), largest)
    assert table.read(torch.arange(3), torch.full((3,), 9)).known.tolist() == [True, False, True]


# ---- inside LSTTM --------------------------------------------------------------------------------


def with_table(share, *, num_layers=2, **options):
    """A model with a table, and its data."""
    encoder = CountEncoder(TO_USER)
    data, sizes, graph = toy_inputs(LOG.rows, LOG.rows, num_layers=num_layers, user=(encoder, "seeds"))
    encoded = replace(data.encoders["user"], share=share)
    table = VectorTable(graph.num_nodes["user"] + 1, 2, period=PERIOD, num_slots=100, **options)
    torch.manual_seed(3)
    model = toy_model(
        sizes, num_layers=num_layers, encoders={"user": encoder}, nodes="seeds", tables={"user": table}
    )
    return model, replace(data, encoders={"user": encoded}), table, encoder


def test_with_all_nodes_encoded_it_is_the_full_computation():
    model, data, _, _ = with_table(1.0)
    encoder = CountEncoder(TO_USER)
    full_data, sizes, _ = toy_inputs(LOG.rows, LOG.rows, user=(encoder, "all"))
    full = toy_model(sizes, encoders={"user": encoder})
    assert not full.load_state_dict(model.state_dict(), strict=False).missing_keys
    for rows in (torch.arange(100, 140), torch.arange(200, 240)):
        batches = collate(data, rows), collate(full_data, rows)
        results = []
        for one, batch in zip((model, full), batches, strict=True):
            one.zero_grad()
            logit = one(batch)
            logit.sum().backward()
            results.append((logit.detach(), {name: p.grad for name, p in one.named_parameters()}))
        torch.testing.assert_close(results[0][0], results[1][0])
        for name, grad in results[1][1].items():
            if grad is not None and "not_encoded" not in name:
                torch.testing.assert_close(results[0][1][name], grad)


def test_a_share_of_the_others_is_encoded_the_seeds_always():
    _, data, _, _ = with_table(0.0)
    rows = torch.arange(150, 190)
    counts = {}
    for share in (0.0, 0.5, 1.0):
        encoded = replace(data.encoders["user"], share=share)
        graph = collate(replace(data, encoders={"user": encoded}), rows).graph
        chosen = graph.encoder_rows["user"]
        assert torch.equal(chosen[: graph.num_nodes_after_hop["user"][0]], graph.user_row.unique())
        counts[share] = len(chosen)
        total = graph.num_nodes_after_hop["user"]
    assert counts[0.0] == total[0] < counts[0.5] < counts[1.0] == total[-1]


def test_others_have_their_last_vector_and_no_later_one():
    model, data, table, encoder = with_table(0.0)
    model.eval()
    batch = collate(data, torch.arange(150, 190))
    seeds, node, time = (
        batch.graph.encoder_rows["user"], batch.graph.node["user"], batch.graph.node_time["user"]
    )  # fmt: skip
    with torch.no_grad():
        before = model(batch)
        # what is as of later is not read, however it came there
        table.write(node, time.max().expand(len(node)) + 1, torch.full((len(node), 2), 50.0))
        assert torch.equal(model(batch), before)
        table.write(node, time, torch.full((len(node), 2), 50.0))
        assert not torch.equal(model(batch), before)
    # in training, the seeds' new vectors are kept, and in evaluation nothing is
    table.as_of.fill_(torch.iinfo(torch.int64).min)
    model.train()
    click_loss(model, batch).backward()
    stored = table.read(node[seeds], time[seeds])
    assert bool(stored.known.all())
    torch.testing.assert_close(stored.vector, encoder(batch.graph.encoder_inputs["user"]).detach())
    assert encoder.weight.grad.any()
    assert model.short_term.not_encoded["user"].grad.any()


def test_stored_vectors_are_older_weights_vectors():
    model, data, table, encoder = with_table(0.0)
    batch = collate(data, torch.arange(150, 190))
    node, time = (getattr(batch.graph, name)["user"] for name in ("node", "node_time"))
    rows = batch.graph.encoder_rows["user"]
    model.train()
    model(batch)
    fresh = encoder(batch.graph.encoder_inputs["user"]).detach()
    assert table.error(node[rows], time[rows], fresh).relative_error == 0.0
    with torch.no_grad():
        encoder.weight *= 1.25
    fresh = encoder(batch.graph.encoder_inputs["user"]).detach()
    assert table.error(node[rows], time[rows], fresh).relative_error == pytest.approx(0.2, abs=1e-5)


def test_a_share_without_a_table_is_named():
    encoder = CountEncoder(TO_USER)
    data, sizes, _ = toy_inputs(LOG.rows, LOG.rows, num_layers=1, user=(encoder, "seeds"))
    model = toy_model(sizes, num_layers=1, encoders={"user": encoder}, nodes="seeds")
    data = replace(data, encoders={"user": replace(data.encoders["user"], share=0.5)})
    with pytest.raises(ValueError, match=r"EncodedNodes\(share=\.\.\.\) is for a model with vector_tables"):
        model(collate(data, torch.arange(150, 190)))


def test_wrong_options():
    encoder = CountEncoder(TO_USER)
    data, sizes, _ = toy_inputs(LOG.rows, LOG.rows, user=(encoder, "seeds"))
    encoders = {"user": encoder}
    with pytest.raises(ValueError, match=r'nothing is read from vector_tables: take "seeds"'):
        toy_model(sizes, encoders=encoders, tables={"user": VectorTable(5, 2, period=1)})
    with pytest.raises(ValueError, match="vectors of 2 channels, its table of 3"):
        toy_model(sizes, encoders=encoders, nodes="seeds", tables={"user": VectorTable(5, 3, period=1)})
    with pytest.raises(ValueError, match="node types with an encoder, got 'item'"):
        toy_model(sizes, encoders=encoders, nodes="seeds", tables={"item": VectorTable(5, 2, period=1)})
    with pytest.raises(ValueError, match=r"share=0\.5 is of the nodes beside the seeds"):
        EncodedNodes(reader=data.encoders["user"].reader, prepare=encoder.prepare, share=0.5)
