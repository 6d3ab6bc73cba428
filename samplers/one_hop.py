"""What the one-hop samplers share: the checks, the choice of an engine, the keys of the draws, the result."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Int64
from torch import Generator, Tensor

from samplers.csr import TemporalCSR
from samplers.neighbors import EdgeType, SampledNeighbors
from samplers.queries import (
    Bound,
    Engine,
    VisibleEdges,
    check_num_neighbors,
    check_options,
    check_queries,
    compiled_queries,
    count_edges,
    use_compiled,
    visible_edges,
)
from samplers.random_numbers import FixedKey, Key, draw_key


class Loop(NamedTuple):
    """A compiled loop over queries: ``kernel(first, stop, *arguments)`` writes the results of a range.

    ``least`` is how many queries are worth another thread.
    """

    kernel: Any
    arguments: tuple[Any, ...]
    least: int


class OneHopSampler:
    """A strategy: which of the visible edges of each seed to take. Subclasses choose, in two engines.

    Args:
        csr: rows are seeds, columns neighbours.
        num_neighbors: K; -1 for all (as wide as the batch's longest row).
        bound: "strict" sees ``edge_time < seed_time``, "inclusive" also ``edge_time == seed_time``.
        window: see only ``edge_time >= seed_time - window``; None for no limit.
        engine: "numba" loops over seeds in compiled code on the CPU, "torch" works on the batch at once on
            any device; both return the same. "auto" is numba where the CSR lies on the CPU.

    """

    def __init__(
        self,
        csr: TemporalCSR,
        num_neighbors: int,
        *,
        bound: Bound = "strict",
        window: int | None = None,
        engine: Engine = "auto",
    ) -> None:
        check_options(bound, window)
        check_num_neighbors(num_neighbors)
        self.csr, self.num_neighbors, self.bound, self.window = csr, num_neighbors, bound, window
        self.engine = engine
        self.is_compiled = use_compiled(engine, csr.device)

    def sample(
        self,
        seed: Int64[Tensor, " num_seeds"],
        seed_time: Int64[Tensor, " num_seeds"],
        *,
        epoch: int = 0,
        hop: int = 0,
        edge_type: EdgeType | None = None,
        generator: Generator | None = None,
    ) -> SampledNeighbors:
        """Sample neighbours of each seed as of its time.

        Args:
            seed: rows of the CSR, in any order.
            seed_time: the time of each.
            epoch: part of the key of every draw, as ``hop`` and ``edge_type``; a strategy that draws nothing
                does not look at them.
            hop: see ``epoch``.
            edge_type: see ``epoch``.
            generator: draws are keyed by one number from it and the seed's place in the batch instead.

        Raises:
            ValueError: a seed is not a row of the CSR, or lies on another device.

        """
        if self.is_compiled:
            from samplers.compiled import run

            sampled, loop = self.prepare(
                seed, seed_time, epoch=epoch, hop=hop, edge_type=edge_type, generator=generator
            )
            run(loop.kernel, len(seed), *loop.arguments, least=loop.least)
            return sampled
        check_queries(self.csr, seed, seed_time)
        prefix = self._prefix(epoch, hop, edge_type, generator)
        edges = visible_edges(self.csr, seed, seed_time, bound=self.bound, window=self.window)
        width = self._width(edges.count)
        place = torch.arange(len(seed), device=self.csr.device)
        keys: tuple[Key, ...] = (*prefix, seed, seed_time) if generator is None else (*prefix, place)
        number, mask = self._choose(edges, seed_time, width, keys)
        return SampledNeighbors.from_positions(self.csr, edges.position(place[:, None], number), mask)

    def prepare(
        self,
        seed: Int64[Tensor, " num_seeds"],
        seed_time: Int64[Tensor, " num_seeds"],
        *,
        epoch: int,
        hop: int,
        edge_type: EdgeType | None,
        generator: Generator | None,
    ) -> tuple[SampledNeighbors, Loop]:
        """Return memory for what ``sample`` returns, not filled yet, and the compiled loop that fills it.

        For who does more with a range of queries while their results are in the cache.

        Raises:
            ValueError: as ``sample``.

        """
        check_queries(self.csr, seed, seed_time)
        width = self.num_neighbors
        if width == -1:
            width = self._width(count_edges(self.csr, seed, seed_time, bound=self.bound, window=self.window))
        sampled = SampledNeighbors.empty(len(seed), width)
        queries = compiled_queries(seed, seed_time, self.bound, self.window)
        prefix = self._prefix(epoch, hop, edge_type, generator)
        return sampled, self._loop(queries, prefix, generator is not None, sampled.arrays())

    def _prefix(
        self, epoch: int, hop: int, edge_type: EdgeType | None, generator: Generator | None
    ) -> tuple[FixedKey, ...]:
        """Return what the key of every draw begins with."""
        if generator is not None:
            return (draw_key(generator),)
        return (self._random_seed(), epoch, edge_type, hop)

    def _width(self, count: Tensor) -> int:
        if self.num_neighbors != -1:
            return self.num_neighbors
        return int(count.max()) if len(count) else 0

    def _random_seed(self) -> int:
        return 0

    def _choose(
        self, edges: VisibleEdges, seed_time: Tensor, width: int, keys: tuple[Key, ...]
    ) -> tuple[Tensor, Tensor]:
        """Return the numbers of the chosen edges among the visible ones, descending, and the mask."""
        raise NotImplementedError

    def _loop(
        self, queries: tuple[Any, ...], prefix: tuple[FixedKey, ...], by_place: bool, out: tuple[Any, ...]
    ) -> Loop:
        """Return the compiled loop of the strategy; ``prefix`` begins the key of its draws."""
        raise NotImplementedError

    def _axes(self) -> dict[str, object]:
        """Return the options of the strategy, for ``repr``."""
        return {}

    def __repr__(self) -> str:
        axes = {
            "num_neighbors": self.num_neighbors,
            **self._axes(),
            "bound": self.bound,
            "window": self.window,
            "engine": "numba" if self.is_compiled else "torch",
        }
        options = ", ".join(f"{name}={value!r}" for name, value in axes.items())
        return f"{type(self).__name__}({self.csr!r}, {options})"
