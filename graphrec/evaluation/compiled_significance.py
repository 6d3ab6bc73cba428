"""Compiled loops of the tests: rows in order of score, sums within clusters, resamples of clusters.

A row's cluster and label travel as one number, ``2 * cluster + label``, its entry. Loops that one name calls
on parts of their work take the part first, write only its results and hold no lock of Python's.
"""

import numpy as np

from graphrec.compiling import compiled

LANES = 16
"""Resamples that one walk over the rows serves: a cluster's counts are then a quarter of a cache line."""
_TILE = 256  # clusters whose sums stay in the processor's cache while all resamples of a block add them


@compiled
def count_entries(label: np.ndarray, cluster: np.ndarray, count: np.ndarray) -> None:
    """Add each row to ``count[2 * cluster + label]``."""
    for row in range(len(label)):
        count[2 * np.int64(cluster[row]) + label[row]] += 1


@compiled
def find_buckets(
    first: int,
    stop: int,
    score: np.ndarray,
    splitter: np.ndarray,
    bucket: np.ndarray,
    count: np.ndarray,
) -> None:
    """Bucket of each row: how many splitters are at most its score. Splitters are 2**d - 1 in number."""
    half = (len(splitter) + 1) // 2
    for row in range(first, stop):
        value = score[row]
        below = 0
        step = half
        while step > 0:
            below += step * int(splitter[below + step - 1] <= value)  # no branch to guess wrong
            step //= 2
        bucket[row] = below
        count[below] += 1


@compiled
def fill_buckets(
    first: int,
    stop: int,
    label: np.ndarray,
    score: np.ndarray,
    cluster: np.ndarray,
    bucket: np.ndarray,
    place: np.ndarray,
    score_out: np.ndarray,
    entry_out: np.ndarray,
) -> None:
    """Copy rows to their buckets; ``place`` is where each bucket's next row goes. No cluster: the row is."""
    by_row = len(cluster) == 0
    for row in range(first, stop):
        at = place[bucket[row]]
        place[bucket[row]] = at + 1
        score_out[at] = score[row]
        entry_out[at] = 2 * np.int64(row if by_row else cluster[row]) + label[row]


@compiled
def add_components(
    score: np.ndarray, entry: np.ndarray, num_clicks: int, total: np.ndarray, shift: int
) -> int:
    """Add twice the pairs that each row wins (clicks) or loses (others) to its entry, ``entry >> shift``.

    Rows are in ascending order of score. Returns twice the pairs that clicks win; ties count half.
    """
    num_rows = len(score)
    others_below = 0
    clicks_below = 0
    twice_won = 0
    start = 0
    while start < num_rows:
        stop = start
        clicks = 0
        while stop < num_rows and score[stop] == score[start]:
            clicks += 1 if entry[stop] & 1 else 0
            stop += 1
        others = stop - start - clicks
        of_click = 2 * others_below + others
        of_other = 2 * (num_clicks - clicks_below) - clicks
        for row in range(start, stop):
            total[np.int64(entry[row]) >> shift] += of_click if entry[row] & 1 else of_other
        twice_won += clicks * of_click
        others_below += others
        clicks_below += clicks
        start = stop
    return twice_won


