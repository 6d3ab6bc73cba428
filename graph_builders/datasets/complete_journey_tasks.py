"""Complete Journey's tasks for pre-trained encoders: user targeting, user attributes, the next genre.

The three of the UserBERT paper (2022), with product categories for services and genres. The paper asks once
for each user and holds out one user in five; here users are asked many times, so later times are held out
besides (``UserTimeSplit``). The data is simulated from real patterns by its Python package's own word.
"""

from collections.abc import Sequence
from datetime import date, timedelta

import polars as pl
import torch

from graph_builders.datasets.complete_journey import SIMULATED, TIME_ZONE, local_midnight, local_time
from graph_builders.datasets.downstream_tasks import DownstreamTask, UserTimeSplit
from graph_builders.datasets.tables import DatasetTables
from samplers.random_numbers import keyed_uniform

DAY = 86_400
QUERY_HOUR = 4  # local: a day of behaviour goes from 4 AM to 4 AM
NO_GENRE = ("COUPON", "COUPON/MISC ITEMS", "COUPONS/STORE & MFG", "MISCELLANEOUS")
"""Categories that gather what has no other: gasoline and key rings are both COUPON/MISC ITEMS."""

_WITH_KIDS = {"0": 0.0, "1": 1.0, "2": 1.0, "3+": 1.0}
_INCOMES = (
    "Under 15K", "15-24K", "25-34K", "35-49K", "50-74K", "75-99K", "100-124K", "125-149K", "150-174K",
    "175-199K", "200-249K", "250K+",
)  # fmt: skip
_MEDIAN_INCOME = _INCOMES.index("50-74K")
# label of each class, by task: a class that is not named is an error, a null has no label
_ATTRIBUTES = {
    "kids": ("kids_count", _WITH_KIDS),
    "income": ("income", {name: float(place >= _MEDIAN_INCOME) for place, name in enumerate(_INCOMES)}),
    "home owner": (
        "home_ownership",
        {"Homeowner": 1.0, "Probable Homeowner": 1.0, "Renter": 0.0, "Probable Renter": 0.0},
    ),
}


def complete_journey_split(
    *, validation_share: float = 0.1, test_share: float = 0.3, random_seed: int = 0
) -> UserTimeSplit:
    """Return the split that the three tasks share: queries from March, test from August 2017, to its end.

    January and February are history alone. Both times have five months and, with label windows of 60 days, as
    many query times. The test has three households in ten, for it is short of targeting's positives.

    Args:
        validation_share: of the households, expected.
        test_share: of the households, expected.
        random_seed: of the draw of households.

    """
    days = pl.DataFrame({"day": [date(2017, 3, 1), date(2017, 8, 1), date(2018, 1, 1)]})
    start, test_start, end = days.select(local_midnight(pl.col("day"))).to_series().to_list()
    return UserTimeSplit(
        start=start,
        test_start=test_start,
        end=end,
        validation_share=validation_share,
        test_share=test_share,
        random_seed=random_seed,
    )


def query_times(split: UserTimeSplit, every_days: int) -> pl.Series:
    """Return 4 AM local time of every so many days, from the split's first day on, in unix seconds.

    Raises:
        ValueError: ``every_days`` is below 1.

    """
    if every_days < 1:
        raise ValueError(f"every_days must be at least 1, got {every_days}")
    days = pl.DataFrame({"time": [split.start, split.end]}).select(local_time().dt.date()).to_series()
    steps = pl.date_range(days[0], days[1], timedelta(days=every_days), eager=True).to_frame("day")
    # replacing the time zone, not adding hours to midnight: on two days of a year they differ
    at_hour = (
        pl.col("day").cast(pl.Datetime("us")).dt.offset_by(f"{QUERY_HOUR}h").dt.replace_time_zone(TIME_ZONE)
    )
    times = steps.select(time=at_hour.dt.epoch("s")).to_series()
    return times.filter((times >= split.start) & (times < split.end))


