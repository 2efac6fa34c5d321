"""Pictures that take long to decode: progressive JPEG files, and far more pixels than are used."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .conditions import IMGSZ, Conditions
from .data_fault import DataFault, Severity


class Progressive(DataFault):
    """Progressive files; the same coefficients in a baseline file decode several times as fast.

    Beside mosaic that is little: the recipe has none, as in the last epochs.
    """

    cause = "progressive_jpeg"
    margin = (1.03, 1.2)
    batches = (8, 12, 16)  # of a smaller one, handing it over takes a good part of the step
    seconds = 20.0

    def how_bad(self, rng: random.Random) -> dict[str, Any]:
        """The share of progressive files."""
        return {"share": round(rng.uniform(0.8, 1.0), 2)}

    def before(self, conditions: Conditions, severity: Severity) -> Conditions:
        """With pictures of 960 pixels, which are not too large, and a light recipe."""
        pictures = replace(conditions.pictures, width=960, large=1.0)
        return replace(conditions, pictures=pictures, light=True)

    def worsen(self, conditions: Conditions, severity: Severity) -> Conditions:
        """With a share of progressive files."""
        return replace(
            conditions, pictures=replace(conditions.pictures, progressive=severity["share"])
        )

    def mend(self, conditions: Conditions, settings: Mapping[str, Any]) -> Conditions:
        """With baseline files of the same pictures."""
        return replace(conditions, pictures=replace(conditions.pictures, progressive=0.0))


class Large(DataFault):
    """Photographs of 2.5 to 4 thousand pixels a side, where 640 are used."""

    cause = "large_images"
    margin = (1.1, 1.5)  # 2560 pixels are decoded at a quarter: not twice the time of the others
    seconds = 20.0

    def how_bad(self, rng: random.Random) -> dict[str, Any]:
        """Their longer side, and their share."""
        return {"width": rng.choice((2560, 3072, 3840)), "share": round(rng.uniform(0.6, 1.0), 2)}

    def before(self, conditions: Conditions, severity: Severity) -> Conditions:
        """With the same pictures, resized to what is used."""
        return replace(conditions, pictures=replace(conditions.pictures, width=IMGSZ, large=1.0))

    def worsen(self, conditions: Conditions, severity: Severity) -> Conditions:
        """With a share of large pictures."""
        return replace(
            conditions,
            pictures=replace(conditions.pictures, width=severity["width"], large=severity["share"]),
        )

    def mend(self, conditions: Conditions, settings: Mapping[str, Any]) -> Conditions:
        """With the same pictures, resized to what is used."""
        return self.before(conditions, {})


FAULTS = [Progressive(), Large()]
