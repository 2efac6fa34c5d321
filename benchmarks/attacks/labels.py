"""Mutated label files: the fast reader says what the slow one says, and what is packed is sound."""

from __future__ import annotations

import shutil
from itertools import accumulate
from pathlib import Path
from random import Random

import numpy as np

from .children import run_command, trial
from .drawn import KEYPOINTS, NAMES, encoded, picture
from .mutate import damaged
from .said import ended_well
from .verdict import Verdict

GOAL = 20_000
CASE = 40
TASKS = ("detect", "segment", "pose")
_TOKENS = (
    "nan", "inf", "-inf", "1e400", "1e-400", "-0", "-0.0", "0x1p3", "1_0", "１", "٣", "", "+1",
    "1.", ".", "-", "e5", "1e", "1,5", "9" * 400, "0." + "3" * 400, "1.01", "1.0100001",
    "-0.01", "-0.010001",
    "2147483648", "4294967296", "18446744073709551616", "1e38", "3.5e38", "\0", "a" * 5000,
    "\x1b[31m", "0.99999999999", "\ufeff0", "True", "None", "2", "3", "2.5", "-1", "1e-45",
)  # fmt: skip
_SPACES = (" ", "\t", "  ", "\u00a0", "\u3000", "\x1c", "\x85", "\v", "\f", ",")
_LONGEST = 40 << 20  # characters of a file, of which half are read
_ENDS = ("\n", "\r\n", "\r", "\n\n", "\u2028", "\x1e", "")


def warm() -> None:
    """Imports."""
    from yolodata.ingest import pack_cli, packing  # noqa: F401
    from yolodata.shards import verify  # noqa: F401


def attack(random: Random, folder: Path) -> Verdict:
    """Mutates label files, reads them in both ways, and packs them."""
    verdict = Verdict()
    task = random.choice(TASKS)
    images, labels = folder / "images" / "train", folder / "labels" / "train"
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    more = [f"{key}: {value}" for key, value in KEYPOINTS.items()] if task == "pose" else []
    (folder / "data.yaml").write_text(
        "\n".join(["train: images/train", "val: images/train", f"names: {list(NAMES)}", *more])
    )
    data = encoded(picture(1), "JPEG")
    for k in range(CASE):
        trial(f"{task}, {k}.txt")
        text = mutated(random, task)
        (images / f"{k}.jpg").write_bytes(data)
        (labels / f"{k}.txt").write_bytes(text)
        _both(text, task, f"{task}, {k}.txt", verdict)
    verdict.tried += CASE
    trial(f"{task}: packing")
    words = ["shard", "data.yaml", "out", "--imgsz", "64", "--workers", "1", "--quiet", "--split",
             "train", "--task", "pose" if task == "pose" else "detect"]  # fmt: skip
    if ended_well(verdict, run_command(words, folder), task, allowed=(0, 2)):
        _packed(folder / "out" / "train", task, verdict)
    if not verdict.findings:
        shutil.rmtree(folder)
    return verdict


def mutated(random: Random, task: str) -> bytes:
    """Draws a label file."""
    columns = {"detect": 5, "segment": 11, "pose": 11}[task]
    rows = []
    for _ in range(random.choice((0, 1, 1, 2, 5))):
        digits = random.choice((1, 6, 17))
        values = [f"{random.uniform(0.1, 0.4):.{digits}g}" for _ in range(columns)]
        values[0] = str(random.randrange(len(NAMES)))
        if task == "pose":
            values[7::3] = ["2"] * len(values[7::3])
        rows.append(values)
    for _ in range(random.choice((0, 1, 1, 2))):
        if not rows:
            break
        row = random.choice(rows)
        how = random.choice(("token", "token", "token", "less", "more", "double", "many"))
        if how == "token":
            row[random.randrange(len(row))] = random.choice(_TOKENS)
        elif how == "less":
            del row[random.randrange(len(row)) :]
            row += [] if row else ["0"]  # an empty row is none
        elif how == "more":
            row += [random.choice(_TOKENS)] * random.choice((1, 2, 6, 3000))
        elif how == "double":
            rows.append(list(row))
        else:
            rows += [list(row) for _ in range(random.choice((10, 2000)))]
    space, end = (random.choice((each[0],) * 8 + each) for each in (_SPACES, _ENDS))
    sizes = accumulate(sum(map(len, row)) + len(row) for row in rows)
    rows = [row for row, size in zip(rows, sizes, strict=True) if size < _LONGEST]
    text = end.join(space.join(row) for row in rows) + random.choice((end, ""))
    data = text.encode(random.choice(("utf-8",) * 8 + ("utf-16", "utf-8-sig", "utf-32")))
    return damaged(random, data)[0] if random.random() < 0.3 else data


