"""Category preference: does a user meet an item of a category in the time after a query? Any event log.

One of the two kinds of tasks by which representations of users are compared (LURM, Yang et al., 2021,
section 3.2): a user is positive with at least one event in the category in the period after the window.
"""

from collections.abc import Sequence

import polars as pl

from graph_builders.datasets.downstream_tasks import DownstreamTask, UserTimeSplit


def category_preference_tasks(
    events: pl.DataFrame,
    item_category: pl.DataFrame,
    categories: Sequence[str],
    *,
    split: UserTimeSplit,
    times: pl.Series,
    horizon: int,
    notes: Sequence[str] = (),
) -> tuple[DownstreamTask, ...]:
    """Return a binary task for each category, all with the same queries.

    A user is asked at a time if an event of theirs lies before it: of others nothing is known. Earlier events
    in the category do not matter; they are what a model should see.

    Args:
        events: ``user_id`` (whole numbers), ``item_id`` and ``time`` of what counts, such as purchases.
        item_category: ``item_id`` and ``category``, a string or a list of strings; an item may be of several.
        categories: that are asked for.
        split: which users and times are for training, validation and test.
        times: candidates for query times, int64, in the unit of the events'.
        horizon: length of a label window, in the same unit; above 0.
        notes: of the data set: printed beside results.

    Returns:
        In the order of ``categories``. A positive's ``label_time`` is that of the first event that counts.

    Raises:
        ValueError: a column is missing; a category has no event; categories are none or named twice; or
            ``horizon`` is not above 0 or longer than the split allows.

    """
    _check_columns(events, "events", ("user_id", "item_id", "time"))
    _check_columns(item_category, "item_category", ("item_id", "category"))
    if horizon < 1:
        raise ValueError(f"horizon must be above 0, got {horizon}")
    if isinstance(item_category.schema["category"], pl.List):
        item_category = item_category.explode("category", empty_as_null=True, keep_nulls=True)
    pairs = item_category.select("item_id", "category").drop_nulls().unique()
    wanted = pairs.filter(pl.col("category").is_in(list(categories)))
    met = events.select("user_id", "item_id", "time").join(wanted, on="item_id")
    without = sorted(set(categories) - set(met["category"].unique()))
    if without or not categories or len(set(categories)) < len(categories):
        raise ValueError(
            f"categories must be one or more, distinct and met in the log, got {list(categories)}, of which "
            f"{without} are not met: name others"
        )
    first_any = events.group_by("user_id").agg(first_any=pl.col("time").min())
    queries = split.query_frame(first_any["user_id"], times, horizon).join(first_any, on="user_id")
    asked = queries.filter(pl.col("first_any") < pl.col("time")).drop("first_any").sort("time", "user_id")
    tasks = []
    for category in categories:
        own = met.filter(pl.col("category") == category).select("user_id", "time", label_time="time")
        # the first event at or after the query's time
        joined = asked.join_asof(
            own.sort("time"), on="time", by="user_id", strategy="forward", check_sortedness=False
        )
        inside = (pl.col("label_time") < pl.col("time") + horizon).fill_null(False)
        tasks.append(
            DownstreamTask(
                name=f"preference: {category}",
                kind="binary",
                queries=joined.select(
                    "user_id",
                    "time",
                    "part",
                    inside.cast(pl.Float32).alias("label"),
                    pl.when(inside).then("label_time").cast(pl.Int64).alias("label_time"),
                ).sort("time", "user_id"),
                horizon=horizon,
                notes=(
                    *notes,
                    f"Positives have an event in {category!r} within {horizon} units of time from the query "
                    "on; users without an event before it are not asked.",
                ),
                shared_times=split.shared_times,
            )
        )
    return tuple(tasks)


def _check_columns(frame: pl.DataFrame, name: str, columns: tuple[str, str] | tuple[str, str, str]) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ValueError(f"{name} has no columns {missing}, it has {frame.columns}: rename or add them")
