"""Our pictures and labels against Ultralytics' own, from the numbers that upstream drew.

`yolodata parity` does the same at full size on a dataset of the user's; kinds, limits and the
comparison are its. What is drawn: test_parity_distributions.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import pytest
from ingesting import tree_hash
from ultralytics.utils import ASSETS

import yolodata
from yolodata.cli import main
from yolodata.parity import kinds, label_table, tally, training, upstream

IMGSZ = 160
GOOD = "the YAML as it is"
Label = Callable[[np.random.Generator], Any]


def box(random: np.random.Generator) -> Any:
    size = random.uniform(0.02, 0.6, 2)
    return [*random.uniform(size / 2, 1 - size / 2), *size]


def outline(random: np.random.Generator) -> Any:
    """A wheel with spokes of many lengths; concave, and often cut off by the picture."""
    angles = np.sort(random.uniform(0, 2 * np.pi, random.integers(3, 40)))
    points = np.stack([np.cos(angles), np.sin(angles)], 1) * random.uniform(
        0.2, 1, (len(angles), 1)
    )
    return (random.uniform(0, 1, 2) + points * random.uniform(0.05, 0.6, 2)).clip(0, 1).ravel()


def odd_outline(random: np.random.Generator) -> Any:
    """What upstream's resampling and clipping do most to."""
    circle = np.linspace(0, 2 * np.pi, random.choice([400, 998, 999, 1000, 1001, 1300]))
    shapes = [
        random.uniform(0, 1, (3, 2)),  # a large triangle: few points, long edges
        [[0, 0], [1, 0], [1, 1], [0, 1]],  # the whole picture
        np.clip(random.uniform(-1, 2, (7, 2)), 0, 1),  # edges that cross
        [[0.1, 0.5], [0.9, 0.5], [0.9, 0.505], [0.1, 0.505]],  # a sliver
        np.repeat(random.uniform(0, 1, (4, 2)), 3, axis=0),  # points twice
        0.5 + 0.4 * np.stack([np.cos(circle), np.sin(circle)], 1),  # more points than 1000
        [[0, 0], [0.03, 0], [0.03, 0.03]],
    ]
    return np.ravel(shapes[random.integers(len(shapes))])


