"""A trace of a few training steps by torch's profiler, for Perfetto (https://ui.perfetto.dev)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ultralytics.utils import LOGGER, RANK

from yolodata.errors import ConfigError
from yolodata.files import write_all
from yolodata.folders import Folder
from yolodata.telemetry.step_range import StepRange
from yolodata.ultralytics.telemetry import detach


def attach_profiler(trainer: Any, steps: StepRange) -> None:
    """Has some steps of a trainer profiled; each rank writes a file into the run folder."""
    profiler = StepProfiler(steps)
    detach(trainer, StepProfiler)
    trainer.add_callback("on_train_start", profiler.check)
    trainer.add_callback("on_train_epoch_start", profiler.begin)
    trainer.add_callback("on_train_batch_start", profiler.batch)
    trainer.add_callback("on_train_batch_end", profiler.done)
    trainer.add_callback("on_train_end", profiler.close)
    trainer.add_callback("teardown", profiler.close)


class StepProfiler:
    """Callbacks of one trainer.

    The trace begins where the first of its steps asks for its batch, and ends after the callbacks
    of the last. Waiting for a batch and the rest of a step are named in it. An epoch that ends
    within the steps is in the trace with its validation.

    Args:
        steps: that are profiled.
    """

    def __init__(self, steps: StepRange) -> None:
        self._steps = steps
        self._done = 0  # steps of the run
        self._profiler: Any = None
        self._part: Any = None

    def check(self, trainer: Any) -> None:
        """Training begins.

        Raises:
            ConfigError: the run is too short for the steps.
        """
        total = trainer.epochs * len(trainer.train_loader)
        if self._steps.first > total and not getattr(trainer.args, "time", None):
            raise ConfigError(
                f"yolodata.profile must be steps from 1 to {total}, which {trainer.epochs} epochs "
                f"of {len(trainer.train_loader)} batches are, got "
                f"{self._steps.first}-{self._steps.last}"
            )

    def begin(self, trainer: Any) -> None:
        """An epoch begins, or goes on."""
        before = trainer.batches_done() if hasattr(trainer, "batches_done") else 0
        self._done = trainer.epoch * len(trainer.train_loader) + before
        self._wait(trainer)

    def batch(self, trainer: Any) -> None:
        """The loop has a batch."""
        if self._profiler is not None:
            self._name(f"step {self._done + 1}")

    def done(self, trainer: Any) -> None:
        """A step has ended."""
        self._done += 1
        if self._profiler is not None and self._done >= self._steps.last:
            self._write(Path(trainer.save_dir))
        self._wait(trainer)

    def _wait(self, trainer: Any) -> None:
        """The next batch is asked for."""
        if self._profiler is None and self._done + 1 == self._steps.first:
            self._start(trainer.device)
        if self._profiler is not None:
            self._name(f"waiting for the batch of step {self._done + 1}")

    def close(self, trainer: Any) -> None:
        """Training has ended; the trace, too, if it was earlier than thought."""
        if self._profiler is not None:
            self._write(Path(trainer.save_dir))

    def _start(self, device: Any) -> None:
        from torch.profiler import ProfilerActivity, profile

        kinds = [ProfilerActivity.CPU]
        if device.type == "cuda":
            kinds.append(ProfilerActivity.CUDA)
        self._profiler = profile(activities=kinds)
        self._profiler.start()

    def _name(self, part: str) -> None:
        """Names what goes on from here on, in the trace."""
        from torch.profiler import record_function

        self._end_part()
        self._part = record_function(part)
        self._part.__enter__()

    def _end_part(self) -> None:
        part, self._part = self._part, None
        if part is not None:
            part.__exit__(None, None, None)

    def _write(self, folder: Path) -> None:
        self._end_part()
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        path = folder / f"profile.rank{max(RANK, 0)}.json.gz"
        try:
            _export(profiler, path)
        except (OSError, RuntimeError) as error:  # no reason to end training
            LOGGER.warning(f"yolodata: the profile cannot be written to {path}: {error}")
            return
        first, last = self._steps
        LOGGER.info(f"yolodata: steps {first}-{last} are in {path}; https://ui.perfetto.dev")


def _export(profiler: Any, path: Path) -> None:
    """Writes a trace; torch knows only names, and would follow a link that has the file's."""
    with tempfile.TemporaryDirectory(prefix="yolodata-") as made, Folder.at(path.parent) as run:
        trace = Path(made) / path.name
        profiler.export_chrome_trace(str(trace))
        with trace.open("rb") as content, run.writing(path.name, durable=False) as file:
            while block := content.read(1 << 20):
                write_all(file.fileno(), block)
