"""What a loader costs the thread that trains: `next()` by part, and the GIL that its threads hold.

    python benchmarks/consumer.py --data SHARDS --json benchmarks/results/consumer.json

Between two batches the consumer enqueues tiny operations of torch, each of which lets go of the GIL
as the launch of a kernel does: what it waits for the GIL then is told from the operations that take
far longer than most. The same without a loader is the noise of the machine.

Without a GPU (`--device cpu`), a device that takes no time is put in its place: what is enqueued
never happens. Everything that the host does is done, but for the calls of the CUDA run time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from yolodata import DeviceOptions, Loader, ReadOptions
from yolodata.bench import results
from yolodata.bench.data import Wanted, prepare
from yolodata.pipeline import loader, prefetch
from yolodata.pipeline.gpu import batch as gpu_batch
from yolodata.pipeline.gpu import stream as streams

PARTS = {
    "settle": (prefetch.Prefetcher, "settle"),
    "fill": (loader.Loader, "_fill"),
    "wait for the batch": (gpu_batch.GpuBatch, "wait"),
    "make the consumer's stream wait": (streams.CudaEvent, "make_consumer_wait"),
    "unreadable images": (loader, "report_unreadable"),
    "collate": (loader.Loader, "_collate"),
    "ask for the next": (prefetch.Prefetcher, "fill_in_background"),
}
"""What `next()` calls; a part that another one calls is counted to the inner one alone."""
LATE = 50e-6  # seconds: an operation that takes longer waited for something


class _Nowhere:
    """A device on which nothing happens: stream and event of `yolodata.pipeline.gpu.stream`."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self._pictures: dict[tuple[int, ...], torch.Tensor] = {}

    def pinned(self, nbytes: int) -> torch.Tensor:
        return torch.empty(nbytes, dtype=torch.uint8)

    empty = pinned

    def register_host(self, address: int, nbytes: int) -> int:
        return address

    def unregister_host(self, address: int) -> None: ...

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> None: ...

    def render(self, tasks: Any, shape: tuple[int, ...], output: Any, into: Any = None) -> Any:
        if shape not in self._pictures:
            self._pictures[shape] = output.empty(shape, self.device)
        return self._pictures[shape] if into is None else into

    def convert(self, pictures: torch.Tensor, output: Any) -> torch.Tensor:
        return pictures

    def record_event(self) -> _Nowhere:
        return self

    def now(self) -> float:
        return 0.0

    def seconds(self, begun: float, ended: float) -> float:
        return ended - begun

    def query(self) -> bool:
        return True

    def synchronize(self) -> None: ...

    def make_consumer_wait(self, tensors: Iterable[torch.Tensor]) -> tuple[float, float]:
        return 0.0, 0.0

    def mem_get_info(self) -> tuple[int, int]:
        return 1 << 40, 1 << 40

    def empty_cache(self) -> None: ...


class Stopwatch:
    """Seconds of the consumer's thread by part, each without the parts inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._thread = threading.get_ident()
        self._inside: list[float] = []  # of the parts that are open, what was counted to others

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed where the consumer calls it."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self._thread:
                return function(*args, **kwargs)
            self._inside.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.perf_counter() - start
                self.seconds[name] += took - self._inside.pop()
                if self._inside:
                    self._inside[-1] += took

        return call

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time every part meanwhile."""
        with ExitStack() as stack:
            for name, (owner, attribute) in PARTS.items():
                timed = self.timed(name, getattr(owner, attribute))
                stack.enter_context(patch.object(owner, attribute, timed))
            yield


def python_threads() -> float:
    """CPU seconds of all threads that run Python, without this one.

    None of them holds the GIL for longer than it computes. Native threads of ours never ask for it.
    """
    total = 0
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            stat = Path(f"/proc/self/task/{thread.native_id}/schedstat")
            total += int(stat.read_text().split()[0]) if stat.exists() else 0
    return 1e-9 * total


def operations(seconds: float) -> list[float]:
    """Seconds of each of the tiny operations that are enqueued within a step."""
    number, times = torch.zeros(1), []
    now = time.perf_counter()
    end = now + seconds
    while now < end:
        number.add_(1)
        later = time.perf_counter()
        times.append(later - now)
        now = later
    return times


def late(times: list[float]) -> tuple[float, float]:
    """Milliseconds of all late operations together, and of the latest one."""
    beyond = [t for t in times if t > LATE]
    return 1e3 * sum(beyond), 1e3 * max(beyond, default=0.0)


def measure(batches: Iterator[Any], steps: int, step: float) -> dict[str, Any]:
    """Take batches, with a step of `step` seconds after each.

    Returns:
        dict of next_us, microseconds in `next()`: 10th, 50th and 90th percentile; parts_us, mean
        of each part (with the stopwatch's own microseconds, about one a part); threads_cpu_ms, CPU
        time of the other threads that run Python, a batch; late_ms and latest_ms, operations that
        waited, a step, and alone_late_ms and alone_latest_ms, the same while the loader has
        nothing to do (medians).
    """
    watch = Stopwatch()
    spent, waited, alone = [], [], []

    def take() -> None:
        start = time.perf_counter()
        batch = next(batches)
        spent.append(1e6 * (time.perf_counter() - start))
        del batch  # frees memory, and may let go of the GIL
        waited.append(late(operations(step)))

    threads = python_threads()
    for _ in range(steps):
        take()
        alone.append(late(operations(step)))
    threads = python_threads() - threads
    with watch.watching():
        for _ in range(steps):
            take()
    return {
        "next_us": [float(np.quantile(spent[:steps], q)) for q in (0.1, 0.5, 0.9)],
        "parts_us": {name: 1e6 * watch.seconds[name] / steps for name in PARTS},
        "threads_cpu_ms": 1e3 * threads / steps,
        **dict(zip(("late_ms", "latest_ms"), np.median(waited, 0).tolist(), strict=True)),
        **dict(
            zip(("alone_late_ms", "alone_latest_ms"), np.median(alone, 0).tolist(), strict=True)
        ),
    }


def main() -> int:
    """Measure, and print or write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="raw shards; without, pictures are drawn")
    parser.add_argument("--images", type=int, default=256, help="pictures that are drawn")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2, help="native threads")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--step-ms", type=float, default=20.0, help="time between two batches")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        wanted = Wanted(args.data, args.images, args.images, args.imgsz, 0)
        made = prepare(wanted, folder, {"raw"}, lambda text: print(text, file=sys.stderr))
        if args.device == "cpu":
            nowhere = _Nowhere()
            stack.enter_context(patch.object(streams, "open_stream", lambda _: nowhere))
            stack.enter_context(patch.object(streams, "check_device"))
            PARTS["make the consumer's stream wait"] = (_Nowhere, "make_consumer_wait")
        device = DeviceOptions("cuda" if args.device == "cpu" else args.device, "device",
                               output="float16", channels_last=True)  # fmt: skip
        reading = ReadOptions(threads=args.threads)
        taken = Loader(made.by_codec["raw"], args.batch, device=device, reading=reading)
        endless = chain.from_iterable(repeat(stack.enter_context(taken)))
        for _ in range(8):
            next(endless)
        found = measure(endless, args.steps, 1e-3 * args.step_ms)
    names = ("device", "batch", "threads", "steps", "step_ms")
    values = {**results.about("consumer"), **{n: getattr(args, n) for n in names}, **found}
    if args.json:
        results.save(args.json, values)
    print(json.dumps(values, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
