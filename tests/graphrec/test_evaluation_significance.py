import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphrec import evaluation
from graphrec.evaluation import significance
from tests.reference import metrics as reference

level = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
rows = st.lists(st.tuples(st.integers(0, 1), level, level, st.integers(0, 4)), min_size=5, max_size=24)
ALL_METRICS = ["auc", "gauc", "log_loss", "brier_score", "calibration_ratio", "expected_calibration_error"]


def columns(drawn):
    return tuple(np.array(column) for column in zip(*drawn, strict=True))


def simulated(num_users=300, rows_per_user=7, random_seed=3):
    """Two correlated scores over users who click at different rates; score_a sees more of the truth."""
    generator = np.random.default_rng(random_seed)
    user = np.repeat(np.arange(num_users), rows_per_user)
    logit = generator.normal(size=num_users)[user] + generator.normal(size=len(user))
    label = (generator.random(len(user)) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    shared = logit + generator.normal(size=len(user))
    score_a = 1 / (1 + np.exp(-np.round(shared, 1)))
    score_b = 1 / (1 + np.exp(-np.round(shared + generator.normal(size=len(user)), 1)))
    return label, score_a, score_b, user


@given(rows)
def test_delong_matches_reference(drawn):
    label, score_a, score_b, _ = columns(drawn)
    if min(label.sum(), len(label) - label.sum()) < 2:
        with pytest.raises(ValueError, match="two rows of each class"):
            evaluation.delong(label, score_a, score_b)
        return
    result = evaluation.delong(label, score_a, score_b)
    assert result.auc_a == pytest.approx(reference.auc(label, score_a))
    assert result.auc_b == pytest.approx(reference.auc(label, score_b))
    assert result.variance == pytest.approx(reference.delong_variance(label, score_a, score_b), abs=1e-12)
    swapped = evaluation.delong(label, score_b, score_a)
    assert swapped.difference == pytest.approx(-result.difference)
    assert swapped.p_value == pytest.approx(result.p_value, nan_ok=True)


def test_delong_variance_agrees_with_a_bootstrap_over_rows():
    label, score_a, score_b, _ = simulated()
    result = evaluation.delong(label, score_a, score_b)
    each_row = np.arange(len(label))
    drawn = evaluation.clustered_bootstrap(
        label, score_a, each_row, metric="auc", score_b=score_b, num_resamples=1500
    )
    assert drawn.value == pytest.approx(result.difference)
    # the standard deviation of 1500 draws is known to about 2%
    assert drawn.standard_error == pytest.approx(math.sqrt(result.variance), rel=0.08)
    assert drawn.interval == pytest.approx((result.lower, result.upper), abs=0.004)


def test_delong_p_value_is_uniform_when_nothing_differs():
    generator = np.random.default_rng(0)
    p_values = []
    for _ in range(400):
        label = generator.integers(0, 2, 200)
        shared = label + generator.normal(size=200)
        noise = generator.normal(size=(2, 200))
        p_values.append(evaluation.delong(label, shared + noise[0], shared + noise[1]).p_value)
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.05, abs=0.035)
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.06)


def test_delong_of_equal_and_degenerate_scores():
    label = [0, 1, 0, 1]
    same = evaluation.delong(label, [0.1, 0.4, 0.2, 0.3], [1, 4, 2, 3])
    assert (same.difference, same.p_value) == (0.0, 1.0)
    opposite = evaluation.delong(label, [0, 1, 0, 1], [1, 0, 1, 0])
    assert opposite.difference == 1.0
    assert math.isnan(opposite.p_value)


