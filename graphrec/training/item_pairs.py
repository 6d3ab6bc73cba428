"""Training of item embeddings: two items of one user, less than five days apart, belong together (LURM).

With the words of a graph's items and what was known before the first label::

    words = item_words(graph, fields=["genre"])
    vocabulary = fit_word_vocabulary(words, known_items(graph, first_label), fit_until=first_label)
    pairs = ItemPairSampler(graph, [relation.reverse_edge_type], fit_until=first_label)
    model = ItemEmbedding(len(vocabulary))
    train_item_embedding(model, vocabulary.encode(words), pairs, config=ContrastiveConfig(epochs=200))
    embedding = embed_items(model, vocabulary.encode(words))
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from graph_builders import BehaviorGraph
from graph_builders.behavior_graph import USER
from graph_builders.events import UNITS_PER_SECOND
from graph_builders.option_checks import check_number
from graphrec.encoders.fit_until import move_fit_until
from graphrec.encoders.interests import Interests
from graphrec.encoders.item_embedding import ItemEmbedding
from graphrec.encoders.item_text import ItemWords, WordVocabulary
from graphrec.encoders.local_clock import DAY_SECONDS
from graphrec.training.checkpoint import load_checkpoint, save_checkpoint
from graphrec.training.contrastive import ContrastiveConfig, ViewPairs, fit_contrastive
from graphrec.training.loop import TrainingPoint
from samplers import EdgeType, SeedLoader, TemporalCSR, UniformNeighborSampler, count_edges, keyed_uniform

_CANDIDATES = 8  # events drawn for a partner: one of them must be of another item


class ItemPairSampler:
    """Draws for a user two different items that the user met less than so many days apart.

    The later event is uniform over all of the user's that were known before ``fit_until``, of all edge types
    together. The earlier one is uniform over a sample of up to eight events of each edge type in the days
    before it, its own moment included (a basket has one time), that are of another item and were known by
    then. Both are drawn by ``samplers.UniformNeighborSampler``, keyed by (random_seed, epoch, user).

    Args:
        graph: the events.
        edge_types: whose rows are users, such as ``Relation.reverse_edge_type``.
        fit_until: no event known at or after this time is seen; in the graph's time resolution.
        max_days: the two events lie less than this apart (paper: 5).
        random_seed: part of the key of every draw.

    Raises:
        ValueError: no edge type, one whose rows are no users, ``fit_until`` is no whole number, or
            ``max_days`` is not finite or shorter than two units of time.

    """

    def __init__(
        self,
        graph: BehaviorGraph,
        edge_types: Sequence[EdgeType],
        *,
        fit_until: int,
        max_days: int | float = 5,
        random_seed: int = 0,
    ) -> None:
        if not edge_types or any(edge_type[2] != USER for edge_type in edge_types):
            raise ValueError(
                f"item pairs need edge types whose rows are users, such as Relation.reverse_edge_type, got "
                f"{list(edge_types)}"
            )
        if isinstance(fit_until, bool) or not isinstance(fit_until, int):
            raise ValueError(f"fit_until must be a whole number, in the graph's time unit, got {fit_until!r}")
        check_number("max_days", max_days, above=0)
        # times are whole: less than max_days apart is at most one unit less
        window = int(max_days * DAY_SECONDS * UNITS_PER_SECOND[graph.time_resolution]) - 1
        if window < 1:
            raise ValueError(f"max_days must be at least two units of time, got {max_days}")
        csrs = [graph.csr(edge_type) for edge_type in edge_types]
        self.edge_types, self.fit_until, self.random_seed = list(edge_types), fit_until, random_seed
        self._later = [_Draws(csr, 1, random_seed=random_seed) for csr in csrs]
        self._earlier = [_Draws(csr, _CANDIDATES, window=window, random_seed=random_seed) for csr in csrs]

    @property
    def num_items(self) -> int:
        """Rows of items in the graph, the unseen row included."""
        return self._later[0].csr.num_cols

    def users(self) -> Int64[Tensor, " num_users"]:
        """Return the users with an event known before ``fit_until``, in rising order."""
        csr = self._later[0].csr
        user = torch.arange(csr.num_rows, device=csr.device)
        time = torch.full_like(user, self.fit_until)
        return user[torch.stack([draws.count(user, time) for draws in self._later]).sum(0) > 0]

    def sample(self, user: Int64[Tensor, " num_users"], *, epoch: int = 0) -> Int64[Tensor, "3 num_pairs"]:
        """Return user, later item and earlier item of each pair; users without a pair have none.

        A user drawn twice in an epoch has the same pair twice.
        """
        first, time, found = self._draw(
            self._later, user, torch.full_like(user, self.fit_until), None, epoch, 0
        )
        user, first, time = user[found], first[found], time[found]
        second, _, found = self._draw(self._earlier, user, time, first, epoch, 1)
        return torch.stack([user, first, second])[:, found]

    def _draw(
        self,
        draws: Sequence["_Draws"],
        user: Tensor,
        time: Tensor,
        not_item: Tensor | None,
        epoch: int,
        hop: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return item, time and whether there is one, for each user."""
        items, times, keys = [], [], []
        for edge_type, one in zip(self.edge_types, draws, strict=True):
            drawn = one.sampler.sample(user, time, epoch=epoch, hop=hop, edge_type=edge_type)
            # each drawn event stands for the same number of the type's events
            share = one.count(user, time) / drawn.mask.sum(dim=1).clamp(min=1)
            fits = drawn.mask if not_item is None else drawn.mask & (drawn.node != not_item[:, None])
            slot = torch.arange(drawn.node.shape[1], device=user.device)
            key = (self.random_seed, epoch, "item pair", hop, edge_type, user[:, None], slot)
            # the largest of log(u) / weight: a draw by weight (Efraimidis, Spirakis, 2006)
            race = torch.log(keyed_uniform(*key).clamp(min=2.0**-53)) / share.clamp(min=1e-9)[:, None]
            items.append(drawn.node)
            times.append(drawn.edge_time)
            keys.append(race.masked_fill(~fits, -torch.inf))
        best, place = torch.cat(keys, dim=1).max(dim=1, keepdim=True)
        item, time = (torch.cat(parts, dim=1).gather(1, place)[:, 0] for parts in (items, times))
        return item, time, best[:, 0] > -torch.inf


