"""What the ranks of tests/test_train_ranks.py do: several runs, one after the other.

It is the callbacks file of a run of the command line, `yolodata train … device=cpu nproc=2`. When
it is read, the other runs are made; it then has the callbacks of that one, where a rank is frozen.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
import train_notes
import ultralytics.engine.trainer
from training import arguments, first_update, train

from yolodata.errors import YolodataError
from yolodata.train import trainer_for
from yolodata.train.distributed.process_group import ProcessGroup
from yolodata.train.exit_codes import (
    PEER_LOST,
    PREEMPTED,
    STATUS,
    PeerLost,
    Preempted,
)
from yolodata.train.watchdog import heartbeat

sys.modules["albumentations"] = None  # type: ignore[assignment] # as tests/conftest.py does
torch.set_num_threads(1)
folder = Path(os.environ["NOTES"])
rank = int(os.environ["RANK"])
noting = {name: value for name, value in vars(train_notes).items() if name.startswith("on_")}
on_train_start, on_train_batch_end = train_notes.on_train_start, train_notes.on_train_batch_end


def begin(name: str, mischief: str = "") -> None:
    train_notes.NOTES = folder / name
    train_notes.NOTES.mkdir(exist_ok=True)
    train_notes.reduced = 0
    os.environ["MISCHIEF"] = mischief or "-1:0:0:none"


def run(
    name: str, mischief: str = "", ours: dict[str, Any] | None = None, **changed: object
) -> Any:
    begin(name, mischief)
    trainer = trainer_for("detect").configure(**(ours or {}))
    values = {"epochs": 4, "multi_scale": 0.0, "val": False, **changed}
    return train(trainer, arguments(folder, name, **values), noting)


STALL, LONG = 7.0, 3.0
ALONE = 12.0  # seconds; longer than `STALL`, shorter than `LONG` times as much


def work_alone(trainer: Any) -> None:
    """Once, rank 0 is long in a callback, while rank 1 waits for it."""
    if rank == 0 and trainer.epoch == 0:
        time.sleep(ALONE)
        (train_notes.NOTES / "worked").touch()
    train_notes.on_train_epoch_end(trainer)


def let_a_child_work(trainer: Any) -> None:
    """Once, a child of rank 1 works, while all others wait for it."""
    if rank == 1 and trainer.epoch == 0:
        subprocess.run(["sleep", str(ALONE)], check=True)
        (train_notes.NOTES / "waited").touch()


def free_ports() -> list[str]:
    """A port for the store of each run that is made apart, on both ranks the same."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("localhost", 0))) for _ in LOST]
        ports = [str(each.getsockname()[1]) for each in sockets]
    return list(ProcessGroup.join().share("ports", ports))


def apart(name: str, mischief: str, port: str) -> int:
    """A run in a fork of each rank, which may be lost; returns its process."""
    process = os.fork()
    if process:
        return process
    os.environ.update(MASTER_PORT=port, TORCHELASTIC_USE_AGENT_STORE="False")
    os.environ.pop(STATUS)  # the launcher is told by its own run alone
    said = os.open(folder / f"{name}-{rank}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    status = 1
    try:
        if name in SHORT:  # too few steps to tell how long one takes
            heartbeat.LONG = LONG
            if name == "busy":
                noting.update(on_train_epoch_end=work_alone, on_fit_epoch_end=let_a_child_work)
            validates = name in ("validating", "asked")
            run(name, mischief, {"stall": STALL}, batch=16, val=validates)
        else:
            run(name, mischief, {"stall": 10.0, "checkpoint_minutes": 1e-9})
        status = 0
    except PeerLost as error:
        print(error)
        status = PEER_LOST
    except Preempted:
        status = PREEMPTED
    finally:
        os._exit(status)


os.environ["FREEZE_BN"] = "1"
SHORT = {
    "beginning": "1:0:0:on_train_batch_start",
    "validating": "1:0:0:on_val_batch_start",
    "busy": "1:1:1:on_train_epoch_end",
    "asked": "1:0:2:SIGTERM@on_val_batch_start",
}
LOST = {
    "killed": "0:1:5:kill",
    "hanging": "1:0:6:on_train_batch_start",
    "failing": "1:0:1:raise",
    **SHORT,
}
# Before all else, because autograd's threads do not survive a fork. They go on beside the rest.
forks = [apart(name, LOST[name], port) for name, port in zip(LOST, free_ports(), strict=True)]


def note_end(name: str, process: int) -> None:
    """Waits for a fork, and writes how and when it ended."""
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    (folder / f"{name}-{rank}.ended").write_text(str(time.time()))
    (folder / f"{name}-{rank}.status").write_text(str(status))


noters = [threading.Thread(target=note_end, args=fork) for fork in zip(LOST, forks, strict=True)]
for noter in noters:
    noter.start()
LATE = 0.25  # seconds that rank 1 is late in the steps of the last epoch


def late(trainer: Any) -> None:
    train_notes.on_train_batch_start(trainer)
    if rank == 1 and trainer.epoch == 3:
        time.sleep(LATE)


noting["on_train_batch_start"] = late
run("two", val=True)
noting["on_train_batch_start"] = train_notes.on_train_batch_start

# One update from four batches of two ranks.
first_update(folder, "parts", batch=4)

# A static graph, as with compile=True, after a dry step.
ultralytics.engine.trainer.attempt_compile = lambda model, **_: model
done = run("dry", ours={"dry_step": True}, compile=True, nbs=4, epochs=1)
weights = [weight.detach().double().sum().item() for weight in done.model.parameters()]
(folder / f"dry-{rank}").write_text(str(weights))

# One rank is asked to stop, in the middle of an epoch; both go on.
try:
    run("stopped", "1:1:3:SIGTERM", resume="auto")
except Preempted as stop:
    (folder / f"stopped-{rank}").write_text(f"{stop.code}")
if rank == 0:
    shutil.copytree(folder / "runs" / "stopped", folder / "runs" / "halved")
run("stopped", resume="auto")

# Ranks that do not see the same data.
try:
    run("unequal", fraction=1.0 if rank == 0 else 0.5)
except YolodataError as error:
    (folder / f"unequal-{rank}").write_text(str(error))

for noter in noters:
    noter.join()

# In the run of the command line a rank is frozen: nobody is left.
begin("frozen", "1:1:4:freeze")
