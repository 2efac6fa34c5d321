"""Out of memory: the largest batch is tried before the first epoch; errors say what to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ultralytics.utils.torch_utils import unwrap_model

from yolodata.errors import YolodataError, is_out_of_memory
from yolodata.pipeline.loader import Loader
from yolodata.train.checkpoint.state import random_state, set_random_state
from yolodata.train.distributed.process_group import ProcessGroup
from yolodata.train.forward import largest_side
from yolodata.train.resumable import ResumableTrainer


def most_objects(loader: Loader, batch: int) -> npt.NDArray[np.int64]:
    """Returns the most objects that pictures of a batch can have, int64 (B,).

    The fullest images of the dataset meet in the batch, as many in a picture as augmentation mixes.
    """
    counts = np.sort(np.diff(loader.dataset.subset.object_offset))[::-1].astype(np.int64)
    augment = loader.augment
    tiles = augment.mosaic_grid if augment.mosaic else 1
    tiles *= 2 if augment.copy_paste else 1  # each object a second time, or those of another
    tiles *= 1 + (augment.mixup > 0) + (augment.cutmix > 0)
    met = counts[np.arange(batch * tiles) % len(counts)].reshape(batch, tiles)
    return np.asarray(met.sum(1))


def largest_batch(trainer: ResumableTrainer) -> dict[str, Any]:
    """Returns a batch as large as training can make them: in shape, and in number of objects.

    It has a batch's keys, shapes and dtypes, but pictures are float32 (B, 3, S, S) in 0-1, as
    `preprocess_batch` would leave them.
    """
    args, loader = trainer.args, trainer.own_loader
    assert loader is not None
    side = largest_side(args.imgsz, args.multi_scale, trainer.stride)
    batch = loader.batch_size
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


def pending_bytes(trainer: ResumableTrainer, process_group: ProcessGroup) -> int:
    """Returns the bytes that every step will need, and that are not allocated before an update.

    The optimiser keeps two numbers a weight at most. Between ranks the gradients exist a second
    time, in the buckets that they travel in.
    """
    weights = [p for p in trainer.model.parameters() if p.requires_grad]
    copies = 0 if trainer.optimizer.state else 2
    copies += 0 if process_group.alone else 1
    return copies * sum(int(p.numel() * p.element_size()) for p in weights)


def dry_step(
    trainer: ResumableTrainer,
    process_group: ProcessGroup,
    compute_loss: Callable[[dict[str, Any]], torch.Tensor],
) -> None:
    """Goes forward and backward with the largest batch; the trainer is as before.

    The model must not be wrapped for several ranks yet: DistributedDataParallel counts the passes
    through its model's parameters, and with a static graph it never gets over one of which it does
    not know.

    Args:
        trainer: whose model, optimiser and loader are set up.
        process_group: the ranks.
        compute_loss: of a prepared batch, under autocast.

    Raises:
        YolodataError: memory does not suffice; names what to change next.
    """
    model = unwrap_model(trainer.model)
    generators = random_state(trainer.device)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    trainer._model_train()
    found = "found before training with a dry step at the most objects that a batch can have"
    try:
        with explained(trainer, process_group, found):
            pending = pending_bytes(trainer, process_group)
            reserved = torch.empty(pending, dtype=torch.uint8, device=trainer.device)
            loss = compute_loss(largest_batch(trainer))
            trainer.scaler.scale(loss.sum()).backward()  # type: ignore[no-untyped-call]
            del loss, reserved
    finally:
        trainer.optimizer.zero_grad()
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        set_random_state(generators, trainer.device)
        trainer._clear_memory(0.5)


@contextmanager
def explained(trainer: ResumableTrainer, process_group: ProcessGroup, found: str) -> Iterator[None]:
    """Has an error for which memory ended say what to change next.

    Args:
        trainer: that runs.
        process_group: the ranks.
        found: where, or how, it was found out.

    Raises:
        YolodataError: memory does not suffice.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise YolodataError(advice(trainer, process_group, str(error), found)) from error


def advice(trainer: ResumableTrainer, process_group: ProcessGroup, problem: str, found: str) -> str:
    """Returns what is too large, how that was found out, and the next knob to turn."""
    args = trainer.args
    batch = trainer.train_loader.batch_size
    knobs = []
    if not trainer.amp and trainer.device.type == "cuda":
        knobs.append("amp=True (half precision: about half the memory of activations)")
    if batch > 1:
        half = max(trainer.batch_size // 2, process_group.size)
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
        f"{trainer.device}, {found}: {problem.splitlines()[0]}; "
        f"give {first}, and after that {'; '.join(later)}"
    )
