"""Bags of interests: how often a query's events met each interest in each period, as sparse values.

LURM (Yang et al., 2021, equation 4): in a period, element j of the bag is ``log(1 + n)``, with n the user's
items of interest j. A bag is as wide as there are interests, and stays sparse everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from graph_builders.option_checks import check_whole_number
from graphrec.encoders.interests import ItemInterests
from graphrec.encoders.local_clock import LocalClock
from graphrec.encoders.periods import Scale, check_scale, period_of
from samplers import EventHistory
from samplers.queries import expand_ranges
from samplers.tables import with_zero

MAX_EVENTS = 1 << 18
"""Events that are counted at once: a longer input is counted piece by piece."""
MAX_PERIODS = 10_000
"""Periods of one scale that a life may have."""


@dataclass(frozen=True, eq=False)
class PeriodBags:
    """The bags of one scale, every period from a query's first event to its time, empty ones included.

    Attributes:
        ptr: periods of each query, oldest first: rows ``ptr[i]:ptr[i + 1]``.
        period: number of each row's period.
        row: the row of each entry, in rising order.
        interest: of each entry, once in a row.
        count: how many events, or shares of events, of that row and interest.

    """

    ptr: Int64[Tensor, " num_queries_and_one"]
    period: Int64[Tensor, " num_periods"]
    row: Int64[Tensor, " num_entries"]
    interest: Int64[Tensor, " num_entries"]
    count: Float32[Tensor, " num_entries"]

    @property
    def num_periods(self) -> int:
        """Rows of all queries together."""
        return len(self.period)

    @property
    def value(self) -> Float32[Tensor, " num_entries"]:
        """The bags' non-zero elements, log(1 + count): equation (4)."""
        return self.count.log1p()


