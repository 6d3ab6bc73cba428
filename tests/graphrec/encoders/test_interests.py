"""Interests: planted directions are found, blocks do not matter, many interests, what is refused."""

import math

import pytest
import torch
from torch.nn import functional

from graphrec.encoders import interests as module
from graphrec.encoders.interests import (
    Clusterer,
    Interests,
    ItemInterests,
    SphericalKMeans,
    assign_interests,
    fit_interests,
    nearest,
)


def around_axes(*, each=60, channels=8):
    """Vectors near the axes, and which one each is near."""
    generator = torch.Generator().manual_seed(0)
    axis = torch.arange(channels).repeat_interleave(each)
    noise = 0.15 * torch.randn(len(axis), channels, generator=generator)
    return functional.normalize(torch.eye(channels)[axis] + noise, dim=1), axis


@pytest.mark.parametrize("num_groups", [1, 3])
def test_planted_directions_are_found(num_groups):
    x, axis = around_axes()
    clusterer = SphericalKMeans(num_interests=24, num_groups=num_groups, batch_size=128, passes=5)
    assert isinstance(clusterer, Clusterer)
    interests = fit_interests(x, torch.arange(len(x)), clusterer, fit_until=5)
    assert len(interests) == 24
    torch.testing.assert_close(interests.center.norm(dim=1), torch.ones(24))
    found = assign_interests(interests, x, torch.ones(len(x), dtype=torch.bool)).interest[:, 0]
    # more centres than axes: each belongs to one axis
    pure = torch.stack([axis[found == number].mode().values for number in found.unique().tolist()])
    share = [
        (axis[found == number] == a).float().mean() for number, a in zip(found.unique(), pure, strict=True)
    ]
    assert min(share) > 0.95
    assert set(pure.tolist()) == set(range(8))
    again = fit_interests(x, torch.arange(len(x)), clusterer, fit_until=5)
    assert torch.equal(again.center, interests.center)


def test_lengths_of_vectors_do_not_matter_and_repeated_ones_weigh_more():
    x, _ = around_axes()
    clusterer = SphericalKMeans(num_interests=8, batch_size=128, passes=2)
    scaled = x * torch.tensor([1.0, 2.0, 4.0, 8.0]).repeat(len(x) // 4)[:, None]
    assert torch.equal(clusterer.fit(scaled), clusterer.fit(x))
    two = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    center = SphericalKMeans(num_interests=1, passes=60).fit(two[[0, 0, 0, 1]])
    # the mean of three of one and one of the other, to which the first centre counts like one vector more
    torch.testing.assert_close(center[0, 0] / center[0, 1], torch.tensor(3.0), rtol=0.1, atol=0)


def test_hard_and_soft_shares_by_hand():
    centers = Interests(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), 7)
    items = torch.tensor([[3.0, 4.0], [-2.0, 0.0], [1.0, 1.0]])
    known = torch.tensor([True, True, False])
    hard = assign_interests(centers, items, known)
    assert hard.interest.tolist() == [[1], [2], [-1]]
    assert hard.weight.tolist() == [[1.0], [1.0], [0.0]]
    assert (hard.num_interests, hard.fit_until) == (3, 7)
    soft = assign_interests(centers, items, known, num_nearest=2, temperature=0.5)
    assert soft.interest.tolist() == [[1, 0], [2, 1], [-1, -1]]
    first = math.exp(0.8 / 0.5) / (math.exp(0.8 / 0.5) + math.exp(0.6 / 0.5))
    torch.testing.assert_close(soft.weight[0], torch.tensor([first, 1 - first]))
    torch.testing.assert_close(soft.weight.sum(dim=1), torch.tensor([1.0, 1.0, 0.0]))


