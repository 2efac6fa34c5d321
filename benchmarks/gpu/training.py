"""`yolodata train` on a GPU: what has to be right there, and cannot be seen on a CPU.

    python benchmarks/gpu/training.py resume FOLDER [--device cuda] [--amp True|bf16|False]
    python benchmarks/gpu/training.py ddp FOLDER [--device cuda]
    python benchmarks/gpu/training.py oom FOLDER [--device cuda]

`resume`: a run is asked to stop by SIGTERM and goes on; it ends with the weights of one that ran
through. `ddp`: one process whose gradients travel by NCCL, and two on the one card, connected by
gloo, lose what one process without any of it loses, and hold the same weights. `oom`: where memory
ends in a step, the batch is halved and the run ends well.

yolodata connects no process that is alone: `ddp` has it done all the same, by replacing
`ProcessGroup.join`. Two processes that share a card are connected by gloo, which yolodata chooses
itself.

This file is also the callbacks file of its runs (`yolodata.callbacks`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
NOTES, TRAINING = "YOLODATA_VISIT_NOTES", "YOLODATA_VISIT_TRAINING"
LIMIT = 150  # seconds of a run
TOLERANCE = 1e-3  # of losses, relative
RANK = int(os.environ.get("RANK", 0))


def say(text: str) -> None:
    """What `visit.sh` shows."""
    print(f"training: {text}", flush=True)


# ---- callbacks of the runs

if __name__ != "__main__" and NOTES in os.environ:  # half precision's check would download weights
    import ultralytics.engine.trainer

    ultralytics.engine.trainer.check_amp = lambda model: True


def on_train_start(trainer: Any) -> None:
    """Freezes batch norm (each rank's own, so that ranks would differ)."""
    if os.environ.get(TRAINING) == "ddp":
        from torch import nn

        model_train = trainer._model_train

        def frozen() -> None:
            model_train()
            for module in trainer.model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

        trainer._model_train = frozen


def on_train_batch_end(trainer: Any) -> None:
    """Notes the loss; and takes memory away after the first batch."""
    with (Path(os.environ[NOTES]) / f"{RANK}.jsonl").open("a") as file:
        losses = {name: float(value) for name, value in trainer.loss_items.items()}
        file.write(json.dumps({"batch": trainer.batch_size, "loss": losses}) + "\n")
    if os.environ.get(TRAINING) == "oom" and trainer.at.step == 1 and not trainer.loop.halved:
        take_memory(trainer)


def on_train_epoch_end(trainer: Any) -> None:
    """Keeps the weights, of every rank."""
    import torch
    from ultralytics.utils.torch_utils import unwrap_model

    state = {k: v.cpu() for k, v in unwrap_model(trainer.model).state_dict().items()}
    torch.save(state, Path(os.environ[NOTES]) / f"{RANK}.pt")


def take_memory(trainer: Any) -> None:
    """Leaves so little that a step of this batch no longer fits, and one of its half does."""
    import torch

    if trainer.device.type != "cuda":  # there it can only be said
        preprocess = trainer.preprocess_batch

        def fail(batch: Any) -> None:
            trainer.preprocess_batch = preprocess
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")

        trainer.preprocess_batch = fail
        return
    peak = torch.cuda.max_memory_allocated()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.8 * peak / total)
    say(f"a step took {peak / 2**30:.2f} GiB; 0.8 of it are left")


# ---- ranks


def be_rank(how: str, arguments: list[str]) -> int:
    """What torchrun starts: `yolodata train` with these arguments, that says what connects it."""
    import torch.distributed as dist

    from yolodata.cli import main as yolodata
    from yolodata.train.distributed.process_group import ProcessGroup

    if how == "alone":  # one process that does all that several do
        ProcessGroup.join = classmethod(lambda kind: kind.of_launcher(1))
    connect = dist.init_process_group

    def tell(backend: str, **values: Any) -> None:
        connect(backend, **values)
        say(f"rank {RANK} of {dist.get_world_size()}, by {dist.get_backend()}")

    dist.init_process_group = tell
    return yolodata(["train", *arguments])


