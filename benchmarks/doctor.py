"""Injects faults, runs `yolodata doctor`, and checks its verdicts against what mending brings.

For each fault of `doctor_faults/`: a severity is drawn from a seed, the fault is injected, the
doctor runs in a process of its own, and then the truth is measured without any of its code. A run
is right when the cause comes first, and when the predicted gain (step before / step after) is
within 20 % of the true one. Healthy set-ups must get no complaint. Runs accumulate in a file:
invoked again, it goes on with seeds that were not used, and judges all runs from their figures.

    python benchmarks/doctor.py --runs 20 --minutes 50 --json benchmarks/results/doctor.json
    python benchmarks/doctor.py --runs 2 --only storage --tuning --json /tmp/doctor.json
    python benchmarks/doctor.py --runs 5 --only "* and another" --json X.json    # two at once
    python benchmarks/doctor.py --runs 0 --json benchmarks/results/doctor.json    # the table
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from doctor_faults import all_faults
from doctor_faults.fault import Case, Fault

from yolodata.bench import results

HERE = Path(__file__).resolve().parent
TUNING = range(0, 3000)  # seeds with which the doctor's limits may be chosen
CHECKING = range(3000, 1_000_000)  # seeds that check it; those from 1000 did, and mended it

WITHIN = 0.20  # of the true gain
LEAST = 1.10  # true gain below which a fault costs too little to be one
HEALTHY = 1.05  # true gain up to which a set-up is healthy
BUSY = 0.3  # cores that others may keep busy where times are compared
STEADY = 1.3  # times as long as at another time that the same step may take, measured without us
TIED = 0.90  # of the largest gain: of two faults, the one that brings so much may come first, too
KEPT = ("cause", "kind", "complaint", "title", "lost_ms", "step_ms", "gain", "measured", "fake")

Row = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What is to be said of a run.

    Attributes:
        void: why the run says nothing; "" where it does.
        cause: the right cause came first; of a healthy set-up: there was no complaint.
        gain: the predicted gain is right; None where there is none to predict.
        predicted: gain of the finding that names the right cause.
        true: gain.
    """

    void: str = ""
    cause: bool = False
    gain: bool | None = None
    predicted: float | None = None
    true: float | None = None


def judge(row: Mapping[str, Any], cause: str) -> Verdict:
    """Judges a run by its figures.

    Args:
        row: "error", "findings" (the first three), "complaints" (causes), "truth" (by cause,
            milliseconds "before" and "after", each measured once or more), "broken" (see
            `Case.broken`) and "failed" (why the truth is not known), "busy_cores".
        cause: of its fault, see `Fault.cause`.
    """
    if row.get("failed"):
        return Verdict(row["failed"])
    if row["truth"] and row.get("busy_cores", 0.0) > BUSY:
        return Verdict(
            f"others kept {row['busy_cores']:.2f} cores busy, so no time can be compared"
        )
    for ms in (ms for one in row["truth"].values() for ms in one.values()):
        if max(ms) > STEADY * min(ms):
            return Verdict(f"the same step took {min(ms):.0f} ms, and {max(ms):.0f} another time")
    gains = true_gains(row)
    true = max(gains.values(), default=None)
    if not cause:
        if true is not None and true > HEALTHY:
            return Verdict(f"a step takes {true:.2f} times as long as in a healthy set-up")
        return Verdict(cause=not row["error"] and not row["complaints"] and not row.get("broken"))
    if true is not None and true < LEAST:
        return Verdict(f"mending brings no more than {true:.2f}")
    expected = {cause} if cause != "*" else {n for n, gain in gains.items() if gain >= TIED * true}
    named = next((one for one in row["findings"] if one["cause"] in expected), None)
    right = bool(named) and named is row["findings"][0]
    if true is None:
        return Verdict(cause=right and not row.get("broken"))
    predicted = named["gain"] if named else None
    if named:
        true = gains.get(named["cause"], true)
    close = predicted is not None and abs(predicted / true - 1) <= WITHIN
    return Verdict(cause=right, gain=close, predicted=predicted, true=true)


def true_gains(row: Mapping[str, Any]) -> dict[str, float]:
    """Step before / step after, by cause."""
    return {
        cause: statistics.mean(ms["before"]) / statistics.mean(ms["after"])
        for cause, ms in row["truth"].items()
    }


