"""The (node, time) rows of a subgraph, a table for each node type, each pair once.

Rows are added hop by hop. Those of a hop are ordered by group, then by first appearance: a group is what
shares one time, so that pairs can be equal within a group only. Where the times of reached nodes are those of
edges, there is one group for all.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from samplers.edge_sort import row_of_place
from samplers.one_hop import Loop

PIECE = 1 << 15  # candidates that are sampled and numbered while they are in a core's cache
FEW_NODES = 4  # a candidate: up to so many, a slot for each node costs less than hashing


@dataclass(frozen=True, eq=False)
class Candidates:
    """Nodes that a hop reached through one edge type, for each querying row.

    ``time`` has the shape of ``node``, or one value a row where all its candidates are seen at the row's
    time.
    ``group_ptr`` is the first querying row of each group, and the number of rows; (num_groups + 1,).
    ``loop`` is what will fill the other columns; None where they are filled. Then rows take the place of
    ``node``.
    """

    node: Tensor
    mask: Tensor
    time: Tensor
    group_ptr: Tensor
    loop: Loop | None = None


@dataclass(eq=False)
class NodeTable:
    """The growing rows of one node type."""

    num_nodes: int
    node: Tensor
    time: Tensor
    first_row: int = 0  # of those added last
    num_rows_after_hop: list[int] = field(default_factory=list)
    # for each hop, its groups' first rows, and their end
    group_ptr: list[Tensor] = field(default_factory=list)

    @classmethod
    def empty(cls, num_nodes: int, device: torch.device) -> "NodeTable":
        """Return a table without rows."""
        none = torch.empty(0, dtype=torch.int64, device=device)
        return cls(num_nodes, none, none)

    def add_rows(self, node: Tensor, time: Tensor, group_ptr: Tensor) -> None:
        """Add seeds as the first hop, one row each even where a pair is repeated."""
        self.node, self.time = node, time
        self.group_ptr.append(group_ptr)
        self.num_rows_after_hop.append(len(node))

    def add_hop(
        self, candidates: list[Candidates], num_groups: int, *, keep_open: bool, compiled: bool
    ) -> list[Tensor]:
        """Add rows for what a hop reached; return each candidate's row, 0 where it is masked.

        ``keep_open``: rows of former hops take hits too; otherwise pairs are unique within the hop only.
        """
        known = self.group_ptr if keep_open else []
        num_rows = len(self.node)
        if not candidates:
            new_ptr = torch.full((num_groups + 1,), num_rows, device=self.node.device)
            rows: list[Tensor] = []
        elif compiled:
            rows, new_ptr = self._insert_compiled(candidates, known)
        else:
            rows, new_ptr = self._insert(candidates, known)
        self.first_row = num_rows
        self.group_ptr.append(new_ptr)
        self.num_rows_after_hop.append(len(self.node))
        return rows

    def _insert_compiled(
        self, candidates: list[Candidates], known: list[Tensor]
    ) -> tuple[list[Tensor], Tensor]:
        """Do ``_insert`` piece after piece, in order, while other threads sample the next ones."""
        from samplers.compiled.jit import run_in_order
        from samplers.compiled.tables import hash_size, number_rows

        num_rows, amount = len(self.node), sum(part.node.numel() for part in candidates)
        node, time = (torch.empty(num_rows + amount, dtype=torch.int64) for _ in range(2))
        if num_rows:
            node[:num_rows], time[:num_rows] = self.node, self.time
        nodes = [part.node.contiguous() for part in candidates]
        times, masks = (
            [getattr(part, name).contiguous() for part in candidates] for name in ("time", "mask")
        )
        rows = [
            nodes[kind] if part.loop is not None else torch.empty_like(nodes[kind])
            for kind, part in enumerate(candidates)
        ]
        group_ptr = _rows([part.group_ptr for part in candidates])
        num_groups = group_ptr.shape[1] - 1
        known_ptr = _rows(known) if known else np.empty((0, num_groups + 1), np.int64)
        width = np.array([part.node.shape[1] for part in candidates])
        group, cut = _cut(group_ptr, width, _num_pieces(candidates))
        by_edge_time = candidates[0].time.dim() == 2
        # a slot for each node, where nodes are few and times those of groups; else a hash table
        is_direct = (
            not by_edge_time and self.num_nodes <= FEW_NODES * amount and num_rows + amount < 2**31 - 1
        )
        num_slots = self.num_nodes if is_direct else hash_size(_largest_group(group_ptr, width, known_ptr))
        new_ptr = np.empty(num_groups + 1, np.int64)
        state = np.array([num_rows, -1, 0, 0, 0])
        numbering = (
            *np.array([[c.data_ptr() for c in columns] for columns in (nodes, times, masks, rows)]),
            width,
            by_edge_time,
            group_ptr,
            known_ptr,
            node.numpy(),
            time.numpy(),
            np.zeros(num_slots, np.int32),
            is_direct,
            new_ptr,
            state,
        )

        def sample(i: int) -> None:
            for kind, part in enumerate(candidates):
                if part.loop is not None and cut[i, kind] < cut[i + 1, kind]:
                    part.loop.kernel(int(cut[i, kind]), int(cut[i + 1, kind]), *part.loop.arguments)

        def number(i: int) -> None:
            number_rows(group[i + 1], cut[i], cut[i + 1], *numbering)

        run_in_order(len(cut) - 1, sample, number)
        num_rows = int(new_ptr[-1])
        self.node, self.time = node[:num_rows], time[:num_rows]
        return rows, torch.from_numpy(new_ptr)

    def _insert(self, candidates: list[Candidates], known: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        device, num_groups = self.node.device, len(candidates[0].group_ptr) - 1
        known_group = [row_of_place(ptr) for ptr in known]
        first_known = int(known[0][0]) if known else len(self.node)
        groups, nodes, times = known_group, [self.node[first_known:]], [self.time[first_known:]]
        for part in candidates:
            row = part.mask.nonzero()[:, 0]
            groups = [*groups, row_of_place(part.group_ptr, len(part.mask))[row]]
            nodes.append(part.node[part.mask])
            times.append(part.time[part.mask] if part.time.dim() == 2 else part.time[row])
        group, node, time = (torch.cat(columns) for columns in (groups, nodes, times))
        # rows there are keep their places, then come the candidates, group by group
        num_known, num_rows = len(self.node) - first_known, len(self.node)
        order = torch.argsort(group[num_known:], stable=True) + num_known
        order = torch.cat([torch.arange(num_known, device=device), order])
        place, first = number_in_order(_pair_keys(node, time)[order])
        is_known = first < num_known
        new = order[first[~is_known]]
        # distinct pairs are numbered by first appearance: the known ones first
        number = torch.arange(len(first), device=device)
        row_of_pair = torch.where(is_known, first_known + first, num_rows + number - len(first) + len(new))
        row_of = torch.empty_like(place)
        row_of[order] = row_of_pair[place]
        rows, done = [], num_known
        for part in candidates:
            size = int(part.mask.sum())
            found = torch.zeros_like(part.node)
            found[part.mask] = row_of[done : done + size]
            rows.append(found)
            done += size
        count = torch.bincount(group[new], minlength=num_groups)
        new_ptr = with_zero(count.cumsum(0)) + len(self.node)
        self.node, self.time = torch.cat([self.node, node[new]]), torch.cat([self.time, time[new]])
        return rows, new_ptr


def group_times(time: Tensor, *, compiled: bool) -> tuple[Tensor, int]:
    """Give equal times a number, in order of first appearance; also return how many there are."""
    if not compiled:
        group, first = number_in_order(time)
        return group, len(first)
    from samplers.compiled.tables import group_equal

    group = torch.empty_like(time)
    return group, group_equal(time.contiguous().numpy(), group.numpy())


def ptr_of_groups(group: Tensor, num_groups: int, *, compiled: bool) -> tuple[Tensor, bool]:
    """Return where each group begins once its rows lie side by side, and whether they lie so."""
    if not compiled:
        ptr = with_zero(torch.bincount(group, minlength=num_groups).cumsum(0))
        return ptr, bool((group[1:] >= group[:-1]).all())
    from samplers.compiled.tables import count_groups

    ptr = torch.empty(num_groups + 1, dtype=torch.int64)
    return ptr, count_groups(group.numpy(), ptr.numpy())


def number_in_order(key: Tensor) -> tuple[Tensor, Tensor]:
    """Give distinct keys a number by first appearance; also return the index where each appears first."""
    distinct, code = torch.unique(key, return_inverse=True)
    index = torch.arange(len(key), device=key.device)
    first = torch.full_like(distinct, len(key)).scatter_reduce(0, code, index, "amin")
    first, order = first.sort()
    number = torch.empty_like(order)
    number[order] = torch.arange(len(order), device=key.device)
    return number[code], first


def with_zero(total: Tensor) -> Tensor:
    """Put a 0 before running totals."""
    return torch.cat([total.new_zeros(1), total])


def _cut(group_ptr: np.ndarray, width: np.ndarray, num_pieces: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut querying rows, in the order of groups and in each of edge types, into pieces of equal candidates.

    Returns:
        The group at each of the ``num_pieces + 1`` cuts, and each edge type's first row behind it.

    """
    from samplers.compiled.tables import cut_pieces

    group = np.empty(num_pieces + 1, np.int64)
    cut = np.empty((num_pieces + 1, len(width)), np.int64)
    cut_pieces(group_ptr, width, group, cut)
    return group, cut


