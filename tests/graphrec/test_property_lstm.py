"""The property-gated LSTM: the formula step by step, torch's LSTM, no path from property to candidate."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from graphrec.nn.property_lstm import PropertyGatedLSTM

N, L, E, P, H = 3, 5, 4, 2, 6


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return PropertyGatedLSTM(E, P, H).double()


def inputs(length=L):
    torch.manual_seed(1)
    return (
        torch.randn(N, length, E, dtype=torch.float64),
        torch.randn(N, length, P, dtype=torch.float64),
    )


def parts_of(layer):
    """Weights of input gate, forget gate, candidate and output gate; None where there is no property."""
    on_input, on_hidden, bias = (
        part.chunk(4) for part in (layer.weight_input, layer.weight_hidden, layer.bias)
    )
    i, f, o = layer.weight_property.chunk(3)
    return list(zip(on_input, on_hidden, bias, (i, f, None, o), strict=True))


def slow(layer, x, properties):
    """The formula, a row and a step at a time."""
    out = torch.zeros(len(x), x.shape[1], H, dtype=x.dtype)
    for n in range(len(x)):
        h = c = torch.zeros(H, dtype=x.dtype)
        for t in range(x.shape[1]):
            gates = []
            for on_input, on_hidden, bias, on_property in parts_of(layer):
                value = on_input @ x[n, t] + on_hidden @ h + bias
                gates.append(value if on_property is None else value + on_property @ properties[n, t])
            i, f, candidate, o = gates
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(candidate)
            h = torch.sigmoid(o) * torch.tanh(c)
            out[n, t] = h
    return out


def test_formula(layer):
    x, properties = inputs()
    torch.testing.assert_close(layer(x, properties), slow(layer, x, properties), rtol=1e-12, atol=1e-12)


def test_with_zero_property_weights_it_is_an_lstm(layer):
    x, properties = inputs()
    nn.init.zeros_(layer.weight_property)
    plain = nn.LSTM(E, H, batch_first=True).double()
    with torch.no_grad():
        plain.weight_ih_l0.copy_(layer.weight_input)
        plain.weight_hh_l0.copy_(layer.weight_hidden)
        plain.bias_ih_l0.copy_(layer.bias)
        plain.bias_hh_l0.zero_()
    torch.testing.assert_close(layer(x, properties), plain(x)[0], rtol=1e-12, atol=1e-12)
    none = PropertyGatedLSTM(E, 0, H).double()
    none.load_state_dict({**layer.state_dict(), "weight_property": torch.zeros(3 * H, 0)})
    torch.testing.assert_close(none(x, properties[..., :0]), plain(x)[0], rtol=1e-12, atol=1e-12)


def test_no_path_leads_from_the_property_into_the_candidate(layer):
    # gates held wide open by their biases: the state is the candidate's alone
    x, properties = inputs(length=1)
    with torch.no_grad():
        i, f, _, o = layer.bias.chunk(4)
        for gate in (i, f, o):
            gate.fill_(800.0)  # a sigmoid of exactly one, whatever the property adds
    properties.requires_grad_()
    out = layer(x, properties)
    on_input, _, bias, _ = parts_of(layer)[2]
    torch.testing.assert_close(out[:, 0], torch.tanh(torch.tanh(x[:, 0] @ on_input.T + bias)))
    out.sum().backward()
    assert not properties.grad.any()
    assert not layer.weight_property.grad.any()
    # and with gates that are not, the property moves the state
    layer.reset_parameters()
    layer(x, properties).sum().backward()
    assert bool(properties.grad.any())


def test_padding_behind_changes_no_step(layer):
    x, properties = inputs()
    longer = [torch.cat([part, torch.full_like(part[:, :2], 9.0)], dim=1) for part in (x, properties)]
    torch.testing.assert_close(layer(*longer)[:, :L], layer(x, properties), rtol=1e-13, atol=1e-13)


def test_derivatives(layer):
    x, properties = inputs(length=2)
    given = [x[:2].requires_grad_(), properties[:2].requires_grad_()]
    assert gradcheck(layer, given)
    assert gradgradcheck(layer, given)
    layer(*given).sum().backward()
    assert all(bool(parameter.grad.any()) for parameter in layer.parameters())


@pytest.mark.parametrize(("width", "of_property"), [(E + 1, P), (E, P - 1), (E - 1, P + 1), (P, E)])
def test_other_widths_are_refused_before_torch_reads_beyond_its_memory(layer, width, of_property):
    x, properties = torch.zeros(N, L, width).double(), torch.zeros(N, L, of_property).double()
    with pytest.raises(ValueError, match=rf"4 channels of behaviours and 2 .* got {width} and {of_property}"):
        layer(x, properties)
