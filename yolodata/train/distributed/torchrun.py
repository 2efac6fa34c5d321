"""torchrun, in words of ours: the ranks have said what happened, and its tracebacks are its own.

python -m yolodata.train.distributed.torchrun --nproc-per-node=2 -m yolodata.train …
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
from types import FrameType

from yolodata.train.exit_codes import MISTAKE, PEER_LOST, PREEMPTED
from yolodata.train.signals import SIGNALS


def main() -> int:
    """Runs torchrun with this process's arguments.

    Returns:
        0; 128 + signal where one killed a rank, as for a process of a shell; else what torchrun
        itself would end with: 1, also where the ranks were asked to stop.
    """
    if _is_elastic(sys.argv[1:]):
        # torchrun's shared store stays where the first machine was, and is not found by those that
        # join later: ranks get one that rank 0 of each start serves.
        os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    for number in SIGNALS:  # until torchrun has handlers of its own
        signal.signal(number, _stop)
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):  # each has a level of its own
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        run.main(sys.argv[1:])
    except SignalException:
        return 1
    except ChildFailedError as error:
        status = 1
        for rank, failure in sorted(error.failures.items()):
            if failure.exitcode not in (MISTAKE, PREEMPTED, PEER_LOST, -signal.SIGTERM):
                how = f"with exit status {failure.exitcode}"
                if failure.exitcode < 0:
                    how = f"by {signal.Signals(-failure.exitcode).name}"
                    status = 128 - failure.exitcode
                print(f"yolodata: rank {rank} (process {failure.pid}) ended {how}", file=sys.stderr)
        return status
    return 0


def _is_elastic(arguments: list[str]) -> bool:
    """Whether machines may come and go: torchrun is given a least and a largest number of them."""
    nodes = re.findall(r"--nnodes[= ](\S+)", " ".join(arguments))
    return ":" in (nodes[-1] if nodes else os.environ.get("PET_NNODES", ""))


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main())
