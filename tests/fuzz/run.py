"""Runs the fuzzers: readers of Python under atheris, the native core under libFuzzer; and its
engine, with threads, under the thread sanitizer.

    python tests/fuzz/run.py [--minutes 10] [--json FILE] [TARGET ...]

The minutes are shared by the targets. Native ones need clang (its libFuzzer and sanitizers), those
of Python need `pip install atheris`. Every input that reaches something new is kept in build/fuzz/,
so that the next run goes on from there. An input that ends a target, breaks a promise, takes over
10 seconds or 2 GiB (4 GiB in Python) is a finding: its file is named, and the command returns 1.
Put a small one into `corpus/TARGET/` together with the mending: the tests try it from then on (see
README.md).
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from yolodata.bench import results

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = ROOT / "build" / "fuzz"
NATIVE = sorted(file.stem for file in (HERE / "native").glob("*.cpp"))
THREADS = sorted(file.stem for file in (HERE / "threads").glob("*.cpp"))
# Rooms of csrc/ that native targets are linked with.
ROOMS = ("core", "ingest", "jpeg", "plan", "render", "engine")

FLAGS = ["-std=c++20", "-g", "-O1", "-fno-omit-frame-pointer", "-ffp-contract=off"]
FLAGS += [f"-I{ROOT / 'csrc'}", "-pthread"]
# An array inside an object has a neighbour there, which the sanitizers take for its own.
GUIDED = [*FLAGS, "-fno-sanitize-recover=all", "-D_GLIBCXX_ASSERTIONS"]
GUIDED += ["-fsanitize=fuzzer-no-link,address,undefined,float-cast-overflow"]
# The thread sanitizer cannot stand the functions that choose an instruction set while loading.
RACES = [*FLAGS, "-fsanitize=thread", "-DYOLODATA_ONE_TARGET"]
# What a pragma in the source says, which clang passes over.
AVX2 = ["-mavx2", "-mfma", "-mbmi", "-mbmi2"]
AVX512 = [*AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "vl", "vbmi"))]


@dataclass(frozen=True)
class Result:
    """What came of one target."""

    target: str
    runs: int
    coverage: int  # edges or lines that were reached
    seconds: int
    findings: list[str]


def python_targets() -> list[str]:
    """Names of the targets in readers.py, which is not imported for that."""
    text = (HERE / "readers.py").read_text()
    return re.findall(r"^@target\ndef (\w+)", text, re.MULTILINE)


def build(targets: Iterable[str], flags: list[str], link: list[str], folder: Path) -> None:
    """Compiles what is out of date of native targets and the core, and links them."""
    compiler = os.environ.get("CLANGXX") or shutil.which("clang++")
    if compiler is None:
        sys.exit("native targets need clang++ (apt install clang, or name it in CLANGXX)")
    objects = WORK / folder.name
    objects.mkdir(parents=True, exist_ok=True)
    headers = [*(ROOT / "csrc").rglob("*.h"), *folder.glob("*.h"), Path(__file__)]
    newest = max(path.stat().st_mtime for path in headers)

    def run(command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"this command failed:\n{' '.join(command)}\n{done.stderr}")

    def compile(source: Path) -> str:
        into = objects / f"{source.parent.name}-{source.stem}.o"
        if not into.exists() or into.stat().st_mtime < max(newest, source.stat().st_mtime):
            more = {"avx2": AVX2, "avx512": AVX512}.get(source.stem.rpartition("_")[2], [])
            run([compiler, *flags, *more, "-c", str(source), "-o", str(into)])
        return str(into)

    core = [path for room in ROOMS for path in sorted((ROOT / "csrc" / room).glob("*.cpp"))]
    mains = [folder / f"{name}.cpp" for name in targets]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = list(pool.map(compile, [*core, *mains]))
    for source, main in zip(mains, compiled[len(core) :], strict=True):
        rest = compiled[: len(core)]
        run([compiler, *flags, *link, main, *rest, "-o", str(WORK / source.stem)])


def race(target: str, seconds: int) -> Result:
    """Runs a target of threads for so long, or until the sanitizer finds something."""
    seed = random.randrange(1 << 31)
    log = WORK / f"{target}.log"
    with log.open("wb") as file:
        command = [str(WORK / target), str(seconds), str(seed)]
        code = subprocess.run(command, stdout=file, stderr=file).returncode
    runs = re.findall(r"^(\d+) cases", log.read_text(errors="replace"), re.M)
    findings = [f"seed {seed} ended with {code}, see {log}"] if code else []
    return Result(target, int(runs[-1]) if runs else 0, 0, seconds, findings)


def fuzz(target: str, seconds: int) -> Result:
    """Runs one target for so long, or until it finds something."""
    grown, found = WORK / "corpus" / target, WORK / "found"
    grown.mkdir(parents=True, exist_ok=True)
    found.mkdir(exist_ok=True)
    before = set(found.glob(f"{target}-*"))
    native = target in NATIVE
    command = [str(WORK / target)] if native else [sys.executable, HERE / "guided.py", target]
    command += [
        f"-max_total_time={seconds}",
        "-timeout=10",
        "-max_len=4096",
        "-print_final_stats=1",
    ]
    command += [f"-rss_limit_mb={2048 if native else 4096}", f"-artifact_prefix={found}/{target}-"]
    command += [str(grown), *(str(path) for path in [HERE / "corpus" / target] if path.is_dir())]
    with (WORK / f"{target}.log").open("wb") as log:
        code = subprocess.run(command, stdout=log, stderr=log, cwd=WORK).returncode
    said = (WORK / f"{target}.log").read_text(errors="replace")
    findings = sorted(str(path) for path in set(found.glob(f"{target}-*")) - before)
    if code and not findings:
        findings = [f"ended with {code}, see {WORK / f'{target}.log'}"]
    runs = re.findall(r"number_of_executed_units: (\d+)", said) or re.findall(
        r"^#(\d+)", said, re.M
    )
    coverage = re.findall(r"cov: (\d+)", said)
    return Result(target, int(runs[-1]), int(coverage[-1]) if coverage else 0, seconds, findings)


def main() -> int:
    """Runs the command line."""
    everything = [*NATIVE, *THREADS, *python_targets()]
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(everything))
    parser.add_argument("--minutes", type=float, default=10, help="for all targets together")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    targets = args.targets or everything
    if unknown := set(targets) - set(everything):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; {', '.join(everything)}")
    if guided := [name for name in targets if name in NATIVE]:
        build(guided, GUIDED, ["-fsanitize=fuzzer"], HERE / "native")
    if threads := [name for name in targets if name in THREADS]:
        build(threads, RACES, [], HERE / "threads")
    seconds = max(int(60 * args.minutes / len(targets)), 1)
    done = []
    for name in targets:
        done.append(race(name, seconds) if name in THREADS else fuzz(name, seconds))
        last = done[-1]
        print(
            f"{name:14} {last.runs:>10,} inputs, {last.coverage:>5} reached, "
            f"{len(last.findings)} findings",
            flush=True,
        )
        for path in last.findings:
            print(f"    {path}")
    if args.json is not None:
        about = results.about("fuzz", minutes=args.minutes)
        results.save(args.json, about | {"targets": [asdict(one) for one in done]})
    return int(any(result.findings for result in done))


if __name__ == "__main__":
    sys.exit(main())
