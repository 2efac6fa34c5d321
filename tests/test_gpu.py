"""Loaders of every task on a real device, and what training asks of them there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loading import digest, draw_dataset, grouped, packed
from test_pose import with_keypoints
from test_segment import with_outlines

import yolodata
from yolodata import AugmentConfig, Loader

pytestmark = pytest.mark.gpu
IMGSZ = 64


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Raw shards for each task."""
    root = tmp_path_factory.mktemp("tasks")
    drawn = {
        task: draw_dataset(root / task, {"train": 24, "val": 4}) for task in ("shapes", "pose")
    }
    shapes, pose = with_outlines(drawn["shapes"]), with_keypoints(drawn["pose"])
    made = {"shapes": root / "shapes-shards", "pose": root / "pose-shards"}
    for split in ("train", "val"):
        packed(shapes, made["shapes"], "raw", IMGSZ, splits=[split])
        packed(pose, made["pose"], "raw", IMGSZ, splits=[split], task="pose")
    return {"segment": made["shapes"], "obb": made["shapes"], "pose": made["pose"]}


def stream(loader: Loader) -> list[str]:
    """Hashes of two epochs, wherever they were made."""
    hashes = []
    for _ in range(2):
        for batch in loader:
            hashes.append(
                digest({k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in batch.items()})
            )
    return hashes


@pytest.mark.parametrize("cache", ["device", "host", "none"])
@pytest.mark.parametrize("task", ["segment", "obb", "pose"])
def test_every_task_has_the_stream_of_the_cpu(datasets, task: str, cache: str) -> None:
    pasted = {} if task == "pose" else {"copy_paste": 0.8}
    augment = AugmentConfig(imgsz=IMGSZ, mixup=0.4, cutmix=0.4, degrees=10.0, **pasted)
    settings: dict[str, Any] = {"augment": augment, "task": task, "seed": 2}
    with Loader(datasets[task], 4, **grouped(**settings)) as loader:
        want = stream(loader)
    with Loader(datasets[task], 4, **grouped(device="cuda", cache=cache, **settings)) as loader:
        assert stream(loader) == want


@pytest.mark.parametrize("output", ["float16", "bfloat16"])
def test_channels_last_reaches_the_first_convolution(datasets, output: str) -> None:
    """In the memory order and the type that it computes in: there is nothing left to convert."""
    dtype = getattr(torch, output)
    layer = torch.nn.Conv2d(3, 16, 3, device="cuda").to(memory_format=torch.channels_last)
    settings: dict[str, Any] = {"augment": AugmentConfig(imgsz=IMGSZ), "device": "cuda"}
    with (
        Loader(
            datasets["obb"], 4, **grouped(output=output, channels_last=True, **settings)
        ) as last,
        Loader(datasets["obb"], 4, **grouped(output=output, **settings)) as first,
    ):
        for ours, other in zip(last, first, strict=True):
            picture = ours["img"]
            assert picture.dtype == dtype
            assert picture.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(picture, other["img"])
            with torch.autocast("cuda", dtype):
                made = layer(picture)
            assert made.is_contiguous(memory_format=torch.channels_last)
            with torch.autocast("cuda", dtype):
                close = layer(other["img"].contiguous())
            torch.testing.assert_close(made, close, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("amp", [True, False])
def test_trains_in_mixed_precision(datasets, tmp_path: Path, monkeypatch, amp: bool) -> None:
    """Batches come as the first convolution wants them, and the weights stay numbers."""
    from test_ultralytics import copies, train

    # It compares two inferences, with weights that it would have to download.
    monkeypatch.setattr("ultralytics.engine.trainer.check_amp", lambda model: True)
    given: list[torch.Tensor] = []

    class Watched(yolodata.SegmentationTrainer):
        def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
            given.append(batch["img"])
            return super().preprocess_batch(batch)

    trainer, _ = train(
        tmp_path, datasets["segment"], trainer=Watched, model="yolo26n-seg.yaml", device=0,
        amp=amp, epochs=1,
    )  # fmt: skip
    assert len(given) >= 6
    assert {picture.dtype for picture in given} == {torch.float16 if amp else torch.uint8}
    assert all(picture.is_cuda for picture in given)
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in given)
    model = trainer.model.float().to(memory_format=torch.channels_last)
    layer = next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d))
    if amp:
        with torch.autocast("cuda", torch.float16):
            assert copies(layer, given[0]) == []
            assert copies(layer, given[0].contiguous())  # negative control
    weights = torch.load(trainer.last, weights_only=False)["model"]
    assert all(np.isfinite(w.float().cpu().numpy()).all() for w in weights.parameters())
