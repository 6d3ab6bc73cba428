import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from graphrec import evaluation
from graphrec.evaluation import compiled, ctr
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
    slow = "('torch', 'sklearn', 'matplotlib', 'scipy.stats', 'jinja2', 'pandas', 'torch_geometric')"
    code = f"import sys, graphrec, graphrec.evaluation; print([m for m in {slow} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# beyond the least number of rows for threads; 3 distinct scores, some hundred, or hardly a tie
@pytest.fixture(params=[3, 250, 10**9])
def many_rows(request):
    generator = np.random.default_rng(request.param)
    score = generator.integers(0, request.param, 130_001) / request.param
    label = (generator.random(len(score)) < 0.2 + 0.5 * score).astype(np.uint8)
    return label, score, generator.integers(0, 700, len(score))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_many_rows_match_sklearn(many_rows, dtype):
    label, score, user = many_rows
    score = score.astype(dtype)
    assert ctr.auc(label, score) == pytest.approx(sklearn_metrics.roc_auc_score(label, score), abs=1e-13)
    expected = sklearn_metrics.average_precision_score(label, score)
    assert ctr.average_precision(label, score) == pytest.approx(expected, abs=1e-13)
    # sklearn clips float32 more coarsely
    assert ctr.log_loss(label, score) == pytest.approx(
        sklearn_metrics.log_loss(label, score.astype(np.float64)), rel=1e-12
    )
    assert ctr.brier_score(label, score) == pytest.approx(
        sklearn_metrics.brier_score_loss(label, score.astype(np.float64)), rel=1e-12
    )
    groups = ctr.grouped_auc(label, score, user)
    assert groups.group.tolist() == list(range(700))
    for one in range(0, 700, 35):
        inside = user == one
        expected = sklearn_metrics.roc_auc_score(label[inside], score[inside])
        assert groups.auc[one] == pytest.approx(expected, abs=1e-14)


