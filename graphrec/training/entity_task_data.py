"""From tasks about entities to what multi-task training reads: inputs of each query once, codes, labels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from graph_builders import BehaviorGraph, build_feature_table
from graph_builders.datasets.entity_tasks import EntityTask
from graphrec.encoders.base import EncoderInput
from graphrec.encoders.behavior_sequences import SequenceTokenizer
from graphrec.encoders.input_reader import InputReader, prepare_queries, take_values
from graphrec.encoders.sentences import FIRST, RARE
from graphrec.models.dupn_heads import TaskRows
from graphrec.training.multi_task import TaskData

EntityCodes = Callable[[pl.Series], Tensor]
"""From the entities of rows to their codes, int64 (num_rows, num_fields)."""


def item_codes(graph: BehaviorGraph, tokenizer: SequenceTokenizer) -> EntityCodes:
    """Return the codes that the tokenizer gives to items: a head may share the encoder's tables.

    Args:
        graph: which knows the items and their fields.
        tokenizer: whose columns of items are wanted: the item itself where it is read, then its fields.

    Raises:
        ValueError: the tokenizer is bound to other items than the graph's (``SequenceTokenizer.items``).

    """
    tokenizer.check_items(graph.ids["item"])

    def codes(item_id: pl.Series) -> Tensor:
        row = graph.ids["item"].rows(item_id)
        table = graph.features["item"]
        columns = [
            tokenizer.vocabularies.code(name, take_values(table[name], row)) for name in tokenizer.item_fields
        ]
        if tokenizer.num_items:
            columns = [torch.where(row < tokenizer.num_items, row + FIRST, RARE), *columns]
        return torch.stack(columns, dim=1)

    return codes


def field_codes(tokenizer: SequenceTokenizer, field: str) -> EntityCodes:
    """Return the codes that the tokenizer gives to values of one field of items, such as their author."""

    def codes(value: pl.Series) -> Tensor:
        table = build_feature_table(value.alias(field).to_frame())
        return tokenizer.vocabularies.codes(table, [field])

    return codes


def read_tasks(
    tasks: Sequence[EntityTask],
    reader: InputReader,
    *,
    prepare: Callable[[EncoderInput], Any],
    concatenate: Callable[[Sequence[Any]], Any],
    entity_codes: Mapping[str, EntityCodes],
    query_fields: Sequence[str] = (),
    max_events: int = 1_000_000,
) -> dict[str, TaskData]:
    """Read the inputs of all tasks' queries, those that tasks share once, and put the rows beside them.

    A query is a user, a time and the query's fields. Its inputs are what was known strictly before.

    Args:
        tasks: by distinct names.
        reader: of the encoder's requests and fields, on users.
        prepare: the encoder's: from what was read to its inputs.
        concatenate: puts inputs behind one another, such as ``concatenate_sequences``.
        entity_codes: of the entities of pair tasks, by the name of the column. A ranking head reads features
            alone: an entity without codes gives rows no columns.
        query_fields: contexts of the tasks that describe queries; missing for tasks that have none.
        max_events: that are read at a time.

    Returns:
        Data by task's name; all hold the same inputs. Ranking features are as the tasks have them: scale
        them (``graphrec.training.scaling``) before they are learned from.

    Raises:
        ValueError: two tasks share a name, there is no row, a pair task has no codes for its entity, or a
            user is not of the graph.

    """
    names = [task.name for task in tasks]
    uncoded = [task.name for task in tasks if task.kind == "pair" and task.entity not in entity_codes]
    if len(set(names)) < len(names) or uncoded or not any(task.rows.height for task in tasks):
        raise ValueError(
            f"tasks need rows and names of their own, pair tasks codes of their entity: got tasks {names}, "
            f"without codes {uncoded}"
        )
    key = ["user_id", "time", *query_fields]
    asked = [_queries(task, query_fields) for task in tasks]
    queries = pl.concat(asked).unique().sort("time", *[name for name in key if name != "time"])
    user = reader.graph.ids["user"]
    node = user.rows(queries["user_id"])
    unseen = int((node == user.unseen_row).sum())
    if unseen:
        raise ValueError(f"the users of {unseen} queries are not in the graph: build it from the same tables")
    time = _int64(queries["time"])
    fields = build_feature_table(queries.select(pl.col(query_fields).cast(pl.String)))
    given = fields if query_fields else None
    inputs = prepare_queries(
        reader, prepare, concatenate, node, time, max_events=max_events, query_fields=given
    )
    numbered = queries.with_row_index("query")
    data = {}
    for task, own in zip(tasks, asked, strict=True):
        query = own.join(numbered, on=key, how="left", nulls_equal=True, maintain_order="left")["query"]
        data[task.name] = TaskData(
            inputs=inputs,
            time=time,
            rows=_rows(task, _int64(query), entity_codes),
            known_time=_int64(task.rows["known_time"]),
        )
    return data


def _queries(task: EntityTask, query_fields: Sequence[str]) -> pl.DataFrame:
    fields = [
        pl.col(name).cast(pl.String) if name in task.contexts else pl.lit(None, pl.String).alias(name)
        for name in query_fields
    ]
    return task.rows.select("user_id", "time", *fields)


def _rows(task: EntityTask, query: Int64[Tensor, " _"], entity_codes: Mapping[str, EntityCodes]) -> TaskRows:
    entity = torch.zeros(task.rows.height, 0, dtype=torch.int64)
    if task.kind == "pair":
        assert task.entity is not None  # checked above
        entity = entity_codes[task.entity](task.rows[task.entity])
    return TaskRows(
        query=query,
        label=_float32(task.rows.select("label"))[:, 0],
        weight=_float32(task.rows.select("weight"))[:, 0],
        entity=entity,
        features=_float32(task.rows.select(task.features))
        if task.features
        else torch.zeros(task.rows.height, 0),
    )


def _int64(values: pl.Series) -> Int64[Tensor, " num_rows"]:
    return torch.from_numpy(values.cast(pl.Int64).to_numpy().copy())


def _float32(frame: pl.DataFrame) -> Float32[Tensor, "num_rows num_columns"]:
    return torch.from_numpy(frame.to_numpy(order="c").astype("float32"))
