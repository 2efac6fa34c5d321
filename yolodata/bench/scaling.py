"""What `benchmarks/scaling.py` measures on a number of cores: a loader, and the memory's speed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from yolodata import cgroup
from yolodata.bench import cores, loader_yolodata
from yolodata.bench.kernel import mean_source_bytes
from yolodata.bench.subject import Batch, Row, Subject, Task
from yolodata.machine import usable_cores
from yolodata.pipeline.config import AugmentConfig
from yolodata.shards import reader
from yolodata.telemetry import Reading, processor

_CHUNK = 8 << 20  # bytes of one copy: long beside what Python needs to begin the next
_CHUNKS = 8  # that a thread goes round, read and written; more than a core's share of any cache
_BURST = 0.2  # seconds


def open_loader(row: Row, task: Task) -> Subject:
    """The loader of the bench, opened by a process that may use the row's cores alone.

    Opened like this, it chooses NUMA nodes among these.

    Returns:
        A subject with the stages "cpu", processor time of the whole process, "busy", time in which
        the row's cores did anything for anybody, and "throttled", for which a quota stopped them;
        and the facts source_bytes and output_bytes, which rendering a picture reads and writes,
        stored_bytes, and decoded_bytes (of a decoded image; 0 where pixels are stored).
    """
    import cv2

    cores.pin(task.cores)
    # As Ultralytics does: OpenCV's own threads, which wait by spinning, are one more on each core.
    cv2.setNumThreads(0)
    made = loader_yolodata.open_loader(row, task)
    assert task.data is not None
    shards = reader.open(task.data)
    augment = AugmentConfig.from_ultralytics({**task.augment, "imgsz": task.imgsz})
    decoded = 3.0 * float(np.mean(shards.height.astype(np.float64) * shards.width))
    facts = {
        "source_bytes": mean_source_bytes(shards, augment, seed=task.seed),
        "output_bytes": 3.0 * task.imgsz**2,
        "stored_bytes": float(np.mean(shards.nbytes)),
        "decoded_bytes": 0.0 if row.codec == "raw" else decoded,
    }
    shards.close()

    every = task.cores or range(os.cpu_count() or 1)

    def read() -> Reading:
        now, throttled = made.read(), cgroup.throttling()
        waited = 0.0 if throttled is None else throttled.throttled_s
        more = {"cpu": time.process_time(), "busy": processor.busy(every), "throttled": waited}
        return Reading({**now.seconds, **more}, now.counts)

    return replace(made, read=read, facts=lambda: facts)


def open_memory(row: Row, task: Task) -> Subject:
    """Threads that copy, each from memory of its own to memory of its own, without a pause.

    A "picture" is one copy; the fact bytes_each is what it reads and writes. That a processor reads
    a line before it writes it is not counted, here or for loaders.
    """
    cores.pin(task.cores)
    usable = usable_cores()
    copies = [0] * row.threads
    begin, end = threading.Barrier(row.threads + 1), threading.Barrier(row.threads + 1)
    stopped = threading.Event()

    def copy(number: int) -> None:
        cores.pin_thread(usable[number % len(usable)])
        source = np.ones((_CHUNKS, _CHUNK), np.uint8)  # touched here, so on this thread's node
        target = np.ones((_CHUNKS, _CHUNK), np.uint8)
        while True:
            begin.wait()
            if stopped.is_set():
                return
            until, done = time.perf_counter() + _BURST, 0
            while time.perf_counter() < until:
                np.copyto(target[done % _CHUNKS], source[done % _CHUNKS])
                done += 1
            copies[number] = done
            end.wait()

    threads = [threading.Thread(target=copy, args=(i,), daemon=True) for i in range(row.threads)]
    for thread in threads:
        thread.start()

    def batches() -> Iterator[Batch]:
        stand_in = np.zeros((1, 3, 1, 1), np.uint8)
        while True:
            begin.wait()
            start = time.perf_counter()
            end.wait()
            took = time.perf_counter() - start
            yield {"img": stand_in, "repeats": sum(copies), "seconds": took}

    def close() -> None:
        stopped.set()
        begin.wait()
        for thread in threads:
            thread.join()

    return Subject(batches(), warm_up=1, close=close, facts=lambda: {"bytes_each": 2.0 * _CHUNK})
