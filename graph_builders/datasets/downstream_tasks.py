"""Tasks for pre-trained encoders: labelled queries (user, time), split by users and by time at once.

Representations of users are compared by what they say about users that no training saw, at times that no
training reached. A query at time t may read what was known before t; its label lies in [t, t + horizon).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import polars as pl
import torch
from jaxtyping import Int64
from torch import Tensor

from samplers.random_numbers import keyed_uniform

Kind = Literal["binary", "set"]
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
        shared_times: whether training and validation users are asked at the test's times too, as a split by
            users alone has it. Their labels then reach into the time of the test queries: what is fitted
            knows what the season brings.

    """

    start: int
    test_start: int
    end: int
    validation_share: float = 0.1
    test_share: float = 0.2
    random_seed: int = 0
    shared_times: bool = False

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
        if self.shared_times:
            return self.start, self.end
        return (self.test_start, self.end) if part == "test" else (self.start, self.test_start)

    def user_parts(self, user_id: pl.Series) -> pl.DataFrame:
        """Return each distinct user of ``user_id`` (whole numbers or strings) and ``part``, by user.

        Raises:
            ValueError: as :func:`user_numbers`.

        """
        users = user_id.unique().sort().alias("user_id")
        number = user_numbers(users)
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
            user_id: users, whole numbers or strings.
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


def user_numbers(user_id: pl.Series) -> Int64[Tensor, " num_users"]:
    """Return a number of each user for draws: whole numbers as they are, of strings 63 bits of BLAKE2b.

    Raises:
        ValueError: users are something else, a number is beyond int64, or one is null.

    """
    if user_id.null_count():
        raise ValueError(
            f"{user_id.null_count()} user_id are null, the first in row {_first(user_id.is_null())}: leave "
            "these rows out"
        )
    if user_id.dtype.is_integer():
        try:
            return torch.from_numpy(user_id.cast(pl.Int64).to_numpy().copy())
        except pl.exceptions.InvalidOperationError as error:
            raise ValueError(
                f"user_id must lie below 2^63, got {user_id.max()!r}: give them as strings"
            ) from error
    if user_id.dtype != pl.String:
        raise ValueError(f"user_id must be whole numbers or strings, got {user_id.dtype}: cast them")
    users = user_id.unique()
    number = [
        int.from_bytes(hashlib.blake2b(user.encode(), digest_size=8).digest(), "little") >> 1
        for user in users.to_list()
    ]
    return torch.from_numpy(user_id.replace_strict(users, number, return_dtype=pl.Int64).to_numpy().copy())


