"""Writing a shard dataset, so that no moment of a crash leaves a half-valid one.

Order of events:

1. A lock and the settings are stored in the folder `.packing`. Older files of the directory, if
   they may be replaced, are removed, dataset.json first.
2. Samples are appended to a shard in `.packing`. When it is full, and every `RECORD_SECONDS`, it is
   synced, and a part (records.py) says what was stored since the part before. A full shard is then
   renamed into place. All this happens while more samples are stored.
3. The labels file is made from the parts, synced and renamed into place, then dataset.json.
4. `.packing` is removed.

Whoever finds parts continues after the last of them (recovery.py). What is written depends on the
samples alone, so a continued pack equals an undisturbed one byte for byte.

Note [what a kill costs]. A whole shard would be too much to lose: 512 MiB of JPEG files are
thousands of images. See docs/shard-format.md for what was measured.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import xxhash

from yolodata.checks import whole
from yolodata.errors import ShardError
from yolodata.folders import Folder
from yolodata.shards.chunks import Bytes, Chunk, PageFile, memory
from yolodata.shards.columns import Row, Totals, columns_of, labels_entry, write_labels
from yolodata.shards.format import (
    DATASET_FILE,
    LABELS_FILE,
    PAGE,
    SHARD_HEADER,
    WORK_FOLDER,
    DatasetMeta,
    ShardEntry,
    aligned,
    shard_name,
)
from yolodata.shards.lock import Lock, storage_error
from yolodata.shards.notes import Notes
from yolodata.shards.records import Part, load_parts, save_part
from yolodata.shards.recovery import begin, end_work
from yolodata.shards.sample import LeftOut, StoredSample, check_samples

DEFAULT_SHARD_SIZE = 512 << 20
_LARGEST = (1 << 63) - 1
RECORD_SECONDS = 2.0  # of packing that a kill costs at most


@dataclass(frozen=True)
class Progress:
    """What an interrupted pack had already stored."""

    samples: int
    left_out: tuple[tuple[str, str], ...]  # (name, reason), in the order they were reported
    notes: Notes = field(default_factory=Notes, compare=False)  # on those samples

    @property
    def done(self) -> int:
        """How many images of the source, in order, need not be looked at again."""
        return self.samples + len(self.left_out)


class ShardWriter:
    """Packs samples, in the order they are appended, into one dataset directory.

    A writer that finds an unfinished pack with the same metadata and shard size continues it: skip
    the first `resume().done` images of the source. Use it as a context manager; leaving the block
    without `finish` keeps what was stored, to be continued.

    Args:
        path: the directory; made if needed. Links are followed to it, never in it.
        meta: codec, imgsz, names, split, kpt_shape, flip_idx and source; the rest is filled in.
        shard_size: a shard is closed before its tensor would exceed this many bytes.
        overwrite: replace a finished dataset, or an unfinished one with other settings.

    Raises:
        ConfigError: `shard_size` is out of range.
        ShardError: the directory is in use, already holds a dataset, or cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Folder,
        meta: DatasetMeta,
        shard_size: int = DEFAULT_SHARD_SIZE,
        *,
        overwrite: bool = False,
    ) -> None:
        check_shard_size(shard_size)
        self.path = path.path if isinstance(path, Folder) else Path(os.path.abspath(path))
        self.meta = meta.check()
        self._shard_size = shard_size
        self._file: PageFile | None = None  # of the current shard
        self._closed = False
        try:
            self._folder = path if isinstance(path, Folder) else Folder.at(path, create=True)
            self._lock = Lock(self._folder)
        except OSError as error:
            raise storage_error(self.path, error) from error
        self._work = self._lock.work
        try:
            state = begin(self._lock, self.meta, shard_size, overwrite)
        except BaseException as error:
            self._lock.release()
            if isinstance(error, OSError):
                raise storage_error(self.path, error) from error
            raise
        self._resumed = Progress(state.totals.images, tuple(state.left_out), state.notes)
        self._parts, self._totals = state.parts, state.totals
        self._left_out, self._entries = state.left_out, state.closed
        self._shard, self._end = len(state.closed), state.end
        self._rows: list[Row] = []  # since the last part
        self._notes: list[tuple[str, str, str]] = []  # likewise: (kind, name, note)
        self._recorded_left_out = len(self._left_out)
        self._recorded = time.monotonic()
        self._memory = memory(PAGE)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="yolodata-shard")
        self._recording: Future[None] | None = None

    def resume(self) -> Progress:
        """Says what was stored before this writer was made."""
        return self._resumed

    def append(self, sample: StoredSample) -> None:
        """Stores the next sample; see `store`."""
        self.store([sample])

    def leave_out(self, name: str, reason: str) -> None:
        """Records that an image of the source is not stored, and why; see `store`."""
        self.store([LeftOut(name, reason)])

    def store(self, items: Sequence[StoredSample | LeftOut], chunk: Chunk | None = None) -> None:
        """Stores the next samples with one write, or records that images are left out.

        Args:
            items: in the source's order.
            chunk: memory where these samples lie already as they will in the shard.

        Raises:
            ShardError: a sample is not one that a reader would accept (nothing is stored, the
                writer goes on), or the file system refuses them (the writer is finished, the pack
                can be continued).
        """
        self._usable()
        samples = [item for item in items if isinstance(item, StoredSample)]
        views = [memoryview(sample.data).cast("B") for sample in samples]
        check_samples(samples, views, self.meta)
        content = (chunk or self._gathered(views)).content()
        assert content.nbytes == sum(aligned(data.nbytes) for data in views)
        try:
            self._store(items, [data.nbytes for data in views], content)
        except OSError as error:
            raise self._broken(error) from error

    def _gathered(self, views: Sequence[memoryview]) -> Chunk:
        need = sum(aligned(data.nbytes) for data in views)
        if need > self._memory.nbytes:
            self._memory = memory(need)
        chunk = Chunk(self._memory)
        for data in views:
            chunk.room(data.nbytes)[:] = np.frombuffer(data, np.uint8)
            chunk.take(data.nbytes)
        return chunk

    def _store(
        self, items: Sequence[StoredSample | LeftOut], sizes: list[int], content: Bytes
    ) -> None:
        rows: list[Row] = []
        size = iter(sizes)
        begin = at = 0  # bytes of `content` that go to the current shard
        for item in items:
            if isinstance(item, LeftOut):
                self._left_out.append(item)
                continue
            nbytes = next(size)
            place = self._end + at - begin
            if place and place + nbytes > self._shard_size:
                self._write(content[begin:at], rows)
                self._record(closed=True)
                rows, begin, place = [], at, 0
            row = Row(
                self._shard,
                place,
                nbytes,
                _checksum(item),
                item.height,
                item.width,
                item.orig_height,
                item.orig_width,
                item.name.encode("utf-8", "surrogateescape"),
                item.labels,
            )
            rows.append(row)
            self._notes += [(kind, item.name, note) for kind, note in item.notes]
            at += aligned(nbytes)
        self._write(content[begin:at], rows)
        if self._unrecorded and time.monotonic() - self._recorded >= RECORD_SECONDS:
            self._record(closed=False)

    def _write(self, content: Bytes, rows: list[Row]) -> None:
        """Appends samples to the current shard."""
        if content.nbytes:
            self._current().write(content, SHARD_HEADER + self._end)
            self._end += content.nbytes
        self._rows += rows

    @property
    def _unrecorded(self) -> bool:
        return bool(self._rows) or self._recorded_left_out < len(self._left_out)

    def _current(self) -> PageFile:
        if self._file is None:
            self._file = PageFile(self._work, shard_name(self._shard))
        return self._file

    def _record(self, *, closed: bool) -> None:
        """Has what was stored since the last part recorded, while more is being stored.

        Args:
            closed: the current shard is complete; the next sample begins another one.
        """
        self._wait()  # for the one before: at most two shards are open
        file = self._current() if self._end else None
        left_out = tuple(self._left_out[self._recorded_left_out :])
        self._recording = self._pool.submit(
            self._save, file, self._shard, self._end, closed, left_out, self._rows, self._notes
        )
        if closed:
            self._file = None
            self._shard += 1
            self._end = 0
        self._rows, self._notes = [], []
        self._recorded_left_out = len(self._left_out)
        self._recorded = time.monotonic()

    def _save(
        self,
        file: PageFile | None,
        shard: int,
        end: int,
        closed: bool,
        left_out: tuple[tuple[str, str], ...],
        rows: list[Row],
        notes: list[tuple[str, str, str]],
    ) -> None:
        """Syncs a shard, then says durably what is in it, then gives it its name if it is whole."""
        known = None
        try:
            if file is not None:
                if closed:
                    file.write_header(end)
                file.sync()
                if closed:
                    found = file.stat()
                    known = found.st_ino, found.st_mtime_ns
            columns = columns_of(rows, self.meta.keypoints)
            part = Part(shard, end, closed, left_out, columns, known, tuple(notes))
            save_part(self._work, self._parts, part, self.meta.keypoints)
            self._parts += 1
            self._totals += Totals.of(columns)
        finally:
            if file is not None and closed:
                file.close()
        if closed:
            name = shard_name(shard)
            self._work.rename(name, name, self._folder)
            self._entries.append(ShardEntry(name, SHARD_HEADER + end))

    def _wait(self) -> None:
        recording, self._recording = self._recording, None
        if recording is not None:
            recording.result()

    def finish(self) -> DatasetMeta:
        """Completes the dataset and closes the writer.

        Raises:
            ShardError: there are no samples, or the file system refuses the rest.
        """
        self._usable()
        try:
            if self._end or self._unrecorded:
                self._record(closed=self._end > 0)
            self._wait()
        except OSError as error:
            raise self._broken(error) from error
        if not self._totals.images:
            raise ShardError(
                f"{self.path}: there is no image to store ({len(self._left_out)} were left out); "
                "check the source"
            )
        try:
            meta = self._complete()
            self._closed = True
            end_work(self._lock)
        except OSError as error:
            raise self._broken(error) from error
        self._release()
        return meta

    def _complete(self) -> DatasetMeta:
        keypoints = self.meta.keypoints
        blocks = (part.columns for part in load_parts(self._work, keypoints))
        with self._work.temporary() as (name, file):
            nbytes = write_labels(file, blocks, self._totals, keypoints)
            entry = labels_entry(file, nbytes, LABELS_FILE)
            self._work.rename(name, LABELS_FILE, self._folder)
        meta = self.meta.with_results(
            images=self._totals.images,
            objects=self._totals.objects,
            shards=tuple(self._entries),
            labels=entry,
            left_out=tuple(self._left_out),
        )
        self._folder.replace(DATASET_FILE, meta.to_json(), by=self._work)
        return meta

    def close(self) -> None:
        """Stops. What was stored is recorded, so that an unfinished pack can be continued."""
        if not self._closed:
            with contextlib.suppress(OSError):  # what cannot be recorded is packed again
                if self._unrecorded:
                    self._record(closed=False)
                self._wait()
        self._release()

    def _release(self) -> None:
        self._closed = True
        self._pool.shutdown(wait=True)
        if self._file is not None:
            self._file.close()
            self._file = None
        self._lock.release()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:  # maybe an interruption in the middle of `store`
            self._release()

    def _usable(self) -> None:
        if self._closed:
            raise ShardError(f"{self.path}: this writer is closed; make a new one to continue")

    def _broken(self, error: OSError) -> ShardError:
        self._release()
        return storage_error(self.path, error)


def check_shard_size(nbytes: int) -> None:
    """Raises ConfigError for what is no number of bytes of a shard."""
    whole("shard_size", nbytes, PAGE, _LARGEST, " bytes")


def _checksum(sample: StoredSample) -> int:
    if sample.checksum is not None:
        return sample.checksum
    return xxhash.xxh3_64_intdigest(memoryview(sample.data).cast("B"))


def sweep(folder: Folder) -> None:
    """Removes what a packer that was killed at its very end left beside the finished dataset.

    Nothing is done where another process writes, or where nothing may be written.
    """
    if folder.stat(WORK_FOLDER) is not None:
        with contextlib.suppress(OSError):  # a ShardError is one
            end_work(Lock(folder))
