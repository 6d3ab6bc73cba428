"""Time heatmaps: a user's last days as a sparse image of days x hours x channels.

Meta-Profile Network (Gong et al., Learning to Profile, CIKM 2020), section 3.1 and Table 1. A channel is one
view of behaviour: which events it counts, which attribute of theirs, and how a cell sums them up.

Time: a query at t sees ``[t - window, t)``. Days go back from t, 24 hours of the local clock each, and DAY 0
IS THE NEWEST: pools that do not divide the window drop its oldest days. The hour is that of the local clock
at the event, daylight saving included. Where clocks turned between an event and t, the local clock counts up
to an hour more or less than the window: such events stay in the oldest or in the newest day.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import polars as pl
import torch
from jaxtyping import Bool, Float, Float32, Int8, Int16, Int64
from torch import Tensor

from graph_builders import CategoricalColumn, NumericColumn
from graph_builders.feature_table import Column, encode_words
from graph_builders.option_checks import check_whole_number, check_whole_numbers
from graphrec.encoders.base import History, HistoryRequest
from graphrec.encoders.local_clock import DAY_SECONDS, HOUR_SECONDS, LocalClock
from samplers import EdgeType
from samplers.queries import expand_ranges
from samplers.tables import with_zero

HOURS = 24
MOST = 2**15 - 1  # days or channels: cells keep both as 16 bits
Aggregate = Literal["count", "sum", "mean", "last"]


@dataclass(frozen=True, kw_only=True)
class HeatmapChannel:
    """One view of behaviour: filter, aggregate, attribute.

    Attributes:
        name: what pictures and errors call it.
        aggregate: of the events of a cell: "count"; "sum", "mean" or "last" of ``attribute``. The last is
            that of the latest time, then of the order of the log.
        attribute: a number of the events; those without it are not of the channel. None for "count".
        edge_types: the events that are of the channel, such as purchases or returns; None: all.
        attributes: words of the events' attributes, one of which an event must have, by attribute. All must
            be known to the log's vocabulary.
        fields: the same for fields of the events' neighbours, such as an item's department.

    Raises:
        ValueError: an aggregate without an attribute, a count with one, or a filter without words or whose
            words are no tuple of strings.

    """

    name: str
    aggregate: Aggregate = "count"
    attribute: str | None = None
    edge_types: tuple[EdgeType, ...] | None = None
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.aggregate not in ("count", "sum", "mean", "last"):
            raise ValueError(
                f"channel {self.name!r}: aggregate must be 'count', 'sum', 'mean' or 'last', got "
                f"{self.aggregate!r}"
            )
        if (self.aggregate == "count") != (self.attribute is None):
            raise ValueError(
                f"channel {self.name!r}: a count has no attribute, all other aggregates need one, got "
                f"{self.aggregate!r} of {self.attribute!r}"
            )
        for name, words in (*self.attributes.items(), *self.fields.items()):
            if isinstance(words, str) or not all(isinstance(word, str) for word in words):
                raise ValueError(
                    f"channel {self.name!r}, filter {name!r}: words must be a tuple of strings, got "
                    f"{words!r}: write one word as (word,)"
                )
        empty = [name for name, words in (*self.attributes.items(), *self.fields.items()) if not words]
        if empty or self.edge_types == ():
            raise ValueError(
                f"channel {self.name!r}: the filters of {empty or 'edge types'} let nothing through: name "
                "words or edge types, or leave them out"
            )


@dataclass(frozen=True, eq=False)
class Heatmaps:
    """Cells of many queries' heatmaps that are not 0, sorted by query, day, hour and channel.

    Attributes:
        num_days: of the window.
        num_channels: of each heatmap.
        ptr: those of query i are ``ptr[i]:ptr[i + 1]``.
        day: 0 is the newest.
        hour: of the local clock, 0 to 23.
        channel: from 0.
        value: of the cell.

    """

    num_days: int
    num_channels: int
    ptr: Int64[Tensor, " num_queries_and_one"]
    day: Int16[Tensor, " num_cells"]
    hour: Int8[Tensor, " num_cells"]
    channel: Int16[Tensor, " num_cells"]
    value: Float32[Tensor, " num_cells"]

    def __len__(self) -> int:
        return len(self.ptr) - 1

    def query_of_cell(self) -> Int64[Tensor, " num_cells"]:
        """Return the query that each cell belongs to."""
        queries = torch.arange(len(self), device=self.ptr.device)
        return queries.repeat_interleave(self.ptr.diff(), output_size=len(self.value))

    def to(self, device: torch.device | str) -> "Heatmaps":
        """Copy to another device."""
        return self._with(**{name: column.to(device) for name, column in self.columns().items()})

    def columns(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return {name: getattr(self, name) for name in ("ptr", "day", "hour", "channel", "value")}

    def take(self, query: Int64[Tensor, " num_taken"]) -> "Heatmaps":
        """Return the heatmaps of the given queries, in that order; a query may be taken twice."""
        query = query.to(self.ptr.device)
        count = self.ptr.diff()[query]
        cell = expand_ranges(self.ptr[query], count)[1]
        columns = {name: getattr(self, name)[cell] for name in ("day", "hour", "channel", "value")}
        return self._with(ptr=with_zero(count.cumsum(0)), **columns)

    def dense(self) -> Float32[Tensor, "num_queries num_channels num_days hours"]:
        """Return the images, 0 in all other cells, by one scatter on the device: for a mini-batch."""
        shape = (len(self), self.num_channels, self.num_days, HOURS)
        row = self.query_of_cell() * self.num_channels + self.channel
        place = (row * self.num_days + self.day) * HOURS + self.hour
        image = self.value.new_zeros(shape).flatten()
        return image.scatter_(0, place, self.value).view(shape)

    @property
    def num_bytes(self) -> int:
        """Size of all columns: 9 bytes a cell and 8 a query."""
        return sum(column.numel() * column.element_size() for column in self.columns().values())

    def _with(self, **columns: Any) -> "Heatmaps":
        return replace(self, **columns)


@dataclass(frozen=True, kw_only=True)
class HeatmapEncoding:
    """How the histories of one modality become heatmaps.

    Attributes:
        edge_types: of the history.
        channels: at least one, at most 32,767.
        num_days: length of the window.
        time_zone: of the local clock: an IANA name such as America/New_York, or a shift such as +08:00.

    Raises:
        ValueError: there is no channel, one twice, or too many; a channel has an edge type that the history
            lacks, or a name is an attribute here and a field there; ``num_days`` is no whole number in 1 to
            32,767; or the time zone is unknown.

    """

    edge_types: tuple[EdgeType, ...]
    channels: tuple[HeatmapChannel, ...]
    num_days: int
    time_zone: str

    def __post_init__(self) -> None:
        names = [channel.name for channel in self.channels]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"a heatmap needs channels, each name once, got {names}")
        check_whole_numbers(self, num_days=1)
        _check_size(self.num_days, len(names))
        for channel in self.channels:
            unknown = [kind for kind in channel.edge_types or () if kind not in self.edge_types]
            if unknown:
                raise ValueError(
                    f"channel {channel.name!r} has edge types {unknown}, the history has "
                    f"{list(self.edge_types)}: add them there"
                )
        _ = self.request, self.clock  # their own errors

    @cached_property
    def request(self) -> HistoryRequest:
        """The history that is asked for."""
        attributes, fields = dict[str, None](), dict[str, None]()
        for channel in self.channels:
            attributes |= dict.fromkeys(channel.attributes)
            attributes |= {} if channel.attribute is None else {channel.attribute: None}
            fields |= dict.fromkeys(channel.fields)
        return HistoryRequest(
            edge_types=self.edge_types,
            window=self.num_days * DAY_SECONDS,
            attributes=tuple(attributes),
            fields=tuple(fields),
        )

    @cached_property
    def clock(self) -> LocalClock:
        """The local clock."""
        return LocalClock.of_zone(self.time_zone)

    def encode(
        self, history: History, time: Int64[Tensor, " num_queries"], units_per_second: int = 1
    ) -> Heatmaps:
        """Turn histories into heatmaps.

        Args:
            history: of ``request``.
            time: of each query, in the unit of the events' times.
            units_per_second: of that unit.

        Raises:
            ValueError: a column that a channel filters by is a number, one that it aggregates is none, a
                word of a filter is not known, or a cell's value is infinite or too large for float32. A NaN
                says that an event lacks the attribute, so it is not of the channel; an infinite number says
                nothing of the kind.

        """
        events = history.events
        query = events.query_of_event()
        local = self.clock.local_seconds(events.time, units_per_second)
        now = self.clock.local_seconds(time, units_per_second)[query]
        day = (now - 1 - local).div(DAY_SECONDS, rounding_mode="floor").clamp(0, self.num_days - 1)
        hour = local.div(HOUR_SECONDS, rounding_mode="floor").remainder(HOURS)
        position = (query * self.num_days + day) * HOURS + hour
        cells, values = [], []
        for number, channel in enumerate(self.channels):
            event = self._matching(channel, history).nonzero().flatten()
            cell, place = (position[event] * len(self.channels) + number).unique(return_inverse=True)
            cells.append(cell)
            values.append(_aggregated(channel, history, event, place, len(cell)).float())
            _check_finite(channel, values[-1])
        cell, value = torch.cat(cells), torch.cat(values)
        kept = (value != 0).nonzero().flatten()
        order = kept[cell[kept].argsort()]
        cell, value = cell[order], value[order]
        position, channel_of_cell = cell // len(self.channels), cell % len(self.channels)
        day_of_query = position // HOURS
        count = torch.bincount(day_of_query // self.num_days, minlength=len(time))
        return Heatmaps(
            num_days=self.num_days,
            num_channels=len(self.channels),
            ptr=with_zero(count.cumsum(0)),
            day=(day_of_query % self.num_days).short(),
            hour=(position % HOURS).to(torch.int8),
            channel=channel_of_cell.short(),
            value=value,
        )

    def _matching(self, channel: HeatmapChannel, history: History) -> Bool[Tensor, " num_events"]:
        """Say which events are of a channel."""
        edge_type = history.events.edge_type
        assert edge_type is not None  # histories of requests name them
        kept = torch.ones_like(edge_type, dtype=torch.bool)
        if channel.edge_types is not None:
            numbers = [self.edge_types.index(kind) for kind in channel.edge_types]
            kept &= torch.isin(edge_type, torch.tensor(numbers, device=edge_type.device))
        for name, words in (*channel.attributes.items(), *channel.fields.items()):
            kept &= _has_word(history.columns[name], words, f"channel {channel.name!r}, filter {name!r}")
        if channel.attribute is not None:
            kept &= ~_number(history.columns[channel.attribute], channel).isnan()
        return kept


def concatenate_heatmaps(parts: Sequence[Heatmaps]) -> Heatmaps:
    """Put heatmaps of the same days and channels behind one another.

    Raises:
        ValueError: there is no part, or they differ in days or channels.

    """
    if not parts:
        raise ValueError("nothing to concatenate: at least one part is needed")
    sizes = sorted({(part.num_days, part.num_channels) for part in parts})
    if len(sizes) > 1:
        raise ValueError(f"all parts must have the same days and channels, got {sizes}")
    columns: dict[str, Any] = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("day", "hour", "channel", "value")
    }
    count = torch.cat([part.ptr.diff() for part in parts])
    return replace(parts[0], ptr=with_zero(count.cumsum(0)), **columns)


# ---- the paper's text form -----------------------------------------------------------------------


def heatmap_texts(heatmaps: Heatmaps) -> pl.Series:
    """Write each query's cells as the paper does: ``day, hour, channel: value; ...``, a text a query.

    "2, 10, 28: 5000; 100, 20, 25: 6000" says: channel 28 had 5,000 at 10 o'clock of the second day. The
    paper counts days relative to the year: here day 1 is the oldest of the window, ``num_days`` the newest,
    as one reads a year; cells are in the order of time. Values have as many digits as float32 needs.
    """
    cells = pl.DataFrame(
        {name: column.cpu().numpy() for name, column in heatmaps.columns().items() if name != "ptr"}
    ).with_columns(
        query=pl.Series(heatmaps.query_of_cell().cpu().numpy()),
        day=heatmaps.num_days - pl.col("day").cast(pl.Int32),
    )
    value = pl.col("value").cast(pl.String).str.replace(r"\.0$", "")
    texts = (
        cells.sort("query", "day", "hour", "channel")
        .group_by("query", maintain_order=True)
        .agg(text=pl.format("{}, {}, {}: {}", "day", "hour", "channel", value).str.join("; "))
    )
    queries = pl.DataFrame({"query": range(len(heatmaps))}, schema={"query": pl.Int64})
    return queries.join(texts, on="query", how="left", maintain_order="left")["text"].fill_null("")


def parse_heatmap_texts(texts: pl.Series, *, num_days: int, num_channels: int) -> Heatmaps:
    """Read what :func:`heatmap_texts` writes; blanks do not matter, nor does a ``;`` at the end.

    Args:
        texts: one a query; an empty or null one has no cell.
        num_days: of the window, at most 32,767.
        num_channels: of the heatmaps, at most 32,767.

    Raises:
        ValueError: days or channels are too many or none; or an entry is no ``day, hour, channel: value``,
            lies outside the heatmap, or comes twice; the row of the text and the entry are named.

    """
    check_whole_number("num_days", num_days, 1)
    check_whole_number("num_channels", num_channels, 1)
    _check_size(num_days, num_channels)
    entries = (
        texts.cast(pl.String)
        .fill_null("")
        .str.split(";")
        .alias("entry")
        .to_frame()
        .with_row_index("query")
        .explode("entry", empty_as_null=True)
        .with_columns(pl.col("entry").str.strip_chars())
        .filter(pl.col("entry").fill_null("") != "")
    )
    pattern = r"^(?P<day>\d+)\s*,\s*(?P<hour>\d+)\s*,\s*(?P<channel>\d+)\s*:\s*(?P<value>\S+)$"
    cells = entries.with_columns(pl.col("entry").str.extract_groups(pattern)).unnest("entry")
    cells = cells.with_columns(
        pl.col("query").cast(pl.Int64),
        pl.col("day", "hour", "channel").cast(pl.Int64, strict=False),
        pl.col("value").cast(pl.Float32, strict=False),
    )
    in_range = (
        pl.col("day").is_between(1, num_days)
        & pl.col("hour").is_between(0, HOURS - 1)
        & pl.col("channel").is_between(0, num_channels - 1)
        & pl.col("value").is_finite()
    )
    right = cells.select(in_range.fill_null(False)).to_series()
    problems = (
        (~right, f"is no 'day, hour, channel: value' of {num_days} days and {num_channels} channels"),
        (cells.select("query", "day", "hour", "channel").is_duplicated(), "names a cell twice"),
    )
    for wrong, problem in problems:
        if wrong.any():
            query, entry = entries.row(int(wrong.arg_true()[0]))
            raise ValueError(
                f"{texts.name or 'texts'}: entry {entry!r} of row {query + 1} {problem} "
                f"({wrong.sum()} entries in all): correct it, or read it with other sizes"
            )
    cells = cells.filter(pl.col("value") != 0).with_columns(day=num_days - pl.col("day"))
    columns = {
        name: torch.from_numpy(column.to_numpy().copy())
        for name, column in cells.sort("query", "day", "hour", "channel").to_dict().items()
    }
    return Heatmaps(
        num_days=num_days,
        num_channels=num_channels,
        ptr=with_zero(torch.bincount(columns["query"], minlength=len(texts)).cumsum(0)),
        day=columns["day"].short(),
        hour=columns["hour"].to(torch.int8),
        channel=columns["channel"].short(),
        value=columns["value"],
    )


# ---- parts ---------------------------------------------------------------------------------------


def _check_size(num_days: int, num_channels: int) -> None:
    if max(num_days, num_channels) > MOST:
        raise ValueError(
            f"a heatmap has at most {MOST:,} days and {MOST:,} channels, got {num_days:,} and "
            f"{num_channels:,}: take a shorter window, or several encodings"
        )


def _check_finite(channel: HeatmapChannel, value: Float32[Tensor, " num_cells"]) -> None:
    wrong = int((~value.isfinite()).sum())
    if wrong:
        raise ValueError(
            f"channel {channel.name!r}: the {channel.aggregate} of {channel.attribute!r} is infinite or too "
            f"large for float32 in {wrong} cells: correct or leave out such events, or scale the attribute"
        )


def _has_word(column: Column, words: tuple[str, ...], where: str) -> Bool[Tensor, " num_events"]:
    """Say which rows hold one of the words."""
    if isinstance(column, NumericColumn):
        raise ValueError(f"{where}: holds numbers, filters need words: bin it, or cast it to strings")
    code = encode_words(pl.Series(words), column.vocabulary).to(column.code.device)
    unknown = [word for word, number in zip(words, code.tolist(), strict=True) if not number]
    if unknown:
        known = column.vocabulary.head(5).to_list()
        raise ValueError(
            f"{where}: the words {unknown} are not known, there are {known}, ...: correct them, or leave "
            "them out"
        )
    found = torch.isin(column.code, code)
    if isinstance(column, CategoricalColumn):
        return found
    return with_zero(found.long().cumsum(0))[column.ptr].diff() > 0


def _number(column: Column, channel: HeatmapChannel) -> Float32[Tensor, " num_events"]:
    if not isinstance(column, NumericColumn):
        raise ValueError(
            f"channel {channel.name!r}: {channel.attribute!r} is words, a {channel.aggregate} needs numbers"
        )
    return column.value


def _aggregated(
    channel: HeatmapChannel,
    history: History,
    event: Int64[Tensor, " num_matching"],
    place: Int64[Tensor, " num_matching"],
    num_cells: int,
) -> Float[Tensor, " num_cells"]:
    """Return the value of each cell from its events; sums are of float64."""
    if channel.attribute is None:
        return torch.bincount(place, minlength=num_cells).double()
    number = _number(history.columns[channel.attribute], channel)[event].double()
    if channel.aggregate == "last":
        # a query's events are in the order of time, so the last is the one furthest behind
        last = place.new_zeros(num_cells).scatter_reduce(
            0, place, torch.arange(len(place), device=place.device), "amax", include_self=False
        )
        return number[last]
    total = torch.zeros(num_cells, dtype=torch.float64, device=place.device).index_add(0, place, number)
    if channel.aggregate == "sum":
        return total
    return total / torch.bincount(place, minlength=num_cells)
