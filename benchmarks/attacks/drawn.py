"""Tiny datasets that attacks begin with, and the folder that they are drawn into once a process."""

from __future__ import annotations

import functools
import io
import json
import shutil
import stat
import tempfile
from pathlib import Path

import cv2
import numpy as np
import xxhash
import yaml

from .judge import scratch

NAMES = ("cat", "dog", "bird")
KEYPOINTS = {"kpt_shape": [3, 2], "flip_idx": [0, 2, 1]}
PACK = ("--imgsz", "64", "--shard-size", "64K", "--workers", "2", "--quiet")


def picture(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Draws a picture that is smooth, with edges: uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 4, 3), np.uint8)
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    cv2.circle(image, (width // 2, height // 2), 9, (int(rng.integers(256)), 0, 200), -1)
    return image


def encoded(image: np.ndarray, kind: str, **options: object) -> bytes:
    """Encodes an RGB picture with Pillow."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def source(folder: Path, images: int = 8, task: str = "detect", seed: int = 0) -> Path:
    """Writes a YOLO dataset with the splits train and val; returns its YAML."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", images), ("val", 2)):
        pictures, labels = folder / "images" / split, folder / "labels" / split
        pictures.mkdir(parents=True)
        labels.mkdir(parents=True)
        for k in range(count):
            height, width = (int(side) for side in rng.integers(30, 70, 2))
            data = encoded(picture(seed + k, height, width), "JPEG", quality=90)
            (pictures / f"{k}.jpg").write_bytes(data)
            rows = [_row(rng, task) for _ in range(k % 4)]
            (labels / f"{k}.txt").write_text("".join(rows), encoding="ascii")
    data = {"train": "images/train", "val": "images/val", "names": list(NAMES)}
    data |= KEYPOINTS if task == "pose" else {}
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump(data), encoding="ascii")
    return file


def _row(rng: np.random.Generator, task: str) -> str:
    cls, box = rng.integers(0, len(NAMES)), rng.uniform(0.2, 0.4, 4)
    if task == "segment":
        around = rng.uniform(0, 1, (5, 2)).ravel()
        return " ".join([str(cls), *(f"{v:.5f}" for v in around)]) + "\n"
    points = rng.uniform(0, 1, 6) if task == "pose" else []
    return " ".join([str(cls), *(f"{v:.5f}" for v in (*box, *points))]) + "\n"


@functools.cache
def once() -> Path:
    """Gives a folder of this process, for what all of its cases begin with."""
    return Path(tempfile.mkdtemp(prefix="attack-once-", dir=scratch()))


def clean_up() -> None:
    """Removes that folder."""
    if once.cache_info().currsize:
        shutil.rmtree(once(), ignore_errors=True)
        once.cache_clear()


@functools.cache
def packed(task: str = "detect", codec: str = "raw") -> Path:
    """Packs a drawn dataset once a process: OUT with train and val."""
    from yolodata.ingest import PackSettings, pack

    place = once() / f"{task}-{codec}"
    data = source(place / "source", task=task)
    settings = PackSettings(codec, 64, task="pose" if task == "pose" else "detect")
    pack(data, place / "out", settings, shard_size=1 << 16, workers=1, progress=False)
    return place / "out"


def contents(folder: Path) -> dict[str, bytes]:
    """Gives every regular file below a folder: path -> bytes."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.is_symlink()
    }


def lay_out(files: dict[str, bytes], folder: Path) -> None:
    """Writes files below a folder."""
    for name, data in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def state(root: Path, *, without: tuple[Path, ...] = ()) -> dict[str, str]:
    """Says of every path below a folder what it is; links are not followed.

    Args:
        root: the folder.
        without: paths whose content does not count, nor that they change.
    """
    found = {}
    for path in sorted(root.rglob("*")):
        if any(path == one or one in path.parents for one in without):
            continue
        status = path.lstat()
        facts = [oct(status.st_mode), str(status.st_uid)]
        if stat.S_ISREG(status.st_mode):
            facts.append(f"{status.st_size} bytes, {status.st_mtime_ns}")
            if status.st_size < 1 << 22:
                facts.append(xxhash.xxh3_64_hexdigest(path.read_bytes()))
        elif stat.S_ISLNK(status.st_mode):
            facts.append(str(path.readlink()))
        found[str(path.relative_to(root))] = " ".join(facts)
    return found


def changes(before: dict[str, str], after: dict[str, str]) -> str:
    """Says what differs between two states; "" if nothing does."""
    said = [f"{name} is new" for name in after.keys() - before.keys()]
    said += [f"{name} is gone" for name in before.keys() - after.keys()]
    said += [f"{n} changed" for n in before.keys() & after.keys() if before[n] != after[n]]
    return ", ".join(sorted(said))


def sealed(content: dict[str, object]) -> bytes:
    """Gives a dataset.json with the checksum that fits its content."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    checksum = xxhash.xxh3_64_hexdigest(text.encode())
    return json.dumps({**content, "checksum": checksum}).encode()
