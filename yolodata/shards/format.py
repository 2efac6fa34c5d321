"""The names of a shard dataset's files, and its dataset.json.

docs/shard-format.md is the specification; this file and layout.py are its only implementation.
Nothing in them opens a file: they turn facts into bytes, and bytes into facts that were checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import xxhash

from yolodata.errors import ShardError
from yolodata.files import CHECKSUM
from yolodata.shards.json_text import MAX_BYTES, parse_json, quoted

FORMAT_VERSION = 1
PAGE = 4096  # samples begin at multiples of it: they are written and mapped in whole pages
SHARD_HEADER = PAGE  # bytes of a shard before its tensor
CODECS = ("raw", "jpeg")
DATASET_FILE = "dataset.json"
LABELS_FILE = "labels.safetensors"
WORK_FOLDER = ".packing"  # temporary files of a writer; no part of a dataset
SPLITS = ("train", "val", "test")
OF_LABELS = re.compile(r"labels(-[0-9a-f]{16})?\.safetensors")
"""Names that the file of labels may have."""

_SHARD_NAME = "shard-{:05d}.safetensors"
MAX_SIDE = 1 << 20  # pixels of an image
MAX_IMGSZ = 1 << 14  # pixels of a stored picture's side
MAX_SAMPLE = 1 << 30  # bytes of a sample
MAX_NAME = 1 << 12  # bytes of a path


def aligned(nbytes: int) -> int:
    """Rounds up to whole pages."""
    return -(-nbytes // PAGE) * PAGE


def shard_name(index: int) -> str:
    """File name of shard `index`."""
    return _SHARD_NAME.format(index)


@dataclass(frozen=True)
class LabelsEntry:
    """The labels file: its name, its size, and xxh3_64 of all its bytes, in hexadecimal.

    It holds the checksum of every sample. So each byte of a dataset is vouched for once, down from
    dataset.json.
    """

    file: str
    nbytes: int
    checksum: str

    def to_dict(self) -> dict[str, Any]:
        """As it stands in dataset.json."""
        return {"file": self.file, "nbytes": self.nbytes, "checksum": self.checksum}


@dataclass(frozen=True)
class ShardEntry:
    """A shard file: its name and its size."""

    file: str
    nbytes: int

    def to_dict(self) -> dict[str, Any]:
        """As it stands in dataset.json."""
        return {"file": self.file, "nbytes": self.nbytes}


@dataclass(frozen=True)
class DatasetMeta:
    """What dataset.json says.

    A writer is given codec, imgsz, names, split and, where they apply, kpt_shape, flip_idx and
    source; it fills in the rest.

    Attributes:
        codec: "raw" (uint8 H*W*3 RGB) or "jpeg" (an encoded picture file, of any format).
        imgsz: longer side, in pixels, of the pictures that height and width describe.
        names: class names of classes 0, 1, ….
        split: "train", "val" or "test".
        kpt_shape: (K, 2 or 3) of the source, or None. Stored keypoints always have 3 values.
        flip_idx: for each keypoint the one it becomes in a mirror, or None.
        source: kind and fingerprint of what was packed; any JSON object without times of packing.
        left_out: (name, reason) of every image of the source that is not in the dataset.
    """

    codec: str
    imgsz: int
    names: dict[int, str]
    split: str = "train"
    kpt_shape: tuple[int, int] | None = None
    flip_idx: tuple[int, ...] | None = None
    source: dict[str, Any] = field(default_factory=dict)
    images: int = 0
    objects: int = 0
    shards: tuple[ShardEntry, ...] = ()
    labels: LabelsEntry = LabelsEntry(LABELS_FILE, 0, "0" * 16)
    left_out: tuple[tuple[str, str], ...] = ()
    format_version: int = FORMAT_VERSION

    @property
    def keypoints(self) -> int | None:
        """Number of keypoints of an object, or None."""
        return None if self.kpt_shape is None else self.kpt_shape[0]

    @property
    def checksum(self) -> str:
        """The checksum that dataset.json states: the version of the dataset."""
        return content_checksum(self.to_dict())

    @property
    def summary(self) -> dict[str, Any]:
        """Counts: images, objects, left_out by reason, bytes of pixels and of labels."""
        reasons: dict[str, int] = {}
        for _, reason in self.left_out:
            reasons[reason] = reasons.get(reason, 0) + 1
        return {
            "images": self.images,
            "objects": self.objects,
            "left_out": dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
            "shards": len(self.shards),
            "shard_bytes": sum(s.nbytes for s in self.shards),
            "labels_bytes": self.labels.nbytes,
        }

    def to_dict(self) -> dict[str, Any]:
        """Gives the content of dataset.json, without its checksum."""
        return {
            "format_version": self.format_version,
            "codec": self.codec,
            "imgsz": self.imgsz,
            "names": [self.names[i] for i in range(len(self.names))],
            "split": self.split,
            "kpt_shape": None if self.kpt_shape is None else list(self.kpt_shape),
            "flip_idx": None if self.flip_idx is None else list(self.flip_idx),
            "source": self.source,
            "images": self.images,
            "objects": self.objects,
            "shards": [s.to_dict() for s in self.shards],
            "labels": self.labels.to_dict(),
            "left_out": [list(entry) for entry in self.left_out],
        }

    def to_json(self) -> bytes:
        """Gives the bytes of dataset.json: the same for the same facts, on every machine.

        Raises:
            ShardError: no reader would take so many.
        """
        content = self.to_dict()
        content["checksum"] = content_checksum(content)
        text = (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
        if len(text) > MAX_BYTES:
            raise ShardError(
                f"dataset.json would have {len(text)} bytes, at most {MAX_BYTES} are allowed: "
                f"{len(self.names)} class names, {len(self.left_out)} images left out; mend the "
                "source, or pack it in parts"
            )
        return text

    @staticmethod
    def from_json(text: bytes, where: str) -> DatasetMeta:
        """Reads and checks the bytes of dataset.json.

        Raises:
            ShardError: `where` and what is wrong with it.
        """
        content = parse_json(text, where)
        if not isinstance(content, dict):
            raise ShardError(f"{where}: must hold a JSON object, holds {type(content).__name__}")
        version = content.get("format_version")
        if version != FORMAT_VERSION or isinstance(version, bool):
            raise ShardError(
                f"{where}: format_version must be {FORMAT_VERSION}, got {quoted(version)}; pack "
                "again, or use the yolodata that wrote it"
            )
        stated = content.pop("checksum", None)
        try:
            actual = content_checksum(content)
        except ValueError as error:
            raise ShardError(f"{where}: not valid JSON: {error}; pack again") from None
        if stated != actual:
            raise ShardError(
                f"{where}: its content has checksum {actual}, but it states {quoted(stated)}: the "
                "file was edited or damaged; pack again (to change labels, use `yolodata labels`)"
            )
        return _checked_meta(content, where)

    def with_results(self, **changes: Any) -> DatasetMeta:
        """A copy with some fields replaced."""
        return replace(self, **changes)

    def check(self) -> DatasetMeta:
        """Checks what a writer was given; returns it in the form that a reader will see.

        Raises:
            ShardError: which field is wrong.
        """
        if sorted(self.names) != list(range(len(self.names))):
            raise ShardError(
                f"names: classes must be numbered 0 to {len(self.names) - 1} without a gap, got "
                f"{sorted(self.names)}"
            )
        try:
            content = json.loads(json.dumps(self.to_dict(), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ShardError(
                f"dataset metadata must be plain JSON values, got others: {error}"
            ) from None
        return _checked_meta(content, "dataset metadata")


def content_checksum(content: Mapping[str, Any]) -> str:
    """Gives xxh3_64, as 16 hexadecimal digits, of JSON with sorted keys and no spaces."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return xxhash.xxh3_64_hexdigest(text.encode())


