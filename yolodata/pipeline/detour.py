"""Samples of a device's batch that only the CPU can change: they take a detour through the host.

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

from yolodata.pipeline.device import Mark, Output, Queue, Staging
from yolodata.pipeline.filtering import PLACED, memory_for
from yolodata.pipeline.retouch import Bytes, Retoucher, changed
from yolodata.telemetry import Telemetry

if TYPE_CHECKING:
    import torch

_LOOK = 0.001  # seconds between looks at the device; to wait for an event keeps a core busy


class Detours:
    """What a loader needs for them; used by one thread at a time.

    Args:
        retoucher: whose threads apply the transforms.
        queue: of the device.
        output: what pictures are made as.
        telemetry: adds up seconds of "retouch".
    """

    def __init__(
        self, retoucher: Retoucher, queue: Queue, output: Output, telemetry: Telemetry
    ) -> None:
        self._retoucher, self._queue, self._output = retoucher, queue, output
        self._telemetry = telemetry
        self._staging = Staging(queue)
        self._away: list[Detour] = []

    def begin(
        self,
        render_tasks: Bytes,
        uploaded: torch.Tensor,
        samples: Mapping[int, int],
        batch: torch.Tensor,
    ) -> Detour:
        """Send samples of a batch off.

        Args:
            render_tasks: of the batch, uint8 (B * RENDER_TASK_BYTES,) in host memory.
            uploaded: the same on the device, with the masks that they point to.
            samples: places in the batch, and what the transforms draw from there.
            batch: where the pictures of all samples are being rendered to, (B, 3, H, W).

        Raises:
            torch.OutOfMemoryError: the device has no memory for it; nothing was begun.
        """
        from yolodata import _native

        self.sweep()
        queue, count = self._queue, len(samples)
        height, width = batch.shape[2:]
        render_task, nbytes = int(_native.RENDER_TASK_BYTES), 3 * height * width
        size, each = count * render_task, 2 * render_task + nbytes
        # The halves of the render tasks, then the pictures.
        there = queue.memory(count * each)
        here = self._staging.take(memory_for(count, each))
        memory = here[: count * each]
        places = there.data_ptr() + 2 * size + nbytes * np.arange(count, dtype=np.uint64)
        placed, finished = memory[:size], memory[size : 2 * size]
        _native.split_render_tasks(
            render_tasks,
            np.array(list(samples), np.int64),
            places,
            placed.numpy(),
            finished.numpy(),
        )
        queue.copy(memory[: 2 * size], there[: 2 * size])
        shape = (count, 3, height, width)
        queue.render(there[:size], shape, PLACED, into=there[2 * size :])
        queue.copy(there[2 * size :], memory[2 * size :])
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
        detour = Detour(queue, self._output, self._telemetry, here, uploaded)
        self._away.append(detour)
        detour.begin(away, self._retoucher)
        return detour

    def sweep(self) -> None:
        """Take memory back of those that are over."""
        away = []
        for detour in self._away:
            if not detour.over():
                away.append(detour)
            elif detour.mark is not None:
                self._staging.give(detour.memory, None)
        self._away = away

    def close(self) -> None:
        """End the threads, after the samples that have begun."""
        self._retoucher.close()

    def forget(self) -> None:
        """Let go of memory that the device used, once it is done."""
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


class Detour:
    """The samples of one batch; waited for like a native job.

    Attributes:
        memory: page-locked, in use until it is `over`.
        mark: the moment when all are back in the batch; once `wait` has returned True.
    """

    def __init__(
        self,
        queue: Queue,
        output: Output,
        telemetry: Telemetry,
        memory: torch.Tensor,
        uploaded: torch.Tensor,
    ) -> None:
        self._queue, self._output, self._telemetry = queue, output, telemetry
        self.memory = memory
        self._uploaded = uploaded  # has masks that the first halves look at
        self.mark: Mark | None = None
        self._rendered = queue.mark()
        self._samples: list[Future[None]] = []
        self._lock, self._looking = threading.Lock(), threading.Lock()
        self._under_way = 0
        self._ended = threading.Event()
        self._error: BaseException | None = None

    def begin(self, samples: Sequence[_Sample], retoucher: Retoucher) -> None:
        """Hand all of them to the threads."""
        self._under_way = len(samples)
        for sample in samples:
            future = retoucher.run(partial(self._retouch, sample))
            self._samples.append(future)
            future.add_done_callback(self._one_ended)

    def _retouch(self, sample: _Sample, transforms: Any) -> None:
        import cv2

        with self._looking:  # one thread of a batch is enough
            while not self._rendered.done():
                time.sleep(_LOOK)
        start = time.thread_time()
        _, _, height, width = sample.place.shape
        picture = sample.here.numpy().reshape(height, width, 3)
        # New memory: a transform may keep what it was given.
        result = changed(transforms, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), sample.seed)
        cv2.cvtColor(result, cv2.COLOR_BGR2RGB, dst=picture)
        shape = tuple(sample.place.shape)
        self._queue.copy(sample.here, sample.there)
        self._queue.render(sample.finished, shape, self._output, into=sample.place)
        self._telemetry.add("retouch", time.thread_time() - start)

    def _one_ended(self, _: Future[None]) -> None:
        with self._lock:
            self._under_way -= 1
            if self._under_way:
                return
        try:
            self.mark = self._queue.mark()
        except BaseException as error:  # surfaces in the consumer
            self._error = error
        finally:
            self._ended.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether all is enqueued; raises what went wrong."""
        if not self._ended.wait(timeout):
            return False
        for sample in self._samples:
            sample.result()
        if self._error is not None:
            raise self._error
        return True

    def done(self) -> bool:
        """Whether no thread works for it any more."""
        return self._ended.is_set()

    def over(self) -> bool:
        """Whether the device has done what was enqueued for it, too."""
        return self.done() and (self.mark is None or self.mark.done())

    def cancel(self) -> None:
        """Drop samples that no thread has begun."""
        for sample in self._samples:
            sample.cancel()