def targeting_tasks(
    tables: DatasetTables,
    split: UserTimeSplit,
    *,
    num_categories: int = 4,
    categories: Sequence[str] | None = None,
    every_days: int = 7,
    horizon_days: int = 60,
    num_negatives: int = 3,
    random_seed: int = 0,
) -> tuple[DownstreamTask, ...]:
    """Ask who buys from a product category for the first time in the days after the query time.

    A household that bought from the category before t is not asked at t, nor is one that bought nothing at
    all. "First" is first in the log, which begins in January: 60 days of history at least lie before a query.
    For each positive of a query time, three negatives of that time and part are drawn, or all there are:
    where they suffice, the time says nothing about the label. A draw depends on nothing that happened after
    the label windows of its time.

    Args:
        tables: of ``load_complete_journey``.
        split: see ``UserTimeSplit``.
        num_categories: how many tasks: those categories that most training households bought from for the
            first time within the training time (after at least one other purchase time); ties by name. The
            ``NO_GENRE`` ones are left out. Neither test users nor test times are looked at.
        categories: these instead.
        every_days: days from one query time to the next.
        horizon_days: length of a label window.
        num_negatives: for each positive.
        random_seed: of the negatives.

    Returns:
        A binary task for each category. A positive's ``label_time`` is that of the first purchase.

    Raises:
        ValueError: an option is out of its range, or a category is unknown.

    """
    if num_negatives < 1 or num_categories < 1:
        raise ValueError(
            f"num_negatives and num_categories must be at least 1, got {num_negatives} and {num_categories}"
        )
    horizon = _horizon(horizon_days)
    purchases = _purchases(tables)
    first_any = purchases.group_by("user_id").agg(first_any=pl.col("time").min())
    known = purchases.drop_nulls("category")
    first = known.group_by("user_id", "category").agg(first=pl.col("time").min())
    if categories is None:
        chosen = _categories(first.join(first_any, on="user_id"), split, num_categories)
    else:
        chosen = list(categories)
        unknown = sorted(set(chosen) - set(known["category"].unique()))
        if unknown or not chosen or len(set(chosen)) < len(chosen):
            raise ValueError(
                f"categories must be one or more, distinct and bought in the log, got {chosen}, "
                f"of which {unknown} are not bought: name others"
            )
    asked = _asked(first_any, split, every_days, horizon)
    labelled = (
        asked.join(pl.DataFrame({"category": chosen}, schema={"category": pl.String}), how="cross")
        .join(first, on=["user_id", "category"], how="left")
        .filter(pl.col("first").is_null() | (pl.col("first") >= pl.col("time")))  # not bought before
        .with_columns(label=(pl.col("first") < pl.col("time") + horizon).fill_null(False))
    )
    sampled = _sample_negatives(labelled, num_negatives, random_seed)
    sampled = sampled.with_columns(pl.col("label").cast(pl.Float32))
    bought = pl.when(pl.col("label") == 1).then("first")
    return tuple(
        DownstreamTask(
            name=f"targeting: {category}",
            kind="binary",
            queries=_queries(sampled.filter(pl.col("category") == category), bought),
            horizon=horizon,
            notes=(
                SIMULATED,
                f"Positives buy from {category!r} for the first time in the log within {horizon_days} days; "
                f"{num_negatives} negatives for each, of the same query time and part, seed {random_seed}.",
            ),
            shared_times=split.shared_times,
        )
        for category in chosen
    )


def attribute_tasks(
    tables: DatasetTables, split: UserTimeSplit, *, every_days: int = 28
) -> tuple[DownstreamTask, ...]:
    """Ask whether a household has kids, an income of 50,000 dollars or more (52% do), a home of its own.

    A household whose field is null has no label, and is not asked. It is asked at every query time after its
    first purchase. No demographic field may be an input: they tell one another, three of them of kids.

    Args:
        tables: of ``load_complete_journey``.
        split: see ``UserTimeSplit``.
        every_days: days from one query time to the next.

    Returns:
        Binary tasks "kids", "income" and "home owner", with a horizon of 0: the labels have no time.

    Raises:
        ValueError: ``every_days`` is below 1, or a field holds a class that is not known.

    """
    if tables.user_table is None:
        raise ValueError(f"{tables.name}: there is no user table: load it with load_complete_journey")
    purchases = _purchases(tables)
    first_any = purchases.group_by("user_id").agg(first_any=pl.col("time").min())
    asked = _asked(first_any, split, every_days, 0)
    fields = tuple(name for name in tables.user_table.columns if name != "user_id")
    tasks = []
    for name, (field, classes) in _ATTRIBUTES.items():
        values = tables.user_table.select("user_id", value=pl.col(field)).drop_nulls()
        unknown = sorted(set(values["value"]) - set(classes))
        if unknown:
            raise ValueError(
                f"the user table's {field!r} holds the classes {unknown}, known are {list(classes)}: "
                "rename these or make them null"
            )
        label = pl.col("value").replace_strict(classes, return_dtype=pl.Float32)
        labelled = asked.join(values.select("user_id", label=label), on="user_id")
        tasks.append(
            DownstreamTask(
                name=name,
                kind="binary",
                queries=_queries(labelled, pl.lit(None)),
                horizon=0,
                forbidden_fields=fields,
                notes=(
                    SIMULATED,
                    f"{values.height} of {first_any.height} households have the label, "
                    f"{int(values.select(label.sum()).item())} of them a positive one.",
                ),
                shared_times=split.shared_times,
            )
        )
    return tuple(tasks)


