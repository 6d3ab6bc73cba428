"""DUPN's heads: from a user's representation to what a task asks, about an entity or about the user alone.

Ni et al., KDD 2018, the section on the tasks. A head turns the representations of a batch and the batch's
rows into logits, and knows what they mean: their loss, and the score that a metric reads.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.nn import functional

from graphrec.nn.code_vectors import MappedCodes


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskRows:
    """Labelled rows of a task; several rows may share a query, such as the candidates of one moment.

    Attributes:
        query: which query of the task's inputs each row belongs to.
        label: 0 or 1 of a pair, -1 or +1 of a ranking, the number of a class.
        weight: what a row counts in the loss.
        entity: codes of the row's entity; no column where the task asks about the user alone.
        features: ranking features of the row's item; no column where none are read.

    """

    query: Int64[Tensor, " num_rows"]
    label: Float32[Tensor, " num_rows"]
    weight: Float32[Tensor, " num_rows"]
    entity: Int64[Tensor, "num_rows num_entity_fields"]
    features: Float32[Tensor, "num_rows num_features"]

    def __len__(self) -> int:
        return len(self.query)

    def take(self, row: Int64[Tensor, " num_taken"]) -> "TaskRows":
        """Return the given rows, in that order."""
        return TaskRows(**{name: value[row] for name, value in vars(self).items()})

    def to(self, device: torch.device | str) -> "TaskRows":
        """Copy to another device."""
        return TaskRows(**{name: value.to(device) for name, value in vars(self).items()})


class TaskHead(nn.Module, ABC):
    """From representations to the logits of one task.

    Attributes:
        label_values: the labels that there are; none named: any number.

    """

    label_values: Sequence[float] = ()

    @abstractmethod
    def forward(self, vector: Float[Tensor, "num_rows channels"], rows: TaskRows) -> Tensor:
        """Return logits: one a row, or one for each class.

        Args:
            vector: the representation of each row's query.
            rows: what is asked.

        """

    @staticmethod
    @abstractmethod
    def losses(logit: Tensor, rows: TaskRows) -> Tensor:
        """Return each row's loss, not yet weighted; (num_rows,)."""

    @staticmethod
    @abstractmethod
    def score(logit: Tensor) -> Tensor:
        """Return what a metric reads: a probability, a ranking score, or the probability of each class."""

    def check(self, rows: TaskRows) -> None:
        """Raise if rows cannot be scored, whatever their labels; once for all rows of a task.

        Raises:
            ValueError: a ranking feature is not finite.

        """
        wrong = (~rows.features.isfinite().all(dim=1)).nonzero().flatten()
        if len(wrong):
            raise ValueError(
                f"features of row {int(wrong[0])} and {len(wrong) - 1} others are not finite: fill what is "
                "missing, or scale them (graphrec.training.scaling)"
            )

    def check_labels(self, label: Float32[Tensor, " num_rows"]) -> None:
        """Raise if a label is none of ``label_values``; once for all rows of a task.

        Raises:
            ValueError: naming the first one.

        """
        if not self.label_values:
            return
        known = torch.tensor(list(self.label_values), dtype=label.dtype, device=label.device)
        wrong = (~torch.isin(label, known)).nonzero().flatten()
        if len(wrong):
            few = ", ".join(f"{value:g}" for value in self.label_values[:3])
            there = few if len(known) <= 3 else f"{few} to {self.label_values[-1]:g}"
            raise ValueError(
                f"labels of a {type(self).__name__} are {there}, got {float(label[wrong[0]]):g} in row "
                f"{int(wrong[0])} and {len(wrong) - 1} other wrong ones"
            )

    def loss(self, logit: Tensor, rows: TaskRows) -> Float[Tensor, ""]:
        """Return the mean over the rows of their weighted losses."""
        return (self.losses(logit, rows) * rows.weight).mean()


