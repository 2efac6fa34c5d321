"""What upstream makes of the settings: updates, warm-up, optimizer; and what is wrong with them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from yolodata.doctor.finding import Finding, Knob
from yolodata.doctor.setup import Setup

OPTIMIZERS = ("Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSprop", "SGD", "MuSGD")
MANY_UPDATES = 10_000
"""Updates of a run from which upstream's `optimizer=auto` takes MuSGD in place of AdamW."""
FEW_FOR_NORM = 4
"""Pictures of one process from which batch norm's statistics serve."""
MOSTLY = 0.5
"""Share of a run that its warm-up may take."""
LARGE = 2.0
"""Times `nbs` from which the batch of an update may have a larger rate."""


@dataclass(frozen=True)
class Schedule:
    """A run, as upstream would schedule it.

    Attributes:
        optimizer: its name; what "auto" means here.
        lr: its learning rate after warm-up.
        auto: whether upstream chooses both.
        batch: pictures of a step, of all processes.
        ranks: processes.
        batches: steps an epoch.
        epochs: of the run.
        accumulate: steps an update, after warm-up.
        nominal: nbs, the batch for which rates are meant.
        warmup_steps: steps in which the rate rises; 0 is none.
        warmup_updates: updates among them.
        bias_lr: with which the rate of biases begins in warm-up.
    """

    optimizer: str
    lr: float
    auto: bool
    batch: int
    ranks: int
    batches: int
    epochs: int
    accumulate: int
    nominal: int
    warmup_steps: int
    warmup_updates: int
    bias_lr: float

    @property
    def update(self) -> int:
        """Pictures of an update after warm-up."""
        return self.batch * self.accumulate

    def as_dict(self) -> dict[str, Any]:
        """Returns the values for JSON, and the rates for another batch."""
        times = self.update / self.nominal
        scaled = {"lr_linear": self.lr * times, "lr_root": self.lr * times**0.5}
        return {**asdict(self), "update": self.update, **scaled}


def schedule_of(setup: Setup, images: int, classes: int, ranks: int) -> Schedule:
    """Works out the schedule of a run.

    Args:
        setup: its arguments.
        images: of the train split.
        classes: names of the dataset.
        ranks: processes that train.
    """
    args = setup.train
    images = max(1, _taken(args.fraction, images))
    batch = setup.batch_of_all
    epochs, nominal = max(1, int(args.epochs)), max(1, int(args.nbs))
    batches = math.ceil(images / batch)
    accumulate = min(max(round(nominal / batch), 1), batches * epochs)
    updates = math.ceil(images / max(batch, nominal)) * epochs
    warmup = round(min(args.warmup_epochs, epochs - 1) * batches)
    auto = str(args.optimizer).lower() == "auto"
    if auto:
        fitted = round(0.002 * 5 / (4 + classes), 6)
        name, lr = ("MuSGD", 0.01) if updates > MANY_UPDATES else ("AdamW", fitted)
    else:
        known = {name.lower(): name for name in OPTIMIZERS}
        name, lr = known.get(str(args.optimizer).lower(), str(args.optimizer)), float(args.lr0)
    return Schedule(
        name, lr, auto, batch, ranks, batches, epochs, accumulate, nominal, max(0, warmup),
        _updates(warmup, accumulate), 0.0 if auto else float(args.warmup_bias_lr),
    )  # fmt: skip


def devices(given: Any) -> list[str]:
    """Numbers of the GPUs that `device=` names, in any form that upstream takes."""
    return re.findall(r"\d+", str("" if given is None else given))


def _taken(fraction: Any, images: int) -> int:
    """Images that `fraction` leaves: a share, or how many."""
    share = fraction[0] if isinstance(fraction, (list, tuple)) else fraction
    return min(images, int(share)) if share > 1 else round(images * share)


