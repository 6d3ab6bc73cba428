"""Amazon reviews of small categories, 5-core: review texts, and titles of two categories' products.

Ni, Li, McAuley, "Justifying Recommendations using Distantly-Labeled Reviews and Fine-Grained Aspects", EMNLP
2019 (the 2018 edition, https://nijianmo.github.io/amazon/); Musical Instruments is of the 2014 edition (He,
McAuley, WWW 2016). No licence is given: for research, and not to be passed on. Names of reviewers, which the
files hold, are not read.

Times are whole days (UTC). Users and items were chosen by the whole period: five reviews or more of each.
"""

import json
from collections.abc import Sequence
from importlib.resources.abc import Traversable
from pathlib import Path

import polars as pl

from graph_builders.datasets.tables import DatasetTables
from graph_builders.datasets.text_files import find_file, open_folder, read_text
from graph_builders.events import EventLogError, EventSchema, read_events

CATEGORIES = {
    "Gift Cards": "Gift_Cards_5.json",
    "Magazine Subscriptions": "Magazine_Subscriptions_5.json",
    "All Beauty": "All_Beauty_5.json",
    "Fashion": "AMAZON_FASHION_5.json",
    "Appliances": "Appliances_5.json",
    "Musical Instruments": "Musical_Instruments_5_2014.json",
}
TITLE_FILES = {
    "Gift Cards": "meta_Gift_Cards.json",
    "Magazine Subscriptions": "meta_Magazine_Subscriptions.json",
}
_REMEDY = "put the original JSON-lines files there, as they are or with .gz behind their names"
_CITATION = (
    "Ni, Li, McAuley: Justifying Recommendations using Distantly-Labeled Reviews and Fine-Grained Aspects, "
    "EMNLP 2019; He, McAuley: Ups and Downs: Modeling the Visual Evolution of Fashion Trends with One-Class "
    "Collaborative Filtering, WWW 2016"
)
_FIELDS = {"reviewerID": pl.String, "asin": pl.String, "unixReviewTime": pl.Int64, "overall": pl.Float64}
_WORDS_OF_REVIEW = 12


def load_amazon_5core(path: str | Path, *, categories: Sequence[str] = tuple(CATEGORIES)) -> DatasetTables:
    """Load some categories as one log.

    Args:
        path: folder or .zip of the files.
        categories: of ``CATEGORIES``.

    Returns:
        Tables with times in seconds, at midnight UTC, in order of time; a user's rows of one day and item
        are one event. The only behaviour is "review", in the domain "internal", known at the last second of
        its day, with ``rating`` (1 to 5) and ``text`` (summary and review; it belongs to the event: use no
        text before it was known, see :func:`review_texts`). Item fields: ``category``; titles are the items'
        texts, null where there is none. User IDs are whole numbers, places among the reviewers' sorted IDs.
        There are no impressions.

    Raises:
        EventLogError: a file is missing or damaged, a line is no JSON object or lacks a field.
        ValueError: a category is unknown, or none is named.

    """
    unknown = sorted(set(categories) - set(CATEGORIES))
    if unknown or not categories:
        raise ValueError(f"categories must be some of {list(CATEGORIES)}, got {list(categories)}")
    folder = open_folder(path, _REMEDY)
    parts = [_reviews(find_file(folder, (CATEGORIES[name],), _REMEDY), name) for name in categories]
    reviews = pl.concat(parts).with_columns(pl.col("user_id").rank("dense").cast(pl.Int64) - 1)
    first = reviews.unique(["user_id", "item_id", "time"], keep="first", maintain_order=True)
    events = first.sort("time", maintain_order=True).with_columns(
        available_time=pl.col("time") // 86_400 * 86_400 + 86_399,
        behavior=pl.lit("review"),
        domain=pl.lit("internal"),
    )
    log = read_events(
        events.drop("category"),
        EventSchema(
            behavior="behavior",
            domain="domain",
            available_time="available_time",
            attributes=("rating", "text"),
        ),
        name=str(path),
    )
    titles = [_titles(find_file(folder, (TITLE_FILES[c],), _REMEDY)) for c in categories if c in TITLE_FILES]
    items = first.select("item_id", "category").unique("item_id", keep="first").sort("item_id")
    known = pl.concat([pl.DataFrame(schema={"item_id": pl.String, "text": pl.String}), *titles])
    texts = items.select("item_id").join(known.unique("item_id", keep="first"), on="item_id", how="left")
    empty = pl.DataFrame(
        schema={"user_id": pl.Int64, "item_id": pl.String, "time": pl.Int64, "label": pl.Float32}
    )
    return DatasetTables(
        name=f"Amazon 5-core ({', '.join(categories)})",
        events=log,
        impressions=empty,
        all_impressions=empty.with_columns(domain=pl.lit(None, pl.String)),
        contexts=(),
        item_table=items,
        text_tables={"item": texts.sort("item_id")},
        licence="none given: research use, not to be passed on",
        citation=_CITATION,
        notes=(
            f"{reviews.height - first.height} of {reviews.height} reviews repeat user, item and day: left out"
            ".",
            f"{texts['text'].null_count()} of {texts.height} items have no title.",
            "Times are days: a review is known at the end of its day.",
            "Users and items were chosen by their five reviews or more over the whole period.",
        ),
    )


