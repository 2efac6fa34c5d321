"""`python -m yolodata.bench`, the same as `yolodata bench`."""

from __future__ import annotations

import sys

from yolodata.isolation import leave_working_folder

if __name__ == "__main__":
    leave_working_folder()
    from yolodata.cli import main

    sys.exit(main(["bench", *sys.argv[1:]]))
