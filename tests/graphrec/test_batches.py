"""Batches of impressions: every input as of the period's start, by a slow count over the log."""

import math
from dataclasses import replace

import pytest
import torch

from graphrec.training.batches import (
    ShortTermConfig,
    click_batches,
    click_loader,
    collate,
    rows_between,
)
from graphrec.training.long_term import LongTermSnapshots
from samplers import check_no_leak
from tests.graphrec.toy_data import (
    CLICK,
    DAY,
    HOUR,
    NUM_DAYS,
    NUM_ITEMS,
    NUM_USERS,
    SHORT_TERM,
    click_data,
    toy_log,
)

LOG = toy_log()


@pytest.fixture(scope="module")
def data():
    return click_data(LOG)


def past(clicked, as_of, user=None, item=None):
    """Rows of the log before a time, the most recent first."""
    found = [
        (row[2], number, row)
        for number, row in enumerate(LOG.rows)
        if row[3] == clicked and row[2] < as_of and user in (None, row[0]) and item in (None, row[1])
    ]
    return [row for _, _, row in sorted(found, reverse=True)]


def test_a_batch_is_its_rows(data):
    rows = torch.tensor([400, 7, 250])
    batch = collate(data, rows)
    for i, row in enumerate(rows.tolist()):
        user, item, time, clicked = LOG.rows[row]
        assert batch.item_id[i] == item
        assert batch.label[i] == clicked
        assert torch.equal(batch.user.codes[i], data.user_fields.codes[user])
        assert torch.equal(batch.item.bag[i], data.item_fields.bag[item])
        assert batch.context[i].item() == time // HOUR % 24
        assert torch.equal(batch.dense[i], data.dense[row])
        graph = batch.graph
        assert torch.equal(graph.fields["user"].codes[graph.user_row[i]], data.user_fields.codes[user])
        assert torch.equal(graph.fields["item"].codes[graph.item_row[i]], data.item_fields.codes[item])
    assert batch.long_user.shape == batch.long_item.shape == (3, 0)
    assert len(batch) == len(batch.to("cpu")) == 3


def test_neighbors_are_the_most_recent_of_each_type_before_the_period(data):
    rows = torch.arange(60, 520, 23)
    batch = collate(data, rows)
    neighbors = batch.graph.neighbors["user"]
    assert neighbors.relation.tolist() == [0] * 4 + [1] * 4
    hidden = 0
    for i, row in enumerate(rows.tolist()):
        user, as_of = LOG.rows[row][0], int(data.as_of[row])
        for relation, clicked in enumerate((True, False)):
            slots = slice(4 * relation, 4 * relation + 4)
            own = batch.graph.user_row[i]
            mask = neighbors.mask[own, slots]
            expected = past(clicked, as_of, user=user)[:4]
            assert neighbors.edge_time[own, slots][mask].tolist() == [e[2] for e in expected]
            attr = batch.graph.edge_attr["user"][own, slots]
            for slot, edge in enumerate(expected):
                one_hot = [1.0, 0.0] if clicked else [0.0, 1.0]
                age = math.log1p((as_of - edge[2]) / HOUR) / 5
                assert attr[slot].tolist() == pytest.approx([*one_hot, age], abs=1e-6)
            assert attr[len(expected) :].eq(0).all()
            hidden += len(past(clicked, LOG.rows[row][2] + 1, user=user)) - len(
                past(clicked, as_of, user=user)
            )
    assert (
        hidden > 5
    )  # edges of the same period before the impression: known by the query, not as of its start


def test_degrees_are_as_of_the_period(data):
    rows = torch.tensor([500, 250, 20, 0])
    batch = collate(data, rows)
    for i, row in enumerate(rows.tolist()):
        user, item = LOG.rows[row][:2]
        as_of = int(data.as_of[row])
        for name, own, key in (("user", batch.graph.user_row, user), ("item", batch.graph.item_row, item)):
            count = [len(past(clicked, as_of, **{name: key})) for clicked in (True, False)]
            share = [2 * (c + 1) / (sum(count) + 2) - 1 for c in count]
            expected = [math.log1p(c) / 3 for c in count] + share
            assert batch.graph.node_dense[name][own[i]].tolist() == pytest.approx(expected, abs=1e-6)


