"""Masked multi-label classification: UserBERT's pretext task (Li et al., 2022, equation 1).

Some words of a sentence are chosen, most of these are zeroed, and from the output at each chosen word the
IDs that occur in it are predicted, attribute by attribute.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from graphrec.encoders.sentences import MISSING, BehaviorWords, UserSentences
from graphrec.encoders.userbert import UserBERT
from graphrec.nn.multi_label_softmax import ClassSampler, multi_label_loss, sampled_multi_label_loss
from samplers import keyed_bits, keyed_uniform
from samplers.queries import expand_ranges

FIRST_CLASS = MISSING + 1
"""Code of an output layer's first class: ``MISSING`` is no class and never a target."""


@dataclass(frozen=True, eq=False)
class SampledClasses:
    """Classes of an attribute that stand for all, and how likely each was to be drawn."""

    sampled: Int64[Tensor, " num_sampled"]
    log_probability: Float[Tensor, " num_sampled"]


@dataclass(frozen=True, eq=False)
class AttributeTargets:
    """What occurs in the chosen words of one kind: pairs of a word and an attribute's class, ragged.

    Attributes:
        word: chosen words with a target, in rising order, as numbers among the chosen.
        row: index into ``word`` of each target, in rising order.
        true_class: code of the target minus ``FIRST_CLASS``; each once in a word.
        classes: a sample of the classes; ``None``: the softmax is over all.

    """

    word: Int64[Tensor, " num_words"]
    row: Int64[Tensor, " num_true"]
    true_class: Int64[Tensor, " num_true"]
    classes: SampledClasses | None = None


@dataclass(frozen=True, eq=False)
class ChosenWords:
    """Chosen words of one kind.

    Attributes:
        word: their numbers among the kind's words of the batch, rising.
        zeroed: of all words of the kind, those whose own vector is taken away.
        targets: of each attribute.

    """

    word: Int64[Tensor, " num_chosen"]
    zeroed: Bool[Tensor, " num_words"]
    targets: Sequence[AttributeTargets]


@dataclass(frozen=True, eq=False)
class MaskedSentences:
    """A batch of the pretext task: sentences and what is to be predicted, by kind of words."""

    sentences: UserSentences
    chosen: Mapping[str, ChosenWords]

    def to(self, device: torch.device | str) -> "MaskedSentences":
        """Copy to another device."""

        def targets_to(targets: AttributeTargets) -> AttributeTargets:
            classes = targets.classes
            if classes is not None:
                classes = SampledClasses(classes.sampled.to(device), classes.log_probability.to(device))
            return AttributeTargets(
                targets.word.to(device), targets.row.to(device), targets.true_class.to(device), classes
            )

        return MaskedSentences(
            sentences=self.sentences.to(device),
            chosen={
                kind: ChosenWords(
                    part.word.to(device), part.zeroed.to(device), [targets_to(t) for t in part.targets]
                )
                for kind, part in self.chosen.items()
            },
        )


def mask_words(
    sentences: UserSentences,
    query: Int64[Tensor, " num_queries"],
    *,
    chosen_share: float = 0.15,
    zeroed_share: float = 0.8,
    random_seed: int = 0,
    epoch: int = 0,
) -> MaskedSentences:
    """Choose words uniformly, zero most of them, and list what occurs in them.

    Of a sentence with t words of all kinds, ``chosen_share * t`` are chosen, rounded, but one at least:
    BERT's own rule, which the paper follows ("a similar process as BERT"), so that every sentence with a word
    teaches. Each chosen word is zeroed with probability ``zeroed_share``. Profile tokens are never chosen.

    Args:
        sentences: the batch.
        query: a number for each sentence. The draws are keyed by it and by the word's number in its sentence,
            so they do not depend on the batch.
        chosen_share: of a sentence's words.
        zeroed_share: of the chosen words; the others enter as they are.
        random_seed: keys the draws, with ``epoch``.
        epoch: keys the draws.

    """
    query = query.to(sentences.profile.device)
    places = {kind: _places(words) for kind, words in sentences.words.items()}
    keys = {kind: (random_seed, epoch, kind, query[row], place) for kind, (row, place) in places.items()}
    is_chosen = _choose(
        {kind: row for kind, (row, _) in places.items()},
        {kind: keyed_bits("chosen words", *key) for kind, key in keys.items()},
        len(sentences),
        chosen_share,
    )
    chosen = {}
    for kind, words in sentences.words.items():
        zeroed = is_chosen[kind] & (keyed_uniform("zeroed words", *keys[kind]) < zeroed_share)
        word = is_chosen[kind].nonzero()[:, 0]
        chosen[kind] = ChosenWords(word, zeroed, word_targets(words, word))
    return MaskedSentences(sentences, chosen)


