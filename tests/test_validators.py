"""Validation on shards: by upstream's own code, by our validators and by `yolodata val`."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml as yaml_files
from loading import draw_dataset, packed
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
from yolodata.parity.validation import differences, upstream_dataset
from yolodata.ultralytics import as_files
from yolodata.ultralytics.validator import BY_TASK

HOW: dict[str, Any] = {
    "plots": False, "verbose": False, "conf": 1e-4, "batch": 3, "device": "cpu", "exist_ok": True,
}  # fmt: skip


def metrics(validate: Any, project: Path, **values: Any) -> list[Any]:
    """All that upstream sums up, by class and threshold."""
    found = validate(project=str(project), **{**HOW, **values})
    return [found.results_dict, found.box.all_ap.tolist(), found.box.f1.tolist()]


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_after_training_from_shards(tmp_path: Path, codec: str) -> None:
    """Upstream's own `val` on the original dataset is what all others have to give."""
    from ultralytics import YOLO

    original = draw_dataset(tmp_path / "set", {"train": 8, "val": 9}, sides=(48, 150))
    shards = packed(original, tmp_path / "shards", codec, 64)
    (shards / "data.yaml").unlink()  # as older versions packed
    (tmp_path / "tiny.yaml").write_text(TINY)
    model = YOLO(tmp_path / "tiny.yaml")
    values = {**QUIET, "epochs": 2, "project": str(tmp_path / "runs"), "name": "run"}
    model.train(data=str(shards), trainer=yolodata.DetectionTrainer, **values)
    best = model.trainer.best
    assert not (model.trainer.save_dir / "data.yaml").exists()
    ours, out = {"validator": yolodata.DetectionValidator}, tmp_path / "val"
    expected = metrics(YOLO(best).val, out, data=str(original))
    assert expected[0]["fitness"] > 0
    assert metrics(YOLO(best).val, out) == expected
    for moved in (False, True):
        if moved:
            (tmp_path / "set").rename(tmp_path / "gone")
        shards = (tmp_path / "shards").rename(tmp_path / "moved") if moved else shards
        named = {"data": str(shards)} if moved else {}
        assert metrics((YOLO(best) if moved else model).val, out, **named) == expected
        assert metrics(YOLO(best).val, out, data=str(shards)) == expected
        assert metrics(YOLO(best).val, out, **named, **ours) == expected
        assert metrics(YOLO(best).val, out, data=str(shards / "data.yaml"), **ours) == expected
        assert (shards / as_files.AS_FILES).exists() == moved
    broken = next((shards / as_files.AS_FILES).rglob("*.npy" if codec == "raw" else "*.jpg"))
    broken.unlink()  # negative control: the files are what is read
    assert metrics(YOLO(best).val, out, data=str(shards)) != expected


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
@pytest.mark.parametrize("task", ["detect", "segment", "obb", "pose"])
def test_files_of_shards_are_the_dataset(tmp_path: Path, task: str, codec: str) -> None:
    """To upstream's loader: pictures, order, labels of every bit, and shapes of batches."""
    from ultralytics.data.utils import check_det_dataset

    original = draw_dataset(tmp_path / "set", {"train": 1, "val": 9}, sides=(48, 150))
    if task == "pose":
        with_keypoints(original)
    elif task != "detect":
        with_outlines(original)
    kind = "pose" if task == "pose" else "detect"
    shards = packed(original, tmp_path / "shards", codec, 64, task=kind)
    theirs = upstream_dataset(original, "val", 64, "val", 2, task=task)
    samples = [(theirs.collate_fn([theirs[i]]), theirs.load_image(i)[0]) for i in range(9)]
    shutil.rmtree(tmp_path / "set")
    check_det_dataset(str(shards))
    for array in shards.rglob("*.npy"):  # as copying may leave it; it is mended
        array.touch()
        array.with_suffix(".png").touch()
    ours = upstream_dataset(check_det_dataset(str(shards)), "val", 64, "val", 2, task=task)
    assert np.array_equal(ours.batch_shapes, theirs.batch_shapes)
    for i, (batch, picture) in enumerate(samples):
        assert np.array_equal(ours.load_image(i)[0], picture)
        assert Path(ours.im_files[i]).stem == Path(theirs.im_files[i]).stem
        found = differences(ours.collate_fn([ours[i]]), batch)
        assert set(found) <= {"im_file", "ori_shape", "ratio_pad"}


