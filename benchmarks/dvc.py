"""What DVC costs with shards and with the same images as files, and whether it keeps shards whole.

Makes a YOLO dataset of different JPEG files (photographs, each with a number in a comment) and
packs it. Then, in rounds that take turns, each in a new repository: `dvc add` of the images and
their label files, and of the shards; `dvc add` again after the labels of one image have changed;
`dvc push` to a folder; `dvc checkout` after the data were lost. Last it goes back and forth between
two versions with each type of links that DVC has, and compares what yolodata says.

    python benchmarks/dvc.py PHOTOS --dvc VENV/bin/dvc --json benchmarks/results/dvc.json
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from yolodata.bench import results
from yolodata.diff.datasets import diff_datasets
from yolodata.ingest import PackSettings, pack
from yolodata.ingest.relabel import relabel
from yolodata.shards.reader import ShardDataset
from yolodata.shards.verify import verify

IMGSZ = 640
KINDS = ("files", "shards")
LINKS = ("copy", "symlink", "hardlink")


class Repository:
    """A new git repository with DVC in it.

    Args:
        path: of a folder that is not there yet.
        dvc: the program.
        links: DVC's `cache.type`.
    """

    def __init__(self, path: Path, dvc: str, links: str = "copy") -> None:
        self.path, self._dvc = path, dvc
        self._environment = os.environ | {
            "DVC_NO_ANALYTICS": "1",
            "DVC_GLOBAL_CONFIG_DIR": str(path.parent / "config"),
            "DVC_SYSTEM_CONFIG_DIR": str(path.parent / "config"),
            "DVC_SITE_CACHE_DIR": str(path.parent / "site"),
        }  # fmt: skip
        path.mkdir(parents=True)
        self.git("init", "-q")
        self.dvc("init")
        self.dvc("config", "cache.type", links)
        self.dvc("remote", "add", "-d", "folder", str(path.parent / "remote"))
        self.commit("begin")

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            words, cwd=self.path, env=self._environment, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def git(self, *words: str) -> str:
        """Runs `git`; returns what it printed."""
        who = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@example.com")
        return self._run("git", *who, *words)

    def commit(self, tag: str) -> None:
        """Commits what DVC noted, and gives it a tag."""
        self.git("add", "-A")
        self.git("commit", "-qm", tag)
        self.git("tag", tag)

    def dvc(self, *words: str) -> float:
        """Runs `dvc` quietly; returns its seconds."""
        began = time.perf_counter()
        self._run(self._dvc, *words, "-q")
        return time.perf_counter() - began

    def unchanged(self) -> bool:
        """Whether the data are those that DVC noted."""
        return "up to date" in self._run(self._dvc, "status")

    def switch(self, tag: str) -> float:
        """Brings the data of a tag back; returns DVC's seconds."""
        self.git("checkout", "-qf", tag)
        return self.dvc("checkout", "--force")


def make(source: Path, photos: Path, images: int) -> None:
    """Makes a YOLO dataset of different files: photographs with a number in a comment."""
    found = sorted(photos.rglob("*.jpg"))
    for part in ("images", "labels"):
        (source / part / "train").mkdir(parents=True)
    for i in range(images):
        data, comment = found[i % len(found)].read_bytes(), f"{i:08}".encode()
        segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        (source / f"images/train/{i:08}.jpg").write_bytes(data[:2] + segment + data[2:])
        (source / f"labels/train/{i:08}.txt").write_text(
            "".join(f"0 0.5 0.5 0.25 0.1{i:07}{k}\n" for k in range(1 + i % 7))
        )
    (source / "data.yaml").write_text(
        f"path: {source}\ntrain: images/train\nval: images/train\nnames: [thing]\n"
    )


def change_labels(data: Path, kind: str, source: Path) -> None:
    """Changes the labels of one image; shards get one version of it, whenever that is done."""
    of_source = source / "labels/train/00000000.txt"
    more = of_source.read_text() + "0 0.25 0.25 0.125 0.125\n"
    if kind == "files":
        (data / "labels/train/00000000.txt").write_text(more)
        return
    before = of_source.read_text()
    of_source.write_text(more)
    os.utime(of_source, (1, 1))  # a version also covers times of the source's files
    relabel(data, source / "data.yaml")
    of_source.write_text(before)
    os.utime(of_source, (0, 0))


def files_in(folder: Path) -> int:
    """Counts files."""
    return sum(1 for path in folder.rglob("*") if path.is_file())


