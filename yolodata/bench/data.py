"""The pictures that are measured on: drawn, copied from a user's dataset, or a user's shards.

Ultralytics writes label caches beside the labels and repairs broken JPEG files where they lie, so
it is never let near a user's dataset: it works on a copy of the pictures.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yolodata.bench import coco, drawing
from yolodata.bench.subject import Row
from yolodata.errors import ConfigError, DatasetError
from yolodata.files import file_checksum, open_regular, read_regular
from yolodata.folders import Folder
from yolodata.images.formats import open_picture
from yolodata.images.limits import most_bytes
from yolodata.ingest import PackSettings, open_source, pack
from yolodata.machine import usable_cores
from yolodata.shards import reader

Say = Callable[[str], None]

_NOTE = "bench.json"
"""In the folder of `--keep`: what it was filled for."""

MANY = 3072
"""Pictures of the longer dataset.

Both loaders remember decoded pictures for a while (Ultralytics its last 128, yolodata its last 768
or so). In a dataset of a few hundred they would hardly decode any more, as they must in COCO. A
few hundred pictures under several names each are enough pictures for them.
"""


@dataclass(frozen=True)
class Wanted:
    """What to measure on."""

    data: Path | None  # dataset (YAML, COCO, VOC) or shards; None draws pictures
    images: int  # different pictures at most
    many: int  # pictures of the longer dataset at most
    imgsz: int  # side of the output
    seed: int  # of drawing and choosing
    task: str = "detect"  # what the labels have to serve


@dataclass(frozen=True)
class Prepared:
    """Where everything lies."""

    # What each `source` of a `Row` is; those that cannot be measured are absent. "-many" is the
    # longer dataset, where a codec has both.
    by_codec: dict[str, Path]
    facts: dict[str, Any]  # what the pictures are like; `summary` is a line about them

    def source(self, row: Row) -> Path | None:
        """What a row reads; for a batch that never changes, any shards will do."""
        found = self.by_codec.get(row.source)
        return self.by_codec.get("jpeg") if found is None and row.kind == "fixed" else found

    def serves(self, row: Row) -> bool:
        """Whether a row has something to read, or needs nothing."""
        return row.source == "memory" or self.source(row) is not None


def shards_in(path: Path) -> Path | None:
    """The dataset directory that a folder is, or that of its training pictures; None: neither."""
    return next((d for d in (path, path / "train") if (d / "dataset.json").exists()), None)


def imgsz_of(path: Path) -> int:
    """Side of the pictures that shards were made for; 640 for any other dataset."""
    shards = shards_in(path)
    return int(reader.open(shards).meta.imgsz) if shards else 640


def prepare(wanted: Wanted, folder: Path, needed: set[str], say: Say) -> Prepared:
    """Have the pictures drawn or copied, and packed.

    Args:
        wanted: what to measure on.
        folder: where to put it; what is there already, made for the same purpose, is used again.
        needed: sources that will be measured.
        say: is told of progress.

    Raises:
        DatasetError: the dataset cannot be used.
        ConfigError: the folder holds something else.
    """
    if wanted.data is not None and (shards := shards_in(wanted.data)):
        return _shards(shards)
    plain, threads = folder / "set", len(usable_cores())
    _claim(folder, wanted)
    note = plain / "source.json"  # written last
    if not note.exists():
        _begin_anew(plain)
        images = MANY
        if wanted.data is None:
            say(f"drawing {wanted.images} pictures like COCO's")
            outlines = wanted.task in ("segment", "obb")
            drawing.write(plain, wanted.images, wanted.seed, threads, outlines)
        else:
            say(f"copying pictures of {wanted.data}")
            images = _copy(wanted.data, wanted, plain)
        note.write_text(json.dumps({"images": images}), encoding="utf-8")
    facts = _facts(plain, wanted)
    repeats = math.ceil(min(facts["images_of_source"], wanted.many) / facts["images"])
    by_codec: dict[str, Path] = {}
    # The labels of a dataset that was given are what they are, and those of other tasks too.
    polygons = wanted.data is None and wanted.task == "detect"
    for suffix in ("", "-polygons") if polygons else ("",):
        names = {name + suffix for name in ("files", "ram", "ram-many", "raw", "jpeg", "raw-many")}
        if suffix and not needed & names:
            continue
        dataset, long = folder / f"set{suffix}", folder / f"long{suffix}"
        if suffix and not (dataset / "data.yaml").exists():  # written last
            _begin_anew(dataset)
            drawing.write(dataset, wanted.images, wanted.seed, threads, True, drawn=plain)
        if repeats > 1 and needed & (names - {f"ram{suffix}", f"raw{suffix}"}):
            _repeat(dataset, long, repeats)
        else:
            long = dataset
        by_codec |= {f"files{suffix}": long / "data.yaml", f"ram{suffix}": dataset / "data.yaml",
                     f"ram-many{suffix}": long / "data.yaml"}  # fmt: skip
        for name, source in (("raw", dataset), ("jpeg", long), ("raw-many", long)):
            out = folder / f"{name}{suffix}"
            if out.name in needed:
                by_codec[out.name] = _packed(source, out, name.removesuffix("-many"), wanted, say)
    return Prepared(by_codec, {**facts, "repeats_decoding": repeats})


def _claim(folder: Path, wanted: Wanted) -> None:
    """Make sure that a folder is ours, and is empty or was filled for the same purpose."""
    purpose = {**vars(wanted), "data": str(wanted.data.resolve()) if wanted.data else None}
    try:
        with Folder.at(folder, create=True) as place:
            place.check_ours()
            if not place.names():
                place.replace(_NOTE, json.dumps(purpose).encode())
            elif place.stat(_NOTE) is None:
                raise ConfigError(f"{folder}: is not empty; give --keep an empty or absent folder")
            found = json.loads(place.read(_NOTE, 1 << 16))
        linked = [path for path in folder.rglob("*") if path.is_symlink()]
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{folder}: cannot be used ({error}); give --keep another one") from None
    if linked:
        raise ConfigError(
            f"{linked[0]}: is a link, and is not written through; give --keep an empty folder"
        )
    if found != purpose:
        raise ConfigError(
            f"{folder}: was filled for {found}, now it is to hold {purpose}; "
            "give --keep an empty folder"
        )


def _begin_anew(folder: Path) -> None:
    """Makes an empty folder in the one of `_claim`, in the place of what was left unfinished."""
    with Folder.at(folder.parent) as place:
        if place.stat(folder.name) is not None:
            shutil.rmtree(folder)
        os.mkdir(folder.name, dir_fd=place.fd)


def _copy(data: Path, wanted: Wanted, folder: Path) -> int:
    """Copy pictures of a user's dataset, labels as YOLO text; returns how many there are."""
    source = open_source(data, splits=["train"])
    split = source.splits["train"]
    order = np.random.default_rng(wanted.seed).permutation(len(split.paths))
    images, labels = drawing.make_folders(folder)
    for number, image in enumerate(np.sort(order[: wanted.images]).tolist()):
        path = Path(split.paths[image])
        try:
            (images / f"{number:06d}{path.suffix}").write_bytes(read_regular(path, most_bytes()))
            text = split.raw_labels(image).text
        except (OSError, UnicodeError) as error:
            raise DatasetError(
                f"{path}: picture or labels cannot be read: {error}; restore it"
            ) from None
        if text is not None:
            (labels / f"{number:06d}.txt").write_bytes(text)
    names = [source.names[i] for i in range(len(source.names))]
    drawing.write_yaml(folder, "images/train", names)
    return len(split.paths)


