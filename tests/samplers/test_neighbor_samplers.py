"""Every one-hop sampler against the contract, then each against its own definition."""

import collections
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samplers import (
    RecentNeighborSampler,
    TemporalCSR,
    UniformNeighborSampler,
    WeightedNeighborSampler,
    check_no_leak,
)
from tests.reference import samplers as reference
from tests.reference.samplers import Edge
from tests.samplers.strategies import (
    MAX_TIME,
    NUM_DESTINATIONS,
    bounds,
    chi_square_ok,
    csr_of,
    edge_arguments,
    edge_sets,
    queries,
    slots,
    tensors,
    windows,
)

fan_outs = st.sampled_from([-1, 0, 1, 2, 3, 6])


def make_recent(edges, num_neighbors, **options):
    return RecentNeighborSampler(csr_of(edges), num_neighbors, **options)


def make_uniform(edges, num_neighbors, **options):
    return UniformNeighborSampler(csr_of(edges), num_neighbors, random_seed=5, **options)


def make_replacing(edges, num_neighbors, **options):
    return UniformNeighborSampler(csr_of(edges), num_neighbors, replace=True, **options)


def make_weighted(edges, num_neighbors, **options):
    return WeightedNeighborSampler(csr_of(edges), num_neighbors, **options)


def make_weighted_replacing(edges, num_neighbors, **options):
    return WeightedNeighborSampler(csr_of(edges), num_neighbors, replace=True, **options)


def make_degree(edges, num_neighbors, **options):
    return WeightedNeighborSampler(
        csr_of(edges), num_neighbors, weight="degree", reverse_csr=csr_of(edges, row="source"), **options
    )


def make_recency(edges, num_neighbors, **options):
    return WeightedNeighborSampler(csr_of(edges), num_neighbors, weight="recency", half_life=2.5, **options)


MAKERS = [
    make_recent,
    make_uniform,
    make_replacing,
    make_weighted,
    make_weighted_replacing,
    make_degree,
    make_recency,
]
every_sampler = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__[5:])


def rows(sampled):
    return [slots(sampled, i) for i in range(len(sampled.mask))]


@every_sampler
@settings(max_examples=60)
@given(edge_sets(), queries, fan_outs, bounds, windows)
def test_contract(make, edges, asked, num_neighbors, bound, window):
    """Only visible edges; as many as asked for where there are enough; distinct without replacement."""
    replace = "replacing" in make.__name__
    if replace and num_neighbors == -1:
        with pytest.raises(ValueError, match="replacement"):
            make(edges, num_neighbors, bound=bound, window=window)
        return
    seed, time = tensors(asked)
    sampled = make(edges, num_neighbors, bound=bound, window=window).sample(seed, time, epoch=1)
    check_no_leak(sampled, time, bound=bound)
    for i, (node, at) in enumerate(asked):
        allowed = reference.visible(edges, node, at, bound, window)
        if make in (make_weighted, make_weighted_replacing):
            allowed = [e for e in allowed if e.weight > 0]
        real = slots(sampled, i)
        assert set(real) <= {(e.source, e.time, e.edge_id) for e in allowed}
        if replace:
            assert len(real) == (num_neighbors if allowed else 0)
        else:
            assert len(set(real)) == len(real)
            assert len(real) == (len(allowed) if num_neighbors == -1 else min(num_neighbors, len(allowed)))


@settings(max_examples=200)
@given(edge_sets(), queries, fan_outs, bounds, windows)
def test_recent_matches_reference(edges, asked, num_neighbors, bound, window):
    sampled = make_recent(edges, num_neighbors, bound=bound, window=window).sample(*tensors(asked))
    for i, (node, time) in enumerate(asked):
        wanted = reference.recent(edges, node, time, num_neighbors, bound, window)
        assert slots(sampled, i) == [(e.source, e.time, e.edge_id) for e in wanted]


def test_recent_looks_far_back_for_known_edges():
    """Most of a long row is not known yet, so that the search takes several steps."""
    edges = [Edge(i % 4, 1, i, i, i if i % 97 == 0 else 10_000) for i in range(2000)]
    sampled = make_recent(edges, 7).sample(torch.tensor([1, 0, 1]), torch.tensor([1999, 1999, 500]))
    assert sampled.edge_time.tolist() == [
        [1940, 1843, 1746, 1649, 1552, 1455, 1358],
        [0] * 7,
        [485, 388, 291, 194, 97, 0, 0],
    ]
    assert sampled.mask.sum(1).tolist() == [7, 0, 6]


