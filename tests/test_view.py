"""`yolodata view` writes what a person can check."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from loading import draw_dataset, grouped, packed

from yolodata.cli import main
from yolodata.pipeline.config import AugmentConfig
from yolodata.pipeline.loader import Loader
from yolodata.view import _grid

IMGSZ = 480  # large enough to be drawn without zooming
TITLE = 22  # pixels of the title bar


@pytest.fixture(scope="module", params=["raw", "jpeg"])
def shards(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = draw_dataset(
        tmp_path_factory.mktemp("source"), {"train": 9, "val": 8}, sides=(300, 500)
    )
    return packed(source, source.parent / request.param, request.param, IMGSZ)


def near(a: np.ndarray, b: np.ndarray) -> float:
    """Share of pixels that are equal."""
    return float((a == b).all(-1).mean())


def test_stored_image(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "picture.png"
    assert main(["view", str(shards), "--split", "val", "--index", "2", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    from yolodata.shards import reader

    with reader.open(shards, split="val") as dataset:
        picture = dataset.image(2)[..., ::-1]
        objects = slice(int(dataset.object_offset[2]), int(dataset.object_offset[3]))
        boxes, name = dataset.box[objects], dataset.name(2)
    assert f"index 2: {name}, {picture.shape[1]} x {picture.shape[0]}: {len(boxes)} objects" in text
    drawn = cv2.imread(str(out))[TITLE:]
    assert drawn.shape == picture.shape
    assert 0.5 < near(drawn, picture) < 1
    height, width = picture.shape[:2]
    for x, y, w, h in boxes:  # the lower edge of every box is drawn over
        row = min(round((y + h / 2) * height), height - 1)
        edge = slice(round((x - w / 2) * width) + 2, round((x + w / 2) * width) - 2)
        assert near(drawn[row, edge], picture[row, edge]) < 0.5


def test_augmented_picture_is_the_one_training_sees(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "picture.png"
    where = ["--augment", "--seed", "3", "--epoch", "2", "--position", "5"]
    options = ["--set", "degrees=10", "--set", "mixup=1", "--set", "scale=[0.5, 0.9]", "--recipe"]
    assert main(["view", str(shards), *where, *options, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    recipe = json.loads(text[text.index("{") : text.rindex("}") + 1])
    assert recipe["mixup"]["layer"] == 1
    assert recipe["size"] == [IMGSZ, IMGSZ]

    augment = AugmentConfig(imgsz=IMGSZ, degrees=10, mixup=1, scale=(0.5, 0.9))
    with Loader(shards, 9, **grouped(augment=augment, seed=3, threads=1, prefetch=1)) as loader:
        loader.set_epoch(2)
        batch = next(iter(loader))
    picture = batch["img"][5].permute(1, 2, 0).numpy()[..., ::-1]
    drawn = cv2.imread(str(out))[TITLE:]
    assert drawn.shape == picture.shape
    assert near(drawn, picture) > 0.5
    assert near(drawn, batch["img"][4].permute(1, 2, 0).numpy()[..., ::-1]) < 0.1
    assert f": {int((batch['batch_idx'] == 5).sum())} objects" in text


def test_grid(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "grid.jpg"
    assert main(["view", str(shards), "--augment", "--count", "5", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert text.count("seed 0, epoch 0, position") == 5
    assert cv2.imread(str(out)).shape == (2 * (IMGSZ + TITLE), 3 * IMGSZ, 3)
    small = [np.full((h, w, 3), 200, np.uint8) for h, w in ((2, 3), (4, 1), (1, 1))]
    assert _grid(small).shape == (5, 6, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--index", "9"], "--index must be 0 to 8"),
        (["--augment", "--position", "-1"], "--position must be 0 to 8"),
        (["--augment", "--set", "mosaik=1"], "--set knows"),
        (["--augment", "--set", "mosaic=much"], "needs a number"),
        (["--augment", "--set", "mosaic=2"], "mosaic must be 0 to 1"),
        (["--count", "0"], "--count must be at least 1"),
        (["--split", "test"], "split must be one of"),
        (["--out", "picture.doc"], "--out must end in .png"),
        (["--out", f"{__file__}/x/y.png"], "y.png cannot be written: Not a directory"),
        (["--augment", "--seed", "-1"], "--seed must be 0 to 2**64 - 1, got -1"),
        (
            ["--augment", "--epoch", "99999999999"],
            "--epoch must be 0 to 2**32 - 1, got 99999999999",
        ),
        (["--augment", "--set", "mosaic_grid=9.0"], "mosaic_grid must be 4 or 9, got 9.0"),
        (["--augment", "--index", "0"], "--index is of stored images"),
        (["--position", "0"], "--position is for augmented pictures; give --augment"),
        (["--set", "mosaic=0", "--recipe"], "--set, --recipe is for augmented pictures"),
    ],
)
def test_mistakes_are_explained(
    shards: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["view", str(shards), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_labels_of_the_task_are_drawn(tmp_path: Path) -> None:
    """Masks tint what they cover, oriented boxes lie at an angle, and so when augmented."""
    yaml = draw_dataset(tmp_path / "set", {"train": 2}, sides=(300, 500))
    for file in (yaml.parent / "labels").rglob("*.txt"):
        file.write_text("1 0.2 0.4 0.5 0.1 0.8 0.4 0.7 0.7 0.5 0.9 0.2 0.7\n")
    shards = packed(yaml, tmp_path / "shards", "raw", IMGSZ)

    def look(*options: str) -> np.ndarray:
        out = tmp_path / "look.png"
        assert main(["view", str(shards), "--out", str(out), *options]) == 0
        return cv2.imread(str(out))[TITLE:]

    still = ["--augment", "--set", "mosaic=0", "--set", "scale=0", "--set", "translate=0"]
    for more in ([], [*still, "--set", "copy_paste=1"]):
        detect, segment, oriented = (
            look("--task", task, *more) for task in ("detect", "segment", "obb")
        )
        np.testing.assert_array_equal(look(*more), segment)  # what such a dataset can serve
        height, width = detect.shape[:2]
        inside = slice(height // 2 - 9, height // 2 + 9), slice(width // 2 - 9, width // 2 + 9)
        assert near(detect[inside], segment[inside]) < 0.1
        assert near(detect[inside], oriented[inside]) == 1
        assert 0.9 < near(detect, oriented) < 1


def test_keypoints_are_drawn_where_they_are(tmp_path: Path) -> None:
    """Filled where visible, hollow where hidden, not at all where unknown; and when augmented."""
    yaml = draw_dataset(tmp_path / "set", {"train": 1}, sides=(IMGSZ, IMGSZ + 1))
    yaml.write_text(yaml.read_text() + "kpt_shape: [3, 3]\n")
    (file,) = (yaml.parent / "labels").rglob("*.txt")
    file.write_text("1 0.5 0.5 0.6 0.6 0.3 0.4 2 0.5 0.6 1 0.7 0.4 0\n")
    shards = packed(yaml, tmp_path / "shards", "raw", IMGSZ, task="pose")

    def look(*options: str) -> np.ndarray:
        out = tmp_path / "look.png"
        assert main(["view", str(shards), "--out", str(out), *options]) == 0
        return cv2.imread(str(out))[TITLE:].astype(int)

    still = ["--augment", "--set", "mosaic=0", "--set", "scale=0", "--set", "translate=0",
             "--set", "fliplr=0"]  # fmt: skip
    for more in ([], still):
        drawn = np.abs(look(*more) - look("--task", "detect", *more)).max(2) > 0
        for x, y, middle, ring in ((0.3, 0.4, True, True), (0.5, 0.6, False, True),
                                   (0.7, 0.4, False, False)):  # fmt: skip
            row, column = round(y * IMGSZ), round(x * IMGSZ)
            assert drawn[row, column] == middle
            assert drawn[row, column + 4] == ring
        assert drawn.sum() < 300  # and nothing else


def test_a_task_without_its_labels_is_refused(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["view", str(shards), "--task", "segment", "--out", str(tmp_path / "a.png")]) != 0
    assert "no outline" in capsys.readouterr().err
