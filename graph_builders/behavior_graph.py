"""BehaviorGraph: users, items and what happened between them, as one TemporalCSR an edge type."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Int64
from torch import Tensor

from graph_builders.events import EventLog, EventLogError, Resolution, concat_event_logs
from graph_builders.feature_table import FeatureTable, build_feature_table, table_ids
from graph_builders.ids import IdMap, as_id_series
from samplers import EdgeType, NodeType, TemporalCSR

USER: NodeType = "user"
ITEM: NodeType = "item"
_LOG_COLUMN = {USER: "user_id", ITEM: "item_id"}


class Relation(NamedTuple):
    """One behaviour in one domain: two edge types, forward and reverse."""

    domain: str
    behavior: str

    @property
    def edge_type(self) -> EdgeType:
        """From users to items: the rows of its CSR are items."""
        return (USER, f"{self.domain}:{self.behavior}", ITEM)

    @property
    def reverse_edge_type(self) -> EdgeType:
        """From items to users: the rows of its CSR are users."""
        return (ITEM, f"rev_{self.domain}:{self.behavior}", USER)


class Edges(NamedTuple):
    """The events of one relation in the order of their edge ids."""

    user: Int64[Tensor, " num_edges"]
    item: Int64[Tensor, " num_edges"]
    time: Int64[Tensor, " num_edges"]
    available_time: Int64[Tensor, " num_edges"]


@dataclass(frozen=True, eq=False)
class RelationEdges:
    """The edges of one relation, in both directions, and their attributes by edge id.

    An edge id is the place of its event among the relation's events; both directions share it.
    """

    by_item: TemporalCSR
    by_user: TemporalCSR
    attributes: FeatureTable


@dataclass(frozen=True, eq=False)
class BehaviorGraph:
    """A heterogeneous temporal graph of users and items. Immutable: ``append`` returns a new version.

    Each node type has a row for each known ID and, last, the row of unseen IDs, which has no edges.
    Edge type (source, relation, destination) has a CSR whose rows are destinations, columns sources.

    Attributes:
        ids: the ID map of each node type.
        relations: edges by (domain, behaviour), sorted by these names.
        features: the static fields of each node type, one row a node, the unseen row included.
        texts: a text for each node of a type, null where there is none.
        time_resolution: unit of all times, "s" or "ms".

    """

    ids: Mapping[NodeType, IdMap]
    relations: Mapping[Relation, RelationEdges]
    features: Mapping[NodeType, FeatureTable]
    texts: Mapping[NodeType, pl.Series] = field(default_factory=dict)
    time_resolution: Resolution = "s"

    @property
    def node_types(self) -> tuple[NodeType, ...]:
        """Names of the node types."""
        return tuple(self.ids)

    @property
    def edge_types(self) -> tuple[EdgeType, ...]:
        """All edge types: a relation's two directions stand beside each other."""
        return tuple(self.csrs())

    @property
    def num_nodes(self) -> dict[NodeType, int]:
        """Rows of each node type, the unseen row included."""
        return {node_type: ids.num_rows for node_type, ids in self.ids.items()}

    @property
    def num_edges(self) -> dict[EdgeType, int]:
        """Edges of each edge type."""
        return {edge_type: csr.num_edges for edge_type, csr in self.csrs().items()}

    @property
    def num_events(self) -> int:
        """Number of events: each is an edge in two directions."""
        return sum(edges.by_user.num_edges for edges in self.relations.values())

    @property
    def domains(self) -> tuple[str, ...]:
        """Domains that have events."""
        return tuple(sorted({relation.domain for relation in self.relations}))

    @property
    def behaviors(self) -> tuple[str, ...]:
        """Behaviours that have events."""
        return tuple(sorted({relation.behavior for relation in self.relations}))

    @property
    def device(self) -> torch.device:
        """Where the edges lie."""
        return next(iter(self.csrs().values())).device if self.relations else torch.device("cpu")

    def metadata(self) -> tuple[list[NodeType], list[EdgeType]]:
        """Return node types and edge types."""
        return list(self.node_types), list(self.edge_types)

    def csrs(self) -> dict[EdgeType, TemporalCSR]:
        """Return the adjacency of each edge type, as ``samplers.MultiHopSampler`` takes it."""
        return dict(self._directions())

    def csr(self, edge_type: EdgeType) -> TemporalCSR:
        """Return the adjacency of one edge type.

        Raises:
            ValueError: there is no such edge type.

        """
        found = self.csrs().get(edge_type)
        if found is None:
            raise ValueError(f"no edge type {edge_type}, there are {list(self.edge_types)}")
        return found

    def edge_attributes(self, edge_type: EdgeType) -> FeatureTable:
        """Return the attributes of an edge type's events; row e belongs to edge id e."""
        return self._relation_edges(edge_type).attributes

    def edges(self, edge_type: EdgeType) -> Edges:
        """Return the events of an edge type (either direction) in the order of their edge ids.

        Computed from the CSR at each call: ids and times are stored once a direction, not once more.
        """
        csr = self._relation_edges(edge_type).by_user.compact()
        place = csr.edge_id.long()
        known = csr.edge_time if csr.available_time is None else csr.available_time
        columns = (csr.row_of_edge(), csr.col.long(), csr.edge_time, known)
        return Edges(*(torch.empty_like(column).index_copy_(0, place, column) for column in columns))

    def view(
        self, *, domains: Sequence[str] | None = None, behaviors: Sequence[str] | None = None
    ) -> "BehaviorGraph":
        """Return a graph of the same nodes and a part of the edge types; no column is copied.

        Args:
            domains: keep these domains; default: all.
            behaviors: keep these behaviours; default: all.

        Raises:
            ValueError: a domain or behaviour has no events, or nothing is left.

        """
        for kind, wanted, there in (
            ("domains", domains, self.domains),
            ("behaviors", behaviors, self.behaviors),
        ):
            if isinstance(wanted, str):
                raise ValueError(f"{kind} must be a list of names, got the string {wanted!r}")
            unknown = sorted(set(wanted or ()) - set(there))
            if unknown:
                raise ValueError(f"{kind} {unknown} have no events, there are {list(there)}")
        kept = {
            relation: edges
            for relation, edges in self.relations.items()
            if (domains is None or relation.domain in domains)
            and (behaviors is None or relation.behavior in behaviors)
        }
        if not kept:
            raise ValueError(f"no edge type has domains={domains} and behaviors={behaviors}")
        return replace(self, relations=kept)

    def append(
        self,
        events: EventLog,
        *,
        user_table: pl.DataFrame | None = None,
        item_table: pl.DataFrame | None = None,
    ) -> "BehaviorGraph":
        """Return a version with more events; this one stays as it is.

        Samplers see the graph built from all events at once. Known IDs keep their rows, new ones come after
        them; edge ids continue. Edges may be older than what is there. The new edges lie in a delta beside
        the others, which both versions share: ``compact`` folds it in when it has grown.

        Args:
            events: the new events, in the time resolution of the graph.
            user_table: static fields of users that are new to the graph.
            item_table: static fields of items that are new to the graph.

        Raises:
            ValueError: another time resolution, or a table names a node that the graph has already.

        """
        _check_log(events)
        if events.time_resolution != self.time_resolution:
            raise EventLogError(
                f"the graph has times in {self.time_resolution!r}, the log in {events.time_resolution!r}: "
                "read the log with the graph's resolution"
            )
        ids, features, texts = dict(self.ids), dict(self.features), dict(self.texts)
        for node_type, table in ((USER, user_table), (ITEM, item_table)):
            old = self.ids[node_type]
            given = table_ids(table, _LOG_COLUMN[node_type])
            if given is not None and old.contains(given).any():
                raise ValueError(f"the {node_type} table names nodes that the graph has: leave these out")
            grown = old if given is None else old.extend(given)
            ids[node_type] = grown.extend(events.frame[_LOG_COLUMN[node_type]].unique(maintain_order=True))
            added = ids[node_type].num_ids - old.num_ids
            if added:
                below = _node_features(table, _LOG_COLUMN[node_type], added + 1)
                features[node_type] = self.features[node_type].head(old.num_ids).concat(below.to(self.device))
                if node_type in texts:
                    text = texts[node_type]
                    texts[node_type] = text.extend_constant(None, added)
        rows = {node_type: ids[node_type].rows(events.frame[_LOG_COLUMN[node_type]]) for node_type in ids}
        num_nodes = {node_type: ids[node_type].num_rows for node_type in ids}
        relations = {name: _grow(edges, num_nodes) for name, edges in self.relations.items()}
        for relation, part, index in _split_relations(events.frame):
            user, item = (_take(rows[node_type], index) for node_type in (USER, ITEM))
            if relation in relations:
                relations[relation] = _append_edges(relations[relation], part, user, item)
            else:
                new = _build_edges(part, user, item, num_nodes)
                relations[relation] = _edges_to(new, self.device)
        return BehaviorGraph(ids, dict(sorted(relations.items())), features, texts, self.time_resolution)

    def compact(self) -> "BehaviorGraph":
        """Return the same graph with all appended edges folded in: sampling it is faster."""
        return replace(
            self,
            relations={
                name: replace(edges, by_item=edges.by_item.compact(), by_user=edges.by_user.compact())
                for name, edges in self.relations.items()
            },
        )

    def to(self, device: torch.device | str) -> "BehaviorGraph":
        """Copy edges, attributes and features to another device."""
        return replace(
            self,
            relations={name: _edges_to(edges, device) for name, edges in self.relations.items()},
            features={name: table.to(device) for name, table in self.features.items()},
        )

    def save(self, path: str | Path) -> None:
        """Write a folder of memory-mappable columns, whole or not at all. See ``graph_files``."""
        from graph_builders.graph_files import save_graph

        save_graph(self, path)

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = False) -> "BehaviorGraph":
        """Memory-map a folder written by ``save``; ``verify`` reads all of it to compare checksums.

        Raises:
            CorruptedGraphError: a file is missing, cut off or changed, or the version is unknown.

        """
        from graph_builders.graph_files import open_graph

        return open_graph(path, verify=verify)

    def _directions(self) -> Iterator[tuple[EdgeType, TemporalCSR]]:
        for relation, edges in self.relations.items():
            yield relation.edge_type, edges.by_item
            yield relation.reverse_edge_type, edges.by_user

    def _relation_edges(self, edge_type: EdgeType) -> RelationEdges:
        for relation, edges in self.relations.items():
            if edge_type in (relation.edge_type, relation.reverse_edge_type):
                return edges
        raise ValueError(f"no edge type {edge_type}, there are {list(self.edge_types)}")

    def __repr__(self) -> str:
        lines = [f"BehaviorGraph({self.num_events:,} events, times in {self.time_resolution}, {self.device})"]
        for node_type, ids in self.ids.items():
            fields = ", ".join(self.features[node_type].names) or "none"
            lines.append(f"  {node_type}: {ids.num_ids:,} IDs and the unseen row; fields: {fields}")
        for relation, edges in self.relations.items():
            late = "" if edges.by_user.max_delay is None else ", known late"
            names = "".join(f", {name}" for name in edges.attributes.names)
            lines.append(
                f"  {relation.domain}:{relation.behavior}: {edges.by_user.num_edges:,} edges{late}{names}"
            )
        return "\n".join(lines)


