"""KuaiRand-Pure, a part: short-video impressions with clicks, likes and play times in 15 tabs.

Gao et al., "KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos",
CIKM 2022, doi 10.1145/3511808.3557624. What the data says wrongly, or too early, is handled here:

- ``time_ms`` is the only clock; ``date`` and ``hourmin`` disagree with it and are not read.
- Rows that repeat (user, video, time_ms, tab) are dropped and counted.
- Tab 1 is the domain "internal", the other tabs are "external", the earlier sequences are "early".
- In tabs 10, 11 and 14 ``is_click`` is a constant: they have no clicks and no labels.
- A long view and a like are known when the play ends, at ``time_ms + play_time_ms``.
- The earlier sequences are long watches, likes and exposures, never clicks.
- User columns that were counted at the end of the log are left out unless asked for.
"""

from dataclasses import replace
from datetime import date
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import polars as pl

from graph_builders.datasets.tables import DatasetTables
from graph_builders.events import (
    EventLog,
    EventLogError,
    EventSchema,
    concat_event_logs,
    read_events,
    read_table,
)

LOG_FILE = "log_standard_4_25_to_5_08_pure.parquet"
USER_FILE = "user_features_pure.csv.gz"
ITEM_FILE = "video_features_basic_pure.csv.gz"
EARLY_FILE = "user_sequences_until_4_24.parquet"

INTERNAL_TAB = 1
TABS_WITHOUT_CLICKS = (10, 11, 14)  # is_click is always 1, 0 and 0
UTC_OFFSET_HOURS = 8  # Asia/Shanghai

_HOUR_MS = 3_600_000
_LOG_KEY = ("user_id", "video_id", "time_ms", "tab")
_LOG_COLUMNS = (*_LOG_KEY, "is_click", "is_like", "long_view", "play_time_ms")
_ITEM_CATEGORIES = ("author_id", "video_type", "upload_dt", "upload_type", "music_id", "music_type")
_ITEM_NUMBERS = ("video_duration", "server_width", "server_height")
_SCHEMA = EventSchema(
    time_unit="ms",
    resolution="ms",
    behavior="behavior",
    behaviors=("impression", "click", "skip", "long_view", "like", "long_watch"),
    domain="domain",
    domains=("internal", "external", "early"),
    available_time="available_time",
)
_CITATION = (
    "Gao et al., KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos, "
    "CIKM 2022, https://doi.org/10.1145/3511808.3557624"
)


def load_kuairand_pure(
    path: str | Path | None = None, *, include_exposures: bool = False, leaky_user_fields: bool = False
) -> DatasetTables:
    """Load the part of KuaiRand-Pure that ships with this package (CC BY-SA 4.0).

    Args:
        path: a folder with the same files; default: the embedded copy.
        include_exposures: add ``watch_seq``, what users were shown before the log in all tabs, as
            behaviour "impression" of domain "early" (817,187 edges).
        leaky_user_fields: add the user columns that were taken at the END of the log (activity degree,
            counts of follows, fans and friends, their ranges). They describe the test days: a model
            that reads them SEES THE FUTURE. For studies of leakage only.

    Returns:
        Tables with times in milliseconds. Behaviours: "impression" (every row), "click", "skip" (shown
        and not clicked, where that means something), "long_view", "like" in domains "internal" and
        "external", with the attribute ``tab``; "long_watch" and "like" in domain "early", all at the
        user's ``last_time_ms``, in the order of the sequence. Contexts of the impressions: ``tab`` and
        the local ``hour`` of day; the label is ``is_click``.

    Raises:
        EventLogError: a file is missing or damaged, or breaks the event-log rules.

    """
    folder: Path | Traversable = (
        Path(path) if path is not None else resources.files("graph_builders.datasets") / "kuairand_pure"
    )
    shown, num_duplicates, num_rows = _read_log(folder)
    log = _log_events(shown)
    sequences = _read(folder, EARLY_FILE)
    early = _early_events(sequences, include_exposures)
    all_impressions = _impressions(shown)
    return DatasetTables(
        name="KuaiRand-Pure (part)",
        events=concat_event_logs([log, early]),
        impressions=all_impressions.filter(pl.col("tab") == INTERNAL_TAB).drop("domain"),
        all_impressions=all_impressions,
        contexts=("tab", "hour"),
        user_table=_user_table(_read(folder, USER_FILE), leaky_user_fields).join(
            _early_lengths(sequences), on="user_id", how="left", maintain_order="left"
        ),
        item_table=_item_table(_read(folder, ITEM_FILE)),
        internal_domains=("internal",),
        utc_offset_hours=UTC_OFFSET_HOURS,
        licence="CC BY-SA 4.0",
        citation=_CITATION,
        notes=(
            f"{num_duplicates} of {num_rows} log rows repeat (user, video, time_ms, tab) and were dropped.",
            f"Tabs {TABS_WITHOUT_CLICKS} have constant click labels: no clicks and no labels from them.",
            "Every video was uploaded on 04-09 to 04-11: there are no new items.",
            "291 follows in all: too few for a task, left out.",
        ),
    )


def _read(folder: Path | Traversable, name: str, columns: tuple[str, ...] | None = None) -> pl.DataFrame:
    # as_file unpacks a zipped package and is the path itself otherwise
    with resources.as_file(folder / name) as path:
        return read_table(path, columns)


