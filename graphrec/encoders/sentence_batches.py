"""Sentences of chosen queries, of several parts together, and mini-batches of about equal length."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Int64
from torch import Tensor

from graphrec.encoders.sentences import BehaviorWords, UserSentences
from samplers import SeedLoader, keyed_bits
from samplers.queries import expand_ranges
from samplers.tables import with_zero

Batch = TypeVar("Batch")


def take_sentences(sentences: UserSentences, query: Int64[Tensor, " num_chosen"]) -> UserSentences:
    """Return the sentences of the given queries, in that order; a query may be named several times."""
    query = query.to(sentences.profile.device)
    return UserSentences(
        words={kind: _take_words(words, query) for kind, words in sentences.words.items()},
        profile=sentences.profile[query],
    )


def concatenate_sentences(parts: Sequence[UserSentences]) -> UserSentences:
    """Put sentences of the same kinds of words and profile fields behind one another.

    Raises:
        ValueError: there is no part, or the kinds differ.

    """
    if not parts:
        raise ValueError("nothing to concatenate: at least one part is needed")
    kinds = [list(part.words) for part in parts]
    if any(other != kinds[0] for other in kinds):
        raise ValueError(f"all parts must have the same kinds of words, got {kinds}")
    return UserSentences(
        words={
            kind: BehaviorWords(
                ptr=_join([part.words[kind].ptr for part in parts]),
                position=torch.cat([part.words[kind].position for part in parts]),
                action_ptr=_join([part.words[kind].action_ptr for part in parts]),
                code=torch.cat([part.words[kind].code for part in parts]),
            )
            for kind in kinds[0]
        },
        profile=torch.cat([part.profile for part in parts]),
    )


def _join(ptrs: Sequence[Tensor]) -> Tensor:
    """Boundaries of all parts' rows, each part behind the one before."""
    return with_zero(torch.cat([ptr.diff() for ptr in ptrs]).cumsum(0))


def sentence_length(sentences: UserSentences) -> Int64[Tensor, " num_queries"]:
    """Count the words of each query, of all kinds together; profile tokens do not count."""
    length = torch.zeros(len(sentences), dtype=torch.int64, device=sentences.profile.device)
    for words in sentences.words.values():
        length = length + words.ptr.diff()
    return length


def _take_words(words: BehaviorWords, query: Tensor) -> BehaviorWords:
    count = words.ptr.diff()[query]
    _, word = expand_ranges(words.ptr[query], count)
    num_actions = words.action_ptr.diff()[word]
    _, action = expand_ranges(words.action_ptr[word], num_actions)
    return BehaviorWords(
        ptr=with_zero(count.cumsum(0)),
        position=words.position[word],
        action_ptr=with_zero(num_actions.cumsum(0)),
        code=words.code[action],
    )


class LengthLoader(SeedLoader[Batch]):
    """Mini-batches whose seeds have about the same length, so that little of a batch is padding.

    Shuffled, each epoch draws new pools of seeds, sorts every pool by length, cuts it into batches, and
    deals the batches in a new order. The seeds that fill no whole batch come last, of any length. Otherwise
    all seeds are sorted by length.

    Args:
        length: of each seed, in any unit.
        batch_size: seeds a batch.
        collate: makes a batch out of seed numbers, as for ``SeedLoader``.
        shuffle: new pools and a new order each epoch, keyed by (random_seed, epoch).
        pool_size: batches that a pool makes: more make batches more alike in length, and less random.
        random_seed: part of the key of the order.
        prefetch: batches prepared ahead in one background thread.

    """

    def __init__(
        self,
        length: Int64[Tensor, " num_seeds"],
        *,
        batch_size: int,
        collate: Callable[[Tensor], Batch],
        shuffle: bool = False,
        pool_size: int = 64,
        random_seed: int = 0,
        prefetch: int = 2,
    ) -> None:
        if pool_size < 1:
            raise ValueError(f"a pool holds at least one batch, got pool_size={pool_size}")
        super().__init__(
            len(length),
            batch_size=batch_size,
            collate=collate,
            shuffle=shuffle,
            random_seed=random_seed,
            prefetch=prefetch,
        )
        self.length, self.pool_size = length.cpu(), pool_size

    def order(self, epoch: int) -> Int64[Tensor, " num_seeds"]:
        """Seed numbers in the order of an epoch."""
        if not self.shuffle:
            return self.length.argsort(stable=True)
        order = super().order(epoch)
        num_batches = self.num_seeds // self.batch_size
        order, rest = order.split([num_batches * self.batch_size, self.num_seeds % self.batch_size])
        pool = torch.arange(len(order)) // (self.pool_size * self.batch_size)
        by_length = self.length[order].argsort(stable=True)
        order = order[by_length[pool[by_length].argsort(stable=True)]]
        key = keyed_bits(self.random_seed, epoch, "batch order", torch.arange(num_batches))
        batches = order.view(num_batches, self.batch_size)[key.argsort(stable=True)]
        return torch.cat([batches.flatten(), rest])