def _num_pieces(candidates: list[Candidates]) -> int:
    """Return how many pieces to sample and number; 1 where threads and caches would gain nothing."""
    most = sum(part.node.numel() for part in candidates) // PIECE
    for part in candidates:
        if part.loop is not None:
            most = max(most, len(part.node) // part.loop.least)
    return max(min(most, 8 * torch.get_num_threads()), 1)


def _largest_group(group_ptr: np.ndarray, width: np.ndarray, known_ptr: np.ndarray) -> int:
    """Return how many candidates and known rows a group has at most."""
    amount = width @ (group_ptr[:, 1:] - group_ptr[:, :-1])
    if len(known_ptr):
        amount += (known_ptr[:, 1:] - known_ptr[:, :-1]).sum(0)
    return int(amount.max(initial=0))


def _rows(columns: list[Tensor]) -> np.ndarray:
    """Put columns of one length below each other; without a copy, if there is one alone."""
    return columns[0].numpy()[None] if len(columns) == 1 else np.stack([column.numpy() for column in columns])


def _pair_keys(node: Tensor, time: Tensor) -> Tensor:
    """Give each (node, time) a number, equal for equal pairs alone."""
    if len(time) == 0 or bool((time == time[0]).all()):
        return node
    distinct, code = torch.unique(time, return_inverse=True)
    if int(node.max()) >= (2**63 - 1) // len(distinct):
        node = torch.unique(node, return_inverse=True)[1]
    return node * len(distinct) + code
