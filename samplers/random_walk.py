"""Random walks on visible edges: DeepWalk (Perozzi et al., KDD 2014), node2vec, metapath, time-respecting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Generator, Tensor

from samplers.csr import TemporalCSR, check_column, check_ids
from samplers.multi_hop import count_nodes
from samplers.neighbors import EdgeType, NodeType
from samplers.pairs import shares_visible_edge
from samplers.queries import (
    Bound,
    Engine,
    VisibleEdges,
    check_options,
    earlier_by,
    first_unseen_time,
    use_compiled,
    visible_edges,
)
from samplers.random_numbers import Key, draw_key, keyed_uniform, scale_to_integers, word_of

Direction = Literal["forward", "backward"]
_MAX_RATIO = 2**20


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
    p: float = 1.0,
    q: float = 1.0,
    direction: Direction | None = None,
    bound: Bound = "strict",
    window: int | None = None,
    random_seed: int = 0,
    epoch: int = 0,
    generator: Generator | None = None,
    engine: Engine = "auto",
) -> RandomWalks:
    """Walk from each start; the walks of one start lie together.

    A step goes from a row of a CSR to a column: for edge type (source, relation, destination) from the
    destination to a source, as in ``MultiHopSampler``. It is uniform over the visible edges of the node,
    those of several edge types taken as one pool (so several edges to a neighbour make it likelier).

    ``p`` and ``q`` other than 1 make it node2vec's second-order walk (Grover, Leskovec: node2vec, KDD 2016,
    section 3.2.2). From the second step on, an edge to x weighs, where t is the node visited before this:

    - 1 / p if x is t;
    - 1 if x is a neighbour of t: any of ``csrs`` has a visible edge in the row of t and the column x,
      whatever the metapath and the direction (on an undirected graph both ends have the edge in their row);
    - 1 / q otherwise. On a bipartite graph x is never a neighbour of t.

    Steps are drawn by rejection, which is exact; it takes up to max(1/p, 1, 1/q) / min(1/p, 1, 1/q) draws on
    average. With ``q != 1`` on a graph where x can be a neighbour of t, edges are sorted by column at the
    first call with a CSR, and kept beside it.

    Args:
        csrs: edge types to walk on, all on one device.
        start: first node of each walk.
        walk_length: number of nodes in a walk, the start included.
        start_type: node type of all starts.
        as_of: a walk sees only edges before this time (``bound``), known by then.
        walks_per_node: walks from each start; they differ.
        metapath: step i takes edges of type ``metapath[i % len(metapath)]`` only.
        p: node2vec's return parameter: the larger, the rarer a step back to where the walk came from.
        q: node2vec's in-out parameter: the larger, the nearer a walk stays to where it was.
        direction: "forward" takes only edges later than the former step's, "backward" earlier ones, both
            strictly; None does not look at the order.
        bound: "strict" or "inclusive", for ``as_of``.
        window: see only edges with time >= ``as_of - window``.
        random_seed: keys, with epoch, start type, start, ``as_of``, number of the walk and step, every draw.
        epoch: part of the key.
        generator: one number from it and the walk's place in the batch key the draws instead.
        engine: "numba" walks in compiled code on the CPU, "torch" takes a step of all walks at once on any
            device; both make the same walks. "auto" is numba where the CSRs lie on the CPU.

    Raises:
        ValueError: a start out of range, a metapath whose steps do not meet, ``p`` or ``q`` not positive or
            so far apart that rejection would not end.

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
    _check_parameters(p, q)
    graph = _Graph.of(csrs, walk_length, start_type, metapath)
    graph.check_starts(start, as_of, start_type)
    code = graph.node_types.index(start_type)
    options = _Options(walk_length, walks_per_node, p, q, direction, bound, window)
    prefix: tuple[int | str, ...] = (random_seed, epoch, "walk", start_type)
    if generator is not None:
        prefix = (draw_key(generator),)
    by_place = generator is not None
    walk = _walk_compiled if use_compiled(engine, start.device) else _walk_torch
    return walk(graph, options, start, as_of, code, prefix, by_place)


class _Options(NamedTuple):
    """What a caller asked for, beside the graph."""

    walk_length: int
    walks_per_node: int
    p: float
    q: float
    direction: Direction | None
    bound: Bound
    window: int | None


