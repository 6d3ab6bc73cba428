"""The methods of DUPN's tables: what each is made of, what validation chooses, how it scores a task."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from experiments.dupn_data import DUPNData, Part
from graph_builders.datasets.entity_tasks import EntityTask
from graph_builders.option_checks import check_number, check_numbers, check_whole_numbers
from graphrec.encoders.behavior_sequences import BehaviorSequences
from graphrec.encoders.dupn import DUPN
from graphrec.encoders.sentences import FIRST
from graphrec.models.dupn_baselines import (
    BehaviorMean,
    CNNMax,
    NoEncoder,
    TowerHead,
    WideHead,
    add_wide_codes,
)
from graphrec.models.dupn_heads import ClassHead, PairHead, RankingHead, TaskHead, TaskRows
from graphrec.models.item_word2vec import start_items_from
from graphrec.models.trees import BoostedTrees, TreesConfig
from graphrec.nn.code_vectors import CodeVectors, MappedCodes
from graphrec.training.loop import OptimizerConfig
from graphrec.training.multi_task import (
    MultiTaskConfig,
    MultiTaskModel,
    TaskData,
    fit_tasks,
    score_task,
)

Encoder = Literal["none", "mean", "cnn", "dupn"]
Interleaving = Literal["proportional", "in turn", "together"]
OnStep = Callable[[int, int], None]
KINDS: Mapping[str, type[TaskHead]] = {"pair": PairHead, "ranking": RankingHead, "class": ClassHead}
NUM_LAST = 5  # behaviours that the wide part crosses with the entity


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """How networks are made and trained; widths are half the paper's, so that a table costs an hour.

    Attributes:
        item_channels: of each column of the items.
        property_channels: of each property.
        hidden_channels: of the LSTM, the convolution and the attention's first layer (paper: 128).
        user_channels: of the profile (paper: 128).
        query_channels: of the query.
        head_channels: of the heads' layers and of entities (paper: 128).
        dropout: of DUPN (paper: 0.8 printed, most likely the share kept). One pass over the rows is better
            without: 0.725 against 0.714 to 0.724 on the click task's validation day.
        batch_size: rows of a step (paper: 1,024, of data a thousand times larger).
        epochs: passes over the training rows.
        rates: of Adagrad, of which validation chooses for each method and task (paper: 0.001).
        tree_rates: of boosted trees, likewise.
        num_trees: of these.

    """

    item_channels: int = 16
    property_channels: int = 8
    hidden_channels: int = 64
    user_channels: int = 64
    query_channels: int = 16
    head_channels: int = 64
    dropout: float = 0.0
    batch_size: int = 256
    epochs: int = 1
    rates: tuple[float, ...] = (0.01, 0.04)
    tree_rates: tuple[float, ...] = (0.05, 0.1)
    num_trees: int = 100

    def __post_init__(self) -> None:
        check_whole_numbers(self, epochs=1, batch_size=1, num_trees=1)
        check_whole_numbers(self, item_channels=1, property_channels=1, user_channels=1, query_channels=1)
        check_whole_numbers(self, hidden_channels=2, head_channels=1)  # the attention's second layer has half
        check_numbers(self, ("dropout",), least=0, below=1)
        for name in ("rates", "tree_rates"):
            if not getattr(self, name):
                raise ValueError(f"NetworkSettings.{name} is empty: name a rate to choose from")
            for rate in getattr(self, name):
                check_number(f"a rate of NetworkSettings.{name}", rate, above=0)


@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of the table of variants.

    Attributes:
        name: as the table has it.
        encoder: of a network.
        properties_in: of DUPN: as ``DUPN`` has it.
        query_in_output: of DUPN: as ``DUPN`` has it.
        has_wide: whether a wide part stands beside the head, or alone without an encoder.
        is_tower: whether the head is DSSM's; pairs alone.
        word2vec: whether items start from word2vec's vectors.
        is_trees: boosted trees in the place of a network.

    """

    name: str
    encoder: Encoder = "dupn"
    properties_in: str = "both"
    query_in_output: bool = False
    has_wide: bool = False
    is_tower: bool = False
    word2vec: bool = False
    is_trees: bool = False

    def can_do(self, task: EntityTask) -> bool:
        """Whether the method is made for a task."""
        return not self.is_tower or task.kind == "pair"


CANDIDATE = "DUPN"
METHODS = (
    Method(name=CANDIDATE),
    Method(name="Wide", encoder="none", has_wide=True),
    Method(name="Wide&Deep", encoder="mean", has_wide=True),
    Method(name="DSSM", encoder="mean", is_tower=True),
    Method(name="CNN-max", encoder="cnn"),
    Method(name="boosted trees", is_trees=True),
    Method(name="DUPN nobp", properties_in="none"),
    Method(name="DUPN bplstm", properties_in="lstm"),
    Method(name="DUPN bpatt", properties_in="attention"),
    Method(name="DUPN w2v", word2vec=True),
    Method(name="DUPN, query to the heads", query_in_output=True),  # as the baselines have it
)
BASELINES = ("Wide", "Wide&Deep", "DSSM", "CNN-max", "boosted trees")


