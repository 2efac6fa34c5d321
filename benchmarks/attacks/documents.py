"""Hostile documents as a source: dataset YAML, COCO JSON, VOC XML, lists of images, names of files.

`yolodata shard` ends soon, in its own words: a few lines, without control characters, whatever the
document holds. What it packed is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import yaml

from .children import run_command, trial
from .drawn import NAMES, encoded, picture
from .mutate import damaged
from .resealed import _hostile_node, hostile_value
from .said import ended_well
from .verdict import Verdict

GOAL = 3000
CASE = 8
_IMAGES = 3


def warm() -> None:
    """Imports."""
    from yolodata.ingest import (  # noqa: F401
        coco,
        coco_files,
        pack_cli,
        packing,
        voc,
        yolo,
        yolo_folder,
    )
    from yolodata.shards import verify  # noqa: F401


def attack(random: Random, folder: Path) -> Verdict:
    """Writes sources, and packs them."""
    verdict = Verdict()
    for _ in range(CASE):
        if folder.exists():
            shutil.rmtree(folder)
        (folder / "source").mkdir(parents=True)
        verdict.tried += 1
        what, source = random.choice(_KINDS)(random, folder / "source")
        trial(what)
        words = ["shard", source, "out", "--imgsz", "64", "--workers", "1", "--quiet"]
        ended = run_command(words, folder)
        if ended_well(verdict, ended, what, allowed=(0, 2)) and ended.status == 0:
            _whole(folder / "out", what, verdict)
        if verdict.findings:
            break
    return verdict


def _whole(out: Path, what: str, verdict: Verdict) -> None:
    from yolodata.shards.reader import splits
    from yolodata.shards.verify import verify

    for split, path in splits(out).items():
        trial(f"{what}: verify")
        report = verify(path, full=True, workers=1)
        if not report.ok:
            verdict.found("undetected", f"{what}: {split} is not whole: {report.problems[:3]}")
        trial(f"{what}: info")
        ended_well(verdict, run_command(["info", str(path)], out), f"{what}: info")


# Sources. Each writes one into a folder; returns what it is, and the path to give.


def _pictures(folder: Path, count: int = _IMAGES) -> None:
    folder.mkdir(parents=True)
    for k in range(count):
        (folder / f"{k}.jpg").write_bytes(encoded(picture(k), "JPEG"))


def _yolo(folder: Path, rows: str = "0 .5 .5 .2 .2\n") -> dict[str, Any]:
    _pictures(folder / "images" / "train")
    labels = folder / "labels" / "train"
    labels.mkdir(parents=True)
    for k in range(_IMAGES):
        (labels / f"{k}.txt").write_text(rows)
    return {
        "path": str(folder),
        "train": "images/train",
        "val": "images/train",
        "names": list(NAMES),
        "kpt_shape": None,
        "nc": len(NAMES),
    }


def _yaml_values(random: Random, folder: Path) -> tuple[str, str]:
    """A dataset YAML with other values."""
    data = _yolo(folder)
    said = [_hostile_node(random, data) for _ in range(random.choice((1, 1, 2)))]
    if random.random() < 0.3:
        data["kpt_shape"] = hostile_value(random)
    if random.random() < 0.3:
        data["nc"] = random.choice((100_000_000, -1, 10**400, "3", 3.0))
    try:
        text = yaml.dump(data, allow_unicode=True)
        (folder / "data.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    except Exception:  # a value that YAML cannot hold: as JSON, which is YAML, too
        (folder / "data.yaml").write_text(json.dumps(data), encoding="utf-8")
    return f"YAML: {', '.join(said)}", "source/data.yaml"


_BOMBS: tuple[bytes, ...] = (
    b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(
        b"%c: &%c [%s]\n" % (k, k, b",".join([b"*%c" % (k - 1)] * 9)) for k in range(98, 110)
    )
    + b"names: *m\ntrain: images/train\nval: images/train\n",
    b"names: &a [*a]\ntrain: images/train\nval: images/train\n",
    b"train: images/train\nval: images/train\nnames: " + b"[" * 50_000,
    b"train: images/train\nval: images/train\nnames: " + b"{a: " * 50_000,
    b"train: images/train\nval: images/train\nnc: " + b"9" * 400 + b"\nnames: [a]\n",
    b"train: images/train\nval: images/train\nnc: 100000000\n",
    b"train: images/train\nval: images/train\nnames: {100000000: a}\n",
    b"train: !!python/object/apply:os.system [touch /tmp/attacked]\nnames: [a]\n",
    b'train: [[[images/train]]]\nval: images/train\nnames: [\'a\\0b\', "\\x1b[2J", "\\ud800"]\n',
    b'train: "images/\\0train"\nval: images/train\nnames: [a]\n',
    b"train: " + b"a/" * 20_000 + b"\nval: images/train\nnames: [a]\n",
    b"train: /dev/zero\nval: /dev/stdin\nnames: [a]\n",
    b"train: /\nval: images/train\nnames: 12:30:60\n"[8:] + b"train: images/train\n",
    b"? [a, b]\n: c\ntrain: images/train\nval: images/train\nnames: {[1]: a}\n",
    b"\xff\xfe\0\0",
    b"names: [a]\n" * 100_000,
    b"train: images/train\nval: images/train\nnames: [" + b"a" * 5_000_000 + b"]\n",
    b"train: images/train\nval: images/train\nnames: [a]\nkpt_shape: [100000000, 3]\n",
    b"train: 2001-01-01\nval: 0o17\nnames: [no, yes, ~]\n",
)


def _yaml_bombs(random: Random, folder: Path) -> tuple[str, str]:
    """A dataset YAML that takes long, or much, to read."""
    _yolo(folder)
    k = random.randrange(len(_BOMBS))
    data = _BOMBS[k]
    if random.random() < 0.2:
        data, _ = damaged(random, data)
    (folder / "data.yaml").write_bytes(data)
    return f"YAML bomb {k}", "source/data.yaml"


def _coco(folder: Path) -> dict[str, Any]:
    _pictures(folder / "train2017")
    (folder / "annotations").mkdir()
    return {
        "images": [
            {"id": k, "file_name": f"{k}.jpg", "width": 64, "height": 48} for k in range(_IMAGES)
        ],
        "annotations": [
            {"id": k, "image_id": k % _IMAGES, "category_id": 1 + k % 2, "bbox": [5, 5, 20, 20],
             "area": 400, "iscrowd": 0, "segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]]}
            for k in range(5)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }  # fmt: skip


def _save_coco(folder: Path, data: Any) -> str:
    file = folder / "annotations" / "instances_train2017.json"
    try:
        file.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    except (ValueError, RecursionError):
        file.write_bytes(str(data)[:100_000].encode("utf-8", "surrogatepass"))
    return "source"


def _coco_values(random: Random, folder: Path) -> tuple[str, str]:
    """COCO annotations with other values."""
    data = _coco(folder)
    said = [_hostile_node(random, data) for _ in range(random.choice((1, 1, 2)))]
    return f"COCO: {', '.join(said)}", _save_coco(folder, data)


def _coco_shapes(random: Random, folder: Path) -> tuple[str, str]:
    """COCO outlines and masks that are large, or lie about their size."""
    data = _coco(folder)
    one = data["annotations"][0]
    kind = random.choice(
        (
            "parts",
            "points",
            "many parts",
            "rle",
            "counts",
            "text",
            "text",
            "short",
        )
    )
    if kind == "parts":
        count = random.choice((1000, 30_000))
        one["segmentation"] = [[random.uniform(0, 60) for _ in range(2 * count)] for _ in range(2)]
    elif kind == "points":
        one["segmentation"] = [[random.uniform(0, 60) for _ in range(400_000)]]
    elif kind == "many parts":
        part = [1, 1, 9, 1, 9, 9]
        one["segmentation"] = [part for _ in range(random.choice((100, 3000)))]
    elif kind == "short":
        one["segmentation"] = random.choice(([[]], [[1]], [[1, 2, 3]], [[None] * 6], [["1"] * 6]))
    else:
        sides = [random.choice((0, 1, 48, 64, 60_000, 1 << 31, -5, 1e9)) for _ in range(2)]
        counts: Any = {
            "rle": [10, 20, 10**10], "counts": [1] * random.choice((1, 100_000)),
            "text": random.choice(("~" * 3000, "0" * 100_000, "", "\ud800", "PYm1" * 50, "\0\0")),
        }[kind]  # fmt: skip
        one["segmentation"] = {"size": sides, "counts": counts}
        one["iscrowd"] = random.choice((0, 1))
        kind += f" of size {sides}"
    return f"COCO outline: {kind}", _save_coco(folder, data)


def _coco_text(random: Random, folder: Path) -> tuple[str, str]:
    """COCO annotations that are damaged text."""
    text = json.dumps(_coco(folder)).encode()
    if random.random() < 0.3:
        parts = (b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5000, b"1e999", b"NaN", b"\0")
        part = random.choice(parts)
        at = random.randrange(len(text))
        text, what = text[:at] + part + text[at:], f"{part[:6]!r} × {len(part)} at byte {at}"
    else:
        text, what = damaged(random, text)
    (folder / "annotations" / "instances_train2017.json").write_bytes(text)
    return f"COCO text: {what}", "source"


_OF_XML = ("", "damaged", "value", "entity", "external", "deep", "long", "UTF-16")
_OF_FILES = ("file", "file", "FIFO", "FIFO label", "loop", "folder", "zero", "giant")
_ENTITIES = (
    b'<!DOCTYPE a [<!ENTITY a "xxxxxxxxxx">'
    + b"".join(b'<!ENTITY %c "%s">' % (k, b"&%c;" % (k - 1) * 10) for k in range(98, 107))
    + b"]>"
)


def _voc(random: Random, folder: Path) -> tuple[str, str]:
    """VOC annotations that are damaged, or made to be read for long."""
    _pictures(folder / "JPEGImages")
    (folder / "Annotations").mkdir()
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    listed = "\n".join(map(str, range(_IMAGES)))
    said = []
    for k in range(_IMAGES):
        xml = (
            f"<annotation><filename>{k}.jpg</filename><size><width>64</width><height>48</height>"
            "</size><object><name>dog</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>20</xmax>"
            "<ymax>30</ymax></bndbox></object></annotation>"
        ).encode()
        how = random.choice(_OF_XML)
        if how == "damaged":
            xml, _ = damaged(random, xml)
        elif how == "value":
            old = random.choice((b"64", b"48", b"5", b"20", b"30", b"dog", b"0.jpg"))
            new = random.choice((b"nan", b"inf", b"-1", b"9" * 400, b"", b"\x1b[31m", b"../../x",
                                 b"a" * 5000, b"&#0;", b"&#55296;", b"1e400"))  # fmt: skip
            xml = xml.replace(old, new, 1)
        elif how == "entity":
            xml = _ENTITIES + xml.replace(b"dog", b"&j;")
        elif how == "external":
            xml = b'<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]>' + xml.replace(
                b"dog", b"&e;"
            )
        elif how == "deep":
            xml = xml.replace(b"dog", b"<a>" * 100_000)
        elif how == "long":
            xml = xml.replace(b"<object>", b"<object>" * 1, 1).replace(
                b"</annotation>", xml[xml.find(b"<object>") : -13] * 20_000 + b"</annotation>"
            )
        elif how == "UTF-16":
            xml = xml.decode().encode("utf-16")
        said.append(how)
        (folder / "Annotations" / f"{k}.xml").write_bytes(xml)
    if random.random() < 0.3:
        lines = ("../../etc/passwd", "\0", "a" * 5000, "/", "\x1b[31m", "0 1 1")
        listed += "\n" + random.choice(lines)
    (folder / "ImageSets" / "Main" / "train.txt").write_text(listed)
    return f"VOC: {', '.join(said)}", "source"


def _lists(random: Random, folder: Path) -> tuple[str, str]:
    """A list of images with hostile lines."""
    data = _yolo(folder)
    lines = [f"./images/train/{k}.jpg" for k in range(_IMAGES)]
    hostile = ["\0.jpg", "a" * 5000 + ".jpg", "/dev/zero.jpg", "../" * 2000 + "x.jpg",
               "\x1b[2J.jpg", "\udcff.jpg", ".", "/", "", "http://x/y.jpg", "./images/train",
               "*" * 50, "[" * 50,
               "\u202egpj", "./images/train/0.jpg", "//" * 1000]  # fmt: skip
    lines += random.choices(hostile, k=random.choice((1, 3, 2000)))
    random.shuffle(lines)
    text = random.choice(("\n", "\r\n", "\r")).join(lines)
    (folder / "train.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
    data |= {"train": "train.txt"}
    (folder / "data.yaml").write_text(yaml.safe_dump(data))
    return f"a list: {lines[0][:80]!r} …", "source/data.yaml"


def _names_of_files(random: Random, folder: Path) -> tuple[str, str]:
    """Files that are called as nobody calls one, or are none."""
    data = _yolo(folder)
    images, labels = folder / "images" / "train", folder / "labels" / "train"
    said = []
    for _ in range(random.choice((1, 2, 4))):
        name = random.choice((b"\x1b[31mred", b"\xff\xfe", b"a\nb", b"\xe2\x80\xaegpj", b"-rf",
                              b"a" * 200, b" ", b"%s%n", b"'; rm -rf ~", "ä".encode()))  # fmt: skip
        image = os.fsencode(images) + b"/" + name + b".jpg"
        label = os.fsencode(labels) + b"/" + name + b".txt"
        how = random.choice(_OF_FILES)
        if os.path.lexists(image) or os.path.lexists(label):
            continue
        if how == "FIFO":
            os.mkfifo(image)
        elif how == "loop":
            target = random.choice((b".", b"..", b"../..", name + b".jpg"))
            os.symlink(target, image.removesuffix(b".jpg") if target != name + b".jpg" else image)
        elif how == "folder":
            os.mkdir(image)
        elif how == "zero":
            os.symlink("/dev/zero", image)
        else:
            with open(image, "wb") as file:
                file.write(encoded(picture(5), "JPEG"))
                file.truncate(3 << 30 if how == "giant" else None)
        if how == "FIFO label":
            os.mkfifo(label)
        said.append(f"{name!r} is a {how}")
    (folder / "data.yaml").write_text(yaml.safe_dump(data))
    if random.random() < 0.2:
        (folder / "data.yaml").unlink()
        what = random.choice(("FIFO", "/dev/zero", "folder"))
        if what == "FIFO":
            os.mkfifo(folder / "data.yaml")
        elif what == "folder":
            (folder / "data.yaml").mkdir()
        else:
            (folder / "data.yaml").symlink_to(what)
        said.append(f"data.yaml is a {what}")
    return f"files: {', '.join(said)}", random.choice(("source/data.yaml", "source"))


_KINDS: tuple[Callable[[Random, Path], tuple[str, str]], ...] = (
    _yaml_values, _yaml_bombs, _coco_values, _coco_shapes, _coco_text, _voc, _lists,
    _names_of_files,
)  # fmt: skip


def _traceback() -> None:
    """The command does not explain errors of datasets."""
    from yolodata import command
    from yolodata.errors import ShardError

    command.YolodataError = ShardError


def _raw_text() -> None:
    """What a command says is not escaped, and has no end."""
    from yolodata.ingest import pack_cli

    summary = pack_cli.summary
    pack_cli.summary = lambda report, out: summary(report, out) + "\n\x1b[2J"


PLANTS = {"errors are not explained": _traceback, "terminal codes are printed": _raw_text}
