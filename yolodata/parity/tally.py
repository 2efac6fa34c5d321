"""Differences of training samples, summed up, and the limits that they must keep."""

from __future__ import annotations

from typing import Any

import numpy as np

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
    """Differences of pictures and labels, summed up over samples."""

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
        """Adds one sample.

        Args:
            ours: our picture, uint8 (3, H, W), and theirs: upstream's.
            labels: ours, as `_native.labels` returns them.
            sample: upstream's, which has its labels.
        """
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
        """Adds masks of the same objects in the same order."""
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
        """Adds the samples of another tally."""
        for name, value in vars(other).items():
            largest = ("largest", "box_error", "angle_error", "keypoint_error")
            combine = max if name in largest else min if name == "least_iou" else int.__add__
            setattr(self, name, combine(getattr(self, name), value))

    def report(self) -> dict[str, Any]:
        """Returns the figures."""
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
    """Returns radians (N,) between oriented boxes (N, 5); a square's quarter turn is none."""
    sides = theirs[:, 2:4]
    square = np.abs(sides[:, 0] - sides[:, 1]) <= BOX_LIMIT
    turn = np.where(square, np.pi / 2, np.pi)
    apart = np.abs(ours[:, 4].astype(np.float64) - theirs[:, 4]) % turn
    return np.minimum(apart, turn - apart)


def missed(chain: str, kind: str, report: dict[str, Any]) -> dict[str, str]:
    """Returns the limits that a report misses: a sentence by name."""
    share, largest = LIMITS[chain]
    pixels, iou = MASK_LIMITS
    holds = {
        "pictures": report["identical_percent"] >= share
        and report["largest_difference"] <= largest,
        "boxes": not report["samples_with_other_objects"]
        and report["largest_box_error"] <= BOX_LIMIT,
        "angles": report["largest_angle_error"] <= ANGLE_LIMIT,
        "keypoints": not report["keypoints_of_other_visibility"]
        and report["largest_keypoint_error"] <= BOX_LIMIT,
        "masks": not report["mask_pixels"]
        or (report["identical_mask_percent"] >= pixels and report["least_mask_iou"] >= iou),
    }
    sentences = {
        "pictures": f"{report['identical_percent']:.4f} % of bytes identical (at least {share}), "
        f"largest difference {report['largest_difference']} (at most {largest})",
        "boxes": f"{report['samples_with_other_objects']} samples keep other objects, largest box "
        f"error {report['largest_box_error']:.2e} (at most {BOX_LIMIT})",
        "angles": f"largest error of an angle {report['largest_angle_error']:.2e} (at most "
        f"{ANGLE_LIMIT})",
        "keypoints": f"{report['keypoints_of_other_visibility']} keypoints of another visibility, "
        f"largest error {report['largest_keypoint_error']:.2e} (at most {BOX_LIMIT})",
        "masks": f"{report['identical_mask_percent']:.4f} % of mask pixels identical (at least "
        f"{pixels}), least IoU {report['least_mask_iou']:.4f} (at least {iou})",
    }
    return {name: f"{chain}, {kind}: {sentences[name]}" for name, held in holds.items() if not held}


def limits_of(task: str) -> set[str]:
    """Returns the names of the limits that mean something for a task."""
    more = {"segment": {"masks"}, "pose": {"keypoints"}, "obb": {"angles"}}
    return {"pictures", "boxes", *more.get(task, ())}


def all_limits() -> dict[str, Any]:
    """Returns every limit, for the record."""
    return {
        **LIMITS,
        "box_error": BOX_LIMIT,
        "keypoint_error": BOX_LIMIT,
        "angle_error": ANGLE_LIMIT,
        "identical_mask_percent": MASK_LIMITS[0],
        "mask_iou": MASK_LIMITS[1],
    }
