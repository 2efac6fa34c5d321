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
from yolodata.files import file_checksum
from yolodata.machine import usable_cores

Say = Callable[[str], None]

MANY = 3072
"""Pictures of the longer dataset.

Both loaders remember decoded pictures for a while (Ultralytics its last 128, yolodata its last 768
or so). In a dataset of a few hundred they would hardly decode any more, as they must in COCO. A
few hundred pictures under several names each are enough pictures for them.
"""


@dataclass(frozen=True)
class Wanted:
    """What to measure on.

    Attributes:
        data: dataset (YAML, COCO, VOC) or shards; None draws pictures.
        images: different pictures at most.
        many: pictures of the longer dataset at most.
        imgsz: side of the output.
        seed: of drawing and choosing.
        task: what the labels have to serve.
    """

    data: Path | None
    images: int
    many: int
    imgsz: int
    seed: int
    task: str = "detect"


@dataclass(frozen=True)
class Prepared:
    """Where everything lies.

    Attributes:
        by_codec: what each `source` of `rows.Row` is; those that cannot be measured are absent.
            "-many" is the longer dataset, where a codec has both.
        facts: what the pictures are like; `summary` is a line about them.
    """

    by_codec: dict[str, Path]
    facts: dict[str, Any]

    def source(self, row: Row) -> Path | None:
        """What a row reads; for a batch that never changes, any shards will do."""
        found = self.by_codec.get(row.source)
        return self.by_codec.get("jpeg") if found is None and row.kind == "fixed" else found

    def serves(self, row: Row) -> bool:
        """Whether a row has something to read, or needs nothing."""
        return row.source == "memory" or self.source(row) is not None


def shards_in(path: Path) -> Path:
    """The dataset directory that a folder is, or that of its training pictures."""
    return path if (path / "dataset.json").exists() else path / "train"


def is_shards(path: Path) -> bool:
    """Whether a folder is a dataset directory, or the root of some."""
    return (shards_in(path) / "dataset.json").exists()


def imgsz_of(path: Path) -> int:
    """Side of the pictures that shards were made for; 640 for any other dataset."""
    from yolodata.shards import reader

    return int(reader.open(shards_in(path)).meta.imgsz) if is_shards(path) else 640


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
    if wanted.data is not None and is_shards(wanted.data):
        return _shards(wanted.data)
    plain, long = folder / "set", folder / "long"
    _claim(folder, wanted)
    if not (plain / "done").exists():
        shutil.rmtree(plain, ignore_errors=True)
        if wanted.data is None:
            say(f"drawing {wanted.images} pictures like COCO's")
            outlines, threads = wanted.task in ("segment", "obb"), len(usable_cores())
            drawing.write(plain, wanted.images, wanted.seed, threads, outlines)
        else:
            say(f"copying pictures of {wanted.data}")
            _copy(wanted, plain)
        (plain / "done").touch()
    facts = _facts(plain, wanted)
    total = facts["images"] if wanted.data is not None else MANY
    repeats = math.ceil(min(max(facts["images_of_source"], total), wanted.many) / facts["images"])
    if repeats > 1 and needed & {"files", "jpeg", "raw-many", "ram-many"}:
        _repeat(plain, long, repeats)
    else:
        long = plain
    by_codec = {"files": long / "data.yaml", "ram": plain / "data.yaml"}
    by_codec["ram-many"] = by_codec["files"]
    for name, source in (("raw", plain), ("jpeg", long), ("raw-many", long)):
        if name in needed:
            codec = name.removesuffix("-many")
            by_codec[name] = _packed(source, folder / name, codec, wanted, say)
    return Prepared(by_codec, {**facts, "repeats_decoding": repeats})


def _claim(folder: Path, wanted: Wanted) -> None:
    """Make sure that a folder is empty, or was filled for the same purpose."""
    purpose = {**vars(wanted), "data": str(wanted.data.resolve()) if wanted.data else None}
    note = folder / "bench.json"
    if note.exists():
        found = json.loads(note.read_text())
        if found != purpose:
            raise ConfigError(
                f"{folder} was filled for {found}, now it is to hold {purpose}; "
                "give --keep an empty folder"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; give --keep an empty or absent folder")
    note.write_text(json.dumps(purpose))


def _copy(wanted: Wanted, folder: Path) -> None:
    """Copy up to `images` pictures of a user's dataset and write their labels as YOLO text."""
    from yolodata.ingest.source import open_source

    assert wanted.data is not None
    source = open_source(wanted.data, splits=["train"])
    split = source.splits["train"]
    order = np.random.default_rng(wanted.seed).permutation(len(split.paths))
    chosen = np.sort(order[: wanted.images]).tolist()
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True)
    for number, image in enumerate(chosen):
        path = Path(split.paths[image])
        try:
            shutil.copyfile(path, folder / "images" / "train" / f"{number:06d}{path.suffix}")
            text = split.raw_labels(image).text
        except (OSError, UnicodeError) as error:
            raise DatasetError(f"{path} or its labels cannot be read: {error}") from None
        if text is not None:
            (folder / "labels" / "train" / f"{number:06d}.txt").write_bytes(text)
    names = [source.names[i] for i in range(len(source.names))]
    drawing.write_yaml(folder, "images/train", names)
    (folder / "source.json").write_text(json.dumps({"images": len(split.paths)}))


