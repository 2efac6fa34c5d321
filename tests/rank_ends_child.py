"""Three ranks that end in one way or another, with delays where the order of events matters.

For tests/test_first_cause.py: `python rank_ends_child.py FOLDER` writes SCENARIO-RANK.txt and
SCENARIO-RANK.status there. A rank is a fork with a watchdog; sockets that close when it ends stand
for collectives.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import psutil
from torch.distributed import TCPStore

from yolodata.train.distributed import process_group
from yolodata.train.distributed.process_group import ProcessGroup
from yolodata.train.exit_codes import PEER_LOST, PeerLost, Preempted
from yolodata.train.watchdog import monitor
from yolodata.train.watchdog.supervisor import Supervisor

SIZE = 3
FOLDER = Path(sys.argv[1])


class Rank:
    """One rank of a scenario, in a process of its own."""

    def __init__(self, number: int, peers: dict[int, socket.socket]) -> None:
        self.number, self.peers = number, peers
        self.store_delay = 0.0
        self.slow_calls = ("get", "check")
        self.place = {"local_rank": number, "local_size": SIZE}
        self.supervisor: Supervisor | None = None

    def meet(self) -> None:
        """What a collective is: everyone's word is waited for; it breaks where a peer is gone."""
        try:
            for peer in self.peers.values():
                peer.send(b".")
            met = all(peer.recv(1) for peer in self.peers.values())
        except OSError:
            met = False
        if not met:
            raise RuntimeError("Connection closed by peer")

    def train(self, task: Callable[[], None]) -> int:
        """Returns the exit status."""
        rank, connect = self, ProcessGroup.connect

        class SlowStore:
            def __init__(self, store: Any) -> None:
                self.store = store

            def __getattr__(self, name: str) -> Any:
                def called(*args: Any) -> Any:
                    if name in rank.slow_calls:
                        time.sleep(rank.store_delay)
                    return getattr(self.store, name)(*args)

                return called

        ProcessGroup.connect = lambda group: SlowStore(connect(group))  # type: ignore
        group = ProcessGroup(self.number, size=SIZE, number=1, **self.place)
        group.store = group.connect()
        self.supervisor = Supervisor(group, 30.0, lambda: None)
        try:
            with self.supervisor.catch_signals():
                try:
                    with self.supervisor.supervise():
                        group.meet("begin")
                        for peer in range(SIZE):  # it has read the others' heartbeats
                            while not heartbeats(group.store, peer) > 2:
                                time.sleep(0.05)
                        self.supervisor.step("epoch 1, batch 1")
                        task()
                finally:
                    for peer in self.peers.values():
                        peer.close()
        except PeerLost as error:
            print(f"yolodata: {error}")
            return PEER_LOST
        except Preempted as stop:
            print(f"preempted: {stop.why}")
            return int(str(stop.code))
        except Exception as error:
            print(f"{type(error).__name__}: {error}")
            return 1
        except SystemExit as error:
            return int(str(error.code))
        return 0


def heartbeats(store: Any, rank: int) -> int:
    return int(json.loads(store.get(f"heartbeat/{rank}"))["number"])


def fail() -> None:
    raise ValueError("mischief")


def kill_me() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(method: str, then: Callable[[], None]) -> None:
    before = getattr(monitor.Monitor, method)

    def called(*args: Any) -> Any:
        found = before(*args)
        then()
        return found

    setattr(monitor.Monitor, method, called)


def late_write(rank: Rank) -> Callable[[], None]:
    """The store takes a second for each word of the rank that fails."""

    def task() -> None:
        rank.store_delay, rank.slow_calls = 1.0, ("set", "compare_set")
        fail()

    return task if rank.number == 1 else rank.meet


def frozen(rank: Rank) -> Callable[[], None]:
    """It is frozen between its error and its words; the launcher wakes it three seconds later."""

    def stop(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)
        before(*_)

    before = monitor.Monitor.failed
    monitor.Monitor.failed = stop  # type: ignore
    return fail if rank.number == 1 else rank.meet


def slow_readers(rank: Rank) -> Callable[[], None]:
    """The others' store takes its time, so that they see the socket close long before."""
    rank.store_delay = 0.0 if rank.number == 1 else 0.1
    return fail if rank.number == 1 else rank.meet


def dead_writer(rank: Rank) -> Callable[[], None]:
    """It is killed as soon as it has written, and the others see that before they read."""

    def task() -> None:
        assert rank.supervisor is not None
        rank.supervisor.step("its last step")
        fail()

    if rank.number == 1:
        after("_write_left", kill_me)
        return task
    is_gone, deadline = monitor._process_is_gone, time.monotonic() + 60

    def seen_dead(beat: dict[str, Any]) -> bool:
        while (
            beat["where"] == "its last step" and not is_gone(beat) and time.monotonic() < deadline
        ):
            time.sleep(0.01)
        return is_gone(beat)

    monitor._process_is_gone = seen_dead
    return rank.meet


