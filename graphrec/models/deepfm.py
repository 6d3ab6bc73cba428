"""DeepFM as a click model (Guo et al., IJCAI 2017): user, item and context fields, no graph."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from graphrec.models.field_ranker import FieldRanker
from graphrec.models.inputs import ClickBatch, InputSizes
from graphrec.models.preference_fields import NUM_PREFERENCE_DENSE, NUM_PREFERENCE_FIELDS, PreferenceFields
from graphrec.nn import DeepFM


class DeepFMRanker(FieldRanker):
    """Score an impression from its user's fields, its item's ID and fields, and its context.

    With dense features in the batch (``sizes.dense > 0``) they enter as past counts beside the fields.

    With ``sequences=("external",)`` this is LSTTM's baseline DeepFM (+external): the means of the past items'
    IDs and fields are further fields, zero where the user has no past. They have no first-order weights: an
    item's own says how it does as a target.

    With ``preference_channels`` the batch's preference vectors enter as ``PreferenceFields`` says.
    """

    def __init__(
        self,
        sizes: InputSizes,
        *,
        channels: int = 16,
        hidden_channels: Sequence[int] = (128, 128),
        dropout: float = 0.0,
        sequences: Sequence[str] = (),
        preference_channels: int = 0,
    ) -> None:
        super().__init__(sizes, channels, sequences=sequences)
        num_fields, dense_channels = self.num_fields + len(self.sequences) * self.num_item_fields, sizes.dense
        self.preference = PreferenceFields(preference_channels, channels) if preference_channels else None
        if self.preference is not None:
            num_fields, dense_channels = (
                num_fields + NUM_PREFERENCE_FIELDS,
                dense_channels + NUM_PREFERENCE_DENSE,
            )
        self.head = DeepFM(
            num_fields,
            channels,
            dense_channels=dense_channels,
            hidden_channels=hidden_channels,
            dropout=dropout,
        )

    def forward(self, batch: ClickBatch) -> Float[Tensor, " num_rows"]:
        """Return the logit of a click for each impression."""
        fields, linear = self.embed(batch)
        pooled = [self._mean_item(batch, name) for name in self.sequences]
        dense = batch.dense[:, : self.dense]
        if self.preference is not None:
            preferred, preference_dense = self.preference(batch)
            pooled.append(preferred)
            dense = torch.cat([dense, preference_dense], dim=1)
        return self.head(torch.cat([fields, *pooled], dim=1), linear, dense)

    def _mean_item(self, batch: ClickBatch, name: str) -> Float[Tensor, "num_rows num_item_fields channels"]:
        sequence = self.sequence(batch, name)
        share = sequence.mask / sequence.mask.sum(dim=1, keepdim=True).clamp(min=1)
        table = self.item_vectors(sequence)
        vectors = functional.embedding(sequence.item_row, table.flatten(1))
        mean = torch.einsum("nl,nlc->nc", share.to(vectors.dtype), vectors)
        return mean.unflatten(1, table.shape[1:])
