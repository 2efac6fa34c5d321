"""A picture that ends the process while it is decoded: the same command leaves it out, by name."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from bounded import bounded
from ingesting import write_yolo

from yolodata import shards
from yolodata.errors import ResourceError
from yolodata.folders import Folder
from yolodata.ingest import crashes
from yolodata.ingest.convert import PackSettings
from yolodata.shards.format import WORK_FOLDER
from yolodata.train.distributed import launch

ROOT = Path(__file__).resolve().parents[1]

# Decoders of this site read where nothing is when a file says so. Where a file lists signals, their
# process is sent one of these at each call.
SITE = """
import ctypes, os, pathlib, cv2
from yolodata import _native

signals = pathlib.Path(__file__).with_name("signals")

def deadly(decoder):
    def decode(data, *rest, **more):
        if b"KILL" in bytes(data):
            ctypes.string_at(0)
        if signals.exists():
            left = signals.read_text().split()
            signals.write_text(" ".join(left[1:]))
            if left:
                os.kill(os.getpid(), int(left[0]))
        return decoder(data, *rest, **more)
    return decode

_native.decode_jpeg = deadly(_native.decode_jpeg)
cv2.imdecode = deadly(cv2.imdecode)
"""


def kill(file: Path) -> None:
    """Puts the word into a comment of a JPEG file."""
    data = file.read_bytes()
    file.write_bytes(data[:2] + b"\xff\xfe\x00\x06KILL" + data[2:])


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{ROOT}")
    return tmp_path


def test_the_same_command_leaves_out_what_crashes(site: Path) -> None:
    data, out = write_yolo(site / "data", {"train": 10, "val": 2}), site / "out"
    images = sorted((site / "data" / "images" / "train").iterdir())
    for number in (3, 4):
        kill(images[number])
    line = ["-m", "yolodata", "shard", data, out, "--imgsz", "32", "--workers", "1"]

    def run() -> tuple[int, str]:
        done = subprocess.run([sys.executable, *map(str, line)], capture_output=True)
        return done.returncode, done.stderr.decode()

    assert run()[0] == -signal.SIGSEGV
    code, said = run()
    assert "trying each in a process of its own" in said
    if code == -signal.SIGSEGV:  # the second one was not in work yet when the first one crashed
        code, said = run()
    assert code == 0
    with shards.open(out, "train") as dataset:
        assert len(dataset) == 8
        expected = [(str(images[k]), "the decoder crashes on it (SIGSEGV)") for k in (3, 4)]
        assert list(dataset.meta.left_out) == expected
    assert not (out / "train" / WORK_FOLDER).exists()


def test_images_that_were_only_in_work_stay(tmp_path: Path) -> None:
    """Whoever is killed from outside leaves the same notes."""
    write_yolo(tmp_path, {"train": 3, "val": 1})
    files = sorted((tmp_path / "images" / "train").iterdir())
    files[1].write_bytes(b"broken")
    work = Folder.at(tmp_path)
    notes = crashes.InWork(work, 2)
    with notes.on(range(2)):
        assert crashes.noted(work) == [0, 1]
        with notes.on(range(2, 3)):
            assert crashes.noted(work) == [0, 1, 2]
    assert crashes.noted(work) == []
    notes.close()
    paths = {number: str(file) for number, file in enumerate(files)}
    assert crashes.crashing(paths, PackSettings(imgsz=32)) == {}


def test_notes_of_somebody_else_are_neither_read_to_an_end_nor_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Folder.at(tmp_path)
    with (tmp_path / crashes.NOTES).open("wb") as file:
        file.write(crashes._RANGE.pack(0, 2))
        file.truncate(1 << 30)
    with bounded(memory=256 << 20):
        assert crashes.noted(work) == []
    monkeypatch.setattr(Folder, "remove", lambda *_: None)  # as if it came back meanwhile
    with pytest.raises(FileExistsError):
        crashes.InWork(work, 2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_who_is_ended_from_outside_tries_again(site: Path, number: signal.Signals) -> None:
    """As the system does it where memory is short; what only looks like a crash is none either."""
    write_yolo(site, {"train": 3, "val": 1})
    files = sorted((site / "images" / "train").iterdir())
    kill(files[2])
    paths = {image: str(file) for image, file in enumerate(files)}
    signals, settings = site / "site" / "signals", PackSettings(imgsz=32)
    deadly = number == signal.SIGKILL
    signals.write_text(f"0 {number} {number if deadly else 0}")  # at the second image, twice
    assert crashes.crashing(paths, settings) == {2: "the decoder crashes on it (SIGSEGV)"}
    assert signals.read_text() == ("" if deadly else "0")
    if deadly:
        signals.write_text(f"0 {number} {number} {number}")
        with pytest.raises(ResourceError, match=rf"001\.jpg.*3 times \({number.name}\).*no image"):
            crashes.crashing(paths, settings)


def test_a_process_that_cannot_start_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('no numpy here')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    with pytest.raises(ResourceError, match="could not start: no numpy here"):
        crashes.crashing({0: "x.jpg"}, PackSettings())


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (errno.EAGAIN, "no more can be started; raise the limit (`ulimit -u`"),
        (errno.ENOMEM, "memory does not suffice"),
        (errno.EPERM, "[Errno 1] Operation not permitted"),
    ],
)
def test_limits_on_processes_are_said(
    number: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where training starts some."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subprocess, "Popen", refused)
    with pytest.raises(ResourceError, match=re.escape(f"after a crash cannot be started: {why}")):
        crashes.crashing({0: "x.jpg"}, PackSettings())
    with pytest.raises(ResourceError, match=re.escape(f"torchrun cannot be started: {why}")):
        launch.launch([], 2)
