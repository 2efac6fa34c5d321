"""Opening and reading a shard dataset."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from yolodata.errors import ConfigError, DatasetError, ShardError
from yolodata.files import read_regular
from yolodata.images.decode import decode_image, decode_jpeg
from yolodata.images.resize import resize, resized_shape
from yolodata.shards.check import Checker
from yolodata.shards.format import (
    DATASET_FILE,
    SHARD_HEADER,
    SPLITS,
    WORK_FOLDER,
    DatasetMeta,
    aligned,
)
from yolodata.shards.json_text import MAX_BYTES
from yolodata.shards.layout import LabelsLayout, parse_labels_header, shard_header
from yolodata.shards.mapping import (
    Bytes,
    PreadFiles,
    is_hollow,
    is_of_others,
    map_file,
    on_network,
    opened,
    read_at,
    read_file,
    size_error,
    will_need,
)

_HEADER_READ = 1 << 16  # more than any labels header


class ShardDataset:
    """One dataset directory, opened for reading.

    Opening checks every size, offset and bound. Columns are read-only views of the labels file. It
    is mapped, so that they cost page cache and are shared between processes; where `io` is "pread"
    or chosen to be it for the file system, it is read into memory. Shards are opened when they are
    first used. Safe to use from several threads and after a fork; a pickled dataset opens itself
    again where it is unpickled.

    With N images, M objects, P polygon points and K keypoints:

    Attributes:
        path: the directory.
        meta: what dataset.json says.
        mapped: whether shards are mapped (`io="mmap"`) or read (`io="pread"`).
        shard, offset, nbytes: uint32 (N,), uint64 (N,), uint64 (N,): shard number, first byte in
            that shard's tensor (a multiple of 4096) and size of each sample.
        height, width: uint32 (N,), pixels, after resizing the longer side to `meta.imgsz`.
        orig_height, orig_width: uint32 (N,), pixels, of the decoded original.
        label_height, label_width: uint32 (N,), pixels, as upstream's label check reports them.
        checksum: uint64 (N,), xxh3_64 of each sample's bytes.
        object_offset: uint64 (N+1,): image i has objects object_offset[i] to object_offset[i+1].
        cls: float32 (M,), class number.
        box: float32 (M, 4), centre x, centre y, width, height, as fractions of the picture.
        polygon_offset: uint64 (M+1,): ranges of points; an object without polygon has none.
        polygon: float32 (P, 2), x, y as fractions of the picture.
        keypoints: float32 (M, K, 3), x, y as fractions, visibility; None without kpt_shape.

    Args:
        path: a directory with a dataset.json.
        io: "mmap", "pread", or "auto": pread on network and user-space file systems, and for
            picture files in shards that another user could cut off; mmap elsewhere.

    Raises:
        ConfigError: `io` is none of these.
        ShardError: something is missing or damaged; names the file and the byte or column.
    """

    def __init__(self, path: str | os.PathLike[str], *, io: str = "auto") -> None:
        if io not in ("auto", "mmap", "pread"):
            raise ConfigError(f"io must be 'auto', 'mmap' or 'pread', got {io!r}")
        self.path = _directory(path)
        self._io = io
        self._open(None)

    def _open(self, checked: _Identity | None) -> None:
        self._maps: dict[int, Bytes] = {}
        self._files = PreadFiles(check_shard_header)
        for _ in range(100):
            self.meta = read_meta(self.path)
            labels = self.path / self.meta.labels.file
            # New labels have a new name: who has read the old dataset.json looks again.
            if os.path.exists(labels) or read_meta(self.path) == self.meta:
                break
        nbytes, where = self.meta.labels.nbytes, str(labels)
        of_others = self._check_shard_files()
        local = self._io == "mmap" or (self._io == "auto" and not on_network(self.path))
        # Note [maps that others can cut off] in mapping.py
        self.mapped = local and (self._io == "mmap" or self.meta.codec == "raw" or not of_others)
        with opened(labels, nbytes) as fd:
            # Counts are compared with the file's size before memory or time is spent on them.
            head = read_at(fd, labels, 0, min(nbytes, _HEADER_READ)).tobytes()
            layout = parse_labels_header(head, nbytes, self.meta, where)
            if is_hollow(fd):
                raise ShardError(
                    f"{where}: has {nbytes} bytes, nearly all of them holes; restore the file or "
                    "pack again"
                )
            data = (map_file if local else read_file)(fd, labels, nbytes)
            status = os.fstat(fd)
        self._layout: LabelsLayout = layout
        arrays = {name: column.view(data) for name, column in layout.columns.items()}
        self._identity = (self.meta, status.st_ino, status.st_size, status.st_mtime_ns)
        if checked != self._identity:
            Checker(where, self.meta, layout.columns, arrays).structure()
        self._arrays = arrays
        self.shard: npt.NDArray[np.uint32] = arrays["shard"]
        self.offset: npt.NDArray[np.uint64] = arrays["offset"]
        self.nbytes: npt.NDArray[np.uint64] = arrays["nbytes"]
        self.height: npt.NDArray[np.uint32] = arrays["height"]
        self.width: npt.NDArray[np.uint32] = arrays["width"]
        self.orig_height: npt.NDArray[np.uint32] = arrays["orig_height"]
        self.orig_width: npt.NDArray[np.uint32] = arrays["orig_width"]
        self.label_height: npt.NDArray[np.uint32] = arrays["label_height"]
        self.label_width: npt.NDArray[np.uint32] = arrays["label_width"]
        self.checksum: npt.NDArray[np.uint64] = arrays["checksum"]
        self.object_offset: npt.NDArray[np.uint64] = arrays["object_offset"]
        self.cls: npt.NDArray[np.float32] = arrays["cls"]
        self.box: npt.NDArray[np.float32] = arrays["box"]
        self.polygon_offset: npt.NDArray[np.uint64] = arrays["polygon_offset"]
        self.polygon: npt.NDArray[np.float32] = arrays["polygon"]
        self.keypoints: npt.NDArray[np.float32] | None = arrays.get("keypoints")

    def _check_shard_files(self) -> bool:
        """Checks their sizes; says whether another user could cut one of them off."""
        of_others = False
        for entry in self.meta.shards:
            file = self.path / entry.file
            try:
                found = os.stat(file)
            except OSError as error:
                raise ShardError(
                    f"{file}: {error.strerror}; restore the file or pack again"
                ) from None
            if not stat.S_ISREG(found.st_mode):
                raise ShardError(f"{file}: is no file; restore the file or pack again")
            if found.st_size != entry.nbytes:
                raise size_error(file, found.st_size, entry.nbytes)
            of_others = of_others or is_of_others(found)
        return of_others

    def __len__(self) -> int:
        return self.meta.images

    def __repr__(self) -> str:
        meta = self.meta
        return (
            f"ShardDataset({str(self.path)!r}, {meta.codec}, imgsz={meta.imgsz}, "
            f"{meta.images} images, {meta.objects} objects)"
        )

    def name(self, i: int) -> str:
        """Returns the path of the source picture of an image.

        Args:
            i: the image, from 0.

        Raises:
            IndexError: there is no such image.
        """
        self._in_range(i)
        names, offsets = self._arrays["name"], self._arrays["name_offset"]
        text = names[int(offsets[i]) : int(offsets[i + 1])].tobytes()
        return text.decode("utf-8", "surrogateescape")

    def names(self, images: npt.NDArray[np.int64]) -> tuple[str, ...]:
        """Returns `name` of some images, for less than as many calls of it cost.

        Args:
            images: int64 (B,), from 0.

        Returns:
            the B paths, in this order.

        Raises:
            IndexError: one of the images is not there.
        """
        if len(images):
            self._in_range(int(images.min()))
            self._in_range(int(images.max()))
        text, offsets = self._arrays["name"].data, self._arrays["name_offset"]
        ends = zip(offsets[images].tolist(), offsets[images + 1].tolist(), strict=True)
        return tuple(str(text[a:b], "utf-8", "surrogateescape") for a, b in ends)

    def stored_names(self, begin: int, end: int) -> Iterator[bytes]:
        """Yields the names of images as they are stored, for the least cost.

        Args:
            begin: the first image, from 0.
            end: the one behind the last.

        Yields:
            the bytes of a path, in the encoding of the file system.

        Raises:
            IndexError: not all of the images are there.
        """
        if not 0 <= begin <= end <= self.meta.images:
            raise IndexError(f"images must be within 0 to {self.meta.images}, got {begin} to {end}")
        offsets = self._arrays["name_offset"][begin : end + 1].tolist()
        text = self._arrays["name"][offsets[0] : offsets[-1]].tobytes()
        first = offsets[0]
        for a, b in pairwise(offsets):
            yield text[a - first : b - first]

    def sample(self, i: int) -> Bytes:
        """Returns the stored bytes of an image.

        Args:
            i: the image, from 0.

        Returns:
            uint8 (nbytes[i],), read-only where they are mapped.

        Raises:
            IndexError: there is no such image.
            ShardError: the shard is missing or damaged.
        """
        self._in_range(i)
        return self._bytes(i, 0, int(self.nbytes[i]))

    def padding(self, i: int) -> Bytes:
        """Returns the bytes behind an image up to the end of its last page, which must be zero.

        Args:
            i: the image, from 0.

        Returns:
            uint8, fewer than a page, read-only where they are mapped.

        Raises:
            IndexError: there is no such image.
            ShardError: the shard is missing or damaged.
        """
        self._in_range(i)
        nbytes = int(self.nbytes[i])
        return self._bytes(i, nbytes, aligned(nbytes))

    def _bytes(self, i: int, begin: int, end: int) -> Bytes:
        s, at = int(self.shard[i]), int(self.offset[i])
        if self.mapped:
            return self.shard_data(s)[at + begin : at + end]
        entry = self.meta.shards[s]
        file = self.path / entry.file
        return self._files.read(file, entry.nbytes, SHARD_HEADER + at + begin, end - begin)

    def _in_range(self, i: int) -> None:
        if not 0 <= i < self.meta.images:
            raise IndexError(f"image must be 0 to {self.meta.images - 1}, got {i}")

    def most_pixels(self, i: int) -> int:
        """Returns how many pixels the file of an image may state: those of the original.

        A file that was made smaller when packing has fewer.

        Args:
            i: the image, from 0.

        Raises:
            IndexError: there is no such image.
        """
        self._in_range(i)
        return int(self.orig_height[i]) * int(self.orig_width[i])

    def image(self, i: int) -> Bytes:
        """Returns the picture of an image.

        Args:
            i: the image, from 0.

        Returns:
            uint8 (height[i], width[i], 3), RGB; of raw pictures that are mapped, a read-only view
            of the map.

        Raises:
            IndexError: there is no such image.
            ShardError: the shard is missing or damaged, or the picture cannot be decoded.
        """
        data = self.sample(i)
        shape = (int(self.height[i]), int(self.width[i]), 3)
        if self.meta.codec == "raw":
            return data.reshape(shape)
        most, imgsz = self.most_pixels(i), self.meta.imgsz
        image = decode_jpeg(data, most=most)
        if image is None:
            try:
                image = decode_image(data, imgsz, self.name(i), most)[..., ::-1]
            except DatasetError as error:
                raise ShardError(
                    f"{self.locate(i)}: {error}; run `yolodata verify --full`"
                ) from None
        image = resize(image, resized_shape(image.shape[0], image.shape[1], imgsz))
        if image.shape != shape:
            raise ShardError(
                f"{self.locate(i)}: {self.name(i)} decodes to {image.shape}, expected {shape}; "
                "pack again"
            )
        return np.ascontiguousarray(image)

    def shard_data(self, s: int) -> Bytes:
        """Returns the tensor of a shard, whose map lives as long as this dataset or any view of it.

        Args:
            s: the shard, from 0.

        Returns:
            uint8 (n,), read-only, its first byte at the beginning of a page.

        Raises:
            IndexError: there is no such shard.
            ShardError: the shard is missing or damaged, or this dataset is not `mapped`.
        """
        data = self._maps.get(s)
        if data is not None:
            return data
        if not 0 <= s < len(self.meta.shards):
            raise IndexError(f"shard must be 0 to {len(self.meta.shards) - 1}, got {s}")
        entry = self.meta.shards[s]
        file = self.path / entry.file
        if not self.mapped:
            raise ShardError(
                f"{file}: is read with pread, not mapped, so it has no address; use sample(), or "
                "open the dataset with io='mmap'"
            )
        with opened(file, entry.nbytes) as fd:
            whole = map_file(fd, file, entry.nbytes)
        check_shard_header(file, whole[:SHARD_HEADER], entry.nbytes)
        return self._maps.setdefault(s, whole[SHARD_HEADER:])  # the first thread's map stays

    def will_need(self, images: Iterable[int]) -> None:
        """Starts reading samples that will be used soon; does not wait, does nothing for pread.

        Note [cold pictures]. Page faults read ahead by a fixed amount and wait for it. Samples of
        0.9 MB that were not in the page cache took 7 ms each that way on one machine. They took
        1.9 ms if asked for 16 samples early. Asking for one that is there already costs 20 µs.

        Args:
            images: from 0, in the order of their use.

        Raises:
            IndexError: one of the images is not there; not raised for pread.
            ShardError: a shard is missing or damaged; not raised for pread.
        """
        if self.mapped:
            for i in images:
                will_need(self.sample(i))

    def locate(self, i: int) -> str:
        """Returns the file and the byte of an image, for messages.

        Args:
            i: the image, from 0.

        Raises:
            IndexError: there is no such image.
        """
        self._in_range(i)
        file = self.path / self.meta.shards[int(self.shard[i])].file
        return f"{file}: byte {SHARD_HEADER + int(self.offset[i])}"

    def check_values(self) -> None:
        """Checks what opening leaves unread: the points of polygons and keypoints.

        Raises:
            ShardError: names the file, the column, the row and its byte.
        """
        where = str(self.path / self.meta.labels.file)
        Checker(where, self.meta, self._layout.columns, self._arrays).values()

    def check_finite(self, values: npt.NDArray[np.float32]) -> None:
        """Checks points of polygons or keypoints that were taken from here.

        Args:
            values: float32, of any shape.

        Raises:
            ShardError: one is infinite or no number; names its column, row and byte.
        """
        if not np.isfinite(values).all():
            self.check_values()

    def close(self) -> None:
        """Lets go of shards; their memory is unmapped when the last view of it is gone."""
        self._maps.clear()
        self._files.close()

    def __enter__(self) -> ShardDataset:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "io": self._io, "checked": self._identity}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path, self._io = state["path"], state["io"]
        self._open(state["checked"])  # the very same files are not checked a second time


_Identity = tuple[DatasetMeta, int, int, int]


def open(
    path: str | os.PathLike[str], split: str | None = None, *, io: str = "auto"
) -> ShardDataset:
    """Opens a dataset directory, or one split of a folder of them.

    Args:
        path: a directory with a dataset.json, or a folder that holds train/, val/, test/.
        split: which of them; may be omitted if there is only one.
        io: see `ShardDataset`.

    Raises:
        ConfigError: `io` is unknown.
        ShardError: there is no such dataset, or it is damaged.
    """
    root = Path(path)
    if _is_dataset(root):
        dataset = ShardDataset(root, io=io)
        if split is not None and dataset.meta.split != split:
            raise ShardError(
                f"{root}: holds split {dataset.meta.split!r}, split {split!r} was asked for; give "
                "the folder above it"
            )
        return dataset
    found = splits(root)
    if split is None and len(found) == 1:
        split = next(iter(found))
    if split is not None and (split in found or unfinished(root / split)):
        return ShardDataset(root / split, io=io)
    if found:
        raise ShardError(
            f"{root}: holds the splits {', '.join(found)}; split must be one of them, got {split!r}"
        )
    return ShardDataset(root, io=io)  # says what is missing


def splits(root: str | os.PathLike[str]) -> dict[str, Path]:
    """Finds the finished datasets below a folder: split name to directory, train first."""
    folders = {split: Path(root) / split for split in SPLITS}
    return {split: path for split, path in folders.items() if _is_dataset(path)}


def unfinished(path: Path) -> bool:
    """Whether a directory holds a pack that was begun and not finished."""
    return not _is_dataset(path) and os.path.exists(path / WORK_FOLDER)


def _directory(path: str | os.PathLike[str]) -> Path:
    found = Path(os.path.abspath(path))
    if "\0" in str(found):
        raise ShardError(f"{str(found)!r}: no path has a NUL; give a directory's")
    return found


def _is_dataset(path: Path) -> bool:
    try:
        os.lstat(path / DATASET_FILE)  # a link to nothing is a damaged one, and no unfinished pack
    except (OSError, ValueError):  # also of a path that cannot be one
        return False
    return True


def read_meta(path: str | os.PathLike[str]) -> DatasetMeta:
    """Reads and checks dataset.json alone; cheap.

    Raises:
        ShardError: missing or damaged.
    """
    folder = _directory(path)
    file = folder / DATASET_FILE
    try:
        text = read_regular(file, MAX_BYTES)
    except OSError as error:
        if unfinished(folder):
            raise ShardError(
                f"{folder}: packing was not finished; run the same `yolodata shard` command again "
                "to continue"
            ) from None
        raise ShardError(
            f"{file}: {error.strerror}; give a directory that `yolodata shard` wrote"
        ) from None
    return DatasetMeta.from_json(text, str(file))


def check_shard_header(file: Path, head: Bytes, nbytes: int) -> None:
    """Compares the first bytes of a shard of `nbytes` bytes with what the format says.

    Raises:
        ShardError: names the first wrong byte.
    """
    want = np.frombuffer(shard_header(nbytes - SHARD_HEADER), np.uint8)
    if not np.array_equal(head, want):
        at = int((head != want).argmax()) if len(head) == len(want) else len(head)
        raise ShardError(
            f"{file}: byte {at}: not the header of a shard of {nbytes} bytes; restore the file or "
            "pack again"
        )
