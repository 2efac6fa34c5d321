"""Runs a case in a child, and judges what can be seen from outside."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from random import Random
from types import ModuleType

from .children import HANG, RAISED, Ended, in_child
from .verdict import Finding, Verdict

GIB = 1 << 30


def memory_limit() -> int:
    """Gives the bytes that a case may have beyond those of its parent."""
    return GIB + picture_limit()


def picture_limit() -> int:
    """Gives the bytes that decoding takes at most, as docs/datasets.md has it."""
    from yolodata.images.limits import most_pixels

    return 20 * most_pixels()


def scratch() -> str | None:
    """Gives the folder for folders of cases: in memory, where there is one."""
    memory = "/dev/shm"
    return memory if os.access(memory, os.W_OK) else None


def run_case(
    module: ModuleType,
    seed: str,
    findings: Path | None = None,
    plant: Callable[[], None] | None = None,
    seconds: float = HANG,
) -> tuple[Verdict, int]:
    """Runs one case.

    Args:
        module: a kind of attack.
        seed: of its random numbers.
        findings: folder to which the input of a failed case is copied, below a name of its own.
        plant: breaks the product, in the child alone.
        seconds: that a trial may take.

    Returns:
        The verdict, and the peak of memory in bytes.
    """
    folder = Path(tempfile.mkdtemp(prefix="attack-", dir=scratch()))
    try:

        def action() -> object:
            if plant is not None:
                plant()
            return asdict(module.attack(Random(seed), folder))

        ended = in_child(action, seconds=seconds)
        verdict = _verdict(ended)
        if verdict.findings and findings is not None:
            kept = findings / f"{module.__name__.rpartition('.')[2]}-{seed}"
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir(parents=True)
            copy(folder, kept)
            words = "\n\n".join(f"{each.wrong}: {each.said}" for each in verdict.findings)
            (kept / "FOUND.txt").write_text(words + "\n", encoding="utf-8", errors="replace")
        return verdict, ended.peak
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _verdict(ended: Ended) -> Verdict:
    verdict = Verdict(ended.trials)
    if ended.result:
        verdict.tried = ended.result["tried"]
        verdict.findings = [Finding(**each) for each in ended.result["findings"]]
    said = f"trial {ended.trials}, {ended.tried}: {ended.how}"
    if ended.hung:
        verdict.found("hang", said)
    elif ended.signal:
        verdict.found("signal", said)
    elif ended.status == RAISED:
        verdict.found("memory" if "MemoryError" in ended.said else "attack", said)
    elif not ended.result:
        verdict.found("attack", said)
    if ended.peak > memory_limit() + _own_peak():
        # What a child was at when it was ended, it could not measure.
        which = ended.tried if ended.hung or ended.signal else ended.largest
        verdict.found("memory", f"{ended.peak / GIB:.2f} GiB: {which}")
    return verdict


def _own_peak() -> int:
    """Bytes of this process, which a fork of it begins with."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def copy(folder: Path, to: Path) -> None:
    """Copies what is in a folder into another one, as it is: links, FIFOs, holes."""
    subprocess.run(
        ["cp", "-a", "--sparse=always", f"{folder}/.", str(to)], check=False, capture_output=True
    )
