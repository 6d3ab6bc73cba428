"""An invented evaluation, whose figures are known, for the tests of the report and the page."""

import math

import numpy as np

from graphrec.evaluation import Comparison, Evaluation, Figure, ReliabilityCurve, corrected

TABS = 12


def invented_evaluation(models=("new", "old", "trees")):
    """Three models, 24 hours and a column of 12 values; model i has an AUC of 0.7 - i / 100 everywhere."""
    sizes = {
        "all": 24_000,
        **{f"hour={h:02d}": 1000 for h in range(24)},
        **{f"tab={t}": 2000 - t for t in range(TABS)},
    }
    figures, comparisons = [], []
    for position, model in enumerate(models):
        for name, n in sizes.items():
            auc = 0.7 - position / 100
            figures.append(Figure(model, name, "auc", auc, n, auc - 0.0123, auc + 0.0123))
            for metric, value in {
                "gauc[user; impressions]": 0.61 + position / 1000,
                "gauc[user; clicks]": 0.62,
                "gauc[request; impressions]": 0.63,
                "gauc[request; clicks]": math.nan,
                "gauc_rows_left_out[user]": 0.234,
                "gauc_rows_left_out[request]": 0.345,
                "ndcg@7[user]": 0.4321,
                "mrr[user]": 0.321,
                "hit_rate@7[user]": 0.876,
                "ranking_rows_left_out[user]": 0.123,
                "log_loss": 0.51 + position / 1000,
                "calibration_ratio": 1.1 - position / 10,
                "click_rate": 0.25,
                "num_clicks": n / 4,
            }.items():
                figures.append(Figure(model, name, metric, value, n))
        for number in range(3):
            name = f"reliability_bin={number:02d}"
            figures.append(Figure(model, name, "mean_score", 0.1 + number / 10, 8000))
            figures.append(Figure(model, name, "click_rate", 0.12 + number / 10, 8000))
    for baseline_position, baseline in enumerate(models[1:], start=1):
        for name, n in sizes.items():
            difference = baseline_position / 100
            for method, p_value in (
                ("DeLong", 0.00001),
                ("DeLong, by user", 0.004 if name == "all" else 0.5),
            ):
                comparisons.append(
                    Comparison(
                        models[0],
                        baseline,
                        name,
                        "auc",
                        method,
                        0.7,
                        0.7 - difference,
                        difference,
                        difference - 0.002,
                        difference + 0.002,
                        p_value,
                        math.nan,
                        0,
                        n,
                    )
                )
    bins = np.array([0.1, 0.2, math.nan])
    curve = ReliabilityCurve(bins, bins, bins, bins, np.array([8000, 8000, 8000]))
    return Evaluation(
        models=tuple(models),
        figures=figures,
        comparisons=corrected(comparisons),
        notes=("label: column click (guessed by its name)",),
        facts={"sources": "a.parquet", "rows": 24_000, "clicks": 6000, "users": 1234, "fingerprint": "f00d"},
        curves=dict.fromkeys(models, curve),
    )
