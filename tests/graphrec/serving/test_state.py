"""A ranker's files when something is wrong with them: damage is found, and nothing acknowledged is lost."""

import logging
import shutil
from unittest import mock

import numpy as np
import polars as pl
import pytest
import torch

from graph_builders.events import EventLogError
from graphrec.serving import (
    DamagedLogError,
    DayFolderError,
    OnlineRanker,
    open_day_folder,
    write_day_folder,
)
from graphrec.serving.learned_state import _checksum
from tests.graphrec.serving.toy_day import NUM_USERS, PERIOD, START, toy_day, toy_events

TODAY = toy_events(160, START, START + 4 * PERIOD, 9)
NEXT = TODAY.head(1).with_columns(time=START + 4 * PERIOD, available_time=START + 4 * PERIOD)
ITEMS = [f"v{i}" for i in range(8)]
DAY = 24 * 3600


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("state") / "day"
    write_day_folder(path, toy_day(num_layers=1))
    return path


@pytest.fixture(scope="module")
def used(folder, tmp_path_factory):
    """A state with four periods of events, of which three have ended, and what the ranker was at last."""
    state = tmp_path_factory.mktemp("used") / "state"
    with OnlineRanker.open(folder, state=state) as ranker:
        for start in range(0, len(TODAY), 20):
            ranker.append(TODAY[start : start + 20])
        return state, condition(ranker)


def condition(ranker):
    updater = ranker._updater
    tensors = [t.detach().clone() for t in (*updater.parameters, *updater.gradient_sum)]
    scores = [
        ranker.rank(100 + u, ITEMS, {"tab": 1}, ranker.period_start).score for u in range(NUM_USERS + 1)
    ]
    return [*tensors, torch.from_numpy(np.array(scores)), torch.tensor(ranker.num_events)]


def is_as(ranker, wanted):
    return all(torch.equal(a, b) for a, b in zip(condition(ranker), wanted, strict=True))


def contents(state):
    return {file.name: file.read_bytes() if file.is_file() else None for file in state.iterdir()}


@pytest.fixture
def state(used, tmp_path):
    return shutil.copytree(used[0], tmp_path / "state")


def flip(path, place, bit=1):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(bytes(data))


# ---- the checkpoint --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["parameters", "gradient_sum"])
@pytest.mark.parametrize("bit", [0, 6])
def test_a_changed_bit_of_the_checkpoint_is_found(folder, used, state, caplog, name, bit):
    path = state / "checkpoint.pt"
    tensors = torch.load(path, weights_only=True)[name]
    largest = max(tensors, key=torch.numel).numpy().tobytes()
    place = path.read_bytes().index(largest) + len(largest) // 2
    flip(path, place, bit)
    assert not all(
        torch.equal(a, b) for a, b in zip(tensors, torch.load(path, weights_only=True)[name], strict=True)
    )
    with caplog.at_level(logging.WARNING), OnlineRanker.open(folder, state=state) as ranker:
        assert is_as(ranker, used[1])
    assert (
        "has changed since it was written: its checksum differs; going through the whole log" in caplog.text
    )
    caplog.clear()
    with OnlineRanker.open(folder, state=state) as ranker:  # a whole one has been written again
        assert is_as(ranker, used[1])
    assert not caplog.records


def of_another_model(state):
    found = torch.load(state / "checkpoint.pt", weights_only=True)
    found["parameters"] = [torch.zeros(1)]
    torch.save({**found, "checksum": _checksum(found)}, state / "checkpoint.pt")


def without_checksum(state):
    found = torch.load(state / "checkpoint.pt", weights_only=True)
    del found["checksum"]
    torch.save(found, state / "checkpoint.pt")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: torch.save({"a": 1}, state / "checkpoint.pt"), "is no checkpoint of a served day"),
        (lambda state: torch.save([1], state / "checkpoint.pt"), "is no checkpoint of a served day"),
        (lambda state: torch.save(torch.zeros(3), state / "checkpoint.pt"), "is no checkpoint of a served"),
        (without_checksum, "is no checkpoint of a served day"),
        (of_another_model, "the shapes of its 'parameters' differ"),
        (lambda state: (state / "checkpoint.pt").write_bytes(b""), "is not a whole checkpoint"),
    ],
)
def test_a_readable_file_of_something_else_is_no_checkpoint(folder, used, state, caplog, damage, message):
    damage(state)
    with caplog.at_level(logging.WARNING), OnlineRanker.open(folder, state=state) as ranker:
        assert is_as(ranker, used[1])
    assert message in caplog.text


@pytest.mark.parametrize("error", [OSError("disk full"), RuntimeError("PytorchStreamWriter failed writing")])
def test_a_checkpoint_that_cannot_be_written_is_tried_again(folder, tmp_path, caplog, error):
    with OnlineRanker.open(folder, state=tmp_path / "whole") as ranker:
        ranker.append(TODAY)
        ranker.append(NEXT)
        wanted = condition(ranker)
    path = tmp_path / "failing" / "checkpoint.pt"
    with OnlineRanker.open(folder, state=path.parent) as ranker:
        with caplog.at_level(logging.WARNING), mock.patch("torch.save", side_effect=error):
            assert ranker.append(TODAY) == len(TODAY)
        assert "cannot be written" in caplog.text
        assert not path.exists()
        copy = shutil.copytree(path.parent, tmp_path / "killed")
        assert ranker.append(NEXT) == len(TODAY) + 1
        assert path.exists()
        assert is_as(ranker, wanted)
    for state in (path.parent, copy):
        with OnlineRanker.open(folder, state=state) as ranker:
            ranker.append(NEXT.clear() if ranker.num_events > len(TODAY) else NEXT)
            assert is_as(ranker, wanted)


