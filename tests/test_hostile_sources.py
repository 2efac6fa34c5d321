"""Nothing in a source dataset can hang, fill memory, or end in anything but an error of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bounded import bounded
from ingesting import JPEG, ROW, VOC, build, upstream_files

from yolodata.cli import main
from yolodata.errors import DatasetError, YolodataError
from yolodata.ingest import foreign, json_file, labels, limits, outlines, rle, voc, yolo
from yolodata.ingest.convert import PackSettings
from yolodata.ingest.packing import PackReport, pack
from yolodata.ingest.sample import LabelRules, RawLabels, Refused
from yolodata.ingest.source import open_source
from yolodata.ingest.text import read_list
from yolodata.shards.reader import open as open_shards

YAML = "train: images\nval: images\nnames: [a]\n"
CATEGORIES = [{"id": 1, "name": "dog"}]
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]
NOTE = {
    "id": 7,
    "image_id": 1,
    "category_id": 1,
    "bbox": [10, 10, 20, 20],
    "segmentation": [SQUARE],
}


def coco(note: Any = None, categories: Any = CATEGORIES, **image: Any) -> dict[str, Any]:
    """A COCO file of two images, the second of which has one good annotation."""
    record = {"file_name": "a.jpg", "width": 64, "height": 48, "id": 1, **image}
    return {
        "images": [record, {"file_name": "b.jpg", "width": 64, "height": 48, "id": 2}],
        "annotations": [NOTE if note is None else note, {**NOTE, "image_id": 2}],
        "categories": categories,
    }


PICTURES = {"images/a.jpg": JPEG, "images/b.jpg": JPEG}
SOURCES: dict[str, dict[str, bytes | str]] = {
    "yaml": {
        **PICTURES,
        "labels/a.txt": ROW,
        "labels/b.txt": ROW,
        "data.yaml": YAML.replace("val: images", "val: val.txt"),
        "val.txt": "./images/a.jpg\n./images/b.jpg\n",
    },
    "names": {
        **PICTURES,
        "labels/a.txt": ROW,
        "labels/b.txt": ROW,
        "classes.txt": "dog\n",
        "train.txt": "images/a.jpg\nimages/b.jpg\n",
        "obj.data": "train = train.txt\n",
    },
    "coco": {**PICTURES, "train.json": json.dumps(coco())},
    "voc": {
        "JPEGImages/a.jpg": JPEG,
        "JPEGImages/b.jpg": JPEG,
        "Annotations/a.xml": VOC % b"a.jpg",
        "Annotations/b.xml": VOC % b"b.jpg",
        "ImageSets/Main/train.txt": "a\nb\n",
    },
}
MINE = [(kind, name) for kind, files in SOURCES.items() for name in files if "b." not in name]


def fifo(file: Path) -> None:
    os.mkfifo(file)


def device(file: Path) -> None:
    file.symlink_to("/dev/zero")


def sparse(file: Path) -> None:
    with file.open("wb") as stream:
        stream.truncate(1 << 40)


def packed(source: Path, out: Path) -> PackReport | str:
    """What packing does within bounds, or what its error says."""
    try:
        with bounded():
            return pack(source, out, PackSettings(imgsz=64), progress=False, workers=1)
    except YolodataError as error:
        said = str(error)
    assert len(said) < 2000
    assert "memory" not in said
    return said


@pytest.mark.parametrize("plant", [fifo, device, sparse])
@pytest.mark.parametrize(("kind", "name"), MINE)
def test_what_is_no_ordinary_file(
    tmp_path: Path, kind: str, name: str, plant: Callable[[Path], None]
) -> None:
    """A FIFO, a device or a sparse giant in the place of any file of a source."""
    source = build(tmp_path / "set", SOURCES[kind])
    (source / name).unlink()
    plant(source / name)
    said = packed(source, tmp_path / "out")
    if isinstance(said, str):  # one error, which names the file, or what is missing without it
        assert name not in PICTURES
        return
    listed = {path for split in said.splits.values() for path, _ in split.left_out}
    noted = {path for split in said.splits.values() for path, _ in split.notes}
    image = str(source / name.replace("labels", "images").replace("txt", "jpg"))
    if "Annotations" in name or "JPEGImages" in name:
        image = str(source / "JPEGImages" / "a.jpg")
    if name.endswith(("a.jpg", "a.txt", "a.xml")):
        assert image in listed | noted
        assert (image in listed) == (plant is sparse or not name.startswith("labels"))


@pytest.mark.parametrize("plant", [fifo, device, sparse])
@pytest.mark.parametrize("name", ["x", "x.yaml", "x.json", "x.xml", "x.txt", "x.zip", "x.jpg"])
def test_a_source_that_is_no_ordinary_file(
    tmp_path: Path, name: str, plant: Callable[[Path], None]
) -> None:
    plant(tmp_path / name)
    with bounded(), pytest.raises(DatasetError) as refusal:
        open_source(tmp_path / name)
    assert name in str(refusal.value)


@pytest.mark.parametrize("plant", [fifo, device, sparse])
def test_folders_of_what_is_no_ordinary_file(tmp_path: Path, plant: Callable[[Path], None]) -> None:
    """What tells a folder's kind looks into files of any name."""
    for name in ("a.json", "a.txt", "labels.txt", "annotations.xml", "a.jpg", "a.zip", "a.xml"):
        plant(tmp_path / name)
    with bounded(), pytest.raises(DatasetError):
        open_source(tmp_path)


