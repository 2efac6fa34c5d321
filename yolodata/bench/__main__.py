"""`python -m yolodata.bench`, the same as `yolodata bench`."""

from __future__ import annotations

import sys

from yolodata.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
