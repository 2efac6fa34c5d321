"""`python -m yolodata.bench`."""

from __future__ import annotations

import sys

from yolodata.bench.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
