"""NFM as a click model (He and Chua, SIGIR 2017): user, item and context fields."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from graphrec.models.field_ranker import FieldRanker
from graphrec.models.inputs import ClickBatch, InputSizes
from graphrec.nn import NFM


class NFMRanker(FieldRanker):
    """Score an impression by an MLP over the pooled products of all pairs of its fields.

    Dense features (``sizes.dense > 0``) are fields like the others.
    """

    def __init__(
        self,
        sizes: InputSizes,
        *,
        channels: int = 16,
        hidden_channels: Sequence[int] = (128, 128),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(sizes, channels)
        self.head = NFM(
            channels, dense_channels=sizes.dense, hidden_channels=hidden_channels, dropout=dropout
        )

    def forward(self, batch: ClickBatch) -> Float[Tensor, " num_rows"]:
        """Return the logit of a click for each impression."""
        return self.head(*self.embed(batch), batch.dense[:, : self.dense])