@every_sampler
@settings(max_examples=40)
@given(edge_sets(), edge_sets(), queries, st.integers(1, 4), bounds, windows)
def test_edges_not_known_yet_change_nothing(make, edges, later, asked, num_neighbors, bound, window):
    """Insert edges that happen, or only become known, after all queries: not a bit changes."""
    latest = max((t for _, t in asked), default=0)
    known = latest + (bound == "inclusive")
    late = [
        Edge(e.source, e.destination, e.time, len(edges) + e.edge_id, max(known, e.time), e.weight)
        for e in later
    ]
    before = make(edges, num_neighbors, bound=bound, window=window).sample(*tensors(asked))
    after = make(edges + late, num_neighbors, bound=bound, window=window).sample(*tensors(asked))
    assert rows(before) == rows(after)


@every_sampler
def test_appended_future_changes_nothing_now_and_something_later(make):
    generator = torch.Generator().manual_seed(4)
    draw = torch.randint(0, 100, (4, 60), generator=generator).tolist()
    edges = [Edge(s % 4, d % 5, t % MAX_TIME, i, t % MAX_TIME, 1.0 + w % 3)
             for i, (s, d, t, w) in enumerate(zip(*draw, strict=True))]  # fmt: skip
    future = [
        Edge(e.source, e.destination, e.time + MAX_TIME, 60 + e.edge_id, e.time + MAX_TIME) for e in edges
    ]
    seed, now = torch.arange(NUM_DESTINATIONS), torch.full((NUM_DESTINATIONS,), MAX_TIME)
    before, after = make(edges, 3), make(edges + future, 3)
    index, time, columns = edge_arguments(future)
    columns.pop("available_time", None)
    for name in ("node", "edge_time", "edge_id", "mask"):
        assert torch.equal(getattr(before.sample(seed, now), name), getattr(after.sample(seed, now), name))
    assert rows(before.sample(seed, now + 20)) != rows(after.sample(seed, now + 20))
    appended = csr_of(edges).append(index, time, row="destination", **columns)
    assert torch.equal(appended.compact().edge_id, after.csr.edge_id)


LINE = [Edge(i % 4, 2, i, i, i, weight=float(1 + i % 3)) for i in range(6)]


def frequencies(sampler, num_draws=4000, **options):
    """How often each edge of ``LINE`` comes: epochs are told apart by the time of the query."""
    seed, time = torch.full((num_draws,), 2), torch.arange(num_draws) + 6
    sampled = sampler.sample(seed, time, **options)
    assert sampled.mask.all()
    return sampled, torch.bincount(sampled.edge_id.flatten(), minlength=6)


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("generator", [None, 11])
def test_uniform_edges_are_equally_likely(replace, generator):
    options = {} if generator is None else {"generator": torch.Generator().manual_seed(generator)}
    _, counts = frequencies(make_uniform(LINE, 2, replace=replace) if not replace else
                            UniformNeighborSampler(csr_of(LINE), 2, replace=True), **options)  # fmt: skip
    assert chi_square_ok(counts, torch.ones(6))


def test_uniform_sets_are_equally_likely():
    sampled, _ = frequencies(make_uniform(LINE, 3))
    sets = collections.Counter(map(tuple, sampled.edge_id.sort(1).values.tolist()))
    assert len(sets) == math.comb(6, 3)
    assert chi_square_ok(list(sets.values()), [1] * 20)


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("delay", [0, 3])
def test_edge_weights_are_probabilities(replace, delay):
    edges = [Edge(e.source, 2, e.time - delay, e.edge_id, e.time, e.weight) for e in LINE]
    sampler = WeightedNeighborSampler(csr_of(edges), 1 + replace, replace=replace, random_seed=8)
    _, counts = frequencies(sampler)
    assert chi_square_ok(counts, [e.weight for e in LINE])


def test_weighted_pairs_follow_successive_draws():
    """P({i, j}) = w_i / W * w_j / (W - w_i) + the other order, without replacement."""
    sampled, _ = frequencies(make_weighted(LINE, 2))
    weight = [e.weight for e in LINE]
    total, wanted, seen = sum(weight), [], []
    pairs = collections.Counter(map(tuple, sampled.edge_id.sort(1).values.tolist()))
    for i in range(6):
        for j in range(i):
            wanted.append(weight[i] * weight[j] / total * (1 / (total - weight[i]) + 1 / (total - weight[j])))
            seen.append(pairs[(j, i)])
    assert chi_square_ok(seen, wanted)


def test_degree_is_as_of_the_query():
    """Neighbour 0 has 3 edges by time 10 and 1 has one; later neighbour 1 gets hundreds."""
    edges = [Edge(0, 0, 1, 0, 1), Edge(1, 0, 1, 1, 1), Edge(0, 1, 2, 2, 2), Edge(0, 3, 9, 3, 9)]
    edges += [Edge(1, 4, 10, 4 + i, 10) for i in range(300)]
    seed, time = torch.zeros(3000, dtype=torch.int64), torch.full((3000,), 10)
    drawn = make_degree(edges, 1).sample(seed, time, generator=torch.Generator().manual_seed(6))
    counts = torch.bincount(drawn.node.flatten(), minlength=2)
    assert chi_square_ok(counts, [3, 1])


