"""Category preference: labels against a slow loop, nothing from after the window, what is refused."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_builders.datasets.downstream_tasks import UserTimeSplit
from graph_builders.datasets.preference_tasks import category_preference_tasks

SPLIT = UserTimeSplit(start=10, test_start=40, end=60, validation_share=0.2, test_share=0.4)
TIMES = pl.Series([10, 15, 20, 40, 45, 50])
HORIZON = 10
CATEGORIES = pl.DataFrame({"item_id": [0, 1, 2, 3], "category": [["a"], ["a", "b"], [], None]})
# one event of each category by a user of its own, which no label needs
SOME = [(99, 1, 0)]


def frame(rows):
    return pl.DataFrame(
        rows, schema={"user_id": pl.Int64, "item_id": pl.Int64, "time": pl.Int64}, orient="row"
    )


def tasks_of(rows, **options):
    given = {"split": SPLIT, "times": TIMES, "horizon": HORIZON, **options}
    return category_preference_tasks(frame(rows), CATEGORIES, ["b", "a"], **given)


rows_of = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(0, 60)), max_size=25)


@settings(max_examples=40)
@given(rows_of)
def test_labels_are_those_of_a_slow_loop(rows):
    rows = [*SOME, *rows]
    tasks = tasks_of(rows)
    assert [task.name for task in tasks] == ["preference: b", "preference: a"]
    parts = dict(SPLIT.user_parts(frame(rows)["user_id"]).iter_rows())
    items = {"a": {0, 1}, "b": {1}}
    for task in tasks:
        category = task.name[-1]
        expected = []
        for time in sorted(TIMES):
            for user in sorted(parts):
                start, end = SPLIT.window(parts[user])
                if start <= time <= end - HORIZON and any(u == user and t < time for u, _, t in rows):
                    met = [t for u, i, t in rows if u == user and i in items[category] and t >= time]
                    first = min(met, default=10**9)
                    label, at = (1.0, first) if first < time + HORIZON else (0.0, None)
                    expected.append((user, time, parts[user], label, at))
        assert task.queries.rows() == expected
        assert (task.kind, task.horizon) == ("binary", HORIZON)


def test_what_lies_behind_the_windows_has_no_effect():
    rows = [*SOME, *((user, user % 4, time) for user in range(10) for time in (5, 22, 47))]
    before, after = tasks_of(rows), tasks_of([*rows, (3, 1, 60), (4, 0, 75)])
    for one, other in zip(before, after, strict=True):
        assert one.queries.equals(other.queries)
    assert before[1].queries["label"].sum() > 0


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(ValueError, match=r"\['c'\] are not met"):
        category_preference_tasks(frame(SOME), CATEGORIES, ["a", "c"], split=SPLIT, times=TIMES, horizon=5)
    for categories in ([], ["a", "a"]):
        with pytest.raises(ValueError, match="categories must be one or more, distinct"):
            category_preference_tasks(
                frame(SOME), CATEGORIES, categories, split=SPLIT, times=TIMES, horizon=5
            )
    with pytest.raises(ValueError, match="horizon must be above 0, got 0"):
        tasks_of(SOME, horizon=0)
    with pytest.raises(ValueError, match=r"horizon must lie in \[0, 20\]"):
        tasks_of(SOME, horizon=21)
    with pytest.raises(ValueError, match=r"events has no columns \['time'\]"):
        category_preference_tasks(
            frame(SOME).drop("time"), CATEGORIES, ["a"], split=SPLIT, times=TIMES, horizon=5
        )
