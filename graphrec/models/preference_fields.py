"""Preference vectors as inputs of a click model: two fields and three dense features. Beyond the paper."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from graphrec.models.inputs import ClickBatch

NUM_PREFERENCE_FIELDS = 2
NUM_PREFERENCE_DENSE = 3


class PreferenceFields(nn.Module):
    """What a head reads of the vectors that ``graphrec.training.preference`` learned.

    The user's and the item's vectors are projected to a field each; their dot product, the user's bias and
    the item's are dense features. The vectors are constants here, as the long-term vectors are: no gradient
    of the click loss reaches what they come from.

    Args:
        preference_channels: columns of a batch's preference vectors, the bias included.
        channels: size of a field's vector.

    """

    def __init__(self, preference_channels: int, channels: int) -> None:
        super().__init__()
        self.preference_channels = preference_channels
        self.user_projection = nn.Linear(preference_channels - 1, channels, bias=False)
        self.item_projection = nn.Linear(preference_channels - 1, channels, bias=False)

    def forward(
        self, batch: ClickBatch
    ) -> tuple[Float[Tensor, "num_rows 2 channels"], Float[Tensor, "num_rows 3"]]:
        """Return the fields of user and item, and the dot product with the biases of user and item.

        Raises:
            ValueError: the batch has no preference vectors, or vectors of another size.

        """
        user, item = batch.preference_user, batch.preference_item
        if user is None or item is None or user.shape[1] != self.preference_channels:
            there = "none" if user is None else user.shape[1]
            raise ValueError(
                f"the model reads preference vectors of {self.preference_channels} columns, the batch has "
                f"{there}: set `preferences` of ClickData to what train_preference returned"
            )
        user, item = user.detach(), item.detach()
        fields = torch.stack([self.user_projection(user[:, :-1]), self.item_projection(item[:, :-1])], dim=1)
        dot = (user[:, :-1] * item[:, :-1]).sum(dim=1)
        return fields, torch.stack([dot, user[:, -1], item[:, -1]], dim=1)
