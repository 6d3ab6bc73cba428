"""Fusion of a user's short-term and long-term vectors: LSTTM equations (4) and (5)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LongShortTermGate(nn.Module):
    r"""Weigh the two vectors of a user for one target item.

    .. math::
        u = g_s u^s + g_l u^l, \qquad
        [g_s, g_l] = \operatorname{softmax}\big(w_s^\top [u^s \| d],\; w_l^\top [u^l \| d]\big)

    Equations (4) and (5) of LSTTM (Xie et al., WSDM 2022). Both user vectors have ``channels`` values,
    the target item's embedding ``d`` has ``item_channels``. The weights start at zero: an even gate.
    """

    def __init__(self, channels: int, item_channels: int) -> None:
        super().__init__()
        self.short_weight = nn.Parameter(torch.zeros(channels + item_channels))
        self.long_weight = nn.Parameter(torch.zeros(channels + item_channels))

    def forward(
        self,
        short: Float[Tensor, "num_queries channels"],
        long: Float[Tensor, "num_queries channels"],
        item: Float[Tensor, "num_queries item_channels"],
    ) -> tuple[Float[Tensor, "num_queries channels"], Float[Tensor, "num_queries 2"]]:
        """Return the fused vectors and the weights ``[g_s, g_l]`` of each query."""
        short_logit = torch.cat([short, item], dim=-1) @ self.short_weight
        long_logit = torch.cat([long, item], dim=-1) @ self.long_weight
        gate = torch.stack([short_logit, long_logit], dim=-1).softmax(dim=-1)
        return gate[:, :1] * short + gate[:, 1:] * long, gate


class ConcatenationFusion(nn.Module):
    """The ablation without a gate: one linear map of both vectors, side by side."""

    def __init__(self, channels: int, item_channels: int) -> None:
        super().__init__()
        self.lin = nn.Linear(2 * channels, channels)
        self.item_channels = item_channels  # the same constructor as the gate: an ablation changes one name

    def forward(
        self,
        short: Float[Tensor, "num_queries channels"],
        long: Float[Tensor, "num_queries channels"],
        item: Float[Tensor, "num_queries item_channels"],
    ) -> tuple[Float[Tensor, "num_queries channels"], Float[Tensor, "num_queries 2"]]:
        """Return the fused vectors; the weights are even, since nothing is weighed."""
        fused = self.lin(torch.cat([short, long], dim=-1))
        return fused, fused.new_full((len(fused), 2), 0.5)
