"""UserBERT (Li et al., 2022): sentences of behavioural words to vectors.

Axis letters: N queries, L tokens of the longest sentence, C channels.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from graphrec.encoders.fit_until import FittedUntil
from graphrec.encoders.sentences import BehaviorWords, UserSentences
from graphrec.nn.transformer import TransformerBlock
from samplers.queries import expand_ranges


@dataclass(frozen=True, kw_only=True)
class WordSizes:
    """How large the vocabularies of one kind of words are.

    Attributes:
        num_codes: of each attribute of an action, with ``MISSING`` and ``RARE``.
        num_positions: days or hours of the kind's window.

    """

    num_codes: Sequence[int]
    num_positions: int


@dataclass(frozen=True, kw_only=True)
class TokenizerFacts:
    """What a model keeps of the tokenizer that it was made for.

    Attributes:
        fingerprint: of the tokenizer's words, edge types, names, zone, rules and limits.
        fit_until: until when its vocabularies were fitted; None for tables that never change.
        fields: names of the profile's columns.

    """

    fingerprint: str
    fit_until: int | None
    fields: tuple[str, ...]

    def check_before(self, label_start: int) -> None:
        """Raise if a vocabulary saw anything at or after the first label window begins.

        Raises:
            ValueError: ``fit_until`` is later than ``label_start``.

        """
        if self.fit_until is not None and self.fit_until > label_start:
            raise ValueError(
                f"the vocabularies were fitted on data until {self.fit_until}, labels begin at "
                f"{label_start}: fit them on what was known before"
            )


@dataclass(frozen=True, kw_only=True)
class SentenceSizes:
    """How large the vocabularies of sentences are.

    Attributes:
        words: of each kind of words, in the order of the segments.
        profile: numbers of codes of the profile's fields.
        made_by: the tokenizer that they are of; None of sizes made by hand. It travels with a model and its
            file, so that codes of other words are not taken for these; sizes are equal without it.

    """

    words: Mapping[str, WordSizes]
    profile: Sequence[int] = ()
    made_by: TokenizerFacts | None = dataclasses.field(default=None, repr=False, compare=False)

    def check(self, sentences: UserSentences) -> None:
        """Raise if a sentence has a code or position that no table has a row for.

        Raises:
            ValueError: the first kind, attribute or field that does not fit, and what was found.

        """
        self.check_shapes(sentences)
        for kind, sizes in self.words.items():
            words = sentences.words[kind]
            _check_range(f"position of {kind!r} words", words.position, sizes.num_positions)
            for number, num_codes in enumerate(sizes.num_codes):
                _check_range(
                    f"code of attribute {number} of {kind!r} words", words.code[:, number], num_codes
                )
        for number, num_codes in enumerate(self.profile):
            _check_range(f"code of profile field {number}", sentences.profile[:, number], num_codes)

    def check_shapes(self, sentences: UserSentences) -> None:
        """Raise if the kinds, or the numbers of attributes or fields, are others; needs no value.

        Raises:
            ValueError: what was wanted and what came.

        """
        wanted = {kind: len(sizes.num_codes) for kind, sizes in self.words.items()}
        found = {kind: words.code.shape[1] for kind, words in sentences.words.items()}
        if list(wanted.items()) != list(found.items()) or sentences.profile.shape[1] != len(self.profile):
            raise ValueError(
                f"the sizes are of words with attributes {wanted} and {len(self.profile)} profile fields, "
                f"the sentences have {found} and {sentences.profile.shape[1]}: fit both on one vocabulary"
            )


def _check_range(what: str, value: Tensor, size: int) -> None:
    if not value.numel():
        return
    low, high = (int(bound) for bound in value.aminmax())
    if low < 0 or high >= size:
        raise ValueError(f"each {what} must lie in [0, {size}), got [{low}, {high}]")


class EncodedSentences(NamedTuple):
    """Vectors of the last block: of the first tokens, and of the wanted words of each kind."""

    first: Float[Tensor, "num_queries channels"]
    words: dict[str, Float[Tensor, "_ channels"]]


class TokenLayout(NamedTuple):
    """Where tokens lie in a padded batch.

    Attributes:
        length: tokens of the longest sentence.
        slot: of each kind's words, row times ``length`` plus place.
        mask: True for a token, in (num_queries, length).
        padded: whether any is False.

    """

    length: int
    slot: dict[str, Int64[Tensor, " _"]]
    mask: Bool[Tensor, "num_queries length"]
    padded: bool


class WordEmbedding(nn.Module):
    """A word's vector: the mean over its actions of their attributes' embeddings side by side.

    Where these are not as wide as the output together, a linear map follows; since it is linear, it is taken
    of the mean instead of each action.

    Args:
        num_codes: of each attribute.
        attribute_channels: size of an attribute's embedding.
        channels: size of a word's vector.

    """

    def __init__(self, num_codes: Sequence[int], attribute_channels: int, channels: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(
            nn.EmbeddingBag(size, attribute_channels, mode="mean", include_last_offset=True)
            for size in num_codes
        )
        width = len(num_codes) * attribute_channels
        self.projection = nn.Identity() if width == channels else nn.Linear(width, channels)

    def forward(self, words: BehaviorWords) -> Float[Tensor, "num_words channels"]:
        """Return the vector of each word."""
        parts = [
            table(code, words.action_ptr)
            for table, code in zip(self.tables, words.code.T.contiguous(), strict=True)
        ]
        out: Tensor = self.projection(torch.cat(parts, dim=1))
        return out


class UserBERT(FittedUntil):
    """BERT's encoder over a user's behavioural words and profile; the first token's output is the user.

    A word enters as the sum of its own vector, its position's and its segment's; a profile token as the sum
    of its code's and its segment's; then layer normalisation and dropout, as in BERT. Each kind of words is a
    segment with attribute tables and a position table of its own, since days and hours count from other
    starts; all profile fields are one segment. A sentence may have no words: its first token stands alone.

    Choices where the paper is silent: ``attribute_channels``, the scale of the initial weights (BERT's), no
    dropout inside the attention (see ``TransformerBlock``).

    Args:
        sizes: of the sentences' vocabularies.
        channels: size of the vectors (paper: 128).
        num_blocks: blocks (paper: 4).
        num_heads: heads of a block (paper: 4).
        attribute_channels: size of an attribute's embedding.
        dropout: of the input and of the blocks (BERT: 0.1).
        attention_dropout: of the attention's weights (BERT: 0.1; see ``TransformerBlock``).

    Attributes:
        out_channels: size of a user's vector.
        options: the other arguments, by name.
        checkpoint_activations: set it to keep the blocks' inputs alone for the backward pass and compute the
            rest there again: about a third more time, and memory of one block in the place of all. The
            gradients are the same. Not within ``torch.func`` (temporal MAML), which torch refuses.

    """

    noun = "encoder"

    def __init__(
        self,
        sizes: SentenceSizes,
        *,
        channels: int = 128,
        num_blocks: int = 4,
        num_heads: int = 4,
        attribute_channels: int = 32,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not sizes.words:
            raise ValueError("sentences need one kind of words at least: sizes.words is empty")
        self.sizes, self.out_channels = sizes, channels
        self.options: dict[str, int | float] = {
            "channels": channels,
            "num_blocks": num_blocks,
            "num_heads": num_heads,
            "attribute_channels": attribute_channels,
            "dropout": dropout,
            "attention_dropout": attention_dropout,
        }
        for name in ("channels", "num_blocks", "num_heads", "attribute_channels"):
            if self.options[name] < 1:
                raise ValueError(f"{name} must be at least 1, got {self.options[name]}")
        self.checkpoint_activations = False
        self.first = nn.Parameter(torch.zeros(channels))
        self.words = nn.ModuleDict(
            {
                kind: WordEmbedding(size.num_codes, attribute_channels, channels)
                for kind, size in sizes.words.items()
            }
        )
        self.position = nn.ModuleDict(
            {kind: nn.Embedding(size.num_positions, channels) for kind, size in sizes.words.items()}
        )
        self.profile = nn.ModuleList(nn.Embedding(size, channels) for size in sizes.profile)
        self.segment = nn.Embedding(len(sizes.words) + 1, channels)
        self.norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                channels, num_heads=num_heads, dropout=dropout, attention_dropout=attention_dropout
            )
            for _ in range(num_blocks)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew, as BERT's: normal with deviation 0.02, biases zero."""
        nn.init.normal_(self.first, std=0.02)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding, nn.EmbeddingBag)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def check_before(self, label_start: int) -> None:
        """Raise if pre-training, or a vocabulary, may have seen anything at or after the first label.

        Raises:
            ValueError: ``fit_until`` of either is later than ``label_start``.

        """
        super().check_before(label_start)
        if self.sizes.made_by is not None:
            self.sizes.made_by.check_before(label_start)

    def forward(self, sentences: UserSentences) -> Float[Tensor, "num_queries channels"]:
        """Return a vector for each query; it does not depend on the other queries of the batch."""
        return self.encode(sentences, {}).first

    def encode(
        self,
        sentences: UserSentences,
        wanted: Mapping[str, Int64[Tensor, " _"]],
        zeroed: Mapping[str, Bool[Tensor, " _"]] | None = None,
    ) -> EncodedSentences:
        """Return the vectors of the first tokens and of the wanted words.

        The last block makes no other token's vector.

        Args:
            sentences: on the model's device.
            wanted: of each kind, numbers of words; a kind that is not named gives none.
            zeroed: of each kind, the words whose own vector is taken away; position and segment stay.

        Raises:
            ValueError: the sentences' kinds, attributes or fields are not those of ``sizes``.

        """
        layout = lay_out(sentences)
        x = self._input(sentences, layout, zeroed)
        mask = layout.mask if layout.padded else None
        for block in self.blocks[:-1]:
            x = self._through(block, x, mask)
        slots = [layout.length * torch.arange(len(x), device=x.device)]
        slots += [layout.slot[kind][word] for kind, word in wanted.items()]
        row, column, place = _side_by_side(torch.cat(slots), layout.length, len(x))
        last = self._through(self.blocks[-1], x, mask, place)
        first, *words = last[row, column].split([len(slot) for slot in slots])
        return EncodedSentences(first, dict(zip(wanted, words, strict=True)))

    @torch.no_grad()
    def attention(
        self, sentences: UserSentences
    ) -> tuple[Float[Tensor, "num_blocks num_queries num_heads length length"], TokenLayout]:
        """Return the attention's weights of all blocks, to look at them, and where the words lie in them.

        In the order of the tokens: the first, the profile's, and the words of each kind.
        """
        layout = lay_out(sentences)
        x, weights = self._input(sentences, layout, None), []
        for block in self.blocks:
            weights.append(block.attention(x, layout.mask))  # type: ignore[operator]
            x = block(x, layout.mask)
        return torch.stack(weights), layout

    def _through(self, block: nn.Module, *inputs: Tensor | None) -> Tensor:
        """Return a block's output; with checkpointed activations what it kept inside is thrown away."""
        if self.checkpoint_activations and torch.is_grad_enabled():
            out: Tensor = checkpoint(block, *inputs, use_reentrant=False)
        else:
            out = block(*inputs)
        return out

    def _input(
        self, sentences: UserSentences, layout: TokenLayout, zeroed: Mapping[str, Tensor] | None
    ) -> Tensor:
        self.sizes.check_shapes(sentences)
        num_queries = len(sentences)
        tokens, slots = [], []
        for number, (kind, words) in enumerate(sentences.words.items()):
            token = self.words[kind](words)
            if zeroed is not None:
                token = token.masked_fill(zeroed[kind][:, None], 0.0)
            tokens.append(token + self.position[kind](words.position) + self.segment.weight[number])
            slots.append(layout.slot[kind])
        begin = layout.length * torch.arange(num_queries, device=sentences.profile.device)
        for field, table in enumerate(self.profile):
            tokens.append(table(sentences.profile[:, field]) + self.segment.weight[-1])
            slots.append(begin + 1 + field)
        tokens.append(self.first.expand(num_queries, -1))
        slots.append(begin)
        together = self.dropout(self.norm(torch.cat(tokens)))
        padded = together.new_zeros(num_queries * layout.length, together.shape[1])
        return padded.index_copy(0, torch.cat(slots), together).unflatten(0, (num_queries, layout.length))


