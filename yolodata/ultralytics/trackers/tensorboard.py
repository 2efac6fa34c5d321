"""TensorBoard: versions and arguments as hyperparameters of the run, the manifest as text.

Upstream's logger is loaded when these functions are called, and TensorBoard with it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from yolodata.provenance.manifest import RunManifest

TEXT = "yolodata/manifest"
"""Tag of the text."""


def tell(trainer: Any, found: RunManifest) -> None:
    """Writes into the files that upstream writes to.

    The metrics of the table of hyperparameters are the scalars of the same run: upstream writes
    them, the last ones after the evaluation of the best weights. In a run that goes on, what an
    interrupted attempt wrote of the epochs that come again is declared void first.
    """
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    writer = _writer()
    if writer is None:
        return
    ours = hasattr(trainer, "next_epoch")
    epoch = trainer.next_epoch() if ours else int(trainer.start_epoch)
    if trainer.args.resume:
        void = Event(session_log=SessionLog(status=SessionLog.START))
        writer.file_writer.add_event(void, epoch + 1)  # upstream counts from 1
    values = {**found.tags(), **found.settings.arguments}
    plain = {
        name: value if isinstance(value, (bool, int, float, str)) else json.dumps(value)
        for name, value in values.items()
        if value is not None
    }
    metrics = [name for name in trainer.metrics or {} if name.startswith("metrics/")]
    experiment, start, _ = _hparams(plain, dict.fromkeys(metrics, 0.0))
    for summary in (experiment, start):
        writer.file_writer.add_summary(summary)
    indented = "\n".join(f"    {line}" for line in found.to_json().decode().splitlines())
    writer.add_text(TEXT, indented, epoch)  # Markdown: four spaces are code


def end() -> None:
    """Notes that the run came to its end."""
    writer = _writer()
    if writer is not None:
        writer.file_writer.add_summary(_hparams({}, {})[2])


def _writer() -> Any:
    return sys.modules["ultralytics.utils.callbacks.tensorboard"].WRITER


def _hparams(values: dict[str, Any], metrics: dict[str, float]) -> Any:
    """Summaries: what is compared, the run's values, and that it ended."""
    from torch.utils.tensorboard.summary import hparams

    return hparams(values, metrics)  # type: ignore[no-untyped-call]
