"""DeepFM as a click model (Guo et al., IJCAI 2017): user, item and context fields, no graph."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from graphrec.models.field_ranker import FieldRanker
from graphrec.models.inputs import ClickBatch, InputSizes
from graphrec.nn import DeepFM


class DeepFMRanker(FieldRanker):
    """Score an impression from its user's fields, its item's ID and fields, and its context.

    With dense features in the batch (``sizes.dense > 0``) they enter as past counts beside the fields.

    With ``sequences=("external",)`` this is LSTTM's baseline DeepFM (+external): the means of the past items'
    IDs and fields are further fields, zero where the user has no past. They have no first-order weights: an
    item's own says how it does as a target.
    """

    def __init__(
        self,
        sizes: InputSizes,
        *,
        channels: int = 16,
        hidden_channels: Sequence[int] = (128, 128),
        dropout: float = 0.0,
        sequences: Sequence[str] = (),
    ) -> None:
        super().__init__(sizes, channels, sequences=sequences)
        self.head = DeepFM(
            self.num_fields + len(self.sequences) * self.num_item_fields,
            channels,
            dense_channels=sizes.dense,
            hidden_channels=hidden_channels,
            dropout=dropout,
        )

    def forward(self, batch: ClickBatch) -> Float[Tensor, " num_rows"]:
        """Return the logit of a click for each impression."""
        fields, linear = self.embed(batch)
        pooled = [self._mean_item(batch, name) for name in self.sequences]
        return self.head(torch.cat([fields, *pooled], dim=1), linear, batch.dense[:, : self.dense])

    def _mean_item(self, batch: ClickBatch, name: str) -> Float[Tensor, "num_rows num_item_fields channels"]:
        sequence = self.sequence(batch, name)
        share = sequence.mask / sequence.mask.sum(dim=1, keepdim=True).clamp(min=1)
        table = self.item_vectors(sequence)
        vectors = functional.embedding(sequence.item_row, table.flatten(1))
        mean = torch.einsum("nl,nlc->nc", share.to(vectors.dtype), vectors)
        return mean.unflatten(1, table.shape[1:])
