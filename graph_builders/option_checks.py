"""Checks of configurations' fields: a wrong value is refused where it is given, by the field's name."""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_type_hints


def check_whole_numbers(options: Any, **least: int) -> None:
    """Check that fields are whole numbers of at least so much; None passes where the field may be None.

    Raises:
        ValueError: naming class, field and value.

    """
    for name, bound in least.items():
        value = getattr(options, name)
        if value is None and _may_be_none(options, name):
            continue
        check_whole_number(_of(options, name), value, bound)


def check_whole_number(name: str, value: Any, least: int) -> None:
    """Check that a value is a whole number of at least so much.

    Raises:
        ValueError: naming the value by ``name``.

    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def check_seeds(options: Any, *names: str) -> None:
    """Check that each field has a random seed at least, each once, and all of them whole numbers from 0 on.

    Raises:
        ValueError: naming class, field and value.

    """
    for name in names:
        seeds = getattr(options, name)
        if not seeds or len({*seeds}) < len(seeds):
            raise ValueError(f"{_of(options, name)} names at least one seed, each once: got {[*seeds]}")
        for seed in seeds:
            check_whole_number(f"a seed of {_of(options, name)}", seed, 0)


def check_numbers(
    options: Any,
    names: Sequence[str],
    *,
    least: int | float | None = None,
    above: int | float | None = None,
    most: int | float | None = None,
    below: int | float | None = None,
) -> None:
    """Check that fields are finite numbers within bounds; None passes where the field may be None.

    Args:
        options: a dataclass.
        names: its fields.
        least: the smallest value that is allowed.
        above: a bound that is not allowed itself.
        most: the largest value that is allowed.
        below: a bound that is not allowed itself.

    Raises:
        ValueError: naming class, field and value.

    """
    for name in names:
        value = getattr(options, name)
        if value is None and _may_be_none(options, name):
            continue
        check_number(_of(options, name), value, least=least, above=above, most=most, below=below)


def check_number(
    name: str,
    value: Any,
    *,
    least: int | float | None = None,
    above: int | float | None = None,
    most: int | float | None = None,
    below: int | float | None = None,
) -> None:
    """Check that a value is a finite number within bounds, as :func:`check_numbers` has them.

    Raises:
        ValueError: naming the value by ``name``.

    """
    right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    right = right and (least is None or value >= least) and (above is None or value > above)
    if not right or (most is not None and value > most) or (below is not None and value >= below):
        words = [
            f"{word} {bound:g}"
            for word, bound in zip(
                ("at least", "above", "at most", "below"), (least, above, most, below), strict=True
            )
            if bound is not None
        ]
        bounds = " and ".join(words)
        raise ValueError(f"{name} must be finite{' and ' + bounds if bounds else ''}, got {value!r}")


def check_choices(options: Any) -> None:
    """Check every field whose type is a ``Literal``, or is said to be true or false.

    Raises:
        ValueError: naming class, field, value and what there is.

    """
    for name, hint in get_type_hints(type(options)).items():
        value = getattr(options, name)
        if hint is bool and not isinstance(value, bool):
            raise ValueError(f"{_of(options, name)} must be True or False, got {value!r}")
        choices = _choices(hint)
        if choices and value not in choices:
            raise ValueError(f"{_of(options, name)} must be one of {list(choices)}, got {value!r}")


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if getattr(hint, "__origin__", None) is Literal else ()


def _may_be_none(options: Any, name: str) -> bool:
    return type(None) in get_args(get_type_hints(type(options))[name])


def _of(options: Any, name: str) -> str:
    return f"{type(options).__name__}.{name}"
