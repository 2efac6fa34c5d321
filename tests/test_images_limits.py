"""Pictures that would take too much memory or time: no decoder is called for them."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import struct
import sys
import threading
import time
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from ingesting import write_yolo
from PIL import EpsImagePlugin, Image, ImageFile
from test_images_decode import encoded

import yolodata.shards as shards
from yolodata import _native
from yolodata.errors import DatasetError, ShardError
from yolodata.images import decode as decoders
from yolodata.images import formats, limits
from yolodata.images import jpeg_2000 as jpeg2k
from yolodata.images.decode import decode_image, decode_jpeg
from yolodata.ingest import PackSettings, pack
from yolodata.ingest.image_check import check_image, decode_rgb
from yolodata.ingest.sample import Refused
from yolodata.pipeline.image_reader import decode_into
from yolodata.shards.verify import verify

HEIGHT, WIDTH = 47, 61  # of the files of `encoded`
KINDS = ("jpg", "exif-6-jpg", "cmyk jpg", "png", "bmp", "webp", "tif", "jp2", "avif")


def stating(kind: str, height: int, width: int) -> tuple[str, bytes]:
    """A small file whose header states another size: name and bytes."""
    name, file = encoded(kind)
    data = bytearray(file)
    suffix = name.rpartition(".")[2]
    if suffix == "jpg":
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    elif suffix == "png":
        struct.pack_into(">II", data, 16, width, height)
        struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    elif suffix == "bmp":
        struct.pack_into("<ii", data, 18, width, height)
    elif suffix == "webp":
        struct.pack_into("<HH", data, 26, width, height)
    elif suffix == "tif":
        for tag, side in ((256, width), (257, height)):
            struct.pack_into("<I", data, data.index(struct.pack("<HHI", tag, 4, 1)) + 8, side)
    elif suffix == "jp2":
        struct.pack_into(">II", data, data.index(b"\xff\x4f\xff\x51") + 8, width, height)
    elif suffix == "avif":
        struct.pack_into(">II", data, data.index(b"ispe") + 8, width, height)
    return name, bytes(data)


def with_scans(count: int, size: tuple[int, int] = (WIDTH, HEIGHT), **options: Any) -> bytes:
    """A progressive JPEG file whose last scan is there until it has so many."""
    file = io.BytesIO()
    Image.new("L", size, 128).save(file, "JPEG", progressive=True, **options)
    data = file.getvalue()
    begins = [found.start() for found in re.finditer(b"\xff\xda", data)]
    return data[:-2] + data[begins[-1] : -2] * (count - len(begins)) + b"\xff\xd9"


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*_: Any, **__: Any) -> None:
        pytest.fail("a decoder was called")

    for module, name in (
        (cv2, "imdecode"),
        (cv2, "imdecodemulti"),
        (simplejpeg, "decode_jpeg"),
        (_native, "decode_jpeg"),
        (ImageFile.ImageFile, "load"),
    ):
        monkeypatch.setattr(module, name, called)


@pytest.mark.usefixtures("no_decoder")
@pytest.mark.parametrize("kind", KINDS)
def test_no_picture_over_the_limit_is_decoded(kind: str) -> None:
    name, data = stating(kind, 16000, 16001)
    array = np.frombuffer(data, np.uint8)
    assert decode_jpeg(array) is None
    with pytest.raises(DatasetError, match=f"{name}: 16001 x 16000 pixels; at most 178,956,970"):
        decode_image(array, 640, name)
    with pytest.raises(Refused, match=r"^16001 x 16000 pixels; at most 178,956,970"):
        check_image(data, name)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_limit_is_raised_with_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    name, data = stating("tif", 16000, 16001)
    for limit in (16000 * 8001, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert check_image(data, name).label_shape == (16000, 16001)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH // 2)  # and lowered
    with pytest.raises(DatasetError, match="at most 2,866 pixels"):
        decode_image(np.frombuffer(encoded("jpg")[1], np.uint8), None, "x.jpg")


@pytest.mark.usefixtures("no_decoder")
def test_no_memory_is_taken_for_what_a_file_has_not() -> None:
    """OpenCV takes as much as a PNG's chunk or a TIFF's samples state."""
    name, file = encoded("png")
    data = bytearray(file)
    at = data.index(b"IDAT") - 4
    struct.pack_into(">I", data, at, 3 << 30)
    with pytest.raises(DatasetError, match="not a picture"):
        decode_image(np.frombuffer(data, np.uint8), None, name)
    name, file = stating("tif", 9000, 9000)
    data = bytearray(file)
    at = data.index(struct.pack("<HHI", 277, 3, 1)) + 8
    struct.pack_into("<H", data, at, 60_000)
    with pytest.raises(DatasetError, match="bytes of memory; at most"):
        decode_image(np.frombuffer(data, np.uint8), None, name)


def jpeg_2000(
    sides: tuple[int, int] = (1400, 1400),
    tile: tuple[int, int] = (1 << 20, 1 << 20),
    precinct: int = 0xFF,
    block: int = 4,
    layers: int = 1,
    in_tile: bytes = b"",
    components: int = 3,
) -> bytes:
    """A codestream that has next to no data; OpenCV decodes it."""

    def segment(marker: int, body: bytes) -> bytes:
        return struct.pack(">HH", marker, 2 + len(body)) + body

    size = struct.pack(">H8IH", 0, *sides, 0, 0, *tile, 0, 0, components)
    size += bytes((7, 1, 1)) * components
    coding = struct.pack(">BBHBBBBBBB", 1, 0, layers, 0, 0, block, block, 0, 1, precinct)
    head = segment(0xFF51, size) + segment(0xFF52, coding) + segment(0xFF5C, b"\x40\x40")
    part = struct.pack(">HHHIBB", 0xFF90, 10, 0, 24 + len(in_tile), 0, 1) + in_tile
    return b"\xff\x4f" + head + part + b"\xff\x93" + bytes(10) + b"\xff\xd9"


def with_palette(codestream: bytes, channels: int) -> bytes:
    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(content), kind) + content

    palette = struct.pack(">HB", 1, channels) + bytes((7,)) * channels + bytes(channels)
    head = box(b"ihdr", bytes(14)) + box(b"pclr", palette)
    signature = b"\0\0\0\x0cjP  \r\n\x87\n"
    return signature + box(b"jp2h", head) + box(b"jp2c", codestream)


_COD = struct.pack(">HHBBHBBBBBBB", 0xFF52, 13, 1, 0, 1, 0, 0, 4, 4, 0, 1, 0)
_COC = struct.pack(">HHBBBBBBBB", 0xFF53, 10, 0, 1, 0, 4, 4, 0, 1, 0)
_COMMENT = struct.pack(">HHHB", 0xFF64, 5, 1, 9)
HUNGRY = {
    "precincts": jpeg_2000(precinct=0),
    "precincts of a tile": jpeg_2000(in_tile=_COMMENT + _COD),
    "precincts of a component": jpeg_2000(in_tile=_COC),
    "code blocks": jpeg_2000((13000, 13000), block=0),
    "a palette": with_palette(jpeg_2000((4000, 4000)), 200),
}


@pytest.mark.usefixtures("no_decoder")
@pytest.mark.parametrize("kind", HUNGRY)
def test_jpeg_2000_is_not_all_samples(kind: str) -> None:
    """Files of 100 bytes for which OpenJPEG took more than 4 GB."""
    with pytest.raises(DatasetError, match=r"pixels take [\d,]+ bytes of memory; at most"):
        decode_image(np.frombuffer(HUNGRY[kind], np.uint8), None, "x.jp2")
    with pytest.raises(Refused, match=r"pixels take [\d,]+ bytes of memory; at most"):
        check_image(HUNGRY[kind], "x.jp2")


@pytest.mark.usefixtures("no_decoder")
@pytest.mark.parametrize(
    "data",
    [
        # A minute for 800 million packets of which there is none.
        jpeg_2000((640, 640), (64, 64), precinct=0x33, layers=65535),
        # 7 GB for 65,025 tiles of 100 components, of which OpenCV then decodes none.
        jpeg_2000((255, 255), (1, 1), components=100),
        # OpenJPEG looks for the next marker that it knows; so a parameter could be hidden.
        jpeg_2000().replace(b"\xff\x5c", b"\xff\x7c"),
    ],
    ids=["packets", "components", "unknown marker"],
)
def test_jpeg_2000_that_no_encoder_writes(data: bytes) -> None:
    with pytest.raises(DatasetError, match="not a picture which is decoded"):
        decode_image(np.frombuffer(data, np.uint8), None, "x.jp2")


def test_a_jpeg_2000_header_is_read_as_the_format_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    good = jpeg_2000((300, 200))

    def changed(at: int, new: bytes) -> bytes:
        return good[:at] + new + good[at + len(new) :]

    for bad in (
        changed(0, b"\0\0"),  # another beginning
        changed(16, struct.pack(">I", 301)),  # it begins right of its end
        changed(24, bytes(4)),  # tiles without a side
        changed(43, b"\0"),  # no samples
        jpeg_2000((300, 200), components=5),
    ):
        assert jpeg2k.read_codestream(memoryview(bad)) is None

    def nbytes(data: bytes) -> int:
        found = jpeg2k.read_codestream(memoryview(data))
        assert found is not None
        return found.nbytes

    transform = struct.pack(">HH", 0xFF74, 1002) + bytes(1000)
    assert nbytes(jpeg_2000((300, 200), in_tile=transform)) == nbytes(good) + 4 * 1000
    # Measured: 5,600 bytes a tile and 1,120 a component of it; 1,660 a precinct.
    assert nbytes(jpeg_2000((300, 200), (10, 10))) > 600 * (5600 + 3 * 1120)
    assert nbytes(jpeg_2000((64, 64), precinct=0)) > 3 * 64 * 64 * (540 + 560)
    to_the_end = good.index(b"\xff\x90") + 6  # a size of 0
    assert nbytes(changed(to_the_end, bytes(4))) == nbytes(good)
    many = jpeg_2000(in_tile=20 * _COMMENT)
    assert nbytes(many)
    monkeypatch.setattr(jpeg2k, "_SEGMENTS", 20)
    assert jpeg2k.read_codestream(memoryview(many)) is None


def test_decoders_that_take_more_than_pixels_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def memory_for(pixels: int, nbytes: int = 0) -> contextlib.AbstractContextManager[None]:
        asked.append(nbytes)
        return contextlib.nullcontext()

    monkeypatch.setattr(decoders, "memory_for", memory_for)
    decode_image(np.frombuffer(jpeg_2000((400, 300)), np.uint8), None, "x.jp2")
    assert asked[0] > 4 * 3 * 400 * 300


def test_the_decoder_takes_what_was_made_for_it() -> None:
    small = np.frombuffer(jpeg_2000((400, 300)), np.uint8)
    assert decode_image(small, None, "x.jp2").shape == (300, 400, 3)


@pytest.mark.parametrize("name", ["x.avif", "x.heic", "x.jpg"])
def test_pillow_runs_no_program_for_a_picture(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows fifty formats, and calls Ghostscript for one."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch '{tmp_path}/was-run'\nexit 1\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # whether there is one is asked once
    plugin = SimpleNamespace(register_heif_opener=lambda: None)  # after which it is opened again
    monkeypatch.setitem(sys.modules, "pi_heif", plugin)
    monkeypatch.setattr(formats, "_heif_tried", False)
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\n%%EOF\n"
    with pytest.raises(DatasetError, match="not a picture"):
        decode_image(np.frombuffer(data, np.uint8), None, name)
    with pytest.raises(Refused, match="no image, or of a format that is not supported"):
        check_image(data, name)
    assert not (tmp_path / "was-run").exists()


def test_avif_is_never_opencvs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may decode a larger picture than the file states: 8,000 x 8,000 of 61 x 47."""
    file, grey = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (512, 512), (9, 99, 200)).save(file, "AVIF")
    data = bytearray(file.getvalue())
    struct.pack_into(">II", data, data.index(b"ispe") + 8, WIDTH, HEIGHT)
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("OpenCV decodes"))
    picture = decode_image(np.frombuffer(data, np.uint8), None, "x.jpg", HEIGHT * WIDTH)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    # The one kind that both decode differently is left out, with what to do.
    Image.new("L", (WIDTH, HEIGHT), 60).save(grey, "AVIF", range="limited")
    narrow = np.frombuffer(grey.getvalue(), np.uint8)
    with pytest.raises(DatasetError, match=r"rename it to \.avif"):
        decode_image(narrow, None, "x.jpg")
    assert decode_image(narrow, None, "x.avif").shape == (HEIGHT, WIDTH, 3)


