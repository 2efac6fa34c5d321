"""How a loader's speed grows with cores, up to all that this process may use, and where it bends.

    python benchmarks/scaling.py --json benchmarks/results/scaling.json

For 1, 2, 4, ... cores: pictures a second of raw and of JPEG shards with Ultralytics' default
augmentation; efficiency, which is the speed over that of one core times the cores, of the same
round; bytes a second that rendering and decoding have to move at least, beside what as many threads
copy on the same cores. It bends at the first count whose efficiency is below 0.9; the figures of
that count say why.

Cores are taken in an order that separates the reasons: one hyper-thread of each core of the first
NUMA node, of the next nodes, then the second hyper-threads. All counts take turns in each round.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from yolodata import cgroup, topology
from yolodata.bench import results
from yolodata.bench.data import MANY, Prepared, Wanted, prepare
from yolodata.bench.session import ANSWER_LIMIT, Session
from yolodata.bench.subject import Row, Task
from yolodata.machine import usable_cores

BENT = 0.9
"""Efficiency below which the line of a codec is bent."""

_NEAR = 0.7
"""Share of what copying moves from which on the memory is the limit."""

_DISTURBED = 0.1
"""Share of the cores' time from which on other processes make an efficiency meaningless."""

_START_LIMIT = 600.0  # seconds
_CODECS = ("raw", "jpeg")


def core_order(
    usable: Sequence[int], nodes: Sequence[topology.Node], siblings: Mapping[int, Sequence[int]]
) -> list[int]:
    """Returns the usable cores, in the order in which they are taken."""
    node = {core: place for place, node in enumerate(nodes) for core in node.cores}

    def turn(core: int) -> tuple[int, int, int]:
        before = [c for c in siblings.get(core, (core,)) if c in usable and c < core]
        return len(before), node.get(core, 0), core

    return sorted(usable, key=turn)


def core_counts(usable: int, quota: float | None) -> list[int]:
    """Returns 1, 2, 4, ... and all cores that may be used, rounded up where a quota cuts one."""
    most = usable if quota is None else max(1, min(usable, math.ceil(quota)))
    return sorted({most, *(2**k for k in range(most.bit_length()) if 2**k <= most)})


def bytes_moved(codec: str, facts: Mapping[str, float], decodes: float) -> float:
    """Returns the bytes that a picture moves at least.

    Rendering reads what it shows of its sources and writes the picture. Decoding, `decodes` times a
    picture, reads a file and writes an image. Each byte counts once, whatever caches spare or a
    processor reads before it writes.
    """
    rendering = facts["source_bytes"] + facts["output_bytes"]
    if codec == "raw":
        return rendering
    return rendering + decodes * (facts["stored_bytes"] + facts["decoded_bytes"])


