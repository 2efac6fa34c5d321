"""`yolodata.Loader`: augmented training batches, prepared ahead in the background."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolodata.checks import number, whole, wholes
from yolodata.errors import ConfigError, is_out_of_memory
from yolodata.pipeline import state
from yolodata.pipeline.ahead import Ahead, Collated
from yolodata.pipeline.bad import report_bad
from yolodata.pipeline.batch import Batch, training_batch
from yolodata.pipeline.config import AugmentConfig
from yolodata.pipeline.dali import check_hw_decoder_load
from yolodata.pipeline.device import Output
from yolodata.pipeline.device_workshop import DeviceWorkshop
from yolodata.pipeline.forks import check_process, finalize
from yolodata.pipeline.order import MAX_EPOCH, MAX_SEED, window_of
from yolodata.pipeline.retouch import composed, described
from yolodata.pipeline.schedule import Schedule, usable_threads
from yolodata.pipeline.selection import Selection, open_shards
from yolodata.pipeline.tiers import check_cache
from yolodata.pipeline.views import DatasetView, Epoch, EpochSampler, weakly
from yolodata.pipeline.work import Work, Workshop
from yolodata.pipeline.workshops import Order, open_on_cpu, open_on_device
from yolodata.telemetry import Telemetry

if TYPE_CHECKING:
    import torch

    from yolodata._native import PlanConfig
    from yolodata.shards.reader import ShardDataset


class Loader:
    """Endless epochs of augmented training batches from a shard dataset.

    Iterating gives one epoch of batches (see `yolodata.pipeline.batch.assemble` for the dict, which
    is Ultralytics' own). The stream is a function of the dataset, the settings and the seed: it
    does not depend on the number of threads, on `prefetch`, or on where it was resumed, and ranks
    put together give the stream of one process (see `Schedule`).

    Each iteration goes on to the next epoch; `set_epoch` chooses one. Batches are made by native
    threads, `prefetch` of them ahead of the consumer, across the end of an epoch too. A loader
    belongs to one process and is used by one thread at a time.

    A sample that cannot be read becomes a grey picture of the same size without objects, is named
    once in the log of "yolodata" and listed by `bad()`; the run goes on.

    Args:
        shards: a dataset directory, or one opened with `yolodata.shards.open`.
        batch_size: pictures per batch and rank.
        augment: the augmentation recipe; None is Ultralytics' default at the dataset's imgsz.
        split: which split to open when `shards` is a folder of several.
        seed: chooses the stream; 0 to 2**64 - 1.
        threads: native threads; None shares the machine's cores among its ranks.
        prefetch: batches ready or in the making ahead of the consumer.
        rank, world_size: this process among those that train together.
        drop_last: leave out the last, smaller batch of an epoch.
        shuffle: a new order every epoch; False keeps the dataset's.
        task: "detect"; "segment" for batches with masks, "pose" with keypoints, "obb" with
            oriented boxes.
        mask_ratio, overlap_mask: of the masks, as for `yolodata.pipeline.selection.Selection`.
        single_cls: turn every class into 0.
        classes: keep only objects of these classes; images without any stay, as background.
        fraction: share of the images (float up to 1.0) or how many (int above 1); the first ones.
        close_mosaic_epoch: first epoch without mosaic, copy-paste, mixup and cutmix.
        epochs: how many epochs will be asked for, so that nothing is prepared beyond.
        device: "cpu", or a CUDA device: pictures and labels are made in its memory, and the
            consumer's current stream waits for them by itself.
        cache: where decoded pictures live for a device: "device", "host" (page-locked), "none" or
            "auto", the fastest that there is room for (see `yolodata.pipeline.tiers`).
        hw_decoder_load: share of JPEG files for a GPU's JPEG engine, 0 to 1; "auto" is 0. More is
            faster, but the stream repeats itself only up to 3 grey levels (a warning says so).
        output: of the pictures made on a device, "uint8", or "float16" or "bfloat16" in 0-1, which
            need no further pass over the batch.
        channels_last: pictures made on a device are in the memory order (B, H, W, 3).
        pin_memory: page-locked pictures, for faster copies to a CUDA device; ignored without one.
            They are torch's, which rounds the size of a batch up to a power of two.
        transforms: Albumentations' transforms that leave objects where they are, as a list or a
            Compose; see `yolodata.pipeline.retouch`. They draw from the seed, the epoch and the
            position alone. A device applies the usual ones itself (`yolodata.pipeline.filters`);
            the others run on the CPU, and cost those samples something in which one fires.
        check: compare every sample with its checksum when it is first used.
        max_bad: share of the images that may be unreadable before the run stops.

    Attributes:
        lacking: turns an error into what is handed out in place of a batch that the device has no
            memory for, which is made when it is asked for again; None raises the error.
        cache: where decoded pictures are; known once a batch was asked for.
        telemetry: counts "batches" and "samples" handed out, "discarded" batches (prepared in
            vain), "decodes" and "hits" (uses of a decoded picture that was in memory), "retouched"
            samples (that `transforms` changed on the CPU; prepared ones) and "filtered" ones (that
            they changed on a device); seconds of "plan",
            "render", "retouch" (by `transforms`), "decode" and "collate" (all threads together),
            and "wait": of the consumer, from asking for a batch to getting it.

    Raises:
        ConfigError: a setting is out of range or contradicts another one.
        ShardError: the dataset is missing or damaged; while iterating: more than `max_bad` of the
            images cannot be read.
    """

    def __init__(
        self,
        shards: str | Path | ShardDataset,
        batch_size: int,
        *,
        augment: AugmentConfig | None = None,
        split: str | None = None,
        task: str = "detect",
        seed: int = 0,
        threads: int | None = None,
        prefetch: int = 4,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        shuffle: bool = True,
        single_cls: bool = False,
        classes: Sequence[int] | None = None,
        fraction: float | int = 1.0,
        mask_ratio: int = 4,
        overlap_mask: bool = True,
        close_mosaic_epoch: int | None = None,
        epochs: int | None = None,
        device: str | torch.device = "cpu",
        cache: str = "auto",
        hw_decoder_load: float | str = "auto",
        output: str = "uint8",
        channels_last: bool = False,
        pin_memory: bool = False,
        transforms: Any = None,
        check: bool = False,
        max_bad: float = 0.01,
    ) -> None:
        dataset = open_shards(shards, split)
        number("fraction", fraction)
        classes = None if classes is None else wholes("classes", classes)
        self.augment = augment or AugmentConfig(imgsz=dataset.meta.imgsz)
        self._selection = Selection(
            dataset,
            task=task,
            imgsz=self.augment.imgsz,
            fraction=fraction,
            classes=classes,
            single_cls=single_cls,
            outlines=self.augment.copy_paste > 0,
            mask_ratio=mask_ratio,
            overlap_mask=overlap_mask,
        )
        images = self._selection.images
        share = min(whole("batch_size", batch_size, 1), images)
        self._schedule = Schedule(images, share, rank, world_size, drop_last)
        threads = usable_threads(world_size) if threads is None else threads
        self.num_workers = whole("threads", threads, 1)
        self.seed = whole("seed", seed, 0, MAX_SEED)
        whole("prefetch", prefetch, 1)
        number("max_bad", max_bad, 0, 1)
        whole("close_mosaic_epoch", close_mosaic_epoch or 0, 0)
        whole("epochs", epochs or 0, 0)
        self.device = str(device)
        self.cache, self._why = cache, ""
        self._hw_decoder_load = hw_decoder_load
        check_hw_decoder_load(hw_decoder_load)
        self._output = Output(output, channels_last)
        check_cache(cache, self.device != "cpu")
        self._output.check(self.device)
        self._transforms = None if transforms is None else composed(transforms)
        self.shuffle = shuffle
        self.close_mosaic_epoch = close_mosaic_epoch
        self.pin_memory = pin_memory
        self._prefetch = prefetch
        self._check = check
        self._max_bad = max_bad
        self._settings = {
            "task": task,
            "single_cls": single_cls,
            "classes": classes,
            "fraction": fraction,
            "shuffle": shuffle,
            "close_mosaic_epoch": close_mosaic_epoch,
            "augment": asdict(self.augment),
            "transforms": None if transforms is None else described(self._transforms),
        }
        self._configs: dict[bool, PlanConfig] = {}  # of the planner, by whether mosaic is over
        self._fingerprint: dict[str, Any] | None = None
        self._epoch = 0
        self._position = 0  # positions of the epoch that were handed to the consumer
        self._resumed = False  # the next iteration goes on at _position
        self._mosaic_closed = False
        self._active: object = None  # token of the iteration that is going on
        self.lacking: Callable[[Exception], Batch] | None = None
        self._ahead = Ahead(self._schedule, prefetch, epochs)
        self._workshop: Workshop | DeviceWorkshop | None = None
        self._stop_workshop: weakref.finalize[Any, Any] | None = None
        self._closed = False
        self._pid = os.getpid()
        self._reported: set[int] = set()
        self.telemetry = Telemetry()

        self.dataset = DatasetView(self._selection, close_mosaic=weakly(self.close_mosaic))
        self.sampler = EpochSampler(self._schedule, weakly(self._images_at), weakly(self.set_epoch))

    # What Ultralytics' trainer reads.

    @property
    def batch_size(self) -> int:
        """Pictures of a full batch of this rank; at most the number of images."""
        return self._schedule.batch_size

    @property
    def drop_last(self) -> bool:
        """Whether the end of an epoch is left out."""
        return self._schedule.drops

    def __len__(self) -> int:
        """Batches of one epoch; the same on every rank."""
        return self._schedule.steps

    def _images_at(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        from yolodata import _native

        if not self.shuffle:
            return positions
        return _native.permute(positions, self._schedule.images, self.seed, self._epoch)

    @property
    def preflight(self) -> str:
        """Where decoded pictures are on a device, and why; "" until a batch was asked for."""
        share = self.hw_decoder_load
        return self._why if share is None else f"{self._why}; hw_decoder_load={share}"

    @property
    def hw_decoder_load(self) -> float | None:
        """The share that a GPU's JPEG engine decodes; None where no GPU decodes, or not yet."""
        shop = self._workshop
        return shop.hw_decoder_load if isinstance(shop, DeviceWorkshop) else None

    # Where in the stream.

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration, which starts at its beginning.

        Naming the epoch that `load_state_dict` restored keeps the position in it.
        """
        epoch = whole("epoch", epoch, 0, MAX_EPOCH)
        self._ahead.settle()
        if not (self._resumed and epoch == self._epoch):
            self._epoch, self._position, self._resumed = epoch, 0, False
        self._active = None

    def state_dict(self) -> dict[str, Any]:
        """Where the consumer is: plain data, the same on every rank, small enough for JSON.

        Counts batches that were handed out, not those prepared ahead. Taken between two batches,
        loading it gives the batches that would have followed; exactly, if `hw_decoder_load` is 0.
        """
        if self._fingerprint is None:
            self._fingerprint = state.dataset_fingerprint(self._selection)
        return {
            "version": 1,
            "seed": self.seed,
            "epoch": self._epoch,
            "position": self._position,
            "mosaic_closed": self._mosaic_closed,
            "dataset": dict(self._fingerprint),
            "settings": state.plain(self._settings),
        }

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, under this or another world or batch size.

        Raises:
            ConfigError: the state is of another dataset or of other settings; names what differs.
        """
        state.compare(values, self.state_dict())
        self._ahead.settle()
        self.seed = int(values["seed"])
        self._epoch, self._position = int(values["epoch"]), int(values["position"])
        self._mosaic_closed = bool(values["mosaic_closed"])
        self._resumed = True
        self._active = None
        self._discard()

    def close_mosaic(self) -> None:
        """No mosaic, copy-paste, mixup and cutmix in any batch handed out from now on.

        Batches prepared ahead are thrown away and made anew. With `close_mosaic_epoch`, which
        throws nothing away, this need not be called.
        """
        if not self._mosaic_closed:
            self._ahead.settle()
            self._mosaic_closed = True
            self._discard()

    def reset(self) -> None:
        """Throw away batches prepared ahead; the position in the stream stays."""
        self._ahead.settle()
        self._discard()

    # Batches.

    def __iter__(self) -> Iterator[Batch]:
        """One epoch of batches; it begins when the first one is asked for."""
        self._usable()
        return Epoch(self._next)

    def _next(self, caller: Epoch) -> Batch:
        # Time in which a device whose loss is looked at in every step has nothing to do.
        asked = time.perf_counter()
        if self._closed:
            self._usable()  # says so
        self._ahead.settle()
        if caller.token is not self._active:
            if caller.begun:
                raise ConfigError(
                    "this iteration was ended by a later one, by set_epoch or by load_state_dict; "
                    "call iter(loader) again"
                )
            self._begin(caller)
        head = self._ahead.at(self._epoch, self._position)
        if head is None:
            if self._schedule.ends(self._position):
                self._epoch, self._position, self._active = self._epoch + 1, 0, None
                caller.ended = True
                raise StopIteration
            self._fill()
            head = self._ahead.at(self._epoch, self._position)
            assert head is not None
        try:
            head.work.wait()
        except Exception as error:
            if self.lacking is None or not is_out_of_memory(error):
                raise
            return self.lacking(error)
        report_bad(self._selection, self._open_workshop().bad, self._reported, self._max_bad)
        collated = head.collated or self._collate(head.work)
        self._ahead.pop()
        self._position = head.stop
        self._ahead.later(self._fill)
        self.telemetry.record(
            {**collated.seconds, "wait": time.perf_counter() - asked},
            {"batches": 1, "samples": collated.samples},
        )
        return collated.batch

    def _begin(self, caller: Epoch) -> None:
        if self._position and not self._resumed:  # the last iteration was given up half-way
            self._epoch, self._position = self._epoch + 1, 0
        self._resumed = False
        self._active = caller.token
        caller.begun = True

    def _fill(self) -> None:
        """Have `prefetch` batches in the making from the current position on, and no others."""
        if not self._ahead.begins_at(self._epoch, self._position):
            self._discard()
        self._ahead.fill(self._epoch, self._position, self._planned)
        self._ahead.collate(self._collate)

    def _planned(self, epoch: int, start: int, positions: npt.NDArray[np.int64]) -> Work:
        age = epoch * self._selection.images + start
        workshop = self._open_workshop()
        return workshop.planned(self._config(epoch), self.seed, epoch, positions, age)

    def _config(self, epoch: int) -> PlanConfig:
        closed = self._mosaic_closed or (
            self.close_mosaic_epoch is not None and epoch >= self.close_mosaic_epoch
        )
        if closed not in self._configs:
            augment = self.augment.without_mix() if closed else self.augment
            self._configs[closed] = self._selection.plan_config(augment, self.shuffle)
        return self._configs[closed]

    def _collate(self, work: Work) -> Collated:
        start = time.perf_counter()
        images = work.first_images()
        batch = training_batch(self._selection, images, work.image, work.labels())
        seconds = {**work.seconds(), "collate": time.perf_counter() - start}
        return Collated(batch, len(images), seconds)

    def _discard(self) -> None:
        for work in self._ahead.clear():
            self.telemetry.count("discarded")
            if self._workshop is not None:
                self._workshop.drop(work)

    # Life and death.

    def _usable(self) -> None:
        if self._closed:
            raise ConfigError("the loader is closed; make a new one")
        check_process(self._pid)

    def _open_workshop(self) -> Workshop | DeviceWorkshop:
        if self._workshop is None:
            import torch

            order = Order(
                self._selection,
                threads=self.num_workers,
                check=self._check,
                window=window_of(self._config(0), self._schedule.world_size),
                in_flight=(self._prefetch + 2) * self.batch_size,
                pin_memory=self.pin_memory and torch.cuda.is_available(),
                telemetry=self.telemetry,
                transforms=self._transforms,
                hw_decoder_load=self._hw_decoder_load,
            )
            if self.device == "cpu":
                self._workshop = open_on_cpu(order)
            else:
                where = torch.device(self.device)
                self._workshop, choice = open_on_device(order, where, self.cache, self._output)
                self.cache, self._why = choice.tier, choice.why
            self._stop_workshop = finalize(self, self._ahead.close, self._workshop.close)
        return self._workshop

    def bad(self) -> dict[str, str]:
        """Images that could not be read so far: path and reason."""
        bad = self._workshop.bad if self._workshop is not None else {}
        return {self._selection.shards.name(i): bad[i] for i in sorted(bad)}

    def close(self) -> None:
        """Stop the threads and free the memory; batches handed out stay valid."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        self._active = None
        if self._stop_workshop is not None:
            self._stop_workshop()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
