"""`yolodata view` writes what a person can check."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from loading import draw_dataset, packed

from yolodata.cli import main
from yolodata.pipeline.command import _grid
from yolodata.pipeline.config import AugmentConfig
from yolodata.pipeline.loader import Loader

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
    with Loader(shards, 9, augment=augment, seed=3, threads=1, prefetch=1) as loader:
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
    ],
)
def test_mistakes_are_explained(
    shards: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["view", str(shards), *arguments]) == 2
    assert message in capsys.readouterr().err
