"""LSTTM and DeepFM: attention against the equations on the whole graph, gradients, independence of rows."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from graphrec.models import LSTTM, DeepFMRanker
from graphrec.models.lsttm import SOURCE_TYPE
from graphrec.nn.bipartite_gat import BipartiteGAT, merge_neighbors
from graphrec.training.batches import ShortTermConfig, collate
from graphrec.training.long_term import LongTermSnapshots
from graphrec.training.loop import click_loss
from samplers import MultiHopSampler
from tests.graphrec.toy_data import (
    CLICK,
    DAY,
    NUM_ITEMS,
    NUM_USERS,
    SKIP,
    click_data,
    full_lsttm,
    graph_of,
    sizes,
    toy_log,
)

REVERSE_CLICK, REVERSE_SKIP = ("item", "rev_click", "user"), ("item", "rev_skip", "user")
CHANNELS = {"user": 5, "item": 3}


# ---- attention over several hops -----------------------------------------------------------------


def recent_edges(log, edge_type, node, time, num_neighbors):
    """Edges into a node before a time, the most recent first: (neighbour, edge id), out of every row."""
    forward = edge_type in (CLICK, SKIP)
    clicked = edge_type in (CLICK, REVERSE_CLICK)
    rows = [row for row in log.rows if row[3] == clicked]
    found = [
        (row[2], number, row[0] if forward else row[1])
        for number, row in enumerate(rows)
        if (row[1] if forward else row[0]) == node and row[2] < time
    ]
    found.sort(reverse=True)
    kept = found if num_neighbors == -1 else found[:num_neighbors]
    return [(neighbor, edge_id) for _, edge_id, neighbor in kept]


def slow_layer(conv, own, others, attributes):
    """Equations (2) and (3) for one node."""
    own_projected = conv.lin_destination.weight @ own
    messages = [conv.lin_source.weight @ other for other in others]
    if others:
        logits = []
        for i, message in enumerate(messages):
            logit = conv.attention_destination[0] @ own_projected + conv.attention_source[0] @ message
            if attributes is not None:
                logit = logit + conv.attention_edge[0] @ (conv.lin_edge.weight @ attributes[i])
            logits.append(functional.leaky_relu(logit, 0.2))
        weight = torch.stack(logits).exp()
        weight = weight / weight.sum()
        out = sum(weight[i] * message for i, message in enumerate(messages))
        if attributes is not None:
            out = out + sum(weight[i] * (conv.lin_edge.weight @ a) for i, a in enumerate(attributes))
    else:
        out = own_projected
    if conv.lin_self is not None:
        out = out + conv.lin_self.weight @ own
    return out if conv.activation is None else conv.activation(out)


def slow_vector(gat, log, x, fan_outs, attributes, layer, node_type, node, time, hop):
    """The vector of a node after ``layer`` layers, as seen at ``hop``, by recursion over the whole log."""
    if layer == 0:
        return x[node_type][node]

    def below(kind, number, at):
        return slow_vector(gat, log, x, fan_outs, attributes, layer - 1, kind, number, time, at)

    others, edge_attributes = [], []
    for edge_type, fan_out in fan_outs.items():
        if edge_type[2] == node_type:
            for neighbor, edge_id in recent_edges(log, edge_type, node, time, fan_out[hop]):
                others.append(below(edge_type[0], neighbor, hop + 1))
                edge_attributes.append(None if attributes is None else attributes[edge_type][edge_id])
    conv = gat.convs[layer - 1][node_type]
    return slow_layer(conv, below(node_type, node, hop), others, edge_attributes if attributes else None)


FAN_OUTS = {
    "all neighbours": {e: [-1, -1] for e in (CLICK, REVERSE_CLICK, SKIP, REVERSE_SKIP)},
    "a number a type": {CLICK: [3, 3], REVERSE_CLICK: [2, 2], SKIP: [1, 1], REVERSE_SKIP: [4, 4]},
    "a number a type and hop": {CLICK: [3, 1], REVERSE_CLICK: [1, 2], SKIP: [2, 4], REVERSE_SKIP: [4, 3]},
    "one type left out": {CLICK: [2, 3], REVERSE_CLICK: [3, 2], SKIP: [0, 0], REVERSE_SKIP: [1, 0]},
}


@pytest.mark.parametrize("edge_channels", [0, 2])
@pytest.mark.parametrize("fan_out", FAN_OUTS)
def test_two_layers_equal_the_equations_on_the_whole_graph(fan_out, edge_channels):
    log = toy_log(num_rows=40)
    csrs, fan_outs = graph_of(log), FAN_OUTS[fan_out]
    csrs = {edge_type: csrs[edge_type] for edge_type in fan_outs}
    torch.manual_seed(1)
    gat = BipartiteGAT(
        CHANNELS, SOURCE_TYPE, 4, num_layers=2, edge_channels=edge_channels, self_term=edge_channels > 0
    ).double()
    counts = {"user": NUM_USERS + 1, "item": NUM_ITEMS + 1}
    x = {name: torch.randn(count, CHANNELS[name]).double() for name, count in counts.items()}
    table = {e: torch.randn(csr.num_edges, edge_channels).double() for e, csr in csrs.items()}
    seeds = {
        "user": (torch.tensor([4, 0, NUM_USERS, 4]), torch.tensor([900, 500, 900, 300])),
        "item": (torch.tensor([2, 7]), torch.tensor([960, 1])),  # the last sees nothing
    }
    subgraph = MultiHopSampler(csrs, fan_outs).sample(seeds)
    neighbors = {name: merge_neighbors(subgraph, name, list(csrs)) for name in SOURCE_TYPE}
    edge_attr = None
    if edge_channels:
        edge_attr = {}
        for name, merged in neighbors.items():
            into = [e for e in csrs if e[2] == name]
            longest = max(len(table[e]) for e in into)
            padded = torch.stack([functional.pad(table[e], (0, 0, 0, longest - len(table[e]))) for e in into])
            edge_attr[name] = padded[merged.relation.expand_as(merged.edge_id), merged.edge_id]
    local = {name: x[name][subgraph.node[name]] for name in x}
    out = gat(local, neighbors, subgraph.num_nodes_after_hop, edge_attr)
    for name, (nodes, times) in seeds.items():
        found = out[name][subgraph.seed_index[name]]
        for i, (node, time) in enumerate(zip(nodes.tolist(), times.tolist(), strict=True)):
            attributes = table if edge_channels else None
            expected = slow_vector(gat, log, x, fan_outs, attributes, 2, name, node, time, 0)
            torch.testing.assert_close(found[i], expected)
    assert neighbors["user"].mask.any()
    assert not neighbors["user"].mask.all()


def test_what_padding_holds_has_no_effect():
    data = click_data(toy_log())
    model = full_lsttm(data, long_channels=0).eval()
    batch = collate(data, torch.arange(100, 130))
    graph = batch.graph
    generator = torch.Generator().manual_seed(0)
    neighbors, edge_attr = {}, {}
    for name, source in SOURCE_TYPE.items():
        old = graph.neighbors[name]
        assert not old.mask.all()
        rows = graph.num_nodes_after_hop[source][1]  # those that every layer has
        other = torch.randint(0, rows, old.neighbor.shape, generator=generator)
        neighbors[name] = replace(old, neighbor=old.neighbor.where(old.mask, other))
        noise = torch.randn(graph.edge_attr[name].shape, generator=generator) * 9
        edge_attr[name] = graph.edge_attr[name].where(old.mask[..., None], noise)
    changed = replace(batch, graph=replace(graph, neighbors=neighbors, edge_attr=edge_attr))
    torch.testing.assert_close(model(changed), model(batch), rtol=0, atol=1e-6)
    wide = replace(batch.item, bag=functional.pad(batch.item.bag, (0, 2)))
    torch.testing.assert_close(model(replace(batch, item=wide)), model(batch), rtol=0, atol=1e-6)


# ---- the whole models ----------------------------------------------------------------------------


def snapshots(channels=5):
    generator = torch.Generator().manual_seed(8)
    vectors = {
        "user": torch.randn(4, NUM_USERS + 1, channels, generator=generator),
        "item": torch.randn(4, NUM_ITEMS + 1, channels, generator=generator),
    }
    return LongTermSnapshots(torch.arange(4) * DAY, vectors)


def literal(data):
    """The paper's form: every option off."""
    torch.manual_seed(0)
    return LSTTM(sizes(0), long_channels=5, channels=6, num_layers=2, hidden_channels=(11, 7))


