"""Amazon reviews of 2014 in two domains that share all users: Food and Kitchen, Beauty and Electronics.

Prepared by Bian et al., "ABXI: Invariant Interest Adaptation for Task-Guided Cross-Domain Sequential
Recommendation", WWW 2025 (https://github.com/DiMarzioBian/ABXI, the files ``*_50_preprocessed.txt``), from
He & McAuley, "Ups and Downs", WWW 2016, https://jmcauley.ucsd.edu/data/amazon/. Neither gives a licence: for
research, and not to be passed on. What the data says wrongly, or too early, is handled here:

- Times are whole days (UTC): two rows in five share user and day, in an order that means nothing. Events
  are known at the end of their day; candidates are grouped by user and day.
- A review says that somebody bought and wrote, whatever the rating, which the files do not hold.
- There are no impressions: negatives are sampled from the items that had a review before the day.
- One positive in five to seven is its item's first: no such event is a positive, all are kept as events.
- Users were chosen by the whole period: 10 to 50 events, five or more in each domain, of which only the last
  50 are kept. Who reviews at all in a month, and how often in all, says something about later months.
"""

from collections.abc import Iterator
from importlib.resources.abc import Traversable
from itertools import pairwise
from pathlib import Path
from typing import Literal

import polars as pl
import torch
from jaxtyping import Int64
from torch import Tensor

from graph_builders.datasets.download import fetch
from graph_builders.datasets.negatives import sample_impressions
from graph_builders.datasets.tables import DatasetTables
from graph_builders.datasets.text_files import (
    find_file,
    open_folder,
    parse_numbers,
    raise_rows,
    read_fields,
    read_json_object,
)
from graph_builders.events import EventLog, EventLogError, EventSchema, read_events

Pair = Literal["afk", "abe"]
Domain = Literal["food", "kitchen", "beauty", "electronics"]

DOMAINS: dict[str, tuple[Domain, Domain]] = {"afk": ("food", "kitchen"), "abe": ("beauty", "electronics")}
BASE_URL = "https://raw.githubusercontent.com/DiMarzioBian/ABXI/72e52c9f85c740cb5dbdab11f7e5a70eb28ae00d/data"
SHA256 = {
    "afk/afk_50_preprocessed.txt": "5f9856f574879920a70c93461add1ebc1c997b1ce6d626ba8d475315f53a4a15",
    "afk/map_item_50.txt": "64a939f71c0c48ba181d6d24e384af1160812bdf244f20c58ef101f5fc54b3c3",
    "abe/abe_50_preprocessed.txt": "e13235003725700fdc709eb78a8865bd7e4ab75dc28ae569f7a4cebcdab1e33b",
    "abe/map_item_50.txt": "4e144f3fea1a5e8037cd56167a084ce4d73c6ccc123187055470b3da9818de74",
}

_DAY = 86_400
_CITATION = (
    "Bian et al., ABXI: Invariant Interest Adaptation for Task-Guided Cross-Domain Sequential "
    "Recommendation, WWW 2025; He & McAuley, Ups and Downs: Modeling the Visual Evolution of Fashion Trends "
    "with One-Class Collaborative Filtering, WWW 2016, https://jmcauley.ucsd.edu/data/amazon/"
)


