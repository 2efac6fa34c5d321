"""`yolodata view` writes what a person can check."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from loading import draw_dataset, grouped, packed

from yolodata import overlay, view
from yolodata.cli import main
from yolodata.errors import ConfigError
from yolodata.overlay import grid
from yolodata.pipeline.config import AugmentConfig
from yolodata.pipeline.loader import Loader

IMGSZ = 480  # large enough to be drawn without zooming
TITLE = 22  # pixels of the title bar, and of a row of the legend


def pictured(out: Path, legend: int = 1) -> np.ndarray:
    """The only picture of a sheet, without its title and the rows of the legend."""
    sheet = cv2.imread(str(out))
    return sheet[TITLE : len(sheet) - legend * TITLE]


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
    drawn = pictured(out)
    assert drawn.shape == picture.shape
    assert 0.5 < near(drawn, picture) < 1
    height, width = picture.shape[:2]
    for x, y, w, h in boxes:  # the lower edge of every box is drawn over
        row = min(round((y + h / 2) * height), height - 1)
        edge = slice(round((x - w / 2) * width) + 2, round((x + w / 2) * width) - 2)
        assert near(drawn[row, edge], picture[row, edge]) < 0.5


def test_nothing_acts_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = draw_dataset(tmp_path / "source", {"train": 1, "val": 1})
    for image in (source.parent / "images" / "train").iterdir():
        image.rename(image.with_stem("a\x1b[2J"))
    for label in (source.parent / "labels" / "train").iterdir():
        label.rename(label.with_stem("a\x1b[2J"))
    description = yaml.safe_load(source.read_text())
    names = dict.fromkeys(range(3), "b\x1b[31m\u202e")
    source.write_text(yaml.safe_dump({**description, "names": names}))
    out = tmp_path / "sheet.png"
    shards = packed(source, tmp_path / "shards", "raw", 64)
    assert main(["view", str(shards), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "a\\x1b[2J.jpg" in said.out
    assert "b\\x1b[31m\\u202e" in said.out
    assert "b\\x1b[31m\\u202e" in said.err
    assert "\x1b" not in said.out + said.err


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
    drawn = pictured(out)
    assert drawn.shape == picture.shape
    assert near(drawn, picture) > 0.5
    assert near(drawn, batch["img"][4].permute(1, 2, 0).numpy()[..., ::-1]) < 0.1
    assert f": {int((batch['batch_idx'] == 5).sum())} objects" in text


def test_grid(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "grid.jpg"
    assert main(["view", str(shards), "--augment", "--count", "5", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert text.count("seed 0, epoch 0, position") == 5
    assert cv2.imread(str(out)).shape == (2 * (IMGSZ + TITLE) + TITLE, 3 * IMGSZ, 3)
    small = [np.full((h, w, 3), 200, np.uint8) for h, w in ((2, 3), (4, 1), (1, 1))]
    assert grid(small).shape == (5, 6, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--index", "9"], "--index must be 0 to 8"),
        (["--augment", "--position", "-1"], "--position must be 0 to 8"),
        (["--augment", "--set", "mosaik=1"], "--set must be NAME=VALUE with one of bgr"),
        (["--augment", "--set", "mosaic=much"], "mosaic must be a finite number, got 'much'"),
        (
            ["--augment", "--set", "copy_paste_mode=zoom"],
            "copy_paste_mode must be one of flip",
        ),
        (["--augment", "--set", "mosaic=2"], "mosaic must be 0 to 1"),
        (["--count", "0"], "--count must be 1 to 400"),
        (["--count", "401"], "--count must be 1 to 400, got 401"),
        (["--skeleton", "data.yaml"], "--skeleton is for poses"),
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
        return pictured(out)

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
        return pictured(out).astype(int)

    still = ["--augment", "--set", "mosaic=0", "--set", "scale=0", "--set", "translate=0",
             "--set", "fliplr=0"]  # fmt: skip
    for more in ([], still):
        drawn = np.abs(look(*more) - look("--task", "detect", *more)).max(2) > 0
        for x, y, middle, ring in ((0.3, 0.4, True, True), (0.5, 0.6, False, True),
                                   (0.7, 0.4, False, False)):  # fmt: skip
            row, column = round(y * IMGSZ), round(x * IMGSZ)
            assert drawn[row, column] == middle
            assert drawn[row, column + 4] == ring
        assert drawn.sum() < 500  # and nothing else but two numbers


def test_keypoints_without_visibility_are_filled(tmp_path: Path) -> None:
    yaml = draw_dataset(tmp_path / "set", {"train": 1}, sides=(IMGSZ, IMGSZ + 1))
    yaml.write_text(yaml.read_text() + "kpt_shape: [2, 2]\n")
    (file,) = (yaml.parent / "labels").rglob("*.txt")
    file.write_text("1 0.5 0.5 0.6 0.6 0.3 0.4 0.7 0.6\n")
    shards = packed(yaml, tmp_path / "shards", "raw", IMGSZ, task="pose")
    out = tmp_path / "look.png"
    assert main(["view", str(shards), "--out", str(out)]) == 0
    drawn = pictured(out)
    for k, (x, y) in enumerate(((0.3, 0.4), (0.7, 0.6))):
        assert tuple(drawn[round(y * IMGSZ), round(x * IMGSZ)][::-1]) == overlay.colour_of(k)


@pytest.fixture
def person(tmp_path: Path) -> Path:
    """A dataset of one person, whose 17 keypoints lie on a circle; the right shoulder (6) is not
    known, the left wrist (9) is hidden."""
    yaml = draw_dataset(tmp_path / "set", {"train": 1}, sides=(IMGSZ, IMGSZ + 1))
    turns = np.arange(17) * 2 * np.pi / 17
    points = np.stack([0.5 + 0.3 * np.cos(turns), 0.5 + 0.3 * np.sin(turns)], 1)
    visible = [{6: 0, 9: 1}.get(k, 2) for k in range(17)]
    row = " ".join(f"{x:.6f} {y:.6f} {v}" for (x, y), v in zip(points, visible, strict=True))
    (file,) = (yaml.parent / "labels").rglob("*.txt")
    file.write_text(f"1 0.5 0.5 0.8 0.8 {row}\n")
    return yaml


COCO_FLIP = "flip_idx: [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]\n"
OTHER_FLIP = "flip_idx: [1, 0, 2, 3, 4, 8, 9, 10, 5, 6, 7, 14, 15, 16, 11, 12, 13]\n"


@pytest.mark.parametrize(
    ("more", "limbs"),
    [
        ("", overlay.COCO_LIMBS),
        (COCO_FLIP, overlay.COCO_LIMBS),
        (OTHER_FLIP, ()),  # of an animal
        ("skeleton: [[0, 8], [3, 9], [6, 14]]\n", ((0, 8), (3, 9), (6, 14))),
        ("skeleton: [[1, 9], [4, 10], [17, 2]]\n", ((0, 8), (3, 9), (16, 1))),
    ],
)
def test_limbs_join_known_keypoints(person: Path, more: str, limbs: overlay.Limbs) -> None:
    """COCO's, or those of the YAML, from 0 or from 1; and when augmented. No others."""
    person.write_text(person.read_text() + "kpt_shape: [17, 3]\n" + more)
    shards = packed(person, person.parent / "shards", "raw", IMGSZ, task="pose")
    out = person.parent / "look.png"
    turns = np.arange(17) * 2 * np.pi / 17
    places = IMGSZ * np.stack([0.5 + 0.3 * np.cos(turns), 0.5 + 0.3 * np.sin(turns)], 1)
    thin, wide = np.zeros((2, IMGSZ, IMGSZ), np.uint8)
    for a, b in limbs:
        if 6 not in (a, b):
            ends = [np.round(places[k]).astype(int).tolist() for k in (a, b)]
            cv2.line(thin, *ends, 1, 1)
            cv2.line(wide, *ends, 1, 9)
    for k in set(range(17)) - {6}:
        cv2.circle(wide, np.round(places[k]).astype(int).tolist(), 20 if not limbs else 7, 1, -1)
    still = ["--augment", "--set", "mosaic=0", "--set", "scale=0", "--set", "translate=0",
             "--set", "fliplr=0"]  # fmt: skip
    for options in ([], still):
        drawn = []
        for task in ("pose", "detect"):
            assert main(["view", str(shards), "--task", task, "--out", str(out), *options]) == 0
            drawn.append(pictured(out).astype(int))
        changed = np.abs(drawn[0] - drawn[1]).max(2) > 0
        assert not changed[wide == 0].any()
        assert changed[thin == 1].mean() > 0.95 if limbs else changed.any()


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("skeleton: [[0, 17]]", "must be pairs of the keypoints 0 to 16"),
        ("skeleton: [[0, 1, 2]]", "must be pairs"),
        ("skeleton: arms", "got 'arms'"),
        ("skeleton: [[0, true]]", "must be pairs"),
        ("names: [a]", "has no 'skeleton"),
        ("{", "no skeleton can be read: .*: YAML syntax error"),
        # PyYAML's own loader would take 15 seconds a megabyte.
        (f"n: [{'a, ' * 250_000}]", "no skeleton can be read: .*more than 250000 values"),
        (None, "no skeleton can be read: .*No such file"),
    ],
)
def test_a_skeleton_that_cannot_be_drawn_is_refused(
    person: Path, yaml: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    person.write_text(person.read_text() + "kpt_shape: [17, 3]\n")
    shards = packed(person, person.parent / "shards", "raw", IMGSZ, task="pose")
    file = person.parent / "limbs.yaml"
    if yaml is not None:
        file.write_text(yaml)
    out = person.parent / "look.png"
    assert main(["view", str(shards), "--skeleton", str(file), "--out", str(out)]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not out.exists()
    # Where nobody asked for it, the picture is drawn without.
    person.write_text(yaml if yaml is not None else "")
    assert main(["view", str(shards), "--out", str(out)]) == 0
    noted = yaml is not None and "names" not in yaml
    assert bool(re.search(message, capsys.readouterr().err)) == noted
    assert out.exists()


def test_names_hide_no_names_and_no_small_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    boxes = np.concatenate(
        [random.uniform(0, 1, (150, 2)), random.uniform(0.02, 0.15, (150, 2))], 1
    )
    item = overlay.Labelled(np.zeros((640, 640, 3), np.uint8),
                            random.integers(0, 80, 150).astype(np.float32),
                            boxes.astype(np.float32))  # fmt: skip
    style = overlay.Style({i: f"name {i}" for i in range(80)})

    def plates() -> list[tuple[int, int, int, int]]:
        found = []
        with monkeypatch.context() as patch:
            patch.setattr(
                overlay,
                "_write",
                lambda _, text, at, *__: found.append(
                    (at[0] - 3, at[1] - 12, at[0] + overlay._text_width(text, 12) + 3, at[1] + 5)
                ),
            )
            overlay.draw(item, style)
        return found

    def hidden(of: list[Any], others: list[Any]) -> list[float]:
        return [
            max(0, min(a[2], b[2]) - max(a[0], b[0]))
            * max(0, min(a[3], b[3]) - max(a[1], b[1]))
            / ((b[2] - b[0]) * (b[3] - b[1]))
            for a in of
            for b in others
            if a is not b
        ]

    pixels = boxes * 640
    corners = np.concatenate(
        [pixels[:, :2] - pixels[:, 2:] / 2, pixels[:, :2] + pixels[:, 2:] / 2], 1
    )
    names = plates()
    assert 40 < len(names) < 150
    assert max(hidden(names, names)) == 0
    assert max(hidden(names, corners.tolist())) < 0.3
    monkeypatch.setattr(overlay._Free, "take", lambda *_: True)  # negative control
    assert len(plates()) == 150
    assert max(hidden(plates(), plates())) > 0


def test_a_name_is_compared_with_as_many_objects_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With those nearby alone."""
    compared = 0

    def hides(free: Any, plate: Any, objects: Any) -> bool:
        nonlocal compared
        for begin in range(0, 0 if objects is None else len(objects), free._TOGETHER):
            compared += 1
            if hidden(free, plate, objects[begin : begin + free._TOGETHER]):
                return True
        return False

    hidden = overlay._Free._hides
    monkeypatch.setattr(overlay._Free, "_hides", hides)
    random = np.random.default_rng(0)
    for count in (500, 8_000):
        compared = 0
        boxes = np.concatenate(
            [random.uniform(0.05, 0.95, (count, 2)), random.uniform(0.01, 0.05, (count, 2))], 1
        ).astype(np.float32)
        classes = np.arange(count, dtype=np.float32) % 5
        item = overlay.Labelled(np.zeros((480, 640, 3), np.uint8), classes, boxes)
        overlay.draw(item, overlay.Style({}))
        assert 0 < compared < 20 * count


def test_masks_are_where_opencv_resizes_them() -> None:
    for shape in ((37, 53), (160, 160), (640, 480)):
        mask = np.random.default_rng(1).random(shape) > 0.6
        mask[:5] = mask[:, -3:] = False
        seen = np.zeros((480, 640, 3), np.uint8)
        cls = np.zeros(1, np.float32)
        item = overlay.Labelled(
            seen, cls, np.zeros((1, 4), np.float32), masks=[mask.view(np.uint8)]
        )
        overlay._draw_masks(seen, item, [0])
        whole = cv2.resize(mask.view(np.uint8), (640, 480), interpolation=cv2.INTER_NEAREST)
        expected = np.zeros_like(seen)
        expected[whole > 0] = (0.4 * np.array(overlay.colour_of(0), np.float32)).astype(np.uint8)
        outlines, _ = cv2.findContours(whole, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(expected, outlines, -1, (255, 255, 255), 1, cv2.LINE_AA)
        np.testing.assert_array_equal(seen, expected)


def test_names_in_other_letters(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Are written, or said and replaced by the number; none becomes a row of question marks."""
    for name, there in (("Straße", True), ("собака", True), ("自転車", True), ("개", True),
                        ("what?", True), ("สุนัข", False), ("dog 🐶", False)):  # fmt: skip
        assert overlay.can_write(name) == there
        assert overlay.Style({7: name}).name(7) == (name if there else "class 7")
    yaml = draw_dataset(tmp_path / "set", {"train": 1})
    text = yaml.read_text().replace("circle", "สุนัข").replace("square", "自転車")
    yaml.write_text(text, encoding="utf-8")
    (file,) = (yaml.parent / "labels").rglob("*.txt")
    file.write_text("0 0.5 0.5 0.2 0.2\n1 0.2 0.2 0.2 0.2\n")
    there = packed(yaml, tmp_path / "shards", "raw", IMGSZ)
    assert main(["view", str(there), "--count", "3", "--out", str(tmp_path / "a.png")]) == 0
    notes = capsys.readouterr().err
    assert "lacks letters of สุนัข (class 0); their numbers" in notes
    assert "1 of --count 3 from 0 on" in notes


def test_every_class_is_in_the_legend() -> None:
    style = overlay.Style({i: f"name {i}" for i in range(80)})
    counts = dict.fromkeys(range(80), 3)
    drawn = overlay.legend(counts, style, 640)
    colours = {overlay.colour_of(c) for c in counts}
    assert len(colours) == 80
    for colour in colours:
        assert (drawn == colour).all(-1).sum() == 11 * 11
    assert overlay.legend({}, style, 640).shape == (0, 640, 3)


def test_a_sheet_that_the_format_has_no_room_for(tmp_path: Path) -> None:
    sheet = np.zeros((2, 20_000, 3), np.uint8)
    with pytest.raises(ConfigError, match=r"\.webp has no room for 20000 x 2 pixels"):
        view._write(tmp_path / "a.webp", sheet)
    assert not (tmp_path / "a.webp").exists()


def test_a_sheet_that_the_memory_has_no_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise cv2.error("OpenCV(5.0.0) alloc.cpp:73: error: (-4:Insufficient memory)")

    monkeypatch.setattr(cv2, "imencode", refuse)
    with pytest.raises(cv2.error):  # which the command explains as lack of memory
        view._write(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8))


def test_a_task_without_its_labels_is_refused(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["view", str(shards), "--task", "segment", "--out", str(tmp_path / "a.png")]) != 0
    assert "no outline" in capsys.readouterr().err
