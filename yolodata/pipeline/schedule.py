"""Which positions make up the next batch of a rank, and which images are near each other in time.

An epoch is a permutation of the images; position p of epoch e shows image permutation(p). It is a
function of (seed, epoch, position) and nothing else: see `csrc/core/permute.h`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import numpy.typing as npt

from yolodata.checks import whole
from yolodata.pipeline.options import Ranks

if TYPE_CHECKING:
    from yolodata._native import PlanConfig

MAX_SEED = (1 << 64) - 1
"""Seeds are 0 to this."""

MAX_EPOCH = (1 << 32) - 1
"""Epochs are 0 to this."""

WINDOW_PICTURES = 768
"""Decoded pictures that a reuse window spans, over all ranks together."""

STREAMS = 64
"""Queues that an epoch is dealt out to. A rank whose world size divides this owns whole queues."""


@dataclass(frozen=True)
class Schedule:
    """How the positions [0, images) of an epoch are dealt out in batches to ranks.

    All ranks together take `batch_size * world_size` consecutive positions a step; within them,
    rank r takes the r-th, (r + world_size)-th, ... so that every step, taken together, is the
    same for any world size. What is left over at the end is a smaller step; where it does not
    divide evenly, positions of the epoch's start are taken again, so that all ranks get the same
    number of pictures in every step. `drop_last` leaves that smaller step out, unless it is all
    there is.
    """

    images: int
    batch_size: int
    ranks: Ranks = field(default_factory=Ranks)
    drop_last: bool = False

    def __post_init__(self) -> None:
        whole("batch_size", self.batch_size, 1)

    @property
    def rank(self) -> int:
        """This process."""
        return self.ranks.rank

    @property
    def world_size(self) -> int:
        """Processes that train together."""
        return self.ranks.world_size

    @property
    def samples(self) -> int:
        """Pictures of one rank in an epoch, without dropping."""
        return math.ceil(self.images / self.world_size)

    @property
    def drops(self) -> bool:
        """Whether the end of an epoch is left out."""
        return (
            self.drop_last
            and self.samples > self.batch_size
            and self.samples % self.batch_size != 0
        )

    @property
    def steps(self) -> int:
        """Batches of one rank in an epoch; the same on every rank."""
        full, rest = divmod(self.samples, self.batch_size)
        return full if self.drops or not rest else full + 1

    def batch(self, start: int) -> tuple[npt.NDArray[np.int64], int] | None:
        """Returns the positions (B,) of this rank in the step from `start` on, and where it ends.

        None at the end of the epoch. `start` may be any position: one reached under another batch
        size or world size too.
        """
        stop, share = self._step(start)
        if self.ends(start):
            return None
        positions = np.arange(start, start + share * self.world_size, dtype=np.int64)
        return positions[self.rank :: self.world_size] % self.images, stop

    def ends(self, start: int) -> bool:
        """Returns whether no step begins at `start`, because the epoch ends there."""
        _, share = self._step(start)
        return share <= 0 or (self.drops and share < self.batch_size)

    def _step(self, start: int) -> tuple[int, int]:
        """Returns where the step from `start` on ends, and the pictures of one rank in it."""
        stop = min(start + self.batch_size * self.world_size, self.images)
        return stop, math.ceil((stop - start) / self.world_size)


class ReuseWindow(TypedDict):
    """Settings of the native planner, see `csrc/plan/plan.h`."""

    streams: int
    window: int


def reuse_window(images: int) -> ReuseWindow:
    """Returns where mosaic partners come from when every image has to be decoded.

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
    """Returns how many decoded images one rank may ask for again."""
    pictures = config.streams * config.window
    # Whole streams to itself, if they can be dealt out.
    return -(-pictures // ranks) if config.streams % ranks == 0 else pictures