# ---- runs


class Run:
    """A run of `yolodata train` in processes of its own, with a log.

    Args:
        folder: of all runs.
        name: of this one.
        how: what is started before the arguments of `yolodata train`.
        what: of the three kinds of this file.
        arguments: of `yolodata train`, beside the usual ones.
    """

    def __init__(
        self, folder: Path, name: str, what: str, arguments: list[str], how: list[str] | None = None
    ) -> None:
        self.name, self.notes = name, folder / "notes" / name
        self.notes.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"{name}-{len(list(folder.glob('*.log')))}.log"
        self._began = time.perf_counter()
        start = how or [sys.executable, "-m", "yolodata", "train"]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [*start, *arguments, f"name={name}"],
                stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, NOTES: str(self.notes), TRAINING: what},
            )  # fmt: skip

    def text(self) -> str:
        """What it has said so far."""
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str) -> bool:
        """Whether the log has it before the run ends or takes too long."""
        while self.process.poll() is None and time.perf_counter() - self._began < LIMIT:
            if text in self.text():
                return True
            time.sleep(0.05)
        return text in self.text()

    def end(self) -> int:
        """The exit status; says it, with the end of the log if it is unusual."""
        try:
            code = self.process.wait(max(1.0, LIMIT - (time.perf_counter() - self._began)))
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            code = self.process.wait()
        say(f"{self.log.stem}: status {code} after {time.perf_counter() - self._began:.1f} s")
        if code not in (0, 75):
            print(self.text()[-3000:], flush=True)
        return code

    def losses(self, rank: int = 0) -> list[dict[str, float]]:
        """Of each batch of a rank, by name."""
        file = self.notes / f"{rank}.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line)["loss"] for line in lines]


def arguments_of(args: argparse.Namespace, **changed: Any) -> list[str]:
    """Of `yolodata train`, on drawn pictures."""
    from yolodata.bench import drawing

    folder: Path = args.folder
    shutil.rmtree(folder, ignore_errors=True)
    small = args.device == "cpu"
    drawing.write(folder / "set", 8 if small else 64, 0, 2)
    values = {
        "model": "yolo26n.yaml", "data": folder / "set" / "data.yaml", "epochs": 2,
        "imgsz": 64 if small else 320, "batch": 4 if small else 16, "nbs": 16,
        "device": "cpu" if small else 0, "amp": False, "plots": False, "val": False,
        "project": folder, "workers": 4, "yolodata.callbacks": HERE,
    }  # fmt: skip
    return [f"{name}={value}" for name, value in {**values, **changed}.items()]


def apart(one: Any, other: Any) -> float:
    """Largest difference of two sets of weights."""
    return max(float((one[k].float() - other[k].float()).abs().max()) for k in one)


def resume(args: argparse.Namespace) -> bool:
    """SIGTERM and going on give the weights of a run that was left alone."""
    import torch

    amp = False if args.device == "cpu" else args.amp
    common = arguments_of(args, amp=amp)
    whole = Run(args.folder, "whole", "resume", common)
    whole.wait_for("1/2")  # it has packed the pictures
    cut = Run(args.folder, "cut", "resume", common)
    if cut.wait_for("1/2"):
        time.sleep(0.3)
        cut.process.send_signal(signal.SIGTERM)
    asked = time.perf_counter()
    codes = [cut.end()]
    say(f"it ended {time.perf_counter() - asked:.1f} s after SIGTERM")
    codes += [Run(args.folder, "cut", "resume", [*common, "resume=auto"]).end(), whole.end()]
    if codes != [75, 0, 0]:
        return False
    a, b = (torch.load(run.notes / "0.pt", weights_only=True) for run in (whole, cut))
    finite = all(bool(v.float().isfinite().all()) for v in b.values())
    other = sum(x != y for x, y in zip(whole.losses(), cut.losses(), strict=False))
    say(
        f"amp={amp}: largest difference of a weight to the run that was left alone: "
        f"{apart(a, b):.3g}; all finite: {finite}; of losses of {len(whole.losses())} batches, "
        f"{other} differ"
    )
    return finite


