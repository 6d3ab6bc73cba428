"""Layers against their equations, PyTorch Geometric, and hand-worked numbers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from graphrec.nn import (
    ConcatenationFusion,
    DeepFM,
    FieldEmbedding,
    GATConv,
    LongShortTermGate,
    second_order_interactions,
)


def random_neighborhood(seed, num_destinations=6, num_sources=9, num_neighbors=4):
    generator = torch.Generator().manual_seed(seed)
    # without repetition inside a row: PyG's reference below counts an edge once too, but keeps things plain
    order = torch.rand(num_destinations, num_sources, generator=generator).argsort(dim=1)
    neighbor = order[:, :num_neighbors]
    mask = torch.arange(num_neighbors) < torch.randint(
        1, num_neighbors + 1, (num_destinations, 1), generator=generator
    )
    x = torch.randn(num_destinations, 5, generator=generator)
    source_x = torch.randn(num_sources, 7, generator=generator)
    return x, source_x, neighbor, mask


@pytest.mark.parametrize("num_heads", [1, 3])
@pytest.mark.parametrize("edge_channels", [0, 2])
def test_gat_equals_pyg(num_heads, edge_channels):
    from torch_geometric.nn import GATConv as PyGGATConv

    x, source_x, neighbor, mask = random_neighborhood(1)
    conv = GATConv((5, 7), 4, num_heads=num_heads, edge_channels=edge_channels, activation=None)
    edge_attr = torch.randn(*mask.shape, edge_channels) if edge_channels else None
    reference = PyGGATConv(
        (7, 5),
        4,
        heads=num_heads,
        add_self_loops=False,
        bias=False,
        edge_dim=edge_channels or None,
        residual=False,
    )
    with torch.no_grad():
        reference.lin_src.weight.copy_(conv.lin_source.weight)
        reference.lin_dst.weight.copy_(conv.lin_destination.weight)
        reference.att_src.copy_(conv.attention_source[None])
        reference.att_dst.copy_(conv.attention_destination[None])
        if edge_channels:
            reference.lin_edge.weight.copy_(conv.lin_edge.weight)
            reference.att_edge.copy_(conv.attention_edge[None])
    destination, slot = mask.nonzero(as_tuple=True)
    edge_index = torch.stack([neighbor[destination, slot], destination])
    if edge_channels:
        # PyG's message leaves the edge's projection out; ours adds it, so compare with it taken off again
        expected = reference((source_x, x), edge_index, edge_attr=edge_attr[destination, slot])
        _, (_, alpha) = reference(
            (source_x, x), edge_index, edge_attr=edge_attr[destination, slot], return_attention_weights=True
        )
        message = conv.lin_edge(edge_attr[destination, slot]).unflatten(-1, (num_heads, 4)) * alpha[..., None]
        expected = expected + torch.zeros(len(x), num_heads, 4).index_add(0, destination, message).flatten(1)
    else:
        expected = reference((source_x, x), edge_index)
    torch.testing.assert_close(conv(x, source_x, neighbor, mask, edge_attr), expected)


def test_gat_all_neighbors_equals_equation():
    """Equations (2) and (3) written out for one node."""
    x, source_x, neighbor, mask = random_neighborhood(2)
    conv = GATConv((5, 7), 4)
    out = conv(x, source_x, neighbor, mask)
    w = torch.cat([conv.attention_destination[0], conv.attention_source[0]])
    for i in range(len(x)):
        own = conv.lin_destination.weight @ x[i]
        others = [conv.lin_source.weight @ source_x[j] for j in neighbor[i][mask[i]]]
        logits = torch.stack([functional.leaky_relu(w @ torch.cat([own, other]), 0.2) for other in others])
        alpha = logits.exp() / logits.exp().sum()
        expected = functional.elu(sum(a * other for a, other in zip(alpha, others, strict=True)))
        torch.testing.assert_close(out[i], expected)


@given(seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_gat_invariants(seed):
    x, source_x, neighbor, mask = random_neighborhood(seed)
    torch.manual_seed(seed)
    conv = GATConv((5, 7), 4, num_heads=2)
    out = conv(x, source_x, neighbor, mask)
    padded = torch.where(mask, neighbor, (neighbor + 1) % len(source_x))
    torch.testing.assert_close(conv(x, source_x, padded, mask), out)  # what padding holds is of no effect
    order = torch.randperm(neighbor.shape[1])
    torch.testing.assert_close(conv(x, source_x, neighbor[:, order], mask[:, order]), out)
    # rows are independent
    torch.testing.assert_close(conv(x[2:3], source_x, neighbor[2:3], mask[2:3]), out[2:3])


def test_gat_without_neighbors():
    x, source_x, neighbor, mask = random_neighborhood(3)
    mask = mask.clone()
    mask[0] = False
    literal = GATConv((5, 7), 4, empty="zero")
    assert literal(x, source_x, neighbor, mask)[0].eq(0).all()
    ours = GATConv((5, 7), 4)
    torch.testing.assert_close(
        ours(x, source_x, neighbor, mask)[0], functional.elu(ours.lin_destination.weight @ x[0])
    )
    with pytest.raises(ValueError, match="edge_channels=0"):
        ours(x, source_x, neighbor, mask, torch.zeros(*mask.shape, 2))


def test_gat_gradient_reaches_every_parameter():
    x, source_x, neighbor, mask = random_neighborhood(4)
    mask = mask.clone()
    mask[0] = False
    conv = GATConv((5, 7), 4, edge_channels=2, self_term=True)
    conv(x, source_x, neighbor, mask, torch.randn(*mask.shape, 2)).square().sum().backward()
    for name, parameter in conv.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_gate_hand_worked():
    gate = LongShortTermGate(2, 1)
    with torch.no_grad():
        gate.short_weight.copy_(torch.tensor([1.0, 0.0, 2.0]))
        gate.long_weight.copy_(torch.tensor([0.0, 1.0, -1.0]))
    short, long, item = torch.tensor([[1.0, 5.0]]), torch.tensor([[7.0, 2.0]]), torch.tensor([[0.5]])
    # logits: 1 + 2 * 0.5 = 2 and 2 - 0.5 = 1.5
    weight = 1 / (1 + math.exp(-0.5))
    fused, weights = gate(short, long, item)
    torch.testing.assert_close(weights, torch.tensor([[weight, 1 - weight]]))
    torch.testing.assert_close(
        fused, torch.tensor([[weight * 1 + (1 - weight) * 7, weight * 5 + (1 - weight) * 2]])
    )
    assert ConcatenationFusion(2, 1)(short, long, item)[0].shape == (1, 2)


def test_second_order_interactions_by_pairs():
    fields = torch.randn(4, 5, 3, dtype=torch.float64)
    expected = sum((fields[:, i] * fields[:, j]).sum(-1) for i in range(5) for j in range(i + 1, 5))
    torch.testing.assert_close(second_order_interactions(fields), expected)


def test_deepfm_is_the_sum_of_its_parts():
    model = DeepFM(5, 3, dense_channels=2, hidden_channels=(7,))
    fields, linear, dense = torch.randn(4, 5, 3), torch.randn(4), torch.randn(4, 2)
    with torch.no_grad():
        model.bias.fill_(0.3)
        model.dense_weight.copy_(torch.tensor([2.0, -1.0]))
        first, last = model.mlp[0], model.mlp[-1]
        deep = (torch.cat([fields.flatten(1), dense], 1) @ first.weight.T + first.bias).relu()
        deep = deep @ last.weight[0] + last.bias
        expected = 0.3 + linear + 2 * dense[:, 0] - dense[:, 1] + second_order_interactions(fields) + deep
    torch.testing.assert_close(model(fields, linear, dense), expected)


def test_field_embedding():
    embedding = FieldEmbedding([3, 4], 2, num_bag_categories=5)
    with torch.no_grad():
        embedding.linear.weight.copy_(torch.arange(12.0)[:, None])
    codes = torch.tensor([[2, 0], [0, 3]])
    bag = torch.tensor([[1, 4, -1], [-1, -1, -1]])
    vectors, linear = embedding(codes, bag)
    table = embedding.table.weight
    torch.testing.assert_close(vectors[0], torch.stack([table[2], table[3], (table[8] + table[11]) / 2]))
    torch.testing.assert_close(vectors[1], torch.stack([table[0], table[6], torch.zeros(2)]))
    torch.testing.assert_close(linear, torch.tensor([2 + 3 + (8 + 11) / 2, 0 + 6.0]))
    with pytest.raises(ValueError, match="bag"):
        embedding(codes)


def test_fields_are_projected_inside_transforms_of_functions():
    torch.manual_seed(0)
    embedding = FieldEmbedding((5, 4), 3)
    codes, weight = torch.randint(0, 4, (200, 2)), torch.randn(6, 6, requires_grad=True)

    def total(weight):
        return embedding.projected(codes, None, weight, [200], [6])[0].square().sum()

    (expected,) = torch.autograd.grad(total(weight), weight)
    torch.testing.assert_close(torch.func.grad(total)(weight.detach()), expected)
