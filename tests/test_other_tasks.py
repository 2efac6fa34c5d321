"""What our trainers do not load: upstream's own trainer takes over, and says so once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from loading import draw_dataset
from test_pose import with_keypoints
from test_segment import with_outlines
from test_ultralytics import (  # noqa: F401 - the fixture is used by its being here
    QUIET,
    _where_torchvision_cannot_be_imported,
)
from training import TINY

import yolodata
from yolodata.cli import main
from yolodata.errors import ConfigError
from yolodata.train import trainer_for
from yolodata.ultralytics.fallback import UPSTREAM_TRAINERS


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A few pictures, as a dataset of each task."""
    root = tmp_path_factory.mktemp("tasks")
    yaml = with_outlines(draw_dataset(root / "set", {"train": 4, "val": 2}))
    for split in ("train", "val"):
        (root / "set" / "depth" / split).mkdir(parents=True)
        for i, picture in enumerate(sorted((root / "set" / "images" / split).iterdir())):
            depth = np.full(cv2.imread(str(picture)).shape[:2], 1.5 + i, np.float32)
            np.save(root / "set" / "depth" / split / f"{picture.stem}.npy", depth)
            kind = root / "kinds" / split / ("odd" if i % 2 else "even")
            kind.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, kind)
    return {"classify": root / "kinds", "semantic": yaml, "depth": yaml}


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is warned of by us."""
    from ultralytics.utils import LOGGER

    said: list[str] = []
    monkeypatch.setattr(
        LOGGER, "warning", lambda text, *_: said.append(text) if "yolodata" in str(text) else None
    )
    return said


@pytest.mark.parametrize(
    ("task", "model", "trainer"),
    [
        ("classify", "cls", yolodata.DetectionTrainer.configure(codec="jpeg")),
        ("semantic", "sem", trainer_for("semantic")),
        ("depth", "depth", None),
    ],
    ids=["classify", "semantic", "depth"],
)
def test_upstreams_trainer_takes_over(
    tmp_path: Path, drawn: dict[str, Path], warnings: list[str], task: str, model: str, trainer: Any
) -> None:
    from ultralytics import YOLO

    if task == "classify":
        pytest.importorskip("torchvision.transforms")
    values = {**QUIET, "epochs": 1, "project": str(tmp_path), "name": "run", "data": drawn[task]}
    if trainer is None:
        given = [f"{name}={value}" for name, value in values.items()]
        assert main(["train", f"model=yolo26n-{model}.yaml", *given]) == 0
    else:
        made = YOLO(f"yolo26n-{model}.yaml")
        made.add_callback("on_train_epoch_end", fails)
        made.train(trainer=trainer, **values)
        assert type(made.trainer).__name__ == UPSTREAM_TRAINERS[task]
        assert type(made.trainer).__module__.startswith("ultralytics.")
    assert (tmp_path / "run" / "weights" / "last.pt").is_file()
    warning, *others = warnings
    assert f"task={task}" in warning
    assert ["W&B failed" in other for other in others] == ([] if trainer is None else [True])


def fails(trainer: Any) -> None:
    """A tracker of upstream's."""
    raise ConnectionError("no network")


fails.__module__ = "ultralytics.utils.callbacks.wb"


def test_what_upstreams_trainer_cannot_do_is_refused(
    drawn: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"task": "depth", "model": "yolo26n-depth.yaml", "data": str(drawn["depth"])}
    with pytest.raises(ConfigError, match=r"RUN/weights/last\.pt"):
        trainer_for("depth")(overrides={**given, "resume": "auto"})
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="several processes"):
        trainer_for("depth")(overrides=given)
    with pytest.raises(ConfigError, match="classify, semantic, depth, got 'dance'"):
        yolodata.DetectionTrainer(overrides={**given, "task": "dance"})


