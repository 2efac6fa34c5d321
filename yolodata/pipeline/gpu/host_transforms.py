"""Samples of a batch that only the CPU can change: they go to the host and back.

    device  renders the batch, and of these samples what places pixels (`csrc/plan/split_colour.h`)
    thread  waits for that, applies the transforms in host memory, and enqueues the rest:
    device  takes the picture back, and renders colours and flips into its place of the batch

So they are made of the same pixels as all others, whatever decoded them, and only the transforms
cost the CPU anything. All memory is taken before a thread begins.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from yolodata.pipeline.albumentations.pool import TransformPool
from yolodata.pipeline.albumentations.transforms import Bytes, apply
from yolodata.pipeline.gpu.device_transforms import PLACED, memory_for
from yolodata.pipeline.gpu.stream import Event, Output, StagingPool, Stream
from yolodata.telemetry import Telemetry

if TYPE_CHECKING:
    import torch

_LOOK = 0.001  # seconds between looks at the device; to wait for an event keeps a core busy


class HostTransforms:
    """What a loader needs for them; used by one thread at a time.

    Args:
        pool: whose threads apply the transforms.
        stream: of the device.
        output: what pictures are made as.
        telemetry: adds up seconds of "transform".
    """

    def __init__(
        self, pool: TransformPool, stream: Stream, output: Output, telemetry: Telemetry
    ) -> None:
        self._pool, self._stream, self._output = pool, stream, output
        self._telemetry = telemetry
        self._staging = StagingPool(stream)
        self._away: list[HostTransformJob] = []

    def begin(
        self,
        tasks: Bytes,
        uploaded: torch.Tensor,
        samples: Mapping[int, int],
        batch: torch.Tensor,
    ) -> HostTransformJob:
        """Sends samples of a batch off.

        Args:
            tasks: of the batch, uint8 (B * RENDER_TASK_BYTES,) in host memory.
            uploaded: the same on the device, with the masks that they point to.
            samples: places in the batch, and what the transforms draw from there.
            batch: where the pictures of all samples are being rendered to, (B, 3, H, W).

        Raises:
            torch.OutOfMemoryError: the device has no memory for it; nothing was begun.
        """
        from yolodata import _native

        self.sweep()
        stream, count = self._stream, len(samples)
        height, width = batch.shape[2:]
        render_task, nbytes = int(_native.RENDER_TASK_BYTES), 3 * height * width
        size, each = count * render_task, 2 * render_task + nbytes
        # The halves of the tasks, then the pictures.
        there = stream.empty(count * each)
        here = self._staging.take(memory_for(count, each))
        memory = here[: count * each]
        places = there.data_ptr() + 2 * size + nbytes * np.arange(count, dtype=np.uint64)
        placed, finished = memory[:size], memory[size : 2 * size]
        _native.split_render_tasks(
            tasks, np.array(list(samples), np.int64), places, placed.numpy(), finished.numpy()
        )
        stream.copy(memory[: 2 * size], there[: 2 * size])
        shape = (count, 3, height, width)
        stream.render(there[:size], shape, PLACED, into=there[2 * size :])
        stream.copy(there[2 * size :], memory[2 * size :])
        away = []
        for i, (at, seed) in enumerate(samples.items()):
            begin, end = 2 * size + i * nbytes, 2 * size + (i + 1) * nbytes
            sample = _Sample(
                seed,
                here=memory[begin:end],
                there=there[begin:end],
                finished=there[size + i * render_task : size + (i + 1) * render_task],
                place=batch[at : at + 1],
            )
            away.append(sample)
        job = HostTransformJob(stream, self._output, self._telemetry, here, uploaded)
        self._away.append(job)
        job.begin(away, self._pool)
        return job

    def sweep(self) -> None:
        """Takes memory back of jobs that are over."""
        away = []
        for job in self._away:
            if not job.over():
                away.append(job)
            elif job.event is not None:
                self._staging.give(job.memory, None)
        self._away = away

    def close(self) -> None:
        """Ends the threads, after the samples that have begun."""
        self._pool.close()

    def forget(self) -> None:
        """Frees memory that the device used, once it is done."""
        self._away.clear()


@dataclass(frozen=True)
class _Sample:
    """A sample on its way.

    Attributes:
        seed: what the transforms draw from.
        here, there: the memory of its picture, uint8 (H * W * 3,), on the host and on the device.
        finished: what colours and flips it, on the device.
        place: in the batch, (1, 3, H, W).
    """

    seed: int
    here: torch.Tensor
    there: torch.Tensor
    finished: torch.Tensor
    place: torch.Tensor


class HostTransformJob:
    """The samples of one batch; waited for like a native job.

    Attributes:
        memory: page-locked, in use until it is `over`.
        event: when all are back in the batch; once `wait` has returned True.
    """

    def __init__(
        self,
        stream: Stream,
        output: Output,
        telemetry: Telemetry,
        memory: torch.Tensor,
        uploaded: torch.Tensor,
    ) -> None:
        self._stream, self._output, self._telemetry = stream, output, telemetry
        self.memory = memory
        self._uploaded = uploaded  # has masks that the first halves look at
        self.event: Event | None = None
        self._rendered = stream.record_event()
        self._samples: list[Future[None]] = []
        self._lock, self._looking = threading.Lock(), threading.Lock()
        self._under_way = 0
        self._ended = threading.Event()
        self._error: BaseException | None = None

    def begin(self, samples: Sequence[_Sample], pool: TransformPool) -> None:
        """Hands all of them to the threads."""
        self._under_way = len(samples)
        for sample in samples:
            future = pool.run(partial(self._transform, sample))
            self._samples.append(future)
            future.add_done_callback(self._one_ended)

    def _transform(self, sample: _Sample, transforms: Any) -> None:
        import cv2

        with self._looking:  # one thread of a batch is enough
            while not self._rendered.query():
                time.sleep(_LOOK)
        start = time.thread_time()
        _, _, height, width = sample.place.shape
        picture = sample.here.numpy().reshape(height, width, 3)
        # New memory: a transform may keep what it was given.
        result = apply(transforms, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), sample.seed)
        cv2.cvtColor(result, cv2.COLOR_BGR2RGB, dst=picture)
        shape = tuple(sample.place.shape)
        self._stream.copy(sample.here, sample.there)
        self._stream.render(sample.finished, shape, self._output, into=sample.place)
        self._telemetry.add("transform", time.thread_time() - start)

    def _one_ended(self, _: Future[None]) -> None:
        with self._lock:
            self._under_way -= 1
            if self._under_way:
                return
        try:
            self.event = self._stream.record_event()
        except BaseException as error:  # surfaces in the consumer
            self._error = error
        finally:
            self._ended.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Returns whether all is enqueued; raises what went wrong."""
        if not self._ended.wait(timeout):
            return False
        for sample in self._samples:
            sample.result()
        if self._error is not None:
            raise self._error
        return True

    def done(self) -> bool:
        """Returns whether no thread works for it any more."""
        return self._ended.is_set()

    def over(self) -> bool:
        """Returns whether the device has done what was enqueued for it, too."""
        return self.done() and (self.event is None or self.event.query())

    def cancel(self) -> None:
        """Drops samples that no thread has begun."""
        for sample in self._samples:
            sample.cancel()
