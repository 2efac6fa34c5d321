"""Datasets whose checksums are right and whose values are hostile, and what reads them.

usage: hostile_shards.py FOLDER FIRST LAST: makes those of some seeds and reads them, under a limit
of memory. Says WRONG where anything but an explained error comes of one.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import shard_samples
import xxhash

from yolodata.errors import ConfigError, ShardError
from yolodata.shards import DatasetMeta, ShardDataset
from yolodata.shards.columns import Columns, columns_to_bytes
from yolodata.shards.layout import LabelsLayout

LIMIT = 8 << 30  # bytes of address space
META = DatasetMeta("raw", 32, {0: "cat", 1: "dog", 2: "bird"}, kpt_shape=(3, 2), flip_idx=(0, 2, 1))
NUMBERS = (0, 1, 2, 63, 4096, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 48, (1 << 63) - 4096)
FLOATS = (
    float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1.0, -1.0, 2.5, -7.0, 1e4, -1e4, 1e9,
    -3e9, 1e20, -1e30, 3.4e38, -3.4e38, 1e-45,
)  # fmt: skip


def columns_of(path: Path) -> Columns:
    """Gives copies of a dataset's columns."""
    with ShardDataset(path, io="pread") as dataset:
        return {name: column.copy() for name, column in dataset._arrays.items()}


def reseal(path: Path, columns: Columns, **changes: Any) -> None:
    """Writes other labels and facts into a dataset, with fitting sizes and checksums."""
    keypoints = columns["keypoints"].shape[1] if "keypoints" in columns else None
    layout = LabelsLayout.of(
        len(columns["offset"]), len(columns["cls"]), len(columns["polygon"]),
        len(columns["name"]), keypoints,
    )  # fmt: skip
    data = layout.header + columns_to_bytes(columns, keypoints)
    (path / "labels.safetensors").write_bytes(data)
    digest = xxhash.xxh3_64_hexdigest(data)
    labels = {"file": "labels.safetensors", "nbytes": len(data), "checksum": digest}
    counts = {"images": len(columns["offset"]), "objects": len(columns["cls"])}
    sign(path, **{**counts, "labels": labels, **changes})


def sign(path: Path, **changes: Any) -> None:
    """Writes other facts into dataset.json, with a fitting checksum."""
    content = json.loads((path / "dataset.json").read_text())
    del content["checksum"]
    content.update(changes)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))  # NaN, too
    content["checksum"] = xxhash.xxh3_64_hexdigest(text.encode())
    (path / "dataset.json").write_text(json.dumps(content))


def outlined(path: Path, count: int = 12) -> Path:
    """Packs samples that have keypoints, and an outline for each object."""
    shard_samples.pack(path, count, META)
    columns = columns_of(path)
    objects = len(columns["cls"])
    rng = np.random.default_rng(0)
    counts = rng.integers(3, 7, objects)
    columns["polygon_offset"] = np.concatenate([[0], np.cumsum(counts)]).astype("<u8")
    columns["polygon"] = rng.random((int(counts.sum()), 2)).astype("<f4")
    reseal(path, columns)
    return path


def spoil(path: Path, draws: random.Random) -> str:
    """Makes a dataset hostile: one to three values, columns or facts; says which."""
    columns, changes, done = columns_of(path), {}, []
    for _ in range(draws.choice((1, 1, 2, 3))):
        kind = draws.choice(("value", "value", "float", "float", "row", "order", "meta"))
        name = draws.choice(sorted(columns))
        column = columns[name]
        if kind == "float":
            name = draws.choice(("cls", "box", "polygon", "keypoints"))
            column = columns[name].reshape(-1)
            for _ in range(draws.choice((1, 2, 9))):
                column[draws.randrange(len(column))] = draws.choice(FLOATS)
        elif kind == "value" and column.dtype.kind == "u":
            value = draws.choice(NUMBERS) + draws.choice((0, 0, -1, 1))
            column[draws.randrange(len(column))] = value % (1 << 8 * column.itemsize)
        elif kind == "row":
            column[:] = column[draws.randrange(len(column))]
        elif kind == "order":
            column[:] = column[::-1].copy()
        elif kind == "meta":
            name, value = draws.choice(METAS)
            changes[name] = value
        done.append(f"{kind} {name}")
    reseal(path, columns, **changes)
    return ", ".join(done)


