"""A user's last behaviours, one after the other: what DUPN reads.

Ni et al., "Perceive Your Users in Depth: Learning Universal User Representations from Multiple E-commerce
Tasks", KDD 2018. A behaviour has an item, described by fields, and a property: its type, where and when it
was done. Times enter as the hour of day and the gap to the query.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from graph_builders import IdMap
from graph_builders.behavior_graph import USER
from graph_builders.option_checks import check_whole_number
from graphrec.encoders.base import EncoderInput, HistoryRequest
from graphrec.encoders.fit_until import FittedUntil
from graphrec.encoders.local_clock import LocalClock
from graphrec.encoders.sentences import FIRST, RARE
from graphrec.encoders.vocabulary import AttributeVocabularies
from samplers import EdgeType
from samplers.queries import expand_ranges
from samplers.tables import with_zero

HISTORY = "behaviors"
"""Name of the request."""
NUM_GAPS = 32
"""Buckets of the gap from a behaviour to the query, each twice as long as the one before: from 1 s on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BehaviorSequences:
    """The behaviours of each query, oldest first: query q has ``ptr[q]:ptr[q + 1]``.

    Attributes:
        ptr: boundaries.
        item: codes of the items: the item itself where it is read, then its fields.
        properties: codes of type, hour of day, gap to the query, then the attributes.
        profile: codes of the queries' nodes' fields; no column without a profile.
        query: codes of the queries' own fields, such as the scenario; no column without any.

    """

    ptr: Int64[Tensor, " num_queries_and_one"]
    item: Int64[Tensor, "num_behaviors num_item_fields"]
    properties: Int64[Tensor, "num_behaviors num_properties"]
    profile: Int64[Tensor, "num_queries num_profile_fields"]
    query: Int64[Tensor, "num_queries num_query_fields"]

    def __len__(self) -> int:
        return len(self.ptr) - 1

    def to(self, device: torch.device | str) -> "BehaviorSequences":
        """Copy to another device."""
        return BehaviorSequences(
            ptr=self.ptr.to(device),
            item=self.item.to(device),
            properties=self.properties.to(device),
            profile=self.profile.to(device),
            query=self.query.to(device),
        )

    def take(self, query: Int64[Tensor, " num_chosen"]) -> "BehaviorSequences":
        """Return those of the given queries, in that order; a query may be named several times."""
        length = self.ptr.diff()[query]
        _, place = expand_ranges(self.ptr[query], length)
        return BehaviorSequences(
            ptr=with_zero(length.cumsum(0)),
            item=self.item[place],
            properties=self.properties[place],
            profile=self.profile[query],
            query=self.query[query],
        )


def concatenate_sequences(parts: Sequence[BehaviorSequences]) -> BehaviorSequences:
    """Put sequences of the same columns behind one another.

    Raises:
        ValueError: there is no part.

    """
    if not parts:
        raise ValueError("nothing to concatenate: at least one part is needed")
    return BehaviorSequences(
        ptr=with_zero(torch.cat([part.ptr.diff() for part in parts]).cumsum(0)),
        item=torch.cat([part.item for part in parts]),
        properties=torch.cat([part.properties for part in parts]),
        profile=torch.cat([part.profile for part in parts]),
        query=torch.cat([part.query for part in parts]),
    )


@dataclass(frozen=True, kw_only=True)
class SequenceSizes:
    """Numbers of codes: what a model sizes its tables by.

    Attributes:
        item: of each column of ``BehaviorSequences.item``.
        properties: of each column of ``BehaviorSequences.properties``.
        profile: of each profile field.
        query: of each field of the query.
        made_by: fingerprint of the tokenizer that they are of; None of sizes made by hand. It travels with a
            model and its weights, so that codes of other words are not taken for these; sizes are equal
            without it.

    """

    item: tuple[int, ...]
    properties: tuple[int, ...]
    profile: tuple[int, ...] = ()
    query: tuple[int, ...] = ()
    made_by: str | None = field(default=None, repr=False, compare=False)

    def check(self, sequences: BehaviorSequences) -> None:
        """Raise if sequences have other columns than a model of these sizes reads.

        Raises:
            ValueError: naming the numbers of columns.

        """
        wanted = [len(part) for part in (self.item, self.properties, self.profile, self.query)]
        parts = (sequences.item, sequences.properties, sequences.profile, sequences.query)
        found = [part.shape[1] for part in parts]
        if found != wanted:
            raise ValueError(
                f"the model reads {wanted} columns of items, properties, profile and query, the sequences "
                f"have {found}: make both of one tokenizer"
            )


