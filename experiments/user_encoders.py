"""Node-feature encoders of the users in LSTTM's short-term graph: what they read of a data set."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from experiments.main_inputs import MainInputs
from graph_builders.option_checks import check_choices, check_whole_numbers
from graphrec.encoders.behavior_words import SentenceTokenizer, long_words, short_words
from graphrec.encoders.input_reader import InputReader
from graphrec.encoders.userbert import UserBERT
from graphrec.encoders.userbert_encoder import UserBERTEncoder, read_sentences
from graphrec.encoders.vocabulary import fit_vocabularies
from graphrec.training.batches import EncodedNodes, rows_between
from graphrec.training.masked_words import MaskedWordModel
from graphrec.training.pretraining import PretrainingConfig, pretrain
from samplers.random_numbers import keyed_uniform

Learning = Literal["end to end", "fine-tuned", "frozen"]
LEARNING: tuple[Learning, ...] = ("end to end", "fine-tuned", "frozen")


@dataclass(frozen=True, kw_only=True)
class UserBERTFeatures:
    """UserBERT over what users were shown and did, small: on KuaiRand-Pure a user has some ten events.

    Attributes:
        learning: "end to end" from the first weights; "fine-tuned" from those of the pre-training; "frozen"
            keeps these as they are.
        pretraining: masked words, on histories of training rows before the test day; its random seed is that
            of the run. Not read where the encoder learns end to end alone.
        max_pretraining_queries: so many (user, time) of training rows, drawn at random.
        domains, behaviors: the parts whose events are read, as LSTTM's short-term graph has them.
        attributes: of the events.
        fields: of the items.
        days: length of the window of the long-term words; those of the last day are short-term.
        max_words: of each kind, the latest that are kept.
        channels, num_blocks, num_heads: of the model.
        nodes: which users are encoded: "all" of a batch's graph, or the "seeds" alone, with one layer.

    """

    learning: Learning = "fine-tuned"
    pretraining: PretrainingConfig = PretrainingConfig(
        epochs=2, batch_size=64, learning_rate=1e-3, decay=True
    )
    max_pretraining_queries: int = 20_000
    domains: tuple[str, ...] = ("internal", "external")
    behaviors: tuple[str, ...] = ("click", "skip")
    attributes: tuple[str, ...] = ("tab",)
    fields: tuple[str, ...] = ("author_id", "tag")
    days: int = 30
    max_words: int = 16
    channels: int = 32
    num_blocks: int = 2
    num_heads: int = 2
    nodes: Literal["all", "seeds"] = "seeds"

    def __post_init__(self) -> None:
        check_choices(self)
        check_whole_numbers(self, max_pretraining_queries=1, days=2, max_words=1, channels=1, num_blocks=1)
        check_whole_numbers(self, num_heads=1)


def make_userbert(inputs: MainInputs, config: UserBERTFeatures, *, until: int) -> UserBERTEncoder:
    """Build UserBERT with weights from torch's generator; its vocabularies saw events before ``until``."""
    relations = inputs.short_term_relations(config.domains, config.behaviors)
    actions = [relation.reverse_edge_type for relation in relations]
    options: dict[str, Any] = {
        "attributes": config.attributes,
        "fields": config.fields,
        "max_words": config.max_words,
    }
    kinds = {
        "long": long_words(actions, days=config.days, recent_days=1, **options),
        "short": short_words(actions, days=1, **options),
    }
    hours = inputs.tables.utc_offset_hours
    sign = "-" if hours < 0 else "+"
    tokenizer = SentenceTokenizer(
        kinds=kinds,
        vocabularies=fit_vocabularies(
            inputs.graph, [kind.request for kind in kinds.values()], fit_until=until
        ),
        time_zone=f"{sign}{int(abs(hours)):02}:{round(abs(hours) % 1 * 60):02}",
    )
    bert = UserBERT(
        tokenizer.sizes, channels=config.channels, num_blocks=config.num_blocks, num_heads=config.num_heads
    )
    return UserBERTEncoder(tokenizer, bert)


def trained_userbert(
    inputs: MainInputs,
    config: UserBERTFeatures,
    *,
    until: int,
    random_seed: int,
    device: torch.device,
    checkpoint: Path | None = None,
) -> UserBERTEncoder:
    """Build UserBERT as LSTTM is to start with it: pre-trained on rows before ``until``, if it is to be.

    Pre-training is by masked words, on the users' histories as of the periods of training rows. A finished
    checkpoint is read and nothing is trained.
    """
    encoder = make_userbert(inputs, config, until=until)
    if config.learning != "end to end":
        node, time = _training_queries(inputs, config, until, random_seed)
        pretrain(
            MaskedWordModel(encoder.bert).to(device),
            read_sentences(user_reader(inputs, encoder), encoder.tokenizer, node, time),
            time,
            fit_until=until,
            config=replace(config.pretraining, random_seed=random_seed),
            checkpoint=checkpoint,
        )
    encoder.check_before(until)
    return encoder.requires_grad_(config.learning != "frozen")


def user_reader(inputs: MainInputs, encoder: UserBERTEncoder) -> InputReader:
    """Read from the graph of all days: a history ends before its query's time, whatever comes later."""
    return InputReader(inputs.graph, "user", encoder.requests, fields=encoder.fields)


def encoded_users(inputs: MainInputs, encoder: UserBERTEncoder, config: UserBERTFeatures) -> EncodedNodes:
    """Return what batches read for the encoder."""
    return EncodedNodes(reader=user_reader(inputs, encoder), prepare=encoder.prepare, nodes=config.nodes)


def _training_queries(
    inputs: MainInputs, config: UserBERTFeatures, until: int, random_seed: int
) -> tuple[Tensor, Tensor]:
    """Return distinct (user, time) of the impressions before ``until``."""
    rows = rows_between(inputs.data, int(inputs.data.impressions.time.min()), until)
    pairs = torch.stack([inputs.data.impressions.user[rows], inputs.data.as_of[rows]]).unique(dim=1)
    order = keyed_uniform("pre-training", random_seed, pairs[0], pairs[1]).argsort()
    user, time = pairs[:, order[: config.max_pretraining_queries]]
    return user, time