@dataclass(frozen=True, kw_only=True, eq=False)
class BagOfInterests:
    """What each query did in each cell of time, from which the bags of every scale follow.

    A cell is the moments that share their period in all scales: with months and years, the months. Cells
    without an event are not stored.

    Attributes:
        scales: of the periods.
        num_interests: D.
        query_ptr: cells of each query, oldest first: ``query_ptr[i]:query_ptr[i + 1]``.
        period: of each cell, its period in each scale.
        last_period: of each query, the period in which its time's last moment lies, in each scale.
        cell_ptr: entries of each cell: ``cell_ptr[i]:cell_ptr[i + 1]``.
        interest: of each entry, rising within a cell.
        count: how many events of the cell have the interest; shares of events add up where assignment is
            soft.

    """

    scales: tuple[Scale, ...]
    num_interests: int
    query_ptr: Int64[Tensor, " num_queries_and_one"]
    period: Int64[Tensor, "num_cells num_scales"]
    last_period: Int64[Tensor, "num_queries num_scales"]
    cell_ptr: Int64[Tensor, " num_cells_and_one"]
    interest: Int64[Tensor, " num_entries"]
    count: Float32[Tensor, " num_entries"]

    def __len__(self) -> int:
        return len(self.query_ptr) - 1

    @property
    def num_cells(self) -> Tensor:
        """Cells of each query with an event; (num_queries,) int64."""
        return self.query_ptr.diff()

    @property
    def num_bytes(self) -> int:
        """Size of the values in memory."""
        tensors = [value for value in vars(self).values() if isinstance(value, Tensor)]
        return sum(value.nbytes for value in tensors)

    def to(self, device: torch.device | str) -> "BagOfInterests":
        """Copy to another device."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in tensors.items()}
        return replace(self, **moved)

    def take(self, query: Int64[Tensor, " num_taken"]) -> "BagOfInterests":
        """Return the given queries, in their order; a query may be named several times."""
        return self._cut(query, torch.zeros_like(query), self.num_cells[query], self.last_period[query])

    def sub_lives(
        self,
        query: Int64[Tensor, " num_taken"],
        first: Int64[Tensor, " num_taken"],
        stop: Int64[Tensor, " num_taken"],
    ) -> "BagOfInterests":
        """Return a continuous part of each given query's life, which ends with its last cell.

        Args:
            query: whose life.
            first: the number of the part's first cell among those of the query.
            stop: that behind its last cell, above ``first`` and at most the query's number of cells.

        Raises:
            ValueError: a part is empty or reaches beyond the life.

        """
        if bool(((first < 0) | (first >= stop) | (stop > self.num_cells[query])).any()):
            raise ValueError(
                "a part of a life needs a cell, and must lie within it: 0 <= first < stop <= cells"
            )
        return self._cut(query, first, stop - first, self.period[self.query_ptr[query] + stop - 1])

    def num_periods(self, scale: int) -> Int64[Tensor, " num_queries"]:
        """Return how many periods of a scale, by its number, each life has: the rows of its bags."""
        return self._first_and_length(scale)[1]

    def periods(self, scale: int) -> PeriodBags:
        """Return the bags of a scale, by its number.

        Raises:
            ValueError: a life has more than ``MAX_PERIODS`` periods.

        """
        query = torch.arange(len(self), device=self.query_ptr.device).repeat_interleave(self.num_cells)
        first, length = self._first_and_length(scale)
        if len(length) and int(length.max()) > MAX_PERIODS:
            raise ValueError(
                f"query {int(length.argmax())} has {int(length.max())} periods of {self.scales[scale]!r}, at "
                f"most {MAX_PERIODS} are allowed: take longer periods, or a window"
            )
        ptr = with_zero(length.cumsum(0))
        row_of_cell = ptr[:-1][query] + self.period[:, scale] - first[query]
        row = row_of_cell.repeat_interleave(self.cell_ptr.diff())
        interest, count = self.interest, self.count
        if bool((row_of_cell.diff() == 0).any()):  # several cells in a period: their counts add up
            key, count = _add_up(row * self.num_interests + interest, count.double())
            row, interest, count = key // self.num_interests, key % self.num_interests, count.float()
        return PeriodBags(ptr, expand_ranges(first, length)[1], row, interest, count)

    def life(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the counts over whole lives: query, interest and count of each entry, each pair once."""
        query = torch.arange(len(self), device=self.query_ptr.device).repeat_interleave(self.num_cells)
        query = query.repeat_interleave(self.cell_ptr.diff())
        key, count = _add_up(query * self.num_interests + self.interest, self.count.double())
        return key // self.num_interests, key % self.num_interests, count.float()

    def _first_and_length(self, scale: int) -> tuple[Tensor, Tensor]:
        """Return each life's first period of a scale, and how many there are up to its last."""
        period, filled = self.period[:, scale], self.num_cells > 0
        first, stop = torch.zeros_like(self.num_cells), torch.zeros_like(self.num_cells)
        first[filled] = period[self.query_ptr[:-1][filled]]
        # where clocks are set back over midnight, an event may lie in a later period than the query's time
        last = torch.maximum(period[self.query_ptr[1:][filled] - 1], self.last_period[filled, scale])
        stop[filled] = last + 1
        return first, stop - first

    def _cut(self, query: Tensor, first: Tensor, num_cells: Tensor, last: Tensor) -> "BagOfInterests":
        _, cell = expand_ranges(self.query_ptr[query] + first, num_cells)
        num_entries = self.cell_ptr.diff()[cell]
        _, entry = expand_ranges(self.cell_ptr[cell], num_entries)
        return BagOfInterests(
            scales=self.scales,
            num_interests=self.num_interests,
            query_ptr=with_zero(num_cells.cumsum(0)),
            period=self.period[cell],
            last_period=last,
            cell_ptr=with_zero(num_entries.cumsum(0)),
            interest=self.interest[entry],
            count=self.count[entry],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class InterestCounter:
    """Turns histories into bags of interests, in bounded memory for lives of any length.

    Beside the history itself, ``MAX_EVENTS`` events are looked at at once, and what is kept is as large as
    there are different interests in each cell, however many events these have.

    Attributes:
        items: the interests of each item; events of items without one do not count.
        clock: of the place where days begin.
        scales: of the periods, each once.

    """

    items: ItemInterests
    clock: LocalClock
    scales: tuple[Scale, ...] = ("month", "year")

    def __post_init__(self) -> None:
        if not isinstance(self.scales, tuple) or not self.scales:
            raise ValueError(f"a bag of interests needs a tuple of scales, got {self.scales!r}")
        for scale in self.scales:
            check_scale(scale)
        if len(set(self.scales)) < len(self.scales):
            raise ValueError(f"a bag of interests needs scales, each once, got {self.scales}")

    def count(
        self, events: EventHistory, time: Int64[Tensor, " num_queries"], *, units_per_second: int = 1
    ) -> BagOfInterests:
        """Count the events of each query.

        Args:
            events: items that were met, before ``time``.
            time: of the queries.
            units_per_second: of all times.

        Raises:
            ValueError: there is not one time a life; an event is not earlier than its query; an item has no
                row among the interests; ``units_per_second`` is no whole number above 0; or there are too
                many queries, periods and interests to number.

        """
        check_whole_number("units_per_second", units_per_second, 1)
        if len(time) != len(events.ptr) - 1:
            raise ValueError(f"each life needs a time, got {len(events.ptr) - 1} lives and {len(time)} times")
        device, num_interests = time.device, self.items.num_interests
        if len(events.neighbor) and int(events.neighbor.max()) >= len(self.items.interest):
            raise ValueError(
                f"an event is of item row {int(events.neighbor.max())}, interests are known for "
                f"{len(self.items.interest)} rows: assign interests to the items of this version of the graph"
            )
        items = self.items.to(device)
        last = self._periods(time - 1, units_per_second)
        pieces = torch.arange(len(events.time), device=device).split(MAX_EVENTS)
        span = last.new_zeros(2, len(self.scales))
        if len(events.time):
            ends = self.clock.local_seconds(torch.stack(events.time.aminmax()), units_per_second)
            # where clocks are set back, they show an earlier hour at a later time
            turn = last.new_tensor([-self.clock.widest_turn, self.clock.widest_turn])
            span = self._periods_of(ends + turn)
        size = (span[1] - span[0] + 1).tolist()
        if len(time) * float(torch.tensor(size).double().prod()) * num_interests >= 2.0**62:
            raise ValueError(
                f"{len(time)} queries, {size} periods and {num_interests} interests are too many to number: "
                "read fewer queries at once, or take longer periods"
            )
        key, count = last.new_empty(0), torch.zeros(0, dtype=torch.float64, device=device)
        for piece in pieces:
            query = torch.searchsorted(events.ptr, piece, right=True) - 1
            late = events.time[piece] >= time[query]
            if bool(late.any()):
                first = int(late.nonzero()[0, 0])
                raise ValueError(
                    f"an event of time {int(events.time[piece][first])} is in the life of query "
                    f"{int(query[first])}, which is asked at {int(time[query[first]])}: a life holds earlier "
                    "events alone"
                )
            cell = _number(query, self._periods(events.time[piece], units_per_second) - span[0], size)
            interest, weight = (table[events.neighbor[piece]] for table in (items.interest, items.weight))
            has_interest = interest >= 0
            new = (cell[:, None] * num_interests + interest)[has_interest]
            key, count = _add_up(torch.cat([key, new]), torch.cat([count, weight[has_interest].double()]))
        cell, num_entries = torch.unique_consecutive(key // num_interests, return_counts=True)
        query, period = _denumber(cell, size)
        return BagOfInterests(
            scales=self.scales,
            num_interests=num_interests,
            query_ptr=with_zero(torch.bincount(query, minlength=len(time)).cumsum(0)),
            period=period + span[0],
            last_period=last,
            cell_ptr=with_zero(num_entries.cumsum(0)),
            interest=key % num_interests,
            count=count.float(),
        )

    def _periods(self, time: Tensor, units_per_second: int) -> Tensor:
        return self._periods_of(self.clock.local_seconds(time, units_per_second))

    def _periods_of(self, local_seconds: Tensor) -> Tensor:
        return torch.stack([period_of(local_seconds, scale) for scale in self.scales], dim=1)


def concatenate_bags(bags: Sequence[BagOfInterests]) -> BagOfInterests:
    """Put bags of the same scales and interests behind one another.

    Raises:
        ValueError: there is none, or they differ in scales or in the number of interests.

    """
    if not bags:
        raise ValueError("nothing to concatenate: at least one bag is needed")
    kinds = {(bag.scales, bag.num_interests) for bag in bags}
    if len(kinds) > 1:
        raise ValueError(
            f"all bags must have the same scales and number of interests, got {sorted(kinds, key=str)}"
        )

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(bag, name) for bag in bags])

    def boundaries(name: str) -> Tensor:
        return with_zero(torch.cat([getattr(bag, name).diff() for bag in bags]).cumsum(0))

    return BagOfInterests(
        scales=bags[0].scales,
        num_interests=bags[0].num_interests,
        query_ptr=boundaries("query_ptr"),
        period=joined("period"),
        last_period=joined("last_period"),
        cell_ptr=boundaries("cell_ptr"),
        interest=joined("interest"),
        count=joined("count"),
    )