def _read_log(folder: Path | Traversable) -> tuple[pl.DataFrame, int, int]:
    """Return the log in time order without duplicates, how many there were, and the rows read."""
    raw = _read(folder, LOG_FILE, _LOG_COLUMNS)
    shown = raw.unique(subset=list(_LOG_KEY), keep="first", maintain_order=True)
    domain = pl.when(pl.col("tab") == INTERNAL_TAB).then(pl.lit("internal")).otherwise(pl.lit("external"))
    shown = (
        shown.sort("time_ms", maintain_order=True)
        .with_columns(domain=domain)
        .rename({"video_id": "item_id", "time_ms": "time"})
    )
    return shown, raw.height - shown.height, raw.height


def _log_events(shown: pl.DataFrame) -> EventLog:
    """Make one event of every thing that happened to a shown video."""
    at_once, after_play = pl.col("time"), pl.col("time") + pl.col("play_time_ms")
    true_click = (pl.col("is_click") == 1) & ~pl.col("tab").is_in(TABS_WITHOUT_CLICKS)
    skip = (pl.col("is_click") == 0) & ~pl.col("tab").is_in(TABS_WITHOUT_CLICKS)
    behaviors = {
        "impression": (pl.lit(True), at_once),
        "click": (true_click, at_once),
        "skip": (skip, at_once),
        "long_view": (pl.col("long_view") == 1, after_play),
        "like": (pl.col("is_like") == 1, after_play),
    }
    columns = ["user_id", "item_id", "time", "behavior", "domain", "available_time", "tab"]
    frames = [
        shown.filter(happened).with_columns(behavior=pl.lit(name), available_time=known).select(columns)
        for name, (happened, known) in behaviors.items()
    ]
    schema = replace(_SCHEMA, attributes=("tab",))
    return read_events(pl.concat(frames), schema, name=LOG_FILE)


def _early_events(sequences: pl.DataFrame, include_exposures: bool) -> EventLog:
    """Unroll the sequences of 04-08 to 04-24; an event's place in its sequence is its place in the log."""
    behaviors = {"long_watch_seq": "long_watch", "like_seq": "like"}
    if include_exposures:
        behaviors = {"watch_seq": "impression", **behaviors}
    frames = [
        sequences.select("user_id", item_id=pl.col(column), time=pl.col("last_time_ms"))
        .filter(pl.col("item_id").list.len() > 0)
        .explode("item_id")
        .with_columns(behavior=pl.lit(name), domain=pl.lit("early"), available_time=pl.col("time"))
        for column, name in behaviors.items()
    ]
    return read_events(pl.concat(frames), _SCHEMA, name=EARLY_FILE)


def _early_lengths(sequences: pl.DataFrame) -> pl.DataFrame:
    """Return how many videos each user was shown before the log, of which the sequences keep the last 50.

    Known at the user's ``last_time_ms``: for three users that is after their first event of the log.
    """
    return sequences.select("user_id", early_history_len=pl.col("history_len").cast(pl.Int64))


def _impressions(shown: pl.DataFrame) -> pl.DataFrame:
    """Return the labelled rows of all tabs whose click label means something."""
    local_ms = pl.col("time") + UTC_OFFSET_HOURS * _HOUR_MS
    return shown.filter(~pl.col("tab").is_in(TABS_WITHOUT_CLICKS)).select(
        "user_id",
        "item_id",
        "time",
        pl.col("is_click").cast(pl.Float32).alias("label"),
        "tab",
        (local_ms // _HOUR_MS % 24).alias("hour"),
        "domain",
    )


def _user_table(raw: pl.DataFrame, leaky_user_fields: bool) -> pl.DataFrame:
    onehot = [f"onehot_feat{index}" for index in range(18)]
    _require(raw, ["user_id", "register_days", *onehot], USER_FILE)
    last_day = pl.lit(date(2022, 5, 8)).cast(pl.Int32)  # register_days was counted then; days since 1970
    fields = [
        *(pl.col(name).cast(pl.Int64).cast(pl.String) for name in onehot),
        (last_day.cast(pl.Int64) - pl.col("register_days")).alias("registration_day"),
    ]
    if leaky_user_fields:
        taken = {"user_id", "register_days", "register_days_range", *onehot}
        fields += [pl.col(name) for name in raw.columns if name not in taken]
    return raw.select("user_id", *fields)


def _item_table(raw: pl.DataFrame) -> pl.DataFrame:
    """Keep what was known at upload: no ``visible_status``, which was taken at the end."""
    _require(raw, ["video_id", *_ITEM_CATEGORIES, *_ITEM_NUMBERS, "tag"], ITEM_FILE)
    integers = [name for name in _ITEM_CATEGORIES if raw.schema[name].is_numeric()]
    return raw.select(
        pl.col("video_id").alias("item_id"),
        *(
            (pl.col(name).cast(pl.Int64) if name in integers else pl.col(name)).cast(pl.String)
            for name in _ITEM_CATEGORIES
        ),
        *(pl.col(name).cast(pl.Float32) for name in _ITEM_NUMBERS),
        pl.col("tag").cast(pl.String).str.split(","),
    )


def _require(frame: pl.DataFrame, columns: list[str], name: str) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise EventLogError(f"{name}: the columns {missing} are missing: is it the file of KuaiRand-Pure?")
