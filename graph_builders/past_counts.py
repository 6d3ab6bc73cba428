"""Past-only counts, smoothed rates and recencies of users, items, authors, and pairs of them.

A group of events (all events of one user, of one author, of one user with one author) is a row of a
TemporalCSR, and a count is the number of its edges that a (row, time) query may see: the bound that keeps
samplers from the future keeps it from counts too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from samplers import RecentNeighborSampler, TemporalCSR, count_edges


@dataclass(frozen=True, kw_only=True, eq=False)
class CountedEvents:
    """The events of one behaviour: a code for each column that groups them, and when each became known.

    For an event that is known as soon as it happens ``known_time`` is its own time; for one that is known
    later (the end of a play, a late delivery) windows and recencies count from when it became known.
    """

    columns: Mapping[str, Int64[Tensor, " num_events"]]
    known_time: Int64[Tensor, " num_events"]


@dataclass(frozen=True, kw_only=True)
class CountFeatures:
    """What to compute for one group of columns.

    Attributes:
        key: the columns that must agree, such as ("user_id",) or ("user_id", "author_id").
        behaviors: behaviours to count; those that lack one of the columns are an error.
        windows: lengths of time to look back, in the events' unit; None is for ever.
        rates: pairs (numerator, denominator) of behaviours, smoothed towards the rate of all events at the
            query's time.
        recency: behaviours of which the time since the last event is given, NaN where there is none.

    """

    key: tuple[str, ...]
    behaviors: tuple[str, ...] = ()
    windows: tuple[int | None, ...] = (None,)
    rates: tuple[tuple[str, str], ...] = ()
    recency: tuple[str, ...] = ()


def past_counts(
    events: Mapping[str, CountedEvents],
    columns: Mapping[str, Int64[Tensor, " num_queries"]],
    time: Int64[Tensor, " num_queries"],
    features: Sequence[CountFeatures],
    *,
    smoothing: float = 5.0,
) -> tuple[list[str], Float32[Tensor, "num_queries num_features"]]:
    """Compute each feature for each query from the events strictly before the query's time.

    Args:
        events: by behaviour.
        columns: the queries' codes of the columns that group events.
        time: the queries' times; an event counts if it became known strictly before.
        features: what to compute.
        smoothing: events that the common rate weighs as much as: ``(n + s r) / (d + s)``, where ``r`` is the
            rate of all events before the query (one half before the first).

    Returns:
        The features' names and values.

    Raises:
        ValueError: an unknown behaviour or column is asked for.

    """
    names: list[str] = []
    values: list[Tensor] = []
    prior: dict[tuple[str, str], Tensor] = {}
    for feature in features:
        groups = {name: _group(events, name, columns, feature.key) for name in _behaviors_of(feature)}
        label = "+".join(feature.key) or "all"
        for window in feature.windows:
            suffix = "" if window is None else f"/{window}"
            counts = {
                name: count_edges(csr, row, time, window=window).float()
                for name, (csr, row) in groups.items()
            }
            for name in feature.behaviors:
                names.append(f"{label}:count[{name}]{suffix}")
                values.append(counts[name])
            for pair in feature.rates:
                if pair not in prior:
                    prior[pair] = _common_rate(events, columns, time, pair)
                names.append(f"{label}:rate[{pair[0]}/{pair[1]}]{suffix}")
                values.append((counts[pair[0]] + smoothing * prior[pair]) / (counts[pair[1]] + smoothing))
        for name in feature.recency:
            csr, row = groups[name]
            last = RecentNeighborSampler(csr, num_neighbors=1).sample(row, time)
            age = (time[:, None] - last.edge_time).float()
            names.append(f"{label}:since[{name}]")
            values.append(torch.where(last.mask, age, torch.nan)[:, 0])
    return names, torch.stack(values, dim=1) if values else torch.zeros(len(time), 0)


def _behaviors_of(feature: CountFeatures) -> list[str]:
    named = [*feature.behaviors, *feature.recency, *(name for pair in feature.rates for name in pair)]
    return list(dict.fromkeys(named))


def _group(
    events: Mapping[str, CountedEvents], name: str, columns: Mapping[str, Tensor], key: tuple[str, ...]
) -> tuple[TemporalCSR, Tensor]:
    """Group the behaviour's events by the key; return each query's row: unseen groups share an empty one."""
    if name not in events:
        raise ValueError(f"no events of behaviour {name!r}; there are {sorted(events)}")
    counted = events[name]
    for column in key:
        for owner, there in ((f"events of {name!r}", counted.columns), ("queries", columns)):
            if column not in there:
                raise ValueError(f"the {owner} have no column {column!r}; there are {sorted(there)}")
    num_events, num_queries = len(counted.known_time), len(next(iter(columns.values())))
    event_code, query_code = np.zeros(num_events, np.int64), np.zeros(num_queries, np.int64)
    for column in key:
        # codes of pairs are made small again at each step, so that their product fits in 64 bits
        known, event_value = np.unique(counted.columns[column].numpy(), return_inverse=True)
        query_value = _place(known, columns[column].numpy())
        event_pair = event_code * (len(known) + 1) + event_value
        query_pair = np.where(query_code < 0, -1, query_code * (len(known) + 1) + query_value)
        pairs, event_code = np.unique(event_pair, return_inverse=True)
        query_code = np.where(query_value < 0, -1, _place(pairs, query_pair))
    num_groups = int(event_code.max()) + 1 if num_events else 0
    row = torch.from_numpy(np.where(query_code < 0, num_groups, query_code))
    if not num_events:
        row = torch.zeros_like(row)
    code = torch.from_numpy(event_code)
    csr = TemporalCSR.from_edge_index(
        torch.stack([code, torch.zeros_like(code)]),
        counted.known_time,
        num_rows=num_groups + 1,
        num_cols=1,
        row="source",
    )
    return csr, row


def _place(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Place of each value among the sorted known ones, -1 where it is not there."""
    if not len(known):
        return np.full(len(values), -1)
    place = np.searchsorted(known, values).clip(max=len(known) - 1)
    return np.where(known[place] == values, place, -1)


def _common_rate(
    events: Mapping[str, CountedEvents], columns: Mapping[str, Tensor], time: Tensor, pair: tuple[str, str]
) -> Tensor:
    numerator, denominator = (count_edges(*_group(events, name, columns, ()), time).float() for name in pair)
    return torch.where(denominator > 0, numerator / denominator.clamp(min=1), 0.5)
