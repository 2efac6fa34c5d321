"""Is a dataset on disk what was packed?"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from yolodata.checks import whole
from yolodata.errors import ShardError
from yolodata.files import file_checksum
from yolodata.machine import usable_cores
from yolodata.shards.format import SHARD_HEADER, ShardEntry
from yolodata.shards.mapping import open_checked, read_at
from yolodata.shards.reader import ShardDataset, check_shard_header

_BATCH = 64  # samples a task


@dataclass
class VerifyReport:
    """What was looked at and what was found.

    Attributes:
        images: images of the dataset.
        checked: samples whose bytes were compared, and decoded if encoded; 0 without `full`.
        problems: one sentence each, naming the file and the byte; empty if all is well.
        seconds: wall time.
    """

    path: Path
    images: int = 0
    checked: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(
    path: str | os.PathLike[str],
    full: bool = False,
    progress: Callable[[int, int], None] | None = None,
    *,
    workers: int | None = None,
    io: str = "auto",
) -> VerifyReport:
    """Checks a dataset directory.

    Without `full`: dataset.json, the labels file to the last byte, and the size and header of every
    shard. With `full`: every sample's checksum, the padding between samples, and that every encoded
    picture decodes to the size that is stored for it.

    Args:
        path: a dataset directory.
        progress: called with (samples checked, all samples) now and then; `full` only.
        workers: threads, by default one for each usable core.
        io: see `ShardDataset`.

    Returns:
        A report; damage is reported there and never raised.

    Raises:
        ConfigError: `workers` is no number of threads.
    """
    threads = len(usable_cores()) if workers is None else whole("workers", workers, 1)
    began = time.perf_counter()
    report = VerifyReport(Path(path))
    try:
        dataset = ShardDataset(path, io=io)
    except ShardError as error:
        report.problems.append(str(error))
    else:
        with dataset:
            report.images = len(dataset)
            _verify(dataset, report, full, progress, threads)
    report.seconds = time.perf_counter() - began
    return report


def _verify(
    dataset: ShardDataset,
    report: VerifyReport,
    full: bool,
    progress: Callable[[int, int], None] | None,
    workers: int,
) -> None:
    with ThreadPoolExecutor(workers) as pool:
        found = [_labels_file(dataset)]
        found += pool.map(lambda entry: _shard_file(dataset, entry), dataset.meta.shards)
        report.problems += [problem for problem in found if problem]
        try:
            dataset.check_values()
        except ShardError as error:
            report.problems.append(str(error))
        if full:
            for checked, problems in _samples(dataset, pool, 4 * workers):
                report.checked += checked
                report.problems += problems
                if progress is not None:
                    progress(report.checked, len(dataset))


def _labels_file(dataset: ShardDataset) -> str:
    """Says what is wrong with the labels file as a whole, or nothing."""
    entry = dataset.meta.labels
    file = dataset.path / entry.file
    try:
        with os.fdopen(open_checked(file, entry.nbytes), "rb", buffering=0) as opened:
            got = file_checksum(opened)
    except ShardError as error:
        return str(error)
    except OSError as error:
        return f"{file}: cannot be read: {error.strerror}"
    if got == entry.checksum:
        return ""
    return f"{file}: must have checksum {entry.checksum}, got {got}; restore the file or pack again"


def _shard_file(dataset: ShardDataset, entry: ShardEntry) -> str:
    """Says what is wrong with the size or the header of a shard, or nothing."""
    file = dataset.path / entry.file
    try:
        fd = open_checked(file, entry.nbytes)
        try:
            check_shard_header(file, read_at(fd, file, 0, SHARD_HEADER), entry.nbytes)
        finally:
            os.close(fd)
    except ShardError as error:
        return str(error)
    return ""


def _samples(
    dataset: ShardDataset, pool: ThreadPoolExecutor, in_flight: int
) -> Iterator[tuple[int, list[str]]]:
    """Checks all samples in order, a batch a task."""
    running: deque[Future[tuple[int, list[str]]]] = deque()
    for begin in range(0, len(dataset), _BATCH):
        if len(running) == in_flight:
            yield running.popleft().result()
        batch = range(begin, min(begin + _BATCH, len(dataset)))
        running.append(pool.submit(_check_batch, dataset, batch))
    while running:
        yield running.popleft().result()


def _check_batch(dataset: ShardDataset, batch: range) -> tuple[int, list[str]]:
    problems = [problem for i in batch if (problem := check_sample(dataset, i))]
    return len(batch), problems


def check_sample(dataset: ShardDataset, i: int) -> str:
    """Says what is wrong with the bytes of image i or the padding behind them, or nothing."""
    try:
        got, want = xxhash.xxh3_64_intdigest(dataset.sample(i).data), int(dataset.checksum[i])
        if got != want:
            return (
                f"{dataset.locate(i)}: {dataset.name(i)} has checksum {got:016x}, expected "
                f"{want:016x}; restore the file or pack again"
            )
        padding = dataset.padding(i)
        if padding.any():
            return (
                f"{dataset.locate(i)}: byte {int(padding.argmax())} behind {dataset.name(i)} must "
                "be 0; restore the file or pack again"
            )
        if dataset.meta.codec != "raw":
            dataset.image(i)
    except ShardError as error:
        return str(error)
    return ""
