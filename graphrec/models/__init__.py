"""Click models: LSTTM and its baselines; each takes a :class:`ClickBatch` and returns logits."""

from graphrec.models.deepfm import DeepFMRanker
from graphrec.models.inputs import ClickBatch, GraphInput, InputSizes, NodeFields
from graphrec.models.lsttm import LSTTM, LongTermGraph, ShortTermGraph

__all__ = [
    "LSTTM",
    "ClickBatch",
    "DeepFMRanker",
    "GraphInput",
    "InputSizes",
    "LongTermGraph",
    "NodeFields",
    "ShortTermGraph",
]
