"""Contrastive training: two views of each owner in a batch, told apart from all others of the batch.

Item embeddings (``graphrec.training.item_pairs``) and SMEN (``graphrec.training.sub_lives``) are fitted so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from graph_builders.option_checks import check_numbers, check_whole_numbers
from graphrec.losses import contrastive_loss
from graphrec.training.adam import AdamConfig
from graphrec.training.loop import TrainingPoint, train_steps
from samplers import SeedLoader


@runtime_checkable
class Views(Protocol):
    """What a model reads of one side of the pairs: it has a length and can be moved."""

    def __len__(self) -> int: ...

    def to(self, device: torch.device | str) -> Any:
        """Copy to another device."""
        ...


@dataclass(frozen=True, kw_only=True)
class ContrastiveConfig(AdamConfig):
    """How an encoder is fitted by contrast; the defaults are LURM's where it names a value.

    Attributes:
        epochs: passes; the training says over what.
        batch_size: pairs a step, at least 2: a single pair has nothing to be told apart from.
        learning_rate: of Adam, for all weights.
        temperature: of the loss.
        equal_owners_are_negatives: True: as in the paper, vectors of one item or user that a batch holds
            twice are pushed apart. False leaves them out of the negatives.

    """

    epochs: int = 10
    batch_size: int = 256
    learning_rate: float = 1e-3
    temperature: float = 0.1
    equal_owners_are_negatives: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole_numbers(self, batch_size=2)
        check_numbers(self, ("temperature",), above=0)


@dataclass(frozen=True, eq=False)
class ViewPairs:
    """A batch: row i of ``first`` and row i of ``second`` belong together; ``owner`` says what each is of."""

    first: Views
    second: Views
    owner: Int64[Tensor, "2 num_pairs"]

    def to(self, device: torch.device | str) -> "ViewPairs":
        """Copy to another device."""
        return ViewPairs(self.first.to(device), self.second.to(device), self.owner.to(device))


def fit_contrastive(
    model: nn.Module,
    loader: Callable[[int], SeedLoader[ViewPairs]],
    *,
    config: ContrastiveConfig,
    device: torch.device,
    checkpoint: Path | None,
    checkpoint_every: int,
    log_every: int,
    on_step: Callable[[int, int], None] | None,
    made_from: Mapping[str, Any],
) -> list[TrainingPoint]:
    """Fit a model in place so that it gives the two views of a pair alike vectors; the training curve.

    Args:
        model: from views to (num_pairs, channels).
        loader: gives the batches of an epoch; a batch without a pair changes nothing.
        config: options.
        device: where the model lies.
        checkpoint: as in :func:`graphrec.training.loop.train`, as the arguments after it.
        checkpoint_every: steps between checkpoints.
        log_every: steps that a point of the curve averages.
        on_step: called with (steps done, steps in all).
        made_from: the model's sizes: a checkpoint of others is refused.

    """

    def backward(batch: ViewPairs) -> Tensor:
        if not batch.owner.shape[1]:
            return torch.zeros((), device=device)
        batch = batch.to(device)
        with config.precision(device):
            first, second = model(batch.first), model(batch.second)
        owner = None if config.equal_owners_are_negatives else batch.owner
        loss = contrastive_loss(first, second, temperature=config.temperature, owner=owner)
        loss.backward()
        return loss.detach()

    return train_steps(
        model,
        lambda epoch, start: loader(epoch).batches(epoch, start_batch=start),
        backward,
        num_batches=len(loader(0)),
        config=config.optimizer(),
        device=device,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        log_every=log_every,
        on_step=on_step,
        made_from=made_from,
    )
