"""Fine-tuning of models of sentences on downstream tasks, end to end, and pre-training on several tasks.

A model of sentences is any module from ``UserSentences`` to (num_queries, out_channels) with an
``out_channels``: UserBERT, whose vector is that of the first token; ``UserBERTEncoder``; the baselines of
``graphrec.models.user_towers``. The paper (UserBERT, Li et al., 2022) puts an output layer on the vector and
fits everything by Adam with batches of 128. It reports the best epoch on the test; here the last one counts,
and how many there are is to be chosen on the validation part::

    task = next_genre_task(tables, split)
    user, time = ...  # the nodes and times of task.queries, row by row
    sentences = read_sentences(reader, tokenizer, user, time)
    encoder = load_node_encoder(path, label_start=task.label_start["test"])  # or UserBERT(tokenizer.sizes)
    result = finetune(encoder, task, sentences, config=FinetuningConfig(epochs=5), checkpoint=Path("run.pt"))
    result.queries, result.score  # of the test
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from graph_builders.datasets.downstream_tasks import DownstreamTask, Part, user_numbers
from graph_builders.option_checks import check_numbers
from graphrec.encoders.behavior_words import SentenceTokenizer
from graphrec.encoders.fit_until import move_fit_until
from graphrec.encoders.sentence_batches import LengthLoader, sentence_length, take_sentences
from graphrec.encoders.sentences import UserSentences
from graphrec.encoders.userbert import SentenceSizes, TokenizerFacts
from graphrec.training.adam import AdamConfig
from graphrec.training.checkpoint import digest_of_sentences, digest_of_tensors, shape_of_model
from graphrec.training.loop import TrainingPoint, train_steps
from graphrec.training.task_labels import TaskLabels, labels_of
from samplers import keyed_uniform


@dataclass(frozen=True, kw_only=True)
class FinetuningConfig(AdamConfig):
    """How a model is fitted to tasks; the defaults are the paper's for fine-tuning.

    Attributes:
        epochs: passes over the training queries.
        batch_size: queries a step (paper: 128; 16 for pre-training on several tasks).
        user_share: of the training users whose labels are used, expected: for the effect of fewer labels.
        random_seed: of the output layers, batches, dropout and the draw of users: two runs that start from
            the same weights end with the same.

    """

    epochs: int = 10
    batch_size: int = 128
    user_share: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, ("user_share",), above=0, most=1)


@dataclass(frozen=True, eq=False)
class TaskBatch:
    """Sentences, and for each task their labels."""

    sentences: UserSentences
    labels: list[TaskLabels]

    def to(self, device: torch.device | str) -> "TaskBatch":
        """Copy to another device."""
        return TaskBatch(self.sentences.to(device), [labels.to(device) for labels in self.labels])


class TaskModel(nn.Module):
    """A model of sentences with an output layer for each task.

    Output layers start from small weights (normal, deviation 0.02, as BERT's) and from biases that give the
    shares of the training labels, so that no step is spent on learning which class is frequent.

    Args:
        encoder: a model of sentences.
        labels: of the training queries, for each task.
        random_seed: of the output layers' weights.

    """

    def __init__(self, encoder: nn.Module, labels: Sequence[TaskLabels], *, random_seed: int = 0) -> None:
        super().__init__()
        channels: Any = encoder.out_channels
        with torch.random.fork_rng(devices=[]):  # the caller's generator stays as it was
            heads = [nn.Linear(channels, one.num_outputs) for one in labels]
        generator = torch.Generator().manual_seed(random_seed)
        for head, one in zip(heads, labels, strict=True):
            nn.init.normal_(head.weight, std=0.02, generator=generator)
            with torch.no_grad():
                head.bias.copy_(one.start())
        self.encoder = encoder
        self.heads = nn.ModuleList(heads).to(next(encoder.parameters()).device)

    def forward(self, sentences: UserSentences) -> list[Tensor]:
        """Return the logits of each task; (num_queries, num_outputs)."""
        vector = self.encoder(sentences)
        return [head(vector) for head in self.heads]


@dataclass(frozen=True, kw_only=True, eq=False)
class Finetuned:
    """What fine-tuning leaves.

    Attributes:
        model: the encoder with its output layer, in evaluation mode.
        labels: of all queries of the task, with the classes of the scores' columns.
        queries: of the part that was scored, as in ``DownstreamTask.queries``.
        row: where these stand among the task's queries.
        score: probability of a 1 in one column, or of each class.
        curve: of the training loss.

    """

    model: TaskModel
    labels: TaskLabels
    queries: pl.DataFrame
    row: Int64[Tensor, " num_scored"]
    score: Float64[Tensor, "num_scored num_outputs"]
    curve: list[TrainingPoint]


def finetune(
    encoder: nn.Module,
    task: DownstreamTask,
    sentences: UserSentences,
    *,
    config: FinetuningConfig = FinetuningConfig(),
    fields: Sequence[str] = (),
    score_part: Part = "test",
    checkpoint: Path | None = None,
    checkpoint_every: int = 500,
    log_every: int = 50,
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[int, Float64[Tensor, "num_scored num_outputs"]], None] | None = None,
) -> Finetuned:
    """Fit a model and a new output layer to a task's training queries, and score those of another part.

    The weights that count are those after the last epoch. The encoder is fitted in place: give a copy where
    its own weights are needed again. Where ``checkpoint`` exists, training goes on from it and ends with the
    same weights as without a break; one of another task, of other options, sentences or labels is refused,
    but what the encoder's weights were at the start is not compared: give each start a path. What the
    training labels showed counts as seen: ``fit_until`` of an encoder that has one moves to the end of their
    windows.

    Pre-training is checked against the test's labels alone. Validation queries share the time of the training
    ones: leave their users out of what is pre-trained on.

    Args:
        encoder: a model of sentences, on the device to train on, pre-trained or new. Its ``check_before``, if
            it has one, is asked whether pre-training saw anything at or after the first test label, and so
            are the vocabularies that its sizes are of.
        task: labels of queries by part.
        sentences: of ``task.queries``, row by row, on any device.
        config: options.
        fields: names of the profile's columns in the sentences. An encoder made of ``tokenizer.sizes`` knows
            them: they may be left out, and others are refused.
        score_part: the queries that are scored.
        checkpoint: file to write and to resume from.
        checkpoint_every: steps between checkpoints.
        log_every: steps that a point of the curve averages.
        on_step: called with (steps done, steps in all), for progress.
        on_epoch: called with (epochs done, scores then), for curves; after a break perhaps once more with
            the same.

    Raises:
        ValueError: sentences are not those of the queries by number; the profile has a field that the task
            forbids or that is not named; a code has no row in the encoder's tables; pre-training saw too
            much; a part is unknown or has no queries; the checkpoint is another run's; or the training
            diverges.

    """
    if len(sentences) != task.queries.height:
        raise ValueError(
            f"task {task.name!r} has {task.queries.height} queries, there are {len(sentences)} sentences: "
            "read those of its queries, row by row"
        )
    _check_fields(encoder, task, sentences, fields)
    _check_sizes(encoder, sentences)
    task.part("test")  # raises where there is none
    test_start = task.label_start["test"]
    for part in (encoder, _made_by(encoder)):
        check_before = getattr(part, "check_before", None)
        if check_before is not None:
            check_before(test_start)
    labels = labels_of(task)
    train_row, scored = _rows(task, "train", config), _rows(task, score_part)
    train_row = train_row[labels.has_label[train_row]]
    if not len(train_row):
        raise ValueError(f"no training query of {task.name!r} has a label: take a larger user_share")
    _move_fit_until(encoder, _label_end(task))
    train_labels = labels.take(train_row)
    model = TaskModel(encoder, [train_labels], random_seed=config.random_seed)

    def score() -> Float64[Tensor, "num_scored num_outputs"]:
        (value,) = predict(model, take_sentences(sentences, scored), [labels])
        return value

    curve = _fit(
        model,
        take_sentences(sentences, train_row),
        [train_labels],
        config=config,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        log_every=log_every,
        on_step=on_step,
        on_epoch=None if on_epoch is None else lambda epoch: on_epoch(epoch, score()),
        asked={"task": task.name, "kind": task.kind, "horizon": task.horizon},
    )
    return Finetuned(
        model=model,
        labels=labels,
        queries=task.part(score_part),
        row=scored,
        score=score(),
        curve=curve,
    )


def training_queries(tasks: Sequence[DownstreamTask]) -> pl.DataFrame:
    """Return ``user_id`` and ``time`` of the tasks' training queries, each once, by time, then user.

    Raises:
        ValueError: there is no task, or one without training queries.

    """
    if not tasks:
        raise ValueError("there is no task to take training queries of")
    parts = [task.part("train").select("user_id", "time") for task in tasks]
    return pl.concat(parts).unique().sort("time", "user_id")


def pretrain_on_tasks(
    encoder: nn.Module,
    tasks: Sequence[DownstreamTask],
    sentences: UserSentences,
    *,
    fit_until: int,
    config: FinetuningConfig = FinetuningConfig(batch_size=16),
    fields: Sequence[str] = (),
    checkpoint: Path | None = None,
    checkpoint_every: int = 500,
    log_every: int = 50,
    on_step: Callable[[int, int], None] | None = None,
) -> TaskModel:
    """Fit a model to the training labels of several tasks at once: the paper's MTL baselines.

    The loss is the sum of the tasks' cross entropies, each a mean over the batch's queries that have its
    label (Li et al., 2022: "minimizing the summed cross entropy loss of the multiple training tasks"). Which
    tasks there are is the caller's choice; the task that the encoder is to serve must not be among them, nor
    one that asks the same. With a ``config.user_share`` below 1 fewer labels are used; for none, leave
    this out.

    Args:
        encoder: a model of sentences, fitted in place; ``fit_until`` is set.
        tasks: at least one; their training queries are used.
        sentences: of ``training_queries(tasks)``, row by row.
        fit_until: the earliest label window that the encoder may serve begins then or later.
        config: options (paper: batches of 16).
        fields: names of the profile's columns in the sentences.
        checkpoint: as in :func:`finetune`.
        checkpoint_every: as in :func:`finetune`.
        log_every: as in :func:`finetune`.
        on_step: as in :func:`finetune`.

    Returns:
        The encoder with the output layers, in evaluation mode.

    Raises:
        ValueError: as :func:`finetune`; or a label window ends after ``fit_until``.

    """
    queries = training_queries(tasks)
    if len(sentences) != queries.height:
        raise ValueError(
            f"the tasks have {queries.height} training queries together, there are {len(sentences)} "
            "sentences: read those of training_queries(tasks), row by row"
        )
    for task in tasks:
        _check_fields(encoder, task, sentences, fields)
        end = _label_end(task)
        if end > fit_until:
            raise ValueError(
                f"training labels of {task.name!r} reach until {end}, after fit_until={fit_until}: take "
                "earlier ones"
            )
    _check_sizes(encoder, sentences)
    _move_fit_until(encoder, fit_until)
    used = _share(queries["user_id"], config).nonzero().flatten()
    labels = [_labels_at(task, queries).take(used) for task in tasks]
    unlabelled = [one.name for one in labels if not bool(one.has_label.any())]
    if unlabelled:
        raise ValueError(f"no training query has a label of {unlabelled}: take a larger user_share")
    model = TaskModel(encoder, labels, random_seed=config.random_seed)
    _fit(
        model,
        take_sentences(sentences, used),
        labels,
        config=config,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        log_every=log_every,
        on_step=on_step,
        on_epoch=None,
        asked={"tasks": [task.name for task in tasks], "fit_until": fit_until},
    )
    return model


@torch.no_grad()
def predict(
    model: TaskModel, sentences: UserSentences, labels: Sequence[TaskLabels], *, batch_size: int = 512
) -> list[Float64[Tensor, "num_queries _"]]:
    """Return each task's probabilities for sentences, in their order, on the CPU.

    The model is left in evaluation mode. No random number is drawn.

    Args:
        model: with an output layer for each task.
        sentences: on any device.
        labels: of the tasks, of whatever rows: they know what a logit means.
        batch_size: sentences at once.

    """
    model.eval()
    device = next(model.parameters()).device
    order = list[Tensor]()
    loader = LengthLoader(sentence_length(sentences), batch_size=batch_size, collate=lambda query: query)
    parts: list[list[Tensor]] = [[torch.zeros(0, one.num_outputs, dtype=torch.float64)] for one in labels]
    for query in loader.batches():
        order.append(query)
        logits = model(take_sentences(sentences, query).to(device))
        for part, one, logit in zip(parts, labels, logits, strict=True):
            part.append(one.probability(logit).cpu())
    place = torch.cat([torch.zeros(0, dtype=torch.int64), *order]).argsort()
    return [torch.cat(part)[place] for part in parts]


# ---- parts ---------------------------------------------------------------------------------------


def _fit(
    model: TaskModel,
    sentences: UserSentences,
    labels: list[TaskLabels],
    *,
    config: FinetuningConfig,
    checkpoint: Path | None,
    checkpoint_every: int,
    log_every: int,
    on_step: Callable[[int, int], None] | None,
    on_epoch: Callable[[int], None] | None,
    asked: dict[str, Any],
) -> list[TrainingPoint]:
    made_from = None
    if checkpoint is not None:
        made_from = {
            **asked,
            "config": asdict(config),
            "sentences": digest_of_sentences(sentences),
            "labels": digest_of_tensors(
                (f"{one.name} {name}", value)
                for one in labels
                for name, value in vars(one).items()
                if isinstance(value, Tensor)
            ),
            "model": shape_of_model(model),
        }
    device = next(model.parameters()).device

    def collate(row: Tensor) -> TaskBatch:
        return TaskBatch(take_sentences(sentences, row), [one.take(row) for one in labels])

    loader = LengthLoader(
        sentence_length(sentences),
        batch_size=config.batch_size,
        collate=collate,
        shuffle=True,
        random_seed=config.random_seed,
    )

    def backward(batch: TaskBatch) -> Tensor:
        batch = batch.to(device)
        with config.precision(device):
            logits = model(batch.sentences)
        losses = [one.loss(logit) for one, logit in zip(batch.labels, logits, strict=True)]
        loss = torch.stack(losses).sum()
        loss.backward()
        return loss.detach()

    num_batches = len(loader)

    def after_step(done: int, total: int) -> None:
        if on_epoch is not None and done and done % num_batches == 0:
            on_epoch(done // num_batches)
            model.train()
        if on_step is not None:
            on_step(done, total)

    # dropout's draws are the run's own, and leave the caller's generator as it was
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.random_seed)
        return train_steps(
            model,
            lambda epoch, start: loader.batches(epoch, start_batch=start),
            backward,
            num_batches=num_batches,
            config=config.optimizer(),
            device=device,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            log_every=log_every,
            on_step=after_step,
            made_from=made_from,
        )


def _rows(
    task: DownstreamTask, part: Part, config: FinetuningConfig | None = None
) -> Int64[Tensor, " num_rows"]:
    """Where a part's queries stand; with options, those of the share of users alone."""
    task.part(part)  # raises where there is none
    chosen = torch.from_numpy((task.queries["part"] == part).to_numpy().copy())
    if config is not None:
        chosen &= _share(task.queries["user_id"], config)
    return chosen.nonzero().flatten()


def _share(user_id: pl.Series, config: FinetuningConfig) -> Tensor:
    """Say of each row whether its user's labels are used; a larger share holds a smaller one."""
    return keyed_uniform(config.random_seed, "label share", user_numbers(user_id)) < config.user_share


def _labels_at(task: DownstreamTask, queries: pl.DataFrame) -> TaskLabels:
    """Return the task's training labels at the queries, none where it does not ask."""
    own = task.queries.with_row_index("row").filter(pl.col("part") == "train")
    joined = queries.join(
        own.select("user_id", "time", pl.col("row").cast(pl.Int64)),
        on=["user_id", "time"],
        how="left",
        maintain_order="left",
    )
    return labels_of(task).take(torch.from_numpy(joined["row"].fill_null(-1).to_numpy().copy()))


def _label_end(task: DownstreamTask) -> int:
    """Where the last label window of the training queries ends."""
    last: Any = task.part("train")["time"].max()
    return int(last) + task.horizon


def _check_fields(
    encoder: nn.Module, task: DownstreamTask, sentences: UserSentences, fields: Sequence[str]
) -> None:
    made_by = _made_by(encoder)
    if made_by is not None:  # the true names, whatever the caller says
        if fields and tuple(fields) != made_by.fields:
            raise ValueError(
                f"the profile's fields are named {list(fields)}, the encoder's tokenizer has "
                f"{list(made_by.fields)}: leave fields out"
            )
        fields = made_by.fields
    if sentences.profile.shape[1] != len(fields):
        raise ValueError(
            f"the sentences have {sentences.profile.shape[1]} profile fields, {list(fields)} are named: name "
            "each, so that those which tell the label can be refused"
        )
    forbidden = sorted(set(fields) & set(task.forbidden_fields))
    if forbidden:
        raise ValueError(
            f"the sentences hold {forbidden}, which tell the label of {task.name!r}: fit the profile without"
        )


def _inner(encoder: nn.Module) -> Any:
    """Return the model of an encoder of nodes, else the encoder itself."""
    return getattr(encoder, "model", encoder)


def _sizes_of(encoder: nn.Module) -> SentenceSizes | None:
    sizes = getattr(_inner(encoder), "sizes", None)
    return sizes if isinstance(sizes, SentenceSizes) else None


def _made_by(encoder: nn.Module) -> TokenizerFacts | None:
    """Return what is known of the tokenizer that the sentences must be of."""
    tokenizer = getattr(encoder, "tokenizer", None)
    if isinstance(tokenizer, SentenceTokenizer):
        return tokenizer.facts
    sizes = _sizes_of(encoder)
    return None if sizes is None else sizes.made_by


def _check_sizes(encoder: nn.Module, sentences: UserSentences) -> None:
    sizes = _sizes_of(encoder)
    if sizes is not None:
        sizes.check(sentences)


def _move_fit_until(encoder: nn.Module, fit_until: int) -> None:
    inner = _inner(encoder)  # an encoder of nodes keeps it in its model
    if hasattr(inner, "fit_until"):
        move_fit_until(inner, fit_until)
