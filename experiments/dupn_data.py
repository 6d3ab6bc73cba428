"""What DUPN's tables are made from: tasks of a data set, the inputs of their queries, the days' bounds."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cache

import numpy as np
import polars as pl
import torch
from torch import Tensor

from graph_builders import (
    BehaviorGraph,
    Bins,
    FittedFields,
    build_behavior_graph,
    build_feature_table,
    fit_fields,
)
from graph_builders.behavior_graph import Relation
from graph_builders.datasets import load_complete_journey, load_kuairand_pure
from graph_builders.datasets.complete_journey import SIMULATED, TIME_ZONE, local_midnight
from graph_builders.datasets.complete_journey_entity_tasks import complete_journey_entity_tasks
from graph_builders.datasets.entity_tasks import EntityTask
from graph_builders.datasets.kuairand_tasks import kuairand_tasks
from graph_builders.option_checks import check_whole_numbers
from graphrec.encoders.behavior_sequences import (
    HISTORY,
    SequenceTokenizer,
    behavior_request,
    concatenate_sequences,
    item_fingerprint,
)
from graphrec.encoders.input_reader import InputReader
from graphrec.encoders.vocabulary import AttributeVocabularies, fit_profile, fit_vocabularies
from graphrec.models.item_word2vec import ItemVectors, ItemWord2VecConfig, fit_item_vectors
from graphrec.training.entity_task_data import EntityCodes, field_codes, item_codes, read_tasks
from graphrec.training.multi_task import TaskData
from graphrec.training.scaling import QuantileScaler
from samplers import EdgeType
from samplers.random_numbers import keyed_uniform

MAX_SEQUENCE = 1_000  # behaviours of a user that word2vec reads
HOUR = 3_600_000  # KuaiRand's times are milliseconds
KUAIRAND_START = 19_107 * 24 * HOUR - 8 * HOUR  # 25 April 2022 in Shanghai
FORTNIGHT = 14 * 86_400  # Complete Journey's times are seconds
JOURNEY_TYPES = tuple(
    Relation(domain, behavior).reverse_edge_type
    for domain, behavior in (("internal", "purchase"), ("external", "redemption"), ("external", "campaign"))
)
JOURNEY_ITEM_FIELDS = ("department", "product_category", "product_type", "brand", "manufacturer")
JOURNEY_ATTRIBUTES = ("store_id", "sales_value")
NUM_TABS = 15
KUAIRAND_ITEM_FIELDS = ("author_id", "tag", "video_duration", "upload_type")
KUAIRAND_PROFILE = tuple(f"onehot_feat{i}" for i in range(18))
KUAIRAND_TYPES = (
    *(
        Relation(domain, behavior).reverse_edge_type
        for behavior in ("click", "skip", "long_view", "like")
        for domain in ("internal", "external")
    ),
    Relation("early", "long_watch").reverse_edge_type,
    Relation("early", "like").reverse_edge_type,
)


@dataclass(frozen=True, kw_only=True)
class DUPNDataSettings:
    """What is asked of a data set.

    Attributes:
        num_behaviors: the most recent ones of a query that networks read (paper: 100).
        max_rows: training rows of a task in a window of days, about; drawn by query, the same share of each
            day. Validation and test have all rows.
        num_negatives: sampled authors for each author that a user clicks first.
        num_train_days: of a window (paper: 10). The last of the first window is the validation day.
        num_test_days: behind the first window.

    """

    num_behaviors: int = 30
    max_rows: int = 40_000
    num_negatives: int = 1
    num_train_days: int = 10
    num_test_days: int = 4

    def __post_init__(self) -> None:
        check_whole_numbers(
            self, num_behaviors=1, max_rows=1, num_negatives=1, num_train_days=2, num_test_days=1
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Some rows of a task, and who asked: what is scored.

    Attributes:
        task: inputs, rows and labels.
        user_id: of each row, integers.

    """

    task: TaskData
    user_id: np.ndarray

    @property
    def time(self) -> np.ndarray:
        """Time of each row's query."""
        time: np.ndarray = self.task.time[self.task.rows.query].numpy()
        return time


