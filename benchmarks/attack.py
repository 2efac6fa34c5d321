"""Attacks the product at random until the minutes are over, and adds what came of it to a file.

    python benchmarks/attack.py --minutes 60 --json benchmarks/results/attack.json    # adds to it
    python benchmarks/attack.py --minutes 5 --kinds kills,flips --findings /tmp/found --json X.json
    python benchmarks/attack.py --cases 2 --seed 1 --json X.json          # so many cases of each
    python benchmarks/attack.py --control --seed 1 --json X.json          # planted faults are found
    python benchmarks/attack.py --kinds flips --case SEED --findings /tmp/found    # one case again
    python benchmarks/attack.py --minutes 0 --json benchmarks/results/attack.json    # the table

The kind that is furthest from its goal comes next, for some seconds. A case has a seed, which says
all about it but when a kill strikes and what the machine does meanwhile. What found something is
copied to the folder of findings. The status is 1 where anything was found, or a planted fault was
not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from attacks import KINDS, drawn, judge, module_of, shim
from attacks.children import in_child
from attacks.verdict import WRONG, Finding, Verdict

from yolodata.bench import results

SLICE = 10.0  # seconds that a kind has in a row
CONTROLS = 150  # cases after which a planted fault should have been found
KEPT = 20  # findings of a kind that the file has in words; all are counted
Row = dict[str, Any]


def cases(module: ModuleType, seed: str, end: float, most: int, args: argparse.Namespace,
          plant: str = "") -> Iterator[Row]:  # fmt: skip
    """Runs cases in a server: a fork that has imported what they need; yields what came of each.

    Args:
        module: the kind.
        seed: of all cases, which are numbered.
        end: no case begins after this moment.
        most: cases.
        args: the command line.
        plant: name of a fault that is planted; it is over when that was found.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(read)
            with os.fdopen(write, "w", encoding="utf-8") as out:
                _serve(module, seed, end, most, args.findings, plant, out)
            status = 0
        except BaseException as error:
            print(f"{module.__name__}: {type(error).__name__}: {error}", file=sys.stderr)
        finally:
            drawn.clean_up()
            os._exit(status)
    os.close(write)
    try:
        with os.fdopen(read, encoding="utf-8") as answers:
            for line in answers:
                yield json.loads(line)
    finally:
        _, status = os.waitpid(pid, 0)
    if status:
        words = f"the server of {module.__name__} ended with {os.waitstatus_to_exitcode(status)}"
        yield {"seed": seed, "tried": 0, "peak": 0, "seconds": 0.0,
               "findings": [asdict(Finding("attack", words))]}  # fmt: skip


def _serve(module: ModuleType, seed: str, end: float, most: int, findings: Path | None, plant: str,
           out: Any) -> None:  # fmt: skip
    module.warm()
    broken = module.PLANTS[plant] if plant else None
    for number in range(most):
        began = time.monotonic()
        if began >= end and number:
            break
        name = f"{seed}-{number}" if most > 1 else seed
        verdict, peak = judge.run_case(module, name, None if broken else findings, broken)
        # A case says nothing of the plant if it finds something without it, too.
        if broken and verdict.findings and judge.run_case(module, name)[0].findings:
            continue
        row = {"seed": name, "tried": verdict.tried, "peak": peak,
               "seconds": round(time.monotonic() - began, 3),
               "findings": [asdict(each) for each in verdict.findings]}  # fmt: skip
        out.write(json.dumps(row) + "\n")
        out.flush()
        if plant and verdict.findings:
            break


