"""Poses: keypoints from the dataset to training, in every loader and through the trainer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from loading import digest, draw_dataset, grouped, packed
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

RECIPE = AugmentConfig(imgsz=64, mixup=0.4, cutmix=0.4, flipud=0.5, degrees=10.0)


def with_keypoints(yaml: Path, flip_idx: bool = True) -> Path:
    """Gives every object of a drawn dataset three keypoints."""
    rng = np.random.default_rng(1)
    for file in (yaml.parent / "labels").rglob("*.txt"):
        rows = []
        for row in file.read_text().split("\n"):
            if row:
                points = np.c_[rng.uniform(0, 1, (3, 2)), rng.integers(0, 3, 3)].ravel()
                rows.append(row + " " + " ".join(f"{value:.5f}" for value in points))
        file.write_text("\n".join(rows))
    more = "kpt_shape: [3, 3]\n" + ("flip_idx: [1, 0, 2]\n" if flip_idx else "")
    yaml.write_text(yaml.read_text() + more)
    return yaml


@pytest.fixture
def people(tmp_path: Path) -> Path:
    return with_keypoints(draw_dataset(tmp_path / "set", {"train": 12, "val": 5}))


def stream(loader: Loader) -> list[str]:
    return [digest(batch) for batch in loader]


def test_batches_have_keypoints(people: Path, tmp_path: Path) -> None:
    for codec in ("raw", "jpeg"):
        shards = packed(people, tmp_path / codec, codec, 64, task="pose")
        with Loader(shards, 4, **grouped(augment=RECIPE, task="pose", threads=2)) as loader:
            batches = list(loader)
            assert len(loader.dataset.labels[0]["keypoints"].shape) == 3
        for batch in batches:
            assert batch["keypoints"].shape == (len(batch["cls"]), 3, 3)
            assert batch["keypoints"].dtype == torch.float32
            xy, seen = batch["keypoints"][..., :2], batch["keypoints"][..., 2]
            assert ((xy >= 0) & (xy <= 1)).all()
            assert set(seen.unique().tolist()) <= {0.0, 1.0, 2.0}
            assert list(batch) == sorted(batch)
        assert sum(len(batch["cls"]) for batch in batches)
        with Loader(shards, 4, **grouped(augment=RECIPE, threads=1)) as loader:  # for detection
            assert all("keypoints" not in batch for batch in loader)
        with ValidationLoader(shards, 4, **grouped(split="val", task="pose")) as loader:
            assert all(b["keypoints"].shape[1:] == (3, 3) for b in loader)


def test_keypoints_of_two_numbers_are_visible_where_none_is_negative(
    people: Path, tmp_path: Path
) -> None:
    """Every batch is that of the same dataset with visibility written out."""
    files = list((people.parent / "labels").rglob("*.txt"))
    tables = [[row.split() for row in file.read_text().splitlines()] for file in files]
    streams = []
    for dims in (3, 2):
        for file, rows in zip(files, tables, strict=True):
            lines = []
            for k, row in enumerate(rows):
                points = [[*row[i : i + 2], "1"] for i in (5, 8, 11)]
                if k == 0:
                    points[1] = ["-0.004", points[1][1], "0"]
                lines.append(" ".join([*row[:5], *(v for point in points for v in point[:dims])]))
            file.write_text("\n".join(lines))
        people.write_text(people.read_text().replace("[3, 3]", f"[3, {dims}]"))
        shards = packed(people, tmp_path / str(dims), "raw", 64, task="pose")
        with (
            Loader(shards, 4, **grouped(augment=RECIPE, task="pose")) as loader,
            ValidationLoader(shards, 4, **grouped(split="val", task="pose")) as validation,
        ):
            batches = [*loader, *validation]
        assert {tuple(batch["keypoints"].shape[1:]) for batch in batches} == {(3, 3)}
        assert {v for b in batches for v in b["keypoints"][..., 2].unique().tolist()} == {0, 1}
        streams.append([digest(batch) for batch in batches])
    assert streams[0] == streams[1]


@pytest.mark.parametrize("cache", ["device", "none"])
def test_a_device_gets_the_same_keypoints(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    stand_in(monkeypatch)
    shards = packed(people, tmp_path / "shards", "raw", 64, task="pose")
    with Loader(shards, 4, **grouped(augment=RECIPE, task="pose")) as loader:
        want = stream(loader)
    with Loader(
        shards, 4, **grouped(augment=RECIPE, task="pose", device="cuda", cache=cache)
    ) as loader:
        assert stream(loader) == want


def test_without_flip_idx_nothing_is_flipped(tmp_path: Path) -> None:
    """As upstream, which does not know left from right either."""
    yaml = with_keypoints(draw_dataset(tmp_path / "set", {"train": 6}), flip_idx=False)
    shards = packed(yaml, tmp_path / "shards", "raw", 64, task="pose")
    flipped = AugmentConfig(imgsz=64, flipud=1.0, fliplr=1.0)
    still = AugmentConfig(imgsz=64, flipud=0.0, fliplr=0.0)
    streams = []
    for augment in (flipped, still):
        with Loader(shards, 3, **grouped(augment=augment, task="pose")) as loader:
            streams.append(stream(loader))
    assert streams[0] == streams[1]


def test_what_has_no_keypoints_is_refused(tmp_path: Path) -> None:
    yaml = draw_dataset(tmp_path / "set", {"train": 4})
    shards = packed(yaml, tmp_path / "shards", "raw", 64)
    with pytest.raises(ConfigError, match="has no keypoints, which task='pose' needs"):
        Loader(shards, 2, **grouped(task="pose"))
    with pytest.raises(ConfigError, match="segment, pose, obb, got 'dance'"):
        Loader(shards, 2, **grouped(task="dance"))


@pytest.mark.usefixtures("without_curves")
def test_training_and_validation(people: Path, tmp_path: Path) -> None:
    """Trains and plots; validation gives upstream's figures to the last digit."""
    trainer, seen = train(
        tmp_path, people, trainer=yolodata.PoseTrainer, model=network("pose"), plots=True
    )
    assert len(seen) == 2
    assert isinstance(trainer.train_loader, yolodata.Loader)
    assert isinstance(trainer.test_loader, yolodata.ValidationLoader)
    assert (trainer.save_dir / "train_batch0.jpg").is_file()
    assert {"pose_loss", "kobj_loss"} <= {name.split("/")[-1] for name in trainer.tloss}
    ours, theirs = validated_both_ways(trainer)
    assert ours == theirs
    assert ours["val/pose_loss"] > 0


def test_command_line_takes_the_models_task(people: Path, tmp_path: Path) -> None:
    values = {k: v for k, v in QUIET.items() if k != "exist_ok"}
    arguments = [f"{name}={value}" for name, value in values.items()]
    arguments += [f"data={people}", f"project={tmp_path / 'runs'}", "name=pose", "epochs=1"]
    assert main(["train", f"model={network('pose')}", *arguments]) == 0
    assert list((tmp_path / "set.yolodata").glob("data-raw-pose-64-*"))
