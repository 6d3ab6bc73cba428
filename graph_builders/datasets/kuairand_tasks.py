"""KuaiRand-Pure's tasks for DUPN: click, ranking, duration, author, and the held-out long view.

They stand for the tasks of the paper (Ni et al., KDD 2018, table 1): CTR; learning to rank over statistics of
the item's past; the preferred class of duration for the price level; the next author among sampled ones for
the fashion icon that is followed next (there are too few follows); the long view for the held-out shop.
"""

from collections.abc import Mapping

import numpy as np
import polars as pl
import torch
from jaxtyping import Int64
from torch import Tensor

from graph_builders.datasets.entity_tasks import EntityTask, make_rows
from graph_builders.datasets.kuairand import TABS_WITHOUT_CLICKS
from graph_builders.datasets.negatives import sample_impressions
from graph_builders.datasets.tables import DatasetTables
from graph_builders.ids import IdMap
from graph_builders.past_counts import CountedEvents, CountFeatures, past_counts

CONTEXTS = ("tab",)
DAY = 86_400_000  # times are milliseconds
BEHAVIOR_WEIGHTS = {"skip": 1.0, "click": 1.0, "long_view": 2.0, "like": 4.0}
_COUNTED = ("impression", "click", "long_view", "like")
_RATES = tuple((name, "impression") for name in _COUNTED[1:])
_RANKING = tuple(
    CountFeatures(key=key, behaviors=_COUNTED, windows=(None, DAY), rates=_RATES)
    for key in (("item",), ("author",))
)


def shown_videos(tables: DatasetTables) -> pl.DataFrame:
    """Return every video that was shown in the log and what came of it, one row an impression, by time.

    Args:
        tables: of ``load_kuairand_pure``.

    Returns:
        ``user_id``, ``item_id``, ``time``, ``tab``; ``click`` (null in tabs where it is a constant),
        ``long_view``, ``like``; ``outcome_time``, when it was known whether the view was long and liked: a
        play that was neither is counted as known after the video's duration, for its own end is not in the
        tables; and ``author_id``, ``duration`` of the video in milliseconds.

    """
    key = ["user_id", "item_id", "time", "tab"]
    timed = tables.events.frame.filter(pl.col("domain").cast(pl.String) != "early").with_columns(
        pl.col("behavior").cast(pl.String)
    )
    table = tables.item_table
    assert table is not None  # this loader's tables have one
    shown = timed.filter(pl.col("behavior") == "impression").select(key)
    for name in ("click", "long_view", "like"):
        done = timed.filter(pl.col("behavior") == name).select(
            *key, pl.lit(True).alias(name), pl.col("available_time").alias(f"{name}_known")
        )
        shown = shown.join(done, on=key, how="left", maintain_order="left")
    shown = shown.join(
        table.select("item_id", "author_id", duration="video_duration"),
        on="item_id",
        how="left",
        maintain_order="left",
    )
    at_the_end = pl.col("time") + pl.col("duration").fill_null(0).cast(pl.Int64)
    return shown.select(
        *key,
        pl.when(~pl.col("tab").is_in(TABS_WITHOUT_CLICKS)).then(pl.col("click").fill_null(False)),
        pl.col("long_view").fill_null(False),
        pl.col("like").fill_null(False),
        outcome_time=pl.coalesce(pl.max_horizontal("long_view_known", "like_known"), at_the_end),
        author_id=pl.col("author_id"),
        duration=pl.col("duration"),
    ).sort("time", "user_id", "item_id", "tab")


def click_task(shown: pl.DataFrame) -> EntityTask:
    """Ask whether a shown video is clicked: CTR. The query's context is the tab.

    Args:
        shown: of :func:`shown_videos`. Tabs whose click label is a constant are left out.

    """
    labelled = shown.drop_nulls("click").with_columns(label=pl.col("click"), known_time="time")
    rows = make_rows(labelled, entity="item_id", contexts=CONTEXTS)
    return EntityTask(name="click", kind="pair", rows=rows, entity="item_id", contexts=CONTEXTS)


