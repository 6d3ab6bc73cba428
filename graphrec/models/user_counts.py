"""What users did, as counts: from sentences to codes' counts, words' ages, and features of a fixed length.

The simple baselines of user tasks read these (``graphrec.models.user_baselines``), and the deep part of
Wide&Deep (``graphrec.models.user_towers``).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from graphrec.encoders.behavior_words import WordKind
from graphrec.encoders.local_clock import DAY_SECONDS, HOUR_SECONDS
from graphrec.encoders.sentences import MISSING, BehaviorWords, UserSentences
from graphrec.encoders.userbert import SentenceSizes


def word_ages(sentences: UserSentences, kinds: Mapping[str, WordKind]) -> dict[str, Float32[Tensor, " _"]]:
    """Return how many days before its query each word of each kind lies, from its position; 0 at least.

    Args:
        sentences: of a tokeniser.
        kinds: the tokeniser's: they know the window and what a position counts.

    Raises:
        ValueError: the sentences have a kind of words that is not given.

    """
    missing = sorted(set(sentences.words) - set(kinds))
    if missing:
        raise ValueError(f"the kinds of words {missing} are not given: pass the tokenizer's kinds")
    ages = {}
    for name, words in sentences.words.items():
        window = kinds[name].request.window
        assert window is not None  # WordKind refuses None
        unit = DAY_SECONDS if kinds[name].position == "days" else HOUR_SECONDS
        ages[name] = ((window - words.position.float() * unit) / DAY_SECONDS).clamp(min=0)
    return ages


def half_life_weights(
    ages: Mapping[str, Float32[Tensor, " _"]], half_life: float
) -> dict[str, Float32[Tensor, " _"]]:
    """Return 1 for a word of now, and half as much for each ``half_life`` days of age.

    Raises:
        ValueError: ``half_life`` is not above 0.

    """
    if not half_life > 0:
        raise ValueError(f"half_life must be above 0 days, got {half_life}")
    return {kind: torch.exp2(-age / half_life) for kind, age in ages.items()}


def code_counts(
    sentences: UserSentences,
    attributes: Mapping[str, int],
    num_codes: int,
    *,
    weights: Mapping[str, Float32[Tensor, " _"]] | None = None,
) -> Any:
    """Count in how many of a query's words each code of an attribute occurs.

    A code counts once a word, however many actions have it: on groceries, baskets and not lines.

    Args:
        sentences: on the CPU.
        attributes: of each kind of words that is counted, which column of ``BehaviorWords.code`` holds the
            attribute; its codes must mean the same in all kinds.
        num_codes: of the attribute.
        weights: of each kind, what a word counts; default: 1.

    Returns:
        scipy's CSR array of float64, (num_queries, num_codes); ``MISSING`` and ``RARE`` have columns as well.

    Raises:
        ValueError: a kind or column does not exist, or a code is ``num_codes`` or more.

    """
    from scipy.sparse import csr_array

    rows, codes, values = [], [], []
    for kind, attribute in attributes.items():
        words = sentences.words.get(kind)
        if words is None or not 0 <= attribute < words.code.shape[1]:
            found = {name: words.code.shape[1] for name, words in sentences.words.items()}
            raise ValueError(f"no attribute {attribute} of {kind!r} words, they have {found} attributes")
        if len(words.code) and int(words.code[:, attribute].max()) >= num_codes:
            raise ValueError(
                f"attribute {attribute} of {kind!r} words has codes up to "
                f"{int(words.code[:, attribute].max())}, num_codes is {num_codes}: take the vocabulary's"
            )
        pair = (_word_of_action(words) * num_codes + words.code[:, attribute]).unique()
        word = pair // num_codes
        weight = torch.ones(words.num_words) if weights is None else weights[kind]
        rows.append(_query_of_word(words)[word].numpy())
        codes.append((pair % num_codes).numpy())
        values.append(weight.double()[word].numpy())
    where = (np.concatenate(rows), np.concatenate(codes)) if rows else ([], [])
    table = csr_array(
        (np.concatenate(values) if values else [], where), shape=(len(sentences), num_codes), dtype=np.float64
    )
    table.sum_duplicates()
    return table


def num_aggregates(sizes: SentenceSizes, max_codes: int) -> int:
    """Return the number of columns of :func:`aggregate`."""
    return sum(
        4 + sum(min(size, max_codes) for size in kind_sizes.num_codes) for kind_sizes in sizes.words.values()
    )


def aggregate(
    sentences: UserSentences, sizes: SentenceSizes, *, max_codes: int = 64
) -> Float[Tensor, "num_queries num_features"]:
    """Return features of a fixed length for each query, on its device.

    Of each kind of words: log(1 + number of words), log(1 + number of actions), the positions of the last and
    of the first word from 0 to 1 (0 without a word), and for each attribute log(1 + number of actions) of
    each of its first codes. A vocabulary's codes are in the order of frequency, so these are the frequent
    ones; ``MISSING`` and ``RARE`` are among them. Positions tell the age, as windows end with the query.

    Args:
        sentences: of the kinds and attributes of ``sizes``.
        sizes: of their vocabularies.
        max_codes: of each attribute, the codes that are counted.

    """
    sizes.check_shapes(sentences)
    num_queries, columns = len(sentences), []
    for kind, kind_sizes in sizes.words.items():
        words = sentences.words[kind]
        query = _query_of_word(words)
        num_words = words.ptr.diff()
        position = torch.cat(
            [(words.position.float() + 1) / kind_sizes.num_positions, words.ptr.new_zeros(1)]
        )
        place = torch.where(num_words > 0, words.ptr[:-1], words.num_words)  # behind all words stands a 0
        first, last = position[place], position[place + (num_words - 1).clamp(min=0)]
        query = query[_word_of_action(words)]
        num_actions = torch.bincount(query, minlength=num_queries)
        columns.append(torch.stack([num_words.float().log1p(), num_actions.float().log1p(), last, first], 1))
        for number, size in enumerate(kind_sizes.num_codes):
            columns.append(_counts(query, words.code[:, number], num_queries, min(size, max_codes)).log1p())
    return torch.cat(columns, dim=1)


def tree_features(
    sentences: UserSentences, sizes: SentenceSizes, *, max_codes: int = 64
) -> Float32[Tensor, "num_queries num_features"]:
    """Return :func:`aggregate` and the profile's codes, NaN where missing: what boosted trees read.

    A number's codes are its bins in their order; those of a category are in the order of frequency.
    """
    profile = sentences.profile.float()
    profile = torch.where(sentences.profile == MISSING, torch.nan, profile)
    return torch.cat([aggregate(sentences, sizes, max_codes=max_codes), profile], dim=1).cpu()


def _counts(query: Tensor, code: Tensor, num_queries: int, num_codes: int) -> Tensor:
    kept = code < num_codes
    flat = query[kept] * num_codes + code[kept]
    return torch.bincount(flat, minlength=num_queries * num_codes).view(num_queries, num_codes).float()


def _query_of_word(words: BehaviorWords) -> Int64[Tensor, " num_words"]:
    count = words.ptr.diff()
    return torch.arange(len(count), device=count.device).repeat_interleave(count)


def _word_of_action(words: BehaviorWords) -> Int64[Tensor, " num_actions"]:
    count = words.action_ptr.diff()
    return torch.arange(len(count), device=count.device).repeat_interleave(count)
