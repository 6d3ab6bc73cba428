import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from graphrec import evaluation
from tests.reference import metrics as reference

# few distinct scores make ties the rule; few groups make groups of one class common
rows = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75, 1.0]), st.integers(-1, 3)),
    min_size=1,
    max_size=24,
)
TIED_LABEL = [1, 0, 1, 0, 0, 1, 0]
TIED_SCORE = [0.9, 0.9, 0.5, 0.5, 0.1, 0.1, 0.1]


def columns(drawn):
    return tuple(np.array(column) for column in zip(*drawn, strict=True))


@given(rows)
def test_auc_matches_reference_and_sklearn(drawn):
    label, score, _ = columns(drawn)
    value = evaluation.auc(label, score)
    assert value == pytest.approx(reference.auc(label, score), nan_ok=True)
    if 0 < label.sum() < len(label):
        assert value == pytest.approx(sklearn_metrics.roc_auc_score(label, score))
    else:
        assert math.isnan(value)


def test_auc_of_hand_worked_ties():
    # 3 clicks x 4 others: .9 wins 3 and ties 1, .5 wins 2 and ties 1, .1 ties 2
    assert evaluation.auc(TIED_LABEL, TIED_SCORE) == (3.5 + 2.5 + 1.0) / 12


def test_auc_does_not_overflow_or_lose_pairs():
    label = np.repeat([0, 1], 150_000)
    assert evaluation.auc(label, label.astype(np.float64)) == 1.0
    assert evaluation.auc(label, np.zeros(300_000)) == 0.5


@given(rows)
def test_grouped_auc_matches_reference(drawn):
    label, score, group = columns(drawn)
    groups = evaluation.grouped_auc(label, score, group)
    expected = reference.rows_by_group(group)
    assert groups.group.tolist() == sorted(expected)
    for key, value, num_rows, num_positives in zip(*groups, strict=True):
        members = expected[key]
        assert value == pytest.approx(reference.auc(label[members], score[members]), nan_ok=True)
        assert (num_rows, num_positives) == (len(members), label[members].sum())


@given(rows, st.sampled_from(["impressions", "clicks", "groups"]), st.randoms())
def test_gauc_matches_reference_in_any_row_order(drawn, weight, random):
    label, score, group = columns(drawn)
    value, rows_left_out, groups_left_out = reference.gauc(label, score, group, weight)
    order = random.sample(range(len(label)), len(label))
    result = evaluation.gauc(label[order], score[order], group[order], weight)
    assert result.value == pytest.approx(value, nan_ok=True)
    assert (result.num_rows_left_out, result.num_groups_left_out) == (rows_left_out, groups_left_out)
    assert result.share_of_rows_left_out == rows_left_out / len(label)
    assert result.share_of_groups_left_out == groups_left_out / len(set(group.tolist()))
    assert result.weight == weight


def test_gauc_weights_differ():
    label = [1, 0, 0, 0, 1, 1, 0, 1]
    score = [0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.9, 0.5]
    user = ["a", "a", "a", "a", "b", "b", "b", "c"]
    values = [evaluation.gauc(label, score, user, w).value for w in ("impressions", "clicks", "groups")]
    assert values == pytest.approx([4 / 7, 1 / 3, 1 / 2])


@given(rows)
def test_group_codes_are_dense_and_tell_pairs_apart(drawn):
    first, second, third = columns(drawn)
    code = evaluation.group_codes(first, second.astype(str), third)
    triples = list(zip(first.tolist(), second.tolist(), third.tolist(), strict=True))
    assert len(set(zip(code.tolist(), triples, strict=True))) == len(set(triples)) == code.max() + 1
    assert code.min() == 0


@given(rows)
def test_losses_match_sklearn(drawn):
    label, score, _ = columns(drawn)
    expected = sklearn_metrics.log_loss(label, score, labels=[0, 1])
    assert evaluation.log_loss(label, score) == pytest.approx(expected)
    assert evaluation.brier_score(label, score) == pytest.approx(
        sklearn_metrics.brier_score_loss(label, score)
    )
    ratio = evaluation.calibration_ratio(label, score)
    assert ratio == pytest.approx(sum(score) / sum(label) if sum(label) else math.nan, nan_ok=True)


