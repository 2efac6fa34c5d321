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
_LARGE = 0.9  # of the largest batch that would do: one that does it better is taken
_ROOM = 0.8  # of the largest batch that fits: below, a smaller one is not worth its plain settings
_SAME = 0.05  # by which the batch of an update may differ and still is the same


@dataclass(frozen=True)
class Measured:
    """What was measured, or follows from it.

    Attributes:
        batch: pictures a step, of this process.
        model: of the peak, for the size at which training goes through most memory.
        loader: bytes of the loader, where it takes them of the same memory; else 0.
        limit: what training may have.
        error: of the model, as a share.
        how: what it was fitted from and checked with, in words.
        search: what bisection found, where batches could be tried.
        arguments: batch, nbs, weight_decay and imgsz of training.
        step_ms: of a step as it is, where changes were measured.
        changes: that were tried.
        ranks: processes that train together.
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
    ranks: int = 1

    @property
    def need(self) -> int:
        """Bytes that training needs."""
        return self.model.need(self.batch) + self.loader

    @property
    def margin(self) -> float:
        """Share by which the passes may take more than predicted."""
        return max(self.error, MARGIN)

    @property
    def largest(self) -> int:
        """The largest batch that is sure to fit."""
        if self.search is not None and self.search.done:
            return self.search.largest
        return self._surely.largest(self.limit.bytes - self.loader)

    @property
    def sure(self) -> bool:
        """Whether the batch fits even if it takes as much more as the margin says."""
        return self._surely.need(self.batch) + self.loader <= self.limit.bytes

    @property
    def _surely(self) -> PeakModel:
        return self.model.if_off_by(self.margin)


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


def accumulated(wanted: int, nbs: int, most: int, ranks: int = 1) -> int | None:
    """Returns the batch that fits and of which Ultralytics adds up the gradients of `wanted`.

    Args:
        wanted: pictures of an update.
        nbs: Ultralytics' argument: it adds up round(nbs / batch) batches, at least one.
        most: the largest batch of a process that fits.
        ranks: processes; Ultralytics' batch is that of all.

    Returns:
        of the largest ones one that comes closest; None where none comes within 5 %.
    """
    missed = {
        batch: abs(batch * max(round(nbs / batch), 1) - wanted)
        for batch in range(ranks, ranks * most + 1, ranks)
    }
    close = [batch for batch in missed if missed[batch] <= _SAME * wanted]
    large = [batch for batch in close if batch >= _LARGE * close[-1]]
    return min(large, key=lambda batch: (missed[batch], -batch), default=None)


def _fit(m: Measured) -> list[Finding]:
    fits = m.need <= m.limit.bytes
    if m.search is not None and m.search.done:  # it was tried
        fits = m.batch <= m.search.largest
        if fits:
            return []
    if fits and m.sure:
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
        title = f"A batch of {m.batch} hardly fits into memory."
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
    nbs, most, ranks = int(m.arguments["nbs"]), min(m.largest, m.batch), m.ranks
    wanted = ranks * m.batch * max(round(nbs / (ranks * m.batch)), 1)
    settings: dict[str, Any] = {}
    batch = accumulated(wanted, nbs, most, ranks) or 0
    if batch < _ROOM * ranks * most:
        larger = accumulated(wanted, wanted, most, ranks) or ranks
        if larger > batch:
            # Weight decay is scaled with the pictures of an update in units of nbs.
            decay = float(m.arguments["weight_decay"]) * wanted / nbs
            settings = {"nbs": wanted, "weight_decay": decay}
            nbs, batch = wanted, larger
    times = max(round(nbs / batch), 1)
    words = ", ".join(f"{name}={value:g}" for name, value in {"batch": batch, **settings}.items())
    return Knob(
        f"Set {words}. Gradients of {times} batches are added up: an update sees {batch * times} "
        f"pictures, and did {wanted}.",
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
    settings = dict(change.settings)
    if change.name == "batch":  # Ultralytics' is that of all processes
        settings["batch"] = change.batch * m.ranks
    words = " and ".join(f"{name}={value}" for name, value in settings.items())
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
        Knob(f"Set {words}.", settings), lost, m.step_ms, change.gain,
        measured=True, fake=m.limit.fake,
    )  # fmt: skip


def _sentence(limit: Limit) -> str:
    return f"{limit.what[0].upper()}{limit.what[1:]} {_size(limit.bytes)}"


def _size(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
