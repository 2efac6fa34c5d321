"""Which rows there are: loaders on the CPU and on a GPU, what bounds them, and training steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import Any

from yolodata.bench.peers import Peer
from yolodata.bench.subject import Row
from yolodata.errors import ConfigError

FEW_CORES = 2
"""What a GPU should need at most: rows on a GPU are also measured with so many cores."""

_DEFAULT_WORKERS = 8  # of Ultralytics, however many cores there are

# Rows as they are on any number of cores: see `_on`.
_NONE = Row("ultralytics-none", "ultralytics", "Ultralytics, no cache", "no cache", "files", 0, 0)
_RAM = Row("ultralytics-ram", "ultralytics", "Ultralytics, cache=ram", "cache=ram", "ram", 0, 0)
_JPEG = Row("yolodata-jpeg", "yolodata", "yolodata, JPEG shards", "JPEG", "jpeg", 0, 0,
            (_NONE.id, _RAM.id))  # fmt: skip
_RAW = Row("yolodata-raw", "yolodata", "yolodata, raw shards", "raw", "raw", 0, 0,
           (_RAM.id, _NONE.id))  # fmt: skip
_COPY = Row("copy", "copy", "copying only (ceiling)", "copying", "memory", 0, 0)
_FIXED = Row("fixed", "fixed", "a batch that never changes", "fixed batch", "memory", 0, 0)
_TRAINED = [
    _FIXED,
    replace(_RAW, peers=(_FIXED.id,)),
    replace(_JPEG, peers=(_FIXED.id,)),
    replace(_NONE, id="ultralytics", peers=(_FIXED.id,)),
]

_COPIES = (  # from where, label, short, codec
    ("device", "copy on the device (ceiling)", "device copy", "memory"),
    ("host", "copy to the device, pinned (ceiling)", "copy to device", "memory"),
    ("map", "copy to the device, from the map (ceiling)", "copy from the map", "raw"),
)
_KERNELS: tuple[tuple[str, str, dict[str, Any]], ...] = (  # name, label, what it renders
    ("uint8", "uint8", {}),
    ("float16", "float16", {"output": "float16"}),
    ("bfloat16", "bfloat16", {"output": "bfloat16"}),
    ("channels-last", "float16, channels last", {"output": "float16", "channels_last": True}),
    ("rotated", "uint8, rotated", {"recipes": "rotated"}),
    ("segment", "uint8, copy-paste", {"recipes": "segment"}),
)
_GPU_LOADERS = (  # like what on the CPU, cache, ceiling; the last with all cores alone
    (_JPEG, "none", "gpu-dali"),
    (_RAW, "host", "gpu-copy-host"),
    (_RAW, "none", "gpu-copy-host"),
    (_RAW, "device", "gpu-kernel-float16"),
)


def loader_rows(cores: int, on_gpu: bool = False, peers: Sequence[Peer] = ()) -> list[Row]:
    """The rows of the loader benchmark: on one core, and on `cores` when there are more."""
    found = []
    for n in sorted({1, cores}):
        found += _on_cpu(n)
        found += [Row(f"{p.name}-{n}", f"peer-{p.name}", p.label, p.label, "files", p.threads(n),
                      n, (f"{_NONE.id}-{n}",), differs=p.differs) for p in peers]  # fmt: skip
    # Upstream takes half its time for polygons, however many cores there are: one shows it.
    found += [replace(row, id=f"polygons-{row.id}", labels="polygons",
                      peers=tuple(f"polygons-{name}" for name in row.peers))
              for row in _on_cpu(1)[:4]]  # fmt: skip
    return found + gpu_rows(cores) if on_gpu else found


def _on(row: Row, cores: int, **more: Any) -> Row:
    """A row, compared with others on as many cores."""
    more = {"threads": cores, "peers": row.peers, **more}
    more["peers"] = tuple(f"{peer}-{cores}" for peer in more["peers"])
    return replace(row, id=f"{row.id}-{cores}", cores=cores, **more)


def _on_cpu(cores: int) -> list[Row]:
    workers = cores if cores > 1 else 0
    return [_on(_NONE, cores, threads=workers), _on(_RAM, cores, threads=workers),
            *(_on(row, cores) for row in (_JPEG, _RAW, _COPY))]  # fmt: skip


def gpu_rows(cores: int) -> list[Row]:
    """Rows on a GPU: ceilings, the kernel alone, and loaders with all cores and with two."""
    found = [Row(f"gpu-copy-{cache}", "gpu-copy", label, short, codec, 1, cores, device="cuda",
                 cache=cache) for cache, label, short, codec in _COPIES]  # fmt: skip
    found += [Row(f"gpu-kernel-{name}", "gpu-kernel", f"kernel alone, {label}", label, "raw", 1,
                  cores, device="cuda", cache="device", ceiling="gpu-copy-device", **rendered)
              for name, label, rendered in _KERNELS]  # fmt: skip
    found.append(Row("gpu-dali", "gpu-decode", "DALI, decoding only (ceiling)", "DALI", "jpeg",
                     cores, cores, device="cuda"))  # fmt: skip
    for n in sorted({cores, min(cores, FEW_CORES)}, reverse=True):
        found += [_on(replace(row, id=f"gpu-{row.id}"), n, device="cuda", output="float32")
                  for row in (_NONE, _RAM)]  # fmt: skip
        for like, cache, ceiling in _GPU_LOADERS[: 4 if n == cores else 3]:
            short = f"{like.short}, cache={cache}"
            row = replace(like, id=f"gpu-{like.id}-{cache}", label=f"yolodata, {short}",
                          short=short, device="cuda", cache=cache, output="float16",
                          # DALI, decoding alone, was measured with all cores.
                          ceiling="" if like is _JPEG and n < cores else ceiling)  # fmt: skip
            found.append(_on(row, n, peers=[f"gpu-{peer}" for peer in like.peers]))
        if n == cores and find_spec("albumentations") is not None:
            last, more = found[-1], ", Albumentations"
            found.append(replace(last, id=f"gpu-yolodata-raw-device-albumentations-{n}",
                                 label=last.label + more, short=last.short + more,
                                 albumentations=True))  # fmt: skip
    return found


def train_rows(cores: Sequence[int], device: str) -> list[Row]:
    """Rows for each number of cores: a batch that never changes, our loader, Ultralytics'.

    Ultralytics has as many workers as there are cores, and where its default is less, that too.
    """
    found = []
    for n in dict.fromkeys(cores):
        found += [_on(row, n, device=device, trains=True) for row in _TRAINED]
        if n > _DEFAULT_WORKERS:
            last = found[-1]
            label = f"{last.label}, {_DEFAULT_WORKERS} workers (its default)"
            found.append(replace(last, id=f"ultralytics-default-{n}", label=label,
                                 short="default", threads=_DEFAULT_WORKERS))  # fmt: skip
    return found


def default_cores(usable: int, device: str) -> list[int]:
    """All cores; and as few as a GPU should need, where there are more."""
    return [usable] if device == "cpu" or usable <= FEW_CORES else [usable, FEW_CORES]


def choose(rows: Sequence[Row], patterns: Sequence[str]) -> list[Row]:
    """The rows whose id fits one of `patterns` (`*` and `?` stand for anything); none: all.

    Raises:
        ConfigError: a pattern fits nothing.
    """
    for pattern in patterns:
        if not any(fnmatchcase(row.id, pattern) for row in rows):
            raise ConfigError(
                f"--only {pattern!r} fits no row; rows are {', '.join(row.id for row in rows)}"
            )
    return [row for row in rows if not patterns or any(fnmatchcase(row.id, p) for p in patterns)]
