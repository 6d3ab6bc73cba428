"""Sums over groups, and rankings: against the mean over all orders of tied rows, and scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from graphrec.evaluation import compiled, ctr, ranking
from tests.reference import metrics as reference

# at most six rows in a group, since the reference goes through all their orders
SCORES = [-1.5, 0.1, 0.25, 0.7]
one_cluster = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from(SCORES), st.integers(-1, 1)), min_size=0, max_size=6
)
clusters = st.lists(one_cluster, min_size=1, max_size=5)


def stacked(drawn, dtype):
    rows = [row for cluster in drawn for row in cluster]
    label, score, part = zip(*rows, strict=True) if rows else ((), (), ())
    ptr = np.cumsum([0, *map(len, drawn)])
    return np.array(label, np.uint8), np.array(score, dtype), ptr, np.array(part, np.int32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(drawn=clusters, with_part=st.booleans(), k=st.integers(1, 4), scale=st.sampled_from([1, 2**29, 2**40]))
def test_group_sums_match_reference(drawn, dtype, with_part, k, scale):
    label, score, ptr, part = stacked(drawn, dtype)
    # parts far apart, and beyond the 32 bits that the sort has for them
    given_part = part.astype(np.int64) * scale if scale > 1 else part
    sums = ctr.group_sums(label, score, ptr, given_part if with_part else None, k)
    assert sums.shape == (len(drawn), len(ctr.GROUP_SUM_COLUMNS))
    for row, first, stop in zip(sums, ptr[:-1], ptr[1:], strict=True):
        inside = part[first:stop].tolist() if with_part else [0] * (stop - first)
        expected = reference.group_sums(label[first:stop], score[first:stop], inside, k)
        assert dict(zip(ctr.GROUP_SUM_COLUMNS, row.tolist(), strict=True)) == pytest.approx(expected)


def long_rows(num_rows, num_values, dtype=np.float64):
    generator = np.random.default_rng(num_values)
    score = (generator.integers(0, num_values, num_rows) / num_values).astype(dtype)
    label = (generator.random(num_rows) < 0.5 * score).astype(np.uint8)
    return label, score, generator.integers(0, 40, num_rows).astype(np.int32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_values", [1, 3, 500, 10**6])
def test_long_clusters_match_sklearn(num_values, dtype):
    label, score, part = long_rows(20_000, num_values, dtype)
    label[:2] = 0, 1
    ptr = np.array([0, 20_000])
    column = dict(zip(ctr.GROUP_SUM_COLUMNS, ctr.group_sums(label, score, ptr)[0], strict=True))
    assert column["auc_groups"] == pytest.approx(sklearn_metrics.roc_auc_score(label, score), abs=1e-14)
    assert column["ndcg"] == pytest.approx(sklearn_metrics.ndcg_score([label], [score], k=10))
    by_part = dict(zip(ctr.GROUP_SUM_COLUMNS, ctr.group_sums(label, score, ptr, part, 5)[0], strict=True))
    inside = [part == one for one in range(40)]
    both = [chosen for chosen in inside if 0 < label[chosen].sum() < chosen.sum()]
    areas = [sklearn_metrics.roc_auc_score(label[chosen], score[chosen]) for chosen in both]
    assert by_part["auc_groups"] == pytest.approx(sum(areas))
    clicks = [int(label[chosen].sum()) for chosen in both]
    assert by_part["auc_clicks"] == pytest.approx(np.dot(areas, clicks))
    assert by_part["weight_clicks"] == sum(clicks)
    gains = [sklearn_metrics.ndcg_score([label[c]], [score[c]], k=5) for c in inside if label[c].any()]
    assert by_part["ndcg"] == pytest.approx(sum(gains))


def test_tied_rows_follow_the_hypergeometric_distribution():
    # 3 clicks among 1000 tied rows below 4 others
    label, score = np.zeros(1004, np.uint8), np.zeros(1004)
    label[100:103], score[:4] = 1, 1.0
    sums = ctr.group_sums(label, score, np.array([0, 1004]), k=10)[0]
    column = dict(zip(ctr.GROUP_SUM_COLUMNS, sums, strict=True))
    ways = [math.comb(1000 - place, 2) for place in range(1, 999)]
    mean = sum(w / (4 + place) for place, w in enumerate(ways, 1)) / math.comb(1000, 3)
    assert column["reciprocal_rank"] == pytest.approx(mean, rel=1e-12)
    assert column["hit"] == pytest.approx(1 - math.comb(997, 6) / math.comb(1000, 6), rel=1e-12)
    assert column["auc_groups"] == (997 * 3 / 2) / (1001 * 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threads_change_no_bit(dtype, monkeypatch):
    label, score, part = long_rows(200_000, 50_000, dtype)
    sizes = np.random.default_rng(3).zipf(1.3, 5000)
    ptr = np.minimum(np.concatenate([[0], np.cumsum(sizes)]), 200_000)
    ptr[-1] = 200_000
    found = []
    for threads in (1, 2):
        monkeypatch.setattr(compiled.threads, "num_threads", lambda threads=threads: threads)
        found.append(
            [
                ctr.group_sums(label, score, ptr),
                ctr.group_sums(label, score, ptr, part),
                ctr.probability_sums(label, score, ptr),
                ctr.bin_sums(label, score, ptr, np.linspace(0, 1, 8)),
                *ctr.ranked_figures(label, score)[:2],
                *ctr.ranked_figures(label, score).curve,
            ]
        )
    assert all((np.asarray(one) == np.asarray(two)).all() for one, two in zip(*found, strict=True))


def test_read_only_and_strided_columns_give_the_same():
    label, score, part = long_rows(5000, 90)
    ptr = np.array([0, 1200, 1200, 5000])
    strided = [np.repeat(column, 2)[::2] for column in (label, score, part)]
    for column in (label, score, part):
        column.flags.writeable = False
    expected = ctr.group_sums(label, score, ptr, part)
    assert (ctr.group_sums(*strided[:2], ptr, strided[2]) == expected).all()


@pytest.mark.parametrize(
    ("ptr", "words"), [([0, 2], "ascend from 0 to"), ([0, 2, 1, 3], "ascend"), ([1, 3], "ascend")]
)
def test_wrong_clusters_are_told(ptr, words):
    label, score = np.array([0, 1, 1], np.uint8), np.array([0.1, 0.2, 0.3])
    for function in (ctr.group_sums, ctr.probability_sums):
        with pytest.raises(ValueError, match=words):
            function(label, score, np.array(ptr))


def test_wrong_sums_are_told():
    label, score, ptr = np.array([0, 2, 1], np.uint8), np.array([0.1, 0.2, 0.3]), np.array([0, 3])
    with pytest.raises(ValueError, match="labels must be 0 or 1, got 2"):
        ctr.group_sums(label, score, ptr)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        ctr.group_sums(label % 2, score, ptr, k=0)


FIGURES = {
    ranking.ndcg: lambda labels, scores, k: reference.mean_over_orders(
        labels, scores, lambda ranked: reference.ndcg(ranked, k)
    ),
    ranking.hit_rate: lambda labels, scores, k: reference.mean_over_orders(
        labels, scores, lambda ranked: reference.hit(ranked, k)
    ),
    lambda label, score, group, k: ranking.mean_reciprocal_rank(
        label, score, group
    ): lambda labels, scores, k: reference.mean_over_orders(labels, scores, reference.reciprocal_rank),
}


@pytest.mark.parametrize(("figure", "expected"), FIGURES.items(), ids=["ndcg", "hit_rate", "mrr"])
@given(
    drawn=clusters.filter(any), k=st.integers(1, 4), random=st.randoms(), dtype=st.sampled_from([int, str])
)
def test_figures_match_reference_in_any_row_order(figure, expected, drawn, k, random, dtype):
    rows = [(y, s, cluster) for cluster, found in enumerate(drawn) for y, s, _ in found]
    random.shuffle(rows)
    label, score, group = map(list, zip(*rows, strict=True))
    result = figure(label, score, np.array(group).astype(dtype), k)
    with_rows = [cluster for cluster in drawn if cluster]
    ranked = [cluster for cluster in with_rows if any(y for y, *_ in cluster)]
    values = [expected([y for y, *_ in cluster], [s for _, s, _ in cluster], k) for cluster in ranked]
    assert result.value == pytest.approx(np.mean(values) if values else math.nan, nan_ok=True)
    assert result.num_groups == len(with_rows)
    assert result.num_groups_left_out == len(with_rows) - len(ranked)
    assert result.num_rows == len(rows)
    assert result.num_rows_left_out == len(rows) - sum(map(len, ranked))
    assert result.share_of_rows_left_out == result.num_rows_left_out / len(rows)
    assert result.share_of_groups_left_out == result.num_groups_left_out / len(with_rows)


def test_constant_scores_get_what_chance_gives():
    label, score, user = [1, 0, 0, 0], [0.3] * 4, [7] * 4
    assert ranking.hit_rate(label, score, user, 1).value == 0.25
    assert ranking.mean_reciprocal_rank(label, score, user).value == pytest.approx(25 / 48)


def test_wrong_input_is_told():
    with pytest.raises(ValueError, match="group must have the shape"):
        ranking.ndcg([0, 1], [0.1, 0.2], [0])
    with pytest.raises(ValueError, match="k must be at least 1"):
        ranking.hit_rate([0, 1], [0.1, 0.2], [0, 0], 0)
