"""OnlineRanker: serves one day from its folder, learns from events as they come, and survives a kill.

LSTTM, section 4: during the day the service holds the short-term model and the long-term table, takes new
events, makes one gradient step a period and ranks the candidates of a request.
"""

import copy
import json
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from graph_builders.events import EventLogError
from graphrec.models import LSTTM
from graphrec.serving.counts import PastCounts
from graphrec.serving.day_folder import DayFolder, DayFolderError, open_day_folder
from graphrec.serving.event_frame import (
    check_events,
    column_values,
    counted_events,
    decode_lines,
    encode_lines,
    event_schema,
    is_impression,
)
from graphrec.serving.event_log import EVENTS, PERIOD_END, EventLogFile, Record, read_log
from graphrec.serving.learned_state import load_learned_state, save_learned_state
from graphrec.serving.request import NodeRows, RequestContext, unit_name, whole_number
from graphrec.serving.sections import Sections
from graphrec.serving.snapshot import Snapshot
from graphrec.serving.state_folder import check_state, lock_folder, tie_state
from graphrec.training.batches import click_batches
from graphrec.training.online import OnlineUpdater
from samplers import EdgeType, TemporalCSR

logger = logging.getLogger(__name__)
_COMPACT_AT = 4  # appended edges are folded in when they are more than a quarter of the others


class EventsKeptError(RuntimeError):
    """Something failed after events had come to the disk: they are kept, and must not be sent again."""


class Ranking(NamedTuple):
    """Click probabilities of the candidates as given, and their places, the likeliest first."""

    score: Float32[np.ndarray, " num_items"]
    order: Int64[np.ndarray, " num_items"]


@dataclass(frozen=True, eq=False)
class _Graph:
    """A version of the short-term graph."""

    csrs: dict[EdgeType, TemporalCSR]

    def append(
        self, pairs: tuple[tuple[str, str], ...], frame: pl.DataFrame, user: Tensor, item: Tensor
    ) -> "_Graph":
        """Return the graph with the events of its relations between known users and items."""
        csrs = dict(self.csrs)
        for place, (domain, behavior) in enumerate(pairs):
            forward, reverse = list(csrs)[2 * place : 2 * place + 2]
            known = (user < csrs[reverse].num_rows - 1) & (item < csrs[forward].num_rows - 1)
            own = (frame["domain"] == domain) & (frame["behavior"] == behavior)
            index = (torch.from_numpy(own.to_numpy().copy()) & known).nonzero()[:, 0]
            if not len(index):
                continue
            time, late = (
                torch.from_numpy(frame[name].to_numpy().copy())[index] for name in ("time", "available_time")
            )
            first = csrs[reverse].num_edges
            edges = torch.stack([user[index], item[index]])
            options: dict[str, Any] = {"edge_id": torch.arange(first, first + len(index))}
            if not torch.equal(time, late):
                options["available_time"] = late
            csrs[forward] = csrs[forward].append(edges, time, row="destination", **options)
            csrs[reverse] = csrs[reverse].append(edges, time, row="source", **options)
        return _Graph({name: _compacted(csr) for name, csr in csrs.items()})


def _compacted(csr: TemporalCSR) -> TemporalCSR:
    many = csr.delta is not None and _COMPACT_AT * csr.delta.num_edges > csr.num_edges
    return csr.compact() if many else csr


