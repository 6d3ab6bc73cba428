import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samplers import NegativeSampler
from tests.reference import samplers as reference
from tests.reference.samplers import Edge
from tests.samplers.strategies import (
    NUM_SOURCES,
    bounds,
    chi_square_ok,
    csr_of,
    edge_sets,
    grown_csr,
    queries,
    tensors,
)

NUM_ITEMS = NUM_SOURCES  # users are destinations of the edges, items their sources


DISTRIBUTIONS = ["uniform", "popularity", "historical"]


def make(edges, distribution="uniform", *, csrs=None, **options):
    users, items = csrs or (csr_of(edges), csr_of(edges, row="source"))
    return NegativeSampler(
        users,
        num_items=NUM_ITEMS,
        distribution=distribution,
        item_csr=items if distribution == "popularity" else None,
        **options,
    )


def allowed_weights(edges, user, time, distribution, catalogue, bound, power, positive=()):
    """Weight of each item from the definition."""
    known = {e.source for e in reference.visible(edges, user, time, bound)}
    weights = []
    for item in range(NUM_ITEMS):
        count = sum(e.source == item and reference.is_visible(e, time, bound) for e in edges)
        exists = (catalogue is None or catalogue[item] <= time) and item not in positive
        if distribution == "historical":
            weights.append(float(exists and item in known))
        else:
            weight = 1.0 if distribution == "uniform" else float(count > 0) * count**power
            weights.append(weight if exists and item not in known else 0.0)
    return weights


catalogues = st.one_of(st.none(), st.lists(st.integers(0, 12), min_size=NUM_ITEMS, max_size=NUM_ITEMS))
positives = st.lists(st.integers(0, NUM_ITEMS - 1), min_size=14, max_size=14)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@settings(max_examples=40)
@given(edge_sets(), queries, catalogues, bounds, st.integers(0, 4), positives, st.integers(0, 2), st.data())
def test_negatives_are_allowed_and_found_where_there_are_any(
    distribution, edges, asked, catalogue, bound, rounds, positive, num_positives, data
):
    """Both engines, on a graph built at once and on one with appended edges, draw the same allowed items."""
    cut = data.draw(st.integers(0, len(edges)))
    catalogue_time = None if catalogue is None else torch.tensor(catalogue)
    positive = torch.tensor(positive).view(7, 2)[: len(asked), :num_positives]
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("samplers.negative._NUM_ROUNDS", rounds)
        patch.setattr("samplers.negative.MAX_EXPANDED", 40)
        patch.setattr("samplers.queries.MAX_EXPANDED", 9)
        for csrs in (None, tuple(grown_csr(edges, [cut], row=row) for row in ("destination", "source"))):
            for engine in ("numba", "torch"):
                options = {"catalogue_time": catalogue_time, "bound": bound, "engine": engine}
                sampler = make(edges, distribution, csrs=csrs, **options)
                random = torch.Generator().manual_seed(3)
                drawn.append(
                    (
                        *sampler.sample(*tensors(asked), 3, positive=positive, epoch=4),
                        *sampler.sample(*tensors(asked), 3, positive=positive, generator=random),
                    )
                )
    for other in drawn[1:]:
        assert all(torch.equal(ours, its) for ours, its in zip(drawn[0], other, strict=True))
    for node, mask in (drawn[0][:2], drawn[0][2:]):
        assert node.shape == (len(asked), 3)
        assert (node[~mask] == 0).all()
        for i, (user, time) in enumerate(asked):
            weights = allowed_weights(
                edges, user, time, distribution, catalogue, bound, 0.75, positive[i].tolist()
            )
            assert mask[i].tolist() == [sum(weights) > 0] * 3
            assert all(weights[item] > 0 for item in node[i][mask[i]].tolist())


@given(edge_sets(), queries, bounds, st.sampled_from(["numba", "torch"]))
def test_known_positives_are_the_visible_edges(edges, asked, bound, engine):
    seed, time = tensors(asked)
    items = torch.arange(NUM_ITEMS).expand(len(asked), -1)
    found = make(edges, bound=bound, engine=engine).is_positive(
        seed[:, None].expand_as(items), items, time[:, None].expand_as(items)
    )
    for (user, at), row in zip(asked, found.tolist(), strict=True):
        known = {e.source for e in reference.visible(edges, user, at, bound)}
        assert row == [item in known for item in range(NUM_ITEMS)]


