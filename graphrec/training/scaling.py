"""Scaling of dense features for neural models, fitted on the rows before a cut-off time."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

_ROWS_AT_ONCE = 1 << 15  # the library works in float64: a piece at a time keeps its copies small


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantileScaler:
    """Maps each feature to a standard normal by its quantiles, and marks missing values.

    A missing value becomes 0, and a feature that misses any value in the rows that the scaler was fitted on
    gets a column that is 1 where it is missing. Scaled values lie in [-3, 3].

    Attributes:
        transformer: scikit-learn's QuantileTransformer.
        marked: features with a column for missing values.
        fit_until: the scaler saw rows before this time only; it may serve rows at or after it, and the rows
            that it was fitted on.

    """

    transformer: object
    marked: np.ndarray
    fit_until: int

    @classmethod
    def fit(
        cls,
        values: Float32[Tensor, "num_rows num_features"],
        time: Int64[Tensor, " num_rows"],
        *,
        fit_until: int,
        random_seed: int = 0,
    ) -> "QuantileScaler":
        """Fit on the rows with ``time < fit_until``.

        Raises:
            ValueError: there is no such row.

        """
        from sklearn.preprocessing import QuantileTransformer

        seen = values[time < fit_until].numpy()
        if not len(seen):
            raise ValueError(f"no row lies before fit_until={fit_until}: nothing to fit the scaler on")
        missing = np.isnan(seen)
        transformer = QuantileTransformer(
            n_quantiles=min(200, len(seen)),
            output_distribution="normal",
            subsample=50_000,
            random_state=random_seed,
        ).fit(np.where(missing.all(axis=0), 0, seen))
        return cls(transformer=transformer, marked=missing.any(axis=0), fit_until=fit_until)

    def transform(
        self, values: Float32[Tensor, "num_rows num_features"]
    ) -> Float32[Tensor, "num_rows num_scaled"]:
        """Return the scaled features, then the columns that mark missing values."""
        parts = [self._transform(piece.numpy()) for piece in values.split(_ROWS_AT_ONCE) if len(piece)]
        return torch.from_numpy(np.concatenate(parts)) if parts else torch.zeros(0, len(self.marked))

    def _transform(self, raw: np.ndarray) -> np.ndarray:
        missing = np.isnan(raw)
        scaled = self.transformer.transform(raw)  # type: ignore[attr-defined]
        scaled = np.where(missing, 0, scaled.clip(-3, 3))
        return np.concatenate([scaled, missing[:, self.marked]], axis=1).astype(np.float32)