@dataclass(frozen=True, kw_only=True, eq=False)
class DUPNData:
    """One data set.

    Attributes:
        name: of the command line and of the result files.
        title: for pages, with what must be said beside every figure.
        tasks: as they were built, by name, thinned; in the order of the tables.
        held_out: name of the task that is for transfer alone.
        settings: what was asked.
        bounds: where the days begin, and the last one ends; the first window's days come first.
        tokenizer: of sequences; it holds what was known before the first label.
        entity_columns: of tasks about items or their fields, the columns of items that the entities' codes
            are of. Another entity has one code.
        data: of each task, ranking features scaled.
        drawn: whether a row may be trained on, for each task.
        read_vectors: fits word2vec to what users did before the first label, with so many channels.
        behaviors: names of the behaviours' types, in the order of their codes.
        fingerprint: hexadecimal digits over the tasks' rows and their inputs.

    """

    name: str
    title: str
    tasks: Mapping[str, EntityTask]
    held_out: str
    settings: DUPNDataSettings
    bounds: tuple[int, ...]
    tokenizer: SequenceTokenizer
    entity_columns: Mapping[str, tuple[int, ...]]
    data: Mapping[str, TaskData]
    drawn: Mapping[str, Tensor]
    read_vectors: Callable[[int], ItemVectors]
    behaviors: tuple[str, ...]
    fingerprint: str = field(default="")

    @property
    def learned(self) -> tuple[str, ...]:
        """Names of the tasks that are learned together: all but the one held out."""
        return tuple(name for name in self.tasks if name != self.held_out)

    def train(self, name: str, first: int, stop: int) -> TaskData:
        """Return the training rows of days ``first`` to ``stop - 1``, known before the last one ended."""
        start, end = self.bounds[first], self.bounds[stop]
        task = self.data[name]
        time = task.time[task.rows.query]
        kept = self.drawn[name] & (time >= start) & (time < end) & (task.known_time < end)
        return task.take(kept.nonzero().flatten())

    def test(self, name: str, first: int, stop: int) -> Part:
        """Return all rows of days ``first`` to ``stop - 1``."""
        task = self.data[name]
        time = task.time[task.rows.query]
        row = ((time >= self.bounds[first]) & (time < self.bounds[stop])).nonzero().flatten()
        user = self.tasks[name].rows["user_id"].to_numpy()
        return Part(task=task.take(row), user_id=user[row.numpy()])


def thinned(task: EntityTask, share: float, keep_from: int) -> tuple[EntityTask, Tensor]:
    """Draw queries of a task by a key of user and time, and keep those and all rows from a time on.

    Args:
        task: all rows.
        share: of the queries that are drawn.
        keep_from: rows at or after this time stay, drawn or not.

    Returns:
        The task with the rows kept, and whether each of them was drawn.

    """
    user = torch.from_numpy(task.rows["user_id"].cast(pl.Int64).to_numpy().copy())
    time = torch.from_numpy(task.rows["time"].cast(pl.Int64).to_numpy().copy())
    drawn = keyed_uniform("thinned", task.name, user, time) < share
    kept = drawn | (time >= keep_from)
    return replace(task, rows=task.rows.filter(pl.Series(kept.numpy()))), drawn[kept]


def make_data(
    *,
    name: str,
    title: str,
    tasks: Mapping[str, EntityTask],
    held_out: str,
    settings: DUPNDataSettings,
    graph: BehaviorGraph,
    tokenizer: SequenceTokenizer,
    entity_codes: Mapping[str, EntityCodes],
    bounds: Sequence[int],
    query_fields: Sequence[str],
    behaviors: Sequence[str],
) -> DUPNData:
    """Thin tasks, read the inputs of their queries, scale ranking features.

    The scaler sees the rows before the validation day alone.

    Raises:
        ValueError: the days are not enough, or the tokenizer saw something of the first training day.

    """
    days = settings.num_train_days + settings.num_test_days
    if len(bounds) != days + 1:
        raise ValueError(f"{days} days have {days + 1} bounds, got {len(bounds)}")
    tokenizer.check_before(bounds[0])
    validation, test = bounds[settings.num_train_days - 1], bounds[settings.num_train_days]
    thin, drawn = {}, {}
    for one in tasks.values():
        inside = pl.col("time").is_between(bounds[0], bounds[-1], closed="left")
        inner = replace(one, rows=one.rows.filter(inside))
        share = settings.max_rows / max(int((inner.rows["time"] < test).sum()), 1)
        thin[one.name], drawn[one.name] = thinned(inner, share, validation)
    reader = InputReader(graph, "user", tokenizer.requests, fields=tokenizer.fields)
    data = read_tasks(
        list(thin.values()),
        reader,
        prepare=tokenizer.tokenize,
        concatenate=concatenate_sequences,
        entity_codes=entity_codes,
        query_fields=query_fields,
    )
    for one in thin.values():
        if one.kind == "ranking":
            data[one.name] = _scaled(data[one.name], validation)

    @cache
    def read_vectors(channels: int) -> ItemVectors:
        users = torch.arange(1, graph.ids["user"].num_rows)
        request = behavior_request(tokenizer.edge_types, length=MAX_SEQUENCE)
        plain = InputReader(graph, "user", {HISTORY: request})
        history = plain.read(users, torch.full_like(users, bounds[0])).histories[HISTORY]
        config = ItemWord2VecConfig(channels=channels)
        return fit_item_vectors(history.events, tokenizer.num_items, fit_until=bounds[0], config=config)

    made = DUPNData(
        name=name,
        title=title,
        tasks=thin,
        held_out=held_out,
        settings=settings,
        bounds=tuple(bounds),
        tokenizer=tokenizer,
        entity_columns=_entity_columns(tasks.values(), tokenizer),
        data=data,
        drawn=drawn,
        read_vectors=read_vectors,
        behaviors=tuple(behaviors),
    )
    return replace(made, fingerprint=_fingerprint(made))