@dataclass(frozen=True, kw_only=True, eq=False)
class DownstreamTask:
    """Labelled queries of one task.

    Attributes:
        name: what reports call the task.
        kind: "binary": the label is 0 or 1; "set": it is a list of categories, without order.
        queries: ``user_id`` (whole numbers or strings), ``time`` of the query, ``part`` (``PART_TYPE``:
            "train", "validation", "test"), ``label`` and, where it is known, ``label_time``: when the
            labelled thing happened, null where it did not or has no time. A binary label is a number or a
            Boolean, null or NaN where there is none; a set a list of strings. One row for a user and time, in
            any order; the library's own tasks are sorted by time, then user.
        horizon: a label lies in ``[time, time + horizon)``; 0 where labels have no time.
        forbidden_fields: fields of users that may be no input, since they are the label or tell it.
        notes: what was left out, counted or chosen: print it beside results.
        shared_times: as its split has it: labels of training may reach past the first test query.

    Raises:
        ValueError: an unknown kind, a negative horizon, a column that is missing or of a wrong type, a label
            that is none of the kind's, a user and time twice, a user in two parts, or a label window of
            training or validation that reaches past the first test query without ``shared_times``.

    """

    name: str
    kind: Kind
    queries: pl.DataFrame
    horizon: int
    forbidden_fields: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    shared_times: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"{self._who} must be of kind {list(get_args(Kind))}, got {self.kind!r}")
        if self.horizon < 0:
            raise ValueError(
                f"{self._who} needs a horizon of 0 or more, in the unit of the times, got {self.horizon}"
            )
        self._check_columns()
        self._check_labels()
        self._check_parts()

    @property
    def _who(self) -> str:
        return f"task {self.name!r}"

    def _check_columns(self) -> None:
        wanted = ("user_id", "time", "part", "label")
        missing = [name for name in wanted if name not in self.queries.columns]
        if missing:
            raise ValueError(
                f"the queries of {self._who} lack {missing}, they have {self.queries.columns}: add them"
            )
        types = self.queries.schema
        if not types["time"].is_integer() or self.queries["time"].null_count():
            raise ValueError(
                f"the time of the queries of {self._who} must be whole numbers in the unit of the log, "
                f"without null, got {types['time']}: convert it"
            )
        if types["part"] != PART_TYPE or self.queries["part"].null_count():
            raise ValueError(
                f"the part of the queries of {self._who} must be of PART_TYPE, without null, got "
                f"{types['part']}: take UserTimeSplit's, or cast it: pl.col('part').cast(PART_TYPE)"
            )
        users = types["user_id"]
        if not (users.is_integer() or users == pl.String) or self.queries["user_id"].null_count():
            raise ValueError(
                f"user_id of {self._who} must be whole numbers or strings, without null, got {users}: cast it"
            )

    def _check_labels(self) -> None:
        label = self.queries["label"]
        if self.kind == "set":
            inner = label.dtype.inner if isinstance(label.dtype, pl.List) else None
            if inner is None or not (inner in (pl.String, pl.Null, pl.Categorical) or inner == pl.Enum):
                raise ValueError(
                    f"a label of {self._who} is a set: a list of strings, got {label.dtype}; of one class "
                    "make a list of one, pl.concat_list(pl.col('label'))"
                )
            return
        if not (label.dtype.is_numeric() or label.dtype in (pl.Boolean, pl.Null)):
            raise ValueError(
                f"a label of {self._who} is binary: a number or a Boolean, got {label.dtype}; cast it, or "
                'take kind="set" for lists of strings'
            )
        value = label.cast(pl.Float64)
        wrong = ~(value.is_in([0.0, 1.0]) | value.is_null() | value.is_nan()).fill_null(True)
        if wrong.any():
            row = _first(wrong)
            raise ValueError(
                f"a binary label of {self._who} is 0, 1, or none (null, NaN), got {value[row]:g} in row "
                f"{row}: make one task for each class, or of sets"
            )

    def _check_parts(self) -> None:
        pairs = self.queries.select("user_id", "time")
        twice = pairs.is_duplicated()
        if twice.any():
            user, time = pairs.row(_first(twice))
            raise ValueError(f"{self._who} asks user {user!r} at time {time} in more than one row: leave one")
        users = self.queries.select("user_id", "part").unique()
        several = users["user_id"].is_duplicated()
        if several.any():
            raise ValueError(
                f"{users.filter(several)['user_id'].n_unique()} users of {self._who} are in more than one "
                f"part, such as {users['user_id'][_first(several)]!r}: a test is of users that no training "
                "saw; give each user one part (UserTimeSplit.user_parts)"
            )
        start = self.label_start.get("test")
        early = self.queries.filter(pl.col("part") != pl.lit("test", PART_TYPE))
        if start is None or early.is_empty() or self.shared_times:
            return
        late = early.filter(pl.col("time") + self.horizon > start)
        if late.height:
            raise ValueError(
                f"{late.height} label windows of training and validation queries of {self._who} reach past "
                f"the first test query, at {start}: leave these out (UserTimeSplit.query_frame does), "
                "or say shared_times=True"
            )

    @property
    def label_start(self) -> Mapping[str, int]:
        """Where the earliest label window of each part begins; parts without queries are left out."""
        earliest = self.queries.group_by("part").agg(pl.col("time").min()).sort("part")
        return {str(part): int(time) for part, time in earliest.iter_rows()}

    def part(self, part: Part) -> pl.DataFrame:
        """Return the queries of a part, in their order.

        Raises:
            ValueError: there is none, or no such part.

        """
        if part not in PARTS:
            raise ValueError(f"{self._who} has no part {part!r}, there are {list(PARTS)}")
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
        self.part(part)  # raises where there is none
        start = self.label_start[part]
        if fit_until > start:
            raise ValueError(
                f"fitted on data until {fit_until}, but the {part} labels of {self.name!r} begin at {start}: "
                "fit on what was known before"
            )


def _first(rows: pl.Series) -> int:
    """Return the number of the first row that is True."""
    place = rows.arg_max()
    assert place is not None
    return place
