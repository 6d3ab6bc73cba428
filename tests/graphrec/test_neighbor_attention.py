"""The compiled attention and the projected tables against torch's operations, values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphrec.models.inputs import NodeFields
from graphrec.nn import FieldEmbedding
from graphrec.nn.bipartite_gat import FieldInput
from graphrec.nn.neighbor_attention import neighbor_attention, twice_differentiable


def attention_inputs(seed, destinations, sources, slots, heads, channels, attributes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()

    neighbor = torch.randint(0, sources, (destinations, slots), generator=generator)
    mask = torch.rand(destinations, slots, generator=generator) < 0.6
    values = draw(destinations, heads), draw(sources, heads), draw(sources, heads, channels)
    edge_attr = draw(destinations, slots, attributes).detach()
    return (*values, neighbor, mask, edge_attr, draw(heads, attributes), 0.2)


def gradients(inputs, weights):
    out = neighbor_attention(*inputs)
    wanted = [value for value in inputs if isinstance(value, torch.Tensor) and value.requires_grad]
    total = sum((part * weight).sum() for part, weight in zip(out, weights, strict=True))
    return out, torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True)


@given(
    seed=st.integers(0, 1000),
    sizes=st.tuples(*(st.integers(1, 5) for _ in range(5)), st.integers(0, 3)),
    half=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_loop_equals_operations(seed, sizes, half):
    inputs = attention_inputs(seed, *sizes, dtype=torch.float32 if half else torch.float64)
    destinations, _, _, heads, channels, attributes = sizes
    weights = torch.randn(destinations, heads, channels), torch.randn(destinations, heads, attributes)
    values, found = gradients(inputs, weights)
    with twice_differentiable():
        expected_values, expected = gradients(inputs, weights)
    torch.testing.assert_close(values, expected_values)
    torch.testing.assert_close(found, expected)


def test_hand_worked():
    """Logits 1 + 0 and 1 - 2 (below zero: a fifth), weights 1 / (1 + e^-1.2) and the rest."""
    one, zero = torch.ones(1, 1), torch.zeros(1, 0)
    source = torch.tensor([[[1.0]], [[3.0]], [[50.0]]])
    out, pooled = neighbor_attention(
        one,
        torch.tensor([[0.0], [-2.0], [9.0]]),
        source,
        torch.tensor([[0, 1, 2]]),
        torch.tensor([[True, True, False]]),
        torch.zeros(1, 3, 0),
        zero,
        0.2,
    )
    share = 1 / (1 + torch.exp(torch.tensor(-1.2)))
    torch.testing.assert_close(out, (share + 3 * (1 - share)).reshape(1, 1, 1))
    assert pooled.shape == (1, 1, 0)


def test_second_derivatives_are_refused_but_where_they_are_asked_for():
    inputs = attention_inputs(3, 4, 5, 3, 2, 3, 2)

    def second(inputs):
        (first,) = torch.autograd.grad(
            neighbor_attention(*inputs)[0].square().sum(), inputs[2], create_graph=True
        )
        return torch.autograd.grad(first.square().sum(), inputs[2])[0]

    with pytest.raises(RuntimeError, match="twice_differentiable"):
        second(inputs)
    with twice_differentiable():
        assert second(inputs).abs().sum() > 0
        fixed = list(inputs)
        torch.autograd.gradgradcheck(lambda s: neighbor_attention(*fixed[:2], s, *fixed[3:]), (inputs[2],))


@given(seed=st.integers(0, 1000), rows=st.integers(1, 9), bag=st.integers(0, 4), dense=st.integers(0, 2))
@settings(max_examples=30, deadline=None)
def test_projected_tables_equal_projected_fields(seed, rows, bag, dense):
    """What is never made, made: field vectors side by side through linear layers, values and gradients."""
    torch.manual_seed(seed)
    embedding = FieldEmbedding((3, 70, 2), 4, num_bag_categories=6 if bag else 0).double()
    torch.nn.init.normal_(embedding.table.weight)
    fields = NodeFields(
        codes=torch.stack([torch.randint(0, size, (rows,)) for size in (3, 70, 2)], dim=1),
        bag=torch.randint(0, 6, (rows, bag)),
    )
    numbers = torch.randn(rows, dense, dtype=torch.float64)
    in_channels = 4 * embedding.num_fields + dense
    layers = [torch.nn.Linear(in_channels, size, bias=False).double() for size in (5, 2)]
    first = [rows, rows // 2 + 1]
    given_bag = fields.bag if bag else None
    found = FieldInput(embedding, fields.codes, given_bag, numbers).project(layers, first)
    made = torch.cat([embedding(fields.codes, given_bag)[0].flatten(1), numbers], dim=1)
    expected = [layer(made[:count]) for layer, count in zip(layers, first, strict=True)]
    torch.testing.assert_close(found, expected)
    parameters = [embedding.table.weight, *(layer.weight for layer in layers)]
    torch.testing.assert_close(
        torch.autograd.grad(sum(value.square().sum() for value in found), parameters),
        torch.autograd.grad(sum(value.square().sum() for value in expected), parameters),
    )