def run(fault: Fault, name: str, seed: int) -> Row:
    """Injects one fault, runs the doctor, measures the truth.

    Raises:
        CannotInject: this machine does not allow it.
    """
    rng = random.Random(f"{name} {seed}")
    severity = fault.draw(rng)
    row: Row = {
        "fault": name, "seed": seed, "seeds": "tuning" if seed in TUNING else "checking",
        "severity": severity, "busy_cores": round(busy_cores(), 2),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        try:
            case = stack.enter_context(fault.inject(severity, Path(folder)))
        except Exception as error:  # of whatever kind: other faults go on
            raise CannotInject(f"{type(error).__name__}: {error}") from error
        start = time.monotonic()
        row["facts"] = dict(case.facts)
        row |= examined(fault, case, rng.getrandbits(31))
        middle = time.monotonic()
        row |= truth(case, row)
        seconds = {"doctor": middle - start, "truth": time.monotonic() - middle}
        row["seconds"] = {name: round(value, 1) for name, value in seconds.items()}
    return row


class CannotInject(Exception):
    """A fault cannot be injected here."""


def examined(fault: Fault, case: Case, seed: int) -> Row:
    """Runs the doctor; returns what a row keeps of its report."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        words = [*case.arguments, "--seconds", f"{fault.seconds:g}", "--seed", str(seed)]
        words += ["--json", str(out)]
        for section in fault.sections:
            words += ["--only", section]
        command = [sys.executable, "-m", "yolodata", "doctor", *words]
        if case.probes:
            command = [sys.executable, str(HERE / "doctor_probed.py"), json.dumps(case.probes)]
            command += words
        path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
        said, status = _child(
            [*case.prefix, *command], {"PYTHONPATH": path, **case.environment},
            Path(folder), 5 * fault.seconds + 180,
        )  # fmt: skip
        row: Row = {"arguments": list(case.arguments[1:]), "findings": [], "complaints": []}
        if not out.exists():  # a crash; 1 is the status of complaints
            return row | {"error": f"status {status}: {said[-2000:]}", "fake": False}
        report = json.loads(out.read_text(encoding="utf-8"))
    error = ""
    if case.probes and not report["fake"]:
        error = "probes were replaced, and the report does not say that it is fake"
    found = report["findings"]
    return row | {
        "findings": [
            {key: one[key] for key in KEPT} | {"settings": one["knob"]["settings"]}
            for one in found[:3]
        ],
        "complaints": [one["cause"] for one in found if one["complaint"]],
        "not_done": report["not_done"],
        "fake": report["fake"],
        "error": error,
    }


def _child(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, limit: float
) -> tuple[str, str]:
    """Runs a command, and ends all that it started; returns what it said, and its status."""
    process = subprocess.Popen(
        command, env=os.environ | environment, cwd=folder, text=True, errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=limit)
        return said, str(process.returncode)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        return said, f"killed after {limit:.0f} s"


def truth(case: Case, row: Mapping[str, Any]) -> Row:
    """Measures what mending brings; "" is the cause where only one fault was injected."""
    settings = row["findings"][0]["settings"] if row["findings"] else {}
    broken = ""
    try:
        found = case.truths(settings) if case.truths else {}
        if case.truth:
            found = {"": case.truth()}
        if case.broken:
            broken = case.broken(settings)
    except Exception:  # of whatever kind: the next runs go on
        return {"truth": {}, "broken": "", "failed": traceback.format_exc(limit=-3)}
    return {
        "truth": {
            cause: {name: [round(ms, 3) for ms in taken] for name, taken in asdict(one).items()}
            for cause, one in found.items()
        },
        "broken": broken,
        "failed": "",
    }


def busy_cores() -> float:
    """Cores that others keep busy at the moment; times measured beside them vary."""
    return psutil.cpu_percent(interval=1.0) / 100 * (os.cpu_count() or 1)


def summary(document: Mapping[str, Any], faults: Mapping[str, Any], seeds: str) -> str:
    """The table of all runs with one kind of seeds, and what was not run."""
    heads = ("fault", "runs", "void", "right cause", "gain within 20 %", "predicted / true", "fake")
    lines = [heads]
    never = []
    for name, fault in faults.items():
        rows = [r for r in document["rows"] if r["fault"] == name and r["seeds"] == seeds]
        if not rows:
            why = document["not_run"].get(name)
            never.append(f"{name} ({why})" if why else name)
            continue
        verdicts = [judge(row, fault.cause) for row in rows]
        valid = [verdict for verdict in verdicts if not verdict.void]
        gains = [verdict for verdict in valid if verdict.gain is not None]
        ratios = sorted(v.predicted / v.true for v in gains if v.predicted)
        spread = ""
        if ratios:
            spread = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        lines.append((
            name, str(len(rows)), str(len(rows) - len(valid)),
            f"{sum(v.cause for v in valid)} of {len(valid)}",
            f"{sum(bool(v.gain) for v in gains)} of {len(gains)}" if gains else "",
            spread, "fake" if any(row["fake"] for row in rows) else "",
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
    commits = {each["versions"].get("commit") for each in document["invocations"]}
    if len(commits) > 1:
        text += f"\nRuns of {len(commits)} commits are counted together."
    return text + f"\nNever run with {seeds} seeds: {'; '.join(never) or 'none'}"


def told(row: Mapping[str, Any], verdict: Verdict) -> str:
    """One line about a run."""
    found = ", ".join(
        one["cause"] + (f" {one['gain']:.2f}" if one["gain"] else "") for one in row["findings"]
    )
    gains = ", ".join(
        f"{cause or 'true gain'} {gain:.2f}" for cause, gain in true_gains(row).items()
    )
    words = "void" if verdict.void else "right" if verdict.cause else "WRONG"
    if verdict.gain is not None:
        words += ", gain right" if verdict.gain else ", gain WRONG"
    why = verdict.void or row["error"] or row.get("broken")
    return (
        f"{row['fault']} {row['seed']}: {words}; says {found or 'nothing'}; truth {gains or 'none'}"
        + (f"; {why}" if why else "")
    )


def unused(document: Mapping[str, Any], name: str, seeds: range, count: int) -> list[int]:
    """The first seeds that a fault has no run of."""
    used = {row["seed"] for row in document["rows"] if row["fault"] == name}
    free = (seed for seed in seeds if seed not in used)
    return [next(free) for _ in range(count)]


def campaign(
    document: dict[str, Any], path: Path, faults: Mapping[str, Any], args: argparse.Namespace
) -> None:
    """Runs the faults in turns, and saves after each run."""
    end = time.monotonic() + 60 * args.minutes
    seeds = TUNING if args.tuning else CHECKING
    todo = {name: unused(document, name, seeds, args.runs) for name in faults}
    document["invocations"].append(
        {key: results.about("doctor")[key] for key in ("date", "machine", "versions")}
        | {"load_average": round(os.getloadavg()[0], 2), "busy_cores": round(busy_cores(), 2)}
    )
    took: dict[str, float] = {}
    for number in range(args.runs):
        for name, fault in faults.items():
            if name not in todo:
                continue
            start = time.monotonic()
            if start + took.get(name, max(took.values(), default=0.0)) > end:
                print(f"{name}: no time left for run {number + 1} of {args.runs}", flush=True)
                del todo[name]
                continue
            try:
                row = run(fault, name, todo[name][number])
            except CannotInject as error:
                print(f"{name}: cannot be injected here: {error}", flush=True)
                document["not_run"][name] = str(error)
                del todo[name]
            else:
                row["invocation"] = len(document["invocations"]) - 1
                document["rows"].append(row)
                document["not_run"].pop(name, None)
                print(told(row, judge(row, fault.cause)), flush=True)
            took[name] = max(took.get(name, 0.0), time.monotonic() - start)
            results.save(path, document)


def main() -> int:
    """Runs what is asked for, and prints the table; 1 where a verdict was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="runs are added to it")
    parser.add_argument("--runs", type=int, default=20, help="more runs of each (default: 20)")
    parser.add_argument("--only", action="append", metavar="FAULT", help="a pattern, as of files; "
                        "may be repeated")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no run that ends later")
    parser.add_argument("--tuning", action="store_true", help="seeds for choosing limits, not for "
                        "checking them")  # fmt: skip
    args = parser.parse_args()
    known = all_faults()
    patterns = args.only or ["*"]
    for pattern in patterns:
        if not fnmatch.filter(known, pattern):
            parser.error(f"no fault is named {pattern}; there are: {', '.join(known)}")
    asked = {
        name: fault
        for name, fault in known.items()
        if any(fnmatch.fnmatch(name, p) for p in patterns)
    }
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # faults are undone
    if args.json.exists():
        document = json.loads(args.json.read_text(encoding="utf-8"))
    else:
        document = results.about("doctor") | {"invocations": [], "not_run": {}, "rows": []}
    if args.runs:
        campaign(document, args.json, asked, args)
    print(summary(document, known, "tuning" if args.tuning else "checking"))
    verdicts = [judge(row, known[row["fault"]].cause) for row in document["rows"]]
    return int(any(not v.void and not (v.cause and v.gain is not False) for v in verdicts))


if __name__ == "__main__":
    sys.exit(main())
