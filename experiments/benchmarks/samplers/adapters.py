"""What users of PyG's and DGL's loaders get from our samplers inside them, beside the loaders' own."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.samplers.graph import END_TIME, Events, Queries, make_events, make_queries
from experiments.benchmarks.samplers.peers import (
    DGL,
    DGL_32,
    PYG,
    dgl_batches,
    dgl_graphs,
    load_dgl,
    pyg_loader,
)
from experiments.benchmarks.samplers.results import OURS, Row, speed_rows
from experiments.benchmarks.samplers.settings import Settings
from experiments.benchmarks.samplers.timing import take_turns
from samplers import EdgeType, MultiHopSampler, RecentNeighborSampler, TemporalCSR, UniformNeighborSampler

DGL_EDGES: EdgeType = ("_N", "_E", "_N")  # DGL's own names in a homogeneous graph


def measure(settings: Settings) -> list[Row]:
    """Measure seeds a second of whole loaders in the main process, batches made as their users get them.

    All systems have the same homogeneous graph, fan-outs of K and K, no features, and return the libraries'
    own batches. PyG's and DGL's samplers respect no time. Ours ask at one time, after the last event, so that
    nodes are deduplicated as theirs are; and with a time for each seed, where only seeds of the same time
    share nodes, so that a batch holds many times as many rows.
    """
    events = make_events(settings, settings.edges)
    edge_index, edge_time = events.joint_edges()
    csr = TemporalCSR.from_edge_index(
        edge_index, edge_time, num_rows=events.num_nodes, num_cols=events.num_nodes, row="destination"
    )
    queries = make_queries(settings)
    strategies = {
        "last-K": RecentNeighborSampler,
        "uniform": partial(UniformNeighborSampler, random_seed=settings.random_seed),
    }
    libraries: list[tuple[str, dict[str, Callable[[int], Any]], Any, dict[str, float]]] = []
    pyg = pyg_loader(
        events,
        [settings.num_neighbors] * 2,
        seeds=queries.user.flatten(),
        batch_size=settings.batch_size,
    )
    pyg_systems = {} if pyg is None else {PYG: _next_batch(pyg.__iter__)}
    libraries.append(("PyG's loader", pyg_systems, partial(_pyg_loader, edge_index, events), {PYG: 3.0}))
    dgl_systems = _dgl_own(dgl_graphs(events), queries, settings)
    if dgl_systems:
        libraries.append(("DGL's loader", dgl_systems, partial(_dgl_loader, events), {DGL: 2.0}))
    rows = []
    for library, peers, make_loader, targets in libraries:
        for name, strategy in strategies.items():
            for asked, times in (("one time for all", queries.at_end()), ("a time for each seed", queries)):
                ours = make_loader(csr, strategy, settings, times)
                rows += speed_rows(
                    f"{library}, {name}, {asked}",
                    take_turns({OURS: ours, **peers}, settings.seconds),
                    amount=settings.batch_size,
                    unit="seeds/s",
                    seeds=settings.batch_size,
                    targets=targets if times is not queries else {},
                )
    return rows


def _pyg_loader(
    edge_index: Tensor, events: Events, csr: TemporalCSR, strategy: Any, settings: Settings, queries: Queries
) -> Callable[[int], Any]:
    from torch_geometric.data import Data
    from torch_geometric.loader import NodeLoader

    from samplers.adapters.pyg import HOMOGENEOUS, TemporalNeighborSampler

    loader = NodeLoader(
        Data(edge_index=edge_index, num_nodes=events.num_nodes),
        TemporalNeighborSampler({HOMOGENEOUS: csr}, [settings.num_neighbors] * 2, strategy=strategy),
        input_nodes=queries.user.flatten(),
        input_time=queries.time.flatten(),
        batch_size=settings.batch_size,
    )
    return _next_batch(loader.__iter__)


def _dgl_loader(
    events: Events, csr: TemporalCSR, strategy: Any, settings: Settings, queries: Queries
) -> Callable[[int], Any]:
    dgl = load_dgl()
    from samplers.adapters.dgl import TemporalBlockSampler

    sampler = MultiHopSampler({DGL_EDGES: csr}, [settings.num_neighbors] * 2, strategy=strategy)
    user, time = queries.user.flatten(), queries.time.flatten()
    if bool((time == END_TIME).all()):
        asked: dict[str, Any] = {"time": END_TIME}
        seeds = user
    else:
        asked = {"queries": {"_N": (user, time)}}
        seeds = torch.arange(len(user))
    no_edges = dgl.graph(([], []), num_nodes=events.num_nodes)  # the sampler brings its own
    loader = dgl.dataloading.DataLoader(
        no_edges, seeds, TemporalBlockSampler(sampler, **asked), batch_size=settings.batch_size
    )
    return _next_batch(partial(dgl_batches, loader))


def _dgl_own(graphs: dict[str, Any], queries: Queries, settings: Settings) -> dict[str, Callable[[int], Any]]:
    systems = {}
    for name, graph in graphs.items():
        dgl = load_dgl()
        sampler = dgl.dataloading.NeighborSampler([settings.num_neighbors] * 2)
        seeds = queries.user.flatten().to(torch.int32 if name == DGL_32 else torch.int64)
        loader = dgl.dataloading.DataLoader(graph, seeds, sampler, batch_size=settings.batch_size)
        systems[name] = _next_batch(partial(dgl_batches, loader))
    return systems


def _next_batch(begin_pass: Callable[[], Iterator[Any]]) -> Callable[[int], Any]:
    """Return a function that takes the next batch, over and over; a new pass is paid where it begins."""

    def batches() -> Iterator[Any]:
        while True:
            yield from begin_pass()

    endless = batches()
    return lambda _: next(endless)
