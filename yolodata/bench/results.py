"""The JSON file: everything that was measured, and on what."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from yolodata import environment
from yolodata.bench.rounds import Measured
from yolodata.outputs import write_output

Document = dict[str, Any]

_OF_READY = ("shape", "dtype", "brightness", "objects", "pinned", "facts")


def about(benchmark: str, **settings: Any) -> Document:
    """How every file of results begins: benchmark, date, machine, versions, settings if any."""
    made = {
        "benchmark": benchmark,
        "date": today(),
        "machine": environment.machine(),
        "versions": environment.versions(),
    }
    return made | ({"settings": settings} if settings else {})


def today() -> str:
    """The date (UTC), as ISO 8601 has it: 2026-11-28."""
    return datetime.now(timezone.utc).date().isoformat()


def document(begin: Document, data: Mapping[str, Any], found: Sequence[Measured]) -> Document:
    """Plain data for `json.dump`.

    Args:
        begin: see `about`; machine and versions are those at the start.
        data: what the pictures are like.
        found: the rows.

    Returns:
        dict of benchmark ("loader" or "train"); machine; versions; settings; data;
        rows: name (id) and all else that a `Row` has; img_s (median, min, max, samples), pictures
            and seconds (of each sample), stages_ms and counts (a picture), what `Measured.ready`
            has, error, profile; others and steal (of each sample: see `Sample`); where bytes_each
            of `facts` is known, gb_s (a spread); of rows that train instead the spreads of steps_s,
            step_ms, wait_ms (a step) and busy (share of the time in which the GPU computed; without
            samples where nobody can tell);
        ratios: ours, peer (row names), median, min, max, samples (one a round: quotients of the
            img_s samples of that round);
        shares: ours, ceiling (row names), median, min, max, samples (one a round) of rows on a GPU:
            in bytes a second where both move bytes;
        floor: how far each of yolodata's loaders on the CPU is from copying its output, by the same
            cores: name, bytes_written (a picture), copy_ms (to copy as many bytes from memory to
            memory), ms (it takes), times (ms / copy_ms);
        load: others and steal, each a spread over the samples of all rows; load average at the end;
        complaints: what speaks against equal work. Of training: processes: cores, feeds (how the
            batches of each row are made), and `process` of `Measured.ready`. Of a benchmark that
            has rounds before it, and maybe never had them: complete (False).
    """
    trains = [f for f in found if f.row.trains]
    return {
        **begin,
        "data": dict(data),
        "rows": [_row(f) for f in found],
        "ratios": list(_ratios(found)),
        "shares": list(_shares(found)),
        "floor": list(_floors(found, int(begin["settings"]["imgsz"]))),
        "load": _load(found),
        "complaints": same_work(found),
        **({"processes": _processes(trains)} if trains else {}),
    }


def save(path: Path, values: Document) -> None:
    """Write as JSON; a file that is there is replaced at once.

    Raises:
        ConfigError: it cannot be written.
    """
    write_output(path, (json.dumps(values, indent=1) + "\n").encode())


def spread(samples: Sequence[float]) -> Document:
    """dict of median, min, max and the samples themselves."""
    ends = (median(samples), min(samples), max(samples)) if samples else (None, None, None)
    return dict(zip(("median", "min", "max"), ends, strict=True)) | {"samples": list(samples)}


def _row(found: Measured) -> Document:
    row, samples, ready = found.row, found.samples, found.ready
    speeds = [s.img_s for s in samples]
    values: Document = {
        "name": row.id, **asdict(row), "img_s": spread(speeds),
        "pictures": [s.pictures for s in samples], "seconds": [s.seconds for s in samples],
        "others": [s.others for s in samples], "steal": [s.steal for s in samples],
    }  # fmt: skip
    if row.trains:
        values |= {
            "steps_s": spread([s.steps / s.seconds for s in samples]),
            "step_ms": spread([1e3 * s.seconds / s.steps for s in samples]),
            "wait_ms": spread([1e3 * s.waited / s.steps for s in samples]),
            "busy": spread([s.busy for s in samples if s.busy is not None]),
        }
    else:
        values |= {name: _mean_of(found, name) for name in ("stages_ms", "counts")}
        if each := _fact(found, "bytes_each"):
            values["gb_s"] = spread([speed * each / 1e9 for speed in speeds])
        values |= {name: ready[name] for name in _OF_READY} if ready else {}
        if read := _fact(found, "read_ms"):
            values["stages_ms"]["read"] = read
    if found.error is not None:
        values["error"] = found.error
    if found.profile is not None:
        values["profile"] = found.profile
    return values


def _load(found: Sequence[Measured]) -> Document:
    samples = [sample for f in found for sample in f.samples]
    return {
        "others": spread([s.others for s in samples if s.others is not None]),
        "steal": spread([s.steal for s in samples if s.steal is not None]),
        "average_after": round(psutil.getloadavg()[0], 2),
    }


def _mean_of(found: Measured, name: str) -> dict[str, float]:
    """Means of "stages_ms" or "counts" over the rounds, each round's pictures counting."""
    pictures = sum(s.pictures for s in found.samples)
    values = [(s.pictures, getattr(s, name)) for s in found.samples]
    keys = dict.fromkeys(key for _, each in values for key in each)
    return {key: sum(n * each.get(key, 0.0) for n, each in values) / pictures for key in keys}


