"""Graph attention from a node to its sampled, padded neighbours: LSTTM equations (2) and (3).

Axis letters: D destination nodes, S source nodes, K neighbour slots, H heads, C channels, A edge attributes.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional


class GATConv(nn.Module):
    r"""Attend from each destination node to its sampled source nodes.

    .. math::
        x'_i = \sigma\Big(\sum_{j \in N_i} \alpha_{ij} W_s x_j\Big), \qquad
        \alpha_{ij} = \operatorname{softmax}_{j \in N_i}
            \operatorname{LeakyReLU}\big(w^\top [W_d x_i \,\|\, W_s x_j]\big)

    These are equations (2) and (3) of LSTTM (Xie et al., WSDM 2022), which are the bipartite graph
    attention of Velickovic et al. (ICLR 2018) without self-loops. One matrix ``W_s`` projects a neighbour
    for the attention and for the sum.

    Differences from the paper, each an option:

    - ``empty="self"``: a node without neighbours returns :math:`\sigma(W_d x_i)`; the paper's formula, which
      ``empty="zero"`` keeps, gives it the zero vector.
    - ``activation``: the paper does not name :math:`\sigma`; the default is ELU, ``None`` leaves it out.
    - ``edge_channels``: attributes of the traversed edge may enter both the logit and the message.
    - ``self_term``: adds :math:`W_r x_i` to the sum, so that a node keeps its own features.

    Args:
        in_channels: sizes of the destination and source features.
        out_channels: size of the output of one head.
        num_heads: heads, concatenated in the output; the paper has one.
        negative_slope: slope of the LeakyReLU.
        edge_channels: size of the edges' attributes, 0 for none.
        empty: what a node without neighbours returns before the activation.
        self_term: whether the node's own projection is added for every node.
        activation: applied to the output.

    """

    def __init__(
        self,
        in_channels: tuple[int, int],
        out_channels: int,
        *,
        num_heads: int = 1,
        negative_slope: float = 0.2,
        edge_channels: int = 0,
        empty: Literal["self", "zero"] = "self",
        self_term: bool = False,
        activation: Callable[[Tensor], Tensor] | None = functional.elu,
    ) -> None:
        super().__init__()
        if empty not in ("self", "zero"):
            raise ValueError(f"empty must be 'self' or 'zero', got {empty!r}")
        self.out_channels, self.num_heads = out_channels, num_heads
        self.negative_slope, self.empty, self.activation = negative_slope, empty, activation
        self.lin_destination = nn.Linear(in_channels[0], num_heads * out_channels, bias=False)
        self.lin_source = nn.Linear(in_channels[1], num_heads * out_channels, bias=False)
        self.lin_self = nn.Linear(in_channels[0], num_heads * out_channels, bias=False) if self_term else None
        self.attention_destination = nn.Parameter(torch.empty(num_heads, out_channels))
        self.attention_source = nn.Parameter(torch.empty(num_heads, out_channels))
        self.edge_channels = edge_channels
        if edge_channels:
            self.lin_edge = nn.Linear(edge_channels, num_heads * out_channels, bias=False)
            self.attention_edge = nn.Parameter(torch.empty(num_heads, out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew (Glorot uniform)."""
        for name, parameter in self.named_parameters():
            if name.startswith("attention"):
                bound = (6.0 / (self.num_heads + self.out_channels)) ** 0.5
                nn.init.uniform_(parameter, -bound, bound)
            else:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        x: Float[Tensor, "num_destinations destination_channels"],
        source_x: Float[Tensor, "num_sources source_channels"],
        neighbor: Int[Tensor, "num_destinations num_neighbors"],
        mask: Bool[Tensor, "num_destinations num_neighbors"],
        edge_attr: Float[Tensor, "num_destinations num_neighbors edge_channels"] | None = None,
    ) -> Float[Tensor, "num_destinations out_channels"]:
        """Return the new vectors of the destination nodes.

        Args:
            x: features of the destination nodes.
            source_x: features of the distinct source nodes.
            neighbor: rows of ``source_x``; a padding slot holds any valid row.
            mask: True for a real neighbour.
            edge_attr: attributes of the traversed edges, where the layer was made with ``edge_channels``.

        """
        heads, channels = self.num_heads, self.out_channels
        if (edge_attr is not None) != bool(self.edge_channels):
            raise ValueError(
                f"the layer has edge_channels={self.edge_channels}; edge_attr is {edge_attr is not None}"
            )
        own_DHC = self.lin_destination(x).unflatten(-1, (heads, channels))
        source_SHC = self.lin_source(source_x).unflatten(-1, (heads, channels))
        # w^T [W_d x_i || W_s x_j] splits into a term of i and a term of j, computed once a node
        logit_DH = (own_DHC * self.attention_destination).sum(-1)
        logit_SH = (source_SHC * self.attention_source).sum(-1)
        logit_DKH = logit_DH[:, None] + functional.embedding(neighbor, logit_SH)
        if edge_attr is not None:
            # w_e^T W_e e is one vector per head: no (D, K, H, C) tensor is made
            weight_HA = torch.einsum(
                "hca,hc->ha", self.lin_edge.weight.unflatten(0, (heads, channels)), self.attention_edge
            )
            logit_DKH = logit_DKH + edge_attr @ weight_HA.T
        logit_DKH = functional.leaky_relu(logit_DKH, self.negative_slope)
        logit_DKH = logit_DKH.masked_fill(~mask[..., None], torch.finfo(logit_DKH.dtype).min)
        alpha_DKH = logit_DKH.softmax(dim=1) * mask[..., None]
        out_DHC = _weighted_sum(source_SHC, neighbor, alpha_DKH)
        if edge_attr is not None:
            pooled_DHA = torch.einsum("dkh,dka->dha", alpha_DKH, edge_attr)
            out_DHC = out_DHC + torch.einsum(
                "dha,hca->dhc", pooled_DHA, self.lin_edge.weight.unflatten(0, (heads, channels))
            )
        if self.empty == "self":
            has_neighbor = mask.any(dim=1)
            out_DHC = torch.where(has_neighbor[:, None, None], out_DHC, own_DHC)
        out = out_DHC.flatten(1)
        if self.lin_self is not None:
            out = out + self.lin_self(x)
        return out if self.activation is None else self.activation(out)


def _weighted_sum(source_SHC: Tensor, neighbor_DK: Tensor, alpha_DKH: Tensor) -> Tensor:
    """Sum the neighbours' vectors by weight without gathering a (D, K, H, C) tensor."""
    num_sources, num_heads, channels = source_SHC.shape
    num_destinations, num_neighbors = neighbor_DK.shape
    if num_neighbors == 0 or num_sources == 0:
        return source_SHC.new_zeros(num_destinations, num_heads, channels)
    head = torch.arange(num_heads, device=neighbor_DK.device)
    index = (neighbor_DK[:, None, :] * num_heads + head[:, None]).reshape(-1, num_neighbors)
    weights = alpha_DKH.transpose(1, 2).reshape(-1, num_neighbors)
    bags = functional.embedding_bag(
        index, source_SHC.reshape(-1, channels), mode="sum", per_sample_weights=weights
    )
    return bags.unflatten(0, (num_destinations, num_heads))
