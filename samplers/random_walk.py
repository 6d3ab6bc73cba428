"""Random walks on visible edges: DeepWalk (Perozzi et al., KDD 2014), metapath, time-respecting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int64
from torch import Generator, Tensor

from samplers.csr import TemporalCSR
from samplers.neighbors import EdgeType, NodeType
from samplers.queries import Bound, VisibleEdges, check_options, visible_edges
from samplers.random_numbers import draw_uniform, scale_to_integers

Direction = Literal["forward", "backward"]


@dataclass(frozen=True, eq=False)
class RandomWalks:
    """Walks, one a row; a walk with no way on has ``mask == False`` (and 0 elsewhere) from there.

    ``node_type`` numbers ``node_types``.
    """

    node: Int64[Tensor, "num_walks walk_length"]
    node_type: Int64[Tensor, "num_walks walk_length"]
    mask: Bool[Tensor, "num_walks walk_length"]
    node_types: tuple[NodeType, ...]

    def joint_id(self, node_offset: Mapping[NodeType, int]) -> Int64[Tensor, "num_walks walk_length"]:
        """Node ids in one space for all types: the id plus its type's offset; 0 where masked."""
        offset = torch.tensor([node_offset[name] for name in self.node_types], device=self.node.device)
        return (self.node + offset[self.node_type]).where(self.mask, 0)

    def to(self, device: torch.device | str) -> "RandomWalks":
        """Copy to another device."""
        return RandomWalks(
            self.node.to(device), self.node_type.to(device), self.mask.to(device), self.node_types
        )


def random_walks(
    csrs: Mapping[EdgeType, TemporalCSR],
    start: Int64[Tensor, " num_starts"],
    walk_length: int,
    *,
    start_type: NodeType,
    as_of: Int64[Tensor, " num_starts"],
    walks_per_node: int = 1,
    metapath: Sequence[EdgeType] | None = None,
    direction: Direction | None = None,
    bound: Bound = "strict",
    window: int | None = None,
    random_seed: int = 0,
    epoch: int = 0,
    generator: Generator | None = None,
) -> RandomWalks:
    """Walk from each start; the walks of one start lie together.

    A step goes from a row of a CSR to a column: for edge type (source, relation, destination) from the
    destination to a source, as in ``MultiHopSampler``. It is uniform over the visible edges of the node,
    those of several edge types taken as one pool (so several edges to a neighbour make it likelier).

    Args:
        csrs: edge types to walk on.
        start: first node of each walk.
        walk_length: number of nodes in a walk, the start included.
        start_type: node type of all starts.
        as_of: a walk sees only edges before this time (``bound``), known by then.
        walks_per_node: walks from each start; they differ.
        metapath: step i takes edges of type ``metapath[i % len(metapath)]`` only.
        direction: "forward" takes only edges later than the former step's, "backward" earlier ones, both
            strictly; None does not look at the order.
        bound: "strict" or "inclusive", for ``as_of``.
        window: see only edges with ``edge_time >= as_of - window``.
        random_seed: keys, with epoch, start type, start, ``as_of``, number of the walk and step, every draw.
        epoch: part of the key.
        generator: replaces keyed draws.

    Raises:
        ValueError: a start out of range, or a metapath whose steps do not meet.

    """
    check_options(bound, window)
    if walk_length < 1 or walks_per_node < 1:
        raise ValueError(
            f"walk_length and walks_per_node must be positive, got {walk_length} and {walks_per_node}"
        )
    if direction not in (None, "forward", "backward"):
        raise ValueError(f'direction must be "forward", "backward" or None, got {direction!r}')
    if start.shape != as_of.shape:
        raise ValueError(f"each start needs one time: got {tuple(start.shape)} and {tuple(as_of.shape)}")
    node_types = tuple(sorted({end for source, _, destination in csrs for end in (source, destination)}))
    if start_type not in node_types:
        raise ValueError(f"start_type must be one of {node_types}, got {start_type!r}")
    _check_metapath(csrs, metapath, start_type, walk_length)

    walk = torch.arange(walks_per_node, device=start.device).repeat(len(start))
    start, as_of = start.repeat_interleave(walks_per_node), as_of.repeat_interleave(walks_per_node)
    node = torch.zeros(len(start), walk_length, dtype=torch.int64, device=start.device)
    node_type, mask = torch.zeros_like(node), torch.zeros_like(node, dtype=torch.bool)
    node[:, 0], node_type[:, 0], mask[:, 0] = start, node_types.index(start_type), True
    edge_time: Tensor | None = None  # of the last step
    for step in range(1, walk_length):
        key = (random_seed, epoch, "walk", start_type, start, as_of, walk, step)
        uniform = draw_uniform(tuple(start.shape), start.device, generator, *key)
        step_types = csrs if metapath is None else [metapath[(step - 1) % len(metapath)]]
        new_time = torch.zeros_like(start)
        for code, name in enumerate(node_types):
            here = (mask[:, step - 1] & (node_type[:, step - 1] == code)).nonzero().flatten()
            leaving = [edge_type for edge_type in step_types if edge_type[2] == name]
            if len(here) == 0 or not leaving:
                continue
            before = None if edge_time is None or direction is None else edge_time[here]
            visible = [
                visible_edges(
                    csrs[edge_type],
                    node[here, step - 1],
                    as_of[here],
                    bound=bound,
                    window=window,
                    later_than=before if direction == "forward" else None,
                    earlier_than=before if direction == "backward" else None,
                )
                for edge_type in leaving
            ]
            _take_step(
                [csrs[edge_type] for edge_type in leaving],
                [node_types.index(edge_type[0]) for edge_type in leaving],
                visible,
                uniform[here],
                here,
                (node[:, step], node_type[:, step], mask[:, step], new_time),
            )
        edge_time = new_time
    return RandomWalks(node, node_type, mask, node_types)


def _take_step(
    csrs: list[TemporalCSR],
    source_codes: list[int],
    visible: list[VisibleEdges],
    uniform: Tensor,
    walks: Tensor,
    columns: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    """Draw one edge for each walk out of the pooled edges of all types, and write where it leads."""
    node, node_type, mask, edge_time = columns
    last = torch.stack([edges.count for edges in visible]).cumsum(0)
    number = scale_to_integers(uniform, last[-1])
    for i, (csr, code, edges) in enumerate(zip(csrs, source_codes, visible, strict=True)):
        first = last[i] - edges.count
        chosen = ((number >= first) & (number < last[i])).nonzero().flatten()
        position = edges.position(chosen, (number - first)[chosen])
        row = walks[chosen]
        node[row], node_type[row], mask[row] = csr.col[position].long(), code, True
        edge_time[row] = csr.edge_time[position]


def _check_metapath(
    csrs: Mapping[EdgeType, TemporalCSR],
    metapath: Sequence[EdgeType] | None,
    start_type: NodeType,
    walk_length: int,
) -> None:
    if metapath is None:
        return
    if not metapath:
        raise ValueError("metapath must name at least one edge type, got none")
    here = start_type
    for step in range(walk_length - 1):
        edge_type = metapath[step % len(metapath)]
        if edge_type not in csrs:
            raise ValueError(f"metapath names {edge_type}, the CSRs are {sorted(csrs)}")
        if edge_type[2] != here:
            raise ValueError(
                f"step {step} of the metapath is at a {here!r} node: it needs an edge type whose "
                f"destination is {here!r}, got {edge_type} (a step goes from destination to source)"
            )
        here = edge_type[0]
