"""OnlineRanker: the scores of a batch, periods, mistakes, threads, and the same state after a kill."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_builders.events import EventLogError
from graph_builders.splits import Impressions
from graphrec.serving import (
    DayFolderError,
    EventsKeptError,
    OnlineRanker,
    open_day_folder,
    write_day_folder,
)
from graphrec.training.batches import ClickData, click_batches, collate
from graphrec.training.long_term import LongTermSnapshots
from graphrec.training.loop import predict
from graphrec.training.online import OnlineUpdater
from tests.graphrec.serving.toy_day import (
    NUM_ITEMS,
    NUM_USERS,
    PERIOD,
    START,
    toy_day,
    toy_events,
    wanted_counts,
)

TODAY = toy_events(240, START, START + 6 * PERIOD, 9)
ITEMS = [f"v{i}" for i in (3, 0, 299, 17, 3, 41)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("serving")
    for form in ("union", "chained", "none"):
        # LSTTM's table has one hop; the main table has two
        write_day_folder(root / form, toy_day(form=form, num_layers=2 if form == "chained" else 1))
    bare = {"edge_channels": 0, "node_channels": 0, "self_term": False, "field_pooling": "sum"}
    write_day_folder(root / "bare", toy_day(num_layers=1, strategy="uniform", **bare))
    write_day_folder(
        root / "plain",
        toy_day(past_counts=False, long_channels=0, item_vectors=False, preference_channels=0),
    )
    write_day_folder(root / "concatenation", toy_day(fusion="concatenation", raw_fields=False))
    return root


def weights(ranker):
    return [p.detach().clone() for p in ranker._updater.parameters]


def scores(ranker, time=None):
    """Scores of every user for some items, as of the open period."""
    time = ranker.period_start if time is None else time
    return np.array(
        [ranker.rank(100 + user, ITEMS, {"tab": user % 3}, time).score for user in range(NUM_USERS + 1)]
    )


def graph_of(day, events):
    """The short-term graph of the day with more events, built at once from edges."""
    csrs = day.short_term_graph()
    for (source, relation, target), csr in list(csrs.items()):
        domain, behavior = relation.removeprefix("rev_").split(":")
        own = events.filter((pl.col("domain") == domain) & (pl.col("behavior") == behavior))
        ends = day.ids["user"].rows(own["user_id"]), day.ids["item"].rows(own["item_id"])
        csrs[source, relation, target] = csr.append(
            torch.stack(ends if source == "user" else ends[::-1]),
            torch.from_numpy(own["time"].to_numpy().copy()),
            row="destination",
        )
    return csrs


def replayed(day, form):
    """Scores of each period's impressions by the protocol: a loop over periods with the training's parts."""
    updater = OnlineUpdater(day.model, replace(day.config.online, form=form), device=torch.device("cpu"))
    before = toy_events(400, START - 86_400, START, 0)
    shown = TODAY.filter((pl.col("domain") == "internal") & (pl.col("behavior") != "like"))
    long_term, preferences = (
        LongTermSnapshots(torch.tensor([START]), {name: rows[None] for name, rows in table.items()})
        for table in (day.long_term, day.preference)
    )
    out = []
    for start in range(START, START + 6 * PERIOD, PERIOD):
        rows = shown.filter((pl.col("time") >= start) & (pl.col("time") < start + PERIOD))
        user, item = day.ids["user"].rows(rows["user_id"]), day.ids["item"].rows(rows["item_id"])
        tab, as_of = rows["tab"].to_numpy(), np.full(len(rows), start)
        known = before.vstack(TODAY.filter(pl.col("time") < start))
        _, raw = wanted_counts(known, user.numpy(), item.numpy(), tab, as_of)
        hour = np.full(len(rows), (start // 3600 + 8) % 24)
        data = ClickData(
            impressions=Impressions(
                user=user,
                item=item,
                time=torch.from_numpy(rows["time"].to_numpy().copy()),
                label=torch.from_numpy((rows["behavior"] == "click").to_numpy().astype(np.float32)),
            ),
            as_of=torch.from_numpy(as_of),
            context=torch.from_numpy(np.column_stack([hour, tab])),
            dense=torch.from_numpy(day.scaler.transform(raw, np.arange(raw.shape[1]))),
            user_fields=day.user_fields,
            item_fields=day.item_fields,
            snapshots=long_term,
            preferences=preferences,
            csrs=graph_of(day, TODAY.filter(pl.col("time") < start)),
            short_term=day.config.short_term,
        )
        batches = list(click_batches(data, torch.arange(len(rows)), batch_size=day.config.batch_size))
        out.append((start, rows, predict(updater.model, batches, device=torch.device("cpu")).numpy()))
        updater.update(batches)
    return out


@pytest.mark.parametrize("form", ["union", "chained", "none"])
def test_scores_are_those_of_the_replay(folder, tmp_path, form):
    wanted = replayed(open_day_folder(folder / form), form)
    first = None
    with OnlineRanker.open(folder / form, state=tmp_path) as ranker:
        for start, rows, score in wanted:
            if start > START:
                ranker.end_period(start)
            found = [
                ranker.rank(user, [item], {"tab": tab}, start).score[0]
                for user, item, tab in rows.select("user_id", "item_id", "tab").rows()
            ]
            np.testing.assert_allclose(found, score, atol=1e-5)
            ranker.append(TODAY.filter((pl.col("time") >= start) & (pl.col("time") < start + PERIOD)))
            first = weights(ranker) if first is None else first
        moved = max(float((a - b).abs().max()) for a, b in zip(first, weights(ranker), strict=True))
    assert (moved > 1e-3) == (form != "none")  # the updates have something to show


@pytest.mark.parametrize("name", ["union", "chained", "bare", "plain", "concatenation"])
def test_a_request_is_scored_as_a_batch_of_the_model(folder, tmp_path, name):
    with OnlineRanker.open(folder / name, state=tmp_path) as ranker:
        columns = {"tab": 2}
        ranker.append(TODAY.filter(pl.col("time") < START + 2 * PERIOD))
        snapshot = ranker.snapshot
        assert snapshot.start == START + PERIOD
        for user in (0, 7, NUM_USERS):
            items = torch.tensor([5, 280, 5, NUM_ITEMS, 1])
            rows = torch.full_like(items, user)
            data = snapshot.click_data(rows, items, torch.zeros(5), np.full((5, 1), 2))
            with torch.inference_mode():
                wanted = snapshot.model(collate(data, torch.arange(5))).sigmoid().numpy()
            ids = [*(f"v{i}" for i in (5, 280, 5)), "new", "v1"]
            found = ranker.rank(100 + user, ids, columns, START + PERIOD)
            np.testing.assert_allclose(found.score, wanted, atol=1e-6)
            np.testing.assert_array_equal(found.order, np.argsort(-found.score, kind="stable"))
        assert len(ranker.rank(100, [], columns, START + PERIOD).score) == 0


def test_a_period_does_not_see_its_own_events(folder, tmp_path):
    with OnlineRanker.open(folder / "union", state=tmp_path) as ranker:
        before = scores(ranker)
        ranker.append(TODAY.filter(pl.col("time") < START + PERIOD))
        np.testing.assert_array_equal(scores(ranker), before)
        ranker.end_period(START + PERIOD)
        assert np.abs(scores(ranker) - before).max() > 1e-3
        # the period before is still kept for requests that were on their way
        np.testing.assert_array_equal(scores(ranker, START + PERIOD - 1), before)
        ranker.end_period(START + 2 * PERIOD)
        with pytest.raises(ValueError, match="answered in the order of time"):
            scores(ranker, START + PERIOD - 1)


def test_order_inside_a_period_and_size_of_calls_do_not_matter_where_times_differ(folder, tmp_path):
    events = TODAY.unique("time", maintain_order=True)
    with OnlineRanker.open(folder / "chained", state=tmp_path / "one") as ranker:
        ranker.append(events)
        wanted, at = scores(ranker), weights(ranker)
    with OnlineRanker.open(folder / "chained", state=tmp_path / "two") as ranker:
        for start in range(START, START + 6 * PERIOD, PERIOD):
            part = events.filter((pl.col("time") >= start) & (pl.col("time") < start + PERIOD))
            for place in np.random.default_rng(0).permutation(len(part)):
                ranker.append(part[int(place)])
        np.testing.assert_array_equal(scores(ranker), wanted)
        assert all(torch.equal(a, b) for a, b in zip(at, weights(ranker), strict=True))
        assert ranker.num_events == len(events)
        assert sorted(ranker.events()["time"]) == events["time"].to_list()


def test_mistakes_are_named_and_nothing_is_taken(folder, tmp_path):
    with OnlineRanker.open(folder / "union", state=tmp_path) as ranker:
        ranker.append(TODAY.filter(pl.col("time") < START + 2 * PERIOD))
        size, good = (
            (tmp_path / "events.log").stat().st_size,
            TODAY.tail(3).with_columns(domain=pl.lit("internal")),
        )
        late = pl.col("time") - 10 * PERIOD
        for wrong, message in (
            (good.with_columns(late, late.alias("available_time")), "row 1 has time .* the order of periods"),
            (good.drop("tab"), r"lack the columns \['tab'\]"),
            (good.with_columns(prise=1), r"columns \['prise'\] that nothing reads"),
            (good.with_columns(pl.col("time").cast(pl.Float64)), "'time' must hold whole numbers"),
            (good.with_columns(user_id=pl.lit(None, pl.Int64)), "'user_id' is null in row 1"),
            (good.with_columns(item_id=7), "'item_id' has type Int64.* String"),
            (
                pl.concat([good.head(2), good.tail(1).with_columns(behavior=pl.lit("klick"))]),
                r"\('\w+', 'klick'\)\] are not known.* is in row 3",
            ),
            (good.with_columns(behavior=pl.lit(1)), "'behavior' must hold text, got Int32"),
            (good.with_columns(user_id=pl.Series([100.0, 100.5, 3.0])), "'user_id' is 100.5 in row 2"),
            (good.with_columns(user_id=pl.Series([100.0, 1.0, float("nan")])), "'user_id' is nan in row 3"),
            (good.with_columns(user_id=pl.Series([1, 2**63, 1], dtype=pl.UInt64)), "'user_id' is 92.* row 2"),
            (good.with_columns(time=pl.Series([1, 1, 2**63], dtype=pl.UInt64)), "'time' is 92.* row 3.* 64"),
            (good.with_columns(tab=pl.Series([2**63, 1, 1], dtype=pl.UInt64)), "'tab' is 92.* row 1.* 64"),
            (good.with_columns(behavior=pl.lit("skip"), tab=3), "'tab' is 3 in row 1, an impression"),
            (good.with_columns(behavior=pl.lit("skip"), tab=-1), "'tab' is -1 in row 1"),
            (good.with_columns(behavior=pl.lit("skip"), tab=pl.lit(None)), "'tab' is None in row 1"),
            (good.to_dict(), "must be a polars DataFrame, got dict: make one of it"),
            (good.lazy(), "must be a polars DataFrame, got LazyFrame: collect it"),
            (None, "must be a polars DataFrame, got NoneType"),
            (good.with_columns(available_time=pl.col("time") - 1), "row 1 is known before it happens"),
        ):
            with pytest.raises(EventLogError, match=message):
                ranker.append(wrong)
        for user, items, context, message in (
            ("100", ITEMS, {"tab": 1}, "user IDs .* are whole numbers, got '100'"),
            (100, [3], {"tab": 1}, "item IDs .* are strings, got 3"),
            (100, ITEMS, {}, r"context must name \['tab'\]"),
            (100, ITEMS, {"tab": 1, "top": 1}, r"context must name \['tab'\]"),
        ):
            with pytest.raises(ValueError, match=message):
                ranker.rank(user, items, context, ranker.period_start)
        with pytest.raises(ValueError, match="give a time in a later period"):
            ranker.end_period(START + PERIOD)
        assert (tmp_path / "events.log").stat().st_size == size
        with pytest.raises(RuntimeError, match="open in another ranker"):
            OnlineRanker.open(folder / "union", state=tmp_path)
        with pytest.raises(EventLogError, match="before the open period"):
            ranker.append(toy_events(5, START - PERIOD, START, 0))
    with pytest.raises(RuntimeError, match="has been closed"):
        ranker.append(good)
    with pytest.raises(DayFolderError, match="another day's folder"):
        OnlineRanker.open(folder / "chained", state=tmp_path)


def test_damaged_folders_are_named(tmp_path):
    path = tmp_path / "day"
    day = toy_day()
    write_day_folder(path, day)
    with pytest.raises(FileExistsError, match="remove it first"):
        write_day_folder(path, day)
    open_day_folder(path, verify=True)
    header = json.loads((path / "day.json").read_text())
    (path / "day.json").write_text(json.dumps({**header, "version": 99}))
    with pytest.raises(DayFolderError, match="version 99, this release reads version 2"):
        OnlineRanker.open(path)
    (path / "day.json").write_text(json.dumps({**header, "format": "something"}))
    with pytest.raises(DayFolderError, match="not that of a day's folder"):
        OnlineRanker.open(path)
    (path / "day.json").write_text(json.dumps(header))
    data = bytearray((path / "model.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "model.pt").write_bytes(bytes(data))
    with pytest.raises(DayFolderError, match="has changed since it was saved"):
        OnlineRanker.open(path, verify=True)
    (path / "model.pt").write_bytes(bytes(data[:-1]))
    with pytest.raises(DayFolderError, match=r"model\.pt should have"):
        OnlineRanker.open(path)
    (path / "day.json").unlink()
    with pytest.raises(DayFolderError, match="experiments daily_job"):
        OnlineRanker.open(path)


def test_a_folder_is_whole_or_absent(tmp_path):
    with (
        mock.patch("torch.save", side_effect=OSError("disk full")),
        pytest.raises(OSError, match="disk full"),
    ):
        write_day_folder(tmp_path / "day", toy_day())
    assert list(tmp_path.iterdir()) == []


def test_a_former_period_is_let_go_without_the_garbage_collector(folder, tmp_path):
    gc.disable()
    try:
        with OnlineRanker.open(folder / "union", state=tmp_path) as ranker:
            scores(ranker)
            former = weakref.ref(ranker.snapshot)
            for hour in (1, 2):
                assert former() is not None
                ranker.end_period(START + hour * PERIOD)
            assert former() is None
    finally:
        gc.enable()


def test_unknown_users_and_items_are_ranked_as_the_unseen(folder, tmp_path):
    with OnlineRanker.open(folder / "union", state=tmp_path) as ranker:
        strange = TODAY.head(40).with_columns(
            user_id=pl.col("user_id") + 1000, time=pl.lit(START), available_time=pl.lit(START)
        )
        ranker.append(strange)
        ranker.append(TODAY.filter(pl.col("time") >= START + PERIOD))
        found = ranker.rank(5, ["nothing", "v1", "else"], {"tab": 1}, ranker.period_start).score
        assert found[0] == found[2]
        assert found[0] != found[1]


def test_readers_never_see_half_an_update(folder, tmp_path):
    def history(state, readers):
        """Scores that readers saw by the period that they asked for, while one thread appends."""
        seen, errors, done = [set() for _ in range(6)], [], threading.Event()
        with OnlineRanker.open(folder / "union", state=state) as ranker:

            def read(user):
                try:
                    while not done.is_set():
                        start = ranker.period_start
                        score = ranker.rank(user, ITEMS, {"tab": 0}, start).score
                        seen[(start - START) // PERIOD].add((user, score.tobytes()))
                except Exception as error:
                    errors.append(error)

            threads = [threading.Thread(target=read, args=(100 + i,)) for i in range(readers)]
            for thread in threads:
                thread.start()
            for start in range(START, START + 6 * PERIOD, PERIOD):
                if start > START:
                    ranker.end_period(start)
                if not readers:
                    for user in range(100, 108):
                        seen[(start - START) // PERIOD].add(
                            (user, ranker.rank(user, ITEMS, {"tab": 0}, start).score.tobytes())
                        )
                ranker.append(TODAY.filter((pl.col("time") >= start) & (pl.col("time") < start + PERIOD)))
            done.set()
            for thread in threads:
                thread.join()
        assert not errors
        return seen

    alone, together = history(tmp_path / "a", 0), history(tmp_path / "b", 8)
    # a reader may look at the clock before a period ends and ask after: it then gets the former period's
    assert sum(map(len, together)) >= 8
    for wanted, found in zip(alone, together, strict=True):
        assert found <= wanted


class Killed(BaseException):
    """What a kill is to a process, in this one."""


class KillAt:
    """Stops the world at the n-th point: before a write (with half of it done), a flush, a rename, a step."""

    def __init__(self, point, kill):
        self.left, self.kill = point, kill
        real = {name: getattr(os, name) for name in ("write", "fdatasync", "replace")}
        update = OnlineUpdater.update

        def write(handle, data):
            if self.hit():
                real["write"](handle, data[: len(data) // 2])
                self.kill()
            return real["write"](handle, data)

        def before(function):
            def call(*arguments):
                if self.hit():
                    self.kill()
                return function(*arguments)

            return call

        self.patches = [
            mock.patch("os.write", write),
            mock.patch("os.fdatasync", before(real["fdatasync"])),
            mock.patch("os.replace", before(real["replace"])),
            mock.patch.object(OnlineUpdater, "update", before(update)),
        ]

    def hit(self):
        self.left -= 1
        return self.left == 0

    def __enter__(self):
        for patch in self.patches:
            patch.start()

    def __exit__(self, *_):
        for patch in self.patches:
            patch.stop()


def feed(ranker, size):
    """Append what is still missing of the day in calls of ``size``, then end it."""
    while ranker.num_events < len(TODAY):
        ranker.append(TODAY[ranker.num_events : ranker.num_events + size])
    if ranker.period_start < START + 6 * PERIOD:
        ranker.end_period(START + 6 * PERIOD)


@pytest.fixture(scope="module")
def undisturbed(folder, tmp_path_factory):
    with OnlineRanker.open(folder / "union", state=tmp_path_factory.mktemp("undisturbed")) as ranker:
        feed(ranker, 20)
        return weights(ranker), scores(ranker), ranker._updater.gradient_sum, ranker._updater.num_rows


def assert_same(ranker, undisturbed):
    at, wanted, gradient_sum, num_rows = undisturbed
    assert all(torch.equal(a, b) for a, b in zip(at, weights(ranker), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(gradient_sum, ranker._updater.gradient_sum, strict=True))
    assert ranker._updater.num_rows == num_rows
    np.testing.assert_array_equal(scores(ranker), wanted)
    assert ranker.events().equals(TODAY.select(ranker.events().columns))


@settings(max_examples=15)
@given(points=st.lists(st.integers(1, 60), min_size=1, max_size=3))
def test_stopped_anywhere_it_goes_on_to_the_same_state(folder, undisturbed, tmp_path_factory, points):
    def kill():
        raise Killed

    state = tmp_path_factory.mktemp("killed")
    acknowledged = 0
    for point in points:
        ranker = OnlineRanker.open(folder / "union", state=state)
        assert ranker.num_events >= acknowledged
        with KillAt(point, kill):
            try:
                while ranker.num_events < len(TODAY):
                    acknowledged = ranker.append(TODAY[ranker.num_events : ranker.num_events + 20])
            except Killed:
                pass
        os.close(ranker._lock)  # what the end of a process does
    with OnlineRanker.open(folder / "union", state=state) as ranker:
        assert acknowledged <= ranker.num_events
        feed(ranker, 20)
        assert_same(ranker, undisturbed)


def test_without_its_checkpoint_it_goes_through_the_log(folder, undisturbed, tmp_path):
    with OnlineRanker.open(folder / "union", state=tmp_path) as ranker:
        feed(ranker, 20)
    (tmp_path / "checkpoint.pt").write_bytes(b"torn")
    with OnlineRanker.open(folder / "union", state=tmp_path) as ranker:
        assert_same(ranker, undisturbed)
    (tmp_path / "events.log").unlink()
    with pytest.raises(DayFolderError, match="which the log beside it has not opened"):
        OnlineRanker.open(folder / "union", state=tmp_path)


def test_an_error_between_disk_and_memory_asks_for_opening_again(folder, undisturbed, tmp_path):
    ranker = OnlineRanker.open(folder / "union", state=tmp_path)
    with (
        mock.patch.object(OnlineUpdater, "update", side_effect=MemoryError),
        pytest.raises(EventsKeptError, match=r"on disk, do not send it again.*MemoryError") as failure,
    ):
        feed(ranker, 20)
    assert isinstance(failure.value.__cause__, MemoryError)
    kept = ranker.num_events
    with pytest.raises(RuntimeError, match="open it again"):
        feed(ranker, 20)
    assert scores(ranker).shape == (NUM_USERS + 1, len(ITEMS))  # readers go on
    ranker.close()
    with OnlineRanker.open(folder / "union", state=tmp_path) as ranker:
        assert ranker.num_events == kept
        feed(ranker, 20)
        assert_same(ranker, undisturbed)


@pytest.mark.slow
def test_killed_processes_leave_what_they_acknowledged(folder, undisturbed, tmp_path):
    code = (
        "import os, signal, sys\n"
        "from tests.graphrec.serving.test_online_ranker import KillAt, OnlineRanker, feed\n"
        "ranker = OnlineRanker.open(sys.argv[1], state=sys.argv[2])\n"
        "with KillAt(int(sys.argv[3]), lambda: os.kill(os.getpid(), signal.SIGKILL)):\n"
        "    append = ranker.append\n"
        "    def acknowledged(events):\n"
        "        print(append(events), flush=True)\n"
        "    ranker.append = acknowledged\n"
        "    feed(ranker, 20)\n"
    )
    kept = 0
    for point in np.random.default_rng(5).integers(2, 14, 4):
        child = subprocess.run(
            [sys.executable, "-c", code, str(folder / "union"), str(tmp_path), str(point)],
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
        )
        assert child.returncode == -signal.SIGKILL, child.stderr
        kept = int(child.stdout.split()[-1]) if child.stdout else kept
        ranker = OnlineRanker.open(folder / "union", state=tmp_path)
        assert kept <= ranker.num_events <= kept + 20  # a call that was killed may have got to the disk
        kept = ranker.num_events
        ranker.close()
    assert kept
    with OnlineRanker.open(folder / "union", state=tmp_path) as ranker:
        feed(ranker, 20)
        assert_same(ranker, undisturbed)
