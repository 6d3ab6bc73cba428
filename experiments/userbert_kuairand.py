"""KuaiRand-Pure as UserBERT's tables read it: timed events alone, and the tags of the next day's clicks.

The task that this data carries is the next genre, with tags for genres: of a day's query, the tags of the
videos that the user clicks within 24 hours. Targeting, the first click on a tag, is not one: most users
click a handful of videos in the two weeks, so nearly every tag is new to them and "new" says how little is
known. There are no attributes of users whose time is known.
"""

import polars as pl

from experiments.userbert_data import (
    NEXT_GENRE,
    DataSettings,
    TaskFamily,
    UserBERTData,
    make_tokenizers,
    thin_queries,
    thin_training,
    training_times,
)
from graph_builders import build_behavior_graph
from graph_builders.behavior_graph import Relation
from graph_builders.datasets import load_kuairand_pure
from graph_builders.datasets.downstream_tasks import DownstreamTask, UserTimeSplit
from graph_builders.events import EventLog
from graphrec.encoders.behavior_words import long_words, short_words

DAY = 86_400_000  # the data's times are milliseconds
FIRST_DAY = 19_107 * DAY - 4 * (DAY // 24)  # 2022-04-25, 4 AM in Shanghai (UTC+8)
NUM_DAYS = 13  # whole ones: the log ends at midnight, a day of behaviour at 4 AM
START_DAY, TEST_DAY = 3, 8  # queries begin on 28 April, those of the test on 3 May
ACTIONS = tuple(
    Relation(domain, behavior).reverse_edge_type
    for domain in ("internal", "external")
    for behavior in ("click", "like")
)


def kuairand_data(path: str | None, settings: DataSettings) -> UserBERTData:
    """Load KuaiRand-Pure: long-term words are older than a day, short-term ones of the last.

    The "early" sequences have no times of their own and are left out.

    Args:
        path: folder of the data; None: the embedded copy.
        settings: what is asked; its ``pretraining_days`` and numbers of tasks have no meaning here.

    """
    tables = load_kuairand_pure(path)
    timed = tables.events.filter(pl.col("domain").cast(pl.String) != "early")
    item_table = tables.item_table
    assert item_table is not None
    graph = build_behavior_graph(timed, item_table=item_table)
    split = UserTimeSplit(
        start=FIRST_DAY + START_DAY * DAY,
        test_start=FIRST_DAY + TEST_DAY * DAY,
        end=FIRST_DAY + NUM_DAYS * DAY,
        test_share=0.3,
    )
    attributes, fields, most = ("tab",), ("author_id", "tag"), settings.max_words
    kinds = {
        "long": long_words(
            ACTIONS,
            attributes=attributes,
            fields=fields,
            days=NUM_DAYS + 1,
            recent_days=1,
            max_words=most,
        ),
        "short": short_words(ACTIONS, attributes=attributes, fields=fields, days=1, max_words=most),
    }
    clicks = (
        timed.frame.filter(pl.col("behavior").cast(pl.String) == "click")
        .select("user_id", "item_id", "time", "domain")
        .join(item_table.select("item_id", "tag"), on="item_id", how="left")
    )
    first = timed.frame.group_by("user_id").agg(first=pl.col("time").min())
    times = pl.Series("time", [FIRST_DAY + day * DAY for day in range(NUM_DAYS)], dtype=pl.Int64)
    asked = (
        split.query_frame(first["user_id"], times, DAY)
        .join(first, on="user_id")
        .filter(pl.col("first") < pl.col("time"))
        .select("user_id", "time", "part")
    )
    task = thin_training(next_tags(asked, clicks), settings.max_genre)
    return UserBERTData(
        name="kuairand",
        title="KuaiRand-Pure (part), timed events",
        tables=tables,
        graph=graph,
        split=split,
        tokenizers=make_tokenizers(
            graph, kinds, fit_until=split.test_start, time_zone="Asia/Shanghai", max_size=settings.max_size
        ),
        families=(TaskFamily(name=NEXT_GENRE, tasks=(task,), num_tuned=1),),
        usage=usage_of_next_day(
            thin_queries(asked.filter(pl.col("part") == "train"), settings.max_daily), clicks, timed
        ),
        pretraining_queries=thin_queries(training_times(first, split, times), settings.max_daily),
        class_attribute="tag",
        term_attributes=("tag", "author_id"),
        half_lives=(0.5, 1.0, 2.0, 4.0, 8.0),
    )


def next_tags(asked: pl.DataFrame, clicks: pl.DataFrame) -> DownstreamTask:
    """Ask for the tags of the videos that a user clicks within a day; who clicks none is not asked.

    Args:
        asked: ``user_id``, ``time``, ``part`` of all queries.
        clicks: ``user_id``, ``time`` and ``tag``, a list of strings.

    """
    first_tag = clicks.select("user_id", "time", category=pl.col("tag").list.first().cast(pl.String))
    tags = _next_day(asked, first_tag.drop_nulls()).agg(
        label=pl.col("category").unique().sort(), label_time=pl.col("event_time").min()
    )
    queries = asked.join(tags, on=["user_id", "time"], how="inner").select(
        "user_id", "time", "part", "label", "label_time"
    )
    return DownstreamTask(
        name="next tag",
        kind="set",
        queries=queries.sort("time", "user_id"),
        horizon=DAY,
        notes=(f"{asked.height - queries.height} of {asked.height} queries are left out: no click.",),
    )


def usage_of_next_day(asked: pl.DataFrame, clicks: pl.DataFrame, log: EventLog) -> tuple[DownstreamTask, ...]:
    """Ask what a user does within a day: comes, clicks, clicks in tab 1, clicks elsewhere, likes.

    Args:
        asked: ``user_id``, ``time``, ``part`` of all queries.
        clicks: with ``user_id``, ``time`` and ``domain``.
        log: all timed events.

    """
    domain = pl.col("domain").cast(pl.String)
    chosen = {
        "comes": log.frame,
        "clicks": clicks,
        "clicks in the main tab": clicks.filter(domain == "internal"),
        "clicks in other tabs": clicks.filter(domain != "internal"),
        "likes": log.frame.filter(pl.col("behavior").cast(pl.String) == "like"),
    }
    tasks = []
    for name, events in chosen.items():
        found = (
            _next_day(asked, events.select("user_id", "time"))
            .agg()
            .with_columns(label=pl.lit(1.0, pl.Float32))
        )
        queries = asked.join(found, on=["user_id", "time"], how="left").select(
            "user_id",
            "time",
            "part",
            pl.col("label").fill_null(0.0),
            label_time=pl.lit(None, pl.Int64),
        )
        task = DownstreamTask(
            name=f"usage: {name}", kind="binary", queries=queries.sort("time", "user_id"), horizon=DAY
        )
        tasks.append(task)
    return tuple(tasks)


def _next_day(asked: pl.DataFrame, events: pl.DataFrame) -> "pl.dataframe.group_by.GroupBy":
    """Group each query's events of the 24 hours from its time on."""
    pairs = asked.select("user_id", "time").join(events.rename({"time": "event_time"}), on="user_id")
    inside = (pl.col("event_time") >= pl.col("time")) & (pl.col("event_time") < pl.col("time") + DAY)
    return pairs.filter(inside).group_by("user_id", "time")
