"""What `yolodata diff` takes for datasets of five million images.

Makes a dataset as `scale.py` does, a second one in which one image of a thousand has other pixels
and one object of a thousand another box, and a third one in which nothing is the same but names.
Compares the first with itself and with both, in fresh processes.

    python benchmarks/diff.py --json benchmarks/results/diff.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import scale
import xxhash

from yolodata.bench import results
from yolodata.shards.reader import ShardDataset, read_meta

CHILD = """
import json, sys, threading, time
from pathlib import Path
from yolodata.diff.datasets import diff_datasets
from yolodata.machine import process_memory
def private():
    return process_memory()["RssAnon"]
peak, done = 0, threading.Event()
def watch():
    global peak
    while not done.wait(0.02):
        peak = max(peak, private())
before = private()
threading.Thread(target=watch).start()
began, cpu = time.perf_counter(), time.process_time()
diff = diff_datasets(Path(sys.argv[1]), Path(sys.argv[2]))
row = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
done.set()
counts = {name: len(found) for name, found in diff.lists.items() if len(found)}
objects = sum(diff.tally.values())
print(json.dumps(row | {"private": peak - before, "counts": counts, "objects": objects}))
"""


def variant(path: Path, of: Path, images: int) -> None:
    """Makes a dataset with the shards of another one, and labels that differ a little."""
    path.mkdir()
    for shard in of.glob("shard-*"):
        os.link(shard, path / shard.name)
    meta = read_meta(of)
    file = path / meta.labels.file
    file.write_bytes((of / meta.labels.file).read_bytes())
    with ShardDataset(of) as dataset:
        places = {name: column.begin for name, column in dataset._layout.columns.items()}
    rng = np.random.default_rng(1)
    data = np.memmap(file, np.uint8, "r+")
    for name, rows in (("checksum", images), ("box", 2 * meta.objects)):  # words of 8 bytes
        begin = places[name]
        words = data[begin : begin + 8 * rows].view("<u8")
        words[rng.choice(rows, rows // (1000 if name == "checksum" else 2000), replace=False)] ^= 1
    data.flush()
    digest = xxhash.xxh3_64_hexdigest(memoryview(data))
    labels = type(meta.labels)(meta.labels.file, meta.labels.nbytes, digest)
    (path / "dataset.json").write_bytes(meta.with_results(labels=labels).to_json())


def measure(a: Path, b: Path, runs: int) -> dict[str, Any]:
    """Compares two datasets in fresh processes."""
    found = []
    for _ in range(runs):
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(a), str(b)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found.append(json.loads(done.stdout))
    spread = {
        key: results.spread([each[key] for each in found])
        for key in ("seconds", "cpu_seconds", "private")
    }
    return {"n": runs, **spread, "counts": found[0]["counts"], "objects": found[0]["objects"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5_000_000)
    parser.add_argument("--points", type=float, default=0, help="polygon points an object")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dir", type=Path, help="where to make the datasets (needs 5 GB)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        a, edited, other = (Path(folder) / name for name in ("a", "edited", "other"))
        for seed, path in enumerate((a, other)):
            path.mkdir()
            scale.make(path, args.images, args.points, seed)
        variant(edited, a, args.images)
        rows = []
        for name, b in (("the same", a), ("one in a thousand", edited), ("everything", other)):
            rows.append({"differs": name, **measure(a, b, args.runs)})
            row = rows[-1]
            print(
                f"{name}: {row['seconds']['median']:.1f} s ({row['cpu_seconds']['median']:.1f} s "
                f"of a core), {row['private']['median'] / args.images:.0f} B an image private "
                f"memory, {row['objects']:,} objects, {row['counts']} (n={args.runs})",
                flush=True,
            )
    if args.json:
        results.save(args.json, results.about("diff") | {
            "images": args.images, "objects_an_image": scale.OBJECTS,
            "points_an_object": args.points, "rows": rows,
        })  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
