"""Trains a few steps with Ultralytics' own trainer, and prints what the process took at its peak.

python benchmarks/doctor_faults/train_steps.py DATA.yaml IMGSZ BATCH STEPS
"""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any

from ultralytics import YOLO
from ultralytics.utils import LOGGER

from yolodata.machine import process_memory


def main() -> None:
    data, imgsz, batch, steps = sys.argv[1], *map(int, sys.argv[2:5])
    LOGGER.setLevel("ERROR")
    made = 0

    def count(trainer: Any) -> None:
        nonlocal made
        made += 1
        if made == steps:
            sizes = process_memory()
            print(f"peak_bytes={sizes['VmHWM'] - sizes['RssFile']}", flush=True)
            os._exit(0)  # the rest of the epoch is not wanted

    model = YOLO("yolo26n.yaml")
    model.add_callback("on_train_batch_end", count)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        model.train(
            data=data, imgsz=imgsz, batch=batch, device="cpu", workers=0, plots=False, val=False,
            verbose=False, project=folder,
        )  # fmt: skip


if __name__ == "__main__":
    main()
