"""Subcommand `cache`: what trainers packed beside datasets, listed and removed."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolodata.errors import ConfigError, ShardError
from yolodata.terminal import printable, size_text

if TYPE_CHECKING:
    from yolodata.ingest.pack_cache import Packed


def add_parser(subparsers: Any) -> None:
    """Adds `cache`."""
    cache = subparsers.add_parser(
        "cache",
        help="list and remove what trainers packed",
        description="Shards that trainers packed by themselves: `ls` lists them, `clean` removes "
        "them. What `yolodata shard` wrote, and whatever else lies there, is never touched. "
        "Training packs again what it needs.",
        examples=(
            "yolodata cache ls",
            "yolodata cache ls /data json=True",
            "yolodata cache clean /data/coco.yolodata --unfinished",
            "yolodata cache clean yes=True",
        ),
    )
    cache.add_argument("action", choices=("ls", "clean"), metavar="ls|clean", help="what to do")
    cache.add_argument(
        "folders",
        nargs="*",
        default=[],
        metavar="FOLDER",
        help="only what lies in these folders, which are searched; by default all that is known",
    )
    cache.add_argument(
        "--unfinished", action="store_true", help="clean: only what interrupted packs left"
    )
    cache.add_argument("--yes", action="store_true", help="clean: do not ask")
    cache.add_argument("--json", action="store_true", help="ls: print JSON")
    cache.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs `yolodata cache ls` and `yolodata cache clean`.

    Raises:
        ConfigError: an option is of the other action, a folder is none, or nobody can be asked.
    """
    from yolodata.ingest.pack_cache import find

    for name, action in (("unfinished", "clean"), ("yes", "clean"), ("json", "ls")):
        if getattr(args, name) and args.action != action:
            raise ConfigError(f"--{name} is for `yolodata cache {action}`; leave it out")
    missing = [folder for folder in args.folders if not os.path.isdir(folder)]
    if missing:
        raise ConfigError(f"{missing[0]}: is no folder; give folders to look in, or none")
    found = find(args.folders)
    if args.action == "clean":
        return _clean(found, args)
    if args.json:
        print(json.dumps([_facts(packed) for packed in found], indent=1))
        return 0
    for packed in found:
        print(_line(packed))
    print(f"{len(found)} packed, {size_text(sum(packed.nbytes for packed in found))} in all")
    return 0


def _clean(found: list[Packed], args: argparse.Namespace) -> int:
    from yolodata.ingest.pack_cache import remove

    if args.unfinished:
        found = [packed for packed in found if packed.leftovers]
    if not found:
        print("there is nothing to remove")
        return 0
    nbytes = sum(packed.leftovers if args.unfinished else packed.nbytes for packed in found)
    for packed in found:
        print(_line(packed))
    what = "what is unfinished of these" if args.unfinished else "these"
    if not args.yes:
        if not sys.stdin.isatty():
            raise ConfigError("nobody can be asked here; give --yes to remove them")
        print(f"Remove {what} ({size_text(nbytes)})? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("nothing was removed")
            return 1
    freed, complete = 0, True
    for packed in found:
        try:
            rest = remove(packed, unfinished=args.unfinished)
        except ShardError as error:
            print(f"yolodata: {printable(error)}", file=sys.stderr)
            complete = False
        else:
            if rest:
                print(f"kept, because it is not ours: {', '.join(map(printable, rest))}")
        freed += packed.nbytes - packed.now()
    print(f"{size_text(freed)} removed")
    return 0 if complete else 1


def _line(packed: Packed) -> str:
    splits = [
        f"{split} (unfinished)" if meta is None else f"{split} {meta.images:,}"
        for split, meta in packed.splits.items()
    ]
    about = ", ".join(splits) or "nothing packed"
    if packed.source:
        gone = "" if Path(packed.source).exists() else ", which is gone"
        about += f", of {packed.source}{gone}"
    folder = printable(packed.folder)
    return f"{size_text(packed.nbytes):>10}  {folder}\n{'':12}{printable(about)}"


def _facts(packed: Packed) -> dict[str, Any]:
    return {
        "folder": str(packed.folder),
        "bytes": packed.nbytes,
        "source": packed.source,
        "splits": {
            split: None
            if meta is None
            else {"images": meta.images, "codec": meta.codec, "imgsz": meta.imgsz}
            for split, meta in packed.splits.items()
        },
    }
