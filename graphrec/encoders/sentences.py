"""A user's history as behavioural words: what UserBERT and its baselines read."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

MISSING = 0
"""Code of an attribute that the action's kind does not have, or that is null."""
RARE = 1
"""Code of a value that the vocabulary does not hold: too rare, or not seen when it was fitted."""
FIRST = 2
"""Code of the first value of a vocabulary."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BehaviorWords:
    """The behavioural words of one kind, such as long or short, for each query; oldest first.

    Query q has the words ``ptr[q]:ptr[q + 1]``, and word w the actions ``action_ptr[w]:action_ptr[w + 1]``,
    one at least.

    Attributes:
        ptr: boundaries of the queries' words.
        position: of each word: days (long) or hours (short) since the start of the query's window, from 0.
        action_ptr: boundaries of the words' actions.
        code: codes of the actions' attributes: ``MISSING``, ``RARE``, or a value's.

    """

    ptr: Int64[Tensor, " num_queries_and_one"]
    position: Int64[Tensor, " num_words"]
    action_ptr: Int64[Tensor, " num_words_and_one"]
    code: Int64[Tensor, "num_actions num_attributes"]

    @property
    def num_words(self) -> int:
        """Words of all queries."""
        return len(self.position)

    def to(self, device: torch.device | str) -> "BehaviorWords":
        """Copy to another device."""
        return BehaviorWords(
            ptr=self.ptr.to(device),
            position=self.position.to(device),
            action_ptr=self.action_ptr.to(device),
            code=self.code.to(device),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class UserSentences:
    """One sentence a query: words of each kind, and profile tokens.

    Attributes:
        words: by kind, in the order of the segments.
        profile: codes of the fields, ``MISSING`` where a user has none; no column without a profile.

    """

    words: Mapping[str, BehaviorWords]
    profile: Int64[Tensor, "num_queries num_fields"]

    def __len__(self) -> int:
        return len(self.profile)

    def to(self, device: torch.device | str) -> "UserSentences":
        """Copy to another device."""
        return UserSentences(
            words={kind: words.to(device) for kind, words in self.words.items()},
            profile=self.profile.to(device),
        )
