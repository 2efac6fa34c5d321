"""Whether a run goes on from a state, and with which of the settings that are given now.

Note [more epochs]. A run that is given another number of epochs goes on as a run of that many: from
there on learning rate, `close_mosaic` and the loss's own schedule are those of the new number.
After a finished run the learning rate therefore rises again, and mosaic is on until the last
`close_mosaic` epochs. Weights, average and optimiser are those of the state.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolodata.errors import ConfigError
from yolodata.provenance.manifest import PLACES
from yolodata.terminal import shortened
from yolodata.train.checkpoint.contents import RunState

FIXED = (
    "task", "model", "pretrained", "optimizer", "lr0", "momentum", "weight_decay", "nbs", "seed",
)  # fmt: skip
"""Settings that a state has decided: weights, optimiser and stream are made with them."""


@dataclass(frozen=True)
class Continuation:
    """What is left of a run.

    Attributes:
        stage: "train"; "finished" (the evaluation of the best weights is left); "done" (nothing).
        optimizer: name of the class of the optimiser, which `auto` may not choose again.
        said: for the user.
    """

    stage: str
    optimizer: str
    said: str


def continuation(
    state: RunState, given: dict[str, Any], run: Path, evaluated: bool
) -> Continuation:
    """Returns how a run goes on.

    Args:
        state: of `state.capture`.
        given: Ultralytics' arguments now, plain; `state["given"]` are those of the run.
        run: its folder, for messages.
        evaluated: whether its best weights were evaluated.

    Raises:
        ConfigError: what is given cannot be had from this state.
    """
    begun = state["epoch"] + (state["step"] > 0 or state["stage"] == "validate")
    before, epochs = int(state["epochs"]), int(given["epochs"])
    changed = _changed(state, given)
    optimizer = str(state["optimizer_name"])
    if not given["time"] and epochs < begun:
        raise ConfigError(
            f"epochs must be at least {begun}, because {run} has trained so many already (of "
            f"{before}), got {epochs}; give epochs={max(before, begun)}, or another name= for a "
            "new run"
        )
    stage = state["stage"]
    if stage == "finished" and _wants_more(state, given, run):
        stage = "train"
    elif stage == "train" and not given["time"] and epochs == begun == state["epoch"]:
        stage = "finished"  # fewer epochs than planned, all of which are done
    if stage == "finished" and evaluated and state["stage"] == "finished":
        return Continuation("done", optimizer, _finished(state, run, changed))
    wrong = [name for name in FIXED if name in changed]
    if wrong:
        raise ConfigError(
            f"{run}: goes on with what it was begun with, and cannot change "
            f"{_listed(wrong, changed)}; give its own values, or another name= for a new run "
            f"(model={run}/weights/last.pt begins with its weights)"
        )
    said = ""
    if stage == "finished":
        said = "only the evaluation of the best weights is left"
    elif epochs != before and not given["time"]:
        said = (
            f"training to epoch {epochs} instead of {before}: learning rate and close_mosaic are "
            f"those of {epochs} epochs from here on"
        )
    others = [name for name in changed if name != "epochs"]
    if others and stage == "train":
        said += f"{'; ' if said else ''}changed from here on: {_listed(others, changed)}"
    return Continuation("train" if stage == "validate" else stage, optimizer, said)


def _wants_more(state: RunState, given: dict[str, Any], run: Path) -> bool:
    """Whether a finished run is to be trained on."""
    stopper, was, epoch = state["stopper"], state["given"], state["epoch"]
    if given["time"]:
        return bool(state["elapsed"] < given["time"] * 3600 and given["time"] != was["time"])
    more = given["epochs"] > (epoch if was["time"] else state["epochs"])
    waited = epoch - stopper["best_epoch"]
    if epoch >= state["epochs"] or was["time"] or not _out_of_patience(waited, was["patience"]):
        return bool(more)
    if not _out_of_patience(waited, given["patience"]):
        return bool(given["epochs"] > epoch)
    if more:
        raise ConfigError(
            f"{run}: was stopped early after {epoch} epochs, {waited} after the best one, so that "
            f"epochs={given['epochs']} alone adds nothing; give patience= above {waited} too (0 "
            "never stops), or another name= for a new run"
        )
    return False


def _out_of_patience(waited: int, patience: Any) -> bool:
    return bool(patience) and waited >= int(patience)


def _changed(state: RunState, given: dict[str, Any]) -> dict[str, tuple[object, object]]:
    """Settings that differ from the run's: what they were, and what they are."""
    was = state["given"]
    found = {
        name: (was[name], value)
        for name, value in given.items()
        if name in was and name not in PLACES and was[name] != value
    }
    if "optimizer" in found and str(given["optimizer"]).lower() == state["optimizer_name"].lower():
        del found["optimizer"]  # what `auto` had chosen
    if "model" in found and Path(str(was["model"])).stem == Path(str(given["model"])).stem:
        del found["model"]  # in another folder
    return found


def _listed(names: list[str], changed: dict[str, tuple[object, object]]) -> str:
    return ", ".join(
        f"{name} from {shortened(changed[name][0])} to {shortened(changed[name][1])}"
        for name in names
    )


def _finished(state: RunState, run: Path, changed: dict[str, tuple[object, object]]) -> str:
    best = run / "weights" / "best.pt"  # `last.pt` is written where it is missing
    said = (
        f"{run} is finished after {state['epoch']} epochs, and nothing is trained: see its "
        f"results.csv and weights/{'best.pt' if best.is_file() else 'last.pt'}. Give more epochs= "
        "to train on, or another name= for a new run"
    )
    if changed:
        said += f". No effect have: {_listed(list(changed), changed)}"
    return said
