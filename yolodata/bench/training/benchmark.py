"""`python -m yolodata.bench train`."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from yolodata.bench import data, machine, results
from yolodata.bench.rows import Row, choose
from yolodata.bench.training import report, rounds
from yolodata.bench.training.rows import default_cores, source, train_rows
from yolodata.bench.training.task import TrainTask
from yolodata.errors import ConfigError
from yolodata.machine import usable_cores

BATCH = 128
_STEPS = (20, 3)  # full, quick
_PROFILED = 4  # steps under the profiler, which writes megabytes a step


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that only this benchmark has."""
    group = parser.add_argument_group("only for `train`")
    group.add_argument("--model", metavar="YAML", help="what is trained (default: yolo26n.yaml)")
    group.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda, if there is one")
    group.add_argument(
        "--amp",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="train in mixed precision on a GPU (default: yes)",
    )
    group.add_argument("--steps", type=int, help="training steps a sample (default: 20)")
    group.add_argument(
        "--cores", action="append", type=int, metavar="N",
        help="cores for training and all its workers, may be given several times (default: all, "
        "and on a GPU 2 as well)",
    )  # fmt: skip
    group.add_argument(
        "--cache",
        choices=("auto", "device", "host", "none"),
        help="where yolodata keeps decoded pictures for a GPU (default: auto)",
    )


def only_here(args: argparse.Namespace) -> list[str]:
    """Arguments of this benchmark that were given."""
    names = ("model", "device", "amp", "steps", "cores", "cache")
    return [name for name in names if getattr(args, name) is not None]


def run(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    """The training benchmark; shared arguments are checked and have their defaults.

    Returns:
        0, or 1 if something failed.
    """
    gpu = machine.gpu() if args.device != "cpu" else None
    device = args.device or ("cuda" if gpu is not None else "cpu")
    if device == "cuda" and gpu is None:
        raise ConfigError(
            "--device cuda was given, but torch finds no CUDA device; use --device cpu, or install "
            "a torch with CUDA and a driver"
        )
    steps = args.steps if args.steps is not None else _STEPS[args.quick]
    if not 1 <= steps <= 100_000:
        raise ConfigError(f"--steps must be 1 to 100000, got {steps}")
    usable = usable_cores()
    wanted_cores = args.cores or default_cores(len(usable), device)
    for n in wanted_cores:
        if not 1 <= n <= len(usable):
            raise ConfigError(f"--cores must be 1 to {len(usable)} on this machine, got {n}")
    model = args.model or "yolo26n.yaml"
    if not model.endswith((".yaml", ".yml")):
        raise ConfigError(
            f"--model must be the YAML of an architecture, such as yolo26n.yaml, got {model!r}: "
            "weights make no step faster, and would have to be downloaded"
        )
    about, versions = machine.machine(), machine.versions()
    if gpu is not None:
        about["gpu"] = asdict(gpu)
    rows = choose(train_rows(wanted_cores, device), args.only)
    # Ultralytics starts no more workers than an epoch has batches.
    many = max(args.many, args.batch * max(wanted_cores)) if args.data is None else args.many
    wanted = data.Wanted(args.data, args.images, many, args.imgsz, args.seed)
    settings = {
        "model": model, "device": device, "imgsz": args.imgsz, "batch": args.batch,
        "amp": args.amp is not False, "cache": args.cache or "auto", "cores": wanted_cores,
        "hw_decoder_load": args.hw_decoder_load, "rounds": args.rounds, "steps": steps,
        "seed": args.seed, "quick": args.quick, "data": str(args.data) if args.data else None,
    }  # fmt: skip
    with ExitStack() as stack:
        folder = args.keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="yolodata-bench-"))
        )
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="yolodata-logs-")))
        prepared = data.prepare(wanted, folder, _needed(rows), say)
        sources = _sources(prepared)
        rows = [row for row in rows if row.codec == "memory" or source(row) in prepared.by_codec]

        def task_of(n: int) -> TrainTask:
            mine = tuple(row for row in rows if row.cores == n)
            return TrainTask(
                rows=mine,
                sources={
                    row.id: prepared.by_codec.get(source(row), sources) for row in mine
                },
                data=prepared.by_codec.get("files", args.data),
                folder=logs,
                model=model,
                device=device,
                batch=args.batch,
                imgsz=args.imgsz,
                seed=args.seed,
                amp=args.amp is not False,
                cache=args.cache or "auto",
                hw_decoder_load=args.hw_decoder_load,
                cores=usable[-n:],
            )  # fmt: skip

        def document(found: list[rounds.Trained]) -> results.Document:
            return report.document(
                machine=about,
                versions=versions,
                settings=settings,
                data=prepared.facts,
                results=found,
            )

        def keep(found: list[rounds.Trained]) -> None:
            if args.json:
                results.save(args.json, document(found) | {"complete": False})

        profile = min(steps, _PROFILED) if args.profile else 0
        plan = rounds.TrainPlan(args.rounds, steps, profile, args.start_limit)
        found = rounds.run(rows, task_of, plan, logs, say, keep)
    values = document(found)
    print(report.text(values))
    if args.profile:
        print("\n" + report.profiles(values))
    if args.json:
        results.save(args.json, values)
    if args.plot:
        from yolodata.bench import plot

        plot.save(args.plot, values)
    say("done")
    return 1 if any("error" in row for row in values["rows"]) else 0


def _needed(rows: list[Row]) -> set[str]:
    """Sources that rows read; a batch that never changes is one of ours."""
    return {"raw-many" if row.codec == "memory" else source(row) for row in rows}


def _sources(prepared: data.Prepared) -> Path:
    """Shards that the batch that never changes is taken from, if no other row has any."""
    found = prepared.by_codec
    return found.get("raw-many") or found["jpeg"]
