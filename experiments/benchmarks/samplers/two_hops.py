"""Two hops, from users to their items to the items' users."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.samplers.bare_copy import BARE_COPY, bare_copy
from experiments.benchmarks.samplers.graph import (
    END_TIME,
    ITEMS_OF_USERS,
    USERS_OF_ITEMS,
    Events,
    Queries,
    make_events,
    make_queries,
)
from experiments.benchmarks.samplers.peers import DGL, PYG, dgl_graphs, load_dgl, pyg_loader
from experiments.benchmarks.samplers.results import OURS, Row, speed_rows
from experiments.benchmarks.samplers.settings import Settings
from experiments.benchmarks.samplers.timing import take_turns
from samplers import (
    EdgeType,
    MultiHopSampler,
    NeighborSampler,
    RecentNeighborSampler,
    TemporalCSR,
    UniformNeighborSampler,
)

NUM_FRONTIERS = 8  # frontiers are large, so there are fewer of them than batches of queries


def measure(settings: Settings) -> list[Row]:
    """Measure seeds a second with a fan-out of K at both hops.

    With a time for each seed, in three forms:

    - "MultiHopSampler": both hops, each (node, time) kept once, edges in numbers of rows: what a model reads;
    - "one-hop samplers": both hops, the second on every item that the first returned;
    - "second hop alone": the second of these calls by itself.

    All three are set against DGL's second hop alone, on the same frontier: every item that our first hop
    reached, as often as it was reached. DGL respects no time: each item has its whole history there. Its
    first hop is a gift to it, but for the last form.

    With one time for all queries, after the last event, each node is sampled once. DGL's ``sample_neighbors``
    then has both its hops timed, on seeds and on its own unique frontier, which is found beforehand and costs
    it nothing. DGL's blocks (``NeighborSampler.sample_blocks``) hold what ours return: unique nodes, and
    edges in numbers of rows. DGL samples the seeds again at its second hop; ours has them already. PyG's
    ``NeighborLoader`` (on torch-sparse, without its data loader around it) returns the same as well.

    The bare copy is of the second hop, and with one time for all of both hops, with the unique frontier found
    beforehand: no search, no draw, no numbering of nodes (see `bare_copy`).
    """
    events = make_events(settings, settings.edges)
    csrs, queries, k = events.csrs(), make_queries(settings), settings.num_neighbors
    graphs = dgl_graphs(events)
    strategies: dict[str, tuple[Any, float]] = {
        "last-K": (RecentNeighborSampler, 4.0),
        "uniform": (partial(UniformNeighborSampler, random_seed=settings.random_seed), 1.5),
    }
    rows: list[Row] = []

    def add(case: str, systems: dict[str, Callable[[int], Any]], targets: dict[str, float]) -> None:
        timings, size = take_turns(systems, settings.seconds), settings.batch_size
        rows.extend(speed_rows(case, timings, amount=size, unit="seeds/s", seeds=size, targets=targets))

    for name, (strategy, target) in strategies.items():
        whole = MultiHopSampler(csrs, [k, k], strategy=strategy)
        first, second = strategy(csrs[ITEMS_OF_USERS], k), strategy(csrs[USERS_OF_ITEMS], k)
        frontiers = [_frontier(first, *queries.batch(number)) for number in range(NUM_FRONTIERS)]
        peers = {
            peer: _dgl_hop(graph, [item + events.num_users for item, _ in frontiers], k)
            for peer, graph in graphs.items()
        }
        ours: dict[str, Callable[[int], Any]] = {
            "MultiHopSampler": partial(_sample_users, whole, queries),
            "one-hop samplers": partial(_sample_both_hops, first, second, queries),
            "second hop alone": partial(_sample_frontier, second, frontiers),
        }
        static = {BARE_COPY: bare_copy(second, frontiers, hop=1), **peers}
        for form, run in ours.items():
            add(f"two hops, {name}, a time for each seed, {form}", {OURS: run, **static}, {DGL: target})

    at_end = queries.at_end()
    unique = {peer: _dgl_unique_frontier(graph, queries, k) for peer, graph in graphs.items()}
    blocks = {f"{peer}, blocks": _dgl_blocks(graph, queries, k) for peer, graph in graphs.items()}
    peers = {**unique, **blocks, **_pyg(events, queries, k)}
    for name, (strategy, _) in strategies.items():
        whole = MultiHopSampler(csrs, [k, k], strategy=strategy)
        ours = {
            OURS: partial(_sample_users, whole, at_end),
            BARE_COPY: _copy_both_hops(strategy, csrs, at_end, k),
        }
        add(f"two hops, {name}, one time for all", {**ours, **peers}, {DGL: 2.5, f"{DGL}, blocks": 4.0})
    return rows


def _sample_users(sampler: MultiHopSampler, queries: Queries, number: int) -> Any:
    return sampler.sample({"user": queries.batch(number)})


def _sample_both_hops(first: NeighborSampler, second: NeighborSampler, queries: Queries, number: int) -> Any:
    return second.sample(*_frontier(first, *queries.batch(number)), hop=1)


def _sample_frontier(sampler: NeighborSampler, frontiers: list[tuple[Tensor, Tensor]], number: int) -> Any:
    return sampler.sample(*frontiers[number % len(frontiers)], hop=1)


def _frontier(sampler: NeighborSampler, user: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Sample items of users, and return every one with the time of its query."""
    found = sampler.sample(user, time)
    return found.node.masked_select(found.mask), time[:, None].expand_as(found.node).masked_select(found.mask)


