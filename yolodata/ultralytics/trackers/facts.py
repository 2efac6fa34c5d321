"""A manifest in few words: what runs are searched and compared by."""

from __future__ import annotations

from yolodata.provenance.manifest import RunManifest


def facts(manifest: RunManifest) -> dict[str, str]:
    """Returns the versions of dataset, settings, code and package, by names of ours."""
    found = {"yolodata.settings": manifest.settings.checksum}
    if manifest.dataset is not None:
        found["yolodata.dataset"] = manifest.dataset.version
    if manifest.no_dataset is not None:
        found["yolodata.no_dataset"] = manifest.no_dataset
    if manifest.git is not None:
        found["yolodata.git_commit"] = manifest.git.commit
        found["yolodata.git_changed"] = str(manifest.git.changed)
    if "yolodata" in manifest.packages:
        found["yolodata.version"] = manifest.packages["yolodata"]
    return found
