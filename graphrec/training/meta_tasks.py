"""Tasks of temporal meta-learning (LSTTM, Algorithm 1): learn from one period, be judged on the next."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from graph_builders.option_checks import check_choices, check_numbers, check_whole_numbers
from graph_builders.splits import period_start
from graphrec.models.inputs import NodeFields
from graphrec.training.batches import ClickData, collate
from samplers import SeedLoader, keyed_bits


@dataclass(frozen=True, kw_only=True)
class MetaConfig:
    """How tasks are cut, and how a model learns from them.

    Attributes:
        num_tasks: tasks of an outer step (paper: 8).
        support: rows of a task's former period at most (paper: 128).
        query: rows of its latter period at most (paper: 128).
        least_rows: a period with fewer rows joins the next one, so this is also the least size of both sets.
        num_user_groups: more than 1 for tasks of one user group each, the paper's finer tasks.
        inner_steps: steps of plain gradient descent on the support loss.
        learning_rate: of the inner steps for dense weights (paper: 0.01).
        embedding_learning_rate: of the inner steps for embedding tables (the paper has 0.01 here, too).
        order: 2 differentiates through the inner steps; 1 takes the gradient at the adapted weights as it is.
        dropout: whether the query loss is taken with dropout, as in training without tasks. The support loss
            never is, as in online updates.

    """

    num_tasks: int = 8
    support: int = 128
    query: int = 128
    least_rows: int = 64
    num_user_groups: int = 1
    inner_steps: int = 1
    learning_rate: float = 0.01
    embedding_learning_rate: float = 0.01
    order: Literal[1, 2] = 2
    dropout: bool = True

    def __post_init__(self) -> None:
        check_choices(self)
        check_whole_numbers(self, num_tasks=1, support=1, query=1, least_rows=1)
        check_whole_numbers(self, num_user_groups=1, inner_steps=0)
        check_numbers(self, ("learning_rate", "embedding_learning_rate"), least=0)
        if self.least_rows > min(self.support, (self.query + 1) // 2):
            raise ValueError(
                f"least_rows={self.least_rows} must not exceed support={self.support} nor half of "
                f"query={self.query}: a period of query + 1 rows gives two query sets"
            )


@dataclass(frozen=True, eq=False)
class TaskRows:
    """One task: rows of the impressions, and the local day and hour that its query period begins in."""

    support: Int64[Tensor, " num_support"]
    query: Int64[Tensor, " num_query"]
    day: int
    hour: int


@dataclass(frozen=True, eq=False)
class MetaTask:
    """One task with all its inputs looked up and sampled.

    Its batches are ``ClickBatch``, or of a model's own kind: what the model takes, with a ``label`` for each
    row, ``len`` and ``to(device)``, and with a ``user_id`` where ``pair_weight`` is set.
    """

    support: Any
    query: Any


class MetaTasks:
    """Cut impressions into tasks of two adjacent periods, and batches of tasks from different days and hours.

    Periods are the distinct values of ``data.as_of``, or what lies in one ``period`` of them. One with fewer
    than ``least_rows`` rows, and so an empty one, joins the next; at the end, the former. A period of n rows
    is dealt into ceil(n / query) query sets of nearly one size, each with up to ``support`` rows of the
    period before it. So over an epoch every row is in exactly one query set, but for those of the first
    period, which none comes before: they are support only, and ``num_never_queried`` counts them (of each
    user group, where there are groups).

    A task sees nothing of its query's future: every row is sampled as of its own period, and the support's
    labels were known when the query's period began.

    Args:
        data: what the batches are cut from.
        rows: impressions to train on.
        config: sizes.
        user_group: a group for each user row of the graph; default :func:`cluster_users` where the
            configuration asks for several groups.
        utc_offset: local time minus UTC in the unit of ``data.as_of``, for local days and hours.
        period: length of a period, where rows are not as of its start but as of their own times.
        random_seed: keys the order of rows and tasks, with the epoch.
        prefetch: batches prepared ahead in one thread.

    Raises:
        ValueError: there is no pair of adjacent periods.

    """

    def __init__(
        self,
        data: ClickData,
        rows: Int64[Tensor, " num_chosen"],
        config: MetaConfig,
        *,
        user_group: Int64[Tensor, " num_users"] | None = None,
        utc_offset: int = 0,
        period: int | None = None,
        random_seed: int = 0,
        prefetch: int = 2,
    ) -> None:
        self.data, self.config, self.random_seed, self.prefetch = data, config, random_seed, prefetch
        if user_group is None and config.num_user_groups > 1:
            user_group = cluster_users(data.user_fields, config.num_user_groups, random_seed=random_seed)
        start_of = data.as_of if period is None else period_start(data.as_of, period, utc_offset=utc_offset)
        as_of = start_of[rows].numpy()
        group = (
            np.zeros_like(as_of) if user_group is None else user_group[data.impressions.user[rows]].numpy()
        )
        order = np.lexsort((as_of, group))
        as_of, group = as_of[order], group[order]
        is_first = np.ones(len(order), dtype=bool)
        is_first[1:] = (np.diff(as_of) != 0) | (np.diff(group) != 0)
        cell_start = is_first.nonzero()[0]
        cell_size = np.diff(np.append(cell_start, len(order)))
        block_of_cell = _join_short(group[cell_start], cell_size, config.least_rows)
        self.rows = rows[torch.from_numpy(order)]
        self.block = block_of_cell[is_first.cumsum() - 1]
        self.first = np.searchsorted(self.block, np.arange(self.block.max(initial=-1) + 2))
        start = self.first[:-1]
        has_former = np.zeros(len(start), dtype=bool)
        has_former[1:] = group[start[1:]] == group[start[:-1]]
        self.num_never_queried = int(np.diff(self.first)[~has_former].sum())
        # a task is a chunk of a block that has a former one
        num_chunks = np.where(has_former, -(-np.diff(self.first) // config.query), 0)
        self.task_block = np.repeat(np.arange(len(start)), num_chunks)
        self.task_chunk = np.arange(len(self.task_block)) - np.repeat(
            num_chunks.cumsum() - num_chunks, num_chunks
        )
        self.num_chunks = num_chunks
        local = as_of[start] + utc_offset
        self.day = local // (24 * data.units_per_hour)
        self.hour = local // data.units_per_hour % 24
        if not len(self.task_block):
            raise ValueError(
                f"{len(rows)} rows make no two adjacent periods of {config.least_rows} rows: give more rows, "
                "shorter periods, fewer user groups, or a smaller least_rows"
            )

    @property
    def num_tasks(self) -> int:
        """Count the tasks of an epoch."""
        return len(self.task_block)

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return -(-self.num_tasks // self.config.num_tasks)

    def plan(self, epoch: int) -> list[TaskRows]:
        """Return the tasks of an epoch in order; each ``num_tasks`` of them are a batch."""
        support_order, query_order = (self._shuffled(epoch, name) for name in ("support", "query"))
        key = keyed_bits(self.random_seed, epoch, "meta task", torch.arange(self.num_tasks)).numpy()
        day, hour = self.day[self.task_block], self.hour[self.task_block]
        tasks = []
        for task in _diversified(day, hour, key, self.config.num_tasks):
            block, chunk = int(self.task_block[task]), int(self.task_chunk[task])
            low, middle, high = self.first[block - 1 : block + 2].tolist()
            num_chunks = int(self.num_chunks[block])
            begin, end = (middle + (high - middle) * c // num_chunks for c in (chunk, chunk + 1))
            # the tasks of a pair go on through the former period, and start again at its end
            size = min(self.config.support, middle - low)
            place = low + (chunk * size + torch.arange(size)) % (middle - low)
            tasks.append(
                TaskRows(support_order[place], query_order[begin:end], int(day[task]), int(hour[task]))
            )
        return tasks

    def batches(self, epoch: int = 0, start_batch: int = 0) -> Iterator[list[MetaTask]]:
        """Yield the batches of an epoch from number ``start_batch`` on: the same ones as without it."""
        tasks = self.plan(epoch)
        loader = SeedLoader(
            len(tasks),
            batch_size=self.config.num_tasks,
            collate=lambda index: [self._collate(tasks[i]) for i in index.tolist()],
            prefetch=self.prefetch,
        )
        return loader.batches(start_batch=start_batch)

    def _collate(self, task: TaskRows) -> MetaTask:
        return MetaTask(collate(self.data, task.support), collate(self.data, task.query))

    def _shuffled(self, epoch: int, use: str) -> Tensor:
        """Rows by block, in an order of the epoch's own inside each."""
        key = keyed_bits(self.random_seed, epoch, "meta " + use, self.rows).numpy()
        return self.rows[torch.from_numpy(np.lexsort((key, self.block)))]


