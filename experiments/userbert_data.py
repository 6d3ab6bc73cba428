"""What UserBERT's tables are made from: a data set's words, its tasks, and the queries of pre-training."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from graph_builders import BehaviorGraph, Vocabulary, build_behavior_graph
from graph_builders.behavior_graph import Relation
from graph_builders.datasets import load_complete_journey
from graph_builders.datasets.complete_journey import SIMULATED, TIME_ZONE
from graph_builders.datasets.complete_journey_tasks import (
    attribute_tasks,
    complete_journey_split,
    next_genre_task,
    query_times,
    targeting_tasks,
)
from graph_builders.datasets.complete_journey_usage import usage_tasks
from graph_builders.datasets.downstream_tasks import DownstreamTask, UserTimeSplit
from graph_builders.datasets.tables import DatasetTables
from graph_builders.option_checks import check_whole_numbers
from graphrec.encoders.behavior_words import SentenceTokenizer, WordKind, long_words, short_words
from graphrec.encoders.input_reader import InputReader
from graphrec.encoders.sentences import UserSentences
from graphrec.encoders.userbert import SentenceSizes
from graphrec.encoders.userbert_encoder import read_sentences
from graphrec.encoders.vocabulary import fit_vocabularies
from samplers.random_numbers import keyed_uniform

Form = Literal["words", "actions"]
"""How actions become words: by day and session, as UserBERT has it, or every action a word of its own."""
TARGETING, ATTRIBUTES, NEXT_GENRE = "targeting", "attributes", "next genre"


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What is asked of a data set.

    Attributes:
        num_categories: of the targeting tasks.
        num_tuned: tasks of a family on whose validation queries settings are chosen.
        max_targeting: training queries of each targeting task.
        max_genre: training queries of the next genre.
        pretraining_days: from one sentence of a user to the next in pre-training on masked words.
        max_daily: queries of KuaiRand-Pure's pre-trainings, drawn from all users on all days.
        max_words: of each kind, the latest that are kept.
        max_size: values that an attribute's vocabulary keeps.

    """

    num_categories: int = 6
    num_tuned: int = 2
    max_targeting: int = 2000
    max_genre: int = 5_000
    pretraining_days: int = 7
    max_daily: int = 8000
    max_words: int = 128
    max_size: int = 5000

    def __post_init__(self) -> None:
        check_whole_numbers(self, **{option.name: 1 for option in fields(self)})


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskFamily:
    """Tasks that share a table and the settings that validation chooses.

    Attributes:
        name: ``TARGETING``, ``ATTRIBUTES`` or ``NEXT_GENRE``.
        tasks: all of one kind.
        num_tuned: the first so many are asked on validation.

    """

    name: str
    tasks: tuple[DownstreamTask, ...]
    num_tuned: int

    @property
    def is_binary(self) -> bool:
        """Whether labels are 0 or 1; else they are sets."""
        return self.tasks[0].kind == "binary"