def load_amazon_pair(
    pair: Pair,
    path: str | Path | None = None,
    *,
    internal: Domain | None = None,
    num_negatives: int = 4,
    distribution: Literal["uniform", "popularity"] = "uniform",
    random_seed: int = 0,
) -> DatasetTables:
    """Load a pair of domains: one internal, the other external.

    Args:
        pair: "afk" (food and kitchen) or "abe" (beauty and electronics).
        path: a folder with ``{pair}_50_preprocessed.txt`` and ``map_item_50.txt``, or with ``.gz`` behind the
            names; default: fetched from the authors' repository.
        internal: the domain of the main task; default: the first of the pair.
        num_negatives: sampled for each positive.
        distribution: of the negatives, over the items of the positive's domain that had a review before the
            day: "uniform" or "popularity". An item's number of earlier reviews alone has an AUC of 0.79 (afk)
            and 0.80 (abe) against uniform negatives, 0.56 and 0.58 against those by popularity.
        random_seed: of the negatives.

    Returns:
        Tables with times in seconds, all at midnight UTC. The only behaviour is "review", in the domains
        "internal" and "external", known at the last second of its day. Impressions: positives, and sampled
        negatives of the same user and day; all rows of one user and time are one group of candidates.
        Context: ``month`` of the year, 0 to 11; periods are calendar months, see :func:`month_start`. User
        and item IDs are the files' own numbers; the item table has the ``asin`` and the ``domain``'s name.

    Raises:
        EventLogError: a file is missing or damaged, or breaks the event-log rules.
        DownloadError: a file could not be fetched.
        ValueError: the pair is unknown, ``internal`` is not in it, or ``num_negatives`` is not positive.

    """
    if pair not in DOMAINS:
        raise ValueError(f"pair must be one of {tuple(DOMAINS)}, got {pair!r}")
    names = DOMAINS[pair]
    internal = names[0] if internal is None else internal
    if internal not in names:
        raise ValueError(f"internal must be one of {names}, the domains of {pair!r}, got {internal!r}")
    events_file, items_file = _find_files(pair, path)
    item_table = _read_items(items_file, names)
    log = _read_events(events_file, item_table, internal)
    sampled = {
        domain: sample_impressions(
            log.frame.filter(pl.col("domain") == domain),
            num_negatives=num_negatives,
            distribution=distribution,
            random_seed=random_seed,
        )
        for domain in ("internal", "external")
    }
    all_impressions = pl.concat(
        [part.frame.with_columns(domain=pl.lit(domain)) for domain, part in sampled.items()]
    ).sort("time", maintain_order=True)
    day = pl.from_epoch(pl.col("time"), time_unit="s")
    all_impressions = all_impressions.with_columns(month=day.dt.month().cast(pl.Int64) - 1).select(
        "user_id", "item_id", "time", "label", "month", "domain"
    )
    impressions = all_impressions.filter(pl.col("domain") == "internal").drop("domain")
    num_users = log.frame["user_id"].n_unique()
    num_labelled = impressions["user_id"].n_unique()
    counts = [
        f"{part.num_left_out} of {part.num_events} {domain} events fall on their item's first day: kept as "
        f"events, left out of the impressions; {part.num_missing} negatives could not be drawn."
        for domain, part in sampled.items()
    ]
    return DatasetTables(
        name=f"Amazon 2014, {names[0]} and {names[1]} ({internal} internal)",
        events=log,
        impressions=impressions,
        all_impressions=all_impressions,
        contexts=("month",),
        item_table=item_table,
        internal_domains=("internal",),
        licence="none given: research use, not to be passed on",
        citation=_CITATION,
        notes=(
            f"Negatives are sampled: {num_negatives} for each positive, {distribution}, seed {random_seed}.",
            *counts,
            f"{num_users - num_labelled} of {num_users} users have no internal impression for that reason.",
            "Times are days: an event is known at the end of its day.",
            "Users were chosen by their 10 to 50 events over the whole period: compare models, and claim no "
            "significance by period.",
        ),
    )


