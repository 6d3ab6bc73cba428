"""Baselines of few-shot profiling that train no network: strong where labels are few.

Regularised logistic regression, on embeddings of a frozen profile network or on aggregates of the heatmaps,
and boosted trees on the same aggregates. The networks' baselines need no code of their own: "normal training"
is ``fit_multi_task`` of a new network to the target alone, plain fine-tuning the same from a network that was
fitted to the source tasks, prototypical networks are ``PrototypeSimilarity`` in ``meta_train``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor
from torch.nn import functional

from graphrec.encoders.heatmap import Heatmaps
from graphrec.models.meta_profile import DemographicFields, ProfileInputs
from graphrec.models.trees import BoostedTrees, TreesConfig

SPANS = (28, 91)
"""Days of the recent totals beside those of the whole window."""
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)


def heatmap_aggregates(
    heatmaps: Heatmaps, *, spans: Sequence[int] = SPANS
) -> Float32[Tensor, "num_queries num_features"]:
    """Return what a practitioner would count of each channel: totals, days, recency, hours.

    Of each channel, beside one another: log(1 + |total|) with the total's sign, over the window and over the
    last days of each span that is shorter than it; log(1 + number of cells); log(1 + days since the newest
    cell), that of the window where there is none; the shares of cells in the morning (before 12), afternoon
    (before 18) and evening, 0 without a cell.

    Args:
        heatmaps: of the queries, on the CPU.
        spans: days.

    """
    num_queries, num_channels = len(heatmaps), heatmaps.num_channels
    row = heatmaps.query_of_cell() * num_channels + heatmaps.channel
    size = num_queries * num_channels

    def summed(value: Tensor) -> Tensor:
        return torch.zeros(size, dtype=torch.float64).index_add(0, row, value.double())

    count = summed(torch.ones_like(heatmaps.value))
    columns = []
    for span in (heatmaps.num_days, *(days for days in spans if days < heatmaps.num_days)):
        total = summed(heatmaps.value * (heatmaps.day < span))
        columns.append(total.sign() * total.abs().log1p())
    columns.append(count.log1p())
    newest = torch.full((size,), heatmaps.num_days, dtype=torch.int64)
    newest = newest.scatter_reduce(0, row, heatmaps.day.long(), "amin")
    columns.append(newest.double().log1p())
    for first, last in ((0, 12), (12, 18), (18, 24)):
        inside = (heatmaps.hour >= first) & (heatmaps.hour < last)
        columns.append(summed(inside) / count.clamp(min=1))
    return torch.stack(columns, dim=1).view(num_queries, -1).float()


def profile_aggregates(
    inputs: ProfileInputs, fields: DemographicFields | None = None
) -> Float32[Tensor, "num_queries num_features"]:
    """Return the aggregates of all modalities, and the demographics: numbers, and a column for each category.

    A missing number is NaN, a missing category 1 in a column of its own.

    Args:
        inputs: of the queries, on the CPU.
        fields: the demographics that they hold; None: none.

    Raises:
        ValueError: the inputs hold other demographics.

    """
    fields = DemographicFields() if fields is None else fields
    found, wanted = (
        (inputs.number.shape[1], inputs.code.shape[1]),
        (len(fields.numbers), len(fields.categories)),
    )
    if found != wanted:
        raise ValueError(f"the inputs hold (numbers, categories) {found}, the fields {wanted}: give theirs")
    columns = [heatmap_aggregates(heatmaps) for heatmaps in inputs.heatmaps.values()]
    codes = zip(inputs.code.T, fields.categories.values(), strict=True)
    # as many columns as there are codes, whichever of them these queries hold
    categories = [functional.one_hot(code, num_codes).float() for code, num_codes in codes]
    return torch.cat([*columns, inputs.number, *categories], dim=1)


class RegularisedLogistic:
    """Logistic regression with an L2 penalty that cross-validation over users chooses (scikit-learn).

    Features are standardised, a missing one is the mean. Where a class has too few users for two folds, the
    strongest penalty is taken.

    Args:
        strengths: inverses of the penalty to choose from, by the log-likelihood of the held-out users.
        num_folds: of the users, fewer where a class has fewer rows.
        random_seed: of the folds.
        max_iter: of the solver.

    Raises:
        ValueError: there is no strength, or one is not above 0.

    """

    def __init__(
        self,
        *,
        strengths: Sequence[float] = STRENGTHS,
        num_folds: int = 5,
        random_seed: int = 0,
        max_iter: int = 1000,
    ) -> None:
        if not strengths or min(strengths) <= 0:
            raise ValueError(f"strengths must be above 0, one at least, got {list(strengths)}")
        self.strengths, self.num_folds = tuple(sorted(strengths)), num_folds
        self.random_seed, self.max_iter = random_seed, max_iter
        self.strength = self.strengths[0]
        self.pipeline: Any = None

    def fit(
        self,
        features: Float[Tensor, "num_rows num_features"],
        label: Float32[Tensor, " num_rows"],
        *,
        user: Int64[Tensor, " num_rows"] | None = None,
    ) -> "RegularisedLogistic":
        """Fit on labelled rows and return self.

        Args:
            features: NaN where missing.
            label: 0 or 1; both must occur.
            user: of each row: no user is in two folds. Default: each row is another's.

        """
        x, y = features.double().numpy(), label.numpy()
        group = np.arange(len(y)) if user is None else user.numpy()
        users = [len(np.unique(group[y == value])) for value in (0, 1)]
        num_folds = min(self.num_folds, *users)
        self.strength = self.strengths[0]
        if num_folds >= 2 and len(self.strengths) > 1:
            # of equal ones the strongest penalty
            likelihood = [self._likelihood(strength, x, y, group, num_folds) for strength in self.strengths]
            self.strength = self.strengths[int(np.argmax(likelihood))]
        self.pipeline = self._pipeline(self.strength).fit(x, y)
        return self

    def predict(self, features: Float[Tensor, "num_rows num_features"]) -> Float64[np.ndarray, " num_rows"]:
        """Return probabilities of a 1.

        Raises:
            ValueError: the model has not been fitted.

        """
        if self.pipeline is None:
            raise ValueError("fit the regression before it predicts")
        probability: np.ndarray = self.pipeline.predict_proba(features.double().numpy())[:, 1]
        return probability

    def _pipeline(self, strength: float) -> Any:
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(
            SimpleImputer(keep_empty_features=True),
            StandardScaler(),
            LogisticRegression(C=strength, max_iter=self.max_iter),
        )

    def _likelihood(
        self, strength: float, x: np.ndarray, y: np.ndarray, group: np.ndarray, num_folds: int
    ) -> float:
        """Return the mean log-likelihood of held-out users over the folds that hold both classes."""
        from sklearn.model_selection import StratifiedGroupKFold

        folds = StratifiedGroupKFold(num_folds, shuffle=True, random_state=self.random_seed)
        total, count = 0.0, 0
        for train, test in folds.split(x, y, group):
            if len(np.unique(y[train])) < 2:
                continue
            probability = self._pipeline(strength).fit(x[train], y[train]).predict_proba(x[test])[:, 1]
            chance = np.where(y[test] == 1, probability, 1 - probability)
            total, count = total + float(np.log(chance.clip(1e-12)).sum()), count + len(test)
        return total / max(count, 1)


def few_label_trees(num_labels: int, *, random_seed: int = 0) -> BoostedTrees:
    """Return boosted trees whose leaves are small enough for so few labelled rows.

    Args:
        num_labels: rows of the training.
        random_seed: of the trees.

    Raises:
        ValueError: there is no row.

    """
    if num_labels < 1:
        raise ValueError(f"boosted trees need labelled rows, got {num_labels}")
    leaf = min(max(num_labels // 20, 1), 50)
    return BoostedTrees(
        TreesConfig(num_trees=100, max_leaf_nodes=7, min_samples_leaf=leaf, random_seed=random_seed)
    )
