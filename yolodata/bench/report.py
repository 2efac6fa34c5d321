"""A document of `results` as text for a terminal and as Markdown for the README."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import quantiles
from typing import Any

from yolodata.bench.results import spread

_DECODED = 0.9
"""Decodes a picture below which rows of files are not about decoding."""
_BUSY = 0.15
"""Cores that others may keep busy before the report warns of it."""
DOUBT_HELPS = "More rounds (--rounds), or a quieter machine, can tell."
STAGES = ("read", "decode", "plan", "render", "collate", "wait")
Document = dict[str, Any]
Table = list[list[str]]
Group = tuple[str, int, str]

_BOUNDS_NOTE = (
    "GB/s counts what has to move: bytes written and source bytes shown for the kernel, read and\n"
    "written for the device copy, bytes that cross to the device for the others. Share: of the\n"
    "ceiling, round by round; of its GB/s if it has them, else of its img/s."
)
_STAGES_NOTE = (
    "Seconds of all threads together, divided among the pictures; wait is the consumer's. read is\n"
    "touching the stored bytes once, measured apart: it is part of decode (JPEG) or render (raw)."
)


def text(values: Document) -> str:
    """Everything a reader needs."""
    parts = ["\n".join(_about(values)), *(aligned(table) for table in _speeds(values))]
    parts.append("\n".join(f"{label}: {text}" for label, text in differences(values).items()))
    for table, note in ((_bounds(values), _BOUNDS_NOTE), (_stages(values), _STAGES_NOTE)):
        if len(table) > 1:
            parts.append(f"{aligned(table)}\n{note}")
    parts += ["\n".join(_floor(values)), "\n".join(_processes(values))]
    parts += [f"ALREADY DECODED: {text}" for text in already_decoded(values)]
    parts += [f"BUSY: {text}" for text in busy(values)]
    parts += [f"UNCLEAR (?): {text}. {DOUBT_HELPS}" for text in doubts(values)]
    parts += [f"NOT INSTALLED: {peer['label']}; `{peer['install']}`"
              for peer in values.get("not_installed", [])]  # fmt: skip
    parts += [f"NOT COMPARABLE: {complaint}" for complaint in values["complaints"]]
    parts += dict.fromkeys(f"FAILED: {r['error']}" for r in values["rows"] if "error" in r)
    return "\n\n".join(filter(None, parts))


def markdown(values: Document) -> str:
    """The speeds as Markdown tables, with machine, versions and n."""
    tables = [*_speeds(values, differences(values)), _bounds(values)]
    notes = [*_about(values), *map(str.strip, _processes(values))]
    notes += [f"already decoded: {text}" for text in already_decoded(values)]
    notes += [f"busy: {text}" for text in busy(values)]
    return with_notes(tables, [*notes, *(f"unclear (?): {text}" for text in doubts(values))])


def with_notes(tables: list[Table], notes: list[str]) -> str:
    """Tables that have rows as Markdown, numbers to the right, and a list of notes."""
    parts = []
    for head, *rows in tables:
        rule = ["---", *["---:"] * (len(head) - 1)]
        if rows:
            parts.append("\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows)))
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes)])


def aligned(table: Table) -> str:
    """First column to the left, the others to the right, a rule below the header."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in table
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def group_of(row: Document) -> Group:
    """Device, cores and labels of a row; old files have no labels."""
    return row["device"], row["cores"], row.get("labels", "boxes")


def groups(values: Document) -> dict[Group, list[Document]]:
    """The rows of each table, which were measured together."""
    found: dict[Group, list[Document]] = {}
    for row in values["rows"]:
        found.setdefault(group_of(row), []).append(row)
    return found


def where(group: Group) -> str:
    """What the table of a group is called."""
    device, cores, labels = group
    count = "one core" if cores == 1 else f"{cores} cores"
    count += "" if labels == "boxes" else f", labels are {labels}"
    return count if device == "cpu" else f"GPU, {count}"


def decodes(row: Document) -> float | None:
    """Files that were decoded while the clock ran, a picture; None where nobody counted."""
    counts = row.get("counts", {})
    if "decodes" in counts:
        return float(counts["decodes"])
    raw = row["kind"] == "yolodata" and row["codec"] == "raw"
    return 0.0 if raw and row["img_s"]["samples"] else None