def ddp(args: argparse.Namespace) -> bool:
    """Ranks lose what one process loses, and hold the same weights."""
    import torch

    common = arguments_of(args, optimizer="SGD", multi_scale=0.0, warmup_epochs=0)
    # The last value of an argument counts.
    two = common if args.device == "cpu" else [*common, "device=0,0"]
    plain = Run(args.folder, "plain", "ddp", common)
    plain.wait_for("1/2")  # it has packed the pictures

    def ranks(name: str, count: int, arguments: list[str]) -> Run:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        start += [f"--nproc-per-node={count}", str(HERE), "rank", name]
        return Run(args.folder, name, "ddp", arguments, start)

    nccl, both = ranks("alone", 1, common), ranks("two", 2, two)
    good = [run.end() for run in (plain, nccl, both)] == [0, 0, 0]
    for line in [*nccl.text().splitlines(), *both.text().splitlines()]:
        if line.startswith("training: rank"):
            print(line, flush=True)
    want = plain.losses()
    for name, found in (("one process", [nccl.losses()]),
                        ("two ranks", [both.losses(0), both.losses(1)])):  # fmt: skip
        counts = [len(losses) for losses in found]
        if not want or set(counts) != {len(want)}:
            say(f"{name}: {counts} batches of {len(want)}")
            good = False
            continue
        worst = max(
            abs(sum(losses[i][key] for losses in found) / len(found) - loss) / max(abs(loss), 1e-3)
            for i, step in enumerate(want)
            for key, loss in step.items()
        )
        good &= worst <= TOLERANCE
        say(
            f"{name}: losses of {len(want)} batches differ from those of a process without ranks "
            f"by {worst:.2g} at most (allowed: {TOLERANCE:g})"
        )
    saved = [plain.notes / "0.pt", nccl.notes / "0.pt", both.notes / "0.pt", both.notes / "1.pt"]
    if not all(file.exists() for file in saved):
        return False
    alone, by_nccl, first, second = (torch.load(file, weights_only=True) for file in saved)
    between = apart(first, second)
    say(
        f"largest difference of a weight: between the two ranks {between:.3g}; to the process "
        f"without ranks {apart(alone, first):.3g}, of one process with ranks' ways "
        f"{apart(alone, by_nccl):.3g}"
    )
    return good and between == 0.0


def oom(args: argparse.Namespace) -> bool:
    """Where memory ends, the batch is halved and the run ends well."""
    run = Run(
        args.folder, "oom", "oom",
        arguments_of(args, epochs=1, amp=args.device != "cpu", **{"yolodata.dry_step": False}),
    )  # fmt: skip
    code = run.end()
    halved = "yolodata: memory does not suffice"
    said = [line[line.index(halved) :] for line in run.text().splitlines() if halved in line]
    said += [line for line in run.text().splitlines() if line.startswith("training:")]
    print("\n".join(said) or "training: the batch was never halved", flush=True)
    return code == 0 and any("going on with batch" in line for line in said)


WAYS = {"resume": resume, "ddp": ddp, "oom": oom}


def main(argv: list[str]) -> int:
    """1 if something is not as it has to be."""
    if argv[:1] == ["rank"]:
        return be_rank(argv[1], argv[2:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=sorted(WAYS))
    parser.add_argument("folder", type=Path, help="for the runs; emptied first")
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--amp", default="True", choices=("True", "False", "bf16"))
    args = parser.parse_args(argv)
    args.folder = args.folder.resolve()
    if args.what == "ddp":  # otherwise batches of 8 and of 16 are not rounded alike
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    good = WAYS[args.what](args)
    say(f"{args.what}: {'as it has to be' if good else 'NOT AS IT HAS TO BE'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
