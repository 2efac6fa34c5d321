"""Flipped bits, cuts, garbage in datasets and in unfinished packs.

Reading raises or works; `verify(full=True)` finds all of it; a pack that is continued makes the
bytes that it would have made, or refuses.
"""

from __future__ import annotations

import functools
import os
import shutil
from pathlib import Path
from random import Random

from .children import run_command, trial
from .drawn import PACK, contents, lay_out, once, packed, source
from .mutate import damaged
from .said import ended_well
from .verdict import Verdict

GOAL = 20_000
CASE = 40
DATASETS = (("detect", "raw"), ("detect", "jpeg"), ("segment", "raw"), ("pose", "jpeg"))
UNFINISHED = 6  # of the trials of a case, of packs that were not finished


def warm() -> None:
    """Imports and packs."""
    from yolodata.ingest import pack_cli, packing  # noqa: F401
    from yolodata.shards import verify  # noqa: F401

    for task, codec in DATASETS:
        packed(task, codec)
    _unfinished()


def attack(random: Random, folder: Path) -> Verdict:
    """Damages datasets."""
    verdict = Verdict()
    whole = packed(*random.choice(DATASETS)) / "train"
    clean = contents(whole)
    place = folder / "dataset"
    lay_out(clean, place)
    for _ in range(CASE - UNFINISHED):
        verdict.tried += 1
        name = random.choice(sorted(clean))
        data, what = damaged(random, clean[name])
        trial(f"{name}: {what}")
        (place / name).write_bytes(data)
        _finished(place, whole, name, data, f"{name}: {what}", verdict)
        if verdict.findings:
            return verdict
        (place / name).write_bytes(clean[name])
    for _ in range(UNFINISHED):
        verdict.tried += 1
        _continued(random, folder / "unfinished", verdict)
        if verdict.findings:
            break
        shutil.rmtree(folder / "unfinished")
    return verdict


def _finished(
    place: Path, clean: Path, name: str, data: bytes, what: str, verdict: Verdict
) -> None:
    from yolodata import shards
    from yolodata.errors import ShardError
    from yolodata.shards.verify import verify

    for io in ("mmap", "pread"):
        try:
            with shards.open(place, io=io) as dataset:
                for i in range(len(dataset)):
                    dataset.image(i)
                    dataset.name(i)
                dataset.check_values()
        except ShardError:
            pass
        except Exception as error:
            verdict.found("traceback", f"{what}: {io}: {type(error).__name__}: {error}")
    if not verify(place, full=True, workers=1).ok:
        return
    # Spaces in dataset.json say nothing.
    if name != "dataset.json" or shards.read_meta(place) != shards.read_meta(clean):
        verdict.found("undetected", what)


@functools.cache
def _unfinished() -> tuple[tuple[str, ...], dict[str, bytes], tuple[dict[str, bytes], ...]]:
    """The command, what it makes, and what it left when it was killed at several moments."""
    place = once() / "flips"
    words = ("shard", str(source(place / "source", images=24)), "out", *PACK)
    whole = run_command(list(words), place)
    clean = contents(place / "out")
    left = []
    for k in range(400):
        shutil.rmtree(place / "out", ignore_errors=True)
        run_command(list(words), place, kill_after=whole.seconds * (0.2 + 0.8 * (k % 40) / 40))
        files = contents(place / "out")
        begun = any("train/.packing/" in name and not name.endswith("lock") for name in files)
        if begun and "train/dataset.json" not in files:
            left.append(files)
        if len(left) == 8:
            break
    if not left:
        raise RuntimeError(f"no pack was unfinished: {whole.how}")
    return words, clean, tuple(left)


def _continued(random: Random, folder: Path, verdict: Verdict) -> None:
    words, clean, states = _unfinished()
    files = random.choice(states)
    # A split that is finished is left alone, and is what `verify` is for. A lock holds nothing.
    done = tuple(os.path.dirname(n) + "/" for n in files if n.endswith("dataset.json"))
    names = [n for n in sorted(files) if not n.startswith(done) and not n.endswith("lock")]
    name = random.choice(names)
    data, what = damaged(random, files[name])
    what = f"unfinished, {name}: {what}"
    trial(what)
    lay_out({**files, name: data}, folder / "out")
    ended = run_command(list(words), folder)
    if not ended_well(verdict, ended, what) or ended.status:
        return
    found = contents(folder / "out")
    if found != clean:
        other = sorted(n for n in clean.keys() | found.keys() if clean.get(n) != found.get(n))
        verdict.found("undetected", f"{what}: continued with status 0, but {other} differ")


def _no_checksums() -> None:
    """Full verification compares no checksums of samples."""
    from yolodata.shards import verify

    verify.check_sample = lambda dataset, i: ""


def _only_sizes() -> None:
    """Of a complete shard of an unfinished pack, the size alone is compared."""
    from yolodata.shards import recovery
    from yolodata.shards.format import SHARD_HEADER

    def is_closed(folder, name, parts):  # type: ignore[no-untyped-def]
        found = folder.stat(name)
        return found is not None and found.st_size == SHARD_HEADER + parts[-1].end

    recovery._is_closed = is_closed


PLANTS = {
    "verify compares no checksums": _no_checksums,
    "a continued pack compares no bytes": _only_sizes,
}
