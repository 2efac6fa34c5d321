"""The peak of memory as a function of the batch, and the largest batch that fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

MARGIN = 0.05
"""What a prediction is trusted to at best: how freed memory falls to pieces differs by run."""


@dataclass(frozen=True)
class Reading:
    """What forward and backward of one batch took.

    Attributes:
        batch: pictures.
        tensors: bytes, at the peak, of tensors that were not there before.
        taken: bytes, at the peak, that the process or the device gave for them.
        saved: bytes that autograd kept for the backward pass: the activations.
        seconds: of forward and backward.
    """

    batch: int
    tensors: int
    taken: int
    saved: int
    seconds: float


@dataclass(frozen=True)
class PeakModel:
    """Bytes that training needs at the peak of a step.

    Attributes:
        static: what is there between steps: the process (on the CPU), weights, gradients, the
            optimiser's state, the averaged weights.
        fixed: of the passes, whatever the batch.
        per_picture: of the passes, for each picture of the batch.
        update: tensors of the optimiser's step.
        overhead: bytes given for a byte of tensors.
    """

    static: float
    fixed: float
    per_picture: float
    update: float = 0.0
    overhead: float = 1.0

    def passes(self, batch: int) -> float:
        """Bytes of tensors at the peak of forward and backward, beyond what is static."""
        return self.fixed + self.per_picture * batch

    def need(self, batch: int) -> int:
        """Bytes that training with this batch needs."""
        return round(self.static + self.overhead * max(self.passes(batch), self.update))

    def largest(self, limit: float) -> int:
        """The largest batch that needs no more than the limit (in bytes); 0 if not one picture."""
        if self.need(1) > limit:
            return 0
        room = (limit - self.static) / self.overhead - self.fixed
        batch = max(int(room / self.per_picture), 1)
        return batch if self.need(batch) <= limit else batch - 1  # `need` rounds

    def if_off_by(self, error: float) -> PeakModel:
        """The model if passes take more, by this share; what is static was read off."""
        return replace(self, overhead=self.overhead * (1 + error))

    def for_area(self, times: float) -> PeakModel:
        """The model for pictures of so many times the pixels."""
        return replace(self, per_picture=self.per_picture * times)


def fit(first: Reading, second: Reading, static: float, update: float = 0.0) -> PeakModel:
    """Fits a line through two batches of different sizes.

    Args:
        first: with the smaller batch.
        second: with the larger one.
        static: see `PeakModel`.
        update: see `PeakModel`.
    """
    per_picture = (second.tensors - first.tensors) / (second.batch - first.batch)
    fixed = first.tensors - per_picture * first.batch
    return PeakModel(static, fixed, per_picture, update, second.taken / second.tensors)


def fit_error(model: PeakModel, reading: Reading) -> float:
    """By how much the model misses what a batch took, as a share of it."""
    return abs(model.overhead * model.passes(reading.batch) / reading.taken - 1)


@dataclass(frozen=True)
class Search:
    """What bisection found.

    Attributes:
        largest: the largest batch that is known to fit; 0 if none is.
        tried: (batch, whether it fitted), in order.
        done: whether the next larger batch, to 1/64, is known not to fit.
    """

    largest: int
    tried: tuple[tuple[int, bool], ...]
    done: bool


def search_largest(
    model: PeakModel,
    limit: float,
    error: float,
    fits: Callable[[int], bool],
    in_time: Callable[[int], bool] = lambda batch: True,
) -> Search:
    """Finds the largest batch that fits, trying only near where the model expects it.

    Args:
        model: of the peak.
        limit: in bytes.
        error: of the model, as a share.
        fits: tries a batch.
        in_time: whether there is time to try a batch; where there is not, the search ends.
    """
    low = model.if_off_by(error).largest(limit)
    high = model.if_off_by(-error).largest(limit) + 1
    tried: dict[int, bool] = {}

    def known(batch: int) -> bool | None:
        if batch not in tried and in_time(batch):
            tried[batch] = fits(batch)
        return tried.get(batch)

    def ended(largest: int, done: bool) -> Search:
        return Search(largest, tuple(tried.items()), done)

    while low > 0 and (answer := known(low)) is not True:
        if answer is None:
            return ended(0, False)
        low, high = low * 3 // 4, low
    while (answer := known(high)) is not False:
        if answer is None:
            return ended(low, False)
        low, high = high, high * 5 // 4 + 1
    while high - low > max(low // 64, 1):
        middle = (low + high) // 2
        answer = known(middle)
        if answer is None:
            return ended(low, False)
        low, high = (middle, high) if answer else (low, middle)
    return ended(low, True)
