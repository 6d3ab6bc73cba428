"""LSTTM (Xie et al., WSDM 2022): a short-term and a long-term graph, a gate and a DeepFM head.

The long-term graph's vectors come in with the batch, as of the start of its day: they are trained on their
own (``graphrec.training.long_term``), and no gradient of the click loss reaches them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from graphrec.encoders.base import NodeEncoder
from graphrec.encoders.vector_table import VectorTable
from graphrec.models.inputs import ClickBatch, GraphInput, InputSizes, NodeFields
from graphrec.models.preference_fields import NUM_PREFERENCE_DENSE, NUM_PREFERENCE_FIELDS, PreferenceFields
from graphrec.nn import ConcatenationFusion, DeepFM, FieldEmbedding, LongShortTermGate
from graphrec.nn.bipartite_gat import BipartiteGAT, FieldInput, NodeNeighbors
from samplers import NodeType

FieldPooling = Literal["concatenation", "sum"]
SOURCE_TYPE = {"user": "item", "item": "user"}


class ShortTermGraph(nn.Module):
    """Field embeddings of users and items, and graph attention over their most recent clicks (section 3.2).

    The input vector of a node is its field vectors side by side ("concatenation"), or their sum, which costs
    a fraction where nodes and fields are many. Node types with an encoder have its vectors as well, through a
    linear map. Where "seeds" alone are encoded, one learned vector stands in for nodes as neighbours, be they
    seeds or not, so that a row's score does not depend on the batch; that takes a single layer. With a table
    of vectors computed before (``graphrec.encoders.vector_table``), all rows have the encoder's vectors: rows
    that the batch encodes have new ones, which learn and are written in training; the others their last one
    as of the row's time or before, or the learned vector where the table has none.
    """

    def __init__(
        self,
        sizes: InputSizes,
        *,
        channels: int = 16,
        num_layers: int = 2,
        edge_channels: int = 0,
        node_channels: int = 0,
        self_term: bool = False,
        field_pooling: FieldPooling = "concatenation",
        encoders: Mapping[NodeType, NodeEncoder[Any]] | None = None,
        encoded_nodes: Literal["all", "seeds"] = "all",
        vector_tables: Mapping[NodeType, VectorTable] | None = None,
    ) -> None:
        super().__init__()
        self.field_pooling, self.encoded_nodes = field_pooling, encoded_nodes
        encoders = {} if encoders is None else encoders
        vector_tables = {} if vector_tables is None else vector_tables
        self.fields = nn.ModuleDict(
            {
                "user": FieldEmbedding(sizes.user_fields, channels),
                "item": FieldEmbedding(sizes.item_fields, channels, num_bag_categories=sizes.item_bag),
            }
        )
        unknown = sorted(set(encoders) - set(self.fields))
        if unknown:
            raise ValueError(f"encoders are of node types {list(self.fields)}, got {unknown}")
        _check_tables(vector_tables, encoders, encoded_nodes)
        if encoders.keys() - vector_tables.keys() and encoded_nodes == "seeds" and num_layers > 1:
            raise ValueError(
                f'encoded_nodes="seeds" goes with one layer, not {num_layers}: take "all", or vector_tables '
                "for all encoders"
            )
        self.encoders, self.vector_tables = nn.ModuleDict(encoders), nn.ModuleDict(vector_tables)
        self.encoder_projection = nn.ModuleDict(
            {name: nn.Linear(encoder.out_channels, channels) for name, encoder in encoders.items()}
        )
        self.not_encoded = nn.ParameterDict({name: torch.zeros(channels) for name in encoders})
        in_channels = {
            name: (embedding.num_fields if field_pooling == "concatenation" else 1) * channels
            + node_channels
            + (channels if name in encoders else 0)
            for name, embedding in self.field_embeddings()
        }
        self.edge_channels = edge_channels
        self.gat = BipartiteGAT(
            in_channels,
            SOURCE_TYPE,
            channels,
            num_layers=num_layers,
            edge_channels=edge_channels,
            self_term=self_term,
        )

    def field_embeddings(self) -> list[tuple[NodeType, FieldEmbedding]]:
        """Return the embedding of each node type's fields."""
        return [(name, module) for name, module in self.fields.items() if isinstance(module, FieldEmbedding)]

    def forward(self, graph: GraphInput) -> dict[NodeType, Tensor]:
        """Return the short-term vectors of the seeds of both node types, (num distinct seeds, channels)."""
        x, own_x = dict[NodeType, Tensor | FieldInput](), dict[NodeType, Tensor | FieldInput]()
        for name, embedding in self.field_embeddings():
            dense = graph.node_dense[name]
            if name not in self.encoders:
                x[name] = self._input(embedding, graph.fields[name], dense)
                continue
            if name in self.vector_tables:
                features = self._with_stored(name, graph)
                x[name] = self._input(embedding, graph.fields[name], torch.cat([dense, features], 1))
                continue
            vectors = self._encoded(name, graph)
            seeds = len(vectors)
            own_x[name] = self._input(
                embedding, graph.fields[name][:seeds], torch.cat([dense[:seeds], vectors], 1)
            )
            if self.encoded_nodes == "all":
                x[name] = own_x.pop(name)
            else:
                others = self.not_encoded[name].expand(len(dense), -1)
                x[name] = self._input(embedding, graph.fields[name], torch.cat([dense, others], 1))
        edge_attr = graph.edge_attr if self.edge_channels else None
        return self.gat(x, graph.neighbors, graph.num_nodes_after_hop, edge_attr, own_x=own_x)

    def train(self, mode: bool = True) -> "ShortTermGraph":
        """Switch dropout on or off, but leave it off in encoders that do not learn."""
        super().train(mode)
        _train_learning(self.encoders, mode)
        return self

    def _input(self, embedding: FieldEmbedding, fields: NodeFields, dense: Tensor) -> Tensor | FieldInput:
        bag = fields.bag if embedding.num_bag_categories else None
        if self.field_pooling == "concatenation":
            return FieldInput(embedding, fields.codes, bag, dense)
        return torch.cat([embedding.pooled(fields.codes, bag), dense], dim=1)

    def _encoded(self, name: NodeType, graph: GraphInput) -> Float[Tensor, "num_encoded _"]:
        """Return the encoder's vectors of the first rows, or of all."""
        after_hop = graph.num_nodes_after_hop[name]
        wanted = after_hop[0 if self.encoded_nodes == "seeds" else -1]
        vectors: Tensor = self.encoder_projection[name](self._fresh(name, graph))
        if wanted < len(vectors) < after_hop[-1]:
            raise ValueError(
                f"the batch has the input of {len(vectors)} nodes of type {name!r}, {wanted} of them seeds: "
                "EncodedNodes(share=...) is for a model with vector_tables; give it a VectorTable, or take "
                "share=0"
            )
        if len(vectors) != wanted:
            raise ValueError(
                f"the model encodes {self.encoded_nodes!r} nodes of type {name!r}, here {wanted}, the batch "
                f"has the input of {len(vectors)}: EncodedNodes(nodes=...) must be the model's encoded_nodes "
                "(and share 0 where it has no vector_tables)"
            )
        return vectors

    def _fresh(self, name: NodeType, graph: GraphInput) -> Float[Tensor, "num_encoded _"]:
        """Return the encoder's own vectors of the rows that the batch encodes."""
        if name not in graph.encoder_inputs:
            raise ValueError(
                f"nodes of type {name!r} have an encoder and the batch has no input for it: give ClickData "
                f"the encoders={{{name!r}: EncodedNodes(...)}}"
            )
        vectors: Tensor = self.encoders[name](graph.encoder_inputs[name])
        return vectors

    def _with_stored(self, name: NodeType, graph: GraphInput) -> Float[Tensor, "num_rows _"]:
        """Return features of all rows: of new vectors, of the table's, or the learned one; keep the new."""
        fresh, rows, table = self._fresh(name, graph), graph.encoder_rows[name], self.vector_tables[name]
        assert isinstance(table, VectorTable)
        node, time = graph.node[name], graph.node_time[name]
        stored = table.read(node, time)
        if self.training:
            table.write(node[rows], time[rows], fresh.detach())
        # under autocast new vectors may be bfloat16, stored ones are not
        dtype = torch.promote_types(fresh.dtype, stored.vector.dtype)
        vector = stored.vector.to(dtype).index_copy(0, rows, fresh.to(dtype))
        known = stored.known.index_fill(0, rows, True)
        projected: Tensor = self.encoder_projection[name](vector)
        return torch.where(known[:, None], projected, self.not_encoded[name])


