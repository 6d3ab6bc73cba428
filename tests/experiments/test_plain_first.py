"""Temporal MAML that goes on from plain training."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.config import LSTTMConfig
from experiments.data_simulated import simulated_inputs
from experiments.protocol import run_model
from experiments.tested_day import prepare_day
from graph_builders.datasets import SimulatorConfig
from graphrec.training.loop import OptimizerConfig
from graphrec.training.meta_tasks import MetaConfig
from graphrec.training.online import OnlineConfig

WORLD = SimulatorConfig(
    num_days=2,
    num_users=60,
    num_items=40,
    num_external_items=30,
    num_impressions=1_200,
    num_external_events=100,
    num_topics=4,
    trends_per_day=2,
)
PLAIN = LSTTMConfig(long_term=False, past_counts=False, optimizer=OptimizerConfig(epochs=2))
META = MetaConfig(order=1, support=128, query=128)


@pytest.fixture(scope="module")
def day():
    return prepare_day(simulated_inputs(WORLD), "2024-01-02")


def scores(day, config, checkpoint=None):
    found = run_model(
        day,
        config,
        0,
        updates={"none": OnlineConfig(form="none")},
        snapshots=None,
        device=torch.device("cpu"),
        checkpoint=checkpoint,
    )
    return found.score["none"]


def test_it_starts_where_plain_training_ends(day):
    plain = scores(day, PLAIN)
    nothing_more = replace(PLAIN, meta=META, plain_first=PLAIN.optimizer, optimizer=OptimizerConfig(epochs=0))
    np.testing.assert_array_equal(scores(day, nothing_more), plain)
    more = replace(nothing_more, optimizer=OptimizerConfig(epochs=1))
    found = scores(day, more)
    assert np.abs(found - plain).max() > 1e-3
    alone = scores(day, replace(more, plain_first=None))
    assert np.abs(found - alone).max() > 1e-3


def test_a_run_goes_on_after_the_plain_part(day, tmp_path, monkeypatch):
    config = replace(PLAIN, meta=META, plain_first=PLAIN.optimizer, optimizer=OptimizerConfig(epochs=1))
    whole = scores(day, config, tmp_path / "whole.pt")
    assert not (tmp_path / "whole.first.pt").exists()
    from experiments import protocol

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(protocol, "train_meta", killed)
        with pytest.raises(KeyboardInterrupt):
            scores(day, config, tmp_path / "killed.pt")
    assert (tmp_path / "killed.first.pt").exists()
    np.testing.assert_array_equal(scores(day, config, tmp_path / "killed.pt"), whole)
