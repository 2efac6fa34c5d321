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

from yolodata.bench import table
from yolodata.bench.training import report

RESULTS = Path(__file__).parent / "results"
MAKERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "loader": table.markdown,
    "train": report.markdown,
}
"""How the results of each benchmark become Markdown, by their `benchmark` entry."""

_PLACE = re.compile(r"(<!-- results: (\S+) -->\n)(.*?)(<!-- /results -->)", re.DOTALL)


def markdown(path: Path) -> str | None:
    """The table of one JSON file; None where it is no benchmark that has one."""
    values = json.loads(path.read_text(encoding="utf-8"))
    maker = MAKERS.get(values.get("benchmark", "")) if isinstance(values, dict) else None
    return maker(values) if maker else None


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
