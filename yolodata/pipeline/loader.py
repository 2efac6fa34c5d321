"""`yolodata.Loader`: augmented training batches, prepared before they are asked for."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolodata.checks import whole
from yolodata.errors import ConfigError, is_out_of_memory
from yolodata.machine import give_back_memory, usable_threads
from yolodata.pipeline import resume_state
from yolodata.pipeline.albumentations.transforms import composed, described
from yolodata.pipeline.backend import Backend, BackendSpec, PendingBatch
from yolodata.pipeline.batch import Batch, training_batch
from yolodata.pipeline.config import AugmentConfig
from yolodata.pipeline.fork_safety import finalize
from yolodata.pipeline.loader_facade import DatasetView, EpochSampler, weakly
from yolodata.pipeline.misplaced import says_where
from yolodata.pipeline.options import DeviceOptions, EpochOptions, LabelOptions, Ranks, ReadOptions
from yolodata.pipeline.owner import NotCopied, Owner
from yolodata.pipeline.pinning import pinning
from yolodata.pipeline.prefetch import Collated, Prefetcher
from yolodata.pipeline.schedule import MAX_EPOCH, MAX_SEED, Schedule, window_of
from yolodata.pipeline.subset import Subset, open_shards
from yolodata.pipeline.unreadable import report_unreadable
from yolodata.telemetry import Telemetry

if TYPE_CHECKING:
    import torch

    from yolodata._native import PlanConfig
    from yolodata.shards.reader import ShardDataset

_PREFETCH = 4


class Epoch(NotCopied):
    """One iteration over a loader; the loader, whose method `following` is, knows where it is."""

    def __init__(self, following: Callable[[Epoch], Batch]) -> None:
        self._following = following
        self.token = object()  # what the loader remembers instead of its own iterator
        self.begun = self.ended = False

    def __iter__(self) -> Iterator[Batch]:
        """Returns itself."""
        return self

    def __next__(self) -> Batch:
        """Returns the next batch of the epoch."""
        return self._following(self)


class Loader(NotCopied):
    """Endless epochs of augmented training batches from a shard dataset.

    Iterating gives one epoch of batches (see `yolodata.pipeline.batch.assemble` for the dict, which
    is Ultralytics' own). The stream is a function of the dataset, the settings and the seed. It
    does not depend on the number of threads, on `prefetch`, or on where it was resumed. (With
    `hw_decoder_load` above 0, this holds up to 3 grey levels.) Ranks put together give the stream
    of one process (see `Schedule`).

    Each iteration goes on to the next epoch; `set_epoch` chooses one. Native threads make batches,
    `prefetch` of them before they are asked for, across the end of an epoch too. A loader belongs
    to one process and is used by one thread at a time; a second one gets a ConfigError.

    An image that cannot be read becomes grey, without objects. It is named once in the log of
    "yolodata" and listed by `unreadable()`; the run goes on. Where memory or open files are
    lacking, no image is replaced: the error is raised.

    Args:
        shards: a dataset directory, or one opened with `yolodata.open_shards`
            (`shards="coco.shards"`).
        batch_size: pictures per batch and rank; no more than images are taken (`batch_size=16`).
        augment: the augmentation recipe; None is Ultralytics' default at the dataset's imgsz
            (`augment=AugmentConfig(mosaic=0.5)`).
        transforms: Albumentations' transforms that leave objects where they are, as a list or a
            Compose. They draw from the seed, the epoch and the position alone. A device applies
            the usual ones itself (`yolodata.pipeline.albumentations.filters`); the others run on
            the CPU, and cost those samples something in which one fires
            (`transforms=[albumentations.Blur(p=0.1)]`).
        labels: which images and objects take part, and as what; None is all, to detect
            (`labels=LabelOptions(task="segment")`).
        split: which split to open when `shards` is a folder of splits; None is "train"
            (`split="val"`).
        seed: chooses the stream; 0 to 2**64 - 1 (`seed=1`).
        epochs: what an epoch is; None is shuffled and complete
            (`epochs=EpochOptions(close_mosaic_epoch=90)`).
        ranks: this process among those that train together; None is alone
            (`ranks=Ranks.from_env()`).
        device: "cpu", a CUDA device, or `DeviceOptions`: where batches are made, and as what
            (`device="cuda"`).
        reading: threads, prefetch, checks; None chooses (`reading=ReadOptions(threads=4)`).

    Attributes:
        on_out_of_memory: turns an error into what is handed out in place of a batch that the device
            has no memory for. The batch is made when it is asked for again. None raises the error.
        cache: where decoded images are for a device; known once a batch was asked for. Until then,
            and on the CPU, what was asked for.
        telemetry: counts and seconds. Counts are "batches" and "samples" (handed out), "discarded"
            (batches that were made in vain), "unreadable" (images, each once) and "decodes". Uses
            of a decoded image that was in memory are "hits". Samples that `transforms` changed on
            the CPU are "transformed", as soon as they are made; those changed on a device are
            "filtered". Seconds of all threads together are "plan", "render", "transform", "decode"
            and "collate". Seconds in which threads stood still for bytes that were not in memory
            are "storage", where that is known; they are part of no other. Seconds of a device are
            "copy", "kernel" (rendering) and "device_wait", in which the consumer's stream had
            nothing to do until a batch was there; they come a few batches later. "wait" is seconds
            of the consumer, from asking for a batch to getting it.

    Raises:
        ConfigError: a setting is out of range or contradicts another one.
        ShardError: the dataset is missing or damaged; while iterating: more than `max_unreadable`
            of the images cannot be read.
        YolodataError: while iterating: one of `transforms` fails, or returns another shape.
    """

    batch_sampler = None  # as a torch DataLoader may have it; Lightning reads it beside `sampler`

    @says_where
    def __init__(
        self,
        shards: str | Path | ShardDataset,
        batch_size: int,
        *,
        augment: AugmentConfig | None = None,
        transforms: Any = None,
        labels: LabelOptions | None = None,
        split: str | None = None,
        seed: int = 0,
        epochs: EpochOptions | None = None,
        ranks: Ranks | None = None,
        device: DeviceOptions | str | torch.device = "cpu",
        reading: ReadOptions | None = None,
    ) -> None:
        dataset = open_shards(shards, split)
        self._own_shards = None if dataset is shards else dataset
        labels, epochs = labels or LabelOptions(), epochs or EpochOptions()
        ranks, self._reading = ranks or Ranks(), reading or ReadOptions()
        self.augment = augment or AugmentConfig(imgsz=dataset.meta.imgsz)
        pasting = self.augment.copy_paste > 0
        self._subset = Subset(dataset, labels, imgsz=self.augment.imgsz, outlines=pasting)
        images = self._subset.images
        share = min(whole("batch_size", batch_size, 1), images)
        self._schedule = Schedule(images, share, ranks, epochs.drop_last)
        self.num_workers = self._reading.threads or usable_threads(ranks.world_size)
        self.seed = whole("seed", seed, 0, MAX_SEED)
        self._device = DeviceOptions.of(device)
        check_device(self._device)
        self.device = str(self._device.device)
        self.pin_memory = self._device.pin_memory
        self.cache, self._why = self._device.cache, ""
        self._pinned = ""
        self._transforms = None if transforms is None else composed(transforms)
        self.shuffle = epochs.shuffle
        self.close_mosaic_epoch = epochs.close_mosaic_epoch
        self._settings = {
            "task": labels.task,
            "single_cls": labels.single_cls,
            "classes": labels.classes,
            "fraction": labels.fraction,
            "shuffle": epochs.shuffle,
            "close_mosaic_epoch": epochs.close_mosaic_epoch,
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
        self.on_out_of_memory: Callable[[Exception], Batch] | None = None
        self._prefetch = self._reading.prefetch or _PREFETCH
        self._prefetcher = Prefetcher(self._schedule, self._prefetch, epochs.epochs)
        self._backend: Backend | None = None
        self._close_backend: weakref.finalize[Any, Any] | None = None
        self._closed = False
        self._owner = Owner()
        self._reported: set[int] = set()
        self.telemetry = Telemetry()

        self.dataset = DatasetView(self._subset, close_mosaic=weakly(self.close_mosaic))
        self.sampler = EpochSampler(self._schedule, weakly(self._images_at), weakly(self.set_epoch))

    def __repr__(self) -> str:
        """Returns what it makes batches of, how, and where it is."""
        ranks = self._schedule
        return (
            f"<Loader of {self._subset.shards.path}: {self._subset.images} images for "
            f"{self._subset.task}, batch_size={self.batch_size}, imgsz={self.augment.imgsz}, "
            f"device={self.device}, cache={self.cache}, seed={self.seed}, epoch={self._epoch}, "
            f"position={self._position}, rank={ranks.rank} of {ranks.world_size}"
            f"{', closed' if self._closed else ''}>"
        )

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
        """Where decoded images are on a device, and why; on which NUMA nodes threads are kept.

        "" until a batch was asked for, and where there is nothing to say: on the CPU, if no threads
        are kept on nodes (a machine with one node, or `pin` "off").
        """
        share = self.hw_decoder_load
        said = (self._why, self._pinned, "" if share is None else f"hw_decoder_load={share}")
        return "; ".join(part for part in said if part)

    @property
    def hw_decoder_load(self) -> float | None:
        """The share that a GPU's JPEG engine decodes; None where no GPU decodes, or not yet."""
        return None if self._backend is None else self._backend.hw_decoder_load

    # Where in the stream.

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the next iteration, which starts at its beginning.

        Naming the epoch that `load_state_dict` restored keeps the position in it.

        Args:
            epoch: 0 to 2**32 - 1.

        Raises:
            ConfigError: it is out of range, or another thread or process uses the loader.
        """
        epoch = whole("epoch", epoch, 0, MAX_EPOCH)
        with self._owner:
            self._prefetcher.settle()
            if not (self._resumed and epoch == self._epoch):
                self._epoch, self._position, self._resumed = epoch, 0, False
            self._active = None

    def state_dict(self) -> dict[str, Any]:
        """Returns where the consumer is: plain data, the same on every rank, small enough for JSON.

        Counts batches that were handed out, not prefetched ones. Taken between two batches,
        loading it gives the batches that would have followed; exactly, if `hw_decoder_load` is 0.
        """
        with self._owner:
            if self._fingerprint is None:
                self._fingerprint = resume_state.dataset_fingerprint(self._subset)
            return {
                "version": 1,
                "seed": self.seed,
                "epoch": self._epoch,
                "position": self._position,
                "mosaic_closed": self._mosaic_closed,
                "dataset": dict(self._fingerprint),
                "settings": resume_state.plain(self._settings),
            }

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken, under this or another world or batch size.

        Args:
            values: what `state_dict` returned, as it was or read back from JSON.

        Raises:
            ConfigError: this is no state, or one of another dataset or of other settings; names
                what is wrong or differs. Nothing has changed then.
        """
        with self._owner:
            place = resume_state.place_of(values, self.state_dict(), self._subset)
            self._prefetcher.settle()
            self.seed = place.seed
            self._epoch, self._position = place.epoch, place.position
            self._mosaic_closed = place.mosaic_closed
            self._resumed = True
            self._active = None
            self._discard()

    def close_mosaic(self) -> None:
        """Turns off mosaic, copy-paste, mixup and cutmix in every batch handed out from now on.

        Prefetched batches are thrown away and made anew. With `close_mosaic_epoch`, which
        throws nothing away, this need not be called.
        """
        with self._owner:
            if not self._mosaic_closed:
                self._prefetcher.settle()
                self._mosaic_closed = True
                self._discard()

    def reset(self) -> None:
        """Throws prefetched batches away; the position in the stream stays."""
        with self._owner:
            self._prefetcher.settle()
            self._discard()

    # Batches.

    def __iter__(self) -> Iterator[Batch]:
        """Returns one epoch of batches; it begins when the first one is asked for."""
        with self._owner:
            self._refuse_closed()
        return Epoch(self._next)

    def _next(self, caller: Epoch) -> Batch:
        with self._owner:
            if caller.ended:
                raise StopIteration
            return self._next_batch(caller)

    def _next_batch(self, caller: Epoch) -> Batch:
        # Time in which a device whose loss is looked at in every step has nothing to do.
        asked = time.perf_counter()
        self._refuse_closed()
        self._prefetcher.settle()
        if caller.token is not self._active:
            if caller.begun:
                raise ConfigError(
                    "this iteration was ended by a later one, by set_epoch or by load_state_dict; "
                    "call iter(loader) again"
                )
            self._begin(caller)
        head = self._prefetcher.at(self._epoch, self._position)
        if head is None:
            if self._schedule.ends(self._position):
                if self._epoch < MAX_EPOCH:  # or else the place stays at the end of everything
                    self._epoch, self._position = self._epoch + 1, 0
                caller.ended, self._active = True, None
                raise StopIteration
            self._fill()
            head = self._prefetcher.at(self._epoch, self._position)
            assert head is not None
        try:
            head.pending.wait()
        except Exception as error:
            if self.on_out_of_memory is None or not is_out_of_memory(error):
                raise
            return self.on_out_of_memory(error)
        unreadable, share = self._open_backend().unreadable, self._reading.max_unreadable
        if len(unreadable) > len(self._reported):
            self.telemetry.count("unreadable", len(unreadable) - len(self._reported))
        report_unreadable(self._subset, unreadable, self._reported, share)
        collated = head.collated or self._collate(head.pending)
        self._prefetcher.pop()
        self._position = head.stop
        self._prefetcher.fill_in_background(self._fill)
        self.telemetry.record(
            {**collated.seconds, "wait": time.perf_counter() - asked},
            {"batches": 1, "samples": collated.samples},
        )
        return collated.batch

    def _begin(self, caller: Epoch) -> None:
        if self._position and not self._resumed:  # the last iteration was given up half-way
            if self._epoch == MAX_EPOCH:
                raise ConfigError(
                    "epoch 2**32 - 1 is the last one; choose another with set_epoch, or another "
                    "seed for a new stream"
                )
            self._epoch, self._position = self._epoch + 1, 0
        self._resumed = False
        self._active = caller.token
        caller.begun = True

    def _fill(self) -> None:
        """Has `prefetch` batches in the making from the current position on, and no others."""
        if not self._prefetcher.begins_at(self._epoch, self._position):
            self._discard()
        self._prefetcher.fill(self._epoch, self._position, self._submit)
        self._prefetcher.collate(self._collate)

    def _submit(self, epoch: int, start: int, positions: npt.NDArray[np.int64]) -> PendingBatch:
        age = epoch * self._subset.images + start
        backend = self._open_backend()
        return backend.submit(self._config(epoch), self.seed, epoch, positions, age)

    def _config(self, epoch: int) -> PlanConfig:
        closed = self._mosaic_closed or (
            self.close_mosaic_epoch is not None and epoch >= self.close_mosaic_epoch
        )
        if closed not in self._configs:
            augment = self.augment.without_mix() if closed else self.augment
            self._configs[closed] = self._subset.plan_config(augment, self.shuffle)
        return self._configs[closed]

    def _collate(self, pending: PendingBatch) -> Collated:
        start = time.perf_counter()
        images = pending.first_images()
        batch = training_batch(self._subset, images, pending.image, pending.labels())
        seconds = {**pending.seconds(), "collate": time.perf_counter() - start}
        return Collated(batch, len(images), seconds)

    def _discard(self) -> None:
        for pending in self._prefetcher.clear():
            self.telemetry.count("discarded")
            if self._backend is not None:
                self._backend.discard(pending)

    # Life and death.

    def _refuse_closed(self) -> None:
        if self._closed:
            raise ConfigError("the loader is closed; make a new one")

    def _open_backend(self) -> Backend:
        if self._backend is None:
            ranks = self._schedule
            where = pinning(
                self._reading.pin, self.num_workers, self._device, ranks.rank, ranks.world_size
            )
            spec = BackendSpec(
                self._subset,
                self._device,
                threads=self.num_workers,
                check=self._reading.check,
                window=window_of(self._config(0), self._schedule.world_size),
                in_flight=(self._prefetch + 2) * self.batch_size,
                telemetry=self.telemetry,
                transforms=self._transforms,
                pinning=where,
            )
            self._backend = open_backend(spec)
            self.cache, self._why = self._backend.cache, self._backend.cache_reason
            self._pinned = where.what
            self._close_backend = finalize(
                self, _close, self._prefetcher, self._backend, self._own_shards
            )
        return self._backend

    def unreadable(self) -> dict[str, str]:
        """Returns images that could not be read so far: path and reason."""
        found = self._backend.unreadable if self._backend is not None else {}
        return {self._subset.shards.name(i): found[i] for i in sorted(found)}

    def close(self) -> None:
        """Stops the threads, frees the memory, lets go of shards that it opened itself.

        Batches handed out stay valid.
        """
        if self._closed or os.getpid() != self._owner.process:
            return
        with self._owner:
            self._closed = True
            self._active = None
            if self._close_backend is not None:
                self._close_backend()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _close(prefetcher: Prefetcher, backend: Backend, own_shards: ShardDataset | None) -> None:
    prefetcher.close(backend.close)
    if own_shards is not None:
        own_shards.close()
    give_back_memory()


def check_device(device: DeviceOptions) -> None:
    """Raises ConfigError if there is no such device, before anything is read.

    Also if YOLODATA_SIMD is nothing that the processor has: its threads take part on any device.
    """
    from yolodata import _native

    try:
        _native.instruction_set()
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if not device.on_cpu:
        from yolodata.pipeline.gpu import stream

        stream.check_device(device.device)


def open_backend(spec: BackendSpec) -> Backend:
    """Opens CPU threads, or a device.

    Raises:
        ConfigError: there is no such device.
    """
    if spec.device.on_cpu:
        from yolodata.pipeline.cpu.backend import CpuBackend

        return CpuBackend(spec)
    from yolodata.pipeline.gpu.backend import GpuBackend

    return GpuBackend(spec)