MANY = "[" + ",".join(["x"] * 300_000) + "]"
BAD_YAML = {
    "classes without end": ("train: images\nval: images\nnc: 100000000", "100000"),
    "more names than classes may be": (YAML + f"names: {MANY}", "values"),
    "merged often": (
        "a: &a {"
        + ",".join(f"k{k}: 1" for k in range(20_000))
        + "}\nb:\n"
        + "- {<<: *a}\n" * 20_000
        + YAML,
        "values",
    ),
    "merges in one mapping": (YAML + "a: &a {}\nb:\n" + "  <<: *a\n" * 101, "100 merges"),
    "nested": (YAML + f"x: {'[' * 300}{']' * 300}", "deep"),
    "integer": (YAML + f"nc: {'9' * 400}", "whole number, got '999"),
    "hexadecimal": (YAML + f"nc: 0x{'f' * 100_000}", "whole number, got '0xf"),
    "sixties": (YAML + "nc: 1" + ":1" * 200_000, "whole number, got '1:1"),
    "keys that collide": (
        "train: images\nval: images\nnames:\n"
        + "".join(f"  {k * (2**61 - 1)}: x\n" for k in range(50_000)),
        "names",
    ),
    "keypoints": (YAML + "kpt_shape: [1000000000, 3]\nflip_idx: [0]", "kpt_shape"),
    "keypoints of many digits": (YAML + f"kpt_shape: [{'9' * 400}, 3]", "kpt_shape"),
    "long name": (YAML + f"names: [{'x' * 5000}]", "1000 characters, got 5000"),
    "NUL in a path": (YAML + 'train: "images\\0"', "images"),
    "NUL in the root": (YAML + 'path: "/a\\0b"', "path"),
    "NUL in a list": (YAML + 'train: ["images", "\\0"]', "train"),
    "long path": (YAML + f"train: {'x' * 5000}", "must be a path"),
    "larger than a YAML may be": (YAML + "#" * (17 << 20), "bytes"),
}


@pytest.mark.parametrize("case", BAD_YAML)
def test_yaml(tmp_path: Path, case: str) -> None:
    text, said = BAD_YAML[case]
    build(tmp_path, {**PICTURES, "data.yaml": text})
    with bounded(), pytest.raises(DatasetError, match=said) as refusal:
        open_source(tmp_path / "data.yaml")
    assert len(str(refusal.value)) < 2000


def test_yaml_as_it_may_be(tmp_path: Path) -> None:
    """What the limits must not refuse: anchors, merges, 20,000 names of any script."""
    names = "".join(f"  {k}: 猫{k}\n" for k in range(20_000))
    text = f"base: &b {{train: images, val: images}}\n<<: *b\nnames:\n{names}nc: 2e4\n"
    build(tmp_path, {**PICTURES, "data.yaml": text})
    assert len(open_source(tmp_path / "data.yaml").names) == 20_000


