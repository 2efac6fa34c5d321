"""What is compared: a dataset that Ultralytics reads, and, where it is packed, its shards."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from yolodata.errors import ConfigError, DatasetError
from yolodata.images.limits import most_bytes
from yolodata.ingest.dataset_yaml import find_yaml
from yolodata.ingest.limits import LABEL_BYTES
from yolodata.ingest.sample import Source
from yolodata.ingest.source import open_source
from yolodata.ingest.yolo import label_path
from yolodata.pipeline.options import LabelOptions
from yolodata.pipeline.subset import Subset
from yolodata.shards import reader
from yolodata.shards.format import DATASET_FILE, SPLITS
from yolodata.shards.reader import ShardDataset

_STRIDE = 32  # the least that Ultralytics trains with
_SPLITS = ("train", "val")


@dataclass(frozen=True)
class Dataset:
    """A dataset to be compared.

    Attributes:
        yaml: what Ultralytics reads.
        imgsz: side of the pictures, in pixels.
        train, val: packed splits; None where our side is made of what Ultralytics reads (train)
            or packed for the comparison (val).
    """

    yaml: Path
    imgsz: int
    train: ShardDataset | None = None
    val: ShardDataset | None = None

    @property
    def name(self) -> str:
        """The name of the folder that the YAML lies in."""
        return self.yaml.resolve().parent.name


def open_dataset(path: Path, task: str, imgsz: int | None = None) -> Dataset:
    """Opens a dataset YAML, or a folder of shards that was packed from one.

    Args:
        path: the YAML, the folder that holds it, the bare name of one that Ultralytics brings, or
            a folder that `yolodata shard` wrote.
        task: "detect", "segment", "pose" or "obb".
        imgsz: side of the pictures, in pixels; None takes 640, or what the shards were packed for.

    Raises:
        DatasetError: there is no such dataset, it lacks what the task needs, or it is none that
            Ultralytics reads.
        ConfigError: the shards cannot serve the task, or are of another imgsz; or Ultralytics
            trains with none of this size.
        ShardError: the shards are damaged.
    """
    folders = _shard_folders(path)
    if not folders:
        yaml = find_yaml(path)
        imgsz = 640 if imgsz is None else imgsz
        _check_size(imgsz)
        _check_files(open_source(yaml, splits=_SPLITS, format="yolo", task=task))
        return Dataset(yaml, imgsz)
    missing = [split for split in _SPLITS if split not in folders]
    if missing:
        raise DatasetError(
            f"{path}: must hold the splits train and val, got {', '.join(folders)}; give the "
            "folder that `yolodata shard` wrote, or the dataset's YAML"
        )
    shards = {split: reader.open(folders[split]) for split in _SPLITS}
    for dataset in shards.values():
        Subset(dataset, LabelOptions(task))  # refuses a task that the labels cannot serve
        _check_packing(dataset, imgsz)
    _check_size(shards["train"].meta.imgsz)
    source = shards["train"].meta.source
    yaml = Path(str(source.get("path")))
    if source.get("kind") != "yolo" or not yaml.is_file():
        raise DatasetError(
            f"{path}: must be packed from a dataset YAML that is still there, got shards of "
            f"{source.get('kind')!r} from {str(source.get('path'))!r}; Ultralytics reads nothing "
            "else, so pack from a YAML, or give one"
        )
    _check_files(open_source(yaml, splits=_SPLITS, format="yolo", task=task))
    return Dataset(yaml, shards["train"].meta.imgsz, shards["train"], shards["val"])


def _shard_folders(path: Path) -> dict[str, Path]:
    """The packed splits in a folder, by name."""
    found = {split: path / split for split in SPLITS if (path / split / DATASET_FILE).exists()}
    if not found and (path / DATASET_FILE).exists():
        found = {reader.open(path).meta.split: path}
    return found


def _check_files(source: Source) -> None:
    """Raises DatasetError for a file at which Ultralytics, which reads them all, never arrives."""
    for split in source.splits.values():
        for image in split.paths:
            for path, limit in ((image, most_bytes()), (label_path(image), LABEL_BYTES)):
                try:
                    found = os.stat(path)
                except OSError:  # it leaves the image out
                    continue
                special = not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode))
                if (special and path == image) or (not special and found.st_size > limit):
                    what = "is no file" if special else f"has {found.st_size} bytes"
                    raise DatasetError(
                        f"{path}: {what}, and Ultralytics would read it without an end; take it "
                        "out of the dataset (`yolodata shard` leaves the image out)"
                    )


def _check_size(imgsz: int) -> None:
    """Raises ConfigError for a size that Ultralytics' trainers would round up.

    OpenCV colours the last pixels of a row by another rule, where its vectors do not fit: one grey
    level apart, in so many of them that the limits would be missed. Nobody trains with such rows.
    """
    if imgsz % _STRIDE:
        raise ConfigError(
            f"--imgsz must be a multiple of {_STRIDE}, as Ultralytics trains with no other size, "
            f"got {imgsz}; give {-(-imgsz // _STRIDE) * _STRIDE}, what it would make of it"
        )


def _check_packing(shards: ShardDataset, imgsz: int | None) -> None:
    """Raises ConfigError unless the shards can hold upstream's pictures and labels."""
    meta = shards.meta
    if imgsz not in (None, meta.imgsz):
        raise ConfigError(
            f"--imgsz must be {meta.imgsz}, which {shards.path} was packed for, got {imgsz}; leave "
            "it out, or give the dataset's YAML"
        )
    for name in ("reencode", "single_cls"):
        if meta.source.get(name):
            raise ConfigError(
                f"{shards.path}: must be packed without {name}, got {name}="
                f"{meta.source[name]!r}, which changes what Ultralytics would see; pack again, or "
                "give the dataset's YAML"
            )
