"""`python -m yolodata.train`, the same as `yolodata train`; what torchrun starts."""

from __future__ import annotations

import sys

from yolodata.isolation import leave_working_folder

if __name__ == "__main__":
    leave_working_folder()
    from yolodata.command import run_module

    sys.exit(run_module("train", "yolodata.train.train_cli"))
