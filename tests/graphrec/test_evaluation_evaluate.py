import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphrec import evaluation
from graphrec.evaluation import Predictions, ReadOptions, Slicing, evaluate
from tests.reference import metrics as reference

CHINA = 8 * 3600
GROUPED = "gauc[user,period; impressions]"


def simulated(num_rows=900, seed=5):
    generator = np.random.default_rng(seed)
    user = generator.integers(0, 12, num_rows)
    # 2022-05-03 16:00 UTC is 2022-05-04 00:00 in China; two days
    time = 1651593600 + generator.integers(0, 2 * 86400, num_rows)
    score = np.round(generator.random(num_rows), 1)
    label = (generator.random(num_rows) < score).astype(np.int64)
    return {"label": label, "score": score, "user": user, "time": time}


def china(**options):
    return ReadOptions(time_unit="s", time_zone="Asia/Shanghai", **options)


def by_name(found, model=None):
    figures = [one for one in found.figures if model is None or one.model == model]
    assert len({(one.slice, one.metric) for one in figures}) == len(figures)
    return {(one.slice, one.metric): one for one in figures}


def predictions(rows, hours_ahead=0, **columns):
    hour = ((rows["time"] + hours_ahead * 3600) // 3600).astype(np.int32)
    return Predictions(
        label=rows["label"].astype(np.uint8),
        score={"score": rows["score"]},
        user=rows["user"].astype(np.int32),
        hour=hour,
        period=hour,
        **columns,
    )


def test_slices_and_metrics_match_rows_chosen_by_hand():
    rows = simulated()
    label, score, user = rows["label"], rows["score"], rows["user"]
    found = by_name(evaluate(rows, columns=china(), num_resamples=0))
    local = [np.datetime64(int(t) + CHINA, "s") for t in rows["time"]]
    hour = np.array([int(str(t)[11:13]) for t in local])
    day = np.array([str(t)[:10] for t in local])
    expected = {"all": hour >= 0, "period=0-8": hour < 8, "period=8-16": (hour >= 8) & (hour < 16)}
    expected["period=16-24"] = hour >= 16
    expected |= {f"hour={h:02d}": hour == h for h in range(24)}
    expected |= {"day=2022-05-04": day == "2022-05-04", "day=2022-05-05": day == "2022-05-05"}
    assert {name for name, _ in found if not name.startswith("reliability_bin")} == set(expected)
    user_period = [(u, t.astype("datetime64[h]")) for u, t in zip(user, local, strict=True)]
    for name, chosen in expected.items():
        at = np.flatnonzero(chosen)
        y, s = label[at], score[at]

        def same(metric, value, name=name):
            assert found[name, metric].value == pytest.approx(value, nan_ok=True, abs=1e-12), metric

        assert found[name, "auc"].n == len(at)
        same("auc", reference.auc(y, s))
        for weight in ("impressions", "clicks", "groups"):
            same(f"gauc[user; {weight}]", reference.gauc(y, s, user[at], weight)[0])
        same("gauc_rows_left_out[user]", reference.gauc(y, s, user[at], "groups")[1] / len(at))
        by_period = reference.gauc(y, s, [user_period[r] for r in at], "impressions")
        same(GROUPED, by_period[0])
        same("gauc_rows_left_out[user,period]", by_period[1] / len(at))
        same("ece", reference.expected_calibration_error(y, s, 20, "quantile"))
        same("click_rate", y.mean())
        same("mean_score", s.mean())
        same("log_loss", evaluation.log_loss(y, s))
        same("normalized_entropy", evaluation.normalized_entropy(y, s))
        same("relative_information_gain", 1 - evaluation.normalized_entropy(y, s))
        same("brier_score", evaluation.brier_score(y, s))
        same("calibration_ratio", evaluation.calibration_ratio(y, s))
        same("average_precision", evaluation.average_precision(y, s))
        same("ndcg@10[user]", evaluation.ndcg(y, s, user[at], 10).value)
        same("mrr[user]", evaluation.mean_reciprocal_rank(y, s, user[at]).value)
        same("hit_rate@10[user]", evaluation.hit_rate(y, s, user[at], 10).value)


def test_mean_hourly_auc_is_the_mean_over_hours_of_single_days():
    rows = simulated()
    label, score = rows["label"], rows["score"]
    found = by_name(evaluate(rows, columns=china(), num_resamples=0))
    hour_of_log = (rows["time"] + CHINA) // 3600
    for name, start, end in [("period=0-8", 0, 8), ("period=16-24", 16, 24), ("all", 0, 24)]:
        values = [
            reference.auc(label[hour_of_log == h], score[hour_of_log == h])
            for h in np.unique(hour_of_log)
            if start <= h % 24 < end
        ]
        defined = [value for value in values if not math.isnan(value)]
        figure = found[name, "mean_hourly_auc"]
        assert (figure.value, figure.n) == (pytest.approx(np.mean(defined)), len(defined))


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_neither_the_order_of_rows_nor_other_slices_change_a_figure(seed):
    rows = simulated(200, seed)
    order = np.random.default_rng(seed).permutation(200)
    tab = rows["user"] % 3
    whole = predictions(rows, slicings=(Slicing("tab", tab.astype(np.int16), ("a", "b", "c")),))
    shuffled = predictions(
        {name: column[order] for name, column in rows.items()},
        slicings=(Slicing("tab", tab[order].astype(np.int16), ("a", "b", "c")),),
    )
    first, second = (by_name(evaluate(one, num_resamples=20)) for one in (whole, shuffled))
    assert first.keys() == second.keys()
    for key, figure in first.items():
        for name in ("value", "lower", "upper", "n"):
            assert getattr(second[key], name) == pytest.approx(getattr(figure, name), nan_ok=True, abs=1e-9)
    for code, name in enumerate("abc"):
        alone = by_name(evaluate(predictions({n: c[tab == code] for n, c in rows.items()}), num_resamples=20))
        for (slice_name, metric), figure in alone.items():
            if slice_name == "all":
                in_slice = first[f"tab={name}", metric]
                assert in_slice.value == pytest.approx(figure.value, nan_ok=True, abs=1e-12)
                if not math.isnan(in_slice.lower):
                    assert in_slice.lower == pytest.approx(figure.lower, nan_ok=True, abs=1e-9)
    of_slice = {metric for (name, metric), one in first.items() if name == "tab=a" and one.lower < one.upper}
    assert of_slice <= {"auc", "click_rate", "num_clicks", "gauc[user; impressions]", GROUPED} | {
        *("log_loss", "normalized_entropy", "relative_information_gain", "brier_score"),
        *("calibration_ratio", "mean_score"),
    }
    assert {"auc", "log_loss", "gauc[user; impressions]"} <= of_slice


def test_period_length_changes_only_the_grouping_by_period():
    rows = simulated()
    hourly = by_name(evaluate(rows, columns=china(), num_resamples=0))
    once = by_name(evaluate(rows, columns=china(period_seconds=10**9), num_resamples=0))
    changed = {
        metric for name, metric in hourly if name == "all" and hourly[name, metric] != once[name, metric]
    }
    assert changed
    assert all("[user,period" in metric for metric in changed)
    assert once["all", GROUPED].value == once["all", "gauc[user; impressions]"].value


def test_reliability_rows_cover_every_row():
    rows = simulated()
    found = evaluate(rows, columns=china(), num_bins=7, num_resamples=0)
    bins = [one for one in found.figures if one.slice.startswith("reliability_bin")]
    assert sum(one.n for one in bins if one.metric == "mean_score") == len(rows["label"])
    clicks = sum(one.n * one.value for one in bins if one.metric == "click_rate")
    assert clicks == pytest.approx(rows["label"].sum())
    assert len({one.slice for one in bins}) == len(found.curves["score"].num_rows) <= 7


def test_empty_slices_do_not_appear_and_one_class_is_nan():
    table = {"label": [1, 1], "score": [0.4, 0.6], "user": ["a", "b"], "time": [1651593600, 1651593700]}
    found = evaluate(table, columns=ReadOptions(time_unit="s"), num_resamples=10)
    rows = by_name(found)
    named = {name for name, _ in rows if not name.startswith("rel")}
    assert named == {"all", "hour=16", "period=16-24", "day=2022-05-03"}
    assert math.isnan(rows["all", "auc"].value)
    assert math.isnan(rows["all", "auc"].lower)
    assert rows["all", "mean_hourly_auc"].n == 0
    assert rows["all", "gauc_rows_left_out[user]"].value == 1.0
    assert any("all 2 labels are 1" in note for note in found.notes)


def test_intervals_hold_their_figure_and_are_those_of_the_array_functions():
    rows = simulated(600)
    found = by_name(evaluate(predictions(rows), num_resamples=300, random_seed=3))
    for metric in ("auc", "average_precision", "log_loss", "gauc[user; impressions]", "ece"):
        figure = found["all", metric]
        assert figure.lower < figure.value < figure.upper
    direct = evaluation.clustered_bootstrap(
        rows["label"], rows["score"], rows["user"], metric="log_loss", num_resamples=300, random_seed=3
    )
    figure = found["all", "log_loss"]
    assert (figure.lower, figure.upper) == pytest.approx(direct.interval)
    direct = evaluation.clustered_bootstrap(
        rows["label"],
        rows["score"],
        rows["user"],
        metric="average_precision",
        num_resamples=300,
        random_seed=3,
    )
    figure = found["all", "average_precision"]
    assert (figure.lower, figure.upper) == pytest.approx(direct.interval)


def test_the_first_model_is_tested_against_each_other_one():
    rows = simulated(600)
    generator = np.random.default_rng(1)
    rows["blurred"] = np.clip(rows["score"] + generator.normal(0, 0.4, 600), 0, 1)
    rows["twin"] = rows["score"].copy()
    columns = china(score=("score", "blurred", "twin"), by=("hour",))
    found = evaluate(rows, columns=columns, num_resamples=200)
    assert found.models == ("score", "blurred", "twin")
    whole = {(c.metric, c.method, c.baseline): c for c in found.comparisons if c.slice == "all"}
    direct = evaluation.delong(rows["label"], rows["score"], rows["blurred"], rows["user"])
    one = whole["auc", "DeLong, by user", "blurred"]
    assert (one.difference, one.p_value) == pytest.approx((direct.difference, direct.p_value))
    plain = evaluation.delong(rows["label"], rows["score"], rows["blurred"])
    assert whole["auc", "DeLong", "blurred"].p_value == pytest.approx(plain.p_value)
    assert whole["log_loss", "bootstrap by user", "blurred"].p_value_corrected < 0.001
    assert whole["log_loss", "bootstrap by user", "twin"].p_value_corrected == 1.0
    assert {c.num_tests for c in whole.values()} == {2}
    hourly = [c for c in found.comparisons if c.slice.startswith("hour=") and c.metric == "log_loss"]
    assert len(hourly) == 48
    assert {c.num_tests for c in hourly} == {48}
    assert all(c.p_value_corrected >= c.p_value for c in hourly)
    assert all(c.verdict for c in found.comparisons)
    assert {one.slice.partition("=")[0] for one in found.figures} == {"all", "hour", "reliability_bin"}


def test_requests_are_groups_of_their_own_and_stand_in_for_users():
    rows = simulated(400)
    rows["request"] = rows["user"] * 100 + np.arange(400) // 40
    with_users = by_name(evaluate(rows, columns=china(request="request"), num_resamples=0))
    expected = evaluation.ndcg(rows["label"], rows["score"], rows["request"], 10).value
    assert with_users["all", "ndcg@10[request]"].value == pytest.approx(expected)
    del rows["user"]
    found = evaluate(rows, columns=china(request="request"), num_resamples=20)
    alone = by_name(found)
    assert alone["all", "ndcg@10[request]"].value == pytest.approx(expected)
    assert ("all", "gauc[user; impressions]") not in alone
    assert any("draw whole requests" in note for note in found.notes)


def test_without_users_rows_are_independent():
    rows = simulated(300)
    del rows["user"], rows["time"]
    rows["other"] = 1 - rows["score"]
    found = evaluate(rows, columns=ReadOptions(score=("score", "other")), num_resamples=50)
    assert any("rows are taken as independent" in note for note in found.notes)
    assert {c.method for c in found.comparisons} == {"DeLong", "bootstrap by row"}
    assert {one.slice.partition("=")[0] for one in found.figures} == {"all", "reliability_bin"}
    assert found.value("auc") == pytest.approx(reference.auc(rows["label"], rows["score"]))
    assert found.value("auc", model="other") == pytest.approx(1 - found.value("auc"))
    with pytest.raises(KeyError, match="no figure of model 'score'"):
        found.value("gauc[user; impressions]")


def test_few_users_and_requests_of_several_users_are_noted():
    table = {
        "label": [0, 1, 1, 0, 0, 1],
        "score": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        "user": list("aabbcc"),
        "request": [1, 2, 1, 2, 1, 2],
    }
    found = evaluate(table, num_resamples=10)
    assert any(note.startswith("2 requests hold rows of several users") for note in found.notes)
    assert any(note.startswith("3 users: with fewer than 30") for note in found.notes)
    assert math.isnan(found.value("gauc[request; impressions]"))
    table["request"] = [1, 1, 2, 2, 3, 3]
    found = evaluate(table, num_resamples=10)
    assert not any("several users" in note for note in found.notes)
    assert found.value("gauc[request; impressions]") == pytest.approx(2 / 3)
    alone = evaluate({**table, "user": ["a"] * 6}, num_resamples=10)
    assert any("one user has no intervals" in note for note in alone.notes)


def test_scores_that_only_rank_have_no_figures_of_probabilities():
    rows = simulated(300)
    rows["score"] = rows["score"] * 20 - 10
    found = evaluate(rows, columns=china(score_kind="ranking"), num_resamples=20)
    metrics = {one.metric for one in found.figures}
    assert "auc" in metrics
    assert "click_rate" in metrics
    assert not metrics & {"log_loss", "ece", "brier_score", "calibration_ratio", "mean_score"}
    assert not found.curves
    logits = by_name(evaluate(rows, columns=china(score_kind="logit"), num_resamples=20))
    assert logits["all", "log_loss"].value == pytest.approx(
        evaluation.log_loss(rows["label"], 1 / (1 + np.exp(-rows["score"])))
    )
    assert logits["all", "auc"].value == found.value("auc")


def test_wrong_arguments_are_told():
    rows = simulated(50)
    for wrong, message in [
        ({"k": 0}, "k must be at least 1"),
        ({"num_resamples": 1}, "num_resamples must be 0"),
        ({"num_bins": 0}, "num_bins"),
    ]:
        with pytest.raises(ValueError, match=message):
            evaluate(rows, **wrong)
    empty = Predictions(np.zeros(0, np.uint8), {"score": np.zeros(0)})
    with pytest.raises(ValueError, match="no row"):
        evaluate(empty)
    with pytest.raises(ValueError, match="against and graph"):
        evaluate(predictions(rows), against=[rows])


def test_progress_tells_the_slices_that_are_done():
    told = []
    evaluate(simulated(100), columns=china(), num_resamples=0, progress=lambda *one: told.append(one))
    stages = [stage for stage, _, _ in told]
    assert stages.index("reading") < stages.index("figures")
    assert told[-1][1] == told[-1][2]


def test_one_further_source_needs_no_list():
    rows = simulated(60)
    other = pl.DataFrame({"label": rows["label"], "other": 1 - rows["score"]})
    columns = china(score=("score", "other"), user="")
    found = evaluate(rows, against=other, columns=columns, num_resamples=0)
    assert found.models == ("score", "other")
    assert found.value("auc", model="other") == pytest.approx(1 - found.value("auc"))
