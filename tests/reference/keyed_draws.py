"""Keyed draws and random strategies, written from their definitions in plain Python, one number at a time."""

import hashlib
import math

WORD = 2**64


def keyed_word(*keys):
    """SplitMix64's finaliser, chained over the keys; text counts by its hash."""
    state = 0
    for key in keys:
        if key is None or isinstance(key, str | tuple):
            text = "" if key is None else key if isinstance(key, str) else "\0".join(key)
            key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
        x = ((state ^ (key % WORD)) + 0x9E3779B97F4A7C15) % WORD
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % WORD
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % WORD
        state = x ^ (x >> 31)
    return state


def keyed_uniform(*keys):
    return (keyed_word(*keys) >> 11) * 2.0**-53


def choose_recent(visible, num_neighbors, keys):
    chosen = visible[::-1]
    return chosen if num_neighbors == -1 else chosen[:num_neighbors]


def choose_uniform(visible, num_neighbors, keys):
    """Floyd's algorithm: slot s draws from the first n - K + s + 1 edges, the last of them if it is taken."""
    if num_neighbors == -1 or len(visible) <= num_neighbors:
        return visible[::-1]
    chosen = set()
    for slot in range(num_neighbors):
        last = len(visible) - num_neighbors + slot
        drawn = int(keyed_uniform(*keys, slot) * (last + 1))
        chosen.add(last if drawn in chosen else drawn)
    return [visible[number] for number in sorted(chosen, reverse=True)]


def choose_uniform_replace(visible, num_neighbors, keys):
    if not visible:
        return []
    drawn = [int(keyed_uniform(*keys, slot) * len(visible)) for slot in range(num_neighbors)]
    return [visible[number] for number in sorted(drawn, reverse=True)]


def choose_weighted(visible, weights, num_neighbors, keys):
    """Each edge's clock rings after an exponential time, divided by its weight; the first K are taken."""
    rings = []
    for number, weight in enumerate(weights):
        if weight > 0:
            clock = max(-math.log2(keyed_uniform(*keys, number) + 2.0**-54), 2.0**-54)
            rings.append((clock / weight, number))
    first = sorted(rings) if num_neighbors == -1 else sorted(rings)[:num_neighbors]
    return [visible[number] for number in sorted((number for _, number in first), reverse=True)]


def choose_weighted_replace(visible, weights, num_neighbors, keys, *, whole=False):
    """Draw below the sum of whole weights: multiples of 2^-31 of the largest, unless ``whole``."""
    largest = max(weights, default=0)
    if largest == 0:
        return []
    units = [int(weight) if whole else int(weight / largest * 2**31) for weight in weights]
    drawn = []
    for slot in range(num_neighbors):
        target, number = int(keyed_uniform(*keys, slot) * sum(units)), 0
        while target >= units[number]:
            target -= units[number]
            number += 1
        drawn.append(number)
    return [visible[number] for number in sorted(drawn, reverse=True)]
