"""A two-tower model of what users like: fields and ID of a user, of an item, and their dot product.

Each side's fields and ID go through an MLP of its own, which returns a vector and a bias, as in Covington et
al., "Deep Neural Networks for YouTube Recommendations", RecSys 2016, with a learned tower on both sides. The
vectors are what :mod:`graphrec.training.preference` keeps.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from graphrec.models.inputs import InputSizes, NodeFields
from graphrec.nn import FieldEmbedding
from samplers import NodeType


class TwoTower(nn.Module):
    r"""Score a pair by two towers.

    .. math:: y = f(u)^\top g(i) + b(u) + c(i)

    ``f`` and ``b`` come from one MLP over the vectors of the user's ID and fields, ``g`` and ``c`` from one
    over the item's; the first-order weights of IDs and fields are added to the biases. The last row of each
    ID table stands for every ID that is not known.

    Args:
        sizes: numbers of codes; ``num_users`` and ``num_items`` are the known IDs.
        channels: size of ``f`` and ``g``.
        embedding_channels: size of the vector of an ID or field.
        hidden_channels: hidden layer of each tower.

    """

    def __init__(
        self,
        sizes: InputSizes,
        *,
        channels: int = 16,
        embedding_channels: int = 16,
        hidden_channels: int = 64,
    ) -> None:
        super().__init__()
        self.unknown_id: dict[NodeType, int] = {"user": sizes.num_users, "item": sizes.num_items}
        self.fields = nn.ModuleDict(
            {
                "user": FieldEmbedding((sizes.num_users + 1, *sizes.user_fields), embedding_channels),
                "item": FieldEmbedding(
                    (sizes.num_items + 1, *sizes.item_fields),
                    embedding_channels,
                    num_bag_categories=sizes.item_bag,
                ),
            }
        )
        self.tower = nn.ModuleDict()
        for name, embedding in self.fields.items():
            assert isinstance(embedding, FieldEmbedding)
            # a product of two vectors of the usual width 0.01 has next to no gradient for some epochs
            nn.init.normal_(embedding.table.weight, std=0.05)
            self.tower[name] = nn.Sequential(
                nn.Linear(embedding.num_fields * embedding_channels, hidden_channels),
                nn.ReLU(),
                nn.Linear(hidden_channels, channels + 1),
            )

    def encode(
        self, node_type: NodeType, node_id: Int64[Tensor, " num_nodes"], fields: NodeFields
    ) -> Float[Tensor, "num_nodes channels_and_bias"]:
        """Return the vectors of nodes and, as their last column, the biases.

        Args:
            node_type: "user" or "item".
            node_id: rows of the ID table.
            fields: codes of the same nodes.

        """
        embedding = self.fields[node_type]
        assert isinstance(embedding, FieldEmbedding)
        codes = torch.cat([node_id[:, None], fields.codes], dim=1)
        vectors, linear = embedding(codes, fields.bag if embedding.num_bag_categories else None)
        out: Tensor = self.tower[node_type](vectors.flatten(1))
        # the first-order weights belong to the bias, the last column
        return out + functional.pad(linear[:, None], (out.shape[1] - 1, 0))


def preference_score(
    user: Float[Tensor, "num_rows channels_and_bias"], item: Float[Tensor, "num_rows channels_and_bias"]
) -> Float[Tensor, " num_rows"]:
    """Return the logit of pairs: dot products of the vectors plus both biases, the last columns."""
    return (user[:, :-1] * item[:, :-1]).sum(dim=1) + user[:, -1] + item[:, -1]
