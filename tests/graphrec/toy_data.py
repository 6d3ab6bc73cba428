"""A small log of shown items, and what the click models read of it: 13 users, 9 items, 4 days of 24 hours."""

from dataclasses import dataclass

import numpy as np
import torch

from graph_builders.past_counts import CountedEvents, CountFeatures, past_counts
from graph_builders.splits import Impressions, period_start
from graphrec.models import LSTTM, InputSizes, NodeFields
from graphrec.training.batches import ClickData, ShortTermConfig
from graphrec.training.long_term import LongTermConfig
from graphrec.training.scaling import QuantileScaler
from samplers import TemporalCSR

NUM_USERS, NUM_ITEMS = 13, 9
HOUR, DAY, NUM_DAYS = 10, 240, 4
TEST_DAY = 3 * DAY
CLICK, SKIP = ("user", "click", "item"), ("user", "skip", "item")
LONG_TERM = LongTermConfig(
    channels=5, num_neighbors=3, walk_length=4, num_walks=32, first_steps=4, steps=2, num_negatives=2
)
DAYS = [0, DAY, 2 * DAY, 3 * DAY]


@dataclass(frozen=True)
class ToyLog:
    """Rows (user, item, time, clicked) in the order they arrived."""

    rows: tuple[tuple[int, int, int, bool], ...]

    def with_rows(self, *rows):
        return ToyLog((*self.rows, *rows))

    def columns(self, clicked=None):
        kept = [row[:3] for row in self.rows if clicked is None or row[3] == clicked]
        user, item, time = np.array(kept, dtype=np.int64).reshape(-1, 3).T.copy()
        return torch.from_numpy(user), torch.from_numpy(item), torch.from_numpy(time)


def toy_log(seed=0, num_rows=520):
    """Users like the items of their own parity, so that there is something to learn."""
    draw = np.random.default_rng(seed)
    user, item = draw.integers(0, NUM_USERS, num_rows), draw.integers(0, NUM_ITEMS, num_rows)
    time = np.sort(draw.integers(0, NUM_DAYS * DAY, num_rows))
    clicked = draw.random(num_rows) < np.where(user % 2 == item % 2, 0.8, 0.15)
    return ToyLog(tuple(zip(user.tolist(), item.tolist(), time.tolist(), clicked.tolist(), strict=True)))


def graph_of(log):
    """Clicks and skips in both directions; the last row of each side is the unseen one."""
    csrs = {}
    for edge_type, clicked in ((CLICK, True), (SKIP, False)):
        user, item, time = log.columns(clicked)
        index = torch.stack([user, item])
        csrs[edge_type] = TemporalCSR.from_edge_index(
            index, time, num_rows=NUM_ITEMS + 1, num_cols=NUM_USERS + 1, row="destination"
        )
        csrs["item", f"rev_{edge_type[1]}", "user"] = TemporalCSR.from_edge_index(
            index, time, num_rows=NUM_USERS + 1, num_cols=NUM_ITEMS + 1, row="source"
        )
    return csrs


def node_fields():
    """Two user fields; one item field and a bag of up to three values, which for two items is empty."""
    user, item = torch.arange(NUM_USERS + 1), torch.arange(NUM_ITEMS + 1)
    bag = torch.stack([item % 4, (item % 3) + 4, item % 2], dim=1) + 1
    bag[item % 5 == 1, 1:] = 0
    bag[item % 5 == 4] = 0
    return (
        NodeFields(codes=torch.stack([user % 3, user % 5], dim=1), bag=torch.zeros(NUM_USERS + 1, 0).long()),
        NodeFields(codes=item[:, None] % 4, bag=bag),
    )


def sizes(num_dense):
    return InputSizes(
        num_items=NUM_ITEMS,
        user_fields=(3, 5),
        item_fields=(4,),
        item_bag=8,
        context_fields=(24,),
        dense=num_dense,
    )


SHORT_TERM = ShortTermConfig(num_neighbors=4, num_layers=2, edge_features=True, degree_features=True)


def raw_counts(events, user, item, as_of):
    """Past counts of ``events`` for each query, unscaled."""
    shown, clicked = events.columns(), events.columns(clicked=True)
    counted = {
        name: CountedEvents(columns={"user": columns[0], "item": columns[1]}, known_time=columns[2])
        for name, columns in (("shown", shown), ("click", clicked))
    }
    features = [
        CountFeatures(key=("user",), behaviors=("shown",), rates=(("click", "shown"),), recency=("click",)),
        CountFeatures(key=("item",), behaviors=("click",), windows=(DAY,)),
        CountFeatures(key=("user", "item"), behaviors=("click",), recency=("shown",)),
    ]
    return past_counts(counted, {"user": user, "item": item}, as_of, features)[1]


def click_data(log, *, events=None, snapshots=None, short_term=SHORT_TERM, fit_until=TEST_DAY):
    """Impressions are the rows of ``log``; graph and counts come from ``events`` (default: the same)."""
    events = log if events is None else events
    user, item, time = log.columns()
    as_of = period_start(time, HOUR)
    raw = raw_counts(events, user, item, as_of)
    user_fields, item_fields = node_fields()
    return ClickData(
        impressions=Impressions(
            user=user, item=item, time=time, label=torch.tensor([float(row[3]) for row in log.rows])
        ),
        as_of=as_of,
        context=(as_of // HOUR % 24)[:, None],
        dense=QuantileScaler.fit(raw, time, fit_until=fit_until).transform(raw),
        user_fields=user_fields,
        item_fields=item_fields,
        snapshots=snapshots,
        csrs=graph_of(events),
        short_term=short_term,
        units_per_hour=HOUR,
    )


def full_lsttm(data, *, long_channels=5, dropout=0.2, seed=0, **options):
    """LSTTM with every option on."""
    torch.manual_seed(seed)
    return LSTTM(
        sizes(data.dense.shape[1]),
        long_channels=long_channels,
        channels=6,
        num_layers=data.short_term.num_layers,
        edge_channels=data.short_term.edge_channels(2),
        node_channels=data.short_term.degree_channels(2),
        self_term=True,
        item_vectors=True,
        raw_fields=True,
        hidden_channels=(11, 7),
        dropout=dropout,
        **options,
    )


def same(left, right):
    """Whether two tensors are equal bit by bit, NaN equal to NaN."""
    return left.shape == right.shape and torch.equal(left.nan_to_num(nan=-7.0), right.nan_to_num(nan=-7.0))
