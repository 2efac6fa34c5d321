"""Are our pictures and labels Ultralytics' own? Upstream draws, both sides carry it out.

    python benchmarks/parity.py --data DATA.yaml --task detect --n 200 --json OUT

Every sample is made by upstream's training dataset, and again by `yolodata.render` from the numbers
that upstream drew. Validation batches come from both loaders, for the same dataset. Exits with 1
when a limit is missed; `--break` shifts one matrix by half a pixel, and must miss it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

PLAIN = {"hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0}
GEOMETRY: dict[str, dict[str, Any]] = {
    "default": {},
    "no mosaic": {"mosaic": 0.0},
    "mosaic of nine": {"grid": 9},
    "rotation, shear": {"degrees": 20.0, "shear": 8.0},
    "perspective": {"perspective": 0.0005, "degrees": 5.0},
    "zoom pair, large shift": {"scale": (0.3, 2.0), "translate": 0.4},
    "flips, bgr": {"flipud": 0.5, "bgr": 0.5, "mosaic": 0.5},
}
COLOUR: dict[str, dict[str, Any]] = {
    "hsv": {},
    "hsv, mixup": {"mixup": 1.0},
    "hsv, cutmix": {"cutmix": 1.0},
    "everything": {
        "mixup": 0.7, "cutmix": 0.7, "degrees": 10.0, "shear": 3.0, "flipud": 0.5, "bgr": 0.3,
        "mosaic": 0.7, "hsv_h": 0.1,
    },
}  # fmt: skip
LIMITS = {"geometry": (99.9, 1), "colour": (99.5, 2)}
BOX_LIMIT = 1e-4


class Tally:
    """Sums over samples."""

    def __init__(self) -> None:
        self.samples = self.bytes = self.same = self.largest = 0
        self.objects = self.label_misses = 0
        self.box_error = 0.0

    def add(self, ours: Any, theirs: Any, labels: tuple[Any, Any], sample: dict[str, Any]) -> None:
        difference = np.abs(ours.astype(np.int16) - theirs.astype(np.int16))
        self.samples += 1
        self.bytes += difference.size
        self.same += int((difference == 0).sum())
        self.largest = max(self.largest, int(difference.max()))
        cls, boxes = sample["cls"].numpy(), sample["bboxes"].numpy()
        self.objects += len(cls)
        if labels[0].shape != cls.shape or not (labels[0] == cls).all():
            self.label_misses += 1
        elif len(cls):
            self.box_error = max(self.box_error, float(np.abs(labels[1] - boxes).max()))

    def merge(self, other: Tally) -> None:
        for name in ("samples", "bytes", "same", "objects", "label_misses"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest = max(self.largest, other.largest)
        self.box_error = max(self.box_error, other.box_error)

    def report(self) -> dict[str, Any]:
        return {
            "samples": self.samples,
            "identical_percent": 100.0 * self.same / max(self.bytes, 1),
            "largest_difference": self.largest,
            "objects": self.objects,
            "samples_with_other_objects": self.label_misses,
            "largest_box_error": self.box_error,
        }


def compare(data: Path, imgsz: int, hyp: dict[str, Any], n: int, seed: int, shift: float) -> Tally:
    """`n` samples of one kind; `shift` is added to where our first layer is put."""
    import upstream

    from yolodata import _native

    source = upstream.Upstream(data, imgsz, **hyp)
    tally = Tally()
    upstream.seed(seed)
    for i in range(n):
        sample, values = source.sample(i % len(source.dataset))
        values["layers"][0]["matrix"][2] += shift
        recipe = _native.Recipe.from_dict(values)
        picture = _native.render(recipe, source.pixels(values))
        tally.add(picture, sample["img"].numpy(), _native.labels(recipe, source.index), sample)
    return tally


def same(a: Any, b: Any) -> bool:
    """Equal to the bit, whatever holds the numbers."""
    import torch

    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(np.all(np.asarray(a) == np.asarray(b)))


def validation(data: Path, imgsz: int, batch_size: int) -> dict[str, Any]:
    """Whole validation epochs from both loaders: which keys differ, in how many batches."""
    from ultralytics.cfg import get_cfg
    from ultralytics.data import build_dataloader, build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset

    import yolodata

    info = check_det_dataset(str(data))
    args = get_cfg(overrides={"task": "detect", "imgsz": imgsz})
    dataset = build_yolo_dataset(args, info["val"], batch_size, info, mode="val", rect=True)
    theirs = build_dataloader(dataset, batch_size, workers=0, shuffle=False, rank=-1)
    differing: dict[str, int] = {}
    batches = 0
    with tempfile.TemporaryDirectory() as folder:
        yolodata.pack(data, Path(folder) / "shards", imgsz=imgsz, splits=["val"], progress=False)
        with yolodata.ValidationLoader(
            Path(folder) / "shards" / "val", batch_size, imgsz=imgsz
        ) as ours:
            if len(ours) != len(theirs):
                differing["number of batches"] = 1
            for mine, reference in zip(ours, theirs, strict=True):
                batches += 1
                if list(mine) != list(reference):
                    differing["keys"] = differing.get("keys", 0) + 1
                for key in reference:
                    if not same(reference[key], mine[key]):
                        differing[key] = differing.get(key, 0) + 1
    return {"batches": batches, "batch_size": batch_size, "differing": differing}


def main() -> int:
    """Runs the comparison; 0 when every limit holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="YAML of a dataset")
    parser.add_argument("--task", choices=["detect"], default="detect")
    parser.add_argument("--n", type=int, default=200, help="random recipes of each chain")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=16, help="of the validation loaders")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--break", dest="broken", action="store_true", help="must fail")
    args = parser.parse_args()
    shift = 0.5 if args.broken else 0.0
    figures: dict[str, Any] = {}
    failed: list[str] = []
    for chain, kinds, base in (("geometry", GEOMETRY, PLAIN), ("colour", COLOUR, {})):
        total = Tally()
        share = -(-args.n // len(kinds))
        by_kind = {}
        for number, (kind, hyp) in enumerate(kinds.items()):
            broken = shift if number == 0 else 0.0
            tally = compare(args.data, args.imgsz, {**base, **hyp}, share, args.seed, broken)
            by_kind[kind] = tally.report()
            total.merge(tally)
            _check(chain, kind, by_kind[kind], failed)
        figures[chain] = {**total.report(), "kinds": by_kind}
    figures["validation"] = validation(args.data, args.imgsz, args.batch)
    if figures["validation"]["differing"]:
        failed.append(f"validation batches differ: {figures['validation']['differing']}")
    _print(figures)
    result = {"benchmark": "parity", "task": args.task, "n": args.n, "imgsz": args.imgsz,
              "seed": args.seed, "broken": args.broken, "limits": LIMITS, "failed": failed,
              "versions": _versions(), **figures}  # fmt: skip
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    for line in failed:
        print(f"FAILED: {line}")
    return 1 if failed else 0


def _check(chain: str, kind: str, report: dict[str, Any], failed: list[str]) -> None:
    share, largest = LIMITS[chain]
    if report["identical_percent"] < share or report["largest_difference"] > largest:
        failed.append(
            f"{chain}, {kind}: {report['identical_percent']:.4f} % of bytes identical (at least "
            f"{share}), largest difference {report['largest_difference']} (at most {largest})"
        )
    if report["samples_with_other_objects"] or report["largest_box_error"] > BOX_LIMIT:
        failed.append(
            f"{chain}, {kind}: {report['samples_with_other_objects']} samples keep other objects, "
            f"largest box error {report['largest_box_error']:.2e} (at most {BOX_LIMIT})"
        )


def _print(figures: dict[str, Any]) -> None:
    print(f"{'':32}{'identical %':>12}{'largest':>9}{'objects':>9}{'box error':>11}")
    for chain in ("geometry", "colour"):
        rows = {chain.upper(): figures[chain], **figures[chain]["kinds"]}
        for kind, row in rows.items():
            print(
                f"{kind:32}{row['identical_percent']:12.4f}{row['largest_difference']:9d}"
                f"{row['objects']:9d}{row['largest_box_error']:11.1e}"
            )
    differing = figures["validation"]["differing"] or "none"
    print(f"validation: {figures['validation']['batches']} batches, differing: {differing}")


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("ultralytics", "opencv-python", "numpy", "torch")}


if __name__ == "__main__":
    sys.exit(main())
