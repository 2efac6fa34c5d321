"""What cannot be had where training falls back to Ultralytics' own trainer."""

from __future__ import annotations

import os
from typing import Any

from yolodata.errors import ConfigError
from yolodata.train.checkpoint.file import SUFFIX


def check_fallback(what: str, resume: Any) -> None:
    """Refuses what upstream's trainer cannot do: it knows neither our ranks nor our checkpoints.

    Args:
        what: is trained, in words.
        resume: the argument.

    Raises:
        ConfigError: torchrun started several processes, each of which would train alone on a CPU
            and none of which would be watched on GPUs; or a checkpoint of ours is to go on.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(
            f"{what} is trained by Ultralytics' own trainer, which yolodata does not run in "
            "several processes; train on one device, or with `yolo train device=0,1`"
        )
    if resume == "auto" or str(resume).endswith(SUFFIX):
        raise ConfigError(
            f"{what} is trained by Ultralytics' own trainer, which cannot go on from "
            f"resume={resume}; give resume=RUN/weights/last.pt, or leave it out"
        )