def _updates(warmup: int, accumulate: int) -> int:
    """Updates in so many steps while the steps an update rise from 1 to `accumulate`."""
    if warmup <= 0:
        return 0
    # The integral of 1 / (1 + (accumulate - 1) t / warmup).
    rise = accumulate - 1
    return round(warmup * (math.log(accumulate) / rise if rise else 1.0))


def judge_schedule(setup: Setup, schedule: Schedule) -> Iterator[Finding]:
    """Gives what is wrong with settings by what upstream does with them; nothing is measured."""
    args = setup.train
    if schedule.auto and float(setup.arguments.get("lr0", 0.01)) != 0.01:
        yield Finding(
            "learning_rate",
            "risk",
            f"lr0={args.lr0:g} has no effect: optimizer=auto chooses the rate itself.",
            f"With {schedule.batches:,} steps an epoch and {schedule.epochs} epochs it takes "
            f"{schedule.optimizer} with {schedule.lr:g}.",
            Knob(
                f"Name the optimizer: optimizer={schedule.optimizer}.",
                {"optimizer": schedule.optimizer},
            ),
        )
    steps = schedule.batches * schedule.epochs
    if schedule.warmup_steps > MOSTLY * steps:
        share = schedule.warmup_steps / steps
        yield Finding(
            "learning_rate",
            "risk",
            f"Warm-up takes {share:.0%} of the run.",
            f"{schedule.warmup_steps:,} of {steps:,} steps: warmup_epochs={args.warmup_epochs:g} "
            f"of {schedule.epochs} epochs. The rate hardly reaches {schedule.lr:g}.",
            Knob(
                "Train for more epochs, or warm up in a tenth of them.",
                {"warmup_epochs": round(schedule.epochs / 10, 2)},
            ),
        )
    of_rank = schedule.batch // schedule.ranks
    if of_rank < FEW_FOR_NORM:
        yield Finding(
            "batch_norm",
            "risk",
            f"Batch norm sees {of_rank} picture{'s' if of_rank > 1 else ''} at a time.",
            f"batch={schedule.batch} in {schedule.ranks} "
            f"process{'es' if schedule.ranks > 1 else ''}; each process has statistics of its own "
            f"pictures. Below {FEW_FOR_NORM} they differ from those that validation uses. "
            f"Accumulation (nbs={schedule.nominal}) does not change that.",
            Knob(
                "Give each process at least 4 pictures; smaller ones (imgsz) if memory ends.",
                {"batch": FEW_FOR_NORM * schedule.ranks},
            ),
        )
    close = int(args.close_mosaic or 0)
    if args.mosaic and close >= schedule.epochs:
        yield Finding(
            "close_mosaic",
            "risk",
            f"Mosaic is never used: close_mosaic={close}, and there are {schedule.epochs} epochs.",
            f"The last {close} epochs have no mosaic, copy-paste, mixup and cutmix.",
            Knob(
                "Close mosaic for a tenth of the epochs.",
                {"close_mosaic": schedule.epochs // 10},
            ),
        )
    patience = int(args.patience or 0)
    if 0 < patience <= args.warmup_epochs:
        yield Finding(
            "patience",
            "risk",
            f"Training may stop while it warms up: patience={patience}.",
            f"warmup_epochs={args.warmup_epochs:g}: metrics need not rise before.",
            Knob("Wait longer.", {"patience": max(50, patience)}),
        )
    times = schedule.update / schedule.nominal
    if not schedule.auto and times >= LARGE and "lr0" not in setup.arguments:
        root = float(f"{schedule.lr * times**0.5:.2g}")
        yield Finding(
            "learning_rate",
            "opportunity",
            f"An update has {schedule.update} pictures, and its rate is meant for "
            f"{schedule.nominal}.",
            f"lr0={schedule.lr:g} is the default. For {times:.3g} times the pictures the root rule "
            f"gives {root:g}, the linear one {schedule.lr * times:.2g}; neither was tried.",
            Knob(f"Try lr0={root:g}.", {"lr0": root}),
        )
