"""A dry step: the largest batch that training may ask for is tried before the first epoch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ultralytics.utils.torch_utils import autocast, unwrap_model

from yolodata.errors import YolodataError
from yolodata.pipeline.loader import Loader
from yolodata.train.state import random_state, set_random_state


def most_objects(loader: Loader, batch: int) -> npt.NDArray[np.int64]:
    """Objects of each picture (B,) of a batch in which the fullest images of the dataset meet."""
    counts = np.sort(np.diff(loader.dataset.selection.object_offset))[::-1].astype(np.int64)
    tiles = 4 if loader.augment.mosaic else 1
    tiles *= 2 if loader.augment.mixup or loader.augment.cutmix else 1
    met = counts[np.arange(batch * tiles) % len(counts)].reshape(batch, tiles)
    return np.asarray(met.sum(1))


def largest_batch(trainer: Any) -> dict[str, Any]:
    """A batch as large as training can make them: shape, and number of objects."""
    args, loader = trainer.args, trainer.train_loader
    side = math.ceil(args.imgsz * (1 + args.multi_scale) / trainer.stride) * trainer.stride
    batch = int(loader.batch_size)
    counts = torch.from_numpy(most_objects(loader, batch))
    objects = int(counts.sum())
    device = trainer.device
    made: dict[str, Any] = {
        "img": torch.rand(batch, 3, side, side, device=device),
        "cls": torch.zeros(objects, 1, device=device),
        "bboxes": torch.tensor([0.5, 0.5, 0.2, 0.2], device=device).repeat(objects, 1),
        "batch_idx": torch.arange(batch).repeat_interleave(counts).float().to(device),
    }
    task = args.task
    if task == "obb":
        made["bboxes"] = torch.cat([made["bboxes"], torch.zeros(objects, 1, device=device)], 1)
    elif task == "pose":
        keypoints = trainer.data["kpt_shape"][0]
        made["keypoints"] = torch.full((objects, keypoints, 3), 0.5, device=device)
    elif task == "segment":
        mask = (side // int(args.mask_ratio),) * 2
        made["masks"] = torch.zeros(batch, *mask, device=device)
        made["sem_masks"] = torch.zeros(batch, *mask, device=device)
    return made


def dry_step(trainer: Any) -> None:
    """Forward and backward with the largest batch; the trainer is as before.

    Raises:
        YolodataError: memory does not suffice; names what to change next.
    """
    model = unwrap_model(trainer.model)
    generators = random_state(trainer.device)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    trainer._model_train()
    try:
        batch = largest_batch(trainer)
        kind = torch.bfloat16 if trainer.args.amp == "bf16" else trainer.amp
        with autocast(kind, device=trainer.device.type):
            loss, _ = model(batch)
        trainer.scaler.scale(loss.sum()).backward()
        del loss
    except RuntimeError as error:
        if "out of memory" not in str(error).lower():
            raise
        raise YolodataError(advice(trainer, str(error))) from error
    finally:
        trainer.optimizer.zero_grad()
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        set_random_state(generators, trainer.device)
        trainer._clear_memory(0.5)


def advice(trainer: Any, problem: str) -> str:
    """What is too large, and the next knob to turn."""
    args, loader = trainer.args, trainer.train_loader
    batch = int(loader.batch_size)
    knobs = []
    if not trainer.amp and trainer.device.type == "cuda":
        knobs.append("amp=True (half precision: about half the memory of activations)")
    if batch > 1:
        half = max(trainer.batch_size // 2, trainer.world.size)
        knobs.append(
            f"batch={half} (gradients are accumulated to nbs={args.nbs}, so that the update stays "
            "the same)"
        )
    if args.mosaic:
        knobs.append("mosaic=0 (a fourth of the objects in a picture, and of the loss's memory)")
    knobs.append(f"imgsz={max(args.imgsz // 2 // 32 * 32, 32)}, or a smaller model")
    first, *later = knobs
    return (
        f"memory does not suffice for a step with {batch} pictures of {args.imgsz} pixels"
        f"{f' (multi_scale={args.multi_scale} adds to them)' if args.multi_scale else ''} on "
        f"{trainer.device}, found before training with a dry step at the most objects a batch can "
        f"have: {problem.splitlines()[0]}. Next: {first}. After that: {'; '.join(later)}"
    )