def build_behavior_graph(
    log: EventLog | Sequence[EventLog],
    *,
    user_table: pl.DataFrame | None = None,
    item_table: pl.DataFrame | None = None,
    texts: Mapping[NodeType, pl.DataFrame] | None = None,
) -> BehaviorGraph:
    """Build the graph of one or many event logs.

    Nodes are the IDs of the tables, in their order, then those of the events in order of appearance.

    Args:
        log: events; the order of rows decides between events of one time.
        user_table: a column ``user_id`` and static fields: text is a category, numbers are numbers, lists
            hold several categories.
        item_table: a column ``item_id`` and static fields.
        texts: by node type, a table of the ID column and ``text``.

    Raises:
        EventLogError: the logs do not fit together, or a domain's name holds a colon.
        ValueError: a table lacks its ID column or repeats an ID, or its IDs have another type than the log's.

    """
    events = log if isinstance(log, EventLog) else concat_event_logs(list(log))
    _check_log(events)
    ids: dict[NodeType, IdMap] = {}
    rows: dict[NodeType, Tensor] = {}
    features: dict[NodeType, FeatureTable] = {}
    for node_type, table in ((USER, user_table), (ITEM, item_table)):
        column = _LOG_COLUMN[node_type]
        ids[node_type], rows[node_type] = _map_ids(table, column, events.frame[column])
        features[node_type] = _node_features(table, column, ids[node_type].num_rows)
    num_nodes = {node_type: ids[node_type].num_rows for node_type in ids}
    relations = {
        relation: _build_edges(part, _take(rows[USER], index), _take(rows[ITEM], index), num_nodes)
        for relation, part, index in _split_relations(events.frame)
    }
    aligned = {
        name: _align_text(table, _LOG_COLUMN[name], ids[name]) for name, table in (texts or {}).items()
    }
    return BehaviorGraph(ids, dict(sorted(relations.items())), features, aligned, events.time_resolution)


