"""A document of `results` as text for a terminal and as Markdown for the README."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STAGES = ("read", "decode", "plan", "render", "collate", "wait")
Document = dict[str, Any]
Table = list[list[str]]


def text(values: Document) -> str:
    """Everything a reader needs."""
    parts = ["\n".join(about(values)), *(aligned(_speeds(values, g)) for g in groups(values))]
    for table, note in ((_bounds(values), _BOUNDS_NOTE), (_stages(values), _STAGES_NOTE)):
        if len(table) > 1:
            parts.append(f"{aligned(table)}\n{note}")
    parts += ["\n".join(_floor(values)), "\n".join(_processes(values))]
    parts += [f"NOT COMPARABLE: {complaint}" for complaint in values["complaints"]]
    parts += dict.fromkeys(f"FAILED: {r['error']}" for r in values["rows"] if "error" in r)
    return "\n\n".join(part for part in parts if part)


def markdown(values: Document) -> str:
    """The speeds as Markdown tables, with machine, versions and n."""
    tables = [*(_speeds(values, group) for group in groups(values)), _bounds(values)]
    return with_notes(tables, [*about(values), *_processes(values)])


def with_notes(tables: list[Table], notes: list[str]) -> str:
    """Tables that have rows as Markdown, numbers to the right, and a list of notes."""
    parts = []
    for head, *rows in tables:
        rule = ["---", *["---:"] * (len(head) - 1)]
        if rows:
            parts.append("\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows)))
    return "\n\n".join([*parts, "\n".join(f"- {note.strip()}" for note in notes)])


def aligned(table: Table) -> str:
    """First column to the left, the others to the right, a rule below the header."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in table
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def groups(values: Document) -> list[tuple[str, int]]:
    """(device, cores) of each table: rows of it were measured with the same."""
    return list(dict.fromkeys(map(_group, values["rows"])))


def in_group(values: Document, group: tuple[str, int]) -> list[Document]:
    """The rows of a table."""
    return [row for row in values["rows"] if _group(row) == group]


def where(group: tuple[str, int]) -> str:
    """What a table is called."""
    device, cores = group
    count = "one core" if cores == 1 else f"{cores} cores"
    return count if device == "cpu" else f"GPU, {count}"


def _group(row: Document) -> tuple[str, int]:
    return row.get("device", "cpu"), row["cores"]


def about_machine(values: Document) -> list[str]:
    """Machine, GPU and versions, a line each."""
    machine = values["machine"]
    memory, gpu = machine.get("memory_gib"), machine.get("gpu")
    lines = [
        f"{machine['cpu']}, {machine['cores_usable']} of {machine['cores_total']} cores usable"
        + (f", {memory:g} GiB" if memory else "")
        + f", {machine['os']}"
    ]
    if gpu:
        known = [f"{gpu['memory_gib']:g} GiB", f"compute capability {gpu['capability']}"]
        known += [f"{name} {gpu[key]}" for name, key in (("driver", "driver"), ("CUDA", "cuda"))
                  if gpu.get(key)]  # fmt: skip
        lines.append(f"{gpu['name']}: {', '.join(known)}")
    return [*lines, ", ".join(f"{name} {v}" for name, v in values["versions"].items())]


def about(values: Document) -> list[str]:
    """Machine, versions, settings and data, a line each."""
    settings, size = values["settings"], f"{values['settings']['imgsz']}"
    batches, recipe = f"batches of {settings['batch']}", _recipe(settings)
    if _trains(values):
        how = f"{settings['model']} on {settings['device']}, {batches}, {size} x {size}, {recipe}"
        length = f"{settings['steps']} steps"
    else:
        how = f"{size} x {size} pictures, {batches}, {recipe}"
        length = f"{settings['seconds']:g} s"
    lines = [*about_machine(values), f"{how}; n = {settings['rounds']} rounds of {length} a row"]
    load = settings.get("hw_decoder_load", "auto")
    if load != "auto" and load:
        lines.append(f"hw_decoder_load={load:g}: pictures of JPEG shards may differ by up to 3 "
                     "grey levels from one run to the next")  # fmt: skip
    return [*lines, *filter(None, [values["data"].get("summary")])]


def _trains(values: Document) -> bool:
    return bool(values["benchmark"] == "train")


def _recipe(settings: Mapping[str, Any]) -> str:
    """What is made, in words; results older than `task` are of detection."""
    task, augment = settings.get("task", "detect"), settings.get("augment") or {}
    changes = "".join(f", {name}={value}" for name, value in augment.items())
    return ("" if task == "detect" else f"{task}, ") + "default augmentation" + changes


def _range(values: Document, form: str) -> str:
    return f"{values['min']:{form}} to {values['max']:{form}}"


def _speeds(values: Document, group: tuple[str, int]) -> Table:
    """Header and rows of one group."""
    rows, trains = in_group(values, group), _trains(values)
    short = {row["name"]: row["short"] for row in rows}
    peers = [name for name in short if any(name in row["peers"] for row in rows)]
    speed, form, times = ("steps_s", ".2f", ".3f") if trains else ("img_s", ",.0f", ".1f")
    columns = ["steps/s", "min to max", "img/s"] if trains else ["img/s", "min to max", "ms"]
    columns += [f"x {short[peer]}" for peer in peers]
    table = [[where(group), *columns, *(["waits, ms", "GPU busy"] if trains else [])]]
    for row in rows:
        found = row[speed]
        if found["median"] is None:
            table.append([row["label"], "failed", *[""] * (len(table[0]) - 2)])
            continue
        ms = f"{1e3 / found['median']:.{2 if group[0] == 'cpu' else 4}f}"
        cells = [f"{found['median']:{form}}", _range(found, form),
                 f"{row['img_s']['median']:,.0f}" if trains else ms]  # fmt: skip
        ratios = {r["peer"]: r for r in values["ratios"] if r["ours"] == row["name"]}
        for peer in peers:
            ratio = ratios.get(peer)
            cells.append(f"{ratio['median']:{times}} ({_range(ratio, times)})" if ratio else "")
        if trains:
            busy = row["busy"]["median"]
            cells += [f"{row['wait_ms']['median']:.2f}", "" if busy is None else f"{busy:.1%}"]
        table.append([row["label"], *cells])
    return table


