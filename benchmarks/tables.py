"""Makes the README's tables from benchmarks/results/*.json.

    python benchmarks/tables.py                      prints all tables
    python benchmarks/tables.py --write README.md    renews the tables in a file
    python benchmarks/tables.py --check README.md    fails if a table there is not up to date

A file shows the table of `loader.json` between these two lines:

    <!-- results: loader.json -->
    <!-- /results -->
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yolodata.bench import report

RESULTS = Path(__file__).parent / "results"


def kernel(values: dict[str, Any]) -> str:
    """What benchmarks/gpu/probe.py wrote."""
    settings = values["settings"]
    lines = [["GPU, copies and kernel", "img/s", "min to max", "GB/s", "of device copy"]]
    for row in values["rows"]:
        if "error" in row:
            lines.append([row["name"], "failed", "", "", ""])
            continue
        speed, share = row["img_s"], row.get("of_copy")
        lines.append([
            row["label"], f"{speed['median']:,.0f}", f"{speed['min']:,.0f} to {speed['max']:,.0f}",
            f"{row['gb_s']:,.0f}", "" if share is None else f"{share:.1%}",
        ])  # fmt: skip
    how = (
        f"{settings['imgsz']} x {settings['imgsz']} pictures, launches of {settings['batch']}, "
        f"timed by CUDA events; n = {settings['rounds']}"
    )
    return _with_notes([lines], values, how)


def decode(values: dict[str, Any]) -> str:
    """What benchmarks/gpu/decode.py wrote."""
    bits = [["JPEG engine's share", "files", "mean difference from OpenCV", "largest",
             "same bits in other batches"]]  # fmt: skip
    for row in values["bits"]:
        same = min(row["same_in_other_batches"].values())
        bits.append([
            f"{row['load']:g}", f"{row['files']}", f"{row['mean_from_opencv']:.3f}",
            f"{row['largest_from_opencv']}", f"{same} of {row['files']}",
        ])  # fmt: skip
    speeds = [["JPEG engine's share", "img/s"]]
    speeds += [[f"{s['load']:g}", f"{s['img_s']:,.0f}" if "img_s" in s else "failed"]
               for s in values["speeds"]]  # fmt: skip
    settings = values["settings"]
    how = (
        f"photographs at imgsz {settings['imgsz']}, grey levels, bits compared with those "
        f"{settings['compared_with']}; speeds of drawn pictures like COCO's, n = 1 of "
        f"{settings['seconds']:g} s"
    )
    return _with_notes([t for t in (bits, speeds) if len(t) > 1], values, how)


def memory(values: dict[str, Any]) -> str:
    """What benchmarks/gpu/memory.py wrote."""
    columns = ("allocated_peak", "reserved", "driver", "host")
    lines = [["GiB", *(name.replace("_", " ") for name in columns)]]
    for part in values["parts"]:
        cells = [f"{part[name]:.3f}" if name in part else "" for name in columns]
        lines.append([part["name"], *(cells if "error" not in part else ["failed", "", "", ""])])
    return _with_notes([lines], values, f"batches of {values['settings']['batch']}; n = 1")


def training(values: dict[str, Any]) -> str:
    """What benchmarks/training.py wrote."""
    loaders = list(next(iter(values["final"].values())))
    lines = [["mean of the last three epochs", *loaders, "p"]]
    for name, groups in values["final"].items():
        cells = [f"{s['mean']:.3f} ({s['min']:.3f} to {s['max']:.3f})" for s in groups.values()]
        lines.append([name, *cells, f"{values['p_value'][name]:.2f}"])
    settings, runs = values["settings"], values["runs"]
    seeds = dict.fromkeys(sum(run["loader"] == loader for run in runs) for loader in loaders)
    how = (
        f"{settings['model']} from scratch on {values['dataset']}, imgsz {settings['imgsz']}, "
        f"batch {settings['batch']}, {settings['epochs']} epochs; "
        f"n = {' and '.join(map(str, seeds))} seeds; p: share of all regroupings of the runs "
        "whose means differ as much"
    )
    return report.with_notes([lines], [*report.about_machine(values), how])


def attack(values: dict[str, Any]) -> str:
    """What benchmarks/attack.py wrote."""
    lines = [
        ["attack", "tried", "of", "findings", "peak, MiB", "longest case", "planted faults found"]
    ]
    for kind, row in values["kinds"].items():
        wrong = ", ".join(f"{count} {name}" for name, count in row["wrong"].items() if count)
        controls = row["controls"].values()
        lines.append([
            kind.replace("_", " "), f"{row['tried']:,}", f"{row['goal']:,}",
            f"not run: {row['not_run']}" if row["not_run"] else wrong or "0",
            f"{row['peak_mib']:,.0f}", f"{row['longest_case_s']:.1f} s",
            f"{sum(after is not None for after in controls)} of {len(controls)}",
        ])  # fmt: skip
    calls = values["calls"]
    dates = sorted({call["date"] for call in calls})
    commits = sorted({str(call["versions"].get("commit")) for call in calls})
    how = (
        f"{len(calls)} calls of benchmarks/attack.py, {dates[0]} to {dates[-1]}, of commits "
        f"{', '.join(commits)}; a case has several trials"
    )
    return report.with_notes([lines], [*report.about_machine(values), how])


def soak(values: dict[str, Any]) -> str:
    """What benchmarks/soak.py wrote."""
    grown, left = values["growth"], values["left"]
    private = values["samples"]["private"]
    lines = [
        ["hours", "turns", "private memory at the end", "at most", "growth, % an hour", "left"],
        [
            f"{values['lasted_minutes'] / 60:.1f}", f"{sum(values['turns'].values()):,}",
            f"{private[-1] / 1e6:,.0f} MB", f"{values['peak_private'] / 1e6:,.0f} MB",
            "not known" if grown is None
            else f"{grown['percent_per_hour']:+.2f} (error {grown['error']:.2f})",
            ", ".join(f"{len(v) if isinstance(v, list) else v} {k}" for k, v in left.items()),
        ],
    ]  # fmt: skip
    how = (
        f"growth: after {values['settle_minutes']:g} minutes, at most {values['limit']:g} are "
        f"allowed; {values['asked_minutes']:g} minutes were asked for"
    )
    return report.with_notes([lines], [*report.about_machine(values), how])


def scaling(values: dict[str, Any]) -> str:
    """What benchmarks/scaling.py wrote."""
    settings = values["settings"]
    lines = [["shards", "cores", "img/s", "min to max", "efficiency", "min to max",
              "by core time", "GB/s moved", "GB/s copied", "why"]]  # fmt: skip
    for row in values["rows"]:
        speed, efficiency = row["img_s"], row["efficiency"]
        lines.append([
            "JPEG" if row["codec"] == "jpeg" else row["codec"], f"{row['cores']}",
            f"{speed['median']:,.0f}", f"{speed['min']:,.0f} to {speed['max']:,.0f}",
            f"{efficiency['median']:.2f}", f"{efficiency['min']:.2f} to {efficiency['max']:.2f}",
            f"{row['core_efficiency']:.2f}", f"{row['gb_s']['median']:.1f}",
            f"{row['copy_gb_s']['median']:.1f}", "; ".join(row["why"]),
        ])  # fmt: skip
    how = (
        f"{settings['imgsz']} x {settings['imgsz']} pictures, batches of {settings['batch']}, "
        f"default augmentation; n = {settings['rounds']} rounds of {settings['seconds']:g} s a row"
    )
    return _with_notes([lines], values, how)


def fuzz(values: dict[str, Any]) -> str:
    """What tests/fuzz/run.py wrote."""
    lines = [["target", "inputs", "edges reached", "minutes", "findings"]]
    for row in values["targets"]:
        reached = f"{row['coverage']:,}" if row["coverage"] else ""
        lines.append([
            f"`{row['target']}`", f"{row['runs']:,}", reached, f"{row['seconds'] / 60:.1f}",
            f"{len(row['findings'])}",
        ])  # fmt: skip
    return report.with_notes([lines], report.about_machine(values))


def slurm(values: dict[str, Any]) -> str:
    """What benchmarks/slurm.py wrote."""
    hits = [hit for job in values["jobs"] for hit in job["interruptions"]]
    lines = [
        ["interruption", "n", "while it started", "s until it was requeued", "batches repeated"]
    ]
    for kind in dict.fromkeys(sorted(hit["kind"] for hit in hits)):
        waits, repeated = (values[key][kind] for key in ("seconds_to_requeue", "repeated_batches"))
        lines.append([
            kind, f"{waits['n']}",
            f"{sum(hit['at_start'] for hit in hits if hit['kind'] == kind)}",
            f"{waits['median']:.0f} (at most {waits['most']:.0f})",
            f"{repeated['median']:g} (at most {repeated['most']})",
        ])  # fmt: skip
    jobs = f"{values['interruptions']} interruptions of {len(values['jobs'])} jobs"
    how = (
        f"{jobs}; {values['wrong']} jobs were not to the bit the job that nobody interrupted; "
        f"{values['slurm']}, ranks on {' and '.join(values['hosts'])}, images of {values['data']}"
    )
    return report.with_notes([lines], [*report.about_machine(values), how])


def _with_notes(tables: list[list[list[str]]], values: dict[str, Any], how: str) -> str:
    note = values["settings"].get("note")
    return report.with_notes(
        tables, [*report.about_machine(values), how, *([note] if note else [])]
    )


MAKERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "loader": report.markdown,
    "train": report.markdown,
    "gpu-kernel": kernel,
    "gpu-decode": decode,
    "gpu-memory": memory,
    "training": training,
    "attack": attack,
    "soak": soak,
    "scaling": scaling,
    "fuzz": fuzz,
    "slurm": slurm,
}
"""How the results of each benchmark become Markdown, by their `benchmark` entry."""

_PLACE = re.compile(r"(<!-- results: (\S+) -->\n)(.*?)(<!-- /results -->)", re.DOTALL)


def markdown(path: Path) -> str | None:
    """The table of one JSON file; None where it is no benchmark that has one."""
    values = json.loads(path.read_text(encoding="utf-8"))
    maker = MAKERS.get(values.get("benchmark", "")) if isinstance(values, dict) else None
    return maker(values) + _stopped(values) if maker else None


def _stopped(values: dict[str, Any]) -> str:
    """A line about results that are not whole."""
    if values.get("complete", True):
        return ""
    counts = [len(row["img_s"]["samples"]) for row in values.get("rows", []) if "img_s" in row]
    rounds = values["settings"].get("rounds")
    far = f" after {max(counts)} of {rounds} rounds" if counts and rounds else " before its end"
    return f"\n- stopped{far}: this is what was measured until then"


def fill(text: str, results: Path) -> str:
    """`text` with the table in every marked place.

    Raises:
        SystemExit: a place names a file that is missing or has no table.
    """

    def made(match: re.Match[str]) -> str:
        path = results / match[2]
        found = markdown(path) if path.exists() else None
        if found is None:
            raise SystemExit(f"{path} is missing, or is not of {', '.join(MAKERS)}")
        return f"{match[1]}{found}\n{match[4]}"

    return _PLACE.sub(made, text)


def main(argv: list[str] | None = None) -> int:
    """Carry out the command line; 1 if --check finds an old table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of JSON files")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", type=Path, metavar="FILE", help="renew the tables in FILE")
    action.add_argument("--check", type=Path, metavar="FILE", help="fail if they are not current")
    args = parser.parse_args(argv)
    file = args.write or args.check
    if file is None:
        for path in sorted(args.results.glob("*.json")):
            found = markdown(path)
            if found is not None:
                print(f"### {path.name}\n\n{found}\n")
        return 0
    before = file.read_text(encoding="utf-8")
    after = fill(before, args.results)
    if args.write:
        file.write_text(after, encoding="utf-8")
    elif before != after:
        print(f"{file} is not up to date; run {sys.argv[0]} --write {file}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
