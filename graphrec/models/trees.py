"""Boosted trees on past-only counts: what a practitioner would pick (scikit-learn's HistGradientBoosting)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TreesConfig:
    """Settings of HistGradientBoostingClassifier; no early stopping, so every training row is used."""

    num_trees: int = 300
    learning_rate: float = 0.04
    max_leaf_nodes: int = 15
    min_samples_leaf: int = 50
    l2_regularization: float = 5.0
    max_features: float = 1.0
    random_seed: int = 0


class BoostedTrees:
    """A click model over a matrix of dense features; missing values are NaN."""

    def __init__(self, config: TreesConfig) -> None:
        self.config = config
        self.classifier: Any = None

    def fit(
        self, features: Float32[Tensor, "num_rows num_features"], label: Float32[Tensor, " num_rows"]
    ) -> "BoostedTrees":
        """Fit on labelled rows and return self."""
        from sklearn.ensemble import HistGradientBoostingClassifier

        config = self.config
        self.classifier = HistGradientBoostingClassifier(
            max_iter=config.num_trees,
            learning_rate=config.learning_rate,
            max_leaf_nodes=config.max_leaf_nodes,
            min_samples_leaf=config.min_samples_leaf,
            l2_regularization=config.l2_regularization,
            max_features=config.max_features,
            early_stopping=False,
            random_state=config.random_seed,
        ).fit(features.numpy(), label.numpy())
        return self

    def predict(self, features: Float32[Tensor, "num_rows num_features"]) -> Float64[np.ndarray, " num_rows"]:
        """Click probabilities.

        Raises:
            ValueError: the model has not been fitted.

        """
        if self.classifier is None:
            raise ValueError("fit the trees before they predict")
        probability: np.ndarray = self.classifier.predict_proba(features.numpy())[:, 1]
        return probability