class _Draws:
    """A sampler of one edge type, and how many events it draws from."""

    def __init__(self, csr: TemporalCSR, number: int, *, random_seed: int, window: int | None = None) -> None:
        self.csr, self.window = csr, window
        # without a window the query is fit_until itself, whose own events are not known before it
        self.sampler = UniformNeighborSampler(
            csr,
            number,
            bound="strict" if window is None else "inclusive",
            window=window,
            random_seed=random_seed,
        )

    def count(self, user: Tensor, time: Tensor) -> Tensor:
        """Return how many events each user's draw is from."""
        return count_edges(self.csr, user, time, bound=self.sampler.bound, window=self.window)


def train_item_embedding(
    model: ItemEmbedding,
    words: ItemWords,
    pairs: ItemPairSampler,
    *,
    config: ContrastiveConfig,
    checkpoint: Path | None = None,
    checkpoint_every: int = 500,
    log_every: int = 50,
    on_step: Callable[[int, int], None] | None = None,
) -> list[TrainingPoint]:
    """Fit item embeddings in place and return the training curve.

    An epoch is one pair of each user, drawn anew. Pairs with an item without a known word are left out, and
    those of two items with the same words, whose vectors are equal whatever the weights. Items with the same
    words are one owner (``equal_owners_are_negatives``): a shop with 20 items for each text would push a
    vector away from itself.
    ``model.fit_until`` becomes that of the pairs. Where ``checkpoint`` exists, training goes on from it, as
    in :func:`graphrec.training.loop.train`.

    Args:
        model: on the device to train on.
        words: of all items of the graph, in the order of its rows; on any device.
        pairs: what is drawn from.
        config: options.
        checkpoint: file to write and to resume from.
        checkpoint_every: steps between checkpoints.
        log_every: steps that a point of the curve averages.
        on_step: called with (steps done, steps in all), for progress.

    Raises:
        ValueError: a word has no row in the model's table; there are not words for every item; nobody has an
            event before ``fit_until``; or the checkpoint was made until another time, or for another size of
            the model.

    """
    num_words, num_items = model.word.num_embeddings, pairs.num_items
    if len(words) < num_items or (len(words.code) and int(words.code.max()) >= num_words):
        raise ValueError(
            f"the model has {num_words} words and the graph {num_items} rows of items, given are words up to "
            f"{int(words.code.max()) if len(words.code) else 'none'} of {len(words)} items: encode those of "
            "the graph by the vocabulary that the model was made for"
        )
    user = pairs.users()
    if not len(user):
        raise ValueError(f"nobody has an event before fit_until={pairs.fit_until}: take a later one")
    move_fit_until(model, pairs.fit_until)
    is_known, text = words.is_known, words.text_number()

    def loader(epoch: int) -> SeedLoader[ViewPairs]:
        def collate(index: Tensor) -> ViewPairs:
            found = pairs.sample(user[index.to(user.device)], epoch=epoch).to(is_known.device)
            later, earlier = found[1:, is_known[found[1]] & is_known[found[2]]]
            tells = text[later] != text[earlier]
            later, earlier = later[tells], earlier[tells]
            return ViewPairs(
                words.take(later), words.take(earlier), torch.stack([text[later], text[earlier]])
            )

        return SeedLoader(
            len(user),
            batch_size=config.batch_size,
            collate=collate,
            shuffle=True,
            random_seed=config.random_seed,
        )

    return fit_contrastive(
        model,
        loader,
        config=config,
        device=model.word.weight.device,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        log_every=log_every,
        on_step=on_step,
        made_from={"num_words": num_words, "channels": model.out_channels},
    )