def host(rank: Rank) -> Callable[[], None]:
    """The rank that fails has the store in its process."""
    rank.store_delay = 0.0 if rank.number == 0 else 0.1
    return fail if rank.number == 0 else rank.meet


def killed_host(rank: Rank) -> Callable[[], None]:
    """The store is gone with the rank that had it."""
    return kill_me if rank.number == 0 else rank.meet


def runtime_error(rank: Rank) -> Callable[[], None]:
    """Its error looks like that of a broken collective, and is its own."""

    def shapes() -> None:
        raise RuntimeError("shapes differ")

    return shapes if rank.number == 1 else rank.meet


def machines(rank: Rank) -> Callable[[], None]:
    """Each rank on a machine of its own: nobody sees a process end."""
    socket.gethostname = lambda: f"machine-{rank.number}"
    rank.place = {"local_rank": 0, "local_size": 1}
    return fail if rank.number == 1 else rank.meet


def launcher(rank: Rank) -> Callable[[], None]:
    """torchrun ends the others when the first process ends; they may be interrupted."""

    def wait() -> None:
        assert rank.supervisor is not None
        rank.supervisor.phase("in callbacks")
        time.sleep(30)

    return fail if rank.number == 1 else wait


def killed(rank: Rank) -> Callable[[], None]:
    """As before, and there are no last words: the neighbour is asked to stop, and knows better."""
    if rank.number != 1:
        return launcher(rank)
    return kill_me


def exits(rank: Rank) -> Callable[[], None]:
    """A callback leaves training by sys.exit."""
    return (lambda: sys.exit(3)) if rank.number == 1 else rank.meet


def preempted(rank: Rank) -> Callable[[], None]:
    """One is asked to stop, in a callback; the others wait for it and are not told yet."""

    def stop() -> None:
        assert rank.supervisor is not None
        rank.supervisor.phase("in callbacks")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)

    return stop if rank.number == 0 else rank.meet


SCENARIOS = [
    late_write, frozen, slow_readers, dead_writer, host, killed_host, runtime_error, machines,
    launcher, killed, exits, preempted,
]  # fmt: skip
HOSTED = [host, killed_host, preempted]


def join_rank_0(number: int, peers: dict[int, socket.socket]) -> int:
    """Returns the port of a store in the process of rank 0."""
    if number != 0:
        return int(peers[0].recv(8))
    process_group._server = serve()
    for peer in peers.values():
        peer.send(str(process_group._server.port).encode())
    return int(process_group._server.port)


def serve_apart() -> tuple[int, int]:
    """Returns the port of a store in a process of its own, as torchrun's is, and that process."""
    here, there = socket.socketpair()
    process = os.fork()
    if not process:
        store = serve()
        there.send(str(store.port).encode())
        signal.pause()
    there.close()
    return int(here.recv(8)), process


def serve() -> TCPStore:
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def fork(scenario: Any, number: int, pairs: dict[tuple[int, int], Any], store: int | None) -> int:
    process = os.fork()
    if process:
        return process
    peers: dict[int, socket.socket] = {}
    for ranks, pair in pairs.items():
        for mine, theirs, end in zip(ranks, reversed(ranks), pair, strict=True):
            if mine == number:
                peers[theirs] = end
            else:
                end.close()
    said = os.open(FOLDER / f"{scenario.__name__}-{number}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    status = 70
    try:
        if store is None:
            store = join_rank_0(number, peers)
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(store))
        rank = Rank(number, peers)
        status = rank.train(scenario(rank))
    finally:
        sys.stdout.flush()
        os._exit(status)


def run(scenario: Any, processes: list[int]) -> None:
    """Waits as torchrun does: when the first one has ended, the others are asked to stop."""
    left, stopped_at = dict(enumerate(processes)), 0.0
    while left:
        for number, process in list(left.items()):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                del left[number]
                code = os.waitstatus_to_exitcode(status)
                (FOLDER / f"{scenario.__name__}-{number}.status").write_text(str(code))
                if scenario in (launcher, killed):
                    for other in left.values():
                        os.kill(other, signal.SIGTERM)
            elif psutil.Process(process).status() == psutil.STATUS_STOPPED:
                stopped_at = stopped_at or time.monotonic()
                if time.monotonic() - stopped_at > 3:
                    os.kill(process, signal.SIGCONT)
        time.sleep(0.02)


def main() -> None:
    monitor.INTERVAL = 0.2
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    started = []
    store, torchrun = serve_apart()
    for scenario in SCENARIOS:
        os.environ["TORCHELASTIC_RUN_ID"] = scenario.__name__
        port = None if scenario in HOSTED else store
        pairs = {ranks: socket.socketpair() for ranks in combinations(range(SIZE), 2)}
        processes = [fork(scenario, number, pairs, port) for number in range(SIZE)]
        for end in chain.from_iterable(pairs.values()):
            end.close()
        started.append((scenario, processes))
    waiting = [threading.Thread(target=run, args=one) for one in started]
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join()
    os.kill(torchrun, signal.SIGKILL)
    os.waitpid(torchrun, 0)


if __name__ == "__main__":
    main()
