"""The last K events of each query as the ``interaction`` that RecBole's sequential models read."""

import torch
from torch import Tensor

from samplers.neighbors import SampledNeighbors


def to_interaction(sampled: SampledNeighbors, *, item_field: str = "item_id") -> dict[str, Tensor]:
    """Fill ``<item_field>_list`` and ``item_length``, RecBole's names for a sequence and its length.

    The list is (num_seeds, num_neighbors) int64, oldest event first and padded on the right with 0. RecBole
    keeps id 0 for padding, so ids are shifted by one: item 0 is 1, and a model needs ``num_items + 1``
    embeddings. ``recbole.data.interaction.Interaction`` takes the dict as it is.

    A seed without a past event has length 0. RecBole's models read position ``item_length - 1`` and so want
    those left out: ``mask.any(dim=1)``.

    Args:
        sampled: by ``RecentNeighborSampler``, rows users and neighbours items: most recent first.
        item_field: RecBole's ``ITEM_ID_FIELD``.

    """
    length = sampled.mask.sum(1)
    slot = torch.arange(sampled.mask.shape[1], device=length.device)
    oldest_first = (length[:, None] - 1 - slot).clamp(min=0)
    items = sampled.node.gather(1, oldest_first) + 1
    return {
        f"{item_field}_list": items.masked_fill(slot >= length[:, None], 0),
        "item_length": length,
    }
