"""What our trainers and their training loader do not do, and upstream's do."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from yolodata.errors import ConfigError
from yolodata.pipeline.albumentations.transforms import composed

TRAINERS = {
    "detect": "DetectionTrainer",
    "segment": "SegmentationTrainer",
    "pose": "PoseTrainer",
    "obb": "OBBTrainer",
}
"""Our trainers, by Ultralytics' name of the task."""

UPSTREAM_TRAINERS = {
    "classify": "ClassificationTrainer",
    "semantic": "SemanticSegmentationTrainer",
    "depth": "DepthTrainer",
}
"""Upstream's own, of the tasks that we have no loader for."""


def upstream_trainer(task: str) -> type[Any]:
    """The class that trains a task of `UPSTREAM_TRAINERS`.

    Raises:
        ConfigError: there is no such task.
    """
    if task not in UPSTREAM_TRAINERS:
        allowed = ", ".join([*TRAINERS, *UPSTREAM_TRAINERS])
        raise ConfigError(f"task must be one of {allowed}, got {task!r}")
    from ultralytics.models import yolo

    found: type[Any] = getattr(getattr(yolo, task), UPSTREAM_TRAINERS[task])
    return found


def upstream_transforms(args: Any) -> Any:
    """What upstream applies with Albumentations, if that is installed: `augmentations`, or its own.

    Returns:
        an `albumentations.Compose`, or None.
    """
    if find_spec("albumentations") is None:
        return None
    from ultralytics.data.augment import Albumentations

    return Albumentations(p=1.0, transforms=getattr(args, "augmentations", None)).transform


def why_not(args: Any, data: dict[str, Any], transforms: Any = None) -> str | None:
    """Why upstream's own loader has to make the training batches, in words; None: ours can.

    Args:
        args: Ultralytics' training arguments.
        data: the dataset as `check_det_dataset` describes it.
        transforms: from `upstream_transforms`.
    """
    if data.get("channels", 3) != 3:
        return f"images of {data['channels']} channels are not supported"
    if args.rect:
        return "rect=True trains on rectangular batches; set rect=False"
    if transforms is not None:
        try:
            composed(transforms)
        except ConfigError as error:
            return f"of augmentations=[...]: {error}"
    return None
