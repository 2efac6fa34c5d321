"""Arguments that are given in the wrong place: the error says where they belong."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from yolodata.errors import ArgumentError

P = ParamSpec("P")
T = TypeVar("T")

# Argument of the loaders -> the name of the class of its value.
_GROUPS = {
    "augment": "AugmentConfig",
    "labels": "LabelOptions",
    "epochs": "EpochOptions",
    "ranks": "Ranks",
    "device": "DeviceOptions",
    "reading": "ReadOptions",
}
_LOADERS = ("Loader", "ValidationLoader")

# What was decorated so far; `classes` imports all of it, this file none.
_classes: dict[str, Any] = {}
_parameters: dict[str, set[str]] = {}

# What torch's DataLoader, its samplers and Ultralytics call it.
_CALLED_HERE = {
    "batch": "batch_size", "data": "shards", "dataset": "shards", "path": "shards",
    "num_workers": "threads", "workers": "threads", "prefetch_factor": "prefetch",
    "num_replicas": "world_size", "transform": "transforms", "augmentations": "transforms",
}  # fmt: skip


def says_where(init: Callable[P, None]) -> Callable[P, None]:
    """Makes an `__init__` refuse what belongs elsewhere, and say where that is.

    It raises ArgumentError for an argument that it does not have, and for one of a wrong kind where
    a group of options belongs.
    """
    own = inspect.signature(init).parameters
    name = init.__qualname__.removesuffix(".__init__")
    _parameters[name] = set(own)

    @wraps(init)
    def checked(*args: P.args, **kwargs: P.kwargs) -> None:
        for argument, value in kwargs.items():
            if argument not in own:
                raise ArgumentError(_misplaced(name, own, argument, value))
            if name in _LOADERS and argument in _GROUPS and argument != "device":
                _check_kind(argument, value)
        init(*args, **kwargs)

    return checked


def options(made: type[T]) -> type[T]:
    """Makes a dataclass say where an argument belongs that it does not have."""
    _classes[made.__name__] = made
    made.__init__ = says_where(made.__init__)  # type: ignore[method-assign]
    return made


def _check_kind(argument: str, value: Any) -> None:
    group = _classes[_GROUPS[argument]]
    if value is None or isinstance(value, group):
        return
    names = [field.name for field in fields(group)]
    given = next((name for name in (argument, "task") if name in names), names[0])
    written = f"{given}={value!r}"
    if isinstance(value, Mapping):
        written = ", ".join(f"{name}={one!r}" for name, one in value.items())
    elif isinstance(value, (tuple, list)):
        written = ", ".join(map(repr, value))
    elif isinstance(value, bool):  # of which no setting can be guessed
        written = ""
    raise ArgumentError(
        f"{argument} must be {group.__name__} or None, got {value!r}; give "
        f"{argument}={group.__name__}({written})"
    )


def _misplaced(name: str, own: Mapping[str, Any], argument: str, value: Any) -> str:
    """The message: which class has this argument, and how it is given to a loader."""
    message = f"{name} has no argument {argument}"
    has = {one: _parameters.get(one, set()) - {"self"} for one in (*_LOADERS, *_GROUPS.values())}
    wanted = _CALLED_HERE.get(argument, argument)
    if not any(wanted in names for names in has.values()):
        close = get_close_matches(argument, set().union(*has.values()), 1)
        if not close:
            return f"{message}; there are {', '.join(one for one in own if one != 'self')}"
        wanted = close[0]
        message += f", but {wanted}"
    written = f"{wanted}={value!r}"
    if wanted in own:
        return f"{message}; give {written}"
    for group, kind in _GROUPS.items():
        if wanted in has[kind]:
            how = f"{group}={kind}({written})"
            if group in own:
                return f"{message}; give {how}"
            if name in _LOADERS:
                return f"{message}; only Loader takes it, as {how}: leave it out"
            return f"{message}; it is of {kind}: Loader(..., {how})"
    owner = next(loader for loader in _LOADERS if wanted in has[loader])
    return f"{message}; it is of {owner}: {owner}(..., {written})"
