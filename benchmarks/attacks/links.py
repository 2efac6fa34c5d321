"""Links, FIFOs and foreign files planted at every path that a command opens or makes.

The paths are those that a traced, undisturbed run of the command asked for (shim.c). Something is
planted at one of them, then the command runs: it may refuse or replace it. Nothing outside its
output folder changes, it does not wait, and what it makes is what it makes undisturbed.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import SimpleNamespace

import yaml

from . import shim
from .children import Ended, in_child, run_command, trial
from .drawn import PACK, changes, contents, lay_out, once, packed, source, state
from .judge import copy
from .runs import PRICES, run_files
from .said import ended_well
from .verdict import Verdict

GOAL = 3000
CASE = 10
_PLANTED = ("link to a file", "link to a folder", "link to nothing", "FIFO", "hard link", "folder",
            "link to /dev/zero", "link to itself")  # fmt: skip


def needs() -> str:
    """Says what keeps this attack from running; "" if nothing does."""
    return shim.problem()


@dataclass(frozen=True)
class _Command:
    """A command with what is there before it.

    Attributes:
        run: runs it in a folder; returns the exit status.
        before: prepares the folder that it runs in, beside `source/`.
        writes: paths that it may change.
        allowed: exit status.
        repeats: it writes the same bytes each time.
    """

    run: Callable[[Path], int]
    before: Callable[[Path], None] = lambda folder: None
    writes: tuple[str, ...] = ("out",)
    allowed: tuple[int, ...] = (0, 1, 2)
    repeats: bool = True


def _packed(folder: Path) -> None:
    lay_out(_states()["packed"], folder / "out")


def _unfinished(folder: Path) -> None:
    lay_out(_states()["unfinished"], folder / "out")


def _relabelled(folder: Path) -> None:
    _packed(folder)
    for k in range(0, 8, 2):
        file = folder / "source" / "labels" / "train" / f"{k}.txt"
        file.write_text("1 .5 .5 .3 .3\n")
        os.utime(file, (1e9, 1e9))  # a part of the dataset's identity


def _packed_by_trainer(folder: Path) -> None:
    lay_out(_states()["by a trainer"], folder / "source.yolodata")


def _packed_twice(folder: Path) -> None:
    _relabelled(folder)
    lay_out(_states()["packed"], folder / "other")


def _ran_elsewhere(folder: Path) -> None:
    lay_out(run_files(), folder / "out")
    (folder / "prices.yaml").write_text(PRICES)


def _packed_as_files(folder: Path) -> None:
    shutil.copytree(packed("detect", "jpeg"), folder / "out")


def _words(*words: str) -> Callable[[Path], int]:
    def run(folder: Path) -> int:
        from yolodata import cli

        return cli.main(list(words))

    return run


def _with_ultralytics(*words: str) -> Callable[[Path], int]:
    """A command that asks Ultralytics for its arguments; see `_as_files`."""

    def run(folder: Path) -> int:
        import ultralytics.cfg  # noqa: F401

        trial()  # the import took seconds
        return _words(*words)(folder)

    return run


def _trainer(folder: Path) -> int:
    """What a trainer does first: it packs beside the dataset, under a name that anybody knows."""
    from yolodata.errors import YolodataError
    from yolodata.ultralytics.auto_pack import packed as pack_for_trainer
    from yolodata.ultralytics.settings import Settings

    source = folder / "source"
    data = {"yaml_file": str(source / "data.yaml"), "path": str(source)}
    try:
        pack_for_trainer(data, "train", 64, Settings(codec="raw", workers=2), single_cls=False,
                         task="detect", show=False).close()  # fmt: skip
    except YolodataError as error:
        print(f"yolodata: {error}", file=sys.stderr)
        return 2
    return 0


def _as_files(folder: Path) -> int:
    """What validation with Ultralytics' own loader needs.

    Imported here alone: Ultralytics changes how Pillow opens files, for the whole process.
    """
    from yolodata.errors import YolodataError
    from yolodata.ultralytics.as_files import files_of

    trial()  # the import took seconds
    try:
        files_of(folder / "out", "train")
    except YolodataError as error:
        print(f"yolodata: {error}", file=sys.stderr)
        return 2
    return 0


def _run_folder(folder: Path) -> int:
    """What a training run writes and reads itself; `refuse_links` is for what Ultralytics writes.

    Returns:
        1 where something was not written, or not believed, and that was said.
    """
    import torch

    from yolodata.errors import YolodataError
    from yolodata.provenance import manifest
    from yolodata.telemetry import journal
    from yolodata.telemetry.metrics.totals import Totals
    from yolodata.telemetry.rows import Rows
    from yolodata.telemetry.step_row import COLUMNS, StepRow, read_steps
    from yolodata.train.checkpoint import file, run_folder
    from yolodata.ultralytics.settings import Settings

    run, warned = folder / "out", _Warned()
    logging.getLogger("yolodata").addHandler(warned)
    journal.time = SimpleNamespace(time=float)  # what is written is the same each time
    at = {"epoch": 1, "step": 2, "state": torch.zeros(8)}
    trainer = SimpleNamespace(
        wdir=run / "weights", last=run / "weights" / "last.pt", best=run / "weights" / "best.pt"
    )
    try:
        Settings.of_run(run)
        manifest.read(run)
        manifest.RunManifest.from_json(run_files()[manifest.FILE]).write(run)
        Rows(run / "steps.csv", COLUMNS).append(StepRow(1, 1, 1.0, 1, 1.0, 1.0, 1.0).line())
        journal.Journal(run).add("start")
        totals = Totals(run / "metrics" / "totals.rank0.json")
        totals.add({"steps": 1})
        totals.save()
        read_steps(run / "steps.csv")
        journal.read_journal(run)
        made = file.write(run / "checkpoints", at)
        run_folder.note_evaluated(made)
        run_folder.is_evaluated(made)
        run_folder.find_newest(run, None)
        run_folder.remove_unfinished_weights(run / "weights")
        with run_folder.weights_whole(trainer):
            torch.save(at, trainer.last)
        run_folder.write_results(run / "results.csv", "epoch\n1\n")
        run_folder.keep_epochs(run / "results.csv", 0)
        run_folder.files_beside(run)
        Settings().save(run)
    except (YolodataError, OSError) as error:
        print(f"yolodata: {error}", file=sys.stderr)
        return 2
    return int(warned.said)


class _Warned(logging.Handler):
    """Knows whether something was logged that is more than information."""

    said = False

    def emit(self, record: logging.LogRecord) -> None:
        self.said = self.said or record.levelno >= logging.WARNING


def _started(folder: Path) -> None:
    (folder / "out").mkdir()


def _ran(folder: Path) -> None:
    lay_out(_states()["ran"], folder / "out")


_SHARD = ("shard", "source/data.yaml", "out", *PACK)
_TRAINERS = ("source.yolodata", "cache")
COMMANDS: dict[str, _Command] = {
    "shard": _Command(_words(*_SHARD)),
    "shard, jpeg": _Command(_words(*_SHARD, "--codec", "jpeg")),
    "shard, continued": _Command(_words(*_SHARD), _unfinished),
    "shard, there already": _Command(_words(*_SHARD), _packed),
    "shard, overwriting": _Command(_words(*_SHARD, "--overwrite", "--codec", "jpeg"), _packed),
    "labels": _Command(_words("labels", "out", "source/data.yaml"), _relabelled),
    "verify": _Command(_words("verify", "out", "--full", "--workers", "1"), _packed, ()),
    "info": _Command(_words("info", "out"), _packed, ()),
    "view": _Command(_words("view", "out/train", "--out", "pictures/look.png", "--count", "2"),
                     _packed, ("pictures",)),
    "diff": _Command(_words("diff", "out", "other"), _packed_twice, ()),
    "info of a run": _Command(_words("info", "out"), _ran_elsewhere, ()),
    "cost": _Command(_words("cost", "out", "--prices", "prices.yaml", "--json", "made/cost.json"),
                     _ran_elsewhere, ("made",)),
    "doctor of a run": _Command(
        _with_ultralytics("doctor", "out", "--json", "made/a.json", "--html", "made/a.html",
                          "--apply", "made/a.yaml"),
        _ran_elsewhere, ("made",), repeats=False,
    ),
    "launch": _Command(
        _with_ultralytics("launch", "slurm", "train", "model=yolo26n.yaml", "data=source/data.yaml",
                          "out=made/job.sh"),
        writes=("made",),
    ),
    "a trainer packs": _Command(_trainer, writes=_TRAINERS),
    "a trainer opens": _Command(_trainer, _packed_by_trainer, _TRAINERS),
    "cache ls": _Command(_words("cache", "ls", "source.yolodata"), _packed_by_trainer, _TRAINERS),
    "cache clean": _Command(_words("cache", "clean", "source.yolodata", "--yes"),
                            _packed_by_trainer, _TRAINERS),
    "a run begins": _Command(_run_folder, _started),
    "a run goes on": _Command(_run_folder, _ran),
    "as files": _Command(_as_files, _packed_as_files),
}  # fmt: skip


@dataclass
class _Trace:
    """What a command does when nobody disturbs it.

    Attributes:
        paths: relative, that it opened, made or removed.
        after: files of the output folder when it ended.
        status: how it ended.
    """

    paths: list[str] = field(default_factory=list)
    after: dict[str, bytes] = field(default_factory=dict)
    status: int = 0


def warm() -> None:
    """Imports, and traces every command."""
    import yolodata.train.checkpoint.run_folder
    import yolodata.view  # noqa: F401
    from yolodata.ingest import cache_cli, pack_cli, packing, relabel  # noqa: F401
    from yolodata.shards import verify_cli  # noqa: F401
    from yolodata.ultralytics import auto_pack, settings  # noqa: F401

    packed("detect", "jpeg")
    run_files()
    _states()
    for name in COMMANDS:
        _trace(name)


@functools.cache
def _states() -> dict[str, dict[str, bytes]]:
    """Output folders of a finished and of an unfinished pack, and of one by a trainer."""
    place = _place()
    shutil.copytree(_source(), place / "source")
    whole = run_command(list(_SHARD), place)
    made = {"packed": contents(place / "out")}
    _run(_trainer, place)
    made["by a trainer"] = contents(place / "source.yolodata")
    shutil.rmtree(place / "out")
    _started(place)
    _run(_run_folder, place)
    made["ran"] = contents(place / "out")
    shutil.rmtree(place / "out")
    for k in range(400):
        shutil.rmtree(place / "out", ignore_errors=True)
        run_command(list(_SHARD), place, kill_after=whole.seconds * (0.3 + 0.6 * (k % 40) / 40))
        found = contents(place / "out")
        if any(".packing/part" in name for name in found):
            return {**made, "unfinished": found}
        (place / "out").mkdir(exist_ok=True)
    raise RuntimeError(f"no pack was unfinished: {whole.how}")


def _place() -> Path:
    """Makes the one folder that all commands run in, empty: datasets say where they come from."""
    place = once() / "links"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    return place


def _lay_out(command: _Command, folder: Path) -> None:
    """Makes the folder that a command runs in, and what nobody may touch."""
    shutil.copytree(_source(), folder / "source")
    command.before(folder)
    victim = folder / "victim"
    (victim / "folder" / "train").mkdir(parents=True)
    for name in ("file", "folder/lock", "folder/precious", "folder/part-00000", "folder/settings",
                 "folder/dataset.json", "folder/shard-00000.safetensors", "folder/.a.tmp",
                 "folder/train/dataset.json", "folder/train/labels.safetensors"):  # fmt: skip
        (victim / name).write_bytes(b"precious " * 100)
        os.utime(victim / name, (1e9, 1e9))


@functools.cache
def _source() -> Path:
    place = once() / "links-source"
    source(place, images=24)
    data = yaml.safe_load((place / "data.yaml").read_text())
    (place / "data.yaml").write_text(yaml.safe_dump(data))
    return place


@functools.cache
def _trace(name: str) -> _Trace:
    command = COMMANDS[name]
    folder = _place()
    _lay_out(command, folder)
    log = once() / "links-log"
    log.unlink(missing_ok=True)

    ended = _run(command.run, folder, log)
    if ended.status not in (0, 1):
        raise RuntimeError(f"{name} failed undisturbed: {ended.how}")
    paths = {os.path.relpath(path, folder) for _, path in shim.read_log(log)}
    # Names that nobody can guess cannot be planted; nor can a folder that the user named.
    paths = {p for p in paths if p != "." and not p.endswith(".tmp") and "/." + "tmp" not in p}
    paths -= {"source", "source/images", "source/labels", "victim"}
    if not paths:
        raise RuntimeError(f"{name} opened nothing, says the trace")
    return _Trace(sorted(paths), _output(command, folder), ended.status)


def _run(run: Callable[[Path], int], folder: Path, log: Path | None = None) -> Ended:
    """Runs a command in a folder, with a user's cache of its own."""

    def action() -> int:
        os.chdir(folder)
        os.environ["YOLODATA_CACHE"] = str(folder / "cache")
        with shim.logged(folder, log) if log else contextlib.nullcontext():
            return run(folder)

    return in_child(action, group=False)


