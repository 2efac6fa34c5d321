"""What our trainers and their training loader do not do, and upstream's do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from numbers import Real
from pathlib import Path
from typing import Any

from yolodata.errors import ConfigError
from yolodata.pipeline.albumentations.transforms import composed
from yolodata.terminal import quiet

TRAINERS = {
    "detect": "DetectionTrainer",
    "segment": "SegmentationTrainer",
    "pose": "PoseTrainer",
    "obb": "OBBTrainer",
}
"""Our trainers, by Ultralytics' name of the task."""

VALIDATORS = {
    "detect": "DetectionValidator",
    "segment": "SegmentationValidator",
    "pose": "PoseValidator",
    "obb": "OBBValidator",
}
"""Our validators, likewise."""

UPSTREAM_TRAINERS = {
    "classify": "ClassificationTrainer",
    "semantic": "SemanticSegmentationTrainer",
    "depth": "DepthTrainer",
}
"""Upstream's own, of the tasks that we have no loader for."""

FAMILIES = {
    "RTDETRDecoder": ("RT-DETR", "ultralytics.models.rtdetr.train.RTDETRTrainer"),
    "WorldDetect": ("YOLO-World", "ultralytics.models.yolo.world.WorldTrainer"),
    "YOLOEDetect": ("YOLOE", "ultralytics.models.yolo.yoloe.YOLOETrainer"),
    "YOLOESegment": ("YOLOE", "ultralytics.models.yolo.yoloe.YOLOESegTrainer"),
    "YOLOESegment26": ("YOLOE", "ultralytics.models.yolo.yoloe.YOLOESegTrainer"),
}
"""Models that need batches or a model of their own: what they are, and upstream's trainer, by the
name of their last layer."""

UNTRAINABLE = {
    "fastsam": "FastSAM", "mobile_sam": "SAM", "sam_": "SAM", "sam2": "SAM", "sam3": "SAM",
    "yolo_nas": "YOLO-NAS",
}  # fmt: skip
"""Models that Ultralytics only predicts with, by how the names of their files begin."""


def upstream_trainer(task: str, model: Any = None) -> tuple[str, type[Any]] | None:
    """Who trains what our trainers do not: another task, or another family of models.

    Args:
        task: Ultralytics' name of it.
        model: what is trained: a file, or a name that Ultralytics downloads; None is not known.

    Returns:
        what is trained, in words, and upstream's trainer of it; None: ours does.

    Raises:
        ConfigError: nobody does.
    """
    check_trainable(model)
    head = last_layer(model)
    if head in FAMILIES:
        family, place = FAMILIES[head]
        module, _, trainer = place.rpartition(".")
        return family, getattr(import_module(module), trainer)
    if str(task) in TRAINERS:
        return None
    if str(task) not in UPSTREAM_TRAINERS:
        allowed = ", ".join([*TRAINERS, *UPSTREAM_TRAINERS])
        raise ConfigError(f"task must be one of {allowed}, got {task!r}")
    from ultralytics.models import yolo

    return f"task={task}", getattr(getattr(yolo, task), UPSTREAM_TRAINERS[task])


def check_trainable(model: Any) -> None:
    """Refuses models that Ultralytics only predicts with, by their names: nothing is read.

    Raises:
        ConfigError: it is such a model, and no file of that name is there.
    """
    path = Path(str(model or ""))
    for start, kind in UNTRAINABLE.items():
        if path.name.lower().startswith(start) and not path.is_file():
            raise ConfigError(
                f"model={model} is {kind}, which Ultralytics predicts with and does not train; "
                "give a YOLO model (model=yolo26n.yaml, say)"
            )


def last_layer(model: Any) -> str:
    """The type of a model's last layer, which tells its family; "" where nothing can be read."""
    from ultralytics.nn.tasks import load_checkpoint, yaml_model_load

    file = Path(str(model or ""))
    if file.suffix in {".yaml", ".yml"}:
        try:
            return str(yaml_model_load(file)["head"][-1][2])
        except Exception:  # a file of any content; upstream says what is wrong with it
            return ""
    if file.suffix != ".pt" or not file.is_file():
        return ""
    try:
        layers = getattr(load_checkpoint(file)[0], "model", None)
    except Exception:
        return ""
    return "" if layers is None else type(layers[-1]).__name__


