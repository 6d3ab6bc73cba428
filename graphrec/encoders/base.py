"""The contract of a node-feature encoder: what it asks for, what it is given, what it returns.

An encoder never sees a graph. It names the histories that it wants (``HistoryRequest``), and
``input_reader.InputReader`` reads them as of each query's time.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from graph_builders import FeatureTable
from graphrec.encoders.fit_until import Fitted
from samplers import EdgeType, EventHistory, NodeType

Prepared = TypeVar("Prepared")


@dataclass(frozen=True, kw_only=True)
class HistoryRequest:
    """A history that an encoder wants: the events of some edge types in ``[time - window, time - offset)``.

    ``offset`` cuts by when events happened, not by when they became known: an event older than the offset
    that was known by the query's time is there. So "older than 7 days" and "the last 7 days" share no event
    and miss none.

    Args:
        edge_types: all end in the query's node type and begin in one other; events are numbered by them.
        max_events: the most recent ones; None for all.
        window: how long back in seconds; None for a whole life.
        offset: leave out the last so many seconds.
        attributes: of the edges; missing for events whose edge type has no such attribute.
        fields: of the neighbours.

    Raises:
        ValueError: no edge type, one twice, a name twice, or a window that ends where it begins.

    """

    edge_types: tuple[EdgeType, ...]
    max_events: int | None = None
    window: int | None = None
    offset: int = 0
    attributes: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.edge_types or len(set(self.edge_types)) < len(self.edge_types):
            raise ValueError(f"a history needs edge types, each once, got {list(self.edge_types)}")
        if len({(first, last) for first, _, last in self.edge_types}) > 1:
            raise ValueError(
                f"edge types must share both ends, got {list(self.edge_types)}: make two requests"
            )
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"attributes and fields need names of their own, got {list(self.names)}")
        if self.max_events is not None and self.max_events < 0:
            raise ValueError(f"max_events must be at least 0, or None for all, got {self.max_events}")
        if self.offset < 0 or (self.window is not None and self.window <= self.offset):
            raise ValueError(
                f"offset must not be negative, and lie within the window: got offset={self.offset} and "
                f"window={self.window} seconds"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the events' columns: attributes, then fields."""
        return (*self.attributes, *self.fields)


@dataclass(frozen=True, kw_only=True, eq=False)
class History:
    """What an encoder reads for one request.

    Attributes:
        events: of each query, oldest first; ``edge_type`` numbers the request's.
        columns: the wanted attributes and fields, one row an event. Codes are those of the table's own
            vocabularies; 0, NaN or an empty list where an event has no value.

    """

    events: EventHistory
    columns: FeatureTable

    def to(self, device: torch.device | str) -> "History":
        """Copy to another device."""
        return History(events=self.events.to(device), columns=self.columns.to(device))


@dataclass(frozen=True, kw_only=True, eq=False)
class EncoderInput:
    """What an encoder may know of each query.

    Attributes:
        node_type: of the queries.
        node: row of each query's node.
        time: as of when; every event lies before.
        units_per_second: of ``time`` and the events' times: 1, or 1,000 for milliseconds.
        fields: the nodes' static fields, one row a query.
        query_fields: what describes the query itself, such as its scenario, one row a query.
        histories: by the name of the request.

    """

    node_type: NodeType
    node: Int64[Tensor, " num_queries"]
    time: Int64[Tensor, " num_queries"]
    units_per_second: int
    fields: FeatureTable
    query_fields: FeatureTable
    histories: Mapping[str, History] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.node)

    def to(self, device: torch.device | str) -> "EncoderInput":
        """Copy to another device."""
        return replace(
            self,
            node=self.node.to(device),
            time=self.time.to(device),
            fields=self.fields.to(device),
            query_fields=self.query_fields.to(device),
            histories={name: history.to(device) for name, history in self.histories.items()},
        )


class NodeEncoder(nn.Module, ABC, Generic[Prepared]):
    """From what a node did until a time to a vector.

    Attributes:
        out_channels: width of the vectors.
        requests: the histories it reads, by name.
        fields: the static fields it reads of the queries' nodes.

    """

    out_channels: int
    requests: Mapping[str, HistoryRequest]
    fields: tuple[str, ...] = ()

    @abstractmethod
    def prepare(self, inputs: EncoderInput) -> Prepared:
        """Turn histories into what ``forward`` reads: sparse, without parameters, kept by (node, time)."""

    @abstractmethod
    def forward(self, prepared: Prepared) -> Tensor:
        """Return a vector for each query; (num_queries, out_channels)."""

    def fitted_parts(self) -> Sequence[Fitted]:
        """Return what was fitted beforehand: vocabularies, interests, pre-trained weights; default: nothing.

        Whatever carries ``fit_until`` belongs here: :meth:`check_before` checks these parts and no other.
        """
        return ()

    def check_before(self, label_start: int) -> None:
        """Raise if what the encoder was fitted on may hold anything at or after the first label.

        Raises:
            ValueError: a fitted part has seen data until a later time than ``label_start``.

        """
        for part in self.fitted_parts():
            part.check_before(label_start)
