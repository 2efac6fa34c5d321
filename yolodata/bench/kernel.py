"""The renderer alone: from pictures that are on the device into memory that is there, too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from yolodata.bench.gpu import POOL_BYTES, Burst
from yolodata.bench.rows import Row
from yolodata.bench.subjects import Task
from yolodata.bench.traffic import source_bytes
from yolodata.errors import ConfigError

_BATCH = 64  # at least: a launch of a few pictures would measure launches
_BATCHES = 8  # that rotate, of different recipes
_CHECKED = 4  # pictures of each batch that are compared with the CPU renderer's


class Kernel(Burst):
    """Launches of the renderer, recipes and pictures rotating among more than a GPU caches.

    On the CPU it is the kernel's body in loops.

    Args:
        row: `output` is what pictures are made as, `degrees` how far they are rotated.
        task: `data` is a dataset directory of raw pixels.

    Raises:
        ConfigError: the pictures are not those of the CPU renderer, so their speed means nothing.
    """

    def __init__(self, row: Row, task: Task) -> None:
        import torch

        from yolodata.pipeline.config import AugmentConfig
        from yolodata.pipeline.recipe import plan
        from yolodata.shards import reader

        if task.device != "cpu":
            task = replace(task, batch=max(task.batch, _BATCH))
        assert task.data is not None
        super().__init__(task)
        self._output = row.output
        self._shape = (task.batch, 3, task.imgsz, task.imgsz)
        shards = reader.open(task.data)
        augment = AugmentConfig(imgsz=task.imgsz, degrees=row.degrees)
        positions = np.arange(_BATCHES * task.batch)
        recipes = [
            plan(augment, shards, seed=task.seed, epoch=int(p) // len(shards),
                 position=int(p) % len(shards))
            for p in positions
        ]  # fmt: skip
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
        self._targets = [
            torch.zeros(self._shape, dtype=dtype, device=self.device) for _ in range(targets)
        ]
        self._bytes = 3.0 * task.imgsz * task.imgsz * dtype.itemsize + self._source_bytes
        self._turn = 0
        self._compare(recipes, host)

    def _make_shots(self, recipes: list[Any]) -> Any:
        """Recipes with the addresses of their pictures, on the device."""
        import torch

        from yolodata import _native

        ids = np.array(sorted(self._images), np.int64)
        pointers = np.array([self._images[int(i)].data_ptr() for i in ids], np.uint64)
        memory = torch.empty(len(recipes) * int(_native.SHOT_BYTES), dtype=torch.uint8)
        engine = _native.Engine(1)
        engine.submit_render(recipes, ids, pointers, memory.numpy()).wait()
        engine.close()
        return memory.to(self.device)

    def once(self) -> Any:
        """See `Burst`."""
        import torch

        from yolodata import _native

        shots = self._shots[self._turn % len(self._shots)]
        target = self._targets[self._turn % len(self._targets)]
        self._turn += 1
        count, _, height, width = self._shape
        where = (shots.data_ptr(), count, height, width, target.data_ptr(), self._output, False)
        if self.device.type == "cuda":
            _native.render_cuda(*where, torch.cuda.current_stream(self.device).cuda_stream)
        else:
            _native.render_blocks(*where)
        return target

    def _compare(self, recipes: list[Any], host: dict[int, Any]) -> None:
        """First equal, then fast."""
        import torch

        from yolodata import _native

        for number in range(len(self._shots)):
            made = self.once()[:_CHECKED].cpu()
            first = number * self._shape[0]
            for got, recipe in zip(made, recipes[first : first + _CHECKED], strict=True):
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
