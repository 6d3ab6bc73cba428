"""Figures for click predictions that a reviewer cannot dispute, and tests of their differences."""

from graphrec.evaluation.ctr import (
    GAUC,
    GroupedAUC,
    ReliabilityCurve,
    auc,
    brier_score,
    calibration_ratio,
    expected_calibration_error,
    gauc,
    group_codes,
    grouped_auc,
    log_loss,
    normalized_entropy,
    reliability_curve,
)
from graphrec.evaluation.report_metrics import MetricRow, evaluate_predictions
from graphrec.evaluation.significance import (
    BootstrapResult,
    DeLongTest,
    clustered_bootstrap,
    delong,
    holm,
)

__all__ = [
    "GAUC",
    "BootstrapResult",
    "DeLongTest",
    "GroupedAUC",
    "MetricRow",
    "ReliabilityCurve",
    "auc",
    "brier_score",
    "calibration_ratio",
    "clustered_bootstrap",
    "delong",
    "evaluate_predictions",
    "expected_calibration_error",
    "gauc",
    "group_codes",
    "grouped_auc",
    "holm",
    "log_loss",
    "normalized_entropy",
    "reliability_curve",
]
