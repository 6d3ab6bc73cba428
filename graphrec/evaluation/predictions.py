"""Predictions as columns: one row an impression that one or several models have scored."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int32, Integer, UInt8


@dataclass(frozen=True, eq=False)
class Slicing:
    """A column that cuts the rows into slices: row i belongs to the slice ``values[code[i]]``."""

    name: str
    code: Integer[np.ndarray, " num_rows"]
    values: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Predictions:
    """Checked predictions in the order of their source; all columns have one entry a row."""

    label: UInt8[np.ndarray, " num_rows"]
    """0 or 1."""
    score: Mapping[str, Float[np.ndarray, " num_rows"]]
    """Finite scores of each model, float32 or float64 as the source has them."""
    user: Int32[np.ndarray, " num_rows"] | None = None
    """Dense codes from 0; None where the source has no users."""
    request: Int32[np.ndarray, " num_rows"] | None = None
    """Dense codes from 0 of the request (page view, search) that an impression belongs to."""
    hour: Int32[np.ndarray, " num_rows"] | None = None
    """Whole hours since 1970-01-01 00:00 in local time; None where the source has no times."""
    period: Int32[np.ndarray, " num_rows"] | None = None
    """Whole periods of the chosen length since 1970-01-01 00:00 in local time."""
    slicings: tuple[Slicing, ...] = ()
    is_probability: bool = True
    """Whether scores lie in [0, 1] and mean a click rate; else they only rank."""
    sources: tuple[str, ...] = ()
    """Names of the files, or what the source was called."""
    notes: tuple[str, ...] = ()
    """What was guessed or is worth knowing, in words."""
    fingerprint: str = ""
    """SHA-256 over all columns as read: two evaluations with one fingerprint saw the same rows."""

    @property
    def num_rows(self) -> int:
        """Impressions."""
        return len(self.label)
