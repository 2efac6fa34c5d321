"""What a source gives and what packing makes of it: plain data, shared by all of ingest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from yolodata.shards.notes import Notes

Float32 = NDArray[np.float32]

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What folders and lists of a split are called: word -> split."""

QUALITY = 90
"""Of JPEG files that are encoded anew, where a user names none."""

TASKS = ("detect", "segment", "obb", "pose")


class Refused(Exception):
    """One image, with its labels, is left out; the only argument is the reason, in words."""


@dataclass(frozen=True)
class LabelRules:
    """The settings that Ultralytics' label check depends on.

    Attributes:
        classes: number of classes; a class index must be smaller.
        keypoints: first number of the dataset's `kpt_shape`, 0 without one.
        dims: second number of it.
        pose: decide as the pose task does (keypoint columns are required and checked) instead of
            as detect, segment and OBB do (they are cut off).
        single_cls: class indices are not compared with `classes`, as with Ultralytics'
            `single_cls=True`.
    """

    classes: int
    keypoints: int = 0
    dims: int = 0
    pose: bool = False
    single_cls: bool = False


class RawLabels(NamedTuple):
    """Labels of one image before any decision.

    Attributes:
        text: rows in YOLO's text format (UTF-8), or None where the image has no label file.
        keypoints: float32 (rows, K, 3), normalised x, y and visibility, of a source whose text
            rows cannot carry them beside a polygon (COCO). Row k belongs to line k of `text`.
        notes: what the source itself dropped on the way to `text`.
        sizes: (height, width) in pixels of the image, where the source states it; several if it
            contradicts itself.
    """

    text: bytes | None
    keypoints: Float32 | None = None
    notes: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()

    def size_notes(self, height: int, width: int) -> tuple[str, ...]:
        """Says where the image file has another size than the source states.

        The labels are kept, as upstream keeps them: they are fractions, and the image may have been
        scaled since. Or it is another image.
        """
        notes = []
        for h, w in self.sizes:
            if (h, w) != (height, width):
                scaled = abs(w * height - h * width) <= max(w, h, width, height)  # but for rounding
                why = "scaled since?" if scaled else "turned since, or another image?"
                notes.append(
                    f"labelled as {w} x {h} pixels, but the image has {width} x {height}: {why}"
                )
        return tuple(notes)


class Labels(NamedTuple):
    """Labels of one image as Ultralytics' own check would give them, n objects.

    Attributes:
        cls: float32 (n,).
        box: float32 (n, 4), x-centre, y-centre, width, height as fractions of the image.
        polygons: one float32 (k, 2) array of fractional x, y an object, or None without polygons.
        keypoints: float32 (n, K, 3), fractional x, y and visibility, or None without `kpt_shape`.
        state: "found", "empty" (a file without rows) or "missing" (no file). The last two mean
            background.
        notes: what was changed on the way, in words.
    """

    cls: Float32
    box: Float32
    polygons: list[Float32] | None = None
    keypoints: Float32 | None = None
    state: str = "found"
    notes: tuple[str, ...] = ()


class Split(ABC):
    """One split of a source: image paths in Ultralytics' order and where their labels come from.

    Attributes:
        paths: of the images.
        unlisted: images that were named somewhere and never became candidates: name -> reason.
    """

    paths: list[str]
    unlisted: dict[str, str]

    @abstractmethod
    def raw_labels(self, index: int) -> RawLabels:
        """Reads the labels of image `index`.

        Raises:
            OSError: a file cannot be read.
            Refused: its content cannot be used.
        """

    @abstractmethod
    def label_files(self) -> Sequence[str]:
        """Gives the files that labels come from, for the fingerprint; they need not exist."""


@dataclass(frozen=True)
class Source:
    """A dataset that was found and understood, before any image is opened.

    Attributes:
        origin: what the user gave, for messages and for dataset.json.
        kind: "yolo", "coco" or "voc".
        names: class index to name, 0 … n-1.
        splits: split name to its images.
        kpt_shape: as in the YAML, None without keypoints.
        flip_idx: as in the YAML, None without keypoints.
        folders: the folders that are searched for images; output may not lie in them.
        left_out: files of the dataset that belong to none of `splits`, though no option left them
            out: path -> reason. Images in no list, annotations without an image, and the like.
            What a split names and cannot give is in its `unlisted`.
        notes: what else a user has to know about the whole of it, a sentence each.
    """

    origin: str
    kind: str
    names: dict[int, str]
    splits: Mapping[str, Split]
    kpt_shape: tuple[int, int] | None = None
    flip_idx: tuple[int, ...] | None = None
    folders: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def rules(self, task: str, single_cls: bool) -> LabelRules:
        """Gives the label rules of this source for one task."""
        keypoints, dims = self.kpt_shape or (0, 0)
        return LabelRules(len(self.names), keypoints, dims, task == "pose", single_cls)


@dataclass
class SplitReport:
    """What packing one split did.

    Attributes:
        split: its name.
        images: stored ones.
        objects: stored ones.
        backgrounds: stored images without objects.
        left_out: (path, reason) of every refused image, in the source's order.
        noted: what was changed or dropped, or is odd, about images that are stored.
        nbytes: size of all its files, in bytes.
        seconds: wall time.
        resumed: images that an earlier, interrupted run had done.
        reused: an equal, finished dataset was there and nothing was done.
    """

    split: str
    images: int = 0
    objects: int = 0
    backgrounds: int = 0
    left_out: list[tuple[str, str]] = field(default_factory=list)
    noted: Notes = field(default_factory=Notes)
    nbytes: int = 0
    seconds: float = 0.0
    resumed: int = 0
    reused: bool = False

    @property
    def notes(self) -> list[tuple[str, str]]:
        """(path, note) of all that is noted."""
        return list(self.noted)