def long_view_task(shown: pl.DataFrame) -> EntityTask:
    """Ask whether a shown video is watched for long: the task that is held out for transfer, of all tabs.

    Args:
        shown: of :func:`shown_videos`.

    """
    labelled = shown.with_columns(label=pl.col("long_view"), known_time="outcome_time")
    rows = make_rows(labelled, entity="item_id", contexts=CONTEXTS)
    return EntityTask(name="long_view", kind="pair", rows=rows, entity="item_id", contexts=CONTEXTS)


def ranking_task(
    shown: pl.DataFrame, *, behavior_weights: Mapping[str, float] = BEHAVIOR_WEIGHTS
) -> EntityTask:
    """Rank shown videos by statistics of the item's and its author's past: learning to rank.

    28 features of each: how often it was shown, clicked, watched for long and liked before the query, in all
    and in the 24 hours before, and the three smoothed rates (``past_counts``). Counts are raw: scale them on
    training rows. The label is +1 of a click and -1 of none; the weight that of the strongest behaviour.

    Args:
        shown: of :func:`shown_videos`. Tabs whose click label is a constant give neither rows nor counts.
        behavior_weights: of "skip", "click", "long_view" and "like" (values ours). The first is of rows that
            are not clicked, whatever came later.

    Raises:
        ValueError: a behaviour has no weight, or an unknown one has.

    """
    if set(behavior_weights) != set(BEHAVIOR_WEIGHTS):
        raise ValueError(
            f"behavior_weights must be of {sorted(BEHAVIOR_WEIGHTS)}, got {sorted(behavior_weights)}"
        )
    labelled = shown.drop_nulls("click")
    weight = {name: pl.lit(float(value)) for name, value in behavior_weights.items()}
    names, features = _item_statistics(labelled)
    labelled = labelled.with_columns(
        label=pl.when("click").then(1.0).otherwise(-1.0),
        weight=pl.when(~pl.col("click"))
        .then(weight["skip"])
        .when("like")
        .then(weight["like"])
        .when("long_view")
        .then(weight["long_view"])
        .otherwise(weight["click"]),
        known_time="outcome_time",
    ).hstack(pl.DataFrame(features.numpy(), schema=dict.fromkeys(names, pl.Float32)))
    rows = make_rows(labelled, entity="item_id", contexts=CONTEXTS, features=tuple(names))
    return EntityTask(
        name="ranking",
        kind="ranking",
        rows=rows,
        entity="item_id",
        contexts=CONTEXTS,
        features=tuple(names),
        notes=(f"Weights of behaviours: {dict(behavior_weights)}.",),
    )


