"""A fitted QuantileScaler as plain arrays: the same values, some hundred times faster on few rows."""

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from scipy.special import ndtri

from graphrec.serving.compiled import quantile_levels
from graphrec.training.scaling import QuantileScaler


@dataclass(frozen=True, eq=False)
class FittedScaler:
    """Maps each feature to a standard normal by its quantiles; a missing value becomes 0.

    Scaled are first all features, then a column for each marked one that is 1 where it is missing.

    Attributes:
        quantiles: of each feature, ascending.
        references: the levels of the quantiles, from 0 to 1.
        marked: features with a column for missing values.

    """

    quantiles: Float64[np.ndarray, "num_levels num_features"]
    references: Float64[np.ndarray, " num_levels"]
    marked: Bool[np.ndarray, " num_features"]

    @classmethod
    def of(cls, scaler: QuantileScaler) -> "FittedScaler":
        """Take over what a scaler has been fitted to."""
        fitted = scaler.transformer
        return cls(
            np.ascontiguousarray(fitted.quantiles_),  # type: ignore[attr-defined]
            np.ascontiguousarray(fitted.references_),  # type: ignore[attr-defined]
            scaler.marked,
        )

    @property
    def num_scaled(self) -> int:
        """Number of scaled columns."""
        return len(self.marked) + int(self.marked.sum())

    def columns(self, features: Int64[np.ndarray, " num_chosen"]) -> Int64[np.ndarray, " _"]:
        """Return the scaled columns that :meth:`transform` makes of the chosen features."""
        marker = len(self.marked) + np.cumsum(self.marked) - 1
        return np.concatenate([features, marker[features[self.marked[features]]]])

    def transform(
        self,
        raw: Float32[np.ndarray, "num_rows num_chosen"],
        features: Int64[np.ndarray, " num_chosen"],
    ) -> Float32[np.ndarray, "num_rows _"]:
        """Scale the chosen features, NaN where missing; the columns are those that :meth:`columns` names."""
        level = np.empty_like(raw)
        quantile_levels(raw, features, self.quantiles, self.references, *self._reversed, level)
        missing = np.isnan(raw)
        with np.errstate(invalid="ignore"):
            scaled = cast(np.ndarray, ndtri(level)).clip(-3, 3)
        scaled[missing] = 0
        return np.concatenate([scaled, missing[:, self.marked[features]]], axis=1, dtype=np.float32)

    @cached_property
    def _reversed(self) -> tuple[np.ndarray, np.ndarray]:
        return np.ascontiguousarray(-self.quantiles[::-1]), np.ascontiguousarray(-self.references[::-1])
