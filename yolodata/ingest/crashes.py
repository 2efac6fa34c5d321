"""Images on which a decoder ends the whole process: found after the crash, and left out.

Decoders are native code, and one that writes where it must not ends the packer without a word. So
each worker notes in a file which images it is at; a packer that ends in good order clears its
notes. One that finds notes of another tries those images in a process of its own before it begins,
and leaves out those that end it. Nothing of this costs anything while nothing crashes: packing in
processes, to be safe at once, would cost each image (Note [threads, not processes] in workers.py).
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from yolodata.errors import ResourceError
from yolodata.files import write_all
from yolodata.ingest.convert import PackSettings, try_decoding
from yolodata.isolation import child_environment

NOTES = "in-work"
_RANGE = struct.Struct("<qq")  # numbers of the images that a worker is at, from and to
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)


class InWork:
    """Notes, in a file that outlives the process, which images its workers are at.

    Args:
        work: folder for the file.
        workers: threads that convert images.
        known: images that are left out because they crash; they stay noted.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, work: Path, workers: int, known: Iterable[int] = ()) -> None:
        kept = b"".join(_RANGE.pack(image, image + 1) for image in known)
        self._free = list(range(workers))
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._fd = os.open(work / NOTES, flags, 0o666)
        write_all(self._fd, bytes(_RANGE.size * workers) + kept, 0)

    @contextlib.contextmanager
    def on(self, images: range) -> Iterator[None]:
        """While a worker is at these images."""
        place = self._free.pop()
        self._note(place, images.start, images.stop)
        try:
            yield
        finally:
            self._note(place, 0, 0)
            self._free.append(place)

    def _note(self, place: int, start: int, stop: int) -> None:
        with contextlib.suppress(OSError):  # the shards will find out
            os.pwrite(self._fd, _RANGE.pack(start, stop), place * _RANGE.size)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._fd)


def noted(work: Path) -> list[int]:
    """Gives the images that a packer was at when it ended suddenly, sorted."""
    try:
        data = (work / NOTES).read_bytes()
    except OSError:
        return []
    whole = data[: len(data) // _RANGE.size * _RANGE.size]
    ranges = [(start, stop) for start, stop in _RANGE.iter_unpack(whole) if 0 <= start < stop]
    return sorted({image for start, stop in ranges for image in range(start, min(stop, start + 8))})


def crashing(paths: Mapping[int, str], settings: PackSettings) -> dict[int, str]:
    """Tries images in processes of their own; gives those that end them, with the reason.

    Raises:
        ResourceError: no such process can be started.
    """
    found: dict[int, str] = {}
    images = list(paths)
    how = [settings.codec, str(settings.imgsz), str(settings.reencode or "")]
    command = [sys.executable, "-m", "yolodata.ingest.crashes", *how]
    while images:
        done = subprocess.run(
            command,
            input=b"\0".join(os.fsencode(paths[image]) for image in images),
            env={**os.environ, **child_environment()},
            capture_output=True,
        )
        begun = len(done.stdout.split())
        if done.returncode == 0:
            break
        if not begun:
            raise ResourceError(
                "a process that tries images after a crash could not start: "
                f"{done.stderr.decode(errors='replace').strip()[-500:] or done.returncode}"
            )
        if -done.returncode in _CRASHES:
            name = signal.Signals(-done.returncode).name
            found[images[begun - 1]] = f"the decoder crashes on it ({name})"
        images = images[begun:]
    return found


def _main() -> None:
    """Decodes the files that are named on stdin, and says before each that it begins."""
    codec, imgsz, reencode = sys.argv[1:]
    settings = PackSettings(codec, int(imgsz), int(reencode) if reencode else None)
    for path in sys.stdin.buffer.read().split(b"\0"):
        print("begin", flush=True)
        try_decoding(os.fsdecode(path), settings)


if __name__ == "__main__":
    _main()