def save_item_embedding(path: Path, model: ItemEmbedding, vocabulary: WordVocabulary) -> None:
    """Write a model and its vocabulary; whole or not at all."""
    state = {"channels": model.out_channels, "words": vocabulary.state(), "state": model.state_dict()}
    save_checkpoint(path, state)


def load_item_embedding(
    path: Path, *, label_start: int, device: torch.device | str = "cpu"
) -> tuple[ItemEmbedding, WordVocabulary]:
    """Read what :func:`save_item_embedding` wrote, in evaluation mode.

    Args:
        path: of the file.
        label_start: time of the first label that the embedding will be used for.
        device: where the model is to lie.

    Raises:
        ValueError: vocabulary or training saw data at or after ``label_start``, or the file was cut short.

    """
    saved: dict[str, Any] = load_checkpoint(path, device=device)
    vocabulary = WordVocabulary.from_state(saved["words"])
    model = ItemEmbedding(len(vocabulary), channels=saved["channels"])
    model.load_state_dict(saved["state"])
    vocabulary.check_before(label_start)
    model.check_before(label_start)
    return model.to(device).eval(), vocabulary


def save_interests(path: Path, interests: Interests) -> None:
    """Write centres: items of later versions of the graph are assigned to the same ones."""
    save_checkpoint(path, {"center": interests.center, "fit_until": interests.fit_until})


def load_interests(path: Path, *, label_start: int, device: torch.device | str = "cpu") -> Interests:
    """Read what :func:`save_interests` wrote.

    Args:
        path: of the file.
        label_start: time of the first label that the interests will be used for.
        device: where the centres are to lie.

    Raises:
        ValueError: they were fitted on data at or after ``label_start``, or the file was cut short.

    """
    saved = load_checkpoint(path, device=device)
    interests = Interests(saved["center"], saved["fit_until"])
    interests.check_before(label_start)
    return interests
