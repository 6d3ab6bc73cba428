"""DGL: its import beside a torch that it was not built for, and sampled subgraphs as its blocks (MFGs).

``dgl.distributed`` imports ``dgl.graphbolt``, which needs a native library made for one exact version of
torch and parts of torchdata that are gone. The core (graphs, message passing, layers, samplers, data loaders)
needs neither, so a stub stands in for ``dgl.graphbolt`` where that library is missing.

``TemporalBlockSampler``, which DGL's DataLoader takes, is found here too. It subclasses a class of DGL's, so
it has a file of its own, imported when the name is first asked for.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from samplers.neighbors import EdgeType, HopEdges, NodeType, SampledSubgraph

_GRAPHBOLT = "dgl.graphbolt"
_LIBRARY_NAME = {"darwin": "libgraphbolt_pytorch_{}.dylib", "win32": "graphbolt_pytorch_{}.dll"}


def import_dgl() -> Any:
    """Import and return the module ``dgl``; later ``import dgl`` statements find it as well.

    Where DGL has a graphbolt library for the installed torch, this is a plain import. Elsewhere
    ``dgl.graphbolt`` becomes a stub whose attributes raise ``ImportError``, and all else works. If the import
    fails, the stub is taken away again.

    DGL asks for its backend in the environment variable ``DGLBACKEND`` or writes a file in the home folder;
    unset, it is "pytorch" during the import.

    Raises:
        ImportError: DGL is not installed, or cannot be imported for another reason.

    """
    if "dgl" in sys.modules:
        return sys.modules["dgl"]
    spec = importlib.util.find_spec("dgl")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError('DGL is not installed: pip install "graphrec[dgl]"')
    package = Path(spec.submodule_search_locations[0])
    with _backend_is_pytorch():
        if _GRAPHBOLT in sys.modules or graphbolt_library(package).exists():
            return importlib.import_module("dgl")
        stub = sys.modules[_GRAPHBOLT] = _GraphboltStub()
        try:
            dgl: Any = importlib.import_module("dgl")
        except BaseException:
            del sys.modules[_GRAPHBOLT]
            raise
    dgl.graphbolt = stub
    return dgl


def to_blocks(subgraph: SampledSubgraph, *, edge_types: Sequence[EdgeType] | None = None) -> list[Any]:
    """Turn a sampled subgraph into DGL's blocks, one a hop, outermost first: one for each layer of a network.

    Destinations of the last block are the given seeds in their order, one for each, equal ones included.
    In every block the destinations are the first source nodes, and the sources of a block are the
    destinations of the one before it. A row's sampled edges appear once in each block that has it as a
    destination, most recent first for the K most recent. Blocks share memory: do not write into their data.

    Data of nodes (source and destination): ``dgl.NID``, the global id, and "time", the time as of which the
    row is seen. Data of edges: ``dgl.EID``, the edge id, and "time", the edge's time. All are int64.

    Args:
        subgraph: of a ``MultiHopSampler``; of one node type for homogeneous blocks.
        edge_types: that each block has, with or without edges; by default those met in this subgraph.

    Raises:
        ValueError: there is no hop or no edge type, or the subgraph has a type that ``edge_types`` lacks.

    """
    dgl = import_dgl()
    met = {edge_type for hop in subgraph.hops for edge_type in hop}
    edge_types = sorted(met) if edge_types is None else edge_types
    if not subgraph.hops:
        raise ValueError("a subgraph without hops has no blocks: sample with one number of neighbours a hop")
    if not edge_types or not met <= set(edge_types):
        raise ValueError(f"edge_types must name those of the subgraph, {sorted(met)}, got {edge_types}")
    subgraph = one_row_per_seed(subgraph)
    # Rows lie in the order of hops, so the edges into the rows of a block are a prefix of one CSC matrix.
    edges = {edge_type: _edges_by_destination(subgraph, edge_type) for edge_type in edge_types}
    # DGL takes no places of edges (0, 1, ...) as well, but then some of its kernels fail in backward.
    place = torch.arange(
        max(len(columns.source) for columns in edges.values()),
        device=next(iter(edges.values())).source.device,
    )
    count = subgraph.num_nodes_after_hop
    blocks = []
    for hop in reversed(range(len(subgraph.hops))):
        num_destinations = {name: rows[hop] for name, rows in count.items()}
        num_sources = {name: rows[hop + 1] for name, rows in count.items()}
        prefix = {
            edge_type: columns.up_to(num_destinations[edge_type[2]]) for edge_type, columns in edges.items()
        }
        block = _block(dgl, prefix, place, num_sources, num_destinations)
        for name in subgraph.node:
            for data, num_rows in (
                (block.srcnodes[name].data, num_sources[name]),
                (block.dstnodes[name].data, num_destinations[name]),
            ):
                data[dgl.NID], data["time"] = subgraph.node[name][:num_rows], subgraph.time[name][:num_rows]
        for edge_type, columns in prefix.items():
            data = block.edges[edge_type].data
            data[dgl.EID], data["time"] = columns.edge_id, columns.edge_time
        blocks.append(block)
    return blocks


def one_row_per_seed(subgraph: SampledSubgraph) -> SampledSubgraph:
    """Give each seed a row of its own, in the given order: equal seeds have equal rows and edges."""
    kept = {
        name: (index, subgraph.num_nodes_after_hop[name][0]) for name, index in subgraph.seed_index.items()
    }
    if all(_counts_up_to(index, num_distinct) for index, num_distinct in kept.values()):
        return subgraph
    node, time, count = dict(subgraph.node), dict(subgraph.time), dict(subgraph.num_nodes_after_hop)
    new_row: dict[str, Tensor] = {}
    for name, (index, num_distinct) in kept.items():
        node[name] = torch.cat([node[name][index], node[name][num_distinct:]])
        time[name] = torch.cat([time[name][index], time[name][num_distinct:]])
        grown = len(index) - num_distinct
        count[name] = [rows + grown for rows in count[name]]
        # one slot more: padding points to row 0, which an empty table does not have
        new_row[name] = torch.arange(len(subgraph.node[name]) + 1, device=index.device) + grown
        given = torch.arange(len(index), device=index.device)
        # of equal seeds, the first stands for the row where it is a neighbour
        new_row[name][:num_distinct] = given.new_full((num_distinct,), len(index)).scatter_reduce(
            0, index, given, "amin"
        )
    hops = []
    for number, hop in enumerate(subgraph.hops):
        moved: dict[EdgeType, HopEdges] = {}
        for edge_type, edges in hop.items():
            source, _, destination = edge_type
            if source in new_row:
                edges = replace(edges, neighbor=new_row[source][edges.neighbor].where(edges.mask, 0))
            if destination in kept:
                index, num_distinct = kept[destination]
                if number == 0:  # the edges into seeds
                    rows = (edges.neighbor, edges.edge_id, edges.edge_time, edges.mask)
                    edges = HopEdges(0, *(column[index] for column in rows))
                else:
                    edges = replace(edges, first_row=edges.first_row + len(index) - num_distinct)
            moved[edge_type] = edges
        hops.append(moved)
    seed_index = {
        name: torch.arange(len(index), device=index.device) for name, index in subgraph.seed_index.items()
    }
    return SampledSubgraph(node, time, count, seed_index, hops)


def __getattr__(name: str) -> Any:
    if name == "TemporalBlockSampler":
        from samplers.adapters.dgl_sampler import TemporalBlockSampler

        return TemporalBlockSampler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def graphbolt_library(package: Path) -> Path:
    """Return where DGL, installed in the folder ``package``, looks for graphbolt's native library."""
    version = torch.__version__.split("+", maxsplit=1)[0]
    name = _LIBRARY_NAME.get(sys.platform, "libgraphbolt_pytorch_{}.so")
    return package / "graphbolt" / name.format(version)


