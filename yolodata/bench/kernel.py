"""The renderer alone: from pictures that are on the device into memory that is there, too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from yolodata.bench.gpu import POOL_BYTES, Burst
from yolodata.bench.rows import Row
from yolodata.bench.source_bytes import source_bytes
from yolodata.bench.subject import Task
from yolodata.errors import ConfigError

_BATCH = 64  # at least: a launch of a few pictures would measure launches
_BATCHES = 8  # that rotate, of different recipes
_CHECKED = 4  # pictures of each batch that are compared with the CPU renderer's
_CORNERS = 24  # of an outline that is drawn: about as many as COCO's have

RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "rotated": {"degrees": 10.0},
    "segment": {"copy_paste": 0.5, "mixup": 0.15},
}
"""What is rendered, by name: what differs from Ultralytics' default augmentation. Rotation and
pasting have slower steps of their own."""


def _with_outlines(shards: Any) -> Any:
    """The label table of shards; outlines are ellipses in the boxes, of other objects there are
    none to paste."""
    from yolodata import _native

    turn = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], 1) / 2
    box = np.asarray(shards.box, np.float32)
    points = box[:, None, :2] + circle[None] * box[:, None, 2:4]
    ends = np.arange(0, _CORNERS * len(box) + 1, _CORNERS, dtype=np.uint64)
    return _native.Index(
        np.asarray(shards.height, np.uint32), np.asarray(shards.width, np.uint32),
        np.asarray(shards.object_offset, np.uint64), np.asarray(shards.cls, np.float32), box, ends,
        np.clip(points, 0, 1).reshape(-1, 2).astype(np.float32), outline_points=100,
    )  # fmt: skip


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
        import torch

        from yolodata import _native
        from yolodata.pipeline.config import AugmentConfig
        from yolodata.shards import reader

        if task.device != "cpu":
            task = replace(task, batch=max(task.batch, _BATCH))
        assert task.data is not None
        super().__init__(task)
        self._output, self._channels_last = row.output, row.channels_last
        self._shape = (task.batch, 3, task.imgsz, task.imgsz)
        shards = reader.open(task.data)
        config = AugmentConfig(imgsz=task.imgsz, **RECIPES[row.recipes]).to_native()
        index = _with_outlines(shards)
        recipes = [
            _native.plan(index, config, task.seed, p // len(shards), p % len(shards))
            for p in range(_BATCHES * task.batch)
        ]
        values = [recipe.to_dict() for recipe in recipes]
        self._source_bytes = float(np.mean([source_bytes(v) for v in values]))
        used = sorted({t["image"] for v in values for y in v["layers"] for t in y["tiles"]})
        host = {i: np.array(shards.image(i)) for i in used}
        self._images = {i: torch.from_numpy(pixels).to(self.device) for i, pixels in host.items()}
        self._shots = [
            self._make_shots(recipes[first : first + task.batch])
            for first in range(0, len(recipes), task.batch)
        ]
        dtype = getattr(torch, row.output)
        nbytes = int(np.prod(self._shape)) * dtype.itemsize
        targets = max(2, min(_BATCHES, POOL_BYTES // nbytes))
        order = torch.channels_last if row.channels_last else torch.contiguous_format
        self._targets = [
            torch.empty(self._shape, dtype=dtype, device=self.device, memory_format=order).zero_()
            for _ in range(targets)
        ]
        self._bytes = 3.0 * task.imgsz * task.imgsz * dtype.itemsize + self._source_bytes
        self._turn = 0
        self._compare(recipes, host)

    def _make_shots(self, recipes: list[Any]) -> Any:
        """Recipes with the addresses of their pictures, and the masks of what is pasted."""
        import torch

        from yolodata import _native

        ids = np.array(sorted(self._images), np.int64)
        pointers = np.array([self._images[int(i)].data_ptr() for i in ids], np.uint64)
        shots = np.empty(len(recipes) * int(_native.SHOT_BYTES), np.uint8)
        engine = _native.Engine(1)
        job = engine.submit_render(recipes, ids, pointers, shots)
        job.wait()
        engine.close()
        memory = torch.empty(len(shots) + job.mask_bytes(), dtype=torch.uint8)
        memory[: len(shots)] = torch.from_numpy(shots)
        there = torch.empty_like(memory, device=self.device)
        job.move_masks(memory.numpy(), there.data_ptr())
        return there.copy_(memory)

    def once(self) -> Any:
        """See `Burst`."""
        import torch

        from yolodata import _native

        shots = self._shots[self._turn % len(self._shots)]
        target = self._targets[self._turn % len(self._targets)]
        self._turn += 1
        count, _, height, width = self._shape
        where = (shots.data_ptr(), count, height, width, target.data_ptr(), self._output,
                 self._channels_last)  # fmt: skip
        if self.device.type == "cuda":
            _native.render_cuda(*where, torch.cuda.current_stream(self.device).cuda_stream)
        else:
            _native.render_blocks(*where)
        return target

    def _compare(self, recipes: list[Any], host: dict[int, Any]) -> None:
        """First equal, then fast."""
        import torch

        from yolodata import _native

        checked = min(_CHECKED, self._shape[0])
        for number in range(len(self._shots)):
            made = self.once()[:checked].cpu()
            first = number * self._shape[0]
            for got, recipe in zip(made, recipes[first : first + checked], strict=True):
                want = torch.from_numpy(_native.render(recipe, host))
                if got.dtype != torch.uint8:
                    want = (want.float() / 255).to(got.dtype)
                if not torch.equal(got, want):
                    raise ConfigError(
                        f"the kernel's pictures ({self._output}) are not the CPU renderer's; "
                        "run `python -m pytest -m gpu tests/test_blocks.py`"
                    )

    def facts(self) -> dict[str, float]:
        """Bytes that a picture moves: what is written, and what is shown of its sources."""
        return {"bytes_each": self._bytes, "source_bytes": self._source_bytes}
