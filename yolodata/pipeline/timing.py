"""How fast a device renders from where pictures lie: measured, since it depends on the machine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from yolodata.pipeline.config import AugmentConfig
from yolodata.pipeline.device import Output, Queue
from yolodata.pipeline.device_work import render_task_bytes
from yolodata.pipeline.selection import Selection
from yolodata.pipeline.work import wait_for

if TYPE_CHECKING:
    import torch

    from yolodata import _native
    from yolodata.pipeline.tiers import Resident

_BATCH = 64
_TURNS = 3  # besides a first one, which costs what no other does


def render_seconds(
    selection: Selection, queue: Queue, places: Mapping[str, Resident], images: int
) -> dict[str, float]:
    """Time the renderer on the first images, which lie in several places, in turns.

    Args:
        selection: whose images they are.
        queue: of the device; nothing else should be going on there.
        places: names, and where the first `images` images are.
        images: how many pictures are rendered, each from one image.

    Returns:
        for each place the seconds of its fastest turn.
    """
    from yolodata import _native

    config = selection.plan_config(AugmentConfig(imgsz=selection.imgsz, mosaic=0.0), False)
    shape = (3, selection.imgsz, selection.imgsz)
    engine = _native.Engine(1)
    try:
        batches = {
            name: [
                _render_tasks(
                    engine, selection, queue, config, place, first, min(images, first + _BATCH)
                )
                for first in range(0, images, _BATCH)
            ]
            for name, place in places.items()
        }
        best = dict.fromkeys(places, float("inf"))
        for turn in range(1 + _TURNS):
            for name, render_tasks in batches.items():
                queue.mark().wait()
                start = time.perf_counter()
                for count, memory in render_tasks:
                    queue.render(memory, (count, *shape), Output())
                queue.mark().wait()
                if turn:
                    best[name] = min(best[name], time.perf_counter() - start)
        return best
    finally:
        engine.close()


def _render_tasks(
    engine: _native.Engine,
    selection: Selection,
    queue: Queue,
    config: _native.PlanConfig,
    place: Resident,
    first: int,
    last: int,
) -> tuple[int, torch.Tensor]:
    """How many pictures, and on the device what the renderer needs to know of them."""
    count = last - first
    host, device = queue.pinned(render_task_bytes(count)), queue.memory(render_task_bytes(count))
    wait_for(
        engine.submit(
            selection.index(), config, 0, 0, np.arange(first, last), host.numpy(),
            place.shard, place.offset, place.base,
        )
    )  # fmt: skip
    queue.copy(host, device)
    queue.mark().wait()
    return count, device
