"""Training of the Meta-Profile Network: several tasks at once, meta-training by episodes, embeddings.

Gong et al., CIKM 2020. From data to a prediction for an unseen task::

    inputs = read_profile_inputs(reader, profile, user, time)
    label = task_label_matrix(source_tasks, queries)
    meta_train(profile, relation, inputs, label, fit_until=..., user=user)
    embedding = embed(profile, inputs_of_target)  # once
    predict_few_shot(relation, embedding[test], embedding[examples], label_of_examples)
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from graph_builders.datasets.downstream_tasks import DownstreamTask, Part
from graph_builders.option_checks import check_whole_number
from graphrec.encoders.fit_until import move_fit_until
from graphrec.encoders.input_reader import InputReader, prepare_queries
from graphrec.losses import masked_multi_task_loss
from graphrec.models.meta_profile import (
    MultiTaskProfile,
    ProfileInputs,
    ProfileNetwork,
    Similarity,
    concatenate_inputs,
)
from graphrec.training.checkpoint import digest_of_tensors
from graphrec.training.episodes import EpisodeConfig, EpisodeSampler, episode_loss
from graphrec.training.stages import StagesConfig, learning_parameters, train_in_stages
from graphrec.training.task_labels import BinaryLabels, labels_of
from samplers import keyed_uniform

BATCH_SIZE = 32  # the paper's
DEFAULT_STAGES = StagesConfig()
DEFAULT_EPISODES = EpisodeConfig()


def read_profile_inputs(
    reader: InputReader,
    profile: ProfileNetwork,
    node: Int64[Tensor, " num_queries"],
    time: Int64[Tensor, " num_queries"],
    *,
    max_events: int = 1_000_000,
) -> ProfileInputs:
    """Read the histories of many queries as sparse heatmaps, at most so many events at a time.

    Raises:
        ValueError: there is no query, or as :meth:`InputReader.read_in_chunks`.

    """
    return prepare_queries(reader, profile.prepare, concatenate_inputs, node, time, max_events=max_events)


def task_label_matrix(
    tasks: Sequence[DownstreamTask], queries: pl.DataFrame, part: Part = "train"
) -> Float32[Tensor, "num_queries num_tasks"]:
    """Return the labels of binary tasks at queries, NaN where a task does not ask.

    Args:
        tasks: binary ones.
        queries: ``user_id`` and ``time`` of each row.
        part: whose labels are used.

    Raises:
        ValueError: there is no task, one is of sets, or a task has no query of the part.

    """
    if not tasks:
        raise ValueError("there is no task to take labels of")
    columns = []
    for task in tasks:
        if task.kind != "binary":
            raise ValueError(f"task {task.name!r} has labels of kind {task.kind!r}, this needs binary ones")
        task.part(part)  # raises where there is none
        own = task.queries.with_row_index("row").filter(pl.col("part") == part)
        row = queries.select("user_id", "time").join(
            own.select("user_id", "time", pl.col("row").cast(pl.Int64)),
            on=["user_id", "time"],
            how="left",
            maintain_order="left",
        )["row"]
        labels = labels_of(task).take(torch.from_numpy(row.fill_null(-1).to_numpy().copy()))
        assert isinstance(labels, BinaryLabels)
        columns.append(labels.value)
    return torch.stack(columns, dim=1)


def fit_multi_task(
    profile: ProfileNetwork,
    inputs: ProfileInputs,
    label: Float32[Tensor, "num_rows num_tasks"],
    *,
    fit_until: int,
    config: StagesConfig = DEFAULT_STAGES,
    batch_size: int = BATCH_SIZE,
    checkpoint: Path | None = None,
    checkpoint_every: int = 200,
    on_step: Callable[[int, float, float], None] | None = None,
) -> MultiTaskProfile:
    """Fit the profile network with a new head for each task to all of them at once: equation (1).

    With one task and a new network this is the paper's "normal training"; with one task and a network that
    was fitted to others, plain fine-tuning. A g whose weights are frozen (``requires_grad_(False)``) stays as
    it is, batch norm's statistics too, and the heads alone learn.

    Args:
        profile: g, fitted in place; its device is that of the training.
        inputs: a row for each label row, on any device.
        label: 0 or 1, NaN where a row has no label.
        fit_until: the end of the last label's window; ``profile.fit_until`` moves to it.
        config: of the two stages.
        batch_size: rows a step. An epoch's rows are shuffled; its last batch may be smaller.
        checkpoint: as in :func:`~graphrec.training.stages.train_in_stages`: one of other inputs, labels or
            options is refused.
        checkpoint_every: as there.
        on_step: as there.

    Raises:
        ValueError: there is not one label row an input row, a label is neither 0, 1 nor NaN, no row or some
            task has no label, ``batch_size`` is no whole number of at least 1, or as ``train_in_stages``.

    """
    _check_rows(inputs, label)
    known = ~label.isnan()
    wrong = label[known & (label != 0) & (label != 1)]
    if len(wrong):
        raise ValueError(
            f"labels must be 0 or 1, or NaN where there is none, got {wrong[0].item():g} ({len(wrong)} in "
            "all)"
        )
    unlabelled = (~known.any(dim=0)).nonzero().flatten().tolist()
    if unlabelled:
        raise ValueError(f"each task needs a label, there is none of tasks {unlabelled}: leave them out")
    check_whole_number("batch_size", batch_size, 1)
    row = known.any(dim=1).nonzero().flatten().cpu()
    starts = [BinaryLabels(name="", value=column).start() for column in label.T]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.random_seed)
        model = MultiTaskProfile(profile, torch.cat(starts))
    move_fit_until(profile, fit_until)
    device = model.heads.weight.device
    num_batches = -(-len(row) // batch_size)
    order = _Shuffled(row, config.random_seed)

    def loss_of_step(step: int) -> Tensor:
        epoch, number = divmod(step, num_batches)
        batch = order.epoch(epoch)[number * batch_size : (number + 1) * batch_size]
        return masked_multi_task_loss(model(inputs.take(batch).to(device)), label[batch].to(device))

    train_in_stages(
        model,
        loss_of_step,
        config,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        on_step=on_step,
        made_from=None
        if checkpoint is None
        else {"fit_until": fit_until, "batch_size": batch_size, **_digests(inputs, label)},
    )
    return model


def meta_train(
    profile: ProfileNetwork,
    similarity: Similarity,
    inputs: ProfileInputs,
    label: Float32[Tensor, "num_rows num_tasks"],
    *,
    fit_until: int,
    episodes: EpisodeConfig = DEFAULT_EPISODES,
    config: StagesConfig = DEFAULT_STAGES,
    user: Int64[Tensor, " num_rows"] | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 200,
    on_step: Callable[[int, float, float], None] | None = None,
) -> list[float]:
    """Fit g and f to the source tasks by episodes: equation (1) over the tasks of each.

    Args:
        profile: g, new or fitted to the source tasks before; fitted in place.
        similarity: f, on the same device; fitted in place. One without parameters leaves all to g.
        inputs: a row for each label row.
        label: of the source tasks, NaN where a row has none. The target must not be among them.
        fit_until: as in :func:`fit_multi_task`.
        episodes: sizes.
        config: of the two stages.
        user: of each row, as in :class:`EpisodeSampler`.
        checkpoint: as in :func:`fit_multi_task`.
        checkpoint_every: as there.
        on_step: as there.

    Returns:
        The loss of each step.

    Raises:
        ValueError: there is not one label row an input row, neither g nor f learns, no batch can hold both
            classes of any task, as :class:`EpisodeSampler`, or as in :func:`fit_multi_task`.

    """
    _check_rows(inputs, label)
    sampler = EpisodeSampler(label, episodes, user=user)
    if not bool(sampler.can_be_asked[sampler.task].all(dim=1).any()):
        raise ValueError(
            f"with {episodes.num_shots} examples of each class no task has rows of both left to predict: "
            "take fewer shots, or more labels of more users"
        )
    both = nn.ModuleDict({"profile": profile, "similarity": similarity})
    learning_parameters(both)  # raises where there is none
    move_fit_until(profile, fit_until)
    device = next(profile.parameters()).device

    def loss_of_step(step: int) -> Tensor:
        episode = sampler.episode(step)
        rows = torch.cat([episode.batch, episode.support.flatten()])
        row, place = rows.unique(return_inverse=True)
        embedding = profile(inputs.take(row).to(device))[place.to(device)]
        num_queries = len(episode.batch)
        support = embedding[num_queries:].unflatten(0, episode.support.shape)
        return episode_loss(sampler, episode, similarity, embedding[:num_queries], support)

    made_from = None
    if checkpoint is not None:
        users = None if user is None else digest_of_tensors([("user", user)])
        made_from = {"fit_until": fit_until, "episodes": asdict(episodes), "users": users}
        made_from |= {"similarity": type(similarity).__name__, **_digests(inputs, label)}
    return train_in_stages(
        both,
        loss_of_step,
        config,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        on_step=on_step,
        made_from=made_from,
    )


@torch.no_grad()
def embed(
    model: nn.Module, inputs: ProfileInputs, *, batch_size: int = 256
) -> Float[Tensor, "num_rows channels"]:
    """Return what a model of profile inputs gives for each row, on the CPU: embeddings of g, or logits.

    The model is left in evaluation mode, so that no row's vector depends on another row.

    Raises:
        ValueError: ``batch_size`` is no whole number of at least 1.

    """
    check_whole_number("batch_size", batch_size, 1)
    model.eval()
    device = next(model.parameters()).device
    parts = [model(inputs.take(row).to(device)).cpu() for row in torch.arange(len(inputs)).split(batch_size)]
    return torch.cat(parts)


class _Shuffled:
    """Orders of rows by epoch; that of the last epoch asked for is kept."""

    def __init__(self, row: Int64[Tensor, " num_rows"], random_seed: int) -> None:
        self.row, self.random_seed = row, random_seed
        self.number, self.order = -1, row

    def epoch(self, number: int) -> Int64[Tensor, " num_rows"]:
        if number != self.number:
            draw = keyed_uniform(self.random_seed, "rows of an epoch", number, self.row)
            self.number, self.order = number, self.row[draw.argsort()]
        return self.order


def _digests(inputs: ProfileInputs, label: Tensor) -> dict[str, Any]:
    """Return digests of inputs and labels, for checkpoints."""
    columns = [("number", inputs.number), ("code", inputs.code)]
    for modality, heatmaps in inputs.heatmaps.items():
        size = f"{modality} {heatmaps.num_days} {heatmaps.num_channels}"
        columns += [(f"{size} {name}", column) for name, column in heatmaps.columns().items()]
    return {"inputs": digest_of_tensors(columns), "labels": digest_of_tensors([("label", label)])}


def _check_rows(inputs: ProfileInputs, label: Tensor) -> None:
    if label.ndim != 2:
        raise ValueError(
            f"labels must be (num_rows, num_tasks), got {tuple(label.shape)}: give those of one task as "
            "label[:, None]"
        )
    if len(inputs) != len(label) or not len(label):
        raise ValueError(
            f"each row needs its labels, and there must be one: got {len(inputs)} rows of inputs and "
            f"{len(label)} of labels"
        )
