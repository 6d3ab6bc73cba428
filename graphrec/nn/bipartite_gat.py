"""Several layers of graph attention over a sampled user-item subgraph, both directions at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional

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
        x: Mapping[NodeType, Tensor],
        neighbors: Mapping[NodeType, NodeNeighbors],
        num_nodes_after_hop: Mapping[NodeType, Sequence[int]],
        edge_attr: Mapping[NodeType, Float[Tensor, "_ _ _"]] | None = None,
    ) -> dict[NodeType, Tensor]:
        """Return the last layer's vectors of the seeds of each node type, (num distinct seeds, channels).

        Args:
            x: input features of every row of the subgraph's tables.
            neighbors: from :func:`merge_neighbors`, for each destination type.
            num_nodes_after_hop: the subgraph's own.
            edge_attr: attributes of the edges in ``neighbors``, (rows, num_neighbors, edge_channels).

        """
        current = dict(x)
        for layer_index, layer in enumerate(self.convs):
            assert isinstance(layer, nn.ModuleDict)
            following = {}
            for destination, source in self.source_type.items():
                # rows that a later layer, or the caller, still reads
                rows = num_nodes_after_hop[destination][self.num_layers - 1 - layer_index]
                table = neighbors[destination]
                following[destination] = layer[destination](
                    current[destination][:rows],
                    current[source],
                    table.neighbor[:rows],
                    table.mask[:rows],
                    None if edge_attr is None else edge_attr[destination][:rows],
                )
            current = following
        return current