@pytest.mark.usefixtures("no_decoder")
@pytest.mark.parametrize(
    "data",
    [with_scans(101), with_scans(101, exif=Image.Exif()), with_scans(40, (9000, 9000))],
    ids=["many", "with EXIF data", "of a large picture"],
)
def test_no_file_with_too_many_scans_is_decoded(data: bytes) -> None:
    array = np.frombuffer(data, np.uint8)
    assert decode_jpeg(array) is None
    for name in ("x.jpg", "x.avif", "x.tif"):
        with pytest.raises(DatasetError, match=r"scans of .* pixels; at most 100 scans"):
            decode_image(array, None, name)
        with pytest.raises(Refused, match=r"scans of .* pixels; at most 100 scans"):
            check_image(data, name)
        with pytest.raises(Refused, match=r"scans of .* pixels; at most 100 scans"):
            check_image(data[:-2], name)  # which would be restored


def test_as_many_scans_as_are_allowed() -> None:
    data = with_scans(100)
    checked = check_image(data, "x.jpg")
    assert checked.plain
    want = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decode_rgb(checked, "x.jpg"), want[..., ::-1])
    np.testing.assert_array_equal(decode_image(np.frombuffer(data, np.uint8), None, "x"), want)


@pytest.mark.parametrize("kind", ["pages tif", "grey pages tif", "animated webp"])
def test_one_page_is_decoded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the memory of one: a file may have thousands."""
    decode, counts = cv2.imdecodemulti, []

    def counted(*args: Any) -> Any:
        good, pages = decode(*args)
        counts.append(len(pages))
        return good, pages

    data = np.frombuffer(encoded(kind)[1], np.uint8)
    assert len(decode(data, cv2.IMREAD_UNCHANGED)[1]) > 1
    want = decode(data, cv2.IMREAD_COLOR)[1][0]
    monkeypatch.setattr(cv2, "imdecodemulti", counted)
    np.testing.assert_array_equal(decode_image(data, None, "x.tif"), want)
    assert counts == [1]


def packed(folder: Path, name: str, data: bytes, height: int, width: int) -> Any:
    """A shard dataset of one file, that says it has this size; imgsz 64."""
    none = np.zeros((0, 4), np.float32)
    h, w = decoders.resized_shape(height, width, 64)
    with shards.ShardWriter(folder, shards.DatasetMeta("jpeg", 64, {0: "a"})) as writer:
        sample = shards.StoredSample(
            data, h, w, height, width, height, width, name, none[:, 0], none
        )
        writer.append(sample)
        writer.finish()
    return shards.open(folder)


@pytest.mark.usefixtures("no_decoder")
@pytest.mark.parametrize("kind", KINDS)
def test_shards_are_not_decoded_beyond_what_they_say(tmp_path: Path, kind: str) -> None:
    """Neither a larger file than was packed, nor one of which the columns say the same."""
    small, large = (9000, 9000), (16000, 16001)
    for (columns, states), reason in {
        ((HEIGHT, WIDTH), small): "states 9000 x 9000 pixels, where 2,867 pixels were packed",
        (large, large): "16001 x 16000 pixels; at most 178,956,970",
    }.items():
        name, data = stating(kind, *states)
        dataset = packed(tmp_path / reason[:5], name, data, *columns)
        with pytest.raises(ShardError, match=reason):
            dataset.image(0)
        size = int(dataset.height[0]), int(dataset.width[0])
        with pytest.raises(DatasetError, match=reason):
            decode_into(dataset, 0, size, 64, None, False)
        (problem,) = verify(dataset.path, full=True).problems
        assert reason in problem


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_what_is_too_large_is_left_out_by_name(tmp_path: Path, codec: str) -> None:
    data = write_yolo(tmp_path / "source", {"train": 3, "val": 1})
    images = tmp_path / "source/images/train"
    want = {}
    for k, kind in enumerate(KINDS):
        name, file = stating(kind, 16000, 16001)
        path = images / f"{k}{name}"
        path.write_bytes(file)
        want[str(path)] = "16001 x 16000 pixels; at most 178,956,970"
    (images / "scans.jpg").write_bytes(with_scans(101))
    want[str(images / "scans.jpg")] = "101 scans"
    os.mkfifo(images / "pipe.jpg")
    want[str(images / "pipe.jpg")] = "must be a file, is a FIFO"
    with (images / "sparse.jpg").open("wb") as file:
        file.truncate(1 << 40)
    want[str(images / "sparse.jpg")] = "cannot be read: has 1099511627776 bytes, at most"
    pack(data, tmp_path / "out", PackSettings(codec=codec, imgsz=64))
    dataset = shards.open(tmp_path / "out/train")
    assert len(dataset) == 3
    left_out = dict(dataset.meta.left_out)
    assert left_out.keys() == want.keys()
    for name, reason in want.items():
        assert reason in left_out[name]


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_a_file_that_states_more_than_it_has_is_not_kept(tmp_path: Path, codec: str) -> None:
    """Reading such a file from shards would refuse it, after packing had called it good."""
    yaml = write_yolo(tmp_path / "source", {"train": 2, "val": 1})
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "TIFF")
    sizes, stated = (struct.pack("<HHI", tag, 4, 1) for tag in (279, 256))  # of strips; the width
    assert sizes in file.getvalue()
    image = tmp_path / "source/images/train/strange.tif"
    image.write_bytes(file.getvalue().replace(sizes, stated))
    report = pack(yaml, tmp_path / "out", PackSettings(codec=codec, imgsz=64), progress=False)
    left_out = dict(report.splits["train"].left_out)
    if codec == "jpeg":
        assert "states 9216 x 48 pixels, and 64 x 48 are decoded" in left_out[str(image)]
    else:
        assert not left_out
    assert verify(tmp_path / "out" / "train", full=True).ok


def test_large_pictures_wait_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "available_memory", lambda: 130 * limits._LARGE)  # three, not four
    most = running = 0
    changed, full = threading.Condition(), threading.Event()
    together = threading.Barrier(6)

    def decode() -> None:
        nonlocal most, running
        together.wait(10)
        with limits.memory_for(limits._LARGE + 1):
            with changed:
                running += 1
                most = max(most, running)
                if running == 3:
                    full.set()
            full.wait(10)
            time.sleep(0.1)  # others could begin
            with limits.memory_for(limits._LARGE):  # small ones never wait
                pass
            with changed:
                running -= 1

    threads = [threading.Thread(target=decode) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (most, running) == (3, 0)
    with limits.memory_for(1 << 40):  # one alone is always tried
        pass


def test_a_forked_child_waits_for_no_thread_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "available_memory", lambda: 0)
    with limits.memory_for(limits._LARGE + 1):
        child = os.fork()
        if child == 0:
            signal.alarm(5)
            with limits.memory_for(limits._LARGE + 1):
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0


def test_a_file_of_another_size_than_was_packed_is_not_stretched(tmp_path: Path) -> None:
    name, data = encoded("jpg")
    dataset = packed(tmp_path / "out", name, data, HEIGHT + 30, WIDTH)
    size = int(dataset.height[0]), int(dataset.width[0])
    with pytest.raises(ShardError, match=r"decoded to \(47, 61\), which does not become"):
        decode_into(dataset, 0, size, 64, None, False)
