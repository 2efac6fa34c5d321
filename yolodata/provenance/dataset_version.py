"""The version of a packed dataset, and in what two versions differ.

A split's version is the checksum in its dataset.json. That names the label file's checksum, the
label file has the checksum of every image: so each byte is vouched for. But dataset.json also says
where the source lay and when its files were changed. The same images and labels, packed on two
machines, are two versions. Two more checksums say whether what training reads is the same: `pixels`
and `annotations`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xxhash

from yolodata.files import CHECKSUM
from yolodata.shards.format import CODECS, MAX_IMGSZ, SPLITS, content_checksum, is_count
from yolodata.shards.reader import ShardDataset

_LONG = re.compile("[0-9a-f]{32}")
_BLOCK = 1 << 24  # rows that are hashed at a time


@dataclass(frozen=True)
class SplitVersion:
    """One split.

    Attributes:
        path: the directory with dataset.json.
        version: the checksum in dataset.json, 16 hexadecimal digits.
        labels: the checksum of the labels file, likewise.
        images, objects: how many.
        codec, imgsz: see `DatasetMeta`.
        pixels: XXH3-128 of codec, imgsz, and of each image's size and bytes, 32 hexadecimal digits.
        annotations: XXH3-128 of class names, and of each image's objects, likewise.
    """

    path: str
    version: str
    labels: str
    images: int
    objects: int
    codec: str
    imgsz: int
    pixels: str
    annotations: str

    @classmethod
    def of(cls, dataset: ShardDataset) -> SplitVersion:
        """Reads all columns of labels; pixels are not read."""
        meta = dataset.meta
        return cls(
            path=str(dataset.path),
            version=meta.checksum,
            labels=meta.labels.checksum,
            images=meta.images,
            objects=meta.objects,
            codec=meta.codec,
            imgsz=meta.imgsz,
            pixels=_hashed(
                [meta.codec, meta.imgsz],
                [dataset.height, dataset.width, dataset.checksum],
            ),
            annotations=_hashed(
                [meta.names, meta.kpt_shape, meta.flip_idx],
                [
                    dataset.object_offset,
                    dataset.cls,
                    dataset.box,
                    dataset.polygon_offset,
                    dataset.polygon,
                    dataset.keypoints,
                ],
            ),
        )

    @classmethod
    def from_dict(cls, values: Any) -> SplitVersion:
        """Reads what `asdict` made.

        Raises:
            ValueError: it is something else.
        """
        fits = {
            "path": _is_text,
            "version": _is_short,
            "labels": _is_short,
            "images": _is_number,
            "objects": _is_number,
            "codec": lambda value: value in CODECS,
            "imgsz": lambda value: is_count(value, 1, MAX_IMGSZ),
            "pixels": _is_long,
            "annotations": _is_long,
        }
        if not isinstance(values, dict) or set(values) != set(fits):
            raise ValueError(f"a split must have {', '.join(fits)}")
        wrong = [name for name, right in fits.items() if not right(values[name])]
        if wrong:
            raise ValueError(f"a split's {wrong[0]} is not valid")
        return cls(**values)


@dataclass(frozen=True)
class DatasetVersion:
    """The splits that a run reads.

    Attributes:
        data: what the user called the dataset.
        splits: by name: "train", "val", "test".
    """

    data: str
    splits: Mapping[str, SplitVersion]

    @classmethod
    def of(cls, data: str, datasets: Mapping[str, ShardDataset]) -> DatasetVersion:
        """Reads the labels of some splits, train first."""
        return cls(data, {s: SplitVersion.of(datasets[s]) for s in SPLITS if s in datasets})

    @property
    def version(self) -> str:
        """One version of all splits, 16 hexadecimal digits: XXH3-64 of theirs, with their names."""
        return version_of({name: split.version for name, split in self.splits.items()})

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        return {
            "version": self.version,
            "data": self.data,
            "splits": {name: asdict(split) for name, split in self.splits.items()},
        }

    @classmethod
    def from_dict(cls, values: Any) -> DatasetVersion:
        """Reads what `to_dict` made.

        Raises:
            ValueError: it is something else, or its version is not that of its splits.
        """
        if not isinstance(values, dict) or set(values) != {"version", "data", "splits"}:
            raise ValueError("a dataset must have version, data, splits")
        splits = values["splits"]
        if not isinstance(splits, dict) or not splits or not set(splits) <= set(SPLITS):
            raise ValueError(f"the splits of a dataset are {', '.join(SPLITS)}")
        if not _is_text(values["data"]):
            raise ValueError("the data of a dataset is a text")
        found = {name: SplitVersion.from_dict(splits[name]) for name in SPLITS if name in splits}
        made = cls(values["data"], found)
        if values["version"] != made.version:
            raise ValueError("the version of a dataset is not that of its splits")
        return made


def version_of(splits: Mapping[str, str]) -> str:
    """Returns one version of several splits' versions."""
    return content_checksum(dict(splits))


def differences(before: DatasetVersion, now: DatasetVersion) -> list[str]:
    """Says in what two versions of a dataset differ for a training, a sentence each.

    None where images and labels are the same, wherever and whenever they were packed.
    """
    found = []
    for name in SPLITS:
        old, new = before.splits.get(name), now.splits.get(name)
        if (old is None) != (new is None):
            found.append(f"{name}: {'is new' if old is None else 'is gone'}")
        elif old is not None and new is not None:
            found += [f"{name}: {what}" for what in _of_split(old, new)]
    return found


def _of_split(old: SplitVersion, new: SplitVersion) -> list[str]:
    found = []
    packed = [
        f"{what} from {was} to {now}"
        for what, was, now in (("codec", old.codec, new.codec), ("imgsz", old.imgsz, new.imgsz))
        if was != now
    ]
    if packed:
        found.append(f"packed otherwise ({', '.join(packed)})")
    if old.images != new.images:
        found.append(f"{new.images:,} images, were {old.images:,}")
    elif old.pixels != new.pixels and not packed:
        found.append(f"other images, or in another order ({new.images:,} as before)")
    if old.annotations != new.annotations and old.labels == new.labels:
        found.append("other classes, kpt_shape or flip_idx; the same labels")
    elif old.annotations != new.annotations:
        counts = f"{new.objects:,} objects"
        found.append(
            f"other labels ({counts} as before)"
            if old.objects == new.objects
            else f"other labels ({counts}, were {old.objects:,})"
        )
    return found


def _hashed(facts: list[Any], columns: list[Any]) -> str:
    digest = xxhash.xxh3_128(content_checksum({"facts": facts}).encode())
    for column in columns:
        if column is None:
            continue
        digest.update(f"{column.dtype.str}{column.shape}".encode())
        for begin in range(0, len(column), _BLOCK):
            digest.update(np.ascontiguousarray(column[begin : begin + _BLOCK]).data)
    return digest.hexdigest()


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return is_count(value, 0, 1 << 48)


def _is_short(value: Any) -> bool:
    return isinstance(value, str) and CHECKSUM.fullmatch(value) is not None


def _is_long(value: Any) -> bool:
    return isinstance(value, str) and _LONG.fullmatch(value) is not None