DEEP = "[" * 900 + "]" * 900
HUGE = 10**400
LEFT_OUT_COCO: dict[str, tuple[dict[str, Any], str]] = {
    "size of many digits": ({"width": HUGE}, "width"),
    "size of many digits, as text": ({"width": "9" * 5000}, "width"),
    "size without end": ({"width": 1e999}, "width"),
    "size of no pixels": ({"width": 0.5}, "width"),
    "box of many digits": ({"note": {**NOTE, "bbox": [HUGE, 1, 2, 3]}}, "cannot be used"),
    "outline of many digits": ({"note": {**NOTE, "segmentation": [[HUGE] * 6]}}, "cannot be used"),
    "keypoints of many digits": (
        {
            "note": {**NOTE, "keypoints": [HUGE] * 6},
            "categories": [{"id": 1, "name": "dog", "keypoints": ["a", "b"]}],
        },
        "cannot be used",
    ),
    "unknown category of a long name": ({"note": {**NOTE, "category_id": "x" * 5000}}, "category"),
    "box of long words": ({"note": {**NOTE, "bbox": ["x" * 5000] * 4}}, "cannot be used"),
    "size in long words": ({"width": "x" * 5000}, "width"),
    "long id": ({"note": {**NOTE, "id": "x" * 100_000, "bbox": 7}}, "cannot be used"),
}
LEFT_OUT_MASKS = {
    "made-up size": ({"size": [1 << 20, 1 << 20], "counts": [1 << 40]}, 1 << 20),
    "made-up size, packed": ({"size": [1 << 17, 1 << 17], "counts": "PPPPPPPPP1"}, 1 << 17),
    "packed number without end": ({"size": [48, 64], "counts": "o" * 3_000_000}, None),
    "runs of many digits": ({"size": [48, 64], "counts": [HUGE, 1]}, None),
    "runs that wrap around": ({"size": [48, 64], "counts": [2**63 - 1, 2**63 - 1, 3074]}, None),
}


def left_out(tmp_path: Path, content: dict[str, Any] | str) -> tuple[int, list[tuple[str, str]]]:
    """How many images are packed, and what is left out."""
    text = content if isinstance(content, str) else json.dumps(content)
    build(tmp_path / "set", {**PICTURES, "train.json": text})
    with bounded():
        report = pack(
            tmp_path / "set", tmp_path / "out", PackSettings(imgsz=64), progress=False, workers=1
        )
    return report.splits["train"].images, report.splits["train"].left_out


@pytest.mark.parametrize("case", [*LEFT_OUT_COCO, *LEFT_OUT_MASKS])
def test_coco_images_that_are_left_out(tmp_path: Path, case: str) -> None:
    """One bad record takes out its image alone, with a short reason."""
    if case in LEFT_OUT_COCO:
        content, said = LEFT_OUT_COCO[case]
        content = coco(**content)
    else:
        mask, side = LEFT_OUT_MASKS[case]
        size = {} if side is None else {"width": side, "height": side}
        content, said = coco({**NOTE, "segmentation": mask}, **size), "run"
    images, reasons = left_out(tmp_path, content)
    assert images == 1
    ((name, reason),) = reasons
    assert name.endswith("a.jpg")
    assert said in reason
    assert len(reason) < 500


@pytest.mark.parametrize("where", ["record", "note", "id"])
def test_coco_deep(tmp_path: Path, where: str) -> None:
    """As deep as the parser allows is still too deep for repr()."""
    for depth in (900, 970, 5_000):
        text = json.dumps(coco())
        deep = "[" * depth + "]" * depth
        new = {
            "record": text.replace('"width": 64', f'"width": {deep}', 1),
            "note": text.replace('"bbox": [10, 10, 20, 20]', f'"bbox": {deep}', 1),
            "id": text.replace('"image_id": 1', f'"image_id": {deep}', 1),
        }[where]
        build(tmp_path / str(depth), {**PICTURES, "train.json": new})
        said = packed(tmp_path / str(depth), tmp_path / f"out{depth}")
        assert isinstance(said, PackReport) or "too deep" in said


BAD_COCO = {
    "categories without end": (
        json.dumps(coco(categories=[{"id": k, "name": str(k)} for k in range(100_001)])),
        "100000",
    ),
    "keypoints without end": (
        json.dumps(coco(categories=[{"id": 1, "name": "a", "keypoints": ["x"] * 100_000}])),
        "keypoints",
    ),
    "long name": (
        json.dumps(coco(categories=[{"id": 1, "name": "x" * 5000}])),
        "1000 characters, got 5000",
    ),
    "name that is a list": (
        json.dumps(coco(categories=[{"id": 1, "name": "@"}])).replace('"@"', DEEP),
        "category",
    ),
    "integer that Python does not read": (f'{{"images": [{"9" * 5000}]}}', "JSON"),
    "nothing but NULs behind it": (json.dumps(coco()) + "\0" * 100, "in the middle"),
}


