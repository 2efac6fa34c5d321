"""Pascal VOC: the same labels as the conversion in upstream's VOC.yaml, but for empty boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ingesting import jpeg, picture, tree_hash, upstream_verdict

from yolodata import shards
from yolodata.cli import main
from yolodata.errors import DatasetError
from yolodata.ingest import PackSettings, open_source, pack
from yolodata.ingest.labels import check_labels
from yolodata.ingest.sample import Refused

W, H = 80, 60


def item(name: str, corners: tuple[float, ...], difficult: Any = 0) -> str:
    keys = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(keys, corners, strict=True))
    flag = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    return f"<object><name>{name}</name>{flag}<bndbox>{box}</bndbox></object>"


def xml(*items: str, size: tuple[int, int] = (W, H)) -> str:
    shape = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>x.jpg</filename>{shape}{''.join(items)}</annotation>"


CASES = {
    "one": xml(item("dog", (10, 12, 40, 50))),
    "fractions": xml(item("dog", (10.5, 12.25, 40.1, 50.9)), item("cat", (1, 1, 5, 5))),
    "difficult": xml(item("dog", (10, 12, 40, 50), 1), item("cat", (10, 12, 40, 50))),
    "only_difficult": xml(item("dog", (10, 12, 40, 50), 1)),
    "whole_picture": xml(item("cat", (1, 1, W, H))),
    "corner": xml(item("cat", (0, 0, 20, 20))),
    "twice": xml(
        item("cat", (5, 5, 20, 20)), item("dog", (1, 2, 30, 40)), item("cat", (5, 5, 20, 20))
    ),
    "beyond": xml(item("cat", (5, 5, 200, 20))),
    "nothing": xml(),
}
OURS = {
    "no_area": xml(item("cat", (5, 5, 5, 5)), item("dog", (10, 12, 40, 50))),
    "turned_round": xml(item("cat", (20, 5, 5, 30)), item("dog", (10, 12, 40, 50))),
    "not_a_number": xml(item("cat", (float("nan"), 5, 5, 5)), item("dog", (10, 12, 40, 50))),
    "difficult_missing": xml(item("dog", (10, 12, 40, 50), None)),
    "difficult_empty": xml(item("dog", (10, 12, 40, 50), "")),
    "namespaces": xml(item("dog", (10, 12, 40, 50))).replace(
        "<annotation>", '<annotation xmlns="http://a.example/voc">'
    ),
    "nameless": xml(item(" ", (5, 5, 9, 9)), item("dog", (10, 12, 40, 50))),
}
REFUSED = {
    "broken": "<annotation><object>",
    "empty_file": "",
    "words": xml(item("cat", ("a", 1, 2, 3))),  # type: ignore[arg-type]
    "no_size": "<annotation>" + item("cat", (1, 2, 3, 4)) + "</annotation>",
    "size_0": xml(item("cat", (1, 2, 3, 4)), size=(0, 0)),
    "no_box": xml("<object><name>cat</name></object>"),
}


def write_voc(root: Path, cases: dict[str, str], images: str = "JPEGImages") -> Path:
    for k, (name, text) in enumerate(cases.items()):
        for folder, suffix in ((images, ".jpg"), ("Annotations", ".xml")):
            (root / folder).mkdir(parents=True, exist_ok=True)
            content = text.encode() if suffix == ".xml" else jpeg(picture(k, H, W))
            (root / folder / f"{name}{suffix}").write_bytes(content)
    return root


def upstream_rows(root: Path, names: list[str], name: str, work: Path) -> bytes:
    """Run the convert_label that upstream ships inside VOC.yaml."""
    import ultralytics
    import yaml

    file = Path(ultralytics.__file__).parent / "cfg/datasets/VOC.yaml"
    script = yaml.safe_load(file.read_text())["download"]
    function = script[script.index("def convert_label") : script.index("# Download")]
    space: dict[str, Any] = {"yaml": {"names": dict(enumerate(names))}}
    exec("import xml.etree.ElementTree as ET\n" + function, space)
    work.mkdir(exist_ok=True)
    (work / "VOC1").unlink(missing_ok=True)
    (work / "VOC1").symlink_to(root)
    space["convert_label"](work, work / "rows.txt", "1", name)
    return (work / "rows.txt").read_bytes()


@pytest.mark.parametrize("name", CASES)
def test_labels_equal_upstream(tmp_path: Path, name: str) -> None:
    root = write_voc(tmp_path / "voc", CASES)
    source = open_source(root)
    split = source.splits["train"]
    i = [Path(p).stem for p in split.paths].index(name)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    image = tmp_path / "images" / "x.jpg"
    image.write_bytes(Path(split.paths[i]).read_bytes())
    rows = upstream_rows(root, ["cat", "dog"], name, tmp_path / "work")
    (tmp_path / "labels" / "x.txt").write_bytes(rows)
    theirs = upstream_verdict(str(image), classes=2)
    try:
        ours = check_labels(split.raw_labels(i), source.rules("detect", False))
    except Refused:
        assert theirs.refused
        assert name == "beyond"
        return
    assert not theirs.refused
    assert ours.box.tobytes() == np.ascontiguousarray(theirs.box).tobytes()
    assert ours.cls.tobytes() == np.ascontiguousarray(theirs.cls).tobytes()


def test_packed(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "voc", {**CASES, **OURS, **REFUSED})
    (root / "JPEGImages" / "no_annotation.jpg").write_bytes(jpeg(picture(0, H, W)))
    before = tree_hash(root)
    report = pack(root, tmp_path / "out", PackSettings(imgsz=64), progress=False).splits["train"]
    assert tree_hash(root) == before
    refused = {Path(path).stem: reason for path, reason in report.left_out}
    assert set(refused) == {*REFUSED, "beyond"}
    assert all("cannot be used" in refused[name] for name in REFUSED)
    notes = {Path(path).stem: note for path, note in report.notes}
    assert notes["no_area"] == "box without area left out: cat at 5 5 5 5"
    assert notes["turned_round"] == "box whose min is above its max left out: cat at 20 5 5 30"
    assert notes["nameless"] == "1 objects without a name dropped"
    assert "nan" in notes["not_a_number"]
    assert notes["difficult"] == "1 difficult objects dropped"
    with shards.open(tmp_path / "out") as dataset:
        assert dataset.meta.names == {0: "cat", 1: "dog"}
        counts = np.diff(dataset.object_offset).tolist()
        stored = {Path(dataset.name(i)).stem: counts[i] for i in range(len(dataset))}
    for name in OURS:
        assert stored[name] == 1
    assert stored["only_difficult"] == stored["nothing"] == stored["no_annotation"] == 0


def test_given_names_choose_and_order_the_classes(tmp_path: Path) -> None:
    root = write_voc(tmp_path, CASES)
    source = open_source(root, names=["dog"])
    assert source.names == {0: "dog"}
    split = source.splits["train"]
    i = [Path(p).stem for p in split.paths].index("fractions")
    raw = split.raw_labels(i)
    assert raw.text is not None
    assert raw.text.startswith(b"0 ")
    assert raw.text.count(b"\n") == 0
    assert raw.notes == ("1 objects of other classes dropped",)
    with pytest.raises(DatasetError, match="must name each class once"):
        open_source(root, names=["a", "a"])
    with pytest.raises(DatasetError, match=r"no object has one of the names \['dogs'\]"):
        open_source(root, names=["dogs"])


def test_a_class_that_was_named_and_has_no_objects_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_voc(tmp_path / "voc", CASES)
    line = ["shard", str(root), str(tmp_path / "out"), "--imgsz", "32", "--quiet", "--names"]
    assert main([*line, "cow, dog"]) == 0
    assert "note: no object is of the class 'cow'\n" in capsys.readouterr().out
    for wrong in ("dog,,cow", "", " "):
        assert main([*line, wrong]) == 2
        assert "--names must be class names with commas" in capsys.readouterr().err


def test_images_without_annotations_say_what_these_would_be(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "voc", {"one": CASES["one"]})
    (root / "Annotations" / "one.xml").rename(root / "Annotations" / "another.xml")
    with pytest.raises(DatasetError, match="put XML files, named like their images"):
        pack(root, tmp_path / "out", progress=False)


def test_annotations_and_images_in_folders_of_any_name(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"one": CASES["one"]})
    (root / "Annotations").rename(root / "xmls")
    source = open_source(root / "xmls", images=root / "JPEGImages")
    assert source.splits["train"].raw_labels(0).text
    for absent in (root / "pictures", ""):
        with pytest.raises(DatasetError, match=f"^{absent}: does not exist"):
            open_source(root / "xmls", images=absent)


def test_splits_come_from_lists_or_folders(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "voc", CASES)
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("one\ntwice\nabsent\n")
    (lists / "val.txt").write_text("corner.jpg 1\n\n")
    source = open_source(root)
    names = {s: [Path(p).stem for p in split.paths] for s, split in source.splits.items()}
    assert names == {"train": ["one", "twice"], "val": ["corner"]}
    assert "no such image" in source.splits["train"].unlisted["absent"]
    assert list(open_source(root, splits=["val"]).splits) == ["val"]
    with pytest.raises(DatasetError, match="no images for 'test'"):
        open_source(root, splits=["test"])

    other = tmp_path / "folders"
    write_voc(other, {"a": CASES["one"]}, "images/train")
    write_voc(other, {"b": CASES["one"]}, "images/val")
    names = {s: [Path(p).stem for p in i.paths] for s, i in open_source(other).splits.items()}
    assert names == {"train": ["a"], "val": ["b"]}


def test_missing_parts_are_named(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "voc", CASES)
    with pytest.raises(DatasetError, match=r"yolodata shard .*/voc OUT"):
        open_source(tmp_path, format="voc")
    with pytest.raises(DatasetError, match="does not exist"):
        open_source(root, images=tmp_path / "no")
    (tmp_path / "none").mkdir()
    with pytest.raises(DatasetError, match="no annotations"):
        open_source(tmp_path / "none", format="voc")
    with pytest.raises(DatasetError, match="no images in"):
        open_source(root, images=tmp_path / "none")
    for file in (root / "Annotations").iterdir():
        file.write_text(CASES["nothing"])
    with pytest.raises(DatasetError, match="no class names"):
        open_source(root)


def test_real_annotations(real_data: Path, tmp_path: Path) -> None:
    """Two annotations have an empty box; everything else is stored."""
    report = pack(
        real_data / "bccd",
        tmp_path / "out",
        PackSettings(codec="jpeg"),
        format="voc",
        progress=False,
    )
    assert {s: r.images for s, r in report.splits.items()} == {"train": 205, "val": 87, "test": 72}
    notes = [note for r in report.splits.values() for _, note in r.notes]
    assert sum("box without area" in note for note in notes) == 2
    with shards.open(tmp_path / "out", "test") as dataset:
        assert list(dataset.meta.names.values()) == ["Platelets", "RBC", "WBC"]


def test_annotations_that_may_be_those_of_two_images_say_so(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "set", {"0": xml(item("cat", (4, 4, 20, 20)))}, "images/train")
    write_voc(root, {"0": xml(item("cat", (4, 4, 20, 20)))}, "images/val")
    with pytest.raises(DatasetError, match=r"no label file .*0\.xml may be that of .*val/0\.jpg"):
        pack(root, tmp_path / "out", progress=False)
