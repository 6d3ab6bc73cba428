"""Public data sets, one module each: a function that returns :class:`DatasetTables`."""

from graph_builders.datasets.amazon import load_amazon_pair, month_start, months
from graph_builders.datasets.complete_journey import load_complete_journey
from graph_builders.datasets.download import DownloadError, fetch
from graph_builders.datasets.downstream_tasks import DownstreamTask, UserTimeSplit
from graph_builders.datasets.kuairand import load_kuairand_pure
from graph_builders.datasets.movielens import load_movielens
from graph_builders.datasets.simulator import SimulatedData, simulate
from graph_builders.datasets.simulator_config import SimulatorConfig, config_of_size
from graph_builders.datasets.tables import DatasetTables

__all__ = [
    "DatasetTables",
    "DownloadError",
    "DownstreamTask",
    "SimulatedData",
    "SimulatorConfig",
    "UserTimeSplit",
    "config_of_size",
    "fetch",
    "load_amazon_pair",
    "load_complete_journey",
    "load_kuairand_pure",
    "load_movielens",
    "month_start",
    "months",
    "simulate",
]
