import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from graphrec import evaluation
from graphrec.evaluation import significance
from tests.reference import metrics as reference

level = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
rows = st.lists(st.tuples(st.integers(0, 1), level, level, st.integers(0, 4)), min_size=5, max_size=24)
ALL_METRICS = [
    "auc",
    "average_precision",
    "gauc",
    "log_loss",
    "normalized_entropy",
    "relative_information_gain",
    "brier_score",
    "calibration_ratio",
    "expected_calibration_error",
]


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
    if metric == "average_precision":
        return average_precision_score(label_copied, score_copied) if label_copied.sum() else math.nan
    if metric == "gauc":
        return reference.gauc(label_copied, score_copied, copy_of, "impressions")[0]
    if metric == "expected_calibration_error":
        edges = significance.bin_edges(score.astype(np.float64), 20, "quantile")
        position = significance.assign_bins(score_copied.astype(np.float64), edges)
        excess = [abs((score_copied - label_copied)[position == b].sum()) for b in range(len(edges) - 1)]
        return sum(excess) / len(copied)
    if metric == "calibration_ratio" and label_copied.sum() == 0:
        return math.nan
    if metric == "relative_information_gain":
        return 1.0 - evaluation.normalized_entropy(label_copied, score_copied)
    return getattr(evaluation, metric)(label_copied, score_copied)


def test_users_with_many_rows_widen_the_interval():
    """Rows copied ten times hold no more than the original: clusters know, DeLong without them does not."""
    label, score_a, score_b, _ = simulated(100, 4)
    original = evaluation.delong(label, score_a, score_b)
    columns_copied = [np.tile(column, 10) for column in (label, score_a, score_b)]
    row = np.tile(np.arange(400), 10)
    by_bootstrap = evaluation.clustered_bootstrap(
        label=columns_copied[0],
        score=columns_copied[1],
        cluster=row,
        metric="auc",
        score_b=columns_copied[2],
        num_resamples=800,
    )
    as_if_independent = evaluation.delong(*columns_copied)
    by_user = evaluation.delong(*columns_copied, cluster=row)
    assert by_user.difference == pytest.approx(original.difference)
    assert by_user.variance == pytest.approx(original.variance)
    assert by_bootstrap.standard_error == pytest.approx(math.sqrt(original.variance), rel=0.1)
    # nearly a tenth: other copies of a row count as rows of their own
    assert original.variance / as_if_independent.variance == pytest.approx(10.0, rel=0.05)


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


def with_user_effects(num_users=400, random_seed=5):
    """Users of very different sizes, who share a taste for clicking that one score knows in part."""
    generator = np.random.default_rng(random_seed)
    user = np.repeat(np.arange(num_users), generator.integers(1, 30, num_users)).astype(np.int32)
    taste = 1.5 * generator.normal(size=num_users)[user]
    mood = generator.normal(size=num_users)[user]
    label = (generator.random(len(user)) < 1 / (1 + np.exp(1.0 - taste))).astype(np.uint8)
    score_a = np.round(taste + 2 * mood + generator.normal(size=len(user)), 1)
    score_b = np.round(taste + generator.normal(size=len(user)), 1)
    return label, score_a, score_b, user


def test_variance_over_users_agrees_with_a_bootstrap_over_users():
    label, score_a, score_b, user = with_user_effects()
    shuffled = np.random.default_rng(0).permutation(len(label))
    label, score_a, score_b, user = (column[shuffled] for column in (label, score_a, score_b, user))
    by_user = significance.delong_covariance(label, [score_a, score_b], user)
    drawn = significance.bootstrap_auc(label, [score_a, score_b], user, 2000, random_seed=1)
    np.testing.assert_allclose(np.cov(drawn.T), by_user.covariance, rtol=0.12)
    of_rows = significance.delong_covariance(label, [score_a, score_b])
    assert (of_rows.covariance.diagonal() < 0.4 * by_user.covariance.diagonal()).all()
    assert (by_user.num_clusters, of_rows.num_clusters) == (400, len(label))
    np.testing.assert_array_equal(by_user.auc, of_rows.auc)
    test = evaluation.delong(label, score_a, score_b, cluster=user)
    assert test.variance == pytest.approx(np.var(drawn[:, 0] - drawn[:, 1], ddof=1), rel=0.12)


