"""A process that converts images: both ends of it.

It is asked through its standard input and answers through its standard output, some images at a
time. Bytes to store do not go that way, but through shared memory: a worker has a few banks, and a
bank is used again when the packer has stored what was in it. The process is started by
`subprocess`, not `multiprocessing`: it neither copies a parent full of threads nor runs the user's
script again. It ends when its input ends, however its parent died.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
from typing import IO, Any

import numpy as np

from yolodata.ingest import memory
from yolodata.ingest.convert import Outcome, PackSettings, prepare
from yolodata.ingest.sample import LabelRules, Split
from yolodata.shards.chunks import Chunk
from yolodata.shards.chunks import memory as chunk_memory

BANKS = 3  # requests of one worker whose answers may wait to be stored
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
_START += "from yolodata.ingest.worker import main; main(int(sys.argv[2]))"


class Worker:
    """The packer's end. busy: a thread is asking. free: banks that hold nothing."""

    def __init__(self, rules: LabelRules, settings: PackSettings) -> None:
        self.busy = False
        self.free = list(range(BANKS))
        self._about = (rules, settings)
        nbytes = settings.chunk_nbytes
        self._file = _file(BANKS * nbytes)
        view = chunk_memory(BANKS * nbytes, self._file.fileno())
        self._banks = [view[k * nbytes : (k + 1) * nbytes] for k in range(BANKS)]
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

    def ask(self, images: Split, bank: int) -> tuple[list[Outcome], Chunk | None]:
        """Have images converted that are stored together. Samples point into the bank.

        Returns:
            outcomes, and the chunk that the samples make up, if they do.
        """
        answer = self._ask(images, bank)
        if answer is not None:
            return answer
        if len(images.paths) == 1:
            return [Outcome(None, "the decoder crashed on it")], None
        single: list[Outcome] = []  # one after the other, to find out which image it is
        for k in range(len(images.paths)):
            for outcome in self.ask(images.part(range(k, k + 1)), bank)[0]:
                sample = outcome.sample
                kept = sample and sample._replace(data=bytes(sample.data))
                single.append(outcome._replace(sample=kept))
        return single, None

    def _ask(self, images: Split, bank: int) -> tuple[list[Outcome], Chunk | None] | None:
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
        chunk = Chunk(self._banks[bank])
        outcomes = [_with_data(outcome, chunk) for outcome in answer]
        whole = not any(
            outcome.sample and isinstance(outcome.sample.data, bytes) for outcome in outcomes
        )
        return outcomes, chunk if whole else None

    def close(self) -> None:
        """End the process; views of its banks stay readable."""
        self._closed = True
        self._process.kill()
        self._process.wait()
        self._file.close()


def _file(nbytes: int) -> IO[bytes]:
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


def _without_data(outcome: Outcome, chunk: Chunk) -> Outcome:
    """The outcome with the number of its bytes in the chunk, or with bytes that have no room there.

    Pixels were put into the chunk when they were made.
    """
    sample = outcome.sample
    if sample is None:
        return outcome
    place: Any = memoryview(sample.data).nbytes
    if not isinstance(sample.data, np.ndarray):
        room = chunk.room(place)
        if room.nbytes < place:
            place = bytes(sample.data)
        else:
            room[:] = np.frombuffer(sample.data, np.uint8)
            chunk.take(place)
    return outcome._replace(sample=sample._replace(data=place))


def _with_data(outcome: Outcome, chunk: Chunk) -> Outcome:
    """The inverse of `_without_data`, in the other process."""
    sample = outcome.sample
    if sample is None or not isinstance(sample.data, int):
        return outcome
    return outcome._replace(sample=sample._replace(data=chunk.take(sample.data)))


def main(file: int) -> None:
    """The process's end: answer requests until there are no more."""
    import cv2

    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    cv2.setNumThreads(1)
    banks = chunk_memory(os.fstat(file).st_size, file)
    while True:
        try:
            rules, settings, images, bank = pickle.load(requests)
        except (EOFError, pickle.UnpicklingError):  # within a request, if the packer was killed
            return
        nbytes = settings.chunk_nbytes
        chunk = Chunk(banks[bank * nbytes : (bank + 1) * nbytes])
        pixels = chunk if settings.codec == "raw" else None
        outcomes = prepare(images, range(len(images.paths)), rules, settings, pixels)
        results = [_without_data(outcome, chunk) for outcome in outcomes]
        try:
            _send(answers, results)
        except BrokenPipeError:  # the packer was killed
            os._exit(1)  # without another attempt to write it at exit