def life_matrix(bag: BagOfInterests) -> Any:
    """Return whole lives as one bag each: LURM's baseline that takes the bag itself as the representation.

    Returns:
        scipy's CSR array of float32, (num_queries, num_interests), of log(1 + count).

    """
    from scipy.sparse import csr_array

    query, interest, count = (part.cpu().numpy() for part in bag.life())
    shape = (len(bag), bag.num_interests)
    matrix = csr_array((count, (query, interest)), shape=shape)
    matrix.data = torch.from_numpy(matrix.data).log1p().numpy()
    return matrix


def _number(query: Tensor, period: Tensor, size: list[int]) -> Tensor:
    """One number for a query and its periods, in their order."""
    number = query
    for scale, span in enumerate(size):
        number = number * span + period[:, scale]
    return number


def _denumber(number: Tensor, size: list[int]) -> tuple[Tensor, Tensor]:
    """Return the query and the periods of a number."""
    columns = []
    for span in reversed(size):
        columns.append(number % span)
        number = number // span
    return number, torch.stack(columns[::-1], dim=1)


def _add_up(key: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Return each key once, in rising order, with the sum of its counts."""
    unique, place = key.unique(return_inverse=True)
    return unique, torch.zeros(len(unique), dtype=count.dtype, device=count.device).index_add_(
        0, place, count
    )
