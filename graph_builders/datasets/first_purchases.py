"""First purchases in a category as tasks: who takes up what is new to them (Meta-Profile Network, section 4).

A user who has bought something before t, and nothing of the category, is asked at t: a positive buys of it
within the horizon. All others are negatives: none is left out, so shares of positives are those of life.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import polars as pl
import torch

from graph_builders.datasets.downstream_tasks import PART_TYPE, DownstreamTask, UserTimeSplit
from graph_builders.option_checks import check_whole_numbers
from samplers.random_numbers import keyed_uniform

DAY = 86_400


@dataclass(frozen=True, kw_only=True)
class FoldSplit(UserTimeSplit):
    """One of several folds of the users: each user is a test user of one fold.

    Attributes:
        num_folds: a user is a test user with probability 1 / ``num_folds``; ``test_share`` is set to it.
        fold: which one, from 0.

    """

    num_folds: int = 5
    fold: int = 0

    def __post_init__(self) -> None:
        check_whole_numbers(self, num_folds=2, fold=0)
        if self.fold >= self.num_folds:
            raise ValueError(f"fold must be below num_folds={self.num_folds}, got {self.fold}")
        object.__setattr__(self, "test_share", 1 / self.num_folds)
        super().__post_init__()

    def user_parts(self, user_id: pl.Series) -> pl.DataFrame:
        """Return each distinct user of ``user_id`` (whole numbers) and ``part``, by user."""
        users = user_id.unique().sort().alias("user_id")
        number = torch.from_numpy(users.cast(pl.Int64).to_numpy().copy())
        # the draw of all folds is one; the next fold's test users begin where this one's end
        draw = keyed_uniform(self.random_seed, "fold", number)
        place = ((draw * self.num_folds).long() - self.fold) % self.num_folds
        validates = keyed_uniform(self.random_seed, "validation of a fold", self.fold, number)
        share = self.validation_share / (1 - self.test_share)
        part = (
            pl.when(pl.Series((place == 0).numpy()))
            .then(pl.lit("test"))
            .when(pl.Series((validates < share).numpy()))
            .then(pl.lit("validation"))
            .otherwise(pl.lit("train"))
        )
        return pl.DataFrame({"user_id": users}).select("user_id", part=part.cast(PART_TYPE))


def monthly_times(split: UserTimeSplit, time_zone: str, *, hour: int = 4) -> pl.Series:
    """Return an hour of the first day of each month from the split's start to its end, in unix seconds.

    Raises:
        ValueError: ``hour`` is not in 0 to 23.

    """
    if not 0 <= hour < 24:
        raise ValueError(f"hour must lie in 0 to 23, got {hour}")
    ends = pl.DataFrame({"time": [split.start, split.end]}).select(
        pl.from_epoch("time").dt.replace_time_zone("UTC").dt.convert_time_zone(time_zone).dt.date()
    )["time"]
    months = pl.date_range(ends[0].replace(day=1), ends[1] + timedelta(days=1), "1mo", eager=True)
    # replacing the time zone, not adding hours to midnight: on two days of a year they differ
    times = months.cast(pl.Datetime("us")).dt.offset_by(f"{hour}h").dt.replace_time_zone(time_zone)
    seconds = times.dt.epoch("s").alias("time")
    return seconds.filter((seconds >= split.start) & (seconds < split.end))


def first_purchase_tasks(
    purchases: pl.DataFrame,
    split: UserTimeSplit,
    times: pl.Series,
    *,
    categories: Sequence[str],
    horizon: int,
    notes: Sequence[str] = (),
) -> tuple[DownstreamTask, ...]:
    """Ask who buys of a category for the first time in the log, within the horizon.

    Args:
        purchases: ``user_id`` (whole numbers), ``time`` and ``category`` of each purchase; null where it has
            none. An item of several categories has a row for each.
        split: of users and times.
        times: of queries, in the purchases' unit; where a part has no room for the label window, it is not
            asked.
        categories: at least one, each a task.
        horizon: length of a label window in the same unit.
        notes: to be printed with each task.

    Returns:
        A binary task for each category; ``label_time`` is that of the first purchase of a positive.

    Raises:
        ValueError: there is no category, one twice or one that nobody buys, or ``horizon`` is below 1.

    """
    unknown = sorted(set(categories) - set(purchases["category"].drop_nulls().unique()))
    if not categories or len(set(categories)) < len(categories) or unknown:
        raise ValueError(
            f"categories must be one or more, distinct and bought in the log, got {list(categories)}, of "
            f"which {unknown} are not bought: name others"
        )
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1, got {horizon}")
    first_any = purchases.group_by("user_id").agg(first_any=pl.col("time").min())
    first = purchases.group_by("user_id", "category").agg(first=pl.col("time").min())
    asked = (
        split.query_frame(first_any["user_id"], times, horizon)
        .join(first_any, on="user_id")
        .filter(pl.col("first_any") < pl.col("time"))
        .select("user_id", "time", "part")
    )
    tasks = []
    for category in categories:
        of_category = first.filter(pl.col("category") == category).select("user_id", "first")
        labelled = (
            asked.join(of_category, on="user_id", how="left")
            .filter(pl.col("first").is_null() | (pl.col("first") >= pl.col("time")))
            .with_columns(label=(pl.col("first") < pl.col("time") + horizon).fill_null(False))
        )
        queries = labelled.select(
            "user_id",
            "time",
            "part",
            pl.col("label").cast(pl.Float32),
            label_time=pl.when("label").then("first").cast(pl.Int64),
        ).sort("time", "user_id")
        positives = queries.filter(pl.col("label") == 1)
        tasks.append(
            DownstreamTask(
                name=f"first purchase: {category}",
                kind="binary",
                queries=queries,
                horizon=horizon,
                notes=(
                    *notes,
                    f"{positives.height} of {queries.height} queries are positive, of "
                    f"{positives['user_id'].n_unique()} users.",
                ),
                shared_times=split.shared_times,
            )
        )
    return tuple(tasks)
