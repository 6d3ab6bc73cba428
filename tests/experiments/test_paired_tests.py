import math
from dataclasses import replace

import numpy as np
import pytest

from experiments.paired_tests import figures_of_seed, pairwise_tests, read_tests, write_tests
from graphrec.evaluation import auc, delong, gauc, group_codes, holm, log_loss
from tests.experiments.fake_results import CHINA, invented_predictions

DELONG, BOOTSTRAP = "DeLong", "bootstrap by user"


@pytest.fixture(scope="module")
def predictions():
    noise = {"good": 0.1, "bad": 2.5, "close": 0.12}
    return {
        model: [
            replace(invented_predictions("LSTTM", seed, 3000, noise=one), model=model)
            for seed in (4, 5)[:seeds]
        ]
        for seeds, (model, one) in zip((2, 2, 1), noise.items(), strict=True)
    }


@pytest.fixture(scope="module")
def tests(predictions):
    found = pairwise_tests(predictions, utc_offset_seconds=CHINA, num_resamples=200)
    assert {t.slice.partition("=")[0] for t in found} == {"all", "hour", "period", "day"}
    return [t for t in found if t.slice == "all"]


def one_test(tests, baseline, metric, method=BOOTSTRAP):
    wanted = ("all", baseline, metric, method)
    (found,) = [t for t in tests if (t.slice, t.baseline, t.metric, t.method) == wanted]
    return found


def test_every_baseline_is_tested_in_every_metric(tests):
    assert {(t.model, t.baseline) for t in tests} == {("good", "bad"), ("good", "close")}
    assert len(tests) == len({(t.baseline, t.metric, t.method) for t in tests})
    assert {t.method for t in tests} == {DELONG, "DeLong, by user", BOOTSTRAP}


def test_figures_are_those_of_the_averaged_predictions(predictions, tests):
    first = predictions["good"][0]
    score = {model: np.mean([one.score for one in seeds], axis=0) for model, seeds in predictions.items()}
    hour = (first.time + CHINA) // 3600
    metrics = {
        "auc": lambda s: auc(first.label, s),
        "log_loss": lambda s: log_loss(first.label, s),
        "gauc[user; impressions]": lambda s: gauc(first.label, s, first.user).value,
        "gauc[user,period; impressions]": lambda s: gauc(first.label, s, group_codes(first.user, hour)).value,
    }
    for test in tests:
        if test.metric not in metrics:
            continue
        metric = metrics[test.metric]
        assert test.model_value == pytest.approx(metric(score["good"]))
        assert test.baseline_value == pytest.approx(metric(score[test.baseline]))
        assert test.difference == pytest.approx(test.model_value - test.baseline_value)
        assert test.lower <= test.difference <= test.upper
    direct = delong(first.label, score["good"], score["bad"])
    assert one_test(tests, "bad", "auc", DELONG).p_value == pytest.approx(direct.p_value)
    assert set(metrics) <= {t.metric for t in tests}


def test_holm_is_over_the_baselines_of_one_metric_and_method(tests):
    for kind in {(t.metric, t.method) for t in tests}:
        pair = [t for t in tests if (t.metric, t.method) == kind]
        assert [t.p_value_corrected for t in pair] == holm([t.p_value for t in pair]).tolist()
        assert {t.num_tests for t in pair} == {2}


def test_verdicts_name_the_leader_whatever_the_sign(predictions, tests):
    clear = one_test(tests, "bad", "auc", DELONG)
    assert clear.verdict.startswith(f"good leads bad by {clear.difference:.4f} AUC (95% interval ")
    assert "after Holm's correction over 2 baselines" in clear.verdict
    turned = pairwise_tests(predictions, candidate="bad", num_resamples=200)
    again = one_test(turned, "good", "auc", DELONG)
    assert again.difference == pytest.approx(-clear.difference)
    assert again.verdict.startswith(f"good leads bad by {clear.difference:.4f} AUC")
    loss = one_test(tests, "bad", "log_loss")
    assert loss.difference < 0
    assert loss.verdict.startswith("good leads bad by")
    assert "lower is better" in loss.verdict


def test_equal_models_cannot_be_told_apart(predictions):
    twin = [replace(one, model="twin") for one in predictions["good"]]
    tests = pairwise_tests({"good": predictions["good"], "twin": twin}, num_resamples=50)
    assert {t.p_value_corrected for t in tests if not math.isnan(t.p_value)} == {1.0}
    whole = [t for t in tests if t.slice == "all"]
    assert all("good and twin cannot be told apart" in t.verdict for t in whole)
    assert not any("Holm" in t.verdict for t in whole)  # one baseline, nothing to correct


def test_figures_of_a_seed_carry_their_model_and_seed(predictions):
    good, bad = predictions["good"][0], predictions["bad"][0]
    found = {(f.model, f.slice, f.metric): f for f in figures_of_seed([good, bad], utc_offset_seconds=CHINA)}
    assert found["bad", "all", "auc"].value == pytest.approx(auc(bad.label, bad.score))
    assert {figure.seed for figure in found.values()} == {good.seed}
    chosen = (good.time + CHINA) // 3600 % 24 == 14
    expected = gauc(good.label[chosen], good.score[chosen], good.user[chosen]).value
    assert found["good", "hour=14", "gauc[user; impressions]"].value == pytest.approx(expected)


def test_other_rows_and_missing_models_are_told(predictions):
    good, bad = predictions["good"], predictions["bad"]
    shuffled = [replace(bad[0], item=bad[0].item[::-1])]
    with pytest.raises(ValueError, match="item differs"):
        pairwise_tests({"good": good, "bad": shuffled})
    for wrong in ({"good": good}, {}, {"good": good, "bad": []}):
        with pytest.raises(ValueError, match="one baseline or more"):
            pairwise_tests(wrong)
    with pytest.raises(ValueError, match="'absent'"):
        pairwise_tests(predictions, candidate="absent")


def test_tests_return_as_written(tmp_path, tests):
    undefined = tests[0]._replace(p_value=math.nan)
    write_tests(tmp_path / "main.tests.jsonl", [tests[1], tests[2]])
    write_tests(tmp_path / "main.tests.jsonl", [*tests[1:3], undefined])
    found = read_tests(tmp_path / "main.tests.jsonl")
    assert found[:2] == tests[1:3]
    assert math.isnan(found[2].p_value)
    assert found[2]._replace(p_value=0.0) == undefined._replace(p_value=0.0)


def test_groups_of_one_class_leave_the_test_undefined_in_words():
    rows = invented_predictions("LSTTM", 0, 40)
    own_user = replace(rows, user=np.arange(40))
    other = replace(own_user, model="other", score=own_user.score[::-1].copy())
    tests = pairwise_tests({"LSTTM": [own_user], "other": [other]}, num_resamples=20)
    found = one_test(tests, "other", "gauc[user; impressions]")
    assert math.isnan(found.p_value)
    assert "cannot be compared in GAUC by user" in found.verdict
