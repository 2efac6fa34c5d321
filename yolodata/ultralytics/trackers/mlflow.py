"""MLflow: the dataset as an input, versions as tags, the manifest as an artifact.

MLFLOW_FILE has the run's id, so that a training that goes on does so in the same run. Upstream's
logger is loaded when these functions are called, and MLflow with it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ultralytics.utils import LOGGER

from yolodata.folders import Folder
from yolodata.plain_yaml import read_plain_yaml
from yolodata.provenance import manifest
from yolodata.provenance.manifest import RunManifest
from yolodata.redaction import redacted

MLFLOW_FILE = "mlflow.yaml"
"""In the run folder; uploaded with it, as all settings are."""

_RUN_ID = re.compile("[A-Za-z0-9][A-Za-z0-9_-]{0,255}")  # as MLflow checks it
_LONGEST_NAME = 500  # characters, of MLflow's


def begin(trainer: Any, callback: Callable[[Any], None]) -> None:
    """Begins to log, or goes on in the run that the training had before.

    Args:
        trainer: any of Ultralytics'.
        callback: upstream's, which begins a run, or joins the one that the user has begun.
    """
    import mlflow

    address = mlflow.get_tracking_uri()
    if redacted(address) != address:  # MLflow prints it when the run ends
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    if not _go_on(trainer):
        callback(trainer)
    run = mlflow.active_run()
    if getattr(trainer, "_mlflow_active", False) and run is not None:
        with Folder.at(trainer.save_dir) as folder:
            folder.replace(MLFLOW_FILE, f"run_id: '{run.info.run_id}'\n".encode())


def _go_on(trainer: Any) -> bool:
    """Whether there is a run to go on with; not if the user has begun or named another one."""
    import mlflow

    kept = _kept_run(trainer)
    if kept is None or mlflow.active_run() or os.environ.get("MLFLOW_RUN_ID", kept) != kept:
        return False
    try:
        run = mlflow.MlflowClient().get_run(kept)
        mlflow.set_experiment(experiment_id=run.info.experiment_id)
        mlflow.start_run(run_id=kept)
    except Exception as error:
        why = redacted(f"{type(error).__name__}: {error}".splitlines()[0])
        LOGGER.warning(f"yolodata: MLflow cannot go on with run {kept}, and begins another: {why}")
        return False
    os.environ.pop("MLFLOW_RUN_ID", None)  # as start_run does, when it takes the id from there
    trainer._mlflow_active = trainer._mlflow_started_run = True  # upstream logs, and ends it
    LOGGER.info(f"MLflow: going on with run_id({kept}) at {redacted(mlflow.get_tracking_uri())}")
    return True


def tell(trainer: Any, found: RunManifest) -> None:
    """Logs to the run that upstream logs to; nothing where it could not begin one."""
    if not getattr(trainer, "_mlflow_active", False):
        return
    import mlflow

    mlflow.set_tags(found.tags())
    if found.dataset is not None:
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.data.sources import LocalArtifactDatasetSource

        first = next(iter(found.dataset.splits.values()))
        dataset = MetaDataset(
            LocalArtifactDatasetSource(str(Path(first.path).absolute())),
            name=found.dataset.data[-_LONGEST_NAME:],
            digest=found.dataset.version,
        )
        mlflow.log_input(dataset, context="training")
    mlflow.log_artifact(str(trainer.save_dir / manifest.FILE))


def _kept_run(trainer: Any) -> str | None:
    if not trainer.args.resume:
        return None
    try:
        found = str(read_plain_yaml(trainer.save_dir / MLFLOW_FILE)["run_id"])
    except (OSError, ValueError, KeyError):
        return None
    return found if _RUN_ID.fullmatch(found) else None  # the file may have come from anywhere
