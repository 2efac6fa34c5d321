"""Which rows there are: loaders on the CPU and on a GPU, what bounds them, and training steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from importlib.util import find_spec
from typing import Any

from yolodata.bench.peers import Peer
from yolodata.bench.subject import Row
from yolodata.errors import ConfigError

FEW_CORES = 2
"""What a GPU should need at most: rows on a GPU are also measured with so many cores."""

_DEFAULT_WORKERS = 8  # of Ultralytics, however many cores there are


def loader_rows(cores: int, on_gpu: bool = False, peers: Sequence[Peer] = ()) -> list[Row]:
    """The rows of the loader benchmark: on one core, and on `cores` when there are more.

    Args:
        cores: how many there are.
        on_gpu: whether there are rows that deliver on a GPU, too.
        peers: loaders besides Ultralytics' own.
    """
    found = []
    for n in sorted({1, cores}):
        found += [*_cpu_loaders(n), *(_peer(peer, n) for peer in peers)]
    # Upstream takes half its time for polygons, however many cores there are: one shows it.
    for row in _cpu_loaders(1):
        if row.kind != "copy":
            names = tuple(f"polygons-{name}" for name in row.peers)
            found.append(replace(row, id=f"polygons-{row.id}", peers=names, labels="polygons"))
    return found + gpu_rows(cores) if on_gpu else found


def _peer(peer: Peer, n: int) -> Row:
    return Row(f"{peer.name}-{n}", f"peer-{peer.name}", peer.label, peer.label, "files",
               peer.threads(n), n, (f"ultralytics-none-{n}",), differs=peer.differs)  # fmt: skip


def _cpu_loaders(n: int) -> list[Row]:
    workers = 0 if n == 1 else n
    none, ram = f"ultralytics-none-{n}", f"ultralytics-ram-{n}"
    return [
        Row(none, "ultralytics", "Ultralytics, no cache", "no cache", "files", workers, n),
        Row(ram, "ultralytics", "Ultralytics, cache=ram", "cache=ram", "ram", workers, n),
        Row(f"yolodata-jpeg-{n}", "yolodata", "yolodata, JPEG shards", "JPEG", "jpeg", n, n,
            (none, ram)),
        Row(f"yolodata-raw-{n}", "yolodata", "yolodata, raw shards", "raw", "raw", n, n,
            (ram, none)),
        Row(f"copy-{n}", "copy", "copying only (ceiling)", "copying", "memory", n, n),
    ]  # fmt: skip


def gpu_rows(cores: int) -> list[Row]:
    """Rows on a GPU: ceilings, the kernel alone, and loaders with all cores and with two."""
    copy = partial(Row, kind="gpu-copy", threads=1, cores=cores, device="cuda")
    kernels: list[tuple[str, str, dict[str, Any]]] = [
        ("uint8", "uint8", {}),
        ("float16", "float16", {"output": "float16"}),
        ("bfloat16", "bfloat16", {"output": "bfloat16"}),
        ("channels-last", "float16, channels last", {"output": "float16", "channels_last": True}),
        ("rotated", "uint8, rotated", {"recipes": "rotated"}),
        ("segment", "uint8, copy-paste", {"recipes": "segment"}),
    ]
    found = [
        copy("gpu-copy-device", label="copy on the device (ceiling)", short="device copy",
             codec="memory", cache="device"),
        copy("gpu-copy-host", label="copy to the device, pinned (ceiling)", short="copy to device",
             codec="memory", cache="host"),
        copy("gpu-copy-map", label="copy to the device, from the map (ceiling)",
             short="copy from the map", codec="raw", cache="map"),
        *(Row(f"gpu-kernel-{name}", "gpu-kernel", f"kernel alone, {label}", label, "raw", 1, cores,
              device="cuda", cache="device", ceiling="gpu-copy-device", **more)
          for name, label, more in kernels),
        Row("gpu-dali", "gpu-decode", "DALI, decoding only (ceiling)", "DALI", "jpeg", cores, cores,
            device="cuda"),
    ]  # fmt: skip
    for n in sorted({cores, min(cores, FEW_CORES)}, reverse=True):
        found += _gpu_loaders(n, all_cores=n == cores)
    return found


def _gpu_loaders(n: int, all_cores: bool) -> list[Row]:
    theirs = [replace(row, id=f"gpu-{row.id}", threads=n, device="cuda", output="float32")
              for row in _cpu_loaders(n) if row.kind == "ultralytics"]  # fmt: skip
    none, ram = (row.id for row in theirs)
    ours = [("jpeg", "none", "gpu-dali" if all_cores else ""), ("raw", "host", "gpu-copy-host"),
            ("raw", "none", "gpu-copy-host")]  # fmt: skip
    if all_cores:
        ours.append(("raw", "device", "gpu-kernel-float16"))
    found = theirs
    for codec, cache, ceiling in ours:
        label = f"{'JPEG' if codec == 'jpeg' else codec}, cache={cache}"
        peers = (none, ram) if codec == "jpeg" else (ram, none)
        found.append(Row(f"gpu-yolodata-{codec}-{cache}-{n}", "yolodata", f"yolodata, {label}",
                         label, codec, n, n, peers, device="cuda", cache=cache, output="float16",
                         ceiling=ceiling))  # fmt: skip
    if all_cores and find_spec("albumentations") is not None:
        last, more = found[-1], ", Albumentations"
        found.append(replace(
            last, id=f"gpu-yolodata-raw-device-albumentations-{n}", albumentations=True,
            label=last.label + more, short=last.short + more,
        ))  # fmt: skip
    return found


def train_rows(cores: Sequence[int], device: str) -> list[Row]:
    """Rows for each number of cores: a batch that never changes, our loader, Ultralytics'.

    Ultralytics has as many workers as there are cores, and where its default is less, that too.

    Args:
        cores: how many the training process and its workers may use.
        device: "cpu" or "cuda".
    """
    return [row for n in dict.fromkeys(cores) for row in _train_rows(n, device)]


def _train_rows(n: int, device: str) -> list[Row]:
    def row(name: str, kind: str, label: str, short: str, codec: str, threads: int = n) -> Row:
        peers = () if kind == "fixed" else (f"fixed-{n}",)
        return Row(f"{name}-{n}", kind, label, short, codec, threads, n, peers, device=device,
                   trains=True)  # fmt: skip

    found = [
        row("fixed", "fixed", "a batch that never changes", "fixed batch", "memory"),
        row("yolodata-raw", "yolodata", "yolodata, raw shards", "raw", "raw"),
        row("yolodata-jpeg", "yolodata", "yolodata, JPEG shards", "JPEG", "jpeg"),
        row("ultralytics", "ultralytics", "Ultralytics, no cache", "no cache", "files"),
    ]
    if n > _DEFAULT_WORKERS:
        label = f"Ultralytics, no cache, {_DEFAULT_WORKERS} workers (its default)"
        found.append(row("ultralytics-default", "ultralytics", label, "default", "files",
                         _DEFAULT_WORKERS))  # fmt: skip
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