@pytest.mark.parametrize("case", BAD_COCO)
def test_coco_that_is_refused(tmp_path: Path, case: str) -> None:
    text, said = BAD_COCO[case]
    build(tmp_path, {**PICTURES, "train.json": text})
    with bounded(), pytest.raises(DatasetError, match=said) as refusal:
        open_source(tmp_path / "train.json")
    assert len(str(refusal.value)) < 2000


def test_coco_many_categories(tmp_path: Path) -> None:
    """As many as there may be; the ids of two files are compared in time that grows with them."""
    many = [{"id": k, "name": f"c{k}"} for k in range(30_000)]
    text = json.dumps(coco(categories=many))
    build(tmp_path, {**PICTURES, "train.json": text, "val.json": text})
    with bounded():
        assert len(open_source(tmp_path).names) == 30_000


def test_coco_ids_of_any_size(tmp_path: Path) -> None:
    """Ids above 64 bits are ids; equal hashes of them would make a table a list."""
    step = 2**61 - 1
    content = coco()
    content["images"] += [
        {"file_name": f"{k}.jpg", "width": 64, "height": 48, "id": k * step}
        for k in range(8, 20_000)
    ]
    content["annotations"] += [{**NOTE, "image_id": k * step} for k in range(8, 20_000)]
    build(tmp_path, {**PICTURES, "train.json": json.dumps(content)})
    with bounded():
        source = open_source(tmp_path)
    assert len(source.splits["train"].paths) == 19_994
    assert not source.left_out


def test_the_closest_points_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Block by block as all at once: of equal pairs the first, as upstream's argmin says."""
    rng = np.random.default_rng(3)
    for k in range(100):
        size, scale = rng.integers(1, 200, 2), rng.choice([3, 20, 1000])
        one, other = (np.round(rng.random((n, 2)) * scale, k % 3) for n in size)
        other += [rng.integers(0, 3) * scale, 0]
        expected = outlines.closest(one, other)
        with monkeypatch.context() as patch:
            patch.setattr(outlines, "_AT_ONCE", 0)
            patch.setattr(outlines, "_BLOCK", 7)
            assert outlines.closest(one, other) == expected


def test_outlines_of_many_points() -> None:
    """Two parts of 30,000 points; as one array of distances they take 13 GiB."""
    angle = np.linspace(0, 2 * np.pi, 30_000, endpoint=False)
    one = np.stack([100 + 90 * np.cos(angle), 100 + 90 * np.sin(angle)], 1)
    with bounded(1 << 29):
        assert outlines.closest(one, one[::-1] + np.array([200, 0])) == (0, 14_999)


def test_outlines_that_cost_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parts in which every pair is nearly the closest: a rim and its middle."""
    monkeypatch.setattr(outlines, "OUTLINE_PAIRS", 1 << 24)
    angle = np.linspace(0, 2 * np.pi, 10_000)
    rim = np.stack([32 + 20 * np.cos(angle), 24 + 20 * np.sin(angle)], 1).ravel().tolist()
    small = np.stack([32 + 1e-9 * np.cos(angle), 24 + 1e-9 * np.sin(angle)], 1).ravel().tolist()
    images, reasons = left_out(tmp_path, coco({**NOTE, "segmentation": [rim, small]}))
    assert images == 1
    assert "points" in reasons[0][1]


def test_outlines_that_have_too_many_blocks_or_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlines, "_AT_ONCE", 0)
    one = np.ones((600, 2))
    one[300] = np.nan
    with pytest.raises(ValueError, match="no numbers"):
        outlines.closest(one, np.ones((600, 2)))
    monkeypatch.setattr(outlines, "_BLOCK_PAIRS", 3)
    with pytest.raises(ValueError, match="600 and 500 points takes more than"):
        outlines.closest(np.ones((600, 2)), np.ones((500, 2)))


def test_json_that_was_never_written_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Terabytes of a sparse file are NULs; what does not fit into memory is not begun."""

    def blocks(file: Path) -> Iterator[bytes]:
        yield b'{"images": ['
        yield bytes(100)
        pytest.fail(f"{file} is read on")

    file = tmp_path / "a.json"
    with monkeypatch.context() as patch:
        patch.setattr(json_file, "_blocks", blocks)
        with pytest.raises(DatasetError, match="ends in the middle"):
            json_file.read_json(file)
        assert json_file.found_in(file, b"images", b"b") == {b"images": [2], b"b": []}
    file.write_text("[" * 200_000)
    with pytest.raises(DatasetError, match="too deep to be a dataset"):
        json_file.read_json(file)
    with file.open("wb") as sparse:
        sparse.truncate(65 << 20)
    monkeypatch.setattr(json_file, "available_memory", lambda: 129 << 20)
    with pytest.raises(DatasetError, match=r"it has 65.0 MiB, and the free memory is 129.0 MiB"):
        json_file.read_json(file)


