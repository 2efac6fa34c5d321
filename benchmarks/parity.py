"""Are our pictures and labels Ultralytics' own? Upstream draws, both sides carry it out.

    python benchmarks/parity.py --data DATA.yaml --task detect --n 200 --json OUT

Every sample is made by upstream's training dataset, and again by `yolodata.render` from the numbers
that upstream drew and the images that it loaded. Validation batches come from both loaders. Exits
with 1 when a limit is missed; `--break` shifts one matrix by half a pixel, which must miss one.
The dataset is only read.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import upstream

GEOMETRY: dict[str, dict[str, Any]] = {
    "default": {},
    "no mosaic": {"mosaic": 0.0},
    "mosaic of nine": {"grid": 9},
    "rotation, shear": {"degrees": 20.0, "shear": 8.0},
    "perspective": {"perspective": 0.0005, "degrees": 5.0},
    "zoom pair, large shift": {"scale": (0.3, 2.0), "translate": 0.4},
    "flips, bgr": {"flipud": 0.5, "bgr": 0.5, "mosaic": 0.5},
}
# CutMix looks for a free place, which the default mosaic seldom leaves.
ROOM: dict[str, Any] = {"mosaic": 0.3, "translate": 0.6, "scale": (0.3, 1.5)}
COLOUR: dict[str, dict[str, Any]] = {
    "hsv": {},
    "hsv, mixup": {"mixup": 1.0},
    "hsv, cutmix": {"cutmix": 1.0, **ROOM},
    "hsv, mixup and cutmix": {"mixup": 1.0, "cutmix": 1.0, **ROOM},
    "everything": {
        "mixup": 0.5, "cutmix": 0.8, "degrees": 10.0, "shear": 3.0, "perspective": 0.0002,
        "flipud": 0.5, "bgr": 0.3, "hsv_h": 0.1, **ROOM,
    },
}  # fmt: skip
MIRRORED: dict[str, Any] = {"copy_paste": 0.6}
OTHERS: dict[str, Any] = {"copy_paste": 0.8, "copy_paste_mode": "mixup"}
PASTE: dict[str, dict[str, Any]] = {
    "mirrored": MIRRORED,
    "mirrored, no mosaic": {**MIRRORED, "mosaic": 0.0},
    "mirrored, rotation": {**MIRRORED, "degrees": 20.0, "shear": 8.0},
    "from another": OTHERS,
    "from another, perspective": {**OTHERS, "perspective": 0.0005, "mosaic": 0.5},
    "mirrored, everything": {**COLOUR["everything"], **MIRRORED},
    "from another, everything": {**COLOUR["everything"], **OTHERS},
}
MASKS: dict[str, dict[str, Any]] = {
    "one mask an object": {**MIRRORED, "overlap_mask": False, "mask_ratio": 2},
    "full size": {**MIRRORED, "mask_ratio": 1},
}
"""Kinds of augmentation, as changes of upstream's default arguments."""

