"""What LURM's tables are made from: a data set's events and item texts, two query times, tasks by fold.

Every user is asked twice at most. At ``fit_until`` all that is fitted is fitted, on the events of all users
until then, and training and validation users are asked; test users are asked one horizon later, when the
labels of the others are known. So no label of training is later than a test query, and each user is a test
user of one fold.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from experiments.task_figures import figure_of
from graph_builders import BehaviorGraph, build_behavior_graph
from graph_builders.behavior_graph import Relation
from graph_builders.datasets import SimulatorConfig, load_complete_journey, simulate
from graph_builders.datasets.amazon_5core import load_amazon_5core, review_texts
from graph_builders.datasets.complete_journey import SIMULATED
from graph_builders.datasets.complete_journey import TIME_ZONE as NEW_YORK
from graph_builders.datasets.complete_journey_tasks import NO_GENRE
from graph_builders.datasets.downstream_tasks import DownstreamTask
from graph_builders.datasets.first_purchases import DAY, FoldSplit
from graph_builders.datasets.online_retail import TIME_ZONE as LONDON
from graph_builders.datasets.online_retail import load_online_retail
from graph_builders.datasets.preference_tasks import category_preference_tasks
from graph_builders.datasets.tables import DatasetTables
from graphrec.encoders.item_text import item_words
from graphrec.encoders.periods import Scale
from samplers import EdgeType

PREFERENCES, PROFILES = "preferences", "profiles"
NUM_FOLDS = 5
WEEK = 7 * DAY
COMMON_SHARE = 0.25  # of users who meet a category: the tasks are those nearest to it

# 100,000 views; of the internal domain nothing is read, so it is as small as may be, and has no trends
SIMULATED_WORLD = SimulatorConfig(
    start="2022-01-01",
    num_days=730,
    num_users=2_000,
    num_items=40,
    num_external_items=1_500,
    num_impressions=1,
    num_external_events=100_000,
    trends_per_day=0,
    words_per_item=8,
)

# 1 of each yes-or-no question about a household; a class that is not named is a 0, null has no label
_PROFILES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "kids": ("kids_count", ("1", "2", "3+")),
    "age 45 or over": ("age", ("45-54", "55-64", "65+")),
    "income of 50,000 dollars or more": (
        "income",
        ("50-74K", "75-99K", "100-124K", "125-149K", "150-174K", "175-199K", "200-249K", "250K+"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class LifeTasks:
    """Tasks of one kind, one table.

    Attributes:
        name: ``PREFERENCES`` or ``PROFILES``.
        folds: the same tasks for each fold that is scored, of ``NUM_FOLDS``.

    """

    name: str
    folds: tuple[tuple[DownstreamTask, ...], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tasks, in their order."""
        return tuple(task.name for task in self.folds[0])