def check_batch(batch: Any) -> None:
    """Refuses what upstream's argument check lets through, and no loader can make.

    Raises:
        ConfigError: the batch size is a fraction above 1.
    """
    if isinstance(batch, float) and batch >= 1:
        raise ConfigError(
            "batch must be a whole number of images, -1 (what fits into the GPU's memory), or the "
            f"share of it that is used, between 0 and 1, got {batch!r}"
        )


def check_shared_batch(batch: float, counts: Sequence[int]) -> None:
    """Refuses a batch that processes cannot share evenly.

    Args:
        batch: of all processes together; whatever `check_batch` lets through.
        counts: how many may share it.

    Raises:
        ConfigError: one of these does not divide it, or upstream is to find out how large it is.
    """
    divisor = math.lcm(*counts)
    if batch < 1:
        raise ConfigError(
            f"batch={batch} has Ultralytics find out what fits into memory, which it does for one "
            "process that nothing has launched; give the batch of all processes together, "
            f"batch={_multiple(16, divisor)}, say"
        )
    if batch % divisor:
        raise ConfigError(
            f"batch must be a multiple of {divisor}, because it is that of all "
            f"{' or '.join(map(str, counts))} processes together, got {batch}; give "
            f"batch={_multiple(int(batch), divisor)}"
        )


def _multiple(number: int, divisor: int) -> int:
    """The largest multiple that is no larger; at least one."""
    return max(number // divisor, 1) * divisor


def check_sizes(imgsz: Any) -> None:
    """Refuses lists of what is no size, which upstream would calculate with.

    Raises:
        ConfigError: one is no number.
    """
    if isinstance(imgsz, (list, tuple)) and not all(isinstance(size, Real) for size in imgsz):
        raise ConfigError(f"imgsz must be numbers of pixels, got {imgsz!r}; give imgsz=640, say")


def check_optimizer(name: Any) -> None:
    """Has upstream refuse an optimiser that it does not know, which it does once data are packed.

    Raises:
        NotImplementedError: in upstream's words.
    """
    import torch
    from ultralytics.engine.trainer import BaseTrainer

    if str(name).lower() == "auto":
        return
    model: Any = torch.nn.BatchNorm1d(1)  # its first weights are not drawn
    model.model = [None]  # the head, of which MuSGD asks for layers
    nobody: Any = None  # it asks nothing of the trainer
    with quiet():
        BaseTrainer.build_optimizer(nobody, model, name)


def check_distill_model(teacher: Any) -> None:
    """Refuses what upstream would take for a network.

    Raises:
        ConfigError: it is neither a file nor a network.
    """
    if teacher is not None and not isinstance(teacher, (str, Path)) and not hasattr(teacher, "to"):
        raise ConfigError(f"distill_model must be the .pt file of a teacher, got {teacher!r}")


def check_quantize(quantize: Any) -> None:
    """Refuses training that knows of eight bits where the package that upstream imports is absent.

    Raises:
        ConfigError: it is.
    """
    if quantize == 8 and find_spec("modelopt") is None:
        raise ConfigError(
            "quantize=8 needs the package nvidia-modelopt, which is not installed; install it, or "
            "leave quantize out"
        )


def warn_of_upstreams(doing: str, own: str, what: str) -> None:
    """Says that Ultralytics does by itself what yolodata has nothing for.

    Args:
        doing: "training", say.
        own: Ultralytics' class, in words.
        what: for which yolodata has nothing.
    """
    from ultralytics.utils import LOGGER

    LOGGER.warning(
        f"yolodata: {doing} with Ultralytics' own {own} and loader: {what} is not supported yet, "
        "and settings of yolodata have no effect."
    )


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


def why_not_validated(args: Any, data: dict[str, Any]) -> str | None:
    """Why upstream's own loader has to make the validation batches, in words; None: ours can."""
    if data.get("channels", 3) != 3:
        return f"images of {data['channels']} channels are not supported"
    if not isinstance(args.imgsz, int):
        return f"the model takes pictures of one shape alone, imgsz={args.imgsz}"
    return None