@compiled
def _random_word(state: np.uint64) -> np.uint64:
    """Scramble the bits of a counter (SplitMix64: Steele, Lea and Flood, OOPSLA 2014)."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@compiled
def draw_counts(first: int, stop: int, random_seed: int, counts: np.ndarray) -> None:
    """How often each cluster is drawn in resamples ``first`` to ``stop``: rows of ``counts``, zero before.

    As many draws as clusters, each a function of (seed, resample, draw) alone. A byte holds a count: that one
    of many clusters is drawn 256 times has a chance below 1e-490.
    """
    num_clusters = counts.shape[1]
    for resample in range(first, stop):
        state = _random_word(np.uint64(random_seed) + np.uint64(0x9E3779B97F4A7C15))
        state = _random_word(state + np.uint64(resample) * np.uint64(0xD1342543DE82EF95))
        of_resample = counts[resample - first]
        for _ in range(num_clusters):
            state += np.uint64(0x9E3779B97F4A7C15)
            uniform = np.float64(_random_word(state) >> np.uint64(11)) * 1.1102230246251565e-16  # 2 ** -53
            of_resample[np.int64(uniform * num_clusters)] += np.uint8(1)


@compiled
def add_drawn_sums(counts: np.ndarray, sums: np.ndarray, out: np.ndarray) -> None:
    """Add each resample's drawn clusters: ``counts @ sums``, always in the order of the clusters."""
    num_clusters, num_columns = sums.shape
    for tile in range(0, num_clusters, _TILE):
        end = min(tile + _TILE, num_clusters)
        for resample in range(len(counts)):
            cluster = tile
            while cluster + 4 <= end:
                w0 = np.float64(counts[resample, cluster])
                w1 = np.float64(counts[resample, cluster + 1])
                w2 = np.float64(counts[resample, cluster + 2])
                w3 = np.float64(counts[resample, cluster + 3])
                for column in range(num_columns):
                    out[resample, column] += (
                        w0 * sums[cluster, column]
                        + w1 * sums[cluster + 1, column]
                        + w2 * sums[cluster + 2, column]
                        + w3 * sums[cluster + 3, column]
                    )
                cluster += 4
            while cluster < end:
                weight = np.float64(counts[resample, cluster])
                for column in range(num_columns):
                    out[resample, column] += weight * sums[cluster, column]
                cluster += 1


@compiled
def rank_resamples(
    score: np.ndarray, entry: np.ndarray, counts: np.ndarray, auc: np.ndarray, precision: np.ndarray
) -> None:
    """AUC and average precision of `LANES` resamples, from one walk down the rows.

    Rows are in ascending order of score; ``counts`` has the shape (num_clusters, LANES). NaN where a resample
    lacks a class (the AUC) or clicks (the precision).
    """
    clicks = np.zeros(LANES)
    others = np.zeros(LANES)
    tied_clicks = np.zeros(LANES)
    tied_others = np.zeros(LANES)
    lost = np.zeros(LANES)
    gained = np.zeros(LANES)
    last = len(score) - 1
    while last >= 0:
        if entry[last] & 1 == 0 and (last == 0 or score[last - 1] != score[last]):
            cluster = np.int64(entry[last]) >> 1
            for lane in range(LANES):
                others[lane] += counts[cluster, lane]
            last -= 1
            continue
        any_click = False
        for lane in range(LANES):
            tied_clicks[lane] = 0.0
            tied_others[lane] = 0.0
        row = last
        while row >= 0 and score[row] == score[last]:
            cluster = np.int64(entry[row]) >> 1
            if entry[row] & 1:
                any_click = True
                for lane in range(LANES):
                    tied_clicks[lane] += counts[cluster, lane]
            else:
                for lane in range(LANES):
                    tied_others[lane] += counts[cluster, lane]
            row -= 1
        if any_click:
            for lane in range(LANES):
                lost[lane] += tied_clicks[lane] * (others[lane] + 0.5 * tied_others[lane])
                clicks[lane] += tied_clicks[lane]
                others[lane] += tied_others[lane]
                if tied_clicks[lane] > 0.0:
                    gained[lane] += tied_clicks[lane] * clicks[lane] / (clicks[lane] + others[lane])
        else:
            for lane in range(LANES):
                others[lane] += tied_others[lane]
        last = row
    for lane in range(len(auc)):
        pairs = clicks[lane] * others[lane]
        auc[lane] = 1.0 - lost[lane] / pairs if pairs > 0.0 else np.nan
        precision[lane] = gained[lane] / clicks[lane] if clicks[lane] > 0.0 else np.nan
