"""The batch script that Slurm runs on the first node: each of its parts, and why it is so.

Note [who gets the signal]. `--signal=B:USR1@lead` goes to the script alone. It knows from then on
that the time limit is near, and has srun pass the signal to the agents. Without `B:` it would go to
the steps, and be lost while there is none (setup, rendezvous). On `scancel`, preemption and requeue
Slurm sends SIGTERM to steps and script at once. The script has to outlive it: what is left of a
step ends with the script.

Note [who requeues]. What Slurm ends, Slurm requeues if it is to be. The script must not: a job that
was cancelled would come back for ever. Only where the job still runs as far as Slurm knows, the
script asks for a requeue, by the agents' exit status.
"""

from __future__ import annotations

import shlex

from yolodata import __version__
from yolodata.launch.job import Job
from yolodata.launch.slurm_options import SlurmOptions
from yolodata.train.exit_codes import MISTAKE, PEER_LOST, PREEMPTED

_START = """
if [ -z "$SLURM_JOB_ID" ]; then
    echo "yolodata: only Slurm can run this script; give it to sbatch" >&2
    exit @MISTAKE@
elif [ "$SLURM_JOB_NUM_NODES" != @NODES@ ]; then
    echo "yolodata: the job has $SLURM_JOB_NUM_NODES nodes, and this script is for @NODES@;" \\
        "write one with nodes=$SLURM_JOB_NUM_NODES" >&2
    exit @MISTAKE@
fi
# sbatch inherits what the shell of another job has; srun would take these for the job's own.
unset "${!SLURM_CPU_BIND@}" "${!SLURM_MEM_BIND@}" "${!SLURM_GPUS@}" "${!SLURM_TRES_PER_@}" \\
    "${!SLURM_NTASKS_PER_@}" SLURM_CPUS_PER_GPU@CPUS@
"""

_SIGNALS = """
asked=0 step='' woken=0
asked_to_stop() {
    asked=1 woken=1
    echo "yolodata: SIGUSR1 (the time limit is near, say): training is asked to stop" >&2
    [ -z "$step" ] || kill -USR1 "$step" 2>/dev/null
}
trap asked_to_stop USR1
# Without a trap bash would end, and the step with it.
trap 'woken=1; echo "yolodata: Slurm ends this job" >&2' TERM
"""

_REQUEUE = """
requeue() {  # nothing that Slurm ends itself: a cancelled job would come back
    local state
    for _ in 1 2 3 4 5; do  # Slurm's controller may be away for a moment
        state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T) && break
        sleep 5
    done
    if [ "$state" != RUNNING ]; then
        echo "yolodata: the job is ${state:-unknown} to Slurm, and not requeued from here" >&2
    elif scontrol requeue "$SLURM_JOB_ID"; then
        echo "yolodata: the job is requeued and resumes" >&2
    else
        echo "yolodata: Slurm did not requeue the job; submit it again, and it resumes" >&2
    fi
}
"""

_FINISH = """
finish() {  # ends the script with an exit status of training
    local status=$1 losses
    trap '' USR1 TERM  # a requeue ends this script, too
    case $status in 138 | 143) status=@PREEMPTED@ ;; esac  # SIGUSR1, SIGTERM: nothing had begun
    if [ "$asked" = 1 ] && [ "$status" != 0 ] && [ "$status" != @MISTAKE@ ]; then
        status=@PREEMPTED@  # whatever it was that kept the ranks from saying so
    elif [ "$status" = @PEER_LOST@ ] && grep -qs '^\\[@MISTAKE@,' "$logs"/node*/status; then
        status=@MISTAKE@  # the process that was lost had refused to train
    fi
    case $status in
    0) echo "yolodata: training is finished" >&2 ;;
    @MISTAKE@) echo "yolodata: a mistake that would be repeated; see above, and $logs" >&2 ;;
    @PREEMPTED@)
        echo "yolodata: training has stopped, its state is on disk" >&2
        rm -f "$job/losses"
        @REQUEUE@
        ;;
    @PEER_LOST@)
        losses=$(grep -Esxm1 '[1-9][0-9]{0,8}' "$job/losses" || echo 0)
        [ "$SECONDS" -lt 3600 ] || losses=0  # only those in a row count
        losses=$((losses + 1))
        mkdir -p "$job" && echo "$losses" > "$job/losses"
        echo "yolodata: a process or a node was lost ($losses in a row)" >&2
        if [ "$losses" -gt @RETRIES@ ]; then
            echo "yolodata: that is too often; see $logs" >&2
        else
            @REQUEUE@
        fi
        ;;
    *) echo "yolodata: training failed with exit status $status; see above, and $logs" >&2 ;;
    esac
    exit "$status"
}
"""