def test_a_dataset_that_changed_or_is_no_yolo_dataset_becomes_files(tmp_path: Path) -> None:
    original = draw_dataset(tmp_path / "set", {"train": 2, "val": 2}, sides=(48, 60))
    shards = packed(original, tmp_path / "shards", "jpeg", 64)

    def named(root: Path) -> dict[str, Any]:
        data = yaml_files.safe_load((root / "data.yaml").read_text())
        as_files.name_files({**data, "yaml_file": str(root / "data.yaml")})
        found = {**data, "yaml_file": str(root / "data.yaml")}
        as_files.name_files(found)
        return found

    assert named(shards)["val"] == str(tmp_path / "set" / "images" / "val")
    label = next((tmp_path / "set" / "labels" / "val").iterdir())
    label.write_text("0 0.5 0.5 0.5 0.5\n")
    assert str(shards) in named(shards)["val"]
    assert named(shards)["train"] == str(tmp_path / "set" / "images" / "train")
    before = named(shards)["val"]
    from yolodata.ingest.relabel import relabel

    relabel(shards, original)
    shutil.rmtree(tmp_path / "set")
    after = named(shards)["val"]
    assert after != before
    assert not Path(before).exists()
    assert as_files.NO_FILES in named(shards)["train"]
    (text,) = [f for f in Path(after).parent.rglob("*.txt") if f.stem == label.stem]
    assert text.read_text() == "0 0.5 0.5 0.5 0.5\n"


def test_names_are_those_of_upstream(tmp_path: Path) -> None:
    """Ids of WordNet become words."""
    from ultralytics.data.utils import check_det_dataset

    original = draw_dataset(tmp_path / "set", {"train": 2, "val": 2}, sides=(48, 60))
    content = yaml_files.safe_load(original.read_text())
    content["names"] = ["n01440764", "n01443537", "stone"]
    original.write_text(yaml_files.safe_dump(content))
    shards = packed(original, tmp_path / "shards", "raw", 64)
    names = check_det_dataset(str(original))["names"]
    assert names[0] == "tench"
    (tmp_path / "tiny.yaml").write_text(TINY)
    given = {**QUIET, "model": str(tmp_path / "tiny.yaml"), "project": str(tmp_path / "runs")}
    trainer = yolodata.DetectionTrainer(overrides={**given, "data": str(shards)})
    assert trainer.data["names"] == names
    assert check_det_dataset(str(shards))["names"] == names


@pytest.fixture(scope="module")
def packed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("val")
    yaml = draw_dataset(root / "set", {"train": 2, "val": 3}, sides=(48, 60))
    packed(yaml, root / "shards", "raw", 64)
    (root / "tiny.yaml").write_text(TINY)
    from ultralytics import YOLO

    logging.getLogger("ultralytics").setLevel(logging.ERROR)
    YOLO(root / "tiny.yaml").save(root / "tiny.pt")
    return root


def test_the_command_line(packed_once: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(packed_once)
    done = []
    monkeypatch.setattr(
        BY_TASK["detect"], "finalize_metrics", lambda self: done.append(self.dataloader)
    )
    how = ["plots=False", "imgsz=64", "device=cpu", "yolodata.threads=1"]
    how.append(f"project={packed_once / 'runs'}")
    assert main(["val", "model=tiny.pt", "data=shards", *how]) == 0
    assert main(["val", "--model", "tiny.pt", "--data", "set/data.yaml", *how]) == 0
    assert [type(loader) for loader in done] == [yolodata.ValidationLoader] * 2
    assert [loader.num_workers for loader in done] == [1, 1]
    before = sorted((packed_once / "runs").iterdir())
    for wrong, said in {
        "data=shards imgsz=96": "imgsz=96 was asked for",
        "data=shards split=test": "'test' is needed",
        "data=shards/val": "is one split",
        "data=nothere": "'nothere' does not exist",
        "data=shards epochz=3": "'epochz' is not a valid YOLO argument",
        "data=shards device=0": "Invalid CUDA 'device=0'",
        "data=shards mode=train": "mode must be val",
        "data=shards model=runs": "model='runs' is not a supported model format",
        "data=shards yolodata.codec=png": "codec must be one of",
        "data=shards yolodata.prefetch=2": "no setting prefetch of validation",
    }.items():
        assert main(["val", "model=tiny.pt", *how, *wrong.split()]) == 2
        assert said in capsys.readouterr().err
    assert main(["val", *how]) == 2
    assert sorted((packed_once / "runs").iterdir()) == before  # a failed start leaves no folder


def test_the_wrong_validator_names_the_right_one(packed_once: Path) -> None:
    from ultralytics import YOLO

    with pytest.raises(ConfigError, match=r"validator=yolodata\.DetectionValidator"):
        YOLO(packed_once / "tiny.pt").val(validator=yolodata.PoseValidator, data="x")