def _output(command: _Command, folder: Path) -> dict[str, bytes]:
    return {f"{w}/{n}": d for w in command.writes for n, d in contents(folder / w).items()}


def attack(random: Random, folder: Path) -> Verdict:
    """Plants, and runs commands."""
    verdict = Verdict()
    for _ in range(CASE):
        place = _place()
        verdict.tried += 1
        _plant(random, place, verdict)
        if verdict.findings:
            copy(place, folder)
            break
    return verdict


def _plant(random: Random, folder: Path, verdict: Verdict) -> None:
    name = random.choice(sorted(COMMANDS))
    command, trace = COMMANDS[name], _trace(name)
    _lay_out(command, folder)
    said, planted = [], []
    for _ in range(random.choice((1, 1, 1, 2))):
        path = random.choice(trace.paths)
        # Ultralytics has read the YAML before a trainer packs.
        if command.run is _trainer and path == "source/data.yaml":
            continue
        kind = random.choice(_PLANTED)
        # A folder that the user names may be a link, or empty: it is the user's own.
        if path in command.writes and (kind.startswith("link to a") or kind == "folder"):
            continue
        if _put(folder, folder / path, kind):
            said.append(f"{path} is a {kind}")
            planted.append(path)
    what = f"{name}: {', '.join(said)}"
    trial(what)
    writes = tuple(folder / each for each in command.writes)
    before = state(folder, without=writes)
    ended = _run(command.run, folder)
    good = ended_well(verdict, ended, what, allowed=command.allowed)
    if found := changes(before, state(folder, without=writes)):
        verdict.found("outside", f"{what}: {found}: {ended.how}")
    # A source with something planted in it may have fewer images.
    if (
        good
        and ended.status == 0
        and trace.status == 0
        and command.repeats
        and not any(each.startswith("source") for each in said)
        and "there already" not in name
    ):
        after = _output(command, folder)
        # What was counted so far, or noted of pictures, is gone where something else lies in its
        # place; a data.yaml that is not ours stays; a list that is not written is said.
        gone = {path for path in planted if "/totals.rank" in path}
        gone |= {"out/notes.json"} & {*planted} if name == "labels" else set()
        gone |= {"out/data.yaml"} & {*planted}
        gone |= {"cache/packed.txt"} if "is not written" in ended.said else set()
        gone |= {"out/data.yaml"} if {"out/train", "out/val"} & {*planted} else set()
        found = {n for n, data in trace.after.items() if after.get(n, data) != data}
        lost = sorted(found - gone)
        if lost:
            verdict.found("half valid", f"{what}: status 0, but {lost} differ: {ended.how}")


