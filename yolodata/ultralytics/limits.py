"""What our training loader does not do, and upstream's does."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

TRAINERS = {
    "detect": "DetectionTrainer",
    "segment": "SegmentationTrainer",
    "pose": "PoseTrainer",
    "obb": "OBBTrainer",
}
"""Our trainers, by Ultralytics' name of the task."""


def why_not(args: Any, data: dict[str, Any], task: str = "detect") -> str | None:
    """Why upstream's own loader has to make the training batches, in words; None: ours can.

    Args:
        args: Ultralytics' training arguments.
        data: the dataset as `check_det_dataset` describes it.
        task: what our trainer is for.
    """
    if args.task not in TRAINERS:
        return f"task={args.task} is not supported yet"
    if args.task != task:
        return f"task={args.task} is for trainer=yolodata.{TRAINERS[args.task]}"
    if data.get("channels", 3) != 3:
        return f"images of {data['channels']} channels are not supported"
    if args.rect:
        return "rect=True trains on rectangular batches; set rect=False"
    if getattr(args, "augmentations", None):
        return "augmentations=[…] is not supported; leave it out"
    if find_spec("albumentations") is not None:
        return (
            "the package albumentations is installed, and upstream then adds its transforms to "
            "every picture; uninstall it"
        )
    return None