@dataclass(frozen=True, kw_only=True, eq=False)
class UserBERTData:
    """One data set.

    Attributes:
        name: of the command line and of the result files.
        title: for pages, with what must be said beside every figure.
        tables: as loaded.
        graph: of the events that words are made of.
        split: of users and times.
        tokenizers: by form; vocabularies hold what was known before the test.
        families: in the order of the tables.
        usage: tasks that the multi-task baselines are pre-trained on.
        pretraining_queries: ``user_id`` and ``time`` of training users before the test.
        class_attribute: the words' attribute whose values are the classes of the next genre.
        term_attributes: the words' attributes that TF-IDF reads.
        half_lives: of words, in days: among them validation chooses that of the decayed frequency.

    """

    name: str
    title: str
    tables: DatasetTables
    graph: BehaviorGraph
    split: UserTimeSplit
    tokenizers: Mapping[Form, SentenceTokenizer]
    families: tuple[TaskFamily, ...]
    usage: tuple[DownstreamTask, ...]
    pretraining_queries: pl.DataFrame
    class_attribute: str
    term_attributes: tuple[str, ...]
    half_lives: tuple[float, ...]
    _readers: dict[Form, InputReader] = field(default_factory=dict, init=False, repr=False)
    _kept: dict[tuple[str, Form], UserSentences] = field(default_factory=dict, init=False, repr=False)

    def sizes(self, form: Form) -> SentenceSizes:
        """Return how large the vocabularies and windows are."""
        return self.tokenizers[form].sizes

    def task_sentences(self, task: DownstreamTask, form: Form) -> UserSentences:
        """Return the sentences of a task's queries, row by row, kept for the next call."""
        return self.kept_sentences(task.name, task.queries, form)

    def kept_sentences(self, name: str, queries: pl.DataFrame, form: Form) -> UserSentences:
        """Return the sentences of queries that a name stands for, kept for the next call."""
        key = (name, form)
        if key not in self._kept:
            self._kept[key] = self.sentences(queries, form)
        return self._kept[key]

    def sentences(self, queries: pl.DataFrame, form: Form) -> UserSentences:
        """Return the sentences of queries, ``user_id`` and ``time``, row by row."""
        if form not in self._readers:
            self._readers[form] = InputReader(self.graph, "user", self.tokenizers[form].requests)
        user = self.graph.ids["user"].rows(queries["user_id"])
        return read_sentences(self._readers[form], self.tokenizers[form], user, times_of(queries))

    def column_of(self, attribute: str, form: Form = "words") -> dict[str, int]:
        """Return the column of ``BehaviorWords.code`` that holds an attribute, for each kind of words."""
        kinds = self.tokenizers[form].kinds
        return {
            name: kind.attributes.index(attribute)
            for name, kind in kinds.items()
            if attribute in kind.attributes
        }

    def values_of(self, attribute: str) -> list[str]:
        """Return the values of an attribute's vocabulary, in the order of their codes."""
        fitted = self.tokenizers["words"].vocabularies.fitted.fields[attribute]
        assert isinstance(fitted, Vocabulary)  # numbers have bins
        return [str(value) for value in fitted.words.to_list()]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all events, users and items, as hexadecimal digits; what is made of them is not."""
        digest = hashlib.sha256()
        for frame in (self.tables.events.frame, self.tables.user_table, self.tables.item_table):
            if frame is not None:
                digest.update(_hash(frame))
        return digest.hexdigest()


def times_of(queries: pl.DataFrame) -> Tensor:
    """Return the queries' times, int64."""
    return torch.from_numpy(queries["time"].to_numpy().copy())


def task_digest(task: DownstreamTask) -> str:
    """Return 16 hexadecimal digits over a task's queries and labels."""
    queries = task.queries
    if task.kind == "set":
        queries = queries.with_columns(pl.col("label").list.join("\0"))
    return hashlib.sha256(task.name.encode() + _hash(queries)).hexdigest()[:16]


def _hash(frame: pl.DataFrame) -> bytes:
    """Hash each row by its values; categories by their words, whose numbers are of this process alone."""
    words = [name for name, dtype in frame.schema.items() if dtype == pl.Categorical]
    frame = frame.with_columns(pl.col(words).cast(pl.String)) if words else frame
    lists = [name for name, dtype in frame.schema.items() if dtype == pl.List]
    plain = frame.with_columns(pl.col(lists).cast(pl.List(pl.String)).list.join("\0")) if lists else frame
    return np.ascontiguousarray(plain.hash_rows(seed=0).to_numpy()).tobytes()


def thin_training(task: DownstreamTask, most: int) -> DownstreamTask:
    """Keep so many training queries at most, drawn by a key of user, time and task; the others stay."""
    queries = task.queries
    count = task.part("train").height
    if count <= most:
        return task
    user = torch.from_numpy(queries["user_id"].cast(pl.Int64).to_numpy().copy())
    draw = pl.Series("draw", keyed_uniform("thinned", task.name, user, times_of(queries)).numpy())
    rank = pl.col("draw").rank("ordinal").over("part")
    kept = queries.with_columns(draw).filter((pl.col("part") != "train") | (rank <= most)).drop("draw")
    note = f"{most:,} of {count:,} training queries are used, drawn at random."
    return replace(task, queries=kept, notes=(*task.notes, note))


