"""What readers see of a ranker: model, graph and counts as of a period's start, and the scores they give.

Everything about an item as of the period's start is one row of a table, made once a period: LSTTM's head is
linear up to its first hidden layer, so the item's share of that layer is part of the row. A request computes
its user's share once, and adds up.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from graph_builders.splits import Impressions
from graphrec.models import LSTTM
from graphrec.models.inputs import GraphInput
from graphrec.serving.block_table import BlockTable
from graphrec.serving.counts import PastCounts
from graphrec.serving.day_folder import DayConfig, DayFolder
from graphrec.serving.head_parts import HeadParts
from graphrec.serving.one_hop import OneHopUsers, UserNeighbors
from graphrec.serving.sections import Sections
from graphrec.training.batches import ClickData, collate
from graphrec.training.long_term import LongTermSnapshots
from samplers import EdgeType, TemporalCSR


@dataclass(frozen=True, kw_only=True, eq=False)
class UserInput:
    """What is looked up and sampled of a user for one request; one row each.

    Attributes:
        codes: of the user's fields.
        context: codes of the context fields.
        long, preference: the day's vectors; no column for a model without them.
        sampled: the user's neighbours, or, for a model of several hops, what is around the user.

    """

    codes: Int64[Tensor, "1 num_fields"]
    context: Int64[Tensor, "1 num_contexts"]
    long: Float32[Tensor, "1 _"]
    preference: Float32[Tensor, "1 _"]
    sampled: GraphInput | UserNeighbors


@dataclass(frozen=True, eq=False)
class UserSide:
    """What a request computes once for all candidates.

    Attributes:
        short, long: the user's short-term vector and projected long-term vector; the latter has no value for
            a model without it.
        paired: the vectors whose inner products with the item's enter the head, as the columns of a matrix
            that is zero where a row belongs to another pair.
        hidden, vector_sum, squares, linear: share of the head, as in :class:`HeadParts`.

    """

    short: Tensor
    long: Tensor
    paired: Tensor
    hidden: Tensor
    vector_sum: Tensor
    squares: Tensor
    linear: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """Everything as of the start of a period. Readers hold one and see no later change.

    Attributes:
        start: of the period.
        day: the day's folder.
        model: weights as updated by the periods before; nothing changes them.
        csrs: the short-term graph without an event of the period.
        counts: past counts; None for a model without them.
        sections: of these counts.

    """

    start: int
    day: DayFolder
    model: LSTTM
    csrs: dict[EdgeType, TemporalCSR]
    counts: PastCounts | None
    sections: Sections | None
    _items: BlockTable = field(init=False)
    _users: OneHopUsers | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_items", BlockTable(self.day.ids["item"].num_rows))
        users = None
        if self.config.short_term.num_layers == 1:
            users = OneHopUsers(
                self.model.short_term,
                self.csrs,
                self.config.short_term,
                units_per_hour=self.config.units_per_hour,
                time=self.start,
                item_fields=self.day.item_fields,
            )
        object.__setattr__(self, "_users", users)

    @property
    def config(self) -> DayConfig:
        """Configuration of the day."""
        return self.day.config

    def click_data(
        self,
        user: Int64[Tensor, " num_rows"],
        item: Int64[Tensor, " num_rows"],
        label: Float32[Tensor, " num_rows"],
        columns: Int64[np.ndarray, "num_rows num_columns"],
        as_of: Int64[Tensor, " num_rows"] | None = None,
    ) -> ClickData:
        """Return impressions as batches are made of them.

        Args:
            user: rows of the users.
            item: rows of the items.
            label: 1 for a click.
            columns: values of the events' columns.
            as_of: start of each impression's period, this one or an earlier one of the day; default this one.
                Graph and counts are those of that time, since they hold when each event became known.

        """
        as_of = torch.full_like(user, self.start) if as_of is None else as_of
        dense = torch.zeros(len(user), 0)
        if self.counts is not None and self.sections is not None:
            counted = columns[:, : len(self.config.event_sizes)]
            dense = self.sections.compute(
                "all", self.counts, user.numpy(), item.numpy(), counted, as_of.numpy()
            )
        return self._data(user, item, label, self._context(columns, as_of.numpy()), dense, as_of)

    def score(
        self, user: int, items: Int64[Tensor, " num_items"], columns: Int64[np.ndarray, " num_columns"]
    ) -> Float32[Tensor, " num_items"]:
        """Return the logit of a click for each candidate of a user.

        Args:
            user: row of the user.
            items: rows of the candidates.
            columns: the request's values of the events' columns, in the order of the configuration.

        """
        with torch.inference_mode():
            side = self.encode_user(self.sample_user(user, columns), user, columns)
            rows = self._look_up_items(items)
            return self.fuse(side, rows, self.count_both(user, items, columns))

    def sample_user(self, user: int, columns: Int64[np.ndarray, " num_columns"]) -> UserInput:
        """Look up and sample what the user's side needs."""
        day, model, context = self.day, self.model, self._context(columns[None], self.start)
        row = slice(user, user + 1)
        none = torch.zeros(1, 0)
        sampled: GraphInput | UserNeighbors | None
        if self._users is not None:
            sampled = self._users.sample(user)
        else:
            nobody = torch.tensor([day.ids["item"].unseen_row])
            data = self._data(torch.tensor([user]), nobody, torch.zeros(1), context, none)
            sampled = collate(data, torch.zeros(1, dtype=torch.int64)).graph
        assert sampled is not None
        return UserInput(
            codes=day.user_fields.codes[row],
            context=context,
            long=day.long_term["user"][row] if model.long_channels else none,
            preference=day.preference["user"][row] if model.preference is not None else none,
            sampled=sampled,
        )

    def encode_user(
        self, inputs: UserInput, user: int, columns: Int64[np.ndarray, " num_columns"]
    ) -> UserSide:
        """Return the user's side of a request."""
        model, parts = self.model, self._parts
        short = self._encode_short(inputs)
        table = model.item_and_context
        index = inputs.context + table.offset[1:]
        fields, linear = [table.table(index)], table.linear(index).sum(dim=(1, 2))
        if model.raw_fields:
            vectors, first_order = dict(model.short_term.field_embeddings())["user"](inputs.codes)
            fields, linear = [*fields, vectors], linear + first_order
        long = model.long_projection(inputs.long) if model.long_channels else torch.zeros(1, 0)
        dense = self._count_user(user, columns)
        if model.preference is not None:
            fields.append(model.preference.user_projection(inputs.preference[:, :-1])[:, None])
            dense = torch.cat([dense, inputs.preference[:, -1:]], dim=1)
        hidden, total, squares, first = parts.share(
            parts.user, torch.cat(fields, dim=1), linear + parts.wide_bias, dense, "user"
        )
        paired = self._paired(inputs.long, inputs.preference)
        matrix = torch.block_diag(*(v.T for v in paired)) if paired else torch.zeros(0, 0)
        return UserSide(short, long, matrix, hidden + parts.bias, total, squares, first)

    def _paired(self, long: Tensor, preference: Tensor) -> list[Tensor]:
        """Return the vectors of one side whose inner products with the other's enter the head."""
        both = [long] * bool(self.model.item_vectors and self.model.long_channels)
        if self.model.preference is not None:
            both.append(preference[:, :-1])
        return both

    def _encode_short(self, inputs: UserInput) -> Tensor:
        sampled = inputs.sampled
        if isinstance(sampled, UserNeighbors):
            assert self._users is not None
            return self._users.encode(inputs.codes, sampled)
        vectors: Tensor = self.model.short_term(sampled)["user"]
        return vectors[sampled.user_row]

    def _count_user(self, user: int, columns: np.ndarray) -> Tensor:
        """Return the scaled counts of the user and the context, (1, their columns)."""
        if self.counts is None or self.sections is None:
            return torch.zeros(1, 0)
        nobody = np.array([self.day.ids["item"].unseen_row])
        counted = columns[None, : len(self.config.event_sizes)]
        return self.sections.compute("user", self.counts, np.array([user]), nobody, counted, self.start)

    def count_both(
        self, user: int, items: Int64[Tensor, " num_items"], columns: Int64[np.ndarray, " num_columns"]
    ) -> Float32[Tensor, "num_items _"]:
        """Return the scaled counts of pairs of the user and each candidate."""
        if self.counts is None or self.sections is None:
            return torch.zeros(len(items), 0)
        users = np.full(len(items), user)
        counted = np.broadcast_to(
            columns[: len(self.config.event_sizes)], (len(items), len(self.config.event_sizes))
        )
        return self.sections.compute("both", self.counts, users, items.numpy(), counted, self.start)

    def fuse(
        self, side: UserSide, rows: Float32[Tensor, "num_items width"], dense: Float32[Tensor, "num_items _"]
    ) -> Float32[Tensor, " num_items"]:
        """Return the logits from the user's side, the items' rows and the counts of their pairs."""
        model, parts = self.model, self._parts
        channels = model.item_and_context.channels
        widths = [parts.num_hidden, channels, channels, 1, 1, sum(parts.paired_sizes)]
        hidden, total, item_id, squares, linear, paired = rows.split(widths, dim=1)
        num_items = len(rows)
        if model.long_channels:
            user, _ = model.fusion(side.short.expand(num_items, -1), side.long.expand(num_items, -1), item_id)
        else:
            user = side.short.expand(num_items, -1)
        added = dense @ parts.dense["both"]
        if len(parts.inner):
            added = added + paired @ side.paired @ parts.inner
        hidden = hidden + side.hidden + user @ parts.fused + added[:, :-1]
        vectors = total + side.vector_sum + user
        pairs = 0.5 * (vectors.square().sum(dim=1) - squares[:, 0] - side.squares - user.square().sum(dim=1))
        return parts.rest(hidden)[:, 0] + linear[:, 0] + side.linear + added[:, -1] + pairs

    def _look_up_items(self, items: Int64[Tensor, " num_items"]) -> Float32[Tensor, "num_items width"]:
        """Return the candidates' rows, of which there is at least one, encoding what is not there yet."""
        return self._items.look_up(items, self._encode_items)

    def encode_as(self, former: "Snapshot") -> None:
        """Encode the items that a former snapshot's readers have asked for."""
        self._items.fill(former._items.blocks, self._encode_items)
        if self._users is not None and former._users is not None:
            self._users.project_as(former._users)

    def _encode_items(self, items: Tensor) -> Tensor:
        model, parts = self.model, self._parts
        nobody = torch.full_like(items, self.day.ids["user"].unseen_row)
        context = torch.zeros(len(items), len(self.config.contexts), dtype=torch.int64)
        data = self._data(nobody, items, torch.zeros(len(items)), context, torch.zeros(len(items), 0))
        batch = collate(data, torch.arange(len(items)))
        assert batch.graph is not None
        table = model.item_and_context
        item_id = table.table(items + table.offset[0])
        fields, linear = [item_id[:, None]], table.linear(items + table.offset[0])[:, 0]
        if model.item_vectors and model.long_channels:
            fields.append(model.long_projection(batch.long_item)[:, None])
        if model.item_vectors:
            fields.append(model.short_term(batch.graph)["item"][batch.graph.item_row][:, None])
        if model.raw_fields:
            embedding = dict(model.short_term.field_embeddings())["item"]
            vectors, first_order = embedding(
                batch.item.codes, batch.item.bag if embedding.num_bag_categories else None
            )
            fields, linear = [*fields, vectors], linear + first_order
        dense = torch.zeros(len(items), 0)
        if self.counts is not None and self.sections is not None:
            columns = np.zeros((len(items), len(self.config.event_sizes)), np.int64)
            dense = self.sections.compute(
                "item", self.counts, nobody.numpy(), items.numpy(), columns, self.start
            )
        preference = torch.zeros(len(items), 0)
        if model.preference is not None and batch.preference_item is not None:
            preference = batch.preference_item
            fields.append(model.preference.item_projection(preference[:, :-1])[:, None])
            dense = torch.cat([dense, preference[:, -1:]], dim=1)
        hidden, total, squares, first = parts.share(
            parts.item, torch.cat(fields, dim=1), linear, dense, "item"
        )
        paired = self._paired(batch.long_item, preference)
        return torch.cat([hidden, total, item_id, squares[:, None], first[:, None], *paired], dim=1)

    @cached_property
    def _parts(self) -> HeadParts:
        return HeadParts(self.model, self.sections)

    def _context(self, columns: Int64[np.ndarray, "num_rows num_columns"], start: int | np.ndarray) -> Tensor:
        """Codes of the context fields: the hour in which a period starts, and columns of the events."""
        config = self.config
        hour = (start + config.utc_offset) // config.units_per_hour % 24
        values = [
            np.full(len(columns), hour) if name == "hour" else columns[:, config.event_columns.index(name)]
            for name in config.contexts
        ]
        return (
            torch.from_numpy(np.stack(values, axis=1).astype(np.int64))
            if values
            else torch.zeros(len(columns), 0, dtype=torch.int64)
        )

    def _data(
        self,
        user: Tensor,
        item: Tensor,
        label: Tensor,
        context: Tensor,
        dense: Tensor,
        as_of: Tensor | None = None,
    ) -> ClickData:
        as_of = torch.full_like(user, self.start) if as_of is None else as_of
        impressions = Impressions(user=user, item=item, time=as_of, label=label, context={})
        return replace(self._inputs, impressions=impressions, as_of=as_of, context=context, dense=dense)

    @cached_property
    def _inputs(self) -> ClickData:
        """What all batches share; it has no rows of its own."""
        day, config = self.day, self.config
        none = torch.zeros(0, dtype=torch.int64)

        def of_the_day(table: Mapping[str, Tensor]) -> LongTermSnapshots:
            vectors = {name: rows[None] for name, rows in table.items()}
            return LongTermSnapshots(torch.tensor([config.start]), vectors)

        return ClickData(
            impressions=Impressions(user=none, item=none, time=none, label=torch.zeros(0), context={}),
            as_of=none,
            context=torch.zeros(0, len(config.contexts), dtype=torch.int64),
            dense=torch.zeros(0, 0),
            user_fields=day.user_fields,
            item_fields=day.item_fields,
            snapshots=of_the_day(day.long_term) if self.model.long_channels else None,
            preferences=None if self.model.preference is None else of_the_day(day.preference),
            csrs=self.csrs,
            short_term=config.short_term,
            units_per_hour=config.units_per_hour,
        )