CHAINS: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    "geometry": ({"hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0}, GEOMETRY),
    "colour": ({}, COLOUR),
    "copy-paste": ({"hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0}, PASTE),
    "masks": ({}, MASKS),
}
LIMITS = {
    "geometry": (99.9, 1), "colour": (99.5, 2), "copy-paste": (99.5, 2), "masks": (99.5, 2),
    "albumentations": (99.5, 2),
}  # fmt: skip
"""By chain: least share of identical bytes in percent, largest difference of a byte."""
BOX_LIMIT = 1e-4
"""Largest difference of a box's side or centre, or a keypoint, as a share of the picture."""
ANGLE_LIMIT = 1e-3
"""Largest difference of the angle of an oriented box, in radians."""
MASK_LIMITS = (99.9, 0.995)
"""Least share of identical pixels in percent, least intersection over union of an object."""


class Tally:
    """Sums over samples."""

    def __init__(self) -> None:
        self.samples = self.bytes = self.same = self.largest = 0
        self.mixups = self.cutmixes = self.pastes = 0
        self.objects = self.label_misses = 0
        self.box_error = self.keypoint_error = 0.0
        self.visibility_misses = self.keypoints = 0
        self.angle_error = 0.0
        self.left_out = 0
        self.mask_pixels = self.same_mask_pixels = 0
        self.least_iou = 1.0

    def add(self, ours: Any, theirs: Any, labels: dict[str, Any], sample: dict[str, Any]) -> None:
        """One picture, uint8 (3, H, W), and its labels, from both sides."""
        difference = np.abs(ours.astype(np.int16) - theirs.astype(np.int16))
        self.samples += 1
        self.bytes += difference.size
        self.same += int((difference == 0).sum())
        self.largest = max(self.largest, int(difference.max()))
        cls, boxes = sample["cls"].numpy(), sample["bboxes"].numpy()
        self.objects += len(cls)
        if labels["cls"].shape != cls.shape or not (labels["cls"] == cls).all():
            self.label_misses += 1
            return
        if len(cls):
            ours, theirs = labels["bboxes"], boxes
            if boxes.shape[1] == 5:
                self.angle_error = max(self.angle_error, float(angles_apart(ours, theirs).max()))
                ours, theirs = ours[:, :4], theirs[:, :4]
            self.box_error = max(self.box_error, float(np.abs(ours - theirs).max()))
        if "keypoints" in labels and len(cls):
            points = sample["keypoints"].numpy()
            apart = np.abs(labels["keypoints"] - points)
            self.keypoint_error = max(self.keypoint_error, float(apart[..., :2].max()))
            self.visibility_misses += int((apart[..., 2] != 0).sum())
            self.keypoints += points.shape[0] * points.shape[1]
        if "masks" in labels:
            self.add_masks(labels, sample)

    def add_masks(self, labels: dict[str, Any], sample: dict[str, Any]) -> None:
        """Masks of the same objects in the same order, from both sides."""
        ours, theirs = labels["masks"], sample["masks"].numpy()
        for a, b in ((ours, theirs), (labels["sem_masks"], sample["sem_masks"].numpy())):
            self.mask_pixels += a.size
            self.same_mask_pixels += int((a == b).sum())
        if len(ours) == 1:  # of overlapping objects by number, otherwise one each
            numbers = np.arange(1, len(labels["cls"]) + 1)[:, None, None]
            ours, theirs = ours == numbers, theirs == numbers
        both, either = (ours & theirs).sum((1, 2)), (ours | theirs).sum((1, 2))
        seen = either > 0
        self.least_iou = min(self.least_iou, float((both[seen] / either[seen]).min(initial=1.0)))

    def merge(self, other: Tally) -> None:
        """Takes in the samples of another tally."""
        for name, value in vars(other).items():
            largest = ("largest", "box_error", "angle_error", "keypoint_error")
            combine = max if name in largest else min if name == "least_iou" else int.__add__
            setattr(self, name, combine(getattr(self, name), value))

    def report(self) -> dict[str, Any]:
        """The figures."""
        return {
            "samples": self.samples,
            "left_out_for_failed_cuts": self.left_out,
            "with_mixup": self.mixups,
            "with_cutmix": self.cutmixes,
            "bytes": self.bytes,
            "identical_percent": 100.0 * self.same / max(self.bytes, 1),
            "largest_difference": self.largest,
            "objects": self.objects,
            "samples_with_other_objects": self.label_misses,
            "largest_box_error": self.box_error,
            "largest_angle_error": self.angle_error,
            "keypoints": self.keypoints,
            "largest_keypoint_error": self.keypoint_error,
            "keypoints_of_other_visibility": self.visibility_misses,
            "with_copy_paste": self.pastes,
            "mask_pixels": self.mask_pixels,
            "identical_mask_percent": 100.0 * self.same_mask_pixels / max(self.mask_pixels, 1),
            "least_mask_iou": self.least_iou,
        }


def angles_apart(ours: Any, theirs: Any) -> Any:
    """Radians (N,) between oriented boxes (N, 5); squares look the same after a quarter turn."""
    sides = theirs[:, 2:4]
    square = np.abs(sides[:, 0] - sides[:, 1]) <= BOX_LIMIT
    turn = np.where(square, np.pi / 2, np.pi)
    apart = np.abs(ours[:, 4].astype(np.float64) - theirs[:, 4]) % turn
    return np.minimum(apart, turn - apart)


def compare(
    source: upstream.Upstream, hyp: dict[str, Any], n: int, seed: int, shift: float = 0.0
) -> Tally:
    """`n` samples of one kind; `shift` is added to where our first layer is put, in pixels."""
    from yolodata import _native

    source.use(**hyp)
    tally = Tally()
    upstream.seed(seed)
    for i in range(n):
        sample, values, images = source.sample((seed + i) % len(source.dataset))
        if values["failed_cuts"]:
            tally.left_out += 1
            continue
        tally.mixups += values["mixup"] is not None
        tally.cutmixes += values["cutmix"] is not None
        values["layers"][0]["matrix"][2] += shift
        tally.pastes += bool(values["pastes"])
        recipe = source.recipe(values)
        picture = source.picture(recipe, values, images)
        labels = _native.labels(recipe, source.index, source.mask_ratio, source.overlap_mask)
        tally.add(picture, sample["img"].numpy(), labels, sample)
    return tally


def same(a: Any, b: Any) -> bool:
    """Equal to the bit, whatever holds the numbers."""
    import torch

    if isinstance(a, torch.Tensor):
        # Upstream's masks become float32 in a batch that holds a picture without objects.
        if a.dtype == torch.float32 and b.dtype == torch.uint8:
            a = a.to(torch.uint8)
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(np.all(np.asarray(a) == np.asarray(b)))


def validation(data: Path, task: str, imgsz: int, batch_size: int) -> dict[str, Any]:
    """Whole validation epochs from both loaders: which keys differ, in how many batches."""
    from ultralytics.cfg import get_cfg
    from ultralytics.data import build_dataloader, build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset

    import yolodata

    args = get_cfg(overrides={"task": task, "imgsz": imgsz})
    with upstream.leaves_the_source_alone():
        info = check_det_dataset(str(data))
        dataset = build_yolo_dataset(args, info["val"], batch_size, info, mode="val", rect=True)
        theirs = build_dataloader(dataset, batch_size, workers=0, shuffle=False, rank=-1)
    differing: dict[str, int] = {}
    batches = pictures = 0
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder) / "shards"
        yolodata.pack(data, shards, imgsz=imgsz, splits=["val"], task=task, progress=False)
        with yolodata.ValidationLoader(shards / "val", batch_size, imgsz=imgsz, task=task) as ours:
            if len(ours) != len(theirs):
                differing["number of batches"] = 1
            references = upstream.in_stable_order(theirs)
            for mine, reference in zip(ours, references, strict=False):
                batches += 1
                pictures += len(reference["img"])
                if list(mine) != list(reference):
                    differing["keys"] = differing.get("keys", 0) + 1
                for key in reference:
                    if key not in mine or not same(reference[key], mine[key]):
                        differing[key] = differing.get(key, 0) + 1
    return {
        "batches": batches,
        "pictures": pictures,
        "batch_size": batch_size,
        "differing": differing,
    }


def missed(chain: str, kind: str, report: dict[str, Any]) -> list[str]:
    """Sentences about the limits that a report misses."""
    share, largest = LIMITS[chain]
    found = []
    if not (report["identical_percent"] >= share and report["largest_difference"] <= largest):
        found.append(
            f"{chain}, {kind}: {report['identical_percent']:.4f} % of bytes identical (at least "
            f"{share}), largest difference {report['largest_difference']} (at most {largest})"
        )
    if report["samples_with_other_objects"] or not report["largest_box_error"] <= BOX_LIMIT:
        found.append(
            f"{chain}, {kind}: {report['samples_with_other_objects']} samples keep other objects, "
            f"largest box error {report['largest_box_error']:.2e} (at most {BOX_LIMIT})"
        )
    if not report["largest_angle_error"] <= ANGLE_LIMIT:
        found.append(
            f"{chain}, {kind}: largest error of an angle {report['largest_angle_error']:.2e} (at "
            f"most {ANGLE_LIMIT})"
        )
    if report["keypoints_of_other_visibility"] or not (
        report["largest_keypoint_error"] <= BOX_LIMIT
    ):
        found.append(
            f"{chain}, {kind}: {report['keypoints_of_other_visibility']} keypoints of another "
            f"visibility, largest error {report['largest_keypoint_error']:.2e} "
            f"(at most {BOX_LIMIT})"
        )
    pixels, iou = MASK_LIMITS
    if report["mask_pixels"] and not (
        report["identical_mask_percent"] >= pixels and report["least_mask_iou"] >= iou
    ):
        found.append(
            f"{chain}, {kind}: {report['identical_mask_percent']:.4f} % of mask pixels identical "
            f"(at least {pixels}), least IoU {report['least_mask_iou']:.4f} (at least {iou})"
        )
    return found


def chains(task: str, polygons: bool) -> dict[str, Any]:
    """The chains that mean something for a task."""
    without = () if task == "segment" else ("masks",) if polygons else ("masks", "copy-paste")
    found = {name: chain for name, chain in CHAINS.items() if name not in without}
    if find_spec("albumentations") is not None:
        kind = {"augmentations": transforms(), **COLOUR["everything"]}
        found["albumentations"] = ({}, {"transforms, everything": kind})
    return found


def transforms() -> list[Any]:
    """Albumentations' transforms of many kinds, often."""
    import albumentations as A

    return [
        A.OneOf([A.Blur(p=1.0), A.MedianBlur(p=1.0)], p=0.5),
        A.CLAHE(p=0.5),
        A.ToGray(p=0.2),
        A.RandomBrightnessContrast(p=0.5),
        A.ImageCompression(quality_range=(40, 90), p=0.5),
        A.GaussNoise(p=0.5),
    ]


def measure(
    data: Path, task: str, imgsz: int, n: int, seed: int, batch: int, broken: bool
) -> tuple[dict[str, Any], list[str]]:
    """All figures, and the limits missed. `broken` puts the first kind off by half a pixel."""
    figures: dict[str, Any] = {}
    failed: list[str] = []
    source = upstream.Upstream(data, imgsz, task)
    for chain, (base, kinds) in chains(task, source.polygons).items():
        total = Tally()
        by_kind = {}
        for kind, hyp in kinds.items():
            shift = 0.5 if broken and kind == "default" else 0.0
            tally = compare(source, {**base, **hyp}, -(-n // len(kinds)), seed, shift)
            by_kind[kind] = tally.report()
            failed += missed(chain, kind, by_kind[kind])
            total.merge(tally)
        figures[chain] = {**total.report(), "kinds": by_kind}
    figures["validation"] = validation(data, task, imgsz, batch)
    if figures["validation"]["differing"]:
        failed.append(f"validation batches differ: {figures['validation']['differing']}")
    return figures, failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison; 0 when every limit holds."""
    from yolodata.bench.machine import machine, versions

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="YAML of a dataset")
    parser.add_argument("--task", choices=["detect", "segment", "pose", "obb"], default="detect")
    parser.add_argument("--n", type=int, default=200, help="random recipes of each chain")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=16, help="of the validation loaders")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--break", dest="broken", action="store_true", help="must fail")
    args = parser.parse_args(arguments)
    if args.n < 1:
        parser.error(f"--n must be 1 or more, got {args.n}")
    figures, failed = measure(
        args.data, args.task, args.imgsz, args.n, args.seed, args.batch, args.broken
    )
    _print(figures)
    for line in failed:
        print(f"FAILED: {line}")
    if not failed:
        print("every limit holds")
    if args.json:
        result = {
            "benchmark": "parity", "task": args.task, "data": args.data.parent.name, "n": args.n,
            "imgsz": args.imgsz, "seed": args.seed, "broken": args.broken,
            "limits": {**LIMITS, "box_error": BOX_LIMIT}, "failed": failed, "machine": machine(),
            "versions": versions(), **figures,
        }  # fmt: skip
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if failed else 0


def _print(figures: dict[str, Any]) -> None:
    print(
        f"{'':26}{'samples':>8}{'mixup':>7}{'cutmix':>7}{'paste':>7}{'identical %':>13}"
        f"{'largest':>9}{'objects':>9}{'others':>8}{'box error':>11}{'angle':>9}{'keypoints':>11}"
        f"{'masks %':>10}{'IoU':>7}"
    )
    for chain in [name for name in LIMITS if name in figures]:
        rows = {chain.upper(): figures[chain], **figures[chain]["kinds"]}
        for kind, row in rows.items():
            share, masks = (  # 100 only where all are
                int(row[f"identical_{what}percent"] * 1e4) / 1e4 for what in ("", "mask_")
            )
            print(
                f"{kind:26}{row['samples']:8d}{row['with_mixup']:7d}{row['with_cutmix']:7d}"
                f"{row['with_copy_paste']:7d}{share:13.4f}{row['largest_difference']:9d}"
                f"{row['objects']:9d}{row['samples_with_other_objects']:8d}"
                f"{row['largest_box_error']:11.1e}{row['largest_angle_error']:9.1e}"
                f"{row['largest_keypoint_error']:11.1e}"
                f"{masks:10.4f}{row['least_mask_iou']:7.4f}"
            )
    val = figures["validation"]
    print(f"validation: {val['pictures']} pictures in {val['batches']} batches", end=", ")
    print(f"different in {val['differing']}" if val["differing"] else "identical to the bit")


if __name__ == "__main__":
    sys.exit(main())
