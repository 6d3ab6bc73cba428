"""Keyed random numbers: the same key gives the same number on any device, batch size and worker.

The finaliser is that of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
Generators, OOPSLA 2014), chained over the keys: state = finalise((state xor key) + gamma).
"""

import hashlib
import math
from functools import lru_cache
from numbers import Integral

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

FixedKey = int | str | tuple[str, ...] | None
Key = FixedKey | Tensor

_GAMMA = 0x9E3779B97F4A7C15
_FIRST_FACTOR = 0xBF58476D1CE4E5B9
_SECOND_FACTOR = 0x94D049BB133111EB
_WORD = (1 << 64) - 1

# log2((1 + s) / (1 - s)) = 2 / ln 2 * (s + s^3 / 3 + ...), highest power first; |s| < 0.172
LOG_COEFFICIENTS = tuple(2.0 / (math.log(2.0) * k) for k in range(23, 0, -2))
# 2^-f = sum of (-f ln 2)^k / k!, highest power first; 0 <= f < 1
EXP_COEFFICIENTS = tuple((-math.log(2.0)) ** k / math.factorial(k) for k in range(17, -1, -1))
SQRT_HALF = math.sqrt(0.5)


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


def uniform_after(state: Int64[Tensor, "*state_shape"], *keys: int | Tensor) -> Float64[Tensor, "*shape"]:
    """Go on from a state that ``keyed_bits`` made: ``keyed_uniform`` of its keys and these."""
    bits: int | Tensor = state
    for key in keys:
        bits = _mix(bits, key)
    assert isinstance(bits, Tensor)
    return _shift_right(bits, 11).double() * 2.0**-53


def keyed_integers(high: Int64[Tensor, "*high_shape"] | int, *keys: Key) -> Int64[Tensor, "*shape"]:
    """Draw an integer in [0, high) for each key, 0 where ``high`` is 0; ``high`` broadcasts with the keys."""
    return scale_to_integers(keyed_uniform(*keys), high)


def scale_to_integers(uniform: Tensor, high: Tensor | int) -> Tensor:
    """Turn numbers in [0, 1) into integers in [0, high); 0 where ``high`` is 0. Bias below high / 2^53."""
    return (uniform * high).long()


def log2(x: Tensor) -> Tensor:
    """Logarithm of positive, normal numbers, to one part in 2^51.

    Made of sums, products and quotients alone, which every device rounds alike; libraries' logarithms differ
    in the last bit, and a sampler that compares them would take other edges on another device.
    """
    mantissa, exponent = torch.frexp(x)
    small = mantissa < SQRT_HALF
    mantissa = torch.where(small, mantissa * 2.0, mantissa)
    exponent = torch.where(small, exponent - 1, exponent)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    z = s * s
    total = torch.zeros_like(x)
    for coefficient in LOG_COEFFICIENTS:
        total = total * z  # two statements, so that no device fuses them into one rounding
        total = total + coefficient
    total = total * s
    return total + exponent


def fixed_point_exp2(x: Tensor) -> Tensor:
    """Whole part of 2^31 / 2^x for x >= 0, as int64; the same on every device, as ``log2``."""
    whole = x.floor().clamp(max=31.0)
    fraction = (x - whole).clamp(max=1.0)
    total = torch.zeros_like(x)
    for coefficient in EXP_COEFFICIENTS:
        total = total * fraction
        total = total + coefficient
    scale = torch.ones_like(whole, dtype=torch.int64) << (31 - whole.long())
    return (total * scale.double()).long().where(x < 32.0, 0)


def query_state(
    prefix: tuple[Key, ...], node: Tensor, time: Tensor, generator: torch.Generator | None
) -> tuple[Key, ...]:
    """Return what keys a query's draws: the prefix, node and time.

    A generator gives one number for the call, which takes the prefix's place, and each query is keyed by its
    place in the batch: equal queries draw independently.
    """
    if generator is None:
        return (*prefix, node, time)
    return (draw_key(generator), torch.arange(len(node), device=node.device))


def draw_key(generator: torch.Generator) -> int:
    """Draw one number of 63 bits from a generator, to key all draws of a call."""
    return int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))


def word_of(*keys: FixedKey) -> int:
    """State after these keys, an unsigned 64-bit number: what compiled code goes on from."""
    state = 0
    for key in keys:
        state = _finalise_number(((state ^ _word(key)) + _GAMMA) & _WORD)
    return state


@lru_cache
def stable_hash(text: str) -> int:
    """Hash a string to an unsigned 64-bit number, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _word(key: FixedKey) -> int:
    if isinstance(key, Integral):
        return int(key) & _WORD
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