_BOUNDS_NOTE = (
    "GB/s counts what has to move: bytes written and source bytes shown for the kernel, read and\n"
    "written for the device copy, bytes that cross to the device for the others. Share: of the\n"
    "ceiling, round by round; of its GB/s if it has them, else of its img/s."
)


def _bounds(values: Document) -> Table:
    """Header and rows of what bounds a loader on a GPU."""
    short = {row["name"]: row["short"] for row in values["rows"]}
    shares = {share["ours"]: share for share in values.get("shares", [])}
    ceilings = {share["ceiling"] for share in shares.values()}
    table = [["GPU, what bounds it", "img/s", "GB/s", "ceiling", "share"]]
    for row in values["rows"]:
        speed, share = row["img_s"]["median"], shares.get(row["name"])
        if speed is None or (share is None and "gb_s" not in row and row["name"] not in ceilings):
            continue
        table.append([
            row["label"] + (f", {row['cores']}" if row["kind"] == "yolodata" else ""),
            f"{speed:,.0f}",
            f"{row['gb_s']['median']:,.1f}" if "gb_s" in row else "",
            short[share["ceiling"]] if share else "",
            f"{share['median']:.1%} ({_range(share, '.1%')})" if share else "",
        ])  # fmt: skip
    return table


_STAGES_NOTE = (
    "Seconds of all threads together, divided among the pictures; wait is the consumer's. read is\n"
    "touching the stored bytes once, measured apart: it is part of decode (JPEG) or render (raw)."
)


def _stages(values: Document) -> Table:
    table = [["ms a picture", *STAGES, "decodes a picture"]]
    for row in values["rows"]:
        if row["kind"] != "yolodata" or not (stages := row.get("stages_ms")):
            continue
        label = f"{row['label']}, {row['threads']} thread{'s' if row['threads'] > 1 else ''}"
        label += "" if _group(row)[0] == "cpu" else ", GPU"
        times = [f"{stages[stage]:.3f}" if stage in stages else "" for stage in STAGES]
        table.append([label, *times, f"{row['counts'].get('decodes', 0.0):.2f}"])
    return table


def _floor(values: Document) -> list[str]:
    lines = [f"Floor: a picture is {floor['bytes_written'] / 1e6:.2f} MB of output."
             for floor in values.get("floor", [])[:1]]  # fmt: skip
    return lines + [
        f"  {floor['name']}: copying as much takes {floor['copy_ms']:.3f} ms, making it "
        f"{floor['ms']:.3f} ms ({floor['times']:.1f} times the floor)"
        for floor in values.get("floor", [])
    ]


def _processes(values: Document) -> list[str]:
    """What is known of each training process."""
    lines = []
    for process in values.get("processes", []):
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
    reasons = dict.fromkeys(p["busy"] for p in values.get("processes", []) if p.get("busy"))
    return lines + list(reasons)


def profiles(values: Document) -> str:
    """What `--profile` found, a part for each row that has it."""
    rows = [row for row in values["rows"] if row.get("profile")]
    of_row = _profile_of_steps if _trains(values) else _profile_of_loader
    return "\n\n".join("\n".join(of_row(row["name"], row["profile"])) for row in rows)


def _profile_of_loader(name: str, found: Document) -> list[str]:
    seconds, pictures = found["seconds"], max(found["pictures"], 1)
    lines = [f"{name}: {pictures} pictures in {seconds:.2f} s, under cProfile"]
    for kind, title in (("stages_s", "stage"), ("threads_s", "thread")):
        for part, busy in sorted(found[kind].items(), key=lambda item: -item[1]):
            lines.append(
                f"  {title:6} {part:24} {busy:7.3f} s {100 * busy / seconds:6.1f} % of the "
                f"time {1e3 * busy / pictures:8.3f} ms a picture"
            )
    lines.append("  consumer's calls:            calls     own s   total s")
    for call, calls, own, total in found["calls"]:
        lines.append(f"    {call[:60]:60} {calls:8} {own:9.4f} {total:9.4f}")
    return lines


def _profile_of_steps(name: str, found: Document) -> list[str]:
    idle = "" if found["gpu_idle"] is None else f", GPU idle {found['gpu_idle']:.1%}"
    lines = [
        f"{name}: {found['step_ms']:.1f} ms a step under torch's profiler (n = {found['steps']})"
        f"{idle}, {found['launches']:.0f} kernels and copies a step"
    ]
    for title, key in (("kernel", "kernels"), ("CPU operator, by itself", "cpu_ops")):
        lines += [f"  {ms:9.3f} ms {number:8.1f} x  {title} {part[:90]}"
                  for part, number, ms in found[key]]  # fmt: skip
    return lines + [
        f"  before the first convolution: {op} {kernel[:90]}, {us:.0f} us"
        for op, kernel, us in found["before_first_convolution"]
    ]
