"""`python -m yolodata.shard`, the same as `yolodata shard`."""

from __future__ import annotations

import sys

from yolodata.cli import main

if __name__ == "__main__":
    sys.exit(main(["shard", *sys.argv[1:]]))
