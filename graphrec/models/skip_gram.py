"""word2vec by gensim on sequences of rows: for DeepWalk's walks and users' sequences of items."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from graph_builders.option_checks import check_numbers, check_whole_numbers

_LAST_RATE = 1e-4


@dataclass(frozen=True, kw_only=True)
class SkipGramConfig:
    """How skip-gram with negative sampling (Mikolov et al., NeurIPS 2013) is fitted.

    Attributes:
        channels: of a vector.
        window: pairs at most this many places of a sequence apart.
        num_negatives: sampled rows a pair.
        epochs: passes over the sequences.
        learning_rate: at the start; falls to 0.0001.
        random_seed: of everything. One thread, so that a seed gives the same vectors.

    """

    channels: int = 128
    window: int = 5
    num_negatives: int = 5
    epochs: int = 1
    learning_rate: float = 0.025
    random_seed: int = 0

    def __post_init__(self) -> None:
        check_whole_numbers(self, channels=1, window=1, num_negatives=1, epochs=1, random_seed=0)
        check_numbers(self, ("learning_rate",), above=_LAST_RATE)


def fit_skip_gram(
    sequences: Iterable[list[str]], num_rows: int, config: SkipGramConfig
) -> tuple[Float32[Tensor, "num_rows channels"], Bool[Tensor, " num_rows"]]:
    """Return a vector for each row, 0 where no sequence holds it, and which rows have one.

    Args:
        sequences: rows as words, read several times.
        num_rows: rows lie below.
        config: options.

    """
    from gensim.models import Word2Vec

    model: Any = Word2Vec(
        sequences,
        vector_size=config.channels,
        window=config.window,
        sg=1,
        negative=config.num_negatives,
        min_count=1,
        epochs=config.epochs,
        alpha=config.learning_rate,
        min_alpha=_LAST_RATE,
        seed=config.random_seed,
        workers=1,
    )
    row = torch.tensor([int(word) for word in model.wv.index_to_key], dtype=torch.int64)
    vector, is_known = torch.zeros(num_rows, config.channels), torch.zeros(num_rows, dtype=torch.bool)
    vector[row], is_known[row] = torch.from_numpy(model.wv.vectors.copy()), True
    return vector, is_known
