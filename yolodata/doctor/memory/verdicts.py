"""From figures to findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from yolodata.doctor.finding import Finding, Knob
from yolodata.doctor.memory.changes import Change
from yolodata.doctor.memory.limit import Limit
from yolodata.doctor.memory.loader import LoaderMemory
from yolodata.doctor.memory.peak import MARGIN, PeakModel, Search

_WORTH = 1.05  # times as fast, from which a change is told of
_SAME = 0.05  # by which the batch of an update may differ and still is the same


@dataclass(frozen=True)
class Measured:
    """What was measured, or follows from it.

    Attributes:
        batch: pictures a step.
        model: of the peak, for the size at which training goes through most memory.
        loader: bytes of the loader, where it takes them of the same memory; else 0.
        limit: what training may have.
        error: of the model, as a share.
        how: what it was fitted from and checked with, in words.
        search: what bisection found, where batches could be tried.
        arguments: batch, nbs, weight_decay and imgsz of training.
        step_ms: of a step as it is, where changes were measured.
        changes: that were tried.
    """

    batch: int
    model: PeakModel
    loader: int
    limit: Limit
    error: float
    how: str
    arguments: Mapping[str, Any]
    search: Search | None = None
    step_ms: float | None = None
    changes: Sequence[Change] = field(default_factory=tuple)

    @property
    def need(self) -> int:
        """Bytes that training needs."""
        return self.model.need(self.batch) + self.loader

    @property
    def margin(self) -> float:
        """Share by which the need may be larger than predicted."""
        return max(self.error, MARGIN)

    @property
    def largest(self) -> int:
        """The largest batch that is sure to fit."""
        if self.search is not None and self.search.done:
            return self.search.largest
        room = self.limit.bytes / (1 + self.margin) - self.loader
        return self.model.largest(room)


def judge(m: Measured) -> list[Finding]:
    """Returns the findings, in any order."""
    return [*_fit(m), *_faster(m)]


def judge_host(loader: LoaderMemory, own: int, limit: Limit, batch: int) -> list[Finding]:
    """Judges the host's memory where a GPU trains.

    Args:
        loader: what it takes.
        own: bytes of this process without it.
        limit: of the host.
        batch: pictures a step.
    """
    need = own + loader.bytes
    if need <= limit.bytes:
        return []
    evidence = (
        f"The process needs {_size(own)}, the loader {_size(loader.bytes)} in "
        f"{loader.processes} processes for batches of {batch}: {_size(loader.seen)} were seen, "
        f"{_size(loader.to_come)} are pictures that it will keep for mosaics. "
        f"{_sentence(limit)}."
    )
    each = loader.bytes / max(loader.processes, 1)
    workers = max(int((limit.bytes - own) / each), 0)
    knob = Knob(f"Set workers={workers}.", {"workers": workers})
    if not loader.processes or not workers:
        knob = Knob(f"Set batch={max(batch // 2, 1)}.", {"batch": max(batch // 2, 1)})
    return [
        Finding(
            "out_of_memory", "breaks", "The loader does not fit into the host's memory.",
            evidence, knob, fake=limit.fake,
        )
    ]  # fmt: skip


def accumulated(batch: int, nbs: int, most: int) -> tuple[int, int]:
    """Returns a batch that fits, and how many of them make the update of the batch that does not.

    Args:
        batch: the one that does not fit.
        nbs: pictures an update, as Ultralytics accumulates them; at least `batch`.
        most: the largest batch that fits; at least 1.
    """
    wanted = batch * max(round(nbs / batch), 1)
    for smaller in range(most, 1, -1):
        times = max(round(nbs / smaller), 1)
        if abs(smaller * times - wanted) <= _SAME * wanted:
            return smaller, times
    return 1, wanted


def _fit(m: Measured) -> list[Finding]:
    fits = m.need <= m.limit.bytes
    if m.search is not None and m.search.done:  # it was tried
        fits = m.batch <= m.search.largest
        if fits:
            return []
    if fits and m.need * (1 + m.margin) <= m.limit.bytes:
        return []
    evidence = (
        f"A step needs {_size(m.need)} for {m.batch} pictures: {_size(m.model.static)} always, "
        f"{_size(m.model.overhead * m.model.per_picture)} for each picture"
        f"{f', {_size(m.loader)} for the loader' if m.loader else ''}. "
        f"{_sentence(m.limit)}. {m.how} "
        f"The largest batch that fits is {m.largest}"
        f"{_tried(m.search) if m.search else ', by calculation'}."
    )
    title = f"A batch of {m.batch} does not fit into memory."
    if fits:
        title = f"A batch of {m.batch} leaves less than {m.margin:.0%} of memory free."
    return [
        Finding(
            "out_of_memory",
            "risk" if fits else "breaks",
            title,
            evidence,
            _smaller(m),
            measured=m.search is not None and m.search.done,
            fake=m.limit.fake,
        )
    ]


def _tried(search: Search) -> str:
    words = ", ".join(f"{batch} {'fitted' if ok else 'did not'}" for batch, ok in search.tried)
    return f" ({words})" if words else ", by calculation"


def _smaller(m: Measured) -> Knob:
    if m.largest < 1:
        side = max(int(m.arguments["imgsz"]) // 2 // 32 * 32, 32)
        return Knob(
            f"Not one picture fits: take a smaller model, or set imgsz={side}.", {"imgsz": side}
        )
    nbs = int(m.arguments["nbs"])
    settings: dict[str, Any] = {}
    if m.batch > nbs:
        # Ultralytics scales weight decay with the pictures of an update in units of nbs.
        decay = float(m.arguments["weight_decay"]) * m.batch / nbs
        settings = {"nbs": m.batch, "weight_decay": decay}
        nbs = m.batch
    batch, times = accumulated(m.batch, nbs, min(m.largest, m.batch))
    return Knob(
        f"Set batch={batch}. Gradients of {times} batches are added up, so that an update still "
        f"sees about {m.batch * max(round(nbs / m.batch), 1)} pictures.",
        {"batch": batch, **settings},
    )


_TITLES = {
    "amp": "Another precision is faster.",
    "channels_last": "Another memory order of the network is faster.",
    "compile": "Compiling the network makes steps faster.",
    "batch": "A larger batch trains more pictures a second.",
}


def _faster(m: Measured) -> list[Finding]:
    """The best of each kind of change that every round found to be faster."""
    best: dict[str, Change] = {}
    for change in m.changes:
        known = best.get(change.name)
        worth = change.gain >= _WORTH and change.least_gain > 1
        if change.name in _TITLES and worth and (known is None or change.gain > known.gain):
            best[change.name] = change
    return [_opportunity(m, change) for change in best.values()]


def _opportunity(m: Measured, change: Change) -> Finding:
    words = " and ".join(f"{name}={value}" for name, value in change.settings.items())
    evidence = (
        f"With {words}, {change.batch} pictures took {change.ms:.1f} ms; in turns with the set-up "
        f"as it is, pictures a second were {change.gain:.2f} times as many (at least "
        f"{change.least_gain:.2f}). Tensors took {_size(change.peak_bytes)} at the peak."
    )
    if change.once_s and change.name == "compile":
        evidence += f" Compiling took {change.once_s:.0f} s, once a run."
    lost = m.step_ms * (1 - 1 / change.gain) if m.step_ms else None
    return Finding(
        change.name, "opportunity", _TITLES[change.name], evidence,
        Knob(f"Set {words}.", dict(change.settings)), lost, m.step_ms, change.gain,
        measured=True, fake=m.limit.fake,
    )  # fmt: skip


def _sentence(limit: Limit) -> str:
    return f"{limit.what[0].upper()}{limit.what[1:]} {_size(limit.bytes)}"


def _size(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
