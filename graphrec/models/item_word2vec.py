"""Item embeddings by word2vec over users' sequences of items, by gensim: DUPN's variant "w2v".

Ni et al., KDD 2018, table 2 starts the item embeddings there; the settings of word2vec are ours.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float32
from torch import Tensor, nn

from graphrec.encoders.fit_until import FittedUntil, move_fit_until
from graphrec.encoders.sentences import FIRST
from graphrec.models.skip_gram import SkipGramConfig, fit_skip_gram
from samplers import EventHistory


@dataclass(frozen=True, kw_only=True)
class ItemWord2VecConfig(SkipGramConfig):
    """How word2vec is fitted; ``channels`` are those of the table that starts from it."""

    channels: int = 24
    epochs: int = 5


class ItemVectors(FittedUntil):
    """A vector for each item, from what users did before a time.

    Attributes:
        vector: one row an item.
        is_known: whether any user had the item; the vectors of others are 0.

    """

    noun: ClassVar[str] = "word2vec"

    def __init__(
        self, vector: Float32[Tensor, "num_items channels"], is_known: Tensor, fit_until: int
    ) -> None:
        super().__init__()
        self.vector, self.is_known, self.fit_until = vector, is_known, fit_until


def fit_item_vectors(
    history: EventHistory,
    num_items: int,
    *,
    fit_until: int,
    config: ItemWord2VecConfig = ItemWord2VecConfig(),
) -> ItemVectors:
    """Fit skip-gram to sequences of items, oldest first.

    Args:
        history: of users, each read once and as of ``fit_until``, on the CPU.
        num_items: how many vectors there are; later items are left out of the sequences.
        fit_until: every event lies before.
        config: options.

    Raises:
        ValueError: an event lies at or after ``fit_until``, or no item is left.

    """
    late = int((history.time >= fit_until).sum())
    if late:
        raise ValueError(f"{late} events lie at or after fit_until={fit_until}: read histories as of then")
    if not bool((history.neighbor < num_items).any()):
        raise ValueError(f"no event is of the first {num_items} items: there is nothing to fit on")
    vector, is_known = fit_skip_gram(_Sequences(history, num_items), num_items, config)
    return ItemVectors(vector, is_known, fit_until)


@torch.no_grad()
def start_items_from(encoder: Any, vectors: ItemVectors) -> None:
    """Copy vectors into an encoder's table of items, which is its first column's, and move ``fit_until``.

    Items without a vector keep what they have. Training goes on from there, as from any start.

    Args:
        encoder: DUPN or one of its baselines, with ``item.tables``.
        vectors: of as many items as have a code of their own.

    Raises:
        ValueError: the table has other sizes: perhaps its first column is no item.

    """
    table: nn.Embedding = encoder.item.tables[0]
    wanted = (FIRST + len(vectors.vector), vectors.vector.shape[1])
    if tuple(table.weight.shape) != wanted:
        raise ValueError(
            f"the encoder's first table is {tuple(table.weight.shape)}, the vectors need {wanted}: give the "
            "tokenizer num_items, and the same number of items and channels to both"
        )
    row = vectors.is_known.nonzero().flatten()
    table.weight[(row + FIRST).to(table.weight.device)] = vectors.vector[row].to(table.weight)
    move_fit_until(encoder, int(vectors.fit_until or 0))


class _Sequences:
    """Users' items as gensim reads them, several times, user by user."""

    def __init__(self, history: EventHistory, num_items: int) -> None:
        self.ptr, self.item, self.num_items = history.ptr.tolist(), history.neighbor.tolist(), num_items

    def __iter__(self) -> Iterator[list[str]]:
        for first, stop in zip(self.ptr, self.ptr[1:], strict=False):
            yield [str(item) for item in self.item[first:stop] if item < self.num_items]