@pytest.mark.parametrize("metric", ALL_METRICS)
@given(rows, st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_bootstrap_values_match_resampled_rows(metric, drawn, random_seed):
    """Every resample equals the metric on rows that were really copied."""
    label, score, _, user = columns(drawn)
    if len(set(user.tolist())) < 2:
        return
    result = evaluation.clustered_bootstrap(
        label, score, user, metric=metric, group=user, num_resamples=3, random_seed=random_seed
    )
    rows_of = reference.rows_by_group(user.tolist())
    users = sorted(rows_of)
    times_drawn = significance.draw_clusters(len(users), 3, random_seed)
    assert (times_drawn.sum(axis=1) == len(users)).all()
    for counts, value in zip(
        [np.ones(len(users), int), *times_drawn], [result.value, *result.resampled], strict=True
    ):
        copied, copy_of = [], []
        for position, (one_user, count) in enumerate(zip(users, counts, strict=True)):
            for copy in range(count):
                copied += rows_of[one_user]
                copy_of += [(position, copy)] * len(rows_of[one_user])
        assert value == pytest.approx(expected(metric, label, score, copied, copy_of), nan_ok=True, abs=1e-9)


def expected(metric, label, score, copied, copy_of):
    label_copied, score_copied = label[copied], score[copied]
    if metric == "auc":
        return reference.auc(label_copied, score_copied)
    if metric == "gauc":
        return reference.gauc(label_copied, score_copied, copy_of, "impressions")[0]
    if metric == "expected_calibration_error":
        edges = significance.bin_edges(score.astype(np.float64), 20, "quantile")
        position = significance.assign_bins(score_copied.astype(np.float64), edges)
        excess = [abs((score_copied - label_copied)[position == b].sum()) for b in range(len(edges) - 1)]
        return sum(excess) / len(copied)
    if metric == "calibration_ratio" and label_copied.sum() == 0:
        return math.nan
    return getattr(evaluation, metric)(label_copied, score_copied)


def test_users_with_many_rows_widen_the_interval():
    """Rows copied ten times hold no more than the original: clusters know, DeLong does not."""
    label, score_a, score_b, user = (np.tile(column, 10) for column in simulated(100, 4))
    by_user = evaluation.clustered_bootstrap(
        label, score_a, np.tile(np.arange(400), 10), metric="auc", score_b=score_b, num_resamples=400
    )
    assert by_user.standard_error > 2.5 * math.sqrt(evaluation.delong(label, score_a, score_b).variance)
    assert len(user) == len(label)


def test_bootstrap_difference_is_paired_and_repeatable():
    label, score_a, score_b, user = simulated()

    def draw(first, second, random_seed=1):
        return evaluation.clustered_bootstrap(
            label,
            first,
            user,
            metric="gauc",
            group=user,
            score_b=second,
            num_resamples=300,
            random_seed=random_seed,
        )

    result = draw(score_a, score_b)
    assert result.value == pytest.approx(
        evaluation.gauc(label, score_a, user).value - evaluation.gauc(label, score_b, user).value
    )
    assert (draw(score_a, score_b).resampled == result.resampled).all()
    assert (draw(score_b, score_a).resampled == -result.resampled).all()
    assert (draw(score_a, score_b, 2).resampled != result.resampled).any()
    assert (draw(score_a, score_a).resampled == 0).all()
    assert draw(score_a, score_a).p_value == 1.0
    assert result.p_value < 0.05
    assert result.interval[0] < result.value < result.interval[1]


def test_blocks_do_not_change_the_resamples(monkeypatch):
    sums = np.random.default_rng(0).normal(size=(301, 5))
    whole = significance.bootstrap_sums(sums, 203, random_seed=4)
    monkeypatch.setattr(significance, "_COUNT_BYTES", 3 * len(sums))
    assert (significance.bootstrap_sums(sums, 203, random_seed=4) == whole).all()
    assert (significance.bootstrap_sums(sums, 7, random_seed=4) == whole[:7]).all()
    assert (significance.bootstrap_sums(sums, 203, random_seed=5) != whole).any()


def test_bootstrap_refuses_what_it_cannot_resample():
    label, score = [0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4]
    with pytest.raises(ValueError, match="spans two"):
        evaluation.clustered_bootstrap(label, score, [0, 0, 1, 1], metric="gauc", group=[0, 1, 1, 0])
    with pytest.raises(ValueError, match="needs group"):
        evaluation.clustered_bootstrap(label, score, [0, 0, 1, 1], metric="gauc")
    with pytest.raises(ValueError, match="at least two clusters"):
        evaluation.clustered_bootstrap(label, score, [7, 7, 7, 7], metric="auc")
    with pytest.raises(ValueError, match="confidence"):
        evaluation.clustered_bootstrap(label, score, [0, 0, 1, 1], metric="auc", confidence=95.0)
    with pytest.raises(ValueError, match="num_resamples"):
        evaluation.clustered_bootstrap(label, score, [0, 0, 1, 1], metric="auc", num_resamples=1)
    with pytest.raises(ValueError, match="cluster must have the shape"):
        evaluation.clustered_bootstrap(label, score, [0, 0, 1], metric="auc")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_matches_reference(p_values):
    assert evaluation.holm(p_values).tolist() == pytest.approx(reference.holm(p_values))


def test_holm_by_hand():
    assert evaluation.holm([0.04, 0.01, 0.03]).tolist() == pytest.approx([0.06, 0.03, 0.06])
    adjusted = evaluation.holm([0.02, math.nan])
    assert adjusted[0] == pytest.approx(0.04)
    assert math.isnan(adjusted[1])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        evaluation.holm([1.2])
