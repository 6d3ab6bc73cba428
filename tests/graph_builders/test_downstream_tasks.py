"""Splits by users and times, and the labelled queries of a task."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graph_builders.datasets import DownstreamTask, UserTimeSplit

SPLIT = UserTimeSplit(start=100, test_start=150, end=200, validation_share=0.2, test_share=0.3)
USERS = pl.Series("user_id", range(1, 31))
SPLIT_PARTS = ("train", "validation", "test")


def parts(split, users=USERS):
    return dict(split.user_parts(users).select("user_id", pl.col("part").cast(pl.String)).iter_rows())


@given(
    times=st.lists(st.integers(80, 220), unique=True),
    horizon=st.integers(0, 50),
    users=st.sets(st.integers(1, 30)),
)
def test_queries_lie_with_their_labels_inside_the_time_of_their_users_part(times, horizon, users):
    given_users = pl.Series("user_id", sorted(users), dtype=pl.Int64)
    found = SPLIT.query_frame(given_users, pl.Series("time", times, dtype=pl.Int64), horizon)
    window = {"train": (100, 150), "validation": (100, 150), "test": (150, 200)}
    part_of = parts(SPLIT)
    wanted = [
        (user, time, part_of[user])
        for time in sorted(times)
        for user in sorted(users)
        if window[part_of[user]][0] <= time < window[part_of[user]][1]
        and time + horizon <= window[part_of[user]][1]
    ]
    assert found.with_columns(pl.col("part").cast(pl.String)).rows() == wanted


def test_no_label_of_training_reaches_the_test_and_no_user_is_in_two_parts():
    found = SPLIT.query_frame(USERS, pl.Series("time", range(90, 210)), 7)
    by_part = {part: found.filter(pl.col("part").cast(pl.String) == part) for part in SPLIT_PARTS}
    assert all(rows.height for rows in by_part.values())
    for early in ("train", "validation"):
        assert by_part[early]["time"].max() + 7 == SPLIT.test_start == by_part["test"]["time"].min()
    users = [set(rows["user_id"]) for rows in by_part.values()]
    assert sum(map(len, users)) == len(set().union(*users)) == 30


def test_a_users_part_depends_on_the_seed_and_the_user_alone():
    many = pl.Series("user_id", range(20_000))
    drawn = parts(SPLIT, many)
    share = {part: list(drawn.values()).count(part) / 20_000 for part in SPLIT_PARTS}
    assert share == pytest.approx({"train": 0.5, "validation": 0.2, "test": 0.3}, abs=0.012)
    assert parts(SPLIT, pl.Series("user_id", [77, 5, 77, 3])) == {user: drawn[user] for user in (3, 5, 77)}
    other = UserTimeSplit(start=100, test_start=150, end=200, random_seed=1)
    assert parts(other, many) != drawn
    # a larger test keeps the users that it has
    larger = UserTimeSplit(start=100, test_start=150, end=200, validation_share=0.1, test_share=0.4)
    grown = parts(larger, many)
    assert all(grown[user] == "test" for user, part in drawn.items() if part == "test")


def test_wrong_splits_are_named():
    with pytest.raises(ValueError, match=r"must rise, got 100, 90, 200"):
        UserTimeSplit(start=100, test_start=90, end=200)
    for shares in ((0.5, 0.5), (-0.1, 0.2)):
        with pytest.raises(ValueError, match=r"must leave users to train on"):
            UserTimeSplit(start=1, test_start=2, end=3, validation_share=shares[0], test_share=shares[1])
    for horizon in (-1, 51):
        with pytest.raises(ValueError, match=rf"horizon must lie in \[0, 50\].* got {horizon}"):
            SPLIT.query_frame(USERS, pl.Series("time", [100]), horizon)


def task():
    queries = SPLIT.query_frame(USERS, pl.Series("time", [110, 120, 155]), 10)
    queries = queries.with_columns(label=pl.lit(1.0, pl.Float32), label_time=pl.col("time") + 3)
    return DownstreamTask(name="toy", kind="binary", queries=queries, horizon=10)


def test_a_fit_may_not_reach_into_the_labels_it_is_used_for():
    toy = task()
    assert toy.label_start == {"train": 110, "validation": 110, "test": 155}
    assert set(toy.part("validation")["time"]) == {110, 120}
    toy.check_before(155)
    toy.check_before(110, "train")
    with pytest.raises(ValueError, match=r"until 156, but the test labels of 'toy' begin at 155"):
        toy.check_before(156)
    with pytest.raises(ValueError, match=r"until 155, but the train labels of 'toy' begin at 110"):
        toy.check_before(155, "train")


def test_a_part_without_queries_is_named():
    toy = task()
    only_early = DownstreamTask(
        name="toy", kind="binary", queries=toy.queries.filter(pl.col("time") < 150), horizon=10
    )
    assert set(only_early.label_start) == {"train", "validation"}
    for call in (only_early.part, lambda part: only_early.check_before(0, part)):
        with pytest.raises(ValueError, match=r"'toy' has no test queries"):
            call("test")


def test_what_is_no_task_is_refused():
    queries = task().queries

    def made(queries=queries, kind="binary", horizon=10):
        return DownstreamTask(name="toy", kind=kind, queries=queries, horizon=horizon)

    part, label = pl.col("part").cast(pl.String), pl.col("label")
    wrong = made()
    object.__setattr__(wrong, "kind", "class")  # as without the types' check of these tests
    with pytest.raises(ValueError, match=r"must be of kind \['binary', 'set'\], got 'class'"):
        wrong.__post_init__()
    with pytest.raises(ValueError, match="no part 'valid', there are"):
        DownstreamTask.part.__wrapped__(made(), "valid")
    with pytest.raises(ValueError, match="horizon of 0 or more, in the unit of the times, got -5"):
        made(horizon=-5)
    for wrong, message in (
        (queries.drop("label"), r"lack \['label'\]"),
        (queries.with_columns(part), "must be of PART_TYPE"),
        (queries.with_columns(pl.col("time").cast(pl.Float64)), "whole numbers in the unit of the log"),
        (queries.with_columns(user_id=pl.lit(None, pl.Int64)), "without null"),
        (queries.with_columns(label=pl.lit("yes")), "is binary: a number or a Boolean, got String"),
        (queries.with_columns(label=label.shift(1, fill_value=2.0)), "or none .* got 2 in row 0"),
        (queries.with_columns(label=-label), "got -1 in row 0"),
        (pl.concat([queries, queries.head(1)]), "in more than one row"),
        (queries.with_columns(user_id=pl.lit(1)).unique(["user_id", "time"]), "1 users of task 'toy' are in"),
        (queries.with_columns(pl.col("time") + pl.when(part == "train").then(30).otherwise(0)), "reach past"),
    ):
        with pytest.raises(ValueError, match=message):
            made(wrong)
    for wrong in (label, pl.lit("g1"), pl.concat_list(pl.lit(1))):
        with pytest.raises(ValueError, match="is a set: a list of strings, got"):
            made(queries.with_columns(wrong.alias("label")), kind="set")
    for right in (label > 0.5, pl.lit(None, pl.Float32), pl.lit(float("nan")), label.cast(pl.Int8)):
        made(queries.with_columns(right.alias("label")))
    made(queries.with_columns(label=pl.concat_list(pl.lit("g1"))), kind="set")
    assert made(queries.reverse()).label_start == task().label_start
    made(queries.reverse()).check_before(155)
    with pytest.raises(ValueError, match="begin at 155"):
        made(queries.reverse()).check_before(156)


def test_shared_times_ask_training_users_at_the_tests_times_too():
    split = UserTimeSplit(start=0, test_start=20, end=40, test_share=0.5, shared_times=True)
    times = pl.Series("time", range(0, 40, 5), dtype=pl.Int64)
    queries = split.query_frame(pl.Series("user_id", range(30)), times, 10)
    assert sorted(queries["time"].unique()) == [0, 5, 10, 15, 20, 25, 30]
    by_part = queries.group_by("part").agg(pl.col("time").n_unique())
    assert by_part["time"].to_list() == [7] * by_part.height
    labelled = queries.with_columns(label=pl.lit(1.0))
    with pytest.raises(ValueError, match="or say shared_times=True"):
        DownstreamTask(name="toy", kind="binary", queries=labelled, horizon=10)
    task = DownstreamTask(name="toy", kind="binary", queries=labelled, horizon=10, shared_times=True)
    assert task.label_start["test"] == task.label_start["train"] == 0


def test_strings_name_users_too():
    drawn = parts(SPLIT, pl.Series(["u1", "u0", "u1", "ü"]))
    assert set(drawn) == {"u0", "u1", "ü"}
    assert drawn == parts(SPLIT, pl.Series(["ü", "u0", "u1"]))
    many = list(parts(SPLIT, pl.Series([f"u{i}" for i in range(20_000)])).values())
    share = {part: many.count(part) / 20_000 for part in SPLIT_PARTS}
    assert share == pytest.approx({"train": 0.5, "validation": 0.2, "test": 0.3}, abs=0.012)
    with pytest.raises(ValueError, match="must be whole numbers or strings, got Float64"):
        parts(SPLIT, pl.Series([1.5]))
    with pytest.raises(ValueError, match="1 user_id are null, the first in row 0"):
        parts(SPLIT, pl.Series([3, None]))
    with pytest.raises(ValueError, match="below 2\\^63"):
        parts(SPLIT, pl.Series([2**64 - 1], dtype=pl.UInt64))
