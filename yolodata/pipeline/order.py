"""Which image comes at which position, and which images are near each other in time.

An epoch is a permutation of the images; position p of epoch e shows image permutation(p). It is a
function of (seed, epoch, position) and nothing else: see `csrc/core/permute.h`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from yolodata._native import PlanConfig

WINDOW_PICTURES = 768
"""Decoded pictures that a reuse window spans, over all ranks together."""

STREAMS = 64
"""Queues that an epoch is dealt out to. A rank whose world size divides this owns whole queues."""


MAX_SEED = (1 << 64) - 1
"""Seeds are 0 to this."""

MAX_EPOCH = (1 << 32) - 1
"""Epochs are 0 to this."""


class ReuseWindow(TypedDict):
    """Settings of the native planner, see `csrc/plan/plan_config.h`."""

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


def window_of(config: PlanConfig, ranks: int) -> int:
    """Decoded pictures that one rank may ask for again, from the planner's settings."""
    pictures = config.streams * config.window
    # Whole streams to itself, if they can be dealt out.
    return -(-pictures // ranks) if config.streams % ranks == 0 else pictures
