"""Reading the input of encoders from a behaviour graph: histories as of each query's time, and fields.

Events come from ``samplers.EventHistorySampler``, so no encoder can see one that its query may not know.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import polars as pl
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from graph_builders import BehaviorGraph, CategoricalColumn, FeatureTable, NumericColumn, RaggedColumn
from graph_builders.events import UNITS_PER_SECOND
from graph_builders.feature_table import Column, encode_words
from graphrec.encoders.base import EncoderInput, History, HistoryRequest, Prepared
from samplers import Engine, EventHistory, EventHistorySampler, NodeType, count_edges
from samplers.queries import expand_ranges
from samplers.tables import with_zero


class InputReader:
    """Reads the input of encoders from one version of a graph, on the graph's device; no state between calls.

    Args:
        graph: whose rows are read. An appended version needs a reader of its own.
        node_type: of the queries.
        requests: the histories, by name.
        fields: static fields of the queries' nodes.
        engine: as in ``EventHistorySampler``.

    Raises:
        ValueError: the graph lacks an edge type, or a column that is asked for; an edge type does not end in
            ``node_type``; or an attribute is of one kind here and of another there.

    """

    def __init__(
        self,
        graph: BehaviorGraph,
        node_type: NodeType,
        requests: Mapping[str, HistoryRequest],
        *,
        fields: Sequence[str] = (),
        engine: Engine = "auto",
    ) -> None:
        if node_type not in graph.features:
            raise ValueError(f"no node type {node_type!r}, there are {list(graph.node_types)}")
        self.graph, self.node_type = graph, node_type
        self.units_per_second = UNITS_PER_SECOND[graph.time_resolution]
        self.fields = _columns_of(graph.features[node_type], fields, f"the nodes of type {node_type!r}")
        self._histories = {
            name: _HistoryReader(graph, node_type, request, name, engine)
            for name, request in requests.items()
        }

    def check_node_type(self, node_type: NodeType) -> None:
        """Raise if the queries are of another node type: their rows would be read by the wrong numbers.

        Raises:
            ValueError: naming both types.

        """
        if self.node_type != node_type:
            raise ValueError(
                f"the encoder of nodes of type {node_type!r} was given a reader of type {self.node_type!r}: "
                f"give it InputReader(graph, {node_type!r}, ...)"
            )

    def read(
        self,
        node: Int64[Tensor, " num_queries"],
        time: Int64[Tensor, " num_queries"],
        *,
        query_fields: FeatureTable | None = None,
    ) -> EncoderInput:
        """Read what is known of each node as of each time, strictly before it.

        Args:
            node: row of each query's node.
            time: of each query, in the graph's time resolution; queries in any order.
            query_fields: what describes each query; default: nothing.

        Raises:
            ValueError: nodes or times are no tensors of whole numbers, a node is not of the graph, or there
                is not one time and one row a query.

        """
        _check_queries(node, time)
        given = FeatureTable(len(node)) if query_fields is None else query_fields
        if len(given) != len(node) or len(time) != len(node):
            raise ValueError(
                f"each query needs one time and one row of query_fields: got {len(node)} nodes, {len(time)} "
                f"times, {len(given)} rows"
            )
        return EncoderInput(
            node_type=self.node_type,
            node=node,
            time=time,
            units_per_second=self.units_per_second,
            histories={name: history.read(node, time) for name, history in self._histories.items()},
            fields=take_rows(self.fields, node),
            query_fields=given,
        )

    def read_in_chunks(
        self,
        node: Int64[Tensor, " num_queries"],
        time: Int64[Tensor, " num_queries"],
        *,
        max_events: int = 1_000_000,
        query_fields: FeatureTable | None = None,
    ) -> Iterator[EncoderInput]:
        """Read queries in their order, in chunks of at most so many events over all requests.

        A query with more events is a chunk of its own: a life is never cut.

        Raises:
            ValueError: as ``read``; or ``max_events`` is below 1.

        """
        _check_queries(node, time)
        if max_events < 1:
            raise ValueError(f"max_events must be at least 1, got {max_events}")
        count = torch.zeros_like(node)
        for history in self._histories.values():
            count += history.count(node, time)
        total = count.cumsum(0)
        first, done = 0, 0
        while first < len(node):
            stop = max(int(torch.searchsorted(total, done + max_events, right=True)), first + 1)
            places = torch.arange(first, stop, device=node.device)
            given = None if query_fields is None else take_rows(query_fields, places)
            yield self.read(node[first:stop], time[first:stop], query_fields=given)
            first, done = stop, int(total[stop - 1])


def prepare_queries(
    reader: InputReader,
    prepare: Callable[[EncoderInput], Prepared],
    concatenate: Callable[[Sequence[Prepared]], Prepared],
    node: Int64[Tensor, " num_queries"],
    time: Int64[Tensor, " num_queries"],
    *,
    max_events: int = 1_000_000,
    query_fields: FeatureTable | None = None,
) -> Prepared:
    """Read and prepare the histories of many queries, at most so many events at a time.

    Args:
        reader: of the encoder's requests.
        prepare: the encoder's own.
        concatenate: puts what ``prepare`` returned for several parts behind one another.
        node: row of each query's node.
        time: of each query.
        max_events: as in :meth:`InputReader.read_in_chunks`.
        query_fields: what describes each query; default: nothing.

    Raises:
        ValueError: there is no query, or as :meth:`InputReader.read_in_chunks`.

    """
    if not len(node):
        raise ValueError("there is no query to read a history for")
    chunks = reader.read_in_chunks(node, time, max_events=max_events, query_fields=query_fields)
    with torch.no_grad():
        return concatenate([prepare(chunk) for chunk in chunks])


def take_rows(table: FeatureTable, row: Int64[Tensor, " num_taken"]) -> FeatureTable:
    """Return the given rows of a table, in their order; a row may be taken twice."""
    return FeatureTable(len(row), {name: take_values(column, row) for name, column in table.columns.items()})


def take_values(column: Column, row: Int64[Tensor, " num_taken"]) -> Column:
    """Return the given rows of a column, with the same vocabulary."""
    if isinstance(column, CategoricalColumn):
        return CategoricalColumn(column.code[row], column.vocabulary)
    if isinstance(column, NumericColumn):
        return NumericColumn(column.value[row])
    length = column.ptr.diff()[row]
    ptr = with_zero(length.cumsum(0))
    return RaggedColumn(column.code[expand_ranges(column.ptr[row], length)[1]], ptr, column.vocabulary)


def _check_queries(node: object, time: object) -> None:
    for name, given in (("node", node), ("time", time)):
        found = getattr(given, "dtype", type(given).__name__)
        if not isinstance(given, Tensor) or found not in (torch.int32, torch.int64) or given.dim() != 1:
            raise ValueError(
                f"{name} must be a tensor of whole numbers with one axis, got {found}: rows of IDs come from "
                "graph.ids[node_type].rows(ids), and torch.as_tensor turns arrays and lists into tensors"
            )


class _HistoryReader:
    """Reads one request."""

    def __init__(
        self, graph: BehaviorGraph, node_type: NodeType, request: HistoryRequest, name: str, engine: Engine
    ) -> None:
        source, _, destination = request.edge_types[0]
        if destination != node_type:
            raise ValueError(
                f"history {name!r} has edge type {request.edge_types[0]}, queries are of type {node_type!r}: "
                "take edge types that end there, such as Relation.reverse_edge_type for users"
            )
        units = UNITS_PER_SECOND[graph.time_resolution]
        self.request = request
        self.offset = request.offset * units
        self.window = None if request.window is None else request.window * units
        self.csrs = {edge_type: graph.csr(edge_type) for edge_type in request.edge_types}
        self.engine = engine
        # what the offset leaves out must not count towards max_events
        max_events = None if self.offset else request.max_events
        self.sampler = EventHistorySampler(
            self.csrs, max_events=max_events, window=self.window, engine=engine
        )
        tables = [graph.edge_attributes(edge_type) for edge_type in request.edge_types]
        self.attributes = {
            attribute: _EdgeColumn(tables, attribute, f"history {name!r}") for attribute in request.attributes
        }
        what = f"the neighbours of history {name!r}, nodes of type {source!r},"
        self.fields = _columns_of(graph.features[source], request.fields, what)

    def read(self, node: Tensor, time: Tensor) -> History:
        events = self.sampler.sample(node, time)
        if self.offset:
            events = _select(events, events.time < (time - self.offset)[events.query_of_event()])
            if self.request.max_events is not None:
                last = torch.arange(len(events.time), device=node.device)
                stop = events.ptr[1:][events.query_of_event()]
                events = _select(events, last >= stop - self.request.max_events)
        assert events.edge_type is not None  # the sampler was given a mapping
        places = [(events.edge_type == i).nonzero().flatten() for i in range(len(self.csrs))]
        columns = {name: column.read(events.edge_id, places) for name, column in self.attributes.items()}
        columns |= take_rows(self.fields, events.neighbor).columns
        return History(events=events, columns=FeatureTable(len(events.time), columns))

    def count(self, node: Tensor, time: Tensor) -> Tensor:
        """Return how many events the sampler returns for each query, before the offset is cut off."""
        count = torch.zeros_like(node)
        for csr in self.csrs.values():
            count += count_edges(csr, node, time, window=self.window, engine=self.engine)
        return count if self.sampler.max_events is None else count.clamp(max=self.sampler.max_events)


class _EdgeColumn:
    """One attribute over several edge types, whose codes mean one thing for all of them."""

    def __init__(self, tables: Sequence[FeatureTable], name: str, where: str) -> None:
        found = [table[name] for table in tables if name in table]
        if not found:
            there = sorted({attribute for table in tables for attribute in table.names})
            raise ValueError(f"{where}: no edge type has the attribute {name!r}, they have {there}")
        kinds = sorted({type(column).__name__ for column in found})
        if len(kinds) > 1:
            raise ValueError(f"{where}: attribute {name!r} is a {' and a '.join(kinds)}: give it one type")
        self.kind = type(found[0])
        self.columns: list[Column | None] = [table.columns.get(name) for table in tables]
        self.vocabulary: pl.Series | None = None
        if len(tables) > 1 and not isinstance(found[0], NumericColumn):
            words = [column.vocabulary for column in found if not isinstance(column, NumericColumn)]
            self.vocabulary = pl.concat(words).unique(maintain_order=True)
        self.new_code = [self._new_code(column) for column in self.columns]

    def read(self, edge_id: Tensor, places: Sequence[Tensor]) -> Column:
        """Return the values of events; ``places`` are those of each edge type."""
        if len(self.columns) == 1:
            (column,) = self.columns
            assert column is not None
            return take_values(column, edge_id)
        parts = [
            (place, take_values(column, edge_id[place]), new_code)
            for place, column, new_code in zip(places, self.columns, self.new_code, strict=True)
            if column is not None
        ]
        if self.kind is NumericColumn:
            value = torch.full((len(edge_id),), torch.nan, device=edge_id.device)
            for place, part, _ in parts:
                assert isinstance(part, NumericColumn)
                value[place] = part.value
            return NumericColumn(value)
        assert self.vocabulary is not None
        if self.kind is CategoricalColumn:
            code = torch.zeros(len(edge_id), dtype=torch.int32, device=edge_id.device)
            for place, part, new_code in parts:
                assert isinstance(part, CategoricalColumn)
                code[place] = new_code[part.code.long()]
            return CategoricalColumn(code, self.vocabulary)
        length = torch.zeros_like(edge_id)
        for place, part, _ in parts:
            assert isinstance(part, RaggedColumn)
            length[place] = part.ptr.diff()
        ptr = with_zero(length.cumsum(0))
        code = torch.zeros(int(ptr[-1]), dtype=torch.int32, device=edge_id.device)
        for place, part, new_code in parts:
            assert isinstance(part, RaggedColumn)
            code[expand_ranges(ptr[place], length[place])[1]] = new_code[part.code.long()]
        return RaggedColumn(code, ptr, self.vocabulary)

    def _new_code(self, column: Column | None) -> Tensor:
        if self.vocabulary is None or column is None or isinstance(column, NumericColumn):
            return torch.zeros(0, dtype=torch.int32)
        new_code = encode_words(column.vocabulary, self.vocabulary)
        return with_zero(new_code).to(column.code.device)


def _select(events: EventHistory, keep: Bool[Tensor, " num_events"]) -> EventHistory:
    assert events.edge_type is not None
    kept = torch.bincount(events.query_of_event()[keep], minlength=len(events.ptr) - 1)
    return EventHistory(
        with_zero(kept.cumsum(0)),
        events.neighbor[keep],
        events.time[keep],
        events.edge_id[keep],
        events.edge_type[keep],
    )


def _columns_of(table: FeatureTable, names: Sequence[str], whose: str) -> FeatureTable:
    missing = [name for name in names if name not in table]
    if missing:
        raise ValueError(f"{whose} have no fields {missing}, they have {list(table.names)}")
    return FeatureTable(len(table), {name: table[name] for name in names})