class _EdgesByDestination(NamedTuple):
    """Edges of one type in the order of their destinations: those of row i are ``ptr[i]:ptr[i + 1]``."""

    ptr: Tensor
    source: Tensor
    edge_id: Tensor
    edge_time: Tensor

    def up_to(self, num_rows: int) -> "_EdgesByDestination":
        """Return the edges into the first rows, without a copy."""
        end = int(self.ptr[num_rows])
        return _EdgesByDestination(self.ptr[: num_rows + 1], *(column[:end] for column in self[1:]))


def _edges_by_destination(subgraph: SampledSubgraph, edge_type: EdgeType) -> _EdgesByDestination:
    """Join the hops of an edge type into one CSC matrix over all rows that may be destinations."""
    hops = [hop[edge_type] for hop in subgraph.hops if edge_type in hop]
    table = subgraph.node[edge_type[2]]
    num_rows = subgraph.num_nodes_after_hop[edge_type[2]][-2]
    ptr = torch.zeros(num_rows + 1, dtype=torch.int64, device=table.device)
    if table.device.type == "cpu":
        return _compact(hops, ptr)
    for hop in hops:
        ptr[hop.first_row + 1 : hop.first_row + hop.num_rows + 1] = hop.mask.sum(1)
    ptr = ptr.cumsum(0)
    return _EdgesByDestination(
        ptr,
        *(
            torch.cat([table[:0], *(getattr(hop, name)[hop.mask] for hop in hops)])
            for name in ("neighbor", "edge_id", "edge_time")
        ),
    )


