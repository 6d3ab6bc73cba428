"""The methods of UserBERT's tables: what each is, what validation chooses of it, and how it scores a task."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from experiments.userbert_data import ATTRIBUTES, NEXT_GENRE, TARGETING, Form, UserBERTData
from graph_builders.datasets.downstream_tasks import PARTS, DownstreamTask, Part
from graph_builders.option_checks import check_choices, check_numbers, check_whole_numbers
from graphrec.encoders.sentence_batches import take_sentences
from graphrec.encoders.sentences import UserSentences
from graphrec.encoders.userbert import SentenceSizes, UserBERT
from graphrec.evaluation import auc
from graphrec.evaluation.genre_ranking import average_precision_at_k
from graphrec.models.trees import TreesConfig
from graphrec.models.user_baselines import (
    AggregateTrees,
    TfidfLogistic,
    code_of_classes,
    own_frequency,
    popular_classes,
)
from graphrec.models.user_towers import LSTMTowers, TransformerTowers, WideDeepModel
from graphrec.training.finetuning import FinetuningConfig, finetune
from graphrec.training.task_labels import BinaryLabels, SetLabels, TaskLabels, labels_of

Kind = Literal["popular", "own", "decayed", "tfidf", "trees", "network"]
EncoderName = Literal["userbert", "wide_deep", "lstm", "transformer"]
StartKind = Literal["masked words", "tasks"]
Setting = Mapping[str, float]
ALL_FAMILIES = (TARGETING, ATTRIBUTES, NEXT_GENRE)
K = 10  # of mAP@k
POPULARITY_WEIGHTS = (1e-3, 1.0)  # words that a popularity of 1 is worth
STRENGTHS = (1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0, 100.0)  # inverse of the L2 penalty
TREES = tuple(
    {"num_trees": float(trees), "learning_rate": rate}
    for trees in (25, 50, 100, 200, 300)
    for rate in (0.02, 0.06)
)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How networks are trained: part of every part's key.

    Attributes:
        channels: of all networks' vectors (paper: 128).
        num_blocks: of Transformers (paper: 4).
        num_heads: of a block (paper: 4).
        attribute_channels: of an attribute's embedding.
        pretraining_epochs: of masked words, over a sentence a week of each training user.
        pretraining_epochs_of_actions: the same with every action a word, whose sentences are longer: fewer,
            so that both forms cost about as much.
        pretraining_rate: of Adam, falling to zero.
        task_epochs: of pre-training on usage tasks.
        task_rate: of that.
        epochs: of fine-tuning: validation chooses one of them, and curves show them all.
        rates: of fine-tuning, of which validation chooses.
        batch_size: of fine-tuning (paper: 128).
        mixed_precision: products of Transformers in bfloat16, in training; scores are computed in float32.

    """

    channels: int = 128
    num_blocks: int = 4
    num_heads: int = 4
    attribute_channels: int = 32
    pretraining_epochs: int = 5
    pretraining_epochs_of_actions: int = 1
    pretraining_rate: float = 1e-3
    task_epochs: int = 5
    task_rate: float = 3e-4
    epochs: int = 5
    rates: tuple[float, ...] = (3e-4, 1e-3)
    batch_size: int = 128
    mixed_precision: bool = True

    def __post_init__(self) -> None:
        names = ["channels", "num_blocks", "num_heads", "attribute_channels", "batch_size"]
        names += ["pretraining_epochs", "pretraining_epochs_of_actions", "task_epochs", "epochs"]
        check_whole_numbers(self, **dict.fromkeys(names, 1))
        check_numbers(self, ("pretraining_rate", "task_rate"), above=0)
        check_choices(self)
        if self.channels % self.num_heads:
            raise ValueError(
                f"channels must be a multiple of num_heads, got {self.channels} and {self.num_heads}"
            )
        if not self.rates or not all(math.isfinite(rate) and rate > 0 for rate in self.rates):
            raise ValueError(f"fine-tuning chooses among rates above 0, one at least: got {self.rates}")

    def precision_of(self, encoder: str) -> bool:
        """Whether a network is trained in mixed precision."""
        return self.mixed_precision and encoder in ("userbert", "transformer")


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of the tables.

    Attributes:
        name: as the tables have it.
        kind: how it scores.
        families: of tasks that it can do.
        encoder: of a network.
        form: of its words.
        start: what a network is pre-trained on; None: nothing.
        user_share: of the users whose labels it is pre-trained on.
        of: name of the method whose chosen setting an ablation takes over.

    """

    name: str
    kind: Kind
    families: tuple[str, ...] = ALL_FAMILIES
    encoder: EncoderName = "userbert"
    form: Form = "words"
    start: StartKind | None = None
    user_share: float = 1.0
    of: str | None = None

    @property
    def is_random(self) -> bool:
        """Whether a seed changes anything."""
        return self.kind == "network"


BINARY = (TARGETING, ATTRIBUTES)
CANDIDATE = "UserBERT"
METHODS = (
    Method(name="popular genres", kind="popular", families=(NEXT_GENRE,)),
    Method(name="own frequency", kind="own", families=(NEXT_GENRE,)),
    Method(name="own frequency, decayed", kind="decayed", families=(NEXT_GENRE,)),
    Method(name="TF-IDF + logistic regression", kind="tfidf", families=BINARY),
    Method(name="boosted trees", kind="trees", families=BINARY),
    Method(name="Wide&Deep+MTL", kind="network", encoder="wide_deep", start="tasks"),
    Method(name="LSTM+MTL", kind="network", encoder="lstm", start="tasks"),
    Method(name="Transformer+MTL", kind="network", encoder="transformer", start="tasks"),
    Method(name="UserBERT, not pre-trained", kind="network"),
    Method(name=CANDIDATE, kind="network", start="masked words"),
    Method(name="Transformer, 0% of the labels", kind="network", encoder="transformer", of="Transformer+MTL"),
    Method(
        name="Transformer+MTL, 30% of the labels",
        kind="network",
        encoder="transformer",
        start="tasks",
        user_share=0.3,
        of="Transformer+MTL",
    ),
    Method(
        name="UserBERT, every action a word",
        kind="network",
        start="masked words",
        form="actions",
        of=CANDIDATE,
    ),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """What a method gave the queries of a part.

    Attributes:
        queries: of the part.
        label: 0 or 1; None for sets.
        value: for each query and epoch a probability of a 1, or AP@10 of a set.
        encoder: fine-tuned, of a network.

    """

    queries: pl.DataFrame
    label: np.ndarray | None
    value: np.ndarray
    encoder: nn.Module | None = None

    @property
    def figures(self) -> list[float]:
        """AUC or mAP@10 of each epoch."""
        return figures_of(self.label, self.value)


def figures_of(label: np.ndarray | None, value: np.ndarray) -> list[float]:
    """Return AUC, or without labels the mean, of each column; NaN where only one class is there."""
    if label is None:
        return [float(one) for one in value.mean(axis=0)]
    if label.min() == label.max():
        return [float("nan")] * value.shape[1]
    return [auc(label, column) for column in value.T]


def candidates(method: Method, settings: TrainingSettings, half_lives: Sequence[float]) -> list[Setting]:
    """Return the settings among which validation chooses: ten, for networks rates times epochs."""
    if method.kind == "network":
        return [{"rate": rate} for rate in settings.rates]
    if method.kind == "decayed":
        return [
            {"half_life": days, "popularity": weight} for days in half_lives for weight in POPULARITY_WEIGHTS
        ]
    if method.kind == "tfidf":
        return [{"strength": strength} for strength in STRENGTHS]
    return list(TREES) if method.kind == "trees" else [{}]


def make_encoder(name: EncoderName, sizes: SentenceSizes, settings: TrainingSettings, seed: int) -> nn.Module:
    """Return a new network; the caller's random numbers stay as they were."""
    shared: dict[str, Any] = {
        "channels": settings.channels,
        "attribute_channels": settings.attribute_channels,
    }
    blocks = {"num_blocks": settings.num_blocks, "num_heads": settings.num_heads}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "userbert":
            return UserBERT(sizes, **shared, **blocks)
        if name == "transformer":
            return TransformerTowers(sizes, **shared, **blocks)
        return LSTMTowers(sizes, **shared) if name == "lstm" else WideDeepModel(sizes, **shared)


