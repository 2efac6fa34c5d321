"""What the items of a loss were divided by, so that those of several batches can be put together.

Note [counts]. Ultralytics divides each item of its loss by a count of the batch's own: the sum of
the target scores (box, class, distance, angle), the anchors with an object (masks, keypoints), the
keypoints that are seen (rle), the pictures (semantic). The item of two batches together is the
quotient of the sums, not the mean of the quotients. So an item travels as its numerator and its
count, and `combine` divides once both are summed.

Two items are no plain quotients. The likelihood of keypoints (rle) is cut off at 0 after the
division, which is undone here and done again in `combine`. The semantic loss of a batch without
any anchor with an object is 0 in Ultralytics; a rank's part of the batch may lack one where the
batch does not, so its part is computed here all the same, and `combine` drops the sum of batches
that have none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

if TYPE_CHECKING:
    from ultralytics.utils.loss import Criterion, v8DetectionLoss, v8SegmentationLoss

SCORES, FOREGROUND, KEYPOINTS, IMAGES = "scores", "foreground", "keypoints", "images"
COUNTED = {
    "box_loss": SCORES,
    "cls_loss": SCORES,
    "dfl_loss": SCORES,
    "l1_loss": SCORES,
    "angle_loss": SCORES,
    "seg_loss": FOREGROUND,
    "pose_loss": FOREGROUND,
    "kobj_loss": FOREGROUND,
    "rle_loss": KEYPOINTS,
    "sem_loss": IMAGES,
}
"""What each of Ultralytics' items is divided by."""


class CountedLoss:
    """The loss of a part of a criterion, and its items with their counts.

    Args:
        part: one of Ultralytics' criteria with an assigner (see `parts_of`). It gets hooks, and
            its gains are read.
        whole_batch: whether the gradient, too, is that of a part of a larger batch.
    """

    def __init__(self, part: v8DetectionLoss, whole_batch: bool = True) -> None:
        self.names = tuple(part.loss_names)
        self._part, self._loss, self._whole_batch = part, part.loss, whole_batch
        self._scores = self._foreground = torch.zeros(())
        self._likelihood = torch.zeros(())
        self._seen = 0  # keypoints
        part.assigner.register_forward_hook(self._see_targets)
        likelihood: torch.nn.Module | None = getattr(part, "rle_loss", None)
        if likelihood is not None:
            likelihood.register_forward_hook(self._see_likelihood)

    def _see_targets(
        self, module: torch.nn.Module, given: object, out: tuple[torch.Tensor, ...]
    ) -> None:
        self._scores, self._foreground = out[2].sum().float(), out[3].sum().float()

    def _see_likelihood(
        self, module: torch.nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor
    ) -> torch.Tensor:
        """Keeps the value, and lets the cut-off at 0 that follows pass the gradient."""
        self._likelihood, self._seen = out.detach(), len(given[0])
        return out - out.detach().clamp(max=0)

    def __call__(
        self, preds: Any, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the loss of a batch, and what its items were made of.

        Returns:
            loss: (items,) of the batch, times its pictures, with a gradient.
            sums: (2, items), numerators and counts; no gradient.
        """
        self._seen = 0
        images = len(batch["img"])
        loss, items = self._loss(preds, batch)
        values = {name: items[name].float() for name in self.names}
        if self._seen:
            gain: float = self._part.hyp.rle
            values["rle_loss"] = self._likelihood.float() * gain
        if "sem_loss" in self.names and not self._foreground:
            semantic = _semantic(cast("v8SegmentationLoss", self._part), preds, batch)
            values["sem_loss"] = semantic.detach()
            at = self.names.index("sem_loss")
            if self._whole_batch:
                loss = torch.cat([loss[:at], (semantic * images)[None], loss[at + 1 :]])
        counts = {
            SCORES: self._scores,
            FOREGROUND: self._foreground,
            KEYPOINTS: loss.new_full((), self._seen),
            IMAGES: loss.new_full((), images),
        }
        each = torch.stack([counts[COUNTED[name]].to(loss) for name in self.names])
        numerators = torch.stack([values[name] for name in self.names]) * each.clamp(min=1)
        return loss, torch.stack([numerators, each])


def parts_of(criterion: Criterion) -> list[v8DetectionLoss]:
    """Lists the parts of a criterion, or itself, whose items are counted as `COUNTED` says."""
    found: tuple[Any, ...] = (criterion, *vars(criterion).values())
    return [
        part
        for part in found
        if hasattr(part, "assigner")
        and hasattr(part, "loss")
        and COUNTED.keys() >= {*part.loss_names}
    ]


def combine(names: tuple[str, ...], sums: torch.Tensor) -> torch.Tensor:
    """Returns the items (…, items) of summed numerators and counts (…, 2, items)."""
    numerators, counts = sums.unbind(-2)
    return torch.where(kept(names, sums), numerators / counts.clamp(min=1), 0.0)


def kept(names: tuple[str, ...], sums: torch.Tensor) -> torch.Tensor:
    """Returns which items (…, items) of such sums count; see the module's note."""
    numerators, counts = sums.unbind(-2)
    keep = torch.ones_like(numerators, dtype=torch.bool)
    for place, name in enumerate(names):
        if name == "rle_loss":
            keep[..., place] = ~(numerators[..., place] < 0)
        elif name == "sem_loss":
            keep[..., place] = counts[..., names.index("seg_loss")] > 0
    return keep


def _semantic(
    part: v8SegmentationLoss, preds: dict[str, Any], batch: dict[str, torch.Tensor]
) -> torch.Tensor:
    """The semantic loss of a batch without an anchor that has an object; 0 without its head."""
    proto: torch.Tensor | tuple[torch.Tensor, torch.Tensor] = preds["proto"]
    if not isinstance(proto, tuple):
        return torch.zeros((), device=part.device)
    predicted, masks = proto[1], batch["masks"].to(part.device)
    classes = batch["sem_masks"].to(part.device).long()
    if part.overlap:
        covered = masks != 0
    else:  # a mask an object
        covered = torch.zeros_like(classes, dtype=torch.bool)
        images: list[int] = batch["batch_idx"].long().view(-1).tolist()
        for image, mask in zip(images, masks, strict=True):
            covered[image] |= mask != 0
    shape = (len(classes), part.nc, *classes.shape[1:])
    target = torch.zeros(shape, device=part.device)
    target.scatter_(1, classes[:, None], covered[:, None].float())
    found: torch.Tensor = part.bcedice_loss(predicted, target)
    gain: float = part.hyp.box
    return found * gain