@dataclass(frozen=True, eq=False)
class _Graph:
    """Edge types by number, node types by code.

    Attributes:
        csrs: in the order of their edge types.
        node_types: the type of each code.
        source_code: type of the columns of each CSR.
        leaving: for each step of the metapath and each code, the CSRs that lead on.
        joining: for each pair (code of the rows, code of the columns), the CSRs of it.

    """

    csrs: list[TemporalCSR]
    node_types: tuple[NodeType, ...]
    source_code: list[int]
    leaving: list[list[list[int]]]
    joining: list[list[list[int]]]

    @classmethod
    def of(
        cls,
        csrs: Mapping[EdgeType, TemporalCSR],
        walk_length: int,
        start_type: NodeType,
        metapath: Sequence[EdgeType] | None,
    ) -> "_Graph":
        node_types = tuple(sorted({end for source, _, destination in csrs for end in (source, destination)}))
        if start_type not in node_types:
            raise ValueError(f"start_type must be one of {node_types}, got {start_type!r}")
        _check_metapath(csrs, metapath, start_type, walk_length)
        count_nodes(csrs)
        edge_types = sorted(csrs)
        steps = [edge_types] if metapath is None else [[edge_type] for edge_type in metapath]
        return cls(
            [csrs[edge_type] for edge_type in edge_types],
            node_types,
            [node_types.index(source) for source, _, _ in edge_types],
            [[[edge_types.index(e) for e in step if e[2] == name] for name in node_types] for step in steps],
            [
                [[i for i, e in enumerate(edge_types) if (e[2], e[0]) == (t, x)] for x in node_types]
                for t in node_types
            ],
        )

    def check_starts(self, start: Tensor, as_of: Tensor, start_type: NodeType) -> None:
        """Raise ``ValueError`` unless starts are nodes of their type and lie where the graph does."""
        check_column("start", start)
        check_column("as_of", as_of)
        code = self.node_types.index(start_type)
        rows = [csr for i, csr in enumerate(self.csrs) if any(i in step[code] for step in self.leaving)]
        for csr in self.csrs:
            if not start.device == as_of.device == csr.device:
                raise ValueError(
                    f"starts and times must lie where the graph does, on {csr.device}, got {start.device} "
                    f"and {as_of.device}"
                )
        if rows:
            check_ids("start", start, min(csr.num_rows for csr in rows))

    def can_be_close(self) -> bool:
        """Whether the third of three nodes in a walk can be a neighbour of the first."""
        ways = [
            (code, self.source_code[i])
            for step in self.leaving
            for code, csrs in enumerate(step)
            for i in csrs
        ]
        return any(v == w and self.joining[t][x] for t, v in ways for w, x in ways)


def _walk_compiled(
    graph: _Graph,
    options: _Options,
    start: Tensor,
    as_of: Tensor,
    start_code: int,
    prefix: tuple[int | str, ...],
    by_place: bool,
) -> RandomWalks:
    from samplers.compiled import run, walks

    back, far, most = _weights(graph, options)
    second_order = options.p != 1 or options.q != 1
    same_view = options.direction is None and len(as_of) > 0 and bool((as_of == as_of[0]).all())
    described = walks.walk_table(
        graph.csrs,
        graph.source_code,
        with_ranges=same_view,
        with_pairs=second_order and far != 1 and graph.can_be_close(),
    )
    leaving = [csrs for step in graph.leaving for csrs in step]
    num_walks = len(start) * options.walks_per_node
    out = (
        torch.empty(num_walks, options.walk_length, dtype=torch.int64),
        torch.empty(num_walks, options.walk_length, dtype=torch.int64),
        torch.empty(num_walks, options.walk_length, dtype=torch.bool),
    )
    run(
        walks.walk,
        num_walks,
        described.like,
        described.table,
        len(graph.node_types),
        len(graph.leaving),
        max(len(csrs) for csrs in leaving),
        _ragged(leaving),
        _ragged([csrs for row in graph.joining for csrs in row]),
        start.contiguous().numpy(),
        as_of.contiguous().numpy(),
        start_code,
        options.walks_per_node,
        options.bound == "inclusive",
        options.window or 0,
        {None: 0, "forward": walks.FORWARD, "backward": walks.BACKWARD}[options.direction],
        second_order,
        (back, far, most),
        np.uint64(word_of(*prefix)),
        by_place,
        (out[0].numpy(), out[1].numpy(), out[2].numpy().view(np.uint8)),
    )
    return RandomWalks(*out, graph.node_types)