def cluster_users(
    fields: NodeFields, num_groups: int, *, random_seed: int = 0
) -> Int64[Tensor, " num_users"]:
    """Group users by their profile: k-means on the one-hot codes of their fields (LSTTM, section 3.5.1).

    Raises:
        ValueError: there are fewer users than groups.

    """
    from scipy.sparse import csr_array
    from sklearn.cluster import KMeans

    num_users, num_fields = fields.codes.shape
    if num_users < num_groups:
        raise ValueError(f"{num_users} users make no {num_groups} groups: ask for fewer")
    size = fields.codes.amax(dim=0) + 1
    column = (fields.codes + size.cumsum(0) - size).flatten().numpy()
    row_end = np.arange(num_users + 1) * num_fields  # scikit-learn takes 32-bit indices alone
    one_hot = csr_array(
        (np.ones(len(column), dtype=np.float32), *(part.astype(np.int32) for part in (column, row_end))),
        shape=(num_users, int(size.sum())),
    )
    group = KMeans(num_groups, n_init=1, random_state=random_seed).fit_predict(one_hot)
    return torch.from_numpy(group.astype(np.int64))


def _join_short(group: np.ndarray, size: np.ndarray, least_rows: int) -> np.ndarray:
    """Return the block of each period; ``group`` and ``size`` are sorted by group and time."""
    blocks, num_blocks = [np.zeros(0, dtype=np.int64)], 0
    for sizes in np.split(size, np.diff(group).nonzero()[0] + 1):
        block, current, total = [], 0, 0
        for count in sizes.tolist():
            if total >= least_rows:
                current, total = current + 1, 0
            block.append(current)
            total += count
        if total < least_rows and current:  # none comes after the last one: it joins the former
            current -= 1
        blocks.append(np.minimum(np.array(block, dtype=np.int64), current) + num_blocks)
        num_blocks += current + 1
    return np.concatenate(blocks)


