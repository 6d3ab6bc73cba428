"""SML's transfer networks: from a table's old rows and its freshly fitted ones to the next ones.

Zhang et al., "How to Retrain Recommender System? A Sequential Meta-Learning Method", SIGIR 2020. The training
over periods is in ``graphrec.training.sml``.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

Side = Literal["user", "item"]


class TableRows(NamedTuple):
    """Distinct rows of one embedding table, named by its parameter, of users or of items."""

    parameter: str
    side: Side
    row: Int64[Tensor, " num_distinct"]


class TransferNetwork(nn.Module):
    r"""Combine a row ``w`` of a table with the row ``w'`` that a period's data made of it.

    .. math::
        H_0 = [w; w'; w \odot w' / \|w\|], \qquad
        w_{next} = W_2 \, g(W_1 \, \operatorname{vec} \, g(C_2 \, g(C_1 H_0)) + b_1) + b_2

    ``g`` is GELU. The convolutions run over the stack: a filter is one linear combination of its rows, the
    same for every channel (filters of 3 x 1, then of 10 x 1).

    Args:
        channels: size of a row.
        filters: filters of the two convolutions (paper: 10 and 5).
        hidden_channels: hidden layer (paper: 512).
        initial: "fitted" begins as the network that returns ``w'``, through pairs of filters, since
            :math:`g(x) - g(-x) = x`: sequential fine-tuning is the starting point. "random" is the paper's.

    """

    def __init__(
        self,
        channels: int,
        *,
        filters: tuple[int, int] = (10, 5),
        hidden_channels: int = 512,
        initial: Literal["fitted", "random"] = "fitted",
    ) -> None:
        super().__init__()
        if initial not in ("fitted", "random"):
            raise ValueError(f"initial must be 'fitted' or 'random', got {initial!r}")
        self.conv1 = nn.Conv1d(3, filters[0], kernel_size=1)
        self.conv2 = nn.Conv1d(filters[0], filters[1], kernel_size=1)
        self.hidden = nn.Linear(filters[1] * channels, hidden_channels)
        self.output = nn.Linear(hidden_channels, channels)
        if initial == "fitted":
            self._return_fitted()

    @torch.no_grad()
    def _return_fitted(self) -> None:
        channels, num_hidden = self.output.out_features, self.hidden.out_features
        if min(self.conv1.out_channels, self.conv2.out_channels) < 2 or num_hidden < 2 * channels:
            raise ValueError(
                f"initial='fitted' needs two filters in each convolution and {2 * channels} hidden units, "
                f"twice the channels; got {self.conv1.out_channels}, {self.conv2.out_channels}, {num_hidden}"
            )
        # a pair of filters holds g(x) and g(-x); their difference is x again
        sign = torch.tensor([1.0, -1.0])
        for conv in (self.conv1, self.conv2):
            conv.weight[:2] = 0
            conv.bias[:2] = 0  # type: ignore[index]
        self.conv1.weight[:2, 1, 0] = sign
        self.conv2.weight[:2, :2, 0] = sign[:, None] * sign
        eye = torch.eye(channels)
        self.hidden.weight[: 2 * channels] = 0
        self.hidden.bias[: 2 * channels] = 0
        self.hidden.weight[: 2 * channels, : 2 * channels] = torch.kron(sign[:, None] * sign, eye)
        self.output.weight.zero_()
        self.output.bias.zero_()
        self.output.weight[:, : 2 * channels] = torch.kron(sign, eye)

    def forward(
        self, old: Float[Tensor, "num_rows channels"], fitted: Float[Tensor, "num_rows channels"]
    ) -> Float[Tensor, "num_rows channels"]:
        """Return the next rows; each depends on its own two rows alone."""
        norm = old.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        stack = torch.stack([old, fitted, old * fitted / norm], dim=1)
        filtered = functional.gelu(self.conv2(functional.gelu(self.conv1(stack))))
        return self.output(functional.gelu(self.hidden(filtered.flatten(1))))


class SMLTransfer(nn.Module):
    """Two transfer networks: one for all tables of users, one for all tables of items."""

    def __init__(
        self,
        channels: int,
        *,
        filters: tuple[int, int] = (10, 5),
        hidden_channels: int = 512,
        initial: Literal["fitted", "random"] = "fitted",
    ) -> None:
        super().__init__()
        sides: tuple[Side, ...] = ("user", "item")
        self.networks = nn.ModuleDict(
            {
                side: TransferNetwork(
                    channels, filters=filters, hidden_channels=hidden_channels, initial=initial
                )
                for side in sides
            }
        )

    def forward(
        self,
        side: Side,
        old: Float[Tensor, "num_rows channels"],
        fitted: Float[Tensor, "num_rows channels"],
    ) -> Float[Tensor, "num_rows channels"]:
        """Return the next rows of a table of that side."""
        return self.networks[side](old, fitted)