def label(row: Document) -> str:
    """What the tables and charts call a row; of files that were decoded before, it says so."""
    found = _decoded_before(row)
    return f"{row['label']} ({found} decoded)" if found else str(row["label"])


def _decoded_before(row: Document) -> str:
    """How far files were decoded before the clock ran; empty: they were not, or there are none."""
    found = decodes(row)
    if row["codec"] not in ("files", "jpeg") or found is None or found >= _DECODED:
        return ""
    return "already" if found < 1 - _DECODED else "partly"


def already_decoded(values: Document) -> list[str]:
    """The rows of files that decoded less than they will in a larger dataset."""
    return [
        f"{row['label']} ({where(group)}): {decodes(row):.2f} decodes a picture while the clock "
        f"ran; the others were in memory from before. So it is with datasets of fewer images than "
        "loaders keep; in larger ones each is decoded (--images, --many)"
        for group, rows in groups(values).items() for row in rows if _decoded_before(row)
    ]  # fmt: skip


def busy(values: Document) -> list[str]:
    """A warning, if others kept the machine busy while rows were measured."""
    load = values.get("load", {})
    worst = sum(load[name]["max"] or 0.0 for name in ("others", "steal") if name in load)
    usual = sum(load[name]["median"] or 0.0 for name in ("others", "steal") if name in load)
    if usual <= _BUSY and worst <= 2 * _BUSY:
        return []
    return [
        f"others kept {usual:.2f} cores busy while rows were measured, and up to {worst:.2f} in "
        "one of their rounds; measure again on a quieter machine"
    ]


def base(rows: list[Document]) -> Document | None:
    """The row that all of a group are compared with in a chart: the fastest that is a peer."""
    peers = {name for row in rows for name in row["peers"]}
    found = [row for row in rows if row["name"] in peers and row["img_s"]["samples"]]
    return max(found, key=lambda row: float(row["img_s"]["median"]), default=None)


def ratio(ours: Document, peer: Document) -> Document:
    """How many times as fast one row is as another, round by round: a spread."""
    pairs = zip(ours["img_s"]["samples"], peer["img_s"]["samples"], strict=False)
    return spread([a / b for a, b in pairs])


def ratio_text(values: Document, found: Document) -> str:
    """Median and range of a ratio, as the tables have them."""
    form = ".3f" if _trains(values) else ".1f" if found["median"] >= 1 else ".2f"
    return _with_range(found, form)


def doubt(found: Document) -> str:
    """Why the spread of a ratio leaves open whether there is a difference; empty: it does not.

    It does where a single round has no spread, where the rounds disagree about which row is
    faster, and where the middle half of the rounds ranges over as much as the difference from 1,
    or over half of the ratio itself.
    """
    samples: list[float] = found["samples"]
    if len(samples) < 2:
        return "one round has no spread"
    if min(samples) <= 1 <= max(samples):
        return f"{len(samples)} rounds disagree about which is faster"
    low, middle, high = quantiles(samples, method="inclusive")
    if high - low >= abs(middle - 1):
        return (f"half of {len(samples)} rounds range over {high - low:.2f}, "
                f"and the difference is {abs(middle - 1):.2f}")  # fmt: skip
    if high - low > middle / 2:
        return f"half of {len(samples)} rounds range over {high - low:.2f}: it may be any of these"
    return ""


def doubted(values: Document, ours: Document, peer: Document, found: Document) -> str:
    """A sentence about a ratio that its spread makes meaningless; empty: it does not."""
    reason = doubt(found)
    pair = f"{ours['label']} against {peer['label']} ({where(group_of(ours))})"
    return f"{pair}: {ratio_text(values, found)}; {reason}" if reason else ""


def doubts(values: Document) -> list[str]:
    """What is meaningless among the ratios of a document, and what helps; often nothing."""
    rows = {row["name"]: row for row in values["rows"]}
    found = [doubted(values, rows[r["ours"]], rows[r["peer"]], r) for r in values["ratios"]]
    return [text for text in found if text]


