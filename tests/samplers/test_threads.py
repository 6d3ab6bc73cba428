"""The compiled engine in threads and in forked processes: the same answer everywhere, and no deadlock."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch.utils.data import DataLoader

from samplers import MultiHopSampler, RecentNeighborSampler, TemporalCSR, UniformNeighborSampler

CLICK, CLICKED = ("user", "click", "item"), ("item", "rev_click", "user")
NUM_USERS, NUM_ITEMS, NUM_EDGES, NUM_SEEDS = 700, 300, 20_000, 6000


@pytest.fixture
def two_threads(monkeypatch):
    """Two threads also in a DataLoader's workers, whom torch gives one."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


@pytest.fixture(scope="module")
def csrs():
    generator = torch.Generator().manual_seed(2)
    index = torch.stack(
        [torch.randint(0, n, (NUM_EDGES,), generator=generator) for n in (NUM_USERS, NUM_ITEMS)]
    )
    time = torch.randint(0, 10_000, (NUM_EDGES,), generator=generator)
    sizes = {"num_rows": NUM_USERS, "num_cols": NUM_ITEMS}
    return {
        CLICKED: TemporalCSR.from_edge_index(index, time, row="source", **sizes),
        CLICK: TemporalCSR.from_edge_index(
            index, time, row="destination", num_rows=NUM_ITEMS, num_cols=NUM_USERS
        ),
    }


def queries(number):
    generator = torch.Generator().manual_seed(number)
    return (
        torch.randint(0, NUM_USERS, (NUM_SEEDS,), generator=generator),
        torch.randint(0, 11_000, (NUM_SEEDS,), generator=generator),
    )


def sample(csrs, number):
    """Large enough for each sampler's loop to be cut into pieces."""
    seed, time = queries(number)
    recent = RecentNeighborSampler(csrs[CLICKED], 5, engine="numba").sample(seed, time)
    uniform = UniformNeighborSampler(csrs[CLICKED], 5, random_seed=1, engine="numba").sample(seed, time)
    hops = MultiHopSampler(csrs, [3, 3], strategy=UniformNeighborSampler, engine="numba").sample(
        {"user": (seed, time)}
    )
    return [
        recent.edge_id,
        uniform.edge_id,
        hops.node["user"],
        hops.node["item"],
        hops.hops[1][CLICK].edge_id,
    ]


def same(left, right):
    return all(torch.equal(ours, other) for ours, other in zip(left, right, strict=True))


@pytest.fixture(scope="module")
def expected(csrs):
    """What one thread samples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 1)
        return [sample(csrs, number) for number in range(4)]


def test_several_threads_sample_what_one_does(csrs, expected, two_threads):
    assert all(same(sample(csrs, number), wanted) for number, wanted in enumerate(expected))
    assert any(thread.name.startswith("samplers") for thread in threading.enumerate())


def test_two_callers_at_once_get_their_own_answers(csrs, expected, two_threads):
    start = threading.Barrier(2)

    def work(first):
        start.wait()
        return [sample(csrs, number) for _ in range(3) for number in (first, first + 2)]

    with ThreadPoolExecutor(2) as pool:
        for first, found in enumerate(pool.map(work, (0, 1))):
            wanted = [expected[first], expected[first + 2]] * 3
            assert all(same(ours, other) for ours, other in zip(found, wanted, strict=True))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_workers_sample_after_their_parent_did(csrs, expected, two_threads):
    assert same(sample(csrs, 0), expected[0])  # the parent's threads and compiled code are there now
    loader = DataLoader(
        list(range(4)),
        batch_size=None,
        num_workers=2,
        multiprocessing_context="fork",
        collate_fn=partial(sample, csrs),
        timeout=120,
    )
    for number, found in enumerate(loader):
        assert same(found, expected[number])
    assert same(sample(csrs, 1), expected[1])
