"""Memory that is refused (shim.c): one larger allocation of a command fails, any of them.

The command says that memory does not suffice, or manages without; it leaves nothing half valid, and
makes the right bytes when it is run again.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from random import Random

from . import kills, shim
from .children import in_child, trial
from .disk_faults import _judge
from .drawn import contents, lay_out, packed
from .kills import _undisturbed
from .said import ended_well
from .verdict import Verdict

GOAL = 3000
CASE = 5
_LEAST = 4096  # bytes; Python itself takes smaller ones, for nearly everything it does


def needs() -> str:
    """Says what keeps this attack from running; "" if nothing does."""
    return shim.problem()


def warm() -> None:
    """Imports and packs: Python's compiler may fail without saying that it had no memory."""
    import tqdm  # noqa: F401

    from yolodata.info import info_cli  # noqa: F401
    from yolodata.ingest import pack_cli, packing, relabel, yolo_folder  # noqa: F401
    from yolodata.shards import class_names, info, mapping, verify, verify_cli  # noqa: F401

    kills.warm()
    packed("detect", "jpeg")


def attack(random: Random, folder: Path) -> Verdict:
    """Runs commands that are refused memory."""
    verdict = Verdict()
    for _ in range(CASE):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        verdict.tried += 1
        random.choice((_writing, _writing, _writing, _reading))(random, folder, verdict)
        if verdict.findings:
            break
    return verdict


def _refused(words: list[str], folder: Path, after: int, least: int):  # type: ignore[no-untyped-def]
    def action() -> int:
        from yolodata import cli

        os.chdir(folder)
        shim.refuse_memory(after, least)
        status = cli.main(words)
        shim.off()
        return status

    return in_child(action, group=False)


def _draw(random: Random) -> tuple[int, int]:
    """Which allocation fails, of those of how many bytes."""
    least = random.choice((_LEAST, 16 << 10, 64 << 10))
    return random.randint(1, {_LEAST: 600, 16 << 10: 120, 64 << 10: 40}[least]), least


def _writing(random: Random, folder: Path, verdict: Verdict) -> None:
    command = random.choice(kills.COMMANDS)
    clean = _undisturbed(command)
    lay_out(clean.before, folder / "out")
    after, least = _draw(random)
    what = f"{command}: allocation {after} of at least {least} bytes fails"
    trial(what)
    ended = _refused(list(clean.words), folder, after, least)
    _judge(ended, clean, folder, what, verdict, memory=True)


def _reading(random: Random, folder: Path, verdict: Verdict) -> None:
    lay_out(contents(packed("detect", "jpeg")), folder / "out")
    words = random.choice((["verify", "out", "--full", "--workers", "1"], ["info", "out"]))
    after, least = _draw(random)
    what = f"{words[0]}: allocation {after} of at least {least} bytes fails"
    trial(what)
    ended = _refused(words, folder, after, least)
    ended_well(verdict, ended, what, allowed=(0, 1, 2), memory=True)


def _not_explained() -> None:
    """The command does not say what the machine lacks."""
    from yolodata import command

    command.lacking = lambda error: ""


PLANTS = {"lack of memory is not explained": _not_explained}
