"""Embeddings of categorical fields: one table for all fields, one vector a field."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from graphrec.nn import compiled
from graphrec.nn.embedding_bag import weighted_bags


class FieldEmbedding(nn.Module):
    """Embed single-valued fields, and at most one bag of values as a further field.

    All fields share one table: the code ``c`` of field ``f`` is row ``offset[f] + c``. A bag (the tags of a
    video, say) is the mean of its values' vectors and the zero vector when it is empty. First-order weights
    lie beside the vectors as one more channel.

    Args:
        num_categories: number of codes of each single-valued field, the unknown code included.
        channels: size of a field's vector.
        num_bag_categories: number of codes of the bag, its code 0 included; 0 for no bag.

    """

    def __init__(self, num_categories: Sequence[int], channels: int, *, num_bag_categories: int = 0) -> None:
        super().__init__()
        self.channels, self.num_bag_categories = channels, num_bag_categories
        self.num_fields = len(num_categories) + bool(num_bag_categories)
        offset = torch.tensor([0, *num_categories]).cumsum(0)
        self.register_buffer("offset", offset[:-1], persistent=False)
        self.offset: Tensor
        self.bag_offset = int(offset[-1])
        self.register_buffer("field_starts", offset[: self.num_fields].clone(), persistent=False)
        self.field_starts: Tensor
        self.num_categories = tuple(num_categories)
        self.table = nn.Embedding(self.bag_offset + num_bag_categories, channels)
        self.linear = nn.Embedding(self.bag_offset + num_bag_categories, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Vectors from a narrow normal distribution, first-order weights at zero."""
        nn.init.normal_(self.table.weight, std=0.01)
        nn.init.zeros_(self.linear.weight)

    def forward(
        self,
        codes: Int[Tensor, "num_rows num_single_fields"],
        bag: Int[Tensor, "num_rows bag_size"] | None = None,
    ) -> tuple[Float[Tensor, "num_rows num_fields channels"], Float[Tensor, " num_rows"]]:
        """Return the fields' vectors and the sum of their first-order weights.

        Args:
            codes: codes of the single-valued fields, each in ``[0, num_categories[f])``.
            bag: codes of the bag; code 0 is padding or an unknown value, and counts as absent.

        """
        index = codes + self.offset
        vectors, linear = self.table(index), self.linear(index).sum(dim=(1, 2))
        if not self.num_bag_categories:
            return vectors, linear
        if bag is None:
            raise ValueError("the embedding was made with a bag of values; pass `bag`")
        share = _shares(bag, vectors.dtype)
        bag_index = bag.clamp(min=0) + self.bag_offset
        bag_vector = functional.embedding_bag(
            bag_index, self.table.weight, mode="sum", per_sample_weights=share
        )
        bag_linear = (self.linear(bag_index)[..., 0] * share).sum(dim=1)
        return torch.cat([vectors, bag_vector[:, None]], dim=1), linear + bag_linear

    def projected(
        self,
        codes: Int[Tensor, "num_rows num_single_fields"],
        bag: Int[Tensor, "num_rows bag_size"] | None,
        weight: Float[Tensor, "_ num_inputs"],
        num_first: Sequence[int],
        split: Sequence[int],
    ) -> list[Float[Tensor, "_ _"]]:
        """Return ``vectors.flatten(1) @ part.T`` for parts of ``weight``, without making the field vectors.

        A projection of fields side by side is the sum of the fields' own projections: the few distinct rows
        of the table are projected, and then summed by row.

        Args:
            codes: as in :meth:`forward`.
            bag: as in :meth:`forward`.
            weight: (outputs, num_fields * channels), the parts below one another.
            num_first: for each part, for how many of the first rows it is wanted.
            split: for each part, its number of outputs.

        """
        index, share = codes + self.offset, torch.ones(codes.shape, dtype=weight.dtype, device=codes.device)
        if self.num_bag_categories:
            if bag is None:
                raise ValueError("the embedding was made with a bag of values; pass `bag`")
            index = torch.cat([index, bag.clamp(min=0) + self.bag_offset], dim=1)
            share = torch.cat([share, _shares(bag, weight.dtype)], dim=1)
        row, local = _distinct(index, self.table.num_embeddings)
        first = torch.searchsorted(row, self.field_starts).tolist()
        vectors = functional.embedding(row, self.table.weight)
        projection = torch.cat(
            [
                part @ by_field.T
                for part, by_field in zip(
                    vectors.split([b - a for a, b in zip(first, [*first[1:], len(row)], strict=True)]),
                    weight.split(self.channels, dim=1),
                    strict=True,
                )
            ]
        )
        return [
            weighted_bags(local[:rows], part, share[:rows])
            for part, rows in zip(projection.split(list(split), dim=1), num_first, strict=True)
        ]

    def pooled(
        self,
        codes: Int[Tensor, "num_rows num_single_fields"],
        bag: Int[Tensor, "num_rows bag_size"] | None = None,
    ) -> Float[Tensor, "num_rows channels"]:
        """Return the sum of the fields' vectors, without a (num_rows, num_fields, channels) tensor."""
        index = codes + self.offset
        if not self.num_bag_categories or bag is None:
            return functional.embedding_bag(index, self.table.weight, mode="sum")
        share = _shares(bag, self.table.weight.dtype)
        weights = torch.cat([torch.ones_like(index, dtype=share.dtype), share], dim=1)
        index = torch.cat([index, bag.clamp(min=0) + self.bag_offset], dim=1)
        return functional.embedding_bag(index, self.table.weight, mode="sum", per_sample_weights=weights)


def _distinct(index: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Return the distinct values in rising order, and for each its place among them."""
    if num_rows > 4 * index.numel():
        return index.unique(return_inverse=True)
    # no sort where the table is not much longer than the index
    # inside torch.func's transforms, as in temporal MAML, tensors have no memory of their own to hand over
    if index.device.type == "cpu" and torch._C._functorch.peek_interpreter_stack() is None:
        place = torch.full((num_rows,), -1)
        row, local = torch.empty(num_rows, dtype=torch.int64), torch.empty(index.shape, dtype=torch.int64)
        count = compiled.number_distinct(*(x.numpy() for x in (index.contiguous(), place, row, local)))
        return row[:count], local
    seen = torch.zeros(num_rows, dtype=torch.bool, device=index.device)
    seen[index.flatten()] = True
    return seen.nonzero()[:, 0], (seen.cumsum(0) - 1)[index]


def _shares(bag: Tensor, dtype: torch.dtype) -> Tensor:
    """Weight of each value in the mean of its bag; 0 for padding and unknown values (code 0)."""
    present = (bag > 0).to(dtype)
    return present / present.sum(dim=1, keepdim=True).clamp(min=1.0)
