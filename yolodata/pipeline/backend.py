"""Which workshop a loader works in: CPU threads, or a device with one of its tiers."""

from __future__ import annotations

import logging
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from yolodata.errors import YolodataError
from yolodata.pipeline.albumentations.transforms import Retoucher
from yolodata.pipeline.cpu.backend import Workshop
from yolodata.pipeline.gpu import dataset_cache as tiers
from yolodata.pipeline.gpu import stream as devices
from yolodata.pipeline.gpu.backend import DeviceWorkshop
from yolodata.pipeline.gpu.jpeg_decoder import RUNS, release_unused_memory
from yolodata.pipeline.gpu.stream import Output, Queue, Staging
from yolodata.pipeline.image_cache import BatchLoad, Load
from yolodata.pipeline.image_reader import checked, decode_into, reading
from yolodata.pipeline.schedule import ranks_here
from yolodata.pipeline.subset import Selection
from yolodata.telemetry import Telemetry

if TYPE_CHECKING:
    import torch

log = logging.getLogger("yolodata")

_DECODED_AT_ONCE = 64  # pictures of one run of the device's decoder


@dataclass(frozen=True)
class Order:
    """What a loader wants of its workshop.

    Attributes:
        selection: the images and objects that take part.
        threads: native threads.
        check: compare samples with their checksums.
        window: pictures that may be asked for again, 0 for any picture of the dataset.
        hw_decoder_load: see `Loader`.
        in_flight: pictures of the batches being prepared.
        pin_memory: page-locked pictures, for the CPU.
        telemetry: counts what reading costs.
        transforms: Albumentations' (see `retouch`); None for none.
    """

    selection: Selection
    threads: int
    check: bool
    window: int
    in_flight: int
    pin_memory: bool
    telemetry: Telemetry
    transforms: Any = None
    hw_decoder_load: float | str = "auto"

    @property
    def capacity(self) -> int:
        """Decoded pictures that are kept where they are decoded when needed."""
        return min(self.selection.images, (self.window or 1024) + self.in_flight)

    def retoucher(self, on_device: bool = False) -> Retoucher | None:
        """Who applies the transforms; on a device, those that it cannot apply."""
        if self.transforms is None:
            return None
        return Retoucher(self.transforms, self.threads, self.telemetry, on_device)

    def load(self) -> Load | None:
        """How CPU threads read pictures."""
        return reading(
            self.selection,
            threads=self.threads,
            check=self.check,
            window=self.window,
            in_flight=self.in_flight,
            always=self.transforms is not None,
        )


def open_on_cpu(order: Order) -> Workshop:
    """Pictures in host memory."""
    return Workshop(
        order.selection,
        threads=order.threads,
        pin_memory=order.pin_memory,
        load=order.load(),
        telemetry=order.telemetry,
        retoucher=order.retoucher(),
    )


def open_on_device(
    order: Order, device: torch.device, cache: str, output: Output
) -> tuple[DeviceWorkshop, tiers.Choice]:
    """Pictures and labels in device memory.

    Raises:
        ConfigError: there is no such device.
    """
    queue = devices.open_queue(device)
    selection = order.selection
    codec = selection.shards.meta.codec
    free, total = queue.room()
    # The other ranks of this machine count on its memory too.
    host = psutil.virtual_memory().available // ranks_here()
    nbytes = tiers.decoded_bytes(selection)
    window = nbytes * order.capacity // max(selection.images, 1) if codec != "raw" else 0
    staging = order.in_flight * 3 * selection.imgsz**2
    choice = tiers.choose(cache, codec, nbytes, tiers.Room(free, total, host), window, staging)
    log.info("cache=%s on %s: %s", choice.tier, queue.device, choice.why)
    decoder: _Decoder | None = None
    if codec != "raw" and choice.tier in ("device", "none"):
        decoder = _Decoder(order, queue)
    choice, resident = tiers.fill(
        choice, selection, queue, threads=order.threads, check=order.check, decode=decoder
    )
    load: BatchLoad | None = None
    if resident is None and codec != "raw":
        decoder = decoder or _Decoder(order, queue)
        load = BatchLoad(
            decoder,
            _DECODED_AT_ONCE,
            order.capacity,
            threads=RUNS,
            refresh=order.window == 0,
            close=decoder.close,
        )
    elif decoder is not None:
        decoder.close()
        release_unused_memory()
    renders = resident is not None or load is not None
    workshop = DeviceWorkshop(
        selection,
        queue=queue,
        output=output,
        threads=order.threads,
        telemetry=order.telemetry,
        resident=resident,
        load=load,
        hw_decoder_load=None if decoder is None else decoder.hw_decoder_load,
        host_load=None if renders else order.load(),
        retoucher=order.retoucher(on_device=renders),
    )
    return workshop, choice


