"""Training of SMEN: two random continuous parts of one user's life belong together (LURM, section 2.2.4).

With an encoder (``graphrec.encoders.smen_encoder``) and queries, users as of the first label or earlier::

    reader = InputReader(graph, "user", encoder.requests)
    bag = read_bags(reader, encoder, user, time)
    train_smen(encoder.smen, bag, user, time, fit_until=first_label, config=ContrastiveConfig(epochs=50))
    save_smen(Path("smen.pt"), encoder.smen)
    vectors = represent(encoder.smen, read_bags(reader, encoder, user, time))
"""

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from graphrec.encoders.bag_of_interests import BagOfInterests
from graphrec.encoders.fit_until import move_fit_until
from graphrec.encoders.smen import SMEN, ContrastiveHead
from graphrec.training.checkpoint import load_checkpoint, save_checkpoint
from graphrec.training.contrastive import ContrastiveConfig, ViewPairs, fit_contrastive
from graphrec.training.loop import TrainingPoint
from samplers import SeedLoader, keyed_integers


class ContrastiveSMEN(nn.Module):
    """SMEN and the head that its training needs.

    Args:
        smen: what is fitted and kept.

    """

    def __init__(self, smen: SMEN) -> None:
        super().__init__()
        self.smen = smen
        head = ContrastiveHead(smen.options["num_anchors"], smen.options["channels"])
        self.head = head.to(smen.anchors.anchor.device)

    def forward(self, bag: BagOfInterests) -> Float[Tensor, "num_queries out_channels"]:
        """Return the vectors that are compared."""
        vectors: Tensor = self.head(self.smen.anchor_vectors(bag))
        return vectors


def draw_sub_lives(
    bag: BagOfInterests, query: Int64[Tensor, " num_taken"], *, random_seed: int, epoch: int, view: int
) -> BagOfInterests:
    """Return a random continuous part of each given query's life, every one equally likely.

    A part is some of the life's cells in a row: with months and years, months with an event. Draws are keyed
    by (random_seed, epoch, view, query).

    Raises:
        ValueError: a query has no event.

    """
    num_cells = bag.num_cells[query]
    num_parts = num_cells * (num_cells + 1) // 2
    key = (random_seed, epoch, "sub-life", view, query)
    # parts in the order of their last cell: t (t + 1) / 2 of them end before cell t
    number = keyed_integers(num_parts, *key)
    last = ((8 * number.double() + 1).sqrt() / 2 - 0.5).floor().long()
    last -= (last * (last + 1) // 2 > number).long()  # a root that was rounded up, or down
    last += ((last + 1) * (last + 2) // 2 <= number).long()
    return bag.sub_lives(query, number - last * (last + 1) // 2, last + 1)


def train_smen(
    smen: SMEN,
    bag: BagOfInterests,
    user: Int64[Tensor, " num_queries"],
    query_time: Int64[Tensor, " num_queries"],
    *,
    fit_until: int,
    config: ContrastiveConfig,
    checkpoint: Path | None = None,
    checkpoint_every: int = 500,
    log_every: int = 50,
    on_step: Callable[[int, int], None] | None = None,
) -> list[TrainingPoint]:
    """Fit SMEN in place and return the training curve.

    An epoch is one pair of parts of each query's life. Queries with fewer than two cells are left out: the
    two parts could only be equal. ``smen.fit_until`` becomes ``fit_until``. Where ``checkpoint`` exists,
    training goes on from it and ends with the same weights as without a break, as in
    :func:`graphrec.training.loop.train`; the head's first weights are drawn by ``config.random_seed``.

    Args:
        smen: on the device to train on.
        bag: lives of the queries, on any device.
        user: of each query: parts of one user's lives are no negatives of one another.
        query_time: of each query: its life holds earlier events alone.
        fit_until: the earliest label window that the encoder may serve begins then or later.
        config: options.
        checkpoint: file to write and to resume from.
        checkpoint_every: steps between checkpoints.
        log_every: steps that a point of the curve averages.
        on_step: called with (steps done, steps in all), for progress.

    Raises:
        ValueError: there is not one user and time a query; a query time lies after ``fit_until``; the bags
            are of other interests or scales; no life has two cells; or the checkpoint was made until another
            time, or for another size of the model.

    """
    smen.check(bag)
    if len(user) != len(bag) or len(query_time) != len(bag):
        raise ValueError(
            f"each life needs a user and a time: {len(bag)} lives, {len(user)} users, {len(query_time)} times"
        )
    late = query_time > fit_until
    if bool(late.any()):
        raise ValueError(
            f"{int(late.sum())} of {len(query_time)} query times lie after fit_until={fit_until}, the latest "
            f"at {int(query_time.max())}: their lives may hold events of label windows; leave them out"
        )
    query = (bag.num_cells >= 2).nonzero().flatten()
    if not len(query):
        raise ValueError(f"none of {len(bag)} lives has events in two periods: take shorter periods")
    move_fit_until(smen, fit_until)
    owner = user.to(query.device)[query]
    device = smen.anchors.anchor.device
    with torch.random.fork_rng(
        devices=[device] if device.type == "cuda" else []
    ):  # the caller's generator stays as it was
        torch.manual_seed(config.random_seed)
        model = ContrastiveSMEN(smen)

    def loader(epoch: int) -> SeedLoader[ViewPairs]:
        def collate(index: Tensor) -> ViewPairs:
            index = index.to(query.device)
            first, second = (
                draw_sub_lives(bag, query[index], random_seed=config.random_seed, epoch=epoch, view=view)
                for view in range(2)
            )
            return ViewPairs(first, second, owner[index].repeat(2, 1))

        return SeedLoader(
            len(query),
            batch_size=config.batch_size,
            collate=collate,
            shuffle=True,
            random_seed=config.random_seed,
        )

    return fit_contrastive(
        model,
        loader,
        config=config,
        device=device,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        log_every=log_every,
        on_step=on_step,
        made_from=smen.options,
    )


def save_smen(path: Path, smen: SMEN) -> None:
    """Write a model: sizes, weights and ``fit_until``; whole or not at all."""
    save_checkpoint(path, {"options": smen.options, "state": smen.state_dict()})


def load_smen(path: Path, *, label_start: int, device: torch.device | str = "cpu") -> SMEN:
    """Read what :func:`save_smen` wrote, in evaluation mode.

    Args:
        path: of the file.
        label_start: time of the first label that the model will be used for.
        device: where it is to lie.

    Raises:
        ValueError: training saw data at or after ``label_start``, or the file was cut short.

    """
    saved = load_checkpoint(path, device=device)
    smen = SMEN(**saved["options"])
    smen.load_state_dict(saved["state"])
    smen.check_before(label_start)
    return smen.to(device).eval()
