"""The renderer alone, from and into memory of the device; and how much it has to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import cycle
from typing import Any

import numpy as np
import torch

from yolodata import _native
from yolodata.bench.burst import POOL_BYTES, Burst
from yolodata.bench.subject import Row, Task
from yolodata.errors import ConfigError
from yolodata.pipeline.config import AugmentConfig
from yolodata.pipeline.recipe import plan
from yolodata.shards import ShardDataset, reader

_BATCH = 64  # at least: a launch of a few pictures would measure launches
_BATCHES = 8  # that rotate, of different recipes
_CHECKED = 4  # pictures of each batch that are compared with the CPU renderer's
_STEP = 4  # one output pixel of so many in each direction stands for all, of source bytes
_PICTURES = 64  # whose source bytes are averaged
_CORNERS = 24  # of an outline that is drawn: about as many as COCO's have

RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "rotated": {"degrees": 10.0},
    "segment": {"copy_paste": 0.5, "mixup": 0.15},
}
"""What is rendered, by name: what differs from Ultralytics' default augmentation. Rotation and
pasting have slower steps of their own."""


class Kernel(Burst):
    """Launches of the renderer, recipes and pictures rotating among more than a GPU caches.

    On the CPU it is the kernel's body in loops.

    Args:
        row: `output` and `channels_last` are what pictures are made as, `recipes` what is rendered.
        task: `data` is a dataset directory of raw pixels.

    Raises:
        ConfigError: the pictures are not those of the CPU renderer, so their speed means nothing.
    """

    def __init__(self, row: Row, task: Task) -> None:
        if task.device != "cpu":
            task = replace(task, batch=max(task.batch, _BATCH))
        assert task.data is not None
        super().__init__(task)
        self._row = row
        self._shape = (task.batch, 3, task.imgsz, task.imgsz)
        shards = reader.open(task.data)
        config = AugmentConfig(imgsz=task.imgsz, **RECIPES[row.recipes]).to_native()
        index = _with_outlines(shards)
        recipes = [
            _native.plan(index, config, task.seed, p // len(shards), p % len(shards))
            for p in range(_BATCHES * task.batch)
        ]
        values = [recipe.to_dict() for recipe in recipes]
        source = float(np.mean([source_bytes(v) for v in values]))
        used = sorted({t["image"] for v in values for y in v["layers"] for t in y["tiles"]})
        host = {i: np.array(shards.image(i)) for i in used}
        images = {i: torch.from_numpy(pixels).to(self.device) for i, pixels in host.items()}
        self._images = images  # the kernel has their addresses
        self._tasks = cycle([
            upload(recipes[first : first + task.batch], images, self.device)
            for first in range(0, len(recipes), task.batch)
        ])  # fmt: skip
        dtype = getattr(torch, row.output)
        targets = POOL_BYTES // (int(np.prod(self._shape)) * dtype.itemsize)
        order = torch.channels_last if row.channels_last else torch.contiguous_format
        self._targets = cycle([
            torch.empty(self._shape, dtype=dtype, device=self.device, memory_format=order).zero_()
            for _ in range(max(2, min(_BATCHES, targets)))
        ])  # fmt: skip
        # What is written, and what is shown of its sources.
        self.bytes_each = 3.0 * task.imgsz * task.imgsz * dtype.itemsize + source
        self.facts = lambda: {"bytes_each": self.bytes_each, "source_bytes": source}
        self._compare(recipes, host)

    def once(self) -> Any:
        """See `Burst`."""
        target = next(self._targets)
        launch(next(self._tasks), target, self._row.output, self._row.channels_last)
        return target

    def _compare(self, recipes: list[Any], host: dict[int, Any]) -> None:
        """First equal, then fast."""
        checked = min(_CHECKED, self._shape[0])
        for first in range(0, len(recipes), self._shape[0]):
            made = self.once()[:checked].cpu()
            for got, recipe in zip(made, recipes[first : first + checked], strict=True):
                want = torch.from_numpy(_native.render(recipe, host))
                if got.dtype != torch.uint8:
                    want = (want.float() / 255).to(got.dtype)
                if not torch.equal(got, want):
                    raise ConfigError(
                        f"the kernel's pictures ({self._row.output}) are not the CPU renderer's; "
                        "run `python -m pytest -m gpu tests/test_kernel_emulation.py`"
                    )


def upload(recipes: list[Any], images: dict[int, torch.Tensor], device: torch.device) -> Any:
    """What the kernel reads for some recipes: their tasks, and the masks of what is pasted."""
    ids = np.array(sorted(images), np.int64)
    pointers = np.array([images[int(i)].data_ptr() for i in ids], np.uint64)
    tasks = np.empty(len(recipes) * int(_native.RENDER_TASK_BYTES), np.uint8)
    engine = _native.Engine(1)
    job = engine.submit_render(recipes, ids, pointers, tasks)
    job.wait()
    engine.close()
    memory = torch.empty(len(tasks) + job.mask_bytes(), dtype=torch.uint8)
    memory[: len(tasks)] = torch.from_numpy(tasks)
    there = torch.empty_like(memory, device=device)
    job.move_masks(memory.numpy(), there.data_ptr())
    return there.copy_(memory)


def launch(tasks: torch.Tensor, target: torch.Tensor, output: str, channels_last: bool) -> None:
    """Enqueue the kernel on the current stream; on the CPU, run its body in loops.

    Args:
        tasks: see `upload`.
        target: (B, 3, H, W) of dtype `output`, where the pictures go.
        output: name of its dtype.
        channels_last: its memory order.
    """
    count, _, height, width = target.shape
    where = (tasks.data_ptr(), count, height, width, target.data_ptr(), output, channels_last)
    if target.device.type == "cuda":
        _native.render_cuda(*where, torch.cuda.current_stream(target.device).cuda_stream)
    else:
        _native.render_emulated(*where)


def _with_outlines(shards: Any) -> Any:
    """The label table of shards; outlines are ellipses in the boxes, of other objects there are
    none to paste."""
    turn = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], 1) / 2
    box = np.asarray(shards.box, np.float32)
    points = box[:, None, :2] + circle[None] * box[:, None, 2:4]
    ends = np.arange(0, _CORNERS * len(box) + 1, _CORNERS, dtype=np.uint64)
    return _native.LabelTable(
        np.asarray(shards.height, np.uint32), np.asarray(shards.width, np.uint32),
        np.asarray(shards.object_offset, np.uint64), np.asarray(shards.cls, np.float32), box, ends,
        np.clip(points, 0, 1).reshape(-1, 2).astype(np.float32), outline_points=100,
    )  # fmt: skip


def mean_source_bytes(shards: ShardDataset, augment: AugmentConfig, *, seed: int = 0) -> float:
    """Mean of `source_bytes` over the first pictures of a loader's stream."""
    positions = range(min(len(shards), _PICTURES))
    recipes = (plan(augment, shards, seed=seed, position=p).to_dict() for p in positions)
    return float(np.mean([source_bytes(recipe) for recipe in recipes]))