def draw_dataset(folder: Path, label: Label) -> Path:
    """Crops of two photographs, of many sizes, some without objects; returns the YAML."""
    random = np.random.default_rng(4)
    photos = [cv2.imread(str(file)) for file in sorted(ASSETS.glob("*.jpg"))]
    for split, count in (("train", 14), ("val", 7)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            photo = photos[i % len(photos)]
            h, w = random.integers(40 if i == 3 else 150, 500, 2)
            y, x = random.integers(0, photo.shape[0] - h), random.integers(0, photo.shape[1] - w)
            cv2.imwrite(str(folder / "images" / split / f"{i}.png"), photo[y : y + h, x : x + w])
            rows = []
            for _ in range(0 if i == 5 else random.integers(1, 8)):
                values = " ".join(f"{value:.6f}" for value in label(random))
                rows.append(f"{random.integers(0, 3)} {values}")
            (folder / "labels" / split / f"{i}.txt").write_text("\n".join(rows))
    yaml = folder / "data.yaml"
    yaml.write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames: [a, b, c]\n")
    return yaml


@pytest.fixture(
    scope="module", params=[box, outline, odd_outline], ids=lambda label: label.__name__
)
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_dataset(tmp_path_factory.mktemp(request.param.__name__), request.param)


@pytest.fixture(scope="module")
def source(data: Path) -> upstream.Upstream:
    return upstream.Upstream(data, IMGSZ)


MORE: dict[str, dict[str, Any]] = {
    "strong perspective": {"perspective": 0.002, "degrees": 45.0, "mosaic": 0.5},
    "far": {"scale": (0.05, 3.0), "translate": 0.9, "degrees": 180.0, "shear": 20.0},
}


@pytest.mark.parametrize("kind", [*kinds.GEOMETRY, *MORE])
def test_geometry(source: upstream.Upstream, kind: str) -> None:
    plain, settings = kinds.CHAINS["geometry"]
    found = training.compare(source, {**plain, **{**settings, **MORE}[kind]}, 14, seed=1)
    assert not tally.missed("geometry", kind, found.report())
    assert found.objects or kind == "far"


@pytest.mark.parametrize("kind", kinds.COLOUR)
def test_colour_mixup_and_cutmix(source: upstream.Upstream, kind: str) -> None:
    hyp = kinds.COLOUR[kind]
    found = training.compare(source, hyp, 20, seed=2)
    assert not tally.missed("colour", kind, found.report())
    assert bool(found.mixups) == bool(hyp.get("mixup"))
    assert bool(found.cutmixes) == bool(hyp.get("cutmix"))


def test_a_little_off_fails(source: upstream.Upstream) -> None:
    plain, _ = kinds.CHAINS["geometry"]
    report = training.compare(source, plain, 4, seed=1, broken=True).report()
    pictures = {**report, "samples_with_other_objects": 0, "largest_box_error": 0.0}
    labels = {**report, "identical_percent": 100.0, "largest_difference": 0}
    for figures in (pictures, labels):  # each is noticed without the other
        assert len(tally.missed("geometry", "default", figures)) == 1


def test_command_writes_its_figures_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(font: str) -> None:
        raise AssertionError(font)

    monkeypatch.setattr("ultralytics.data.utils.check_font", download)
    yaml = draw_dataset(tmp_path / "data", outline)
    before = tree_hash(tmp_path / "data")
    arguments = [
        "parity",
        str(yaml),
        "--draws",
        "0",
        "--samples",
        "12",
        "--imgsz",
        "96",
        "--batch",
        "3",
    ]
    assert main([*arguments, "--json", str(tmp_path / "out" / "parity.json")]) == 0
    assert "every limit holds" in capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert not result["failed"]
    for chain, (_, settings) in kinds.chains("detect", polygons=True).items():
        assert result[chain]["samples"] >= 12
        assert result[chain]["identical_percent"] >= result["limits"][chain][0]
        assert set(result[chain]["kinds"]) == set(settings)
    assert result["validation"] == {"default": {"batches": 3, "pictures": 7, "differing": {}}}
    assert main([*arguments, "--break"]) == 1
    assert "FAILED" in capsys.readouterr().out
    assert tree_hash(tmp_path / "data") == before


@pytest.mark.parametrize("task", ["segment", "obb"])
def test_outlines(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Masks and oriented boxes, with everything that can be pasted; validation batches."""
    yaml = draw_dataset(tmp_path / "data", outline)
    arguments = [
        "parity",
        str(yaml),
        "--draws",
        "0",
        "--task",
        task,
        "--samples",
        "14",
        "--imgsz",
        "96",
        "--batch",
        "3",
    ]
    assert main([*arguments, "--json", str(tmp_path / "out.json")]) == 0
    result = json.loads((tmp_path / "out.json").read_text())
    assert len(result["validation"]) == (4 if task == "segment" else 1)
    assert not any(kind["differing"] for kind in result["validation"].values())
    assert result["copy-paste"]["with_copy_paste"] > 5
    assert (result["geometry"]["mask_pixels"] > 0) == (task == "segment")
    assert main([*arguments, "--break"]) == 1


def person(random: np.random.Generator) -> Any:
    """A box with five keypoints in and around it, some of them not visible."""
    values = box(random)
    points = np.clip(
        np.array(values[:2]) + random.uniform(-0.6, 0.6, (5, 2)) * np.array(values[2:]), 0, 1
    )
    return [*values, *np.c_[points, random.integers(0, 3, 5)].ravel()]


def person_without_visibility(random: np.random.Generator) -> Any:
    """The same by x and y alone; what is a little outside is not visible."""
    values = person(random)
    points = np.reshape(values[4:], (5, 3))[:, :2]
    points[random.random(5) < 0.2] -= [0, 1]
    return [*values[:4], *points.clip(-0.005, 1).ravel()]


@pytest.fixture(scope="module", params=[person, person_without_visibility], ids=["3", "2"])
def pose(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    yaml = draw_dataset(tmp_path_factory.mktemp("person"), request.param)
    dims = 3 if request.param is person else 2
    more = f"kpt_shape: [5, {dims}]\nflip_idx: [0, 2, 1, 4, 3]\n"
    yaml.write_text(yaml.read_text() + more)
    return yaml


def test_poses(pose: Path, tmp_path: Path) -> None:
    """Pictures, boxes, keypoints and their visibility; whole validation batches."""
    arguments = [
        "parity",
        str(pose),
        "--draws",
        "0",
        "--task",
        "pose",
        "--samples",
        "40",
        "--imgsz",
        "160",
    ]
    assert main([*arguments, "--json", str(tmp_path / "pose.json")]) == 0
    result = json.loads((tmp_path / "pose.json").read_text())
    assert result["geometry"]["keypoints"] > 100
    assert result["validation"]["default"]["differing"] == {}
    assert main([*arguments, "--break"]) == 1


def test_keypoints_that_are_off_are_noticed(pose: Path) -> None:
    source = upstream.Upstream(pose, IMGSZ, "pose")
    plain, _ = kinds.CHAINS["geometry"]
    labels, flip_idx = source.dataset.labels, source.dataset.data["flip_idx"]
    visible = [{**label, "keypoints": label["keypoints"] + [0, 0, 1]} for label in labels]
    for seen, order in ((labels, None), (visible, flip_idx)):
        source.table = label_table.label_table(seen, "pose", flip_idx=order)
        report = training.compare(source, {**plain, "fliplr": 0.5}, 10, seed=1).report()
        assert len(tally.missed("geometry", "default", report)) == 1


def test_a_dropped_label_fails(source: upstream.Upstream) -> None:
    plain, _ = kinds.CHAINS["geometry"]
    source.use(**plain)  # with the right labels
    few = [dict(label) for label in source.dataset.labels]
    most = max(few, key=lambda label: len(label["cls"]))
    most.update({name: most[name][1:] for name in ("cls", "bboxes", "segments")})
    with patch.object(source, "_label_table", lambda **_: label_table.label_table(few, "detect")):
        report = training.compare(source, plain, 14, seed=1).report()
    assert set(tally.missed("geometry", "default", report)) == {"boxes"}


def test_shards_are_compared_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pixels and labels come from the shards; what changed since they were packed is noticed."""
    yaml = draw_dataset(tmp_path / "data", outline)
    yolodata.pack(yaml, tmp_path / "shards", yolodata.PackSettings(imgsz=96), progress=False)
    arguments = ["parity", str(tmp_path / "shards"), "--draws", "0", "--samples", "12"]
    arguments += ["--task", "segment", "--batch", "3"]
    assert main(arguments) == 0
    assert main([*arguments, "--imgsz", "64"]) == 2
    assert "--imgsz must be 96" in capsys.readouterr().err
    for split in ("train", "val"):
        file = tmp_path / "data" / "labels" / split / "1.txt"
        file.write_text("\n".join(file.read_text().splitlines()[1:]))
    assert main(arguments) == 1
    said = capsys.readouterr().out
    assert "FAILED: geometry, default: " in said
    assert "FAILED: validation, default: differ in" in said
    (tmp_path / "data" / "images" / "train" / "1.png").unlink()
    assert main(arguments) == 2
    assert "must hold the 13 images that Ultralytics reads, got 14" in capsys.readouterr().err


def test_sizes_that_nobody_trains_with_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    yaml = draw_dataset(tmp_path / "set", outline)
    assert main(["parity", str(yaml), "--imgsz", "50"]) == 2
    assert "must be a multiple of 32, as Ultralytics trains" in capsys.readouterr().err
    yolodata.pack(yaml, tmp_path / "shards", yolodata.PackSettings(imgsz=100), progress=False)
    assert main(["parity", str(tmp_path / "shards")]) == 2
    assert "got 100; give 128, what it would make of it" in capsys.readouterr().err


def test_the_last_pixels_of_a_row_are_one_grey_level_apart() -> None:
    """Where the width is no multiple of 32, and nowhere else; see docs/parity.md."""
    random = np.random.default_rng(0)
    for width in (50, 64, 96, 100):
        hsv = random.integers(0, 180, (64, width, 3)).astype(np.uint8)
        longer = np.pad(hsv, ((0, 0), (0, 64), (0, 0)))
        row = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR).astype(int)
        whole = cv2.cvtColor(longer, cv2.COLOR_HSV2BGR)[:, :width]
        apart = np.abs(row - whole).max((0, 2))
        assert apart[: width // 32 * 32].max() == 0
        assert (width % 32 == 0) or apart.max() == 1


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        (None, [], "does not exist"),
        ("val: x\nnames: [a]", [], "the key 'train' is missing"),
        ("train: images/train\nval: images/none\nnames: [a]", [], "images/none' does not exist"),
        (
            GOOD,
            ["--task", "pose"],
            "'kpt_shape' must be [number of keypoints, 2 or 3] for task 'pose'",
        ),
        (GOOD, ["--task", "segment"], "for task 'segment': "),
        (GOOD, ["--task", "obb"], "Please supply an OBB dataset"),
        (GOOD, ["--samples", "0"], "--samples must be at least 1, got 0"),
        (GOOD, ["--draws", "10"], "--draws must be 0 (no comparison) or at least 1000"),
    ],
)
def test_what_cannot_be_compared_is_said(
    text: str | None,
    arguments: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    yaml = draw_dataset(tmp_path / "data", box)
    if text is None:
        yaml.unlink()
    elif text != GOOD:
        yaml.write_text(text)
    assert main(["parity", str(yaml), "--imgsz", "64", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("yolodata: ")
    assert said in error


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("images/val/pipe.jpg", "pipe.jpg: is no file"),
        ("images/train/zero.jpg", "zero.jpg: is no file"),
        ("images/train/sparse.jpg", "sparse.jpg: has 1099511627776 bytes"),
        ("labels/train/{}.txt", ".txt: has 1099511627776 bytes"),
    ],
)
def test_ultralytics_is_given_no_file_without_an_end(
    file: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would wait for a FIFO, and read a sparse file into memory."""
    yaml = draw_dataset(tmp_path / "data", box)
    yolodata.pack(yaml, tmp_path / "shards", yolodata.PackSettings(imgsz=64), progress=False)
    image = next((tmp_path / "data/images/train").iterdir())
    bad = tmp_path / "data" / file.format(image.stem)
    bad.unlink(missing_ok=True)
    if "pipe" in file:
        os.mkfifo(bad)
    elif "zero" in file:
        bad.symlink_to("/dev/zero")
    else:
        with bad.open("wb") as opened:
            opened.truncate(1 << 40)
    for given in (["--imgsz", "64", str(yaml)], [str(tmp_path / "shards")]):
        assert main(["parity", *given]) == 2
        assert f"{said}, and Ultralytics would read it" in capsys.readouterr().err
