"""Which metrics there are: names, kinds, units, labels and meanings.

A value is kept under a key: the name without `yolodata_`, and behind a slash the values of its
labels (`loss/box_loss`).
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

PREFIX = "yolodata_"

STEP_SECONDS = (
    0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8,
    1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0,
)  # fmt: skip
"""Upper ends of the histogram's buckets; the last one has none."""


PACKAGES = ("yolodata", "torch", "ultralytics")
"""Whose versions are labels of `build_info`."""


class Metric(NamedTuple):
    """One metric, with the labels run, rank and host.

    Attributes:
        name: without prefix and without Prometheus' `_total`; ends in its unit.
        kind: counter, gauge or histogram.
        help: what it says; the page of metrics has it, too.
        unit: OpenMetrics' base unit; "" has none.
        labels: that it has besides.
    """

    name: str
    kind: str
    help: str
    unit: str = ""
    labels: tuple[str, ...] = ()


METRICS = (
    Metric("step_seconds", "histogram", "Time of a training step: waiting, training, callbacks.",
           "seconds"),
    Metric("steps", "counter", "Steps that were taken, those again after a resume included."),
    Metric("images", "counter", "Pictures that were trained on, by this rank."),
    Metric("wait_seconds", "counter", "Time that steps waited for a batch.", "seconds"),
    Metric("device_wait_seconds", "counter",
           "Time that the GPU had nothing to do until the batch was there, after the host had it.",
           "seconds"),
    Metric("decode_images", "counter", "Images that were decoded."),
    Metric("decode_seconds", "counter", "Time that threads spent decoding, all together.",
           "seconds"),
    Metric("step_part_seconds", "counter",
           "Time of steps, and between them, by what it went to, as far as that is known.",
           "seconds", ("part",)),
    Metric("cache_hits", "counter", "Decoded images that were in memory when they were needed."),
    Metric("unreadable_images", "counter", "Images that could not be read, each once a process."),
    Metric("disk_read_bytes", "counter",
           "What this process had read from disk, past the page cache.", "bytes"),
    Metric("network_receive_bytes", "counter",
           "What the machine (its network namespace) received since the run began, loopback "
           "excluded; of the first rank of each machine.", "bytes"),
    Metric("skipped_steps", "counter",
           "Optimiser steps that overflow made the gradient scaler skip, by its halvings."),
    Metric("checkpoints", "counter", "Checkpoints that were written."),
    Metric("checkpoint_write_seconds", "counter", "Time that a thread took to write them.",
           "seconds"),
    Metric("step", "gauge", "Steps of the run that are done; goes back where a run resumes."),
    Metric("epoch", "gauge", "Epoch that is trained, from 1."),
    Metric("epochs", "gauge", "Epochs that the run is to have."),
    Metric("loss", "gauge", "Mean of a part of the loss over the epoch so far.", "", ("item",)),
    Metric("validation_loss", "gauge", "A part of the loss of the last validation.", "",
           ("item",)),
    Metric("map", "gauge", "Mean average precision of the last validation.", "", ("iou", "of")),
    Metric("gradient_scale", "gauge", "Factor of the loss in half precision; 1 without."),
    Metric("checkpoint_timestamp_seconds", "gauge",
           "When the newest checkpoint was written, since 1970.", "seconds"),
    Metric("checkpoint_size_bytes", "gauge", "Size of the newest checkpoint.", "bytes"),
    Metric("start_timestamp_seconds", "gauge", "When this process began to train, since 1970.",
           "seconds"),
    Metric("last_step_timestamp_seconds", "gauge", "When the last step ended, since 1970.",
           "seconds"),
    Metric("resident_memory_bytes", "gauge",
           "Memory that the process sees, mapped shards in the page cache included.", "bytes"),
    Metric("private_memory_bytes", "gauge", "The same without what is shared.", "bytes"),
    Metric("host_memory_bytes", "gauge",
           "Memory of the machine; of the first rank of each machine.", "bytes"),
    Metric("host_memory_available_bytes", "gauge",
           "Memory that processes could still get; of the first rank of each machine.", "bytes"),
    Metric("shm_size_bytes", "gauge", "Size of /dev/shm; of the first rank of each machine.",
           "bytes"),
    Metric("shm_free_bytes", "gauge", "What is free of it.", "bytes"),
    Metric("disk_size_bytes", "gauge",
           "Size of the file system of the run folder; of the first rank of each machine.",
           "bytes"),
    Metric("disk_free_bytes", "gauge", "What is free of it for users.", "bytes"),
    Metric("torch_memory_bytes", "gauge", "GPU memory that torch holds.", "bytes"),
    Metric("gpu_busy_ratio", "gauge", "Share of time in which a kernel ran; NVML's.", "ratio"),
    Metric("gpu_memory_used_bytes", "gauge", "Memory in use on the GPU, by all.", "bytes"),
    Metric("gpu_temperature_celsius", "gauge", "Temperature of the GPU.", "celsius"),
    Metric("gpu_power_watts", "gauge", "Power that the GPU draws.", "watts"),
    Metric("build_info", "gauge", "Always 1: versions, and who tells about the GPU.", "",
           (*PACKAGES, "gpu")),
)  # fmt: skip
"""All of them. What does not exist somewhere (a GPU, /proc) is left out there."""


_BY_NAME = {metric.name: metric for metric in METRICS}


def is_countable(key: str) -> bool:
    """Whether a key may be one of a total: those of other versions may, too."""
    name, *labels = key.split("/")
    metric = _BY_NAME.get(name)
    if not key.isprintable() or (metric is not None and metric.kind == "gauge"):
        return False
    if metric is None or metric.kind == "counter":
        return metric is None or len(labels) == len(metric.labels)
    try:
        return labels == ["sum"] or (len(labels) == 1 and float(labels[0]) > 0)
    except ValueError:
        return False


def bucket_of(seconds: float) -> str:
    """Returns the key of the histogram's bucket that a step's time falls into."""
    place = bisect_left(STEP_SECONDS, seconds)
    end = STEP_SECONDS[place] if place < len(STEP_SECONDS) else float("inf")
    return f"step_seconds/{end:g}"


def key(name: str, *labels: object) -> str:
    """Returns the key of a value; a slash in a label becomes a vertical bar."""
    return "/".join([name, *(str(label).replace("/", "|") for label in labels)])
