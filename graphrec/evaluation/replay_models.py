"""Adapters that take scikit-learn estimators and PyTorch modules through the replay protocol."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from graphrec.evaluation.replay_stream import Past
from graphrec.evaluation.replay_tables import ReplayError, check_columns

if TYPE_CHECKING:
    import torch

Features = Sequence[str] | Callable[[pl.DataFrame], Any]


def feature_matrix(features: Features, rows: pl.DataFrame) -> Any:
    """Return the named columns, (num_rows, num_features), or what the callable makes of the rows."""
    if callable(features):
        return features(rows)
    check_columns(rows, list(features), "rows as the model sees them (without label and outcomes)")
    return rows.select(features).to_numpy(order="c")


def _check_fit(past: Past) -> None:
    if past.rows.is_empty():
        raise ReplayError(
            "no row precedes the test range, so there is nothing to fit on: choose a later start"
        )


class SklearnModel:
    """A scikit-learn estimator, for click prediction or regression.

    Scores are ``predict_proba(...)[:, 1]`` where the estimator has it, else ``decision_function``, else
    ``predict``. ``update`` is ``partial_fit`` and is there only where the estimator has that.

    Args:
        estimator: fitted in place; a pipeline works as well.
        features: names of the feature columns, or a callable from a frame without label and outcomes to what
            the estimator takes (a matrix, a sparse matrix). It is handed one period at a time.
        random_seed: set as the estimator's ``random_state``, if not None.

    """

    def __init__(self, estimator: Any, features: Features, *, random_seed: int | None = None) -> None:
        self.estimator, self.features = estimator, features
        self.name = type(estimator).__name__
        if random_seed is not None:
            estimator.set_params(random_state=random_seed)

    def fit(self, past: Past) -> None:
        """Fit from scratch, as scikit-learn's ``fit`` does."""
        _check_fit(past)
        self.estimator.fit(feature_matrix(self.features, past.inputs), past.labels)

    def predict(self, rows: pl.DataFrame) -> Any:
        """Return probabilities of the second class, or the estimator's own scores."""
        matrix = feature_matrix(self.features, rows)
        if not hasattr(self.estimator, "predict_proba"):
            decide = getattr(self.estimator, "decision_function", self.estimator.predict)
            return decide(matrix)
        probability = self.estimator.predict_proba(matrix)
        if probability.shape[1] != 2:
            raise ReplayError(
                f"{self.name} knows the classes {list(self.estimator.classes_)}, two are needed: "
                "let the rows before the test range hold both"
            )
        return probability[:, 1]

    @property
    def update(self) -> Callable[[Past], None]:
        """The method that hands a period to ``partial_fit``; there is none without that."""
        if not hasattr(self.estimator, "partial_fit"):
            raise AttributeError(f"{self.name} has no partial_fit")
        return self._partial_fit

    def _partial_fit(self, past: Past) -> None:
        if not past.rows.is_empty():  # only events became known
            self.estimator.partial_fit(feature_matrix(self.features, past.inputs), past.labels)


class TorchModel:
    """A PyTorch module that gives a logit a row, fitted by mini-batches of Adam on binary cross entropy.

    ``update`` is one step of plain gradient descent on the mean loss of what it is handed, without dropout
    (LSTTM, section 4): with ``update="union"`` it starts from the state as of the start. ``fit`` starts from
    the weights that the module has.

    Args:
        module: maps float32 (num_rows, num_features), on its own device, to (num_rows,) or (num_rows, 1).
        features: names of the feature columns, or a callable from a frame without label and outcomes to a
            matrix. It is handed one period at a time.
        epochs: passes over the rows before the test range.
        batch_size: rows a step of ``fit``, and rows scored at once.
        learning_rate: of Adam.
        update_learning_rate: of the one step.
        random_seed: of the order of rows and of dropout; torch's own generators are left as they were.

    """

    def __init__(
        self,
        module: "torch.nn.Module",
        features: Features,
        *,
        epochs: int = 3,
        batch_size: int = 1024,
        learning_rate: float = 1e-3,
        update_learning_rate: float = 0.01,
        random_seed: int = 0,
    ) -> None:
        if epochs < 1 or batch_size < 1:
            raise ReplayError(f"epochs and batch_size must be at least 1, got {epochs} and {batch_size}")
        self.module, self.features, self.name = module, features, type(module).__name__
        self.epochs, self.batch_size = epochs, batch_size
        self.learning_rate, self.update_learning_rate = learning_rate, update_learning_rate
        self.random_seed = random_seed

    def fit(self, past: Past) -> None:
        """Train with Adam on shuffled mini-batches."""
        import torch

        _check_fit(past)
        inputs, labels = self._inputs(past.inputs), self._labels(past)
        optimizer = torch.optim.Adam(self.module.parameters(), lr=self.learning_rate)
        devices = [inputs.device] if inputs.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.random_seed)
            self.module.train()
            for _ in range(self.epochs):
                for rows in torch.randperm(len(labels)).split(self.batch_size):
                    index = rows.to(inputs.device)
                    optimizer.zero_grad(set_to_none=True)
                    self._loss(inputs[index], labels[index], "mean").backward()
                    optimizer.step()
        self.module.eval()

    def predict(self, rows: pl.DataFrame) -> Any:
        """Return click probabilities, float64."""
        import torch

        self.module.eval()
        with torch.no_grad():
            parts = [self._logits(part) for part in self._inputs(rows).split(self.batch_size)]
            return torch.sigmoid(torch.cat(parts).double()).cpu().numpy()

    def update(self, past: Past) -> None:
        """Take one step of gradient descent on the mean loss of these rows."""
        import torch

        if past.rows.is_empty():  # only events became known
            return
        inputs, labels = self._inputs(past.inputs), self._labels(past)
        self.module.eval()
        self.module.zero_grad(set_to_none=True)
        for part, label in zip(inputs.split(self.batch_size), labels.split(self.batch_size), strict=True):
            (self._loss(part, label, "sum") / len(labels)).backward()
        with torch.no_grad():
            for parameter in self.module.parameters():
                if parameter.grad is not None:
                    parameter.sub_(self.update_learning_rate * parameter.grad)
        self.module.zero_grad(set_to_none=True)

    def _device(self) -> "torch.device":
        import torch

        first = next(self.module.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    def _inputs(self, rows: pl.DataFrame) -> "torch.Tensor":
        import torch

        matrix = np.array(feature_matrix(self.features, rows), dtype=np.float32)
        return torch.from_numpy(matrix).to(self._device())

    def _labels(self, past: Past) -> "torch.Tensor":
        import torch

        return torch.from_numpy(past.labels.astype(np.float32)).to(self._device())

    def _logits(self, inputs: "torch.Tensor") -> "torch.Tensor":
        logits: torch.Tensor = self.module(inputs)
        if logits.shape not in ((len(inputs),), (len(inputs), 1)):
            raise ReplayError(
                f"{self.name} gave logits of shape {tuple(logits.shape)} for {len(inputs)} rows: "
                "give one a row"
            )
        return logits.reshape(-1)

    def _loss(self, inputs: "torch.Tensor", labels: "torch.Tensor", reduction: str) -> "torch.Tensor":
        from torch.nn import functional

        return functional.binary_cross_entropy_with_logits(self._logits(inputs), labels, reduction=reduction)
