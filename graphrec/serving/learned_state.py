"""What the updates of a day have changed, on disk with a checksum: weights, gradient sum and row count."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from graphrec.training.checkpoint import save_checkpoint
from graphrec.training.online import OnlineUpdater

_NUMBERS = ("start", "num_rows")
_TENSORS = ("parameters", "gradient_sum")


def save_learned_state(path: Path, updater: OnlineUpdater, start: int) -> None:
    """Write the state that the period of ``start`` begins with; the former file stays until it is whole.

    Raises:
        OSError, RuntimeError: it cannot be written.

    """
    content: dict[str, Any] = {
        "start": start,
        "num_rows": updater.num_rows,
        "parameters": [p.detach() for p in updater.parameters],
        "gradient_sum": updater.gradient_sum,
    }
    save_checkpoint(path, {**content, "checksum": _checksum(content)})


def load_learned_state(path: Path, updater: OnlineUpdater) -> int:
    """Put a state into an updater of the same model and return the start of the period that it is for.

    Raises:
        ValueError: the file cannot be read, is not what :func:`save_learned_state` wrote or is of another
            model; the updater has not been changed.

    """
    try:
        state = torch.load(path, weights_only=True)
    except Exception as error:  # whatever a damaged archive makes of it
        raise ValueError(f"{path} is not a whole checkpoint ({error})") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} is no checkpoint of a served day: it holds a {type(state).__name__}")
    try:
        found = _checksum(state)
        wanted, start, num_rows = state["checksum"], state["start"], state["num_rows"]
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is no checkpoint of a served day ({error!r})") from error
    if found != wanted:
        raise ValueError(f"{path} has changed since it was written: its checksum differs")
    targets: dict[str, Sequence[torch.Tensor]] = {
        "parameters": updater.parameters,
        "gradient_sum": updater.gradient_sum,
    }
    for name, tensors in targets.items():
        if [t.shape for t in tensors] != [t.shape for t in state[name]]:
            raise ValueError(f"{path} is of another model: the shapes of its {name!r} differ")
    with torch.no_grad():
        for name, tensors in targets.items():
            for tensor, value in zip(tensors, state[name], strict=True):
                tensor.copy_(value)
    updater.num_rows = num_rows
    return int(start)


def _checksum(state: Mapping[str, Any]) -> str:
    """Return 32 hexadecimal digits of the BLAKE2b of numbers, shapes, types and values."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr([(name, int(state[name])) for name in _NUMBERS]).encode())
    for name in _TENSORS:
        for tensor in state[name]:
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