def _places(words: BehaviorWords) -> tuple[Tensor, Tensor]:
    """Sentence of each word, and its number in it among the words of its kind."""
    row, word = expand_ranges(words.ptr[:-1], words.ptr.diff())
    return row, word - words.ptr[row]


def _choose(
    rows: Mapping[str, Tensor], bits: Mapping[str, Tensor], num_queries: int, share: float
) -> dict[str, Tensor]:
    """Mark the words with the least random bits of each sentence, all kinds together."""
    if not rows:
        return {}
    row, draw = torch.cat(list(rows.values())), torch.cat(list(bits.values()))
    count = torch.bincount(row, minlength=num_queries)
    number = (share * count + 0.5).long().clamp(min=1)
    order = draw.argsort(stable=True)
    order = order[row[order].argsort(stable=True)]
    rank = torch.empty_like(order)
    rank[order] = expand_ranges(torch.zeros_like(count), count)[1]
    is_chosen = rank < number[row]
    return dict(zip(rows, is_chosen.split([len(part) for part in rows.values()]), strict=True))


def word_targets(words: BehaviorWords, chosen: Int64[Tensor, " num_chosen"]) -> list[AttributeTargets]:
    """List the distinct codes of each attribute in the chosen words; ``MISSING`` is left out."""
    start, count = words.action_ptr[:-1][chosen], words.action_ptr.diff()[chosen]
    owner, action = expand_ranges(start, count)
    targets = []
    for code in words.code[action].unbind(dim=1):
        is_present = code != MISSING
        size = int(code.max()) + 1 if len(code) else 1
        pair = (owner[is_present] * size + code[is_present]).unique()
        owner_of_pair = pair // size
        word, row = owner_of_pair.unique_consecutive(return_inverse=True)
        targets.append(AttributeTargets(word, row, pair % size - FIRST_CLASS))
    return targets


