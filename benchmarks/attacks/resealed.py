"""Hostile datasets whose checksums are right: whoever made them meant what they say.

Opening raises a ShardError or works; whatever `verify(full=True)` calls whole can be read. Values
of dataset.json and of the columns are replaced, counts are made huge with files that have the size
(and no blocks), pictures are exchanged for other bytes, files for FIFOs, folders and giants.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import xxhash

from .children import run_command, trial
from .drawn import contents, encoded, lay_out, packed, picture, sealed
from .mutate import WORDS, damaged
from .said import ended_well
from .verdict import Verdict

GOAL = 2000
CASE = 10
DATASETS = (("detect", "raw"), ("detect", "jpeg"), ("segment", "raw"), ("pose", "jpeg"))
_GIANT = 3 << 30  # bytes of files without blocks
_LABELS = "labels.safetensors"


def warm() -> None:
    """Imports and packs."""
    import torch  # noqa: F401

    import yolodata.diff.diff_cli
    import yolodata.pipeline.loader
    import yolodata.shards.verify_cli
    import yolodata.view  # noqa: F401

    for task, codec in DATASETS:
        packed(task, codec)


def attack(random: Random, folder: Path) -> Verdict:
    """Makes datasets, and reads them."""
    verdict = Verdict()
    for _ in range(CASE):
        verdict.tried += 1
        task, codec = random.choice(DATASETS)
        out = folder / "dataset"
        what = random.choice(_KINDS)(random, contents(packed(task, codec) / "train"), out)
        _read(random, out, task, codec, f"{task}, {codec}: {what}", verdict)
        if verdict.findings:
            break
        shutil.rmtree(out)
    return verdict


def _read(random: Random, out: Path, task: str, codec: str, what: str, verdict: Verdict) -> None:
    import yolodata
    from yolodata import shards
    from yolodata.errors import YolodataError
    from yolodata.shards.verify import verify

    def tries(name: str, action: Callable[[], object]) -> bool:
        """Whether something works; an error of ours is all that it may raise."""
        try:
            action()
        except YolodataError as error:
            words = f"{what}: {name}: {type(error).__name__}: {error}"
            if isinstance(error, yolodata.errors.ResourceError):
                verdict.found("memory", words)
            elif len(words) > 8000:
                verdict.found("traceback", f"{len(words)} characters: {words[:1000]}")
            return False
        except MemoryError as error:
            verdict.found("memory", f"{what}: {name}: {error!r}")
            return False
        except Exception as error:
            verdict.found("traceback", f"{what}: {name}: {type(error).__name__}: {error}"[:3000])
            return False
        return True

    def read(io: str) -> None:
        with shards.open(out, io=io) as dataset:
            for i in range(min(len(dataset), 100)):
                dataset.name(i)
                dataset.image(i)

    def batch() -> None:
        options = yolodata.ReadOptions(threads=1, prefetch=1, max_unreadable=1.0)
        labels = yolodata.LabelOptions(task=task)
        loader = yolodata.Loader(out, 4, labels=labels, reading=options)
        try:
            shape = next(iter(loader))["img"].shape
        finally:
            loader.close()
        if tuple(shape[1:2]) != (3,):
            raise ValueError(f"pictures of shape {shape}")

    whole = False

    def verified() -> None:
        nonlocal whole
        report = verify(out, full=True, workers=1)
        whole = report.ok
        if len(report.problems) > 1000:
            raise ValueError(f"{len(report.problems)} problems")

    trial(f"{what}: verify")
    tries("verify", verified)
    trial(f"{what}: reading")
    works = [tries(io, lambda io=io: read(io)) for io in ("mmap", "pread")]
    if whole and not all(works):
        verdict.found("undetected", f"{what}: verify says that it is whole, and it cannot be read")
    if not os.path.exists(out / "huge"):
        trial(f"{what}: a batch")
        tries("a batch", batch)
    other = str(packed(task, codec) / "train")
    command, *words = random.choice(
        (["info"], ["diff", other], ["view", "--out", "look.png", "--count", "2"])
    )
    trial(f"{what}: {command}")
    ended = run_command([command, str(out), *words], out.parent)
    ended_well(verdict, ended, f"{what}: {command}")


# What is made: each writes a dataset into a folder, and says what is hostile about it.


def _content(files: dict[str, bytes]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(files["dataset.json"])
    del content["checksum"]
    return content


def _values_of_json(random: Random, files: dict[str, bytes], out: Path) -> str:
    """dataset.json with other values."""
    content = _content(files)
    said = [_hostile_node(random, content) for _ in range(random.choice((1, 1, 2, 3)))]
    try:
        files["dataset.json"] = sealed(content)
    except (ValueError, RecursionError, OverflowError):
        said.append("(no JSON)")
    lay_out(files, out)
    return f"dataset.json: {', '.join(said)}"


def hostile_value(random: Random) -> Any:
    """Draws a value that JSON can hold and nobody expects."""
    return random.choice((
        lambda: random.choice(WORDS), lambda: -random.choice(WORDS), lambda: 10**400,
        lambda: random.choice((0.5, -0.0, 1e308, float("nan"), float("inf"), float("-inf"))),
        lambda: random.choice((None, True, False)),
        lambda: random.choice(("", "\0", "../x", "/etc/passwd", "a" * 5000, "\x1b[2J\x1b[31m",
                               "\ud800", "\u202egpj.exe", "x\ny\nz" * 50, "CON", "~", "nan")),
        lambda: [], lambda: {}, lambda: [None] * random.choice((1, 100_000)),
        lambda: {str(k): k for k in range(random.choice((1, 50_000)))},
        lambda: _nested(random.choice((3, 90, 900))),
    ))()  # fmt: skip


def _nested(depth: int) -> Any:
    value: Any = 1
    for k in range(depth):
        value = [value] if k % 2 else {"a": value}
    return value


def _hostile_node(random: Random, content: Any) -> str:
    """Changes one node of a tree of dicts and lists; says which, and how."""
    node, path = content, ""
    while True:
        if not isinstance(node, dict | list) or not node:
            return f"{path} is empty"
        keys = list(node) if isinstance(node, dict) else range(len(node))
        key = random.choice(keys)
        path += f"/{key}"[:100]
        if isinstance(node[key], dict | list) and node[key] and random.random() < 0.6:
            node = node[key]
            continue
        how = random.choice(("set",) * 6 + ("remove", "double", "add"))
        if how == "remove":
            del node[key]
        elif how == "double" and isinstance(node, list):
            node.insert(key, node[key])
        elif how == "add" and isinstance(node, dict):
            node[str(hostile_value(random))[:5000]] = hostile_value(random)
        else:
            node[key] = hostile_value(random)
            return f"{path} = {repr(node[key])[:60]}"
        return f"{path}: {how}"


def _resealed_labels(files: dict[str, bytes], labels: bytes) -> None:
    content = _content(files)
    content["labels"]["nbytes"] = len(labels)
    content["labels"]["checksum"] = xxhash.xxh3_64_hexdigest(labels)
    files[_LABELS], files["dataset.json"] = labels, sealed(content)


def _columns(files: dict[str, bytes]) -> dict[str, tuple[str, int, int]]:
    """Gives the columns of a labels file: name -> (dtype, first byte, end)."""
    data = files[_LABELS]
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    return {
        name: (each["dtype"], *(start + at for at in each["data_offsets"]))
        for name, each in header.items()
        if name != "__metadata__"
    }


def _values_of_columns(random: Random, files: dict[str, bytes], out: Path) -> str:
    """Columns with other values."""
    data, said = bytearray(files[_LABELS]), []
    columns = {name: place for name, place in _columns(files).items() if place[2] > place[1]}
    for _ in range(random.choice((1, 1, 2, 5))):
        name = random.choice(sorted(columns))
        dtype, begin, end = columns[name]
        code = {"U8": "B", "U32": "<I", "U64": "<Q", "F32": "<f"}[dtype]
        size = struct.calcsize(code)
        row = random.randrange((end - begin) // size)
        at = begin + row * size
        if dtype == "F32":
            value: Any = random.choice((float("nan"), float("inf"), -1.0, 1e30, -0.0, 2.0, 1e-40))
        else:
            (old,) = struct.unpack_from(code, data, at)
            value = random.choice((*WORDS, old + 1, old - 1, old ^ 0x1000, 2 * old))
            value &= (1 << 8 * size) - 1
        struct.pack_into(code, data, at, value)
        said.append(f"{name}[{row}] = {value}")
    _resealed_labels(files, bytes(data))
    lay_out(files, out)
    return f"columns: {', '.join(said)}"


def _other_pictures(random: Random, files: dict[str, bytes], out: Path) -> str:
    """A sample holds other bytes than it should; its size and its checksum fit."""
    columns, labels = _columns(files), bytearray(files[_LABELS])
    count = (columns["nbytes"][2] - columns["nbytes"][1]) // 8

    def value(name: str, row: int) -> int:
        size = 4 if columns[name][0] == "U32" else 8
        found: int = np.frombuffer(labels, f"<u{size}", count, columns[name][1])[row]
        return int(found)

    i = random.randrange(count)
    shard = f"shard-{value('shard', i):05d}.safetensors"
    data = bytearray(files[shard])
    at, size = 4096 + value("offset", i), value("nbytes", i)
    room = -(-size // 4096) * 4096
    new, what = _hostile_picture(random, bytes(data[at : at + size]), room)
    data[at : at + room] = new.ljust(room, b"\0")
    struct.pack_into("<Q", labels, columns["nbytes"][1] + 8 * i, len(new))
    struct.pack_into("<Q", labels, columns["checksum"][1] + 8 * i, xxhash.xxh3_64_intdigest(new))
    files[shard] = bytes(data)
    _resealed_labels(files, bytes(labels))
    lay_out(files, out)
    return f"picture {i} is {what}"


def _hostile_picture(random: Random, old: bytes, room: int) -> tuple[bytes, str]:
    kind = random.choice(("size", "size", "damaged", "other", "text"))
    if kind == "damaged":
        new, what = damaged(random, old)
        return new[:room] or b"\0", f"damaged: {what}"
    if kind == "text":
        return b"#!/bin/sh\n" * 3, "text"
    image = picture(random.randrange(99), *random.choice(((10, 10), (48, 64), (64, 40), (90, 90))))
    if kind == "other":
        form = random.choice(("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM"))
        return encoded(image, form)[:room], f"a {form} of {image.shape[:2]}"
    data = bytearray(encoded(image, "JPEG", progressive=random.random() < 0.5))
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    sides = [random.choice((1, 64, 8000, 20_000, 65_500)) for _ in range(2)]
    struct.pack_into(">HH", data, at + 5, *sides)
    return bytes(data[:room]), f"a JPEG that states {sides[0]} x {sides[1]}"


def _huge_counts(random: Random, files: dict[str, bytes], out: Path) -> str:
    """Counts for which the files have the size, and no blocks."""
    from yolodata.shards.layout import LabelsLayout

    content = _content(files)
    what = random.choice(("images", "objects", "points", "names", "shard"))
    lay_out(files, out)
    (out / "huge").touch()
    if what == "shard":
        entry = content["shards"][-1]
        entry["nbytes"] = _GIANT
        os.truncate(out / entry["file"], _GIANT)
    else:
        # Half a GiB: pages of a map count as memory, though the system may take them back.
        n, m, p, b = content["images"], content["objects"], 0, 10
        n, m = (7_000_000, 0) if what == "images" else (n, m)
        m = 17_000_000 if what == "objects" else m
        p, b = (60_000_000 if what == "points" else p), (1 << 29 if what == "names" else b)
        shape = content["kpt_shape"]
        layout = LabelsLayout.of(n, m, p, b, shape[0] if shape else None)
        content["images"], content["objects"] = n, m
        content["labels"]["nbytes"] = layout.nbytes
        content["labels"]["checksum"] = "0" * 16
        (out / _LABELS).write_bytes(layout.header)
        os.truncate(out / _LABELS, layout.nbytes)
    (out / "dataset.json").write_bytes(sealed(content))
    return f"huge: {what}"


def _other_files(random: Random, files: dict[str, bytes], out: Path) -> str:
    """A file that is none, or has no end."""
    lay_out(files, out)
    (out / "huge").touch()
    name = random.choice(sorted(files))
    (out / name).unlink()
    what = random.choice(("FIFO", "folder", "/dev/zero", "/dev/tty", "itself", "giant", "nothing"))
    if what == "FIFO":
        os.mkfifo(out / name)
    elif what == "folder":
        (out / name).mkdir()
    elif what == "itself":
        (out / name).symlink_to(name)
    elif what == "giant":
        (out / name).touch()
        os.truncate(out / name, _GIANT)
    elif what.startswith("/"):
        (out / name).symlink_to(what)
    return f"{name} is {what}"


def _deep_json(random: Random, files: dict[str, bytes], out: Path) -> str:
    """dataset.json that no program made."""
    text = files["dataset.json"]
    place = random.randrange(len(text))
    part = random.choice((b"[" * 100_000, b'{"a":' * 50_000, b"9" * 400, b"9" * 100_000,
                          b'"\\u0000"', b'"' + b"a" * 5_000_000 + b'"', b"1e99999",
                          b"\xed\xa0\x80"))  # fmt: skip
    lay_out({**files, "dataset.json": text[:place] + part + text[place:]}, out)
    return f"dataset.json: {part[:8]!r} × {len(part)} at byte {place}"


_KINDS = (_values_of_json, _values_of_json, _values_of_columns, _values_of_columns,
          _other_pictures, _other_pictures, _huge_counts, _other_files, _deep_json)  # fmt: skip


def _nothing_checked() -> None:
    """Opening checks no values of columns."""
    from yolodata.shards.check import Checker

    Checker.structure = lambda self: None


def _blocking() -> None:
    """Files are opened and read whole, whatever they are."""
    from yolodata.shards import reader

    reader.read_meta = lambda path: reader.DatasetMeta.from_json(
        (Path(path) / "dataset.json").read_bytes(), "dataset.json"
    )


PLANTS = {"opening checks no columns": _nothing_checked, "FIFOs are waited for": _blocking}
