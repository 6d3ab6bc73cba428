"""Checks of configurations: what passes, what is refused, and in which words."""

from dataclasses import dataclass
from typing import Literal

import pytest

from graph_builders.option_checks import check_choices, check_numbers, check_whole_numbers


@dataclass(frozen=True)
class Options:
    size: int = 3
    limit: int | None = None
    rate: float = 0.5
    own_rate: float | None = None
    form: Literal["plain", "other"] = "plain"
    on: bool = True


def check(options):
    check_choices(options)
    check_whole_numbers(options, size=1, limit=2)
    check_numbers(options, ("rate", "own_rate"), least=0, below=1)


@pytest.mark.parametrize(
    "options", [{}, {"limit": 2, "own_rate": 0.0}, {"rate": 0}, {"form": "other", "on": False}]
)
def test_what_is_right_passes(options):
    check(Options(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "Options.size must be a whole number of at least 1, got 0"),
        ({"size": 2.0}, "Options.size must be a whole number of at least 1, got 2.0"),
        ({"size": True}, "whole number of at least 1, got True"),
        ({"size": None}, "whole number of at least 1, got None"),
        ({"limit": 1}, "Options.limit must be a whole number of at least 2, got 1"),
        ({"rate": float("nan")}, "Options.rate must be finite and at least 0 and below 1, got nan"),
        ({"rate": float("inf")}, "Options.rate must be finite"),
        ({"rate": -0.1}, "got -0.1"),
        ({"rate": 1.0}, "got 1.0"),
        ({"rate": None}, "got None"),
        ({"rate": "0.5"}, "got '0.5'"),
        ({"own_rate": 2.0}, "Options.own_rate must be"),
        ({"form": "Plain"}, r"Options.form must be one of \['plain', 'other'\], got 'Plain'"),
        ({"on": "no"}, "Options.on must be True or False, got 'no'"),
    ],
)
def test_what_is_wrong_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        check(Options(**options))


def test_bounds_that_are_not_allowed_themselves():
    check_numbers(Options(), ("rate",), above=0.4, most=0.5)
    with pytest.raises(ValueError, match=r"must be finite and above 0\.5, got 0\.5"):
        check_numbers(Options(), ("rate",), above=0.5)
    with pytest.raises(ValueError, match=r"must be finite and at most 0\.4, got 0\.5"):
        check_numbers(Options(), ("rate",), most=0.4)
