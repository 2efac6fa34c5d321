"""Forked children: warm, limited, watched.

The process that forks has imported everything already, has one thread, and does nothing else, so
that a child costs some milliseconds and not a second.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import mmap
import os
import resource
import select
import signal
import struct
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

# tqdm's own lock is one of all forks: that one of them was killed with it would stop the others.
tqdm.set_lock(threading.RLock())

HANG = 10.0  # seconds that a trial may take, on a processor or waiting for anything else
ADDRESS_SPACE = 8 << 30  # bytes of a child; more would endanger other processes of the machine
FILE_SIZE = 8 << 30  # bytes
RAISED = 70  # exit status of a child that ended with an exception (EX_SOFTWARE)
_BEAT = struct.Struct("dqq500p500p")
"""When the trial began, trials so far, the peak of memory, what is tried, what had that peak."""


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        status: its exit status, -1 after a signal.
        signal: what ended it, 0 if none did.
        hung: it was ended because a trial took longer than it may.
        seconds: wall time.
        peak: bytes of memory, the largest of it and of its children.
        said: what it wrote to stdout and stderr.
        result: what the action returned, if JSON can hold it.
        trials: how many it had begun.
        tried: what the last one was.
        largest: what the one with the peak of memory was.
    """

    status: int
    signal: int
    hung: bool
    seconds: float
    peak: int
    said: str
    result: Any
    trials: int
    tried: str
    largest: str

    @property
    def how(self) -> str:
        """How it ended, and the end of what it said."""
        if self.hung:
            how = f"hung for {self.seconds:.1f} s"
        elif self.signal:
            how = f"ended by {signal.Signals(self.signal).name}"
        else:
            how = f"exit status {self.status}"
        said = self.said.strip()
        stacks = said.find("Fatal Python error")  # of faulthandler: all threads
        return f"{how}: {said[stacks : stacks + 8000] if stacks >= 0 else said[-1500:]}"


