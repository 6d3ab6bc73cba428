"""Cold-start slices: how many events of a behaviour graph a row's user, or item, had before its time."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int16, Int64

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

    from graph_builders import BehaviorGraph

HISTORY_BUCKETS = (0, 1, 6, 21, 101)  # least count of each bucket
_MILLISECONDS = {"s": 1000, "ms": 1}


def bucket_names(least: tuple[int, ...] = HISTORY_BUCKETS) -> tuple[str, ...]:
    """Return what the buckets are called: 0, 1-5, 6-20, 21-100, 101+."""
    ends = [following - 1 for following in least[1:]]
    closed = [
        str(start) if start == end else f"{start}-{end}" for start, end in zip(least, ends, strict=False)
    ]
    return (*closed, f"{least[-1]}+")


def bucket_of(
    count: Int64[np.ndarray, " num_rows"], least: tuple[int, ...] = HISTORY_BUCKETS
) -> Int16[np.ndarray, " num_rows"]:
    """Return the bucket of each count, from 0."""
    return (np.searchsorted(np.asarray(least), count, side="right") - 1).astype(np.int16)


def past_events(graph: "BehaviorGraph", node_type: str, node: "Tensor", time: "Tensor") -> "Tensor":
    """Return how many events of any relation each node had that were known strictly before its time.

    Args:
        graph: the behaviour graph.
        node_type: ``user`` or ``item``.
        node: rows of the type, int64, (num_queries,).
        time: of each, int64, in the graph's time resolution.

    Returns:
        int64, (num_queries,).

    """
    import torch

    from samplers import count_edges

    count = torch.zeros_like(node)
    for edge_type, csr in graph.csrs().items():
        if edge_type[2] == node_type:
            count += count_edges(csr, node, time)
    return count


class HistorySlicer:
    """Puts each row into a bucket by the events that its user (item) had strictly before the row's time.

    All relations of the graph count; ``graph.view`` leaves some out first. Events that become known late
    count from when they are known. A user (item) that the graph does not know has no events.

    Args:
        graph: the behaviour graph; may hold events at and after the rows' times, which do not count.
        node_type: ``user`` or ``item``.

    """

    def __init__(self, graph: "BehaviorGraph", node_type: str) -> None:
        if node_type not in ("user", "item"):
            raise ValueError(f"node_type must be user or item, got {node_type!r}")
        self.graph = graph
        self.node_type = node_type
        self.name = f"{node_type}_history"
        self.values = bucket_names()

    def slice(self, frame: "pl.DataFrame") -> Int16[np.ndarray, " num_rows"]:
        """Return the bucket of each row of a frame with the columns ``user``, ``item`` and ``time_ms``.

        Raises:
            ValueError: the frame's IDs are of another type than the graph's.

        """
        import torch

        try:
            node = self.graph.ids[self.node_type].rows(frame[self.node_type])
        except ValueError as error:
            raise ValueError(f"the {self.node_type} column does not fit the graph: {error}") from error
        unit = _MILLISECONDS[self.graph.time_resolution]
        # a graph in seconds: an event of second s happened before t ms if s * 1000 < t, so t is rounded up
        time = torch.from_numpy(-(-frame["time_ms"].to_numpy() // unit))
        return bucket_of(past_events(self.graph, self.node_type, node, time).numpy())
