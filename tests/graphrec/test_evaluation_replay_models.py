"""Adapters: estimators and modules through the replay, against loops written by hand."""

import copy

import numpy as np
import polars as pl
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.svm import LinearSVC

from graphrec.evaluation.replay import replay
from graphrec.evaluation.replay_models import SklearnModel, TorchModel
from graphrec.evaluation.replay_tables import ReplayError

HOUR = 3600
START = 24 * HOUR
FEATURES = ["a", "b"]


def drifting_log(num_rows=1500, hours=36, seed=0):
    """Clicks whose dependence on ``a`` turns round over time; rows in no order."""
    generator = np.random.default_rng(seed)
    time = generator.integers(0, hours * HOUR, num_rows)
    a, b = generator.normal(size=(2, num_rows))
    logit = 3 * a * (1 - 2 * time / time.max()) + b
    label = (generator.random(num_rows) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    return {"time": time, "label": label, "a": a, "b": b}


ROWS = drifting_log()


def by_hand(estimator, learn):
    """Fit, then score hour by hour and let ``learn(matrix, label)`` have each hour, by plain indexing."""
    time, label = ROWS["time"], ROWS["label"]
    matrix = np.stack([ROWS["a"], ROWS["b"]], axis=1)
    order = np.argsort(time, kind="stable")
    before = [row for row in order if time[row] < START]
    estimator.fit(matrix[before], label[before])
    score = {}
    for hour in range(START, int(time.max()) + 1, HOUR):
        rows = [row for row in order if hour <= time[row] < hour + HOUR]
        if not rows:
            continue
        score.update(zip(rows, estimator.predict_proba(matrix[rows])[:, 1], strict=True))
        learn(estimator, matrix[rows], label[rows])
    return [score[row] for row in sorted(score)]


def sgd():
    return SGDClassifier(
        loss="log_loss", random_state=3, max_iter=20, tol=None, learning_rate="constant", eta0=0.05
    )


def log_loss_of(frame):
    p = np.clip(frame["score"].to_numpy(), 1e-6, 1 - 1e-6)
    y = frame["label"].to_numpy()
    return -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))


def test_logistic_regression_equals_a_loop_by_hand():
    model = SklearnModel(LogisticRegression(), FEATURES)
    assert not hasattr(model, "update")
    frame = replay(model, ROWS, test_from=START)
    assert frame["score"].to_list() == by_hand(LogisticRegression(), lambda *given: None)


def test_partial_fit_equals_a_loop_by_hand_and_follows_the_drift():
    model = SklearnModel(sgd(), FEATURES)
    frame = replay(model, ROWS, test_from=START)
    expected = by_hand(sgd(), lambda estimator, matrix, label: estimator.partial_fit(matrix, label))
    assert frame["score"].to_list() == expected
    still = replay(SklearnModel(sgd(), FEATURES), ROWS, test_from=START, update="none")
    assert still["score"].to_list() == by_hand(sgd(), lambda *given: None)
    assert log_loss_of(frame) < log_loss_of(still)
    daily = replay(SklearnModel(sgd(), FEATURES), ROWS, test_from=START, refit="daily")
    assert daily["score"].to_list() == expected  # one day


def test_union_of_partial_fit_equals_a_loop_by_hand():
    fitted, seen = None, []

    class Union:
        def __init__(self):
            self.now = None

        def fit(self, matrix, label):
            self.origin = sgd().fit(matrix, label)
            self.now = copy.deepcopy(self.origin)

        def predict_proba(self, matrix):
            return self.now.predict_proba(matrix)

        def learn(self, matrix, label):
            seen.append((matrix, label))
            self.now = copy.deepcopy(self.origin)
            self.now.partial_fit(*(np.concatenate(parts) for parts in zip(*seen, strict=True)))

    fitted = Union()
    expected = by_hand(fitted, Union.learn)
    frame = replay(SklearnModel(sgd(), FEATURES), ROWS, test_from=START, update="union")
    assert frame["score"].to_list() == expected


def test_estimators_without_probabilities():
    svc = replay(SklearnModel(LinearSVC(), FEATURES), ROWS, test_from=START)["score"]
    assert svc.n_unique() > 50  # decision values, not classes
    boosted = SklearnModel(HistGradientBoostingRegressor(max_iter=5), FEATURES, random_seed=4)
    assert boosted.estimator.random_state == 4
    assert replay(boosted, ROWS, test_from=START)["score"].is_between(-0.5, 1.5).all()


def test_features_by_a_callable_never_see_labels_or_outcomes():
    seen = set()

    def matrix(frame):
        seen.update(frame.columns)
        return frame.select(pl.col("a"), product=pl.col("a") * pl.col("b")).to_numpy()

    rows = {**ROWS, "watched": ROWS["label"] * 9.0}
    replay(SklearnModel(sgd(), matrix), rows, test_from=START, outcomes=["watched"])
    assert seen == {"time", "a", "b", "period_start"}
    with pytest.raises(ReplayError, match=r"without label and outcomes.*lack the columns \['watched'\]"):
        replay(SklearnModel(sgd(), ["watched"]), rows, test_from=START, outcomes=["watched"])