def duration_task(shown: pl.DataFrame, catalogue: pl.DataFrame, *, num_classes: int = 7) -> EntityTask:
    """Ask how long the video is that the user clicks next: a class of duration, for the price level.

    The classes are quantiles of the catalogue's durations, which are known at upload, before the log.

    Args:
        shown: of :func:`shown_videos`.
        catalogue: ``video_duration`` of each video: the item table.
        num_classes: at most so many, and fewer where quantiles coincide (paper: 7 levels of price).

    Raises:
        ValueError: ``num_classes`` is below 2, or the catalogue has no two durations.

    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    durations = catalogue["video_duration"].drop_nulls().cast(pl.Float64).to_numpy()
    edges = list[float]()
    if len(durations):
        quantiles = np.quantile(durations, np.arange(1, num_classes) / num_classes)
        # a bound at the least duration would leave its first class empty
        edges = np.unique(quantiles[quantiles > durations.min()]).tolist()
    if not edges:
        raise ValueError("the catalogue's durations are all missing or all equal: there are no classes")
    clicked = shown.filter(pl.col("click")).drop_nulls("duration")
    number = torch.bucketize(
        torch.from_numpy(clicked["duration"].to_numpy().copy()).double(),
        torch.tensor(edges, dtype=torch.float64),
        right=True,
    )
    labelled = clicked.with_columns(label=pl.Series(number.numpy()), known_time="time")
    return EntityTask(
        name="duration",
        kind="class",
        rows=make_rows(labelled, contexts=CONTEXTS),
        contexts=CONTEXTS,
        num_classes=len(edges) + 1,
        notes=(f"Classes of duration begin at 0 and {edges} ms.",),
    )


def author_task(shown: pl.DataFrame, *, num_negatives: int = 4, random_seed: int = 0) -> EntityTask:
    """Ask which author the user clicks for the first time in the log: the next one, among sampled authors.

    A user's first click on an author is a positive; negatives are authors that exist then, were clicked by
    somebody before, and not by this user yet, drawn by popularity (``sample_impressions``, which also leaves
    out and counts positives whose author nobody clicked before). So the user's history holds no click on any
    candidate.

    Args:
        shown: of :func:`shown_videos`.
        num_negatives: for each positive.
        random_seed: of the negatives.

    Raises:
        ValueError: ``num_negatives`` is below 1.

    """
    first = (
        shown.filter(pl.col("click"))
        .drop_nulls("author_id")
        .group_by("user_id", "author_id")
        .agg(pl.col("time").min())
    )
    sampled = sample_impressions(
        first.rename({"author_id": "item_id"}),
        num_negatives=num_negatives,
        distribution="popularity",
        random_seed=random_seed,
    )
    labelled = sampled.frame.rename({"item_id": "author_id"}).with_columns(known_time="time")
    return EntityTask(
        name="author",
        kind="pair",
        rows=make_rows(labelled, entity="author_id"),
        entity="author_id",
        notes=(
            f"{sampled.num_left_out} of {sampled.num_events} first clicks are left out: nobody had clicked "
            f"the author before. {sampled.num_missing} negatives could not be drawn.",
        ),
    )


def kuairand_tasks(
    tables: DatasetTables, *, num_negatives: int = 4, num_classes: int = 7, random_seed: int = 0
) -> dict[str, EntityTask]:
    """Return "click", "ranking", "duration", "author", and "long_view", which is to be held out.

    Args:
        tables: of ``load_kuairand_pure``.
        num_negatives: as in :func:`author_task`.
        num_classes: as in :func:`duration_task`.
        random_seed: of the negatives.

    """
    shown, table = shown_videos(tables), tables.item_table
    assert table is not None
    tasks = [
        click_task(shown),
        ranking_task(shown),
        duration_task(shown, table, num_classes=num_classes),
        author_task(shown, num_negatives=num_negatives, random_seed=random_seed),
        long_view_task(shown),
    ]
    return {task.name: task for task in tasks}


def _item_statistics(shown: pl.DataFrame) -> tuple[list[str], Tensor]:
    """Count the past of each row's item and author."""
    columns = {"item": _codes(shown["item_id"]), "author": _codes(shown["author_id"])}
    time = _numbers(shown["time"])
    done = {"impression": torch.ones_like(time, dtype=torch.bool)}
    done |= {name: torch.from_numpy(shown[name].to_numpy().copy()) for name in _COUNTED[1:]}
    known = {"impression": time, "click": time}
    known |= dict.fromkeys(("long_view", "like"), _numbers(shown["outcome_time"]))
    events = {
        name: CountedEvents(
            columns={column: code[done[name]] for column, code in columns.items()},
            known_time=known[name][done[name]],
        )
        for name in _COUNTED
    }
    return past_counts(events, columns, time, _RANKING)


def _codes(values: pl.Series) -> Int64[Tensor, " num_rows"]:
    """Return a number for each value; a null is a value of its own, which gathers what is not known."""
    _, code = IdMap.build_with_rows(values.cast(pl.String).fill_null(""))
    return code


def _numbers(values: pl.Series) -> Int64[Tensor, " num_rows"]:
    return torch.from_numpy(values.cast(pl.Int64).to_numpy().copy())
