"""The loss of a validation over all ranks, as one process would sum it up.

One process divides each batch of its validation by that batch's counts and takes the mean over
batches. Ranks have parts of these batches, and not equally many. So each rank remembers the sums
of its parts (Note [counts] in `counted_loss`). At the end they are added up, batch by batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from yolodata.train.distributed.counted_loss import CountedLoss, combine, parts_of
from yolodata.train.distributed.process_group import ProcessGroup

if TYPE_CHECKING:
    from ultralytics.utils.loss import Criterion, v8DetectionLoss


class ValidationLoss:
    """The criterion of a model that is validated, on one rank.

    Args:
        inner: a criterion of Ultralytics' for this validation alone.
        process_group: the ranks; all of them call `means` once their batches are done.
        first: place of this rank's first picture in the order of validation.
        batch: pictures of a batch of one process.
    """

    def __init__(
        self, inner: Criterion, process_group: ProcessGroup, first: int, batch: int
    ) -> None:
        self._inner, self._process_group = inner, process_group
        self._first, self._batch, self._done = first, batch, 0
        self._parts = [_Remembering(part, self) for part in parts_of(inner)]

    @property
    def counted(self) -> bool:
        """Whether the criterion is one of Ultralytics' that is known."""
        return bool(self._parts)

    @property
    def number(self) -> int:
        """The batch of one process that the pictures after those that were seen are in."""
        return (self._first + self._done) // self._batch

    def __call__(
        self, preds: Any, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Returns what the criterion says of this rank's batch."""
        found = self._inner(preds, batch)
        self._done += len(batch["img"])
        return found

    def means(self, images: int) -> dict[str, float]:
        """Returns the items of all ranks' batches; the same on every rank.

        Args:
            images: pictures of the whole validation.
        """
        batches = -(-images // self._batch)
        for part in self._parts:
            part.sums = self._process_group.total(part.added_up(batches))
        items: dict[str, float] = {}
        for number in range(batches):
            for part in self._parts:
                part.said = combine(part.names, part.sums[number])
            # The criterion itself puts together what its parts say.
            _, said = self._inner({"one2many": None, "one2one": None}, {})
            for name, value in said.items():
                items[name] = items.get(name, 0.0) + float(value) / batches
        return items


class _Remembering:
    """The loss of a part of a criterion, whose sums are kept by batch of one process."""

    def __init__(self, part: v8DetectionLoss, whole: ValidationLoss) -> None:
        self._counted, self._whole = CountedLoss(part), whole
        self.names = self._counted.names
        self._seen: list[tuple[int, torch.Tensor]] = []
        self.sums = torch.zeros(())
        self.said: torch.Tensor | None = None
        part.loss = self

    def __call__(
        self, preds: Any, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if self.said is not None:
            return self.said, dict(zip(self.names, self.said, strict=True))
        loss, sums = self._counted(preds, batch)
        self._seen.append((self._whole.number, sums))
        return loss, dict(zip(self.names, sums[0] / sums[1].clamp(min=1), strict=True))

    def added_up(self, batches: int) -> torch.Tensor:
        """Returns the sums (batches, 2, items) of this rank, on the host."""
        added = torch.zeros(batches, 2, len(self.names), dtype=torch.float64)
        if self._seen:
            numbers, sums = zip(*self._seen, strict=True)
            added.index_add_(0, torch.tensor(numbers), torch.stack(sums).double().cpu())
        return added
