"""The graph of the benchmark: synthetic events of users and items, and queries on them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from experiments.benchmarks.samplers.settings import Settings
from samplers import EdgeType, TemporalCSR

START_TIME = 1_640_995_200  # 2022-01-01, unix seconds
YEAR = 31_536_000
END_TIME = START_TIME + YEAR  # later than every event
ITEMS_OF_USERS: EdgeType = ("item", "rev_clicks", "user")  # rows are users
USERS_OF_ITEMS: EdgeType = ("user", "clicks", "item")  # rows are items
NUM_BATCHES = 64  # different batches of queries; runs go through them again and again


@dataclass(frozen=True, eq=False)
class Events:
    """Events in the order of their times, as a log is written."""

    edge_index: Int64[Tensor, "2 num_edges"]
    """User, then item, of each event."""
    edge_time: Int64[Tensor, " num_edges"]
    num_users: int
    num_items: int

    def csr_of_users(self) -> TemporalCSR:
        """Group by user; the columns are items."""
        return TemporalCSR.from_edge_index(
            self.edge_index, self.edge_time, num_rows=self.num_users, num_cols=self.num_items, row="source"
        )

    def csr_of_items(self) -> TemporalCSR:
        """Group by item; the columns are users."""
        return TemporalCSR.from_edge_index(
            self.edge_index,
            self.edge_time,
            num_rows=self.num_items,
            num_cols=self.num_users,
            row="destination",
        )

    def csrs(self) -> dict[EdgeType, TemporalCSR]:
        """Both directions, as ``MultiHopSampler`` takes them."""
        return {ITEMS_OF_USERS: self.csr_of_users(), USERS_OF_ITEMS: self.csr_of_items()}

    def joint_edges(self) -> tuple[Int64[Tensor, "2 _"], Int64[Tensor, " _"]]:
        """Both directions of every event in one space of ids, items after users, in the order of time.

        DGL and PyG are faster on such a graph than on one with several types of nodes and edges, so they get
        it. Returns edge_index (2, 2 num_edges) and edge_time.
        """
        user, item = self.edge_index[0], self.edge_index[1] + self.num_users
        edge_index = torch.empty(2, 2 * len(user), dtype=torch.int64)
        edge_index[0, 0::2], edge_index[0, 1::2] = user, item
        edge_index[1, 0::2], edge_index[1, 1::2] = item, user
        return edge_index, self.edge_time.repeat_interleave(2)

    @property
    def num_nodes(self) -> int:
        """Users and items."""
        return self.num_users + self.num_items


@dataclass(frozen=True, eq=False)
class Queries:
    """Batches of users, each with a time of its own drawn over the year."""

    user: Int64[Tensor, "num_batches batch_size"]
    time: Int64[Tensor, "num_batches batch_size"]

    def batch(self, number: int) -> tuple[Int64[Tensor, " batch_size"], Int64[Tensor, " batch_size"]]:
        """Return users and times of a batch; numbers go round."""
        number %= len(self.user)
        return self.user[number], self.time[number]

    def at_end(self) -> "Queries":
        """Ask the same users, all after the last event: they see their whole history."""
        return Queries(self.user, torch.full_like(self.time, END_TIME))


def make_events(settings: Settings, num_edges: int) -> Events:
    """Draw events, or read them from the cache.

    Items are drawn by Zipf's law (the item of rank r in proportion to 1 / r; ids are shuffled ranks), users
    uniformly, times uniformly over a year. Every system then has work to do for most queries: were users
    drawn by Zipf's law too, nearly all of them would have fewer than K events.
    """
    name = f"events-{num_edges}-{settings.users}-{settings.items}-{settings.random_seed}"
    generator = np.random.default_rng(settings.random_seed)
    user = _cached(
        settings.cache / f"{name}-user.npy",
        lambda: generator.integers(0, settings.users, num_edges, dtype=np.int32),
    )
    item = _cached(
        settings.cache / f"{name}-item.npy",
        lambda: _zipf(num_edges, settings.items, settings.random_seed + 1),
    )
    generator = np.random.default_rng(settings.random_seed + 2)
    time = _cached(
        settings.cache / f"{name}-time.npy",
        lambda: np.sort(generator.integers(START_TIME, END_TIME, num_edges)),
    )
    edge_index = torch.empty(2, num_edges, dtype=torch.int64)
    edge_index[0], edge_index[1] = torch.from_numpy(user), torch.from_numpy(item)
    return Events(edge_index, torch.from_numpy(time), settings.users, settings.items)


def make_queries(settings: Settings, *, batch_size: int | None = None) -> Queries:
    """Draw users and times uniformly; the same ones for every system and every graph."""
    generator = torch.Generator().manual_seed(settings.random_seed)
    shape = (NUM_BATCHES, batch_size or settings.batch_size)
    user = torch.randint(settings.users, shape, generator=generator)
    time = torch.randint(START_TIME, END_TIME, shape, generator=generator)
    return Queries(user, time)


def _zipf(num_draws: int, num_ids: int, random_seed: int) -> np.ndarray:
    generator = np.random.default_rng(random_seed)
    cumulative = np.cumsum(1.0 / np.arange(1, num_ids + 1))
    rank = np.searchsorted(cumulative, generator.random(num_draws) * cumulative[-1], side="right")
    return generator.permutation(num_ids).astype(np.int32)[np.minimum(rank, num_ids - 1)]


def _cached(path: Path, draw: Callable[[], np.ndarray]) -> np.ndarray:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp.npy")
        np.save(temporary, draw())
        temporary.replace(path)  # whole or not at all
    return np.load(path)