def test_large_masks_are_drawn_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most = [0], [0]

    def watched(*args: Any) -> Any:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        time.sleep(0.02)
        at_once[0] -= 1
        return np.zeros((4, 4), np.uint8)

    monkeypatch.setattr(rle, "decode_rle", watched)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: rle.contours([16], 1 << 13, 1 << 13), range(4)))
    assert most == [1]
    monkeypatch.undo()
    with pytest.raises(ValueError, match="1000001 run lengths; at most 1000000"):
        rle.decode_rle([0] * 1_000_001, 4, 4)


def test_names_and_integers_without_end() -> None:
    with pytest.raises(
        DatasetError, match=r"classes.txt: must have at most 100000 classes, got 100001"
    ):
        limits.checked_names(["a"] * 100_001, "classes.txt")
    assert limits.shortened([1 << 100_000]) == "[an integer of 100001 bits]"


def test_label_files(tmp_path: Path) -> None:
    """Many words, a line without end, and more bytes than a label file may have."""
    files: dict[str, bytes | str] = {f"images/{k}.jpg": JPEG for k in "abcdef"}
    files |= {
        "labels/a.txt": b"1 " * (1 << 20),
        "labels/b.txt": b"1\n" * 1_000_001,
        "labels/c.txt": b"9" * (1 << 20),
        "labels/d.txt": b"x" * (1 << 20),
        "labels/e.txt": ROW + b" " * (17 << 20),
        "labels/f.txt": ROW,
        "data.yaml": YAML.replace("val: images", "val: f.txt"),
        "f.txt": "./images/f.jpg",
    }
    source = build(tmp_path / "set", files)
    with bounded():
        report = pack(
            source, tmp_path / "out", PackSettings(imgsz=64), progress=False, splits=["train"]
        )
    left = {Path(path).stem: reason for path, reason in report.splits["train"].left_out}
    assert set(left) == set("abcde")
    assert max(map(len, left.values())) < 500
    assert "1000001 label rows" in left["b"]


def test_label_files_without_end_are_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The words of one take forty times its bytes, and threads are many."""
    at_once, most = [0], [0]
    whole = labels.labels_of_any

    def watched(*args: Any) -> Any:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        try:
            time.sleep(0.02)
            return whole(*args)
        finally:
            at_once[0] -= 1

    monkeypatch.setattr(labels, "labels_of_any", watched)
    raw = RawLabels(b"7 .5 .5 .2 .2\n" * 100_000)

    def check(_: int) -> None:
        with pytest.raises(Refused):
            labels.check_labels(raw, LabelRules(1))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(check, range(4)))
    assert most == [1]


def test_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of more lines than any dataset has images, and lines longer than a path may be."""
    source = build(tmp_path, {**PICTURES, "data.yaml": YAML.replace("val: images", "val: v.txt")})
    (tmp_path / "v.txt").write_text("./images/a.jpg\n" + "x" * 100_000 + ".jpg")
    ((name, reason),) = open_source(source).splits["val"].unlisted.items()
    assert len(name) < 100
    assert "longer" in reason
    monkeypatch.setattr(yolo, "LIST_LINES", 1000)
    for line in ("x\n", "\r"):
        (tmp_path / "v.txt").write_bytes(line.encode() * 1001 + b"x.jpg")
        with pytest.raises(DatasetError, match="at most 1000 lines, got 1001"):
            open_source(tmp_path / "data.yaml")
    monkeypatch.setattr("yolodata.ingest.text.LIST_LINES", 1000)
    with pytest.raises(DatasetError, match="at most 1000 lines, got 1001"):
        read_list(tmp_path / "v.txt")


