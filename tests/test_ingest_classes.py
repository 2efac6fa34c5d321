"""A class is a number: which one it gets, and that all splits of a dataset mean the same by it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from ingesting import HEIGHT, JPEG, TWO, WIDTH, classes, coco

from yolodata import shards
from yolodata.cli import main
from yolodata.errors import DatasetError
from yolodata.ingest import PackSettings, open_source, pack
from yolodata.ingest.agreement import numbered_alike
from yolodata.ingest.relabel import relabel

THREE = {1: "cat", 2: "dog", 3: "emu"}
OTHERS = {
    "another order": ({3: "emu", 1: "cat", 2: "dog"}, [2, 0, 1]),
    "one is missing": ({1: "cat", 3: "emu"}, [0, 2, 0]),
    "other ids": ({7: "dog", 8: "emu"}, [1, 2, 1]),
    "ids that mean other names": ({1: "emu", 2: "cat", 3: "dog"}, [2, 0, 1]),
}


def packed_names(out: Path) -> dict[str, list[str]]:
    return {s: list(shards.read_meta(p).names.values()) for s, p in shards.splits(out).items()}


@pytest.mark.parametrize("case", OTHERS)
def test_classes_mean_the_same_in_all_splits(tmp_path: Path, case: str) -> None:
    categories, expected = OTHERS[case]
    images = ["0.jpg", "1.jpg", "2.jpg"]
    root = tmp_path / "coco"
    coco(root / "train.json", images, THREE, at=root / "train")
    file = coco(root / "val.json", images, categories, at=root / "val")
    for splits in (None, ["val"]):
        found = open_source(root, splits=splits)
        assert list(found.names.values()) == ["cat", "dog", "emu"]
        assert classes(found, "val") == expected
    out = tmp_path / "out"  # one by one
    pack(root / "train.json", out, PackSettings(imgsz=64), progress=False)
    for _ in range(2):  # and again: there is nothing to do
        report = pack(file, out, PackSettings(imgsz=64), progress=False)
    assert report.splits["val"].reused
    assert packed_names(out) == {split: ["cat", "dog", "emu"] for split in ("train", "val")}
    with shards.open(out / "val") as dataset:
        assert dataset.cls.tolist() == expected
    relabel(out, file, splits=["val"])
    with shards.open(out / "val") as dataset:
        assert dataset.cls.tolist() == expected
    named = ["emu", "dog", "cat"]  # the second call takes over what the first one was told
    pack(
        root,
        tmp_path / "named",
        PackSettings(imgsz=64),
        splits=["train"],
        progress=False,
        names=named,
    )
    pack(root, tmp_path / "named", PackSettings(imgsz=64), splits=["val"], progress=False)
    with shards.open(tmp_path / "named" / "val") as dataset:
        assert dataset.cls.tolist() == [2 - number for number in expected]


def test_classes_that_cannot_agree_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "coco"
    train = coco(root / "train.json", categories=THREE, at=root / "train")
    val = coco(root / "val.json", categories={1: "cat", 2: "cow"}, at=root / "val")
    with pytest.raises(
        DatasetError, match=r"id 2 is 'dog' in .*train.json and 'cow' in .*val.json"
    ):
        open_source(root)
    assert list(open_source(root, splits=["val"]).names.values()) == ["cat", "cow"]
    out = tmp_path / "out"
    pack(train, out, PackSettings(imgsz=64), progress=False)
    with pytest.raises(
        DatasetError, match=r"has 'cow'; it lacks 'dog', 'emu'.*--names cat,dog,emu,cow "
    ):
        pack(val, out, PackSettings(imgsz=64), progress=False)
    assert set(packed_names(out)) == {"train"}
    names = ["cat", "dog", "emu", "cow"]  # what the message says
    for file in (train, val):
        pack(file, tmp_path / "named", PackSettings(imgsz=64), progress=False, names=names)
    assert packed_names(tmp_path / "named") == dict.fromkeys(("train", "val"), names)
    with pytest.raises(DatasetError, match="class 0 is 'dog', not 'cat'"):
        pack(val, out, PackSettings(imgsz=64), progress=False, names=["dog", "cat", "emu"])


@pytest.mark.parametrize("name", ["driver's seat", "salt, pepper"])
def test_the_command_for_names_that_differ_can_be_copied(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, categories in {"train": {1: "a", 2: name}, "val": {1: name, 2: "b"}}.items():
        coco(tmp_path / f"{split}.json", categories=categories, at=tmp_path / split)
    line = ["shard", str(tmp_path), str(tmp_path / "out"), "--imgsz", "32", "--quiet"]
    assert main(line) == 2
    said = capsys.readouterr().err
    file = tmp_path / "names.txt"
    file.write_text(f"a\n{name}\nb\n")
    given = re.search("--names .*", said)[0].replace(
        "FILE.txt, which has them one a line", str(file)
    )
    assert main([*line, *shlex.split(given)]) == 0
    assert packed_names(tmp_path / "out")["val"] == ["a", name, "b"]


def test_blanks_around_names_mean_nothing(tmp_path: Path) -> None:
    """As in XML and in lists of names; --names could not give them."""
    coco(tmp_path / "train.json", categories=TWO, at=tmp_path / "images")
    file = coco(tmp_path / "val.json", categories={1: "cat ", 2: "\tdog"})
    for names in (None, ["cat", "dog"]):
        found = open_source(tmp_path, names=names)
        assert list(found.names.values()) == ["cat", "dog"]
        assert classes(found, "val") == classes(found, "train") == [0, 1]
    assert open_source(file, splits=["val"], names=["dog"]).names == {0: "dog"}


def test_two_categories_of_one_name_stay_two_classes(tmp_path: Path) -> None:
    """As upstream has them. Names cannot tell them apart, so nothing is numbered by names."""
    root = tmp_path / "coco"
    twins = {1: "cat", 2: "cat", 3: "emu"}
    train = coco(root / "train.json", ["0.jpg", "1.jpg", "2.jpg"], twins, at=root / "train")
    val = coco(root / "val.json", categories={2: "cat", 3: "emu"}, at=root / "val")
    assert classes(open_source(root), "val") == [1, 2]
    pack(train, tmp_path / "out", PackSettings(imgsz=64), progress=False)
    with pytest.raises(DatasetError, match="class 1 is 'emu', not 'cat'"):
        pack(val, tmp_path / "out", PackSettings(imgsz=64), progress=False)


def test_chosen_names_drop_other_categories(tmp_path: Path) -> None:
    file = coco(tmp_path / "train.json", categories=THREE, at=tmp_path / "images")
    found = open_source(file, names=["dog"])
    assert classes(found, "train") == [0]
    assert found.splits["train"].raw_labels(0).notes == ("1 objects of other classes dropped",)
    with pytest.raises(DatasetError, match="names must be some of the categories'"):
        open_source(file, names=["cow"])


def test_other_sources_agree_too(tmp_path: Path) -> None:
    """YOLO's numbers are fixed, so it refuses; VOC, which sorts names, takes those of train."""
    for name, names in (("a", ["cat", "dog"]), ("b", ["dog", "cat"])):
        for split in ("train", "val"):
            folder = tmp_path / name / "images" / split
            folder.mkdir(parents=True)
            (folder / "0.jpg").write_bytes(JPEG)
            label = tmp_path / name / "labels" / split / "0.txt"
            label.parent.mkdir(parents=True)
            label.write_text("0 .5 .5 .5 .5")
        data = {"train": "images/train", "val": "images/val", "names": names}
        (tmp_path / name / "data.yaml").write_text(json.dumps(data))
    out = tmp_path / "out"
    pack(
        tmp_path / "a" / "data.yaml", out, PackSettings(imgsz=64), splits=["train"], progress=False
    )
    with pytest.raises(DatasetError, match=r"class 0 is 'dog', not 'cat'"):
        pack(
            tmp_path / "b" / "data.yaml",
            out,
            PackSettings(imgsz=64),
            splits=["val"],
            progress=False,
        )
    pack(tmp_path / "a" / "data.yaml", out, PackSettings(imgsz=64), splits=["val"], progress=False)
    data["names"] = ["cat", "dog", "emu"]  # a new class: one split after the other is renewed
    (tmp_path / "a" / "data.yaml").write_text(json.dumps(data))
    changed = open_source(tmp_path / "a" / "data.yaml", splits=["val"])
    (note,) = numbered_alike(changed, out, None).notes
    assert "out/train' holds the classes that this source had before: it lacks 'emu'" in note
    for split in ("train", "val"):
        relabel(out, tmp_path / "a" / "data.yaml", splits=[split])
    assert packed_names(out) == dict.fromkeys(("train", "val"), data["names"])

    for name, split in (("zebra", "train"), ("cat", "train"), ("zebra", "val")):
        root = tmp_path / f"voc_{split}"
        (root / "Annotations").mkdir(parents=True, exist_ok=True)
        (root / "JPEGImages" / split).mkdir(parents=True, exist_ok=True)
        (root / "JPEGImages" / split / f"{name}.jpg").write_bytes(JPEG)
        (root / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><size><width>{WIDTH}</width><height>{HEIGHT}</height></size><object><name>{name}"
            "</name><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>30</xmax><ymax>30</ymax></bndbox>"
            "</object></annotation>"
        )
    for split in ("train", "val"):
        pack(tmp_path / f"voc_{split}", tmp_path / "voc", PackSettings(imgsz=64), progress=False)
    assert packed_names(tmp_path / "voc") == {split: ["cat", "zebra"] for split in ("train", "val")}
    with shards.open(tmp_path / "voc" / "val") as dataset:
        assert dataset.cls.tolist() == [1]


