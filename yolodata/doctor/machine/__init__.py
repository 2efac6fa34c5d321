"""The section "machine": what this process may use, and what of it is set up badly.

README.md lists the names in `Outcome.measured`.
"""

from __future__ import annotations

from yolodata.doctor.examination import Examination, Outcome
from yolodata.doctor.machine import cores, gpu, gpu_link, gpu_state, memory, shared_memory, storage


def examine(examination: Examination) -> Outcome:
    """Examines the machine; takes a second or two where there is no GPU.

    Raises:
        ConfigError: the probe "nvml" has a form that `gpu.of_probe` does not know.
    """
    setup = examination.setup
    examination.say("cores")
    parts = [cores.examine()]
    examination.say("random reads")
    sample = storage.sample(setup, examination.left / 3)
    parts.append(storage.examine(setup, sample))
    examination.say("memory")
    queue = shared_memory.queue_of(setup, sample.images)
    parts.append(shared_memory.examine(queue))
    parts.append(memory.examine(setup, sample, queue.nbytes))
    examination.say("GPU")
    probe = examination.probes.get("nvml")
    seen = gpu.survey(setup) if probe is None else gpu.of_probe(probe)
    parts.append(gpu.examine(seen))
    parts.append(gpu_state.examine(seen, setup, parts[0].measured["numa_nodes"]))
    parts.append(cores.pinned(setup, seen.used(setup)))
    parts.append(gpu_link.examine(seen, setup))
    return Outcome(
        measured={name: value for part in parts for name, value in part.measured.items()},
        findings=[finding for part in parts for finding in part.findings],
        not_done=[line for part in parts for line in part.not_done],
        fake=seen.fake,
    )
