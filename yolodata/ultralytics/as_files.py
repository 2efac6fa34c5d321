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

import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from ultralytics.data.utils import check_det_dataset
from ultralytics.nn.autobackend import check_class_names
from ultralytics.utils import LOGGER

from yolodata.errors import YolodataError
from yolodata.files import resolved
from yolodata.folders import Folder
from yolodata.ingest.fingerprint import fingerprint
from yolodata.ingest.pack_cache import AS_FILES, COPY, COPY_DEPTH, COPY_LOCK
from yolodata.shards import DatasetMeta, ShardDataset, read_meta, splits
from yolodata.shards import open as open_shards
from yolodata.shards.lock import file_lock, storage_error

NO_FILES = (
    "yolodata makes no files of training shards; train with trainer=yolodata.DetectionTrainer, and "
    "validate on them with `yolodata val split=train`"
)


_LONGEST = 240  # bytes of a file name, of the 255 that there may be


def name_files(data: dict[str, Any]) -> None:
    """Names the pictures of each split; makes files of those that are nowhere else.

    "train" is made only if it is all there is: nobody validates on it by chance, and it is large.

    Args:
        data: what Ultralytics read from data.yaml; paths and names are changed in place.

    Raises:
        OSError: files have to be made, and cannot be written.
        ShardError: the shards are damaged.
    """
    root = resolved(data["yaml_file"]).parent
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

    Raises:
        ShardError: the shards are damaged, or files cannot be written beside them.
    """
    with open_shards(root, split=split) as shards:
        try:
            return _files_of(shards, root, split)
        except OSError as error:
            raise storage_error(root, error) from error


def _files_of(shards: ShardDataset, root: Path, split: str) -> Path:
    state = f"{shards.meta.labels.checksum}-{shards.meta.codec}"
    with Folder.at(root) as above:
        above.check_ours()
        with (
            above.folder(AS_FILES, create=True) as copies,
            copies.folder(split, create=True) as home,
            file_lock(home, COPY_LOCK),
        ):
            found = home.stat(state)
            if found is None or not stat.S_ISDIR(found.st_mode):
                _make_files(shards, home, state)
            with home.folder(state) as done:
                _keep_arrays_newer(done)
                return done.path / "images"


def _make_files(shards: ShardDataset, home: Folder, state: str) -> None:
    """Makes files of all images in the folder `state`, which replaces all that were made before."""
    for name in filter(COPY.fullmatch, home.names()):
        found = home.stat(name)
        if found is not None and stat.S_ISDIR(found.st_mode):
            home.remove_tree(name, COPY_DEPTH)
        else:
            home.remove(name)
    LOGGER.info(
        f"yolodata: making files of {len(shards)} images of {shards.meta.split} in "
        f"{home.path / state}, for Ultralytics' own loader; `yolodata val` reads the shards "
        "themselves"
    )
    with home.folder("begun", create=True) as begun:
        _write_files(shards, begun)
    home.rename("begun", state)


def _write_files(shards: ShardDataset, folder: Folder) -> None:
    """Writes images, and labels beside them; names sort as the shards do, and keep their stems."""
    digits = len(str(len(shards)))
    with (
        folder.folder("images", create=True) as images,
        folder.folder("labels", create=True) as texts,
    ):
        for i in range(len(shards)):
            place, (stem, suffix) = f"{i:0{digits}d}", _file_name(shards, i)
            with (
                images.folder(place, create=True) as image,
                texts.folder(place, create=True) as text,
            ):
                if shards.meta.codec == "raw":
                    size = int(shards.label_width[i]), int(shards.label_height[i])
                    with _new(image, f"{stem}.png") as file:
                        Image.new("1", size).save(file, "PNG")
                    with _new(image, f"{stem}.npy") as file:
                        np.save(file, shards.image(i)[..., ::-1])
                else:
                    with _new(image, stem + suffix) as file:
                        file.write(shards.sample(i).data)
                with _new(text, f"{stem}.txt") as file:
                    file.write(_label_text(shards, i).encode())


def _file_name(shards: ShardDataset, image: int) -> tuple[str, str]:
    """Stem and suffix of an image's file; those of the source, if a file can be called so."""
    name = Path(shards.name(image))
    suffix = ".jpg" if shards.meta.source.get("reencode") else name.suffix
    whole = os.fsencode(name.stem + suffix)
    return ("image", ".jpg") if b"\0" in whole or len(whole) > _LONGEST else (name.stem, suffix)


def _new(folder: Folder, name: str) -> BinaryIO:
    return os.fdopen(folder.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb")


def _keep_arrays_newer(copy: Folder) -> None:
    """Ultralytics passes by an array that is older than its image, as a copied folder may be."""
    with copy.folder("images") as images:
        for place in images.names():
            with images.folder(place) as folder:
                for name in folder.names():
                    array = folder.stat(name)
                    image = folder.stat(f"{name.removesuffix('.npy')}.png")
                    if (
                        name.endswith(".npy")
                        and array is not None
                        and image is not None
                        and array.st_mtime_ns < image.st_mtime_ns
                    ):
                        times = image.st_mtime_ns, image.st_mtime_ns
                        os.utime(name, ns=times, dir_fd=folder.fd, follow_symlinks=False)


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
