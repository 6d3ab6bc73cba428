"""Tasks of two adjacent periods: sizes, which rows they hold, diversity, order of epochs, user groups."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphrec.training.batches import rows_between
from graphrec.training.meta_tasks import MetaConfig, MetaTasks, cluster_users
from tests.graphrec.toy_data import DAY, HOUR, NUM_DAYS, NUM_USERS, TEST_DAY, click_data, node_fields, toy_log

CONFIG = MetaConfig(num_tasks=4, support=7, query=9, least_rows=4)


@pytest.fixture(scope="module")
def data():
    return click_data(toy_log()).with_graph(None)


def at_periods(data, counts):
    """The data with ``counts[p]`` rows in period p, times in a random order of rows."""
    period = np.repeat(np.arange(len(counts)), counts)
    period = torch.from_numpy(np.random.default_rng(0).permutation(period))
    rows = torch.arange(len(period))
    some = rows % 500
    return (
        replace(
            data,
            as_of=period * HOUR,
            impressions=data.impressions.select(some),
            context=data.context[some],
            dense=data.dense[some],
        ),
        rows,
    )


def blocks_of(counts, least):
    """Periods joined to blocks, from the definition: a short one joins the next, the last one the former."""
    blocks = [[]]
    for period, count in enumerate(counts):
        if not count:
            continue
        if sum(counts[p] for p in blocks[-1]) >= least:
            blocks.append([])
        blocks[-1].append(period)
    if sum(counts[p] for p in blocks[-1]) < least and len(blocks) > 1:
        last = blocks.pop()
        blocks[-1] += last
    return blocks


@given(st.lists(st.integers(0, 25), min_size=2, max_size=9), st.integers(0, 3))
def test_tasks_are_pairs_of_adjacent_blocks_and_cover_every_row_but_the_first_blocks(counts, epoch):
    data, rows = at_periods(click_data_once(), counts)
    blocks = blocks_of(counts, CONFIG.least_rows)
    if len(blocks) < 2:
        with pytest.raises(ValueError, match=f"{len(rows)} rows make no two adjacent periods"):
            MetaTasks(data, rows, CONFIG)
        return
    tasks = MetaTasks(data, rows, CONFIG)
    block_of_period = {period: b for b, block in enumerate(blocks) for period in block}
    block = torch.tensor([block_of_period[p] for p in (data.as_of // HOUR).tolist()])
    plan = tasks.plan(epoch)
    size = [int((block == b).sum()) for b in range(len(blocks))]
    seen = Counter()
    used = [Counter() for _ in blocks]
    for task in plan:
        support, query = set(block[task.support].tolist()), set(block[task.query].tolist())
        (latter,) = query
        assert support == {latter - 1}
        assert data.as_of[task.support].max() < data.as_of[task.query].min()
        assert len(task.support.unique()) == len(task.support) == min(CONFIG.support, size[latter - 1])
        assert CONFIG.least_rows <= len(task.query) <= CONFIG.query
        assert len(task.support) >= CONFIG.least_rows
        assert (task.day, task.hour) == (blocks[latter][0] // 24, blocks[latter][0] % 24)
        seen.update(task.query.tolist())
        used[latter - 1].update(task.support.tolist())
    assert seen == Counter((block > 0).nonzero()[:, 0].tolist())
    assert tasks.num_never_queried == size[0]
    assert len(plan) == tasks.num_tasks == sum(-(-n // CONFIG.query) for n in size[1:])
    assert len(tasks) == -(-len(plan) // CONFIG.num_tasks)
    for times in used:  # a pair's tasks go through all of the former period before they repeat a row
        assert not times or max(times.values()) - min(times.values()) <= 1


_DATA = []


def click_data_once():
    if not _DATA:
        _DATA.append(click_data(toy_log()).with_graph(None))
    return _DATA[0]


def test_a_batch_is_of_different_days_and_hours(data):
    """520 rows on 4 days of 24 hours, four tasks a batch."""
    tasks = MetaTasks(data, torch.arange(520), CONFIG)
    plan = tasks.plan(0)
    batches = [plan[i : i + 4] for i in range(0, len(plan), 4)]
    days = [len({task.day for task in batch}) for batch in batches]
    hours = [len({task.hour for task in batch}) for batch in batches]
    whole = [len(batch) for batch in batches]
    assert len(batches) > 15
    # the first day has no task for its first hour, so the other days have a few tasks more at the end
    assert sum(d == n for d, n in zip(days, whole, strict=True)) >= len(batches) - 2
    assert sum(h == n for h, n in zip(hours, whole, strict=True)) >= len(batches) - 2


def test_unequal_days_are_spread(data):
    """A third of the tasks is of one day: it is once in every batch of three, not at the end."""
    day = [0] * 30 + list(range(1, 61))
    counts = np.zeros(61 * 24, dtype=np.int64)
    counts[:24] = [9] * 24
    counts[5] = 9 * 7 + 9  # day 0: one task an hour, and eight in one
    counts[24::24] = 9
    data, rows = at_periods(data, counts.tolist())
    plan = MetaTasks(data, rows, replace(CONFIG, num_tasks=3)).plan(2)
    assert len(plan) == len(day)
    assert all(
        sorted({task.day for task in plan[i : i + 3]})[0] == 0
        and len({task.day for task in plan[i : i + 3]}) == 3
        for i in range(0, 90, 3)
    )


def same_rows(left, right):
    return len(left) == len(right) and all(
        torch.equal(a.support, b.support) and torch.equal(a.query, b.query)
        for a, b in zip(left, right, strict=True)
    )


def test_epochs_differ_and_are_keyed(data):
    rows = torch.arange(520)
    tasks = MetaTasks(data, rows, CONFIG, random_seed=3)
    assert same_rows(tasks.plan(1), MetaTasks(data, rows, CONFIG, random_seed=3).plan(1))
    shuffled = rows[torch.randperm(520, generator=torch.Generator().manual_seed(0))]
    assert {tuple(t.query.sort().values.tolist()) for t in tasks.plan(1)} == {
        tuple(t.query.sort().values.tolist())
        for t in MetaTasks(data, shuffled, CONFIG, random_seed=3).plan(1)
    }
    assert not same_rows(tasks.plan(0), tasks.plan(1))
    assert not same_rows(tasks.plan(0), MetaTasks(data, rows, CONFIG, random_seed=4).plan(0))


@pytest.mark.parametrize("prefetch", [0, 2])
def test_batches_hold_the_planned_rows_and_resume(prefetch):
    data = click_data(toy_log())
    tasks = MetaTasks(data, rows_between(data, 0, TEST_DAY), CONFIG, prefetch=prefetch)
    plan, batches = tasks.plan(2), list(tasks.batches(2))
    assert len(batches) == len(tasks)
    found = [task for batch in batches for task in batch]
    num_edges = 0
    for task, rows in zip(found, plan, strict=True):
        for batch, chosen in ((task.support, rows.support), (task.query, rows.query)):
            assert torch.equal(batch.item_id, data.impressions.item[chosen])
            assert torch.equal(batch.label, data.impressions.label[chosen])
            mask = batch.graph.neighbors["user"].mask[batch.graph.user_row]
            edge_time = batch.graph.neighbors["user"].edge_time[batch.graph.user_row]
            num_edges += int(mask.sum())
            assert (edge_time < data.as_of[chosen][:, None])[mask].all()
    assert num_edges > 1000
    rest = [task for batch in tasks.batches(2, 3) for task in batch]
    assert len(rest) == len(found) - 3 * CONFIG.num_tasks
    for left, right in zip(rest, found[3 * CONFIG.num_tasks :], strict=True):
        assert torch.equal(left.query.item_id, right.query.item_id)
        assert torch.equal(left.support.dense, right.support.dense)


def test_tasks_of_user_groups_hold_one_group_each(data):
    group = torch.arange(NUM_USERS + 1) % 3
    rows = torch.arange(520)
    tasks = MetaTasks(data, rows, CONFIG, user_group=group)
    plan = tasks.plan(0)
    of_row = group[data.impressions.user]
    seen = Counter()
    for task in plan:
        assert len(of_row[torch.cat([task.support, task.query])].unique()) == 1
        assert data.as_of[task.support].max() < data.as_of[task.query].min()
        seen.update(task.query.tolist())
    assert max(seen.values()) == 1
    assert len(seen) == 520 - tasks.num_never_queried
    assert {int(of_row[task.query[0]]) for task in plan} == {0, 1, 2}
    first = [row for g in range(3) for row in first_rows(data, (of_row == g).nonzero()[:, 0])]
    assert sorted(set(range(520)) - set(seen)) == sorted(first)


def test_user_groups_are_clusters_by_default(data):
    rows, config = torch.arange(520), replace(CONFIG, num_user_groups=3)
    group = cluster_users(data.user_fields, 3, random_seed=5)
    assert len(group.unique()) == 3
    given = MetaTasks(data, rows, CONFIG, user_group=group, random_seed=5)
    assert same_rows(MetaTasks(data, rows, config, random_seed=5).plan(0), given.plan(0))


def first_rows(data, rows):
    """Rows of the first periods of a group, until there are enough of them."""
    for end in range(HOUR, NUM_DAYS * DAY, HOUR):
        found = rows[data.as_of[rows] < end]
        if len(found) >= CONFIG.least_rows:
            return found.tolist()
    raise AssertionError


def test_local_days_and_hours(data):
    data, rows = at_periods(data, [9] * 40)
    plan = MetaTasks(data, rows, CONFIG, utc_offset=5 * HOUR).plan(0)
    local = [int(data.as_of[task.query].min()) + 5 * HOUR for task in plan]
    assert [(task.day, task.hour) for task in plan] == [(t // DAY, t // HOUR % 24) for t in local]
    assert {task.day for task in plan} == {0, 1}


def test_clusters_are_users_of_like_fields():
    """Two kinds of users that share no code make two groups; the same seed, the same groups."""
    fields, _ = node_fields()
    kind = torch.arange(NUM_USERS + 1) % 2
    codes = torch.stack([kind * 4 + 1, kind * 3 + 2, torch.arange(NUM_USERS + 1) % 3], dim=1)
    group = cluster_users(replace(fields, codes=codes), 2, random_seed=1)
    assert group.dtype == torch.int64
    assert torch.equal(group, kind) or torch.equal(group, 1 - kind)
    assert torch.equal(group, cluster_users(replace(fields, codes=codes), 2, random_seed=1))
    with pytest.raises(ValueError, match="14 users make no 15 groups"):
        cluster_users(fields, 15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"least_rows": 65}, "half of query=128"),
        ({"support": 32}, "must not exceed support=32"),
        ({"num_tasks": 0}, "MetaConfig.num_tasks must be a whole number of at least 1"),
        ({"inner_steps": -1}, "MetaConfig.inner_steps must be a whole number of at least 0, got -1"),
        ({"learning_rate": float("nan")}, "MetaConfig.learning_rate must be finite and at least 0, got nan"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MetaConfig(**options)
