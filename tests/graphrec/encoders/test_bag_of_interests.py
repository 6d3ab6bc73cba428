"""Bags of interests against a slow count; months, years and other periods; lives of any length."""

import math
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphrec.encoders import bag_of_interests as module
from graphrec.encoders.bag_of_interests import InterestCounter, concatenate_bags, life_matrix
from graphrec.encoders.interests import ItemInterests
from graphrec.encoders.local_clock import LocalClock
from graphrec.encoders.periods import check_scale, month_of, period_of
from samplers import EventHistory

NEW_YORK = LocalClock.of_zone("America/New_York")
FIRST = int(datetime(2018, 11, 2, 12, tzinfo=UTC).timestamp())
HARD = ItemInterests(
    interest=torch.tensor([[0], [3], [0], [-1], [2]]), weight=torch.ones(5, 1), num_interests=4, fit_until=0
)
SOFT = ItemInterests(
    interest=torch.tensor([[0, 1], [3, 0], [0, 2], [-1, -1], [2, 1]]),
    weight=torch.tensor([[0.75, 0.25], [0.5, 0.5], [1.0, 0.0], [0.0, 0.0], [0.625, 0.375]]),
    num_interests=4,
    fit_until=0,
)


def history(lives):
    """Lives of (item, time) as a sampler returns them."""
    ptr = torch.tensor([0, *(len(life) for life in lives)]).cumsum(0)
    flat = [event for life in lives for event in sorted(life, key=lambda event: event[1])]
    columns = torch.tensor(flat, dtype=torch.int64).view(-1, 2)
    return EventHistory(ptr, columns[:, 0], columns[:, 1], torch.arange(len(flat)))


def counter(items=HARD, scales=("month", "year"), clock=NEW_YORK):
    return InterestCounter(items=items, clock=clock, scales=scales)


def local(time, zone="America/New_York"):
    return datetime.fromtimestamp(time, ZoneInfo(zone))


def slow_period(time, scale):
    moment = local(time)
    if isinstance(scale, int):
        wall = moment.replace(tzinfo=None) - datetime(1970, 1, 1)
        return (wall.days * 86_400 + wall.seconds) // scale
    month = (moment.year - 1970) * 12 + moment.month - 1
    return {"month": month, "season": month // 3, "year": month // 12}[scale]


def slow_bags(lives, items, scale):
    """Query, period, interest and count, from the definition."""
    total = Counter()
    for query, life in enumerate(lives):
        for item, time in life:
            for interest, weight in zip(
                items.interest[item].tolist(), items.weight[item].tolist(), strict=True
            ):
                if interest >= 0:
                    total[query, slow_period(time, scale), interest] += weight
    return total


def bags_of(bag, scale):
    found = bag.periods(scale)
    query = torch.arange(len(bag)).repeat_interleave(found.ptr.diff())[found.row]
    columns = (query, found.period[found.row], found.interest)
    keys = list(zip(*(column.tolist() for column in columns), strict=True))
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, found.count.tolist(), strict=True))


lives_of = st.lists(
    st.lists(st.tuples(st.integers(0, 4), st.integers(FIRST, FIRST + 900 * 86_400)), max_size=8), max_size=4
)


@settings(max_examples=60)
@given(
    lives_of, st.sampled_from([HARD, SOFT]), st.sampled_from([("month", "year"), ("season", 604_800, "year")])
)
def test_every_event_is_counted_in_one_period_of_each_scale(lives, items, scales):
    time = torch.full((len(lives),), FIRST + 901 * 86_400)
    bag = counter(items, scales).count(history(lives), time)
    assert len(bag) == len(lives)
    for number, scale in enumerate(scales):
        found, expected = bags_of(bag, number), slow_bags(lives, items, scale)
        assert set(found) == set(expected)
        for key, count in expected.items():
            assert math.isclose(found[key], count, rel_tol=1e-6)
        # the periods of a query are all those from its first event to its time
        rows = bag.periods(number)
        for query, life in enumerate(lives):
            periods = rows.period[rows.ptr[query] : rows.ptr[query + 1]].tolist()
            counted = [slow_period(t, scale) for item, t in life if items.interest[item][0] >= 0]
            last = slow_period(FIRST + 901 * 86_400 - 1, scale)
            assert periods == (list(range(min(counted), last + 1)) if counted else [])


