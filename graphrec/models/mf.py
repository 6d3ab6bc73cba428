"""Matrix factorisation with biases as a click model (Koren et al., Computer 2009): IDs alone."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from graphrec.models.inputs import ClickBatch, InputSizes
from graphrec.models.sml import TableRows


class MFRanker(nn.Module):
    r"""Score an impression by the IDs of its user and its item: the base model of SML.

    .. math:: y = b + b_u + b_i + p_u^\top q_i

    Fields, context and past counts are not read.

    Raises:
        ValueError: ``sizes`` has no number of users.

    """

    def __init__(self, sizes: InputSizes, *, channels: int = 16) -> None:
        super().__init__()
        if sizes.num_users < 1:
            raise ValueError("matrix factorisation embeds user IDs: set num_users in InputSizes")
        self.user = nn.Embedding(sizes.num_users + 1, channels)
        self.item = nn.Embedding(sizes.num_items + 1, channels)
        self.user_bias = nn.Embedding(sizes.num_users + 1, 1)
        self.item_bias = nn.Embedding(sizes.num_items + 1, 1)
        self.bias = nn.Parameter(torch.zeros(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Vectors from a normal distribution that makes products of order 0.1, biases at zero."""
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, std=0.3 * table.embedding_dim**-0.25)
        for bias in (self.user_bias, self.item_bias):
            nn.init.zeros_(bias.weight)

    def forward(self, batch: ClickBatch) -> Float[Tensor, " num_rows"]:
        """Return the logit of a click for each impression.

        Raises:
            ValueError: the batch has no user IDs.

        """
        user = self._user_id(batch)
        product = (self.user(user) * self.item(batch.item_id)).sum(dim=-1)
        return self.bias + self.user_bias(user)[:, 0] + self.item_bias(batch.item_id)[:, 0] + product

    def table_rows(self, batch: ClickBatch | None) -> list[TableRows]:
        """Rows of the users' and the items' tables that a batch reads; None for all rows."""
        if batch is None:
            user, item = (
                torch.arange(table.num_embeddings, device=table.weight.device)
                for table in (self.user, self.item)
            )
        else:
            user, item = self._user_id(batch).unique(), batch.item_id.unique()
        return [TableRows("user.weight", "user", user), TableRows("item.weight", "item", item)]

    @staticmethod
    def _user_id(batch: ClickBatch) -> Tensor:
        if batch.user_id is None:
            raise ValueError("matrix factorisation reads the users' IDs: the batch has none")
        return batch.user_id
