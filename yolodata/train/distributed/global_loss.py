"""The loss as one process with the whole batch would compute it, and in single precision.

Note [whole batch]. Ultralytics divides the box, class and distance losses by the sum of the target
scores of the rank's own pictures. The mean over ranks of such quotients is not the quotient of the
sums: two ranks do not train as one process with both batches does. Here a rank's losses are
multiplied by (its sum) * ranks / (sum over ranks), so that their mean is the quotient of the sums.
It costs one number to be added up over the ranks for each set of targets. The mask, keypoint and
angle terms of other tasks have counts of their own and stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_map

from yolodata.train.distributed.process_group import ProcessGroup


class GlobalLoss:
    """Ultralytics' criterion of a model, outside autocast, and over the whole batch.

    What else it has (`update`, weights of its parts) is read and written through.

    Args:
        inner: what the model's `init_criterion` returned.
        process_group: the ranks.
        whole_batch: see the module's note.
    """

    def __init__(self, inner: Any, process_group: ProcessGroup, whole_batch: bool) -> None:
        object.__setattr__(self, "inner", inner)
        if whole_batch and not process_group.alone:
            for part in (inner, *vars(inner).values()):
                if hasattr(part, "get_assigned_targets_and_loss") and hasattr(part, "assigner"):
                    _over_all_ranks(part, process_group)

    def __call__(self, preds: Any, batch: dict[str, Any]) -> Any:
        """Returns the loss and its items, in single precision."""
        device = batch["img"].device.type
        if not torch.is_autocast_enabled(device):
            return self.inner(preds, batch)
        with torch.autocast(device, enabled=False):
            return self.inner(tree_map(_single, preds), batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.inner, name, value)


def _single(value: Any) -> Any:
    half = isinstance(value, torch.Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


def _over_all_ranks(part: Any, process_group: ProcessGroup) -> None:
    """Makes a detection criterion divide by the target scores of all ranks."""
    import torch.distributed as dist

    seen: list[torch.Tensor] = []
    part.assigner.register_forward_hook(lambda module, given, out: seen.append(out[2].sum()))
    own = part.get_assigned_targets_and_loss

    def whole(*args: Any, **kwargs: Any) -> Any:
        seen.clear()
        targets, loss, items = own(*args, **kwargs)
        mine = seen[-1].float()
        everyone = mine.clone()
        dist.all_reduce(everyone)
        share = mine.clamp(min=1) * process_group.size / everyone.clamp(min=1)
        return targets, loss * share, {name: value * share for name, value in items.items()}

    part.get_assigned_targets_and_loss = whole