def timed(root: Path, dvc: str, kind: str, source: Path, packed: Path) -> dict[str, float]:
    """One round of one kind: seconds of each command, number of files."""
    folder = root / kind
    repository = Repository(folder / "repository", dvc)
    data = repository.path / "data"
    shutil.copytree(source if kind == "files" else packed, data)
    os.sync()
    row: dict[str, float] = {"files": files_in(data)}
    row["add"] = repository.dvc("add", "data")
    row["objects"] = files_in(repository.path / ".dvc/cache/files")
    repository.commit("v1")
    change_labels(data, kind, source)
    row["add_again"] = repository.dvc("add", "data")
    row["push"] = repository.dvc("push")
    shutil.rmtree(data)
    row["checkout"] = repository.dvc("checkout")
    if not repository.unchanged():
        raise SystemExit(f"{kind}: DVC does not bring back what it was given")
    shutil.rmtree(folder)
    return row


def there_and_back(root: Path, dvc: str, links: str, source: Path, packed: Path) -> dict[str, Any]:
    """Two versions with one type of links: are they what they were, and can they be changed?"""
    repository = Repository(root / links / "repository", dvc, links)
    data = repository.path / "data"
    shutil.copytree(packed, data)
    repository.dvc("add", "data")
    repository.commit("v1")
    first = version(data)
    change_labels(data, "shards", source)
    second = version(data)
    repository.dvc("add", "data")
    repository.commit("v2")
    repository.dvc("push", "--all-tags")
    found: dict[str, Any] = {"links": links}
    repository.switch("v1")
    shard = data / "train/shard-00000.safetensors"
    found["shard_is_link"] = shard.is_symlink() or shard.stat().st_nlink > 1
    found["shard_is_writable"] = bool(shard.stat().st_mode & 0o222)
    found["v1_again"] = version(data) == first
    with ShardDataset(data / "train") as dataset:
        found["mapped"] = dataset.mapped
        # Labels change under a dataset that is open and mapped, of which DVC made links.
        change_labels(data, "shards", source)
        found["open_dataset_is_v1"] = dataset.meta.checksum == first
        dataset.image(0)
    found["relabelled"] = version(data) == second
    repository.switch("v1")
    found["v1_after_relabel"] = version(data) == first
    found["verify"] = verify(data / "train", full=True).problems == []
    old = root / links / "old"
    shutil.copytree(data, old)
    repository.switch("v2")
    found["v2_again"] = version(data) == second
    diff = diff_datasets(old, data)
    found["diff_relabelled"] = int(diff.relabelled.sum())
    found["diff_only_that"] = sum(map(len, diff.lists.values())) == found["diff_relabelled"]
    diff.close()
    shutil.rmtree(repository.path / ".dvc/cache")
    shutil.rmtree(data)
    repository.dvc("pull")
    found["v2_pulled"] = version(data) == second
    repository.git("checkout", "-qf", "v1")  # which the cache does not have any more
    repository.dvc("pull")
    found["v1_pulled"] = version(data) == first
    found["unchanged"] = repository.unchanged()
    shutil.rmtree(root / links)
    return found


def version(data: Path) -> str:
    """The version of the split."""
    with ShardDataset(data / "train") as dataset:
        return dataset.meta.checksum


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of JPEG files")
    parser.add_argument("--dvc", default="dvc", help="the program")
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    samples: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source, packed = root / "source", root / "packed"
        make(source, args.photos, args.images)
        settings = PackSettings("jpeg", IMGSZ, keep_files=True)
        pack(source / "data.yaml", packed, settings, splits=["train"], progress=False)
        nbytes = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
        for number in range(args.rounds):
            for kind in KINDS if number % 2 == 0 else KINDS[::-1]:
                samples[kind].append(timed(root, args.dvc, kind, source, packed))
                print(kind, samples[kind][-1], file=sys.stderr)
        links = [there_and_back(root, args.dvc, each, source, packed) for each in LINKS]
    rows = [
        {"data": kind, **{key: results.spread([s[key] for s in found]) for key in found[0]}}
        for kind, found in samples.items()
    ]
    said = subprocess.run([args.dvc, "version"], capture_output=True, text=True).stdout
    for row in rows:
        medians = {key: value["median"] for key, value in row.items() if key != "data"}
        print(row["data"], {key: round(value, 2) for key, value in medians.items()})
    for each in links:
        print(each)
    if args.json:
        results.save(args.json, results.about("dvc") | {
            "dvc": said.splitlines()[0].strip(), "images": args.images, "source_bytes": nbytes,
            "n": args.rounds, "rows": rows, "links": links,
            "add_times": statistics.median(
                a["add"] / b["add"] for a, b in zip(*samples.values(), strict=True)
            ),
        })  # fmt: skip
    good = all(value for each in links for key, value in each.items() if key not in
               ("shard_is_link", "shard_is_writable"))  # fmt: skip
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