def _compact(hops: list[HopEdges], ptr: Tensor) -> _EdgesByDestination:
    """Do the same in one pass of compiled code: hops come in the order of their rows."""
    from samplers.compiled.tables import compact_edges

    num_slots = sum(hop.mask.numel() for hop in hops)
    # three tensors, not views of one: a graph of DGL's that goes to another process forgets a view's offset
    columns = [torch.empty(num_slots, dtype=torch.int64) for _ in range(3)]
    row, end = 0, 0
    for hop in hops:
        ptr[row : hop.first_row + 1] = end  # rows between the hops have no edges of this type
        flat = [getattr(hop, name).reshape(-1).numpy() for name in ("neighbor", "edge_id", "edge_time")]
        mask = hop.mask.reshape(-1).numpy().view(np.uint8)
        arrays = [column.numpy() for column in columns]
        compact_edges(*flat, mask, hop.mask.shape[1], ptr.numpy(), hop.first_row, *arrays)
        row = hop.first_row + hop.num_rows
        end = int(ptr[row])
    ptr[row:] = end
    return _EdgesByDestination(ptr, *(column[:end] for column in columns))


def _block(
    dgl: Any,
    edges: Mapping[EdgeType, _EdgesByDestination],
    place: Tensor,
    num_sources: Mapping[NodeType, int],
    num_destinations: Mapping[NodeType, int],
) -> Any:
    """Do what ``dgl.create_block`` does, without its search for the largest id, a fifth of the whole time.

    ``place`` is 0, 1, ..., for at least as many edges as any type has.
    """
    index = dgl.heterograph_index
    node_types, edge_types = sorted(num_sources), sorted(edges)
    number = {name: i for i, name in enumerate(node_types)}
    relations = [
        index.create_unitgraph_from_csr(
            2,  # node types: source and destination
            num_sources[edge_type[0]],
            num_destinations[edge_type[2]],
            edges[edge_type].ptr,
            edges[edge_type].source,
            place[: len(edges[edge_type].source)],
            ["coo", "csr", "csc"],
            True,  # the rows of the matrix are destinations
        )
        for edge_type in edge_types
    ]
    metagraph = dgl.graph_index.from_coo(
        2 * len(node_types),
        [number[source] for source, _, _ in edge_types],
        [number[destination] + len(node_types) for _, _, destination in edge_types],
        True,
    )
    counts = [rows[name] for rows in (num_sources, num_destinations) for name in node_types]
    graph = index.create_heterograph_from_relations(metagraph, relations, dgl.utils.toindex(counts, "int64"))
    return dgl.convert.DGLBlock(graph, (node_types, node_types), [relation for _, relation, _ in edge_types])


def _counts_up_to(index: Tensor, end: int) -> bool:
    """Whether ``index`` is 0, 1, ..., end - 1."""
    return len(index) == end and bool((index == torch.arange(end, device=index.device)).all())


class _GraphboltStub(ModuleType):
    """A package ``dgl.graphbolt`` without contents."""

    def __init__(self) -> None:
        super().__init__(_GRAPHBOLT, "Stands in for dgl.graphbolt, which cannot run on this torch.")
        self.__path__: list[str] = []
        self.__spec__ = ModuleSpec(_GRAPHBOLT, None, is_package=True)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system and inspect ask for these and expect this answer
            raise AttributeError(name)
        raise ImportError(
            f"dgl.graphbolt.{name} needs a graphbolt library built for torch {torch.__version__}, which "
            "this DGL lacks: install a torch that it was built for, or use dgl.sampling and dgl.dataloading"
        )


@contextmanager
def _backend_is_pytorch() -> Iterator[None]:
    if "DGLBACKEND" in os.environ:
        yield
        return
    os.environ["DGLBACKEND"] = "pytorch"
    try:
        yield
    finally:
        del os.environ["DGLBACKEND"]
