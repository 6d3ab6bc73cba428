"""Causal self-attention over a user's past events: the encoder of SASRec (Kang and McAuley, ICDM 2018).

Axis letters: N rows, L events (Q querying, K keyed), H heads, C channels.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from graphrec.nn.precision import at_least_float32


class SASRecBlock(nn.Module):
    r"""One block: every event gathers from itself and the older ones, then goes through two linear maps.

    .. math::
        S = E + \operatorname{Attention}(\hat E W_Q, \hat E W_K, \hat E W_V), \qquad
        F = S + W_2 \operatorname{ReLU}(W_1 \hat S + b_1) + b_2

    with the hat for layer normalisation (section 3.2). The logits are divided by the root of a head's
    channels (equation 2); dropout acts on the output of both parts.

    Args:
        channels: size of the vectors, a multiple of ``num_heads``.
        num_heads: heads (paper: 1).
        dropout: of the output of the attention and of the feed-forward layers.

    """

    def __init__(self, channels: int, *, num_heads: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"channels={channels} must be a multiple of num_heads={num_heads}")
        self.num_heads = num_heads
        self.norm_events, self.norm_gathered = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.lin_query = nn.Linear(channels, channels)
        self.lin_key = nn.Linear(channels, channels)
        self.lin_value = nn.Linear(channels, channels)
        self.lin_inner = nn.Linear(channels, channels)
        self.lin_outer = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "num_rows length channels"], mask: Bool[Tensor, "num_rows length"]
    ) -> Float[Tensor, "num_rows length channels"]:
        """Return the new vectors of the events, the most recent first; zero where padded."""
        events = self.norm_events(x)
        query_NHLC, key_NHLC, value_NHLC = (
            lin(events).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for lin in (self.lin_query, self.lin_key, self.lin_value)
        )
        length = x.shape[1]
        # the most recent event stands first, so the past of event q are the places from q on
        past_QK = torch.ones(length, length, dtype=torch.bool, device=x.device).triu()
        seen_NQK = past_QK & mask[:, None, :]
        # written out, not as the fused kernel, which has no second derivative
        logit_NHQK = query_NHLC @ key_NHLC.transpose(2, 3) / query_NHLC.shape[-1] ** 0.5
        logit_NHQK = at_least_float32(logit_NHQK)  # the softmax, where products are bfloat16
        logit_NHQK = logit_NHQK.masked_fill(~seen_NQK[:, None], torch.finfo(logit_NHQK.dtype).min)
        alpha_NHQK = logit_NHQK.softmax(dim=-1) * seen_NQK[:, None]
        gathered = (alpha_NHQK @ value_NHLC).transpose(1, 2).flatten(2)
        out = x + self.dropout(gathered)
        hidden = functional.relu(self.lin_inner(self.norm_gathered(out)))
        out = out + self.dropout(self.lin_outer(hidden))
        return out * mask[..., None]


class SASRecEncoder(nn.Module):
    """Places and blocks over a sequence of events; the vector of the most recent one stands for the user.

    Places are counted from the most recent event, so that a sequence's vector does not depend on how far it
    is padded; the paper, whose sequences are padded on the left, counts the same way from the other end.

    Args:
        channels: size of the vectors.
        length: events of a sequence at most.
        num_blocks: blocks (paper: 2).
        num_heads: heads of each block (paper: 1).
        dropout: of the input and of each block.

    """

    def __init__(
        self, channels: int, length: int, *, num_blocks: int = 2, num_heads: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.place = nn.Parameter(0.01 * torch.randn(length, channels))
        self.blocks = nn.ModuleList(
            SASRecBlock(channels, num_heads=num_heads, dropout=dropout) for _ in range(num_blocks)
        )
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(channels)

    def forward(
        self, x: Float[Tensor, "num_rows length channels"], mask: Bool[Tensor, "num_rows length"]
    ) -> Float[Tensor, "num_rows channels"]:
        """Return a vector for each row, zero where it has no event.

        Args:
            x: the events, the most recent first.
            mask: True for an event; padding stands behind all events.

        Raises:
            ValueError: the sequences are longer than the encoder has places.

        """
        if x.shape[1] > len(self.place):
            raise ValueError(f"the encoder has {len(self.place)} places, the sequences {x.shape[1]} events")
        x = self.dropout(x * x.shape[-1] ** 0.5 + self.place[: x.shape[1]]) * mask[..., None]
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x[:, 0]) * mask[:, :1]