def _diversified(day: np.ndarray, hour: np.ndarray, key: np.ndarray, batch_size: int) -> list[int]:
    """Order tasks so that those of a batch come from different days, and from different hours of the day.

    The days with the most tasks left come first, then hours with the most left, so that a day is twice in a
    batch only where it has more tasks than there are batches. Ties go by ``key``, as tasks of an hour do.
    """
    left: dict[int, dict[int, list[int]]] = {}
    for task in key.argsort().tolist():
        left.setdefault(int(day[task]), {}).setdefault(int(hour[task]), []).append(task)
    count = Counter(day.tolist())
    order: list[int] = []
    days, hours = Counter[int](), Counter[int]()
    while len(order) < len(key):
        if len(order) % batch_size == 0:
            days.clear()
            hours.clear()
        chosen_day = min((days[d], -count[d], place, d) for place, d in enumerate(left))[-1]
        of_day = left[chosen_day]
        chosen_hour = min((hours[h], -len(of_day[h]), place, h) for place, h in enumerate(of_day))[-1]
        order.append(of_day[chosen_hour].pop())
        days[chosen_day] += 1
        hours[chosen_hour] += 1
        count[chosen_day] -= 1
        if not of_day[chosen_hour]:
            del of_day[chosen_hour]
        if not of_day:
            del left[chosen_day]
    return order