def _check_tables(
    tables: Mapping[NodeType, VectorTable],
    encoders: Mapping[NodeType, NodeEncoder[Any]],
    encoded_nodes: Literal["all", "seeds"],
) -> None:
    if not tables:
        return
    if encoded_nodes == "all":
        raise ValueError('with encoded_nodes="all" nothing is read from vector_tables: take "seeds"')
    for name, table in tables.items():
        if name not in encoders:
            raise ValueError(f"vector_tables are of node types with an encoder, got {name!r}")
        channels = table.vector.shape[2]
        if channels != encoders[name].out_channels:
            raise ValueError(
                f"the encoder of {name!r} has vectors of {encoders[name].out_channels} channels, its table "
                f"of {channels}"
            )


class LongTermGraph(nn.Module):
    """ID embeddings of users and all items in one space, and graph attention over random neighbours (3.3).

    Rows beyond the known nodes (unseen IDs) have vectors of their own like any other. Node types with an
    encoder have a linear map of its vectors added to their embeddings, which is beyond the paper; the caller
    computes these vectors (``graphrec.training.long_term``).
    """

    def __init__(
        self,
        num_nodes: Mapping[NodeType, int],
        *,
        channels: int = 16,
        num_layers: int = 2,
        self_term: bool = False,
        encoders: Mapping[NodeType, NodeEncoder[Any]] | None = None,
    ) -> None:
        super().__init__()
        encoders = {} if encoders is None else encoders
        unknown = sorted(set(encoders) - set(num_nodes))
        if unknown:
            raise ValueError(f"encoders are of node types {list(num_nodes)}, got {unknown}")
        self.embedding = nn.ModuleDict(
            {name: nn.Embedding(count, channels) for name, count in num_nodes.items()}
        )
        for table in self.embedding.values():
            nn.init.normal_(table.weight, std=channels**-0.5)  # type: ignore[arg-type]
        self.gat = BipartiteGAT(
            dict.fromkeys(num_nodes, channels),
            SOURCE_TYPE,
            channels,
            num_layers=num_layers,
            activation=None,
            self_term=self_term,
        )
        self.encoders = nn.ModuleDict(encoders)
        self.encoder_projection = nn.ModuleDict(
            {name: nn.Linear(one.out_channels, channels, bias=False) for name, one in encoders.items()}
        )

    def forward(
        self,
        node: Mapping[NodeType, Int64[Tensor, " _"]],
        neighbors: Mapping[NodeType, NodeNeighbors],
        num_nodes_after_hop: Mapping[NodeType, Sequence[int]],
        encoded: Mapping[NodeType, Float[Tensor, "_ _"]] | None = None,
    ) -> dict[NodeType, Tensor]:
        """Return the long-term vectors of the seeds of both node types, (num distinct seeds, channels).

        Args:
            node: rows of each type's table, all of the subgraph's.
            neighbors: of the rows, from ``merge_neighbors``.
            num_nodes_after_hop: the subgraph's own.
            encoded: the encoders' vectors of all rows, of each node type with an encoder.

        """
        x = {name: table(node[name]) for name, table in self.embedding.items()}
        for name, projection in self.encoder_projection.items():
            assert encoded is not None, "node types with an encoder need its vectors"
            x[name] = x[name] + projection(encoded[name])
        return self.gat(x, neighbors, num_nodes_after_hop)

    def train(self, mode: bool = True) -> "LongTermGraph":
        """Switch dropout on or off, but leave it off in encoders that do not learn."""
        super().train(mode)
        _train_learning(self.encoders, mode)
        return self


