"""A fault of the machine ends a pack with its name, once; no picture is blamed for it."""

from __future__ import annotations

import builtins
import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from ingesting import pack_arguments, write_yolo
from PIL import Image

from yolodata.errors import DatasetError, ResourceError
from yolodata.files import read_regular
from yolodata.ingest import image_check, pack

ROOT = Path(__file__).resolve().parents[1]
NO_MEMORY = "OpenCV(5.0.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_yolo(tmp_path / "data", {"train": 9, "val": 2})


def packed(data: Path, **changes: Any) -> list[tuple[str, str]]:
    out = data.parent.parent / "out"
    how = pack_arguments(imgsz=32, progress=False, workers=2, **changes)
    report = pack(data, out, **how)
    return [entry for split in report.splits.values() for entry in split.left_out]


def failing(
    number: int, suffix: str, call: Callable[..., Any] = builtins.open
) -> Callable[..., Any]:
    """`open`, or what reads a whole file, that the system refuses one file."""

    def opened(path: Any, *rest: Any, **more: Any) -> Any:
        if str(path).endswith(suffix):
            raise OSError(number, os.strerror(number), path)
        return call(path, *rest, **more)

    return opened


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO])
def test_a_file_that_the_machine_cannot_read(
    data: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refused = failing(number, "train/005.jpg", read_regular)
    monkeypatch.setattr(image_check, "read_regular", refused)
    with pytest.raises(ResourceError, match=r"train/005\.jpg"):
        packed(data)
    monkeypatch.undo()
    assert not packed(data)


def test_a_file_that_nobody_may_read_is_its_own_fault(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = failing(errno.EACCES, "train/005.jpg", read_regular)
    monkeypatch.setattr(image_check, "read_regular", refused)
    assert [os.path.basename(path) for path, _ in packed(data)] == ["005.jpg"]


def test_pillow_that_cannot_open_its_own_files(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It imports its readers of formats when it first needs them."""
    picture = cv2.imencode(".png", np.zeros((20, 30, 3), np.uint8))[1].tobytes()
    (data.parent / "images" / "train" / "picture.png").write_bytes(picture)

    def no_file(*_: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(image_check, "open_picture", no_file)
    with pytest.raises(ResourceError, match=r"picture\.png: too many files are open"):
        packed(data)
    monkeypatch.undo()
    assert not packed(data)


def test_a_disk_that_goes_away(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, away = data.parent / "images", data.parent / "unmounted"

    def opened(path: Any, *rest: Any, **more: Any) -> Any:
        if str(path).endswith("train/004.jpg") and images.exists():
            images.rename(away)
        return read_regular(path, *rest, **more)

    monkeypatch.setattr(image_check, "read_regular", opened)
    with pytest.raises(ResourceError, match="whether its disk is still mounted"):
        packed(data)
    monkeypatch.undo()
    away.rename(images)
    assert not packed(data)


def test_a_label_file_that_the_machine_cannot_read(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yolodata.ingest import yolo

    refused = failing(errno.EMFILE, "train/006.txt", read_regular)
    monkeypatch.setattr(yolo, "read_regular", refused)
    with pytest.raises(ResourceError, match=r"train/006\.jpg.*ulimit -n"):
        packed(data)
    monkeypatch.undo()
    assert not packed(data)


@pytest.mark.parametrize("name", ["yolodata-pack", "yolodata-shard"])
def test_threads_that_cannot_start(data: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if thread.name.startswith(name):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(ResourceError, match=r"no more threads.*ulimit -u"):
        packed(data)
    monkeypatch.undo()
    assert not packed(data)


def no_memory_for_a_result() -> Exception:
    """What Python makes of OpenCV's going on where there is no memory for its result."""
    error = SystemError("<built-in function imdecode> returned a result with an exception set")
    error.__cause__ = MemoryError()
    return error


@pytest.mark.parametrize(
    "error",
    [cv2.error(NO_MEMORY), MemoryError(), no_memory_for_a_result()],
    ids=["cv2", "python", "both"],
)
@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_memory_that_ends_while_decoding(
    data: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, codec: str
) -> None:
    picture = cv2.imencode(".png", np.zeros((20, 30, 3), np.uint8))[1].tobytes()
    (data.parent / "images" / "train" / "picture.png").write_bytes(picture)

    def decode(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(cv2, "imdecode", decode)
    with pytest.raises(ResourceError, match="memory does not suffice"):
        packed(data, codec=codec)
    monkeypatch.undo()
    assert not packed(data, codec=codec)


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_opencv_has_no_ordinary_jpeg(
    data: Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    """It crashes where it is refused memory, which no error says and nobody can catch."""
    scans = data.parent / "images" / "train" / "scans.jpg"
    Image.fromarray(np.full((20, 30, 3), 9, np.uint8)).save(scans, progressive=True)

    def called(*_: Any) -> Any:
        pytest.fail("OpenCV is called")

    def refused(*_: Any, **__: Any) -> Any:
        raise ValueError("Insufficient memory (case 4)")  # what libjpeg-turbo says

    out = data.parent.parent / "out"
    monkeypatch.setattr(cv2, "imdecode", called)
    for keep_files in (False, True) if codec == "jpeg" else (False,):
        assert not packed(data, codec=codec, keep_files=keep_files)
        shutil.rmtree(out)
        with monkeypatch.context() as patch:
            patch.setattr(simplejpeg, "decode_jpeg", refused)
            with pytest.raises(ResourceError, match="memory does not suffice"):
                packed(data, codec=codec, keep_files=keep_files)
        assert not packed(data, codec=codec, keep_files=keep_files)
        shutil.rmtree(out)


LIMITED = """
import resource, sys
from yolodata.cli import main
import cv2, numpy, simplejpeg, xxhash, yaml, PIL.Image, tqdm, yolodata.ingest.packing
cv2.imdecode(numpy.frombuffer(open(sys.argv[3], "rb").read(), numpy.uint8), 1)
used = 4096 * int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (used + (90 << 20), -1))
sys.exit(main(["shard", *sys.argv[1:3], "--imgsz", "32", "--workers", "1", "--quiet"]))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_an_address_space_that_is_too_small(data: Path) -> None:
    large = data.parent / "images" / "val" / "large.png"
    large.write_bytes(cv2.imencode(".png", np.zeros((7000, 7000), np.uint8))[1].tobytes())
    out, small = data.parent.parent / "out", data.parent / "images" / "val" / "000.jpg"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(data), str(out), str(small)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
    )
    assert done.returncode == 2, done.stderr.decode()
    assert b"large.png: memory does not suffice" in done.stderr
    assert b"Traceback" not in done.stderr
    assert not packed(data)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOMEM, errno.EIO])
def test_a_folder_that_cannot_be_read(
    data: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Its images are missing: that is said where it is the folder's own fault, else an error."""
    (data.parent / "images" / "train" / "more").mkdir()
    scandir = os.scandir

    def refused(path: Any = ".") -> Any:
        if str(path).endswith("train/more"):
            raise OSError(number, os.strerror(number), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    if number == errno.EACCES:
        [(path, reason)] = packed(data)
        assert path.endswith("train/more")
        assert reason == "the folder cannot be read: Permission denied"
    else:
        with pytest.raises((DatasetError, ResourceError), match="train/more"):
            packed(data)
