"""Past counts for serving: the features of ``graph_builders.past_counts``, looked up instead of recounted.

The events are kept as times sorted inside each group (all events of a user, of a user with an author): those
before the day in one part that is made with the day's folder and mapped into memory, those of the day in a
second one that is made anew at the end of each period. A query searches both parts, so what it costs does
not depend on the number of events.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, Integer

from graphrec.serving import compiled

_NAME = re.compile(
    r"(?P<key>[^:\[\]]+):(?P<kind>count|rate|since)"
    r"\[(?P<behavior>[^/\]]+)(?:/(?P<denominator>[^\]]+))?\](?:/(?P<window>\d+))?"
)
ALL = "all"  # the key of all events together, in names of features


@dataclass(frozen=True, kw_only=True)
class CountedFeatures:
    """Which features a model reads, by the names that ``past_counts`` gives them.

    Attributes:
        behaviors: what is counted under a name: its (domain, behaviour) pairs.
        features: names such as "user+tag:rate[click/shown]/86400000", in the order of the columns.
        item_columns: columns of a key that an item decides (its author, say).
        event_columns: columns of a key that an event carries and a query's context names (a tab, say).
        user_values: features that are a stored number of each user, by the feature that must be there for the
            number to be known.
        shares: features that are the quotient of two others.
        smoothing: as in ``past_counts``.

    """

    behaviors: Mapping[str, Any]
    features: tuple[str, ...]
    item_columns: tuple[str, ...] = ()
    event_columns: tuple[str, ...] = ()
    user_values: Mapping[str, str]
    shares: Mapping[str, Any]
    smoothing: float = 5.0

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "behaviors": {name: [list(pair) for pair in pairs] for name, pairs in self.behaviors.items()},
            "features": list(self.features),
            "item_columns": list(self.item_columns),
            "event_columns": list(self.event_columns),
            "user_values": dict(self.user_values),
            "shares": {name: list(pair) for name, pair in self.shares.items()},
            "smoothing": self.smoothing,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "CountedFeatures":
        """Read what :meth:`to_json` returned."""
        lists = ("features", "item_columns", "event_columns")
        options: dict[str, Any] = {n: tuple(given) if n in lists else given for n, given in value.items()}
        return cls(**options)

    def key_columns(self, name: str) -> tuple[str, ...]:
        """Return the columns of a feature's key; stored numbers and shares are the user's.

        Raises:
            ValueError: no such name, or a column of it that neither user, item nor event has.

        """
        if name in self.user_values or name in self.shares:
            return ("user",)
        found = _NAME.fullmatch(name)
        if found is None:
            raise ValueError(f"the feature {name!r} is no name of a past count: key:kind[behaviour]/window")
        columns = () if found["key"] == ALL else tuple(found["key"].split("+"))
        known = {"user", "item", *self.item_columns, *self.event_columns}
        if not known.issuperset(columns):
            raise ValueError(f"the key of {name!r} has other columns than {sorted(known)}: declare them")
        return columns


@dataclass(frozen=True, eq=False)
class CountedEvents:
    """Events to count: rows of users and items, when each became known, their own columns, their names.

    ``user`` is -1 for an unknown user, whose events count for no user. ``kind`` numbers the event's
    (domain, behaviour) pair by its place in ``CountPlan.pairs``, -1 for one that nothing counts.
    """

    user: Int64[np.ndarray, " num_events"]
    item: Int64[np.ndarray, " num_events"]
    known_time: Int64[np.ndarray, " num_events"]
    kind: Int64[np.ndarray, " num_events"]
    columns: Int64[np.ndarray, "num_events num_columns"]


@dataclass(frozen=True, eq=False)
class GroupedTimes:
    """Times of events by key, group and behaviour; ascending inside a group.

    Attributes:
        code: the groups of each key, ascending; key k has ``code[code_ptr[k] : code_ptr[k + 1]]``.
        row_ptr: where the times of a group begin: those of key k and behaviour b at
            ``row_ptr[row_first[k, b] + group]``; -1 where a key does not count a behaviour.
        time: of all groups.

    """

    code: Int64[np.ndarray, " num_groups"]
    code_ptr: Int64[np.ndarray, " num_keys_and_one"]
    row_ptr: Integer[np.ndarray, " num_rows"]
    row_first: Int64[np.ndarray, "num_keys num_behaviors"]
    time: Int64[np.ndarray, " num_times"]

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """As compiled loops take them."""
        return tuple(
            np.asarray(a) for a in (self.code, self.code_ptr, self.row_ptr, self.row_first, self.time)
        )


class CountPlan:
    """What has to be kept and computed for a list of features.

    Args:
        spec: the features.
        item_attributes: codes of the items' columns, (item rows, columns), -1 where unknown.
        num_users: rows of users, without the unseen one.
        event_sizes: one more than the largest code of each column of the events.

    Raises:
        ValueError: a name that cannot be read, or a key with too many groups to number.

    """

    def __init__(
        self,
        spec: CountedFeatures,
        item_attributes: Int64[np.ndarray, "num_items num_columns"],
        num_users: int,
        event_sizes: tuple[int, ...],
    ) -> None:
        self.spec, self.item_attributes, self.num_users = spec, item_attributes, num_users
        num_items = len(item_attributes) - 1  # the unseen row has no events of its own either
        # codes of a column are shifted by one: -1 (unknown) is a group like any other, as in `past_counts`
        self.sizes = {"user": num_users, "item": num_items}
        tops = item_attributes.max(axis=0, initial=-1) + 2
        self.sizes |= dict(zip(spec.item_columns, tops.tolist(), strict=True))
        self.sizes |= {name: n + 1 for name, n in zip(spec.event_columns, event_sizes, strict=True)}
        self.behaviors = list(spec.behaviors)
        self.pairs = sorted({tuple(pair) for pairs in spec.behaviors.values() for pair in pairs})
        counted = [n for n in spec.features if n not in spec.user_values and n not in spec.shares]
        self.keys: list[tuple[str, ...]] = [()]
        self.keys += sorted({spec.key_columns(name) for name in counted} - {()})
        for key in self.keys:
            if np.prod([float(self.sizes[column]) for column in key]) >= 2**62:
                raise ValueError(f"the key {key} has too many groups to number them in 64 bits: shorten it")
        windows, rates = [0], []
        self.lines: list[tuple[int, tuple[int, int, int, int, int, int]]] = []
        self.kept = np.zeros((len(self.keys), len(self.behaviors)), bool)
        for column, name in enumerate(spec.features):
            found = _NAME.fullmatch(name)
            if found is None:
                continue
            place = self.keys.index(spec.key_columns(name))
            behavior = self._behavior(found["behavior"], name)
            denominator, pair = behavior, 0
            if found["kind"] == "rate":
                denominator = self._behavior(found["denominator"] or "", name)
                if (behavior, denominator) not in rates:
                    rates.append((behavior, denominator))
                pair = rates.index((behavior, denominator))
                self.kept[0, [behavior, denominator]] = True
            window = int(found["window"] or 0)
            if window not in windows:
                windows.append(window)
            self.kept[place, [behavior, denominator]] = True
            kind = {"count": compiled.COUNT, "rate": compiled.RATE, "since": compiled.SINCE}[found["kind"]]
            self.lines.append((place, (kind, behavior, denominator, windows.index(window), pair, column)))
        self.windows = np.array(windows, np.int64)
        self.rates = np.array(rates, np.int64).reshape(-1, 2)

    def _behavior(self, name: str, feature: str) -> int:
        if name not in self.behaviors:
            raise ValueError(f"{feature!r} counts {name!r}, which is none of {self.behaviors}: declare it")
        return self.behaviors.index(name)

    def codes(
        self, keys: list[int], user: np.ndarray, item: np.ndarray, columns: np.ndarray
    ) -> Int64[np.ndarray, "num_keys num_rows"]:
        """Return the group of each row in each key, -1 where it has none; 0 for keys that are left out."""
        values = {"user": user, "item": item}
        shifted = self.item_attributes[item] + 1
        values |= {name: shifted[:, place] for place, name in enumerate(self.spec.item_columns)}
        values |= {name: columns[:, place] + 1 for place, name in enumerate(self.spec.event_columns)}
        out = np.zeros((len(self.keys), len(user)), np.int64)
        for key in keys:
            for column in self.keys[key]:
                value, size = values[column], self.sizes[column]
                inside = (value >= 0) & (value < size) & (out[key] >= 0)
                out[key] = np.where(inside, out[key] * size + value, -1)
        return out

    def group(self, events: CountedEvents) -> GroupedTimes:
        """Sort events into the groups of every key."""
        kinds = {tuple(pair): place for place, pair in enumerate(self.pairs)}
        chosen = [
            np.isin(events.kind, [kinds[tuple(pair)] for pair in self.spec.behaviors[name]]).nonzero()[0]
            for name in self.behaviors
        ]
        all_codes = self.codes(list(range(len(self.keys))), events.user, events.item, events.columns)
        code, row_ptr, times = [], [], []
        code_ptr = np.zeros(len(self.keys) + 1, np.int64)
        row_first = np.full(self.kept.shape, -1, np.int64)
        num_rows = num_times = 0
        for key in range(len(self.keys)):
            kept = self.kept[key].nonzero()[0]
            own = [chosen[b][all_codes[key, chosen[b]] >= 0] for b in kept]
            groups = np.unique(np.concatenate([all_codes[key, rows] for rows in own] or [np.zeros(0, int)]))
            code.append(groups)
            code_ptr[key + 1] = code_ptr[key] + len(groups)
            for behavior, rows in zip(kept, own, strict=True):
                group = np.searchsorted(groups, all_codes[key, rows])
                time = events.known_time[rows]
                order = np.lexsort((time, group))
                row_first[key, behavior] = num_rows
                ends = np.bincount(group, minlength=len(groups)).cumsum()
                row_ptr.append(num_times + np.concatenate([[0], ends]))
                times.append(time[order])
                num_rows, num_times = num_rows + len(groups) + 1, num_times + len(rows)
        empty = np.zeros(0, np.int64)
        return GroupedTimes(
            np.concatenate([empty, *code]),
            code_ptr,
            # half the bytes where that holds the number of times: there are more rows than times
            np.concatenate([empty, *row_ptr]).astype(np.int32 if num_times < 2**31 else np.int64),
            row_first,
            np.concatenate([empty, *times]),
        )

    def program(self, features: Int64[np.ndarray, " num_chosen"]) -> "Program":
        """Return what the compiled loop needs to compute some of the features, in the order given."""
        place = {int(feature): index for index, feature in enumerate(features)}
        lines = sorted((key, line) for key, line in self.lines if line[5] in place)
        pointer = np.searchsorted([key for key, _ in lines], np.arange(len(self.keys) + 1)).astype(np.int64)
        table = np.array([(*line[:5], place[line[5]]) for _, line in lines], np.int64).reshape(-1, 6)
        return Program(features, sorted({key for key, _ in lines}), pointer, table)


@dataclass(frozen=True, eq=False)
class Program:
    """Some of the features, as the compiled loop reads them; column j of its result is ``features[j]``."""

    features: Int64[np.ndarray, " num_chosen"]
    keys: list[int]
    pointer: Int64[np.ndarray, " num_keys_and_one"]
    table: Int64[np.ndarray, "num_lines 6"]


@dataclass(frozen=True, eq=False)
class PastCounts:
    """The counts as of any time up to the last event that has been added. Immutable.

    Attributes:
        plan: what is counted.
        user_value: numbers of the users, (user rows with the unseen one, stored numbers), NaN where unknown.
        base: the events before the day.
        delta: the events of the day.

    """

    plan: CountPlan
    user_value: Float32[np.ndarray, "num_users num_values"]
    base: GroupedTimes
    delta: GroupedTimes

    def with_delta(self, events: CountedEvents) -> "PastCounts":
        """Return the same counts with other events of the day, all of them."""
        return replace(self, delta=self.plan.group(events))

    @cached_property
    def _arrays(self) -> tuple[Any, Any]:
        return self.base.arrays, self.delta.arrays

    def compute(
        self,
        program: Program,
        user: Int64[np.ndarray, " num_rows"],
        item: Int64[np.ndarray, " num_rows"],
        columns: Int64[np.ndarray, "num_rows num_columns"],
        as_of: Int64[np.ndarray, " num_rows"],
    ) -> Float32[np.ndarray, "num_rows num_chosen"]:
        """Return features (unscaled, NaN where there is none) from events known strictly before ``as_of``.

        ``user`` is the unseen row, ``num_users``, for an unknown user.
        """
        plan, spec = self.plan, self.plan.spec
        out = np.full((len(user), len(program.features)), np.nan, np.float32)
        codes = plan.codes(program.keys, user, item, columns)
        base, delta = self._arrays
        compiled.count_past(
            codes,
            as_of,
            plan.windows,
            base,
            delta,
            plan.rates,
            np.float32(spec.smoothing),
            program.pointer,
            program.table,
            out,
        )
        names = [spec.features[feature] for feature in program.features]
        for place, name in enumerate(names):
            if name in spec.user_values:
                known = ~np.isnan(out[:, names.index(spec.user_values[name])])
                stored = self.user_value[user, list(spec.user_values).index(name)]
                out[:, place] = np.where(known, stored, np.float32(np.nan))
        for place, name in enumerate(names):
            if name in spec.shares:
                numerator, denominator = (out[:, names.index(part)] for part in spec.shares[name])
                with np.errstate(divide="ignore", invalid="ignore"):
                    out[:, place] = numerator / denominator
        return out
