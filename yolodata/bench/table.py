"""The document of `results` as text for a terminal and as Markdown for the README."""

from __future__ import annotations

from typing import Any

STAGES = ("read", "decode", "plan", "render", "collate", "wait")
Document = dict[str, Any]


def text(values: Document) -> str:
    """Everything a reader needs, at most 100 columns wide."""
    parts = [_about(values)]
    for cores in dict.fromkeys(row["cores"] for row in values["rows"]):
        parts.append(_aligned(_speeds(values, cores)))
    stages = _stages(values)
    if len(stages) > 1:
        parts.append(_aligned(stages) + "\n" + _STAGES_NOTE)
    parts.append(_floor_text(values))
    parts += [f"NOT COMPARABLE: {complaint}" for complaint in values["complaints"]]
    parts += [f"FAILED: {row['error']}" for row in values["rows"] if "error" in row]
    return "\n\n".join(part for part in parts if part)


def markdown(values: Document) -> str:
    """The speeds as Markdown tables, with machine, versions and n."""
    parts = []
    for cores in dict.fromkeys(row["cores"] for row in values["rows"]):
        head, *rows = _speeds(values, cores)
        rule = ["---", *["---:"] * (len(head) - 1)]
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows)))
    return "\n\n".join([*parts, "\n".join(f"- {line}" for line in _about(values).splitlines())])


_STAGES_NOTE = (
    "Seconds of all threads together, divided among the pictures; wait is the consumer's. read is\n"
    "touching the stored bytes once, measured apart: it is part of decode (JPEG) or render (raw)."
)


def _about(values: Document) -> str:
    machine, settings, data = values["machine"], values["settings"], values["data"]
    versions = ", ".join(f"{name} {v}" for name, v in values["versions"].items())
    memory = machine.get("memory_gib")
    how = (
        f"{settings['imgsz']} x {settings['imgsz']} pictures, batches of {settings['batch']}, "
        f"default augmentation; n = {settings['rounds']} rounds of {settings['seconds']:g} s a row"
    )
    lines = [
        f"{machine['cpu']}, {machine['cores_usable']} of {machine['cores_total']} cores usable"
        + (f", {memory:g} GiB" if memory else "")
        + f", {machine['os']}",
        versions,
        how,
    ]
    if "summary" in data:
        lines.append(data["summary"])
    return "\n".join(lines)


def _speeds(values: Document, cores: int) -> list[list[str]]:
    """Header and rows of one group."""
    rows = [row for row in values["rows"] if row["cores"] == cores]
    short = {row["name"]: row["short"] for row in rows}
    peers = [name for name in short if any(name in row["peers"] for row in rows)]
    where = "one core" if cores == 1 else f"{cores} cores"
    table = [[where, "img/s", "min to max", "ms", *(f"x {short[p]}" for p in peers)]]
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
                f"{1e3 / speed['median']:.2f}",
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


def _aligned(table: list[list[str]]) -> str:
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