def test_normalized_entropy_is_one_for_the_constant_rate():
    label = [1, 0, 0, 0, 1]
    assert evaluation.normalized_entropy(label, [0.4] * 5) == pytest.approx(1.0)
    assert evaluation.normalized_entropy(label, [0.6, 0.2, 0.2, 0.2, 0.6]) < 1.0
    assert math.isnan(evaluation.normalized_entropy([1, 1], [0.4, 0.6]))


@given(rows, st.integers(1, 6), st.sampled_from(["quantile", "width"]))
def test_calibration_error_matches_reference(drawn, num_bins, strategy):
    label, score, _ = columns(drawn)
    expected = reference.expected_calibration_error(label, score, num_bins, strategy)
    value = evaluation.expected_calibration_error(label, score, num_bins, strategy)
    assert value == pytest.approx(expected, abs=1e-12)
    curve = evaluation.reliability_curve(label, score, num_bins, strategy)
    assert len(curve.num_rows) <= num_bins
    assert curve.num_rows.sum() == len(label)
    assert curve.click_rate @ curve.num_rows == pytest.approx(label.sum())
    assert (curve.lower <= curve.mean_score + 1e-12).all()
    assert (curve.mean_score <= curve.upper + 1e-12).all()


def test_quantile_bins_hold_equal_numbers_of_rows():
    score = np.linspace(0.01, 0.99, 103)
    curve = evaluation.reliability_curve(np.arange(103) % 2, score, 5)
    assert curve.num_rows.min() >= 20
    assert curve.num_rows.max() <= 22


@pytest.mark.parametrize(
    ("label", "score", "words"),
    [
        ([], [], "at least one row"),
        ([0, 1], [0.1], r"score must have the shape \(2,\) of label, got \(1,\)"),
        ([0, 2], [0.1, 0.2], "labels must be 0 or 1, got 2 in row 1"),
        ([0.0, math.nan], [0.1, 0.2], "labels must be 0 or 1, got nan"),
        ([0, 1], [0.1, math.nan], "scores must be finite, got nan in row 1"),
        ([0, 1], [math.inf, 0.3], "scores must be finite, got inf in row 0"),
        ([[0, 1]], [0.1, 0.2], "one axis"),
        (["0", "1"], [0.1, 0.2], "must be numbers"),
    ],
)
@pytest.mark.parametrize("metric", ["auc", "log_loss", "expected_calibration_error"])
def test_wrong_input_is_told(label, score, words, metric):
    with pytest.raises(ValueError, match=words):
        getattr(evaluation, metric)(label, score)


@pytest.mark.parametrize("metric", ["log_loss", "brier_score", "calibration_ratio", "reliability_curve"])
@pytest.mark.parametrize("score", [[0.5, 1.5], [-0.5, 0.5]])
def test_logits_are_refused_where_probabilities_are_meant(metric, score):
    assert evaluation.auc([0, 1], score) == 1.0
    with pytest.raises(ValueError, match=r"probabilities in \[0, 1\]"):
        getattr(evaluation, metric)([0, 1], score)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="num_bins must be at least 1"):
        evaluation.reliability_curve([0, 1], [0.1, 0.2], 0)
    with pytest.raises(ValueError, match="group must have the shape"):
        evaluation.grouped_auc([0, 1], [0.1, 0.2], [0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("gauc([0, 1], [0.1, 0.2], [0, 0], 'users')", "impressions, clicks, groups, got 'users'"),
        ("reliability_curve([0, 1], [0.1, 0.2], 3, 'equal')", "quantile or width, got 'equal'"),
        ("clustered_bootstrap([0, 1], [0.1, 0.2], [0, 1], metric='ndcg')", "calibration_error, got 'ndcg'"),
    ],
)
def test_unknown_names_are_refused(call, words):
    # in a process of its own: here the annotations are checked first, for a user they are not
    code = f"from graphrec.evaluation import *\ntry:\n    {call}\nexcept ValueError as e:\n    print(e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert words in done.stdout


def test_inputs_are_not_changed():
    label, score, group = np.array([0, 1, 1]), np.array([0.3, 0.2, 0.1]), np.array([2, 1, 2])
    copies = label.copy(), score.copy(), group.copy()
    evaluation.gauc(label, score, group)
    evaluation.log_loss(label, score)
    assert all((a == b).all() for a, b in zip((label, score, group), copies, strict=True))


def test_import_is_light():
    slow = "('sklearn', 'matplotlib', 'scipy', 'jinja2', 'polars', 'torch_geometric')"
    code = f"import sys, graphrec, graphrec.evaluation; print([m for m in {slow} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
