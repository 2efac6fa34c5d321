"""Which samples Albumentations' transforms take part in, known without their pictures.

Most transforms are applied now and then, and what decides is drawn before anything looks at the
picture. A copy of the composition therefore decides by itself, with a picture of one pixel, and is
stopped where it would begin to change it. No rule of Albumentations' is written down here; what is
not sure to leave the picture alone takes part.
"""

from __future__ import annotations

import copy
import random
import threading
import time
from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np

_AT_ONCE = 8  # decisions, of about 10 microseconds each
_ASKED = 4000  # samples of which `share` counts those that are changed


class Firing:
    """Decides like a composition, a sample at a time; any thread may ask.

    Args:
        transforms: from `yolodata.pipeline.retouch.composed`.
    """

    def __init__(self, transforms: Any) -> None:
        self._lock = threading.Lock()
        self._transforms = copy.deepcopy(transforms)
        self._random = random.Random()
        self._picture = np.zeros((1, 1, 3), np.uint8)
        self._fired = False
        self._numbers = _Numbers()
        self._transforms.set_random_state(self._numbers, self._random)
        self._always = not all(map(self._watch, leaves(self._transforms)))

    def _watch(self, leaf: Any) -> bool:
        """Notice when a transform is applied; whether that is possible."""
        import albumentations

        for step in ("get_params", "get_params_dependent_on_data", "apply_with_params"):
            setattr(leaf, step, self._fire)
        return type(leaf).__call__ is albumentations.BasicTransform.__call__

    def _fire(self, *_: Any, **__: Any) -> NoReturn:
        self._fired = True
        raise _Fired

    def __call__(self, seeds: Iterable[int]) -> list[int]:
        """The places of those seeds with which the composition changes a picture."""
        found = []
        with self._lock:
            for i, seed in enumerate(seeds):
                if i % _AT_ONCE == 0:
                    time.sleep(0)  # lets the thread that trains have the interpreter
                if self._fires(seed):
                    found.append(i)
        return found

    def _fires(self, seed: int) -> bool:
        if self._always:
            return True
        # As `yolodata.pipeline.retouch.draw_from` seeds them.
        self._random.seed(seed)
        self._numbers.seed(seed)
        self._fired = False
        try:
            result = self._transforms(image=self._picture)["image"]
        except Exception:  # also what the transforms raise: it is raised again where they are used
            return True
        return self._fired or result is not self._picture


class _Fired(Exception):
    """A transform is applied."""


class _Numbers:
    """A `numpy.random.Generator` that is made when it is asked for something, which few are.

    To make one costs as much as all the rest of a decision.
    """

    def __init__(self) -> None:
        self._seed = 0
        self._made: np.random.Generator | None = None

    def seed(self, seed: int) -> None:
        """Begin anew."""
        self._seed, self._made = seed, None

    def __getattr__(self, name: str) -> Any:
        if self._made is None:
            self._made = np.random.default_rng(self._seed)
        return getattr(self._made, name)


def leaves(transform: Any) -> list[Any]:
    """The transforms of a composition, without compositions."""
    import albumentations

    if isinstance(transform, albumentations.BaseCompose):
        return [leaf for inner in transform.transforms for leaf in leaves(inner)]
    return [transform]


def share(transforms: Any) -> float:
    """The share of samples that a composition changes, to about half a percent of all samples."""
    return len(Firing(transforms)(range(_ASKED))) / _ASKED
