"""RUN/manifest.json: what a run was made of.

    {"version": 1, "written": "2026-11-29T02:10:00Z",
     "dataset": {"version", "data", "splits": {"train": {…}, "val": {…}}} or null,
     "no_dataset": why there is none, or null,
     "packages": {"yolodata": …, "torch": …, "commit": of the package, from a checkout},
     "git": {"commit", "changed"} or null,
     "settings": {"checksum", "arguments": {…}, "yolodata": {…}},
     "continued": [{"written", "epoch", "step", "changed": {"dataset": [was, is], …}}, …]}

All but `continued` says what the run is made of now: what the next step is trained on. Each time
that it goes on, `continued` gets a line with what changed then, so that what was before is known.
Secrets are in none of it. A manifest may have come from anywhere with its run folder or checkpoint.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from yolodata.environment import versions
from yolodata.errors import ConfigError
from yolodata.files import CHECKSUM, read_regular
from yolodata.folders import Folder
from yolodata.provenance.dataset_version import DatasetVersion
from yolodata.provenance.git_state import GitState
from yolodata.redaction import redacted
from yolodata.shards.format import content_checksum, is_count
from yolodata.shards.json_text import parse_json

FILE = "manifest.json"
VERSION = 1
LARGEST = 1 << 20  # bytes; ours have about 5,000
_LINES = 100  # of `continued`
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
PLACES = {
    "mode", "data", "project", "name", "exist_ok", "save_dir", "resume", "device", "workers",
    "cache", "verbose", "plots", "cfg", "source", "yolodata",
}  # fmt: skip
"""Arguments of Ultralytics that say where and how, and not what: another machine may have others.
Data are known by their version."""

_HOW = {
    "folder", "threads", "prefetch", "workers", "pin", "profile", "telemetry", "metrics", "cache",
    "checkpoint_minutes", "keep", "upload", "stall", "dry_step", "other_data",
}  # fmt: skip
"""Settings of yolodata that say where and how fast, and not what: they are not in the checksum."""


@dataclass(frozen=True)
class RunSettings:
    """How a run was asked for.

    Attributes:
        checksum: XXH3-64 of what decides the weights, 16 hexadecimal digits, as the yolodata that
            made the run counts it: which settings it leaves out may change.
        arguments: Ultralytics' own, without those that say where.
        yolodata: ours, those that are not the default ones.
    """

    checksum: str
    arguments: Mapping[str, Any]
    yolodata: Mapping[str, Any]

    @classmethod
    def of(cls, arguments: Mapping[str, Any], yolodata: Mapping[str, Any]) -> RunSettings:
        """Makes the checksum; of a model, its file's name counts."""
        given = dict(arguments)
        if isinstance(given.get("model"), str):
            given["model"] = Path(given["model"]).name
        ours = {name: value for name, value in yolodata.items() if name not in _HOW}
        checksum = content_checksum({"arguments": given, "yolodata": ours})
        return cls(checksum, arguments, yolodata)

    @classmethod
    def from_dict(cls, values: Any) -> RunSettings:
        """Reads what `asdict` made.

        Raises:
            ValueError: it is something else.
        """
        if (
            not isinstance(values, dict)
            or set(values) != {"checksum", "arguments", "yolodata"}
            or not isinstance(values["checksum"], str)
            or not CHECKSUM.fullmatch(values["checksum"])
            or not _is_named(values["arguments"])
            or not _is_named(values["yolodata"])
        ):
            raise ValueError("settings must have checksum, arguments, yolodata")
        return cls(**values)


@dataclass(frozen=True)
class Continued:
    """A time that the run went on.

    Attributes:
        written: UTC, as 2026-11-29T02:10:00Z.
        epoch, step: where, counted from 0.
        changed: what was another before, by its place in the manifest: [was, is].
    """

    written: str
    epoch: int
    step: int
    changed: Mapping[str, list[Any]]

    @classmethod
    def from_dict(cls, values: Any) -> Continued:
        """Reads what `asdict` made.

        Raises:
            ValueError: it is something else.
        """
        if (
            not isinstance(values, dict)
            or set(values) != {"written", "epoch", "step", "changed"}
            or not _is_time(values["written"])
            or not all(is_count(values[name], 0, 1 << 40) for name in ("epoch", "step"))
            or not _is_named(values["changed"])
            or not all(isinstance(v, list) and len(v) == 2 for v in values["changed"].values())
        ):
            raise ValueError("a line of continued must have written, epoch, step, changed")
        return cls(**values)


