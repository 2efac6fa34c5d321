"""SIGKILL, now and then SIGTERM, at random moments while a dataset is packed or gets new labels.

After it, what is there must be no dataset, or the whole one; and the same command must make the
bytes that it makes when nobody disturbs it. It may be killed several times before it gets through.
"""

from __future__ import annotations

import functools
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from random import Random

from .children import run_command, trial
from .drawn import PACK, contents, lay_out, once, source
from .said import ended_well
from .verdict import Verdict

GOAL = 1000
CASE = 5
COMMANDS = ("raw", "jpeg", "labels")


@dataclass(frozen=True)
class _Undisturbed:
    """A command, as it goes when nobody disturbs it.

    Attributes:
        words: its arguments; OUT is in the folder that it runs in.
        before: files of OUT before it.
        after: files of OUT after it.
        seconds: it takes.
    """

    words: tuple[str, ...]
    before: dict[str, bytes]
    after: dict[str, bytes]
    seconds: float


def warm() -> None:
    """Imports and packs."""
    from yolodata.ingest import pack_cli, packing, relabel  # noqa: F401

    for command in COMMANDS:
        _undisturbed(command)


@functools.cache
def _undisturbed(command: str) -> _Undisturbed:
    place = once() / f"kills-{command}"
    data = source(place / "source", images=24)
    shard = ("shard", str(data), "out", *PACK)
    before: dict[str, bytes] = {}
    words: tuple[str, ...] = (*shard, "--codec", command)
    if command == "labels":
        _run(shard, place)
        before = contents(place / "out")
        for k in range(0, 24, 3):
            (place / "source" / "labels" / "train" / f"{k}.txt").write_text("1 .5 .5 .3 .3\n")
        words = ("labels", "out", str(data))
    seconds = _run(words, place)  # the first time is slower
    after = contents(place / "out")
    shutil.rmtree(place / "out")
    lay_out(before, place / "out")
    return _Undisturbed(words, before, after, min(seconds, _run(words, place)))


def _run(words: tuple[str, ...], folder: Path) -> float:
    ended = run_command(list(words), folder)
    if ended.status:
        raise RuntimeError(f"{' '.join(words)} failed undisturbed: {ended.how}")
    return ended.seconds


def attack(random: Random, folder: Path) -> Verdict:
    """Kills commands."""
    verdict = Verdict()
    for number in range(CASE):
        if verdict.findings:
            break  # the folder stays as it is
        out = folder / str(number)
        out.mkdir()
        _kill(random, out, verdict)
        if not verdict.findings:
            shutil.rmtree(out)
    return verdict


def _kill(random: Random, folder: Path, verdict: Verdict) -> None:
    command = random.choice(COMMANDS)
    clean = _undisturbed(command)
    lay_out(clean.before, folder / "out")
    what = command
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        # A command that ended before its signal says nothing: it is tried again, sooner.
        longest = 1.1 * clean.seconds
        for _ in range(50):
            trial(what)
            after = random.uniform(0, longest)
            sent = random.choice((signal.SIGKILL,) * 4 + (signal.SIGTERM,))
            ended = run_command(list(clean.words), folder, kill_after=after, kill_with=sent)
            if ended.signal == sent or ended.status > 2:
                break
            if not ended_well(verdict, ended, f"{what}, not killed in time", allowed=(0,)):
                return
            shutil.rmtree(folder / "out", ignore_errors=True)
            lay_out(clean.before, folder / "out")
            longest *= 0.9
        else:
            return  # it was never slow enough
        verdict.tried += 1
        what += f", {sent.name} after {1000 * after:.1f} ms"
        if ended.signal not in (0, sent):
            verdict.found("signal", f"{what}: {ended.how}")
        _half_valid(folder / "out", clean, what, verdict)
        if verdict.findings:
            return
    trial(f"{what}, then completed")
    ended = run_command(list(clean.words), folder)
    if not ended_well(verdict, ended, f"{what}, then completed", allowed=(0,)):
        return
    if wrong := _difference(contents(folder / "out"), clean.after):
        verdict.found("half valid", f"{what}, then completed: {wrong}")


def _half_valid(out: Path, clean: _Undisturbed, what: str, verdict: Verdict) -> None:
    """Whether what is there is a dataset, but neither the one before nor the one after."""
    from yolodata.errors import ShardError
    from yolodata.shards import open as open_shards

    for split in ("train", "val"):
        try:
            with open_shards(out / split) as dataset:
                names = {"dataset.json", dataset.meta.labels.file}
                names |= {shard.file for shard in dataset.meta.shards}
        except ShardError as error:
            if clean.before:
                verdict.found("half valid", f"{what}: there is no dataset any more: {error}")
            continue
        now = {f"{split}/{name}": (out / split / name).read_bytes() for name in names}
        whole = [
            {name: data for name, data in files.items() if name in now}
            for files in (clean.before, clean.after)
        ]
        if now not in whole:
            verdict.found("half valid", f"{what}: {split} opens, and is another dataset")


def _difference(found: dict[str, bytes], wanted: dict[str, bytes]) -> str:
    said = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    said += [f"{name} was left behind" for name in sorted(found.keys() - wanted.keys())]
    said += [f"{n} differs" for n in sorted(wanted.keys() & found.keys()) if wanted[n] != found[n]]
    return ", ".join(said)


def _in_place() -> None:
    """dataset.json is written under its own name, slowly, and not renamed."""
    import os
    import time

    replace = os.replace

    def slowly(src, dst, *, src_dir_fd=None, dst_dir_fd=None):  # type: ignore[no-untyped-def]
        if not os.fspath(dst).endswith("dataset.json"):
            replace(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            return
        with open(os.open(src, os.O_RDONLY, dir_fd=src_dir_fd), "rb") as file:
            data = file.read()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with open(os.open(dst, flags, 0o666, dir_fd=dst_dir_fd), "wb", buffering=0) as file:
            for k in range(0, len(data), 64):
                file.write(data[k : k + 64])
                time.sleep(0.002)
        os.unlink(src, dir_fd=src_dir_fd)

    os.replace = slowly


def _early() -> None:
    """A shard gets its name before its bytes, and is taken for complete by its size."""
    import os
    import time

    from .flips import _only_sizes

    _only_sizes()

    rename = os.replace

    def first(src, dst, *, src_dir_fd=None, dst_dir_fd=None):  # type: ignore[no-untyped-def]
        data = None
        if "shard-" in os.fspath(dst):
            fd = os.open(src, os.O_RDWR, dir_fd=src_dir_fd)
            data = os.pread(fd, 1 << 24, 0)
            os.pwrite(fd, bytes(len(data) - 4096), 4096)
        rename(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        if data is not None:
            time.sleep(0.01)
            os.pwrite(fd, data, 0)
            os.close(fd)

    os.replace = first


PLANTS = {"dataset.json is not renamed": _in_place, "shards are renamed too early": _early}