def make(name):
    long = snapshots()
    if name == "literal":
        data = click_data(toy_log(), snapshots=long, short_term=ShortTermConfig(num_neighbors=4))
        return data, literal(data)
    data = click_data(toy_log(), snapshots=long)
    if name == "DeepFM":
        torch.manual_seed(0)
        return data, DeepFMRanker(sizes(data.dense.shape[1]), channels=6, hidden_channels=(11, 7))
    options = {} if name == "full" else {name: {"fusion": "concatenation", "field_pooling": "sum"}[name]}
    return data, full_lsttm(data, dropout=0.0, **options)


NAMES = ["full", "fusion", "field_pooling", "literal", "DeepFM"]


@pytest.mark.parametrize("name", NAMES)
def test_a_prediction_does_not_depend_on_the_other_rows(name):
    data, model = make(name)
    # fresh tables are so narrow that a wrong neighbour would not show
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    model.eval()
    rows = torch.tensor([510, 3, 77, 300, 301, 302, 450, 77])
    together = model(collate(data, rows))
    alone = torch.cat([model(collate(data, row[None])) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    turned = model(collate(data, rows.flip(0))).flip(0)
    torch.testing.assert_close(together, turned, rtol=1e-4, atol=1e-5)
    assert together.std() > 0.05


@pytest.mark.parametrize("name", NAMES)
def test_gradient_reaches_every_parameter(name):
    data, model = make(name)
    for start in range(100, 500, 100):
        click_loss(model, collate(data, torch.arange(start, start + 100))).backward()
    weights = {n: p for n, p in model.named_parameters() if p.numel()}
    unreached = {n for n, p in weights.items() if p.grad is None or not p.grad.abs().sum() > 0}
    # the paper's form reads fields through the graph alone, so their first-order weights are idle, and the
    # item through its ID embedding alone, so the last layer of the item side is
    idle = {f"short_term.fields.{node_type}.linear.weight" for node_type in ("user", "item")}
    idle |= {n for n in weights if n.startswith("short_term.gat.convs.1.item.")}
    assert unreached == (idle if name == "literal" else set())


@pytest.mark.parametrize("name", ["full", "fusion", "literal"])
def test_click_loss_moves_no_long_term_vector(name):
    """The gradient block of section 3.5, and that the vectors are read all the same."""
    data, model = make(name)
    long = {"long_user": torch.randn(50, 5), "long_item": torch.randn(50, 5)}
    batch = replace(collate(data, torch.arange(200, 250)), **long)
    before = click_loss(model, batch)
    for vectors in long.values():
        vectors.requires_grad_()
    click_loss(model, batch).backward()
    for vectors in long.values():
        assert vectors.grad is None
    assert model.short_term.fields["user"].table.weight.grad.abs().sum() > 0
    assert model.long_projection.weight.grad.abs().sum() > 0
    changed = click_loss(model, replace(batch, long_user=long["long_user"].detach() + 3))
    assert changed != before


def test_the_literal_form_reads_the_item_through_the_gate_and_the_head_alone():
    """Its fields are the fused user, the item's ID embedding and the contexts (6), without counts."""
    data, model = make("literal")
    batch = collate(data, torch.arange(200, 210))
    assert model.head.mlp[0].in_features == 3 * 6
    logit = model(batch)
    assert logit.shape == (10,)
    assert torch.equal(model(replace(batch, dense=batch.dense + 5, long_item=batch.long_item + 5)), logit)
    assert torch.equal(model(replace(batch, user=batch.user[torch.zeros(10).long()])), logit)
    assert not torch.equal(model(replace(batch, item_id=batch.item_id.flip(0))), logit)


def test_without_long_term_vectors_there_is_no_gate():
    data = click_data(toy_log())
    model = full_lsttm(data, long_channels=0)
    assert not hasattr(model, "fusion")
    assert model(collate(data, torch.arange(7))).shape == (7,)


def test_past_counts_enter_only_where_asked_for():
    data = click_data(toy_log())
    batch = collate(data, torch.arange(300, 320))
    other = replace(batch, dense=batch.dense.flip(0))
    torch.manual_seed(0)
    without = DeepFMRanker(sizes(0))
    assert torch.equal(without(batch), without(other))
    counted = DeepFMRanker(sizes(data.dense.shape[1]))
    assert not torch.equal(counted(batch), counted(other))


def test_a_batch_without_a_graph_is_told():
    data, model = make("full")
    batch = collate(data.with_graph(None), torch.arange(5))
    assert batch.graph is None
    with pytest.raises(ValueError, match="short-term graph"):
        model(batch)


def test_unseen_users_and_items_are_scored():
    data, model = make("full")
    impressions = replace(
        data.impressions,
        user=torch.full_like(data.impressions.user, NUM_USERS),
        item=torch.full_like(data.impressions.item, NUM_ITEMS),
    )
    logit = model.eval()(collate(replace(data, impressions=impressions), torch.arange(400, 405)))
    assert logit.isfinite().all()
