"""Short trainings on one batch that does not change: which rates make the loss fall.

Note [one batch]. All trials of a run see the same few pictures, without augmentation, from the same
weights. So a loss that rises was raised by the updates: neither the pictures nor their order did
it. It is also the easiest task there is. A rate that wrecks it wrecks training on changing batches;
a rate that does not may still be too large for them, and nothing is said of it.

Note [wrecked]. Upstream clips gradients to a norm of 10, and batch norm makes layers indifferent to
the size of their weights. So a rate that is far too large rarely gives NaN. The loss of a detector
then jumps to many times its first value, and may fall to nothing: no predicted box fits any object
any more, so that no box takes part in the loss. Both count. Trials of rates between a tenth and ten
times the usual ones stay below 1.1 times the first loss, and above a tenth of it.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from ultralytics.utils import LOGGER

from yolodata.doctor.convergence.labels import Dataset
from yolodata.doctor.convergence.schedule import Schedule, devices
from yolodata.doctor.finding import Finding, Knob
from yolodata.doctor.setup import Setup
from yolodata.doctor.step import ModelStep
from yolodata.pipeline.config import AugmentConfig
from yolodata.pipeline.loader import Loader
from yolodata.pipeline.options import EpochOptions, LabelOptions, ReadOptions
from yolodata.shards.reader import ShardDataset
from yolodata.shards.reader import open as open_shards

STEPS = 40
WARMUP = 20
"""Of these steps, where a trial warms up."""
PICTURES = 8
SIDE = 64  # pixels
JUMP = 1.5
"""Times the first loss that a loss may reach."""
NOTHING = 0.02
"""Share of the first loss below which no training of so few steps comes, in none of them."""
LOWER = 5.0
"""By what a rate is divided until it serves, and once more to keep away from the edge."""
LADDER = 4
"""So many times at most."""
SHORT = 5
"""Steps up to which a warm-up counts as missing."""
AS_WELL = 1.5
"""Times the last loss of a lower rate that a rate may end with; from there on it is a large one."""


@dataclass(frozen=True)
class Trial:
    """One short training.

    Attributes:
        lr: learning rate after warm-up.
        warmup: steps in which it rises; 0 is none.
        losses: a picture, of each step; the trial ends at the first that is no number.
        norms: of the gradients before clipping.
        skipped: updates that the scaler of half precision left out.
    """

    lr: float
    warmup: int
    losses: tuple[float, ...]
    norms: tuple[float, ...] = ()
    skipped: int = 0

    @property
    def wrecked(self) -> bool:
        """See Note [wrecked]."""
        first = self.losses[0]
        if not all(map(math.isfinite, self.losses)):
            return True
        return max(self.losses) > JUMP * first or min(self.losses) < NOTHING * first

    @property
    def serves(self) -> bool:
        """Whether the loss falls."""
        return not self.wrecked and self.end < self.losses[0]

    @property
    def end(self) -> float:
        """Mean loss of the last steps."""
        last = self.losses[-5:]
        return sum(last) / len(last)

    def __str__(self) -> str:
        first = f"from {self.losses[0]:.3g}"
        if not math.isfinite(self.losses[-1]):
            return f"{first} to {self.losses[-1]:g} in {len(self.losses)} steps"
        most = max(self.losses)
        over = f" over {most:.3g}" if most > JUMP * self.losses[0] else ""
        least = min(self.losses)
        if least < NOTHING * self.losses[0]:
            return f"{first}{over} to {least:.2g}, as no box fits any object"
        return f"{first}{over} to {self.end:.2g}"

    def as_dict(self) -> dict[str, Any]:
        """Returns the values for JSON."""
        return {
            "lr": self.lr,
            "warmup": self.warmup,
            "losses": [round(loss, 5) for loss in self.losses],
            "gradient_norms": [round(norm, 4) for norm in self.norms],
            "skipped": self.skipped,
            "wrecked": self.wrecked,
        }


class Bench:
    """A model and a batch on which trials are made, each from the same weights.

    Args:
        setup: gives the model, its task and its device.
        schedule: gives the optimizer.
        dataset: gives pictures with objects.
        half: with the setup's AMP; single precision without.

    Attributes:
        device: where it trains.

    Raises:
        YolodataError: the model, an argument, or labels for this task cannot be used.
    """

    def __init__(
        self, setup: Setup, schedule: Schedule, dataset: Dataset, half: bool = False
    ) -> None:
        arguments = {
            **setup.arguments, "imgsz": SIDE, "batch": PICTURES, "optimizer": schedule.optimizer,
            "lr0": schedule.lr, "compile": False, "multi_scale": 0.0,
            "amp": setup.train.amp if half else False,
        }  # fmt: skip
        several = devices(setup.train.device)
        if len(several) > 1:
            arguments["device"] = several[0]
        with _seeded(setup.seed):
            self._step = ModelStep(replace(setup, arguments=arguments))
        trainer = self._trainer = self._step.trainer
        trainer.ema = None  # nobody looks at it
        self.device = self._step.device
        self._schedule = schedule
        self._momentum = 0.9 if schedule.auto else float(trainer.args.momentum)
        self._weights = {k: v.detach().clone() for k, v in trainer.model.state_dict().items()}
        self._batch = a_batch(setup, dataset, trainer.args.task)

    def try_rate(self, lr: float, warmup: int, ends: float = math.inf) -> Trial | None:
        """Makes a trial.

        Args:
            lr: the learning rate after warm-up.
            warmup: steps of it.
            ends: by `time.monotonic`; None is returned once the trial cannot end before.
        """
        trainer, schedule = self._trainer, self._schedule
        trainer.model.load_state_dict(self._weights)
        trainer.args.lr0 = lr
        with patch.object(LOGGER, "disabled", True):
            trainer.optimizer = trainer.build_optimizer(
                trainer.model, schedule.optimizer, lr, self._momentum, trainer.args.weight_decay
            )
        for group in trainer.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        losses: list[float] = []
        norms: list[float] = []
        skipped, began = 0, time.monotonic()
        with _seeded(trainer.args.seed):
            for k in range(STEPS):
                if k == 1:  # the first step is slower
                    began = time.monotonic()
                elif k == 4 and began + (time.monotonic() - began) / 3 * STEPS > ends:
                    return None
                self._warm_up(k, warmup)
                scale = trainer.scaler.get_scale()
                with _norms(norms):
                    loss = self._step(self._batch) / len(self._batch["im_file"])
                skipped += trainer.scaler.get_scale() < scale
                losses.append(loss)
                if not math.isfinite(loss):
                    break
        return Trial(lr, warmup, tuple(losses), tuple(norms), skipped)

    def _warm_up(self, step: int, warmup: int) -> None:
        """Sets rates and momentum of a step, as upstream does."""
        args = self._trainer.args
        done = min(1.0, step / warmup) if warmup else 1.0
        for group in self._trainer.optimizer.param_groups:
            low = self._schedule.bias_lr if group.get("param_group") == "bias" else 0.0
            group["lr"] = low + (group["initial_lr"] - low) * done
            if "momentum" in group and warmup:
                low = args.warmup_momentum
                group["momentum"] = low + (self._momentum - low) * done


def a_batch(setup: Setup, dataset: Dataset, task: str) -> dict[str, Any]:
    """Some train images with objects, without augmentation, as upstream's `collate_fn` gives them.

    Args:
        setup: gives the seed, and which labels take part.
        dataset: what was read of it.
        task: the model's.

    Raises:
        ConfigError: the labels are not those of the task.
    """
    args = setup.train
    classes = [args.classes] if isinstance(args.classes, int) else args.classes
    options = LabelOptions(
        task, classes, bool(args.single_cls), 1.0, int(args.mask_ratio), bool(args.overlap_mask)
    )
    if dataset.shards:
        batch = _loaded(dataset.shards["train"], options, setup.seed)
    else:
        with tempfile.TemporaryDirectory(prefix="yolodata-doctor-") as folder:
            batch = _loaded(_of_files(setup, dataset, task, Path(folder)), options, setup.seed)
    if max(batch["img"].shape[2:]) != SIDE:  # raw shards have one size
        pictures = batch["img"].float()
        smaller = torch.nn.functional.interpolate(pictures, (SIDE, SIDE), mode="area")
        batch["img"] = smaller.round().to(torch.uint8)
    return batch


def _of_files(setup: Setup, dataset: Dataset, task: str, folder: Path) -> ShardDataset:
    """Packs some images with objects."""
    from yolodata.ingest.convert import PackSettings
    from yolodata.ingest.dataset_yaml import find_yaml, read_yaml
    from yolodata.ingest.packing import pack

    labels = dataset.splits["train"]
    order = np.random.default_rng(setup.seed).permutation(np.flatnonzero(labels.objects))
    chosen = [labels.name(int(i)) for i in order[:PICTURES]]
    (folder / "some.txt").write_text("\n".join(chosen), encoding="utf-8", errors="surrogateescape")
    source = {
        **read_yaml(find_yaml(Path(setup.data))),
        "path": str(folder),
        "train": "some.txt",
        "val": "some.txt",
    }
    rules = "pose" if task == "pose" else "detect"
    settings = PackSettings("raw", SIDE, task=rules, single_cls=bool(setup.train.single_cls))
    pack(source, folder / "shards", settings, splits=["train"], workers=1, progress=False)
    return open_shards(folder / "shards", split="train")


def _loaded(shards: ShardDataset, options: LabelOptions, seed: int) -> dict[str, Any]:
    """The first batch with objects; tensors of its own."""
    plain = AugmentConfig(
        shards.meta.imgsz, mosaic=0.0, translate=0.0, scale=0.0, hsv_h=0.0, hsv_s=0.0, hsv_v=0.0,
        fliplr=0.0,
    )  # fmt: skip
    loader = Loader(
        shards, min(PICTURES, len(shards)), augment=plain, labels=options, seed=seed,
        epochs=EpochOptions(epochs=1), reading=ReadOptions(threads=1, prefetch=1),
    )  # fmt: skip
    try:
        for batch in loader:
            if len(batch["cls"]):
                return {
                    key: value.clone() if isinstance(value, torch.Tensor) else value
                    for key, value in batch.items()
                }
    finally:
        loader.close()
    raise AssertionError("examine asks for a trial only where there are objects")


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Torch's random numbers begin with a seed, and go on afterwards as if nothing was drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def _norms(found: list[float]) -> Iterator[None]:
    """Notes the norm of gradients wherever they are clipped, as upstream does in each update."""
    clip = torch.nn.utils.clip_grad_norm_

    def noted(*args: Any, **options: Any) -> torch.Tensor:
        norm = clip(*args, **options)
        found.append(float(norm))
        return norm

    with patch("torch.nn.utils.clip_grad_norm_", noted):
        yield


def search(bench: Bench, schedule: Schedule, seconds: float) -> list[Trial]:
    """Makes trials: with the settings, with warm-up, and with lower rates until two serve.

    Args:
        bench: to make them on.
        schedule: the settings.
        seconds: for the first trial; those that follow a wrecked one get as much each.

    Returns:
        the trials made; empty where there was no time for one.
    """

    def made(lr: float, warmup: int) -> bool:
        trial = bench.try_rate(lr, warmup, time.monotonic() + seconds)
        trials.extend([] if trial is None else [trial])
        return trial is not None

    trials: list[Trial] = []
    warmup = min(WARMUP, schedule.warmup_updates)
    if not made(schedule.lr, warmup) or not trials[0].wrecked:
        return trials
    if warmup <= SHORT:
        made(schedule.lr, WARMUP)
    lr, serving = schedule.lr, 0
    for _ in range(LADDER):
        lr = float(f"{lr / LOWER:.2g}")
        if not made(lr, warmup):
            break
        serving += trials[-1].serves
        if serving == 2:  # one step away from the edge
            break
    return trials


def half_precision(bench: Bench, trial: Trial, seconds: float) -> Trial | None:
    """Makes a trial again in half precision; None where there is no time for it."""
    return bench.try_rate(trial.lr, trial.warmup, time.monotonic() + seconds)


def judge_trials(schedule: Schedule, trials: Sequence[Trial]) -> Iterator[Finding]:
    """Says what trials (those of `search`) tell of the settings."""
    if not trials or not trials[0].wrecked:
        return
    first, others = trials[0], trials[1:]
    what = f"{schedule.optimizer}, {STEPS} steps on one batch: the loss goes {first}"
    if not math.isfinite(first.losses[0]):
        yield Finding(
            "nan",
            "breaks",
            "The loss is no number before the first update.",
            f"{what}. So it is not the learning rate: the weights or the labels hold NaN.",
            Knob("Begin with other weights (model=yolo26n.yaml has fresh ones).", {}),
            measured=True,
        )
        return
    name = {"optimizer": schedule.optimizer} if schedule.auto else {}
    serving = [trial for trial in others if trial.serves and trial.lr < schedule.lr]
    warmed = next((trial for trial in others if trial.lr == schedule.lr and trial.serves), None)
    if warmed is not None:
        epochs = max(3, math.ceil(100 / schedule.batches))  # as many steps as upstream had at least
        yield Finding(
            "no_warmup",
            "breaks",
            f"Without warm-up, the learning rate {schedule.lr:g} wrecks the weights.",
            f"{what} with {first.warmup} steps of warm-up, and {warmed} with {warmed.warmup}.",
            Knob(f"Warm up for {epochs} epochs.", {"warmup_epochs": float(epochs)}),
            measured=True,
        )
        best = min(serving, key=lambda trial: trial.end, default=warmed)
        if warmed.end > AS_WELL * best.end:
            yield Finding(
                "learning_rate",
                "risk",
                f"The learning rate {schedule.lr:g} is large, with warm-up too.",
                f"{schedule.optimizer}, {STEPS} steps on one batch: the loss goes {warmed} with "
                f"{schedule.lr:g} and warm-up, and {best} with {best.lr:g} and without.",
                Knob(f"Lower it: lr0={best.lr:g}.", {**name, "lr0": best.lr}),
                measured=True,
            )
        return
    tried = "; ".join(f"{trial.lr:g}: {trial}" for trial in others if trial.lr < schedule.lr)
    lower = serving[-1].lr if serving else min(trial.lr for trial in trials) / LOWER
    yield Finding(
        "learning_rate",
        "breaks",
        f"The learning rate {schedule.lr:g} is too large: it wrecks the weights.",
        f"{what} with {schedule.lr:g}. {f'With {tried}.' if tried else 'No other rate was tried.'}",
        Knob(f"Lower it: lr0={lower:.2g}.", {**name, "lr0": float(f"{lower:.2g}")}),
        measured=bool(serving),
    )


def judge_half(single: Trial, half: Trial) -> Iterator[Finding]:
    """Says whether half precision does what single precision does."""
    if single.wrecked or not (half.wrecked or half.skipped > STEPS / 2):
        return
    yield Finding(
        "half_precision",
        "breaks",
        "Training fails in half precision, and not in single precision.",
        f"{STEPS} steps on one batch: the loss goes {half} in half precision, where the scaler "
        f"left out {half.skipped} updates, and {single} in single precision.",
        Knob("Train in bfloat16 (amp=bf16), whose range is that of single precision.",
             {"amp": "bf16"}),
        measured=True,
    )  # fmt: skip