def test_channels_are_what_the_configuration_says(data):
    batch = collate(data, torch.arange(300, 310))
    assert batch.graph.edge_attr["item"].shape[2] == SHORT_TERM.edge_channels(2) == 3
    assert batch.graph.node_dense["item"].shape[1] == SHORT_TERM.degree_channels(2) == 4
    plain = replace(data, short_term=ShortTermConfig(num_neighbors=2, num_layers=1))
    batch = collate(plain, torch.arange(300, 310))
    assert batch.graph.edge_attr["item"].shape[1:] == (4, 0)  # two of each type
    assert batch.graph.node_dense["item"].shape[1] == 0
    assert plain.short_term.edge_channels(2) == plain.short_term.degree_channels(2) == 0
    assert len(batch.graph.num_nodes_after_hop["user"]) == 2


def test_long_term_vectors_are_those_of_the_day(data):
    vectors = {
        "user": torch.arange(NUM_DAYS)[:, None, None] * 100.0 + torch.arange(NUM_USERS + 1)[:, None],
        "item": torch.arange(NUM_DAYS)[:, None, None] * -100.0 - torch.arange(NUM_ITEMS + 1)[:, None],
    }
    with_vectors = replace(data, snapshots=LongTermSnapshots(torch.arange(NUM_DAYS) * DAY, vectors))
    rows = torch.arange(0, 520, 37)
    batch = collate(with_vectors, rows)
    for i, row in enumerate(rows.tolist()):
        user, item, time, _ = LOG.rows[row]
        assert batch.long_user[i].item() == time // DAY * 100 + user
        assert batch.long_item[i].item() == -(time // DAY * 100 + item)


def test_batches_hold_every_row_once_and_periods_together(data):
    rows = rows_between(data, DAY, 3 * DAY)
    loader = click_loader(data, rows, batch_size=30, shuffle=True, random_seed=4)

    def order(batches):
        return [tuple(row) for b in batches for row in torch.cat([b.item_id[:, None], b.dense], 1).tolist()]

    first, second = order(loader.batches(0)), order(loader.batches(1))
    plain = order(click_batches(data, rows, batch_size=30))
    assert len(loader) == len(list(loader.batches(0))) == -(-len(rows) // 30)
    assert sorted(first) == sorted(second) == sorted(plain)
    assert first != second
    assert order(loader.batches(1, start_batch=2)) == second[60:]
    assert torch.equal(
        torch.cat([b.label for b in click_batches(data, rows, batch_size=30)]), data.impressions.label[rows]
    )
    hours = torch.cat([b.context[:, 0] for b in loader.batches(0)])
    changes = int((hours.diff() != 0).sum()) + 1
    assert changes <= len(data.as_of[rows].unique())  # one run of rows for each period
    keyed = click_batches(data, rows, batch_size=30, epoch=1, start_batch=2, shuffle=True, random_seed=4)
    assert order(keyed) == second[60:]


def test_rows_between_is_half_open(data):
    time = torch.tensor([row[2] for row in LOG.rows])
    start, end = LOG.rows[100][2], LOG.rows[300][2]
    rows = rows_between(data, start, end)
    assert rows.tolist() == [i for i, t in enumerate(time.tolist()) if start <= t < end]
    assert len(rows_between(data, end, end)) == 0


def test_the_check_for_leaks_agrees(data):
    """The sampled edges of a batch lie before each row's own time."""
    from samplers import MultiHopSampler, RecentNeighborSampler

    rows = torch.arange(0, 520, 11)
    sampler = MultiHopSampler(data.csrs, [4, 4], strategy=RecentNeighborSampler)
    subgraph = sampler.sample({"user": (data.impressions.user[rows], data.as_of[rows])})
    check_no_leak(subgraph)
    graph = collate(data, rows).graph
    mask = graph.neighbors["item"].mask[graph.item_row]
    edge_time = graph.neighbors["item"].edge_time[graph.item_row]
    assert (edge_time < data.as_of[rows][:, None])[mask].all()
    assert CLICK in data.csrs


def test_uniform_neighbors_are_any_before_the_query_and_others_than_the_recent(data):
    rows = torch.arange(300, 400)
    uniform = replace(data, short_term=replace(data.short_term, strategy="uniform", num_neighbors=2))
    recent = replace(data, short_term=replace(data.short_term, num_neighbors=2))
    found, again, last = (collate(one, rows).graph for one in (uniform, uniform, recent))
    differs = False
    for name in ("user", "item"):
        edges, others = found.neighbors[name], last.neighbors[name]
        assert torch.equal(edges.edge_id, again.neighbors[name].edge_id)
        seeds = found.num_nodes_after_hop[name][0]
        assert edges.mask[:seeds].sum() == others.mask[:seeds].sum() > 0
        assert (edges.edge_time < int(data.as_of[rows].max()))[edges.mask].all()
        differs |= not torch.equal(edges.edge_id[:seeds], others.edge_id[:seeds])
    assert differs
