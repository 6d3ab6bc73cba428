"""A full epoch of a two-layer graph attention network, fed by our loader, by DGL's and by PyG's."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from experiments.benchmarks.samplers.graph import END_TIME, Events, make_events
from experiments.benchmarks.samplers.peers import DGL, PYG, dgl_batches, dgl_graphs, load_dgl, pyg_loader
from experiments.benchmarks.samplers.results import OURS, RATIO, Row
from experiments.benchmarks.samplers.settings import Settings
from samplers import (
    EdgeType,
    HopEdges,
    MultiHopSampler,
    NeighborBatch,
    NeighborLoader,
    TemporalCSR,
    UniformNeighborSampler,
)

CHANNELS, HEADS = 32, 4
EDGES: EdgeType = ("node", "event", "node")
MAX_WAIT = 0.10


class Layer(NamedTuple):
    """Edges into the first ``num_destinations`` rows of a batch; row numbers, source then destination."""

    edge_index: Int64[Tensor, "2 num_edges"]
    num_destinations: int


class Batch(NamedTuple):
    """What the network reads: the nodes of all rows, the seeds' rows, the edges of both layers."""

    n_id: Int64[Tensor, " num_rows"]
    seed_row: Int64[Tensor, " batch_size"]
    layers: tuple[Layer, Layer]


class Epoch(NamedTuple):
    """Seconds of an epoch, and how many of them went by in waiting for the loader."""

    seconds: float
    waiting: float


