"""Click models: LSTTM and its baselines; each takes a :class:`ClickBatch` and returns logits."""

from graphrec.models.autoint import AutoIntRanker
from graphrec.models.deepfm import DeepFMRanker
from graphrec.models.din import DINRanker
from graphrec.models.fm import FMRanker
from graphrec.models.inputs import ClickBatch, GraphInput, InputSizes, NodeFields, SequenceInput
from graphrec.models.lsttm import LSTTM, LongTermGraph, ShortTermGraph
from graphrec.models.mf import MFRanker
from graphrec.models.nfm import NFMRanker
from graphrec.models.sasrec import SASRecRanker
from graphrec.models.sml import SMLTransfer, TableRows, TransferNetwork
from graphrec.models.tgat import TGATRanker

__all__ = [
    "LSTTM",
    "AutoIntRanker",
    "ClickBatch",
    "DINRanker",
    "DeepFMRanker",
    "FMRanker",
    "GraphInput",
    "InputSizes",
    "LongTermGraph",
    "MFRanker",
    "NFMRanker",
    "NodeFields",
    "SASRecRanker",
    "SMLTransfer",
    "SequenceInput",
    "ShortTermGraph",
    "TGATRanker",
    "TableRows",
    "TransferNetwork",
]