@dataclass(frozen=True, kw_only=True, eq=False)
class LifeData:
    """One data set.

    Attributes:
        name: of the command line and of the result files.
        title: for pages, with what must be said beside every figure.
        graph: of the events.
        words: of every item, see ``graphrec.encoders.item_text``.
        edge_types: events that are a user's life.
        time_zone: in which days begin.
        scales: two lengths of periods that fit the length of the data.
        fit_until: nothing known then or later is fitted on; training users are asked then.
        families: in the order of the tables.
        queries: ``user_id`` and ``time`` of all queries of all tasks, each once, by time and user.
        notes: to be printed beside figures.

    """

    name: str
    title: str
    graph: BehaviorGraph
    words: pl.DataFrame
    edge_types: tuple[EdgeType, ...]
    time_zone: str
    scales: tuple[Scale, Scale]
    fit_until: int
    families: tuple[LifeTasks, ...]
    queries: pl.DataFrame
    notes: tuple[str, ...]

    @property
    def fitting_user(self) -> Int64[Tensor, " num_fitting"]:
        """Rows of all users whose life holds an event known before ``fit_until``, in rising order.

        Self-supervised models are fitted on their lives as of ``fit_until``: no label is read, so the users
        of folds that are not scored, and test users, are among them.
        """
        edges = [self.graph.edges(edge_type) for edge_type in self.edge_types]
        return torch.cat([one.user[one.available_time < self.fit_until] for one in edges]).unique()

    @property
    def user(self) -> Int64[Tensor, " num_queries"]:
        """Row of each query's user."""
        return self.graph.ids["user"].rows(self.queries["user_id"])

    @property
    def time(self) -> Int64[Tensor, " num_queries"]:
        """Of each query."""
        return torch.from_numpy(self.queries["time"].to_numpy().copy())

    def rows_of(self, task: DownstreamTask) -> Int64[Tensor, " num_asked"]:
        """Return where each query of a task stands in ``queries``."""
        place = self.queries.with_row_index("place")
        found = task.queries.join(place, on=["user_id", "time"], how="left", maintain_order="left")
        return torch.from_numpy(found["place"].cast(pl.Int64).to_numpy().copy())

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over events, words, queries and labels."""
        digest = hashlib.sha256(repr((self.fit_until, self.time_zone, self.scales)).encode())
        for relation in self.graph.relations:
            edges = self.graph.edges(relation.edge_type)
            for values in (edges.user, edges.item, edges.time):
                digest.update(values.numpy().tobytes())
        frames = [self.words.select(pl.all().list.join(" "))]
        frames += [t.queries.drop("part") for f in self.families for fold in f.folds for t in fold]
        for frame in frames:
            digest.update(np.ascontiguousarray(frame.hash_rows(seed=0).to_numpy()).tobytes())
        return digest.hexdigest()[:16]


def _life_data(
    tables: DatasetTables,
    *,
    name: str,
    title: str,
    behavior: str,
    texts: pl.DataFrame,
    item_category: pl.DataFrame,
    time_zone: str,
    scales: tuple[Scale, Scale],
    end: int,
    horizon_days: int,
    num_categories: int,
    num_folds_scored: int,
) -> LifeData:
    """Put the parts together; ``texts`` and ``item_category`` have a row an item.

    Raises:
        ValueError: as :func:`check_both_classes`.

    """
    graph = build_behavior_graph(
        tables.events, user_table=tables.user_table, item_table=tables.item_table, texts={"item": texts}
    )
    horizon = horizon_days * DAY
    fit_until, test_time = end - 2 * horizon, end - horizon
    behaviors = pl.col("behavior").cast(pl.String)
    events = tables.events.frame.filter(behaviors == behavior).select("user_id", "item_id", "time")
    chosen = common_categories(events, item_category, fit_until, test_time, num_categories)
    splits = [
        FoldSplit(start=fit_until, test_start=test_time, end=end, num_folds=NUM_FOLDS, fold=fold)
        for fold in range(num_folds_scored)
    ]
    times = pl.Series("time", [fit_until, test_time])
    preferences = LifeTasks(
        name=PREFERENCES,
        folds=tuple(
            category_preference_tasks(
                events, item_category, chosen, split=split, times=times, horizon=horizon
            )
            for split in splits
        ),
    )
    families = [preferences]
    if name == "complete_journey":
        assert tables.user_table is not None
        asked = [fold[0].queries.select("user_id", "time", "part") for fold in preferences.folds]
        folds = tuple(_profile_tasks(tables.user_table, queries) for queries in asked)
        families.append(LifeTasks(name=PROFILES, folds=folds))
    check_both_classes(families)
    every = [fold[0].queries.select("user_id", "time") for fold in preferences.folds]
    domain = tables.internal_domains[0]
    return LifeData(
        name=name,
        title=title,
        graph=graph,
        words=item_words(graph),
        edge_types=(Relation(domain, behavior).reverse_edge_type,),
        time_zone=time_zone,
        scales=scales,
        fit_until=fit_until,
        families=tuple(families),
        queries=pl.concat(every).unique().sort("time", "user_id"),
        notes=(
            f"Label windows of {horizon_days} days; {num_folds_scored} of {NUM_FOLDS} folds of the users are "
            "scored.",
        ),
    )


def online_retail_data(path: str | None, *, horizon_days: int = 90, num_folds_scored: int = 1) -> LifeData:
    """Load Online Retail: kinds of products by words of their descriptions, months and years.

    Raises:
        ValueError: no path is given.

    """
    if path is None:
        raise ValueError("Online Retail needs --path: the folder of its two Parquet files")
    tables = load_online_retail(path)
    assert tables.item_table is not None
    return _life_data(
        tables,
        name="online_retail",
        title="Online Retail (UCI, CC BY 4.0)",
        behavior="purchase",
        texts=tables.text_tables["item"],
        item_category=tables.item_table.select("item_id", category="keywords"),
        time_zone=LONDON,
        scales=("month", "year"),
        end=_midnight(date(2011, 12, 9), LONDON),
        horizon_days=horizon_days,
        num_categories=4,
        num_folds_scored=num_folds_scored,
    )


def complete_journey_data(path: str | None, *, horizon_days: int = 60, num_folds_scored: int = 2) -> LifeData:
    """Load Complete Journey: product categories, three questions on households, weeks and months."""
    tables = load_complete_journey(path)
    assert tables.item_table is not None
    text = pl.concat_str("product_category", "product_type", separator=" ", ignore_nulls=True)
    category = pl.when(~pl.col("product_category").is_in(NO_GENRE)).then("product_category")
    return _life_data(
        tables,
        name="complete_journey",
        title=f"Complete Journey. {SIMULATED}",
        behavior="purchase",
        texts=tables.item_table.select("item_id", text=text),
        item_category=tables.item_table.select("item_id", category=category),
        time_zone=NEW_YORK,
        scales=(WEEK, "month"),
        end=_midnight(date(2018, 1, 1), NEW_YORK),
        horizon_days=horizon_days,
        num_categories=4,
        num_folds_scored=num_folds_scored,
    )


def amazon_5core_data(path: str | None, *, horizon_days: int = 365, num_folds_scored: int = 5) -> LifeData:
    """Load six small sets of Amazon reviews as one: the categories are the tasks.

    Hardly anybody reviews in two categories, so a task asks who goes on reviewing in their own. A category
    whose reviews end before the test does has no task: nobody could be positive. An item's text is its title,
    or what reviews said of it before everything is fitted.

    Raises:
        ValueError: no path is given.

    """
    if path is None:
        raise ValueError("Amazon 5-core needs --path: the folder of its files")
    tables = load_amazon_5core(path)
    assert tables.item_table is not None
    end = _midnight(date(2016, 1, 1), "UTC")
    category = tables.item_table.select("item_id", "category")
    reviewed = tables.events.frame.select("item_id", "time").join(category, on="item_id")
    last = reviewed.group_by("category").agg(last=pl.col("time").max()).sort("category")
    ended = last.filter(pl.col("last") < end)
    data = _life_data(
        tables,
        name="amazon_5core",
        title="Amazon 5-core, six small categories",
        behavior="review",
        texts=review_texts(tables, before=end - 2 * horizon_days * DAY),
        item_category=category.join(ended, on="category", how="anti"),
        time_zone="UTC",
        scales=("month", "year"),
        end=end,
        horizon_days=horizon_days,
        num_categories=3,  # a fourth has folds without a positive
        num_folds_scored=num_folds_scored,
    )
    notes = (
        f"{name} has no task: its reviews end on {datetime.fromtimestamp(time, UTC):%Y-%m-%d}, before "
        "the last label window does."
        for name, time in ended.rows()
    )
    return replace(data, notes=(*data.notes, *notes))


def simulated_data(
    path: str | None = None,
    *,
    config: SimulatorConfig = SIMULATED_WORLD,
    horizon_days: int = 90,
    num_folds_scored: int = 2,
) -> LifeData:
    """Simulate views of items with texts: the tasks ask for the items' true topics, months and years.

    All users view equally often, so the order of their true interests in a topic is that of their true
    probabilities of meeting it: what no row passes but by chance. Its AUC is in the notes.

    Args:
        path: not read, there are no files.
        config: the world; with texts (``words_per_item``).
        horizon_days: length of a label window; the log holds more than two.
        num_folds_scored: of ``NUM_FOLDS``.

    Raises:
        ValueError: the world's items have no text, or the log is no longer than two label windows.

    """
    if not config.words_per_item or config.num_days <= 2 * horizon_days:
        raise ValueError(
            f"the world needs texts and more than {2 * horizon_days} days, got words_per_item = "
            f"{config.words_per_item} and num_days = {config.num_days}"
        )
    simulated = simulate(config)
    assert simulated.item_table is not None
    topic = pl.Series(simulated.world.external_topic).cast(pl.String)
    category = pl.DataFrame(
        {"item_id": config.num_items + np.arange(len(topic)), "category": "topic " + topic}
    )
    views = replace(
        simulated,
        events=simulated.events.filter(pl.col("domain") == "external"),
        item_table=simulated.item_table.join(category, on="item_id", how="semi", maintain_order="left"),
        internal_domains=("external",),
    )
    data = _life_data(
        views,
        name="simulated",
        title="SIMULATED behaviour",
        behavior="view",
        texts=simulated.text_tables["item"],
        item_category=category,
        time_zone="UTC",
        scales=("month", "year"),
        end=_midnight(date.fromisoformat(config.start) + timedelta(days=config.num_days), "UTC"),
        horizon_days=horizon_days,
        num_categories=4,
        num_folds_scored=num_folds_scored,
    )
    ceiling = _interest_auc(data.families[0], simulated.world.interest)
    return replace(
        data,
        notes=(
            *data.notes,
            "SIMULATED: views follow interests that never change, and a text tells of its item's topic with "
            "errors, so this tests the path and says nothing of people. The true interests have a mean AUC "
            f"of {ceiling:.4f}: no row passes that but by chance.",
        ),
    )


LOADERS: Mapping[str, Callable[[str | None], LifeData]] = {
    "online_retail": online_retail_data,
    "complete_journey": complete_journey_data,
    "amazon_5core": amazon_5core_data,
    "simulated": simulated_data,
}


def common_categories(
    events: pl.DataFrame, item_category: pl.DataFrame, start: int, end: int, num_categories: int
) -> list[str]:
    """Return the categories that a share of the users nearest to ``COMMON_SHARE`` meet in a time.

    Args:
        events: ``user_id``, ``item_id`` and ``time``.
        item_category: ``item_id`` and ``category``, a string or a list of them.
        start: of the time, when users are asked who have an event before it.
        end: of the time: the test is not looked at.
        num_categories: how many; ties go by name.

    """
    if isinstance(item_category.schema["category"], pl.List):
        item_category = item_category.explode("category", empty_as_null=True, keep_nulls=True)
    asked = events.filter(pl.col("time") < start).select("user_id").unique()
    inside = events.filter(pl.col("time").is_between(start, end, closed="left")).join(asked, on="user_id")
    met = inside.join(item_category, on="item_id").drop_nulls("category")
    share = met.group_by("category").agg(share=pl.col("user_id").n_unique() / max(asked.height, 1))
    distance = (pl.col("share") - COMMON_SHARE).abs().round(9)  # ties, whatever the last digit
    return share.sort(distance, "category")["category"].head(num_categories).to_list()


def check_both_classes(families: Sequence[LifeTasks]) -> None:
    """Check that the training and the test of each task hold positives and negatives, in every fold.

    Raises:
        ValueError: one of a task has a single class: it has no AUC.

    """
    for family in families:
        for number, fold in enumerate(family.folds):
            for task in fold:
                for part in ("train", "test"):
                    label = task.part(part)["label"]
                    if label.n_unique() < 2:
                        raise ValueError(
                            f"fold {number} of task {task.name!r} has {len(label)} queries in its part "
                            f"{part!r}, {int(label.sum())} of them positive: it needs both classes; take "
                            "longer label windows, fewer folds or other categories"
                        )


def _profile_tasks(user_table: pl.DataFrame, queries: pl.DataFrame) -> tuple[DownstreamTask, ...]:
    """Ask what is known of households, of the same queries; those without the field are left out."""
    tasks = []
    for name, (field, classes) in _PROFILES.items():
        label = pl.col(field).is_in(classes).cast(pl.Float32)
        known = user_table.select("user_id", field).drop_nulls().select("user_id", label=label)
        tasks.append(
            DownstreamTask(
                name=name,
                kind="binary",
                queries=queries.join(known, on="user_id").with_columns(label_time=pl.lit(None, pl.Int64)),
                horizon=0,
                forbidden_fields=tuple(column for column in user_table.columns if column != "user_id"),
            )
        )
    return tuple(tasks)


def _interest_auc(family: LifeTasks, interest: Float32[np.ndarray, "num_users num_topics"]) -> float:
    """Return the mean over the tasks of the AUC of the true interests, over all scored test queries."""
    found = []
    for number, name in enumerate(family.names):
        asked = pl.concat(fold[number].part("test") for fold in family.folds)
        value = interest[asked["user_id"].to_numpy(), int(name.rpartition(" ")[2])]
        found.append(figure_of("auc", asked["label"].to_numpy(), value))
    return float(np.mean(found))


def _midnight(day: date, time_zone: str) -> int:
    moment: Sequence[int] = (
        pl.Series([day]).cast(pl.Datetime("us")).dt.replace_time_zone(time_zone).dt.epoch("s").to_list()
    )
    return moment[0]
