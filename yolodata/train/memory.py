"""Memory: the largest batch is tried before the first epoch; what is done where it ends later."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ultralytics.utils import LOGGER
from ultralytics.utils.torch_utils import unwrap_model

from yolodata.errors import YolodataError, is_out_of_memory
from yolodata.pipeline.loader import Loader
from yolodata.train.state import Position, random_state, set_random_state


def most_objects(loader: Loader, batch: int) -> npt.NDArray[np.int64]:
    """Objects of each picture (B,) of a batch in which the fullest images of the dataset meet."""
    counts = np.sort(np.diff(loader.dataset.subset.object_offset))[::-1].astype(np.int64)
    augment = loader.augment
    tiles = augment.mosaic_grid if augment.mosaic else 1
    tiles *= 2 if augment.copy_paste else 1  # each object a second time, or those of another
    tiles *= 1 + (augment.mixup > 0) + (augment.cutmix > 0)
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
        masks = batch if args.overlap_mask else objects
        made["masks"] = torch.ones(masks, *mask, dtype=torch.uint8, device=device)
        made["sem_masks"] = torch.zeros(batch, *mask, device=device)
    return made


def yet_to_come(trainer: Any) -> int:
    """Bytes that training will hold in every step, and that are not there before the first update.

    The optimiser's numbers (two a weight at most, of those that there are), and between ranks the
    gradients a second time, in the buckets that they travel in.
    """
    weights = [p for p in trainer.model.parameters() if p.requires_grad]
    copies = 0 if trainer.optimizer.state else 2
    copies += 0 if trainer.world.alone else 1
    return copies * sum(int(p.numel() * p.element_size()) for p in weights)


def dry_step(trainer: Any) -> None:
    """Forward and backward with the largest batch; the trainer is as before.

    The model must not be wrapped for several ranks yet: DistributedDataParallel counts the passes
    through its model's parameters, and with a static graph it never gets over one of which it does
    not know.

    Raises:
        YolodataError: memory does not suffice; names what to change next.
    """
    model = unwrap_model(trainer.model)
    generators = random_state(trainer.device)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    trainer._model_train()
    found = "found before training with a dry step at the most objects that a batch can have"
    try:
        with advised(trainer, found):
            reserved = torch.empty(yet_to_come(trainer), dtype=torch.uint8, device=trainer.device)
            batch = largest_batch(trainer)
            with trainer._autocast():
                loss, _ = trainer._loss_of(batch)
            trainer.scaler.scale(loss.sum()).backward()
            del loss, reserved
    finally:
        trainer.optimizer.zero_grad()
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        set_random_state(generators, trainer.device)
        trainer._clear_memory(0.5)


def may_halve(trainer: Any) -> bool:
    """Whether training may go on with half the batch: as upstream, alone, early, three times."""
    early = trainer.epoch == trainer.start_epoch and trainer.halved < 3
    return bool(early and trainer.world.alone and trainer.batch_size > 1)


def halve_batch(trainer: Any, problem: str, images: int) -> None:
    """Goes on with half the batch, from the last update on: memory did not suffice for a step.

    Upstream begins the epoch anew. Here only the batches whose gradients are lost come again: the
    step's own, and those that waited with it for an update. With upstream's loader, all do.

    Args:
        trainer: within the step that failed.
        problem: what the error said.
        images: of the batch that was too large.
    """
    batch, at, loader = trainer.batch_size, trainer.at, trainer.train_loader
    state = loader.state_dict() if trainer.exact else None
    trainer.args.batch = trainer.batch_size = batch // 2
    trainer.halved += 1
    LOGGER.warning(
        f"yolodata: memory does not suffice for batch={batch} ({problem.splitlines()[0]}); going "
        f"on with batch={trainer.batch_size} ({trainer.halved} of at most 3 times)."
    )
    trainer._close_loaders()
    trainer.optimizer.zero_grad()
    trainer._clear_memory()
    trainer._build_train_pipeline()
    trainer.validator.dataloader = trainer.test_loader
    trainer._nominal = trainer.accumulate
    trainer._mosaic_closed = not trainer.args.close_mosaic  # of the new loader
    done = 0
    if state is not None:
        done = max(0, int(state["position"]) - images - at.pending * batch)
        trainer.train_loader.load_state_dict({**state, "position": done})
        trainer.train_loader.telemetry = loader.telemetry  # whoever reads it counts on
    trainer.at = Position(at.epoch, -(-done // trainer.batch_size))
    if trainer.at.step == 0:
        trainer.scheduler.last_epoch = at.epoch - 1  # it will be moved again
    trainer._between()


@contextmanager
def advised(trainer: Any, found: str) -> Iterator[None]:
    """Memory may end here; the error then says what to change next.

    Args:
        trainer: that this is for.
        found: where, or how, it was found out.

    Raises:
        YolodataError: memory does not suffice.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise YolodataError(advice(trainer, str(error), found)) from error


def advice(trainer: Any, problem: str, found: str) -> str:
    """What is too large, how that was found out, and the next knob to turn."""
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
        f"{trainer.device}, {found}: {problem.splitlines()[0]}. "
        f"Next: {first}. After that: {'; '.join(later)}"
    )