@settings(max_examples=25)
@given(lives_of.filter(any))
def test_pieces_change_nothing(lives):
    time = torch.full((len(lives),), FIRST + 901 * 86_400)
    whole = counter(SOFT).count(history(lives), time)
    before, module.MAX_EVENTS = module.MAX_EVENTS, 3
    try:
        parts = counter(SOFT).count(history(lives), time)
    finally:
        module.MAX_EVENTS = before
    for name, value in vars(whole).items():
        assert torch.equal(getattr(parts, name), value) if isinstance(value, torch.Tensor) else True
    single = [counter(SOFT).count(history([life]), time[:1]) for life in lives]
    joined = concatenate_bags(single)
    backwards = torch.arange(len(lives)).flip(0)
    for other in (joined, concatenate_bags(single[::-1]).take(backwards)):
        for name in ("query_ptr", "period", "cell_ptr", "interest", "count", "last_period"):
            assert torch.equal(getattr(other, name), getattr(whole, name)), name


def test_the_formula():
    day = int(datetime(2020, 2, 3, 12, tzinfo=UTC).timestamp())
    life = [(0, day), (2, day + 60), (1, day + 120), (4, day + 40 * 86_400)]
    bag = counter().count(history([life]), torch.tensor([day + 50 * 86_400]))
    months = bag.periods(0)
    assert months.period.tolist() == [50 * 12 + 1, 50 * 12 + 2]  # February and March of 2020
    assert (months.row.tolist(), months.interest.tolist()) == ([0, 0, 1], [0, 3, 2])
    expected = [math.log(1 + 2), math.log(1 + 1), math.log(1 + 1)]
    torch.testing.assert_close(months.value, torch.tensor(expected))
    matrix = life_matrix(bag)
    assert matrix.shape == (1, 4)
    assert matrix.toarray()[0].tolist() == pytest.approx([math.log(3), 0.0, math.log(2), math.log(2)])


def test_calendar_months_are_those_of_the_calendar():
    first = date(1899, 12, 1)
    days = [first + timedelta(number) for number in range(0, 90_000, 3)] + [
        date(2000, 2, 29),
        date(2100, 3, 1),
    ]
    number = torch.tensor([(day - date(1970, 1, 1)).days for day in days])
    expected = [(day.year - 1970) * 12 + day.month - 1 for day in days]
    assert month_of(number).tolist() == expected
    seconds = torch.tensor([-1, 0, 59, 60, 86_400 * 365])
    assert period_of(seconds, 60).tolist() == [-1, 0, 0, 1, 525_600]
    assert period_of(seconds, "season").tolist() == [-1, 0, 0, 0, 4]
    assert period_of(seconds, "year").tolist() == [-1, 0, 0, 0, 1]


def test_clocks_that_are_set_back_hide_no_event():
    # 2020-11-01: 01:59:50 of summer time is followed by 01:00:00
    turn = int(datetime(2020, 11, 1, 6, tzinfo=UTC).timestamp())
    life = [(0, turn - 10), (0, turn), (1, turn + 10)]
    bag = counter(scales=(60,)).count(history([life]), torch.tensor([turn + 20]))
    assert bags_of(bag, 0) == slow_bags([life], HARD, 60)


def test_parts_of_lives():
    month = 31 * 86_400
    lives = [[(0, FIRST + number * month), (4, FIRST + number * month + 60)] for number in range(5)]
    life = [event for events in lives for event in events]
    bag = counter().count(history([[], life]), torch.full((2,), FIRST + 200 * 86_400))
    assert bag.num_cells.tolist() == [0, 5]
    part = bag.sub_lives(torch.tensor([1, 1]), torch.tensor([1, 0]), torch.tensor([3, 5]))
    assert bags_of(part.take(torch.tensor([0])), 0) == slow_bags([life[2:6]], HARD, "month")
    assert bags_of(part, 1).keys() == {
        (0, 49, 0),
        (0, 49, 2),
        (0, 48, 0),
        (0, 48, 2),
        (1, 48, 0),
        (1, 48, 2),
        (1, 49, 0),
        (1, 49, 2),
    }
    assert part.periods(0).ptr.diff().tolist() == [2, 5]  # a part ends with its last event
    assert bag.periods(0).ptr.diff().tolist() == [0, 7]  # a life with its query
    for first, stop in ((2, 2), (0, 6), (-1, 2)):
        with pytest.raises(ValueError, match="must lie within it"):
            bag.sub_lives(torch.tensor([1]), torch.tensor([first]), torch.tensor([stop]))


