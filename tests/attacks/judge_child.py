"""Cases that are known to be wrong, for the judge: prints what it says of each, as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from attacks import children, drawn, judge
from attacks.said import ended_well
from attacks.verdict import Verdict

CORE = max(os.sched_getaffinity(0))


def good(random: Random, folder: Path) -> Verdict:
    children.trial("good")
    return Verdict(tried=7)


def crash(random: Random, folder: Path) -> Verdict:
    children.trial("the first")
    children.trial("the second")
    os.kill(os.getpid(), signal.SIGSEGV)
    return Verdict()


def hang(random: Random, folder: Path) -> Verdict:
    children.trial("it waits")
    time.sleep(60)
    return Verdict()


def spin(random: Random, folder: Path) -> Verdict:
    while True:
        pass


def slowed(random: Random, folder: Path) -> Verdict:
    """0.45 s of work, of one thread after the other, where three others are preferred."""

    def work() -> None:
        while time.thread_time() < 0.15:
            pass

    children.trial("slowly")
    os.sched_setaffinity(0, {CORE})
    os.nice(5)
    for _ in range(3):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    return Verdict(tried=1)


@contextlib.contextmanager
def others() -> Iterator[None]:
    """Keeps a processor busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        for process in busy:
            os.sched_setaffinity(process.pid, {CORE})
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def memory(random: Random, folder: Path) -> Verdict:
    children.trial("little")
    children.trial("much")
    bytearray(judge.memory_limit() + (200 << 20))
    children.trial("little again")
    return Verdict(tried=3)


def endless(random: Random, folder: Path) -> Verdict:
    children.trial("all of it")
    bytearray(children.ADDRESS_SPACE)
    return Verdict()


def said(text: str, status: int = 2) -> Callable[[Random, Path], Verdict]:
    def attack(random: Random, folder: Path) -> Verdict:
        def action() -> int:
            print(text)
            return status

        verdict = Verdict(tried=1)
        ended_well(verdict, children.in_child(action, group=False), "a command", allowed=(0, 2))
        return verdict

    return attack


def inner_crash(random: Random, folder: Path) -> Verdict:
    verdict = Verdict(tried=1)
    ended = children.in_child(lambda: os.kill(os.getpid(), signal.SIGABRT), group=False)
    ended_well(verdict, ended, "a command")
    return verdict


def outside(random: Random, folder: Path) -> Verdict:
    """A change beside the folder that is written to."""
    out, victim = folder / "out", folder / "victim"
    out.mkdir()
    victim.write_text("precious")
    before = drawn.state(folder, without=(out,))
    (out / "new").touch()
    verdict = Verdict(tried=1)
    if found := drawn.changes(before, drawn.state(folder, without=(out,))):
        verdict.found("attack", found)
    victim.write_text("PRECIOUS")
    if found := drawn.changes(before, drawn.state(folder, without=(out,))):
        verdict.found("outside", found)
    return verdict


CASES = {
    "good": good,
    "crash": crash,
    "hang": hang,
    "spin": spin,
    "slowed": slowed,
    "memory": memory,
    "endless": endless,
    "explained": said("yolodata: the folder 'x' does not exist"),
    "status": said("", 3),
    "traceback": said("Traceback (most recent call last):\n  File …"),
    "lines": said("x\n" * 500),
    "control": said("left out: \x1b[2J"),
    "lacking": said("memory does not suffice"),
    "inner crash": inner_crash,
    "outside": outside,
}

# A machine may take long to find gigabytes that nobody has touched yet.
SECONDS = {"hang": 1.0, "spin": 1.0, "slowed": 1.5, "memory": 120.0, "endless": 120.0}

if __name__ == "__main__":
    found = {}
    for name, attack in CASES.items():
        module = SimpleNamespace(attack=attack, __name__=name)
        seconds = SECONDS.get(name, children.HANG)
        with others() if attack is slowed else contextlib.nullcontext():
            verdict, peak = judge.run_case(module, "0", Path(sys.argv[1]), seconds=seconds)
        words = {each.wrong: each.said for each in verdict.findings}
        found[name] = {"tried": verdict.tried, "wrong": words, "peak": peak}
    print(json.dumps(found))
