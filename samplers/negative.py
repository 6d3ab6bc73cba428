"""Negatives that exist at the query time and that the seed has not met before it."""

from typing import Literal

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from samplers.csr import TemporalCSR
from samplers.queries import (
    MAX_EXPANDED,
    Bound,
    bisect_rows,
    check_options,
    check_queries,
    count_edges,
    in_bound,
)
from samplers.random_numbers import keyed_uniform, scale_to_integers

Distribution = Literal["uniform", "popularity"]
_NUM_ROUNDS = 8  # of rejection, before the few slots left are drawn from a list of what is allowed


class NegativeSampler:
    """Draw items that a seed has no visible edge to, as of its time.

    Args:
        csr: rows are seeds (users), columns items; its visible edges are the known positives.
        num_items: ids of items lie in [0, num_items).
        distribution: "uniform" over the items that exist; "popularity": proportional to count ** power, where
            count is the number of the item's edges in ``item_csr`` visible at the seed's time (an item
            without any is never drawn).
        power: 0.75 as in word2vec (Mikolov et al., NeurIPS 2013).
        item_csr: for "popularity": rows are items.
        catalogue_time: an item exists at and after this time, (num_items,); None: always.
        bound: "strict" knows edges with time < seed_time, "inclusive" also those at it.
        random_seed: keys, with epoch, seed, time and slot, every draw.

    Draws are independent, so an item may come twice. They are exact: proposals that are positives are
    rejected, and what is left after some rounds is drawn from the list of all allowed items. "Popularity"
    counts all items once for each distinct time in a batch: seeds that share a time are cheap.

    """

    def __init__(
        self,
        csr: TemporalCSR,
        *,
        num_items: int,
        distribution: Distribution = "uniform",
        power: float = 0.75,
        item_csr: TemporalCSR | None = None,
        catalogue_time: Int64[Tensor, " num_items"] | None = None,
        bound: Bound = "strict",
        random_seed: int = 0,
    ) -> None:
        check_options(bound, None)
        if num_items < csr.num_cols or num_items * csr.num_rows >= 2**63:
            raise ValueError(
                f"num_items must be at least the {csr.num_cols} columns, and num_items * num_rows fit in 63 "
                f"bits, got {num_items} items and {csr.num_rows} rows"
            )
        if distribution not in ("uniform", "popularity"):
            raise ValueError(f'distribution must be "uniform" or "popularity", got {distribution!r}')
        if distribution == "popularity" and (item_csr is None or item_csr.num_rows != num_items):
            raise ValueError(f'distribution="popularity" needs item_csr, a CSR of {num_items} rows')
        if catalogue_time is not None and len(catalogue_time) != num_items:
            raise ValueError(f"catalogue_time needs {num_items} values, got {len(catalogue_time)}")
        self.csr, self.num_items, self.bound, self.random_seed = csr, num_items, bound, random_seed
        self.item_csr = item_csr if distribution == "popularity" else None
        self.power = power
        if catalogue_time is None:
            catalogue_time = torch.full((num_items,), torch.iinfo(torch.int64).min, device=csr.device)
        self.catalogue_time = catalogue_time
        self.sorted_time, self.item_by_time = catalogue_time.sort(stable=True)
        self.pair_key, self.pair_time = _first_known(csr, num_items)

    def sample(
        self,
        seed: Int64[Tensor, " num_seeds"],
        seed_time: Int64[Tensor, " num_seeds"],
        num_negatives: int,
        *,
        epoch: int = 0,
    ) -> tuple[Int64[Tensor, "num_seeds num_negatives"], Bool[Tensor, "num_seeds num_negatives"]]:
        """Draw ``num_negatives`` items for each seed: ids, and a mask that is False where none is allowed.

        Raises:
            ValueError: a seed is not a row of the CSR.

        """
        check_queries(self.csr, seed, seed_time)
        node = torch.zeros(len(seed), num_negatives, dtype=torch.int64, device=self.csr.device)
        mask = torch.zeros_like(node, dtype=torch.bool)
        if self.item_csr is None:
            groups = [torch.arange(len(seed), device=self.csr.device)]
        else:
            time_code = torch.unique(seed_time, return_inverse=True)[1]
            times_a_group = max(1, MAX_EXPANDED // max(self.num_items, 1))
            group = time_code // times_a_group
            groups = list(group.argsort(stable=True).split(torch.bincount(group).tolist()))
        for queries in groups:
            node[queries], mask[queries] = self._sample_group(
                seed[queries], seed_time[queries], num_negatives, epoch
            )
        return node, mask

    def is_positive(
        self, seed: Int64[Tensor, "*shape"], item: Int64[Tensor, "*shape"], time: Int64[Tensor, "*shape"]
    ) -> Bool[Tensor, "*shape"]:
        """Whether the seed has an edge to the item that is visible at the time."""
        if len(self.pair_key) == 0:
            return torch.zeros_like(item, dtype=torch.bool)
        key = seed * self.num_items + item
        place = torch.searchsorted(self.pair_key, key).clamp(max=len(self.pair_key) - 1)
        return (self.pair_key[place] == key) & in_bound(self.pair_time[place], time, self.bound)

    def _sample_group(
        self, seed: Tensor, time: Tensor, num_negatives: int, epoch: int
    ) -> tuple[Tensor, Tensor]:
        cumulative, table_row = self._cumulative_popularity(time)
        if cumulative is None:
            total = torch.searchsorted(self.sorted_time, time, right=True)
        else:
            total = cumulative[table_row, -1]
        node = torch.zeros(len(seed), num_negatives, dtype=torch.int64, device=seed.device)
        mask = torch.zeros_like(node, dtype=torch.bool)
        query, slot = (total > 0)[:, None].expand_as(mask).nonzero(as_tuple=True)
        for attempt in range(_NUM_ROUNDS):
            uniform = keyed_uniform(
                self.random_seed, epoch, "negative", seed[query], time[query], slot, attempt
            )
            if cumulative is None:
                item = self.item_by_time[scale_to_integers(uniform, total[query])]
            else:
                item = _invert(cumulative, table_row[query], uniform * total[query])
            accepted = ~self.is_positive(seed[query], item, time[query])
            node[query[accepted], slot[accepted]] = item[accepted]
            mask[query[accepted], slot[accepted]] = True
            query, slot = query[~accepted], slot[~accepted]
        self._draw_from_list(cumulative, table_row, seed, time, query, slot, epoch, node, mask)
        return node, mask

    def _draw_from_list(
        self,
        cumulative: Tensor | None,
        table_row: Tensor,
        seed: Tensor,
        time: Tensor,
        query: Tensor,
        slot: Tensor,
        epoch: int,
        node: Tensor,
        mask: Tensor,
    ) -> None:
        """Fill slots that rejection left open: list every allowed item of the seeds concerned."""
        if len(query) == 0:
            return
        items = torch.arange(self.num_items, device=seed.device)
        for rows in torch.split(torch.unique(query), max(1, MAX_EXPANDED // max(self.num_items, 1))):
            shape = (len(rows), self.num_items)
            if cumulative is None:
                weight = (self.catalogue_time <= time[rows, None]).double()
            else:
                weight = cumulative[table_row[rows]].diff(dim=1, prepend=cumulative.new_zeros(len(rows), 1))
            positive = self.is_positive(
                seed[rows, None].expand(shape), items.expand(shape), time[rows, None].expand(shape)
            )
            allowed = weight.masked_fill(positive, 0.0).cumsum(1)
            here = ((query >= rows[0]) & (query <= rows[-1])).nonzero().flatten()
            row = torch.searchsorted(rows, query[here])
            here, row = here[allowed[row, -1] > 0], row[allowed[row, -1] > 0]
            uniform = keyed_uniform(
                self.random_seed, epoch, "negative", seed[query[here]], time[query[here]], slot[here], -1
            )
            node[query[here], slot[here]] = _invert(allowed, row, uniform * allowed[row, -1])
            mask[query[here], slot[here]] = True

    def _cumulative_popularity(self, time: Tensor) -> tuple[Tensor | None, Tensor]:
        """Compute running sums of the items' weights, a row for each distinct time; and each query's row."""
        if self.item_csr is None:
            return None, time
        distinct, row = torch.unique(time, return_inverse=True)
        items = torch.arange(self.num_items, device=time.device)
        count = count_edges(
            self.item_csr,
            items.repeat(len(distinct)),
            distinct.repeat_interleave(self.num_items),
            bound=self.bound,
        ).view(len(distinct), self.num_items)
        weight = count.double().pow(self.power).masked_fill(count == 0, 0.0)  # 0 ** 0 would be 1
        return weight.masked_fill(self.catalogue_time > distinct[:, None], 0.0).cumsum(1), row


def _invert(cumulative: Tensor, row: Tensor, target: Tensor) -> Tensor:
    """First column of each row whose running sum is above the target: never one of weight 0."""
    width = cumulative.shape[1]
    place = bisect_rows(cumulative.flatten(), row * width, (row + 1) * width, target, side="right")
    return place - row * width


def _first_known(csr: TemporalCSR, num_items: int) -> tuple[Tensor, Tensor]:
    """Distinct (row, column) pairs as sorted keys, and when each was first known."""
    csr = csr.compact()
    key = csr.row_of_edge() * num_items + csr.col
    known = csr.edge_time if csr.available_time is None else csr.available_time
    pair, code = torch.unique(key, return_inverse=True)
    latest = torch.full_like(pair, torch.iinfo(torch.int64).max)
    return pair, latest.scatter_reduce(0, code, known, "amin")
