"""All past events of each query, ragged and in time order."""

from collections.abc import Mapping

import torch
from jaxtyping import Int64
from torch import Tensor

from samplers.csr import TemporalCSR
from samplers.neighbors import EdgeType, EventHistory
from samplers.queries import (
    Bound,
    Engine,
    check_options,
    check_queries,
    compiled_queries,
    count_edges,
    expand_ranges,
    use_compiled,
    visible_edges,
)
from samplers.tables import with_zero


class EventHistorySampler:
    """All visible events of each seed, or the last ``max_events`` of them, oldest first.

    Args:
        csr: rows are seeds, columns neighbours. A mapping of several edge types that share their rows gives
            one merged history, whose ``edge_type`` numbers the mapping's keys in order.
        max_events: keep the most recent only; None for all.
        bound: "strict" sees ``edge_time < seed_time``, "inclusive" also ``edge_time == seed_time``.
        window: see only ``edge_time >= seed_time - window``; None for no limit.
        engine: as in ``OneHopSampler``.

    Order is by (time, edge id), then by edge type. Edges not known by ``seed_time`` (same bound) are left
    out, and do not count towards ``max_events``. A result is as large as the histories themselves.

    """

    def __init__(
        self,
        csr: TemporalCSR | Mapping[EdgeType, TemporalCSR],
        *,
        max_events: int | None = None,
        bound: Bound = "strict",
        window: int | None = None,
        engine: Engine = "auto",
    ) -> None:
        check_options(bound, window)
        if max_events is not None and max_events < 0:
            raise ValueError(f"max_events must be at least 0, or None for all, got {max_events}")
        self.csrs = [csr] if isinstance(csr, TemporalCSR) else list(csr.values())
        if not self.csrs:
            raise ValueError("a history needs at least one edge type, got none")
        self.is_typed = not isinstance(csr, TemporalCSR)
        self.max_events, self.bound, self.window, self.engine = max_events, bound, window, engine
        self.is_compiled = all(use_compiled(engine, csr.device) for csr in self.csrs)

    def sample(
        self, seed: Int64[Tensor, " num_seeds"], seed_time: Int64[Tensor, " num_seeds"]
    ) -> EventHistory:
        """Read the histories as of each seed's time.

        Raises:
            ValueError: a seed is not a row of a CSR.

        """
        events = [self._events(csr, seed, seed_time) for csr in self.csrs]
        query, neighbor, time, edge_id = (torch.cat(columns) for columns in zip(*events, strict=True))
        edge_type = torch.arange(len(events), device=query.device).repeat_interleave(
            torch.tensor([len(columns[0]) for columns in events], device=query.device)
        )
        columns = [query, neighbor, time, edge_id, edge_type]
        if len(events) > 1:
            columns = _sorted_events(columns)
        columns, count = self._last_events(columns, len(seed))
        ptr = with_zero(count.cumsum(0))
        return EventHistory(ptr, columns[1], columns[2], columns[3], columns[4] if self.is_typed else None)

    def _events(self, csr: TemporalCSR, seed: Tensor, seed_time: Tensor) -> tuple[Tensor, ...]:
        check_queries(csr, seed, seed_time)
        if self.is_compiled:
            return self._events_compiled(csr, seed, seed_time)
        edges = visible_edges(csr, seed, seed_time, bound=self.bound, window=self.window)
        count = edges.count if self.max_events is None else edges.count.clamp(max=self.max_events)
        query, number = expand_ranges(edges.count - count, count)
        position = edges.position(query, number)
        columns = [csr.look_up(name, position).long() for name in ("col", "edge_time", "edge_id")]
        return query, *columns

    def _events_compiled(self, csr: TemporalCSR, seed: Tensor, seed_time: Tensor) -> tuple[Tensor, ...]:
        from samplers.compiled import one_hop, run

        count = count_edges(csr, seed, seed_time, bound=self.bound, window=self.window)
        if self.max_events is not None:
            count = count.clamp(max=self.max_events)
        ptr = with_zero(count.cumsum(0))
        columns = [torch.empty(int(ptr[-1]), dtype=torch.int64) for _ in range(3)]
        queries = compiled_queries(seed, seed_time, self.bound, self.window)
        arrays = [column.numpy() for column in columns]
        run(one_hop.history, len(seed), csr.arrays, *queries, ptr.numpy(), *arrays, least=64)
        query = torch.arange(len(seed)).repeat_interleave(count, output_size=len(columns[0]))
        return query, *columns

    def __repr__(self) -> str:
        csrs = ", ".join(map(repr, self.csrs))
        return (
            f"EventHistorySampler({csrs}, max_events={self.max_events}, bound={self.bound!r}, "
            f"window={self.window}, engine={'numba' if self.is_compiled else 'torch'!r})"
        )

    def _last_events(self, columns: list[Tensor], num_seeds: int) -> tuple[list[Tensor], Tensor]:
        """Drop all but the last ``max_events`` of each query; columns are sorted by query."""
        query = columns[0]
        count = torch.bincount(query, minlength=num_seeds)
        if self.max_events is None:
            return columns, count
        place_from_end = count.cumsum(0)[query] - torch.arange(len(query), device=query.device)
        keep = place_from_end <= self.max_events
        return [column[keep] for column in columns], count.clamp(max=self.max_events)


def _sorted_events(columns: list[Tensor]) -> list[Tensor]:
    """Sort by (query, time, edge id) and leave ties in the order of the edge types."""
    for key in (3, 2, 0):  # stable sorts, the greatest key last
        order = torch.argsort(columns[key], stable=True)
        columns = [column[order] for column in columns]
    return columns
