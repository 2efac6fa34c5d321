"""A process that converts images: both ends of it.

It is asked through its standard input and answers through its standard output, one chunk of images
at a time. Bytes to store do not go that way, but through shared memory: a worker has a few banks,
and a bank is used again when the packer has stored what was in it. The process is started by
`subprocess`, not `multiprocessing`: it neither copies a parent full of threads nor runs the user's
script again. It ends when its input ends, however its parent died.
"""

from __future__ import annotations

import json
import mmap
import os
import pickle
import subprocess
import sys
import tempfile
from dataclasses import replace
from typing import IO, Any

from yolodata.ingest import memory
from yolodata.ingest.convert import Outcome, PackSettings, prepare
from yolodata.ingest.sample import LabelRules, Split

CHUNK = 8  # images of one request
BANKS = 3  # chunks of one worker that may wait to be stored
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
_START += "from yolodata.ingest.worker import main; main(int(sys.argv[2]))"


class Worker:
    """The packer's end. busy: a thread is asking. free: banks that hold nothing."""

    def __init__(self, rules: LabelRules, settings: PackSettings) -> None:
        self.busy = False
        self.free = list(range(BANKS))
        self._bank = CHUNK * settings.imgsz**2 * 3
        self._about = (rules, settings, self._bank)
        self._file = _memory(BANKS * self._bank)
        self._view = memoryview(mmap.mmap(self._file.fileno(), BANKS * self._bank))
        self._closed = False
        self._process = self._start()

    @staticmethod
    def possible() -> bool:
        """Whether processes can be started here and given a file descriptor."""
        return os.name == "posix" and bool(sys.executable)

    def _start(self) -> subprocess.Popen[bytes]:
        fd = self._file.fileno()
        return subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path), str(fd)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[fd],
            env={**os.environ, **memory.ENVIRONMENT},
            start_new_session=True,  # an interrupt is for the packer
        )

    def ask(self, images: Split, bank: int) -> list[Outcome]:
        """Have up to CHUNK images converted. Samples point into the bank."""
        outcomes = self._ask(images, bank)
        if outcomes is not None:
            return outcomes
        if len(images.paths) == 1:
            return [Outcome(None, "the decoder crashed on it")]
        single: list[Outcome] = []  # one after the other, to find out which image it is
        for k in range(len(images.paths)):
            for outcome in self.ask(images.part(range(k, k + 1)), bank):
                sample = outcome.sample
                kept = sample and replace(sample, data=bytes(sample.data))
                single.append(replace(outcome, sample=kept))
        return single

    def _ask(self, images: Split, bank: int) -> list[Outcome] | None:
        """None where the process died; there is a new one then."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _send(process.stdin, (*self._about, images, bank))
            answer = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            process.kill()
            process.wait()
            if self._closed:
                raise RuntimeError("packing was stopped") from None
            self._process = self._start()
            return None
        return [self._with_data(outcome) for outcome in answer]

    def _with_data(self, outcome: Outcome) -> Outcome:
        if outcome.sample is None or not isinstance(outcome.sample.data, slice):
            return outcome
        return replace(
            outcome, sample=replace(outcome.sample, data=self._view[outcome.sample.data])
        )

    def close(self) -> None:
        """End the process; views of its banks stay readable."""
        self._closed = True
        self._process.kill()
        self._process.wait()
        self._file.close()


def _memory(nbytes: int) -> IO[bytes]:
    """A file in memory, or on disk where the system has none."""
    file: IO[bytes]
    if hasattr(os, "memfd_create"):
        file = os.fdopen(os.memfd_create("yolodata-pack"), "r+b", buffering=0)
    else:
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - lives as long as the worker
    os.ftruncate(file.fileno(), nbytes)
    return file


def _send(pipe: Any, content: Any) -> None:
    pipe.write(pickle.dumps(content, pickle.HIGHEST_PROTOCOL))
    pipe.flush()


def main(file: int) -> None:
    """The process's end: answer requests until there are no more."""
    import cv2

    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    cv2.setNumThreads(1)
    view = memoryview(mmap.mmap(file, 0))
    while True:
        try:
            rules, settings, size, images, bank = pickle.load(requests)
        except EOFError:
            return
        at, end = bank * size, (bank + 1) * size
        outcomes = []
        for outcome in prepare(images, range(len(images.paths)), rules, settings):
            if outcome.sample is not None:
                data = memoryview(outcome.sample.data).cast("B")
                place: Any = bytes(data)
                if data.nbytes <= end - at:
                    place = slice(at, at + data.nbytes)
                    view[place] = data
                    at += data.nbytes
                outcome = replace(outcome, sample=replace(outcome.sample, data=place))
            outcomes.append(outcome)
        _send(answers, outcomes)
