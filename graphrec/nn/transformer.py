"""A block of BERT's encoder: self-attention and a feed-forward layer, each normalised after its sum.

SASRec's block (``self_attention.py``) is another one: causal, normalised before the attention, ReLU, no map
of the gathered values, and twice differentiable.

Axis letters: N rows, L tokens (Q querying, K keyed), H heads, C channels.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional


class TransformerBlock(nn.Module):
    r"""Let every token gather from all tokens of its row (Devlin et al., NAACL 2019, after Vaswani et al.).

    .. math::
        Y = \operatorname{LN}\big(X + W_O \operatorname{Attention}(X W_Q, X W_K, X W_V)\big), \qquad
        Z = \operatorname{LN}\big(Y + W_2 \operatorname{GELU}(W_1 Y)\big)

    Difference from BERT: no dropout of the attention's weights unless asked for. On a CPU torch's fused
    kernel has none and a step of attention would take three times as long; dropout acts on the output of
    both parts, as there.

    Args:
        channels: size of the vectors, a multiple of ``num_heads``.
        num_heads: heads.
        inner_channels: size inside the feed-forward layer; ``None``: four times ``channels``.
        dropout: of the output of the attention and of the feed-forward layer.
        attention_dropout: of the attention's weights.

    """

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int,
        inner_channels: int | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_heads < 1 or channels < 1 or channels % num_heads:
            raise ValueError(
                f"channels must be a positive multiple of num_heads, got channels={channels} and "
                f"num_heads={num_heads}"
            )
        inner_channels = 4 * channels if inner_channels is None else inner_channels
        self.num_heads, self.attention_dropout = num_heads, attention_dropout
        self.lin_query_key_value = nn.Linear(channels, 3 * channels)
        self.lin_gathered = nn.Linear(channels, channels)
        self.lin_inner = nn.Linear(channels, inner_channels)
        self.lin_outer = nn.Linear(inner_channels, channels)
        self.norm_gathered, self.norm_out = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "num_rows length channels"],
        mask: Bool[Tensor, "num_rows length"] | None = None,
        place: Int64[Tensor, "num_rows num_places"] | None = None,
    ) -> Float[Tensor, "num_rows num_out channels"]:
        """Return the new vectors of the tokens; those of padding are to be ignored.

        Args:
            x: vectors of the tokens.
            mask: True for a token, at least one in each row; ``None``: nothing is padded.
            place: tokens of each row whose new vectors are wanted, in this order; ``None``: all.

        """
        wanted = x if place is None else x.gather(1, place[..., None].expand(-1, -1, x.shape[2]))
        query, key, value = self._project(wanted, x)
        gathered_NHLC = attend(
            query,
            key,
            value,
            mask=None if mask is None else mask[:, None, None, :],
            dropout=self.attention_dropout if self.training else 0.0,
        )
        gathered = self.lin_gathered(gathered_NHLC.transpose(1, 2).flatten(2))
        x = self.norm_gathered(wanted + self.dropout(gathered))
        return self.norm_out(x + self.dropout(self.lin_outer(functional.gelu(self.lin_inner(x)))))

    def attention(
        self, x: Float[Tensor, "num_rows length channels"], mask: Bool[Tensor, "num_rows length"]
    ) -> Float[Tensor, "num_rows num_heads length length"]:
        """Return the weights with which a token (third axis) gathers from each token, to look at them."""
        query, key, _ = self._project(x, x)
        logit_NHQK = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        return logit_NHQK.masked_fill(~mask[:, None, None, :], -torch.inf).softmax(dim=-1)

    def _project(self, wanted: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if wanted is x:
            parts = self.lin_query_key_value(x).chunk(3, dim=-1)
        else:
            channels = x.shape[2]
            weight, bias = self.lin_query_key_value.weight, self.lin_query_key_value.bias
            both = functional.linear(x, weight[channels:], bias[channels:]).chunk(2, dim=-1)
            parts = (functional.linear(wanted, weight[:channels], bias[:channels]), *both)
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        return query, key, value


def attend(
    query_NHQC: Float[Tensor, "N H Q C"],
    key_NHKC: Float[Tensor, "N H K C"],
    value_NHKC: Float[Tensor, "N H K C"],
    *,
    mask: Bool[Tensor, "N 1 #Q K"] | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "N H Q C"]:
    """Gather values by the scaled products of queries and keys (Vaswani et al., 2017, equation 1).

    By torch's fused kernel, but for bfloat16 on a CPU: there the fused kernel's training step takes four
    times as long as the formula written out, whose products run in bfloat16 and whose softmax in float32.

    Args:
        query_NHQC: of the tokens that gather.
        key_NHKC: of the tokens that are gathered from.
        value_NHKC: of these.
        mask: True where a token is gathered from; at least one for each row.
        dropout: of the weights.

    """
    if query_NHQC.dtype != torch.bfloat16 or query_NHQC.device.type != "cpu":
        return functional.scaled_dot_product_attention(
            query_NHQC, key_NHKC, value_NHKC, attn_mask=mask, dropout_p=dropout
        )
    logit_NHQK = (query_NHQC * query_NHQC.shape[-1] ** -0.5) @ key_NHKC.transpose(2, 3)
    if mask is not None:
        logit_NHQK = logit_NHQK.masked_fill(~mask, -torch.inf)
    alpha_NHQK = logit_NHQK.float().softmax(dim=-1).to(value_NHKC.dtype)
    return functional.dropout(alpha_NHQK, dropout) @ value_NHKC
