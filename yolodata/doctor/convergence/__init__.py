"""Why training learns badly: the dataset, the settings, and what a few steps show."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from yolodata.doctor.convergence.copies import find_copies, judge_copies
from yolodata.doctor.convergence.label_findings import SMALL, judge_labels
from yolodata.doctor.convergence.labels import Dataset, read_files, read_shards
from yolodata.doctor.convergence.schedule import (
    Schedule,
    devices,
    judge_schedule,
    schedule_of,
)
from yolodata.doctor.examination import Examination, Outcome
from yolodata.doctor.finding import Finding
from yolodata.doctor.setup import Setup
from yolodata.errors import YolodataError
from yolodata.ultralytics.fallback import TRAINERS

LEAST_SECONDS = 20.0
"""For a trial, where the section has less; of yolo26n it takes four on two cores."""
_EDGES = (0, 1, 2, SMALL, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


def examine(examination: Examination) -> Outcome:
    """Examines labels, images that are there twice, settings, and learning rate.

    Raises:
        ConfigError: the data, the model or an argument cannot be used.
        DatasetError: the train split cannot be used.
        ShardError: likewise, of shards.
    """
    setup = examination.setup
    args = setup.train
    task = _task(setup)
    if task not in TRAINERS:
        return Outcome(
            not_done=[f"convergence: task={task} is not examined; {', '.join(TRAINERS)} are"]
        )
    examination.say("labels")
    dataset = _read(examination, task)
    train = dataset.splits["train"]
    by_class = not args.single_cls and args.classes is None
    findings = list(judge_labels(dataset, setup.imgsz, by_class))

    examination.say("images that are there twice")
    copies = find_copies(dataset, examination.left / 3)
    findings += judge_copies(copies)
    not_done = list(dataset.not_done)
    if not copies.complete:
        every = sum(copies.images.values())
        not_done.append(
            f"equal images: {copies.compared:,} of {every:,} were compared; give more seconds"
        )

    ranks = _ranks(args.device)
    schedule = schedule_of(setup, train.total, len(dataset.names), ranks)
    findings += judge_schedule(setup, schedule)
    measured: dict[str, Any] = {
        **_facts(dataset, setup.imgsz),
        "overlap": len(copies.overlap),
        "duplicates": len(copies.repeated),
        "schedule": schedule.as_dict(),
    }
    found, trials, reasons = _trials(examination, dataset, schedule)
    return Outcome({**measured, **trials}, [*findings, *found], [*not_done, *reasons])


def _task(setup: Setup) -> str:
    """The task of the model, or what `task=` says where no model is trained."""
    if setup.step_ms is not None:
        return str(setup.arguments.get("task") or "detect")
    from yolodata.ultralytics.command_line import open_model

    return str(open_model(setup.train.model).task)


def _read(examination: Examination, task: str) -> Dataset:
    setup = examination.setup
    val = str(setup.train.split or "val")
    if setup.of_shards:
        return read_shards(setup.data, val)
    return read_files(
        setup.data, task, bool(setup.train.single_cls), setup.seed, examination.left / 3, val
    )


def _ranks(device: Any) -> int:
    """Processes of the run."""
    return max(int(os.environ.get("WORLD_SIZE", 1)), len(devices(device)))


def _facts(dataset: Dataset, imgsz: int) -> dict[str, Any]:
    """Figures of each split, for JSON, and the histogram of the train boxes' shorter sides."""
    labels = {
        split: {
            "images": one.total,
            "read": one.read,
            "left_out": len(one.refused),
            "without_objects": int((one.objects == 0).sum()),
            "objects": len(one.cls),
            "by_class": {
                dataset.names[c]: int(n) for c, n in enumerate(one.counts(len(dataset.names)))
            },
        }
        for split, one in dataset.splits.items()
    }
    edges = [edge for edge in _EDGES if edge < imgsz] + [imgsz]
    sides = dataset.splits["train"].sides(imgsz)
    counts = np.histogram(np.minimum(sides, imgsz), edges)[0].tolist()
    return {"labels": labels, "box_sizes_px": {"edges": edges, "counts": counts}}


def _trials(
    examination: Examination, dataset: Dataset, schedule: Schedule
) -> tuple[list[Finding], Mapping[str, Any], list[str]]:
    """Findings, figures and what was not done of trials."""
    setup = examination.setup
    if setup.step_ms is not None:
        return [], {}, ["learning rate: there is no model to train (--step)"]
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        return (
            [],
            {},
            ["learning rate: tried in one process alone; run the doctor without torchrun"],
        )
    if not dataset.splits["train"].objects.any():
        return [], {}, ["learning rate: no train image that was read has an object"]
    from yolodata.doctor.convergence.trials import (
        Bench,
        half_precision,
        judge_half,
        judge_trials,
        search,
    )

    examination.say("learning rate")
    seconds = max(LEAST_SECONDS, examination.left)
    try:
        bench = Bench(setup, schedule, dataset)
    except YolodataError as error:
        return [], {}, [f"learning rate: {error}"]
    trials = search(bench, schedule, seconds)
    if not trials:
        return (
            [],
            {},
            [f"learning rate: a trial takes more than {seconds:.0f} s here; give more seconds"],
        )
    findings = list(judge_trials(schedule, trials))
    measured = {"trials": [trial.as_dict() for trial in trials]}
    if bench.device.type != "cuda" or not setup.train.amp or setup.train.amp == "bf16":
        return findings, measured, []  # there is none
    half = half_precision(Bench(setup, schedule, dataset, half=True), trials[-1], seconds)
    if half is None:
        return findings, measured, ["half precision: there was no time; give more seconds"]
    measured["half_precision"] = [half.as_dict()]
    return [*findings, *judge_half(trials[-1], half)], measured, []
