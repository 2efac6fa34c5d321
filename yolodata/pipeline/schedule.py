"""Which positions of an epoch make up the next batch of a rank."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from yolodata.checks import whole
from yolodata.machine import usable_cores


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
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False

    def __post_init__(self) -> None:
        whole("batch_size", self.batch_size, 1)
        last = whole("world_size", self.world_size, 1) - 1
        whole("rank", self.rank, 0, last, f" for world_size={self.world_size}")

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
        """The positions (B,) of this rank in the step that begins at `start`, and where it ends.

        None at the end of the epoch. `start` may be any position: one reached under another batch
        size or world size too.
        """
        stop, share = self._step(start)
        if self.ends(start):
            return None
        positions = np.arange(start, start + share * self.world_size, dtype=np.int64)
        return positions[self.rank :: self.world_size] % self.images, stop

    def ends(self, start: int) -> bool:
        """Whether no step begins at `start`, because the epoch ends there."""
        _, share = self._step(start)
        return share <= 0 or (self.drops and share < self.batch_size)

    def _step(self, start: int) -> tuple[int, int]:
        """Where the step ends that begins at `start`, and the pictures of one rank in it."""
        stop = min(start + self.batch_size * self.world_size, self.images)
        return stop, math.ceil((stop - start) / self.world_size)


def usable_threads(world_size: int) -> int:
    """Native threads of one rank when the ranks of a machine share its cores."""
    return max(1, len(usable_cores()) // ranks_here(world_size))


def ranks_here(world_size: int = 1) -> int:
    """Ranks that share this machine, as torchrun says; without it, all there are."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 0)) or world_size
