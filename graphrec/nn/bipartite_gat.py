"""Several layers of graph attention over a sampled user-item subgraph, both directions at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from graphrec.nn.fields import FieldEmbedding
from graphrec.nn.gat import GATConv
from samplers import EdgeType, NodeType, SampledSubgraph


@dataclass(frozen=True, eq=False)
class NodeNeighbors:
    """The neighbours of the first rows of one node type, of all its edge types side by side.

    ``neighbor`` are rows of the source type's table in the subgraph they came from; padding has
    ``mask == False``.
    """

    neighbor: Int64[Tensor, "num_rows num_neighbors"]
    edge_id: Int64[Tensor, "num_rows num_neighbors"]
    edge_time: Int64[Tensor, "num_rows num_neighbors"]
    relation: Int64[Tensor, " num_neighbors"]
    mask: Bool[Tensor, "num_rows num_neighbors"]


def merge_neighbors(
    subgraph: SampledSubgraph, destination: NodeType, edge_types: Sequence[EdgeType]
) -> NodeNeighbors:
    """Put the edges into ``destination`` side by side: hops below each other, edge types beside each other.

    Where the fan-out differs from hop to hop, the narrower hop is padded. ``relation`` numbers the slots by
    their edge type's place in ``edge_types``.
    """
    into = [edge_type for edge_type in edge_types if edge_type[2] == destination]
    widths = {e: max((hop[e].mask.shape[1] for hop in subgraph.hops if e in hop), default=0) for e in into}
    device = subgraph.node[destination].device
    blocks: dict[EdgeType, list[tuple[Tensor, Tensor, Tensor, Tensor]]] = {e: [] for e in into}
    for hop_index, hop in enumerate(subgraph.hops):
        first = subgraph.num_nodes_after_hop[destination][hop_index - 1] if hop_index else 0
        num_rows = subgraph.num_nodes_after_hop[destination][hop_index] - first
        for edge_type in into:
            if edge_type in hop:
                edges = hop[edge_type]
                columns = (edges.neighbor, edges.edge_id, edges.edge_time, edges.mask)
            else:
                empty = torch.zeros(num_rows, 0, dtype=torch.int64, device=device)
                columns = (empty, empty, empty, empty.bool())
            pad = widths[edge_type] - columns[3].shape[1]
            padded = [functional.pad(column, (0, pad)) if pad else column for column in columns]
            blocks[edge_type].append((padded[0], padded[1], padded[2], padded[3]))
    neighbor, edge_id, edge_time, mask = (
        torch.cat([torch.cat([block[i] for block in blocks[e]]) for e in into], dim=1) for i in range(4)
    )
    relation = torch.cat([torch.full((widths[e],), i, device=device) for i, e in enumerate(into)])
    return NodeNeighbors(neighbor, edge_id, edge_time, relation, mask)


@dataclass(frozen=True, eq=False)
class FieldInput:
    """Input features of a node type's rows that are never made: field vectors side by side, then numbers."""

    embedding: FieldEmbedding
    codes: Int64[Tensor, "num_rows num_fields"]
    bag: Int64[Tensor, "num_rows bag_size"] | None
    dense: Float[Tensor, "num_rows num_dense"]

    def project(self, layers: Sequence[nn.Linear], num_rows: Sequence[int]) -> list[Tensor]:
        """Return what each layer makes of the first rows, (num_rows[i], out_features)."""
        weight = torch.cat([layer.weight for layer in layers])
        num_dense = self.dense.shape[1]
        by_fields, by_dense = weight.split([weight.shape[1] - num_dense, num_dense], dim=1)
        sizes = [layer.out_features for layer in layers]
        projected = self.embedding.projected(self.codes, self.bag, by_fields, num_rows, sizes)
        if not num_dense:
            return projected
        parts = by_dense.split(sizes)
        return [
            value + self.dense[:rows] @ part.T
            for value, part, rows in zip(projected, parts, num_rows, strict=True)
        ]


