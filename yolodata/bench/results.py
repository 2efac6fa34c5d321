"""The JSON file: everything that was measured, and on what."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from yolodata.bench.rounds import Measured, Ratio

Document = dict[str, Any]


def document(
    *,
    machine: Mapping[str, Any],
    versions: Mapping[str, str],
    settings: Mapping[str, Any],
    data: Mapping[str, Any],
    results: Sequence[Measured],
    ratios: Sequence[Ratio],
    complaints: Sequence[str],
    shares: Sequence[Ratio] = (),
) -> Document:
    """Plain data for `json.dump`.

    Returns:
        dict of benchmark; machine; versions; settings; data (what the pictures are like);
        rows: name (id), label, short, kind, codec, threads, cores, peers, pinned, img_s (median,
            min, max, samples), pictures and seconds (of each sample), stages_ms (a picture),
            counts (a picture), facts, error, profile; of rows on a GPU also device, cache, output,
            ceiling, gb_s (spread; bytes_each of `facts` a second);
        ratios: ours, peer (row names), median, min, max, samples (one a round: quotients of the
            img_s samples of that round);
        shares: ours, ceiling (row names), median, min, max, samples (one a round) of rows on a GPU;
        floor: see `floors`; complaints: what speaks against equal work. Of a benchmark that has
        rounds before it, and maybe never had them: complete (False).
    """
    return {
        "benchmark": "loader",
        "machine": dict(machine),
        "versions": dict(versions),
        "settings": dict(settings),
        "data": dict(data),
        "rows": [_row(found) for found in results],
        "ratios": [{"ours": r.ours, "peer": r.peer, **spread(r.samples)} for r in ratios],
        "shares": [{"ours": s.ours, "ceiling": s.peer, **spread(s.samples)} for s in shares],
        "floor": floors(results, int(settings["imgsz"])),
        "complaints": list(complaints),
    }


def floors(results: Sequence[Measured], imgsz: int) -> list[dict[str, Any]]:
    """How far each of yolodata's rows is from copying its output, by the same cores.

    Returns:
        for each row: name, bytes_written (a picture), copy_ms (to copy as many bytes from memory to
        memory), ms (it takes), times (ms / copy_ms).
    """
    copying = {f.row.cores: median(f.img_s) for f in results if f.row.kind == "copy" and f.img_s}
    made = []
    for found in results:
        if found.row.kind != "yolodata" or found.row.device != "cpu" or not found.img_s:
            continue
        if found.row.cores not in copying:
            continue
        copy_ms, ms = 1e3 / copying[found.row.cores], 1e3 / median(found.img_s)
        made.append(
            {
                "name": found.row.id,
                "bytes_written": 3 * imgsz * imgsz,
                "copy_ms": copy_ms,
                "ms": ms,
                "times": ms / copy_ms,
            }
        )
    return made


def save(path: Path, values: Document) -> None:
    """Write as JSON; a file that is there is replaced at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    new.replace(path)


def _row(found: Measured) -> Document:
    row = found.row
    values: Document = {
        "name": row.id,
        "label": row.label,
        "short": row.short,
        "kind": row.kind,
        "codec": row.codec,
        "threads": row.threads,
        "cores": row.cores,
        "peers": list(row.peers),
        "img_s": spread(found.img_s),
        "pictures": [s.pictures for s in found.samples],
        "seconds": [s.seconds for s in found.samples],
        "stages_ms": found.mean_of("stages_ms"),
        "counts": found.mean_of("counts"),
    }
    if row.device != "cpu":
        values |= {"device": row.device, "cache": row.cache, "output": row.output,
                   "ceiling": row.ceiling}  # fmt: skip
        bytes_each = found.fact("bytes_each")
        if bytes_each:
            values["gb_s"] = spread([speed * bytes_each / 1e9 for speed in found.img_s])
    if found.ready is not None:
        values |= asdict(found.ready)
        values["shape"] = list(found.ready.shape)
        if "read_ms" in found.ready.facts:
            values["stages_ms"]["read"] = found.ready.facts["read_ms"]
    if found.error is not None:
        values["error"] = found.error
    if found.profile is not None:
        values["profile"] = found.profile
    return values


def spread(samples: Sequence[float]) -> Document:
    """dict of median, min, max and the samples themselves."""
    if not samples:
        return {"median": None, "min": None, "max": None, "samples": []}
    return {
        "median": median(samples),
        "min": min(samples),
        "max": max(samples),
        "samples": list(samples),
    }
