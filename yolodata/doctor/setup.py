"""What is examined: a dataset, a model, and Ultralytics' arguments for training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from yolodata.checks import number, one_of, whole
from yolodata.errors import ConfigError
from yolodata.train.settings import TrainSettings
from yolodata.ultralytics.auto_pack import is_shards

LOADERS = ("ultralytics", "yolodata")
MODEL = "yolo26n.yaml"
GIVE = "give a dataset YAML, a folder of shards or the folder of a run"


@dataclass(frozen=True)
class Setup:
    """What is examined.

    Attributes:
        data: a dataset YAML, as Ultralytics takes it, or a folder of shards.
        arguments: Ultralytics' arguments by name, as for `yolodata train`, values already read;
            without `data`.
        settings: of yolodata, without their prefix, as for `yolodata train`; of them codec,
            threads, prefetch, cache and hw_decoder_load are those of the loader that is examined.
        loader: whose loader is examined; "" is ours for shards, or with settings of yolodata, and
            else Ultralytics' own.
        step_ms: milliseconds for which the loop waits instead of training a model: it stands for
            the step of a GPU that is not here. None trains the model.
        seconds: about how long all experiments together may take.
        seed: of every random choice of the doctor.

    Raises:
        ConfigError: something is not there, or out of range.
    """

    data: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    loader: str = ""
    step_ms: float | None = None
    seconds: float = 60.0
    seed: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _ = self.ours  # refuses what is unknown
        number("seconds", self.seconds, 2, 3600)
        whole("seed", self.seed, 0, 2**63 - 1)
        if self.step_ms is not None:
            number("step", self.step_ms, 0, 60_000)
        if self.loader:
            one_of("loader", self.loader, LOADERS)
        if not (os.path.isfile(self.data) or os.path.isdir(self.data)):
            what = "neither a file nor a folder" if os.path.exists(self.data) else "not there"
            raise ConfigError(f"{self.data}: is {what}; {GIVE}")
        if self.settings and self.loader == "ultralytics":
            raise ConfigError(
                f"loader=ultralytics takes no settings of yolodata, got {', '.join(self.settings)}"
            )
        if self.of_shards and self.loader == "ultralytics":
            raise ConfigError(
                f"loader=ultralytics reads image files, and {self.data} holds shards; give the "
                "dataset YAML"
            )

    @property
    def of_shards(self) -> bool:
        """Whether the data are shards."""
        return is_shards(self.data)

    @property
    def examined_loader(self) -> str:
        """Whose loader is examined."""
        ours = self.of_shards or bool(self.settings)
        return self.loader or ("yolodata" if ours else "ultralytics")

    @cached_property
    def ours(self) -> TrainSettings:
        """All settings of yolodata.

        Raises:
            ConfigError: one is unknown, or out of range.
        """
        return TrainSettings().changed(self.settings)

    @cached_property
    def train(self) -> Any:
        """All of Ultralytics' arguments for training, with defaults, as a namespace.

        Raises:
            ConfigError: an argument is wrong, in Ultralytics' words.
        """
        from ultralytics.cfg import get_cfg
        from ultralytics.utils import DEFAULT_CFG

        from yolodata.ultralytics.command_line import refusals_as_errors

        given = {"model": MODEL, **self.arguments, "data": self.data, "mode": "train"}
        with refusals_as_errors():
            return get_cfg(DEFAULT_CFG, given)

    @property
    def batch(self) -> int:
        """Pictures a step, of this process.

        Raises:
            ConfigError: Ultralytics is to choose it.
        """
        return self.batch_of_all // _ranks()

    @property
    def batch_of_all(self) -> int:
        """Pictures a step, of all processes together.

        Raises:
            ConfigError: Ultralytics is to choose it.
        """
        ranks, batch = _ranks(), self.train.batch
        if batch < 1 or batch != int(batch) or batch % ranks:
            raise ConfigError(
                f"batch must be a whole number of pictures, the same for each of {ranks} "
                f"process(es), got {batch}; give batch={16 * ranks}, say"
            )
        return int(batch)

    @property
    def imgsz(self) -> int:
        """Side of the pictures, in pixels."""
        return int(self.train.imgsz)


def _ranks() -> int:
    """Processes that torchrun started."""
    return int(os.environ.get("WORLD_SIZE", 1))