def summary(
    found: Mapping[int, Mapping[str, Any]], topo: Mapping[int, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Returns the rows of the table: for each codec and count of cores the figures and a reason.

    Args:
        found: by count, of "raw", "jpeg" and "copy": facts, and samples, one a round.
        topo: by count, nodes (how many), shared (whether hyper-threads share a core).

    Returns:
        dicts of codec, cores, nodes, shared; img_s; efficiency; gb_s, copy_gb_s and of_copy, their
            quotient (spreads, a sample a round); cpu_ms, core time of a picture, and
            core_efficiency, what it is of one core's, which other processes hardly change; shares
            of the cores' time: others (processes), idle, throttled (by a quota); stages_ms; why.
    """
    rows = []
    for codec in _CODECS:
        ones = [sample.img_s for sample in found[1][codec]["samples"]]
        of_codec = []
        for n, by_name in found.items():
            samples, facts = by_name[codec]["samples"], by_name[codec]["facts"]
            speeds = [sample.img_s for sample in samples]
            decodes = [sample.counts.get("decodes", 0.0) for sample in samples]
            moved = [v * bytes_moved(codec, facts, d) / 1e9
                     for v, d in zip(speeds, decodes, strict=True)]  # fmt: skip
            copy_bytes = by_name["copy"]["facts"]["bytes_each"]
            copied = [copy.img_s * copy_bytes / 1e9 for copy in by_name["copy"]["samples"]]
            stages = {name: mean(sample.stages_ms[name] for sample in samples)
                      for name in samples[0].stages_ms}  # fmt: skip
            # Of all cores' time; what a picture takes of it times how many there were.
            shares = {name: mean(s.stages_ms[name] * s.img_s / 1e3 / n for s in samples)
                      for name in ("cpu", "busy", "throttled")}  # fmt: skip
            of_codec.append({
                "codec": codec, "cores": n, **topo[n],
                "img_s": results.spread(speeds),
                "efficiency": results.spread(
                    [v / (n * one) for v, one in zip(speeds, ones, strict=True)]
                ),
                "gb_s": results.spread(moved),
                "copy_gb_s": results.spread(copied),
                "of_copy": results.spread([m / c for m, c in zip(moved, copied, strict=True)]),
                "cpu_ms": stages.pop("cpu"),
                "others": max(0.0, shares["busy"] - shares["cpu"]),
                "idle": max(0.0, 1 - shares["busy"]),
                "throttled": shares["throttled"],
                "stages_ms": {k: v for k, v in stages.items() if k not in shares},
            })  # fmt: skip
        for row in of_codec:
            row["core_efficiency"] = of_codec[0]["cpu_ms"] / row["cpu_ms"]
            row["why"] = why(of_codec[0], row)
        rows += of_codec
    return rows


def why(first: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """Returns what the figures say of the speed that is missing; none above `BENT`.

    Args:
        first: the row of one core.
        row: another one.
    """
    lost = 1 - float(row["efficiency"]["median"])
    if lost <= 1 - BENT:
        return []
    reasons = []
    if row["throttled"] >= lost / 4:
        reasons.append(f"quota: it stops {row['throttled']:.0%} of the cores' time")
    disturbed = max(row["others"], first["others"]) >= _DISTURBED
    if disturbed or row["others"] - first["others"] >= lost / 4:
        reasons.append(f"other processes: {row['others']:.0%} of the cores' time is theirs, of one "
                       f"core's {first['others']:.0%}")  # fmt: skip
    idle = row["idle"] - first["idle"]
    if idle >= lost / 4 and row["throttled"] < idle / 2:
        reasons.append(f"threads wait: {row['idle']:.0%} of the cores' time is idle")
    slower = 1 - row["core_efficiency"]
    if slower >= lost / 4:
        more = f"{row['cpu_ms'] / first['cpu_ms'] - 1:.0%} more core time a picture"
        share = float(row["of_copy"]["median"])
        known = len(reasons)
        if share >= _NEAR:
            reasons.append(f"memory bandwidth: {share:.0%} of what as many threads copy; {more}")
        if row["shared"]:
            reasons.append(f"hyper-threads share cores: {more}")
        if row["nodes"] > 1:
            reasons.append(f"NUMA, {row['nodes']} nodes: {more}")
        if len(reasons) == known:
            reasons.append(f"clock or shared caches: {more}, at {share:.0%} of the bandwidth")
    return reasons or ["nothing that these figures show"]


def bends(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any] | None]:
    """Returns for each codec the first count that is below `BENT`, and why; None: there is none."""
    found: dict[str, dict[str, Any] | None] = {}
    for codec in _CODECS:
        bent = (row for row in rows if row["codec"] == codec and row["why"])
        found[codec] = next(({"cores": row["cores"], "why": row["why"]} for row in bent), None)
    return found


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def measure(
    counts: Sequence[int], order: Sequence[int], prepared: Prepared, args: argparse.Namespace,
    folder: Path,
) -> dict[int, dict[str, Any]]:  # fmt: skip
    """Returns for each count what `summary` takes; prints how far it is."""
    found: dict[int, dict[str, Any]] = {n: {} for n in counts}
    sessions: dict[tuple[int, str], Session] = {}
    try:
        for n in counts:
            for name in (*_CODECS, "copy"):
                kind, codec = ("memory", "memory") if name == "copy" else ("scaling", name)
                row = Row(f"{name}-{n}", kind, name, name, codec, n, n)
                task = Task(
                    None if name == "copy" else prepared.source(row), args.imgsz, args.batch,
                    args.seed, tuple(order[:n]),
                )  # fmt: skip
                session = sessions[n, name] = Session([(row, task)], folder)
                ready = session.ask(_START_LIMIT, "start", row.id, _START_LIMIT)
                found[n][name] = {"facts": ready["facts"], "samples": []}
                say(f"{row.id} is ready")
        for turn in range(args.rounds):
            say(f"round {turn + 1} of {args.rounds}")
            for (n, name), session in sessions.items():
                limit = args.seconds + ANSWER_LIMIT
                sample = session.ask(limit, "slice", f"{name}-{n}", args.seconds, 0)
                found[n][name]["samples"].append(sample)
    finally:
        for session in sessions.values():
            session.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, help="your own dataset (default: a drawn one)")
    parser.add_argument("--keep", type=Path, help="keep the packed datasets there")
    parser.add_argument("--images", type=int, default=256, help="different pictures")
    parser.add_argument("--many", type=int, default=MANY, help="pictures, under several names each")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.4, help="of each sample")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    usable, quota = usable_cores(), cgroup.cpu_quota()
    nodes, siblings = topology.nodes(), topology.siblings()
    order, counts = core_order(usable, nodes, siblings), core_counts(len(usable), quota)
    topo = {}
    for n in counts:
        taken = set(order[:n])
        topo[n] = {
            "nodes": sum(bool(taken & set(node.cores)) for node in nodes) or 1,
            "shared": any(len(taken & set(siblings.get(core, ()))) > 1 for core in taken),
        }
    begin = results.about(
        "scaling", imgsz=args.imgsz, batch=args.batch, rounds=args.rounds, seconds=args.seconds,
        seed=args.seed, cpu_quota_cores=quota, core_order=order,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="yolodata-scaling-") as temporary:
        wanted = Wanted(args.data, args.images, args.many, args.imgsz, args.seed)
        folder = args.keep or Path(temporary) / "data"
        prepared = prepare(wanted, folder, set(_CODECS), say)
        rows = summary(measure(counts, order, prepared, args, Path(temporary)), topo)
    values = begin | {"data": prepared.facts, "rows": rows, "bends": bends(rows)}
    if args.json:
        results.save(args.json, values)
    for row in rows:
        text = f"{row['codec']:4} {row['cores']:3} cores: {row['img_s']['median']:8,.0f} img/s"
        text += f", efficiency {row['efficiency']['median']:.3f}"
        text += f" (by core time {row['core_efficiency']:.3f})"
        text += f", {row['gb_s']['median']:.1f} of {row['copy_gb_s']['median']:.1f} GB/s"
        print("; ".join([text, *row["why"]]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