def _ragged(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Put lists one behind the other: where each begins, and their numbers."""
    ptr = np.cumsum([0, *(len(numbers) for numbers in lists)])
    return ptr, np.array([number for numbers in lists for number in numbers], np.int64)


def _walk_torch(
    graph: _Graph,
    options: _Options,
    start: Tensor,
    as_of: Tensor,
    start_code: int,
    prefix: tuple[int | str, ...],
    by_place: bool,
) -> RandomWalks:
    device = start.device
    number = torch.arange(options.walks_per_node, device=device).repeat(len(start))
    start = start.repeat_interleave(options.walks_per_node)
    as_of = as_of.repeat_interleave(options.walks_per_node)
    place = torch.arange(len(start), device=device)
    keys: tuple[Key, ...] = (*prefix, place) if by_place else (*prefix, start, as_of, number)
    node = torch.zeros(len(start), options.walk_length, dtype=torch.int64, device=device)
    node_type, mask = torch.zeros_like(node), torch.zeros_like(node, dtype=torch.bool)
    node[:, 0], node_type[:, 0], mask[:, 0] = start, start_code, True
    last_time = torch.zeros_like(start)
    second_order = options.p != 1 or options.q != 1
    for step in range(1, options.walk_length):
        for code, leaving in enumerate(graph.leaving[(step - 1) % len(graph.leaving)]):
            here = (mask[:, step - 1] & (node_type[:, step - 1] == code)).nonzero().flatten()
            if len(here) == 0 or not leaving:
                continue
            towards = options.direction if step > 1 else None
            pool = _Pool(
                graph,
                leaving,
                [
                    visible_edges(
                        graph.csrs[i],
                        node[here, step - 1],
                        as_of[here],
                        bound=options.bound,
                        window=options.window,
                        later_than=last_time[here] if towards == "forward" else None,
                        earlier_than=last_time[here] if towards == "backward" else None,
                    )
                    for i in leaving
                ],
            )
            step_keys = (*(key[here] if isinstance(key, Tensor) else key for key in keys), step)
            if second_order and step > 1:
                before = node[here, step - 2], node_type[here, step - 2]
                drawn = _draw_second_order(graph, options, pool, before, as_of[here], step_keys)
            else:
                drawn = pool.draw(torch.arange(len(here), device=device), keyed_uniform(*step_keys))
            moved = pool.total > 0
            node[here, step], node_type[here, step], last_time[here] = (
                column.where(moved, 0) for column in drawn
            )
            mask[here, step] = moved
    return RandomWalks(node, node_type, mask, graph.node_types)


class _Pool:
    """The edges of several types that walks may take, numbered one type after the other."""

    def __init__(self, graph: _Graph, leaving: list[int], visible: list[VisibleEdges]) -> None:
        self.graph, self.leaving, self.visible = graph, leaving, visible
        self.last = torch.stack([edges.count for edges in visible]).cumsum(0)
        self.total = self.last[-1]

    def draw(self, walk: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draw an edge for each of these walks: the node and type it leads to, its time; 0 without one."""
        number = scale_to_integers(uniform, self.total[walk])
        node, code, time = torch.zeros_like(walk), torch.zeros_like(walk), torch.zeros_like(walk)
        for i, edges, last in zip(self.leaving, self.visible, self.last, strict=True):
            first = (last - edges.count)[walk]
            chosen = ((number >= first) & (number < last[walk])).nonzero().flatten()
            position = edges.position(walk[chosen], (number - first)[chosen])
            node[chosen] = self.graph.csrs[i].look_up("col", position).long()
            time[chosen] = self.graph.csrs[i].look_up("edge_time", position)
            code[chosen] = self.graph.source_code[i]
        return node, code, time


def _draw_second_order(
    graph: _Graph,
    options: _Options,
    pool: _Pool,
    before: tuple[Tensor, Tensor],
    as_of: Tensor,
    keys: tuple[Key, ...],
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw again and again until every walk has accepted an edge, by its weight."""
    last_node, last_code = before
    back, far, most = _weights(graph, options)
    result = tuple(torch.zeros_like(as_of) for _ in range(3))
    rest = (pool.total > 0).nonzero().flatten()
    attempt = 0
    while len(rest):
        attempt_keys = (*(key[rest] if isinstance(key, Tensor) else key for key in keys), attempt)
        node, code, time = pool.draw(rest, keyed_uniform(*attempt_keys))
        returns = (node == last_node[rest]) & (code == last_code[rest])
        weight = torch.where(returns, back, torch.full_like(returns, far, dtype=torch.float64))
        for t, codes in enumerate(graph.joining):
            for x, csrs in enumerate(codes):
                here = (~returns & (last_code[rest] == t) & (code == x)).nonzero().flatten()
                if far == 1 or not csrs or len(here) == 0:
                    continue
                time_here = as_of[rest[here]]
                low = torch.full_like(time_here, torch.iinfo(torch.int64).min)
                if options.window is not None:
                    low = earlier_by(time_here, options.window)
                unseen = first_unseen_time(time_here, options.bound)
                pair = last_node[rest[here]], node[here], low, unseen
                close = torch.stack([shares_visible_edge(graph.csrs[i], *pair) for i in csrs]).any(0)
                weight[here[close]] = 1.0
        accepted = keyed_uniform(*attempt_keys, 1) * most < weight
        for column, drawn in zip(result, (node, code, time), strict=True):
            column[rest[accepted]] = drawn[accepted]
        rest = rest[~accepted]
        attempt += 1
    return result[0], result[1], result[2]


def _weights(graph: _Graph, options: _Options) -> tuple[float, float, float]:
    """Weights of a step back and of a step away, and the largest that a step can have."""
    back, far = 1 / options.p, 1 / options.q
    return back, far, max(back, far, 1.0) if graph.can_be_close() else max(back, far)


def _check_parameters(p: float, q: float) -> None:
    if not (p > 0 and q > 0 and max(1 / p, 1 / q, 1) <= _MAX_RATIO * min(1 / p, 1 / q, 1)):
        raise ValueError(
            f"p and q must be positive, and none of 1/p, 1 and 1/q more than {_MAX_RATIO} times another, "
            f"got p={p} and q={q}"
        )


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
