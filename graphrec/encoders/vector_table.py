"""Vectors that an encoder computed before, for nodes that a mini-batch reaches and does not encode anew.

A vector carries the time that it is as of. It may be read by queries at that time or later alone, and only
while it is not too old: so no query reads what was computed after it, whatever the order of training.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

NEVER = torch.iinfo(torch.int64).min


class StoredVectors(NamedTuple):
    """What a table has for queries.

    Attributes:
        vector: zero where there is none.
        known: whether there is one.
        age: time of the query minus that of the vector, in the unit of times; 0 where there is none.

    """

    vector: Float[Tensor, "num_queries channels"]
    known: Bool[Tensor, " num_queries"]
    age: Int64[Tensor, " num_queries"]


class StaleError(NamedTuple):
    """How far stored vectors are from those computed now.

    Attributes:
        known_share: of the queries that the table has a vector for.
        relative_error: norm of the difference over the norm of the vectors computed now, all queries with a
            stored one together; NaN without any.
        mean_age: of the stored vectors, in the unit of times; NaN without any.

    """

    known_share: float
    relative_error: float
    mean_age: float


class VectorTable(nn.Module):
    """The last vectors of each node, one for each of some periods, on the model's device.

    A node's vectors as of different periods stand in ``num_slots`` places, by the period's number modulo
    that: with as many slots as training has periods, they may come in any order and every one is kept; with
    one, the last computed is kept, and later periods should come later.

    Args:
        num_nodes: rows of the node type.
        channels: of a vector.
        period: length of a period, in the unit of times.
        max_age: a vector older than that is not read; None: no limit.
        num_slots: vectors of a node.

    Raises:
        ValueError: a number below 1, or a negative ``max_age``.

    """

    vector: Tensor
    as_of: Tensor

    def __init__(
        self, num_nodes: int, channels: int, *, period: int, max_age: int | None = None, num_slots: int = 1
    ) -> None:
        super().__init__()
        if min(num_nodes, channels, period, num_slots) < 1 or (max_age is not None and max_age < 0):
            raise ValueError(
                "num_nodes, channels, period and num_slots must be at least 1 and max_age not negative, got "
                f"{num_nodes}, {channels}, {period}, {num_slots} and {max_age}"
            )
        self.period, self.max_age, self.num_slots = period, max_age, num_slots
        self.register_buffer("vector", torch.zeros(num_nodes, num_slots, channels))
        self.register_buffer("as_of", torch.full((num_nodes, num_slots), NEVER))

    @torch.no_grad()
    def write(
        self,
        node: Int64[Tensor, " num_queries"],
        time: Int64[Tensor, " num_queries"],
        vector: Float[Tensor, "num_queries channels"],
    ) -> None:
        """Keep vectors of nodes as of times; of several for one place the latest, and of a time the last."""
        place = node * self.num_slots + (time // self.period) % self.num_slots
        order = time.argsort(stable=True)
        order = order[place[order].argsort(stable=True)]
        is_last = torch.ones_like(place, dtype=torch.bool)
        is_last[:-1] = place[order][1:] != place[order][:-1]
        kept = order[is_last]
        self.vector.flatten(0, 1)[place[kept]] = vector[kept].to(self.vector.dtype)
        self.as_of.view(-1)[place[kept]] = time[kept]

    @torch.no_grad()
    def read(self, node: Int64[Tensor, " num_queries"], time: Int64[Tensor, " num_queries"]) -> StoredVectors:
        """Return each node's latest vector as of its query's time or before, unless it is too old."""
        as_of = self.as_of[node]
        allowed = (as_of != NEVER) & (as_of <= time[:, None])
        if self.max_age is not None:
            allowed &= as_of >= (time - self.max_age)[:, None]
        latest, slot = as_of.masked_fill(~allowed, NEVER).max(dim=1)
        known = latest != NEVER
        vector = self.vector[node, slot] * known[:, None]
        return StoredVectors(vector=vector, known=known, age=(time - latest).where(known, 0))

    @torch.no_grad()
    def error(
        self,
        node: Int64[Tensor, " num_queries"],
        time: Int64[Tensor, " num_queries"],
        fresh: Float[Tensor, "num_queries channels"],
    ) -> StaleError:
        """Compare what would be read with vectors computed now."""
        stored = self.read(node, time)
        known = stored.known
        difference = (stored.vector - fresh)[known].norm() / fresh[known].norm()
        return StaleError(
            known_share=float(known.double().mean()),
            relative_error=float(difference),
            mean_age=float(stored.age[known].double().mean()),
        )
