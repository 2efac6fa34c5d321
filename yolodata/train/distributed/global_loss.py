"""The loss as one process with the whole batch would compute it, and in single precision.

Note [whole batch]. Ultralytics divides each item of the loss by a count of the rank's own pictures
(Note [counts] in `counted_loss`). So two ranks do not train as one process with both batches does,
and what one rank shows is no loss of anything. Here a rank's items are multiplied by
(its count) * ranks / (sum over ranks), so that the mean over ranks of their gradients is the
gradient of the whole batch. The *value* of each item is that of the whole batch on every rank: what
is logged needs no further sum. It costs one sum over the ranks, of 6 to 12 numbers, for each set of
targets.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map

from yolodata.train.distributed.counted_loss import CountedLoss, combine, kept, parts_of
from yolodata.train.distributed.process_group import ProcessGroup
from yolodata.train.distributed.waits import LOSS, CollectiveWaits

if TYPE_CHECKING:
    from ultralytics.utils.loss import Criterion, v8DetectionLoss


class GlobalLoss:
    """Ultralytics' criterion of a model, outside autocast, and over the whole batch.

    What else it has (`update`, weights of its parts) is read and written through.

    Args:
        inner: what the model's `init_criterion` returned.
        process_group: the ranks.
        whole_batch: see the module's note; False leaves the gradients as Ultralytics has them, and
            only the values are of the whole batch.

    Attributes:
        covers_all_ranks: whether the values are; not for criteria that are none of Ultralytics'.
    """

    covers_all_ranks: bool
    inner: Criterion

    def __init__(
        self,
        inner: Criterion,
        process_group: ProcessGroup,
        whole_batch: bool,
        waits: CollectiveWaits | None = None,
    ) -> None:
        own = vars(self)
        own["inner"] = inner
        parts = [] if process_group.alone else parts_of(inner)
        own["covers_all_ranks"] = process_group.alone or bool(parts)
        for part in parts:
            part.loss = _OverAllRanks(part, process_group.size, whole_batch, waits)

    def __call__(
        self, preds: Any, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Returns the loss and its items, in single precision."""
        device = batch["img"].device.type
        if not torch.is_autocast_enabled(device):
            return self.inner(preds, batch)
        with torch.autocast(device, enabled=False):
            return self.inner(tree_map(_single, preds), batch)

    def __deepcopy__(self, memo: Any) -> None:
        """Returns None: a copy of the model (for its average, say) makes a criterion of its own."""

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["inner"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self)["inner"], name, value)


def _single(value: Any) -> Any:
    half = isinstance(value, torch.Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


class _OverAllRanks:
    """The loss of a part of a criterion, over the batches of all ranks."""

    def __init__(
        self, part: v8DetectionLoss, ranks: int, whole_batch: bool, waits: CollectiveWaits | None
    ) -> None:
        self._counted = CountedLoss(part, whole_batch)
        self._waits = waits
        self._ranks, self._whole_batch = ranks, whole_batch

    def __call__(
        self, preds: Any, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        import torch.distributed as dist

        names = self._counted.names
        loss, mine = self._counted(preds, batch)
        everyones = mine.clone()
        with nullcontext() if self._waits is None else self._waits.of(LOSS):
            dist.all_reduce(everyones)
        if self._whole_batch:
            share = mine[1].clamp(min=1) * self._ranks / everyones[1].clamp(min=1)
            loss = loss * torch.where(kept(names, everyones), share, 0.0)
        items = combine(names, everyones)
        # The gradient of the rank's part, and the value of all of them.
        loss = loss - loss.detach() + items * len(batch["img"])
        return loss, dict(zip(names, items, strict=True))
