"""How much work a shard holds, and would cost an interruption if whole ones alone were recorded.

Processor time of packing an image, all threads together, times the images that a shard of the
default size holds.

    python benchmarks/packing_shards.py --photographs DATA.yaml \
        --json benchmarks/results/packing-shards.json

The photographs are those of DATA.yaml, enlarged to 4000 x 3000 pixels, as a camera makes them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
from packing import IMGSZ, repeated

from yolodata.bench import drawing, results
from yolodata.ingest import PackSettings, open_source, pack
from yolodata.shards import reader
from yolodata.shards.writer import DEFAULT_SHARD_SIZE

LARGE = (4000, 3000)
QUALITY = 90
ROWS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("drawn", "raw", {}),
    ("drawn", "jpeg", {}),
    ("photographs", "raw", {}),
    ("photographs", "jpeg", {"reencode": QUALITY}),
)


def enlarged(data: Path, folder: Path, images: int) -> Path:
    """A dataset without objects of the first photographs of another one, as a camera makes them."""
    drawing.make_folders(folder)
    for file in open_source(data, splits=["train"]).splits["train"].paths[:images]:
        large = cv2.resize(cv2.imread(file), LARGE, interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "images" / "train" / Path(file).name), large)
        (folder / "labels" / "train" / Path(file).with_suffix(".txt").name).touch()
    return drawing.write_yaml(folder, "images/train", ["object"])


def packed(data: Path, out: Path, codec: str, settings: dict[str, Any]) -> tuple[float, float]:
    """Seconds of processor time and bytes that an image takes."""
    began = time.process_time()
    pack(data, out, PackSettings(codec, IMGSZ, **settings), splits=["train"], progress=False)
    seconds = time.process_time() - began
    with reader.open(out, split="train") as shards:
        count, size = len(shards), float(shards.nbytes.mean())
    shutil.rmtree(out)
    return seconds / count, size


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photographs", type=Path, required=True, metavar="DATA.yaml")
    parser.add_argument("--images", type=int, default=2000, help="drawn pictures, with repeats")
    parser.add_argument("--drawn", type=int, default=300, help="different ones (default: 300)")
    parser.add_argument("--enlarged", type=int, default=24, help="photographs (default: 24)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="yolodata-packing-shards-") as temporary:
        folder = Path(temporary)
        drawing.write(folder / "drawn", args.drawn, 0, 1)
        listed, _ = repeated(folder / "drawn" / "data.yaml", folder, args.images)
        data = {
            "drawn": listed,
            "photographs": enlarged(args.photographs, folder / "large", args.enlarged),
        }
        seconds: dict[tuple[str, str], list[float]] = {}
        size: dict[tuple[str, str], float] = {}
        for _ in range(args.rounds):  # in turns, because others change the machine's speed
            for pictures, codec, settings in ROWS:
                taken, size[pictures, codec] = packed(
                    data[pictures], folder / "out", codec, settings
                )
                seconds.setdefault((pictures, codec), []).append(taken)
        bytes_of = {
            "drawn": _mean_bytes(folder / "drawn"),
            "photographs": _mean_bytes(folder / "large"),
        }
    rows = []
    for pictures, codec, settings in ROWS:
        image = results.spread(seconds[pictures, codec])
        shard = DEFAULT_SHARD_SIZE / size[pictures, codec]
        rows.append(
            {
                "pictures": pictures, "codec": codec, **settings,
                "file_bytes": round(bytes_of[pictures]), "image_s": image,
                "images_a_shard": round(shard), "shard_s": round(shard * image["median"], 1),
            }
        )  # fmt: skip
        print(
            f"{codec:5} {pictures:12} {1e3 * image['median']:6.1f} ms an image "
            f"({1e3 * image['min']:.1f} to {1e3 * image['max']:.1f}), {shard:6.0f} images a shard, "
            f"{shard * image['median']:6.1f} s a shard",
            flush=True,
        )
    if args.json:
        settings = {
            "imgsz": IMGSZ, "shard_bytes": DEFAULT_SHARD_SIZE, "images": args.images,
            "drawn": args.drawn, "enlarged": args.enlarged, "rounds": args.rounds,
        }  # fmt: skip
        results.save(args.json, results.about("packing_shards", **settings) | {"rows": rows})
    return 0


def _mean_bytes(folder: Path) -> float:
    files = [file.stat().st_size for file in (folder / "images" / "train").iterdir()]
    return sum(files) / len(files)


if __name__ == "__main__":
    sys.exit(main())
