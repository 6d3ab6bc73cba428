"""MovieLens 1M and 100K: dated ratings of films; a rating from a threshold on counts as a click.

Harper & Konstan, "The MovieLens Datasets: History and Context", ACM TiiS 5(4), 2015, doi 10.1145/2827872.
Terms: research use, no redistribution without permission, no commercial use; the files are not part of this
package. https://grouplens.org/datasets/movielens/1m/ and https://grouplens.org/datasets/movielens/100k/.

- A rating's time is when it was typed in, not when the film was seen: users enter dozens within minutes,
  and many share a second. What comes next is partly the order in which the site listed films.
- Films are rated because they were chosen: a low rating is no film that was shown and passed over.
- Every user has at least 20 ratings, chosen over the whole period.
"""

from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

import polars as pl

from graph_builders.datasets.download import fetch
from graph_builders.datasets.tables import DatasetTables
from graph_builders.datasets.text_files import (
    find_file,
    open_folder,
    parse_numbers,
    raise_rows,
    read_atomic_file,
    read_fields,
)
from graph_builders.events import EventLog, EventSchema, read_events

Edition = Literal["ml-1m", "ml-100k"]

URL = {
    "ml-1m": "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
    "ml-100k": "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
}
SHA256 = {
    "ml-1m": "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
    "ml-100k": "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
}
PART_FILE = "ratings_users_1_to_2999.dat"  # the first lines of ratings.dat, all of these users

_RATING_COLUMNS = ("user_id", "item_id", "rating", "time")
_RECBOLE_COLUMNS = ("user_id", "item_id", "rating", "timestamp")  # the same, as RecBole calls them
# the order of the columns of u.item behind the title, two dates and a link
_GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_YEAR_IN_TITLE = r"\s*\((\d{4})\)(?:\s*\(V\))?\s*$"  # (V): made for video
_CITATION = (
    "Harper & Konstan, The MovieLens Datasets: History and Context, ACM Transactions on Interactive "
    "Intelligent Systems 5(4), 2015, https://doi.org/10.1145/2827872"
)


@dataclass(frozen=True)
class _Files:
    """Raw columns as text (ratings) and as fields (users, items with ``title``); where ratings came from."""

    ratings: pl.DataFrame
    users: pl.DataFrame
    items: pl.DataFrame
    source: Traversable
    first_row: int = 1


