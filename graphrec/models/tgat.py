"""TGAT as a click model (Xu et al., ICLR 2020): attention with encoded time over the same sampled graph."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from graphrec.models.field_ranker import FieldRanker
from graphrec.models.inputs import ClickBatch, GraphInput, InputSizes
from graphrec.models.lsttm import SOURCE_TYPE
from graphrec.nn import DeepFM
from graphrec.nn.time_attention import TGATLayer

LOG_AGE_SCALE = 5.0  # the last attribute of an edge is log(1 + hours) / 5


class TGATRanker(FieldRanker):
    """Score an impression from its fields, and its user's and item's vectors as of the query.

    A node enters with a linear map of its field vectors side by side. User and item vectors are fields of a
    DeepFM head beside the fields that the other click models have (the paper's head is an MLP over the two).

    Differences from the paper: the graph has two kinds of nodes, so each direction has weights of its own, as
    in LSTTM; neighbours at the second hop lie before the query, and their ages are counted from it (the
    paper: before the edge that leads to them); the most recent neighbours are sampled for each edge type.

    Args:
        sizes: numbers of codes of the inputs.
        edge_channels: attributes of an edge, the last of which is its log age, as ``ShortTermConfig`` with
            ``edge_features`` makes them.
        channels: size of every vector.
        time_channels: size of an encoded time.
        num_layers: layers, as many as the graph has hops.
        num_heads: heads of a layer (paper: 2).
        hidden_channels: hidden layers of the head.
        dropout: of the attention's weights and the head.

    """

    def __init__(
        self,
        sizes: InputSizes,
        *,
        edge_channels: int,
        channels: int = 16,
        time_channels: int = 16,
        num_layers: int = 2,
        num_heads: int = 2,
        hidden_channels: Sequence[int] = (128, 128),
        dropout: float = 0.0,
    ) -> None:
        if edge_channels < 1:
            raise ValueError("TGAT reads the ages of edges: sample them with edge_features=True")
        super().__init__(sizes, channels)
        self.num_layers = num_layers
        self.node_projection = nn.ModuleDict(
            {
                name: nn.Linear(embedding.num_fields * channels, channels)
                for name, embedding in (("user", self.user_fields), ("item", self.item_fields))
            }
        )
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    name: TGATLayer(
                        (channels, channels),
                        channels,
                        time_channels=time_channels,
                        edge_channels=edge_channels - 1,
                        num_heads=num_heads,
                        dropout=dropout,
                    )
                    for name in SOURCE_TYPE
                }
            )
            for _ in range(num_layers)
        )
        self.head = DeepFM(
            self.num_fields + len(SOURCE_TYPE),
            channels,
            dense_channels=sizes.dense,
            hidden_channels=hidden_channels,
            dropout=dropout,
        )

    def forward(self, batch: ClickBatch) -> Float[Tensor, " num_rows"]:
        """Return the logit of a click for each impression.

        Raises:
            ValueError: the batch has no graph.

        """
        if batch.graph is None:
            raise ValueError("TGAT reads the short-term graph: the batch has none")
        node = self.node_vectors(batch.graph)
        fields, linear = self.embed(batch)
        vectors = [node["user"][batch.graph.user_row], node["item"][batch.graph.item_row]]
        fields = torch.cat([fields, torch.stack(vectors, dim=1)], dim=1)
        return self.head(fields, linear, batch.dense[:, : self.dense])

    def node_vectors(self, graph: GraphInput) -> dict[str, Tensor]:
        """Return the vectors of the seeds of both node types, (num distinct seeds, channels)."""
        current = {}
        for name, embedding in (("user", self.user_fields), ("item", self.item_fields)):
            values = graph.fields[name]
            vectors, _ = embedding(values.codes, values.bag if embedding.num_bag_categories else None)
            current[name] = self.node_projection[name](vectors.flatten(1))
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, nn.ModuleDict)
            following = {}
            for name, source in SOURCE_TYPE.items():
                # rows that a later layer, or the head, still reads
                rows = graph.num_nodes_after_hop[name][self.num_layers - 1 - number]
                edges, attributes = graph.neighbors[name], graph.edge_attr[name][:rows]
                following[name] = layer[name](
                    current[name][:rows],
                    current[source],
                    edges.neighbor[:rows],
                    edges.mask[:rows],
                    torch.expm1(LOG_AGE_SCALE * attributes[..., -1]),
                    attributes[..., :-1],
                )
            current = following
        return current