BAD_XML = {
    "nested": b"<a>" * 300_000,
    "nested and closed": b"<a>" * 200_000 + b"</a>" * 200_000,
    "many elements": b"<annotation>" + b"<a/>" * 300_000 + b"</annotation>",
    "entities": b'<!DOCTYPE a [<!ENTITY x "y"><!ENTITY z "&x;&x;">]><a>&z;</a>',
    "more bytes than an XML may have": VOC % b"a.jpg" + b" " * (17 << 20),
    "difficult of many digits": (VOC % b"a.jpg").replace(
        b"<name>dog", b"<difficult>" + b"9" * 5000 + b"</difficult><name>dog"
    ),
    "size of many digits": (VOC % b"a.jpg").replace(b"64", b"9" * 400),
    "long name": (VOC % b"a.jpg").replace(b"dog", b"x" * 5000),
}


@pytest.mark.parametrize("case", BAD_XML)
def test_xml(tmp_path: Path, case: str) -> None:
    source = build(tmp_path / "set", {**SOURCES["voc"], "Annotations/a.xml": BAD_XML[case]})
    said = packed(source, tmp_path / "out")
    assert isinstance(said, PackReport)
    ((name, reason),) = said.splits["train"].left_out
    assert name.endswith("a.jpg")
    assert len(reason) < 500


def test_annotations_with_classes_without_end_are_not_all_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[object] = []
    monkeypatch.setattr(voc, "CLASSES", 2)
    monkeypatch.setattr(voc, "read_annotation", read.append)
    monkeypatch.setattr(voc, "class_names", lambda _: {f"a{len(read)}", f"b{len(read)}"})
    files = SimpleNamespace(annotations=dict.fromkeys(range(9), tmp_path))
    assert voc._classes(tmp_path, files, None) == ["a1", "a2", "b1", "b2"]  # type: ignore[arg-type]
    assert len(read) == 2


def test_run_lengths_of_any_size_are_refused() -> None:
    with pytest.raises(ValueError, match="a run length has more than 63 bits"):
        rle.decode_rle([1 << 70], 3, 3)


def test_annotations_of_one_name() -> None:
    """As many images as annotations, all of one name: their pairs are not all looked at."""
    names = [f"d{k}/a" for k in range(20_000)]
    annotations = {f"x{name}": Path(f"x{name}.xml") for name in names}
    files = voc._Files(Path("/"), [f"{name}.jpg" for name in names], {}, annotations)
    with bounded():
        whose = voc._annotations_of(files)
    assert all(isinstance(of, str) and len(of) < 200 for of in whose.values())


def test_looking_for_the_format_of_a_file_takes_no_time(tmp_path: Path) -> None:
    contents = {
        "a.json": b'"classes" "annotations" "shapes" "coordinates" ' * 100_000,
        "numbers.txt": b"1 " * 1_000_000,
        "commas.txt": b"1, " * 1_000_000,
        "letters.txt": b"A" * 1_000_000,
        "blanks.txt": b" " * 1_000_000,
        "name.txt": b"1 " * 8 + b"x" * 1_000_000,
        "class.txt": b"a" + b" 1" * 1_000_000 + b"x",
        "digits.txt": b"a" + (b" " + b"1" * 200_000) * 4 + b"x",
    }
    with bounded():
        for name, content in contents.items():
            (tmp_path / name).write_bytes(content)
            foreign.told(tmp_path / name)


def test_a_loop_of_links_gives_every_picture_once(tmp_path: Path) -> None:
    """A picture that two links reach is there twice, as Ultralytics has it; a loop adds none."""
    root = build(tmp_path / "set", {"images/a.jpg": JPEG, "images/deep/b.jpg": JPEG})
    (root / "images" / "twice").symlink_to(root / "images" / "deep")
    build(root, {"data.yaml": f"train: {root}/images\nval: {root}/images\nnames: [a]\n"})
    before = open_source(root).splits["train"].paths
    assert before == upstream_files({"train": str(root / "images")}, "train")
    assert len(before) == 3
    (root / "images" / "loop").symlink_to(root / "images")
    (root / "images" / "deep" / "up").symlink_to(root)
    (root / "images" / "deep" / "self").symlink_to(".")
    assert open_source(root).splits["train"].paths == before