def next_genre_task(
    tables: DatasetTables, split: UserTimeSplit, *, every_days: int = 7, horizon_days: int = 7
) -> DownstreamTask:
    """Ask which product categories are in the next basket.

    The label of a household at t is the set of categories, ``NO_GENRE`` left out, of its first basket at or
    after t that has any; baskets of one second are one. Who has none within the horizon is not asked at t,
    nor is who has bought nothing before t. With a horizon of ``every_days`` or less, a basket is the label of
    one query at most.

    Args:
        tables: of ``load_complete_journey``.
        split: see ``UserTimeSplit``.
        every_days: days from one query time to the next.
        horizon_days: length of a label window.

    Returns:
        A task whose labels are lists of categories; ``label_time`` is that of the basket.

    Raises:
        ValueError: ``every_days`` or ``horizon_days`` is out of its range.

    """
    horizon = _horizon(horizon_days)
    purchases = _purchases(tables)
    first_any = purchases.group_by("user_id").agg(first_any=pl.col("time").min())
    baskets = (
        purchases.filter(pl.col("category").is_not_null() & ~pl.col("category").is_in(NO_GENRE))
        .group_by("user_id", "time")
        .agg(label=pl.col("category").unique().sort())
        .sort("time")
        .with_columns(basket_time="time")
    )
    asked = _asked(first_any, split, every_days, horizon)
    following = asked.join_asof(
        baskets,
        on="time",
        by="user_id",
        strategy="forward",
        check_sortedness=False,  # both are, just above
    )
    labelled = following.filter(pl.col("basket_time") < pl.col("time") + horizon)
    return DownstreamTask(
        name="next genre",
        kind="set",
        queries=_queries(labelled, pl.col("basket_time")),
        horizon=horizon,
        notes=(
            SIMULATED,
            f"{asked.height - labelled.height} of {asked.height} queries are left out: no basket with a "
            f"category within {horizon_days} days.",
        ),
        shared_times=split.shared_times,
    )


# ---- parts ---------------------------------------------------------------------------------------


def _purchases(tables: DatasetTables) -> pl.DataFrame:
    """Return ``user_id``, ``time`` and ``category`` (null where unknown) of the purchase lines."""
    if tables.item_table is None or "product_category" not in tables.item_table.columns:
        raise ValueError(f"{tables.name}: items have no product_category: load it with load_complete_journey")
    category = tables.item_table.select("item_id", category="product_category")
    lines = tables.events.frame.filter(pl.col("behavior") == "purchase").select("user_id", "item_id", "time")
    return lines.join(category, on="item_id", how="left").drop("item_id")


def _horizon(days: int) -> int:
    if days < 1:
        raise ValueError(f"horizon_days must be at least 1, got {days}")
    return days * DAY


def _asked(first_any: pl.DataFrame, split: UserTimeSplit, every_days: int, horizon: int) -> pl.DataFrame:
    """Return ``user_id``, ``time``, ``part`` where the user bought something before, by time, then user."""
    asked = split.query_frame(first_any["user_id"], query_times(split, every_days), horizon)
    known = asked.join(first_any, on="user_id").filter(pl.col("first_any") < pl.col("time"))
    return known.drop("first_any").sort("time", "user_id")


def _categories(first: pl.DataFrame, split: UserTimeSplit, num_categories: int) -> list[str]:
    """Return the categories that most training users bought first in the training time, by that number."""
    start, end = split.window("train")
    counts = (
        first.join(split.user_parts(first["user_id"]), on="user_id")
        .filter(
            pl.col("part") == "train",
            pl.col("first").is_between(start, end, closed="left"),
            pl.col("first_any") < pl.col("first"),
            ~pl.col("category").is_in(NO_GENRE),
        )
        .group_by("category")
        .len()
        .sort(["len", "category"], descending=[True, False])
    )
    if counts.height < num_categories:
        raise ValueError(
            f"num_categories is {num_categories}, but training users buy from {counts.height} categories "
            "for the first time in the training time"
        )
    return counts["category"].head(num_categories).to_list()


def _sample_negatives(labelled: pl.DataFrame, num_negatives: int, random_seed: int) -> pl.DataFrame:
    """Keep all positives and, for each category, part and time, so many times as many negatives."""
    parts = [labelled.head(0).with_columns(draw=pl.lit(0.0))]
    for (category,), rows in labelled.partition_by("category", as_dict=True).items():
        user, time = (torch.from_numpy(rows[name].to_numpy().copy()) for name in ("user_id", "time"))
        # keyed by the category's name: a draw is the same whatever other categories are asked for
        draw = keyed_uniform(random_seed, "targeting", category, user, time)
        parts.append(rows.with_columns(draw=pl.Series(draw.numpy())))
    rank = pl.struct("draw", "user_id").rank("ordinal").over("category", "part", "time", "label")
    num_positives = pl.col("label").sum().over("category", "part", "time")
    return pl.concat(parts).filter(pl.col("label") | (rank <= num_negatives * num_positives)).drop("draw")


def _queries(labelled: pl.DataFrame, label_time: pl.Expr) -> pl.DataFrame:
    label_time = label_time.cast(pl.Int64).alias("label_time")
    return labelled.select("user_id", "time", "part", "label", label_time).sort("time", "user_id")
