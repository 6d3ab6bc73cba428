"""UserBERT among the users' features of LSTTM on a slice of KuaiRand-Pure, in each of its three ways."""

from dataclasses import replace

import pytest
import torch

from experiments.config import ENCODERS, LSTTMConfig, lsttm_with_preference
from experiments.daily_job import DailyJobConfig, run_daily_job
from experiments.inputs import load_inputs
from experiments.protocol import NeuralOnDay, prepare_day
from experiments.user_encoders import LEARNING, UserBERTFeatures, trained_userbert
from graphrec.training.loop import OptimizerConfig
from graphrec.training.pretraining import PretrainingConfig
from tests.experiments.kuairand_slice import sliced_log, write_slice

CPU = torch.device("cpu")
SMALL = UserBERTFeatures(
    pretraining=PretrainingConfig(epochs=1, batch_size=64), channels=8, num_blocks=1, max_words=4
)


@pytest.fixture(scope="module")
def day(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders") / "data"
    return prepare_day(load_inputs(path=write_slice(folder, sliced_log())), "2022-05-04")


@pytest.fixture(scope="module")
def encoders(day):
    def train(learning):
        torch.manual_seed(0)
        config = replace(SMALL, learning=learning)
        return trained_userbert(day.inputs, config, until=day.start, random_seed=0, device=CPU)

    return {learning: train(learning) for learning in LEARNING}


def test_pretraining_moves_the_weights_that_learning_starts_from(day, encoders):
    weights = {learning: encoder.bert.first for learning, encoder in encoders.items()}
    assert torch.equal(weights["fine-tuned"], weights["frozen"])
    assert not torch.equal(weights["fine-tuned"], weights["end to end"])
    assert encoders["frozen"].bert.fit_until == day.start
    with pytest.raises(ValueError, match="fitted on data until"):
        encoders["frozen"].check_before(day.start - 1)
    grads = {name: {p.requires_grad for p in encoder.parameters()} for name, encoder in encoders.items()}
    assert grads == {"end to end": {True}, "fine-tuned": {True}, "frozen": {False}}


def test_sentences_of_a_batch_are_of_the_seeds_and_hold_their_past_alone(day):
    config = LSTTMConfig(
        long_term=False,
        user_encoder=replace(SMALL, learning="end to end"),
        short_term=lsttm_with_preference().short_term,
        optimizer=OptimizerConfig(epochs=1, batch_size=128),
    )
    model = NeuralOnDay(day, config, 0, updates={}, snapshots=None, device=CPU)
    data = model.data.with_graph(model.graphs.before_day())
    encoded = data.encoders["user"]
    user, time = data.impressions.user[-200:], data.as_of[-200:]
    inputs = encoded.reader.read(user, time)
    assert sum(len(history.events.time) for history in inputs.histories.values()) > 200
    for history in inputs.histories.values():
        assert bool((history.events.time < time[history.events.query_of_event()]).all())
    first = time - 24 * 3_600_000
    long, short = inputs.histories["long"].events, inputs.histories["short"].events
    assert bool((long.time < first[long.query_of_event()]).all())
    assert bool((short.time >= first[short.query_of_event()]).all())


def test_named_runs_and_what_cannot_be_served():
    learning = [
        config.user_encoder.learning for config in ENCODERS.values() if config.user_encoder is not None
    ]
    assert tuple(learning) == LEARNING
    model = replace(lsttm_with_preference(), user_encoder=SMALL)
    with pytest.raises(ValueError, match="user_encoder cannot be served"):
        run_daily_job(DailyJobConfig(day="2022-05-04", model=model))
    with pytest.raises(ValueError, match="days"):
        replace(SMALL, days=1)