def _train_learning(encoders: nn.ModuleDict, mode: bool) -> None:
    """Put encoders into training or evaluation mode, those that do not learn always into the latter."""
    for encoder in encoders.values():
        encoder.train(mode and any(parameter.requires_grad for parameter in encoder.parameters()))


class LSTTM(nn.Module):
    """The short-term graph, the gate (4)-(5) and the DeepFM head (6); equation (9) without meta-learning.

    The literal form has one field for the fused user vector, one for the target item's ID embedding, and the
    contexts. Extensions beyond the paper, each an option:

    - ``item_vectors``: the target item's own short-term and long-term vectors are fields of the head, and so
      the inner product of the user's and the item's long-term vectors enters the score.
    - ``raw_fields``: user and item fields, which the paper reads through the short-term graph only, are also
      fields of the head, through the same embedding tables.
    - ``sizes.dense``: past counts as dense features of the head, as in the baselines.
    - ``edge_channels``: attributes of the edges (type, age) in the attention of the short-term graph.
    - ``node_channels``: further features of its nodes (degrees as of the query time).
    - ``encoders``: node-feature encoders of users or items, by node type, as further features of the nodes of
      the short-term graph. They learn with the rest, unless their parameters take no gradient.
      ``encoded_nodes``: "all" of a batch, or with one layer the "seeds" alone, which are far fewer; with
      ``vector_tables`` (``graphrec.encoders.vector_table``) the seeds and as many others as the batch
      encodes, and the last vectors of the rest, with any number of layers.
    - ``preference_channels``: preference vectors of the batch, the bias included, as two more fields of the
      head and three dense features (``PreferenceFields``); 0 for none.

    Args:
        sizes: numbers of codes of the inputs.
        long_channels: size of the long-term vectors, 0 to leave the long-term graph out.
        channels: size of every vector (paper: 16).
        fusion: "gate", or "concatenation" for the ablation.

    """

    def __init__(
        self,
        sizes: InputSizes,
        *,
        long_channels: int = 16,
        channels: int = 16,
        num_layers: int = 2,
        edge_channels: int = 0,
        node_channels: int = 0,
        self_term: bool = False,
        field_pooling: FieldPooling = "concatenation",
        fusion: Literal["gate", "concatenation"] = "gate",
        item_vectors: bool = False,
        raw_fields: bool = False,
        preference_channels: int = 0,
        encoders: Mapping[NodeType, NodeEncoder[Any]] | None = None,
        encoded_nodes: Literal["all", "seeds"] = "all",
        vector_tables: Mapping[NodeType, VectorTable] | None = None,
        hidden_channels: Sequence[int] = (128, 128),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.long_channels, self.dense = long_channels, sizes.dense
        self.item_vectors, self.raw_fields = item_vectors, raw_fields
        self.short_term = ShortTermGraph(
            sizes,
            channels=channels,
            num_layers=num_layers,
            edge_channels=edge_channels,
            node_channels=node_channels,
            self_term=self_term,
            field_pooling=field_pooling,
            encoders=encoders,
            encoded_nodes=encoded_nodes,
            vector_tables=vector_tables,
        )
        # d_j of equation (5), and the contexts c of equation (6)
        self.item_and_context = FieldEmbedding((sizes.num_items + 1, *sizes.context_fields), channels)
        num_fields = 1 + self.item_and_context.num_fields
        if long_channels:
            self.long_projection = nn.Linear(long_channels, channels, bias=False)
            fusions = {"gate": LongShortTermGate, "concatenation": ConcatenationFusion}
            self.fusion = fusions[fusion](channels, channels)
        if item_vectors:
            num_fields += 1 + bool(long_channels)
        if raw_fields:
            num_fields += sum(embedding.num_fields for _, embedding in self.short_term.field_embeddings())
        dense_channels = sizes.dense + (1 if item_vectors and long_channels else 0)
        self.preference = PreferenceFields(preference_channels, channels) if preference_channels else None
        if self.preference is not None:
            num_fields += NUM_PREFERENCE_FIELDS
            dense_channels += NUM_PREFERENCE_DENSE
        self.head = DeepFM(
            num_fields,
            channels,
            dense_channels=dense_channels,
            hidden_channels=hidden_channels,
            dropout=dropout,
        )

    def forward(self, batch: ClickBatch) -> Float[Tensor, " num_rows"]:
        """Return the logit of a click for each impression."""
        if batch.graph is None:
            raise ValueError("LSTTM reads the short-term graph: the batch has none")
        short = self.short_term(batch.graph)
        user, item_short = short["user"][batch.graph.user_row], short["item"][batch.graph.item_row]
        vectors, linear = self.item_and_context(torch.cat([batch.item_id[:, None], batch.context], dim=1))
        dense = batch.dense[:, : self.dense]
        fields = [vectors]
        if self.long_channels:
            # the gradient block of section 3.5: the tables that these rows come from are not trained by L_T
            long_user, long_item = batch.long_user.detach(), batch.long_item.detach()
            user, _ = self.fusion(user, self.long_projection(long_user), vectors[:, 0])
            if self.item_vectors:
                fields.append(self.long_projection(long_item)[:, None])
                dense = torch.cat([dense, (long_user * long_item).sum(dim=-1, keepdim=True)], dim=-1)
        if self.item_vectors:
            fields.append(item_short[:, None])
        if self.raw_fields:
            values_of = {"user": batch.user, "item": batch.item}
            for name, embedding in self.short_term.field_embeddings():
                values = values_of[name]
                raw, raw_linear = embedding(
                    values.codes, values.bag if embedding.num_bag_categories else None
                )
                fields.append(raw)
                linear = linear + raw_linear
        if self.preference is not None:
            preferred, preference_dense = self.preference(batch)
            fields.append(preferred)
            dense = torch.cat([dense, preference_dense], dim=1)
        return self.head(torch.cat([user[:, None], *fields], dim=1), linear, dense)
