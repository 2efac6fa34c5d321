"""Versions under which the promises hold, and what is said of others when a trainer is imported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """Versions of a package that are allowed; a test compares them with pyproject.toml.

    docs/versions.md says which of them were tested.

    Attributes:
        least: the first version of them.
        below: the first version that is not one of them; None is unknown.
        kept: what holds with other versions.
        lost: what does not.
    """

    least: str
    below: str | None
    kept: str
    lost: str

    @property
    def specifier(self) -> str:
        """Returns the bounds as pip takes them."""
        return f">={self.least}" + (f",<{self.below}" if self.below else "")

    def include(self, version: str) -> bool:
        """Whether a version is within the bounds."""
        found = _numbers(version)
        return _numbers(self.least) <= found and (not self.below or found < _numbers(self.below))


BOUNDS = {
    "opencv-python": Bounds(
        least="5",
        below="6",
        kept="Our batches are the same, because the renderer has its own arithmetic (OpenCV 5's)",
        lost="That Ultralytics' own are equal was tested with OpenCV 5 alone. OpenCV 4 blends with "
        "weights of 5 bits: about a tenth of the bytes of warped photographs differ, by up to 6 "
        "grey levels",
    ),
    "ultralytics": Bounds(
        least="8.4.190",
        below="8.5",
        kept="Shards and the stream of batches do not depend on it",
        lost="That labels, augmentation, training loop and metrics equal Ultralytics' was not "
        "tested with this version, and its trainer may have changed under ours",
    ),
    "torch": Bounds(
        least="2.6",
        below=None,
        kept="Training starts and writes checkpoints",
        lost="No checkpoint is opened, neither to resume nor to export: older ones may run code "
        "that is hidden in a file, even with weights_only=True (CVE-2025-32434)",
    ),
}


def complaints(installed: Mapping[str, str]) -> list[str]:
    """Returns what is to be said of installed versions, a text for each that is out of bounds.

    Args:
        installed: version by name of the package, as `BOUNDS` has them.
    """
    return [
        f"yolodata: {name} must be {bounds.specifier}, got {installed[name]}. {bounds.kept}. "
        f"{bounds.lost}. To mend it: pip install '{name}{bounds.specifier}'"
        for name, bounds in BOUNDS.items()
        if not bounds.include(installed[name])
    ]


def warn_of_untested_versions() -> None:
    """Warns of each installed version that is out of bounds, on one rank."""
    import cv2
    import torch
    import ultralytics
    from ultralytics.utils import LOGGER, RANK

    installed = {
        "opencv-python": cv2.__version__,  # whichever package it came with
        "ultralytics": ultralytics.__version__,
        "torch": torch.__version__,
    }
    if RANK in {-1, 0}:
        for text in complaints(installed):
            LOGGER.warning(text)


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version: 2.6.0+cu124 is (2, 6, 0)."""
    release = re.match(r"\d+(\.\d+)*", version)
    if release is None:
        raise ValueError(f"a version must begin with a number, got {version!r}")
    return tuple(map(int, release[0].split(".")))
