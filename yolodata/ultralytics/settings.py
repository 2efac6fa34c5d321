"""Settings of ours that Ultralytics' arguments have no place for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from yolodata.checks import flag, nearest, number, one_of, path_or_none, whole
from yolodata.errors import ConfigError
from yolodata.folders import Folder
from yolodata.ingest.limits import WORKERS
from yolodata.ingest.sample import QUALITY
from yolodata.pipeline.options import (
    CACHES,
    MAX_PREFETCH,
    MAX_THREADS,
    PINS,
    check_hw_decoder_load,
)
from yolodata.plain_yaml import read_settings
from yolodata.redaction import stored
from yolodata.telemetry.metrics.destination import read_destination
from yolodata.telemetry.step_range import profile_range

if TYPE_CHECKING:
    from typing_extensions import Self

SETTINGS_FILE = "yolodata.yaml"
"""Beside `args.yaml` in the run folder: `resume=True` finds the settings of the run there."""

OF_VALIDATION = (
    "folder", "codec", "reencode", "keep_files", "threads", "workers", "check", "max_unreadable",
    "pin",
)  # fmt: skip
"""Settings that a validation has; the others are about training."""

OF_ONE_START = ("other_data",)
"""Settings that are not kept in the run folder: they allow something once."""


@dataclass(frozen=True)
class Settings:
    """How a training run is fed.

    Flat, as on a command line and in the run folder's YAML: `configure` names each one alone.

    Attributes:
        folder: where packed datasets go; None is a folder beside the dataset, DATASET.yolodata
            (`folder="/data/shards"`).
        codec: "raw" (pixels; fastest), "jpeg" (the original files; about five times smaller), or
            "auto": raw where all splits together take no more than a third of the free space, else
            jpeg; what is packed already is used (`codec="jpeg"`).
        reencode: with codec jpeg, store images that are larger than `imgsz` as JPEG files of
            `imgsz` and this quality, 1 to 100; True is 90; None, or False, keeps the files. Such
            shards serve one `imgsz`, and other pixels than the files would: see docs/datasets.md
            (`reencode=90`).
        keep_files: with codec jpeg, keep the bytes of progressive JPEG files. Otherwise all but
            unusual ones become baseline files with the same pixels, which decode two to four times
            as fast (`keep_files=True`).
        threads: native threads a process; None uses Ultralytics' `workers` where a GPU trains, up
            to the process's share of the cores, and otherwise a quarter of that share, at least
            one (`threads=4`).
        cache: where decoded images live when a GPU trains: "device", "host", "none" or "auto"
            (`cache="host"`).
        hw_decoder_load: share of JPEG files, 0 to 1, that a GPU decodes with its JPEG engine;
            "auto" is 0. More is faster, but a repeated or resumed run then sees pictures that may
            differ by up to 3 grey levels (`hw_decoder_load=0.65`).
        prefetch: batches that are begun before they are asked for (`prefetch=8`).
        workers: threads that pack; see `yolodata.pack` (`workers=8`).
        check: compare a sample with its checksum whenever it is read into memory (`check=True`).
        max_unreadable: share of unreadable images above which training stops; one never stops it,
            unless this is 0 (`max_unreadable=0.0`).
        pin: where a machine has several NUMA nodes, "auto" keeps threads on those nearest to their
            GPU, and without one spreads them over all. With "off" they are left to the system
            (`pin="off"`).
        profile: steps whose trace torch's profiler writes into the run folder, a file for each
            rank, counted from 1 as in steps.csv, see docs/telemetry.md; None is none
            (`profile="100-105"`).
        telemetry: record every step in the run folder, see docs/telemetry.md (`telemetry=False`).
        other_data: a run that is resumed may go on with another dataset than its own, see
            docs/reproducibility.md; holds for one start and is not kept (`other_data=True`).
        metrics: where Prometheus finds metrics of each rank, see docs/monitoring.md; None has none.
            A port is that of the first rank of this machine, and each further rank takes the next
            one; "auto" is a free one. It answers this machine alone, or others if an interface
            comes before it (`"0.0.0.0:9401"`). A file that ends in .prom is for node-exporter
            (`metrics=9401`).
    """

    folder: str | None = None
    codec: str = "auto"
    reencode: int | bool | None = None
    keep_files: bool = False
    threads: int | None = None
    cache: str = "auto"
    hw_decoder_load: float | str = "auto"
    prefetch: int = 4
    workers: int | None = None
    check: bool = False
    max_unreadable: float = 0.01
    pin: str = "auto"
    profile: str | int | None = None
    telemetry: bool = True
    other_data: bool = False
    metrics: int | str | None = None

    def __post_init__(self) -> None:
        one_of("yolodata.codec", self.codec, ("raw", "jpeg", "auto"))
        if self.cache not in CACHES:
            raise ConfigError(
                f"yolodata.cache must be one of {', '.join(CACHES)}, got {self.cache!r}; the "
                "folder of packed datasets is the setting `folder`"
            )
        check_hw_decoder_load(self.hw_decoder_load)
        path_or_none("yolodata.folder", self.folder)
        most = {"threads": MAX_THREADS, "prefetch": MAX_PREFETCH, "workers": WORKERS}
        for name, limit in most.items():
            value = getattr(self, name)
            if value is not None or name == "prefetch":
                whole(f"yolodata.{name}", value, 1, limit)
        if not isinstance(self.reencode, bool | None):
            whole("yolodata.reencode", self.reencode, 1, 100, ", or True")
        for name in ("check", "telemetry", "keep_files", "other_data"):
            flag(f"yolodata.{name}", getattr(self, name))
        for name in ("reencode", "keep_files"):
            if self.codec == "raw" and getattr(self, name):
                raise ConfigError(
                    f"yolodata.{name}={getattr(self, name)} is about JPEG files, and codec=raw "
                    f"stores pixels; give codec=jpeg (or auto), or leave {name} out"
                )
        number("yolodata.max_unreadable", self.max_unreadable, 0, 1)
        one_of("yolodata.pin", self.pin, PINS)
        profile_range(self.profile)
        if self.metrics is not None:
            read_destination(self.metrics)
            if not self.telemetry:
                raise ConfigError(
                    f"yolodata.metrics={self.metrics} needs telemetry=True, got telemetry=False; "
                    "steps are recorded for both"
                )

    @property
    def quality(self) -> int | None:
        """The JPEG quality that `reencode` means; None keeps the files."""
        if isinstance(self.reencode, bool):
            return QUALITY if self.reencode else None
        return self.reencode

    def changed(self, values: Mapping[str, Any]) -> Self:
        """These settings with some replaced.

        Raises:
            ConfigError: a name is unknown, or a value is out of range.
        """
        _check_named(values)
        known = [field.name for field in fields(self)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConfigError(
                f"yolodata has no setting {', '.join(unknown)}{nearest(unknown[0], known)}; there "
                f"are {', '.join(known)}"
            )
        values = dict(values)
        if isinstance(values.get("folder"), Path):
            values["folder"] = str(values["folder"])
        return replace(self, **values)

    def changed_for_validation(self, values: Mapping[str, Any]) -> Self:
        """These settings with some replaced, of those that a validation has.

        Raises:
            ConfigError: a name is unknown there, or a value is out of range.
        """
        _check_named(values)
        others = sorted(set(values) - set(OF_VALIDATION))
        if others:
            raise ConfigError(
                f"yolodata has no setting {', '.join(others)} of validation; there are "
                f"{', '.join(OF_VALIDATION)}"
            )
        return self.changed(values)

    def save(self, run: Path) -> None:
        """Write the settings into a run folder, without the secrets of URLs.

        Raises:
            ConfigError: the disk is full, say.
        """
        try:
            with Folder.at(run) as folder:
                kept = {n: value for n, value in asdict(self).items() if n not in OF_ONE_START}
                text = yaml.safe_dump(stored(kept), sort_keys=False)
                folder.replace(SETTINGS_FILE, text.encode())
        except OSError as error:
            raise ConfigError(
                f"{run / SETTINGS_FILE} cannot be written: {error.strerror or error}; make room, "
                "or give another project="
            ) from error

    @classmethod
    def of_run(cls, run: Path, given: Mapping[str, Any] | None = None) -> Self | None:
        """The settings that a run was made with, or None; those that are given now come before.

        Raises:
            ConfigError: the file cannot be read, or holds something else. Or a setting had a secret
                in it, which was not stored, and is not given now.
        """
        if not (run / SETTINGS_FILE).exists():
            return None
        known = {field.name for field in fields(cls)} - set(OF_ONE_START)  # training has more
        saved = read_settings(run / SETTINGS_FILE)
        return cls().changed({n: saved[n] for n in saved if n in known} | dict(given or {}))

    def as_given(self) -> dict[str, Any]:
        """The settings that are not the default ones, as `changed` takes them."""
        usual = type(self)()
        return {
            name: value for name, value in asdict(self).items() if value != getattr(usual, name)
        }


def _check_named(values: Any) -> None:
    if not isinstance(values, Mapping):
        raise ConfigError(
            'yolodata must be settings by name, as in yolodata={"codec": "jpeg"} or, on a command '
            f"line, yolodata.codec=jpeg, got {values!r}"
        )
