"""What trainings of sentence models share: Adam at one rate for all weights, full or mixed precision."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from graph_builders.option_checks import check_choices, check_numbers, check_whole_numbers
from graphrec.nn.precision import precision_region
from graphrec.training.loop import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class AdamConfig:
    """How a model of sentences is fitted; its training says more.

    Attributes:
        epochs: passes over the rows.
        batch_size: rows a step.
        learning_rate: of Adam, for all weights (UserBERT: 1e-4).
        decay: whether the rate falls linearly to zero over the run (BERT's; UserBERT names none).
        mixed_precision: products in bfloat16. It pays on a GPU, and on a CPU that has such products.
        random_seed: keys every draw but those that the training names.

    """

    epochs: int
    batch_size: int
    learning_rate: float = 1e-4
    decay: bool = False
    mixed_precision: bool = False
    random_seed: int = 0

    def __post_init__(self) -> None:
        check_choices(self)
        check_whole_numbers(self, epochs=0, batch_size=1)
        check_numbers(self, ("learning_rate",), least=0)

    def optimizer(self) -> OptimizerConfig:
        """Return the loop's options: AdamW without weight decay is Adam."""
        return OptimizerConfig(
            name="adamw",
            learning_rate=self.learning_rate,
            embedding_learning_rate=self.learning_rate,
            weight_decay=0.0,
            decay=self.decay,
            epochs=self.epochs,
            batch_size=self.batch_size,
        )

    def precision(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context in which the model is run."""
        return precision_region(device, mixed=self.mixed_precision)
