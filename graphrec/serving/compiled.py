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
def _bracket(codes, first, stop, least, most):  # type: ignore[no-untyped-def]
    """Range of the groups from ``least`` to ``most``.

    The groups of a user lie side by side, and a request is of one user: looking a group up in the few of that
    range touches little memory.
    """
    low = _first_not_below(codes, first, stop, least)
    return low, _first_not_below(codes, low, stop, most + 1)


@compiled
def _add_group(key, code, as_of, windows, part, low, high, count, last):  # type: ignore[no-untyped-def]
    """Add what one part knows of a group: events by behaviour and window, and the last one's time."""
    codes, code_ptr, row_ptr, row_first, times = part
    place = _first_not_below(codes, low, high, code)
    if place == high or codes[place] != code:
        return
    group = place - code_ptr[key]
    for behavior in range(row_first.shape[1]):
        if row_first[key, behavior] < 0:
            continue
        start = row_ptr[row_first[key, behavior] + group]
        end = row_ptr[row_first[key, behavior] + group + 1]
        stop = end
        if end > start and times[end - 1] >= as_of:  # seldom: known late
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
    nothing = np.iinfo(np.int64).min
    prior = np.empty((num_queries, len(rates)), np.float32)
    for query in range(num_queries):
        if query > 0 and as_of[query] == as_of[query - 1]:
            prior[query] = prior[query - 1]
            continue
        count[:] = 0
        code, time, own = codes[0, query], as_of[query], windows[:1]
        _add_group(0, code, time, own, base, base[1][0], base[1][1], count, last)
        _add_group(0, code, time, own, delta, delta[1][0], delta[1][1], count, last)
        for pair in range(len(rates)):
            shown = count[rates[pair, 1], 0]
            prior[query, pair] = np.float32(0.5)
            if shown > 0:
                prior[query, pair] = np.float32(count[rates[pair, 0], 0]) / np.float32(shown)
    for key in range(num_keys):
        first_line, end_line = program_ptr[key], program_ptr[key + 1]
        if first_line == end_line:
            continue
        num_windows = 1  # that the key's features have; the first one is that of all times
        for line in range(first_line, end_line):
            num_windows = max(num_windows, program[line, 3] + 1)
        least, most = np.iinfo(np.int64).max, np.int64(-1)
        for query in range(num_queries):
            if codes[key, query] >= 0:
                least, most = min(least, codes[key, query]), max(most, codes[key, query])
        low, high = _bracket(base[0], base[1][key], base[1][key + 1], least, most)
        low_delta, high_delta = _bracket(delta[0], delta[1][key], delta[1][key + 1], least, most)
        # 200 candidates have few durations and tags: where codes are close together, each is counted once
        known = np.zeros(most - least + 1 if 0 <= most - least < 4 * num_queries else 0, np.int64)
        for query in range(num_queries):
            code, time = codes[key, query], as_of[query]
            if 0 <= code < least + len(known):
                former = known[code - least] - 1
                if former >= 0 and as_of[former] == time:
                    for line in range(first_line, end_line):
                        out[query, program[line, 5]] = out[former, program[line, 5]]
                    continue
                known[code - least] = query + 1
            count[:] = 0
            last[:] = nothing
            if code >= 0:
                own = windows[:num_windows]
                _add_group(key, code, time, own, base, low, high, count, last)
                _add_group(key, code, time, own, delta, low_delta, high_delta, count, last)
            for line in range(first_line, end_line):
                kind, behavior, denominator, window, pair, column = program[line]
                if kind == COUNT:
                    out[query, column] = np.float32(count[behavior, window])
                elif kind == RATE:
                    clicks = np.float32(count[behavior, window]) + smoothing * prior[query, pair]
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
