"""Shards as files, for Ultralytics' own loader: the dataset they were made of, or a copy.

Note [own validation]. `YOLO("best.pt").val()` is Ultralytics' code alone, and asks for pictures and
text files. The data.yaml in a folder of shards (`shards.data_yaml`) names none that are there, and
has Ultralytics run `name_files` instead, by the key `download`, which is its own means to get a
dataset. While the dataset that was packed is unchanged, it is named. Otherwise (it is gone, is no
YOLO dataset, or changed) files are made of the shards, once. Both give the metrics of the original
to the bit: a JPEG shard holds the files themselves. Of raw pixels, a picture is an .npy file, as
Ultralytics' cache="disk" writes it, which it reads in place of the image beside it. That image is
blank: only its size is read, which decides the order and the shapes of batches.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from ultralytics.data.utils import check_det_dataset
from ultralytics.nn.autobackend import check_class_names
from ultralytics.utils import LOGGER

from yolodata.errors import YolodataError
from yolodata.ingest.fingerprint import fingerprint
from yolodata.ingest.pack_cache import AS_FILES
from yolodata.shards import DatasetMeta, ShardDataset, read_meta, splits
from yolodata.shards import open as open_shards

NO_FILES = (
    "yolodata makes no files of training shards; train with trainer=yolodata.DetectionTrainer, and "
    "validate on them with `yolodata val split=train`"
)


def name_files(data: dict[str, Any]) -> None:
    """Names the pictures of each split; makes files of those that are nowhere else.

    "train" is made only if it is all there is: nobody validates on it by chance, and it is large.

    Args:
        data: what Ultralytics read from data.yaml; paths and names are changed in place.

    Raises:
        OSError: files have to be made, and cannot be written.
        ShardError: the shards are damaged.
    """
    root = Path(data["yaml_file"]).resolve().parent
    found = splits(root)
    made = [split for split in found if split != "train"] or list(found)
    for split, folder in found.items():
        meta = read_meta(folder)
        data["names"] = check_class_names(dict(meta.names))
        data["nc"] = len(data["names"])
        source = _unchanged_source(meta, split)
        if source is not None:
            data[split] = source
        elif split in made:
            data[split] = str(files_of(root, split))
        else:  # Ultralytics says that it finds nothing at …
            data[split] = f"{root / split}: {NO_FILES}"
    for needed in ("train", "val"):
        if needed not in found:
            data[needed] = data[next(iter(found))]


def _unchanged_source(meta: DatasetMeta, split: str) -> str | list[str] | None:
    """Where the packed dataset has its images, as Ultralytics takes it; None: shards alone know."""
    path = str(meta.source.get("path", ""))
    if meta.source.get("kind") != "yolo" or not Path(path).is_file():
        return None
    try:
        if fingerprint(path, split) != meta.source.get("fingerprint"):
            return None
        found: str | list[str] | None = check_det_dataset(path, autodownload=False).get(split)
        return found
    except (YolodataError, OSError, SyntaxError, TypeError):  # it is no such dataset any more
        return None


def files_of(root: Path, split: str) -> Path:
    """The folder of images that one split of a folder of shards was made into; makes it.

    Other processes that want the same wait for the one that makes it. What was made of other
    labels or pixels goes away.
    """
    with open_shards(root, split=split) as shards:
        state = f"{shards.meta.labels.checksum}-{shards.meta.codec}"
        home = root / AS_FILES / split
        home.mkdir(parents=True, exist_ok=True)
        with (home / ".lock").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = home / state
            if not done.is_dir():
                for old in home.iterdir():
                    if old.is_dir():
                        shutil.rmtree(old)
                LOGGER.info(
                    f"yolodata: making files of {len(shards)} images of {split} in {done}, for "
                    "Ultralytics' own loader; `yolodata val` reads the shards themselves"
                )
                begun = home / "begun"
                _write_files(shards, begun)
                begun.rename(done)
            _keep_arrays_newer(done)
        return done / "images"


def _write_files(shards: ShardDataset, folder: Path) -> None:
    """Writes images, and labels beside them; names sort as the shards do, and keep their stems."""
    digits = len(str(len(shards)))
    for i in range(len(shards)):
        name = Path(shards.name(i))
        place = Path(f"{i:0{digits}d}") / name.stem
        image, label = folder / "images" / place, folder / "labels" / place
        image.parent.mkdir(parents=True)
        label.parent.mkdir(parents=True)
        if shards.meta.codec == "raw":
            size = int(shards.label_width[i]), int(shards.label_height[i])
            Image.new("1", size).save(_named(image, ".png"))
            np.save(_named(image, ".npy"), shards.image(i)[..., ::-1])
        else:
            suffix = ".jpg" if shards.meta.source.get("reencode") else name.suffix
            _named(image, suffix).write_bytes(shards.sample(i).tobytes())
        _named(label, ".txt").write_text(_label_text(shards, i), encoding="utf-8")


def _named(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)  # a stem may hold dots


def _keep_arrays_newer(folder: Path) -> None:
    """Ultralytics passes by an array that is older than its image, as a copied folder may be."""
    for array in (folder / "images").glob("*/*.npy"):
        image = array.with_suffix(".png").stat().st_mtime_ns
        if array.stat().st_mtime_ns < image:
            os.utime(array, ns=(image, image))


def _label_text(shards: ShardDataset, image: int) -> str:
    """The labels of an image, a row an object, in YOLO's format; numbers keep every bit."""
    rows = range(int(shards.object_offset[image]), int(shards.object_offset[image + 1]))
    outlines = [
        shards.polygon[int(shards.polygon_offset[row]) : int(shards.polygon_offset[row + 1])]
        for row in rows
    ]
    lines = []
    for row, outline in zip(rows, outlines, strict=True):
        box = shards.box[row]
        values = [*box]
        if shards.keypoints is not None:
            kept = shards.meta.kpt_shape[1] if shards.meta.kpt_shape else 3
            values += [*shards.keypoints[row][:, :kept].reshape(-1)]
        elif len(outline):
            values = [*outline.reshape(-1)]
        elif any(map(len, outlines)):  # a row of a box would be read as an outline of two points
            (x, y), (w, h) = box[:2], box[2:] / 2
            values = [x - w, y - h, x + w, y - h, x + w, y + h, x - w, y + h]
        numbers = " ".join(f"{float(value):.9g}" for value in values)
        lines.append(f"{int(shards.cls[row])} {numbers}\n")
    return "".join(lines)
