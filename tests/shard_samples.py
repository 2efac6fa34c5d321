"""Small drawn samples for the tests of shards; needs nothing but NumPy and yolodata.shards."""

from __future__ import annotations

import numpy as np

from yolodata.images.resize import resized_shape
from yolodata.shards import DatasetMeta, LeftOut, ShardWriter, StoredSample

IMGSZ = 32
META = DatasetMeta("raw", IMGSZ, {0: "cat", 1: "dog", 2: "bird"}, source={"kind": "drawn"})
SHARD_SIZE = 5 * 4096  # five samples


def sample(i: int, meta: DatasetMeta = META) -> StoredSample:
    """Sample `i`: always the same, different from all others."""
    rng = np.random.default_rng(i)
    height, width = (int(side) for side in rng.integers(20, 60, 2))
    h, w = resized_shape(height, width, meta.imgsz)
    n = i % 4
    polygons = [rng.random((k, 2)).astype(np.float32) for k in rng.integers(0, 6, n)]
    points = meta.keypoints
    return StoredSample(
        data=rng.integers(0, 256, (h, w, 3)).astype(np.uint8),
        height=h,
        width=w,
        orig_height=height,
        orig_width=width,
        label_height=height,
        label_width=width,
        name=f"images/pictüre {i}.jpg",
        cls=rng.integers(0, len(meta.names), n).astype(np.float32),
        box=rng.random((n, 4)).astype(np.float32),
        polygons=polygons if i % 3 else None,
        keypoints=None if points is None else rng.random((n, points, 3)).astype(np.float32),
    )


def feed(writer: ShardWriter, count: int, meta: DatasetMeta = META) -> None:
    """Store what is still missing of `count` source images, up to three at a time; every seventh is
    left out.
    """
    items = [
        LeftOut(f"images/{i}.jpg", "corrupt") if i % 7 == 5 else sample(i, meta)
        for i in range(writer.resume().done, count)
    ]
    while items:
        together = len(items) % 3 + 1
        writer.store(items[:together])
        del items[:together]


def pack(path, count: int = 20, meta: DatasetMeta = META, shard_size: int = SHARD_SIZE, **kwargs):
    """Pack `count` source images into a dataset directory; return its metadata."""
    with ShardWriter(path, meta, shard_size, **kwargs) as writer:
        feed(writer, count, meta)
        return writer.finish()


def contents(path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }
