"""A factorisation machine as a click model (Rendle, ICDM 2010): user, item and context fields."""

from jaxtyping import Float
from torch import Tensor

from graphrec.models.field_ranker import FieldRanker
from graphrec.models.inputs import ClickBatch, InputSizes
from graphrec.nn import FM


class FMRanker(FieldRanker):
    """Score an impression by the first-order weights of its fields and the products of all pairs of them.

    Dense features (``sizes.dense > 0``) are fields like the others. ``dropout`` acts on the pooled products.
    """

    def __init__(self, sizes: InputSizes, *, channels: int = 16, dropout: float = 0.0) -> None:
        super().__init__(sizes, channels)
        self.head = FM(channels, dense_channels=sizes.dense, dropout=dropout)

    def forward(self, batch: ClickBatch) -> Float[Tensor, " num_rows"]:
        """Return the logit of a click for each impression."""
        return self.head(*self.embed(batch), batch.dense[:, : self.dense])
