"""Masks and oriented boxes, from the dataset to training, in every loader and the trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loading import damage, digest, draw_dataset, grouped, packed
from test_ultralytics import (  # noqa: F401 - the fixture is used by its being here
    QUIET,
    _where_torchvision_cannot_be_imported,
    train,
    validated_both_ways,
)
from training import network
from twin import stand_in

import yolodata
from yolodata import AugmentConfig, ConfigError, Loader, ValidationLoader
from yolodata.cli import main

MODES = ("flip", "mixup")
TRAINERS = {"segment": yolodata.SegmentationTrainer, "obb": yolodata.OBBTrainer}


def recipe(mode: str = "flip", **changes: Any) -> AugmentConfig:
    values = {"mixup": 0.4, "cutmix": 0.4, "degrees": 10.0, "copy_paste": 0.8, **changes}
    return AugmentConfig(imgsz=64, copy_paste_mode=mode, **values)


def with_outlines(yaml: Path) -> Path:
    """Turns every box of a drawn dataset into a hexagon."""
    turns = np.arange(6) * np.pi / 3 + 0.2
    for file in (yaml.parent / "labels").rglob("*.txt"):
        rows = []
        for row in filter(None, file.read_text().split("\n")):
            c, x, y, w, h = (float(value) for value in row.split())
            corners = np.stack([x + np.cos(turns) * w / 2, y + np.sin(turns) * h / 2], 1).clip(0, 1)
            rows.append(f"{int(c)} " + " ".join(f"{value:.5f}" for value in corners.ravel()))
        file.write_text("\n".join(rows))
    return yaml


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    return with_outlines(draw_dataset(tmp_path / "set", {"train": 12, "val": 5}))


def stream(loader: Loader) -> list[str]:
    return [digest(batch) for batch in loader]


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_batches_have_masks(shapes: Path, tmp_path: Path, codec: str) -> None:
    shards = packed(shapes, tmp_path / "shards", codec, 64)
    with Loader(shards, 4, **grouped(augment=recipe(), task="segment", threads=2)) as loader:
        batches = list(loader)
    for batch in batches:
        assert list(batch) == sorted(batch)
        assert (batch["masks"].shape, batch["masks"].dtype) == ((4, 16, 16), torch.uint8)
        assert (batch["sem_masks"].shape, batch["sem_masks"].dtype) == ((4, 16, 16), torch.float32)
        for i, mask in enumerate(batch["masks"]):
            assert mask.max() <= (batch["batch_idx"] == i).sum()
    assert sum(int(batch["masks"].max()) for batch in batches)
    settings: dict[str, Any] = {"task": "segment", "overlap_mask": False, "mask_ratio": 2}
    with Loader(shards, 4, **grouped(augment=recipe(), **settings)) as loader:
        for batch in loader:
            assert batch["masks"].shape == (len(batch["cls"]), 32, 32)
            assert set(batch["masks"].unique().tolist()) <= {0, 1}
    with ValidationLoader(shards, 4, **grouped(split="val", task="segment")) as loader:
        assert all(len(batch["masks"]) == len(batch["img"]) for batch in loader)
    with Loader(shards, 4, augment=recipe()) as loader:  # for detection
        assert all("masks" not in batch for batch in loader)


def test_batches_have_oriented_boxes(shapes: Path, tmp_path: Path) -> None:
    shards = packed(shapes, tmp_path / "shards", "raw", 64)
    with Loader(shards, 4, **grouped(augment=recipe(), task="obb")) as loader:
        batches = list(loader)
    with ValidationLoader(shards, 4, **grouped(split="val", task="obb")) as loader:
        batches += list(loader)
    for batch in batches:
        boxes = batch["bboxes"]
        assert boxes.shape == (len(batch["cls"]), 5)
        assert boxes.dtype == torch.float32
        assert ((boxes[:, 4] >= -np.pi / 4 - 1e-6) & (boxes[:, 4] < 0.75 * np.pi)).all()
        assert "masks" not in batch


@pytest.mark.parametrize("task", ["segment", "obb"])
@pytest.mark.parametrize("mode", MODES)
def test_the_stream_does_not_depend_on_threads_or_device(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, mode: str
) -> None:
    """On a device, what is pasted travels beside the recipes."""
    stand_in(monkeypatch)
    shards = packed(shapes, tmp_path / "shards", "raw", 64)
    streams = []
    for settings in ({"threads": 1}, {"threads": 3}, {"device": "cuda", "cache": "device"},
                     {"device": "cuda", "cache": "none"}):  # fmt: skip
        with Loader(shards, 4, **grouped(augment=recipe(mode), task=task, **settings)) as loader:
            streams.append(stream(loader) + stream(loader))
    assert all(each == streams[0] for each in streams)
    with Loader(shards, 4, **grouped(augment=recipe(mode, copy_paste=0.0), task=task)) as loader:
        assert stream(loader) != streams[0][:3]


@pytest.mark.parametrize("mode", MODES)
def test_pasting_ends_with_the_mosaic(shapes: Path, tmp_path: Path, mode: str) -> None:
    shards = packed(shapes, tmp_path / "shards", "raw", 64)
    plain = recipe(mode, mosaic=0.0, mixup=0.0, cutmix=0.0, copy_paste=0.0)
    with Loader(shards, 4, **grouped(augment=plain, task="segment")) as loader:
        want = stream(loader)
    with Loader(shards, 4, **grouped(augment=recipe(mode), task="segment")) as loader:
        loader.close_mosaic()
        assert stream(loader) == want


def test_detection_pastes_by_outlines_too(shapes: Path, tmp_path: Path) -> None:
    shards = packed(shapes, tmp_path / "shards", "raw", 64)
    counts = []
    for share in (0.0, 1.0):
        with Loader(shards, 4, augment=recipe(copy_paste=share)) as loader:
            counts.append(sum(len(batch["cls"]) for batch in loader))
    assert counts[1] > counts[0]


def test_unreadable_pictures_lose_their_masks(shapes: Path, tmp_path: Path) -> None:
    shards = damage(packed(shapes, tmp_path / "shards", "raw", 64), tmp_path / "damaged", [3])
    how: dict[str, Any] = {"augment": recipe("mixup"), "task": "segment", "max_unreadable": 0.5}
    with Loader(shards, 4, **grouped(check=True, **how)) as loader:
        for batch in loader:
            for i, mask in enumerate(batch["masks"]):
                assert mask.max() <= (batch["batch_idx"] == i).sum()
        assert len(loader.unreadable()) == 1


@pytest.mark.parametrize("task", ["segment", "obb"])
def test_what_cannot_serve_is_refused(shapes: Path, tmp_path: Path, task: str) -> None:
    boxes = packed(draw_dataset(tmp_path / "boxes", {"train": 4}), tmp_path / "b", "raw", 64)
    with pytest.raises(ConfigError, match="have no outline"):
        Loader(boxes, 2, **grouped(task=task))
    outlines = packed(shapes, tmp_path / "o", "raw", 64)
    with pytest.raises(ConfigError, match=r"mask_ratio must be 1 to 64 \(imgsz\), got 65"):
        Loader(outlines, 2, **grouped(task="segment", mask_ratio=65))
    with pytest.raises(ConfigError, match="copy_paste_mode must be one of flip, mixup"):
        AugmentConfig(copy_paste_mode="paste")


@pytest.mark.usefixtures("without_curves")
@pytest.mark.parametrize(("task", "loss"), [("segment", "seg_loss"), ("obb", "angle_loss")])
def test_training_and_validation(shapes: Path, tmp_path: Path, task: str, loss: str) -> None:
    """Trains and plots; validation gives upstream's figures to the last digit."""
    trainer, seen = train(
        tmp_path, shapes, trainer=TRAINERS[task], model=network(task), plots=True,
        copy_paste=0.5, epochs=1,
    )  # fmt: skip
    assert seen
    assert isinstance(trainer.train_loader, yolodata.Loader)
    assert trainer.train_loader.augment.copy_paste == 0.5
    assert isinstance(trainer.test_loader, yolodata.ValidationLoader)
    assert (trainer.save_dir / "train_batch0.jpg").is_file()
    ours, theirs = validated_both_ways(trainer)
    assert ours == theirs
    assert ours[f"val/{loss}"] > 0


def test_command_line_takes_the_models_task(shapes: Path, tmp_path: Path) -> None:
    values = {k: v for k, v in QUIET.items() if k != "exist_ok"}
    arguments = [f"{name}={value}" for name, value in values.items()]
    arguments += [f"data={shapes}", f"project={tmp_path / 'runs'}", "name=seg", "epochs=1"]
    assert main(["train", f"model={network('segment')}", *arguments]) == 0
    assert list((tmp_path / "set.yolodata").glob("data-raw-64-*"))