class Campaign:
    """What all calls have found, in a file."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        # In a child: it may import torch, and a small process forks fast.
        self._about = in_child(lambda: results.about("attack"), seconds=60).result
        self.document: dict[str, Any] = {**self._about, "calls": [], "kinds": {}}
        if path is not None and path.exists():
            self.document = json.loads(path.read_text(encoding="utf-8"))

    def call(self, **facts: Any) -> None:
        """Notes that a call begins: when, on what, with which seed."""
        about = {key: self._about[key] for key in ("date", "machine", "versions")}
        self.document["calls"].append(about | facts)

    def of(self, kind: str) -> dict[str, Any]:
        """Gives the row of a kind."""
        row: dict[str, Any] = self.document["kinds"].setdefault(
            kind,
            {"goal": module_of(kind).GOAL, "tried": 0, "cases": 0, "seconds": 0.0, "peak_mib": 0.0,
             "longest_case_s": 0.0, "wrong": dict.fromkeys(WRONG, 0), "findings": [],
             "controls": {}, "not_run": ""},
        )  # fmt: skip
        return row

    def add(self, kind: str, row: Row) -> None:
        """Adds a case."""
        to = self.of(kind)
        to["tried"] += row["tried"]
        to["cases"] += 1
        to["seconds"] = round(to["seconds"] + row["seconds"], 3)
        to["peak_mib"] = max(to["peak_mib"], round(row["peak"] / (1 << 20), 1))
        to["longest_case_s"] = max(to["longest_case_s"], row["seconds"])
        for each in row["findings"]:
            to["wrong"][each["wrong"]] += 1
            if len(to["findings"]) < KEPT:
                call = len(self.document["calls"]) - 1
                to["findings"].append({"seed": row["seed"], "call": call, **each})
            print(f"{kind} {row['seed']}: {each['wrong']}: {each['said'][:600]}", flush=True)

    def control(self, kind: str, plant: str, after: int | None) -> None:
        """Notes after how many cases a planted fault was found; None where it was not."""
        self.of(kind)["controls"][plant] = after

    def save(self) -> None:
        """Writes the file."""
        if self.path is not None:
            results.save(self.path, self.document)

    def lacking(self, kind: str) -> float:
        """Gives the share of its goal that a kind has done."""
        row = self.of(kind)
        return float(row["tried"] / row["goal"])

    @property
    def failed(self) -> bool:
        """Whether anything was found, or a planted fault was not."""
        return any(
            any(row["wrong"].values()) or None in row["controls"].values()
            for row in self.document["kinds"].values()
        )

    def table(self) -> str:
        """Gives a line a kind."""
        lines = [("kind", "tried", "goal", "cases", "longest", "peak MiB", "findings", "controls")]
        for kind, row in self.document["kinds"].items():
            wrong = ", ".join(f"{n} {name}" for name, n in row["wrong"].items() if n)
            found = sum(after is not None for after in row["controls"].values())
            lines.append((
                kind, f"{row['tried']:,}", f"{row['goal']:,}", f"{row['cases']:,}",
                f"{row['longest_case_s']:.1f} s", f"{row['peak_mib']:.0f}",
                row["not_run"] or wrong or "0", f"{found} of {len(row['controls'])}",
            ))  # fmt: skip
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )


def run(campaign: Campaign, kinds: list[str], args: argparse.Namespace) -> None:
    """Runs cases until the time is over, or so many of each kind."""
    end = time.monotonic() + 60 * args.minutes
    numbers = dict.fromkeys(kinds, 0)
    while numbers:
        kind = min(numbers, key=campaign.lacking)
        if args.cases:
            kind = next(iter(numbers))
        elif time.monotonic() >= end:
            return
        numbers[kind] += 1
        seed = f"{args.seed}-{numbers[kind]}"
        until = min(end, time.monotonic() + SLICE) if not args.cases else float("inf")
        for row in cases(module_of(kind), seed, until, args.cases or 1_000_000, args):
            campaign.add(kind, row)
        campaign.save()
        if args.cases:
            del numbers[kind]


def control(campaign: Campaign, kinds: list[str], args: argparse.Namespace) -> None:
    """Plants every fault, and has it looked for."""
    for kind in kinds:
        module = module_of(kind)
        for plant in list(module.PLANTS)[: args.plants]:
            end = time.monotonic() + 60
            found = None
            seed = f"{args.seed}-control"
            for number, row in enumerate(cases(module, seed, end, CONTROLS, args, plant)):
                if any(each["wrong"] != "attack" for each in row["findings"]):
                    found = number + 1
            campaign.control(kind, plant, found)
            after = f"found by case {found}" if found else "NOT FOUND"
            print(f"{kind}: {plant}: {after}", flush=True)
            campaign.save()


def one(kind: str, seed: str, findings: Path | None) -> Verdict:
    """Runs one case again."""
    module = module_of(kind)
    module.warm()
    verdict, _ = judge.run_case(module, seed, findings)
    drawn.clean_up()
    return verdict


def main() -> int:
    """Runs what is asked for, and prints the table; 1 where something was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--cases", type=int, default=0, help="of each kind, instead of minutes")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--seed", default=None, help="of all draws (default: random)")
    parser.add_argument("--json", type=Path, help="results are added to it")
    parser.add_argument("--findings", type=Path, help="folder for the inputs of failed cases "
                        "(default: one in the folder for temporary files)")  # fmt: skip
    parser.add_argument("--control", action="store_true", help="plant faults, and look for them")
    parser.add_argument("--plants", type=int, help="of each kind, the first (default: all)")
    parser.add_argument("--case", help="seed of one case to run again")
    args = parser.parse_args()
    kinds = args.kinds.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"there is no kind {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    shim.load()  # begins anew, with the library loaded before all others
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    os.environ["YOLODATA_CACHE"] = tempfile.mkdtemp(prefix="attack-cache-")
    os.environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
    if args.findings is None:
        args.findings = Path(tempfile.gettempdir()) / "attack-findings"
    if args.seed is None:
        args.seed = secrets.token_hex(4)
    random.seed(args.seed)
    if args.case:
        verdict = one(kinds[0], args.case, args.findings)
        print(*(f"{each.wrong}: {each.said}" for each in verdict.findings), sep="\n\n")
        return int(bool(verdict.findings))
    campaign = Campaign(args.json)
    if args.minutes or args.cases or args.control:
        campaign.call(seed=args.seed, minutes=args.minutes, kinds=kinds)
    for kind in [kind for kind in kinds if module_of(kind).__dict__.get("needs", str)()]:
        campaign.of(kind)["not_run"] = module_of(kind).needs()
        kinds.remove(kind)
    if args.control:
        control(campaign, kinds, args)
    if args.minutes or args.cases:
        run(campaign, kinds, args)
    print(campaign.table())
    return int(campaign.failed)


if __name__ == "__main__":
    sys.exit(main())
