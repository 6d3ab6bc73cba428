"""What the models over fields share: the embeddings of users, items, contexts and past events."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from graphrec.models.inputs import ClickBatch, InputSizes, NodeFields, SequenceInput
from graphrec.models.sml import TableRows
from graphrec.nn import FieldEmbedding


class FieldRanker(nn.Module):
    """Embeddings of an impression's user fields, item fields, item ID and context, in this order.

    A model over them adds a head. Past events of the user are read through the item's tables: an event's
    vector has the item's fields and its ID in the order of the target's.

    Args:
        sizes: numbers of codes of the inputs.
        channels: size of a field's vector.
        sequences: names of the sequences of past events that the model reads.

    """

    def __init__(self, sizes: InputSizes, channels: int, *, sequences: Sequence[str] = ()) -> None:
        super().__init__()
        self.user_fields = FieldEmbedding(sizes.user_fields, channels)
        self.item_fields = FieldEmbedding(sizes.item_fields, channels, num_bag_categories=sizes.item_bag)
        self.other_fields = FieldEmbedding((sizes.num_items + 1, *sizes.context_fields), channels)
        self.dense, self.num_items, self.sequences = sizes.dense, sizes.num_items, tuple(sequences)
        self.num_fields = sum(e.num_fields for e in (self.user_fields, self.item_fields, self.other_fields))
        self.num_item_fields = self.item_fields.num_fields + 1

    def embed(
        self, batch: ClickBatch
    ) -> tuple[Float[Tensor, "num_rows num_fields channels"], Float[Tensor, " num_rows"]]:
        """Return the vectors of the fields, and the sum of their first-order weights."""
        parts = [
            self.user_fields(batch.user.codes),
            self.item_fields(batch.item.codes, self._bag(batch.item)),
            self.other_fields(torch.cat([batch.item_id[:, None], batch.context], dim=1)),
        ]
        fields = torch.cat([vectors for vectors, _ in parts], dim=1)
        return fields, torch.stack([weights for _, weights in parts]).sum(dim=0)

    def target(
        self, fields: Float[Tensor, "num_rows num_fields channels"]
    ) -> Float[Tensor, "num_rows num_item_fields channels"]:
        """Return the target item's part of what :meth:`embed` returned: its fields and its ID."""
        first = self.user_fields.num_fields
        return fields[:, first : first + self.num_item_fields]

    def sequence(self, batch: ClickBatch, name: str) -> SequenceInput:
        """Return a sequence of the batch.

        Raises:
            ValueError: the batch has no sequence of that name.

        """
        if batch.sequences is None or name not in batch.sequences:
            there = [] if batch.sequences is None else list(batch.sequences)
            raise ValueError(
                f"{type(self).__name__} reads the sequence {name!r}, the batch has {there}: "
                "name it in `sequences` of ClickData"
            )
        return batch.sequences[name]

    def item_vectors(self, sequence: SequenceInput) -> Float[Tensor, "num_distinct num_item_fields channels"]:
        """Return the vectors of a sequence's distinct items: their fields and their IDs."""
        fields, _ = self.item_fields(sequence.item.codes, self._bag(sequence.item))
        return torch.cat([fields, self.other_fields.table(sequence.item_id)[:, None]], dim=1)

    def table_rows(self, batch: ClickBatch | None) -> list[TableRows]:
        """Rows of the user's and the item's tables that a batch reads; None for all rows.

        Rows of the contexts' tables are of neither side.
        """
        if batch is None:
            device = self.other_fields.table.weight.device
            user, item, item_id = (
                torch.arange(size, device=device)
                for size in (
                    self.user_fields.table.num_embeddings,
                    self.item_fields.table.num_embeddings,
                    self.num_items + 1,
                )
            )
        else:
            parts = [self.sequence(batch, name) for name in self.sequences]
            user = _field_rows(self.user_fields, batch.user)
            item = torch.cat(
                [_field_rows(self.item_fields, fields) for fields in (batch.item, *(p.item for p in parts))]
            )
            item_id = torch.cat([batch.item_id, *(part.item_id for part in parts)])
        return [
            TableRows("user_fields.table.weight", "user", user.unique()),
            TableRows("item_fields.table.weight", "item", item.unique()),
            TableRows("other_fields.table.weight", "item", item_id.unique()),
        ]

    def _bag(self, item: NodeFields) -> Tensor | None:
        return item.bag if self.item_fields.num_bag_categories else None


def _field_rows(embedding: FieldEmbedding, fields: NodeFields) -> Int64[Tensor, " _"]:
    """Rows of the embedding's table that the codes stand for, in any order."""
    rows = (fields.codes + embedding.offset).flatten()
    if not embedding.num_bag_categories:
        return rows
    return torch.cat([rows, (fields.bag[fields.bag > 0] + embedding.bag_offset)])