def _repeat(plain: Path, long: Path, repeats: int) -> None:
    """The same pictures under `repeats` names each (hard links where possible).

    A list of repeated names would do, but Ultralytics would keep its label cache of both datasets
    in one file.
    """
    if (long / "data.yaml").exists():  # written last
        return
    _begin_anew(long)
    for folder in drawing.make_folders(long):
        for path in (plain / folder.relative_to(long)).iterdir():
            for turn in range(repeats):
                drawing.link(path, folder / f"{turn:03d}_{path.name}")
    names = json.loads((plain / "data.yaml").read_text(encoding="utf-8"))["names"]
    drawing.write_yaml(long, "images/train", names)


def _packed(source: Path, out: Path, codec: str, wanted: Wanted, say: Say) -> Path:
    if not (out / "train" / "dataset.json").exists():
        say(f"packing {codec} shards")
        settings = PackSettings(codec, wanted.imgsz, task=wanted.task)
        pack(source / "data.yaml", out, settings, splits=["train"], progress=False)
    # The page cache shall hold shards, which are written past it, like the pictures. Otherwise the
    # first epoch of one side alone would wait for the disk.
    for shard in sorted((out / "train").glob("shard-*.safetensors")):
        with shard.open("rb") as file:
            file_checksum(file)
    return out / "train"


