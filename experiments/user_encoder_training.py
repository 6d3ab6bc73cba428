"""The users' node-feature encoders of LSTTM on a test day: made, pre-trained, and how batches read for them.

Pre-training sees training rows before the test day alone. The tasks of DUPN and the heatmap CNN are whether
the user clicks what is shown, and what kind of item is clicked: these two meet the very labels that LSTTM is
then trained on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from experiments.main_inputs import MainInputs
from experiments.parts import changed_fields
from experiments.user_encoder_models import (
    EncoderSource,
    KeptTensors,
    SupervisedTask,
    make_encoder,
    pretrain_encoder,
)
from experiments.user_encoders import JoinedFeatures, UserEncoderFeatures
from graphrec.encoders.base import NodeEncoder
from graphrec.encoders.input_reader import InputReader
from graphrec.encoders.joined import JoinedEncoders
from graphrec.encoders.precomputed import precompute
from graphrec.encoders.vector_table import VectorTable
from graphrec.models.dupn_heads import ClassHead, PairHead, TaskRows
from graphrec.nn.code_vectors import CodeVectors, MappedCodes
from graphrec.training.batches import EncodedNodes, rows_between
from samplers.random_numbers import keyed_uniform

HEAD_CHANNELS = 32  # of the heads of the tasks, which are thrown away


@dataclass(frozen=True, kw_only=True)
class TrainedEncoder:
    """An encoder as LSTTM's training starts with it.

    Attributes:
        encoder: on the device that it was pre-trained on.
        earlier_seconds: processor seconds of what was read from files, from when it was computed.

    """

    encoder: NodeEncoder[Any]
    earlier_seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingQueries:
    """Some (user, time) of impressions before a time, each once.

    Attributes:
        node, time: of the queries.
        row: the impressions that were shown to a query.
        query: which one.

    """

    node: Int64[Tensor, " num_queries"]
    time: Int64[Tensor, " num_queries"]
    row: Int64[Tensor, " num_rows"]
    query: Int64[Tensor, " num_rows"]


def trained_encoder(
    inputs: MainInputs,
    config: UserEncoderFeatures,
    *,
    until: int,
    scored_until: int,
    random_seed: int,
    device: torch.device,
    folder: Path | None = None,
) -> TrainedEncoder:
    """Make an encoder as LSTTM is to start with it; torch's generator stays as it was.

    Args:
        inputs: the data.
        config: of the encoder.
        until: nothing known then or later is fitted on: the first time of the test day.
        scored_until: frozen vectors are computed of the users of all impressions before.
        random_seed: of weights and pre-training.
        device: where to pre-train.
        folder: where pre-trained weights are kept for other rows with the same; None keeps nothing.

    """
    if isinstance(config, JoinedFeatures):
        parts = {
            type(one).__name__.removesuffix("Features"): trained_encoder(
                inputs,
                one,
                until=until,
                scored_until=scored_until,
                random_seed=random_seed,
                device=device,
                folder=folder,
            )
            for one in config.encoders
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_seed)
            joined = JoinedEncoders(
                {name: part.encoder for name, part in parts.items()},
                out_channels=config.out_channels,
                how=config.how,
            )
        seconds = sum(part.earlier_seconds for part in parts.values())
        return TrainedEncoder(encoder=joined.to(device), earlier_seconds=seconds)
    relations = inputs.short_term_relations(config.domains, config.behaviors)
    source = EncoderSource(
        graph=inputs.graph,
        edge_types=tuple(relation.reverse_edge_type for relation in relations),
        time_zone=time_zone_of(inputs),
        fit_until=until,
        random_seed=random_seed,
        device=device,
    )
    alike = replace(config, learning="fine-tuned")  # whatever becomes of the weights afterwards
    kept = KeptTensors(folder, [inputs.fingerprint, until, random_seed, changed_fields(alike)])
    encoder = make_encoder(source, config, kept)
    if config.learning != "end to end":

        def pretrained() -> Mapping[str, Any]:
            queries = training_queries(inputs, config.max_pretraining_queries, until, random_seed)
            pretrain_encoder(
                source, config, encoder, queries.node, queries.time, lambda: click_tasks(inputs, queries)
            )
            return encoder.state_dict()

        encoder.load_state_dict(kept.read_or_make("weights", pretrained))
    encoder.check_before(until)
    if config.learning == "frozen":
        shown = inputs.data.impressions.time < scored_until
        node, time = inputs.data.impressions.user[shown], inputs.data.as_of[shown]
        encoder = precompute(encoder, source.reader(encoder), node, time)
    return TrainedEncoder(encoder=encoder, earlier_seconds=kept.earlier_seconds)


def encoded_users(inputs: MainInputs, encoder: NodeEncoder[Any], config: UserEncoderFeatures) -> EncodedNodes:
    """Return what batches read for the encoder, from the graph of all days: histories end before queries."""
    reader = InputReader(inputs.graph, "user", encoder.requests, fields=encoder.fields)
    share = 0.0 if config.stored is None else config.stored.share
    return EncodedNodes(reader=reader, prepare=encoder.prepare, nodes=config.nodes, share=share)


def stored_users(
    inputs: MainInputs, encoder: NodeEncoder[Any], config: UserEncoderFeatures
) -> VectorTable | None:
    """Return an empty table for the vectors of users that batches do not encode, where there is to be one."""
    if config.stored is None:
        return None
    hours = config.stored.max_age_hours
    return VectorTable(
        inputs.graph.num_nodes["user"] + 1,  # and the unseen row
        encoder.out_channels,
        period=inputs.period,
        num_slots=config.stored.num_periods,
        max_age=None if hours is None else hours * 3600 * inputs.units_per_second,
    )


def click_tasks(inputs: MainInputs, queries: TrainingQueries) -> dict[str, SupervisedTask]:
    """Return the tasks of pre-training: clicks, and the kind of what is clicked, its first tag or field."""
    shown, items, sizes = inputs.data.impressions.select(queries.row), inputs.data.item_fields, inputs.sizes
    has_bag = items.bag.shape[1] > 0
    kind = (items.bag if has_bag else items.codes)[shown.item, 0]
    num_kinds = sizes.item_bag if has_bag else sizes.item_fields[0]
    clicked = (shown.label == 1).nonzero()[:, 0]
    num_rows, num_clicked = len(shown), len(clicked)

    def click_head(channels: int) -> PairHead:
        tables = CodeVectors(sizes.item_fields, [HEAD_CHANNELS // 4] * len(sizes.item_fields))
        return PairHead(channels, MappedCodes(tables, HEAD_CHANNELS), hidden_channels=(HEAD_CHANNELS,))

    return {
        "click": SupervisedTask(
            head=click_head,
            rows=TaskRows(
                query=queries.query,
                label=shown.label.float(),
                weight=torch.ones(num_rows),
                entity=items.codes[shown.item],
                features=torch.zeros(num_rows, 0),
            ),
            known_time=shown.time,
        ),
        "kind": SupervisedTask(
            head=lambda channels: ClassHead(channels, num_kinds, hidden_channels=HEAD_CHANNELS),
            rows=TaskRows(
                query=queries.query[clicked],
                label=kind[clicked].float(),
                weight=torch.ones(num_clicked),
                entity=torch.zeros(num_clicked, 0, dtype=torch.int64),
                features=torch.zeros(num_clicked, 0),
            ),
            known_time=shown.time[clicked],
        ),
    }


def training_queries(inputs: MainInputs, most: int, until: int, random_seed: int) -> TrainingQueries:
    """Return distinct (user, time) of impressions before ``until``, at most so many, drawn by a key."""
    rows = rows_between(inputs.data, int(inputs.data.impressions.time.min()), until)
    asked = torch.stack([inputs.data.impressions.user[rows], inputs.data.as_of[rows]])
    pairs, pair_of_row = asked.unique(dim=1, return_inverse=True)
    chosen = keyed_uniform("pre-training", random_seed, pairs[0], pairs[1]).argsort()[:most]
    number = torch.full((pairs.shape[1],), -1).index_put((chosen,), torch.arange(len(chosen)))
    query = number[pair_of_row]
    kept = (query >= 0).nonzero()[:, 0]
    return TrainingQueries(node=pairs[0, chosen], time=pairs[1, chosen], row=rows[kept], query=query[kept])


def time_zone_of(inputs: MainInputs) -> str:
    """Return the local clock of a data set as a shift, such as +08:00."""
    hours = inputs.tables.utc_offset_hours
    sign = "-" if hours < 0 else "+"
    return f"{sign}{int(abs(hours)):02}:{round(abs(hours) % 1 * 60):02}"
