"""Checkpoints: tensors and plain values in one file, written whole or not at all."""

import os
from pathlib import Path
from typing import Any

import torch


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` to a temporary name beside ``path``, flush it to disk and rename it.

    A kill at any moment leaves the former file or the new one. ``state`` holds tensors, numbers, strings,
    lists and dicts of them: what ``torch.load(weights_only=True)`` reads back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_checkpoint(path: Path, *, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint without unpickling anything but tensors and plain values.

    Raises:
        ValueError: the file is not a checkpoint or was cut short.

    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is not a whole checkpoint ({error}); delete it to start afresh") from error
    return state


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """State of the random number generators that dropout draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Undo what has been drawn since :func:`random_state`."""
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
