"""Mutated pictures of ten formats, packed as pixels and as files.

Each is in the dataset, or in the list of what was left out with a reason. What is in it can be
read: whoever trains finds no surprise. Nothing asks for more memory than a picture may have.
"""

from __future__ import annotations

import functools
import shutil
import struct
import zlib
from pathlib import Path
from random import Random

import cv2
import numpy as np

from .children import run_command, trial
from .drawn import encoded, picture
from .mutate import damaged
from .said import ended_well
from .verdict import Verdict

GOAL = 20_000
CASE = 24
_OPTIONS = ("--imgsz", "64", "--workers", "1", "--quiet", "--split", "train")


def warm() -> None:
    """Imports what decodes."""
    from PIL import Image

    from yolodata.ingest import pack_cli, packing  # noqa: F401
    from yolodata.shards import verify  # noqa: F401

    Image.init()
    seeds()
    for many in (20, 300):
        _pages(many)


@functools.cache
def seeds() -> dict[str, bytes]:
    """Draws a picture of each format: file name -> bytes."""
    from PIL import Image

    image = picture(3)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    pages = {"save_all": True, "append_images": [Image.fromarray(image[::-1])]}
    exif = Image.Exif()
    exif[274] = 6
    made = {
        "baseline.jpg": encoded(image, "JPEG"),
        "progressive.jpg": encoded(image, "JPEG", progressive=True),
        "turned.jpg": encoded(image, "JPEG", exif=exif),
        "grey.jpg": encoded(grey, "JPEG"),
        "restarts.jpg": encoded(image, "JPEG", restart_marker_blocks=1),
        "colour.png": encoded(image, "PNG"),
        "palette.png": encoded(grey // 16, "PNG", bits=4),
        "deep.png": cv2.imencode(".png", grey.astype(np.uint16) * 257)[1].tobytes(),
        "animated.png": encoded(image, "PNG", **pages),
        "colour.bmp": encoded(image, "BMP"),
        "lossy.webp": encoded(image, "WEBP"),
        "lossless.webp": encoded(image, "WEBP", lossless=True),
        "animated.webp": encoded(image, "WEBP", **pages),
        "colour.tif": encoded(image, "TIFF"),
        "lzw.tiff": encoded(image, "TIFF", compression="tiff_lzw"),
        "pages.tiff": encoded(image, "TIFF", **pages),
        "colour.jp2": encoded(image, "JPEG2000"),
        "colour.avif": encoded(image, "AVIF"),
        "pair.mpo": encoded(image, "MPO", **pages),
        "animated.gif.jpg": encoded(image, "GIF", **pages),
        "pixels.ppm.png": encoded(image, "PPM"),
        "icon.ico.png": encoded(image, "ICO"),
        "scan.dng": encoded(image, "TIFF"),
        "heic.heic": b"\0\0\0\x18ftypheic" + encoded(image, "AVIF")[12:],
    }
    return made


def attack(random: Random, folder: Path) -> Verdict:
    """Mutates pictures, packs them, and reads what was packed."""
    verdict = Verdict()
    images, labels = folder / "images" / "train", folder / "labels" / "train"
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    words = ["path: .", "train: images/train", "val: images/train", "names: [a]"]
    (folder / "data.yaml").write_text("\n".join(words), encoding="ascii")
    what = []
    for k in range(CASE):
        name, data, how = mutated(random)
        name = f"{k:02}-{name}"
        (images / name).write_bytes(data)
        (labels / name).with_suffix(".txt").write_text("0 .5 .5 .2 .2\n", encoding="ascii")
        what.append(f"{name}: {how}")
    # A good one, so that there is always a dataset.
    (images / "good.jpg").write_bytes(seeds()["baseline.jpg"])
    for codec in ("raw", "jpeg"):
        trial(f"packing: {codec}")
        out = folder / f"out-{codec}"
        ended = run_command(
            ["shard", "data.yaml", out.name, "--codec", codec, *_OPTIONS], folder, seconds=20
        )
        if not ended_well(verdict, ended, codec, allowed=(0,), lines=2000):
            break
        trial(f"reading: {codec}")
        _read(out / "train", CASE + 1, codec, verdict)
    verdict.tried += CASE
    if verdict.findings:
        (folder / "MUTATIONS.txt").write_text("\n".join(what) + "\n", encoding="utf-8")
    else:
        shutil.rmtree(folder)
    return verdict


def mutated(random: Random) -> tuple[str, bytes, str]:
    """Draws a picture: file name, bytes, what was done to it."""
    name = random.choice(sorted(seeds()))
    data = seeds()[name]
    how = random.choice(("damage",) * 8 + ("splice", "size", "size", "resealed", "long", "rename"))
    if how == "damage":
        said = []
        for _ in range(random.choice((1, 1, 1, 2, 6))):
            data, what = damaged(random, data)
            said.append(what)
        return name, data, ", ".join(said)
    if how == "splice":
        other = seeds()[random.choice(sorted(seeds()))]
        at, to = random.randrange(len(data)), random.randrange(len(other))
        return name, data[:at] + other[to:], f"bytes from {at} on are another's from {to} on"
    if how == "rename":
        other_name = random.choice(sorted(seeds()))
        return other_name, data, f"is {name}"
    if how == "long":
        return _long(random)
    if how == "resealed" or data.startswith(b"\x89PNG"):
        return _png(random)
    return _of_size(random)


def _of_size(random: Random) -> tuple[str, bytes, str]:
    """A small file that says that it is large."""
    sides = [random.choice((1, 9, 10, 64, 1000, 20_000, 60_000, 65_500)) for _ in range(2)]
    if random.random() < 0.02:  # as many pixels as are allowed take long
        sides = [13_000, 13_000]
    name = random.choice(("baseline.jpg", "progressive.jpg", "colour.bmp", "colour.jp2",
                          "animated.gif.jpg"))  # fmt: skip
    data = bytearray(seeds()[name])
    if name.endswith("bmp"):
        struct.pack_into("<ii", data, 18, *sides)
    elif name.endswith("jp2"):
        at = data.find(b"\xff\x51")
        struct.pack_into(">II", data, at + 6, *sides)
        struct.pack_into(">II", data, data.find(b"ihdr") + 4, *sides)
    elif "gif" in name:
        struct.pack_into("<HH", data, 6, *sides)
    else:
        at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        struct.pack_into(">HH", data, at + 5, *sides)
    return name, bytes(data), f"states {sides[0]} x {sides[1]}"


def _png(random: Random) -> tuple[str, bytes, str]:
    """A PNG with a mutated chunk whose checksum fits."""
    name = random.choice(("colour.png", "palette.png", "deep.png", "animated.png"))
    data, at = seeds()[name], 8
    chunks = []
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    k = random.choice((0, 0, random.randrange(len(chunks))))
    kind, body = chunks[k]
    body, what = damaged(random, body) if body else (b"x", "x")
    chunks[k] = (kind, body)
    if random.random() < 0.2:
        chunks.insert(k, random.choice(chunks))
    made = b"".join(
        struct.pack(">I", len(b)) + c + b + struct.pack(">I", zlib.crc32(c + b)) for c, b in chunks
    )
    return name, data[:8] + made, f"chunk {k} {kind!r}: {what}, checksums fit"


def _long(random: Random) -> tuple[str, bytes, str]:
    """A file with hundreds of scans, pages or comments."""
    kind = random.choice(("scans", "scans", "pages", "comments"))
    if kind == "scans":
        height, width = (random.choice((48, 48, 48, 1000)) for _ in range(2))
        if random.random() < 0.03:
            height, width = 8000, 8000
        many = random.choice((10, 100, 400, 2000))
        return "scans.jpg", _scans(height, width, many), f"{many} more scans of {height} x {width}"
    if kind == "comments":
        many = random.choice((1, 10, 100))
        data = seeds()["baseline.jpg"]
        return (
            "comments.jpg",
            data[:2] + (b"\xff\xfe\xff\xff" + bytes(65533)) * many + data[2:],
            f"{many} comments",
        )
    pages = random.choice((20, 300))
    return "many.tiff", _pages(pages), f"{pages} more pages"


def _scans(height: int, width: int, many: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = bytearray(seeds()["progressive.jpg"])
    struct.pack_into(">HH", data, data.find(b"\xff\xc2") + 5, height, width)
    return bytes(data[:-2] + data[data.rfind(b"\xff\xda") : -2] * many + data[-2:])


@functools.cache
def _pages(many: int) -> bytes:
    """A TIFF of so many pages, and one."""
    from PIL import Image

    image = Image.new("L", (256, 256))
    more = {"append_images": [image] * many, "compression": "tiff_lzw"}
    return encoded(np.asarray(image), "TIFF", save_all=True, **more)


def _read(out: Path, count: int, codec: str, verdict: Verdict) -> None:
    from yolodata import shards
    from yolodata.shards.verify import verify

    report = verify(out, full=True, workers=1)
    if not report.ok:
        verdict.found("undetected", f"{codec}: packed, and not whole: {report.problems[:3]}")
        return
    with shards.open(out) as dataset:
        left_out = dataset.meta.left_out
        if len(dataset) + len(left_out) != count:
            verdict.found(
                "undetected",
                f"{codec}: {len(dataset)} packed and {len(left_out)} left out, of {count}",
            )
        if any(not reason or len(reason) > 2000 for _, reason in left_out):
            verdict.found("traceback", f"{codec}: a reason is none: {left_out}"[:2000])
        for i in range(len(dataset)):
            try:
                image = dataset.image(i)
            except Exception as error:
                verdict.found("undetected", f"{codec}: {dataset.name(i)} was packed: {error!r}")
                continue
            if max(image.shape[:2]) > 64:
                verdict.found("undetected", f"{codec}: {dataset.name(i)} has {image.shape}")


def _crashes() -> None:
    """A decoder ends the process on damaged files."""
    import os
    import signal

    from yolodata.ingest import convert, image_check

    def check(data: bytes, path: str) -> object:
        try:
            return checked(data, path)
        except Exception:
            os.kill(os.getpid(), signal.SIGSEGV)
            raise

    checked = image_check.check_image
    image_check.check_image = check
    convert.check_image = check


def _takes_anything() -> None:
    """What cannot be decoded is counted as packed."""
    from yolodata.shards import left_out, writer

    writer.ShardWriter.finish = _forgets(writer.ShardWriter.finish)
    del left_out


def _forgets(finish):  # type: ignore[no-untyped-def]
    def forgetful(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        for value in vars(self).values():
            if hasattr(value, "left_out"):
                value.left_out.clear()
        return finish(self, *args, **kwargs)

    return forgetful


PLANTS = {
    "a decoder ends the process": _crashes,
    "what was left out is forgotten": _takes_anything,
}