def kuairand_data(path: str | None, settings: DUPNDataSettings) -> DUPNData:
    """Load KuaiRand-Pure: click, ranking, duration, author, and the long view, which is held out.

    Vocabularies are fitted on the sequences of before the log; those of tabs are the numbers 0 to 14. A
    behaviour's types are click, skip, long view and like, in the main tab and in others, and the earlier long
    watches and likes.

    Args:
        path: folder of the data; None: the embedded copy.
        settings: what is asked.

    """
    tables = load_kuairand_pure(path)
    graph = build_behavior_graph(tables.events, user_table=tables.user_table, item_table=tables.item_table)
    days = settings.num_train_days + settings.num_test_days
    bounds = [KUAIRAND_START + day * 24 * HOUR for day in range(days + 1)]
    _check_days(graph, KUAIRAND_TYPES, bounds, settings)
    tasks = kuairand_tasks(tables, num_negatives=settings.num_negatives)
    tokenizer = _kuairand_tokenizer(graph, settings.num_behaviors, bounds[0])
    return make_data(
        name="kuairand",
        title=tables.name,
        tasks=tasks,
        held_out="long_view",
        settings=settings,
        graph=graph,
        tokenizer=tokenizer,
        entity_codes={
            "item_id": item_codes(graph, tokenizer),
            "author_id": field_codes(tokenizer, "author_id"),
        },
        bounds=bounds,
        query_fields=("tab",),
        behaviors=[_type_name(edge_type) for edge_type in KUAIRAND_TYPES],
    )


def complete_journey_data(path: str | None, settings: DUPNDataSettings) -> DUPNData:
    """Load Complete Journey: product, price and brand, and the store, which is held out.

    A "day" of the settings is a fortnight; the last one ends with 2017. What lies before the first one is
    history, on which vocabularies are fitted. Behaviours are purchases, redeemed coupons and campaigns. No
    demographic field is read: their time is not known.

    Args:
        path: folder of the data; None: that of the installed package.
        settings: what is asked.

    """
    tables = load_complete_journey(path)
    graph = build_behavior_graph(tables.events, user_table=tables.user_table, item_table=tables.item_table)
    days = settings.num_train_days + settings.num_test_days
    end = pl.select(local_midnight(pl.lit(date(2018, 1, 1)))).item()
    bounds = [end - (days - day) * FORTNIGHT for day in range(days + 1)]
    _check_days(graph, JOURNEY_TYPES, bounds, settings)
    tasks = complete_journey_entity_tasks(tables, fit_until=bounds[0], num_negatives=settings.num_negatives)
    request = behavior_request(JOURNEY_TYPES, JOURNEY_ITEM_FIELDS, JOURNEY_ATTRIBUTES)
    tokenizer = SequenceTokenizer(
        edge_types=JOURNEY_TYPES,
        vocabularies=fit_vocabularies(graph, [request], fit_until=bounds[0]),
        item_fields=JOURNEY_ITEM_FIELDS,
        attributes=JOURNEY_ATTRIBUTES,
        num_items=graph.ids["item"].num_rows,
        items=item_fingerprint(graph.ids["item"], graph.ids["item"].num_rows),
        length=settings.num_behaviors,
        time_zone=TIME_ZONE,
    )
    return make_data(
        name="complete_journey",
        title=f"Complete Journey. {SIMULATED}",
        tasks=tasks,
        held_out="store",
        settings=settings,
        graph=graph,
        tokenizer=tokenizer,
        entity_codes={
            "item_id": item_codes(graph, tokenizer),
            "manufacturer": field_codes(tokenizer, "manufacturer"),
            "store_id": field_codes(tokenizer, "store_id"),
        },
        bounds=bounds,
        query_fields=(),
        behaviors=[_type_name(edge_type) for edge_type in JOURNEY_TYPES],
    )


