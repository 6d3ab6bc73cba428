"""The first layer of LSTTM's head, cut so that user and item each bring their share of it."""

import numpy as np
import torch
from torch import Tensor

from graphrec.models import LSTTM
from graphrec.serving.sections import Sections


class HeadParts:
    """The first layer of the head, cut by what its inputs belong to.

    The inputs are the fields in LSTTM's order (fused user, item ID, contexts, long-term item, short-term
    item, user fields, item fields, preference of user and item), then the dense features, the inner products
    of the long-term and of the preference vectors, and the biases of the latter.
    """

    def __init__(self, model: LSTTM, sections: Sections | None) -> None:
        first = model.head.mlp[0]
        assert isinstance(first, torch.nn.Linear)
        weight = first.weight.detach().T.contiguous()
        channels = model.item_and_context.channels
        num_context = model.item_and_context.num_fields - 1
        both = dict(model.short_term.field_embeddings())
        num_user, num_item = (both[name].num_fields * model.raw_fields for name in ("user", "item"))
        num_vectors = (1 + bool(model.long_channels)) * model.item_vectors
        num_preference = int(model.preference is not None)
        sizes = (1, 1, num_context, num_vectors, num_user, num_item, num_preference, num_preference)
        ends = np.cumsum(sizes) * channels
        fused, item_id, context, vectors, user, item, preference_user, preference_item = (
            weight[end - size * channels : end] for end, size in zip(ends, sizes, strict=True)
        )
        # the first-order weight of a dense feature stands beside the hidden layer's
        dense = torch.cat([weight[int(ends[-1]) :], model.head.dense_weight.detach()[:, None]], dim=1)
        self.bias, self.wide_bias = first.bias.detach(), model.head.bias.detach()
        self.rest = model.head.mlp[1:]
        self.fused = fused
        self.item = torch.cat([item_id, vectors, item, preference_item])
        self.user = torch.cat([context, user, preference_user])
        self.dense = {}
        for side in ("item", "user", "both"):
            columns = torch.zeros(0, dtype=torch.int64) if sections is None else sections.of[side].columns
            self.dense[side] = dense[columns]
        self.paired_sizes = [model.long_channels] * bool(model.item_vectors and model.long_channels)
        self.inner = dense[model.dense :]
        if model.preference is not None:
            self.paired_sizes.append(model.preference.preference_channels - 1)
            *inner, user_bias, item_bias = self.inner.split(1)
            self.inner = torch.cat(inner)
            for side, bias in (("user", user_bias), ("item", item_bias)):
                self.dense[side] = torch.cat([self.dense[side], bias])
        self.num_hidden = weight.shape[1]

    def share(self, weight: Tensor, fields: Tensor, linear: Tensor, dense: Tensor, side: str) -> list[Tensor]:
        """Return what fields and dense features of one side add to the head's sums.

        These are the hidden layer (rows, hidden), the sum of all vectors (rows, channels), the sum of their
        squares (rows,) and the first-order term (rows,).
        """
        added = dense @ self.dense[side]
        return [
            fields.flatten(1) @ weight + added[:, :-1],
            fields.sum(dim=1),
            fields.square().sum(dim=(1, 2)),
            linear + added[:, -1],
        ]
