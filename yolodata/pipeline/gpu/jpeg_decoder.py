"""JPEG files to images by NVIDIA DALI, on a GPU or with its CPU operators: the same graph.

The only file of the loaders that imports nvidia.dali. What decoders disagree about (EXIF, CMYK,
other formats, files that are cut off), and what DALI cannot decode, goes to
`yolodata.images.decode`, sample by sample: which way a picture takes depends on its file alone,
never on its neighbours in a batch.

On the CPU, pictures that need no resizing have the bits of `decode_image`. Resized ones were never
more than one grey level away: 0.12 on average for 96 photographs to 416 pixels, because OpenCV's
weights are cut off: 12 % of its bytes are one below the exact result rounded, DALI's 0.06 % off.

Note [which decoder]. A GPU has a CUDA decoder and, often, a JPEG engine; their bits differ. DALI
decodes with nvImageCodec, which deals the files of a run out like this (image_reader of 0.8):
- It sorts them by subsampling and size. The first N that the engine accepts, by their headers, are
  the engine's; the CUDA decoder has all others.
- N is fixed by a graph's first run: `hw_decoder_load` of its files, rounded up to a multiple of the
  engines. So a graph with a share for the engine begins with a full run (`_prime`): a first run of
  one file would leave the engine a handful of files for ever.
- Where the engine fails on one file, the CUDA decoder decodes all that the engine had in that run.
So with any share above 0 a file's pixels depend on its neighbours, with 1 where one is damaged.
With 0, the default, they do not:
- The CUDA decoder takes each file by itself, with a Huffman decoder that depends on the file's kind
  and size. A file that it fails on goes to libjpeg-turbo, alone.
- `fn.resize` chooses the order of its passes picture by picture, by their sizes.
One exception is known: where memory ends inside nvJPEG, nvImageCodec takes that for a failure of
the file, and decodes it on the CPU without a word. DALI sets 16 MiB a thread aside against that.

Seen on an H200 (DALI 2.4, CUDA 13; 24 photographs in runs of 16, in order and reversed): all 24 had
the same bits with a share of 0, 18 with 0.65, 22 with 1. Without `_prime`, that is what the rules
above predict for seven engines. Engine and CUDA decoder agreed on none and were up to 3 grey levels
apart. From OpenCV the CUDA decoder was up to 3 away (mean 0.041), the engine 1 (mean 0.010). Damage
stayed alone, pictures stayed what they were, and memory was freed.

Open, until a GPU shows it:
- whether undamaged files have the same bits in every order with a share of 1 and `_prime`;
- whether the graph's conditional hands pictures on without a copy;
- when DALI uses the memory of a forgotten tensor again: it is not known to wait for the consumer's
  stream, so tensors must be kept until the work that reads them is done.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolodata.checks import whole
from yolodata.errors import ConfigError, DatasetError, is_out_of_memory
from yolodata.images.decode import decode_image
from yolodata.images.headers import Header
from yolodata.images.jpeg import ordinary_jpeg
from yolodata.images.limits import why_not_decoded
from yolodata.images.resize import resized_shape
from yolodata.pipeline.options import check_hw_decoder_load

if TYPE_CHECKING:
    import torch

log = logging.getLogger("yolodata")

Bytes = npt.NDArray[np.uint8]
RUNS = 3  # at once: one is with CPU threads, one on the device, one is handed over
RUN_PIXELS = 1 << 30  # before they are resized: 64 photographs of 16 million
_INPUTS = ("files", "sizes", "differs")  # of a graph; the last: whether it has to be resized
_END = b"\xff\xd9"  # marker; inside a scan these bytes cannot occur
_TAIL = 64  # some writers pad behind the end


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
    shape: tuple[int, int] = (0, 0)  # before it is resized
    most: int | None = None  # pixels that the file may state


@contextlib.contextmanager
def importing_dali() -> Iterator[None]:
    """Says what to install where DALI is not.

    Raises:
        ConfigError: it cannot be imported.
    """
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"DALI cannot be imported ({error}); install nvidia-dali-cuda120, or another build of "
            "it"
        ) from None


class DaliDecoder:
    """Decodes and resizes.

    Several threads may decode at once: up to `RUNS` runs are under way, of graphs of their own, so
    that one file's damage never reaches another call.

    Args:
        imgsz: longer side of the pictures; files are resized to it as Ultralytics does.
        device: "cpu", or a CUDA device such as "cuda:0"; "cuda" is torch's current one.
        batch_size: files of one run of the graph.
        threads: of DALI's own, shared among the runs.
        hw_decoder_load: share of the files, 0 to 1, that a GPU's JPEG engine decodes. "auto" is 0:
            a file then has the same pixels whatever it is decoded with. More is faster, and pixels
            may differ by up to 3 grey levels from one run to another: a warning says so, once a
            process. See Note [which decoder]. Ignored on the CPU.

    Raises:
        ConfigError: DALI is not installed, there is no such device, or an argument is out of range.
    """

    def __init__(
        self,
        imgsz: int,
        *,
        device: str | torch.device = "cpu",
        batch_size: int = 32,
        threads: int = 1,
        hw_decoder_load: float | str = "auto",
    ) -> None:
        whole("batch_size", batch_size, 1)
        whole("threads", threads, 1)
        check_hw_decoder_load(hw_decoder_load)
        with importing_dali():
            import nvidia.dali  # noqa: F401
        self._imgsz = imgsz
        self._device = _existing(device)
        self._batch_size = batch_size
        self._threads = threads
        self._load = 0.0 if hw_decoder_load == "auto" else float(hw_decoder_load)
        if self.hw_decoder_load:
            _warn_that_pixels_vary(self._load)
        self._idle = _no_graphs()
        self._complained = False
        self._closed = False

    @property
    def hw_decoder_load(self) -> float | None:
        """The share that a GPU's JPEG engine decodes, if it has one; None on the CPU."""
        return None if self._device.type == "cpu" else self._load

    def decode(
        self,
        files: Sequence[Bytes],
        names: Sequence[str],
        sizes: Sequence[tuple[int, int]],
        most: Sequence[int | None] | None = None,
    ) -> list[Decoded]:
        """Decodes any number of files.

        Args:
            files: uint8 (n,) each, the bytes of a file; read-only is fine, nothing is copied.
            names: their paths; the suffix decides about formats that are no JPEG.
            sizes: (height, width) that each picture must have.
            most: pixels that each file may state, as for `decode_image`.

        Returns:
            one `Decoded` a file, in order. The pictures stay valid whatever is decoded later, and
            on a GPU are complete.

        Raises:
            ConfigError: the decoder is closed.
        """
        if self._closed:
            raise ConfigError("the decoder is closed; make a new one")
        given: list[_File] = []
        done: dict[int, Decoded] = {}
        ordinary: list[int] = []
        limits = most or [None] * len(files)
        for i, (data, name, size, limit) in enumerate(
            zip(files, names, sizes, limits, strict=True)
        ):
            shape = ordinary_jpeg(data) if _ends(data) else None
            given.append(_File(data, name, (size[0], size[1]), shape or (0, 0), limit))
            if shape is None or why_not_decoded(Header(*shape), limit):
                done[i] = self._by_opencv(given[i])  # which says why, where it does not
            elif resized_shape(*shape, self._imgsz) != given[i].size:
                done[i] = Decoded(None, _wrong_size(given[i], shape, self._imgsz))
            else:
                ordinary.append(i)
        self._run(given, ordinary, done)
        return [done[i] for i in range(len(given))]

    def close(self) -> None:
        """Forgets DALI's threads and graphs; images that were handed out stay valid.

        Nobody may be decoding any more. See `release_unused_memory` for the memory.
        """
        self._closed = True
        self._idle = _no_graphs()

    def _run(self, given: list[_File], ordinary: list[int], done: dict[int, Decoded]) -> None:
        idle = self._idle
        flying: deque[tuple[Any, list[int]]] = deque()

        def collect() -> None:
            graph = None
            try:
                graph = self._collect(given, *flying[0], done)
            finally:
                flying.popleft()
                idle.put(graph)

        def take() -> Any:
            while flying:  # who has a graph does not wait for another: others may do the same
                with contextlib.suppress(queue.Empty):
                    return idle.get_nowait()
                collect()
            return idle.get()

        try:
            for chunk in _chunks(ordinary, given, self._batch_size):
                flying.append((take(), chunk))
                graph = flying[-1][0] or self._build()
                flying[-1] = (graph, chunk)
                _feed(graph, [given[i] for i in chunk])
            while flying:
                collect()
        finally:
            for _ in flying:  # runs that nobody collected would be taken for the next call's
                idle.put(None)

    def endless(self, batches: Iterator[tuple[Sequence[Bytes], Sequence[tuple[int, int]]]]) -> Any:
        """Returns what `decode` is measured against: DALI by itself, with a queue of its own.

        Args:
            batches: files and sizes as for `decode`, `batch_size` of each every time. JPEG files
                without EXIF, none of them damaged: nothing is looked at, and nothing is rescued.

        Yields:
            the pictures of each batch, while DALI decodes the next ones.
        """

        def source() -> tuple[list[Bytes], Bytes, Bytes]:
            files, sizes = next(batches)
            return _arrays(
                [_File(f, "", s, ordinary_jpeg(f) or s) for f, s in zip(files, sizes, strict=True)]
            )

        graph = self._build(source)
        while True:
            (pictures,) = graph.run()
            yield pictures

    def _build(self, source: Any = None) -> Any:
        from nvidia.dali import fn, pipeline_def, types

        cuda = self._device.type == "cuda"
        options: dict[str, Any] = {"hw_decoder_load": self._load} if cuda else {}

        names, dtypes, ndims = _INPUTS, [types.UINT8, types.FLOAT, types.BOOL], [1, 1, 0]

        @pipeline_def(  # type: ignore[untyped-decorator]
            batch_size=self._batch_size,
            num_threads=self._threads if source is not None else -(-self._threads // RUNS),
            device_id=self._device.index if cuda else None,
            exec_dynamic=True,  # outputs live as long as somebody holds them
            prefetch_queue_depth=1 if source is None else RUNS,
            enable_conditionals=True,
        )
        def graph() -> Any:
            if source is not None:
                inputs = fn.external_source(source, num_outputs=3, dtype=dtypes, ndim=ndims)
            else:
                inputs = [
                    fn.external_source(
                        name=names[i], dtype=dtypes[i], ndim=ndims[i], no_copy=i == 0
                    )
                    for i in range(3)
                ]
            files, sizes, differs = inputs
            pictures = fn.decoders.image(
                files,
                device="mixed" if cuda else "cpu",
                output_type=types.RGB,
                adjust_orientation=False,  # files with EXIF do not come here
                jpeg_fancy_upsampling=True,  # as the CPU's decoders
                **options,
            )
            # DALI resamples a picture to its own size too: the same bits, for 6 ms on a CPU core.
            if differs:
                pictures = fn.resize(
                    pictures, size=sizes, interp_type=types.INTERP_LINEAR, antialias=False
                )
            return pictures

        made = graph()
        made.build()
        if source is None and self.hw_decoder_load:
            self._prime(made)
        return made

    def _prime(self, graph: Any) -> None:
        """Makes a full first run, by which nvImageCodec counts the engine's files later."""
        import cv2

        picture = cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].reshape(-1)
        _feed(graph, [_File(picture, "", (16, 16), (16, 16))] * self._batch_size)
        graph.outputs()

    def _collect(
        self, given: list[_File], graph: Any, chunk: list[int], done: dict[int, Decoded]
    ) -> Any:
        """Takes the images of a run; returns a graph to use again, or None."""
        try:
            pictures = _outputs(graph)
        except Exception as error:  # DALI turns those of C++ into many types
            if is_out_of_memory(error):
                raise _no_memory(error) from None
            if len(chunk) == 1:
                # Once aloud: if it is every file, DALI does not work here, and OpenCV is slower.
                level = logging.DEBUG if self._complained else logging.WARNING
                self._complained = True
                log.log(level, "DALI cannot decode %s: %s", given[chunk[0]].name, error)
                done[chunk[0]] = self._by_opencv(given[chunk[0]])
                return None  # DALI may call the graph invalid
            graph = None
            for i in chunk:  # one bad file fails its batch: each by itself
                graph = graph or self._build()
                _feed(graph, [given[i]])
                graph = self._collect(given, graph, [i], done)
            return graph
        for i, pixels in zip(chunk, pictures, strict=True):
            if tuple(pixels.shape) == (*given[i].size, 3):
                done[i] = Decoded(pixels)
            else:
                done[i] = self._by_opencv(given[i])
        return graph

    def _by_opencv(self, file: _File) -> Decoded:
        import cv2
        import torch

        try:
            picture = decode_image(file.data, self._imgsz, file.name, file.most)
        except DatasetError as error:
            return Decoded(None, str(error), fallback=True)
        if picture.shape[:2] != file.size:
            return Decoded(None, _wrong_size(file, picture.shape[:2], self._imgsz), fallback=True)
        rgb = torch.from_numpy(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
        return Decoded(rgb.to(self._device), fallback=True)


@cache
def _warn_that_pixels_vary(load: float) -> None:
    log.warning(
        "hw_decoder_load=%s: pictures may differ by up to 3 grey levels with the files that are "
        "decoded beside them, because a GPU's JPEG engine and its CUDA decoder differ; the same "
        "seed need not give the same pictures again. hw_decoder_load=0 does, and is slower",
        load,
    )


def _no_graphs() -> queue.LifoQueue[Any]:
    """Places for graphs, which are built when they are needed: the last one used is used first."""
    places: queue.LifoQueue[Any] = queue.LifoQueue()
    for _ in range(RUNS):
        places.put(None)
    return places


def release_unused_memory() -> None:
    """Gives back what DALI's pools keep though nobody uses it, where DALI is loaded.

    Pictures and graphs that are forgotten go to pools of the whole process, not to the device.
    """
    backend = sys.modules.get("nvidia.dali.backend")
    release = getattr(backend, "ReleaseUnusedMemory", None)  # not in every version
    if release is not None:
        release()


def _existing(device: str | torch.device) -> torch.device:
    import torch

    try:
        found = torch.device(device)
    except RuntimeError:
        found = torch.device("meta")  # refused below
    if found.type == "cpu":
        return found
    count = torch.cuda.device_count()
    if found.type != "cuda" or (found.index or 0) >= count:
        raise ConfigError(
            f"device must be 'cpu' or one of the {count} CUDA devices that torch finds here "
            f"('cuda', 'cuda:<number>'), got {str(device)!r}"
        )
    return torch.device("cuda", torch.cuda.current_device() if found.index is None else found.index)


def _ends(data: Bytes) -> bool:
    """Returns whether a JPEG file is whole; decoders differ in what they make up for the rest."""
    return _END in data[-_TAIL:].tobytes()


def _chunks(images: Sequence[int], given: Sequence[_File], most: int) -> Iterator[list[int]]:
    """Splits images into runs of so many, or fewer where they are large."""
    chunk: list[int] = []
    pixels = 0
    for i in images:
        size = math.prod(given[i].shape)
        if chunk and (len(chunk) == most or pixels + size > RUN_PIXELS):
            yield chunk
            chunk, pixels = [], 0
        chunk.append(i)
        pixels += size
    if chunk:
        yield chunk


def _feed(graph: Any, files: Sequence[_File]) -> None:
    for name, values in zip(_INPUTS, _arrays(files), strict=True):
        graph.feed_input(name, values)
    graph.schedule_run()


def _arrays(files: Sequence[_File]) -> tuple[list[Bytes], Any, Any]:
    # Arrays and nothing derived from them: DALI looks at each attribute of those.
    return (
        [np.asarray(file.data) for file in files],
        np.array([file.size for file in files], np.float32),
        np.array([file.size != file.shape for file in files]),
    )


def _outputs(graph: Any) -> list[torch.Tensor]:
    from torch.utils.dlpack import from_dlpack

    (pictures,) = graph.outputs()  # waits until they are complete
    return [from_dlpack(pictures[k]) for k in range(len(pictures))]


def _no_memory(error: Exception) -> Exception:
    """Returns an error that Ultralytics' trainer, too, takes for what it is."""
    import torch

    return torch.OutOfMemoryError(f"out of memory while decoding: {error}")


def _wrong_size(file: _File, shape: tuple[int, ...], imgsz: int) -> str:
    return (
        f"{file.name}: decoded to {tuple(shape[:2])}, which does not become {file.size} at imgsz "
        f"{imgsz}; pack the dataset again"
    )
