"""Models without a network, SML and forms of update on a test day, against slow versions of them."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.config import BaselineConfig, ItemRateConfig, LogisticConfig, SMLModelConfig, TGATConfig
from experiments.inputs import load_inputs
from experiments.protocol import run_model
from experiments.simple_models import LogisticOnDay
from experiments.sml_on_day import SMLOnDay
from experiments.tested_day import prepare_day, replay_day
from experiments.update_forms import Timings, UpdatedModels
from graphrec.models import FMRanker
from graphrec.models.trees import TreesConfig
from graphrec.training.batches import click_batches, rows_between
from graphrec.training.loop import OptimizerConfig, predict
from graphrec.training.online import OnlineConfig, OnlineUpdater
from graphrec.training.sml import SMLConfig
from tests.experiments.kuairand_slice import sliced_log, write_slice

CPU = torch.device("cpu")
FAST = OptimizerConfig(epochs=1, batch_size=256, decay=False)


@pytest.fixture(scope="module")
def day(tmp_path_factory):
    folder = tmp_path_factory.mktemp("on_day") / "data"
    return prepare_day(load_inputs(path=write_slice(folder, sliced_log())), "2022-05-04")


def run(day, config, **options):
    return run_model(day, config, 0, updates={}, snapshots=None, device=CPU, **options)


def test_item_rates_are_the_slow_ones(day):
    config = ItemRateConfig(half_life_hours=5.0, prior_weight=3.0)
    found = run(day, config).score["none"]
    shown = day.data.impressions
    item, label, time = (column.tolist() for column in (shown.item, shown.label, shown.time))
    test = rows_between(day.data, day.start, day.end).tolist()
    for place in range(0, len(test), len(test) // 12):
        row = test[place]
        as_of = int(day.data.as_of[row])
        weight = [2 ** ((t - as_of) / (5 * 3_600_000)) if t < as_of else 0.0 for t in time]
        everywhere = sum(w * y for w, y in zip(weight, label, strict=True)) / sum(weight)
        own = [(w, y) for w, y, i in zip(weight, label, item, strict=True) if i == item[row]]
        clicks = sum(w * y for w, y in own) + 3.0 * everywhere
        assert found[place] == pytest.approx(clicks / (sum(w for w, _ in own) + 3.0), rel=1e-9)
    assert len(np.unique(found)) > 50


def test_trees_do_without_a_count_that_nobody_has_yet(day):
    config = TreesConfig(num_trees=5)
    empty = torch.full((len(day.raw_dense), 1), torch.nan)
    test = day.data.impressions.time >= day.start
    later = torch.where(test[:, None], 1.0, empty)  # there on the test day alone
    wider = replace(day, raw_dense=torch.cat([day.raw_dense, empty, later], dim=1))
    np.testing.assert_array_equal(run(wider, config).score["none"], run(day, config).score["none"])


def test_logistic_regression_reads_every_field_once(day):
    model = LogisticOnDay(day, LogisticConfig(past_counts=False))
    rows = torch.tensor([3, 77, 500])
    matrix = model._features(rows).toarray()
    sizes, data = day.inputs.sizes, day.data
    groups = [*sizes.user_fields, *sizes.item_fields, sizes.num_items + 1, *sizes.context_fields]
    assert matrix.shape == (3, sum(groups) + sizes.item_bag)
    blocks = np.split(matrix, np.cumsum(groups), axis=1)
    for i, row in enumerate(rows.tolist()):
        user, item = int(data.impressions.user[row]), int(data.impressions.item[row])
        codes = [*data.user_fields.codes[user].tolist(), *data.item_fields.codes[item].tolist()]
        codes += [item, *data.context[row].tolist()]
        for block, code in zip(blocks, codes, strict=False):
            assert block[i].sum() == 1
            assert block[i, code] == 1
        tags = [tag for tag in data.item_fields.bag[item].tolist() if tag > 0]
        np.testing.assert_allclose(blocks[-1][i, tags], 1 / max(len(tags), 1))
    with_counts = LogisticOnDay(day, LogisticConfig())._features(rows).toarray()
    np.testing.assert_array_equal(with_counts[:, matrix.shape[1] :], data.dense[rows].numpy())


def test_logistic_regression_scores_the_day(day):
    score = run(day, LogisticConfig()).score["none"]
    label = day.data.impressions.label[rows_between(day.data, day.start, day.end)].numpy()
    assert score[label == 1].mean() > score[label == 0].mean()
    assert 0 < score.min() < score.max() < 1


def test_union_forms_share_a_gradient_and_are_those_of_an_updater_each(day):
    data = replace(day.data, dense=day.data.dense[:, :0])
    rows = rows_between(data, day.start, day.end)
    torch.manual_seed(0)
    model = FMRanker(day.inputs.sizes, channels=4)
    forms = {
        "none": OnlineConfig(form="none"),
        "slow": OnlineConfig(learning_rate=0.1, embedding_learning_rate=1.0),
        "fast": OnlineConfig(learning_rate=1.0, embedding_learning_rate=50.0),
        "chained": OnlineConfig(form="chained", learning_rate=0.1, embedding_learning_rate=1.0),
    }
    together = UpdatedModels(model, forms, device=CPU)
    apart = {name: OnlineUpdater(copy.deepcopy(model), config, device=CPU) for name, config in forms.items()}
    timings = Timings()
    for part in rows.split(100)[:3]:
        batches = list(click_batches(data, part, batch_size=64))
        scores = together.predict(batches, timings)
        for name, updater in apart.items():
            np.testing.assert_allclose(
                scores[name], predict(updater.model, batches, device=CPU).numpy(), rtol=1e-6
            )
            updater.update(batches)
        together.update(batches)
    assert not np.allclose(scores["slow"], scores["fast"])
    assert not np.allclose(scores["slow"], scores["chained"])
    assert timings.scoring > 0


@pytest.mark.parametrize("base", ["MF", "DeepFM"])
def test_sml_goes_through_the_days_and_updates_by_the_hour(day, base, tmp_path):
    config = SMLModelConfig(base=base, channels=4, hidden_channels=(8,), sml=SMLConfig(fit=FAST))
    steps = []
    model = SMLOnDay(day, config, 0, device=CPU, on_step=lambda done, total: steps.append((done, total)))
    scores = replay_day(day, model, day.inputs.period)
    shown = day.data.impressions.time
    num_days = -((int(shown.min()) - day.start) // day.inputs.window)
    assert steps[-1] == (num_days, num_days)
    as_of = day.data.as_of[rows_between(day.data, day.start, day.end)].numpy()
    first = as_of == as_of.min()
    np.testing.assert_array_equal(scores["none"][first], scores["updated"][first])
    assert (scores["none"][~first] != scores["updated"][~first]).mean() > 0.9
    again = run(day, config, checkpoint=tmp_path / "sml.pt")
    np.testing.assert_array_equal(again.score["updated"], scores["updated"])
    assert again.num_parameters == model.num_parameters() > 1000


@pytest.mark.parametrize("name", ["SASRec", "TGAT"])
def test_new_models_are_built_from_their_configurations(day, name):
    configs = {
        "SASRec": BaselineConfig(
            model="SASRec", sequences=("internal",), sequence_length=5, channels=4, optimizer=FAST
        ),
        "TGAT": TGATConfig(
            channels=4, time_channels=3, optimizer=FAST, hidden_channels=(8,), past_counts=True
        ),
    }
    updates = {"none": OnlineConfig(form="none"), "updated": OnlineConfig(learning_rate=0.5)}
    found = run_model(day, configs[name], 0, updates=updates, snapshots=None, device=CPU)
    label = day.data.impressions.label[rows_between(day.data, day.start, day.end)].numpy()
    assert len(found.score["none"]) == len(label)
    assert (found.score["none"] != found.score["updated"]).any()
    assert found.timings.training > 0
