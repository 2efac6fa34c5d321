"""The manifest of what a path leads to: a run, one of its checkpoints, weights, or itself."""

from __future__ import annotations

from pathlib import Path

from yolodata.errors import ConfigError
from yolodata.provenance import manifest, weights
from yolodata.provenance.manifest import RunManifest

_OF_A_RUN = (manifest.FILE, "args.yaml", "checkpoints", "weights")


def is_of_a_run(path: Path) -> bool:
    """Whether this is a run folder, or by its name a file with a manifest; nothing is opened."""
    if path.is_dir():
        return any((path / name).exists() for name in _OF_A_RUN)
    return path.suffix in (".pt", ".ckpt") or path.name == manifest.FILE


def manifest_of(path: Path) -> RunManifest:
    """Reads a manifest. No code in a file is run, whoever made it.

    Args:
        path: a run folder, a .ckpt or a .pt file, or a manifest.json that MLflow has kept, say.

    Raises:
        ConfigError: there is none, or it cannot be read.
        YolodataError: a checkpoint is damaged, or of another version.
    """
    if path.name == manifest.FILE and path.is_file():
        path = path.parent
    found = manifest.read(path) if path.is_dir() else _in_file(path)
    if found is None:
        raise ConfigError(
            f"{path}: does not say what it was made of: an older yolodata, another program, or "
            "Ultralytics' own trainer made it; start the run again, which writes the manifest of "
            "its folder"
        )
    return found


def _in_file(path: Path) -> RunManifest | None:
    if path.suffix == ".ckpt":
        from yolodata.train.checkpoint import file

        state = file.read(path)
        # The reader has checked it; one of an older yolodata is missing.
        return RunManifest.from_dict(state["manifest"]) if state.get("manifest") else None
    try:
        return weights.read(path)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or error
        raise ConfigError(
            f"{path}: cannot be read: {why}; name a run folder, a .ckpt or a .pt file of one"
        ) from None
