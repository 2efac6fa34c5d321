"""Everything that a run depends on, as plain data; taken from a trainer and given back to one."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from torch.utils._pytree import tree_map
from ultralytics.utils.torch_utils import unwrap_model

from yolodata.errors import ConfigError
from yolodata.provenance.same_dataset import check_network_classes
from yolodata.train.checkpoint.contents import Generators, RunState
from yolodata.train.checkpoint.file import VERSION
from yolodata.train.checkpoint.other_data import moved
from yolodata.train.resumable import Position, ResumableTrainer

if TYPE_CHECKING:
    from ultralytics.utils.loss import E2ELoss

_T = TypeVar("_T")


def random_state(device: torch.device) -> Generators:
    """Returns the state of every random generator of this process, as plain data and tensors."""
    version, numbers, gauss = random.getstate()
    name, keys, place, has_gauss, cached = np.random.get_state()
    cuda = device.type == "cuda"
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [name, np.asarray(keys).tolist(), int(place), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if cuda else None,
    }


def set_random_state(state: Generators, device: torch.device) -> None:
    """Puts every random generator of this process where `random_state` was taken."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def capture(
    trainer: ResumableTrainer,
    position: Position,
    generators: list[Generators],
    *,
    copy: bool = True,
) -> RunState:
    """Returns a trainer's state.

    Args:
        trainer: between two steps.
        position: where it is.
        generators: `random_state` of every rank.
        copy: copies the tensors to host memory; False: they are the trainer's own, so that the
            state is true until the next step.
    """
    model = unwrap_model(trainer.model)
    waiting = {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if position.pending and parameter.grad is not None
    }
    stopper, loader = trainer.stopper, trainer.own_loader

    def kept(values: _T) -> _T:
        copied: _T = tree_map(_copied, values) if copy else values
        return copied

    return {
        "version": VERSION,
        "epoch": position.epoch,
        "step": position.step,
        "pending": position.pending,
        "stage": position.stage,
        "model": kept(dict(model.state_dict())),
        "ema": kept(dict(trainer.ema.ema.state_dict())),
        "optimizer": kept(trainer.optimizer.state_dict()),
        "scaler": kept(trainer.scaler.state_dict()),
        "gradients": kept(waiting),
        "tloss": kept(trainer.tloss),
        "loss": kept(trainer.loss),
        "given": trainer.given,
        "manifest": None if trainer.manifest is None else trainer.manifest.to_dict(),
        "args": plain(vars(trainer.args)),
        "network": plain(getattr(model, "student_model", model).yaml),
        "names": {int(number): str(name) for number, name in trainer.data["names"].items()},
        "results": trainer.csv.read_text(encoding="utf-8") if trainer.csv.is_file() else "",
        "optimizer_name": type(trainer.optimizer).__name__,
        "epochs": int(trainer.epochs),
        "elapsed": time.time() - trainer.train_time_start,
        "ema_updates": int(trainer.ema.updates),
        "scheduler": int(trainer.scheduler.last_epoch),
        "criterion": _plain_numbers(vars(getattr(model.criterion, "inner", model.criterion))),
        "loader": None if loader is None else loader.state_dict(),
        "batch": int(trainer.batch_size),
        "loss_names": list(trainer.loss_names),
        "metrics": _plain_numbers(trainer.metrics or {}),
        "fitness": _number(trainer.fitness),
        "best_fitness": _number(trainer.best_fitness),
        "stopper": {
            "best_fitness": _number(stopper.best_fitness),
            "best_epoch": int(stopper.best_epoch),
            "possible_stop": bool(stopper.possible_stop),
        },
        "nan_recovery_attempts": int(trainer.nan_recovery_attempts),
        "generators": generators,
    }