def thin_queries(queries: pl.DataFrame, most: int) -> pl.DataFrame:
    """Keep so many rows at most, drawn by a key of ``user_id`` and ``time``, in their order."""
    user = torch.from_numpy(queries["user_id"].cast(pl.Int64).to_numpy().copy())
    draw = pl.Series("draw", keyed_uniform("thinned queries", user, times_of(queries)).numpy())
    return queries.with_columns(draw).filter(pl.col("draw").rank("ordinal") <= most).drop("draw")


def every_action(kind: WordKind) -> WordKind:
    """Return the same history with every action as a word."""
    return replace(kind, word="action")


def make_tokenizers(
    graph: BehaviorGraph, kinds: Mapping[str, WordKind], *, fit_until: int, time_zone: str, max_size: int
) -> dict[Form, SentenceTokenizer]:
    """Fit one vocabulary for both forms of words."""
    vocabularies = fit_vocabularies(
        graph, [kind.request for kind in kinds.values()], fit_until=fit_until, max_size=max_size
    )
    forms: dict[Form, Mapping[str, WordKind]] = {
        "words": kinds,
        "actions": {name: every_action(kind) for name, kind in kinds.items()},
    }
    return {
        form: SentenceTokenizer(kinds=of_form, vocabularies=vocabularies, time_zone=time_zone)
        for form, of_form in forms.items()
    }


def complete_journey_data(path: str | None, settings: DataSettings) -> UserBERTData:
    """Load Complete Journey: baskets, coupons and campaigns as words, three families of tasks.

    Long-term words are older than seven days, short-term ones of the last seven. No demographic is an input.

    Args:
        path: folder of the data; None: that of the installed package.
        settings: what is asked.

    """
    tables = load_complete_journey(path)
    graph = build_behavior_graph(tables.events, user_table=tables.user_table, item_table=tables.item_table)
    split = complete_journey_split()
    actions = tuple(
        Relation(domain, behavior).reverse_edge_type
        for domain, behavior in (
            ("internal", "purchase"),
            ("external", "redemption"),
            ("external", "campaign"),
        )
    )
    attributes = ("store_id", "sales_value")
    fields = ("department", "product_category", "product_type", "brand")
    most = settings.max_words
    kinds = {
        "long": long_words(actions, attributes=attributes, fields=fields, max_words=most),
        "short": short_words(actions, attributes=attributes, fields=fields, max_words=most),
    }
    targeting = targeting_tasks(tables, split, num_categories=settings.num_categories)
    families = (
        TaskFamily(
            name=TARGETING,
            tasks=tuple(thin_training(task, settings.max_targeting) for task in targeting),
            num_tuned=settings.num_tuned,
        ),
        TaskFamily(name=ATTRIBUTES, tasks=attribute_tasks(tables, split), num_tuned=settings.num_tuned),
        TaskFamily(
            name=NEXT_GENRE, tasks=(thin_training(next_genre_task(tables, split), settings.max_genre),),
            num_tuned=1,
        ),
    )  # fmt: skip
    first = tables.events.frame.group_by("user_id").agg(first=pl.col("time").min())
    return UserBERTData(
        name="complete_journey",
        title=f"Complete Journey. {SIMULATED}",
        tables=tables,
        graph=graph,
        split=split,
        tokenizers=make_tokenizers(
            graph, kinds, fit_until=split.test_start, time_zone=TIME_ZONE, max_size=settings.max_size
        ),
        families=families,
        usage=usage_tasks(tables, split),
        pretraining_queries=training_times(first, split, query_times(split, settings.pretraining_days)),
        class_attribute="product_category",
        term_attributes=("product_category", "product_type", "store_id"),
        half_lives=(14.0, 30.0, 60.0, 120.0, 240.0),
    )


def training_times(first: pl.DataFrame, split: UserTimeSplit, times: pl.Series) -> pl.DataFrame:
    """Return ``user_id`` and ``time`` of training users after their first event, before the test.

    Validation and test users are left out of pre-training altogether.

    Args:
        first: ``user_id`` and the time of the ``first`` event.
        split: of users and times.
        times: candidates.

    """
    asked = split.query_frame(first["user_id"], times, 0).join(first, on="user_id")
    kept = asked.filter(pl.col("part") == "train", pl.col("first") < pl.col("time"))
    return kept.select("user_id", "time").sort("time", "user_id")
