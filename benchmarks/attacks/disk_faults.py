"""A disk that is full, fails, or gives and takes less than it is asked to (shim.c).

Commands that write end with an error that says so, leave nothing half valid, and make the right
bytes when they are run again. Short reads and writes change nothing. A picture that could not be
read because of the disk is not left out.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from random import Random

from . import kills, shim
from .children import Ended, in_child, run_command, trial
from .drawn import contents, lay_out, packed
from .kills import _difference, _half_valid, _undisturbed
from .said import ended_well
from .verdict import Verdict

GOAL = 3000
CASE = 5
_WRITING = shim.WRITE | shim.SYNC | shim.NAME
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


def needs() -> str:
    """Says what keeps this attack from running; "" if nothing does."""
    return shim.problem()


def warm() -> None:
    """Imports and packs."""
    from yolodata.shards import verify_cli  # noqa: F401

    kills.warm()
    packed()


def attack(random: Random, folder: Path) -> Verdict:
    """Runs commands on a disk with faults."""
    verdict = Verdict()
    for _ in range(CASE):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        verdict.tried += 1
        random.choice((_writing, _writing, _reading, _short, _verify))(random, folder, verdict)
        if verdict.findings:
            break
    return verdict


def _writing(random: Random, folder: Path, verdict: Verdict) -> None:
    """One write, or all from one on, fail in the output folder."""
    command = random.choice(kills.COMMANDS)
    clean = _undisturbed(command)
    lay_out(clean.before, folder / "out")
    number, always = random.choice(_FULL), random.random() < 0.7
    groups = random.choice((_WRITING, _WRITING, shim.WRITE, shim.SYNC, shim.NAME))
    after = random.randint(1, random.choice((5, 40, 150)))
    what = f"{command}: {errno.errorcode[number]} at call {after} of group {groups}"
    what += " and later" if always else ""
    _with_faults(clean, folder, what, (folder / "out", groups, after, number, always), verdict)


def _reading(random: Random, folder: Path, verdict: Verdict) -> None:
    """A read of the source fails, now and then."""
    command = random.choice(kills.COMMANDS)
    clean = _undisturbed(command)
    lay_out(clean.before, folder / "out")
    data = Path(next(word for word in clean.words if word.endswith("data.yaml"))).parent
    number = random.choice((errno.EIO, errno.ESTALE, errno.ETIMEDOUT))
    after = random.randint(1, 60)
    what = f"{command}: {errno.errorcode[number]} at read {after} of the source"
    _with_faults(clean, folder, what, (data, shim.READ, after, number, False), verdict)


def _with_faults(
    clean: kills._Undisturbed,
    folder: Path,
    what: str,
    faults: tuple[Path, int, int, int, bool],
    verdict: Verdict,
) -> None:
    trial(what)

    def action() -> int:
        from yolodata import cli

        os.chdir(folder)
        shim.fail(*faults)
        status = cli.main(list(clean.words))
        happened = shim.seen() >= faults[2]
        shim.off()
        print(f"(faults: {'yes' if happened else 'no'})")
        return status

    ended = in_child(action, group=False)
    _judge(ended, clean, folder, what, verdict)


def _judge(
    ended: Ended,
    clean: kills._Undisturbed,
    folder: Path,
    what: str,
    verdict: Verdict,
    memory: bool = False,
) -> None:
    """Whether a command that was hindered ended well, and does its work when called again."""
    if not ended_well(verdict, ended, what, allowed=(0, 2), memory=memory):
        return
    _half_valid(folder / "out", clean, what, verdict)
    if ended.status == 0 and (wrong := _difference(_without_work(folder), clean.after)):
        verdict.found("undetected", f"{what}: status 0, but {wrong}: {ended.said[-800:]}")
    if verdict.findings:
        return
    trial(f"{what}, then again")
    again = run_command(list(clean.words), folder)
    if not ended_well(verdict, again, f"{what}, then again", allowed=(0,)):
        return
    if wrong := _difference(contents(folder / "out"), clean.after):
        verdict.found("half valid", f"{what}, then again: {wrong}: before: {ended.said[-500:]}")


def _without_work(folder: Path) -> dict[str, bytes]:
    """What is left of work that a failed removal left there does not count."""
    found = contents(folder / "out")
    return {n: d for n, d in found.items() if "/.packing/" not in n and not n.endswith(".tmp")}


def _short(random: Random, folder: Path, verdict: Verdict) -> None:
    """Reads and writes move fewer bytes than they were asked to: the same result."""
    command = random.choice(kills.COMMANDS)
    clean = _undisturbed(command)
    lay_out(clean.before, folder / "out")
    groups = random.choice((shim.READ, shim.WRITE, shim.READ | shim.WRITE))
    seed = random.getrandbits(63)
    data = Path(next(word for word in clean.words if word.endswith("data.yaml"))).parent
    below = random.choice((folder / "out", data))
    what = f"{command}: short lengths of group {groups} below {below.name}"
    trial(what)

    def action() -> int:
        from yolodata import cli

        os.chdir(folder)
        shim.shorten(below, groups, seed)
        return cli.main(list(clean.words))

    ended = in_child(action, group=False)
    if not ended_well(verdict, ended, what, allowed=(0,)):
        return
    if wrong := _difference(contents(folder / "out"), clean.after):
        verdict.found("undetected", f"{what}: {wrong}")


def _verify(random: Random, folder: Path, verdict: Verdict) -> None:
    """A read of a dataset fails or is short while it is checked: said, or no matter."""
    lay_out(contents(packed()), folder / "out")
    short = random.random() < 0.4
    after, number = random.randint(1, 40), random.choice((errno.EIO, errno.ESTALE))
    seed = random.getrandbits(63)
    what = f"verify: {'short reads' if short else f'{errno.errorcode[number]} at read {after}'}"
    trial(what)

    def action() -> int:
        from yolodata.shards import verify

        if short:
            shim.shorten(folder / "out", shim.READ, seed)
        else:
            shim.fail(folder / "out", shim.READ, after, number, False)
        report = verify.verify(folder / "out" / "train", full=True, workers=1, io="pread")
        failed = not short and shim.seen() >= after
        shim.off()
        print(report.problems)
        return 0 if report.ok == (not failed) else 3

    ended = in_child(action, group=False)
    if ended_well(verdict, ended, what, allowed=(0, 3)) and ended.status == 3:
        verdict.found("undetected", f"{what}: {ended.said}")


def _once() -> None:
    """Writes are not repeated until all bytes are written."""
    from yolodata import files

    def write_once(fd, data, at=None):  # type: ignore[no-untyped-def]
        os.write(fd, data) if at is None else os.pwrite(fd, data, at)

    import sys

    for module in list(sys.modules.values()):
        if getattr(module, "write_all", None) is files.write_all and module is not files:
            setattr(module, "write_all", write_once)  # noqa: B010
    files.write_all = write_once


def _no_sync_errors() -> None:
    """What could not be written does not matter."""
    import contextlib

    write = os.pwrite

    def lossy(fd, data, at):  # type: ignore[no-untyped-def]
        with contextlib.suppress(OSError):
            return write(fd, data, at)
        return len(data)

    os.pwrite = lossy


PLANTS = {"short writes are not repeated": _once, "errors of writes are ignored": _no_sync_errors}
