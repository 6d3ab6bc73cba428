"""DIN with a DeepFM head as a click model (Zhou et al., KDD 2018): the user's past as the target sees it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from graphrec.models.field_ranker import FieldRanker
from graphrec.models.inputs import ClickBatch, InputSizes
from graphrec.nn import ActivationUnit, DeepFM


class DINRanker(FieldRanker):
    """Score an impression from its fields and the user's past events, weighed by how they fit the target.

    An event's vector is that of its item: fields and ID side by side, from the same tables as the target's.
    Each sequence has an activation unit of its own, and what it returns enters the DeepFM head as further
    fields, as many as an item has. With the sequences "internal" and "external" this is LSTTM's baseline
    DIN+DeepFM (+external).

    Args:
        sizes: numbers of codes of the inputs.
        sequences: names of the sequences that are read.
        channels: size of a field's vector.
        attention_channels: hidden layers of the activation unit (paper: 36).
        read_age: whether the activation unit reads the age of an event, beyond the paper.
        hidden_channels: hidden layers of the head.
        dropout: of the head.

    """

    def __init__(
        self,
        sizes: InputSizes,
        *,
        sequences: Sequence[str],
        channels: int = 16,
        attention_channels: Sequence[int] = (36,),
        read_age: bool = False,
        hidden_channels: Sequence[int] = (128, 128),
        dropout: float = 0.0,
    ) -> None:
        if not sequences:
            raise ValueError("DIN needs the name of at least one sequence; without any it is DeepFM")
        super().__init__(sizes, channels, sequences=sequences)
        width = self.num_item_fields * channels
        self.activation_units = nn.ModuleDict(
            {
                name: ActivationUnit(width, hidden_channels=attention_channels, read_age=read_age)
                for name in self.sequences
            }
        )
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
        target = self.target(fields)
        interests = []
        for name, unit in self.activation_units.items():
            sequence = self.sequence(batch, name)
            behavior = functional.embedding(sequence.item_row, self.item_vectors(sequence).flatten(1))
            interest = unit(target.flatten(1), behavior, sequence.mask, sequence.age)
            interests.append(interest.view_as(target))
        return self.head(torch.cat([fields, *interests], dim=1), linear, batch.dense[:, : self.dense])
