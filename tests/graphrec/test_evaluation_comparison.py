import math

import pytest

from graphrec.evaluation.comparison import (
    METRIC_IN_WORDS,
    corrected,
    metric_in_words,
    summary_in_words,
    verdict_in_words,
)
from graphrec.evaluation.figures import Comparison


def compared(p_value=0.01, difference=0.004, **other):
    """One comparison of models A and B, corrected over itself alone."""
    fields = {
        "model": "A",
        "baseline": "B",
        "slice": "all",
        "metric": "auc",
        "method": "DeLong, by user",
        "model_value": 0.7,
        "baseline_value": 0.7 - difference,
        "lower": difference - 0.003,
        "upper": difference + 0.003,
        "p_value_corrected": p_value,
        "num_tests": 1,
        "n": 100,
    }
    return Comparison(p_value=p_value, difference=difference, **(fields | other))


def by_hour(p_values, differences, **other):
    return [
        compared(p_value, difference, slice=f"hour={hour:02}", **other)
        for hour, (p_value, difference) in enumerate(zip(p_values, differences, strict=True))
    ]


def test_holm_over_the_baselines_by_hand():
    rows = [compared(p_value, baseline=name) for name, p_value in [("B", 0.04), ("C", 0.01), ("D", 0.03)]]
    found = corrected(rows)
    assert [one.p_value_corrected for one in found] == pytest.approx([0.06, 0.03, 0.06])
    assert [one.baseline for one in found] == ["B", "C", "D"]
    assert {one.num_tests for one in found} == {3}
    assert "cannot be told apart" in found[0].verdict
    assert "A leads C" in found[1].verdict
    assert "p = 0.030 after Holm's correction over 3 baselines" in found[1].verdict


def test_each_family_is_corrected_by_itself():
    rows = [
        compared(0.01),
        *by_hour([0.01, 0.02], [0.1, 0.1]),
        *by_hour([0.03, 0.04], [0.1, 0.1], baseline="C"),
        compared(0.01, slice="tab=1"),
        compared(0.01, metric="log_loss"),
        compared(0.01, method="DeLong"),
    ]
    found = corrected(rows)
    assert [one.num_tests for one in found] == [1, 4, 4, 4, 4, 1, 1, 1]
    # 4 * 0.01, 3 * 0.02, 2 * 0.03, and 0.04 raised to the p-value before it
    assert [one.p_value_corrected for one in found] == pytest.approx(
        [0.01, 0.04, 0.06, 0.06, 0.06, 0.01, 0.01, 0.01]
    )
    assert "after Holm's correction over 4 tests by hour" in found[1].verdict
    assert "Holm" not in found[0].verdict
    assert corrected([]) == []


def test_a_test_that_could_not_be_made_counts():
    found = corrected(by_hour([0.02, math.nan], [0.1, math.nan]))
    assert found[0].p_value_corrected == pytest.approx(0.04)
    assert math.isnan(found[1].p_value_corrected)
    assert found[1].verdict == "A and B cannot be compared in AUC in hour 01: the test is undefined here."


def test_verdicts_name_the_leader():
    assert verdict_in_words(compared(0.00005)) == (
        "A leads B by 0.0040 AUC (95% interval 0.0010 to 0.0070; DeLong, by user, p < 0.0001)."
    )
    assert verdict_in_words(compared(0.0123, -0.004, slice="hour=08")) == (
        "B leads A by 0.0040 AUC in hour 08 (95% interval 0.0010 to 0.0070; DeLong, by user, p = 0.012)."
    )
    assert verdict_in_words(compared(0.0004, -0.004, slice="day=2022-04-10", metric="log_loss")) == (
        "A leads B by 0.0040 log loss (lower is better) on day 2022-04-10 "
        "(95% interval 0.0010 to 0.0070; DeLong, by user, p = 0.0004)."
    )
    assert verdict_in_words(compared(0.2, 0.001)) == (
        "A and B cannot be told apart in AUC: the difference is +0.0010 "
        "(95% interval -0.0020 to +0.0040; DeLong, by user, p = 0.200)."
    )
    assert "cannot be told apart" in verdict_in_words(compared(0.03), significance_level=0.01)
    # an interval across 0 would contradict the verdict that the normal p-value gives
    assert "interval" not in verdict_in_words(compared(0.04, 0.002))


