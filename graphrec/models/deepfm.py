"""DeepFM as a click model (Guo et al., IJCAI 2017): user, item and context fields, no graph."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from graphrec.models.inputs import ClickBatch, InputSizes
from graphrec.nn import DeepFM, FieldEmbedding


class DeepFMRanker(nn.Module):
    """Score an impression from its user's fields, its item's ID and fields, and its context.

    With dense features in the batch (``sizes.dense > 0``) they enter as past counts beside the fields.
    """

    def __init__(
        self,
        sizes: InputSizes,
        *,
        channels: int = 16,
        hidden_channels: Sequence[int] = (128, 128),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.user_fields = FieldEmbedding(sizes.user_fields, channels)
        self.item_fields = FieldEmbedding(sizes.item_fields, channels, num_bag_categories=sizes.item_bag)
        self.other_fields = FieldEmbedding((sizes.num_items + 1, *sizes.context_fields), channels)
        self.dense = sizes.dense
        num_fields = sum(e.num_fields for e in (self.user_fields, self.item_fields, self.other_fields))
        self.head = DeepFM(
            num_fields, channels, dense_channels=sizes.dense, hidden_channels=hidden_channels, dropout=dropout
        )

    def forward(self, batch: ClickBatch) -> Float[Tensor, " num_rows"]:
        """Return the logit of a click for each impression."""
        parts = [
            self.user_fields(batch.user.codes),
            self.item_fields(
                batch.item.codes, batch.item.bag if self.item_fields.num_bag_categories else None
            ),
            self.other_fields(torch.cat([batch.item_id[:, None], batch.context], dim=1)),
        ]
        fields = torch.cat([vectors for vectors, _ in parts], dim=1)
        linear = torch.stack([weights for _, weights in parts]).sum(dim=0)
        return self.head(fields, linear, batch.dense[:, : self.dense])
