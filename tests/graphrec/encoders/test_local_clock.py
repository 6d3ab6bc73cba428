"""Local days and hours against the standard library's zones, most of all where clocks are turned."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphrec.encoders.local_clock import LocalClock

ZONES = (
    "America/New_York",
    "Asia/Shanghai",
    "Asia/Kathmandu",  # +05:45
    "Australia/Lord_Howe",  # turned by half an hour
    "Europe/Helsinki",  # set back from 4 AM to 3 AM
    "Pacific/Apia",  # left out the day 2011-12-30
    "UTC",
)
CLOCKS = {zone: LocalClock.of_zone(zone) for zone in ZONES}


def wall(zone, time):
    return datetime.fromtimestamp(time, ZoneInfo(zone)).replace(tzinfo=None)


def slow_day(zone, time):
    return ((wall(zone, time) - timedelta(hours=4)).date() - date(1970, 1, 1)).days


def at(*parts):
    return int(datetime(*parts, tzinfo=UTC).timestamp())


@st.composite
def times(draw, zone):
    """Anywhere from 1990 to 2037, or near a turn of the clocks."""
    changes = CLOCKS[zone].changes
    changes = changes[(changes > at(1990, 1, 2)) & (changes < at(2037, 1, 1))].tolist()
    anywhere = st.integers(at(1990, 1, 1), at(2037, 1, 1))
    if not changes:
        return draw(anywhere)
    near = st.builds(int.__add__, st.sampled_from(changes), st.integers(-30 * 3600, 30 * 3600))
    return draw(st.one_of(near, anywhere))


@given(data=st.data(), zone=st.sampled_from(ZONES))
def test_days_and_hours_are_those_of_the_wall(data, zone):
    drawn = data.draw(st.lists(times(zone), min_size=1, max_size=20))
    clock = CLOCKS[zone]
    time = torch.tensor(drawn)
    assert clock.day(time).tolist() == [slow_day(zone, t) for t in drawn]
    assert clock.hour(time).tolist() == [wall(zone, t).hour for t in drawn]
    milliseconds = time * 1000 + torch.arange(len(drawn)) * 37 % 1000
    assert torch.equal(clock.day(milliseconds, 1000), clock.day(time))
    assert torch.equal(clock.hour(milliseconds, 1000), clock.hour(time))


@pytest.mark.parametrize("zone", ZONES)
def test_days_never_fall_and_are_about_a_day_long(zone):
    """Every half hour of 47 years."""
    time = torch.arange(at(1990, 1, 1), at(2037, 1, 1), 1800)
    day = CLOCKS[zone].day(time)
    assert bool((day.diff() >= 0).all())
    length = torch.unique_consecutive(day, return_counts=True)[1][1:-1]
    # in Apia the day that began on 2011-12-29 ended at midnight, and the next one four hours later
    assert set(length.tolist()) <= ({40, 8} if zone == "Pacific/Apia" else set()) | {46, 47, 48, 49, 50}


def test_the_days_of_new_york_when_clocks_are_turned():
    """2017-03-12: 2 AM EST becomes 3 AM EDT, 23 hours; 2017-11-05: 2 AM EDT becomes 1 AM EST, 25 hours."""
    clock = CLOCKS["America/New_York"]
    first = (date(2017, 3, 11) - date(1970, 1, 1)).days
    time = torch.tensor([at(2017, 3, 11, 8, 59, 59), at(2017, 3, 11, 9), at(2017, 3, 12, 7, 59, 59)])
    assert clock.day(time).tolist() == [first - 1, first, first]
    assert clock.hour(time).tolist() == [3, 4, 3]
    assert clock.day(torch.tensor([at(2017, 3, 12, 8)])).tolist() == [first + 1]  # 4 AM EDT, 23 hours later
    first = (date(2017, 11, 4) - date(1970, 1, 1)).days
    time = torch.tensor(
        [at(2017, 11, 4, 8), at(2017, 11, 5, 5, 30), at(2017, 11, 5, 6, 30), at(2017, 11, 5, 8, 59)]
    )
    assert clock.day(time).tolist() == [first] * 4
    assert clock.hour(time).tolist() == [4, 1, 1, 3]
    assert clock.day(torch.tensor([at(2017, 11, 5, 9)])).tolist() == [first + 1]  # 25 hours later


def test_shifts_without_a_zone_and_unknown_zones():
    clock = LocalClock.of_zone("-03:30")
    assert clock.hour(torch.tensor([0, 1800])).tolist() == [20, 21]
    assert clock.widest_turn == 0
    assert CLOCKS["Pacific/Apia"].widest_turn == 25 * 3600  # from -11 to +14
    for name in ("Moon/Crater", ""):
        with pytest.raises(ValueError, match=r"time zone .* is unknown: take an IANA name"):
            LocalClock.of_zone(name)