def test_calibration_is_better_nearer_to_one():
    def verdict(model_value, baseline_value):
        difference = model_value - baseline_value
        return verdict_in_words(
            compared(
                0.001,
                difference,
                metric="calibration_ratio",
                model_value=model_value,
                baseline_value=baseline_value,
            )
        )

    assert verdict(1.02, 1.10).startswith(
        "A leads B in calibration ratio: A's is 1.0200, B's 1.1000, nearer to 1 is better (95% interval -0.08"
    )
    assert verdict(0.9, 0.98).startswith("B leads A in calibration ratio: A's is 0.9000")
    assert "on either side of 1; which is nearer was not tested" in verdict(0.9, 1.2)


def test_metrics_without_direction_only_differ():
    found = verdict_in_words(compared(0.001, -0.004, metric="mean_score"))
    assert found.startswith("A and B differ by -0.0040 in mean score (95% interval -0.0070 to -0.0010;")
    rows = by_hour([0.001, 0.5], [0.01, 0.01], metric="mean_score")
    assert summary_in_words(rows) == "A and B differ significantly in 1 of 2 hours after correction."


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("auc", "AUC"),
        ("gauc[user,period; impressions]", "GAUC by user and period"),
        ("gauc[user; impressions]", "GAUC by user"),
        ("gauc[user; clicks]", "GAUC by user weighted by clicks"),
        ("gauc[request; groups]", "GAUC by request with equal groups"),
        ("ndcg@10[request]", "NDCG@10 by request"),
        ("hit_rate@5[user,period]", "hit rate@5 by user and period"),
        ("mrr[user]", "MRR by user"),
        ("gauc_rows_left_out[user]", "share of rows that GAUC leaves out by user"),
        ("relative_information_gain", "relative information gain"),
    ],
)
def test_metrics_in_words(metric, words):
    assert metric_in_words(metric) == words


def test_unknown_metric_is_told():
    with pytest.raises(ValueError, match="no words for the metric 'recall@5'; known: auc, "):
        metric_in_words("recall@5")
    assert all(metric_in_words(metric) == words for metric, words in METRIC_IN_WORDS.items())


def test_summary_counts_slices():
    rows = by_hour([0.001] * 7 + [0.5] * 17, [0.01] * 20 + [-0.01] * 4)
    assert summary_in_words([compared(), *rows]) == (
        "A leads B in 20 of 24 hours, significantly in 7 after correction; B leads significantly in none."
    )
    losses = by_hour([0.001, 0.5, math.nan], [0.01, -0.01, math.nan], metric="log_loss")
    assert summary_in_words(losses) == (
        "A leads B in 1 of 3 hours (1 cannot be compared), significantly in none after correction; "
        "B leads significantly in 1."
    )
    both = summary_in_words([*rows, *losses])
    assert both.startswith("AUC (DeLong, by user): A leads B in 20")
    assert " log loss (DeLong, by user): A leads B in 1" in both
    assert "of 1 values of tab," in summary_in_words([compared(slice="tab=1")])
    assert summary_in_words([compared()]) == ""


def test_calibration_summary_claims_only_what_was_tested():
    rows = [
        compared(
            0.001, 0.9 - 1.2, slice="hour=00", metric="calibration_ratio", model_value=0.9, baseline_value=1.2
        )
    ]
    assert summary_in_words(rows) == (
        "A leads B in 1 of 1 hours, significantly in none after correction; B leads significantly in none."
    )
