"""Checkpoints: tensors and plain values in one file, written whole or not at all."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphrec.encoders.sentences import UserSentences


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
        # torch advises to unpickle whatever there is: that advice is not passed on
        unsafe = "weights_only" in str(error)
        reason = "it holds no tensors and plain values alone" if unsafe else str(error)
        raise ValueError(f"{path} is not a whole checkpoint ({reason}); delete it to start afresh") from (
            None if unsafe else error
        )
    return state


def check_parts(path: Path, state: Mapping[str, Any], parts: Sequence[str], what: str) -> None:
    """Raise if a file holds something else than it is read for.

    Raises:
        ValueError: one of the parts is missing; it says what there is.

    """
    if not set(parts) <= set(state):
        raise ValueError(f"{path} is not {what}: it holds {sorted(state)}; give the path of one")


def check_made_from(path: Path, stored: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> None:
    """Raise if a checkpoint was made by another run than the one that is to go on from it.

    Args:
        path: of the checkpoint, for the message.
        stored: what it was made from; None: it was written without.
        wanted: what this run is made from: names of parts and their plain values, digests, or mappings of
            such, which are compared name by name.

    Raises:
        ValueError: something differs: it says what, and what was stored.

    """
    if stored is None:
        raise ValueError(
            f"{path} does not say what its training was made from, so it may be another run's: give this run "
            "another path, or delete the file to start afresh"
        )
    before, now = _flat(stored), _flat(wanted)
    differing = [
        f"{name} is {_say(now, name)}, the checkpoint has {_say(before, name)}"
        for name in {**now, **before}
        if _plain(before.get(name)) != _plain(now.get(name))
    ]
    if differing:
        raise ValueError(
            f"{path} is the checkpoint of another run: {'; '.join(differing)}. Give this run another path, "
            "or delete the file to start afresh"
        )


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found = dict[str, Any]()
    for name, value in values.items():
        nested = isinstance(value, Mapping)
        found |= _flat(value, f"{before}{name}.") if nested else {f"{before}{name}": value}
    return found


def _plain(value: Any) -> str:
    """Return text that is the same for lists and tuples of the same values."""
    return json.dumps(value)


def _say(values: Mapping[str, Any], name: str) -> str:
    return _plain(values[name]) if name in values else "none"


def digest_of_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return 16 hexadecimal digits over the names, dtypes, shapes and values of tensors, in their order."""
    found = hashlib.sha256()
    for name, tensor in tensors:
        value = tensor.detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def digest_of_sentences(sentences: UserSentences) -> str:
    """Return 16 hexadecimal digits over words and profile codes, kind by kind, whatever the device."""
    words = [
        (f"{kind} {name}", value)
        for kind, of_kind in sentences.words.items()
        for name, value in vars(of_kind).items()
    ]
    return digest_of_tensors([*words, ("profile", sentences.profile)])


def shape_of_model(model: nn.Module) -> dict[str, Any]:
    """Return what a model is made of, weights apart: its class, its parameters' shapes, its options.

    Options are the plain values of each part's ``options``, such as dropout and heads, which no shape shows.
    """
    shapes = {name: list(weight.shape) for name, weight in model.named_parameters()}
    options = dict[str, Any]()
    for name, part in model.named_modules():
        own: Any = getattr(part, "options", None)
        if isinstance(own, Mapping):
            options |= {f"{name}.{option}".lstrip("."): value for option, value in own.items()}
    digest = hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:16]
    return {"class": type(model).__name__, "shapes": digest, "options": options}


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
