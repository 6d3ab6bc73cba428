"""Training of PTUM and SUMN on users' own behaviours (``graphrec.models.text_users``)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Int64
from torch import Tensor

from graphrec.encoders.fit_until import move_fit_until
from graphrec.models.text_classifiers import LastItems
from graphrec.models.text_users import TextTask, TextUserModel
from graphrec.training.adam import AdamConfig
from graphrec.training.loop import TrainingPoint, train_steps
from samplers import SeedLoader


@dataclass(frozen=True, kw_only=True)
class TextUserConfig(AdamConfig):
    """How a model of users' texts is fitted; LURM names Adam 0.001 and batches of 256 for its baselines.

    Attributes:
        epochs: passes over the queries, each with draws of its own.
        batch_size: queries a step.
        learning_rate: of all weights.
        random_seed: keys batches and draws.

    """

    epochs: int = 10
    batch_size: int = 256
    learning_rate: float = 1e-3


def train_text_users(
    model: TextUserModel,
    items: LastItems,
    query_time: Int64[Tensor, " num_queries"],
    *,
    fit_until: int,
    config: TextUserConfig,
    checkpoint: Path | None = None,
    checkpoint_every: int = 500,
    log_every: int = 50,
    on_step: Callable[[int, int], None] | None = None,
) -> list[TrainingPoint]:
    """Fit a model in place and return the training curve; ``model.fit_until`` becomes ``fit_until``.

    Queries with fewer than ``model.least_events`` events are left out. Where ``checkpoint`` exists, training
    goes on from it, as in :func:`graphrec.training.loop.train`.

    Args:
        model: on the device to train on.
        items: the last items of each query.
        query_time: of each query: its items were met earlier.
        fit_until: the earliest label window that the model may serve begins then or later.
        config: options.
        checkpoint: file to write and to resume from.
        checkpoint_every: steps between checkpoints.
        log_every: steps that a point of the curve averages.
        on_step: called with (steps done, steps in all), for progress.

    Raises:
        ValueError: there is not one time a query; one lies after ``fit_until``; no query has enough events;
            or the checkpoint was made until another time.

    """
    if len(query_time) != len(items) or bool((query_time > fit_until).any()):
        raise ValueError(
            f"each of {len(items)} queries needs a time, none after fit_until={fit_until}: got "
            f"{len(query_time)} times, {int((query_time > fit_until).sum())} of them later"
        )
    query = (items.ptr.diff() >= model.least_events).nonzero()[:, 0]
    if not len(query):
        raise ValueError(f"none of {len(items)} queries has {model.least_events} items with a known word")
    move_fit_until(model, fit_until)
    device = model.word.weight.device

    def loader(epoch: int) -> SeedLoader[TextTask]:
        def collate(index: Tensor) -> TextTask:
            chosen = query[index]
            return model.draw(items.padded(chosen), chosen, random_seed=config.random_seed, epoch=epoch)

        return SeedLoader(
            len(query),
            batch_size=config.batch_size,
            collate=collate,
            shuffle=True,
            random_seed=config.random_seed,
        )

    def backward(task: TextTask) -> Tensor:
        with config.precision(device):
            loss = model.loss(task.to(device))
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
    )
