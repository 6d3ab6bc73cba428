"""Feature interactions over field vectors: FM, NFM's bi-interaction pooling, DeepFM.

Dense features (counts, rates) are fields too: a numeric feature of value ``z`` is the vector ``z v`` (Rendle
2010). FM and NFM have them in that form, without a vector for each row and feature in memory.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


def bi_interaction_pooling(
    fields: Float[Tensor, "num_rows num_fields channels"],
    dense: Float[Tensor, "num_rows num_dense"] | None = None,
    dense_vectors: Float[Tensor, "num_dense channels"] | None = None,
) -> Float[Tensor, "num_rows channels"]:
    r"""Sum of the element-wise products of all pairs of fields, in linear time (NFM, equations 3 and 4).

    .. math:: \sum_{i<j} v_i \odot v_j = \tfrac12 \Big((\sum_i v_i)^2 - \sum_i v_i^2\Big)

    Where ``dense`` is given, the vectors ``dense[:, k] * dense_vectors[k]`` are further fields.
    """
    total, squares = fields.sum(dim=1), fields.square().sum(dim=1)
    if dense is not None and dense_vectors is not None:
        total = total + dense @ dense_vectors
        squares = squares + dense.square() @ dense_vectors.square()
    return 0.5 * (total.square() - squares)


def second_order_interactions(
    fields: Float[Tensor, "num_rows num_fields channels"],
) -> Float[Tensor, " num_rows"]:
    r"""Sum of the inner products of all pairs of fields, in linear time (Rendle 2010, lemma 3.1).

    .. math:: \sum_{i<j} v_i^\top v_j = \tfrac12 \Big(\|\sum_i v_i\|^2 - \sum_i \|v_i\|^2\Big)
    """
    return bi_interaction_pooling(fields).sum(dim=-1)


def multilayer_perceptron(
    in_channels: int, hidden_channels: Sequence[int], *, dropout: float
) -> nn.Sequential:
    """ReLU layers with dropout behind each, and one linear output; input (N, in_channels), output (N, 1)."""
    layers: list[nn.Module] = []
    for hidden in hidden_channels:
        layers += [nn.Linear(in_channels, hidden), nn.ReLU(), nn.Dropout(dropout)]
        in_channels = hidden
    return nn.Sequential(*layers, nn.Linear(in_channels, 1))


class FM(nn.Module):
    r"""The logit of a factorisation machine of second order (Rendle, ICDM 2010, equation 1).

    .. math:: y = b + \langle w, x \rangle + \sum_{i<j} v_i^\top v_j

    The first-order term of the categorical fields comes in as ``linear``. ``dropout`` acts on the pooled
    products, channel by channel; the paper has none.
    """

    def __init__(self, channels: int, *, dense_channels: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.dense_vectors = nn.Parameter(0.01 * torch.randn(dense_channels, channels))
        self.dense_weight = nn.Parameter(torch.zeros(dense_channels))
        self.bias = nn.Parameter(torch.zeros(()))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        fields: Float[Tensor, "num_rows num_fields channels"],
        linear: Float[Tensor, " num_rows"],
        dense: Float[Tensor, "num_rows dense_channels"],
    ) -> Float[Tensor, " num_rows"]:
        """Return the logit of a click; ``dense`` may have no column."""
        pooled = self.dropout(bi_interaction_pooling(fields, dense, self.dense_vectors))
        return self.bias + linear + dense @ self.dense_weight + pooled.sum(dim=-1)


class NFM(nn.Module):
    r"""NFM's logit: an MLP over the pooled products of all pairs (He and Chua, SIGIR 2017, equation 7).

    .. math:: y = b + \langle w, x \rangle + h^\top \operatorname{MLP}\Big(\sum_{i<j} v_i \odot v_j\Big)

    Dropout follows the pooling and each hidden layer, as in the paper. Its batch normalisation is left out:
    statistics of a batch would make a row's score depend on the other rows. With no hidden layer and
    ``h = 1`` this is FM (section 3.2 of the paper).
    """

    def __init__(
        self,
        channels: int,
        *,
        dense_channels: int = 0,
        hidden_channels: Sequence[int] = (128, 128),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dense_vectors = nn.Parameter(0.01 * torch.randn(dense_channels, channels))
        self.dense_weight = nn.Parameter(torch.zeros(dense_channels))
        self.dropout = nn.Dropout(dropout)
        # the bias b is that of the MLP's output
        self.mlp = multilayer_perceptron(channels, hidden_channels, dropout=dropout)

    def forward(
        self,
        fields: Float[Tensor, "num_rows num_fields channels"],
        linear: Float[Tensor, " num_rows"],
        dense: Float[Tensor, "num_rows dense_channels"],
    ) -> Float[Tensor, " num_rows"]:
        """Return the logit of a click; ``dense`` may have no column."""
        pooled = self.dropout(bi_interaction_pooling(fields, dense, self.dense_vectors))
        return linear + dense @ self.dense_weight + self.mlp(pooled)[:, 0]


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
