"""Public data sets, one module each: a function that returns :class:`DatasetTables`."""

from graph_builders.datasets.download import DownloadError, fetch
from graph_builders.datasets.kuairand import load_kuairand_pure
from graph_builders.datasets.tables import DatasetTables

__all__ = ["DatasetTables", "DownloadError", "fetch", "load_kuairand_pure"]
