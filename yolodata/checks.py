"""Checks of single values, in every room's words."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from numbers import Real
from typing import Any

from yolodata.errors import ConfigError

_SHOWN = 200  # characters of a value in a message


def shown(value: Any) -> str:
    """Returns `repr(value)` for a message: the beginning of it, whatever the value is."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested without end; a number of thousands of digits
        text = f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def whole(name: str, value: Any, least: int, most: int | None = None, where: str = "") -> int:
    """The value as an int.

    Args:
        name: of the setting, for the message.
        value: NumPy's integers are whole numbers too; True and False, and 2.0, are none.
        least, most: the range; None has no end.
        where: for the message: of what `most` is the end.

    Raises:
        ConfigError: it is no whole number, or out of range.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        found = operator.index(value)
    except TypeError:
        raise ConfigError(f"{name} must be a whole number, got {shown(value)}") from None
    if found < least or (most is not None and found > most):
        if most is None:
            allowed = f"at least {least}"
        else:
            power = most.bit_length()
            end = f"2**{power} - 1" if power >= 32 and most == (1 << power) - 1 else f"{most}"
            allowed = f"{least} to {end}{where}"
        raise ConfigError(f"{name} must be {allowed}, got {shown(found)}")
    return found


def wholes(name: str, values: Any) -> list[int]:
    """The values as a list of ints; ConfigError where they are something else."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise ConfigError(f"{name} must be a list of whole numbers, got {shown(values)}")
    return [whole(f"each of {name}", value, 0) for value in values]


def number(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> float:
    """The value as a float; ConfigError where it is no finite number, or out of range."""
    try:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError
        found = float(value)
    except (TypeError, OverflowError):  # a whole number of hundreds of digits
        found = math.nan
    if not math.isfinite(found):
        raise ConfigError(f"{name} must be a finite number, got {shown(value)}")
    if not least <= found <= most:
        allowed = f"at least {least:g}" if most == math.inf else f"{least:g} to {most:g}"
        raise ConfigError(f"{name} must be {allowed}, got {found:g}")
    return found


def flag(name: str, value: Any) -> bool:
    """The value, if it is True or False; ConfigError otherwise."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, got {shown(value)}")
    return value


def one_of(name: str, value: Any, allowed: Sequence[str]) -> str:
    """The value, if it is one of those allowed; ConfigError otherwise."""
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}, got {shown(value)}")
    return str(value)


def path_or_none(name: str, value: Any) -> None:
    """Raises ConfigError for what is no path; a command line reads `3` and `True` as values."""
    if value is not None and (not isinstance(value, (str, os.PathLike)) or not os.fspath(value)):
        raise ConfigError(
            f"{name} must be a path, got {shown(value)}; write ./NAME for such a name"
        )


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns " (did you mean …?)" with the known name that looks most like a wrong one, or ""."""
    found = get_close_matches(name, list(known), 1)
    return f" (did you mean {found[0]!r}?)" if found else ""
