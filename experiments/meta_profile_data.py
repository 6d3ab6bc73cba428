"""What the Meta-Profile Network's tables are made from: heatmaps of customers, and tasks by fold.

A row is a customer at a query time. Rows of target tasks come first, then those that only source tasks ask
for: an embedding of the target rows is indexed by row. No demographic is an input: in Complete Journey some
of them are source tasks, and the fields nearly determine one another.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from experiments.userbert_data import task_digest, times_of
from graph_builders import BehaviorGraph, build_behavior_graph
from graph_builders.behavior_graph import Relation
from graph_builders.datasets import load_complete_journey, online_retail
from graph_builders.datasets.complete_journey import SIMULATED, TIME_ZONE
from graph_builders.datasets.complete_journey_first_purchases import (
    TARGET_CATEGORIES,
    complete_journey_fold,
    complete_journey_target_tasks,
)
from graph_builders.datasets.complete_journey_tasks import attribute_tasks
from graph_builders.datasets.complete_journey_usage import usage_tasks
from graph_builders.datasets.downstream_tasks import PARTS, DownstreamTask, Part
from graph_builders.datasets.first_purchases import FoldSplit
from graph_builders.datasets.online_retail_tasks import (
    TARGET_KINDS,
    USAGE_KINDS,
    online_retail_fold,
    online_retail_target_tasks,
    online_retail_usage_tasks,
)
from graph_builders.option_checks import check_whole_numbers
from graphrec.encoders.heatmap import HeatmapChannel, HeatmapEncoding
from graphrec.encoders.heatmap_cnn import HeatmapEncoder
from graphrec.encoders.input_reader import InputReader
from graphrec.models.meta_profile import ProfileInputs, ProfileNetwork
from graphrec.models.profile_baselines import profile_aggregates
from graphrec.training.meta_profile import read_profile_inputs, task_label_matrix

MODALITY = "shopping"
DEPARTMENTS = ("GROCERY", "DRUG GM", "PRODUCE", "MEAT-PCKGD", "MEAT", "DELI", "PASTRY", "NUTRITION")


@dataclass(frozen=True, kw_only=True)
class ProfileDataSettings:
    """What is asked of a data set.

    Attributes:
        num_folds: of the customers; each is a test customer of one fold.
        targets: names of target categories; none for the data set's own eight.
        departments: channels of counts of Complete Journey.

    """

    num_folds: int = 5
    targets: tuple[str, ...] = ()
    departments: tuple[str, ...] = DEPARTMENTS

    def __post_init__(self) -> None:
        check_whole_numbers(self, num_folds=2)


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetRows:
    """A target task's rows in a fold, by customer, then time.

    Attributes:
        name: of the category.
        row: place of each in ``ProfileData.queries``.
        user: of each.
        time: of each.
        label: 0 or 1.
        part: place in ``PARTS``.

    """

    name: str
    row: Int64[Tensor, " num_rows"]
    user: Int64[Tensor, " num_rows"]
    time: Int64[Tensor, " num_rows"]
    label: Float32[Tensor, " num_rows"]
    part: Int64[Tensor, " num_rows"]

    def of_part(self, part: Part) -> "TargetRows":
        """Return the rows of a part."""
        return self.take(self.part == PARTS.index(part))

    def take(self, kept: Bool[Tensor, " num_rows"]) -> "TargetRows":
        """Return some rows."""
        columns = (self.row, self.user, self.time, self.label, self.part)
        row, user, time, label, part = (column[kept] for column in columns)
        return TargetRows(name=self.name, row=row, user=user, time=time, label=label, part=part)


@dataclass(frozen=True, kw_only=True, eq=False)
class ProfileFold:
    """The tasks of one fold.

    Attributes:
        split: of users and times.
        sources: tasks that networks are meta-trained on.
        targets: tasks that no meta-training sees.

    """

    split: FoldSplit
    sources: tuple[DownstreamTask, ...]
    targets: tuple[DownstreamTask, ...]


class ProfileData:
    """One data set: heatmaps of all rows, read once, and the tasks of each fold.

    Args:
        name: of the command line and of the result files.
        title: for pages, with what must be said beside every figure.
        graph: of the events.
        encoding: of the heatmaps.
        settings: what is asked.
        make_fold: a fold's tasks. All folds ask the same queries.

    """

    def __init__(
        self,
        *,
        name: str,
        title: str,
        graph: BehaviorGraph,
        encoding: HeatmapEncoding,
        settings: ProfileDataSettings,
        make_fold: Callable[[int], ProfileFold],
    ) -> None:
        self.name, self.title, self.graph = name, title, graph
        self.encoding, self.settings = encoding, settings
        self._make_fold = make_fold
        self._folds: dict[int, ProfileFold] = {}
        first = self.fold(0)
        of_targets, of_all = (
            pl.concat([task.queries.select("user_id", "time") for task in tasks]).unique()
            for tasks in (first.targets, (*first.targets, *first.sources))
        )
        others = of_all.join(of_targets, on=["user_id", "time"], how="anti")
        self.num_target_rows = of_targets.height
        self.queries = pl.concat([of_targets.sort("user_id", "time"), others.sort("user_id", "time")])
        self.target_names = tuple(name_of(task) for task in first.targets)

    @cached_property
    def inputs(self) -> ProfileInputs:
        """The sparse heatmaps of all rows."""
        reader = InputReader(self.graph, "user", {MODALITY: self.encoding.request})
        network = ProfileNetwork({MODALITY: HeatmapEncoder(self.encoding)})
        user = self.graph.ids["user"].rows(self.queries["user_id"])
        return read_profile_inputs(reader, network, user, times_of(self.queries))

    @cached_property
    def aggregates(self) -> Tensor:
        """What a practitioner would count, of the target rows: (num_target_rows, num_features)."""
        return profile_aggregates(self.inputs.take(torch.arange(self.num_target_rows)))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the queries and their heatmaps, as hexadecimal digits."""
        digest = hashlib.sha256(self.queries.to_numpy().tobytes())
        heatmaps = self.inputs.heatmaps[MODALITY]
        digest.update(f"{heatmaps.num_days} {heatmaps.num_channels}".encode())
        for column in heatmaps.columns().values():
            digest.update(np.ascontiguousarray(column.numpy()).tobytes())
        return digest.hexdigest()

    def fold(self, number: int) -> ProfileFold:
        """Return the tasks of a fold, kept for the next call."""
        if number not in self._folds:
            self._folds[number] = self._make_fold(number)
        return self._folds[number]

    def digest(self, number: int) -> str:
        """Return 16 hexadecimal digits over all queries, parts and labels of a fold."""
        fold = self.fold(number)
        names = [task_digest(task) for task in (*fold.sources, *fold.targets)]
        return hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]

    def targets(self, number: int) -> dict[str, TargetRows]:
        """Return the rows of each target task in a fold, by the category's name."""
        place = self.queries.head(self.num_target_rows).with_row_index("row")
        found = {}
        for task in self.fold(number).targets:
            frame = task.queries.join(place, on=["user_id", "time"]).sort("user_id", "time")
            columns = {
                "row": frame["row"].cast(pl.Int64),
                "user": frame["user_id"].cast(pl.Int64),
                "time": frame["time"],
                "part": frame["part"].to_physical().cast(pl.Int64),
                "label": frame["label"],
            }
            tensors = {name: torch.from_numpy(column.to_numpy().copy()) for name, column in columns.items()}
            found[name_of(task)] = TargetRows(name=name_of(task), **tensors)
        return found

    def source_labels(self, number: int, part: Part) -> tuple[Tensor, Tensor]:
        """Return rows of a part and their labels of all source tasks, NaN where there is none."""
        matrix = task_label_matrix(self.fold(number).sources, self.queries, part)
        row = (~matrix.isnan()).any(dim=1).nonzero().flatten()
        return row, matrix[row]

    def users_of(self, row: Int64[Tensor, " num_rows"]) -> Int64[Tensor, " num_rows"]:
        """Return the customer of each row."""
        users = torch.from_numpy(self.queries["user_id"].cast(pl.Int64).to_numpy().copy())
        return users[row]


