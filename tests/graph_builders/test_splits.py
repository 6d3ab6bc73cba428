import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from graph_builders import (
    EventLogError,
    IdMap,
    Impressions,
    build_impressions,
    day_bounds,
    period_start,
    periods,
    split_by_time,
)
from tests.reference import graph_builders as reference


def impressions(times):
    size = len(times)
    return Impressions(
        user=torch.arange(size),
        item=torch.arange(size) + 100,
        time=torch.tensor(times, dtype=torch.int64),
        label=torch.ones(size),
        context={"tab": torch.arange(size) + 7},
    )


@settings(max_examples=60, deadline=None)
@given(
    times=st.lists(st.integers(0, 10), max_size=8),
    cutoffs=st.lists(st.integers(0, 10), min_size=1, max_size=3, unique=True).map(sorted),
)
def test_split_matches_the_reference(times, cutoffs):
    split = split_by_time(impressions(times), cutoffs)
    assert len(split.parts) == len(cutoffs) + 1
    for number, part in enumerate(split.parts):
        wanted = [row for row, time in enumerate(times) if reference.part_of_time(time, cutoffs) == number]
        assert part.user.tolist() == wanted
        assert part.item.tolist() == [row + 100 for row in wanted]
        assert part.context["tab"].tolist() == [row + 7 for row in wanted]


def test_a_row_at_the_cutoff_is_later():
    split = split_by_time(impressions([4, 5, 6]), [5]).named("train", "test")
    assert split["train"].time.tolist() == [4]
    assert split["test"].time.tolist() == [5, 6]
    assert impressions([4, 5, 6]).between(5, 6).time.tolist() == [5]


@pytest.mark.parametrize(
    ("cutoffs", "message"), [([], "rise"), ([5, 5], "rise"), ([6, 5], "rise"), ([1_650_000_000_000], "units")]
)
def test_wrong_cutoffs(cutoffs, message):
    with pytest.raises(ValueError, match=message):
        split_by_time(impressions([1_650_000_000, 1_650_000_001]), cutoffs)


@settings(max_examples=60, deadline=None)
@given(time=st.integers(-20, 20), length=st.integers(1, 7), offset=st.integers(-5, 5))
def test_period_start_matches_the_reference(time, length, offset):
    start = period_start(torch.tensor([time]), length, utc_offset=offset)
    assert start.tolist() == [reference.period_start(time, length, offset)]


def test_days_begin_at_the_local_midnight():
    start, end = day_bounds("2022-05-08", utc_offset_hours=8, time_resolution="ms")
    assert (start, end) == (1_651_939_200_000, 1_652_025_600_000)
    day = 86_400_000
    times = torch.tensor([start - 1, start, end - 1, end])
    assert period_start(times, day, utc_offset=8 * 3_600_000).tolist() == [start - day, start, start, end]
    assert day_bounds("1970-01-01") == (0, 86_400)


def test_periods_cover_the_range_once():
    assert list(periods(3, 10, 3)) == [(3, 6), (6, 9), (9, 10)]
    assert list(periods(3, 3, 3)) == []
    assert len(list(periods(*day_bounds("2022-05-08"), 3600))) == 24
    with pytest.raises(ValueError, match="longer than 0"):
        periods(0, 5, 0)
    with pytest.raises(ValueError, match="before the start"):
        periods(5, 0, 1)


def test_build_impressions():
    frame = pl.DataFrame(
        {
            "user_id": ["a", "z"],
            "item_id": [2, 1],
            "time": [5, 6],
            "label": [1, 0],
            "x": [0.5, 1.5],
            "ok": [True, False],
        }
    )
    users, items = IdMap.build(["b", "a"]), IdMap.build([1, 2])
    rows = build_impressions(frame, user_ids=users, item_ids=items, context=["x", "ok"], time_resolution="ms")
    assert rows.user.tolist() == [1, users.unseen_row]
    assert rows.item.tolist() == [1, 0]
    assert rows.label.tolist() == [1.0, 0.0]
    assert rows.context["x"].dtype == torch.float32
    assert rows.context["ok"].tolist() == [1, 0]
    assert rows.time_resolution == "ms"
    for bad, message in [
        (frame.drop("time"), "lack the columns"),
        (frame.with_columns(x=pl.lit(None)), "'x' is null in 2 rows, first in row 1"),
        (frame.with_columns(label=pl.lit(2)), "0 or 1"),
        (frame.with_columns(x=pl.lit("word")), "encode it"),
    ]:
        with pytest.raises(EventLogError, match=message):
            build_impressions(bad, user_ids=users, item_ids=items, context=["x"])


def test_columns_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="tab has 2 values for 3 users"):
        Impressions(
            torch.arange(3), torch.arange(3), torch.arange(3), torch.ones(3), {"tab": torch.arange(2)}
        )


def test_shapes_are_checked():
    with pytest.raises(TypeCheckError):
        Impressions(torch.zeros(3, 1, dtype=torch.int64), torch.arange(3), torch.arange(3), torch.ones(3))
