"""The report as one HTML file: plots and style inside, no script, nothing from the network.

It is well-formed XML too, so that a test can read it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from yolodata.doctor import charts
from yolodata.doctor.charts import escaped
from yolodata.doctor.finding import Finding
from yolodata.doctor.report import Report
from yolodata.doctor.report_text import KINDS, examined_text, gain, knob, lost, summary

TINY_PX = 3
"""Boxes of this side or less, after resizing, are hardly learned."""

_MOST = 24
"""Values of a list that a table shows."""

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2024; --faint: #5b636b; --line: #dfe3e7;
  --card: #f6f7f9; --bad: #b3261e;
  --c0: #0b6bbf; --c1: #d98b00; --c2: #00876c; --c3: #b8609a; --c4: #8a94a0; --c5: #d1541b;
  --c6: #6f5bd0; --c7: #a8763e; --c8: #3b8f3b; --c9: #c2c8ce; }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #14171a; --ink: #e8eaed;
  --faint: #a2abb4; --line: #333a41; --card: #1d2226; --bad: #ff8a80;
  --c0: #4aa3ee; --c1: #f0ad3a; --c2: #2fb99b; --c3: #da8cc0; --c4: #7d8894;
  --c5: #f07f4a; --c6: #9d8cf0; --c7: #cf9c63; --c8: #62b862; --c9: #4a535c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 880px; padding: 24px 20px 60px; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, "Liberation Sans", sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.3; margin: 0 0 4px; }
h2 { font-size: 1.15rem; margin: 36px 0 10px; }
h3 { font-size: 1rem; margin: 0 0 6px; }
.faint, small, figcaption { color: var(--faint); }
.lead { font-size: 1.2rem; margin: 14px 0 0; }
.finding { background: var(--card); border-left: 5px solid var(--c4); border-radius: 4px;
  padding: 12px 16px; margin: 12px 0; break-inside: avoid; overflow-wrap: anywhere; }
.breaks { border-color: var(--bad); } .slow { border-color: var(--c5); }
.risk { border-color: var(--c1); } .opportunity { border-color: var(--c2); }
.tag { font-size: .8rem; font-weight: 400; color: var(--faint); }
.facts { display: grid; grid-template-columns: 7.5rem 1fr; gap: 4px 12px; margin: 0; }
.facts dt { color: var(--faint); } .facts dd { margin: 0; }
code { font: .92em/1.4 ui-monospace, "Liberation Mono", monospace; background: var(--paper);
  border: 1px solid var(--line); border-radius: 3px; padding: 0 4px; }
figure { margin: 0 0 26px; break-inside: avoid; }
svg { width: 100%; height: auto; display: block;
  font: 13px system-ui, "Liberation Sans", sans-serif; }
figcaption { font-size: .9rem; margin-bottom: 8px; }
svg .ink { fill: var(--ink); } svg .faint { fill: var(--faint); }
svg .line { stroke: var(--line); } svg .hollow { fill: none; stroke: var(--c5); stroke-width: 2; }
svg .stroke0 { fill: none; stroke: var(--c0); stroke-width: 1.6; }
.c0 { fill: var(--c0); } .c1 { fill: var(--c1); } .c2 { fill: var(--c2); } .c3 { fill: var(--c3); }
.c4 { fill: var(--c4); } .c5 { fill: var(--c5); } .c6 { fill: var(--c6); } .c7 { fill: var(--c7); }
.c8 { fill: var(--c8); } .c9 { fill: var(--c9); }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
td, th { text-align: left; vertical-align: top; padding: 3px 10px 3px 0;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
details { margin: 8px 0; } summary { cursor: pointer; }
@media (max-width: 560px) { .facts { grid-template-columns: 1fr; gap: 0; } }
@media print { body { font-size: 11pt; max-width: none; padding: 0; }
  .finding, rect, circle { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def html(report: Report) -> str:
    """Returns the page.

    Args:
        report: what was found.
    """
    body = "\n".join(_body(report))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f"<title>yolodata doctor: {escaped(examined_text(report))}</title>\n"
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _body(report: Report) -> Iterator[str]:
    yield f"<h1>yolodata doctor</h1>\n<div class='faint'>{escaped(examined_text(report))}<br/>"
    yield f"{escaped(report.date)}, {report.seconds:.0f} s, {escaped(_machine_line(report))}</div>"
    yield f"<p class='lead'>{escaped(summary(report))}</p>"
    if report.fake:
        yield (
            "<p><strong>Fake:</strong> probes of the hardware were replaced; what is marked so is "
            "not about this machine.</p>"
        )
    for title, findings in (
        ("Complaints, worst first", report.complaints),
        ("Opportunities", report.opportunities),
    ):
        if findings:
            yield f"<h2>{title}</h2>"
            yield from map(_finding, findings)
    plots = list(_plots(report))
    drawn = [plot for _, plot in plots if plot]
    absent = [title for title, plot in plots if not plot]
    if drawn:
        yield "<h2>Measured</h2>"
        yield from drawn
    if absent:
        yield f"<p class='faint'>No plot of: {', '.join(absent)}. It was not measured.</p>"
    if report.not_done:
        rows = [[section, why] for section, why in report.not_done]
        yield "<h2>Not done</h2>" + _table(["section", "why"], rows)
    yield "<h2>All figures</h2>"
    for name, outcome in report.outcomes.items():
        if rows := list(_flat("", outcome.measured)):
            yield _folded(name + (", fake" if outcome.fake else ""), rows)
    yield _folded("this machine", list(_flat("", report.machine)))
    yield _folded("versions", list(_flat("", report.versions)))


def _finding(finding: Finding) -> str:
    do, *words = knob(finding)
    settings = "".join(f" <code>{escaped(word)}</code>" for word in words)
    facts = {
        "lost": escaped(", ".join(lost(finding))),
        "evidence": _prose(finding.evidence),
        "do this": _prose(do) + settings,
        "predicted": escaped(" as fast, ".join(gain(finding))),
    }
    listed = "".join(f"<dt>{name}</dt><dd>{said}</dd>" for name, said in facts.items() if said)
    kind = KINDS[finding.kind] + (", fake" if finding.fake else "")
    return (
        f"<div class='finding {finding.kind}'><h3>{_prose(finding.title)} "
        f"<span class='tag'>{escaped(finding.cause)}, {kind}</span></h3>"
        f"<dl class='facts'>{listed}</dl></div>"
    )


def _plots(report: Report) -> Iterator[tuple[str, str]]:
    """Titles of all plots that there can be, and the figure, or "" where nothing was measured."""
    for title, caption, name, draw in _PLOTS:
        found = [
            (section, outcome.fake, drawn)
            for section, outcome in report.outcomes.items()
            if outcome.measured.get(name) and (drawn := draw(outcome.measured))
        ]
        for section, fake, drawn in found:
            where = f" ({escaped(section)}{', fake' if fake else ''})"
            yield (
                title,
                f"<figure><h3>{title}{where}</h3><figcaption>{caption}</figcaption>{drawn}</figure>",
            )
        if not found:
            yield title, ""


def _step(measured: Mapping[str, Any]) -> str:
    return charts.stacked_bar(_numbers(measured["step_parts_ms"]))


def _roofline(measured: Mapping[str, Any]) -> str:
    named = {_SPEEDS.get(n, n): speed for n, speed in measured["throughput_images_s"].items()}
    speeds = _numbers(named)
    ceilings = _numbers(measured.get("ceilings_images_s") or {})
    return charts.dots(speeds, ceilings, "images a second")


def _boxes(measured: Mapping[str, Any]) -> str:
    found = measured["box_sizes_px"]
    return charts.histogram(found["edges"], found["counts"], "pixels", TINY_PX)


def _timeline(measured: Mapping[str, Any]) -> str:
    found = measured["timeline"]
    return charts.timeline(found["seconds"], found["step_ms"], found["wait_ms"])


def _reduce(measured: Mapping[str, Any]) -> str:
    points = [(each["bytes"], each["bus_gb_s"]) for each in measured["all_reduce"]]
    possible = measured.get("all_reduce_possible") or ()
    bound = [(each["bytes"], each["bus_gb_s"]) for each in possible]
    return charts.curve(points, "size of one all-reduce", "GB/s on the bus", bound)


_PLOTS: list[tuple[str, str, str, Callable[[Mapping[str, Any]], str]]] = [
    ("One step", "Where its time goes.", "step_parts_ms", _step),
    ("Speed against ceilings", "What is delivered, and what bounds it.", "throughput_images_s",
     _roofline),
    ("Steps over time", "Each step, and how much of it was waiting for data.", "timeline",
     _timeline),
    ("All-reduce", "Bandwidth of the bus by size; hollow: what the link would allow.",
     "all_reduce", _reduce),
    ("Sizes of boxes",
     f"Shorter side of the boxes of train at imgsz; up to {TINY_PX} pixels are marked.",
     "box_sizes_px", _boxes),
]  # fmt: skip
"""Title, caption, the name in `Outcome.measured` without which there is none, who draws it."""


_SPEEDS = {
    "constant_batch": "a batch that never changes",
    "as_is": "as it is",
    "as_is_cold": "as it is, files not in memory",
    "workers": "more workers",
    "cores": "more cores",
    "baseline": "baseline JPEG files",
    "small": "images stored at imgsz",
    "decoded": "images in memory, decoded",
    "raw": "raw shards",
    "yolodata": "yolodata's loader",
}
"""What speeds of the data section are called; others by their names."""


def _prose(text: str) -> str:
    """Text for HTML; what is between two backticks is code."""
    parts = escaped(text).split("`")
    if len(parts) % 2 == 0:
        return "`".join(parts)
    return "".join(f"<code>{p}</code>" if n % 2 else p for n, p in enumerate(parts))


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name.replace("_", " "): float(v) for name, v in values.items() if v is not None}


def _flat(prefix: str, value: Any) -> Iterator[list[str]]:
    """Names with dots, and values; long lists are cut."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else str(name), each)
    elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
        for number, each in enumerate(value):
            yield from _flat(f"{prefix}.{number}", each)
    elif isinstance(value, list | tuple):
        shown = ", ".join(map(_plain, value[:_MOST]))
        more = f", … ({len(value)} values; --json has all)" if len(value) > _MOST else ""
        yield [prefix, shown + more]
    else:
        yield [prefix, _plain(value)]


def _plain(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escaped(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table>{f'<tr>{top}</tr>' if top else ''}{body}</table>"


def _folded(title: str, rows: Sequence[Sequence[str]]) -> str:
    return f"<details><summary>{escaped(title)}</summary>{_table((), rows)}</details>"


def _machine_line(report: Report) -> str:
    machine = report.machine
    gpu = machine.get("gpu") or {}
    return (
        f"{gpu.get('name', 'no GPU')}, {machine.get('cores_usable')} cores of {machine.get('cpu')}"
        + (f", {nodes} NUMA nodes" if (nodes := machine.get("numa_nodes", 1)) > 1 else "")
    )
