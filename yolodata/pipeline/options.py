"""What a loader is asked for, in groups; each group checks itself."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

from yolodata.checks import flag, number, one_of, shown, whole, wholes
from yolodata.errors import ConfigError
from yolodata.pipeline.misplaced import options

if TYPE_CHECKING:
    import torch

TASKS = ("detect", "segment", "pose", "obb")
CACHES = ("auto", "device", "host", "none")
OUTPUTS = ("uint8", "float16", "bfloat16")
PINS = ("auto", "off")
MAX_RANKS = 1_000_000
MAX_THREADS = 1024  # of the native engine
MAX_PREFETCH = 256  # batches: each is memory


def keep(group: Any, **values: Any) -> None:
    """Gives a frozen group its checked values: Python's own numbers for NumPy's and torch's."""
    for name, value in values.items():
        object.__setattr__(group, name, value)


@options
@dataclass(frozen=True)
class LabelOptions:
    """Which images and objects take part, and as what.

    Args:
        task: "detect"; "segment" for batches with masks, "pose" with keypoints, "obb" with
            oriented boxes (`task="segment"`).
        classes: keep only objects of these classes; images without any stay, as background
            (`classes=[0, 2]`).
        single_cls: turn every class into 0 (`single_cls=True`).
        fraction: share of the images (float up to 1.0) or how many (int above 1); the first ones
            of the source, of which some may have been left out (`fraction=0.1`).
        mask_ratio: for "segment": pixels of a side of the picture to one of the masks
            (`mask_ratio=1`).
        overlap_mask: for "segment": one mask of object numbers a picture, or one for each object
            (`overlap_mask=False`).

    Raises:
        ConfigError: a value is unknown or of the wrong type. The loader checks `mask_ratio`, and
            whether the dataset has as much as `fraction` and `classes` say.
    """

    task: str = "detect"
    classes: Sequence[int] | None = None
    single_cls: bool = False
    fraction: float | int = 1.0
    mask_ratio: int = 4
    overlap_mask: bool = True

    def __post_init__(self) -> None:
        one_of("task", self.task, TASKS)
        fraction: Any = self.fraction
        number("fraction", fraction)
        if isinstance(fraction, Integral):
            keep(self, fraction=int(fraction))
        if self.classes is not None:
            keep(self, classes=tuple(wholes("classes", self.classes)))
        flag("single_cls", self.single_cls)
        flag("overlap_mask", self.overlap_mask)


@options
@dataclass(frozen=True)
class Ranks:
    """This process among those that work together.

    Args:
        rank: its number, from 0 (`rank=1`).
        world_size: how many there are (`world_size=2`).

    Raises:
        ConfigError: a number is out of range, or `rank` is not below `world_size`.
    """

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        size = whole("world_size", self.world_size, 1, MAX_RANKS)
        rank = whole("rank", self.rank, 0, size - 1, f" for world_size={size}")
        keep(self, rank=rank, world_size=size)

    @classmethod
    def from_env(cls) -> Ranks:
        """Returns what torchrun says (RANK and WORLD_SIZE); one process without it.

        Raises:
            ConfigError: they are no numbers, or contradict each other.
        """

        def said(name: str, default: str) -> int:
            value = os.environ.get(name, default)
            if not re.fullmatch(r"\d{1,9}", value, re.ASCII):
                raise ConfigError(
                    f"the environment variable {name} must be a whole number, got {shown(value)}; "
                    "torchrun sets it, unset it to train in one process"
                )
            return int(value)

        return cls(said("RANK", "0"), said("WORLD_SIZE", "1"))


@options
@dataclass(frozen=True)
class EpochOptions:
    """What an epoch is, and how many there are.

    Args:
        shuffle: a new order every epoch; False keeps the dataset's (`shuffle=False`).
        drop_last: leave out the last batch of an epoch if it is smaller, and not the only one
            (`drop_last=True`).
        close_mosaic_epoch: first epoch, from 0, without mosaic, copy-paste, mixup and cutmix
            (`close_mosaic_epoch=90`).
        epochs: how many epochs will be asked for, so that nothing is prepared beyond
            (`epochs=100`).

    Raises:
        ConfigError: a value is out of range or of the wrong type.
    """

    shuffle: bool = True
    drop_last: bool = False
    close_mosaic_epoch: int | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        flag("shuffle", self.shuffle)
        flag("drop_last", self.drop_last)
        for name in ("close_mosaic_epoch", "epochs"):
            if getattr(self, name) is not None:
                keep(self, **{name: whole(name, getattr(self, name), 0)})


