"""What it costs to open a dataset of five million images.

Makes a dataset whose index is complete and whose pixels are holes in sparse files (objects, names
and picture sizes like COCO's), then opens it in fresh processes: with the labels file in the page
cache, and with it dropped from there. Both must take less than 5 seconds and less than 200 bytes
of private memory an image.

    python benchmarks/scale.py --json benchmarks/results/scale.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from yolodata.bench import results
from yolodata.images.resize import resized_shapes
from yolodata.shards.columns import Totals, labels_entry, write_labels
from yolodata.shards.format import PAGE, SHARD_HEADER, DatasetMeta, ShardEntry, aligned, shard_name
from yolodata.shards.layout import shard_header

IMGSZ = 640
SHARD_SIZE = 512 << 20
OBJECTS = 7.3  # a picture, as in COCO
LIMIT_SECONDS = 5.0
LIMIT_BYTES = 200.0

CHILD = """
import json, os, sys, time
import numpy, xxhash, yolodata.shards
from yolodata.machine import process_memory
before = process_memory()
began = time.perf_counter()
dataset = yolodata.shards.open(sys.argv[1], io=sys.argv[2])
seconds = time.perf_counter() - began
opened = process_memory()
began = time.perf_counter()
for i in range(0, len(dataset), max(1, len(dataset) // 20)):
    dataset.name(i), dataset.sample(i)[:64].sum()
used = process_memory()
print(json.dumps({"seconds": seconds, "before": before, "opened": opened, "used": used}))
"""


def make(path: Path, images: int, points: float, seed: int) -> int:
    """Write the dataset; returns the size of its labels file."""
    rng = np.random.default_rng(seed)
    shapes = np.array([(480, 640), (640, 480), (427, 640), (640, 427), (375, 500), (1080, 1920)])
    original = shapes[rng.integers(0, len(shapes), images)].astype(np.uint32)
    sides = resized_shapes(original[:, 0], original[:, 1], IMGSZ)
    height, width = (side.astype(np.uint32) for side in sides)
    nbytes = height.astype(np.uint64) * width * np.uint64(3)
    ends = np.cumsum(-(-nbytes // np.uint64(PAGE)) * np.uint64(PAGE))
    per_shard = SHARD_SIZE // aligned(IMGSZ * IMGSZ * 3)
    shard = (np.arange(images) // per_shard).astype(np.uint32)
    starts = np.concatenate([[np.uint64(0)], ends[:-1]])
    offset = starts - starts[::per_shard][shard]
    objects = rng.poisson(OBJECTS, images)
    object_offset = np.concatenate([[0], np.cumsum(objects)]).astype(np.uint64)
    m = int(object_offset[-1])
    polygon_offset = np.zeros(m + 1, np.uint64)
    if points:
        np.cumsum(rng.poisson(points, m), out=polygon_offset[1:])
    name = "".join(f"/datasets/large/images/train2026/{i:012d}.jpg" for i in range(images)).encode()
    name_bytes = len(name) // images
    columns = {
        "shard": shard, "offset": offset, "nbytes": nbytes, "height": height, "width": width,
        "orig_height": original[:, 0], "orig_width": original[:, 1],
        "label_height": original[:, 0], "label_width": original[:, 1],
        "checksum": rng.integers(0, 1 << 63, images, dtype=np.uint64),
        "name_offset": np.arange(images + 1, dtype=np.uint64) * np.uint64(name_bytes),
        "name": np.frombuffer(name, np.uint8),
        "object_offset": object_offset, "polygon_offset": polygon_offset,
        "cls": rng.integers(0, 80, m).astype(np.float32),
        "box": rng.random((m, 4), dtype=np.float32),
        "polygon": rng.random((int(polygon_offset[-1]), 2), dtype=np.float32),
    }  # fmt: skip
    labels = path / "labels.safetensors"
    with labels.open("w+b", buffering=0) as file:
        labels_bytes = write_labels(file, [columns], Totals.of(columns), None)
        entry = labels_entry(file, labels_bytes, labels.name)
    entries = []
    for s in range(int(shard[-1]) + 1):
        last = min((s + 1) * per_shard, images) - 1
        tensor = aligned(int(offset[last] + nbytes[last]))
        with open(path / shard_name(s), "wb") as file:
            file.write(shard_header(tensor))
            file.truncate(SHARD_HEADER + tensor)
        entries.append(ShardEntry(shard_name(s), SHARD_HEADER + tensor))
    meta = DatasetMeta(
        "raw", IMGSZ, {i: f"class {i}" for i in range(80)}, images=images, objects=m,
        shards=tuple(entries), labels=entry,
    )  # fmt: skip
    (path / "dataset.json").write_bytes(meta.to_json())
    return labels_bytes


def drop_from_cache(path: Path) -> None:
    """Ask the kernel to forget a file's pages."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def measure(path: Path, images: int, io: str, cold: bool, runs: int) -> dict[str, Any]:
    """Open the dataset in fresh processes."""
    samples = []
    for _ in range(runs):
        if cold:
            drop_from_cache(path / "labels.safetensors")
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(path), io],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        samples.append(json.loads(done.stdout))
    seconds = [s["seconds"] for s in samples]
    private, shared = (
        [(s["used"][kind] - s["before"][kind]) / images for s in samples]
        for kind in ("RssAnon", "RssFile")
    )
    return {
        "io": io, "labels_in_page_cache": not cold, "n": runs,
        "seconds": results.spread(seconds), "private_bytes_an_image": results.spread(private),
        "page_cache_bytes_an_image": statistics.median(shared),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5_000_000)
    parser.add_argument("--points", type=float, default=0, help="polygon points an object")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--dir", type=Path, help="where to make the dataset (needs 2 GB)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        path = Path(folder)
        began = time.perf_counter()
        labels_bytes = make(path, args.images, args.points, seed=0)
        made = time.perf_counter() - began
        shards = len(list(path.glob("shard-*")))
        print(f"{args.images:,} images, {shards} shards, made in {made:.0f} s", file=sys.stderr)
        ways = (("mmap", False, args.runs), ("mmap", True, args.runs), ("pread", False, 1))
        rows = [measure(path, args.images, *way) for way in ways]
    good = all(
        row["seconds"]["median"] < LIMIT_SECONDS
        and row["private_bytes_an_image"]["median"] < LIMIT_BYTES
        for row in rows[:2]  # mapped
    )
    if args.json:
        limits = {"seconds": LIMIT_SECONDS, "private_bytes_an_image": LIMIT_BYTES}
        results.save(args.json, results.about("scale") | {
            "images": args.images, "objects_an_image": OBJECTS, "points_an_object": args.points,
            "shards": shards, "labels_bytes": labels_bytes, "limits": limits, "rows": rows,
            "within_limits": good,
        })  # fmt: skip
    for row in rows:
        cache = "labels cached" if row["labels_in_page_cache"] else "labels on disk"
        print(
            f"{row['io']:5} {cache}: {row['seconds']['median']:.2f} s, private memory "
            f"{row['private_bytes_an_image']['median']:.1f} B an image, page cache "
            f"{row['page_cache_bytes_an_image']:.0f} B an image (n={row['n']})"
        )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