def test_new_labels_of_splits_that_cannot_agree(tmp_path: Path) -> None:
    root, out = tmp_path / "set", tmp_path / "out"
    for split in ("train", "val"):
        coco(root / f"{split}.json", at=root / split)
    pack(root, out, PackSettings(imgsz=32), progress=False)
    coco(root / "val.json", categories={1: "cat", 2: "cow"})
    with pytest.raises(DatasetError, match="it has 'cow'; it lacks 'dog'"):
        relabel(out, root)
    assert packed_names(out) == {"train": ["cat", "dog"], "val": ["cat", "dog"]}


def test_a_trainer_refuses_splits_of_other_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from yolodata.ultralytics.auto_pack import describe_shards

    for split, names in (("train", THREE), ("val", TWO)):
        root = tmp_path / split
        file = coco(root / f"{split}.json", categories=names, at=root / "images")
        pack(file, tmp_path / "each" / split, PackSettings(imgsz=64), progress=False)
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "each" / split / split).rename(tmp_path / "out" / split)
    with pytest.raises(
        DatasetError, match=r"out/val: must have the classes of .*out/train.*lacks 'emu'"
    ):
        describe_shards(tmp_path / "out", ["train", "val"])
    assert main(["verify", str(tmp_path / "out")]) == 1
    assert "it lacks 'emu'" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "out"), "--split", "val"]) == 0