def test_variance_over_users_by_hand():
    """Three users; the scores of clicks are 3, 1, 4 and those of the others 2, 0, 1."""
    label = np.array([1, 0, 1, 0, 1, 0], np.uint8)
    score = np.array([3.0, 2.0, 1.0, 0.0, 4.0, 1.0])
    user = np.array([0, 0, 1, 1, 2, 2], np.int32)
    # clicks win 3, 0 + 1 + 1/2 and 3 of the 3 others; others lose to 2, 3 and 2 + 1/2 of the 3 clicks
    by_click, by_other = np.array([1.0, 0.5, 1.0]), np.array([2 / 3, 1.0, 5 / 6])
    auc = 7.5 / 9
    v, w = by_click - auc, by_other - auc
    # all three users have clicks and others: each factor is 3/2, each class has 3 rows
    wanted = 1.5 * (v @ v / 9 + w @ w / 9 + 2 * (v @ w) / 9)
    found = significance.delong_covariance(label, (score,), user)
    assert found.auc.tolist() == pytest.approx([auc])
    assert found.covariance.ravel().tolist() == pytest.approx([wanted])
    rows_alone = significance.delong_covariance(label, (score,))
    assert rows_alone.covariance.ravel().tolist() == pytest.approx([(v @ v + w @ w) / 2 / 3])


def slow_obuchowski(label, scores, user):
    """Obuchowski (1997) over pairs of rows, with Python's loops."""
    clicks, others = ([row for row, y in enumerate(label) if y == wanted] for wanted in (1, 0))

    def win(score, c, o):
        return (score[c] > score[o]) + 0.5 * (score[c] == score[o])

    counts = [len({user[row] for row in rows}) for rows in (clicks, others, clicks + others)]
    if min(counts[:2]) < 2:
        return np.full((len(scores), len(scores)), math.nan)
    aucs = [reference.auc(label, score) for score in scores]
    deviations = {one: np.zeros((2, len(scores))) for one in set(user)}
    for k, score in enumerate(scores):
        for c in clicks:
            deviations[user[c]][0, k] += np.mean([win(score, c, o) for o in others]) - aucs[k]
        for o in others:
            deviations[user[o]][1, k] += np.mean([win(score, c, o) for c in clicks]) - aucs[k]
    m, n = len(clicks), len(others)
    f_click, f_other, f_both = (count / (count - 1) for count in counts)
    return sum(
        f_click * np.outer(v, v) / m**2
        + f_other * np.outer(w, w) / n**2
        + f_both * (np.outer(v, w) + np.outer(w, v)) / (m * n)
        for v, w in deviations.values()
    )


@given(rows, st.sampled_from([np.float32, np.float64]))
def test_covariance_matches_the_definition(drawn, dtype):
    label, score_a, score_b, user = columns(drawn)
    label, user = label.astype(np.uint8), user.astype(np.int32)
    scores = [score_a.astype(dtype), score_b.astype(dtype)]
    for cluster in (user, None):
        found = significance.delong_covariance(label, scores, cluster)
        each = range(len(label)) if cluster is None else user.tolist()
        wanted = slow_obuchowski(label.tolist(), scores, list(each))
        np.testing.assert_allclose(found.covariance, wanted, atol=1e-12)
        assert found.auc.tolist() == pytest.approx([reference.auc(label, one) for one in scores], nan_ok=True)
        assert found.num_clusters == len(set(each))


@given(rows)
def test_one_row_a_cluster_is_delong(drawn):
    label, score_a, score_b, _ = columns(drawn)
    label = label.astype(np.uint8)
    alone = np.random.default_rng(0).permutation(len(label)).astype(np.int32)
    clustered = significance.delong_covariance(label, [score_a, score_b], alone)
    rows_alone = significance.delong_covariance(label, [score_a, score_b])
    np.testing.assert_allclose(clustered.covariance, rows_alone.covariance, atol=1e-14)


