"""SASRec's encoder as a click model (Kang and McAuley, ICDM 2018): the user's past, then DeepFM's head."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from graphrec.models.field_ranker import FieldRanker
from graphrec.models.inputs import ClickBatch, InputSizes
from graphrec.nn import DeepFM
from graphrec.nn.self_attention import SASRecEncoder


class SASRecRanker(FieldRanker):
    """Score an impression from its fields and the user's past events, encoded without the target.

    As in SASRec the score holds the inner product of the user's vector and the target item's, both from one
    item table. Different from it, and the same as the other click models: an item's vector is a linear map of
    its fields and its ID; the products of the user's vector with all fields and an MLP come in through the
    DeepFM head, in which each sequence's vector is a field; and the loss is that of impressions.

    Args:
        sizes: numbers of codes of the inputs.
        sequences: names of the sequences that are read; each has an encoder of its own.
        length: events of a sequence at most.
        channels: size of a field's vector and of the encoders.
        num_blocks: blocks of an encoder (paper: 2).
        num_heads: heads of a block (paper: 1).
        hidden_channels: hidden layers of the head.
        dropout: of encoders and head.

    """

    def __init__(
        self,
        sizes: InputSizes,
        *,
        sequences: Sequence[str],
        length: int,
        channels: int = 16,
        num_blocks: int = 2,
        num_heads: int = 1,
        hidden_channels: Sequence[int] = (128, 128),
        dropout: float = 0.0,
    ) -> None:
        if not sequences:
            raise ValueError("SASRec needs the name of at least one sequence; without any it is DeepFM")
        super().__init__(sizes, channels, sequences=sequences)
        self.item_projection = nn.Linear(self.num_item_fields * channels, channels, bias=False)
        self.encoders = nn.ModuleDict(
            {
                name: SASRecEncoder(
                    channels, length, num_blocks=num_blocks, num_heads=num_heads, dropout=dropout
                )
                for name in self.sequences
            }
        )
        # the inner products with the target start at zero: layer normalisation makes user vectors long
        self.product_weight = nn.Parameter(torch.zeros(len(self.sequences)))
        self.user_projection = nn.Linear(channels, channels, bias=False)
        self.head = DeepFM(
            self.num_fields + len(self.sequences),
            channels,
            dense_channels=sizes.dense,
            hidden_channels=hidden_channels,
            dropout=dropout,
        )
        nn.init.normal_(self.user_projection.weight, std=0.01)

    def forward(self, batch: ClickBatch) -> Float[Tensor, " num_rows"]:
        """Return the logit of a click for each impression."""
        fields, linear = self.embed(batch)
        target = self.item_projection(self.target(fields).flatten(1))
        users = []
        for name, encoder in self.encoders.items():
            sequence = self.sequence(batch, name)
            items = self.item_projection(self.item_vectors(sequence).flatten(1))
            users.append(encoder(functional.embedding(sequence.item_row, items), sequence.mask))
        user = torch.stack(users, dim=1)
        product = torch.einsum("nsc,nc,s->n", user, target, self.product_weight)
        fields = torch.cat([fields, self.user_projection(user)], dim=1)
        return self.head(fields, linear + product, batch.dense[:, : self.dense])