CROWD = [Edge(i % 4, i % 5, i % 7, i, i % 7) for i in range(8)] + [
    Edge([0, 1, 2, 2, 2, 2, 2, 2][i % 8], 4, 3, 8 + i, 3 + i % 3 * (i >= 16)) for i in range(96)
]


@pytest.mark.parametrize("engine", ["numba", "torch"])
@pytest.mark.parametrize("rounds", [0, 1, 7])  # from the list alone, mixed, mostly by rejection
@pytest.mark.parametrize(
    ("distribution", "power"),
    [("uniform", 0.75), ("historical", 0.75), *(("popularity", power) for power in (0.0, 0.3, 0.75, 1.0))],
)
def test_the_distribution_is_the_stated_one(monkeypatch, rounds, distribution, power, engine):
    """As of several times of one graph, of which eight edges are appended and some known late."""
    monkeypatch.setattr("samplers.negative._NUM_ROUNDS", rounds)
    catalogue = [0, 0, 1, 5]
    csrs = tuple(grown_csr(CROWD, [24], row=row) for row in ("destination", "source"))
    sampler = make(
        CROWD,
        distribution,
        csrs=csrs,
        power=power,
        catalogue_time=torch.tensor(catalogue),
        random_seed=2,
        engine=engine,
    )
    num_open = 0
    for user, time, positive in ((0, 9, []), (1, 4, [3]), (3, 6, []), (4, 2, []), (4, 8, [1]), (2, 20, [2])):
        node, mask = sampler.sample(
            torch.tensor([user]), torch.tensor([time]), 4000, positive=torch.tensor([positive]).long()
        )
        weights = allowed_weights(CROWD, user, time, distribution, catalogue, "strict", power, positive)
        assert mask.all() if sum(weights) > 0 else not mask.any()
        if mask.all():
            assert chi_square_ok(torch.bincount(node[0], minlength=NUM_ITEMS), weights)
        num_open += sum(w > 0 for w in weights) >= 2
    assert num_open >= 2  # queries that have a choice


@given(edge_sets(), queries, st.sampled_from(DISTRIBUTIONS))
@settings(max_examples=40)
def test_a_seed_draws_the_same_in_any_batch(edges, asked, distribution):
    sampler = make(edges, distribution)
    node, mask = sampler.sample(*tensors(asked), 3, epoch=5)
    for i, query in enumerate(asked):
        alone, alone_mask = sampler.sample(*tensors([query]), 3, epoch=5)
        assert torch.equal(alone[0], node[i])
        assert torch.equal(alone_mask[0], mask[i])


@given(edge_sets(delayed=False), edge_sets(delayed=False), queries, st.sampled_from(DISTRIBUTIONS))
@settings(max_examples=40)
def test_later_edges_change_nothing(edges, later, asked, distribution):
    latest = max((t for _, t in asked), default=0)
    late = [Edge(e.source, e.destination, e.time, 99 + e.edge_id, max(latest, e.time), 1.0) for e in later]
    before = make(edges, distribution).sample(*tensors(asked), 3)
    after = make(edges + late, distribution).sample(*tensors(asked), 3)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


def test_epochs_and_seeds_draw_differently():
    sampler = make(CROWD)
    seed, time = torch.tensor([0, 0]), torch.tensor([9, 8])
    first, _ = sampler.sample(seed, time, 40)
    assert not torch.equal(first, sampler.sample(seed, time, 40, epoch=1)[0])
    assert not torch.equal(first, make(CROWD, random_seed=1).sample(seed, time, 40)[0])
    assert not torch.equal(first[0], first[1])


def test_callers_mistakes_are_told():
    with pytest.raises(ValueError, match="needs item_csr"):
        NegativeSampler(csr_of([]), num_items=4, distribution="popularity")
    with pytest.raises(ValueError, match=r"power must lie in \[0, 1\], got 2.0"):
        make([], "popularity", power=2.0)
    with pytest.raises(ValueError, match="positive ids must lie"):
        make([]).sample(torch.tensor([0]), torch.tensor([0]), 2, positive=torch.tensor([[4]]))
    with pytest.raises(ValueError, match="num_items must be at least the 4 columns"):
        NegativeSampler(csr_of([]), num_items=3)
    with pytest.raises(ValueError, match="catalogue_time needs 6 values, got 4"):
        NegativeSampler(csr_of([]), num_items=6, catalogue_time=torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="seed ids must lie"):
        make([]).sample(torch.tensor([5]), torch.tensor([0]), 2)