# ---- networks --------------------------------------------------------------------------------------


def make_model(
    data: DUPNData,
    names: Sequence[str],
    settings: NetworkSettings,
    *,
    seed: int,
    method: Method = METHODS[0],
    uncertainty: bool = False,
) -> MultiTaskModel:
    """Return a new network with a head for each task; the caller's random numbers stay as they were.

    Args:
        data: sizes and tasks.
        names: of the tasks.
        settings: widths.
        seed: of the weights.
        method: which encoder and heads.
        uncertainty: as in ``MultiTaskModel``.

    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = _make_encoder(data, method, settings)
        if method.word2vec:
            start_items_from(encoder, data.read_vectors(settings.item_channels))
        heads = {name: _make_head(data, data.tasks[name], encoder, method, settings) for name in names}
        return MultiTaskModel(encoder, heads, uncertainty=uncertainty)


def _make_encoder(data: DUPNData, method: Method, settings: NetworkSettings) -> nn.Module:
    if method.encoder == "none":
        return NoEncoder()
    sizes, width = data.tokenizer.sizes, settings.hidden_channels
    if method.encoder == "dupn":
        return DUPN(
            sizes,
            item_channels=settings.item_channels,
            property_channels=settings.property_channels,
            hidden_channels=width,
            user_channels=settings.user_channels,
            query_channels=settings.query_channels,
            attention_channels=(width, width // 2),
            properties_in=method.properties_in,
            query_in_output=method.query_in_output,
            dropout=settings.dropout,
        )
    widths = {
        "item_channels": settings.item_channels,
        "property_channels": settings.property_channels,
        "user_channels": settings.user_channels,
        "query_channels": settings.query_channels,
    }
    if method.encoder == "cnn":
        return CNNMax(sizes, hidden_channels=width, **widths)
    return BehaviorMean(sizes, hidden_channels=(2 * width, 2 * width), **widths)


def _make_head(
    data: DUPNData, task: EntityTask, encoder: nn.Module, method: Method, settings: NetworkSettings
) -> TaskHead:
    """Make a task's head; entities share the encoder's tables of items, where there are any."""
    rows, width = data.data[task.name].rows, settings.head_channels
    channels: Any = encoder.out_channels
    num_outputs, num_features = max(task.num_classes, 1), rows.features.shape[1]
    head: TaskHead | None = None
    if method.encoder != "none":
        dropout = settings.dropout if method.encoder == "dupn" else 0.0
        if task.kind == "pair":
            entity = MappedCodes(_entity_tables(data, task, encoder, settings), width)
            if method.is_tower:
                return TowerHead(channels, entity, hidden_channels=(width, width))
            head = PairHead(channels, entity, hidden_channels=(width, width), dropout=dropout)
        elif task.kind == "ranking":
            head = RankingHead(channels, num_features, hidden_channels=width, dropout=dropout)
        else:
            head = ClassHead(channels, num_outputs, hidden_channels=width, dropout=dropout)
    if method.has_wide:
        num_columns = _wide_rows(data.data[task.name].take(torch.arange(1))).rows.entity.shape[1]
        return WideHead(
            KINDS[task.kind],
            num_columns - rows.entity.shape[1],
            num_outputs=num_outputs,
            num_features=num_features,
            deep=head,
        )
    assert head is not None  # a row without an encoder has a wide part
    return head


def _entity_tables(data: DUPNData, task: EntityTask, encoder: Any, settings: NetworkSettings) -> CodeVectors:
    """Return the encoder's tables of items or of their field, or a new one of what is neither."""
    if task.name in data.entity_columns:
        tables: CodeVectors = encoder.item.part(data.entity_columns[task.name])
        return tables
    assert task.entity is not None  # of a pair
    num_codes = data.tokenizer.vocabularies.num_codes[task.entity]
    return CodeVectors((num_codes,), (settings.item_channels,))


def training_config(
    settings: NetworkSettings,
    rate: float,
    seed: int,
    *,
    interleaving: Interleaving = "proportional",
    epochs: int | None = None,
) -> MultiTaskConfig:
    """Return Adagrad at one rate for all parameters, with a small L2 on all but embeddings."""
    optimizer = OptimizerConfig(
        name="adagrad",
        learning_rate=rate,
        embedding_learning_rate=rate,
        weight_decay=1e-6,
        decay=False,
        epochs=settings.epochs if epochs is None else epochs,
        batch_size=settings.batch_size,
    )
    return MultiTaskConfig(interleaving=interleaving, optimizer=optimizer, random_seed=seed)