def test_recency_halves_with_the_half_life():
    edges = [Edge(i, 1, 10 * i, i, 10 * i) for i in range(4)]
    sampler = WeightedNeighborSampler(csr_of(edges), 1, weight="recency", half_life=10.0)
    seed, time = torch.ones(3000, dtype=torch.int64), torch.full((3000,), 31)
    drawn = sampler.sample(seed, time, generator=torch.Generator().manual_seed(6))
    counts = torch.bincount(drawn.node.flatten(), minlength=4)
    assert chi_square_ok(counts, [1, 2, 4, 8])


def test_recency_of_very_old_edges_does_not_underflow():
    edges = [Edge(i, 1, i, i, i) for i in range(4)]
    sampler = WeightedNeighborSampler(csr_of(edges), 3, weight="recency", half_life=1.0)
    sampled = sampler.sample(torch.tensor([1]), torch.tensor([10**9]))
    assert sampled.mask.all()


RANDOM = [make for make in MAKERS if make is not make_recent]


@pytest.mark.parametrize("make", RANDOM, ids=lambda make: make.__name__[5:])
def test_every_part_of_the_key_matters(make):
    edges = [Edge(i % 4, d, i, 40 * d + i, i, 2.0) for d in range(5) for i in range(40)]
    sampler = make(edges, 6)
    seed, time = torch.arange(5), torch.full((5,), 40)
    base = sampler.sample(seed, time, epoch=0, hop=0).edge_id
    assert torch.equal(base, sampler.sample(seed, time, epoch=0, hop=0).edge_id)
    other_type = sampler.sample(seed, time, edge_type=("item", "click", "user")).edge_id
    for other in (
        sampler.sample(seed, time, epoch=1).edge_id,
        sampler.sample(seed, time, hop=1).edge_id,
        other_type,
        sampler.sample(seed, time + 1).edge_id,
        sampler.sample(seed, time, generator=torch.Generator().manual_seed(1)).edge_id,
    ):
        assert not torch.equal(base, other)
    assert len({tuple(row) for row in (base % 40).tolist()}) == 5  # nodes draw differently
    sampler.random_seed += 1
    assert not torch.equal(base, sampler.sample(seed, time).edge_id)


def test_small_pieces_give_the_same_as_one(monkeypatch):
    edges = [Edge(i % 4, i % 5, i % 7, i, i % 7 + i % 3, 1.0 + i % 2) for i in range(60)]
    seed, time = torch.arange(5), torch.tensor([9, 4, 6, 0, 7])
    for make in MAKERS:
        sampler = make(edges, 4, window=5, engine="torch")
        whole = rows(sampler.sample(seed, time))
        monkeypatch.setattr("samplers.queries.MAX_EXPANDED", 7)
        assert rows(sampler.sample(seed, time)) == whole
        monkeypatch.undo()


def test_callers_mistakes_are_told():
    csr = csr_of([Edge(0, 0, 1, 0, 1)])
    bare = TemporalCSR.from_edge_index(
        torch.tensor([[0], [0]]), torch.tensor([1]), num_rows=5, num_cols=4, row="destination"
    )
    with pytest.raises(ValueError, match="num_neighbors must be at least 0"):
        RecentNeighborSampler(csr, -2)
    with pytest.raises(ValueError, match="window must be a positive"):
        RecentNeighborSampler(csr, 2, window=0)
    with pytest.raises(ValueError, match="needs a CSR built with edge_weight"):
        WeightedNeighborSampler(bare, 2)
    with pytest.raises(ValueError, match="half_life > 0"):
        WeightedNeighborSampler(csr, 2, weight="recency")
    with pytest.raises(ValueError, match="needs reverse_csr"):
        WeightedNeighborSampler(csr, 2, weight="degree")
    with pytest.raises(ValueError, match=r"seed ids must lie in \[0, 5\), got \[0, 5\]"):
        RecentNeighborSampler(csr, 2).sample(torch.tensor([0, 5]), torch.tensor([3, 3]))


def test_the_leak_check_names_the_edge():
    edges = [Edge(1, 2, 7, 0, 8)]
    sampled = make_recent(edges, 2, bound="inclusive").sample(torch.tensor([2]), torch.tensor([8]))
    check_no_leak(sampled, torch.tensor([8]))
    check_no_leak(sampled, torch.tensor([8]), bound="inclusive", available_time=torch.tensor([8]))
    with pytest.raises(ValueError, match=r"leak: edge 0 of time 7, known at 8, .* query at 8"):
        check_no_leak(sampled, torch.tensor([8]), available_time=torch.tensor([8]))
    with pytest.raises(ValueError, match="leak: edge 0 of time 7"):
        check_no_leak(sampled, torch.tensor([7]))
    check_no_leak(sampled, torch.tensor([7]), bound="inclusive")
