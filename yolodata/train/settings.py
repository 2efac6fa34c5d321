"""Settings of a training run that Ultralytics' arguments have no place for."""

from __future__ import annotations

from dataclasses import dataclass

from yolodata.checks import flag, number, one_of, path_or_none, whole
from yolodata.errors import ConfigError
from yolodata.redaction import HIDDEN, redacted
from yolodata.train.checkpoint.object_store import ObjectStore
from yolodata.ultralytics.settings import Settings

_SCALES = ("auto", "none", "sqrt", "linear")
_OF_ADAMS_KIND = {"Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSProp", "RMSprop"}


@dataclass(frozen=True)
class TrainSettings(Settings):
    """How a run is fed (see `Settings`), and how it survives.

    Attributes:
        checkpoint_minutes: time between checkpoints within an epoch; 0 is only at its end
            (`checkpoint_minutes=2.0`).
        keep: checkpoints kept in the run folder, and at `upload` (`keep=5`).
        upload: where checkpoints, weights, results, settings and plots are copied to, any fsspec
            URL (s3://, gs://, a path), which is stored without secrets in it; None is nowhere
            (`upload="s3://bucket/runs"`).
        stall: seconds that a step, or a batch of validation, may take before its rank counts as
            stalled; ten times the longest one so far, if that is more. The first ones, callbacks,
            saving and other phases of unknown duration may take ten times as many (see
            `watchdog.heartbeat`) (`stall=60.0`).
        callbacks: a Python file whose functions are named after Ultralytics' events
            (`on_train_epoch_end(trainer)`, say); every rank runs them
            (`callbacks="callbacks.py"`).
        whole_batch_loss: targets are counted over all ranks, so that gradients are those of one
            process with the whole batch; False is Ultralytics' way, each rank's own count. What is
            logged is the loss of the whole batch in both cases (`whole_batch_loss=False`).
        scale_lr: what the learning rate is multiplied with where an update is made of more than
            `nbs` pictures: "sqrt" or "linear" in pictures / nbs, "none", or "auto": "sqrt" for
            optimisers of Adam's kind, "none" for SGD, whose steps grow by themselves (the loss is a
            sum over the batch) (`scale_lr="linear"`).
        dry_step: try the largest batch before the first epoch; None is on a GPU only
            (`dry_step=True`).
    """

    checkpoint_minutes: float = 10.0
    keep: int = 2
    upload: str | None = None
    stall: float = 30.0
    callbacks: str | None = None
    whole_batch_loss: bool = True
    scale_lr: str = "auto"
    dry_step: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        number("yolodata.checkpoint_minutes", self.checkpoint_minutes, 0)
        number("yolodata.stall", self.stall, 1)
        whole("yolodata.keep", self.keep, 1)
        one_of("yolodata.scale_lr", self.scale_lr, _SCALES)
        flag("yolodata.whole_batch_loss", self.whole_batch_loss)
        if not isinstance(self.dry_step, bool | None):
            raise ConfigError(
                f"yolodata.dry_step must be True, False or None, got {self.dry_step!r}"
            )
        if self.upload is not None:
            if not isinstance(self.upload, str) or not self.upload:
                raise ConfigError(
                    "yolodata.upload must be a path or a URL (s3://BUCKET/FOLDER, say), got "
                    f"{redacted(repr(self.upload))}"
                )
            if HIDDEN in self.upload:
                raise ConfigError(
                    f"yolodata.upload is {self.upload}, a URL without its secret, because none is "
                    "stored in a run folder; give yolodata.upload=URL again"
                )
            try:
                ObjectStore(self.upload)  # is its file system installed? connects to nothing
            except ConfigError as error:
                raise ConfigError(f"yolodata.upload: {error}") from error
        path_or_none("yolodata.callbacks", self.callbacks)

    def lr_factor(self, optimizer: str, larger: float) -> float:
        """Returns what learning rates are multiplied with, by `scale_lr`.

        Args:
            optimizer: name of its class.
            larger: batch of an update, in units of `nbs`.
        """
        scale = self.scale_lr
        if scale == "auto":
            scale = "sqrt" if optimizer in _OF_ADAMS_KIND else "none"
        if larger <= 1 or scale == "none":
            return 1.0
        return larger if scale == "linear" else larger**0.5
