"""Compiled loops of serving: counts of past events by group, and quantile interpolation.

They run without Python's lock, so that client threads overlap.
"""

import numpy as np

from graphrec.compiling import compiled

COUNT, RATE, SINCE = 0, 1, 2


@compiled
def _first_not_below(values, low, high, bound):  # type: ignore[no-untyped-def]
    """First position in ``[low, high)`` of an ascending range with a value of at least ``bound``."""
    while low < high:
        middle = (low + high) // 2
        if values[middle] < bound:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _add_group(key, code, as_of, windows, part, count, last):  # type: ignore[no-untyped-def]
    """Add what one part knows of a group: events by behaviour and window, and the last one's time."""
    codes, code_ptr, row_ptr, row_first, times = part
    place = _first_not_below(codes, code_ptr[key], code_ptr[key + 1], code)
    if place == code_ptr[key + 1] or codes[place] != code:
        return
    group = place - code_ptr[key]
    for behavior in range(row_first.shape[1]):
        if row_first[key, behavior] < 0:
            continue
        start = row_ptr[row_first[key, behavior] + group]
        end = row_ptr[row_first[key, behavior] + group + 1]
        stop = _first_not_below(times, start, end, as_of)
        for window in range(len(windows)):
            first = start
            if windows[window] > 0:
                first = _first_not_below(times, start, stop, as_of - windows[window])
            count[behavior, window] += stop - first
        if stop > start:
            last[behavior] = max(last[behavior], times[stop - 1])


@compiled
def count_past(codes, as_of, windows, base, delta, rates, smoothing, program_ptr, program, out):  # type: ignore[no-untyped-def]
    """Fill ``out`` (queries, features) from the events known strictly before each query's time.

    ``codes`` (keys, queries) are the queries' groups, -1 for one without events; row 0 is that of all events.
    ``base`` and ``delta`` are what ``GroupedTimes.arrays`` returns. ``rates`` (pairs, 2) are the behaviours
    of the common rates. ``program[program_ptr[k] : program_ptr[k + 1]]`` are the features of key k: kind,
    behaviour, denominator, window, pair, column of ``out``.
    """
    num_keys, num_queries = codes.shape
    num_behaviors = base[3].shape[1]
    count = np.zeros((num_behaviors, len(windows)), np.int64)
    last = np.zeros(num_behaviors, np.int64)
    prior = np.zeros(len(rates), np.float32)
    nothing = np.iinfo(np.int64).min
    for query in range(num_queries):
        time = as_of[query]
        for key in range(num_keys):
            is_common = key == 0 and (query == 0 or time != as_of[query - 1])
            if not is_common and program_ptr[key] == program_ptr[key + 1]:
                continue
            count[:] = 0
            last[:] = nothing
            if codes[key, query] >= 0:
                _add_group(key, codes[key, query], time, windows, base, count, last)
                _add_group(key, codes[key, query], time, windows, delta, count, last)
            if is_common:
                for pair in range(len(rates)):
                    shown = count[rates[pair, 1], 0]
                    prior[pair] = np.float32(0.5)
                    if shown > 0:
                        prior[pair] = np.float32(count[rates[pair, 0], 0]) / np.float32(shown)
            for line in range(program_ptr[key], program_ptr[key + 1]):
                kind, behavior, denominator, window, pair, column = program[line]
                if kind == COUNT:
                    out[query, column] = np.float32(count[behavior, window])
                elif kind == RATE:
                    clicks = np.float32(count[behavior, window]) + smoothing * prior[pair]
                    out[query, column] = clicks / (np.float32(count[denominator, window]) + smoothing)
                elif last[behavior] == nothing:
                    out[query, column] = np.float32(np.nan)
                else:
                    out[query, column] = np.float32(time - last[behavior])


@compiled
def _interpolate(value, grid, reference, column):  # type: ignore[no-untyped-def]
    """Linear interpolation on an ascending grid; of equal grid points the last one counts."""
    low, high = 0, len(reference)
    while low < high:
        middle = (low + high) // 2
        if grid[middle, column] <= value:
            low = middle + 1
        else:
            high = middle
    at = low - 1
    if at < 0:
        return reference[0]
    if at == len(reference) - 1:
        return reference[at]
    slope = (reference[at + 1] - reference[at]) / (grid[at + 1, column] - grid[at, column])
    return slope * (value - grid[at, column]) + reference[at]


@compiled
def quantile_levels(values, columns, grid, reference, reversed_grid, reversed_reference, out):  # type: ignore[no-untyped-def]
    """Level in [0, 1] of each value among the quantiles of its column, NaN where it is missing.

    Where quantiles repeat, the mean of their first and last level. ``columns[j]`` is the column of the grid
    (levels, features) that ``values[:, j]`` belongs to; the reversed arrays are negated.
    """
    near = np.float32(1e-7)
    top = len(reference) - 1
    for row in range(values.shape[0]):
        for place in range(len(columns)):
            column, value = columns[place], values[row, place]
            if np.isnan(value):
                out[row, place] = value
            elif value - near < grid[0, column]:
                out[row, place] = np.float32(0)
            elif value + near > grid[top, column]:
                out[row, place] = np.float32(1)
            else:
                wide = np.float64(value)
                up = _interpolate(wide, grid, reference, column)
                down = _interpolate(-wide, reversed_grid, reversed_reference, column)
                out[row, place] = np.float32(0.5 * (up - down))
