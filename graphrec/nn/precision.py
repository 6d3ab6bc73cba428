"""Mixed precision: products in bfloat16, parameters, sums over many values and losses in float32."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def precision_region(device: torch.device, *, mixed: bool) -> AbstractContextManager[object]:
    """Return the context in which a training runs its model forward.

    With ``mixed`` torch's autocast takes matrix products and convolutions in bfloat16. Parameters stay
    float32, and so do their gradients and the optimiser's state. bfloat16 has the range of float32: no loss
    needs to be scaled. The backward pass belongs outside; it computes in the types of the forward pass.

    Args:
        device: where the model lies, a CPU or a GPU.
        mixed: False: nothing changes.

    """
    return torch.autocast(device.type, torch.bfloat16) if mixed else nullcontext()


def at_least_float32(value: Tensor) -> Tensor:
    """Return values of 16 bits as float32, all others as they are."""
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