class PairHead(TaskHead):
    """Will the user click, follow or buy this entity: the logit of a user and an entity, logistic loss.

    Args:
        in_channels: of the representation.
        entity: makes the entities' vectors (paper: 128 of an item or of someone to follow, 64 of a shop). Its
            tables may be the encoder's.
        hidden_channels: of the layers between (paper: 128, 128 for CTR and FIFP; 128, 64 for SPP).
        dropout: behind each of them.

    """

    label_values = (0.0, 1.0)

    def __init__(
        self,
        in_channels: int,
        entity: MappedCodes,
        *,
        hidden_channels: Sequence[int] = (128, 128),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.entity = entity
        self.layers = dense_layers([in_channels + entity.out_channels, *hidden_channels, 1], dropout=dropout)

    def forward(self, vector: Tensor, rows: TaskRows) -> Tensor:
        """Return a logit for each row."""
        logit: Tensor = self.layers(torch.cat([vector, self.entity(rows.entity)], dim=1))
        return logit[:, 0]

    @staticmethod
    def losses(logit: Tensor, rows: TaskRows) -> Tensor:
        """Return each row's binary cross entropy; labels are 0 or 1."""
        return functional.binary_cross_entropy_with_logits(logit, rows.label, reduction="none")

    @staticmethod
    def score(logit: Tensor) -> Tensor:
        """Return the probability of a 1, float64."""
        return logit.double().sigmoid()


class RankingHead(TaskHead):
    r"""Learning to rank: a weight of each ranking feature for each user, none of them below 0.

    .. math:: y = w(r)^\top x, \qquad w(r) = \operatorname{relu}(W_2 \operatorname{relu}(W_1 r + b_1) + b_2)

    The loss is :math:`\log(1 + e^{-l y})` of labels :math:`l` of -1 and +1, weighted by the rows' weights: by
    the type of the behaviour. There is no bias: features must be centred and of one scale
    (``graphrec.training.scaling``), and such that more is better, as no weight is negative.

    Args:
        in_channels: of the representation.
        num_features: ranking features of an item (paper: 26).
        hidden_channels: of the layer between (paper: 128).
        dropout: behind it.

    """

    label_values = (-1.0, 1.0)

    def __init__(
        self, in_channels: int, num_features: int, *, hidden_channels: int = 128, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.layers = dense_layers([in_channels, hidden_channels, num_features], dropout=dropout)
        # a ReLU that starts at or below 0 for every user learns nothing: all features start with a weight
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.constant_(last.bias, 0.5)

    def weights(self, vector: Float[Tensor, "num_rows channels"]) -> Tensor:
        """Return the weights of each user; (num_rows, num_features)."""
        return torch.relu(self.layers(vector))

    def forward(self, vector: Tensor, rows: TaskRows) -> Tensor:
        """Return the ranking score of each row.

        Raises:
            ValueError: the rows have another number of features.

        """
        weight = self.weights(vector)
        if rows.features.shape[1] != weight.shape[1]:
            raise ValueError(
                f"the head weighs {weight.shape[1]} ranking features, the rows have "
                f"{rows.features.shape[1]}: make both of one list of features"
            )
        return (weight * rows.features).sum(dim=1)

    @staticmethod
    def losses(logit: Tensor, rows: TaskRows) -> Tensor:
        """Return each row's logistic loss; labels are -1 or +1."""
        return functional.softplus(-rows.label * logit)

    @staticmethod
    def score(logit: Tensor) -> Tensor:
        """Return the ranking score itself, float64."""
        return logit.double()


class ClassHead(TaskHead):
    """Which level the user prefers: a logit for each of several classes, cross entropy.

    Args:
        in_channels: of the representation.
        num_classes: of the label (paper: 7 levels of price).
        hidden_channels: of the layer between (paper: 128).
        dropout: behind it.

    """

    def __init__(
        self, in_channels: int, num_classes: int, *, hidden_channels: int = 128, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.label_values = tuple(range(num_classes))
        self.layers = dense_layers([in_channels, hidden_channels, num_classes], dropout=dropout)

    def forward(self, vector: Tensor, rows: TaskRows) -> Tensor:
        """Return the logits of each row's classes."""
        logit: Tensor = self.layers(vector)
        return logit

    @staticmethod
    def losses(logit: Tensor, rows: TaskRows) -> Tensor:
        """Return each row's cross entropy; labels are numbers of classes."""
        return functional.cross_entropy(logit, rows.label.long(), reduction="none")

    @staticmethod
    def score(logit: Tensor) -> Tensor:
        """Return the probability of each class, float64."""
        return logit.double().softmax(dim=1)


def dense_layers(widths: Sequence[int], *, dropout: float = 0.0) -> nn.Sequential:
    """Return linear maps of the given widths with ReLU, then dropout, between them; none behind the last."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers[:-2])
