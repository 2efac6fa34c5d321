"""Where decoded images live while a device renders from them: what `cache="auto"` chooses.

    device  the whole dataset in device memory
    host    the whole dataset in page-locked host memory, read by the kernel where it lies
    none    raw shards: CPU threads render and the pictures are uploaded
            JPEG shards: decoded onto the device when they are needed, kept for the reuse window

Every cache gives the same stream of raw shards. Pictures of JPEG shards are those of their decoder,
the GPU's in "device" and "none", the CPU's in "host": up to 3 grey levels apart. 4:2:0 storage,
half the size, was left out because it loses parity: of 60 photographs of COCO it changed 27 % of
the bytes by more than one grey level, half of the photographs by more than 100 somewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

# Shares that `auto` takes at most. The training step has not yet allocated what it needs.
_OF_DEVICE, _OF_FREE_DEVICE, _OF_HOST = 0.3, 0.6, 0.5


@dataclass(frozen=True)
class FreeMemory:
    """Memory in bytes: free and total of the device, available of the host."""

    device_free: int
    device_total: int
    host: int


@dataclass(frozen=True)
class CacheChoice:
    """A cache, and the reason for it."""

    cache: str
    why: str


def choose(
    cache: str, codec: str, nbytes: int, memory: FreeMemory, window: int = 0, staging: int = 0
) -> CacheChoice:
    """Chooses the cache for a dataset of `nbytes` when decoded.

    Args:
        cache: what was asked for; "auto" takes the fastest that leaves enough memory.
        codec: of the shards.
        nbytes: see `decoded_bytes`.
        memory: that is there now, for this process.
        window: bytes of device memory for the pictures that are kept where JPEG shards are decoded
            when they are needed.
        staging: bytes of page-locked memory that CPU threads render batches into at most, where
            they do.
    """
    size = _human(nbytes)
    some = f", up to {_human(window)} of them in device memory" if window else ""
    if codec == "raw" and staging:
        some = f", into up to {_human(staging)} of page-locked memory"
    if cache != "auto":
        return CacheChoice(
            cache, f"asked for; {size} of decoded pictures{some if cache == 'none' else ''}"
        )
    limit = min(_OF_DEVICE * memory.device_total, _OF_FREE_DEVICE * memory.device_free)
    if nbytes <= limit:
        free = _human(memory.device_free)
        return CacheChoice(
            "device", f"{size} of decoded pictures fit into {free} of free device memory"
        )
    too_large = f"{size} of decoded pictures are more than the {_human(limit)} of device memory"
    if (codec == "raw" or window > limit) and nbytes <= _OF_HOST * memory.host:
        return CacheChoice("host", f"{too_large} that training can spare, and fit into host memory")
    how = (
        f"pictures are decoded when they are needed{some}"
        if codec != "raw"
        else f"CPU threads render{some}"
    )
    return CacheChoice("none", f"{too_large} that training can spare; {how}")


def _human(nbytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} GB"