def _checked_meta(content: dict[str, Any], where: str) -> DatasetMeta:
    def wrong(key: str, allowed: str) -> ShardError:
        got = quoted(content.get(key))
        return ShardError(f"{where}: {key} must be {allowed}, got {got}; pack again")

    expected = set(DatasetMeta("raw", 1, {}).to_dict())
    if set(content) != expected:
        missing, unknown = expected - set(content), set(content) - expected
        raise ShardError(
            f"{where}: missing keys {sorted(missing)}, unknown keys {quoted(sorted(unknown))}; "
            "pack again"
        )
    if content["codec"] not in CODECS:
        raise wrong("codec", f"one of {CODECS}")
    if not is_count(content["imgsz"], 1, MAX_IMGSZ):
        raise wrong("imgsz", f"an integer from 1 to {MAX_IMGSZ}")
    names = content["names"]
    if not (isinstance(names, list) and names and all(isinstance(n, str) for n in names)):
        raise wrong("names", "a list of at least one class name")
    if content["split"] not in SPLITS:
        raise wrong("split", f"one of {SPLITS}")
    shape, flip = content["kpt_shape"], content["flip_idx"]
    if shape is not None and not (
        isinstance(shape, list)
        and len(shape) == 2
        and is_count(shape[0], 1, 1 << 16)
        and is_count(shape[1], 2, 3)
    ):
        raise wrong("kpt_shape", "null or [number of keypoints, 2 or 3]")
    if flip is not None and not (
        shape is not None
        and isinstance(flip, list)
        and all(is_count(i, 0, shape[0] - 1) for i in flip)
        and len(flip) == shape[0]
    ):
        raise wrong("flip_idx", "null or one keypoint number for each keypoint of kpt_shape")
    if not isinstance(content["source"], dict):
        raise wrong("source", "a JSON object")
    for key in ("images", "objects"):
        if not is_count(content[key], 0, 1 << 48):
            raise wrong(key, "a count")
    shards = content["shards"]
    if not (isinstance(shards, list) and all(_is_entry(s, SHARD_HEADER) for s in shards)):
        raise wrong("shards", "a list of {file, nbytes}")
    for i, shard in enumerate(shards):
        if shard["file"] != shard_name(i):
            raise wrong("shards", f"{shard_name(i)} at place {i} (is {quoted(shard['file'])})")
        if shard["nbytes"] % PAGE:
            raise wrong("shards", f"files of whole {PAGE}-byte pages ({shard['file']} is not)")
    pages = sum(shard["nbytes"] // PAGE - SHARD_HEADER // PAGE for shard in shards)
    if content["images"] > pages:
        raise wrong("images", f"at most {pages}: its shards have so many pages for pictures")
    labels = content["labels"]
    if not (
        _is_entry(labels, 0, "checksum")
        and isinstance(labels["checksum"], str)
        and CHECKSUM.fullmatch(labels["checksum"])
        and OF_LABELS.fullmatch(labels["file"])
    ):
        raise wrong("labels", f"{{file, nbytes, checksum}} with file {OF_LABELS.pattern}")
    left_out = content["left_out"]
    if not (
        isinstance(left_out, list)
        and all(isinstance(e, list) and len(e) == 2 for e in left_out)
        and all(isinstance(text, str) for e in left_out for text in e)
    ):
        raise wrong("left_out", "a list of [name, reason]")
    return DatasetMeta(
        codec=content["codec"],
        imgsz=content["imgsz"],
        names=dict(enumerate(names)),
        split=content["split"],
        kpt_shape=None if shape is None else (shape[0], shape[1]),
        flip_idx=None if flip is None else tuple(flip),
        source=content["source"],
        images=content["images"],
        objects=content["objects"],
        shards=tuple(ShardEntry(s["file"], s["nbytes"]) for s in shards),
        labels=LabelsEntry(labels["file"], labels["nbytes"], labels["checksum"]),
        left_out=tuple((e[0], e[1]) for e in left_out),
    )


def is_count(value: object, low: int, high: int) -> bool:
    """Whether a JSON value is an integer from low to high."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_entry(value: object, smallest: int, *more: str) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"file", "nbytes", *more}
        and isinstance(value["file"], str)
        and is_count(value["nbytes"], smallest, 1 << 62)
    )
