"""Data: what storage, decoding, augmentation and their settings cost a training step."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from yolodata.doctor.data.experiments import Change, ExaminedLoader, Experiments, parts_ms
from yolodata.doctor.data.judgement import Measured, judge
from yolodata.doctor.data.loaders import FileLoader, ShardLoader
from yolodata.doctor.examination import Examination, Outcome
from yolodata.doctor.setup import Setup
from yolodata.doctor.step import ModelStep, Step, WaitingStep
from yolodata.ultralytics.auto_pack import describe_shards
from yolodata.ultralytics.command_line import refusals_as_errors

_COPY = 0.10  # share of the seconds for copying a sample


def examine(examination: Examination) -> Outcome:
    """Measures the step with its loader, and with one thing changed at a time.

    Raises:
        ConfigError: the data, the model or an argument cannot be used.
        DatasetError: the dataset cannot be read.
    """
    setup = examination.setup
    examination.say("reading a sample")
    data = described(setup)
    step: Step = ModelStep(setup) if setup.step_ms is None else WaitingStep(setup.step_ms)
    task = step.trainer.args.task if isinstance(step, ModelStep) else task_of(setup)
    with tempfile.TemporaryDirectory(prefix="yolodata-doctor-") as folder:
        loader: ExaminedLoader
        if setup.of_shards:
            loader = ShardLoader(setup, data, task, step, Path(folder))
        else:
            seconds = _COPY * examination.left
            loader = FileLoader(setup, data, task, step, Path(folder), seconds)
        batch: Mapping[str, Any] = {}
        if isinstance(step, ModelStep):
            with loader.opened(Change(workers=0)) as feed:
                batch = _kept(next(feed.batches))
        experiments = Experiments(examination, loader, step, batch)
        measured = experiments.run()
    notes = list(experiments.not_done)
    if setup.train.rect:
        notes.append("rect=True was left out; pictures were made as without it")
    return Outcome(_report(measured), judge(measured), notes)


def described(setup: Setup) -> dict[str, Any]:
    """What `check_det_dataset` returns for the data.

    Raises:
        ConfigError: Ultralytics refuses it.
    """
    if setup.of_shards:
        return describe_shards(setup.data, ("train",))
    from ultralytics.data.utils import check_det_dataset

    with refusals_as_errors():
        found: dict[str, Any] = check_det_dataset(setup.data, autodownload=False)
    return found


def task_of(setup: Setup) -> str:
    """The task of the model that would train, by its file; detect where that does not tell."""
    from ultralytics.nn.tasks import guess_model_task

    from yolodata.doctor.step import quiet

    with quiet():
        return str(guess_model_task(str(setup.train.model)))


def _kept(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch whose memory no loader uses again."""
    return {
        name: value.clone() if hasattr(value, "clone") else value for name, value in batch.items()
    }


def _report(measured: Measured) -> dict[str, Any]:
    """Plain values for JSON and the page."""
    paces = {"constant_batch": measured.own, "as_is_cold": measured.cold, "as_is": measured.warm}
    paces |= measured.changed
    known = {name: pace for name, pace in paces.items() if pace is not None}
    looks = measured.looks
    now = measured.now
    return {
        "loader": measured.loader,
        "batch": measured.batch,
        "imgsz": measured.imgsz,
        "workers": measured.workers,
        "cores": measured.cores,
        "quota_cores": measured.quota,
        "other_processes_cores": measured.others,
        "step_ms": {name: pace.step_ms for name, pace in known.items()},
        "cpu_ms": {name: pace.cpu_ms for name, pace in known.items()},
        "batches": {name: pace.batches for name, pace in known.items()},
        "throughput_images_s": {
            name: 1e3 * measured.batch / pace.step_ms for name, pace in known.items()
        },
        "loader_alone_images_s": {
            name: 1e3 * measured.batch / pace.alone_ms
            for name, pace in known.items()
            if pace.alone_ms
        },
        "step_parts_ms": parts_ms(measured),
        "ceilings_images_s": _ceilings(measured),
        "waiting_share": now.waiting if now else 0.0,
        "jitter": now.jitter if now else 0.0,
        "read_ms": measured.read_ms,
        "image_bytes": measured.image_bytes,
        "fits_in_memory": measured.fits,
        "looks": asdict(looks) if looks else None,
        "timeline": _timeline(measured),
    }


def _ceilings(measured: Measured) -> dict[str, float]:
    """Images a second that single parts allow, whatever the others do."""
    found = {"model": 1e3 * measured.batch / measured.own.own_ms}
    if measured.read_ms:
        found["storage, one read at a time"] = 1e3 / measured.read_ms
    warm, decoded = measured.warm, measured.changed.get("decoded")
    if warm is not None and decoded is not None:
        decoding = (warm.cpu_ms - decoded.cpu_ms) / measured.batch
        if decoding > 0.05:  # below it is the noise of both
            found["decoding, all cores"] = 1e3 * measured.cores / decoding
    if measured.copy_ms:
        found["copy to the device"] = 1e3 * measured.batch / measured.copy_ms
    return found


def _timeline(measured: Measured) -> dict[str, list[float]]:
    """The first steps of an epoch whose files are not in memory."""
    pace = measured.cold or measured.warm
    if pace is None:
        return {}
    seconds, at = [], 0.0
    for step in pace.each_ms:
        at += step / 1e3
        seconds.append(at)
    waits = [max(0.0, step - pace.own_ms) for step in pace.each_ms]
    return {"seconds": seconds, "step_ms": list(pace.each_ms), "wait_ms": waits}
