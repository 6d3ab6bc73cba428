"""What a request says: IDs of the folder's type, known context values, whole times; all else is an error."""

import datetime

import numpy as np
import polars as pl
import pytest
import torch

from graph_builders.ids import IdMap
from graphrec.serving import OnlineRanker, write_day_folder
from graphrec.serving.request import NodeRows
from tests.graphrec.serving.toy_day import PERIOD, START, toy_day

NUMBERS = NodeRows("item", IdMap.build([10, 1, 5]))
TEXTS = NodeRows("item", IdMap.build(["a", "7", "c"]))
ITEMS = ["v3", "v0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("request") / "day"
    write_day_folder(path, toy_day(num_layers=1))
    return path


@pytest.fixture(scope="module")
def ranker(folder, tmp_path_factory):
    with OnlineRanker.open(folder, state=tmp_path_factory.mktemp("state")) as ranker:
        yield ranker


@pytest.mark.parametrize(
    "given",
    [
        [5, 99, 10, 2**70],
        (5, 99, 10, -1),
        np.array([5, 99, 10, 2**63 + 1], np.uint64),
        np.array([5, 99, 10, 0], np.int32),
        [np.int64(5), np.uint8(99), 10, 11],
        torch.tensor([5, 99, 10, 11]),
        torch.tensor([5, 99, 10, 11], dtype=torch.int16),
        pl.Series([5, 99, 10, 11], dtype=pl.UInt32),
        (n for n in (5, 99, 10, 11)),
    ],
)
def test_whole_numbers_of_any_kind_are_found(given):
    assert NUMBERS.rows(given).tolist() == [2, 3, 0, 3]


@pytest.mark.parametrize(
    "given",
    [
        ["c", "b", "7"],
        np.array(["c", "b", "7"]),
        pl.Series(["c", "b", "7"]),
        np.array(["c", "b", "7"], object),
    ],
)
def test_texts_of_any_kind_are_found(given):
    assert TEXTS.rows(given).tolist() == [2, 3, 1]


@pytest.mark.parametrize(
    "given",
    [
        [5, True],
        [5, 1.0],
        [5, None],
        [5, float("nan")],
        [5, "1"],
        [5, [1]],
        [5, torch.tensor(1)],
        np.array([5.0, 1.0]),
        np.array([True]),
        torch.tensor([5.0]),
        torch.tensor([True]),
        torch.tensor([[5]]),
        torch.tensor(5),
        pl.Series([5, None]),
        pl.Series([5.5]),
        "51",
        b"51",
        5,
        None,
    ],
)
def test_other_kinds_are_no_whole_numbers(given):
    with pytest.raises(ValueError, match="item IDs of the day's folder are whole numbers, got"):
        NUMBERS.rows(given)


@pytest.mark.parametrize("given", [["a", 7], ["a", None], "a", [b"a"], torch.tensor([7])])
def test_other_kinds_are_no_texts(given):
    with pytest.raises(ValueError, match="item IDs of the day's folder are strings, got"):
        TEXTS.rows(given)


def test_the_wrong_one_of_many_is_named():
    with pytest.raises(ValueError, match=r"got True at place 2 \(from 0\)"):
        NUMBERS.rows([1, 5, True, 10])


def test_dates_are_ids_too():
    day = datetime.date(2022, 5, 8)
    rows = NodeRows("user", IdMap.build(pl.Series([day])))
    assert rows.row(day) == 0
    assert rows.row(datetime.date(2022, 5, 9)) == 1
    with pytest.raises(ValueError, match="user IDs of the day's folder are Date, got 3"):
        rows.row(3)


@pytest.mark.parametrize(
    "user", [None, 1.0, 100.0, 100.5, float("nan"), True, "100", (100,), [100], torch.tensor(100.0), b"100"]
)
def test_a_user_of_a_wrong_type_is_an_error_not_the_unseen_one(ranker, user):
    with pytest.raises(ValueError, match="user IDs of the day's folder are whole numbers, got"):
        ranker.rank(user, ITEMS, {"tab": 1}, START)


def test_a_user_is_any_whole_number_and_an_unknown_one_unseen(ranker):
    wanted = ranker.rank(100, ITEMS, {"tab": 1}, START).score
    for user in (np.int64(100), np.int16(100), torch.tensor(100), np.array(100)):
        found = ranker.rank(user, ITEMS, {"tab": np.int64(1)}, np.int64(START)).score
        np.testing.assert_array_equal(found, wanted)
    unseen = ranker.rank(1, ITEMS, {"tab": 1}, START).score
    np.testing.assert_array_equal(ranker.rank(2**70, ITEMS, {"tab": 1}, START).score, unseen)
    assert (unseen != wanted).all()


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"tab": 3}, "the context's 'tab' is 3, the day's folder knows values from 0 to 2"),
        ({"tab": 999}, "is 999"),
        ({"tab": -1}, "is -1"),
        ({"tab": 1.7}, "the context's 'tab' must be a whole number, got 1.7"),
        ({"tab": 1.0}, "whole number"),
        ({"tab": "1"}, "whole number, got '1'"),
        ({"tab": None}, "whole number, got None"),
        ({"tab": True}, "whole number, got True"),
        ({"tab": float("nan")}, "whole number"),
        ({}, r"context must name \['tab'\], got \[\]"),
        ({"tab": 1, 7: 1}, r"context must name \['tab'\], got \['tab', 7\]"),
        (None, r"context must name \['tab'\], got None"),
        ([("tab", 1)], r"context must name \['tab'\]"),
    ],
)
def test_contexts_that_are_not_known_are_errors(ranker, context, message):
    with pytest.raises(ValueError, match=message):
        ranker.rank(100, ITEMS, context, START)


@pytest.mark.parametrize(
    "time", [None, START + 0.5, float("nan"), "now", True, datetime.datetime(2022, 5, 8)]
)
def test_times_are_whole_numbers(ranker, time):
    with pytest.raises(ValueError, match="the request's time must be a whole number, got"):
        ranker.rank(100, ITEMS, {"tab": 1}, time)
    with pytest.raises(ValueError, match="the time must be a whole number, got"):
        ranker.end_period(time)


def test_a_closed_ranker_does_not_answer(folder, tmp_path):
    with OnlineRanker.open(folder, state=tmp_path) as ranker:
        ranker.rank(100, ITEMS, {"tab": 1}, START + PERIOD)
    with pytest.raises(RuntimeError, match="has been closed"):
        ranker.rank(100, ITEMS, {"tab": 1}, START + PERIOD)
    ranker.close()