class GAT(nn.Module):
    """Two layers of graph attention (Velickovic et al., ICLR 2018) by PyG's ``GATConv``, and a head."""

    def __init__(self) -> None:
        from torch_geometric.nn import GATConv

        super().__init__()
        options = {"heads": HEADS, "add_self_loops": False}
        self.layers = nn.ModuleList(GATConv(CHANNELS, CHANNELS // HEADS, **options) for _ in range(2))
        self.skip = nn.ModuleList(nn.Linear(CHANNELS, CHANNELS) for _ in range(2))
        self.head = nn.Linear(CHANNELS, 1)

    def forward(self, x: Float[Tensor, "num_nodes channels"], batch: Batch) -> Float[Tensor, " batch_size"]:
        """Return a score for each seed; ``x`` are the features of all nodes of the graph."""
        h = x[batch.n_id]
        for conv, skip, layer in zip(self.layers, self.skip, batch.layers, strict=True):
            destination = h[: layer.num_destinations]
            h = torch.relu(conv((h, destination), layer.edge_index) + skip(destination))
        return self.head(h[batch.seed_row]).squeeze(1)


def measure(settings: Settings) -> list[Row]:
    """Measure seconds of an epoch over all users, and the share of them spent in waiting for samples.

    All have the same homogeneous graph, uniform fan-outs of K and K without replacement, features, labels,
    layers, initial weights and optimiser, and two threads. Ours ask at one time, after the last event, so
    that all train on the same edges in distribution, with the loader in the caller's thread ("no
    prefetching") and in one background thread. DGL's and PyG's loaders run in the main process. DGL samples
    seeds anew for its first layer, ours and PyG's use the edges that they have. Turning a batch into rows and
    edges for the layers counts as training, for everybody.
    """
    events = make_events(settings, settings.edges)
    generator = torch.Generator().manual_seed(settings.random_seed)
    seeds = torch.randperm(settings.users, generator=generator)
    if settings.epoch_batches is not None:
        seeds = seeds[: settings.epoch_batches * settings.batch_size]
    x = torch.randn(events.num_nodes, CHANNELS, generator=generator)
    label = torch.randint(2, (events.num_nodes,), generator=generator).float()

    case, rows, epochs = "an epoch of a two-layer GAT (ratio of times)", [], {}
    for system, batches, convert in _loaders(settings, events, seeds):
        train = partial(_train, batches, convert, x, label, settings.random_seed)
        train(max_batches=3)  # compiles kernels, warms caches
        epochs[system] = train()
    for system, epoch in epochs.items():
        size = settings.batch_size
        rows.append(Row(case=case, system=system, unit="s", value=epoch.seconds, seeds=size))
        if system != OURS:
            ratio = epoch.seconds / epochs[OURS].seconds
            rows.append(Row(case=case, system=system, unit=RATIO, value=ratio, seeds=size))
    for system, epoch in epochs.items():
        rows.append(
            Row(
                case="waiting for samples in an epoch",
                system=system,
                unit="of the epoch",
                value=epoch.waiting / epoch.seconds,
                seeds=settings.batch_size,
                target=MAX_WAIT if system == OURS else None,
                target_is="at most",
            )
        )
    return rows


def _loaders(
    settings: Settings, events: Events, seeds: Tensor
) -> Iterator[tuple[str, Callable[[], Iterator[Any]], Callable[[Any], Batch]]]:
    """Yield name, start of an epoch and reader of a batch, one system after the other to save memory."""
    k, size = settings.num_neighbors, settings.batch_size
    edge_index, edge_time = events.joint_edges()
    csr = TemporalCSR.from_edge_index(
        edge_index, edge_time, num_rows=events.num_nodes, num_cols=events.num_nodes, row="destination"
    )
    del edge_index, edge_time
    strategy = partial(UniformNeighborSampler, random_seed=settings.random_seed)
    sampler = MultiHopSampler({EDGES: csr}, [k, k], strategy=strategy)
    end = torch.full_like(seeds, END_TIME)
    for system, prefetch in ((OURS, 2), (f"{OURS}, no prefetching", 0)):
        ours = NeighborLoader(sampler, "node", seeds, end, batch_size=size, prefetch=prefetch)
        yield system, ours.batches, _from_ours
    del csr, sampler, ours
    graph = dgl_graphs(events).get(DGL)
    if graph is not None:
        dgl = load_dgl()
        loader = dgl.dataloading.DataLoader(
            graph, seeds, dgl.dataloading.NeighborSampler([k, k]), batch_size=size
        )
        yield DGL, partial(dgl_batches, loader), partial(_from_blocks, dgl.NID)
    del graph
    loader = pyg_loader(events, [k, k], seeds=seeds, batch_size=size)
    if loader is not None:
        yield PYG, loader.__iter__, _from_pyg


def _train(
    batches: Callable[[], Iterator[Any]],
    convert: Callable[[Any], Batch],
    x: Tensor,
    label: Tensor,
    random_seed: int,
    *,
    max_batches: int | None = None,
) -> Epoch:
    """Train a fresh network for an epoch, or for its first batches."""
    torch.manual_seed(random_seed)
    model = GAT()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    waiting, begin = 0.0, time.perf_counter()
    ready = begin
    for found in islice(batches(), max_batches):
        waiting += time.perf_counter() - ready
        batch = convert(found)
        target = label[batch.n_id[batch.seed_row]]
        loss = nn.functional.binary_cross_entropy_with_logits(model(x, batch), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ready = time.perf_counter()
    return Epoch(ready - begin, waiting)


def _from_ours(found: NeighborBatch) -> Batch:
    subgraph = found.subgraph
    num_seeds, num_destinations, _ = subgraph.num_nodes_after_hop["node"]
    # the second hop has no edges where the first reached nobody new
    hops = [_edge_index(hop[EDGES]) for hop in subgraph.hops if EDGES in hop]
    layers = Layer(torch.cat(hops, 1), num_destinations), Layer(hops[0], num_seeds)
    return Batch(subgraph.node["node"], subgraph.seed_index["node"], layers)


def _edge_index(edges: HopEdges) -> Tensor:
    row = torch.arange(edges.first_row, edges.first_row + edges.num_rows)
    row = row[:, None].expand_as(edges.neighbor)
    return torch.stack([edges.neighbor.masked_select(edges.mask), row.masked_select(edges.mask)])


def _from_blocks(node_id: str, found: tuple[Any, Tensor, list[Any]]) -> Batch:
    _, output_nodes, (first, second) = found
    layers = tuple(Layer(torch.stack(block.edges()), block.num_dst_nodes()) for block in (first, second))
    return Batch(first.srcdata[node_id], torch.arange(len(output_nodes)), (layers[0], layers[1]))


def _from_pyg(found: Any) -> Batch:
    # PyG on torch-sparse does not say which hop an edge belongs to, but seeds are destinations at the first
    # hop alone, and no node is a destination after the last one that has an edge
    destination = found.edge_index[1]
    first_hop = destination < found.batch_size
    layers = (
        Layer(found.edge_index, int(destination.max()) + 1),
        Layer(found.edge_index[:, first_hop], found.batch_size),
    )
    return Batch(found.n_id, torch.arange(found.batch_size), layers)
