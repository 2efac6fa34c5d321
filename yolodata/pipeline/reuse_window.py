"""Which images are near each other in time, where every image has to be decoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

WINDOW_PICTURES = 768
"""Decoded pictures that a reuse window spans, over all ranks together."""

STREAMS = 64
"""Queues that an epoch is dealt out to. A rank whose world size divides this owns whole queues."""


class ReuseWindow(TypedDict):
    """Settings of the native planner, see `csrc/plan/plan.h`."""

    streams: int
    window: int


def reuse_window(images: int) -> ReuseWindow:
    """Where mosaic partners come from when every picture has to be decoded.

    Each image should be decoded about once an epoch, so partners are taken from pictures that are
    decoded around the same time: position p belongs to queue p mod `streams`, and its partners
    come from the last `window` positions of that queue. A dataset of up to 768 images is one
    window.

    Args:
        images: size of the dataset.
    """
    if images <= WINDOW_PICTURES:
        return {"streams": 1, "window": images}
    return {"streams": STREAMS, "window": WINDOW_PICTURES // STREAMS}


def window_of(config: Mapping[str, Any], ranks: int) -> int:
    """Decoded pictures that one rank may ask for again, from the planner's settings."""
    streams, pictures = int(config["streams"]), int(config["streams"]) * int(config["window"])
    return -(-pictures // ranks) if streams % ranks == 0 else pictures  # whole streams to itself
