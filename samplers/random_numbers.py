"""Keyed random numbers: the same key gives the same number on any device, batch size and worker.

The finaliser is that of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
Generators, OOPSLA 2014), chained over the keys: state = finalise((state xor key) + gamma).
"""

import hashlib

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

Key = int | str | tuple[str, ...] | None | Tensor

_GAMMA = 0x9E3779B97F4A7C15
_FIRST_FACTOR = 0xBF58476D1CE4E5B9
_SECOND_FACTOR = 0x94D049BB133111EB
_WORD = (1 << 64) - 1


def keyed_bits(*keys: Key) -> Int64[Tensor, "*shape"]:
    """64 random bits for each key, as int64 of either sign.

    Keys are numbers, strings (an edge type may be given as it is; None is a key of its own) and int64 tensors
    that broadcast together. The order of keys matters. All integer arithmetic, so every device agrees.

    Raises:
        TypeError: a key is of another type.

    """
    state: int | Tensor = 0
    for key in keys:
        word = key.long() if isinstance(key, Tensor) else _word(key)
        state = _mix(state, word)
    return state if isinstance(state, Tensor) else torch.tensor(_signed(state))


def keyed_uniform(*keys: Key) -> Float64[Tensor, "*shape"]:
    """Draw a number in [0, 1) for each key: a multiple of 2^-53."""
    return _shift_right(keyed_bits(*keys), 11).double() * 2.0**-53


def keyed_integers(high: Int64[Tensor, "*high_shape"] | int, *keys: Key) -> Int64[Tensor, "*shape"]:
    """Draw an integer in [0, high) for each key, 0 where ``high`` is 0; ``high`` broadcasts with the keys."""
    return scale_to_integers(keyed_uniform(*keys), high)


def scale_to_integers(uniform: Tensor, high: Tensor | int) -> Tensor:
    """Turn numbers in [0, 1) into integers in [0, high); 0 where ``high`` is 0. Bias below high / 2^53."""
    return (uniform * high).long()


def draw_uniform(
    shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None, *keys: Key
) -> Tensor:
    """Numbers in [0, 1) from a generator where one is given, else keyed."""
    if generator is None:
        return keyed_uniform(*keys).to(device).expand(shape)
    drawn = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
    return drawn.to(device)


def stable_hash(text: str) -> int:
    """Hash a string to an unsigned 64-bit number, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _word(key: int | str | tuple[str, ...] | None) -> int:
    if isinstance(key, int):
        return key & _WORD
    if isinstance(key, str):
        return stable_hash(key)
    if key is None:
        return stable_hash("")
    if isinstance(key, tuple):
        return stable_hash("\0".join(key))
    raise TypeError(f"a key is a number, a string, an edge type or a tensor, got {type(key).__name__}")


def _mix(state: int | Tensor, key: int | Tensor) -> int | Tensor:
    if isinstance(state, int) and isinstance(key, int):
        return _finalise_number(((state ^ key) + _GAMMA) & _WORD)
    mixed = (_signed(state) if isinstance(state, int) else state) ^ (
        _signed(key) if isinstance(key, int) else key
    )
    assert isinstance(mixed, Tensor)
    return _finalise(mixed + _signed(_GAMMA))


def _finalise_number(x: int) -> int:
    x = ((x ^ (x >> 30)) * _FIRST_FACTOR) & _WORD
    x = ((x ^ (x >> 27)) * _SECOND_FACTOR) & _WORD
    return x ^ (x >> 31)


def _finalise(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _signed(_FIRST_FACTOR)  # int64 products wrap around
    x = (x ^ _shift_right(x, 27)) * _signed(_SECOND_FACTOR)
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, places: int) -> Tensor:
    """Logical shift: torch's own copies the sign bit."""
    return (x >> places) & ((1 << (64 - places)) - 1)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word
