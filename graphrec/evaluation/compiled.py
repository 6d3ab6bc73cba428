"""Compiled loops behind the figures: rows put in the order of a code, ranks walked, sums over clusters.

Kernels run without Python's lock, each on a range that is its own, so that plain threads share them out.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, Integer, Shaped, UInt8

from graphrec.compiling import compiled
from graphrec.evaluation import threads

_LEAST_ROWS = 50_000  # of a call that is spread over threads
_NUM_PIECES = 64  # ranges that threads pick from: clusters differ in their work
_SHORT_RUN = 24  # rows that insertion sorts at least as fast as a merge


def run(
    kernel: Callable[..., Any], pieces: list[tuple[int, int]], *arguments: Any, num_rows: int
) -> list[Any]:
    """Return ``kernel(first, stop, *arguments)`` of each piece, which are pieces of ``num_rows`` rows."""
    return run_tasks([(kernel, (*piece, *arguments)) for piece in pieces], num_rows)


def run_tasks(tasks: list[tuple[Callable[..., Any], tuple[Any, ...]]], num_rows: int) -> list[Any]:
    """Call functions with their arguments, in threads where there are rows enough for it to pay."""
    if num_rows < _LEAST_ROWS:
        return [function(*arguments) for function, arguments in tasks]
    return threads.run_tasks(tasks)


def row_pieces(num_rows: int, num_pieces: int) -> list[tuple[int, int]]:
    """Cut ``range(num_rows)`` into at most ``num_pieces`` ranges of equal length."""
    bounds = sorted({num_rows * piece // num_pieces for piece in range(num_pieces + 1)})
    return list(itertools.pairwise(bounds))


def cluster_pieces(ptr: Int64[np.ndarray, " num_clusters_and_one"]) -> list[tuple[int, int]]:
    """Cut the clusters into ranges that hold about the same number of rows."""
    num_rows, num_clusters = int(ptr[-1]), len(ptr) - 1
    at = np.searchsorted(ptr, [num_rows * piece // _NUM_PIECES for piece in range(1, _NUM_PIECES)])
    bounds = sorted({0, *np.minimum(at, num_clusters).tolist(), num_clusters})
    return list(itertools.pairwise(bounds))


def order_by_code(
    code: Integer[np.ndarray, " num_rows"], num_codes: int
) -> tuple[Integer[np.ndarray, " num_rows"], Int64[np.ndarray, " num_codes_and_one"]]:
    """Row numbers in the order of their code, equal codes in the order of rows: a counting sort.

    Returns ``(order, ptr)``: the rows of code c are ``order[ptr[c] : ptr[c + 1]]``, int32 where that holds
    the number of rows. Raises ``ValueError`` for a code outside ``range(num_codes)``.
    """
    code = np.ascontiguousarray(code)
    num_rows = len(code)
    # each piece of rows counts for itself; where codes are many, the counts would outgrow the rows
    pieces = row_pieces(num_rows, threads.num_threads() if num_codes < num_rows // 4 else 1)
    count = np.zeros((max(1, len(pieces)), num_codes), np.int64)
    tasks = [(_count_codes, (*piece, code, count[number])) for number, piece in enumerate(pieces)]
    wrong = [row for row in run_tasks(tasks, num_rows) if row >= 0]
    if wrong:
        raise ValueError(f"codes must lie in 0 to {num_codes - 1}, got {code[wrong[0]]} in row {wrong[0]}")
    ptr = np.zeros(num_codes + 1, np.int64)
    np.cumsum(count.sum(axis=0), out=ptr[1:])
    place = np.cumsum(count, axis=0) - count + ptr[:-1]
    order = np.empty(num_rows, np.int32 if num_rows < 2**31 else np.int64)
    run_tasks(
        [(_place_codes, (*piece, code, place[number], order)) for number, piece in enumerate(pieces)],
        num_rows,
    )
    return order, ptr


def take(
    column: Shaped[np.ndarray, " num_rows"], order: Integer[np.ndarray, " num_taken"]
) -> Shaped[np.ndarray, " num_taken"]:
    """``column[order]``, read by all cores: rows far apart are bound by memory, which waits for each."""
    taken = np.empty(len(order), column.dtype)

    def take_piece(first: int, stop: int) -> None:
        np.take(column, order[first:stop], out=taken[first:stop], mode="clip")

    if len(order) and (order.min() < 0 or order.max() >= len(column)):
        raise IndexError(f"order must lie in 0 to {len(column) - 1}, got {order.min()} to {order.max()}")
    run(take_piece, row_pieces(len(order), _NUM_PIECES), num_rows=len(order))
    return taken


def split_and_sort(
    label: UInt8[np.ndarray, " num_rows"], score: Float[np.ndarray, " num_rows"]
) -> tuple[Float[np.ndarray, " num_clicks"], Float[np.ndarray, " num_others"], tuple[int, int]]:
    """Scores of clicks and of others, each ascending, in the one copy of ``score`` that is made.

    The third result cuts both columns at one score, ``(clicks below, others below)``, about in the middle of
    the rows: equal scores are on the same side, so that either side can be walked by itself.
    """
    label, score = np.ascontiguousarray(label), np.ascontiguousarray(score)
    num_rows = len(score)
    # a sample says where the middle is about; exactness would need the sort that it is meant to halve
    pivot = (
        np.median(score[:: max(1, num_rows // 4096)]).astype(score.dtype) if num_rows else score.dtype.type(0)
    )
    pieces = row_pieces(num_rows, 8)
    # classes in the order of the buffer: others below, others above, clicks below, clicks above
    count = np.array(run(_count_classes, pieces, label, score, pivot, num_rows=num_rows), np.int64).reshape(
        -1, 4
    )
    total = count.sum(axis=0)
    place = np.cumsum(count, axis=0) - count + (np.cumsum(total) - total)
    buffer = np.empty(num_rows, score.dtype)
    run_tasks(
        [
            (_place_classes, (*piece, label, score, pivot, place[number], buffer))
            for number, piece in enumerate(pieces)
        ],
        num_rows,
    )
    parts = np.split(buffer, np.cumsum(total)[:-1])
    run_tasks([(part.sort, ()) for part in sorted(parts, key=len, reverse=True)], num_rows)
    num_others = int(total[0] + total[1])
    return buffer[num_others:], buffer[:num_others], (int(total[2]), int(total[0]))


@compiled
def _count_codes(first: int, stop: int, code: np.ndarray, count: np.ndarray) -> int:
    """Add to the codes' counts; the first row with a wrong code, or -1."""
    num_codes = len(count)
    for row in range(first, stop):
        if code[row] < 0 or code[row] >= num_codes:
            return row
        count[code[row]] += 1
    return -1


