"""What the click models read: one mini-batch of impressions as tensors, and the sizes of its columns."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from graphrec.nn.bipartite_gat import NodeNeighbors
from samplers import NodeType


@dataclass(frozen=True, kw_only=True)
class InputSizes:
    """Number of codes of each categorical field, and the number of dense features.

    Code 0 of every field stands for a value that the training data did not hold. ``num_users`` is only for
    models that have an embedding of the user's ID.
    """

    num_items: int
    user_fields: tuple[int, ...]
    item_fields: tuple[int, ...]
    item_bag: int
    context_fields: tuple[int, ...]
    dense: int
    num_users: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class NodeFields:
    """Codes of nodes: single-valued fields, and one bag of values padded with 0 (no column: no bag)."""

    codes: Int64[Tensor, "num_nodes num_fields"]
    bag: Int64[Tensor, "num_nodes bag_size"]

    def __getitem__(self, row: Tensor | slice) -> "NodeFields":
        return NodeFields(codes=self.codes[row], bag=self.bag[row])

    def to(self, device: torch.device | str) -> "NodeFields":
        """Copy to another device."""
        return NodeFields(codes=self.codes.to(device), bag=self.bag.to(device))


@dataclass(frozen=True, kw_only=True, eq=False)
class GraphInput:
    """One sampled graph: who is in it, whose neighbours are where, and what the edges carry.

    Attributes:
        fields: field codes of every row of each node type's table.
        node_dense: further features of those rows (degrees as of the query time), or no column.
        neighbors: the neighbours of the rows that layers compute, by node type.
        edge_attr: attributes of those edges, (rows, num_neighbors, edge_channels), or no channel.
        num_nodes_after_hop: as in ``SampledSubgraph``.
        user_row, item_row: for each impression, its seed's row.
        encoder_inputs: for node types with a node-feature encoder, what its ``prepare`` returned for the
            encoded rows of the type's table; it has a method ``to``.
        encoder_rows: for these node types, which rows those are, the seeds first.
        node, node_time: for these node types, each row's node and the time that it is as of.

    """

    fields: dict[NodeType, NodeFields]
    node_dense: dict[NodeType, Float[Tensor, "_ _"]]
    neighbors: dict[NodeType, NodeNeighbors]
    edge_attr: dict[NodeType, Float[Tensor, "_ _ _"]]
    num_nodes_after_hop: dict[NodeType, list[int]]
    user_row: Int64[Tensor, " num_rows"]
    item_row: Int64[Tensor, " num_rows"]
    encoder_inputs: dict[NodeType, Any] = field(default_factory=dict)
    encoder_rows: dict[NodeType, Int64[Tensor, " _"]] = field(default_factory=dict)
    node: dict[NodeType, Int64[Tensor, " _"]] = field(default_factory=dict)
    node_time: dict[NodeType, Int64[Tensor, " _"]] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> "GraphInput":
        """Copy to another device."""
        moved = {
            name: NodeNeighbors(*(getattr(n, f.name).to(device) for f in fields(n)))
            for name, n in self.neighbors.items()
        }
        return GraphInput(
            fields={name: value.to(device) for name, value in self.fields.items()},
            node_dense={name: value.to(device) for name, value in self.node_dense.items()},
            neighbors=moved,
            edge_attr={name: value.to(device) for name, value in self.edge_attr.items()},
            num_nodes_after_hop=self.num_nodes_after_hop,
            user_row=self.user_row.to(device),
            item_row=self.item_row.to(device),
            encoder_inputs={name: value.to(device) for name, value in self.encoder_inputs.items()},
            encoder_rows={name: value.to(device) for name, value in self.encoder_rows.items()},
            node={name: value.to(device) for name, value in self.node.items()},
            node_time={name: value.to(device) for name, value in self.node_time.items()},
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceInput:
    """Past events of the impressions' users, the most recent first, padded on the right.

    Attributes:
        item_row: the item of each event, as a row of ``item_id`` and ``item``; any row where padded.
        mask: True for an event, False for padding.
        age: log(1 + hours from the event to the query) / 5; 0 where padded.
        item_id: the distinct items of all these sequences, as rows of the item ID table.
        item: their field codes.

    """

    item_row: Int64[Tensor, "num_rows length"]
    mask: Bool[Tensor, "num_rows length"]
    age: Float[Tensor, "num_rows length"]
    item_id: Int64[Tensor, " num_distinct"]
    item: NodeFields

    def to(self, device: torch.device | str) -> "SequenceInput":
        """Copy to another device."""
        return SequenceInput(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True, kw_only=True, eq=False)
class ClickBatch:
    """Impressions to score.

    Attributes:
        user, item: field codes of the user and the target item of each impression.
        item_id: rows of the item ID table; the last row stands for every unseen item.
        context: codes of the context fields.
        dense: numeric features (counts, rates), already scaled.
        label: 1 for a click.
        long_user, long_item: the long-term vectors of the user and the item as of the day's start; no column
            for a model that reads none.
        graph: the short-term graph around the impressions; None for a model that reads none.
        user_id: rows of the user ID table; the last row stands for every unseen user.
        sequences: past events of the users, by name; None for a model that reads none.
        preference_user, preference_item: preference vectors of the user and the item as of the day's start,
            the bias last; None for a model that reads none.

    """

    user: NodeFields
    item: NodeFields
    item_id: Int64[Tensor, " num_rows"]
    context: Int64[Tensor, "num_rows num_contexts"]
    dense: Float[Tensor, "num_rows num_dense"]
    label: Float[Tensor, " num_rows"]
    long_user: Float[Tensor, "num_rows long_channels"]
    long_item: Float[Tensor, "num_rows long_channels"]
    graph: GraphInput | None = None
    user_id: Int64[Tensor, " num_rows"] | None = None
    sequences: Mapping[str, SequenceInput] | None = None
    preference_user: Float[Tensor, "num_rows preference_channels"] | None = None
    preference_item: Float[Tensor, "num_rows preference_channels"] | None = None

    def __len__(self) -> int:
        return len(self.label)

    def to(self, device: torch.device | str) -> "ClickBatch":
        """Copy to another device."""
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "sequences"}
        moved: dict[str, Any] = {
            name: None if value is None else value.to(device) for name, value in columns.items()
        }
        if self.sequences is not None:
            moved["sequences"] = {name: value.to(device) for name, value in self.sequences.items()}
        return ClickBatch(**moved)
