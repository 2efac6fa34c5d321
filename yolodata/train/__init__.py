"""Training that keeps every device busy and survives: a layer over Ultralytics' trainers.

    torchrun --nproc-per-node=4 -m yolodata.train model=yolo26m.yaml data=coco.yaml batch=256
    yolodata train model=yolo26m.yaml data=coco.yaml batch=256 device=0,1,2,3 resume=auto

`trainer_for("detect")` is the class for `YOLO(...).train(trainer=...)` in a script of your own,
which may be started by torchrun too. docs/training.md says what is promised and how it was seen.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as type checkers know it; `typing` may be a file of the working folder
if TYPE_CHECKING:
    from typing import Any

    from yolodata.train.settings import TrainSettings
    from yolodata.train.trainer import trainer_for

__all__ = ["TrainSettings", "trainer_for"]

_PLACES = {"TrainSettings": "settings", "trainer_for": "trainer"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