def _repeat(plain: Path, long: Path, repeats: int) -> None:
    """The same pictures under `repeats` names each (hard links where possible)."""
    if (long / "done").exists():
        return
    shutil.rmtree(long, ignore_errors=True)
    for kind in ("images", "labels"):
        (long / kind / "train").mkdir(parents=True)
        for path in sorted((plain / kind / "train").iterdir()):
            for turn in range(repeats):
                other = long / kind / "train" / f"{turn:03d}_{path.name}"
                try:
                    os.link(path, other)
                except OSError:
                    shutil.copyfile(path, other)
    names = json.loads((plain / "data.yaml").read_text(encoding="utf-8"))["names"]
    drawing.write_yaml(long, "images/train", names)
    (long / "done").touch()


def _packed(source: Path, out: Path, codec: str, wanted: Wanted, say: Say) -> Path:
    from yolodata.ingest import pack

    if not (out / "train" / "dataset.json").exists():
        say(f"packing {codec} shards")
        how: dict[str, Any] = {"codec": codec, "imgsz": wanted.imgsz, "task": wanted.task}
        pack(source / "data.yaml", out, **how, splits=["train"], progress=False)
    # The page cache shall hold shards, which are written past it, like the pictures. Otherwise the
    # first epoch of one side alone would wait for the disk.
    for shard in sorted((out / "train").glob("shard-*.safetensors")):
        with shard.open("rb") as file:
            file_checksum(file)
    return out / "train"


def _shards(path: Path) -> Prepared:
    """A user's shards: there are no picture files for Ultralytics to read."""
    from yolodata.shards import reader

    path = shards_in(path)
    shards = reader.open(path)
    images, codec = len(shards), shards.meta.codec
    shards.close()
    names = (codec, f"{codec}-many") if codec == "raw" else (codec,)
    where = f"{images:,} images of {path} ({codec})"
    summary = f"{where}; to compare with Ultralytics, give the dataset itself"
    return Prepared(dict.fromkeys(names, path), {"images": images, "summary": summary})


def _facts(folder: Path, wanted: Wanted) -> dict[str, Any]:
    """What the pictures are like, and what COCO's are like."""
    from PIL import Image

    files = sorted((folder / "images" / "train").iterdir())
    nbytes = [file.stat().st_size for file in files]
    pixels, objects = [], []
    for file in files:
        try:
            with Image.open(file) as image:
                pixels.append(image.width * image.height)
        except OSError:
            continue  # packing will say why it is left out
        labels = folder / "labels" / "train" / f"{file.stem}.txt"
        objects.append(len(labels.read_text().splitlines()) if labels.exists() else 0)
    if not pixels:
        raise DatasetError(f"none of the {len(files)} pictures of {wanted.data} can be read")
    note = folder / "source.json"
    found: dict[str, Any] = {
        "images": len(files),
        "images_of_source": json.loads(note.read_text())["images"] if note.exists() else MANY,
        "bytes_mean": float(np.mean(nbytes)),
        "pixels_mean": float(np.mean(pixels)),
        "objects_mean": float(np.mean(objects)),
        "coco": {"bytes_mean": coco.BYTES_PER_IMAGE, "pixels_mean": coco.PIXELS_PER_IMAGE,
                 "objects_mean": coco.OBJECTS_PER_IMAGE},
    }  # fmt: skip
    what = "drawn pictures" if wanted.data is None else f"pictures of {wanted.data}"
    found["summary"] = (
        f"{len(files)} {what}: {found['bytes_mean'] / 1e3:.0f} kB, "
        f"{found['pixels_mean'] / 1e3:.0f} thousand pixels, {found['objects_mean']:.1f} objects on "
        f"average (COCO train2017: {coco.BYTES_PER_IMAGE / 1e3:.0f} kB, "
        f"{coco.PIXELS_PER_IMAGE / 1e3:.0f} thousand, {coco.OBJECTS_PER_IMAGE})"
    )
    return found
