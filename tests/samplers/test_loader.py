import itertools
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samplers import MultiHopSampler, NeighborLoader, SeedLoader
from tests.reference.samplers import Edge
from tests.samplers.strategies import csr_of


def loader_threads():
    return [t for t in threading.enumerate() if t.name == "seed-loader"]


def lists(loader, *arguments, **options):
    return [index.tolist() for index in loader.batches(*arguments, **options)]


def make(num_seeds=11, batch_size=3, **options):
    return SeedLoader(num_seeds, batch_size=batch_size, collate=lambda index: index, **options)


@given(st.integers(0, 12), st.integers(1, 5), st.booleans(), st.integers(0, 3), st.integers(0, 3))
def test_every_seed_comes_once_and_any_start_resumes(num_seeds, batch_size, shuffle, prefetch, start):
    loader = make(num_seeds, batch_size, shuffle=shuffle, prefetch=prefetch)
    batches = lists(loader, 2)
    assert sorted(itertools.chain(*batches)) == list(range(num_seeds))
    assert len(batches) == len(loader)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert lists(loader, 2, start_batch=start) == batches[start:]


def test_order_is_keyed_by_epoch_and_random_seed():
    shuffled = make(shuffle=True)
    assert lists(shuffled, 0) == lists(shuffled, 0) == lists(make(shuffle=True, prefetch=0), 0)
    assert len({str(lists(shuffled, epoch)) for epoch in range(4)}) == 4
    assert lists(shuffled, 0) != lists(make(shuffle=True, random_seed=1), 0)
    assert lists(make(), 1) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10]]


@pytest.mark.parametrize("shuffle", [False, True])
def test_groups_lie_together(shuffle):
    group = torch.tensor([5, 3, 5, 9, 3, 5, 9, 1, 1, 3, 5])
    loader = make(group=group, shuffle=shuffle)
    orders = [group[loader.order(epoch)].tolist() for epoch in range(6)]
    for order in orders:
        assert sum(a != b for a, b in itertools.pairwise(order)) == 3
    assert (len({tuple(order) for order in orders}) > 1) == shuffle
    assert shuffle or orders[0] == sorted(group.tolist())


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_an_error_in_collate_reaches_the_consumer(prefetch):
    def collate(index):
        if 4 in index:
            raise KeyError("row 4 is broken")
        return index

    loader = SeedLoader(9, batch_size=2, collate=collate, prefetch=prefetch)
    received = []
    with pytest.raises(KeyError, match="row 4 is broken"):
        received.extend(index.tolist() for index in loader.batches())
    assert received == [[0, 1], [2, 3]]
    assert not loader_threads()


def test_leaving_early_stops_the_thread():
    batches = make(1000, 1, prefetch=2).batches()
    assert next(batches).tolist() == [0]
    assert len(loader_threads()) == 1
    batches.close()
    assert not loader_threads()


def test_no_more_than_the_queue_is_prepared_ahead():
    prepared = []
    loader = SeedLoader(100, batch_size=1, collate=lambda index: prepared.append(index), prefetch=3)
    batches = loader.batches()
    next(batches)
    for _ in range(20):
        threading.Event().wait(0.005)
    assert 1 < len(prepared) <= 1 + 3 + 1  # taken, waiting, and one in the worker's hand
    batches.close()


def test_neighbor_loader_samples_around_its_seeds():
    csr = csr_of([Edge(i % 4, i % 5, i, i, i) for i in range(20)])
    sampler = MultiHopSampler({("item", "rev_click", "user"): csr}, [2])
    seed, time = torch.tensor([4, 0, 2, 1, 3]), torch.tensor([3, 9, 20, 11, 7])
    loader = NeighborLoader(sampler, "user", seed, time, batch_size=2, shuffle=True)
    batches = list(loader.batches(1))
    assert len(batches) == len(loader) == 3
    assert sorted(torch.cat([batch.index for batch in batches]).tolist()) == [0, 1, 2, 3, 4]
    for batch in batches:
        row = batch.subgraph.seed_index["user"]
        assert torch.equal(batch.subgraph.node["user"][row], seed[batch.index])
        assert torch.equal(batch.subgraph.time["user"][row], time[batch.index])
    resumed = list(loader.batches(1, start_batch=2))
    assert [batch.index.tolist() for batch in resumed] == [batches[2].index.tolist()]


def test_callers_mistakes_are_told():
    with pytest.raises(ValueError, match="batch_size at least 1"):
        make(batch_size=0)
    with pytest.raises(ValueError, match="group needs one value for each of 11 seeds, got 3"):
        make(group=torch.tensor([1, 2, 3]))