def script(job: Job) -> str:
    """Returns the batch script of a job."""
    options = job.options
    assert isinstance(options, SlurmOptions)
    parts = [
        "#!/bin/bash",
        _comment(f"Written by yolodata {__version__}: yolodata launch {shlex.join(job.given)}"),
        *(f"#SBATCH {line}" for line in directives(options)),
        _start(options),
        _SIGNALS,
        *_variables(options),
        *([_REQUEUE] if options.recovery.requeue else []),
        _finish(options),
        *_setup(options),
        *_rendezvous(options),
        *_training(options, job.arguments),
    ]
    return "\n".join(parts) + "\n"


def _start(options: SlurmOptions) -> str:
    return _replaced(
        _START,
        MISTAKE=MISTAKE,
        NODES=options.common.nodes,
        CPUS=" SLURM_CPUS_PER_TASK" if options.common.cpus is None else "",
    )


def _replaced(text: str, **values: object) -> str:
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    return text


def _comment(text: str) -> str:
    return "\n".join(f"# {line}" for line in text.split("\n"))


def directives(options: SlurmOptions) -> list[str]:
    """Returns the options of sbatch, one a line."""
    gpu = f"{options.allocation.gpu_type}:" if options.allocation.gpu_type else ""
    memory = (
        0
        if options.allocation.exclusive and options.common.memory is None
        else options.common.memory
    )
    found: dict[str, object] = {
        "job-name": options.common.job,
        "nodes": options.common.nodes,
        "ntasks-per-node": 1,  # torchrun's agent, which starts the ranks
        "cpus-per-task": options.common.cpus,
        "gres": f"gpu:{gpu}{options.common.gpus}" if options.common.gpus else None,
        "mem": None if memory is None else f"{memory}G" if memory else "0",
        "time": options.allocation.time,
        "partition": options.allocation.partition,
        "account": options.allocation.account,
        "qos": options.allocation.qos,
        "constraint": options.allocation.constraint,
        "reservation": options.allocation.reservation,
        "output": options.records.output,
        "open-mode": "append",  # a job that comes back goes on in the same file
        "signal": f"B:USR1@{options.recovery.lead}",
    }
    lines = [f"--{name}={value}" for name, value in found.items() if value is not None]
    lines += ["--exclusive"] * options.allocation.exclusive
    lines.append("--requeue" if options.recovery.requeue else "--no-requeue")
    for word in options.allocation.raw():
        name, equals, value = word.partition("=")
        lines.append(f'{name}="{value}"' if " " in value else f"{name}{equals}{value}")
    return lines


def _variables(options: SlurmOptions) -> list[str]:
    folder = shlex.quote(options.records.logs.rstrip("/") or "/")
    return [
        "attempt=${SLURM_RESTART_COUNT:-0}",
        f'job={folder}/{options.common.job}-"$SLURM_JOB_ID"',
        "logs=$job/$attempt",
    ]


def _finish(options: SlurmOptions) -> str:
    by_hand = 'echo "yolodata: submit it again, and it resumes" >&2'
    return _replaced(
        _FINISH,
        MISTAKE=MISTAKE,
        PREEMPTED=PREEMPTED,
        PEER_LOST=PEER_LOST,
        RETRIES=options.recovery.retries,
        REQUEUE="requeue" if options.recovery.requeue else by_hand,
    )


def _setup(options: SlurmOptions) -> list[str]:
    if options.software.setup is None:
        return []
    return [
        "status=''",
        """trap '[ -n "$status" ] || echo "yolodata: setup has ended this job" >&2' EXIT""",
        "{ :",  # something, where it is a comment; in a condition, `set -e` would be ignored
        options.software.setup,
        "}",
        "status=$?",
        "set +eu  # of setup: the script looks at how steps end",
        'if [ "$status" != 0 ]; then',
        '    echo "yolodata: setup failed" >&2',
        f"    finish {MISTAKE}",
        "fi",
        "",
    ]


