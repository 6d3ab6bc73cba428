"""A user's short-term vector in a model of one hop, without a subgraph.

Graph attention reads a neighbour through a projection of the neighbour's own features. In a period that is
the same for whoever has it as a neighbour, so it is a row of a table; a user's own features are sums of rows
of projected field tables. What is left to a request is its user's neighbours, and the attention over them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from graphrec.models.inputs import NodeFields
from graphrec.models.lsttm import ShortTermGraph
from graphrec.nn import GATConv
from graphrec.nn.bipartite_gat import FieldInput
from graphrec.serving.block_table import BlockTable
from graphrec.training.batches import STRATEGIES, ShortTermConfig, degree_features, edge_features
from samplers import EdgeType, NodeType, TemporalCSR


@dataclass(frozen=True, eq=False)
class UserNeighbors:
    """One user: degree features, and the neighbours of all edge types side by side."""

    dense: Float32[Tensor, "1 degree_channels"]
    item: Int64[Tensor, " num_neighbors"]
    mask: Bool[Tensor, "1 num_neighbors"]
    edge_attr: Float32[Tensor, "1 num_neighbors edge_channels"]


class OneHopUsers:
    """Encodes single users as of one time, as ``ShortTermGraph`` with one layer does in a batch.

    Args:
        model: with one layer.
        csrs: the short-term graph, both directions.
        config: how it is sampled.
        units_per_hour: units of time in an hour.
        time: of all queries.
        item_fields: field codes of all items.

    """

    def __init__(
        self,
        model: ShortTermGraph,
        csrs: Mapping[EdgeType, TemporalCSR],
        config: ShortTermConfig,
        *,
        units_per_hour: int,
        time: int,
        item_fields: NodeFields,
    ) -> None:
        (layer,) = model.gat.convs
        assert isinstance(layer, torch.nn.ModuleDict)
        conv = layer["user"]
        assert isinstance(conv, GATConv)
        self._model, self._conv, self._config, self._csrs = model, conv, config, csrs
        self._time, self._units_per_hour, self._item_fields = time, units_per_hour, item_fields
        self._embedding = dict(model.field_embeddings())
        into_user = [edge_type for edge_type in csrs if edge_type[2] == "user"]
        make = STRATEGIES[config.strategy]
        self._samplers = {
            name: make(csrs[name], config.num_neighbors, bound="strict", window=None) for name in into_user
        }
        self._relation = torch.arange(len(into_user)).repeat_interleave(config.num_neighbors)
        self._slot = torch.arange(len(self._relation))[None]
        self._sources = BlockTable(len(item_fields.codes))
        layers = [conv.lin_destination] + ([] if conv.lin_self is None else [conv.lin_self])
        weight = torch.cat([linear.weight.detach() for linear in layers])
        num_dense = config.degree_channels(len(into_user))
        by_fields, self._by_dense = weight.split([weight.shape[1] - num_dense, num_dense], dim=1)
        embedding = self._embedding["user"]
        if model.field_pooling == "sum":
            by_fields = by_fields.repeat(1, embedding.num_fields)
        tables = embedding.table.weight.detach().split(embedding.num_categories)
        parts = by_fields.split(embedding.channels, dim=1)
        self._user_table = torch.cat([table @ part.T for table, part in zip(tables, parts, strict=True)])

    def project_as(self, former: "OneHopUsers") -> None:
        """Make what users gather from items, for the items that the former one's users had."""
        self._sources.fill(former._sources.blocks, self._project_items)

    def sample(self, user: int) -> UserNeighbors:
        """Sample a user's neighbours."""
        node, time = torch.tensor([user]), torch.tensor([self._time])
        found = [sampler.sample(node, time, edge_type=name) for name, sampler in self._samplers.items()]
        item, edge_time, mask = (
            torch.cat([getattr(part, name) for part in found], dim=1)
            for name in ("node", "edge_time", "mask")
        )
        age = self._time - edge_time
        attr = edge_features(age, self._relation, mask, self._config, units_per_hour=self._units_per_hour)
        return UserNeighbors(self._degrees("user", node), item[0], mask, attr)

    def encode(
        self, codes: Int64[Tensor, "1 num_fields"], sampled: UserNeighbors
    ) -> Float32[Tensor, "1 channels"]:
        """Return the short-term vector of a user from its field codes and its neighbours."""
        fields = self._user_table[codes + self._embedding["user"].offset].sum(dim=1)
        projected = (fields + sampled.dense @ self._by_dense.T).split(
            self._conv.lin_destination.out_features, 1
        )
        out: Tensor = self._conv.attend(
            projected[0],
            self._sources.look_up(sampled.item, self._project_items),
            projected[1] if len(projected) > 1 else None,
            self._slot,
            sampled.mask,
            sampled.edge_attr if self._model.edge_channels else None,
        )
        return out

    def _project_items(self, items: Tensor) -> Tensor:
        embedding, fields = self._embedding["item"], self._item_fields[items]
        bag = fields.bag if embedding.num_bag_categories else None
        dense, linear = self._degrees("item", items), self._conv.lin_source
        if self._model.field_pooling == "concatenation":
            return FieldInput(embedding, fields.codes, bag, dense).project([linear], [len(items)])[0]
        out: Tensor = linear(torch.cat([embedding.pooled(fields.codes, bag), dense], dim=1))
        return out

    def _degrees(self, name: NodeType, node: Tensor) -> Tensor:
        return degree_features(self._csrs, name, node, torch.full_like(node, self._time), self._config)
