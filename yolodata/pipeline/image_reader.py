"""How a stored sample becomes pixels in host memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from yolodata import _native
from yolodata.errors import ShardError, lacking
from yolodata.machine import fresh_memory
from yolodata.pipeline.image_cache import Bytes, ImageSource
from yolodata.pipeline.subset import Subset
from yolodata.telemetry import Telemetry

if TYPE_CHECKING:
    from yolodata.shards.reader import ShardDataset

_SPARE = 4 << 20  # bytes; larger pictures are rare
_threads = threading.local()


def checked(shards: ShardDataset, image: int) -> Bytes:
    """Returns the stored bytes of a sample, after comparing them with their checksum.

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
    """Decodes an encoded sample.

    Args:
        size: expected height and width.
        imgsz: longer side.
        memory: a buffer to use again, of any size.
        check: compare the stored bytes with their checksum first.

    Returns:
        1-D uint8 buffer that starts with height * width RGB triples and may be longer.

    Raises:
        ShardError: the image has another size.
        DatasetError: it cannot be decoded, or states more pixels than were packed.
    """
    import cv2

    from yolodata.images.decode import decode_image, decode_jpeg
    from yolodata.images.resize import resize, resized_shape

    data = checked(shards, image) if check else shards.sample(image)
    name = shards.name(image)
    height, width = size
    need = height * width * 3
    if memory is None or memory.nbytes < need:
        memory = fresh_memory(max(need, imgsz * imgsz * 3))
    target = memory[:need].reshape(height, width, 3)
    most = shards.most_pixels(image)
    picture = decode_jpeg(data, target, _spare(), most=most)
    turn = picture is None
    if picture is None:
        picture = decode_image(data, imgsz, name, most)
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
    """Returns memory of this thread for an image to be resized: fresh memory is slow."""
    memory: Bytes | None = getattr(_threads, "memory", None)
    if memory is None:
        memory = _threads.memory = fresh_memory(_SPARE)
    return memory


def image_source(
    subset: Subset,
    *,
    threads: int,
    check: bool,
    window: int,
    in_flight: int,
    telemetry: Telemetry,
    always: bool = False,
    shrink: Mapping[int, tuple[int, int]] | None = None,
    begin: Callable[[], None] | None = None,
) -> ImageSource | None:
    """Returns how images are read; None when their pixels are in memory as they are.

    Args:
        subset: the images.
        threads: for reading.
        check: compare samples with their checksums.
        window: images that may be asked for again, 0 for any image of the dataset.
        in_flight: images of the batches being prepared.
        telemetry: adds up seconds of "storage", and takes them from "decode", which whoever calls
            `read` counts.
        always: never None; pixels that are in memory are handed out as they are.
        shrink: (height, width) that some images are resized to, as upstream does.
        begin: what each thread does first.
    """
    shards, imgsz, smaller = subset.shards, subset.imgsz, shrink or {}

    def size(image: int) -> tuple[int, int]:
        return int(subset.height[image]), int(subset.width[image])

    def pixels_of(image: int, memory: Bytes | None) -> Bytes:
        if shards.meta.codec == "raw":
            pixels = checked(shards, image) if check else shards.sample(image)
        else:
            pixels = decode_into(shards, image, size(image), imgsz, memory, check)
        return _resized(pixels, size(image), smaller[image]) if image in smaller else pixels

    def waits_for_bytes(image: int) -> float:
        """Brings the stored bytes into memory; returns the seconds that this took."""
        return 1e-9 * _native.wait_for_pages(shards.sample(image))

    def read(images: list[int], memory: list[Bytes]) -> list[tuple[Bytes, str]]:
        (image,) = images
        waited, begun, ran = 0.0, time.perf_counter(), time.thread_time()
        try:
            if shards.mapped:
                waited = waits_for_bytes(image)
            return [(pixels_of(image, memory[0] if memory else None), "")]
        except Exception as error:  # any broken file: the run goes on without it
            if lacking(error):
                raise  # the file may be a good one
            height, width = smaller.get(image, size(image))
            grey = np.full(height * width * 3, _native.FILL, np.uint8)
            return [(grey, str(error) or type(error).__name__)]
        finally:
            if not shards.mapped:  # read by calls, in which this thread does not run
                waited = max(0.0, time.perf_counter() - begun - (time.thread_time() - ran))
            telemetry.record({"storage": waited, "decode": -waited}, {})

    if shards.meta.codec != "raw":
        capacity = min(subset.images, window or 1024) + in_flight
        recycle = not smaller
        return ImageSource(
            read, threads, capacity, refresh=window == 0, recycle=recycle, begin=begin
        )
    if not shards.mapped:
        return ImageSource(read, threads, in_flight, refresh=True, begin=begin)
    if check or always or smaller:
        return ImageSource(read, threads, capacity=1 << 16, begin=begin)
    return None


def _resized(pixels: Bytes, size: tuple[int, int], new: tuple[int, int]) -> Bytes:
    from yolodata.images.resize import resize

    height, width = size
    picture = pixels[: height * width * 3].reshape(height, width, 3)
    return resize(picture, new).reshape(-1)