@compiled
def _place_codes(first: int, stop: int, code: np.ndarray, place: np.ndarray, order: np.ndarray) -> None:
    for row in range(first, stop):
        order[place[code[row]]] = row
        place[code[row]] += 1


@compiled
def _count_classes(
    first: int, stop: int, label: np.ndarray, score: np.ndarray, pivot: float
) -> tuple[int, int, int, int]:
    clicks, above, clicks_above = 0, 0, 0
    for row in range(first, stop):
        high = int(score[row] >= pivot)
        clicks += label[row]
        above += high
        clicks_above += label[row] * high
    num_rows = stop - first
    return (
        num_rows - clicks - (above - clicks_above),
        above - clicks_above,
        clicks - clicks_above,
        clicks_above,
    )


@compiled
def _place_classes(
    first: int,
    stop: int,
    label: np.ndarray,
    score: np.ndarray,
    pivot: float,
    place: np.ndarray,
    buffer: np.ndarray,
) -> None:
    for row in range(first, stop):
        kind = 2 * np.int64(label[row]) + np.int64(score[row] >= pivot)
        buffer[place[kind]] = score[row]
        place[kind] += 1


@compiled
def walk_ranks(
    first_click: int,
    stop_click: int,
    first_other: int,
    stop_other: int,
    clicks: np.ndarray,
    others: np.ndarray,
) -> tuple[int, float]:
    """Twice the pairs that clicks win, ties counting half, and the sum of precisions at the clicks.

    ``clicks`` and ``others`` are ascending scores, of which the walk covers a range of each.
    """
    twice_won, total, lost = 0, 0.0, 0.0
    click, other = first_click, first_other
    while click < stop_click:
        value, start = clicks[click], click
        click += 1
        while click < stop_click and clicks[click] == value:
            click += 1
        while other < stop_other and others[other] < value:
            other += 1
        below = other
        while other < stop_other and others[other] == value:
            other += 1
        twice_won += (click - start) * (below + other)  # others below twice, tied ones once
        retrieved = len(clicks) - start
        precision = retrieved / (retrieved + len(others) - below)
        # Kahan's sum: a hundred million terms would cost a plain one its last digits
        term = (click - start) * precision - lost
        added = total + term
        lost = (added - total) - term
        total = added
    return twice_won, total


