"""A sampler for DGL's DataLoader: importing this file imports DGL."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from samplers.adapters.dgl import import_dgl, to_blocks
from samplers.csr import check_ids
from samplers.multi_hop import MultiHopSampler
from samplers.neighbors import NodeType

dgl = import_dgl()
_BlockSampler: Any = dgl.dataloading.BlockSampler
Names = Sequence[str] | Mapping[Any, Sequence[str]]


class TemporalBlockSampler(_BlockSampler):
    """Hand DGL's DataLoader blocks of a ``MultiHopSampler``: each seed has a time, none sees what came later.

    All axes (strategy, bound, window, next-hop bound, fan-outs) are those of ``sampler``. Its node types and
    edge types are the graph's; a homogeneous DGL graph has ``{("_N", "_E", "_N"): csr}``. The loader's graph
    holds the features to prefetch; its edges are not read, so it may have none, which also starts workers
    faster. Prefetched edge features are looked up by edge id.

    The loader's indices mean one of two things:

    - with ``time``: node ids; all are queried at this time, and each node is sampled once a batch.
    - with ``queries``: rows of these tables. ``blocks[-1].dstdata["query"]`` says which row each destination
      is, for labels that belong to a query and not to a node.

    Indices are a dict by node type, or one tensor: of node ids where there is one node type, of rows where
    there are ``queries``. It means the same row of each table, such as the two ends of a link.
    A batch is ``(input_nodes, output_nodes, blocks)`` as DGL's own, blocks as by ``to_blocks``; output nodes
    are the seeds in their order, equal ones included. ::

        sampler = MultiHopSampler(csrs, [10, 5], strategy=UniformNeighborSampler)
        sampler = TemporalBlockSampler(sampler, queries={"user": (user, time)}, prefetch_node_feats=...)
        for input_nodes, output_nodes, blocks in dgl.dataloading.DataLoader(
            graph, torch.arange(len(user)), sampler, batch_size=1024, shuffle=True
        ):
            label[blocks[-1].dstnodes["user"].data["query"]]

    Args:
        sampler: samples around the seeds; its CSRs lie on the graph's device.
        queries: (node ids, their times) for each seed type, int64.
        time: the one time of all seeds; exactly one of ``queries`` and ``time`` is given.
        prefetch_node_feats: names of features of the first block's sources, by node type if there are
            several, as in DGL; likewise the two below.
        prefetch_labels: of the last block's destinations.
        prefetch_edge_feats: of every block's edges.

    Raises:
        ValueError: both or neither of ``queries`` and ``time``, an unknown node type, or a table whose
            columns differ in length.

    """

    def __init__(
        self,
        sampler: MultiHopSampler,
        *,
        queries: Mapping[NodeType, tuple[Tensor, Tensor]] | None = None,
        time: int | None = None,
        prefetch_node_feats: Names | None = None,
        prefetch_labels: Names | None = None,
        prefetch_edge_feats: Names | None = None,
    ) -> None:
        super().__init__(prefetch_node_feats, prefetch_labels, prefetch_edge_feats)
        if (queries is None) == (time is None):
            raise ValueError("give either queries, a time for each seed, or time, one for all")
        for name, (node, node_time) in (queries or {}).items():
            if name not in sampler.node_types or node.shape != node_time.shape:
                raise ValueError(
                    f"queries need one time for each node of the types {sampler.node_types}, got "
                    f"{len(node)} nodes and {len(node_time)} times of {name!r}"
                )
        self.sampler, self.queries, self.time, self.epoch = sampler, queries, time, 0
        self.edge_types = list(sampler.samplers)

    def set_epoch(self, epoch: int) -> None:
        """Draw anew: part of the key of every draw. Call it before each pass over the loader.

        Workers that persist (``persistent_workers=True``) keep the epoch that they began with.
        """
        self.epoch = epoch

    def sample_blocks(
        self, g: Any, seed_nodes: Tensor | Mapping[NodeType, Tensor], exclude_eids: Any = None
    ) -> tuple[Any, Any, list[Any]]:
        """Sample around a batch of indices; DGL calls it by way of ``sample``.

        Raises:
            ValueError: indices out of range or of an unknown type, or edges to exclude.

        """
        if exclude_eids is not None:
            raise ValueError(
                "edges are excluded by time, not by id: give each pair's ends the time of the pair in queries"
            )
        indices = self._by_type(seed_nodes)
        seeds = {name: self._look_up(name, index) for name, index in indices.items()}
        subgraph = self.sampler.sample(seeds, epoch=self.epoch, repeat_seeds=True)
        blocks = to_blocks(subgraph, edge_types=self.edge_types)
        if self.queries is not None:
            for name, index in indices.items():
                blocks[-1].dstnodes[name].data["query"] = index
        output_nodes: Any = {name: node for name, (node, _) in seeds.items()}
        if isinstance(seed_nodes, Tensor) and len(seeds) == 1:
            (output_nodes,) = output_nodes.values()
        return blocks[0].srcdata[dgl.NID], output_nodes, blocks

    def _by_type(self, indices: Tensor | Mapping[NodeType, Tensor]) -> dict[NodeType, Tensor]:
        known = self.sampler.node_types if self.queries is None else list(self.queries)
        if not isinstance(indices, Tensor):
            if not set(indices) <= set(known):
                raise ValueError(f"indices must be of the node types {known}, got {sorted(indices)}")
            return {name: index.long() for name, index in indices.items()}
        if self.queries is None and len(known) != 1:
            raise ValueError(f"indices must be a dict by node type, one of {known}: a tensor does not tell")
        return {name: indices.long() for name in known}

    def _look_up(self, name: NodeType, index: Tensor) -> tuple[Tensor, Tensor]:
        if self.time is not None:
            return index, torch.full_like(index, self.time)
        assert self.queries is not None
        node, time = self.queries[name]
        check_ids(f"query table {name!r}: row", index, len(node))
        return node[index], time[index]
