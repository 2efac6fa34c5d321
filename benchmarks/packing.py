"""How fast packing is, compared with what no packer can avoid on the same cores.

For raw shards that is reading, decoding and resizing every picture, with the packer's own
functions; for JPEG shards reading and decoding it with OpenCV (the check that it can be decoded at
all). A third peer also writes the pixels, with plain write(). The pure work is done by one process
per core, in a loop without anything else. Packing is the whole of `pack`: finding and checking the
files, labels, writing, checksums, syncing to disk. Packing and its peer take turns. A machine that
others use too changes its speed within a minute, so packing is compared with the mean of the pure
work just before and just after it; a ratio is the median of those of the rounds.

    python benchmarks/packing.py --json benchmarks/results/packing.json
    python benchmarks/packing.py --data DATA.yaml
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from yolodata.bench import drawing, results
from yolodata.ingest import PackSettings, open_source, pack
from yolodata.machine import usable_cores

TARGET = 0.9
IMGSZ = 640
COMPARISONS = [
    ("jpeg", "decode"),
    ("raw", "decode + resize"),
    ("raw", "decode + resize + write()"),
]

PURE = """
import json, sys
import cv2, numpy as np
from yolodata.ingest.image_check import CheckedImage, decode_rgb, read_file
from yolodata.images.resize import resize, resized_shape
cv2.setNumThreads(1)
files, kind, imgsz, out = json.loads(sys.stdin.readline())
written = open(out, "wb", buffering=0)
SHAPE = (0, 0)  # known to be plain: nobody has to look into the header first
def one(file):
    data = read_file(file)
    if kind == "decode":
        cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        return
    jpeg = file.endswith((".jpg", ".jpeg"))
    picture = decode_rgb(CheckedImage(data, SHAPE, jpeg, jpeg), file)
    picture = resize(picture, resized_shape(*picture.shape[:2], imgsz))
    if kind == "write":
        written.write(picture.data)
one(files[0])
print("ready", flush=True)
sys.stdin.readline()
for file in files:
    one(file)
print("done", flush=True)
"""


def pure(files: list[str], kind: str, cores: int, folder: Path) -> float:
    """Pictures a second of decoding ("decode"), and resizing ("resize"), and writing ("write")."""
    written = [folder / f"written-{k}" for k in range(cores)]
    start = [sys.executable, "-c", PURE]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(start, **pipes) for _ in written]

    def answered(words: list[str], answer: str) -> None:
        """Gives every child its line, and waits for all answers."""
        for child, line in zip(children, words, strict=True):
            print(line, file=child.stdin, flush=True)
        for child in children:
            assert child.stdout.readline() == f"{answer}\n"

    answered(
        [json.dumps([files[k::cores], kind, IMGSZ, str(f)]) for k, f in enumerate(written)], "ready"
    )
    os.sync()  # what came before
    began = time.perf_counter()
    answered(["go"] * cores, "done")
    seconds = time.perf_counter() - began
    for child, file in zip(children, written, strict=True):
        child.communicate()
        file.unlink()
    return len(files) / seconds


def packing(data: Path, out: Path, codec: str, images: int) -> float:
    """Pictures a second of packing the whole dataset."""
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    began = time.perf_counter()
    report = pack(data, out, PackSettings(codec, IMGSZ), splits=["train"], progress=False)
    seconds = time.perf_counter() - began
    assert report.splits["train"].images == images, "pictures were left out"
    shutil.rmtree(out)
    return images / seconds


def repeated(data: Path, folder: Path, images: int) -> tuple[Path, list[str]]:
    """A dataset that lists the pictures of another one again and again."""
    source = open_source(data, splits=["train"])
    paths = source.splits["train"].paths
    files = [paths[k % len(paths)] for k in range(images)]
    listed = folder / "train.txt"
    listed.write_text("\n".join(files))
    names = [source.names[k] for k in range(len(source.names))]
    return drawing.write_yaml(folder, str(listed), names), files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="your own dataset (default: a drawn one)")
    parser.add_argument("--drawn", type=int, default=300, help="pictures to draw (default: 300)")
    parser.add_argument("--images", type=int, default=8000, help="pictures to pack, with repeats")
    parser.add_argument("--rounds", type=int, default=5)
    usable = usable_cores()
    parser.add_argument("--cores", type=int, default=len(usable), help="use only so many")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.sched_setaffinity(0, usable[: args.cores])
    with tempfile.TemporaryDirectory(prefix="yolodata-packing-") as temporary:
        folder = Path(temporary)
        data = args.data
        if data is None:
            print(f"drawing {args.drawn} pictures", flush=True)
            drawing.write(folder / "drawn", args.drawn, 0, args.cores)
            data = folder / "drawn" / "data.yaml"
        yaml, files = repeated(data, folder, args.images)
        work = {
            "jpeg": lambda: packing(yaml, folder / "out", "jpeg", args.images),
            "raw": lambda: packing(yaml, folder / "out", "raw", args.images),
            "decode": lambda: pure(files, "decode", args.cores, folder),
            "decode + resize": lambda: pure(files, "resize", args.cores, folder),
            "decode + resize + write()": lambda: pure(files, "write", args.cores, folder),
        }
        pure(files[:200], "resize", args.cores, folder)  # files into the page cache
        rates: dict[str, dict[str, list[float]]] = {}
        for codec, peer in COMPARISONS:
            found = rates[f"{codec} / {peer}"] = {codec: [], peer: [work[peer]()]}
            for number in range(args.rounds):
                for name in (codec, peer):
                    found[name].append(work[name]())
                now = ", ".join(f"{name} {values[-1]:.0f}" for name, values in found.items())
                print(f"round {number + 1}: {now} img/s", flush=True)
    ratios = {
        comparison: results.spread([
            value / ((before + after) / 2)
            for value, (before, after) in zip(values, pairwise(peers), strict=True)
        ])
        for comparison, (values, peers) in ((c, found.values()) for c, found in rates.items())
    }  # fmt: skip
    met = all(ratio["median"] >= TARGET for ratio in ratios.values())
    for name, ratio in ratios.items():
        print(f"packing {name}: {ratio['median']:.0%} ({ratio['min']:.0%} to {ratio['max']:.0%}), "
              f"target {TARGET:.0%}")  # fmt: skip
    if args.json:
        speeds = {comparison: {name: results.spread(values) for name, values in found.items()}
                  for comparison, found in rates.items()}  # fmt: skip
        results.save(args.json, results.about("packing") | {
            "what": "packing, against reading and decoding (and resizing) alone",
            "cores": args.cores, "images": args.images, "distinct_images": len(set(files)),
            "data": args.data.name if args.data else f"drawn, {args.drawn} pictures",
            "rounds": args.rounds, "images_per_second": speeds,
            "ratio": ratios, "target": TARGET, "met": met,
        })  # fmt: skip
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