# ---- the log and the folder ------------------------------------------------------------------------


def cut_log(state):
    path = state / "events.log"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def make_folder_of_log(state):
    (state / "events.log").unlink()
    (state / "events.log").mkdir()


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (cut_log, DayFolderError, "acknowledged are missing there; nothing has been changed"),
        (lambda state: (state / "events.log").unlink(), DayFolderError, "the log beside it has not opened"),
        (lambda state: flip(state / "events.log", -10), DamagedLogError, "it is the last one; it had been"),
        (lambda state: flip(state / "events.log", 3), DamagedLogError, "whole records follow it"),
        (make_folder_of_log, DamagedLogError, "is no file, it should be the log"),
        (lambda state: (state / "day").unlink(), DayFolderError, "has a log of events but no file 'day'"),
        (lambda state: (state / "day").write_text(""), DayFolderError, "another day's folder"),
    ],
)
def test_an_open_that_fails_changes_nothing(folder, state, damage, error, message):
    damage(state)
    before = contents(state)
    with pytest.raises(error, match=message):
        OnlineRanker.open(folder, state=state)
    assert contents(state) == before


def test_a_torn_end_is_kept_beside_the_log(folder, used, state):
    whole = (state / "events.log").read_bytes()
    (state / "events.log").write_bytes(whole + whole[:30])
    with OnlineRanker.open(folder, state=state) as ranker:
        assert is_as(ranker, used[1])
    assert (state / "events.log").read_bytes() == whole
    assert (state / "events.log.torn.1").read_bytes() == whole[:30]


def test_a_state_is_a_folder(folder, tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DayFolderError, match="give a folder for the state"):
            OnlineRanker.open(folder, state=path)


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize(
    "name",
    ["model.pt", "long_term.pt", "preference.pt", "fields.pt", "counts.quantiles.npy", "counts.time.npy"],
)
def test_a_changed_bit_of_the_days_folder_is_found(folder, tmp_path, name, verify):
    path = shutil.copytree(folder, tmp_path / "day", ignore=shutil.ignore_patterns("online"))
    flip(path / name, (path / name).stat().st_size // 2)
    if name == "counts.time.npy" and not verify:  # mapped: it may be far larger than what is read
        open_day_folder(path)
        return
    with pytest.raises(DayFolderError, match=f"{name} has changed since it was saved"):
        open_day_folder(path, verify=verify)


# ---- times beyond the day --------------------------------------------------------------------------


@pytest.mark.parametrize("time", [START + 2 * DAY, START * 1000, 2**63 - 1])
def test_a_time_beyond_the_day_is_refused_and_locks_nothing(folder, tmp_path, time):
    with OnlineRanker.open(folder, state=tmp_path) as ranker:
        beyond = TODAY.head(1).with_columns(
            time=pl.lit(time, pl.Int64), available_time=pl.lit(None, pl.Int64)
        )
        wrong = pl.concat([TODAY.head(1), beyond])
        message = rf"row 2 has time {time}, the day began at {START}, .* before {START + 2 * DAY}, in seconds"
        with pytest.raises(EventLogError, match=message):
            ranker.append(wrong)
        with pytest.raises(ValueError, match=f"the time is {time + 1}, the day began.*max_days_ahead"):
            ranker.end_period(time + 1)
        assert (ranker.num_events, ranker.period_start) == (0, START)
        assert (tmp_path / "events.log").stat().st_size == 0
        assert ranker.append(TODAY) == len(TODAY)


def test_how_long_a_folder_serves_is_an_option(folder, tmp_path):
    late = TODAY.head(1).with_columns(time=START + DAY, available_time=START + DAY)
    with OnlineRanker.open(folder, state=tmp_path, max_days_ahead=0) as ranker:
        with pytest.raises(EventLogError, match=f"before {START + DAY}, in seconds"):
            ranker.append(late)
        ranker.append(TODAY)
        ranker.end_period(START + DAY)  # the end of the day itself: its last period may end
        with pytest.raises(ValueError, match="the time is"):
            ranker.end_period(START + DAY + PERIOD)
    with OnlineRanker.open(folder, state=tmp_path) as ranker:
        ranker.append(late)
        ranker.append(late.with_columns(time=START + 2 * DAY - 1, available_time=START + 2 * DAY - 1))
    with OnlineRanker.open(folder, state=tmp_path, max_days_ahead=0) as ranker:  # what was taken is kept
        assert ranker.num_events == len(TODAY) + 2
    with pytest.raises(ValueError, match="max_days_ahead must not be negative"):
        OnlineRanker.open(folder, state=tmp_path / "new", max_days_ahead=-1)