def about_machine(values: Document) -> list[str]:
    """Date and machine, GPU, and versions, a line each; old files have no date."""
    machine = values["machine"]
    memory, gpu = machine.get("memory_gib"), machine.get("gpu")
    measured = f"{values['date']}, " if "date" in values else ""
    lines = [
        f"{measured}{machine['cpu']}, {machine['cores_usable']} of {machine['cores_total']} cores "
        "usable" + (f", {memory:g} GiB" if memory else "") + f", {machine['os']}"
    ]
    if gpu:
        line = f"{gpu['name']}: {gpu['memory_gib']:g} GiB, compute capability {gpu['capability']}"
        line += f", driver {gpu['driver']}" if gpu.get("driver") else ""
        lines.append(line + (f", CUDA {gpu['cuda']}" if gpu.get("cuda") else ""))
    if (others := values.get("load", {}).get("others")) and others["samples"]:
        steal, machine = values["load"]["steal"], values["machine"]
        lines.append(
            f"while rows were measured, others kept {_with_range(others, '.2f')} of "
            f"{machine['cores_total']} cores busy, the host took {steal['median']:.2f} (at most "
            f"{steal['max']:.2f}); load average {machine['load_before']:.2f} before"
        )
    return [*lines, ", ".join(f"{name} {v}" for name, v in values["versions"].items())]


def _trains(values: Document) -> bool:
    return bool(values["benchmark"] == "train")


def how(values: Document) -> str:
    """What the pictures are, and what takes them; old files have no `task`."""
    settings = values["settings"]
    task, size, augment = settings.get("task", "detect"), settings["imgsz"], settings.get("augment")
    batches = f"batches of {settings['batch']}"
    recipe = ("" if task == "detect" else f"{task}, ") + "default augmentation"
    recipe += "".join(f", {name}={value}" for name, value in (augment or {}).items())
    if _trains(values):
        return f"{settings['model']} on {settings['device']}, {batches}, {size} x {size}, {recipe}"
    return f"{size} x {size} pictures, {batches}, {recipe}"


def _about(values: Document) -> Iterator[str]:
    """Machine, versions, settings and data, a line each."""
    yield from about_machine(values)
    settings, trains = values["settings"], _trains(values)
    length = f"{settings['steps']} steps" if trains else f"{settings['seconds']:g} s"
    yield f"{how(values)}; n = {settings['rounds']} rounds of {length} a row"
    load = settings.get("hw_decoder_load", "auto")
    if load != "auto" and load:
        yield (f"hw_decoder_load={load:g}: pictures of JPEG shards may differ by up to 3 "
               "grey levels from one run to the next")  # fmt: skip
    if summary := values["data"].get("summary"):
        yield summary


def _with_range(values: Document, form: str) -> str:
    return f"{values['median']:{form}} ({_range(values, form)})"


def marked(values: Document, ratio: Document | None) -> str:
    """A ratio, with a question mark where its spread makes it meaningless; "" of none."""
    if ratio is None:
        return ""
    return ratio_text(values, ratio) + (" ?" if doubt(ratio) else "")


def _range(values: Document, form: str) -> str:
    return f"{values['min']:{form}} to {values['max']:{form}}"


def differences(values: Document) -> dict[str, str]:
    """How rows depart from the recipe, by their labels."""
    return {row["label"]: row["differs"] for row in values["rows"] if row.get("differs")}


def _speeds(values: Document, otherwise: Mapping[str, str] = {}) -> Iterator[Table]:
    """Header and rows of each group; with a last column of differences, where there are some."""
    trains = _trains(values)
    ratios = {(r["ours"], r["peer"]): r for r in values["ratios"]}
    for group, rows in groups(values).items():
        named = {name for row in rows for name in row["peers"]}
        peers = [row for row in rows if row["name"] in named]
        counted = any(map(decodes, rows))  # there are files, and somebody counted
        differ = any(row["label"] in otherwise for row in rows)
        columns = ["steps/s", "min to max", "img/s"] if trains else ["img/s", "min to max", "ms"]
        columns += [f"x {peer['short']}" for peer in peers]
        columns += ["waits, ms", "GPU busy"] if trains else []
        columns += ["decodes"] * counted + ["not as in the recipe"] * differ
        table = [[where(group), *columns]]
        for row in rows:
            speed, found = row["steps_s"] if trains else row["img_s"], decodes(row)
            if speed["median"] is None:
                table.append([row["label"], "failed", *[""] * (len(columns) - 1)])
                continue
            img_s, form = f"{row['img_s']['median']:,.0f}", ".2f" if trains else ",.0f"
            ms = f"{1e3 / row['img_s']['median']:.{2 if group[0] == 'cpu' else 4}f}"
            cells = [f"{speed['median']:{form}}", _range(speed, form), img_s if trains else ms]
            cells += [marked(values, ratios.get((row["name"], peer["name"]))) for peer in peers]
            if trains:
                busy = row["busy"]["median"]
                cells += [f"{row['wait_ms']['median']:.2f}", "" if busy is None else f"{busy:.1%}"]
            cells += ["" if found is None else f"{found:.2f}"] * counted
            cells += [otherwise.get(row["label"], "")] * differ
            table.append([label(row), *cells])
        yield table


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
            _with_range(share, ".1%") if share else "",
        ])  # fmt: skip
    return table


