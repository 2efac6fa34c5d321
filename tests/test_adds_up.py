"""What `shard` and `info` say of a dataset adds up to what lies on the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ingesting import jpeg, picture, write_yolo

from yolodata import shards
from yolodata.cli import main
from yolodata.shards.left_out import LEFT_OUT, read_left_out, write_left_out

IMAGES = 12
XML = (
    "<annotation><size><width>30</width><height>20</height></size><object><name>a</name><bndbox>"
    "<xmin>2</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
)


def yolo(root: Path) -> Path:
    """Lists that name some of the images, one of them broken and one absent."""
    yaml = write_yolo(root, {"train": 8, "val": 4})
    (root / "images" / "train" / "003.jpg").write_bytes(b"")
    names = ["000", "001", "002", "003", "absent"]
    lines = [f"./images/train/{name}.jpg" for name in names]
    (root / "train.txt").write_text("\n".join(lines))
    yaml.write_text(yaml.read_text().replace("train: images/train", "train: train.txt"))
    return yaml


def voc(root: Path) -> Path:
    """Lists of two splits, images that none of them names, and one broken image."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for number in range(IMAGES):
        (root / "JPEGImages" / f"{number:02}.jpg").write_bytes(jpeg(picture(number, 20, 30)))
        (root / "Annotations" / f"{number:02}.xml").write_text(XML)
    (root / "JPEGImages" / "03.jpg").write_bytes(b"")
    for name, numbers in (("train", range(6)), ("val", range(6, 9))):
        text = "\n".join(f"{number:02}" for number in numbers)
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text(text)
    return root


def coco(root: Path) -> Path:
    """Images that no annotation file names, and one that is named and absent."""
    (root / "annotations").mkdir(parents=True)
    for split, numbers in (("train", range(8)), ("val", range(8, IMAGES))):
        (root / split).mkdir()
        for number in numbers:
            (root / split / f"{number:02}.jpg").write_bytes(jpeg(picture(number, 20, 30)))
        named = [*numbers[:-2], 90 + numbers[0]]
        box = {"id": 1, "image_id": named[0], "category_id": 1, "bbox": [2, 2, 9, 9]}
        about = {
            "images": [
                {"id": n, "file_name": f"{n:02}.jpg", "width": 30, "height": 20} for n in named
            ],
            "annotations": [{**box, "iscrowd": 0}],
            "categories": [{"id": 1, "name": "a"}],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(about))
    return root


@pytest.mark.parametrize("make", [yolo, voc, coco])
def test_images(tmp_path: Path, make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = make(tmp_path / "set"), tmp_path / "out"
    assert main(["shard", str(source), str(out), "--imgsz", "32", "--quiet"]) == 0
    said = capsys.readouterr().out
    told = set(json.loads((out / LEFT_OUT).read_text()))
    for path in shards.splits(out).values():
        with shards.open(path) as dataset:
            told |= {dataset.name(i) for i in range(len(dataset))}
            told |= {name for name, _ in dataset.meta.left_out}
    on_disk = {str(file) for file in (tmp_path / "set").rglob("*.jpg")}
    assert len(on_disk) == IMAGES
    assert on_disk <= told
    assert main(["info", str(out), "--json"]) == 0
    infos = json.loads(capsys.readouterr().out)
    images = sum(info["images"] for info in infos)
    left_out = sum(sum(info["left_out"].values()) for info in infos)
    no_split = sum(infos[0]["in_no_split"].values())
    assert images + left_out + no_split == len(told)
    total = f"in all: {images} images packed, {left_out} left out, {no_split} files in no split"
    assert total in said
    assert main(["info", str(out)]) == 0
    assert f"{images} images, {left_out} left out, {no_split} files" in capsys.readouterr().out
    taken = sum(file.stat().st_size for s in ("train", "val") for file in (out / s).iterdir())
    assert sum(info["disk_bytes"] for info in infos) == taken


def test_a_dataset_that_is_all_packed_leaves_no_list(tmp_path: Path) -> None:
    yaml = write_yolo(tmp_path / "set", {"train": 3, "val": 2})
    out = tmp_path / "out"
    out.mkdir()
    (out / LEFT_OUT).write_text("damaged")
    assert main(["shard", str(yaml), str(out), "--imgsz", "32", "--quiet"]) == 0
    assert json.loads((out / LEFT_OUT).read_text()) == {}
    (out / LEFT_OUT).write_text("[]")
    assert main(["info", str(out)]) == 2


def test_more_than_a_list_holds_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written can be read again."""
    monkeypatch.setattr("yolodata.shards.left_out.MAX_BYTES", 2000)
    given = {f"images/{k:03}.jpg": "in no list" for k in range(200)}
    write_left_out(tmp_path, given)
    *listed, (rest, why) = read_left_out(tmp_path).items()
    assert listed == list(given.items())[: len(listed)]
    assert rest == f"{200 - len(listed)} more files"
    assert why.startswith("not listed, because")
    assert len(listed) > 30


def test_info_shows_the_classes_with_the_most_objects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    yaml = write_yolo(tmp_path / "set", {"train": 4, "val": 2}, names=30)
    rows = [f"{k} .5 .5 .1 .{k + 10}" for k in range(25) for _ in range(1)]
    rows += [f"24 .5 .5 .{k + 20} .5" for k in range(7)]
    (tmp_path / "set" / "labels" / "train" / "001.txt").write_text("\n".join(rows))
    out = str(tmp_path / "out")
    assert main(["shard", str(yaml), out, "--imgsz", "32", "--quiet", "--split", "train"]) == 0
    capsys.readouterr()
    assert main(["info", out]) == 0
    short = capsys.readouterr().out.splitlines()
    begin = next(k for k, line in enumerate(short) if line.startswith("  classes  30"))
    assert short[begin + 1].split()[0] == "c24"
    assert short[begin + 21].startswith("    10 other classes with ")
    assert short[begin + 22 :] == ["", short[-1]]
    assert short[-1].startswith("version ")
    assert main(["info", out, "--all"]) == 0
    every = capsys.readouterr().out.splitlines()
    listed = [line.split() for line in every if line.startswith("    c")]
    assert [words[0] for words in listed] == [f"c{k}" for k in range(30)]
    assert main(["info", out, "--json"]) == 0
    (info,) = json.loads(capsys.readouterr().out)
    assert len(info["classes"]) == 30
    assert sum(int(words[1]) for words in listed) == info["objects"]


def test_info_shows_names_of_any_length_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    yaml = write_yolo(tmp_path / "set", {"train": 2}, names=2)
    content = yaml.read_text().replace("- c1", '- "two\\nlines \\e[31m' + "x" * 900 + '"')
    yaml.write_text(content + "val: images/train\n")
    out = str(tmp_path / "out")
    assert main(["shard", str(yaml), out, "--imgsz", "32", "--quiet", "--split", "train"]) == 0
    capsys.readouterr()
    assert main(["info", out]) == 0
    said = capsys.readouterr().out
    assert r"    two\nlines \x1b[31mxxx" in said
    assert max(map(len, said.splitlines())) < 200
