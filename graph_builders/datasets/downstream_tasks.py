"""Tasks for pre-trained encoders: labelled queries (user, time), split by users and by time at once.

Representations of users are compared by what they say about users that no training saw, at times that no
training reached. A query at time t may read what was known before t; its label lies in [t, t + horizon).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import polars as pl
import torch

from samplers.random_numbers import keyed_uniform

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
PART_TYPE = pl.Enum(PARTS)


@dataclass(frozen=True, kw_only=True)
class UserTimeSplit:
    """Which users and which times are for training, validation and test.

    Every user has one part for good, by a draw that depends on ``random_seed`` and the user alone. Training
    and validation share the time ``[start, test_start)``, the test has ``[test_start, end)``: a query at t
    belongs to its user's part if ``[t, t + horizon)`` lies inside that part's time, and else to none. So no
    label of a training or validation query reaches the first test query, and no user is in two parts.

    Attributes:
        start: the earliest query time: what lies before is history alone.
        test_start: the earliest query time of the test.
        end: where the log ends: a label window may not go beyond it.
        validation_share: of the users, expected.
        test_share: of the users, expected.
        random_seed: of the draw.

    """

    start: int
    test_start: int
    end: int
    validation_share: float = 0.1
    test_share: float = 0.2
    random_seed: int = 0

    def __post_init__(self) -> None:
        if not self.start < self.test_start < self.end:
            raise ValueError(
                f"start, test_start and end must rise, got {self.start}, {self.test_start}, {self.end}"
            )
        shares = (self.validation_share, self.test_share)
        if min(shares) < 0 or sum(shares) >= 1:
            raise ValueError(f"the shares of validation and test must leave users to train on, got {shares}")

    def window(self, part: Part) -> tuple[int, int]:
        """Return the bounds, half-open, within which the part's label windows lie."""
        return (self.test_start, self.end) if part == "test" else (self.start, self.test_start)

    def user_parts(self, user_id: pl.Series) -> pl.DataFrame:
        """Return each distinct user of ``user_id`` (whole numbers) and ``part``, by user."""
        users = user_id.unique().sort().alias("user_id")
        number = torch.from_numpy(users.cast(pl.Int64).to_numpy().copy())
        draw = pl.Series(keyed_uniform(self.random_seed, "part", number).numpy())
        part = (
            pl.when(pl.col("draw") < self.test_share)
            .then(pl.lit("test"))
            .when(pl.col("draw") < self.test_share + self.validation_share)
            .then(pl.lit("validation"))
            .otherwise(pl.lit("train"))
        )
        return pl.DataFrame({"user_id": users, "draw": draw}).select("user_id", part=part.cast(PART_TYPE))

    def query_frame(self, user_id: pl.Series, times: pl.Series, horizon: int) -> pl.DataFrame:
        """Return ``user_id``, ``time``, ``part`` of every user at every time that the rule above allows.

        Args:
            user_id: users, whole numbers.
            times: candidates for query times, int64.
            horizon: length of a label window, 0 or more, in the unit of the times.

        Raises:
            ValueError: ``horizon`` is negative, or longer than the time of the test or of the training.

        """
        shortest = min(self.test_start - self.start, self.end - self.test_start)
        if not 0 <= horizon <= shortest:
            raise ValueError(f"horizon must lie in [0, {shortest}], the shorter of both times, got {horizon}")
        places = [
            times.to_frame("time")
            .filter(pl.col("time").is_between(start, end - horizon), pl.col("time") < end)
            .with_columns(part=pl.lit(part, PART_TYPE))
            for part in PARTS
            for start, end in (self.window(part),)
        ]
        pairs = self.user_parts(user_id).join(pl.concat(places).unique(), on="part")
        return pairs.select("user_id", "time", "part").sort("time", "user_id")


@dataclass(frozen=True, kw_only=True, eq=False)
class DownstreamTask:
    """Labelled queries of one task.

    Attributes:
        name: what reports call the task.
        kind: "binary": the label is 0 or 1; "set": it is a list of categories, without order.
        queries: ``user_id``, ``time`` of the query, ``part`` ("train", "validation", "test"), ``label``
            (Float32, or a list of strings, sorted) and ``label_time``: when the labelled thing happened, null
            where it did not or has no time. One row for a user and time, sorted by time, then user.
        horizon: a label lies in ``[time, time + horizon)``; 0 where labels have no time.
        forbidden_fields: fields of users that may be no input, since they are the label or tell it.
        notes: what was left out, counted or chosen: print it beside results.

    """

    name: str
    kind: Literal["binary", "set"]
    queries: pl.DataFrame
    horizon: int
    forbidden_fields: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def label_start(self) -> Mapping[str, int]:
        """Where the earliest label window of each part begins; parts without queries are left out."""
        earliest = self.queries.group_by("part").agg(pl.col("time").min()).sort("part")
        return {str(part): int(time) for part, time in earliest.iter_rows()}

    def part(self, part: Part) -> pl.DataFrame:
        """Return the queries of a part.

        Raises:
            ValueError: there is none.

        """
        rows = self.queries.filter(pl.col("part") == pl.lit(part, PART_TYPE))
        if rows.is_empty():
            raise ValueError(
                f"task {self.name!r} has no {part} queries: give it more users, or a longer time"
            )
        return rows

    def check_before(self, fit_until: int, part: Part = "test") -> None:
        """Raise if something was fitted on data that a label window of the part may share.

        Args:
            fit_until: everything that was looked at was known before this time.
            part: whose labels it is to be used for.

        Raises:
            ValueError: the earliest label window begins before ``fit_until``, or the part has no queries.

        """
        start = int(self.part(part)["time"][0])
        if fit_until > start:
            raise ValueError(
                f"fitted on data until {fit_until}, but the {part} labels of {self.name!r} begin at {start}: "
                "fit on what was known before"
            )
