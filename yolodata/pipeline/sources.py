"""How one stored sample becomes pixels in memory."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np

from yolodata.errors import ShardError
from yolodata.pipeline.pixels import Bytes, Load
from yolodata.pipeline.selection import Selection

if TYPE_CHECKING:
    from yolodata.shards.reader import ShardDataset

_SPARE = 4 << 20  # bytes; larger pictures are rare
_threads = threading.local()


def checked(shards: ShardDataset, image: int) -> Bytes:
    """The stored bytes of a sample, after comparing them with their checksum.

    Raises:
        ShardError: the bytes are not those that were packed.
    """
    import xxhash

    data = shards.sample(image)
    got, want = xxhash.xxh3_64_intdigest(data.data), int(shards.checksum[image])
    if got != want:
        raise ShardError(
            f"{shards.path}: sample {image} ({shards.name(image)}) in shard "
            f"{int(shards.shard[image])} at byte {int(shards.offset[image])} has checksum "
            f"{got:016x}, expected {want:016x}; run `yolodata verify --full` and pack again"
        )
    return data


def decode_into(
    shards: ShardDataset,
    image: int,
    size: tuple[int, int],
    imgsz: int,
    memory: Bytes | None,
    check: bool,
) -> Bytes:
    """Decode an encoded sample.

    Args:
        size: expected height and width.
        imgsz: longer side.
        memory: a buffer to use again, of any size.
        check: compare the stored bytes with their checksum first.

    Returns:
        1-D uint8 buffer that starts with height * width RGB triples and may be longer.

    Raises:
        ShardError: the picture cannot be decoded, or has another size.
    """
    import cv2

    from yolodata.images.decode import decode_image, decode_jpeg
    from yolodata.images.resize import resize, resized_shape

    data = checked(shards, image) if check else shards.sample(image)
    name = shards.name(image)
    height, width = size
    need = height * width * 3
    if memory is None or memory.nbytes < need:
        memory = np.empty(max(need, imgsz * imgsz * 3), np.uint8)
    target = memory[:need].reshape(height, width, 3)
    picture = decode_jpeg(data, target, _spare())
    turn = picture is None
    if picture is None:
        picture = decode_image(data, imgsz, name)
    if resized_shape(picture.shape[0], picture.shape[1], imgsz) != size:
        raise ShardError(
            f"{name}: decoded to {picture.shape[:2]}, which does not become {size} at "
            f"imgsz {imgsz}; pack the dataset again"
        )
    if turn:
        cv2.cvtColor(picture, cv2.COLOR_BGR2RGB, dst=target)
    elif picture.shape != target.shape:
        resize(picture, size, target)
    return memory


def _spare() -> Bytes:
    """Memory of this thread for a picture that is to be resized: fresh memory is slow."""
    memory: Bytes | None = getattr(_threads, "memory", None)
    if memory is None:
        memory = _threads.memory = np.empty(_SPARE, np.uint8)
    return memory


def reading(
    selection: Selection,
    *,
    threads: int,
    check: bool,
    window: int,
    in_flight: int,
    always: bool = False,
) -> Load | None:
    """How the pictures of a selection are read; None when their pixels are in memory as they are.

    Args:
        threads: for reading.
        check: compare samples with their checksums.
        window: pictures that may be asked for again, 0 for any picture of the dataset.
        in_flight: pictures of the batches being prepared.
        always: never None; pixels that are in memory are handed out as they are.
    """
    shards, imgsz = selection.shards, selection.imgsz

    def size(image: int) -> tuple[int, int]:
        return int(selection.height[image]), int(selection.width[image])

    def look_up(image: int, memory: Bytes | None) -> Bytes:
        return checked(shards, image) if check else shards.sample(image)

    def decode(image: int, memory: Bytes | None) -> Bytes:
        return decode_into(shards, image, size(image), imgsz, memory, check)

    if shards.meta.codec != "raw":
        capacity = min(selection.images, window or 1024) + in_flight
        return Load(decode, size, threads, capacity, refresh=window == 0, recycle=True)
    if not shards.mapped:
        return Load(look_up, size, threads, in_flight, refresh=True)
    return Load(look_up, size, threads, capacity=1 << 16) if check or always else None
