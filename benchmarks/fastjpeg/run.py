"""Build the fastjpeg prototype, check and time it over sets of JPEG files.

    python benchmarks/fastjpeg/run.py --json OUT.json coco-mini=FOLDER bccd=FOLDER ...

Needs a C++ compiler, AVX2 and libjpeg-turbo with headers. `CPPFLAGS` and `LIBJPEG` name another
than the system's.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from yolodata.environment import cpu

SOURCE = Path(__file__).parent / "fastjpeg.cpp"


def main() -> None:
    """Run all builds over all sets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--at-most", type=int, default=400, help="files of a set")
    parser.add_argument("--builds", nargs="+", default=["clang++ x86-64-v3", "g++ x86-64-v3"])
    args = parser.parse_args()
    sets = {
        name: [str(f) for f in sorted(Path(folder).rglob("*.jpg"))[: args.at_most]]
        for name, folder in (s.split("=", 1) for s in args.sets)
    }
    flags = shlex.split(os.environ.get("CPPFLAGS", ""))
    library = shlex.split(os.environ.get("LIBJPEG", "-ljpeg"))
    report: dict[str, object] = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{cpu()}, {os.cpu_count()} cores",
        "libjpeg": os.environ.get("LIBJPEG_VERSION", "the system's"),
    }
    with tempfile.TemporaryDirectory() as folder:
        binary = f"{folder}/fastjpeg"
        for build in args.builds:
            compiler, arch = build.split()
            command = [
                compiler,
                "-std=c++17",
                "-O3",
                f"-march={arch}",
                *flags,
                str(SOURCE),
                *library,
            ]
            subprocess.run([*command, "-o", binary], check=True)
            rows: dict[str, object] = {}
            report[build] = rows
            for name, files in sets.items():
                row = {}
                for mode in (["check"], ["time", str(args.rounds)]):
                    out = subprocess.run(
                        [binary, *mode, *files], check=True, stdout=subprocess.PIPE
                    )
                    row[mode[0]] = json.loads(out.stdout)
                rows[name] = row | {"load_average": os.getloadavg()[0]}
                args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
