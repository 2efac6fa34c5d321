"""Whether a process that opens and closes loaders for hours stays as large as it is.

Loaders over raw and JPEG shards are opened, iterated, broken off, resumed under another world size,
closed or forgotten, in random order and with random settings; validation, what Ultralytics looks up
on a loader, mistakes, and packing take their turns. After each turn the process should hold what it
held before. Measured between turns: memory that is no file's (RssAnon + RssShmem + VmSwap),
descriptors, threads, child processes, entries of /dev/shm. What counts is memory, not time, so the
script runs at the lowest priority, beside other work.

Growth is the slope of a line through the samples after the first ten minutes (by then everything
that starts once has started), in percent of its value there, an hour. SIGINT and SIGTERM end a run
early; what was measured is judged and written all the same.

    python benchmarks/soak.py --minutes 480 --json benchmarks/results/soak.json
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from yolodata import (
    AugmentConfig,
    ConfigError,
    EpochOptions,
    Loader,
    Ranks,
    ReadOptions,
    ValidationLoader,
)
from yolodata.bench import drawing, results
from yolodata.ingest import PackSettings, pack
from yolodata.machine import process_memory
from yolodata.shards import open as open_shards

LIMIT = 1.0  # percent an hour
SAMPLES = 240  # of a run, about
IMGSZ = 320
SHM = Path("/dev/shm")


@dataclass(frozen=True)
class Held:
    """What this process holds.

    Attributes:
        minutes: since the start.
        private: bytes of memory that is no file's.
        descriptors, threads, processes: how many; of the latter, children.
    """

    minutes: float
    private: int
    descriptors: int
    threads: int
    processes: int

    @classmethod
    def now(cls, began: float) -> Held:
        """Measures, once everything that was forgotten is freed."""
        end = time.monotonic() + 5
        gc.collect()
        while any(t.name.startswith("yolodata") for t in threading.enumerate()):
            if time.monotonic() > end:
                break  # they count
            time.sleep(0.01)  # the thread that prepares batches ends itself
        sizes = process_memory()
        return cls(
            (time.monotonic() - began) / 60,
            sizes["RssAnon"] + sizes["RssShmem"] + sizes["VmSwap"],
            len(os.listdir("/proc/self/fd")),
            len(os.listdir("/proc/self/task")),
            len(psutil.Process().children()),
        )


class Turns:
    """What a user does with a dataset, each at random.

    Args:
        folder: with "drawn" (a dataset), "small" (another one), "raw" and "jpeg" (shards).
        draw: the source of all choices.
    """

    def __init__(self, folder: Path, draw: random.Random) -> None:
        self.folder, self.draw = folder, draw

    def kinds(self) -> dict[str, Callable[[], None]]:
        """Each turn by its name."""
        return {
            "iterated": self.iterated, "broken off": self.broken_off, "resumed": self.resumed,
            "moved": self.moved, "validated": self.validated, "looked at": self.looked_at,
            "mistaken": self.mistaken, "packed": self.packed,
        }  # fmt: skip

    def _loader(self, *, codec: str | None = None, imgsz: int = 0, **settings: Any) -> Loader:
        draw = self.draw
        codec = codec or draw.choice(("raw", "jpeg"))
        if not imgsz:  # batches and images of many sizes are what scatters free memory
            imgsz = IMGSZ if codec == "raw" else draw.randrange(192, 641, 32)
        shards = open_shards(self.folder / codec, split="train", io=draw.choice(("mmap", "pread")))
        transforms = None
        if importlib.util.find_spec("albumentations") and draw.random() < 0.3:
            import albumentations

            transforms = [albumentations.Blur(p=0.2), albumentations.Posterize(p=0.1)]
        reading = ReadOptions(
            threads=draw.randint(1, 3), prefetch=draw.randint(1, 5), check=draw.random() < 0.3
        )
        augment = AugmentConfig(imgsz=imgsz, mixup=0.3, cutmix=0.2, degrees=draw.choice((0, 10)))
        return Loader(
            shards, draw.randint(2, 16), augment=augment, transforms=transforms, reading=reading,
            epochs=EpochOptions(shuffle=draw.random() < 0.9), **settings,
        )  # fmt: skip

    def iterated(self) -> None:
        """A whole epoch, then closed."""
        with self._loader() as loader:
            seen = sum(len(batch["im_file"]) for batch in loader)
            assert seen == len(loader.dataset)

    def broken_off(self) -> None:
        """Some batches, then closed or forgotten."""
        loader = self._loader()
        for _ in self._some(iter(loader)):
            pass
        if self.draw.random() < 0.5:
            loader.close()

    def resumed(self) -> None:
        """A state of one loader, taken up by the ranks of several."""
        codec, imgsz, seed = self.draw.choice(("raw", "jpeg")), IMGSZ, self.draw.getrandbits(32)
        same = {"codec": codec, "imgsz": imgsz, "seed": seed}
        with self._loader(**same) as loader:
            for _ in self._some(iter(loader)):
                pass
            state = json.loads(json.dumps(loader.state_dict()))
        world_size = self.draw.randint(1, 3)
        for rank in range(world_size):
            with self._loader(**same, ranks=Ranks(rank, world_size)) as loader:
                with suppress(ConfigError):  # other transforms, another order
                    loader.load_state_dict(state)
                for _ in self._some(iter(loader)):
                    pass

    def moved(self) -> None:
        """Epochs chosen, mosaic closed, what was prepared thrown away."""
        with self._loader() as loader:
            for _ in range(3):
                loader.set_epoch(self.draw.randrange(100))
                for _ in self._some(iter(loader)):
                    pass
                self.draw.choice((loader.reset, loader.close_mosaic, lambda: None))()

    def validated(self) -> None:
        """Validation batches, all or some."""
        shards = open_shards(self.folder / self.draw.choice(("raw", "jpeg")), split="train")
        reading = ReadOptions(threads=self.draw.randint(1, 3))
        with ValidationLoader(shards, self.draw.randint(1, 16), reading=reading) as loader:
            for _ in self.draw.choice((iter, self._some))(iter(loader)):
                pass

    def looked_at(self) -> None:
        """What Ultralytics' trainer, its plots and its validator look up."""
        with self._loader() as loader:
            data = loader.dataset
            boxes = np.concatenate([label["bboxes"] for label in data.labels])
            assert boxes.shape[1] == 4
            assert len(list(data.im_files)) == len(data) == len(list(loader.sampler))
            next(iter(loader))
            data.close_mosaic(hyp=None)
            loader.sampler.set_epoch(3)
            loader.reset()
            loader.unreadable()

    def mistaken(self) -> None:
        """What is refused leaves nothing behind either."""
        loader = self._loader()
        first, second = iter(loader), iter(loader)
        next(first)
        next(second)
        for wrong in (
            lambda: next(first),
            lambda: loader.load_state_dict({"epoch": 0}),
            lambda: loader.load_state_dict({**loader.state_dict(), "position": -1}),
            lambda: Loader(self.folder / "raw", 4, reading=ReadOptions(threads=10**6)),
        ):
            try:
                wrong()
            except ConfigError:
                continue
            raise AssertionError("a mistake was accepted")
        loader.close()

    def packed(self) -> None:
        """A small dataset into shards, which are used once."""
        out = self.folder / "packed"
        source = self.folder / "small" / "data.yaml"
        codec, imgsz = self.draw.choice(("raw", "jpeg")), self.draw.randrange(192, 641, 32)
        pack(source, out, PackSettings(codec, imgsz), splits=["train"], progress=False)
        with Loader(out, 8, augment=AugmentConfig(imgsz=imgsz)) as loader:
            next(iter(loader))
        shutil.rmtree(out)

    def _some(self, batches: Iterator[Any]) -> Iterator[Any]:
        for _ in range(self.draw.randint(1, 6)):
            batch = next(batches, None)
            if batch is None:
                return
            yield batch


