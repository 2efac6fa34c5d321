"""`python -m yolodata.bench`, also `yolodata bench`."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from yolodata.bench import data, machine, results, rounds, rows, table
from yolodata.bench.subject import Task
from yolodata.bench.training import benchmark as training
from yolodata.errors import ConfigError, YolodataError
from yolodata.machine import usable_cores
from yolodata.pipeline.dali import check_hw_decoder_load
from yolodata.pipeline.selection import TASKS

# Settings that --quick changes: (full, quick).
_DEFAULTS = {
    "images": (256, 64),
    "many": (data.MANY, 1024),
    "rounds": (5, 2),
    "seconds": (1.4, 0.6),
}
_BATCH, _GPU_BATCH = 16, 64
_ONLY_LOADER = ("seconds", "threads", "gpu-batch")
_IMAGES_OF_DATA = 1024  # instead of 256 where nothing has to be drawn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the benchmark."""
    parser.add_argument(
        "what",
        nargs="?",
        choices=sorted(BENCHMARKS),
        default="loader",
        help="which benchmark (default: loader)",
    )
    parser.add_argument(
        "--data", type=Path, help="your dataset (as for `yolodata shard`) or shards; none: drawn"
    )
    parser.add_argument(
        "--task",
        choices=TASKS,
        default="detect",
        help="what the labels are for (default: detect); pose needs --data",
    )
    parser.add_argument(
        "--augment",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an augmentation argument of Ultralytics, for both sides: copy_paste=0.5",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every sample as JSON")
    parser.add_argument("--plot", type=Path, metavar="OUT.png", help="write a bar chart")
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    parser.add_argument("--imgsz", type=int, help="side of the pictures (default: 640)")
    parser.add_argument(
        "--batch", type=int, help=f"pictures a batch (default: {_BATCH}; train: {training.BATCH})"
    )
    parser.add_argument(
        "--gpu-batch", type=int, help=f"the same for rows on a GPU (default: {_GPU_BATCH})"
    )
    parser.add_argument(
        "--hw-decoder-load", type=_share, default="auto", metavar="SHARE",
        help="share of JPEG files for a GPU's JPEG engine (default: auto, which is 0; with more, "
        "pictures may differ by up to 3 grey levels from one run to the next)",
    )  # fmt: skip
    parser.add_argument("--images", type=int, help="different pictures (default: 256)")
    parser.add_argument(
        "--many",
        type=int,
        help="pictures, under several names each, where decoding is measured (default: 3072)",
    )
    parser.add_argument("--rounds", type=int, help="samples a row (default: 5)")
    parser.add_argument("--seconds", type=float, help="length of a sample (default: 1.4)")
    parser.add_argument(
        "--start-limit", type=float, default=rounds.START_LIMIT, metavar="SECONDS",
        help="a row that takes longer to start is left out (default: 600)",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, help="cores of the rows with many (default: all)")
    parser.add_argument("--quick", action="store_true", help="a rough answer in half a minute")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the dataset there, and use it again"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="ROW", help="only rows like this: 'yolo*-1'"
    )
    training.add_arguments(parser)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `bench` to the command line of yolodata."""
    parser = subparsers.add_parser(
        "bench",
        help="measure training loaders on this machine",
        description="Measure how many training pictures a second yolodata and Ultralytics make on "
        "this machine. Without arguments it draws its own pictures and takes three minutes.",
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m yolodata.bench`."""
    parser = argparse.ArgumentParser(
        prog="python -m yolodata.bench",
        description="Measure how many training pictures a second yolodata and Ultralytics make on "
        "this machine. Without arguments it draws its own pictures and takes three minutes.",
    )
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except YolodataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def run(args: argparse.Namespace) -> int:
    """Carry out a parsed command line.

    SIGTERM ends it in good order: child processes are stopped, and with `--json` there is what was
    measured until then.

    Returns:
        0, or 1 if a row failed or rows did not do the same work.
    """

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        return BENCHMARKS[args.what](args)
    finally:
        signal.signal(signal.SIGTERM, before)


