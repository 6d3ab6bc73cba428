"""The libraries that we are measured against, where they are installed."""

import importlib.util
import warnings
from collections.abc import Iterator
from typing import Any

from experiments.benchmarks.samplers.graph import Events
from experiments.benchmarks.samplers.settings import NUM_THREADS

DGL, DGL_32, PYG = "DGL", "DGL, 32-bit ids", "PyG"
_INSTALL = {
    "dgl": 'pip install "graphrec[dgl]"',
    "torch_sparse": 'CFLAGS="-g0 -O2" pip install --no-build-isolation torch-sparse torch-scatter',
}


def installed(module: str) -> bool:
    """Whether a peer can be imported; says how to install it where it cannot."""
    if importlib.util.find_spec(module) is not None:
        return True
    print(f"{module}: not installed: {_INSTALL[module]}")
    return False


def load_dgl() -> Any:
    """Import DGL and give it as many threads as everybody has."""
    from samplers.adapters.dgl import import_dgl

    dgl = import_dgl()
    dgl.utils.set_num_threads(NUM_THREADS)
    return dgl


def dgl_graphs(events: Events) -> dict[str, Any]:
    """Both directions of all events in one homogeneous DGL graph, by name of the system; none if missing.

    DGL's ids have 64 bits unless one asks for 32, and so have those that our samplers return: the targets
    are for this form. With 32 bits DGL is faster, so that form is measured beside it.
    """
    if not installed("dgl"):
        return {}
    dgl = load_dgl()
    (source, destination), _ = events.joint_edges()
    graph = dgl.graph((source, destination), num_nodes=events.num_nodes).formats(["csc", "csr"])
    graph.create_formats_()
    narrow = graph.int()
    narrow.create_formats_()
    return {DGL: graph, DGL_32: narrow}


def dgl_batches(loader: Any) -> Iterator[Any]:
    """Begin a pass over DGL's ``DataLoader``, without its advice to pin worker processes: there are none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Dataloader CPU affinity", UserWarning)
        return iter(loader)


def pyg_loader(events: Events, num_neighbors: list[int], *, seeds: Any, batch_size: int) -> Any:
    """Make PyG's ``NeighborLoader`` on the homogeneous graph of all events, or None where it cannot run.

    It samples on torch-sparse, uniformly and without looking at times. PyG says that torch-sparse is no more
    its preferred engine; the preferred one (pyg-lib) is in no package registry.
    """
    if not installed("torch_sparse"):
        return None
    from torch_geometric.data import Data
    from torch_geometric.loader import NeighborLoader

    edge_index, _ = events.joint_edges()
    data = Data(edge_index=edge_index, num_nodes=events.num_nodes)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*pyg-lib.*", UserWarning)
        return NeighborLoader(data, num_neighbors, input_nodes=seeds, batch_size=batch_size)