def score_task(
    data: UserBERTData,
    method: Method,
    task: DownstreamTask,
    setting: Setting,
    settings: TrainingSettings,
    *,
    seed: int,
    part: Part,
    start: Callable[[nn.Module], nn.Module] = lambda encoder: encoder,
    on_step: Callable[[int, int], None] | None = None,
) -> Scored:
    """Fit a method to the training queries of a task and score those of another part.

    Args:
        data: words and vocabularies.
        method: which one.
        task: of one of the method's families.
        setting: out of :func:`candidates`.
        settings: of networks.
        seed: of networks.
        part: whose queries are scored.
        start: from a new network to the pre-trained one.
        on_step: as in ``finetune``.

    """
    labels = labels_of(task)
    sentences = data.task_sentences(task, method.form)
    if method.kind == "network":
        values = list[np.ndarray]()
        encoder = start(make_encoder(method.encoder, data.sizes(method.form), settings, seed))
        config = FinetuningConfig(
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            learning_rate=setting["rate"],
            mixed_precision=settings.precision_of(method.encoder),
            random_seed=seed,
        )
        scored_labels = labels.take(_rows(task, part))
        finetune(
            encoder,
            task,
            sentences,
            config=config,
            score_part=part,
            on_step=on_step,
            on_epoch=lambda _, score: values.append(_value(scored_labels, score)),
        )
        value = np.stack(values, axis=1)
    else:
        train, scored = _rows(task, "train"), _rows(task, part)
        scored_labels, encoder = labels.take(scored), None
        fitted = _simple(data, method, setting, labels.take(train), take_sentences(sentences, train))
        value = _value(scored_labels, fitted(take_sentences(sentences, scored)))[:, None]
    label = scored_labels.value.numpy() if isinstance(scored_labels, BinaryLabels) else None
    return Scored(queries=task.part(part), label=label, value=value, encoder=encoder)


