"""Graph attention from a node to its sampled, padded neighbours: LSTTM equations (2) and (3).

Axis letters: D destination nodes, S source nodes, K neighbour slots, H heads, C channels, A edge attributes.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from graphrec.nn.neighbor_attention import neighbor_attention


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
        return self.attend(
            self.lin_destination(x),
            self.lin_source(source_x),
            None if self.lin_self is None else self.lin_self(x),
            neighbor,
            mask,
            edge_attr,
        )

    def attend(
        self,
        own: Float[Tensor, "num_destinations out_channels"],
        source: Float[Tensor, "num_sources out_channels"],
        self_term: Float[Tensor, "num_destinations out_channels"] | None,
        neighbor: Int[Tensor, "num_destinations num_neighbors"],
        mask: Bool[Tensor, "num_destinations num_neighbors"],
        edge_attr: Float[Tensor, "num_destinations num_neighbors edge_channels"] | None = None,
    ) -> Float[Tensor, "num_destinations out_channels"]:
        """Return the new vectors from :math:`W_d x_i`, :math:`W_s x_j` and :math:`W_r x_i`."""
        heads, channels = self.num_heads, self.out_channels
        if (edge_attr is not None) != bool(self.edge_channels):
            raise ValueError(
                f"the layer has edge_channels={self.edge_channels}; edge_attr is {edge_attr is not None}"
            )
        own_DHC, source_SHC = (value.unflatten(-1, (heads, channels)) for value in (own, source))
        if edge_attr is None:
            attr_DKA, weight_HA = own.new_zeros(*mask.shape, 0), own.new_zeros(heads, 0)
        else:
            # w_e^T W_e e is one vector per head: no (D, K, H, C) tensor is made
            edge_HCA = self.lin_edge.weight.unflatten(0, (heads, channels))
            attr_DKA, weight_HA = edge_attr, torch.einsum("hca,hc->ha", edge_HCA, self.attention_edge)
        # w^T [W_d x_i || W_s x_j] splits into a term of i and a term of j, computed once a node
        out_DHC, pooled_DHA = neighbor_attention(
            (own_DHC * self.attention_destination).sum(-1),
            (source_SHC * self.attention_source).sum(-1),
            source_SHC,
            neighbor,
            mask,
            attr_DKA,
            weight_HA,
            self.negative_slope,
        )
        if edge_attr is not None:
            out_DHC = out_DHC + torch.einsum("dha,hca->dhc", pooled_DHA, edge_HCA)
        if self.empty == "self":
            has_neighbor = mask.any(dim=1)
            out_DHC = torch.where(has_neighbor[:, None, None], out_DHC, own_DHC)
        out = out_DHC.flatten(1)
        if self_term is not None:
            out = out + self_term
        return out if self.activation is None else self.activation(out)