def test_blocks_bound_the_memory_and_change_nothing(monkeypatch):
    x, _ = around_axes(each=5)
    interests = Interests(
        functional.normalize(torch.randn(12, 8, generator=torch.Generator().manual_seed(1)), dim=1), 0
    )
    known = torch.arange(len(x)) % 3 > 0
    whole = assign_interests(interests, x, known, num_nearest=3)
    sizes = []
    topk = torch.Tensor.topk

    def spy(self, *args, **kwargs):
        sizes.append(self.numel())
        return topk(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "topk", spy)
    monkeypatch.setattr(module, "MAX_SCORES", 40)
    parts = assign_interests(interests, x, known, num_nearest=3)
    assert max(sizes) <= 40
    assert len(sizes) == math.ceil(int(known.sum()) / 3)
    assert torch.equal(parts.interest, whole.interest)
    assert torch.equal(nearest(interests.center, x[known]), whole.interest[known][:, 0])


def test_many_interests_in_groups():
    x = functional.normalize(torch.randn(6000, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    clusterer = SphericalKMeans(num_interests=2000, num_groups=40, passes=1)
    center = clusterer.fit(x)
    assert center.shape == (2000, 8)
    # with three vectors a centre, each has one much nearer than the third of all vectors around it
    assert float((x * center[nearest(center, x)]).sum(dim=1).mean()) > 0.9
    uneven = torch.cat([x[:90], functional.normalize(x[:1] + 1e-3 * x[100:400], dim=1)])
    assert SphericalKMeans(num_interests=380, num_groups=4, passes=1).fit(uneven).shape == (380, 8)


def test_a_sample_is_drawn_from_the_given_items_alone():
    seen = []

    class Recorder:
        def fit(self, x):
            seen.append(x)
            return x[:2]

    x = torch.arange(1.0, 21.0)[:, None] * torch.tensor([[1.0, 0.0]])
    items = torch.arange(0, 20, 2)
    interests = fit_interests(x, items, Recorder(), fit_until=3, sample_size=4)
    assert len(seen[0]) == 4
    assert set(seen[0][:, 0].tolist()) < set((items + 1.0).tolist())
    assert interests.center.tolist() == [[1.0, 0.0]] * 2
    fit_interests(x, items, Recorder(), fit_until=3, sample_size=4, random_seed=1)
    assert not torch.equal(seen[0], seen[1])
    fit_interests(x, items, Recorder(), fit_until=3)
    assert len(seen[2]) == 10


def test_wrong_options_are_refused():
    x = torch.eye(3)
    with pytest.raises(
        ValueError, match=r"4 interests need as many different item embeddings, there are 3 among 6"
    ):
        SphericalKMeans(num_interests=4).fit(torch.cat([x, 2 * x]))
    with pytest.raises(ValueError, match=r"num_groups must be at most num_interests, got 4 and 3"):
        SphericalKMeans(num_interests=3, num_groups=4)
    with pytest.raises(
        ValueError, match=r"SphericalKMeans.passes must be a whole number of at least 1, got 0"
    ):
        SphericalKMeans(num_interests=3, passes=0)
    with pytest.raises(ValueError, match="sample_size must be at least 1"):
        fit_interests(x, torch.arange(3), SphericalKMeans(num_interests=1), fit_until=0, sample_size=0)
    interests = Interests(x, 9)
    for options in ({"num_nearest": 0}, {"num_nearest": 4}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match=r"num_nearest must lie in \[1, 3\] and temperature above 0"):
            assign_interests(interests, x, torch.ones(3, dtype=torch.bool), **options)
    broken = x.clone()
    broken[1, 0] = torch.nan
    with pytest.raises(ValueError, match="some item embeddings are NaN or infinite"):
        fit_interests(broken, torch.arange(3), SphericalKMeans(num_interests=1), fit_until=0)
    with pytest.raises(ValueError, match="some item embeddings are NaN or infinite"):
        assign_interests(interests, broken, torch.ones(3, dtype=torch.bool))
    unknown = assign_interests(interests, broken, torch.tensor([True, False, True]))
    assert unknown.interest[:, 0].tolist() == [0, -1, 2]
    assigned = assign_interests(interests, x, torch.ones(3, dtype=torch.bool))
    assigned.check_before(9)
    with pytest.raises(ValueError, match="until 9, labels begin at 8"):
        assigned.check_before(8)
    with pytest.raises(ValueError, match="interests must be below 2, got 2"):
        ItemInterests(interest=torch.tensor([[2]]), weight=torch.ones(1, 1), num_interests=2, fit_until=0)
