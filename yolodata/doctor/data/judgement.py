"""From paces to findings: what each thing costs, and which one knob to turn."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from yolodata.doctor.data.pace import Pace
from yolodata.doctor.data.sample import Looks
from yolodata.doctor.finding import NOTICED, Finding, Kind, Knob

_LEAST_MS = 1.0
"""Milliseconds of a step from which a loss is one: handing a batch over takes some tenths."""

_ERRORS = 1.0
"""Standard errors by which a loss has to be larger: with more, short examinations miss faults."""

NOTICED_ONCE = 0.15
"""The same for what is lost in the first epoch alone."""

_EXPLAINS = 0.25
"""Share of what is lost from which a fault explains it, and the loader as such is not to blame."""

_OF_CORES = ("cores", "quota", "workers")
"""Causes that together keep a loader from using the cores that there are."""

_BUSY = 0.25
"""Share of the cores that others may use without a word."""

WORTHWHILE = 1.10
"""Gain from which a change is worth a word though nothing is wrong."""


@dataclass(frozen=True)
class Measured:
    """What the experiments found.

    Attributes:
        loader: "ultralytics" or "yolodata".
        own: the step on a batch that never changes, which lies where the model is.
        copied: the same with the batch in page-locked memory of the host; None without a GPU.
        cold: the loader as it is, on files that are not in memory.
        warm: the loader as it is, on files that are.
        changed: paces with one thing changed, by what was changed: "cores", "workers", "baseline",
            "small", "decoded", "yolodata", "raw".
        base: "cold" or "warm": with which of both the changed paces are compared; pictures are
            always stored in memory for `baseline`, `small`, `decoded`, `yolodata` and `raw`.
        fits: the dataset fits into the memory of this machine, so that storage is read once.
        read_ms: milliseconds to read one image from storage.
        image_bytes: mean bytes of an image.
        batch: pictures a step.
        imgsz: pixels.
        workers: processes, or threads, of the loader as it is.
        workers_tried: of the pace "workers".
        cores: that this process may use.
        cores_tried: of the pace "cores".
        quota: processor time that the container may use, in cores; None is without limit.
        others: cores that other processes kept busy meanwhile, of those that this one may use.
        looks: of the images.
    """

    loader: str
    own: Pace
    copied: Pace | None = None
    cold: Pace | None = None
    warm: Pace | None = None
    changed: dict[str, Pace] = field(default_factory=dict)
    base: str = "warm"
    fits: bool = True
    read_ms: float = 0.0
    image_bytes: float = 0.0
    batch: int = 16
    imgsz: int = 640
    workers: int = 0
    workers_tried: int = 0
    cores: int = 1
    cores_tried: int = 0
    quota: float | None = None
    others: float = 0.0
    looks: Looks | None = None

    @property
    def now(self) -> Pace | None:
        """The pace with which changed ones are compared."""
        return self.cold if self.base == "cold" and self.cold else self.warm

    @property
    def storage_ms(self) -> float:
        """Milliseconds of a step that storage costs: no more than its reads take in turn."""
        if self.cold is None or self.warm is None:
            return 0.0
        reads = 1.3 * self.batch * self.read_ms if self.read_ms else math.inf
        return min(self.cold.step_ms - self.warm.step_ms, reads)

    @property
    def storage_is_slow(self) -> bool:
        """Whether storage costs a share of the step that is a loss."""
        if self.cold is None:
            return False
        return self.storage_ms > self.cold.step_ms * (NOTICED_ONCE if self.fits else NOTICED)

    @property
    def copy_ms(self) -> float:
        """Milliseconds of a step that copying the batch to the device costs."""
        copied = self.copied.own_ms if self.copied else self.own.own_ms
        return max(0.0, copied - self.own.own_ms)

    @property
    def starves(self) -> bool:
        """Whether the step waits for its batches, with files in memory or without."""
        return any(pace.waiting > NOTICED for pace in (self.cold, self.warm) if pace)

    def without(self, name: str) -> float | None:
        """Milliseconds of a step as it is now, but for one thing; None where it was not measured.

        Pictures stored in another way were measured in memory: what storage costs comes back.
        """
        pace = self.changed.get(name)
        if pace is None or self.now is None or self.warm is None:
            return None
        if name in ("cores", "workers") or self.base == "warm":
            return pace.step_ms
        return pace.step_ms + self.storage_ms

    @property
    def without_quota(self) -> float | None:
        """Milliseconds of a step if the container's limit were not: from processor time.

        The processes need so much time whatever the limit. Without it they share the cores.
        """
        now = self.now
        if now is None or self.quota is None or self.quota >= self.cores:
            return None
        return _shared(now, self.workers, self.cores)

    @property
    def with_all_cores(self) -> float | None:
        """Milliseconds of a step with a worker on each core that there is, and without a limit.

        From processor time. Of too few cores, a quota and too few workers, one hides what the
        others cost.
        """
        cores = max(self.cores, self.cores_tried)
        return _shared(self.now, cores, cores) if self.now else None


def _shared(pace: Pace, workers: int, cores: int) -> float | None:
    """Milliseconds of a step if workers share cores without any other limit; None: not known."""
    if not pace.cpu_ms:
        return None
    if workers == 0:
        return pace.own_ms + pace.cpu_ms
    makers = (pace.cpu_ms - pace.main_ms) / min(workers, cores)
    loader = max(makers, pace.cpu_ms / cores)
    return max(pace.own_ms + pace.main_ms, loader)


def judge(measured: Measured) -> list[Finding]:
    """Returns findings about how batches are made, in no order."""
    now = measured.now
    if now is None:
        return []
    found = [*_storage(measured), *_faults(measured), *_copy(measured), *_others(measured)]
    lost = now.step_ms - now.own_ms
    explained = max((one.lost_ms or 0.0 for one in found), default=0.0)
    after = measured.with_all_cores
    if after is not None and any(one.cause in _OF_CORES for one in found):
        explained = max(explained, now.step_ms - after)
    found += _loader(measured, unexplained=explained < lost * _EXPLAINS)
    return found


def _storage(m: Measured) -> list[Finding]:
    if not m.storage_is_slow or m.cold is None or m.warm is None:
        return []
    size = m.image_bytes / 2**20
    read = (
        f"reading one image of {1024 * size:.0f} KiB takes {m.read_ms:.1f} ms "
        f"({1e3 * size / m.read_ms:.0f} MiB/s)"
        if m.read_ms
        else f"a step reads about {m.batch * size:.1f} MiB"
    )
    when = (
        "in the first epoch; later ones find the files in memory"
        if m.fits
        else "in every epoch: the dataset is larger than the memory"
    )
    return [
        Finding(
            "storage",
            "slow",
            f"Reading the images from storage holds the step up, {when}",
            f"{m.cold.step_ms:.1f} ms a step on files that are not in memory, "
            f"{m.warm.step_ms:.1f} ms with the same loader on files that are; {read}",
            Knob(
                "Copy the dataset to a local disk before training, or pack it there with "
                "`yolodata shard`",
                {},
            ),
            lost_ms=m.storage_ms,
            step_ms=m.cold.step_ms,
            gain=m.cold.step_ms / m.warm.step_ms,
            measured=True,
            first_epoch=m.fits,
        )
    ]


def _faults(m: Measured) -> list[Finding]:
    looks = m.looks
    progressive = looks.progressive if looks else 0.0
    side, large = (looks.longer_side, looks.large) if looks else (0.0, 0.0)
    ours = m.loader == "yolodata"
    what = "threads" if ours else "workers"
    quota = m.quota or 0.0
    now = m.now
    assert now is not None
    candidates = [
        _slow(
            m, "cores", m.without("cores"),
            f"The process may use {m.cores} of the {m.cores_tried} cores",
            f"with all {m.cores_tried} cores",
            Knob(
                f"Let the process use all {m.cores_tried} cores (taskset, the scheduler's "
                "--cpus-per-task, or the container's cpuset)",
                {},
            ),
        ),
        _slow(
            m, "quota", m.without_quota,
            f"The container is limited to {quota:g} of {m.cores} cores",
            f"a batch takes {now.cpu_ms:.0f} ms of processor time; shared by {m.cores} cores",
            Knob(f"Raise the container's CPU limit from {quota:g} to {m.cores} cores", {}),
            measured=False,
        ),
        _slow(
            m, "workers", m.without("workers"),
            f"The loader works with {m.workers} {what[: -1 if m.workers == 1 else None]} on "
            f"{m.cores} core{'s' * (m.cores != 1)}"
            if m.workers
            else "The loader works in the training process, one batch after the other",
            f"with {m.workers_tried} {what}",
            Knob(
                f"Set {'yolodata.threads' if ours else 'workers'}={m.workers_tried}",
                {"yolodata.threads" if ours else "workers": m.workers_tried},
            ),
        ),
        _slow(
            m, "progressive_jpeg", m.without("baseline"),
            f"{progressive:.0%} of the JPEG files are progressive, which take several times as "
            "long to decode",
            "with the same pictures as baseline files",
            Knob(
                "Store the images as baseline JPEG (`jpegtran -copy all` loses nothing), or pack "
                "them with `yolodata shard`",
                {},
            ),
        ),
        _slow(
            m, "large_images", m.without("small"),
            f"The images are larger than what is trained: {side:.0f} pixels on the longer side, "
            f"for imgsz={m.imgsz}",
            f"with the same images at {m.imgsz} pixels ({large:.0%} are more than 1.5 times that)",
            Knob(
                f"Store the images at {m.imgsz} pixels: `yolodata shard` does, raw or with "
                "--reencode 90",
                {},
            ),
        ),
    ]  # fmt: skip
    return [one for one in candidates if one]


def _others(m: Measured) -> list[Finding]:
    """Other processes on the same cores; what they cost is not known until they are gone."""
    if m.others < _BUSY * m.cores:
        return []
    return [
        Finding(
            "busy_machine",
            "risk",
            "Other processes use the cores that training needs",
            f"they kept {m.others:.1f} of {m.cores} cores busy while this was measured: figures "
            "are worse than they could be, and vary",
            Knob("End what else runs here, or give it cores of its own, and ask again", {}),
        )
    ]


def _copy(m: Measured) -> list[Finding]:
    """A batch that is made on the device does not travel there."""
    if m.copied is None or m.loader == "yolodata" or m.copy_ms < NOTICED * m.copied.own_ms:
        return []
    return [
        Finding(
            "host_to_device",
            "opportunity",
            "The step waits while its batch is copied to the device",
            f"{m.copied.own_ms:.1f} ms a step on a batch in page-locked memory of the host, "
            f"{m.own.own_ms:.1f} ms on the same batch on the device",
            Knob(
                "Have yolodata's loader make the batches on the device (`yolodata train`)",
                {"yolodata.cache": "auto"},
            ),
            lost_ms=m.copy_ms,
            step_ms=m.copied.own_ms,
            gain=m.copied.own_ms / m.own.own_ms,
            measured=True,
        )
    ]


def _slow(
    m: Measured,
    cause: str,
    after: float | None,
    title: str,
    how: str,
    knob: Knob,
    *,
    measured: bool = True,
) -> Finding | None:
    """A finding, if a step would take noticeably less."""
    now = m.now
    if now is None or after is None or not _is_loss(now.step_ms - after, now):
        return None
    evidence = (
        f"{now.step_ms:.1f} ms a step as it is, {after:.1f} ms {how}; the step on a batch that is "
        f"there takes {now.own_ms:.1f} ms"
    )
    return Finding(
        cause, "slow", title, evidence, knob, lost_ms=now.step_ms - after, step_ms=now.step_ms,
        gain=now.step_ms / after, measured=measured,
    )  # fmt: skip


def _is_loss(lost_ms: float, now: Pace) -> bool:
    """Whether it is one, whatever the error of a few steps."""
    return lost_ms - _ERRORS * now.error_ms >= max(NOTICED * now.step_ms, _LEAST_MS)


def _loader(m: Measured, *, unexplained: bool) -> list[Finding]:
    """What another way of making batches would bring: a complaint where nothing else explains."""
    now = m.now
    assert now is not None
    if m.loader == "ultralytics":
        after, title = m.without("yolodata"), "Ultralytics' loader is slower than the step"
        knob = Knob(
            "Train with yolodata's loader on raw shards (`yolodata train`)",
            {"yolodata.codec": "raw"},
        )
        how = "with yolodata's loader on raw shards of the same images, in memory"
    else:
        after, title = (
            m.without("raw"),
            "Decoding the JPEG files of the shards is slower than the step",
        )
        knob = Knob("Pack the dataset as raw pixels (codec=raw)", {"yolodata.codec": "raw"})
        how = "with raw shards of the same images, in memory"
    lost = now.step_ms - now.own_ms
    if not _is_loss(lost, now):
        return []
    evidence = f"{now.step_ms:.1f} ms a step as it is, {now.own_ms:.1f} ms on a batch that is there"
    gain = now.step_ms / after if after else 1.0
    if after is None or gain < WORTHWHILE:
        if not unexplained:
            return []
        if after is not None:
            evidence += f", {after:.1f} ms {how}"
        return [
            Finding(
                "cpu_loader", "slow", "The loader is slower than the step", evidence,
                Knob("Give the process more cores, or a lighter recipe (mosaic, copy_paste)", {}),
                lost_ms=lost, step_ms=now.step_ms,
            )
        ]  # fmt: skip
    kind: Kind = "slow" if unexplained else "opportunity"
    return [
        Finding(
            "cpu_loader", kind, title, f"{evidence}, {after:.1f} ms {how}", knob,
            lost_ms=max(now.step_ms - after, 0.0), step_ms=now.step_ms, gain=gain, measured=True,
        )
    ]  # fmt: skip