def restore(
    trainer: ResumableTrainer, state: RunState, rank: int, stage: str | None = None
) -> Position:
    """Puts a trainer that was set up for the same run where a state was captured.

    Args:
        trainer: its parts are those of the same model and data; it may have another number of
            epochs (Note [more epochs] in `continuation`).
        state: from `capture`; its tensors may be in host memory.
        rank: whose random generators are taken. A rank that was not there takes Python's, which
            `multi_scale` draws from, of the first one.
        stage: where the run goes on, if not at the state's own stage.

    Returns:
        Where the run goes on.

    Raises:
        ConfigError: the state is of another dataset or of other augmentation.
    """
    check_network_classes(state["names"], trainer.data["names"])
    device = trainer.device
    model = unwrap_model(trainer.model)
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise ConfigError(
            f"model={trainer.args.model} is another network than the state's "
            f"({state['given']['model']}); give the run's own, or another name= for a new run: "
            f"{error}"
        ) from error
    trainer.ema.ema.load_state_dict(state["ema"])
    trainer.ema.updates = state["ema_updates"]
    for saved, group in zip(
        state["optimizer"]["param_groups"], trainer.optimizer.param_groups, strict=True
    ):
        saved["fused"] = group.get("fused")  # this device's choice, not that of the saved run's
    trainer.optimizer.load_state_dict(state["optimizer"])
    if state["scaler"]:
        trainer.scaler.load_state_dict(state["scaler"])
    if trainer.epochs != state["epochs"] and trainer.args.time:
        trainer.epochs = trainer.args.epochs = state["epochs"]
        trainer._setup_scheduler()
    trainer.scheduler.last_epoch = state["scheduler"]
    for name, value in state["criterion"].items():
        setattr(model.criterion, name, value)
    if trainer.epochs != state["epochs"] and hasattr(model.criterion, "update"):
        criterion = cast("E2ELoss", model.criterion)  # or ours around it
        criterion.updates -= 1
        criterion.update()  # sets the weights of its parts, of the new number of epochs
    for name, parameter in model.named_parameters():
        waiting = state["gradients"].get(name)
        parameter.grad = None if waiting is None else waiting.to(device)
    if state["tloss"] is not None:
        trainer.tloss = {name: value.to(device) for name, value in state["tloss"].items()}
        trainer.loss_items = {name: torch.zeros_like(v) for name, v in trainer.tloss.items()}
        trainer.loss = state["loss"].to(device)
    trainer.loss_names = tuple(state["loss_names"])
    if trainer.metrics is not None:
        trainer.metrics = dict(state["metrics"])
    trainer.fitness, trainer.best_fitness = state["fitness"], state["best_fitness"]
    vars(trainer.stopper).update(state["stopper"])
    trainer.nan_recovery_attempts = state["nan_recovery_attempts"]
    trainer.train_time_start = time.time() - state["elapsed"]
    if rank < len(state["generators"]):
        set_random_state(state["generators"][rank], device)
    else:
        version, numbers, gauss = state["generators"][0]["python"]
        random.setstate((version, tuple(numbers), gauss))
    return _placed(trainer, state, stage)


def _placed(trainer: ResumableTrainer, state: RunState, stage: str | None) -> Position:
    position = Position(state["epoch"], state["step"], state["pending"], state["stage"])
    if stage is not None and position.stage != "validate":
        position = replace(position, stage=stage)
    loader = trainer.own_loader
    if state["loader"] is None or loader is None:
        return position
    stream, last = dict(state["loader"]), trainer.args.close_mosaic
    if (trainer.epochs, last) != (state["epochs"], state["args"]["close_mosaic"]):
        stream["mosaic_closed"] = bool(last) and position.epoch >= trainer.epochs - last
    if trainer.other_data:
        within = position.stage == "train" and position.step > 0
        stream = moved(stream, loader.state_dict(), within)
    loader.load_state_dict(stream)
    if position.stage != "train" or state["batch"] == trainer.batch_size:
        return position
    # Another batch: steps are counted in its size from now on, images are what is exact.
    done = int(state["loader"]["position"])
    return replace(position, step=-(-done // trainer.batch_size))


def plain(value: Any) -> Any:
    """Returns a value as numbers, text, lists and dicts, which a checkpoint may hold."""
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {
            key if isinstance(key, (int, str)) else str(key): plain(v) for key, v in value.items()
        }
    if isinstance(value, (list, tuple, range, set)):
        return [plain(each) for each in value]
    return str(value)


def _copied(value: Any) -> Any:
    return value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else value


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _plain_numbers(values: dict[str, Any]) -> dict[str, float | int | bool]:
    """Those of an object's attributes that are single numbers."""
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in values.items()
        if isinstance(value, (bool, int, float, np.number))
    }