def _copy_both_hops(
    strategy: Any, csrs: dict[EdgeType, TemporalCSR], at_end: Queries, k: int
) -> Callable[[int], Any]:
    """Copy what both hops read, the second for each node that the first reached once."""
    first, second = strategy(csrs[ITEMS_OF_USERS], k), strategy(csrs[USERS_OF_ITEMS], k)
    seeds = [at_end.batch(number) for number in range(NUM_FRONTIERS)]
    reached = [_frontier(first, *batch)[0].unique() for batch in seeds]
    copies = (
        bare_copy(first, seeds),
        bare_copy(second, [(item, torch.full_like(item, END_TIME)) for item in reached], hop=1),
    )
    return lambda number: [copy(number) for copy in copies]


def _dgl_hop(graph: Any, frontiers: list[Tensor], k: int) -> Callable[[int], Any]:
    dgl = load_dgl()
    frontiers = [frontier.to(graph.idtype) for frontier in frontiers]
    return lambda number: dgl.sampling.sample_neighbors(graph, frontiers[number % len(frontiers)], k)


def _dgl_unique_frontier(graph: Any, queries: Queries, k: int) -> Callable[[int], Any]:
    dgl = load_dgl()
    seeds = [queries.user[number].to(graph.idtype) for number in range(min(NUM_FRONTIERS, len(queries.user)))]
    frontiers = [torch.unique(dgl.sampling.sample_neighbors(graph, user, k).edges()[0]) for user in seeds]

    def run(number: int) -> Any:
        number %= len(seeds)
        return [dgl.sampling.sample_neighbors(graph, nodes[number], k) for nodes in (seeds, frontiers)]

    return run


def _dgl_blocks(graph: Any, queries: Queries, k: int) -> Callable[[int], Any]:
    sampler, user = load_dgl().dataloading.NeighborSampler([k, k]), queries.user.to(graph.idtype)
    return lambda number: sampler.sample_blocks(graph, user[number % len(user)])


def _pyg(events: Events, queries: Queries, k: int) -> dict[str, Callable[[int], Any]]:
    every_node = torch.arange(events.num_nodes)
    loader = pyg_loader(events, [k, k], seeds=every_node, batch_size=queries.user.shape[1])
    return {} if loader is None else {PYG: lambda number: loader(queries.batch(number)[0])}
