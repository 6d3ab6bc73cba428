"""Models without a neural network on a test day: item rates, logistic regression, boosted trees."""

from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import polars as pl
import torch
from torch import Tensor

from experiments.config import ItemRateConfig, LogisticConfig
from experiments.tested_day import TestedDay, row_numbers
from experiments.update_forms import Timings
from graphrec.evaluation.replay_stream import PERIOD_START, Past
from graphrec.models.inputs import NodeFields
from graphrec.models.trees import BoostedTrees, TreesConfig


class OnDay(Protocol):
    """A model on a test day, as the replay takes it through: it also keeps its times."""

    timings: Timings

    def fit(self, past: Past) -> None:
        """Learn from the impressions before the day."""

    def predict(self, rows: pl.DataFrame) -> Any:
        """Score the impressions of a period."""


class TreesOnDay:
    """Boosted trees on raw past counts; during the day the counts are fresh and the trees stay."""

    def __init__(self, day: TestedDay, config: TreesConfig, seed: int) -> None:
        self.features = torch.cat([day.raw_dense, day.static], dim=1)
        self.label = day.data.impressions.label
        self.columns = torch.ones(self.features.shape[1], dtype=torch.bool)
        self.trees = BoostedTrees(replace(config, random_seed=seed))
        self.timings = Timings()

    def fit(self, past: Past) -> None:
        """Fit the trees on the impressions before the day."""
        with self.timings.measure("training"):
            rows = row_numbers(past.rows)
            features = self.features[rows]
            # scikit-learn makes no bins of a column without any value
            self.columns = ~features.isnan().all(dim=0)
            self.trees.fit(features[:, self.columns], self.label[rows])

    def predict(self, rows: pl.DataFrame) -> np.ndarray:
        """Return click probabilities."""
        with self.timings.measure("scoring"):
            return self.trees.predict(self.features[row_numbers(rows)][:, self.columns])


class LogisticOnDay:
    """Logistic regression on all fields one-hot and the scaled past counts; the counts are fresh all day.

    Fields: the user's, the item's with its ID and bag, the context. The bag's values share a weight of one.
    """

    def __init__(self, day: TestedDay, config: LogisticConfig) -> None:
        self.day, self.config = day, config
        self.classifier: Any = None
        self.timings = Timings()

    def fit(self, past: Past) -> None:
        """Fit the weights on the impressions before the day."""
        from sklearn.linear_model import LogisticRegression

        with self.timings.measure("training"):
            rows = row_numbers(past.rows)
            self.classifier = LogisticRegression(
                C=self.config.inverse_penalty, max_iter=self.config.max_iterations, tol=1e-3
            ).fit(self._features(rows), self.day.data.impressions.label[rows].numpy())

    def predict(self, rows: pl.DataFrame) -> np.ndarray:
        """Return click probabilities."""
        with self.timings.measure("scoring"):
            probability: np.ndarray = self.classifier.predict_proba(self._features(row_numbers(rows)))[:, 1]
            return probability

    def _features(self, rows: Tensor) -> Any:
        """Return a sparse matrix, (rows, codes of all fields + counts)."""
        from scipy import sparse

        data, sizes = self.day.data, self.day.inputs.sizes
        user, item = data.impressions.user[rows], data.impressions.item[rows]
        codes = torch.cat(
            [data.user_fields.codes[user], data.item_fields.codes[item], item[:, None], data.context[rows]],
            dim=1,
        )
        num_codes = [*sizes.user_fields, *sizes.item_fields, sizes.num_items + 1, *sizes.context_fields]
        offset = torch.tensor([0, *num_codes]).cumsum(0)
        index, weight = codes + offset[:-1], torch.ones(codes.shape)
        if sizes.item_bag:
            bag = _bag_of(data.item_fields, item)
            present = (bag > 0).float()
            index = torch.cat([index, bag + offset[-1]], dim=1)
            weight = torch.cat([weight, present / present.sum(dim=1, keepdim=True).clamp(min=1)], dim=1)
        num_columns = int(offset[-1]) + sizes.item_bag
        row_start = np.arange(len(rows) + 1) * index.shape[1]
        one_hot = sparse.csr_matrix(
            (weight.flatten().numpy(), index.flatten().numpy(), row_start), shape=(len(rows), num_columns)
        )
        if not self.config.past_counts:
            return one_hot
        return sparse.hstack([one_hot, sparse.csr_matrix(data.dense[rows].numpy())], format="csr")


def _bag_of(fields: NodeFields, item: Tensor) -> Tensor:
    return fields.bag[item].clamp(min=0)


class ItemRateOnDay:
    r"""Each item's click rate of the past, in which an impression's weight halves every ``half_life_hours``.

    .. math:: p_i = \frac{\sum_e 2^{-a_e / h} y_e + n_0 p}{\sum_e 2^{-a_e / h} + n_0}

    over the item's impressions of age ``a``; ``p`` is the rate of all items, ``n_0`` the prior weight. Hours
    that have ended count during the day, as in the past counts of the other models.
    """

    def __init__(self, day: TestedDay, config: ItemRateConfig) -> None:
        shown = day.data.impressions
        self.item, self.label, self.time = (
            column.numpy() for column in (shown.item, shown.label, shown.time)
        )
        self.half_life = config.half_life_hours * day.data.units_per_hour
        self.prior = config.prior_weight
        self.seen = np.zeros(0, dtype=np.int64)
        self.timings = Timings()

    def fit(self, past: Past) -> None:
        """Take in the impressions before the day."""
        with self.timings.measure("training"):
            self.seen = row_numbers(past.rows).numpy()

    def predict(self, rows: pl.DataFrame) -> np.ndarray:
        """Return the rates as of the period's start."""
        with self.timings.measure("scoring"):
            seen, asked = self.seen, self.item[row_numbers(rows).numpy()]
            weight = np.exp2((self.time[seen] - int(rows[PERIOD_START][0])) / self.half_life)
            num_items = int(self.item.max()) + 1
            shown = np.bincount(self.item[seen], weight, num_items)
            clicks = np.bincount(self.item[seen], weight * self.label[seen], num_items)
            rate = clicks.sum() / shown.sum()
            score: np.ndarray = (clicks[asked] + self.prior * rate) / (shown[asked] + self.prior)
            return score

    def update(self, past: Past) -> None:
        """Take in the impressions of a period that has ended."""
        with self.timings.measure("updating"):
            self.seen = np.concatenate([self.seen, row_numbers(past.rows).numpy()])
