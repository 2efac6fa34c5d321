"""Threads that convert images, and their outcomes in order.

Note [threads, not processes]. Decoding, resizing, checksums, writing, and the text and headers of
ordinary files are native code without the GIL. So threads take 1.67 ms of a core for a JPEG file of
0.16 MB where processes took 1.88 ms, and 2.17 ms where processes took 2.49 ms for its pixels (two
cores of an AMD EPYC, median of seven packs; measured once, by hand, on commit 99764a0 and the one
before, which had the processes). With a decoder that only sleeps for 2 ms, sixteen
threads pack 5,000 files a second: a bound that takes more than ten cores to reach.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass

import cv2

from yolodata.ingest.convert import Outcome, PackSettings, prepare
from yolodata.ingest.crashes import InWork
from yolodata.ingest.sample import LabelRules, Split
from yolodata.machine import usable_cores
from yolodata.shards.chunks import Bytes, Chunk, memory

ONCE = 3  # answers that are stored one after the other: code that runs seldom is not in the caches
WAITING = 2 + ONCE  # answers that may wait to be stored; memory that is new costs time


@dataclass(frozen=True)
class Results:
    """Outcomes of some images.

    Attributes:
        outcomes: one an image, in order.
        chunk: where the samples lie as they will in a shard; None where they lie elsewhere.
    """

    outcomes: list[Outcome]
    chunk: Chunk | None


def in_order(
    split: Split,
    rules: LabelRules,
    settings: PackSettings,
    indices: range,
    workers: int | None = None,
    refused: Mapping[int, str] | None = None,
    in_work: InWork | None = None,
) -> Iterator[Results]:
    """Converts images on all cores, within a bounded memory.

    Args:
        split: the source's images.
        rules: for their labels.
        settings: what is made of them.
        indices: which of them.
        workers: threads, by default one for each core this process may use.
        refused: images that are not looked at, with the reason.
        in_work: where it is noted which images are in work; for as many workers.

    Yields:
        outcomes of some images at a time, in the order of `indices`. What the samples point to is
        valid until the next ones are asked for.
    """
    free: list[Bytes] = []
    left_out = refused or {}

    def convert(images: range) -> Results:
        chunk = None
        if settings.codec == "raw":
            chunk = Chunk(free.pop() if free else memory(settings.chunk_nbytes))
        with in_work.on(images) if in_work else nullcontext():
            if left_out.keys().isdisjoint(images):
                return Results(prepare(split, images, rules, settings, chunk), chunk)
            others = [image for image in images if image not in left_out]
            made = iter(prepare(split, others, rules, settings, chunk))
            outcomes = [
                Outcome(None, left_out[image]) if image in left_out else next(made)
                for image in images
            ]
            return Results(outcomes, chunk)

    def stored(count: int) -> Iterator[Results]:
        """The next results, once all of them are there."""
        wait([running[k] for k in range(count)])
        for _ in range(count):
            results = running.popleft().result()
            yield results
            if results.chunk is not None:
                free.append(results.chunk.memory)

    count = workers or len(usable_cores())
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # one picture a core is faster than one picture on all cores
    pool = ThreadPoolExecutor(count, thread_name_prefix="yolodata-pack")
    running: deque[Future[Results]] = deque()
    try:
        for begin in range(0, len(indices), settings.together):
            images = indices[begin : begin + settings.together]
            running.append(pool.submit(convert, images))
            if len(running) >= count + WAITING:
                yield from stored(ONCE)
        while running:
            yield from stored(1)
    finally:
        pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(threads)