@pytest.mark.parametrize("kind", SOURCES)
def test_links_to_themselves_lie_beside(tmp_path: Path, kind: str) -> None:
    source = build(tmp_path / "set", SOURCES[kind])
    for folder in [source, *(path for path in source.rglob("*") if path.is_dir())]:
        for name in ("loop", "loop.jpg", "loop.txt"):
            (folder / name).symlink_to(name)
    assert len(open_source(source).splits["train"].paths) >= 2


def test_paths_no_system_takes(tmp_path: Path) -> None:
    """A part of a path may have 255 bytes: a longer one is absent, as any other."""
    long = "x" * 300
    source = build(tmp_path, {**SOURCES["names"], "obj.data": f"valid = {long}\n"})
    (source / "train.txt").write_text(f"images/a.jpg\n{long}/b.jpg\n")
    assert len(open_source(source).splits["train"].paths) == 2
    (source / "d.yaml").write_text(YAML.replace("val: images", f"val: {long}"))
    with pytest.raises(DatasetError, match="does not exist"):
        open_source(source / "d.yaml")


def test_links_that_multiply(tmp_path: Path) -> None:
    """Folders of links to the next folder: 2**30 ways to one picture."""
    root = build(tmp_path / "set", {"images/a.jpg": JPEG, "data.yaml": YAML, "f30/b.jpg": JPEG})
    for k in range(30):
        (root / f"f{k}").mkdir(exist_ok=True)
        for name in ("x", "y"):
            (root / f"f{k}" / name).symlink_to(root / f"f{k + 1}")
    (root / "images" / "in").symlink_to(root / "f0")
    with bounded(), pytest.raises(DatasetError, match="links"):
        open_source(root)


def test_folders_without_end(tmp_path: Path) -> None:
    """Deeper than Python recurses."""
    root = build(tmp_path / "set", {"images/a.jpg": JPEG, "labels/a.txt": ROW, "data.yaml": YAML})
    here = os.open(root / "images", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    try:
        with bounded():
            for source in (root / "data.yaml", root, root / "images"):
                said = nullcontext() if source.name != "images" else pytest.raises(DatasetError)
                with said:
                    assert len(open_source(source).splits["train"].paths) == 1
    finally:  # pytest, too, recurses into what a test leaves
        subprocess.run(["rm", "-rf", root], check=True)


HALF = "a\ud800b\udcffc"


def test_half_characters(tmp_path: Path) -> None:
    """Lone surrogates in names of classes: packed, printed, and written as what they are."""
    content = coco(categories=[{"id": 1, "name": HALF}])
    build(tmp_path / "set", {**PICTURES, "train.json": json.dumps(content)})
    out, data = tmp_path / "out", str(tmp_path / "set")
    commands = [
        ["shard", data, str(out), "--imgsz", "64"],
        ["info", str(out)],
        ["info", str(out), "--json"],
        ["verify", str(out)],
        ["labels", str(out), data],
        ["view", str(out), "--out", str(tmp_path / "view.jpg")],
    ]
    code = f"from yolodata.cli import main\nfor words in {commands}: assert main(words) == 0, words"
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    assert r"a\ud800b\udcffc" in done.stdout.decode("utf-8")
    with open_shards(out / "train") as shards:
        assert shards.meta.names == {0: r"a\ud800b\udcffc"}


def test_names_that_act_on_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file's name may clear the screen; what is printed spells it out, in errors, too."""
    clear = "\x1b[2J\x9b\u202e"
    source = build(tmp_path / "set", {**SOURCES["yaml"], f"images/{clear}\n.jpg": b""})
    assert main(["shard", str(source), str(tmp_path / "out"), "--imgsz", "64", "--quiet"]) == 0
    assert main(["info", str(tmp_path / "out")]) == 0
    assert main(["shard", str(tmp_path / clear), str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    for text in said:
        assert not set(clear[:1] + clear[4:]) & set(text)
        assert r"\x1b[2J\x9b\u202e" in text
    assert r"\n.jpg: the file is empty" in said.out