def _rules(task: str):  # type: ignore[no-untyped-def]
    from yolodata.ingest.sample import LabelRules

    if task != "pose":
        return LabelRules(classes=len(NAMES))
    points, dims = KEYPOINTS["kpt_shape"]
    return LabelRules(classes=len(NAMES), keypoints=points, dims=dims, pose=True)


def _both(text: bytes, task: str, what: str, verdict: Verdict) -> None:
    """Compares both readers of label text; the fast one may leave any text to the other."""
    from yolodata.ingest.labels import labels_of_any, labels_of_most
    from yolodata.ingest.sample import RawLabels, Refused

    rules = _rules(task)
    try:
        fast = labels_of_most(text, rules, ())
        if fast is None:
            return
        slow = labels_of_any(text, RawLabels(text), rules)
    except Refused as error:
        verdict.found("undetected", f"{what}: read fast, refused slowly: {error}: {text[:300]!r}")
        return
    for name in ("cls", "box", "keypoints"):
        a, b = getattr(fast, name), getattr(slow, name)
        if (a is None) != (b is None) or (a is not None and a.tobytes() != b.tobytes()):
            verdict.found("undetected", f"{what}: {name} is {a}, slowly {b}: {text[:300]!r}")


def _packed(out: Path, task: str, verdict: Verdict) -> None:
    """Whether all values of what was packed are such as the format allows."""
    from yolodata import shards
    from yolodata.errors import ShardError
    from yolodata.shards.verify import verify

    if not (out / "dataset.json").exists():
        return  # everything was left out
    report = verify(out, full=True, workers=1)
    if not report.ok:
        verdict.found("undetected", f"{task}: packed, and not whole: {report.problems[:3]}")
        return
    try:
        with shards.open(out) as dataset:
            if len(dataset) + len(dataset.meta.left_out) != CASE:
                verdict.found("undetected", f"{task}: {len(dataset)} of {CASE} are packed, the "
                              f"others are not listed: {dataset.meta.left_out}"[:2000])  # fmt: skip
            if not np.isin(dataset.cls, np.arange(len(NAMES))).all():
                verdict.found("undetected", f"{task}: a class is none")
            for name in ("box", "polygon", "keypoints"):
                values = getattr(dataset, name)
                if values is not None and not np.isfinite(values).all():
                    verdict.found("undetected", f"{task}: {name} has a value that is no number")
    except ShardError as error:
        verdict.found("undetected", f"{task}: packed, and cannot be opened: {error}")


def _no_limits() -> None:
    """Values of label rows are not checked."""
    from yolodata.ingest import labels

    labels._check_values = lambda *args: None


def _other_arithmetic() -> None:
    """The fast reader is off by a bit of the last place."""
    from yolodata.ingest import labels

    ordinary = labels.ordinary_labels

    def off(*args):  # type: ignore[no-untyped-def]
        found = ordinary(*args)
        return found and (found[0], np.nextafter(found[1], np.float32(9)), *found[2:])

    labels.ordinary_labels = off


PLANTS = {"label values are not checked": _no_limits, "the fast reader is off": _other_arithmetic}
