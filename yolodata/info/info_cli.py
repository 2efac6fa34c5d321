"""`yolodata info`: what a packed dataset holds, or what a run was made of."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from yolodata.errors import ConfigError
from yolodata.info.lookup import is_of_a_run, manifest_of
from yolodata.provenance.dataset_version import DatasetVersion, version_of
from yolodata.provenance.manifest import RunManifest
from yolodata.shards.format import DATASET_FILE
from yolodata.shards.info import describe, info_text, total_text
from yolodata.shards.left_out import read_left_out
from yolodata.shards.reader import splits
from yolodata.shards.verify_cli import dataset_folders
from yolodata.terminal import printable, shortened

_FIRST = ("model", "epochs", "batch", "imgsz", "optimizer", "seed")


def add_parser(subparsers: Any) -> None:
    """Adds `info`."""
    parser = subparsers.add_parser(
        "info",
        help="what a packed dataset holds, or a run was made of",
        description="What a packed dataset holds, and its version; or what a run, a checkpoint or "
        "weights were made of: the versions of dataset, settings, packages and code.",
        examples=(
            "yolodata info coco.shards",
            "yolodata info coco.shards --all",
            "yolodata info coco.shards split=val json=True",
            "yolodata info runs/detect/train",
            "yolodata info runs/detect/train/weights/best.pt --json",
        ),
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="every class, not only the 20 with the most objects; of a run every setting",
    )
    parser.add_argument(
        "out",
        metavar="OUT|RUN|FILE",
        help="folder that `yolodata shard` wrote; run; .ckpt; .pt; manifest.json",
    )
    parser.add_argument("--split", help="only this split")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs `yolodata info`.

    Returns:
        0.

    Raises:
        ShardError: there is no dataset, or it is damaged.
        ConfigError: a run does not say what it was made of.
    """
    path = Path(args.out)
    packed = (path / DATASET_FILE).exists() or splits(path)
    if packed or not is_of_a_run(path):
        _print_dataset(path, args)
        return 0
    if args.split is not None:
        raise ConfigError(f"--split={args.split} is of datasets, and {path} is none; leave it out")
    found = manifest_of(path)
    if args.json:
        print(json.dumps(found.to_dict(), indent=1))
    else:
        print("\n".join(_lines(path, found, args.all)))
    return 0


def _print_dataset(path: Path, args: argparse.Namespace) -> None:
    infos = [describe(folder) for folder in dataset_folders(path, args.split).values()]
    no_split = dict(Counter(read_left_out(path).values()).most_common())
    versions = {info["split"]: info["version"] for info in infos}
    # A run reads these two; the version that it notes is theirs.
    trained = {name: versions[name] for name in ("train", "val") if name in versions} or versions
    for info in infos:
        info["dataset_version"] = version_of(trained)
        info["in_no_split"] = no_split
    if args.json:
        print(json.dumps(infos, indent=1))
        return
    texts = [info_text(info, args.all) for info in infos]
    if no_split or len(infos) > 1:
        texts.append(total_text(infos, no_split))
    texts.append(f"version {version_of(trained)} of {' and '.join(trained)}")
    print(printable("\n\n".join(texts), keep="\n"))


def _lines(path: Path, found: RunManifest, every: bool) -> Iterator[str]:
    yield shortened(path)
    yield f"  written   {found.written}"
    if found.dataset is None:
        yield f"  dataset   none noted: {shortened(found.no_dataset)}"
    else:
        yield from _dataset_lines(found.dataset)
    git = "none noted: no git, no commit, or a checkout that git refuses"
    if found.git is not None:
        changes = {True: ", with changes", False: "", None: ", maybe with changes"}
        git = f"git {found.git.commit}{changes[found.git.changed]}"
    yield f"  code      {git}"
    yield f"  packages  {_named(found.packages, ' ')}"
    settings = found.settings
    first = {name: settings.arguments[name] for name in _FIRST if name in settings.arguments}
    yield f"  settings  {settings.checksum}{'' if every else ': ' + _named(first)}"
    if every:
        for name, value in settings.arguments.items():
            yield f"    {shortened(name)}={shortened(value)}"
    for name, value in settings.yolodata.items():
        yield f"    yolodata.{shortened(name)}={shortened(value)}"
    if found.continued:
        yield "  continued"
    for line in found.continued:
        changed = [
            f"{shortened(name)} from {shortened(was)} to {shortened(now)}"
            for name, (was, now) in line.changed.items()
        ]
        yield f"    {line.written} at epoch {line.epoch}, step {line.step}: " + (
            "; ".join(changed) or "nothing changed"
        )


def _dataset_lines(dataset: DatasetVersion) -> Iterator[str]:
    yield f"  dataset   {dataset.version}, data={shortened(dataset.data)}"
    for name, split in dataset.splits.items():
        yield (
            f"    {name:7} {split.version}, {split.images:,} images, {split.objects:,} objects, "
            f"label file {split.labels}, {shortened(split.path)}"
        )


def _named(values: Mapping[str, Any], between: str = "=") -> str:
    return ", ".join(
        f"{shortened(name)}{between}{shortened(each)}" for name, each in values.items()
    )
