"""Images on which a decoder ends the whole process: found after the crash, and left out.

Decoders are native code, and one that writes where it must not ends the packer without a word. So
each worker notes in a file which images it is at; a packer that ends in good order clears its
notes. One that finds notes of another tries those images in a process of its own before it begins,
and leaves out those that end it. Nothing of this costs anything while nothing crashes: packing in
processes, to be safe at once, would cost each image (Note [threads, not processes] in workers.py).

Note [whose signal it was]. The process that tries images may be ended from outside: by the system
because memory is short, by a scheduler, by a person. No image is to blame for that. The signals of
a crash are blocked there from its start on. One that is sent is then never delivered, but the
kernel ends a process whose own instruction causes a blocked one, and `abort` unblocks its signal
itself. So whatever ends the process with one of these is a crash of its own; after any other, the
image is tried again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping

from yolodata.errors import ResourceError, is_out_of_memory, starting
from yolodata.files import write_all
from yolodata.folders import Folder
from yolodata.ingest.convert import PackSettings, try_decoding
from yolodata.isolation import child_environment

NOTES = "in-work"
_RANGE = struct.Struct("<qq")  # numbers of the images that a worker is at, from and to
_NOTED = 8  # images of a range: no worker is at more
_LIMIT = 1 << 16  # bytes of the file, for some thousand workers
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)
_BEGIN = b"yolodata begins with the next image"
_TRIES = 3  # of an image, where the process is ended from outside


class InWork:
    """Notes, in a file that outlives the process, which images its workers are at.

    Args:
        work: folder for the file; one that is there is replaced.
        workers: threads that convert images.
        known: images that are left out because they crash; they stay noted.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, work: Folder, workers: int, known: Iterable[int] = ()) -> None:
        kept = b"".join(_RANGE.pack(image, image + 1) for image in known)
        self._free = list(range(workers))
        work.remove(NOTES)
        self._fd = work.open(NOTES, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
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


def noted(work: Folder) -> list[int]:
    """Gives the images that a packer was at when it ended suddenly, sorted."""
    try:
        data = work.read(NOTES, _LIMIT)
    except OSError:
        return []
    whole = data[: len(data) // _RANGE.size * _RANGE.size]
    ranges = [(start, stop) for start, stop in _RANGE.iter_unpack(whole) if 0 <= start < stop]
    return sorted(
        {image for start, stop in ranges for image in range(start, min(stop, start + _NOTED))}
    )


def crashing(paths: Mapping[int, str], settings: PackSettings) -> dict[int, str]:
    """Tries images in processes of their own; gives those that end them, with the reason.

    Raises:
        ResourceError: such a process cannot be started, or is ended from outside again and again.
    """
    found: dict[int, str] = {}
    images = list(paths)
    how = [settings.codec, str(settings.imgsz), str(settings.reencode or "")]
    how.append("keep" if settings.keep_files else "")
    command = [sys.executable, "-m", "yolodata.ingest.crashes", *how]
    ended = 0  # times in a row that it was ended from outside
    while images:
        with _blocked(_CRASHES), starting("a process that tries images after a crash"):
            done = subprocess.run(
                command,
                input=b"\0".join(os.fsencode(paths[image]) for image in images),
                env={**os.environ, **child_environment()},
                capture_output=True,
            )
        begun = done.stdout.split(b"\n").count(_BEGIN)  # a decoder may print something, too
        if done.returncode == 0:
            break
        said = done.stderr.decode(errors="replace").strip()[-500:]
        its_own = -done.returncode in _CRASHES and not is_out_of_memory(RuntimeError(said))
        if its_own and begun:
            found[images[begun - 1]] = f"the decoder crashes on it ({_name(done.returncode)})"
        elif done.returncode < 0 and not its_own:
            at = max(begun, 1) - 1
            ended = ended + 1 if at == 0 else 1
            if ended == _TRIES:
                raise ResourceError(
                    f"{paths[images[at]]}: was tried in a process of its own, because an earlier "
                    f"run ended suddenly, and that process was ended {ended} times "
                    f"({_name(done.returncode)}), as the system does where memory is short; free "
                    "some, or take the image out of the dataset; no image was left out for it, "
                    "and the same command continues"
                )
            images = images[at:]
            continue
        elif not begun:
            raise ResourceError(
                "a process that tries images after a crash could not start: "
                f"{said or done.returncode}; run the same command again, which continues"
            )
        ended = 0
        images = images[begun:]
    return found


@contextlib.contextmanager
def _blocked(signals: Iterable[signal.Signals]) -> Iterator[None]:
    """Blocks signals in this thread, and in all threads of processes that it starts meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _name(returncode: int) -> str:
    try:
        return signal.Signals(-returncode).name
    except ValueError:  # a real-time signal
        return f"signal {-returncode}"


def _main() -> None:
    """Decodes the files that are named on stdin, and says before each that it begins."""
    codec, imgsz, reencode, keep = sys.argv[1:]
    quality = int(reencode) if reencode else None
    settings = PackSettings(codec, int(imgsz), quality, keep_files=bool(keep))
    for path in sys.stdin.buffer.read().split(b"\0"):
        os.write(1, b"\n" + _BEGIN + b"\n")
        try_decoding(os.fsdecode(path), settings)


if __name__ == "__main__":
    _main()
