"""Attention with encoded time: the layer of TGAT (Xu et al., ICLR 2020) over sampled neighbours.

Axis letters: D destinations, S distinct sources, K neighbours, H heads, C channels of a head, T of a time.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from graphrec.nn.precision import at_least_float32


class TimeEncoding(nn.Module):
    r"""Spans of time as vectors whose inner products depend on the difference of the spans alone.

    .. math:: \Phi(t) = \big[\cos(\omega_1 t + b_1), \dots, \cos(\omega_T t + b_T)\big] / \sqrt T

    with learned frequencies (the authors' form of equation 5 of the paper, which has a sine beside each
    cosine and no phase). They start between one and ten thousandth a unit, in equal ratios.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.frequency = nn.Parameter(10 ** -torch.linspace(0, 4, channels))
        self.phase = nn.Parameter(torch.zeros(channels))

    def forward(self, span: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape channels"]:
        """Encode spans of any shape; an hour is a good unit for behaviour over weeks."""
        return torch.cos(span[..., None] * self.frequency + self.phase) / len(self.phase) ** 0.5


class TGATLayer(nn.Module):
    r"""Let each node attend to its neighbours with their edges and ages (TGAT, equations 6 to 8).

    .. math::
        q = W_Q [h_i \| \Phi(0)], \quad k_j = W_K [h_j \| e_j \| \Phi(t - t_j)], \quad
        v_j = W_V [h_j \| e_j \| \Phi(t - t_j)], \qquad
        h'_i = W_2 \operatorname{ReLU}\big(W_1 [\textstyle\sum_j \alpha_j v_j \| h_i] + b_1\big) + b_2

    with a softmax of :math:`q^\top k_j / \sqrt C` over the node's neighbours. A node without any has zeros
    for the sum. Edge attributes stand beside the neighbour's vector, as the paper's section 3.4 says.

    Args:
        in_channels: size of the vectors of destinations and sources.
        out_channels: size of the output, a multiple of ``num_heads``.
        time_channels: size of an encoded time.
        edge_channels: size of the edges' attributes, 0 for none.
        num_heads: heads (paper: 2).
        dropout: of the attention's weights.

    """

    def __init__(
        self,
        in_channels: tuple[int, int],
        out_channels: int,
        *,
        time_channels: int,
        edge_channels: int = 0,
        num_heads: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if out_channels % num_heads:
            raise ValueError(f"out_channels={out_channels} must be a multiple of num_heads={num_heads}")
        self.num_heads, self.source_channels = num_heads, in_channels[1]
        self.time = TimeEncoding(time_channels)
        beside = edge_channels + time_channels
        self.lin_query = nn.Linear(in_channels[0] + time_channels, out_channels, bias=False)
        self.lin_key = nn.Linear(in_channels[1] + beside, out_channels, bias=False)
        self.lin_value = nn.Linear(in_channels[1] + beside, out_channels, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = nn.Sequential(
            nn.Linear(out_channels + in_channels[0], out_channels),
            nn.ReLU(),
            nn.Linear(out_channels, out_channels),
        )

    def forward(
        self,
        x: Float[Tensor, "num_destinations destination_channels"],
        source_x: Float[Tensor, "num_sources source_channels"],
        neighbor: Int[Tensor, "num_destinations num_neighbors"],
        mask: Bool[Tensor, "num_destinations num_neighbors"],
        age: Float[Tensor, "num_destinations num_neighbors"],
        edge_attr: Float[Tensor, "num_destinations num_neighbors edge_channels"],
    ) -> Float[Tensor, "num_destinations out_channels"]:
        """Return the new vectors of the destination nodes.

        Args:
            x: vectors of the destination nodes.
            source_x: vectors of the distinct source nodes.
            neighbor: rows of ``source_x``; a padding slot holds any valid row.
            mask: True for a real neighbour.
            age: time from the edge to the query.
            edge_attr: attributes of the edges, (.., 0) for none.

        """
        now = self.time(age.new_zeros(1)).expand(len(x), -1)
        query_DHC = self.lin_query(torch.cat([x, now], dim=1)).unflatten(1, (self.num_heads, -1))
        beside_DKB = torch.cat([edge_attr, self.time(age)], dim=-1)
        # a linear map of vectors side by side: the neighbours' part once a node, the rest once an edge
        key_DKHC, value_DKHC = (
            (
                functional.embedding(neighbor, source_x @ lin.weight[:, : self.source_channels].T)
                + beside_DKB @ lin.weight[:, self.source_channels :].T
            ).unflatten(2, (self.num_heads, -1))
            for lin in (self.lin_key, self.lin_value)
        )
        logit_DKH = torch.einsum("dhc,dkhc->dkh", query_DHC, key_DKHC) / query_DHC.shape[-1] ** 0.5
        logit_DKH = at_least_float32(logit_DKH)  # the softmax, where products are bfloat16
        logit_DKH = logit_DKH.masked_fill(~mask[..., None], torch.finfo(logit_DKH.dtype).min)
        alpha_DKH = self.dropout(logit_DKH.softmax(dim=1) * mask[..., None])
        gathered = torch.einsum("dkh,dkhc->dhc", alpha_DKH, value_DKHC).flatten(1)
        out: Tensor = self.feed_forward(torch.cat([gathered, x], dim=1))
        return out
