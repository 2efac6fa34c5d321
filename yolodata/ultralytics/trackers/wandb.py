"""W&B: the manifest in the run's config, the dataset as an artifact by reference.

Upstream's logger is loaded when this is called, and wandb with it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from yolodata.provenance.dataset_version import DatasetVersion
from yolodata.provenance.manifest import RunManifest
from yolodata.shards.format import DATASET_FILE

_LONGEST_NAME = 120  # characters; W&B's limit is 128


def tell(trainer: Any, found: RunManifest) -> None:
    """Adds to the run that upstream has begun, or joined.

    Without a network W&B takes no artifact as an input of a run: it is logged then, and becomes an
    output when the run is synced.
    """
    import wandb

    run = wandb.run
    if run is None:
        return
    run.config.update({"yolodata": found.to_dict()}, allow_val_change=True)
    if found.dataset is None or run.disabled:
        return
    give = run.log_artifact if run.offline else run.use_artifact
    give(_artifact(found.dataset), aliases=["latest", found.dataset.version])


def _artifact(dataset: DatasetVersion) -> Any:
    """An artifact whose version changes when the dataset's does: nothing of it is uploaded."""
    import wandb

    name = re.sub(r"[^\w.-]+", "-", dataset.data, flags=re.ASCII).strip("-")[-_LONGEST_NAME:]
    made = wandb.Artifact(name or "dataset", type="dataset", metadata=dataset.to_dict())
    for split, version in dataset.splits.items():
        path = Path(version.path).absolute() / DATASET_FILE
        made.add_reference(path.as_uri(), name=f"{split}/{DATASET_FILE}")
    return made
