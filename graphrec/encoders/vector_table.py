"""Vectors that an encoder computed before, for nodes that a mini-batch reaches and does not encode anew.

A vector carries the time that it is as of. It may be read by queries at that time or later alone, and only
while it is not too old: so no query reads what was computed after it, whatever the order of training.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from graph_builders.option_checks import check_whole_number

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
    that. Where periods come in the order of time, one slot is as good as many. Where they are shuffled
    (``click_loader(shuffle=True)``), take as many slots as training has periods: a slot keeps the last vector
    that was computed, and where that is as of later than a query, the query has none. On 124 hours of
    KuaiRand-Pure, in the third epoch, 60% of a batch's other users had a vector in a table of one slot, 76%
    with 4 and 81% with 124; in the order of time 80% with one. Memory grows with the slots.

    Args:
        num_nodes: rows of the node type.
        channels: of a vector.
        period: length of a period, in the unit of times.
        max_age: a vector older than that is not read; None: no limit.
        num_slots: vectors of a node; 1 for periods in the order of time, else one for each period.

    Raises:
        ValueError: a number that is not whole or below 1, or a ``max_age`` that is not whole or negative.

    """

    vector: Tensor
    as_of: Tensor

    def __init__(
        self, num_nodes: int, channels: int, *, period: int, max_age: int | None = None, num_slots: int = 1
    ) -> None:
        super().__init__()
        sizes = {"num_nodes": num_nodes, "channels": channels, "period": period, "num_slots": num_slots}
        for name, value in sizes.items():
            check_whole_number(f"VectorTable's {name}", value, 1)
        if max_age is not None:
            check_whole_number("VectorTable's max_age", max_age, 0)
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
        """Keep vectors of nodes as of times; of several for one place the latest, and of a time the last.

        Raises:
            ValueError: the table has no row for a node, or a vector is not finite; nothing is kept then.

        """
        self._check(node, vector)
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
        """Return each node's latest vector as of its query's time or before, unless it is too old.

        Raises:
            ValueError: the table has no row for a node.

        """
        self._check(node)
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
        """Compare what would be read with vectors computed now.

        Raises:
            ValueError: as :meth:`read`.

        """
        stored = self.read(node, time)
        known = stored.known
        difference = (stored.vector - fresh)[known].norm() / fresh[known].norm()
        return StaleError(
            known_share=float(known.double().mean()),
            relative_error=float(difference),
            mean_age=float(stored.age[known].double().mean()),
        )

    def _check(self, node: Tensor, vector: Tensor | None = None) -> None:
        """Check nodes and vectors, with one look at the result: each look waits for a GPU."""
        num_nodes = len(self.as_of)
        right = ((node >= 0) & (node < num_nodes)).all()
        if vector is not None:
            right &= vector.sum().isfinite()  # one pass; a sum that overflows alone is looked at below
        if bool(right):
            return
        outside = node[(node < 0) | (node >= num_nodes)]
        if len(outside):
            raise ValueError(
                f"the table has rows for the nodes 0 to {num_nodes - 1}, got {int(outside[0])}: make it with "
                "a row for every node of the graph, unseen ones included (graph.num_nodes)"
            )
        assert vector is not None
        wrong = node[~vector.isfinite().all(dim=1)]
        if len(wrong):
            raise ValueError(
                f"{len(wrong)} of {len(node)} vectors are not finite, the first of node {int(wrong[0])}: "
                "they would be read as features; look for a learning rate that is too high"
            )
