"""`python -m yolodata.train`, the same as `yolodata train`; what torchrun starts."""

from __future__ import annotations

import sys

from yolodata.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
