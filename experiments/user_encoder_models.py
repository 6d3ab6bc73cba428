"""Makes user encoders of a configuration on any behaviour graph, and pre-trains each as its paper does.

UserBERT predicts masked words, SMEN tells parts of lives apart, DUPN and the heatmap CNN learn several tasks
at once; which tasks these are, the caller says.
"""

import time as clock
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from experiments.parts import PROTOCOL_VERSION
from experiments.snapshots import locked_checkpoint
from experiments.user_encoders import (
    DUPNFeatures,
    HeatmapFeatures,
    SingleFeatures,
    SMENFeatures,
    UserBERTFeatures,
)
from graph_builders import BehaviorGraph
from graphrec.encoders.bag_of_interests import InterestCounter
from graphrec.encoders.base import NodeEncoder
from graphrec.encoders.behavior_sequences import (
    SequenceTokenizer,
    behavior_request,
    concatenate_sequences,
    item_fingerprint,
)
from graphrec.encoders.behavior_words import SentenceTokenizer, long_words, short_words
from graphrec.encoders.dupn import DUPN, DUPNEncoder
from graphrec.encoders.heatmap import HeatmapChannel, HeatmapEncoding, concatenate_heatmaps
from graphrec.encoders.heatmap_cnn import LEVELS, HeatmapCNN, HeatmapEncoder, narrow_levels
from graphrec.encoders.input_reader import InputReader, prepare_queries
from graphrec.encoders.interests import SphericalKMeans, assign_interests, fit_interests
from graphrec.encoders.item_embedding import ItemEmbedding, embed_items
from graphrec.encoders.item_text import fit_word_vocabulary, item_words, known_items
from graphrec.encoders.local_clock import DAY_SECONDS, LocalClock
from graphrec.encoders.smen import SMEN
from graphrec.encoders.smen_encoder import SMENEncoder, read_bags
from graphrec.encoders.userbert import UserBERT
from graphrec.encoders.userbert_encoder import UserBERTEncoder, read_sentences
from graphrec.encoders.vocabulary import fit_vocabularies
from graphrec.models.dupn_heads import TaskHead, TaskRows
from graphrec.training.checkpoint import load_checkpoint, save_checkpoint
from graphrec.training.contrastive import ContrastiveConfig
from graphrec.training.item_pairs import ItemPairSampler, train_item_embedding
from graphrec.training.masked_words import MaskedWordModel
from graphrec.training.multi_task import MultiTaskConfig, MultiTaskModel, TaskData, fit_tasks
from graphrec.training.pretraining import pretrain
from graphrec.training.sub_lives import train_smen
from samplers import EdgeType


@dataclass(frozen=True, kw_only=True, eq=False)
class EncoderSource:
    """What an encoder is made from and may see.

    Attributes:
        graph: the events; later ones than ``fit_until`` may be there.
        edge_types: the events that it reads, into users.
        time_zone: of the users: an IANA name or a shift such as +08:00.
        fit_until: nothing known then or later is fitted on.
        random_seed: of weights and pre-training.
        device: where to pre-train.

    """

    graph: BehaviorGraph
    edge_types: tuple[EdgeType, ...]
    time_zone: str
    fit_until: int
    random_seed: int
    device: torch.device

    def reader(self, encoder: NodeEncoder[Any]) -> InputReader:
        """Read for an encoder of users: a history ends before its query's time, whatever comes later."""
        return InputReader(self.graph, "user", encoder.requests, fields=encoder.fields)


@dataclass(frozen=True, kw_only=True, eq=False)
class SupervisedTask:
    """A task that encoders may be pre-trained on.

    Attributes:
        head: makes a new head from the width of the vectors.
        rows: labels of queries.
        known_time: when each row's label became known.

    """

    head: Callable[[int], TaskHead]
    rows: TaskRows
    known_time: Int64[Tensor, " num_rows"]


