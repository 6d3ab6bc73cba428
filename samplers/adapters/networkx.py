"""networkx graphs with times on their edges to CSRs, and sampled subgraphs to networkx, to look at them."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any, NamedTuple

import torch

from samplers.csr import TemporalCSR
from samplers.neighbors import EdgeType, NodeType, SampledSubgraph


@dataclass(frozen=True, eq=False)
class NetworkxCSRs:
    """The CSRs of a networkx graph, as a ``MultiHopSampler`` takes them, and what their ids stand for.

    Attributes:
        csrs: for each edge type, rows are destinations and columns sources.
        node: for each node type, the networkx node of each id.
        edge: for each edge type, the networkx edge of each edge id: (u, v), or (u, v, key) of a multigraph.

    """

    csrs: dict[EdgeType, TemporalCSR]
    node: dict[NodeType, list[Hashable]]
    edge: dict[EdgeType, list[tuple[Hashable, ...]]]

    @cached_property
    def node_id(self) -> dict[Hashable, tuple[NodeType, int]]:
        """For each networkx node, its node type and id."""
        return {label: (name, i) for name, labels in self.node.items() for i, label in enumerate(labels)}


def from_networkx(
    graph: Any,
    *,
    time: str = "time",
    weight: str | None = None,
    node_type: str | None = None,
    edge_type: str | None = None,
    reverse: bool = False,
) -> NetworkxCSRs:
    """Build a CSR for each edge type of a ``Graph``, ``DiGraph``, ``MultiGraph`` or ``MultiDiGraph``.

    A directed edge (u, v) lets v see u. An undirected edge lets both see each other: it is one edge each way,
    with an edge id for each; a loop is one edge.

    Args:
        graph: ids follow its order of nodes within each type, edge ids its order of edges.
        time: the edge attribute with the time, an integer.
        weight: the edge attribute with the weight, not negative; None for no weights.
        node_type: the node attribute that names the type; None: all nodes are of type "node".
        edge_type: the edge attribute that names the relation; None: all edges are of relation "edge".
        reverse: for a directed graph: add ``rev_<relation>``, with the same edge ids, so that u sees v too.

    Raises:
        ValueError: an edge has no time or weight, or a time that is no integer; a node or an edge has no
            type; ``reverse`` for an undirected graph; a graph without edges.

    """
    if reverse and not graph.is_directed():
        raise ValueError("an undirected graph has both directions already: leave out reverse")
    type_of = {
        label: _type(f"node {label!r}", data, node_type, "node") for label, data in graph.nodes.items()
    }
    node: dict[NodeType, list[Hashable]] = {}
    node_id: dict[Hashable, int] = {}
    for label, name in type_of.items():
        labels = node.setdefault(name, [])
        node_id[label] = len(labels)
        labels.append(label)
    rows: dict[EdgeType, list[_Row]] = {}
    for edge, data in graph.edges.items():
        source, destination = edge[:2]
        relation = _type(f"edge {edge!r}", data, edge_type, "edge")
        when, importance = _time(edge, data, time), _weight(edge, data, weight)
        ways = [(source, relation, destination)]
        if reverse:
            ways.append((destination, f"rev_{relation}", source))
        elif not graph.is_directed() and source != destination:
            ways.append((destination, relation, source))
        for start, name, end in ways:
            row = _Row(edge, node_id[start], node_id[end], when, importance)
            rows.setdefault((type_of[start], name, type_of[end]), []).append(row)
    if not rows:
        raise ValueError("the graph has no edges: there is nothing to sample")
    return NetworkxCSRs(
        csrs={
            name: TemporalCSR.from_edge_index(
                torch.tensor([[row.source for row in of_type], [row.destination for row in of_type]]),
                torch.tensor([row.time for row in of_type]),
                num_rows=len(node[name[2]]),
                num_cols=len(node[name[0]]),
                row="destination",
                edge_weight=None if weight is None else torch.tensor([row.weight for row in of_type]),
            )
            for name, of_type in rows.items()
        },
        node=node,
        edge={name: [row.edge for row in of_type] for name, of_type in rows.items()},
    )


def to_networkx(
    subgraph: SampledSubgraph, *, node: Mapping[NodeType, Sequence[Hashable]] | None = None
) -> Any:
    """Copy a sampled subgraph into a ``networkx.MultiDiGraph``, neighbours pointing to who sees them.

    Nodes are (node type, row), with attributes "node" (the id, or its label in ``node``), "time" (as of which
    the row is seen) and "hop" (0 for seeds). Edges have "relation", "edge_id", "time" and "hop" (0 into
    seeds). For pictures and tests: rows are copied one by one.

    Args:
        subgraph: of a ``MultiHopSampler``.
        node: labels of each type's ids, as ``NetworkxCSRs.node``.

    """
    import networkx

    graph = networkx.MultiDiGraph()
    for name, ids in subgraph.node.items():
        after = torch.tensor(subgraph.num_nodes_after_hop[name])
        hop_of_row = torch.searchsorted(after, torch.arange(len(ids)), right=True)
        for row, (i, when, hop) in enumerate(
            zip(ids.tolist(), subgraph.time[name].tolist(), hop_of_row.tolist(), strict=True)
        ):
            graph.add_node((name, row), node=i if node is None else node[name][i], time=when, hop=hop)
    for hop, edges_of_type in enumerate(subgraph.hops):
        for (source, relation, destination), edges in edges_of_type.items():
            place, slot = edges.mask.nonzero(as_tuple=True)
            columns = (
                edges.neighbor[place, slot].tolist(),
                (place + edges.first_row).tolist(),
                edges.edge_id[place, slot].tolist(),
                edges.edge_time[place, slot].tolist(),
            )
            for start, end, edge_id, when in zip(*columns, strict=True):
                graph.add_edge(
                    (source, start),
                    (destination, end),
                    relation=relation,
                    edge_id=edge_id,
                    time=when,
                    hop=hop,
                )
    return graph


class _Row(NamedTuple):
    """An edge of networkx, one way."""

    edge: tuple[Hashable, ...]
    source: int
    destination: int
    time: int
    weight: float


def _type(owner: str, data: Mapping[str, Any], attribute: str | None, default: str) -> str:
    if attribute is None:
        return default
    if not isinstance(data.get(attribute), str):
        raise ValueError(
            f"{owner} must have its type in the attribute {attribute!r}, a string; it has {dict(data)}"
        )
    return str(data[attribute])


def _time(edge: tuple[Hashable, ...], data: Mapping[str, Any], attribute: str) -> int:
    time = data.get(attribute)
    if time is None:
        raise ValueError(
            f"edge {edge!r} has no time: set its attribute {attribute!r} to an integer, or name the "
            f"attribute that holds it with time=; it has {dict(data)}"
        )
    if isinstance(time, bool) or not isinstance(time, Integral):
        raise ValueError(
            f"edge {edge!r} has time {time!r}: times must be integers; use a finer unit, such as "
            "milliseconds, or int(moment.timestamp())"
        )
    return int(time)


def _weight(edge: tuple[Hashable, ...], data: Mapping[str, Any], attribute: str | None) -> float:
    if attribute is None:
        return 1.0
    if attribute not in data:
        raise ValueError(
            f"edge {edge!r} has no weight {attribute!r}: give every edge one; it has {dict(data)}"
        )
    return float(data[attribute])