def load_start(path: Path, encoder: nn.Module) -> nn.Module:
    """Read pre-trained weights, as ``state`` in the file, into a new network."""
    from graphrec.training.checkpoint import load_checkpoint

    encoder.load_state_dict(load_checkpoint(path)["state"])
    return encoder


def _rows(task: DownstreamTask, part: Part) -> Tensor:
    assert part in PARTS
    return torch.from_numpy((task.queries["part"] == part).to_numpy().copy()).nonzero().flatten()


def _value(labels: TaskLabels, score: Tensor) -> np.ndarray:
    """Return probabilities of a 1, or AP@10."""
    if isinstance(labels, SetLabels):
        return average_precision_at_k(score, labels.ptr, labels.code, k=K)
    probability: np.ndarray = score[:, 0].numpy()
    return probability


def _simple(
    data: UserBERTData, method: Method, setting: Setting, labels: TaskLabels, sentences: UserSentences
) -> Callable[[UserSentences], Tensor]:
    """Fit a method without a network to training queries, and return what scores others."""
    if isinstance(labels, SetLabels):
        popularity = popular_classes(labels.code, len(labels.ptr) - 1, labels.num_outputs)
        if method.kind == "popular":
            return lambda queries: popularity.expand(len(queries), -1)
        code = code_of_classes(labels.classes, data.values_of(data.class_attribute))
        return lambda queries: own_frequency(
            queries,
            data.column_of(data.class_attribute),
            data.tokenizers["words"].vocabularies.num_codes[data.class_attribute],
            code,
            popularity,
            kinds=data.tokenizers["words"].kinds,
            half_life=setting.get("half_life"),
            popularity_weight=setting.get("popularity", POPULARITY_WEIGHTS[0]),
        )
    model = _binary_model(data, method, setting).fit(sentences, labels.value.numpy())
    return lambda queries: torch.from_numpy(np.asarray(model.predict(queries), np.float64))[:, None]


def _binary_model(data: UserBERTData, method: Method, setting: Setting) -> Any:
    if method.kind == "trees":
        config = TreesConfig(
            num_trees=int(setting["num_trees"]), learning_rate=setting["learning_rate"], min_samples_leaf=20
        )
        return AggregateTrees(data.sizes("words"), config)
    num_codes = data.tokenizers["words"].vocabularies.num_codes
    return TfidfLogistic(
        [data.column_of(name) for name in data.term_attributes],
        [num_codes[name] for name in data.term_attributes],
        strength=setting["strength"],
    )
