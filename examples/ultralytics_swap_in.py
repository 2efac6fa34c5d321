"""Trains with Ultralytics; one argument makes the batches ours.

python examples/ultralytics_swap_in.py
python examples/ultralytics_swap_in.py --data coco8.yaml --model yolo26n.pt --imgsz 640
"""

from __future__ import annotations

from typing import Any

from example_data import SIDE, argument_parser, draw
from ultralytics import YOLO

import yolodata


def main(arguments: list[str] | None = None) -> Any:
    """Trains; returns Ultralytics' trainer."""
    parser = argument_parser(__doc__)
    parser.add_argument("--model", default="yolo26n.yaml")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--imgsz", type=int, default=SIDE)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(arguments)

    model = YOLO(args.model)
    model.train(
        # A dataset is packed the first time, into a folder beside it. Shards do as well.
        data=args.data or str(draw(args.folder / "drawn")),
        # DetectionTrainer.configure(codec="jpeg") packs the original files instead of pixels.
        trainer=yolodata.DetectionTrainer,
        epochs=args.epochs,
        imgsz=args.imgsz,
        batch=4,
        device=args.device,
        project=str(args.folder.resolve()),
        name="ultralytics",
        plots=False,
    )
    return model.trainer


if __name__ == "__main__":
    main()
