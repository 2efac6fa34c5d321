"""Prints the requirements of a pyproject.toml: requirements.py FILE [EXTRA,…]."""

import sys

import tomllib

file, extras = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
with open(file, "rb") as opened:
    project = tomllib.load(opened)["project"]
there = project["optional-dependencies"]
lines = list(project["dependencies"])
for extra in filter(None, extras.split(",")):
    if extra not in there:
        sys.exit(f"EXTRAS must be of {', '.join(there)}, separated by commas, got {extra!r}")
    lines += there[extra]
print("\n".join(lines))