@dataclass(frozen=True)
class RunManifest:
    """What a run is made of.

    Attributes:
        written: UTC, as 2026-11-29T02:10:00Z.
        dataset: None where yolodata's loader does not train.
        no_dataset: why there is none.
        packages: versions by name; `commit` is the package's own, where it is run from a checkout.
        git: of the working folder; None where that is no checkout.
        settings: of the run.
        continued: each time that it went on, the last hundred at most.
    """

    written: str
    dataset: DatasetVersion | None
    no_dataset: str | None
    packages: Mapping[str, str]
    git: GitState | None
    settings: RunSettings
    continued: tuple[Continued, ...] = field(default=())

    @classmethod
    def of(
        cls,
        dataset: DatasetVersion | str,
        arguments: Mapping[str, Any],
        ours: Mapping[str, Any],
    ) -> RunManifest:
        """Returns the manifest of a run that begins now, in this process and working folder.

        Args:
            dataset: or why there is none.
            arguments: Ultralytics' own, without those that say where.
            ours: those of yolodata that are not the default ones.
        """
        found = dataset if isinstance(dataset, DatasetVersion) else None
        return cls.from_dict(
            {
                "version": VERSION,
                "written": _now(),
                "dataset": None if found is None else _clean(found.to_dict()),
                "no_dataset": None if found is not None else redacted(dataset),
                "packages": versions(),
                "git": _as_dict(GitState.of()),
                "settings": asdict(RunSettings.of(_clean(arguments), _clean(ours))),
                "continued": [],
            }
        )

    def continues(self, before: RunManifest | None, epoch: int, step: int) -> RunManifest:
        """Returns this manifest as that of a run that goes on.

        Args:
            before: of the run until now; None: it has none.
            epoch, step: where it goes on, counted from 0.
        """
        if before is None:
            known, changed = [], {"manifest": ["none", "written"]}
        else:
            known, changed = list(before.continued), before.changed_to(self)
        lines = [*known, Continued(_now(), epoch, step, changed)]
        while len(lines) > _LINES:  # those in which nothing changed first
            del lines[next((i for i, line in enumerate(lines) if not line.changed), 0)]
        return replace(self, continued=tuple(lines))

    def changed_to(self, other: RunManifest) -> dict[str, list[Any]]:
        """Returns what another manifest says otherwise, by its place: [here, there].

        Times and earlier continuations are no difference, and paths of a dataset are none.
        """
        was, now = self._facts(), other._facts()
        names = dict.fromkeys([*was, *now])
        return {n: [was.get(n), now.get(n)] for n in names if was.get(n) != now.get(n)}

    def _facts(self) -> dict[str, Any]:
        found: dict[str, Any] = {"dataset": None, "git.commit": None, "git.changed": None}
        if self.dataset is not None:
            found["dataset"] = self.dataset.version
            found |= {f"dataset.{n}": s.version for n, s in self.dataset.splits.items()}
        if self.git is not None:
            found |= {"git.commit": self.git.commit, "git.changed": self.git.changed}
        found |= {f"packages.{name}": value for name, value in self.packages.items()}
        found |= {f"settings.{name}": value for name, value in self.settings.arguments.items()}
        ours = self.settings.yolodata
        return found | {f"settings.yolodata.{name}": value for name, value in ours.items()}

    def tags(self) -> dict[str, str]:
        """Returns what trackers search and compare runs by: versions, by names of ours."""
        found = {"yolodata.settings": self.settings.checksum}
        if self.dataset is not None:
            found["yolodata.dataset"] = self.dataset.version
        if self.no_dataset is not None:
            found["yolodata.no_dataset"] = self.no_dataset
        if self.git is not None:
            found["yolodata.git_commit"] = self.git.commit
            found["yolodata.git_changed"] = str(self.git.changed)
        if "yolodata" in self.packages:
            found["yolodata.version"] = self.packages["yolodata"]
        return found

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the file: plain values for JSON."""
        return {
            "version": VERSION,
            "written": self.written,
            "dataset": None if self.dataset is None else self.dataset.to_dict(),
            "no_dataset": self.no_dataset,
            "packages": dict(self.packages),
            "git": _as_dict(self.git),
            "settings": asdict(self.settings),
            "continued": [asdict(line) for line in self.continued],
        }

    @classmethod
    def from_dict(cls, values: Any) -> RunManifest:
        """Reads what `to_dict` made.

        Raises:
            ValueError: it is something else; says what.
        """
        names = {
            "version", "written", "dataset", "no_dataset", "packages", "git", "settings",
            "continued",
        }  # fmt: skip
        if not isinstance(values, dict) or set(values) != names:
            raise ValueError(f"a manifest must have {', '.join(sorted(names))}")
        if values["version"] != VERSION or isinstance(values["version"], bool):
            raise ValueError(f"the version of a manifest must be {VERSION}")
        if not _is_time(values["written"]):
            raise ValueError("written must be a time in UTC, as 2026-11-29T02:10:00Z")
        dataset, why = values["dataset"], values["no_dataset"]
        if (dataset is None) != isinstance(why, str) or not isinstance(why, str | None):
            raise ValueError("there must be a dataset, or a text no_dataset")
        packages = values["packages"]
        if not _is_named(packages) or not all(isinstance(v, str) for v in packages.values()):
            raise ValueError("packages must have versions, by name")
        lines = values["continued"]
        if not isinstance(lines, list) or len(lines) > _LINES:
            raise ValueError(f"continued must be a list of at most {_LINES}")
        return cls(
            written=values["written"],
            dataset=None if dataset is None else DatasetVersion.from_dict(dataset),
            no_dataset=why,
            packages=packages,
            git=None if values["git"] is None else GitState.from_dict(values["git"]),
            settings=RunSettings.from_dict(values["settings"]),
            continued=tuple(Continued.from_dict(line) for line in lines),
        )

    def to_json(self) -> bytes:
        """The bytes of the file.

        Raises:
            ConfigError: no reader would take so many.
        """
        text = (json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n").encode()
        if len(text) > LARGEST:
            raise ConfigError(
                f"{FILE} would have {len(text)} bytes, at most {LARGEST} are allowed; give "
                "shorter arguments"
            )
        return text

    @classmethod
    def from_json(cls, text: bytes) -> RunManifest:
        """Reads the bytes of the file.

        Raises:
            ValueError: they are no manifest; says what is wrong.
        """
        if len(text) > LARGEST:
            raise ValueError(f"it has {len(text)} bytes, at most {LARGEST} are allowed")
        try:
            return cls.from_dict(parse_json(text, "it"))
        except OSError as error:
            raise ValueError(str(error).removesuffix("; pack again")) from None

    def write(self, run: Path) -> None:
        """Writes RUN/manifest.json, whole or not.

        Raises:
            OSError: the disk is full, say.
        """
        with Folder.at(run) as folder:
            folder.replace(FILE, self.to_json())


def read(run: Path) -> RunManifest | None:
    """Reads RUN/manifest.json; None where there is none: an older yolodata made the run.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    path = run / FILE
    try:
        return RunManifest.from_json(read_regular(path, LARGEST))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or error
        raise ConfigError(
            f"{path}: is no manifest of a run: {why}; remove it (the next start of the run writes "
            "another one), or name another run"
        ) from None


def is_manifest(value: Any) -> bool:
    """Whether a value from elsewhere, of plain values, is `to_dict` of a manifest."""
    try:
        RunManifest.from_json(json.dumps(value, allow_nan=False).encode())
        RunManifest.from_dict(value)  # of JSON, all names are texts
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _as_dict(git: GitState | None) -> dict[str, Any] | None:
    return None if git is None else asdict(git)


def _clean(value: Any) -> Any:
    """A value for JSON, without secrets; it is read by people and not used again."""
    if isinstance(value, Mapping):
        return {redacted(name): _clean(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(each) for each in value]
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return redacted(value)


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


def _is_time(value: Any) -> bool:
    return isinstance(value, str) and _TIME.fullmatch(value) is not None
