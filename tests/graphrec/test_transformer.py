"""BERT's block against torch's own encoder layer, with padding, places and dropout."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from graphrec.nn.transformer import TransformerBlock, attend

NUM_ROWS, LENGTH, CHANNELS, HEADS, INNER = 4, 7, 12, 3, 20
MASK = torch.arange(LENGTH) < torch.tensor([1, 7, 4, 6])[:, None]
# name in our block: name in torch's layer
SAME = {
    "lin_query_key_value.weight": "self_attn.in_proj_weight",
    "lin_query_key_value.bias": "self_attn.in_proj_bias",
    "lin_gathered.weight": "self_attn.out_proj.weight",
    "lin_gathered.bias": "self_attn.out_proj.bias",
    "lin_inner.weight": "linear1.weight",
    "lin_inner.bias": "linear1.bias",
    "lin_outer.weight": "linear2.weight",
    "lin_outer.bias": "linear2.bias",
    "norm_gathered.weight": "norm1.weight",
    "norm_gathered.bias": "norm1.bias",
    "norm_out.weight": "norm2.weight",
    "norm_out.bias": "norm2.bias",
}


def block_and_layer():
    """Return the two with the same random weights, in float64."""
    torch.manual_seed(0)
    block = TransformerBlock(CHANNELS, num_heads=HEADS, inner_channels=INNER).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(std=0.5)
    layer = nn.TransformerEncoderLayer(
        CHANNELS, HEADS, INNER, dropout=0.0, activation="gelu", batch_first=True, norm_first=False
    ).double()
    layer.load_state_dict({SAME[name]: value for name, value in block.state_dict().items()})
    return block, layer


@pytest.mark.parametrize("mask", [MASK, None])
def test_is_torchs_encoder_layer_in_values_and_gradients(mask):
    block, layer = block_and_layer()
    x = torch.randn(NUM_ROWS, LENGTH, CHANNELS, dtype=torch.float64)
    real = MASK if mask is not None else torch.ones_like(MASK)
    results = []
    for module in (block, layer):
        x_in = x.clone().requires_grad_()
        out = module(x_in, mask) if module is block else module(x_in, src_key_padding_mask=~real)
        weight = torch.linspace(-1, 2, int(real.sum()) * CHANNELS, dtype=torch.float64).view(-1, CHANNELS)
        (out[real] * weight).sum().backward()
        results.append((out[real], x_in.grad))
    torch.testing.assert_close(results[0], results[1])
    of_layer = dict(layer.named_parameters())
    for name, parameter in block.named_parameters():
        assert parameter.grad.abs().sum() > 0
        torch.testing.assert_close(parameter.grad, of_layer[SAME[name]].grad)


def test_places_give_those_tokens_alone():
    block, _ = block_and_layer()
    x = torch.randn(NUM_ROWS, LENGTH, CHANNELS, dtype=torch.float64)
    place = torch.tensor([[0, 0], [5, 2], [3, 0], [1, 5]])
    expected = block(x, MASK)[torch.arange(NUM_ROWS)[:, None], place]
    torch.testing.assert_close(block(x, MASK, place), expected)


def test_attention_is_what_the_block_gathers_with():
    block, _ = block_and_layer()
    x = torch.randn(NUM_ROWS, LENGTH, CHANNELS, dtype=torch.float64)
    weight = block.attention(x, MASK)
    assert weight.shape == (NUM_ROWS, HEADS, LENGTH, LENGTH)
    torch.testing.assert_close(weight.sum(dim=-1), torch.ones_like(weight[..., 0]))
    assert weight.masked_select(~MASK[:, None, None, :]).eq(0).all()
    value = functional.linear(
        x, block.lin_query_key_value.weight[2 * CHANNELS :], block.lin_query_key_value.bias[2 * CHANNELS :]
    )
    gathered = (weight @ value.unflatten(-1, (HEADS, -1)).transpose(1, 2)).transpose(1, 2).flatten(2)
    y = block.norm_gathered(x + block.lin_gathered(gathered))
    expected = block.norm_out(y + block.lin_outer(functional.gelu(block.lin_inner(y))))
    torch.testing.assert_close(block(x, MASK)[MASK], expected[MASK])


@pytest.mark.parametrize("masked", [False, True])
def test_in_bfloat16_on_a_cpu_attention_is_close_in_values_and_gradients(masked):
    torch.manual_seed(1)
    parts = [torch.randn(NUM_ROWS, HEADS, LENGTH, 8) for _ in range(3)]
    mask = MASK[:, None, None, :] if masked else None
    weight = torch.randn(NUM_ROWS, HEADS, LENGTH, 8)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        given = [part.to(dtype).detach().clone().requires_grad_() for part in parts]
        out = attend(*given, mask=mask)
        assert out.dtype == dtype
        (out.float() * weight).sum().backward()
        found[dtype] = [out.float(), *(part.grad.float() for part in given)]
    for exact, close in zip(*found.values(), strict=True):
        assert (exact - close).norm() < 0.02 * exact.norm()
    if masked:
        padded = found[torch.bfloat16][3].masked_select(~MASK[:, None, :, None])
        assert bool((padded == 0).all()), "no gradient reaches padding's values"
    assert not torch.equal(attend(*given, mask=mask, dropout=0.5), attend(*given, mask=mask))


def test_dropout_acts_in_training_alone():
    x = torch.randn(NUM_ROWS, LENGTH, CHANNELS)
    for options in ({"dropout": 0.5}, {"attention_dropout": 0.5}):
        block = TransformerBlock(CHANNELS, num_heads=HEADS, **options)
        assert not torch.equal(block(x), block(x))
        block.eval()
        assert torch.equal(block(x), block(x))


def test_heads_must_share_the_channels():
    with pytest.raises(ValueError, match="multiple of num_heads, got channels=12 and num_heads=5"):
        TransformerBlock(12, num_heads=5)
