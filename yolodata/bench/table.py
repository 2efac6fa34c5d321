"""The document of `results` as text for a terminal and as Markdown for the README."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STAGES = ("read", "decode", "plan", "render", "collate", "wait")
Document = dict[str, Any]


def text(values: Document) -> str:
    """Everything a reader needs, at most 100 columns wide."""
    parts = [about(values)]
    parts += [aligned(_speeds(values, *group)) for group in groups(values)]
    bounds = _bounds(values)
    if bounds:
        parts.append(aligned(bounds) + "\n" + _BOUNDS_NOTE)
    stages = _stages(values)
    if len(stages) > 1:
        parts.append(aligned(stages) + "\n" + _STAGES_NOTE)
    parts.append(_floor_text(values))
    parts += [f"NOT COMPARABLE: {complaint}" for complaint in values["complaints"]]
    parts += [f"FAILED: {row['error']}" for row in values["rows"] if "error" in row]
    return "\n\n".join(part for part in parts if part)


def markdown(values: Document) -> str:
    """The speeds as Markdown tables, with machine, versions and n."""
    parts = [markdown_table(_speeds(values, *group)) for group in groups(values)]
    bounds = _bounds(values)
    if bounds:
        parts.append(markdown_table(bounds))
    return "\n\n".join([*parts, "\n".join(f"- {line}" for line in about(values).splitlines())])


def markdown_table(table: list[list[str]]) -> str:
    """Header and rows as Markdown, numbers to the right."""
    head, *rows = table
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def groups(values: Document) -> list[tuple[str, int]]:
    """(device, cores) of each table: rows of it were measured with the same."""
    return list(dict.fromkeys((_device(row), row["cores"]) for row in values["rows"]))


def in_group(values: Document, group: tuple[str, int]) -> list[Document]:
    """The rows of a table."""
    return [row for row in values["rows"] if (_device(row), row["cores"]) == group]


def where(group: tuple[str, int]) -> str:
    """What a table is called."""
    device, cores = group
    count = "one core" if cores == 1 else f"{cores} cores"
    return count if device == "cpu" else f"GPU, {count}"


def _device(row: Document) -> str:
    return str(row.get("device", "cpu"))


_BOUNDS_NOTE = (
    "GB/s counts what has to move: bytes written and source bytes shown for the kernel, read and\n"
    "written for the device copy, bytes that cross to the device for the others. Share: of the\n"
    "ceiling, round by round; of its GB/s if it has them, else of its img/s."
)


def _bounds(values: Document) -> list[list[str]]:
    """Header and rows of what bounds a loader on a GPU; empty without one."""
    short = {row["name"]: row["short"] for row in values["rows"]}
    shares = {share["ours"]: share for share in values.get("shares", [])}
    ceilings = {share["ceiling"] for share in shares.values()}
    table = [["GPU, what bounds it", "img/s", "GB/s", "ceiling", "share"]]
    for row in values["rows"]:
        speed, share = row["img_s"]["median"], shares.get(row["name"])
        if speed is None or (share is None and "gb_s" not in row and row["name"] not in ceilings):
            continue
        label = row["label"] if row["kind"] != "yolodata" else f"{row['label']}, {row['cores']}"
        percent = "" if share is None else (
            f"{share['median']:.1%} ({share['min']:.1%} to {share['max']:.1%})"
        )  # fmt: skip
        gb_s = f"{row['gb_s']['median']:,.1f}" if "gb_s" in row else ""
        ceiling = short[share["ceiling"]] if share else ""
        table.append([label, f"{speed:,.0f}", gb_s, ceiling, percent])
    return table if len(table) > 1 else []


_STAGES_NOTE = (
    "Seconds of all threads together, divided among the pictures; wait is the consumer's. read is\n"
    "touching the stored bytes once, measured apart: it is part of decode (JPEG) or render (raw)."
)


def about(values: Document) -> str:
    """Machine, versions, settings and data, a line each."""
    machine, settings, data = values["machine"], values["settings"], values["data"]
    versions = ", ".join(f"{name} {v}" for name, v in values["versions"].items())
    memory = machine.get("memory_gib")
    how = (
        f"{settings['imgsz']} x {settings['imgsz']} pictures, batches of {settings['batch']}, "
        f"{_recipe(settings)}; n = {settings['rounds']} rounds of {settings['seconds']:g} s a row"
    )
    lines = [
        f"{machine['cpu']}, {machine['cores_usable']} of {machine['cores_total']} cores usable"
        + (f", {memory:g} GiB" if memory else "")
        + f", {machine['os']}",
        *gpu_line(machine),
        versions,
        how,
        *decoder_line(settings),
    ]
    if "summary" in data:
        lines.append(data["summary"])
    return "\n".join(lines)


def decoder_line(settings: Mapping[str, Any]) -> list[str]:
    """The share that was asked for a GPU's JPEG engine, if any, and what it costs."""
    load = settings.get("hw_decoder_load", "auto")
    if load == "auto" or not load:
        return []
    return [
        f"hw_decoder_load={load:g}: pictures of JPEG shards may differ by up to 3 grey levels from "
        "one run to the next"
    ]