def month_start(time: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
    """Floor unix times in seconds to the start of their calendar month, UTC: the period they lie in.

    >>> month_start(torch.tensor([1400198400])).item()  # 2014-05-16
    1398902400
    """
    days = pl.from_epoch(pl.Series(time.flatten().cpu().numpy()), time_unit="s")
    starts = days.dt.truncate("1mo").dt.epoch("s").to_numpy().copy()
    return torch.from_numpy(starts).view(time.shape).to(time.device)


def months(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the bounds of the calendar months (UTC, half-open) that ``[start, end)`` touches, in seconds.

    Raises:
        ValueError: ``end`` lies before ``start``.

    """
    if end < start:
        raise ValueError(f"the end {end} lies before the start {start}: swap them")
    first, last = (pl.from_epoch(pl.Series([time]), time_unit="s") for time in (start, end))
    last = last.dt.offset_by("1mo")  # the month of the end itself is dropped below if nothing of it is asked
    bounds = pl.datetime_range(
        first.dt.truncate("1mo")[0], last.dt.truncate("1mo")[0], "1mo", eager=True
    ).dt.epoch("s")
    return ((begin, stop) for begin, stop in pairwise(bounds.to_list()) if begin < end)


def _find_files(pair: str, path: str | Path | None) -> tuple[Traversable, Traversable]:
    names = (f"{pair}_50_preprocessed.txt", "map_item_50.txt")
    if path is None:
        events, items = (
            fetch(f"{BASE_URL}/{pair}/{name}", SHA256[f"{pair}/{name}"], file_name=f"abxi_{pair}_{name}")
            for name in names
        )
        return events, items
    remedy = f"get {' and '.join(names)} from {BASE_URL}/{pair}/, or pass no path to fetch them"
    folder = open_folder(path, remedy)
    events_file, items_file = (find_file(folder, (name,), remedy) for name in names)
    return events_file, items_file


def _read_items(file: Traversable, names: tuple[Domain, Domain]) -> pl.DataFrame:
    """Return ``item_id``, ``asin`` and ``domain`` of each item, from {ASIN: [number, domain 0 or 1]}."""
    content = read_json_object(file)
    wrong = [
        asin
        for asin, entry in content.items()
        if not (
            isinstance(entry, list)
            and len(entry) == 2
            and all(type(number) is int for number in entry)
            and entry[1] in (0, 1)
        )
    ]
    if wrong:
        raise EventLogError(
            f"{file}: {len(wrong)} entries are no [number, domain 0 or 1], first that of {wrong[0]!r}: "
            f"{content[wrong[0]]!r}; download the file again"
        )
    items = pl.DataFrame(
        [(number, asin, names[domain]) for asin, (number, domain) in content.items()],
        schema={"item_id": pl.Int64, "asin": pl.String, "domain": pl.String},
        orient="row",
    )
    repeated = items.filter(pl.col("item_id").is_duplicated())
    if repeated.height:
        raise EventLogError(
            f"{file}: the items {repeated['asin'].head(2).to_list()} share the number "
            f"{repeated['item_id'][0]}: download the file again"
        )
    return items


def _read_events(file: Traversable, items: pl.DataFrame, internal: str) -> EventLog:
    """Read a user's line, ``user item|time item|time ...``, as one event a pair, all in order of time."""
    lines = read_fields(file, "\n", ("line",)).with_row_index("row", 1)
    words = pl.col("line").str.strip_chars().str.split(" ")
    frame = lines.select(
        "row", user_id=words.list.first(), pair=words.list.slice(1).list.eval(pl.element().str.split("|"))
    )
    raise_rows(
        frame["user_id"].is_duplicated(), file, "user", frame["user_id"], "give each user one line",
        problem="occurs twice",
    )  # fmt: skip
    raise_rows(
        frame["pair"].list.len() == 0, file, "item|time", lines["line"], "give each user events",
        problem="is missing",
    )  # fmt: skip
    frame = frame.explode("pair")
    raise_rows(
        frame["pair"].list.len() != 2, file, "item|time", frame["pair"].list.join("|"),
        "write each event as item|time", problem="is no pair", row=frame["row"],
    )  # fmt: skip
    frame = frame.select(
        "row", "user_id", item_id=pl.col("pair").list.first(), time=pl.col("pair").list.last()
    )
    frame = parse_numbers(frame, ("user_id", "item_id", "time"), file, row=frame["row"])
    raise_rows(
        frame["time"] % _DAY != 0, file, "time", frame["time"],
        "cut times to days, by which candidates are grouped", problem="is no whole day", row=frame["row"],
    )  # fmt: skip
    frame = frame.join(items, on="item_id", how="left", maintain_order="left")
    raise_rows(
        frame["domain"].is_null(), file, "item", frame["item_id"], "take both files from one folder",
        problem="is not in map_item_50.txt", row=frame["row"],
    )  # fmt: skip
    is_internal = pl.col("domain") == internal
    frame = frame.sort("time", maintain_order=True).select(
        "user_id",
        "item_id",
        "time",
        domain=pl.when(is_internal).then(pl.lit("internal")).otherwise(pl.lit("external")),
        available_time=pl.col("time") + (_DAY - 1),
    )
    schema = EventSchema(
        default_behavior="review",
        behaviors=("review",),
        domain="domain",
        domains=("internal", "external"),
        available_time="available_time",
    )
    return read_events(frame, schema, name=str(file))