class KeptTensors:
    """Tensors on disk, found again by what they were computed from.

    Args:
        folder: of the files; None keeps nothing.
        content: plain JSON values that decide what is computed.

    Attributes:
        earlier_seconds: processor seconds of all that was read, from when it was computed.

    """

    def __init__(self, folder: Path | None, content: Sequence[Any]) -> None:
        self.folder, self.content = folder, content
        self.earlier_seconds = 0.0

    def read_or_make(self, name: str, make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """Return what a file has, or make it and write the file."""
        if self.folder is None:
            return make()
        with locked_checkpoint(self.folder, [PROTOCOL_VERSION, "user encoder", name, *self.content]) as path:
            if path.exists():
                state = load_checkpoint(path)
                self.earlier_seconds += float(state["seconds"])
                return dict(state["kept"])
            began = clock.process_time()
            made = make()
            save_checkpoint(path, {"kept": dict(made), "seconds": clock.process_time() - began})
            return made


def make_encoder(source: EncoderSource, config: SingleFeatures, kept: KeptTensors) -> NodeEncoder[Any]:
    """Return an encoder with new weights; vocabularies and interests are fitted on what came before.

    Args:
        source: what it may see. torch's generator stays as it was.
        config: of the encoder.
        kept: has SMEN's item embeddings.

    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(source.random_seed)
        if isinstance(config, UserBERTFeatures):
            encoder: NodeEncoder[Any] = _make_userbert(source, config)
        elif isinstance(config, DUPNFeatures):
            encoder = _make_dupn(source, config)
        elif isinstance(config, HeatmapFeatures):
            encoder = _make_heatmap(source, config)
        else:
            encoder = _make_smen(source, config, kept)
    return encoder.to(source.device)


def _make_userbert(source: EncoderSource, config: UserBERTFeatures) -> UserBERTEncoder:
    options: dict[str, Any] = {
        "attributes": config.attributes,
        "fields": config.fields,
        "max_words": config.max_words,
    }
    kinds = {
        "long": long_words(source.edge_types, days=config.days, recent_days=config.recent_days, **options),
        "short": short_words(source.edge_types, days=config.recent_days, **options),
    }
    requests = [kind.request for kind in kinds.values()]
    tokenizer = SentenceTokenizer(
        kinds=kinds,
        vocabularies=fit_vocabularies(source.graph, requests, fit_until=source.fit_until),
        time_zone=source.time_zone,
    )
    bert = UserBERT(
        tokenizer.sizes, channels=config.channels, num_blocks=config.num_blocks, num_heads=config.num_heads
    )
    return UserBERTEncoder(tokenizer, bert)


def _make_dupn(source: EncoderSource, config: DUPNFeatures) -> DUPNEncoder:
    request = behavior_request(source.edge_types, config.fields, config.attributes)
    items = source.graph.ids["item"]
    tokenizer = SequenceTokenizer(
        edge_types=source.edge_types,
        vocabularies=fit_vocabularies(source.graph, [request], fit_until=source.fit_until),
        item_fields=config.fields,
        attributes=config.attributes,
        num_items=items.num_rows,
        items=item_fingerprint(items, items.num_rows),
        length=config.num_behaviors,
        time_zone=source.time_zone,
    )
    dupn = DUPN(
        tokenizer.sizes,
        item_channels=config.item_channels,
        property_channels=config.property_channels,
        hidden_channels=config.channels,
        user_channels=0,
        query_channels=config.query_channels,
        attention_channels=(config.channels, config.channels // 2 or 1),
    )
    return DUPNEncoder(tokenizer, dupn)


def _make_heatmap(source: EncoderSource, config: HeatmapFeatures) -> HeatmapEncoder:
    channels = (
        *(HeatmapChannel(name=one[1], edge_types=(one,)) for one in source.edge_types),
        *(HeatmapChannel(name=value, fields={config.field: (value,)}) for value in config.values),
        *(HeatmapChannel(name=name, aggregate="sum", attribute=name) for name in config.sums),
    )
    encoding = HeatmapEncoding(
        edge_types=source.edge_types, channels=channels, num_days=config.days, time_zone=source.time_zone
    )
    levels = narrow_levels(LEVELS[config.days], config.narrower)
    return HeatmapEncoder(encoding, HeatmapCNN(len(channels), config.days, levels=levels))


def _make_smen(source: EncoderSource, config: SMENFeatures, kept: KeptTensors) -> SMENEncoder:
    known = known_items(source.graph, source.fit_until, source.edge_types)
    words = item_words(source.graph, fields=config.fields)
    vocabulary = fit_word_vocabulary(words, known, fit_until=source.fit_until)
    item = vocabulary.encode(words)

    def embed() -> dict[str, Float32[Tensor, "_ _"]]:
        with torch.random.fork_rng(devices=[]):  # SMEN's weights do not depend on whether this is read
            torch.manual_seed(source.random_seed)
            model = ItemEmbedding(len(vocabulary), channels=config.channels).to(source.device)
        pairs = ItemPairSampler(
            source.graph,
            list(source.edge_types),
            fit_until=source.fit_until,
            random_seed=source.random_seed,
        )
        train_item_embedding(
            model,
            item,
            pairs,
            config=ContrastiveConfig(
                epochs=config.item_epochs,
                learning_rate=config.item_rate,
                decay=True,
                random_seed=source.random_seed,
            ),
        )
        return {"vector": embed_items(model, item)}

    vector = kept.read_or_make("items", embed)["vector"]
    known = known[item.is_known[known]]
    distinct = len(item.text_number()[known].unique())
    clusterer = SphericalKMeans(
        num_interests=max(min(config.num_interests, distinct // 4), 2), random_seed=source.random_seed
    )
    interests = fit_interests(vector, known, clusterer, fit_until=source.fit_until)
    counter = InterestCounter(
        items=assign_interests(interests, vector, item.is_known),
        clock=LocalClock.of_zone(source.time_zone),
        scales=(config.days[0] * DAY_SECONDS, config.days[1] * DAY_SECONDS),
    )
    smen = SMEN(len(interests), num_anchors=config.num_anchors, channels=config.channels)
    return SMENEncoder(counter, smen, source.edge_types)


def pretrain_encoder(
    source: EncoderSource,
    config: SingleFeatures,
    encoder: NodeEncoder[Any],
    node: Int64[Tensor, " num_queries"],
    time: Int64[Tensor, " num_queries"],
    tasks: Callable[[], Mapping[str, SupervisedTask]],
) -> None:
    """Pre-train an encoder in place by its paper's objective; torch's generator stays as it was.

    Args:
        source: what it may see.
        config: of the encoder.
        encoder: of :func:`make_encoder`.
        node: users of the queries that are learned from.
        time: of the queries; none after ``source.fit_until``.
        tasks: what DUPN and the heatmap CNN learn, by name; rows name the queries by number. Not called for
            the others.

    """
    reader = source.reader(encoder)
    with torch.random.fork_rng(devices=[]):  # heads and dropout
        torch.manual_seed(source.random_seed)
        if isinstance(encoder, UserBERTEncoder):
            assert isinstance(config, UserBERTFeatures)
            pretrain(
                MaskedWordModel(encoder.bert).to(source.device),
                read_sentences(reader, encoder.tokenizer, node, time),
                time,
                fit_until=source.fit_until,
                config=replace(config.pretraining, random_seed=source.random_seed),
            )
            return
        if isinstance(encoder, SMENEncoder):
            assert isinstance(config, SMENFeatures)
            train_smen(
                encoder.smen,
                read_bags(reader, encoder, node, time),
                node,
                time,
                fit_until=source.fit_until,
                config=ContrastiveConfig(epochs=config.epochs, random_seed=source.random_seed),
            )
            return
        assert isinstance(config, DUPNFeatures | HeatmapFeatures)
        concatenate: Callable[[Sequence[Any]], Any] = (
            concatenate_sequences if isinstance(encoder, DUPNEncoder) else concatenate_heatmaps
        )
        inputs = prepare_queries(reader, encoder.prepare, concatenate, node, time)
        named = tasks()
        heads = {name: task.head(encoder.out_channels) for name, task in named.items()}
        data = {
            name: TaskData(inputs=inputs, time=time, rows=task.rows, known_time=task.known_time)
            for name, task in named.items()
        }
        fit_tasks(
            MultiTaskModel(encoder, heads).to(source.device),
            data,
            fit_until=source.fit_until,
            config=MultiTaskConfig(optimizer=config.pretraining, random_seed=source.random_seed),
        )
