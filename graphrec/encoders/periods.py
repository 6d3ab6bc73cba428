"""Periods of local time, numbered: calendar months, seasons and years, or any length."""

from typing import Literal

from jaxtyping import Int64
from torch import Tensor

from graphrec.encoders.local_clock import DAY_SECONDS

Scale = Literal["month", "season", "year"] | int
"""A calendar's period, or a length in seconds. A season is three months: January to March is the first."""

_MONTHS = {"month": 1, "season": 3, "year": 12}
_DAYS_OF_400_YEARS = 146_097
_DAYS_TO_MARCH_OF_YEAR_0 = 719_468


def check_scale(scale: object) -> None:
    """Raise ``ValueError`` unless it is a calendar's period or at least a second."""
    if isinstance(scale, str):
        is_scale = scale in _MONTHS
    else:
        is_scale = isinstance(scale, int) and not isinstance(scale, bool) and scale >= 1
    if not is_scale:
        raise ValueError(
            f"a scale is {', '.join(map(repr, _MONTHS))} or a whole number of seconds above 0, got {scale!r}"
        )


def period_of(local_seconds: Int64[Tensor, " num_times"], scale: Scale) -> Int64[Tensor, " num_times"]:
    """Return the number of each time's period; period 0 begins at 1970-01-01 00:00 on the wall.

    Args:
        local_seconds: what the clock on the wall shows, see ``LocalClock.local_seconds``.
        scale: of the periods.

    """
    if isinstance(scale, int):
        return local_seconds.div(scale, rounding_mode="floor")
    month = month_of(local_seconds.div(DAY_SECONDS, rounding_mode="floor"))
    return month.div(_MONTHS[scale], rounding_mode="floor")


def month_of(day: Int64[Tensor, " num_days"]) -> Int64[Tensor, " num_days"]:
    """Return the calendar month of each day since 1970-01-01, as months since January 1970 (Gregorian).

    Years are counted from March on, so that the day that leap years add is the last of a year: then 400 years
    have a fixed length, and the months' lengths repeat every five months, 153 days.
    """
    shifted = day + _DAYS_TO_MARCH_OF_YEAR_0
    era = shifted.div(_DAYS_OF_400_YEARS, rounding_mode="floor")
    day_of_era = shifted - era * _DAYS_OF_400_YEARS
    # the days that leap years have added up to then, taken away
    leap = day_of_era // 1460 - day_of_era // 36_524 + day_of_era // (_DAYS_OF_400_YEARS - 1)
    year = (day_of_era - leap) // 365
    day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    month = (5 * day_of_year + 2) // 153  # 0 is March
    return (era * 400 + year - 1970) * 12 + month + 2
