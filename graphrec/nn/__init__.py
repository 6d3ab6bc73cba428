"""Layers: graph attention over sampled neighbours, the gate, field embeddings, feature interactions."""

from graphrec.nn.fields import FieldEmbedding
from graphrec.nn.gat import GATConv
from graphrec.nn.gate import ConcatenationFusion, LongShortTermGate
from graphrec.nn.interactions import DeepFM, multilayer_perceptron, second_order_interactions

__all__ = [
    "ConcatenationFusion",
    "DeepFM",
    "FieldEmbedding",
    "GATConv",
    "LongShortTermGate",
    "multilayer_perceptron",
    "second_order_interactions",
]