class SequenceModel(FittedUntil):
    """A model that knows of which tokenizer its sequences must be.

    Args:
        sizes: of the sequences' vocabularies. Sizes made by hand take over the fingerprint of weights that
            are loaded.

    """

    noun = "encoder"

    def __init__(self, sizes: SequenceSizes) -> None:
        super().__init__()
        self.sizes = sizes

    def get_extra_state(self) -> dict[str, Any]:
        """Return what the state dict holds beside weights."""
        return {**super().get_extra_state(), "made_by": self.sizes.made_by}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over ``fit_until`` and the tokenizer's fingerprint, None of sizes made by hand.

        Raises:
            KeyError: the state names no fingerprint.
            ValueError: as :class:`FittedUntil`, or the weights are of another tokenizer.

        """
        stored, own = state["made_by"], self.sizes.made_by
        if None not in (stored, own) and stored != own:
            raise ValueError(
                f"the weights are of codes of tokenizer {stored}, this {self.noun} of {own}: their words, "
                "items, edge types, names or time zones are others; make it of the tokenizer of the weights"
            )
        super().set_extra_state(state)
        self.sizes = replace(self.sizes, made_by=own if stored is None else stored)


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceTokenizer:
    """From what a reader returns to sequences of codes, for all queries at once on any device.

    Args:
        edge_types: the behaviours; a behaviour's type is its place among them.
        vocabularies: of the items' fields and the behaviours' attributes, by these names.
        item_fields: fields of the items that are read.
        attributes: of the behaviours, such as the tab in which it was done.
        num_items: how many items have a code of their own, by their rows; later ones are rare. 0: none has.
            A row means an item in one graph alone: give ``items`` too. Not for neighbours that are users.
        items: what :func:`item_fingerprint` says of the graph, a part of the fingerprint; None: nothing
            notices that another graph's rows are other items.
        length: the most recent behaviours that are kept (paper: 100).
        profile: vocabularies of the queries' static fields; None for no profile.
        query_fields: vocabularies of the queries' own fields; None for none.
        time_zone: of the users: an IANA name or a shift such as +08:00.

    Raises:
        ValueError: a column was not fitted, items would have no code at all, users would have codes of their
            own, or an unknown time zone.

    """

    edge_types: tuple[EdgeType, ...]
    vocabularies: AttributeVocabularies
    item_fields: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    num_items: int = 0
    items: str | None = None
    length: int = 100
    profile: AttributeVocabularies | None = None
    query_fields: AttributeVocabularies | None = None
    time_zone: str

    def __post_init__(self) -> None:
        missing = sorted({*self.item_fields, *self.attributes} - set(self.vocabularies.names))
        if missing:
            raise ValueError(
                f"columns {missing} were not fitted, there are {list(self.vocabularies.names)}: fit the "
                "vocabularies on the tokenizer's request"
            )
        check_whole_number("SequenceTokenizer.length", self.length, 1)
        check_whole_number("SequenceTokenizer.num_items", self.num_items, 0)
        if not (self.item_fields or self.num_items):
            raise ValueError(
                "behaviours need an item field or num_items: got item_fields="
                f"{list(self.item_fields)}, num_items={self.num_items}"
            )
        of_users = [edge_type for edge_type in self.edge_types if edge_type[0] == USER]
        if self.num_items and of_users:
            raise ValueError(
                f"num_items={self.num_items} would give codes to users, the neighbours of {of_users}: user "
                "IDs are no vocabulary; leave num_items at 0 and read item_fields"
            )
        if self.items is not None and not self.num_items:
            raise ValueError("items tells which items have codes of their own: give num_items too")
        assert self.clock  # an unknown time zone raises here

    @cached_property
    def clock(self) -> LocalClock:
        """The users' clock."""
        return LocalClock.of_zone(self.time_zone)

    @property
    def requests(self) -> dict[str, HistoryRequest]:
        """The history that an ``InputReader`` must read."""
        return {HISTORY: behavior_request(self.edge_types, self.item_fields, self.attributes, self.length)}

    @property
    def fields(self) -> tuple[str, ...]:
        """The static fields that an ``InputReader`` must read."""
        return () if self.profile is None else self.profile.names

    @property
    def sizes(self) -> SequenceSizes:
        """How many codes there are."""
        num_codes = self.vocabularies.num_codes
        item = [num_codes[name] for name in self.item_fields]
        derived = (FIRST + len(self.edge_types), FIRST + 24, FIRST + NUM_GAPS)
        return SequenceSizes(
            item=tuple(([FIRST + self.num_items] if self.num_items else []) + item),
            properties=(*derived, *(num_codes[name] for name in self.attributes)),
            profile=tuple((self.profile.num_codes if self.profile else {}).values()),
            query=tuple((self.query_fields.num_codes if self.query_fields else {}).values()),
            made_by=self.fingerprint,
        )

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over all that decides what a code means.

        That is words, edges of bins, edge types, names, items and time zone; neither until when vocabularies
        were fitted nor ``length``, for codes are the same in longer sequences.
        """

        def words(part: AttributeVocabularies | None, names: Sequence[str] | None = None) -> Any:
            if part is None:
                return None
            found = part.state()["fields"]
            return [[name, found[name]] for name in (part.names if names is None else names)]

        state = {
            "edge_types": self.edge_types,
            "item": words(self.vocabularies, self.item_fields),
            "attributes": words(self.vocabularies, self.attributes),
            "items": [self.num_items, self.items],
            "profile": words(self.profile),
            "query": words(self.query_fields),
            "time_zone": self.time_zone,
            "num_gaps": NUM_GAPS,
        }
        return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]

    def check_items(self, ids: IdMap) -> None:
        """Raise if the first ``num_items`` rows of a graph are other items than those of ``items``, if given.

        Raises:
            ValueError: they are others.

        """
        if self.items is not None and item_fingerprint(ids, self.num_items) != self.items:
            raise ValueError(
                f"the first {self.num_items} items of the graph are not those that the tokenizer's codes "
                "mean: take the graph that it was made for, or one that was appended to it"
            )

    @property
    def fitted(self) -> list[AttributeVocabularies]:
        """The vocabularies of items and behaviours, profiles and queries, each with its ``fit_until``."""
        parts = (self.vocabularies, self.profile, self.query_fields)
        return [part for part in parts if part is not None]

    def check_before(self, label_start: int) -> None:
        """Raise if a vocabulary saw anything at or after the first label window begins.

        Raises:
            ValueError: ``fit_until`` is later than ``label_start``.

        """
        for part in self.fitted:
            part.check_before(label_start)

    def tokenize(self, inputs: EncoderInput) -> BehaviorSequences:
        """Turn histories, profiles and queries into codes.

        Raises:
            ValueError: the history is missing, or of other columns than the tokenizer's.

        """
        if HISTORY not in inputs.histories:
            raise ValueError(f"no history {HISTORY!r}, there are {list(inputs.histories)}: read the requests")
        history = inputs.histories[HISTORY]
        events, units = history.events, inputs.units_per_second
        assert events.edge_type is not None  # a reader's histories name their edge types
        item = [self.vocabularies.code(name, history.columns[name]) for name in self.item_fields]
        if self.num_items:
            known = events.neighbor < self.num_items
            item = [torch.where(known, events.neighbor + FIRST, RARE), *item]
        gap = (inputs.time[events.query_of_event()] - events.time).div(units, rounding_mode="floor")
        edges = 2 ** torch.arange(NUM_GAPS - 1, device=gap.device)
        properties = [
            events.edge_type + FIRST,
            self.clock.hour(events.time, units) + FIRST,
            torch.bucketize(gap, edges, right=True) + FIRST,
            *(self.vocabularies.code(name, history.columns[name]) for name in self.attributes),
        ]
        none = inputs.node.new_zeros(len(inputs), 0)
        return BehaviorSequences(
            ptr=events.ptr,
            item=torch.stack(item, dim=1),
            properties=torch.stack(properties, dim=1),
            profile=self.profile.codes(inputs.fields, self.fields) if self.profile else none,
            query=self.query_fields.codes(inputs.query_fields, self.query_fields.names)
            if self.query_fields
            else none,
        )


def item_fingerprint(ids: IdMap, num_items: int) -> str:
    """Return 16 hexadecimal digits over the IDs of the first rows, in the order of rows.

    Args:
        ids: of the items: ``graph.ids["item"]``.
        num_items: the tokenizer's. Rows beyond may be added later.

    """
    known = json.dumps(ids.id_series.head(num_items).to_list())  # 7 is not "7" here either
    return hashlib.sha256(known.encode()).hexdigest()[:16]


def behavior_request(
    edge_types: Sequence[EdgeType],
    item_fields: Sequence[str] = (),
    attributes: Sequence[str] = (),
    length: int = 100,
) -> HistoryRequest:
    """Return the request of a tokenizer: also what its vocabularies are to be fitted on."""
    return HistoryRequest(
        edge_types=tuple(edge_types),
        max_events=length,
        attributes=tuple(attributes),
        fields=tuple(item_fields),
    )
