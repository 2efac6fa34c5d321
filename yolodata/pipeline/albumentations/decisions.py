"""Which samples Albumentations' transforms take part in, known without their pictures.

Most transforms are applied now and then, and what decides is drawn before anything looks at the
picture. A copy of the composition therefore decides by itself, with a picture of one pixel, and is
stopped where it would begin to change it. What is not sure to leave the picture alone takes part.

Asking costs 11 microseconds a sample, in which no other thread runs Python: the thread that trains
would launch its kernels later. In a plain list of transforms, each draws one number, and is applied
where that is below its probability. So native code draws those numbers first, and the composition
is asked only about samples in which one is. Whether the installed Albumentations decides like that
is tried before it is relied on.

For a device, transforms that it applies itself are not stopped: they draw what they would do, and
leave the picture as it is. A sample needs the CPU if any other fires on it.
"""

from __future__ import annotations

import copy
import random
import threading
import time
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import compress
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from yolodata.pipeline.albumentations.filters import filter_of, is_exact
from yolodata.pipeline.albumentations.transforms import leaves

if TYPE_CHECKING:
    from yolodata._native import Filter

_AT_ONCE = 8  # decisions, of about 10 microseconds each
_TRIED = 256  # samples that have to be decided alike
_ASKED = 4000  # samples of which `shares` counts those that are changed


class Decisions:
    """Decides like a composition, a sample at a time; any thread may ask.

    Args:
        transforms: from `yolodata.pipeline.albumentations.transforms.composed`.
        on_device: whether a device applies those transforms that it can.
    """

    def __init__(self, transforms: Any, on_device: bool = False) -> None:
        self._lock = threading.Lock()
        self._on_device = on_device
        self._transforms = copy.deepcopy(transforms)
        self._random = random.Random()
        self._picture = np.zeros((1, 1, 3), np.uint8)
        self._fired = False
        self._filters: list[Filter] = []
        self._numbers = _Numbers()
        self._always = not all(map(self._watch, leaves(self._transforms)))
        self._transforms.set_random_state(self._numbers, self._random)
        self._limits = None if self._always else self._tried_limits()

    def _watch(self, leaf: Any) -> bool:
        """Notices when a transform is applied; returns whether that is possible."""
        import albumentations

        if self._on_device and is_exact(leaf):
            leaf.apply_with_params = partial(self._filter, leaf)
            return True
        for step in ("get_params", "get_params_dependent_on_data", "apply_with_params"):
            setattr(leaf, step, self._fire)
        return type(leaf).__call__ is albumentations.BasicTransform.__call__

    def _fire(self, *_: Any, **__: Any) -> NoReturn:
        self._fired = True
        raise _Fired

    def _filter(self, leaf: Any, params: dict[str, Any], **data: Any) -> dict[str, Any]:
        made = filter_of(leaf, params)
        if made is None:
            self._fire()
        self._filters.append(made)
        return data

    def __call__(self, seeds: Sequence[int]) -> dict[int, list[Filter] | None]:
        """Returns the places of the seeds with which the composition changes a picture, in order.

        Returns:
            what a device applies to each of those pictures; None where the CPU has to.
        """
        found = {}
        with self._lock:
            for asked, i in enumerate(self._candidates(seeds)):
                if asked % _AT_ONCE == 0:
                    time.sleep(0)  # lets the thread that trains have the interpreter
                decided = self._decided(seeds[i])
                if decided != []:
                    found[i] = decided
        return found

    def _candidates(self, seeds: Sequence[int]) -> Iterable[int]:
        """Places of seeds that the composition has to be asked about."""
        from yolodata import _native

        places = range(len(seeds))
        if self._limits is None:
            return places
        return compress(places, _native.draws_below(np.array(seeds, np.uint32), self._limits))

    def _decided(self, seed: int) -> list[Filter] | None:
        """Returns what a device applies; None if the CPU has to apply something."""
        self._filters = []
        return None if self._fires(seed) else self._filters

    def _tried_limits(self) -> npt.NDArray[np.float64] | None:
        """Returns what a sample's first numbers are compared with; None if more decides."""
        from yolodata import _native

        drawing = _drawing(self._transforms)
        if drawing is None or len(drawing) >= _native.MOST_LIMITS:
            return None
        chances = [leaf.p for leaf in drawing]
        half = 1 - 0.5 ** (1 / max(len(drawing), 1))  # so much, and half of the samples change
        for leaf in drawing:
            leaf.p = half
        asked = [self._decided(seed) != [] for seed in range(_TRIED)]
        for leaf, chance in zip(drawing, chances, strict=True):
            leaf.p = chance
        # The list draws a number before its transforms do, and is always applied.
        seeds, trial = np.arange(_TRIED, dtype=np.uint32), np.array([0.0, *(half for _ in drawing)])
        return np.array([0.0, *chances]) if _native.draws_below(seeds, trial) == asked else None

    def _fires(self, seed: int) -> bool:
        """Returns whether the CPU has to apply something; else `_filters` is all that is."""
        if self._always:
            return True
        # As `yolodata.pipeline.albumentations.transforms.draw_from` seeds them.
        self._random.seed(seed)
        self._numbers.seed(seed)
        self._fired = False
        try:
            result = self._transforms(image=self._picture)["image"]
        except Exception:  # also what the transforms raise: it is raised again where they are used
            return True
        return self._fired or result is not self._picture


def _drawing(transforms: Any) -> list[Any] | None:
    """Returns those of a plain list of transforms that draw whether they act; None of others."""
    import albumentations as A

    rule = (A.BasicTransform.__call__, A.BasicTransform.should_apply)
    if type(transforms) is not A.Compose or transforms.p != 1:
        return None
    for leaf in transforms.transforms:
        if not isinstance(leaf, A.BasicTransform) or leaf.p >= 1:
            return None
        if (type(leaf).__call__, type(leaf).should_apply) != rule:
            return None
    return [leaf for leaf in transforms.transforms if leaf.p > 0]


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
        """Begins anew."""
        self._seed, self._made = seed, None

    def __getattr__(self, name: str) -> Any:
        if self._made is None:
            self._made = np.random.default_rng(self._seed)
        return getattr(self._made, name)


def shares(transforms: Any, on_device: bool = False) -> tuple[float, float]:
    """Returns the share of samples that a composition changes, and that needs the CPU for it.

    To about half a percent of all samples.
    """
    found = Decisions(transforms, on_device)(range(_ASKED))
    return len(found) / _ASKED, list(found.values()).count(None) / _ASKED
