"""Layers: graph attention over sampled neighbours, the gate, field embeddings, feature interactions."""

from graphrec.nn.attention import ActivationUnit, AutoInt, InteractingLayer
from graphrec.nn.fields import FieldEmbedding
from graphrec.nn.gat import GATConv
from graphrec.nn.gate import ConcatenationFusion, LongShortTermGate
from graphrec.nn.interactions import (
    FM,
    NFM,
    DeepFM,
    bi_interaction_pooling,
    multilayer_perceptron,
    second_order_interactions,
)

__all__ = [
    "FM",
    "NFM",
    "ActivationUnit",
    "AutoInt",
    "ConcatenationFusion",
    "DeepFM",
    "FieldEmbedding",
    "GATConv",
    "InteractingLayer",
    "LongShortTermGate",
    "bi_interaction_pooling",
    "multilayer_perceptron",
    "second_order_interactions",
]
