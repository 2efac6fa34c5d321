"""`python -m yolodata.bench`, also `yolodata bench`: from arguments to tables."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from yolodata import environment
from yolodata.arguments import NamesAndValues
from yolodata.bench import data, report, results, rounds, rows
from yolodata.bench.peers import PEERS
from yolodata.bench.subject import Row, Task
from yolodata.errors import ConfigError
from yolodata.machine import usable_cores
from yolodata.outputs import check_output
from yolodata.pipeline.options import CACHES, TASKS, check_hw_decoder_load


class _Number(NamedTuple):
    """An option that is a number, of the type of its limits."""

    help: str  # defaults are added
    low: float
    high: float
    loader: float | None = None  # defaults of the benchmarks; None: depends on something else
    train: float | None = None
    quick: float | None = None  # of both, with --quick
    only: str = ""  # the benchmark that has it


_NUMBERS = {
    "imgsz": _Number("side of the pictures (default: 640)", 32, 4096),
    "batch": _Number("pictures a batch", 1, 1024, 16, 128),
    "gpu_batch": _Number("the same for rows on a GPU", 1, 1024, 64, only="loader"),
    "images": _Number("different pictures", 2, 1_000_000, 256, 256, quick=64),
    "many": _Number("pictures, under several names each, where decoding is measured",
                    2, 10_000_000, data.MANY, data.MANY),
    "rounds": _Number("samples a row", 1, 1000, 5, 5, quick=2),
    "seconds": _Number("length of a sample", 0.01, 600, 1.2, quick=0.6, only="loader"),
    "start_limit": _Number("seconds after which a row that has not started is left out", 0.1,
                           36_000, rounds.START_LIMIT, rounds.START_LIMIT),
    "threads": _Number("cores of the rows with many (default: all)", 1, 1024, only="loader"),
    "steps": _Number("training steps a sample", 1, 100_000, train=20, quick=3, only="train"),
}  # fmt: skip
_OF_TRAINING = {"model": "yolo26n.yaml", "device": None, "amp": True, "cores": None,
                "cache": "auto"}  # fmt: skip
"""Other options of training alone, and their defaults."""
_ONLY = {which: [name for name, option in _NUMBERS.items() if option.only == which]
         for which in ("loader", "train")}  # fmt: skip
_ONLY["train"] += _OF_TRAINING
_NOT_HERE = {  # what to say of an option of the other benchmark
    "loader": "is for `train`; give that word first, or leave it out",
    "train": "is not for `train`, whose samples are --steps long and whose cores are --cores; "
    "leave it out",
}
_IMAGES_OF_DATA = 1024  # instead of 256 where nothing has to be drawn
_NO_SETTINGS = ("what", "json", "plot", "profile", "start_limit", "keep", "only", "run", "command")
_DESCRIPTION = (
    "Measure how many training pictures a second yolodata and Ultralytics make on this machine. "
    "Without arguments it draws its own pictures and takes three to four minutes."
)


def _share(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:  # auto; anything else is refused with what is out of range
        return text


def _augmentations() -> set[str]:
    from yolodata.pipeline.config import AugmentConfig

    return {field.name for field in fields(AugmentConfig)} - {"imgsz", "mosaic_grid"}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def add_parser(subparsers: Any) -> None:
    """Add `bench` to the command line of yolodata."""
    parser = subparsers.add_parser(
        "bench",
        help="measure training loaders on this machine",
        description=_DESCRIPTION,
        examples=(
            "yolodata bench",
            "yolodata bench data=coco.yaml json=out.json plot=out.png",
            "yolodata bench peers=True",
            "yolodata bench quick=True only=yolo*-1 threads=4 profile=True",
            "yolodata bench task=segment copy_paste=0.5 mixup=0.5",
            "yolodata bench imgsz=320 batch=32 images=512 rounds=9 seconds=3 start_limit=60",
            "yolodata bench keep=drawn seed=1 many=4096 gpu_batch=128 hw_decoder_load=0.65",
            "yolodata bench train model=yolo26s.yaml batch=64 steps=50 cores=2 cores=8",
            "yolodata bench train cache=host amp=False",
        ),
    )
    add = parser.add_argument
    add("what", nargs="?", choices=sorted(_ONLY), default="loader",
        help="which benchmark (default: loader)")  # fmt: skip
    add("--data", type=Path, help="your dataset (as for `yolodata shard`) or shards; none: drawn")
    add("--task", choices=TASKS, default="detect",
        help="what the labels are for (default: detect); pose needs --data")  # fmt: skip
    add("--augment", action=NamesAndValues, names=_augmentations(),
        help="an augmentation argument of Ultralytics, for both sides: copy_paste=0.5, also "
        "alone")  # fmt: skip
    add("--json", type=Path, metavar="OUT", help="write every sample as JSON")
    add("--plot", type=Path, metavar="OUT.png", help="write a bar chart")
    add("--peers", action="store_true",
        help=f"measure other loaders too, where they are installed: "
        f"{', '.join(peer.name for peer in PEERS)}")  # fmt: skip
    add("--profile", action="store_true", help="show where the time goes")
    add("--hw-decoder-load", type=_share, default="auto", metavar="SHARE",
        help="share of JPEG files for a GPU's JPEG engine; with more than 0, pictures may differ "
        "by up to 3 grey levels from one run to the next (default: auto, which is 0)")  # fmt: skip
    add("--quick", action="store_true", help="a rough answer in a minute")
    add("--seed", type=int, default=0, help="of everything random (default: 0)")
    add("--keep", type=Path, metavar="DIR", help="keep the dataset there, and use it again")
    add("--only", action="append", default=[], metavar="ROW",
        help="only rows like this: 'yolo*-1'")  # fmt: skip
    train = parser.add_argument_group("only for `train`")
    for name, option in _NUMBERS.items():
        defaults = [str(value) for value in (option.loader, option.train) if value is not None]
        shown = f" (default: {'; train: '.join(dict.fromkeys(defaults))})" if defaults else ""
        group = train if option.only == "train" else parser
        group.add_argument(_flag(name), type=type(option.low), help=option.help + shown)
    add = train.add_argument
    add("--model", metavar="YAML", help=f"what is trained (default: {_OF_TRAINING['model']})")
    add("--device", choices=("cpu", "cuda"),
        help="where the model trains (default: cuda, if there is one)")  # fmt: skip
    add("--amp", action=argparse.BooleanOptionalAction, default=None,
        help="train in mixed precision on a GPU (default: yes)")  # fmt: skip
    add("--cores", action="append", type=int, metavar="N",
        help="cores for training and all its workers, may be given several times (default: all, "
        "and on a GPU 2 as well)")  # fmt: skip
    add("--cache", choices=CACHES,
        help="where yolodata keeps decoded pictures for a GPU "
        f"(default: {_OF_TRAINING['cache']})")  # fmt: skip
    parser.set_defaults(run=run)


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
        with tempfile.TemporaryDirectory(prefix="yolodata-bench-") as temporary:
            return _measure(args, Path(temporary))
    finally:
        signal.signal(signal.SIGTERM, before)


def _measure(args: argparse.Namespace, temporary: Path) -> int:
    began = time.monotonic()

    def say(message: str) -> None:  # to stderr, so that the table can be sent elsewhere
        print(f"[{time.monotonic() - began:5.0f} s] {message}", file=sys.stderr, flush=True)

    _fill_in(args)
    begin = results.about(args.what)
    if args.what == "train":
        known = rows.train_rows(args.cores, args.device)
    else:
        peers = [peer for peer in PEERS if args.peers and peer.installed]
        cores = args.threads or len(usable_cores())
        known = rows.loader_rows(cores, "gpu" in begin["machine"], peers)
        for peer in peers:
            with suppress(metadata.PackageNotFoundError):  # another one has this module, too
                begin["versions"][peer.distribution] = metadata.version(peer.distribution)
        begin["not_installed"] = [
            {"label": peer.label, "install": f"pip install {peer.distribution}"}
            for peer in PEERS if args.peers and not peer.installed
        ]  # fmt: skip
    chosen = rows.choose(known, args.only)
    begin["settings"] = {name: str(value) if isinstance(value, Path) else value
                         for name, value in vars(args).items()
                         if name not in _NO_SETTINGS and value is not None}  # fmt: skip
    many = args.many
    if args.what == "train" and args.data is None:
        many = max(many, args.batch * max(args.cores))  # no more workers than an epoch has batches
    wanted = data.Wanted(args.data, args.images, many, args.imgsz, args.seed, args.task)
    folder = args.keep or temporary / "data"
    prepared = data.prepare(wanted, folder, {row.source for row in chosen}, say)
    measured = [row for row in chosen if prepared.serves(row)]
    if not measured:
        raise ConfigError(
            f"{args.data}: has nothing to measure for --only {' '.join(args.only)}; it has "
            f"{', '.join(prepared.by_codec)}"
        )

    def task_of(row: Row) -> Task:
        usable = usable_cores()
        return Task(
            prepared.source(row), args.imgsz,
            args.batch if row.trains or row.device == "cpu" else args.gpu_batch,
            args.seed, usable[-row.cores :] if row.cores <= len(usable) else (), row.device,
            args.task, args.augment, args.hw_decoder_load,
            overrides(row) if row.trains else {}, args.cache or "auto",
        )  # fmt: skip

    def overrides(row: Row) -> dict[str, Any]:
        """Ultralytics' arguments: its defaults, but nothing beside the steps."""
        return {
            "task": "detect", "mode": "train", "model": args.model, "imgsz": args.imgsz,
            "data": str(prepared.by_codec.get("files", args.data)), "project": str(temporary),
            "workers": max(r.threads for r in measured if r.process == row.process),
            "batch": args.batch, "nbs": args.batch,  # the optimizer steps on every batch
            # As long as those trainings for which Ultralytics chooses its optimizer: learning rates
            # are still near zero, so that nothing can overflow however long it takes.
            "epochs": 1000, "device": "0" if args.device == "cuda" else "cpu", "amp": args.amp,
            "seed": args.seed, "pretrained": False, "plots": False, "val": False, "save": False,
            "name": "run", "exist_ok": True,
        }  # fmt: skip

    def keep(found: list[rounds.Measured]) -> None:
        if args.json:
            made = results.document(begin, prepared.facts, found)
            results.save(args.json, made | {"complete": False})

    length = args.rounds, args.seconds or 0.0, args.steps or 0
    plan = rounds.Plan(*length, args.profile, args.start_limit)
    found = rounds.run(measured, task_of, plan, temporary, say, keep)
    values = results.document(begin, prepared.facts, found)
    print(report.text(values))
    if args.profile:
        print("\n" + report.profiles(values))
    if args.json:
        results.save(args.json, values)
    if args.plot:
        from yolodata.bench import plot

        plot.save(args.plot, values)
    say("done")
    return int(bool(values["complaints"]) or any("error" in row for row in values["rows"]))


