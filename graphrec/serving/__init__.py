"""Serving: the day's folder that the daily job writes, and the ranker that opens it."""

from graphrec.serving.day_folder import (
    DayConfig,
    DayFolder,
    DayFolderError,
    open_day_folder,
    write_day_folder,
)
from graphrec.serving.event_log import DamagedLogError
from graphrec.serving.online_ranker import EventsKeptError, OnlineRanker, Ranking

__all__ = [
    "DamagedLogError",
    "DayConfig",
    "DayFolder",
    "DayFolderError",
    "EventsKeptError",
    "OnlineRanker",
    "Ranking",
    "open_day_folder",
    "write_day_folder",
]