def name_of(task: DownstreamTask) -> str:
    """Return a target's category."""
    return task.name.removeprefix("first purchase: ")


def complete_journey_profiles(path: str | None, settings: ProfileDataSettings) -> ProfileData:
    """Load Complete Journey: departments, amounts, discounts and coupons of 182 days in 12 channels.

    Targets are first purchases in eight categories; sources are usage of the next 28 days and demographics.
    A fold's training customers are asked at the test's times too (``shared_times``), as the paper's are.

    Args:
        path: folder of the data; None: that of the installed package.
        settings: what is asked.

    """
    tables = load_complete_journey(path)
    graph = build_behavior_graph(tables.events, user_table=tables.user_table, item_table=tables.item_table)
    buys = Relation("internal", "purchase").reverse_edge_type
    redeems = Relation("external", "redemption").reverse_edge_type
    counts = tuple(
        HeatmapChannel(name=name.lower(), edge_types=(buys,), fields={"department": (name,)})
        for name in settings.departments
    )
    sums = tuple(
        HeatmapChannel(name=name, edge_types=(buys,), aggregate="sum", attribute=attribute)
        for name, attribute in (
            ("amount", "sales_value"),
            ("discount", "retail_disc"),
            ("coupons' discount", "coupon_disc"),
        )
    )
    redeemed = HeatmapChannel(name="coupons of campaigns", edge_types=(redeems,))
    encoding = HeatmapEncoding(
        edge_types=(buys, redeems), channels=(*counts, *sums, redeemed), num_days=182, time_zone=TIME_ZONE
    )
    categories = settings.targets or TARGET_CATEGORIES

    def make_fold(number: int) -> ProfileFold:
        split = complete_journey_fold(number, num_folds=settings.num_folds, shared_times=True)
        return ProfileFold(
            split=split,
            sources=(*usage_tasks(tables, split), *attribute_tasks(tables, split)),
            targets=complete_journey_target_tasks(tables, split, categories=categories),
        )

    return ProfileData(
        name="complete_journey",
        title=f"Complete Journey. {SIMULATED}",
        graph=graph,
        encoding=encoding,
        settings=settings,
        make_fold=make_fold,
    )


