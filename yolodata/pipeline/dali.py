"""JPEG files to pictures by NVIDIA DALI, on a GPU or with its CPU operators: the same graph.

The only file that imports nvidia.dali. What decoders disagree about (EXIF, CMYK, other formats),
and what DALI cannot decode, goes to `yolodata.shards.decode`, sample by sample: which way a picture
takes depends on its file alone, never on its neighbours in a batch.

On the CPU, pictures that need no resizing have the bits of `decode_image`; resized ones were never
more than one grey level away (40 photographs of COCO to 416 pixels: 0.12 on average).

To be settled on a GPU: whether nvJPEG's hardware and CUDA decoders give the same bits (if not, the
share of the hardware has to be fixed for a run to be repeatable), which share is fastest, and how
far both are from the CPU's.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolodata.errors import ConfigError, DatasetError
from yolodata.shards.decode import decode_image, ordinary_jpeg, resized_shape

if TYPE_CHECKING:
    import torch

log = logging.getLogger("yolodata")

Bytes = npt.NDArray[np.uint8]
_LOADS = (0.0, 0.4, 0.65, 0.9)  # shares of the hardware decoder that "auto" tries
_GRAPHS = 2  # one decodes while the pictures of the other are handed over


@dataclass(frozen=True)
class Decoded:
    """What became of one file.

    Attributes:
        pixels: uint8 (height, width, 3) RGB on the decoder's device; None if it cannot be decoded.
        reason: why not, or "".
        fallback: whether OpenCV decoded it, not DALI.
    """

    pixels: torch.Tensor | None
    reason: str = ""
    fallback: bool = False


@dataclass(frozen=True)
class _File:
    data: Bytes
    name: str
    size: tuple[int, int]


class DaliDecoder:
    """Decodes and resizes. One thread at a time may use it.

    Args:
        imgsz: longer side of the pictures; files are resized to it as Ultralytics does.
        device: "cpu", or a CUDA device such as "cuda:0".
        batch_size: files of one run of the graph.
        threads: of DALI's own.
        hw_decoder_load: share of the files, 0 to 1, that a GPU's JPEG engine decodes; "auto" times
            a few shares on the first files. Ignored on the CPU.

    Raises:
        ConfigError: DALI is not installed, or an argument is out of range.
    """

    def __init__(
        self,
        imgsz: int,
        *,
        device: str = "cpu",
        batch_size: int = 32,
        threads: int = 1,
        hw_decoder_load: float | str = "auto",
    ) -> None:
        if batch_size < 1 or threads < 1:
            raise ConfigError(
                f"batch_size and threads must be at least 1, got {batch_size} and {threads}"
            )
        if hw_decoder_load != "auto" and not (
            isinstance(hw_decoder_load, (int, float)) and 0 <= hw_decoder_load <= 1
        ):
            raise ConfigError(
                f"hw_decoder_load must be 'auto' or a share, 0 to 1, got {hw_decoder_load!r}"
            )
        try:
            import nvidia.dali  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"DALI cannot be imported ({error}); install nvidia-dali-cuda120, or another "
                "build of it"
            ) from None
        import torch

        self._imgsz = imgsz
        self._device = torch.device(device)
        self._batch_size = batch_size
        self._threads = threads
        self._load = 0.65 if hw_decoder_load == "auto" else float(hw_decoder_load)
        self._choose_load = hw_decoder_load == "auto" and self._device.type == "cuda"
        self._graphs: list[Any] = []
        self._closed = False

    def decode(
        self,
        files: Sequence[Bytes],
        names: Sequence[str],
        sizes: Sequence[tuple[int, int]],
    ) -> list[Decoded]:
        """Decode any number of files.

        Args:
            files: uint8 (n,) each, the bytes of a file; read-only is fine, nothing is copied.
            names: their paths; the suffix decides about formats that are no JPEG.
            sizes: (height, width) that each picture must have.

        Returns:
            one `Decoded` a file, in order. The pictures stay valid whatever is decoded later, and
            on a GPU are complete.
        """
        if self._closed:
            raise ConfigError("the decoder is closed; make a new one")
        given = [_File(*each) for each in zip(files, names, sizes, strict=True)]
        done: dict[int, Decoded] = {}
        ordinary: list[int] = []
        for i, file in enumerate(given):
            shape = ordinary_jpeg(file.data) if file.data.size else None
            if shape is None:
                done[i] = self._by_opencv(file)
            elif resized_shape(*shape, self._imgsz) != file.size:
                done[i] = Decoded(None, _wrong_size(file, shape, self._imgsz))
            else:
                ordinary.append(i)
        if self._choose_load and len(ordinary) >= self._batch_size:
            self._measure([given[i] for i in ordinary[: self._batch_size]])
        flying: deque[tuple[int, list[int]]] = deque()
        for number, first in enumerate(range(0, len(ordinary), self._batch_size)):
            if len(flying) == _GRAPHS:
                self._collect(given, *flying.popleft(), done)
            which = number % _GRAPHS
            if which == len(self._graphs):
                self._graphs.append(self._build(self._load))
            chunk = ordinary[first : first + self._batch_size]
            _feed(self._graphs[which], [given[i] for i in chunk])
            flying.append((which, chunk))
        while flying:
            self._collect(given, *flying.popleft(), done)
        return [done[i] for i in range(len(given))]

    def close(self) -> None:
        """Free DALI's threads and memory; pictures that were handed out stay valid."""
        self._closed = True
        self._graphs.clear()

    def _build(self, load: float) -> Any:
        from nvidia.dali import fn, pipeline_def, types

        cuda = self._device.type == "cuda"

        @pipeline_def(  # type: ignore[untyped-decorator]
            batch_size=self._batch_size,
            num_threads=self._threads,
            device_id=(self._device.index or 0) if cuda else None,
            exec_dynamic=True,  # outputs live as long as somebody holds them
            prefetch_queue_depth=1,
        )
        def graph() -> Any:
            files = fn.external_source(name="files", no_copy=True, dtype=types.UINT8, ndim=1)
            sizes = fn.external_source(name="sizes", dtype=types.FLOAT, ndim=1)
            options: dict[str, Any] = {"hw_decoder_load": load} if cuda else {}
            pictures = fn.decoders.image(
                files,
                device="mixed" if cuda else "cpu",
                output_type=types.RGB,
                adjust_orientation=False,  # files with EXIF do not come here
                jpeg_fancy_upsampling=True,  # as the CPU's decoders
                **options,
            )
            return fn.resize(pictures, size=sizes, interp_type=types.INTERP_LINEAR, antialias=False)

        made = graph()
        made.build()
        return made

    def _collect(
        self, given: list[_File], which: int, chunk: list[int], done: dict[int, Decoded]
    ) -> None:
        try:
            pictures = _outputs(self._graphs[which])
        except Exception as error:  # DALI turns those of C++ into many types
            self._graphs[which] = self._build(self._load)  # DALI may call the old one invalid
            if len(chunk) == 1:
                log.debug("DALI cannot decode %s: %s", given[chunk[0]].name, str(error))
                done[chunk[0]] = self._by_opencv(given[chunk[0]])
                return
            for i in chunk:  # one bad file fails its batch: each by itself
                _feed(self._graphs[which], [given[i]])
                self._collect(given, which, [i], done)
            return
        for i, pixels in zip(chunk, pictures, strict=True):
            if tuple(pixels.shape) == (*given[i].size, 3):
                done[i] = Decoded(pixels)
            else:
                done[i] = self._by_opencv(given[i])

    def _by_opencv(self, file: _File) -> Decoded:
        import cv2
        import torch

        try:
            picture = decode_image(file.data, self._imgsz, file.name)
        except DatasetError as error:
            return Decoded(None, str(error), fallback=True)
        if picture.shape[:2] != file.size:
            return Decoded(None, _wrong_size(file, picture.shape[:2], self._imgsz), fallback=True)
        rgb = torch.from_numpy(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
        return Decoded(rgb.to(self._device), fallback=True)

    def _measure(self, files: Sequence[_File]) -> None:
        """Keep the share of the hardware decoder that is fastest here."""
        self._choose_load = False
        best = float("inf")
        for load in _LOADS:
            graph = self._build(load)
            times = []
            try:
                for _ in range(4):
                    start = time.perf_counter()
                    _feed(graph, files)
                    _outputs(graph)
                    times.append(time.perf_counter() - start)
            except Exception:  # a bad file, or a share that is not supported
                continue
            if min(times[1:]) < best:
                best, self._load = min(times[1:]), load
        self._graphs.clear()
        log.info("DALI: hw_decoder_load=%s is fastest here", self._load)


def _feed(graph: Any, files: Sequence[_File]) -> None:
    # Arrays and nothing derived from them: DALI looks at each attribute of those.
    graph.feed_input("files", [np.asarray(file.data) for file in files])
    graph.feed_input("sizes", [np.array(file.size, np.float32) for file in files])
    graph.schedule_run()


def _outputs(graph: Any) -> list[torch.Tensor]:
    from torch.utils.dlpack import from_dlpack

    (pictures,) = graph.outputs()  # waits until they are complete
    return [from_dlpack(pictures[k]) for k in range(len(pictures))]


def _wrong_size(file: _File, shape: tuple[int, ...], imgsz: int) -> str:
    return (
        f"{file.name}: decoded to {tuple(shape[:2])}, which does not become {file.size} at imgsz "
        f"{imgsz}; pack the dataset again"
    )
