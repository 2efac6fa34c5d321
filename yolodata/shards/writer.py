"""Writing a shard dataset, so that no moment of a crash leaves a half-valid one.

Order of events:

1. A lock and a journal are made in the folder `.packing`; older files of the directory, if they may
   be replaced, are removed, dataset.json first.
2. Some samples are appended to a shard in `.packing`, then recorded in the journal, with one write
   each. A full shard gets its header, is synced, renamed into place and recorded, while the next
   one is being filled.
3. The labels file is made from the journal, synced and renamed into place, then dataset.json.
4. `.packing` is removed.

Whoever finds a journal continues from its last record (recovery.py). What is written depends on the
samples alone, so a continued pack equals an undisturbed one byte for byte.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from yolodata.errors import ShardError
from yolodata.files import publish, remove_quietly, write_durably
from yolodata.shards import journal as records
from yolodata.shards.chunks import Bytes, Chunk, PageFile, memory
from yolodata.shards.columns import Totals, labels_entry, write_labels
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
from yolodata.shards.journal import Journal, Row
from yolodata.shards.layout import shard_header
from yolodata.shards.lock import Lock, storage_error
from yolodata.shards.recovery import Recovered, begin
from yolodata.shards.sample import LeftOut, StoredSample, check_samples

DEFAULT_SHARD_SIZE = 512 << 20


@dataclass(frozen=True)
class Progress:
    """What an interrupted pack had already stored."""

    samples: int
    left_out: tuple[tuple[str, str], ...]  # (name, reason), in the order they were reported

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
        path: the directory; made if needed.
        meta: codec, imgsz, names, split, kpt_shape, flip_idx and source; the rest is filled in.
        shard_size: a shard is closed before its tensor would exceed this many bytes.
        overwrite: replace a finished dataset, or an unfinished one with other settings.

    Raises:
        ShardError: the directory is in use, already holds a dataset, or cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        meta: DatasetMeta,
        shard_size: int = DEFAULT_SHARD_SIZE,
        *,
        overwrite: bool = False,
    ) -> None:
        if shard_size < PAGE:
            raise ShardError(f"shard_size must be at least {PAGE} bytes, got {shard_size}")
        self.path = Path(os.path.abspath(path))
        self.meta = meta.check()
        self._shard_size = shard_size
        self._work = self.path / WORK_FOLDER
        self._file: PageFile | None = None  # of the current shard
        self._failed = False
        self._background: list[Future[None]] = []
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="yolodata-shard")
        try:
            self._lock = Lock(self._work / "lock")
        except OSError as error:
            raise self._error(error) from error
        try:
            state = begin(self.path, self.meta, shard_size, overwrite)
        except BaseException as error:
            self._lock.release()
            if isinstance(error, OSError):
                raise self._error(error) from error
            raise
        self._take(state)

    def _take(self, state: Recovered) -> None:
        self._journal: Journal = state.journal
        self._totals: Totals = state.totals
        self._left_out: list[tuple[str, str]] = state.left_out
        self._resumed = Progress(state.totals.images, tuple(state.left_out))
        self._entries: dict[int, ShardEntry] = state.closed
        self._shard = state.shard
        self._end = state.end
        self._memory = memory(PAGE)
        try:
            for shard, end in state.to_close:
                self._close_shard(self._open(shard), shard, end)
        except OSError as error:
            self.close()
            raise self._error(error) from error

    def resume(self) -> Progress:
        """What was already stored when this writer was made."""
        return self._resumed

    def append(self, sample: StoredSample) -> None:
        """Store the next sample; see `store`."""
        self.store([sample])

    def leave_out(self, name: str, reason: str) -> None:
        """Record that an image of the source is not stored, and why; see `store`."""
        self.store([LeftOut(name, reason)])

    def store(self, items: Sequence[StoredSample | LeftOut], chunk: Chunk | None = None) -> None:
        """Store the next samples with one write, or record that images are left out.

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
        payloads: list[bytes] = []
        size = iter(sizes)
        begin = at = 0  # bytes of `content` that go to the current shard
        for item in items:
            if isinstance(item, LeftOut):
                payloads.append(records.json_payload(records.LEFT_OUT, list(item)))
                self._left_out.append(item)
                continue
            nbytes = next(size)
            place = self._end + at - begin
            if place and place + nbytes > self._shard_size:
                self._write(content[begin:at], payloads)
                self._next_shard()
                payloads, begin, place = [], at, 0
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
            payloads.append(row.pack())
            self._totals.add(row.counts)
            at += aligned(nbytes)
        self._write(content[begin:at], payloads)

    def _write(self, content: Bytes, payloads: list[bytes]) -> None:
        """Append to the current shard, then to the journal."""
        if content.nbytes:
            if self._file is None:
                self._file = self._open(self._shard)
            self._file.write(content, SHARD_HEADER + self._end)
            self._end += content.nbytes
        if payloads:
            self._journal.append(*payloads)

    def finish(self) -> DatasetMeta:
        """Complete the dataset and close the writer.

        Raises:
            ShardError: there are no samples, or the file system refuses the rest.
        """
        self._usable()
        if not self._totals.images:
            raise ShardError(
                f"{self.path}: there is no image to store ({len(self._left_out)} were left out); "
                "check the source"
            )
        try:
            if self._end:
                self._next_shard()
            self._wait()
            labels = self._work / LABELS_FILE
            nbytes = write_labels(labels, self._rows(), self._totals, self.meta.keypoints)
            entry = labels_entry(labels, nbytes, LABELS_FILE)
            publish(labels, self.path / LABELS_FILE)
            meta = self.meta.with_results(
                images=self._totals.images,
                objects=self._totals.objects,
                shards=tuple(self._entries[i] for i in range(len(self._entries))),
                labels=entry,
                left_out=tuple(self._left_out),
            )
            text = meta.to_json()
            write_durably(self._work / DATASET_FILE, text)
            self._journal.append(
                records.json_payload(records.FINISHED, xxhash.xxh3_64_hexdigest(text)), sync=True
            )
            publish(self._work / DATASET_FILE, self.path / DATASET_FILE)
        except OSError as error:
            raise self._broken(error) from error
        _sweep(self._lock)
        self.close()
        return meta

    def close(self) -> None:
        """Stop; an unfinished pack stays, to be continued."""
        self._failed = True
        self._pool.shutdown(wait=True)
        if self._file is not None:
            self._file.close()
            self._file = None
        self._journal.close()
        self._lock.release()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rows(self) -> Iterator[bytes]:
        for _, payload in self._journal.records():
            if payload[:1] == records.SAMPLE:
                yield payload

    def _open(self, shard: int) -> PageFile:
        return PageFile(self._work / shard_name(shard))

    def _next_shard(self) -> None:
        """Close the current shard beside the filling of the next one."""
        file, self._file = self._file or self._open(self._shard), None
        self._wait()  # for the one before: at most two shards are open
        self._background.append(self._pool.submit(self._close_shard, file, self._shard, self._end))
        self._shard += 1
        self._end = 0

    def _wait(self) -> None:
        while self._background:
            self._background.pop(0).result()

    def _close_shard(self, file: PageFile, shard: int, end: int) -> None:
        """Give a shard its header and its name, durably, and record it."""
        name = shard_name(shard)
        try:
            header = memory(SHARD_HEADER)
            header[:] = np.frombuffer(shard_header(end), np.uint8)
            file.write(header, 0)
            file.sync()
        finally:
            file.close()
        publish(self._work / name, self.path / name)
        self._entries[shard] = ShardEntry(name, SHARD_HEADER + end)
        content = [shard, SHARD_HEADER + end]
        self._journal.append(records.json_payload(records.CLOSED, content), sync=True)

    def _usable(self) -> None:
        if self._failed:
            raise ShardError(f"{self.path}: this writer is closed; make a new one to continue")

    def _broken(self, error: OSError) -> ShardError:
        self.close()
        return self._error(error)

    def _error(self, error: OSError) -> ShardError:
        return error if isinstance(error, ShardError) else storage_error(self.path, error)


def _checksum(sample: StoredSample) -> int:
    if sample.checksum is not None:
        return sample.checksum
    return xxhash.xxh3_64_intdigest(memoryview(sample.data).cast("B"))


def sweep(path: str | os.PathLike[str]) -> None:
    """Remove what a packer that was killed at its very end left beside the finished dataset.

    Nothing is done where another process writes, or where nothing may be written.
    """
    work = Path(path) / WORK_FOLDER
    if not work.is_dir():
        return
    with contextlib.suppress(OSError):  # a ShardError is one
        _sweep(Lock(work / "lock"))


def _sweep(lock: Lock) -> None:
    remove_quietly(file for file in lock.path.parent.iterdir() if file != lock.path)
    lock.remove()
