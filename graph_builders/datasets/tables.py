"""What every data set's loader returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from graph_builders.events import EventLog, Resolution


@dataclass(frozen=True, kw_only=True, eq=False)
class DatasetTables:
    """A data set as an event log, impressions to score, and the tables beside them.

    A loader takes a path, fetches the set from its home page with ``fetch`` where none is given, and
    returns this. Everything downstream reads only these fields.

    Attributes:
        name: what reports call the data set.
        events: all behaviours of all domains.
        impressions: the rows of the main task: ``user_id``, ``item_id``, ``time``, ``label`` and contexts.
        all_impressions: labelled rows of every domain, with a column ``domain``; may be the same rows.
        contexts: the columns of the impressions that describe the moment.
        user_table: ``user_id`` and static fields. String columns are categories, numbers are numbers,
            lists hold several categories.
        item_table: ``item_id`` and static fields, in the same way.
        text_tables: texts by node type, each an ID column and ``text``.
        internal_domains: the domains of the main task. All others are external.
        utc_offset_hours: local time minus UTC: where the local day begins.
        licence: under which the data may be used.
        citation: whom to cite.
        notes: what was dropped, counted or derived: print it beside results.

    """

    name: str
    events: EventLog
    impressions: pl.DataFrame
    all_impressions: pl.DataFrame
    contexts: tuple[str, ...]
    user_table: pl.DataFrame | None = None
    item_table: pl.DataFrame | None = None
    text_tables: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    internal_domains: tuple[str, ...] = ("internal",)
    utc_offset_hours: int | float = 0
    licence: str = ""
    citation: str = ""
    notes: tuple[str, ...] = ()

    @property
    def time_resolution(self) -> Resolution:
        """Unit of all times, "s" or "ms"."""
        return self.events.time_resolution
