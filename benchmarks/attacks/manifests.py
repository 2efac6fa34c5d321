"""Hostile files at an upload URL: `resume=auto` passes over them and takes the newest whole one.

Manifests with strange names, values and nesting, objects that are cut, flipped, missing or links.
What is brought has the bytes that were put; it lands in its folder; nothing else changes.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from random import Random
from typing import Any

from .children import trial
from .drawn import changes, state
from .mutate import damaged
from .resealed import _hostile_node
from .verdict import Verdict

GOAL = 3000
CASE = 20
_NAMES = ("00000-00000001.ckpt", "00000-00000002.ckpt", "00001-00000003.ckpt")
_STRANGE = ("..", "../x.ckpt", "/etc/passwd", ".", "", "a/../../x", "\x1b[31m.ckpt", "\0", "~",
            "99999-99999999-0000000000000000.ckpt", "a" * 5000, "x\ny.ckpt", "\ud800.ckpt",
            "..\\x", "-rf", "CON", ".packing", "best.pt/../../../x", "weights",
            "a/b/c.ckpt")  # fmt: skip


def warm() -> None:
    """Imports."""
    import fsspec.implementations.local  # noqa: F401

    from yolodata.train.checkpoint import object_store, uploader  # noqa: F401


def attack(random: Random, folder: Path) -> Verdict:
    """Puts files, damages what is there, and asks for the newest."""
    verdict = Verdict()
    for _ in range(CASE):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        verdict.tried += 1
        _one(random, folder, verdict)
        if verdict.findings:
            break
    return verdict


def _one(random: Random, folder: Path, verdict: Verdict) -> None:
    from yolodata.errors import YolodataError
    from yolodata.train.checkpoint.object_store import ObjectStore
    from yolodata.train.checkpoint.uploader import Backoff, download_newest

    there, back = folder / "there", folder / "run" / "weights"
    victim = folder / "victim"
    for each in (back, victim):
        each.mkdir(parents=True)
    (victim / "precious").write_bytes(b"precious")
    store, put = ObjectStore(str(there)), []
    for name in _NAMES:
        data = random.randbytes(3000)
        beside = {"weights/best.pt": io.BytesIO(data[:500]), "results.csv": io.BytesIO(data[:99])}
        files = {key: _real(folder, key, value) for key, value in beside.items()}
        with _real(folder, name, io.BytesIO(data)) as file:
            store.put(file, name, store.next_sequence(), files)
        for each in files.values():
            each.close()
        put.append((name, data))
    shutil.rmtree(folder / "made")
    said, spoiled = [], 0
    for _ in range(random.choice((1, 1, 2))):
        what, last = random.choice(_ATTACKS)(random, there, victim)
        said.append(what)
        spoiled = max(spoiled, last)
    what = "; ".join(said)
    before = state(folder, without=(back.parent,))
    trial(what)
    umask = os.umask(0o027)
    try:
        found = download_newest(
            str(there), back, beside=back.parent, backoff=Backoff(first=0.001, longest=0.01)
        )
    except YolodataError as error:
        verdict.found("half valid", f"{what}: nothing is resumed: {error}"[:3000])
        return
    except Exception as error:
        verdict.found("traceback", f"{what}: {type(error).__name__}: {error}"[:3000])
        return
    finally:
        os.umask(umask)
    if said := changes(before, state(folder, without=(back.parent,))):
        verdict.found("outside", f"{what}: {said}")
    if found is None:
        if spoiled < len(put):
            whole = len(put) - spoiled
            verdict.found("half valid", f"{what}: none is found, and {whole} are whole")
        return
    if found.is_symlink() or found.parent.resolve() != back.resolve():
        verdict.found("outside", f"{what}: {found}")
        return
    data = found.read_bytes()
    wanted = [(name, content) for name, content in put if content == data]
    if not wanted:
        verdict.found("undetected", f"{what}: {found.name} holds what was never put")
    elif put.index(wanted[0]) < len(put) - 1 - spoiled:
        verdict.found("half valid", f"{what}: {found.name} is not the newest whole one")
    if found.stat().st_mode & 0o777 != 0o640:
        verdict.found("outside", f"{what}: {found.name} has mode {found.stat().st_mode:o}")


def _real(folder: Path, name: str, content: io.BytesIO) -> Any:
    """A file with a descriptor, which is what an upload reads."""
    path = folder / "made" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.getvalue())
    return path.open("rb")


def _newest(there: Path) -> tuple[Path, Any]:
    """The manifest of the newest file that was put; None where an attack before spoiled it."""
    for file in there.glob("00000003-*.json"):
        try:
            content = json.loads(file.read_text()) if file.is_file() else None
            return file, content if isinstance(content, dict) else None
        except (ValueError, RecursionError):
            pass
    return there / "gone", None


# Attacks: each spoils what is there; returns what it did, and how many of the newest it spoils.


def _values(random: Random, there: Path, victim: Path) -> tuple[str, int]:
    """The newest manifest has other values."""
    file, content = _newest(there)
    if not content:
        return "manifest: gone", 1
    said = _hostile_node(random, content)
    try:
        file.write_text(json.dumps(content))
    except (ValueError, RecursionError):
        file.write_text("{" * 1000)
    return f"manifest: {said}", 1


def _bytes(random: Random, there: Path, victim: Path) -> tuple[str, int]:
    """A file there is damaged."""
    file = random.choice(sorted(there.glob("00000003-*")))
    if not file.is_file():
        return "gone", 1
    data, what = damaged(random, file.read_bytes())
    file.write_bytes(data)
    return f"{file.name[26:] or 'manifest'}: {what}", 1


def _newer(random: Random, there: Path, victim: Path) -> tuple[str, int]:
    """A manifest of a file that was never put, with a strange name."""
    name = random.choice(_STRANGE)
    checksum = f"{random.getrandbits(64):016x}"
    sequence = random.choice((4, 5, 99_999_999))
    stem = f"{sequence:08d}-{checksum}"
    facts = {
        "version": random.choice((1, 1, 1, 2, None, "1")), "name": name,
        "file": random.choice((f"{stem}-{name}", f"{stem}-x", f"../victim/{stem}-x", "\0")),
        "bytes": random.choice((8, -1, 10**30, "8", 1e9, None)), "xxh3_64": checksum,
        "beside": random.choice(([], None, [None], {"a": 1}, [[]] * 1000)),
    }  # fmt: skip
    text = json.dumps(facts)
    if random.random() < 0.3:
        text = random.choice(("[" * 200_000, '{"a":' * 100_000, "9" * 5000, "{}", "null", "\0", "",
                              '{"version": 1, "bytes": ' + "9" * 5000 + "}"))  # fmt: skip
    (there / f"{stem}.json").write_text(text)
    return f"a newer manifest of {name[:40]!r}: {text[:80]}", 0


def _strange_beside(random: Random, there: Path, victim: Path) -> tuple[str, int]:
    """The newest manifest has a file beside it that leads elsewhere."""
    file, content = _newest(there)
    beside = (content or {}).get("beside")
    others = [one for one in beside if isinstance(one, dict)] if isinstance(beside, list) else []
    if not others:
        return "manifest: gone", 1
    other = random.choice(others)
    name = random.choice((*_STRANGE, "../victim/precious", "../../victim/precious"))
    other["name"] = name
    file.write_text(json.dumps(content))
    return f"beside: {name[:60]!r}", 1


def _no_file(random: Random, there: Path, victim: Path) -> tuple[str, int]:
    """An object or a manifest is a folder, a link, or gone."""
    file = random.choice(sorted(there.glob("00000003-*")))
    if file.is_dir():
        return "gone", 1
    file.unlink()
    how = random.choice(("folder", "gone", "link", "itself", "FIFO"))
    if how == "folder":
        file.mkdir()
    elif how == "link":
        file.symlink_to(victim / "precious")
    elif how == "itself":
        file.symlink_to(file.name)
    elif how == "FIFO" and file.suffix == ".json":
        os.mkfifo(file)
    return f"{file.name[26:] or 'manifest'} is {how}", 1


def _planted_link(random: Random, there: Path, victim: Path) -> tuple[str, int]:
    """The folder to bring it to holds a link under the name."""
    run = there.parent / "run"
    place = run / random.choice(("weights/" + _NAMES[-1], "weights/best.pt", "results.csv"))
    place.unlink(missing_ok=True)
    place.symlink_to(victim / random.choice(("precious", "new")))
    return f"{place.name} is a link in the run's folder", 0


_ATTACKS = (_values, _bytes, _newer, _newer, _strange_beside, _no_file, _planted_link)


def _nothing_compared() -> None:
    """What arrives is not compared with its manifest."""
    from yolodata.train.checkpoint.object_store import ObjectStore

    ObjectStore._compare = lambda self, facts, file: None


def _gives_up() -> None:
    """A damaged manifest ends the search."""
    from yolodata.train.checkpoint import uploader

    class Other(Exception):
        pass

    uploader.DamagedObject = Other


PLANTS = {"downloads are not compared": _nothing_compared, "damage ends the search": _gives_up}
