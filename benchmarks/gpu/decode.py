"""What DALI's decoders make of photographs on a GPU: whose bits, when others, how fast?

    python benchmarks/gpu/decode.py PHOTOGRAPHS JPEG_SHARDS OUT.json [--device cuda]

A share of the files (`hw_decoder_load`) is decoded by the GPU's JPEG engine, the others by CUDA. If
the two differ in a bit, a file's pixels depend on its neighbours unless the share is 0 or 1. So
each photograph is decoded alone and in several batches, with several shares, and files whose bits
are not those that they have alone are named, with what is special about them. Then the speed of
each share, of the drawn pictures of JPEG_SHARDS.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, JpegImagePlugin

from yolodata.bench import results
from yolodata.images.decode import decode_image
from yolodata.images.jpeg import ordinary_jpeg
from yolodata.images.resize import resized_shape
from yolodata.pipeline.gpu.jpeg_decoder import DaliDecoder
from yolodata.shards import reader

Bytes = npt.NDArray[np.uint8]

IMGSZ = 640
BITS = (0.0, 1.0, 0.65, 0.9)  # shares whose bits are compared; the first two are one decoder's
OWNERS = {"CUDA": 0.0, "the engine": 1.0}
SPEEDS = (0.0, 0.4, 0.65, 0.9, 1.0)
BATCH = 16
WAYS = {  # how a file meets others: size of the batches, and their order
    "in the next batch's place": (BATCH, lambda n: np.roll(np.arange(n), BATCH // 2)),
    "in order": (BATCH, lambda n: np.arange(n)),
    "backwards": (BATCH, lambda n: np.arange(n)[::-1]),
    "shuffled": (BATCH, lambda n: np.random.default_rng(0).permutation(n)),
    "in batches of 5": (5, lambda n: np.arange(n)),
}
SECONDS = 1.5  # of each speed


def say(text: str) -> None:
    """What `visit.sh` shows."""
    print(f"decode: {text}", flush=True)


def about_jpeg(data: Bytes) -> dict[str, Any]:
    """Whether it is progressive, and how colours are subsampled ("4:2:0" and the like)."""
    with Image.open(io.BytesIO(data)) as image:
        kinds = {-1: f"another kind, {image.mode}", 0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
        return {"progressive": "progressive" in image.info,
                "subsampling": kinds[JpegImagePlugin.get_sampling(image)]}  # fmt: skip


def decoded(
    files: list[Bytes], device: str, load: float, batch: int, order: Any
) -> tuple[list[Bytes | None], int]:
    """Pictures in the files' own order, None for a file that fell back; and how many did."""
    decoder = DaliDecoder(IMGSZ, device=device, batch_size=batch, threads=4, hw_decoder_load=load)
    sizes = []
    for file in files:
        shape = ordinary_jpeg(file)
        assert shape is not None
        sizes.append(resized_shape(*shape, IMGSZ))
    made: list[Bytes | None] = [None] * len(files)
    given = [files[i] for i in order], ["x.jpg"] * len(files), [sizes[i] for i in order]
    for i, picture in zip(order, decoder.decode(*given), strict=True):
        if picture.pixels is not None and not picture.fallback:
            made[i] = picture.pixels.cpu().numpy()
    decoder.close()
    return made, sum(picture is None for picture in made)


def same(a: Bytes | None, b: Bytes | None) -> bool:
    """Whether both are there, and equal."""
    return a is not None and b is not None and np.array_equal(a, b)


