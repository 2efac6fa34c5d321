"""`yolodata doctor` with probes of the hardware replaced, which its command line does not offer.

python benchmarks/doctor_probed.py '{"NAME": VALUE}' DATA.yaml batch=16 --only machine --json X
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from yolodata.doctor.report import Report, as_json
from yolodata.doctor.sections import SECTIONS, examine
from yolodata.doctor.setup import Setup
from yolodata.ultralytics.command_line import read_arguments


def main() -> None:
    """Examines, and writes the report as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("probes", type=json.loads, help="values by name, as JSON")
    parser.add_argument("data")
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--only", action="append", choices=SECTIONS)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step", type=float)
    parser.add_argument("--loader", default="")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    arguments, _ = read_arguments(args.arguments, "train")
    setup = Setup(args.data, arguments, args.loader, args.step, args.seconds, args.seed)
    begin = time.monotonic()
    examination = examine(setup, args.only or tuple(SECTIONS), probes=args.probes)
    report = Report({"data": args.data}, examination.outcomes, time.monotonic() - begin)
    args.json.write_text(as_json(report), encoding="utf-8")


if __name__ == "__main__":
    main()
