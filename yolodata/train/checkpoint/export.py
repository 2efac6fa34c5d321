"""Weights as Ultralytics loads them, from the state of a run."""

from __future__ import annotations

import csv
import io
import re
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from yolodata.errors import YolodataError
from yolodata.folders import Folder
from yolodata.provenance.manifest import RunManifest
from yolodata.provenance.weights import add
from yolodata.train.checkpoint.contents import RunState

_NETWORKS = {
    "detect": "DetectionModel",
    "segment": "SegmentationModel",
    "pose": "PoseModel",
    "obb": "OBBModel",
}
_LAYERS = {"nn": "torch.nn", "torchvision.ops": "torchvision.ops"}
_ACTIVATION = re.compile(r"(torch\.)?nn\.[A-Z][A-Za-z0-9]*\([A-Za-z0-9_=., +-]*\)")
_STUDENT = "student_model."  # of a run with distillation


def weights_of(state: RunState) -> dict[str, Any]:
    """Returns what Ultralytics keeps in `last.pt` after training: the average, in half precision.

    Args:
        state: of `state.capture`.

    Raises:
        YolodataError: the network cannot be made with the Ultralytics that is installed.
    """
    import ultralytics
    from ultralytics.nn import tasks

    args, average = state["args"], state["ema"]
    if any(name.startswith(_STUDENT) for name in average):
        average = {
            name.removeprefix(_STUDENT): value
            for name, value in average.items()
            if name.startswith(_STUDENT)
        }
    try:
        _check_network(state["network"])
        kind: type[tasks.DetectionModel] = getattr(tasks, _NETWORKS[args["task"]])
        network = kind(state["network"], verbose=False)
        network.load_state_dict(average)
    except Exception as error:
        raise YolodataError(
            f"ultralytics {ultralytics.__version__} cannot make the network of the checkpoint "
            f"({type(error).__name__}: {error}); install the version that trained it"
        ) from error
    network.names, network.args, network.task = state["names"], args, args["task"]
    network.requires_grad_(False)
    return {
        "epoch": -1,
        "model": network.half().eval(),
        "train_args": args,
        "train_metrics": {**state["metrics"], "fitness": state["fitness"]},
        "train_results": _columns(state["results"]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "version": ultralytics.__version__,
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
        **dict.fromkeys(("best_fitness", "stopper", "ema", "updates", "optimizer", "scaler")),
    }


def _check_network(description: dict[str, Any]) -> None:
    """Checks that a description names layers alone.

    Ultralytics evaluates the activation, and calls whatever of its module has a layer's name; the
    checkpoint may have come from anywhere.

    Raises:
        ValueError: it names something else.
    """
    from ultralytics.nn import tasks

    activation = description.get("activation")
    if activation and not _ACTIVATION.fullmatch(str(activation)):
        raise ValueError(f"the activation {activation!r:.80} is none of torch.nn")
    for layer in [*description["backbone"], *description["head"]]:
        name = str(layer[2])
        kind, _, attribute = name.rpartition(".")
        place: dict[str, object] = vars(tasks) if not kind else vars(import_module(_LAYERS[kind]))
        found = place.get(attribute)
        # A whole model is described by a text again.
        if (
            not isinstance(found, type)
            or not issubclass(found, torch.nn.Module)
            or issubclass(found, tasks.BaseModel)
        ):
            raise ValueError(f"{name!r:.80} is no layer")


def write_weights(state: RunState, path: Path) -> None:
    """Writes `weights_of` a state to a file, whole or not.

    Raises:
        YolodataError: see `weights_of`.
        OSError: the disk is full, say.
    """
    found = weights_of(state)
    with Folder.at(path.parent) as folder, folder.writing(path.name) as file:
        with open(file.fileno(), "wb", closefd=False) as buffered:
            torch.save(found, buffered)
        manifest = state.get("manifest")
        if manifest is not None:
            add(Path(f"/proc/self/fd/{file.fileno()}"), RunManifest.from_dict(manifest))


def _columns(table: str) -> dict[str, list[float]]:
    """What Ultralytics takes along of results.csv; nothing of what is no table of numbers."""
    try:
        rows = list(csv.DictReader(io.StringIO(table)))
        return {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else ())}
    except (LookupError, TypeError, ValueError, csv.Error):  # of a checkpoint from anywhere
        return {}