METAS: tuple[tuple[str, Any], ...] = (
    ("codec", "jpeg"), ("imgsz", 1), ("imgsz", 65536), ("imgsz", 1 << 20), ("names", ["x"]),
    ("names", ["\ud800", "\x1b[2J\0", "y" * 5000]), ("split", "\0"), ("split", "x" * 100_000),
    ("kpt_shape", [65536, 3]), ("kpt_shape", [1, 2]), ("flip_idx", [2, 2, 2]), ("flip_idx", None),
    ("images", 1 << 48), ("objects", 1 << 48), ("images", 0), ("objects", 10**400),
    ("source", {"a": float("inf")}), ("source", {"a": [[[[[[[[[[[[1]]]]]]]]]]]]}),
    ("left_out", [["\ud800", "x" * 9999]] * 50), ("shards", []),
)  # fmt: skip


def uses(path: Path) -> list[Callable[[], object]]:
    """What reads a dataset."""
    from yolodata import AugmentConfig, Loader, ValidationLoader
    from yolodata.cli import parser_of
    from yolodata.diff.dataset_report import DatasetReport
    from yolodata.diff.datasets import diff_datasets
    from yolodata.pipeline.options import LabelOptions, ReadOptions
    from yolodata.shards.info import describe
    from yolodata.shards.verify import verify

    def read(io: str) -> None:
        with ShardDataset(path, io=io) as dataset:
            for i in range(len(dataset)):
                dataset.image(i)
                dataset.name(i)

    def load(task: str, **settings: Any) -> None:
        augment = AugmentConfig(imgsz=32, mixup=0.5, cutmix=0.5, degrees=10.0, **settings)
        reading = ReadOptions(threads=2)
        labels = LabelOptions(task=task)
        with Loader(path, 4, augment=augment, labels=labels, reading=reading) as loader:
            for _ in loader:
                pass

    def show(path: Path, task: str) -> None:
        words = [str(path), "--index", "1", "--task", task, "--out", str(path / "view.png")]
        arguments = parser_of("view").parse_args(words)
        arguments.run(arguments)

    def compare(path: Path) -> None:
        diff = diff_datasets(path.parent / "clean", path)
        report = DatasetReport(diff, every=True)
        assert "\x1b" not in "".join(report.text())
        json.loads("".join(report.json()))

    def validate(task: str) -> None:
        labels = LabelOptions(task=task)
        with ValidationLoader(path, 4, labels=labels, split="train") as loader:
            for _ in loader:
                pass

    return [
        lambda: read("mmap"),
        lambda: read("pread"),
        lambda: load("detect"),
        lambda: load("segment", copy_paste=0.5, perspective=0.001),
        lambda: load("segment", copy_paste=0.5, copy_paste_mode="mixup", mosaic=0.0),
        lambda: load("obb", perspective=0.001),
        lambda: load("pose"),
        lambda: validate("segment"),
        lambda: validate("obb"),
        lambda: validate("pose"),
        lambda: verify(path, full=True, workers=1),
        lambda: describe(path),
        lambda: compare(path),
        lambda: [show(path, task) for task in ("detect", "segment", "obb", "pose")],
    ]


def main(folder: Path, first: int, last: int) -> int:
    """Reads hostile datasets; returns how many uses ended with something else than an error."""
    if "asan" not in os.environ.get("LD_PRELOAD", ""):  # which reserves more
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    clean = outlined(folder / "clean")
    refused = wrong = 0
    for seed in range(first, last):
        path = folder / "hostile"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(clean, path)
        what = spoil(path, random.Random(seed))
        for number, use in enumerate(uses(path)):
            print(f"seed {seed}, use {number}: {what}", flush=True)
            try:
                use()
            except (ShardError, ConfigError) as error:
                refused += 1
                if len(str(error)) > 2000:
                    wrong += 1
                    print(f"WRONG: an error of {len(str(error))} characters: {str(error)[:200]}")
            except Exception as error:
                wrong += 1
                print(f"WRONG: {type(error).__name__}: {str(error)[:300]}")
    print(f"{refused} refused, {wrong} wrong")
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