class _Beat:
    """The current trial of a process, seen from outside."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _BEAT.size)
        _BEAT.pack_into(self._memory, 0, time.monotonic(), 0, 0, b"", b"")

    def next(self, what: str) -> None:
        """Says what is tried now, and remembers what took the most memory before."""
        self.end()
        _, trials, peak, _, largest = _BEAT.unpack_from(self._memory)
        text = what.encode("utf-8", "backslashreplace")
        _BEAT.pack_into(self._memory, 0, time.monotonic(), trials + 1, peak, text, largest)

    def end(self) -> None:
        """Looks whether what was tried has the peak of memory."""
        began, trials, peak, what, largest = _BEAT.unpack_from(self._memory)
        for whom in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            now = resource.getrusage(whom).ru_maxrss
            if now > peak:
                peak, largest = now, what
        _BEAT.pack_into(self._memory, 0, began, trials, peak, what, largest)

    def wait(self) -> None:
        """Has the time of the trial begin anew."""
        _, *rest = _BEAT.unpack_from(self._memory)
        _BEAT.pack_into(self._memory, 0, time.monotonic(), *rest)

    def began(self) -> float:
        """Gives when the trial began."""
        return float(_BEAT.unpack_from(self._memory)[0])

    def get(self) -> tuple[int, str, str]:
        """Gives the trials so far, what is tried, what had the peak."""
        _, trials, _, *texts = _BEAT.unpack_from(self._memory)
        what, largest = (text.decode("utf-8", "replace") for text in texts)
        return trials, what, largest


class _Stopwatch:
    """How long a trial of a process takes, without the time in which others had the processors.

    Threads wait for each other, and end: what they ran and waited is added up from look to look.
    """

    def __init__(self, pid: int, beat: _Beat) -> None:
        self._pid, self._beat = pid, beat
        self._began = self._ran = self._took = self._waited = 0.0
        self._at = time.monotonic()
        self._known: dict[str, tuple[float, float]] = {}

    def seconds(self) -> float:
        """Looks again; often, because what a thread waited after the last look ends with it."""
        now, began = time.monotonic(), self._beat.began()
        took, self._at = now - self._at, now
        if began != self._began:
            self._began = began
            self._ran = self._took = self._waited = took = 0.0
        known, ran, waited = self._known, 0.0, 0.0
        self._known = {}
        for task, ready, running, waiting in _tasks(self._pid):
            ran_before, waited_before = known.get(task, (0.0, 0.0))
            # The system adds a wait when it is over, however long it is.
            waits = took if ready and running == ran_before else 0.0
            waiting = max(waiting, waited_before + waits)
            self._known[task] = running, waiting
            ran = max(ran, running - ran_before)
            waited += waiting - waited_before
        self._ran += ran if took else 0.0
        self._took += took
        self._waited += waited if took else 0.0
        return max(self._ran, self._took - self._waited)


def _tasks(pid: int | str) -> Iterator[tuple[str, bool, float, float]]:
    """Gives the threads of a process, and of those that it started.

    Of each its number, whether it runs or could, the seconds that it ran, and those in which it
    could, and had no processor.
    """
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError, ValueError):
                _, _, state = (task / "stat").read_text(encoding="utf-8").rpartition(")")
                ran, waited, _ = (task / "schedstat").read_text(encoding="ascii").split()
                yield task.name, state.split()[0] == "R", int(ran) / 1e9, int(waited) / 1e9
                for child in (task / "children").read_text(encoding="ascii").split():
                    yield from _tasks(child)


_beat = _Beat()


def trial(what: str = "") -> None:
    """Says that a trial begins: `HANG` counts from here."""
    _beat.next(what)


def in_child(
    action: Callable[[], Any],
    *,
    seconds: float = HANG,
    kill_after: float | None = None,
    kill_with: int = signal.SIGKILL,
    group: bool = True,
) -> Ended:
    """Runs something in a fork of this process.

    Args:
        action: what the child does; an exception ends it with `RAISED` and a traceback.
        seconds: how long a trial of it may take (see `trial`); the whole, if it begins none.
        kill_after: seconds after which it gets a signal.
        kill_with: that signal.
        group: it is the head of a process group, which is killed at the end. What a case starts
            stays in the case's group, so that it ends with it.
    """
    global _beat
    own, _beat = _beat, _Beat()
    beat = _beat
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as result:
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _child(action, said.fileno(), result.fileno(), group)
        _beat = own
        hung = _watch(pid, beat, own, seconds, kill_after, kill_with)
        if hung:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGABRT)  # so that faulthandler says where it was
            time.sleep(0.5)
            _kill(pid, group)
        _, status, usage = os.wait4(pid, 0)
        if group:
            _kill(pid, group)
        took = time.monotonic() - began
        code = os.waitstatus_to_exitcode(status)
        said.seek(0)
        words = said.read(1 << 20).decode("utf-8", "backslashreplace")
        result.seek(0)
        text = result.read()
    return Ended(
        status=max(code, -1),
        signal=0 if hung else max(-code, 0),
        hung=hung,
        seconds=took,
        peak=usage.ru_maxrss << 10,
        said=words,
        result=json.loads(text) if text else None,
        trials=beat.get()[0],
        tried=beat.get()[1],
        largest=beat.get()[2],
    )


def _watch(
    pid: int,
    beat: _Beat,
    own: _Beat,
    seconds: float,
    kill_after: float | None,
    kill_with: int,
) -> bool:
    """Waits for the end of a child; whether a trial of it takes too long.

    Whoever waits here does not hang: `own` says so to the process above.
    """
    fd = os.pidfd_open(pid)
    watch = _Stopwatch(pid, beat)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, kill_with)
        while not poll.poll(50):
            own.wait()
            if watch.seconds() > seconds:
                return True
        return False
    finally:
        os.close(fd)


def _kill(pid: int, group: bool) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if group:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)


def _child(action: Callable[[], Any], said: int, result: int, group: bool) -> None:
    """Never returns."""
    status = RAISED
    try:
        if group:
            os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(said, 1)
        os.dup2(said, 2)
        faulthandler.enable(file=2)
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        value = action()
        _beat.end()
        status = value if isinstance(value, int) else 0
        if value is not None and not isinstance(value, int):
            os.write(result, json.dumps(value).encode())
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))
    finally:
        import sys

        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(status)


def run_command(words: list[str], folder: Path, **options: Any) -> Ended:
    """Runs `yolodata WORDS` in a child, in a folder."""
    from yolodata import cli

    def action() -> int:
        os.chdir(folder)
        return cli.main(words)

    return in_child(action, group=False, **options)
