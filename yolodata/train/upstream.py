"""What `train/` uses of Ultralytics' trainers, with types.

mypy does not look into ultralytics. The classes here declare attributes and methods of its trainers
and give them no value: they check our side, and add nothing to an object.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

from yolodata.train.checkpoint.state import Position
from yolodata.ultralytics.metrics import MetricsWatcher
from yolodata.ultralytics.telemetry import StepWatcher


class Arguments:
    """Arguments of a training run, as Ultralytics documents them."""

    amp: bool | str
    batch: int
    close_mosaic: int
    compile: bool | str
    deterministic: bool
    epochs: int
    imgsz: int
    mask_ratio: int
    momentum: float
    mosaic: float
    multi_scale: float
    nbs: int
    optimizer: str
    overlap_mask: bool
    plots: bool
    resume: Any
    save: bool
    seed: int
    task: str
    time: float | None
    val: bool
    warmup_bias_lr: float
    warmup_momentum: float


class AverageModel(Protocol):
    """The exponential moving average of a model (`ModelEMA`)."""

    ema: torch.nn.Module
    updates: int
    update_attr: Callable[..., None]


class Stopper(Protocol):
    """Stops training when the fitness no longer grows (`EarlyStopping`)."""

    best_epoch: int
    best_fitness: float
    possible_stop: bool

    def __call__(self, epoch: int, fitness: float | None) -> bool:
        """Whether to stop after this epoch, counted from 1."""


class UltralyticsTrainer:
    """Ultralytics' trainer.

    Attributes are those of `ultralytics.engine.trainer.BaseTrainer`; losses are scalars on the
    trainer's device, times are seconds since 1970, learning rates are by name.
    """

    accumulate: int
    amp: bool
    args: Arguments
    batch_size: int
    best: Path
    best_fitness: float | None
    csv: Path
    data: dict[str, Any]
    ddp: bool
    device: torch.device
    ema: AverageModel
    epoch: int
    epoch_time: float | None
    epoch_time_start: float
    epochs: int
    fitness: float | None
    last: Path
    lf: Callable[[int], float]
    loss: torch.Tensor
    loss_items: dict[str, torch.Tensor]
    loss_names: tuple[str, ...]
    lr: dict[str, float]
    metrics: dict[str, float]
    model: torch.nn.Module
    nan_recovery_attempts: int
    optimizer: torch.optim.Optimizer
    plot_idx: list[int]
    save_dir: Path
    scaler: torch.amp.GradScaler
    scheduler: torch.optim.lr_scheduler.LRScheduler
    start_epoch: int
    stop: bool
    stopper: Stopper
    stride: int
    test_loader: Any  # ours or upstream's
    tloss: dict[str, torch.Tensor] | None
    train_loader: Any
    train_time_start: float
    validator: Any
    wdir: Path
    world_size: int

    add_callback: Callable[[str, Callable[[Any], None]], None]
    label_loss_items: Callable[..., dict[str, float]]
    optimizer_step: Callable[[], None]
    plot_metrics: Callable[[], None]
    plot_training_samples: Callable[[dict[str, Any], int], None]
    preprocess_batch: Callable[[dict[str, Any]], dict[str, Any]]
    progress_string: Callable[[], str]
    run_callbacks: Callable[[str], None]
    save_metrics: Callable[..., None]
    save_model: Callable[[], bool]
    final_eval: Callable[[], None]
    validate: Callable[[], tuple[dict[str, float], float | None]]

    _build_train_pipeline: Callable[[], None]
    _clear_memory: Callable[..., None]
    _close_dataloader_mosaic: Callable[[], None]
    _get_memory: Callable[[], float]
    _get_warmup_iterations: Callable[[int], int]
    _handle_nan_recovery: Callable[[int], bool]
    _model_train: Callable[[], None]
    _setup_scheduler: Callable[[], None]
    _setup_train: Callable[[], None]


class ResumableTrainer(UltralyticsTrainer):
    """Ultralytics' trainer, and where its run is.

    Attributes:
        at: where the run is.
        exact: whether checkpoints within an epoch are possible: with yolodata's loader.
        step_watcher: tells how the last steps went; None with `telemetry=False`.
        metrics_watcher: tells Prometheus; None without the setting `metrics`.
    """

    at: Position
    exact: bool
    step_watcher: StepWatcher | None
    metrics_watcher: MetricsWatcher | None