# ---- nodes ---------------------------------------------------------------------------------------


def _map_ids(table: pl.DataFrame | None, column: str, event_ids: pl.Series) -> tuple[IdMap, Tensor]:
    given = table_ids(table, column)
    if given is None:
        return IdMap.build_with_rows(event_ids)
    known, seen = as_id_series(given), as_id_series(event_ids)
    if known.dtype != seen.dtype:
        raise ValueError(
            f"{column} has type {known.dtype} in the table and {seen.dtype} in the log: cast one to the other"
        )
    ids, rows = IdMap.build_with_rows(pl.concat([known.alias("id"), seen.alias("id")]))
    return ids, rows[len(known) :]


def _node_features(table: pl.DataFrame | None, column: str, num_rows: int) -> FeatureTable:
    """Return the fields of the nodes; the table's rows come first, as its IDs do."""
    if table is None:
        return FeatureTable(num_rows)
    return build_feature_table(table.drop(column), num_rows=num_rows)


def _align_text(table: pl.DataFrame, column: str, ids: IdMap) -> pl.Series:
    given = table_ids(table, column)
    if given is None or "text" not in table.columns:
        raise ValueError(f"a text table needs the columns {column!r} and 'text', got {table.columns}")
    known = table.with_columns(row=pl.Series(ids.rows(given).numpy())).filter(pl.col("row") < ids.num_ids)
    place = pl.DataFrame({"row": np.arange(ids.num_rows)})
    return place.join(known.select("row", "text"), on="row", how="left", maintain_order="left")["text"]


