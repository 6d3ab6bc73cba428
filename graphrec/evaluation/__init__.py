"""Figures for click predictions that a reviewer cannot dispute, and tests of their differences.

`evaluate` gives all of them for files, frames and arrays; the functions of `ctr`, `ranking` and
`significance` give one each for arrays. `replay` takes any model through an hour-by-hour protocol.
"""

from graphrec.evaluation.comparison import corrected, summary_in_words, verdict_in_words
from graphrec.evaluation.ctr import (
    GAUC,
    GroupedAUC,
    ReliabilityCurve,
    auc,
    average_precision,
    brier_score,
    calibration_ratio,
    expected_calibration_error,
    gauc,
    group_codes,
    grouped_auc,
    log_loss,
    normalized_entropy,
    relative_information_gain,
    reliability_curve,
)
from graphrec.evaluation.evaluate import Evaluation, evaluate
from graphrec.evaluation.figures import Comparison, Figure
from graphrec.evaluation.predictions import Predictions, Slicing
from graphrec.evaluation.ranking import hit_rate, mean_reciprocal_rank, ndcg
from graphrec.evaluation.read import PredictionsError, ReadOptions, read_predictions
from graphrec.evaluation.replay import replay
from graphrec.evaluation.replay_leak import check_replay_leak
from graphrec.evaluation.replay_models import SklearnModel, TorchModel
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
    "Comparison",
    "DeLongTest",
    "Evaluation",
    "Figure",
    "GroupedAUC",
    "Predictions",
    "PredictionsError",
    "ReadOptions",
    "ReliabilityCurve",
    "SklearnModel",
    "Slicing",
    "TorchModel",
    "auc",
    "average_precision",
    "brier_score",
    "calibration_ratio",
    "check_replay_leak",
    "clustered_bootstrap",
    "corrected",
    "delong",
    "evaluate",
    "expected_calibration_error",
    "gauc",
    "group_codes",
    "grouped_auc",
    "hit_rate",
    "holm",
    "log_loss",
    "mean_reciprocal_rank",
    "ndcg",
    "normalized_entropy",
    "read_predictions",
    "relative_information_gain",
    "reliability_curve",
    "replay",
    "summary_in_words",
    "verdict_in_words",
]