def growth(samples: list[Held]) -> dict[str, float] | None:
    """Slope of private memory in percent of the line's beginning an hour, and its standard error.

    None of fewer than three samples.
    """
    if len(samples) < 3:
        return None
    hours = np.array([held.minutes for held in samples]) / 60
    private = np.array([held.private for held in samples], dtype=np.float64)
    away = hours - hours.mean()
    slope = float(away @ private / (away @ away))
    line = private.mean() + slope * away
    error = float(np.sqrt(((private - line) ** 2).sum() / (len(hours) - 2) / (away @ away)))
    return {"percent_per_hour": 100 * slope / line[0], "error": 100 * error / line[0]}


def judged(grown: dict[str, float] | None, left: dict[str, Any]) -> bool | None:
    """Whether the limit is kept and nothing is left; None where the run was too short to tell."""
    if any(left.values()):
        return False
    if grown is None:
        return None
    slope, doubt = grown["percent_per_hour"], 2 * grown["error"]
    if slope - doubt > LIMIT:
        return False
    return True if slope + doubt <= LIMIT else None


def shm_entries() -> set[str]:
    """Objects in shared memory; not folders, which others may keep there."""
    return {file.name for file in os.scandir(SHM) if file.is_file()} if SHM.is_dir() else set()


def held_by_others(entries: set[str]) -> set[str]:
    """Which entries of /dev/shm another process has mapped or open."""
    found: set[str] = set()
    for process in psutil.process_iter() if entries else ():
        if process.pid == os.getpid():
            continue
        with suppress(psutil.Error, OSError):
            paths = [part.path for part in process.memory_maps()]
            paths += [file.path for file in process.open_files()]
            found |= {entry for entry in entries if str(SHM / entry) in paths}
    return found