def run_loader(args: argparse.Namespace) -> int:
    """The loader benchmark."""
    began = time.monotonic()
    foreign = training.only_here(args)
    if foreign:
        raise ConfigError(
            f"--{foreign[0]} is for `train`; give that word first, or leave --{foreign[0]} out"
        )
    _fill_in(args, _BATCH)
    about, versions, gpu = machine.machine(), machine.versions(), machine.gpu()
    if gpu is not None:
        about["gpu"] = asdict(gpu)
    available = usable_cores()
    many = args.threads or len(available)
    wanted_rows = rows.choose(rows.loader_rows(many, gpu), args.only)
    augment = _augmentation(args)
    wanted = data.Wanted(args.data, args.images, args.many, args.imgsz, args.seed, args.task)
    settings = {
        "imgsz": args.imgsz, "batch": args.batch, "rounds": args.rounds,
        "seconds": args.seconds, "seed": args.seed, "quick": args.quick,
        "data": str(args.data) if args.data else None, "task": args.task, "augment": augment,
    }  # fmt: skip
    if gpu is not None:
        settings |= {"gpu_batch": args.gpu_batch, "hw_decoder_load": args.hw_decoder_load}
    with ExitStack() as stack:
        folder = args.keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="yolodata-bench-"))
        )
        prepared = data.prepare(wanted, folder, {row.source for row in wanted_rows}, _say(began))
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="yolodata-logs-")))
        measured = [row for row in wanted_rows if prepared.serves(row)]
        if not measured:
            raise ConfigError(
                f"{args.data} has nothing to measure for --only {' '.join(args.only)}; it has "
                f"{', '.join(prepared.by_codec)}"
            )

        def task_of(row: rows.Row) -> Task:
            mine = available[-row.cores :] if row.cores <= len(available) else ()
            batch = args.batch if row.device == "cpu" else args.gpu_batch
            source = prepared.by_codec.get(row.source)
            return Task(
                source, args.imgsz, batch, args.seed, mine, row.device, args.task, augment,
                args.hw_decoder_load,
            )  # fmt: skip

        def document(found: list[rounds.Measured], complete: bool) -> results.Document:
            return results.document(
                machine=about,
                versions=versions,
                settings=settings,
                data=prepared.facts,
                results=found,
                ratios=rounds.ratios(found),
                shares=rounds.shares(found),
                complaints=rounds.same_work(found),
            ) | ({} if complete else {"complete": False})

        def keep(found: list[rounds.Measured]) -> None:
            if args.json:
                results.save(args.json, document(found, complete=False))

        plan = rounds.Plan(args.rounds, args.seconds, args.profile, args.start_limit)
        found = rounds.run(measured, task_of, plan, logs, _say(began), keep)
    values = document(found, complete=True)
    print(table.text(values))
    if args.profile:
        print("\n" + table.profiles(values))
    if args.json:
        results.save(args.json, values)
    if args.plot:
        from yolodata.bench import plot

        plot.save(args.plot, values)
    _say(began)("done")
    return 1 if values["complaints"] or any(f.error for f in found) else 0


def run_train(args: argparse.Namespace) -> int:
    """The training benchmark."""
    began = time.monotonic()
    for name in _ONLY_LOADER:
        if getattr(args, name.replace("-", "_")) not in (None, False):
            raise ConfigError(
                f"--{name} is not for `train`, whose samples are --steps long and whose cores are "
                "--cores; leave it out"
            )
    if args.task != "detect" or args.augment:
        raise ConfigError("--task and --augment are for the loader benchmark, without `train`")
    _fill_in(args, training.BATCH)
    return training.run(args, _say(began))


BENCHMARKS: dict[str, Callable[[argparse.Namespace], int]] = {
    "loader": run_loader,
    "train": run_train,
}
"""What `python -m yolodata.bench NAME` runs; add a benchmark by adding an entry."""


def _fill_in(args: argparse.Namespace, batch: int) -> None:
    """Check the settings and give them their defaults.

    Args:
        args: as parsed.
        batch: pictures a batch by default.

    Raises:
        ConfigError: one is out of range, or the dataset does not exist.
    """
    if args.batch is None:
        args.batch = batch
    if args.gpu_batch is None:
        args.gpu_batch = _GPU_BATCH
    for name, values in _DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, values[args.quick])
            if name == "images" and args.data is not None and not args.quick:
                args.images = _IMAGES_OF_DATA
    if args.data is not None and not args.data.exists():
        raise ConfigError(
            f"--data {args.data} does not exist; give a dataset YAML, COCO or VOC annotations, or "
            "a folder made by `yolodata shard`"
        )
    if args.imgsz is None:
        args.imgsz = _imgsz_of(args.data)
    limits = {"imgsz": (32, 4096), "batch": (1, 1024), "gpu_batch": (1, 1024),
              "images": (2, 1_000_000), "many": (2, 10_000_000), "rounds": (1, 1000),
              "seconds": (0.01, 600), "threads": (1, 1024),
              "start_limit": (0.1, 36_000)}  # fmt: skip
    for name, (low, high) in limits.items():
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} must be {low} to {high}, got {value}")
    check_hw_decoder_load(args.hw_decoder_load)
    if args.imgsz % 32:
        raise ConfigError(f"--imgsz must be a multiple of 32, got {args.imgsz}")
    if args.plot and not args.plot.suffix:
        raise ConfigError(f"--plot needs a name that ends in .png, .svg or .pdf, got {args.plot}")
    if args.images < args.batch:
        raise ConfigError(
            f"--images must be at least --batch, got {args.images} images and batches of "
            f"{args.batch}"
        )


def _augmentation(args: argparse.Namespace) -> dict[str, Any]:
    """What --augment says, checked.

    Raises:
        ConfigError: it is no augmentation argument, or out of range; or the task cannot be drawn.
    """
    import yaml

    from yolodata.pipeline.config import AugmentConfig

    if args.task == "pose" and args.data is None:
        raise ConfigError("--task pose needs --data: pictures of people are not drawn")
    known = {field.name for field in fields(AugmentConfig)} - {"imgsz", "mosaic_grid"}
    found = {}
    for text in args.augment:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            raise ConfigError(
                f"--augment takes NAME=VALUE with one of {', '.join(sorted(known))}, got {text!r}"
            )
        found[name] = yaml.safe_load(value)
    AugmentConfig.from_ultralytics({**found, "imgsz": args.imgsz})
    return found


def _imgsz_of(path: Path | None) -> int:
    if path is None or not data.is_shards(path):
        return 640
    from yolodata.shards import reader

    shards = reader.open(path if (path / "dataset.json").exists() else path / "train")
    return int(shards.meta.imgsz)


def _share(text: str) -> float | str:
    """A number where there is one; the loader says what is allowed."""
    return float(text) if text != "auto" else text


def _say(began: float) -> Callable[[str], None]:
    """Progress goes to stderr, so that the table can be sent elsewhere."""

    def say(message: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {message}", file=sys.stderr, flush=True)

    return say