class _Decoder:
    """Encoded samples to pictures on a queue's device: DALI, or CPU threads where it is missing.

    `RUNS` threads may call it at once.
    """

    def __init__(self, order: Order, queue: Queue) -> None:
        self._order, self._queue = order, queue
        self._lock = threading.Lock()
        self._staging = Staging(queue)
        self._pool: ThreadPoolExecutor | None = None
        self._dali: Any = None
        try:
            self._dali = self._open_dali()
        except Exception as error:  # DALI's are of many types
            # The error itself would keep its frames, and with them batches, alive.
            reason = " ".join(str(error).split())[-300:]
            log.warning("pictures are decoded on the CPU and uploaded, without DALI: %s", reason)

    def _open_dali(self) -> Any:
        """A decoder that has decoded something: not in the middle of an epoch should it fail."""
        import cv2

        from yolodata.pipeline.gpu.jpeg_decoder import DaliDecoder

        order, imgsz = self._order, self._order.selection.imgsz
        decoder = DaliDecoder(
            imgsz,
            device=str(self._queue.device),
            batch_size=_DECODED_AT_ONCE,
            threads=order.threads,
            hw_decoder_load=order.hw_decoder_load,
        )
        picture = cv2.imencode(".jpg", np.full((16, 16, 3), 114, np.uint8))[1].reshape(-1)
        (decoded,) = decoder.decode([picture], ["probe.jpg"], [(imgsz, imgsz)])
        if decoded.fallback or decoded.pixels is None:
            raise YolodataError(decoded.reason or "it cannot decode an ordinary JPEG file")
        return decoder

    def __call__(self, images: list[int]) -> list[tuple[Any, str]]:
        """For each image a tensor uint8 (h, w, 3) on the device, and why it is grey, or ""."""
        reasons: dict[int, str] = {}
        decode = self._with_dali if self._dali is not None else self._on_cpu
        found = decode(images, reasons)
        pictures: list[tuple[Any, str]] = []
        for image in images:
            picture = found.get(image)
            if picture is None:
                picture = tiers.grey(self._queue, *self._size(image))
            pictures.append((picture, reasons.get(image, "")))
        return pictures

    def _with_dali(self, images: list[int], reasons: dict[int, str]) -> dict[int, Any]:
        shards = self._order.selection.shards
        data: dict[int, Any] = {}
        for image in images:
            try:
                data[image] = checked(shards, image) if self._order.check else shards.sample(image)
            except YolodataError as error:
                reasons[image] = str(error)
        decoded = self._dali.decode(
            list(data.values()),
            [shards.name(image) for image in data],
            [self._size(image) for image in data],
        )
        found = {}
        for image, picture in zip(data, decoded, strict=True):
            if picture.pixels is None:
                reasons[image] = picture.reason
            else:
                found[image] = picture.pixels
        return found

    def _on_cpu(self, images: list[int], reasons: dict[int, str]) -> dict[int, Any]:
        queue, found = self._queue, {}
        ends = np.cumsum([3 * math.prod(self._size(image)) for image in images]).tolist()
        with self._lock:
            memory = self._staging.take(ends[-1])
        places = [memory[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        try:
            whys = list(self._readers().map(self._read, images, places))
            for image, place, why in zip(images, places, whys, strict=True):
                if why:
                    reasons[image] = why
                    continue
                picture = queue.memory(place.numel())
                queue.copy(place, picture)
                found[image] = picture.view(*self._size(image), 3)
        finally:  # the device may be reading, also where its memory ends
            queue.mark().wait()
            with self._lock:
                self._staging.give(memory, None)
        return found

    def _readers(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(
                    self._order.threads, thread_name_prefix="yolodata-decode"
                )
            return self._pool

    def _read(self, image: int, memory: torch.Tensor) -> str:
        """Decode a picture into page-locked memory; why that cannot be done, or ""."""
        order, size = self._order, self._size(image)
        try:
            decode_into(
                order.selection.shards, image, size, order.selection.imgsz, np.asarray(memory),
                order.check,
            )  # fmt: skip
        except Exception as error:  # any broken file: the run goes on without it
            return str(error) or type(error).__name__
        return ""

    @property
    def hw_decoder_load(self) -> float | None:
        """The share that the GPU's JPEG engine decodes; None where DALI does not use a GPU."""
        share: float | None = None if self._dali is None else self._dali.hw_decoder_load
        return share

    def _size(self, image: int) -> tuple[int, int]:
        selection = self._order.selection
        return int(selection.height[image]), int(selection.width[image])

    def close(self) -> None:
        """Stop the decoder."""
        if self._dali is not None:
            self._dali.close()
        if self._pool is not None:
            self._pool.shutdown()