class OnlineRanker:
    """Ranks candidates with the model of a day, and keeps it up to date with the day's events.

    A request is answered as of the start of the open period, that of the last event: its graph, counts and
    model hold nothing of the period itself, as in training and evaluation. When a period ends, its events
    join the graph and the counts, its impressions give one gradient step (in the form of the folder's
    configuration), and readers get the new state at once and whole. An impression whose outcome becomes known
    in a later period (its ``available_time``) is learned from at the end of that one, with the inputs that it
    had when it was shown.

    What :meth:`append` and :meth:`end_period` have returned from is on disk. After a kill, ``open`` reads the
    log on top of the last checkpoint and ends in the same state, bit for bit, as without the kill. The log
    suffices for that: a checkpoint that cannot be written is a warning, and is tried again a period later.

    Any number of threads may call :meth:`rank`. Writers wait for each other; readers wait for nobody, but for
    the encoding of items that no request of the period has asked for so far.
    """

    def __init__(self, day: DayFolder, state: Path, *, max_days_ahead: int = 1) -> None:
        """Open the log in ``state``; use :meth:`open`.

        Raises:
            ValueError: ``max_days_ahead`` is negative.

        """
        if max_days_ahead < 0:
            raise ValueError(f"max_days_ahead must not be negative, got {max_days_ahead}")
        self.day, self._state = day, state
        self._bound = day.config.start + (1 + max_days_ahead) * 24 * day.config.units_per_hour
        self._writing = threading.Lock()
        self._failure: BaseException | None = None
        self._num_events = 0
        self._snapshots: tuple[Snapshot, ...] = ()
        self._ended = pl.DataFrame()
        self._pending: list[pl.DataFrame] = []
        self._sections = None if day.counts is None else Sections(day)
        self._schema = event_schema(day.config, day.ids)
        self._users, self._items = (NodeRows(name, day.ids[name]) for name in ("user", "item"))
        self._context = RequestContext(day.config)
        self._lock = lock_folder(state)
        try:
            # all that can fail comes first, and changes nothing on disk
            check_state(state, day)
            log = read_log(state / "events.log")
            has_learned = self._restore(log.records)
            tie_state(state, day)
            self._log = EventLogFile(state / "events.log", log)
            if has_learned:
                self._save()
        except BaseException:
            os.close(self._lock)
            raise

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        state: str | Path | None = None,
        verify: bool = False,
        max_days_ahead: int = 1,
    ) -> "OnlineRanker":
        """Open a day's folder and go on from what an earlier ranker has put on disk.

        Args:
            folder: from the daily job.
            state: folder of the log and the checkpoint, of one ranker at a time; default ``online`` in the
                day's folder.
            verify: compare the checksums of the files too that are mapped into memory: those of the others
                are always compared.
            max_days_ahead: how many days of 24 hours after the end of its own day the folder may serve: the
                next daily job can only begin then. Later times are refused, since a single one, of a wrong
                unit say, would end all periods before it.

        Raises:
            DayFolderError: the folder is not whole or of another version, or the state is none, or of another
                folder.
            DamagedLogError: acknowledged events cannot be read any more.
            RuntimeError: another process has the state open.
            ValueError: ``max_days_ahead`` is negative.

        An ``open`` that raises leaves the state's files as they were.

        """
        folder = Path(folder)
        return cls(
            open_day_folder(folder, verify=verify),
            folder / "online" if state is None else Path(state),
            max_days_ahead=max_days_ahead,
        )

    @property
    def period_start(self) -> int:
        """Start of the open period: requests are answered as of this time."""
        return self._snapshots[-1].start

    @property
    def num_events(self) -> int:
        """Events that have been acknowledged."""
        return self._num_events

    @property
    def snapshot(self) -> Snapshot:
        """The state that requests of the open period are answered from."""
        return self._snapshots[-1]

    def rank(
        self,
        user_id: Any,
        item_ids: Any,
        context: Any,
        time: Any,
    ) -> Ranking:
        """Score the candidates of one request.

        Args:
            user_id: an integer or a string, as the folder has; an unknown one is ranked for as the unseen
                user.
            item_ids: the candidates, any iterable of IDs, or a series, array or tensor of them; unknown ones
                share the score of the unseen item.
            context: a mapping with a value, an integer, for each of the folder's ``event_columns``.
            time: of the request, an integer in the unit of the data. In a period that has not been opened yet
                the request is answered as of the open one.

        Raises:
            ValueError: a value of the context is missing or unknown, an ID is of a wrong type (1.0 and True
                are not the user 1), or the time is no integer or lies before the open period and the one
                before it.
            RuntimeError: the ranker has been closed.

        """
        if isinstance(self._failure, _Closed):
            raise RuntimeError("the ranker has been closed: open it again")
        columns = self._context.columns(context)
        time = whole_number(time, "the request's time")
        snapshot = next((s for s in reversed(self._snapshots) if s.start <= time), None)
        if snapshot is None:
            raise ValueError(
                f"the request's time {time} lies before {self._snapshots[0].start}, the start of the oldest "
                "period that is still kept: requests are answered in the order of time, in "
                f"{unit_name(self.day.config)}"
            )
        user, items = self._users.row(user_id), self._items.rows(item_ids)
        if not len(items):
            return Ranking(np.zeros(0, np.float32), np.zeros(0, np.int64))
        with torch.inference_mode():
            score = snapshot.score(user, items, columns).sigmoid().numpy()
        return Ranking(score, np.argsort(-score, kind="stable"))

    def append(self, events: pl.DataFrame | Any) -> int:
        """Take events, and return the number of all acknowledged ones when these are on disk.

        An event of a later period ends the open one first. Inside a period the order of events is free.
        Events have no identity: one that is sent twice is two events.

        Args:
            events: a polars frame with columns ``user_id``, ``item_id``, ``time``, ``behavior``, ``domain``,
                the folder's ``event_columns``, and, optionally, ``available_time``.

        Raises:
            EventLogError: wrong columns or values, an event of a period that has ended, or one later than
                the folder may serve; nothing is taken.
            OSError: the log cannot be written; nothing is taken, and the call may be repeated.
            EventsKeptError: the events are on disk, but learning from the period that they ended has failed:
                do not send them again, open the ranker again.
            RuntimeError: an earlier call has failed half-way, or the ranker has been closed; nothing is
                taken: open the ranker again.

        """
        frame = check_events(events, self.day.config, self.day.ids)
        lines = encode_lines(frame)
        with self._writing:
            self._check_alive()
            if not len(frame):
                return self._num_events
            early = frame["time"] < self.period_start
            if early.any():
                row = int(early.arg_true()[0])
                raise EventLogError(
                    f"events: row {row + 1} has time {frame['time'][row]}, before the open period, which "
                    f"began at {self.period_start}: events come in the order of periods; leave this one to "
                    f"the next daily job; times are {unit_name(self.day.config)}"
                )
            late = frame["time"] >= self._bound
            if late.any():
                row = int(late.arg_true()[0])
                raise EventLogError(f"events: row {row + 1} has time {frame['time'][row]}, {self._beyond()}")
            self._log.append(Record(EVENTS, len(frame), lines))
            with self._broken_on_error():
                self._num_events += len(frame)
                self._take(frame)
            return self._num_events

    def end_period(self, time: Any) -> None:
        """End the open period, because ``time`` lies in a later one, and open the period of ``time``.

        Args:
            time: an integer, at most the end of the time that the folder may serve.

        Raises:
            ValueError: ``time`` is no integer, lies in the open period or before it, or beyond the end.
            OSError, EventsKeptError, RuntimeError: as :meth:`append`.

        """
        time = whole_number(time, "the time")
        with self._writing:
            self._check_alive()
            if time > self._bound:
                raise ValueError(f"the time is {time}, {self._beyond()}")
            start = self._period_of(max(time, self.day.config.start - 1))
            if start <= self.period_start:
                raise ValueError(
                    f"{time} lies in the period of {start}; the open one began at {self.period_start}: "
                    "give a time in a later period"
                )
            self._log.append(Record(PERIOD_END, 0, json.dumps({"time": time}).encode()))
            with self._broken_on_error():
                self._open_period(start)
                self._save()

    def events(self) -> pl.DataFrame:
        """Return all acknowledged events in the order in which they came, for the next daily job."""
        with self._writing:
            return pl.concat([self._ended, *self._pending])

    def close(self) -> None:
        """Close the log and let others open the state."""
        with self._writing:
            if self._failure is None or not isinstance(self._failure, _Closed):
                self._failure = _Closed("the ranker has been closed")
                self._log.close()
                os.close(self._lock)

    def __enter__(self) -> "OnlineRanker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- writing, under the lock -------------------------------------------------------------------

    def _take(self, frame: pl.DataFrame) -> None:
        """Put events into the open period, which those of later periods end."""
        starts = self._starts_of(frame["time"].to_numpy())
        for start in np.unique(starts):
            if start > self.period_start:
                self._open_period(int(start))
                self._save()
            self._pending.append(frame.filter(pl.Series(starts == start)))

    def _open_period(self, start: int) -> None:
        """Learn from the open period, and show readers the state as of ``start``."""
        new = pl.concat([self._ended.clear(), *self._pending]).sort("time", maintain_order=True)
        self._ended, self._pending = pl.concat([self._ended, new]), []
        self._learn(start)
        graph = self._graph_of(self._snapshots[-1]).append(self.day.config.relations, new, *self._rows(new))
        self._show(start, graph, self._counts())

    def _learn(self, end: int) -> None:
        """Take one gradient step on the impressions whose outcome became known in the open period.

        It lasts until ``end``. Most of them are of that period; some were shown in an earlier one. Each is
        scored as of the start of its own period, as when it was shown. What waits is in the log, and needs
        no checkpoint.
        """
        config = self.day.config
        known = pl.col("available_time").is_between(self.period_start, end, closed="left")
        shown = self._ended.filter(is_impression(config) & known)
        batches = []
        if len(shown):
            user, item = self._rows(shown)
            label = torch.from_numpy((shown["behavior"] == config.clicked).to_numpy().astype(np.float32))
            columns = column_values(shown, config.event_columns)
            as_of = torch.from_numpy(self._starts_of(shown["time"].to_numpy()))
            data = self._snapshots[-1].click_data(user, item, label, columns, as_of)
            batches = list(click_batches(data, torch.arange(len(shown)), batch_size=config.batch_size))
        self._updater.update(batches)

    def _show(self, start: int, graph: _Graph, counts: PastCounts | None) -> None:
        """Make a snapshot and hand it to readers, with the items encoded that they have been asking for."""
        model: LSTTM = copy.deepcopy(self._updater.model)  # type: ignore[assignment]
        snapshot = Snapshot(
            start=start,
            day=self.day,
            model=model.eval().requires_grad_(False),
            csrs=graph.csrs,
            counts=counts,
            sections=self._sections,
        )
        if self._snapshots:
            snapshot.encode_as(self._snapshots[-1])
        # one assignment: a reader has the former pair or this one
        self._snapshots = (*self._snapshots[-1:], snapshot)

    def _counts(self) -> PastCounts | None:
        """Past counts with all events of ended periods."""
        counts = self.day.counts
        if counts is None or not len(self._ended):
            return counts
        return counts.with_delta(counted_events(self._ended, self.day.config, self.day.ids, counts.plan))

    def _graph_of(self, snapshot: Snapshot) -> _Graph:
        return _Graph(snapshot.csrs)

    def _rows(self, frame: pl.DataFrame) -> tuple[Tensor, Tensor]:
        ids = self.day.ids
        return ids["user"].rows(frame["user_id"]), ids["item"].rows(frame["item_id"])

    def _period_of(self, time: int) -> int:
        return int(self._starts_of(np.array([time], np.int64))[0])

    def _starts_of(self, time: np.ndarray) -> np.ndarray:
        """Return the starts of the periods of some times; periods are counted from the day's start."""
        config = self.day.config
        return config.start + (time - config.start) // config.period * config.period

    # ---- checkpoint and restart --------------------------------------------------------------------

    def _save(self) -> None:
        """Write what learning has changed; events and requests are in the log, which suffices without it."""
        path = self._state / "checkpoint.pt"
        try:
            save_learned_state(path, self._updater, self.period_start)
        except (OSError, RuntimeError) as error:
            logger.warning(
                "%s cannot be written (%s); the ranker goes on, nothing is lost: opening it again takes "
                "longer until the checkpoint of a later period is written",
                path,
                error,
            )

    def _restore(self, records: list[Record]) -> bool:
        """Go to the last checkpoint, then through what the log has beyond; say whether a period was."""
        day = self.day
        lines = b"".join(record.content for record in records if record.kind == EVENTS)
        log = decode_lines(lines, self._schema)
        self._num_events = len(log)
        ends = [json.loads(r.content)["time"] for r in records if r.kind == PERIOD_END]
        opened = np.unique(
            self._starts_of(np.concatenate([log["time"].to_numpy(), np.array(ends, np.int64)]))
        )
        model = copy.deepcopy(day.model).requires_grad_(True)
        self._updater = OnlineUpdater(model, day.config.online, device=torch.device("cpu"))
        start = self._load_checkpoint(opened)
        # a period takes only events that are not older: those before it came before it was opened
        self._ended = log.filter(pl.col("time") < start).sort("time", maintain_order=True)
        graph = _Graph(day.short_term_graph())
        self._show(
            start, graph.append(day.config.relations, self._ended, *self._rows(self._ended)), self._counts()
        )
        rest = log.filter(pl.col("time") >= start)
        starts = self._starts_of(rest["time"].to_numpy())
        for later in [start, *opened[opened > start].tolist()]:
            if later > start:
                self._open_period(later)
            self._pending.append(rest.filter(pl.Series(starts == later)))
        return self.period_start > start

    def _beyond(self) -> str:
        """Say how late a time may be."""
        config = self.day.config
        return (
            f"the day began at {config.start}, and its folder serves times before {self._bound}, in "
            f"{unit_name(config)}: check the unit, run the next daily job, or open with more max_days_ahead"
        )

    def _load_checkpoint(self, opened: np.ndarray) -> int:
        """Load the weights of the last checkpoint and return the period that they are for."""
        path = self._state / "checkpoint.pt"
        if not path.exists():
            return self.day.config.start
        try:
            start = load_learned_state(path, self._updater)
        except ValueError as error:
            logger.warning("%s; going through the whole log instead", error)
            return self.day.config.start
        if start not in opened:
            raise DayFolderError(
                f"{path} is of the period of {start}, which the log beside it has not opened: events that "
                "had been acknowledged are missing there; nothing has been changed: restore both from one "
                "copy, or remove the checkpoint to go on without them"
            )
        return start

    # ---- failures ----------------------------------------------------------------------------------

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise RuntimeError(
                f"the ranker takes no more events ({self._failure!r}): open it again"
            ) from self._failure

    @contextmanager
    def _broken_on_error(self) -> Iterator[None]:
        """Remember an error between the log and the memory: what is on disk is more than what is here."""
        try:
            yield
        except BaseException as error:
            self._failure = error
            if not isinstance(error, Exception):
                raise
            raise EventsKeptError(
                f"what this call brought is on disk, do not send it again; the ranker could not take it in "
                f"({error!r}): open it again"
            ) from error


class _Closed(Exception):
    """The ranker has been closed."""