def _fact(found: Measured, name: str) -> float | None:
    return found.ready["facts"].get(name) if found.ready else None


def _processes(found: Sequence[Measured]) -> list[Document]:
    made: dict[str, Document] = {}
    for f in found:
        process = made.setdefault(f.row.process, {"cores": f.row.cores})
        if f.ready:
            feeds = process.get("feeds", {}) | {f.row.id: f.ready["about"]}
            process.update(f.ready["process"] | {"feeds": feeds})
    return list(made.values())


def _quotients(one: Measured, other: Measured | None, factor: float = 1.0) -> Document | None:
    """How many times as fast one row is as another, round by round."""
    pairs = zip(one.samples, other.samples if other else [], strict=False)
    samples = [factor * a.img_s / b.img_s for a, b in pairs]
    return spread(samples) if samples else None


def _ratios(found: Sequence[Measured]) -> Iterator[Document]:
    by_id = {f.row.id: f for f in found}
    for f in found:
        for peer in f.row.peers:
            if times := _quotients(f, by_id.get(peer)):
                yield {"ours": f.row.id, "peer": peer, **times}


def _shares(found: Sequence[Measured]) -> Iterator[Document]:
    by_id = {f.row.id: f for f in found}
    for f in found:
        if ceiling := by_id.get(f.row.ceiling):
            mine, its = _fact(f, "bytes_each"), _fact(ceiling, "bytes_each")
            if share := _quotients(f, ceiling, mine / its if mine and its else 1.0):
                yield {"ours": f.row.id, "ceiling": ceiling.row.id, **share}


def _floors(found: Sequence[Measured], imgsz: int) -> Iterator[Document]:
    ms = {f.row.id: 1e3 / median(s.img_s for s in f.samples)
          for f in found if f.samples and f.row.labels == "boxes"}  # fmt: skip
    for row in (f.row for f in found if f.row.id in ms):
        copy_ms = ms.get(f"copy-{row.cores}")
        if copy_ms and row.kind == "yolodata" and row.device == "cpu" and not row.trains:
            yield {"name": row.id, "bytes_written": 3 * imgsz * imgsz, "copy_ms": copy_ms,
                   "ms": ms[row.id], "times": ms[row.id] / copy_ms}  # fmt: skip


def same_work(found: Sequence[Measured]) -> list[str]:
    """What speaks against the loaders having done the same work; empty if nothing does.

    Two loaders that augment differently differ in brightness or in the number of objects, and
    their speeds must not be compared. The pictures are random: up to five standard errors are
    put down to chance.
    """
    complaints = []
    loaders = [(f.row, f.ready) for f in found if f.ready and (f.ready["objects"] or f.row.differs)]
    firsts = {row.labels: (row, ready) for row, ready in reversed(loaders) if not row.differs}
    for row, this in loaders:
        peer, first = firsts.get(row.labels, (row, this))
        # On a GPU each loader hands over what its trainer wants: other floats are no other work.
        # What a row leaves out is said beside it.
        on_gpu = "cuda" in (row.device, peer.device)
        same = ("shape",) if on_gpu or row.differs else ("shape", "dtype")
        if any(first[name] != this[name] for name in same):
            complaints.append(f"{row.id} makes {this['shape']} {this['dtype']} pictures, "
                              f"{peer.id} {first['shape']} {first['dtype']}")  # fmt: skip
        if row.differs:
            continue
        for name, what in (("brightness", "mean brightness"), ("objects", "objects a picture")):
            (a, error_a), (b, error_b) = first[name], this[name]
            if abs(a - b) > 5 * math.hypot(error_a, error_b) + 0.02 * abs(a):
                complaints.append(f"{row.id} has {what} {b:.1f} (error {error_b:.1f}), "
                                  f"{peer.id} {a:.1f} (error {error_a:.1f})")  # fmt: skip
    return complaints