def _shards(path: Path) -> Prepared:
    """A user's shards: there are no picture files for Ultralytics to read."""
    shards = reader.open(path)
    images, codec = len(shards), shards.meta.codec
    shards.close()
    names = (codec, f"{codec}-many") if codec == "raw" else (codec,)
    where = f"{images:,} images of {path} ({codec})"
    summary = f"{where}; to compare with Ultralytics, give the dataset itself"
    return Prepared(dict.fromkeys(names, path), {"images": images, "summary": summary})


def _facts(folder: Path, wanted: Wanted) -> dict[str, Any]:
    """What the pictures are like, and what COCO's are like."""
    files = sorted((folder / "images" / "train").iterdir())
    pixels, objects, polygons = [], [], 0
    for file in files:
        try:
            with os.fdopen(open_regular(file), "rb") as opened, open_picture(opened) as image:
                pixels.append(image.width * image.height)
        except Exception:  # Pillow raises whatever it meets; packing will say why it is left out
            continue
        labels = folder / "labels" / "train" / f"{file.stem}.txt"
        rows = labels.read_bytes().splitlines() if labels.exists() else ()
        objects.append(len(rows))
        polygons += sum(len(row.split()) > 5 for row in rows)
    if not pixels:
        raise DatasetError(
            f"{wanted.data}: none of its {len(files)} pictures can be read; give another --data"
        )
    source = json.loads((folder / "source.json").read_text(encoding="utf-8"))
    nbytes = float(np.mean([file.stat().st_size for file in files]))
    # Other tasks have long rows that are no polygons.
    share = polygons / max(sum(objects), 1) if wanted.task in ("detect", "segment") else 0.0
    what = "drawn pictures" if wanted.data is None else f"pictures of {wanted.data}"
    return {
        "images": len(files),
        "images_of_source": source["images"],
        "bytes_mean": nbytes,
        "pixels_mean": float(np.mean(pixels)),
        "objects_mean": float(np.mean(objects)),
        "polygons": share,
        "coco": {"bytes_mean": coco.BYTES_PER_IMAGE, "pixels_mean": coco.PIXELS_PER_IMAGE,
                 "objects_mean": coco.OBJECTS_PER_IMAGE},
        "summary": f"{len(files)} {what}: {nbytes / 1e3:.0f} kB, {np.mean(pixels) / 1e3:.0f} "
        f"thousand pixels, {np.mean(objects):.1f} objects on average (COCO train2017: "
        f"{coco.BYTES_PER_IMAGE / 1e3:.0f} kB, {coco.PIXELS_PER_IMAGE / 1e3:.0f} thousand, "
        f"{coco.OBJECTS_PER_IMAGE})" + (f"; {share:.0%} of labels are polygons" if share else ""),
    }  # fmt: skip