# ---- edges ---------------------------------------------------------------------------------------


def _check_log(events: EventLog) -> None:
    if not len(events):
        raise EventLogError("the event log holds no events: a graph needs at least one")
    wrong = [name for name in events.frame["domain"].unique().cast(pl.String) if ":" in name]
    if wrong:
        raise EventLogError(f"domains {wrong} hold a colon, which parts domain and behaviour: rename them")


def _split_relations(frame: pl.DataFrame) -> Iterator[tuple[Relation, pl.DataFrame, Tensor | None]]:
    """Yield each relation with its events, in order, and their positions (None: all of them)."""
    domains, behaviors = (frame[name].unique() for name in ("domain", "behavior"))
    if len(domains) == len(behaviors) == 1:
        yield Relation(str(domains[0]), str(behaviors[0])), frame, None
        return
    codes = frame.select(
        pl.col("domain").to_physical().cast(pl.Int64) * (1 << 32)
        + pl.col("behavior").to_physical().cast(pl.Int64)
    ).to_series()
    for code in codes.unique().to_list():
        index = (codes == code).arg_true()
        part = frame[index]
        relation = Relation(str(part["domain"][0]), str(part["behavior"][0]))
        yield relation, part, torch.from_numpy(index.cast(pl.Int64).to_numpy().copy())