def _check_days(
    graph: BehaviorGraph, edge_types: Sequence[EdgeType], bounds: Sequence[int], settings: DUPNDataSettings
) -> None:
    """Raise if the log begins after the first day or ends before the last one."""
    times = [graph.edges(edge_type).time for edge_type in edge_types]
    first = min((int(time.min()) for time in times if len(time)), default=bounds[0])
    last = max((int(time.max()) for time in times if len(time)), default=bounds[0])
    there = sum(first < bound <= last for bound in bounds[:-1])
    if there < len(bounds) - 1:
        raise ValueError(
            f"num_train_days={settings.num_train_days} and num_test_days={settings.num_test_days} are "
            f"{len(bounds) - 1} days, the log has {there} of them with anything before: ask for fewer"
        )


def _kuairand_tokenizer(graph: BehaviorGraph, length: int, fit_until: int) -> SequenceTokenizer:
    tabs = fit_fields(build_feature_table(pl.DataFrame({"tab": [str(tab) for tab in range(NUM_TABS)]})))
    tab = Bins(torch.arange(NUM_TABS - 1) + 0.5)  # of behaviours it is a number, of queries a word
    request = behavior_request(KUAIRAND_TYPES, KUAIRAND_ITEM_FIELDS)
    fitted = fit_vocabularies(graph, [request], fit_until=fit_until).fitted
    return SequenceTokenizer(
        edge_types=KUAIRAND_TYPES,
        vocabularies=AttributeVocabularies(FittedFields({**fitted.fields, "tab": tab}, fitted.fit_until)),
        item_fields=KUAIRAND_ITEM_FIELDS,
        attributes=("tab",),
        num_items=graph.ids["item"].num_rows,
        items=item_fingerprint(graph.ids["item"], graph.ids["item"].num_rows),
        length=length,
        profile=fit_profile(graph, "user", KUAIRAND_PROFILE),
        query_fields=AttributeVocabularies(tabs),
        time_zone="Asia/Shanghai",
    )


def _entity_columns(tasks: Iterable[EntityTask], tokenizer: SequenceTokenizer) -> dict[str, tuple[int, ...]]:
    """Return all columns for items, and its own one for a field of theirs."""
    columns = ["item_id"] * bool(tokenizer.num_items) + list(tokenizer.item_fields)
    return {
        task.name: tuple(range(len(columns))) if task.entity == "item_id" else (columns.index(task.entity),)
        for task in tasks
        if task.kind == "pair" and task.entity in columns
    }


def _type_name(edge_type: EdgeType) -> str:
    return str(edge_type[1])


def _scaled(task: TaskData, fit_until: int) -> TaskData:
    """Scale ranking features by the rows before a time; each, and a constant, stands in both signs.

    For DUPN's ranking head has weights of 0 or more and no bias: of some features less is better, and the
    figure is over all users' rows.
    """
    time = task.time[task.rows.query]
    scaler = QuantileScaler.fit(task.rows.features, time, fit_until=fit_until)
    scaled = scaler.transform(task.rows.features)
    scaled = torch.cat([scaled, torch.ones(len(scaled), 1)], dim=1)
    return replace(task, rows=replace(task.rows, features=torch.cat([scaled, -scaled], dim=1)))


def _fingerprint(data: DUPNData) -> str:
    """Hash the tasks' rows and the inputs, by their values."""
    digest = hashlib.sha256()
    for name, task in data.data.items():
        digest.update(name.encode())
        rows = (*vars(task.rows).values(), task.known_time, data.drawn[name])
        for values in (*rows, task.time) if name == data.learned[0] else rows:
            digest.update(np.ascontiguousarray(values.numpy()).tobytes())
    for values in vars(data.data[data.learned[0]].inputs).values():
        digest.update(np.ascontiguousarray(values.numpy()).tobytes())
    return digest.hexdigest()[:16]