def review_texts(tables: DatasetTables, *, before: int) -> pl.DataFrame:
    """Return a text for each item: its title, or the first words of reviews known before a time.

    Args:
        tables: of :func:`load_amazon_5core`.
        before: unix seconds; a review of that time or later is not read.

    Returns:
        ``item_id`` and ``text``, null where nothing was known.

    """
    known = tables.events.frame.filter(pl.col("available_time") < before).sort("time", maintain_order=True)
    beginning = pl.col("text").cast(pl.String).str.split(" ").list.head(_WORDS_OF_REVIEW).list.join(" ")
    said = known.group_by("item_id").agg(said=beginning.str.join(" "))
    joined = tables.text_tables["item"].join(said, on="item_id", how="left", maintain_order="left")
    return joined.select("item_id", text=pl.coalesce("text", "said"))


def _lines(file: Traversable) -> list[dict[str, object]]:
    """Read a JSON object a line."""
    found = []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise EventLogError(f"{file}, line {number}: no JSON ({error}): {_REMEDY}") from error
        if not isinstance(row, dict):
            raise EventLogError(f"{file}, line {number}: a {type(row).__name__}, not an object: {_REMEDY}")
        found.append(row)
    return found


def _reviews(file: Traversable, category: str) -> pl.DataFrame:
    rows = _lines(file)
    columns = {}
    for name, dtype in _FIELDS.items():
        values = [row.get(name) for row in rows]
        if None in values:
            raise EventLogError(f"{file}: review {values.index(None) + 1} has no {name!r}: {_REMEDY}")
        try:
            columns[name] = pl.Series(name, values, dtype=dtype, strict=True)
        except (TypeError, pl.exceptions.PolarsError) as error:
            raise EventLogError(
                f"{file}: {name!r} holds values of the wrong kind ({error}): {_REMEDY}"
            ) from error
    text = [f"{row.get('summary') or ''} {row.get('reviewText') or ''}".strip() for row in rows]
    frame = pl.DataFrame(columns).rename(
        {"reviewerID": "user_id", "asin": "item_id", "unixReviewTime": "time", "overall": "rating"}
    )
    return frame.with_columns(text=pl.Series(text, dtype=pl.String), category=pl.lit(category))


def _titles(file: Traversable) -> pl.DataFrame:
    """Return titles; one in some is a piece of the page's markup, which says nothing."""
    pairs = [(row.get("asin"), row.get("title")) for row in _lines(file)]
    frame = pl.DataFrame(pairs, schema={"item_id": pl.String, "text": pl.String}, orient="row")
    is_title = ~pl.col("text").str.starts_with("<") & (pl.col("text").str.strip_chars() != "")
    return frame.with_columns(text=pl.when(is_title).then("text")).drop_nulls()