def _build_edges(
    part: pl.DataFrame, user: Tensor, item: Tensor, num_nodes: Mapping[NodeType, int]
) -> RelationEdges:
    time, available_time = _times(part)
    narrow = torch.int32 if max(num_nodes.values()) <= 2**31 else torch.int64
    edge_index = torch.stack([user.to(narrow), item.to(narrow)])
    num_users, num_items = num_nodes[USER], num_nodes[ITEM]
    by_item = TemporalCSR.from_edge_index(
        edge_index,
        time,
        num_rows=num_items,
        num_cols=num_users,
        row="destination",
        available_time=available_time,
    )
    by_user = TemporalCSR.from_edge_index(
        edge_index, time, num_rows=num_users, num_cols=num_items, row="source", available_time=available_time
    )
    return RelationEdges(by_item, by_user, _attributes(part))


def _append_edges(base: RelationEdges, part: pl.DataFrame, user: Tensor, item: Tensor) -> RelationEdges:
    device = base.by_user.device
    time, available_time = _times(part)
    edge_index = torch.stack([user, item]).to(device)
    first = base.by_user.num_edges
    edge_id = torch.arange(first, first + part.height, device=device)
    known = None if available_time is None else available_time.to(device)
    by_item = base.by_item.append(
        edge_index, time.to(device), row="destination", edge_id=edge_id, available_time=known
    )
    by_user = base.by_user.append(
        edge_index, time.to(device), row="source", edge_id=edge_id, available_time=known
    )
    return RelationEdges(by_item, by_user, base.attributes.concat(_attributes(part).to(device)))


def _grow(edges: RelationEdges, num_nodes: Mapping[NodeType, int]) -> RelationEdges:
    """Give a row and a column to each new node; the edges are shared."""
    num_users, num_items = num_nodes[USER], num_nodes[ITEM]
    if (edges.by_user.num_rows, edges.by_item.num_rows) == (num_users, num_items):
        return edges
    return replace(
        edges,
        by_item=edges.by_item.grow(num_rows=num_items, num_cols=num_users),
        by_user=edges.by_user.grow(num_rows=num_users, num_cols=num_items),
    )


def _edges_to(edges: RelationEdges, device: torch.device | str) -> RelationEdges:
    return RelationEdges(edges.by_item.to(device), edges.by_user.to(device), edges.attributes.to(device))


def _times(part: pl.DataFrame) -> tuple[Tensor, Tensor | None]:
    """Return event times and, where one event at least became known later, when each did."""
    time = torch.from_numpy(part["time"].to_numpy().copy())
    if "available_time" not in part.columns or bool((part["available_time"] == part["time"]).all()):
        return time, None
    return time, torch.from_numpy(part["available_time"].to_numpy().copy())


def _attributes(part: pl.DataFrame) -> FeatureTable:
    """Return the attributes that the relation's events have; one that is null throughout is not theirs."""
    own = {"user_id", "item_id", "time", "behavior", "domain", "available_time"}
    names = [name for name in part.columns if name not in own and part[name].null_count() < part.height]
    return build_feature_table(part.select(names)) if names else FeatureTable(part.height)


def _take(rows: Tensor, index: Tensor | None) -> Tensor:
    return rows if index is None else rows[index]