@given(rows)
def test_average_precision_matches_reference(drawn):
    label, score, _ = columns(drawn)
    value = ctr.average_precision(label, score)
    assert value == pytest.approx(reference.average_precision(label, score), nan_ok=True)
    assert math.isnan(value) == (label.sum() == 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(drawn=rows, num_bins=st.integers(1, 6), strategy=st.sampled_from(["quantile", "width"]))
def test_ranked_figures_are_those_of_single_functions(drawn, num_bins, strategy, dtype):
    label, score, _ = columns(drawn)
    found = ctr.ranked_figures(label.astype(np.uint8), score.astype(dtype), num_bins, strategy)
    expected = (ctr.auc(label, score), ctr.average_precision(label, score))
    assert found[:2] == pytest.approx(expected, nan_ok=True)
    edges = ctr.bin_edges(score, num_bins, strategy)
    code = ctr.assign_bins(score, edges)
    kept = np.unique(code)
    assert found.curve.lower.tolist() == edges[kept].tolist()
    assert found.curve.upper.tolist() == edges[kept + 1].tolist()
    assert found.curve.num_rows.tolist() == [int((code == one).sum()) for one in kept]
    assert found.curve.mean_score == pytest.approx([score[code == one].mean() for one in kept])
    assert found.curve.click_rate == pytest.approx([label[code == one].mean() for one in kept])
    assert ctr.calibration_error_of_curve(found.curve) == pytest.approx(
        reference.expected_calibration_error(label, score, num_bins, strategy), abs=1e-12
    )


def test_curve_of_many_rows_matches_rows_assigned_one_by_one(many_rows):
    label, score, _ = many_rows
    for dtype in (np.float32, np.float64):
        narrow = score.astype(dtype)
        for strategy in ("quantile", "width"):
            curve = ctr.reliability_curve(label, narrow, 7, strategy)
            code = ctr.assign_bins(narrow.astype(np.float64), np.append(curve.lower, curve.upper[-1]))
            assert curve.num_rows.tolist() == np.bincount(code).tolist()
            total = np.bincount(code, weights=narrow)
            assert curve.mean_score * curve.num_rows == pytest.approx(total, rel=1e-12)
            assert curve.click_rate * curve.num_rows == pytest.approx(np.bincount(code, weights=label))
    if len(np.unique(score)) > 10**5:
        assert np.ptp(ctr.reliability_curve(label, score, 7).num_rows) <= 2


def test_edges_between_two_narrow_scores_cut_where_wide_ones_do():
    # 0.1 and 0.7 have no float32, which lies above one and below the other
    score = np.array([0.1, 0.7, 0.3, 0.30000001192092896], np.float32)
    score = np.concatenate([score, np.nextafter(score, np.float32(0)), np.nextafter(score, np.float32(1))])
    label = np.arange(len(score)) % 2
    narrow, wide = (ctr.reliability_curve(label, s, 10, "width") for s in (score, score.astype(np.float64)))
    assert narrow.lower.tolist() == wide.lower.tolist()
    assert narrow.num_rows.tolist() == wide.num_rows.tolist()


def test_scores_outside_the_unit_interval_have_ranks_but_no_curve():
    label = np.array([0, 1, 1, 0], np.uint8)
    for score in ([-0.1, 0.2, 0.9, 0.5], [0.1, 0.2, 1.1, 0.5]):
        found = ctr.ranked_figures(label, np.array(score))
        assert found.curve is None
        assert found.auc == 0.75
    assert ctr.ranked_figures(label, np.array([0.0, 0.2, 1.0, 0.5])).curve is not None


def test_close_scores_of_either_width_are_told_apart():
    wide = np.array([0.5, 0.5 + 1e-12])
    assert ctr.auc([0, 1], wide) == 1.0
    assert ctr.auc([0, 1], wide.astype(np.float32)) == 0.5
    assert ctr.auc([0, 1], np.array([2**24, 2**24 + 1])) == 1.0  # whole numbers become float64
    assert ctr.auc([0, 1], np.array([0.25, 0.5], np.float16)) == 1.0


def test_zeros_of_either_sign_are_tied():
    assert ctr.auc([0, 1], [0.0, -0.0]) == ctr.auc([1, 0], [0.0, -0.0]) == 0.5
    assert ctr.gauc([0, 1], [0.0, -0.0], [0, 0]).value == 0.5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(drawn=st.lists(rows, min_size=1, max_size=4), epsilon=st.sampled_from([ctr.EPSILON, 0.01, 1e-12]))
def test_sums_of_clusters_match_reference(drawn, epsilon, dtype):
    label, score, _ = columns([row for cluster in drawn for row in cluster])
    label, score = label.astype(np.uint8), score.astype(dtype)
    ptr = np.cumsum([0, *map(len, drawn)])
    sums = ctr.probability_sums(label, score, ptr, epsilon=epsilon)
    edges = np.array([0.0, 0.2, 0.5, 1.0])
    bins = ctr.bin_sums(label, score, ptr, edges)
    for number, cluster in enumerate(drawn):
        labels, scores, _ = columns(cluster)
        losses = [reference.log_loss_of_row(y, s, epsilon) for y, s in zip(labels, scores, strict=True)]
        expected = [len(cluster), labels.sum(), scores.sum(), sum(losses), ((scores - labels) ** 2).sum()]
        assert sums[number] == pytest.approx(expected)
        code = ctr.assign_bins(scores, edges)
        assert bins[number] == pytest.approx(
            [scores[code == b].sum() for b in range(3)] + [labels[code == b].sum() for b in range(3)]
        )


def test_log_loss_of_certain_mistakes():
    # products of many tiny likelihoods would leave the range of float64
    label = np.ones(5000, np.uint8)
    assert ctr.log_loss(label, np.zeros(5000)) == pytest.approx(-math.log(ctr.EPSILON))
    assert ctr.log_loss(label, np.zeros(5000), epsilon=1e-290) == pytest.approx(290 * math.log(10))
    assert ctr.log_loss([1, 0], [0.0, 0.5], epsilon=0.0) == math.inf
    assert ctr.log_loss([1, 0, 1], [1.0, 0.0, 0.5], epsilon=0.0) == pytest.approx(math.log(2) / 3)


def test_relative_information_gain_is_what_the_entropy_lacks():
    label, score = [1, 0, 0, 0, 1], [0.6, 0.2, 0.2, 0.2, 0.6]
    gain = evaluation.normalized_entropy([1, 0, 0, 0, 1], score)
    assert ctr.relative_information_gain(label, score) == 1.0 - gain > 0.0
    assert math.isnan(ctr.relative_information_gain([0, 0], [0.1, 0.2]))


KEYS = [
    [3, 1, 3, 2],
    [2**62, -(2**62), 2**62, 0],
    np.array([2**64 - 1, 2**64 - 9, 2**64 - 1, 2**64 - 2], np.uint64),
    np.array([250, 1, 250, 20], np.uint8),
    np.array([-128, 127, -128, 5], np.int8),
    [True, False, True, False],
    ["b", "a", "b", "aa"],
    [0.5, -1.0, 0.5, 0.0],
]


@pytest.mark.parametrize("keys", KEYS, ids=str)
def test_groups_have_keys_of_any_type(keys):
    label, score = [1, 0, 0, 1], [0.2, 0.3, 0.4, 0.5]
    groups = ctr.grouped_auc(label, score, keys)
    expected, inverse = np.unique(np.asarray(keys), return_inverse=True)
    assert groups.group.tolist() == expected.tolist()
    assert groups.group.dtype == expected.dtype
    assert groups.num_rows.tolist() == np.bincount(inverse).tolist()
    assert groups.num_positives.tolist() == np.bincount(inverse, weights=label).tolist()
    assert ctr.group_codes(keys).tolist() == inverse.tolist()


def test_smallest_of_two_columns():
    generator = np.random.default_rng(0)
    for _ in range(200):
        first, second = (np.sort(generator.integers(0, 9, generator.integers(0, 12)) / 9) for _ in range(2))
        merged = np.sort(np.concatenate([first, second]))
        found = [ctr._smallest_of_two(first, second, place) for place in range(len(merged))]
        assert found == merged.tolist()


def test_walk_of_one_tie_counts_pairs_exactly():
    clicks = others = np.broadcast_to(np.float32(0.5), (2**20,))
    twice_won, precision = compiled.walk_ranks(0, 2**20, 0, 2**20, clicks, others)
    assert twice_won == 2**40
    assert precision == 2**19


def test_groups_without_a_value_are_told():
    with pytest.raises(ValueError, match="without None"):
        ctr.gauc([0, 1], [0.0, 0.2], [None, 1])