@pytest.mark.parametrize(
    "make", [lambda: SklearnModel(sgd(), FEATURES), lambda: TorchModel(torch.nn.Linear(2, 1), FEATURES)]
)
def test_nothing_to_fit_on(make):
    with pytest.raises(ReplayError, match="nothing to fit on"):
        replay(make(), ROWS, test_from=0)


@pytest.mark.parametrize("make", [lambda: SklearnModel(sgd(), FEATURES), lambda: linear_model()])
def test_updates_with_events_alone_change_nothing(make):
    late = drifting_log(hours=24)
    rows = {
        name: np.append(column, extra)
        for (name, column), extra in zip(late.items(), [START + 5 * HOUR, 1, 0, 0], strict=True)
    }
    rows["time"][0] = START
    plain = replay(make(), rows, test_from=START)
    with_events = replay(make(), rows, test_from=START, events={"time": [START + 2 * HOUR]})
    assert plain["score"].to_list() == with_events["score"].to_list()


def test_one_class_before_the_start():
    class AlwaysOne:
        classes_ = np.array([1])

        def fit(self, matrix, label):
            pass

        def predict_proba(self, matrix):
            return np.ones((len(matrix), 1))

    with pytest.raises(ReplayError, match="two are needed"):
        replay(SklearnModel(AlwaysOne(), FEATURES), ROWS, test_from=START)


# ---- PyTorch --------------------------------------------------------------------------------------


def linear_model(**options):
    module = torch.nn.Linear(2, 1)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[0.1, -0.2]]))
        module.bias.zero_()
    return TorchModel(
        module, FEATURES, batch_size=64, learning_rate=0.05, update_learning_rate=2.0, **options
    )


def matrix_of(rows):
    return torch.from_numpy(np.stack([ROWS["a"][rows], ROWS["b"][rows]], axis=1).astype(np.float32))


@pytest.mark.parametrize("update", ["chained", "union", "none"])
def test_torch_updates_are_gradient_steps_of_the_mean_loss(update):
    frame = replay(linear_model(), ROWS, test_from=START, update=update)
    start = linear_model()
    replay(start, ROWS, test_from=START, update="none")
    weight = start.module.weight.detach()[0].double().numpy()
    origin = np.append(weight, start.module.bias.item())
    now, time, score = origin.copy(), ROWS["time"], {}
    seen = []
    for hour in range(START, int(time.max()) + 1, HOUR):
        rows = np.flatnonzero((time >= hour) & (time < hour + HOUR))

        def probability(rows, weights):
            x = np.stack([ROWS["a"][rows], ROWS["b"][rows], np.ones(len(rows))], axis=1)
            return x, 1 / (1 + np.exp(-x @ weights))

        score.update(zip(rows, probability(rows, now)[1], strict=True))
        seen = [*seen, *rows] if update == "union" else rows
        base = origin if update == "union" else now
        if update != "none":
            x, p = probability(np.array(seen), base)
            now = base - 2.0 * x.T @ (p - ROWS["label"][seen]) / len(seen)
    np.testing.assert_allclose(frame["score"], [score[row] for row in sorted(score)], rtol=2e-3, atol=1e-5)


def test_torch_fit_is_seeded_learns_and_leaves_the_generator_alone():
    models = [linear_model(random_seed=seed, epochs=2) for seed in (1, 1, 2)]
    state = torch.get_rng_state()
    first, second, other = (replay(model, ROWS, test_from=START)["score"] for model in models)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.to_list() == second.to_list() != other.to_list()
    untrained = TorchModel(linear_model().module, FEATURES, learning_rate=0.0, epochs=1)
    plain = replay(untrained, ROWS, test_from=START, update="none")
    trained = replay(linear_model(epochs=10), ROWS, test_from=START)
    assert log_loss_of(trained) < log_loss_of(plain)


def test_torch_is_scored_and_updated_without_dropout():
    module = torch.nn.Sequential(torch.nn.Dropout(0.5), linear_model().module)
    model = TorchModel(module, FEATURES, learning_rate=0.0, epochs=1)
    plain = TorchModel(linear_model().module, FEATURES, learning_rate=0.0, epochs=1)
    scores = [replay(one, ROWS, test_from=START)["score"].to_list() for one in (model, plain)]
    assert scores[0] == scores[1]


def test_torch_checks():
    with pytest.raises(ReplayError, match=r"logits of shape \(\d+, 3\)"):
        replay(TorchModel(torch.nn.Linear(2, 3), FEATURES), ROWS, test_from=START)
    with pytest.raises(ReplayError, match="epochs and batch_size"):
        TorchModel(torch.nn.Linear(2, 1), FEATURES, epochs=0)
