"""What is measured: one `Row` each, in groups that may use the same cores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import Any

from yolodata.bench.machine import Gpu
from yolodata.errors import ConfigError


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        id: what `--only` and the JSON file call it.
        kind: which maker of `yolodata.bench.subject` builds it.
        label: what the table calls it.
        short: what it is called as a peer.
        codec: where its pixels come from: "files" (JPEG files), "ram" (decoded, in memory), "jpeg"
            or "raw" (shards), "memory" (pictures that need nothing but copying).
        threads: native threads of yolodata, worker processes of Ultralytics (0: the consumer
            itself), copying threads.
        cores: how many cores the whole row may use, consumer included.
        peers: ids of the rows it is compared with, the one that matters most first.
        device: "cpu", or "cuda" for rows that deliver on a GPU.
        cache: where decoded pictures live for a row on a GPU, or from where a ceiling copies:
            "device", "host", "map" (shards that are page-locked where they are mapped) or "none".
        output: of the pictures made on a GPU: "uint8", or a kind of float in 0-1.
        ceiling: id of the row whose speed bounds this one; "" is none.
        albumentations: with what Ultralytics applies where that is installed. All other rows,
            Ultralytics' own too, are without.
        recipes: what the kernel renders, by the names of `kernel.RECIPES`.
        channels_last: memory order of the pictures made on a GPU.
    """

    id: str
    kind: str
    label: str
    short: str
    codec: str
    threads: int
    cores: int
    peers: tuple[str, ...] = ()
    device: str = "cpu"
    cache: str = "none"
    output: str = "uint8"
    ceiling: str = ""
    albumentations: bool = False
    recipes: str = "default"
    channels_last: bool = False

    @property
    def source(self) -> str:
        """What it reads, by the names of `data.Prepared`.

        Batches on a GPU are larger, and Ultralytics starts no more workers than an epoch has
        batches: its decoded pictures, and therefore ours too, come from the longer dataset there.
        """
        on_gpu = self.device != "cpu" and self.kind in ("yolodata", "ultralytics")
        return f"{self.codec}-many" if on_gpu and self.codec in ("raw", "ram") else self.codec

    @property
    def group(self) -> tuple[str, int]:
        """Rows of one group are measured in the same rounds."""
        return (self.device, 0 if self.device != "cpu" else self.cores)


FEW_CORES = 2
"""What a GPU should need at most: rows on a GPU are also measured with so many cores."""


def loader_rows(cores: int, gpu: Gpu | None = None) -> list[Row]:
    """The rows of the loader benchmark: on one core, and on `cores` when there are more.

    Args:
        cores: how many there are.
        gpu: the machine's GPU, if it has one: then there are rows that deliver on it, too.
    """
    found = [row for n in sorted({1, cores}) for row in _group(n)]
    return found + gpu_rows(cores) if gpu is not None else found


def gpu_rows(cores: int) -> list[Row]:
    """Rows on a GPU: ceilings, the kernel alone, and loaders with all cores and with two."""

    def kernel(name: str, label: str, **more: Any) -> Row:
        return Row(name, "gpu-kernel", f"kernel alone, {label}", label, "raw", 1, cores,
                   device="cuda", cache="device", ceiling="gpu-copy-device", **more)  # fmt: skip

    found = [
        Row("gpu-copy-device", "gpu-copy", "copy on the device (ceiling)", "device copy", "memory",
            1, cores, device="cuda", cache="device"),
        Row("gpu-copy-host", "gpu-copy", "copy to the device, pinned (ceiling)", "copy to device",
            "memory", 1, cores, device="cuda", cache="host"),
        Row("gpu-copy-map", "gpu-copy", "copy to the device, from the map (ceiling)",
            "copy from the map", "raw", 1, cores, device="cuda", cache="map"),
        kernel("gpu-kernel-uint8", "uint8"),
        kernel("gpu-kernel-float16", "float16", output="float16"),
        kernel("gpu-kernel-bfloat16", "bfloat16", output="bfloat16"),
        kernel("gpu-kernel-channels-last", "float16, channels last", output="float16",
               channels_last=True),
        kernel("gpu-kernel-rotated", "uint8, rotated", recipes="rotated"),
        kernel("gpu-kernel-segment", "uint8, copy-paste", recipes="segment"),
        Row("gpu-dali", "gpu-decode", "DALI, decoding only (ceiling)", "DALI", "jpeg", cores, cores,
            device="cuda"),
    ]  # fmt: skip
    for n in sorted({cores, min(cores, FEW_CORES)}, reverse=True):
        found += _gpu_loaders(n, all_cores=n == cores)
    return found


def _gpu_loaders(n: int, all_cores: bool) -> list[Row]:
    none, ram = f"gpu-ultralytics-none-{n}", f"gpu-ultralytics-ram-{n}"

    def peer(name: str, label: str, short: str, codec: str) -> Row:
        return Row(name, "ultralytics", label, short, codec, n, n, device="cuda", output="float32")

    def ours(codec: str, cache: str, label: str, ceiling: str = "") -> Row:
        peers = (none, ram) if codec == "jpeg" else (ram, none)
        return Row(
            f"gpu-yolodata-{codec}-{cache}-{n}", "yolodata", f"yolodata, {label}", label, codec,
            n, n, peers, device="cuda", cache=cache, output="float16", ceiling=ceiling,
        )  # fmt: skip

    found = [
        peer(none, "Ultralytics, no cache", "no cache", "files"),
        peer(ram, "Ultralytics, cache=ram", "cache=ram", "ram"),
        ours("jpeg", "none", "JPEG, cache=none", "gpu-dali" if all_cores else ""),
        ours("raw", "host", "raw, cache=host", "gpu-copy-host"),
        ours("raw", "none", "raw, cache=none", "gpu-copy-host"),
    ]
    if all_cores:
        plain = ours("raw", "device", "raw, cache=device", "gpu-kernel-float16")
        found.append(plain)
        if find_spec("albumentations") is not None:
            label = "raw, cache=device, Albumentations"
            found.append(
                replace(
                    plain, id=f"gpu-yolodata-raw-device-albumentations-{n}", albumentations=True,
                    label=f"yolodata, {label}", short=label,
                )
            )  # fmt: skip
    return found


def _group(n: int) -> list[Row]:
    workers = 0 if n == 1 else n
    none, ram = f"ultralytics-none-{n}", f"ultralytics-ram-{n}"
    return [
        Row(none, "ultralytics", "Ultralytics, no cache", "no cache", "files", workers, n),
        Row(ram, "ultralytics", "Ultralytics, cache=ram", "cache=ram", "ram", workers, n),
        Row(
            f"yolodata-jpeg-{n}",
            "yolodata",
            "yolodata, JPEG shards",
            "JPEG",
            "jpeg",
            n,
            n,
            (none, ram),
        ),
        Row(
            f"yolodata-raw-{n}", "yolodata", "yolodata, raw shards", "raw", "raw", n, n, (ram, none)
        ),
        Row(f"copy-{n}", "copy", "copying only (ceiling)", "copying", "memory", n, n),
    ]


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
    if not patterns:
        return list(rows)
    return [row for row in rows if any(fnmatchcase(row.id, p) for p in patterns)]
