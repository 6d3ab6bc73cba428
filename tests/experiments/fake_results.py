"""Results of invented models on invented rows, for the report's tests."""

import math
from pathlib import Path

import numpy as np

from experiments.paired_tests import figures_of_seed, pairwise_tests, write_tests
from experiments.results_table import (
    ResultRow,
    RunPredictions,
    RunRecord,
    append_rows,
    read_all_predictions,
    rows_of_figures,
    write_predictions,
    write_run_record,
)

CHINA = 8 * 3600
NOISE = {"LSTTM": 0.75, "DeepFM": 1.0, "DeepFM + counts": 0.8, "Boosted trees": 0.77}


def invented_predictions(model, seed, num_rows=4000, num_days=2, noise=None):
    generator = np.random.default_rng(11)
    user = generator.integers(0, num_rows // 8, num_rows)
    hour = np.clip(generator.normal(14, 5, num_rows), 0, 23).astype(np.int64)
    day = generator.integers(0, num_days, num_rows)
    # 2022-05-04 00:00 in China
    time = np.sort(1651593600 + day * 86400 + hour * 3600 + generator.integers(0, 3600, num_rows))
    logit = generator.normal(size=num_rows // 8)[user] + 0.8 * generator.normal(size=num_rows) - 0.7
    label = (generator.random(num_rows) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    item = generator.integers(0, 200, num_rows)
    # the models share most of their error, as real ones do
    shared = generator.normal(size=num_rows)
    own = np.random.default_rng([len(model), ord(model[0]), seed]).normal(size=num_rows)
    noise = NOISE[model] if noise is None else noise
    score = 1 / (1 + np.exp(-(0.8 * logit + 0.5 * shared + noise * 0.5 * own)))
    return RunPredictions("demo", model, "KuaiRand-Pure", seed, label, score, user, item, time)


def write_invented_table(results_dir: Path, *, table="main", seeds=(0, 1, 2), num_rows=4000, num_days=2):
    for model in NOISE:
        for seed in seeds:
            one = invented_predictions(model, seed, num_rows, num_days)
            write_predictions(results_dir / "predictions", one)
            figures = figures_of_seed([one], utc_offset_seconds=CHINA)
            append_rows(results_dir / f"{table}.jsonl", rows_of_figures("demo", one.data, figures))
            if model != "Boosted trees":
                append_rows(
                    results_dir / f"{table}.curves.jsonl", list(invented_curve(model, one.data, seed))
                )
    predictions = read_all_predictions(results_dir / "predictions", "demo")
    tests = pairwise_tests(predictions, candidate="LSTTM", utc_offset_seconds=CHINA, num_resamples=300)
    write_tests(results_dir / f"{table}.tests.jsonl", tests)
    record = RunRecord(
        run="demo",
        data="KuaiRand-Pure",
        data_fingerprint="sha256:0123456789abcdef",
        days=("2022-05-04", "2022-05-05"),
        configuration={"model": {"embedding_dim": 16, "num_heads": 2}, "epochs": 6, "device": "cpu"},
        versions={"graphrec": "0.1.0", "torch": "2.13.0"},
    )
    write_run_record(results_dir / f"{table}.runs.jsonl", record)
    return predictions, tests


def invented_curve(model, data, seed):
    generator = np.random.default_rng([seed, len(model)])
    for epoch in range(1, 7):
        loss = 0.55 + 0.15 * math.exp(-epoch / 2) + 0.004 * generator.normal()
        auc = 0.7 - 0.1 * math.exp(-epoch / 2) + 0.004 * generator.normal()
        yield ResultRow("demo", model, data, seed, f"epoch={epoch}", "train_loss", loss, 5000)
        yield ResultRow("demo", model, data, seed, f"epoch={epoch}", "validation_auc", auc, 900)
