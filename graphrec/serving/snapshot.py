"""What readers see of a ranker: model, graph and counts as of a period's start, and the scores they give.

Everything about an item as of the period's start is one row of a table, made once a period: LSTTM's head is
linear up to its first hidden layer, so the item's share of that layer is part of the row. A request computes
its user's share once, and adds up.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from graph_builders.splits import Impressions
from graphrec.models import LSTTM
from graphrec.models.inputs import ClickBatch
from graphrec.serving.counts import PastCounts, Program
from graphrec.serving.day_folder import DayConfig, DayFolder
from graphrec.training.batches import ClickData, collate
from graphrec.training.long_term import LongTermSnapshots
from samplers import EdgeType, TemporalCSR

BLOCK_SIZE = 256  # items that are encoded together: always the same ones, so that a score has no history


@dataclass(frozen=True, eq=False)
class Section:
    """The past counts that belong to one side: how to compute them, and their columns when scaled."""

    program: Program
    columns: Tensor


class Sections:
    """Past counts by side: what the item decides, what user and context decide, what both decide."""

    def __init__(self, day: DayFolder) -> None:
        counts, scaler = day.counts, day.scaler
        assert counts is not None
        assert scaler is not None
        self.scaler = scaler
        plan = counts.plan
        of_item = {"item", *plan.spec.item_columns}
        sides: dict[str, list[int]] = {"item": [], "user": [], "both": []}
        for place, name in enumerate(plan.spec.features):
            key = set(plan.spec.key_columns(name))
            side = "user" if not key & of_item else "item" if key <= of_item else "both"
            sides[side].append(place)
        sides["all"] = list(range(len(plan.spec.features)))
        self.of = {
            side: Section(
                plan.program(np.array(features, np.int64)),
                torch.from_numpy(scaler.columns(np.array(features, np.int64))),
            )
            for side, features in sides.items()
        }

    def compute(
        self,
        side: str,
        counts: PastCounts,
        user: np.ndarray,
        item: np.ndarray,
        columns: np.ndarray,
        as_of: int,
    ) -> Tensor:
        """Return the scaled counts of a side, (rows, its columns)."""
        program = self.of[side].program
        times = np.full(len(user), as_of, np.int64)
        raw = counts.compute(program, user, item, columns, times)
        return torch.from_numpy(self.scaler.transform(raw, program.features))


@dataclass(frozen=True, eq=False)
class UserSide:
    """What a request computes once for all candidates.

    Attributes:
        short, long: the user's short-term vector and projected long-term vector; the latter has no value for
            a model without it.
        paired: the vectors whose inner products with the item's enter the head, as the columns of a matrix
            that is zero where a row belongs to another pair.
        hidden, vector_sum, squares, linear: share of the head, as in :class:`_HeadParts`.

    """

    short: Tensor
    long: Tensor
    paired: Tensor
    hidden: Tensor
    vector_sum: Tensor
    squares: Tensor
    linear: Tensor


class _HeadParts:
    """The first layer of the head, cut by what its inputs belong to.

    The inputs are the fields in LSTTM's order (fused user, item ID, contexts, long-term item, short-term
    item, user fields, item fields, preference of user and item), then the dense features, the inner products
    of the long-term and of the preference vectors, and the biases of the latter.
    """

    def __init__(self, model: LSTTM, sections: Sections | None) -> None:
        first = model.head.mlp[0]
        assert isinstance(first, torch.nn.Linear)
        weight = first.weight.detach().T.contiguous()
        channels = model.item_and_context.channels
        num_context = model.item_and_context.num_fields - 1
        both = dict(model.short_term.field_embeddings())
        num_user, num_item = (both[name].num_fields * model.raw_fields for name in ("user", "item"))
        num_vectors = (1 + bool(model.long_channels)) * model.item_vectors
        num_preference = int(model.preference is not None)
        sizes = (1, 1, num_context, num_vectors, num_user, num_item, num_preference, num_preference)
        ends = np.cumsum(sizes) * channels
        fused, item_id, context, vectors, user, item, preference_user, preference_item = (
            weight[end - size * channels : end] for end, size in zip(ends, sizes, strict=True)
        )
        # the first-order weight of a dense feature stands beside the hidden layer's
        dense = torch.cat([weight[int(ends[-1]) :], model.head.dense_weight.detach()[:, None]], dim=1)
        self.bias, self.wide_bias = first.bias.detach(), model.head.bias.detach()
        self.rest = model.head.mlp[1:]
        self.fused = fused
        self.item = torch.cat([item_id, vectors, item, preference_item])
        self.user = torch.cat([context, user, preference_user])
        self.dense = {}
        for side in ("item", "user", "both"):
            columns = torch.zeros(0, dtype=torch.int64) if sections is None else sections.of[side].columns
            self.dense[side] = dense[columns]
        self.paired_sizes = [model.long_channels] * bool(model.item_vectors and model.long_channels)
        self.inner = dense[model.dense :]
        if model.preference is not None:
            self.paired_sizes.append(model.preference.preference_channels - 1)
            *inner, user_bias, item_bias = self.inner.split(1)
            self.inner = torch.cat(inner)
            for side, bias in (("user", user_bias), ("item", item_bias)):
                self.dense[side] = torch.cat([self.dense[side], bias])
        self.num_hidden = weight.shape[1]

    def share(self, weight: Tensor, fields: Tensor, linear: Tensor, dense: Tensor, side: str) -> list[Tensor]:
        """Return what fields and dense features of one side add to the head's sums.

        These are the hidden layer (rows, hidden), the sum of all vectors (rows, channels), the sum of their
        squares (rows,) and the first-order term (rows,).
        """
        added = dense @ self.dense[side]
        return [
            fields.flatten(1) @ weight + added[:, :-1],
            fields.sum(dim=1),
            fields.square().sum(dim=(1, 2)),
            linear + added[:, -1],
        ]


class _ItemTable:
    """One row an item, made in blocks when they are first asked for, by one thread at a time."""

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items
        self.filled = np.zeros(-(-num_items // BLOCK_SIZE), bool)
        self.lock = threading.Lock()
        self.rows: Tensor | None = None


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
    _items: _ItemTable = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_items", _ItemTable(self.day.ids["item"].num_rows))

    @property
    def config(self) -> DayConfig:
        """Configuration of the day."""
        return self.day.config

    def click_data(self, user: Tensor, item: Tensor, label: Tensor, columns: np.ndarray) -> ClickData:
        """Return impressions of this period as batches are made of them; ``columns`` as the events have."""
        dense = torch.zeros(len(user), 0)
        if self.counts is not None and self.sections is not None:
            counted = columns[:, : len(self.config.event_sizes)]
            dense = self.sections.compute("all", self.counts, user.numpy(), item.numpy(), counted, self.start)
        return self._data(user, item, label, self._context(columns), dense)

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
            rows = self.item_rows(items)
            return self.fuse(side, rows, self.count_both(user, items, columns))

    def sample_user(self, user: int, columns: Int64[np.ndarray, " num_columns"]) -> ClickBatch:
        """Look up and sample what the user's side needs: a batch of one row."""
        nobody = torch.tensor([self.day.ids["item"].unseen_row])
        row = torch.tensor([user])
        data = self._data(row, nobody, torch.zeros(1), self._context(columns[None]), torch.zeros(1, 0))
        return collate(data, torch.zeros(1, dtype=torch.int64))

    def encode_user(
        self, batch: ClickBatch, user: int, columns: Int64[np.ndarray, " num_columns"]
    ) -> UserSide:
        """Return the user's side of a request."""
        model, parts = self.model, self._parts
        short = self._encode_short(batch)
        table = model.item_and_context
        index = batch.context + table.offset[1:]
        fields, linear = [table.table(index)], table.linear(index).sum(dim=(1, 2))
        if model.raw_fields:
            vectors, first_order = dict(model.short_term.field_embeddings())["user"](batch.user.codes)
            fields, linear = [*fields, vectors], linear + first_order
        long = model.long_projection(batch.long_user) if model.long_channels else torch.zeros(1, 0)
        dense = self._count_user(user, columns)
        if model.preference is not None and batch.preference_user is not None:
            fields.append(model.preference.user_projection(batch.preference_user[:, :-1])[:, None])
            dense = torch.cat([dense, batch.preference_user[:, -1:]], dim=1)
        hidden, total, squares, first = parts.share(
            parts.user, torch.cat(fields, dim=1), linear + parts.wide_bias, dense, "user"
        )
        paired = self._paired(batch.long_user, batch.preference_user)
        matrix = torch.block_diag(*(v.T for v in paired)) if paired else torch.zeros(0, 0)
        return UserSide(short, long, matrix, hidden + parts.bias, total, squares, first)

    def _paired(self, long: Tensor, preference: Tensor | None) -> list[Tensor]:
        """Return the vectors of one side whose inner products with the other's enter the head."""
        both = [long] * bool(self.model.item_vectors and self.model.long_channels)
        if self.model.preference is not None and preference is not None:
            both.append(preference[:, :-1])
        return both

    def _encode_short(self, batch: ClickBatch) -> Tensor:
        assert batch.graph is not None
        vectors: Tensor = self.model.short_term(batch.graph)["user"]
        return vectors[batch.graph.user_row]

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

    def item_rows(self, items: Int64[Tensor, " num_items"]) -> Float32[Tensor, "num_items width"]:
        """Return the candidates' rows, encoding the blocks that nobody has asked for so far."""
        blocks = np.unique(items.numpy() // BLOCK_SIZE)
        self.encode_blocks(blocks[~self._items.filled[blocks]])
        if self._items.rows is None:  # no candidates in a fresh snapshot
            return torch.zeros(0, self._row_width)
        return self._items.rows[items]

    @torch.inference_mode()
    def encode_blocks(self, blocks: Int64[np.ndarray, " num_blocks"]) -> None:
        """Encode blocks of items that have not been encoded yet."""
        table = self._items
        for block in blocks.tolist():
            with table.lock:
                if table.filled[block]:
                    continue
                first, stop = block * BLOCK_SIZE, min((block + 1) * BLOCK_SIZE, table.num_items)
                rows = self._encode_items(torch.arange(first, stop))
                if table.rows is None:
                    table.rows = torch.empty(table.num_items, rows.shape[1])
                table.rows[first:stop] = rows
                table.filled[block] = True  # after its rows: readers look at this first

    @property
    def encoded_blocks(self) -> Int64[np.ndarray, " num_blocks"]:
        """Blocks that have been encoded."""
        return self._items.filled.nonzero()[0]

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
        if model.preference is not None and batch.preference_item is not None:
            fields.append(model.preference.item_projection(batch.preference_item[:, :-1])[:, None])
            dense = torch.cat([dense, batch.preference_item[:, -1:]], dim=1)
        hidden, total, squares, first = parts.share(
            parts.item, torch.cat(fields, dim=1), linear, dense, "item"
        )
        paired = self._paired(batch.long_item, batch.preference_item)
        return torch.cat([hidden, total, item_id, squares[:, None], first[:, None], *paired], dim=1)

    @property
    def _row_width(self) -> int:
        parts, channels = self._parts, self.model.item_and_context.channels
        return parts.num_hidden + 2 * channels + 2 + sum(parts.paired_sizes)

    @cached_property
    def _parts(self) -> _HeadParts:
        return _HeadParts(self.model, self.sections)

    def _context(self, columns: Int64[np.ndarray, "num_rows num_columns"]) -> Tensor:
        """Codes of the context fields: the hour in which the period starts, and columns of the events."""
        config = self.config
        hour = (self.start + config.utc_offset) // config.units_per_hour % 24
        values = [
            np.full(len(columns), hour) if name == "hour" else columns[:, config.event_columns.index(name)]
            for name in config.contexts
        ]
        return (
            torch.from_numpy(np.stack(values, axis=1).astype(np.int64))
            if values
            else torch.zeros(len(columns), 0, dtype=torch.int64)
        )

    def _data(self, user: Tensor, item: Tensor, label: Tensor, context: Tensor, dense: Tensor) -> ClickData:
        as_of = torch.full_like(user, self.start)
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
