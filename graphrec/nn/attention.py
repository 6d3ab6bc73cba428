"""Attention inside a row: AutoInt's interacting layer over fields, DIN's activation unit over behaviours.

Axis letters: N rows, F fields (Q querying, K keyed), H heads or hidden units, C channels, L behaviours.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from graphrec.nn.interactions import multilayer_perceptron


class InteractingLayer(nn.Module):
    r"""Let every field gather from all fields of its row (Song et al., CIKM 2019, equations 5 to 8).

    .. math::
        \alpha^h_{m,k} = \operatorname{softmax}_k \langle W^h_Q e_m, W^h_K e_k \rangle, \qquad
        \tilde e^h_m = \sum_k \alpha^h_{m,k} W^h_V e_k, \qquad
        e'_m = \operatorname{ReLU}\big([\tilde e^1_m \| \dots \| \tilde e^H_m] + W_{Res} e_m\big)

    As in the paper, the logits are not divided by the root of the channels.

    Args:
        in_channels: size of the field vectors.
        out_channels: size of the output of one head; the output has ``num_heads * out_channels``.
        num_heads: heads, concatenated.

    """

    def __init__(self, in_channels: int, out_channels: int, *, num_heads: int = 2) -> None:
        super().__init__()
        self.num_heads, self.out_channels = num_heads, out_channels
        width = num_heads * out_channels
        self.lin_query = nn.Linear(in_channels, width, bias=False)
        self.lin_key = nn.Linear(in_channels, width, bias=False)
        self.lin_value = nn.Linear(in_channels, width, bias=False)
        self.lin_residual = nn.Linear(in_channels, width, bias=False)

    def forward(
        self, fields: Float[Tensor, "num_rows num_fields in_channels"]
    ) -> Float[Tensor, "num_rows num_fields all_heads"]:
        """Return the new field vectors, heads side by side."""
        query_NHFC, key_NHFC, value_NHFC = (
            lin(fields).unflatten(-1, (self.num_heads, self.out_channels)).transpose(1, 2)
            for lin in (self.lin_query, self.lin_key, self.lin_value)
        )
        # written out, not as the fused kernel, which has no second derivative
        alpha_NHQK = (query_NHFC @ key_NHFC.transpose(2, 3)).softmax(dim=-1)
        gathered = (alpha_NHQK @ value_NHFC).transpose(1, 2).flatten(2)
        return torch.relu(gathered + self.lin_residual(fields))


class AutoInt(nn.Module):
    r"""AutoInt's logit: interacting layers over the fields, read by one linear map (equation 9).

    Differences from the paper: the first-order term of the fields comes in as ``linear``, as in the house's
    other models; dense features enter the first-order term and the MLP, where the paper has them as fields
    (attention costs the square of their number). The MLP over the field vectors beside the interacting
    layers is the paper's AutoInt+; ``hidden_channels=()`` leaves it out.

    Args:
        num_fields: fields of a row.
        channels: size of a field's vector.
        dense_channels: number of dense features.
        num_layers: interacting layers (paper: 3).
        num_heads: heads of each (paper: 2).
        attention_channels: size of a head's output (paper: 32).
        hidden_channels: hidden layers of the MLP.
        dropout: of the MLP.

    """

    def __init__(
        self,
        num_fields: int,
        channels: int,
        *,
        dense_channels: int = 0,
        num_layers: int = 3,
        num_heads: int = 2,
        attention_channels: int = 16,
        hidden_channels: Sequence[int] = (128, 128),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        width = num_heads * attention_channels
        sizes = [channels] + num_layers * [width]
        self.layers = nn.Sequential(
            *(InteractingLayer(size, attention_channels, num_heads=num_heads) for size in sizes[:-1])
        )
        self.output = nn.Linear(num_fields * sizes[-1], 1)
        self.dense_weight = nn.Parameter(torch.zeros(dense_channels))
        self.mlp = (
            multilayer_perceptron(num_fields * channels + dense_channels, hidden_channels, dropout=dropout)
            if hidden_channels
            else None
        )

    def forward(
        self,
        fields: Float[Tensor, "num_rows num_fields channels"],
        linear: Float[Tensor, " num_rows"],
        dense: Float[Tensor, "num_rows dense_channels"],
    ) -> Float[Tensor, " num_rows"]:
        """Return the logit of a click; ``dense`` may have no column."""
        logit = self.output(self.layers(fields).flatten(1))[:, 0] + linear + dense @ self.dense_weight
        if self.mlp is not None:
            logit = logit + self.mlp(torch.cat([fields.flatten(1), dense], dim=-1))[:, 0]
        return logit


class ActivationUnit(nn.Module):
    r"""Sum a user's behaviours, each weighed by how it fits the target item (DIN, equation 3).

    .. math:: v(t) = \sum_j a(t, e_j) e_j, \qquad
              a(t, e) = \operatorname{MLP}([t \| e \| t - e \| t \odot e])

    Zhou et al., KDD 2018: the weights are not normalised, so their sum tells how strong the interest is. As
    published: one hidden layer of 36. The difference and the product stand for the paper's out product, as
    in its authors' code. PReLU is the paper's activation; its Dice, which normalises over the batch, is not.

    Args:
        channels: size of the vectors of the target and of a behaviour.
        hidden_channels: hidden layers of the MLP.
        read_age: also give the MLP the age of each behaviour, beyond the paper.

    """

    def __init__(
        self, channels: int, *, hidden_channels: Sequence[int] = (36,), read_age: bool = False
    ) -> None:
        super().__init__()
        self.channels, self.read_age = channels, read_age
        layers: list[nn.Module] = []
        in_channels = 4 * channels + read_age
        for hidden in hidden_channels:
            layers += [nn.Linear(in_channels, hidden), nn.PReLU()]
            in_channels = hidden
        self.mlp = nn.Sequential(*layers, nn.Linear(in_channels, 1))

    def weights(
        self,
        target: Float[Tensor, "num_rows channels"],
        behavior: Float[Tensor, "num_rows length channels"],
        mask: Bool[Tensor, "num_rows length"],
        age: Float[Tensor, "num_rows length"],
    ) -> Float[Tensor, "num_rows length"]:
        """Return the weight of each behaviour, 0 where padded."""
        first = self.mlp[0]
        assert isinstance(first, nn.Linear)
        # for one target the first layer is linear in the behaviour: a matrix for each row takes the place of
        # four vectors side by side for each behaviour
        of_target, of_behavior, of_difference, of_product = first.weight[:, : 4 * self.channels].chunk(
            4, dim=1
        )
        matrix_NHC = (of_behavior - of_difference) + target[:, None] * of_product
        hidden_NLH = torch.baddbmm(
            functional.linear(target, of_target + of_difference, first.bias)[:, None],
            behavior,
            matrix_NHC.transpose(1, 2),
        )
        if self.read_age:
            hidden_NLH = hidden_NLH + age[..., None] * first.weight[:, -1]
        return self.mlp[1:](hidden_NLH)[..., 0].masked_fill(~mask, 0.0)

    def forward(
        self,
        target: Float[Tensor, "num_rows channels"],
        behavior: Float[Tensor, "num_rows length channels"],
        mask: Bool[Tensor, "num_rows length"],
        age: Float[Tensor, "num_rows length"],
    ) -> Float[Tensor, "num_rows channels"]:
        """Return the weighted sum of the behaviours, the zero vector where there is none."""
        weight = self.weights(target, behavior, mask, age)
        return torch.einsum("nl,nlc->nc", weight, behavior)
