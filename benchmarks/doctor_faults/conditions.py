"""Under which conditions Ultralytics' own loader feeds a step, and what a step then takes.

The faults of the section "data" are conditions that differ in one field from what they are when
mended. A wait stands for a GPU's step. How long it is follows from how fast the loader is here
without the fault (`with_step`), so that it keeps up then, on any machine.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .cpu_quota import quota_group
from .datasets import Pictures, dataset
from .fault import Case, Truth
from .slow_disk import slow

WORKERS = 8  # Ultralytics' default; it takes no more than there are cores
IMGSZ = 640  # that of the pictures: nothing is to be gained from resizing them
LIGHT = {"mosaic": 0.0, "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0}
IMAGES = Path("images") / "train"  # beside the YAML
SECONDS = 3.0  # of a measurement, at least
STEPS = 32  # of one, at least: batches differ, and are made by several workers at a time
ROUNDS = 2
WARM_UP = 12  # batches: the workers start, and collect what they got with the fork


@dataclass(frozen=True)
class Conditions:
    """Under which conditions a loader feeds a step.

    Attributes:
        batch: pictures a step.
        step_ms: milliseconds that the step takes once it has its batch.
        workers: Ultralytics' argument.
        light: a recipe without mosaic and colours, so that decoding is most of the work.
        pictures: how they are stored.
        disk: latency in milliseconds and megabytes a second of the disk they lie on; None is the
            local one, with everything in the page cache.
        cores: on which the processes may run; empty is all.
        quota: processor seconds a second that they may take; 0 is any number.
        loader_ms: milliseconds that the loader took for a batch when the step was chosen.
    """

    batch: int = 8
    step_ms: float = 0.0
    workers: int = WORKERS
    light: bool = False
    pictures: Pictures = field(default_factory=Pictures)
    disk: tuple[float, float] | None = None
    cores: tuple[int, ...] = ()
    quota: float = 0.0
    loader_ms: float = 0.0

    def arguments(self) -> list[str]:
        """What `yolodata doctor` is called with."""
        return [
            str(dataset(self.pictures)), f"batch={self.batch}", f"imgsz={IMGSZ}",
            f"workers={self.workers}", *(f"{name}={value}" for name, value in self.recipe.items()),
            "--step", f"{self.step_ms:.1f}",
        ]  # fmt: skip

    @property
    def recipe(self) -> dict[str, float]:
        """Arguments of the augmentation."""
        return LIGHT if self.light else {}

    def with_step(self, margin: float) -> Conditions:
        """The same with a step that takes `margin` times as long as the loader needs for a batch.

        Above 1 the loader keeps up.
        """
        # A disturbance makes the loader slower, never faster.
        loader_ms = min(step_ms(replace(self, step_ms=0.0), SECONDS / 2) for _ in range(ROUNDS))
        return replace(self, step_ms=round(margin * loader_ms, 1), loader_ms=loader_ms)

    @contextmanager
    def held(self) -> Iterator[Held]:
        """Makes disk and quota true while the context lasts."""
        with ExitStack() as stack:
            if self.disk:
                stack.enter_context(slow(dataset(self.pictures).parent / IMAGES, *self.disk))
            group = stack.enter_context(quota_group(self.quota)) if self.quota else None
            yield Held(self.cores, group)


@dataclass(frozen=True)
class Held:
    """What a process still has to do to be under conditions.

    Attributes:
        cores: on which it has to stay; empty is all.
        group: control group that it has to join.
    """

    cores: tuple[int, ...]
    group: Path | None

    def prefix(self) -> list[str]:
        """Words before a command."""
        words: list[str] = []
        if self.group:
            words += ["sh", "-c", f'echo $$ > {self.group}/cgroup.procs && exec "$@"', "sh"]
        if self.cores:
            words += ["taskset", "-c", ",".join(map(str, self.cores))]
        return words

    def enter(self) -> None:
        """Puts this process under them."""
        if self.group:
            (self.group / "cgroup.procs").write_text(str(os.getpid()), encoding="utf-8")
        if self.cores:
            import torch

            os.sched_setaffinity(0, self.cores)
            # As in a process that begins on these cores: more threads would take turns.
            torch.set_num_threads(len(self.cores))


Repair = Callable[[Conditions, Mapping[str, Any]], Conditions]
"""Mends conditions, as the settings of a knob say where they say it."""


@contextmanager
def injected(as_is: Conditions, mended: Mapping[str, Repair]) -> Iterator[Case]:
    """A case of these conditions.

    Args:
        as_is: with the fault, or faults.
        mended: what mends each, by cause. Empty: nothing is to be mended; a step should take as
            long as it is, and `Case.truths` says whether it does.
    """
    earlier = step_ms(as_is)  # and later: machines get slower and faster within a minute
    with ExitStack() as stack:
        held = stack.enter_context(as_is.held())

        def truths(settings: Mapping[str, Any]) -> Mapping[str, Truth]:
            # The doctor is done. Each measurement has a disk of which nothing was read yet.
            stack.close()
            ways = [as_is, *(repair(as_is, settings) for repair in mended.values())]
            later, *after = in_turns(ways)
            before = [earlier, *later]
            found = {cause: Truth(before, ms) for cause, ms in zip(mended, after, strict=True)}
            return found or {"": Truth(before, [as_is.step_ms])}

        yield Case(as_is.arguments(), held.prefix(), truths=truths, facts=asdict(as_is))


def in_turns(ways: Sequence[Conditions], rounds: int = ROUNDS) -> list[list[float]]:
    """Milliseconds of a step under each of these conditions, in rounds that take turns."""
    found: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for times, way in zip(found, ways, strict=True):
            times.append(step_ms(way))
    return found


def step_ms(conditions: Conditions, seconds: float = SECONDS) -> float:
    """Milliseconds of a step: the wait for its batch, and the step.

    Raises:
        RuntimeError: the process that measures failed.
    """
    _prepare(conditions)
    with conditions.held() as held:
        parent, child = multiprocessing.Pipe()
        # Forked, so that nothing is imported again and affinity and group end with it.
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_measure, args=(child, conditions, held, seconds))
        process.start()
        child.close()
        try:
            return float(parent.recv())
        except EOFError:
            raise RuntimeError(f"a measurement failed; conditions: {conditions}") from None
        except BaseException:  # this process is asked to end
            process.kill()
            raise
        finally:
            process.join()


def _measure(pipe: Any, conditions: Conditions, held: Held, seconds: float) -> None:
    os.setsid()  # the processor is shared out by session, and the doctor has one of its own
    held.enter()
    # The first image with CLAHE has OpenCV build tables for 90 ms, in each worker, at some time.
    cv2.cvtColor(np.zeros((1, 1, 3), np.uint8), cv2.COLOR_RGB2LAB)
    loader = open_loader(conditions)
    batches = _endless(loader)
    for _ in islice(batches, WARM_UP):
        time.sleep(conditions.step_ms / 1e3)
    steps, start = 0, time.perf_counter()
    # Whole turns of the workers, who deliver one after the other.
    turn = max(int(loader.num_workers), 1)
    while (passed := time.perf_counter() - start) < seconds or steps < STEPS or steps % turn:
        next(batches)
        time.sleep(conditions.step_ms / 1e3)
        steps += 1
    loader.close()
    pipe.send(1e3 * passed / steps)


def open_loader(conditions: Conditions) -> Any:
    """Ultralytics' training loader, as its trainer builds it."""
    import torch
    from ultralytics.cfg import get_cfg
    from ultralytics.data.build import build_dataloader, build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset
    from ultralytics.utils import DEFAULT_CFG, LOGGER

    LOGGER.setLevel("ERROR")
    torch.manual_seed(random.SystemRandom().getrandbits(32))
    path = str(dataset(conditions.pictures))
    overrides = {
        "task": "detect", "mode": "train", "data": path, "imgsz": IMGSZ,
        "batch": conditions.batch, "workers": conditions.workers, **conditions.recipe,
    }  # fmt: skip
    data = check_det_dataset(path, autodownload=False)
    images = build_yolo_dataset(
        get_cfg(DEFAULT_CFG, overrides), data["train"], conditions.batch, data, mode="train",
        stride=32,
    )  # fmt: skip
    return build_dataloader(
        images, conditions.batch, conditions.workers, shuffle=True, rank=-1, device="cpu"
    )


def _endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def _prepare(conditions: Conditions) -> None:
    """Has Ultralytics read the labels, and keep them in its cache, while the disk is fast."""
    _scanned(conditions.pictures)


@cache
def _scanned(pictures: Pictures) -> None:
    path = dataset(pictures)  # made here: a child would make one of its own
    process = multiprocessing.get_context("fork").Process(
        target=open_loader, args=(Conditions(pictures=pictures),)
    )
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"Ultralytics cannot read the drawn dataset {path}")
    if not (path.parent / "labels" / "train.cache").exists():
        raise RuntimeError(f"Ultralytics kept no cache of the labels of {path}")