def soak(
    turns: Turns, minutes: float, settle: float, save: Callable[[dict[str, Any]], None]
) -> Any:
    """Takes turns until the time is over; returns (and saves now and then) what was found."""
    ended: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: ended.append(number))
    shm, began = shm_entries(), time.monotonic()
    interval = minutes / SAMPLES
    samples: list[Held] = []
    counts: Counter[str] = Counter()
    peak = 0
    gc.collect()
    gc.freeze()  # what is there already is not searched after each turn
    kinds = turns.kinds()
    upcoming: list[str] = []
    while True:
        if not upcoming:  # each once, in an order of its own
            upcoming = turns.draw.sample(sorted(kinds), len(kinds))
        kind = upcoming.pop()
        kinds[kind]()
        counts[kind] += 1
        held = Held.now(began)
        peak = max(peak, held.private)
        over = held.minutes >= minutes or bool(ended)
        if over or not samples or held.minutes >= samples[-1].minutes + interval:
            samples.append(held)
            found = {
                "asked_minutes": minutes, "settle_minutes": settle,
                "lasted_minutes": held.minutes, "nice": os.nice(0), "turns": dict(counts),
                **verdict(samples, settle, peak),
            }  # fmt: skip
            if over:
                new = shm_entries() - shm
                found["left"]["shm"] = sorted(new - held_by_others(new))
                found["met"] = judged(found["growth"], found["left"])
            save(found)
        if over:
            return found


def verdict(samples: list[Held], settle: float, peak: int) -> dict[str, Any]:
    settled = [held for held in samples if held.minutes >= settle]
    grown = growth(settled)
    left = {}
    if settled:
        first, last = settled[0], settled[-1]
        left = {
            name: max(0, getattr(last, name) - getattr(first, name))
            for name in ("descriptors", "threads", "processes")
        }
    columns = {
        field.name: [getattr(held, field.name) for held in samples] for field in fields(Held)
    }
    return {
        "growth": grown, "limit": LIMIT, "left": left, "met": judged(grown, left),
        "peak_private": peak, "samples": columns,
    }  # fmt: skip


def say(found: dict[str, Any]) -> None:
    """Prints one screen of what was found."""
    private = found["samples"]["private"]
    turns = ", ".join(f"{number} {kind}" for kind, number in sorted(found["turns"].items()))
    print(f"{found['lasted_minutes']:.1f} minutes, {sum(found['turns'].values())} turns: {turns}")
    print(f"private memory: {private[-1] / 1e6:.0f} MB at the end, "
          f"{found['peak_private'] / 1e6:.0f} MB at most")  # fmt: skip
    grown = found["growth"]
    if grown is None:
        print(f"growth: not known, nothing was measured after {found['settle_minutes']:g} minutes")
    else:
        print(f"growth after {found['settle_minutes']:g} minutes: {grown['percent_per_hour']:+.2f} "
              f"% an hour (error {grown['error']:.2f}), limit {LIMIT:g} %")  # fmt: skip
    print("left: " + ", ".join(f"{name} {value}" for name, value in found["left"].items()))
    print({True: "met", False: "NOT met", None: "too short to tell"}[found["met"]])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=480)
    parser.add_argument("--settle", type=float, default=10, help="minutes that do not count (10)")
    parser.add_argument("--images", type=int, default=96, help="pictures to draw (96)")
    parser.add_argument("--seed", type=int, default=0, help="of the choices (0)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    about = results.about("soak", seed=args.seed, images=args.images)
    os.nice(19)
    with tempfile.TemporaryDirectory(prefix="yolodata-soak-") as temporary:
        folder = Path(temporary)
        drawing.write(folder / "drawn", args.images, 0, 1)
        drawing.write(folder / "small", max(args.images // 4, 1), 1, 1)
        for codec in ("raw", "jpeg"):
            settings, source = PackSettings(codec, IMGSZ), folder / "drawn" / "data.yaml"
            pack(source, folder / codec, settings, splits=["train"], progress=False)

        def save(found: dict[str, Any]) -> None:
            if args.json:
                results.save(args.json, about | found)

        found = soak(Turns(folder, random.Random(args.seed)), args.minutes, args.settle, save)
    say(found)
    return 1 if found["met"] is False else 0


if __name__ == "__main__":
    sys.exit(main())
