"""Encoded samples to images on a device, whoever decodes them."""

from __future__ import annotations

import logging
import math
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import numpy as np

from yolodata._native import FILL
from yolodata.errors import YolodataError, lacking
from yolodata.pipeline.backend import BackendSpec
from yolodata.pipeline.gpu.jpeg_decoder import DaliDecoder
from yolodata.pipeline.gpu.stream import StagingPool, Stream
from yolodata.pipeline.image_reader import checked, decode_into

if TYPE_CHECKING:
    import torch

log = logging.getLogger("yolodata")

DECODED_AT_ONCE = 64
"""Images of one run of the device's decoder."""


class ImageDecoder:
    """Encoded samples to images on a device: by DALI, or by CPU threads where it is missing.

    `RUNS` threads may read at once.

    Args:
        spec: what the loader wants.
        stream: of the device.
    """

    def __init__(self, spec: BackendSpec, stream: Stream) -> None:
        self._spec, self._stream = spec, stream
        self._lock = threading.Lock()
        self._staging = StagingPool(stream)
        self._pool: ThreadPoolExecutor | None = None
        self._dali: Any = None
        try:
            self._dali = self._open_dali()
        except Exception as error:  # DALI's are of many types
            # The error itself would keep its frames, and with them batches, alive.
            reason = " ".join(str(error).split())[-300:]
            log.warning("images are decoded on the CPU and uploaded, without DALI: %s", reason)

    def _open_dali(self) -> Any:
        """Returns a decoder that has decoded something: it should not fail within an epoch."""
        import cv2

        spec, imgsz = self._spec, self._spec.subset.imgsz
        decoder = DaliDecoder(
            imgsz,
            device=str(self._stream.device),
            batch_size=DECODED_AT_ONCE,
            threads=spec.threads,
            hw_decoder_load=spec.device.hw_decoder_load,
        )
        picture = cv2.imencode(".jpg", np.full((16, 16, 3), FILL, np.uint8))[1].reshape(-1)
        (decoded,) = decoder.decode([picture], ["probe.jpg"], [(imgsz, imgsz)])
        if decoded.fallback or decoded.pixels is None:
            raise YolodataError(decoded.reason or "it cannot decode an ordinary JPEG file")
        return decoder

    def read(self, images: list[int], memory: object = ()) -> list[tuple[Any, str]]:
        """Returns for each image uint8 (h, w, 3) on the device, and why it is grey, or ""."""
        reasons: dict[int, str] = {}
        decode = self._with_dali if self._dali is not None else self._on_cpu
        found = decode(images, reasons)
        found_all: list[tuple[Any, str]] = []
        for image in images:
            picture = found.get(image)
            if picture is None:
                picture = _grey(self._stream, *self._size(image))
            found_all.append((picture, reasons.get(image, "")))
        return found_all

    def _with_dali(self, images: list[int], reasons: dict[int, str]) -> dict[int, Any]:
        shards = self._spec.subset.shards
        data: dict[int, Any] = {}
        for image in images:
            try:
                data[image] = checked(shards, image) if self._spec.check else shards.sample(image)
            except YolodataError as error:
                reasons[image] = str(error)
        decoded = self._dali.decode(
            list(data.values()),
            [shards.name(image) for image in data],
            [self._size(image) for image in data],
            [shards.most_pixels(image) for image in data],
        )
        found = {}
        for image, picture in zip(data, decoded, strict=True):
            if picture.pixels is None:
                reasons[image] = picture.reason
            else:
                found[image] = picture.pixels
        return found

    def _on_cpu(self, images: list[int], reasons: dict[int, str]) -> dict[int, Any]:
        stream, found = self._stream, {}
        ends = np.cumsum([3 * math.prod(self._size(image)) for image in images]).tolist()
        with self._lock:
            memory = self._staging.take(ends[-1])
        places = [memory[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        try:
            readers = self._readers()
            reads = [readers.submit(self._read, *each) for each in zip(images, places, strict=True)]
            wait(reads)  # also where memory lacks for one: the others write until they end
            for image, place, read in zip(images, places, reads, strict=True):
                if why := read.result():
                    reasons[image] = why
                    continue
                picture = stream.empty(place.numel())
                stream.copy(place, picture)
                found[image] = picture.view(*self._size(image), 3)
        finally:  # the device may be reading, also where its memory ends
            stream.record_event().synchronize()
            with self._lock:
                self._staging.give(memory, None)
        return found

    def _readers(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                begin = self._spec.pinning.initializer()
                self._pool = ThreadPoolExecutor(self._spec.threads, "yolodata-decode", begin)
            return self._pool

    def _read(self, image: int, memory: torch.Tensor) -> str:
        """Decodes an image into page-locked memory; why that cannot be done, or ""."""
        spec, size = self._spec, self._size(image)
        try:
            decode_into(
                spec.subset.shards, image, size, spec.subset.imgsz, np.asarray(memory),
                spec.check,
            )  # fmt: skip
        except Exception as error:  # any broken file: the run goes on without it
            if lacking(error):
                raise  # the file may be a good one
            return str(error) or type(error).__name__
        return ""

    @property
    def hw_decoder_load(self) -> float | None:
        """The share that the GPU's JPEG engine decodes; None where DALI does not use a GPU."""
        share: float | None = None if self._dali is None else self._dali.hw_decoder_load
        return share

    def _size(self, image: int) -> tuple[int, int]:
        subset = self._spec.subset
        return int(subset.height[image]), int(subset.width[image])

    def close(self) -> None:
        """Stops the decoder."""
        if self._dali is not None:
            self._dali.close()
        if self._pool is not None:
            self._pool.shutdown()


def _grey(stream: Stream, height: int, width: int) -> torch.Tensor:
    """Returns an image (h, w, 3) on the device in place of one that cannot be read."""
    memory = stream.pinned(3 * height * width)
    memory.fill_(FILL)
    picture = stream.empty(memory.numel())
    stream.copy(memory, picture)
    stream.record_event().synchronize()
    return picture.view(height, width, 3)