@pytest.mark.parametrize(
    ("trainer", "right"),
    [
        (yolodata.DetectionTrainer, "trainer=yolodata.SegmentationTrainer"),
        (yolodata.PoseTrainer.configure(codec="jpeg"), "trainer=yolodata.SegmentationTrainer"),
        (trainer_for("obb"), r"trainer=yolodata.train.trainer_for\('segment'\)"),
    ],
    ids=["detect", "pose", "durable"],
)
def test_the_wrong_trainer_names_the_right_one(tmp_path: Path, trainer: Any, right: str) -> None:
    from ultralytics import YOLO

    with pytest.raises(ConfigError, match=right):
        YOLO("yolo26n-seg.yaml").train(trainer=trainer, project=str(tmp_path), name="run")
    assert not list(tmp_path.iterdir())


def made(trainer: Any, yaml: Path, **values: Any) -> Any:
    """A trainer with its data, which nobody trains."""
    project = str(yaml.parent.parent / "runs")
    given = {**QUIET, "data": str(yaml), "epochs": 1, "project": project, **values}
    return trainer(overrides=given)


def test_other_channels_are_warned_of_once(tmp_path: Path, warnings: list[str]) -> None:
    yaml = draw_dataset(tmp_path / "set", {"train": 4, "val": 2})
    yaml.write_text(yaml.read_text() + "channels: 1\n")
    (tmp_path / "tiny.yaml").write_text(TINY)
    done = made(trainer_for("detect"), yaml, model=str(tmp_path / "tiny.yaml"))
    done.train()
    assert done.last.is_file()
    (warning,) = warnings
    assert "1 channels" in warning
    assert "within an epoch" in warning


def test_a_share_that_was_downloaded_is_not_halved_again(tmp_path: Path) -> None:
    """Upstream's converter of NDJSON takes the share, and marks what it wrote as complete."""
    yaml = draw_dataset(tmp_path / "set", {"train": 4, "val": 2})
    for text, images in (("", 2), ("complete: true\n", 4)):
        yaml.write_text(yaml.read_text() + text)
        trainer = made(yolodata.DetectionTrainer, yaml, model="yolo26n.yaml", fraction=0.5)
        with trainer.get_dataloader(trainer.data["train"], 2, -1, "train") as loader:
            assert len(loader.dataset) == images


def test_poses_without_flip_idx_are_warned_of(tmp_path: Path, warnings: list[str]) -> None:
    yaml = with_keypoints(draw_dataset(tmp_path / "set", {"train": 4, "val": 2}), flip_idx=False)
    trainer = made(yolodata.PoseTrainer, yaml, model="yolo26n-pose.yaml")
    for _ in range(2):  # upstream builds loaders again where memory ends
        with trainer.get_dataloader(trainer.data["train"], 2, -1, "train") as loader:
            assert (loader.augment.fliplr, loader.augment.flipud) == (0.0, 0.0)
    (warning,) = warnings
    assert "flip_idx" in warning


@pytest.mark.parametrize("classes", [None, [2]])
def test_images_without_objects_are_warned_of(
    tmp_path: Path, warnings: list[str], classes: Any
) -> None:
    yaml = draw_dataset(tmp_path / "set", {"train": 4, "val": 2})
    for file in (tmp_path / "set" / "labels" / "train").iterdir():
        file.write_text("" if classes is None else "0 0.5 0.5 0.2 0.2\n")
    trainer = made(yolodata.DetectionTrainer, yaml, model="yolo26n.yaml", classes=classes)
    for _ in range(2):
        trainer.get_dataloader(trainer.data["train"], 2, -1, "train").close()
    (warning,) = warnings
    why = "all label files are empty" if classes is None else "none is of classes=[2]"
    assert f"the 4 training images have no object ({why})" in warning


@pytest.mark.parametrize("kind", [yolodata.DetectionTrainer, trainer_for("segment")])
def test_a_dataset_of_a_subclass_is_warned_of(
    tmp_path: Path, warnings: list[str], kind: Any
) -> None:
    """Who changes the base class of a trainer with a dataset of its own would train without it."""

    class Own(kind):  # type: ignore[misc]
        def build_dataset(self, *args: Any) -> Any:
            return None

    yaml = draw_dataset(tmp_path / "set", {"train": 4, "val": 2})
    for trainer in (kind, Own):
        run = made(trainer, yaml, model="yolo26n.yaml", task=kind.for_task)
        for _ in range(2):
            run._say_what_is_not_asked()
    (warning,) = warnings
    assert "build_dataset of " in warning
    assert "Own has no effect" in warning
