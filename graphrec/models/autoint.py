"""AutoInt as a click model (Song et al., CIKM 2019): user, item and context fields."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from graphrec.models.field_ranker import FieldRanker
from graphrec.models.inputs import ClickBatch, InputSizes
from graphrec.nn import AutoInt


class AutoIntRanker(FieldRanker):
    """Score an impression by self-attention over its fields, and an MLP beside it (AutoInt+).

    ``hidden_channels=()`` leaves the MLP out: the paper's AutoInt. Dense features (``sizes.dense > 0``) enter
    the first-order term and the MLP.
    """

    def __init__(
        self,
        sizes: InputSizes,
        *,
        channels: int = 16,
        num_layers: int = 3,
        num_heads: int = 2,
        attention_channels: int = 16,
        hidden_channels: Sequence[int] = (128, 128),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(sizes, channels)
        self.head = AutoInt(
            self.num_fields,
            channels,
            dense_channels=sizes.dense,
            num_layers=num_layers,
            num_heads=num_heads,
            attention_channels=attention_channels,
            hidden_channels=hidden_channels,
            dropout=dropout,
        )

    def forward(self, batch: ClickBatch) -> Float[Tensor, " num_rows"]:
        """Return the logit of a click for each impression."""
        return self.head(*self.embed(batch), batch.dense[:, : self.dense])