class MaskedWordModel(nn.Module):
    """An encoder and, for each kind's attributes, one linear layer that predicts what occurs in a word.

    Args:
        encoder: trained together with the layers; its ``sizes`` give their numbers of classes.

    """

    def __init__(self, encoder: UserBERT) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict(
            {
                kind: nn.ModuleList(
                    nn.Linear(encoder.out_channels, num_codes - FIRST_CLASS) for num_codes in size.num_codes
                )
                for kind, size in encoder.sizes.words.items()
            }
        )
        for head in self.modules_of_heads():
            nn.init.normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)

    def modules_of_heads(self) -> list[nn.Linear]:
        """Return the output layers: attribute by attribute of each kind in turn."""
        return [
            head
            for heads in self.heads.values()
            for head in heads  # type: ignore[attr-defined]
        ]

    @property
    def has_new_heads(self) -> bool:
        """Whether no output layer has learned anything: all biases are 0, as a new model has them."""
        return not any(bool(head.bias.any()) for head in self.modules_of_heads())

    @torch.no_grad()
    def start_from_counts(self, counts: Mapping[str, Sequence[Int64[Tensor, " _"]]]) -> None:
        """Set the biases to the logarithms of the classes' shares, so that training need not learn those.

        Args:
            counts: as from :func:`class_counts`; one is added to each.

        """
        for kind, heads in self.heads.items():
            for head, count in zip(heads, counts[kind], strict=True):  # type: ignore[call-overload]
                share = (count + 1).double() / float((count + 1).sum())
                head.bias.copy_(share.log())

    def losses(self, batch: MaskedSentences) -> dict[str, list[Float[Tensor, ""]]]:
        """Return the loss of each kind's attributes, summed over the chosen words (equation 1)."""
        zeroed = {kind: chosen.zeroed for kind, chosen in batch.chosen.items()}
        chosen_words = {kind: chosen.word for kind, chosen in batch.chosen.items()}
        encoded = self.encoder.encode(batch.sentences, chosen_words, zeroed)
        return {
            kind: [
                _head_loss(head, encoded.words[kind], targets)
                for head, targets in zip(self.heads[kind], chosen.targets, strict=True)  # type: ignore[call-overload]
            ]
            for kind, chosen in batch.chosen.items()
        }

    def forward(self, batch: MaskedSentences) -> Float[Tensor, ""]:
        """Return the loss summed over attributes and chosen words, a mean over the batch's sentences."""
        losses = [loss for of_kind in self.losses(batch).values() for loss in of_kind]
        return torch.stack(losses).sum() / len(batch.sentences)


def _head_loss(head: nn.Linear, x: Tensor, targets: AttributeTargets) -> Tensor:
    x = x[targets.word]
    true = targets.row, targets.true_class
    if targets.classes is None:
        return multi_label_loss(x, head.weight, head.bias, *true)
    classes = targets.classes
    return sampled_multi_label_loss(
        x, head.weight, head.bias, *true, classes.sampled, classes.log_probability.to(x.dtype)
    )


def class_counts(sentences: UserSentences, model: MaskedWordModel) -> dict[str, list[Int64[Tensor, " _"]]]:
    """Count the words of each kind in which each class of each attribute occurs."""
    counts = {}
    for kind, words in sentences.words.items():
        every = torch.arange(words.num_words, device=words.ptr.device)
        targets = word_targets(words, every)
        counts[kind] = [
            torch.bincount(target.true_class, minlength=head.out_features)
            for target, head in zip(targets, model.heads[kind], strict=True)  # type: ignore[call-overload]
        ]
    return counts


class TargetSampler:
    """Draws the classes that stand for all, for each attribute with more classes than a sample has.

    A class is drawn with a probability that grows with its count to the power of 0.75 (Mikolov et al., 2013).

    Args:
        counts: as from :func:`class_counts`.
        num_sampled: classes of a sample.
        random_seed: keys the draws.

    """

    def __init__(
        self, counts: Mapping[str, Sequence[Int64[Tensor, " _"]]], num_sampled: int, *, random_seed: int = 0
    ) -> None:
        self.samplers = {
            kind: [
                ClassSampler(count.clamp(min=1).double() ** 0.75, num_sampled, random_seed=random_seed)
                if len(count) > num_sampled
                else None
                for count in of_kind
            ]
            for kind, of_kind in counts.items()
        }

    def add_to(self, batch: MaskedSentences, *keys: int) -> MaskedSentences:
        """Return the batch with samples drawn by these keys."""
        chosen = {}
        for kind, part in batch.chosen.items():
            targets = [
                target if sampler is None else replace(target, classes=_draw(sampler, kind, number, *keys))
                for number, (target, sampler) in enumerate(
                    zip(part.targets, self.samplers[kind], strict=True)
                )
            ]
            chosen[kind] = replace(part, targets=targets)
        return replace(batch, chosen=chosen)


def _draw(sampler: ClassSampler, *keys: int | str) -> SampledClasses:
    sampled = sampler.sample(*keys)
    return SampledClasses(sampled, sampler.probability[sampled].log().float())