def _srun(options: SlurmOptions) -> list[str]:
    """What every step has: the words, quoted, one a line of the array."""
    words = [
        "srun",
        "--export=ALL",  # the script's environment, also where sbatch was given another
        "--mpi=none",
        "--mem=0",  # all that the job has, whatever another job's shell says
        "--ntasks-per-node=1",
    ]
    if options.software.container is not None and options.software.runtime == "pyxis":
        mounts = [":".join(filter(None, mount)) for mount in options.software.mount_list()]
        words += [f"--container-image={options.software.container}"]
        quoted = [shlex.quote(word) for word in words]
        here = f'--container-mounts="$PWD:$PWD{"".join("," + mount for mount in mounts)}"'
        return [*quoted, here, '--container-workdir="$PWD"']
    return [shlex.quote(word) for word in words]


def _program(options: SlurmOptions) -> list[str]:
    """What a step starts: the interpreter, in the container where one is asked for."""
    words = [options.software.python]
    if options.software.container is not None and options.software.runtime == "apptainer":
        binds = [
            f"--bind={':'.join(filter(None, mount))}" for mount in options.software.mount_list()
        ]
        nv = ["--nv"] if options.common.gpus else []
        words = [*nv, *binds, options.software.container, *words]
        here = ['--bind="$PWD"', '--pwd="$PWD"']
        return ["apptainer", "exec", *here, *(shlex.quote(word) for word in words)]
    return [shlex.quote(word) for word in words]


def _rendezvous(options: SlurmOptions) -> list[str]:
    """Has the first node find its address towards the second, for all."""
    if options.common.nodes == 1:
        return []
    chosen = [f"--interface={options.hardware.interface}"] if options.hardware.interface else []
    command = [
        *_srun(options),
        "--nodes=1",
        "--ntasks=1",
        "--cpus-per-task=1",
        "--gres=none",
        '--nodelist="${nodes[0]}"',
        *_program(options),
        "-m",
        "yolodata.launch.rendezvous",
        *chosen,
        '--port-from="$SLURM_JOB_ID"',
        "--",
        '"${other:-${nodes[1]}}"',
        '"${nodes[1]}"',
    ]
    return [
        'mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")',
        "other=$(scontrol show node \"${nodes[1]}\" | sed -n 's/.*NodeAddr=\\([^ ]*\\).*/\\1/p')",
        f"rendezvous=$({_folded(command)}) || finish $?",
        "rendezvous=${rendezvous##*$'\\n'}  # an image may begin with a greeting",
        'echo "yolodata: nodes ${nodes[*]}, attempt $attempt, rendezvous at $rendezvous" >&2',
        "",
    ]


def _training(options: SlurmOptions, arguments: tuple[str, ...]) -> list[str]:
    several = options.common.nodes > 1
    if options.common.cpus is None:
        cores = ["--cpu-bind=none"]  # all that the job has; bound to one task's, it would be one
    else:
        cores = ['--cpus-per-task="$SLURM_CPUS_PER_TASK"']  # not inherited since Slurm 22.05
    command = [
        *_srun(options),
        f"--nodes={options.common.nodes}",
        f"--ntasks={options.common.nodes}",
        *cores,
        *(
            ["--gpu-bind=none"] if options.common.gpus else []
        ),  # the agent's ranks share what the node has
        "--kill-on-bad-exit=0",  # rank 0 may be writing when another agent has ended
        "--wait=0",
        *_program(options),
        "-m",
        "yolodata.launch.agent",
        f"--nodes={options.common.nodes}",
        f"--processes={options.common.processes_a_node}",
        '--run="$SLURM_JOB_ID.$attempt"',
        '--logs="$logs"',
        f"--grace={max(30, options.recovery.lead - 30)}",
        *(['--rendezvous="$rendezvous"'] if several else []),
        *(
            [f"--interface={options.hardware.interface}"]
            if several and options.hardware.interface
            else []
        ),
        *(["--numa"] if options.common.gpus and options.hardware.numa else []),
        "--",
        *(shlex.quote(argument) for argument in arguments),
    ]
    return [
        f'[ "$asked" = 0 ] || finish {PREEMPTED}',
        _folded(command) + " < /dev/null &",
        "step=$!",
        '[ "$asked" = 0 ] || kill -USR1 "$step"  # it came meanwhile',
        "while :; do",
        "    woken=0",
        '    wait "$step"',
        "    status=$?",
        '    [ "$woken" = 1 ] || break  # a signal ended the wait, and not the step',
        "done",
        'finish "$status"',
    ]


def _folded(words: list[str]) -> str:
    """A command over several lines."""
    lines, line = [], ""
    for word in words:
        if line and len(line) + 1 + len(word) > 90:
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else word
    return " \\\n    ".join([*lines, line])
