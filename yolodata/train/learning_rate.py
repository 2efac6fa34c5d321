"""Learning rates of large batches."""

from __future__ import annotations

SCALES = ("auto", "none", "sqrt", "linear")
_OF_ADAMS_KIND = {"Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSProp", "RMSprop"}


def lr_factor(optimizer: str, larger: float, scale: str) -> float:
    """Returns what learning rates are multiplied with.

    Args:
        optimizer: name of its class.
        larger: batch of an update, in units of `nbs`.
        scale: one of `SCALES`; see `TrainSettings.scale_lr`.
    """
    if scale == "auto":
        scale = "sqrt" if optimizer in _OF_ADAMS_KIND else "none"
    if larger <= 1 or scale == "none":
        return 1.0
    return larger if scale == "linear" else larger**0.5
