"""Negatives that exist at the query time and are no known positives: uniform, by popularity, historical."""

from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Generator, Tensor

from samplers.csr import TemporalCSR, check_ids
from samplers.edge_sort import sort_edges
from samplers.queries import (
    MAX_EXPANDED,
    Bound,
    Engine,
    bisect_rows,
    check_options,
    check_queries,
    compiled_queries,
    count_edges,
    expand_ranges,
    first_unseen_time,
    pieces,
    use_compiled,
    visible_edges,
)
from samplers.random_numbers import (
    Key,
    draw_key,
    fixed_point_exp2,
    keyed_bits,
    log2,
    scale_to_integers,
    uniform_after,
)

Distribution = Literal["uniform", "popularity", "historical"]
_NUM_ROUNDS = 7  # of rejection, each with twice the attempts of the former, before all items are listed


class NegativeSampler:
    """Draw items for a seed as of its time, independently: an item may come twice.

    Three distributions, over the items that exist at the seed's time:

    - "uniform": all items that the seed has no visible edge to are equally likely.
    - "popularity": of the same items, in proportion to count ** power, where count is the number of the
      item's edges in ``item_csr`` visible at the seed's time; an item without any is never drawn. ``power=0``
      draws uniformly from the items that anyone has met, which is historical for any source.
    - "historical": uniform over the distinct items that the seed itself has a visible edge to, as the
      Temporal Graph Benchmark's historical negatives (Huang et al., NeurIPS 2023; Poursafaei et al., NeurIPS
      2022): what it met before and does not meet now. Such items are positives of the past by definition;
      those of the query itself are given as ``positive`` and never drawn.

    All draws are exact. Uniform and historical ones need a single number: the rank among the items that are
    allowed. Popularity is drawn by rejection: with probability ``power`` the item of a uniform visible edge,
    else a uniform item that has one, accepted with probability r ** power / (1 + power * (r - 1)), where r is
    the item's count over the mean count; what is left after 127 attempts is drawn from a list of all items.
    Acceptance is compared in units of 2^-31. No draw depends on edges that are not visible at its time.

    Args:
        csr: rows are seeds (users), columns items; its visible edges are the known positives.
        num_items: ids of items lie in [0, num_items).
        distribution: see above.
        power: in [0, 1]; 0.75 as in word2vec (Mikolov et al., NeurIPS 2013).
        item_csr: for "popularity": rows are items. Twelve bytes an edge are kept besides.
        catalogue_time: an item exists at and after this time, (num_items,); None: always.
        bound: "strict" knows edges with time < seed_time, "inclusive" also those at it.
        random_seed: keys, with epoch, seed, time and slot, every draw.
        engine: "numba" uses compiled loops on the CPU, "torch" works on the batch at once on any device; both
            draw the same. "auto" is numba where the CSR lies on the CPU.

    """

    def __init__(
        self,
        csr: TemporalCSR,
        *,
        num_items: int,
        distribution: Distribution = "uniform",
        power: float = 0.75,
        item_csr: TemporalCSR | None = None,
        catalogue_time: Int64[Tensor, " num_catalogue"] | None = None,
        bound: Bound = "strict",
        random_seed: int = 0,
        engine: Engine = "auto",
    ) -> None:
        check_options(bound, None)
        if num_items < csr.num_cols:
            raise ValueError(f"num_items must be at least the {csr.num_cols} columns, got {num_items} items")
        if distribution not in ("uniform", "popularity", "historical"):
            raise ValueError(
                f'distribution must be "uniform", "popularity" or "historical", got {distribution!r}'
            )
        if distribution == "popularity" and (item_csr is None or item_csr.num_rows != num_items):
            raise ValueError(f'distribution="popularity" needs item_csr, a CSR of {num_items} rows')
        if not 0 <= power <= 1:
            raise ValueError(f"power must lie in [0, 1], got {power}")
        if catalogue_time is not None and len(catalogue_time) != num_items:
            raise ValueError(f"catalogue_time needs {num_items} values, got {len(catalogue_time)}")
        self.csr, self.num_items, self.distribution, self.power = csr, num_items, distribution, power
        self.item_csr = item_csr if distribution == "popularity" else None
        self.bound, self.random_seed, self.engine = bound, random_seed, engine
        self.is_compiled = use_compiled(engine, csr.device)
        self.has_catalogue = catalogue_time is not None
        if catalogue_time is None:
            catalogue_time = torch.full((num_items,), torch.iinfo(torch.int64).min, device=csr.device)
        # a rank is an item's place in the order of catalogue times: those that exist are the first so many
        self.sorted_time, self.item_of_rank = catalogue_time.sort(stable=True)
        self.rank_of_item = torch.empty_like(self.item_of_rank)
        self.rank_of_item[self.item_of_rank] = torch.arange(num_items, device=csr.device)

    def sample(
        self,
        seed: Int64[Tensor, " num_seeds"],
        seed_time: Int64[Tensor, " num_seeds"],
        num_negatives: int,
        *,
        positive: Int64[Tensor, "num_seeds num_positives"] | None = None,
        epoch: int = 0,
        generator: Generator | None = None,
    ) -> tuple[Int64[Tensor, "num_seeds num_negatives"], Bool[Tensor, "num_seeds num_negatives"]]:
        """Draw ``num_negatives`` items for each seed: ids, and a mask that is False where none is allowed.

        Args:
            seed: rows of the CSR, in any order.
            seed_time: the time of each.
            num_negatives: how many for each seed.
            positive: items that are positive in the query itself, and never drawn for it. Under the strict
                bound the query's own edge is not visible, so it can be drawn unless it is given here.
            epoch: part of the key of every draw.
            generator: draws are keyed by one number from it and the seed's place in the batch instead.

        Raises:
            ValueError: a seed is not a row of the CSR, or a positive is not an item.

        """
        check_queries(self.csr, seed, seed_time)
        if positive is None:
            positive = seed.new_empty(len(seed), 0)
        if positive.dim() != 2 or len(positive) != len(seed) or positive.dtype != torch.int64:
            raise ValueError(
                f"positive must be int64 of shape ({len(seed)}, num_positives), a row for each seed, got "
                f"{positive.dtype} of shape {tuple(positive.shape)}"
            )
        if num_negatives < 0:
            raise ValueError(f"num_negatives must be at least 0, got {num_negatives}")
        check_ids("positive", positive, self.num_items)
        keys: tuple[Key, ...] = (self.random_seed, epoch, "negative", seed, seed_time)
        if generator is not None:
            keys = (draw_key(generator), torch.arange(len(seed), device=seed.device))
        state = keyed_bits(*keys)
        node = torch.zeros(len(seed), num_negatives, dtype=torch.int64, device=self.csr.device)
        mask = torch.zeros_like(node, dtype=torch.bool)
        count = self._count(self.csr, seed, seed_time)
        for piece in pieces(count):
            listed = self._list_known(seed[piece], seed_time[piece], positive[piece], count[piece])
            out = node[piece], mask[piece]
            if self.distribution == "popularity":
                self._draw_by_popularity(seed_time[piece], state[piece], listed, out)
            else:
                self._draw_from_ranks(state[piece], listed, out)
        return node, mask

    def is_positive(
        self, seed: Int64[Tensor, "*shape"], item: Int64[Tensor, "*shape"], time: Int64[Tensor, "*shape"]
    ) -> Bool[Tensor, "*shape"]:
        """Whether the seed has an edge to the item that is visible at the time."""
        shape, (seed, item, time) = item.shape, (column.flatten() for column in (seed, item, time))
        check_queries(self.csr, seed, time)
        check_ids("item", item, self.num_items)
        count = self._count(self.csr, seed, time)
        found = torch.zeros_like(seed, dtype=torch.bool)
        for piece in pieces(count):
            nothing = seed.new_empty(len(seed[piece]), 0)
            everything = torch.full_like(seed[piece], self.num_items)
            listed = self._list(seed[piece], time[piece], nothing, count[piece], everything, removes=False)
            query = torch.arange(len(seed[piece]), device=seed.device)
            found[piece] = self._contains(listed, query, self.rank_of_item[item[piece]])
        return found.view(shape)

    def _count(self, csr: TemporalCSR, node: Tensor, time: Tensor) -> Tensor:
        return count_edges(csr, node, time, bound=self.bound, engine=self.engine)

    def _list_known(self, seed: Tensor, time: Tensor, positive: Tensor, count: Tensor) -> "_Listed":
        """List what may not be drawn; for "historical" what may be."""
        num_existing = torch.searchsorted(self.sorted_time, time, right=True)
        return self._list(
            seed, time, positive, count, num_existing, removes=self.distribution == "historical"
        )

    def _list(
        self,
        seed: Tensor,
        time: Tensor,
        extra: Tensor,
        count: Tensor,
        num_existing: Tensor,
        *,
        removes: bool,
    ) -> "_Listed":
        if not self.is_compiled:
            edges = visible_edges(self.csr, seed, time, bound=self.bound)
            query, number = expand_ranges(torch.zeros_like(count), count)
            item = self.csr.look_up("col", edges.position(query, number)).long()
            key = query * self.num_items + self.rank_of_item[item]
            place = torch.arange(len(seed), device=seed.device)[:, None]
            extra_key = (place * self.num_items + self.rank_of_item[extra]).flatten()
            key = torch.unique(key[~torch.isin(key, extra_key)] if removes else torch.cat([key, extra_key]))
            query, rank = key // max(self.num_items, 1), key % max(self.num_items, 1)
            exists = rank < num_existing[query]
            size = torch.bincount(query[exists], minlength=len(seed))
            return _Listed(size.cumsum(0) - size, rank[exists], size, num_existing)
        from samplers.compiled import negatives, run

        room = count if removes else count + extra.shape[1]
        listed = _Listed(
            room.cumsum(0) - room, room.new_empty(int(room.sum())), torch.empty_like(room), num_existing
        )
        node, at, inclusive, _ = compiled_queries(seed, time, self.bound, None)
        run(
            negatives.list_known,
            len(seed),
            self.csr.arrays,
            node,
            at,
            inclusive,
            self.rank_of_item.numpy(),
            extra.contiguous().numpy(),
            removes,
            num_existing.numpy(),
            *(column.numpy() for column in listed[:3]),
        )
        return listed

    def _draw_from_ranks(self, state: Tensor, listed: "_Listed", out: tuple[Tensor, Tensor]) -> None:
        """Draw from the listed ranks, or from those that exist and are not listed."""
        node, mask = out
        from_list = self.distribution == "historical"
        if self.is_compiled:
            from samplers.compiled import negatives, run

            run(
                negatives.draw,
                len(state),
                state.numpy(),
                *(column.numpy() for column in listed),
                from_list,
                self.item_of_rank.numpy(),
                node.numpy(),
                mask.numpy().view(np.uint8),
            )
            return
        free = listed.size if from_list else listed.num_existing - listed.size
        query, slot = (free > 0)[:, None].expand_as(mask).nonzero(as_tuple=True)
        if len(query) == 0:
            return
        number = scale_to_integers(uniform_after(state[query], slot), free[query])
        first, size = listed.first[query], listed.size[query]
        if from_list:
            rank = listed.rank[first + number]
        else:
            owner = torch.arange(len(state), device=state.device).repeat_interleave(listed.size)
            # how many ranks that are not listed come before each listed one
            before = listed.rank - (torch.arange(len(owner), device=state.device) - listed.first[owner])
            if len(before):
                number += bisect_rows(before, first, first + size, number, side="right") - first
            rank = number
        node[query, slot], mask[query, slot] = self.item_of_rank[rank], True

    def _draw_by_popularity(
        self, time: Tensor, state: Tensor, listed: "_Listed", out: tuple[Tensor, Tensor]
    ) -> None:
        node, mask = out
        events = self._events
        unseen = first_unseen_time(time, self.bound)
        num_edges = torch.searchsorted(events.known_time, unseen)
        num_items = torch.searchsorted(events.first_time, unseen)
        query, slot = (num_edges > 0)[:, None].expand_as(mask).nonzero(as_tuple=True)
        first_attempt = 0
        for number in range(_NUM_ROUNDS):
            if len(query) == 0:
                return
            attempt = torch.arange(first_attempt, first_attempt + (1 << number), device=time.device)
            left = []
            for piece in torch.arange(len(query), device=time.device).split(max(1, MAX_EXPANDED >> number)):
                here = query[piece, None].expand(-1, len(attempt)).flatten()
                slots = slot[piece, None].expand(-1, len(attempt)).flatten()
                attempts = attempt.expand(len(piece), -1).flatten()
                item, taken = self._attempt(
                    time[here], state[here], slots, attempts, num_edges[here], num_items[here]
                )
                rank = self.rank_of_item[item]
                taken &= rank < listed.num_existing[here]
                taken &= ~self._contains(listed, here, rank)
                taken = taken.view(-1, len(attempt))
                first = len(attempt) - (taken * (len(attempt) - attempt + first_attempt)).amax(1)
                found = first < len(attempt)
                chosen = item.view(-1, len(attempt)).gather(1, first.clamp(max=len(attempt) - 1)[:, None])[
                    :, 0
                ]
                node[query[piece[found]], slot[piece[found]]] = chosen[found]
                mask[query[piece[found]], slot[piece[found]]] = True
                left.append(piece[~found])
            rest = torch.cat(left)
            query, slot = query[rest], slot[rest]
            first_attempt += 1 << number
        self._draw_from_all_items(time, state, listed, query, slot, out)

    def _attempt(
        self,
        time: Tensor,
        state: Tensor,
        slot: Tensor,
        attempt: Tensor,
        num_edges: Tensor,
        num_items: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Propose an item for each slot and attempt, and decide by its count as of the time."""
        events = self._events
        drawn = uniform_after(state, slot, attempt)
        by_edge = drawn < self.power
        # what is left of the number, once it has told the two apart, is uniform again
        drawn = torch.where(
            by_edge, drawn / max(self.power, 0.5**53), (drawn - self.power) / (1 - self.power or 1)
        )
        size = torch.where(by_edge, num_edges, num_items)
        number = torch.minimum(scale_to_integers(drawn, size), size - 1)
        of_edge = events.item[number.where(by_edge, 0)].long()
        item = torch.where(by_edge, of_edge, events.first_item[number.where(~by_edge, 0)])
        assert self.item_csr is not None
        count = self._count(self.item_csr, item, time)
        ratio = count.double() * num_items.double() / num_edges.double()
        bits = log2((ratio - 1.0) * self.power + 1.0) - log2(ratio) * self.power
        taken = uniform_after(state, slot, attempt, 1) * 2.0**31 < fixed_point_exp2(bits.clamp(min=0.0))
        return item, taken

    def _draw_from_all_items(
        self,
        time: Tensor,
        state: Tensor,
        listed: "_Listed",
        query: Tensor,
        slot: Tensor,
        out: tuple[Tensor, Tensor],
    ) -> None:
        """Fill slots that rejection left open: weigh every item for the seeds concerned."""
        node, mask = out
        assert self.item_csr is not None
        items = torch.arange(self.num_items, device=time.device)
        if len(query) == 0:
            return
        for rows in torch.unique(query).split(max(1, MAX_EXPANDED // max(self.num_items, 1))):
            row = rows.repeat_interleave(self.num_items)
            item = items.repeat(len(rows))
            count = self._count(self.item_csr, item, time[row])
            rank = self.rank_of_item[item]
            allowed = (rank < listed.num_existing[row]) & ~self._contains(listed, row, rank) & (count > 0)
            count = count.where(allowed, 0).view(len(rows), self.num_items)
            most = count.amax(1, keepdim=True).clamp(min=1)
            # whole numbers, so that their sums are the same on every device
            bits = (log2(most.double()) - log2(count.clamp(min=1).double())) * self.power
            weight = fixed_point_exp2(bits.clamp(min=0.0)).clamp(min=1).where(count > 0, 0)
            total = weight.cumsum(1)
            here = ((query >= rows[0]) & (query <= rows[-1])).nonzero().flatten()
            at = torch.searchsorted(rows, query[here])
            here, at = here[total[at, -1] > 0], at[total[at, -1] > 0]
            number = scale_to_integers(uniform_after(state[query[here]], slot[here], -1), total[at, -1])
            number = torch.minimum(number, total[at, -1] - 1)
            first = at * self.num_items
            place = bisect_rows(total.flatten(), first, first + self.num_items, number, side="right") - first
            node[query[here], slot[here]], mask[query[here], slot[here]] = place, True

    def _contains(self, listed: "_Listed", query: Tensor, rank: Tensor) -> Tensor:
        """Whether each rank is listed for its query."""
        found = torch.zeros_like(rank, dtype=torch.bool)
        if len(listed.rank) == 0:
            return found
        if self.is_compiled:
            from samplers.compiled import negatives, run

            columns: Any = [column.numpy() for column in (query, rank, *listed[:3], found)]
            run(negatives.contains, len(query), *columns, least=4096)
            return found
        first = listed.first[query]
        place = bisect_rows(listed.rank, first, first + listed.size[query], rank, side="left")
        inside = place < first + listed.size[query]
        return inside & (listed.rank[place.clamp(max=len(listed.rank) - 1)] == rank)

    @cached_property
    def _events(self) -> "_Events":
        assert self.item_csr is not None
        return _events_of(self.item_csr)

    def __repr__(self) -> str:
        axes: dict[str, object] = {"num_items": self.num_items, "distribution": self.distribution}
        if self.distribution == "popularity":
            axes |= {"power": self.power, "item_csr": self.item_csr}
        axes |= {
            "catalogue_time": "given" if self.has_catalogue else None,
            "bound": self.bound,
            "random_seed": self.random_seed,
            "engine": "numba" if self.is_compiled else "torch",
        }
        options = ", ".join(f"{name}={value!r}" for name, value in axes.items())
        return f"NegativeSampler({self.csr!r}, {options})"


class _Listed(NamedTuple):
    """Ranks listed for each query: ``size[i]`` ascending ones from place ``first[i]`` on.

    ``num_existing`` is how many ranks exist at each query's time; all listed ones do.
    """

    first: Tensor
    rank: Tensor
    size: Tensor
    num_existing: Tensor


class _Events(NamedTuple):
    """All edges in the order in which they became known, and items in that of their first edge."""

    known_time: Tensor
    item: Tensor
    first_time: Tensor
    first_item: Tensor


def _events_of(item_csr: TemporalCSR) -> _Events:
    csr = item_csr.compact()
    known = csr.edge_time if csr.available_time is None else csr.available_time
    order = sort_edges(known, csr.edge_id.long(), None)  # by (known time, edge id): later edges come behind
    item = csr.row_of_edge().to(torch.int32 if csr.num_rows <= 2**31 else torch.int64)
    latest = torch.iinfo(torch.int64).max
    first = torch.full((csr.num_rows,), latest, device=csr.device)
    first = first.scatter_reduce(0, item.long(), known, "amin")
    first_time, first_item = first.sort(stable=True)
    if order is not None:
        known, item = known[order], item[order]
    return _Events(known.contiguous(), item, first_time, first_item)
