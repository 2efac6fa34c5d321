"""The section: measures a few small batches, predicts the peak of the real one, and judges."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

import torch

from yolodata.doctor.data import described
from yolodata.doctor.examination import Examination, Outcome
from yolodata.doctor.finding import Finding
from yolodata.doctor.memory import changes
from yolodata.doctor.memory.batches import Batches
from yolodata.doctor.memory.changes import Change
from yolodata.doctor.memory.devices import CpuDevice, CudaDevice, Device, OutOfMemory, go_through
from yolodata.doctor.memory.limit import Limit, host_limit
from yolodata.doctor.memory.loader import LoaderMemory, loader_memory
from yolodata.doctor.memory.peak import Reading, Search, fit, fit_error, search_largest
from yolodata.doctor.memory.process import anonymous_bytes
from yolodata.doctor.memory.tensors import held_bytes
from yolodata.doctor.memory.verdicts import Measured, judge, judge_host
from yolodata.doctor.setup import Setup
from yolodata.doctor.step import ModelStep
from yolodata.errors import YolodataError
from yolodata.train.forward import largest_side

_PASSES = 14  # pictures' worth of passes in three batches of 1, 2 and 4, each gone through twice
_SERIES = 0.4  # share of the seconds that are left, for these
_LOADER = 0.4  # share of what is left then
_LARGEST = 16  # pictures of the smallest of the three
_FILLED = 0.5  # of what the limit leaves, by the largest of the three
_TELLING = 128 << 20  # bytes: in less, what the heap adds is chance


def examine(examination: Examination) -> Outcome:
    """Measures what training takes of memory, and finds the largest batch that fits.

    Raises:
        ConfigError: the data, the model or an argument cannot be used.
    """
    setup = examination.setup
    if setup.step_ms is not None:
        return Outcome(not_done=["a wait stands for the step; there is no model to measure"])
    examination.say("building the model")
    data = described(setup)
    step = ModelStep(_plain(setup))
    try:
        device = device_of(step.device, examination.probes)
    except OSError as error:
        return Outcome(not_done=[f"this system does not say what a process takes: {error}"])
    if device is None:
        return Outcome(not_done=[f"no way to measure memory of {step.device.type}"])
    return Section(examination, data, step, device).outcome()


def _plain(setup: Setup) -> Setup:
    """The set-up with batches of one size, of which the largest is calculated, and not compiled.

    Compiled again for each size, it would take minutes, and nothing could be counted in it.
    """
    return replace(setup, arguments={**setup.arguments, "multi_scale": 0.0, "compile": False})


def device_of(device: torch.device, probes: Mapping[str, Any]) -> Device | None:
    """Returns what measures a device; None for kinds that nothing here measures.

    Raises:
        OSError: this system does not say what a process takes.
    """
    if device.type == "cuda":
        return CudaDevice(device, probes)
    return CpuDevice(probes) if device.type == "cpu" else None


class Section:
    """One run of the section.

    Args:
        examination: whose section it is.
        data: what `check_det_dataset` returned.
        step: of the set-up.
        device: that trains.
    """

    def __init__(
        self, examination: Examination, data: Mapping[str, Any], step: ModelStep, device: Device
    ) -> None:
        self._examination, self._data = examination, data
        self._setup: Setup = examination.setup
        self._step, self._device = step, device
        self._batches = Batches(self._setup, data)
        self._not_done: list[str] = []
        if self._setup.train.compile:
            self._not_done.append("compile=True was left out; all was measured without it")
        # Of one picture, for each of its pixels.
        self._seconds = 0.0  # two passes
        self._tensors = 0.0  # bytes

    def outcome(self) -> Outcome:
        """Measures and judges."""
        device, setup = self._device, self._setup
        self._examination.say("batches of few pictures")
        limit = device.limit()
        side = self._warm_up(limit)
        static = device.static()
        held = held_bytes(self._step.trainer)
        sizes = self._sizes(side, static, limit)
        if sizes is None:
            return self._nothing_fits(limit, static, held)
        readings = [device.passes(self._step, self._batches(size, side)) for size in sizes]
        seconds = readings[-1].seconds / readings[-1].batch
        first, second, third = readings
        ranks = setup.batch_of_all // setup.batch
        if ranks > 1:  # gradients travel in buckets of their own
            static += held["gradients"]
        model = fit(first, second, static, device.update(self._step))
        error = fit_error(model, third)
        model = replace(model, overhead=third.taken / third.tensors)  # the larger, the less chance
        largest = largest_side(
            self._batches.side, setup.train.multi_scale, self._step.trainer.stride
        )
        model = model.for_area((largest / side) ** 2)
        seconds *= (largest / side) ** 2
        how = self._how(sizes, side, largest, error)

        loader = self._loader()
        on_host = device.name == "cpu"
        takes = loader.bytes if loader and on_host else 0
        search = None
        if device.can_try:
            self._examination.say("the largest batch")
            search = self._search(model, limit, error, seconds, largest)
        measured = Measured(
            setup.batch, model, takes, limit, error, how,
            {name: getattr(setup.train, name) for name in ("nbs", "weight_decay", "imgsz")},
            search, ranks=ranks,
        )  # fmt: skip
        with self._device.capped() if self._device.can_try else nullcontext():
            step_ms, tried = self._changes(measured)
        measured = replace(measured, step_ms=step_ms, changes=tried)
        saved = (third.saved - first.saved) / (third.batch - first.batch)
        activations = saved * (largest / side) ** 2 * setup.batch
        parts = {**held, "activations": round(activations)}
        parts |= {"temporary": max(round(model.passes(setup.batch)) - round(activations), 0)}
        parts |= self._process(parts, measured)
        return Outcome(
            self._report(measured, parts, readings, side, loader),
            [*judge(measured), *self._host_findings(loader)],
            self._not_done,
            limit.fake,
        )

    def _warm_up(self, limit: Limit) -> int:
        """Makes a whole step, so that the optimiser has its state and weights have gradients.

        Returns:
            the side of the pictures to measure with: the set-up's, or a half or a quarter of it
            where that takes too long or too much.
        """
        side = min(max(self._batches.side // 4 // 32 * 32, 64), self._batches.side)
        batch = self._batches(2, side)
        go_through(self._step, batch)
        self._step.trainer.optimizer_step()
        reading = self._device.passes(self._step, batch)
        begun = time.perf_counter()
        self._device.passes(self._step, batch)
        pixels = 2 * side**2
        self._seconds = (time.perf_counter() - begun) / pixels
        self._tensors = reading.tensors / pixels
        room = _FILLED * max(limit.bytes - self._device.static(), 0)
        for part in (1, 2):
            wanted = self._batches.side // part // 32 * 32
            if wanted > side and self._in_time(wanted, 1) and self._taken(wanted, 1) <= room:
                return wanted
        return side

    def _sizes(self, side: int, static: int, limit: Limit) -> tuple[int, int, int] | None:
        """Three batches, each twice the one before, as large as time and memory allow.

        They may take more time where smaller ones would say nothing.
        """
        room = _FILLED * (limit.bytes - static)
        # Of one picture of 32 pixels, batch norm would see one value.
        chosen, size = None, 1 if side >= 64 else 2
        while size <= _LARGEST and self._taken(side, size) <= room:
            telling = chosen is not None and self._taken(side, chosen[0]) >= _TELLING
            if telling and not self._in_time(side, size):
                break
            chosen, size = (size, 2 * size, 4 * size), 2 * size
        return chosen

    def _taken(self, side: int, size: int) -> float:
        """Bytes of tensors that the largest batch of a series takes."""
        return self._tensors * side**2 * 4 * size

    def _in_time(self, side: int, size: int) -> bool:
        seconds = self._seconds * side**2 * _PASSES / 2 * size
        return seconds <= _SERIES * self._examination.left

    def _how(self, sizes: tuple[int, int, int], side: int, largest: int, error: float) -> str:
        objects = self._batches.objects
        words = (
            f"That follows from batches of {sizes[0]} and {sizes[1]} pictures of {side} pixels "
            f"with {objects} objects each, and was {error:.1%} off at {sizes[2]}"
        )
        return f"{words}; scaled to {largest} pixels by area." if side != largest else f"{words}."

    def _search(
        self, model: Any, limit: Limit, error: float, seconds: float, side: int
    ) -> Search | None:
        def fits(batch: int) -> bool:
            try:
                self._device.passes(self._step, self._batches(batch, side))
            except OutOfMemory:
                return False
            return True

        def in_time(batch: int) -> bool:
            return 3 * batch * seconds < self._examination.left / 2

        with self._device.capped():
            search = search_largest(model, limit.bytes, max(error, 0.02), fits, in_time)
        if not search.done:
            self._not_done.append("the largest batch is calculated; there was no time to try it")
        return search

    def _loader(self) -> LoaderMemory | None:
        self._examination.say("the loader")
        try:
            seconds = _LOADER * self._examination.left
            return loader_memory(self._setup, self._data, self._step, seconds)
        except (YolodataError, OSError) as error:
            self._not_done.append(f"what the loader takes was not measured: {error}")
            return None

    def _host_findings(self, loader: LoaderMemory | None) -> list[Finding]:
        """Judges the loader by itself where a GPU trains."""
        if loader is None or self._device.name == "cpu":
            return []
        own = anonymous_bytes()
        return judge_host(loader, own, host_limit(self._examination.probes), self._setup.batch)

    def _changes(self, measured: Measured) -> tuple[float | None, list[Change]]:
        """Tries what else could be set, where the device has it."""
        if self._device.name == "cpu":
            self._not_done.append(
                "amp and channels_last were not tried; Ultralytics trains in single "
                "precision and in the order (N, C, H, W) on a CPU"
            )
            return None, []
        self._examination.say("precision, memory order, compiling")
        images = min(measured.batch, measured.largest)
        if images < 1:
            return None, []
        step, batch, found = self._step, self._batches(images), []
        step(batch)
        begun = time.perf_counter()
        step(batch)
        ms = 1e3 * (time.perf_counter() - begun)
        tries = [(name, *what) for name, what in changes.candidates(step).items()]
        if self._setup.train.compile:
            tries = [one for one in tries if one[1] != "compile"]
        tries += [
            (f"batch={size}", cause, {"batch": size})
            for cause, size in (("batch", 2 * images), ("accumulation", images // 2))
            if 1 <= size <= measured.largest
        ]
        for text, cause, settings in tries:
            # Two steps in turns, of which one may take longer, and what comes before them.
            needed = changes.COMPILING if cause == "compile" else 40 * ms / 1e3
            if self._examination.left < needed:
                self._not_done.append(f"{text} was not tried; there was no time")
                continue
            self._examination.say(f"{text}")
            try:
                if "batch" in settings:
                    other = self._batches(settings["batch"])
                    change = changes.try_batch(cause, step, self._device, batch, other)
                else:
                    change = changes.try_settings(
                        cause, settings, _plain(self._setup), step, self._device, batch
                    )
            except changes.UNUSABLE as error:
                why = str(error).splitlines()[0] if str(error) else "it does not fit"
                self._not_done.append(f"{text} was not tried: {why}")
                continue
            found.append(change)
        return ms, found

    def _process(self, parts: Mapping[str, int], measured: Measured) -> dict[str, int]:
        """The parts that no tensor of training is, of the CPU's memory."""
        if self._device.name != "cpu":
            return {}
        rest = measured.need - sum(parts.values()) - measured.loader
        passes = max(measured.model.passes(measured.batch), measured.model.update)
        heap = round((measured.model.overhead - 1) * passes)
        return {"loader": measured.loader, "heap": heap, "process": rest - heap}

    def _nothing_fits(self, limit: Limit, static: int, held: Mapping[str, int]) -> Outcome:
        self._not_done.append(
            f"{limit.what} {limit.bytes / 2**20:.0f} MiB, {static / 2**20:.0f} MiB are "
            "taken before the first batch; batches were not tried in what is left"
        )
        return Outcome(
            {"limit_bytes": limit.bytes, "static_bytes": static, "parts_bytes": dict(held)},
            [], self._not_done, limit.fake,
        )  # fmt: skip

    def _report(
        self,
        measured: Measured,
        parts: Mapping[str, int],
        readings: list[Reading],
        side: int,
        loader: LoaderMemory | None,
    ) -> dict[str, Any]:
        return {
            "device": self._device.name,
            "batch": measured.batch,
            "imgsz": self._setup.imgsz,
            "need_bytes": measured.need,
            "limit_bytes": measured.limit.bytes,
            "limit": measured.limit.what,
            "parts_bytes": dict(parts),
            "largest_batch": measured.largest,
            "largest_batch_tried": bool(measured.search and measured.search.done),
            "tried": dict(measured.search.tried) if measured.search else {},
            "model": asdict(measured.model),
            "model_error": measured.error,
            "objects_per_picture": self._batches.objects,
            "readings": [{**asdict(one), "side": side} for one in readings],
            "loader": asdict(loader) | {"bytes": loader.bytes} if loader else None,
            "changes": [asdict(change) for change in measured.changes],
        }
