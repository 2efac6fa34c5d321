"""How a run goes on with another dataset than its own, which the setting `other_data` allows.

Note [position]. The images of an epoch stand in an order that is a function of seed, epoch and
their number. Relabelled, the same images stand at the same positions: an epoch that was begun goes
on, and has each image once. Other images stand at other positions, so nobody can say which of them
were trained on: then only an epoch that was not begun can follow.
"""

from __future__ import annotations

from typing import Any

from yolodata.errors import ConfigError

_IMAGES = ("images", "pixels", "codec", "imgsz")  # of `resume_state.dataset_fingerprint`


def moved(saved: dict[str, Any], mine: dict[str, Any], within: bool) -> dict[str, Any]:
    """Returns a loader's state as one of another dataset.

    Args:
        saved: the state.
        mine: the state of the loader that takes it up.
        within: the epoch was begun and is not done.

    Raises:
        ConfigError: the images are others, within an epoch (Note [position]).
    """
    before, now = saved.get("dataset"), mine["dataset"]
    if before == now:
        return saved
    same = isinstance(before, dict) and all(before.get(name) == now[name] for name in _IMAGES)
    if within and not same:
        raise ConfigError(
            "the dataset has other images than the checkpoint's, which is of the midst of an "
            "epoch: which of them were trained on in it cannot be told; go on from the end of an "
            "epoch: give resume=RUN/checkpoints/EPOCH-00000000-….ckpt (its second number is 0), "
            "or resume=RUN/weights/last.pt"
        )
    return {**saved, "dataset": now, "position": saved.get("position") if within else 0}
