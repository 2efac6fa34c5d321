"""What several ranks cost each other: the slowest one, the link, the way gradients take."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolodata.doctor.examination import Examination, Outcome
from yolodata.doctor.finding import Finding, Knob
from yolodata.doctor.ranks.environment import Place, judge_environment
from yolodata.doctor.ranks.links import Links, find_links
from yolodata.doctor.ranks.nccl_log import NcclChoice, logging_to, parse_nccl_log, read_logs
from yolodata.errors import YolodataError
from yolodata.machine import usable_cores
from yolodata.train.distributed.process_group import ProcessGroup

if TYPE_CHECKING:
    from yolodata.doctor.ranks.judge import Figures
    from yolodata.doctor.ranks.step import RankStep

LINKS = "ranks.links"
"""The name of the probe that stands for `find_links`."""
PATIENCE = 60.0
"""Seconds, beside those of the whole examination, after which a rank is given up."""


def examine(examination: Examination) -> Outcome:
    """Examines the ranks that torchrun started; of one process, its environment alone.

    Every rank calls this, and gets what all of them found.

    Raises:
        ConfigError: the model or an argument cannot be used.
        YolodataError: a rank did not come, or was lost.
    """
    links = find_links(examination.probes.get(LINKS))
    group = ProcessGroup.join()
    if group.alone:
        return _alone(examination, links)
    patience, left = examination.setup.seconds + PATIENCE, examination.left
    _meet(group, patience)
    ends = time.monotonic() + left
    examination.say("the step of each rank")
    from yolodata.doctor.ranks.step import RankStep

    step = RankStep(examination.setup, group)
    with tempfile.TemporaryDirectory(prefix="yolodata-nccl-") as folder, logging_to(Path(folder)):
        try:
            not_done = _without_checks()
            group.start(step.device, timedelta(seconds=patience))
            step.connect()
            logs = group.gather(read_logs(Path(folder)))
            choice = parse_nccl_log("\n".join(logs))
            found = _examine(examination, group, step, links, choice, ends)
            return dataclasses.replace(found, not_done=not_done)
        except RuntimeError as error:
            if isinstance(error, YolodataError):
                raise
            raise YolodataError(
                f"the ranks could not work together: {str(error).splitlines()[0]}; see that all "
                "of them run, and that the interface between them lets them connect"
            ) from error
        finally:
            step.close()
            group.stop()


def _meet(group: ProcessGroup, seconds: float) -> None:
    """Waits until all ranks have come to this section; those before may take longer on some."""
    assert group.store is not None
    ends = time.monotonic() + seconds
    group.store.set(f"doctor/{group.rank}", "here")
    for rank in range(group.size):
        while not group.store.check([f"doctor/{rank}"]):
            if time.monotonic() > ends:
                raise YolodataError(
                    f"rank {rank} of {group.size} did not come to the examination of the ranks "
                    f"within {seconds:.0f} s; look what it says, or whether it runs at all"
                )
            time.sleep(0.05)


def _without_checks() -> list[str]:
    """Turns off what TORCH_DISTRIBUTED_DEBUG=DETAIL does: torch 2.14 with gloo crashes of it."""
    from torch.distributed import (  # type: ignore[attr-defined]
        DebugLevel,
        get_debug_level,
        set_debug_level,
    )

    if get_debug_level() != DebugLevel.DETAIL:
        return []
    set_debug_level(DebugLevel.OFF)
    return [
        "TORCH_DISTRIBUTED_DEBUG=DETAIL was off for the ranks' steps; what it costs is not known"
    ]


def _alone(examination: Examination, links: Links) -> Outcome:
    asked = str(examination.setup.train.device or "").strip("[]()")
    named = [index for index in asked.split(",") if index]
    ranks = links.gpus if links.fake else len(named)
    cuda = links.gpus > 0 and (links.fake or asked != "cpu")
    place = Place(max(1, ranks), max(1, ranks), cuda, links, len(usable_cores()))
    findings = list(judge_environment(os.environ, place, None, None))
    why = (
        "one process runs; start the doctor with torchrun --nproc-per-node=N to measure how N "
        "ranks work together"
    )
    return Outcome({"ranks": 1}, findings, [why], fake=links.fake)


def _examine(
    examination: Examination,
    group: ProcessGroup,
    step: RankStep,
    links: Links,
    choice: NcclChoice,
    ends: float,
) -> Outcome:
    from yolodata.doctor.ranks.judge import judge
    from yolodata.doctor.ranks.measure import measure

    cores = len(usable_cores())
    # Starting has taken its time; what is measured in less says nothing.
    seconds = group.from_first(max(3.0, ends - time.monotonic()))
    place = Place(group.size, group.local_size, step.device.type == "cuda", links, cores)
    figures, gain = measure(group, step, links, seconds, place.fair_threads, examination.say)
    told = group.gather(list(judge_environment(os.environ, place, figures.step, gain)))
    local = [finding for ranks in told for finding in ranks]
    findings = [*judge(figures), *_once(local), *_detours(choice, group)]
    return Outcome(_plain(group, links, figures, choice), findings, fake=links.fake)


def _once(findings: Iterable[Finding]) -> list[Finding]:
    """What several ranks say of their environments, said once."""
    found: dict[str, Finding] = {}
    for finding in findings:
        found.setdefault(finding.title, finding)
    return list(found.values())


def _detours(choice: NcclChoice, group: ProcessGroup) -> Iterator[Finding]:
    """Ranks of one machine that NCCL connects through the network."""
    pairs = choice.through_network(group.ranks_here)
    # Variables that make it so are findings of their own.
    named = {"NCCL_SHM_DISABLE", "NCCL_P2P_DISABLE", "NCCL_P2P_LEVEL"} & set(os.environ)
    if group.backend != "nccl" or not pairs or named:
        return
    yield Finding(
        "nccl_environment",
        "slow",
        "NCCL sends through the network between GPUs of one machine",
        f"its log has {len(pairs)} such connections ({choice.transports}), "
        f"{'; '.join(choice.warnings) or 'without a warning'}",
        Knob(
            "Give the container shared memory (--ipc=host, or a larger --shm-size) and let the "
            "GPUs see each other, so that NCCL can use P2P or SHM",
            {},
        ),
    )


def _plain(
    group: ProcessGroup, links: Links, figures: Figures, choice: NcclChoice
) -> dict[str, Any]:
    possible = figures.possible
    return {
        "ranks": group.size,
        "ranks_here": group.local_size,
        "backend": group.backend,
        "step_ms": figures.step,
        "alone_ms": figures.own,
        "waiting_ms": figures.waiting,
        "reducing_ms": figures.reducing,
        "at_once_ms": figures.sent_at_once,
        "beside_ms": list(figures.beside),
        "buckets_bytes": list(figures.buckets),
        "gradients": figures.tensors,
        "all_reduce": figures.link.rows(group.size),
        "all_reduce_possible": possible.rows(group.size) if possible else [],
        "links": dataclasses.asdict(links),
        "nccl": choice.as_dict() if group.backend == "nccl" else None,
    }