@options
@dataclass(frozen=True)
class ReadOptions:
    """How samples are read and prepared.

    Args:
        threads: native threads, up to 1024; None shares the cores that this process may use among
            the ranks of its machine (`threads=4`).
        prefetch: batches ready or in the making before they are asked for, up to 256; None is 4 in
            training and 2 in validation (`prefetch=8`).
        check: compare a sample with its checksum whenever it is read into memory (`check=True`).
        max_unreadable: share of the images that may be unreadable before the run stops; one always
            may, unless this is 0 (`max_unreadable=0.0`).
        pin: where a machine has several NUMA nodes, "auto" keeps threads on those nearest to their
            GPU, and without one spreads them over all. With "off" they are left to the system
            (`pin="off"`).

    Raises:
        ConfigError: a value is out of range or of the wrong type.
    """

    threads: int | None = None
    prefetch: int | None = None
    check: bool = False
    max_unreadable: float = 0.01
    pin: str = "auto"

    def __post_init__(self) -> None:
        for name, most in (("threads", MAX_THREADS), ("prefetch", MAX_PREFETCH)):
            if getattr(self, name) is not None:
                keep(self, **{name: whole(name, getattr(self, name), 1, most)})
        flag("check", self.check)
        number("max_unreadable", self.max_unreadable, 0, 1)
        one_of("pin", self.pin, PINS)


@options
@dataclass(frozen=True)
class DeviceOptions:
    """Where batches are made, and as what.

    Args:
        device: "cpu", or a CUDA device: pictures and labels are made in its memory, and the
            consumer's current stream waits for them by itself (`device="cuda:0"`).
        cache: where decoded images live for a device: "device", "host" (page-locked), "none" or
            "auto", the fastest that there is room for, see `yolodata.pipeline.gpu.dataset_cache`
            (`cache="host"`).
        hw_decoder_load: share of JPEG files for a GPU's JPEG engine, 0 to 1; "auto" is 0. More is
            faster, but the stream repeats itself only up to 3 grey levels; a warning says so
            (`hw_decoder_load=0.65`).
        output: of the pictures made on a device, "uint8", or "float16" or "bfloat16" in 0-1, which
            need no further pass over the batch (`output="float16"`).
        channels_last: pictures made on a device are in the memory order (B, H, W, 3)
            (`channels_last=True`).
        pin_memory: page-locked pictures in host memory, for faster copies to a CUDA device;
            ignored without one. They are torch's, which rounds the size of a batch up to a power
            of two (`pin_memory=True`).

    Raises:
        ConfigError: a value is unknown, or asks for what the device does not have.
    """

    device: str | torch.device = "cpu"
    cache: str = "auto"
    hw_decoder_load: float | str = "auto"
    output: str = "uint8"
    channels_last: bool = False
    pin_memory: bool = False

    def __post_init__(self) -> None:
        name = str(self.device)
        keep(self, device=name)
        if name != "cpu" and not re.fullmatch(r"cuda(:\d+)?", name):
            hint = f"; give 'cuda:{name}'" if name.isdecimal() else ""
            raise ConfigError(f"device must be cpu or cuda (cuda:0, …), got {name!r}{hint}")
        one_of("cache", self.cache, CACHES)
        one_of("output", self.output, OUTPUTS)
        check_hw_decoder_load(self.hw_decoder_load)
        flag("channels_last", self.channels_last)
        flag("pin_memory", self.pin_memory)
        if name == "cpu" and self.cache in ("device", "host"):
            raise ConfigError(
                f"cache={self.cache!r} is for a CUDA device; device='cpu' reads pixels from the map"
            )
        if name == "cpu" and (self.output != "uint8" or self.channels_last):
            raise ConfigError(
                f"device='cpu' makes contiguous uint8, got output={self.output!r}, "
                f"channels_last={self.channels_last}; choose a CUDA device for these"
            )

    @property
    def on_cpu(self) -> bool:
        """Whether batches are made in host memory."""
        return self.device == "cpu"

    @classmethod
    def of(cls, given: DeviceOptions | str | torch.device) -> DeviceOptions:
        """Returns options as they are; of a device alone, with everything else as usual.

        Args:
            given: options, or a device ("cpu", "cuda", "cuda:1", or torch's).

        Raises:
            ConfigError: it names no device that pictures are made on.
        """
        return given if isinstance(given, DeviceOptions) else cls(given)


def check_hw_decoder_load(load: float | str) -> None:
    """Raises ConfigError for what is neither "auto" nor a share."""
    try:
        if load != "auto":
            number("hw_decoder_load", load, 0, 1)
    except ConfigError:
        raise ConfigError(
            f"hw_decoder_load must be 'auto' or a share, 0 to 1, got {shown(load)}"
        ) from None