def test_too_few_clusters_leave_the_covariance_undefined():
    label, score = np.array([0, 1, 0, 1], np.uint8), np.array([0.1, 0.4, 0.3, 0.2])
    one_user = significance.delong_covariance(label, [score], np.zeros(4, np.int32))
    assert (one_user.auc.tolist(), one_user.num_clusters) == ([0.75], 1)
    assert np.isnan(one_user.covariance).all()
    one_clicker = significance.delong_covariance(label, [score], np.array([0, 2, 1, 2], np.int32))
    assert np.isnan(one_clicker.covariance).all()
    one_class = significance.delong_covariance(np.zeros(4, np.uint8), [score])
    assert np.isnan(one_class.auc).all()
    assert np.isnan(one_class.covariance).all()
    empty = significance.delong_covariance(label[:0], [score[:0]], np.empty(0, np.int32))
    assert np.isnan(empty.auc).all()
    undefined = significance.delong_test(
        significance.delong_covariance(label, [score, score], np.zeros(4, np.int32))
    )
    assert math.isnan(undefined.p_value)
    with pytest.raises(ValueError, match="clicks in two clusters"):
        evaluation.delong(label, score, score, cluster=["u", "u", "u", "u"])
    with pytest.raises(ValueError, match="codes from 0, got -1"):
        significance.delong_covariance(label, [score], np.array([0, -1, 0, 1], np.int32))


def test_interval_stays_inside_and_covers():
    """The interval holds the truth in 93 to 97% of sets, for an AUC near 1 too."""
    generator = np.random.default_rng(8)
    for shift, num_users, rows_per_user in ((0.8, 120, 1), (2.2, 150, 4)):
        truth = 0.5 * math.erfc(-shift / 2.0)  # two normal distributions, `shift` deviations apart
        covered, num_sets = 0, 1500
        user = np.repeat(np.arange(num_users, dtype=np.int32), rows_per_user)
        for _ in range(num_sets):
            label = (generator.random(len(user)) < 0.4).astype(np.uint8)
            shared = generator.normal(size=num_users)[user] * math.sqrt(0.5)
            score = shift * label + shared + generator.normal(size=len(user)) * math.sqrt(0.5)
            found = significance.delong_covariance(label, (score,), user)
            lower, upper = significance.auc_interval(float(found.auc[0]), float(found.covariance[0, 0]))
            assert 0.0 < lower < found.auc[0] < upper < 1.0
            covered += lower < truth < upper
        assert 0.93 < covered / num_sets < 0.97


def test_interval_by_hand_and_undefined():
    # the logit of 0.8 is log(4), its deviation 0.02 / 0.16
    half = 1.959963984540054 * 0.02 / 0.16
    wanted = [1 / (1 + math.exp(-(math.log(4) + sign * half))) for sign in (-1, 1)]
    assert significance.auc_interval(0.8, 0.02**2) == pytest.approx(wanted)
    assert significance.auc_interval(0.8, 0.02**2, 0.5)[0] > wanted[0]
    for auc, variance in ((1.0, 0.0), (0.0, 0.1), (0.5, 0.0), (0.7, math.nan), (math.nan, 0.1)):
        assert all(math.isnan(end) for end in significance.auc_interval(auc, variance))
    with pytest.raises(ValueError, match="confidence"):
        significance.auc_interval(0.8, 0.01, 95.0)


