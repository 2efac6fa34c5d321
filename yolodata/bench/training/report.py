"""What was measured, as JSON, as text for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from yolodata.bench.results import Document, spread
from yolodata.bench.rounds import Measured, ratios
from yolodata.bench.table import aligned, decoder_line, gpu_line, markdown_table
from yolodata.bench.training.rounds import Trained
from yolodata.bench.training.task import Slice


def document(
    *,
    machine: Mapping[str, Any],
    versions: Mapping[str, str],
    settings: Mapping[str, Any],
    data: Mapping[str, Any],
    results: Sequence[Trained],
) -> Document:
    """Plain data for `json.dump`.

    Returns:
        dict of benchmark ("train"); machine; versions; settings; data;
        rows: name (id), label, short, kind, codec, cores, device, peers; of each sample, with
            median, min and max: img_s, steps_s, step_ms, wait_ms (a step), busy (share of the time
            in which the GPU computed; without samples where nobody can tell); error; profile: see
            `profiling.summary`;
        ratios: ours, peer (row names), median, min, max, samples (one a round: quotients of the
            img_s samples of that round);
        processes: cores, and what `task.TrainReady` says of the training; complaints.
    """
    found = [row for trained in results for row in trained.rows]
    return {
        "benchmark": "train",
        "machine": dict(machine),
        "versions": dict(versions),
        "settings": dict(settings),
        "data": dict(data),
        "rows": [_row(row) for row in found],
        "ratios": [
            {"ours": r.ours, "peer": r.peer, **spread(r.samples)} for r in ratios(found)
        ],
        "processes": [
            {"cores": t.cores, **(asdict(t.ready) if t.ready is not None else {})} for t in results
        ],
        "complaints": [],
    }  # fmt: skip


def _row(found: Measured) -> Document:
    row = found.row
    slices = [sample for sample in found.samples if isinstance(sample, Slice)]
    values: Document = {
        "name": row.id,
        "label": row.label,
        "short": row.short,
        "kind": row.kind,
        "codec": row.codec,
        "cores": row.cores,
        "device": row.device,
        "peers": list(row.peers),
        "img_s": spread([s.img_s for s in slices]),
        "steps_s": spread([s.steps_s for s in slices]),
        "step_ms": spread([1e3 / s.steps_s for s in slices]),
        "wait_ms": spread([1e3 * s.waited / s.steps for s in slices]),
        "busy": spread([s.busy for s in slices if s.busy is not None]),
    }
    if found.error is not None:
        values["error"] = found.error
    if found.profile is not None:
        values["profile"] = found.profile
    return values


def text(values: Document) -> str:
    """Everything a reader needs."""
    parts = ["\n".join(_about(values))]
    parts += [aligned(_table(values, process)) for process in values["processes"]]
    parts.append("\n".join(_notes(values)))
    parts += list(dict.fromkeys(f"FAILED: {r['error']}" for r in values["rows"] if "error" in r))
    return "\n\n".join(part for part in parts if part)


def markdown(values: Document) -> str:
    """The speeds as Markdown tables, with machine, versions and n."""
    parts = [markdown_table(_table(values, process)) for process in values["processes"]]
    lines = [*_about(values), *_notes(values)]
    return "\n\n".join([*parts, "\n".join(f"- {line.strip()}" for line in lines)])


def profiles(values: Document) -> str:
    """What `--profile` found, a part for each row."""
    parts = []
    for row in values["rows"]:
        found = row.get("profile")
        if not found:
            continue
        idle = "" if found["gpu_idle"] is None else f", GPU idle {found['gpu_idle']:.1%}"
        lines = [
            f"{row['name']}: {found['step_ms']:.1f} ms a step under torch's profiler (n = "
            f"{found['steps']}){idle}, {found['launches']:.0f} kernels and copies a step"
        ]
        for title, key in (("kernel", "kernels"), ("CPU operator, by itself", "cpu_ops")):
            lines += [
                f"  {ms:9.3f} ms {number:8.1f} x  {title} {name[:90]}"
                for name, number, ms in found[key]
            ]
        lines += [
            f"  before the first convolution: {op} {kernel[:90]}, {us:.0f} us"
            for op, kernel, us in found["before_first_convolution"]
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _about(values: Document) -> list[str]:
    machine, settings = values["machine"], values["settings"]
    return [
        f"{machine['cpu']}, {machine['cores_usable']} of {machine['cores_total']} cores usable, "
        f"{machine['os']}",
        *gpu_line(machine),
        ", ".join(f"{name} {version}" for name, version in values["versions"].items()),
        f"{settings['model']} on {settings['device']}, batches of {settings['batch']}, "
        f"{settings['imgsz']} x {settings['imgsz']}, default augmentation; "
        f"n = {settings['rounds']} rounds of {settings['steps']} steps a row",
        *decoder_line(settings),
        *([values["data"]["summary"]] if "summary" in values["data"] else []),
    ]


def _table(values: Document, process: Document) -> list[list[str]]:
    """Header and rows of one process."""
    cores = process["cores"]
    where = "one core" if cores == 1 else f"{cores} cores"
    table = [[where, "steps/s", "min to max", "img/s", "x fixed batch", "waits, ms", "GPU busy"]]
    for row in values["rows"]:
        if row["cores"] != cores:
            continue
        speed = row["steps_s"]
        if speed["median"] is None:
            table.append([row["label"], "failed", *[""] * 5])
            continue
        ratio = next((r for r in values["ratios"] if r["ours"] == row["name"]), None)
        busy = row["busy"]["median"]
        table.append(
            [
                row["label"],
                f"{speed['median']:.2f}",
                f"{speed['min']:.2f} to {speed['max']:.2f}",
                f"{row['img_s']['median']:,.0f}",
                ""
                if ratio is None
                else f"{ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f})",
                f"{row['wait_ms']['median']:.2f}",
                "" if busy is None else f"{busy:.1%}",
            ]
        )
    return table


def _notes(values: Document) -> list[str]:
    lines = []
    for process in values["processes"]:
        if "optimizer" not in process:
            continue
        precision = "mixed precision" if process["amp"] else "single precision"
        memory = process["device_memory_gib"]
        pinned = "pinned" if process["pinned"] else "not pinned"
        lines.append(
            f"{process['cores']} cores, {pinned}: {process['parameters'] / 1e6:.1f} M parameters, "
            f"{process['optimizer']}, {precision}"
            + (f", {memory:.1f} GiB of device memory" if memory else "")
        )
        lines += [f"  {name}: {about}" for name, about in process["feeds"].items() if about]
    reasons = dict.fromkeys(p["busy"] for p in values["processes"] if p.get("busy"))
    return lines + list(reasons)