def test_a_million_events_of_one_user_are_counted_piece_by_piece(monkeypatch):
    num_events, num_interests = 1_000_000, 200
    generator = torch.Generator().manual_seed(0)
    time = FIRST + torch.randint(900 * 86_400, (num_events,), generator=generator).sort().values
    item = torch.randint(1000, (num_events,), generator=generator)
    items = ItemInterests(
        interest=torch.arange(1000)[:, None] % num_interests,
        weight=torch.ones(1000, 1),
        num_interests=num_interests,
        fit_until=0,
    )
    events = EventHistory(torch.tensor([0, num_events]), item, time, torch.arange(num_events))
    largest = []
    add_up = module._add_up

    def spy(key, count):
        largest.append(len(key))
        return add_up(key, count)

    monkeypatch.setattr(module, "_add_up", spy)
    bag = counter(items).count(events, time[-1:] + 1)
    # what is sorted at once is a piece and what was kept before: 30 months of 200 interests
    num_months = len(bag.period)
    assert 29 <= num_months <= 31
    assert max(largest) <= module.MAX_EVENTS + num_months * num_interests
    assert len(bag.interest) <= num_months * num_interests
    assert bag.num_bytes <= 12 * num_months * num_interests + 100 * num_months
    assert int(bag.count.sum()) == num_events
    assert torch.equal(bag.life()[2], torch.bincount(item % num_interests).float())


def test_what_cannot_be_counted_is_refused():
    events = history([[(4, FIRST)]])
    time = torch.tensor([FIRST + 10])
    few = ItemInterests(
        interest=torch.zeros(2, 1).long(), weight=torch.ones(2, 1), num_interests=1, fit_until=0
    )
    with pytest.raises(ValueError, match=r"item row 4, interests are known for 2 rows"):
        counter(few).count(events, time)
    with pytest.raises(ValueError, match="1 lives and 2 times"):
        counter().count(events, time.repeat(2))
    with pytest.raises(ValueError, match="1 lives and 0 times"):
        counter().count(events, time[:0])
    two = history([[(4, FIRST)], [(4, FIRST), (0, FIRST + 10)]])
    with pytest.raises(
        ValueError, match=f"of time {FIRST + 10} is in the life of query 1, which is asked at"
    ):
        counter().count(two, time.repeat(2))
    with pytest.raises(ValueError, match="units_per_second must be a whole number of at least 1, got 0"):
        counter().count(events, time, units_per_second=0)
    with pytest.raises(ValueError, match="needs scales, each once"):
        counter(scales=("month", "month"))
    with pytest.raises(ValueError, match="needs a tuple of scales"):
        counter(scales=())
    for scales in (["month", "year"], "month"):
        wrong = counter()
        object.__setattr__(wrong, "scales", scales)  # the checks of annotations refuse it here before ours do
        with pytest.raises(ValueError, match="needs a tuple of scales"):
            wrong.__post_init__()
    for scale in ("week", 0, True, [], None, 1.5):
        with pytest.raises(ValueError, match="a scale is 'month', 'season', 'year' or a whole number"):
            check_scale(scale)
    bag = counter(scales=(1,)).count(events, torch.tensor([FIRST + 20_000]))
    with pytest.raises(ValueError, match="query 0 has 20000 periods of 1, at most 10000"):
        bag.periods(0)
    fine = (1, 2, 3)
    long = history([[(0, FIRST), (0, FIRST + 900 * 86_400)]])
    with pytest.raises(ValueError, match="too many to number"):
        counter(scales=fine).count(long, time + 10**9)
    with pytest.raises(ValueError, match="at least one bag"):
        concatenate_bags([])
    with pytest.raises(ValueError, match="same scales and number of interests"):
        concatenate_bags([bag, counter().count(events, time)])