def fit_and_score(
    data: DUPNData,
    method: Method,
    name: str,
    rate: float,
    settings: NetworkSettings,
    *,
    seed: int,
    days: tuple[int, int],
    part: Part,
    on_step: OnStep | None = None,
) -> np.ndarray:
    """Fit a method to one task's training rows of some days and score others.

    Args:
        data: the tasks.
        method: which one.
        name: of the task.
        rate: of the optimiser or the trees.
        settings: of networks.
        seed: of weights and orders.
        days: first and behind the last of the training rows.
        part: whose rows are scored.
        on_step: as in ``fit_tasks``.

    Returns:
        What :func:`values_of` returns.

    """
    train = data.train(name, *days)
    if method.is_trees:
        return values_of(data.tasks[name], *_trees(data, name, rate, settings, train, part.task))
    model = make_model(data, [name], settings, seed=seed, method=method)
    tested = part.task
    if method.has_wide:
        train, tested = _wide_rows(train), _wide_rows(tested)
    config = training_config(settings, rate, seed)
    fit_tasks(model, {name: train}, fit_until=data.bounds[days[1]], config=config, on_step=on_step)
    return values_of(data.tasks[name], score_task(model, name, tested), tested.rows.label)


def values_of(task: EntityTask, score: Tensor, label: Tensor) -> np.ndarray:
    """Return scores, float64, or of classes 1 where the most likely one is right and 0 elsewhere."""
    if task.kind != "class":
        return score.double().numpy()
    return (score.argmax(dim=1) == label.long()).double().numpy()


def _wide_rows(task: TaskData) -> TaskData:
    """Put wide codes behind a task's rows, reading the inputs of their queries alone."""
    query, place = task.rows.query.unique(return_inverse=True)
    wide = add_wide_codes(replace(task.rows, query=place), task.inputs.take(query), num_last=NUM_LAST)
    return replace(task, rows=replace(wide, query=task.rows.query))


# ---- boosted trees ---------------------------------------------------------------------------------


def _trees(
    data: DUPNData, name: str, rate: float, settings: NetworkSettings, train: TaskData, tested: TaskData
) -> tuple[Tensor, Tensor]:
    """Fit boosted trees to aggregates; return scores (a column a class, if any) and labels of the others."""
    columns = data.entity_columns.get(name, ())
    config = TreesConfig(num_trees=settings.num_trees, learning_rate=rate)
    trees = BoostedTrees(config)
    label = train.rows.label
    if data.tasks[name].kind == "ranking":
        label = (label > 0).float()
    trees.fit(aggregates(train.inputs, train.rows, columns), label)
    score = torch.from_numpy(
        trees.classifier.predict_proba(aggregates(tested.inputs, tested.rows, columns).numpy())
    )
    return score if data.tasks[name].kind == "class" else score[:, 1], tested.rows.label


def aggregates(inputs: BehaviorSequences, rows: TaskRows, entity_columns: Sequence[int]) -> Tensor:
    """Describe rows by counts: what boosted trees read of the inputs of networks.

    Of the query: its behaviours of each type, of each bucket of the gap in fours, the hour of the last one;
    the means of the items' codes, which rise with rarity or size; profile and query codes. Of the entity:
    its codes, and how many behaviours of each type shared each of them. And the ranking features.

    Args:
        inputs: of all queries.
        rows: described.
        entity_columns: columns of the items that the rows' entity codes are of; none for another entity.

    Returns:
        float32 (num_rows, num_features).

    """
    query, place = rows.query.unique(return_inverse=True)
    some = inputs.take(query)
    owner = torch.repeat_interleave(torch.arange(len(some)), some.ptr.diff())
    kind, gap = some.properties[:, 0], (some.properties[:, 2] - FIRST).clamp(min=0) // 4
    num_kinds = int(inputs.properties[:, 0].max()) + 1 if len(inputs.properties) else 1

    def count(key: Tensor, size: int, which: Tensor, num_rows: int) -> Tensor:
        found = torch.bincount(which * size + key, minlength=num_rows * size)
        return found.reshape(num_rows, size).float()

    length = some.ptr.diff().float()
    mean = torch.zeros(len(some), some.item.shape[1]).index_add_(0, owner, some.item.float())
    last = torch.full((len(some),), -1.0)
    last[owner] = some.properties[:, 1].float()  # the last one written is the latest behaviour
    of_query = torch.cat(
        [
            length[:, None],
            count(kind, num_kinds, owner, len(some)),
            count(gap, 8, owner, len(some)),
            last[:, None],
            mean / length.clamp(min=1)[:, None],
            some.profile.float(),
            some.query.float(),
        ],
        dim=1,
    )
    parts = [of_query[place], rows.features, rows.entity.float()]
    if len(entity_columns):
        # each row beside each behaviour of its query
        number = torch.arange(len(rows))
        lengths = some.ptr.diff()[place]
        row = torch.repeat_interleave(number, lengths)
        begin = some.ptr[place] - (lengths.cumsum(0) - lengths)
        behavior = torch.arange(len(row)) + begin[row]
        for column, code in zip(entity_columns, rows.entity.T, strict=True):
            same = some.item[behavior, column] == code[row]
            parts.append(count(kind[behavior[same]], num_kinds, row[same], len(rows)))
    return torch.cat(parts, dim=1)
