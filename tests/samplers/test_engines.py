"""The compiled loops and the torch engine return the same, with and without a delta, delays and windows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samplers import (
    EventHistorySampler,
    RecentNeighborSampler,
    UniformNeighborSampler,
    WeightedNeighborSampler,
)
from tests.samplers.strategies import bounds, csrs, queries, tensors, windows


def recent(csr, reverse, width, **options):
    return RecentNeighborSampler(csr, width, **options)


def uniform(csr, reverse, width, **options):
    return UniformNeighborSampler(csr, width, random_seed=3, **options)


def uniform_replace(csr, reverse, width, **options):
    return UniformNeighborSampler(csr, max(width, 0), replace=True, **options)


def weighted(weight, replace):
    def make(csr, reverse, width, **options):
        return WeightedNeighborSampler(
            csr,
            max(width, 0) if replace else width,
            weight=weight,
            half_life=1.7 if weight == "recency" else None,
            reverse_csr=reverse if weight == "degree" else None,
            replace=replace,
            random_seed=5,
            **options,
        )

    make.__name__ = f"{weight}{'_replace' if replace else ''}"
    return make


STRATEGIES = [
    recent,
    uniform,
    uniform_replace,
    *(weighted(name, replace) for name in ("edge_weight", "degree", "recency") for replace in (False, True)),
]


@pytest.mark.parametrize("make", STRATEGIES, ids=lambda make: make.__name__)
@given(data=st.data(), asked=queries, bound=bounds, window=windows, width=st.integers(-1, 6))
def test_engines_agree(make, data, asked, bound, window, width):
    edges, csr = data.draw(csrs())
    reverse = data.draw(st.just(csr_from_source(edges)))
    seed, time = tensors(asked)
    options = {"bound": bound, "window": window}
    drawn = {}
    for engine in ("numba", "torch"):
        for version, graph in (("grown", csr), ("compact", csr.compact())):
            sampler = make(graph, reverse, width, engine=engine, **options)
            sampled = sampler.sample(seed, time, epoch=2, hop=1, edge_type=("a", "b", "c"))
            random = torch.Generator().manual_seed(7)
            again = sampler.sample(seed, time, generator=random)
            drawn[engine, version] = [*columns(sampled), *columns(again)]
    first = drawn["numba", "grown"]
    for columns_of_other in drawn.values():
        for ours, other in zip(first, columns_of_other, strict=True):
            assert torch.equal(ours, other)


@given(csrs(), queries, bounds, windows, st.one_of(st.none(), st.integers(0, 5)))
def test_engines_agree_on_histories(grown, asked, bound, window, max_events):
    _, csr = grown
    results = [
        EventHistorySampler(graph, max_events=max_events, bound=bound, window=window, engine=engine).sample(
            *tensors(asked)
        )
        for engine in ("numba", "torch")
        for graph in (csr, csr.compact())
    ]
    for other in results[1:]:
        for name in ("ptr", "neighbor", "time", "edge_id"):
            assert torch.equal(getattr(results[0], name), getattr(other, name)), name


def columns(sampled):
    return sampled.node, sampled.edge_time, sampled.edge_id, sampled.mask


def csr_from_source(edges):
    from tests.samplers.strategies import csr_of

    return csr_of(edges, row="source")
