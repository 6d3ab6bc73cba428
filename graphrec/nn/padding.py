"""Ragged rows as padded batches."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def padding_mask(ptr: Int64[Tensor, " num_rows_and_one"]) -> Bool[Tensor, "num_rows length"]:
    """Say where the steps of rows lie in a batch padded on the right; a column at least.

    Args:
        ptr: boundaries: row r has the steps ``ptr[r]:ptr[r + 1]``.

    """
    length = ptr.diff()
    longest = max(int(length.max()) if len(length) else 0, 1)
    return torch.arange(longest, device=ptr.device) < length[:, None]


def padded(
    values: Float[Tensor, "num_steps channels"], mask: Bool[Tensor, "num_rows length"]
) -> Float[Tensor, "num_rows length channels"]:
    """Put the steps' vectors into their places; zeros elsewhere."""
    out = torch.zeros(*mask.shape, values.shape[1], dtype=values.dtype, device=values.device)
    return out.masked_scatter(mask[..., None], values)
