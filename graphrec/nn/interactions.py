"""Feature interactions over field vectors: the second-order term of FM, and DeepFM."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


def second_order_interactions(
    fields: Float[Tensor, "num_rows num_fields channels"],
) -> Float[Tensor, " num_rows"]:
    r"""Sum of the inner products of all pairs of fields, in linear time (Rendle 2010, lemma 3.1).

    .. math:: \sum_{i<j} v_i^\top v_j = \tfrac12 \Big(\|\sum_i v_i\|^2 - \sum_i \|v_i\|^2\Big)
    """
    return 0.5 * (fields.sum(dim=1).square() - fields.square().sum(dim=1)).sum(dim=-1)


def multilayer_perceptron(
    in_channels: int, hidden_channels: Sequence[int], *, dropout: float
) -> nn.Sequential:
    """ReLU layers with dropout behind each, and one linear output; input (N, in_channels), output (N, 1)."""
    layers: list[nn.Module] = []
    for hidden in hidden_channels:
        layers += [nn.Linear(in_channels, hidden), nn.ReLU(), nn.Dropout(dropout)]
        in_channels = hidden
    return nn.Sequential(*layers, nn.Linear(in_channels, 1))


class DeepFM(nn.Module):
    r"""DeepFM's logit over field vectors (Guo et al., IJCAI 2017, equations 1 to 3).

    .. math:: y = b + \langle w, x \rangle + \sum_{i<j} v_i^\top v_j
              + \operatorname{MLP}([v_1 \| \dots \| v_F \| z])

    The field vectors ``v`` are shared between both parts; the first-order term of the categorical fields
    comes in as ``linear``. Dense features ``z`` (counts, rates), which the paper turns into fields, enter
    the first-order term and the MLP.
    """

    def __init__(
        self,
        num_fields: int,
        channels: int,
        *,
        dense_channels: int = 0,
        hidden_channels: Sequence[int] = (128, 128),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dense_channels = dense_channels
        self.mlp = multilayer_perceptron(
            num_fields * channels + dense_channels, hidden_channels, dropout=dropout
        )
        self.dense_weight = nn.Parameter(torch.zeros(dense_channels))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(
        self,
        fields: Float[Tensor, "num_rows num_fields channels"],
        linear: Float[Tensor, " num_rows"],
        dense: Float[Tensor, "num_rows dense_channels"],
    ) -> Float[Tensor, " num_rows"]:
        """Return the logit of a click; ``dense`` may have no column."""
        deep = self.mlp(torch.cat([fields.flatten(1), dense], dim=-1))[:, 0]
        wide = self.bias + linear + dense @ self.dense_weight
        return wide + second_order_interactions(fields) + deep