def _side_by_side(slot: Tensor, length: int, num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row and column at which each slot's place stands in a table of each row's places, and the table.

    Rows with fewer places are filled up with place 0.
    """
    row = slot // length
    count = torch.bincount(row, minlength=num_rows)
    column = torch.empty_like(row)
    column[row.argsort(stable=True)] = expand_ranges(torch.zeros_like(count), count)[1]
    place = slot.new_zeros(num_rows, int(count.max()) if num_rows else 1)
    place[row, column] = slot % length
    return row, column, place


def lay_out(sentences: UserSentences) -> TokenLayout:
    """Place each sentence's tokens one behind the other: the first, the profile, the words of each kind."""
    num_queries, num_fields = sentences.profile.shape
    device = sentences.profile.device
    end = torch.full((num_queries,), 1 + num_fields, device=device)
    start, rows = {}, torch.arange(num_queries, device=device)
    for kind, words in sentences.words.items():
        start[kind], end = end, end + words.ptr.diff()
    shortest, length = (int(bound) for bound in end.aminmax()) if num_queries else (1, 1)
    slot = {
        kind: expand_ranges(rows * length + start[kind], words.ptr.diff())[1]
        for kind, words in sentences.words.items()
    }
    mask = torch.arange(length, device=device) < end[:, None]
    return TokenLayout(length, slot, mask, shortest < length)
