"""Writing a shard dataset, so that no moment of a crash leaves a half-valid one.

Order of events:

1. A lock and a journal are made in the folder `.packing`; older files of the directory, if they may
   be replaced, are removed, dataset.json first.
2. A sample is appended to a shard in `.packing`, then recorded in the journal. A full shard gets
   its header, is synced, renamed into place and recorded, while the next one is being filled.
3. The labels file is made from the journal, synced and renamed into place, then dataset.json.
4. `.packing` is removed.

Whoever finds a journal continues from its last record (recovery.py). What is written depends on the
samples alone, so a continued pack equals an undisturbed one byte for byte.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from yolodata.errors import ShardError
from yolodata.shards import journal as records
from yolodata.shards.columns import Totals, labels_entry, write_labels
from yolodata.shards.files import (
    Lock,
    publish,
    remove_quietly,
    storage_error,
    write_all,
    write_durably,
)
from yolodata.shards.format import (
    ALIGNMENT,
    DATASET_FILE,
    LABELS_FILE,
    SHARD_HEADER,
    WORK_FOLDER,
    DatasetMeta,
    FileEntry,
    aligned,
    shard_name,
)
from yolodata.shards.journal import Journal, Row
from yolodata.shards.layout import shard_header
from yolodata.shards.mapping import hash_file
from yolodata.shards.recovery import Recovered, begin
from yolodata.shards.sample import StoredSample, check_sample

_PADDING = bytes(ALIGNMENT)
_SYNC_EVERY = 64 << 20  # bytes; the disk works while pictures are decoded, not when all are done
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
        if shard_size < ALIGNMENT:
            raise ShardError(f"shard_size must be at least {ALIGNMENT} bytes, got {shard_size}")
        self.path = Path(os.path.abspath(path))
        self.meta = meta.check()
        self._shard_size = shard_size
        self._work = self.path / WORK_FOLDER
        self._fd = -1
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
        self._entries: dict[int, FileEntry] = state.closed
        self._shard = state.shard
        self._end = state.end
        self._synced = state.end
        self._hash = xxhash.xxh3_64()  # of the current shard's tensor
        try:
            for shard, end in state.to_close:
                file = self._work / shard_name(shard)
                hashed = hash_file(file, SHARD_HEADER + end, SHARD_HEADER)
                self._close_shard(shard, end, hashed.intdigest())
            if self._end:
                file = self._work / shard_name(self._shard)
                self._hash = hash_file(file, SHARD_HEADER + self._end, SHARD_HEADER)
                self._fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
                os.lseek(self._fd, SHARD_HEADER + self._end, os.SEEK_SET)
        except OSError as error:
            self.close()
            raise self._error(error) from error

    def resume(self) -> Progress:
        """What was already stored when this writer was made."""
        return self._resumed

    def append(self, sample: StoredSample) -> None:
        """Store the next sample.

        Raises:
            ShardError: the sample is not one that a reader would accept (the writer goes on), or
                the file system refuses it (the writer is finished, the pack can be continued).
        """
        self._usable()
        data = memoryview(sample.data).cast("B")
        check_sample(sample, data, self.meta)
        try:
            if self._end and self._end + data.nbytes > self._shard_size:
                self._next_shard()
            if self._fd < 0:
                self._fd = os.open(
                    self._work / shard_name(self._shard),
                    os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC,
                    0o666,
                )
                write_all(self._fd, bytes(SHARD_HEADER))
            write_all(self._fd, data)
            end = self._end + aligned(data.nbytes)
            padding = _PADDING[: end - self._end - data.nbytes]
            write_all(self._fd, padding)
            self._hash.update(data)
            self._hash.update(padding)
            row = Row(
                self._shard,
                self._end,
                data.nbytes,
                xxhash.xxh3_64_intdigest(data),
                sample.height,
                sample.width,
                sample.orig_height,
                sample.orig_width,
                sample.name.encode("utf-8", "surrogateescape"),
                sample.labels,
            )
            self._journal.append(row.pack())
            if end - self._synced >= _SYNC_EVERY:
                self._synced = end
                self._background.append(self._pool.submit(_sync, os.dup(self._fd)))
        except OSError as error:
            raise self._broken(error) from error
        self._totals.add(row)
        self._end = end

    def leave_out(self, name: str, reason: str) -> None:
        """Record that an image of the source is not stored, and why.

        Raises:
            ShardError: the file system refuses it.
        """
        self._usable()
        try:
            self._journal.append(records.json_payload(records.LEFT_OUT, [name, reason]))
        except OSError as error:
            raise self._broken(error) from error
        self._left_out.append((name, reason))

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
        remove_quietly(file for file in self._work.iterdir() if file != self._lock.path)
        self._lock.remove()
        self.close()
        return meta

    def close(self) -> None:
        """Stop; an unfinished pack stays, to be continued."""
        self._failed = True
        self._pool.shutdown(wait=True)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._journal.close()
        self._lock.release()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rows(self) -> Any:
        for _, payload in self._journal.records():
            if payload[:1] == records.SAMPLE:
                yield Row.unpack(payload)

    def _next_shard(self) -> None:
        """Close the current shard beside the filling of the next one."""
        os.close(self._fd)
        self._fd = -1
        self._wait()  # for the one before: at most two shards are open
        self._background.append(
            self._pool.submit(self._close_shard, self._shard, self._end, self._hash.intdigest())
        )
        self._hash = xxhash.xxh3_64()
        self._shard += 1
        self._end = self._synced = 0

    def _wait(self) -> None:
        while self._background:
            self._background.pop(0).result()

    def _close_shard(self, shard: int, end: int, checksum: int) -> None:
        """Give a shard its header and its name, durably, and record it."""
        name = shard_name(shard)
        temporary, nbytes = self._work / name, SHARD_HEADER + end
        fd = os.open(temporary, os.O_RDWR | os.O_CLOEXEC)
        try:
            write_all(fd, shard_header(end), 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        publish(temporary, self.path / name)
        self._entries[shard] = FileEntry(name, nbytes, checksum)
        content = [shard, nbytes, f"{checksum:016x}"]
        self._journal.append(records.json_payload(records.CLOSED, content), sync=True)

    def _usable(self) -> None:
        if self._failed:
            raise ShardError(f"{self.path}: this writer is closed; make a new one to continue")

    def _broken(self, error: OSError) -> ShardError:
        self.close()
        return self._error(error)

    def _error(self, error: OSError) -> ShardError:
        return error if isinstance(error, ShardError) else storage_error(self.path, error)


def _sync(fd: int) -> None:
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
