"""UserBERT's baselines that share its input and not its unified structure: a tower for each kind of words.

Li et al., "UserBERT", 2022, model baselines: Wide&Deep, LSTM and Transformer, pre-trained on several tasks
(``graphrec.training.finetuning.pretrain_on_tasks``) and then fine-tuned. Each is a model of sentences: its
towers' vectors and the profile's, side by side, go through one linear map to the joint vector of 128.
"""

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from graphrec.encoders.fit_until import FittedUntil
from graphrec.encoders.sentences import UserSentences
from graphrec.encoders.userbert import SentenceSizes, UserBERT, WordEmbedding, WordSizes
from graphrec.models.user_counts import aggregate, num_aggregates
from samplers.queries import expand_ranges


class TowerModel(FittedUntil, ABC):
    """A joint vector of towers' vectors and of the profile's embeddings.

    Args:
        sizes: of the sentences' vocabularies.
        tower_channels: width of all towers' vectors together.
        channels: size of the joint vector (paper: 128).
        attribute_channels: size of a profile field's embedding.

    Attributes:
        sizes: as given.
        out_channels: size of the joint vector.

    """

    def __init__(
        self, sizes: SentenceSizes, tower_channels: int, *, channels: int, attribute_channels: int
    ) -> None:
        super().__init__()
        self.sizes, self.out_channels = sizes, channels
        self.profile = nn.ModuleList(nn.Embedding(size, attribute_channels) for size in sizes.profile)
        self.lin_joint = nn.Linear(tower_channels + len(sizes.profile) * attribute_channels, channels)

    def forward(self, sentences: UserSentences) -> Float[Tensor, "num_queries channels"]:
        """Return a vector for each query; it does not depend on the other queries of the batch.

        Raises:
            ValueError: the sentences' kinds, attributes or fields are not those of ``sizes``.

        """
        self.sizes.check_shapes(sentences)
        fields = [table(sentences.profile[:, field]) for field, table in enumerate(self.profile)]
        joint: Tensor = self.lin_joint(torch.cat([*self.towers(sentences), *fields], dim=1))
        return joint

    @abstractmethod
    def towers(self, sentences: UserSentences) -> list[Tensor]:
        """Return each tower's vectors; (num_queries, any width)."""


class WideDeepModel(TowerModel):
    """Wide&Deep (Cheng et al., DLRS 2016) on aggregated features of a fixed length.

    The deep part reads :func:`~graphrec.models.user_counts.aggregate` (paper: 1,130 features, which it does
    not name) through layers of 512, 256, 256 and 128. The wide part is linear in the profile's embeddings:
    it is their share of the joint map. Without a profile there is no wide part.

    Args:
        sizes: of the sentences' vocabularies.
        channels: size of the joint vector.
        attribute_channels: size of a profile field's embedding.
        hidden_channels: of the deep part.
        max_codes: of each attribute, the codes that are counted.
        dropout: behind each hidden layer.

    """

    def __init__(
        self,
        sizes: SentenceSizes,
        *,
        channels: int = 128,
        attribute_channels: int = 32,
        hidden_channels: tuple[int, int, int, int] = (512, 256, 256, 128),
        max_codes: int = 64,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(sizes, hidden_channels[-1], channels=channels, attribute_channels=attribute_channels)
        self.max_codes = max_codes
        widths = [num_aggregates(sizes, max_codes), *hidden_channels]
        layers = list[nn.Module]()
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        self.deep = nn.Sequential(*layers)

    def towers(self, sentences: UserSentences) -> list[Tensor]:
        """Return the deep part's vectors."""
        return [self.deep(aggregate(sentences, self.sizes, max_codes=self.max_codes))]


class LSTMTower(nn.Module):
    """An LSTM over the words of one kind, oldest first: its state behind the last word, 0 without a word.

    A word enters as in UserBERT: its own vector and its position's.

    Args:
        sizes: of the kind's vocabularies.
        channels: size of a word's vector and of the state.
        attribute_channels: size of an attribute's embedding.

    """

    def __init__(self, sizes: WordSizes, channels: int, attribute_channels: int) -> None:
        super().__init__()
        self.words = WordEmbedding(sizes.num_codes, attribute_channels, channels)
        self.position = nn.Embedding(sizes.num_positions, channels)
        self.lstm = nn.LSTM(channels, channels, batch_first=True)

    def forward(self, sentences: UserSentences, kind: str) -> Float[Tensor, "num_queries channels"]:
        """Return a vector for each query."""
        words = sentences.words[kind]
        count = words.ptr.diff()
        token = self.words(words) + self.position(words.position)
        length = max(1, int(count.max())) if len(count) else 1
        # padding stands behind the words: no state at or before the last word sees it
        _, slot = expand_ranges(torch.arange(len(count), device=count.device) * length, count)
        padded = token.new_zeros(len(count) * length, token.shape[1]).index_copy(0, slot, token)
        states, _ = self.lstm(padded.unflatten(0, (len(count), length)))
        last = states[torch.arange(len(count), device=count.device), (count - 1).clamp(min=0)]
        return torch.where(count[:, None] > 0, last, 0.0)


class LSTMTowers(TowerModel):
    """A tower of an LSTM for each kind of words, and the profile.

    Args:
        sizes: of the sentences' vocabularies.
        channels: size of the states and of the joint vector (paper: 128).
        attribute_channels: size of an attribute's or field's embedding.

    """

    def __init__(self, sizes: SentenceSizes, *, channels: int = 128, attribute_channels: int = 32) -> None:
        super().__init__(
            sizes, len(sizes.words) * channels, channels=channels, attribute_channels=attribute_channels
        )
        self.tower = nn.ModuleDict(
            {kind: LSTMTower(size, channels, attribute_channels) for kind, size in sizes.words.items()}
        )

    def towers(self, sentences: UserSentences) -> list[Tensor]:
        """Return the vectors of each kind's tower."""
        return [tower(sentences, kind) for kind, tower in self.tower.items()]


class TransformerTowers(TowerModel):
    """A Transformer for each kind of words, and the profile.

    A tower is UserBERT on sentences of that kind alone, without a profile: what differs from UserBERT is
    that no word attends to one of the other kind.

    Args:
        sizes: of the sentences' vocabularies.
        channels: size of the vectors and of the joint vector (paper: 128).
        num_blocks: of each tower.
        num_heads: of a block.
        attribute_channels: size of an attribute's or field's embedding.
        dropout: of the input and of the blocks.

    """

    def __init__(
        self,
        sizes: SentenceSizes,
        *,
        channels: int = 128,
        num_blocks: int = 4,
        num_heads: int = 4,
        attribute_channels: int = 32,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(
            sizes, len(sizes.words) * channels, channels=channels, attribute_channels=attribute_channels
        )
        self.tower = nn.ModuleDict(
            {
                kind: UserBERT(
                    SentenceSizes(words={kind: size}),
                    channels=channels,
                    num_blocks=num_blocks,
                    num_heads=num_heads,
                    attribute_channels=attribute_channels,
                    dropout=dropout,
                )
                for kind, size in sizes.words.items()
            }
        )

    def towers(self, sentences: UserSentences) -> list[Tensor]:
        """Return the vectors of each kind's tower."""
        no_profile = sentences.profile[:, :0]
        return [
            cast(Tensor, tower(UserSentences(words={kind: sentences.words[kind]}, profile=no_profile)))
            for kind, tower in self.tower.items()
        ]
