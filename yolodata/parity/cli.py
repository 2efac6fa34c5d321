"""Are our pictures and labels Ultralytics' own? Upstream draws, both sides carry it out.

    python benchmarks/parity.py --data DATA.yaml --task detect --n 200 --metrics --json OUT

Every sample is made by upstream's training dataset, and again by `yolodata.render` from the numbers
that upstream drew and the images that it loaded. Validation batches come from both loaders; with
`--metrics` so do the metrics of a model that is trained for it (about a minute on two cores), which
have to be the same to the last digit, and above zero.

Exits with 1 when a limit is missed. `--break` turns and shifts one matrix a little. Every limit of
the task has to notice: it exits with 1 where all did, and with 0 where one did not. The dataset is
only read.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolodata.errors import YolodataError
from yolodata.parity import upstream
from yolodata.parity.kinds import chains
from yolodata.parity.tally import LIMITS, Tally, all_limits, limits_of, missed
from yolodata.parity.validation import metrics, validation


def spoil(matrix: list[float], imgsz: int) -> list[float]:
    """The matrix, half a pixel to the right and 0.002 radians around the middle of the picture."""
    cosine, sine, middle = math.cos(0.002), math.sin(0.002), imgsz / 2
    turn = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    turn[:2, 2] = middle - turn[:2, :2] @ [middle, middle] + [0.5, 0.0]
    return (turn @ np.reshape(matrix, (3, 3))).ravel().tolist()


def compare(
    source: upstream.Upstream, hyp: dict[str, Any], n: int, seed: int, broken: bool = False
) -> Tally:
    """`n` samples of one kind; `broken` spoils the matrix of our first layer."""
    from yolodata import _native

    source.use(**hyp)
    tally = Tally()
    upstream.seed(seed)
    for i in range(n):
        sample, values, images = source.sample((seed + i) % len(source.dataset))
        if values["failed_cuts"]:
            tally.left_out += 1
            continue
        tally.mixups += values["mixup"] is not None
        tally.cutmixes += values["cutmix"] is not None
        if broken:
            layer = values["layers"][0]
            layer["matrix"] = spoil(layer["matrix"], source.imgsz)
        tally.pastes += bool(values["pastes"])
        recipe = source.recipe(values)
        picture = source.picture(recipe, values, images)
        labels = _native.labels(recipe, source.index, source.mask_ratio, source.overlap_mask)
        tally.add(picture, sample["img"].numpy(), labels, sample)
    return tally


Missed = list[tuple[str, str]]
"""Names of limits, and sentences."""


def measure(
    data: Path, task: str, imgsz: int, n: int, seed: int, batch: int, broken: bool
) -> tuple[dict[str, Any], Missed]:
    """All figures, and the limits missed. `broken` spoils the kinds called default."""
    figures: dict[str, Any] = {}
    failed: Missed = []
    source = upstream.Upstream(data, imgsz, task)
    for chain, (base, kinds) in chains(task, source.polygons).items():
        total = Tally()
        by_kind = {}
        for kind, hyp in kinds.items():
            spoiled = broken and kind == "default"
            tally = compare(source, {**base, **hyp}, -(-n // len(kinds)), seed, spoiled)
            by_kind[kind] = tally.report()
            failed += missed(chain, kind, by_kind[kind]).items()
            total.merge(tally)
        figures[chain] = {**total.report(), "kinds": by_kind}
    figures["validation"] = validation(data, task, imgsz, batch)
    for kind, report in figures["validation"].items():
        if report["differing"]:
            failed.append(("validation", f"validation, {kind}: differ in {report['differing']}"))
    return figures, failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison; 0 when every limit holds."""
    from yolodata.bench.machine import machine, versions

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="YAML of a dataset")
    parser.add_argument("--task", choices=["detect", "segment", "pose", "obb"], default="detect")
    parser.add_argument("--n", type=int, default=200, help="random recipes of each chain")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=16, help="of the validation loaders")
    parser.add_argument("--metrics", action="store_true", help="train a model and validate it too")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--break", dest="broken", action="store_true", help="must fail")
    args = parser.parse_args(arguments)
    if args.n < 1:
        parser.error(f"--n must be 1 or more, got {args.n}")
    figures, failed = measure(
        args.data, args.task, args.imgsz, args.n, args.seed, args.batch, args.broken
    )
    if args.metrics:
        figures["metrics"] = metrics(args.data, args.task, args.batch)
        failed += [("metrics", sentence) for sentence in figures["metrics"].pop("failed")]
    _print(figures)
    for _, sentence in failed:
        print(f"FAILED: {sentence}")
    if not failed:
        print("every limit holds")
    blind = limits_of(args.task) - {limit for limit, _ in failed} if args.broken else set()
    if blind:
        print(f"NOT NOTICED by the limits of {', '.join(sorted(blind))}")
    if args.json:
        result = {
            "benchmark": "parity", "task": args.task, "data": args.data.parent.name, "n": args.n,
            "imgsz": args.imgsz, "seed": args.seed, "broken": args.broken,
            "limits": all_limits(), "failed": [sentence for _, sentence in failed],
            "machine": machine(), "versions": versions(), **figures,
        }  # fmt: skip
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if failed and not blind else 0


def _print(figures: dict[str, Any]) -> None:
    print(
        f"{'':26}{'samples':>8}{'mixup':>7}{'cutmix':>7}{'paste':>7}{'identical %':>13}"
        f"{'largest':>9}{'objects':>9}{'others':>8}{'box error':>11}{'angle':>9}{'keypoints':>11}"
        f"{'masks %':>10}{'IoU':>7}"
    )
    for chain in [name for name in LIMITS if name in figures]:
        rows = {chain.upper(): figures[chain], **figures[chain]["kinds"]}
        for kind, row in rows.items():
            share, masks = (  # 100 only where all are
                int(row[f"identical_{what}percent"] * 1e4) / 1e4 for what in ("", "mask_")
            )
            print(
                f"{kind:26}{row['samples']:8d}{row['with_mixup']:7d}{row['with_cutmix']:7d}"
                f"{row['with_copy_paste']:7d}{share:13.4f}{row['largest_difference']:9d}"
                f"{row['objects']:9d}{row['samples_with_other_objects']:8d}"
                f"{row['largest_box_error']:11.1e}{row['largest_angle_error']:9.1e}"
                f"{row['largest_keypoint_error']:11.1e}"
                f"{masks:10.4f}{row['least_mask_iou']:7.4f}"
            )
    for kind, val in figures["validation"].items():
        print(
            f"validation, {kind}: {val['pictures']} pictures in {val['batches']}", end=" batches, "
        )
        print(f"different in {val['differing']}" if val["differing"] else "identical to the bit")
    if "metrics" in figures:
        found = figures["metrics"]
        print(f"{'metrics':26}{'upstream':>24}{'yolodata':>24}")
        for name, theirs in found["upstream"].items():
            print(f"{name:26}{theirs!r:>24}{found['yolodata'][name]!r:>24}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (YolodataError, OSError, SyntaxError) as error:  # what upstream and we say of --data
        print(f"parity: {error}", file=sys.stderr)
        sys.exit(2)