@compiled
def sum_probabilities(
    first: int,
    stop: int,
    label: np.ndarray,
    score: np.ndarray,
    ptr: np.ndarray,
    epsilon: float,
    sums: np.ndarray,
) -> None:
    """Fill the rows of `ctr.SUM_COLUMNS` for clusters ``first`` to ``stop``."""
    # the logarithm of a product instead of a sum of logarithms: one for many rows. Beyond the limit a factor
    # could leave the range of normal numbers
    limit = 1e-300 / epsilon
    for cluster in range(first, stop):
        num_clicks, total_score, squared_error = 0, 0.0, 0.0
        likelihood, log_loss = 1.0, 0.0
        for row in range(ptr[cluster], ptr[cluster + 1]):
            value = np.float64(score[row])
            num_clicks += label[row]
            total_score += value
            squared_error += (value - label[row]) ** 2
            clipped = min(max(value, epsilon), 1.0 - epsilon)
            likelihood *= clipped if label[row] else 1.0 - clipped
            if likelihood < limit:
                log_loss -= np.log(likelihood)
                likelihood = 1.0
        sums[cluster, 0] = ptr[cluster + 1] - ptr[cluster]
        sums[cluster, 1] = num_clicks
        sums[cluster, 2] = total_score
        sums[cluster, 3] = log_loss - np.log(likelihood)
        sums[cluster, 4] = squared_error