def _fill_in(args: argparse.Namespace) -> None:
    """Check the settings and give them their defaults.

    Raises:
        ConfigError: one is out of range or of the other benchmark, or the dataset does not exist.
    """
    from yolodata.pipeline.config import AugmentConfig

    trains = args.what == "train"
    for name in _ONLY["loader" if trains else "train"]:
        if getattr(args, name) is not None:
            raise ConfigError(f"{_flag(name)} {_NOT_HERE[args.what]}")
    if args.peers and (trains or args.task != "detect" or args.augment):
        raise ConfigError(
            "--peers is for the loader benchmark of --task detect without --augment: other loaders "
            "do not know Ultralytics' tasks and arguments"
        )
    if trains and (args.task != "detect" or args.augment):
        raise ConfigError("--task and --augment are for the loader benchmark, without `train`")
    defaults: dict[str, Any] = dict(_OF_TRAINING) if trains else {}
    for name, option in _NUMBERS.items():
        defaults[name] = option.train if trains else option.loader
        if name == "images" and args.data is not None:
            defaults[name] = _IMAGES_OF_DATA
        if args.quick and defaults[name] is not None and option.quick is not None:
            defaults[name] = option.quick
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.data is not None and not args.data.exists():
        raise ConfigError(
            f"--data {args.data} does not exist; give a dataset YAML, COCO or VOC annotations, or "
            "a folder made by `yolodata shard`"
        )
    if args.imgsz is None:
        args.imgsz = data.imgsz_of(args.data) if args.data is not None else 640
    for name, option in _NUMBERS.items():
        value = getattr(args, name)
        if value is not None and not option.low <= value <= option.high:
            raise ConfigError(f"{_flag(name)} must be {option.low} to {option.high}, got {value}")
    check_hw_decoder_load(args.hw_decoder_load)
    if args.imgsz % 32:
        raise ConfigError(f"--imgsz must be a multiple of 32, got {args.imgsz}")
    if args.plot:
        from yolodata.bench import plot

        plot.check_format(args.plot)
    check_output(args.json, "--json")
    check_output(args.plot, "--plot")
    if args.images < args.batch:
        raise ConfigError(
            f"--images must be at least --batch, got {args.images} images and batches of "
            f"{args.batch}"
        )
    if trains:
        _check_training(args)
    if args.task == "pose" and args.data is None:
        raise ConfigError("--task pose needs --data: pictures of people are not drawn")
    AugmentConfig.from_ultralytics({**args.augment, "imgsz": args.imgsz})


def _check_training(args: argparse.Namespace) -> None:
    gpu = environment.gpu() if args.device != "cpu" else None
    if args.device == "cuda" and gpu is None:
        raise ConfigError(
            "--device cuda was given, but torch finds no CUDA device; use --device cpu, or install "
            "a torch with CUDA and a driver"
        )
    args.device = args.device or ("cuda" if gpu is not None else "cpu")
    usable = len(usable_cores())
    args.cores = args.cores or rows.default_cores(usable, args.device)
    for n in args.cores:
        if not 1 <= n <= usable:
            raise ConfigError(f"--cores must be 1 to {usable} on this machine, got {n}")
    if not args.model.endswith((".yaml", ".yml")):
        raise ConfigError(
            f"--model must be the YAML of an architecture, such as yolo26n.yaml, got "
            f"{args.model!r}: weights make no step faster, and would have to be downloaded"
        )
