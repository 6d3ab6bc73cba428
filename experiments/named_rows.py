"""The rows of a table: methods, each found by its name."""

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Named(Protocol):
    """Whatever has a name."""

    @property
    def name(self) -> str:
        """As tables have it."""


Row = TypeVar("Row", bound=Named)


def row_named(name: str, rows: Sequence[Row]) -> Row:
    """Return a row by its name.

    Raises:
        ValueError: there is none.

    """
    for row in rows:
        if row.name == name:
            return row
    raise ValueError(f"no row {name!r}; there are {[row.name for row in rows]}")
