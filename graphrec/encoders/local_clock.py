"""Local days and hours of event times in a time zone that turns its clocks, on any device."""

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

DAY_SECONDS = 86_400
HOUR_SECONDS = 3_600
DAY_STARTS_AT = 4  # o'clock: in all zones of 1990 to 2100 clocks that are set back never pass it twice


@dataclass(frozen=True, eq=False)
class LocalClock:
    """When a zone's shift from UTC changes, and what it is in between, in seconds; from 1990 to 2100.

    Earlier and later times have the first and the last shift.

    Attributes:
        changes: unix times of the changes.
        shifts: local time minus UTC, before the first change and from each on.

    """

    changes: Int64[Tensor, " num_changes"]
    shifts: Int64[Tensor, " num_changes_and_one"]

    @classmethod
    def of_zone(cls, name: str) -> "LocalClock":
        """Look a zone up by its IANA name, such as America/New_York, or a shift, such as +08:00.

        Raises:
            ValueError: there is no such zone.

        """
        # imported late: it loads all of the evaluation
        from graphrec.evaluation.reading.errors import PredictionsError
        from graphrec.evaluation.reading.local_time import Zone

        try:
            zone = Zone(name)
        except (PredictionsError, TypeError, AttributeError) as error:  # the latter ones of no string
            raise ValueError(
                f"time zone {name!r} is unknown: take an IANA name such as America/New_York, or a shift such "
                "as +08:00"
            ) from error
        return cls(torch.from_numpy(zone.changes // 1000), torch.from_numpy(zone.shifts // 1000))

    @property
    def widest_turn(self) -> int:
        """Seconds between the least and the greatest shift."""
        return int(self.shifts.max() - self.shifts.min())

    def local_seconds(
        self, time: Int64[Tensor, " num_times"], units_per_second: int = 1
    ) -> Int64[Tensor, " num_times"]:
        """Return what the clock on the wall shows, as seconds since 1970-01-01 00:00 of that clock."""
        seconds = time.div(units_per_second, rounding_mode="floor")
        if not len(seconds):
            return seconds
        # a search among the few changes that lie between the times is faster than among all
        first, last = torch.bucketize(torch.stack(seconds.aminmax()).cpu(), self.changes, right=True).tolist()
        place = torch.bucketize(seconds, self.changes[first:last].to(time.device), right=True)
        return seconds + self.shifts[first : last + 1].to(time.device)[place]

    def day(
        self, time: Int64[Tensor, " num_times"], units_per_second: int = 1
    ) -> Int64[Tensor, " num_times"]:
        """Return the number of the day, which begins at 4 AM: 0 is 1970-01-01. It never falls with time."""
        local = self.local_seconds(time, units_per_second) - DAY_STARTS_AT * HOUR_SECONDS
        return local.div(DAY_SECONDS, rounding_mode="floor")

    def hour(
        self, time: Int64[Tensor, " num_times"], units_per_second: int = 1
    ) -> Int64[Tensor, " num_times"]:
        """Return the hour of day, 0 to 23."""
        local = self.local_seconds(time, units_per_second)
        return local.div(HOUR_SECONDS, rounding_mode="floor").remainder(24)
