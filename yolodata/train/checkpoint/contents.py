"""What a state holds, and what it must hold to be one of a run, whoever wrote it.

A checkpoint file may have come from anywhere, with a right checksum. Its parts have the types that
a run needs, or it is passed over. Whoever forges a state that is well formed can still have a run
go on from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypedDict

import torch

from yolodata.provenance.manifest import is_manifest


class Stopper(TypedDict):
    """What decides that training ends early."""

    best_fitness: float | None
    best_epoch: int
    possible_stop: bool


class Generators(TypedDict):
    """The random generators of a rank, as plain data and tensors."""

    python: list[Any]
    numpy: list[Any]
    torch: torch.Tensor
    cuda: torch.Tensor | None


class _Newer(TypedDict, total=False):
    manifest: dict[str, Any] | None  # which an older yolodata did not write


class RunState(_Newer):
    """The state of a run; `state.capture` says where each part comes from."""

    version: int
    epoch: int
    step: int
    pending: int
    stage: str
    model: dict[str, torch.Tensor]
    ema: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    gradients: dict[str, torch.Tensor]
    tloss: dict[str, torch.Tensor] | None
    loss: torch.Tensor
    given: dict[str, Any]
    args: dict[str, Any]
    network: dict[str, Any]
    names: dict[int, str]
    results: str
    optimizer_name: str
    epochs: int
    elapsed: float
    ema_updates: int
    scheduler: int
    criterion: dict[str, float]
    loader: dict[str, Any] | None
    batch: int
    loss_names: list[str]
    metrics: dict[str, float]
    fitness: float | None
    best_fitness: float | None
    stopper: Stopper
    nan_recovery_attempts: int
    generators: list[Generators]


_WHOLE = 1 << 40  # counts of a run are below
_VALUES = 5_000_000  # plain values in a state; ours have two thousand a rank
_DEEPEST = 30


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _WHOLE


def _number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _finite(value: Any) -> bool:
    return _number(value) and abs(value) < _WHOLE


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(each, torch.Tensor) for name, each in value.items()
    )


def _named(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_text, value))


def _optional(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _parts(**fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and _misfit(value, fits) is None


def _each(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and bool(value) and all(map(fits, value))


def _misfit(state: Mapping[str, Any], fits: Mapping[str, Callable[[Any], bool]]) -> str | None:
    return next((name for name in fits if name not in state or not fits[name](state[name])), None)


_STATE: dict[str, Callable[[Any], bool]] = {
    "epoch": _whole,
    "step": _whole,
    "pending": _whole,
    "stage": lambda value: value in ("train", "validate", "finished"),
    "model": _tensors,
    "ema": _tensors,
    "optimizer": _parts(
        state=lambda value: isinstance(value, dict), param_groups=lambda v: isinstance(v, list)
    ),
    "scaler": _named,
    "gradients": _tensors,
    "tloss": _optional(_tensors),
    "loss": lambda value: value is None or _number(value) or isinstance(value, torch.Tensor),
    "given": _parts(time=_optional(_finite), patience=_optional(_finite)),
    "args": _parts(task=_text, close_mosaic=_finite),
    "network": lambda value: isinstance(value, dict),
    "names": lambda value: isinstance(value, dict) and all(map(_text, value.values())),
    "results": _text,
    "optimizer_name": _text,
    "epochs": _whole,
    "elapsed": _finite,
    "ema_updates": _whole,
    "scheduler": lambda value: isinstance(value, int) and -1 <= value < _WHOLE,
    "criterion": _named,
    "loader": _optional(_named),
    "batch": lambda value: _whole(value) and value > 0,
    "loss_names": _texts,
    "metrics": _named,
    "fitness": _optional(_number),
    "best_fitness": _optional(_number),
    "stopper": _parts(
        best_fitness=_optional(_number), best_epoch=_whole, possible_stop=lambda v: v in (0, 1)
    ),
    "nan_recovery_attempts": _whole,
    "generators": _each(
        _parts(
            python=lambda v: isinstance(v, list) and len(v) == 3 and isinstance(v[1], list),
            numpy=lambda v: isinstance(v, list) and len(v) == 5 and isinstance(v[1], list),
            torch=lambda v: isinstance(v, torch.Tensor),
            cuda=lambda v: v is None or isinstance(v, torch.Tensor),
        )
    ),
}


def wrong_part(state: dict[str, Any]) -> str | None:
    """Says which part of a state is missing or of another type; None where all are right."""
    wrong = _misfit(state, _STATE) or (None if _is_small(state) else "number of values")
    if wrong is None and state.get("manifest") is not None and not is_manifest(state["manifest"]):
        return "manifest"  # which an older yolodata did not write
    return wrong


def _is_small(state: dict[str, Any]) -> bool:
    """Whether somebody who walks through a state comes to its end.

    A pickle may name one list twice in another, that one twice in the next, and so on.
    """
    left, end = _VALUES, object()
    waiting: list[Iterator[Any]] = [iter([state])]
    while waiting:
        value = next(waiting[-1], end)
        if value is end:
            waiting.pop()
            continue
        left -= 1
        if left < 0 or len(waiting) > _DEEPEST:
            return False
        if isinstance(value, Mapping):
            waiting.append(iter(value.values()))
        elif isinstance(value, (list, tuple, set)):
            waiting.append(iter(value))
    return True
