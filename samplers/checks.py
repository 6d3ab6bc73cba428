"""A check for users' own tests: nothing sampled lies at or after its query's time."""

from collections.abc import Mapping

from torch import Tensor

from samplers.neighbors import EdgeType, EventHistory, SampledNeighbors, SampledSubgraph
from samplers.queries import Bound, in_bound


def check_no_leak(
    batch: SampledNeighbors | EventHistory | SampledSubgraph,
    seed_time: Tensor | None = None,
    *,
    bound: Bound = "strict",
    available_time: Tensor | Mapping[EdgeType, Tensor] | None = None,
) -> None:
    """Raise if a sampled edge is one that its query may not know.

    Args:
        batch: what a sampler returned. The rows of a subgraph carry their times.
        seed_time: the queries' times, (num_seeds,); for all but subgraphs.
        bound: "strict" refuses edges at the query's time, "inclusive" allows them.
        available_time: when each edge became known, indexed by edge id; for a subgraph, by edge type.

    Raises:
        ValueError: names the first offending edge; or ``seed_time`` is missing.

    """
    if isinstance(batch, SampledSubgraph):
        if isinstance(available_time, Tensor):
            raise ValueError("give available_time of a subgraph as a mapping from edge types")
        for hop, edges_of_type in enumerate(batch.hops):
            for edge_type, edges in edges_of_type.items():
                time = batch.time[edge_type[2]][edges.first_row : edges.first_row + edges.num_rows]
                row, slot = edges.mask.nonzero(as_tuple=True)
                known = None if available_time is None else available_time.get(edge_type)
                where = f"hop {hop}, edge type {edge_type}, "
                _check(edges.edge_time[row, slot], edges.edge_id[row, slot], time[row], bound, known, where)
        return
    if seed_time is None or isinstance(available_time, Mapping):
        raise ValueError("neighbours and histories need seed_time, and one available_time tensor if any")
    if isinstance(batch, SampledNeighbors):
        row, slot = batch.mask.nonzero(as_tuple=True)
        edge_time, edge_id = batch.edge_time[row, slot], batch.edge_id[row, slot]
    else:
        row, edge_time, edge_id = batch.query_of_event(), batch.time, batch.edge_id
    _check(edge_time, edge_id, seed_time[row], bound, available_time, "")


def _check(
    edge_time: Tensor, edge_id: Tensor, time: Tensor, bound: Bound, available: Tensor | None, where: str
) -> None:
    known = edge_time if available is None else available[edge_id]
    leaked = (~(in_bound(edge_time, time, bound) & in_bound(known, time, bound))).nonzero()
    if len(leaked):
        i = int(leaked[0])
        raise ValueError(
            f"leak: {where}edge {int(edge_id[i])} of time {int(edge_time[i])}, known at {int(known[i])}, was "
            f"sampled for a query at {int(time[i])} (bound: {bound})"
        )
