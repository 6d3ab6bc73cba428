"""A bound for the samplers' speed: the records that they return, copied by a loop that knows their places."""

from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from samplers import SampledNeighbors, TemporalCSR
from samplers.compiled.jit import run
from samplers.compiled.one_hop import open_slots, pad, write_back, write_slot
from samplers.compiled.rows import BLOCK, pointer_to, pointers, prefetch, prefetch_back
from samplers.one_hop import OneHopSampler
from samplers.recent import RecentNeighborSampler

BARE_COPY = "bare copy"
_LEAST = 1024  # queries that are worth another thread


@numba.njit(nogil=True, error_model="numpy")
def copy_last(first, stop, arrays, last, count, out):
    """Copy ``count`` records from place ``last`` back, and pad: last-K without the search."""
    csr, slots = pointers(arrays), open_slots(out)
    last_at, count_at = pointer_to(last), pointer_to(count)
    for begin in range(first, stop, BLOCK):
        end = min(begin + BLOCK, stop)
        for query in range(begin, end):
            prefetch_back(csr.edges, last_at[query], count_at[query])
        for query in range(begin, end):
            at = query * slots.width
            write_back(csr, last_at[query], count_at[query], slots, at)
            pad(slots, at + count_at[query], at + slots.width)


@numba.njit(nogil=True, error_model="numpy")
def copy_places(first, stop, arrays, place, count, out):
    """Copy ``count`` records from given places, and pad: drawn neighbours without search and draw."""
    csr, slots = pointers(arrays), open_slots(out)
    place_at, count_at, width = pointer_to(place), pointer_to(count), slots.width
    for begin in range(first, stop, BLOCK):
        end = min(begin + BLOCK, stop)
        for query in range(begin, end):
            for j in range(count_at[query]):
                prefetch(csr.edges.times, place_at[query * width + j] * csr.edges.num_times)
        for query in range(begin, end):
            at = query * width
            for j in range(at, at + count_at[query]):
                write_slot(csr, place_at[j], slots, j)
            pad(slots, at + count_at[query], at + width)


def bare_copy(
    sampler: OneHopSampler, batches: Sequence[tuple[Tensor, Tensor]], *, hop: int = 0
) -> Callable[[int], SampledNeighbors]:
    """Return a function that makes what the sampler returns for batch ``number``; numbers go round.

    It reads the same records of the same memory and writes the same columns in as many threads, but searches
    no time, draws nothing and checks nothing: what it takes, no sampler that returns this can do without.

    Args:
        sampler: RecentNeighborSampler or UniformNeighborSampler, of a CSR without delta.
        batches: seeds and times; places are found beforehand.
        hop: given to the sampler.

    """
    csr, width = sampler.csr, sampler.num_neighbors
    place_of = _place_of_edge_id(csr)
    found: list[tuple[Any, np.ndarray, np.ndarray]] = []
    for seed, seed_time in batches:
        sampled = sampler.sample(seed, seed_time, hop=hop)
        place, count = place_of[sampled.edge_id], sampled.mask.sum(1).numpy()
        if isinstance(sampler, RecentNeighborSampler):
            found.append((copy_last, place[:, 0].contiguous().numpy(), count))
        else:
            found.append((copy_places, place.numpy(), count))

    def copy(number: int) -> SampledNeighbors:
        kernel, place, count = found[number % len(found)]
        copied = SampledNeighbors.empty(len(count), width)
        run(kernel, len(count), csr.arrays, place, count, copied.arrays(), least=_LEAST)
        return copied

    return copy


def _place_of_edge_id(csr: TemporalCSR) -> Tensor:
    place = torch.arange(csr.num_edges)
    place_of = torch.empty_like(place)
    place_of[csr.look_up("edge_id", place).long()] = place
    return place_of
