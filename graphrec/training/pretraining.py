"""Pre-training of UserBERT on the sentences of many queries, and the files of pre-trained encoders.

With a tokenizer (``graphrec.encoders.behavior_words``) and queries, users as of times::

    reader = InputReader(graph, "user", tokenizer.requests, fields=tokenizer.fields)
    sentences = read_sentences(reader, tokenizer, user, time)
    bert = UserBERT(tokenizer.sizes)
    pretrain(MaskedWordModel(bert), sentences, time, fit_until=first_label, checkpoint=Path("run.pt"))
    save_encoder(Path("userbert.pt"), bert, tokenizer)
    encoder = load_node_encoder(Path("userbert.pt"), label_start=first_label)
    vector = encoder(encoder.prepare(reader.read(user, time)))
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from graph_builders.option_checks import check_numbers, check_whole_numbers
from graphrec.encoders.behavior_words import SentenceTokenizer
from graphrec.encoders.fit_until import move_fit_until
from graphrec.encoders.sentence_batches import LengthLoader, sentence_length, take_sentences
from graphrec.encoders.sentences import UserSentences
from graphrec.encoders.userbert import SentenceSizes, TokenizerFacts, UserBERT, WordSizes
from graphrec.encoders.userbert_encoder import UserBERTEncoder
from graphrec.training.adam import AdamConfig
from graphrec.training.checkpoint import (
    check_parts,
    digest_of_sentences,
    load_checkpoint,
    save_checkpoint,
    shape_of_model,
)
from graphrec.training.loop import TrainingPoint, train_steps
from graphrec.training.masked_words import (
    MaskedSentences,
    MaskedWordModel,
    TargetSampler,
    class_counts,
    mask_words,
)


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig(AdamConfig):
    """How UserBERT is pre-trained; the defaults are the paper's where it names a value.

    Attributes:
        epochs: passes over the sentences.
        batch_size: sentences a step.
        chosen_share: of a sentence's words.
        zeroed_share: of the chosen words.
        num_sampled: classes that stand for all in the softmax of an attribute with more; ``None``: all.
        random_seed: keys batches, masks and samples. Dropout draws from torch's generator.

    """

    epochs: int = 3
    batch_size: int = 16
    chosen_share: float = 0.15
    zeroed_share: float = 0.8
    num_sampled: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole_numbers(self, num_sampled=1)
        check_numbers(self, ("chosen_share",), above=0, most=1)
        check_numbers(self, ("zeroed_share",), least=0, most=1)


def pretrain(
    model: MaskedWordModel,
    sentences: UserSentences,
    query_time: Int64[Tensor, " num_queries"],
    *,
    fit_until: int,
    config: PretrainingConfig = PretrainingConfig(),
    checkpoint: Path | None = None,
    checkpoint_every: int = 500,
    log_every: int = 50,
    on_step: Callable[[int, int], None] | None = None,
) -> list[TrainingPoint]:
    """Fit a model in place by masked multi-label classification and return the training curve.

    Sentences without a word are left out. The output layers' biases start from the classes' counts where
    these layers are new, all biases 0; those of a model that was trained before go on. Where
    ``checkpoint`` exists, training goes on from it and ends with the same weights as without a break, as in
    :func:`graphrec.training.loop.train`; a checkpoint of other options, sentences or sizes is refused. What
    the encoder's weights were at the start is not compared. ``model.encoder.fit_until`` becomes
    ``fit_until``.

    Args:
        model: on the device to train on.
        sentences: of the queries, on any device.
        query_time: of each query: its sentence holds earlier events alone.
        fit_until: the earliest label window that the encoder may serve begins then or later.
        config: options.
        checkpoint: file to write and to resume from.
        checkpoint_every: steps between checkpoints.
        log_every: steps that a point of the curve averages.
        on_step: called with (steps done, steps in all), for progress.

    Raises:
        ValueError: a query time lies after ``fit_until``; a code or position has no row in the model's
            tables; no sentence has a word; the checkpoint is another run's, or was made until another time;
            or the training diverges.

    """
    _check(model, sentences, query_time, fit_until)
    with_words = sentence_length(sentences).nonzero()[:, 0].cpu()
    if not len(with_words):
        raise ValueError(f"none of {len(sentences)} sentences has a word: nothing to pre-train on")
    encoder, device = model.encoder, model.encoder.first.device
    counts = class_counts(sentences, model)
    if model.has_new_heads:
        model.start_from_counts(counts)
    move_fit_until(encoder, fit_until)
    sampler = None
    if config.num_sampled is not None:
        sampler = TargetSampler(counts, config.num_sampled, random_seed=config.random_seed)

    def loader(epoch: int) -> LengthLoader[MaskedSentences]:
        def collate(index: Tensor) -> MaskedSentences:
            query = with_words[index]
            batch = mask_words(
                take_sentences(sentences, query),
                query,
                chosen_share=config.chosen_share,
                zeroed_share=config.zeroed_share,
                random_seed=config.random_seed,
                epoch=epoch,
            )
            # the first query of a batch names it among the epoch's
            return batch if sampler is None else sampler.add_to(batch, epoch, int(query[0]))

        return LengthLoader(
            sentence_length(sentences)[with_words.to(sentences.profile.device)],
            batch_size=config.batch_size,
            collate=collate,
            shuffle=True,
            random_seed=config.random_seed,
        )

    def backward(batch: MaskedSentences) -> Tensor:
        with config.precision(device):
            loss: Tensor = model(batch.to(device))
        loss.backward()
        return loss.detach()

    return train_steps(
        model,
        lambda epoch, start: loader(epoch).batches(epoch, start_batch=start),
        backward,
        num_batches=len(loader(0)),
        config=config.optimizer(),
        device=device,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        log_every=log_every,
        on_step=on_step,
        made_from=None
        if checkpoint is None
        else {
            "config": asdict(config),
            "sentences": digest_of_sentences(sentences),
            "model": shape_of_model(model),
        },
    )


def _check(model: MaskedWordModel, sentences: UserSentences, query_time: Tensor, fit_until: int) -> None:
    if len(query_time) != len(sentences):
        raise ValueError(f"each sentence needs one query time: {len(sentences)} and {len(query_time)}")
    model.encoder.sizes.check(sentences)
    late = query_time > fit_until
    if bool(late.any()):
        raise ValueError(
            f"{int(late.sum())} of {len(query_time)} query times lie after fit_until={fit_until}, the latest "
            f"at {int(query_time.max())}: their sentences may hold events of label windows; leave them out"
        )


@torch.no_grad()
def masked_word_loss(
    model: MaskedWordModel,
    sentences: UserSentences,
    *,
    batch_size: int = 64,
    chosen_share: float = 0.15,
    zeroed_share: float = 0.8,
    random_seed: int = 0,
) -> dict[str, list[float]]:
    """Return the loss of each kind's attributes, a mean over the chosen words, on sentences held out.

    The softmax is over all classes. The model is left in evaluation mode.
    """
    model.eval()
    model.encoder.sizes.check(sentences)
    device = model.encoder.first.device
    total = {kind: [0.0] * len(size.num_codes) for kind, size in model.encoder.sizes.words.items()}
    num_chosen = dict.fromkeys(total, 0)

    def collate(query: Tensor) -> MaskedSentences:
        return mask_words(
            take_sentences(sentences, query),
            query,
            chosen_share=chosen_share,
            zeroed_share=zeroed_share,
            random_seed=random_seed,
        )

    loader = LengthLoader(sentence_length(sentences), batch_size=batch_size, collate=collate)
    for batch in loader.batches():
        for kind, losses in model.losses(batch.to(device)).items():
            num_chosen[kind] += len(batch.chosen[kind].word)
            total[kind] = [before + float(loss) for before, loss in zip(total[kind], losses, strict=True)]
    return {kind: [value / max(num_chosen[kind], 1) for value in values] for kind, values in total.items()}


def save_encoder(path: Path, encoder: UserBERT, tokenizer: SentenceTokenizer | None = None) -> None:
    """Write an encoder: sizes, options, weights and ``fit_until``; whole or not at all.

    Args:
        path: of the file.
        encoder: to write.
        tokenizer: that it was made for, written too: :func:`load_node_encoder` needs it. Without it the file
            knows the tokenizer's fingerprint alone, if the encoder was made of ``tokenizer.sizes``.

    Raises:
        ValueError: the tokenizer is another than the encoder's.

    """
    if tokenizer is not None:
        UserBERTEncoder(tokenizer, encoder)  # raises where they are not of one another
    made_by = encoder.sizes.made_by
    sizes = {
        "words": {
            kind: {"num_codes": list(size.num_codes), "num_positions": size.num_positions}
            for kind, size in encoder.sizes.words.items()
        },
        "profile": list(encoder.sizes.profile),
        "made_by": None if made_by is None else {**asdict(made_by), "fields": list(made_by.fields)},
    }
    saved = {
        "sizes": sizes,
        "options": encoder.options,
        "state": encoder.state_dict(),
        "tokenizer": None if tokenizer is None else tokenizer.state(),
    }
    save_checkpoint(path, saved)


def load_encoder(path: Path, *, label_start: int, device: torch.device | str = "cpu") -> UserBERT:
    """Read the model that :func:`save_encoder` wrote, in evaluation mode.

    Args:
        path: of the file.
        label_start: time of the first label that the encoder will be used for.
        device: where it is to lie.

    Raises:
        ValueError: pre-training or a vocabulary saw data at or after ``label_start``; the file was cut short,
            or is none of an encoder.

    """
    return _encoder_of(_read(path, device), label_start).to(device).eval()


def load_node_encoder(path: Path, *, label_start: int, device: torch.device | str = "cpu") -> UserBERTEncoder:
    """Read a model and its tokenizer from a file that :func:`save_encoder` wrote with both.

    Args:
        path: of the file.
        label_start: time of the first label that the encoder will be used for.
        device: where it is to lie.

    Raises:
        ValueError: as :func:`load_encoder`; or the file holds no tokenizer.

    """
    saved = _read(path, device)
    if saved.get("tokenizer") is None:
        raise ValueError(
            f"{path} holds no tokenizer: write it by save_encoder(path, encoder, tokenizer), or load_encoder "
            "and give UserBERTEncoder the tokenizer"
        )
    bert = _encoder_of(saved, label_start)
    encoder = UserBERTEncoder(SentenceTokenizer.from_state(saved["tokenizer"]), bert)
    encoder.check_before(label_start)
    return encoder.to(device).eval()


def _read(path: Path, device: torch.device | str) -> dict[str, Any]:
    saved = load_checkpoint(path, device=device)
    check_parts(path, saved, ("sizes", "options", "state"), "an encoder's file, as save_encoder writes it")
    return saved


def _encoder_of(saved: dict[str, Any], label_start: int) -> UserBERT:
    words = {
        kind: WordSizes(num_codes=tuple(size["num_codes"]), num_positions=size["num_positions"])
        for kind, size in saved["sizes"]["words"].items()
    }
    found = saved["sizes"].get("made_by")
    made_by = None if found is None else TokenizerFacts(**{**found, "fields": tuple(found["fields"])})
    sizes = SentenceSizes(words=words, profile=tuple(saved["sizes"]["profile"]), made_by=made_by)
    encoder = UserBERT(sizes, **saved["options"])
    encoder.load_state_dict(saved["state"])
    encoder.check_before(label_start)
    return encoder
