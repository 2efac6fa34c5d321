"""`python -m yolodata`, the same as `yolodata`."""

from __future__ import annotations

import sys

from yolodata.isolation import leave_working_folder

if __name__ == "__main__":
    leave_working_folder()
    from yolodata.cli import main

    sys.exit(main())