def compare(paths: list[Path], device: str, document: dict[str, Any], save: Any) -> None:
    """The bits of each share, in every way."""
    files = [np.fromfile(path, np.uint8) for path in paths]
    opencv = [cv2.cvtColor(decode_image(f, IMGSZ, "x"), cv2.COLOR_BGR2RGB) for f in files]
    alone: dict[float, list[Bytes | None]] = {}
    for load in BITS if device != "cpu" else (0.0,):
        alone[load], fell = decoded(files, device, load, 1, range(len(files)))
        pairs = zip(alone[load], opencv, strict=True)
        apart = [np.abs(a.astype(int) - b) for a, b in pairs if a is not None]
        found: dict[str, Any] = {
            "load": load, "files": len(files), "fell_back": fell,
            "mean_from_opencv": float(np.mean([a.mean() for a in apart])),
            "largest_from_opencv": int(max(a.max() for a in apart)), "same_in_other_batches": {},
        }  # fmt: skip
        document["bits"].append(found)
        others: dict[int, list[str]] = {}
        for way, (batch, order) in WAYS.items():
            made, _ = decoded(files, device, load, batch, order(len(files)))
            equal = [same(a, b) for a, b in zip(made, alone[load], strict=True)]
            found["same_in_other_batches"][way] = sum(equal)
            for i, is_equal in enumerate(equal):
                if not is_equal:
                    owners = [who for who, by in OWNERS.items()
                              if by in alone and same(made[i], alone[by][i])]  # fmt: skip
                    others.setdefault(i, []).append(f"{way} ({[*owners, 'neither'][0]}'s)")
        say(
            f"load {load}: {len(files)} photographs, {fell} fell back; from OpenCV: mean "
            f"{found['mean_from_opencv']:.3f}, largest {found['largest_from_opencv']}; as alone: "
            + ", ".join(f"{n} {way}" for way, n in found["same_in_other_batches"].items())
        )
        for i, ways in others.items():
            height, width = ordinary_jpeg(files[i])
            odd = {
                "load": load, "file": paths[i].name, "height": height, "width": width,
                "bytes": len(files[i]), **about_jpeg(files[i]), "other_bits": ways,
            }  # fmt: skip
            document["other_bits"].append(odd)
            progressive = ", progressive" if odd["progressive"] else ""
            say(
                f"load {load}: {odd['file']} ({height} x {width}, {odd['subsampling']}"
                f"{progressive}) is other than alone {', '.join(ways)}"
            )
        save()
    kinds = [about_jpeg(f)["subsampling"] for f in files]
    document["subsampling"] = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    if 1.0 in alone:
        equal = sum(same(a, b) for a, b in zip(alone[0.0], alone[1.0], strict=True))
        document["engine_as_cuda"] = equal
        say(f"engine and CUDA give the same bits for {equal} of {len(files)}")
    save()


def measure(folder: Path, device: str, document: dict[str, Any], save: Any) -> None:
    """Pictures a second by share, of one graph with a queue of its own."""
    shards = reader.open(folder)
    imgsz = int(shards.meta.imgsz)
    batch = 64 if device != "cpu" else min(4, len(shards))
    count = min(len(shards), 1024)
    sizes = [(int(shards.height[i]), int(shards.width[i])) for i in range(count)]
    for load in SPEEDS if device != "cpu" else (0.0,):
        try:
            decoder = DaliDecoder(
                imgsz, device=device, batch_size=batch, threads=16, hw_decoder_load=load
            )
            orders = (range(k, k + batch) for _ in range(1000) for k in range(0, count, batch))
            stream = decoder.endless(
                ([shards.sample(i) for i in o], [sizes[i] for i in o])
                for o in orders
                if o.stop <= count
            )
            for _ in range(6):
                next(stream)
            start, made = time.perf_counter(), 0
            while time.perf_counter() - start < (SECONDS if device != "cpu" else 0.2):
                next(stream)
                made += batch
            speed = made / (time.perf_counter() - start)
            decoder.close()
            found, said = {"img_s": speed}, f"{speed:,.0f} img/s"
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error)[:300]}"
            found, said = {"error": reason}, f"FAILED: {reason}"
        document["speeds"].append({"load": load, **found})
        say(f"load {load}: {said}")
        save()


def main(argv: list[str] | None = None) -> int:
    """1 if a speed could not be measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photographs", type=Path, help="a folder; may have none")
    parser.add_argument("shards", type=Path, help="JPEG shards")
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--most", type=int, default=64, help="photographs")
    args = parser.parse_args(argv)
    document = results.about(
        "gpu-decode", imgsz=IMGSZ, seconds=SECONDS, compared_with="decoded alone"
    )
    document |= {"bits": [], "other_bits": [], "speeds": [], "complete": False}

    def save() -> None:
        results.save(args.out, document)

    found = sorted(args.photographs.rglob("*.jpg"))[: args.most]
    paths = [path for path in found if ordinary_jpeg(np.fromfile(path, np.uint8))]
    if paths:
        compare(paths, args.device, document, save)
    else:
        say(f"no photographs in {args.photographs}: bits are not compared")
    measure(args.shards, args.device, document, save)
    document["complete"] = True
    save()
    return int(any("error" in speed for speed in document["speeds"]))


if __name__ == "__main__":
    sys.exit(main())
