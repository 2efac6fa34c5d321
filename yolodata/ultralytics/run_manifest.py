"""What a run of Ultralytics' trainers is made of, written into its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from yolodata.errors import ConfigError
from yolodata.provenance.dataset_version import DatasetVersion
from yolodata.provenance.manifest import FILE, PLACES, RunManifest, RunSettings, read


def manifest_of(args: Any, dataset: DatasetVersion | str, ours: Mapping[str, Any]) -> RunManifest:
    """Returns the manifest of a run that begins now.

    Args:
        args: Ultralytics' training arguments.
        dataset: or why there is none.
        ours: the settings of yolodata that are not the default ones.
    """
    given = {name: value for name, value in vars(args).items() if name not in PLACES}
    return RunManifest.of(dataset, given, ours)


def write_manifest(manifest: RunManifest, run: Path) -> None:
    """Writes RUN/manifest.json.

    Raises:
        ConfigError: the disk is full, say.
    """
    try:
        manifest.write(run)
    except OSError as error:
        raise ConfigError(
            f"{run / FILE} cannot be written: {error.strerror or error}; make room, or give "
            "another project="
        ) from error


def note_upstreams(what: str, trainer: Any) -> None:
    """Writes the manifest of a run of Ultralytics' own trainer, which begins or goes on.

    Args:
        what: is trained, in words.
        trainer: Ultralytics'.
    """
    made = manifest_of(trainer.args, f"Ultralytics' own loader trains {what}", {})
    run = Path(trainer.save_dir)
    if trainer.resume:
        made = resumed(made, read(run), int(trainer.start_epoch))
    write_manifest(made, run)


def resumed(made: RunManifest, before: RunManifest | None, epoch: int) -> RunManifest:
    """Returns the manifest of a run that Ultralytics' own resume goes on with.

    Its model is the one that the run was begun with; Ultralytics names the weights it resumes from.
    """
    if before is not None and "model" in before.settings.arguments:
        given = {**made.settings.arguments, "model": before.settings.arguments["model"]}
        made = replace(made, settings=RunSettings.of(given, made.settings.yolodata))
    return made.continues(before, epoch, 0)