def gpu_line(machine: Document) -> list[str]:
    """The GPU in a line, if there is one."""
    gpu = machine.get("gpu")
    if not gpu:
        return []
    known = [f"{gpu['memory_gib']:g} GiB", f"compute capability {gpu['capability']}"]
    known += [f"driver {gpu['driver']}"] if gpu.get("driver") else []
    known += [f"CUDA {gpu['cuda']}"] if gpu.get("cuda") else []
    return [f"{gpu['name']}: {', '.join(known)}"]


def _speeds(values: Document, device: str, cores: int) -> list[list[str]]:
    """Header and rows of one group."""
    rows = in_group(values, (device, cores))
    short = {row["name"]: row["short"] for row in rows}
    peers = [name for name in short if any(name in row["peers"] for row in rows)]
    table = [
        [where((device, cores)), "img/s", "min to max", "ms", *(f"x {short[p]}" for p in peers)]
    ]
    for row in rows:
        speed = row["img_s"]
        if speed["median"] is None:
            table.append([row["label"], "failed", "", "", *[""] * len(peers)])
            continue
        ratios = {r["peer"]: r for r in values["ratios"] if r["ours"] == row["name"]}
        table.append(
            [
                row["label"],
                f"{speed['median']:,.0f}",
                f"{speed['min']:,.0f} to {speed['max']:,.0f}",
                f"{1e3 / speed['median']:.{2 if device == 'cpu' else 4}f}",
                *(_ratio(ratios.get(peer)) for peer in peers),
            ]
        )
    return table


def _ratio(ratio: Document | None) -> str:
    if ratio is None:
        return ""
    return f"{ratio['median']:.1f} ({ratio['min']:.1f} to {ratio['max']:.1f})"


def _stages(values: Document) -> list[list[str]]:
    table = [["ms a picture", *STAGES, "decodes a picture"]]
    for row in values["rows"]:
        stages = row["stages_ms"]
        if row["kind"] != "yolodata" or not stages:
            continue
        decodes = row["counts"].get("decodes", 0.0)
        label = f"{row['label']}, {row['threads']} thread{'s' if row['threads'] > 1 else ''}"
        label += "" if _device(row) == "cpu" else ", GPU"
        times = [f"{stages[stage]:.3f}" if stage in stages else "" for stage in STAGES]
        table.append([label, *times, f"{decodes:.2f}"])
    return table


def _floor_text(values: Document) -> str:
    lines: list[str] = []
    for floor in values["floor"]:
        if not lines:
            lines.append(f"Floor: a picture is {floor['bytes_written'] / 1e6:.2f} MB of output.")
        lines.append(
            f"  {floor['name']}: copying as much takes {floor['copy_ms']:.3f} ms, making it "
            f"{floor['ms']:.3f} ms ({floor['times']:.1f} times the floor)"
        )
    return "\n".join(lines)


def aligned(table: list[list[str]]) -> str:
    """First column to the left, the others to the right, a rule below the header."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def profiles(values: Document) -> str:
    """What `--profile` found, for each of yolodata's rows."""
    parts = []
    for row in values["rows"]:
        found = row.get("profile")
        if not found:
            continue
        seconds, pictures = found["seconds"], max(found["pictures"], 1)
        lines = [f"{row['name']}: {pictures} pictures in {seconds:.2f} s, under cProfile"]
        for kind, title in (("stages_s", "stage"), ("threads_s", "thread")):
            for name, busy in sorted(found[kind].items(), key=lambda item: -item[1]):
                lines.append(
                    f"  {title:6} {name:24} {busy:7.3f} s {100 * busy / seconds:6.1f} % of the "
                    f"time {1e3 * busy / pictures:8.3f} ms a picture"
                )
        lines.append("  consumer's calls:            calls     own s   total s")
        for where, calls, own, total in found["calls"]:
            lines.append(f"    {where[:60]:60} {calls:8} {own:9.4f} {total:9.4f}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _recipe(settings: Mapping[str, Any]) -> str:
    """What is made, in words; results older than `task` are of detection."""
    task, augment = settings.get("task", "detect"), settings.get("augment") or {}
    changes = "".join(f", {name}={value}" for name, value in augment.items())
    return ("" if task == "detect" else f"{task}, ") + "default augmentation" + changes
