"""Bytes of tensors, each storage counted once: those that are there, those that a pass makes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def storages(tensors: Iterable[Any]) -> dict[int, int]:
    """Returns the bytes of the storages below tensors, by storage; other values are passed over."""
    found: dict[int, int] = {}
    for tensor in tensors:
        if isinstance(tensor, torch.Tensor):
            storage = tensor.untyped_storage()
            found[storage._cdata] = storage.nbytes()
    return found


def held_bytes(trainer: Any) -> dict[str, int]:
    """Returns what a trainer holds between two steps, in bytes, by part.

    Args:
        trainer: Ultralytics', set up, after an update and with gradients.

    Returns:
        weights (and buffers), gradients, optimizer (its state), ema (the averaged weights).
    """
    model = trainer.model
    state = [leaf for kept in trainer.optimizer.state.values() for leaf in tree_leaves(kept)]
    ema = getattr(trainer.ema, "ema", None)
    parts = {
        "weights": [*model.parameters(), *model.buffers()],
        "gradients": [weight.grad for weight in model.parameters()],
        "optimizer": state,
        "ema": [] if ema is None else [*ema.parameters(), *ema.buffers()],
    }
    return {name: sum(storages(tensors).values()) for name, tensors in parts.items()}


class NewBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts bytes of storages that operators make while the mode is on: now, and at the peak.

    What exists before is not counted, also where an operator returns it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Runs the operator and counts what it returns."""
        kwargs = kwargs or {}
        given = storages(_tensors((*args, *kwargs.values())))
        result = func(*args, **kwargs)
        for tensor in _tensors((result,)):
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key in given or key in self._known:
                continue
            self._known[key] = size
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, key)
        return result

    def _freed(self, key: int) -> None:
        self.now -= self._known.pop(key, 0)


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Tensors among what operators take and return: themselves, or in lists of them."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


@contextmanager
def saved_for_backward(model: torch.nn.Module) -> Iterator[dict[int, int]]:
    """Gives the bytes that autograd keeps for the backward pass, by storage, without weights.

    The dict fills while the context lasts.
    """
    weights = storages([*model.parameters(), *model.buffers()])
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        found = storages([tensor])
        saved.update({key: size for key, size in found.items() if key not in weights})
        # The tensor itself may be the output of the node that saves it, and would keep it alive.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved
