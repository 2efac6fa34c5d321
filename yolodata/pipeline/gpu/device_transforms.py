"""Samples of a batch that the device changes itself, as Albumentations' transforms would.

Each is rendered in two halves (see `csrc/plan/split_colour.h`); between them its filters are
applied, one after the other, back and forth between two pictures. A batch takes a few launches for
all of its samples together, and the host waits for none of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from yolodata.pipeline.albumentations.transforms import Bytes
from yolodata.pipeline.gpu.stream import Output, StagingPool, Stream
from yolodata.telemetry import Telemetry

if TYPE_CHECKING:
    import torch

    from yolodata._native import Filter

PLACED = Output("uint8", channels_last=True)  # what is changed between the halves
_ROOM = 8  # samples that there is page-locked memory for, at least


def memory_for(samples: int, each: int) -> int:
    """Returns bytes to take for samples: their number varies, and what serves most is kept."""
    return each * max(_ROOM, 1 << (samples - 1).bit_length())


class DeviceTransforms:
    """What a loader needs for them; used by one thread at a time.

    Args:
        stream: of the device.
        output: what pictures are made as.
        telemetry: counts "filtered" samples.
    """

    def __init__(self, stream: Stream, output: Output, telemetry: Telemetry) -> None:
        self._stream, self._output, self._telemetry = stream, output, telemetry
        self._staging = StagingPool(stream)
        self._lab: torch.Tensor | None = None

    def enqueue(
        self, render_tasks: Bytes, samples: Mapping[int, Sequence[Filter]], batch: torch.Tensor
    ) -> None:
        """Renders samples of a batch anew, with filters between their halves.

        Args:
            render_tasks: of the batch, uint8 (B * RENDER_TASK_BYTES,) in host memory; the masks
                that they point to are on the device.
            samples: places in the batch, in order, and what is applied there, one filter at least.
            batch: where the pictures of all samples are being rendered to, (B, 3, H, W).

        Raises:
            torch.OutOfMemoryError: the device has no memory for it.
        """
        from yolodata import _native

        stream, output, count = self._stream, self._output, len(samples)
        _, _, height, width = batch.shape
        chains, nbytes = list(samples.values()), 3 * height * width
        pictures = stream.empty(2 * count * nbytes)
        # Those made by the first halves, and others for every second round of filters.
        places = pictures.data_ptr() + nbytes * np.arange(2 * count, dtype=np.uint64)
        last = places[np.array([len(chain) % 2 * count for chain in chains]) + np.arange(count)]
        rounds = [
            [i for i in range(count) if len(chains[i]) > number]
            for number in range(max(map(len, chains)))
        ]
        filters = [chains[i][number] for number, which in enumerate(rounds) for i in which]
        source = [number % 2 * count + i for number, which in enumerate(rounds) for i in which]
        target = [(at + count) % (2 * count) for at in source]
        lab, tables = None, np.zeros(len(filters), np.uint64)
        if any(f.tiles for f in filters):
            lab, each = self._lab_tables(), int(_native.FILTER_TABLES_BYTES)
            room = stream.empty(count * each)
            tables = room.data_ptr() + each * (np.array(source, np.uint64) % np.uint64(count))

        render_task, task = int(_native.RENDER_TASK_BYTES), int(_native.FILTER_TASK_BYTES)
        half, end = count * render_task, 2 * count * render_task + len(filters) * task
        uploaded = stream.empty(end)
        memory = self._staging.take(memory_for(count, -(-end // count)))
        here = memory[:end].numpy()
        _native.split_render_tasks(
            render_tasks,
            np.array(list(samples), np.int64),
            last,
            here[:half],
            here[half : 2 * half],
        )
        _native.write_filter_tasks(
            here[2 * half :], filters, height, width, places[source], places[target], tables
        )
        stream.copy(memory[:end], uploaded)
        self._staging.give(memory, stream.record_event())
        placed, finished = uploaded[:half], uploaded[half : 2 * half]
        tasks = uploaded[2 * half :]

        stream.render(placed, (count, 3, height, width), PLACED, into=pictures[: count * nbytes])
        done = 0
        for which in rounds:
            tiles = max(f.tiles for f in filters[done : done + len(which)])
            some = tasks[done * task : (done + len(which)) * task]
            stream.filter(some, (height, width), tiles, lab)
            done += len(which)
        for first, at, number in _runs(list(samples)):
            some = finished[first * render_task : (first + number) * render_task]
            into = batch[at : at + number]
            stream.render(some, tuple(into.shape), output, into=into)
        self._telemetry.count("filtered", count)

    def _lab_tables(self) -> torch.Tensor:
        """Returns what CLAHE turns colours into lightness and back with; uploaded once."""
        from yolodata import _native

        if self._lab is None:
            tables = np.frombuffer(_native.lab_tables(), np.uint8)
            lab, here = self._stream.empty(tables.size), self._staging.take(tables.size)
            here[: tables.size].numpy()[:] = tables
            self._stream.copy(here[: tables.size], lab)
            self._staging.give(here, self._stream.record_event())
            self._lab = lab
        return self._lab

    def forget(self) -> None:
        """Frees memory that the device used, once it is done."""
        self._staging.clear()
        self._lab = None


def _runs(places: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yields runs of neighbours of `places`, which ascend: index, first place, how many."""
    first = 0
    for i in range(1, len(places) + 1):
        if i == len(places) or places[i] != places[i - 1] + 1:
            yield first, places[first], i - first
            first = i