class BipartiteGAT(nn.Module):
    """Layers of graph attention in which users gather from items and items from users.

    Layer ``k`` reads the vectors of layer ``k - 1`` of both sides, with weights of its own for each layer and
    direction (LSTTM, section 3.2: "the aggregation of items is similar to that of users").

    Args:
        in_channels: size of the input features of each node type.
        source_type: for each node type, the type that its neighbours have.
        hidden_channels: size of the vectors between layers and of the output.
        num_layers: layers; the subgraph needs as many hops.
        edge_channels: size of the edges' attributes, 0 for none.
        empty, self_term, activation: as in GATConv.

    """

    def __init__(
        self,
        in_channels: Mapping[NodeType, int],
        source_type: Mapping[NodeType, NodeType],
        hidden_channels: int,
        *,
        num_layers: int = 2,
        num_heads: int = 1,
        edge_channels: int = 0,
        empty: Literal["self", "zero"] = "self",
        self_term: bool = False,
        activation: Callable[[Tensor], Tensor] | None = functional.elu,
    ) -> None:
        super().__init__()
        if hidden_channels % num_heads:
            raise ValueError(f"hidden_channels={hidden_channels} must be a multiple of num_heads={num_heads}")
        self.num_layers, self.source_type = num_layers, dict(source_type)
        self.convs = nn.ModuleList()
        sizes = dict(in_channels)
        for _ in range(num_layers):
            layer = {
                destination: GATConv(
                    (sizes[destination], sizes[source]),
                    hidden_channels // num_heads,
                    num_heads=num_heads,
                    edge_channels=edge_channels,
                    empty=empty,
                    self_term=self_term,
                    activation=activation,
                )
                for destination, source in self.source_type.items()
            }
            self.convs.append(nn.ModuleDict(layer))
            sizes = dict.fromkeys(sizes, hidden_channels)

    def forward(
        self,
        x: Mapping[NodeType, Tensor | FieldInput],
        neighbors: Mapping[NodeType, NodeNeighbors],
        num_nodes_after_hop: Mapping[NodeType, Sequence[int]],
        edge_attr: Mapping[NodeType, Float[Tensor, "_ _ _"]] | None = None,
        *,
        own_x: Mapping[NodeType, Tensor | FieldInput] | None = None,
    ) -> dict[NodeType, Tensor]:
        """Return the last layer's vectors of the seeds of each node type, (num distinct seeds, channels).

        Args:
            x: input features of every row of the subgraph's tables, or what they are made of.
            neighbors: from :func:`merge_neighbors`, for each destination type.
            num_nodes_after_hop: the subgraph's own.
            edge_attr: attributes of the edges in ``neighbors``, (rows, num_neighbors, edge_channels).
            own_x: input features of the first rows for their own vectors, where these differ from what the
                rows are as others' neighbours.

        """
        current: dict[NodeType, Tensor | FieldInput] = dict(x)
        result: dict[NodeType, Tensor] = {}
        for layer_index, convs in enumerate(self.convs):
            assert isinstance(convs, nn.ModuleDict)
            layer = {name: conv for name, conv in convs.items() if isinstance(conv, GATConv)}
            # rows that a later layer, or the caller, still reads
            wanted = {name: num_nodes_after_hop[name][self.num_layers - 1 - layer_index] for name in layer}
            first = {} if own_x is None or layer_index else own_x
            own, source, self_term = self._project(layer, current, wanted, first)
            result = {}
            for destination, conv in layer.items():
                rows, table = wanted[destination], neighbors[destination]
                result[destination] = conv.attend(
                    own[destination],
                    source[destination],
                    self_term.get(destination),
                    table.neighbor[:rows],
                    table.mask[:rows],
                    None if edge_attr is None else edge_attr[destination][:rows],
                )
            current = dict(result)
        return result

    def _project(
        self,
        layer: Mapping[NodeType, GATConv],
        x: Mapping[NodeType, Tensor | FieldInput],
        wanted: Mapping[NodeType, int],
        own_x: Mapping[NodeType, Tensor | FieldInput],
    ) -> tuple[dict[NodeType, Tensor], dict[NodeType, Tensor], dict[NodeType, Tensor]]:
        """Apply a layer's linear maps, by destination: of the node, of its neighbours, of the self term."""
        own, source, self_term = dict[NodeType, Tensor](), dict[NodeType, Tensor](), dict[NodeType, Tensor]()
        for name, value in x.items():
            own_uses, source_uses = list[_Use](), list[_Use]()
            if name in layer:
                own_uses.append(_Use(own, name, layer[name].lin_destination, wanted[name]))
                lin_self = layer[name].lin_self
                if lin_self is not None:
                    own_uses.append(_Use(self_term, name, lin_self, wanted[name]))
            num_rows = len(value.codes) if isinstance(value, FieldInput) else len(value)
            source_uses += [
                _Use(source, destination, conv.lin_source, num_rows)
                for destination, conv in layer.items()
                if self.source_type[destination] == name
            ]
            if name in own_x:
                _project_uses(own_x[name], own_uses)
                _project_uses(value, source_uses)
            else:
                _project_uses(value, own_uses + source_uses)
        return own, source, self_term


class _Use(NamedTuple):
    """A linear map of the first rows of a node type, and the table and key that its result is for."""

    table: dict[NodeType, Tensor]
    destination: NodeType
    linear: nn.Linear
    num_rows: int


def _project_uses(x: Tensor | FieldInput, uses: Sequence[_Use]) -> None:
    if isinstance(x, FieldInput):
        found = x.project([use.linear for use in uses], [use.num_rows for use in uses]) if uses else []
    else:
        found = [use.linear(x[: use.num_rows]) for use in uses]
    for use, projection in zip(uses, found, strict=True):
        use.table[use.destination] = projection