def source_bytes(recipe: Mapping[str, Any]) -> float:
    """Bytes of source pixels that a recipe shows, each one counted once.

    The part of the output that a tile covers is found on a grid of output pixels. It is as many
    source pixels as its area times the local zoom, at most the whole tile. Layers that a mixup
    or a cutmix adds are counted as far as they are shown.
    """
    height, width = recipe["size"]
    y, x = np.mgrid[_STEP // 2 : height : _STEP, _STEP // 2 : width : _STEP].astype(np.float64)
    cell = height * width / x.size
    total = 0.0
    for number, layer in enumerate(recipe["layers"]):
        shown = _shown(recipe, number, x, y)
        inverse = np.linalg.inv(np.array(layer["matrix"], np.float64).reshape(3, 3))
        u, v, w = np.tensordot(inverse, np.stack([x, y, np.ones_like(x)]), axes=1)
        u, v = u / w, v / w
        # Source pixels an output pixel: the Jacobian of a projective map.
        zoom = np.abs(np.linalg.det(inverse) / w**3)
        covered = np.zeros(x.shape, bool)
        for tile in reversed(layer["tiles"]):  # later tiles lie on top
            inside = (u >= tile["x1"]) & (u < tile["x2"]) & (v >= tile["y1"]) & (v < tile["y2"])
            here = inside & ~covered & shown
            covered |= inside
            area = (tile["x2"] - tile["x1"]) * (tile["y2"] - tile["y1"])
            total += min(float(zoom[here].sum()) * cell, float(area))
    return 3.0 * total


def _shown(recipe: Mapping[str, Any], layer: int, x: Any, y: Any) -> Any:
    """Which output pixels show a layer: all, but of the layers of a cutmix."""
    if (cut := recipe["cutmix"]) is None:
        return np.ones(x.shape, bool)
    x1, y1, x2, y2 = cut["area"]
    inside = (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
    return inside if layer == cut["layer"] else ~inside
