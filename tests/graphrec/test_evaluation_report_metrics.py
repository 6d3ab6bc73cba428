import math

import numpy as np
import pytest

from graphrec import evaluation
from tests.reference import metrics as reference

CHINA = 8 * 3600


def simulated(num_rows=900):
    generator = np.random.default_rng(5)
    user = generator.integers(0, 12, num_rows)
    # 2022-05-03 16:00 UTC is 2022-05-04 00:00 in China; two days
    time = 1651593600 + generator.integers(0, 2 * 86400, num_rows)
    score = np.round(generator.random(num_rows), 1)
    label = (generator.random(num_rows) < score).astype(np.int64)
    return label, score, user, time


def table(rows):
    assert len({(row.slice, row.metric) for row in rows}) == len(rows)
    return {(row.slice, row.metric): (row.value, row.n) for row in rows}


def test_slices_and_metrics_match_rows_chosen_by_hand():
    label, score, user, time = simulated()
    found = table(evaluation.evaluate_predictions(label, score, user, time, utc_offset_seconds=CHINA))
    local = [np.datetime64(int(t) + CHINA, "s") for t in time]
    hour = np.array([int(str(t)[11:13]) for t in local])
    day = np.array([str(t)[:10] for t in local])
    expected_slices = {"all": hour >= 0, "period=0-8": hour < 8, "period=8-16": (hour >= 8) & (hour < 16)}
    expected_slices["period=16-24"] = hour >= 16
    expected_slices |= {f"hour={h:02d}": hour == h for h in range(24)}
    expected_slices |= {"day=2022-05-04": day == "2022-05-04", "day=2022-05-05": day == "2022-05-05"}
    named = {name for name, _ in found if not name.startswith("reliability_bin")}
    assert named == set(expected_slices)
    user_period = [(u, t.astype("datetime64[h]")) for u, t in zip(user, local, strict=True)]
    for name, chosen in expected_slices.items():
        rows = np.flatnonzero(chosen)
        y, s = label[rows], score[rows]
        assert found[name, "auc"] == (pytest.approx(reference.auc(y, s), nan_ok=True), len(rows))
        by_user = reference.gauc(y, s, user[rows], "impressions")
        assert found[name, "gauc[user; impressions]"][0] == pytest.approx(by_user[0], nan_ok=True)
        assert found[name, "gauc_rows_left_out[user]"][0] == pytest.approx(by_user[1] / len(rows))
        by_period = reference.gauc(y, s, [user_period[r] for r in rows], "impressions")
        assert found[name, "gauc[user,period; impressions]"][0] == pytest.approx(by_period[0], nan_ok=True)
        assert found[name, "gauc_rows_left_out[user,period]"][0] == pytest.approx(by_period[1] / len(rows))
        ece = reference.expected_calibration_error(y, s, 20, "quantile")
        assert found[name, "ece"][0] == pytest.approx(ece, abs=1e-12)
        assert found[name, "click_rate"][0] == pytest.approx(y.mean())
        assert found[name, "log_loss"][0] == pytest.approx(evaluation.log_loss(y, s))


def test_mean_hourly_auc_is_the_mean_over_hours_of_single_days():
    label, score, user, time = simulated()
    found = table(evaluation.evaluate_predictions(label, score, user, time, utc_offset_seconds=CHINA))
    hour_of_log = (time + CHINA) // 3600
    for name, start, end in [("period=0-8", 0, 8), ("period=16-24", 16, 24), ("all", 0, 24)]:
        values = [
            reference.auc(label[hour_of_log == h], score[hour_of_log == h])
            for h in np.unique(hour_of_log)
            if start <= h % 24 < end
        ]
        defined = [value for value in values if not math.isnan(value)]
        assert found[name, "mean_hourly_auc"] == (pytest.approx(np.mean(defined)), len(defined))


def test_period_length_changes_only_the_grouping_by_period():
    label, score, user, time = simulated()
    hourly = table(evaluation.evaluate_predictions(label, score, user, time))
    daily = table(evaluation.evaluate_predictions(label, score, user, time, period_seconds=10**9))
    changed = {
        metric for name, metric in hourly if name == "all" and hourly[name, metric] != daily[name, metric]
    }
    assert changed == {"gauc[user,period; impressions]", "gauc_rows_left_out[user,period]"}
    assert daily["all", "gauc[user,period; impressions]"] == daily["all", "gauc[user; impressions]"]


def test_reliability_rows_cover_every_row():
    label, score, user, time = simulated()
    rows = evaluation.evaluate_predictions(label, score, user, time, num_bins=7)
    bins = [row for row in rows if row.slice.startswith("reliability_bin")]
    assert sum(row.n for row in bins if row.metric == "mean_score") == len(label)
    clicks = sum(row.n * row.value for row in bins if row.metric == "click_rate")
    assert clicks == pytest.approx(label.sum())
    assert len({row.slice for row in bins}) <= 7


def test_empty_periods_do_not_appear_and_one_class_is_nan():
    rows = table(evaluation.evaluate_predictions([1, 1], [0.4, 0.6], ["a", "b"], [3600, 3700]))
    assert {name for name, _ in rows if not name.startswith("rel")} == {
        "all",
        "hour=01",
        "period=0-8",
        "day=1970-01-01",
    }
    assert math.isnan(rows["all", "auc"][0])
    assert rows["all", "mean_hourly_auc"][1] == 0
    assert rows["all", "gauc_rows_left_out[user]"][0] == 1.0


def test_wrong_arguments_are_told():
    with pytest.raises(ValueError, match="period of the day"):
        evaluation.evaluate_predictions([0, 1], [0.1, 0.2], [1, 1], [0, 1], period_of_day=[(8, 25)])
    with pytest.raises(ValueError, match="period_seconds"):
        evaluation.evaluate_predictions([0, 1], [0.1, 0.2], [1, 1], [0, 1], period_seconds=0)
    with pytest.raises(ValueError, match="user must have the shape"):
        evaluation.evaluate_predictions([0, 1], [0.1, 0.2], [1], [0, 1])