def online_retail_profiles(path: str | None, settings: ProfileDataSettings) -> ProfileData:
    """Load Online Retail: kinds of products, amounts and returns of 365 days in nine channels.

    Args:
        path: folder of the data.
        settings: what is asked.

    Raises:
        ValueError: there is no path.

    """
    if path is None:
        raise ValueError("Online Retail needs --path, the folder of its two Parquet files")
    tables = online_retail.load_online_retail(path)
    graph = build_behavior_graph(tables.events, user_table=tables.user_table, item_table=tables.item_table)
    buys, returns = (Relation("internal", behavior).reverse_edge_type for behavior in ("purchase", "return"))
    counts = tuple(
        HeatmapChannel(name=kind, edge_types=(buys,), fields={"keywords": (kind,)}) for kind in USAGE_KINDS
    )
    others = (
        HeatmapChannel(name="amount", edge_types=(buys,), aggregate="sum", attribute="amount"),
        HeatmapChannel(name="returns", edge_types=(returns,)),
        HeatmapChannel(name="amount returned", edge_types=(returns,), aggregate="sum", attribute="amount"),
    )
    encoding = HeatmapEncoding(
        edge_types=(buys, returns),
        channels=(*counts, *others),
        num_days=365,
        time_zone=online_retail.TIME_ZONE,
    )
    kinds = settings.targets or TARGET_KINDS

    def make_fold(number: int) -> ProfileFold:
        split = online_retail_fold(number, num_folds=settings.num_folds, shared_times=True)
        return ProfileFold(
            split=split,
            sources=online_retail_usage_tasks(tables, split),
            targets=online_retail_target_tasks(tables, split, kinds=kinds),
        )

    return ProfileData(
        name="online_retail",
        title="Online Retail, a British gift wholesaler.",
        graph=graph,
        encoding=encoding,
        settings=settings,
        make_fold=make_fold,
    )


LOADERS: Mapping[str, Callable[[str | None, ProfileDataSettings], ProfileData]] = {
    "complete_journey": complete_journey_profiles,
    "online_retail": online_retail_profiles,
}
