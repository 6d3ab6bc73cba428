"""Baselines of few-shot profiling: aggregates by hand, regression chosen over users, trees for few labels."""

import math

import numpy as np
import polars as pl
import pytest
import torch

from graphrec.encoders.heatmap import parse_heatmap_texts
from graphrec.evaluation import auc
from graphrec.models.meta_profile import DemographicFields, ProfileInputs
from graphrec.models.profile_baselines import (
    RegularisedLogistic,
    few_label_trees,
    heatmap_aggregates,
    profile_aggregates,
)
from tests.graphrec.toy_profiles import TARGET, toy_users


def test_aggregates_are_those_of_the_definition():
    # days of the text count from the oldest: 30 is the newest
    texts = pl.Series(["30, 5, 0: 2; 2, 13, 0: 3; 2, 23, 1: -7", ""])
    heatmaps = parse_heatmap_texts(texts, num_days=30, num_channels=2)
    found = heatmap_aggregates(heatmaps, spans=(28, 91)).view(2, 2, 7)
    log = math.log1p
    wanted = [
        [
            [log(5), log(2), log(2), log(0), 0.5, 0.5, 0.0],
            [-log(7), 0.0, log(1), log(28), 0.0, 0.0, 1.0],
        ],
        [[0.0, 0.0, 0.0, log(30), 0.0, 0.0, 0.0]] * 2,
    ]
    torch.testing.assert_close(found, torch.tensor(wanted))
    short = parse_heatmap_texts(pl.Series(["14, 5, 0: 2"]), num_days=14, num_channels=1)
    assert heatmap_aggregates(short).shape == (1, 6)  # no span is shorter than the window
    inputs = ProfileInputs({"some": heatmaps}, torch.tensor([[math.nan], [3.0]]), torch.tensor([[0], [1]]))
    both = profile_aggregates(inputs, DemographicFields(numbers={"age": (0.0, 1.0)}, categories={"city": 3}))
    torch.testing.assert_close(both[:, :14], found.flatten(1))
    torch.testing.assert_close(
        both[:, 14:], torch.tensor([[math.nan, 1.0, 0.0, 0.0], [3.0, 0.0, 1.0, 0.0]]), equal_nan=True
    )


def test_regression_and_trees_learn_what_aggregates_tell():
    (train, kind), (test, test_kind) = toy_users(200), toy_users(150, seed=1)
    for task, model in (((0, 2), RegularisedLogistic()), (TARGET, few_label_trees(200))):
        label, wanted = (torch.isin(k, torch.tensor(task)).float() for k in (kind, test_kind))
        score = model.fit(profile_aggregates(train), label).predict(profile_aggregates(test))
        assert auc(wanted.numpy(), score) > 0.95
        order = torch.randperm(len(label), generator=torch.Generator().manual_seed(0))
        shuffled = model.fit(profile_aggregates(train), label[order]).predict(profile_aggregates(test))
        assert 0.3 < auc(wanted.numpy(), shuffled) < 0.7


def test_the_penalty_is_chosen_over_users():
    generator = torch.Generator().manual_seed(0)
    user = torch.arange(40).repeat_interleave(5)
    noise = torch.randn(40, 30, generator=generator)[user]  # tells a user's other rows
    label = torch.randint(2, (40,), generator=generator)[user].float()
    strengths = (0.001, 1000.0)
    by_user = RegularisedLogistic(strengths=strengths).fit(noise, label, user=user)
    by_row = RegularisedLogistic(strengths=strengths).fit(noise, label)
    assert (by_user.strength, by_row.strength) == (0.001, 1000.0)
    again = RegularisedLogistic(strengths=strengths).fit(noise, label, user=user)
    np.testing.assert_array_equal(again.predict(noise), by_user.predict(noise))
    # one positive: no folds, and a missing feature is the mean
    few = torch.tensor([[math.nan, 1.0], [2.0, 0.0], [4.0, 0.0]])
    one = RegularisedLogistic().fit(few, torch.tensor([1.0, 0.0, 0.0]))
    assert one.strength == 0.001
    filled = torch.tensor([[3.0, 1.0]])
    np.testing.assert_allclose(one.predict(few[:1]), one.predict(filled))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"strengths must be above 0, one at least, got \[\]"):
        RegularisedLogistic(strengths=())
    with pytest.raises(ValueError, match="strengths must be above 0"):
        RegularisedLogistic(strengths=(1.0, 0.0))
    with pytest.raises(ValueError, match="fit the regression before it predicts"):
        RegularisedLogistic().predict(torch.zeros(1, 1))
    inputs, _ = toy_users(3)
    with pytest.raises(ValueError, match=r"\(numbers, categories\) \(0, 0\), the fields \(0, 1\): give"):
        profile_aggregates(inputs, DemographicFields(categories={"city": 3}))
    with pytest.raises(ValueError, match="boosted trees need labelled rows, got 0"):
        few_label_trees(0)
    leaves = [few_label_trees(count).config.min_samples_leaf for count in (10, 400, 5000)]
    assert leaves == [1, 20, 50]