def _stages(values: Document) -> Table:
    """Header and rows of where the time of yolodata's loaders goes."""
    table = [["ms a picture", *STAGES, "decodes a picture"]]
    for row in values["rows"]:
        if row["kind"] == "yolodata" and (stages := row.get("stages_ms")):
            label = f"{row['label']}, {row['threads']} thread{'s' if row['threads'] > 1 else ''}"
            label += "" if row["device"] == "cpu" else ", GPU"
            label += "" if row["labels"] == "boxes" else f", {row['labels']}"
            times = [f"{stages[stage]:.3f}" if stage in stages else "" for stage in STAGES]
            table.append([label, *times, f"{row['counts'].get('decodes', 0.0):.2f}"])
    return table


def _floor(values: Document) -> Iterator[str]:
    floors = values.get("floor", [])
    for floor in floors[:1]:
        yield f"Floor: a picture is {floor['bytes_written'] / 1e6:.2f} MB of output."
    for floor in floors:
        yield (f"  {floor['name']}: copying as much takes {floor['copy_ms']:.3f} ms, making it "
               f"{floor['ms']:.3f} ms ({floor['times']:.1f} times the floor)")  # fmt: skip


def _processes(values: Document) -> Iterator[str]:
    """What is known of each training process."""
    processes = [p for p in values.get("processes", []) if "optimizer" in p]
    for process in processes:
        memory = process["device_memory_gib"]
        yield (
            f"{process['cores']} cores, {'pinned' if process['pinned'] else 'not pinned'}: "
            f"{process['parameters'] / 1e6:.1f} M parameters, {process['optimizer']}, "
            f"{'mixed' if process['amp'] else 'single'} precision"
            + (f", {memory:.1f} GiB of device memory" if memory else "")
        )
        for name, about in process["feeds"].items():
            if about:
                yield f"  {name}: {about}"
    yield from dict.fromkeys(process["busy"] for process in processes if process["busy"])


def profiles(values: Document) -> str:
    """What `--profile` found, a part for each row that has it."""
    rows = [row for row in values["rows"] if row.get("profile")]
    of_row = _profile_of_steps if _trains(values) else _profile_of_loader
    return "\n\n".join("\n".join(of_row(row["name"], row["profile"])) for row in rows)


def _profile_of_loader(name: str, found: Document) -> Iterator[str]:
    seconds, pictures = found["seconds"], max(found["pictures"], 1)
    yield f"{name}: {pictures} pictures in {seconds:.2f} s, under cProfile"
    for kind, title in (("stages_s", "stage"), ("threads_s", "thread")):
        for part, busy in sorted(found[kind].items(), key=lambda item: -item[1]):
            yield (f"  {title:6} {part:24} {busy:7.3f} s {100 * busy / seconds:6.1f} % of the "
                   f"time {1e3 * busy / pictures:8.3f} ms a picture")  # fmt: skip
    yield "  consumer's calls:            calls     own s   total s"
    for call, calls, own, total in found["calls"]:
        yield f"    {call[:60]:60} {calls:8} {own:9.4f} {total:9.4f}"


def _profile_of_steps(name: str, found: Document) -> Iterator[str]:
    idle = "" if found["gpu_idle"] is None else f", GPU idle {found['gpu_idle']:.1%}"
    yield (f"{name}: {found['step_ms']:.1f} ms a step under torch's profiler (n = {found['steps']})"
           f"{idle}, {found['launches']:.0f} kernels and copies a step")  # fmt: skip
    for title, key in (("kernel", "kernels"), ("CPU operator, by itself", "cpu_ops")):
        for part, number, ms in found[key]:
            yield f"  {ms:9.3f} ms {number:8.1f} x  {title} {part[:90]}"
    for op, kernel, us in found["before_first_convolution"]:
        yield f"  before the first convolution: {op} {kernel[:90]}, {us:.0f} us"
