"""The processes that train together: who is who, by torchrun's environment, and how they agree.

A *rank* is one of these processes. Their *store* is torchrun's: keys and values on one machine.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from yolodata.errors import ConfigError, YolodataError
from yolodata.train.exit_codes import PeerLost

if TYPE_CHECKING:
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import Store

log = logging.getLogger("yolodata")

_NUMBER = re.compile("[0-9]{1,9}")
_joined = 0  # how often this process has joined: a script may train several times
_server: Any = None
_starts: dict[str, str] = {}  # address of a store: what this start of the ranks is called there

TOGETHER = 600.0
"""Seconds in which ranks that start together find each other: all have to import torch."""

TIMEOUT = timedelta(hours=12)
"""Of collectives. The watchdog finds a lost rank in seconds; this is no limit of its own."""


@dataclass
class ProcessGroup:
    """This process's place among those that train together; alone without torchrun.

    The store carries what has to be agreed before the ranks are connected, and whatever may take
    long: waiting there has no time limit, and the watchdog sees who dies meanwhile.

    Attributes:
        rank: number of this process, from 0.
        local_rank: its number on this machine.
        size: processes in all.
        local_size: processes on this machine.
        store: of torchrun; None for a process that trains alone.
        backend: of the group that gradients travel in ("nccl", "gloo"); empty until `start`.
        control: a gloo group for what is agreed, also beside NCCL: no GPU waits for it.
        number: how many times this process has joined.
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1
    local_size: int = 1
    store: Store | None = None
    backend: str = ""
    control: dist.ProcessGroup | None = None
    number: int = 0
    _asked: dict[str, int] = field(default_factory=dict)

    @classmethod
    def join(cls) -> ProcessGroup:
        """Returns the place that the environment gives this process; one process needs no group.

        Raises:
            ConfigError: the environment is that of a launcher, but incomplete.
        """
        size = int(os.environ.get("WORLD_SIZE", 1))
        return cls() if size <= 1 else cls.of_launcher(size)

    @classmethod
    def of_launcher(cls, size: int) -> ProcessGroup:
        """Returns the place among `size` processes that torchrun started; one may be a group, too.

        Raises:
            ConfigError: the environment is that of a launcher, but incomplete or wrong.
            PeerLost: nobody serves torchrun's store.
        """
        global _joined
        names = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        missing = [name for name in names if name not in os.environ]
        if missing:
            raise ConfigError(
                f"with WORLD_SIZE={size}, which asks for training with several processes, "
                f"{', '.join(missing)} must be set, got none; start them with torchrun"
            )
        told = {name: os.environ[name] for name in names if name != "MASTER_ADDR"}
        numbers = [int(text) if _NUMBER.fullmatch(text) else -1 for text in told.values()]
        rank, local, local_size, port = numbers
        if not (0 <= rank < size and 0 <= local < local_size <= size and 0 < port < 1 << 16):
            raise ConfigError(
                f"with WORLD_SIZE={size}, RANK must be below it, LOCAL_RANK below "
                "LOCAL_WORLD_SIZE, and MASTER_PORT 1 to 65535, got "
                f"{', '.join(f'{name}={text!r}' for name, text in told.items())}; start the "
                "processes with torchrun"
            )
        _joined += 1
        world = cls(rank, local, size, local_size, number=_joined)
        world.store = world.connect()
        return world

    @property
    def alone(self) -> bool:
        """Whether one process trains, and in no group."""
        return self.size == 1 and self.store is None

    @property
    def ranks_here(self) -> range:
        """The ranks of this machine; launchers number them in a row."""
        first = self.rank - self.local_rank
        return range(first, first + self.local_size)

    @property
    def serves_store(self) -> bool:
        """Whether the store is in this process, and ends with it."""
        return _server is not None

    def connect(self) -> Store:
        """Connects to the store; a thread that waits on a connection blocks its other users.

        Raises:
            YolodataError: this rank cannot serve the store, or the ranks did not find each other.
            PeerLost: nobody serves the store.
        """
        from torch.distributed import TCPStore  # type: ignore[attr-defined]
        from torch.distributed.distributed_c10d import PrefixStore

        global _server
        agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        run = os.environ.get("TORCHELASTIC_RUN_ID", "run")
        serves = not agent and self.rank == 0 and _server is None
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        try:
            tcp = TCPStore(
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                is_master=serves,
                wait_for_workers=False,
                timeout=timedelta(seconds=60),
            )
        except (RuntimeError, ValueError) as error:
            why = str(error).partition("\n")[0].rstrip(".")
            if serves:
                raise YolodataError(
                    f"the ranks' store cannot be served at {where} ({why}); see whether another "
                    "training listens there, or name a free MASTER_PORT of this machine"
                ) from error
            said = (
                f"it does not reach the ranks' store at {where} ({why}); look for what rank 0 says"
            )
            raise PeerLost(self.rank, said) from error
        if serves:
            _server = tcp
        if where not in _starts:
            _starts[where] = self._name_start(PrefixStore(f"yolodata/{run}/starts", tcp))
        return PrefixStore(f"yolodata/{run}/{_starts[where]}/{self.number}", tcp)

    def _name_start(self, store: Store) -> str:
        """Returns what this start of the ranks is called: the same on all, and as none before it.

        torchrun's store may outlive the ranks, with all that earlier ones wrote. Its environment
        does not tell starts apart: TORCHELASTIC_RESTART_COUNT is of each machine, and one that
        joined later has counted fewer. So each rank takes a number that nobody had, and rank 0
        answers under all of them with its own.

        Raises:
            YolodataError: the ranks did not find each other.
        """
        number = store.add("processes", 1)
        end = time.monotonic() + TOGETHER
        answered = 0
        while True:
            if self.rank != 0:
                if store.check([f"start of {number}"]):
                    name = store.get(f"start of {number}").decode()
                    store.add(f"{name} is known to", 1)
                    return str(name)
            elif store.add(f"{number} is known to", 0) == self.size - 1:
                return str(number)
            else:
                for other in range(answered + 1, store.add("processes", 0) + 1):
                    store.set(f"start of {other}", str(number))
                    answered = other
            if time.monotonic() > end:
                raise YolodataError(self._nobody())
            time.sleep(0.02)

    def _nobody(self) -> str:
        """What is said where ranks do not find each other."""
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        said = (
            f"rank {self.rank} of {self.size} did not find "
            f"{'rank 0' if self.rank else 'all other ranks'} within {TOGETHER:.0f} s at torchrun's "
            f"store {where}"
        )
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            return f"{said}; look for what the others say"
        return (
            f"{said}; look for what the others say; where machines came or went, torchrun may have "
            "told ranks another store: start it with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the "
            "environment of every machine"
        )

    def device(self, asked: Any) -> Any:
        """Returns what Ultralytics' `device=` has to be for this process.

        Args:
            asked: the user's `device=`, for all processes of this machine.

        Raises:
            ConfigError: there are fewer devices than processes, or others than those named.
        """
        if self.alone:
            return asked
        import torch

        named = str("" if asked is None else asked).lower()
        named = named.strip("[]()").replace(" ", "").replace("cuda:", "")
        if named == "cpu" or not (named or torch.cuda.is_available()):
            return "cpu"
        if not torch.cuda.is_available():
            raise ConfigError(no_such_gpu(asked))
        indices = [index for index in named.split(",") if index]
        if not indices:
            indices = [str(index) for index in range(torch.cuda.device_count())]
        if len(indices) < self.local_size:
            raise ConfigError(
                f"{self.local_size} processes run on this machine, but there are "
                f"{len(indices)} devices (device={asked}); start as many processes as devices "
                "with --nproc-per-node, or name more devices"
            )
        return indices[self.local_rank]

    def start(self, device: torch.device, timeout: timedelta = TIMEOUT) -> None:
        """Connects the ranks (see `backend_of`), and a second time with gloo for what is agreed.

        Args:
            device: that this rank trains on.
            timeout: of every collective.

        Raises:
            ConfigError: some ranks are on GPUs, and some on CPUs.
        """
        import torch.distributed as dist
        from torch.distributed.distributed_c10d import PrefixStore

        if self.alone or self.control is not None:
            return
        assert self.store is not None
        self.backend = backend_of(self._everyones("place", [_machine(), _name_of(device)]))
        if device.type == "cuda" and self.backend == "gloo" and self.rank == 0:
            log.warning(
                "several processes share a GPU, which NCCL refuses: gloo connects them, through "
                "host memory. This is for trying things out, not for speed"
            )
        dist.init_process_group(
            self.backend,
            store=PrefixStore("group", self.store),
            rank=self.rank,
            world_size=self.size,
            timeout=timeout,
            device_id=device if self.backend == "nccl" else None,
        )
        group = dist.new_group(backend="gloo", timeout=timeout)
        assert not isinstance(group, int)  # what ranks outside the group get
        self.control = group

    def stop(self) -> None:
        """Disconnects the ranks."""
        import torch.distributed as dist

        if self.control is not None:
            self.control = None
            dist.destroy_process_group()

    # Through the store: slow, patient.

    def _key(self, name: str) -> str:
        """A name for the n-th time that this is asked for, on every rank the same."""
        self._asked[name] = self._asked.get(name, 0) + 1
        return f"{name}/{self._asked[name]}"

    def _wait(self, key: str) -> bytes:
        assert self.store is not None
        while not self.store.check([key]):
            time.sleep(0.1)
        return bytes(self.store.get(key))

    def share(self, name: str, value: Any) -> Any:
        """Returns rank 0's value, on every rank; JSON."""
        if self.alone:
            return value
        assert self.store is not None
        key = self._key(f"share/{name}")
        if self.rank == 0:
            self.store.set(key, json.dumps(value))
        return json.loads(self._wait(key))

    def _everyones(self, name: str, value: Any) -> list[Any]:
        """Returns what every rank gives, in their order, on every rank; JSON."""
        assert self.store is not None
        key = self._key(f"everyones/{name}")
        self.store.set(f"{key}/{self.rank}", json.dumps(value))
        return [json.loads(self._wait(f"{key}/{rank}")) for rank in range(self.size)]

    @contextmanager
    def first_of_machine(self, name: str) -> Iterator[None]:
        """Lets one process of each machine go first, however long it takes; then the others."""
        if self.alone:
            yield
            return
        assert self.store is not None
        key = self._key(f"first/{name}/{_machine()}")
        if self.local_rank != 0:
            self._wait(key)
        yield
        if self.local_rank == 0:
            self.store.set(key, "done")

    def meet(self, name: str) -> None:
        """Waits until every rank is here."""
        if self.alone:
            return
        assert self.store is not None
        key = self._key(f"meet/{name}")
        if self.store.add(key, 1) == self.size:
            self.store.set(f"{key}/all", "here")
        self._wait(f"{key}/all")

    # Through the control group: quick, in step.

    def largest(self, values: list[int]) -> list[int]:
        """Returns the largest of what the ranks give, element by element."""
        if self.alone:
            return values
        import torch
        import torch.distributed as dist

        tensor = torch.tensor(values, dtype=torch.int64)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self.control)
        return [int(value) for value in tensor]

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Returns the sum of what the ranks give, element by element; in host memory."""
        if self.alone:
            return values
        import torch.distributed as dist

        added = values.clone()
        dist.all_reduce(added, group=self.control)
        return added

    def gather(self, value: Any) -> list[Any]:
        """Returns what every rank gives, in their order, on every rank."""
        if self.alone:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def from_first(self, value: Any) -> Any:
        """Returns what rank 0 gives, on every rank."""
        if self.alone:
            return value
        import torch.distributed as dist

        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.control)
        return values[0]


def no_such_gpu(asked: Any) -> str:
    """Returns what is said of a `device=` that names GPUs which are not there."""
    import torch

    return (
        f"device={asked} names GPUs that torch does not find: torch.cuda.device_count() is "
        f"{torch.cuda.device_count()}, CUDA_VISIBLE_DEVICES is "
        f"{os.environ.get('CUDA_VISIBLE_DEVICES')}; give device=cpu, or GPUs that are there"
    )


def share_cores(processes: int) -> None:
    """Gives torch's threads in this process their share of the machine's cores.

    Upstream gives them all cores, in each process.

    Args:
        processes: that train on this machine.
    """
    import torch

    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))


def backend_of(places: list[list[str]]) -> str:
    """Returns what connects the ranks: "nccl" where each has a GPU of its own, else "gloo".

    Args:
        places: of each rank, its machine and its device.

    Raises:
        ConfigError: some ranks are on GPUs, and some on CPUs.
    """
    on_cpu = [rank for rank, (_, device) in enumerate(places) if device == "cpu"]
    if not on_cpu:
        apart = {(machine, device) for machine, device in places}
        return "nccl" if len(apart) == len(places) else "gloo"
    if len(on_cpu) < len(places):
        raise ConfigError(
            "all processes train on GPUs, or all on CPUs, but "
            f"{', '.join(f'rank {rank}' for rank in on_cpu)} of {len(places)} would train on a "
            "CPU; give device=cpu to all, or look why torch finds no GPU there"
        )
    return "gloo"


def _machine() -> str:
    return os.environ.get("GROUP_RANK", socket.gethostname())


def _name_of(device: torch.device) -> str:
    """Of a GPU its own name: "cuda:0" is another one in a process that sees others."""
    if device.type != "cuda":
        return device.type
    import torch

    return str(getattr(torch.cuda.get_device_properties(device), "uuid", device))