@compiled
def sum_bins(
    first: int,
    stop: int,
    label: np.ndarray,
    score: np.ndarray,
    ptr: np.ndarray,
    lower: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Add scores and clicks to the bins of clusters ``first`` to ``stop``; ``lower`` are the bins' ends."""
    num_bins = len(lower)
    for cluster in range(first, stop):
        for row in range(ptr[cluster], ptr[cluster + 1]):
            value = np.float64(score[row])
            # the last bin whose lower end is at or below the score; what is below all is in the first
            low, size = 0, num_bins
            while size > 1:
                half = size // 2
                low += half * int(lower[low + half] <= value)
                size -= half
            sums[cluster, low] += value
            sums[cluster, num_bins + low] += label[row]


@compiled
def _merge_pass(source: np.ndarray, target: np.ndarray, first: int, stop: int, width: int) -> None:
    """Merge ascending runs of ``width`` pairwise from ``source[first:stop]`` into ``target``."""
    for start in range(first, stop, 2 * width):
        middle, end = min(start + width, stop), min(start + 2 * width, stop)
        left, right = start, middle
        if middle >= end or source[middle - 1] <= source[middle]:
            for place in range(start, end):
                target[place] = source[place]
            continue
        for place in range(start, end):
            if right >= end or (left < middle and source[left] <= source[right]):
                target[place] = source[left]
                left += 1
            else:
                target[place] = source[right]
                right += 1


@compiled
def _sort(values: np.ndarray, scratch: np.ndarray, first: int, stop: int) -> None:
    """Sort ``values[first:stop]``, ascending: short runs by insertion, then merges; n log n at worst."""
    for start in range(first, stop, _SHORT_RUN):
        end = min(start + _SHORT_RUN, stop)
        for row in range(start + 1, end):
            value, place = values[row], row
            while place > start and values[place - 1] > value:
                values[place] = values[place - 1]
                place -= 1
            values[place] = value
    width = _SHORT_RUN
    while width < stop - first:
        _merge_pass(values, scratch, first, stop, width)
        # back again: a further merge, or where all is merged a copy
        _merge_pass(scratch, values, first, stop, 2 * width)
        width *= 4


@compiled
def _expected_reciprocal_rank(above: int, tied: int, tied_clicks: int) -> float:
    """Mean over random orders of ``tied`` rows, below ``above`` others, of 1 / rank of the first click."""
    expected, chance = 0.0, tied_clicks / tied  # that the first click is at this place among the tied
    for place in range(1, tied - tied_clicks + 2):
        expected += chance / (above + place)
        if place < tied:
            chance *= (tied - place - tied_clicks + 1) / (tied - place)
    return expected


@compiled
def _chance_of_hit(above: int, tied: int, tied_clicks: int, k: int) -> float:
    """Chance that a click of the highest tie with clicks is among the first ``k`` rows."""
    missed = 1.0
    for place in range(min(tied, max(0, k - above))):
        if place >= tied - tied_clicks:
            return 1.0
        missed *= (tied - tied_clicks - place) / (tied - place)
    return 1.0 - missed


@compiled
def _add_group(
    label: np.ndarray,
    score: np.ndarray,
    begin: int,
    end: int,
    values: np.ndarray,
    scratch: np.ndarray,
    discount: np.ndarray,
    sums: np.ndarray,
    cluster: int,
) -> None:
    """Add the group of rows ``begin`` to ``end`` to the sums of its cluster."""
    size, k = end - begin, len(discount) - 1
    # clicks from the front, others from the back; what is written at the wrong end is overwritten
    clicks, back = 0, size - 1
    for row in range(begin, end):
        values[back] = score[row]
        values[clicks] = score[row]
        clicks += label[row]
        back -= 1 - label[row]
    others = size - clicks
    sums[cluster, 0] += 1
    sums[cluster, 1] += size
    sums[cluster, 2] += clicks
    if clicks == 0 or others == 0:
        sums[cluster, 3] += 1
        sums[cluster, 4] += size
        if clicks == 0:
            sums[cluster, 12] += size
        else:
            sums[cluster, 11] += 1
            sums[cluster, 13] += 1.0
            sums[cluster, 14] += 1.0
            sums[cluster, 15] += 1.0
        return
    _sort(values, scratch, 0, clicks)
    _sort(values, scratch, clicks, size)

    # down the ranks, from tie to tie that holds a click
    twice_won, gain = 0, 0.0
    click, other = clicks - 1, size - 1
    while click >= 0:
        value, top = values[click], click
        click -= 1
        while click >= 0 and values[click] == value:
            click -= 1
        while other >= clicks and values[other] > value:
            other -= 1
        highest = other
        while other >= clicks and values[other] == value:
            other -= 1
        tied_clicks, tied_others = top - click, highest - other
        twice_won += tied_clicks * (2 * (other - clicks + 1) + tied_others)
        above, tied = (clicks - 1 - top) + (size - 1 - highest), tied_clicks + tied_others
        if above < k:
            gain += tied_clicks / tied * (discount[min(above + tied, k)] - discount[above])
        if top == clicks - 1:
            sums[cluster, 14] += _expected_reciprocal_rank(above, tied, tied_clicks)
            sums[cluster, 15] += _chance_of_hit(above, tied, tied_clicks, k)
    auc = twice_won / (2 * clicks * others)
    sums[cluster, 5] += size * auc
    sums[cluster, 6] += size
    sums[cluster, 7] += clicks * auc
    sums[cluster, 8] += clicks
    sums[cluster, 9] += auc
    sums[cluster, 10] += 1
    sums[cluster, 11] += 1
    sums[cluster, 13] += gain / discount[min(clicks, k)]


@compiled
def sum_groups(
    first: int,
    stop: int,
    label: np.ndarray,
    score: np.ndarray,
    ptr: np.ndarray,
    part: np.ndarray,
    lowest_part: int,
    discount: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Fill the rows of `ctr.GROUP_SUM_COLUMNS` for clusters ``first`` to ``stop``.

    ``part`` is empty where a cluster is one group, and else spans less than 2**32 from ``lowest_part``.
    ``discount[r]`` is the sum of the discounts of the first r ranks.
    """
    longest = 0
    for cluster in range(first, stop):
        longest = max(longest, ptr[cluster + 1] - ptr[cluster])
    values, scratch = np.empty(longest, score.dtype), np.empty(longest, score.dtype)
    size = longest if len(part) else 0
    key, spare_key = np.empty(size, np.uint64), np.empty(size, np.uint64)
    ordered_label, ordered_score = np.empty(size, np.uint8), np.empty(size, score.dtype)
    for cluster in range(first, stop):
        low, high = ptr[cluster], ptr[cluster + 1]
        if len(part) == 0:
            if low < high:
                _add_group(label, score, low, high, values, scratch, discount, sums, cluster)
            continue
        ascending = True
        for row in range(low + 1, high):
            if part[row] < part[row - 1]:
                ascending = False
                break
        if ascending:
            begin = low
            for row in range(low + 1, high + 1):
                if row == high or part[row] != part[row - 1]:
                    _add_group(label, score, begin, row, values, scratch, discount, sums, cluster)
                    begin = row
            continue
        # part and place among the cluster's rows in one number: sorting it orders rows by part
        for row in range(low, high):
            key[row - low] = (np.uint64(part[row] - lowest_part) << np.uint64(32)) | np.uint64(row - low)
        _sort(key, spare_key, 0, high - low)
        for place in range(high - low):
            row = low + np.int64(key[place] & np.uint64(0xFFFFFFFF))
            ordered_label[place], ordered_score[place] = label[row], score[row]
        begin = 0
        for place in range(1, high - low + 1):
            if place == high - low or (key[place] >> np.uint64(32)) != (key[place - 1] >> np.uint64(32)):
                _add_group(
                    ordered_label, ordered_score, begin, place, values, scratch, discount, sums, cluster
                )
                begin = place
