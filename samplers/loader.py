"""Seeds to mini-batches: shuffled by key, resumable, prepared ahead by one background thread."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from jaxtyping import Int64
from torch import Tensor

from samplers.multi_hop import MultiHopSampler
from samplers.neighbors import NodeType, SampledSubgraph
from samplers.random_numbers import keyed_bits

Batch = TypeVar("Batch")


class SeedLoader(Generic[Batch]):
    """Cut seed numbers 0 .. num_seeds - 1 into batches and hand each batch to ``collate``.

    Args:
        num_seeds: how many seeds there are.
        batch_size: seeds a batch; the last one may be smaller.
        collate: makes a batch out of seed numbers, int64 (batch_size,).
        shuffle: True: a new order each epoch, keyed by (random_seed, epoch).
        group: one number for each seed (its time, say): seeds of a group lie together. Groups come in keyed
            order if shuffled, else in rising order. A batch may hold parts of several.
        random_seed: part of the key of the order.
        prefetch: batches prepared ahead in one background thread; 0 works in the caller's thread.

    """

    def __init__(
        self,
        num_seeds: int,
        *,
        batch_size: int,
        collate: Callable[[Tensor], Batch],
        shuffle: bool = False,
        group: Int64[Tensor, " num_seeds"] | None = None,
        random_seed: int = 0,
        prefetch: int = 2,
    ) -> None:
        if num_seeds < 0 or batch_size < 1 or prefetch < 0:
            raise ValueError(
                "num_seeds and prefetch must be at least 0 and batch_size at least 1, got "
                f"{num_seeds}, {prefetch} and {batch_size}"
            )
        if group is not None and len(group) != num_seeds:
            raise ValueError(f"group needs one value for each of {num_seeds} seeds, got {len(group)}")
        self.num_seeds, self.batch_size, self.collate = num_seeds, batch_size, collate
        self.shuffle, self.group, self.random_seed, self.prefetch = shuffle, group, random_seed, prefetch

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return -(-self.num_seeds // self.batch_size)

    def order(self, epoch: int) -> Int64[Tensor, " num_seeds"]:
        """Seed numbers in the order of an epoch."""
        order = torch.arange(self.num_seeds)
        if self.shuffle:
            order = keyed_bits(self.random_seed, epoch, "seed order", order).argsort(stable=True)
        if self.group is not None:
            group = self.group.cpu()
            key = keyed_bits(self.random_seed, epoch, "group order", group) if self.shuffle else group
            order = order[key[order].argsort(stable=True)]
        return order

    def batches(self, epoch: int = 0, *, start_batch: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number ``start_batch`` on: the same ones as without it.

        An error in ``collate`` is raised here. Leaving the loop early stops the background thread.
        """
        indices = torch.split(self.order(epoch), self.batch_size)[start_batch:] if self.num_seeds else ()
        if self.prefetch == 0:
            return map(self.collate, indices)
        return _prefetch(self.collate, indices, self.prefetch)


@dataclass(frozen=True, eq=False)
class NeighborBatch:
    """A batch of seeds: their numbers among all seeds, and the subgraph around them."""

    index: Int64[Tensor, " batch_size"]
    subgraph: SampledSubgraph


class NeighborLoader:
    """Batches of subgraphs around seeds of one node type, sampled anew each epoch.

    Args:
        sampler: samples around the seeds; its CSRs lie on the seeds' device.
        node_type: of all seeds.
        seed: node ids.
        seed_time: their query times.
        batch_size: see ``SeedLoader``, as for the other arguments.
        shuffle: a new order each epoch.
        group: keeps seeds of a group together.
        random_seed: keys the order (the sampler has a seed of its own).
        prefetch: batches prepared ahead.

    """

    def __init__(
        self,
        sampler: MultiHopSampler,
        node_type: NodeType,
        seed: Int64[Tensor, " num_seeds"],
        seed_time: Int64[Tensor, " num_seeds"],
        *,
        batch_size: int,
        shuffle: bool = False,
        group: Int64[Tensor, " num_seeds"] | None = None,
        random_seed: int = 0,
        prefetch: int = 2,
    ) -> None:
        if seed.shape != seed_time.shape:
            raise ValueError(f"each seed needs one time: got {len(seed)} seeds and {len(seed_time)} times")
        self.sampler, self.node_type, self.seed, self.seed_time = sampler, node_type, seed, seed_time
        self.loader_options = (batch_size, shuffle, group, random_seed, prefetch)
        self._seed_loader(0)  # checks its options

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return len(self._seed_loader(0))

    def batches(self, epoch: int = 0, *, start_batch: int = 0) -> Iterator[NeighborBatch]:
        """Yield the batches of an epoch, as ``SeedLoader.batches``."""
        return self._seed_loader(epoch).batches(epoch, start_batch=start_batch)

    def __repr__(self) -> str:
        batch_size, shuffle, group, random_seed, prefetch = self.loader_options
        return (
            f"NeighborLoader({self.sampler!r}, {self.node_type!r}, num_seeds={len(self.seed)}, "
            f"batch_size={batch_size}, shuffle={shuffle}, grouped={group is not None}, "
            f"random_seed={random_seed}, prefetch={prefetch})"
        )

    def _seed_loader(self, epoch: int) -> SeedLoader[NeighborBatch]:
        batch_size, shuffle, group, random_seed, prefetch = self.loader_options

        def collate(index: Tensor) -> NeighborBatch:
            index = index.to(self.seed.device)
            seeds = {self.node_type: (self.seed[index], self.seed_time[index])}
            return NeighborBatch(index, self.sampler.sample(seeds, epoch=epoch))

        return SeedLoader(
            len(self.seed),
            batch_size=batch_size,
            collate=collate,
            shuffle=shuffle,
            group=group,
            random_seed=random_seed,
            prefetch=prefetch,
        )


def _prefetch(
    collate: Callable[[Tensor], Batch], indices: Iterable[Tensor], capacity: int
) -> Iterator[Batch]:
    """Run ``collate`` in one thread, at most ``capacity`` results ahead."""
    results: queue.Queue[tuple[Batch | None, BaseException | None, bool]] = queue.Queue(capacity)
    stop = threading.Event()

    def put(batch: Batch | None, error: BaseException | None, is_last: bool) -> bool:
        while not stop.is_set():
            try:
                results.put((batch, error, is_last), timeout=0.05)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for index in indices:
                if not put(collate(index), None, False):
                    return
            put(None, None, True)
        except BaseException as error:
            put(None, error, True)

    thread = threading.Thread(target=work, name="seed-loader", daemon=True)
    thread.start()
    try:
        while True:
            batch, error, is_last = results.get()
            if error is not None:
                raise error
            if is_last:
                return
            yield batch  # type: ignore[misc]  # None stands only beside an error or the end
    finally:
        stop.set()
        thread.join()