def _put(folder: Path, path: Path, kind: str) -> bool:
    """Plants something in the place of what is there; whether that was possible."""
    victim = folder / "victim"
    if victim in path.parents or path == victim:
        return False
    with contextlib.suppress(OSError):
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.is_dir():
            # A source without its folder is another one; so is what was in an emptied folder.
            if "source" in path.parts or (kind == "folder" and any(path.iterdir())):
                return False
            shutil.rmtree(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "FIFO":
            os.mkfifo(path)
        elif kind == "hard link":
            os.link(victim / "file", path)
        elif kind == "folder":
            path.mkdir()
        else:
            targets = {
                "link to a file": victim / "file", "link to a folder": victim / "folder",
                "link to nothing": victim / "new", "link to /dev/zero": Path("/dev/zero"),
                "link to itself": Path(path.name),
            }  # fmt: skip
            path.symlink_to(targets[kind])
    except OSError:  # something was planted above it
        return False
    return True


def _follows() -> None:
    """Links in a folder that is written to are followed."""
    os.O_NOFOLLOW = 0
    stat = os.stat

    def following(path, *, dir_fd=None, follow_symlinks=True):  # type: ignore[no-untyped-def]
        # What the attack itself looks at has no descriptor.
        return stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks or dir_fd is not None)

    os.stat = following


def _waits() -> None:
    """Files are opened without asking what they are."""
    os.O_NONBLOCK = 0


PLANTS = {"links are followed": _follows, "FIFOs are waited for": _waits}
