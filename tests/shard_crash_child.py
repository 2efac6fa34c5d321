"""Packers that die, run by test_shard_kill.py in a process of its own, because they fork.

usage: shard_crash_child.py calls|random|limit|recorded[-shards|-forget] FOLDER
"""

from __future__ import annotations

import errno
import math
import os
import random
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import shard_samples

from yolodata.errors import ShardError
from yolodata.shards import open as open_shards
from yolodata.shards import recovery, writer

COUNT = 14  # three shards
CALLS = ("write", "pwrite", "fsync", "replace", "ftruncate", "unlink", "open")


def child(action) -> int:
    """Run something in a forked process; its exit status, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except BaseException as error:
            print(f"child: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die_at(call: int, torn: bool) -> None:
    """Kill this process at its `call`-th call that changes a file, before or half-way through."""
    state = {"left": call}

    def wrap(name):
        original = getattr(os, name)

        def wrapped(*args, **kwargs):
            state["left"] -= 1
            if state["left"] == 0:
                if torn and name in ("write", "pwrite"):
                    original(args[0], bytes(args[1])[: len(args[1]) // 2], *args[2:])
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return wrapped

    for name in CALLS:
        setattr(os, name, wrap(name))


def check(out: Path, clean: dict[str, bytes], what: str) -> None:
    """Not half valid now, and equal to a clean pack after going on."""
    try:
        with open_shards(out) as dataset:
            assert len(dataset) > 0, what
        valid = True
    except ShardError:
        valid = False
    now = shard_samples.contents(out)
    if valid:
        now = {name: data for name, data in now.items() if not name.startswith(".packing")}
        assert now == clean, f"{what}: a dataset.json beside incomplete data"
        return
    assert child(lambda: shard_samples.pack(out, COUNT)) == 0, f"{what}: cannot be continued"
    assert shard_samples.contents(out) == clean, f"{what}: differs from a clean pack"


def lose_unsynced(out: Path, rng: random.Random) -> None:
    """A power cut: the ends of files that no fsync has seen are missing or zero."""
    work = out / ".packing"
    for file in work.glob("shard-*") if work.exists() else ():
        size = file.stat().st_size
        keep = rng.randrange(size + 1)
        os.truncate(file, keep)
        if rng.random() < 0.5:
            os.truncate(file, size)  # the size was stored, the bytes were not
    parts = sorted(work.glob("part-*"))
    if parts and rng.random() < 0.5:
        part = rng.choice(parts)
        os.truncate(part, rng.randrange(part.stat().st_size + 1))


def at_every_call(out: Path, clean: dict[str, bytes]) -> int:
    rng = random.Random(7)

    def die(call: int) -> None:
        die_at(call, torn=call % 2 == 0)
        shard_samples.pack(out, COUNT)

    for call in range(1, 10_000):
        shutil.rmtree(out, ignore_errors=True)
        status = child(lambda: die(call))
        if status == 0:
            return call - 1
        assert status == -signal.SIGKILL, f"call {call}: {status}"
        if call % 3 == 0:
            lose_unsynced(out, rng)
        check(out, clean, f"killed at call {call}")
    raise AssertionError("never finished")


def at_random_times(out: Path, clean: dict[str, bytes]) -> int:
    rng = random.Random(7)
    began = time.perf_counter()
    assert child(lambda: shard_samples.pack(out, COUNT)) == 0
    duration = time.perf_counter() - began
    points = 0
    while points < 30:
        shutil.rmtree(out, ignore_errors=True)
        pid = os.fork()
        if pid == 0:
            shard_samples.pack(out, COUNT)
            os._exit(0)
        time.sleep(rng.random() * duration)
        os.kill(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status != 0 and out.exists():  # neither faster than the signal nor slower
            check(out, clean, f"random kill {points}")
            points += 1
    return points


def at_a_size_limit(out: Path, clean: dict[str, bytes]) -> int:
    """A real refusal by the kernel, after a real partial write."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limited(nbytes: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, nbytes))
        try:
            shard_samples.pack(out, COUNT)
        except ShardError as error:
            said = "make room and run the same command again" in str(error)
            os._exit(3 if said and error.errno == errno.EFBIG else 4)

    points = 0
    for nbytes in (100, 1_000, 5_000, 9_000):
        shutil.rmtree(out, ignore_errors=True)
        status = child(lambda: limited(nbytes))
        assert status == 3, f"limit {nbytes}: {status}"
        check(out, clean, f"limit {nbytes}")
        points += 1
    return points


def what_is_recorded(out: Path, clean: dict[str, bytes]) -> int:
    """How many samples of eight, stored one by one, a kill leaves."""

    def die() -> None:
        packer = writer.ShardWriter(out, shard_samples.META, shard_samples.SHARD_SIZE)
        for i in range(8):
            packer.append(shard_samples.sample(i))
        os.kill(os.getpid(), signal.SIGKILL)

    assert child(die) == -signal.SIGKILL
    with writer.ShardWriter(out, shard_samples.META, shard_samples.SHARD_SIZE) as packer:
        return packer.resume().samples


MODES = {
    "calls": at_every_call,
    "random": at_random_times,
    "limit": at_a_size_limit,
    "recorded": what_is_recorded,
}


def main(mode: str, folder: Path) -> None:
    shard_samples.pack(folder / "clean", COUNT)
    writer.RECORD_SECONDS = math.inf if "shards" in mode else 0.0
    clean = shard_samples.contents(folder / "clean")
    if "forget" in mode:  # negative control: a recovery that trusts every part
        recovery._whole_parts = lambda path, name, parts: len(parts)
    print(MODES[mode.partition("-")[0]](folder / "out", clean))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
