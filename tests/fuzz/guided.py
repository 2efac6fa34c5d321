"""Fuzzes one target of readers.py, guided by what it reaches: NAME, then arguments of libFuzzer."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["yolodata", "readers"]):
    import readers

    import yolodata.ingest.coco  # otherwise imported by the first input, and not seen into
    import yolodata.ingest.voc
    import yolodata.pipeline.loader  # noqa: F401

if __name__ == "__main__":
    target = readers.TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
