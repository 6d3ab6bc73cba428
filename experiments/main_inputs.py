"""What every data set gives the experiments: impressions, fields, counts, graph, roles of relations."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from torch import Tensor

from graph_builders.behavior_graph import BehaviorGraph, Relation
from graph_builders.datasets import DatasetTables
from graph_builders.events import UNITS_PER_SECOND
from graph_builders.splits import Impressions, day_bounds
from graphrec.models.inputs import InputSizes
from graphrec.training.batches import ClickData

AsOf = Literal["period", "query"]


class ExposureRole(NamedTuple):
    """Behaviours of a domain that say what users were shown, and the one that says they liked it."""

    domain: str
    shown: tuple[str, ...]
    liked: str


@dataclass(frozen=True, kw_only=True, eq=False)
class MainInputs:
    """A data set before any model; all lengths of time are in the unit of the data's times.

    Attributes:
        tables: as loaded.
        data: impressions of the internal domain with fields, context and past counts (unscaled, with NaN).
        feature_names: of ``data.dense``.
        static: fields and contexts as plain numbers for the trees, and their names.
        sizes: numbers of codes; ``dense`` is 0 until the counts are scaled.
        graph: all events of all days; what a model gets of it is cut by time.
        fingerprint: SHA-256 over the event log and the impressions.
        period: length of a period; models are updated at its end.
        window: length of a test window: a day, where not said otherwise.
        snapshot_every: time between two snapshots of the long-term vectors.
        roles: which relation plays the part of a configuration's (domain, behaviour), such as a view that is
            to the external domain what a click is to the internal one; parts that nothing plays are left out.
        sequences: relations of which the named sequences of past events are made ("internal", "external").
        long_term_behaviors: what users did, not what they were shown: the edges of the long-term graph.
        exposures: where the log says what users were shown, for preference vectors; empty where it does not.
        as_of: queries are as of the start of their "period", or of their own times, "query".

    """

    tables: DatasetTables
    data: ClickData
    feature_names: list[str]
    static: Tensor
    static_names: list[str]
    sizes: InputSizes
    graph: BehaviorGraph
    fingerprint: str
    period: int
    window: int
    snapshot_every: int
    roles: Mapping[tuple[str, str], Relation]
    sequences: Mapping[str, tuple[Relation, ...]]
    long_term_behaviors: tuple[str, ...]
    exposures: tuple[ExposureRole, ...] = ()
    as_of: AsOf = "period"

    @property
    def units_per_second(self) -> int:
        """1 for seconds, 1000 for milliseconds."""
        return UNITS_PER_SECOND[self.tables.time_resolution]

    @property
    def utc_offset(self) -> int:
        """Local time minus UTC."""
        return round(self.tables.utc_offset_hours * 3600 * self.units_per_second)

    def bounds(self, name: str) -> tuple[int, int]:
        """Return the first time of the test window that begins on an ISO date, and the first after it.

        Raises:
            ValueError: the window does not begin where a period begins.

        """
        tables = self.tables
        start, _ = day_bounds(
            name, utc_offset_hours=tables.utc_offset_hours, time_resolution=tables.time_resolution
        )
        early = (start + self.utc_offset) % self.period
        if early:
            days = early // (86_400 * self.units_per_second)
            raise ValueError(f"{name} lies {days} days behind the start of a period: choose that day")
        return start, start + self.window

    def check_window(self, name: str) -> None:
        """Check that the window that begins on a day has impressions, and the time before it.

        Raises:
            ValueError: it has none; the message says what there is.

        """
        start, end = self.bounds(name)
        time = self.data.impressions.time
        if not bool((time < start).any()) or not bool(((time >= start) & (time < end)).any()):
            span = [self.local_day(int(bound)) for bound in time.aminmax()] if len(time) else []
            there = f"lie from {span[0]} to {span[1]}" if span else "are none"
            raise ValueError(
                f"{name} needs impressions on the day and before it: those of {self.tables.name} {there}"
            )

    def local_day(self, time: int) -> str:
        """Return the local day of a time as an ISO date."""
        seconds = (time + self.utc_offset) // self.units_per_second
        return datetime.fromtimestamp(seconds, tz=UTC).date().isoformat()

    def short_term_relations(self, domains: Sequence[str], behaviors: Sequence[str]) -> list[Relation]:
        """Return the relations that play the parts asked for, by domain, then behaviour.

        A domain may lack some of the behaviours.

        Raises:
            ValueError: a domain or a behaviour plays no part in this data, or nothing is left.

        """
        for place, kind, wanted in ((0, "domains", domains), (1, "behaviors", behaviors)):
            there = sorted({part[place] for part in self.roles})
            unknown = sorted(set(wanted) - set(there) - {"skip"})  # not every log says what was left
            if unknown or not wanted:
                raise ValueError(f"{self.tables.name} has the {kind} {there}, asked for {list(wanted)}")
        parts = [(domain, behavior) for domain in domains for behavior in behaviors]
        return [self.roles[part] for part in parts if part in self.roles]

    def long_term_graph(self, domains: Sequence[str] | None = None) -> BehaviorGraph:
        """Return the graph of what users did, in all domains or in some."""
        there = self.graph.view(domains=domains)
        return there.view(behaviors=[name for name in there.behaviors if name in self.long_term_behaviors])

    def snapshot_times(self, until: int) -> range:
        """Return when long-term vectors are taken: from the first impression on, up to ``until``."""
        step, offset = self.snapshot_every, self.utc_offset
        first = (int(self.data.impressions.time.min()) + offset) // step * step - offset
        return range(first, until + 1, step)


def fingerprint(events: pl.DataFrame, impressions: Impressions) -> str:
    """Return SHA-256 over all events and labelled rows, as hexadecimal digits."""
    digest = hashlib.sha256()
    digest.update(np.ascontiguousarray(events.hash_rows(seed=0).to_numpy()).tobytes())
    for column in (impressions.user, impressions.item, impressions.time, impressions.label):
        digest.update(column.numpy().tobytes())
    return digest.hexdigest()
