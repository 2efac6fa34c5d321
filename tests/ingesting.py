"""What the tests of ingest share: drawn datasets, hashes of folders, and upstream's own checker."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import yaml

from yolodata.ingest.labels import check_labels


def pack_arguments(**values: Any) -> dict[str, Any]:
    """Arguments of `pack`, made of those and the fields of `PackSettings`."""
    from yolodata.ingest import PackSettings

    own = {field.name for field in fields(PackSettings)}
    settings = PackSettings(**{name: values.pop(name) for name in own & values.keys()})
    return {"settings": settings, **values}


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """A picture that JPEG compresses like a photograph: smooth, with edges. uint8 (h, w, 3)."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), np.uint8)
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(5):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        cv2.circle(image, (x, y), int(rng.integers(3, 3 + height // 4)), colour, -1)
    return image


def jpeg(image: np.ndarray, quality: int = 90) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


WIDTH, HEIGHT = 64, 48
JPEG = jpeg(picture(1, HEIGHT, WIDTH))
TWO = {1: "cat", 2: "dog"}
ROW = b"0 .5 .5 .2 .2\n"
VOC = (
    b"<annotation><filename>%s</filename><size><width>64</width><height>48</height></size>"
    b"<object><name>dog</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>20</xmax><ymax>30</ymax>"
    b"</bndbox></object></annotation>"
)


def build(root: Path, files: Mapping[str, bytes | str]) -> Path:
    """Writes files below a folder: relative path -> content."""
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def coco(
    file: Path,
    images: Sequence[str | Mapping[str, Any]] = ("0.jpg", "1.jpg"),
    categories: Mapping[Any, str] = TWO,
    at: Path | None = None,
    listed: list[Any] | None = None,
) -> Path:
    """Writes a JSON file; object k is of category k, modulo their number. Images go to `at`."""
    records = [
        {
            "id": k,
            "width": WIDTH,
            "height": HEIGHT,
            **({"file_name": i} if isinstance(i, str) else i),
        }
        for k, i in enumerate(images)
    ]
    ids = list(categories)
    notes = [
        {"id": k, "image_id": r["id"], "category_id": ids[k % len(ids)], "bbox": [4 + k, 4, 20, 20]}
        for k, r in enumerate(records)
    ]
    content = {
        "images": records,
        "annotations": notes,
        "categories": listed or [{"id": k, "name": name} for k, name in categories.items()],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    for record in records if at else ():
        target = at / record["file_name"]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(JPEG)
    return file


def classes(source: Any, split: str) -> list[int]:
    """The class of each object of a split, in order, as detection has them."""
    images = source.splits[split]
    rules = source.rules("detect", False)
    rows = [check_labels(images.raw_labels(i), rules).cls for i in range(len(images.paths))]
    return [int(c) for c in np.concatenate(rows)]


def write_yolo(
    root: Path,
    splits: Mapping[str, int],
    names: int = 3,
    size: tuple[int, int] = (48, 64),
    **extra: Any,
) -> Path:
    """A YOLO dataset with boxes: root/images/SPLIT, root/labels/SPLIT, root/data.yaml."""
    rng = np.random.default_rng(7)
    seed = 0
    for split, count in splits.items():
        images, labels = root / "images" / split, root / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for k in range(count):
            seed += 1
            height, width = size[0] + int(rng.integers(0, 30)), size[1] + int(rng.integers(0, 30))
            (images / f"{k:03}.jpg").write_bytes(jpeg(picture(seed, height, width)))
            rows = []
            for _ in range(int(rng.integers(0, 5))):
                box = (*rng.uniform(0.3, 0.7, 2), *rng.uniform(0.1, 0.5, 2))
                rows.append(" ".join((str(rng.integers(0, names)), *(f"{v:.6f}" for v in box))))
            if k % 5:  # every fifth picture has no label file
                (labels / f"{k:03}.txt").write_text("\n".join(rows))
    data = {**{s: f"images/{s}" for s in splits}, "names": [f"c{k}" for k in range(names)], **extra}
    file = root / "data.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def tree_hash(root: Path) -> str:
    """Hash of every path below `root` with its kind, content, size and modification time."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        facts = (str(path.relative_to(root)), status.st_mode, status.st_size, status.st_mtime_ns)
        digest.update(repr((facts, hashlib.sha256(content).hexdigest())).encode())
    return digest.hexdigest()


class Verdict(NamedTuple):
    """What upstream says about one image. box: float32 (n, 4); polygons: list; refused: message."""

    refused: str | None
    shape: tuple[int, int] | None
    cls: np.ndarray | None
    box: np.ndarray | None
    polygons: list[np.ndarray]
    keypoints: np.ndarray | None
    pixels: np.ndarray | None  # (h, w, 3) BGR as its image reader gives them, None where it cannot


def upstream_verdict(
    image: str,
    *,
    classes: int,
    kpt_shape: tuple[int, int] = (0, 0),
    pose: bool = False,
    single_cls: bool = False,
    read: bool = True,
) -> Verdict:
    """Run Ultralytics' `verify_image_label`, then its `imread`, which may rewrite the file."""
    from ultralytics.data.utils import img2label_paths, verify_image_label
    from ultralytics.utils import checks
    from ultralytics.utils.patches import imread

    before, checks.check_requirements = checks.check_requirements, lambda *_, **__: False
    try:
        label = img2label_paths([image])[0]
        result = verify_image_label((image, label, "", pose, classes, *kpt_shape, single_cls))
    finally:
        checks.check_requirements = before  # it would install packages
    _, table, shape, polygons, keypoints, *_, message = result
    if table is None:
        return Verdict(message, None, None, None, [], None, None)
    pixels = None
    if read:
        with contextlib.suppress(cv2.error):
            pixels = imread(image)
    return Verdict(None, shape, table[:, 0], table[:, 1:], polygons, keypoints, pixels)


def upstream_files(data: Mapping[str, Any], split: str) -> list[str]:
    """Image files as Ultralytics' dataset lists them."""
    from ultralytics.data.base import BaseDataset

    reader = BaseDataset.__new__(BaseDataset)
    reader.prefix, reader.fraction = "", 1.0
    return reader.get_img_files(data[split])


def copy_tree(source: Path, target: Path) -> Path:
    """Copy with hard facts kept: content and modification times."""
    import shutil

    shutil.copytree(source, target, symlinks=True)
    return target


os.environ.setdefault("YOLO_AUTOINSTALL", "false")