def load_movielens(
    edition: Edition, path: str | Path | None = None, *, click_threshold: float = 4.0
) -> DatasetTables:
    """Load MovieLens 1M or 100K.

    Args:
        edition: "ml-1m" or "ml-100k".
        path: a folder or .zip archive, or the folder that one lies in; default: fetched from GroupLens. It
            holds, each as it is or with ``.gz`` behind its name, for 1M: ``ratings.dat`` (or
            ``ratings_users_1_to_2999.dat``, the part of it with these users), ``users.dat`` and
            ``movies.dat``; for 100K: ``u.data``, ``u.user`` and ``u.item``, or RecBole's ``ml-100k.inter``,
            ``.user`` and ``.item``.
        click_threshold: ratings (1 to 5) from this on are clicks, the others are skips.

    Returns:
        Tables with times in seconds, in order of time; rows of one second keep the file's order. Each rating
        is an event, "click" or "skip", with the attribute ``rating``, and an impression with that label. All
        lies in the domain "internal". Context: ``hour`` of the day in UTC, the users' own time zones being
        unknown. User fields: ``gender``, ``age`` (a class in 1M, years in 100K), ``occupation`` and
        ``zip_code``; item fields: ``release_year`` (null where unknown) and ``genres``; titles are texts.

    Raises:
        EventLogError: a file is missing or damaged, or breaks the event-log rules.
        DownloadError: the archive could not be fetched.
        ValueError: the edition is unknown, or the threshold does not lie in (1, 5].

    """
    if edition not in URL:
        raise ValueError(f"edition must be one of {tuple(URL)}, got {edition!r}")
    if not 1 < click_threshold <= 5:
        raise ValueError(
            f"click_threshold must lie in (1, 5], for both labels to occur, got {click_threshold}"
        )
    remedy = f"get {URL[edition]}, or pass no path to fetch it"
    archive = fetch(URL[edition], SHA256[edition]) if path is None else path
    folder = open_folder(archive, remedy)
    if (folder / edition).is_dir():  # the archives hold one folder
        folder = folder / edition
    files = _read_1m(folder, remedy) if edition == "ml-1m" else _read_100k(folder, remedy)
    log = _rating_events(files, click_threshold)
    all_impressions = log.frame.select(
        "user_id",
        "item_id",
        "time",
        (pl.col("behavior") == "click").cast(pl.Float32).alias("label"),
        (pl.col("time") // 3600 % 24).alias("hour"),
        pl.col("domain").cast(pl.String),
    )
    num_tied = int(log.frame.select(pl.struct("user_id", "time").is_duplicated().sum()).item())
    is_part = files.source.name.startswith(PART_FILE)
    return DatasetTables(
        name="MovieLens 1M" + (" (users 1 to 2999)" if is_part else "")
        if edition == "ml-1m"
        else "MovieLens 100K",
        events=log,
        impressions=all_impressions.drop("domain"),
        all_impressions=all_impressions,
        contexts=("hour",),
        user_table=files.users,
        item_table=files.items.drop("title"),
        text_tables={"item": files.items.select("item_id", text="title")},
        internal_domains=("internal",),
        licence="GroupLens: research use, no redistribution without permission, no commercial use",
        citation=_CITATION,
        notes=(
            f"A rating of {click_threshold:g} or more is a click, a lower one a skip: no exposure is known.",
            f"{num_tied} of {len(log)} ratings share user and second with another: they keep the file's "
            "order, which says nothing.",
            "Times are those of entering ratings, not of watching.",
            *(("Only users 1 to 2999 have ratings here.",) if is_part else ()),
        ),
    )


def _rating_events(files: _Files, click_threshold: float) -> EventLog:
    source, row = files.source, files.first_row
    ratings = parse_numbers(files.ratings, ("user_id", "item_id", "time"), source, first_row=row)
    ratings = parse_numbers(ratings, ("rating",), source, whole=False, first_row=row)
    wrong = ~ratings["rating"].is_between(1, 5)
    raise_rows(
        wrong, source, "rating", ratings["rating"], "ratings go from 1 to 5", problem="is no rating",
        first_row=row,
    )  # fmt: skip
    click = pl.when(pl.col("rating") >= click_threshold).then(pl.lit("click")).otherwise(pl.lit("skip"))
    ratings = ratings.with_columns(click.alias("behavior"), pl.col("rating").cast(pl.Float32))
    schema = EventSchema(behavior="behavior", behaviors=("click", "skip"), attributes=("rating",))
    log = read_events(ratings, schema, name=str(source))
    return EventLog(log.frame.sort("time", maintain_order=True), log.time_resolution, log.report)


def _read_1m(folder: Traversable, remedy: str) -> _Files:
    source = find_file(folder, ("ratings.dat", PART_FILE), remedy)
    users_file = find_file(folder, ("users.dat",), remedy)
    items_file = find_file(folder, ("movies.dat",), remedy)
    users = read_fields(users_file, "::", ("user_id", "gender", "age", "occupation", "zip_code"))
    items = read_fields(items_file, "::", ("item_id", "title", "genres"), encoding="latin-1")
    items = parse_numbers(items, ("item_id",), items_file)
    return _Files(
        ratings=read_fields(source, "::", _RATING_COLUMNS),
        users=parse_numbers(users, ("user_id",), users_file),
        items=_split_title(items).with_columns(pl.col("genres").str.split("|")),
        source=source,
    )


def _read_100k(folder: Traversable, remedy: str) -> _Files:
    source = find_file(folder, ("u.data", "ml-100k.inter"), remedy)
    if not source.name.startswith("u.data"):
        return _read_recbole(folder, source, remedy)
    users_file = find_file(folder, ("u.user",), remedy)
    items_file = find_file(folder, ("u.item",), remedy)
    users = read_fields(users_file, "|", ("user_id", "age", "gender", "occupation", "zip_code"))
    head = ("item_id", "title", "release_date", "video_release_date", "link")
    items = read_fields(items_file, "|", (*head, *_GENRES_100K), encoding="latin-1")
    items = parse_numbers(items, ("item_id",), items_file)
    genres = pl.concat_list(
        pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in _GENRES_100K
    ).list.drop_nulls()
    return _Files(
        ratings=read_fields(source, "\t", _RATING_COLUMNS),
        users=_user_fields(parse_numbers(users, ("user_id", "age"), users_file)),
        items=_split_title(items.select("item_id", "title", genres=genres)),
        source=source,
    )


def _read_recbole(folder: Traversable, source: Traversable, remedy: str) -> _Files:
    users_file = find_file(folder, ("ml-100k.user",), remedy)
    items_file = find_file(folder, ("ml-100k.item",), remedy)
    users = read_atomic_file(
        users_file, {name: name for name in ("user_id", "age", "gender", "occupation", "zip_code")}
    )
    items = read_atomic_file(
        items_file,
        {"item_id": "item_id", "movie_title": "title", "release_year": "release_year", "class": "genres"},
    )
    items = parse_numbers(items, ("item_id",), items_file, first_row=2)
    # where a title ends in "(V)" the year was left in it, and the year's column says V; one film has none
    year = pl.col("release_year").cast(pl.Int64, strict=False)
    year = pl.coalesce(year, pl.col("title").str.extract(_YEAR_IN_TITLE).cast(pl.Int64))
    return _Files(
        ratings=read_atomic_file(source, dict(zip(_RECBOLE_COLUMNS, _RATING_COLUMNS, strict=True))),
        users=_user_fields(parse_numbers(users, ("user_id", "age"), users_file, first_row=2)),
        items=items.select(
            "item_id",
            pl.col("title").str.replace(_YEAR_IN_TITLE, ""),
            year.alias("release_year"),
            pl.col("genres").str.split(" "),
        ),
        source=source,
        first_row=2,
    )


def _user_fields(users: pl.DataFrame) -> pl.DataFrame:
    return users.select("user_id", "gender", "age", "occupation", "zip_code")


def _split_title(items: pl.DataFrame) -> pl.DataFrame:
    """Take the year, which ends a title in brackets, out of it."""
    return items.select(
        "item_id",
        pl.col("title").str.replace(_YEAR_IN_TITLE, ""),
        pl.col("title").str.extract(_YEAR_IN_TITLE).cast(pl.Int64).alias("release_year"),
        "genres",
    )