@pytest.mark.parametrize("kind", ["continuous", "one heavy score", "few scores", "one score"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_are_sorted_through_buckets(kind, dtype, monkeypatch):
    monkeypatch.setattr(significance, "_ROWS_OF_A_BUCKET", 100)
    generator = np.random.default_rng(2)
    score = generator.normal(size=20_000)
    if kind == "one heavy score":
        score[generator.random(len(score)) < 0.7] = 0.25
    elif kind == "few scores":
        score = np.round(score)
    elif kind == "one score":
        score[:] = -3.0
    score = score.astype(dtype)
    label = generator.integers(0, 2, len(score)).astype(np.uint8)
    cluster = generator.integers(0, 50, len(score)).astype(np.int32)
    sorted_score, entry = significance._sort_rows(label, score, cluster)
    assert sorted_score.dtype == dtype
    np.testing.assert_array_equal(sorted_score, np.sort(score))
    order = np.lexsort((2 * cluster + label, score))
    found = np.lexsort((entry, sorted_score))
    np.testing.assert_array_equal(entry[found], (2 * cluster + label)[order])
    _, row = significance._sort_rows(label, score, None)
    np.testing.assert_array_equal(score[row >> 1], sorted_score)
    np.testing.assert_array_equal(label[row >> 1], row & 1)
    assert len(np.unique(row >> 1)) == len(score)


def test_clusters_are_drawn_as_a_multinomial():
    counts = significance.draw_clusters(50, 4000, random_seed=9)
    assert (counts.sum(axis=1) == 50).all()
    # each count is binomial(50, 1/50); a mean of 200 000 of them is known to 0.002
    assert counts.var() == pytest.approx(1.0 - 1 / 50, rel=0.02)
    assert np.abs(counts.mean(axis=0) - 1.0).max() < 5 * math.sqrt(0.98 / 4000)
    together = np.cov(counts.T)[np.triu_indices(50, 1)]
    assert together.mean() == pytest.approx(-1 / 50, rel=0.05)
    assert (np.bincount(counts.ravel(), minlength=3)[:3] / counts.size) == pytest.approx(
        [(49 / 50) ** 50, (49 / 50) ** 49, 49 / 100 * (49 / 50) ** 48], abs=0.004
    )
    assert len(np.unique(counts, axis=0)) == 4000
    np.testing.assert_array_equal(significance.draw_clusters(50, 7, 9, first=40), counts[40:47])
    assert (significance.draw_clusters(50, 4000, random_seed=-1) != counts).any()


def test_sums_match_a_loop_over_resamples():
    sums = np.random.default_rng(3).exponential(size=(37, 3))
    drawn = significance.bootstrap_sums(sums, 500, random_seed=2)
    slow = []
    for counts in significance.draw_clusters(37, 500, 2):
        total = np.zeros(3)
        for cluster, count in enumerate(counts):
            for _ in range(count):
                total += sums[cluster]
        slow.append(total)
    np.testing.assert_allclose(drawn, slow)
    np.testing.assert_allclose(drawn.mean(axis=0), sums.sum(axis=0), rtol=0.03)
    np.testing.assert_allclose(drawn.std(axis=0), math.sqrt(37) * sums.std(axis=0), rtol=0.12)
    np.testing.assert_array_equal(significance.bootstrap_sums(np.asfortranarray(sums), 500, 2), drawn)
    with pytest.raises(ValueError, match="got none"):
        significance.bootstrap_sums(sums[:0], 10, 0)


def test_ranking_and_sums_see_the_same_resamples():
    label, score_a, score_b, user = with_user_effects(60)
    scores = (score_a.astype(np.float32), score_b.astype(np.float32))
    found = significance.bootstrap_average_precision(label, scores, user, 37, 11)
    both = significance.bootstrap_auc(label, scores, user, 37, 11)
    assert found.shape == both.shape == (37, 2)
    for resample, counts in enumerate(significance.draw_clusters(60, 37, 11)):
        copied = np.repeat(np.arange(len(label)), counts[user])
        for k, score in enumerate(scores):
            wanted = average_precision_score(label[copied], score[copied])
            assert found[resample, k] == pytest.approx(wanted)
            assert both[resample, k] == pytest.approx(evaluation.auc(label[copied], score[copied]))
    # a cluster without rows is drawn all the same
    wider = significance.bootstrap_average_precision(label, scores, user, 37, 11, num_clusters=61)
    counts = significance.draw_clusters(61, 37, 11)[5]
    copied = np.repeat(np.arange(len(label)), counts[user])
    assert wider[5, 0] == pytest.approx(average_precision_score(label[copied], scores[0][copied]))
    with pytest.raises(ValueError, match="codes up to 59, got num_clusters=40"):
        significance.bootstrap_average_precision(label, scores, user, 37, 11, num_clusters=40)


def test_intervals_and_p_values_of_resamples():
    resampled = np.append(np.linspace(0.0, 1.0, 101), math.nan)
    assert significance.interval_of(resampled) == pytest.approx((0.025, 0.975))
    assert significance.interval_of(resampled, 0.8) == pytest.approx((0.1, 0.9))
    deviation = float(np.nanstd(resampled, ddof=1))
    assert significance.p_value_of(1.959963984540054 * deviation, resampled) == pytest.approx(0.05)
    constant = np.zeros(5)
    assert (significance.p_value_of(0.0, constant), significance.p_value_of(0.1, constant)) == (1.0, 0.0)
    nothing = np.full(4, math.nan)
    assert math.isnan(significance.p_value_of(0.1, nothing))
    assert math.isnan(significance.p_value_of(math.nan, resampled))
    assert all(math.isnan(end) for end in significance.interval_of(nothing))


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
